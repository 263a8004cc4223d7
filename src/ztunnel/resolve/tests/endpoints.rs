//! Which endpoint of a service, and where it is dialled (contract, 2.4).

use super::{worlds::*, *};

fn hbone(more: &str) -> String {
    if more.is_empty() { "protocol: HBONE".into() } else { format!("protocol: HBONE, {more}") }
}

fn with(items: &[String]) -> World {
    let mut all = vec![w("client", "10.0.0.1", "protocol: HBONE, node: n1, clusterId: c1, locality: {region: r1, zone: z1, subzone: s1}")];
    all.extend_from_slice(items);
    World::new(&all)
}

#[test]
fn how_an_endpoint_is_reached() {
    let world = with(&[
        w("pod", "10.0.0.2", &hbone(&of("hbone", ""))),
        w("legacy", "10.0.0.3", &of("plain", "")),
        w("host", "10.0.0.4", &format!("networkMode: HostNetwork, {}", of("host", ""))),
        w("host-hbone", "10.0.0.4", &hbone(&format!("networkMode: HostNetwork, {}", of("host-hbone", "")))),
        s("hbone", "/10.1.0.1", "80: 8080", "subjectAltNames: [spiffe://cluster.local/ns/demo/sa/extra]"),
        s("plain", "/10.1.0.2", "80: 8080", ""),
        s("host", "/10.1.0.3", "80: 8080", ""),
        s("host-hbone", "/10.1.0.4", "80: 8080", ""),
        s("empty", "/10.1.0.5", "80: 8080", ""),
        s("past", "/10.1.0.6", "80: 8080", "loadBalancer: {mode: Passthrough}"),
        s("headless", "", "80: 8080", ""),
    ]);
    let for_service = |told: &str, name: &str| format!("{told} for {}", host(name));
    for (what, dst, want) in [
        ("HBONE", "10.1.0.1:80", for_service("hbone 10.0.0.2:8080 via 10.0.0.2:15008 as pod,extra", "hbone")),
        ("plain", "10.1.0.2:80", for_service("plain 10.0.0.3:8080", "plain")),
        ("on a node's network, as an endpoint", "10.1.0.3:80", for_service("plain 10.0.0.4:8080", "host")),
        (
            "on a node's network through HBONE",
            "10.1.0.4:80",
            for_service("hbone 10.0.0.4:8080 via 10.0.0.4:15008 as host-hbone", "host-hbone"),
        ),
        ("on a node's network, by the address", "10.0.0.4:8080", "passthrough 10.0.0.4:8080".into()),
        ("none", "10.1.0.5:80", "no healthy upstream".into()),
        ("not a port of the service", "10.1.0.1:81", "no healthy upstream: the service does not declare the port".into()),
        ("not a port, and none to serve it", "10.1.0.5:81", "no healthy upstream: the service does not declare the port".into()),
        ("left alone", "10.1.0.6:80", for_service("passthrough 10.1.0.6:80", "past")),
        ("left alone, whatever the port", "10.1.0.6:81", for_service("passthrough 10.1.0.6:81", "past")),
        ("a workload by its address", "10.0.0.2:9", "hbone 10.0.0.2:9 via 10.0.0.2:15008 as pod".into()),
        ("a plain workload by its address", "10.0.0.3:9", "plain 10.0.0.3:9".into()),
        ("nobody", "192.0.2.1:443", "passthrough 192.0.2.1:443".into()),
    ] {
        assert_eq!(world.decide("client", dst), want, "{what}");
    }
}

#[test]
fn target_ports() {
    let world = with(&[
        w("own", "10.0.0.2", &of("app", "80: 8081, 443: 8443")),
        w("theirs", "10.0.0.3", &of("app", "")),
        w("zero", "10.0.0.4", &of("app", "80: 0, 443: 0")),
        w("tunnel", "10.0.0.5", &format!("applicationTunnel: {{protocol: PROXY, port: 15088}}, {}", of("app", ""))),
        w("tunnel-same", "10.0.0.6", &format!("applicationTunnel: {{protocol: PROXY}}, {}", of("app", ""))),
        s("app", "/10.1.0.1", "80: 8080, 443: 0", ""),
    ]);
    // The endpoint's own, else the service's, else the port itself where a tunnel takes all.
    assert_eq!(world.dialled("client", "10.1.0.1:80"), "10.0.0.2:8081 10.0.0.3:8080 10.0.0.4:8080 10.0.0.5:8080 10.0.0.6:8080");
    // A named port: only who gives it a number serves it.
    assert_eq!(world.dialled("client", "10.1.0.1:443"), "10.0.0.2:8443 10.0.0.5:443");
    assert_eq!(world.dialled("client", "10.1.0.1:81"), "no healthy upstream: the service does not declare the port");
}

