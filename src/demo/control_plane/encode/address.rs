//! Services and workloads (contract, 3.3).

use super::{
    Config,
    members::{Ports, Stranger},
};
use crate::{
    model::{
        self, GatewayDestination, Health, Hostname, Kind, LoadBalancingMode, LocalityScope, Name, PolicyTarget, ResourceName, ServiceKey,
        TargetPort, Waypoint, WaypointAddress,
    },
    proto::workload::{
        AppProtocol, ApplicationTunnel, GatewayAddress, IpFamilies, LoadBalancing, Locality, NamespacedHostname, NetworkAddress,
        NetworkMode, Port, PortList, Service, TunnelProtocol, Visibility, WeightedWaypoint, Workload, WorkloadStatus, WorkloadType,
        application_tunnel, gateway_address::Destination, load_balancing,
    },
    state::{Bound, Directory, selects},
};
use bytes::Bytes;
use std::{collections::BTreeMap, net::IpAddr};

/// What a workload without a word on it belongs to, so that it need not be said.
const TRUST_DOMAIN: &str = "cluster.local";
const SERVICE_ACCOUNT: &str = "default";

pub(super) fn service(config: &Config, directory: &Directory, service: &model::Service) -> Service {
    let l4 = &service.l4;
    let own = service.vips.iter().map(|vip| network_address(config, None, *vip));
    let elsewhere = l4.elsewhere.iter().map(|vip| network_address(config, vip.network.as_ref(), vip.address));
    let ranges = l4
        .ranges
        .iter()
        .map(|range| NetworkAddress { length: Some(u32::from(range.prefix_len())), ..network_address(config, None, range.addr()) });
    Service {
        name: service.source.name.name.to_string(),
        namespace: service.key.namespace.to_string(),
        hostname: service.key.hostname.to_string(),
        addresses: own.chain(elsewhere).chain(ranges).collect(),
        ports: service.ports.iter().map(service_port).collect(),
        subject_alt_names: service.subject_alt_names.iter().map(Name::to_string).collect(),
        waypoint: waypoint(config, directory, directory.service_waypoint(service)),
        load_balancing: load_balancing(service),
        ip_families: match l4.ip_families {
            model::IpFamilies::Automatic => IpFamilies::Automatic,
            model::IpFamilies::Ipv4 => IpFamilies::Ipv4Only,
            model::IpFamilies::Ipv6 => IpFamilies::Ipv6Only,
            model::IpFamilies::Dual => IpFamilies::Dual,
        }
        .into(),
        extensions: Vec::new(),
        // Istio says so of every Kubernetes Service.
        canonical: l4.canonical || service.source.kind == Kind::Service,
        ingress_use_waypoint: false,
        weighted_waypoints: l4.weighted_waypoints.iter().map(|(place, weight)| weighted(config, place, *weight)).collect(),
        visibility: match l4.visibility {
            model::Visibility::Public => Visibility::Public,
            model::Visibility::Namespace => Visibility::Namespace,
        }
        .into(),
    }
}

fn service_port(port: &model::ServicePort) -> Port {
    Port {
        service_port: port.port.into(),
        // A named port is another number at each workload, which says it itself.
        target_port: match port.target {
            TargetPort::Number(number) => number.into(),
            TargetPort::Name(_) | TargetPort::Endpoint => 0,
        },
        app_protocol: match port.protocol {
            model::AppProtocol::Unspecified => AppProtocol::Unknown,
            model::AppProtocol::Http => AppProtocol::Http11,
            model::AppProtocol::Http2 => AppProtocol::Http2,
            model::AppProtocol::Grpc => AppProtocol::Grpc,
            model::AppProtocol::Tcp => AppProtocol::Tcp,
            model::AppProtocol::Tls => AppProtocol::Tls,
        }
        .into(),
    }
}

fn load_balancing(service: &model::Service) -> Option<LoadBalancing> {
    let balancing = &service.l4.load_balancing;
    if *balancing == model::LoadBalancing::default() && !service.publish_not_ready {
        return None;
    }
    let scope = |scope: &LocalityScope| match scope {
        LocalityScope::Region => load_balancing::Scope::Region,
        LocalityScope::Zone => load_balancing::Scope::Zone,
        LocalityScope::Subzone => load_balancing::Scope::Subzone,
        LocalityScope::Node => load_balancing::Scope::Node,
        LocalityScope::Cluster => load_balancing::Scope::Cluster,
        LocalityScope::Network => load_balancing::Scope::Network,
    };
    let mode = match balancing.mode {
        LoadBalancingMode::Any => load_balancing::Mode::UnspecifiedMode,
        LoadBalancingMode::Strict => load_balancing::Mode::Strict,
        LoadBalancingMode::Failover => load_balancing::Mode::Failover,
        LoadBalancingMode::Passthrough => load_balancing::Mode::Passthrough,
    };
    let policy = if service.publish_not_ready { load_balancing::HealthPolicy::AllowAll } else { load_balancing::HealthPolicy::OnlyHealthy };
    let routing_preference = balancing.preferences.iter().map(|s| scope(s).into()).collect();
    Some(LoadBalancing { routing_preference, mode: mode.into(), health_policy: policy.into() })
}

