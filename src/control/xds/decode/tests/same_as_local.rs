//! The same mesh, once as a local file and once as a control plane's messages, is the same model.

use super::*;
use crate::{control::local, state::Change};
use security::string_match::MatchType;

/// All of it that a local file can say.
const FILE: &str = r#"
workloads:
- uid: lab/demo/server
  name: server
  namespace: demo
  serviceAccount: server-sa
  trustDomain: td.example
  workloadIps: ["10.9.0.2", "::ffff:10.9.0.3", "fd00::2"]
  protocol: HBONE
  network: west
  node: n2
  workloadName: server
  workloadType: cronjob
  canonicalName: server
  canonicalRevision: v1
  clusterId: lab
  status: Unhealthy
  networkMode: HostNetwork
  capacity: 3
  authorizationPolicies: ["demo/pol"]
  waypoint: {destination: "demo/wp.demo.svc.cluster.local", hboneMtlsPort: 15008}
  networkGateway: {destination: "east/10.9.0.9", hboneMtlsPort: 15009}
  applicationTunnel: {protocol: PROXY, port: 15088}
  hostname: Server.example
  locality: {region: r, zone: z, subzone: s}
  services:
    "demo/server.demo.svc.cluster.local": {80: 8080, 443: 0}
    "demo/a.example": {}
