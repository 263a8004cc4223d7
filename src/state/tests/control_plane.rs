//! What a waypoint serves when a control plane binds services and workloads to places.

use super::*;
use crate::model::{GatewayAddress, GatewayDestination, NetworkAddress};

const INSTANCE: u8 = 100;

fn pod_ip(n: u8) -> IpAddr {
    IpAddr::from([10, 2, 0, n])
}

fn vip_ip(n: u8) -> IpAddr {
    IpAddr::from([10, 1, 0, n])
}

fn named(key: ServiceKey) -> GatewayAddress {
    GatewayAddress { destination: GatewayDestination::Hostname(key), port: 15008 }
}

fn at_ip(network: Option<&str>, address: IpAddr) -> GatewayAddress {
    let address = NetworkAddress { network: network.map(Into::into), address };
    GatewayAddress { destination: GatewayDestination::Address(address), port: 15008 }
}

/// This waypoint, as istiod names it.
pub(super) fn here() -> GatewayAddress {
    named(key("app", "waypoint"))
}

pub(super) fn view() -> ControlPlaneView {
    ControlPlaneView { cluster_domain: "cluster.local".into(), instance_ip: Some(pod_ip(INSTANCE)), class: None }
}

fn placed(resources: impl IntoIterator<Item = Resource>) -> Waypoints {
    let mut store = Store::new(WaypointCompiler::new(gateway(), ROOT).with_control_plane(view()));
    store.apply(resources.into_iter().map(Change::Upsert));
    store
}

fn placed_served(resources: Vec<Resource>, address: SocketAddr) -> bool {
    served(&placed(resources).handle().load(), address).is_some()
}

fn bound(service: Service, place: GatewayAddress) -> Resource {
    Resource::from(Service { waypoint: WaypointBinding::At(place), ..service })
}

fn bound_pod(workload: Workload, place: GatewayAddress) -> Resource {
    Resource::from(Workload { waypoint: WaypointBinding::At(place), ..workload })
}

/// The waypoint's own Service, at 10.1.0.50.
fn own_service() -> Service {
    Service { ports: vec![port("mesh", 15008, TargetPort::Number(15008))], ..service("app", "waypoint", 50) }
}

/// The pod that this instance is.
fn own_pod() -> Workload {
    let l4 = WorkloadL4 {
        hostname: Some(Hostname::new("instance.example")),
        services: vec![(key("app", "waypoint"), Vec::new())],
        ..WorkloadL4::default()
    };
    Workload { l4, ..pod("app", "waypoint", INSTANCE) }
}

fn pod_at(n: u8) -> SocketAddr {
    SocketAddr::new(pod_ip(n), 8080)
}

#[test]
fn a_place_means_this_waypoint_by_its_names_addresses_and_port() {
    let host = |namespace: &str, host: &str| named(ServiceKey { namespace: namespace.into(), hostname: Hostname::new(host) });
    let mapped = "::ffff:10.1.0.50".parse().unwrap();
    let with_port = |port, place| GatewayAddress { port, ..place };
    for (what, place, want) in [
        ("the Service's name", here(), true),
        ("with another port", with_port(15009, here()), false),
        ("of another namespace", named(key("other", "waypoint")), false),
        ("of another service", named(key("app", "second")), false),
        ("with another domain", host("app", "waypoint.app.svc.other.local"), false),
        ("the name in another namespace than it says", host("other", "waypoint.app.svc.cluster.local"), false),
        ("the Service's virtual address", at_ip(None, vip_ip(50)), true),
        ("the same mapped to IPv6", at_ip(None, mapped), true),
        ("with another port", with_port(80, at_ip(None, vip_ip(50))), false),
        ("the same address on another network", at_ip(Some("east"), vip_ip(50)), false),
        ("another virtual address", at_ip(None, vip_ip(51)), false),
        ("this instance's address", at_ip(None, pod_ip(INSTANCE)), true),
        ("another instance's", at_ip(None, pod_ip(INSTANCE + 1)), false),
        ("this instance's host name", host("app", "instance.example"), true),
        ("in another namespace", host("other", "instance.example"), false),
    ] {
        let mesh = vec![
            Resource::from(own_service()),
            Resource::from(own_pod()),
            bound(service("other", "a", 1), place.clone()),
            bound_pod(pod("other", "b", 2), place.clone()),
        ];
        let snapshot = placed(mesh.clone()).handle().load();
        let found = (served(&snapshot, vip(1)).is_some(), served(&snapshot, pod_at(2)).is_some());
        assert_eq!(found, (want, want), "{what}: {place}");
        // Who has no control plane knows no places.
        assert!(!is_served([mesh, vec![Resource::from(waypoint())]].concat(), vip(1)), "{what}");
    }
}

