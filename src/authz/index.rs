//! Rules of one action, found by who may satisfy them.

use super::{
    Attributes, PolicyRule,
    predicate::{Demand, Predicate, demands},
};
use crate::model::{Action, Clause, Match, Rule};
use std::{
    collections::{BTreeSet, HashMap, hash_map::RandomState},
    hash::BuildHasher,
    sync::Arc,
};

/// Rules, of which a check looks only at those that its peer or its path may satisfy: with ten
/// thousand policies that each name one principal, at the one that names it.
#[derive(Debug)]
pub(super) struct RuleIndex {
    rules: Box<[CompiledRule]>,
    // The hash of what a rule demands, and its row; a rule is here once for each of its alternatives.
    // Two demands may share a hash: every rule that is found is asked in full.
    keyed: Box<[(u64, u32)]>,
    // Rules that demand nothing that can be looked up.
    anyone: Box<[u32]>,
    // Rules that are looked up by path.
    by_path: Box<[u32]>,
    // Lengths of the prefixes among those paths.
    lengths: Box<[usize]>,
    hasher: RandomState,
}

/// A [`RuleIndex`] that is being made.
#[derive(Default)]
pub(super) struct Builder {
    rules: Vec<CompiledRule>,
    keyed: Vec<(u64, u32)>,
    anyone: Vec<u32>,
    by_path: Vec<u32>,
    lengths: BTreeSet<usize>,
    counts: HashMap<u64, usize>,
    hasher: RandomState,
}

#[derive(Debug)]
struct CompiledRule {
    name: Arc<PolicyRule>,
    clauses: Box<[Matches]>,
}

/// The matches of a clause, each with its terms.
type Matches = Box<[Box<[Predicate]>]>;

impl Builder {
    /// Adds a rule behind the others.
    pub(super) fn push(&mut self, name: PolicyRule, rule: &Rule, action: Action) {
        let row = self.rules.len() as u32;
        // By the clause whose alternatives fewest rules have in common so far.
        let hashed = clauses(rule).map(|demands| demands.iter().map(|demand| (self.hasher.hash_one(demand), *demand)).collect::<Vec<_>>());
        let crowd = |demands: &Vec<(u64, Demand<'_>)>| demands.iter().filter_map(|(hash, _)| self.counts.get(hash)).max().copied();
        match hashed.min_by_key(crowd) {
            None => self.anyone.push(row),
            Some(demands) => {
                for (hash, demand) in &demands {
                    self.keyed.push((*hash, row));
                    *self.counts.entry(*hash).or_default() += 1;
                    if let Demand::PathPrefix(prefix) = demand {
                        self.lengths.insert(prefix.len());
                    }
                }
                if demands.iter().any(|(_, demand)| matches!(demand, Demand::Path(_) | Demand::PathPrefix(_))) {
                    self.by_path.push(row);
                }
            }
        }
        self.rules.push(CompiledRule::new(name, rule, action));
    }

    /// The index; `None` without rules, which is most of them.
    pub(super) fn finish(mut self) -> Option<Box<RuleIndex>> {
        self.keyed.sort_unstable();
        self.keyed.dedup();
        let index = RuleIndex {
            rules: self.rules.into(),
            keyed: self.keyed.into(),
            anyone: self.anyone.into(),
            by_path: self.by_path.into(),
            lengths: self.lengths.into_iter().collect(),
            hasher: self.hasher,
        };
        (!index.rules.is_empty()).then(|| Box::new(index))
    }
}

impl RuleIndex {
    /// The first rule that matches, in the order they were added.
    pub(super) fn first(&self, attributes: &Attributes<'_>) -> Option<&Arc<PolicyRule>> {
        let mut best = self.anyone.iter().copied().find(|row| self.matches(*row, attributes));
        let is_better = |row: u32, best: Option<u32>| best.is_none_or(|best| row < best) && self.matches(row, attributes);
        match attributes.http {
            Some(_) => {}
            None => best = self.by_path.iter().copied().find(|row| is_better(*row, best)).or(best),
        }
        self.each_demand(attributes, |rows| best = rows.iter().map(|(_, row)| *row).find(|row| is_better(*row, best)).or(best));
        best.and_then(|row| self.rules.get(row as usize)).map(|rule| &rule.name)
    }

    /// All rules that match, in the order they were added.
    pub(super) fn all(&self, attributes: &Attributes<'_>) -> impl Iterator<Item = &Arc<PolicyRule>> {
        let mut rows: Vec<u32> = self.anyone.to_vec();
        if attributes.http.is_none() {
            rows.extend(&self.by_path);
        }
        self.each_demand(attributes, |found| rows.extend(found.iter().map(|(_, row)| *row)));
        rows.retain(|row| self.matches(*row, attributes));
        rows.sort_unstable();
        rows.dedup();
        rows.into_iter().filter_map(|row| self.rules.get(row as usize)).map(|rule| &rule.name)
    }

    pub(super) fn len(&self) -> usize {
        self.rules.len()
    }

    fn matches(&self, row: u32, attributes: &Attributes<'_>) -> bool {
        self.rules.get(row as usize).is_some_and(|rule| rule.matches(attributes))
    }

    /// Visits the rules by each demand that the peer or the request meets, each list in order of rows.
    fn each_demand<'a>(&'a self, attributes: &Attributes<'_>, mut visit: impl FnMut(&'a [(u64, u32)])) {
        if self.keyed.is_empty() {
            return;
        }
        let mut look = |demand: Demand<'_>| {
            let hash = self.hasher.hash_one(demand);
            let from = self.keyed.partition_point(|(known, _)| *known < hash);
            let rest = self.keyed.get(from..).unwrap_or_default();
            let count = rest.iter().take_while(|(known, _)| *known == hash).count();
            visit(rest.get(..count).unwrap_or_default());
        };
        if let Some(peer) = attributes.identity {
            look(Demand::Principal(peer.principal()));
            look(Demand::Namespace(peer.namespace()));
        }
        if let Some(http) = attributes.http.filter(|_| !self.by_path.is_empty()) {
            let path = http.path_only();
            look(Demand::Path(path));
            let bytes = path.as_bytes();
            self.lengths.iter().filter_map(|length| bytes.get(..*length)).for_each(|prefix| look(Demand::PathPrefix(prefix)));
        }
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

/// For each clause that can be looked up, what must be met to satisfy it: one of these.
fn clauses(rule: &Rule) -> impl Iterator<Item = Vec<Demand<'_>>> {
    let asking = rule.clauses.iter().filter(|clause| !clause.matches.is_empty());
    asking.flat_map(|clause| (0..Demand::KINDS).filter_map(move |kind| of_clause(clause, kind)))
}

/// What the matches of a clause demand, if all do so in the same way.
fn of_clause(clause: &Clause, kind: usize) -> Option<Vec<Demand<'_>>> {
    let mut all = Vec::new();
    // A match without terms is false and needs nothing.
    for matching in clause.matches.iter().filter(|m| !m.terms.is_empty()) {
        let mut terms = matching.terms.iter().filter(|term| !term.negated);
        all.extend(terms.find_map(|term| demands(&term.test, kind))?);
    }
    Some(all)
}
