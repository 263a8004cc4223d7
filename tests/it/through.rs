//! From a client's socket to an application's, through ztunnel, waypoint and ztunnel.

use crate::support::{Backend, MeshBuilder, Ztunnel, client, manifests::*, mesh::NS, soon};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

pub fn mesh() -> MeshBuilder {
    MeshBuilder::new()
        .traffic("service")
        .manifests(service(NS, "echo", 10, &[("http", 80, 8080), ("tcp-raw", 90, 9090)]))
        .manifests(pod(NS, "echo-v1", "echo", "echo", 11))
        .manifests(pod(NS, "client", "client", "client", 20))
}

pub async fn exchange(stream: TcpStream, request: Request<Full<Bytes>>) -> (StatusCode, Bytes) {
    let (mut send, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let response = soon("response", send.send_request(request)).await.expect("there is an answer");
    let status = response.status();
    (status, response.into_body().collect().await.unwrap().to_bytes())
}

async fn get(ztunnel: &Ztunnel, host: &str, port: u16) -> (StatusCode, Bytes) {
    exchange(ztunnel.socks5(host, port).await.expect("the proxy connects"), client::get("/")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_goes_from_ztunnel_over_the_waypoint_to_ztunnel() {
    let mut mesh = mesh().start();
    let backend = Backend::http(mesh.net.addr(11, 8080), "echo-v1");
    let (from, mut to) = (mesh.ztunnel("client", "client", 20), mesh.ztunnel("echo-v1", "echo", 11));
    for host in [mesh.net.ip(10).to_string(), "echo".into(), "echo.app".into(), "echo.app.svc.cluster.local".into()] {
        assert_eq!(get(&from, &host, 80).await, (StatusCode::OK, Bytes::from("echo-v1")), "{host}");
        let record = mesh.record().await;
        assert_eq!(record.source.as_ref().map(ToString::to_string).as_deref(), Some("spiffe://cluster.local/ns/app/sa/client"));
        assert_eq!(record.downstream.ip(), mesh.net.ip(20));
        assert_eq!(record.source_workload.as_deref(), Some("client"), "the address and the certificate agree");
    }
    let seen = backend.last();
    assert!(seen.headers["x-forwarded-client-cert"].to_str().unwrap().ends_with("URI=spiffe://cluster.local/ns/app/sa/client"));
    mesh.running.take().unwrap().shutdown().await;
    let cairn::telemetry::Record::Tcp(inbound) = soon("record", to.records.recv()).await.unwrap() else { panic!("not a connection") };
    assert_eq!(inbound.source.identity.map(|i| i.to_string()).as_deref(), Some("spiffe://cluster.local/ns/app/sa/waypoint"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_destination_judges_by_the_identity_of_the_waypoint() {
    let only = |account: &str| {
        let spec = format!(
            "selector: {{matchLabels: {{app: echo}}}}\nrules: [{{from: [{{source: {{principals: [cluster.local/ns/app/sa/{account}]}}}}]}}]"
        );
        policy(NS, "l4", &spec)
    };
    for (account, status) in [("waypoint", StatusCode::OK), ("client", StatusCode::SERVICE_UNAVAILABLE)] {
        let mesh = mesh().manifests(only(account)).start();
        let _backend = Backend::http(mesh.net.addr(11, 8080), "echo-v1");
        let (from, _to) = (mesh.ztunnel("client", "client", 20), mesh.ztunnel("echo-v1", "echo", 11));
        assert_eq!(get(&from, "echo", 80).await.0, status, "only {account} may connect");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_waypoint_traffic_goes_to_the_pod_directly() {
    let opted_out = "---\napiVersion: v1\nkind: Service\nmetadata: {name: direct, namespace: app, labels: {istio.io/use-waypoint: none}}\n\
                     spec: {clusterIP: NET.15, selector: {app: echo}, ports: [{name: http, port: 80, targetPort: 8080}]}\n";
    let mesh = mesh().manifests(opted_out).start();
    let backend = Backend::http(mesh.net.addr(11, 8080), "echo-v1");
    let (from, _to) = (mesh.ztunnel("client", "client", 20), mesh.ztunnel("echo-v1", "echo", 11));
    assert_eq!(get(&from, "direct", 80).await.0, StatusCode::OK);
    assert!(!backend.last().headers.contains_key("x-forwarded-client-cert"), "no waypoint has touched it");
    assert_eq!(get(&from, &mesh.net.ip(11).to_string(), 8080).await.0, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_instance_of_the_waypoint_traffic_fails_and_never_goes_around_it() {
    let mut mesh = mesh().start();
    let backend = Backend::http(mesh.net.addr(11, 8080), "echo-v1");
    let (from, _to) = (mesh.ztunnel("client", "client", 20), mesh.ztunnel("echo-v1", "echo", 11));
    mesh.running.take().unwrap().shutdown().await;
    assert!(from.socks5("echo", 80).await.is_err());
    assert_eq!(backend.connections(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn opaque_bytes_pass_with_half_close_in_both_directions() {
    let mesh = mesh().start();
    let _backend = Backend::tcp(mesh.net.addr(11, 9090), |mut stream| async move {
        // The server speaks first, and answers only after the client has ended.
        stream.write_all(b"hello ").await.unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        stream.write_all(&all).await.unwrap();
    });
    let (from, _to) = (mesh.ztunnel("client", "client", 20), mesh.ztunnel("echo-v1", "echo", 11));
    let mut stream = from.socks5("echo", 90).await.unwrap();
    stream.write_all(b"world").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    soon("answer", stream.read_to_string(&mut answer)).await.unwrap();
    assert_eq!(answer, "hello world");
}

/// Connects as an application does that knows nothing of proxies.
pub async fn captured(destination: SocketAddr) -> (StatusCode, Bytes) {
    let stream = soon("connect", TcpStream::connect(destination)).await.unwrap();
    exchange(stream, client::get("/captured")).await
}