#[test]
fn capacity_is_a_share() {
    let shares = |capacities: &[u32]| {
        let mut items = vec![s("app", "/10.1.0.1", "80: 8080", "")];
        items.extend(
            capacities
                .iter()
                .zip(2..)
                .map(|(capacity, n)| w(&format!("pod-{n}"), &format!("10.0.0.{n}"), &format!("capacity: {capacity}, {}", of("app", "")))),
        );
        with(&items).shares("client", "10.1.0.1:80")
    };
    let drawn = shares(&[1, 3, 0]);
    assert_eq!(drawn.len(), 2, "{drawn:?}");
    assert!(drawn.iter().any(|(told, n)| told.contains("10.0.0.3:") && (650..850).contains(n)), "{drawn:?}");
    assert_eq!(shares(&[0, 0]).into_keys().collect::<Vec<_>>(), ["no healthy upstream"]);
}

#[test]
fn unhealthy_endpoints_serve_where_all_are_allowed() {
    for (policy, want) in [("OnlyHealthy", "10.0.0.2:8080"), ("AllowAll", "10.0.0.2:8080 10.0.0.3:8080")] {
        let world = with(&[
            w("well", "10.0.0.2", &of("app", "")),
            w("ill", "10.0.0.3", &format!("status: Unhealthy, {}", of("app", ""))),
            s("app", "/10.1.0.1", "80: 8080", &format!("loadBalancer: {{healthPolicy: {policy}}}")),
        ]);
        assert_eq!(world.dialled("client", "10.1.0.1:80"), want, "{policy}");
        // By its address it is dialled in any case.
        assert_eq!(world.decide("client", "10.0.0.3:9"), "plain 10.0.0.3:9");
    }
}

#[test]
fn near_endpoints_come_first() {
    let pod = |n: u8, place: &str| w(&format!("pod-{n}"), &format!("10.0.0.{n}"), &format!("{place}, {}", of("app", "")));
    let place = |region: &str, zone: &str, subzone: &str, node: &str, cluster: &str| {
        format!("locality: {{region: {region}, zone: {zone}, subzone: {subzone}}}, node: {node}, clusterId: {cluster}")
    };
    let pods = |which: &[u8]| {
        let all = [
            (2, place("r1", "z1", "s1", "n1", "c1")),
            (3, place("r1", "z1", "s1", "n2", "c1")),
            (4, place("r1", "z1", "s2", "n3", "c1")),
            (5, place("r1", "z2", "s3", "n4", "c2")),
            (6, place("r2", "z3", "s4", "n5", "c2")),
            // The zone's name is the client's, the region is not.
            (7, place("r2", "z1", "s4", "n6", "c2")),
            (8, place("r1", "z1", "s1", "n1", "c1") + ", capacity: 0"),
        ];
        all.into_iter().filter(|(n, _)| which.contains(n)).map(|(n, place)| pod(n, &place)).collect::<Vec<_>>()
    };
    let rows: [(&str, &str, &str, &[u8], &str); 14] = [
        ("Standard", "Region, Zone", "preferences have no meaning", &[2, 6], "2 6"),
        ("Failover", "", "none: all are alike", &[2, 6], "2 6"),
        ("Failover", "Region, Zone", "the most leading matches", &[2, 3, 4, 5, 6], "2 3 4"),
        ("Failover", "Region, Zone", "the next best", &[5, 6], "5"),
        ("Failover", "Region, Zone", "in the end anywhere", &[6], "6"),
        ("Failover", "Region, Zone, Subzone, Node", "the same node", &[2, 3, 4], "2"),
        ("Failover", "Region, Zone", "a match behind one that fails does not count", &[6, 7], "6 7"),
        ("Failover", "Zone", "each scope for itself", &[6, 7], "7"),
        ("Failover", "Node", "without capacity it is no alternative", &[3, 8], "3"),
        ("Failover", "Cluster", "the cluster", &[4, 5, 6], "4"),
        ("Strict", "Region, Zone", "only full matches", &[2, 4, 5, 6], "2 4"),
        ("Strict", "Region, Zone", "or none", &[5, 6], ""),
        ("Strict", "Node", "without capacity there is none", &[3, 8], ""),
        ("Strict", "", "none: all match", &[2, 6], "2 6"),
    ];
    for (mode, preferences, what, which, want) in rows {
        let mut items = pods(which);
        items.push(s("app", "/10.1.0.1", "80: 8080", &format!("loadBalancer: {{mode: {mode}, routingPreferences: [{preferences}]}}")));
        let want = want.split_whitespace().map(|n| format!("10.0.0.{n}:8080")).collect::<Vec<_>>().join(" ");
        let want = if want.is_empty() { "no healthy upstream".to_owned() } else { want };
        assert_eq!(with(&items).dialled("client", "10.1.0.1:80"), want, "{mode} [{preferences}]: {what}");
    }
}

