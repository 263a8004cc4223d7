//! The cases.

/// One kind of load.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    pub name: &'static str,
    /// Connections inside tunnels (for HTTP/2: requests at a time).
    pub connections: usize,
    pub tunnels: usize,
    /// Requests a second over all connections; 0: as fast as it goes.
    pub rate: usize,
    pub http2: bool,
    /// Bytes of each request's body.
    pub upload: usize,
    pub path: &'static str,
    /// A CONNECT for every request.
    pub stream_per_request: bool,
    /// Open streams and hold them, rather than send requests.
    pub idle_streams: usize,
    /// Services beside the one under load, each with ten routes and ten policies. cairn only.
    pub services: usize,
}

const BASE: Case = Case {
    name: "",
    connections: 32,
    tunnels: 4,
    rate: 0,
    http2: false,
    upload: 0,
    path: "/1k",
    stream_per_request: false,
    idle_streams: 0,
    services: 0,
};

pub const CASES: &[Case] = &[
    Case { name: "h1-4-tunnels", ..BASE },
    Case { name: "h1-1-tunnel", tunnels: 1, ..BASE },
    Case { name: "h1-1000-per-s", connections: 16, rate: 1000, ..BASE },
    Case { name: "h1-4000-per-s", connections: 64, rate: 4000, ..BASE },
    Case { name: "h2-inside", http2: true, ..BASE },
    Case { name: "64k-up", upload: 64 << 10, ..BASE },
    Case { name: "1m-down", connections: 8, path: "/1m", ..BASE },
    Case { name: "stream-per-request", stream_per_request: true, ..BASE },
    Case { name: "idle-10k-streams", idle_streams: 10_000, tunnels: 100, ..BASE },
    Case { name: "1k-services", services: 1000, ..BASE },
];

pub fn by_name(name: &str) -> &'static Case {
    CASES.iter().find(|c| c.name == name).expect("a case of ours")
}
