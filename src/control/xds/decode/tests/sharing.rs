//! Texts that resources have in common are held once, by whichever of them they came first.

use super::*;
use crate::model::Name;
use std::sync::Arc;

fn resource(decoder: &mut Decoder, of: Type) -> Resource {
    decoder.address("", bytes_of(of)).unwrap()
}

/// A workload all texts of which others may have too.
fn replica(i: usize) -> proto::Workload {
    proto::Workload {
        uid: format!("Kubernetes//Pod/demo/server-{i}"),
        name: format!("server-{i}"),
        network: "east".into(),
        node: "n1".into(),
        canonical_name: "server".into(),
        canonical_revision: "v1".into(),
        workload_name: "server".into(),
        hostname: "server.example".into(),
        services: [("demo/s.demo.svc.cluster.local".to_owned(), proto::PortList::default())].into(),
        authorization_policies: vec!["demo/pol".into()],
        locality: Some(proto::Locality { region: "r".into(), zone: "z".into(), subzone: "s".into() }),
        waypoint: Some(named("demo", "wp.demo.svc.cluster.local", 15008)),
        network_gateway: Some(addressed(on_network("east", "10.0.0.9", None), 15008)),
        ..workload()
    }
}

fn texts(workload: &Workload) -> Vec<Name> {
    let place = |gateway: &GatewayAddress| match &gateway.destination {
        GatewayDestination::Address(address) => vec![address.network.clone().unwrap()],
        GatewayDestination::Hostname(key) => vec![key.namespace.clone(), key.hostname.name()],
    };
    let crate::model::WaypointBinding::At(waypoint) = &workload.waypoint else { panic!() };
    let l4 = &workload.l4;
    let own = [
        &workload.namespace,
        &workload.node,
        &workload.cluster,
        &workload.canonical_name,
        &workload.canonical_revision,
        &workload.workload_name,
        &workload.locality.region,
        &workload.locality.zone,
        &workload.locality.subzone,
        l4.network.as_ref().unwrap(),
        &l4.policies[0].namespace,
        &l4.policies[0].name,
        &l4.services[0].0.namespace,
    ];
    let hosts = [l4.services[0].0.hostname.name(), l4.hostname.as_ref().unwrap().name(), workload.identity.name()];
    [own.map(Clone::clone).to_vec(), hosts.to_vec(), place(waypoint), place(l4.gateway.as_ref().unwrap())].concat()
}

#[test]
fn by_workloads_and_services() {
    let mut decoder = decoder();
    let mut workload = |i| {
        let Resource::Workload(workload) = resource(&mut decoder, Type::Workload(replica(i))) else { panic!() };
        workload
    };
    let (one, other) = (workload(1), workload(2));
    assert_ne!(one.uid, other.uid);
    for (one, other) in texts(&one).iter().zip(&texts(&other)) {
        assert!(Arc::ptr_eq(one, other), "{one}");
    }
    let Resource::Service(service) = resource(&mut decoder, Type::Service(service())) else { panic!() };
    assert!(Arc::ptr_eq(&service.key.hostname.name(), &one.l4.services[0].0.hostname.name()));
    assert!(Arc::ptr_eq(&service.key.namespace, &one.namespace));
    assert!(Arc::ptr_eq(&service.source.name.namespace, &one.namespace));
}

#[test]
fn by_policies() {
    let mut decoder = decoder();
    let Ok(Resource::Policy(policy)) = decoder.authorization("demo/p", policy().encode_to_vec().into()) else { panic!() };
    let Resource::Workload(workload) = resource(&mut decoder, Type::Workload(replica(1))) else { panic!() };
    assert!(Arc::ptr_eq(&policy.name.namespace, &workload.namespace));
}