pub(super) fn workload<'a>(
    config: &Config,
    directory: &Directory,
    workload: &model::Workload,
    members: impl Iterator<Item = (&'a ServiceKey, &'a Ports)>,
) -> Workload {
    let (l4, identity) = (&workload.l4, &workload.identity);
    let mut services = services(members);
    services.extend(services_of(workload));
    Workload {
        uid: workload.uid.to_string(),
        name: workload.name.to_string(),
        namespace: workload.namespace.to_string(),
        addresses: workload.addresses.iter().map(|ip| bytes(*ip)).collect(),
        hostname: l4.hostname.as_ref().map(Hostname::to_string).unwrap_or_default(),
        network: l4.network.as_ref().unwrap_or(&config.network).to_string(),
        tunnel_protocol: match workload.protocol {
            model::TunnelProtocol::None => TunnelProtocol::None,
            model::TunnelProtocol::Hbone => TunnelProtocol::Hbone,
        }
        .into(),
        trust_domain: unless(identity.trust_domain(), TRUST_DOMAIN),
        service_account: unless(identity.service_account(), SERVICE_ACCOUNT),
        waypoint: waypoint(config, directory, directory.workload_waypoint(workload)),
        network_gateway: l4.gateway.as_ref().map(|place| gateway(config, place)),
        node: workload.node.to_string(),
        canonical_name: workload.canonical_name.to_string(),
        canonical_revision: workload.canonical_revision.to_string(),
        workload_type: match workload.workload_type {
            model::WorkloadType::Deployment => WorkloadType::Deployment,
            model::WorkloadType::CronJob => WorkloadType::Cronjob,
            model::WorkloadType::Pod => WorkloadType::Pod,
            model::WorkloadType::Job => WorkloadType::Job,
        }
        .into(),
        workload_name: workload.workload_name.to_string(),
        application_tunnel: l4.application_tunnel.map(|tunnel| ApplicationTunnel {
            protocol: if tunnel.proxy_protocol { application_tunnel::Protocol::Proxy } else { application_tunnel::Protocol::None }.into(),
            port: tunnel.port.map(u32::from).unwrap_or_default(),
        }),
        services,
        authorization_policies: policies(config, directory, workload),
        status: status(workload.health).into(),
        cluster_id: workload.cluster.to_string(),
        locality: locality(&workload.locality),
        network_mode: if workload.host_network { NetworkMode::HostNetwork } else { NetworkMode::Standard }.into(),
        capacity: (l4.capacity != 1).then_some(l4.capacity),
        ..Workload::default()
    }
}

/// An endpoint of a service that nobody has described as a workload.
pub(super) fn stranger<'a>(
    config: &Config,
    uid: &Name,
    stranger: &Stranger,
    members: impl Iterator<Item = (&'a ServiceKey, &'a Ports)>,
) -> Workload {
    Workload {
        uid: uid.to_string(),
        name: stranger.address.to_string(),
        namespace: stranger.namespace.to_string(),
        addresses: vec![bytes(stranger.address)],
        network: config.network.to_string(),
        services: services(members),
        status: status(stranger.health).into(),
        ..Workload::default()
    }
}

fn status(health: Health) -> WorkloadStatus {
    match health {
        Health::Healthy => WorkloadStatus::Healthy,
        Health::Unhealthy => WorkloadStatus::Unhealthy,
    }
}

fn locality(locality: &model::Locality) -> Option<Locality> {
    (*locality != model::Locality::default()).then(|| Locality {
        region: locality.region.to_string(),
        zone: locality.zone.to_string(),
        subzone: locality.subzone.to_string(),
    })
}

fn unless(text: &str, default: &str) -> String {
    if text == default { String::new() } else { text.to_owned() }
}

fn services<'a>(members: impl Iterator<Item = (&'a ServiceKey, &'a Ports)>) -> BTreeMap<String, PortList> {
    members.map(|(key, ports)| (key.to_string(), port_list(ports))).collect()
}

