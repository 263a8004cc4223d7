//! Which places mean this waypoint, for a control plane that binds services and workloads to places.

use crate::{
    model::{
        GatewayAddress, GatewayDestination, Hostname, Name, NetworkAddress, Service, ServiceKey, Waypoint, WaypointAddress,
        WaypointBinding, Workload,
    },
    state::Directory,
};
use std::{collections::BTreeSet, net::IpAddr};

/// What a waypoint must know of itself where only a control plane tells of it: above all which places
/// mean it.
#[derive(Debug, Clone)]
pub struct ControlPlaneView {
    /// The cluster's DNS domain, which host names of Services end with.
    pub cluster_domain: Name,
    /// The address of this instance's own pod.
    pub instance_ip: Option<IpAddr>,
    /// The class of the Gateway, as far as it is known without its manifest. Policies for any class are
    /// enforced when it is not.
    pub class: Option<Name>,
}

/// The places that mean this waypoint: its Service by name and virtual address, what the Gateway says
/// of itself, and this very instance.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct OwnPlaces {
    port: u16,
    names: BTreeSet<ServiceKey>,
    // On the proxy's own network.
    addresses: BTreeSet<IpAddr>,
    gateway: Name,
    namespace: Name,
}

impl OwnPlaces {
    /// As the mesh is now. A name or an address means what a ztunnel would find there: a service comes
    /// before a workload of the same name, and of services that claim one address the first.
    pub(super) fn find(view: &ControlPlaneView, waypoint: &Waypoint, directory: &Directory) -> Self {
        let namespace = &waypoint.name.namespace;
        let key = |hostname: Hostname| ServiceKey { namespace: namespace.clone(), hostname };
        let mut names = BTreeSet::from([key(Hostname::of_service(&waypoint.name.name, namespace, &view.cluster_domain))]);
        let mut addresses: BTreeSet<IpAddr> = view.instance_ip.iter().map(IpAddr::to_canonical).collect();
        for address in &waypoint.addresses {
            match address {
                WaypointAddress::Ip(ip) => drop(addresses.insert(ip.to_canonical())),
                WaypointAddress::Hostname(host) => drop(names.insert(key(host.clone()))),
            }
        }
        let services = names.iter().filter_map(|name| directory.mesh().services.get(name));
        addresses.extend(services.flat_map(|service| directory.vips(service)));
        names.extend(own_name(view, directory));
        Self { port: waypoint.port, names, addresses, gateway: waypoint.name.name.clone(), namespace: namespace.clone() }
    }

    /// Whether a service is served: it is bound here, be it for a part of its traffic. One that leads to
    /// this waypoint itself is not: a loop.
    pub(super) fn serve_service(&self, service: &Service) -> bool {
        let weighted = || service.l4.weighted_waypoints.iter().any(|(place, _)| self.contain(place));
        let is_bound = self.bind(&service.waypoint) || weighted();
        is_bound && !self.names.contains(&service.key) && !self.is_among(&service.vips)
    }

    /// Whether a workload is served: it is bound here, and is none of the waypoint's own.
    pub(super) fn serve_workload(&self, workload: &Workload) -> bool {
        self.bind(&workload.waypoint) && !self.is_own(workload)
    }

    fn is_own(&self, workload: &Workload) -> bool {
        let is_gateways = workload.gateway.as_ref() == Some(&self.gateway) && workload.namespace == self.namespace;
        let serves_it = || workload.l4.services.iter().any(|(service, _)| self.names.contains(service));
        is_gateways || serves_it() || (workload.l4.network.is_none() && self.is_among(&workload.addresses))
    }

    fn is_among(&self, addresses: &[IpAddr]) -> bool {
        addresses.iter().any(|address| self.addresses.contains(&address.to_canonical()))
    }

    fn bind(&self, binding: &WaypointBinding) -> bool {
        match binding {
            WaypointBinding::At(place) => self.contain(place),
            // Labels: a control plane has made places of them.
            WaypointBinding::To(_) | WaypointBinding::Inherit | WaypointBinding::None => false,
        }
    }

    fn contain(&self, place: &GatewayAddress) -> bool {
        place.port == self.port
            && match &place.destination {
                GatewayDestination::Hostname(key) => self.names.contains(key),
                GatewayDestination::Address(NetworkAddress { network: None, address }) => self.addresses.contains(&address.to_canonical()),
                GatewayDestination::Address(NetworkAddress { network: Some(_), .. }) => false,
            }
    }
}

/// The host name of this instance's own workload.
fn own_name(view: &ControlPlaneView, directory: &Directory) -> Option<ServiceKey> {
    let workload = directory.workload(view.instance_ip?)?;
    let key = ServiceKey { namespace: workload.namespace.clone(), hostname: workload.l4.hostname.clone()? };
    let is_found = directory.workload_called(&key).is_some_and(|found| found.uid == workload.uid);
    (is_found && !directory.mesh().services.contains_key(&key)).then_some(key)
}
