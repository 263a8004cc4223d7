//! Looking things up across resources: bindings, endpoints, workloads by address.

use super::{Hop, UpstreamEndpoint};
use crate::model::{
    AllowedNamespaces, Endpoint, Endpoints, Health, Labels, Mesh, Name, ResourceName, Service, ServiceKey, ServicePort, TargetPort,
    TunnelProtocol, Waypoint, WaypointAddress, WaypointBinding, Workload,
};
use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

/// Indexes over one [`Mesh`], made once for each compilation.
#[derive(Debug)]
pub struct Directory<'a> {
    mesh: &'a Mesh,
    by_address: HashMap<IpAddr, &'a Arc<Workload>>,
    endpoints: HashMap<&'a ServiceKey, Vec<&'a Endpoints>>,
    by_namespace: HashMap<&'a str, Vec<&'a Arc<Workload>>>,
}

impl<'a> Directory<'a> {
    /// Indexes the mesh.
    pub fn new(mesh: &'a Mesh) -> Self {
        let mut by_address: HashMap<IpAddr, &Arc<Workload>> = HashMap::new();
        let mut by_namespace: HashMap<&str, Vec<_>> = HashMap::new();
        for workload in mesh.workloads.values() {
            by_namespace.entry(&workload.namespace).or_default().push(workload);
            // A host-network workload's address is the node's: it names nobody.
            for address in workload.addresses.iter().filter(|_| !workload.host_network) {
                let slot = by_address.entry(*address).or_insert(workload);
                if is_preferred(workload, slot) {
                    *slot = workload;
                }
            }
        }
        let mut endpoints: HashMap<&ServiceKey, Vec<_>> = HashMap::new();
        for group in mesh.endpoints.values() {
            endpoints.entry(&group.service).or_default().push(&**group);
        }
        Self { mesh, by_address, endpoints, by_namespace }
    }

