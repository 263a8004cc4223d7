//! The stages of a request: it changes type as it earns rights, so that layers in the wrong order
//! do not compile.
//!
//! ```text
//! Inbound -> Permitted -> Routed -> Selected -> Attempt -> Dispatch
//!                                                             |
//! Response <- Reply { response, outcome } <-------------------+
//! ```

use super::{Body, Error, series::RecentSeries};
use crate::{
    authz::PolicyRule,
    model::{Identity, PathPattern, Workload},
    state::{BackendPlan, Backends, Destination, InFlight, RulePlan, Upstream, UpstreamEndpoint},
};
use http::{HeaderValue, Request, Response, request::Parts};
use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

/// What is known of the client's connection inside a tunnel; the same for all its requests.
#[derive(Debug)]
pub struct Tunnel {
    /// The verified identity of the peer.
    pub peer: Identity,
    /// Where the tunnel comes from: the client pod's address.
    pub peer_address: SocketAddr,
    /// The workload at that address, when it is known and its identity is the peer's.
    pub source: Option<Arc<Workload>>,
    /// `x-forwarded-client-cert` for requests from this peer.
    pub client_cert: HeaderValue,
    /// Where its requests are counted.
    pub series: RecentSeries,
}

/// What goes with a request through all stages.
#[derive(Debug, Clone)]
pub struct Context {
    /// The client's connection.
    pub tunnel: Arc<Tunnel>,
    /// What it addressed, in the snapshot that was current when the request came.
    pub destination: Arc<Destination>,
}

/// A request as it came.
#[derive(Debug)]
pub struct Inbound {
    /// The request.
    pub request: Request<Body>,
    /// Client and destination.
    pub context: Context,
}

/// A request with clean headers and one spelling of its path.
#[derive(Debug)]
pub struct Clean {
    /// The request.
    pub request: Request<Body>,
    /// Client and destination.
    pub context: Context,
}

/// A request that policy lets pass: holding one is the proof.
#[derive(Debug)]
pub struct Permitted {
    /// The request.
    pub request: Request<Body>,
    /// Client and destination.
    pub context: Context,
    /// The policy that decided.
    pub outcome: Outcome,
}

/// A request with its rule.
#[derive(Debug)]
pub struct Routed {
    /// The request.
    pub request: Request<Body>,
    /// Client and destination.
    pub context: Context,
    /// The rule.
    pub plan: Arc<RulePlan>,
    /// The pattern that matched, for rewriting its prefix.
    pub matched: Option<PathPattern>,
    /// What is known so far.
    pub outcome: Outcome,
}

/// A request with its backend, which retries keep.
#[derive(Debug)]
pub struct Selected {
    /// The request.
    pub request: Request<Body>,
    /// Client and destination.
    pub context: Context,
    /// The rule.
    pub plan: Arc<RulePlan>,
    /// Where it goes.
    pub upstream: Arc<Upstream>,
    /// What is known so far.
    pub outcome: Outcome,
}

/// One try.
#[derive(Debug)]
pub struct Attempt {
    /// The request of this try.
    pub request: Request<Body>,
    /// Where it goes.
    pub upstream: Arc<Upstream>,
    /// Endpoints that were tried before.
    pub tried: Vec<Arc<UpstreamEndpoint>>,
    /// Where the choice of an endpoint is noted, for a try that may be given up before it yields
    /// anything.
    pub chosen: Option<Arc<OnceLock<Arc<UpstreamEndpoint>>>>,
}

/// One try with its endpoint.
#[derive(Debug)]
pub struct Dispatch {
    /// The request of this try.
    pub request: Request<Body>,
    /// Where it goes.
    pub upstream: Arc<Upstream>,
    /// To whom.
    pub endpoint: Arc<UpstreamEndpoint>,
    /// Counts as load of the endpoint until it is dropped, at the end of the response.
    pub in_flight: InFlight,
}

/// What happened to a request, as far as it came.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// The policy that decided.
    pub policy: Option<Arc<PolicyRule>>,
    /// The rule that was followed.
    pub plan: Option<Arc<RulePlan>>,
    /// The endpoint of the last try.
    pub endpoint: Option<Arc<UpstreamEndpoint>>,
    /// Tries made.
    pub attempts: u32,
}

/// An answer and what happened.
#[derive(Debug)]
pub struct Reply {
    /// The answer.
    pub response: Response<Body>,
    /// What happened.
    pub outcome: Outcome,
    /// The error that this answer stands for, if it is not a workload's.
    pub error: Option<Error>,
}

/// An error and what had happened before it.
#[derive(Debug)]
pub struct Failure {
    /// The error.
    pub error: Error,
    /// What happened.
    pub outcome: Outcome,
}

/// A try that failed.
#[derive(Debug)]
pub struct Failed {
    /// Why.
    pub error: Error,
    /// The endpoint, if one was chosen.
    pub endpoint: Option<Arc<UpstreamEndpoint>>,
    /// The request, when no byte of it was sent.
    pub unsent: Option<Box<Request<Body>>>,
}

/// A try that brought an answer.
#[derive(Debug)]
pub struct Answered {
    /// The answer.
    pub response: Response<Body>,
    /// Who gave it.
    pub endpoint: Arc<UpstreamEndpoint>,
}

impl Routed {
    /// The backends of the rule.
    pub fn backends(&self) -> &Backends {
        &self.plan.backends
    }
}

impl Selected {
    /// Limit for each try.
    pub fn try_timeout(&self) -> Option<Duration> {
        self.plan.timeouts.backend_request
    }
}

/// A copy of a request's head, with the body given.
pub(super) fn with_head(head: &Parts, body: Body) -> Request<Body> {
    let mut request = Request::new(body);
    *request.method_mut() = head.method.clone();
    *request.uri_mut() = head.uri.clone();
    *request.version_mut() = head.version;
    *request.headers_mut() = head.headers.clone();
    *request.extensions_mut() = head.extensions.clone();
    request
}

/// The backend that was chosen, by reference into its plan.
pub(super) fn backend(plan: &RulePlan, index: usize) -> Option<&BackendPlan> {
    match &plan.backends {
        Backends::Destination => None,
        Backends::Weighted(backends, _) => backends.get(index),
    }
}
