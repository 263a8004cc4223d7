//! How texts are compared.

use crate::model::{Name, StringMatch};
use std::{borrow::Cow, collections::HashSet};

/// Patterns for a text, with regard to case.
#[derive(Debug)]
pub(super) struct StringSet {
    exact: Exact,
    others: Box<[StringMatch]>,
}

/// Most policies name a handful of texts, some list principals by the thousand.
#[derive(Debug)]
enum Exact {
    Few(Box<[Name]>),
    #[allow(clippy::box_collection, reason = "a set in place would make every test of a policy three times as large")]
    Many(Box<HashSet<Name>>),
}

/// From here on a hash is faster than to compare one by one.
const MANY: usize = 16;

impl StringSet {
    pub(super) fn new(patterns: &[StringMatch]) -> Self {
        let exact = |pattern: &StringMatch| match pattern {
            StringMatch::Exact(text) => Some(text.clone()),
            StringMatch::Prefix(_) | StringMatch::Suffix(_) | StringMatch::Presence => None,
        };
        let texts = patterns.iter().filter_map(exact);
        Self {
            exact: if patterns.len() < MANY { Exact::Few(texts.collect()) } else { Exact::Many(Box::new(texts.collect())) },
            others: patterns.iter().filter(|pattern| exact(pattern).is_none()).cloned().collect(),
        }
    }

    pub(super) fn contains(&self, text: &str) -> bool {
        let exact = match &self.exact {
            Exact::Few(texts) => texts.iter().any(|exact| **exact == *text),
            Exact::Many(texts) => texts.contains(text),
        };
        exact || self.others.iter().any(|pattern| matches(pattern, text.as_bytes()))
    }
}

/// Compares bytes, so that one byte that is not UTF-8 does not hide a header from a policy.
pub(super) fn matches(pattern: &StringMatch, value: &[u8]) -> bool {
    match pattern {
        StringMatch::Exact(text) => value == text.as_bytes(),
        StringMatch::Prefix(text) => value.starts_with(text.as_bytes()),
        StringMatch::Suffix(text) => value.ends_with(text.as_bytes()),
        StringMatch::Presence => !value.is_empty(),
    }
}

/// For host names, where case has no meaning.
pub(super) fn matches_any_case(pattern: &StringMatch, value: &str) -> bool {
    let value = value.as_bytes();
    let part = |part: Option<&[u8]>, text: &Name| part.is_some_and(|part| part.eq_ignore_ascii_case(text.as_bytes()));
    match pattern {
        StringMatch::Exact(text) => part(Some(value), text),
        StringMatch::Prefix(text) => part(value.get(..text.len()), text),
        StringMatch::Suffix(text) => part(value.len().checked_sub(text.len()).and_then(|start| value.get(start..)), text),
        StringMatch::Presence => !value.is_empty(),
    }
}

/// `*` anywhere in the pattern stands for any text; the rest must fit from end to end.
pub(super) fn glob(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == text };
    let (middle, last) = rest.rsplit_once('*').unwrap_or(("", rest));
    let Some(mut text) = text.strip_prefix(first).and_then(|text| text.strip_suffix(last)) else { return false };
    // The leftmost place of each part leaves the most room for the next.
    middle.split('*').all(|part| {
        let found = text.split_once(part);
        text = found.map_or(text, |(_, after)| after);
        found.is_some()
    })
}

/// The value of a header; several lines are one list, as in Envoy. Allocates only then.
pub(super) fn header<'a>(headers: &'a http::HeaderMap, name: &http::HeaderName) -> Option<Cow<'a, [u8]>> {
    let mut lines = headers.get_all(name).iter();
    let mut value = Cow::Borrowed(lines.next()?.as_bytes());
    for line in lines {
        value.to_mut().push(b',');
        value.to_mut().extend_from_slice(line.as_bytes());
    }
    Some(value)
}
