//! Where does a connection go? Pure: one snapshot, one source, one destination; no I/O.
//!
//! The order is that of the reference ztunnel (contract, 2.3), on one network: a service with a
//! waypoint, a service, a workload with a waypoint, a workload, anything else.

use super::own::OwnPorts;
use crate::{
    balance,
    hbone::HBONE_PORT,
    model::{Identity, ResourceName, Service, Workload},
    state::{Barred, Hop, NodeService, NodeSnapshot, NodeWorkload, Upstream, UpstreamEndpoint, WaypointRoute},
    transport::socket::canonical,
};
use std::{net::SocketAddr, sync::Arc};

/// Who sends.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// The workload that this proxy serves.
    pub workload: &'a Workload,
    /// The proxy's own sockets.
    pub own: &'a OwnPorts,
}

/// What was found for a destination.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The service that was addressed; `None` for a workload, and for what the mesh does not know.
    pub service: Option<Arc<Service>>,
    /// Where to go.
    pub next: NextHop,
}

/// The next hop of one connection.
#[derive(Debug, Clone)]
pub enum NextHop {
    /// To an instance of the waypoint, which decides on; the authority is the original destination.
    Waypoint {
        /// The waypoint's Gateway.
        gateway: ResourceName,
        /// Its instance.
        endpoint: Arc<UpstreamEndpoint>,
        /// How to get there.
        tunnel: Tunnel,
    },
    /// To the workload's own proxy; the authority is the workload's address.
    Hbone {
        /// The workload.
        endpoint: Arc<UpstreamEndpoint>,
        /// How to get there.
        tunnel: Tunnel,
    },
    /// To a workload outside of the mesh, as it is.
    Plain {
        /// The workload.
        endpoint: Arc<UpstreamEndpoint>,
    },
    /// To where the client meant to go: the mesh does not know the address.
    Passthrough {
        /// The original destination.
        address: SocketAddr,
    },
}

/// A stream through HBONE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tunnel {
    /// Where the tunnel leads.
    pub address: SocketAddr,
    /// The identities of which the peer must prove one.
    pub destinations: Arc<[Identity]>,
    /// The authority of the CONNECT.
    pub authority: SocketAddr,
}

/// Why a connection goes nowhere. There is no way around any of these: what cannot go as it should
/// does not go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unresolved {
    /// No instance of the waypoint is ready, or none has a known identity.
    #[error("no healthy waypoint")]
    NoWaypoint,
    /// The waypoint may not be used.
    #[error(transparent)]
    Barred(#[from] Barred),
    /// The service has no ready endpoint.
    #[error("no healthy upstream")]
    NoEndpoint,
    /// The service does not declare the port.
    #[error("no healthy upstream: the service does not declare the port")]
    UndeclaredPort,
    /// It would come back to this proxy.
    #[error("the destination is this proxy itself")]
    Loop,
}

impl NextHop {
    /// The address that is dialled.
    pub fn address(&self) -> SocketAddr {
        match self {
            Self::Waypoint { tunnel, .. } | Self::Hbone { tunnel, .. } => tunnel.address,
            Self::Plain { endpoint } => endpoint.address,
            Self::Passthrough { address } => *address,
        }
    }

    /// What distinguishes this hop from its alternatives: where the connection goes in the end, as
    /// far as we know.
    pub fn target(&self) -> SocketAddr {
        match self {
            Self::Waypoint { endpoint, .. } | Self::Hbone { endpoint, .. } | Self::Plain { endpoint } => endpoint.address,
            Self::Passthrough { address } => *address,
        }
    }

    /// The endpoint, when the mesh knows it.
    pub fn endpoint(&self) -> Option<&Arc<UpstreamEndpoint>> {
        match self {
            Self::Waypoint { endpoint, .. } | Self::Hbone { endpoint, .. } | Self::Plain { endpoint } => Some(endpoint),
            Self::Passthrough { .. } => None,
        }
    }

    /// The tunnel, when there is one.
    pub fn tunnel(&self) -> Option<&Tunnel> {
        match self {
            Self::Waypoint { tunnel, .. } | Self::Hbone { tunnel, .. } => Some(tunnel),
            Self::Plain { .. } | Self::Passthrough { .. } => None,
        }
    }
}

