//! The ztunnel's view: every service and workload by address, and L4 policies for its own.

use super::{Barred, Bound, Compile, Directory, Hop, Upstream, Upstreams, directory::selects};
use crate::{
    authz::{Layer, Ruleset},
    model::{
        AppProtocol, AuthorizationPolicy, Hostname, Mesh, Name, PolicyTarget, Resource, ResourceName, Service, Waypoint, WaypointAddress,
        Workload,
    },
};
use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

/// What a ztunnel reads.
#[derive(Debug, Default)]
pub struct NodeSnapshot {
    /// The version of the mesh it was compiled from.
    pub version: u64,
    services: HashMap<IpAddr, Arc<NodeService>>,
    hosts: HashMap<Hostname, Arc<NodeService>>,
    workloads: HashMap<IpAddr, Arc<NodeWorkload>>,
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

/// Compiles for a ztunnel.
#[derive(Debug)]
pub struct NodeCompiler {
    root_namespace: Name,
    // Uids of the workloads that this proxy serves; policies are compiled for no other.
    local: Vec<Name>,
    upstreams: Upstreams,
}

impl NodeCompiler {
    /// A compiler for the proxy of these workloads (by uid).
    pub fn new(local: Vec<Name>, root_namespace: &str) -> Self {
        Self { root_namespace: root_namespace.into(), local, upstreams: Upstreams::default() }
    }

    fn service(&mut self, directory: &Directory<'_>, service: &Arc<Service>) -> NodeService {
        let ports = service.ports.iter().map(|port| {
            let endpoints = directory.endpoints(service, port);
            (port.port, self.upstreams.update(&service.key, port.port, port.protocol, endpoints))
        });
        let ports = ports.collect();
        let waypoint = self.route(directory, directory.service_waypoint(service));
        NodeService { service: service.clone(), waypoint, ports }
    }

    fn workload(&mut self, directory: &Directory<'_>, workload: &Arc<Workload>) -> NodeWorkload {
        let is_local = self.local.contains(&workload.uid);
        let policies = directory.mesh().policies.values().filter(|p| is_local && self.applies(p, workload)).map(|p| &**p);
        let rules = Arc::new(Ruleset::compile(policies, Layer::Ztunnel));
        let waypoint = self.route(directory, directory.workload_waypoint(workload));
        let hop = match workload.protocol {
            crate::model::TunnelProtocol::Hbone => Hop::Hbone([workload.identity.clone()].into()),
            crate::model::TunnelProtocol::None => Hop::Plain,
        };
        NodeWorkload { workload: workload.clone(), waypoint, hop, rules }
    }

    fn route(&mut self, directory: &Directory<'_>, bound: Bound<'_>) -> Option<WaypointRoute> {
        match bound {
            Bound::Nothing => None,
            Bound::To(waypoint) => Some(WaypointRoute { name: waypoint.name.clone(), upstream: Ok(self.waypoint(directory, waypoint)) }),
            Bound::Barred(waypoint, reason) => Some(WaypointRoute { name: waypoint.name.clone(), upstream: Err(reason) }),
        }
    }

    fn waypoint(&mut self, directory: &Directory<'_>, waypoint: &Waypoint) -> Arc<Upstream> {
        match directory.waypoint_service(waypoint).and_then(|s| s.port(waypoint.port).map(|port| (s, port))) {
            Some((service, port)) => {
                let endpoints = directory.endpoints(service, port);
                self.upstreams.update(&service.key, port.port, port.protocol, endpoints)
            }
            None => {
                let ips = waypoint.addresses.iter().filter_map(|address| match address {
                    WaypointAddress::Ip(ip) => Some(Arc::new(directory.direct(SocketAddr::new(*ip, waypoint.port)))),
                    WaypointAddress::Hostname(_) => None,
                });
                let name = format!("outbound|{}||{}", waypoint.port, waypoint.name).into();
                Arc::new(Upstream::fixed(None, waypoint.port, AppProtocol::Tcp, name, ips.collect()))
            }
        }
    }

    /// Which policies a ztunnel enforces in front of a workload: those of its namespace and of the
    /// root namespace that have no `targetRefs`, selectors permitting.
    fn applies(&self, policy: &AuthorizationPolicy, workload: &Workload) -> bool {
        let near = policy.name.namespace == workload.namespace || policy.name.namespace == self.root_namespace;
        match &policy.target {
            PolicyTarget::Refs(_) => false,
            PolicyTarget::Selector(labels) => near && selects(labels, &workload.labels),
            PolicyTarget::Namespace => near,
            PolicyTarget::Unknown => near || policy.name.namespace.is_empty(),
        }
    }
}

impl Compile for NodeCompiler {
    type Snapshot = NodeSnapshot;

    fn compile(&mut self, mesh: &Mesh, version: u64) -> NodeSnapshot {
        let directory = Directory::new(mesh);
        let mut snapshot = NodeSnapshot { version, ..NodeSnapshot::default() };
        for service in mesh.services.values() {
            let entry = Arc::new(self.service(&directory, service));
            snapshot.services.extend(directory.vips(service).map(|vip| (vip, entry.clone())));
            if directory.service_of(&service.key.hostname).is_some_and(|owner| owner.key == service.key) {
                snapshot.hosts.insert(service.key.hostname.clone(), entry);
            }
        }
        for workload in mesh.workloads.values() {
            let entry = Arc::new(self.workload(&directory, workload));
            if self.local.contains(&workload.uid) {
                snapshot.local.insert(workload.uid.clone(), entry.clone());
            }
            for address in workload.addresses.iter().filter(|_| !workload.host_network) {
                if directory.workload(*address).is_some_and(|w| Arc::ptr_eq(w, workload)) {
                    snapshot.workloads.insert(address.to_canonical(), entry.clone());
                }
            }
        }
        self.upstreams.prune();
        snapshot
    }

    /// Neither routes nor policies with `targetRefs`: those are for waypoints.
    fn concerns(&self, resource: &Resource) -> bool {
        match resource {
            Resource::Route(_) => false,
            Resource::Policy(policy) => !matches!(policy.target, PolicyTarget::Refs(_)),
            Resource::Namespace(_) | Resource::Service(_) | Resource::Endpoints(_) | Resource::Workload(_) | Resource::Waypoint(_) => true,
        }
    }
}
