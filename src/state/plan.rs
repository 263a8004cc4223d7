//! What a request meets in a compiled snapshot: destinations, rules, backends.

use super::Upstream;
use crate::{
    authz::Ruleset,
    model::{AppProtocol, Filter, Hostname, Name, ServiceKey, Timeouts, Workload},
    route::{RouteTable, WeightedChoice},
};
use http::StatusCode;
use std::{net::SocketAddr, sync::Arc, time::Duration};

/// What a CONNECT was admitted to: one port of a service, or of a workload.
#[derive(Debug, Clone)]
pub struct Destination {
    /// Service or workload.
    pub kind: DestinationKind,
    /// The address in the CONNECT.
    pub address: SocketAddr,
    /// What is spoken on the port.
    pub protocol: AppProtocol,
    /// The routes of the narrowest scope that has any; `None`: requests pass through.
    pub routes: Option<Arc<RouteTable<Arc<RulePlan>>>>,
    /// The rule of a request when there are no routes.
    pub passthrough: Arc<RulePlan>,
    /// Policies for HTTP requests.
    pub http_rules: Arc<Ruleset>,
    /// Policies for opaque bytes.
    pub tcp_rules: Arc<Ruleset>,
    /// Where requests go that no route sends elsewhere.
    pub upstream: Arc<Upstream>,
}

/// What stands at a destination's address.
#[derive(Debug, Clone)]
pub enum DestinationKind {
    /// A service.
    Service(ServiceKey),
    /// A workload, addressed directly.
    Workload(Arc<Workload>),
}

impl Destination {
    /// The same at another address.
    pub(super) fn at(&self, address: SocketAddr) -> Self {
        Self { address, ..self.clone() }
    }

    /// The service's host name; `None` for a workload.
    pub fn hostname(&self) -> Option<&Hostname> {
        match &self.kind {
            DestinationKind::Service(key) => Some(&key.hostname),
            DestinationKind::Workload(_) => None,
        }
    }

    /// The namespace.
    pub fn namespace(&self) -> &Name {
        match &self.kind {
            DestinationKind::Service(key) => &key.namespace,
            DestinationKind::Workload(workload) => &workload.namespace,
        }
    }
}

/// One rule, ready to be followed.
#[derive(Debug)]
pub struct RulePlan {
    /// `namespace/name.rule`, with the rule's name or number; for logs. `-` when there is no route.
    pub name: Name,
    /// Filters in order.
    pub filters: Vec<Filter>,
    /// Where to.
    pub backends: Backends,
    /// Time limits.
    pub timeouts: Timeouts,
    /// Retries.
    pub retry: RetryPlan,
}

/// The backends of a rule.
#[derive(Debug)]
pub enum Backends {
    /// The destination that the client addressed.
    Destination,
    /// By weight. `None`: nothing can be chosen (no backends, or all weights zero): 500.
    Weighted(Vec<BackendPlan>, Option<WeightedChoice>),
}

/// One backend of a rule.
#[derive(Debug)]
pub struct BackendPlan {
    /// Filters for requests that go here.
    pub filters: Vec<Filter>,
    /// `None`: the reference leads nowhere, its share is answered with 500.
    pub upstream: Option<Arc<Upstream>>,
}

/// When and how often a request is tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryPlan {
    /// Tries after the first.
    pub attempts: u32,
    /// Statuses that are tried again.
    pub codes: Vec<StatusCode>,
    /// Also after a reset or a per-try timeout, although the request may have been seen. Failed
    /// connects are always tried again: nothing was sent.
    pub on_reset: bool,
    /// Least wait before a retry; doubled each time, with jitter.
    pub backoff: Duration,
}

impl RetryPlan {
    /// What holds without a `retry` stanza: Istio's default (two retries on failed connects,
    /// refused streams and gRPC's unavailable and cancelled).
    pub fn mesh_default() -> Self {
        Self { attempts: 2, codes: Vec::new(), on_reset: false, backoff: Duration::from_millis(25) }
    }
}

/// How much was compiled: what a scope costs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CompiledRules {
    /// Service ports and workloads that are served.
    pub destinations: usize,
    /// Matches in route tables; a table shared by several ports counts once.
    pub route_matches: usize,
    /// Rules of authorization policies; a set shared by several destinations counts once.
    pub policy_rules: usize,
    /// Service ports with endpoints.
    pub upstreams: usize,
}
