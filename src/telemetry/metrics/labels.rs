//! The series of requests and connections: Istio's label sets and the handles behind them.

use crate::{model::Workload, telemetry::ResponseFlag};
use metrics::{Counter, Histogram, Label, counter, histogram};
use std::{fmt, time::Duration};

pub(super) const REQUEST_DURATION: &str = "istio_request_duration_milliseconds";
const REQUEST_BYTES: &str = "istio_request_bytes";
const RESPONSE_BYTES: &str = "istio_response_bytes";

const RESPONSE_FLAGS: &str = "response_flags";

/// What Istio's queries expect where nothing is known.
pub(super) const UNKNOWN: &str = "unknown";

/// The revision of what has none, for Envoy.
const LATEST: &str = "latest";

/// Who reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reporter {
    /// A waypoint.
    Waypoint,
    /// The client's ztunnel.
    Source,
    /// The server's ztunnel.
    Destination,
}

impl Reporter {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Waypoint => "waypoint",
            Self::Source => "source",
            Self::Destination => "destination",
        }
    }
}

/// How the connection was protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SecurityPolicy {
    /// Mutual TLS with a workload's certificate.
    MutualTls,
    /// Plain text.
    None,
}

/// One end of a request or connection. Empty texts are printed as `unknown`, an empty canonical
/// revision by a waypoint as `latest`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the fields are the labels' own names")]
pub struct WorkloadLabels<'a> {
    pub workload: &'a str,
    pub canonical_service: &'a str,
    pub canonical_revision: &'a str,
    pub namespace: &'a str,
    /// `spiffe://…`
    pub principal: &'a str,
    pub app: &'a str,
    pub version: &'a str,
    pub cluster: &'a str,
    pub region: &'a str,
    pub zone: &'a str,
}

impl<'a> WorkloadLabels<'a> {
    /// What the mesh knows about a workload. `principal` is its identity; clear it where Istio
    /// reports only what mutual TLS proved.
    pub fn of(workload: &'a Workload) -> Self {
        Self {
            workload: &workload.workload_name,
            canonical_service: &workload.canonical_name,
            canonical_revision: &workload.canonical_revision,
            namespace: &workload.namespace,
            principal: workload.identity.as_str(),
            app: &workload.canonical_name,
            version: &workload.canonical_revision,
            cluster: &workload.cluster,
            region: &workload.locality.region,
            zone: &workload.locality.zone,
        }
    }
}

/// The labels of one series of requests.
#[derive(Debug, Clone, Copy)]
pub struct RequestLabels<'a> {
    /// Who reports.
    pub reporter: Reporter,
    /// The client.
    pub source: WorkloadLabels<'a>,
    /// The endpoint that was chosen.
    pub destination: WorkloadLabels<'a>,
    /// The service's host name.
    pub service: &'a str,
    /// The service's short name.
    pub service_name: &'a str,
    /// The service's namespace.
    pub service_namespace: &'a str,
    /// gRPC (by content type), else HTTP.
    pub is_grpc: bool,
    /// The status the client got; 0 when there was none.
    pub response_code: u16,
    /// gRPC's status; left out unless it is gRPC.
    pub grpc_status: Option<u16>,
    /// How it ended.
    pub flag: ResponseFlag,
    /// How it came.
    pub security: SecurityPolicy,
}

/// The handles of one series of requests:
/// `istio_requests_total`, `istio_request_duration_milliseconds`, `istio_request_bytes`,
/// `istio_response_bytes`.
#[derive(Clone)]
pub struct RequestMetrics {
    requests: Counter,
    duration: Histogram,
    request_bytes: Histogram,
    response_bytes: Histogram,
}

impl RequestMetrics {
    /// Looks the series up. Costs microseconds: keep the result.
    pub fn resolve(labels: &RequestLabels<'_>) -> Self {
        let labels = labels.list();
        Self {
            requests: counter!("istio_requests_total", labels.clone()),
            duration: histogram!(REQUEST_DURATION, labels.clone()),
            request_bytes: histogram!(REQUEST_BYTES, labels.clone()),
            response_bytes: histogram!(RESPONSE_BYTES, labels),
        }
    }

    /// Counts one finished request.
    pub fn record(&self, duration: Duration, request_bytes: u64, response_bytes: u64) {
        self.requests.increment(1);
        self.duration.record(duration.as_secs_f64() * 1000.);
        self.request_bytes.record(request_bytes as f64);
        self.response_bytes.record(response_bytes as f64);
    }
}

impl fmt::Debug for RequestMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RequestMetrics")
    }
}

