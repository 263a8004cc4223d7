//! What is encoded means the same to whoever decodes it.

use super::*;
use crate::{
    control::{
        manifest::{self, load},
        xds::decode::{self, Decoder},
    },
    model::{
        Action, ApplicationTunnel, AuthorizationPolicy, Clause, GatewayAddress, GatewayDestination, IpFamilies, LoadBalancing,
        LoadBalancingMode, LocalityScope, Match, NamespacePattern, NetworkAddress, PolicyTarget, ResourceName, Rule, StringMatch, Term,
        Test, Visibility,
    },
    state::{NodeCompiler, NodeSnapshot, Own, Store, WaypointRoute},
};
use std::collections::BTreeSet;

fn decoder(network: &str) -> Decoder {
    Decoder::new(decode::Config { network: network.into(), cluster_domain: "cluster.local".into() })
}

/// Everything that a control plane serves, decoded.
fn decoded(plane: &ControlPlane, network: &str) -> Vec<Resource> {
    let mut decoder = decoder(network);
    let mut resources = Vec::new();
    for kind in Kind::ALL {
        for name in plane.names(kind) {
            let value = plane.served(kind, &name).unwrap();
            let resource = match kind {
                Kind::Address => decoder.address(&name, value),
                Kind::Authorization => decoder.authorization(&name, value),
            };
            resources.push(resource.unwrap_or_else(|rejected| panic!("{name}: {}", rejected.reason)));
        }
    }
    resources
}

async fn plane_on(network: &str) -> ControlPlane {
    let options = Options::new("127.0.0.1:0".parse().unwrap(), TOKEN);
    let encode = encode::Config { network: network.into(), ..encode::Config::default() };
    ControlPlane::start(Options { encode, ..options }).await.unwrap()
}

fn policy(name: &str, target: PolicyTarget, rules: Vec<Rule>) -> AuthorizationPolicy {
    AuthorizationPolicy { name: ResourceName::new("app", name), target, action: Action::Deny, dry_run: true, rules, invalid: None }
}

fn rule(tests: Vec<(bool, Test)>) -> Rule {
    let terms = tests.into_iter().map(|(negated, test)| Term { negated, test }).collect();
    Rule { clauses: vec![Clause { matches: vec![Match { terms }] }] }
}

