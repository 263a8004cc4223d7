//! THE stack: what happens to an HTTP request, in order. The step names are those of
//! `docs/life-of-a-request.md`.

use super::{Config, Forward};
use crate::{
    middleware::{
        Answered, Authorize, Balance, Dispatch, Failed, Filter, Inbound, Places, Record, Recorded, Respond, Retry, Route, Sanitize, Shed,
        Split, Timeout,
    },
    telemetry::AccessLog,
};
use http::Response;
use std::convert::Infallible;
use tower::{Service, ServiceBuilder, layer::layer_fn, util::BoxCloneSyncService};

/// The whole stack as one type: nothing above it is compiled once per layer.
pub type HttpStack = BoxCloneSyncService<Inbound, Response<Recorded>, Infallible>;

/// Builds the stack. There is one for each worker, and all take their `places` from the same; what
/// differs between requests goes with them.
pub fn http(forward: Forward, config: &Config, places: Places, log: AccessLog) -> HttpStack {
    BoxCloneSyncService::new(layers(forward, config, places, log))
}

/// The layers over a leaf: [`http()`] with something else in the place of the network, so that the way
/// of a request can be measured and tested in memory.
pub fn layers<S>(
    leaf: S,
    config: &Config,
    places: Places,
    log: AccessLog,
) -> impl Service<Inbound, Response = Response<Recorded>, Error = Infallible, Future: Send> + Clone + Send + Sync + use<S>
where
    S: Service<Dispatch, Response = Answered, Error = Failed, Future: Send> + Clone + Send + Sync + 'static,
{
    let (body_idle, paths, replay_limit) = (config.request_body_idle, config.paths, config.replay_limit);
    ServiceBuilder::new()
        // Reply -> Response: what happened, once
        .layer(layer_fn(move |inner| Record::new(inner, log.clone(), body_idle)))
        // Failure -> Reply: below may fail, above cannot
        .layer(layer_fn(Respond))
        // never queue
        .layer(layer_fn(move |inner| Shed::new(inner, places.clone())))
        // Inbound -> Clean
        .layer(layer_fn(move |inner| Sanitize::new(inner, paths)))
        // Clean -> Permitted
        .layer(layer_fn(Authorize))
        // Permitted -> Routed
        .layer(layer_fn(Route))
        .layer(layer_fn(Filter))
        .layer(layer_fn(Timeout))
        // Routed -> Selected
        .layer(layer_fn(Split))
        // Selected -> Attempt
        .layer(layer_fn(move |inner| Retry::new(inner, replay_limit)))
        // Attempt -> Dispatch
        .layer(layer_fn(Balance))
        // Dispatch -> Answered
        .service(leaf)
}
