//! Where does a connection go? Pure: one snapshot, one source, one destination; no I/O.
//!
//! The order is that of the reference ztunnel (contract, 2.3): a service with a waypoint, a service,
//! a workload with a waypoint, a workload, anything else.

use super::own::OwnPorts;
use crate::{
    balance,
    hbone::{ConnectTarget, HBONE_PORT},
    model::{GatewayAddress, GatewayDestination, Identity, LoadBalancingMode, Service, Workload},
    state::{Barred, EndpointSet, Hop, NodeService, NodeSnapshot, NodeWorkload, Upstream, UpstreamEndpoint, WaypointRoute},
    transport::socket::canonical,
};
use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

mod locality;

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
    /// To another network, through its gateway and a tunnel inside of the tunnel (contract, 1.7).
    Gateway {
        /// The gateway.
        gateway: Arc<UpstreamEndpoint>,
        /// What was chosen there: a workload, or an instance of the waypoint. Which one it will be in
        /// the end is decided there.
        endpoint: Arc<UpstreamEndpoint>,
        /// How to get to the gateway. The inner tunnel has the same authority.
        tunnel: Tunnel,
        /// The identities of which the far end must prove one.
        destinations: Arc<[Identity]>,
    },
    /// To a workload outside of the mesh, as it is.
    Plain {
        /// The workload.
        endpoint: Arc<UpstreamEndpoint>,
        /// Where it is dialled.
        address: SocketAddr,
    },
    /// To where the client meant to go: the mesh does not know the address, or leaves it alone.
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
    pub authority: ConnectTarget,
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
    /// The service has no endpoint that may be used.
    #[error("no healthy upstream")]
    NoEndpoint,
    /// The service does not declare the port.
    #[error("no healthy upstream: the service does not declare the port")]
    UndeclaredPort,
    /// The endpoint is on another network, which has no gateway that can be used.
    #[error("the endpoint is on another network, and that network's gateway cannot be used")]
    NoGateway,
    /// The far end of a way through a gateway could be anybody.
    #[error("the endpoint is on another network, and no identity is known that would prove to be it")]
    NoIdentity,
    /// The host name of a workload outside of the mesh leads to one inside, which is not reached so.
    #[error("the host name leads into the mesh, past a tunnel or a waypoint")]
    Around,
    /// It would come back to this proxy.
    #[error("the destination is this proxy itself")]
    Loop,
}

impl NextHop {
    /// The address that is dialled; see [`named`](Self::named).
    pub fn address(&self) -> SocketAddr {
        match self {
            Self::Waypoint { tunnel, .. } | Self::Hbone { tunnel, .. } | Self::Gateway { tunnel, .. } => tunnel.address,
            Self::Plain { address, .. } | Self::Passthrough { address } => *address,
        }
    }

    /// The workload that must be looked up by name before it can be dialled.
    pub fn named(&self) -> Option<&Arc<Workload>> {
        self.dialled().filter(|_| self.address().ip().is_unspecified()).and_then(|endpoint| endpoint.workload.as_ref())
    }

    /// The same hop with the address that was found for it.
    #[must_use]
    pub fn at(mut self, ip: IpAddr) -> Self {
        match &mut self {
            Self::Waypoint { tunnel, .. } | Self::Gateway { tunnel, .. } => tunnel.address.set_ip(ip),
            Self::Hbone { tunnel, .. } => {
                tunnel.address.set_ip(ip);
                if let ConnectTarget::Address(authority) = &mut tunnel.authority {
                    authority.set_ip(ip);
                }
            }
            Self::Plain { address, .. } | Self::Passthrough { address } => address.set_ip(ip),
        }
        self
    }

    /// The endpoint that was chosen for the connection, when the mesh knows it: by it alternatives are
    /// told apart.
    pub fn endpoint(&self) -> Option<&Arc<UpstreamEndpoint>> {
        match self {
            Self::Waypoint { endpoint, .. }
            | Self::Hbone { endpoint, .. }
            | Self::Gateway { endpoint, .. }
            | Self::Plain { endpoint, .. } => Some(endpoint),
            Self::Passthrough { .. } => None,
        }
    }

    /// The endpoint that is dialled.
    pub fn dialled(&self) -> Option<&Arc<UpstreamEndpoint>> {
        match self {
            Self::Gateway { gateway, .. } => Some(gateway),
            Self::Waypoint { .. } | Self::Hbone { .. } | Self::Plain { .. } | Self::Passthrough { .. } => self.endpoint(),
        }
    }

