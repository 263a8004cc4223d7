//! The end of a process: what is in flight finishes, what is idle does not hold it up.

use crate::support::{
    Backend, Mesh, MeshBuilder, Peer, Process, backend, client, eventually,
    manifests::*,
    mesh::NS,
    process::ask,
    soon,
    wire::{self, GOAWAY, HEADERS, PING, Wire, frame},
};
use http::{Response, StatusCode};
use std::{sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::Semaphore,
    time::Instant,
};

/// Long enough that a test which waits for it fails.
const LONG: Duration = Duration::from_secs(60);

fn manifests() -> String {
    service(NS, "echo", 10, &[("http", 80, 8080), ("tcp", 90, 9090)]) + &pod(NS, "echo-v1", "echo", "echo", 11)
}

/// An application that answers `/` at once and anything else when a permit is given.
struct Gated {
    permits: Arc<Semaphore>,
    arrived: Arc<Semaphore>,
    _backend: Backend,
    _peer: Peer,
}

impl Gated {
    fn start(net: crate::support::Net, peer: Peer) -> Self {
        let (permits, arrived) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        let (gate, here) = (permits.clone(), arrived.clone());
        let backend = Backend::custom(net.addr(11, 8080), move |request| {
            let (gate, here) = (gate.clone(), here.clone());
            async move {
                if request.uri().path() != "/" {
                    here.add_permits(1);
                    gate.acquire().await.unwrap().forget();
                }
                Response::new(backend::full("done"))
            }
        });
        Self { permits, arrived, _backend: backend, _peer: peer }
    }

    async fn arrival(&self) {
        soon("the request arrives", self.arrived.acquire()).await.unwrap().forget();
    }
}

