//! Decodes HTTPRoute and holds it to the rules that the API server would (CEL, ranges, list sizes).

use super::{
    Owns,
    decode::{Cx, Outcome, Referent},
    filters::{self, Place},
    matches,
};
use crate::model::{
    BackendRef, BackendTarget, Hostname, HttpRoute as Route, Parent, PathPattern, Resource, ResourceName, Retry, RouteMatch, RouteRule,
    Timeouts,
};
use gateway_api::experimental::httproutes::{
    HttpRoute, HttpRouteParentRefs, HttpRouteRules, HttpRouteRulesBackendRefs, HttpRouteRulesRetry, HttpRouteRulesTimeouts,
};
use http::StatusCode;
use std::{collections::HashSet, time::Duration};

/// Tries after the first when `retry` does not say, as in Istio.
const DEFAULT_ATTEMPTS: u32 = 2;
/// Largest weight that the API allows.
const MAX_WEIGHT: i32 = 1_000_000;
/// Matches that one route may have in all its rules.
const MAX_MATCHES: usize = 128;

pub(super) fn http_route(cx: &mut Cx<'_>) -> Option<Outcome> {
    let object: HttpRoute = cx.typed()?;
    let spec = object.spec;
    if spec.use_default_gateways.is_some() {
        cx.error("spec.useDefaultGateways", "not implemented");
    }
    let parents = parents(cx, spec.parent_refs.as_deref().unwrap_or_default());
    let for_mesh = cx.gateways_only.is_empty();
    if for_mesh && spec.hostnames.as_ref().is_some_and(|h| !h.is_empty()) {
        cx.warn("spec.hostnames", "host names carry no meaning for a mesh route; ignored");
    }
    let listed = spec.rules.as_deref().unwrap_or_default();
    cx.at_most("spec.rules", listed, 16);
    let (mut rules, mut names) = (Vec::new(), HashSet::new());
    for (i, rule) in listed.iter().enumerate() {
        let field = format!("spec.rules[{i}]");
        if rule.name.as_ref().is_some_and(|name| !names.insert(name.as_str())) {
            cx.error(&format!("{field}.name"), "rule name is used twice");
        }
        rules.push(self::rule(cx, &field, rule));
    }
    if rules.iter().map(|r| r.matches.len()).sum::<usize>() > MAX_MATCHES {
        cx.error("spec.rules", format!("more than {MAX_MATCHES} matches in all rules"));
    }
    // The API's default for absent rules: everything to nowhere, which is answered with 500.
    if spec.rules.is_none() {
        let matches = vec![RouteMatch::default()];
        let (filters, backends) = (Vec::new(), Vec::new());
        rules.push(RouteRule { name: None, matches, filters, backends, timeouts: Timeouts::default(), retry: None });
    }
    let created = object.metadata.creation_timestamp.map(|t| t.0.as_second());
    Some(Outcome::Resources(vec![Resource::from(Route { name: cx.id.name.clone(), created, parents, rules })]))
}

fn parents(cx: &mut Cx<'_>, refs: &[HttpRouteParentRefs]) -> Vec<Parent> {
    cx.at_most("spec.parentRefs", refs, 32);
    let (mut parents, mut seen, mut gateways) = (Vec::new(), Vec::new(), Vec::new());
    for (i, reference) in refs.iter().enumerate() {
        let field = format!("spec.parentRefs[{i}]");
        if seen.contains(&reference) {
            cx.error(&field, "the same parent is listed twice");
        }
        seen.push(reference);
        let parent = parent(cx, &field, reference);
        if let Some(Parent::Gateway(name)) = &parent {
            gateways.push(name.clone());
        }
        parents.extend(parent);
    }
    if refs.is_empty() {
        cx.warn("spec.parentRefs", "a route without parents has no effect");
    }
    if gateways.len() == refs.len() {
        cx.gateways_only = gateways;
    }
    parents
}

