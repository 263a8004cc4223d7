//! What only an L4 proxy asks about: networks, gateways between them, locality, capacity. The terms
//! are those of Istio's workload API.

use super::{Hostname, Name, ResourceName, ServiceKey};
use ipnet::IpNet;
use std::{fmt, net::IpAddr};

/// An address on a network.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetworkAddress {
    /// Another network; `None` for the proxy's own.
    pub network: Option<Name>,
    /// The address there.
    pub address: IpAddr,
}

/// Where a waypoint, or a gateway to another network, is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GatewayAddress {
    /// A service or a workload.
    pub destination: GatewayDestination,
    /// The port on which it takes HBONE; of a service, the service's port.
    pub port: u16,
}

/// What a [`GatewayAddress`] names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GatewayDestination {
    /// An address of a service or of a workload.
    Address(NetworkAddress),
    /// A service, or a workload that has a host name.
    Hostname(ServiceKey),
}

impl fmt::Display for NetworkAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.network {
            Some(network) => write!(f, "{network}/{}", self.address),
            None => self.address.fmt(f),
        }
    }
}

impl fmt::Display for GatewayAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.destination {
            GatewayDestination::Address(address) => write!(f, "{address} port {}", self.port),
            GatewayDestination::Hostname(key) => write!(f, "{key} port {}", self.port),
        }
    }
}

/// The L4 side of a service. The default is that of any Kubernetes Service.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ServiceL4 {
    /// Virtual addresses that are whole ranges.
    pub ranges: Vec<IpNet>,
    /// Virtual addresses on other networks.
    pub elsewhere: Vec<NetworkAddress>,
    /// Which endpoints are preferred.
    pub load_balancing: LoadBalancing,
    /// Which address families its endpoints are reached by.
    pub ip_families: IpFamilies,
    /// Who may address it.
    pub visibility: Visibility,
    /// Comes before others with the same host name or address.
    pub canonical: bool,
    /// Waypoints to choose from by weight; they come before the one it is bound to.
    pub weighted_waypoints: Vec<(GatewayAddress, u32)>,
}

/// Which endpoints of a service are preferred, judged from where the client runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadBalancing {
    /// What to do with the preferences.
    pub mode: LoadBalancingMode,
    /// What is compared, most important first.
    pub preferences: Vec<LocalityScope>,
}

/// What [`LoadBalancing`] does with its preferences.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LoadBalancingMode {
    /// Nothing: all endpoints are alike.
    #[default]
    Any,
    /// Only endpoints that match all of them.
    Strict,
    /// Those that match most, counted from the first.
    Failover,
    /// Connections go to the address that was dialled.
    Passthrough,
}

/// What a client and an endpoint may have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the variants are the scopes' own names")]
pub enum LocalityScope {
    Region,
    Zone,
    Subzone,
    Node,
    Cluster,
    Network,
}

/// Which address families the endpoints of a service are reached by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum IpFamilies {
    /// Either.
    #[default]
    Automatic,
    /// IPv4 only.
    Ipv4,
    /// IPv6 only.
    Ipv6,
    /// Both.
    Dual,
}

impl IpFamilies {
    /// Whether the family of an address is among them.
    pub fn allow(self, address: IpAddr) -> bool {
        match self {
            Self::Automatic | Self::Dual => true,
            Self::Ipv4 => address.is_ipv4(),
            Self::Ipv6 => address.is_ipv6(),
        }
    }
}

/// Who may address a service.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Visibility {
    /// Everyone.
    #[default]
    Public,
    /// Clients of its own namespace.
    Namespace,
}

/// The L4 side of a workload. The default is that of a pod in the proxy's own cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkloadL4 {
    /// The network that it is on; `None` for the proxy's own.
    pub network: Option<Name>,
    /// The gateway through which its network is reached from others.
    pub gateway: Option<GatewayAddress>,
    /// The name by which it is found where it has no address, asked for at each connection.
    pub hostname: Option<Hostname>,
    /// Its share of connections among the endpoints of a service; none for 0.
    pub capacity: u32,
    /// It takes connections in another form, or at another port.
    pub application_tunnel: Option<ApplicationTunnel>,
    /// The services that it serves, each with its own target ports by the service's ports; where a
    /// port is not among them, the service's own target port holds.
    pub services: Vec<(ServiceKey, Vec<(u16, u16)>)>,
    /// Policies that name it, apart from those of its namespace and of the whole mesh.
    pub policies: Vec<ResourceName>,
}

impl Default for WorkloadL4 {
    fn default() -> Self {
        Self {
            network: None,
            gateway: None,
            hostname: None,
            capacity: 1,
            application_tunnel: None,
            services: Vec::new(),
            policies: Vec::new(),
        }
    }
}

/// How a workload takes connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ApplicationTunnel {
    /// A PROXY protocol header (version 2) comes first.
    pub proxy_protocol: bool,
    /// The port for all connections; `None` for the one that was meant.
    pub port: Option<u16>,
}