#[test]
fn a_name_or_address_that_leads_to_another_service_does_not_mean_this_waypoint() {
    let usurped = Service { l4: ServiceL4 { canonical: true, ..ServiceL4::default() }, ..service("other", "first", 50) };
    let instance = ServiceKey { namespace: "app".into(), hostname: Hostname::new("instance.example") };
    let same_name = Service { key: instance.clone(), ..service("app", "x", 60) };
    let mesh = vec![
        Resource::from(own_service()),
        Resource::from(own_pod()),
        Resource::from(usurped),
        Resource::from(same_name),
        bound(service("app", "a", 1), at_ip(None, vip_ip(50))),
        bound(service("app", "b", 2), named(instance)),
        bound(service("app", "c", 3), here()),
    ];
    let snapshot = placed(mesh).handle().load();
    assert_eq!([1, 2, 3].map(|n| served(&snapshot, vip(n)).is_some()), [false, false, true]);
}

#[test]
fn any_share_of_a_services_traffic_is_served() {
    let elsewhere = || named(key("app", "second"));
    for (what, binding, weighted, want) in [
        ("the only one", WaypointBinding::None, vec![(here(), 1)], true),
        ("one of two", WaypointBinding::None, vec![(elsewhere(), 99), (here(), 1)], true),
        ("drained", WaypointBinding::At(elsewhere()), vec![(elsewhere(), 1), (here(), 0)], true),
        ("beside the weights", WaypointBinding::At(here()), vec![(elsewhere(), 1)], true),
        ("not among them", WaypointBinding::At(elsewhere()), vec![(elsewhere(), 1)], false),
        ("none", WaypointBinding::None, Vec::new(), false),
    ] {
        let l4 = ServiceL4 { weighted_waypoints: weighted, ..ServiceL4::default() };
        let mesh = vec![Resource::from(Service { waypoint: binding, l4, ..service("app", "a", 1) })];
        assert_eq!(placed_served(mesh, vip(1)), want, "{what}");
    }
}

#[test]
fn labels_say_nothing_where_a_control_plane_has_judged_them() {
    let mut mesh = app();
    mesh.push(Resource::from(Service { waypoint: to_waypoint(), ..service("app", "a", 1) }));
    mesh.push(Resource::from(Waypoint { traffic: TrafficType::All, ..waypoint() }));
    mesh.push(Resource::from(Workload { waypoint: to_waypoint(), ..pod("app", "a", 1) }));
    let snapshot = placed(mesh).handle().load();
    assert!(snapshot.bound && served(&snapshot, vip(1)).is_none() && served(&snapshot, pod_at(1)).is_none());
}

#[test]
fn what_the_gateway_would_say_of_others_was_judged_already() {
    for gateway in [
        Waypoint { allowed: AllowedNamespaces::Same, ..waypoint() },
        Waypoint { traffic: TrafficType::None, ..waypoint() },
        Waypoint { service_account: Some("nobody".into()), ..waypoint() },
    ] {
        let what = format!("{gateway:?}");
        let mesh = vec![Resource::from(gateway), bound(service("other", "a", 1), here()), bound_pod(pod("other", "b", 2), here())];
        let snapshot = placed(mesh).handle().load();
        assert!(served(&snapshot, vip(1)).is_some() && served(&snapshot, pod_at(2)).is_some(), "{what}");
    }
}

