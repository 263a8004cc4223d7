//! Each field of a workload.

use super::*;
use crate::model::{
    AppProtocol, ApplicationTunnel, Health, Identity, Labels, Locality, Name, TunnelProtocol, WaypointBinding, WorkloadL4, WorkloadType,
};
use std::net::IpAddr;

fn identity(trust_domain: &str, namespace: &str, account: &str) -> Identity {
    Identity::new(trust_domain, namespace, account).unwrap()
}

#[test]
fn with_all_that_it_can_have() {
    let got = one_workload(|w| {
        *w = proto::Workload {
            uid: "lab/demo/server".into(),
            name: "server".into(),
            namespace: "demo".into(),
            addresses: vec![raw("10.9.0.2"), raw("fd00::2")],
            hostname: "Server.example.".into(),
            network: "west".into(),
            tunnel_protocol: 1,
            trust_domain: "td".into(),
            service_account: "server-sa".into(),
            waypoint: Some(named("demo", "wp.demo.svc.cluster.local", 15008)),
            network_gateway: Some(addressed(on_network("west", "10.9.0.9", None), 15009)),
            node: "n2".into(),
            canonical_name: "canonical".into(),
            canonical_revision: "v1".into(),
            workload_type: 2,
            workload_name: "controller".into(),
            native_tunnel: true,
            application_tunnel: Some(proto::ApplicationTunnel { protocol: 1, port: 15088 }),
            services: [(
                "demo/server.demo.svc.cluster.local".to_owned(),
                proto::PortList { ports: vec![port(443, 0, 5), port(80, 8080, 1)] },
            )]
            .into(),
            authorization_policies: vec!["demo/pol".into(), "istio-system/strict".into()],
            status: 1,
            cluster_id: "c".into(),
            locality: Some(proto::Locality { region: "r".into(), zone: "z".into(), subzone: "s".into() }),
            network_mode: 1,
            extensions: vec![proto::Extension { name: "x".into(), config: None }],
            capacity: Some(3),
        }
    });
    let want = Workload {
        uid: "lab/demo/server".into(),
        name: "server".into(),
        namespace: "demo".into(),
        identity: identity("td", "demo", "server-sa"),
        addresses: vec!["10.9.0.2".parse().unwrap(), "fd00::2".parse().unwrap()],
        protocol: TunnelProtocol::Hbone,
        node: "n2".into(),
        locality: Locality { region: "r".into(), zone: "z".into(), subzone: "s".into() },
        health: Health::Unhealthy,
        labels: Labels::new(),
        waypoint: WaypointBinding::At(GatewayAddress {
            destination: GatewayDestination::Hostname(key("demo", "wp.demo.svc.cluster.local")),
            port: 15008,
        }),
        canonical_name: "canonical".into(),
        canonical_revision: "v1".into(),
        workload_name: "controller".into(),
        workload_type: WorkloadType::Pod,
        cluster: "c".into(),
        host_network: true,
        ports: Vec::new(),
        gateway: None,
        l4: WorkloadL4 {
            network: Some("west".into()),
            gateway: Some(GatewayAddress { destination: GatewayDestination::Address(at(Some("west"), "10.9.0.9")), port: 15009 }),
            hostname: Some(Hostname::new("server.example")),
            capacity: 3,
            application_tunnel: Some(ApplicationTunnel { proxy_protocol: true, port: Some(15088) }),
            services: vec![(key("demo", "server.demo.svc.cluster.local"), vec![(80, 8080), (443, 0)])],
            policies: vec![ResourceName::new("demo", "pol"), ResourceName::new("istio-system", "strict")],
        },
    };
    assert_eq!(got, want);
}

#[test]
fn what_is_left_out() {
    let workload = one_workload(|_| {});
    assert_eq!((&*workload.name, &*workload.node, &*workload.cluster), ("", "", "Kubernetes"));
    assert_eq!(workload.identity, identity("cluster.local", "demo", "default"));
    assert_eq!((workload.protocol, workload.health, workload.host_network), (TunnelProtocol::None, Health::Healthy, false));
    assert_eq!((workload.workload_type, workload.waypoint), (WorkloadType::Deployment, WaypointBinding::None));
    assert_eq!((workload.locality, workload.addresses), (Locality::default(), Vec::new()));
    assert_eq!(workload.l4, WorkloadL4::default());
}