#[tokio::test]
async fn what_the_api_carries_comes_back_as_it_was() {
    let place = |port| GatewayAddress { destination: GatewayDestination::Hostname(key("waypoint")), port };
    let far = NetworkAddress { network: Some("far".into()), address: "10.9.0.1".parse().unwrap() };
    let gateway = GatewayAddress { destination: GatewayDestination::Address(far.clone()), port: 15009 };
    let rows: Vec<Resource> = vec![
        service("plain", "10.0.0.1").into(),
        Service {
            vips: vec!["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()],
            ports: [AppProtocol::Http, AppProtocol::Http2, AppProtocol::Grpc, AppProtocol::Tcp, AppProtocol::Tls, AppProtocol::Unspecified]
                .into_iter()
                .zip(1u16..)
                .map(|(protocol, port)| ServicePort { name: "".into(), port, target: TargetPort::Number(port + 8000), protocol })
                .chain([ServicePort { name: "".into(), port: 99, target: TargetPort::Endpoint, protocol: AppProtocol::Tcp }])
                .collect(),
            waypoint: WaypointBinding::At(place(15008)),
            publish_not_ready: true,
            subject_alt_names: vec!["spiffe://cluster.local/ns/app/sa/other".into()],
            l4: ServiceL4 {
                ranges: vec!["10.7.0.0/16".parse().unwrap()],
                elsewhere: vec![far.clone()],
                load_balancing: LoadBalancing {
                    mode: LoadBalancingMode::Failover,
                    preferences: vec![
                        LocalityScope::Network,
                        LocalityScope::Region,
                        LocalityScope::Zone,
                        LocalityScope::Subzone,
                        LocalityScope::Node,
                        LocalityScope::Cluster,
                    ],
                },
                ip_families: IpFamilies::Dual,
                visibility: Visibility::Namespace,
                canonical: true,
                weighted_waypoints: vec![(place(15008), 30), (gateway.clone(), 70)],
            },
            ..service("full", "10.0.0.2")
        }
        .into(),
        Service {
            key: ServiceKey { namespace: "app".into(), hostname: Hostname::new("example.com") },
            source: ResourceId::new(ResourceKind::ServiceEntry, "app", "example"),
            l4: ServiceL4::default(),
            ..service("x", "10.0.0.3")
        }
        .into(),
        workload("plain", "10.1.0.1", &[]).into(),
        Workload {
            identity: Identity::new("other.domain", "app", "default").unwrap(),
            addresses: vec!["10.1.0.2".parse().unwrap(), "fd00::1".parse().unwrap()],
            protocol: TunnelProtocol::None,
            locality: Locality { region: "r".into(), zone: "z".into(), subzone: "s".into() },
            health: Health::Unhealthy,
            waypoint: WaypointBinding::At(gateway.clone()),
            workload_type: WorkloadType::CronJob,
            cluster: "c2".into(),
            host_network: true,
            l4: WorkloadL4 {
                network: Some("far".into()),
                gateway: Some(gateway),
                hostname: Some(Hostname::new("full.example.com")),
                capacity: 7,
                application_tunnel: Some(ApplicationTunnel { proxy_protocol: true, port: Some(15088) }),
                services: vec![(key("full"), vec![(1, 9001), (99, 9099)]), (key("plain"), vec![])],
                policies: vec![ResourceName::new("app", "listed")],
            },
            ..workload("full", "10.1.0.2", &[])
        }
        .into(),
        policy("namespace", PolicyTarget::Namespace, vec![Rule::default()]).into(),
        policy("mesh", PolicyTarget::Mesh, vec![Rule { clauses: vec![Clause::default()] }]).into(),
        AuthorizationPolicy {
            action: Action::Allow,
            dry_run: false,
            ..policy(
                "listed",
                PolicyTarget::Listed,
                vec![rule(vec![
                    (false, Test::Namespace(vec![NamespacePattern("a*".into()), NamespacePattern("*".into())])),
                    (true, Test::Namespace(vec![NamespacePattern("*b".into())])),
                    (
                        false,
                        Test::Principal(vec![
                            StringMatch::Exact("td/ns/a/sa/b".into()),
                            StringMatch::Prefix("td/".into()),
                            StringMatch::Suffix("/sa/b".into()),
                            StringMatch::Presence,
                        ]),
                    ),
                    (true, Test::Principal(vec![StringMatch::Exact("td/ns/a/sa/c".into())])),
                    (false, Test::ServiceAccount(vec![ResourceName::new("a", "b")])),
                    (true, Test::ServiceAccount(vec![ResourceName::new("a", "c")])),
                    (false, Test::SourceIp(vec!["10.0.0.0/8".parse().unwrap(), "fd00::/64".parse().unwrap()])),
                    (true, Test::SourceIp(vec!["10.0.0.1/32".parse().unwrap()])),
                    (false, Test::DestinationIp(vec!["10.0.0.2/32".parse().unwrap()])),
                    (true, Test::DestinationIp(vec!["10.0.0.3/32".parse().unwrap()])),
                    (false, Test::DestinationPort(vec![80, 443])),
                    (true, Test::DestinationPort(vec![81])),
                ])],
            )
        }
        .into(),
    ];
    for network in ["", "near"] {
        let plane = plane_on(network).await;
        assert_eq!(plane.apply(rows.iter().cloned().map(Change::Upsert)), rows.len());
        let found = decoded(&plane, network);
        assert_eq!(found.len(), rows.len());
        for want in &rows {
            let found = found.iter().find(|found| found.key() == want.key()).unwrap_or_else(|| panic!("no {:?}", want.key()));
            assert_eq!(found, want, "network {network:?}");
        }
    }
}

fn compiled(changes: impl IntoIterator<Item = Change>) -> Arc<NodeSnapshot> {
    let mut store = Store::new(NodeCompiler::new(Own::Node(None), "istio-system"));
    store.apply(changes);
    store.handle().load()
}

fn upserts(mesh: &Mesh) -> Vec<Change> {
    let resources = (mesh.namespaces.values().cloned().map(Resource::Namespace))
        .chain(mesh.services.values().cloned().map(Resource::Service))
        .chain(mesh.endpoints.values().cloned().map(Resource::Endpoints))
        .chain(mesh.workloads.values().cloned().map(Resource::Workload))
        .chain(mesh.waypoints.values().cloned().map(Resource::Waypoint))
        .chain(mesh.policies.values().cloned().map(Resource::Policy));
    resources.map(Change::Upsert).collect()
}

fn manifests(yaml: Option<&str>) -> Mesh {
    let dir = tempfile::tempdir().unwrap();
    let path = match yaml {
        Some(yaml) => {
            std::fs::write(dir.path().join("mesh.yaml"), yaml).unwrap();
            dir.path().to_owned()
        }
        None => concat!(env!("CARGO_MANIFEST_DIR"), "/config/bookinfo").into(),
    };
    let config = manifest::Config {
        paths: vec![path],
        cluster_domain: "cluster.local".into(),
        trust_domain: "cluster.local".into(),
        root_namespace: "istio-system".into(),
        lenient: false,
        owns: manifest::Owns::Everything,
    };
    let loaded = load(config);
    assert!(loaded.findings.iter().all(|finding| !format!("{finding:?}").contains("Error")), "{:?}", loaded.findings);
    loaded.mesh
}

/// What a ztunnel does with services: by key and port, the endpoints with how each is reached.
fn reached(snapshot: &NodeSnapshot) -> BTreeMap<String, BTreeSet<String>> {
    let mut reached = BTreeMap::new();
    for service in snapshot.services() {
        for (port, upstream) in &service.ports {
            let endpoints = upstream.endpoints();
            let one = |e: &Arc<crate::state::UpstreamEndpoint>| format!("{} {:?}", e.address, e.hop);
            reached.insert(format!("{} {port} {:?}", service.service.key, upstream.protocol), endpoints.ready.iter().map(one).collect());
        }
    }
    reached
}

/// Where the waypoint of a service or workload is in the end.
fn through(snapshot: &NodeSnapshot, route: Option<&WaypointRoute>) -> BTreeSet<String> {
    let upstream = match route {
        None => return ["none".to_owned()].into(),
        Some(WaypointRoute::Gateway { upstream, .. }) => upstream.as_ref().ok().cloned(),
        Some(WaypointRoute::At(place)) => snapshot.place(place).cloned(),
    };
    upstream.iter().flat_map(|upstream| upstream.endpoints().ready.clone()).map(|e| e.address.to_string()).collect()
}

async fn assert_same_to_a_ztunnel(mesh: &Mesh) {
    let plane = plane().await;
    plane.load(mesh);
    let (before, after) = (compiled(upserts(mesh)), compiled(decoded(&plane, "").into_iter().map(Change::Upsert)));
    assert!(!reached(&before).is_empty());
    assert_eq!(reached(&before), reached(&after));
    for service in before.services() {
        let other = after.service_by_key(&service.service.key).unwrap();
        let key = &service.service.key;
        assert_eq!(through(&before, service.waypoint.as_ref()), through(&after, other.waypoint.as_ref()), "{key}");
    }
    assert_eq!(before.workloads().count(), mesh.workloads.len());
    for workload in before.workloads() {
        let uid = &workload.workload.uid;
        let other = after.workload_by_uid(uid).unwrap_or_else(|| panic!("no {uid}"));
        assert_eq!(through(&before, workload.waypoint.as_ref()), through(&after, other.waypoint.as_ref()), "{uid}");
        assert_eq!(
            (&workload.hop, workload.rules.len(), workload.rules.is_empty()),
            (&other.hop, other.rules.len(), other.rules.is_empty()),
            "{uid}"
        );
        let (a, b) = (&workload.workload, &other.workload);
        assert_eq!((&a.name, &a.node, &a.identity, &a.addresses, a.health), (&b.name, &b.node, &b.identity, &b.addresses, b.health));
        assert_eq!(
            (&a.canonical_name, &a.canonical_revision, &a.workload_name),
            (&b.canonical_name, &b.canonical_revision, &b.workload_name)
        );
    }
}

#[tokio::test]
async fn bookinfo_is_the_same_to_a_ztunnel() {
    assert_same_to_a_ztunnel(&manifests(None)).await;
}

const ODD: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: app, labels: {istio.io/use-waypoint: waypoint}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: waypoint, namespace: app, labels: {istio.io/waypoint-for: all}}
spec:
  gatewayClassName: istio-waypoint
  listeners: [{name: mesh, port: 15008, protocol: HBONE}]
