//! Waypoints, and how services, workloads and namespaces are bound to them.

use super::{Hostname, Labels, Name, ResourceName};
use std::net::IpAddr;

/// A Gateway of a waypoint class.
#[derive(Debug, Clone, PartialEq)]
pub struct Waypoint {
    /// The Gateway's namespace and name.
    pub name: ResourceName,
    /// `spec.gatewayClassName`.
    pub class: Name,
    /// Where it is reached: `status.addresses`, else `spec.addresses`; empty when neither is known
    /// (then the Service that bears the Gateway's name is used).
    pub addresses: Vec<WaypointAddress>,
    /// The port of its HBONE listener; 15008.
    pub port: u16,
    /// Which traffic it takes (`istio.io/waypoint-for`).
    pub traffic: TrafficType,
    /// Serves only this service account (`istio.io/for-service-account`).
    pub service_account: Option<Name>,
    /// Which namespaces may bind to it (`allowedRoutes.namespaces` of the listener).
    pub allowed: AllowedNamespaces,
}

/// An address of a waypoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WaypointAddress {
    /// An IP: of a workload, or of a service.
    Ip(IpAddr),
    /// A host name of a service.
    Hostname(Hostname),
}

/// Which traffic a waypoint takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrafficType {
    /// Addressed to services; the default.
    Service,
    /// Addressed to workloads directly.
    Workload,
    /// Both.
    All,
    /// Neither.
    None,
}

impl TrafficType {
    /// Takes traffic addressed to services.
    pub fn services(self) -> bool {
        matches!(self, Self::Service | Self::All)
    }

    /// Takes traffic addressed to pods.
    pub fn workloads(self) -> bool {
        matches!(self, Self::Workload | Self::All)
    }
}

/// Which namespaces may bind to a waypoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AllowedNamespaces {
    /// Only its own.
    Same,
    /// Every one.
    All,
    /// Those with these labels.
    Selector(Labels),
}

/// What the labels `istio.io/use-waypoint` and `istio.io/use-waypoint-namespace` say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WaypointBinding {
    /// No label: the namespace decides.
    Inherit,
    /// `none`: opted out.
    None,
    /// The Gateway to use.
    To(ResourceName),
}

/// A namespace: its labels and the binding of everything in it.
#[derive(Debug, Clone, PartialEq)]
pub struct NamespaceInfo {
    /// Its name.
    pub name: Name,
    /// Its labels.
    pub labels: Labels,
    /// The waypoint of everything in it that names none itself.
    pub waypoint: WaypointBinding,
}
