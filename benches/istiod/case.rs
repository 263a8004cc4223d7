//! The traffic that goes on meanwhile.

/// A kind of traffic, as the client of the waypoint's bench wants it.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Connections inside tunnels.
    pub connections: usize,
    pub tunnels: usize,
    /// Requests a second over all connections.
    pub rate: usize,
    pub http2: bool,
    pub upload: usize,
    pub path: &'static str,
    pub stream_per_request: bool,
}

/// The only kind.
pub const STEADY: &str = "steady";

pub fn load_of(name: &str) -> Option<Load> {
    let steady = Load { connections: 16, tunnels: 4, rate: 1000, http2: false, upload: 0, path: "/1k", stream_per_request: false };
    (name == STEADY).then_some(steady)
}
