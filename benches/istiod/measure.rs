//! What is measured.

use super::{
    Options, app, case,
    load::{self, Amount, Done},
    mesh::{Large, small},
    plane::Plane,
    proxy::{Mode, Proxy},
    report::{Figures, Metric},
    site::Site,
};
use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};
use tokio::time::Instant;

/// What was used at the start has been given back by then.
const SETTLE: Duration = Duration::from_secs(1);
/// Before something happens, requests go on for so long.
const BEFORE: Duration = Duration::from_millis(300);
const MIB: f64 = (1 << 20) as f64;

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// A proxy that has just loaded all of the mesh, and what that took; `empty` is what one without a mesh
/// has resident.
pub fn start(mode: Mode, site: &Site, plane: &Plane, large: Large, empty: f64) -> (Proxy, Figures) {
    let proxy = Proxy::start(mode, site, plane);
    std::thread::sleep(SETTLE);
    let rss = proxy.process.rss();
    let figures = Figures::from([
        (Metric::StartMillis, millis(proxy.started)),
        (Metric::CpuMillis, millis(proxy.process.cpu())),
        (Metric::Rss, rss),
        (Metric::PerWorkload, (rss - empty) * MIB / large.workloads as f64),
        (Metric::PeakRss, proxy.process.peak_rss()),
    ]);
    (proxy, figures)
}

/// Resident memory with nothing but the small mesh, MiB.
pub fn empty(mode: Mode, site: &Site) -> f64 {
    let plane = Plane::start(site, "small");
    plane.apply(small(site));
    let proxy = Proxy::start(mode, site, &plane);
    std::thread::sleep(SETTLE);
    proxy.process.rss()
}

/// Changes of one workload each, one after the other.
pub fn changes(proxy: &Proxy, plane: &Plane, large: Large, count: usize, version: usize) -> Figures {
    let cpu = |work: &mut dyn FnMut()| {
        let (start, before) = (Instant::now(), proxy.process.cpu());
        work();
        (proxy.process.cpu() - before, start.elapsed())
    };
    let (idle, second) = cpu(&mut || std::thread::sleep(Duration::from_secs(1)));
    let mut took = Vec::with_capacity(count);
    let (busy, time) = cpu(&mut || {
        for n in 0..count {
            took.push(plane.push(vec![large.workload(spread(n, large), version)]));
        }
    });
    took.sort_unstable();
    let own = busy.as_secs_f64() - idle.as_secs_f64() * time.as_secs_f64() / second.as_secs_f64();
    let at = |share: f64| millis(took[((took.len() - 1) as f64 * share) as usize]);
    Figures::from([
        (Metric::CpuPerChange, own * 1e6 / count as f64),
        (Metric::AckMillis, at(0.5)),
        (Metric::AckP99Millis, at(0.99)),
        (Metric::Rss, proxy.process.rss()),
    ])
}

/// One of the workloads, far from the last one.
fn spread(n: usize, large: Large) -> usize {
    n * 7919 % large.workloads
}

/// What goes on while requests are measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meanwhile {
    Nothing,
    /// So many changes of single workloads a second.
    Flood(u32),
    /// The control plane is connected anew, and tells all of the mesh again.
    ToldAgain,
    /// Every service changes, in one response.
    AllServices,
    /// Every workload changes, in one response.
    AllWorkloads,
}

impl Meanwhile {
    pub const ALL: [Self; 5] = [Self::Nothing, Self::Flood(200), Self::ToldAgain, Self::AllServices, Self::AllWorkloads];

    pub fn title(self) -> String {
        match self {
            Self::Nothing => "nothing".to_owned(),
            Self::Flood(rate) => format!("{rate} changes of a workload each second"),
            Self::ToldAgain => "connected anew, all told again".to_owned(),
            Self::AllServices => "all services change at once".to_owned(),
            Self::AllWorkloads => "all workloads change at once".to_owned(),
        }
    }

    /// Has it happen, until the requests are over if it goes on; the time that the proxy took.
    fn happen(self, plane: &Plane, large: Large, version: usize, over: &AtomicBool) -> Duration {
        match self {
            Self::Nothing => Duration::ZERO,
            Self::Flood(rate) => {
                let (start, interval) = (Instant::now(), Duration::from_secs(1) / rate);
                for (n, due) in (0..).map(|n| (n, start + interval * n)) {
                    if over.load(Ordering::Acquire) {
                        break;
                    }
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                    plane.apply(vec![large.workload(spread(n as usize, large), version)]);
                }
                Duration::ZERO
            }
            Self::ToldAgain => plane.tell_again(),
            Self::AllServices => plane.push((0..large.services()).map(|n| large.service(n, version)).collect()),
            Self::AllWorkloads => plane.push((0..large.workloads).map(|n| large.workload(n, version)).collect()),
        }
    }
}

/// Steady requests, and something else meanwhile: at `plane`, which need not be the one that the proxy
/// follows. `version` is one that nothing has yet.
pub fn requests(site: &Site, mode: Mode, plane: &Plane, large: Large, meanwhile: Meanwhile, version: usize, options: &Options) -> Figures {
    let site = match mode {
        Mode::Waypoint => site.clone(),
        Mode::Dedicated | Mode::Shared => site.towards(app::address(site)),
    };
    let (running, over) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            let amount = Amount::For(Duration::from_secs(options.seconds));
            load::run(&site, case::STEADY, amount, || running.store(true, Ordering::Release), || over.store(true, Ordering::Release))
        });
        while !running.load(Ordering::Acquire) {
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::sleep(BEFORE);
        let took = meanwhile.happen(plane, large, version, &over);
        of_requests(&load.join().unwrap(), took)
    })
}

fn of_requests(done: &Done, took: Duration) -> Figures {
    let [p50, _, p99, p999] = done.latency;
    Figures::from([
        (Metric::P50, p50 / 1e3),
        (Metric::P99, p99 / 1e3),
        (Metric::P999, p999 / 1e3),
        (Metric::Slowest, done.slowest / 1e3),
        (Metric::Over5, done.over_5_ms as f64),
        (Metric::Errors, done.errors as f64),
        (Metric::TookMillis, millis(took)),
    ])
}
