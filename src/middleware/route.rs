//! Routing: `Permitted -> Routed`, or 404.

use super::{
    Error,
    gate::{Gate, always_ready},
    stage::{Failure, Permitted, Reply, Routed},
};
use crate::route::RequestView;
use tower::Service;

/// Finds the rule of a request in the routes of its destination. A destination without routes
/// passes everything through.
#[derive(Debug, Clone)]
pub struct Route<S>(pub S);

impl<S> Service<Permitted> for Route<S>
where
    S: Service<Routed, Response = Reply, Error = Failure>,
{
    type Response = Reply;
    type Error = Failure;
    type Future = Gate<S::Future>;

    always_ready!();

    fn call(&mut self, Permitted { request, context, mut outcome }: Permitted) -> Self::Future {
        let (plan, matched) = match &context.destination.routes {
            None => (context.destination.passthrough.clone(), None),
            Some(routes) => {
                let view = RequestView {
                    path: request.uri().path(),
                    query: request.uri().query(),
                    method: request.method(),
                    headers: request.headers(),
                };
                match routes.find(&view) {
                    Some(found) => (found.payload.clone(), Some(found.path.clone())),
                    None => return Gate::refuse(Error::NoRoute, outcome),
                }
            }
        };
        outcome.plan = Some(plan.clone());
        Gate::Pass { inner: self.0.call(Routed { request, context, plan, matched, outcome }) }
    }
}