#[test]
fn our_own_network_comes_before_any_distance_on_it() {
    let chosen = |mode: &str, preferences: &str, which: &[&str]| {
        let pod = |name: &str, more: &str| {
            let more = format!("{more}, {}", of("app", ""));
            w(
                name,
                "10.0.0.2",
                &if name.starts_with("far") { format!("network: east, {}, {more}", place("networkGateway", "/10.0.0.9", 1)) } else { more },
            )
        };
        let all = [
            pod("near-zone", "locality: {zone: z1}"),
            pod("near", "locality: {zone: z2}"),
            pod("far-zone", "locality: {zone: z1}"),
            pod("far", "locality: {zone: z2}"),
        ];
        let mut items: Vec<_> = all.into_iter().filter(|item| which.iter().any(|name| item.contains(&format!("name: {name},")))).collect();
        items.push(w("gateway", "10.0.0.9", "protocol: HBONE"));
        let sans = "subjectAltNames: [spiffe://cluster.local/ns/demo/sa/x]";
        let balancer = format!("{sans}, loadBalancer: {{mode: {mode}, routingPreferences: [{preferences}]}}");
        items.push(s("app", "/10.1.0.1", "80: 8080", &balancer));
        let world = with(&items);
        let name =
            |found: Resolved| found.next.endpoint().and_then(|e| e.workload.as_ref()).map(|w| w.name.to_string()).unwrap_or_default();
        let all: std::collections::BTreeSet<String> =
            (0..200).map(|_| world.next("client", "10.1.0.1:80", &[]).map_or_else(|error| error.to_string(), name)).collect();
        all.into_iter().collect::<Vec<_>>().join(" ")
    };
    let everyone = ["near-zone", "near", "far-zone", "far"];
    assert_eq!(chosen("Failover", "Network, Zone", &everyone), "near-zone");
    assert_eq!(chosen("Failover", "Network, Zone", &["near", "far-zone", "far"]), "near");
    assert_eq!(chosen("Failover", "Network, Zone", &["far-zone", "far"]), "far-zone");
    assert_eq!(chosen("Failover", "Network", &["far-zone", "far"]), "far far-zone");
    // Where it does not come first, it is a scope like the others.
    assert_eq!(chosen("Failover", "Zone, Network", &["near", "far-zone"]), "far-zone");
    assert_eq!(chosen("Strict", "Network", &everyone), "near near-zone");
    assert_eq!(chosen("Strict", "Network, Zone", &["near", "far-zone"]), "no healthy upstream");
}

#[test]
fn the_address_of_an_endpoint() {
    let dialled = |ips: &str, families: &str, dst: &str| {
        let families = if families.is_empty() { "canonical: true".into() } else { format!("ipFamilies: {families}") };
        let world = with(&[w("pod", ips, &of("app", "")), s("app", "/10.1.0.1, '/fd01::1', /10.0.0.3", "80: 8080", &families)]);
        world.dialled("client", dst)
    };
    let (four, six) = ("10.1.0.1:80", "[fd01::1]:80");
    let both = "10.0.0.2, 'fd00::2', 10.0.0.3";
    for (ips, families, dst, want) in [
        (both, "", four, "10.0.0.2:8080"),
        (both, "", six, "[fd00::2]:8080"),
        ("'fd00::2', 10.0.0.2", "", four, "10.0.0.2:8080"),
        ("'fd00::2', 10.0.0.2", "Dual", four, "10.0.0.2:8080"),
        // The family that was dialled is a wish, that of the service is not.
        ("10.0.0.2", "", six, "10.0.0.2:8080"),
        (both, "IPv4", six, "10.0.0.2:8080"),
        (both, "IPv6", four, "[fd00::2]:8080"),
        ("10.0.0.2", "IPv6", four, "no healthy upstream"),
        // Its own address, where that was dialled.
        (both, "", "10.0.0.3:80", "10.0.0.3:8080"),
        (both, "IPv6", "10.0.0.3:80", "10.0.0.3:8080"),
        ("'::ffff:10.0.0.2'", "", four, "10.0.0.2:8080"),
    ] {
        assert_eq!(dialled(ips, families, dst), want, "[{ips}] {families} {dst}");
    }
}

