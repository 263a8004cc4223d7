//! Tries and tries again: `Selected -> Attempt`, each at another endpoint.

use super::{
    Body, Error,
    gate::always_ready,
    replay::Replay,
    respond::is_grpc,
    stage::{Answered, Attempt, Failed, Failure, Outcome, Reply, Selected, with_head},
    timeout::until,
};
use crate::{
    model::AppProtocol,
    state::{RulePlan, Upstream, UpstreamEndpoint},
    telemetry::counters,
};
use http::{Request, Response, request::Parts};
use http_body::Body as _;
use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::time::Instant;
use tower::Service;

/// Sends a request until it has an answer that stands, or its tries are used up.
///
/// What was never sent may always be tried again. What was sent is tried again only if the rule
/// says so, or gRPC's answer does, and only if the whole body can be sent once more.
#[derive(Debug, Clone)]
pub struct Retry<S> {
    inner: S,
    replay_limit: usize,
}

impl<S> Retry<S> {
    /// Keeps up to `replay_limit` bytes of a request body for another try.
    pub fn new(inner: S, replay_limit: usize) -> Self {
        Self { inner, replay_limit }
    }
}

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl<S> Service<Selected> for Retry<S>
where
    S: Service<Attempt, Response = Answered, Error = Failed> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Reply;
    type Error = Failure;
    type Future = BoxFuture<Result<Reply, Failure>>;

    always_ready!();

    fn call(&mut self, selected: Selected) -> Self::Future {
        Box::pin(Tries::new(selected, self.inner.clone(), self.replay_limit).run())
    }
}

/// What the next try sends.
enum Source {
    /// The request itself: once it is sent it is gone.
    Once(Option<Request<Body>>),
    /// Copies of it.
    Copies { head: Parts, body: Replay },
}

struct Tries<S> {
    inner: S,
    source: Source,
    upstream: Arc<Upstream>,
    plan: Arc<RulePlan>,
    is_grpc: bool,
    try_timeout: Option<Duration>,
    tried: Vec<Arc<UpstreamEndpoint>>,
    outcome: Outcome,
}

/// What follows from a try.
enum Next {
    Done(Result<Response<Body>, Error>),
    Again(Result<Response<Body>, Error>),
}

