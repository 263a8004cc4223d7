//! A local file in, resources of the model or findings out.

use super::{Config, batch, load};
use crate::{
    model::{
        Action, AppProtocol, ApplicationTunnel, AuthorizationPolicy, GatewayAddress, GatewayDestination, Health, Hostname, Identity,
        IpFamilies, Kind, LoadBalancing, LoadBalancingMode, LocalityScope, NamespacePattern, NetworkAddress, PolicyTarget, Resource,
        ResourceId, ResourceName, Service, ServiceKey, StringMatch, TargetPort, Term, Test, TunnelProtocol, Visibility, WaypointBinding,
        Workload, WorkloadL4, WorkloadType,
    },
    state::Change,
};
use std::sync::Arc;

mod policies;
mod refusals;

fn config() -> Config {
    Config { network: String::new(), cluster_domain: "cluster.local".into(), root_namespace: "istio-system".into() }
}

/// What a file holds.
#[derive(Debug, Default)]
struct Decoded {
    workloads: Vec<Arc<Workload>>,
    services: Vec<Arc<Service>>,
    policies: Vec<Arc<AuthorizationPolicy>>,
}

fn decoded_by(config: &Config, text: &str) -> Decoded {
    let changes = load(text, "local.yaml", config).unwrap_or_else(|findings| panic!("{findings:#?}\n{text}"));
    let mut decoded = Decoded::default();
    for change in changes {
        match change {
            Change::Upsert(Resource::Workload(workload)) => decoded.workloads.push(workload),
            Change::Upsert(Resource::Service(service)) => decoded.services.push(service),
            Change::Upsert(Resource::Policy(policy)) => decoded.policies.push(policy),
            other @ (Change::Upsert(_) | Change::Remove(_)) => panic!("a local file has no {other:?}"),
        }
    }
    decoded
}

fn decoded(text: &str) -> Decoded {
    decoded_by(&config(), text)
}

/// A workload with nothing but what must be there, and `more`.
fn workload(more: &str) -> String {
    let base = "uid: u, name: w, namespace: demo, serviceAccount: sa, trustDomain: cluster.local";
    let ips = if more.contains("workloadIps") { "" } else { ", workloadIps: [10.0.0.1]" };
    let services = if more.contains("services") { "" } else { ", services: {}" };
    format!("workloads:\n- {{{base}{ips}{services}{}}}\n", tail(more))
}

fn service(more: &str) -> String {
    let vips = if more.contains("vips") { "" } else { ", vips: [/10.1.0.1]" };
    let ports = if more.contains("ports") { "" } else { ", ports: {80: 8080}" };
    format!("services:\n- {{name: s, namespace: demo, hostname: s.demo.svc.cluster.local{vips}{ports}{}}}\n", tail(more))
}

fn tail(more: &str) -> String {
    if more.is_empty() { String::new() } else { format!(", {more}") }
}

fn one_workload(more: &str) -> Workload {
    decoded(&workload(more)).workloads[0].as_ref().clone()
}

fn one_service(more: &str) -> Service {
    decoded(&service(more)).services[0].as_ref().clone()
}

fn key(namespace: &str, hostname: &str) -> ServiceKey {
    ServiceKey { namespace: namespace.into(), hostname: Hostname::new(hostname) }
}

fn at(network: Option<&str>, address: &str) -> NetworkAddress {
    NetworkAddress { network: network.map(Into::into), address: address.parse().unwrap() }
}

fn place(destination: GatewayDestination, port: u16) -> GatewayAddress {
    GatewayAddress { destination, port }
}

/// The example that the reference documents, with what it leaves as comments.
const EXAMPLE: &str = r#"
workloads:
- uid: lab/demo/server
  name: server
  namespace: demo
  serviceAccount: server-sa
  trustDomain: cluster.local
  workloadIps: ["10.9.0.2"]
  protocol: HBONE
  network: ""
  node: n2
  workloadName: server
  workloadType: deployment
  canonicalName: server
  canonicalRevision: v1
  clusterId: Kubernetes
  status: Healthy
  networkMode: Standard
  capacity: 1
  authorizationPolicies: ["demo/pol"]
  waypoint: {destination: "demo/wp.demo.svc.cluster.local", hboneMtlsPort: 15008}
  networkGateway: {destination: "/10.9.0.9", hboneMtlsPort: 15008}
  applicationTunnel: {protocol: PROXY, port: 15088}
  hostname: server.example
  locality: {region: r, zone: z, subzone: s}
  services:
    "demo/server.demo.svc.cluster.local": {80: 8080}
