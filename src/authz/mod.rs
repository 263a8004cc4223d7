//! May this connection or request pass? Pure: this room judges the policies it is given and must
//! not know which of them apply to what (`state` selects), nor how a refusal is answered.
//!
//! The semantics are Istio's: invalid policies first, then DENY, then ALLOW.

mod attributes;
mod index;
mod layer;
mod predicate;
mod ruleset;
mod strings;
mod template;
#[cfg(test)]
mod tests;
mod verdict;

pub use attributes::{Attributes, HttpAttributes, remote_ip};
pub use layer::Layer;
pub use ruleset::Ruleset;
pub use template::parse_template;
pub use verdict::{PolicyRule, Reason, Verdict};
