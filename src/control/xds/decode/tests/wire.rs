//! The wire form of each message, written by hand from the tables of the contract (3.2, 3.3, 3.4, 5):
//! read with the generated types, compared field by field, and written back to the same bytes.

use super::*;
use crate::proto::{ca, discovery};
use std::{collections::BTreeMap, fmt::Debug};

/// A base-128 varint, least significant group first.
fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value > 0x7f {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// A field of wire type 0.
fn number(field: u64, value: u64) -> Vec<u8> {
    [varint(field << 3), varint(value)].concat()
}

/// A field of wire type 2: text, bytes, a message, or packed numbers.
fn chunk(field: u64, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let payload = payload.as_ref();
    [varint(field << 3 | 2), varint(payload.len() as u64), payload.to_vec()].concat()
}

/// Both ways.
fn same<M: Message + Default + PartialEq + Debug>(wire: &[Vec<u8>], message: M) {
    let wire = wire.concat();
    assert_eq!(M::decode(&*wire).unwrap(), message);
    assert_eq!(message.encode_to_vec(), wire, "{message:?}");
}

/// An enumeration has these numbers, these names, and no other.
fn numbers<E: TryFrom<i32> + Copy + Debug>(name: impl Fn(&E) -> &'static str, want: &[(i32, &str)]) {
    let has: Vec<(i32, &str)> = (-1..32).filter_map(|number| Some((number, name(&E::try_from(number).ok()?)))).collect();
    assert_eq!(has, want);
}

fn any() -> prost_types::Any {
    prost_types::Any { type_url: "t/x".into(), value: vec![1, 2] }
}

/// google.protobuf.Any: type_url=1, value=2.
fn any_wire() -> Vec<u8> {
    [chunk(1, "t/x"), chunk(2, [1, 2])].concat()
}

fn gateway() -> proto::GatewayAddress {
    named("gn", "gh", 15008)
}

fn gateway_wire() -> Vec<u8> {
    let hostname = [chunk(1, "gn"), chunk(2, "gh")].concat();
    [chunk(1, hostname), number(3, 15008)].concat()
}

#[test]
fn addresses_and_places() {
    let address = [chunk(1, "net"), chunk(2, [10, 0, 0, 1]), number(3, 24)];
    same(&address, on_network("net", "10.0.0.1", Some(24)));
    // Present although 0: a range, of everything.
    same(&[chunk(2, [0; 4]), number(3, 0)], on_network("", "0.0.0.0", Some(0)));
    same(&[chunk(1, "ns"), chunk(2, "host")], proto::NamespacedHostname { namespace: "ns".into(), hostname: "host".into() });
    same(&[gateway_wire()], gateway());
    same(&[chunk(2, address.concat()), number(3, 65535)], addressed(on_network("net", "10.0.0.1", Some(24)), 65535));
    let weighted = proto::WeightedWaypoint { destination: Some(gateway()), weight: 300 };
    same(&[chunk(1, gateway_wire()), number(2, 300)], weighted);
}

#[test]
fn the_parts_of_services_and_workloads() {
    same(&[number(1, 80), number(2, 8080), number(3, 5)], port(80, 8080, 5));
    let list = proto::PortList { ports: vec![port(80, 8080, 0), port(443, 0, 1)] };
    same(&[chunk(1, [number(1, 80), number(2, 8080)].concat()), chunk(1, [number(1, 443), number(3, 1)].concat())], list);
    let locality = proto::Locality { region: "r".into(), zone: "z".into(), subzone: "s".into() };
    same(&[chunk(1, "r"), chunk(2, "z"), chunk(3, "s")], locality);
    same(&[number(1, 1), number(2, 15088)], proto::ApplicationTunnel { protocol: 1, port: 15088 });
    same(&[chunk(1, "x"), chunk(2, any_wire())], proto::Extension { name: "x".into(), config: Some(any()) });
    let balancing = proto::LoadBalancing { routing_preference: vec![6, 2], mode: 3, health_policy: 1 };
    same(&[chunk(1, [6, 2]), number(2, 3), number(3, 1)], balancing.clone());
    // Those who do not pack numbers are understood as well.
    let unpacked = [number(1, 6), number(1, 2), number(2, 3), number(3, 1)].concat();
    assert_eq!(proto::LoadBalancing::decode(&*unpacked).unwrap(), balancing);
}

#[test]
fn a_service() {
    let message = proto::Service {
        name: "a".into(),
        namespace: "b".into(),
        hostname: "c".into(),
        addresses: vec![on_network("", "10.0.0.1", None), on_network("", "fd00::1", None)],
        ports: vec![port(80, 0, 0)],
        subject_alt_names: vec!["d".into(), "e".into()],
        waypoint: Some(gateway()),
        load_balancing: Some(proto::LoadBalancing { routing_preference: vec![], mode: 1, health_policy: 0 }),
        ip_families: 3,
        extensions: vec![proto::Extension { name: "x".into(), config: None }],
        canonical: true,
        ingress_use_waypoint: true,
        weighted_waypoints: vec![proto::WeightedWaypoint { destination: None, weight: 7 }],
        visibility: 1,
    };
    let wire = [
        chunk(1, "a"),
        chunk(2, "b"),
        chunk(3, "c"),
        chunk(4, chunk(2, [10, 0, 0, 1])),
        chunk(4, chunk(2, raw("fd00::1"))),
        chunk(5, number(1, 80)),
        chunk(6, "d"),
        chunk(6, "e"),
        chunk(7, gateway_wire()),
        chunk(8, number(2, 1)),
        number(9, 3),
        chunk(10, chunk(1, "x")),
        number(11, 1),
        number(12, 1),
        chunk(13, number(2, 7)),
        number(14, 1),
    ];
    same(&wire, message.clone());
    same(&[chunk(2, wire.concat())], proto::Address { r#type: Some(Type::Service(message)) });
}

#[test]
fn a_workload() {
    let message = proto::Workload {
        uid: "u".into(),
        name: "a".into(),
        namespace: "b".into(),
        addresses: vec![raw("10.0.0.1"), raw("fd00::1")],
        hostname: "c".into(),
        network: "d".into(),
        tunnel_protocol: 1,
        trust_domain: "e".into(),
        service_account: "f".into(),
        waypoint: Some(gateway()),
        network_gateway: Some(named("x", "y", 1)),
        node: "g".into(),
        canonical_name: "h".into(),
        canonical_revision: "i".into(),
        workload_type: 3,
        workload_name: "j".into(),
        native_tunnel: true,
        application_tunnel: Some(proto::ApplicationTunnel { protocol: 1, port: 0 }),
        services: [("k".to_owned(), proto::PortList { ports: vec![port(80, 0, 0)] }), ("l".to_owned(), proto::PortList::default())].into(),
        authorization_policies: vec!["m".into(), "n".into()],
        status: 1,
        cluster_id: "o".into(),
        locality: Some(proto::Locality { region: "r".into(), ..Default::default() }),
        network_mode: 1,
        extensions: vec![proto::Extension { name: "x".into(), config: None }],
        capacity: Some(300),
    };
    let other_gateway = [chunk(1, [chunk(1, "x"), chunk(2, "y")].concat()), number(3, 1)].concat();
    // A map is a list of pairs: key=1, value=2.
    let services = [[chunk(1, "k"), chunk(2, chunk(1, number(1, 80)))].concat(), chunk(1, "l")];
    let wire = [
        chunk(1, "a"),
        chunk(2, "b"),
        chunk(3, [10, 0, 0, 1]),
        chunk(3, raw("fd00::1")),
        chunk(4, "d"),
        number(5, 1),
        chunk(6, "e"),
        chunk(7, "f"),
        chunk(8, gateway_wire()),
        chunk(9, "g"),
        chunk(10, "h"),
        chunk(11, "i"),
        number(12, 3),
        chunk(13, "j"),
        number(14, 1),
        chunk(16, "m"),
        chunk(16, "n"),
        number(17, 1),
        chunk(18, "o"),
        chunk(19, other_gateway),
        chunk(20, "u"),
        chunk(21, "c"),
        chunk(22, &services[0]),
        chunk(22, &services[1]),
        chunk(23, number(1, 1)),
        chunk(24, chunk(1, "r")),
        number(25, 1),
        chunk(26, chunk(1, "x")),
        // google.protobuf.UInt32Value: value=1.
        chunk(27, number(1, 300)),
    ];
    same(&wire, message.clone());
    same(&[chunk(1, wire.concat())], proto::Address { r#type: Some(Type::Workload(message)) });
    // Set to 0 is not the same as not set.
    assert_eq!(proto::Workload::decode(&*chunk(27, [])).unwrap().capacity, Some(0));
}

fn string(match_type: security::string_match::MatchType) -> security::StringMatch {
    security::StringMatch { match_type: Some(match_type) }
}

#[test]
fn a_policy() {
    use security::string_match::MatchType::{Exact, Prefix, Presence, Suffix};
    let address = |last, length| security::Address { address: Bytes::copy_from_slice(&[10, 0, 0, last]), length };
    let account = |namespace: &str, service_account: &str| security::ServiceAccountMatch {
        namespace: namespace.into(),
        service_account: service_account.into(),
    };
    let extension = || security::Extension { name: "x".into(), config: Some(any()) };
    let matching = security::Match {
        namespaces: vec![string(Exact("a".into()))],
        not_namespaces: vec![string(Prefix("b".into()))],
        principals: vec![string(Suffix("c".into()))],
        not_principals: vec![string(Presence(())), string(Exact("d".into()))],
        source_ips: vec![address(5, 32)],
        not_source_ips: vec![address(6, 24)],
        destination_ips: vec![address(7, 8)],
        not_destination_ips: vec![address(8, 0)],
        destination_ports: vec![9, 300],
        not_destination_ports: vec![10],
        service_accounts: vec![account("e", "f")],
        not_service_accounts: vec![account("g", "h")],
        extensions: vec![extension()],
    };
    let address = |last, length: Option<u64>| {
        let length = length.map(|length| number(2, length)).unwrap_or_default();
        [chunk(1, [10, 0, 0, last]), length].concat()
    };
    let account = |namespace: &str, account: &str| [chunk(1, namespace), chunk(2, account)].concat();
    let extension_wire = [chunk(1, "x"), chunk(2, any_wire())].concat();
    let matching_wire = [
        chunk(1, chunk(1, "a")),
        chunk(2, chunk(2, "b")),
        chunk(3, chunk(3, "c")),
        // google.protobuf.Empty has no field.
        chunk(4, chunk(4, [])),
        chunk(4, chunk(1, "d")),
        chunk(5, address(5, Some(32))),
        chunk(6, address(6, Some(24))),
        chunk(7, address(7, Some(8))),
        chunk(8, address(8, None)),
        chunk(9, [varint(9), varint(300)].concat()),
        chunk(10, varint(10)),
        chunk(11, account("e", "f")),
        chunk(12, account("g", "h")),
        chunk(13, &extension_wire),
    ];
    same(&matching_wire, matching.clone());
    let rule = security::Rule { clauses: vec![security::Clause { matches: vec![matching] }] };
    let message = security::Authorization {
        name: "n".into(),
        namespace: "s".into(),
        scope: 2,
        action: 1,
        rules: vec![rule, security::Rule::default()],
        dry_run: true,
        extensions: vec![extension()],
    };
    let rule_wire = chunk(1, chunk(2, matching_wire.concat()));
    let wire = [
        chunk(1, "n"),
        chunk(2, "s"),
        number(3, 2),
        number(4, 1),
        chunk(5, rule_wire),
        chunk(5, []),
        number(6, 1),
        chunk(7, extension_wire),
    ];
    same(&wire, message);
}

#[test]
fn each_enumeration() {
    numbers(proto::Visibility::as_str_name, &[(0, "PUBLIC"), (1, "NAMESPACE")]);
    numbers(proto::IpFamilies::as_str_name, &[(0, "AUTOMATIC"), (1, "IPV4_ONLY"), (2, "IPV6_ONLY"), (3, "DUAL")]);
    numbers(proto::WorkloadStatus::as_str_name, &[(0, "HEALTHY"), (1, "UNHEALTHY")]);
    numbers(proto::WorkloadType::as_str_name, &[(0, "DEPLOYMENT"), (1, "CRONJOB"), (2, "POD"), (3, "JOB")]);
    numbers(proto::TunnelProtocol::as_str_name, &[(0, "NONE"), (1, "HBONE"), (2, "LEGACY_ISTIO_MTLS")]);
    numbers(proto::NetworkMode::as_str_name, &[(0, "STANDARD"), (1, "HOST_NETWORK")]);
    numbers(proto::AppProtocol::as_str_name, &[(0, "UNKNOWN"), (1, "HTTP11"), (2, "HTTP2"), (3, "GRPC"), (4, "TCP"), (5, "TLS")]);
    numbers(proto::application_tunnel::Protocol::as_str_name, &[(0, "NONE"), (1, "PROXY")]);
    numbers(
        proto::load_balancing::Scope::as_str_name,
        &[(0, "UNSPECIFIED_SCOPE"), (1, "REGION"), (2, "ZONE"), (3, "SUBZONE"), (4, "NODE"), (5, "CLUSTER"), (6, "NETWORK")],
    );
    numbers(proto::load_balancing::Mode::as_str_name, &[(0, "UNSPECIFIED_MODE"), (1, "STRICT"), (2, "FAILOVER"), (3, "PASSTHROUGH")]);
    numbers(proto::load_balancing::HealthPolicy::as_str_name, &[(0, "ONLY_HEALTHY"), (1, "ALLOW_ALL")]);
    numbers(security::Scope::as_str_name, &[(0, "GLOBAL"), (1, "NAMESPACE"), (2, "WORKLOAD_SELECTOR")]);
    numbers(security::Action::as_str_name, &[(0, "ALLOW"), (1, "DENY")]);
}

/// A map of one string, with its wire form: fields=1, pairs of key=1 and value=2, string_value=3.
fn metadata(key: &str, value: &str) -> (prost_types::Struct, Vec<u8>) {
    let text = prost_types::Value { kind: Some(prost_types::value::Kind::StringValue(value.into())) };
    let wire = chunk(1, [chunk(1, key), chunk(2, chunk(3, value))].concat());
    (prost_types::Struct { fields: BTreeMap::from([(key.to_owned(), text)]) }, wire)
}

#[test]
fn delta_discovery() {
    let (metadata, metadata_wire) = metadata("NODE_NAME", "n1");
    let node = discovery::Node { id: "ztunnel~1.1.1.1~p.n~n.svc.cluster.local".into(), cluster: "c".into(), metadata: Some(metadata) };
    let node_wire = [chunk(1, &node.id), chunk(2, "c"), chunk(3, metadata_wire)];
    same(&node_wire, node.clone());
    let any = discovery::Any { type_url: "t/x".into(), value: Bytes::from_static(&[1, 2]) };
    same(&[any_wire()], any.clone());
    let status = discovery::Status { code: 13, message: "name: reason".into(), details: vec![any.clone()] };
    let status_wire = [number(1, 13), chunk(2, "name: reason"), chunk(3, any_wire())];
    same(&status_wire, status.clone());
    let request = discovery::DeltaDiscoveryRequest {
        node: Some(node),
        type_url: "type.googleapis.com/istio.workload.Address".into(),
        resource_names_subscribe: vec!["*".into(), "a".into()],
        resource_names_unsubscribe: vec!["b".into()],
        initial_resource_versions: [("k".to_owned(), "v1".to_owned()), ("l".to_owned(), String::new())].into(),
        response_nonce: "n".into(),
        error_detail: Some(status),
    };
    let wire = [
        chunk(1, node_wire.concat()),
        chunk(2, "type.googleapis.com/istio.workload.Address"),
        chunk(3, "*"),
        chunk(3, "a"),
        chunk(4, "b"),
        chunk(5, [chunk(1, "k"), chunk(2, "v1")].concat()),
        chunk(5, chunk(1, "l")),
        chunk(6, "n"),
        chunk(7, status_wire.concat()),
    ];
    same(&wire, request);
    let resource = discovery::Resource {
        version: "v1".into(),
        resource: Some(any),
        name: "k".into(),
        aliases: vec!["/10.0.0.1".into(), "/10.0.0.2".into()],
    };
    let resource_wire = [chunk(1, "v1"), chunk(2, any_wire()), chunk(3, "k"), chunk(4, "/10.0.0.1"), chunk(4, "/10.0.0.2")].concat();
    same(std::slice::from_ref(&resource_wire), resource.clone());
    // ttl=6 and cache_control=7 are of no use here.
    let more = [resource_wire.clone(), chunk(6, number(1, 30)), chunk(7, number(1, 1))].concat();
    assert_eq!(discovery::Resource::decode(&*more).unwrap(), resource);
    let response = discovery::DeltaDiscoveryResponse {
        system_version_info: "s".into(),
        resources: vec![resource, discovery::Resource::default()],
        type_url: "t".into(),
        nonce: "n".into(),
        removed_resources: vec!["x".into(), "y".into()],
    };
    let wire = [chunk(1, "s"), chunk(2, resource_wire), chunk(2, []), chunk(4, "t"), chunk(5, "n"), chunk(6, "x"), chunk(6, "y")];
    same(&wire, response);
}

#[test]
fn services_are_called_by_these_names() {
    use ca::istio_certificate_service_server as certificates;
    use discovery::aggregated_discovery_service_server as discovery;
    assert_eq!(discovery::SERVICE_NAME, "envoy.service.discovery.v3.AggregatedDiscoveryService");
    assert_eq!(certificates::SERVICE_NAME, "istio.v1.auth.IstioCertificateService");
}

#[test]
fn certificates() {
    let (metadata, metadata_wire) = metadata("ImpersonatedIdentity", "spiffe://td/ns/a/sa/b");
    let request = ca::IstioCertificateRequest { csr: "pem".into(), validity_duration: 86400, metadata: Some(metadata) };
    same(&[chunk(1, "pem"), number(3, 86400), chunk(4, metadata_wire)], request);
    let response = ca::IstioCertificateResponse { cert_chain: vec!["leaf".into(), "root".into()] };
    same(&[chunk(1, "leaf"), chunk(1, "root")], response);
}

fn hex(text: &str) -> Vec<u8> {
    text.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
}

#[test]
fn bytes_as_they_are() {
    // Address { service { name: "a", hostname: "b", visibility: NAMESPACE } }
    let service = proto::Service { name: "a".into(), hostname: "b".into(), visibility: 1, ..Default::default() };
    same(&[hex("12 08  0a 01 61  1a 01 62  70 01")], proto::Address { r#type: Some(Type::Service(service)) });
    // Address { workload { addresses: 127.0.0.1, tunnel_protocol: HBONE, uid: "u", capacity: 2 } }
    let workload =
        proto::Workload { uid: "u".into(), addresses: vec![raw("127.0.0.1")], tunnel_protocol: 1, capacity: Some(2), ..Default::default() };
    let wire = hex("0a 11  1a 04 7f 00 00 01  28 01  a2 01 01 75  da 01 02 08 02");
    same(&[wire], proto::Address { r#type: Some(Type::Workload(workload)) });
    // Authorization { scope: NAMESPACE, action: DENY, rules { clauses { matches { destination_ports: 443 } } } }
    let matching = security::Match { destination_ports: vec![443], ..Default::default() };
    let rules = vec![security::Rule { clauses: vec![security::Clause { matches: vec![matching] }] }];
    let policy = security::Authorization { scope: 1, action: 1, rules, ..Default::default() };
    same(&[hex("18 01  20 01  2a 08  0a 06  12 04  4a 02 bb 03")], policy);
    // DeltaDiscoveryRequest { response_nonce: "n", error_detail { message: "m" } }
    let error_detail = Some(discovery::Status { message: "m".into(), ..Default::default() });
    let nack = discovery::DeltaDiscoveryRequest { response_nonce: "n".into(), error_detail, ..Default::default() };
    same(&[hex("32 01 6e  3a 03  12 01 6d")], nack);
    // IstioCertificateRequest { csr: "c", validity_duration: 86400 }
    let request = ca::IstioCertificateRequest { csr: "c".into(), validity_duration: 86400, metadata: None };
    same(&[hex("0a 01 63  18 80 a3 05")], request);
}
