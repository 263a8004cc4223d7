//! What becomes of connections: by our own manifests here, by what a control plane sends further down.

use super::*;
use crate::{
    model::Hostname,
    state::Change,
    ztunnel::tests::fixture::{Hop as Reach, gateway, gateway_pod, mesh, pod, service, uid},
};

mod endpoints;
mod networks;
mod services;
mod waypoints;
mod worlds;

/// A short form of a decision, to compare with.
fn told(result: Result<Resolved, Unresolved>) -> String {
    let Ok(Resolved { service, next }) = result else { return result.unwrap_err().to_string() };
    let service = service.map(|s| format!(" for {}", s.key.hostname)).unwrap_or_default();
    let text = match &next {
        NextHop::Waypoint { tunnel, .. } => format!("waypoint {}", through(tunnel)),
        NextHop::Hbone { tunnel, .. } => format!("hbone {}", through(tunnel)),
        NextHop::Gateway { tunnel, destinations, .. } => format!("gateway {}, inside as {}", through(tunnel), accounts(destinations)),
        NextHop::Plain { address, .. } => format!("plain {address}"),
        NextHop::Passthrough { address } => format!("passthrough {address}"),
    };
    text + &service
}

fn through(Tunnel { address, destinations, authority }: &Tunnel) -> String {
    format!("{authority} via {address} as {}", accounts(destinations))
}

fn accounts(identities: &[Identity]) -> String {
    identities.iter().map(|id| id.service_account()).collect::<Vec<_>>().join(",")
}

/// A mesh with one example of everything.
fn world() -> Vec<Change> {
    [
        pod("client", "10.0.0.1", Reach::Hbone),
        pod("web", "10.0.0.2", Reach::Hbone),
        pod("legacy", "10.0.0.3", Reach::Plain),
        pod("guarded", "10.0.0.4", Reach::Hbone).through("wp"),
        gateway_pod("wp-1", "10.0.0.9", "wp"),
        service("web", "10.1.0.1", &[(80, 8080)]),
        service("legacy", "10.1.0.2", &[(80, 8080)]),
        service("empty", "10.1.0.3", &[(80, 8080)]),
        service("routed", "10.1.0.4", &[(80, 8080)]).through("wp"),
        service("unready", "10.1.0.5", &[(80, 8080)]).through("nobody"),
        service("impostor", "10.1.0.6", &[(80, 8080)]).through("stranger"),
        service("looped", "10.1.0.7", &[(80, 15001)]).of("client-plain"),
        service("wp", "10.1.0.9", &[(15008, 15008)]).of_gateway("wp"),
        gateway("wp", &["10.1.0.9"]),
        gateway("nobody", &[]),
        gateway("stranger", &["10.0.9.9"]),
        service("barred", "10.1.0.10", &[(80, 8080)]).of("web").through("closed"),
        gateway("closed", &["10.1.0.9"]).closed(),
        pod("client-plain", "10.0.0.8", Reach::Plain),
    ]
    .into_iter()
    .map(|built| built.change())
    .collect()
}

fn decide(source: &str, dst: &str) -> String {
    let (store, handle) = mesh(world());
    let snapshot = handle.load();
    let local = snapshot.local(&uid(source)).expect("the source is in the mesh");
    let own = OwnPorts::new(vec!["0.0.0.0:4000".parse().unwrap()]);
    let told = told(next_hop(&snapshot, Source { workload: &local.workload, own: &own }, dst.parse().unwrap(), &[]));
    drop(store);
    told
}

