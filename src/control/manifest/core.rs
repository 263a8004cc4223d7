//! Decodes Kubernetes' own kinds: Namespace, Service and EndpointSlice.

use super::decode::{Cx, Outcome, Referent, label, labels};
use crate::model::{AppProtocol, Endpoint, Endpoints, NamespaceInfo, Resource, Service, ServiceL4, ServicePort, TargetPort};
use k8s_openapi::{
    api::{
        core::v1::{Namespace, Service as KubeService, ServicePort as KubePort, ServiceSpec},
        discovery::v1::{Endpoint as KubeEndpoint, EndpointSlice},
    },
    apimachinery::pkg::util::intstr::IntOrString,
};
use std::{collections::HashSet, net::IpAddr};

/// Ports that Istio takes for TCP when nothing says otherwise: SMTP, DNS, MySQL, MongoDB. Their
/// servers speak first, or are no HTTP for sure.
const WELL_KNOWN_TCP: [u16; 4] = [25, 53, 3306, 27017];

pub(super) fn namespace(cx: &mut Cx<'_>) -> Option<Outcome> {
    let object: Namespace = cx.typed()?;
    let waypoint = cx.binding(object.metadata.labels.as_ref());
    let info = NamespaceInfo { name: cx.id.name.name.clone(), labels: labels(object.metadata.labels.as_ref()), waypoint };
    Some(Outcome::Resources(vec![Resource::from(info)]))
}

pub(super) fn service(cx: &mut Cx<'_>) -> Option<Outcome> {
    let object: KubeService = cx.typed()?;
    let waypoint = cx.binding(object.metadata.labels.as_ref());
    let spec = object.spec.unwrap_or_default();
    match spec.type_.as_deref() {
        Some("ExternalName") => {
            cx.warn("spec.type", "ExternalName is not supported; skipped");
            return Some(Outcome::Resources(Vec::new()));
        }
        Some("ClusterIP" | "NodePort" | "LoadBalancer") | None => {}
        Some(other) => cx.error("spec.type", format!("unknown type {other:?}")),
    }
    let service = Service {
        key: cx.service_key(&cx.namespace(), &cx.id.name.name),
        source: cx.id.clone(),
        vips: vips(cx, &spec),
        ports: service_ports(cx, spec.ports.as_deref().unwrap_or_default()),
        selector: spec.selector.as_ref().filter(|s| !s.is_empty()).map(|s| labels(Some(s))),
        waypoint,
        publish_not_ready: spec.publish_not_ready_addresses.unwrap_or(false),
        external: false,
        subject_alt_names: Vec::new(),
        l4: ServiceL4 { canonical: true, ..ServiceL4::default() },
    };
    Some(Outcome::Resources(vec![Resource::from(service)]))
}

fn vips(cx: &mut Cx<'_>, spec: &ServiceSpec) -> Vec<IpAddr> {
    let listed = spec.cluster_ips.as_deref().unwrap_or_default();
    let named = |(i, ip)| (format!("spec.clusterIPs[{i}]"), ip);
    let mut texts: Vec<(String, &String)> = listed.iter().enumerate().map(named).collect();
    if texts.is_empty() {
        texts.extend(spec.cluster_ip.as_ref().map(|ip| ("spec.clusterIP".to_owned(), ip)));
    }
    // "None" is how a Service says that it is headless.
    texts.retain(|(_, ip)| !ip.is_empty() && *ip != "None");
    texts.into_iter().filter_map(|(field, ip)| cx.ip(&field, ip).map(|ip| cx.claim(&field, ip))).collect()
}

fn service_ports(cx: &mut Cx<'_>, ports: &[KubePort]) -> Vec<ServicePort> {
    let (mut names, mut numbers, mut decoded) = (HashSet::new(), HashSet::new(), Vec::new());
    for (i, port) in ports.iter().enumerate() {
        let field = format!("spec.ports[{i}]");
        let name = port.name.as_deref().unwrap_or_default();
        if name.is_empty() && ports.len() > 1 {
            cx.error(&field, "a port needs a name when there are several");
        } else if !names.insert(name) {
            cx.error(&format!("{field}.name"), format!("port name {name:?} is used twice"));
        }
        match port.protocol.as_deref() {
            None | Some("TCP") => {}
            Some(other @ ("UDP" | "SCTP")) => {
                cx.warn(&format!("{field}.protocol"), format!("{other} is not served; port skipped"));
                continue;
            }
            Some(other) => cx.error(&format!("{field}.protocol"), format!("unknown protocol {other:?}")),
        }
        let Some(number) = cx.port(&format!("{field}.port"), port.port.into()) else { continue };
        if !numbers.insert(number) {
            cx.error(&format!("{field}.port"), format!("port {number} is declared twice"));
        }
        let Some(target) = target(cx, &format!("{field}.targetPort"), port.target_port.as_ref(), number) else { continue };
        decoded.push(ServicePort {
            name: name.into(),
            port: number,
            target,
            protocol: protocol(port.app_protocol.as_deref(), name, number),
        });
    }
    decoded
}

