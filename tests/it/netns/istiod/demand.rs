//! `XDS_ON_DEMAND`: what is told only when a connection needs it.

use super::*;
use std::time::Duration;

const BEHIND: &str = "  waypoint: {destination: \"app/waypoint.app.svc.cluster.local\", hboneMtlsPort: 15008}\n";

/// Whether somebody has asked for this.
fn is_asked(seen: &cairn::demo::control_plane::Observed, key: &str) -> bool {
    seen.requests.iter().any(|request| request.subscribe.iter().any(|name| name == key))
}

fn on_demand(world: &mut World) {
    world.env("XDS_ON_DEMAND", "true");
    world.env("ISTIO_META_DNS_CAPTURE", "false");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_connection_learns_where_it_goes() {
    let Some(mut world) = World::new() else { return };
    on_demand(&mut world);
    let client = world.pod(Spec::captured("client", 1));
    let by_service = world.pod(Spec::captured("by-service", 2).services(WEB));
    let by_address = world.pod(Spec::captured("by-address", 2));
    let _other = world.pod(Spec::captured("other", 2));
    let guarded = world.pod(Spec::captured("guarded", 2).services("\"app/guarded.app.svc.cluster.local\": {80: 8083}").more(BEHIND));
    let waypoint = world.pod(Spec::native("waypoint", 2).services("\"app/waypoint.app.svc.cluster.local\": {15008: 15008}"));
    let outside = world.pod(Spec::plain("outside", 2).unknown());
    let apps = [&by_service, &by_address, &guarded, &outside].map(Apps::start);
    let [service_app, address_app, guarded_app, outside_app] = &apps;
    let services = [
        "services:\n",
        &service("web", 10, "80: 8083", ""),
        &service("guarded", 11, "80: 8083", BEHIND),
        &service("waypoint", 2, "15008: 15008", ""),
        &service("unused", 12, "80: 8083", ""),
        "policies: []\n",
    ]
    .concat();
    let plane = world.control_plane();
    plane.serve(&world.mesh(&services));
    let [near, far] = world.start_proxies().await;
    let to_guarded = [vip(11, Family::V4, 80), guarded.at(COUNT)];
    let routes = to_guarded.map(|to| (to.to_string(), guarded.at(COUNT)));
    let routes = routes.each_ref().map(|(authority, to)| (authority.as_str(), *to));
    let instance = crate::support::Gateway::start(&waypoint, plane.cert("waypoint"), &routes);

    // Nobody has asked for what no connection needs: pods of the node are asked for by their names.
    let own = |name: &str| format!("Kubernetes//Pod/app/{name}");
    for name in ["client", "by-service", "by-address", "other", "guarded"] {
        soon("pods are asked for", plane.wait_for(|seen| is_asked(seen, &own(name)))).await;
    }
    eventually("each has its own", async || knows(&near, "client").await.is_some() && knows(&far, "guarded").await.is_some()).await;
    let first: Vec<_> = plane.observed().of(Kind::Address).filter(|request| !request.node.is_empty()).cloned().collect();
    for request in &first {
        assert!(request.subscribe.contains(&"*".to_owned()) && request.unsubscribe == ["*"], "{request:?}");
    }
    assert!(knows(&near, "by-address").await.is_none(), "what is far is not known yet");
    let dump = near.dump().await;
    assert_eq!(dump["services"].as_array().map(Vec::len), Some(0), "{}", dump["services"]);

    // A service.
    arrives(&client, vip(10, Family::V4, 80)).await;
    assert!(is_asked(&plane.observed(), "/10.96.0.10"));
    let hbone = by_service.at(COUNT).to_string();
    let line = near.access("by HBONE", |a| a.get("direction") == "outbound" && a.get("dst.hbone_addr") == hbone).await;
    assert!(line.has(&[("dst.service", "web.app.svc.cluster.local"), ("dst.workload", "by-service"), ("error", "")]), "{line:?}");
    assert_eq!(service_app.last_peer(COUNT), Some(client.ip(Family::V4)));

    // A pod, in each family.
    for family in FAMILIES {
        arrives(&client, by_address.addr(family, COUNT)).await;
        let hbone = by_address.addr(family, COUNT).to_string();
        let line = near.access("by HBONE", |a| a.get("direction") == "outbound" && a.get("dst.hbone_addr") == hbone).await;
        assert!(line.has(&[("dst.workload", "by-address"), ("error", "")]), "{line:?}");
        assert_eq!(address_app.last_peer(COUNT), Some(client.ip(family)));
    }
    assert!(is_asked(&plane.observed(), &format!("/{}", by_address.ip(Family::V4))));

    // Through a waypoint of which nothing was known, for a service and for a workload.
    for (step, to) in to_guarded.into_iter().enumerate() {
        arrives(&client, to).await;
        let authority = to.to_string();
        assert_eq!(instance.connected().len(), step + 1, "{to}: through the waypoint");
        assert_eq!(instance.connected()[step].authority, authority);
    }
    assert!(is_asked(&plane.observed(), "app/waypoint.app.svc.cluster.local"));
    assert_eq!(guarded_app.connections(COUNT), 2);

    // What the control plane does not know either goes as it is.
    arrives(&client, outside.at(COUNT)).await;
    assert_eq!(outside_app.last_peer(COUNT), Some(client.ip(Family::V4)));
    assert!(is_asked(&plane.observed(), &format!("/{}", outside.ip(Family::V4))), "it was asked for nevertheless");

    // And it is still nobody's business what nobody uses.
    let seen = plane.observed();
    assert!(!is_asked(&seen, "/10.96.0.12") && !is_asked(&seen, "app/unused.app.svc.cluster.local"));
    assert!(knows(&near, "other").await.is_none());
    assert_eq!(seen.nacks(), [""; 0]);

    // What was told of goes on being followed.
    let more = world.pod(Spec::captured("more", 2).services(WEB));
    let more_app = Apps::start(&more);
    plane.serve(&world.mesh(&services));
    tokio::task::block_in_place(|| world.cni(2).add(&more)).unwrap();
    eventually("a new endpoint is used", async || {
        arrives(&client, vip(10, Family::V4, 80)).await;
        more_app.connections(COUNT) > 0
    })
    .await;

    // A pod of which the CNI tells before the control plane knows it.
    let early = world.pod(Spec::captured("early", 1));
    tokio::task::block_in_place(|| world.cni(1).add(&early)).unwrap();
    soon("it is asked for", plane.wait_for(|seen| is_asked(seen, &own("early")))).await;
    let waiting = early.connect(by_address.at(COUNT)).await.unwrap();
    plane.serve(&world.mesh(&services));
    assert_eq!(talk(waiting, b"four").await.unwrap(), b"4 bytes");
    scraped(&client, &near, &far).await;
}

/// Sends to a connection whose fate is not decided yet.
async fn begin(from: &Pod, to: SocketAddr) -> tokio::task::JoinHandle<std::io::Result<Vec<u8>>> {
    let stream = from.connect(to).await.unwrap();
    tokio::spawn(async move { talk(stream, b"four").await })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_waits_for_the_answer_and_goes_around_nothing() {
    let Some(mut world) = World::new() else { return };
    on_demand(&mut world);
    let client = world.pod(Spec::captured("client", 1));
    let known = world.pod(Spec::captured("known", 2));
    let guarded = world.pod(Spec::captured("guarded", 2).more(BEHIND));
    let waypoint = world.pod(Spec::native("waypoint", 2).services("\"app/waypoint.app.svc.cluster.local\": {15008: 15008}"));
    let outside = world.pod(Spec::plain("outside", 2).unknown());
    let late = world.pod(Spec::plain("late", 2).unknown());
    let [_known_app, guarded_app, outside_app, late_app] = [&known, &guarded, &outside, &late].map(Apps::start);
    let services = ["services:\n", &service("waypoint", 2, "15008: 15008", ""), "policies: []\n"].concat();
    let plane = world.control_plane();
    plane.serve(&world.mesh(&services));
    let [near, far] = world.start_proxies().await;
    let authority = guarded.at(COUNT).to_string();
    let instance = crate::support::Gateway::start(&waypoint, plane.cert("waypoint"), &[(&authority, guarded.at(COUNT))]);
    arrives(&client, known.at(COUNT)).await;
    eventually("the pod behind the waypoint is served", async || knows(&far, "guarded").await.is_some()).await;

    // The answer takes its time: of the pod, of its waypoint, of an address that nobody knows.
    let keys = [guarded.ip(Family::V4), outside.ip(Family::V4)].map(|ip| format!("/{ip}"));
    plane.faults().hold(Kind::Address);
    let waiting = [begin(&client, guarded.at(COUNT)).await, begin(&client, outside.at(COUNT)).await];
    for key in &keys {
        soon("it is asked for", plane.wait_for(|seen| is_asked(seen, key))).await;
    }
    // Long enough for anything that would go around to have gone.
    for _ in 0..20 {
        arrives(&client, known.at(COUNT)).await;
    }
    assert!(waiting.iter().all(|connection| !connection.is_finished()), "they wait");
    assert_eq!([&guarded_app, &outside_app].map(|app| app.connections(COUNT)), [0, 0]);
    plane.faults().release(Kind::Address);
    for connection in waiting {
        assert_eq!(soon("an answer", connection).await.unwrap().unwrap(), b"4 bytes");
    }
    assert_eq!(instance.connected().len(), 1, "through the waypoint");

    // Without a control plane nobody can say, so what was never asked for waits; what was asked goes on.
    soon("it stops", plane.stop()).await;
    eventually("readiness says so", async || near.readiness().await.contains("control plane: disconnected")).await;
    let waiting = begin(&client, late.at(COUNT)).await;
    for to in [known.at(COUNT), guarded.at(COUNT), outside.at(COUNT)] {
        for _ in 0..8 {
            arrives(&client, to).await;
        }
    }
    assert!(!waiting.is_finished(), "it waits");
    assert_eq!(late_app.connections(COUNT), 0, "and is not passed through");
    soon("it is back", plane.resume()).await;
    let answer = tokio::time::timeout(Duration::from_secs(60), waiting).await.expect("it goes on").unwrap();
    assert_eq!(answer.unwrap(), b"4 bytes");
    assert_eq!(late_app.last_peer(COUNT), Some(client.ip(Family::V4)));
}
