//! What is known of a connection or a request.

use crate::model::Identity;
use http::HeaderMap;
use std::net::{IpAddr, SocketAddr};

/// A connection as policies see it.
#[derive(Debug, Clone, Copy)]
pub struct Attributes<'a> {
    /// The peer's verified identity; none on plain text.
    pub identity: Option<&'a Identity>,
    /// The address of the peer of the tunnel, which is the client's pod.
    pub source_ip: IpAddr,
    /// Where the connection goes: the service's address and port at a waypoint, the pod's at a
    /// ztunnel.
    pub destination: SocketAddr,
    /// The server name that the client's TLS asks for, empty when there is none. `None`: it cannot be
    /// told, and rules that ask for it refuse.
    pub sni: Option<&'a str>,
    /// The request, on the HTTP layer.
    pub http: Option<HttpAttributes<'a>>,
}

/// A request as policies see it.
#[derive(Debug, Clone, Copy)]
pub struct HttpAttributes<'a> {
    /// The Host header or `:authority`, with its port if it has one.
    pub host: &'a str,
    /// The method.
    pub method: &'a str,
    /// The normalised path. A query is ignored.
    pub path: &'a str,
    /// The headers.
    pub headers: &'a HeaderMap,
    /// The client's address, see [`remote_ip`].
    pub remote_ip: IpAddr,
}

impl<'a> HttpAttributes<'a> {
    /// The path without a query.
    pub(super) fn path_only(&self) -> &'a str {
        self.path.split_once('?').map_or(self.path, |(path, _)| path)
    }
}

/// The address of the client for `remoteIpBlocks`: the last entry of `x-forwarded-for`, which the
/// trusted peer wrote, if it is an address; else the peer's. Entries before it are the client's own
/// words.
pub fn remote_ip(headers: &HeaderMap, peer: IpAddr) -> IpAddr {
    let last = headers.get_all("x-forwarded-for").iter().next_back();
    let entry = last.and_then(|line| line.to_str().ok()).and_then(|line| line.rsplit(',').next());
    entry.and_then(|entry| entry.trim().parse().ok()).unwrap_or(peer).to_canonical()
}
