//! Metrics under Istio's names.
//!
//! Looking a metric up by its labels costs far more than counting, so whoever counts holds handles:
//! [`RequestMetrics`] and [`TcpMetrics`] for one combination of labels, [`Counters`] for what has
//! only a few. Rare events have plain functions.

mod labels;
mod process;
#[cfg(test)]
mod tests;

pub use labels::{Reporter, RequestLabels, RequestMetrics, SecurityPolicy, TcpLabels, TcpMetrics, WorkloadLabels};
pub use process::{Counters, HandshakeFailure, OpenTunnel, cert_reload, config_rejected, config_version, counters, handshake_failure};

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use std::{fmt, sync::OnceLock, time::Duration};

/// Envoy's own boundaries, so that dashboards and quantiles stay comparable.
const DURATION_BUCKETS: [f64; 20] = [
    0.5, 1., 5., 10., 25., 50., 100., 250., 500., 1000., 2500., 5000., 10_000., 30_000., 60_000., 300_000., 600_000., 1_800_000.,
    3_600_000., 7_200_000.,
];
const BYTES_BUCKETS: [f64; 10] = [100., 500., 1_000., 5_000., 10_000., 50_000., 100_000., 500_000., 1_000_000., 10_000_000.];

/// How often samples are moved from the histograms' queues into their buckets, so that the queues
/// stay small when nobody scrapes.
const UPKEEP: Duration = Duration::from_secs(5);

/// Reads the process's metrics.
#[derive(Clone)]
pub struct MetricsHandle(PrometheusHandle);

impl MetricsHandle {
    /// All metrics in Prometheus's text format.
    pub fn render(&self) -> String {
        self.0.render()
    }
}

impl fmt::Debug for MetricsHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MetricsHandle")
    }
}

/// Starts collecting. Metrics are the process's, so later calls return the same handle; handles
/// that were resolved before the first call count into nothing.
pub fn install() -> MetricsHandle {
    static INSTALLED: OnceLock<MetricsHandle> = OnceLock::new();
    INSTALLED
        .get_or_init(|| {
            let recorder = recorder().expect("the buckets are not empty");
            let handle = recorder.handle();
            if metrics::set_global_recorder(recorder).is_err() {
                tracing::warn!("another metrics recorder is installed in this process");
            }
            process::describe();
            let upkeep = handle.clone();
            let spawned = std::thread::Builder::new().name("metrics-upkeep".into()).spawn(move || {
                loop {
                    std::thread::sleep(UPKEEP);
                    upkeep.run_upkeep();
                }
            });
            if let Err(error) = spawned {
                tracing::warn!(%error, "no thread for the upkeep of histograms");
            }
            MetricsHandle(handle)
        })
        .clone()
}

fn recorder() -> Result<PrometheusRecorder, BuildError> {
    let builder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Full(labels::REQUEST_DURATION.into()), &DURATION_BUCKETS)?
        .set_buckets_for_metric(Matcher::Full(labels::REQUEST_BYTES.into()), &BYTES_BUCKETS)?
        .set_buckets_for_metric(Matcher::Full(labels::RESPONSE_BYTES.into()), &BYTES_BUCKETS)?;
    Ok(builder.build_recorder())
}
