//! What only a ztunnel counts, under the names of Istio's (contract, 6.1).

use super::{Reporter, WorkloadLabels, labels};
use metrics::{Counter, Gauge, Histogram, Label, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use std::{fmt, time::Duration};

pub(super) const DNS_DURATION: &str = "istio_dns_upstream_request_duration_seconds";

/// How many accepted sockets are open: `istio_tcp_sockets_open{reporter}`. Resolved by a ztunnel, so
/// that no other process exposes them.
#[derive(Clone)]
pub struct SocketCounters {
    source: Gauge,
    destination: Gauge,
}

impl SocketCounters {
    /// The series, from 0. Collecting must have begun ([`install`](super::install)).
    pub fn resolve() -> Self {
        describe_gauge!("istio_tcp_sockets_open", "Accepted sockets open now");
        let sockets = |reporter: Reporter| gauge!("istio_tcp_sockets_open", "reporter" => reporter.as_str());
        Self { source: sockets(Reporter::Source), destination: sockets(Reporter::Destination) }
    }

    /// Counts a socket of the workload itself, captured or by SOCKS5, until the value is dropped.
    pub fn source(&self) -> OpenSocket {
        OpenSocket::count(&self.source)
    }

    /// Counts a socket to the workload, by HBONE or in plaintext, until the value is dropped.
    pub fn destination(&self) -> OpenSocket {
        OpenSocket::count(&self.destination)
    }
}

impl fmt::Debug for SocketCounters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SocketCounters")
    }
}

/// A socket counts as open as long as this lives.
pub struct OpenSocket(Gauge);

impl OpenSocket {
    fn count(gauge: &Gauge) -> Self {
        gauge.increment(1);
        Self(gauge.clone())
    }
}

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

/// Help texts.
pub(super) fn describe() {
    describe_counter!("istio_on_demand_dns_total", "Host names of workloads resolved for connections");
    describe_counter!("istio_dns_requests_total", "DNS queries");
    describe_counter!("istio_dns_upstream_requests_total", "DNS queries asked on");
    describe_counter!("istio_dns_upstream_failures_total", "DNS queries asked on that got no answer");
    describe_histogram!(DNS_DURATION, "Time until the answer to DNS queries asked on");
}
