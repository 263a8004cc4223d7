//! Services and workloads with waypoints that a control plane has assigned (contract, 2.3 row 1 and 6).

use super::{worlds::*, *};

const HBONE: &str = "protocol: HBONE";

/// A service `app` at 10.1.0.1, and a waypoint `wp` at 10.1.0.9 with an instance at 10.0.0.9.
fn world(app: &str, more: &[String]) -> World {
    let mut items = vec![
        w("client", "10.0.0.1", HBONE),
        w("pod", "10.0.0.2", &format!("{HBONE}, {}", of("app", ""))),
        w("wp-1", "10.0.0.9", &format!("{HBONE}, {}", of("wp", ""))),
        s("wp", "/10.1.0.9", "15008: 15008", "subjectAltNames: [spiffe://cluster.local/ns/demo/sa/extra]"),
        s("app", "/10.1.0.1", "80: 8080", app),
    ];
    items.extend_from_slice(more);
    World::new(&items)
}

#[test]
fn a_waypoint_is_found_where_it_is_said_to_be() {
    let by_service = "waypoint 10.1.0.1:80 via 10.0.0.9:15008 as wp-1,extra for app.demo.svc.cluster.local";
    let by_workload = "waypoint 10.1.0.1:80 via 10.0.0.9:15008 as wp-1 for app.demo.svc.cluster.local";
    let hbone = "hbone 10.0.0.2:8080 via 10.0.0.2:15008 as pod for app.demo.svc.cluster.local";
    let named = w("wp-named", "10.0.0.8", &format!("{HBONE}, hostname: wp.example"));
    let sandwich = w("wp-app", "10.0.0.7", &format!("{HBONE}, applicationTunnel: {{protocol: PROXY, port: 15088}}, {}", of("behind", "")));
    let portless = w("wp-none", "10.0.0.6", &format!("{HBONE}, applicationTunnel: {{protocol: PROXY}}, {}", of("behind-2", "")));
    let other = [
        named,
        sandwich,
        portless,
        w("wp-plain", "10.0.0.5", &of("plain", "")),
        w("wp-weak", "10.0.0.4", &format!("{HBONE}, capacity: 0, {}", of("weak", ""))),
        s("behind", "/10.1.0.8", "80: 80", ""),
        s("behind-2", "/10.1.0.7", "80: 80", ""),
        s("elsewhere", "/10.1.0.6", "15008: 15009", ""),
        s("plain", "/10.1.0.5", "15008: 15008", "subjectAltNames: [spiffe://cluster.local/ns/demo/sa/extra]"),
        s("weak", "/10.1.0.4", "15008: 15008", ""),
        w("wp-2", "10.0.0.10", &format!("{HBONE}, {}", of("elsewhere", ""))),
    ];
    let tell = |text: &str| text.to_owned();
    let rows = [
        ("none", String::new(), tell(hbone)),
        ("a service's host name", place("waypoint", &format!("demo/{}", host("wp")), 15008), tell(by_service)),
        ("a service's address", place("waypoint", "/10.1.0.9", 15008), tell(by_service)),
        ("a workload's address", place("waypoint", "/10.0.0.9", 15008), tell(by_workload)),
        (
            "a workload's address, another port",
            place("waypoint", "/10.0.0.9", 15009),
            by_workload.replace("10.0.0.9:15008", "10.0.0.9:15009"),
        ),
        (
            "a workload's host name",
            place("waypoint", "demo/wp.example", 15008),
            tell("waypoint 10.1.0.1:80 via 10.0.0.8:15008 as wp-named for app.demo.svc.cluster.local"),
        ),
        (
            "the target port is the service's",
            place("waypoint", &format!("demo/{}", host("elsewhere")), 15008),
            tell("waypoint 10.1.0.1:80 via 10.0.0.10:15009 as wp-2 for app.demo.svc.cluster.local"),
        ),
        (
            "a waypoint that is not marked as captured takes HBONE all the same, and its service's names hold",
            place("waypoint", &format!("demo/{}", host("plain")), 15008),
            tell("waypoint 10.1.0.1:80 via 10.0.0.5:15008 as wp-plain,extra for app.demo.svc.cluster.local"),
        ),
        (
            "an application tunnel takes a port that its service does not declare",
            place("waypoint", &format!("demo/{}", host("behind")), 15008),
            tell("waypoint 10.1.0.1:80 via 10.0.0.7:15008 as wp-app for app.demo.svc.cluster.local"),
        ),
        ("but not one without a port", place("waypoint", &format!("demo/{}", host("behind-2")), 15008), tell("no healthy waypoint")),
        ("a port nobody declares", place("waypoint", &format!("demo/{}", host("wp")), 15009), tell("no healthy waypoint")),
        ("an instance without capacity", place("waypoint", &format!("demo/{}", host("weak")), 15008), tell("no healthy waypoint")),
        ("nobody's address", place("waypoint", "/10.0.9.9", 15008), tell("no healthy waypoint")),
        ("nobody's name", place("waypoint", "demo/nobody.example", 15008), tell("no healthy waypoint")),
        ("another namespace's name", place("waypoint", &format!("other/{}", host("wp")), 15008), tell("no healthy waypoint")),
        (
            "whatever the balancing: passthrough does not go around it",
            place("waypoint", "/10.1.0.9", 15008) + ", loadBalancer: {mode: Passthrough}",
            tell(by_service),
        ),
    ];
    for (what, app, want) in rows {
        assert_eq!(world(&app, &other).decide("client", "10.1.0.1:80"), want, "{what}");
    }
    // Its own instance decides for itself.
    let own = world(&place("waypoint", "/10.1.0.9", 15008), &[]);
    assert_eq!(own.decide("wp-1", "10.1.0.1:80"), hbone);
    // An undeclared port of the service is for the waypoint to judge.
    assert_eq!(own.decide("client", "10.1.0.1:81"), by_service.replace(".1:80", ".1:81"));
}

