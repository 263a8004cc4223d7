//! A waypoint with two sources: what belongs to which, and whom it serves.

use super::*;
use crate::support::{Client, eventually, manifests::*, mesh::TRUST_DOMAIN};
use bytes::Bytes;
use cairn::{
    model::{GatewayAddress, GatewayDestination, Hostname, Identity, NetworkAddress, ServiceKey, WaypointBinding},
    transport::WorkloadCert,
};
use std::sync::Arc;

/// What is in files: everything to `service`, and nobody to `/closed`, nor to `/barred` by a policy for
/// the Gateway, which is not among them.
fn files(service_name: &str) -> String {
    let rules = format!("- backendRefs: [{{name: {service_name}, port: 80}}]");
    let deny =
        |target: &str, path: &str| format!("targetRefs: [{target}]\naction: DENY\nrules: [{{to: [{{operation: {{paths: [{path}]}}}}]}}]");
    let closed = deny("{group: \"\", kind: Service, name: echo}", "/closed");
    let barred = deny("{group: gateway.networking.k8s.io, kind: Gateway, name: waypoint}", "/barred");
    namespace(NS) + &route(NS, "echo", "echo", &rules) + &policy(NS, "closed", &closed) + &policy(NS, "barred", &barred)
}

fn split() -> String {
    let rules = "- backendRefs: [{name: echo, port: 80, weight: 1}, {name: other, port: 80, weight: 1}]";
    files("echo").replace("- backendRefs: [{name: echo, port: 80}]", rules)
}

struct Both {
    client: Node,
    waypoint: Node,
    _server: Node,
    _apps: [Backend; 2],
    // Last: what the others write is in its directory.
    istiod: Istiod,
}

impl Both {
    async fn start(text: &str) -> Self {
        let other = service(NS, "other", 14, &[("http", 80, 8080)]) + &plain_pod(NS, "other-v1", "other", "other", 15);
        let istiod = Istiod::start(&(echo() + &other)).await;
        let apps = [(11, "echo-v1"), (15, "other-v1")].map(|(ip, name)| Backend::http(istiod.net.addr(ip, 8080), name));
        let manifests = istiod.write_manifests(text);
        let (client, server) = (istiod.ztunnel("client-v1", "client", 20), istiod.ztunnel("echo-v1", "echo", 11));
        let waypoint = istiod.waypoint_with(&[], &["--manifests", manifests.to_str().unwrap()]);
        for node in [&client, &server, &waypoint] {
            node.ready().await;
        }
        Self { client, waypoint, _server: server, _apps: apps, istiod }
    }

    /// Who answers for a path, or the status.
    async fn get(&self, path: &str) -> String {
        let answer = self.client.get_path(self.istiod.net.addr(10, 80), path).await.unwrap();
        if answer.status == StatusCode::OK { answer.text().to_owned() } else { answer.status.as_u16().to_string() }
    }

