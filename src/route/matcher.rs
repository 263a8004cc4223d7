//! What one match asks of a request, compiled.

use super::Rank;
use crate::model::{HeaderMatch, QueryMatch, RouteMatch, ValueMatch};
use http::{HeaderMap, HeaderName, Method};
use regex::{Regex, RegexBuilder};
use std::{borrow::Cow, collections::HashMap, sync::Arc};

/// Longest pattern in bytes: the CRD's longest (a header value).
const PATTERN_LIMIT: usize = 4096;
/// Largest compiled expression in bytes. Counted repetition makes a short pattern large; real ones
/// need some ten kilobytes, Unicode classes a few hundred.
const REGEX_SIZE_LIMIT: usize = 1 << 20;

/// The parts of a request that routes look at.
#[derive(Debug, Clone, Copy)]
pub struct RequestView<'a> {
    /// The path as [`normalize`](super::normalize) left it, without the query.
    pub path: &'a str,
    /// The query without its `?`, as received.
    pub query: Option<&'a str>,
    /// The method.
    pub method: &'a Method,
    /// The headers. The caller puts `:authority` of HTTP/2 in as `host`.
    pub headers: &'a HeaderMap,
}

/// Why a route cannot be compiled.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RouteError {
    /// The expression is not one of the `regex` crate's dialect (RE2 without look-around).
    #[error("bad regular expression {pattern:?}")]
    Syntax {
        /// The expression.
        pattern: String,
        /// Where it stands, when known.
        rank: Option<Box<Rank>>,
        /// What is wrong with it.
        #[source]
        source: regex::Error,
    },
    /// The expression, as text or compiled, takes more memory than one match may.
    #[error("regular expression is too large: {pattern:?}")]
    TooLarge {
        /// The start of the expression.
        pattern: String,
        /// Where it stands, when known.
        rank: Option<Box<Rank>>,
    },
}

impl RouteError {
    /// The match that holds the expression; `None` when it was compiled on its own.
    pub fn rank(&self) -> Option<&Rank> {
        match self {
            Self::Syntax { rank, .. } | Self::TooLarge { rank, .. } => rank.as_deref(),
        }
    }

    /// The same error, at this place.
    pub(super) fn at(mut self, place: &Rank) -> Self {
        match &mut self {
            Self::Syntax { rank, .. } | Self::TooLarge { rank, .. } => *rank = Some(Box::new(place.clone())),
        }
        self
    }
}

/// Compiles an expression that must match a whole value.
///
/// # Errors
/// When it is malformed or too large.
pub fn compile_regex(pattern: &str) -> Result<Regex, RouteError> {
    let too_large = || RouteError::TooLarge { pattern: pattern.chars().take(64).collect(), rank: None };
    if pattern.len() > PATTERN_LIMIT {
        return Err(too_large());
    }
    let build = |text: &str| {
        RegexBuilder::new(text).size_limit(REGEX_SIZE_LIMIT).build().map_err(|source| match source {
            regex::Error::CompiledTooBig(_) => too_large(),
            source @ (regex::Error::Syntax(_) | _) => RouteError::Syntax { pattern: pattern.to_owned(), rank: None, source },
        })
    };
    // On its own first: `a)|(?:b` is malformed, but would close the group of the anchors and escape
    // them.
    build(pattern)?;
    build(&format!("^(?:{pattern})$"))
}

/// Compiles each distinct expression of a table once.
#[derive(Debug, Default)]
pub(super) struct RegexCache(HashMap<Arc<str>, Regex>);

impl RegexCache {
    pub(super) fn get(&mut self, pattern: &Arc<str>) -> Result<Regex, RouteError> {
        if let Some(regex) = self.0.get(pattern) {
            return Ok(regex.clone());
        }
        let regex = compile_regex(pattern)?;
        self.0.insert(pattern.clone(), regex.clone());
        Ok(regex)
    }
}

/// Everything a match asks beyond the path.
#[derive(Debug)]
pub(super) struct Conditions {
    method: Option<Method>,
    headers: Box<[(HeaderName, ValueMatcher)]>,
    query: Box<[(Arc<str>, ValueMatcher)]>,
}

#[derive(Debug)]
enum ValueMatcher {
    Exact(Arc<str>),
    Regex(Regex),
}

impl Conditions {
    pub(super) fn compile(matching: &RouteMatch, cache: &mut RegexCache) -> Result<Self, RouteError> {
        let mut headers = Vec::with_capacity(matching.headers.len());
        for HeaderMatch { name, value } in &matching.headers {
            headers.push((name.clone(), ValueMatcher::compile(value, cache)?));
        }
        let mut query = Vec::with_capacity(matching.query.len());
        for QueryMatch { name, value } in &matching.query {
            query.push((name.clone(), ValueMatcher::compile(value, cache)?));
        }
        Ok(Self { method: matching.method.clone(), headers: headers.into(), query: query.into() })
    }

    /// Whether all of them hold. The cheap ones are asked first.
    pub(super) fn hold(&self, request: &RequestView<'_>) -> bool {
        self.method.as_ref().is_none_or(|method| method == request.method)
            && self.headers.iter().all(|(name, value)| header(request.headers, name).is_some_and(|text| value.matches(&text)))
            && self.query.iter().all(|(name, value)| parameter(request.query, name).is_some_and(|text| value.matches(&text)))
    }
}

impl ValueMatcher {
    fn compile(value: &ValueMatch, cache: &mut RegexCache) -> Result<Self, RouteError> {
        Ok(match value {
            ValueMatch::Exact(text) => Self::Exact(text.clone()),
            ValueMatch::Regex(pattern) => Self::Regex(cache.get(pattern)?),
        })
    }

    fn matches(&self, text: &str) -> bool {
        match self {
            Self::Exact(expected) => **expected == *text,
            Self::Regex(regex) => regex.is_match(text),
        }
    }
}

/// The value of a header; several lines are one list (RFC 9110, section 5.3). `None` when absent or
/// not UTF-8.
fn header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<Cow<'a, str>> {
    let mut lines = headers.get_all(name).iter().map(|line| std::str::from_utf8(line.as_bytes()));
    let first = lines.next()?.ok()?;
    let mut value = Cow::Borrowed(first);
    for line in lines {
        let whole = value.to_mut();
        whole.push(',');
        whole.push_str(line.ok()?);
    }
    Some(value)
}

/// The value of the first query parameter of this name (the Gateway API's recommendation for
/// repeated ones), decoded. `None` when absent or not UTF-8.
fn parameter<'a>(query: Option<&'a str>, name: &str) -> Option<Cow<'a, str>> {
    query?.split('&').filter(|pair| !pair.is_empty()).find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decoded(key).as_deref() == Some(name)).then(|| decoded(value))
    })?
}

/// Undoes form encoding: `+` is a space, `%XX` a byte. An escape that is none stays as it is.
fn decoded(text: &str) -> Option<Cow<'_, str>> {
    if !text.bytes().any(|byte| matches!(byte, b'+' | b'%')) {
        return Some(Cow::Borrowed(text));
    }
    let mut rest = text.as_bytes();
    let mut bytes = Vec::with_capacity(rest.len());
    while let [byte, tail @ ..] = rest {
        rest = tail;
        match (byte, tail) {
            (b'+', _) => bytes.push(b' '),
            (b'%', [high, low, after @ ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                bytes.push(super::normalize::byte_of(*high, *low));
                rest = after;
            }
            (byte, _) => bytes.push(*byte),
        }
    }
    String::from_utf8(bytes).ok().map(Cow::Owned)
}
