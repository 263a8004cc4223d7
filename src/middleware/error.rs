//! What can go wrong with a request, and three exhaustive maps of it: status, gRPC code, flag.

use super::body::BodyError;
use crate::{authz::PolicyRule, hbone::TunnelError, telemetry::ResponseFlag};
use http::StatusCode;
use std::{error::Error as StdError, fmt::Write as _, sync::Arc};

/// Why a request got no answer from a workload.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request breaks HTTP's rules, or uses what cannot be forwarded.
    #[error("bad request: {0}")]
    BadRequest(&'static str),
    /// Policy forbids it. `None`: ALLOW policies exist, but none matched.
    #[error("denied by policy")]
    Denied(Option<Arc<PolicyRule>>),
    /// More requests than the limit are in flight.
    #[error("too many requests in flight")]
    Overloaded,
    /// What the client addressed is not served here any more.
    #[error("destination is not served here any more")]
    NotServed,
    /// The destination has routes, and none matches.
    #[error("no route matches")]
    NoRoute,
    /// The rule leads to no valid backend.
    #[error("no valid backend")]
    NoBackend,
    /// The backend has no endpoint ready.
    #[error("no ready endpoint")]
    NoEndpoint,
    /// No connection to the endpoint.
    #[error("upstream connect error")]
    Connect(#[source] ConnectFailure),
    /// The endpoint broke the exchange off.
    #[error("upstream broke the exchange off")]
    Reset(#[source] hyper::Error),
    /// The time limit for the request passed.
    #[error("request timed out")]
    Timeout,
    /// The time limit for one try passed.
    #[error("try timed out")]
    TryTimeout,
    /// The client sent its body too slowly.
    #[error("request body was idle for too long")]
    SlowBody,
    /// The client broke off its own request.
    #[error("client broke the request off")]
    Downstream,
    /// A bug: a layer panicked.
    #[error("internal error")]
    Internal,
}

/// Why there is no connection to an endpoint.
#[derive(Debug, thiserror::Error)]
pub enum ConnectFailure {
    /// The tunnel could not be opened.
    #[error(transparent)]
    Tunnel(TunnelError),
    /// Plain TCP connect failed.
    #[error("connect failed")]
    Tcp(#[source] std::io::Error),
    /// The HTTP handshake inside failed.
    #[error("http handshake failed")]
    Http(#[source] hyper::Error),
    /// A kept connection was found closed before anything was sent.
    #[error("connection closed before the request was sent")]
    Stale(#[source] hyper::Error),
    /// Somebody else was opening the connection that was waited for.
    #[error(transparent)]
    Shared(Arc<ConnectFailure>),
}

/// Whose fault it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The client's.
    Downstream,
    /// The workload's, or the way to it.
    Upstream,
    /// Ours, or the configuration's.
    Internal,
}

impl Error {
    /// The status of the answer.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::BadRequest(_) | Self::Downstream => StatusCode::BAD_REQUEST,
            Self::Denied(_) => StatusCode::FORBIDDEN,
            Self::NotServed | Self::NoRoute => StatusCode::NOT_FOUND,
            Self::NoBackend | Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Overloaded | Self::NoEndpoint | Self::Connect(_) | Self::Reset(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Timeout | Self::TryTimeout => StatusCode::GATEWAY_TIMEOUT,
            Self::SlowBody => StatusCode::REQUEST_TIMEOUT,
        }
    }

    /// The gRPC status (`grpc-status`) when the client speaks gRPC.
    pub fn grpc_code(&self) -> u8 {
        match self {
            Self::BadRequest(_) => 3,
            Self::Denied(_) => 7,
            Self::NoRoute => 12,
            Self::Internal => 13,
            // GEP-1016: an invalid backend is UNAVAILABLE for gRPC.
            Self::NotServed | Self::NoBackend | Self::NoEndpoint | Self::Connect(_) | Self::Reset(_) => 14,
            Self::Overloaded => 8,
            Self::Timeout | Self::TryTimeout | Self::SlowBody => 4,
            Self::Downstream => 1,
        }
    }

    /// The flag in logs and metrics.
    pub fn flag(&self) -> ResponseFlag {
        match self {
            Self::BadRequest(_) => ResponseFlag::InvalidRequest,
            Self::Denied(_) => ResponseFlag::Denied,
            Self::Overloaded => ResponseFlag::Overload,
            Self::NotServed | Self::NoRoute => ResponseFlag::NoRoute,
            Self::NoBackend => ResponseFlag::NoCluster,
            Self::NoEndpoint => ResponseFlag::NoHealthyUpstream,
            Self::Connect(_) => ResponseFlag::UpstreamConnect,
            Self::Reset(_) => ResponseFlag::UpstreamTerminated,
            Self::Timeout | Self::TryTimeout => ResponseFlag::UpstreamTimeout,
            Self::SlowBody => ResponseFlag::DownstreamTimeout,
            Self::Downstream => ResponseFlag::DownstreamDisconnected,
            Self::Internal => ResponseFlag::Internal,
        }
    }

    /// Whose fault it is.
    pub fn side(&self) -> Side {
        match self {
            Self::BadRequest(_) | Self::Denied(_) | Self::SlowBody | Self::Downstream => Side::Downstream,
            Self::NoEndpoint | Self::Connect(_) | Self::Reset(_) | Self::Timeout | Self::TryTimeout => Side::Upstream,
            Self::Overloaded | Self::NotServed | Self::NoRoute | Self::NoBackend | Self::Internal => Side::Internal,
        }
    }

    /// What the client is told: never why policy decided, nor what lies behind.
    pub fn public_message(&self) -> &'static str {
        match self {
            Self::Denied(_) => "RBAC: access denied",
            Self::BadRequest(_) | Self::Downstream => "bad request",
            Self::NotServed | Self::NoRoute => "no route matches",
            Self::NoBackend => "no valid backend",
            Self::NoEndpoint => "no healthy upstream",
            Self::Connect(_) => "upstream connect error",
            Self::Reset(_) => "upstream reset before response headers",
            Self::Timeout | Self::TryTimeout => "upstream request timeout",
            Self::Overloaded => "overloaded",
            Self::SlowBody => "request timeout",
            Self::Internal => "internal error",
        }
    }

    /// The whole chain of causes, for the log.
    pub fn detail(&self) -> String {
        let mut text = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            let _ = write!(text, ": {error}");
            cause = error.source();
        }
        text
    }
}

/// An error of the HTTP client that may come from the request body it was reading.
pub fn from_client(error: hyper::Error) -> Error {
    let mut cause = error.source();
    while let Some(inner) = cause {
        match inner.downcast_ref::<BodyError>() {
            Some(BodyError::Idle) => return Error::SlowBody,
            Some(BodyError::Downstream(_)) => return Error::Downstream,
            Some(BodyError::Deadline | BodyError::Upstream(_) | BodyError::Unwanted) | None => cause = inner.source(),
        }
    }
    Error::Reset(error)
}
