//! What a waypoint is asked for and admits.

use super::*;

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
