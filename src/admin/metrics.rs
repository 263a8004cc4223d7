//! Port 15020: what Prometheus scrapes.

use super::{Answer, Asked, Router, router::typed};
use crate::telemetry::{MetricsFormat, MetricsHandle};
use http::StatusCode;

/// `/metrics`, and `/stats/prometheus`, where the annotations of Istio's charts point.
pub fn metrics(handle: MetricsHandle) -> Router {
    let again = handle.clone();
    Router::new().get("/metrics", "metrics in Prometheus's text format, or OpenMetrics", move |asked| scrape(&handle, asked)).get(
        "/stats/prometheus",
        "the same",
        move |asked| scrape(&again, asked),
    )
}

fn scrape(handle: &MetricsHandle, asked: &Asked) -> Answer {
    let format = MetricsFormat::accepted(&asked.accept());
    typed(StatusCode::OK, format.media_type(), handle.render(format))
}