/// One parent. What needs another resource to be complete becomes a reference and is filled in when
/// that is resolved.
fn parent(cx: &mut Cx<'_>, field: &str, reference: &HttpRouteParentRefs) -> Option<Parent> {
    let group = reference.group.as_deref().unwrap_or("gateway.networking.k8s.io");
    let kind = reference.kind.as_deref().unwrap_or("Gateway");
    let own = cx.namespace();
    let namespace = reference.namespace.as_deref().unwrap_or(&own);
    let name = ResourceName::new(namespace, &reference.name);
    let port = reference.port.map(|p| cx.port(&format!("{field}.port"), p.into()));
    let port = match port {
        Some(None) => return None,
        Some(Some(port)) => Some(port),
        None => None,
    };
    if (group, kind) == ("gateway.networking.k8s.io", "Gateway") {
        cx.refer(&format!("{field}.name"), Referent::Parent { gateway: name.clone(), from: own });
        return Some(Parent::Gateway(name));
    }
    if namespace != &*own {
        let what = "not implemented: consumer routes (a parent in another namespace than the route)";
        cx.error(&format!("{field}.namespace"), what);
        return None;
    }
    match (group, kind) {
        ("" | "core", "Service") => service_parent(cx, field, reference, port),
        ("networking.istio.io", "ServiceEntry") => {
            if reference.section_name.is_some() {
                cx.error(&format!("{field}.sectionName"), "not implemented: sectionName of a ServiceEntry");
            }
            if cx.config.owns == Owns::Policy {
                return Some(Parent::ServiceEntry { entry: name, port });
            }
            cx.refer(&format!("{field}.name"), Referent::ServiceEntry { entry: name, port });
            None
        }
        ("" | "core", "ServiceAccount") => Some(Parent::ServiceAccount(name)),
        _ => {
            cx.error(&format!("{field}.kind"), format!("unknown parent {kind:?} of group {group:?}"));
            None
        }
    }
}

fn service_parent(cx: &mut Cx<'_>, field: &str, reference: &HttpRouteParentRefs, port: Option<u16>) -> Option<Parent> {
    let service = cx.service_key(&cx.namespace(), &reference.name);
    if let Some(section) = reference.section_name.clone().filter(|s| !s.is_empty()) {
        cx.refer(&format!("{field}.sectionName"), Referent::Section { service: service.clone(), section });
        // With both, the port is only checked: the section already says it.
        if port.is_some() {
            cx.refer(&format!("{field}.port"), Referent::Service { service, port });
        }
        return None;
    }
    let at = if port.is_some() { format!("{field}.port") } else { format!("{field}.name") };
    cx.refer(&at, Referent::Service { service: service.clone(), port });
    Some(Parent::Service { service, port })
}

fn rule(cx: &mut Cx<'_>, field: &str, rule: &HttpRouteRules) -> RouteRule {
    if rule.session_persistence.is_some() {
        cx.error(&format!("{field}.sessionPersistence"), "not implemented");
    }
    let matches = matches::matches(cx, &format!("{field}.matches"), rule.matches.as_deref());
    let prefix = match matches.as_slice() {
        [only] => matches!(only.path, PathPattern::Prefix(_)),
        _ => false,
    };
    let at = format!("{field}.filters");
    let filters = filters::filters(cx, &at, rule.filters.as_deref().unwrap_or_default(), Place { prefix });
    let refs = rule.backend_refs.as_deref().unwrap_or_default();
    cx.at_most(&format!("{field}.backendRefs"), refs, 16);
    if filters.iter().any(|f| matches!(f, crate::model::Filter::Redirect(_))) && !refs.is_empty() {
        cx.error(&format!("{field}.backendRefs"), "a rule with a RequestRedirect must not have backendRefs");
    }
    let mut backends = Vec::new();
    for (i, reference) in refs.iter().enumerate() {
        backends.extend(backend(cx, &format!("{field}.backendRefs[{i}]"), reference, Place { prefix }));
    }
    let timeouts = rule.timeouts.as_ref().map(|t| timeouts(cx, &format!("{field}.timeouts"), t)).unwrap_or_default();
    let retry = rule.retry.as_ref().map(|r| retry(cx, &format!("{field}.retry"), r));
    RouteRule { name: rule.name.as_deref().map(Into::into), matches, filters, backends, timeouts, retry }
}

fn backend(cx: &mut Cx<'_>, field: &str, reference: &HttpRouteRulesBackendRefs, place: Place) -> Option<BackendRef> {
    let weight = reference.weight.unwrap_or(1);
    if !(0..=MAX_WEIGHT).contains(&weight) {
        cx.error(&format!("{field}.weight"), format!("weight {weight} is not between 0 and {MAX_WEIGHT}"));
    }
    let filters = filters::backend_filters(cx, &format!("{field}.filters"), reference.filters.as_deref().unwrap_or_default(), place);
    let target = backend_target(cx, field, reference)?;
    Some(BackendRef { target, weight: weight.max(0) as u32, filters })
}