impl RequestLabels<'_> {
    fn list(&self) -> Vec<Label> {
        let mut out = Vec::with_capacity(25);
        out.push(Label::from_static_parts("reporter", self.reporter.as_str()));
        source(&mut out, &self.source, LATEST);
        let d = &self.destination;
        text(&mut out, "destination_workload", d.workload);
        text(&mut out, "destination_workload_namespace", d.namespace);
        text(&mut out, "destination_principal", d.principal);
        text(&mut out, "destination_app", d.app);
        text(&mut out, "destination_version", d.version);
        text(&mut out, "destination_service", self.service);
        text(&mut out, "destination_canonical_service", d.canonical_service);
        text(&mut out, "destination_canonical_revision", or(d.canonical_revision, LATEST));
        text(&mut out, "destination_service_name", self.service_name);
        text(&mut out, "destination_service_namespace", self.service_namespace);
        text(&mut out, "destination_cluster", d.cluster);
        out.push(Label::from_static_parts("request_protocol", if self.is_grpc { "grpc" } else { "http" }));
        out.push(Label::new("response_code", self.response_code.to_string()));
        if self.is_grpc {
            out.push(Label::new("grpc_response_status", self.grpc_status.map(|s| s.to_string()).unwrap_or_default()));
        }
        out.push(Label::from_static_parts(RESPONSE_FLAGS, self.flag.as_str()));
        let security = match self.security {
            SecurityPolicy::MutualTls => "mutual_tls",
            SecurityPolicy::None => "none",
        };
        out.push(Label::from_static_parts("connection_security_policy", security));
        out
    }
}

/// The labels of one series of connections.
#[derive(Debug, Clone, Copy)]
pub struct TcpLabels<'a> {
    /// Who reports.
    pub reporter: Reporter,
    /// The client.
    pub source: WorkloadLabels<'a>,
    /// The server.
    pub destination: WorkloadLabels<'a>,
    /// The service's host name.
    pub service: &'a str,
    /// The service's short name.
    pub service_name: &'a str,
    /// The service's namespace.
    pub service_namespace: &'a str,
    /// How the connection is protected.
    pub security: SecurityPolicy,
}

impl TcpLabels<'_> {
    /// The labels as they are while the connection is open.
    pub(super) fn list(&self) -> Vec<Label> {
        let mut out = Vec::with_capacity(28);
        out.push(Label::from_static_parts("reporter", self.reporter.as_str()));
        // Envoy says `latest` where ztunnel says `unknown`.
        let revision = match self.reporter {
            Reporter::Waypoint => LATEST,
            Reporter::Source | Reporter::Destination => UNKNOWN,
        };
        source(&mut out, &self.source, revision);
        let d = &self.destination;
        text(&mut out, "destination_service", self.service);
        text(&mut out, "destination_service_namespace", self.service_namespace);
        text(&mut out, "destination_service_name", self.service_name);
        text(&mut out, "destination_workload", d.workload);
        text(&mut out, "destination_canonical_service", d.canonical_service);
        text(&mut out, "destination_canonical_revision", or(d.canonical_revision, revision));
        text(&mut out, "destination_workload_namespace", d.namespace);
        text(&mut out, "destination_principal", d.principal);
        text(&mut out, "destination_app", d.app);
        text(&mut out, "destination_version", d.version);
        text(&mut out, "destination_cluster", d.cluster);
        out.push(Label::from_static_parts("request_protocol", "tcp"));
        out.push(Label::from_static_parts(RESPONSE_FLAGS, ResponseFlag::None.as_str()));
        // ztunnel says `unknown` where Envoy says `none`.
        let security = match self.security {
            SecurityPolicy::MutualTls => "mutual_tls",
            SecurityPolicy::None => UNKNOWN,
        };
        out.push(Label::from_static_parts("connection_security_policy", security));
        text(&mut out, "source_region", self.source.region);
        text(&mut out, "source_zone", self.source.zone);
        text(&mut out, "destination_region", d.region);
        text(&mut out, "destination_zone", d.zone);
        out
    }
}

/// The labels of the end: only the flag differs.
pub(super) fn flagged(mut labels: Vec<Label>, flag: ResponseFlag) -> Vec<Label> {
    for label in labels.iter_mut().filter(|label| label.key() == RESPONSE_FLAGS) {
        *label = Label::from_static_parts(RESPONSE_FLAGS, flag.as_str());
    }
    labels
}

/// `revision` stands where none is known.
pub(super) fn source(out: &mut Vec<Label>, source: &WorkloadLabels<'_>, revision: &str) {
    text(out, "source_workload", source.workload);
    text(out, "source_canonical_service", source.canonical_service);
    text(out, "source_canonical_revision", or(source.canonical_revision, revision));
    text(out, "source_workload_namespace", source.namespace);
    text(out, "source_principal", source.principal);
    text(out, "source_app", source.app);
    text(out, "source_version", source.version);
    text(out, "source_cluster", source.cluster);
}

pub(super) fn text(out: &mut Vec<Label>, name: &'static str, value: &str) {
    out.push(if value.is_empty() { Label::from_static_parts(name, UNKNOWN) } else { Label::new(name, value.to_owned()) });
}

fn or<'a>(revision: &'a str, missing: &'a str) -> &'a str {
    if revision.is_empty() { missing } else { revision }
}
