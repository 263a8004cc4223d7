use super::*;
use crate::{
    model::{ApplicationTunnel, Health, NetworkAddress, ServiceKey, TargetPort, WaypointBinding},
    ztunnel::tests::fixture::{Built, Hop, NAMESPACE, gateway, gateway_pod, mesh, pod, service, uid},
};

const HERE: &str = "10.0.0.1";

fn host(name: &str) -> String {
    format!("{name}.{NAMESPACE}.svc.cluster.local")
}

fn key(name: &str) -> ServiceKey {
    ServiceKey { namespace: NAMESPACE.into(), hostname: Hostname::new(&host(name)) }
}

fn at(ip: &str) -> WaypointBinding {
    let address = NetworkAddress { network: None, address: ip.parse().unwrap() };
    WaypointBinding::At(GatewayAddress { destination: GatewayDestination::Address(address), port: 15008 })
}

fn called(name: &str) -> GatewayAddress {
    GatewayAddress { destination: GatewayDestination::Hostname(key(name)), port: 15008 }
}

fn tunnelled(pod: Built, proxy_protocol: bool, port: Option<u16>) -> Built {
    pod.workload(|workload| workload.l4.application_tunnel = Some(ApplicationTunnel { proxy_protocol, port }))
}

/// What becomes of a CONNECT to the pod `name`: where it is dialled, and what the workload is told.
fn decide(world: &[Built], name: &str, localhost_app_tunnel: bool, authority: &str) -> String {
    let (_store, handle) = mesh(world.iter().cloned().map(Built::change).collect());
    let snapshot = handle.load();
    let workload = &snapshot.local(&uid(name)).expect("the workload is in the mesh").workload;
    let own = OwnPorts::new(vec!["0.0.0.0:4000".parse().unwrap(), "127.0.0.1:4001".parse().unwrap()]);
    let here = Here { workload, address: workload.addresses[0], own: &own, localhost_app_tunnel };
    match admit(&snapshot, here, &ConnectTarget::parse(authority).unwrap()) {
        Ok(Admitted { address, dialled, told, service }) => {
            assert_eq!(address.ip(), workload.addresses[0], "policies always judge the pod's own address");
            assert_eq!(
                service.map(|service| service.key.hostname.to_string()),
                match ConnectTarget::parse(authority).unwrap() {
                    ConnectTarget::Host(host, _) => Some(host.to_string()),
                    ConnectTarget::Address(_) => None,
                }
            );
            let told = told.map(|told| format!(" telling {told}")).unwrap_or_default();
            format!("{dialled}{told}")
        }
        Err(refusal) => format!("{} {refusal}", refusal.status().as_u16()),
    }
}

#[track_caller]
fn check(world: &[Built], name: &str, rows: &[(&str, String, &str)]) {
    for (what, authority, want) in rows {
        assert_eq!(decide(world, name, true, authority), *want, "{what}: {authority}");
    }
}

const NOT_HERE: &str = "400 ip mismatch: the authority is not the address of the tunnel";
const NOT_AN_ENDPOINT: &str = "503 the service does not lead here by this port";
const OWN_PORT: &str = "503 the port is the proxy's own";

