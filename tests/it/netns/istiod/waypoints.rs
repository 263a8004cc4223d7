//! A waypoint of the stock Deployment between the ztunnels: services and certificates are the control
//! plane's, routes are in manifests.

use super::*;
use crate::support::{client, manifests};
use cairn::{
    model::{AppProtocol, Resource},
    state::Change,
};
use tokio::net::TcpStream;

const BEHIND: &str = "  waypoint: {destination: \"app/waypoint.app.svc.cluster.local\", hboneMtlsPort: 15008}\n";

async fn get(stream: TcpStream, path: &str) -> (StatusCode, bytes::Bytes) {
    crate::through::exchange(stream, client::get(path)).await
}

/// The text of the mesh has no protocols.
fn speak_http(change: &mut Change) {
    if let Change::Upsert(Resource::Service(service)) = change {
        let ports = &mut Arc::make_mut(service).ports;
        ports.iter_mut().filter(|port| port.port == 80).for_each(|port| port.protocol = AppProtocol::Http);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waypoint_routes_what_the_control_plane_binds_to_it() {
    let Some(mut world) = World::new() else { return };
    let client = world.pod(Spec::captured("client", 1));
    let first = world.pod(Spec::captured("first", 2).services("\"app/web.app.svc.cluster.local\": {80: 8087}"));
    let second = world.pod(Spec::captured("second", 2).services("\"app/canary.app.svc.cluster.local\": {80: 8087}"));
    let waypoint = world.pod(Spec::native("waypoint", 2).services("\"app/waypoint.app.svc.cluster.local\": {15008: 15008}"));
    let apps = [&first, &second].map(Apps::start);
    let services = |web: &str| {
        let services =
            [service("waypoint", 2, "15008: 15008", ""), service("web", 10, "80: 8087", web), service("canary", 11, "80: 8087", "")];
        format!("services:\n{}policies: []\n", services.concat())
    };
    let plane = world.control_plane();
    plane.serve_with(&world.mesh(&services(BEHIND)), speak_http);
    let dir = world.dir.path().join("routes");
    std::fs::create_dir(&dir).unwrap();
    let rules = "
- matches: [{path: {type: PathPrefix, value: /canary}}]
  backendRefs: [{name: canary, port: 80}]
- backendRefs: [{name: web, port: 80}]
";
    let gateway = "---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: waypoint, namespace: app, labels: {istio.io/waypoint-for: all}}
spec:
  gatewayClassName: istio-waypoint
  listeners: [{name: mesh, port: 15008, protocol: HBONE}]
";
    std::fs::write(dir.join("mesh.yaml"), gateway.to_owned() + &manifests::route("app", "web", "web", rules)).unwrap();
    let between = world.stock_waypoint(&waypoint, &dir);
    let [near, far] = world.start_proxies().await;
    between.ready().await;

    let to = vip(10, Family::V4, 80);
    for (path, expected) in [("/", "first"), ("/canary", "second")] {
        let (status, body) = get(client.connect(to).await.unwrap(), path).await;
        assert_eq!((status, &body[..]), (StatusCode::OK, expected.as_bytes()), "{path}");
    }
    let (me, there, you) = (identity("client").to_string(), identity("waypoint").to_string(), identity("first").to_string());
    let authority = to.to_string();
    let line = near.access("to the waypoint", |a| a.get("direction") == "outbound" && a.get("dst.hbone_addr") == authority).await;
    assert!(line.has(&[("src.identity", &me), ("dst.identity", &there), ("error", "")]), "{line:?}");
    // Its tunnels to the pods stay open, so there is no line yet.
    let ends = [("reporter", "destination"), ("source_principal", &*there), ("destination_principal", &*you)];
    let opened = async || far.metrics().await.sum("istio_tcp_connections_opened_total", &ends) >= 1.0;
    eventually("from the waypoint as itself", opened).await;
    let own = |seen: &cairn::demo::control_plane::Observed| {
        let of_waypoint = seen.certificates.iter().filter(|request| request.identity.as_ref().is_some_and(|i| i.to_string() == there));
        of_waypoint.map(|request| request.impersonated.is_none()).collect::<Vec<_>>()
    };
    let asked = own(&plane.observed());
    assert!(asked.contains(&true), "it asks for its own certificate, for nobody else's: {asked:?}");

    // The control plane takes the service away from it: traffic goes on, without it.
    plane.serve_with(&world.mesh(&services("")), speak_http);
    eventually("it is no more in the way", async || {
        // Until all have heard of it, one may refuse what another sends.
        client.ask(to, "/canary").await.ends_with("\r\n\r\nfirst")
    })
    .await;

    // And gives it back. Endpoints come and go as well.
    let third = world.pod(Spec::captured("third", 2).services("\"app/canary.app.svc.cluster.local\": {80: 8087}"));
    let _third = Apps::start(&third);
    world.forget(&second);
    plane.serve_with(&world.mesh(&services(BEHIND)), speak_http);
    tokio::task::block_in_place(|| world.cni(2).add(&third)).unwrap();
    eventually("the new endpoint alone answers", async || {
        // Until all have heard of it, one may refuse what another sends.
        client.ask(to, "/canary").await.ends_with("\r\n\r\nthird")
    })
    .await;

    // Without the control plane it does not lose anything.
    soon("it stops", plane.stop()).await;
    eventually("it says so", async || between.readiness().await.contains("control plane: disconnected")).await;
    assert!(between.is_ready().await);
    for (path, expected) in [("/", "first"), ("/canary", "third")] {
        let (status, body) = get(client.connect(to).await.unwrap(), path).await;
        assert_eq!((status, &body[..]), (StatusCode::OK, expected.as_bytes()), "{path}");
    }
    drop(apps);
}
