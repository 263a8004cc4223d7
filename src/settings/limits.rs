//! Limits and time-outs as flags. The defaults are those of the rooms, which a test compares.

use super::values::duration;
use crate::{hbone, route::normalize::PathNormalization, waypoint};
use clap::Args;
use std::{net::IpAddr, time::Duration};

/// Limits of tunnels, in both modes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Tunnels")]
pub struct HboneArgs {
    /// For the TLS and HTTP/2 handshakes of a tunnel
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub handshake_timeout: Duration,
    /// For the answer to a CONNECT
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub connect_answer_timeout: Duration,
    /// A new tunnel without a CONNECT for this long is closed
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub first_connect_timeout: Duration,
    /// A tunnel without streams for this long is closed
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = duration, env = "POOL_UNUSED_RELEASE_TIMEOUT")]
    pub tunnel_idle_timeout: Duration,
    /// A tunnel to a peer takes new streams for about this long, so that peers that came later get
    /// their share (0s: for ever)
    #[arg(long, value_name = "TIME", default_value = "30m", value_parser = duration, env = "CAIRN_MAX_TUNNEL_AGE")]
    pub max_tunnel_age: Duration,
    /// Time over which a server's tunnels are closed when its certificate is replaced
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = duration, env = "CAIRN_ROTATION_SPREAD")]
    pub rotation_spread: Duration,
    /// Time between a pong and the next ping
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub ping_interval: Duration,
    /// A ping unanswered for this long ends the tunnel
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = duration)]
    pub ping_timeout: Duration,
    /// Streams a peer may have open on one tunnel
    #[arg(long, value_name = "N", default_value_t = 1024)]
    pub max_concurrent_streams: u32,
    /// Largest header list of a CONNECT, bytes
    #[arg(long, value_name = "BYTES", default_value_t = 65536)]
    pub max_header_list_size: u32,
    /// Streams that a peer may open and reset before they are looked at; more closes the tunnel
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub max_pending_resets: usize,
    /// Streams that are put on one tunnel to a peer
    #[arg(long, value_name = "N", default_value_t = 100, env = "POOL_MAX_STREAMS_PER_CONNECTION")]
    pub max_streams_per_tunnel: usize,
    /// With so many streams on all tunnels to a peer, another one is opened
    #[arg(long, value_name = "N", default_value_t = 16)]
    pub spread_threshold: usize,
    /// Tunnels to a peer that are opened to spread load
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub spread_tunnels: usize,
    /// Tunnels to a peer at most; beyond it streams share what there is
    #[arg(long, value_name = "N", default_value_t = 256, env = "CAIRN_MAX_TUNNELS_PER_PEER")]
    pub max_tunnels_per_peer: usize,
    /// The address that tunnels are opened from; by default the routing table decides
    #[arg(long, value_name = "ADDR")]
    pub tunnel_source_address: Option<IpAddr>,
    /// Flow-control window of a stream, bytes
    #[arg(long, value_name = "BYTES", default_value_t = 4 << 20, env = "HTTP2_STREAM_WINDOW_SIZE")]
    pub stream_window: u32,
    /// Flow-control window of a tunnel, bytes
    #[arg(long, value_name = "BYTES", default_value_t = 16 << 20, env = "HTTP2_CONNECTION_WINDOW_SIZE")]
    pub connection_window: u32,
    /// Largest HTTP/2 frame, bytes
    #[arg(long, value_name = "BYTES", default_value_t = 1 << 20, env = "HTTP2_FRAME_SIZE",
          value_parser = clap::value_parser!(u32).range(16_384..=16_777_215))]
    pub max_frame_size: u32,
}

impl HboneArgs {
    /// The room's own form.
    pub fn config(&self) -> hbone::Config {
        hbone::Config {
            stream_window: self.stream_window,
            connection_window: self.connection_window,
            max_frame_size: self.max_frame_size,
            max_concurrent_streams: self.max_concurrent_streams,
            max_header_list_size: self.max_header_list_size,
            max_pending_resets: self.max_pending_resets,
            ping_interval: self.ping_interval,
            ping_timeout: self.ping_timeout,
            handshake_timeout: self.handshake_timeout,
            connect_timeout: self.connect_answer_timeout,
            first_connect_timeout: self.first_connect_timeout,
            idle_timeout: self.tunnel_idle_timeout,
            max_tunnel_age: self.max_tunnel_age,
            rotation_spread: self.rotation_spread,
            max_tunnels: self.max_tunnels_per_peer,
            max_streams_per_tunnel: self.max_streams_per_tunnel,
            spread_threshold: self.spread_threshold,
            spread_tunnels: self.spread_tunnels,
            source_address: self.tunnel_source_address,
            ..hbone::Config::default()
        }
    }
}

/// Limits of a waypoint.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Requests")]
pub struct WaypointArgs {
    /// How paths are normalised before policy and routing see them: NONE, BASE, MERGE_SLASHES or
    /// DECODE_AND_MERGE_SLASHES
    #[arg(long, value_name = "HOW", default_value = "BASE")]
    pub path_normalization: PathNormalization,
    /// Requests in flight; above it they are refused with 503
    #[arg(long, value_name = "N", default_value_t = 65_536)]
    pub max_requests: usize,
    /// Tunnels open at a time; above it new connections wait
    #[arg(long, value_name = "N", default_value_t = 16_384)]
    pub max_tunnels: usize,
    /// Bytes of a request body kept for a retry; a longer one is not tried again
    #[arg(long, value_name = "BYTES", default_value_t = 65_536)]
    pub replay_limit: usize,
    /// Largest request head, bytes
    #[arg(long, value_name = "BYTES", default_value_t = 65_536)]
    pub max_request_head: usize,
    /// A request head must be complete so long after its first byte
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub request_head_timeout: Duration,
    /// A request body may be idle for this long while there is no answer (0s: for ever)
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = duration)]
    pub request_body_idle_timeout: Duration,
    /// On ports that declare no protocol, a client that says nothing for this long gets opaque TCP
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration)]
    pub protocol_detection_timeout: Duration,
    /// Limit for a TCP connect to a workload that does not speak HBONE
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub connect_timeout: Duration,
    /// A kept connection to a workload is closed when unused for this long
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = duration)]
    pub upstream_idle_timeout: Duration,
    /// With one direction of a TCP connection ended, the other may be idle for this long
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = duration)]
    pub half_open_idle_timeout: Duration,
}

impl WaypointArgs {
    /// The room's own form.
    pub fn config(&self, hbone: &HboneArgs) -> waypoint::Config {
        waypoint::Config {
            hbone: hbone.config(),
            paths: self.path_normalization,
            max_requests: self.max_requests,
            max_tunnels: self.max_tunnels,
            replay_limit: self.replay_limit,
            max_request_head: self.max_request_head,
            request_head_timeout: self.request_head_timeout,
            request_body_idle: self.request_body_idle_timeout,
            sniff_timeout: self.protocol_detection_timeout,
            connect_timeout: self.connect_timeout,
            upstream_idle: self.upstream_idle_timeout,
            half_open_idle: self.half_open_idle_timeout,
        }
    }
}