    /// The tunnel, when there is one.
    pub fn tunnel(&self) -> Option<&Tunnel> {
        match self {
            Self::Waypoint { tunnel, .. } | Self::Hbone { tunnel, .. } | Self::Gateway { tunnel, .. } => Some(tunnel),
            Self::Plain { .. } | Self::Passthrough { .. } => None,
        }
    }
}

/// The next hop from `source` to `dst`, other than by the endpoints that were `tried` in vain. A
/// destination that has no alternatives is returned again, with an endpoint of its own.
///
/// # Errors
/// See [`Unresolved`].
pub fn next_hop(
    snapshot: &NodeSnapshot,
    source: Source<'_>,
    dst: SocketAddr,
    tried: &[Arc<UpstreamEndpoint>],
) -> Result<Resolved, Unresolved> {
    let dst = canonical(dst);
    let asked = Asked { snapshot, source, dst, tried };
    // The service first also where a workload has the same address: a waypoint in front of it must not be missed.
    let resolved = match (snapshot.service(dst.ip(), &source.workload.namespace), snapshot.workload(dst.ip())) {
        (Some(service), _) => Resolved { service: Some(service.service.clone()), next: asked.to_service(service)? },
        (None, Some(workload)) => Resolved { service: None, next: asked.to_workload(workload)? },
        (None, None) => Resolved { service: None, next: NextHop::Passthrough { address: dst } },
    };
    if leads_back(source, &resolved.next) { Err(Unresolved::Loop) } else { Ok(resolved) }
}

/// A question.
#[derive(Clone, Copy)]
struct Asked<'a> {
    snapshot: &'a NodeSnapshot,
    source: Source<'a>,
    dst: SocketAddr,
    tried: &'a [Arc<UpstreamEndpoint>],
}

impl<'a> Asked<'a> {
    fn to_service(self, service: &NodeService) -> Result<NextHop, Unresolved> {
        if let Some(next) = self.through_waypoint(self.waypoint_of(service).as_ref(), Some(&service.service))? {
            return Ok(next);
        }
        let balancing = &service.service.l4.load_balancing;
        if balancing.mode == LoadBalancingMode::Passthrough {
            // Inside of a range there may be workloads: they are reached as they always are.
            let workload = self.snapshot.workload(self.dst.ip());
            return workload.map_or(Ok(NextHop::Passthrough { address: self.dst }), |workload| self.to_workload(workload));
        }
        let upstream = service.ports.get(&self.dst.port()).ok_or(Unresolved::UndeclaredPort)?;
        let endpoint = self.endpoint(upstream, &service.service).ok_or(Unresolved::NoEndpoint)?;
        if is_remote(&endpoint) {
            return self.through_gateway(endpoint, &service.service, &service.service);
        }
        Ok(self.direct(endpoint, Some(&service.service)))
    }

    fn to_workload(self, workload: &NodeWorkload) -> Result<NextHop, Unresolved> {
        if let Some(next) = self.through_waypoint(workload.waypoint.as_ref(), None)? {
            return Ok(next);
        }
        let endpoint = Arc::new(UpstreamEndpoint::new(self.dst, workload.hop.clone(), Some(workload.workload.clone())));
        Ok(self.direct(endpoint, None))
    }

    /// The waypoint of a service: one drawn from those that have weights, else the one it is bound to.
    fn waypoint_of(self, service: &NodeService) -> Option<WaypointRoute> {
        let weighted = &service.service.l4.weighted_waypoints;
        let drawn = balance::pick_weighted(weighted, |(_, weight)| *weight, |_| 0, |_| false, random);
        drawn.map(|(place, _)| WaypointRoute::At(place.clone())).or_else(|| service.waypoint.clone())
    }

