//! What the process counts about itself: few labels, each from a closed set.

use super::labels::Reporter;
use crate::model::Kind;
use metrics::{Counter, Gauge, counter, describe_counter, describe_gauge, gauge};
use std::{fmt, sync::OnceLock};

/// The handles that the data path counts into.
pub struct Counters {
    /// `cairn_authorization_total{result="allowed"}`
    pub authorization_allowed: Counter,
    /// `cairn_authorization_total{result="denied"}`
    pub authorization_denied: Counter,
    /// `cairn_authorization_total{result="dry_run_denied"}`: let pass, but an enforced policy would
    /// have refused.
    pub authorization_dry_run_denied: Counter,
    /// `cairn_upstream_connects_total{result="ok"}`
    pub upstream_connects: Counter,
    /// `cairn_upstream_connects_total{result="failed"}`
    pub upstream_connects_failed: Counter,
    /// `cairn_retries_total`
    pub retries: Counter,
    /// `cairn_retries_refused_total`: the budget was spent.
    pub retries_refused: Counter,
    /// `cairn_shed_total`: refused because a limit was reached.
    pub shed: Counter,
    /// `cairn_access_log_dropped_total`: lines that the log could not take in time.
    pub access_log_dropped: Counter,
    tunnels: Gauge,
}

impl Counters {
    pub(super) fn resolve() -> Self {
        Self {
            authorization_allowed: counter!("cairn_authorization_total", "result" => "allowed"),
            authorization_denied: counter!("cairn_authorization_total", "result" => "denied"),
            authorization_dry_run_denied: counter!("cairn_authorization_total", "result" => "dry_run_denied"),
            upstream_connects: counter!("cairn_upstream_connects_total", "result" => "ok"),
            upstream_connects_failed: counter!("cairn_upstream_connects_total", "result" => "failed"),
            retries: counter!("cairn_retries_total"),
            retries_refused: counter!("cairn_retries_refused_total"),
            shed: counter!("cairn_shed_total"),
            access_log_dropped: counter!("cairn_access_log_dropped_total"),
            tunnels: gauge!("cairn_tunnels_open"),
        }
    }

    /// Counts an open tunnel until the returned value is dropped (`cairn_tunnels_open`).
    pub fn tunnel(&self) -> OpenTunnel {
        self.tunnels.increment(1);
        OpenTunnel(self.tunnels.clone())
    }
}

impl fmt::Debug for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Counters")
    }
}

/// A tunnel counts as open as long as this lives.
pub struct OpenTunnel(Gauge);

impl Drop for OpenTunnel {
    fn drop(&mut self) {
        self.0.decrement(1);
    }
}

impl fmt::Debug for OpenTunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OpenTunnel")
    }
}

/// The process's counters; the first call starts the collection if nobody has.
pub fn counters() -> &'static Counters {
    static COUNTERS: OnceLock<Counters> = OnceLock::new();
    COUNTERS.get_or_init(|| {
        super::install();
        Counters::resolve()
    })
}

/// How many pods of a node are served. Resolved by whoever serves pods, so that no other process
/// exposes them.
#[derive(Clone)]
pub struct PodCounters {
    /// `workload_manager_active_proxy_count`
    pub active: Gauge,
    /// `workload_manager_pending_proxy_count`: could not be started, and are tried again.
    pub pending: Gauge,
    /// `workload_manager_proxies_started_total`
    pub started: Counter,
    /// `workload_manager_proxies_stopped_total`
    pub stopped: Counter,
}

impl PodCounters {
    /// The series, from 0. Collecting must have begun ([`install`](super::install)).
    pub fn resolve() -> Self {
        describe_gauge!("workload_manager_active_proxy_count", "Pods that are served");
        describe_gauge!("workload_manager_pending_proxy_count", "Pods that could not be served and are tried again");
        describe_counter!("workload_manager_proxies_started_total", "Proxies of pods started");
        describe_counter!("workload_manager_proxies_stopped_total", "Proxies of pods stopped");
        Self {
            active: gauge!("workload_manager_active_proxy_count"),
            pending: gauge!("workload_manager_pending_proxy_count"),
            started: counter!("workload_manager_proxies_started_total"),
            stopped: counter!("workload_manager_proxies_stopped_total"),
        }
    }
}

impl fmt::Debug for PodCounters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PodCounters")
    }
}

/// Why a handshake with a peer failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HandshakeFailure {
    /// The peer presented no certificate, or one that does not verify.
    Certificate,
    /// A certificate of the peer is revoked.
    Revoked,
    /// The certificate verifies but names another identity.
    Identity,
    /// TLS broke off for another reason.
    Tls,
    /// HTTP/2 could not be set up.
    Http2,
    /// It took too long.
    Timeout,
}

