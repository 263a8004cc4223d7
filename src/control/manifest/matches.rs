//! Decodes the matches of an HTTPRoute's rules.

use super::decode::Cx;
use crate::{
    model::{HeaderMatch, PathPattern, QueryMatch, RouteMatch, ValueMatch},
    route::{RouteError, compile_regex},
};
use gateway_api::experimental::httproutes::{
    HttpRouteRulesMatches, HttpRouteRulesMatchesHeaders, HttpRouteRulesMatchesHeadersType as HeaderType,
    HttpRouteRulesMatchesMethod as ApiMethod, HttpRouteRulesMatchesPath, HttpRouteRulesMatchesPathType as PathType,
    HttpRouteRulesMatchesQueryParams, HttpRouteRulesMatchesQueryParamsType as QueryType,
};
use http::{HeaderName, Method};
use std::collections::HashSet;

/// Longest path the API allows, in a match as in a filter.
const MAX_PATH: usize = 1024;

/// An absent or empty list matches everything, as the API's default says.
pub(super) fn matches(cx: &mut Cx<'_>, field: &str, listed: Option<&[HttpRouteRulesMatches]>) -> Vec<RouteMatch> {
    let listed = listed.unwrap_or_default();
    cx.at_most(field, listed, 64);
    if listed.is_empty() {
        return vec![RouteMatch::default()];
    }
    listed.iter().enumerate().map(|(i, m)| one(cx, &format!("{field}[{i}]"), m)).collect()
}

fn one(cx: &mut Cx<'_>, field: &str, listed: &HttpRouteRulesMatches) -> RouteMatch {
    let path = listed.path.as_ref().map(|p| path(cx, &format!("{field}.path"), p));
    let method = listed.method.as_ref().map(method);
    let mut headers = Vec::new();
    let given = listed.headers.as_deref().unwrap_or_default();
    cx.at_most(&format!("{field}.headers"), given, 16);
    for (i, header) in given.iter().enumerate() {
        headers.extend(header_match(cx, &format!("{field}.headers[{i}]"), header, &headers));
    }
    let given = listed.query_params.as_deref().unwrap_or_default();
    cx.at_most(&format!("{field}.queryParams"), given, 16);
    let (mut query, mut seen) = (Vec::new(), HashSet::new());
    for (i, param) in given.iter().enumerate() {
        let field = format!("{field}.queryParams[{i}]");
        if !seen.insert(param.name.as_str()) {
            cx.error(&format!("{field}.name"), format!("query parameter {:?} is matched twice", param.name));
        }
        query.push(query_match(cx, &field, param));
    }
    RouteMatch { path: path.unwrap_or_else(|| RouteMatch::default().path), method, headers, query }
}

fn path(cx: &mut Cx<'_>, field: &str, path: &HttpRouteRulesMatchesPath) -> PathPattern {
    let (value, at) = (path.value.as_deref().unwrap_or("/"), format!("{field}.value"));
    if value.len() > MAX_PATH {
        cx.error(&at, format!("longer than {MAX_PATH} characters"));
    }
    match path.r#type.as_ref().unwrap_or(&PathType::PathPrefix) {
        PathType::Exact => {
            plain_path(cx, &at, value);
            PathPattern::Exact(value.into())
        }
        PathType::PathPrefix => {
            plain_path(cx, &at, value);
            PathPattern::Prefix(value.into())
        }
        PathType::RegularExpression => {
            regex(cx, &at, value);
            PathPattern::Regex(value.into())
        }
    }
}

/// The API server's rules for a path that is no regular expression.
fn plain_path(cx: &mut Cx<'_>, field: &str, value: &str) {
    if !value.starts_with('/') {
        return cx.error(field, "a path starts with '/'");
    }
    for part in ["//", "/./", "/../", "%2f", "%2F", "#"] {
        if value.contains(part) {
            return cx.error(field, format!("a path must not contain {part:?}"));
        }
    }
    if value.ends_with("/..") || value.ends_with("/.") {
        return cx.error(field, "a path must not end with '/..' or '/.'");
    }
    if !is_path(value) {
        cx.error(field, format!("{value:?} holds a character that paths do not have"));
    }
}

/// Only RFC 3986 path characters and whole percent escapes.
pub(super) fn is_path(value: &str) -> bool {
    let mut bytes = value.bytes();
    while let Some(byte) = bytes.next() {
        let good = match byte {
            b'%' => bytes.next().is_some_and(|b| b.is_ascii_hexdigit()) && bytes.next().is_some_and(|b| b.is_ascii_hexdigit()),
            _ => byte.is_ascii_alphanumeric() || b"-/._~!$&'()*+,;=:@".contains(&byte),
        };
        if !good {
            return false;
        }
    }
    true
}

fn header_match(cx: &mut Cx<'_>, field: &str, header: &HttpRouteRulesMatchesHeaders, earlier: &[HeaderMatch]) -> Option<HeaderMatch> {
    let name = header_name(cx, &format!("{field}.name"), &header.name)?;
    if earlier.iter().any(|h| h.name == name) {
        cx.error(&format!("{field}.name"), format!("header {name} is matched twice"));
    }
    let is_regex = matches!(header.r#type, Some(HeaderType::RegularExpression));
    Some(HeaderMatch { name, value: value(cx, &format!("{field}.value"), &header.value, is_regex, 4096) })
}

fn query_match(cx: &mut Cx<'_>, field: &str, param: &HttpRouteRulesMatchesQueryParams) -> QueryMatch {
    // The API takes the syntax of header names for these names, too.
    header_name(cx, &format!("{field}.name"), &param.name);
    let is_regex = matches!(param.r#type, Some(QueryType::RegularExpression));
    QueryMatch { name: param.name.as_str().into(), value: value(cx, &format!("{field}.value"), &param.value, is_regex, 1024) }
}

fn value(cx: &mut Cx<'_>, field: &str, text: &str, is_regex: bool, longest: usize) -> ValueMatch {
    if text.is_empty() || text.len() > longest {
        cx.error(field, format!("a value has 1 to {longest} characters"));
    }
    if is_regex {
        regex(cx, field, text);
        return ValueMatch::Regex(text.into());
    }
    ValueMatch::Exact(text.into())
}

/// A header name as the API allows it.
pub(super) fn header_name(cx: &mut Cx<'_>, field: &str, name: &str) -> Option<HeaderName> {
    let parsed = name.parse::<HeaderName>().ok().filter(|_| name.len() <= 256);
    if parsed.is_none() {
        cx.error(field, format!("{name:?} is not a header name"));
    }
    parsed
}

/// Judged as the route table will compile it.
fn regex(cx: &mut Cx<'_>, field: &str, text: &str) {
    if let Err(error) = compile_regex(text) {
        cx.error(field, error_chain(&error));
    }
}

/// The last line of a parser's message says what is wrong; those before draw where.
fn error_chain(error: &RouteError) -> String {
    let cause = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    match cause.lines().last() {
        Some(reason) => format!("not a regular expression: {}", reason.trim_start_matches("error: ")),
        None => error.to_string(),
    }
}

fn method(method: &ApiMethod) -> Method {
    match method {
        ApiMethod::Get => Method::GET,
        ApiMethod::Head => Method::HEAD,
        ApiMethod::Post => Method::POST,
        ApiMethod::Put => Method::PUT,
        ApiMethod::Delete => Method::DELETE,
        ApiMethod::Connect => Method::CONNECT,
        ApiMethod::Options => Method::OPTIONS,
        ApiMethod::Trace => Method::TRACE,
        ApiMethod::Patch => Method::PATCH,
    }
}