#[test]
fn an_address_must_be_the_tunnels_own() {
    let world = [
        pod("web", HERE, Hop::Hbone),
        pod("other", "10.0.0.2", Hop::Hbone),
        service("web", "10.1.0.1", &[(80, 8080)]),
        // With waypoints, but others.
        pod("guarded", "10.0.0.3", Hop::Hbone).through("wp"),
        service("guarded", "10.1.0.3", &[(80, 8080)]).through("wp"),
        service("placed", "10.1.0.4", &[(80, 8080)]).service(|s| s.waypoint = at("10.0.0.2")),
        service("barred", "10.1.0.5", &[(80, 8080)]).through("closed"),
        gateway("wp", &["10.0.0.2"]),
        gateway("closed", &[HERE]).closed(),
    ];
    check(
        &world,
        "web",
        &[
            ("own", format!("{HERE}:8080"), "10.0.0.1:8080"),
            ("own, mapped", format!("[::ffff:{HERE}]:8080"), "10.0.0.1:8080"),
            ("another pod", "10.0.0.2:8080".into(), NOT_HERE),
            ("own service", "10.1.0.1:80".into(), NOT_HERE),
            ("unknown", "192.0.2.1:80".into(), NOT_HERE),
            ("loopback", "127.0.0.1:8080".into(), NOT_HERE),
            ("unspecified", "0.0.0.0:8080".into(), NOT_HERE),
            ("another's waypoint", "10.0.0.3:80".into(), NOT_HERE),
            ("another's waypoint", "10.1.0.3:80".into(), NOT_HERE),
            ("another's waypoint, by address", "10.1.0.4:80".into(), NOT_HERE),
            ("a gateway that may not be used", "10.1.0.5:80".into(), NOT_HERE),
            ("port of the proxy", format!("{HERE}:15008"), OWN_PORT),
            ("port of the proxy, mapped", format!("[::ffff:{HERE}]:15001"), OWN_PORT),
            ("bound by the proxy", format!("{HERE}:4000"), OWN_PORT),
            ("bound by the proxy elsewhere", format!("{HERE}:4001"), "10.0.0.1:4001"),
        ],
    );
}

#[test]
fn a_waypoint_behind_a_ztunnel_takes_what_it_is_the_waypoint_of() {
    let world = [
        gateway_pod("wp-1", HERE, "wp"),
        gateway("wp", &["10.1.0.9"]),
        service("wp", "10.1.0.9", &[(15008, 15018)]).of_gateway("wp"),
        pod("guarded", "10.0.0.3", Hop::Hbone).through("wp"),
        service("guarded", "10.1.0.3", &[(80, 8080)]).through("wp"),
        service("by-ip", "10.1.0.4", &[(80, 8080)]).service(|s| s.waypoint = at(HERE)),
        service("by-vip", "10.1.0.5", &[(80, 8080)]).service(|s| s.waypoint = at("10.1.0.9")),
        service("by-name", "10.1.0.6", &[(80, 8080)]).service(|s| s.waypoint = WaypointBinding::At(called("wp"))),
        service("by-weight", "10.1.0.7", &[(80, 8080)])
            .service(|s| s.l4.weighted_waypoints = vec![(called("elsewhere"), 1), (called("wp"), 1)]),
        pod("pod-by-ip", "10.0.0.4", Hop::Hbone).workload(|w| w.waypoint = at(HERE)),
        service("free", "10.1.0.8", &[(80, 8080)]),
        pod("other", "10.0.0.5", Hop::Hbone),
    ];
    check(
        &world,
        "wp-1",
        &[
            ("a service", "10.1.0.3:80".into(), "10.0.0.1:80"),
            ("a pod", "10.0.0.3:8080".into(), "10.0.0.1:8080"),
            ("bound to our address", "10.1.0.4:80".into(), "10.0.0.1:80"),
            ("bound to our service's address", "10.1.0.5:80".into(), "10.0.0.1:80"),
            ("bound to our service's name", "10.1.0.6:80".into(), "10.0.0.1:80"),
            ("bound by weight", "10.1.0.7:80".into(), "10.0.0.1:80"),
            ("a pod bound to our address", "10.0.0.4:80".into(), "10.0.0.1:80"),
            ("by host name", format!("{}:80", host("guarded")), "10.0.0.1:8080"),
            ("by host name and weight", format!("{}:80", host("by-weight")), "10.0.0.1:8080"),
            ("own ports stay closed", "10.1.0.3:15006".into(), OWN_PORT),
            ("a service without a waypoint", "10.1.0.8:80".into(), NOT_HERE),
            ("a service without a waypoint, by name", format!("{}:80", host("free")), NOT_AN_ENDPOINT),
            ("a pod without a waypoint", "10.0.0.5:80".into(), NOT_HERE),
        ],
    );
}

