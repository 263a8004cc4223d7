//! How workloads and services are reached: endpoints, and the hop to each.

use super::Directory;
use crate::{
    model::{Endpoint, Health, Service, ServicePort, TargetPort, TunnelProtocol, Workload},
    state::{Hop, UpstreamEndpoint},
};
use std::{net::SocketAddr, sync::Arc};

impl Directory {
    /// The endpoints of a service port that may receive traffic.
    pub fn endpoints(&self, service: &Service, port: &ServicePort) -> Vec<UpstreamEndpoint> {
        if let Some(groups) = self.groups(&service.key) {
            let ready = groups.iter().flat_map(|g| &g.endpoints).filter(|e| e.ready || service.publish_not_ready);
            return ready.filter_map(|e| self.listed(e, port)).collect();
        }
        let serves = |w: &&&Arc<Workload>| w.health == Health::Healthy || service.publish_not_ready;
        self.selected(service).iter().filter(serves).filter_map(|w| self.of_workload(w, port)).collect()
    }

    /// All workloads behind a service, ready or not.
    pub fn workloads_of(&self, service: &Service) -> Vec<&Arc<Workload>> {
        match self.groups(&service.key) {
            Some(groups) => groups.iter().flat_map(|g| &g.endpoints).filter_map(|e| self.of_endpoint(e)).collect(),
            None => self.selected(service),
        }
    }

    fn of_endpoint(&self, endpoint: &Endpoint) -> Option<&Arc<Workload>> {
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

    fn of_workload(&self, workload: &Arc<Workload>, port: &ServicePort) -> Option<UpstreamEndpoint> {
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
    fn reach(&self, address: SocketAddr, said: Option<&Arc<Workload>>) -> UpstreamEndpoint {
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        let there = self.workload(address.ip());
        let workload = there.filter(|w| w.protocol == TunnelProtocol::Hbone).or(said).or(there);
        let hop = match workload {
            Some(w) if w.protocol == TunnelProtocol::Hbone => Hop::Hbone([w.identity.clone()].into()),
            Some(_) | None => Hop::Plain,
        };
        UpstreamEndpoint::new(address, hop, workload.cloned())
    }
}

fn target(port: &ServicePort, workload: Option<&Workload>) -> Option<u16> {
    match &port.target {
        TargetPort::Number(number) => Some(*number),
        TargetPort::Name(name) => workload?.ports.iter().find(|(n, _)| n == name).map(|(_, number)| *number),
    }
}
