//! The proxy: what becomes of a question.

use super::{
    Client, Cluster, Listeners, Outcome, Search,
    forward::Forwarder,
    lookup,
    message::{self, MAX_MESSAGE, Rcode, Refusal, Request},
    metrics::Series,
};
use crate::{
    model::Workload,
    runtime::DrainWatch,
    state::{NodeSnapshot, SnapshotHandle},
    telemetry::{DnsMetrics, DnsProtocol},
    transport::Sockets,
};
use std::{fmt, future::Future, net::SocketAddr, pin::Pin, sync::Arc, time::Duration};
use tokio::{sync::Semaphore, time::Instant};

/// What can be set on a proxy.
#[derive(Debug)]
pub struct Config {
    /// The cluster that it is in.
    pub cluster: Cluster,
    /// The search domains of the workload.
    pub search: Search,
    /// Who answers for names that are not of the mesh, the first one first; see
    /// [`ResolvConf`](super::ResolvConf).
    pub nameservers: Vec<SocketAddr>,
    /// What it may take.
    pub limits: Limits,
}

/// What a proxy may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Questions that wait for an answer at a time; above it they fail at once (SERVFAIL).
    pub requests: usize,
    /// TCP connections at a time; above it new ones wait to be accepted.
    pub connections: usize,
    /// A TCP connection may be without a complete question, or its client without reading, for so
    /// long.
    pub idle: Duration,
    /// A nameserver must answer by UDP after so long; then the next one is asked.
    pub upstream_udp: Duration,
    /// By TCP it must accept a connection after so long, and then answer after as long again.
    pub upstream_tcp: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            requests: 1024,
            connections: 256,
            idle: Duration::from_secs(5),
            upstream_udp: Duration::from_secs(2),
            upstream_tcp: Duration::from_secs(5),
        }
    }
}

/// The workload whose questions they are, when it is known; `None` when it has been waited for long
/// enough.
pub type Source = Pin<Box<dyn Future<Output = Option<Arc<Workload>>> + Send>>;

/// The DNS proxy of one workload.
pub struct DnsProxy {
    shared: Shared,
    listeners: Listeners,
}

/// What all questions share.
pub(super) struct Shared {
    cluster: Cluster,
    search: Search,
    forwarder: Forwarder,
    mesh: SnapshotHandle<NodeSnapshot>,
    source: Box<dyn Fn() -> Source + Send + Sync>,
    series: Series,
    places: Semaphore,
    pub(super) limits: Limits,
}

impl fmt::Debug for DnsProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DnsProxy").field("listeners", &self.listeners).finish_non_exhaustive()
    }
}

impl DnsProxy {
    /// A proxy for the workload that `source` yields. It speaks with nameservers through `sockets`;
    /// its own listeners are none of them, whatever the configuration says.
    pub fn new(
        config: Config,
        sockets: Sockets,
        listeners: Listeners,
        mesh: SnapshotHandle<NodeSnapshot>,
        source: impl Fn() -> Source + Send + Sync + 'static,
    ) -> Self {
        let Config { cluster, search, mut nameservers, limits } = config;
        nameservers.retain(|nameserver| !listeners.hear(*nameserver));
        let forwarder = Forwarder::new(nameservers, sockets, limits.upstream_udp, limits.upstream_tcp);
        let places = Semaphore::new(limits.requests);
        let shared = Shared { cluster, search, forwarder, mesh, source: Box::new(source), series: Series::default(), places, limits };
        Self { shared, listeners }
    }

    /// Answers until `drain` is signalled; questions at hand then go on until they are answered or the
    /// drain is forced, and are waited for through its guards.
    pub async fn serve(self, drain: DrainWatch) {
        self.listeners.serve(Arc::new(self.shared), drain).await;
    }
}

impl Shared {
    /// The answer to a message, if there is to be one. Cancel safe.
    pub(super) async fn respond(&self, bytes: &[u8], protocol: DnsProtocol) -> Option<Vec<u8>> {
        let request = match Request::parse(bytes) {
            Ok(request) => request,
            Err(Refusal::Answer(answer)) => return Some(answer),
            Err(Refusal::Silent) => return None,
        };
        let Ok(_place) = self.places.try_acquire() else {
            tracing::debug!(target: "dns", "too many questions at a time");
            return Some(request.error(Rcode::ServFail));
        };
        let source = (self.source)().await;
        let query_type = message::kind_name(request.kind());
        let metrics = self.series.of(query_type, protocol, source.as_deref());
        metrics.request();
        let (answer, result) = match &source {
            Some(source) => self.answer(&request, protocol, source, &metrics).await,
            None => (request.error(Rcode::ServFail), "unknown source"),
        };
        tracing::event!(
            target: "dns",
            tracing::Level::DEBUG,
            src.workload = source.as_ref().map_or("unknown", |source| &*source.name),
            src.namespace = source.as_ref().map_or("unknown", |source| &*source.namespace),
            query = query_type,
            domain = request.name(),
            result,
            endpoints = message::answer_count(&answer),
        );
        Some(answer)
    }

    async fn answer(
        &self,
        request: &Request<'_>,
        protocol: DnsProtocol,
        source: &Workload,
        metrics: &DnsMetrics,
    ) -> (Vec<u8>, &'static str) {
        let Some((name, family)) = request.name().zip(request.family()) else {
            return self.forward(request, protocol, metrics).await;
        };
        let search = self.search.domains(&self.cluster, &source.namespace).await;
        let client = Client { namespace: &source.namespace, search: &search, cluster: &self.cluster };
        let limit = match protocol {
            DnsProtocol::Udp => request.payload(),
            DnsProtocol::Tcp => MAX_MESSAGE,
        };
        let outcome = lookup(&self.mesh.load(), client, &name, family);
        match outcome {
            Outcome::Answer { addresses, alias } => {
                (request.answer(&addresses, alias.as_ref().map(|alias| alias.as_str()), limit), "success")
            }
            Outcome::Empty => (request.answer(&[], None, limit), "no records"),
            Outcome::Forward => self.forward(request, protocol, metrics).await,
        }
    }

    async fn forward(&self, request: &Request<'_>, protocol: DnsProtocol, metrics: &DnsMetrics) -> (Vec<u8>, &'static str) {
        let started = Instant::now();
        let answer = self.forwarder.ask(request, protocol).await;
        metrics.upstream(started.elapsed(), answer.is_none());
        match answer {
            Some(answer) => (answer, "forwarded"),
            None => (request.error(Rcode::ServFail), "forwarding failed"),
        }
    }
}
