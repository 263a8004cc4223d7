//! What is counted (contract, 6.1).

use super::Protocol;
use crate::model::Workload;
use std::{fmt, time::Duration};

/// Counts for a proxy: `istio_dns_requests_total` and the series of what is asked upstream.
pub trait Metrics: fmt::Debug + Send + Sync {
    /// A question came.
    fn request(&self, labels: Labels<'_>);

    /// A question went on to the nameservers, and ended after `took`: `failed` without an answer.
    fn upstream(&self, labels: Labels<'_>, took: Duration, failed: bool);
}

/// The labels of a question.
#[derive(Debug, Clone, Copy)]
pub struct Labels<'a> {
    /// `request_query_type`: the mnemonic in lower case; `unknown` for all that are rare.
    pub query_type: &'static str,
    /// `request_protocol`
    pub protocol: Protocol,
    /// Who asks, if known.
    pub source: Option<&'a Workload>,
}
