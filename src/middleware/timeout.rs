//! The time limit for a request with all its tries (`timeouts.request`, GEP-1742): 504, or a
//! response body cut off.

use super::{
    Body, Error,
    body::BodyError,
    gate::always_ready,
    stage::{Failure, Outcome, Reply, Routed},
};
use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use pin_project_lite::pin_project;
use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};
use tokio::time::{Instant, Sleep, sleep_until};
use tower::Service;

/// Bounds the time from the request's arrival to the last byte of its response.
#[derive(Debug, Clone)]
pub struct Timeout<S>(pub S);

impl<S> Service<Routed> for Timeout<S>
where
    S: Service<Routed, Response = Reply, Error = Failure>,
{
    type Response = Reply;
    type Error = Failure;
    type Future = TimingOut<S::Future>;

    always_ready!();

    fn call(&mut self, routed: Routed) -> Self::Future {
        match routed.plan.timeouts.request {
            None => TimingOut::Unlimited { inner: self.0.call(routed) },
            Some(limit) => {
                let deadline = Instant::now() + limit;
                let outcome = routed.outcome.clone();
                TimingOut::Limited { sleep: sleep_until(deadline), deadline, outcome, inner: self.0.call(routed) }
            }
        }
    }
}

pin_project! {
    /// The future of [`Timeout`].
    #[project = TimingOutProj]
    #[derive(Debug)]
    pub enum TimingOut<F> {
        /// No limit.
        Unlimited { #[pin] inner: F },
        /// A limit.
        Limited { #[pin] inner: F, #[pin] sleep: Sleep, deadline: Instant, outcome: Outcome },
    }
}

impl<F: Future<Output = Result<Reply, Failure>>> Future for TimingOut<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        match self.project() {
            TimingOutProj::Unlimited { inner } => inner.poll(cx),
            TimingOutProj::Limited { inner, sleep, deadline, outcome } => {
                if let Poll::Ready(result) = inner.poll(cx) {
                    return Poll::Ready(result.map(|mut reply| {
                        reply.response = reply.response.map(|body| until(body, *deadline));
                        reply
                    }));
                }
                sleep.poll(cx).map(|()| Err(Failure { error: Error::Timeout, outcome: std::mem::take(outcome) }))
            }
        }
    }
}

/// A body that breaks off at the deadline: the time limit covers the whole response, and a peer
/// must not take a cut response for a complete one.
pub(super) fn until(body: Body, deadline: Instant) -> Body {
    if body.is_end_stream() {
        return body;
    }
    Body::boxed(Until { body, sleep: sleep_until(deadline) })
}

pin_project! {
    struct Until { body: Body, #[pin] sleep: Sleep }
}

impl http_body::Body for Until {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.project();
        if let Poll::Ready(frame) = Pin::new(this.body).poll_frame(cx) {
            return Poll::Ready(frame);
        }
        this.sleep.poll(cx).map(|()| Some(Err(BodyError::Deadline)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
