//! Response flags: one short word for how a request or a connection ended.

use std::fmt;

/// How a request (waypoint) or a connection (ztunnel) ended, in the short forms that Envoy's and
/// ztunnel's users already query for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum ResponseFlag {
    /// Nothing remarkable.
    #[default]
    None,
    /// No route matches.
    NoRoute,
    /// A route leads to a backend that does not exist.
    NoCluster,
    /// The backend has no healthy endpoint.
    NoHealthyUpstream,
    /// Connecting to the upstream failed.
    UpstreamConnect,
    /// The upstream closed the connection before its answer was complete.
    UpstreamTerminated,
    /// The upstream reset the stream.
    UpstreamReset,
    /// A time limit of the route ran out.
    UpstreamTimeout,
    /// The last allowed try failed too.
    RetriesExhausted,
    /// The client went away.
    DownstreamDisconnected,
    /// The client let its request body idle for too long.
    DownstreamTimeout,
    /// A bug of ours.
    Internal,
    /// Shed because a limit was reached.
    Overload,
    /// The request is malformed.
    InvalidRequest,
    /// An authorization policy refused.
    Denied,
    /// A CONNECT was refused or could not be made.
    Connect,
    /// The TLS handshake failed.
    TlsFailure,
    /// HTTP/2 could not be set up over the TLS connection.
    H2HandshakeFailure,
    /// Something between the nodes, most likely a NetworkPolicy, blocks the HBONE port.
    NetworkPolicy,
    /// No certificate could be had for the workload's own identity.
    IdentityError,
    /// The peer's certificate is revoked.
    CertRevoked,
}

impl ResponseFlag {
    /// The short form in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "-",
            Self::NoRoute => "NR",
            Self::NoCluster => "NC",
            Self::NoHealthyUpstream => "UH",
            Self::UpstreamConnect => "UF",
            Self::UpstreamTerminated => "UC",
            Self::UpstreamReset => "UR",
            Self::UpstreamTimeout => "UT",
            Self::RetriesExhausted => "URX",
            Self::DownstreamDisconnected => "DC",
            Self::DownstreamTimeout => "SI",
            Self::Internal => "INTERNAL",
            Self::Overload => "UO",
            Self::InvalidRequest => "IH",
            // Envoy has no flag for RBAC; ztunnel's word serves both modes.
            Self::Denied => "DENY",
            Self::Connect => "CONNECT",
            Self::TlsFailure => "TLS_FAILURE",
            Self::H2HandshakeFailure => "H2_HANDSHAKE_FAILURE",
            Self::NetworkPolicy => "NETWORK_POLICY",
            Self::IdentityError => "IDENTITY_ERROR",
            Self::CertRevoked => "CERT_REVOKED",
        }
    }

    /// Whether something went wrong.
    pub fn is_failure(self) -> bool {
        self != Self::None
    }
}

impl fmt::Display for ResponseFlag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
