//! Series of connections, found once for all connections that are alike.

use super::{TcpLabels, labels::flagged};
use crate::telemetry::ResponseFlag;
use metrics::{Counter, Label, counter};
use std::{
    collections::{HashMap, hash_map::RandomState},
    fmt,
    hash::BuildHasher as _,
    sync::{Arc, Mutex, PoisonError},
};

/// Sets of series that are kept; part of the labels is what peers say of themselves.
const MAX_KEPT: usize = 4096;

/// One set of series: `istio_tcp_connections_opened_total`, `istio_tcp_connections_closed_total`,
/// `istio_tcp_sent_bytes_total` and `istio_tcp_received_bytes_total`.
struct Series {
    labels: Vec<Label>,
    opened: Counter,
    closed: Counter,
    sent: Counter,
    received: Counter,
}

impl Series {
    fn resolve(labels: Vec<Label>) -> Self {
        Self {
            opened: counter!("istio_tcp_connections_opened_total", labels.clone()),
            closed: counter!("istio_tcp_connections_closed_total", labels.clone()),
            sent: counter!("istio_tcp_sent_bytes_total", labels.clone()),
            received: counter!("istio_tcp_received_bytes_total", labels.clone()),
            labels,
        }
    }
}

/// The handles of a connection: while it lasts, and at its end also
/// `istio_tcp_connections_failed_total`, with a flag.
#[derive(Clone)]
pub struct TcpMetrics(Arc<Series>);

impl TcpMetrics {
    fn opened(series: Arc<Series>) -> Self {
        series.opened.increment(1);
        // Present from the start: a failure rate over a missing series is no rate.
        series.closed.increment(0);
        Self(series)
    }

    /// Counts bytes from the server to the client.
    pub fn sent(&self, bytes: u64) {
        self.0.sent.increment(bytes);
    }

    /// Counts bytes from the client to the server.
    pub fn received(&self, bytes: u64) {
        self.0.received.increment(bytes);
    }

    /// Counts the connection as closed, and as failed when there is a flag.
    pub fn close(self, flag: ResponseFlag) {
        if flag == ResponseFlag::None {
            return self.0.closed.increment(1);
        }
        let labels = flagged(self.0.labels.clone(), flag);
        if flag.is_failure() {
            counter!("istio_tcp_connections_failed_total", labels.clone()).increment(1);
        }
        counter!("istio_tcp_connections_closed_total", labels).increment(1);
    }
}

impl fmt::Debug for TcpMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TcpMetrics")
    }
}

/// Remembers series, so that a connection like others costs one look instead of one for each metric.
#[derive(Default)]
pub struct TcpSeries {
    known: Mutex<HashMap<u64, Vec<Arc<Series>>>>,
    hasher: RandomState,
}

impl TcpSeries {
    /// Looks the series up and counts the connection as opened.
    pub fn open(&self, labels: &TcpLabels<'_>) -> TcpMetrics {
        let labels = labels.list();
        let hash = self.hasher.hash_one(&labels);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(series) = known.get(&hash).and_then(|alike| alike.iter().find(|series| series.labels == labels)) {
            return TcpMetrics::opened(series.clone());
        }
        if known.len() >= MAX_KEPT {
            known.clear();
        }
        let series = Arc::new(Series::resolve(labels));
        known.entry(hash).or_default().push(series.clone());
        TcpMetrics::opened(series)
    }
}

impl fmt::Debug for TcpSeries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TcpSeries")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::{MetricsFormat, MetricsHandle, Reporter, SecurityPolicy, WorkloadLabels};

    #[test]
    fn remembered_series_count_as_new_ones_would() {
        let labels = |workload: &'static str| TcpLabels {
            reporter: Reporter::Source,
            source: WorkloadLabels { workload, ..WorkloadLabels::default() },
            destination: WorkloadLabels::default(),
            service: "",
            service_name: "",
            service_namespace: "",
            security: SecurityPolicy::None,
        };
        let (series, text) = MetricsHandle::apart(|| {
            let series = TcpSeries::default();
            for (workload, flag) in [("a", ResponseFlag::None), ("a", ResponseFlag::Connect), ("b", ResponseFlag::None)] {
                let metrics = series.open(&labels(workload));
                metrics.sent(2);
                metrics.received(3);
                metrics.close(flag);
            }
            series
        });
        assert_eq!(series.known.lock().unwrap().len(), 2);
        let text = text.render(MetricsFormat::Prometheus);
        let value = |metric: &str, workload: &str, flag: &str| {
            let (source, flag) = (format!("source_workload=\"{workload}\""), format!("response_flags=\"{flag}\""));
            let mut lines = text.lines().filter(|line| line.starts_with(metric) && line.contains(&source) && line.contains(&flag));
            lines.next().and_then(|line| line.rsplit(' ').next()).unwrap_or("none").to_owned()
        };
        let rows = [
            ("istio_tcp_connections_opened_total", "a", "-", "2"),
            ("istio_tcp_connections_closed_total", "a", "-", "1"),
            ("istio_tcp_connections_closed_total", "a", "CONNECT", "1"),
            ("istio_tcp_connections_failed_total", "a", "CONNECT", "1"),
            ("istio_tcp_connections_failed_total", "a", "-", "none"),
            ("istio_tcp_sent_bytes_total", "a", "-", "4"),
            ("istio_tcp_received_bytes_total", "b", "-", "3"),
        ];
        for (metric, workload, flag, want) in rows {
            assert_eq!(value(metric, workload, flag), want, "{metric} of {workload} with {flag}");
        }
    }
}