services:
- name: server
  namespace: demo
  hostname: server.demo.svc.cluster.local
  vips: ["/10.96.0.10"]
  ports: {80: 8080}
  subjectAltNames: [spiffe://cluster.local/ns/demo/sa/other]
  canonical: true
  loadBalancer: {routingPreferences: [Network, Zone], mode: Failover, healthPolicy: OnlyHealthy}
  ipFamilies: IPv4
  visibility: Public
policies:
- name: pol
  namespace: demo
  scope: WorkloadSelector
  action: Allow
  dryRun: false
  rules:
  - - - principals: [!Exact "cluster.local/ns/demo/sa/client-sa"]
        notDestinationPorts: [9999]
"#;

#[test]
fn the_example() {
    let Decoded { workloads, services, policies } = decoded(EXAMPLE);
    let server = key("demo", "server.demo.svc.cluster.local");
    assert_eq!(workloads.len(), 1);
    let workload = &*workloads[0];
    assert_eq!((&*workload.uid, &*workload.name, &*workload.namespace, &*workload.node), ("lab/demo/server", "server", "demo", "n2"));
    assert_eq!(workload.identity, Identity::new("cluster.local", "demo", "server-sa").unwrap());
    assert_eq!(workload.addresses, ["10.9.0.2".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!((workload.protocol, workload.health, workload.host_network), (TunnelProtocol::Hbone, Health::Healthy, false));
    assert_eq!((&*workload.workload_name, workload.workload_type, &*workload.cluster), ("server", WorkloadType::Deployment, "Kubernetes"));
    assert_eq!((&*workload.canonical_name, &*workload.canonical_revision), ("server", "v1"));
    assert_eq!((&*workload.locality.region, &*workload.locality.zone, &*workload.locality.subzone), ("r", "z", "s"));
    let waypoint = place(GatewayDestination::Hostname(key("demo", "wp.demo.svc.cluster.local")), 15008);
    assert_eq!(workload.waypoint, WaypointBinding::At(waypoint));
    assert_eq!(
        workload.l4,
        WorkloadL4 {
            network: None,
            gateway: Some(place(GatewayDestination::Address(at(None, "10.9.0.9")), 15008)),
            hostname: Some(Hostname::new("server.example")),
            capacity: 1,
            application_tunnel: Some(ApplicationTunnel { proxy_protocol: true, port: Some(15088) }),
            services: vec![(server.clone(), vec![(80, 8080)])],
            policies: vec![ResourceName::new("demo", "pol")],
        }
    );
    assert_eq!(services.len(), 1);
    let service = &*services[0];
    assert_eq!((&service.key, &service.source), (&server, &ResourceId::new(Kind::Service, "demo", "server")));
    assert_eq!(service.vips, ["10.96.0.10".parse::<std::net::IpAddr>().unwrap()]);
    let port = &service.ports[0];
    assert_eq!((service.ports.len(), port.port, &port.target, port.protocol), (1, 80, &TargetPort::Number(8080), AppProtocol::Unspecified));
    assert_eq!(service.subject_alt_names, ["spiffe://cluster.local/ns/demo/sa/other".into()]);
    assert_eq!((service.selector.as_ref(), service.publish_not_ready), (None, false));
    assert_eq!(service.waypoint, WaypointBinding::None);
    assert_eq!((service.l4.canonical, service.l4.visibility, service.l4.ip_families), (true, Visibility::Public, IpFamilies::Ipv4));
    let preferences = vec![LocalityScope::Network, LocalityScope::Zone];
    assert_eq!(service.l4.load_balancing, LoadBalancing { mode: LoadBalancingMode::Failover, preferences });
    assert_eq!(policies.len(), 1);
    let policy = &*policies[0];
    assert_eq!((&policy.name, &policy.target), (&ResourceName::new("demo", "pol"), &PolicyTarget::Listed));
    assert_eq!((policy.action, policy.dry_run, policy.invalid.as_ref()), (Action::Allow, false, None));
    let principal = StringMatch::Exact("cluster.local/ns/demo/sa/client-sa".into());
    let terms =
        [Term { negated: false, test: Test::Principal(vec![principal]) }, Term { negated: true, test: Test::DestinationPort(vec![9999]) }];
    assert_eq!((policy.rules.len(), policy.rules[0].clauses.len(), policy.rules[0].clauses[0].matches.len()), (1, 1, 1));
    assert_eq!(policy.rules[0].clauses[0].matches[0].terms, terms);
}

#[test]
fn what_is_left_out_is_as_in_the_workload_api() {
    let workload = one_workload("");
    assert_eq!((workload.protocol, workload.health, workload.host_network), (TunnelProtocol::None, Health::Healthy, false));
    assert_eq!((workload.workload_type, &*workload.cluster, &*workload.node), (WorkloadType::Deployment, "Kubernetes", ""));
    assert_eq!((workload.waypoint, workload.l4), (WaypointBinding::None, WorkloadL4::default()));
    let service = one_service("");
    assert_eq!((service.waypoint, service.publish_not_ready), (WaypointBinding::None, false));
    assert_eq!(service.l4, crate::model::ServiceL4::default());
    let nothing = decoded("{}");
    assert!(nothing.workloads.is_empty() && nothing.services.is_empty() && nothing.policies.is_empty());
}

#[test]
fn each_word_of_a_workload() {
    let protocol = |word: &str| one_workload(&format!("protocol: {word}")).protocol;
    assert_eq!((protocol("HBONE"), protocol("TCP")), (TunnelProtocol::Hbone, TunnelProtocol::None));
    let health = |word: &str| one_workload(&format!("status: {word}")).health;
    assert_eq!((health("Healthy"), health("Unhealthy")), (Health::Healthy, Health::Unhealthy));
    let host_network = |word: &str| one_workload(&format!("networkMode: {word}")).host_network;
    assert_eq!((host_network("Standard"), host_network("HostNetwork")), (false, true));
    for (word, want) in [
        ("deployment", WorkloadType::Deployment),
        ("cronjob", WorkloadType::CronJob),
        ("pod", WorkloadType::Pod),
        ("job", WorkloadType::Job),
    ] {
        assert_eq!(one_workload(&format!("workloadType: {word}")).workload_type, want, "{word}");
    }
    for (tunnel, proxy_protocol, port) in [
        ("{protocol: NONE}", false, None),
        ("{protocol: NONE, port: 8080}", false, Some(8080)),
        ("{protocol: PROXY, port: 15088}", true, Some(15088)),
        ("{protocol: PROXY, port: 0}", true, None),
        ("{protocol: PROXY, port: ~}", true, None),
    ] {
        let got = one_workload(&format!("applicationTunnel: {tunnel}")).l4.application_tunnel;
        assert_eq!(got, Some(ApplicationTunnel { proxy_protocol, port }), "{tunnel}");
    }
    for capacity in [0, 1, 7, u32::MAX] {
        assert_eq!(one_workload(&format!("capacity: {capacity}")).l4.capacity, capacity);
    }
    assert_eq!(&*one_workload("clusterId: west").cluster, "west");
    assert_eq!(one_workload("workloadIps: []").addresses, Vec::<std::net::IpAddr>::new());
    let ips: Vec<std::net::IpAddr> = ["10.0.0.1", "fd00::1"].map(|ip| ip.parse().unwrap()).into();
    assert_eq!(one_workload("workloadIps: ['::ffff:10.0.0.1', 'fd00::1']").addresses, ips);
    let services = one_workload("services: {b/B.example.: {80: 1, 443: 0}, a/a.example: {}}").l4.services;
    assert_eq!(services, [(key("a", "a.example"), vec![]), (key("b", "b.example"), vec![(80, 1), (443, 0)])]);
}

#[test]
fn each_word_of_a_service() {
    for (word, want) in [
        ("Standard", LoadBalancingMode::Any),
        ("Strict", LoadBalancingMode::Strict),
        ("Failover", LoadBalancingMode::Failover),
        ("Passthrough", LoadBalancingMode::Passthrough),
    ] {
        assert_eq!(one_service(&format!("loadBalancer: {{mode: {word}}}")).l4.load_balancing.mode, want, "{word}");
    }
    let all = one_service("loadBalancer: {routingPreferences: [Region, Zone, Subzone, Node, Cluster, Network]}");
    let scopes = [
        LocalityScope::Region,
        LocalityScope::Zone,
        LocalityScope::Subzone,
        LocalityScope::Node,
        LocalityScope::Cluster,
        LocalityScope::Network,
    ];
    assert_eq!(all.l4.load_balancing.preferences, scopes);
    let not_ready = |word: &str| one_service(&format!("loadBalancer: {{healthPolicy: {word}}}")).publish_not_ready;
    assert_eq!((not_ready("OnlyHealthy"), not_ready("AllowAll")), (false, true));
    for (word, want) in [("IPv4", IpFamilies::Ipv4), ("IPv6", IpFamilies::Ipv6), ("Dual", IpFamilies::Dual), ("~", IpFamilies::Automatic)] {
        assert_eq!(one_service(&format!("ipFamilies: {word}")).l4.ip_families, want, "{word}");
    }
    for (word, want) in [("Public", Visibility::Public), ("Namespace", Visibility::Namespace)] {
        assert_eq!(one_service(&format!("visibility: {word}")).l4.visibility, want, "{word}");
    }
    let targets = one_service("ports: {443: 0, 80: 8080}").ports;
    let targets: Vec<_> = targets.into_iter().map(|port| (port.port, port.target)).collect();
    assert_eq!(targets, [(80, TargetPort::Number(8080)), (443, TargetPort::Endpoint)]);
    let wp = |destination| GatewayAddress { destination, port: 15008 };
    let weighted = one_service(
        "weightedWaypoints: [{destination: {destination: demo/a.example, hboneMtlsPort: 15008}, weight: 3}, \
         {destination: {destination: /10.0.0.9, hboneMtlsPort: 15008}, weight: 0}]",
    );
    let want =
        [(wp(GatewayDestination::Hostname(key("demo", "a.example"))), 3), (wp(GatewayDestination::Address(at(None, "10.0.0.9"))), 0)];
    assert_eq!(weighted.l4.weighted_waypoints, want);
    let elsewhere = decoded(&service("").replace("s.demo.svc.cluster.local", "api.example"));
    assert_eq!(elsewhere.services[0].source.kind, Kind::ServiceEntry);
}

#[test]
fn our_own_network_has_no_name_in_the_model() {
    let config = Config { network: "west".into(), ..config() };
    let vips = |text: &str| {
        let service = decoded_by(&config, &service(&format!("vips: [{text}]"))).services[0].clone();
        let vips: Vec<String> = service.vips.iter().map(ToString::to_string).collect();
        let ranges: Vec<String> = service.l4.ranges.iter().map(ToString::to_string).collect();
        let elsewhere: Vec<String> = service.l4.elsewhere.iter().map(ToString::to_string).collect();
        [vips.join(" "), ranges.join(" "), elsewhere.join(" ")]
    };
    for (text, want) in [
        ("west/10.1.0.1", ["10.1.0.1", "", ""]),
        ("'west/::ffff:10.1.0.1'", ["10.1.0.1", "", ""]),
        ("'west/fd00::1'", ["fd00::1", "", ""]),
        ("east/10.1.0.1", ["", "", "east/10.1.0.1"]),
        // Not the same as ours, once ours has a name.
        ("/10.1.0.1", ["", "", "/10.1.0.1"]),
        ("west/10.1.0.0/16", ["", "10.1.0.0/16", ""]),
        ("west/10.1.2.3/16", ["", "10.1.0.0/16", ""]),
        ("west/10.1.0.1/32", ["10.1.0.1", "", ""]),
        ("'west/::ffff:10.1.2.3/112'", ["", "10.1.0.0/16", ""]),
        ("'west/fd00::/64'", ["", "fd00::/64", ""]),
        ("east/10.1.0.0/16", ["", "", ""]),
        ("west/10.1.0.1, east/10.1.0.2, west/10.2.0.0/24", ["10.1.0.1", "10.2.0.0/24", "east/10.1.0.2"]),
    ] {
        assert_eq!(vips(text), want, "{text}");
    }
    let network = |text: &str| decoded_by(&config, &workload(text)).workloads[0].l4.network.clone();
    assert_eq!(network("network: west"), None);
    assert_eq!(network("network: east").as_deref(), Some("east"));
    assert_eq!(network("").as_deref(), Some(""));
    for (text, want) in [
        ("west/10.0.0.9", GatewayDestination::Address(at(None, "10.0.0.9"))),
        ("east/10.0.0.9", GatewayDestination::Address(at(Some("east"), "10.0.0.9"))),
        ("east/fd00::9", GatewayDestination::Address(at(Some("east"), "fd00::9"))),
        ("east/gateway.example", GatewayDestination::Hostname(key("east", "gateway.example"))),
    ] {
        let gateway = format!("networkGateway: {{destination: '{text}', hboneMtlsPort: 15008}}");
        let got = decoded_by(&config, &workload(&gateway)).workloads[0].l4.gateway.clone();
        assert_eq!(got, Some(place(want, 15008)), "{text}");
    }
}

#[test]
fn as_a_batch_it_counts_whole_or_not_at_all() {
    let good = batch(EXAMPLE, "local.yaml", &config());
    assert_eq!((good.changes.len(), good.findings.len(), good.rejected), (3, 0, 0));
    let bad = batch(&EXAMPLE.replace("10.9.0.2", "10.9.0").replace("server-sa", "''"), "local.yaml", &config());
    assert_eq!((bad.changes.len(), bad.findings.len(), bad.rejected), (0, 2, 2));
    assert_eq!(bad.fresh, bad.findings);
}
