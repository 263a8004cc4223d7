//! What the control plane has seen, for whoever wants to know what its clients do.

use crate::model::Identity;
use std::{collections::BTreeMap, fmt, time::Duration};

/// Everything so far.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// TLS connections that were made.
    pub connections: usize,
    /// Streams of delta ADS that were accepted.
    pub streams: usize,
    /// Those that are still open.
    pub open_streams: usize,
    /// Calls that were refused because of their token.
    pub refused: usize,
    /// What was said on the streams, oldest first.
    pub requests: Vec<Request>,
    /// Certificates that were asked for, oldest first.
    pub certificates: Vec<CertificateRequest>,
}

/// A message of a client on a stream of delta ADS.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Request {
    /// The stream, counted from 1.
    pub stream: usize,
    /// Headers of the stream.
    pub headers: BTreeMap<String, String>,
    /// Id of the node; empty when the message has none.
    pub node: String,
    /// Its metadata, strings only.
    pub metadata: BTreeMap<String, String>,
    /// The type that it is about.
    pub type_url: String,
    /// Names that are wanted from now on.
    pub subscribe: Vec<String>,
    /// Names that are not wanted any more.
    pub unsubscribe: Vec<String>,
    /// What the client has, with versions.
    pub initial_versions: BTreeMap<String, String>,
    /// The response that it answers; empty when it answers none.
    pub nonce: String,
    /// Why it refuses that response.
    pub error: Option<String>,
}

impl Request {
    /// Takes a response for good.
    pub fn is_ack(&self) -> bool {
        !self.nonce.is_empty() && self.error.is_none()
    }

    /// Refuses a response, in part at least.
    pub fn is_nack(&self) -> bool {
        self.error.is_some()
    }
}

/// A call of `CreateCertificate` with a valid token.
#[derive(Clone, PartialEq)]
pub struct CertificateRequest {
    /// Headers of the call.
    pub headers: BTreeMap<String, String>,
    /// The token.
    pub token: String,
    /// The request for a certificate, PEM.
    pub csr: String,
    /// Who it is for, when that could be found out.
    pub identity: Option<Identity>,
    /// The identity of another that was asked for by name (`ImpersonatedIdentity`).
    pub impersonated: Option<String>,
    /// How long it should live.
    pub validity: Duration,
}

impl fmt::Debug for CertificateRequest {
    /// Without the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("CertificateRequest");
        debug.field("identity", &self.identity).field("impersonated", &self.impersonated).field("validity", &self.validity);
        debug.finish_non_exhaustive()
    }
}

impl Observed {
    /// Messages of one type.
    pub fn of(&self, kind: super::Kind) -> impl DoubleEndedIterator<Item = &Request> {
        self.requests.iter().filter(move |request| request.type_url == kind.url())
    }

    /// How many responses of a type were taken for good.
    pub fn acks(&self, kind: super::Kind) -> usize {
        self.of(kind).filter(|request| request.is_ack()).count()
    }

    /// The reasons why responses were refused, oldest first.
    pub fn nacks(&self) -> Vec<&str> {
        self.requests.iter().filter_map(|request| request.error.as_deref()).collect()
    }
}