#[test]
fn a_host_names_port_is_the_services_and_leads_to_the_workloads() {
    let target = |built: Built, target: TargetPort| built.service(|s| s.ports[0].target = target);
    let world = [
        pod("web", HERE, Hop::Hbone).workload(|w| {
            w.ports = vec![("http".into(), 8081)];
            w.l4.services =
                vec![(key("entry"), vec![(80, 8090), (81, 0)]), (key("entry-only"), vec![(80, 8091)]), (key("nowhere"), vec![])];
        }),
        pod("sick", "10.0.0.6", Hop::Hbone).workload(|w| {
            w.health = Health::Unhealthy;
            w.labels = [("app".into(), "web".into())].into();
        }),
        service("web", "10.1.0.1", &[(80, 8080), (81, 15001), (82, 0)]),
        target(service("named", "10.1.0.2", &[(80, 1)]), TargetPort::Name("http".into())).of("web"),
        target(service("unnamed", "10.1.0.3", &[(80, 1)]), TargetPort::Name("grpc".into())).of("web"),
        service("entry", "10.1.0.4", &[(80, 8080), (81, 8085), (82, 8086)]).service(|s| s.selector = None),
        target(service("entry-only", "10.1.0.5", &[(80, 1)]), TargetPort::Endpoint).service(|s| s.selector = None),
        target(service("nowhere", "10.1.0.6", &[(80, 1)]), TargetPort::Endpoint).service(|s| s.selector = None),
        service("other", "10.1.0.7", &[(80, 8080)]),
    ];
    check(
        &world,
        "web",
        &[
            ("a number", format!("{}:80", host("web")), "10.0.0.1:8080"),
            ("any case", format!("{}:80", host("web").to_uppercase()), "10.0.0.1:8080"),
            ("a container port", format!("{}:80", host("named")), "10.0.0.1:8081"),
            ("not a container port", format!("{}:80", host("unnamed")), NOT_AN_ENDPOINT),
            ("the workload's entry comes first", format!("{}:80", host("entry")), "10.0.0.1:8090"),
            ("0 in the entry", format!("{}:81", host("entry")), "10.0.0.1:8085"),
            ("not in the entry", format!("{}:82", host("entry")), "10.0.0.1:8086"),
            ("only in the entry", format!("{}:80", host("entry-only")), "10.0.0.1:8091"),
            ("in neither", format!("{}:80", host("nowhere")), NOT_AN_ENDPOINT),
            ("0 in both", format!("{}:82", host("web")), NOT_AN_ENDPOINT),
            ("not declared", format!("{}:8080", host("web")), NOT_AN_ENDPOINT),
            ("leads into the proxy", format!("{}:81", host("web")), OWN_PORT),
            ("of other workloads", format!("{}:80", host("other")), NOT_AN_ENDPOINT),
            ("unknown", "example.com:80".into(), "503 unknown host name"),
        ],
    );
    check(&world, "sick", &[("not ready any more", format!("{}:80", host("web")), "10.0.0.6:8080")]);
}

#[test]
fn the_service_of_our_own_namespace_is_meant_unless_only_another_leads_here() {
    let foreign = |target, serving: &str| {
        let serving = serving.to_owned();
        service("shared", "10.1.0.2", &[(80, target)]).service(move |s| {
            s.key.namespace = "far".into();
            s.selector = Some([("app".into(), serving.as_str().into())].into());
        })
    };
    let entry = (ServiceKey { namespace: "far".into(), ..key("shared") }, vec![]);
    let ours = pod("web", HERE, Hop::Hbone).workload(|w| w.l4.services = vec![entry]);
    let near = service("shared", "10.1.0.1", &[(80, 8080)]);
    let both = [ours.clone(), foreign(9090, "web"), near.clone().of("web")];
    check(&both, "web", &[("both lead here", format!("{}:80", host("shared")), "10.0.0.1:8080")]);
    let one = [ours, foreign(9090, "web"), near];
    check(&one, "web", &[("only the other does", format!("{}:80", host("shared")), "10.0.0.1:9090")]);
}

