//! Which pods are the endpoints of a service.

use super::*;

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
