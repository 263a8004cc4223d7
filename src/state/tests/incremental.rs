//! However a mesh came about, change by change, what is compiled is what compiling it as a whole
//! would give.

use super::*;
use crate::{
    authz::Ruleset,
    model::{
        ApplicationTunnel, GatewayAddress, GatewayDestination, IpFamilies, NetworkAddress, ServiceL4, StringMatch, Visibility, WorkloadL4,
    },
    state::tests::{
        bindings::seen,
        control_plane::{here, view},
    },
};
use fastrand::Rng;
use ipnet::IpNet;
use proptest::prelude::*;
use std::{collections::BTreeMap, fmt::Write};

/// What a change is made from: the kind of resource, which of its kind, and a seed for its contents;
/// without a seed it is removed.
type Step = (u8, u8, Option<u64>);

const CLIENTS: [&str; 3] = ["app", "other", "elsewhere"];
const NAMESPACES: [&str; 2] = ["app", "other"];
const EAST: &str = "east";
const NAMES: [&str; 4] = ["a", "b", "c", "waypoint"];

fn one_of<T: Clone>(rng: &mut Rng, items: &[T]) -> T {
    items[rng.usize(..items.len())].clone()
}

fn virtual_address(n: u8) -> IpAddr {
    IpAddr::from([10, 1, 0, n])
}

fn pod_address(n: u8) -> IpAddr {
    IpAddr::from([10, 2, 0, n])
}

/// Some share a host name over namespaces.
fn some_key(rng: &mut Rng) -> ServiceKey {
    let namespace = one_of(rng, &NAMESPACES);
    match rng.u8(..4) {
        0 => ServiceKey { namespace: namespace.into(), hostname: Hostname::new("shared.example") },
        _ => key(namespace, one_of(rng, &NAMES)),
    }
}

fn some_gateway(rng: &mut Rng) -> ResourceName {
    one_of(rng, &[gateway(), gateway(), ResourceName::new("app", "second"), ResourceName::new("other", "b")])
}

/// Also places on other networks, and such as nobody is at.
fn some_place(rng: &mut Rng) -> GatewayAddress {
    let network = (rng.u8(..4) == 0).then(|| EAST.into());
    let destination = match rng.u8(..5) {
        0 => GatewayDestination::Address(NetworkAddress { network, address: virtual_address(rng.u8(..5)) }),
        1 => GatewayDestination::Address(NetworkAddress { network, address: pod_address(rng.u8(..5)) }),
        2 => GatewayDestination::Hostname(ServiceKey { namespace: one_of(rng, &NAMESPACES).into(), hostname: some_host(rng) }),
        _ => GatewayDestination::Hostname(some_key(rng)),
    };
    GatewayAddress { destination, port: one_of(rng, &[15008, 15008, 80]) }
}

/// Few, so that workloads share them.
fn some_host(rng: &mut Rng) -> Hostname {
    Hostname::new(one_of(rng, &["shared.example", "found.example"]))
}

fn some_range(rng: &mut Rng) -> IpNet {
    IpNet::new(virtual_address(rng.u8(..5)), one_of(rng, &[24, 30, 31])).unwrap()
}

fn some_service_l4(rng: &mut Rng) -> ServiceL4 {
    let elsewhere = |rng: &mut Rng| NetworkAddress { network: Some(EAST.into()), address: virtual_address(rng.u8(..5)) };
    ServiceL4 {
        ranges: (0..rng.u8(..4).saturating_sub(1)).map(|_| some_range(rng)).collect(),
        elsewhere: (0..rng.u8(..3)).map(|_| elsewhere(rng)).collect(),
        ip_families: one_of(rng, &[IpFamilies::Automatic, IpFamilies::Automatic, IpFamilies::Ipv4, IpFamilies::Ipv6]),
        visibility: one_of(rng, &[Visibility::Public, Visibility::Public, Visibility::Namespace]),
        canonical: rng.u8(..4) == 0,
        weighted_waypoints: (0..rng.u8(..4).saturating_sub(1)).map(|_| (some_place(rng), rng.u32(..3))).collect(),
        ..ServiceL4::default()
    }
}

