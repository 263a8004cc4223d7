//! The signals that end the process.

use std::future::pending;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Waits for SIGTERM or SIGINT and returns its name.
///
/// Called again, it waits for the next one. Once it was called, these signals no longer end the
/// process by themselves; one that arrives between two calls is lost, so call again at once
/// (in the `select!` that waits for the drain).
///
/// Cancel safe, with the same gap. When a handler cannot be installed, that is logged and the
/// signal keeps its default effect.
pub async fn shutdown_requested() -> &'static str {
    let (mut terminate, mut interrupt) = (install(SignalKind::terminate()), install(SignalKind::interrupt()));
    tokio::select! {
        () = next(&mut terminate) => "SIGTERM",
        () = next(&mut interrupt) => "SIGINT",
    }
}

fn install(kind: SignalKind) -> Option<Signal> {
    signal(kind).inspect_err(|error| tracing::error!(?kind, %error, "no handler for a shutdown signal")).ok()
}

async fn next(signal: &mut Option<Signal>) {
    let Some(signal) = signal else { return pending().await };
    if signal.recv().await.is_none() {
        pending().await
    }
}