fn backend_target(cx: &mut Cx<'_>, field: &str, reference: &HttpRouteRulesBackendRefs) -> Option<BackendTarget> {
    let (group, kind) = (reference.group.as_deref().unwrap_or_default(), reference.kind.as_deref().unwrap_or("Service"));
    let is_hostname = (group, kind) == ("networking.istio.io", "Hostname");
    if !is_hostname && (!matches!(group, "" | "core") || kind != "Service") {
        cx.refer(&format!("{field}.kind"), Referent::Never(format!("unknown backend kind {kind:?} of group {group:?}")));
        return Some(BackendTarget::Invalid);
    }
    let Some(port) = reference.port else {
        cx.error(&format!("{field}.port"), format!("port is required for a {kind}"));
        return None;
    };
    let at = format!("{field}.port");
    let port = cx.port(&at, port.into())?;
    if is_hostname {
        let hostname = Hostname::new(&reference.name);
        cx.refer(&format!("{field}.name"), Referent::Hostname { hostname: hostname.clone(), port });
        return Some(BackendTarget::Hostname { hostname, port });
    }
    let own = cx.namespace();
    let service = cx.service_key(reference.namespace.as_deref().unwrap_or(&own), &reference.name);
    cx.refer(&format!("{field}.name"), Referent::Service { service: service.clone(), port: None });
    cx.refer(&at, Referent::Service { service: service.clone(), port: Some(port) });
    Some(BackendTarget::Service { service, port })
}

fn timeouts(cx: &mut Cx<'_>, field: &str, timeouts: &HttpRouteRulesTimeouts) -> Timeouts {
    let mut read = |name: &str, text: Option<&String>| text.and_then(|t| duration(cx, &format!("{field}.{name}"), t));
    let request = read("request", timeouts.request.as_ref());
    let backend_request = read("backendRequest", timeouts.backend_request.as_ref());
    // Zero means no limit.
    let limit = |d: Option<Duration>| d.filter(|d| !d.is_zero());
    if let (Some(request), Some(each)) = (limit(request), backend_request)
        && each > request
    {
        cx.error(&format!("{field}.backendRequest"), "backendRequest must not be longer than request");
    }
    Timeouts { request: limit(request), backend_request: limit(backend_request) }
}

fn retry(cx: &mut Cx<'_>, field: &str, retry: &HttpRouteRulesRetry) -> Retry {
    let mut codes = Vec::new();
    for (i, code) in retry.codes.iter().flatten().enumerate() {
        let at = format!("{field}.codes[{i}]");
        let status = u16::try_from(*code).ok().filter(|c| (400..=599).contains(c)).and_then(|c| StatusCode::from_u16(c).ok());
        match status {
            Some(status) if codes.contains(&status) => cx.error(&at, format!("code {code} is listed twice")),
            Some(status) => codes.push(status),
            None => cx.error(&at, format!("code {code} is not between 400 and 599")),
        }
    }
    let attempts = match retry.attempts {
        None => DEFAULT_ATTEMPTS,
        Some(attempts) => u32::try_from(attempts).ok().filter(|a| *a > 0).unwrap_or_else(|| {
            cx.error(&format!("{field}.attempts"), format!("attempts is {attempts}; at least 1 is required"));
            1
        }),
    };
    let backoff = retry.backoff.as_ref().and_then(|b| duration(cx, &format!("{field}.backoff"), b));
    Retry { codes, attempts, backoff }
}

/// GEP-2257: `^([0-9]{1,5}(h|m|s|ms)){1,4}$`.
fn duration(cx: &mut Cx<'_>, field: &str, text: &str) -> Option<Duration> {
    let parsed = parse_duration(text);
    if parsed.is_none() {
        cx.error(field, format!("{text:?} is not a duration such as 1h, 10s or 500ms"));
    }
    parsed
}

/// Reads a duration of the Gateway API: `10s`, `500ms`, `1h30m` (GEP-2257); `None` if it is none.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let (mut total, mut rest, mut parts) = (Duration::ZERO, text, 0);
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if !(1..=5).contains(&digits) || parts == 4 {
            return None;
        }
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let (millis, unit) = if rest.starts_with("ms") {
            (1, 2)
        } else {
            match rest.bytes().next()? {
                b'h' => (3_600_000, 1),
                b'm' => (60_000, 1),
                b's' => (1_000, 1),
                _ => return None,
            }
        };
        total += Duration::from_millis(number * millis);
        rest = &rest[unit..];
        parts += 1;
    }
    (parts > 0).then_some(total)
}
