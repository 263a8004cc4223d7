//! Decodes ServiceEntry with static endpoints: one service for each host.

use super::{
    core::named_protocol,
    decode::{Cx, Outcome, labels},
    istio::{Location, Object, Port, Resolution, ServiceEntrySpec},
    pod::CLUSTER,
    workload_entry,
};
use crate::model::{
    AppProtocol, Endpoint, Endpoints, Hostname, Kind, Name, Resource, ResourceId, Service, ServiceKey, ServiceL4, ServicePort, TargetPort,
    WaypointBinding, Workload,
};
use std::{collections::HashSet, net::IpAddr};

pub(super) fn service_entry(cx: &mut Cx<'_>) -> Option<Outcome> {
    let object: Object<ServiceEntrySpec> = cx.typed()?;
    let waypoint = cx.binding(object.metadata.labels.as_ref());
    let Some(spec) = object.spec else {
        cx.error("spec", "spec is required");
        return None;
    };
    check(cx, &spec);
    let (vips, ports) = (vips(cx, &spec), ports(cx, &spec.ports));
    let (workloads, endpoints) = endpoints(cx, &spec, &ports);
    let mut resources: Vec<Resource> = workloads.into_iter().map(Resource::from).collect();
    for host in hosts(cx, &spec) {
        resources.extend(host_resources(cx, &spec, &host, &waypoint, &vips, &ports, &endpoints));
    }
    Some(Outcome::Resources(resources))
}

#[allow(clippy::too_many_arguments, reason = "each is one part of the same entry; a struct would only rename them")]
fn host_resources(
    cx: &Cx<'_>,
    spec: &ServiceEntrySpec,
    host: &Hostname,
    waypoint: &WaypointBinding,
    vips: &[IpAddr],
    ports: &[ServicePort],
    endpoints: &[Endpoint],
) -> Vec<Resource> {
    let key = ServiceKey { namespace: cx.namespace(), hostname: host.clone() };
    let service = Service {
        key: key.clone(),
        source: cx.id.clone(),
        vips: vips.to_vec(),
        ports: ports.to_vec(),
        selector: spec.workload_selector.as_ref().map(|s| labels(Some(&s.labels))),
        waypoint: waypoint.clone(),
        publish_not_ready: false,
        external: spec.location != Some(Location::Internal),
        subject_alt_names: spec.subject_alt_names.iter().map(|n| n.as_str().into()).collect(),
        l4: ServiceL4::default(),
    };
    let mut resources = vec![Resource::from(service)];
    if !endpoints.is_empty() {
        let source = ResourceId::new(Kind::ServiceEntry, &cx.id.name.namespace, &format!("{}/{host}", cx.id.name.name));
        resources.push(Resource::from(Endpoints { source, service: key, endpoints: endpoints.to_vec() }));
    }
    resources
}

fn check(cx: &mut Cx<'_>, spec: &ServiceEntrySpec) {
    match spec.resolution {
        Some(Resolution::Static) => {}
        Some(Resolution::None) | None => cx.error("spec.resolution", "not implemented: resolution NONE; only STATIC endpoints are served"),
        Some(Resolution::Dns | Resolution::DnsRoundRobin | Resolution::DynamicDns) => {
            cx.error("spec.resolution", "not implemented: resolution by DNS; only STATIC endpoints are served");
        }
    }
    if spec.ports.is_empty() {
        cx.error("spec.ports", "at least one port is required");
    }
    if spec.workload_selector.is_some() && !spec.endpoints.is_empty() {
        cx.error("spec.workloadSelector", "endpoints and workloadSelector exclude each other");
    }
    if spec.workload_selector.as_ref().is_some_and(|s| s.labels.is_empty()) {
        cx.error("spec.workloadSelector.labels", "at least one label is required");
    }
    if !spec.export_to.is_empty() {
        cx.warn("spec.exportTo", "visibility is not supported; every namespace sees this service");
    }
}

fn hosts(cx: &mut Cx<'_>, spec: &ServiceEntrySpec) -> Vec<Hostname> {
    if spec.hosts.is_empty() {
        cx.error("spec.hosts", "at least one host is required");
    }
    let (mut seen, mut hosts) = (HashSet::new(), Vec::new());
    for (i, text) in spec.hosts.iter().enumerate() {
        let (field, host) = (format!("spec.hosts[{i}]"), Hostname::new(text));
        if text.contains('*') {
            cx.error(&field, "not implemented: wildcard hosts");
        } else if !super::decode::is_dns_name(host.as_str()) {
            cx.error(&field, format!("{text:?} is not a host name"));
        } else if !seen.insert(host.clone()) {
            cx.error(&field, format!("host {host} is listed twice"));
        } else {
            hosts.push(host);
        }
    }
    hosts
}