#[test]
fn each_rule_in_its_order() {
    let host = |name: &str| format!("{name}.demo.svc.cluster.local");
    let rows: Vec<(&str, &str, &str, String)> = vec![
        // Source, destination, and what becomes of it.
        (
            "1: a service with a waypoint",
            "client",
            "10.1.0.4:80",
            format!("waypoint 10.1.0.4:80 via 10.0.0.9:15008 as wp-1 for {}", host("routed")),
        ),
        (
            "1: whatever the port: the waypoint answers",
            "client",
            "10.1.0.4:81",
            format!("waypoint 10.1.0.4:81 via 10.0.0.9:15008 as wp-1 for {}", host("routed")),
        ),
        ("1: never around a waypoint that is not there", "client", "10.1.0.5:80", "no healthy waypoint".into()),
        ("1: an address without identity is no waypoint", "client", "10.1.0.6:80", "no healthy waypoint".into()),
        (
            "1: never around a waypoint that does not let us",
            "client",
            "10.1.0.10:80",
            "the Gateway that is named as waypoint cannot be one".into(),
        ),
        ("1: except for the waypoint itself", "wp-1", "10.1.0.4:80", "no healthy upstream".into()),
        ("2: not of the mesh", "client", "192.0.2.1:443", "passthrough 192.0.2.1:443".into()),
        ("2: mapped addresses are plain ones", "client", "[::ffff:192.0.2.1]:443", "passthrough 192.0.2.1:443".into()),
        ("4: a service without endpoints", "client", "10.1.0.3:80", "no healthy upstream".into()),
        ("4: an undeclared port", "client", "10.1.0.1:81", "no healthy upstream: the service does not declare the port".into()),
        ("6: a workload with a waypoint", "client", "10.0.0.4:9", "waypoint 10.0.0.4:9 via 10.0.0.9:15008 as wp-1".into()),
        ("6: except for the waypoint itself", "wp-1", "10.0.0.4:9", "hbone 10.0.0.4:9 via 10.0.0.4:15008 as guarded".into()),
        (
            "7: a service of hbone workloads",
            "client",
            "10.1.0.1:80",
            format!("hbone 10.0.0.2:8080 via 10.0.0.2:15008 as web for {}", host("web")),
        ),
        ("7: an hbone workload", "client", "10.0.0.2:9", "hbone 10.0.0.2:9 via 10.0.0.2:15008 as web".into()),
        ("8: a service of plain workloads", "client", "10.1.0.2:80", format!("plain 10.0.0.3:8080 for {}", host("legacy"))),
        ("8: a plain workload", "client", "10.0.0.3:9", "plain 10.0.0.3:9".into()),
        ("loop: a reserved port on loopback", "client", "127.0.0.1:15001", "the destination is this proxy itself".into()),
        ("loop: a listener's port on loopback", "client", "127.0.0.1:4000", "the destination is this proxy itself".into()),
        ("loop: our own address through a tunnel", "client", "10.0.0.1:15008", "the destination is this proxy itself".into()),
        ("no loop: ourselves", "client", "10.0.0.1:80", "hbone 10.0.0.1:80 via 10.0.0.1:15008 as client".into()),
        ("loop: our own address", "client-plain", "10.0.0.8:15006", "the destination is this proxy itself".into()),
        ("loop: a service that leads to us", "client-plain", "10.1.0.7:80", "the destination is this proxy itself".into()),
        ("no loop: somebody else's port", "client", "192.0.2.1:15001", "passthrough 192.0.2.1:15001".into()),
        ("no loop: another port on loopback", "client", "127.0.0.1:80", "passthrough 127.0.0.1:80".into()),
    ];
    for (rule, source, dst, want) in rows {
        assert_eq!(decide(source, dst), want, "{rule}: {source} to {dst}");
    }
}

#[test]
fn a_service_at_the_address_of_a_workload_keeps_its_waypoint() {
    let mut changes = world();
    changes.push(service("both", "10.0.0.2", &[(80, 8080)]).through("wp").change());
    let (_store, handle) = mesh(changes);
    let snapshot = handle.load();
    let local = snapshot.local(&uid("client")).unwrap();
    let own = OwnPorts::default();
    let source = Source { workload: &local.workload, own: &own };
    let got = told(next_hop(&snapshot, source, "10.0.0.2:80".parse().unwrap(), &[]));
    assert!(got.starts_with("waypoint 10.0.0.2:80"), "{got}");
}

#[test]
fn what_was_tried_is_left_out() {
    let mut changes = world();
    changes.push(pod("web-2", "10.0.0.22", Reach::Hbone).labelled("web").change());
    let (_store, handle) = mesh(changes);
    let snapshot = handle.load();
    let local = snapshot.local(&uid("client")).unwrap();
    let own = OwnPorts::default();
    let source = Source { workload: &local.workload, own: &own };
    let dst = "10.1.0.1:80".parse().unwrap();
    let endpoint = |resolved: Resolved| resolved.next.endpoint().unwrap().clone();
    let first = endpoint(next_hop(&snapshot, source, dst, &[]).unwrap());
    let second = endpoint(next_hop(&snapshot, source, dst, std::slice::from_ref(&first)).unwrap());
    assert_ne!(first.address, second.address);
    assert_eq!(next_hop(&snapshot, source, dst, &[first, second]).unwrap_err(), Unresolved::NoEndpoint);
}
