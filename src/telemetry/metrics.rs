//! Metrics under Istio's names.
//!
//! Looking a metric up by its labels costs far more than counting, so whoever counts holds handles:
//! [`RequestMetrics`], [`TcpMetrics`] and [`DnsMetrics`] for one combination of labels, [`Counters`]
//! and the like for what has only a few. Rare events have plain functions.

mod labels;
mod node;
mod process;
mod recorder;
mod system;
mod tcp;
#[cfg(test)]
mod tests;
mod text;
mod xds;

pub use labels::{Reporter, RequestLabels, RequestMetrics, SecurityPolicy, TcpLabels, WorkloadLabels};
pub use node::{DnsLabels, DnsMetrics, DnsProtocol, OpenSocket, SocketCounters, on_demand_dns};
pub use process::{
    Counters, HandshakeFailure, OpenTunnel, PodCounters, cert_reload, component, config_rejected, config_version, counters, crl_rejection,
    crl_reload, crl_untracked, handshake_failure,
};
pub use system::report_runtimes;
pub use tcp::{TcpMetrics, TcpSeries};
pub use text::MetricsFormat;
pub use xds::{XdsMetrics, XdsTermination, XdsTypeMetrics};

use recorder::Recorder;
use std::sync::OnceLock;

/// Envoy's own boundaries, so that dashboards and quantiles stay comparable.
const DURATION_BUCKETS: [f64; 20] = [
    0.5, 1., 5., 10., 25., 50., 100., 250., 500., 1000., 2500., 5000., 10_000., 30_000., 60_000., 300_000., 600_000., 1_800_000.,
    3_600_000., 7_200_000.,
];
const BYTES_BUCKETS: [f64; 10] = [100., 500., 1_000., 5_000., 10_000., 50_000., 100_000., 500_000., 1_000_000., 10_000_000.];

/// ztunnel's boundaries, seconds.
const DNS_BUCKETS: [f64; 6] = [0.0005, 0.001, 0.01, 0.1, 1., 5.];

/// The boundaries of a histogram, by its name.
fn bounds(name: &str) -> &'static [f64] {
    match name {
        labels::REQUEST_DURATION => &DURATION_BUCKETS,
        node::DNS_DURATION => &DNS_BUCKETS,
        _ => &BYTES_BUCKETS,
    }
}

/// Reads the process's metrics.
#[derive(Debug, Clone)]
pub struct MetricsHandle(Recorder);

impl MetricsHandle {
    /// All metrics as text.
    pub fn render(&self, format: MetricsFormat) -> String {
        self.0.render(format, system::sample())
    }

    /// What `resolve` resolves, counted apart from the process.
    #[cfg(test)]
    pub(crate) fn apart<T>(resolve: impl FnOnce() -> T) -> (T, Self) {
        let recorder = Recorder::default();
        (metrics::with_local_recorder(&recorder, resolve), Self(recorder))
    }
}

/// Starts collecting. Metrics are the process's, so later calls return the same handle; handles
/// that were resolved before the first call count into nothing.
pub fn install() -> MetricsHandle {
    static INSTALLED: OnceLock<MetricsHandle> = OnceLock::new();
    INSTALLED
        .get_or_init(|| {
            let recorder = Recorder::default();
            if metrics::set_global_recorder(recorder.clone()).is_err() {
                tracing::warn!("another metrics recorder is installed in this process");
            }
            process::describe();
            node::describe();
            MetricsHandle(recorder)
        })
        .clone()
}
