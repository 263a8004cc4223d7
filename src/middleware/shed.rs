//! Admission: above the limit requests are refused, never queued.

use super::{
    Error,
    gate::{Gate, always_ready},
    stage::{Failure, Inbound, Outcome, Reply},
};
use pin_project_lite::pin_project;
use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tower::Service;

/// Bounds the requests in flight, over all tunnels; a request counts until its response head.
#[derive(Debug, Clone)]
pub struct Shed<S> {
    inner: S,
    places: Arc<Semaphore>,
}

impl<S> Shed<S> {
    /// At most `limit` requests at a time.
    pub fn new(inner: S, limit: usize) -> Self {
        Self { inner, places: Arc::new(Semaphore::new(limit.min(Semaphore::MAX_PERMITS))) }
    }
}

impl<S> Service<Inbound> for Shed<S>
where
    S: Service<Inbound, Response = Reply, Error = Failure>,
{
    type Response = Reply;
    type Error = Failure;
    type Future = Gate<Holding<S::Future>>;

    always_ready!();

    fn call(&mut self, inbound: Inbound) -> Self::Future {
        match self.places.clone().try_acquire_owned() {
            Ok(place) => Gate::Pass { inner: Holding { inner: self.inner.call(inbound), _place: place } },
            Err(_) => Gate::refuse(Error::Overloaded, Outcome::default()),
        }
    }
}

pin_project! {
    /// A future that holds its place.
    #[derive(Debug)]
    pub struct Holding<F> { #[pin] inner: F, _place: OwnedSemaphorePermit }
}

impl<F: Future> Future for Holding<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        self.project().inner.poll(cx)
    }
}
