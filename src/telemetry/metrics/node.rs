//! What only a ztunnel counts, under the names of Istio's (contract, 6.1).

use super::{PodCounters, Reporter, WorkloadLabels, labels};
use metrics::{Counter, Gauge, Histogram, Label, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use std::{fmt, sync::OnceLock, time::Duration};

pub(super) const DNS_DURATION: &str = "istio_dns_upstream_request_duration_seconds";

/// The handles of a ztunnel that have only a few labels.
pub struct NodeCounters {
    /// Pods.
    pub pods: PodCounters,
    source_sockets: Gauge,
    destination_sockets: Gauge,
}

impl NodeCounters {
    pub(super) fn resolve() -> Self {
        describe();
        let sockets = |reporter: Reporter| gauge!("istio_tcp_sockets_open", "reporter" => reporter.as_str());
        Self {
            pods: PodCounters::resolve(),
            source_sockets: sockets(Reporter::Source),
            destination_sockets: sockets(Reporter::Destination),
        }
    }

    /// Counts an accepted socket until the returned value is dropped (`istio_tcp_sockets_open`):
    /// captured and SOCKS5 ones for the source, 15008 and 15006 for the destination. A waypoint has
    /// none.
    pub fn socket(&self, reporter: Reporter) -> OpenSocket {
        let gauge = match reporter {
            Reporter::Source => &self.source_sockets,
            Reporter::Destination | Reporter::Waypoint => &self.destination_sockets,
        };
        gauge.increment(1);
        OpenSocket(gauge.clone())
    }
}

impl fmt::Debug for NodeCounters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeCounters")
    }
}

/// A socket counts as open as long as this lives.
pub struct OpenSocket(Gauge);

impl Drop for OpenSocket {
    fn drop(&mut self) {
        self.0.decrement(1);
    }
}

impl fmt::Debug for OpenSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OpenSocket")
    }
}

/// A ztunnel's counters; the first call starts the collection if nobody has. A process that is no
/// ztunnel never calls it, and shows none of them.
pub fn node_counters() -> &'static NodeCounters {
    static COUNTERS: OnceLock<NodeCounters> = OnceLock::new();
    COUNTERS.get_or_init(|| {
        super::install();
        NodeCounters::resolve()
    })
}

/// How a DNS query came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DnsProtocol {
    /// In a datagram.
    Udp,
    /// Over a connection.
    Tcp,
}

/// The labels of one series of DNS queries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DnsLabels<'a> {
    /// The type that was asked for (`A`), in any case of letters. Clients choose it: give types that
    /// nobody has heard of one name, or each becomes a series.
    pub query_type: &'a str,
    /// How it came.
    pub protocol: DnsProtocol,
    /// The client's canonical service; empty when unknown.
    pub canonical_service: &'a str,
    /// The client's canonical revision; empty when unknown.
    pub canonical_revision: &'a str,
}

/// The handles of one series of DNS queries: `istio_dns_requests_total`,
/// `istio_dns_upstream_requests_total`, `istio_dns_upstream_failures_total` and
/// `istio_dns_upstream_request_duration_seconds`.
#[derive(Clone)]
pub struct DnsMetrics {
    requests: Counter,
    upstream_requests: Counter,
    upstream_failures: Counter,
    upstream_duration: Histogram,
}

impl DnsMetrics {
    /// Looks the series up. Costs microseconds: keep the result.
    pub fn resolve(labels: &DnsLabels<'_>) -> Self {
        let labels = labels.list();
        Self {
            requests: counter!("istio_dns_requests_total", labels.clone()),
            upstream_requests: counter!("istio_dns_upstream_requests_total", labels.clone()),
            upstream_failures: counter!("istio_dns_upstream_failures_total", labels.clone()),
            upstream_duration: histogram!(DNS_DURATION, labels),
        }
    }

    /// Counts a query.
    pub fn request(&self) {
        self.requests.increment(1);
    }

    /// Counts a query that was asked on, once the answer is there or has failed to come.
    pub fn upstream(&self, duration: Duration, failed: bool) {
        self.upstream_requests.increment(1);
        self.upstream_duration.record(duration.as_secs_f64());
        if failed {
            self.upstream_failures.increment(1);
        }
    }
}

impl fmt::Debug for DnsMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DnsMetrics")
    }
}

impl DnsLabels<'_> {
    fn list(&self) -> Vec<Label> {
        let protocol = match self.protocol {
            DnsProtocol::Udp => "udp",
            DnsProtocol::Tcp => "tcp",
        };
        let mut out = vec![
            Label::new("request_query_type", self.query_type.to_ascii_lowercase()),
            Label::from_static_parts("request_protocol", protocol),
        ];
        labels::text(&mut out, "source_canonical_service", self.canonical_service);
        labels::text(&mut out, "source_canonical_revision", self.canonical_revision);
        out
    }
}

/// Counts a workload without an address whose host name was resolved for a connection:
/// `istio_on_demand_dns_total`.
pub fn on_demand_dns(source: &WorkloadLabels<'_>, hostname: &str) {
    let mut out = Vec::with_capacity(9);
    labels::source(&mut out, source, labels::UNKNOWN);
    labels::text(&mut out, "hostname", hostname);
    counter!("istio_on_demand_dns_total", out).increment(1);
}

fn describe() {
    describe_gauge!("istio_tcp_sockets_open", "Accepted sockets open now");
    describe_counter!("istio_on_demand_dns_total", "Host names of workloads resolved for connections");
    describe_counter!("istio_dns_requests_total", "DNS queries");
    describe_counter!("istio_dns_upstream_requests_total", "DNS queries asked on");
    describe_counter!("istio_dns_upstream_failures_total", "DNS queries asked on that got no answer");
    describe_histogram!(DNS_DURATION, "Time until the answer to DNS queries asked on");
}