fn vips(cx: &mut Cx<'_>, spec: &ServiceEntrySpec) -> Vec<IpAddr> {
    let mut vips = Vec::new();
    for (i, text) in spec.addresses.iter().enumerate() {
        let field = format!("spec.addresses[{i}]");
        match text.parse::<ipnet::IpNet>() {
            // A network of one address is that address.
            Ok(net) if net.prefix_len() == net.max_prefix_len() => vips.push(cx.claim(&field, net.addr())),
            Ok(_) => cx.error(&field, "not implemented: address ranges"),
            Err(_) => vips.extend(cx.ip(&field, text).map(|ip| cx.claim(&field, ip))),
        }
    }
    vips
}

fn ports(cx: &mut Cx<'_>, ports: &[Port]) -> Vec<ServicePort> {
    let (mut names, mut numbers, mut decoded) = (HashSet::new(), HashSet::new(), Vec::new());
    for (i, port) in ports.iter().enumerate() {
        let field = format!("spec.ports[{i}]");
        if port.name.is_empty() || !names.insert(port.name.as_str()) {
            cx.error(&format!("{field}.name"), format!("port name {:?} is empty or used twice", port.name));
        }
        let Some(number) = cx.port(&format!("{field}.number"), port.number) else { continue };
        if !numbers.insert(number) {
            cx.error(&format!("{field}.number"), format!("port {number} is declared twice"));
        }
        let target = match port.target_port {
            None | Some(0) => Some(number),
            Some(target) => cx.port(&format!("{field}.targetPort"), target),
        };
        let Some(protocol) = protocol(cx, &format!("{field}.protocol"), port, number) else { continue };
        let Some(target) = target else { continue };
        decoded.push(ServicePort { name: port.name.as_str().into(), port: number, target: TargetPort::Number(target), protocol });
    }
    decoded
}

fn protocol(cx: &mut Cx<'_>, field: &str, port: &Port, number: u16) -> Option<AppProtocol> {
    let word = port.protocol.to_ascii_lowercase();
    match word.as_str() {
        "" => Some(super::core::protocol(None, &port.name, number)),
        "udp" => {
            cx.warn(field, "UDP is not served; port skipped");
            None
        }
        "grpc-web" => Some(AppProtocol::Http),
        _ => {
            let protocol = named_protocol(&word);
            if protocol.is_none() {
                cx.error(field, format!("unknown protocol {:?}", port.protocol));
            }
            protocol
        }
    }
}

fn endpoints(cx: &mut Cx<'_>, spec: &ServiceEntrySpec, service_ports: &[ServicePort]) -> (Vec<Workload>, Vec<Endpoint>) {
    let (mut workloads, mut endpoints, mut seen) = (Vec::new(), Vec::new(), HashSet::new());
    for (i, entry) in spec.endpoints.iter().enumerate() {
        let field = format!("spec.endpoints[{i}]");
        let Some(address) = workload_entry::address(cx, &field, entry) else { continue };
        if !seen.insert(address) {
            cx.error(&format!("{field}.address"), format!("endpoint {address} is listed twice"));
            continue;
        }
        let uid: Name = format!("{CLUSTER}/networking.istio.io/ServiceEntry/{}/{}/{address}", cx.id.name.namespace, cx.id.name.name).into();
        let Some(workload) = workload_entry::workload(cx, &field, uid.clone(), entry, address) else { continue };
        for (name, _) in &workload.ports {
            if !spec.ports.iter().any(|p| p.name == **name) {
                cx.error(&super::yaml::join(&format!("{field}.ports"), name), format!("the entry has no port named {name:?}"));
            }
        }
        endpoints.push(Endpoint { address, workload: Some(uid), ready: true, ports: endpoint_ports(&workload.ports, service_ports) });
        workloads.push(workload);
    }
    (workloads, endpoints)
}

/// Ports of an endpoint: its own where it names them, the service's target ports elsewhere.
fn endpoint_ports(own: &[(Name, u16)], service_ports: &[ServicePort]) -> Vec<(Name, u16)> {
    if own.is_empty() {
        return Vec::new();
    }
    let number = |port: &ServicePort| match (own.iter().find(|(name, _)| *name == port.name), &port.target) {
        (Some((_, number)), _) | (None, TargetPort::Number(number)) => *number,
        (None, TargetPort::Name(_) | TargetPort::Endpoint) => port.port,
    };
    service_ports.iter().map(|port| (port.name.clone(), number(port))).collect()
}
