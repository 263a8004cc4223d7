//! Workloads.

use super::{
    Decoder, address,
    refusal::{Refusal, each, known, named, port_or_none, quoted, required},
};
use crate::{
    control::workload_api::CLUSTER,
    model::{
        ApplicationTunnel, Health, Labels, Locality, Name, ResourceName, ServiceKey, TunnelProtocol, Workload, WorkloadL4, WorkloadType,
    },
    proto::workload as proto,
};
use proto::application_tunnel::Protocol;

/// The trust domain of a workload that names none.
const TRUST_DOMAIN: &str = "cluster.local";

/// The service account of a workload that names none.
const SERVICE_ACCOUNT: &str = "default";

/// A service that a workload serves, and its own ports by the service's.
type Serves = (ServiceKey, Vec<(u16, u16)>);

pub(super) fn decoded(cx: &mut Decoder, name: &str, message: &proto::Workload) -> Result<Workload, Refusal> {
    required("uid", &message.uid)?;
    named(name, name == message.uid, &message.uid)?;
    let trust_domain = or(&message.trust_domain, TRUST_DOMAIN);
    let service_account = or(&message.service_account, SERVICE_ACCOUNT);
    let l4 = l4(cx, message)?;
    Ok(Workload {
        uid: Name::from(message.uid.as_str()),
        name: Name::from(message.name.as_str()),
        namespace: cx.texts.name(&message.namespace),
        identity: cx.texts.identity(trust_domain, &message.namespace, service_account)?,
        addresses: each("addresses", &message.addresses, |bytes| address::ip("", bytes))?,
        protocol: match known("tunnel_protocol", message.tunnel_protocol)? {
            proto::TunnelProtocol::None => TunnelProtocol::None,
            proto::TunnelProtocol::Hbone => TunnelProtocol::Hbone,
            proto::TunnelProtocol::LegacyIstioMtls => return Err(Refusal::new("tunnel_protocol", "LEGACY_ISTIO_MTLS is not spoken")),
        },
        node: cx.texts.name(&message.node),
        locality: locality(cx, message.locality.as_ref()),
        health: match known("status", message.status)? {
            proto::WorkloadStatus::Healthy => Health::Healthy,
            proto::WorkloadStatus::Unhealthy => Health::Unhealthy,
        },
        labels: Labels::new(),
        waypoint: address::waypoint(cx, message.waypoint.as_ref())?,
        canonical_name: cx.texts.name(&message.canonical_name),
        canonical_revision: cx.texts.name(&message.canonical_revision),
        workload_name: cx.texts.name(&message.workload_name),
        // What is not known is a deployment, by the contract.
        workload_type: match message.workload_type() {
            proto::WorkloadType::Deployment => WorkloadType::Deployment,
            proto::WorkloadType::Cronjob => WorkloadType::CronJob,
            proto::WorkloadType::Pod => WorkloadType::Pod,
            proto::WorkloadType::Job => WorkloadType::Job,
        },
        cluster: cx.texts.name(or(&message.cluster_id, CLUSTER)),
        host_network: match known("network_mode", message.network_mode)? {
            proto::NetworkMode::Standard => false,
            proto::NetworkMode::HostNetwork => true,
        },
        ports: Vec::new(),
        gateway: None,
        l4,
    })
}

fn or<'a>(text: &'a str, default: &'a str) -> &'a str {
    if text.is_empty() { default } else { text }
}

fn locality(cx: &mut Decoder, message: Option<&proto::Locality>) -> Locality {
    let mut part = |of: fn(&proto::Locality) -> &str| cx.texts.name(message.map_or("", of));
    Locality { region: part(|l| &l.region), zone: part(|l| &l.zone), subzone: part(|l| &l.subzone) }
}

fn l4(cx: &mut Decoder, message: &proto::Workload) -> Result<WorkloadL4, Refusal> {
    let gateway = message.network_gateway.as_ref().map(|gateway| address::gateway(cx, gateway)).transpose();
    Ok(WorkloadL4 {
        network: cx.network(&message.network),
        gateway: gateway.map_err(|refusal| refusal.within("network_gateway"))?,
        hostname: if message.hostname.is_empty() { None } else { Some(address::host(cx, &message.hostname)?) },
        capacity: message.capacity.unwrap_or(1),
        application_tunnel: message.application_tunnel.as_ref().map(application_tunnel).transpose()?,
        services: services(cx, message)?,
        policies: each("authorization_policies", &message.authorization_policies, |text| policy(cx, text))?,
    })
}

fn application_tunnel(message: &proto::ApplicationTunnel) -> Result<ApplicationTunnel, Refusal> {
    let port = port_or_none("application_tunnel.port", message.port)?;
    Ok(ApplicationTunnel {
        proxy_protocol: match known("application_tunnel.protocol", message.protocol)? {
            Protocol::None => false,
            Protocol::Proxy => true,
        },
        port: (port > 0).then_some(port),
    })
}

fn services(cx: &mut Decoder, message: &proto::Workload) -> Result<Vec<Serves>, Refusal> {
    let mut services = Vec::with_capacity(message.services.len());
    for (text, ports) in &message.services {
        let of = |refusal: Refusal| refusal.within(format_args!("services[{}]", quoted(text)));
        let key = cx.texts.key(text).ok_or_else(|| of(Refusal::new("", "the key is not NAMESPACE/HOSTNAME")))?;
        if services.iter().any(|(other, _)| *other == key) {
            return Err(of(Refusal::new("", "another key means the same service")));
        }
        let ports = address::ports(&ports.ports).map_err(of)?;
        services.push((key, ports.into_iter().map(|(port, target, _)| (port, target)).collect()));
    }
    Ok(services)
}

/// A policy that a workload lists.
fn policy(cx: &mut Decoder, text: &str) -> Result<ResourceName, Refusal> {
    cx.texts.policy(text).ok_or_else(|| Refusal::new("", format!("{} is not NAMESPACE/NAME", quoted(text))))
}
