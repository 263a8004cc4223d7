//! The mesh: what is known when, and what is refused.

use super::*;
use crate::support::eventually;
use bytes::Bytes;
use cairn::proto::{
    discovery::{Any, DeltaDiscoveryResponse, Resource},
    workload::{Address, WorkloadStatus, address},
};
use prost::Message as _;

const ADDRESS: &str = "type.googleapis.com/istio.workload.Address";

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_ready_before_the_control_plane_has_spoken() {
    let istiod = Istiod::start(&echo()).await;
    istiod.plane.faults().hold(Kind::Authorization);
    let client = istiod.ztunnel("client-v1", "client", 20);
    soon("ACK of addresses", istiod.plane.wait_for(|o| o.acks(Kind::Address) == 1)).await;
    eventually("the probe answers", async || !client.readiness().await.is_empty()).await;
    assert!(client.readiness().await.starts_with("HTTP/1.1 500"), "one of two types is not enough: {}", client.readiness().await);
    istiod.plane.faults().release(Kind::Authorization);
    client.ready().await;
    let seen = istiod.plane.observed();
    assert_eq!(seen.acks(Kind::Authorization), 1);
    let first = seen.requests.iter().find(|r| !r.node.is_empty()).unwrap();
    assert!(first.node.starts_with("ztunnel~") && first.headers.contains_key("clusterid"), "{first:?}");
    assert_eq!(seen.of(Kind::Address).next().unwrap().subscribe, Vec::<String>::new(), "everything is wanted");
}

