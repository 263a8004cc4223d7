//! Compiling model values: what is bound, what is in scope, what is kept from one time to the next.

mod admission;
mod bindings;
mod control_plane;
mod endpoints;
mod incremental;
mod kept;
mod scopes;
mod selectors;

use super::*;
use crate::{
    authz::Attributes,
    model::{
        Action, AllowedNamespaces, AppProtocol, AuthorizationPolicy, BackendRef, BackendTarget, Endpoint, Endpoints, Health, Hostname,
        HttpRoute, Identity, Kind, Labels, Locality, Name, NamespaceInfo, Parent, PathPattern, PolicyTarget, Resource, ResourceId,
        ResourceKey, ResourceName, RouteMatch, RouteRule, Rule, Service, ServiceKey, ServiceL4, ServicePort, TargetPort, TargetRef,
        Timeouts, TrafficType, TunnelProtocol, Waypoint, WaypointAddress, WaypointBinding, Workload, WorkloadL4, WorkloadType,
    },
};
use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

const ROOT: &str = "istio-system";

fn gateway() -> ResourceName {
    ResourceName::new("app", "waypoint")
}

fn to_waypoint() -> WaypointBinding {
    WaypointBinding::To(gateway())
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect()
}

fn key(namespace: &str, name: &str) -> ServiceKey {
    ServiceKey { namespace: namespace.into(), hostname: Hostname::of_service(name, namespace, "cluster.local") }
}

fn namespace(name: &str, waypoint: WaypointBinding) -> NamespaceInfo {
    NamespaceInfo { name: name.into(), labels: labels(&[("name", name)]), waypoint }
}

fn waypoint() -> Waypoint {
    Waypoint {
        name: gateway(),
        class: "istio-waypoint".into(),
        addresses: Vec::new(),
        port: 15008,
        traffic: TrafficType::Service,
        service_account: None,
        allowed: AllowedNamespaces::Same,
    }
}

/// A service at 10.1.0.`vip` with port 80 to 8080, for pods labelled `app: NAME`.
fn service(namespace: &str, name: &str, vip: u8) -> Service {
    Service {
        key: key(namespace, name),
        source: ResourceId::new(Kind::Service, namespace, name),
        vips: vec![IpAddr::from([10, 1, 0, vip])],
        ports: vec![port("http", 80, TargetPort::Number(8080))],
        selector: Some(labels(&[("app", name)])),
        waypoint: WaypointBinding::Inherit,
        publish_not_ready: false,
        external: false,
        subject_alt_names: Vec::new(),
        l4: ServiceL4::default(),
    }
}

fn port(name: &str, port: u16, target: TargetPort) -> ServicePort {
    ServicePort { name: name.into(), port, target, protocol: AppProtocol::Http }
}

/// A pod of `app` at 10.2.0.`ip` that runs as `app` and speaks HBONE.
fn pod(namespace: &str, app: &str, ip: u8) -> Workload {
    let name: Name = format!("{app}-{ip}").into();
    Workload {
        uid: format!("Kubernetes//Pod/{namespace}/{name}").into(),
        name: name.clone(),
        namespace: namespace.into(),
        identity: Identity::new("cluster.local", namespace, app).unwrap(),
        addresses: vec![IpAddr::from([10, 2, 0, ip])],
        protocol: TunnelProtocol::Hbone,
        node: "node".into(),
        locality: Locality::default(),
        health: Health::Healthy,
        labels: labels(&[("app", app)]),
        waypoint: WaypointBinding::Inherit,
        canonical_name: app.into(),
        canonical_revision: "latest".into(),
        workload_name: name,
        workload_type: WorkloadType::Pod,
        cluster: "Kubernetes".into(),
        host_network: false,
        ports: vec![("web".into(), 9090)],
        gateway: None,
        l4: WorkloadL4::default(),
    }
}

/// A route with one rule for each path, to one service each.
fn route(namespace: &str, name: &str, parent: Parent, rules: &[(&str, &ServiceKey)]) -> HttpRoute {
    let rule = |(path, service): &(&str, &ServiceKey)| RouteRule {
        name: None,
        matches: vec![RouteMatch { path: PathPattern::Prefix((*path).into()), ..RouteMatch::default() }],
        filters: Vec::new(),
        backends: vec![BackendRef {
            target: BackendTarget::Service { service: (*service).clone(), port: 80 },
            weight: 1,
            filters: Vec::new(),
        }],
        timeouts: Timeouts::default(),
        retry: None,
    };
    let name = ResourceName::new(namespace, name);
    HttpRoute { name, created: None, parents: vec![parent], rules: rules.iter().map(rule).collect() }
}

fn on_service(key: &ServiceKey) -> Parent {
    Parent::Service { service: key.clone(), port: None }
}

/// A policy that denies everything, with `rules` rules.
fn deny(namespace: &str, name: &str, target: PolicyTarget, rules: usize) -> AuthorizationPolicy {
    let name = ResourceName::new(namespace, name);
    AuthorizationPolicy { name, target, action: Action::Deny, dry_run: false, rules: vec![Rule::default(); rules], invalid: None }
}

fn refs(target: TargetRef) -> PolicyTarget {
    PolicyTarget::Refs(vec![target])
}

type Waypoints = Store<WaypointCompiler>;

fn store(resources: impl IntoIterator<Item = Resource>) -> Waypoints {
    let mut store = Store::new(WaypointCompiler::new(gateway(), ROOT));
    store.apply(resources.into_iter().map(Change::Upsert));
    store
}

fn upsert(store: &mut Waypoints, resource: Resource) -> Arc<WaypointSnapshot> {
    store.apply([Change::Upsert(resource)]);
    store.handle().load()
}

/// Namespace `app` bound to its waypoint, with the service `a` and a pod of it.
fn app() -> Vec<Resource> {
    vec![
        Resource::from(namespace("app", to_waypoint())),
        Resource::from(waypoint()),
        Resource::from(service("app", "a", 1)),
        Resource::from(pod("app", "a", 1)),
    ]
}

fn vip(n: u8) -> SocketAddr {
    SocketAddr::from(([10, 1, 0, n], 80))
}

fn served(snapshot: &WaypointSnapshot, address: SocketAddr) -> Option<Arc<Destination>> {
    match snapshot.admit(address) {
        Admission::Served(destination) => Some(destination),
        Admission::UndeclaredPort | Admission::NotServed => None,
    }
}

fn is_served(resources: Vec<Resource>, address: SocketAddr) -> bool {
    served(&store(resources).handle().load(), address).is_some()
}

fn is_denied(destination: &Destination) -> bool {
    let attributes =
        Attributes { identity: None, source_ip: IpAddr::from([10, 2, 0, 9]), destination: destination.address, sni: None, http: None };
    !destination.tcp_rules.check(&attributes).allowed
}

fn endpoint_addresses(destination: &Destination) -> Vec<String> {
    let mut all: Vec<_> = destination.upstream.endpoints().ready.iter().map(|e| e.address.to_string()).collect();
    all.sort();
    all
}
