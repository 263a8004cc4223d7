//! What was decided, and by whom.

use crate::model::ResourceName;
use std::{fmt, sync::Arc};

/// The judgement on one connection or request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it passes.
    pub allowed: bool,
    /// Why.
    pub reason: Reason,
    /// The dry-run rules that would have refused it, were they enforced too: matching DENY rules,
    /// and ALLOW policies (as a whole) of which no rule matches when no enforced one does either.
    /// Never part of the judgement; does not allocate when empty.
    pub dry_run: Vec<Arc<PolicyRule>>,
}

/// Why a judgement is as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// Allowed: no ALLOW policy applies, and no DENY rule matches.
    NoPolicy,
    /// Allowed by this rule.
    Allowed(Arc<PolicyRule>),
    /// Refused by this DENY rule.
    Denied(Arc<PolicyRule>),
    /// Refused: ALLOW policies apply, and none of their rules matches. Names all of them.
    NotAllowed(Arc<PolicyRule>),
    /// Refused: this policy could not be understood.
    Invalid(Arc<PolicyRule>),
}

impl Reason {
    /// The rule that decided, if one did.
    pub fn rule(&self) -> Option<&Arc<PolicyRule>> {
        match self {
            Self::Allowed(rule) | Self::Denied(rule) | Self::NotAllowed(rule) | Self::Invalid(rule) => Some(rule),
            Self::NoPolicy => None,
        }
    }

    /// Whether the reason lets pass.
    pub(super) fn allows(&self) -> bool {
        match self {
            Self::NoPolicy | Self::Allowed(_) => true,
            Self::Denied(_) | Self::NotAllowed(_) | Self::Invalid(_) => false,
        }
    }
}

/// The name of a rule. Displays as in Istio's statistics and logs: `ns[NS]-policy[NAME]-rule[I]`,
/// or `ns[NS]-policy[NAME]` when the policy as a whole decided; several of them with commas between.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyRule {
    /// The policy.
    pub policy: ResourceName,
    /// The index of the rule; 0 when the policy as a whole decided.
    pub rule: usize,
    text: Arc<str>,
}

impl PolicyRule {
    pub(super) fn new(policy: &ResourceName, rule: usize) -> Self {
        let text = format!("ns[{}]-policy[{}]-rule[{rule}]", policy.namespace, policy.name).into();
        Self { policy: policy.clone(), rule, text }
    }

    /// A policy that decides without one of its rules.
    pub(super) fn whole(policy: &ResourceName) -> Self {
        let text = format!("ns[{}]-policy[{}]", policy.namespace, policy.name).into();
        Self { policy: policy.clone(), rule: 0, text }
    }

    /// Several policies that decide together, without any of their rules; `None` for none.
    pub(super) fn together(policies: &[Arc<Self>]) -> Option<Self> {
        let first = policies.first()?;
        let text = policies.iter().map(|p| &*p.text).collect::<Vec<_>>().join(",").into();
        Some(Self { policy: first.policy.clone(), rule: 0, text })
    }

    /// The displayed text, to share without formatting.
    pub fn text(&self) -> &Arc<str> {
        &self.text
    }
}

impl fmt::Display for PolicyRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
