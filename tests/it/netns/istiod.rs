//! The stock DaemonSet: a ztunnel on each node, started as the chart starts it, that has the mesh and
//! all certificates from a control plane and pods from a CNI.

mod away;
mod certificates;
mod demand;
mod revocation;
mod waypoints;

use super::{
    services::{service, vip},
    *,
};
use crate::support::{
    Proxy,
    apps::{COUNT, End, Load, end, exchange, refusal, talk},
    eventually, soon,
    world::{self, Family, Pod, Spec, identity},
};
use cairn::demo::control_plane::Kind;
use std::collections::BTreeSet;

/// Nothing but pods.
const NOTHING: &str = "services: []\npolicies: []\n";
const WEB: &str = "\"app/web.app.svc.cluster.local\": {80: 8083}";

fn web() -> String {
    ["services:\n", &service("web", 10, "80: 8083", ""), "policies: []\n"].concat()
}

/// A connection that stays.
async fn hold(from: &Pod, to: SocketAddr) -> tokio::net::TcpStream {
    let mut stream = from.connect(to).await.unwrap();
    exchange(&mut stream, b"first").await.unwrap();
    stream
}

async fn arrives(from: &Pod, to: SocketAddr) {
    let stream = from.connect(to).await.unwrap();
    assert_eq!(talk(stream, b"four").await.unwrap(), b"4 bytes", "{} to {to}", from.name);
}

fn is_cut(end: &End) -> bool {
    matches!(end, End::Closed(0) | End::Failed(_))
}

/// The accounts of `app` that a ztunnel has certificates of.
async fn holds(proxy: &Proxy) -> BTreeSet<String> {
    let dump = proxy.dump().await;
    let all = dump["certificates"].as_array().cloned().unwrap_or_default();
    let of_app =
        |entry: &serde_json::Value| Some(entry["identity"].as_str()?.strip_prefix("spiffe://cluster.local/ns/app/sa/")?.to_owned());
    all.iter().filter_map(of_app).collect()
}

