//! The weighted choice of a backend: `Routed -> Selected`, or 500.

use super::{
    Error,
    filter::{Verdict, apply_request, apply_response},
    gate::always_ready,
    stage::{Failure, Outcome, Reply, Routed, Selected, backend},
};
use crate::{
    model::Filter,
    state::{Backends, RulePlan},
};
use pin_project_lite::pin_project;
use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};
use tower::Service;

/// Chooses once for each request; its retries stay with the backend. Applies the backend's own
/// filters.
#[derive(Debug, Clone)]
pub struct Split<S>(pub S);

/// A backend that is chosen, by its place in the plan.
enum Choice {
    Destination,
    Backend(usize),
}

fn choose(backends: &Backends) -> Option<Choice> {
    match backends {
        Backends::Destination => Some(Choice::Destination),
        Backends::Weighted(_, choice) => Some(Choice::Backend(choice.as_ref()?.pick(fastrand::u64(..)))),
    }
}

impl<S> Service<Routed> for Split<S>
where
    S: Service<Selected, Response = Reply, Error = Failure>,
{
    type Response = Reply;
    type Error = Failure;
    type Future = Splitting<S::Future>;

    always_ready!();

    fn call(&mut self, routed: Routed) -> Self::Future {
        let choice = choose(routed.backends());
        let Routed { mut request, context, plan, matched, outcome } = routed;
        let (upstream, index) = match choice {
            None => return Splitting::refuse(Error::NoBackend, outcome),
            Some(Choice::Destination) => (context.destination.upstream.clone(), None),
            Some(Choice::Backend(index)) => {
                let chosen = backend(&plan, index);
                match chosen.and_then(|b| b.upstream.clone()) {
                    Some(upstream) => (upstream, chosen.is_some_and(|b| !b.filters.is_empty()).then_some(index)),
                    None => return Splitting::refuse(Error::NoBackend, outcome),
                }
            }
        };
        if let Some(index) = index {
            match apply_request(filters(&plan, index), &mut request, matched.as_ref(), &context) {
                Ok(Verdict::Pass) => {}
                Ok(Verdict::Answer(response)) => {
                    let reply = Reply { response, outcome, error: None };
                    return Splitting::Answer { reply: Some(Box::new(reply)) };
                }
                Err(error) => return Splitting::refuse(error, outcome),
            }
        }
        let back = index.map(|index| (plan.clone(), index));
        Splitting::Pass { inner: self.0.call(Selected { request, context, plan, upstream, outcome }), back }
    }
}

fn filters(plan: &RulePlan, index: usize) -> &[Filter] {
    backend(plan, index).map(|b| &b.filters[..]).unwrap_or_default()
}

pin_project! {
    /// The future of [`Split`].
    #[project = SplittingProj]
    #[derive(Debug)]
    pub enum Splitting<F> {
        /// On its way; `back` says whose response filters apply.
        Pass { #[pin] inner: F, back: Option<(Arc<RulePlan>, usize)> },
        /// Answered by a filter.
        Answer { reply: Option<Box<Reply>> },
        /// Refused.
        Refuse { failure: Option<Box<Failure>> },
    }
}

impl<F> Splitting<F> {
    fn refuse(error: Error, outcome: Outcome) -> Self {
        Self::Refuse { failure: Some(Box::new(Failure { error, outcome })) }
    }
}

impl<F: Future<Output = Result<Reply, Failure>>> Future for Splitting<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        match self.project() {
            SplittingProj::Pass { inner, back } => {
                let mut reply = ready!(inner.poll(cx))?;
                if let Some((plan, index)) = back {
                    apply_response(filters(plan, *index), &mut reply.response);
                }
                Poll::Ready(Ok(reply))
            }
            SplittingProj::Answer { reply } => Poll::Ready(Ok(*reply.take().expect("not polled after it was ready"))),
            SplittingProj::Refuse { failure } => Poll::Ready(Err(*failure.take().expect("not polled after it was ready"))),
        }
    }
}
