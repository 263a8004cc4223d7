//! May a CONNECT come in at all, and to which port of the workload? Policy is judged later.

use super::own::OwnPorts;
use crate::{
    hbone::{Connect, ConnectTarget},
    model::{GatewayAddress, GatewayDestination, Hostname, Service, TargetPort, Workload},
    state::{NodeService, NodeSnapshot, Upstream, UpstreamEndpoint, WaypointRoute},
};
use http::StatusCode;
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

#[cfg(test)]
mod tests;

/// Why a CONNECT is refused. The statuses are those of the reference ztunnel (contract, 1.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    /// Not a CONNECT.
    #[error("method is not CONNECT")]
    Method,
    /// The authority names no target.
    #[error("authority is not valid")]
    Authority,
    /// The authority names another address than the tunnel leads to.
    #[error("ip mismatch: the authority is not the address of the tunnel")]
    NotHere,
    /// The mesh does not know the workload that we serve.
    #[error("the local workload is not known")]
    UnknownWorkload,
    /// The mesh does not know the host name.
    #[error("unknown host name")]
    UnknownHost,
    /// The service does not lead to this workload by this port.
    #[error("the service does not lead here by this port")]
    NotAnEndpoint,
    /// The workload wants to be told the address of the service, and it has none.
    #[error("the service has no address to tell by PROXY protocol")]
    NoVip,
    /// A port of this proxy.
    #[error("the port is the proxy's own")]
    OwnPort,
}

impl Refusal {
    /// The status that answers the CONNECT.
    pub(super) fn status(self) -> StatusCode {
        match self {
            Self::Method | Self::Authority | Self::NotHere => StatusCode::BAD_REQUEST,
            Self::UnknownWorkload | Self::UnknownHost | Self::NotAnEndpoint | Self::NoVip | Self::OwnPort => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        }
    }
}

/// The workload as the end of a tunnel.
#[derive(Debug, Clone, Copy)]
pub(super) struct Here<'a> {
    /// Who it is.
    pub(super) workload: &'a Workload,
    /// The address at which the tunnel came in: the only one that may be connected to.
    pub(super) address: IpAddr,
    /// The proxy's own sockets.
    pub(super) own: &'a OwnPorts,
    /// A workload that takes the PROXY protocol is dialled at its loopback address.
    pub(super) localhost_app_tunnel: bool,
}

/// Where a CONNECT goes.
#[derive(Debug)]
pub(super) struct Admitted {
    /// The workload's socket, as policies know it.
    pub(super) address: SocketAddr,
    /// Where it is dialled.
    pub(super) dialled: SocketAddr,
    /// The service, when it was addressed by name.
    pub(super) service: Option<Arc<Service>>,
    /// The destination that a workload is told which wants a PROXY protocol header.
    pub(super) told: Option<SocketAddr>,
}

/// What a CONNECT asks for.
pub(super) fn target(connect: &Connect) -> Result<ConnectTarget, Refusal> {
    connect.target().ok_or(Refusal::Method)?.map_err(|_| Refusal::Authority)
}

/// Judges a target.
pub(super) fn admit(snapshot: &NodeSnapshot, here: Here<'_>, target: &ConnectTarget) -> Result<Admitted, Refusal> {
    let (port, told, service) = match target {
        ConnectTarget::Address(address) => (at_address(snapshot, here, *address)?, Some(*address), None),
        ConnectTarget::Host(host, port) => {
            let service = named(snapshot, here, host)?;
            let target = target_port(service, here, *port).ok_or(Refusal::NotAnEndpoint)?;
            (target, vip(&service.service).map(|vip| SocketAddr::new(vip, *port)), Some(service.service.clone()))
        }
    };
    // Always the address of the tunnel, never one that a peer or a service names.
    let address = SocketAddr::new(here.address, port);
    let is_told = here.workload.l4.application_tunnel.is_some_and(|tunnel| tunnel.proxy_protocol);
    let dialled = if is_told && here.localhost_app_tunnel { SocketAddr::new(loopback(here.address), port) } else { address };
    if here.own.serves(address) || here.own.serves(dialled) {
        return Err(Refusal::OwnPort);
    }
    let told = is_told.then(|| told.ok_or(Refusal::NoVip)).transpose()?;
    Ok(Admitted { address, dialled, service, told })
}

fn loopback(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    }
}

/// The service that a peer says it has addressed, if the workload serves it: for reports only.
pub(super) fn named_service(snapshot: &NodeSnapshot, here: Here<'_>, host: &str) -> Option<Arc<Service>> {
    let service = meant(snapshot, here, &Hostname::new(host), |service| serves(service, here))?;
    Some(service.service.clone())
}

/// The port for an address that is the tunnel's own, or that may be another's: that of anything, when
/// the workload takes connections for others (an application tunnel), and that of what it is the
/// waypoint of.
fn at_address(snapshot: &NodeSnapshot, here: Here<'_>, address: SocketAddr) -> Result<u16, Refusal> {
    let tunnel = here.workload.l4.application_tunnel;
    if address.ip() == here.address || tunnel.is_some() || is_behind_us(snapshot, here, address.ip()) {
        Ok(tunnel.and_then(|tunnel| tunnel.port).unwrap_or(address.port()))
    } else {
        Err(Refusal::NotHere)
    }
}

/// The service of a host name, provided that it leads here. Stricter than the reference, which takes
/// the port of any service that is there.
fn named<'a>(snapshot: &'a NodeSnapshot, here: Here<'a>, host: &Hostname) -> Result<&'a Arc<NodeService>, Refusal> {
    let is_ours = |service: &NodeService| {
        serves(service, here) || here.workload.l4.application_tunnel.is_some() || is_guarded_by_us(snapshot, here, service)
    };
    snapshot.host(host, &here.workload.namespace).ok_or(Refusal::UnknownHost)?;
    meant(snapshot, here, host, is_ours).ok_or(Refusal::NotAnEndpoint)
}

