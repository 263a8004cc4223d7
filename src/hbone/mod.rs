//! The tunnel protocol: HTTP/2 CONNECT over mutual TLS (HBONE).
//!
//! This room knows the wire and nothing of services, routes or policies. What a tunnel is for is
//! decided by whoever holds the [`Connect`] (server side) or asks the [`Pool`] (client side).

mod client;
mod headers;
mod keepalive;
mod pool;
mod server;
mod stream;
mod target;
#[cfg(test)]
mod tests;

pub use client::{Client, ConnectError};
pub use headers::{Baggage, ConnectHeaders, FORWARDED, forwarded_host, forwarded_network};
pub use pool::{Opened, Pool, PoolKey, TunnelError, Via};
pub use server::{Connect, ServerEnd, serve};
pub use stream::TunnelIo;
pub use target::{ConnectTarget, TargetError};

use crate::transport::Revocation;
use std::{net::IpAddr, sync::Arc, time::Duration};

/// The port on which every HBONE peer listens.
pub const HBONE_PORT: u16 = 15008;

/// HTTP/2 settings and limits of tunnels. The defaults are those of the reference ztunnel, except
/// that a server lets a client open more streams on one tunnel.
#[derive(Debug, Clone)]
pub struct Config {
    /// Flow-control window of a stream, bytes.
    pub stream_window: u32,
    /// Flow-control window of a connection, bytes.
    pub connection_window: u32,
    /// Largest frame accepted, bytes.
    pub max_frame_size: u32,
    /// Bytes that may wait on one stream for the peer's window, server side.
    pub server_send_buffer: usize,
    /// Bytes that may wait on one stream for the peer's window, client side.
    pub client_send_buffer: usize,
    /// Streams a peer may have open on one tunnel to us.
    pub max_concurrent_streams: u32,
    /// Largest header list accepted by a server, bytes (RFC 9113, 6.5.2 counting).
    pub max_header_list_size: u32,
    /// Streams that a peer may have opened and reset before we looked at them; one more closes the
    /// tunnel (CVE-2023-44487).
    pub max_pending_resets: usize,
    /// Time between a pong and the next ping.
    pub ping_interval: Duration,
    /// A ping unanswered for this long ends the tunnel.
    pub ping_timeout: Duration,
    /// Limit for TCP connect, and for the TLS and HTTP/2 handshakes together.
    pub handshake_timeout: Duration,
    /// Limit for the answer to a CONNECT.
    pub connect_timeout: Duration,
    /// A new tunnel on which no CONNECT arrives for this long is closed.
    pub first_connect_timeout: Duration,
    /// A server closes a tunnel without streams for this long with GOAWAY; a client's pool forgets a
    /// tunnel that was given no stream for this long.
    pub idle_timeout: Duration,
    /// A client's tunnel takes new streams for about this long (a fifth more or less, so that tunnels
    /// opened together are not replaced together), then closes with its last one: that is how load
    /// reaches peers that came later. Zero: for ever.
    pub max_tunnel_age: Duration,
    /// When the certificate of a server is replaced, its tunnels are closed spread over this long.
    pub rotation_spread: Duration,
    /// Streams that the pool puts on one tunnel at most (the peer's limit holds besides).
    pub max_streams_per_tunnel: usize,
    /// With this many streams on every tunnel of a key, the pool opens another one…
    pub spread_threshold: usize,
    /// …as long as it has fewer than this.
    pub spread_tunnels: usize,
    /// Tunnels that the pool opens for one key at most. Beyond it streams share what there is, up to
    /// the peer's limit, and then wait for a place as long as an answer may take.
    pub max_tunnels: usize,
    /// The address that tunnels are opened from, by which policies with `ipBlocks` and telemetry
    /// know the client; the routing table decides when absent.
    pub source_address: Option<IpAddr>,
    /// The certificates that are revoked. Tunnels to peers that hold one, or pass one on, are not made,
    /// and closed when that becomes known.
    pub revocation: Option<Arc<Revocation>>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            stream_window: 4 << 20,
            connection_window: 16 << 20,
            max_frame_size: 1 << 20,
            server_send_buffer: 400 << 10,
            client_send_buffer: 4 << 20,
            max_concurrent_streams: 1024,
            max_header_list_size: 64 << 10,
            max_pending_resets: 64,
            ping_interval: Duration::from_secs(10),
            ping_timeout: Duration::from_secs(20),
            handshake_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(10),
            first_connect_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(300),
            max_tunnel_age: Duration::from_secs(30 * 60),
            rotation_spread: Duration::from_secs(60),
            max_streams_per_tunnel: 100,
            spread_threshold: 16,
            spread_tunnels: 4,
            max_tunnels: 256,
            source_address: None,
            revocation: None,
        }
    }
}
