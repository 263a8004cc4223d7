//! What may be spoken inside a tunnel, and how it comes through (`docs/life-of-a-request.md`).

use crate::support::{
    Backend, Client, Mesh, MeshBuilder, Peer, Raw,
    backend::full,
    client::{Answer, get, post},
    eventually,
    manifests::*,
    mesh::NS,
    soon,
};
use bytes::Bytes;
use futures_util::Stream;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::Frame;
use http_body_util::{BodyExt as _, Empty, Full, StreamBody};
use std::{convert::Infallible, pin::Pin, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::{Notify, mpsc},
};

const APP: u16 = 8080;

fn mesh() -> MeshBuilder {
    MeshBuilder::new()
        .manifests(service(
            NS,
            "echo",
            10,
            &[("http", 80, APP), ("http2", 81, APP), ("grpc", 82, APP), ("unknown", 83, APP), ("tcp-x", 84, APP)],
        ))
        .manifests(pod(NS, "echo-v1", "echo", "echo", 11))
        .manifests(pod(NS, "client", "client", "client", 20))
}

/// A raw connection through the waypoint to a port of the service.
async fn raw(client: &Client, mesh: &Mesh, port: u16) -> Raw<cairn::hbone::TunnelIo> {
    Raw::new(client.connect(mesh.net.addr(10, port)).await.expect("CONNECT is accepted"))
}

/// An application that speaks bytes, with a proxy before it.
fn bytes_app<F, Fut>(mesh: &Mesh, serve: F) -> (Backend, Peer)
where
    F: Fn(Raw<TcpStream>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let app = Backend::tcp(mesh.net.addr(11, APP), move |stream| serve(Raw::new(stream)));
    (app, mesh.peer("echo", 11))
}

type Streaming = StreamBody<Pin<Box<dyn Stream<Item = Result<Frame<Bytes>, Infallible>> + Send + Sync>>>;

/// A body that is sent piece by piece.
fn streaming() -> (mpsc::Sender<Frame<Bytes>>, Streaming) {
    let (send, receive) = mpsc::channel(1);
    let frames = futures_util::stream::unfold(receive, |mut receive| async move { receive.recv().await.map(|frame| (Ok(frame), receive)) });
    (send, StreamBody::new(Box::pin(frames)))
}

fn data(text: &'static str) -> Frame<Bytes> {
    Frame::data(Bytes::from_static(text.as_bytes()))
}

