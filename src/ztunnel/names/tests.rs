use super::*;
use crate::{
    dns::Cluster,
    model::Resource,
    ztunnel::tests::fixture::{Built, Hop, gateway, mesh, pod, service},
};
use std::sync::Arc;

/// A service whose name is foreign to the cluster and has no address: resolution is left to DNS.
fn external(host: &str) -> Built {
    let Built(Resource::Service(mut entry)) = named(service("external", "", &[(443, 443)]), host) else { unreachable!() };
    Arc::make_mut(&mut entry).external = true;
    Built(Resource::Service(entry))
}

/// Under another host name.
fn named(Built(resource): Built, host: &str) -> Built {
    let Resource::Service(mut service) = resource else { panic!("not a service") };
    Arc::make_mut(&mut service).key.hostname = Hostname::new(host);
    Built(Resource::Service(service))
}

#[test]
fn a_name_of_the_mesh_means_what_a_pods_resolver_would_say() {
    let resources = [
        pod("web", "10.0.0.2", Hop::Hbone),
        service("web", "10.1.0.1", &[(80, 8080)]),
        service("headless", "", &[(80, 8080)]).of("web"),
        service("deserted", "", &[(80, 8080)]),
        service("guarded", "", &[(80, 8080)]).of("web").through("wp"),
        gateway("wp", &["10.0.0.9"]),
        external("api.example.com"),
        external("egress.example.com").through("wp"),
        named(service("wild", "10.1.0.2", &[(443, 443)]), "*.wild.example.com"),
    ];
    let (_store, handle) = mesh(resources.into_iter().map(Built::change).collect());
    let snapshot = handle.load();
    let at = |text: &str| Meaning::Address(text.parse().unwrap());
    let rows = [
        ("web", 80, at("10.1.0.1:80")),
        ("WEB.demo", 80, at("10.1.0.1:80")),
        ("web.demo.SVC", 80, at("10.1.0.1:80")),
        ("web.demo.svc.cluster.local", 81, at("10.1.0.1:81")),
        ("web.demo.svc.cluster.local.", 80, at("10.1.0.1:80")),
        // DNS knows complete names only: a dot says nothing.
        ("web.", 80, at("10.1.0.1:80")),
        ("web.other", 80, Meaning::Foreign),
        ("web.demo.svc.other.domain", 80, Meaning::Foreign),
        ("", 80, Meaning::Foreign),
        // As DNS has it: the endpoint's address, the port as asked for.
        ("headless", 80, at("10.0.0.2:80")),
        ("web.headless", 80, at("10.0.0.2:80")),
        ("deserted", 80, Meaning::Nowhere),
        // A workload's address would lead around the waypoint.
        ("guarded", 80, Meaning::Nowhere),
        ("api.example.com", 443, Meaning::Foreign),
        ("egress.example.com", 443, Meaning::Nowhere),
        ("www.wild.example.com", 443, at("10.1.0.2:443")),
        ("10.0.0.2", 9, at("10.0.0.2:9")),
        ("::ffff:10.0.0.2", 9, at("10.0.0.2:9")),
        ("fd00::1", 9, at("[fd00::1]:9")),
    ];
    let cluster = Cluster::new("cluster.local");
    let client = Client { namespace: "demo", search: &cluster.search("demo"), cluster: &cluster };
    for (name, port, want) in rows {
        assert_eq!(lookup(&snapshot, client, name, port), want, "{name}:{port}");
    }
}
