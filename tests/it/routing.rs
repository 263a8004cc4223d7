//! Where a request goes (Gateway API HTTPRoute; contract `gateway-api.md` 2).

use crate::support::{
    Backend, MeshBuilder, Raw,
    backend::full,
    client::{Answer, get},
    manifests::*,
    mesh::NS,
    soon,
};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use std::collections::HashMap;

const APP: u16 = 8080;

/// Services `a` (NET.10) and `b` (NET.12), one pod each at the next address.
fn mesh() -> MeshBuilder {
    MeshBuilder::new()
        .manifests(service(NS, "a", 10, &[("http", 80, APP), ("http-too", 81, APP)]))
        .manifests(pod(NS, "a-1", "a", "a", 11))
        .manifests(service(NS, "b", 12, &[("http", 80, APP)]))
        .manifests(pod(NS, "b-1", "b", "b", 13))
        .manifests(pod(NS, "client", "client", "client", 20))
}

const TO_A: &str = "backendRefs: [{name: a, port: 80}]";

#[tokio::test(flavor = "multi_thread")]
async fn the_most_specific_match_decides() {
    let rules = [
        ("root", "{path: {type: PathPrefix, value: /}}"),
        ("prefix", "{path: {type: PathPrefix, value: /a}}"),
        ("longer", "{path: {type: PathPrefix, value: /a/b/}}"),
        ("exact", "{path: {type: Exact, value: /a/b}}"),
        ("regex", "{path: {type: RegularExpression, value: \"/r/[0-9]+\"}}"),
        ("method", "{path: {value: /a}, method: POST}"),
        ("header", "{path: {value: /a}, headers: [{name: X-One, value: \"1\"}]}"),
        (
            "headers",
            "{path: {value: /a}, headers: [{name: x-one, value: \"1\"}, {name: x-two, type: RegularExpression, value: \"[0-9]+\"}]}",
        ),
        ("query", "{path: {value: /a}, queryParams: [{name: q, value: \"1\"}]}"),
        ("queries", "{path: {value: /a}, queryParams: [{name: q, value: \"1\"}, {name: r, type: RegularExpression, value: \"x.*\"}]}"),
        ("either", "{path: {type: Exact, value: /e}}, {path: {value: /m}, method: PUT}"),
    ];
    let text: String = rules.iter().map(|(name, matches)| format!("- name: {name}\n  matches: [{matches}]\n  {TO_A}\n")).collect();
    let mut mesh = mesh().manifests(route(NS, "r", "a", &text)).start();
    let _workload = mesh.workload("a-1", "a", 11);
    let client = mesh.client("client");
    type Row = (&'static str, &'static str, &'static [(&'static str, &'static str)], &'static str);
    let rows: [Row; 27] = [
        ("GET", "/", &[], "root"),
        ("GET", "/A", &[], "root"),
        ("GET", "/ab", &[], "root"),
        ("GET", "/a", &[], "prefix"),
        ("GET", "/a/", &[], "prefix"),
        ("GET", "/a/b", &[], "exact"),
        ("POST", "/a/b", &[("x-one", "1")], "exact"),
        ("GET", "/a/b/", &[], "longer"),
        ("POST", "/a/b/c", &[], "longer"),
        ("GET", "/a/bc", &[], "prefix"),
        ("POST", "/a/x", &[("x-one", "1")], "method"),
        ("GET", "/a", &[("x-one", "1")], "header"),
        ("GET", "/a", &[("x-one", "11")], "prefix"),
        ("GET", "/a", &[("x-one", "1"), ("x-two", "22")], "headers"),
        ("GET", "/a", &[("x-one", "1"), ("x-two", "22x")], "header"),
        ("GET", "/a?q=1", &[], "query"),
        ("GET", "/a?q=2&q=1", &[], "prefix"),
        ("GET", "/a?q=1&q=2", &[], "query"),
        ("GET", "/a?q=%31&r=xyz", &[], "queries"),
        ("GET", "/a?q=1", &[("x-one", "1")], "header"),
        ("GET", "/r/12", &[], "regex"),
        ("GET", "/r/12x", &[], "root"),
        ("GET", "/x/r/12", &[], "root"),
        ("GET", "/e", &[], "either"),
        ("PUT", "/m/x", &[], "either"),
        ("GET", "/m/x", &[], "root"),
        ("GET", "/a/b/../c", &[], "prefix"),
    ];
    for (method, path, headers, rule) in rows {
        let mut request = Request::builder().method(method).uri(path).header("host", "test");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        client.send(mesh.net.addr(10, 80), request.body(Full::default()).unwrap()).await;
        let record = mesh.record().await;
        assert_eq!(record.route.as_deref(), Some(&*format!("app/r.{rule}")), "{method} {path} {headers:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_equal_matches_the_oldest_route_decides_then_the_first_name_then_the_first_rule() {
    let dated = |name: &str, created: &str, value: &str| {
        let rules = format!(
            "- matches: [{{path: {{value: {value}}}}}]\n  {TO_A}\n- name: second\n  matches: [{{path: {{value: {value}}}}}]\n  {TO_A}"
        );
        route(NS, name, "a", &rules).replace(&format!("name: {name}, "), &format!("name: {name}, {created}"))
    };
    let mut mesh = mesh()
        .manifests(dated("m-new", "creationTimestamp: \"2026-02-01T00:00:00Z\", ", "/aged"))
        .manifests(dated("n-old", "creationTimestamp: \"2026-01-01T00:00:00Z\", ", "/aged"))
        .manifests(dated("y", "", "/named"))
        .manifests(dated("x", "", "/named"))
        .start();
    let _workload = mesh.workload("a-1", "a", 11);
    let client = mesh.client("client");
    for (path, rule) in [("/aged", "app/n-old.0"), ("/named", "app/x.0")] {
        client.get(mesh.net.addr(10, 80), path).await;
        assert_eq!(mesh.record().await.route.as_deref(), Some(rule));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_host_is_a_header_like_others() {
    let rules = format!("- name: one\n  matches: [{{headers: [{{name: Host, value: one.example}}]}}]\n  {TO_A}\n- name: rest\n  {TO_A}");
    let mut mesh = mesh().manifests(route(NS, "r", "a", &rules)).start();
    let _workload = mesh.workload("a-1", "a", 11);
    let client = mesh.client("client");
    for (host, rule) in [("one.example", "app/r.one"), ("two.example", "app/r.rest")] {
        let request = Request::get("/").header("host", host).body(Full::default()).unwrap();
        client.send(mesh.net.addr(10, 80), request).await;
        assert_eq!(mesh.record().await.route.as_deref(), Some(rule));
        let request = Request::get(format!("http://{host}/")).body(Full::<bytes::Bytes>::default()).unwrap();
        soon("answer", client.http2(mesh.net.addr(10, 80)).await.send_request(request)).await.unwrap();
        assert_eq!(mesh.record().await.route.as_deref(), Some(rule), "over HTTP/2");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_routes_requests_pass_and_with_routes_only_what_matches() {
    let only = format!("- matches: [{{path: {{type: Exact, value: /only}}}}]\n  {TO_A}");
    let mut mesh = mesh().manifests(route(NS, "r", "a", &only)).start();
    let (a, _pa) = mesh.workload("a-1", "a", 11);
    let (_b, _pb) = mesh.workload("b-1", "b", 13);
    let client = mesh.client("client");
    let answer = client.get(mesh.net.addr(12, 80), "/anything").await;
    assert_eq!((answer.status, answer.text()), (StatusCode::OK, "b-1"), "no routes: passed through");
    assert_eq!(mesh.record().await.route.as_deref(), Some("-"));
    let answer = client.get(mesh.net.addr(10, 80), "/anything").await;
    assert_eq!((answer.status, answer.text()), (StatusCode::NOT_FOUND, "no route matches"));
    assert_eq!(mesh.record().await.flag.as_str(), "NR");
    assert!(a.seen().is_empty());
    assert_eq!(client.get(mesh.net.addr(10, 80), "/only").await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn backends_receive_by_weight_and_invalid_ones_answer_500_for_their_share() {
    let backends = "- backendRefs: [{name: a, port: 80, weight: 2}, {name: b, port: 80, weight: 1}, {name: gone, port: 80, weight: 1}, {name: c, port: 80, weight: 0}]";
    let mesh = mesh()
        .manifests(service(NS, "c", 14, &[("http", 80, APP)]))
        .manifests(route(NS, "r", "a", backends))
        .manifests(route(NS, "other-port", "b", "- backendRefs: [{name: b, port: 8999}]"))
        .manifests(route(NS, "zero", "c", "- backendRefs: [{name: a, port: 80, weight: 0}]"))
        .lenient()
        .start();
    let _a = mesh.workload("a-1", "a", 11);
    let _b = mesh.workload("b-1", "b", 13);
    let client = mesh.client("client");
    let mut send = client.http1(mesh.net.addr(10, 80)).await;
    let mut shares: HashMap<(u16, String), i32> = HashMap::new();
    const N: i32 = 800;
    for _ in 0..N {
        soon("ready", send.ready()).await.unwrap();
        let answer = Answer::of(soon("answer", send.send_request(get("/"))).await.unwrap()).await;
        *shares.entry((answer.status.as_u16(), answer.text().to_owned())).or_default() += 1;
    }
    let share = |status: u16, text: &str| shares.get(&(status, text.to_owned())).copied().unwrap_or(0);
    // Five standard deviations.
    assert!((share(200, "a-1") - N / 2).abs() < 71, "{shares:?}");
    assert!((share(200, "b-1") - N / 4).abs() < 62, "{shares:?}");
    assert!((share(500, "no valid backend") - N / 4).abs() < 62, "{shares:?}");
    assert_eq!(shares.values().sum::<i32>(), N);
    assert_eq!(shares.len(), 3, "nothing goes to weight 0: {shares:?}");
    assert_eq!(client.get(mesh.net.addr(12, 80), "/").await.status, StatusCode::INTERNAL_SERVER_ERROR, "a port that is not declared");
    assert_eq!(client.get(mesh.net.addr(14, 80), "/").await.status, StatusCode::INTERNAL_SERVER_ERROR, "no weight at all");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_ready_endpoint_the_answer_is_503() {
    let mut mesh = mesh()
        .manifests(service(NS, "empty", 14, &[("http", 80, APP)]))
        .manifests(route(NS, "r", "a", "- backendRefs: [{name: empty, port: 80}]"))
        .start();
    let client = mesh.client("client");
    for address in [14, 10] {
        let answer = client.get(mesh.net.addr(address, 80), "/").await;
        assert_eq!((answer.status, answer.text()), (StatusCode::SERVICE_UNAVAILABLE, "no healthy upstream"));
        assert_eq!(mesh.record().await.flag.as_str(), "UH");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_of_requests_and_responses_are_modified() {
    let mesh = mesh()
        .manifests(route(
            NS,
            "r",
            "a",
            "
- filters:
  - type: RequestHeaderModifier
    requestHeaderModifier:
      set: [{name: X-Set, value: new}]
      add: [{name: X-Add, value: more}, {name: x-fresh, value: f}]
      remove: [X-Remove]
  - type: ResponseHeaderModifier
    responseHeaderModifier:
      set: [{name: x-pod, value: hidden}]
      add: [{name: x-rule, value: \"1\"}]
      remove: [x-gone]
  backendRefs:
  - name: b
    port: 80
    filters:
    - type: RequestHeaderModifier
      requestHeaderModifier: {set: [{name: x-backend, value: b}]}
    - type: ResponseHeaderModifier
      responseHeaderModifier: {add: [{name: x-rule, value: backend}]}
",
        ))
        .start();
    let (b, _peer) = mesh.workload("b-1", "b", 13);
    let request = Request::get("/")
        .header("host", "test")
        .header("x-set", "old")
        .header("x-set", "older")
        .header("x-add", "one")
        .header("x-remove", "1");
    let answer = mesh.client("client").send(mesh.net.addr(10, 80), request.body(Full::default()).unwrap()).await;
    let seen = b.last().headers;
    assert_eq!(seen.get_all("x-set").iter().collect::<Vec<_>>(), ["new"]);
    assert_eq!(
        (&seen["x-add"], &seen["x-fresh"], &seen["x-backend"]),
        (&"one,more".parse().unwrap(), &"f".parse().unwrap(), &"b".parse().unwrap())
    );
    assert!(!seen.contains_key("x-remove"));
    assert_eq!((answer.header("x-pod"), answer.header("x-rule")), ("hidden", "backend,1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_name_scheme_host_port_path_and_status() {
    let rows = [
        ("{}", "/x?q=1", 302, "http://test/x?q=1"),
        ("{statusCode: 301, hostname: other.example}", "/x", 301, "http://other.example/x"),
        ("{statusCode: 308, scheme: https}", "/x", 308, "https://test/x"),
        ("{statusCode: 307, scheme: https, port: 8443}", "/x", 307, "https://test:8443/x"),
        ("{statusCode: 303, port: 80}", "/x", 303, "http://test/x"),
        ("{path: {type: ReplaceFullPath, replaceFullPath: /new}}", "/x/y?q=1", 302, "http://test/new?q=1"),
        ("{path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}", "/p/y?q=1", 302, "http://test/new/y?q=1"),
        ("{path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}", "/p//evil.example", 302, "http://test//evil.example"),
    ];
    for (filter, path, status, location) in rows {
        let rule = format!(
            "- matches: [{{path: {{value: /p}}}}, {{path: {{value: /x}}}}]\n  filters: [{{type: RequestRedirect, requestRedirect: {filter}}}]"
        );
        let rule = if filter.contains("PrefixMatch") { rule.replace(", {path: {value: /x}}", "") } else { rule };
        let mut mesh = mesh().manifests(route(NS, "r", "a", &rule)).start();
        let answer = mesh.client("client").get(mesh.net.addr(10, 80), path).await;
        assert_eq!((answer.status.as_u16(), answer.header("location")), (status, location), "{filter}");
        let record = mesh.record().await;
        assert_eq!((record.attempts, record.flag.as_str()), (0, "-"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn urls_are_rewritten() {
    let rewrite = |name: &str, prefix: &str, filter: &str| {
        format!(
            "- name: {name}\n  matches: [{{path: {{value: {prefix}}}}}]\n  filters: [{{type: URLRewrite, urlRewrite: {filter}}}]\n  backendRefs: [{{name: b, port: 80}}]\n"
        )
    };
    let rules = rewrite("full", "/full", "{path: {type: ReplaceFullPath, replaceFullPath: /new}}")
        + &rewrite("prefix", "/one/two/", "{hostname: other.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /new/}}")
        + &rewrite("strip", "/strip", "{path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}")
        + &rewrite("host", "/host", "{hostname: other.example}");
    let mut mesh = mesh().manifests(route(NS, "r", "a", &rules)).start();
    let (b, _peer) = mesh.workload("b-1", "b", 13);
    let client = mesh.client("client");
    let rows = [
        ("/full/x?q=1", "/new?q=1", "test"),
        ("/one/two", "/new", "other.example"),
        ("/one/two/three?q=/one/two", "/new/three?q=/one/two", "other.example"),
        ("/strip/x", "/x", "test"),
        ("/strip", "/", "test"),
        ("/host/x", "/host/x", "other.example"),
    ];
    for (path, target, host) in rows {
        client.get(mesh.net.addr(10, 80), path).await;
        let seen = b.last();
        assert_eq!((&*seen.target, seen.headers["host"].to_str().unwrap()), (target, host), "{path}");
        assert_eq!(mesh.record().await.path.unwrap().as_str(), path, "the log tells what the client asked for");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn time_limits_answer_504_or_cut_the_body() {
    let rule = |path: &str, limits: &str| format!("- matches: [{{path: {{value: {path}}}}}]\n  timeouts: {limits}\n  {TO_A}\n");
    let rules = rule("/request", "{request: 100ms}") + &rule("/try", "{backendRequest: 100ms}") + &rule("/none", "{request: 0s}");
    let mut mesh = mesh().manifests(route(NS, "r", "a", &rules)).start();
    let _app = Backend::custom(mesh.net.addr(11, APP), |request| async move {
        if request.uri().path().ends_with("/silent") {
            std::future::pending::<()>().await;
        }
        let frames = futures_util::stream::unfold(0, |n| async move {
            if n == 1 {
                std::future::pending::<()>().await;
            }
            Some((Ok(http_body::Frame::data(bytes::Bytes::from_static(b"begin"))), n + 1))
        });
        let body =
            http_body_util::StreamBody::new(Box::pin(frames) as std::pin::Pin<Box<dyn futures_util::Stream<Item = _> + Send + Sync>>);
        if request.uri().path() == "/none" { Response::new(full("ok")) } else { Response::new(body.boxed()) }
    });
    let _peer = mesh.peer("a", 11);
    let client = mesh.client("client");
    for path in ["/request", "/try"] {
        let answer = client.get(mesh.net.addr(10, 80), &format!("{path}/silent")).await;
        assert_eq!((answer.status, answer.text()), (StatusCode::GATEWAY_TIMEOUT, "upstream request timeout"), "{path}");
        assert_eq!(mesh.record().await.flag.as_str(), "UT");
        let mut raw = Raw::new(client.connect(mesh.net.addr(10, 80)).await.unwrap());
        raw.send(format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n")).await;
        let all = raw.rest().await;
        assert!(all.starts_with("HTTP/1.1 200 ") && all.contains("begin") && !all.ends_with("0\r\n\r\n"), "{path}: {all}");
        assert_eq!(mesh.record().await.flag.as_str(), "UT");
    }
    assert_eq!(client.get(mesh.net.addr(10, 80), "/none").await.status, StatusCode::OK);
}

fn marked(ns: &str, name: &str, parent: &str, path: &str, backends: &str) -> String {
    let rule = format!(
        "- matches: [{{path: {{value: {path}}}}}]\n  filters: [{{type: ResponseHeaderModifier, responseHeaderModifier: {{set: [{{name: x-by, value: {name}}}]}}}}]\n{backends}"
    );
    attached_route(ns, name, parent, &rule)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_narrowest_scope_with_a_route_decides_alone() {
    let mesh = mesh()
        .manifests(service(NS, "c", 14, &[("http", 80, APP)]))
        .manifests(pod(NS, "c-1", "c", "c", 15))
        .manifests(marked(NS, "by-service", "{group: \"\", kind: Service, name: a}", "/service", "  backendRefs: [{name: a, port: 80}]"))
        .manifests(marked(NS, "by-account-a", "{group: \"\", kind: ServiceAccount, name: a}", "/account", ""))
        .manifests(marked(NS, "by-account-b", "{group: \"\", kind: ServiceAccount, name: b}", "/account", ""))
        .manifests(marked(NS, "by-gateway", "{group: gateway.networking.k8s.io, kind: Gateway, name: waypoint}", "/gateway", ""))
        .start();
    let _a = mesh.workload("a-1", "a", 11);
    let _b = mesh.workload("b-1", "b", 13);
    let _c = mesh.workload("c-1", "c", 15);
    let client = mesh.client("client");
    let rows = [
        // Service a has a route of its own; those of its account and of the namespace are not asked.
        (10, 80, "/service", Some("by-service")),
        (10, 80, "/account", None),
        (10, 80, "/gateway", None),
        // Service b has none, its service account has.
        (12, 80, "/account", Some("by-account-b")),
        (12, 80, "/gateway", None),
        // Nothing but the namespace's for c.
        (14, 80, "/gateway", Some("by-gateway")),
        (14, 80, "/account", None),
        // Pods are addressed past their services.
        (11, APP, "/account", Some("by-account-a")),
        (11, APP, "/service", None),
        (13, APP, "/account", Some("by-account-b")),
        (15, APP, "/gateway", Some("by-gateway")),
        (15, APP, "/account", None),
    ];
    for (host, port, path, by) in rows {
        let answer = client.get(mesh.net.addr(host, port), path).await;
        let want = if by.is_some() { StatusCode::OK } else { StatusCode::NOT_FOUND };
        assert_eq!((answer.status, answer.header("x-by")), (want, by.unwrap_or_default()), "{host}:{port}{path}");
        if by.is_some() {
            let pod = if matches!(host, 10 | 11) {
                "a-1"
            } else if matches!(host, 12 | 13) {
                "b-1"
            } else {
                "c-1"
            };
            assert_eq!(answer.text(), pod, "a rule without backends keeps the destination");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_without_backends_is_500_on_a_service_and_may_send_elsewhere_in_wider_scopes() {
    let mesh = mesh()
        .manifests(marked(NS, "by-service", "{group: \"\", kind: Service, name: a}", "/", ""))
        .manifests(marked(
            NS,
            "by-gateway",
            "{group: gateway.networking.k8s.io, kind: Gateway, name: waypoint}",
            "/",
            "  backendRefs: [{name: a, port: 80}]",
        ))
        .start();
    let _a = mesh.workload("a-1", "a", 11);
    let client = mesh.client("client");
    assert_eq!(client.get(mesh.net.addr(10, 80), "/").await.status, StatusCode::INTERNAL_SERVER_ERROR);
    let answer = client.get(mesh.net.addr(12, 80), "/").await;
    assert_eq!((answer.status, answer.text()), (StatusCode::OK, "a-1"), "routes of the backend's service are not applied again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_may_be_for_one_port() {
    let mesh = mesh()
        .manifests(attached_route(NS, "r", "{group: \"\", kind: Service, name: a, port: 81}", "- backendRefs: [{name: b, port: 80}]"))
        .start();
    let _a = mesh.workload("a-1", "a", 11);
    let _b = mesh.workload("b-1", "b", 13);
    let client = mesh.client("client");
    assert_eq!(client.get(mesh.net.addr(10, 80), "/").await.text(), "a-1");
    assert_eq!(client.get(mesh.net.addr(10, 81), "/").await.text(), "b-1");
}

#[tokio::test(flavor = "multi_thread")]
async fn long_lived_connections_follow_new_routes() {
    let base = service(NS, "a", 10, &[("http", 80, APP)])
        + &pod(NS, "a-1", "a", "a", 11)
        + &service(NS, "b", 12, &[("http", 80, APP)])
        + &pod(NS, "b-1", "b", "b", 13);
    let mesh = MeshBuilder::new().manifests(&base).start();
    let _a = mesh.workload("a-1", "a", 11);
    let _b = mesh.workload("b-1", "b", 13);
    let mut send = mesh.client("client").http1(mesh.net.addr(10, 80)).await;
    let mut ask = async || {
        soon("ready", send.ready()).await.unwrap();
        Answer::of(soon("answer", send.send_request(get("/"))).await.unwrap()).await.text().to_owned()
    };
    assert_eq!(ask().await, "a-1");
    mesh.rewrite(&(base.clone() + &route(NS, "r", "a", "- backendRefs: [{name: b, port: 80}]")));
    soon("the new route", async { while ask().await != "b-1" {} }).await;
}
