//! What the tests of this room share: short notation for matches, and an oracle that is slow and
//! obvious.

use super::{Rank, RequestView};
use crate::model::{HeaderMatch, PathPattern, QueryMatch, ResourceName, RouteMatch, ValueMatch};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use proptest::prelude::*;
use regex::Regex;
use std::{cell::RefCell, collections::HashMap};

/// `=/a` exact, `~/a.*` a regular expression, `/a` a prefix.
pub(super) fn pattern(text: &str) -> PathPattern {
    match text.split_at(1) {
        ("=", path) => PathPattern::Exact(path.into()),
        ("~", regex) => PathPattern::Regex(regex.into()),
        _ => PathPattern::Prefix(text.into()),
    }
}

/// `~x.*` is a regular expression.
pub(super) fn value(text: &str) -> ValueMatch {
    text.strip_prefix('~').map_or_else(|| ValueMatch::Exact(text.into()), |regex| ValueMatch::Regex(regex.into()))
}

pub(super) fn on(path: &str) -> RouteMatch {
    RouteMatch { path: pattern(path), ..RouteMatch::default() }
}

/// Adds conditions to a match.
pub(super) trait With: Sized {
    fn method(self, method: &str) -> Self;
    fn header(self, name: &str, text: &str) -> Self;
    fn query(self, name: &str, text: &str) -> Self;
}

impl With for RouteMatch {
    fn method(mut self, method: &str) -> Self {
        self.method = Some(method.parse().unwrap());
        self
    }
    fn header(mut self, name: &str, text: &str) -> Self {
        self.headers.push(HeaderMatch { name: name.parse().unwrap(), value: value(text) });
        self
    }
    fn query(mut self, name: &str, text: &str) -> Self {
        self.query.push(QueryMatch { name: name.into(), value: value(text) });
        self
    }
}

/// A request that owns its parts.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) query: Option<String>,
    pub(super) headers: HeaderMap,
}

impl Request {
    pub(super) fn get(target: &str) -> Self {
        let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query.to_owned())));
        Self { method: Method::GET, path: path.to_owned(), query, headers: HeaderMap::new() }
    }
    pub(super) fn method(mut self, method: &str) -> Self {
        self.method = method.parse().unwrap();
        self
    }
    pub(super) fn header(mut self, name: &str, value: &[u8]) -> Self {
        self.headers.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_bytes(value).unwrap());
        self
    }
    pub(super) fn view(&self) -> RequestView<'_> {
        RequestView { path: &self.path, query: self.query.as_deref(), method: &self.method, headers: &self.headers }
    }
}

pub(super) fn rank(index: usize) -> Rank {
    Rank { created: None, route: ResourceName::new("ns", "route"), rule: 0, index }
}

thread_local! {
    static COMPILED: RefCell<HashMap<String, Regex>> = RefCell::default();
}

fn full(pattern: &str, text: &str) -> bool {
    COMPILED.with_borrow_mut(|known| {
        let compile = || Regex::new(&format!(r"\A(?:{pattern})\z")).unwrap();
        known.entry(pattern.to_owned()).or_insert_with(compile).is_match(text)
    })
}

/// Whether the match holds, by the letter of the Gateway API.
pub(super) fn naive_match(matching: &RouteMatch, request: &Request) -> bool {
    let same = |expected: &ValueMatch, text: &str| match expected {
        ValueMatch::Exact(expected) => &**expected == text,
        ValueMatch::Regex(pattern) => full(pattern, text),
    };
    let path = match &matching.path {
        PathPattern::Exact(path) => **path == request.path,
        PathPattern::Regex(pattern) => full(pattern, &request.path),
        PathPattern::Prefix(prefix) => {
            // Element by element, without the empty ones a trailing slash makes.
            let elements: Vec<&str> = prefix.trim_end_matches('/').split('/').collect();
            let given: Vec<&str> = request.path.split('/').collect();
            given.starts_with(&elements)
        }
    };
    let header = |h: &HeaderMatch| {
        let lines: Vec<&str> = request.headers.get_all(&h.name).iter().map(|line| line.to_str().unwrap()).collect();
        !lines.is_empty() && same(&h.value, &lines.join(","))
    };
    let query = |q: &QueryMatch| {
        let pairs = request.query.as_deref().unwrap_or_default().split('&');
        let mut values = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).filter(|(name, _)| **name == *q.name);
        values.next().is_some_and(|(_, text)| same(&q.value, &text.replace("%62", "b")))
    };
    path && matching.method.as_ref().is_none_or(|method| *method == request.method)
        && matching.headers.iter().all(header)
        && matching.query.iter().all(query)
}

const VALUES: [&str; 5] = ["a", "b", "ab", "~a|b", "~a.*"];

/// Matches from an alphabet so small that they collide.
pub(super) fn any_match() -> impl Strategy<Value = RouteMatch> {
    const PATHS: [&str; 18] = [
        "/", "/a", "/a/", "/a/b", "/a/b/", "/ab", "/b", "/a/a/a", "=/", "=/a", "=/a/", "=/a/b", "=/ab", "~/a.*", "~/[ab]+", "~/a/?b",
        "~.*", "~/a|/b",
    ];
    let method = prop::option::of(prop::sample::select(&["GET", "POST"][..]));
    let conditions = || prop::collection::btree_map(prop::sample::select(&["x", "y"][..]), prop::sample::select(&VALUES[..]), 0..3);
    (prop::sample::select(&PATHS[..]), method, conditions(), conditions()).prop_map(|(path, method, headers, query)| {
        let with_method = method.into_iter().fold(on(path), |matching, method| matching.method(method));
        let with_headers = headers.into_iter().fold(with_method, |matching, (name, text)| matching.header(name, text));
        query.into_iter().fold(with_headers, |matching, (name, text)| matching.query(name, text))
    })
}

pub(super) fn any_request() -> impl Strategy<Value = Request> {
    let path =
        prop::collection::vec(prop::sample::select(&["a", "b", "ab", ""][..]), 0..4).prop_map(|parts| format!("/{}", parts.join("/")));
    let pairs = |values: &'static [&'static str]| {
        prop::collection::vec((prop::sample::select(&["x", "y"][..]), prop::sample::select(values)), 0..4)
    };
    let method = prop::sample::select(&["GET", "POST", "PUT"][..]);
    (path, method, pairs(&["a", "b", "ab"]), pairs(&["a", "b", "ab", "%62"])).prop_map(|(path, method, headers, query)| {
        let mut request = Request::get(&path).method(method);
        let text: Vec<String> = query.into_iter().map(|(name, text)| format!("{name}={text}")).collect();
        request.query = (!text.is_empty()).then(|| text.join("&"));
        headers.into_iter().fold(request, |request, (name, text)| request.header(name, text.as_bytes()))
    })
}
