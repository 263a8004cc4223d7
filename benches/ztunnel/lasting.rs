//! Memory, of proxies that have nothing to do.

use super::{
    load::{self, Load, What},
    node::{Mesh, Name, Nodes, Ztunnel},
    report::{Figures, Metric},
    world::{VIP, World},
};
use std::time::Duration;

/// Freed memory is given back within this time or not at all.
const SETTLE: Duration = Duration::from_secs(2);

/// A node's proxy that has just started, without pods and with some.
pub fn started(name: Name, world: &World) -> Figures {
    let settled = |proxy: &Ztunnel| {
        std::thread::sleep(SETTLE);
        proxy.process.rss()
    };
    let without = settled(&Ztunnel::start(name, world, Mesh::Fixed, 1, []));
    let pods = world.others.iter().chain([&world.server]);
    let with = Ztunnel::start(name, world, Mesh::Fixed, 1, pods);
    Figures::from([
        (Metric::RssWithoutPods, without),
        (Metric::RssWithPods, settled(&with)),
        (Metric::OpenFiles, with.process.open_files() as f64),
    ])
}

/// Connections that have had one request each: what each costs on either node.
pub fn idle(name: Name, world: &World, connections: usize) -> Figures {
    let nodes = Nodes::start(name, world, Mesh::Fixed);
    std::thread::sleep(SETTLE);
    let before = nodes.rss();
    let load = Load { what: What::Hold, connections, rate: 0 };
    let mut running = load::start(load, &world.client, VIP.into(), Duration::ZERO);
    running.go();
    let done = running.done();
    std::thread::sleep(SETTLE);
    let during = nodes.rss();
    let kib = [0, 1].map(|side| (during[side] - before[side]).max(0.0) * 1024.0 / done.operations.max(1) as f64);
    let [client_peak, server_peak] = nodes.peak_rss();
    Figures::from([
        (Metric::Kib, kib[0] + kib[1]),
        (Metric::KibClient, kib[0]),
        (Metric::KibServer, kib[1]),
        (Metric::PeakClient, client_peak),
        (Metric::PeakServer, server_peak),
        (Metric::Errors, done.errors as f64),
    ])
}
