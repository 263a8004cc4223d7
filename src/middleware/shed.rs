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
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};
use tower::Service;

/// The requests in flight, over all tunnels and workers. Clones count together.
#[derive(Debug, Clone)]
pub struct Places {
    taken: Arc<AtomicUsize>,
    limit: usize,
}

impl Places {
    /// At most `limit` requests at a time.
    pub fn new(limit: usize) -> Self {
        Self { taken: Arc::default(), limit }
    }

    fn take(&self) -> Option<Taken> {
        // Counted first, so that no two can take the last place.
        let taken = Taken(self.taken.clone());
        (self.taken.fetch_add(1, Ordering::Relaxed) < self.limit).then_some(taken)
    }
}

/// A place that is taken until its drop.
#[derive(Debug)]
struct Taken(Arc<AtomicUsize>);

impl Drop for Taken {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Bounds the requests in flight; a request counts until its response head.
#[derive(Debug, Clone)]
pub struct Shed<S> {
    inner: S,
    places: Places,
}

impl<S> Shed<S> {
    /// Admits as many requests as there are places.
    pub fn new(inner: S, places: Places) -> Self {
        Self { inner, places }
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
        match self.places.take() {
            Some(place) => Gate::Pass { inner: Holding { inner: self.inner.call(inbound), _place: place } },
            None => Gate::refuse(Error::Overloaded, Outcome::default()),
        }
    }
}

pin_project! {
    /// A future that holds its place.
    #[derive(Debug)]
    pub struct Holding<F> { #[pin] inner: F, _place: Taken }
}

impl<F: Future> Future for Holding<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        self.project().inner.poll(cx)
    }
}