fn some_workload_l4(rng: &mut Rng) -> WorkloadL4 {
    let ports = |rng: &mut Rng| (0..rng.u8(..3)).map(|_| (one_of(rng, &[80, 81, 15008]), one_of(rng, &[0, 7070]))).collect();
    WorkloadL4 {
        network: (rng.u8(..4) == 0).then(|| EAST.into()),
        gateway: (rng.u8(..3) == 0).then(|| some_place(rng)),
        hostname: (rng.u8(..3) == 0).then(|| some_host(rng)),
        capacity: rng.u32(..3),
        application_tunnel: (rng.u8(..4) == 0).then(|| ApplicationTunnel { proxy_protocol: rng.bool(), port: rng.bool().then_some(15088) }),
        services: (0..rng.u8(..3)).map(|_| (some_key(rng), ports(rng))).collect(),
        policies: (0..rng.u8(..3)).map(|_| some_policy_name(rng)).collect(),
    }
}

fn some_policy_name(rng: &mut Rng) -> ResourceName {
    ResourceName::new(one_of(rng, &["app", "other", ROOT, ""]), one_of(rng, &["a", "b", "c"]))
}

fn some_binding(rng: &mut Rng) -> WaypointBinding {
    match rng.u8(..10) {
        0 => WaypointBinding::None,
        1 => WaypointBinding::To(some_gateway(rng)),
        8 | 9 => WaypointBinding::At(some_place(rng)),
        2..5 => to_waypoint(),
        _ => WaypointBinding::Inherit,
    }
}

fn some_labels(rng: &mut Rng) -> Labels {
    let mut all = labels(&[("app", one_of(rng, &["a", "b"]))]);
    if rng.bool() {
        all.extend(labels(&[("v", one_of(rng, &["1", "2"]))]));
    }
    all
}

fn some_endpoint(rng: &mut Rng) -> Endpoint {
    Endpoint {
        address: pod_address(rng.u8(..5)),
        workload: rng.bool().then(|| uid(rng.u8(..6))),
        ready: rng.u8(..4) > 0,
        ports: if rng.bool() { Vec::new() } else { vec![("http".into(), 7070)] },
    }
}

fn uid(n: u8) -> Name {
    match n % 3 {
        0 => format!("Kubernetes/networking.istio.io/WorkloadEntry/app/{n}").into(),
        _ => format!("Kubernetes//Pod/app/{n}").into(),
    }
}

fn some_port(rng: &mut Rng) -> ServicePort {
    let target = one_of(rng, &[TargetPort::Number(8080), TargetPort::Number(8080), TargetPort::Name("web".into()), TargetPort::Endpoint]);
    let protocol = one_of(rng, &[AppProtocol::Http, AppProtocol::Http, AppProtocol::Tcp]);
    ServicePort { protocol, ..port("http", one_of(rng, &[80, 80, 81, 15008]), target) }
}

fn some_parent(rng: &mut Rng) -> Parent {
    match rng.u8(..6) {
        0 => Parent::Gateway(some_gateway(rng)),
        1 => Parent::ServiceAccount(ResourceName::new(one_of(rng, &NAMESPACES), one_of(rng, &NAMES))),
        2 => Parent::Service { service: some_key(rng), port: Some(80) },
        _ => on_service(&some_key(rng)),
    }
}

fn some_backend(rng: &mut Rng) -> BackendRef {
    let target = match rng.u8(..6) {
        0 => BackendTarget::Invalid,
        1 | 2 => BackendTarget::Hostname { hostname: some_key(rng).hostname, port: one_of(rng, &[80, 81]) },
        _ => BackendTarget::Service { service: some_key(rng), port: one_of(rng, &[80, 80, 81]) },
    };
    BackendRef { target, weight: 1, filters: Vec::new() }
}

fn some_target(rng: &mut Rng) -> PolicyTarget {
    match rng.u8(..11) {
        0 => PolicyTarget::Unknown,
        8 => PolicyTarget::Mesh,
        9 | 10 => PolicyTarget::Listed,
        1 => PolicyTarget::Namespace,
        2 => PolicyTarget::Selector(some_labels(rng)),
        3 => refs(TargetRef::GatewayClass(one_of(rng, &["istio-waypoint", "another"]).into())),
        4 => refs(TargetRef::Gateway(some_gateway(rng))),
        5 => PolicyTarget::Refs(vec![TargetRef::Service(some_key(rng)), TargetRef::Gateway(some_gateway(rng))]),
        _ => refs(TargetRef::Service(some_key(rng))),
    }
}

