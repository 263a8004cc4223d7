//! How endpoints are reached, and whose an address is.

use super::*;
use std::io::{Read as _, Seek as _};

fn listed(address: &str, workload: Option<Name>) -> Resource {
    let endpoint = Endpoint { address: address.parse().unwrap(), workload, ready: true, ports: vec![("http".into(), 7070)] };
    Resource::from(Endpoints {
        source: ResourceId::new(Kind::EndpointSlice, "app", "a-1"),
        service: key("app", "a"),
        endpoints: vec![endpoint],
    })
}

#[test]
fn a_workload_that_speaks_hbone_is_never_reached_in_plaintext() {
    let hbone = pod("app", "a", 1);
    let entry = |address: &str| Workload {
        uid: "Kubernetes/networking.istio.io/WorkloadEntry/app/vm".into(),
        name: "vm".into(),
        identity: Identity::new("cluster.local", "app", "vm").unwrap(),
        addresses: vec![address.parse().unwrap()],
        protocol: TunnelProtocol::None,
        labels: Labels::new(),
        ..pod("app", "a", 7)
    };
    let stale = Workload { labels: Labels::new(), ..pod("app", "gone", 9) };
    for (what, address, named) in [
        ("nobody named", "10.2.0.1", None),
        ("a plain entry named", "10.2.0.1", Some(entry("10.2.0.1"))),
        ("a plain entry from elsewhere named", "10.2.0.1", Some(entry("10.2.0.77"))),
        ("another HBONE workload named", "10.2.0.1", Some(stale)),
        ("a mapped address", "::ffff:10.2.0.1", Some(entry("10.2.0.1"))),
    ] {
        let mut mesh = app();
        mesh.push(listed(address, named.as_ref().map(|w| w.uid.clone())));
        mesh.extend(named.map(Resource::from));
        let a = served(&store(mesh).handle().load(), vip(1)).unwrap();
        let endpoint = a.upstream.endpoints().ready[0].clone();
        assert_eq!(endpoint.address.to_string(), "10.2.0.1:7070", "{what}");
        assert_eq!(endpoint.hop, Hop::Hbone([hbone.identity.clone()].into()), "{what}");
        assert_eq!(endpoint.workload.as_ref().map(|w| &w.uid), Some(&hbone.uid), "{what}");
    }
}

#[test]
fn a_mapped_address_names_its_workload() {
    let mapped = Workload { addresses: vec!["::ffff:10.2.0.1".parse().unwrap()], ..pod("app", "a", 1) };
    let mut mesh = app();
    mesh.push(Resource::from(mapped));
    let snapshot = store(mesh).handle().load();
    let a = served(&snapshot, vip(1)).unwrap();
    assert_eq!(endpoint_addresses(&a), ["10.2.0.1:8080"]);
    assert!(snapshot.workload(IpAddr::from([10, 2, 0, 1])).is_some());
}

#[test]
fn a_virtual_address_of_two_services_has_the_same_owner_in_both_modes() {
    let entry = |name: &str| Service { source: ResourceId::new(Kind::ServiceEntry, "app", name), ..service("app", name, 1) };
    let elsewhere = |waypoint| Service { waypoint, vips: vec![IpAddr::from([10, 1, 0, 1])], ..service("zoo", "z", 1) };
    for (what, services, owner, is_served_here) in [
        ("a Service before a ServiceEntry", vec![entry("a"), service("app", "b", 1)], key("app", "b"), true),
        ("by key", vec![service("app", "b", 1), service("app", "a", 1)], key("app", "a"), true),
        ("whatever the owner is bound to", vec![entry("a"), elsewhere(WaypointBinding::None)], key("zoo", "z"), false),
    ] {
        let mut mesh = app();
        mesh.retain(|r| !matches!(r, Resource::Service(_)));
        mesh.extend(services.into_iter().map(Resource::from));
        let snapshot = store(mesh.clone()).handle().load();
        let destination = served(&snapshot, vip(1));
        assert_eq!(destination.is_some(), is_served_here, "{what}");
        assert!(destination.is_none_or(|d| matches!(&d.kind, DestinationKind::Service(key) if *key == owner)), "{what}");
        let in_zoo = mesh.iter().any(|r| matches!(r, Resource::Service(service) if *service.key.namespace == *"zoo"));
        let mut node = Store::new(NodeCompiler::new(Own::Workloads([].into()), ROOT));
        node.apply(mesh.into_iter().map(Change::Upsert));
        let snapshot = node.handle().load();
        let meant = |client| snapshot.service(vip(1).ip(), client).unwrap().service.key.clone();
        assert_eq!(meant("elsewhere"), owner, "{what}");
        // A client means its own namespace's first, whoever comes first for all others.
        assert_eq!(*meant("zoo").namespace == *"zoo", in_zoo, "{what}");
    }
}