#[test]
fn each_word_of_a_workload() {
    for (number, want) in [(0, TunnelProtocol::None), (1, TunnelProtocol::Hbone)] {
        assert_eq!(one_workload(|w| w.tunnel_protocol = number).protocol, want);
    }
    // Of what is not known there is no harm in taking it for a deployment.
    let types = [
        (0, WorkloadType::Deployment),
        (1, WorkloadType::CronJob),
        (2, WorkloadType::Pod),
        (3, WorkloadType::Job),
        (4, WorkloadType::Deployment),
        (-1, WorkloadType::Deployment),
    ];
    for (number, want) in types {
        assert_eq!(one_workload(|w| w.workload_type = number).workload_type, want, "{number}");
    }
    for (number, want) in [(0, Health::Healthy), (1, Health::Unhealthy)] {
        assert_eq!(one_workload(|w| w.status = number).health, want);
    }
    for (number, want) in [(0, false), (1, true)] {
        assert_eq!(one_workload(|w| w.network_mode = number).host_network, want);
    }
    for ((protocol, port), proxy_protocol, want) in
        [((0, 0), false, None), ((0, 8080), false, Some(8080)), ((1, 65535), true, Some(65535)), ((1, 0), true, None)]
    {
        let got = one_workload(|w| w.application_tunnel = Some(proto::ApplicationTunnel { protocol, port }));
        assert_eq!(got.l4.application_tunnel, Some(ApplicationTunnel { proxy_protocol, port: want }));
    }
    for (capacity, want) in [(None, 1), (Some(0), 0), (Some(7), 7), (Some(u32::MAX), u32::MAX)] {
        assert_eq!(one_workload(|w| w.capacity = capacity).l4.capacity, want);
    }
}

#[test]
fn addresses() {
    let of = |raw: &[&'static [u8]]| one_workload(|w| w.addresses = raw.iter().copied().map(Bytes::from_static).collect()).addresses;
    let ips = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpAddr>>();
    assert_eq!(of(&[]), ips(&[]));
    assert_eq!(of(&[&[0; 4], &[255; 4], &[0; 16]]), ips(&["0.0.0.0", "255.255.255.255", "::"]));
    let mapped = &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 1];
    assert_eq!(of(&[&[10, 0, 0, 1], mapped]), ips(&["10.0.0.1", "10.0.0.1"]));
}

#[test]
fn our_own_network_has_no_name_in_the_model() {
    let network = |own: &str, network: &str| {
        let mut decoder = Decoder::new(Config { network: own.into(), ..config() });
        let workload = decoded_workload(&mut decoder, proto::Workload { network: network.into(), ..workload() }).unwrap();
        workload.l4.network
    };
    assert_eq!(network("", ""), None);
    assert_eq!(network("", "west").as_deref(), Some("west"));
    assert_eq!(network("west", "west"), None);
    assert_eq!(network("west", "east").as_deref(), Some("east"));
    // Not the same as ours, once ours has a name.
    assert_eq!(network("west", "").as_deref(), Some(""));
}

#[test]
fn services_and_their_ports() {
    let services = |pairs: &[(&str, &[proto::Port])]| {
        one_workload(|w| {
            w.services = pairs.iter().map(|(key, ports)| ((*key).to_owned(), proto::PortList { ports: ports.to_vec() })).collect();
        })
        .l4
        .services
    };
    let got = services(&[("b/B.example.", &[port(443, 0, 0), port(80, 1, 0)]), ("a/a.example", &[])]);
    assert_eq!(got, [(key("a", "a.example"), vec![]), (key("b", "b.example"), vec![(80, 1), (443, 0)])]);
    // As TCP and as UDP.
    let got = services(&[("a/dns", &[port(53, 1053, 0), port(9153, 9153, 0), port(53, 2053, 0)])]);
    assert_eq!(got, [(key("a", "dns"), vec![(53, 2053), (9153, 9153)])]);
    let got = services(&[("a/b", &[port(1, 65535, 0), port(65535, 1, 5)])]);
    assert_eq!(got, [(key("a", "b"), vec![(1, 65535), (65535, 1)])]);
}

