//! A large mesh, with names as long as they are in clusters.

use super::site::Site;
use cairn::{
    model::{
        Action, AppProtocol, AuthorizationPolicy, Clause, GatewayAddress, GatewayDestination, Health, Hostname, Identity, Kind, Labels,
        Locality, Match, Name, PolicyTarget, Resource, ResourceId, ResourceName, Rule, Service, ServiceKey, ServiceL4, ServicePort,
        StringMatch, TargetPort, Term, Test, TunnelProtocol, WaypointBinding, Workload, WorkloadL4, WorkloadType,
    },
    state::Change,
};
use std::net::{IpAddr, Ipv4Addr};

/// Workloads of a service.
pub const ENDPOINTS: usize = 10;
/// Services of a namespace.
const PER_NAMESPACE: usize = 50;
/// Workloads of a node.
const PER_NODE: usize = 100;
/// Policies of the control plane: half for namespaces, half for workloads by a label.
const POLICIES: usize = 100;
/// The port of the application beside a dedicated ztunnel.
pub const APP_PORT: u16 = 8080;
/// The node of the shared ztunnel.
pub const NODE: &str = "ip-10-12-0-7.eu-central-1.compute.internal";

/// The mesh, by numbers.
#[derive(Debug, Clone, Copy)]
pub struct Large {
    pub workloads: usize,
    /// Services that are bound to the waypoint.
    pub bound: usize,
}

impl Large {
    pub fn services(self) -> usize {
        self.workloads.div_ceil(ENDPOINTS)
    }

    /// All of it.
    pub fn changes(self) -> Vec<Change> {
        let services = (0..self.services()).map(|n| self.service(n, 0));
        let workloads = (0..self.workloads).map(|n| self.workload(n, 0));
        services.chain(workloads).chain((0..POLICIES).map(policy)).collect()
    }

    /// A workload: every second version is not healthy, and every fourth has moved to another address.
    pub fn workload(self, number: usize, version: usize) -> Change {
        let service = number / ENDPOINTS;
        let (app, namespace) = (app(service), namespace(service));
        // As the names of pods end: of a ReplicaSet, and of the pod itself.
        let name = format!("{app}-{:010x}-{:05x}", spread(service) & 0xff_ffff_ffff, spread(number) & 0xf_ffff);
        let moved = if version % 4 < 2 { 0 } else { 1 << 20 };
        let node = match number % (self.workloads.div_ceil(PER_NODE)) {
            0 => NODE.to_owned(),
            node => format!("ip-10-12-{}-{}.eu-central-1.compute.internal", node / 250 + 1, node % 250),
        };
        Change::Upsert(Resource::from(Workload {
            uid: format!("Kubernetes//Pod/{namespace}/{name}").into(),
            name: name.into(),
            identity: Identity::new("cluster.local", &namespace, &app).unwrap(),
            addresses: vec![Ipv4Addr::from((10 << 24) + moved + number as u32 + 1).into()],
            node: node.into(),
            locality: Locality {
                region: "eu-central-1".into(),
                zone: format!("eu-central-1{}", ["a", "b", "c"][number % 3]).into(),
                subzone: "".into(),
            },
            health: if version.is_multiple_of(2) { Health::Healthy } else { Health::Unhealthy },
            labels: Labels::from([("app".into(), app.as_str().into())]),
            canonical_name: app.as_str().into(),
            canonical_revision: format!("v{version}").into(),
            workload_name: app.as_str().into(),
            l4: WorkloadL4 { services: vec![(key(service), vec![(80, 8080), (9090, 9090)])], ..WorkloadL4::default() },
            ..plain(&namespace)
        }))
    }

    /// A service: each version but the first leads elsewhere by one port.
    pub fn service(self, number: usize, version: usize) -> Change {
        let more = (version > 0).then(|| port("admin", 8443, 20_000 + (version % 10_000) as u16, AppProtocol::Tcp));
        let ports = [port("http", 80, 8080, AppProtocol::Http), port("metrics", 9090, 9090, AppProtocol::Tcp)];
        let vip = Ipv4Addr::from((172 << 24) + (16 << 16) + number as u32 + 1);
        let waypoint = if number < self.bound { bound() } else { WaypointBinding::None };
        Change::Upsert(Resource::from(service(key(number), vip.into(), ports.into_iter().chain(more).collect(), waypoint)))
    }
}

