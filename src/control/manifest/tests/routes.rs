use super::{super::route::parse_duration, *};
use crate::model::{BackendTarget, Filter, HttpRoute, Parent, PathModifier, PathPattern};
use std::time::Duration;

/// A route of `reviews` with these rules, after the service; its first rule is line 12.
fn route(rules: &str) -> String {
    route_with("[{group: '', kind: Service, name: reviews}]", rules)
}

fn route_with(parents: &str, rules: &str) -> String {
    format!(
        "{REVIEWS}---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r}}\nspec:\n  parentRefs: {parents}\n  rules:\n{rules}"
    )
}

fn read(text: &str) -> HttpRoute {
    HttpRoute::clone(mesh(text).routes.values().next().unwrap())
}

#[track_caller]
fn refused(rows: &[(&str, &str)]) {
    let row = |(rule, expected): &(&str, &str)| {
        let found = findings(&route(&format!("  - {rule}\n")));
        let expected = [expected.replace('@', "error: HTTPRoute default/r: spec.rules[0]")];
        (found != expected).then(|| format!("{rule}\n  found    {found:?}\n  expected {expected:?}"))
    };
    let wrong: Vec<String> = rows.iter().filter_map(row).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_route_is_read() {
    let text = include_str!("all_kinds.yaml").replace("name: bookinfo\n  labels: {", "name: bookinfo\n  labels: {team: a, ");
    let route = read(&text);
    assert_eq!(route.created, Some(1_704_067_200));
    // A section becomes its port, a ServiceEntry its hosts.
    let services = route.parents.iter().filter_map(|p| match p {
        Parent::Service { service, port } => Some((service.hostname.as_str().to_owned(), *port)),
        Parent::ServiceEntry { .. } | Parent::ServiceAccount(_) | Parent::Gateway(_) => None,
    });
    let reviews = || "reviews.bookinfo.svc.cluster.local".to_owned();
    let expected = [(reviews(), Some(9080)), (reviews(), Some(9081)), ("api.example.com".into(), None), ("www.example.com".into(), None)];
    assert_eq!(services.collect::<Vec<_>>(), expected);
    assert_eq!(route.parents.len(), 6);
    let rule = &route.rules[0];
    assert_eq!(rule.name.as_deref(), Some("first"));
    assert_eq!(rule.matches[0].path, PathPattern::Prefix("/api".into()));
    assert_eq!((rule.matches[0].headers.len(), rule.matches[0].query.len()), (2, 1));
    assert_eq!(rule.matches[0].headers[0].name, "x-user");
    assert!(matches!(&rule.filters[1], Filter::Rewrite(r) if r.path == Some(PathModifier::Prefix("/v2".into()))));
    assert_eq!((rule.backends[0].weight, rule.backends[0].filters.len(), rule.backends[1].weight), (3, 1, 1));
    assert!(matches!(rule.backends[1].target, BackendTarget::Hostname { port: 80, .. }));
    assert_eq!(rule.timeouts.backend_request, Some(Duration::from_millis(1500)));
    assert_eq!(rule.retry.as_ref().map(|r| (r.attempts, r.codes.len(), r.backoff)), Some((3, 2, Some(Duration::from_millis(100)))));
    // The default of an absent match.
    assert_eq!(route.rules[1].matches, [crate::model::RouteMatch::default()]);
}

#[test]
fn zero_means_no_time_limit() {
    let route = read(&route("  - timeouts: {request: 0s, backendRequest: 5s}\n"));
    assert_eq!((route.rules[0].timeouts.request, route.rules[0].timeouts.backend_request), (None, Some(Duration::from_secs(5))));
}

#[test]
fn durations_follow_gep_2257() {
    let rows = [
        ("1h", Some(3_600_000)),
        ("1h30m10s500ms", Some(5_410_500)),
        ("10s", Some(10_000)),
        ("99999ms", Some(99_999)),
        ("0s", Some(0)),
        ("", None),
        ("1", None),
        ("1.5s", None),
        ("-1s", None),
        ("100000s", None),
        ("1d", None),
        ("1s1s1s1s1s", None),
        ("1µs", None),
        ("s", None),
    ];
    for (text, expected) in rows {
        assert_eq!(parse_duration(text), expected.map(Duration::from_millis), "{text:?}");
    }
}

#[test]
fn paths_are_held_to_the_rules_of_the_api_server() {
    let paths = [
        ("x", "a path starts with '/'"),
        ("/a//b", "a path must not contain \"//\""),
        ("/a/./b", "a path must not contain \"/./\""),
        ("/a/../b", "a path must not contain \"/../\""),
        ("/a%2fb", "a path must not contain \"%2f\""),
        ("/a%2Fb", "a path must not contain \"%2F\""),
        ("/a#b", "a path must not contain \"#\""),
        ("/a/..", "a path must not end with '/..' or '/.'"),
        ("/a/.", "a path must not end with '/..' or '/.'"),
        ("/a?b", "\"/a?b\" holds a character that paths do not have"),
        ("/a b", "\"/a b\" holds a character that paths do not have"),
        ("/a%2", "\"/a%2\" holds a character that paths do not have"),
    ];
    for kind in ["Exact", "PathPrefix"] {
        for (path, message) in paths {
            let found = findings(&route(&format!("  - matches: [{{path: {{type: {kind}, value: '{path}'}}}}]\n")));
            let column = 38 + kind.len();
            assert_eq!(found, [format!("12:{column}: error: HTTPRoute default/r: spec.rules[0].matches[0].path.value: {message}")]);
        }
        for good in ["/", "/a", "/a/", "/a%20b", "/~a!$&'()*+,;=:@-._"] {
            let good = good.replace('\'', "''");
            mesh(&route(&format!("  - matches: [{{path: {{type: {kind}, value: '{good}'}}}}]\n")));
        }
    }
}

#[test]
fn matches_are_refused() {
    refused(&[
        (
            "matches: [{path: {type: RegularExpression, value: '(a'}}]",
            "12:55: @.matches[0].path.value: not a regular expression: unclosed group",
        ),
        (
            "matches: [{path: {type: Glob, value: /}}]",
            "12:29: @.matches[0].path.type: unknown variant `Glob`, expected one of `Exact`, `PathPrefix`, `RegularExpression`",
        ),
        (
            "matches: [{headers: [{name: a, value: b}, {name: A, value: c}]}]",
            "12:54: @.matches[0].headers[1].name: header a is matched twice",
        ),
        ("matches: [{headers: [{name: 'a b', value: b}]}]", "12:33: @.matches[0].headers[0].name: \"a b\" is not a header name"),
        ("matches: [{headers: [{name: a, value: ''}]}]", "12:43: @.matches[0].headers[0].value: a value has 1 to 4096 characters"),
        ("matches: [{headers: [{name: a}]}]", "12:26: @.matches[0].headers[0]: missing field `value`"),
        (
            "matches: [{queryParams: [{name: a, value: b}, {name: a, value: c}]}]",
            "12:58: @.matches[0].queryParams[1].name: query parameter \"a\" is matched twice",
        ),
        (
            "matches: [{method: get}]",
            "12:24: @.matches[0].method: unknown variant `get`, expected one of `GET`, `HEAD`, `POST`, `PUT`, `DELETE`, `CONNECT`, `OPTIONS`, `TRACE`, `PATCH`",
        ),
    ]);
}

#[test]
fn lists_have_their_limits() {
    let many = |count: usize, item: &str| vec![item; count].join(", ");
    mesh(&route(&format!("  - matches: [{}]\n", many(64, "{}"))));
    refused(&[(&format!("matches: [{}]", many(65, "{}")), "12:5: @.matches: 65 items; at most 64 are allowed")]);
    let rules = "  - {}\n".repeat(17);
    assert_eq!(findings(&route(&rules)), ["11:3: error: HTTPRoute default/r: spec.rules: 17 items; at most 16 are allowed"]);
    let rules = format!("  - matches: [{}]\n", many(43, "{}")).repeat(3);
    assert_eq!(findings(&route(&rules)), ["11:3: error: HTTPRoute default/r: spec.rules: more than 128 matches in all rules"]);
}

#[test]
fn filters_are_refused() {
    let modifier = "{type: RequestHeaderModifier, requestHeaderModifier: {}}";
    let redirect = "{type: RequestRedirect, requestRedirect: {}}";
    let rewrite = "{type: URLRewrite, urlRewrite: {}}";
    refused(&[
        ("filters: [{type: RequestRedirect}]", "12:15: @.filters[0]: requestRedirect is required for filter RequestRedirect"),
        (
            "filters: [{type: RequestRedirect, requestRedirect: {}, urlRewrite: {}}]",
            "12:60: @.filters[0].urlRewrite: urlRewrite does not belong to filter RequestRedirect",
        ),
        (&format!("filters: [{modifier}, {modifier}]"), "12:73: @.filters[1]: filter RequestHeaderModifier is repeated"),
        (&format!("filters: [{redirect}, {rewrite}]"), "12:5: @.filters: RequestRedirect and URLRewrite exclude each other"),
        (
            &format!("{{filters: [{redirect}], backendRefs: [{{name: reviews, port: 80}}]}}"),
            "12:63: @.backendRefs: a rule with a RequestRedirect must not have backendRefs",
        ),
        (
            "filters: [{type: RequestRedirect, requestRedirect: {statusCode: 200}}]",
            "12:69: @.filters[0].requestRedirect.statusCode: 200 is none of 301, 302, 303, 307, 308",
        ),
        (
            "filters: [{type: RequestRedirect, requestRedirect: {port: 0}}]",
            "12:63: @.filters[0].requestRedirect.port: port 0 is not between 1 and 65535",
        ),
        (
            "filters: [{type: URLRewrite, urlRewrite: {hostname: 'A b'}}]",
            "12:57: @.filters[0].urlRewrite.hostname: \"A b\" is not a host name",
        ),
        (
            "{matches: [{path: {type: Exact, value: /}}], filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /x}}}]}",
            "12:145: @.filters[0].urlRewrite.path.replacePrefixMatch: ReplacePrefixMatch needs exactly one match in the rule, of type PathPrefix",
        ),
        (
            "filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /y, replacePrefixMatch: /x}}}]",
            "12:118: @.filters[0].urlRewrite.path.replacePrefixMatch: replacePrefixMatch does not belong to this type",
        ),
        (
            "filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: a, value: \"x\\ny\"}]}}]",
            "12:92: @.filters[0].requestHeaderModifier.set[0].value: not a header value of 1 to 4096 printable characters",
        ),
        (
            "filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: a, value: b}], remove: [A]}}]",
            "12:97: @.filters[0].requestHeaderModifier.remove: header a is both changed and removed",
        ),
        (
            "filters: [{type: Magic}]",
            "12:22: @.filters[0].type: unknown variant `Magic`, expected one of `RequestHeaderModifier`, `ResponseHeaderModifier`, `RequestMirror`, `RequestRedirect`, `URLRewrite`, `ExtensionRef`, `CORS`, `ExternalAuth`",
        ),
        ("filters: [{type: CORS, cors: {}}]", "12:22: @.filters[0].type: not implemented: filter CORS"),
        (
            "filters: [{type: RequestMirror, requestMirror: {backendRef: {name: x, port: 80}}}]",
            "12:22: @.filters[0].type: not implemented: filter RequestMirror",
        ),
        (
            "filters: [{type: ExtensionRef, extensionRef: {group: a, kind: b, name: c}}]",
            "12:22: @.filters[0].type: not implemented: filter ExtensionRef",
        ),
    ]);
}

#[test]
fn backends_are_refused() {
    refused(&[
        ("backendRefs: [{name: reviews}]", "12:19: @.backendRefs[0].port: port is required for a Service"),
        (
            "backendRefs: [{name: reviews, port: 80, weight: 1000001}]",
            "12:53: @.backendRefs[0].weight: weight 1000001 is not between 0 and 1000000",
        ),
        ("backendRefs: [{name: reviews, port: 80, weight: -1}]", "12:53: @.backendRefs[0].weight: weight -1 is not between 0 and 1000000"),
        (
            "backendRefs: [{name: gone, port: 80}]",
            "12:26: @.backendRefs[0].name: service default/gone.default.svc.cluster.local does not exist",
        ),
        (
            "backendRefs: [{name: reviews, port: 81}]",
            "12:41: @.backendRefs[0].port: service default/reviews.default.svc.cluster.local has no port 81",
        ),
        (
            "backendRefs: [{name: x, kind: Bucket, group: a}]",
            "12:35: @.backendRefs[0].kind: unknown backend kind \"Bucket\" of group \"a\"",
        ),
        (
            "backendRefs: [{name: a.example, kind: Hostname, group: networking.istio.io, port: 80}]",
            "12:26: @.backendRefs[0].name: no service has the host name a.example",
        ),
        (
            "backendRefs: [{name: reviews, port: 80, filters: [{type: CORS, cors: {}}]}]",
            "12:62: @.backendRefs[0].filters[0].type: not implemented: filter CORS",
        ),
    ]);
    let dir = Dir::with("m.yaml", &route("  - backendRefs: [{name: x, kind: Bucket, group: a}]\n"));
    let lenient = load(Config { lenient: true, ..dir.config() });
    assert_eq!(lenient.mesh.routes.values().next().unwrap().rules[0].backends[0].target, BackendTarget::Invalid);
}

#[test]
fn timeouts_and_retries_are_refused() {
    refused(&[
        ("timeouts: {request: 1s, backendRequest: 2s}", "12:45: @.timeouts.backendRequest: backendRequest must not be longer than request"),
        ("timeouts: {request: 1.5s}", "12:25: @.timeouts.request: \"1.5s\" is not a duration such as 1h, 10s or 500ms"),
        ("retry: {attempts: 0}", "12:23: @.retry.attempts: attempts is 0; at least 1 is required"),
        ("retry: {codes: [399]}", "12:21: @.retry.codes[0]: code 399 is not between 400 and 599"),
        ("retry: {codes: [500, 500]}", "12:26: @.retry.codes[1]: code 500 is listed twice"),
        ("sessionPersistence: {sessionName: x}", "12:5: @.sessionPersistence: not implemented"),
        ("timeout: 1s", "12:5: @.timeout: unknown field"),
    ]);
}

#[test]
fn parents_are_refused() {
    let rows = [
        ("{group: '', kind: Service, name: gone}", "10:49: error: @.name: service default/gone.default.svc.cluster.local does not exist"),
        (
            "{group: '', kind: Service, name: reviews, port: 81}",
            "10:64: error: @.port: service default/reviews.default.svc.cluster.local has no port 81",
        ),
        (
            "{group: '', kind: Service, name: reviews, sectionName: x}",
            "10:71: error: @.sectionName: service default/reviews.default.svc.cluster.local has no port named \"x\"",
        ),
        (
            "{group: '', kind: Service, name: reviews, namespace: other}",
            "10:69: error: @.namespace: not implemented: consumer routes (a parent in another namespace than the route)",
        ),
        ("{group: apps, kind: Deployment, name: x}", "10:36: error: @.kind: unknown parent \"Deployment\" of group \"apps\""),
        ("{name: w}", "10:23: error: @.name: Gateway default/w does not exist"),
        ("{group: networking.istio.io, kind: ServiceEntry, name: e}", "10:71: error: @.name: ServiceEntry default/e does not exist"),
    ];
    let mut wrong = Vec::new();
    for (parent, expected) in rows {
        let found = findings(&route_with(&format!("[{parent}]"), "  - {}\n"));
        let expected = [expected.replace('@', "HTTPRoute default/r: spec.parentRefs[0]")];
        if found != expected {
            wrong.push(format!("{parent}\n  found    {found:?}\n  expected {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // A service account has no object that could be missing.
    mesh(&route_with("[{group: '', kind: ServiceAccount, name: anybody}]", "  - {}\n"));
}

#[test]
fn a_route_of_another_controllers_gateway_is_none_of_ours() {
    let gateway = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: w}\nspec: {gatewayClassName: istio}\n";
    let text = route_with("[{name: w}]", "  - filters: [{type: CORS, cors: {}}]\n") + gateway;
    assert_eq!(findings(&text), ["14:1: warning: Gateway class \"istio\" is not a waypoint class; skipped"]);
}

#[test]
fn host_names_and_missing_parents_are_warned_of() {
    let text = route("  - {}\n").replace("  rules:", "  hostnames: [a.example]\n  rules:");
    assert_eq!(
        findings(&text),
        ["11:3: warning: HTTPRoute default/r: spec.hostnames: host names carry no meaning for a mesh route; ignored"]
    );
}