fn resource(kind: u8, n: u8, seed: u64) -> Resource {
    let rng = &mut Rng::with_seed(seed);
    match kind % 8 {
        0 => {
            let name = NAMESPACES[usize::from(n) % 2];
            Resource::from(NamespaceInfo { labels: some_labels(rng), ..namespace(name, some_binding(rng)) })
        }
        1 => {
            let mut chosen = Rng::with_seed(n.into());
            let key = some_key(&mut chosen);
            let name = NAMES[usize::from(n) % NAMES.len()];
            let kind = one_of(rng, &[Kind::Service, Kind::Service, Kind::ServiceEntry]);
            let mut ports: Vec<_> = (0..rng.u8(..4)).map(|_| some_port(rng)).collect();
            if name == "waypoint" && rng.u8(..4) > 0 {
                ports.push(ServicePort { protocol: AppProtocol::Tcp, ..port("hbone", 15008, TargetPort::Number(15008)) });
            }
            Resource::from(Service {
                source: ResourceId::new(kind, &key.namespace, name),
                vips: (0..rng.u8(..3)).map(|_| virtual_address(rng.u8(..5))).collect(),
                ports,
                selector: (rng.u8(..4) > 0).then(|| some_labels(rng)),
                waypoint: some_binding(rng),
                publish_not_ready: rng.u8(..4) == 0,
                subject_alt_names: if rng.u8(..4) == 0 { vec!["spiffe://cluster.local/ns/app/sa/other".into()] } else { Vec::new() },
                l4: if rng.bool() { some_service_l4(rng) } else { ServiceL4::default() },
                key,
                ..service("app", name, 0)
            })
        }
        2 => Resource::from(Endpoints {
            source: ResourceId::new(Kind::EndpointSlice, "app", NAMES[usize::from(n) % 3]),
            service: some_key(rng),
            endpoints: (0..rng.u8(..4)).map(|_| some_endpoint(rng)).collect(),
        }),
        3 | 4 => {
            let (namespace, app) = (one_of(rng, &NAMESPACES), one_of(rng, &NAMES));
            let mut addresses: Vec<_> = (0..rng.u8(..3)).map(|_| pod_address(rng.u8(..5))).collect();
            if let (1, Some(IpAddr::V4(first))) = (rng.u8(..4), addresses.first()) {
                addresses[0] = first.to_ipv6_mapped().into();
            }
            Resource::from(Workload {
                uid: uid(n % 6),
                addresses,
                labels: some_labels(rng),
                protocol: one_of(rng, &[TunnelProtocol::Hbone, TunnelProtocol::Hbone, TunnelProtocol::None]),
                health: one_of(rng, &[Health::Healthy, Health::Healthy, Health::Unhealthy]),
                host_network: rng.u8(..5) == 0,
                waypoint: some_binding(rng),
                gateway: (rng.u8(..6) == 0).then(|| "waypoint".into()),
                ports: if rng.bool() { Vec::new() } else { vec![("web".into(), 9090)] },
                l4: if rng.bool() { some_workload_l4(rng) } else { WorkloadL4::default() },
                ..pod(namespace, app, 0)
            })
        }
        5 => {
            let name =
                [gateway(), gateway(), ResourceName::new("app", "second"), ResourceName::new("other", "b")][usize::from(n) % 4].clone();
            let addresses = match rng.u8(..4) {
                0 => vec![WaypointAddress::Ip(virtual_address(rng.u8(..5)))],
                1 => vec![WaypointAddress::Ip(pod_address(rng.u8(..5)))],
                2 => vec![WaypointAddress::Hostname(some_key(rng).hostname)],
                _ => Vec::new(),
            };
            let selected = AllowedNamespaces::Selector(some_labels(rng));
            let all = [AllowedNamespaces::All, AllowedNamespaces::All, AllowedNamespaces::Same, selected, AllowedNamespaces::None];
            if rng.bool() {
                // Most of what can go wrong, goes wrong where things are served.
                return Resource::from(Waypoint {
                    name,
                    addresses,
                    allowed: AllowedNamespaces::All,
                    traffic: TrafficType::All,
                    ..waypoint()
                });
            }
            Resource::from(Waypoint {
                name,
                addresses,
                class: one_of(rng, &["istio-waypoint", "another"]).into(),
                traffic: one_of(rng, &[TrafficType::Service, TrafficType::All, TrafficType::All, TrafficType::Workload]),
                service_account: (rng.u8(..4) == 0).then(|| one_of(rng, &NAMES).into()),
                allowed: one_of(rng, &all),
                ..waypoint()
            })
        }
        6 => {
            let rule = |n: u8, backends| RouteRule {
                backends,
                ..route("app", "r", to_gateway(), &[(&format!("/{n}"), &key("app", "a"))]).rules.remove(0)
            };
            let backends = |rng: &mut Rng| (0..rng.u8(..3)).map(|_| some_backend(rng)).collect();
            Resource::from(HttpRoute {
                name: ResourceName::new(NAMESPACES[usize::from(n) % 2], NAMES[usize::from(n) % 3]),
                created: rng.bool().then(|| rng.i64(..3)),
                parents: (0..rng.u8(1..3)).map(|_| some_parent(rng)).collect(),
                rules: (0..rng.u8(1..3)).map(|n| rule(n, backends(rng))).collect(),
            })
        }
        _ => {
            let own = ["app", "other", ROOT, ""][usize::from(n) % 4];
            let action = one_of(rng, &[Action::Allow, Action::Deny]);
            let principal = StringMatch::Exact(one_of(rng, &["cluster.local/ns/app/sa/a", "cluster.local/ns/app/sa/b"]).into());
            let terms = vec![crate::model::Term { negated: false, test: crate::model::Test::Principal(vec![principal]) }];
            let rule = Rule { clauses: vec![crate::model::Clause { matches: vec![crate::model::Match { terms }] }] };
            let policy = AuthorizationPolicy {
                action,
                dry_run: rng.u8(..6) == 0,
                rules: if rng.u8(..4) == 0 { Vec::new() } else { vec![rule] },
                ..deny(own, NAMES[usize::from(n) % 3], some_target(rng), 0)
            };
            let invalid = matches!(policy.target, PolicyTarget::Unknown) || rng.u8(..8) == 0;
            Resource::from(AuthorizationPolicy { invalid: invalid.then(|| "unreadable".into()), ..policy })
        }
    }
}