fn services_of(workload: &model::Workload) -> impl Iterator<Item = (String, PortList)> {
    workload.l4.services.iter().map(|(key, ports)| (key.to_string(), port_list(ports)))
}

fn port_list(ports: &[(u16, u16)]) -> PortList {
    let port = |(service, target): &(u16, u16)| Port { service_port: (*service).into(), target_port: (*target).into(), app_protocol: 0 };
    PortList { ports: ports.iter().map(port).collect() }
}

/// The policies that a workload lists, and those whose selectors mean it.
fn policies(config: &Config, directory: &Directory, workload: &model::Workload) -> Vec<String> {
    let text = |name: &ResourceName| format!("{}/{}", name.namespace, name.name);
    let selecting = directory.mesh().policies.values().filter(|policy| match &policy.target {
        PolicyTarget::Selector(labels) => {
            let is_near = policy.name.namespace == workload.namespace || policy.name.namespace == config.root_namespace;
            is_near && selects(labels, &workload.labels)
        }
        PolicyTarget::Refs(_) | PolicyTarget::Namespace | PolicyTarget::Listed | PolicyTarget::Mesh | PolicyTarget::Unknown => false,
    });
    let selecting = selecting.map(|policy| &policy.name).filter(|name| !workload.l4.policies.contains(name));
    workload.l4.policies.iter().chain(selecting).map(text).collect()
}

/// A waypoint is told by the name of its Service. One that may not be used is told all the same: it
/// refuses whom it does not serve, and without it they would be reached unguarded.
fn waypoint(config: &Config, directory: &Directory, bound: Bound<'_>) -> Option<GatewayAddress> {
    match bound {
        Bound::Nothing | Bound::Missing(_) => None,
        Bound::At(place) => Some(gateway(config, place)),
        Bound::To(waypoint) | Bound::Barred(waypoint, _) => Some(place(config, directory, waypoint)),
    }
}

fn place(config: &Config, directory: &Directory, waypoint: &Waypoint) -> GatewayAddress {
    let port = waypoint.port.into();
    let address = waypoint.addresses.iter().find_map(|address| match address {
        WaypointAddress::Ip(ip) => Some(*ip),
        WaypointAddress::Hostname(_) => None,
    });
    let destination = match (directory.waypoint_service(waypoint), address) {
        (Some(service), _) => Destination::Hostname(hostname(&service.key)),
        (None, Some(address)) => Destination::Address(network_address(config, None, address)),
        (None, None) => {
            let host = Hostname::of_service(&waypoint.name.name, &waypoint.name.namespace, &config.cluster_domain);
            Destination::Hostname(hostname(&ServiceKey { namespace: waypoint.name.namespace.clone(), hostname: host }))
        }
    };
    GatewayAddress { hbone_mtls_port: port, destination: Some(destination) }
}

fn weighted(config: &Config, place: &model::GatewayAddress, weight: u32) -> WeightedWaypoint {
    WeightedWaypoint { destination: Some(gateway(config, place)), weight }
}

fn gateway(config: &Config, place: &model::GatewayAddress) -> GatewayAddress {
    let destination = match &place.destination {
        GatewayDestination::Address(address) => Destination::Address(network_address(config, address.network.as_ref(), address.address)),
        GatewayDestination::Hostname(key) => Destination::Hostname(hostname(key)),
    };
    GatewayAddress { hbone_mtls_port: place.port.into(), destination: Some(destination) }
}

fn hostname(key: &ServiceKey) -> NamespacedHostname {
    NamespacedHostname { namespace: key.namespace.to_string(), hostname: key.hostname.to_string() }
}

fn network_address(config: &Config, network: Option<&Name>, address: IpAddr) -> NetworkAddress {
    NetworkAddress { network: network.unwrap_or(&config.network).to_string(), address: bytes(address), length: None }
}

/// The 4 or 16 bytes of an address.
pub(super) fn bytes(address: IpAddr) -> Bytes {
    match address.to_canonical() {
        IpAddr::V4(ip) => Bytes::copy_from_slice(&ip.octets()),
        IpAddr::V6(ip) => Bytes::copy_from_slice(&ip.octets()),
    }
}

/// The name by which an address is asked for: `NETWORK/IP`.
pub(super) fn alias(address: &NetworkAddress) -> Option<Name> {
    alias_of(&address.network, &address.address)
}

/// The same, of the parts.
pub(super) fn alias_of(network: &str, address: &[u8]) -> Option<Name> {
    let v4 = <[u8; 4]>::try_from(address).ok().map(IpAddr::from);
    let ip = v4.or_else(|| <[u8; 16]>::try_from(address).ok().map(IpAddr::from))?;
    Some(format!("{network}/{ip}").into())
}