#[test]
fn a_gateway_need_not_be_there_and_says_more_when_it_is() {
    let mut store = placed([bound(service("app", "a", 1), here()), bound(service("app", "b", 2), at_ip(None, vip_ip(77)))]);
    let found = |snapshot: &WaypointSnapshot| (snapshot.bound, [1, 2].map(|n| served(snapshot, vip(n)).is_some()));
    assert_eq!(found(&store.handle().load()), (true, [true, false]));
    for (what, gateway, want) in [
        ("another address", Waypoint { addresses: vec![WaypointAddress::Ip(vip_ip(77))], ..waypoint() }, (true, [true, true])),
        ("another port", Waypoint { port: 15009, ..waypoint() }, (true, [false, false])),
        ("no listener", Waypoint { allowed: AllowedNamespaces::None, ..waypoint() }, (false, [false, false])),
    ] {
        let snapshot = upsert(&mut store, Resource::from(gateway));
        assert_eq!(found(&snapshot), want, "{what}");
    }
    store.apply([Change::Remove(ResourceKey::Waypoint(gateway()))]);
    assert_eq!(found(&store.handle().load()), (true, [true, false]));
    // A host name of the Gateway, and the addresses of the service that has it.
    let front = Hostname::new("front.example");
    let host = ServiceKey { namespace: "app".into(), hostname: front.clone() };
    upsert(&mut store, Resource::from(Service { key: host.clone(), ..service("app", "front", 77) }));
    upsert(&mut store, bound(service("app", "a", 1), named(host)));
    assert_eq!(found(&store.handle().load()), (true, [false, false]));
    let snapshot = upsert(&mut store, Resource::from(Waypoint { addresses: vec![WaypointAddress::Hostname(front)], ..waypoint() }));
    assert_eq!(found(&snapshot), (true, [true, true]));
}

#[test]
fn policies_for_a_class_hold_unless_the_class_is_known_to_be_another() {
    let gateway_of = |class: &str| Resource::from(Waypoint { class: class.into(), ..waypoint() });
    for (what, told, manifest, want) in [
        // For "istio-waypoint", and for "another".
        ("unknown", None, None, [true, true]),
        ("of the pod's label", Some("istio-waypoint"), None, [true, false]),
        ("the same, another", Some("another"), None, [false, true]),
        ("a third", Some("third"), None, [false, false]),
        ("of the manifest", None, Some("another"), [false, true]),
        ("the manifest is the stronger", Some("istio-waypoint"), Some("another"), [false, true]),
    ] {
        let view = ControlPlaneView { class: told.map(Into::into), ..view() };
        let mut store = Store::new(WaypointCompiler::new(gateway(), ROOT).with_control_plane(view));
        let first =
            manifest.map(gateway_of).into_iter().chain([bound(service("app", "a", 1), here()), bound_pod(pod("app", "b", 2), here())]);
        store.apply(first.map(Change::Upsert));
        let found = ["istio-waypoint", "another"].map(|class| {
            let policy = deny(ROOT, class, refs(TargetRef::GatewayClass(class.into())), 1);
            let name = policy.name.clone();
            let snapshot = upsert(&mut store, Resource::from(policy));
            let denied = [vip(1), pod_at(2)].map(|address| is_denied(&served(&snapshot, address).unwrap()));
            assert_eq!(denied[0], denied[1], "{what}: {class}");
            store.apply([Change::Remove(ResourceKey::Policy(name))]);
            denied[0]
        });
        assert_eq!(found, want, "{what}");
        // Only the root namespace speaks of classes.
        let other = deny("app", "p", refs(TargetRef::GatewayClass("istio-waypoint".into())), 1);
        assert!(!is_denied(&served(&upsert(&mut store, Resource::from(other)), vip(1)).unwrap()), "{what}");
    }
}

#[test]
fn what_is_bound_by_address_is_served_while_the_address_is_ours() {
    let mut store =
        placed([bound(service("app", "a", 1), at_ip(None, vip_ip(50))), bound_pod(pod("app", "b", 2), at_ip(None, vip_ip(50)))]);
    let found = |snapshot: &WaypointSnapshot| [served(snapshot, vip(1)).is_some(), served(snapshot, pod_at(2)).is_some()];
    assert_eq!(found(&store.handle().load()), [false, false]);
    assert_eq!(found(&upsert(&mut store, Resource::from(own_service()))), [true, true], "comes late");
    let moved = Service { vips: vec![vip_ip(51)], ..own_service() };
    assert_eq!(found(&upsert(&mut store, Resource::from(moved))), [false, false], "moves away");
    assert_eq!(found(&upsert(&mut store, Resource::from(own_service()))), [true, true], "comes back");
    store.apply([Change::Remove(ResourceKey::Service(own_service().key))]);
    assert_eq!(found(&store.handle().load()), [false, false], "goes");
}

