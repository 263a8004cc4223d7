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
mod record;

pub use access::{AccessLog, AccessLogFormat, AccessLogMode, UnknownOption};
pub use flag::ResponseFlag;
pub use metrics::{
    Counters, HandshakeFailure, MetricsHandle, OpenTunnel, PodCounters, Reporter, RequestLabels, RequestMetrics, SecurityPolicy, TcpLabels,
    TcpMetrics, WorkloadLabels, cert_reload, config_rejected, config_version, counters, handshake_failure, install,
};
pub use record::{Direction, HttpRecord, Record, TcpEvent, TcpParty, TcpRecord};
