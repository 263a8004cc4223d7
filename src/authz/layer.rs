//! Where policies are judged, and what becomes of rules that ask for more than is known there.

use crate::model::{Action, Clause, Match, Rule, Test};
use std::borrow::Cow;

/// Where a policy is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Layer {
    /// A waypoint, for each HTTP request.
    Http,
    /// A waypoint, for each opaque connection.
    WaypointTcp,
    /// A ztunnel, for each connection.
    Ztunnel,
}

impl Layer {
    /// Whether the test can be judged here. A ztunnel does not look at the first bytes.
    fn sees(self, test: &Test) -> bool {
        match self {
            Self::Http => true,
            Self::WaypointTcp => !test.is_http(),
            Self::Ztunnel => !test.is_http() && !matches!(test, Test::Sni(_)),
        }
    }

    /// The rule as this layer judges it; `None` when it never matches here.
    ///
    /// An ALLOW rule with a test that cannot be judged never matches: nothing is allowed that was
    /// not proved. A DENY rule loses such tests and so only becomes wider.
    pub(super) fn reduce(self, rule: &Rule, action: Action) -> Option<Cow<'_, Rule>> {
        let sees_all = rule.clauses.iter().flat_map(|clause| &clause.matches).flat_map(|m| &m.terms).all(|term| self.sees(&term.test));
        match action {
            _ if sees_all => Some(Cow::Borrowed(rule)),
            Action::Allow => None,
            Action::Deny => self.widen(rule).map(Cow::Owned),
        }
    }

    fn widen(self, rule: &Rule) -> Option<Rule> {
        let stripped: Vec<Stripped> = rule.clauses.iter().map(|clause| self.strip(clause)).collect();
        let judged = |s: &&Stripped| !s.always && !s.clause.matches.is_empty();
        let wide: Vec<Clause> = stripped.iter().filter(judged).map(|s| s.clause.clone()).collect();
        if !wide.is_empty() || self != Self::Ztunnel {
            return Some(Rule { clauses: wide });
        }
        // A ztunnel must not cut a workload off because of a rule about methods and paths that its
        // waypoint enforces. It keeps what istiod would send it: the matches that have something
        // left, in the clauses that have such matches, and nothing if there are none.
        let left: Vec<Clause> = stripped.into_iter().map(|s| s.clause).filter(|clause| !clause.matches.is_empty()).collect();
        (!left.is_empty()).then_some(Rule { clauses: left })
    }

    fn strip(self, clause: &Clause) -> Stripped {
        let mut stripped = Stripped { clause: Clause::default(), always: false };
        for original in &clause.matches {
            let terms: Vec<_> = original.terms.iter().filter(|term| self.sees(&term.test)).cloned().collect();
            if terms.is_empty() && !original.terms.is_empty() {
                stripped.always = true;
            } else {
                // One that was empty from the start stays, and stays false.
                stripped.clause.matches.push(Match { terms });
            }
        }
        stripped
    }
}

/// A clause without the terms that cannot be judged.
struct Stripped {
    /// The matches that have terms left.
    clause: Clause,
    /// Some match has lost all its terms: it may hold for everything, and so may the clause.
    always: bool,
}
