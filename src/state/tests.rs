//! Compiling model values: what is bound, what is in scope, what is kept from one time to the next.

mod bindings;
mod endpoints;
mod incremental;

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

#[test]
fn a_service_is_bound_by_its_own_label_before_that_of_its_namespace() {
    let elsewhere = WaypointBinding::To(ResourceName::new("app", "another"));
    for (of_namespace, of_service, want) in [
        (to_waypoint(), WaypointBinding::Inherit, true),
        (to_waypoint(), WaypointBinding::None, false),
        (to_waypoint(), elsewhere.clone(), false),
        (WaypointBinding::Inherit, to_waypoint(), true),
        (WaypointBinding::None, to_waypoint(), true),
        (WaypointBinding::None, WaypointBinding::Inherit, false),
        (WaypointBinding::Inherit, WaypointBinding::Inherit, false),
        (elsewhere, WaypointBinding::Inherit, false),
    ] {
        let what = format!("namespace {of_namespace:?}, service {of_service:?}");
        let mesh = vec![
            Resource::from(namespace("app", of_namespace)),
            Resource::from(waypoint()),
            Resource::from(Service { waypoint: of_service, ..service("app", "a", 1) }),
        ];
        assert_eq!(is_served(mesh, vip(1)), want, "{what}");
    }
}

#[test]
fn another_namespace_may_bind_when_the_gateway_allows_it() {
    for (allowed, want) in [
        (AllowedNamespaces::Same, false),
        (AllowedNamespaces::All, true),
        (AllowedNamespaces::Selector(labels(&[("name", "other")])), true),
        (AllowedNamespaces::Selector(labels(&[("name", "else")])), false),
    ] {
        let what = format!("{allowed:?}");
        let mesh = vec![
            Resource::from(namespace("other", to_waypoint())),
            Resource::from(Waypoint { allowed, ..waypoint() }),
            Resource::from(service("other", "b", 2)),
        ];
        assert_eq!(is_served(mesh, vip(2)), want, "{what}");
    }
}

#[test]
fn waypoint_for_decides_between_services_and_workloads() {
    let pod_address = SocketAddr::from(([10, 2, 0, 1], 8080));
    for (traffic, services, workloads) in [
        (TrafficType::Service, true, false),
        (TrafficType::Workload, false, true),
        (TrafficType::All, true, true),
        (TrafficType::None, false, false),
    ] {
        let mut mesh = app();
        mesh.push(Resource::from(Waypoint { traffic, ..waypoint() }));
        let snapshot = store(mesh).handle().load();
        assert_eq!(served(&snapshot, vip(1)).is_some(), services, "{traffic:?}");
        assert_eq!(served(&snapshot, pod_address).is_some(), workloads, "{traffic:?}");
    }
}

#[test]
fn the_waypoints_own_service_and_pods_are_bound_to_nothing() {
    let own_pod = Workload { gateway: Some("waypoint".into()), ..pod("app", "waypoint", 3) };
    let mut mesh = app();
    mesh.push(Resource::from(Waypoint { traffic: TrafficType::All, ..waypoint() }));
    mesh.push(Resource::from(service("app", "waypoint", 3)));
    mesh.push(Resource::from(own_pod));
    let snapshot = store(mesh).handle().load();
    assert!(served(&snapshot, vip(1)).is_some());
    assert!(served(&snapshot, vip(3)).is_none());
    assert!(served(&snapshot, SocketAddr::from(([10, 2, 0, 3], 15008))).is_none());
}

#[test]
fn a_waypoint_for_one_service_account_serves_what_runs_as_it() {
    let mut mesh = app();
    mesh.extend([
        Resource::from(Waypoint { service_account: Some("a".into()), traffic: TrafficType::All, ..waypoint() }),
        Resource::from(service("app", "b", 2)),
        Resource::from(pod("app", "b", 2)),
    ]);
    let snapshot = store(mesh).handle().load();
    assert!(served(&snapshot, vip(1)).is_some());
    assert!(served(&snapshot, vip(2)).is_none());
    assert!(served(&snapshot, SocketAddr::from(([10, 2, 0, 1], 1))).is_some());
    assert!(served(&snapshot, SocketAddr::from(([10, 2, 0, 2], 1))).is_none());
    assert_eq!(snapshot.compiled, CompiledRules { destinations: 2, route_matches: 0, policy_rules: 0, upstreams: 1 });
}

