//! The future of a layer that either passes a request on or refuses it at once.

use super::Error;
use super::stage::{Failure, Outcome, Reply};
use pin_project_lite::pin_project;
use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

pin_project! {
    /// Passes on, or refuses.
    #[project = GateProj]
    #[derive(Debug)]
    pub enum Gate<F> {
        /// The next layer's future.
        Pass { #[pin] inner: F },
        /// A refusal, until it is taken.
        Refuse { failure: Option<Box<Failure>> },
    }
}

impl<F> Gate<F> {
    /// A refusal.
    pub fn refuse(error: Error, outcome: Outcome) -> Self {
        Self::Refuse { failure: Some(Box::new(Failure { error, outcome })) }
    }
}

impl<F: Future<Output = Result<Reply, Failure>>> Future for Gate<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        match self.project() {
            GateProj::Pass { inner } => inner.poll(cx),
            GateProj::Refuse { failure } => Poll::Ready(Err(*failure.take().expect("not polled after it was ready"))),
        }
    }
}

/// The `poll_ready` of every layer here: admission happens once, in [`super::Shed`].
macro_rules! always_ready {
    () => {
        fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Self::Error>> {
            std::task::Poll::Ready(Ok(()))
        }
    };
}
pub(super) use always_ready;