---
apiVersion: v1
kind: Service
metadata: {name: waypoint, namespace: app}
spec:
  clusterIP: 10.0.0.15
  selector: {gateway.networking.k8s.io/gateway-name: waypoint}
  ports: [{name: mesh, port: 15008, appProtocol: tcp}]
---
apiVersion: v1
kind: Pod
metadata:
  name: waypoint-0
  namespace: app
  labels: {gateway.networking.k8s.io/gateway-name: waypoint, gateway.istio.io/managed: istio.io-mesh-controller}
spec: {serviceAccountName: waypoint, containers: [{name: c}]}
status: {phase: Running, podIP: 10.1.0.15}
---
apiVersion: v1
kind: Service
metadata: {name: named, namespace: app}
spec:
  clusterIP: 10.0.0.1
  selector: {app: named}
  ports: [{name: http, port: 80, targetPort: web}, {name: tcp, port: 81, targetPort: 9000}]
---
apiVersion: v1
kind: Pod
metadata: {name: named-0, namespace: app, labels: {app: named}, annotations: {ambient.istio.io/redirection: enabled}}
spec: {serviceAccountName: named, containers: [{name: c, ports: [{name: web, containerPort: 8081}]}]}
status: {phase: Running, podIP: 10.1.0.1, conditions: [{type: Ready, status: 'True'}]}
---
apiVersion: v1
kind: Pod
metadata: {name: named-1, namespace: app, labels: {app: named, istio.io/use-waypoint: none}, annotations: {ambient.istio.io/redirection: enabled}}
spec: {serviceAccountName: default, containers: [{name: c, ports: [{name: web, containerPort: 8082}]}]}
status: {phase: Running, podIP: 10.1.0.2, conditions: [{type: Ready, status: 'False'}]}
---
apiVersion: v1
kind: Service
metadata: {name: outside, namespace: app}
spec:
  clusterIP: 10.0.0.2
  ports: [{name: http, port: 80}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: outside-1, namespace: app, labels: {kubernetes.io/service-name: outside}}
