//! Figures, medians and ratios.

use super::load::Done;
use serde_json::json;
use std::{collections::BTreeMap, fmt, time::Duration};

/// One round of one case.
#[derive(Debug, Clone, Copy)]
pub struct Figures {
    pub per_second: f64,
    pub cpu_us: f64,
    pub mib_per_second: f64,
    /// Microseconds at p50, p90, p99, p99.9.
    pub latency: [f64; 4],
    pub peak_rss_mib: f64,
    pub idle_rss_mib: f64,
    pub errors: u64,
    pub kib_per_stream: f64,
}

impl Figures {
    pub fn of(done: &Done, cpu: Duration, peak: u64, idle: u64) -> Self {
        const MIB: f64 = (1 << 20) as f64;
        Self {
            per_second: done.requests as f64 / done.seconds,
            cpu_us: cpu.as_secs_f64() * 1e6 / done.requests.max(1) as f64,
            mib_per_second: done.bytes as f64 / done.seconds / MIB,
            latency: done.latency,
            peak_rss_mib: peak as f64 / MIB,
            idle_rss_mib: idle as f64 / MIB,
            errors: done.errors,
            kib_per_stream: done.per_stream.unwrap_or_default() / 1024.0,
        }
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.kib_per_stream > 0.0 {
            return write!(f, "{:.1} KiB per idle stream, {:.1} MiB", self.kib_per_stream, self.peak_rss_mib);
        }
        let [p50, p90, p99, p999] = self.latency;
        write!(
            f,
            "{:>8.0}/s {:>7.1} us cpu  p50 {p50:.0} p90 {p90:.0} p99 {p99:.0} p99.9 {p999:.0} us  {:.1} MiB peak  {} errors",
            self.per_second, self.cpu_us, self.peak_rss_mib, self.errors
        )
    }
}

/// All rounds.
#[derive(Debug, Default)]
pub struct Rows {
    order: Vec<&'static str>,
    rows: BTreeMap<(&'static str, &'static str), Vec<Figures>>,
}

impl Rows {
    pub fn add(&mut self, case: &'static str, proxy: &'static str, figures: Figures) {
        if !self.order.contains(&case) {
            self.order.push(case);
        }
        self.rows.entry((case, proxy)).or_default().push(figures);
    }

    fn median(&self, case: &'static str, proxy: &'static str) -> Option<Figures> {
        let rounds = self.rows.get(&(case, proxy))?;
        let of = |pick: &dyn Fn(&Figures) -> f64| {
            let mut values: Vec<f64> = rounds.iter().map(pick).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        Some(Figures {
            per_second: of(&|f| f.per_second),
            cpu_us: of(&|f| f.cpu_us),
            mib_per_second: of(&|f| f.mib_per_second),
            latency: [0, 1, 2, 3].map(|i| of(&|f| f.latency[i])),
            peak_rss_mib: of(&|f| f.peak_rss_mib),
            idle_rss_mib: of(&|f| f.idle_rss_mib),
            errors: rounds.iter().map(|f| f.errors).sum(),
            kib_per_stream: of(&|f| f.kib_per_stream),
        })
    }

    pub fn print(&self) {
        println!("| case | proxy | requests/s | CPU us/request | p50 us | p90 us | p99 us | p99.9 us | peak MiB | errors |");
        println!("|---|---|---|---|---|---|---|---|---|---|");
        for case in &self.order {
            let both = ["cairn", "envoy"].map(|proxy| self.median(case, proxy));
            for (proxy, f) in ["cairn", "envoy"].iter().zip(&both).filter_map(|(p, f)| Some((p, f.as_ref()?))) {
                let [p50, p90, p99, p999] = f.latency;
                println!(
                    "| {case} | {proxy} | {:.0} | {:.1} | {p50:.0} | {p90:.0} | {p99:.0} | {p999:.0} | {:.1} | {} |",
                    f.per_second, f.cpu_us, f.peak_rss_mib, f.errors
                );
            }
            if let [Some(cairn), Some(envoy)] = &both {
                if cairn.kib_per_stream > 0.0 {
                    println!("| | **KiB per stream** | {:.1} : {:.1} | | | | | | | |", cairn.kib_per_stream, envoy.kib_per_stream);
                    continue;
                }
                let ratio = |pick: &dyn Fn(&Figures) -> f64| pick(cairn) / pick(envoy);
                let latency = [0, 1, 2, 3].map(|i| format!("{:.2}", ratio(&|f| f.latency[i]))).join(" | ");
                println!(
                    "| | **ratio** | {:.2} | {:.2} | {latency} | {:.2} | |",
                    ratio(&|f| f.per_second),
                    ratio(&|f| f.cpu_us),
                    ratio(&|f| f.peak_rss_mib)
                );
            }
        }
    }

    pub fn write(&self, path: &str) {
        let rows = self.rows.iter().map(|((case, proxy), rounds)| {
            let rounds: Vec<_> = rounds
                .iter()
                .map(|f| {
                    json!({
                        "requestsPerSecond": f.per_second, "cpuMicrosPerRequest": f.cpu_us, "mibPerSecond": f.mib_per_second,
                        "latencyMicros": { "p50": f.latency[0], "p90": f.latency[1], "p99": f.latency[2], "p99.9": f.latency[3] },
                        "peakRssMib": f.peak_rss_mib, "startRssMib": f.idle_rss_mib, "errors": f.errors, "kibPerIdleStream": f.kib_per_stream,
                    })
                })
                .collect();
            json!({ "case": case, "proxy": proxy, "rounds": rounds })
        });
        let text = serde_json::to_string_pretty(&rows.collect::<Vec<_>>()).unwrap();
        if let Err(error) = std::fs::write(path, text) {
            eprintln!("cannot write {path}: {error}");
        }
    }
}
