//! What the access log tells about one request or one connection.
//!
//! Records own cheap clones (`Arc`s and `Bytes`) and carry no formatted text: the request path
//! fills them in, the writer's thread formats them.

use super::ResponseFlag;
use crate::model::{Identity, Name};
use http::{HeaderValue, Method, StatusCode, Version, uri::PathAndQuery};
use std::{
    borrow::Cow,
    net::SocketAddr,
    time::{Duration, SystemTime},
};

/// One line of the access log.
#[derive(Debug, Clone)]
pub enum Record {
    /// A request through a waypoint.
    Http(Box<HttpRecord>),
    /// A connection through a ztunnel, or an opaque one through a waypoint.
    Tcp(Box<TcpRecord>),
}

impl Record {
    /// Whether the mode `Errors` shows it.
    pub fn is_failure(&self) -> bool {
        match self {
            Self::Http(r) => r.is_failure(),
            Self::Tcp(r) => r.is_failure(),
        }
    }
}

/// A finished request. What is unknown stays `None` and is printed as `-` or `null`.
#[derive(Debug, Clone)]
pub struct HttpRecord {
    /// When the request arrived.
    pub start: SystemTime,
    /// Until the last byte of the answer, or until it broke off.
    pub duration: Duration,
    /// The client's end of the tunnel.
    pub downstream: SocketAddr,
    /// The address the client asked for: the service's virtual address.
    pub destination: Option<SocketAddr>,
    /// Who the tunnel's certificate says the client is.
    pub source: Option<Identity>,
    /// The client's workload, when the mesh knows it.
    pub source_workload: Option<Name>,
    /// `:authority` or the Host header.
    pub authority: Option<Name>,
    /// The method.
    pub method: Method,
    /// Path and query as they arrived, before any rewrite.
    pub path: Option<PathAndQuery>,
    /// The client's HTTP version.
    pub protocol: Version,
    /// The status that the client got; `None` when it went away before there was one.
    pub status: Option<StatusCode>,
    /// The status in gRPC's trailers or headers.
    pub grpc_status: Option<u16>,
    /// How it ended.
    pub flag: ResponseFlag,
    /// One phrase in snake_case for the cause, from a closed set; `via_upstream` when `None`.
    pub detail: Option<&'static str>,
    /// The error behind a failure, for the operator's eyes only.
    pub error: Option<Cow<'static, str>>,
    /// Bytes of the request's body.
    pub bytes_received: u64,
    /// Bytes of the response's body.
    pub bytes_sent: u64,
    /// Tries made; 0 when the request was answered here.
    pub attempts: u32,
    /// Host name of the addressed service.
    pub destination_service: Option<Name>,
    /// Host name and port of the chosen backend.
    pub backend: Option<Name>,
    /// The deciding rule, `NAMESPACE/NAME.RULE`.
    pub route: Option<Name>,
    /// The deciding policy and rule, `ns[NAMESPACE]-policy[NAME]-rule[INDEX]`.
    pub policy: Option<Name>,
    /// The endpoint of the last try.
    pub upstream: Option<SocketAddr>,
    /// Who the endpoint is.
    pub upstream_identity: Option<Identity>,
    /// `x-request-id`
    pub request_id: Option<HeaderValue>,
    /// `user-agent`
    pub user_agent: Option<HeaderValue>,
    /// `x-forwarded-for`
    pub forwarded_for: Option<HeaderValue>,
}

impl HttpRecord {
    /// A record of which only the client is known; the rest is filled in as it becomes known.
    pub fn new(start: SystemTime, downstream: SocketAddr) -> Self {
        Self {
            start,
            duration: Duration::ZERO,
            downstream,
            destination: None,
            source: None,
            source_workload: None,
            authority: None,
            method: Method::GET,
            path: None,
            protocol: Version::HTTP_11,
            status: None,
            grpc_status: None,
            flag: ResponseFlag::None,
            detail: None,
            error: None,
            bytes_received: 0,
            bytes_sent: 0,
            attempts: 0,
            destination_service: None,
            backend: None,
            route: None,
            policy: None,
            upstream: None,
            upstream_identity: None,
            request_id: None,
            user_agent: None,
            forwarded_for: None,
        }
    }

    /// A flag is set, or the status is 400 or above, or gRPC reports an error.
    pub fn is_failure(&self) -> bool {
        self.flag.is_failure() || self.status.is_none_or(|s| s.as_u16() >= 400) || self.grpc_status.is_some_and(|s| s != 0)
    }
}

/// A connection, in ztunnel's terms.
#[derive(Debug, Clone)]
pub struct TcpRecord {
    /// What is being told.
    pub event: TcpEvent,
    /// When it is told.
    pub time: SystemTime,
    /// The client.
    pub source: TcpParty,
    /// The server; `addr` is the peer on the wire, port 15008 for a tunnel.
    pub destination: TcpParty,
    /// The authority of the CONNECT, for a tunnel.
    pub hbone_addr: Option<Name>,
    /// Host name of the addressed service.
    pub destination_service: Option<Name>,
    /// Which side of the connection reports.
    pub direction: Direction,
    /// Bytes that the reporter's own pod sent.
    pub bytes_sent: u64,
    /// Bytes that the reporter's own pod received.
    pub bytes_recv: u64,
    /// How long the connection was open.
    pub duration: Duration,
    /// How it ended.
    pub flag: ResponseFlag,
    /// What went wrong.
    pub error: Option<Cow<'static, str>>,
}

impl TcpRecord {
    /// A flag is set, or there is an error.
    pub fn is_failure(&self) -> bool {
        self.flag.is_failure() || self.error.is_some()
    }
}

/// One end of a connection; what is unknown stays `None` and is left out.
#[derive(Debug, Clone)]
pub struct TcpParty {
    /// Its address.
    pub addr: SocketAddr,
    /// The pod, or the canonical service.
    pub workload: Option<Name>,
    /// Its namespace.
    pub namespace: Option<Name>,
    /// Its identity, only when mutual TLS proved it.
    pub identity: Option<Identity>,
    /// Its cluster.
    pub cluster: Option<Name>,
}

impl TcpParty {
    /// An end of which only the address is known.
    pub fn new(addr: SocketAddr) -> Self {
        Self { addr, workload: None, namespace: None, identity: None, cluster: None }
    }
}

/// What a [`TcpRecord`] tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TcpEvent {
    /// The connection is known and goes on: who and where, nothing counted yet.
    Opened,
    /// The connection has ended, well or badly.
    Complete,
    /// It was refused before it was known whose it is: only addresses and the error are printed.
    Refused,
}

/// Which side of a connection reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The server's side.
    Inbound,
    /// The client's side.
    Outbound,
}

impl Direction {
    /// The word in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}
