//! The ztunnel's view: every service and workload by address, and L4 policies for its own.

use super::{Barred, Hop, Upstream, shared::SharedMap};
use crate::{
    authz::Ruleset,
    model::{Hostname, Name, ResourceName, Service, Workload},
};
use std::{collections::HashMap, net::IpAddr, sync::Arc};

mod compiler;
mod gateways;

pub use compiler::NodeCompiler;

/// What a ztunnel reads.
#[derive(Debug, Default)]
pub struct NodeSnapshot {
    /// The version of the mesh it was compiled from.
    pub version: u64,
    services: SharedMap<IpAddr, Arc<NodeService>>,
    hosts: SharedMap<Hostname, Arc<NodeService>>,
    workloads: SharedMap<IpAddr, Arc<NodeWorkload>>,
    local: HashMap<Name, Arc<NodeWorkload>>,
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
pub struct WaypointRoute {
    /// The Gateway.
    pub name: ResourceName,
    /// Its instances, or why it may not be used. Barred or none ready: traffic fails, it never goes
    /// around the waypoint.
    pub upstream: Result<Arc<Upstream>, Barred>,
}

impl NodeService {
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
        self.name == other.name
            && match (&self.upstream, &other.upstream) {
                (Ok(a), Ok(b)) => Arc::ptr_eq(a, b),
                (Err(a), Err(b)) => a == b,
                (Ok(_), Err(_)) | (Err(_), Ok(_)) => false,
            }
    }
}

impl NodeSnapshot {
    /// The service that owns a virtual address.
    pub fn service(&self, address: IpAddr) -> Option<&Arc<NodeService>> {
        self.services.get(&address.to_canonical())
    }

    /// The service of a host name.
    pub fn host(&self, host: &Hostname) -> Option<&Arc<NodeService>> {
        self.hosts.get(host)
    }

    /// The workload at an address.
    pub fn workload(&self, address: IpAddr) -> Option<&Arc<NodeWorkload>> {
        self.workloads.get(&address.to_canonical())
    }

    /// All services.
    pub fn services(&self) -> impl Iterator<Item = &Arc<NodeService>> {
        self.hosts.values()
    }

    /// This proxy's own workloads.
    pub fn local_workloads(&self) -> impl Iterator<Item = &Arc<NodeWorkload>> {
        self.local.values()
    }

    /// One of this proxy's own workloads, by uid.
    pub fn local(&self, uid: &str) -> Option<&Arc<NodeWorkload>> {
        self.local.get(uid)
    }
}