    async fn leads_to(&self, pod: &str) {
        eventually(&format!("the route leads to {pod}"), async || self.get("/").await == pod).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_and_policies_are_of_files_and_the_rest_of_the_control_plane() {
    // A Service that says otherwise has no effect, but is told of.
    let both = Both::start(&(split() + &service(NS, "echo", 99, &[("http", 81, 9999)]))).await;
    assert!(!both.waypoint.readiness().await.contains("policies:"));
    both.waypoint.logs("this kind comes from the control plane; the manifest has no effect").await;
    let mut seen = std::collections::BTreeMap::<_, usize>::new();
    for _ in 0..60 {
        *seen.entry(both.get("/").await).or_default() += 1;
    }
    assert_eq!(seen.keys().collect::<Vec<_>>(), ["echo-v1", "other-v1"]);
    assert!(seen.values().all(|count| *count > 5), "{seen:?}");
    assert_eq!((both.get("/closed").await, both.get("/barred").await), ("403".into(), "403".into()));
    both.waypoint.logs("ns[app]-policy[closed]-rule[0]").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_source_changes_without_the_other_and_its_errors_stay_its_own() {
    let both = Both::start(&files("echo")).await;
    let plane = &both.istiod.plane;
    assert_eq!(both.get("/").await, "echo-v1");
    both.istiod.write_manifests(&files("other"));
    both.leads_to("other-v1").await;
    // Files that are wrong: the routes stay, and so does what the control plane has told.
    both.istiod.write_manifests(&files("other").replace("backendRefs", "backendRef"));
    both.waypoint.logs("backendRef").await;
    assert_eq!(both.get("/").await, "other-v1");
    assert_eq!(both.get("/closed").await, "403");
    // The control plane goes on all the same.
    let pod = both.istiod.workload("other-v1");
    both.istiod.in_force(Kind::Address, 3, |i| i.upsert(Workload { health: cairn::model::Health::Unhealthy, ..(*pod).clone() })).await;
    assert_eq!(both.get("/").await, "503");
    both.istiod.in_force(Kind::Address, 3, |i| i.upsert((*pod).clone())).await;
    assert_eq!(both.get("/").await, "other-v1");
    // What is wrong with the control plane is no matter of the files.
    let bad = [("bad".into(), Some(Bytes::from_static(b"\xff")))];
    both.istiod.in_force(Kind::Address, 3, |i| i.plane.put(Kind::Address, bad)).await;
    both.istiod.write_manifests(&files("echo"));
    both.leads_to("echo-v1").await;
    soon("it stops", plane.stop()).await;
    eventually("it is gone", async || both.waypoint.metric("cairn_xds_connected", "").await == 0.0).await;
    both.istiod.write_manifests(&files("other"));
    both.leads_to("other-v1").await;
    assert_eq!(both.get("/closed").await, "403");
    soon("it comes back", plane.resume()).await;
    eventually("it is back", async || both.waypoint.metric("cairn_xds_connected", "").await == 1.0).await;
    assert_eq!(both.get("/").await, "other-v1");
}

fn name(host: &str, port: u16) -> GatewayAddress {
    let key = ServiceKey { namespace: NS.into(), hostname: Hostname::new(host) };
    GatewayAddress { destination: GatewayDestination::Hostname(key), port }
}

/// What it is, where a service is bound, wholly or by weight, and whether it is served there.
type Row = (&'static str, WaypointBinding, Vec<(GatewayAddress, u32)>, bool);

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_bound_to_it_is_served() {
    let istiod = Istiod::start(&(echo() + &service(NS, "elsewhere", 5, &[("mesh", 15008, 15008)]))).await;
    let _app = Backend::http(istiod.net.addr(11, 8080), "echo-v1");
    let (_server, waypoint) = (istiod.ztunnel("echo-v1", "echo", 11), istiod.waypoint());
    waypoint.ready().await;
    let told = waypoint.readiness().await;
    assert!(told.contains("policies: no manifests, so no routes and no L7 policies are enforced here"), "{told}");
    let identity = |account| Identity::new(TRUST_DOMAIN, NS, account).unwrap();
    let issued = istiod.plane.issue(&identity("client"), Duration::from_secs(600)).unwrap();
    let cert = WorkloadCert::from_pem(issued.chain_pem.as_bytes(), issued.key_pem.as_bytes(), issued.roots_pem.as_bytes()).unwrap();
    let client = Client::new(Arc::new(cert), identity("waypoint"), istiod.net.addr(3, 15008));

    let at = |ip| {
        let address = NetworkAddress { network: None, address: istiod.net.ip(ip) };
        WaypointBinding::At(GatewayAddress { destination: GatewayDestination::Address(address), port: 15008 })
    };
    let (here, there) = (name("waypoint.app.svc.cluster.local", 15008), name("elsewhere.app.svc.cluster.local", 15008));
    let rows: Vec<Row> = vec![
        ("its name", WaypointBinding::At(here.clone()), vec![], true),
        ("another's name", WaypointBinding::At(there.clone()), vec![], false),
        ("the address of its Service", at(2), vec![], true),
        ("another's address", at(5), vec![], false),
        ("its own address", at(3), vec![], true),
        ("nobody", WaypointBinding::None, vec![], false),
        ("a part", WaypointBinding::None, vec![(there.clone(), 9), (here.clone(), 1)], true),
        ("parts elsewhere", WaypointBinding::None, vec![(there.clone(), 9)], false),
        ("back again", WaypointBinding::At(here.clone()), vec![], true),
        ("another port", WaypointBinding::At(name("waypoint.app.svc.cluster.local", 15009)), vec![], false),
    ];
    let (mut service, pod) = ((*istiod.service("echo")).clone(), istiod.workload("echo-v1"));
    // The first row is how it is at the start.
    let mut is_told = true;
    for (what, waypoint, weighted, expected) in rows {
        let is_whole = weighted.is_empty();
        service.waypoint = waypoint.clone();
        service.l4.weighted_waypoints = weighted;
        if !std::mem::take(&mut is_told) {
            istiod.in_force(Kind::Address, 2, |istiod| istiod.upsert(service.clone())).await;
        }
        assert_eq!(client.connect(istiod.net.addr(10, 80)).await.is_ok(), expected, "a service at {what}");
        if expected {
            assert_eq!(client.get(istiod.net.addr(10, 80), "/").await.text(), "echo-v1", "{what}");
        }
        if is_whole {
            istiod.in_force(Kind::Address, 2, |istiod| istiod.upsert(Workload { waypoint, ..(*pod).clone() })).await;
            assert_eq!(client.connect(istiod.net.addr(11, 8080)).await.is_ok(), expected, "a workload at {what}");
        }
    }
}