/// A workload of `app` as a ztunnel knows it.
async fn knows(proxy: &Proxy, name: &str) -> Option<serde_json::Value> {
    let dump = proxy.dump().await;
    let workloads = dump["workloads"].as_array().expect("a list of workloads");
    workloads.iter().find(|workload| workload["name"] == name && workload["namespace"] == "app").cloned()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_starts_before_the_control_plane_has_told_of_everything() {
    let Some(mut world) = World::new() else { return };
    let client = world.pod(Spec::captured("client", 1));
    let server = world.pod(Spec::captured("server", 2));
    let plain = world.pod(Spec::plain("plain", 1));
    let app = Apps::start(&server);
    let plane = world.control_plane();
    plane.serve(&world.mesh(NOTHING));
    Kind::ALL.into_iter().for_each(|kind| plane.faults().hold(kind));
    // At first it does not even run.
    soon("it stops", plane.stop()).await;
    let proxies = world.begin();
    for proxy in &proxies {
        eventually("readiness says what is missing", async || {
            let said = proxy.readiness().await;
            said.starts_with("HTTP/1.1 5") && said.contains("state manager") && said.contains("control plane: disconnected")
        })
        .await;
    }
    soon("it starts", plane.resume()).await;
    let asked = |kind: Kind| plane.wait_for(move |seen| seen.of(kind).map(|r| r.stream).collect::<BTreeSet<_>>().len() == 2);
    soon("both ask for addresses", asked(Kind::Address)).await;
    soon("both ask for policies", asked(Kind::Authorization)).await;

    // One type alone is not everything.
    plane.faults().release(Kind::Authorization);
    soon("both have policies", plane.wait_for(|seen| seen.acks(Kind::Authorization) == 2)).await;
    for (node, proxy) in world::NODES.into_iter().zip(&proxies) {
        let said = proxy.readiness().await;
        assert!(said.starts_with("HTTP/1.1 5") && said.contains("state manager"), "{said}");
        assert_eq!(world.cni(node).accepted(), 0, "node {node}: nobody asks for pods that cannot be served yet");
    }
    assert!(client.connect(server.at(ECHO)).await.is_err(), "nothing is carried");
    assert!(plain.connect(server.at(ECHO)).await.is_err(), "and nothing let in");
    assert_eq!(app.connections(ECHO), 0);

    plane.faults().release(Kind::Address);
    world.ready(&proxies).await;
    for node in world::NODES {
        assert_eq!((world.cni(node).accepted(), world.cni(node).snapshots()), (1, 1), "node {node}");
    }
    arrives(&client, server.at(COUNT)).await;

    // What each has said of itself.
    let seen = plane.observed();
    assert_eq!(seen.nacks(), [""; 0]);
    for proxy in &proxies {
        let (pod, ip, node) = (&proxy.pod.name, proxy.pod.ip(Family::V4).to_string(), format!("node{}", proxy.pod.node));
        let id = format!("ztunnel~{ip}~{pod}.istio-system~istio-system.svc.cluster.local");
        let first: Vec<_> = seen.requests.iter().filter(|request| request.node == id).collect();
        assert_eq!(first.len(), 2, "{id} begins once with each type: {first:?}");
        for request in first {
            assert_eq!((request.subscribe.len(), request.initial_versions.len()), (0, 0), "{request:?}");
            assert_eq!(request.headers.get("clusterid").map(String::as_str), Some("Kubernetes"));
            let told = |key: &str| request.metadata.get(key).map(String::as_str).unwrap_or_default();
            let rows = [("NAME", pod.as_str()), ("NAMESPACE", "istio-system"), ("INSTANCE_IPS", &ip), ("NODE_NAME", &node)];
            for (key, value) in rows.into_iter().chain([("CLUSTER_ID", "Kubernetes"), ("ENABLE_HBONE", "true")]) {
                assert_eq!(told(key), value, "{key}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_and_services_are_reached_as_the_control_plane_says() {
    let Some(mut world) = World::new() else { return };
    let client = world.pod(Spec::captured("client", 1));
    let stays = world.pod(Spec::captured("stays", 2).services(WEB));
    let goes = world.pod(Spec::captured("goes", 2).services(WEB));
    let plain = world.pod(Spec::plain("plain", 2));
    let [stays_app, goes_app, plain_app] = [&stays, &goes, &plain].map(Apps::start);
    let plane = world.control_plane();
    plane.serve(&world.mesh(&web()));
    let [near, far] = world.start_proxies().await;
    for family in FAMILIES {
        arrives(&client, stays.addr(family, COUNT)).await;
        assert_eq!(stays_app.last_peer(COUNT), Some(client.ip(family)), "{family:?}: the client's address");
        let hbone = stays.addr(family, COUNT).to_string();
        let (me, you) = (identity("client").to_string(), identity("stays").to_string());
        for (proxy, direction) in [(&near, "outbound"), (&far, "inbound")] {
            let line = proxy.access(direction, |a| a.get("direction") == direction && a.get("dst.hbone_addr") == hbone).await;
            let (from, to) = (("src.workload", "client"), ("dst.workload", "stays"));
            assert!(line.has(&[("src.identity", &me), ("dst.identity", &you), from, to, ("error", "")]), "{line:?}");
        }
        arrives(&client, plain.addr(family, COUNT)).await;
        assert_eq!(plain_app.last_peer(COUNT), Some(client.ip(family)), "{family:?}: to a pod outside of the mesh");
        arrives(&plain, stays.addr(family, COUNT)).await;
        let before = [&stays_app, &goes_app].map(|app| app.connections(COUNT));
        eventually("both endpoints of the service are used", async || {
            arrives(&client, vip(10, family, 80)).await;
            [&stays_app, &goes_app].iter().zip(before).all(|(app, before)| app.connections(COUNT) > before)
        })
        .await;
    }

    // A new pod, with a new identity. The CNI knows it first, and its first connection waits.
    let new = world.pod(Spec::captured("new", 2).services(WEB));
    let new_app = Apps::start(&new);
    tokio::task::block_in_place(|| world.cni(2).add(&new)).unwrap();
    let waiting = new.connect(stays.at(COUNT)).await.unwrap();
    plane.serve(&world.mesh(&web()));
    assert_eq!(talk(waiting, b"four").await.unwrap(), b"4 bytes");
    eventually("the other node knows it", async || knows(&near, "new").await.is_some()).await;
    arrives(&client, new.at(COUNT)).await;
    eventually("it is an endpoint of the service", async || {
        arrives(&client, vip(10, Family::V4, 80)).await;
        new_app.connections(COUNT) > 1
    })
    .await;

    // An endpoint is gone for the control plane, and nothing else has changed.
    let load = Load::start(&client, stays.at(ECHO), 2);
    world.forget(&goes);
    assert_eq!(plane.serve(&world.mesh(&web())), 1, "one resource");
    eventually("both know", async || knows(&near, "goes").await.is_none() && knows(&far, "goes").await.is_none()).await;
    let before = goes_app.connections(COUNT);
    for _ in 0..24 {
        arrives(&client, vip(10, Family::V4, 80)).await;
    }
    assert_eq!(goes_app.connections(COUNT), before, "nothing goes there any more");
    load.more(10).await;
    assert_eq!(load.stop().await, [""; 0]);
    assert_eq!(plane.observed().nacks(), [""; 0]);
    scraped(&client, &near, &far).await;
}

/// The node's own pod is reached through the mesh as well.
async fn scraped(client: &Pod, near: &Proxy, far: &Proxy) {
    let at = far.metrics_at(Family::V4);
    let text = client.ask(at, "/metrics").await;
    assert!(text.starts_with("HTTP/1.1 200") && text.contains("istio_build{"), "{text}");
    let line = near.access("a scrape by HBONE", |a| a.get("dst.hbone_addr") == at.to_string()).await;
    let own = "spiffe://cluster.local/ns/istio-system/sa/ztunnel";
    assert!(line.has(&[("dst.identity", own), ("error", "")]), "{line:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_the_control_plane_can_be_stopped() {
    let Some(mut world) = World::new() else { return };
    let plane = world.control_plane();
    plane.serve(&world.mesh(NOTHING));
    plane.faults().hold(Kind::Address);
    let [mut near, mut far] = world.begin();
    soon("both ask", plane.wait_for(|seen| seen.open_streams == 2)).await;
    soon("the other stays away", plane.stop()).await;
    let begun = tokio::time::Instant::now();
    for proxy in [&mut near, &mut far] {
        proxy.signal("TERM");
        assert!(soon("it ends", proxy.exit()).await.success(), "{}", proxy.output());
    }
    assert!(begun.elapsed() < std::time::Duration::from_secs(10), "there is nothing to wait for: {:?}", begun.elapsed());
}

fn denying(account: &str) -> String {
    format!(
        "services: []
policies:
- name: flip
  namespace: app
  scope: Namespace
  action: Deny
  rules:
  - - - principals: [!Exact \"cluster.local/ns/app/sa/{account}\"]
"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_of_the_control_plane_refuses_and_cuts() {
    let Some(mut world) = World::new() else { return };
    let good = world.pod(Spec::captured("good", 1));
    let bad = world.pod(Spec::captured("bad", 1));
    let server = world.pod(Spec::captured("server", 2));
    let app = Apps::start(&server);
    let plane = world.control_plane();
    plane.serve(&world.mesh(&denying("nobody")));
    let [near, far] = world.start_proxies().await;
    let load = Load::start(&good, server.at(ECHO), 2);
    let mut kept = hold(&good, server.at(ECHO)).await;
    for round in 0..2 {
        let mut cut = hold(&bad, server.at(ECHO)).await;
        let before = app.connections(COUNT);
        plane.serve(&world.mesh(&denying("bad")));
        assert!(is_cut(&end(&mut cut).await), "round {round}: an open connection is cut");
        let refused = refusal(&bad, server.at(COUNT)).await;
        assert!(is_cut(&refused), "round {round}: and a new one refused: {refused:?}");
        assert_eq!(app.connections(COUNT), before, "round {round}");
        let to = server.at(COUNT).to_string();
        let line =
            near.access("why", |a| a.get("direction") == "outbound" && a.get("dst.hbone_addr") == to && !a.get("error").is_empty()).await;
        assert_eq!(line.get("error"), "http status: 401 Unauthorized", "{line:?}");
        plane.serve(&world.mesh(&denying("nobody")));
        eventually("it may connect again", async || {
            let Ok(stream) = bad.connect(server.at(COUNT)).await else { return false };
            talk(stream, b"four").await.is_ok_and(|answer| answer == b"4 bytes")
        })
        .await;
        exchange(&mut kept, b"others").await.expect("an allowed connection stays");
    }
    load.more(10).await;
    assert_eq!(load.stop().await, [""; 0]);
    let denied =
        far.metrics().await.sum("istio_tcp_connections_closed_total", &[("response_flags", "DENY"), ("source_workload", "bad-deploy")]);
    assert!(denied >= 2.0, "{denied}");
}