fn to_gateway() -> Parent {
    Parent::Gateway(gateway())
}

fn endpoints(upstream: &Upstream) -> String {
    let show =
        |e: &Arc<UpstreamEndpoint>| format!("{} {:?} {:?}", e.address, e.hop, e.workload.as_ref().map(|w| (&w.uid, w.health, &w.identity)));
    format!("{}: {:?}", upstream.name, upstream.endpoints().ready.iter().map(show).collect::<Vec<_>>())
}

fn verdicts(rules: &Ruleset) -> String {
    let peers = ["a", "b", "c"].map(|account| Identity::new("cluster.local", "app", account).unwrap());
    let judge = |identity| {
        let verdict = rules.check(&Attributes { identity, source_ip: pod_address(1), destination: vip(1), sni: None, http: None });
        format!("{:?} {:?}", verdict.reason, verdict.dry_run)
    };
    format!("{} rules: {:?}", rules.len(), peers.iter().map(Some).chain([None]).map(judge).collect::<Vec<_>>())
}

fn admission(snapshot: &WaypointSnapshot, address: SocketAddr) -> String {
    let destination = match snapshot.admit(address) {
        Admission::Served(destination) => destination,
        refused @ (Admission::UndeclaredPort | Admission::NotServed) => return format!("{refused:?}"),
    };
    let backends = |plan: &RulePlan| match &plan.backends {
        Backends::Destination => "destination".to_owned(),
        Backends::Weighted(all, choice) => {
            format!("{choice:?} {:?}", all.iter().map(|b| b.upstream.as_deref().map(endpoints)).collect::<Vec<_>>())
        }
    };
    let rules = destination
        .routes
        .as_ref()
        .map(|table| table.iter().map(|e| format!("{} {:?} to {}", e.payload.name, e.matching, backends(&e.payload))).collect::<Vec<_>>());
    format!(
        "{} {:?} {:?} {} {rules:#?}\n  http {}\n  tcp {}\n  {}",
        destination.address,
        destination.hostname(),
        destination.protocol,
        destination.namespace(),
        verdicts(&destination.http_rules),
        verdicts(&destination.tcp_rules),
        endpoints(&destination.upstream)
    )
}

