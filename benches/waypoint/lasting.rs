//! What is left in a process when load is over.

use super::{
    Options, case,
    load::{self, Amount},
    proxy::Proxy,
    report::{Figures, Metric},
    site::Site,
};
use std::time::Duration;

/// Closed connections are noticed, and freed memory is given back, within this time or not at all.
const SETTLE: Duration = Duration::from_secs(2);

/// Idle streams: what each costs.
pub fn idle(proxy: &Proxy, site: &Site, streams: usize, tunnels: usize) -> Figures {
    // From cold: whatever the streams make the process take is theirs.
    let before = proxy.process.rss();
    let mut during = before;
    let done = load::run(site, "h1-4-tunnels", Amount::Streams { streams, tunnels }, || {}, || during = proxy.process.rss());
    let kib = (during - before).max(0.0) * 1024.0;
    Figures::from([
        (Metric::KibPerStream, kib / done.streams.max(1) as f64),
        (Metric::PeakRss, proxy.process.peak_rss()),
        (Metric::Errors, done.errors as f64),
    ])
}

/// Streams that come and go: a tenth of them, up to half, up to all.
pub fn leak(proxy: &Proxy, site: &Site, streams: u64) -> Figures {
    let mut errors = 0;
    let mut after = |streams| {
        errors += load::traffic(site, case::LEAKY, Amount::Requests(streams)).errors;
        std::thread::sleep(SETTLE);
        proxy.process.rss()
    };
    let (tenth, half) = (streams / 10, streams / 2);
    let at = [after(tenth), after(half - tenth), after(streams - half)];
    let growth = (at[2] - at[0]) * f64::from(1 << 20) / (streams - tenth).max(1) as f64;
    let mut figures = Figures::from([
        (Metric::Rss10k, at[0]),
        (Metric::Rss50k, at[1]),
        (Metric::Rss, at[2]),
        (Metric::GrowthPerStream, growth),
        (Metric::PeakRss, proxy.process.peak_rss()),
        (Metric::OpenFiles, proxy.process.open_files() as f64),
        (Metric::Errors, errors as f64),
    ]);
    figures.0.extend(proxy.live(site).map(|live| (Metric::StillOpen, live)));
    figures
}

/// All kinds of traffic on one process.
pub fn all_traffic(proxy: &Proxy, site: &Site, options: &Options) -> Figures {
    let duration = Amount::For(Duration::from_secs(options.seconds));
    let errors: u64 = case::all_traffic().map(|name| load::traffic(site, name, duration).errors).sum();
    std::thread::sleep(SETTLE);
    let process = &proxy.process;
    Figures::from([(Metric::Rss, process.rss()), (Metric::PeakRss, process.peak_rss()), (Metric::Errors, errors as f64)])
}
