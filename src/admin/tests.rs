use super::*;
use crate::{runtime::Readiness, telemetry};
use std::{
    future::pending,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinHandle,
};

async fn start(routes: Router) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    (addr, tokio::spawn(serve(listener, routes, pending())))
}

/// Sends one request and returns the whole answer.
async fn ask(addr: SocketAddr, head: &str) -> String {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(format!("{head} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn readiness_lists_what_is_pending_and_then_says_ready() {
    let state = Readiness::new();
    let pending = (state.register("certificate"), state.register("manifests"));
    let (addr, _server) = start(readiness(state.clone())).await;
    let answer = ask(addr, "GET /healthz/ready").await;
    assert!(answer.starts_with("HTTP/1.1 500 ") && answer.ends_with("\r\n\r\ncertificate\nmanifests\n"), "{answer}");
    drop(pending);
    let answer = ask(addr, "GET /healthz/ready").await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\nready\n"), "{answer}");
    state.note("workload API", Some("disconnected".into()));
    let answer = ask(addr, "GET /healthz/ready").await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\nready\nworkload API: disconnected\n"), "{answer}");
    let answer = ask(addr, "HEAD /healthz/ready").await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\n"), "{answer}");
    let answer = ask(addr, "POST /healthz/ready").await;
    assert!(answer.starts_with("HTTP/1.1 405 ") && answer.contains("allow: GET, HEAD\r\n"), "{answer}");
    assert!(ask(addr, "GET /").await.starts_with("HTTP/1.1 404 "));
}

#[tokio::test]
async fn metrics_are_text_and_compressed_on_request() {
    let handle = telemetry::install();
    telemetry::component("ztunnel");
    let (addr, _server) = start(metrics(handle)).await;
    for path in ["/metrics", "/stats/prometheus?x=1"] {
        let answer = ask(addr, &format!("GET {path}")).await;
        assert!(answer.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{answer}");
        assert!(answer.contains("istio_build{"), "{answer}");
    }
    let answer = ask(addr, "GET /metrics HTTP/1.1\r\naccept-encoding: gzip\r\nx-rest:").await;
    assert!(answer.contains("content-encoding: gzip\r\n"), "{answer}");
    let answer = ask(addr, "GET /stats/prometheus HTTP/1.1\r\naccept: application/openmetrics-text;version=1.0.0\r\nx-rest:").await;
    assert!(answer.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n"), "{answer}");
    assert!(answer.contains("process_open_fds ") && answer.ends_with("# EOF\n"), "{answer}");
}

#[tokio::test]
async fn the_operator_sees_the_configuration_and_may_end_the_process() {
    let quits = Arc::new(AtomicUsize::new(0));
    let counted = quits.clone();
    let log = telemetry::log::init(Some("warn"), false);
    let routes = debug(
        || r#"{"services":[]}"#.into(),
        log,
        move || {
            counted.fetch_add(1, Ordering::Relaxed);
        },
    )
    .with_index();
    let (addr, _server) = start(routes).await;

    assert!(ask(addr, "GET /config_dump").await.ends_with("\r\n\r\n{\"services\":[]}"));
    assert!(ask(addr, "GET /").await.contains("POST /quitquitquit               drain and exit\n"));
    assert!(ask(addr, "GET /").await.contains("\nGET  /version "));
    assert!(ask(addr, "GET /version").await.contains("\"name\":\"cairn\""));

    assert!(ask(addr, "GET /quitquitquit").await.starts_with("HTTP/1.1 405 "));
    assert_eq!(quits.load(Ordering::Relaxed), 0, "a GET never ends the process");
    assert!(ask(addr, "POST /quitquitquit").await.ends_with("shutdown now\n"));
    assert_eq!(quits.load(Ordering::Relaxed), 1);

    assert!(ask(addr, "GET /logging?level=debug").await.starts_with("HTTP/1.1 405 "));
    assert!(ask(addr, "POST /logging?level=cairn%3A%3Ahbone%3Derror,warn").await.contains("cairn::hbone=error"));
    assert!(ask(addr, "POST /logging?level=loud").await.starts_with("HTTP/1.1 400 "));
    assert!(ask(addr, "POST /logging").await.contains("cairn::hbone=error"), "changes nothing");
    let answer = ask(addr, "POST /logging?reset&level=cairn::dns=trace").await;
    assert!(answer.contains("cairn::dns=trace") && !answer.contains("cairn::hbone"), "{answer}");
    assert!(!ask(addr, "POST /logging?reset").await.contains("cairn::dns"));
    assert!(ask(addr, "DELETE /config_dump").await.contains("allow: GET, HEAD, POST\r\n"));
}

#[tokio::test]
async fn profiles_are_asked_for_with_sensible_numbers() {
    let routes = debug(String::new, telemetry::log::init(Some("off"), false), || {});
    let (addr, _server) = start(routes).await;
    for query in ["seconds=0", "seconds=301", "seconds=-1", "frequency=0", "frequency=1001", "seconds=1&frequency=x"] {
        let answer = ask(addr, &format!("GET /debug/pprof/profile?{query}")).await;
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("not a number from 1 to "), "{query}: {answer}");
    }
    let answer = ask(addr, "GET /debug/pprof/heap").await;
    assert!(answer.starts_with("HTTP/1.1 500 ") && answer.ends_with("heap profiling is not active\n"), "{answer}");
    assert!(ask(addr, "POST /debug/pprof/heap/profiling?activate=maybe").await.starts_with("HTTP/1.1 400 "));
    let answer = ask(addr, "POST /debug/pprof/heap/profiling?activate=true").await;
    assert!(answer.starts_with("HTTP/1.1 500 ") && answer.contains("does not sample"), "tests have another allocator: {answer}");
    assert!(ask(addr, "GET /debug/pprof/heap/profiling").await.ends_with("heap profiling is not active\n"));
}

#[tokio::test]
async fn a_client_that_sends_no_request_is_cut_off() {
    let (addr, _server) = start(readiness(Readiness::new())).await;
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(b"GET /healthz/ready HTTP/1.1\r\n").await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await.expect("cut off").ok();
}

#[tokio::test]
async fn the_server_ends_when_told_though_clients_stay_connected() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let server = tokio::spawn(serve(listener, readiness(Readiness::new()), async { drop(stopped.await) }));
    let mut idle = TcpStream::connect(addr).await.unwrap();
    assert!(ask(addr, "GET /healthz/ready").await.contains("ready"));
    drop(stop);
    tokio::time::timeout(Duration::from_secs(10), server).await.expect("the server ends").unwrap();
    let mut rest = Vec::new();
    idle.read_to_end(&mut rest).await.ok();
    assert!(rest.is_empty());
    assert!(TcpStream::connect(addr).await.is_err(), "the port is free again");
}

#[test]
fn a_query_is_decoded_once() {
    let query = Asked { uri: "/x?a=1&level=x%2525%3d%zz%&flag&a=2".parse().unwrap(), headers: http::HeaderMap::new() };
    assert_eq!(query.get("a").as_deref(), Some("1"));
    assert_eq!(query.get("level").as_deref(), Some("x%25=%zz%"));
    assert_eq!(query.get("flag").as_deref(), Some(""));
    assert_eq!(query.get("none"), None);
}