/// The next hop from `source` to `dst`, other than by the endpoints that were `tried` in vain.
/// Where several may be taken, two are drawn and the less loaded one wins. A destination that has
/// no alternatives is returned again.
///
/// # Errors
/// See [`Unresolved`].
pub fn next_hop(snapshot: &NodeSnapshot, source: Source<'_>, dst: SocketAddr, tried: &[SocketAddr]) -> Result<Resolved, Unresolved> {
    let dst = canonical(dst);
    // The service first also where a workload has the same address: a waypoint in front of it must not be missed.
    let resolved = match (snapshot.service(dst.ip()), snapshot.workload(dst.ip())) {
        (Some(service), _) => to_service(service, source, dst, tried)?,
        (None, Some(workload)) => Resolved { service: None, next: to_workload(workload, source, dst, tried)? },
        (None, None) => Resolved { service: None, next: NextHop::Passthrough { address: dst } },
    };
    // A waypoint decides on where it goes from there; elsewhere the target is final, in a tunnel or not.
    let is_final = !matches!(resolved.next, NextHop::Waypoint { .. });
    if is_final && leads_back(source, resolved.next.target()) { Err(Unresolved::Loop) } else { Ok(resolved) }
}

fn to_service(service: &NodeService, source: Source<'_>, dst: SocketAddr, tried: &[SocketAddr]) -> Result<Resolved, Unresolved> {
    let next = match &service.waypoint {
        Some(waypoint) if !is_waypoint(source.workload, &waypoint.name) => to_waypoint(waypoint, dst, tried)?,
        Some(_) | None => {
            let upstream = service.ports.get(&dst.port()).ok_or(Unresolved::UndeclaredPort)?;
            direct(pick(upstream, tried, |_| true).ok_or(Unresolved::NoEndpoint)?)
        }
    };
    Ok(Resolved { service: Some(service.service.clone()), next })
}

fn to_workload(workload: &NodeWorkload, source: Source<'_>, dst: SocketAddr, tried: &[SocketAddr]) -> Result<NextHop, Unresolved> {
    match &workload.waypoint {
        Some(waypoint) if !is_waypoint(source.workload, &waypoint.name) => to_waypoint(waypoint, dst, tried),
        Some(_) | None => Ok(direct(Arc::new(UpstreamEndpoint::new(dst, workload.hop.clone(), Some(workload.workload.clone()))))),
    }
}

fn to_waypoint(waypoint: &WaypointRoute, dst: SocketAddr, tried: &[SocketAddr]) -> Result<NextHop, Unresolved> {
    let upstream = waypoint.upstream.as_ref().map_err(|barred| *barred)?;
    let endpoint = pick(upstream, tried, |e| identities(e).is_some()).ok_or(Unresolved::NoWaypoint)?;
    let destinations = identities(&endpoint).ok_or(Unresolved::NoWaypoint)?;
    let tunnel = Tunnel { address: endpoint.address, destinations, authority: dst };
    Ok(NextHop::Waypoint { gateway: waypoint.name.clone(), endpoint, tunnel })
}

/// Who a waypoint's instance must prove to be. A waypoint terminates HBONE itself, so its pod need
/// not be marked as captured; but somebody whose identity is not known is not a waypoint.
fn identities(endpoint: &UpstreamEndpoint) -> Option<Arc<[Identity]>> {
    match &endpoint.hop {
        Hop::Hbone(identities) => Some(identities.clone()),
        Hop::Plain => endpoint.workload.as_ref().map(|w| [w.identity.clone()].into()),
    }
}

fn direct(endpoint: Arc<UpstreamEndpoint>) -> NextHop {
    match &endpoint.hop {
        Hop::Hbone(identities) => {
            let address = SocketAddr::new(endpoint.address.ip(), HBONE_PORT);
            let tunnel = Tunnel { address, destinations: identities.clone(), authority: endpoint.address };
            NextHop::Hbone { endpoint, tunnel }
        }
        Hop::Plain => NextHop::Plain { endpoint },
    }
}

fn pick(upstream: &Upstream, tried: &[SocketAddr], usable: impl Fn(&UpstreamEndpoint) -> bool) -> Option<Arc<UpstreamEndpoint>> {
    let endpoints = upstream.endpoints();
    let skip = |e: &Arc<UpstreamEndpoint>| !usable(e) || tried.contains(&e.address);
    let picked = balance::pick(&endpoints.ready, |e| e.in_flight(), skip, |below| fastrand::usize(..below))?;
    // With nothing else left, `pick` falls back on what it was to skip.
    (!skip(picked)).then(|| picked.clone())
}

/// Whether a workload is an instance of this waypoint: then it must not send to itself.
fn is_waypoint(workload: &Workload, gateway: &ResourceName) -> bool {
    workload.gateway.as_ref() == Some(&gateway.name) && workload.namespace == gateway.namespace
}

fn leads_back(source: Source<'_>, address: SocketAddr) -> bool {
    let is_own = address.ip().is_loopback() || source.workload.addresses.iter().any(|own| own.to_canonical() == address.ip());
    is_own && source.own.serves(address)
}

#[cfg(test)]
mod tests;
