//! Tries, and the way to a workload (contract `waypoint.md` 0.4, `gateway-api.md` 2.5).

use crate::support::{
    Backend, Mesh, MeshBuilder, Peer, Raw,
    backend::full,
    client::{get, post},
    eventually,
    manifests::*,
    mesh::NS,
    soon,
};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{net::TcpStream, time::Instant};

const APP: u16 = 8080;

fn mesh() -> MeshBuilder {
    MeshBuilder::new()
        .manifests(service(NS, "a", 10, &[("http", 80, APP), ("grpc", 81, APP)]))
        .manifests(pod(NS, "a-1", "a", "a", 11))
        .manifests(pod(NS, "client", "client", "client", 20))
}

fn with_rule(rule: &str) -> MeshBuilder {
    mesh().manifests(route(NS, "r", "a", &format!("- backendRefs: [{{name: a, port: 80}}]\n{rule}")))
}

/// Answers `statuses` one after the other, then 200; remembers bodies and times.
#[derive(Clone, Default)]
struct Script {
    bodies: Arc<Mutex<Vec<(Instant, usize)>>>,
}

impl Script {
    fn start(&self, mesh: &Mesh, statuses: &'static [u16]) -> (Backend, Peer) {
        let bodies = self.bodies.clone();
        let app = Backend::custom(mesh.net.addr(11, APP), move |request: Request<hyper::body::Incoming>| {
            let bodies = bodies.clone();
            async move {
                let length = request.into_body().collect().await.map_or(0, |b| b.to_bytes().len());
                let n = {
                    let mut bodies = bodies.lock().unwrap();
                    bodies.push((Instant::now(), length));
                    bodies.len() - 1
                };
                let status = statuses.get(n).copied().unwrap_or(200);
                Response::builder().status(status).body(full(format!("try {}", n + 1))).unwrap()
            }
        });
        (app, mesh.peer("a", 11))
    }

