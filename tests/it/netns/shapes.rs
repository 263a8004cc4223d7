//! Every way to use a connection, on every path.

use super::*;
use crate::support::{
    apps::{BURST, BURST_BYTES, BYE, COUNT, End, GREET, RESET, WATCH, end, exchange, talk},
    eventually,
    proxy::Access,
    soon,
    world::{Pod, Spec},
};
use std::{collections::BTreeSet, io::ErrorKind};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

#[tokio::test(flavor = "multi_thread")]
async fn connections_of_every_shape_survive_every_path() {
    let Some(mut world) = World::new() else { return };
    let client = world.pod(Spec::captured("client", 1));
    let near = world.pod(Spec::captured("near", 1));
    let far = world.pod(Spec::captured("far", 2));
    let outside = world.pod(Spec::plain("outside", 2));
    let apps = [&near, &far, &outside].map(Apps::start);
    let proxies = world.start("services: []\npolicies: []\n").await;
    let [at_near, at_far, at_outside] = &apps;
    let rows = [
        ("on one node", &client, &near, at_near),
        ("across nodes", &client, &far, at_far),
        ("captured to plain", &client, &outside, at_outside),
        ("plain to captured", &outside, &near, at_near),
    ];
    for (what, from, to, app) in rows {
        every_shape(what, from, to, app).await;
    }
    // All at once: more than all buffers on the way hold.
    let long = rows.map(|(what, from, to, _)| async move {
        let stream = open(what, from, to, ECHO).await;
        echo(stream, &pattern(8 << 20)).await.unwrap_or_else(|e| panic!("{what}, long: {e}"));
    });
    futures_util::future::join_all(long).await;
    // A connection that stood has no flag however it ended (contract, 6.1); the log tells more.
    for proxy in &proxies {
        let resets = |a: &&Access| a.message == "connection complete" && a.get("dst.hbone_addr").ends_with(":8085");
        proxy.access("a reset", |a| resets(&a)).await;
        assert!(proxy.accesses().iter().filter(resets).all(|access| access.get("error").contains("reset")), "{:?}", proxy.accesses());
        let metrics = proxy.metrics().await;
        let flags: BTreeSet<&str> =
            metrics.all("istio_tcp_connections_closed_total").iter().map(|(labels, _)| &*labels["response_flags"]).collect();
        assert_eq!(flags, ["-", "CONNECT"].into(), "nobody listens, for one");
        let failed: BTreeSet<&str> =
            metrics.all("istio_tcp_connections_failed_total").iter().map(|(labels, _)| &*labels["response_flags"]).collect();
        assert_eq!(failed, ["CONNECT"].into());
    }
}

/// All of them between two pods.
pub async fn every_shape(what: &str, from: &Pod, to: &Pod, app: &Apps) {
    server_speaks_first(what, from, to).await;
    server_writes_and_closes(what, from, to).await;
    client_ends_first(what, from, to, app).await;
    server_ends_first(what, from, to, app).await;
    application_resets(what, from, to).await;
    client_resets(what, from, to, app).await;
    nobody_listens(what, from, to).await;
}

async fn open(what: &str, from: &Pod, to: &Pod, port: u16) -> TcpStream {
    from.connect(to.at(port)).await.unwrap_or_else(|e| panic!("{what}, port {port}: {e}"))
}

async fn server_speaks_first(what: &str, from: &Pod, to: &Pod) {
    let mut stream = open(what, from, to, GREET).await;
    let mut hello = [0; 5];
    soon("greeting", stream.read_exact(&mut hello)).await.unwrap_or_else(|e| panic!("{what}, greeting: {e}"));
    assert_eq!(&hello, b"hello", "{what}");
    exchange(&mut stream, b"and now I").await.unwrap_or_else(|e| panic!("{what}, after the greeting: {e}"));
}

async fn server_writes_and_closes(what: &str, from: &Pod, to: &Pod) {
    let mut stream = open(what, from, to, BURST).await;
    assert_eq!(end(&mut stream).await, End::Closed(BURST_BYTES), "{what}: all of what was written before the end");
}

async fn client_ends_first(what: &str, from: &Pod, to: &Pod, app: &Apps) {
    // The answer to the end comes although the client's direction is closed.
    let before = app.ends(COUNT).len();
    let answer = talk(open(what, from, to, COUNT).await, &pattern(70_000)).await;
    assert_eq!(String::from_utf8(answer.unwrap()).unwrap(), "70000 bytes", "{what}");
    eventually("the application is done", async || app.ends(COUNT).len() > before).await;
}

async fn server_ends_first(what: &str, from: &Pod, to: &Pod, app: &Apps) {
    let before = app.ends(BYE).len();
    let mut stream = open(what, from, to, BYE).await;
    assert_eq!(end(&mut stream).await, End::Closed(3), "{what}: the server's end comes while the client's is open");
    stream.write_all(&pattern(5000)).await.unwrap_or_else(|e| panic!("{what}, after the server's end: {e}"));
    drop(stream);
    eventually("the application is done", async || app.ends(BYE).len() > before).await;
    assert_eq!(app.ends(BYE).last().unwrap(), "5000 bytes", "{what}: what was sent after the server's end");
}

async fn application_resets(what: &str, from: &Pod, to: &Pod) {
    let mut stream = open(what, from, to, RESET).await;
    stream.write_all(b"x").await.unwrap();
    assert_eq!(end(&mut stream).await, End::Failed(ErrorKind::ConnectionReset), "{what}: a server's reset arrives as one");
}

async fn client_resets(what: &str, from: &Pod, to: &Pod, app: &Apps) {
    let before = app.ends(WATCH).len();
    let mut stream = open(what, from, to, WATCH).await;
    stream.write_all(b"x").await.unwrap();
    let mut seen = [0; 1];
    soon("a sign that the application has it", stream.read_exact(&mut seen)).await.unwrap_or_else(|e| panic!("{what}: {e}"));
    stream.set_zero_linger().unwrap();
    drop(stream);
    eventually("the application notices", async || app.ends(WATCH).len() > before).await;
    assert_eq!(app.ends(WATCH).last().unwrap(), "ConnectionReset", "{what}: a client's reset arrives as one");
}

/// Behind a proxy the application's connect has succeeded before it is known.
async fn nobody_listens(what: &str, from: &Pod, to: &Pod) {
    let Ok(mut stream) = from.connect(to.at(9)).await else { return };
    assert!(matches!(end(&mut stream).await, End::Closed(0) | End::Failed(ErrorKind::ConnectionReset)), "{what}: closed without an answer");
}