#[test]
fn places() {
    let place = |own: &str, gateway: proto::GatewayAddress| {
        let mut decoder = Decoder::new(Config { network: own.into(), ..config() });
        let message = proto::Workload { waypoint: Some(gateway.clone()), network_gateway: Some(gateway), ..workload() };
        let workload = decoded_workload(&mut decoder, message).unwrap();
        let gateway = workload.l4.gateway.unwrap();
        assert_eq!(workload.waypoint, WaypointBinding::At(gateway.clone()));
        (gateway.destination, gateway.port)
    };
    let address = |network, ip| GatewayDestination::Address(at(network, ip));
    let rows = [
        ("", addressed(on_network("", "10.0.0.9", None), 1), address(None, "10.0.0.9"), 1),
        ("west", addressed(on_network("west", "10.0.0.9", None), 15008), address(None, "10.0.0.9"), 15008),
        ("west", addressed(on_network("east", "fd00::9", None), 65535), address(Some("east"), "fd00::9"), 65535),
        ("", addressed(on_network("", "::ffff:10.0.0.9", None), 1), address(None, "10.0.0.9"), 1),
        ("", addressed(on_network("", "10.0.0.9", Some(32)), 1), address(None, "10.0.0.9"), 1),
        ("", addressed(on_network("", "fd00::9", Some(128)), 1), address(None, "fd00::9"), 1),
        ("", named("istio-gateways", "East.example", 1), GatewayDestination::Hostname(key("istio-gateways", "east.example")), 1),
    ];
    for (own, gateway, want, port) in rows {
        assert_eq!(place(own, gateway), (want, port));
    }
}