#[test]
fn addresses_and_ports_are_admitted_as_declared() {
    let snapshot = store(app()).handle().load();
    assert!(matches!(snapshot.admit(SocketAddr::from(([10, 1, 0, 1], 81))), Admission::UndeclaredPort));
    assert!(matches!(snapshot.admit(SocketAddr::from(([10, 1, 0, 9], 80))), Admission::NotServed));
    let mapped: SocketAddr = "[::ffff:10.1.0.1]:80".parse().unwrap();
    assert!(matches!(snapshot.admit(mapped), Admission::Served(_)));
}

/// A large mesh of `n` namespaces, each with a service, a pod, ten routes and ten policies.
fn neighbours(n: u8) -> Vec<Resource> {
    let mut all = Vec::new();
    for i in 0..n {
        let ns: Name = format!("ns{i}").into();
        let other = ResourceName::new(&ns, "waypoint");
        let service = Service { vips: vec![IpAddr::from([10, 3, 0, i])], ..service(&ns, "a", i) };
        let workload = Workload { addresses: vec![IpAddr::from([10, 4, 0, i])], ..pod(&ns, "a", i) };
        let own = service.key.clone();
        all.extend([
            Resource::from(namespace(&ns, WaypointBinding::To(other.clone()))),
            Resource::from(Waypoint { name: other.clone(), ..waypoint() }),
            Resource::from(service),
            Resource::from(workload),
        ]);
        for j in 0..10 {
            let parent = if j % 2 == 0 { on_service(&own) } else { Parent::Gateway(other.clone()) };
            all.push(Resource::from(route(&ns, &format!("r{j}"), parent, &[("/", &own), ("/x", &own)])));
            let target = match j % 4 {
                0 => refs(TargetRef::Service(own.clone())),
                1 => refs(TargetRef::Gateway(other.clone())),
                2 => PolicyTarget::Namespace,
                _ => PolicyTarget::Selector(labels(&[("app", "a")])),
            };
            all.push(Resource::from(deny(&ns, &format!("p{j}"), target, 5)));
        }
    }
    all
}

#[test]
fn what_belongs_to_other_scopes_is_not_compiled() {
    let a = key("app", "a");
    let mut mesh = app();
    mesh.push(Resource::from(route("app", "r", on_service(&a), &[("/", &a), ("/x", &a)])));
    mesh.push(Resource::from(deny("app", "p", refs(TargetRef::Service(a.clone())), 3)));
    let alone = store(mesh.clone()).handle().load().compiled;
    assert_eq!(alone, CompiledRules { destinations: 1, route_matches: 2, policy_rules: 3, upstreams: 1 });
    mesh.extend(neighbours(100));
    assert_eq!(store(mesh).handle().load().compiled, alone);
}

#[test]
fn what_can_never_be_in_scope_is_not_even_kept() {
    let mut store = store(app());
    store.apply(neighbours(50).into_iter().map(Change::Upsert));
    let mesh = store.mesh();
    assert_eq!(mesh.waypoints.len(), 51, "bindings are looked up");
    let of_gateways = mesh.routes.values().filter(|r| r.parents.iter().any(|p| matches!(p, Parent::Gateway(_)))).count();
    assert_eq!(of_gateways, 0, "routes of other gateways");
    let never =
        |p: &&Arc<AuthorizationPolicy>| !matches!(&p.target, PolicyTarget::Refs(refs) if matches!(refs[..], [TargetRef::Service(_)]));
    assert_eq!(mesh.policies.values().filter(never).count(), 0, "policies for workloads and other gateways");
}

#[test]
fn a_resource_that_leaves_the_scope_is_forgotten() {
    let mut store = store(app());
    let all = PolicyTarget::Refs(vec![TargetRef::Gateway(gateway())]);
    let snapshot = upsert(&mut store, Resource::from(deny("app", "p", all, 1)));
    assert!(is_denied(&served(&snapshot, vip(1)).unwrap()));
    let snapshot = upsert(&mut store, Resource::from(deny("app", "p", PolicyTarget::Namespace, 1)));
    assert!(!is_denied(&served(&snapshot, vip(1)).unwrap()));
    assert!(store.mesh().policies.is_empty());
}

