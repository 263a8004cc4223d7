//! Port 15021: what the kubelet probes.

use super::{Router, router::text};
use http::StatusCode;

/// `/healthz/ready`: 200 `ready`, or 500 and the tasks that `pending` still names, one per line.
pub fn readiness(pending: impl Fn() -> Vec<String> + Send + Sync + 'static) -> Router {
    Router::new().get("/healthz/ready", "readiness", move |_| {
        let pending = pending();
        if pending.is_empty() {
            return text(StatusCode::OK, "ready\n");
        }
        text(StatusCode::INTERNAL_SERVER_ERROR, pending.join("\n") + "\n")
    })
}
