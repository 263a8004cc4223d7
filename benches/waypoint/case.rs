//! The cases, and what is aimed at in each.

use super::{
    mesh::Mesh,
    report::{
        Bound::{AtLeastOf, AtMost, RatioAtLeast, RatioAtMost},
        Metric, Target,
    },
};

/// One thing that is measured.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    pub name: &'static str,
    pub kind: Kind,
    pub mesh: Mesh,
    /// Rounds that are enough; fewer when fewer are asked for.
    pub rounds: usize,
    /// Whether Envoy can be measured as well: its configuration is one file for the one service.
    pub envoy: bool,
}

#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// Requests, for a time.
    Traffic(Load),
    /// Streams that are opened and held.
    Idle { streams: usize, tunnels: usize },
    /// From exec to ready.
    Start,
    /// From a changed file to the first answer by it.
    Reload,
    /// Many streams, one after the other, and what is left of them.
    Leak,
    /// All kinds of traffic, one after the other, on one process.
    AllTraffic,
}

/// A kind of traffic.
#[derive(Debug, Clone, Copy)]
pub struct Load {
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
}

const BASE: Load = Load { connections: 32, tunnels: 4, rate: 0, http2: false, upload: 0, path: "/1k", stream_per_request: false };

const fn traffic(name: &'static str, load: Load) -> Case {
    Case { name, kind: Kind::Traffic(load), mesh: Mesh::One, rounds: usize::MAX, envoy: true }
}

const fn other(name: &'static str, kind: Kind, mesh: Mesh, rounds: usize, envoy: bool) -> Case {
    Case { name, kind, mesh, rounds, envoy }
}

/// Every stream of `stream-per-request` is one CONNECT: what `leak` counts.
pub const LEAKY: &str = "stream-per-request";

pub const CASES: &[Case] = &[
    traffic("h1-4-tunnels", BASE),
    traffic("h1-1-tunnel", Load { tunnels: 1, ..BASE }),
    traffic("h1-1000-per-s", Load { connections: 16, rate: 1000, ..BASE }),
    traffic("h1-4000-per-s", Load { connections: 64, rate: 4000, ..BASE }),
    traffic("h2-inside", Load { http2: true, ..BASE }),
    traffic("64k-up", Load { upload: 64 << 10, ..BASE }),
    traffic("1m-down", Load { connections: 8, path: "/1m", ..BASE }),
    traffic(LEAKY, Load { stream_per_request: true, ..BASE }),
    Case { mesh: Mesh::Thousand, envoy: false, ..traffic("1k-services", BASE) },
    other("idle-10k-streams", Kind::Idle { streams: 10_000, tunnels: 100 }, Mesh::One, 3, true),
    other("all-traffic", Kind::AllTraffic, Mesh::One, 3, true),
    other("leak", Kind::Leak, Mesh::One, 1, true),
    other("start-one-service", Kind::Start, Mesh::One, usize::MAX, true),
    other("start-bookinfo", Kind::Start, Mesh::Bookinfo, usize::MAX, false),
    other("start-10k-services", Kind::Start, Mesh::Large { files: 1 }, 5, false),
    other("reload-10k-services", Kind::Reload, Mesh::Large { files: 1 }, 3, false),
    other("reload-10k-services-100-files", Kind::Reload, Mesh::Large { files: 100 }, 3, false),
];

const fn aim(case: &'static str, metric: Metric, bound: super::report::Bound) -> Target {
    Target { case, metric, bound }
}

pub const TARGETS: &[Target] = &[
    aim("h1-4-tunnels", Metric::CpuPerRequest, RatioAtMost(0.45)),
    aim("h1-4-tunnels", Metric::P99, RatioAtMost(0.9)),
    aim("h1-4-tunnels", Metric::PerSecond, RatioAtLeast(1.6)),
    aim("h1-1-tunnel", Metric::CpuPerRequest, RatioAtMost(0.5)),
    aim("h1-1-tunnel", Metric::P99, RatioAtMost(0.8)),
    aim("h1-1-tunnel", Metric::PerSecond, AtLeastOf("h1-4-tunnels", 0.9)),
    aim("h1-1000-per-s", Metric::CpuPerRequest, RatioAtMost(0.4)),
    aim("h1-1000-per-s", Metric::P99, RatioAtMost(0.85)),
    aim("h1-4000-per-s", Metric::CpuPerRequest, RatioAtMost(0.4)),
    aim("h1-4000-per-s", Metric::P99, RatioAtMost(0.85)),
    aim("h2-inside", Metric::CpuPerRequest, RatioAtMost(0.45)),
    aim("h2-inside", Metric::P99, RatioAtMost(0.9)),
    aim("64k-up", Metric::CpuPerRequest, RatioAtMost(0.5)),
    aim("64k-up", Metric::P99, RatioAtMost(0.5)),
    aim("1m-down", Metric::CpuPerRequest, RatioAtMost(0.6)),
    // All answers are of one size: bytes are to each other as requests are.
    aim("1m-down", Metric::PerSecond, RatioAtLeast(1.2)),
    aim(LEAKY, Metric::CpuPerRequest, RatioAtMost(0.5)),
    aim("idle-10k-streams", Metric::KibPerStream, AtMost(12.0)),
    // 20 MB.
    aim("all-traffic", Metric::Rss, AtMost(19.1)),
    aim("start-one-service", Metric::StartMillis, AtMost(50.0)),
    aim("start-bookinfo", Metric::StartMillis, AtMost(50.0)),
    aim("start-10k-services", Metric::StartMillis, AtMost(1000.0)),
    aim("reload-10k-services", Metric::ReloadMillis, AtMost(20.0)),
    aim("reload-10k-services-100-files", Metric::ReloadMillis, AtMost(20.0)),
];

/// The traffic of a case, by its name.
pub fn load_of(name: &str) -> Option<Load> {
    CASES.iter().find(|case| case.name == name).and_then(|case| match case.kind {
        Kind::Traffic(load) => Some(load),
        Kind::Idle { .. } | Kind::Start | Kind::Reload | Kind::Leak | Kind::AllTraffic => None,
    })
}

/// What `all-traffic` goes through: everything that needs no other mesh.
pub fn all_traffic() -> impl Iterator<Item = &'static str> {
    CASES.iter().filter(|case| matches!(case.kind, Kind::Traffic(_)) && case.mesh == Mesh::One).map(|case| case.name)
}