fn mesh(deadline: Duration) -> (Mesh, Gated) {
    // A peer that does not answer the PING after a GOAWAY is given up after the same time as a handshake.
    let config = |c: &mut cairn::waypoint::Config| c.hbone.handshake_timeout = Duration::from_secs(2);
    let mesh = MeshBuilder::new().manifests(manifests()).drain_deadline(deadline).config(config).start();
    let gated = Gated::start(mesh.net, mesh.peer("echo", 11));
    (mesh, gated)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_in_flight_finishes_while_nothing_new_is_let_in() {
    let (mut mesh, gated) = mesh(LONG);
    let (client, address) = (mesh.client("client"), mesh.net.addr(10, 80));
    let in_flight = tokio::spawn({
        let client = client.clone();
        async move { client.get(address, "/slow").await }
    });
    gated.arrival().await;
    let mut wire = Wire::open(&mesh).await;
    let running = mesh.running.take().unwrap();
    let readiness = running.bound.get("readiness").unwrap();
    assert!(ask(readiness, "/healthz/ready").await.starts_with("HTTP/1.1 200"));
    let waypoint = mesh.waypoint;
    let drained = tokio::spawn(running.shutdown());
    assert_eq!(wire.next(GOAWAY).await.payload[4..8], [0; 4], "tunnels are told");
    let answer = ask(readiness, "/healthz/ready").await;
    assert!(answer.starts_with("HTTP/1.1 500") || answer.starts_with("HTTP/1.1 503"), "readiness fails: {answer}");
    assert!(answer.contains("draining"), "and says why: {answer}");
    eventually("the listener is closed", async || TcpStream::connect(waypoint).await.is_err()).await;
    assert!(!drained.is_finished());
    gated.permits.add_permits(1);
    let answer = soon("the answer", in_flight).await.unwrap();
    assert_eq!((answer.status, answer.text()), (StatusCode::OK, "done"));
    soon("the drain ends", drained).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_without_a_request_do_not_hold_the_drain_up() {
    let (mut mesh, _gated) = mesh(LONG);
    let (client, address) = (mesh.client("client"), mesh.net.addr(10, 80));
    // Kept after a request; never used; HTTP/2, kept and never used.
    let mut used = client.http1(address).await;
    let response = used.send_request(client::get("/")).await.unwrap();
    client::Answer::of(response).await;
    let unused = client.connect(address).await.unwrap();
    let mut used2 = client.http2::<http_body_util::Full<bytes::Bytes>>(address).await;
    let response = used2.send_request(client::get("http://test/")).await.unwrap();
    client::Answer::of(response).await;
    let unused2 = client.http2::<http_body_util::Full<bytes::Bytes>>(address).await;
    // A tunnel without streams, and half a handshake.
    let _idle = Wire::open(&mesh).await;
    let begun = Instant::now();
    soon("the drain ends", mesh.running.take().unwrap().shutdown()).await;
    assert!(begun.elapsed() < LONG / 2);
    drop((used, unused, used2, unused2));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_done_by_the_deadline_is_cut() {
    let (mut mesh, gated) = mesh(Duration::from_millis(300));
    let (client, address) = (mesh.client("client"), mesh.net.addr(10, 80));
    let mut send = client.http1(address).await;
    let cut = tokio::spawn(async move { send.send_request(client::get("/slow")).await });
    gated.arrival().await;
    let _stuck = Backend::tcp(mesh.net.addr(11, 9090), |mut stream| async move {
        let _ = stream.read(&mut [0; 1]).await;
    });
    let mut opaque = client.connect(mesh.net.addr(10, 90)).await.unwrap();
    let begun = Instant::now();
    soon("the drain ends", mesh.running.take().unwrap().shutdown()).await;
    assert!(begun.elapsed() >= Duration::from_millis(300), "the deadline is waited for");
    soon("the request fails", cut).await.unwrap().expect_err("no answer");
    let _ = soon("the connection ends", opaque.read_to_end(&mut Vec::new())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn opaque_connections_go_on_until_they_are_done() {
    let (mut mesh, _gated) = mesh(LONG);
    let _echo = Backend::tcp(mesh.net.addr(11, 9090), |mut stream| async move {
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    });
    let mut io = mesh.client("client").connect(mesh.net.addr(10, 90)).await.unwrap();
    let mut wire = Wire::open(&mesh).await;
    let drained = tokio::spawn(mesh.running.take().unwrap().shutdown());
    wire.next(GOAWAY).await;
    io.write_all(b"after goaway").await.unwrap();
    io.shutdown().await.unwrap();
    let mut all = String::new();
    soon("echo", io.read_to_string(&mut all)).await.unwrap();
    assert_eq!(all, "after goaway");
    soon("the drain ends", drained).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_already_on_its_way_at_goaway_is_served() {
    let (mut mesh, _gated) = mesh(LONG);
    let mut wire = Wire::open(&mesh).await;
    wire.next(wire::SETTINGS).await;
    let drained = tokio::spawn(mesh.running.take().unwrap().shutdown());
    // The first GOAWAY closes nothing yet: it asks for a PING to come back (RFC 9113, 6.8).
    assert_eq!(wire.next(GOAWAY).await.payload[..4], 0x7fff_ffffu32.to_be_bytes());
    wire.send(&wire::connect(1, &mesh.net.addr(10, 90).to_string())).await.unwrap();
    let ping = wire.next(PING).await;
    wire.send(&frame(PING, wire::ACK, 0, &ping.payload)).await.unwrap();
    assert_eq!(wire.next(HEADERS).await.stream, 1);
    wire.send(&wire::reset(1)).await.unwrap();
    soon("the drain ends", drained).await.unwrap();
}

async fn process(args: &[&str]) -> (Process, Gated) {
    let process = Process::start(&manifests(), args).await;
    let peer = Peer::start(process.net.addr(11, 15008), process.cert("echo"));
    let gated = Gated::start(process.net, peer);
    (process, gated)
}

#[tokio::test(flavor = "multi_thread")]
async fn either_signal_drains_and_the_status_is_zero() {
    for signal in ["TERM", "INT"] {
        let (mut process, gated) = process(&["--drain-deadline", "60s"]).await;
        let (client, address) = (process.client("client"), process.net.addr(10, 80));
        let mut idle = client.http1(address).await;
        client::Answer::of(idle.send_request(client::get("/")).await.unwrap()).await;
        let in_flight = tokio::spawn(async move { client.get(address, "/slow").await });
        gated.arrival().await;
        assert!(process.ask("readiness", "/healthz/ready").await.starts_with("HTTP/1.1 200"));
        process.signal(signal);
        eventually("readiness fails", async || process.ask("readiness", "/healthz/ready").await.contains("draining")).await;
        let hbone = process.address("hbone");
        eventually("the listener is closed", async || TcpStream::connect(hbone).await.is_err()).await;
        gated.permits.add_permits(1);
        let answer = soon("the answer", in_flight).await.unwrap();
        assert_eq!((answer.status, answer.text()), (StatusCode::OK, "done"), "SIG{signal}");
        assert_eq!(process.exit().await.code(), Some(0), "SIG{signal}: {}", process.errors());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_it_at_once_and_the_status_tells() {
    let (mut process, gated) = process(&["--drain-deadline", "60s"]).await;
    let (client, address) = (process.client("client"), process.net.addr(10, 80));
    let in_flight = tokio::spawn(async move {
        let mut send = client.http1(address).await;
        send.send_request(client::get("/slow")).await
    });
    gated.arrival().await;
    process.signal("TERM");
    eventually("the drain begins", async || process.ask("readiness", "/healthz/ready").await.contains("draining")).await;
    process.signal("INT");
    assert_eq!(process.exit().await.code(), Some(1));
    assert!(process.errors().contains("SIGINT while draining"));
    soon("the request fails", in_flight).await.unwrap().expect_err("no answer");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_deadline_ends_the_process_orderly() {
    let (mut process, gated) = process(&["--drain-deadline", "1s"]).await;
    let (client, address) = (process.client("client"), process.net.addr(10, 80));
    let in_flight = tokio::spawn(async move {
        let mut send = client.http1(address).await;
        send.send_request(client::get("/slow")).await
    });
    gated.arrival().await;
    process.signal("TERM");
    assert_eq!(process.exit().await.code(), Some(0));
    soon("the request fails", in_flight).await.unwrap().expect_err("no answer");
}
