//! Meshes to measure with: a namespace with its waypoint, and services that each have a route, a
//! policy and a pod.

use cairn::{
    model::{
        Action, AllowedNamespaces, AppProtocol, AuthorizationPolicy, BackendRef, BackendTarget, Clause, Health, Hostname, HttpRoute,
        Identity, Kind, Locality, Match, Name, NamespaceInfo, Parent, PathPattern, PolicyTarget, Resource, ResourceId, ResourceName,
        RouteMatch, RouteRule, Rule, Service, ServiceKey, ServiceL4, ServicePort, StringMatch, TargetPort, TargetRef, Term, Test, Timeouts,
        TrafficType, TunnelProtocol, Waypoint, WaypointBinding, Workload, WorkloadL4, WorkloadType,
    },
    state::{Change, Store, WaypointCompiler},
};
use std::net::{IpAddr, SocketAddr};

const NS: &str = "bench";

/// The service's virtual address.
pub fn vip(number: usize) -> SocketAddr {
    SocketAddr::new(address(100, number), 80)
}

fn address(net: u8, number: usize) -> IpAddr {
    let [.., a, b, c] = number.to_be_bytes();
    IpAddr::from([10, net + a, b, c])
}

fn gateway() -> ResourceName {
    ResourceName::new(NS, "waypoint")
}

fn service_name(number: usize) -> String {
    format!("service-{number}")
}

fn key(number: usize) -> ServiceKey {
    ServiceKey { namespace: NS.into(), hostname: Hostname::of_service(&service_name(number), NS, "cluster.local") }
}

fn service(number: usize) -> Service {
    let name = service_name(number);
    Service {
        key: key(number),
        source: ResourceId::new(Kind::Service, NS, &name),
        vips: vec![vip(number).ip()],
        ports: vec![ServicePort { name: "http".into(), port: 80, target: TargetPort::Number(8080), protocol: AppProtocol::Http }],
        selector: Some([("app".into(), name.into())].into()),
        waypoint: WaypointBinding::Inherit,
        publish_not_ready: false,
        external: false,
        subject_alt_names: Vec::new(),
        l4: ServiceL4::default(),
    }
}

/// The pod of a service; `version` is one of its labels.
pub fn workload(number: usize, version: usize) -> Workload {
    let app: Name = service_name(number).into();
    Workload {
        uid: format!("Kubernetes//Pod/{NS}/{app}-0").into(),
        name: format!("{app}-0").into(),
        namespace: NS.into(),
        identity: Identity::new("cluster.local", NS, &app).unwrap(),
        addresses: vec![address(200, number)],
        protocol: TunnelProtocol::Hbone,
        node: "node".into(),
        locality: Locality::default(),
        health: Health::Healthy,
        labels: [("app".into(), app.clone()), ("version".into(), version.to_string().into())].into(),
        waypoint: WaypointBinding::Inherit,
        canonical_name: app.clone(),
        canonical_revision: "latest".into(),
        workload_name: app,
        workload_type: WorkloadType::Deployment,
        cluster: "Kubernetes".into(),
        host_network: false,
        ports: Vec::new(),
        gateway: None,
        l4: WorkloadL4::default(),
    }
}

/// The route of a service: one path of it goes by weight to itself and to the next.
pub fn route(number: usize, weight: u32) -> HttpRoute {
    let to = |number, weight| BackendRef { target: BackendTarget::Service { service: key(number), port: 80 }, weight, filters: Vec::new() };
    let rule = |path: &str, backends| RouteRule {
        name: None,
        matches: vec![RouteMatch { path: PathPattern::Prefix(path.into()), ..RouteMatch::default() }],
        filters: Vec::new(),
        backends,
        timeouts: Timeouts::default(),
        retry: None,
    };
    HttpRoute {
        name: ResourceName::new(NS, &service_name(number)),
        created: None,
        parents: vec![Parent::Service { service: key(number), port: None }],
        // A backend that there may be none of would be another case.
        rules: vec![rule("/split", vec![to(number, weight), to(number.saturating_sub(1), 10)]), rule("/", vec![to(number, 1)])],
    }
}

/// The policy of a service: clients of one account may use these methods.
pub fn policy(number: usize, method: &str) -> AuthorizationPolicy {
    let clause = |test| Clause { matches: vec![Match { terms: vec![Term { negated: false, test }] }] };
    let from = clause(Test::Principal(vec![StringMatch::parse("cluster.local/ns/bench/sa/client")]));
    let to = clause(Test::Method(vec![StringMatch::parse("GET"), StringMatch::parse(method)]));
    AuthorizationPolicy {
        name: ResourceName::new(NS, &service_name(number)),
        target: PolicyTarget::Refs(vec![TargetRef::Service(key(number))]),
        action: Action::Allow,
        dry_run: false,
        rules: vec![Rule { clauses: vec![from, to] }],
        invalid: None,
    }
}

/// A mesh of so many services.
pub fn mesh(services: usize) -> Vec<Change> {
    let namespace = NamespaceInfo { name: NS.into(), labels: Default::default(), waypoint: WaypointBinding::To(gateway()) };
    let waypoint = Waypoint {
        name: gateway(),
        class: "istio-waypoint".into(),
        addresses: Vec::new(),
        port: 15008,
        traffic: TrafficType::Service,
        service_account: None,
        allowed: AllowedNamespaces::Same,
    };
    let of_service = |number| {
        [
            Resource::from(service(number)),
            Resource::from(route(number, 90)),
            Resource::from(policy(number, "POST")),
            Resource::from(workload(number, 1)),
        ]
    };
    let all = [Resource::from(namespace), Resource::from(waypoint)].into_iter().chain((0..services).flat_map(of_service));
    all.map(Change::Upsert).collect()
}

/// A store without anything in it.
pub fn store() -> Store<WaypointCompiler> {
    Store::new(WaypointCompiler::new(gateway(), "istio-system"))
}