- {uid: plain, name: "", namespace: demo, serviceAccount: default, trustDomain: cluster.local, workloadIps: [], services: {}}
services:
- name: server
  namespace: demo
  hostname: server.demo.svc.cluster.local
  vips: ["west/10.96.0.10", "east/10.96.0.10", "west/fd00::/64", "east/10.0.0.0/8", "west/10.96.0.11/32", "/10.96.0.12"]
  ports: {80: 8080, 443: 0}
  subjectAltNames: [spiffe://cluster.local/ns/demo/sa/other]
  canonical: true
  loadBalancer: {routingPreferences: [Network, Zone], mode: Failover, healthPolicy: AllowAll}
  ipFamilies: IPv4
  visibility: Namespace
  waypoint: {destination: "west/10.9.0.9", hboneMtlsPort: 15008}
  weightedWaypoints: [{destination: {destination: demo/wp.example, hboneMtlsPort: 15008}, weight: 3}]
- {name: api, namespace: demo, hostname: api.example, vips: [], ports: {}}
policies:
- name: pol
  namespace: demo
  scope: WorkloadSelector
  action: Deny
  dryRun: true
  rules:
  - - - principals: [!Exact "td.example/ns/demo/sa/client-sa", !Suffix "/sa/x"]
        notPrincipals: [!Presence ]
        namespaces: [!Prefix a, !Exact b]
        notNamespaces: [!Suffix c, !Presence ]
        serviceAccounts: [{namespace: demo, serviceAccount: client}]
        notServiceAccounts: [{namespace: demo, serviceAccount: other}]
        sourceIps: [10.0.0.0/8]
        notSourceIps: [10.0.0.1]
        destinationIps: ["fd00::/8"]
        notDestinationIps: ["fd00::1"]
        destinationPorts: [80, 443]
        notDestinationPorts: [9999]
      - destinationPorts: [1]
    - []
  - []
- {name: all, namespace: istio-config, scope: Global, action: Allow, rules: []}
- {name: near, namespace: demo, scope: Namespace, action: Allow, rules: []}
"#;

fn messages() -> (Vec<Type>, Vec<security::Authorization>) {
    let server = proto::Workload {
        uid: "lab/demo/server".into(),
        name: "server".into(),
        namespace: "demo".into(),
        service_account: "server-sa".into(),
        trust_domain: "td.example".into(),
        addresses: vec![raw("10.9.0.2"), raw("::ffff:10.9.0.3"), raw("fd00::2")],
        tunnel_protocol: 1,
        network: "west".into(),
        node: "n2".into(),
        workload_name: "server".into(),
        workload_type: 1,
        canonical_name: "server".into(),
        canonical_revision: "v1".into(),
        cluster_id: "lab".into(),
        status: 1,
        network_mode: 1,
        capacity: Some(3),
        authorization_policies: vec!["demo/pol".into()],
        waypoint: Some(named("demo", "wp.demo.svc.cluster.local", 15008)),
        network_gateway: Some(addressed(on_network("east", "10.9.0.9", None), 15009)),
        application_tunnel: Some(proto::ApplicationTunnel { protocol: 1, port: 15088 }),
        hostname: "Server.example".into(),
        locality: Some(proto::Locality { region: "r".into(), zone: "z".into(), subzone: "s".into() }),
        services: [
            ("demo/server.demo.svc.cluster.local".to_owned(), proto::PortList { ports: vec![port(443, 0, 0), port(80, 8080, 0)] }),
            ("demo/a.example".to_owned(), proto::PortList::default()),
        ]
        .into(),
        native_tunnel: false,
        extensions: Vec::new(),
    };
    let plain = proto::Workload { uid: "plain".into(), namespace: "demo".into(), ..Default::default() };
    let service = proto::Service {
        name: "server".into(),
        namespace: "demo".into(),
        hostname: "server.demo.svc.cluster.local".into(),
        addresses: vec![
            on_network("west", "10.96.0.10", None),
            on_network("east", "10.96.0.10", None),
            on_network("west", "fd00::", Some(64)),
            on_network("east", "10.0.0.0", Some(8)),
            on_network("west", "10.96.0.11", Some(32)),
            on_network("", "10.96.0.12", None),
        ],
        ports: vec![port(443, 0, 0), port(80, 8080, 0)],
        subject_alt_names: vec!["spiffe://cluster.local/ns/demo/sa/other".into()],
        canonical: true,
        load_balancing: Some(proto::LoadBalancing { routing_preference: vec![6, 2], mode: 2, health_policy: 1 }),
        ip_families: 1,
        visibility: 1,
        waypoint: Some(addressed(on_network("west", "10.9.0.9", None), 15008)),
        weighted_waypoints: vec![proto::WeightedWaypoint { destination: Some(named("demo", "wp.example", 15008)), weight: 3 }],
        extensions: Vec::new(),
        ingress_use_waypoint: false,
    };
    let api = proto::Service { name: "api".into(), namespace: "demo".into(), hostname: "api.example".into(), ..Default::default() };
    let addresses = vec![Type::Workload(server), Type::Workload(plain), Type::Service(service), Type::Service(api)];
    (addresses, policies())
}

fn policies() -> Vec<security::Authorization> {
    let string = |match_type| security::StringMatch { match_type: Some(match_type) };
    let exact = |text: &str| string(MatchType::Exact(text.into()));
    let prefix = |text: &str| string(MatchType::Prefix(text.into()));
    let suffix = |text: &str| string(MatchType::Suffix(text.into()));
    let presence = || string(MatchType::Presence(()));
    let account = |account: &str| security::ServiceAccountMatch { namespace: "demo".into(), service_account: account.into() };
    let range = |address, length| security::Address { address: raw(address), length };
    let full = security::Match {
        principals: vec![exact("td.example/ns/demo/sa/client-sa"), suffix("/sa/x")],
        not_principals: vec![presence()],
        namespaces: vec![prefix("a"), exact("b")],
        not_namespaces: vec![suffix("c"), presence()],
        service_accounts: vec![account("client")],
        not_service_accounts: vec![account("other")],
        source_ips: vec![range("10.0.0.0", 8)],
        not_source_ips: vec![range("10.0.0.1", 32)],
        destination_ips: vec![range("fd00::", 8)],
        not_destination_ips: vec![range("fd00::1", 128)],
        destination_ports: vec![80, 443],
        not_destination_ports: vec![9999],
        extensions: Vec::new(),
    };
    let port = security::Match { destination_ports: vec![1], ..Default::default() };
    let clauses = vec![security::Clause { matches: vec![full, port] }, security::Clause::default()];
    let policy = |namespace: &str, name: &str, scope, action| security::Authorization {
        name: name.into(),
        namespace: namespace.into(),
        scope,
        action,
        ..Default::default()
    };
    vec![
        security::Authorization {
            dry_run: true,
            rules: vec![security::Rule { clauses }, security::Rule::default()],
            ..policy("demo", "pol", 2, 1)
        },
        policy("istio-config", "all", 0, 0),
        policy("demo", "near", 1, 0),
    ]
}

#[test]
fn whichever_way_it_comes() {
    let of_file = local::Config { network: "west".into(), cluster_domain: "cluster.local".into(), root_namespace: "istio-system".into() };
    let changes = local::load(FILE, "local.yaml", &of_file).unwrap();
    let mut decoder = Decoder::new(Config { network: "west".into(), cluster_domain: "cluster.local".into() });
    let (addresses, policies) = messages();
    let mut decoded: Vec<Resource> = addresses.into_iter().map(|of| decoder.address("", bytes_of(of)).unwrap()).collect();
    decoded.extend(policies.iter().map(|policy| decoder.authorization("", policy.encode_to_vec().into()).unwrap()));
    assert_eq!(changes.len(), decoded.len());
    for (change, decoded) in changes.into_iter().zip(decoded) {
        assert_eq!(change, Change::Upsert(decoded));
    }
}
