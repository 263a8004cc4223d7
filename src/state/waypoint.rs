//! The waypoint's view: only what is bound to this waypoint, with routes and policies compiled.

use super::{CompiledRules, Destination, DestinationKind, Hop, RulePlan, Upstream, UpstreamEndpoint, shared::SharedMap};
use crate::{
    model::{AppProtocol, Name, Workload},
    route::RouteTable,
};
use policies::PolicySet;
use ranges::Ranges;
use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

mod compiler;
mod own_places;
mod policies;
mod ranges;
mod routes;

pub use compiler::WaypointCompiler;
pub use own_places::ControlPlaneView;

type Table = Arc<RouteTable<Arc<RulePlan>>>;

/// What a waypoint reads.
#[derive(Debug, Default)]
pub struct WaypointSnapshot {
    /// The version of the mesh it was compiled from.
    pub version: u64,
    /// What was compiled.
    pub compiled: CompiledRules,
    /// The Gateway is known and may be a waypoint; without it nothing is served.
    pub bound: bool,
    vips: SharedMap<IpAddr, Ports>,
    ranges: Arc<Ranges>,
    workloads: SharedMap<IpAddr, Known>,
}

/// Whether an address may be connected to through this waypoint.
#[derive(Debug)]
pub enum Admission {
    /// Yes, to this.
    Served(Arc<Destination>),
    /// The service is served but does not declare the port.
    UndeclaredPort,
    /// Not bound to this waypoint.
    NotServed,
}

/// The declared ports of a service at a virtual address. Most have one, which is then found without
/// another step.
#[derive(Debug, Clone)]
enum Ports {
    One(Arc<Destination>),
    Some(Arc<[Arc<Destination>]>),
}

impl Ports {
    /// These, with a virtual address to each.
    fn at(ports: &[Destination], vip: IpAddr) -> Self {
        let mut at = ports.iter().map(|port| Arc::new(port.at(SocketAddr::new(vip, port.address.port()))));
        match (ports.len(), at.next()) {
            (1, Some(only)) => Self::One(only),
            (_, first) => Self::Some(first.into_iter().chain(at).collect()),
        }
    }

    /// The one that is declared with this number.
    fn declared(&self, port: u16) -> Option<&Arc<Destination>> {
        self.as_slice().iter().find(|destination| destination.address.port() == port)
    }

    fn as_slice(&self) -> &[Arc<Destination>] {
        match self {
            Self::One(destination) => std::slice::from_ref(destination),
            Self::Some(destinations) => destinations,
        }
    }
}

/// The workload at an address; the plan is there if it is served.
#[derive(Debug, Clone)]
struct Known {
    workload: Arc<Workload>,
    plan: Option<Arc<WorkloadPlan>>,
}

/// Everything about a workload that does not depend on the port.
#[derive(Debug)]
struct WorkloadPlan {
    workload: Arc<Workload>,
    hop: Hop,
    routes: Option<Table>,
    rules: PolicySet,
    // Bounded: see `destination`.
    ports: Mutex<HashMap<u16, Arc<Destination>>>,
}

/// A client may try every port of a pod; what it did not use lately is made anew.
const PORTS_KEPT_PER_WORKLOAD: usize = 64;

impl WaypointSnapshot {
    /// Judges the target of a CONNECT.
    pub fn admit(&self, target: SocketAddr) -> Admission {
        let target = SocketAddr::new(target.ip().to_canonical(), target.port());
        if let Some(ports) = self.vips.get(&target.ip()) {
            return ports.declared(target.port()).map_or(Admission::UndeclaredPort, |found| Admission::Served(found.clone()));
        }
        if let Some(plan) = self.workloads.get(&target.ip()).and_then(|known| known.plan.as_ref()) {
            return Admission::Served(plan.destination(target));
        }
        // A range holds only what has no owner of its own.
        let Some(ports) = self.ranges.find(target.ip()) else { return Admission::NotServed };
        ports.declared(target.port()).map_or(Admission::UndeclaredPort, |found| Admission::Served(Arc::new(found.at(target))))
    }

    /// The workload at an address: the source of a request, for telemetry.
    pub fn workload(&self, address: IpAddr) -> Option<&Arc<Workload>> {
        self.workloads.get(&address.to_canonical()).map(|known| &known.workload)
    }

    /// The services that are served.
    pub fn destinations(&self) -> impl Iterator<Item = &Arc<Destination>> {
        self.vips.values().chain(self.ranges.values()).flat_map(|ports| ports.as_slice())
    }
}

impl WorkloadPlan {
    fn is_same(&self, other: &Self) -> bool {
        let table = |plan: &Self| plan.routes.as_ref().map(Arc::as_ptr);
        let rules = Arc::ptr_eq(&self.rules.http, &other.rules.http);
        rules && table(self) == table(other) && self.hop == other.hop && Arc::ptr_eq(&self.workload, &other.workload)
    }

    fn destination(&self, address: SocketAddr) -> Arc<Destination> {
        let mut ports = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = ports.get(&address.port()) {
            return known.clone();
        }
        let endpoint = Arc::new(UpstreamEndpoint::new(address, self.hop.clone(), Some(self.workload.clone())));
        let name: Name = format!("outbound|{}||{}", address.port(), address.ip()).into();
        let destination = Arc::new(Destination {
            kind: DestinationKind::Workload(self.workload.clone()),
            address,
            protocol: AppProtocol::Unspecified,
            routes: self.routes.clone(),
            passthrough: passthrough(),
            http_rules: self.rules.http.clone(),
            tcp_rules: self.rules.tcp.clone(),
            upstream: Arc::new(Upstream::fixed(None, address.port(), AppProtocol::Unspecified, name, vec![endpoint])),
        });
        if ports.len() >= PORTS_KEPT_PER_WORKLOAD {
            ports.clear();
        }
        ports.insert(address.port(), destination.clone());
        destination
    }
}

fn passthrough() -> Arc<RulePlan> {
    static PLAN: std::sync::OnceLock<Arc<RulePlan>> = std::sync::OnceLock::new();
    let plan = || {
        Arc::new(RulePlan {
            name: "-".into(),
            filters: Vec::new(),
            backends: super::Backends::Destination,
            timeouts: crate::model::Timeouts::default(),
            retry: super::RetryPlan::mesh_default(),
        })
    };
    PLAN.get_or_init(plan).clone()
}
