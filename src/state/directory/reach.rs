//! How workloads and services are reached: endpoints, and the hop to each.

use super::Directory;
use crate::{
    model::{AppProtocol, Endpoint, Health, Identity, Service, ServicePort, TargetPort, TunnelProtocol, Workload},
    state::{Hop, UpstreamEndpoint},
};
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

/// Stands for no address: such an endpoint is found by name, or through a gateway.
const NOWHERE: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// Which endpoints whoever asks can reach.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Reach {
    /// Those that have an address on the proxy's own network.
    #[default]
    Addressed,
    /// Also those that must be looked up by name or lie behind a gateway.
    Anywhere,
}

impl Directory {
    /// The endpoints of a service port that may receive traffic.
    pub fn endpoints(&self, service: &Service, port: &ServicePort, reach: Reach) -> Vec<UpstreamEndpoint> {
        let sans = alternative_identities(service);
        let (groups, serving) = (self.groups(&service.key), self.serving(&service.key));
        if groups.is_none() && serving.is_empty() {
            let selected = self.selected(service);
            let serves = |w: &&&Arc<Workload>| w.health == Health::Healthy || service.publish_not_ready;
            return selected.iter().filter(serves).filter_map(|w| self.at(w, service, target(port, Some(w))?, &sans, reach)).collect();
        }
        let listed = groups.iter().flatten().flat_map(|group| &group.endpoints).filter(|e| e.ready || service.publish_not_ready);
        let mut endpoints: Vec<_> = listed.filter_map(|e| self.listed(e, port, &sans)).collect();
        let serving = serving.into_iter().filter(|w| w.health == Health::Healthy || service.publish_not_ready);
        endpoints.extend(serving.filter_map(|w| self.of_serving(w, service, port, &sans, reach)));
        endpoints
    }

    /// The workloads of a service that take connections for a port that it does not declare: through
    /// their application tunnels (contract, 2.4).
    pub(in crate::state) fn tunnelled(&self, service: &Service, port: u16) -> Vec<UpstreamEndpoint> {
        let port = ServicePort { name: "".into(), port, target: TargetPort::Endpoint, protocol: AppProtocol::Tcp };
        let sans = alternative_identities(service);
        let serving = self.serving(&service.key).into_iter().filter(|w| w.health == Health::Healthy || service.publish_not_ready);
        let serving = serving.filter(|w| w.l4.application_tunnel.is_some());
        serving.filter_map(|w| self.of_serving(w, service, &port, &sans, Reach::Anywhere)).collect()
    }

    /// All workloads behind a service, ready or not.
    pub fn workloads_of(&self, service: &Service) -> Vec<&Arc<Workload>> {
        let (groups, serving) = (self.groups(&service.key), self.serving(&service.key));
        if groups.is_none() && serving.is_empty() {
            return self.selected(service);
        }
        let listed = groups.into_iter().flatten().flat_map(|group| &group.endpoints).filter_map(|e| self.of_endpoint(e));
        listed.chain(serving).collect()
    }

    fn of_endpoint(&self, endpoint: &Endpoint) -> Option<&Arc<Workload>> {
        match &endpoint.workload {
            Some(uid) => self.mesh.workloads.get(uid),
            None => self.workload(endpoint.address),
        }
    }

    fn listed(&self, endpoint: &Endpoint, port: &ServicePort, sans: &[Identity]) -> Option<UpstreamEndpoint> {
        // The address decides too: an endpoint that names no workload may still stand where one is known.
        let workload = self.of_endpoint(endpoint).or_else(|| self.workload(endpoint.address));
        let listed = endpoint.ports.iter().find(|(name, _)| *name == port.name).map(|(_, number)| *number);
        let number = match listed {
            Some(number) => number,
            None if endpoint.ports.is_empty() => target(port, workload.map(|w| &**w))?,
            None => return None,
        };
        Some(self.reach(SocketAddr::new(endpoint.address, number), workload, sans))
    }

    /// A workload that names the service as its own (contract, 2.4).
    fn of_serving(
        &self,
        workload: &Arc<Workload>,
        service: &Service,
        port: &ServicePort,
        sans: &[Identity],
        reach: Reach,
    ) -> Option<UpstreamEndpoint> {
        self.at(workload, service, serving_port(workload, service, port)?, sans, reach)
    }