addressType: IPv4
endpoints:
- {addresses: [192.0.2.1], conditions: {ready: true}}
- {addresses: [192.0.2.2], conditions: {ready: false}}
ports: [{name: http, port: 8080, protocol: TCP}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: selecting, namespace: app}
spec:
  selector: {matchLabels: {app: named}}
  action: DENY
  rules: [{to: [{operation: {ports: ['9000']}}]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: everywhere, namespace: istio-system}
spec:
  rules: [{from: [{source: {namespaces: [app]}}]}]
";

#[tokio::test]
async fn selectors_named_ports_slices_and_policies_are_the_same_to_a_ztunnel() {
    let mesh = manifests(Some(ODD));
    assert_same_to_a_ztunnel(&mesh).await;
    let plane = plane().await;
    plane.load(&mesh);
    let strangers: Vec<_> = plane.names(Kind::Address).into_iter().filter(|name| name.contains("EndpointSlice")).collect();
    assert_eq!(strangers.len(), 2, "{strangers:?}");
}

#[tokio::test]
async fn what_a_connection_cannot_answer_errs_on_the_side_of_refusing() {
    let http = || (false, Test::Method(vec![StringMatch::Exact("GET".into())]));
    let port = || (false, Test::DestinationPort(vec![80]));
    let both = |first: Vec<_>, second: Vec<_>| Rule {
        clauses: vec![Clause {
            matches: rule(first).clauses.remove(0).matches.into_iter().chain(rule(second).clauses.remove(0).matches).collect(),
        }],
    };
    let everyone = || Rule::default();
    let only_port = || rule(vec![port()]);
    for (what, action, rules, want) in [
        ("ALLOW of a request: nobody", Action::Allow, vec![rule(vec![http()])], vec![]),
        ("ALLOW of a request and a port: nobody", Action::Allow, vec![rule(vec![http(), port()])], vec![]),
        ("ALLOW of a request or a port: the port", Action::Allow, vec![both(vec![http()], vec![port()])], vec![only_port()]),
        ("ALLOW by another rule", Action::Allow, vec![rule(vec![http()]), only_port()], vec![only_port()]),
        ("DENY of a request: everyone", Action::Deny, vec![rule(vec![http()])], vec![everyone()]),
        ("DENY of a request and a port: the port", Action::Deny, vec![rule(vec![http(), port()])], vec![only_port()]),
        ("DENY of a request or a port: everyone", Action::Deny, vec![both(vec![http()], vec![port()])], vec![everyone()]),
    ] {
        let plane = plane().await;
        let policy = AuthorizationPolicy { action, ..policy("p", PolicyTarget::Namespace, rules) };
        plane.apply([upsert(policy.clone())]);
        assert_eq!(decoded(&plane, ""), vec![AuthorizationPolicy { rules: want, ..policy }.into()], "{what}");
    }
}

#[tokio::test]
async fn an_invalid_policy_denies_what_it_governs() {
    let plane = plane().await;
    let broken = AuthorizationPolicy {
        invalid: Some("no".into()),
        dry_run: false,
        action: Action::Allow,
        ..policy("p", PolicyTarget::Unknown, Vec::new())
    };
    plane.apply([upsert(broken.clone())]);
    let want = AuthorizationPolicy {
        invalid: None,
        action: Action::Deny,
        target: PolicyTarget::Namespace,
        rules: vec![Rule::default()],
        ..broken
    };
    assert_eq!(decoded(&plane, ""), vec![want.into()]);
}

#[tokio::test]
async fn a_change_touches_what_it_means_and_nothing_else() {
    let mesh = manifests(Some(ODD));
    let plane = plane().await;
    plane.load(&mesh);
    assert_eq!(plane.load(&mesh), 0, "nothing new");
    let pod = mesh.workloads.values().find(|w| &*w.name == "named-0").unwrap();
    let moved = Workload { addresses: vec!["10.1.0.77".parse().unwrap()], ..(**pod).clone() };
    assert_eq!(plane.apply([upsert(moved)]), 1, "one workload");
    let slice = mesh.endpoints.values().next().unwrap();
    assert_eq!(plane.apply([Change::Remove(Resource::Endpoints(slice.clone()).key())]), 2, "both strangers");
    let selecting = mesh.policies.values().find(|p| &*p.name.name == "selecting").unwrap();
    assert_eq!(plane.apply([Change::Remove(Resource::Policy(selecting.clone()).key())]), 3, "the policy and the two pods that it selects");
    let service = mesh.services.values().find(|s| &*s.source.name.name == "named").unwrap();
    assert_eq!(plane.apply([Change::Remove(Resource::Service(service.clone()).key())]), 3, "the service and its two pods");
}