fn waypoint_view(snapshot: &WaypointSnapshot) -> String {
    let mut view = format!("{} {:?}\n", snapshot.bound, snapshot.compiled);
    // Addresses that only ranges hold are among them.
    for ip in (0..8).flat_map(|n| [virtual_address(n), pod_address(n)]) {
        for port in [80, 81, 15008] {
            let _ = writeln!(view, "{ip}:{port} {}", admission(snapshot, SocketAddr::new(ip, port)));
        }
        let _ = writeln!(view, "{ip} is {:?}", snapshot.workload(ip));
    }
    let _ = writeln!(view, "{} destinations", snapshot.destinations().count());
    view
}

fn node_view(snapshot: &NodeSnapshot) -> String {
    let mut view = String::new();
    let through = |route: Option<&WaypointRoute>| {
        let (name, upstream) = match route {
            Some(WaypointRoute::Gateway { name, upstream }) => (name.to_string(), upstream.as_ref().ok().map(|u| endpoints(u))),
            Some(WaypointRoute::At(place)) => (place.to_string(), snapshot.place(place).map(|u| endpoints(u))),
            None => (String::new(), None),
        };
        format!("{} {name} {upstream:?}", seen(route))
    };
    let place = |place: &GatewayAddress| format!("{place}: {:?}", snapshot.place(place).map(|upstream| endpoints(upstream)));
    let service = |service: &Arc<NodeService>| {
        let ports: BTreeMap<_, _> = service.ports.iter().map(|(port, upstream)| (port, endpoints(upstream))).collect();
        let weighted: Vec<_> = service.service.l4.weighted_waypoints.iter().map(|(at, _)| place(at)).collect();
        format!("{:?} {} {ports:#?} {weighted:?}", service.service, through(service.waypoint.as_ref()))
    };
    let workload = |w: &Arc<NodeWorkload>| {
        let gateway = w.workload.l4.gateway.as_ref().map(place);
        format!("{:?} {:?} {} {gateway:?} {}", w.workload, w.hop, through(w.waypoint.as_ref()), verdicts(&w.rules))
    };
    // Addresses that only ranges hold are among them, and clients who see other services.
    for ip in (0..8).flat_map(|n| [virtual_address(n), pod_address(n)]) {
        let meant: Vec<_> = CLIENTS.iter().map(|client| snapshot.service(ip, client).map(service)).collect();
        let _ = writeln!(view, "{ip}: {meant:?} {:?}", snapshot.workload(ip).map(workload));
    }
    for host in NAMESPACES.iter().flat_map(|ns| NAMES.map(|name| key(ns, name).hostname)).chain([Hostname::new("shared.example")]) {
        let meant: Vec<_> = CLIENTS.iter().map(|client| snapshot.host(&host, client).map(service)).collect();
        let seen: Vec<_> = snapshot.hosts(&host, "app").map(|s| s.service.key.to_string()).collect();
        let _ = writeln!(view, "{host}: {meant:?} among {seen:?}");
    }
    let sorted = |mut all: Vec<String>| {
        all.sort();
        all
    };
    let local = sorted(snapshot.local_workloads().map(workload).collect());
    let all = sorted(snapshot.workloads().map(workload).collect());
    let _ = writeln!(view, "{local:#?} of {all:#?} and {} services", snapshot.services().count());
    for n in 0..6 {
        let own = snapshot.local(&uid(n));
        let name = own.map(|own| ResourceName { namespace: own.workload.namespace.clone(), name: own.workload.name.clone() });
        let account = own.map(|own| own.workload.identity.service_account()).unwrap_or_default();
        let named = name.and_then(|name| snapshot.local_named(&name, account)).map(|w| w.workload.identity.clone());
        let _ = writeln!(view, "{}: {:?} {named:?}", uid(n), snapshot.workload_by_uid(&uid(n)).map(workload));
    }
    view
}

