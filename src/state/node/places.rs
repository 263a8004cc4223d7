//! What stands at the places that services and workloads refer to: waypoints that are named by
//! address or host name, and gateways to other networks.

use crate::{
    model::{AppProtocol, GatewayAddress, GatewayDestination, NetworkAddress, Service, ServiceKey, WaypointBinding, Workload},
    state::{Delta, Directory, Upstream, Upstreams, shared::SharedMap},
};
use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

/// All places that something refers to.
#[derive(Debug, Default)]
pub(super) struct Places {
    uses: HashMap<GatewayAddress, usize>,
    found: SharedMap<GatewayAddress, Arc<Upstream>>,
}

impl Places {
    /// Brings them up to date.
    pub(super) fn update(&mut self, directory: &Directory, delta: &Delta, upstreams: &mut Upstreams) {
        let mut dirty: HashSet<GatewayAddress> = HashSet::new();
        for changed in &delta.services {
            changed.old.iter().flat_map(|service| of_service(service)).for_each(|place| self.release(place, &mut dirty));
            changed.new.iter().flat_map(|service| of_service(service)).for_each(|place| self.acquire(place, &mut dirty));
        }
        for changed in &delta.workloads {
            changed.old.iter().flat_map(|workload| of_workload(workload)).for_each(|place| self.release(place, &mut dirty));
            changed.new.iter().flat_map(|workload| of_workload(workload)).for_each(|place| self.acquire(place, &mut dirty));
        }
        if self.uses.is_empty() && dirty.is_empty() {
            return;
        }
        let touched = Touched::of(delta);
        dirty.extend(self.uses.keys().filter(|place| touched.contains(place)).cloned());
        let edits: Vec<_> = dirty
            .into_iter()
            .map(|place| {
                let old = self.found.get(&place).cloned();
                let is_used = self.uses.contains_key(&place);
                let new = if is_used { find(directory, &place, old.as_ref(), upstreams) } else { None };
                old.iter().for_each(|old| upstreams.release(old));
                (place, new)
            })
            .collect();
        self.found.apply(edits);
    }

    /// What was found.
    pub(super) fn found(&self) -> SharedMap<GatewayAddress, Arc<Upstream>> {
        self.found.clone()
    }

    fn acquire(&mut self, place: &GatewayAddress, dirty: &mut HashSet<GatewayAddress>) {
        let uses = self.uses.entry(place.clone()).or_default();
        *uses += 1;
        if *uses == 1 {
            dirty.insert(place.clone());
        }
    }

    fn release(&mut self, place: &GatewayAddress, dirty: &mut HashSet<GatewayAddress>) {
        let Some(uses) = self.uses.get_mut(place) else { return };
        *uses -= 1;
        if *uses == 0 {
            self.uses.remove(place);
            dirty.insert(place.clone());
        }
    }
}

fn of_service(service: &Service) -> impl Iterator<Item = &GatewayAddress> {
    at(&service.waypoint).into_iter().chain(service.l4.weighted_waypoints.iter().map(|(place, _)| place))
}

fn of_workload(workload: &Workload) -> impl Iterator<Item = &GatewayAddress> {
    at(&workload.waypoint).into_iter().chain(&workload.l4.gateway)
}

fn at(binding: &WaypointBinding) -> Option<&GatewayAddress> {
    match binding {
        WaypointBinding::At(place) => Some(place),
        WaypointBinding::Inherit | WaypointBinding::None | WaypointBinding::To(_) => None,
    }
}

/// Where something has changed.
struct Touched {
    addresses: HashSet<NetworkAddress>,
    names: HashSet<ServiceKey>,
}

impl Touched {
    fn of(delta: &Delta) -> Self {
        let near = |address: &IpAddr| NetworkAddress { network: None, address: *address };
        let mut addresses: HashSet<_> = delta.addresses.iter().chain(&delta.vips).map(near).collect();
        let mut names: HashSet<_> = delta.services.iter().flat_map(|c| c.each()).map(|service| service.key.clone()).collect();
        addresses.extend(delta.services.iter().flat_map(|c| c.each()).flat_map(|service| service.l4.elsewhere.clone()));
        for workload in delta.workloads.iter().flat_map(|c| c.each()) {
            if let Some(hostname) = workload.l4.hostname.clone() {
                names.insert(ServiceKey { namespace: workload.namespace.clone(), hostname });
            }
            let on = |address: &IpAddr| NetworkAddress { network: workload.l4.network.clone(), address: address.to_canonical() };
            addresses.extend(workload.addresses.iter().map(on));
        }
        Self { addresses, names }
    }

    fn contains(&self, place: &GatewayAddress) -> bool {
        match &place.destination {
            GatewayDestination::Address(address) => self.addresses.contains(address),
            GatewayDestination::Hostname(key) => self.names.contains(key),
        }
    }
}

/// What is at a place: a service that declares the port, or a workload.
fn find(directory: &Directory, place: &GatewayAddress, old: Option<&Arc<Upstream>>, upstreams: &mut Upstreams) -> Option<Arc<Upstream>> {
    let (service, workload) = match &place.destination {
        GatewayDestination::Address(address) => (directory.service_on(address), directory.workload_on(address)),
        GatewayDestination::Hostname(key) => (directory.mesh().services.get(key), directory.workload_called(key)),
    };
    if let Some(service) = service {
        return upstreams.acquire(directory, &service.key, place.port);
    }
    let workload = workload?;
    let ip = match &place.destination {
        GatewayDestination::Address(address) => address.address,
        GatewayDestination::Hostname(_) => workload.addresses.first().copied().unwrap_or(IpAddr::from([0, 0, 0, 0])),
    };
    let kept = old.filter(|old| old.service.is_none() && old.port == place.port).cloned();
    let upstream = kept.unwrap_or_else(|| {
        let name = format!("outbound|{}||{}", place.port, workload.name).into();
        Arc::new(Upstream::new(None, place.port, AppProtocol::Tcp, name))
    });
    upstream.replace(vec![directory.of(workload, SocketAddr::new(ip, place.port))]);
    Some(upstream)
}
