//! The ztunnel's view: every service and workload by address, and L4 policies for its own.

use super::{Barred, Hop, Upstream, shared::SharedMap};
use crate::{
    authz::Ruleset,
    model::{GatewayAddress, Hostname, Name, ResourceName, Service, ServiceKey, Workload},
};
use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

mod compiler;
mod gateways;
mod owners;
mod places;

pub use compiler::{NodeCompiler, Own};
use owners::{Owners, Ranges};

/// What a ztunnel reads.
#[derive(Debug, Default)]
pub struct NodeSnapshot {
    /// The version of the mesh it was compiled from.
    pub version: u64,
    services: SharedMap<IpAddr, Owners>,
    ranges: Arc<Ranges>,
    hosts: SharedMap<Hostname, Owners>,
    addresses: SharedMap<IpAddr, Arc<NodeWorkload>>,
    workloads: SharedMap<Name, Arc<NodeWorkload>>,
    places: SharedMap<GatewayAddress, Arc<Upstream>>,
    // Since the version before; none is listed where there are many.
    moved: Option<HashSet<IpAddr>>,
    // Shared with the snapshots before, as long as none of them changes.
    local: Arc<Local>,
}

/// A proxy's own workloads.
#[derive(Debug, Default)]
struct Local {
    by_uid: HashMap<Name, Arc<NodeWorkload>>,
    by_name: HashMap<ResourceName, Vec<Arc<NodeWorkload>>>,
}

impl Local {
    fn new(workloads: impl Iterator<Item = Arc<NodeWorkload>>) -> Self {
        let mut local = Self::default();
        for own in workloads {
            let name = ResourceName { namespace: own.workload.namespace.clone(), name: own.workload.name.clone() };
            local.by_name.entry(name).or_default().push(own.clone());
            local.by_uid.insert(own.workload.uid.clone(), own);
        }
        local
    }
}

/// A service as a client's proxy sees it.
#[derive(Debug)]
pub struct NodeService {
    /// The service.
    pub service: Arc<Service>,
    /// The waypoint to go through.
    pub waypoint: Option<WaypointRoute>,
    /// Where each declared port leads.
    pub ports: HashMap<u16, Arc<Upstream>>,
}

/// A workload as a proxy sees it.
#[derive(Debug)]
pub struct NodeWorkload {
    /// The workload.
    pub workload: Arc<Workload>,
    /// The waypoint to go through when its address is dialled.
    pub waypoint: Option<WaypointRoute>,
    /// How it is reached directly.
    pub hop: Hop,
    /// L4 policies, for workloads of this proxy.
    pub rules: Arc<Ruleset>,
}

/// The waypoint in front of a service or workload.
#[derive(Debug, Clone)]
pub enum WaypointRoute {
    /// A Gateway.
    Gateway {
        /// Its name.
        name: ResourceName,
        /// Its instances, or why it may not be used. Barred or none ready: traffic fails, it never
        /// goes around the waypoint.
        upstream: Result<Arc<Upstream>, Barred>,
    },
    /// Whatever is at this place; see [`NodeSnapshot::place`].
    At(GatewayAddress),
}

impl NodeService {
    /// Whether traffic to it goes through a waypoint.
    pub fn has_waypoint(&self) -> bool {
        self.waypoint.is_some() || self.service.l4.weighted_waypoints.iter().any(|(_, weight)| *weight > 0)
    }

    fn is_same(&self, other: &Self) -> bool {
        let same_port = |(port, upstream): (&u16, &Arc<Upstream>)| other.ports.get(port).is_some_and(|o| Arc::ptr_eq(upstream, o));
        Arc::ptr_eq(&self.service, &other.service)
            && self.waypoint == other.waypoint
            && self.ports.len() == other.ports.len()
            && self.ports.iter().all(same_port)
    }
}

impl NodeWorkload {
    fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.workload, &other.workload) && self.waypoint == other.waypoint && Arc::ptr_eq(&self.rules, &other.rules)
    }
}