/// The service that our workload means by a host name; failing that, another that it may see.
fn meant<'a>(
    snapshot: &'a NodeSnapshot,
    here: Here<'a>,
    host: &Hostname,
    is_it: impl Fn(&NodeService) -> bool,
) -> Option<&'a Arc<NodeService>> {
    let namespace = &here.workload.namespace;
    snapshot.host(host, namespace).into_iter().chain(snapshot.hosts(host, namespace)).find(|service| is_it(service))
}

/// Whether an address belongs to a service or a workload of which our workload is the waypoint.
fn is_behind_us(snapshot: &NodeSnapshot, here: Here<'_>, address: IpAddr) -> bool {
    let service = snapshot.service(address, &here.workload.namespace);
    let workload = snapshot.workload(address).and_then(|workload| workload.waypoint.as_ref());
    service.is_some_and(|service| is_guarded_by_us(snapshot, here, service))
        || workload.is_some_and(|waypoint| is_us(snapshot, here, waypoint))
}

fn is_guarded_by_us(snapshot: &NodeSnapshot, here: Here<'_>, service: &NodeService) -> bool {
    let mut weighted = service.service.l4.weighted_waypoints.iter();
    service.waypoint.as_ref().is_some_and(|waypoint| is_us(snapshot, here, waypoint))
        || weighted.any(|(place, _)| is_our_place(snapshot, here, place))
}

fn is_us(snapshot: &NodeSnapshot, here: Here<'_>, waypoint: &WaypointRoute) -> bool {
    match waypoint {
        WaypointRoute::Gateway { upstream: Ok(upstream), .. } => leads_here(snapshot, here, upstream),
        WaypointRoute::Gateway { upstream: Err(_), .. } => false,
        WaypointRoute::At(place) => is_our_place(snapshot, here, place),
    }
}

fn is_our_place(snapshot: &NodeSnapshot, here: Here<'_>, place: &GatewayAddress) -> bool {
    let is_address = match &place.destination {
        GatewayDestination::Address(at) => at.network.is_none() && at.address.to_canonical() == here.address,
        GatewayDestination::Hostname(_) => false,
    };
    is_address || snapshot.place(place).is_some_and(|upstream| leads_here(snapshot, here, upstream))
}

fn leads_here(snapshot: &NodeSnapshot, here: Here<'_>, upstream: &Upstream) -> bool {
    let service = upstream.service.as_ref().and_then(|key| snapshot.service_by_key(key));
    upstream.endpoints().ready.iter().any(|endpoint| is_here(endpoint, here)) || service.is_some_and(|service| serves(service, here))
}

fn is_here(endpoint: &UpstreamEndpoint, here: Here<'_>) -> bool {
    endpoint.address.ip() == here.address || endpoint.workload.as_deref().is_some_and(|w| w.uid == here.workload.uid)
}

/// Whether the workload is behind the service: ready for it now, or named as one of its own. One that
/// is not ready is still told of by peers that have not heard of that yet.
fn serves(service: &NodeService, here: Here<'_>) -> bool {
    let is_ready = |upstream: &Arc<Upstream>| upstream.endpoints().ready.iter().any(|endpoint| is_here(endpoint, here));
    let is_named = || here.workload.l4.services.iter().any(|(key, _)| *key == service.service.key);
    let is_selected = || {
        let selector = service.service.selector.as_ref().filter(|selector| !selector.is_empty());
        service.service.key.namespace == here.workload.namespace
            && selector.is_some_and(|selector| selector.iter().all(|(key, value)| here.workload.labels.get(key) == Some(value)))
    };
    is_named() || is_selected() || service.ports.values().any(is_ready)
}

/// Where a port of a service leads on the workload. What the workload's entry says comes before what
/// the service says of all.
fn target_port(service: &NodeService, here: Here<'_>, port: u16) -> Option<u16> {
    let Workload { l4, ports: container_ports, .. } = here.workload;
    let declared = service.service.port(port)?;
    let of_tunnel = l4.application_tunnel.and_then(|tunnel| tunnel.port);
    let entry = || l4.services.iter().find(|(key, _)| *key == service.service.key);
    let of_entry = || entry()?.1.iter().find(|(number, target)| *number == port && *target != 0).map(|(_, target)| *target);
    let of_endpoint = || {
        let endpoints = service.ports.get(&port)?.endpoints();
        endpoints.ready.iter().find(|endpoint| is_here(endpoint, here)).map(|endpoint| endpoint.address.port())
    };
    let of_service = || match &declared.target {
        TargetPort::Number(number) => Some(*number),
        TargetPort::Name(name) => container_ports.iter().find(|(known, _)| known == name).map(|(_, number)| *number),
        TargetPort::Endpoint => None,
    };
    of_tunnel.or_else(of_entry).or_else(of_endpoint).or_else(of_service).filter(|number| *number != 0)
}

/// An address by which a service is told of: one of our own network before others, IPv4 before IPv6.
fn vip(service: &Service) -> Option<IpAddr> {
    let elsewhere = service.l4.elsewhere.iter().map(|at| (true, at.address));
    let all = service.vips.iter().map(|vip| (false, *vip)).chain(elsewhere).map(|(is_far, vip)| (is_far, vip.to_canonical()));
    all.min_by_key(|(is_far, vip)| (*is_far, vip.is_ipv6())).map(|(_, vip)| vip)
}
