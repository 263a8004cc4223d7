//! Who may do what (contract `waypoint.md` 3).

use crate::support::{Mesh, MeshBuilder, Raw, client::get, manifests::*, mesh::NS, soon};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::Full;

const APP: u16 = 8080;
const ON_SERVICE: &str = "targetRefs: [{group: \"\", kind: Service, name: a}]";
const ON_GATEWAY: &str = "targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: waypoint}]";

/// Services `a` (NET.10) and `b` (NET.12).
fn mesh() -> MeshBuilder {
    MeshBuilder::new()
        .manifests(service(NS, "a", 10, &[("http", 80, APP), ("http-too", 81, APP), ("tcp", 82, APP)]))
        .manifests(pod(NS, "a-1", "a", "a", 11))
        .manifests(service(NS, "b", 12, &[("http", 80, APP)]))
        .manifests(pod(NS, "b-1", "b", "b", 13))
        .manifests(pod(NS, "client", "client", "client", 20))
}

fn rules(action: &str, target: &str, rules: &str) -> String {
    policy(NS, "p", &format!("{target}\naction: {action}\nrules:\n{rules}"))
}

#[derive(Clone)]
struct Ask {
    account: &'static str,
    port: u16,
    method: &'static str,
    path: &'static str,
    host: &'static str,
    headers: &'static [(&'static str, &'static str)],
}

const ASK: Ask = Ask { account: "client", port: 80, method: "GET", path: "/", host: "test", headers: &[] };

async fn ask(mesh: &Mesh, ask: &Ask) -> StatusCode {
    let mut request = Request::builder().method(ask.method).uri(ask.path).header("host", ask.host);
    for (name, value) in ask.headers {
        request = request.header(*name, *value);
    }
    mesh.client(ask.account).send(mesh.net.addr(10, ask.port), request.body(Full::default()).unwrap()).await.status
}