#[test]
fn an_application_tunnel_takes_any_address_at_its_port() {
    let services = [
        service("other", "10.1.0.7", &[(80, 8080)]),
        service("clash", "10.1.0.8", &[(80, 15001)]),
        service("headless", "none", &[(80, 8080)]),
        service("far", "none", &[(80, 8080)]).service(|s| {
            let on = |address: &str| NetworkAddress { network: Some("net2".into()), address: address.parse().unwrap() };
            s.l4.elsewhere = vec![on("fd00::7"), on("10.9.0.7")];
        }),
        service("dual", "fd00::1", &[(80, 8080)]).service(|s| {
            s.vips.push("10.1.0.9".parse().unwrap());
            s.l4.elsewhere = vec![NetworkAddress { network: Some("net2".into()), address: "10.9.0.8".parse().unwrap() }];
        }),
        service("six", "fd00::2", &[(80, 8080)]).service(|s| {
            s.l4.elsewhere = vec![NetworkAddress { network: Some("net2".into()), address: "10.9.0.8".parse().unwrap() }];
        }),
    ];
    let world = |tunnel: Built| [&[tunnel], &services[..]].concat();
    let proxy = world(tunnelled(pod("web", HERE, Hop::Hbone), true, Some(15088)));
    check(
        &proxy,
        "web",
        &[
            ("own", format!("{HERE}:80"), "127.0.0.1:15088 telling 10.0.0.1:80"),
            ("unknown", "192.0.2.1:80".into(), "127.0.0.1:15088 telling 192.0.2.1:80"),
            ("IPv6", "[fd00::9]:80".into(), "127.0.0.1:15088 telling [fd00::9]:80"),
            ("a port of the proxy that is not dialled", "192.0.2.1:15008".into(), "127.0.0.1:15088 telling 192.0.2.1:15008"),
            ("a host name", format!("{}:80", host("other")), "127.0.0.1:15088 telling 10.1.0.7:80"),
            ("IPv4 before IPv6", format!("{}:80", host("dual")), "127.0.0.1:15088 telling 10.1.0.9:80"),
            ("our network before IPv4", format!("{}:80", host("six")), "127.0.0.1:15088 telling [fd00::2]:80"),
            ("only on another network", format!("{}:80", host("far")), "127.0.0.1:15088 telling 10.9.0.7:80"),
            ("no address", format!("{}:80", host("headless")), "503 the service has no address to tell by PROXY protocol"),
            ("not declared", format!("{}:81", host("other")), NOT_AN_ENDPOINT),
            ("unknown host", "example.com:80".into(), "503 unknown host name"),
        ],
    );
    let any_port = world(tunnelled(pod("web", HERE, Hop::Hbone), true, None));
    check(
        &any_port,
        "web",
        &[
            ("the port that was meant", "192.0.2.1:8081".into(), "127.0.0.1:8081 telling 192.0.2.1:8081"),
            ("of a host name", format!("{}:80", host("other")), "127.0.0.1:8080 telling 10.1.0.7:80"),
            ("a port of the proxy", "192.0.2.1:15006".into(), OWN_PORT),
            ("a port of the proxy, by name", format!("{}:80", host("clash")), OWN_PORT),
            ("bound by the proxy at loopback", "192.0.2.1:4001".into(), OWN_PORT),
        ],
    );
    let plain = world(tunnelled(pod("web", HERE, Hop::Hbone), false, Some(15088)));
    check(
        &plain,
        "web",
        &[
            ("nothing is told", "192.0.2.1:80".into(), "10.0.0.1:15088"),
            ("nor needed", format!("{}:80", host("headless")), "10.0.0.1:15088"),
        ],
    );
    let six = world(tunnelled(pod("web", "fd00::a", Hop::Hbone), true, Some(15088)));
    check(&six, "web", &[("of the pod's family", "192.0.2.1:80".into(), "[::1]:15088 telling 192.0.2.1:80")]);
    assert_eq!(decide(&proxy, "web", false, "192.0.2.1:80"), "10.0.0.1:15088 telling 192.0.2.1:80");
    let own = world(tunnelled(pod("web", HERE, Hop::Hbone), true, Some(15001)));
    check(&own, "web", &[("a tunnel into the proxy", "192.0.2.1:80".into(), OWN_PORT)]);
}
