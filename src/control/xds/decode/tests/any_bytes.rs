//! Whatever comes, something is said about it, and a policy is never lost.

use super::*;
use crate::model::Name;
use proptest::{collection::vec, prelude::*, sample::Index};

/// Valid messages, and each as a resource is called that carries it.
fn samples() -> Vec<(&'static str, Vec<u8>)> {
    let workload = proto::Workload {
        addresses: vec![raw("10.0.0.1"), raw("fd00::1")],
        tunnel_protocol: 1,
        waypoint: Some(named("demo", "wp.demo.svc.cluster.local", 15008)),
        network_gateway: Some(addressed(on_network("east", "10.0.0.9", Some(32)), 15008)),
        services: [("demo/s.demo.svc.cluster.local".to_owned(), proto::PortList { ports: vec![port(80, 8080, 1)] })].into(),
        authorization_policies: vec!["demo/p".into()],
        capacity: Some(2),
        ..workload()
    };
    let service = proto::Service {
        addresses: vec![on_network("", "10.96.0.10", None), on_network("", "fd00::", Some(64))],
        ports: vec![port(80, 8080, 1)],
        waypoint: Some(addressed(on_network("", "10.0.0.9", None), 15008)),
        load_balancing: Some(proto::LoadBalancing { routing_preference: vec![1, 2], mode: 1, health_policy: 1 }),
        weighted_waypoints: vec![proto::WeightedWaypoint { destination: Some(named("demo", "wp", 15008)), weight: 1 }],
        ..service()
    };
    let string = |text: &str| security::StringMatch { match_type: Some(security::string_match::MatchType::Prefix(text.into())) };
    let matching = security::Match {
        namespaces: vec![string("a")],
        principals: vec![string("td/")],
        source_ips: vec![security::Address { address: raw("10.0.0.0"), length: 8 }],
        destination_ports: vec![80],
        service_accounts: vec![security::ServiceAccountMatch { namespace: "a".into(), service_account: "b".into() }],
        ..Default::default()
    };
    let rules = vec![security::Rule { clauses: vec![security::Clause { matches: vec![matching] }] }];
    vec![
        ("u", bytes_of(Type::Workload(workload)).to_vec()),
        ("demo/s.demo.svc.cluster.local", bytes_of(Type::Service(service)).to_vec()),
        ("demo/p", security::Authorization { rules, ..policy() }.encode_to_vec()),
    ]
}

/// A sample of which some bytes are others, perhaps with some in between, perhaps with an end missing.
fn changed() -> impl Strategy<Value = (&'static str, Vec<u8>)> {
    let changes = vec((any::<Index>(), any::<u8>()), 0..6);
    let more = proptest::option::of((any::<Index>(), vec(any::<u8>(), 1..8)));
    (any::<Index>(), changes, more, proptest::option::of(any::<Index>())).prop_map(|(which, changes, more, end)| {
        let (name, mut bytes) = which.get(&samples()).clone();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some((at, more)) = more {
            let at = at.index(bytes.len());
            bytes.splice(at..at, more);
        }
        if let Some(end) = end {
            bytes.truncate(end.index(bytes.len()));
        }
        (name, bytes)
    })
}

fn decode(name: &str, bytes: Vec<u8>) {
    let value = Bytes::from(bytes);
    match decoder().address(name, value.clone()) {
        Ok(Resource::Workload(workload)) => assert_eq!(*workload.uid, *name),
        Ok(Resource::Service(service)) => assert_eq!(service.key.to_string(), name),
        Ok(_) => panic!("neither a workload nor a service"),
        Err(rejected) => assert!(!rejected.reason.is_empty() && rejected.denying.is_none()),
    }
    match decoder().authorization(name, value) {
        Ok(Resource::Policy(policy)) => assert_eq!((policy.name.to_string().as_str(), &policy.invalid), (name, &None)),
        Ok(_) => panic!("not a policy"),
        Err(rejected) => {
            assert!(!rejected.reason.is_empty());
            assert_eq!(rejected.denying.unwrap().invalid, Some(Name::from(rejected.reason)));
        }
    }
}

#[test]
fn samples_are_valid() {
    let samples = samples();
    for (name, bytes) in &samples[..2] {
        assert!(decoder().address(name, bytes.clone().into()).is_ok());
    }
    let (name, bytes) = &samples[2];
    assert!(decoder().authorization(name, bytes.clone().into()).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn never_panics(bytes in vec(any::<u8>(), 0..200)) {
        decode("demo/p", bytes);
    }

    #[test]
    fn never_panics_on_what_is_nearly_right((name, bytes) in changed()) {
        decode(name, bytes);
    }
}
