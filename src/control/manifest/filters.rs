//! Decodes the filters of an HTTPRoute's rules and backends.

use super::{
    decode::Cx,
    matches::{header_name, is_path},
};
use crate::model::{Filter, HeaderModifier, PathModifier, Redirect, UrlRewrite};
use gateway_api::experimental::httproutes::{
    HttpRouteRulesBackendRefsFilters, HttpRouteRulesFilters, HttpRouteRulesFiltersRequestHeaderModifier as ApiModifier,
    HttpRouteRulesFiltersRequestRedirect as ApiRedirect, HttpRouteRulesFiltersRequestRedirectPath as ApiPath,
    HttpRouteRulesFiltersRequestRedirectPathType as ApiPathType, HttpRouteRulesFiltersRequestRedirectScheme as ApiScheme,
    HttpRouteRulesFiltersType as Type, HttpRouteRulesFiltersUrlRewrite as ApiRewrite,
};
use http::{HeaderName, HeaderValue, StatusCode};
use serde::{Serialize, de::DeserializeOwned};
use std::sync::Arc;

/// What the filters' rule says about them.
#[derive(Clone, Copy)]
pub(super) struct Place {
    /// The rule has exactly one match, of a path prefix.
    pub(super) prefix: bool,
}

/// The published types repeat the same shapes under other names for each place they stand in.
fn same_shape<T: DeserializeOwned>(value: &impl Serialize) -> Option<T> {
    serde_json::from_value(serde_json::to_value(value).ok()?).ok()
}