#[test]
fn a_service_that_is_unbound_leaves_nothing_behind() {
    let a = key("app", "a");
    let mut store = store(app());
    upsert(&mut store, Resource::from(route("app", "r", on_service(&a), &[("/", &a)])));
    upsert(&mut store, Resource::from(deny("app", "p", refs(TargetRef::Service(a)), 3)));
    let unbound = Service { waypoint: WaypointBinding::None, ..service("app", "a", 1) };
    let snapshot = upsert(&mut store, Resource::from(unbound));
    assert_eq!(snapshot.compiled, CompiledRules::default());
    store.apply([Change::Remove(ResourceKey::Waypoint(gateway()))]);
    assert!(!store.handle().load().bound);
}

#[test]
fn the_narrowest_scope_that_has_routes_wins() {
    let (a, b) = (key("app", "a"), key("app", "b"));
    let account = Parent::ServiceAccount(ResourceName::new("app", "a"));
    let on_port = |port| Parent::Service { service: a.clone(), port: Some(port) };
    let mut store = store(app());
    let rule = |snapshot: &WaypointSnapshot| {
        let table = served(snapshot, vip(1)).unwrap().routes.clone()?;
        let names: Vec<String> = table.iter().map(|entry| entry.payload.name.to_string()).collect();
        Some(names.join(" "))
    };
    assert_eq!(rule(&store.handle().load()), None);
    for (name, parent, want) in [
        ("gateway", Parent::Gateway(gateway()), "app/gateway.0"),
        ("account", account, "app/account.0"),
        ("other-port", on_port(81), "app/account.0"),
        ("other-service", on_service(&b), "app/account.0"),
        ("service", on_service(&a), "app/service.0"),
    ] {
        let snapshot = upsert(&mut store, Resource::from(route("app", name, parent, &[("/", &a)])));
        assert_eq!(rule(&snapshot).as_deref(), Some(want), "with {name}");
    }
    store.apply([Change::Remove(ResourceKey::Route(ResourceName::new("app", "service")))]);
    assert_eq!(rule(&store.handle().load()).as_deref(), Some("app/account.0"));
    // Somebody else behind the service: whom a request reaches is open, so the account's routes do not hold.
    let stranger = Workload { identity: Identity::new("cluster.local", "app", "stranger").unwrap(), ..pod("app", "a", 7) };
    let snapshot = upsert(&mut store, Resource::from(stranger));
    assert_eq!(rule(&snapshot).as_deref(), Some("app/gateway.0"));
}

#[test]
fn policies_hold_where_they_are_targeted_and_nowhere_else() {
    let (a, b) = (key("app", "a"), key("app", "b"));
    let class = || refs(TargetRef::GatewayClass("istio-waypoint".into()));
    let here = || refs(TargetRef::Gateway(gateway()));
    let rows = [
        ("the gateway", "app", here(), true),
        ("the gateway, from another namespace", "other", here(), false),
        ("another gateway", "app", refs(TargetRef::Gateway(ResourceName::new("app", "x"))), false),
        ("the service", "app", refs(TargetRef::Service(a.clone())), true),
        ("the service, from another namespace", "other", refs(TargetRef::Service(a.clone())), false),
        ("another service", "app", refs(TargetRef::Service(b)), false),
        ("the class, from the root namespace", ROOT, class(), true),
        ("the class, from elsewhere", "app", class(), false),
        ("another class", ROOT, refs(TargetRef::GatewayClass("x".into())), false),
        ("workloads by selector", "app", PolicyTarget::Selector(labels(&[("app", "a")])), false),
        ("the namespace's workloads", "app", PolicyTarget::Namespace, false),
        ("all workloads", ROOT, PolicyTarget::Namespace, false),
    ];
    for (what, namespace, target, want) in rows {
        let mut mesh = app();
        mesh.push(Resource::from(deny(namespace, "p", target, 1)));
        let snapshot = store(mesh).handle().load();
        assert_eq!(is_denied(&served(&snapshot, vip(1)).unwrap()), want, "{what}");
    }
}