/// Each rule, and requests that match it and that do not: ALLOW lets the former pass and DENY the
/// latter.
#[tokio::test(flavor = "multi_thread")]
async fn every_field_is_matched_by_allow_and_by_deny() {
    let by = |account| Ask { account, ..ASK };
    let path = |path| Ask { path, ..ASK };
    let header = |headers| Ask { headers, ..ASK };
    let rows: Vec<(&str, Vec<Ask>, Vec<Ask>)> = vec![
        ("from: [{source: {principals: [cluster.local/ns/app/sa/client]}}]", vec![ASK], vec![by("other")]),
        ("from: [{source: {principals: [\"*/sa/client\", \"cluster.local/ns/app/sa/ad*\"]}}]", vec![ASK, by("admin")], vec![by("other")]),
        ("from: [{source: {notPrincipals: [cluster.local/ns/app/sa/other]}}]", vec![ASK], vec![by("other")]),
        ("from: [{source: {namespaces: [a*]}}]", vec![ASK], vec![]),
        ("from: [{source: {notNamespaces: [app]}}]", vec![], vec![ASK]),
        ("from: [{source: {serviceAccounts: [client, app/admin]}}]", vec![ASK, by("admin")], vec![by("other")]),
        ("from: [{source: {notServiceAccounts: [client]}}]", vec![by("other")], vec![ASK]),
        ("from: [{source: {trustDomains: [cluster.local]}}]", vec![ASK], vec![]),
        ("from: [{source: {ipBlocks: [127.0.0.0/8]}}]", vec![ASK], vec![]),
        ("from: [{source: {notIpBlocks: [127.0.0.0/8]}}]", vec![], vec![ASK]),
        (
            "from: [{source: {remoteIpBlocks: [203.0.113.0/24]}}]",
            vec![header(&[("x-forwarded-for", "198.51.100.1, 203.0.113.9")])],
            vec![ASK, header(&[("x-forwarded-for", "203.0.113.9, 198.51.100.1")]), header(&[("x-forwarded-for", "junk")])],
        ),
        ("from: [{source: {notRemoteIpBlocks: [203.0.113.0/24]}}]", vec![ASK], vec![header(&[("x-forwarded-for", "203.0.113.9")])]),
        (
            "to: [{operation: {hosts: [One.example, \"*.two.example\"]}}]",
            vec![Ask { host: "one.EXAMPLE", ..ASK }, Ask { host: "x.two.example", ..ASK }],
            vec![ASK, Ask { host: "one.example:80", ..ASK }],
        ),
        ("to: [{operation: {notHosts: [test]}}]", vec![Ask { host: "one.example", ..ASK }], vec![ASK]),
        ("to: [{operation: {methods: [PUT, \"DEL*\"]}}]", vec![Ask { method: "PUT", ..ASK }, Ask { method: "DELETE", ..ASK }], vec![ASK]),
        ("to: [{operation: {notMethods: [GET]}}]", vec![Ask { method: "PUT", ..ASK }], vec![ASK]),
        (
            "to: [{operation: {paths: [/exact, /pre/*, \"*.ico\", \"/t/{*}/end\", \"/all/{**}\"]}}]",
            vec![path("/exact"), path("/exact?q=1"), path("/pre/x/y"), path("/favicon.ico"), path("/t/x/end"), path("/all/x/y")],
            vec![path("/Exact"), path("/exact/"), path("/pre"), path("/t/x/y/end"), path("/?/exact")],
        ),
        ("to: [{operation: {paths: [/pre/*], notPaths: [/pre/not]}}]", vec![path("/pre/x")], vec![path("/pre/not"), ASK]),
        ("to: [{operation: {ports: [\"81\"]}}]", vec![Ask { port: 81, ..ASK }], vec![ASK]),
        ("to: [{operation: {notPorts: [\"80\"]}}]", vec![Ask { port: 81, ..ASK }], vec![ASK]),
        (
            "from: [{source: {serviceAccounts: [admin]}}, {source: {serviceAccounts: [client]}}]\n  to: [{operation: {methods: [PUT]}}, {operation: {paths: [/free]}}]",
            vec![Ask { method: "PUT", ..ASK }, Ask { account: "admin", path: "/free", ..ASK }],
            vec![ASK, Ask { account: "other", method: "PUT", ..ASK }],
        ),
        (
            "when: [{key: \"request.headers[X-Key]\", values: [one, two*]}]",
            vec![header(&[("x-key", "one")]), header(&[("X-KEY", "two-and-more")])],
            vec![ASK, header(&[("x-key", "One")]), header(&[("x-key", "onee")])],
        ),
        (
            "when: [{key: \"request.headers[x-key]\", values: [\"*\"]}]",
            vec![header(&[("x-key", "any")])],
            vec![ASK, header(&[("x-key", "")])],
        ),
        (
            "when: [{key: \"request.headers[x-key]\", notValues: [one]}]",
            vec![ASK, header(&[("x-key", "two")])],
            vec![header(&[("x-key", "one")])],
        ),
        ("when: [{key: source.ip, values: [127.0.0.0/8]}]", vec![ASK], vec![]),
        ("when: [{key: remote.ip, values: [203.0.113.9]}]", vec![header(&[("x-forwarded-for", "203.0.113.9")])], vec![ASK]),
        ("when: [{key: source.namespace, values: [app]}]", vec![ASK], vec![]),
        ("when: [{key: source.principal, notValues: [cluster.local/ns/app/sa/other]}]", vec![ASK], vec![by("other")]),
        ("when: [{key: source.serviceAccount, values: [app/client]}]", vec![ASK], vec![by("other")]),
        ("when: [{key: source.trustDomain, values: [other.td]}]", vec![], vec![ASK]),
        ("when: [{key: destination.ip, values: [NET.10]}]", vec![ASK], vec![]),
        ("when: [{key: destination.port, values: [\"81\"]}]", vec![Ask { port: 81, ..ASK }], vec![ASK]),
        (
            "when: [{key: source.namespace, values: [app]}, {key: \"request.headers[x-key]\", values: [one]}]",
            vec![header(&[("x-key", "one")])],
            vec![ASK],
        ),
        ("{}", vec![ASK], vec![]),
    ];
    let base = service(NS, "a", 10, &[("http", 80, APP), ("http-too", 81, APP)]) + &pod(NS, "a-1", "a", "a", 11);
    for (rule, matching, other) in rows {
        for action in ["ALLOW", "DENY"] {
            let mesh = MeshBuilder::new().manifests(&base).manifests(rules(action, ON_SERVICE, &format!("- {rule}"))).start();
            let _app = mesh.workload("a-1", "a", 11);
            let (yes, no) =
                if action == "ALLOW" { (StatusCode::OK, StatusCode::FORBIDDEN) } else { (StatusCode::FORBIDDEN, StatusCode::OK) };
            for (asks, status) in [(&matching, yes), (&other, no)] {
                for a in asks {
                    let got = ask(&mesh, a).await;
                    assert_eq!(got, status, "{action} {rule}: {} {} {} :{} {:?}", a.account, a.method, a.path, a.port, a.headers);
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denial_is_403_and_the_log_names_policy_and_rule() {
    let mut mesh = mesh()
        .manifests(rules("DENY", ON_SERVICE, "- to: [{operation: {methods: [PUT]}}]\n- to: [{operation: {paths: [/admin*]}}]"))
        .start();
    let (app, _peer) = mesh.workload("a-1", "a", 11);
    let answer = mesh.client("client").get(mesh.net.addr(10, 80), "/admin").await;
    assert_eq!((answer.status, answer.text()), (StatusCode::FORBIDDEN, "RBAC: access denied"));
    let record = mesh.record().await;
    assert_eq!((record.flag.as_str(), record.policy.as_deref()), ("DENY", Some("ns[app]-policy[p]-rule[1]")));
    assert_eq!((record.attempts, app.seen().len()), (0, 0));
    assert_eq!(mesh.client("client").get(mesh.net.addr(10, 80), "/").await.status, StatusCode::OK);
    assert_eq!(mesh.record().await.policy, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn deny_wins_over_allow_and_an_allow_policy_makes_the_rest_refused() {
    let mut mesh = mesh()
        .manifests(policy(NS, "allow", &format!("{ON_SERVICE}\nrules: [{{to: [{{operation: {{paths: [/ok*]}}}}]}}]")))
        .manifests(policy(NS, "deny", &format!("{ON_SERVICE}\naction: DENY\nrules: [{{to: [{{operation: {{paths: [/ok/not]}}}}]}}]")))
        .manifests(policy(NS, "nothing", "targetRefs: [{group: \"\", kind: Service, name: b}]"))
        .start();
    let _a = mesh.workload("a-1", "a", 11);
    let _b = mesh.workload("b-1", "b", 13);
    let client = mesh.client("client");
    let rows = [
        (10, "/ok", 200, Some("ns[app]-policy[allow]-rule[0]")),
        (10, "/ok/not", 403, Some("ns[app]-policy[deny]-rule[0]")),
        (10, "/else", 403, Some("ns[app]-policy[allow]")),
        (12, "/", 403, Some("ns[app]-policy[nothing]")),
    ];
    for (host, path, status, policy) in rows {
        assert_eq!(client.get(mesh.net.addr(host, 80), path).await.status, status, "{path}");
        assert_eq!(mesh.record().await.policy.as_deref(), policy, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_holds_for_its_service_or_for_all_of_its_gateway() {
    let denied = StatusCode::FORBIDDEN;
    let passed = StatusCode::OK;
    for (target, a, b, a_pod) in [(ON_SERVICE, denied, passed, passed), (ON_GATEWAY, denied, denied, denied)] {
        let mesh = mesh().manifests(rules("DENY", target, "- to: [{operation: {paths: [/x]}}]")).start();
        let _a = mesh.workload("a-1", "a", 11);
        let _b = mesh.workload("b-1", "b", 13);
        let client = mesh.client("client");
        let mut got = Vec::new();
        for address in [mesh.net.addr(10, 80), mesh.net.addr(12, 80), mesh.net.addr(11, APP)] {
            got.push(client.get(address, "/x").await.status);
        }
        assert_eq!(got, [a, b, a_pod], "{target}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_only_tells() {
    let dry = rules("DENY", ON_SERVICE, "- {}").replace("namespace: app}", "namespace: app, annotations: {istio.io/dry-run: \"true\"}}");
    let mesh = mesh().manifests(dry).start();
    let _a = mesh.workload("a-1", "a", 11);
    assert_eq!(mesh.client("client").get(mesh.net.addr(10, 80), "/").await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn opaque_ports_heed_policy_before_the_tunnel_is_opened() {
    let mut mesh = mesh().manifests(rules("DENY", ON_SERVICE, "- from: [{source: {serviceAccounts: [other]}}]")).start();
    let _a = mesh.workload("a-1", "a", 11);
    assert_eq!(mesh.client("other").refusal(mesh.net.addr(10, 82)).await, StatusCode::UNAUTHORIZED);
    assert_eq!(mesh.tcp_record().await.flag.as_str(), "DENY");
    assert!(mesh.client("client").connect(mesh.net.addr(10, 82)).await.is_ok());
}

/// What the workload is sent for a path is what policy and routes have judged.
#[tokio::test(flavor = "multi_thread")]
async fn no_spelling_of_a_path_passes_policy_and_means_another() {
    let routes = "- name: admin\n  matches: [{path: {value: /admin}}]\n  backendRefs: [{name: b, port: 80}]\n- name: rest\n  backendRefs: [{name: a, port: 80}]";
    let mesh = mesh()
        .manifests(rules("DENY", ON_SERVICE, "- to: [{operation: {paths: [/admin, /admin/*]}}]"))
        .manifests(route(NS, "r", "a", routes))
        .start();
    let (a, _pa) = mesh.workload("a-1", "a", 11);
    let (b, _pb) = mesh.workload("b-1", "b", 13);
    let client = mesh.client("client");
    // Denied, refused as malformed, or sent on under this name.
    let rows = [
        ("/admin", Err(403)),
        ("/admin?x", Err(403)),
        ("/x/../admin", Err(403)),
        ("/./admin", Err(403)),
        ("/x/%2e%2e/admin", Err(403)),
        ("/x/.%2E/admin/", Err(403)),
        ("/%61dmin", Err(403)),
        ("/%61%64%6d%69%6e/x", Err(403)),
        ("\\admin", Err(400)),
        ("/x\\..\\admin", Err(403)),
        ("/x/..\\admin", Err(403)),
        ("http://test/admin", Err(403)),
        ("http://test/x/../admin", Err(403)),
        ("http://test?/../admin", Ok("/?/../admin")),
        ("/admin/../x", Ok("/x")),
        ("/admin/%2e%2e/x", Ok("/x")),
        ("//admin", Ok("//admin")),
        ("/admin%2fx", Ok("/admin%2Fx")),
        ("/admin%2f..", Ok("/admin%2F..")),
        ("/x%2f..%2fadmin", Ok("/x%2F..%2Fadmin")),
        ("/%2561dmin", Ok("/%2561dmin")),
        ("/admin;x", Ok("/admin;x")),
        ("/ADMIN", Ok("/ADMIN")),
        ("/%", Err(400)),
        ("/%zz", Err(400)),
        ("/a%00", Err(400)),
        ("admin", Err(400)),
    ];
    for (spelling, want) in rows {
        let before = a.seen().len();
        let mut raw = Raw::new(client.connect(mesh.net.addr(10, 80)).await.unwrap());
        raw.send(format!("GET {spelling} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n")).await;
        let head = raw.head().await;
        match want {
            Err(status) => assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{spelling}: {head}"),
            Ok(target) => {
                assert!(head.starts_with("HTTP/1.1 200 "), "{spelling}: {head}");
                assert_eq!((a.seen().len(), &*a.last().target), (before + 1, target), "{spelling}");
            }
        }
    }
    assert!(b.seen().is_empty(), "what routes take for admin, policy has denied: {:?}", b.seen());
}

#[tokio::test(flavor = "multi_thread")]
async fn with_decoded_and_merged_slashes_there_is_one_spelling_less() {
    let mesh = mesh()
        .config(|c| c.paths = "DECODE_AND_MERGE_SLASHES".parse().unwrap())
        .manifests(rules("DENY", ON_SERVICE, "- to: [{operation: {paths: [/admin, /admin/*]}}]"))
        .start();
    let (a, _peer) = mesh.workload("a-1", "a", 11);
    let client = mesh.client("client");
    for path in ["//admin", "/%2fadmin", "/x%2f..%2fadmin", "/x%5c..%5Cadmin", "/admin%2f", "///admin//x"] {
        assert_eq!(client.get(mesh.net.addr(10, 80), path).await.status, StatusCode::FORBIDDEN, "{path}");
    }
    assert_eq!(client.get(mesh.net.addr(10, 80), "//x%2f/y").await.status, StatusCode::OK);
    assert_eq!(a.last().target, "/x/y");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_identity_header_is_always_the_verified_peers() {
    let mesh = mesh().start();
    let (a, _peer) = mesh.workload("a-1", "a", 11);
    let client = mesh.client("client");
    let want = "By=spiffe://cluster.local/ns/app/sa/waypoint;URI=spiffe://cluster.local/ns/app/sa/client";
    let forged = "By=x;URI=spiffe://cluster.local/ns/app/sa/admin";
    let attempts = [
        format!("X-Forwarded-Client-Cert: {forged}\r\n"),
        format!("x-forwarded-client-cert: {forged}\r\nX-FORWARDED-CLIENT-CERT: {forged}\r\n"),
        format!("x-forwarded-client-cert: {forged}\r\nconnection: x-forwarded-client-cert\r\n"),
        format!("x-forwarded-client-cert: {forged}\r\nconnection: keep-alive, X-Forwarded-Client-Cert\r\n"),
        String::new(),
    ];
    for lines in attempts {
        let mut raw = Raw::new(client.connect(mesh.net.addr(10, 80)).await.unwrap());
        raw.send(format!("GET / HTTP/1.1\r\nhost: test\r\n{lines}\r\n")).await;
        raw.head().await;
        assert_eq!(a.last().headers.get_all("x-forwarded-client-cert").iter().collect::<Vec<_>>(), [want], "{lines}");
    }
    let request = Request::get("http://test/").header("x-forwarded-client-cert", forged).body(Full::<bytes::Bytes>::default()).unwrap();
    soon("answer", client.http2(mesh.net.addr(10, 80)).await.send_request(request)).await.unwrap();
    assert_eq!(a.last().headers.get_all("x-forwarded-client-cert").iter().collect::<Vec<_>>(), [want]);
}

#[tokio::test(flavor = "multi_thread")]
async fn connection_names_only_what_belongs_to_one_hop() {
    let mesh = mesh().start();
    let (a, _peer) = mesh.workload("a-1", "a", 11);
    let client = mesh.client("client");
    let mut raw = Raw::new(client.connect(mesh.net.addr(10, 80)).await.unwrap());
    let kept = [
        "authorization",
        "cookie",
        "content-type",
        "x-forwarded-for",
        "x-forwarded-proto",
        "x-forwarded-host",
        "x-request-id",
        "host",
        "forwarded",
    ];
    let lines: String = kept.iter().filter(|n| **n != "host").map(|n| format!("{n}: mine\r\n")).collect();
    let nominated = kept.join(", ");
    raw.send(format!("GET / HTTP/1.1\r\nhost: mine\r\n{lines}x-hop: 1\r\nkeep-alive: 5\r\nproxy-connection: x\r\nte: gzip, trailers\r\nconnection: {nominated}\r\nconnection: x-hop, te\r\n\r\n")).await;
    raw.head().await;
    let seen: HeaderMap = a.last().headers;
    for name in kept {
        assert_eq!(seen.get(name).map(|v| v.to_str().unwrap()), Some("mine"), "{name}");
    }
    for name in ["x-hop", "keep-alive", "proxy-connection", "connection"] {
        assert!(!seen.contains_key(name), "{name}");
    }
    assert_eq!(seen["te"], "trailers");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_has_exactly_one_host() {
    let mesh = mesh().manifests(rules("ALLOW", ON_SERVICE, "- to: [{operation: {hosts: [good]}}]")).start();
    let (a, _peer) = mesh.workload("a-1", "a", 11);
    let client = mesh.client("client");
    let rows = [
        ("/", "host: good", 200),
        ("/", "host: bad", 403),
        ("/", "host: good\r\nhost: bad", 400),
        ("/", "host: good\r\nhost: good", 400),
        ("/", "x: y", 400),
        // RFC 9112, 3.2.2: the target's authority, whatever Host says.
        ("http://bad/", "host: good", 403),
        ("http://good/", "host: bad", 200),
        ("http://good@bad/", "host: good", 400),
        ("/", "host: good, bad", 400),
    ];
    for (target, lines, status) in rows {
        let mut raw = Raw::new(client.connect(mesh.net.addr(10, 80)).await.unwrap());
        raw.send(format!("GET {target} HTTP/1.1\r\n{lines}\r\n\r\n")).await;
        let head = raw.head().await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{target} {lines}: {head}");
    }
    assert!(a.seen().iter().all(|s| s.headers["host"] == "good" && s.target == "/"), "{:?}", a.seen());
    let request = Request::get("http://good/").header("host", "bad").body(Full::<bytes::Bytes>::default()).unwrap();
    let answer = soon("answer", client.http2(mesh.net.addr(10, 80)).await.send_request(request)).await.unwrap();
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "RFC 9113, 8.3.1");
}

#[tokio::test(flavor = "multi_thread")]
async fn long_lived_connections_follow_new_policies() {
    let base = service(NS, "a", 10, &[("http", 80, APP)]) + &pod(NS, "a-1", "a", "a", 11);
    let mesh = MeshBuilder::new().manifests(&base).start();
    let _a = mesh.workload("a-1", "a", 11);
    let mut send = mesh.client("client").http1(mesh.net.addr(10, 80)).await;
    mesh.rewrite(&(base.clone() + &rules("DENY", ON_SERVICE, "- {}")));
    soon("the new policy", async {
        loop {
            send.ready().await.unwrap();
            let answer = crate::support::client::Answer::of(send.send_request(get("/")).await.unwrap()).await;
            if answer.status == StatusCode::FORBIDDEN {
                break;
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_cannot_say_what_only_headers_may() {
    let mesh = mesh().start();
    let (app, _peer) = mesh.workload("a-1", "a", 11);
    let mut raw = Raw::new(mesh.client("client").connect(mesh.net.addr(10, 80)).await.unwrap());
    raw.send(
        "POST / HTTP/1.1\r\nHost: test\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\
         Trailer: x-forwarded-client-cert, x-forwarded-for, authorization, x-checksum\r\n\r\n2\r\nhi\r\n0\r\n\
         x-forwarded-client-cert: URI=spiffe://forged\r\nx-forwarded-for: 1.2.3.4\r\nauthorization: x\r\nx-checksum: 7\r\n\r\n",
    )
    .await;
    assert!(raw.head().await.starts_with("HTTP/1.1 200"));
    let seen = app.last();
    assert_eq!(&seen.body[..], b"hi");
    let trailers = seen.trailers.expect("what is no header's business passes");
    assert_eq!(trailers.keys().map(|k| k.as_str()).collect::<Vec<_>>(), ["x-checksum"]);
    assert!(!seen.headers["x-forwarded-client-cert"].to_str().unwrap().contains("forged"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_policy_cannot_judge_is_refused() {
    let mesh = mesh().start();
    let (app, _peer) = mesh.workload("a-1", "a", 11);
    let client = mesh.client("client");
    for host in [&b"admin\xff.example"[..], b"x@admin.example", b"ad min", b"a/b"] {
        let mut raw = Raw::new(client.connect(mesh.net.addr(10, 80)).await.unwrap());
        raw.send([b"GET / HTTP/1.1\r\nHost: ", host, b"\r\n\r\n"].concat()).await;
        assert!(raw.head().await.starts_with("HTTP/1.1 400"), "{:?}", String::from_utf8_lossy(host));
    }
    assert_eq!(app.seen().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn framing_is_watched_also_after_an_upgrade_that_was_not_made() {
    let mesh = mesh().start();
    let (app, _peer) = mesh.workload("a-1", "a", 11);
    let mut raw = Raw::new(mesh.client("client").connect(mesh.net.addr(10, 80)).await.unwrap());
    raw.send("GET / HTTP/1.1\r\nHost: test\r\nUpgrade: x\r\n\r\n").await;
    assert!(raw.head().await.starts_with("HTTP/1.1 200"));
    raw.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n").await;
    // With an upgrade pending hyper closes without its 400; what counts is that nothing goes on.
    raw.rest().await;
    assert_eq!(app.seen().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn cookies_in_parts_are_judged_whole() {
    let spec = format!("{ON_SERVICE}\naction: DENY\nrules: [{{when: [{{key: \"request.headers[cookie]\", values: [\"a=1; b=2\"]}}]}}]");
    let mesh = mesh().manifests(policy(NS, "p", &spec)).start();
    let (app, _peer) = mesh.workload("a-1", "a", 11);
    let mut send = mesh.client("client").http2::<http_body_util::Full<bytes::Bytes>>(mesh.net.addr(10, 80)).await;
    for (parts, status) in [(["a=1", "b=2"], 403), (["a=1", "b=3"], 200)] {
        let mut request = http::Request::get("http://test/");
        for part in parts {
            request = request.header("cookie", part);
        }
        let response = send.send_request(request.body(Default::default()).unwrap()).await.unwrap();
        assert_eq!(response.status(), status, "{parts:?}");
    }
    assert_eq!(app.last().headers.get_all("cookie").iter().collect::<Vec<_>>(), ["a=1; b=3"]);
}

/// The first bytes of a TLS client that asks for `name`.
fn client_hello(name: &str) -> Vec<u8> {
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
    let mut client = rustls::ClientConnection::new(config.into(), name.to_owned().try_into().unwrap()).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    hello
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_name_of_the_clients_own_tls_is_judged_and_unknown_ones_are_refused() {
    let spec = format!("{ON_SERVICE}\naction: DENY\nrules: [{{when: [{{key: connection.sni, values: [secret.example]}}]}}]");
    let ports = [("tls", 443, APP), ("tcp", 82, APP), ("any", 83, APP)];
    let manifests = service(NS, "a", 10, &ports) + &pod(NS, "a-1", "a", "a", 11) + &policy(NS, "p", &spec);
    let mesh = MeshBuilder::new().manifests(manifests).start();
    let (app, _peer) = (crate::support::Backend::tcp(mesh.net.addr(11, APP), echo), mesh.peer("a", 11));
    let client = mesh.client("client");
    for port in [443, 83] {
        let before = app.connections();
        let mut denied = Raw::new(client.connect(mesh.net.addr(10, port)).await.unwrap());
        denied.send(client_hello("secret.example")).await;
        assert_eq!(denied.rest().await, "", "port {port}");
        assert_eq!(app.connections(), before, "port {port}");
        let mut passed = Raw::new(client.connect(mesh.net.addr(10, port)).await.unwrap());
        passed.send(client_hello("public.example")).await;
        passed.until("public.example").await;
    }
    // Where the bytes are not looked at, the name is unknown.
    assert_eq!(client.refusal(mesh.net.addr(10, 82)).await, StatusCode::UNAUTHORIZED);
}

async fn echo(mut stream: tokio::net::TcpStream) {
    let (mut read, mut write) = stream.split();
    let _ = tokio::io::copy(&mut read, &mut write).await;
}