/// Counts a failed handshake: `cairn_handshake_failures_total{reason}`.
pub fn handshake_failure(reason: HandshakeFailure) {
    let reason = match reason {
        HandshakeFailure::Certificate => "certificate",
        HandshakeFailure::Revoked => "revoked",
        HandshakeFailure::Identity => "identity",
        HandshakeFailure::Tls => "tls",
        HandshakeFailure::Http2 => "http2",
        HandshakeFailure::Timeout => "timeout",
    };
    counter!("cairn_handshake_failures_total", "reason" => reason).increment(1);
}

/// Counts a resource whose new version was rejected: `cairn_config_rejected_total{kind}`.
pub fn config_rejected(kind: Option<Kind>) {
    counter!("cairn_config_rejected_total", "kind" => kind.map_or("unreadable", Kind::as_str)).increment(1);
}

/// Tells which version of the configuration is served: `cairn_config_version`.
pub fn config_version(version: u64) {
    gauge!("cairn_config_version").set(version as f64);
}

/// Counts an attempt to load a new certificate: `cairn_cert_reloads_total{result}`.
pub fn cert_reload(ok: bool) {
    counter!("cairn_cert_reloads_total", "result" => if ok { "ok" } else { "failed" }).increment(1);
}

/// Counts a connection that a certificate revocation list forbids, when it opens or later:
/// `istio_crl_policy_rejections_total{reporter}`.
pub fn crl_rejection(reporter: Reporter) {
    counter!("istio_crl_policy_rejections_total", "reporter" => reporter.as_str()).increment(1);
}

/// Counts a connection whose peer has presented a certificate that cannot be read, so that no list can
/// revoke it: `istio_crl_untracked_connections_total{reporter}`.
pub fn crl_untracked(reporter: Reporter) {
    counter!("istio_crl_untracked_connections_total", "reporter" => reporter.as_str()).increment(1);
}

/// Counts an attempt to load new certificate revocation lists: `cairn_crl_reloads_total{result}`.
pub fn crl_reload(ok: bool) {
    counter!("cairn_crl_reloads_total", "result" => if ok { "ok" } else { "failed" }).increment(1);
}

/// Tells which version runs as what: `istio_build{component,tag}`.
pub fn component(name: &'static str) {
    gauge!("istio_build", "component" => name, "tag" => env!("CARGO_PKG_VERSION")).set(1);
}

/// Help texts.
pub(super) fn describe() {
    describe_counter!("istio_requests_total", "Requests by source, destination, status and flag");
    describe_counter!("istio_tcp_connections_opened_total", "Connections opened");
    describe_counter!("istio_tcp_connections_closed_total", "Connections closed");
    describe_counter!("istio_tcp_connections_failed_total", "Connections closed with a flag");
    describe_counter!("istio_tcp_sent_bytes_total", "Bytes from server to client");
    describe_counter!("istio_tcp_received_bytes_total", "Bytes from client to server");
    describe_counter!("cairn_authorization_total", "Verdicts of authorization policies");
    describe_counter!("cairn_config_rejected_total", "Resources whose new version was rejected");
    describe_gauge!("cairn_config_version", "Version of the configuration that is served");
    describe_gauge!("cairn_tunnels_open", "Tunnels open now");
    describe_counter!("cairn_upstream_connects_total", "Connections made, or tried, to upstreams");
    describe_counter!("cairn_retries_total", "Tries after the first");
    describe_counter!("cairn_retries_refused_total", "Retries that the budget did not allow");
    describe_counter!("cairn_shed_total", "Requests refused because a limit was reached");
    describe_counter!("cairn_handshake_failures_total", "Handshakes with peers that failed");
    describe_counter!("cairn_cert_reloads_total", "Attempts to load a new certificate");
    describe_counter!("istio_crl_policy_rejections_total", "Connections that a certificate revocation list forbids");
    describe_counter!("istio_crl_untracked_connections_total", "Connections with a certificate that no revocation list can find");
    describe_counter!("cairn_crl_reloads_total", "Attempts to load new certificate revocation lists");
    describe_counter!("cairn_access_log_dropped_total", "Access log lines dropped because the output was too slow");
    describe_gauge!("istio_build", "Version of the program");
    describe_gauge!("process_open_fds", "Descriptors open now");
    describe_gauge!("process_max_fds", "Descriptors that may be open");
    describe_gauge!("tokio_num_workers", "Threads that carry traffic");
    describe_gauge!("tokio_global_queue_depth", "Tasks that wait for any of those threads");
    describe_gauge!("tokio_num_alive_tasks", "Tasks that live on those threads");
    describe_counter!("tokio_worker_total_busy_duration_seconds_total", "Time that a thread was busy");
    describe_counter!("tokio_worker_park_count_total", "Times that a thread went to sleep");
    describe_counter!("tokio_worker_park_unpark_count_total", "Times that a thread went to sleep and woke up");
}
