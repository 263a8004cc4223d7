//! Each field of a service.

use super::*;
use crate::model::{
    AppProtocol, IpFamilies, Kind, LoadBalancing, LoadBalancingMode, LocalityScope, ResourceId, ServiceL4, ServicePort, TargetPort,
    Visibility, WaypointBinding,
};

#[test]
fn with_all_that_it_can_have() {
    let got = one_service(|s| {
        *s = proto::Service {
            name: "server".into(),
            namespace: "demo".into(),
            hostname: "server.demo.svc.cluster.local".into(),
            addresses: vec![
                on_network("", "10.96.0.10", None),
                on_network("east", "10.96.0.10", None),
                on_network("", "10.97.0.0", Some(16)),
            ],
            ports: vec![port(443, 0, 5), port(80, 8080, 1)],
            subject_alt_names: vec!["spiffe://cluster.local/ns/demo/sa/other".into()],
            waypoint: Some(addressed(on_network("", "10.9.0.9", None), 15008)),
            load_balancing: Some(proto::LoadBalancing { routing_preference: vec![6, 2], mode: 2, health_policy: 1 }),
            ip_families: 1,
            extensions: vec![proto::Extension { name: "x".into(), config: None }],
            canonical: true,
            ingress_use_waypoint: true,
            weighted_waypoints: vec![proto::WeightedWaypoint { destination: Some(named("demo", "wp.example", 15008)), weight: 3 }],
            visibility: 1,
        }
    });
    let want = Service {
        key: key("demo", "server.demo.svc.cluster.local"),
        source: ResourceId::new(Kind::Service, "demo", "server"),
        vips: vec!["10.96.0.10".parse().unwrap()],
        ports: vec![
            ServicePort { name: "".into(), port: 80, target: TargetPort::Number(8080), protocol: AppProtocol::Http },
            ServicePort { name: "".into(), port: 443, target: TargetPort::Endpoint, protocol: AppProtocol::Tls },
        ],
        selector: None,
        waypoint: WaypointBinding::At(GatewayAddress { destination: GatewayDestination::Address(at(None, "10.9.0.9")), port: 15008 }),
        publish_not_ready: true,
        external: false,
        subject_alt_names: vec!["spiffe://cluster.local/ns/demo/sa/other".into()],
        l4: ServiceL4 {
            ranges: vec!["10.97.0.0/16".parse().unwrap()],
            elsewhere: vec![at(Some("east"), "10.96.0.10")],
            load_balancing: LoadBalancing {
                mode: LoadBalancingMode::Failover,
                preferences: vec![LocalityScope::Network, LocalityScope::Zone],
            },
            ip_families: IpFamilies::Ipv4,
            visibility: Visibility::Namespace,
            canonical: true,
            weighted_waypoints: vec![(
                GatewayAddress { destination: GatewayDestination::Hostname(key("demo", "wp.example")), port: 15008 },
                3,
            )],
        },
    };
    assert_eq!(got, want);
}

#[test]
fn what_is_left_out() {
    let service = one_service(|_| {});
    assert_eq!((service.waypoint, service.publish_not_ready, service.external), (WaypointBinding::None, false, false));
    assert_eq!((service.vips.len(), service.ports.len(), service.subject_alt_names.len()), (0, 0, 0));
    assert_eq!(service.l4, ServiceL4::default());
}

#[test]
fn the_domain_tells_what_declares_it() {
    for (domain, hostname, want) in [
        ("cluster.local", "s.demo.svc.cluster.local", Kind::Service),
        ("cluster.local", "s.demo.svc.example.org", Kind::ServiceEntry),
        ("example.org", "s.demo.svc.example.org", Kind::Service),
        ("cluster.local", "api.example", Kind::ServiceEntry),
        ("cluster.local", "xsvc.cluster.local", Kind::ServiceEntry),
        ("cluster.local", "svc.cluster.local", Kind::ServiceEntry),
        ("cluster.local", "S.demo.SVC.cluster.local.", Kind::Service),
    ] {
        let mut decoder = Decoder::new(Config { cluster_domain: domain.into(), ..config() });
        let got = decoded_service(&mut decoder, proto::Service { hostname: hostname.into(), ..service() }).unwrap();
        assert_eq!(got.source, ResourceId::new(want, "demo", "s"), "{hostname}");
    }
}

