//! The nouns of the mesh: what a source of configuration describes and what every other room reads.
//!
//! Nothing here knows tokio, sockets, protobuf or YAML; `control` decodes into these types and
//! `state` compiles them. All collections are keyed, so that one changed resource is one change.

mod authorization;
mod finding;
mod identity;
mod l4;
mod name;
mod route;
mod service;
mod waypoint;
mod workload;

pub use authorization::{
    Action, AuthorizationPolicy, Clause, Match, NamespacePattern, PathMatch, PathTemplate, PolicyTarget, Rule, Segment, StringMatch,
    TargetRef, Term, Test,
};
pub use finding::{Finding, Severity};
pub use identity::{Identity, IdentityError};
pub use l4::{
    ApplicationTunnel, GatewayAddress, GatewayDestination, IpFamilies, LoadBalancing, LoadBalancingMode, LocalityScope, NetworkAddress,
    ServiceL4, Visibility, WorkloadL4,
};
pub use name::{Hostname, Kind, Labels, Name, ResourceId, ResourceName, ServiceKey};
pub use route::{
    BackendRef, BackendTarget, Filter, HeaderMatch, HeaderModifier, HttpRoute, Parent, PathModifier, PathPattern, QueryMatch, Redirect,
    Retry, RouteMatch, RouteRule, Timeouts, UrlRewrite, ValueMatch,
};
pub use service::{AppProtocol, Endpoint, Endpoints, Service, ServicePort, TargetPort};
pub use waypoint::{AllowedNamespaces, GatewayClass, NamespaceInfo, TrafficType, Waypoint, WaypointAddress, WaypointBinding};
pub use workload::{Health, Locality, TunnelProtocol, Workload, WorkloadType};

use std::{collections::BTreeMap, sync::Arc};

/// The desired state of the mesh: every resource by its key. Owned by one writer
/// (`state::Store`); readers see the compiled `Snapshot` instead.
#[derive(Debug, Default, Clone)]
pub struct Mesh {
    /// Namespaces by name.
    pub namespaces: BTreeMap<Name, Arc<NamespaceInfo>>,
    /// Services (and each host of a ServiceEntry) by namespace and host name.
    pub services: BTreeMap<ServiceKey, Arc<Service>>,
    /// Groups of endpoints, by the resource that lists them.
    pub endpoints: BTreeMap<ResourceId, Arc<Endpoints>>,
    /// Workloads by uid.
    pub workloads: BTreeMap<Name, Arc<Workload>>,
    /// Waypoints by the name of their Gateway.
    pub waypoints: BTreeMap<ResourceName, Arc<Waypoint>>,
    /// Routes by name.
    pub routes: BTreeMap<ResourceName, Arc<HttpRoute>>,
    /// Authorization policies by name.
    pub policies: BTreeMap<ResourceName, Arc<AuthorizationPolicy>>,
}

/// One resource of the mesh, as a source hands it over: shared, so that whoever keeps it keeps the
/// same copy.
#[derive(Debug, Clone, PartialEq)]
pub enum Resource {
    /// A namespace with the labels that matter.
    Namespace(Arc<NamespaceInfo>),
    /// A service, or one host of a ServiceEntry.
    Service(Arc<Service>),
    /// The endpoints that one EndpointSlice or ServiceEntry lists for a service.
    Endpoints(Arc<Endpoints>),
    /// A pod, a WorkloadEntry, or an inline endpoint of a ServiceEntry.
    Workload(Arc<Workload>),
    /// A Gateway of a waypoint class.
    Waypoint(Arc<Waypoint>),
    /// An HTTPRoute.
    Route(Arc<HttpRoute>),
    /// An AuthorizationPolicy, valid or not.
    Policy(Arc<AuthorizationPolicy>),
}

/// The key of a [`Resource`] in a [`Mesh`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResourceKey {
    /// Key of a namespace.
    Namespace(Name),
    /// Key of a service.
    Service(ServiceKey),
    /// Key of a group of endpoints.
    Endpoints(ResourceId),
    /// Key of a workload: its uid.
    Workload(Name),
    /// Key of a waypoint.
    Waypoint(ResourceName),
    /// Key of a route.
    Route(ResourceName),
    /// Key of a policy.
    Policy(ResourceName),
}

macro_rules! from_nouns {
    ($($variant:ident($noun:ty)),*) => { $(
        impl From<$noun> for Resource {
            fn from(noun: $noun) -> Self {
                Self::$variant(Arc::new(noun))
            }
        }
    )* };
}

from_nouns!(
    Namespace(NamespaceInfo),
    Service(Service),
    Endpoints(Endpoints),
    Workload(Workload),
    Waypoint(Waypoint),
    Route(HttpRoute),
    Policy(AuthorizationPolicy)
);

impl Resource {
    /// Whether both are the same copy; two that are not may still be equal.
    pub fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Namespace(a), Self::Namespace(b)) => Arc::ptr_eq(a, b),
            (Self::Service(a), Self::Service(b)) => Arc::ptr_eq(a, b),
            (Self::Endpoints(a), Self::Endpoints(b)) => Arc::ptr_eq(a, b),
            (Self::Workload(a), Self::Workload(b)) => Arc::ptr_eq(a, b),
            (Self::Waypoint(a), Self::Waypoint(b)) => Arc::ptr_eq(a, b),
            (Self::Route(a), Self::Route(b)) => Arc::ptr_eq(a, b),
            (Self::Policy(a), Self::Policy(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }

    /// The key under which the mesh holds this resource.
    pub fn key(&self) -> ResourceKey {
        match self {
            Self::Namespace(n) => ResourceKey::Namespace(n.name.clone()),
            Self::Service(s) => ResourceKey::Service(s.key.clone()),
            Self::Endpoints(e) => ResourceKey::Endpoints(e.source.clone()),
            Self::Workload(w) => ResourceKey::Workload(w.uid.clone()),
            Self::Waypoint(w) => ResourceKey::Waypoint(w.name.clone()),
            Self::Route(r) => ResourceKey::Route(r.name.clone()),
            Self::Policy(p) => ResourceKey::Policy(p.name.clone()),
        }
    }
}

impl Mesh {
    /// Inserts or replaces a resource.
    pub fn upsert(&mut self, resource: Resource) {
        match resource {
            Resource::Namespace(n) => drop(self.namespaces.insert(n.name.clone(), n)),
            Resource::Service(s) => drop(self.services.insert(s.key.clone(), s)),
            Resource::Endpoints(e) => drop(self.endpoints.insert(e.source.clone(), e)),
            Resource::Workload(w) => drop(self.workloads.insert(w.uid.clone(), w)),
            Resource::Waypoint(w) => drop(self.waypoints.insert(w.name.clone(), w)),
            Resource::Route(r) => drop(self.routes.insert(r.name.clone(), r)),
            Resource::Policy(p) => drop(self.policies.insert(p.name.clone(), p)),
        }
    }

    /// Removes a resource; removing what is not there is no error.
    pub fn remove(&mut self, key: &ResourceKey) {
        match key {
            ResourceKey::Namespace(k) => drop(self.namespaces.remove(k)),
            ResourceKey::Service(k) => drop(self.services.remove(k)),
            ResourceKey::Endpoints(k) => drop(self.endpoints.remove(k)),
            ResourceKey::Workload(k) => drop(self.workloads.remove(k)),
            ResourceKey::Waypoint(k) => drop(self.waypoints.remove(k)),
            ResourceKey::Route(k) => drop(self.routes.remove(k)),
            ResourceKey::Policy(k) => drop(self.policies.remove(k)),
        }
    }
}