#[test]
fn a_selected_workload_on_another_network_is_reached_there_or_not_at_all() {
    let far = Workload { l4: WorkloadL4 { network: Some("east".into()), ..WorkloadL4::default() }, ..pod("app", "a", 1) };
    let mut mesh = app();
    mesh.push(Resource::from(far));
    // Its address may be another's here: a waypoint, which knows no other networks, must not send to that.
    let waypoint = store(mesh.clone()).handle().load();
    assert_eq!(endpoint_addresses(&served(&waypoint, vip(1)).unwrap()), Vec::<String>::new());
    let mut node = Store::new(NodeCompiler::new(Own::Node(None), ROOT));
    node.apply(mesh.into_iter().map(Change::Upsert));
    let snapshot = node.handle().load();
    let endpoints = snapshot.service(vip(1).ip(), "app").unwrap().ports[&80].endpoints();
    let networks: Vec<_> = endpoints.ready.iter().map(|e| e.workload.as_ref().and_then(|w| w.l4.network.as_deref())).collect();
    assert_eq!(networks, [Some("east")]);
}

#[test]
fn a_policy_that_a_workload_lists_is_enforced_whatever_its_scope() {
    for target in [PolicyTarget::Listed, PolicyTarget::Namespace, PolicyTarget::Mesh, PolicyTarget::Selector(labels(&[("app", "z")]))] {
        let listing = WorkloadL4 { policies: vec![ResourceName::new("zoo", "p")], ..WorkloadL4::default() };
        let mut node = Store::new(NodeCompiler::new(Own::Node(None), ROOT));
        let workloads = [Workload { l4: listing, ..pod("app", "a", 1) }, pod("app", "b", 2)].map(Resource::from);
        let policy = Resource::from(deny("zoo", "p", target.clone(), 1));
        node.apply(workloads.into_iter().chain([policy]).map(Change::Upsert));
        let rules = |ip| node.handle().load().workload(IpAddr::from([10, 2, 0, ip])).unwrap().rules.len();
        // Once each, also where it is for all.
        assert_eq!((rules(1), rules(2)), (1, usize::from(target == PolicyTarget::Mesh)), "{target:?}");
    }
}

#[test]
fn a_policy_that_a_workload_lists_and_that_is_not_there_is_told_of_once() {
    let file = Arc::new(tempfile::tempfile().unwrap());
    let log = tracing_subscriber::fmt().with_ansi(false).with_writer(file.clone()).finish();
    let told = || {
        let mut text = String::new();
        (&*file).rewind().unwrap();
        (&*file).read_to_string(&mut text).unwrap();
        text.lines().filter(|line| line.contains("lists a policy that does not exist")).count()
    };
    let listing = |names: &[&str]| {
        let policies = names.iter().map(|name| ResourceName::new("zoo", name)).collect();
        Resource::from(Workload { l4: WorkloadL4 { policies, ..WorkloadL4::default() }, ..pod("app", "a", 1) })
    };
    let policy = |name| Resource::from(deny("zoo", name, PolicyTarget::Listed, 1));
    let gone = |name| Change::Remove(ResourceKey::Policy(ResourceName::new("zoo", name)));
    let uid = pod("app", "a", 1).uid;
    let mut node = Store::new(NodeCompiler::new(Own::Node(None), ROOT));
    tracing::subscriber::with_default(log, || {
        for (what, change, want) in [
            ("one", Change::Upsert(listing(&["p"])), 1),
            ("another policy comes", Change::Upsert(policy("other")), 1),
            ("another is listed", Change::Upsert(listing(&["p", "q"])), 2),
            ("one comes", Change::Upsert(policy("p")), 2),
            ("and goes", gone("p"), 3),
            ("another goes", gone("other"), 3),
            ("the workload goes", Change::Remove(ResourceKey::Workload(uid)), 3),
            ("and comes back", Change::Upsert(listing(&["p"])), 4),
        ] {
            node.apply([change]);
            assert_eq!(told(), want, "{what}");
        }
    });
}