#[test]
fn weighted_waypoints_are_drawn_by_weight() {
    let second = [w("wp-2", "10.0.0.10", HBONE)];
    let weighted = |pairs: &[(&str, u32)]| {
        let one = |(to, weight): &(&str, u32)| format!("{{{}, weight: {weight}}}", place("destination", to, 15008));
        format!("weightedWaypoints: [{}]", pairs.iter().map(one).collect::<Vec<_>>().join(", "))
    };
    let shares = |app: &str| world(app, &second).shares("client", "10.1.0.1:80");
    let drawn = shares(&weighted(&[("/10.0.0.9", 3), ("/10.0.0.10", 1)]));
    let part = |of: &str| drawn.iter().filter(|(told, _)| told.contains(of)).map(|(_, n)| n).sum::<usize>();
    assert_eq!(part("via"), 1000, "{drawn:?}");
    assert!((650..850).contains(&part("via 10.0.0.9:15008")), "{drawn:?}");
    let only = |app: &str| shares(app).into_keys().collect::<Vec<_>>().join("; ");
    let bound = place("waypoint", "/10.0.0.9", 15008);
    for (what, app, want) in [
        ("0 is never drawn", weighted(&[("/10.0.0.9", 0), ("/10.0.0.10", 1)]), "waypoint 10.1.0.1:80 via 10.0.0.10:15008 as wp-2"),
        (
            "they come before the one it is bound to",
            format!("{bound}, {}", weighted(&[("/10.0.0.10", 1)])),
            "waypoint 10.1.0.1:80 via 10.0.0.10:15008 as wp-2",
        ),
        (
            "unless none has a weight",
            format!("{bound}, {}", weighted(&[("/10.0.0.10", 0)])),
            "waypoint 10.1.0.1:80 via 10.0.0.9:15008 as wp-1",
        ),
        ("no weight at all", weighted(&[("/10.0.0.10", 0)]), "hbone 10.0.0.2:8080 via 10.0.0.2:15008 as pod"),
    ] {
        assert_eq!(only(&app), format!("{want} for {}", host("app")), "{what}");
    }
    assert_eq!(only(&weighted(&[("/10.0.9.9", 1)])), "no healthy waypoint", "one that is not there is no way around it");
}

