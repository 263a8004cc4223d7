//! Port 15021: what the kubelet probes.

use super::{Router, router::text};
use crate::runtime::Readiness;
use http::StatusCode;

/// `/healthz/ready`: 200 `ready`, or 500 and the tasks that are still pending, one per line. Notes
/// follow in either case.
pub fn readiness(readiness: Readiness) -> Router {
    Router::new().get("/healthz/ready", "readiness", move |_| {
        let pending = readiness.pending();
        let (status, first) = match pending.is_empty() {
            true => (StatusCode::OK, vec!["ready".to_owned()]),
            false => (StatusCode::INTERNAL_SERVER_ERROR, pending),
        };
        text(status, [first, readiness.notes()].concat().join("\n") + "\n")
    })
}
