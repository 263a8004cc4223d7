//! Rules of one action, found by who may satisfy them.

use super::{
    Attributes, PolicyRule,
    predicate::{Predicate, exact_namespaces, exact_principals},
};
use crate::model::{Action, Clause, Identity, Match, Name, Rule, Test};
use std::{collections::HashMap, sync::Arc};

/// Rules, of which a check looks only at those that its peer may satisfy: with ten thousand
/// policies that each name one principal, at the one that names it.
#[derive(Debug, Default)]
pub(super) struct RuleIndex {
    // The lists below hold ascending indices into it.
    rules: Vec<CompiledRule>,
    by_principal: HashMap<Name, Vec<usize>>,
    by_namespace: HashMap<Name, Vec<usize>>,
    anyone: Vec<usize>,
}

#[derive(Debug)]
struct CompiledRule {
    name: Arc<PolicyRule>,
    clauses: Box<[Matches]>,
}

/// The matches of a clause, each with its terms.
type Matches = Box<[Box<[Predicate]>]>;

impl RuleIndex {
    /// Adds a rule behind the others.
    pub(super) fn push(&mut self, name: PolicyRule, rule: &Rule, action: Action) {
        let row = self.rules.len();
        if let Some(principals) = keys(rule, exact_principals) {
            principals.into_iter().for_each(|key| self.by_principal.entry(key).or_default().push(row));
        } else if let Some(namespaces) = keys(rule, exact_namespaces) {
            namespaces.into_iter().for_each(|key| self.by_namespace.entry(key).or_default().push(row));
        } else {
            self.anyone.push(row);
        }
        self.rules.push(CompiledRule::new(name, rule, action));
    }

    /// The first rule that matches, in the order they were added.
    pub(super) fn first(&self, attributes: &Attributes<'_>) -> Option<&Arc<PolicyRule>> {
        let candidates = self.candidates(attributes);
        let firsts = candidates.into_iter().filter_map(|rows| rows.iter().copied().find(|row| self.matches(*row, attributes)));
        firsts.min().and_then(|row| self.rules.get(row)).map(|rule| &rule.name)
    }

    /// All rules that match.
    pub(super) fn all<'a>(&'a self, attributes: &'a Attributes<'_>) -> impl Iterator<Item = &'a Arc<PolicyRule>> {
        let rows = self.candidates(attributes).into_iter().flatten().copied();
        rows.filter(|row| self.matches(*row, attributes)).filter_map(|row| self.rules.get(row)).map(|rule| &rule.name)
    }

    pub(super) fn len(&self) -> usize {
        self.rules.len()
    }

    fn matches(&self, row: usize, attributes: &Attributes<'_>) -> bool {
        self.rules.get(row).is_some_and(|rule| rule.matches(attributes))
    }

    fn candidates(&self, attributes: &Attributes<'_>) -> [&[usize]; 3] {
        let by = |peer: &Identity| {
            let principal = self.by_principal.get(peer.principal()).map(Vec::as_slice).unwrap_or_default();
            let namespace = self.by_namespace.get(peer.namespace()).map(Vec::as_slice).unwrap_or_default();
            [principal, namespace, &self.anyone]
        };
        attributes.identity.map_or([&[], &[], &self.anyone], by)
    }
}

impl CompiledRule {
    fn new(name: PolicyRule, rule: &Rule, action: Action) -> Self {
        let predicates = |m: &Match| m.terms.iter().map(|term| Predicate::compile(term, action)).collect();
        let clause = |clause: &Clause| clause.matches.iter().map(predicates).collect();
        Self { name: Arc::new(name), clauses: rule.clauses.iter().map(clause).collect() }
    }

    fn matches(&self, attributes: &Attributes<'_>) -> bool {
        self.clauses.iter().all(|clause| {
            clause.is_empty() || clause.iter().any(|terms| !terms.is_empty() && terms.iter().all(|term| term.holds(attributes)))
        })
    }
}

/// The keys that a peer must have one of to satisfy the rule: from a clause of which every match
/// demands some. `None` when there is no such clause.
fn keys(rule: &Rule, demanded: impl Fn(&Test) -> Option<Vec<Name>>) -> Option<Vec<Name>> {
    let of_match = |m: &Match| m.terms.iter().filter(|term| !term.negated).find_map(|term| demanded(&term.test));
    // A match without terms is false and needs no key.
    let of_clause =
        |clause: &Clause| -> Option<Vec<Vec<Name>>> { clause.matches.iter().filter(|m| !m.terms.is_empty()).map(of_match).collect() };
    let mut keys = rule.clauses.iter().filter(|clause| !clause.matches.is_empty()).find_map(of_clause)?.concat();
    keys.sort_unstable();
    keys.dedup();
    Some(keys)
}
