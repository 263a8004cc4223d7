//! Waypoints, and how services, workloads and namespaces are bound to them.

use super::{GatewayAddress, Hostname, Labels, Name, ResourceName};
use std::net::IpAddr;

/// A Gateway of a waypoint class.
#[derive(Debug, Clone, PartialEq)]
pub struct Waypoint {
    /// The Gateway's namespace and name.
    pub name: ResourceName,
    /// `spec.gatewayClassName`, as far as it is known.
    pub class: GatewayClass,
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

/// The class of a Gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GatewayClass {
    /// The Gateway or its pod says it.
    Named(Name),
    /// Nobody has said it: what holds for any class may hold for this Gateway, and is taken to.
    Unknown,
}

impl GatewayClass {
    /// Whether what is meant for a class holds for a Gateway of this one.
    pub fn is(&self, class: &str) -> bool {
        match self {
            Self::Named(own) => **own == *class,
            Self::Unknown => true,
        }
    }
}

impl From<&str> for GatewayClass {
    fn from(class: &str) -> Self {
        Self::Named(class.into())
    }
}

/// Label that every namespace has, whether a manifest writes it or not.
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

impl Waypoint {
    /// What is known of a waypoint whose Gateway is not: a control plane has judged what is bound to
    /// it, so it takes everything.
    pub fn implied(name: ResourceName, class: Option<&Name>) -> Self {
        Self {
            name,
            class: class.cloned().map_or(GatewayClass::Unknown, GatewayClass::Named),
            addresses: Vec::new(),
            port: 15008,
            traffic: TrafficType::All,
            service_account: None,
            allowed: AllowedNamespaces::All,
        }
    }

    /// Whether a namespace may bind to it; `info` is what is known of that namespace. The only place
    /// that judges this: a check that says yes where the data path says no would lead around the
    /// waypoint.
    pub fn admits(&self, namespace: &str, info: Option<&NamespaceInfo>) -> bool {
        let has = |(key, wanted): (&Name, &Name)| match info.and_then(|i| i.labels.get(key)) {
            Some(found) => found == wanted,
            None => **key == *NAMESPACE_NAME && **wanted == *namespace,
        };
        match &self.allowed {
            AllowedNamespaces::All => true,
            AllowedNamespaces::Same => *self.name.namespace == *namespace,
            // An empty selector selects everything (LabelSelector of Kubernetes).
            AllowedNamespaces::Selector(labels) => labels.iter().all(has),
            AllowedNamespaces::None => false,
        }
    }

    /// Whether it can be a waypoint at all.
    pub fn is_usable(&self) -> bool {
        self.allowed != AllowedNamespaces::None
    }
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
    /// Not one: the Gateway is there, but it is invalid or has no listener for HBONE.
    None,
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
    /// The waypoint at this place, without regard to Gateways: a control plane has judged already.
    At(GatewayAddress),
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