#[test]
fn a_policy_that_was_never_valid_denies_all_that_it_may_have_meant() {
    for (namespace, target, want) in [
        ("app", PolicyTarget::Unknown, true),
        (ROOT, PolicyTarget::Unknown, true),
        ("", PolicyTarget::Unknown, true),
        ("other", PolicyTarget::Unknown, false),
        ("app", refs(TargetRef::Service(key("app", "a"))), true),
        ("app", refs(TargetRef::Service(key("app", "b"))), false),
        ("app", refs(TargetRef::Gateway(gateway())), true),
    ] {
        let what = format!("{namespace:?} {target:?}");
        let broken = AuthorizationPolicy { action: Action::Allow, invalid: Some("unreadable".into()), ..deny(namespace, "p", target, 0) };
        let mut mesh = app();
        mesh.push(Resource::from(broken));
        let snapshot = store(mesh).handle().load();
        assert_eq!(is_denied(&served(&snapshot, vip(1)).unwrap()), want, "{what}");
    }
}

#[test]
fn endpoints_are_what_a_selector_means_until_a_slice_lists_them() {
    let mut store = store(app());
    upsert(&mut store, Resource::from(pod("app", "a", 2)));
    upsert(&mut store, Resource::from(Workload { health: Health::Unhealthy, ..pod("app", "a", 3) }));
    upsert(&mut store, Resource::from(pod("other", "a", 4)));
    let snapshot = upsert(&mut store, Resource::from(pod("app", "b", 5)));
    let a = served(&snapshot, vip(1)).unwrap();
    assert_eq!(endpoint_addresses(&a), ["10.2.0.1:8080", "10.2.0.2:8080"]);
    let listed = |ip: u8, ready: bool, ports: &[(&str, u16)]| Endpoint {
        address: IpAddr::from([10, 2, 0, ip]),
        workload: None,
        ready,
        ports: ports.iter().map(|(n, p)| ((*n).into(), *p)).collect(),
    };
    let slice = Endpoints {
        source: ResourceId::new(Kind::EndpointSlice, "app", "a-1"),
        service: key("app", "a"),
        endpoints: vec![
            listed(2, true, &[("http", 7070)]),
            listed(3, false, &[("http", 7070)]),
            listed(4, true, &[]),
            listed(5, true, &[("admin", 1)]),
            listed(200, true, &[("http", 7070)]),
        ],
    };
    let snapshot = upsert(&mut store, Resource::from(slice.clone()));
    let a = served(&snapshot, vip(1)).unwrap();
    assert_eq!(endpoint_addresses(&a), ["10.2.0.200:7070", "10.2.0.2:7070", "10.2.0.4:8080"]);
    let hops: Vec<_> = a.upstream.endpoints().ready.iter().map(|e| (e.address.ip().to_string(), e.hop.clone())).collect();
    for (address, hop) in hops {
        let want = match &*address {
            "10.2.0.2" => Hop::Hbone([pod("app", "a", 2).identity].into()),
            "10.2.0.4" => Hop::Hbone([pod("other", "a", 4).identity].into()),
            _ => Hop::Plain,
        };
        assert_eq!(hop, want, "{address}");
    }
    // No endpoint listed is not the same as no list.
    let snapshot = upsert(&mut store, Resource::from(Endpoints { endpoints: Vec::new(), ..slice }));
    assert!(endpoint_addresses(&served(&snapshot, vip(1)).unwrap()).is_empty());
}

#[test]
fn readiness_can_be_waived_by_the_service() {
    let mut mesh = app();
    mesh.push(Resource::from(Workload { health: Health::Unhealthy, ..pod("app", "a", 1) }));
    mesh.push(Resource::from(Service { publish_not_ready: true, ..service("app", "a", 1) }));
    let snapshot = store(mesh).handle().load();
    assert_eq!(endpoint_addresses(&served(&snapshot, vip(1)).unwrap()), ["10.2.0.1:8080"]);
}

