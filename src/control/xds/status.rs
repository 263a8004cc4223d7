//! How the client is doing, for readiness and for whoever is on call.

use super::resources::ResourceType;
use crate::telemetry::XdsMetrics;
use std::{future, time::SystemTime};
use tokio::sync::watch;

/// How it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// Whether the control plane has answered on a stream that still lives. While it has not, the last
    /// state keeps serving.
    pub connected: bool,
    /// Whether each type of resources that is told without being asked for has been acknowledged once;
    /// stays so for good.
    pub synced: bool,
    /// Since when `connected` is what it is.
    pub since: SystemTime,
    /// Why the latest stream or connect came to nothing; none while connected.
    pub error: Option<String>,
}

/// Watches a client. Clones are independent.
#[derive(Debug, Clone)]
pub struct Status(watch::Receiver<Connection>);

impl Status {
    /// How it is now.
    pub fn current(&self) -> Connection {
        self.0.borrow().clone()
    }

    /// Waits until everything was told once; not at all once that is so. Never ends when the client ends
    /// before. Cancel safe.
    pub async fn synced(&self) {
        if self.0.clone().wait_for(|now| now.synced).await.is_err() {
            future::pending().await
        }
    }

    /// Waits until something has changed since it was last waited for, or since this watch was made. Never
    /// ends when the client is gone. Cancel safe.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            future::pending().await
        }
    }
}

/// The other end of [`Status`].
#[derive(Debug)]
pub(super) struct Reporter {
    current: watch::Sender<Connection>,
    /// What has not been acknowledged so far.
    awaited: Vec<ResourceType>,
    metrics: XdsMetrics,
}

impl Reporter {
    pub(super) fn new(awaited: Vec<ResourceType>) -> (Self, Status) {
        let metrics = XdsMetrics::resolve();
        metrics.connected(false);
        let (current, status) = watch::channel(Connection { connected: false, synced: false, since: SystemTime::now(), error: None });
        (Self { current, awaited, metrics }, Status(status))
    }

    pub(super) fn metrics(&self) -> &XdsMetrics {
        &self.metrics
    }

    /// The control plane has answered.
    pub(super) fn connected(&self) {
        self.metrics.connected(true);
        self.current.send_modify(|now| {
            *now = Connection { connected: true, synced: now.synced || self.awaited.is_empty(), since: SystemTime::now(), error: None };
        });
    }

    /// There is no stream, because of `error`. Whether there was one.
    pub(super) fn disconnected(&self, error: &str) -> bool {
        self.metrics.connected(false);
        let mut was_connected = false;
        self.current.send_modify(|now| {
            was_connected = now.connected;
            if was_connected {
                now.since = SystemTime::now();
            }
            now.connected = false;
            now.error = Some(error.to_owned());
        });
        was_connected
    }

    /// A whole response of the type was taken.
    pub(super) fn acknowledged(&mut self, what: ResourceType) {
        self.awaited.retain(|awaited| *awaited != what);
        let synced = self.awaited.is_empty();
        self.current.send_if_modified(|now| {
            let first = synced && !now.synced;
            now.synced |= synced;
            first
        });
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        self.metrics.connected(false);
    }
}