#[test]
fn what_refuses_a_workload() {
    let with_service =
        |text: &str, ports: Vec<proto::Port>| refused_workload(|w| drop(w.services.insert(text.to_owned(), proto::PortList { ports })));
    let with_waypoint = |gateway: proto::GatewayAddress| refused_workload(|w| w.waypoint = Some(gateway));
    let tunnel = |protocol, port| refused_workload(|w| w.application_tunnel = Some(proto::ApplicationTunnel { protocol, port }));
    let rows = [
        (refused_workload(|w| w.uid.clear()), "uid: must not be empty"),
        (refused_workload(|w| w.namespace.clear()), "namespace: \"\" cannot be part of an identity"),
        (refused_workload(|w| w.namespace = "a/b".into()), "namespace: \"a/b\" cannot be part of an identity"),
        (refused_workload(|w| w.trust_domain = "a b".into()), "trust_domain: \"a b\" cannot be part of an identity"),
        (refused_workload(|w| w.service_account = "a?b".into()), "service_account: \"a?b\" cannot be part of an identity"),
        (
            refused_workload(|w| (w.trust_domain, w.service_account) = ("t".repeat(1200), "s".repeat(1200))),
            "the parts of the identity are too long together",
        ),
        (refused_workload(|w| w.addresses = vec![raw("10.0.0.1"), Bytes::new()]), "addresses[1]: an IP address has 4 or 16 bytes, not 0"),
        (refused_workload(|w| w.addresses = vec![Bytes::from_static(&[1; 5])]), "addresses[0]: an IP address has 4 or 16 bytes, not 5"),
        (refused_workload(|w| w.addresses = vec![Bytes::from_static(&[1; 17])]), "addresses[0]: an IP address has 4 or 16 bytes, not 17"),
        (refused_workload(|w| w.tunnel_protocol = 2), "tunnel_protocol: LEGACY_ISTIO_MTLS is not spoken"),
        (refused_workload(|w| w.tunnel_protocol = 3), "tunnel_protocol: 3 is no value that is known"),
        (refused_workload(|w| w.tunnel_protocol = -1), "tunnel_protocol: -1 is no value that is known"),
        (refused_workload(|w| w.status = 2), "status: 2 is no value that is known"),
        (refused_workload(|w| w.network_mode = 2), "network_mode: 2 is no value that is known"),
        (refused_workload(|w| w.hostname = ".".into()), "hostname: \".\" is not a host name"),
        (tunnel(2, 0), "application_tunnel.protocol: 2 is no value that is known"),
        (tunnel(1, 65536), "application_tunnel.port: 65536 is not a port between 1 and 65535"),
        (with_service("s", vec![]), "services[\"s\"]: the key is not NAMESPACE/HOSTNAME"),
        (with_service("/s", vec![]), "services[\"/s\"]: the key is not NAMESPACE/HOSTNAME"),
        (with_service("a/", vec![]), "services[\"a/\"]: the key is not NAMESPACE/HOSTNAME"),
        (with_service("a/.", vec![]), "services[\"a/.\"]: the key is not NAMESPACE/HOSTNAME"),
        (with_service("a/b/c", vec![]), "services[\"a/b/c\"]: the key is not NAMESPACE/HOSTNAME"),
        (with_service("a/b", vec![port(0, 80, 0)]), "services[\"a/b\"].ports[0].service_port: port 0 is none"),
        (
            with_service("a/b", vec![port(1, 1, 0), port(65536, 80, 0)]),
            "services[\"a/b\"].ports[1].service_port: 65536 is not a port between 1 and 65535",
        ),
        (
            with_service("a/b", vec![port(80, u32::MAX, 0)]),
            "services[\"a/b\"].ports[0].target_port: 4294967295 is not a port between 1 and 65535",
        ),
        (with_service("a/b", vec![port(80, 80, 6)]), "services[\"a/b\"].ports[0].app_protocol: 6 is no value that is known"),
        (
            refused_workload(|w| w.services = [("a/b".to_owned(), Default::default()), ("a/B.".to_owned(), Default::default())].into()),
            "services[\"a/b\"]: another key means the same service",
        ),
        (refused_workload(|w| w.authorization_policies = vec!["p".into()]), "authorization_policies[0]: \"p\" is not NAMESPACE/NAME"),
        (
            refused_workload(|w| w.authorization_policies = vec!["a/p".into(), "a/".into()]),
            "authorization_policies[1]: \"a/\" is not NAMESPACE/NAME",
        ),
        (
            with_waypoint(proto::GatewayAddress { hbone_mtls_port: 1, destination: None }),
            "waypoint.destination: neither a host name nor an address",
        ),
        (with_waypoint(named("a", "b", 0)), "waypoint.hbone_mtls_port: port 0 is none"),
        (with_waypoint(named("a", "b", 65536)), "waypoint.hbone_mtls_port: 65536 is not a port between 1 and 65535"),
        (with_waypoint(named("", "b", 1)), "waypoint.hostname.namespace: must not be empty"),
        (with_waypoint(named("a", "", 1)), "waypoint.hostname.hostname: must not be empty"),
        (with_waypoint(named("a", ".", 1)), "waypoint.hostname.hostname: \".\" is not a host name"),
        (with_waypoint(named("a/b", "c", 1)), "waypoint.hostname.namespace: \"a/b\" has a '/'"),
        (
            with_waypoint(addressed(on_network("", "10.0.0.9", Some(31)), 1)),
            "waypoint.address.length: 10.0.0.9/31 is a range, and a single address is needed",
        ),
        (with_waypoint(addressed(proto::NetworkAddress::default(), 1)), "waypoint.address.address: an IP address has 4 or 16 bytes, not 0"),
        (refused_workload(|w| w.network_gateway = Some(named("a", "b", 0))), "network_gateway.hbone_mtls_port: port 0 is none"),
    ];
    for (got, want) in rows {
        assert_eq!(got, want);
    }
}

#[test]
fn what_a_service_port_speaks_does_not_matter_to_a_workload() {
    let of = |protocol| one_workload(|w| drop(w.services.insert("a/b".into(), proto::PortList { ports: vec![port(80, 80, protocol)] })));
    for protocol in 0..=5 {
        assert_eq!(of(protocol), of(0));
    }
    // It does to a service.
    let speaks = |protocol| one_service(|s| s.ports = vec![port(80, 80, protocol)]).ports[0].protocol;
    let all = [AppProtocol::Unspecified, AppProtocol::Http, AppProtocol::Http2, AppProtocol::Grpc, AppProtocol::Tcp, AppProtocol::Tls];
    assert_eq!([0, 1, 2, 3, 4, 5].map(speaks), all);
    assert_eq!(one_service(|s| s.ports = vec![port(80, 80, 0)]).ports[0].name, Name::from(""));
}