    fn tries(&self) -> Vec<(Instant, usize)> {
        self.bodies.lock().unwrap().clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_stanza_statuses_are_not_tried_again() {
    let mut mesh = mesh().start();
    let script = Script::default();
    let _app = script.start(&mesh, &[503]);
    let answer = mesh.client("client").get(mesh.net.addr(10, 80), "/").await;
    assert_eq!((answer.status, answer.text()), (StatusCode::SERVICE_UNAVAILABLE, "try 1"));
    assert_eq!(mesh.record().await.attempts, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn listed_statuses_are_tried_again_as_often_as_the_rule_says() {
    let rows: [(&'static [u16], u16, usize); 4] =
        [(&[503, 502], 200, 3), (&[503, 500], 500, 2), (&[503, 503, 503, 503], 503, 3), (&[404], 404, 1)];
    for (statuses, status, tries) in rows {
        let mut mesh = with_rule("  retry: {codes: [502, 503], attempts: 2, backoff: 40ms}").start();
        let script = Script::default();
        let _app = script.start(&mesh, statuses);
        let answer = mesh.client("client").send(mesh.net.addr(10, 80), post("/", "body")).await;
        assert_eq!((answer.status.as_u16(), answer.text()), (status, &*format!("try {tries}")), "{statuses:?}");
        assert_eq!(mesh.record().await.attempts as usize, tries);
        let seen = script.tries();
        assert!(seen.iter().all(|(_, length)| *length == 4), "the whole body each time: {seen:?}");
        for (n, pair) in seen.windows(2).enumerate() {
            let waited = pair[1].0 - pair[0].0;
            assert!(waited >= Duration::from_millis(40) * (n as u32 + 1), "backoff is the least wait and grows: {waited:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_beyond_the_limit_is_sent_once() {
    let mut mesh = with_rule("  retry: {codes: [503], attempts: 2, backoff: 1ms}").config(|c| c.replay_limit = 1000).start();
    let script = Script::default();
    let _app = script.start(&mesh, &[503, 503, 503]);
    let client = mesh.client("client");
    let answer = client.send(mesh.net.addr(10, 80), post("/", vec![0; 1001])).await;
    assert_eq!((answer.status, mesh.record().await.attempts), (StatusCode::SERVICE_UNAVAILABLE, 1));
    let answer = client.send(mesh.net.addr(10, 80), post("/", vec![0; 1000])).await;
    assert_eq!((answer.status, mesh.record().await.attempts), (StatusCode::OK, 3));
    assert_eq!(script.tries().iter().map(|(_, length)| *length).collect::<Vec<_>>(), [1001, 1000, 1000, 1000]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_early_answer_is_tried_again_while_the_body_still_comes() {
    let mut mesh = with_rule("  retry: {codes: [503], attempts: 1, backoff: 1ms}").start();
    let tries = Arc::new(AtomicUsize::new(0));
    let count = tries.clone();
    let _app = Backend::custom(mesh.net.addr(11, APP), move |request: Request<hyper::body::Incoming>| {
        let count = count.clone();
        async move {
            let mut body = request.into_body();
            if count.fetch_add(1, Ordering::SeqCst) == 0 {
                let _ = body.frame().await;
                // Answers before the body has ended, and still reads it.
                tokio::spawn(async move { while body.frame().await.is_some() {} });
                return Response::builder().status(503).body(full("busy")).unwrap();
            }
            let body = body.collect().await.unwrap().to_bytes();
            Response::new(full(body))
        }
    });
    let _peer = mesh.peer("a", 11);
    let mut raw = Raw::new(mesh.client("client").connect(mesh.net.addr(10, 80)).await.unwrap());
    raw.send("POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 9\r\n\r\none").await;
    eventually("the second try", || async { tries.load(Ordering::SeqCst) == 2 }).await;
    raw.send("two").await;
    raw.send("end").await;
    let answer = raw.until("onetwoend").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    drop(raw);
    assert_eq!(mesh.record().await.attempts, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_connect_is_tried_at_another_endpoint_by_default() {
    let mut mesh = mesh().manifests(pod(NS, "a-2", "a", "a", 12)).manifests(pod(NS, "a-3", "a", "a", 13)).start();
    // Of three endpoints one is there; of the others one has a proxy without an application, one nothing.
    let _half = mesh.peer("a", 12);
    let (app, _peer) = mesh.workload("a-1", "a", 11);
    let client = mesh.client("client");
    for n in 0..30 {
        let request = if n % 2 == 0 { get("/") } else { post("/", vec![1; 100_000]) };
        let answer = client.send(mesh.net.addr(10, 80), request).await;
        assert_eq!((answer.status, answer.text()), (StatusCode::OK, "a-1"));
        assert!((1..=3).contains(&mesh.record().await.attempts));
    }
    assert!(app.seen().iter().all(|s| s.body.is_empty() || s.body.len() == 100_000), "nothing of a body is lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn when_all_connects_fail_the_answer_is_503() {
    let mut mesh = mesh().start();
    let answer = mesh.client("client").get(mesh.net.addr(10, 80), "/").await;
    assert_eq!((answer.status, answer.text()), (StatusCode::SERVICE_UNAVAILABLE, "upstream connect error"));
    let record = mesh.record().await;
    assert_eq!((record.flag.as_str(), record.attempts), ("UF", 3));
    assert_eq!(record.upstream, Some(mesh.net.addr(11, APP)));
}

/// Reads a request, then breaks the connection off without an answer, `times` times.
fn breaking(mesh: &Mesh, times: usize) -> (Backend, Peer) {
    let count = Arc::new(AtomicUsize::new(0));
    let app = Backend::tcp(mesh.net.addr(11, APP), move |stream| {
        let count = count.clone();
        async move {
            let mut raw = Raw::new(stream);
            while raw.find("\r\n\r\n").await.is_some() {
                if count.fetch_add(1, Ordering::SeqCst) < times {
                    return;
                }
                raw.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
            }
        }
    });
    (app, mesh.peer("a", 11))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_is_tried_again_only_if_the_rule_has_retries() {
    for (rule, status, flag, attempts) in [("", 503, "UC", 1), ("  retry: {attempts: 1, backoff: 1ms}", 200, "-", 2)] {
        let mut mesh = with_rule(rule).start();
        let _app = breaking(&mesh, 1);
        let answer = mesh.client("client").get(mesh.net.addr(10, 80), "/").await;
        let record = mesh.record().await;
        assert_eq!((answer.status.as_u16(), record.flag.as_str(), record.attempts), (status, flag, attempts), "{rule}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_try_that_takes_too_long_is_followed_by_one_elsewhere() {
    let mut mesh = with_rule("  timeouts: {request: 10s, backendRequest: 200ms}\n  retry: {codes: [503], attempts: 1, backoff: 1ms}")
        .manifests(pod(NS, "a-2", "a", "a", 12))
        .start();
    let _hung = Backend::custom(mesh.net.addr(11, APP), |_| std::future::pending::<Response<_>>());
    let _hung_peer = mesh.peer("a", 11);
    let _good = mesh.workload("a-2", "a", 12);
    let client = mesh.client("client");
    let mut attempts = Vec::new();
    for _ in 0..12 {
        let answer = client.get(mesh.net.addr(10, 80), "/").await;
        assert_eq!((answer.status, answer.text()), (StatusCode::OK, "a-2"), "{attempts:?}");
        attempts.push(mesh.record().await.attempts);
    }
    assert!(attempts.contains(&2), "{attempts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_request_time_limit_covers_all_tries() {
    let mut mesh = with_rule("  timeouts: {request: 300ms}\n  retry: {codes: [503], attempts: 50, backoff: 100ms}").start();
    let script = Script::default();
    static ALWAYS: [u16; 60] = [503; 60];
    let _app = script.start(&mesh, &ALWAYS);
    let answer = mesh.client("client").get(mesh.net.addr(10, 80), "/").await;
    assert_eq!((answer.status, mesh.record().await.flag.as_str()), (StatusCode::GATEWAY_TIMEOUT, "UT"));
    assert!((1..6).contains(&script.tries().len()));
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_that_is_unavailable_is_tried_again_by_default() {
    let mut mesh = mesh().start();
    let tries = Arc::new(AtomicUsize::new(0));
    let count = tries.clone();
    let _app = Backend::custom(mesh.net.addr(11, APP), move |request: Request<hyper::body::Incoming>| {
        let n = count.fetch_add(1, Ordering::SeqCst);
        async move {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(body, "message", "the whole message each time");
            let status = if n < 2 { "14" } else { "0" };
            Response::builder().header("content-type", "application/grpc").header("grpc-status", status).body(full("")).unwrap()
        }
    });
    let _peer = mesh.peer("a", 11);
    let mut http2 = mesh.client("client").http2(mesh.net.addr(10, 81)).await;
    let request = Request::post("http://test/pkg.Svc/M").header("content-type", "application/grpc").header("te", "trailers");
    let response = soon("answer", http2.send_request(request.body(Full::new(bytes::Bytes::from("message"))).unwrap())).await.unwrap();
    assert_eq!(response.headers()["grpc-status"], "0");
    assert_eq!(mesh.record().await.attempts, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_that_speaks_hbone_is_never_reached_in_plaintext() {
    let mesh = mesh().start();
    let app = Backend::http(mesh.net.addr(11, APP), "a-1");
    let client = mesh.client("client");
    // No proxy at all, then one that is somebody else: the application listens all the while.
    assert_eq!(client.get(mesh.net.addr(10, 80), "/").await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(client.get(mesh.net.addr(11, APP), "/").await.status, StatusCode::SERVICE_UNAVAILABLE);
    let impostor = mesh.peer("impostor", 11);
    assert_eq!(client.get(mesh.net.addr(10, 80), "/").await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(impostor.asked().is_empty(), "{:?}", impostor.asked());
    assert_eq!(app.connections(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_outside_the_mesh_is_reached_over_plain_tcp() {
    let mut mesh = mesh()
        .manifests(service(NS, "old", 30, &[("http", 80, APP), ("tcp", 81, APP)]))
        .manifests(plain_pod(NS, "old-1", "old", "old", 31))
        .start();
    let app = Backend::http(mesh.net.addr(31, APP), "old-1");
    let client = mesh.client("client");
    for _ in 0..5 {
        assert_eq!(client.get(mesh.net.addr(30, 80), "/").await.text(), "old-1");
        let record = mesh.record().await;
        assert_eq!((record.upstream, record.upstream_identity), (Some(mesh.net.addr(31, APP)), None));
    }
    assert_eq!(app.connections(), 1, "kept as well");
    let mut raw = Raw::new(client.connect(mesh.net.addr(30, 81)).await.unwrap());
    raw.send("GET /opaque HTTP/1.1\r\nhost: test\r\n\r\n").await;
    raw.until("old-1").await;
    assert!(!app.last().headers.contains_key("x-request-id"), "opaque bytes are not looked into");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_balanced_by_least_request() {
    let mesh = mesh().manifests(pod(NS, "a-2", "a", "a", 12)).start();
    let (good, _peer) = mesh.workload("a-1", "a", 11);
    let held = Arc::new(tokio::sync::Semaphore::new(0));
    let hold = held.clone();
    let busy = Backend::custom(mesh.net.addr(12, APP), move |_| {
        let hold = hold.clone();
        async move {
            let _ = hold.acquire().await;
            Response::new(full("a-2"))
        }
    });
    let _busy_peer = mesh.peer("a", 12);
    let client = mesh.client("client");
    // One request hangs at the second pod; with two choices of two endpoints no other follows it.
    let mut hanging = tokio::task::JoinSet::new();
    while busy.connections() == 0 {
        let (client, address) = (client.clone(), mesh.net.addr(10, 80));
        let before = good.seen().len();
        hanging.spawn(async move { client.get(address, "/").await });
        eventually("the request arrives", || async { busy.connections() > 0 || good.seen().len() > before }).await;
    }
    let before = good.seen().len();
    for _ in 0..40 {
        assert_eq!(client.get(mesh.net.addr(10, 80), "/").await.text(), "a-1");
    }
    assert_eq!((good.seen().len() - before, busy.connections()), (40, 1));
    held.add_permits(10);
    soon("the rest", hanging.join_all()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_that_was_cut_is_replaced() {
    let mesh = mesh().start();
    let (_app, peer) = mesh.workload("a-1", "a", 11);
    let client = mesh.client("client");
    assert_eq!(client.get(mesh.net.addr(10, 80), "/").await.text(), "a-1");
    peer.stop().await;
    assert_eq!(client.get(mesh.net.addr(10, 80), "/").await.status, StatusCode::SERVICE_UNAVAILABLE);
    let peer = mesh.peer("a", 11);
    assert_eq!(client.send(mesh.net.addr(10, 80), post("/", "body")).await.text(), "a-1");
    assert_eq!((peer.tunnels(), peer.asked().len()), (1, 1));
}

/// Two endpoints, of which one refuses; the other one's application is this.
fn half_there<F, Fut>(serve: F) -> (Mesh, Backend, Peer)
where
    F: Fn(Raw<TcpStream>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let mesh = mesh().manifests(pod(NS, "a-2", "a", "a", 12)).start();
    let app = Backend::tcp(mesh.net.addr(11, APP), move |stream| serve(Raw::new(stream)));
    let peer = mesh.peer("a", 11);
    (mesh, app, peer)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_survives_a_failed_connect() {
    let (mut mesh, _app, _peer) = half_there(|mut raw| async move {
        raw.head().await;
        raw.send("HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n").await;
        while let Some(line) = raw.find("\n").await {
            raw.send(format!("echo {line}")).await;
        }
    });
    let client = mesh.client("client");
    let mut attempts = 0;
    for _ in 0..12 {
        let mut raw = Raw::new(client.connect(mesh.net.addr(10, 80)).await.unwrap());
        raw.send("GET /chat HTTP/1.1\r\nhost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
        assert!(raw.head().await.starts_with("HTTP/1.1 101 "));
        raw.send("hello\n").await;
        assert_eq!(raw.until("\n").await, "echo hello\n");
        attempts = attempts.max(mesh.record().await.attempts);
    }
    assert_eq!(attempts, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expectation_survives_a_failed_connect() {
    let (mut mesh, _app, _peer) = half_there(|mut raw| async move {
        raw.head().await;
        assert!(raw.is_silent().await, "the body is not sent unasked");
        raw.send("HTTP/1.1 100 Continue\r\n\r\n").await;
        raw.until("body").await;
        raw.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok").await;
    });
    let client = mesh.client("client");
    let mut attempts = 0;
    for _ in 0..12 {
        let mut raw = Raw::new(client.connect(mesh.net.addr(10, 80)).await.unwrap());
        raw.send("POST / HTTP/1.1\r\nhost: test\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n").await;
        assert_eq!(raw.head().await, "HTTP/1.1 100 Continue\r\n\r\n");
        raw.send("body").await;
        let answer = raw.until("\r\n\r\nok").await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        attempts = attempts.max(mesh.record().await.attempts);
    }
    assert_eq!(attempts, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn http_2_survives_a_failed_connect() {
    let mut mesh = mesh()
        .manifests(service(NS, "any", 30, &[("unknown", 80, APP)]))
        .manifests(pod(NS, "any-1", "any", "a", 31))
        .manifests(pod(NS, "any-2", "any", "a", 32))
        .start();
    let _app = mesh.workload("any-1", "a", 31);
    let mut http2 = mesh.client("client").http2(mesh.net.addr(30, 80)).await;
    let mut attempts = 0;
    for _ in 0..12 {
        let request = Request::get("http://test/").body(Full::<bytes::Bytes>::default()).unwrap();
        let response = soon("answer", http2.send_request(request)).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        attempts = attempts.max(mesh.record().await.attempts);
    }
    assert_eq!(attempts, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_wait_for_a_connection_fail_with_it() {
    let mesh = mesh().config(|c| c.hbone.handshake_timeout = Duration::from_millis(300)).start();
    // The kernel accepts, and nobody ever answers.
    let _hole = std::net::TcpListener::bind(mesh.net.addr(11, 15008)).unwrap();
    let http2 = mesh.client("client").http2(mesh.net.addr(10, 81)).await;
    let begun = Instant::now();
    let requests =
        (0..10).map(|_| {
            let mut http2 = http2.clone();
            async move {
                http2.send_request(Request::get("http://test/").body(Full::<bytes::Bytes>::default()).unwrap()).await.unwrap().status()
            }
        });
    let statuses = soon("answers", futures_util::future::join_all(requests)).await;
    assert_eq!(statuses, [StatusCode::SERVICE_UNAVAILABLE; 10]);
    // Three tries each; one after the other they would take 9 s.
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
}
