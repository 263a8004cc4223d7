//! What a batch of changes has touched: all that a compiler need look at again.

use crate::model::{AuthorizationPolicy, Hostname, HttpRoute, Name, Service, ServiceKey, Waypoint, Workload};
use std::{collections::HashSet, net::IpAddr, sync::Arc};

/// One changed resource; it was not there before, or is no longer.
#[derive(Debug)]
pub struct Changed<T> {
    /// As it was.
    pub old: Option<Arc<T>>,
    /// As it is.
    pub new: Option<Arc<T>>,
}

impl<T> Changed<T> {
    /// Both forms, as far as they are there.
    pub fn each(&self) -> impl Iterator<Item = &Arc<T>> {
        self.old.iter().chain(&self.new)
    }
}

/// What a batch has changed, and what may look different because of it. Too much is no error, too
/// little is one: a snapshot must be what compiling everything anew would give.
///
/// Resources that changed several times are there several times, in order.
#[derive(Debug, Default)]
pub struct Delta {
    /// Namespaces.
    pub namespaces: HashSet<Name>,
    /// Services themselves.
    pub services: Vec<Changed<Service>>,
    /// Workloads themselves.
    pub workloads: Vec<Changed<Workload>>,
    /// Waypoints.
    pub waypoints: Vec<Changed<Waypoint>>,
    /// Routes.
    pub routes: Vec<Changed<HttpRoute>>,
    /// Policies.
    pub policies: Vec<Changed<AuthorizationPolicy>>,
    /// Services whose endpoints, or the workloads behind them, may be others.
    pub members: HashSet<ServiceKey>,
    /// Addresses of changed workloads.
    pub addresses: HashSet<IpAddr>,
    /// Virtual addresses of changed services.
    pub vips: HashSet<IpAddr>,
    /// Host names of changed services.
    pub hosts: HashSet<Hostname>,
}