    /// A workload as an endpoint of a service, wherever it is.
    fn at(&self, workload: &Arc<Workload>, service: &Service, number: u16, sans: &[Identity], reach: Reach) -> Option<UpstreamEndpoint> {
        let address = workload.addresses.iter().find(|address| service.l4.ip_families.allow(address.to_canonical()));
        let is_near = workload.l4.network.is_none();
        match (address, reach) {
            (Some(address), _) if is_near => Some(self.reach(SocketAddr::new(*address, number), Some(workload), sans)),
            (_, Reach::Addressed) => None,
            (Some(address), Reach::Anywhere) => {
                let address = SocketAddr::new(address.to_canonical(), number);
                Some(UpstreamEndpoint::new(address, hop(Some(workload), sans), Some(workload.clone())))
            }
            (None, Reach::Anywhere) => {
                let can_be_found = workload.l4.hostname.is_some() || (!is_near && workload.l4.gateway.is_some());
                let address = SocketAddr::new(NOWHERE, number);
                can_be_found.then(|| UpstreamEndpoint::new(address, hop(Some(workload), sans), Some(workload.clone())))
            }
        }
    }

    /// How a workload is reached directly.
    pub fn direct(&self, address: SocketAddr) -> UpstreamEndpoint {
        self.reach(address, None, &[])
    }

    /// A workload at one of its addresses, which may be on another network.
    pub(in crate::state) fn of(&self, workload: &Arc<Workload>, address: SocketAddr) -> UpstreamEndpoint {
        match workload.l4.network {
            None => self.reach(address, Some(workload), &[]),
            Some(_) => UpstreamEndpoint::new(address, hop(Some(workload), &[]), Some(workload.clone())),
        }
    }

    /// How an address is reached that is said to be this workload's. A workload that speaks HBONE at
    /// that address is believed before the endpoint: what an endpoint names may be stale or simply
    /// another resource, and a workload that speaks HBONE is never reached in plaintext.
    fn reach(&self, address: SocketAddr, said: Option<&Arc<Workload>>, sans: &[Identity]) -> UpstreamEndpoint {
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        let there = self.workload(address.ip());
        let workload = there.filter(|w| w.protocol == TunnelProtocol::Hbone).or(said).or(there);
        UpstreamEndpoint::new(address, hop(workload, sans), workload.cloned())
    }
}

/// The workload's own identity first: it is the one to be expected.
fn hop(workload: Option<&Arc<Workload>>, sans: &[Identity]) -> Hop {
    match workload {
        Some(w) if w.protocol == TunnelProtocol::Hbone => {
            let others = sans.iter().filter(|san| **san != w.identity);
            Hop::Hbone(std::iter::once(&w.identity).chain(others).cloned().collect())
        }
        Some(_) | None => Hop::Plain,
    }
}

/// The identities that a service's servers may present besides their own. Other names are for TLS
/// that we do not speak.
fn alternative_identities(service: &Service) -> Vec<Identity> {
    service.subject_alt_names.iter().filter_map(|name| name.parse().ok()).collect()
}

fn serving_port(workload: &Workload, service: &Service, port: &ServicePort) -> Option<u16> {
    let own = workload.l4.services.iter().find(|(key, _)| *key == service.key).map(|(_, ports)| ports);
    let own = own.into_iter().flatten().find(|(service_port, _)| *service_port == port.port).map(|(_, number)| *number);
    let tunnelled = || workload.l4.application_tunnel.and_then(|tunnel| tunnel.port).map(|_| port.port);
    own.filter(|number| *number != 0).or_else(|| target(port, Some(workload))).or_else(tunnelled)
}

fn target(port: &ServicePort, workload: Option<&Workload>) -> Option<u16> {
    match &port.target {
        TargetPort::Number(number) => Some(*number),
        TargetPort::Name(name) => workload?.ports.iter().find(|(n, _)| n == name).map(|(_, number)| *number),
        TargetPort::Endpoint => None,
    }
}