#[test]
fn a_named_target_port_is_each_pods_own() {
    let mut mesh = app();
    mesh.push(Resource::from(Service { ports: vec![port("http", 80, TargetPort::Name("web".into()))], ..service("app", "a", 1) }));
    mesh.push(Resource::from(Workload { ports: vec![("web".into(), 7000)], ..pod("app", "a", 2) }));
    mesh.push(Resource::from(Workload { ports: Vec::new(), ..pod("app", "a", 3) }));
    let snapshot = store(mesh).handle().load();
    assert_eq!(endpoint_addresses(&served(&snapshot, vip(1)).unwrap()), ["10.2.0.1:9090", "10.2.0.2:7000"]);
}

#[test]
fn a_host_network_pod_is_an_endpoint_but_its_address_names_nobody() {
    let on_host = Workload {
        host_network: true,
        protocol: TunnelProtocol::None,
        addresses: vec![IpAddr::from([192, 168, 0, 1])],
        ..pod("app", "a", 1)
    };
    let mut mesh = app();
    mesh.push(Resource::from(Waypoint { traffic: TrafficType::All, ..waypoint() }));
    mesh.push(Resource::from(on_host));
    let snapshot = store(mesh).handle().load();
    let a = served(&snapshot, vip(1)).unwrap();
    assert_eq!(endpoint_addresses(&a), ["192.168.0.1:8080"]);
    assert_eq!(a.upstream.endpoints().ready[0].hop, Hop::Plain);
    assert!(snapshot.workload(IpAddr::from([192, 168, 0, 1])).is_none());
    assert!(served(&snapshot, SocketAddr::from(([192, 168, 0, 1], 8080))).is_none());
}

#[test]
fn unchanged_scopes_are_taken_over_as_they_are() {
    let (a, b) = (key("app", "a"), key("app", "b"));
    let mut mesh = app();
    mesh.extend([
        Resource::from(service("app", "b", 2)),
        Resource::from(route("app", "ra", on_service(&a), &[("/", &a)])),
        Resource::from(route("app", "rb", on_service(&b), &[("/", &b)])),
        Resource::from(deny("app", "pa", refs(TargetRef::Service(a.clone())), 1)),
        Resource::from(deny("app", "pb", refs(TargetRef::Service(b.clone())), 1)),
    ]);
    let mut store = store(mesh);
    let before = store.handle().load();
    store.apply([
        Change::Upsert(Resource::from(route("app", "rb", on_service(&b), &[("/new", &b)]))),
        Change::Upsert(Resource::from(deny("app", "pb", refs(TargetRef::Service(b.clone())), 2))),
        // Pods come and go without a route being touched.
        Change::Upsert(Resource::from(pod("app", "a", 9))),
    ]);
    let after = store.handle().load();
    let both = |address| (served(&before, address).unwrap(), served(&after, address).unwrap());
    let (old, new) = both(vip(1));
    assert!(Arc::ptr_eq(old.routes.as_ref().unwrap(), new.routes.as_ref().unwrap()));
    assert!(Arc::ptr_eq(&old.http_rules, &new.http_rules) && Arc::ptr_eq(&old.tcp_rules, &new.tcp_rules));
    assert!(Arc::ptr_eq(&old.upstream, &new.upstream));
    assert_eq!(endpoint_addresses(&new).len(), 2);
    let (old, new) = both(vip(2));
    assert!(!Arc::ptr_eq(old.routes.as_ref().unwrap(), new.routes.as_ref().unwrap()));
    assert!(!Arc::ptr_eq(&old.http_rules, &new.http_rules));
}

