//! Routes by what they are attached to.

use super::is_attached;
use crate::model::{HttpRoute, Mesh, Parent, ResourceName, ServiceKey, Waypoint};
use std::{collections::HashMap, sync::Arc};

/// What a route table is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Scoped {
    Service(ServiceKey),
    ServiceAccount(ResourceName),
    Gateway,
}

/// A route, and the one port of the service that it is for.
type Attached<'a> = (Option<u16>, &'a Arc<HttpRoute>);

/// The routes of a mesh by parent; those for other waypoints are left out.
pub(super) struct Index<'a> {
    services: HashMap<&'a ServiceKey, Vec<Attached<'a>>>,
    accounts: HashMap<&'a ResourceName, Vec<&'a Arc<HttpRoute>>>,
    gateway: Vec<&'a Arc<HttpRoute>>,
}

impl<'a> Index<'a> {
    pub(super) fn new(mesh: &'a Mesh, waypoint: &Waypoint) -> Self {
        let mut index = Self { services: HashMap::new(), accounts: HashMap::new(), gateway: Vec::new() };
        for route in mesh.routes.values() {
            for parent in &route.parents {
                match parent {
                    Parent::Service { service, port } => index.services.entry(service).or_default().push((*port, route)),
                    Parent::ServiceAccount(name) => index.accounts.entry(name).or_default().push(route),
                    Parent::Gateway(_) if is_attached(parent, waypoint) => index.gateway.push(route),
                    Parent::Gateway(_) => {}
                }
            }
        }
        index
    }

    pub(super) fn service(&self, service: &ServiceKey, port: u16) -> Vec<Arc<HttpRoute>> {
        let attached = self.services.get(service).into_iter().flatten().filter(|(p, _)| p.is_none_or(|p| p == port));
        unique(attached.map(|(_, route)| *route))
    }

    pub(super) fn account(&self, account: &ResourceName) -> Vec<Arc<HttpRoute>> {
        unique(self.accounts.get(account).into_iter().flatten().copied())
    }

    pub(super) fn gateway(&self) -> Vec<Arc<HttpRoute>> {
        unique(self.gateway.iter().copied())
    }
}

/// A route may name the same parent twice, with and without a port.
fn unique<'a>(routes: impl Iterator<Item = &'a Arc<HttpRoute>>) -> Vec<Arc<HttpRoute>> {
    let mut out: Vec<Arc<HttpRoute>> = Vec::new();
    for route in routes {
        if !out.iter().any(|seen| Arc::ptr_eq(seen, route)) {
            out.push(route.clone());
        }
    }
    out
}
