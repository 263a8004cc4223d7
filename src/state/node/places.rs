//! What stands at the places that services and workloads refer to: waypoints that are named by
//! address or host name, and gateways to other networks.

use crate::{
    model::{AppProtocol, GatewayAddress, GatewayDestination, Name, NetworkAddress, Service, ServiceKey, WaypointBinding, Workload},
    state::{Delta, Directory, Upstream, UpstreamEndpoint, Upstreams, shared::SharedMap},
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
        let touched = Touched::by(delta);
        dirty.extend(self.uses.keys().filter(|place| touched.contains(directory, place)).cloned());
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
struct Touched<'a> {
    addresses: HashSet<NetworkAddress>,
    names: HashSet<ServiceKey>,
    /// Services whose endpoints have changed.
    members: &'a HashSet<ServiceKey>,
}

impl<'a> Touched<'a> {
    fn by(delta: &'a Delta) -> Self {
        let near = |address: &IpAddr| NetworkAddress { network: None, address: *address };
        let mut addresses: HashSet<_> = delta.addresses.iter().chain(&delta.vips).map(near).collect();
        let mut names: HashSet<_> = delta.services.iter().flat_map(|c| c.each()).map(|service| service.key.clone()).collect();
        addresses.extend(delta.services.iter().flat_map(|c| c.each()).flat_map(|service| service.l4.elsewhere.clone()));
        for workload in delta.workloads.iter().flat_map(|c| c.each()) {
            if let Some(hostname) = workload.l4.hostname.clone() {
                names.insert(ServiceKey { namespace: workload.namespace.clone(), hostname });
            }
            addresses.extend(addresses_of(workload));
        }
        Self { addresses, names, members: &delta.members }
    }

    fn contains(&self, directory: &Directory, place: &GatewayAddress) -> bool {
        match &place.destination {
            GatewayDestination::Address(address) => {
                self.addresses.contains(address) || directory.service_on(address).is_some_and(|s| self.members.contains(&s.key))
            }
            GatewayDestination::Hostname(key) => {
                // Who else is at the address of a workload decides how it is reached.
                let is_shared = |workload: &Arc<Workload>| addresses_of(workload).any(|address| self.addresses.contains(&address));
                self.names.contains(key) || self.members.contains(key) || directory.workload_called(key).is_some_and(is_shared)
            }
        }
    }
}

fn addresses_of(workload: &Workload) -> impl Iterator<Item = NetworkAddress> {
    let network = &workload.l4.network;
    workload.addresses.iter().map(|address| NetworkAddress { network: network.clone(), address: address.to_canonical() })
}

/// What is at a place: a service that declares the port or has workloads that take it all the same, or
/// a workload.
fn find(directory: &Directory, place: &GatewayAddress, old: Option<&Arc<Upstream>>, upstreams: &mut Upstreams) -> Option<Arc<Upstream>> {
    let (service, workload) = match &place.destination {
        GatewayDestination::Address(address) => (directory.service_on(address), directory.workload_on(address)),
        GatewayDestination::Hostname(key) => (directory.mesh().services.get(key), directory.workload_called(key)),
    };
    if let Some(service) = service {
        let declared = upstreams.acquire(directory, &service.key, place.port);
        let tunnelled = || Some(directory.tunnelled(service, place.port)).filter(|found| !found.is_empty());
        return declared.or_else(|| Some(fixed(place.port, service.key.hostname.as_str(), old, tunnelled()?)));
    }
    let workload = workload?;
    let ip = match &place.destination {
        GatewayDestination::Address(address) => address.address,
        GatewayDestination::Hostname(_) => workload.addresses.first().copied().unwrap_or(IpAddr::from([0, 0, 0, 0])),
    };
    Some(fixed(place.port, &workload.name, old, vec![directory.of(workload, SocketAddr::new(ip, place.port))]))
}

/// An upstream of these endpoints: the old one, where that is not a service's.
fn fixed(port: u16, name: &str, old: Option<&Arc<Upstream>>, endpoints: Vec<UpstreamEndpoint>) -> Arc<Upstream> {
    let name: Name = format!("outbound|{port}||{name}").into();
    let kept = old.filter(|old| old.service.is_none() && old.name == name).cloned();
    let upstream = kept.unwrap_or_else(|| Arc::new(Upstream::new(None, port, AppProtocol::Tcp, name)));
    upstream.replace(endpoints);
    upstream
}