fn target(cx: &mut Cx<'_>, field: &str, target: Option<&IntOrString>, port: u16) -> Option<TargetPort> {
    match target {
        // Zero is what Kubernetes' own types write for "not set".
        None | Some(IntOrString::Int(0)) => Some(TargetPort::Number(port)),
        Some(IntOrString::Int(number)) => cx.port(field, (*number).into()).map(TargetPort::Number),
        Some(IntOrString::String(name)) if name.is_empty() => Some(TargetPort::Number(port)),
        Some(IntOrString::String(name)) => Some(TargetPort::Name(name.as_str().into())),
    }
}

/// Istio's protocol selection: `appProtocol`, else the port name's prefix, else the number.
pub(super) fn protocol(app_protocol: Option<&str>, name: &str, port: u16) -> AppProtocol {
    let word = app_protocol.unwrap_or(name).to_ascii_lowercase();
    match word.as_str() {
        "kubernetes.io/h2c" => return AppProtocol::Http2,
        "kubernetes.io/ws" => return AppProtocol::Http,
        "kubernetes.io/wss" => return AppProtocol::Tls,
        _ => {}
    }
    // gRPC-Web is plain HTTP on the wire, and would otherwise be cut to "grpc" below.
    let first = if word.starts_with("grpc-web") { "http" } else { word.split('-').next().unwrap_or_default() };
    named_protocol(first).unwrap_or(if WELL_KNOWN_TCP.contains(&port) { AppProtocol::Tcp } else { AppProtocol::Unspecified })
}

/// The protocols that Istio knows by name.
pub(super) fn named_protocol(name: &str) -> Option<AppProtocol> {
    match name {
        "http" | "http_proxy" => Some(AppProtocol::Http),
        "http2" => Some(AppProtocol::Http2),
        "grpc" => Some(AppProtocol::Grpc),
        "tcp" | "mongo" | "mysql" | "redis" => Some(AppProtocol::Tcp),
        "https" | "tls" => Some(AppProtocol::Tls),
        _ => None,
    }
}

pub(super) fn endpoint_slice(cx: &mut Cx<'_>) -> Option<Outcome> {
    const SERVICE_NAME: &str = "kubernetes.io/service-name";
    let slice: EndpointSlice = cx.typed()?;
    match slice.address_type.as_str() {
        "IPv4" | "IPv6" => {}
        "FQDN" => {
            cx.error("addressType", "FQDN is not implemented");
            return None;
        }
        other => cx.error("addressType", format!("unknown address type {other:?}")),
    }
    let Some(service) = label(&slice.metadata, SERVICE_NAME) else {
        cx.warn("metadata.labels", format!("no label {SERVICE_NAME}: belongs to no service; skipped"));
        return Some(Outcome::Resources(Vec::new()));
    };
    let service = cx.service_key(&cx.namespace(), service);
    let field = super::yaml::join("metadata.labels", SERVICE_NAME);
    cx.refer(&field, Referent::Service { service: service.clone(), port: None });
    let mut ports = Vec::new();
    for (i, port) in slice.ports.iter().flatten().enumerate() {
        if !matches!(port.protocol.as_deref(), None | Some("TCP")) {
            continue;
        }
        let field = format!("ports[{i}].port");
        match port.port {
            Some(number) => ports.extend(cx.port(&field, number.into()).map(|n| (port.name.as_deref().unwrap_or_default().into(), n))),
            None => cx.error(&format!("ports[{i}]"), "not implemented: a port without a number (all ports)"),
        }
    }
    let mut endpoints = Vec::new();
    for (i, endpoint) in slice.endpoints.iter().flatten().enumerate() {
        decode_endpoint(cx, i, endpoint, slice.address_type == "IPv6", &ports, &mut endpoints);
    }
    Some(Outcome::Resources(vec![Resource::from(Endpoints { source: cx.id.clone(), service, endpoints })]))
}

fn decode_endpoint(
    cx: &mut Cx<'_>,
    index: usize,
    endpoint: &KubeEndpoint,
    is_ipv6: bool,
    ports: &[(crate::model::Name, u16)],
    into: &mut Vec<Endpoint>,
) {
    let ready = endpoint.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true);
    let pod = endpoint.target_ref.as_ref().filter(|t| t.kind.as_deref() == Some("Pod"));
    let workload = pod.and_then(|t| {
        let namespace = t.namespace.as_deref().unwrap_or(&cx.id.name.namespace);
        Some(format!("Kubernetes//Pod/{namespace}/{}", t.name.as_deref()?).into())
    });
    if endpoint.addresses.is_empty() {
        cx.error(&format!("endpoints[{index}].addresses"), "at least one address is required");
    }
    for (i, address) in endpoint.addresses.iter().enumerate() {
        let field = format!("endpoints[{index}].addresses[{i}]");
        let Some(address) = cx.ip(&field, address) else { continue };
        if address.is_ipv6() != is_ipv6 {
            cx.error(&field, format!("{address} is not of the slice's address type"));
        }
        into.push(Endpoint { address, workload: workload.clone(), ready, ports: ports.to_vec() });
    }
}