#[tokio::test(flavor = "multi_thread")]
async fn app_protocol_decides_then_the_port_name_then_the_first_bytes() {
    let mesh = MeshBuilder::new()
        .manifests(
            "---
apiVersion: v1
kind: Service
metadata: {name: echo, namespace: app}
spec:
  clusterIP: NET.10
  selector: {app: echo}
  ports:
  - {name: http-a, port: 1, targetPort: 8080, appProtocol: tcp}
  - {name: tcp-b, port: 2, targetPort: 8080, appProtocol: http}
  - {name: tcp-c, port: 3, targetPort: 8080}
  - {name: http-d, port: 4, targetPort: 8080}
  - {name: e, port: 5, targetPort: 8080}
  - {name: f, port: 6, targetPort: 8080, appProtocol: kubernetes.io/ws}
  - {name: redis, port: 7, targetPort: 8080}
",
        )
        .manifests(pod(NS, "echo-v1", "echo", "echo", 11))
        .start();
    // Echoes bytes: to an opaque client its own words come back, to an HTTP client they are no answer.
    let (_app, _peer) = bytes_app(&mesh, |mut raw| async move {
        let head = raw.head().await;
        raw.send(head).await;
    });
    let client = mesh.client("client");
    let (http, opaque) = ("HTTP/1.1 503 ", "GET / HTTP/1");
    for (port, want) in [(1, opaque), (2, http), (3, opaque), (4, http), (5, http), (6, http), (7, opaque)] {
        let mut raw = raw(&client, &mesh, port).await;
        raw.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        assert!(raw.head().await.starts_with(want), "port {port}");
    }
    let mut raw = raw(&client, &mesh, 5).await;
    raw.send("\x00 not http\r\n\r\n").await;
    assert_eq!(raw.head().await, "\x00 not http\r\n\r\n", "a port that says nothing is what is spoken on it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_may_speak_first() {
    let mesh = mesh().config(|c| c.sniff_timeout = Duration::from_millis(100)).start();
    let (_app, _peer) = bytes_app(&mesh, |mut raw| async move {
        raw.send("220 ready\r\n").await;
        let line = raw.until("\r\n").await;
        raw.send(format!("you said {line}")).await;
    });
    let client = mesh.client("client");
    for port in [83, 84] {
        let mut raw = raw(&client, &mesh, port).await;
        assert_eq!(raw.until("\r\n").await, "220 ready\r\n", "port {port}");
        raw.send("HELO\r\n").await;
        assert_eq!(raw.until("\r\n").await, "you said HELO\r\n", "port {port}");
        assert_eq!(raw.rest().await, "", "the end of the server's bytes is passed on");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn opaque_bytes_are_closed_one_direction_at_a_time() {
    let mesh = mesh().start();
    let (_app, peer) = bytes_app(&mesh, |mut raw| async move {
        let all = raw.rest().await;
        raw.send(format!("{} bytes", all.len())).await;
    });
    let client = mesh.client("client");
    let mut raw = raw(&client, &mesh, 84).await;
    raw.send(vec![7; 1 << 20]).await;
    raw.shutdown().await;
    assert_eq!(raw.rest().await, "1048576 bytes");
    eventually("no stream is left", || async { peer.open_streams() == 0 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_version_towards_the_workload_is_the_ports_or_the_clients() {
    let mesh = mesh().start();
    let (app, _peer) = mesh.workload("echo-v1", "echo", 11);
    let client = mesh.client("client");
    let (one, two) = (Version::HTTP_11, Version::HTTP_2);
    for (port, from_one, from_two) in [(80, one, one), (81, two, two), (82, two, two), (83, one, two)] {
        let address = mesh.net.addr(10, port);
        let answer = client.get(address, "/one?a=b").await;
        let seen = app.last();
        assert_eq!((answer.status, seen.version, &*seen.target), (StatusCode::OK, from_one, "/one?a=b"), "port {port}");
        assert_eq!(seen.headers.get("host").map_or("test", |h| h.to_str().unwrap()), "test");
        let request = Request::get("http://test/two").body(Full::<Bytes>::default()).unwrap();
        let response = soon("response", client.http2(address).await.send_request(request)).await.unwrap();
        assert_eq!(Answer::of(response).await.text(), "echo-v1");
        let seen = app.last();
        assert_eq!((seen.version, &*seen.target), (from_two, "/two"), "port {port}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_streams_in_both_directions_with_trailers() {
    let mesh = mesh().start();
    let _app = Backend::custom(mesh.net.addr(11, APP), |request| async move {
        assert_eq!(request.headers()["te"], "trailers");
        let mut body = request.into_body();
        let (send, stream) = streaming();
        tokio::spawn(async move {
            while let Some(Ok(frame)) = body.frame().await {
                let Ok(data) = frame.into_data() else { break };
                if send.send(Frame::data(data)).await.is_err() {
                    return;
                }
            }
            let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), HeaderValue::from_static("0"))]);
            let _ = send.send(Frame::trailers(trailers)).await;
        });
        let body = stream.map_err(|never| match never {}).boxed();
        Response::builder().header("content-type", "application/grpc").body(body).unwrap()
    });
    let _peer = mesh.peer("echo", 11);
    for port in [82, 83] {
        let (send, stream) = streaming();
        let mut http2 = mesh.client("client").http2(mesh.net.addr(10, port)).await;
        let request = Request::post("http://test/pkg.Svc/Chat").header("content-type", "application/grpc").header("te", "trailers");
        let response = soon("response head before any message", http2.send_request(request.body(stream).unwrap())).await.unwrap();
        let mut body = response.into_body();
        for message in ["one", "two"] {
            send.send(data(message)).await.unwrap();
            let frame = soon("the echo of a message", body.frame()).await.unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap(), message, "port {port}");
        }
        drop(send);
        let trailers = soon("trailers", body.frame()).await.unwrap().unwrap().into_trailers().unwrap();
        assert_eq!(trailers["grpc-status"], "0", "port {port}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_is_bytes_both_ways_after_the_101() {
    let mesh = mesh().start();
    let (_app, peer) = bytes_app(&mesh, |mut raw| async move {
        let head = raw.head().await.to_lowercase();
        assert!(
            head.contains("upgrade: websocket") && head.contains("connection: upgrade") && head.contains("sec-websocket-key: k"),
            "{head}"
        );
        raw.send("HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: a\r\n\r\nhello")
            .await;
        while let Some(line) = raw.find("\n").await {
            raw.send(format!("echo {line}")).await;
        }
        raw.send("bye").await;
    });
    let client = mesh.client("client");
    for port in [80, 83] {
        let mut raw = raw(&client, &mesh, port).await;
        raw.send("GET /chat HTTP/1.1\r\nhost: test\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\nearly\n").await;
        let head = raw.head().await.to_lowercase();
        assert!(
            head.starts_with("http/1.1 101 ") && head.contains("upgrade: websocket") && head.contains("sec-websocket-accept: a"),
            "{head}"
        );
        assert_eq!(raw.until("\n").await, "helloecho early\n");
        raw.send("late\n").await;
        assert_eq!(raw.until("\n").await, "echo late\n");
        raw.shutdown().await;
        assert_eq!(raw.rest().await, "bye", "one direction may end first");
        eventually("no stream is left", || async { peer.open_streams() == 0 }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_waits_for_websockets() {
    let mut mesh = mesh().drain_deadline(Duration::from_secs(20)).start();
    let (_app, _peer) = bytes_app(&mesh, |mut raw| async move {
        raw.head().await;
        raw.send("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n").await;
        while let Some(line) = raw.find("\n").await {
            raw.send(line).await;
        }
    });
    let client = mesh.client("client");
    let mut raw = raw(&client, &mesh, 80).await;
    raw.send("GET /chat HTTP/1.1\r\nhost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
    raw.head().await;
    let drained = tokio::spawn(mesh.running.take().unwrap().shutdown());
    eventually("no new tunnels", || async { TcpStream::connect(mesh.waypoint).await.is_err() }).await;
    raw.send("still\n").await;
    assert_eq!(raw.until("\n").await, "still\n");
    assert!(!drained.is_finished());
    raw.shutdown().await;
    assert_eq!(raw.rest().await, "");
    soon("the end of the drain", drained).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_that_is_declined_is_an_ordinary_answer() {
    let mesh = mesh().start();
    let (app, _peer) = mesh.workload("echo-v1", "echo", 11);
    let client = mesh.client("client");
    let mut raw = raw(&client, &mesh, 80).await;
    for _ in 0..2 {
        raw.send("GET / HTTP/1.1\r\nhost: test\r\nConnection: Upgrade\r\nUpgrade: other/1\r\n\r\n").await;
        assert!(raw.until("\r\n\r\necho-v1").await.starts_with("HTTP/1.1 200 "));
        assert_eq!(app.last().headers["upgrade"], "other/1");
    }
}

/// After such an upgrade a client could send requests that no policy has seen ("h2c smuggling").
#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_to_another_http_is_not_passed_on() {
    let mesh = mesh().start();
    let (app, _peer) = mesh.workload("echo-v1", "echo", 11);
    let client = mesh.client("client");
    for upgrade in ["h2c", "H2C", "websocket, h2c", "HTTP/2.0", "h2", "TLS/1.0"] {
        let mut raw = raw(&client, &mesh, 80).await;
        raw.send(format!(
            "GET / HTTP/1.1\r\nhost: test\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABk\r\nUpgrade: {upgrade}\r\n\r\n"
        ))
        .await;
        assert!(raw.until("\r\n\r\necho-v1").await.starts_with("HTTP/1.1 200 "), "{upgrade}");
        let seen = app.last().headers;
        assert!(
            !seen.contains_key("upgrade") && !seen.contains_key("http2-settings") && !seen.contains_key("connection"),
            "{upgrade}: {seen:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_pass_in_both_directions() {
    let mesh = mesh().start();
    let _app = Backend::custom(mesh.net.addr(11, APP), |request| async move {
        let sent = request.into_body().collect().await.unwrap();
        let sum = sent.trailers().and_then(|t| t.get("x-sum")).cloned().unwrap_or(HeaderValue::from_static("none"));
        let trailers = HeaderMap::from_iter([("x-sum".parse().unwrap(), sum)]);
        let frames = [Frame::data(sent.to_bytes()), Frame::trailers(trailers)];
        let body = StreamBody::new(futures_util::stream::iter(frames.map(Ok)));
        Response::builder().header("trailer", "x-sum").body(body.boxed()).unwrap()
    });
    let _peer = mesh.peer("echo", 11);
    let client = mesh.client("client");
    for port in [80, 81] {
        let mut raw = raw(&client, &mesh, port).await;
        raw.send("POST / HTTP/1.1\r\nhost: test\r\nTE: trailers\r\nTrailer: x-sum\r\ntransfer-encoding: chunked\r\n\r\n3;ext=1\r\nabc\r\n2\r\nde\r\n0\r\nX-Sum: 42\r\n\r\n").await;
        let head = raw.head().await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        let body = raw.until("\r\n0\r\n").await + &raw.head().await;
        assert!(body.contains("abc") && body.to_lowercase().ends_with("x-sum: 42\r\n\r\n"), "port {port}: {body:?}");

        let (send, stream) = streaming();
        let request = Request::post("http://test/").header("te", "trailers").header("trailer", "x-sum").body(stream).unwrap();
        let mut http2 = client.http2(mesh.net.addr(10, port)).await;
        let response = tokio::spawn(async move { http2.send_request(request).await });
        send.send(data("x")).await.unwrap();
        send.send(Frame::trailers(HeaderMap::from_iter([("x-sum".parse().unwrap(), HeaderValue::from_static("43"))]))).await.unwrap();
        drop(send);
        let answer = Answer::of(soon("response", response).await.unwrap().unwrap()).await;
        let sum = answer.trailers.as_ref().map(|t| t["x-sum"].clone());
        assert_eq!((answer.text(), sum), ("x", Some(HeaderValue::from_static("43"))), "port {port}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_of_several_chunks_with_trailers_arrives_as_it_was_sent() {
    let mesh = mesh().start();
    let (app, _peer) = mesh.workload("echo-v1", "echo", 11);
    let client = mesh.client("client");
    let mut raw = raw(&client, &mesh, 80).await;
    raw.send("POST / HTTP/1.1\r\nhost: test\r\ntrailer: x-sum\r\ntransfer-encoding: chunked\r\n\r\n").await;
    for byte in "3\r\nabc\r\n2;x=\"y\"\r\nde\r\n000\r\nx-sum: 42\r\n\r\n".bytes() {
        raw.send([byte]).await;
    }
    raw.head().await;
    let seen = app.last();
    assert_eq!((&*seen.body, &seen.trailers.unwrap()["x-sum"]), (&b"abcde"[..], &HeaderValue::from_static("42")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_asked_for_its_body_when_the_workload_asks() {
    let mesh = mesh().start();
    let go = Arc::new(Notify::new());
    let wait = go.clone();
    let (_app, _peer) = bytes_app(&mesh, move |mut raw| {
        let wait = wait.clone();
        async move {
            let head = raw.head().await.to_lowercase();
            assert!(head.contains("expect: 100-continue"), "{head}");
            if head.starts_with("post /no") {
                raw.send("HTTP/1.1 417 Expectation Failed\r\ncontent-length: 0\r\n\r\n").await;
                return drop(raw.rest().await);
            }
            assert!(raw.is_silent().await, "the body is not sent unasked");
            wait.notified().await;
            raw.send("HTTP/1.1 100 Continue\r\n\r\n").await;
            assert_eq!(raw.until("body").await, "body");
            raw.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
        }
    });
    let client = mesh.client("client");
    let mut asked = raw(&client, &mesh, 80).await;
    asked.send("POST /yes HTTP/1.1\r\nhost: test\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n").await;
    assert!(asked.is_silent().await, "the client is not asked before the workload asks");
    go.notify_one();
    assert_eq!(asked.head().await, "HTTP/1.1 100 Continue\r\n\r\n");
    asked.send("body").await;
    assert!(asked.head().await.starts_with("HTTP/1.1 200 "));

    let mut declined = raw(&client, &mesh, 80).await;
    declined.send("POST /no HTTP/1.1\r\nhost: test\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n").await;
    assert!(declined.head().await.starts_with("HTTP/1.1 417 "), "the refusal comes instead of 100");
}

#[tokio::test(flavor = "multi_thread")]
async fn early_hints_pass_before_the_answer() {
    let mesh = mesh().start();
    let go = Arc::new(Notify::new());
    let wait = go.clone();
    let (_app, _peer) = bytes_app(&mesh, move |mut raw| {
        let wait = wait.clone();
        async move {
            while raw.find("\r\n\r\n").await.is_some() {
                raw.send("HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\nconnection: x-hop\r\nx-hop: 1\r\n\r\n").await;
                wait.notified().await;
                raw.send("HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
            }
        }
    });
    let client = mesh.client("client");
    let mut raw = raw(&client, &mesh, 80).await;
    for _ in 0..3 {
        raw.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n").await;
        assert_eq!(raw.head().await, "HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\n");
        go.notify_one();
        assert_eq!(raw.head().await, "HTTP/1.1 102 Processing\r\n\r\n");
        let answer = raw.until("ok").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && !answer.contains("link"), "{answer}");
    }
    // RFC 9110, 15.2: never to a client of HTTP/1.0.
    let mut raw = Raw::new(client.connect(mesh.net.addr(10, 80)).await.unwrap());
    raw.send("GET / HTTP/1.0\r\nhost: test\r\n\r\n").await;
    go.notify_one();
    assert!(raw.head().await.starts_with("HTTP/1.0 200 "));
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_stream_unbuffered_in_both_directions() {
    let mesh = mesh().start();
    let _app = Backend::custom(mesh.net.addr(11, APP), |request| async move {
        let mut body = request.into_body();
        let (send, stream) = streaming();
        tokio::spawn(async move {
            while let Some(Ok(frame)) = body.frame().await {
                let _ = send.send(frame).await;
            }
        });
        Response::new(stream.map_err(|never| match never {}).boxed())
    });
    let _peer = mesh.peer("echo", 11);
    let client = mesh.client("client");
    for port in [80, 81] {
        let mut raw = raw(&client, &mesh, port).await;
        raw.send("POST / HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n").await;
        assert!(raw.head().await.to_lowercase().contains("transfer-encoding: chunked"));
        for piece in ["first", "second"] {
            raw.send(format!("{:x}\r\n{piece}\r\n", piece.len())).await;
            raw.until(piece).await;
        }
        raw.send("0\r\n\r\n").await;
        raw.until("0\r\n\r\n").await;

        let (send, stream) = streaming();
        let mut http2 = client.http2(mesh.net.addr(10, port)).await;
        let response = soon("head", http2.send_request(Request::post("http://test/").body(stream).unwrap())).await.unwrap();
        let mut body = response.into_body();
        for piece in ["first", "second"] {
            send.send(data(piece)).await.unwrap();
            assert_eq!(soon("piece", body.frame()).await.unwrap().unwrap().into_data().unwrap(), piece, "port {port}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ambiguous_framing_is_refused() {
    let mesh = mesh().start();
    let (app, _peer) = mesh.workload("echo-v1", "echo", 11);
    let client = mesh.client("client");
    let smuggled = "GET /smuggled HTTP/1.1\r\nhost: test\r\n\r\n";
    let heads = [
        ("both lengths", "content-length: 4\r\ntransfer-encoding: chunked"),
        ("both lengths, the other way round", "transfer-encoding: chunked\r\ncontent-length: 4"),
        ("two lengths", "content-length: 4\r\ncontent-length: 5"),
        ("a list of lengths", "content-length: 4, 5"),
        ("a signed length", "content-length: +4"),
        ("a length that is none", "content-length: 4x"),
        ("a negative length", "content-length: -1"),
        ("chunked not last", "transfer-encoding: chunked, gzip"),
        ("an unknown coding", "transfer-encoding: xchunked"),
        ("chunked twice", "transfer-encoding: chunked, chunked"),
        ("chunked twice in two lines", "transfer-encoding: chunked\r\ntransfer-encoding: chunked"),
        ("identity after chunked", "transfer-encoding: chunked\r\ntransfer-encoding: identity"),
        ("obsolete folding", "x-a: b\r\n c\r\ncontent-length: 4"),
        ("folded coding", "transfer-encoding:\r\n chunked"),
        ("space before the colon", "content-length : 4"),
        ("space before the colon of a coding", "transfer-encoding : chunked"),
        ("a bare carriage return", "x-a: b\rcontent-length: 4"),
        ("a nul", "x-a: b\0c\r\ncontent-length: 4"),
    ];
    for (what, lines) in heads {
        let mut raw = raw(&client, &mesh, 80).await;
        raw.send(format!("POST /first HTTP/1.1\r\nhost: test\r\n{lines}\r\n\r\n0\r\n\r\n{smuggled}")).await;
        let head = raw.find("\r\n\r\n").await.unwrap_or_default();
        assert!(head.starts_with("HTTP/1.1 400 "), "{what}: {head}");
        let all = head + &raw.rest().await;
        assert_eq!(all.matches("HTTP/1.1 ").count(), 1, "{what}: nothing after it is looked at: {all}");
    }
    assert!(app.seen().is_empty(), "{:?}", app.seen());
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_chunks_are_refused() {
    let mesh = mesh().start();
    let (app, _peer) = mesh.workload("echo-v1", "echo", 11);
    let client = mesh.client("client");
    for chunk in [
        "g\r\n",
        "-1\r\na\r\n",
        "0x1\r\na\r\n",
        "+1\r\na\r\n",
        "fffffffffffffffff\r\n",
        "1 1\r\na\r\n",
        "\r\n",
        "1\r\nabc\r\n",
        "1\na\n",
        "1;a\nb\r\na\r\n",
    ] {
        let mut raw = raw(&client, &mesh, 80).await;
        raw.send(format!("POST /first HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n{chunk}0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: test\r\n\r\n")).await;
        let all = raw.rest().await;
        assert!(all.is_empty() || all.starts_with("HTTP/1.1 400 "), "{chunk:?}: {all}");
        assert!(all.matches("HTTP/1.1 ").count() <= 1, "{chunk:?}: nothing after it is looked at: {all}");
    }
    assert!(app.seen().iter().all(|s| s.target != "/smuggled"));
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_without_a_body_stay_without() {
    let mesh = mesh().start();
    let (_app, _peer) = bytes_app(&mesh, |mut raw| async move {
        while let Some(head) = raw.find("\r\n\r\n").await {
            let answer = match head.split_ascii_whitespace().nth(1).unwrap_or_default() {
                "/204" => "204 No Content\r\n\r\n",
                "/304" => "304 Not Modified\r\netag: x\r\n\r\n",
                "/304-length" => "304 Not Modified\r\ncontent-length: 70\r\n\r\n",
                "/head" => "200 OK\r\ncontent-length: 1000\r\n\r\n",
                "/head-chunked" => "200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
                "/empty" => "200 OK\r\ncontent-length: 0\r\n\r\n",
                other => panic!("{other}"),
            };
            raw.send(format!("HTTP/1.1 {answer}")).await;
        }
    });
    let client = mesh.client("client");
    let mut raw = raw(&client, &mesh, 80).await;
    let mut http2 = client.http2(mesh.net.addr(10, 80)).await;
    let rows = [
        ("GET", "/204", 204, None),
        ("GET", "/304", 304, None),
        ("GET", "/304-length", 304, Some("70")),
        ("HEAD", "/head", 200, Some("1000")),
        ("HEAD", "/head-chunked", 200, None),
        ("GET", "/empty", 200, Some("0")),
    ];
    for (method, path, status, length) in rows {
        raw.send(format!("{method} {path} HTTP/1.1\r\nhost: test\r\n\r\n")).await;
        let head = raw.head().await.to_lowercase();
        assert!(head.starts_with(&format!("http/1.1 {status} ")), "{path}: {head}");
        let found = head.lines().find_map(|l| l.strip_prefix("content-length: "));
        // Of a 304 it may be left out (RFC 9110, 8.6); it must not become 0.
        assert!(found == length || (status == 304 && found.is_none()), "{path}: {head}");
        let request = Request::builder().method(method).uri(format!("http://test{path}")).body(Empty::<Bytes>::new()).unwrap();
        let answer = Answer::of(soon("response", http2.send_request(request)).await.unwrap()).await;
        assert_eq!((answer.status.as_u16(), answer.body.len()), (status, 0), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn http_1_0_is_served() {
    let mesh = mesh().start();
    let (app, _peer) = mesh.workload("echo-v1", "echo", 11);
    let client = mesh.client("client");
    for port in [80, 81, 83] {
        let mut raw = raw(&client, &mesh, port).await;
        raw.send("GET /old HTTP/1.0\r\n\r\n").await;
        let all = raw.rest().await;
        assert!(all.starts_with("HTTP/1.0 200 ") && all.ends_with("echo-v1"), "port {port}: {all}");
        let seen = app.last();
        assert_eq!(seen.target, "/old");
        if seen.version == Version::HTTP_11 {
            assert_eq!(seen.headers["host"], mesh.net.addr(10, port).to_string(), "HTTP/1.1 asks for a host");
        }
        let mut raw = self::raw(&client, &mesh, port).await;
        for _ in 0..2 {
            raw.send("GET /kept HTTP/1.0\r\nhost: test\r\nconnection: keep-alive\r\n\r\n").await;
            assert!(raw.until("\r\n\r\necho-v1").await.starts_with("HTTP/1.0 200 "), "port {port}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http_1_0_client_gets_no_chunks() {
    let mesh = mesh().start();
    let (_app, _peer) = bytes_app(&mesh, |mut raw| async move {
        raw.head().await;
        raw.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n").await;
        raw.rest().await;
    });
    let client = mesh.client("client");
    let mut raw = raw(&client, &mesh, 80).await;
    raw.send("GET / HTTP/1.0\r\nhost: test\r\nconnection: keep-alive\r\n\r\n").await;
    let all = raw.rest().await;
    assert!(all.ends_with("\r\n\r\nabc") && !all.to_lowercase().contains("chunked"), "{all}");
}

/// RFC 9113, 8.2.3: HTTP/2 may split the Cookie header, HTTP/1.1 may not.
#[tokio::test(flavor = "multi_thread")]
async fn cookie_crumbs_of_http_2_are_one_header_in_http_1() {
    let mesh = mesh().start();
    let (app, _peer) = mesh.workload("echo-v1", "echo", 11);
    let mut http2 = mesh.client("client").http2(mesh.net.addr(10, 80)).await;
    let request = Request::get("http://test/").header("cookie", "a=b").header("cookie", "c=d").body(Empty::<Bytes>::new()).unwrap();
    soon("response", http2.send_request(request)).await.unwrap();
    let cookies: Vec<_> = app.last().headers.get_all("cookie").iter().cloned().collect();
    assert_eq!(cookies, ["a=b; c=d"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_does_not_cost_a_connect() {
    let mesh = mesh().start();
    let (app, peer) = mesh.workload("echo-v1", "echo", 11);
    let client = mesh.client("client");
    let mut send = client.http1(mesh.net.addr(10, 80)).await;
    for n in 0..200 {
        soon("ready", send.ready()).await.unwrap();
        let request = if n % 2 == 0 { get("/") } else { post("/", "some body") };
        let answer = Answer::of(soon("response", send.send_request(request)).await.unwrap()).await;
        assert_eq!(answer.text(), "echo-v1");
    }
    for _ in 0..20 {
        client.get(mesh.net.addr(10, 80), "/").await;
    }
    assert_eq!((peer.asked().len(), peer.tunnels(), app.connections()), (1, 1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_at_once_share_an_http_2_connection() {
    let mesh = mesh().start();
    let (app, peer) = mesh.workload("echo-v1", "echo", 11);
    let http2 = mesh.client("client").http2(mesh.net.addr(10, 81)).await;
    let requests = (0..50).map(|_| {
        let mut http2 = http2.clone();
        async move { http2.send_request(Request::get("http://test/").body(Empty::<Bytes>::new()).unwrap()).await.unwrap().status() }
    });
    let statuses = soon("answers", futures_util::future::join_all(requests)).await;
    assert!(statuses.iter().all(|s| *s == StatusCode::OK));
    assert_eq!((peer.asked().len(), app.connections()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn load_is_spread_over_more_than_one_tunnel() {
    let mesh = mesh().start();
    let held = Arc::new(tokio::sync::Semaphore::new(0));
    let hold = held.clone();
    let app = Backend::custom(mesh.net.addr(11, APP), move |_| {
        let hold = hold.clone();
        async move {
            let _ = hold.acquire().await;
            Response::new(full("ok"))
        }
    });
    let peer = mesh.peer("echo", 11);
    let client = mesh.client("client");
    let mut requests = tokio::task::JoinSet::new();
    for _ in 0..40 {
        let (client, address) = (client.clone(), mesh.net.addr(10, 80));
        requests.spawn(async move { client.get(address, "/").await.status });
    }
    eventually("all are in flight", || async { app.connections() == 40 }).await;
    assert!((2..=4).contains(&peer.tunnels()), "{} tunnels", peer.tunnels());
    held.add_permits(1000);
    assert!(soon("answers", requests.join_all()).await.iter().all(|s| *s == StatusCode::OK));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_ends_the_exchange_with_the_workload() {
    let mesh = mesh().start();
    let app = Backend::custom(mesh.net.addr(11, APP), |request| async move {
        if request.uri().path() == "/silent" {
            std::future::pending::<()>().await;
        }
        let (send, stream) = streaming();
        tokio::spawn(async move {
            let _ = send.send(data("begin")).await;
            send.closed().await;
        });
        Response::new(stream.map_err(|never| match never {}).boxed())
    });
    let peer = mesh.peer("echo", 11);
    for path in ["/silent", "/begin"] {
        // HTTP/1 towards the workload: its connection is of no use any more.
        for port in [80, 83] {
            let before = app.connections();
            let client = mesh.client("client");
            let mut raw = raw(&client, &mesh, port).await;
            raw.send(format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n")).await;
            if path == "/begin" {
                raw.until("begin").await;
            }
            eventually("the request reaches the workload", || async { app.connections() > before }).await;
            drop(raw);
            eventually("no stream is left", || async { peer.open_streams() == 0 }).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_resets_its_stream_ends_the_exchange_and_not_the_connection() {
    let mesh = mesh().start();
    let (aborted, mut aborts) = mpsc::channel::<()>(8);
    let app = Backend::custom(mesh.net.addr(11, APP), move |request| {
        let aborted = aborted.clone();
        async move {
            if request.uri().path() == "/ok" {
                return Response::new(full("ok"));
            }
            let (send, stream) = streaming();
            tokio::spawn(async move {
                let _ = send.send(data("begin")).await;
                send.closed().await;
                let _ = aborted.send(()).await;
            });
            Response::new(stream.map_err(|never| match never {}).boxed())
        }
    });
    let peer = mesh.peer("echo", 11);
    let mut http2 = mesh.client("client").http2(mesh.net.addr(10, 81)).await;
    let request = |path: &str| Request::get(format!("http://test{path}")).body(Empty::<Bytes>::new()).unwrap();
    for _ in 0..5 {
        let mut body = soon("head", http2.send_request(request("/begin"))).await.unwrap().into_body();
        soon("first piece", body.frame()).await.unwrap().unwrap();
        drop(body);
        soon("the workload notices", aborts.recv()).await.unwrap();
    }
    let answer = Answer::of(soon("response", http2.send_request(request("/ok"))).await.unwrap()).await;
    assert_eq!(answer.text(), "ok");
    assert_eq!((app.connections(), peer.open_streams()), (1, 1), "one connection carries them all");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_connection_that_the_workload_has_closed_is_replaced() {
    let mesh = mesh().start();
    let (app, _peer) = bytes_app(&mesh, |mut raw| async move {
        // Closes after each answer without having said so.
        raw.head().await;
        raw.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    });
    let client = mesh.client("client");
    let mut send = client.http1(mesh.net.addr(10, 80)).await;
    for n in 0..100 {
        soon("ready", send.ready()).await.unwrap();
        let answer = Answer::of(soon("response", send.send_request(get("/"))).await.unwrap()).await;
        assert_eq!((answer.status, answer.text()), (StatusCode::OK, "ok"), "request {n}");
    }
    assert_eq!(app.connections(), 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_may_have_been_seen_is_not_sent_twice() {
    let mesh = mesh().start();
    let (app, _peer) = bytes_app(&mesh, |mut raw| async move {
        raw.head().await;
        raw.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
        // The second request is read, and then the application dies.
        raw.head().await;
    });
    let client = mesh.client("client");
    let mut send = client.http1(mesh.net.addr(10, 80)).await;
    soon("response", send.send_request(get("/"))).await.unwrap();
    soon("ready", send.ready()).await.unwrap();
    let answer = Answer::of(soon("response", send.send_request(post("/", "charge"))).await.unwrap()).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(app.connections(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_of_an_answer_is_never_taken_for_the_next() {
    let mesh = mesh().start();
    let (_app, _peer) = bytes_app(&mesh, |mut raw| async move {
        while raw.find("\r\n\r\n").await.is_some() {
            raw.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\nforeign").await;
        }
    });
    let client = mesh.client("client");
    for n in 0..20 {
        let answer = client.get(mesh.net.addr(10, 80), "/").await;
        assert_eq!(answer.text(), "ok", "request {n}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_breaks_off_is_not_taken_for_a_whole_one() {
    let mut mesh = mesh().start();
    let (_app, _peer) = bytes_app(&mesh, |mut raw| async move {
        let head = raw.head().await;
        let answer =
            if head.contains("/chunked") { "transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n" } else { "content-length: 10\r\n\r\nhello" };
        raw.send(format!("HTTP/1.1 200 OK\r\n{answer}")).await;
    });
    let client = mesh.client("client");
    for path in ["/chunked", "/length"] {
        let mut raw = raw(&client, &mesh, 80).await;
        raw.send(format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n")).await;
        let all = raw.rest().await;
        // The reset may overtake what came before it.
        assert!(!all.ends_with("0\r\n\r\n"), "{all}");
        assert_eq!(mesh.record().await.flag.as_str(), "UC");
        let mut http2 = client.http2(mesh.net.addr(10, 80)).await;
        let request = Request::get(format!("http://test{path}")).body(Empty::<Bytes>::new()).unwrap();
        let response = soon("head", http2.send_request(request)).await.unwrap();
        assert!(soon("body", response.into_body().collect()).await.is_err(), "{path}");
        assert_eq!(mesh.record().await.flag.as_str(), "UC");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_method_passes() {
    let mesh = mesh().start();
    let (app, _peer) = mesh.workload("echo-v1", "echo", 11);
    let client = mesh.client("client");
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"] {
        let request = Request::builder().method(method).uri("/").header("host", "test").body(Full::default()).unwrap();
        assert_eq!(client.send(mesh.net.addr(10, 80), request).await.status, StatusCode::OK, "{method}");
        assert_eq!(app.last().method, Method::from_bytes(method.as_bytes()).unwrap());
    }
    let mut raw = raw(&client, &mesh, 80).await;
    raw.send("OPTIONS * HTTP/1.1\r\nhost: test\r\n\r\n").await;
    assert!(raw.head().await.starts_with("HTTP/1.1 200 "));
    let mut raw = self::raw(&client, &mesh, 80).await;
    raw.send("CONNECT other:443 HTTP/1.1\r\nhost: other:443\r\n\r\n").await;
    assert!(raw.head().await.starts_with("HTTP/1.1 400 "), "no tunnel within a tunnel");
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_of_grpc_are_trailers_only() {
    let mut mesh = mesh()
        .manifests(service(NS, "away", 30, &[("grpc", 80, APP)]))
        .manifests(service(NS, "denied", 31, &[("grpc", 80, APP)]))
        .manifests(policy(NS, "no", "targetRefs: [{group: \"\", kind: Service, name: denied}]\naction: DENY\nrules: [{}]"))
        .manifests(service(NS, "routed", 32, &[("grpc", 80, APP), ("unknown", 81, APP)]))
        .manifests(route(NS, "r", "routed", "- matches: [{path: {type: Exact, value: /only}}]\n  backendRefs: [{name: away, port: 80}]"))
        .manifests(service(NS, "invalid", 33, &[("grpc", 80, APP)]))
        .manifests(route(NS, "i", "invalid", "- backendRefs: [{name: gone, port: 80}]"))
        .lenient()
        .start();
    let client = mesh.client("client");
    let rows = [(30, 80, "14"), (31, 80, "7"), (32, 80, "12"), (32, 81, "12"), (33, 80, "14")];
    for (host, port, code) in rows {
        let mut http2 = client.http2(mesh.net.addr(host, port)).await;
        let request = Request::post("http://test/pkg.Svc/Method").header("content-type", "application/grpc+proto").header("te", "trailers");
        let response = soon("response", http2.send_request(request.body(Empty::<Bytes>::new()).unwrap())).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["grpc-status"], code, "service {host}");
        assert_eq!(response.headers()["content-type"], "application/grpc");
        assert!(http_body::Body::is_end_stream(response.body()), "the head ends the stream");
        assert_eq!(mesh.record().await.grpc_status.map(|s| s.to_string()).as_deref(), Some(code));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_does_not_make_the_waypoint_read_on() {
    let mesh = mesh().start();
    let sent = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = sent.clone();
    let _app = Backend::tcp(mesh.net.addr(11, APP), move |mut stream| {
        let count = count.clone();
        async move {
            let mut head = [0; 1024];
            let _ = stream.read(&mut head).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1073741824\r\n\r\n").await;
            while stream.write_all(&[0; 65536]).await.is_ok() {
                count.fetch_add(65536, std::sync::atomic::Ordering::Relaxed);
            }
        }
    });
    let _peer = mesh.peer("echo", 11);
    let mut http2 = mesh.client("client").http2(mesh.net.addr(10, 80)).await;
    let request = Request::get("http://test/").body(Empty::<Bytes>::new()).unwrap();
    let _response = soon("head", http2.send_request(request)).await.unwrap();
    // What windows and socket buffers hold has been sent when the count stands still.
    let (mut last, mut still) = (0, 0);
    eventually("the application is held back", || {
        let now = sent.load(std::sync::atomic::Ordering::Relaxed);
        still = if now == last && now > 0 { still + 1 } else { 0 };
        last = now;
        // Fifty looks in a row, ten milliseconds apart.
        std::future::ready(still >= 50)
    })
    .await;
    assert!(last < 64 << 20, "{last} bytes were taken in");
}

/// A workload outside the mesh: the waypoint has its socket itself.
fn mesh_with_plain() -> MeshBuilder {
    mesh()
        .manifests(service(NS, "plain", 30, &[("http", 80, APP), ("unknown", 83, APP), ("tcp-x", 84, APP)]))
        .manifests(plain_pod(NS, "plain-1", "plain", "plain", 31))
}

const UPGRADE: &str = "GET /chat HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
const SWITCHING: &str = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_breaks_off_is_not_taken_for_a_whole_one() {
    let mesh = mesh_with_plain().start();
    let _app = Backend::tcp(mesh.net.addr(31, APP), |stream| async move {
        let mut stream = stream;
        let mut hello = vec![0; 1024];
        let n = stream.read(&mut hello).await.unwrap();
        if hello.starts_with(b"GET ") {
            stream.write_all(SWITCHING.as_bytes()).await.unwrap();
        }
        stream.write_all(b"half of it").await.unwrap();
        // Until the client has it all.
        assert!(n > 0 && stream.read(&mut hello).await.unwrap() > 0);
        cairn::transport::socket::reset_on_close(&stream);
    });
    let client = mesh.client("client");
    for (port, hello) in [(84, "hello"), (83, "\0 hello\r\n"), (80, UPGRADE)] {
        let mut io = client.connect(mesh.net.addr(30, port)).await.unwrap();
        io.write_all(hello.as_bytes()).await.unwrap();
        let mut read = Vec::new();
        while !read.ends_with(b"half of it") {
            assert!(soon("half of it", io.read_buf(&mut read)).await.unwrap() > 0);
        }
        io.write_all(b"go").await.unwrap();
        let end = soon("the end", io.read_to_end(&mut read)).await;
        assert_eq!(end.map_err(|e| e.kind()), Err(std::io::ErrorKind::ConnectionReset), "port {port}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_breaks_off_is_not_taken_for_a_whole_one() {
    let mesh = mesh_with_plain().start();
    let (ends, mut ended) = mpsc::channel(1);
    let _app = Backend::tcp(mesh.net.addr(31, APP), move |stream| {
        let (mut stream, ends) = (stream, ends.clone());
        async move {
            let mut read = Vec::new();
            while !read.ends_with(b"half of it") {
                assert!(stream.read_buf(&mut read).await.unwrap() > 0);
                if read.ends_with(b"\r\n\r\n") {
                    stream.write_all(SWITCHING.as_bytes()).await.unwrap();
                }
            }
            stream.write_all(b"go").await.unwrap();
            let _ = ends.send(stream.read_to_end(&mut read).await.map_err(|e| e.kind())).await;
        }
    });
    let client = mesh.client("client");
    for (port, hello) in [(84, "hello"), (83, "\0 hello\r\n"), (80, UPGRADE)] {
        let mut io = client.connect(mesh.net.addr(30, port)).await.unwrap();
        io.write_all(hello.as_bytes()).await.unwrap();
        let mut read = Vec::new();
        while port == 80 && !read.ends_with(b"\r\n\r\n") {
            assert!(soon("101", io.read_buf(&mut read)).await.unwrap() > 0);
        }
        io.write_all(b"half of it").await.unwrap();
        while !read.ends_with(b"go") {
            assert!(soon("go", io.read_buf(&mut read)).await.unwrap() > 0);
        }
        io.reset(h2::Reason::CONNECT_ERROR);
        let end = soon("the end", ended.recv()).await.unwrap();
        assert_eq!(end, Err(std::io::ErrorKind::ConnectionReset), "port {port}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_cannot_go_on_are_not_an_empty_answer() {
    let rules = "action: DENY\nrules: [{to: [{operation: {ports: ['83']}}]}]\ntargetRefs: [{group: '', kind: Service, name: echo}]";
    let mut mesh = mesh_with_plain().manifests(policy(NS, "p", rules)).start();
    let client = mesh.client("client");
    // Denied, and without an endpoint that answers: both found out after the 200.
    for (host, flag) in [(10, "DENY"), (30, "UF")] {
        let mut io = client.connect(mesh.net.addr(host, 83)).await.unwrap();
        io.write_all(b"\0 hello\r\n").await.unwrap();
        let end = soon("the end", io.read_to_end(&mut Vec::new())).await;
        assert_eq!(end.map_err(|e| e.kind()), Err(std::io::ErrorKind::ConnectionReset), "{flag}");
        assert_eq!(mesh.tcp_record().await.flag.as_str(), flag);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_connection_that_nobody_uses_is_closed() {
    let mesh = mesh().config(|c| c.upstream_idle = Duration::from_millis(500)).start();
    let (app, peer) = mesh.workload("echo-v1", "echo", 11);
    let client = mesh.client("client");
    for (n, port) in [80, 81].into_iter().enumerate() {
        assert_eq!(client.get(mesh.net.addr(10, port), "/").await.text(), "echo-v1");
        assert_eq!(app.connections(), n + 1, "port {port}");
        eventually("it is closed", || async { peer.open_streams() == 0 }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_connection_with_a_long_request_stays() {
    let mesh = mesh().config(|c| c.upstream_idle = Duration::from_millis(500)).start();
    let go = Arc::new(Notify::new());
    let wait = go.clone();
    let app = Backend::custom(mesh.net.addr(11, APP), move |request| {
        let wait = wait.clone();
        async move {
            if request.uri().path() != "/now" {
                wait.notified().await;
            }
            Response::new(full("late"))
        }
    });
    let peer = mesh.peer("echo", 11);
    let mut http2 = mesh.client("client").http2(mesh.net.addr(10, 81)).await;
    let request = || Request::get("http://test/").body(Empty::<Bytes>::new()).unwrap();
    let first = tokio::spawn(http2.send_request(request()));
    eventually("it is under way", || async { app.connections() == 1 }).await;
    // Another connection goes unused and is swept; the one with the request was looked at in the same sweep.
    mesh.client("client").get(mesh.net.addr(10, 80), "/now").await;
    eventually("the unused one is closed", || async { app.connections() == 2 && peer.open_streams() == 1 }).await;
    let second = tokio::spawn(http2.send_request(request()));
    for response in [first, second] {
        go.notify_one();
        assert_eq!(Answer::of(soon("answer", response).await.unwrap().unwrap()).await.text(), "late");
    }
    assert_eq!(app.connections(), 2);
}
