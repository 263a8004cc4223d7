//! How long a change of a route takes to be served.

use super::{
    case,
    client::{Client, Connection},
    mesh::Mesh,
    proxy::Proxy,
    report::{Figures, Metric},
    site::Site,
    workload,
};
use std::{sync::Arc, time::Duration};
use tokio::{runtime::Runtime, time::Instant};

/// Changes in one round.
const CHANGES: usize = 5;
/// Between two requests.
const PAUSE: Duration = Duration::from_millis(1);
/// Before the first change, and between changes: nothing of the last one goes on.
const SETTLE: Duration = Duration::from_secs(1);
/// The CPU of a change is looked at for so long: what is compiled is to be served, and what was before to be freed.
const AFTERMATH: Duration = Duration::from_millis(250);
const PATIENCE: Duration = Duration::from_secs(120);

struct Prober<'a> {
    runtime: Runtime,
    client: Client,
    connection: Connection,
    proxy: &'a Proxy,
}

/// When the first answer by a route came, and when its request was sent.
struct Seen {
    sent: Instant,
    answered: Instant,
}

impl Prober<'_> {
    /// The version in an answer.
    fn ask(&mut self) -> usize {
        let answer = self.runtime.block_on(self.client.exchange(&mut self.connection));
        answer.expect("no request fails because a route changes").version
    }

    /// Asks again and again until an answer has this version, or time is over.
    fn ask_until(&mut self, version: Option<usize>, patience: Duration) -> Option<Seen> {
        let start = Instant::now();
        while start.elapsed() < patience {
            let sent = Instant::now();
            if Some(self.ask()) == version {
                return Some(Seen { sent, answered: Instant::now() });
            }
            std::thread::sleep(PAUSE);
        }
        None
    }

    /// CPU milliseconds of the proxy for what is done and for a while after it, without any traffic.
    fn quiet_cpu(&self, change: impl FnOnce()) -> f64 {
        std::thread::sleep(SETTLE);
        let cpu = self.proxy.process.cpu();
        change();
        std::thread::sleep(AFTERMATH);
        (self.proxy.process.cpu() - cpu).as_secs_f64() * 1e3
    }
}

pub fn measure(proxy: &Proxy, site: &Site, mesh: Mesh) -> Figures {
    let load = case::load_of("h1-4-tunnels").expect("a kind of traffic");
    let cert = Arc::new(workload::cert(&site.certs("bench", "client")));
    let client = Client::new(cert, site.waypoint, site.service.to_string(), 1, load);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let connection = runtime.block_on(client.open(0)).expect("CONNECT is accepted");
    let mut prober = Prober { runtime, client, connection, proxy };
    // Whoever says nothing for a second on a port that declares no protocol is taken for opaque.
    prober.ask();
    let mut changes: Vec<[f64; 3]> = (1..=CHANGES)
        .map(|version| {
            std::thread::sleep(SETTLE);
            mesh.write_route(site, version);
            let renamed = Instant::now();
            let seen = prober.ask_until(Some(version), PATIENCE).expect("the change is served");
            // The CPU time of another change, apart from that of the questions.
            let idle = prober.quiet_cpu(|| {});
            let cpu = prober.quiet_cpu(|| mesh.write_route(site, CHANGES + version)) - idle;
            let millis = |time: Duration| time.as_secs_f64() * 1e3;
            [millis(seen.answered - renamed), millis(seen.sent.saturating_duration_since(renamed)), cpu.max(0.0)]
        })
        .collect();
    let mut median = |at: usize| {
        changes.sort_by(|a, b| a[at].total_cmp(&b[at]));
        changes[CHANGES / 2][at]
    };
    Figures::from([
        (Metric::ReloadMillis, median(0)),
        (Metric::ReloadSentMillis, median(1)),
        (Metric::CpuMillis, median(2)),
        (Metric::Rss, proxy.process.rss()),
        (Metric::PeakRss, proxy.process.peak_rss()),
    ])
}
