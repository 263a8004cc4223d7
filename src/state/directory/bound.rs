//! Which waypoint something is bound to. The only place that judges it: a ztunnel that says yes
//! where a waypoint says no would lead around the waypoint, or to one that refuses. Where a control
//! plane has judged, what is left is to find who is at a place: a ztunnel by `node::places`, a waypoint
//! by `waypoint::own_places`.

use super::Directory;
use crate::model::{GatewayAddress, Kind, Name, ResourceName, Service, Waypoint, WaypointAddress, WaypointBinding, Workload};
use std::sync::Arc;

/// What a service or a workload is bound to.
#[derive(Debug, Clone, Copy)]
pub enum Bound<'a> {
    /// No waypoint: none is named, or the named one does not take such traffic
    /// (`istio.io/waypoint-for`, `istio.io/for-service-account`).
    Nothing,
    /// This waypoint.
    To(&'a Arc<Waypoint>),
    /// The waypoint at this place.
    At(&'a GatewayAddress),
    /// A Gateway that does not exist.
    Missing(&'a ResourceName),
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
    /// It does not exist, and whoever names it asks not to be reached without it.
    #[error("the Gateway that is named as waypoint does not exist, and a waypoint is required")]
    Missing,
}

impl Bound<'_> {
    /// Whether it is this waypoint.
    pub(in crate::state) fn is_to(self, waypoint: &Waypoint) -> bool {
        matches!(self, Self::To(bound) if bound.name == waypoint.name)
    }
}

impl Directory {
    /// What a service is bound to, by its own label or its namespace's.
    pub fn service_waypoint<'a>(&'a self, service: &'a Service) -> Bound<'a> {
        let waypoint = match self.named(&service.waypoint, &service.key.namespace) {
            Ok(waypoint) => waypoint,
            Err(bound) => return bound,
        };
        let takes = waypoint.traffic.services() && !serves_gateway(service, waypoint) && self.is_of_account(service, waypoint);
        if takes { self.judged(waypoint, &service.key.namespace) } else { Bound::Nothing }
    }

    /// What a workload is bound to. A waypoint's own pods are bound to nothing.
    pub fn workload_waypoint<'a>(&'a self, workload: &'a Workload) -> Bound<'a> {
        let waypoint = match self.named(&workload.waypoint, &workload.namespace) {
            Ok(waypoint) => waypoint,
            Err(Bound::Missing(_)) if workload.gateway.is_some() => return Bound::Nothing,
            Err(bound) => return bound,
        };
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
            true => matches!(service.waypoint, WaypointBinding::To(_) | WaypointBinding::At(_)),
            false => workloads.iter().any(|w| runs_as_its_account(w, waypoint)),
        }
    }

    /// The Gateway that a binding names, or what it comes to without one.
    fn named<'a>(&'a self, binding: &'a WaypointBinding, namespace: &Name) -> Result<&'a Arc<Waypoint>, Bound<'a>> {
        if let WaypointBinding::At(place) = binding {
            return Err(Bound::At(place));
        }
        let name = self.binding(binding, namespace).ok_or(Bound::Nothing)?;
        self.mesh.waypoints.get(name).ok_or(Bound::Missing(name))
    }

    /// The name of a Gateway that a binding comes to.
    pub(in crate::state) fn binding<'a>(&'a self, binding: &'a WaypointBinding, namespace: &Name) -> Option<&'a ResourceName> {
        let of_namespace = || self.mesh.namespaces.get(namespace).map(|n| &n.waypoint);
        let binding = if *binding == WaypointBinding::Inherit { of_namespace()? } else { binding };
        match binding {
            WaypointBinding::To(name) => Some(name),
            WaypointBinding::None | WaypointBinding::Inherit | WaypointBinding::At(_) => None,
        }
    }

    fn judged<'a>(&self, waypoint: &'a Arc<Waypoint>, namespace: &Name) -> Bound<'a> {
        let info = self.mesh.namespaces.get(namespace).map(|n| &**n);
        if !waypoint.is_usable() {
            Bound::Barred(waypoint, Barred::Unusable)
        } else if !waypoint.admits(namespace, info) {
            Bound::Barred(waypoint, Barred::NotAdmitted)
        } else {
            Bound::To(waypoint)
        }
    }

    /// The service that an address of a waypoint, or failing that its name, leads to.
    pub fn waypoint_service(&self, waypoint: &Waypoint) -> Option<&Arc<Service>> {
        let by_address = waypoint.addresses.iter().find_map(|address| match address {
            WaypointAddress::Ip(ip) => self.service_at(*ip),
            WaypointAddress::Hostname(host) => self.service_of(host),
        });
        by_address.or_else(|| {
            let unaddressed = waypoint.addresses.is_empty();
            // A Kubernetes Service stands in the namespace of its key.
            self.services_in(&waypoint.name.namespace)
                .find(|s| unaddressed && s.source.kind == Kind::Service && s.source.name == waypoint.name)
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
