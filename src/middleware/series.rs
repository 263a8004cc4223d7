//! Which series a request is counted in: found by addresses where a connection has counted before, by
//! what its labels are made of else, and resolved by the labels themselves only once.

use super::stage::Context;
use crate::{
    model::{Identity, Name, Workload},
    state::{Destination, DestinationKind, UpstreamEndpoint},
    telemetry::{Reporter, RequestLabels, RequestMetrics, ResponseFlag, SecurityPolicy, WorkloadLabels},
};
use http::StatusCode;
use std::{
    collections::HashMap,
    hash::{Hash, Hasher},
    sync::{Arc, Mutex, PoisonError, RwLock, Weak},
};

/// Series remembered for each connection.
const MAX_RECENT: usize = 4;
/// More series than any waypoint should have; beyond it handles are resolved anew.
const MAX_KNOWN: usize = 10_000;

/// What the labels of a finished request are made of.
#[derive(Debug)]
pub(super) struct Seen<'a> {
    pub(super) context: &'a Context,
    pub(super) endpoint: Option<&'a Arc<UpstreamEndpoint>>,
    /// None: the client went away before there was an answer.
    pub(super) status: Option<StatusCode>,
    pub(super) flag: ResponseFlag,
    /// The gRPC status, if it is gRPC.
    pub(super) grpc: Option<Option<u16>>,
}

/// The series that a client's connection has counted into last: most of its requests are of one
/// series, and finding that by its names costs more than all the counting.
#[derive(Debug, Default)]
pub struct RecentSeries(Mutex<Vec<(Recent, RequestMetrics)>>);

/// What tells the series of one connection apart. The pointers are compared only; being weak, they
/// keep no old snapshot alive, and no new one can be at their address.
#[derive(Debug)]
struct Recent {
    destination: Weak<Destination>,
    endpoint: Option<Weak<UpstreamEndpoint>>,
    status: Option<StatusCode>,
    flag: ResponseFlag,
    grpc: Option<Option<u16>>,
}

impl RecentSeries {
    /// The handles for a request of this connection.
    pub(super) fn of(&self, seen: &Seen<'_>, known: &KnownSeries) -> RequestMetrics {
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, metrics)) = lock().iter().find(|(recent, _)| recent.is(seen)) {
            return metrics.clone();
        }
        // Not under the lock: it may take a while.
        let metrics = known.of(seen);
        let mut recent = lock();
        recent.truncate(MAX_RECENT - 1);
        recent.insert(0, (Recent::of(seen), metrics.clone()));
        metrics
    }
}

impl Recent {
    fn of(seen: &Seen<'_>) -> Self {
        let destination = Arc::downgrade(&seen.context.destination);
        Self { destination, endpoint: seen.endpoint.map(Arc::downgrade), status: seen.status, flag: seen.flag, grpc: seen.grpc }
    }

    fn is(&self, seen: &Seen<'_>) -> bool {
        self.destination.as_ptr() == Arc::as_ptr(&seen.context.destination)
            && self.endpoint.as_ref().map(Weak::as_ptr) == seen.endpoint.map(Arc::as_ptr)
            && (self.status, self.flag, self.grpc) == (seen.status, seen.flag, seen.grpc)
    }
}

/// The series of all connections of a worker.
#[derive(Debug, Default)]
pub(super) struct KnownSeries(RwLock<HashMap<Known, RequestMetrics>>);

/// What tells one series from another.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Known {
    peer: Identity,
    source: Option<Version>,
    service: Option<(Name, Name)>,
    endpoint: Option<Version>,
    status: Option<StatusCode>,
    flag: ResponseFlag,
    grpc: Option<Option<u16>>,
}

/// One version of a workload: another one may have other labels under the same name. Compared by
/// address, which a weak pointer keeps from being used again.
#[derive(Debug, Clone)]
struct Version(Weak<Workload>);

impl Version {
    fn of(workload: &Arc<Workload>) -> Self {
        Self(Arc::downgrade(workload))
    }
}

impl PartialEq for Version {
    fn eq(&self, other: &Self) -> bool {
        self.0.ptr_eq(&other.0)
    }
}

impl Eq for Version {}

impl Hash for Version {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.as_ptr().hash(state);
    }
}

impl KnownSeries {
    fn of(&self, seen: &Seen<'_>) -> RequestMetrics {
        let tunnel = &seen.context.tunnel;
        let service = match &seen.context.destination.kind {
            DestinationKind::Service(key) => Some((key.namespace.clone(), key.hostname.name())),
            DestinationKind::Workload(_) => None,
        };
        let endpoint = seen.endpoint.and_then(|e| e.workload.as_ref());
        let key = Known {
            peer: tunnel.peer.clone(),
            source: tunnel.source.as_ref().map(Version::of),
            service,
            endpoint: endpoint.map(Version::of),
            status: seen.status,
            flag: seen.flag,
            grpc: seen.grpc,
        };
        if let Some(metrics) = self.0.read().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return metrics.clone();
        }
        let metrics = resolve(seen, &key, endpoint);
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_KNOWN {
            known.clear();
        }
        known.insert(key, metrics.clone());
        metrics
    }
}

fn resolve(seen: &Seen<'_>, key: &Known, endpoint: Option<&Arc<Workload>>) -> RequestMetrics {
    let mut source = seen.context.tunnel.source.as_ref().map(|w| WorkloadLabels::of(w)).unwrap_or_default();
    source.principal = key.peer.as_str();
    source.namespace = key.peer.namespace();
    let (namespace, host) = key.service.as_ref().map_or(("", ""), |(namespace, host)| (&**namespace, &**host));
    RequestMetrics::resolve(&RequestLabels {
        reporter: Reporter::Waypoint,
        source,
        destination: endpoint.map(|w| WorkloadLabels::of(w)).unwrap_or_default(),
        service: host,
        service_name: host.split('.').next().unwrap_or_default(),
        service_namespace: namespace,
        is_grpc: seen.grpc.is_some(),
        response_code: seen.status.map_or(0, |s| s.as_u16()),
        grpc_status: seen.grpc.flatten(),
        flag: seen.flag,
        security: SecurityPolicy::MutualTls,
    })
}
