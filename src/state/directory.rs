//! Looking things up across resources: bindings, endpoints, workloads by address.

use super::{Hop, UpstreamEndpoint};
use crate::model::{
    Endpoint, Endpoints, Health, Hostname, Kind, Labels, Mesh, Name, Service, ServiceKey, ServicePort, TargetPort, TunnelProtocol,
    Waypoint, WaypointAddress, WaypointBinding, Workload,
};
use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

/// What a service or a workload is bound to.
#[derive(Debug, Clone, Copy)]
pub enum Bound<'a> {
    /// No waypoint: none is named, the named one does not exist, or it does not take such traffic
    /// (`istio.io/waypoint-for`, `istio.io/for-service-account`).
    Nothing,
    /// This waypoint.
    To(&'a Arc<Waypoint>),
    /// A Gateway that is there but may not be used. Never the same as none: traffic that was to be
    /// judged must not go around the judge.
    Barred(&'a Arc<Waypoint>, Barred),
}

/// Why a Gateway may not be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Barred {
    /// Its listener does not allow the namespace.
    #[error("the waypoint does not allow this namespace")]
    NotAdmitted,
    /// It is invalid or has no HBONE listener.
    #[error("the Gateway that is named as waypoint cannot be one")]
    Unusable,
}

impl Bound<'_> {
    /// Whether it is this waypoint.
    pub(super) fn is_to(self, waypoint: &Waypoint) -> bool {
        matches!(self, Self::To(bound) if bound.name == waypoint.name)
    }
}

