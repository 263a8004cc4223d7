//! Services.

use super::{
    Decoder,
    address::{self, gateway, key},
    refusal::{Refusal, each, known, named, required},
};
use crate::{
    control::workload_api::{self, namespaced},
    model::{
        GatewayAddress, Hostname, IpFamilies, LoadBalancing, LoadBalancingMode, LocalityScope, ResourceId, ResourceName, Service,
        ServiceKey, ServiceL4, ServicePort, TargetPort, Visibility,
    },
    proto::workload as proto,
};
use proto::load_balancing::{HealthPolicy, Mode, Scope};
use std::net::IpAddr;

pub(super) fn decoded(cx: &mut Decoder, name: &str, message: &proto::Service) -> Result<Service, Refusal> {
    required("name", &message.name)?;
    let key = key(cx, &message.namespace, &message.hostname)?;
    named(name, is_key(name, &key), &key)?;
    let kind = workload_api::kind(&key.hostname, &cx.config.cluster_domain);
    let balancing = message.load_balancing.as_ref();
    let mut l4 = ServiceL4 {
        load_balancing: balancing.map(load_balancing).transpose()?.unwrap_or_default(),
        ip_families: ip_families(known("ip_families", message.ip_families)?),
        // What is not known is public, by the contract.
        visibility: match message.visibility() {
            proto::Visibility::Public => Visibility::Public,
            proto::Visibility::Namespace => Visibility::Namespace,
        },
        canonical: message.canonical,
        weighted_waypoints: each("weighted_waypoints", &message.weighted_waypoints, |weighted| weighted_waypoint(cx, weighted))?,
        ..ServiceL4::default()
    };
    Ok(Service {
        source: ResourceId { kind, name: ResourceName { namespace: key.namespace.clone(), name: cx.texts.name(&message.name) } },
        vips: vips(cx, &message.addresses, &mut l4)?,
        ports: address::ports(&message.ports)?.into_iter().map(|port| service_port(cx, port)).collect(),
        selector: None,
        waypoint: address::waypoint(cx, message.waypoint.as_ref())?,
        publish_not_ready: balancing.map(all_serve).transpose()?.unwrap_or_default(),
        external: false,
        subject_alt_names: message.subject_alt_names.iter().map(|name| cx.texts.name(name)).collect(),
        l4,
        key,
    })
}

fn is_key(name: &str, key: &ServiceKey) -> bool {
    let is_hostname = |text: &str| text == key.hostname.as_str() || Hostname::new(text) == key.hostname;
    namespaced(name).is_some_and(|(namespace, hostname)| namespace == &*key.namespace && is_hostname(hostname))
}

/// The addresses on our own network; what else there is goes to where it belongs.
fn vips(cx: &mut Decoder, messages: &[proto::NetworkAddress], l4: &mut ServiceL4) -> Result<Vec<IpAddr>, Refusal> {
    let mut vips = Vec::with_capacity(messages.len());
    each("addresses", messages, |message| {
        workload_api::add_vip(cx.network(&message.network), address::network_range(message)?, &mut vips, l4);
        Ok(())
    })?;
    Ok(vips)
}

fn service_port(cx: &mut Decoder, (port, target, protocol): address::Port) -> ServicePort {
    let target = if target == 0 { TargetPort::Endpoint } else { TargetPort::Number(target) };
    ServicePort { name: cx.texts.name(""), port, target, protocol }
}

fn weighted_waypoint(cx: &mut Decoder, message: &proto::WeightedWaypoint) -> Result<(GatewayAddress, u32), Refusal> {
    let destination = message.destination.as_ref().ok_or_else(|| Refusal::new("destination", "must be there"))?;
    Ok((gateway(cx, destination).map_err(|refusal| refusal.within("destination"))?, message.weight))
}

fn ip_families(families: proto::IpFamilies) -> IpFamilies {
    match families {
        proto::IpFamilies::Automatic => IpFamilies::Automatic,
        proto::IpFamilies::Ipv4Only => IpFamilies::Ipv4,
        proto::IpFamilies::Ipv6Only => IpFamilies::Ipv6,
        proto::IpFamilies::Dual => IpFamilies::Dual,
    }
}

fn load_balancing(message: &proto::LoadBalancing) -> Result<LoadBalancing, Refusal> {
    let mode = known("load_balancing.mode", message.mode)?;
    Ok(LoadBalancing {
        mode: match mode {
            Mode::UnspecifiedMode => LoadBalancingMode::Any,
            Mode::Strict => LoadBalancingMode::Strict,
            Mode::Failover => LoadBalancingMode::Failover,
            Mode::Passthrough => LoadBalancingMode::Passthrough,
        },
        preferences: each("load_balancing.routing_preference", &message.routing_preference, |scope| locality_scope(*scope))?,
    })
}

fn locality_scope(scope: i32) -> Result<LocalityScope, Refusal> {
    Ok(match known("", scope)? {
        Scope::UnspecifiedScope => return Err(Refusal::new("", "UNSPECIFIED_SCOPE is none")),
        Scope::Region => LocalityScope::Region,
        Scope::Zone => LocalityScope::Zone,
        Scope::Subzone => LocalityScope::Subzone,
        Scope::Node => LocalityScope::Node,
        Scope::Cluster => LocalityScope::Cluster,
        Scope::Network => LocalityScope::Network,
    })
}

fn all_serve(message: &proto::LoadBalancing) -> Result<bool, Refusal> {
    Ok(match known("load_balancing.health_policy", message.health_policy)? {
        HealthPolicy::OnlyHealthy => false,
        HealthPolicy::AllowAll => true,
    })
}