#[test]
fn each_word_of_a_service() {
    let balanced = |routing_preference: &[i32], mode, health_policy| {
        let routing_preference = routing_preference.to_vec();
        one_service(|s| s.load_balancing = Some(proto::LoadBalancing { routing_preference, mode, health_policy }))
    };
    let modes = [LoadBalancingMode::Any, LoadBalancingMode::Strict, LoadBalancingMode::Failover, LoadBalancingMode::Passthrough];
    assert_eq!([0, 1, 2, 3].map(|mode| balanced(&[], mode, 0).l4.load_balancing.mode), modes);
    let scopes = [
        LocalityScope::Region,
        LocalityScope::Zone,
        LocalityScope::Subzone,
        LocalityScope::Node,
        LocalityScope::Cluster,
        LocalityScope::Network,
    ];
    assert_eq!(balanced(&[1, 2, 3, 4, 5, 6], 0, 0).l4.load_balancing.preferences, scopes);
    assert_eq!([0, 1].map(|policy| balanced(&[], 0, policy).publish_not_ready), [false, true]);
    let families = [IpFamilies::Automatic, IpFamilies::Ipv4, IpFamilies::Ipv6, IpFamilies::Dual];
    assert_eq!([0, 1, 2, 3].map(|families| one_service(|s| s.ip_families = families).l4.ip_families), families);
    // What is not known is public: whoever asks for less than that says so in a word that is known.
    let visible = [Visibility::Public, Visibility::Namespace, Visibility::Public, Visibility::Public];
    assert_eq!([0, 1, 2, -1].map(|visibility| one_service(|s| s.visibility = visibility).l4.visibility), visible);
}

#[test]
fn addresses_by_network() {
    let places = |addresses: &[proto::NetworkAddress]| {
        let mut decoder = Decoder::new(Config { network: "west".into(), ..config() });
        let service = decoded_service(&mut decoder, proto::Service { addresses: addresses.to_vec(), ..service() }).unwrap();
        let vips: Vec<String> = service.vips.iter().map(ToString::to_string).collect();
        let ranges: Vec<String> = service.l4.ranges.iter().map(ToString::to_string).collect();
        let elsewhere: Vec<String> = service.l4.elsewhere.iter().map(ToString::to_string).collect();
        [vips.join(" "), ranges.join(" "), elsewhere.join(" ")]
    };
    for ((network, address, length), want) in [
        (("west", "10.1.0.1", None), ["10.1.0.1", "", ""]),
        (("west", "::ffff:10.1.0.1", None), ["10.1.0.1", "", ""]),
        (("west", "::ffff:10.1.0.1", Some(128)), ["10.1.0.1", "", ""]),
        (("west", "fd00::1", None), ["fd00::1", "", ""]),
        (("east", "10.1.0.1", None), ["", "", "east/10.1.0.1"]),
        // Not the same as ours, once ours has a name.
        (("", "10.1.0.1", None), ["", "", "/10.1.0.1"]),
        (("west", "10.1.0.0", Some(16)), ["", "10.1.0.0/16", ""]),
        (("west", "10.1.2.3", Some(16)), ["", "10.1.0.0/16", ""]),
        (("west", "10.1.2.3", Some(0)), ["", "0.0.0.0/0", ""]),
        (("west", "10.1.0.1", Some(32)), ["10.1.0.1", "", ""]),
        (("west", "fd00::", Some(64)), ["", "fd00::/64", ""]),
        (("west", "fd00::1", Some(32)), ["", "fd00::/32", ""]),
        (("west", "fd00::1", Some(128)), ["fd00::1", "", ""]),
        (("west", "::ffff:10.1.2.3", Some(112)), ["", "10.1.0.0/16", ""]),
        (("east", "10.1.0.1", Some(32)), ["", "", "east/10.1.0.1"]),
        (("east", "10.1.0.0", Some(16)), ["", "", ""]),
    ] {
        assert_eq!(places(&[on_network(network, address, length)]), want, "{network}/{address} {length:?}");
    }
    let many = [on_network("west", "10.1.0.1", None), on_network("east", "10.1.0.2", None), on_network("west", "10.2.0.0", Some(24))];
    assert_eq!(places(&many), ["10.1.0.1", "10.2.0.0/24", "east/10.1.0.2"]);
}

