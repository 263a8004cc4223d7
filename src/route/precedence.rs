//! Which of two matches is asked first.
//!
//! The Gateway API ("HTTPRouteRule.matches") orders: exact path, longest prefix, method present,
//! number of headers, number of query parameters, oldest route, `namespace/name`, first in list. The
//! order is per match, not per rule, over all routes of a parent.
//!
//! The place of regular expressions is left to implementations. Here they stand **after exact paths
//! and before prefixes**, the longer pattern first: whoever writes an expression next to the usual
//! catch-all prefix `/` means it to be asked, and with prefixes first it never would be.

use crate::model::{PathPattern, ResourceName, RouteMatch};
use std::cmp::{Ordering, Reverse};

/// Where a match was written: breaks ties between equally specific matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rank {
    /// `metadata.creationTimestamp` of the route; the oldest wins, and any time wins over none.
    pub created: Option<i64>,
    /// The route; compared as the text `namespace/name`.
    pub route: ResourceName,
    /// The index of its rule.
    pub rule: usize,
    /// The index of the match in the rule.
    pub index: usize,
}

impl Ord for Rank {
    fn cmp(&self, other: &Self) -> Ordering {
        // `None` would be the least; a route without a time must not win over one that has proved
        // its age.
        (self.created.is_none(), self.created)
            .cmp(&(other.created.is_none(), other.created))
            .then_with(|| text(&self.route).cmp(text(&other.route)))
            .then_with(|| (&self.route, self.rule, self.index).cmp(&(&other.route, other.rule, other.index)))
    }
}

impl PartialOrd for Rank {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

// "{namespace}/{name}" is compared as one text: `a-b/x` comes before `a/x`, because `-` is less than
// `/`. Comparing the parts would say the opposite.
fn text(route: &ResourceName) -> impl Iterator<Item = u8> {
    route.namespace.bytes().chain([b'/']).chain(route.name.bytes())
}

/// The order of matches: the least is asked first.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Precedence<'a> {
    path: PathRank,
    method: Reverse<bool>,
    headers: Reverse<usize>,
    query: Reverse<usize>,
    rank: &'a Rank,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum PathRank {
    Exact,
    Regex(Reverse<usize>),
    Prefix(Reverse<usize>),
}

impl<'a> Precedence<'a> {
    /// The place of a match.
    pub(super) fn of(matching: &RouteMatch, rank: &'a Rank) -> Self {
        Self {
            path: PathRank::of(&matching.path),
            method: Reverse(matching.method.is_some()),
            headers: Reverse(matching.headers.len()),
            query: Reverse(matching.query.len()),
            rank,
        }
    }
}

impl PathRank {
    fn of(path: &PathPattern) -> Self {
        match path {
            PathPattern::Exact(_) => Self::Exact,
            PathPattern::Regex(pattern) => Self::Regex(Reverse(pattern.chars().count())),
            // Bytes order the prefixes of one path as characters do.
            PathPattern::Prefix(prefix) => Self::Prefix(Reverse(trimmed(prefix).len())),
        }
    }
}

/// A prefix without its trailing `/`, which has no meaning; `/` itself becomes empty.
pub(super) fn trimmed(prefix: &str) -> &str {
    prefix.trim_end_matches('/')
}
