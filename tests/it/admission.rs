//! What may be connected to through a waypoint (contract `waypoint.md` 8, TestDirect).

use crate::support::{MeshBuilder, manifests::*, mesh::NS};
use http::StatusCode;

fn mesh() -> MeshBuilder {
    MeshBuilder::new()
        .manifests(service(NS, "echo", 10, &[("http", 80, 8080)]))
        .manifests(pod(NS, "echo-v1", "echo", "echo", 11))
        .manifests(pod(NS, "client", "client", "client", 20))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_to_a_virtual_address_reaches_a_pod_over_hbone() {
    let mut mesh = mesh().start();
    let (backend, peer) = mesh.workload("echo-v1", "echo", 11);
    let answer = mesh.client("client").get(mesh.net.addr(10, 80), "/hello?x=1").await;
    assert_eq!((answer.status, answer.text()), (StatusCode::OK, "echo-v1"));
    let seen = backend.last();
    assert_eq!(seen.target, "/hello?x=1");
    assert_eq!(seen.headers["host"], "test");
    assert_eq!(
        seen.headers["x-forwarded-client-cert"],
        "By=spiffe://cluster.local/ns/app/sa/waypoint;URI=spiffe://cluster.local/ns/app/sa/client"
    );
    let asked = peer.asked();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].authority, mesh.net.addr(11, 8080).to_string());
    assert_eq!(asked[0].peer.as_str(), "spiffe://cluster.local/ns/app/sa/waypoint");
    let record = mesh.record().await;
    assert_eq!(record.flag.as_str(), "-");
    assert_eq!(record.attempts, 1);
    assert_eq!(record.upstream, Some(mesh.net.addr(11, 8080)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_served_is_refused_with_the_right_status() {
    let mesh = mesh().traffic("service").manifests(service("other", "elsewhere", 12, &[("http", 80, 8080)])).start();
    let client = mesh.client("client");
    let rows = [
        ("an undeclared port", mesh.net.addr(10, 81).to_string(), StatusCode::SERVICE_UNAVAILABLE),
        ("a service of another waypoint", mesh.net.addr(12, 80).to_string(), StatusCode::BAD_REQUEST),
        ("a pod, when only services are served", mesh.net.addr(11, 8080).to_string(), StatusCode::BAD_REQUEST),
        ("an unknown address", mesh.net.addr(99, 80).to_string(), StatusCode::BAD_REQUEST),
        ("a host name", "echo.app.svc.cluster.local:80".to_owned(), StatusCode::BAD_REQUEST),
        ("the waypoint itself", mesh.net.addr(3, 15008).to_string(), StatusCode::BAD_REQUEST),
        ("the waypoint's service", mesh.net.addr(2, 15008).to_string(), StatusCode::BAD_REQUEST),
        ("no port", "127.0.0.1".to_owned(), StatusCode::BAD_REQUEST),
    ];
    for (what, authority, status) in rows {
        assert_eq!(client.refusal(&authority).await, status, "{what}");
    }
}
