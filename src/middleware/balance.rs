//! The choice of an endpoint: `Attempt -> Dispatch`, or 503.

use super::{
    Error,
    gate::always_ready,
    stage::{Answered, Attempt, Dispatch, Failed},
};
use crate::balance;
use futures_util::future::Either;
use std::{
    future::{Ready, ready},
    sync::Arc,
};
use tower::Service;

/// Chooses by least request over two random choices, avoiding endpoints tried before.
#[derive(Debug, Clone)]
pub struct Balance<S>(pub S);

impl<S> Service<Attempt> for Balance<S>
where
    S: Service<Dispatch, Response = Answered, Error = Failed>,
{
    type Response = Answered;
    type Error = Failed;
    type Future = Either<S::Future, Ready<Result<Answered, Failed>>>;

    always_ready!();

    fn call(&mut self, Attempt { request, upstream, tried, chosen }: Attempt) -> Self::Future {
        let endpoints = upstream.endpoints();
        let is_tried = |e: &Arc<_>| tried.iter().any(|t| Arc::ptr_eq(t, e));
        match balance::pick(&endpoints.ready, |e| e.in_flight(), is_tried, |below| fastrand::usize(..below)) {
            Some(endpoint) => {
                if let Some(chosen) = chosen {
                    let _ = chosen.set(endpoint.clone());
                }
                let in_flight = endpoint.start();
                Either::Left(self.0.call(Dispatch { request, upstream, endpoint: endpoint.clone(), in_flight }))
            }
            None => Either::Right(ready(Err(Failed { error: Error::NoEndpoint, endpoint: None, unsent: None }))),
        }
    }
}
