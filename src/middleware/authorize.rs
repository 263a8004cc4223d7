//! Policy: `Clean -> Permitted`, or 403.

use super::{
    Error,
    gate::{Gate, always_ready},
    stage::{Clean, Failure, Outcome, Permitted, Reply},
};
use crate::{
    authz::{Attributes, HttpAttributes, Verdict, remote_ip},
    telemetry::counters,
};
use http::{Request, header::HOST};
use tower::Service;

/// Judges each request by the policies of its destination, before anything is routed.
#[derive(Debug, Clone)]
pub struct Authorize<S>(pub S);

impl<S> Service<Clean> for Authorize<S>
where
    S: Service<Permitted, Response = Reply, Error = Failure>,
{
    type Response = Reply;
    type Error = Failure;
    type Future = Gate<S::Future>;

    always_ready!();

    fn call(&mut self, Clean { request, context }: Clean) -> Self::Future {
        let tunnel = &context.tunnel;
        let attributes = Attributes {
            identity: Some(&tunnel.peer),
            source_ip: tunnel.peer_address.ip(),
            destination: context.destination.address,
            // What is HTTP inside the tunnel is not TLS.
            sni: Some(""),
            http: Some(HttpAttributes {
                host: host(&request),
                method: request.method().as_str(),
                path: request.uri().path(),
                headers: request.headers(),
                remote_ip: remote_ip(request.headers(), tunnel.peer_address.ip()),
            }),
        };
        let Verdict { allowed, reason, dry_run } = context.destination.http_rules.check(&attributes);
        for rule in dry_run {
            tracing::info!(target: "authorization", policy = %rule, peer = %tunnel.peer, path = request.uri().path(), "dry run: would be denied");
            counters().authorization_dry_run_denied.increment(1);
        }
        let policy = reason.rule().cloned();
        let counter = if allowed { &counters().authorization_allowed } else { &counters().authorization_denied };
        counter.increment(1);
        let outcome = Outcome { policy: policy.clone(), ..Outcome::default() };
        if allowed {
            Gate::Pass { inner: self.0.call(Permitted { request, context, outcome }) }
        } else {
            Gate::refuse(Error::Denied(policy), outcome)
        }
    }
}

/// What the request calls its host: `:authority`, or the Host header.
pub(super) fn host<B>(request: &Request<B>) -> &str {
    match request.uri().authority() {
        Some(authority) => authority.as_str(),
        None => request.headers().get(HOST).and_then(|h| h.to_str().ok()).unwrap_or_default(),
    }
}
