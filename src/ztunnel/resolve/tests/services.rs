//! Which service an address means (contract, 2.4), and what leads back.

use super::{worlds::*, *};

/// Clients in two namespaces.
fn with(services: &[String]) -> World {
    let mut items = vec![w("client", "10.0.0.1", "protocol: HBONE"), w("stranger", "10.0.0.2", "namespace: other")];
    items.extend_from_slice(services);
    World::new(&items)
}

/// The service that is meant, told by its host name: none of them has an endpoint.
fn meant(world: &World, client: &str, dst: &str) -> String {
    let snapshot = world.snapshot();
    let client = snapshot.workload_by_uid(client).unwrap();
    let service = snapshot.service(dst.parse().unwrap(), &client.workload.namespace);
    service.map(|found| format!("{}/{}", found.service.key.namespace, found.service.source.name.name)).unwrap_or_default()
}

#[test]
fn one_address_of_several_services() {
    let at = "/10.1.0.1";
    let service = |name: &str, more: &str| s(name, at, "80: 8080", more);
    for (what, services, of_demo, of_other) in [
        ("one", vec![service("a", "")], "demo/a", "demo/a"),
        ("one of each namespace", vec![service("a", ""), service("b", "namespace: other")], "demo/a", "other/b"),
        (
            "one's own comes before a canonical one",
            vec![service("a", ""), service("b", "namespace: other, canonical: true")],
            "demo/a",
            "other/b",
        ),
        (
            "a canonical one comes before others",
            vec![service("a", "namespace: x"), service("b", "namespace: y, canonical: true")],
            "y/b",
            "y/b",
        ),
        ("else the first", vec![service("b", "namespace: y"), service("a", "namespace: x")], "x/a", "x/a"),
        (
            "not those that cannot be seen",
            vec![service("a", "namespace: x, canonical: true, visibility: Namespace"), service("b", "namespace: y")],
            "y/b",
            "y/b",
        ),
        ("one's own can be seen", vec![service("a", "visibility: Namespace")], "demo/a", ""),
        (
            "a ServiceEntry comes after a Service",
            vec![service("a", "namespace: x, hostname: a.example"), service("b", "namespace: y")],
            "y/b",
            "y/b",
        ),
    ] {
        let world = with(&services);
        assert_eq!((&*meant(&world, "client", "10.1.0.1"), &*meant(&world, "stranger", "10.1.0.1")), (of_demo, of_other), "{what}");
    }
    let hidden = with(&[service("a", "visibility: Namespace")]);
    assert_eq!(hidden.decide("client", "10.1.0.1:80"), "no healthy upstream");
    assert_eq!(hidden.decide("stranger", "10.1.0.1:80"), "passthrough 10.1.0.1:80");
}

#[test]
fn ranges() {
    let range = |name: &str, range: &str, more: &str| s(name, range, "80: 8080", more);
    let wide = || range("wide", "/10.1.0.0/16", "");
    for (what, services, dst, of_demo, of_other) in [
        ("inside", vec![wide()], "10.1.2.3", "demo/wide", "demo/wide"),
        ("outside", vec![wide()], "10.2.0.1", "", ""),
        ("the last", vec![wide()], "10.1.255.255", "demo/wide", "demo/wide"),
        ("mapped", vec![wide()], "::ffff:10.1.2.3", "demo/wide", "demo/wide"),
        (
            "the longest prefix",
            vec![wide(), range("narrow", "/10.1.2.0/24", "namespace: x"), range("wider", "/10.0.0.0/8", "namespace: x")],
            "10.1.2.3",
            "demo/wide",
            "x/narrow",
        ),
        ("of one's own, too", vec![wide(), range("narrow", "/10.1.2.0/24", "")], "10.1.2.3", "demo/narrow", "demo/narrow"),
        (
            "an exact address comes before a range",
            vec![range("narrow", "/10.1.2.0/24", ""), s("exact", "/10.1.2.3", "80: 80", "namespace: x")],
            "10.1.2.3",
            "x/exact",
            "x/exact",
        ),
        (
            "the same range: a canonical one",
            vec![range("a", "/10.1.0.0/16", "namespace: x"), range("b", "/10.1.0.0/16", "namespace: y, canonical: true")],
            "10.1.2.3",
            "y/b",
            "y/b",
        ),
        (
            "a longer prefix comes before a canonical one",
            vec![range("a", "/10.1.2.0/24", "namespace: x"), range("b", "/10.1.0.0/16", "namespace: y, canonical: true")],
            "10.1.2.3",
            "x/a",
            "x/a",
        ),
        (
            "not one that cannot be seen",
            vec![range("narrow", "/10.1.2.0/24", "visibility: Namespace"), range("wide", "/10.1.0.0/16", "namespace: x")],
            "10.1.2.3",
            "demo/narrow",
            "x/wide",
        ),
        ("IPv6", vec![range("six", "'/fd01::/64'", "")], "fd01::7", "demo/six", "demo/six"),
        ("another family's zeros", vec![range("all", "'/::/0'", "")], "10.1.2.3", "", ""),
        ("everything", vec![range("all", "/0.0.0.0/0", "")], "192.0.2.1", "demo/all", "demo/all"),
        ("of another network", vec![range("far", "east/10.1.0.0/16", "")], "10.1.2.3", "", ""),
    ] {
        let world = with(&services);
        assert_eq!((&*meant(&world, "client", dst), &*meant(&world, "stranger", dst)), (of_demo, of_other), "{what}");
    }
    // One that leaves addresses alone does not lead around what workloads inside of it ask for.
    let alone = with(&[
        range("wide", "/10.0.0.0/8", "loadBalancer: {mode: Passthrough}"),
        w("tunnelled", "10.0.0.7", "protocol: HBONE"),
        w("guarded", "10.0.0.8", &place("waypoint", "/10.0.0.9", 15008)),
        w("wp", "10.0.0.9", "protocol: HBONE"),
    ]);
    for (dst, want) in [
        ("10.0.0.7:80", "hbone 10.0.0.7:80 via 10.0.0.7:15008 as tunnelled"),
        ("10.0.0.8:80", "waypoint 10.0.0.8:80 via 10.0.0.9:15008 as wp"),
        ("10.0.7.7:80", "passthrough 10.0.7.7:80"),
    ] {
        assert_eq!(alone.decide("client", dst), format!("{want} for {}", host("wide")), "{dst}");
    }
    // A range is a service like any other.
    let world = with(&[range("wide", "/10.1.0.0/16", ""), w("pod", "10.0.0.9", &of("wide", ""))]);
    assert_eq!(world.decide("client", "10.1.2.3:80"), format!("plain 10.0.0.9:8080 for {}", host("wide")));
    let routed = with(&[range("wide", "/10.1.0.0/16", &place("waypoint", "/10.0.0.9", 15008)), w("wp", "10.0.0.9", "protocol: HBONE")]);
    assert_eq!(routed.decide("client", "10.1.2.3:80"), format!("waypoint 10.1.2.3:80 via 10.0.0.9:15008 as wp for {}", host("wide")));
}