#[test]
fn a_route_follows_its_backend_when_that_appears_and_goes() {
    let (a, b) = (key("app", "a"), key("other", "b"));
    let mut mesh = app();
    mesh.push(Resource::from(route("app", "r", on_service(&a), &[("/", &b)])));
    let mut store = store(mesh);
    let leads = |snapshot: &WaypointSnapshot| {
        let destination = served(snapshot, vip(1)).unwrap();
        let plan = destination.routes.as_ref().unwrap().iter().next().unwrap().payload.clone();
        match &plan.backends {
            Backends::Weighted(backends, _) => backends[0].upstream.as_ref().map(|u| u.name.to_string()),
            Backends::Destination => panic!("the rule has a backend"),
        }
    };
    assert_eq!(leads(&store.handle().load()), None);
    // In another namespace, and bound to nothing: still a backend.
    let snapshot = upsert(&mut store, Resource::from(service("other", "b", 2)));
    assert_eq!(leads(&snapshot).as_deref(), Some("outbound|80||b.other.svc.cluster.local"));
    assert!(served(&snapshot, vip(2)).is_none());
    assert_eq!(snapshot.compiled.upstreams, 2);
    store.apply([Change::Remove(ResourceKey::Service(b))]);
    let snapshot = store.handle().load();
    assert_eq!((leads(&snapshot), snapshot.compiled.upstreams), (None, 1));
}

#[test]
fn the_load_of_an_endpoint_survives_recompiles() {
    let mut store = store(app());
    let endpoint = served(&store.handle().load(), vip(1)).unwrap().upstream.endpoints().ready[0].clone();
    let request = endpoint.start();
    let snapshot = upsert(&mut store, Resource::from(pod("app", "a", 2)));
    let loads = |snapshot: &WaypointSnapshot| {
        let endpoints = served(snapshot, vip(1)).unwrap().upstream.endpoints();
        let mut loads: Vec<_> = endpoints.ready.iter().map(|e| (e.address.to_string(), e.in_flight())).collect();
        loads.sort();
        loads
    };
    assert_eq!(loads(&snapshot), [("10.2.0.1:8080".to_owned(), 1), ("10.2.0.2:8080".to_owned(), 0)]);
    drop(request);
    assert_eq!(loads(&snapshot)[0].1, 0);
    // Another identity at the same address is another endpoint.
    let _request = endpoint.start();
    let usurper = Workload { identity: Identity::new("cluster.local", "app", "usurper").unwrap(), ..pod("app", "a", 1) };
    let snapshot = upsert(&mut store, Resource::from(usurper));
    assert_eq!(loads(&snapshot)[0], ("10.2.0.1:8080".to_owned(), 0));
}

#[tokio::test]
async fn each_batch_is_one_version_and_readers_are_told() {
    let mut store = Store::new(WaypointCompiler::new(gateway(), ROOT));
    let handle = store.handle();
    let mut published = handle.published();
    assert_eq!((handle.load().version, handle.load().bound, published.version()), (0, false, 0));
    assert_eq!(store.apply(app().into_iter().map(Change::Upsert)), 1);
    assert!(published.changed().await);
    assert_eq!((handle.load().version, handle.load().bound, published.version()), (1, true, 1));
    assert_eq!(store.apply([]), 1);
    assert_eq!(store.apply([Change::Remove(ResourceKey::Waypoint(ResourceName::new("no", "such")))]), 2);
    assert!(published.changed().await);
    let old = handle.load();
    store.apply([Change::Remove(ResourceKey::Service(key("app", "a")))]);
    assert!(served(&old, vip(1)).is_some(), "who has taken a snapshot keeps it whole");
    assert!(served(&handle.load(), vip(1)).is_none());
    drop(store);
    assert!(published.changed().await, "the last version was not seen yet");
    assert!(!published.changed().await);
}

#[test]
fn a_ztunnel_keeps_neither_routes_nor_policies_of_waypoints() {
    let a = key("app", "a");
    let local: Name = pod("app", "a", 1).uid;
    let mut store = Store::new(NodeCompiler::new(Own::Workloads([local.clone()].into()), ROOT));
    let mut mesh = app();
    mesh.push(Resource::from(route("app", "r", on_service(&a), &[("/", &a)])));
    mesh.push(Resource::from(deny("app", "refs", refs(TargetRef::Service(a)), 1)));
    mesh.push(Resource::from(deny("app", "all", PolicyTarget::Namespace, 1)));
    store.apply(mesh.into_iter().map(Change::Upsert));
    assert_eq!((store.mesh().routes.len(), store.mesh().policies.len()), (0, 1));
    assert_eq!(store.handle().load().local(&local).unwrap().rules.len(), 1);
}