/// Indexes over one [`Mesh`], made once for each compilation.
#[derive(Debug)]
pub struct Directory<'a> {
    mesh: &'a Mesh,
    by_address: HashMap<IpAddr, &'a Arc<Workload>>,
    by_vip: HashMap<IpAddr, &'a Arc<Service>>,
    by_host: HashMap<&'a Hostname, &'a Arc<Service>>,
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
                let slot = by_address.entry(address.to_canonical()).or_insert(workload);
                if is_preferred(workload, slot) {
                    *slot = workload;
                }
            }
        }
        let mut endpoints: HashMap<&ServiceKey, Vec<_>> = HashMap::new();
        for group in mesh.endpoints.values() {
            endpoints.entry(&group.service).or_default().push(&**group);
        }
        let (mut by_vip, mut by_host) = (HashMap::new(), HashMap::new());
        let mut services: Vec<&Arc<Service>> = mesh.services.values().collect();
        // The sort is stable: within a kind it stays with the order of the keys.
        services.sort_by_key(|s| s.source.kind != Kind::Service);
        for service in services {
            by_host.entry(&service.key.hostname).or_insert(service);
            for vip in &service.vips {
                by_vip.entry(vip.to_canonical()).or_insert(service);
            }
        }
        Self { mesh, by_address, by_vip, by_host, endpoints, by_namespace }
    }

    /// The service that owns a virtual address. Should several claim it, a Kubernetes Service comes
    /// before a ServiceEntry, then the order of the keys decides: the same in every mode, or a ztunnel
    /// would send to a waypoint what that does not serve.
    pub fn service_at(&self, vip: IpAddr) -> Option<&'a Arc<Service>> {
        self.by_vip.get(&vip.to_canonical()).copied()
    }

    /// The service of a host name; of several, the first as in [`service_at`](Self::service_at).
    pub fn service_of(&self, host: &Hostname) -> Option<&'a Arc<Service>> {
        self.by_host.get(host).copied()
    }

    /// The virtual addresses that a service owns.
    pub(super) fn vips(&self, service: &Service) -> impl Iterator<Item = IpAddr> {
        let is_owner = |vip: &IpAddr| self.service_at(*vip).is_some_and(|owner| owner.key == service.key);
        service.vips.iter().map(IpAddr::to_canonical).filter(is_owner)
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

    /// What a service is bound to, by its own label or its namespace's.
    pub fn service_waypoint(&self, service: &Service) -> Bound<'a> {
        let Some(waypoint) = self.named(&service.waypoint, &service.key.namespace) else { return Bound::Nothing };
        let takes = waypoint.traffic.services() && !serves_gateway(service, waypoint) && self.is_of_account(service, waypoint);
        if takes { self.judged(waypoint, &service.key.namespace) } else { Bound::Nothing }
    }

    /// What a workload is bound to. A waypoint's own pods are bound to nothing.
    pub fn workload_waypoint(&self, workload: &Workload) -> Bound<'a> {
        let Some(waypoint) = self.named(&workload.waypoint, &workload.namespace) else { return Bound::Nothing };
        let takes = waypoint.traffic.workloads() && workload.gateway.is_none() && runs_as_its_account(workload, waypoint);
        if takes { self.judged(waypoint, &workload.namespace) } else { Bound::Nothing }
    }

    /// Whether a service is one of those that a waypoint for one service account takes: it has a
    /// workload of that account. With none at all (scaled to zero) it is not known; its own label is
    /// then believed, so that the service is unavailable rather than unguarded.
    fn is_of_account(&self, service: &Service, waypoint: &Waypoint) -> bool {
        if waypoint.service_account.is_none() {
            return true;
        }
        let workloads = self.workloads_of(service);
        match workloads.is_empty() {
            true => matches!(service.waypoint, WaypointBinding::To(_)),
            false => workloads.iter().any(|w| runs_as_its_account(w, waypoint)),
        }
    }

    /// The Gateway that a binding names, if it exists.
    fn named(&self, binding: &WaypointBinding, namespace: &Name) -> Option<&'a Arc<Waypoint>> {
        let of_namespace = || self.mesh.namespaces.get(namespace).map(|n| &n.waypoint);
        let binding = if *binding == WaypointBinding::Inherit { of_namespace()? } else { binding };
        match binding {
            WaypointBinding::To(name) => self.mesh.waypoints.get(name),
            WaypointBinding::None | WaypointBinding::Inherit => None,
        }
    }

    fn judged(&self, waypoint: &'a Arc<Waypoint>, namespace: &Name) -> Bound<'a> {
        let info = self.mesh.namespaces.get(namespace).map(|n| &**n);
        if !waypoint.is_usable() {
            Bound::Barred(waypoint, Barred::Unusable)
        } else if !waypoint.admits(namespace, info) {
            Bound::Barred(waypoint, Barred::NotAdmitted)
        } else {
            Bound::To(waypoint)
        }
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
        Some(self.reach(SocketAddr::new(endpoint.address, number), workload))
    }

    fn of_workload(&self, workload: &'a Arc<Workload>, port: &ServicePort) -> Option<UpstreamEndpoint> {
        let number = target(port, Some(workload))?;
        let address = workload.addresses.first()?;
        Some(self.reach(SocketAddr::new(*address, number), Some(workload)))
    }

    /// How a workload is reached directly.
    pub fn direct(&self, address: SocketAddr) -> UpstreamEndpoint {
        self.reach(address, None)
    }

    /// How an address is reached that is said to be this workload's. A workload that speaks HBONE at
    /// that address is believed before the endpoint: what an endpoint names may be stale or simply
    /// another resource, and a workload that speaks HBONE is never reached in plaintext.
    fn reach(&self, address: SocketAddr, said: Option<&'a Arc<Workload>>) -> UpstreamEndpoint {
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        let there = self.workload(address.ip());
        let workload = there.filter(|w| w.protocol == TunnelProtocol::Hbone).or(said).or(there);
        let hop = match workload {
            Some(w) if w.protocol == TunnelProtocol::Hbone => Hop::Hbone([w.identity.clone()].into()),
            Some(_) | None => Hop::Plain,
        };
        UpstreamEndpoint::new(address, hop, workload.cloned())
    }

    /// The service that an address of a waypoint, or failing that its name, leads to.
    pub fn waypoint_service(&self, waypoint: &Waypoint) -> Option<&'a Arc<Service>> {
        let by_address = waypoint.addresses.iter().find_map(|address| match address {
            WaypointAddress::Ip(ip) => self.service_at(*ip),
            WaypointAddress::Hostname(host) => self.service_of(host),
        });
        by_address.or_else(|| {
            let unaddressed = waypoint.addresses.is_empty();
            self.mesh.services.values().find(|s| unaddressed && s.source.kind == Kind::Service && s.source.name == waypoint.name)
        })
    }
}

/// The Service in front of a waypoint's own pods must not be bound to that waypoint: a loop.
fn serves_gateway(service: &Service, waypoint: &Waypoint) -> bool {
    service.source.name == waypoint.name
}

fn runs_as_its_account(workload: &Workload, waypoint: &Waypoint) -> bool {
    let runs_as = |account: &Name| workload.identity.service_account() == &**account && workload.namespace == waypoint.name.namespace;
    waypoint.service_account.as_ref().is_none_or(runs_as)
}

/// Whether every label of a workload selector is there; an empty one selects nothing.
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