#[test]
fn a_workload_with_a_waypoint() {
    let guarded = w("guarded", "10.0.0.4", &format!("{HBONE}, {}, {}", place("waypoint", "/10.1.0.9", 15008), of("app", "")));
    let away = w("away", "10.0.0.5", &format!("{HBONE}, {}", place("waypoint", "east/10.9.0.1", 15008)));
    let remote = w("remote-wp", "10.9.0.1", &format!("{HBONE}, network: east, {}", place("networkGateway", "/10.0.0.9", 15008)));
    let world = world("loadBalancer: {routingPreferences: [Node], mode: Strict}", &[guarded, away, remote]);
    for (what, source, dst, want) in [
        ("dialled by its address", "client", "10.0.0.4:9", "waypoint 10.0.0.4:9 via 10.0.0.9:15008 as wp-1,extra"),
        ("by the waypoint's own instance", "wp-1", "10.0.0.4:9", "hbone 10.0.0.4:9 via 10.0.0.4:15008 as guarded"),
        (
            "a waypoint on another network, where no service tells what is meant",
            "client",
            "10.0.0.5:9",
            "the endpoint is on another network, and that network's gateway cannot be used",
        ),
    ] {
        assert_eq!(world.decide(source, dst), want, "{what}");
    }
    // Of a service's endpoints, the workload's own waypoint is no matter.
    assert_eq!(world.dialled("client", "10.1.0.1:80"), "10.0.0.2:15008 10.0.0.4:15008");
}

#[test]
fn the_family_of_a_waypoint() {
    let dual = |app: &str| {
        World::new(&[
            w("client", "10.0.0.1", HBONE),
            w("wp-1", "10.0.0.9, 'fd00::9'", &format!("{HBONE}, {}", of("wp", ""))),
            s("wp", "/10.1.0.9, '/fd01::9'", "15008: 15008", ""),
            s("app", "/10.1.0.1, '/fd01::1'", "80: 8080", app),
        ])
    };
    for (destination, of_four, of_six) in [
        // By name, that of the destination.
        ("demo/wp.demo.svc.cluster.local", "10.0.0.9:15008", "[fd00::9]:15008"),
        // By address, that of the address.
        ("/10.1.0.9", "10.0.0.9:15008", "10.0.0.9:15008"),
        ("/fd01::9", "[fd00::9]:15008", "[fd00::9]:15008"),
        ("/10.0.0.9", "10.0.0.9:15008", "10.0.0.9:15008"),
        ("/fd00::9", "[fd00::9]:15008", "[fd00::9]:15008"),
    ] {
        let world = dual(&place("waypoint", destination, 15008));
        assert_eq!(world.dialled("client", "10.1.0.1:80"), of_four, "{destination}");
        assert_eq!(world.dialled("client", "[fd01::1]:80"), of_six, "{destination}");
    }
}

#[test]
fn instances_that_were_tried_are_left_out() {
    let more = [w("wp-2", "10.0.0.10", &format!("{HBONE}, {}", of("wp", "")))];
    let world = world(&place("waypoint", "/10.1.0.9", 15008), &more);
    let endpoint = |tried: &[_]| world.next("client", "10.1.0.1:80", tried).map(|found| found.next.endpoint().unwrap().clone());
    let first = endpoint(&[]).unwrap();
    let second = endpoint(std::slice::from_ref(&first)).unwrap();
    assert_ne!(first.address, second.address);
    assert_eq!(endpoint(&[first, second]).unwrap_err(), Unresolved::NoWaypoint);
}