/// As a control plane tells it: places in place of labels, half of them this waypoint's.
fn told_by_a_control_plane(resource: Resource) -> Resource {
    let place = |binding: &WaypointBinding| match binding {
        WaypointBinding::To(name) if *name == gateway() => WaypointBinding::At(here()),
        WaypointBinding::To(name) => {
            WaypointBinding::At(GatewayAddress { destination: GatewayDestination::Hostname(key(&name.namespace, &name.name)), port: 15008 })
        }
        WaypointBinding::Inherit => {
            let destination = GatewayDestination::Address(NetworkAddress { network: None, address: virtual_address(1) });
            WaypointBinding::At(GatewayAddress { destination, port: 15008 })
        }
        WaypointBinding::None | WaypointBinding::At(_) => binding.clone(),
    };
    match resource {
        Resource::Service(s) => Resource::from(Service { waypoint: place(&s.waypoint), ..(*s).clone() }),
        Resource::Workload(w) => Resource::from(Workload { waypoint: place(&w.waypoint), ..(*w).clone() }),
        other => other,
    }
}

fn check<C: Compile>(batches: &[Vec<Step>], compiler: impl Fn() -> C, view: impl Fn(&C::Snapshot) -> String) -> Result<(), TestCaseError> {
    check_told(batches, Some, compiler, view)
}

/// Checks with resources as `told`; those that are not told are not there.
fn check_told<C: Compile>(
    batches: &[Vec<Step>],
    told: impl Fn(Resource) -> Option<Resource>,
    compiler: impl Fn() -> C,
    view: impl Fn(&C::Snapshot) -> String,
) -> Result<(), TestCaseError> {
    let mut store = Store::new(compiler());
    let mut mesh = BTreeMap::new();
    for batch in batches {
        let mut changes = Vec::new();
        for &(kind, n, seed) in batch {
            let Some(resource) = told(resource(kind, n, seed.unwrap_or_default())) else { continue };
            let key = resource.key();
            changes.push(match seed {
                Some(_) => {
                    mesh.insert(key, resource.clone());
                    Change::Upsert(resource)
                }
                None => {
                    mesh.remove(&key);
                    Change::Remove(key)
                }
            });
        }
        store.apply(changes);
        let mut anew = Store::new(compiler());
        anew.apply(mesh.values().cloned().map(Change::Upsert));
        let (step_by_step, anew) = (view(&store.handle().load()), view(&anew.handle().load()));
        let differing = || step_by_step.lines().zip(anew.lines()).find(|(one, other)| one != other);
        prop_assert!(step_by_step == anew, "after {:?}\nstep by step and anew: {:#?}", store.mesh(), differing());
    }
    Ok(())
}

fn batches() -> impl Strategy<Value = Vec<Vec<Step>>> {
    let step = (0_u8..8, 0_u8..12, prop::option::weighted(0.8, any::<u64>()));
    // A full mesh first, so that most changes meet something.
    let first = prop::collection::vec(any::<u64>(), 60)
        .prop_map(|seeds| seeds.iter().zip(0_u8..).map(|(seed, n)| (n % 8, n / 8 + n % 3, Some(*seed))).collect());
    (first, prop::collection::vec(prop::collection::vec(step, 1..5), 1..12)).prop_map(|(first, mut rest): (Vec<Step>, Vec<_>)| {
        rest.insert(0, first);
        rest
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, max_shrink_iters: 4000, ..ProptestConfig::default() })]

    #[test]
    fn a_waypoint_compiled_step_by_step_is_as_compiled_anew(batches in batches()) {
        check(&batches, || WaypointCompiler::new(gateway(), ROOT), waypoint_view)?;
    }

    #[test]
    fn a_waypoint_that_a_control_plane_places_compiled_step_by_step_is_as_compiled_anew(batches in batches(), has_gateway: bool) {
        let told = |resource| match resource {
            Resource::Waypoint(_) if !has_gateway => None,
            resource => Some(told_by_a_control_plane(resource)),
        };
        // The instance is now and then among the workloads.
        let view = || ControlPlaneView { instance_ip: Some(pod_address(4)), ..view() };
        check_told(&batches, told, || WaypointCompiler::new(gateway(), ROOT).with_control_plane(view()), waypoint_view)?;
    }

    #[test]
    fn a_node_compiled_step_by_step_is_as_compiled_anew(batches in batches()) {
        check(&batches, || NodeCompiler::new(Own::Workloads([uid(0), uid(1), uid(2)].into()), ROOT), node_view)?;
    }

    #[test]
    fn a_whole_node_compiled_step_by_step_is_as_compiled_anew(batches in batches()) {
        check(&batches, || NodeCompiler::new(Own::Node(Some("node".into())), ROOT), node_view)?;
    }
}