#[test]
fn the_waypoint_itself_is_not_served_whatever_it_is_bound_to() {
    let others_pod = Workload { l4: own_pod().l4, ..pod("app", "waypoint", INSTANCE + 1) };
    let labelled = Workload { gateway: Some("waypoint".into()), ..pod("app", "waypoint", INSTANCE + 2) };
    let another_gateways = Workload { gateway: Some("second".into()), ..pod("app", "second", 4) };
    let mesh = vec![
        bound(own_service(), here()),
        bound_pod(own_pod(), here()),
        bound_pod(others_pod, here()),
        bound_pod(labelled, here()),
        bound_pod(another_gateways, here()),
        // Another name for the same address.
        bound(service("other", "alias", 50), here()),
        bound(service("app", "a", 1), here()),
    ];
    let snapshot = placed(mesh).handle().load();
    for port in [80, 15008] {
        assert!(matches!(snapshot.admit(SocketAddr::new(vip_ip(50), port)), Admission::NotServed), "{port}");
    }
    for n in [INSTANCE, INSTANCE + 1, INSTANCE + 2] {
        assert!(matches!(snapshot.admit(pod_at(n)), Admission::NotServed), "{n}");
    }
    assert!(served(&snapshot, vip(1)).is_some() && served(&snapshot, pod_at(4)).is_some());
}

#[test]
fn of_several_services_at_one_address_only_those_that_are_bound_here_are_served() {
    let elsewhere = || named(key("app", "second"));
    // By precedence `app/a` comes before `other/b`, and that before `other/c`.
    let names = |snapshot: &WaypointSnapshot| served(snapshot, vip(1)).map(|d| d.hostname().unwrap().to_string());
    let [a, b, c] = [key("app", "a"), key("other", "b"), key("other", "c")].map(|key| key.hostname.to_string());
    for (bindings, want) in [
        ([elsewhere(), elsewhere(), elsewhere()], None),
        ([elsewhere(), here(), elsewhere()], Some(&b)),
        ([elsewhere(), elsewhere(), here()], Some(&c)),
        ([elsewhere(), here(), here()], Some(&b)),
        ([here(), here(), here()], Some(&a)),
    ] {
        let what = format!("{bindings:?}");
        let services = [service("app", "a", 1), service("other", "b", 1), service("other", "c", 1)];
        let mesh: Vec<_> = services.into_iter().zip(bindings).map(|(service, place)| bound(service, place)).collect();
        let snapshot = placed(mesh.clone()).handle().load();
        assert_eq!(names(&snapshot).as_ref(), want, "{what}");
        let refused = matches!(snapshot.admit(vip(1)), Admission::NotServed);
        assert_eq!(refused, want.is_none(), "{what}");
        // Each on its own, the last one first.
        let mut store = placed([]);
        mesh.into_iter().rev().for_each(|service| drop(upsert(&mut store, service)));
        assert_eq!(names(&store.handle().load()).as_ref(), want, "{what}");
    }
}

#[test]
fn a_new_policy_or_route_reaches_workloads_whatever_the_gateway_is_for() {
    let (account, everything) = (ResourceName::new("app", "b"), TargetRef::Gateway(gateway()));
    for gateways in [Vec::new(), vec![Resource::from(Waypoint { traffic: TrafficType::Service, ..waypoint() })]] {
        for (what, policy) in [
            ("for the waypoint", deny("app", "p", refs(everything.clone()), 1)),
            ("unreadable", deny("app", "p", PolicyTarget::Unknown, 1)),
            ("for the class", deny(ROOT, "p", refs(TargetRef::GatewayClass("istio-waypoint".into())), 1)),
        ] {
            let mut store = placed(gateways.clone().into_iter().chain([bound_pod(pod("app", "b", 2), here())]));
            assert!(!is_denied(&served(&store.handle().load(), pod_at(2)).unwrap()), "{what}");
            let name = policy.name.clone();
            assert!(is_denied(&served(&upsert(&mut store, Resource::from(policy)), pod_at(2)).unwrap()), "{what}");
            store.apply([Change::Remove(ResourceKey::Policy(name))]);
            assert!(!is_denied(&served(&store.handle().load(), pod_at(2)).unwrap()), "{what}");
        }
        let mut store = placed(gateways.into_iter().chain([bound_pod(pod("other", "b", 2), here())]));
        let unreadable = deny("other", "p", PolicyTarget::Unknown, 1);
        assert!(is_denied(&served(&upsert(&mut store, Resource::from(unreadable)), pod_at(2)).unwrap()), "of its namespace");
        let parents = [Parent::Gateway(gateway()), Parent::ServiceAccount(ResourceName { namespace: "other".into(), ..account.clone() })];
        for parent in parents {
            let what = format!("{parent:?}");
            let snapshot = upsert(&mut store, Resource::from(route("app", "r", parent, &[("/", &key("app", "a"))])));
            assert!(served(&snapshot, pod_at(2)).unwrap().routes.is_some(), "{what}");
            store.apply([Change::Remove(ResourceKey::Route(ResourceName::new("app", "r")))]);
            assert!(served(&store.handle().load(), pod_at(2)).unwrap().routes.is_none(), "{what}");
        }
    }
}

