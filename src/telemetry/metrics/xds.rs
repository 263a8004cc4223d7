//! What is counted about the stream from the control plane (contract, 6.1).

use metrics::{Counter, Gauge, counter, describe_counter, describe_gauge, gauge};
use std::{
    fmt,
    time::{SystemTime, UNIX_EPOCH},
};

/// Why a stream came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum XdsTermination {
    /// There was no connection to begin with.
    ConnectionError,
    /// The server, or the connection, failed.
    Error,
    /// As it happens when a server restarts or moves its clients.
    Reconnect,
    /// The server ended it in good order.
    Complete,
}

/// How the stream is. Resolved by whoever follows a control plane, so that no other process exposes it.
#[derive(Clone)]
pub struct XdsMetrics {
    connected: Gauge,
    updated: Gauge,
}

/// The series of one type of resources.
#[derive(Clone)]
pub struct XdsTypeMetrics {
    messages: Counter,
    bytes: Counter,
    rejected: Counter,
}

impl XdsMetrics {
    /// `cairn_xds_connected` and `cairn_xds_last_update_timestamp_seconds`, from 0. Collecting must
    /// have begun ([`install`](super::install)).
    pub fn resolve() -> Self {
        describe_gauge!("cairn_xds_connected", "Whether the control plane is connected");
        describe_gauge!("cairn_xds_last_update_timestamp_seconds", "When the control plane's latest update was in force, as a Unix time");
        describe_counter!("istio_xds_connection_terminations_total", "Streams from the control plane that ended, and connects that failed");
        Self { connected: gauge!("cairn_xds_connected"), updated: gauge!("cairn_xds_last_update_timestamp_seconds") }
    }

    /// Whether there is a stream now.
    pub fn connected(&self, connected: bool) {
        self.connected.set(if connected { 1.0 } else { 0.0 });
    }

    /// An update is in force.
    pub fn updated(&self, at: SystemTime) {
        self.updated.set(at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64());
    }

    /// Counts an end: `istio_xds_connection_terminations_total{reason}`.
    pub fn terminated(&self, reason: XdsTermination) {
        let reason = match reason {
            XdsTermination::ConnectionError => "ConnectionError",
            XdsTermination::Error => "Error",
            XdsTermination::Reconnect => "Reconnect",
            XdsTermination::Complete => "Complete",
        };
        counter!("istio_xds_connection_terminations_total", "reason" => reason).increment(1);
    }
}

impl XdsTypeMetrics {
    /// `istio_xds_message_total{url}`, `istio_xds_message_bytes_total{url}` and
    /// `cairn_xds_rejected_total{url}` of the type `url`, from 0. Collecting must have begun
    /// ([`install`](super::install)).
    pub fn resolve(url: &'static str) -> Self {
        describe_counter!("istio_xds_message_total", "Messages from the control plane");
        describe_counter!("istio_xds_message_bytes_total", "Bytes of messages from the control plane");
        describe_counter!("cairn_xds_rejected_total", "Resources from the control plane that were rejected");
        Self {
            messages: counter!("istio_xds_message_total", "url" => url),
            bytes: counter!("istio_xds_message_bytes_total", "url" => url),
            rejected: counter!("cairn_xds_rejected_total", "url" => url),
        }
    }

    /// Counts a message, and how many of its resources were rejected.
    pub fn message(&self, bytes: usize, rejected: usize) {
        self.messages.increment(1);
        self.bytes.increment(bytes as u64);
        self.rejected.increment(rejected as u64);
    }
}

impl fmt::Debug for XdsMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("XdsMetrics")
    }
}

impl fmt::Debug for XdsTypeMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("XdsTypeMetrics")
    }
}
