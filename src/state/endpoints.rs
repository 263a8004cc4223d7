//! Endpoints of a service port, apart from routes: pods come and go without a route being touched.

use crate::model::{AppProtocol, Identity, Name, ServiceKey, Workload};
use arc_swap::ArcSwap;
use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

/// How an endpoint is reached. There is no third way: a workload that speaks HBONE is never
/// reached in plaintext.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Hop {
    /// Through HBONE, at an address that must prove one of these identities.
    Hbone(Arc<[Identity]>),
    /// Plain TCP, because no workload that speaks HBONE is known at the address.
    Plain,
}

/// One endpoint and its load.
#[derive(Debug)]
pub struct UpstreamEndpoint {
    /// Address and target port.
    pub address: SocketAddr,
    /// How to get there.
    pub hop: Hop,
    /// The workload, when known.
    pub workload: Option<Arc<Workload>>,
    in_flight: AtomicUsize,
}

impl UpstreamEndpoint {
    /// An idle endpoint.
    pub fn new(address: SocketAddr, hop: Hop, workload: Option<Arc<Workload>>) -> Self {
        Self { address, hop, workload, in_flight: AtomicUsize::new(0) }
    }

    /// Requests now on it.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Counts a request until the guard is dropped.
    pub fn start(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(self.clone())
    }

    fn is_same(&self, other: &Self) -> bool {
        self.address == other.address
            && self.hop == other.hop
            && match (&self.workload, &other.workload) {
                (Some(a), Some(b)) => Arc::ptr_eq(a, b) || a == b,
                (None, None) => true,
                (Some(_), None) | (None, Some(_)) => false,
            }
    }
}

/// A request in flight on an endpoint.
#[derive(Debug)]
pub struct InFlight(Arc<UpstreamEndpoint>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The endpoints of an [`Upstream`] at one moment.
#[derive(Debug, Default)]
pub struct EndpointSet {
    /// Those that may receive traffic.
    pub ready: Vec<Arc<UpstreamEndpoint>>,
}

/// One port of a service as a place to send to. Lives as long as the port is referred to, over all
/// snapshots.
#[derive(Debug)]
pub struct Upstream {
    /// The service; `None` for a workload addressed directly.
    pub service: Option<ServiceKey>,
    /// The service's port.
    pub port: u16,
    /// What the port speaks.
    pub protocol: AppProtocol,
    /// `outbound|PORT||HOST` in Istio's notation, for logs.
    pub name: Name,
    endpoints: ArcSwap<EndpointSet>,
}

impl Upstream {
    /// An upstream without endpoints.
    pub fn new(service: Option<ServiceKey>, port: u16, protocol: AppProtocol, name: Name) -> Self {
        Self { service, port, protocol, name, endpoints: ArcSwap::default() }
    }

    /// An upstream with fixed endpoints.
    pub fn fixed(service: Option<ServiceKey>, port: u16, protocol: AppProtocol, name: Name, ready: Vec<Arc<UpstreamEndpoint>>) -> Self {
        Self { service, port, protocol, name, endpoints: ArcSwap::from_pointee(EndpointSet { ready }) }
    }

    /// The endpoints now.
    pub fn endpoints(&self) -> Arc<EndpointSet> {
        self.endpoints.load_full()
    }

    /// Replaces the endpoints; those that stay keep their load.
    fn replace(&self, found: Vec<UpstreamEndpoint>) {
        let old = self.endpoints.load_full();
        if old.ready.len() == found.len() && old.ready.iter().zip(&found).all(|(a, b)| a.is_same(b)) {
            return;
        }
        let keep = |new: UpstreamEndpoint| old.ready.iter().find(|o| o.is_same(&new)).cloned().unwrap_or_else(|| Arc::new(new));
        self.endpoints.store(Arc::new(EndpointSet { ready: found.into_iter().map(keep).collect() }));
    }
}

/// All upstreams in use, kept over compilations so that load and connections survive them.
#[derive(Debug, Default)]
pub struct Upstreams {
    known: HashMap<(ServiceKey, u16), Arc<Upstream>>,
}

impl Upstreams {
    /// The upstream of a service port, with these endpoints from now on.
    pub(super) fn update(&mut self, service: &ServiceKey, port: u16, protocol: AppProtocol, found: Vec<UpstreamEndpoint>) -> Arc<Upstream> {
        let key = (service.clone(), port);
        let upstream = match self.known.get(&key) {
            Some(known) if known.protocol == protocol => known.clone(),
            Some(_) | None => {
                let name = format!("outbound|{port}||{}", service.hostname).into();
                let new = Arc::new(Upstream::new(Some(service.clone()), port, protocol, name));
                self.known.insert(key, new.clone());
                new
            }
        };
        upstream.replace(found);
        upstream
    }

    /// Forgets what nothing refers to any more.
    pub(super) fn prune(&mut self) {
        self.known.retain(|_, upstream| Arc::strong_count(upstream) > 1);
    }

    /// Forgets all but these. A snapshot that is still being read keeps what it refers to.
    pub(super) fn retain(&mut self, used: &HashMap<(ServiceKey, u16), Arc<Upstream>>) {
        self.known.retain(|key, _| used.contains_key(key));
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }
}
