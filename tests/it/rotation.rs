//! Certificates that are replaced while a waypoint runs.

use crate::support::{
    Backend, Client, Mesh, MeshBuilder,
    client::{Answer, get},
    eventually,
    manifests::*,
    mesh::NS,
    mesh::TRUST_DOMAIN,
    soon,
};
use cairn::{
    cert::{DevCa, IssuedCert},
    model::Identity,
    transport::{WorkloadCert, tls},
};
use http::StatusCode;
use std::{path::PathBuf, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

const HOUR: Duration = Duration::from_secs(3600);

fn waypoint_id() -> Identity {
    Identity::new(TRUST_DOMAIN, NS, "waypoint").unwrap()
}

fn mesh() -> Mesh {
    let ports = [("http", 80, 8080), ("tcp", 90, 9090)];
    MeshBuilder::new().manifests(service(NS, "echo", 10, &ports) + &pod(NS, "echo-v1", "echo", "echo", 11)).start()
}

fn dir(mesh: &Mesh) -> PathBuf {
    mesh.dir.path().join("certs/app/waypoint")
}

/// What a fresh handshake shows of the waypoint.
async fn shown(mesh: &Mesh) -> Vec<u8> {
    let stream = TcpStream::connect(mesh.waypoint).await.unwrap();
    let (io, ..) =
        soon("handshake", tls::connect(stream, &mesh.cert(NS, "client"), &[waypoint_id()], None)).await.expect("the waypoint is trusted");
    io.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

fn leaf(issued: &IssuedCert) -> Vec<u8> {
    cert(issued, &issued.roots_pem).chain()[0].to_vec()
}

fn cert(issued: &IssuedCert, roots: &str) -> WorkloadCert {
    WorkloadCert::from_pem(issued.chain_pem.as_bytes(), issued.key_pem.as_bytes(), roots.as_bytes()).unwrap()
}

async fn is_shown(mesh: &Mesh, issued: &IssuedCert) {
    let want = leaf(issued);
    eventually("the new certificate is shown", async || shown(mesh).await == want).await;
}

async fn ping(io: &mut (impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin)) {
    io.write_all(b"ping").await.unwrap();
    let mut read = [0; 4];
    soon("echo", io.read_exact(&mut read)).await.unwrap();
    assert_eq!(&read, b"ping");
}

fn tcp_echo(mesh: &Mesh) -> Backend {
    Backend::tcp(mesh.net.addr(11, 9090), |mut stream| async move {
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_serves_new_handshakes_and_cuts_no_open_connection() {
    let mesh = mesh();
    let (_echo, peer) = (tcp_echo(&mesh), mesh.peer("echo", 11));
    let client = mesh.client("client");
    let mut old = client.connect(mesh.net.addr(10, 90)).await.unwrap();
    ping(&mut old).await;
    assert_eq!(peer.tunnels(), 1);
    let issued = mesh.ca.issue(&waypoint_id(), HOUR).unwrap();
    // As another process would: one file after the other, the key first.
    for (file, text) in [("key.pem", &issued.key_pem), ("cert-chain.pem", &issued.chain_pem)] {
        std::fs::write(dir(&mesh).join(file), text).unwrap();
    }
    is_shown(&mesh, &issued).await;
    ping(&mut old).await;
    let mut new = client.connect(mesh.net.addr(10, 90)).await.unwrap();
    ping(&mut new).await;
    assert_eq!(peer.tunnels(), 2, "towards workloads the new certificate is used as well");
    ping(&mut old).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_leave_the_tunnel_of_the_old_certificate_and_none_is_lost() {
    for port in [80, 81] {
        let ports = [("http", 80, 8080), ("http2", 81, 8080)];
        let mesh = MeshBuilder::new().manifests(service(NS, "echo", 10, &ports) + &pod(NS, "echo-v1", "echo", "echo", 11)).start();
        let (app, peer) = mesh.workload("echo-v1", "echo", 11);
        // One connection throughout, which stays on one worker of the waypoint and so with one pool.
        let mut send = mesh.client("client").http1(mesh.net.addr(10, port)).await;
        let mut request = async || {
            soon("ready", send.ready()).await.unwrap();
            let answer = Answer::of(soon("response", send.send_request(get("/"))).await.unwrap()).await;
            assert_eq!(answer.status, StatusCode::OK);
        };
        for _ in 0..3 {
            request().await;
        }
        assert_eq!((peer.tunnels(), app.connections()), (1, 1), "a connection is kept, port {port}");
        let issued = mesh.ca.issue(&waypoint_id(), HOUR).unwrap();
        for (file, text) in [("key.pem", &issued.key_pem), ("cert-chain.pem", &issued.chain_pem)] {
            std::fs::write(dir(&mesh).join(file), text).unwrap();
        }
        is_shown(&mesh, &issued).await;
        soon("the next tunnel", async {
            while peer.tunnels() < 2 {
                request().await;
            }
        })
        .await;
        eventually("the old connection closes", async || peer.open_streams() == 1).await;
        request().await;
        assert_eq!((peer.tunnels(), app.connections()), (2, 2), "port {port}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_switched_by_a_link_is_seen() {
    let mesh = mesh();
    let dir = dir(&mesh);
    let issued = mesh.ca.issue(&waypoint_id(), HOUR).unwrap();
    std::fs::create_dir(dir.join("..v2")).unwrap();
    for (file, text) in [("key.pem", &issued.key_pem), ("cert-chain.pem", &issued.chain_pem), ("roots.pem", &issued.roots_pem)] {
        std::fs::write(dir.join("..v2").join(file), text).unwrap();
        std::os::unix::fs::symlink(std::path::Path::new("..v2").join(file), dir.join("next")).unwrap();
        std::fs::rename(dir.join("next"), dir.join(file)).unwrap();
    }
    is_shown(&mesh, &issued).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_of_no_use_keep_the_old_certificate() {
    let mesh = mesh();
    let dir = dir(&mesh);
    let (_backend, _peer) = mesh.workload("echo-v1", "echo", 11);
    let before = shown(&mesh).await;
    let new = mesh.ca.issue(&waypoint_id(), HOUR).unwrap();
    let old = |file: &str| std::fs::read(dir.join(file)).unwrap();
    let (old_chain, old_key, old_roots) = (old("cert-chain.pem"), old("key.pem"), old("roots.pem"));
    let expired = mesh.ca.issue(&waypoint_id(), Duration::ZERO).unwrap();
    let somebody = mesh.ca.issue(&Identity::new(TRUST_DOMAIN, NS, "somebody").unwrap(), HOUR).unwrap();
    let foreign = DevCa::create(TRUST_DOMAIN, HOUR).unwrap().issue(&waypoint_id(), HOUR).unwrap();
    let half = &new.chain_pem[..new.chain_pem.len() / 2];
    let rows: [(&str, &str, &str); 6] = [
        ("a key without its certificate", std::str::from_utf8(&old_chain).unwrap(), &new.key_pem),
        ("half a certificate", half, &new.key_pem),
        ("an empty file", "", &new.key_pem),
        ("an expired certificate", &expired.chain_pem, &expired.key_pem),
        ("somebody else's certificate", &somebody.chain_pem, &somebody.key_pem),
        ("a certificate of another CA", &foreign.chain_pem, &foreign.key_pem),
    ];
    let failed = || {
        let series = "cairn_cert_reloads_total{result=\"failed\"} ";
        mesh.metrics().lines().find_map(|l| l.strip_prefix(series)?.parse::<u64>().ok()).unwrap_or(0)
    };
    for (what, chain, key) in rows {
        let count = failed();
        std::fs::write(dir.join("cert-chain.pem"), chain).unwrap();
        std::fs::write(dir.join("key.pem"), key).unwrap();
        eventually(what, async || failed() > count).await;
        assert_eq!(shown(&mesh).await, before, "{what}");
        let answer = mesh.client("client").get(mesh.net.addr(10, 80), "/").await;
        assert_eq!(answer.status, StatusCode::OK, "{what}");
        std::fs::write(dir.join("cert-chain.pem"), &old_chain).unwrap();
        std::fs::write(dir.join("key.pem"), &old_key).unwrap();
    }
    std::fs::remove_file(dir.join("roots.pem")).unwrap();
    assert_eq!(shown(&mesh).await, before);
    std::fs::write(dir.join("roots.pem"), &old_roots).unwrap();
    std::fs::write(dir.join("cert-chain.pem"), &new.chain_pem).unwrap();
    std::fs::write(dir.join("key.pem"), &new.key_pem).unwrap();
    is_shown(&mesh, &new).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn new_roots_are_believed_from_then_on() {
    let mesh = mesh();
    let (_backend, _peer) = mesh.workload("echo-v1", "echo", 11);
    let next = DevCa::create(TRUST_DOMAIN, HOUR).unwrap();
    let both = format!("{}{}", mesh.ca.roots_pem(), next.roots_pem());
    let issued = next.issue(&Identity::new(TRUST_DOMAIN, NS, "client").unwrap(), HOUR).unwrap();
    let client = || Client::new(Arc::new(cert(&issued, &both)), waypoint_id(), mesh.waypoint);
    let address = mesh.net.addr(10, 80);
    client().connect(address).await.expect_err("not believed yet");
    std::fs::write(dir(&mesh).join("roots.pem"), &both).unwrap();
    eventually("the new root is believed", async || client().connect(address).await.is_ok()).await;
    assert_eq!(client().get(address, "/").await.status, StatusCode::OK);
    assert_eq!(mesh.client("client").get(address, "/").await.status, StatusCode::OK, "and the old one, too");
}