    /// The mesh itself.
    pub fn mesh(&self) -> &'a Mesh {
        self.mesh
    }

    /// The workload that an address names.
    pub fn workload(&self, address: IpAddr) -> Option<&'a Arc<Workload>> {
        self.by_address.get(&address.to_canonical()).copied()
    }

    /// All workloads that addresses name.
    pub fn addresses(&self) -> impl Iterator<Item = (IpAddr, &'a Arc<Workload>)> {
        self.by_address.iter().map(|(a, w)| (*a, *w))
    }

    /// The waypoint that a service is bound to, by its own label or its namespace's.
    pub fn service_waypoint(&self, service: &Service) -> Option<&'a Arc<Waypoint>> {
        let waypoint = self.bound(&service.waypoint, &service.key.namespace)?;
        (waypoint.traffic.services() && !self.serves_gateway(service, waypoint)).then_some(waypoint)
    }

    /// The waypoint that a workload is bound to. A waypoint's own pods are bound to none.
    pub fn workload_waypoint(&self, workload: &Workload) -> Option<&'a Arc<Waypoint>> {
        if workload.gateway.is_some() {
            return None;
        }
        let waypoint = self.bound(&workload.waypoint, &workload.namespace)?;
        waypoint.traffic.workloads().then_some(waypoint)
    }

    /// The name in a binding that leads to no usable waypoint, for reports.
    pub fn binding(&self, binding: &WaypointBinding, namespace: &Name) -> Option<ResourceName> {
        match binding {
            WaypointBinding::None => None,
            WaypointBinding::To(name) => Some(name.clone()),
            WaypointBinding::Inherit => match &self.mesh.namespaces.get(namespace)?.waypoint {
                WaypointBinding::To(name) => Some(name.clone()),
                WaypointBinding::None | WaypointBinding::Inherit => None,
            },
        }
    }

    fn bound(&self, binding: &WaypointBinding, namespace: &Name) -> Option<&'a Arc<Waypoint>> {
        let name = self.binding(binding, namespace)?;
        let waypoint = self.mesh.waypoints.get(&name)?;
        self.admits(waypoint, namespace).then_some(waypoint)
    }

    fn admits(&self, waypoint: &Waypoint, namespace: &Name) -> bool {
        match &waypoint.allowed {
            AllowedNamespaces::All => true,
            AllowedNamespaces::Same => waypoint.name.namespace == *namespace,
            AllowedNamespaces::Selector(labels) => {
                self.mesh.namespaces.get(namespace).is_some_and(|n| selects(labels, &n.labels)) || waypoint.name.namespace == *namespace
            }
        }
    }

    /// The Service in front of a waypoint's own pods must not be bound to that waypoint: a loop.
    fn serves_gateway(&self, service: &Service, waypoint: &Waypoint) -> bool {
        service.source.name == waypoint.name
    }

    /// The endpoints of a service port that may receive traffic.
    pub fn endpoints(&self, service: &Service, port: &ServicePort) -> Vec<UpstreamEndpoint> {
        if let Some(groups) = self.endpoints.get(&service.key) {
            let ready = groups.iter().flat_map(|g| &g.endpoints).filter(|e| e.ready || service.publish_not_ready);
            return ready.filter_map(|e| self.listed(e, port)).collect();
        }
        let serves = |w: &&&Arc<Workload>| w.health == Health::Healthy || service.publish_not_ready;
        self.selected(service).iter().filter(serves).filter_map(|w| self.of_workload(w, port)).collect()
    }

    /// All workloads behind a service, ready or not.
    pub fn workloads_of(&self, service: &Service) -> Vec<&'a Arc<Workload>> {
        match self.endpoints.get(&service.key) {
            Some(groups) => groups.iter().flat_map(|g| &g.endpoints).filter_map(|e| self.of_endpoint(e)).collect(),
            None => self.selected(service),
        }
    }

    /// The workloads a selector means, as the endpoint controller of Kubernetes would find them.
    fn selected(&self, service: &Service) -> Vec<&'a Arc<Workload>> {
        let (Some(selector), Some(workloads)) = (&service.selector, self.by_namespace.get(&*service.key.namespace)) else {
            return Vec::new();
        };
        workloads.iter().copied().filter(|w| selects(selector, &w.labels)).collect()
    }

    fn of_endpoint(&self, endpoint: &Endpoint) -> Option<&'a Arc<Workload>> {
        match &endpoint.workload {
            Some(uid) => self.mesh.workloads.get(uid),
            None => self.workload(endpoint.address),
        }
    }

    fn listed(&self, endpoint: &Endpoint, port: &ServicePort) -> Option<UpstreamEndpoint> {
        // The address decides too: an endpoint that names no workload may still stand where one is known.
        let workload = self.of_endpoint(endpoint).or_else(|| self.workload(endpoint.address));
        let listed = endpoint.ports.iter().find(|(name, _)| *name == port.name).map(|(_, number)| *number);
        let number = match listed {
            Some(number) => number,
            None if endpoint.ports.is_empty() => target(port, workload.map(|w| &**w))?,
            None => return None,
        };
        Some(upstream_endpoint(SocketAddr::new(endpoint.address, number), workload))
    }

    fn of_workload(&self, workload: &'a Arc<Workload>, port: &ServicePort) -> Option<UpstreamEndpoint> {
        let number = target(port, Some(workload))?;
        let address = workload.addresses.first()?;
        Some(upstream_endpoint(SocketAddr::new(*address, number), Some(workload)))
    }

    /// How a workload is reached directly.
    pub fn direct(&self, address: SocketAddr) -> UpstreamEndpoint {
        upstream_endpoint(address, self.workload(address.ip()))
    }

    /// The service that an address of a waypoint, or failing that its name, leads to.
    pub fn waypoint_service(&self, waypoint: &Waypoint) -> Option<&'a Arc<Service>> {
        let by_address = waypoint.addresses.iter().find_map(|address| match address {
            WaypointAddress::Ip(ip) => self.mesh.services.values().find(|s| s.vips.contains(ip)),
            WaypointAddress::Hostname(host) => self.mesh.services.values().find(|s| s.key.hostname == *host),
        });
        by_address.or_else(|| {
            let unaddressed = waypoint.addresses.is_empty();
            self.mesh
                .services
                .values()
                .find(|s| unaddressed && s.source.kind == crate::model::Kind::Service && s.source.name == waypoint.name)
        })
    }
}

/// Whether every label of a selector is there.
pub(super) fn selects(selector: &Labels, labels: &Labels) -> bool {
    !selector.is_empty() && selector.iter().all(|(k, v)| labels.get(k) == Some(v))
}

/// Several workloads at one address: pods before entries, HBONE before plain (contract, 2.4).
fn is_preferred(new: &Workload, old: &Workload) -> bool {
    let rank = |w: &Workload| (w.uid.contains("//Pod/"), w.protocol == TunnelProtocol::Hbone, w.health == Health::Healthy);
    rank(new) > rank(old)
}

fn target(port: &ServicePort, workload: Option<&Workload>) -> Option<u16> {
    match &port.target {
        TargetPort::Number(number) => Some(*number),
        TargetPort::Name(name) => workload?.ports.iter().find(|(n, _)| n == name).map(|(_, number)| *number),
    }
}

fn upstream_endpoint(address: SocketAddr, workload: Option<&Arc<Workload>>) -> UpstreamEndpoint {
    let hop = match workload {
        Some(w) if w.protocol == TunnelProtocol::Hbone => Hop::Hbone([w.identity.clone()].into()),
        Some(_) | None => Hop::Plain,
    };
    UpstreamEndpoint::new(address, hop, workload.cloned())
}
