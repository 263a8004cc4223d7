//! Endpoints of a service port, apart from routes: pods come and go without a route being touched.

use super::{Directory, Reach};
use crate::model::{AppProtocol, Identity, Name, Service, ServiceKey, ServicePort, Workload};
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
    pub(super) fn replace(&self, found: Vec<UpstreamEndpoint>) {
        let old = self.endpoints.load_full();
        if old.ready.len() == found.len() && old.ready.iter().zip(&found).all(|(a, b)| a.is_same(b)) {
            return;
        }
        let mut at: HashMap<SocketAddr, Vec<&Arc<UpstreamEndpoint>>> = HashMap::with_capacity(old.ready.len());
        old.ready.iter().for_each(|endpoint| at.entry(endpoint.address).or_default().push(endpoint));
        let known = |new: &UpstreamEndpoint| at.get(&new.address)?.iter().find(|o| o.is_same(new)).map(|o| Arc::clone(o));
        // Collected in place, the list would keep the room that the larger items took.
        let mut ready = Vec::with_capacity(found.len());
        ready.extend(found.into_iter().map(|new| known(&new).unwrap_or_else(|| Arc::new(new))));
        self.endpoints.store(Arc::new(EndpointSet { ready }));
    }
}

/// All upstreams in use, kept over compilations so that load and connections survive them.
#[derive(Debug, Default)]
pub struct Upstreams {
    // The ports of a service are few.
    known: HashMap<ServiceKey, Vec<Known>>,
    len: usize,
    reach: Reach,
}

#[derive(Debug)]
struct Known {
    upstream: Arc<Upstream>,
    uses: usize,
    is_declared: bool,
}

impl Upstreams {
    /// None yet; with the endpoints that whoever uses them can reach.
    pub(super) fn new(reach: Reach) -> Self {
        Self { reach, ..Self::default() }
    }

    /// The upstream of a service port, in use until it is [released](Self::release); `None` when the
    /// service is not there or does not declare the port.
    pub(super) fn acquire(&mut self, directory: &Directory, key: &ServiceKey, port: u16) -> Option<Arc<Upstream>> {
        let known = self.known.get_mut(key).and_then(|ports| ports.iter_mut().find(|known| known.upstream.port == port));
        if let Some(known) = known {
            known.uses += usize::from(known.is_declared);
            return known.is_declared.then(|| known.upstream.clone());
        }
        let service = directory.mesh().services.get(key)?;
        let upstream = Arc::new(upstream(directory, service, service.port(port)?, self.reach));
        let known = Known { upstream: upstream.clone(), uses: 1, is_declared: true };
        self.known.entry(service.key.clone()).or_insert_with(|| Vec::with_capacity(1)).push(known);
        self.len += 1;
        Some(upstream)
    }

    /// Ends one use; after the last one the upstream is forgotten. A snapshot that is still being read
    /// keeps what it refers to.
    pub(super) fn release(&mut self, upstream: &Upstream) {
        let Some(key) = &upstream.service else { return };
        let Some(ports) = self.known.get_mut(key) else { return };
        let Some(at) = ports.iter().position(|known| known.upstream.port == upstream.port) else { return };
        let last = ports.get_mut(at).is_some_and(|known| {
            known.uses -= 1;
            known.uses == 0
        });
        if last {
            ports.swap_remove(at);
            self.len -= 1;
        }
        if ports.is_empty() {
            self.known.remove(key);
        }
    }

    /// Brings the upstreams of a service up to date. A port that speaks something else from now on is
    /// another upstream: who uses the old one must acquire anew. So must who uses a port that is no
    /// longer declared.
    pub(super) fn refresh(&mut self, directory: &Directory, key: &ServiceKey) {
        let reach = self.reach;
        let Some(ports) = self.known.get_mut(key) else { return };
        let service = directory.mesh().services.get(key);
        for known in ports {
            let declared = service.and_then(|service| Some((service, service.port(known.upstream.port)?)));
            known.is_declared = declared.is_some();
            match declared {
                Some((service, port)) if port.protocol == known.upstream.protocol => {
                    known.upstream.replace(directory.endpoints(service, port, reach))
                }
                Some((service, port)) => known.upstream = Arc::new(upstream(directory, service, port, reach)),
                None => {}
            }
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

fn upstream(directory: &Directory, service: &Service, port: &ServicePort, reach: Reach) -> Upstream {
    let name = format!("outbound|{}||{}", port.port, service.key.hostname).into();
    let upstream = Upstream::new(Some(service.key.clone()), port.port, port.protocol, name);
    upstream.replace(directory.endpoints(service, port, reach));
    upstream
}