#[tokio::test(flavor = "multi_thread")]
async fn traffic_flows_from_ztunnel_through_waypoint_to_ztunnel() {
    let path = Path::start().await;
    path.works().await;
    let seen = path.app.last();
    assert_eq!(seen.headers.get("host").unwrap(), "test");
    assert!(path.waypoint.metric("istio_requests_total", "").await >= 1.0, "the waypoint has seen it");
    let asked = path.istiod.plane.observed().certificates;
    let identities: std::collections::BTreeSet<_> =
        asked.iter().filter_map(|c| c.identity.as_ref()).map(|i| i.service_account().to_owned()).collect();
    assert_eq!(identities.into_iter().collect::<Vec<_>>(), ["client", "echo", "waypoint"]);
    assert!(asked.iter().all(|c| c.token == TOKEN && c.impersonated.is_none()), "each for itself: {asked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_bad_is_refused_alone_and_what_is_good_is_served() {
    let path = Path::start().await;
    let plane = &path.istiod.plane;
    let before = path.client.metric("cairn_xds_rejected_total", ADDRESS).await;
    let bad = Bytes::from_static(b"\xff\xff");
    let raw = plane.put(Kind::Address, [("bad".into(), Some(bad))]);
    assert_eq!(raw, 1);
    let seen = soon("NACK", plane.wait_for(|o| o.nacks().len() >= 3)).await;
    assert!(seen.nacks().iter().all(|reason| reason.starts_with("bad: ")), "{:?}", seen.nacks());
    assert_eq!(path.client.metric("cairn_xds_rejected_total", ADDRESS).await, before + 1.0);
    path.works().await;
    // Whoever starts with it gets the good ones and goes on; a NACK does not make anybody ready.
    let late = path.istiod.ztunnel("client-v1", "client", 21);
    soon("NACK at the start", plane.wait_for(|o| o.nacks().len() >= 4)).await;
    eventually("the probe answers", async || !late.readiness().await.is_empty()).await;
    assert!(!late.is_ready().await);
    plane.put(Kind::Address, [("bad".into(), None)]);
    late.ready().await;
    assert_eq!(late.get(path.vip()).await.unwrap().text(), "echo-v1");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_one_response_the_good_holds_and_the_bad_is_named() {
    let path = Path::start().await;
    let plane = &path.istiod.plane;
    path.works().await;
    let resource = |name: &str, value: Bytes| {
        let resource = Some(Any { type_url: ADDRESS.into(), value });
        Resource { name: name.into(), version: "1".into(), resource, ..Default::default() }
    };
    let uid = path.istiod.workload("echo-v1").uid.clone();
    let mut down = Address::decode(plane.served(Kind::Address, &uid).unwrap()).unwrap();
    let Some(address::Type::Workload(workload)) = &mut down.r#type else { panic!("{down:?}") };
    workload.status = WorkloadStatus::Unhealthy.into();
    let bad = Bytes::from_static(b"\xff");
    let resources = vec![resource("bad", bad), resource(&uid, down.encode_to_vec().into()), resource("empty", Bytes::new())];
    plane.say(&DeltaDiscoveryResponse { type_url: ADDRESS.into(), resources, ..Default::default() });
    let seen = soon("NACKs", plane.wait_for(|o| o.nacks().len() >= 3)).await;
    assert_eq!(path.get().await, Err("503 Service Unavailable".into()), "what was good of it is in force");
    assert!(seen.nacks().iter().all(|reason| reason.starts_with("bad: ") && reason.contains("; empty: ")), "{:?}", seen.nacks());
    // What nobody has asked for is passed over.
    let acks = |o: &Observed| o.requests.iter().filter(|r| r.type_url == "something.else" && r.is_ack()).count();
    plane.say(&DeltaDiscoveryResponse { type_url: "something.else".into(), ..Default::default() });
    soon("ACKs", plane.wait_for(|o| acks(o) >= 3)).await;
    assert_eq!(plane.observed().streams, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_control_plane_the_last_state_serves_and_what_changed_meanwhile_comes_after() {
    let path = Path::start().await;
    let plane = &path.istiod.plane;
    path.works().await;
    assert_eq!(path.client.metric("cairn_xds_connected", "").await, 1.0);
    soon("it stops", plane.stop()).await;
    for node in path.nodes() {
        eventually("metrics say that it is gone", async || node.metric("cairn_xds_connected", "").await == 0.0).await;
        let probe = node.readiness().await;
        assert!(probe.starts_with("HTTP/1.1 200") && probe.contains("control plane"), "{probe}");
    }
    let load = path.client.load(path.vip(), 2);
    load.more(20).await;
    // While nobody can hear it, the pod moves.
    let moved = Workload { addresses: vec![path.istiod.net.ip(12)], ..(*path.istiod.workload("echo-v1")).clone() };
    let (_app, _server) = (Backend::http(path.istiod.net.addr(12, 8080), "moved"), path.istiod.ztunnel("echo-v1", "echo", 12));
    assert!(path.istiod.upsert(moved) > 0);
    load.more(20).await;
    assert_eq!(load.stop().await, Vec::<String>::new());
    let streams = plane.observed().streams;
    soon("it comes back", plane.resume()).await;
    eventually("what is new is served", async || path.get().await.as_deref() == Ok("moved")).await;
    let told = |o: &Observed| o.of(Kind::Address).filter(|r| r.stream > streams && !r.initial_versions.is_empty()).count();
    // The new ztunnel may have had the mesh before: then it says so as well.
    soon("all three say what they have", plane.wait_for(|o| told(o) >= 3)).await;
    eventually("metrics say that it is back", async || path.client.metric("cairn_xds_connected", "").await == 1.0).await;
    assert!(!path.client.readiness().await.contains("control plane"));
}

#[tokio::test(flavor = "multi_thread")]
async fn on_demand_asks_for_what_is_needed() {
    let path = Path::start().await;
    let late = path.istiod.ztunnel_with("client-v1", "client", 21, &[("XDS_ON_DEMAND", "true")]);
    late.ready().await;
    let seen = path.istiod.plane.observed();
    let stream = seen.streams;
    let first = seen.of(Kind::Address).find(|r| r.stream == stream).unwrap();
    assert_eq!((&first.subscribe[..], &first.unsubscribe[..]), (&["*".to_owned()][..], &["*".to_owned()][..]));
    assert_eq!(late.get(path.vip()).await.unwrap().text(), "echo-v1");
    let seen = path.istiod.plane.observed();
    let asked: Vec<_> = seen.of(Kind::Address).filter(|r| r.stream == stream).flat_map(|r| &r.subscribe).collect();
    assert!(asked.contains(&&format!("/{}", path.vip().ip())), "{asked:?}");
}
