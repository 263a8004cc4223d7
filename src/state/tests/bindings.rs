//! Which waypoint, in the eyes of the waypoint and of the ztunnel.

use super::*;

fn node(resources: Vec<Resource>) -> Arc<NodeSnapshot> {
    let mut store = Store::new(NodeCompiler::new(Own::Workloads([].into()), ROOT));
    store.apply(resources.into_iter().map(Change::Upsert));
    store.handle().load()
}

/// What a ztunnel makes of a service: `direct`, `waypoint`, or why not.
pub(super) fn seen(route: Option<&WaypointRoute>) -> String {
    match route {
        None => "direct".into(),
        Some(WaypointRoute::Gateway { upstream: Ok(_), .. }) => "waypoint".into(),
        Some(WaypointRoute::Gateway { upstream: Err(barred), .. }) => format!("{barred:?}"),
        Some(WaypointRoute::At(place)) => format!("at {place}"),
    }
}

fn service_seen(resources: Vec<Resource>, address: SocketAddr) -> String {
    seen(node(resources).service(address.ip(), "app").expect("the service is known").waypoint.as_ref())
}

fn workload_seen(resources: Vec<Resource>, ip: u8) -> String {
    seen(node(resources).workload(IpAddr::from([10, 2, 0, ip])).expect("the workload is known").waypoint.as_ref())
}

#[test]
fn both_modes_select_namespaces_alike_and_never_lead_around_the_waypoint() {
    let shop = |name: &str| AllowedNamespaces::Selector(labels(&[("kubernetes.io/metadata.name", name)]));
    let info = NamespaceInfo { labels: Labels::new(), ..namespace("other", WaypointBinding::Inherit) };
    for (allowed, info, want) in [
        (shop("other"), Some(info.clone()), "waypoint"),
        (shop("other"), None, "waypoint"),
        (shop("app"), Some(info.clone()), "NotAdmitted"),
        (shop("app"), None, "NotAdmitted"),
        (AllowedNamespaces::Selector(Labels::new()), None, "waypoint"),
        (AllowedNamespaces::Selector(labels(&[("name", "other")])), None, "NotAdmitted"),
        (AllowedNamespaces::Same, Some(info), "NotAdmitted"),
        (AllowedNamespaces::None, None, "Unusable"),
    ] {
        let what = format!("{allowed:?}, {info:?}");
        let mut mesh = vec![
            Resource::from(Waypoint { allowed, ..waypoint() }),
            Resource::from(Service { waypoint: to_waypoint(), ..service("other", "b", 2) }),
        ];
        mesh.extend(info.map(Resource::from));
        assert_eq!(service_seen(mesh.clone(), vip(2)), want, "{what}");
        assert_eq!(is_served(mesh, vip(2)), want == "waypoint", "{what}");
    }
}

#[test]
fn only_a_missing_gateway_or_one_for_other_traffic_is_no_waypoint() {
    let mesh = |traffic, allowed| {
        let mut mesh = app();
        mesh.push(Resource::from(Waypoint { traffic, allowed, ..waypoint() }));
        mesh
    };
    for (traffic, service, workload) in [
        (TrafficType::Service, "Unusable", "direct"),
        (TrafficType::Workload, "direct", "Unusable"),
        (TrafficType::None, "direct", "direct"),
    ] {
        let mesh = mesh(traffic, AllowedNamespaces::None);
        assert_eq!((&*service_seen(mesh.clone(), vip(1)), &*workload_seen(mesh, 1)), (service, workload), "{traffic:?}");
    }
    let mut missing = app();
    missing.retain(|r| !matches!(r, Resource::Waypoint(_)));
    assert_eq!(service_seen(missing, vip(1)), "direct");
    assert!(!store(mesh(TrafficType::All, AllowedNamespaces::None)).handle().load().bound);
}

#[test]
fn a_ztunnel_sends_to_a_waypoint_for_one_account_only_what_that_serves() {
    let mesh = |own: WaypointBinding, pods: &[(&str, u8)]| {
        let mut mesh = vec![
            Resource::from(namespace("app", to_waypoint())),
            Resource::from(Waypoint { service_account: Some("a".into()), traffic: TrafficType::All, ..waypoint() }),
            Resource::from(Service { waypoint: own, selector: Some(Labels::from([("app".into(), "s".into())])), ..service("app", "s", 1) }),
        ];
        mesh.extend(
            pods.iter().map(|(account, ip)| Resource::from(Workload { labels: labels(&[("app", "s")]), ..pod("app", account, *ip) })),
        );
        mesh
    };
    for (what, own, pods, want) in [
        ("runs as it", WaypointBinding::Inherit, &[("a", 1)][..], "waypoint"),
        ("one of its pods does", WaypointBinding::Inherit, &[("a", 1), ("b", 2)], "waypoint"),
        ("runs as another", to_waypoint(), &[("b", 2)], "direct"),
        ("scaled to zero, bound itself", to_waypoint(), &[], "waypoint"),
        ("scaled to zero, bound through the namespace", WaypointBinding::Inherit, &[], "direct"),
    ] {
        let mesh = mesh(own, pods);
        assert_eq!(service_seen(mesh.clone(), vip(1)), want, "{what}");
        assert_eq!(is_served(mesh.clone(), vip(1)), want == "waypoint", "{what}");
        for (account, ip) in pods {
            let want = if *account == "a" { "waypoint" } else { "direct" };
            assert_eq!(workload_seen(mesh.clone(), *ip), want, "{what}: {account}");
            assert_eq!(is_served(mesh.clone(), SocketAddr::from(([10, 2, 0, *ip], 1))), want == "waypoint", "{what}: {account}");
        }
    }
}

#[test]
fn a_waypoint_that_does_not_exist_bars_the_way_only_where_one_is_required() {
    let label = |value: &str| NamespaceInfo {
        labels: labels(&[("cairn.dev/require-waypoint", value)]),
        ..namespace("app", WaypointBinding::Inherit)
    };
    let to = |name: &str| WaypointBinding::To(ResourceName::new("app", name));
    let rows = [
        ("nobody asks for it", to("gone"), None, false, "direct"),
        ("the process does", to("gone"), None, true, "Missing"),
        ("the namespace does", to("gone"), Some(label("true")), false, "Missing"),
        ("the namespace says something else", to("gone"), Some(label("yes")), false, "direct"),
        ("none is named", WaypointBinding::None, Some(label("true")), true, "direct"),
        ("it is there", to("waypoint"), Some(label("true")), true, "waypoint"),
    ];
    for (what, waypoint, info, required, expected) in rows {
        let mut resources = app();
        resources.extend(info.map(Resource::from));
        resources.push(Resource::from(Service { waypoint: waypoint.clone(), ..service("app", "a", 1) }));
        resources.push(Resource::from(Workload { waypoint, ..pod("app", "a", 1) }));
        let mut store = Store::new(NodeCompiler::new(Own::Workloads([].into()), ROOT).require_waypoint(required));
        store.apply(resources.into_iter().map(Change::Upsert));
        let snapshot = store.handle().load();
        let service = snapshot.service(vip(1).ip(), "app").expect("the service is known");
        assert_eq!(seen(service.waypoint.as_ref()), expected, "{what}");
    }
}