/// Filters of a backend: the same as those of a rule.
pub(super) fn backend_filters(cx: &mut Cx<'_>, field: &str, listed: &[HttpRouteRulesBackendRefsFilters], place: Place) -> Vec<Filter> {
    let listed: Vec<HttpRouteRulesFilters> = listed.iter().filter_map(same_shape).collect();
    let decoded = filters(cx, field, &listed, place);
    if let Some(i) = listed.iter().position(|f| matches!(f.r#type, Type::RequestRedirect)) {
        cx.error(&format!("{field}[{i}]"), "not implemented: RequestRedirect on a backend");
    }
    decoded
}

pub(super) fn filters(cx: &mut Cx<'_>, field: &str, listed: &[HttpRouteRulesFilters], place: Place) -> Vec<Filter> {
    cx.at_most(field, listed, 16);
    let mut decoded = Vec::new();
    for (i, filter) in listed.iter().enumerate() {
        let at = format!("{field}[{i}]");
        if listed[..i].iter().any(|f| f.r#type == filter.r#type) && !matches!(filter.r#type, Type::RequestMirror | Type::ExtensionRef) {
            cx.error(&at, format!("filter {} is repeated", type_name(&filter.r#type)));
        }
        decoded.extend(self::filter(cx, &at, filter, place));
    }
    let has = |kind: &Type| listed.iter().any(|f| f.r#type == *kind);
    if has(&Type::RequestRedirect) && has(&Type::UrlRewrite) {
        cx.error(field, "RequestRedirect and URLRewrite exclude each other");
    }
    decoded
}

fn type_name(kind: &Type) -> &'static str {
    match kind {
        Type::RequestHeaderModifier => "RequestHeaderModifier",
        Type::ResponseHeaderModifier => "ResponseHeaderModifier",
        Type::RequestMirror => "RequestMirror",
        Type::RequestRedirect => "RequestRedirect",
        Type::UrlRewrite => "URLRewrite",
        Type::ExtensionRef => "ExtensionRef",
        Type::Cors => "CORS",
        Type::ExternalAuth => "ExternalAuth",
    }
}

fn filter(cx: &mut Cx<'_>, field: &str, filter: &HttpRouteRulesFilters, place: Place) -> Option<Filter> {
    payload_agrees(cx, field, filter);
    match filter.r#type {
        Type::RequestHeaderModifier => {
            let modifier = filter.request_header_modifier.as_ref()?;
            Some(Filter::RequestHeaders(header_modifier(cx, &format!("{field}.requestHeaderModifier"), modifier)))
        }
        Type::ResponseHeaderModifier => {
            let modifier = same_shape(filter.response_header_modifier.as_ref()?)?;
            Some(Filter::ResponseHeaders(header_modifier(cx, &format!("{field}.responseHeaderModifier"), &modifier)))
        }
        Type::RequestRedirect => redirect(cx, &format!("{field}.requestRedirect"), filter.request_redirect.as_ref()?, place),
        Type::UrlRewrite => Some(rewrite(cx, &format!("{field}.urlRewrite"), filter.url_rewrite.as_ref()?, place)),
        Type::RequestMirror | Type::ExtensionRef | Type::Cors | Type::ExternalAuth => {
            cx.error(&format!("{field}.type"), format!("not implemented: filter {}", type_name(&filter.r#type)));
            None
        }
    }
}

/// Each type has its payload, and only its own.
fn payload_agrees(cx: &mut Cx<'_>, field: &str, filter: &HttpRouteRulesFilters) {
    let payloads = [
        (Type::RequestHeaderModifier, "requestHeaderModifier", filter.request_header_modifier.is_some()),
        (Type::ResponseHeaderModifier, "responseHeaderModifier", filter.response_header_modifier.is_some()),
        (Type::RequestMirror, "requestMirror", filter.request_mirror.is_some()),
        (Type::RequestRedirect, "requestRedirect", filter.request_redirect.is_some()),
        (Type::UrlRewrite, "urlRewrite", filter.url_rewrite.is_some()),
        (Type::ExtensionRef, "extensionRef", filter.extension_ref.is_some()),
        (Type::Cors, "cors", filter.cors.is_some()),
        (Type::ExternalAuth, "externalAuth", filter.external_auth.is_some()),
    ];
    for (kind, name, given) in payloads {
        let word = type_name(&filter.r#type);
        if kind == filter.r#type && !given {
            cx.error(field, format!("{name} is required for filter {word}"));
        } else if kind != filter.r#type && given {
            cx.error(&format!("{field}.{name}"), format!("{name} does not belong to filter {word}"));
        }
    }
}

fn header_modifier(cx: &mut Cx<'_>, field: &str, modifier: &ApiModifier) -> HeaderModifier {
    let mut decoded = HeaderModifier::default();
    let given = modifier.set.as_deref().unwrap_or_default();
    cx.at_most(&format!("{field}.set"), given, 16);
    for (i, header) in given.iter().enumerate() {
        decoded.set.extend(pair(cx, &format!("{field}.set[{i}]"), &header.name, &header.value, &decoded.set));
    }
    let given = modifier.add.as_deref().unwrap_or_default();
    cx.at_most(&format!("{field}.add"), given, 16);
    for (i, header) in given.iter().enumerate() {
        decoded.add.extend(pair(cx, &format!("{field}.add[{i}]"), &header.name, &header.value, &decoded.add));
    }
    let given = modifier.remove.as_deref().unwrap_or_default();
    cx.at_most(&format!("{field}.remove"), given, 16);
    for (i, name) in given.iter().enumerate() {
        let at = format!("{field}.remove[{i}]");
        let Some(name) = header_name(cx, &at, name) else { continue };
        if decoded.remove.contains(&name) {
            cx.error(&at, format!("header {name} is listed twice"));
        }
        decoded.remove.push(name);
    }
    conflicts(cx, field, &decoded);
    decoded
}

/// One header, one action (API documentation of `HTTPHeaderFilter`).
fn conflicts(cx: &mut Cx<'_>, field: &str, modifier: &HeaderModifier) {
    let set: Vec<_> = modifier.set.iter().map(|(name, _)| name).collect();
    let add: Vec<_> = modifier.add.iter().map(|(name, _)| name).collect();
    for name in &modifier.remove {
        if set.contains(&name) || add.contains(&name) {
            cx.error(&format!("{field}.remove"), format!("header {name} is both changed and removed"));
        }
    }
    for name in add.iter().filter(|n| set.contains(n)) {
        cx.error(&format!("{field}.add"), format!("header {name} is both set and added"));
    }
}

fn pair(cx: &mut Cx<'_>, field: &str, name: &str, value: &str, earlier: &[(HeaderName, HeaderValue)]) -> Option<(HeaderName, HeaderValue)> {
    let name = header_name(cx, &format!("{field}.name"), name)?;
    if earlier.iter().any(|(n, _)| *n == name) {
        cx.error(&format!("{field}.name"), format!("header {name} is listed twice"));
    }
    let parsed = HeaderValue::from_str(value).ok().filter(|_| (1..=4096).contains(&value.len()));
    if parsed.is_none() {
        cx.error(&format!("{field}.value"), "not a header value of 1 to 4096 printable characters");
    }
    Some((name, parsed?))
}

fn redirect(cx: &mut Cx<'_>, field: &str, redirect: &ApiRedirect, place: Place) -> Option<Filter> {
    let port = match redirect.port {
        Some(port) => Some(cx.port(&format!("{field}.port"), port.into())?),
        None => None,
    };
    let code = redirect.status_code.unwrap_or(302);
    let status = u16::try_from(code).ok().filter(|c| matches!(c, 301 | 302 | 303 | 307 | 308)).and_then(|c| StatusCode::from_u16(c).ok());
    if status.is_none() {
        cx.error(&format!("{field}.statusCode"), format!("{code} is none of 301, 302, 303, 307, 308"));
    }
    let scheme = redirect.scheme.as_ref().map(|s| match s {
        ApiScheme::Http => Arc::from("http"),
        ApiScheme::Https => Arc::from("https"),
    });
    let hostname = hostname(cx, &format!("{field}.hostname"), redirect.hostname.as_deref());
    let path = redirect.path.as_ref().and_then(|p| path(cx, &format!("{field}.path"), p, place));
    Some(Filter::Redirect(Redirect { scheme, hostname, port, path, status: status? }))
}

fn rewrite(cx: &mut Cx<'_>, field: &str, rewrite: &ApiRewrite, place: Place) -> Filter {
    let given = rewrite.path.as_ref().and_then(same_shape);
    let path = given.and_then(|p: ApiPath| path(cx, &format!("{field}.path"), &p, place));
    Filter::Rewrite(UrlRewrite { hostname: hostname(cx, &format!("{field}.hostname"), rewrite.hostname.as_deref()), path })
}

fn hostname(cx: &mut Cx<'_>, field: &str, name: Option<&str>) -> Option<Arc<str>> {
    let name = name?;
    if !super::decode::is_dns_name(name) {
        cx.error(field, format!("{name:?} is not a host name"));
    }
    Some(name.into())
}

fn path(cx: &mut Cx<'_>, field: &str, path: &ApiPath, place: Place) -> Option<PathModifier> {
    let (wanted, other, name, other_name) = match path.r#type {
        ApiPathType::ReplaceFullPath => (&path.replace_full_path, &path.replace_prefix_match, "replaceFullPath", "replacePrefixMatch"),
        ApiPathType::ReplacePrefixMatch => (&path.replace_prefix_match, &path.replace_full_path, "replacePrefixMatch", "replaceFullPath"),
    };
    if other.is_some() {
        cx.error(&format!("{field}.{other_name}"), format!("{other_name} does not belong to this type"));
    }
    let Some(value) = wanted.as_deref() else {
        cx.error(field, format!("{name} is required for this type"));
        return None;
    };
    if !is_path(value) || value.len() > 1024 {
        cx.error(&format!("{field}.{name}"), format!("{value:?} is not a path of at most 1024 characters"));
    }
    match path.r#type {
        ApiPathType::ReplaceFullPath => Some(PathModifier::Full(value.into())),
        ApiPathType::ReplacePrefixMatch => {
            if !place.prefix {
                cx.error(&format!("{field}.{name}"), "ReplacePrefixMatch needs exactly one match in the rule, of type PathPrefix");
            }
            Some(PathModifier::Prefix(value.into()))
        }
    }
}