#[test]
fn routes_and_policies_for_a_service_entry_hold_for_all_its_hosts() {
    let entry = ResourceName::new("app", "e");
    let host = |name: &str, kind, n| {
        let key = ServiceKey { namespace: "app".into(), hostname: Hostname::new(&format!("{name}.example")) };
        bound(Service { source: ResourceId::new(kind, "app", "e"), key, ..service("app", "e", n) }, here())
    };
    let parent = |port| Parent::ServiceEntry { entry: entry.clone(), port };
    let to = key("app", "a");
    let late = |name: &str, n| host(name, Kind::ServiceEntry, n);
    let mut store = placed([late("one", 1), host("taken-for-a-service", Kind::Service, 3), bound(service("app", "a", 4), here())]);
    upsert(&mut store, Resource::from(deny("app", "p", refs(TargetRef::ServiceEntry(entry.clone())), 1)));
    // Of another namespace: not for it.
    upsert(&mut store, Resource::from(deny("other", "p", refs(TargetRef::ServiceEntry(entry.clone())), 1)));
    upsert(&mut store, Resource::from(route("app", "r", parent(None), &[("/", &to)])));
    upsert(&mut store, Resource::from(route("app", "s", parent(Some(81)), &[("/other", &to)])));
    upsert(&mut store, late("two", 2));
    let snapshot = store.handle().load();
    // What declares a service a control plane does not say.
    for (n, want) in [(1, true), (2, true), (3, true), (4, false)] {
        let destination = served(&snapshot, vip(n)).unwrap();
        let rules = destination.routes.as_ref().map_or(0, |table| table.iter().count());
        assert_eq!((is_denied(&destination), destination.http_rules.len(), rules), (want, want.into(), want.into()), "{n}");
    }
    store.apply([
        Change::Remove(ResourceKey::Policy(ResourceName::new("app", "p"))),
        Change::Remove(ResourceKey::Route(ResourceName::new("app", "r"))),
    ]);
    let snapshot = store.handle().load();
    for n in [1, 2, 3] {
        let destination = served(&snapshot, vip(n)).unwrap();
        assert!(!is_denied(&destination) && destination.routes.is_none(), "{n}");
    }
}

#[test]
fn an_address_in_a_range_belongs_to_the_service_with_the_longest_prefix() {
    let ranged = |name: &str, ranges: &[&str], place| {
        let l4 = ServiceL4 { ranges: ranges.iter().map(|range| range.parse().unwrap()).collect(), ..ServiceL4::default() };
        bound(Service { vips: Vec::new(), l4, ..service("app", name, 0) }, place)
    };
    let mesh = vec![
        ranged("wide", &["10.1.0.0/16", "2001:db8::/32"], here()),
        ranged("narrow", &["10.1.1.0/24"], here()),
        // The same range once more, and one of somebody else's.
        ranged("second", &["10.1.1.0/24", "10.1.2.0/24"], here()),
        ranged("foreign", &["10.1.3.0/24", "10.3.0.0/16"], named(key("app", "other"))),
        bound(service("app", "exact", 7), here()),
        bound_pod(Workload { addresses: vec!["10.1.0.9".parse().unwrap()], ..pod("app", "b", 0) }, here()),
        Resource::from(pod("app", "wide", 1)),
    ];
    let mut store = placed(mesh.clone());
    let who = |store: &Waypoints, address: &str| match store.handle().load().admit(address.parse().unwrap()) {
        Admission::Served(destination) => {
            assert_eq!(destination.address.to_string(), address);
            destination.hostname().map_or("a workload".to_owned(), |host| host.as_str().split('.').next().unwrap().to_owned())
        }
        refused @ (Admission::UndeclaredPort | Admission::NotServed) => format!("{refused:?}"),
    };
    for (address, want) in [
        ("10.1.9.9:80", "wide"),
        ("10.1.9.9:81", "UndeclaredPort"),
        ("[2001:db8::1]:80", "wide"),
        ("[2001:db9::1]:80", "NotServed"),
        ("10.1.1.1:80", "narrow"),
        ("10.1.2.1:80", "second"),
        ("10.1.3.1:80", "wide"),
        ("10.3.0.1:80", "NotServed"),
        ("10.1.0.7:80", "exact"),
        ("10.1.0.7:81", "UndeclaredPort"),
        ("10.1.0.9:80", "a workload"),
        ("10.2.0.1:80", "NotServed"),
    ] {
        assert_eq!(who(&store, address), want, "{address}");
    }
    let snapshot = store.handle().load();
    let wide = served(&snapshot, "10.1.9.9:80".parse().unwrap()).unwrap();
    assert_eq!(endpoint_addresses(&wide), ["10.2.0.1:8080"]);
    assert_eq!((snapshot.compiled.destinations, snapshot.destinations().count()), (6, 5));
    store.apply([Change::Remove(ResourceKey::Service(key("app", "narrow")))]);
    assert_eq!([who(&store, "10.1.1.1:80"), who(&store, "10.1.9.9:80")], ["second", "wide"]);
    upsert(&mut store, ranged("second", &["10.1.2.0/24"], here()));
    upsert(&mut store, ranged("wide", &["10.1.0.0/16"], named(key("app", "other"))));
    assert_eq!([who(&store, "10.1.1.1:80"), who(&store, "10.1.2.1:80")], ["NotServed", "second"]);
}