impl PartialEq for WaypointRoute {
    /// The same instances, not only ones that look alike.
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Gateway { name, upstream }, Self::Gateway { name: other_name, upstream: other }) => {
                name == other_name
                    && match (upstream, other) {
                        (Ok(a), Ok(b)) => Arc::ptr_eq(a, b),
                        (Err(a), Err(b)) => a == b,
                        (Ok(_), Err(_)) | (Err(_), Ok(_)) => false,
                    }
            }
            (Self::At(a), Self::At(b)) => a == b,
            (Self::Gateway { .. }, Self::At(_)) | (Self::At(_), Self::Gateway { .. }) => false,
        }
    }
}

impl NodeSnapshot {
    /// The service that a client of a namespace means by a virtual address (contract, 2.4): one that it
    /// may see, its own namespace's before canonical ones; a range only where no service has the
    /// address itself.
    pub fn service<'a>(&'a self, address: IpAddr, client: &'a str) -> Option<&'a Arc<NodeService>> {
        let address = address.to_canonical();
        let exact = self.services.get(&address).and_then(|owners| owners.for_client(client));
        exact.or_else(|| self.ranges.find(address, client))
    }

    /// The service that a client of a namespace means by a host name.
    pub fn host<'a>(&'a self, host: &Hostname, client: &'a str) -> Option<&'a Arc<NodeService>> {
        self.hosts.get(host)?.for_client(client)
    }

    /// All services of a host name that a client of a namespace may see, the one that is meant among
    /// them.
    pub fn hosts<'a>(&'a self, host: &Hostname, client: &'a str) -> impl Iterator<Item = &'a Arc<NodeService>> {
        self.hosts.get(host).into_iter().flat_map(move |owners| owners.visible(client))
    }

    /// A service by its key.
    pub fn service_by_key(&self, key: &ServiceKey) -> Option<&Arc<NodeService>> {
        self.hosts.get(&key.hostname)?.all().find(|service| service.service.key == *key)
    }

    /// The workload at an address.
    pub fn workload(&self, address: IpAddr) -> Option<&Arc<NodeWorkload>> {
        self.addresses.get(&address.to_canonical())
    }

    /// Whether an address may be another workload's than in an earlier version. Cheap, for who has many
    /// addresses to ask about at each version.
    pub fn may_have_moved(&self, address: IpAddr, since: u64) -> bool {
        let known = self.moved.as_ref().filter(|_| since + 1 == self.version);
        since < self.version && known.is_none_or(|moved| moved.contains(&address.to_canonical()))
    }

    /// A workload by uid.
    pub fn workload_by_uid(&self, uid: &str) -> Option<&Arc<NodeWorkload>> {
        self.workloads.get(uid)
    }

    /// What is at a place that a service or workload refers to as its waypoint or as the gateway of its
    /// network.
    pub fn place(&self, place: &GatewayAddress) -> Option<&Arc<Upstream>> {
        self.places.get(place)
    }

    /// All services.
    pub fn services(&self) -> impl Iterator<Item = &Arc<NodeService>> {
        self.hosts.values().flat_map(Owners::all)
    }

    /// All workloads.
    pub fn workloads(&self) -> impl Iterator<Item = &Arc<NodeWorkload>> {
        self.workloads.values()
    }

    /// This proxy's own workloads.
    pub fn local_workloads(&self) -> impl Iterator<Item = &Arc<NodeWorkload>> {
        self.local.by_uid.values()
    }

    /// Whether this proxy's own workloads, and the policies for them, are those of another snapshot of
    /// the same store.
    pub fn has_same_local(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.local, &other.local)
    }

    /// One of this proxy's own workloads, by uid.
    pub fn local(&self, uid: &str) -> Option<&Arc<NodeWorkload>> {
        self.local.by_uid.get(uid)
    }

    /// One of this proxy's own workloads, as a node agent names it.
    pub fn local_named(&self, name: &ResourceName, service_account: &str) -> Option<&Arc<NodeWorkload>> {
        self.local.by_name.get(name)?.iter().find(|w| w.workload.identity.service_account() == service_account)
    }
}