    /// The way through a waypoint; `None` without one, and for its own instances, which must not send
    /// to themselves.
    fn through_waypoint(self, waypoint: Option<&WaypointRoute>, service: Option<&Service>) -> Result<Option<NextHop>, Unresolved> {
        // An address keeps its family; a name has the one that the client dialled.
        let mut meant = self.dst.ip();
        let upstream = match waypoint {
            None => return Ok(None),
            Some(WaypointRoute::Gateway { name, .. })
                if self.source.workload.gateway.as_ref() == Some(&name.name) && self.source.workload.namespace == name.namespace =>
            {
                return Ok(None);
            }
            Some(WaypointRoute::Gateway { upstream, .. }) => upstream.clone()?,
            Some(WaypointRoute::At(place)) => {
                meant = self.meant(place);
                self.snapshot.place(place).ok_or(Unresolved::NoWaypoint)?.clone()
            }
        };
        let endpoints = upstream.endpoints();
        let is_source = |e: &Arc<UpstreamEndpoint>| e.workload.as_ref().is_some_and(|w| w.uid == self.source.workload.uid);
        if endpoints.ready.iter().any(is_source) {
            return Ok(None);
        }
        let of = upstream.service.as_ref().and_then(|key| self.snapshot.service_by_key(key)).map(|of| &*of.service);
        let endpoint = self.instance(&endpoints, of).ok_or(Unresolved::NoWaypoint)?;
        if is_remote(&endpoint) {
            let (Some(service), Some(of)) = (service, of) else { return Err(Unresolved::NoGateway) };
            return self.through_gateway(endpoint, service, of).map(Some);
        }
        let destinations = identities(&endpoint, of).ok_or(Unresolved::NoWaypoint)?;
        let address = address_of(&endpoint, of, meant);
        let tunnel = Tunnel { address, destinations, authority: ConnectTarget::Address(self.dst) };
        Ok(Some(NextHop::Waypoint { endpoint, tunnel }))
    }

    /// The way to another network. `of` is the service whose endpoint was chosen: the requested one, or
    /// its waypoint's.
    fn through_gateway(self, endpoint: Arc<UpstreamEndpoint>, service: &Service, of: &Service) -> Result<NextHop, Unresolved> {
        let place = endpoint.workload.as_ref().and_then(|workload| workload.l4.gateway.as_ref()).ok_or(Unresolved::NoGateway)?;
        let upstream = self.snapshot.place(place).ok_or(Unresolved::NoGateway)?;
        let gateway_service = upstream.service.as_ref().and_then(|key| self.snapshot.service_by_key(key)).map(|s| &*s.service);
        let gateway = self.instance(&upstream.endpoints(), gateway_service).ok_or(Unresolved::NoGateway)?;
        let outer = identities(&gateway, gateway_service).ok_or(Unresolved::NoGateway)?;
        // Which pod it will be is decided on the other side: only what holds for the whole service can be asked for.
        let destinations: Arc<[Identity]> = alternatives(of).collect();
        if destinations.is_empty() {
            return Err(Unresolved::NoIdentity);
        }
        let authority = ConnectTarget::Host(service.key.hostname.clone(), self.dst.port());
        let address = address_of(&gateway, gateway_service, self.meant(place));
        Ok(NextHop::Gateway { gateway, endpoint, tunnel: Tunnel { address, destinations: outer, authority }, destinations })
    }

    fn direct(self, endpoint: Arc<UpstreamEndpoint>, service: Option<&Service>) -> NextHop {
        let address = address_of(&endpoint, service, self.dst.ip());
        match &endpoint.hop {
            Hop::Hbone(identities) => {
                let tunnel = Tunnel {
                    address: SocketAddr::new(address.ip(), HBONE_PORT),
                    destinations: identities.clone(),
                    authority: ConnectTarget::Address(address),
                };
                NextHop::Hbone { endpoint, tunnel }
            }
            Hop::Plain => NextHop::Plain { endpoint, address },
        }
    }

    /// An endpoint of a service: by preference of place, then by capacity and load (contract, 2.4).
    fn endpoint(self, upstream: &Upstream, service: &Service) -> Option<Arc<UpstreamEndpoint>> {
        let endpoints = upstream.endpoints();
        let fits = locality::fitting(&service.l4.load_balancing, self.source.workload, &endpoints.ready, |e| self.may_try(e));
        let weight = |e: &Arc<UpstreamEndpoint>| e.workload.as_ref().map_or(1, |w| w.l4.capacity);
        balance::pick_weighted(&endpoints.ready, weight, |e| e.in_flight(), |e| !self.may_try(e) || !fits(e), random).cloned()
    }

    /// An instance of a waypoint or gateway: the least loaded, so that new instances get their share at
    /// once. Somebody whose identity is not known is none.
    fn instance(self, endpoints: &EndpointSet, service: Option<&Service>) -> Option<Arc<UpstreamEndpoint>> {
        let has_share = |e: &Arc<UpstreamEndpoint>| e.workload.as_ref().is_none_or(|w| w.l4.capacity > 0);
        let usable = |e: &Arc<UpstreamEndpoint>| self.may_try(e) && has_share(e) && (is_remote(e) || identities(e, service).is_some());
        let balancing = service.map(|service| service.l4.load_balancing.clone()).unwrap_or_default();
        let fits = locality::fitting(&balancing, self.source.workload, &endpoints.ready, usable);
        balance::least(&endpoints.ready, |e| e.in_flight(), |e| !usable(e) || !fits(e), random).cloned()
    }