impl<S> Tries<S>
where
    S: Service<Attempt, Response = Answered, Error = Failed>,
{
    fn new(selected: Selected, inner: S, replay_limit: usize) -> Self {
        let try_timeout = selected.try_timeout();
        let Selected { request, plan, upstream, outcome, .. } = selected;
        let retry = &plan.retry;
        let is_grpc = is_grpc(request.headers());
        // Copying head and body costs; it is done only when a request that was sent may be sent again.
        let resends = retry.on_reset || is_grpc || matches!(upstream.protocol, AppProtocol::Http2 | AppProtocol::Grpc);
        let is_upgrade = request.headers().contains_key(http::header::UPGRADE);
        let source = if retry.attempts > 0 && resends && !is_upgrade {
            let (head, body) = request.into_parts();
            Source::Copies { head, body: Replay::new(body, replay_limit) }
        } else {
            Source::Once(Some(request))
        };
        Self { inner, source, upstream, plan, is_grpc, try_timeout, tried: Vec::new(), outcome }
    }

    async fn run(mut self) -> Result<Reply, Failure> {
        let mut last = Err(Error::Internal);
        for attempt in 0..=self.plan.retry.attempts {
            let Some(request) = self.source.take() else { break };
            if attempt > 0 {
                counters().retries.increment(1);
                tokio::time::sleep(self.backoff(attempt)).await;
            }
            self.outcome.attempts = attempt + 1;
            match self.attempt(request).await {
                Next::Done(result) => {
                    last = result;
                    break;
                }
                Next::Again(result) => last = result,
            }
        }
        match last {
            Ok(response) => Ok(Reply { response, outcome: self.outcome, error: None }),
            Err(error) => Err(Failure { error, outcome: self.outcome }),
        }
    }

    async fn attempt(&mut self, request: Request<Body>) -> Next {
        let deadline = self.try_timeout.map(|limit| Instant::now() + limit);
        let chosen = deadline.map(|_| Arc::<OnceLock<_>>::default());
        let attempt = Attempt { request, upstream: self.upstream.clone(), tried: self.tried.clone(), chosen: chosen.clone() };
        let call = self.inner.call(attempt);
        let result = match deadline {
            None => call.await,
            Some(deadline) => match tokio::time::timeout_at(deadline, call).await {
                Ok(result) => result,
                Err(_) => {
                    let endpoint = chosen.as_ref().and_then(|c| c.get().cloned());
                    Err(Failed { error: Error::TryTimeout, endpoint, unsent: None })
                }
            },
        };
        match result {
            Ok(Answered { response, endpoint }) => {
                self.note(endpoint);
                let response = match deadline {
                    Some(deadline) => response.map(|body| until(body, deadline)),
                    None => response,
                };
                if self.wants_again(&response) { Next::Again(Ok(response)) } else { Next::Done(Ok(response)) }
            }
            Err(Failed { error, endpoint, unsent }) => {
                if let Some(endpoint) = endpoint {
                    self.note(endpoint);
                }
                let is_unsent = unsent.is_some();
                if let (Some(request), Source::Once(slot)) = (unsent, &mut self.source) {
                    *slot = Some(*request);
                }
                if self.may_follow(&error, is_unsent) { Next::Again(Err(error)) } else { Next::Done(Err(error)) }
            }
        }
    }

    fn note(&mut self, endpoint: Arc<UpstreamEndpoint>) {
        self.outcome.endpoint = Some(endpoint.clone());
        if !self.tried.iter().any(|t| Arc::ptr_eq(t, &endpoint)) {
            self.tried.push(endpoint);
        }
    }

    fn wants_again(&self, response: &Response<Body>) -> bool {
        let again = self.plan.retry.codes.contains(&response.status()) || (self.is_grpc && is_transient(response));
        // Without another copy to send the answer stands.
        again && self.outcome.attempts <= self.plan.retry.attempts && self.source.has_another()
    }

    fn may_follow(&self, error: &Error, is_unsent: bool) -> bool {
        match error {
            Error::Connect(_) => is_unsent || self.source.has_another(),
            Error::Reset(e) => self.source.has_another() && (self.plan.retry.on_reset || is_refused(e)),
            Error::TryTimeout => self.plan.retry.on_reset && self.source.has_another(),
            Error::BadRequest(_)
            | Error::Denied(_)
            | Error::Overloaded
            | Error::NotServed
            | Error::NoRoute
            | Error::NoBackend
            | Error::NoEndpoint
            | Error::Timeout
            | Error::SlowBody
            | Error::Downstream
            | Error::Internal => false,
        }
    }

    /// Doubles from the rule's minimum, at most tenfold, with up to half as much again at random:
    /// `backoff` is the least wait (GEP-1731).
    fn backoff(&self, attempt: u32) -> Duration {
        let base = self.plan.retry.backoff.saturating_mul(1 << (attempt - 1).min(4)).min(self.plan.retry.backoff.saturating_mul(10));
        base + base.mul_f64(fastrand::f64() / 2.0)
    }
}

impl Source {
    fn take(&mut self) -> Option<Request<Body>> {
        match self {
            Self::Once(request) => request.take(),
            Self::Copies { head, body } => body.copy().map(|body| with_head(head, body)),
        }
    }

    fn has_another(&self) -> bool {
        match self {
            Self::Once(request) => request.is_some(),
            Self::Copies { body, .. } => body.is_whole(),
        }
    }
}

/// gRPC's own "try again": UNAVAILABLE (14) or CANCELLED (1) before any message, as Trailers-Only.
fn is_transient(response: &Response<Body>) -> bool {
    let status = response.headers().get("grpc-status").map(|v| v.as_bytes());
    matches!(status, Some(b"14" | b"1")) && response.body().is_end_stream()
}

/// The server has not looked at the request (RFC 9113, 8.7).
fn is_refused(error: &hyper::Error) -> bool {
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        if let Some(h2) = inner.downcast_ref::<h2::Error>() {
            return h2.reason() == Some(h2::Reason::REFUSED_STREAM);
        }
        cause = inner.source();
    }
    false
}
