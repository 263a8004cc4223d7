//! All policies that apply to one destination on one layer, compiled.

use super::{Attributes, Layer, PolicyRule, Reason, Verdict, index::RuleIndex};
use crate::model::{Action, AuthorizationPolicy};
use std::sync::Arc;

/// Compiled policies. Immutable; a check neither blocks nor allocates, unless there are dry-run hits
/// to report or a request repeats a header that a rule asks for.
#[derive(Debug, Default)]
pub struct Ruleset {
    enforced: Policies,
    dry_run: Policies,
}

#[derive(Debug, Default)]
struct Policies {
    invalid: Vec<Arc<PolicyRule>>,
    deny: RuleIndex,
    // ALLOW policies themselves: one without any rule that can match refuses everything.
    allowing: Vec<Arc<PolicyRule>>,
    // All of them as one name, for when none of their rules matches.
    unmatched: Option<Arc<PolicyRule>>,
    allow: RuleIndex,
}

impl Ruleset {
    /// Compiles the policies for a layer, in the order in which rules are named when several match.
    ///
    /// A policy that could not be understood refuses everything, whatever its action: it may have
    /// been a DENY, or the one ALLOW that made the default a refusal. Only one that is dry-run as
    /// well is merely reported, for it was never meant to refuse anything.
    pub fn compile<'a>(policies: impl IntoIterator<Item = &'a AuthorizationPolicy>, layer: Layer) -> Self {
        let mut ruleset = Self::default();
        for policy in policies {
            let half = if policy.dry_run { &mut ruleset.dry_run } else { &mut ruleset.enforced };
            half.push(policy, layer);
        }
        ruleset.enforced.unmatched = PolicyRule::together(&ruleset.enforced.allowing).map(Arc::new);
        ruleset
    }

    /// Judges a connection or a request.
    pub fn check(&self, attributes: &Attributes<'_>) -> Verdict {
        let reason = self.enforced.judge(attributes);
        let dry_run = if self.dry_run.is_empty() { Vec::new() } else { self.shadow(attributes, &reason) };
        Verdict { allowed: reason.allows(), reason, dry_run }
    }

    /// The dry-run rules that would have refused.
    fn shadow(&self, attributes: &Attributes<'_>, reason: &Reason) -> Vec<Arc<PolicyRule>> {
        let shadow = &self.dry_run;
        let mut refusing: Vec<_> = shadow.invalid.iter().chain(shadow.deny.all(attributes)).cloned().collect();
        let allowed = || match reason {
            Reason::Allowed(_) => true,
            Reason::NoPolicy | Reason::NotAllowed(_) => false,
            // The enforced ALLOW rules were not asked.
            Reason::Denied(_) | Reason::Invalid(_) => self.enforced.allow.first(attributes).is_some(),
        };
        if !shadow.allowing.is_empty() && shadow.allow.first(attributes).is_none() && !allowed() {
            refusing.extend(shadow.allowing.iter().cloned());
        }
        refusing
    }

    /// How many rules it holds, invalid policies counted as one rule each.
    pub fn len(&self) -> usize {
        self.enforced.len() + self.dry_run.len()
    }

    /// Whether every check passes with [`Reason::NoPolicy`]. Not the same as `len() == 0`: an ALLOW
    /// policy without rules refuses everything.
    pub fn is_empty(&self) -> bool {
        self.enforced.is_empty() && self.dry_run.is_empty()
    }
}

impl Policies {
    fn push(&mut self, policy: &AuthorizationPolicy, layer: Layer) {
        if policy.invalid.is_some() {
            self.invalid.push(Arc::new(PolicyRule::whole(&policy.name)));
            return;
        }
        let rules = match policy.action {
            Action::Deny => &mut self.deny,
            Action::Allow => {
                self.allowing.push(Arc::new(PolicyRule::whole(&policy.name)));
                &mut self.allow
            }
        };
        for (index, rule) in policy.rules.iter().enumerate() {
            if let Some(reduced) = layer.reduce(rule, policy.action) {
                rules.push(PolicyRule::new(&policy.name, index), &reduced, policy.action);
            }
        }
    }

    fn judge(&self, attributes: &Attributes<'_>) -> Reason {
        if let Some(policy) = self.invalid.first() {
            return Reason::Invalid(policy.clone());
        }
        if let Some(rule) = self.deny.first(attributes) {
            return Reason::Denied(rule.clone());
        }
        match (self.allow.first(attributes), &self.unmatched) {
            (Some(rule), _) => Reason::Allowed(rule.clone()),
            (None, None) => Reason::NoPolicy,
            (None, Some(policies)) => Reason::NotAllowed(policies.clone()),
        }
    }

    fn len(&self) -> usize {
        self.invalid.len() + self.deny.len() + self.allow.len()
    }

    fn is_empty(&self) -> bool {
        self.len() == 0 && self.allowing.is_empty()
    }
}
