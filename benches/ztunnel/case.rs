//! The cases, and what is aimed at in each.

use super::{
    load::{Load, What},
    report::{
        Bound::{self, AtLeast, AtMost, RatioAtLeast, RatioAtMost},
        Metric, Target,
    },
};

/// One thing that is measured.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    pub name: &'static str,
    pub kind: Kind,
    /// Rounds that are enough; fewer when fewer are asked for.
    pub rounds: usize,
}

#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// Operations or bytes, for a time.
    Traffic(Load, Path),
    /// Connections that are opened and held.
    Idle(usize),
    /// Nothing at all.
    Started,
    /// A waypoint that gets more instances.
    Replicas,
}

/// What stands between client and server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// Both in the mesh, on two nodes, by the address of a service: a proxy on each, and a tunnel.
    Hbone,
    /// Only the server is in the mesh: its proxy passes plain bytes in (15006).
    PlainIn,
    /// Only the client is in the mesh: its proxy passes plain bytes out (15001).
    PlainOut,
}

const fn traffic(name: &'static str, what: What, connections: usize, rate: usize, path: Path) -> Case {
    Case { name, kind: Kind::Traffic(Load { what, connections, rate }, path), rounds: usize::MAX }
}

pub const CASES: &[Case] = &[
    traffic("requests", What::Requests, 32, 0, Path::Hbone),
    traffic("requests-1-connection", What::Requests, 1, 0, Path::Hbone),
    traffic("requests-plain-in", What::Requests, 32, 0, Path::PlainIn),
    traffic("requests-plain-out", What::Requests, 32, 0, Path::PlainOut),
    traffic("requests-1000-per-s", What::Requests, 16, 1000, Path::Hbone),
    traffic("connections", What::Connects, 32, 0, Path::Hbone),
    traffic("connections-plain-in", What::Connects, 32, 0, Path::PlainIn),
    traffic("connections-plain-out", What::Connects, 32, 0, Path::PlainOut),
    traffic("connections-300-per-s", What::Connects, 16, 300, Path::Hbone),
    traffic("round-trips-1000-per-s", What::RoundTrips, 8, 1000, Path::Hbone),
    traffic("round-trips-1-connection", What::RoundTrips, 1, 0, Path::Hbone),
    traffic("round-trips-plain-in", What::RoundTrips, 8, 1000, Path::PlainIn),
    traffic("bulk-up-1", What::Up, 1, 0, Path::Hbone),
    traffic("bulk-up-8", What::Up, 8, 0, Path::Hbone),
    traffic("bulk-down-1", What::Down, 1, 0, Path::Hbone),
    traffic("bulk-down-8", What::Down, 8, 0, Path::Hbone),
    traffic("bulk-up-8-plain-in", What::Up, 8, 0, Path::PlainIn),
    traffic("bulk-down-8-plain-in", What::Down, 8, 0, Path::PlainIn),
    Case { name: "started", kind: Kind::Started, rounds: 3 },
    Case { name: "idle-1k", kind: Kind::Idle(1000), rounds: 3 },
    Case { name: "idle-10k", kind: Kind::Idle(10_000), rounds: 3 },
    Case { name: "replicas", kind: Kind::Replicas, rounds: 1 },
];

const fn aim(case: &'static str, metric: Metric, bound: Bound) -> Target {
    Target { case, metric, bound }
}

/// 15 MB.
const SMALL: Bound = AtMost(14.3);

pub const TARGETS: &[Target] = &[
    aim("requests", Metric::Cpu, RatioAtMost(0.75)),
    aim("requests-plain-in", Metric::Cpu, RatioAtMost(0.75)),
    aim("requests-plain-out", Metric::Cpu, RatioAtMost(0.75)),
    aim("requests-1000-per-s", Metric::Cpu, RatioAtMost(0.75)),
    aim("connections", Metric::PerSecond, RatioAtLeast(1.2)),
    aim("connections-plain-in", Metric::PerSecond, RatioAtLeast(1.2)),
    aim("bulk-up-1", Metric::Gbit, RatioAtLeast(1.2)),
    aim("bulk-up-8", Metric::Gbit, RatioAtLeast(1.2)),
    aim("bulk-down-1", Metric::Gbit, RatioAtLeast(1.2)),
    aim("bulk-down-8", Metric::Gbit, RatioAtLeast(1.2)),
    aim("started", Metric::RssWithoutPods, SMALL),
    aim("started", Metric::RssWithPods, SMALL),
    aim("idle-1k", Metric::Kib, RatioAtMost(0.5)),
    aim("idle-10k", Metric::Kib, RatioAtMost(0.5)),
    // No instance gets less than two thirds of an equal part.
    aim("replicas", Metric::LeastShare, AtLeast(0.67)),
    aim("replicas", Metric::AllReached, AtMost(5.0)),
];