#[test]
fn endpoints_are_the_workloads_that_name_the_service_and_can_be_reached() {
    let serving = |n: u8, l4: WorkloadL4| {
        let l4 = WorkloadL4 { services: vec![(key("app", "a"), vec![(80, 7070)])], ..l4 };
        Workload { l4, ..pod("app", "a", n) }
    };
    let remote = WorkloadL4 { network: Some("east".into()), gateway: Some(at_ip(Some("east"), vip_ip(9))), ..WorkloadL4::default() };
    let by_name = Workload {
        addresses: Vec::new(),
        ..serving(4, WorkloadL4 { hostname: Some(Hostname::new("a.example")), ..WorkloadL4::default() })
    };
    let alternative = "spiffe://cluster.local/ns/app/sa/other";
    let a = Service { selector: None, subject_alt_names: vec![alternative.into()], ..service("app", "a", 1) };
    let ports = vec![
        port("http", 80, TargetPort::Endpoint),
        ServicePort { protocol: AppProtocol::Tls, ..port("tls", 443, TargetPort::Number(8443)) },
    ];
    let mut store = placed([bound(Service { ports, ..a }, here()), Resource::from(serving(3, remote)), Resource::from(by_name)]);
    let endpoints = |snapshot: &WaypointSnapshot, port| {
        let destination = served(snapshot, SocketAddr::new(vip_ip(1), port)).unwrap();
        (destination.protocol, endpoint_addresses(&destination))
    };
    // Those that only a gateway or a name leads to are left out: no endpoint is an answer, too.
    let snapshot = store.handle().load();
    assert_eq!(endpoints(&snapshot, 80), (AppProtocol::Http, Vec::new()));
    let snapshot = upsert(&mut store, Resource::from(serving(2, WorkloadL4::default())));
    assert_eq!(endpoints(&snapshot, 80), (AppProtocol::Http, vec!["10.2.0.2:7070".to_owned()]));
    assert_eq!(endpoints(&snapshot, 443), (AppProtocol::Tls, vec!["10.2.0.2:8443".to_owned()]));
    let hop = served(&snapshot, vip(1)).unwrap().upstream.endpoints().ready[0].hop.clone();
    assert_eq!(hop, Hop::Hbone([pod("app", "a", 2).identity, alternative.parse().unwrap()].into()));
}

#[test]
fn a_backend_that_the_control_plane_has_not_told_yet_is_found_when_it_has() {
    let (a, b) = (key("app", "a"), key("app", "b"));
    let mut store = placed([bound(service("app", "a", 1), here()), Resource::from(route("app", "r", on_service(&a), &[("/", &b)]))]);
    let leads = |snapshot: &WaypointSnapshot| {
        let destination = served(snapshot, vip(1)).unwrap();
        let plan = destination.routes.as_ref().unwrap().iter().next().unwrap().payload.clone();
        let Backends::Weighted(backends, _) = &plan.backends else { panic!("the rule has a backend") };
        backends[0].upstream.as_ref().map(|upstream| upstream.name.to_string())
    };
    assert_eq!(leads(&store.handle().load()), None);
    let snapshot = upsert(&mut store, Resource::from(service("app", "b", 2)));
    assert_eq!(leads(&snapshot).as_deref(), Some("outbound|80||b.app.svc.cluster.local"));
}