    fn may_try(self, endpoint: &Arc<UpstreamEndpoint>) -> bool {
        !self.tried.iter().any(|tried| Arc::ptr_eq(tried, endpoint))
    }

    /// The address that a place asks for.
    fn meant(self, place: &GatewayAddress) -> IpAddr {
        match &place.destination {
            GatewayDestination::Address(address) => address.address,
            GatewayDestination::Hostname(_) => self.dst.ip(),
        }
    }
}

/// Where an endpoint is dialled: at the address that was asked for if it is one of its own, else at
/// one of the same family if there is one that the service allows.
fn address_of(endpoint: &UpstreamEndpoint, service: Option<&Service>, ip: IpAddr) -> SocketAddr {
    let own = endpoint.workload.iter().flat_map(|w| &w.addresses).map(IpAddr::to_canonical);
    let allowed = |address: &IpAddr| service.is_none_or(|service| service.l4.ip_families.allow(*address));
    let is_own = own.clone().any(|address| address == endpoint.address.ip());
    let better = own.clone().find(|address| *address == ip);
    let better = better.or_else(|| own.filter(allowed).find(|address| address.is_ipv4() == ip.is_ipv4()));
    match better {
        Some(better) if is_own && (better == ip || endpoint.address.is_ipv4() != ip.is_ipv4()) => {
            SocketAddr::new(better, endpoint.address.port())
        }
        Some(_) | None => endpoint.address,
    }
}

fn random(below: usize) -> usize {
    fastrand::usize(..below)
}

fn is_remote(endpoint: &UpstreamEndpoint) -> bool {
    endpoint.workload.as_ref().is_some_and(|workload| workload.l4.network.is_some())
}

/// Who an instance of a waypoint or gateway must prove to be. It terminates HBONE itself, so its pod
/// need not be marked as captured; but somebody whose identity is not known is none.
fn identities(endpoint: &UpstreamEndpoint, service: Option<&Service>) -> Option<Arc<[Identity]>> {
    match &endpoint.hop {
        Hop::Hbone(identities) => Some(identities.clone()),
        Hop::Plain => {
            let own = &endpoint.workload.as_ref()?.identity;
            let others = service.into_iter().flat_map(alternatives).filter(|other| other != own);
            Some(std::iter::once(own.clone()).chain(others).collect())
        }
    }
}

/// The identities that a service's servers may present besides their own.
fn alternatives(service: &Service) -> impl Iterator<Item = Identity> {
    service.subject_alt_names.iter().filter_map(|name| name.parse().ok())
}

/// Whether a connection would come back to this proxy. A waypoint, or a gateway, decides on where it
/// goes from there; elsewhere the target is final, in a tunnel or not.
pub(super) fn leads_back(source: Source<'_>, next: &NextHop) -> bool {
    let target = match next {
        NextHop::Waypoint { .. } | NextHop::Gateway { .. } => return false,
        NextHop::Hbone { tunnel, .. } => match &tunnel.authority {
            ConnectTarget::Address(address) => *address,
            ConnectTarget::Host(..) => return false,
        },
        // To the kernel, loopback as well.
        NextHop::Passthrough { address } if address.ip().is_unspecified() => return source.own.serves(*address),
        NextHop::Plain { address, .. } | NextHop::Passthrough { address } => *address,
    };
    let is_own = target.ip().is_loopback() || source.workload.addresses.iter().any(|own| own.to_canonical() == target.ip());
    is_own && source.own.serves(target)
}

/// Whether a hop as it is leads to somebody who must be reached through a tunnel or a waypoint.
pub(super) fn leads_around(snapshot: &NodeSnapshot, source: Source<'_>, next: &NextHop) -> bool {
    let NextHop::Plain { address, .. } = next else { return false };
    let service = snapshot.service(address.ip(), &source.workload.namespace);
    let workload = snapshot.workload(address.ip());
    service.is_some_and(|service| service.has_waypoint())
        || workload.is_some_and(|workload| workload.waypoint.is_some() || matches!(workload.hop, Hop::Hbone(_)))
}

#[cfg(test)]
mod tests;
