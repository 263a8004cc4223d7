//! Port 15020: what Prometheus scrapes.

use super::{Answer, Router, router::typed};
use crate::telemetry::MetricsHandle;
use http::StatusCode;

/// `/metrics`, and `/stats/prometheus`, where the annotations of Istio's charts point.
pub fn metrics(handle: MetricsHandle) -> Router {
    let again = handle.clone();
    Router::new().get("/metrics", "metrics in Prometheus's text format", move |_| scrape(&handle)).get(
        "/stats/prometheus",
        "the same",
        move |_| scrape(&again),
    )
}

fn scrape(handle: &MetricsHandle) -> Answer {
    typed(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", handle.render())
}
