//! All policies that apply to one destination on one layer, compiled.

use super::{
    Attributes, Layer, PolicyRule, Reason, Verdict,
    index::{Builder, RuleIndex},
};
use crate::model::{Action, AuthorizationPolicy};
use std::sync::Arc;

/// Compiled policies. Immutable; a check neither blocks nor allocates, unless there are dry-run hits
/// to report or a request repeats a header that a rule asks for. Most services have few policies or
/// none: what is not there takes no room.
#[derive(Debug, Default)]
pub struct Ruleset {
    enforced: Policies,
    dry_run: Option<Box<Policies>>,
}

#[derive(Debug, Default)]
struct Policies {
    invalid: Box<[Arc<PolicyRule>]>,
    deny: Option<Box<RuleIndex>>,
    // ALLOW policies themselves: one without any rule that can match refuses everything.
    allowing: Box<[Arc<PolicyRule>]>,
    // All of them as one name, for when none of their rules matches.
    unmatched: Option<Arc<PolicyRule>>,
    allow: Option<Box<RuleIndex>>,
}

impl Ruleset {
    /// Compiles the policies for a layer, in the order in which rules are named when several match.
    ///
    /// A policy that could not be understood refuses everything, whatever its action: it may have
    /// been a DENY, or the one ALLOW that made the default a refusal. Only one that is dry-run as
    /// well is merely reported, for it was never meant to refuse anything.
    pub fn compile<'a>(policies: impl IntoIterator<Item = &'a AuthorizationPolicy>, layer: Layer) -> Self {
        let (mut enforced, mut dry_run) = (Building::default(), Building::default());
        for policy in policies {
            let half = if policy.dry_run { &mut dry_run } else { &mut enforced };
            half.push(policy, layer);
        }
        let (mut enforced, dry_run) = (enforced.finish(), dry_run.finish());
        enforced.unmatched = PolicyRule::together(&enforced.allowing).map(Arc::new);
        Self { enforced, dry_run: (!dry_run.is_empty()).then(|| Box::new(dry_run)) }
    }

    /// Judges a connection or a request.
    pub fn check(&self, attributes: &Attributes<'_>) -> Verdict {
        let reason = self.enforced.judge(attributes);
        let dry_run = self.dry_run.as_ref().map(|shadow| self.shadow(shadow, attributes, &reason)).unwrap_or_default();
        Verdict { allowed: reason.allows(), reason, dry_run }
    }

    /// The dry-run rules that would have refused.
    fn shadow(&self, shadow: &Policies, attributes: &Attributes<'_>, reason: &Reason) -> Vec<Arc<PolicyRule>> {
        let denying = shadow.deny.iter().flat_map(|rules| rules.all(attributes));
        let mut refusing: Vec<_> = shadow.invalid.iter().chain(denying).cloned().collect();
        let allowed = || match reason {
            Reason::Allowed(_) => true,
            Reason::NoPolicy | Reason::NotAllowed(_) => false,
            // The enforced ALLOW rules were not asked.
            Reason::Denied(_) | Reason::Invalid(_) => first(&self.enforced.allow, attributes).is_some(),
        };
        if !shadow.allowing.is_empty() && first(&shadow.allow, attributes).is_none() && !allowed() {
            refusing.extend(shadow.allowing.iter().cloned());
        }
        refusing
    }

    /// How many rules it holds, invalid policies counted as one rule each.
    pub fn len(&self) -> usize {
        self.enforced.len() + self.dry_run.as_ref().map_or(0, |half| half.len())
    }

    /// Whether every check passes with [`Reason::NoPolicy`]. Not the same as `len() == 0`: an ALLOW
    /// policy without rules refuses everything.
    pub fn is_empty(&self) -> bool {
        self.enforced.is_empty() && self.dry_run.is_none()
    }
}

#[derive(Default)]
struct Building {
    invalid: Vec<Arc<PolicyRule>>,
    deny: Builder,
    allowing: Vec<Arc<PolicyRule>>,
    allow: Builder,
}

impl Building {
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

    fn finish(self) -> Policies {
        let Self { invalid, deny, allowing, allow } = self;
        Policies { invalid: invalid.into(), deny: deny.finish(), allowing: allowing.into(), unmatched: None, allow: allow.finish() }
    }
}

fn first<'a>(rules: &'a Option<Box<RuleIndex>>, attributes: &Attributes<'_>) -> Option<&'a Arc<PolicyRule>> {
    rules.as_ref()?.first(attributes)
}

impl Policies {
    fn judge(&self, attributes: &Attributes<'_>) -> Reason {
        if let Some(policy) = self.invalid.first() {
            return Reason::Invalid(policy.clone());
        }
        if let Some(rule) = first(&self.deny, attributes) {
            return Reason::Denied(rule.clone());
        }
        match (first(&self.allow, attributes), &self.unmatched) {
            (Some(rule), _) => Reason::Allowed(rule.clone()),
            (None, None) => Reason::NoPolicy,
            (None, Some(policies)) => Reason::NotAllowed(policies.clone()),
        }
    }

    fn len(&self) -> usize {
        let rules = |index: &Option<Box<RuleIndex>>| index.as_ref().map_or(0, |rules| rules.len());
        self.invalid.len() + rules(&self.deny) + rules(&self.allow)
    }

    fn is_empty(&self) -> bool {
        self.len() == 0 && self.allowing.is_empty()
    }
}
