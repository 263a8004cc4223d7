//! The table of all matches that apply to one destination.

use super::{
    Rank, RequestView, RouteError,
    matcher::{Conditions, RegexCache},
    precedence::{Precedence, trimmed},
};
use crate::model::{PathPattern, RouteMatch};
use regex::Regex;
use std::{cmp::Reverse, collections::HashMap, sync::Arc};

/// One match and what it leads to.
#[derive(Debug, Clone)]
pub struct Entry<P> {
    /// What a request must look like.
    pub matching: RouteMatch,
    /// Where the match was written.
    pub rank: Rank,
    /// What it leads to.
    pub payload: P,
}

/// What a request was matched to.
#[derive(Debug)]
pub struct Found<'a, P> {
    /// What the match leads to.
    pub payload: &'a P,
    /// The pattern that matched, for rewrites of a prefix.
    pub path: &'a PathPattern,
    /// Where the match was written.
    pub rank: &'a Rank,
}

/// Matches in the order of the module `precedence`, indexed by path. Immutable; built once.
///
/// Exact paths cost one hash, prefixes one hash for each length in the table at which the path has
/// an element boundary (so a path of ten thousand slashes costs no more than a plain one), regular
/// expressions one try each.
#[derive(Debug)]
pub struct RouteTable<P> {
    // In precedence order; the lists below hold ascending indices into it.
    rows: Vec<Row<P>>,
    exact: HashMap<Arc<str>, Vec<usize>>,
    regexes: Vec<(usize, Regex)>,
    prefixes: HashMap<Box<str>, Vec<usize>>,
    // Distinct lengths of the keys of `prefixes`, longest first.
    lengths: Vec<usize>,
}

#[derive(Debug)]
struct Row<P> {
    entry: Entry<P>,
    conditions: Conditions,
}

impl<P> RouteTable<P> {
    /// Compiles and sorts the entries.
    ///
    /// # Errors
    /// When a regular expression is malformed or too large; the error says where.
    pub fn build(mut entries: Vec<Entry<P>>) -> Result<Self, RouteError> {
        entries.sort_by(|a, b| Precedence::of(&a.matching, &a.rank).cmp(&Precedence::of(&b.matching, &b.rank)));
        let mut table = Self {
            rows: Vec::with_capacity(entries.len()),
            exact: HashMap::new(),
            regexes: Vec::new(),
            prefixes: HashMap::new(),
            lengths: Vec::new(),
        };
        let mut cache = RegexCache::default();
        for entry in entries {
            table.push(entry, &mut cache)?;
        }
        table.lengths = table.prefixes.keys().map(|prefix| prefix.len()).collect();
        table.lengths.sort_unstable_by_key(|length| Reverse(*length));
        table.lengths.dedup();
        Ok(table)
    }

    fn push(&mut self, entry: Entry<P>, cache: &mut RegexCache) -> Result<(), RouteError> {
        let row = self.rows.len();
        match &entry.matching.path {
            PathPattern::Exact(path) => self.exact.entry(path.clone()).or_default().push(row),
            PathPattern::Regex(pattern) => {
                let regex = cache.get(pattern).map_err(|error| error.at(&entry.rank))?;
                self.regexes.push((row, regex));
            }
            PathPattern::Prefix(prefix) => self.prefixes.entry(trimmed(prefix).into()).or_default().push(row),
        }
        let conditions = Conditions::compile(&entry.matching, cache).map_err(|error| error.at(&entry.rank))?;
        self.rows.push(Row { entry, conditions });
        Ok(())
    }

    /// The match of highest precedence that the request satisfies.
    pub fn find(&self, request: &RequestView<'_>) -> Option<Found<'_, P>> {
        // Precedence puts the kinds and the lengths of prefixes in this very order, so the first
        // hit is the best.
        let Entry { matching, rank, payload } = self
            .exact
            .get(request.path)
            .and_then(|rows| self.first(rows, request))
            .or_else(|| self.find_regex(request))
            .or_else(|| self.find_prefix(request))?;
        Some(Found { payload, path: &matching.path, rank })
    }

    fn find_regex(&self, request: &RequestView<'_>) -> Option<&Entry<P>> {
        // The conditions are cheaper than the expression.
        let hit = |(row, regex): &(usize, Regex)| {
            let row = self.rows.get(*row).filter(|row| row.conditions.hold(request))?;
            regex.is_match(request.path).then_some(&row.entry)
        };
        self.regexes.iter().find_map(hit)
    }

    fn find_prefix(&self, request: &RequestView<'_>) -> Option<&Entry<P>> {
        self.lengths.iter().find_map(|length| {
            let (prefix, rest) = request.path.split_at_checked(*length)?;
            let whole_elements = rest.is_empty() || rest.starts_with('/');
            let rows = whole_elements.then(|| self.prefixes.get(prefix)).flatten()?;
            self.first(rows, request)
        })
    }

    fn first(&self, rows: &[usize], request: &RequestView<'_>) -> Option<&Entry<P>> {
        rows.iter().filter_map(|row| self.rows.get(*row)).find(|row| row.conditions.hold(request)).map(|row| &row.entry)
    }

    /// How many matches it holds.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether it holds none. Nothing is ever found then.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// All matches, in precedence order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Entry<P>> {
        self.rows.iter().map(|row| &row.entry)
    }
}

#[cfg(test)]
mod tests;
