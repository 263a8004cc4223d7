//! What is reported about requests, connections and the process itself: metrics, access log and
//! diagnostic log, in Istio's words.
//!
//! The room knows names, labels and formats. It must not know what a route or a policy decides:
//! whoever decides hands over texts that were made when the configuration was compiled.

mod access;
mod flag;
mod format;
pub mod log;
mod metrics;
pub mod pprof;
mod record;

pub use access::{AccessLog, AccessLogFormat, AccessLogMode, SharedMode, UnknownOption};
pub use flag::ResponseFlag;
pub use metrics::{
    Counters, DnsLabels, DnsMetrics, DnsProtocol, HandshakeFailure, MetricsFormat, MetricsHandle, OpenSocket, OpenTunnel, PodCounters,
    Reporter, RequestLabels, RequestMetrics, SecurityPolicy, SocketCounters, TcpLabels, TcpMetrics, TcpSeries, WorkloadLabels, XdsMetrics,
    XdsTermination, XdsTypeMetrics, cert_reload, component, config_rejected, config_version, counters, crl_rejection, crl_reload,
    crl_untracked, handshake_failure, install, on_demand_dns, report_runtimes,
};
pub use record::{Direction, HttpRecord, Record, TcpEvent, TcpParty, TcpRecord};
