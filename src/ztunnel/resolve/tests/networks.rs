//! Endpoints and waypoints on other networks (contract, 1.7 and 2.3 row 5).

use super::{worlds::*, *};

const SANS: &str = "subjectAltNames: [spiffe://cluster.local/ns/demo/sa/far, not-an-identity, spiffe://cluster.local/ns/demo/sa/farther]";
const NO_GATEWAY: &str = "the endpoint is on another network, and that network's gateway cannot be used";

/// A service `far` whose only endpoint is on the network `east`.
fn world(endpoint: &str, service: &str) -> World {
    World::new(&[
        w("client", "10.0.0.1", "protocol: HBONE"),
        w("far", "10.0.0.2", &format!("protocol: HBONE, network: east, {}, {endpoint}", of("far", ""))),
        s("far", "/10.1.0.1", "80: 8080", service),
        w("gateway", "10.0.0.9", &format!("protocol: HBONE, {}", of("gateway", ""))),
        s("gateway", "/10.1.0.9", "15008: 15009", "subjectAltNames: [spiffe://cluster.local/ns/demo/sa/extra]"),
        w("named", "10.0.0.8", "protocol: HBONE, hostname: gateway.example"),
        w("abroad", "192.0.2.9", "protocol: HBONE, network: east"),
        s("abroad", "east/192.0.2.1", "15008: 15008", ""),
        w("abroad-2", "192.0.2.8", &format!("protocol: HBONE, network: east, {}", of("abroad", ""))),
    ])
}

#[test]
fn through_the_gateway_of_its_network() {
    let far = "gateway far.demo.svc.cluster.local:80 via";
    let tail = "inside as far,farther for far.demo.svc.cluster.local";
    for (what, destination, want) in [
        ("by a workload's address", "/10.0.0.9", format!("{far} 10.0.0.9:15008 as gateway, {tail}")),
        ("by a service's address", "/10.1.0.9", format!("{far} 10.0.0.9:15009 as gateway,extra, {tail}")),
        ("by a service's host name", "demo/gateway.demo.svc.cluster.local", format!("{far} 10.0.0.9:15009 as gateway,extra, {tail}")),
        ("by a workload's host name", "demo/gateway.example", format!("{far} 10.0.0.8:15008 as named, {tail}")),
        ("by an address of that network", "east/192.0.2.9", format!("{far} 192.0.2.9:15008 as abroad, {tail}")),
        ("by a service's address of that network", "east/192.0.2.1", format!("{far} 192.0.2.8:15008 as abroad-2, {tail}")),
        ("nobody there", "/10.0.0.77", NO_GATEWAY.into()),
        ("nobody of that name", "demo/nobody.example", NO_GATEWAY.into()),
        ("the address on our own network is not meant", "east/10.0.0.9", NO_GATEWAY.into()),
    ] {
        let world = world(&place("networkGateway", destination, 15008), SANS);
        assert_eq!(world.decide("client", "10.1.0.1:80"), want, "{what}");
    }
    assert_eq!(world("capacity: 1", SANS).decide("client", "10.1.0.1:80"), NO_GATEWAY, "without a gateway");
    let anybody = world(&place("networkGateway", "/10.0.0.9", 15008), "subjectAltNames: [not-an-identity]");
    assert_eq!(anybody.next("client", "10.1.0.1:80", &[]).unwrap_err(), Unresolved::NoIdentity);
}

#[test]
fn an_address_of_another_network_names_nobody_here() {
    let world = world(&place("networkGateway", "/10.0.0.9", 15008), SANS);
    assert_eq!(world.decide("client", "10.0.0.2:80"), "passthrough 10.0.0.2:80");
    assert_eq!(world.decide("client", "192.0.2.1:80"), "passthrough 192.0.2.1:80");
}

#[test]
fn a_remote_endpoint_needs_no_address_but_a_gateway() {
    let remote = |more: &str| {
        World::new(&[
            w("client", "10.0.0.1", "protocol: HBONE"),
            w("far", "", &format!("protocol: HBONE, network: east, {}{more}", of("far", ""))),
            s("far", "/10.1.0.1", "80: 8080", SANS),
            w("gateway", "10.0.0.9", "protocol: HBONE"),
        ])
    };
    let gateway = place(", networkGateway", "/10.0.0.9", 15008);
    let world = remote(&gateway);
    let want = "gateway far.demo.svc.cluster.local:80 via 10.0.0.9:15008 as gateway, inside as far,farther for far.demo.svc.cluster.local";
    assert_eq!(world.decide("client", "10.1.0.1:80"), want);
    assert!(world.next("client", "10.1.0.1:80", &[]).unwrap().next.named().is_none(), "the gateway has an address");
    assert_eq!(remote("").decide("client", "10.1.0.1:80"), "no healthy upstream");
}

#[test]
fn a_gateway_that_must_be_looked_up() {
    let world = World::new(&[
        w("client", "10.0.0.1", "protocol: HBONE"),
        w(
            "far",
            "",
            &format!("protocol: HBONE, network: east, {}, {}", of("far", ""), place("networkGateway", "demo/gateway.example", 15008)),
        ),
        s("far", "/10.1.0.1", "80: 8080", SANS),
        w("gateway", "", "protocol: HBONE, hostname: gateway.example"),
    ]);
    let hop = world.next("client", "10.1.0.1:80", &[]).unwrap().next;
    assert_eq!(hop.named().map(|w| &*w.uid), Some("gateway"));
    let found = hop.at("192.0.2.5".parse().unwrap());
    let want = "gateway far.demo.svc.cluster.local:80 via 192.0.2.5:15008 as gateway, inside as far,farther";
    assert_eq!(told(Ok(Resolved { service: None, next: found })), want);
}

#[test]
fn a_waypoint_on_another_network() {
    let world = |waypoint: &str, gateway: &str| {
        World::new(&[
            w("client", "10.0.0.1", "protocol: HBONE"),
            s("app", "/10.1.0.1", "80: 8080", &place("waypoint", "demo/wp.demo.svc.cluster.local", 15008)),
            s("wp", "/10.1.0.9", "15008: 15008", waypoint),
            w("wp-1", "10.0.0.9", &format!("protocol: HBONE, network: east, {}{gateway}", of("wp", ""))),
            w("gateway", "10.0.0.8", "protocol: HBONE"),
        ])
    };
    let gateway = place(", networkGateway", "/10.0.0.8", 15008);
    // What was meant is the service; who answers in the tunnel inside is its waypoint.
    let want = "gateway app.demo.svc.cluster.local:80 via 10.0.0.8:15008 as gateway, inside as far,farther for app.demo.svc.cluster.local";
    assert_eq!(world(SANS, &gateway).decide("client", "10.1.0.1:80"), want);
    assert_eq!(world(SANS, "").decide("client", "10.1.0.1:80"), NO_GATEWAY);
    assert_eq!(world("canonical: true", &gateway).next("client", "10.1.0.1:80", &[]).unwrap_err(), Unresolved::NoIdentity);
}