#[test]
fn ports() {
    let ports = |ports: &[proto::Port]| one_service(|s| s.ports = ports.to_vec()).ports;
    let one = |port, target, protocol| ServicePort { name: "".into(), port, target, protocol };
    assert_eq!(
        ports(&[port(65535, 1, 0), port(1, 65535, 4)]),
        [one(1, TargetPort::Number(65535), AppProtocol::Tcp), one(65535, TargetPort::Number(1), AppProtocol::Unspecified),]
    );
    // As TCP and as UDP.
    assert_eq!(
        ports(&[port(53, 1053, 4), port(80, 0, 0), port(53, 2053, 0)]),
        [one(53, TargetPort::Number(2053), AppProtocol::Unspecified), one(80, TargetPort::Endpoint, AppProtocol::Unspecified)]
    );
}

#[test]
fn what_refuses_a_service() {
    let with_ports = |ports: &[proto::Port]| refused_service(|s| s.ports = ports.to_vec());
    let with_address = |address| refused_service(|s| s.addresses = vec![on_network("", "10.0.0.1", None), address]);
    let balanced = |routing_preference: &[i32], mode, health_policy| {
        let routing_preference = routing_preference.to_vec();
        refused_service(|s| s.load_balancing = Some(proto::LoadBalancing { routing_preference, mode, health_policy }))
    };
    let weighted = |destination| refused_service(|s| s.weighted_waypoints = vec![proto::WeightedWaypoint { destination, weight: 1 }]);
    let short = proto::NetworkAddress { address: Bytes::from_static(&[10, 0, 0]), ..Default::default() };
    let rows = [
        (refused_service(|s| s.name.clear()), "name: must not be empty"),
        (refused_service(|s| s.namespace.clear()), "namespace: must not be empty"),
        (refused_service(|s| s.namespace = "a/b".into()), "namespace: \"a/b\" has a '/'"),
        (refused_service(|s| s.hostname.clear()), "hostname: must not be empty"),
        (refused_service(|s| s.hostname = "..".into()), "hostname: \"..\" is not a host name"),
        (refused_service(|s| s.hostname = "a/b".into()), "hostname: \"a/b\" has a '/'"),
        (with_address(short), "addresses[1].address: an IP address has 4 or 16 bytes, not 3"),
        (with_address(on_network("", "10.0.0.1", Some(33))), "addresses[1].length: 10.0.0.1 has no prefix of 33 bits"),
        (with_address(on_network("east", "10.0.0.1", Some(33))), "addresses[1].length: 10.0.0.1 has no prefix of 33 bits"),
        (with_address(on_network("", "fd00::1", Some(129))), "addresses[1].length: fd00::1 has no prefix of 129 bits"),
        (with_address(on_network("", "10.0.0.1", Some(256 + 16))), "addresses[1].length: 10.0.0.1 has no prefix of 272 bits"),
        (with_ports(&[port(0, 80, 0)]), "ports[0].service_port: port 0 is none"),
        (with_ports(&[port(80, 80, 0), port(65536, 80, 0)]), "ports[1].service_port: 65536 is not a port between 1 and 65535"),
        (with_ports(&[port(80, 65536, 0)]), "ports[0].target_port: 65536 is not a port between 1 and 65535"),
        (with_ports(&[port(80, 80, 6)]), "ports[0].app_protocol: 6 is no value that is known"),
        (
            refused_service(|s| s.waypoint = Some(proto::GatewayAddress { hbone_mtls_port: 15008, destination: None })),
            "waypoint.destination: neither a host name nor an address",
        ),
        (refused_service(|s| s.waypoint = Some(named("a", "b", 0))), "waypoint.hbone_mtls_port: port 0 is none"),
        (weighted(None), "weighted_waypoints[0].destination: must be there"),
        (
            weighted(Some(named("a", "b", 70000))),
            "weighted_waypoints[0].destination.hbone_mtls_port: 70000 is not a port between 1 and 65535",
        ),
        (balanced(&[0], 0, 0), "load_balancing.routing_preference[0]: UNSPECIFIED_SCOPE is none"),
        (balanced(&[1, 7], 0, 0), "load_balancing.routing_preference[1]: 7 is no value that is known"),
        (balanced(&[], 4, 0), "load_balancing.mode: 4 is no value that is known"),
        (balanced(&[], 0, 2), "load_balancing.health_policy: 2 is no value that is known"),
        (refused_service(|s| s.ip_families = 4), "ip_families: 4 is no value that is known"),
    ];
    for (got, want) in rows {
        assert_eq!(got, want);
    }
}