#[test]
fn an_endpoint_that_is_found_by_name() {
    let world = with(&[
        w("plain", "", &format!("hostname: db.example, {}", of("plain", ""))),
        w("hbone", "", &hbone(&format!("hostname: api.example, {}", of("hbone", "")))),
        w("six", "10.0.0.2", &format!("hostname: six.example, {}", of("six", ""))),
        w("nobody", "", &of("nobody", "")),
        w("wp", "", &hbone("hostname: wp.example")),
        s("plain", "/10.1.0.1", "80: 8080", ""),
        s("hbone", "/10.1.0.2", "80: 8080", ""),
        s("six", "/10.1.0.3", "80: 8080", "ipFamilies: IPv6"),
        s("nobody", "/10.1.0.4", "80: 8080", ""),
        s("routed", "/10.1.0.5", "80: 8080", &place("waypoint", "demo/wp.example", 15008)),
    ]);
    for (dst, name, want) in [
        ("10.1.0.1:80", "db.example", "plain 192.0.2.7:8080"),
        ("10.1.0.2:80", "api.example", "hbone 192.0.2.7:8080 via 192.0.2.7:15008 as hbone"),
        ("10.1.0.3:80", "six.example", "plain 192.0.2.7:8080"),
        ("10.1.0.5:80", "wp.example", "waypoint 10.1.0.5:80 via 192.0.2.7:15008 as wp"),
    ] {
        let hop = world.next("client", dst, &[]).unwrap().next;
        let asked = hop.named().and_then(|w| w.l4.hostname.as_ref()).map(|host| host.as_str().to_owned());
        assert_eq!(asked.as_deref(), Some(name), "{dst}");
        let found = hop.at("192.0.2.7".parse().unwrap());
        assert!(found.named().is_none(), "{dst}");
        assert_eq!(told(Ok(Resolved { service: None, next: found })), want, "{dst}");
    }
    assert_eq!(world.decide("client", "10.1.0.4:80"), "no healthy upstream");
    for dst in ["10.0.0.2:80", "192.0.2.1:80"] {
        assert!(world.next("client", dst, &[]).unwrap().next.named().is_none(), "{dst} has an address");
    }
}

#[test]
fn a_name_leads_around_no_tunnel_and_no_waypoint() {
    let world = with(&[
        s("db", "/10.1.0.1", "80: 8080", ""),
        w("db", "", &format!("hostname: db.example, {}", of("db", ""))),
        w("tunnelled", "10.0.0.7", "protocol: HBONE"),
        w("guarded", "10.0.0.8", &place("waypoint", "/10.0.0.9", 15008)),
        w("plain", "10.0.0.6", ""),
        s("routed", "/10.1.0.2", "80: 8080", &place("waypoint", "/10.0.0.9", 15008)),
    ]);
    let (snapshot, own) = (world.snapshot(), OwnPorts::default());
    let source = Source { workload: &snapshot.workload_by_uid("client").unwrap().workload, own: &own };
    let hop = world.next("client", "10.1.0.1:80", &[]).unwrap().next;
    for (ip, want) in [("10.0.0.7", true), ("10.0.0.8", true), ("10.1.0.2", true), ("10.0.0.6", false), ("192.0.2.7", false)] {
        assert_eq!(leads_around(&snapshot, source, &hop.clone().at(ip.parse().unwrap())), want, "{ip}");
    }
}

#[test]
fn whose_an_address_is() {
    let two = |first: &str, second: &str| {
        let world = with(&[w("first", "10.0.0.2", first), w("second", "10.0.0.2", second)]);
        let hop = world.next("client", "10.0.0.2:80", &[]).unwrap().next;
        hop.endpoint().and_then(|e| e.workload.as_ref()).map(|w| w.name.to_string())
    };
    let pod = |more: &str| format!("uid: Kubernetes//Pod/demo/x{more}");
    for (first, second, want) in [
        ("protocol: HBONE".to_owned(), pod(""), "second"),
        (pod(""), "protocol: HBONE".to_owned(), "first"),
        (pod(""), pod("2, protocol: HBONE"), "second"),
        ("protocol: TCP".into(), "protocol: HBONE".into(), "second"),
        ("protocol: HBONE".into(), "protocol: HBONE".into(), "first"),
        ("networkMode: HostNetwork, protocol: HBONE".into(), "protocol: TCP".into(), "second"),
        ("network: east, protocol: HBONE".into(), "protocol: TCP".into(), "second"),
    ] {
        assert_eq!(two(&first, &second).as_deref(), Some(want), "{first} | {second}");
    }
}