#[test]
fn one_host_name_of_several_namespaces() {
    let world = with(&[
        s("a", "/10.1.0.1", "80: 8080", "hostname: api.example"),
        s("b", "/10.1.0.2", "80: 8080", "hostname: api.example, namespace: other"),
        s("c", "/10.1.0.3", "80: 8080", "hostname: api.example, namespace: third, canonical: true"),
        w("pod-a", "10.0.0.11", "services: {demo/api.example: {}}"),
        w("pod-b", "10.0.0.12", "services: {other/api.example: {}}"),
        w("pod-c", "10.0.0.13", "services: {third/api.example: {}}"),
    ]);
    // Each has its own endpoints.
    for (dst, want) in [("10.1.0.1:80", "10.0.0.11:8080"), ("10.1.0.2:80", "10.0.0.12:8080"), ("10.1.0.3:80", "10.0.0.13:8080")] {
        assert_eq!(world.dialled("client", dst), want);
    }
    let snapshot = world.snapshot();
    let meant = |client: &str| snapshot.host(&Hostname::new("api.example"), client).map(|s| s.service.key.namespace.to_string());
    assert_eq!([meant("demo"), meant("other"), meant("elsewhere")].map(Option::unwrap), ["demo", "other", "third"]);
}

#[test]
fn nothing_leads_back() {
    let world = with(&[
        s("back", "/10.1.0.1", "80: 15001", ""),
        s("tunnel", "/10.1.0.2", "80: 15008", ""),
        s("fine", "/10.1.0.3", "80: 15001", ""),
        w("self", "10.0.0.3", &format!("services: {{demo/{}: {{}}, demo/{}: {{}}}}", host("back"), host("tunnel"))),
        w("peer", "10.0.0.4", &of("fine", "")),
        s("local", "/10.1.0.4", "80: 15006", ""),
        w("loopback", "127.0.0.1", &of("local", "")),
    ]);
    let back = "the destination is this proxy itself";
    for (what, source, dst, want) in [
        ("an endpoint that is the client", "self", "10.1.0.1:80", back.to_owned()),
        ("at the tunnels' port", "self", "10.1.0.2:80", back.into()),
        ("somebody else's port", "self", "10.1.0.3:80", format!("plain 10.0.0.4:15001 for {}", host("fine"))),
        ("the same from elsewhere", "client", "10.1.0.1:80", format!("plain 10.0.0.3:15001 for {}", host("back"))),
        ("an endpoint on loopback", "client", "10.1.0.4:80", back.into()),
        ("through HBONE", "client", "10.0.0.1:15006", back.into()),
        ("loopback", "client", "127.0.0.1:15080", back.into()),
        ("loopback, mapped", "client", "[::ffff:127.0.0.1]:15001", back.into()),
        ("loopback of IPv6", "client", "[::1]:15008", back.into()),
        ("loopback by another name", "client", "0.0.0.0:15001", back.into()),
        ("the same of IPv6", "client", "[::]:15006", back.into()),
        ("no port of ours there", "client", "0.0.0.0:80", "passthrough 0.0.0.0:80".into()),
    ] {
        assert_eq!(world.decide(source, dst), want, "{what}");
    }
}
