//! Pods of another network, behind its gateway: a tunnel to the gateway, and in it one to the pod.

use super::*;
use crate::support::{
    Gateway,
    apps::{COUNT, exchange, talk},
    gateway::Connected,
    proxy::Access,
    world::{Spec, identity},
};

const GATEWAY: &str = "  networkGateway: {destination: \"app/gateway.app.svc.cluster.local\", hboneMtlsPort: 15008}\n";

/// Services of the network `near`; their pods are elsewhere.
const SERVICES: &str = "services:
- {name: gateway, namespace: app, hostname: gateway.app.svc.cluster.local, vips: [], ports: {15008: 15008}}
- {name: far, namespace: app, hostname: far.app.svc.cluster.local, vips: [\"near/10.96.0.20\"], ports: {80: 8083, 81: 8080},
   subjectAltNames: [\"spiffe://cluster.local/ns/app/sa/server\"]}
- {name: told, namespace: app, hostname: told.app.svc.cluster.local, vips: [\"near/10.96.0.21\"], ports: {80: 8083},
   subjectAltNames: [\"spiffe://cluster.local/ns/app/sa/told\"]}
- {name: wrong, namespace: app, hostname: wrong.app.svc.cluster.local, vips: [\"near/10.96.0.22\"], ports: {80: 8083},
   subjectAltNames: [\"spiffe://cluster.local/ns/app/sa/somebody\"]}
policies: []
";

#[tokio::test(flavor = "multi_thread")]
async fn a_service_of_another_network_is_reached_through_its_gateway() {
    let Some(mut world) = World::new() else { return };
    world.network(1, "near");
    world.network(2, "far");
    let client = world.pod(Spec::captured("client", 1));
    let own = "\"app/far.app.svc.cluster.local\": {80: 8083, 81: 8080}, \"app/wrong.app.svc.cluster.local\": {80: 8083}";
    let server = world.pod(Spec::captured("server", 2).services(own).more(GATEWAY));
    let told = world.pod(Spec::native("told", 2).services("\"app/told.app.svc.cluster.local\": {80: 8083}").more(GATEWAY));
    let gateway = world.pod(Spec::native("gateway", 2).services("\"app/gateway.app.svc.cluster.local\": {15008: 15008}"));
    let _apps = [&server, &told].map(Apps::start);
    let [near, far] = world.start(SERVICES).await;
    let routes = [
        ("far.app.svc.cluster.local:80", server.at(15008)),
        ("far.app.svc.cluster.local:81", server.at(15008)),
        ("told.app.svc.cluster.local:80", told.at(15008)),
        ("wrong.app.svc.cluster.local:80", server.at(15008)),
    ];
    let between = Gateway::start(&gateway, world.cert("gateway"), &routes);
    let at_told = Gateway::start(&told, world.cert("told"), &[("told.app.svc.cluster.local:80", told.at(COUNT))]);

    for _ in 0..3 {
        for host in [20, 21] {
            let stream = client.connect(SocketAddr::from(([10, 96, 0, host], 80))).await.unwrap();
            assert_eq!(talk(stream, b"four").await.unwrap(), b"4 bytes", "10.96.0.{host}");
        }
    }
    // Several at a time, too.
    let mut open = Vec::new();
    for _ in 0..5 {
        let mut stream = client.connect("10.96.0.20:81".parse().unwrap()).await.unwrap();
        exchange(&mut stream, b"one of many").await.unwrap();
        open.push(stream);
    }
    for stream in &mut open {
        exchange(stream, b"still").await.unwrap();
    }
    drop(open);
    let peer = || identity("client");
    let outer = |port: &str| Connected { authority: format!("{port}.app.svc.cluster.local:80"), network: None, peer: peer() };
    let asked = between.connected();
    for service in ["far", "told"] {
        let count = asked.iter().filter(|connected| **connected == outer(service)).count();
        assert_eq!(count, 1, "connections to {service} share the tunnel inside: {asked:?}");
    }
    let inner = Connected { authority: "told.app.svc.cluster.local:80".into(), network: Some("near".into()), peer: peer() };
    assert_eq!(at_told.connected(), vec![inner; 3], "the far side is told of our network");
    assert_eq!((between.serials().len(), at_told.serials().len()), (1, 1), "tunnels are used again");

    // Who it was that answered, only the far side could say.
    let you = identity("server").to_string();
    let labels = [
        ("reporter", "source"),
        ("source_workload", "client-deploy"),
        ("destination_service", "far.app.svc.cluster.local"),
        ("destination_workload", "server-deploy"),
        ("destination_canonical_service", "server-app"),
        ("destination_canonical_revision", "v1"),
        ("destination_principal", &you),
        ("connection_security_policy", "mutual_tls"),
    ];
    let metrics = near.metrics().await;
    let opened = metrics.sum("istio_tcp_connections_opened_total", &labels);
    assert_eq!(opened, 8.0, "{:?}", metrics.all("istio_tcp_connections_opened_total"));
    let authority = "far.app.svc.cluster.local:80";
    let is_it = |direction: &'static str| move |a: &Access| a.get("direction") == direction && a.get("dst.hbone_addr") == authority;
    let line = near.access("through the gateway", is_it("outbound")).await;
    let (dialled, me) = (gateway.at(15008).to_string(), identity("client").to_string());
    assert!(line.has(&[("dst.addr", &dialled), ("dst.identity", &you), ("dst.workload", "server-app"), ("error", "")]), "{line:?}");
    let line = far.access("from the gateway", is_it("inbound")).await;
    assert!(line.has(&[("src.identity", &me), ("src.workload", "client-app"), ("dst.workload", "server"), ("error", "")]), "{line:?}");
    assert!(line.get("src.addr").starts_with(&format!("{}:", gateway.at(0).ip())), "{line:?}");

    // Somebody else at the far end gets nothing.
    let refused = crate::support::apps::refusal(&client, "10.96.0.22:80".parse().unwrap()).await;
    assert!(!matches!(refused, crate::support::apps::End::Closed(1..)), "{refused:?}");
    let failed = [("destination_service", "wrong.app.svc.cluster.local"), ("response_flags", "TLS_FAILURE")];
    assert_eq!(near.metrics().await.sum("istio_tcp_connections_failed_total", &failed), 1.0);
}