/// What traffic goes through, and nothing else: the waypoint (in the other mode: the workload of the
/// ztunnel) and the workload behind it.
pub fn small(site: &Site) -> Vec<Change> {
    let at = |ip: &str| ip.parse::<IpAddr>().unwrap();
    let http = || vec![port("http", 80, 8080, AppProtocol::Http)];
    let workload = |name: &str, address: IpAddr, services: Vec<ServiceKey>| Workload {
        uid: format!("Kubernetes//Pod/bench/{name}").into(),
        name: name.into(),
        identity: Identity::new("cluster.local", "bench", name).unwrap(),
        addresses: vec![address],
        l4: WorkloadL4 { services: services.into_iter().map(|key| (key, Vec::new())).collect(), ..WorkloadL4::default() },
        ..plain("bench")
    };
    let reviews = ["reviews", "reviews-v1", "reviews-v2"];
    let vips = [site.service.ip(), at("127.0.72.11"), at("127.0.72.12")];
    let mut changes = vec![
        Change::Upsert(Resource::from(workload("workload", site.workload.ip(), reviews.map(own).into()))),
        Change::Upsert(Resource::from(workload("waypoint", site.waypoint.ip(), vec![own("waypoint")]))),
        Change::Upsert(Resource::from(service(
            own("waypoint"),
            at("127.0.72.9"),
            vec![port("mesh", 15008, 15008, AppProtocol::Tcp)],
            WaypointBinding::None,
        ))),
    ];
    changes
        .extend(reviews.into_iter().zip(vips).map(|(name, vip)| Change::Upsert(Resource::from(service(own(name), vip, http(), bound())))));
    changes
}

/// What a waypoint has from manifests: a route and a policy for the service under load.
pub const MANIFESTS: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: waypoint, namespace: bench}
spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: reviews, namespace: bench}
spec:
  parentRefs: [{group: \"\", kind: Service, name: reviews}]
  rules:
  - backendRefs: [{name: reviews-v1, port: 80, weight: 90}, {name: reviews-v2, port: 80, weight: 10}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: reviews, namespace: bench}
spec: {targetRefs: [{group: \"\", kind: Service, name: reviews}], action: ALLOW, rules: [{to: [{operation: {methods: [GET, POST]}}]}]}
";

fn namespace(service: usize) -> String {
    let teams = ["payments", "catalogue", "logistics", "identity", "search"];
    let team = service / PER_NAMESPACE;
    format!("{}-team-{:03}", teams[team % teams.len()], team)
}

fn app(service: usize) -> String {
    let parts = ["checkout-orchestrator", "inventory-reader", "pricing-engine", "session-store", "notification-gateway"];
    format!("{}-{:02}", parts[service % parts.len()], service % PER_NAMESPACE)
}

fn key(service: usize) -> ServiceKey {
    let namespace = namespace(service);
    ServiceKey { hostname: Hostname::of_service(&app(service), &namespace, "cluster.local"), namespace: namespace.into() }
}

fn own(name: &str) -> ServiceKey {
    ServiceKey { hostname: Hostname::of_service(name, "bench", "cluster.local"), namespace: "bench".into() }
}

fn bound() -> WaypointBinding {
    WaypointBinding::At(GatewayAddress { destination: GatewayDestination::Hostname(own("waypoint")), port: 15008 })
}

fn port(name: &str, port: u16, target: u16, protocol: AppProtocol) -> ServicePort {
    ServicePort { name: name.into(), port, target: TargetPort::Number(target), protocol }
}

fn service(key: ServiceKey, vip: IpAddr, ports: Vec<ServicePort>, waypoint: WaypointBinding) -> Service {
    let name: Name = key.hostname.as_str().split('.').next().unwrap_or_default().into();
    Service {
        source: ResourceId { kind: Kind::Service, name: ResourceName { namespace: key.namespace.clone(), name } },
        key,
        vips: vec![vip],
        ports,
        selector: None,
        waypoint,
        publish_not_ready: false,
        external: false,
        subject_alt_names: Vec::new(),
        l4: ServiceL4 { canonical: true, ..ServiceL4::default() },
    }
}

fn plain(namespace: &str) -> Workload {
    Workload {
        uid: "".into(),
        name: "".into(),
        namespace: namespace.into(),
        identity: Identity::new("cluster.local", namespace, "default").unwrap(),
        addresses: Vec::new(),
        protocol: TunnelProtocol::Hbone,
        node: NODE.into(),
        locality: Locality::default(),
        health: Health::Healthy,
        labels: Labels::new(),
        waypoint: WaypointBinding::None,
        canonical_name: "".into(),
        canonical_revision: "".into(),
        workload_name: "".into(),
        workload_type: WorkloadType::Deployment,
        cluster: "Kubernetes".into(),
        host_network: false,
        ports: Vec::new(),
        gateway: None,
        l4: WorkloadL4::default(),
    }
}

fn policy(number: usize) -> Change {
    let service = number / 2 * PER_NAMESPACE;
    let target = match number % 2 {
        0 => PolicyTarget::Namespace,
        _ => PolicyTarget::Selector(Labels::from([("app".into(), app(service).into())])),
    };
    let principal = StringMatch::Exact(format!("cluster.local/ns/{}/sa/{}", namespace(service), app(service + 1)).into());
    let matching = Match { terms: vec![Term { negated: false, test: Test::Principal(vec![principal]) }] };
    Change::Upsert(Resource::from(AuthorizationPolicy {
        name: ResourceName::new(&namespace(service), &format!("callers-{number:03}")),
        target,
        action: Action::Allow,
        dry_run: false,
        rules: vec![Rule { clauses: vec![Clause { matches: vec![matching] }] }],
        invalid: None,
    }))
}

/// A number that looks like any other (splitmix64).
fn spread(number: usize) -> u64 {
    let mut z = (number as u64).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z ^ (z >> 27)
}
