//! Figures, medians and ratios.

use super::{
    case::{Case, Kind},
    load::Done,
    proxy::Name,
};
use serde_json::{Value, json};
use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

/// What a figure is a figure of. The order is that of the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Metric {
    PerSecond,
    CpuPerRequest,
    P50,
    P90,
    P99,
    P999,
    MibPerSecond,
    KibPerStream,
    StartMillis,
    /// From the rename of the file to the first answer by it.
    ReloadMillis,
    /// From the rename of the file to when the request of that answer was sent.
    ReloadSentMillis,
    /// CPU time of starting, or of a reload beyond that of the requests meanwhile.
    CpuMillis,
    Rss10k,
    Rss50k,
    /// Resident at the end.
    Rss,
    PeakRss,
    /// For each stream after the first ten thousand, bytes.
    GrowthPerStream,
    OpenFiles,
    StillOpen,
    /// CPU of the generator itself.
    LoadCpuPerRequest,
    Errors,
}

impl Metric {
    fn title(self) -> &'static str {
        match self {
            Self::PerSecond => "requests/s",
            Self::CpuPerRequest => "CPU µs/request",
            Self::P50 => "p50 µs",
            Self::P90 => "p90 µs",
            Self::P99 => "p99 µs",
            Self::P999 => "p99.9 µs",
            Self::MibPerSecond => "MiB/s",
            Self::KibPerStream => "KiB/idle stream",
            Self::StartMillis => "exec to ready, ms",
            Self::ReloadMillis => "rename to first answer, ms",
            Self::ReloadSentMillis => "rename to its request, ms",
            Self::CpuMillis => "CPU ms",
            Self::Rss10k => "RSS after 10 % of the streams, MiB",
            Self::Rss50k => "RSS after half of the streams, MiB",
            Self::Rss => "RSS at the end, MiB",
            Self::PeakRss => "peak MiB",
            Self::GrowthPerStream => "growth, bytes/stream",
            Self::OpenFiles => "open files at the end",
            Self::StillOpen => "streams or tunnels still open",
            Self::LoadCpuPerRequest => "CPU µs/request of the generator",
            Self::Errors => "errors",
        }
    }

    fn show(self, value: f64) -> String {
        match self {
            Self::PerSecond | Self::P50 | Self::P90 | Self::P99 | Self::P999 | Self::OpenFiles | Self::StillOpen | Self::Errors => {
                format!("{value:.0}")
            }
            Self::KibPerStream
            | Self::CpuPerRequest
            | Self::MibPerSecond
            | Self::StartMillis
            | Self::ReloadMillis
            | Self::ReloadSentMillis
            | Self::CpuMillis
            | Self::Rss10k
            | Self::Rss50k
            | Self::Rss
            | Self::PeakRss
            | Self::GrowthPerStream
            | Self::LoadCpuPerRequest => format!("{value:.1}"),
        }
    }
}

/// What is aimed at.
#[derive(Debug, Clone, Copy)]
pub enum Bound {
    /// cairn's figure over Envoy's.
    RatioAtMost(f64),
    RatioAtLeast(f64),
    /// cairn's figure.
    AtMost(f64),
    /// cairn's figure over its own in another case.
    AtLeastOf(&'static str, f64),
}

#[derive(Debug, Clone, Copy)]
pub struct Target {
    pub case: &'static str,
    pub metric: Metric,
    pub bound: Bound,
}

/// One round of one case.
#[derive(Debug, Clone, Default)]
pub struct Figures(pub BTreeMap<Metric, f64>);

impl Figures {
    pub fn of_traffic(done: &Done, cpu: Duration, peak: f64) -> Self {
        let requests = done.requests.max(1) as f64;
        let [p50, p90, p99, p999] = done.latency;
        Self::from([
            (Metric::PerSecond, done.requests as f64 / done.seconds),
            (Metric::CpuPerRequest, cpu.as_secs_f64() * 1e6 / requests),
            (Metric::MibPerSecond, done.bytes as f64 / done.seconds / f64::from(1 << 20)),
            (Metric::P50, p50),
            (Metric::P90, p90),
            (Metric::P99, p99),
            (Metric::P999, p999),
            (Metric::PeakRss, peak),
            (Metric::LoadCpuPerRequest, done.own_cpu / requests),
            (Metric::Errors, done.errors as f64),
        ])
    }

    /// One line, for whoever waits.
    pub fn line(&self) -> String {
        self.0.iter().map(|(metric, value)| format!("{} {}", metric.show(*value), metric.title())).collect::<Vec<_>>().join("  ")
    }
}

impl<const N: usize> From<[(Metric, f64); N]> for Figures {
    fn from(figures: [(Metric, f64); N]) -> Self {
        Self(figures.into())
    }
}

/// All rounds.
#[derive(Debug)]
pub struct Rows {
    pub targets: &'static [Target],
    cases: Vec<&'static Case>,
    rounds: BTreeMap<(&'static str, Name), Vec<Figures>>,
}

/// The columns of the table of traffic.
const COLUMNS: [Metric; 6] = [Metric::PerSecond, Metric::CpuPerRequest, Metric::P50, Metric::P99, Metric::PeakRss, Metric::Errors];

impl Rows {
    pub fn new(targets: &'static [Target]) -> Self {
        Self { targets, cases: Vec::new(), rounds: BTreeMap::new() }
    }

    pub fn add(&mut self, case: &'static Case, proxy: Name, figures: Figures) {
        if !self.cases.iter().any(|known| known.name == case.name) {
            self.cases.push(case);
        }
        self.rounds.entry((case.name, proxy)).or_default().push(figures);
    }

    fn values(&self, case: &'static str, proxy: Name, metric: Metric) -> Vec<f64> {
        let rounds = self.rounds.get(&(case, proxy)).map(Vec::as_slice).unwrap_or_default();
        let mut values: Vec<f64> = rounds.iter().filter_map(|figures| figures.0.get(&metric).copied()).collect();
        values.sort_by(f64::total_cmp);
        values
    }

    /// The median over the rounds; errors are added up.
    fn median(&self, case: &'static str, proxy: Name, metric: Metric) -> Option<f64> {
        let values = self.values(case, proxy, metric);
        let (low, high) = (values.get(values.len().checked_sub(1)? / 2)?, values.get(values.len() / 2)?);
        Some(if metric == Metric::Errors { values.iter().sum() } else { (low + high) / 2.0 })
    }

    /// `cairn : envoy = ratio (target)`, of what there is.
    fn cell(&self, case: &'static str, metric: Metric) -> String {
        let [cairn, envoy] = [Name::Cairn, Name::Envoy].map(|proxy| self.median(case, proxy, metric));
        let mut text = [cairn, envoy].iter().flatten().map(|value| metric.show(*value)).collect::<Vec<_>>().join(" : ");
        if let (Some(cairn), Some(envoy)) = (cairn, envoy)
            && envoy > 0.0
            && metric != Metric::Errors
        {
            let _ = write!(text, " = **{:.2}**", cairn / envoy);
        }
        for target in self.targets.iter().filter(|target| target.case == case && target.metric == metric) {
            if let Some((what, met)) = self.judge(target) {
                let _ = write!(text, " ({what}{})", if met { " ✓" } else { " ✗" });
            }
        }
        text
    }

    /// What was aimed at, and whether it was met; `None` when it cannot be told.
    fn judge(&self, target: &Target) -> Option<(String, bool)> {
        let Target { case, metric, bound } = *target;
        let cairn = self.median(case, Name::Cairn, metric)?;
        let ratio = || Some(cairn / self.median(case, Name::Envoy, metric)?);
        Some(match bound {
            Bound::RatioAtMost(most) => (format!("≤ {most:.2}"), ratio()? <= most),
            Bound::RatioAtLeast(least) => (format!("≥ {least:.2}"), ratio()? >= least),
            Bound::AtMost(most) => (format!("≤ {most}"), cairn <= most),
            Bound::AtLeastOf(other, least) => {
                let part = cairn / self.median(other, Name::Cairn, metric)?;
                (format!("{:.0} % of {other}, ≥ {:.0} %", part * 100.0, least * 100.0), part >= least)
            }
        })
    }

    /// The tables, to be pasted elsewhere.
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        let (traffic, others): (Vec<&Case>, Vec<&Case>) = self.cases.iter().partition(|case| matches!(case.kind, Kind::Traffic(_)));
        if !traffic.is_empty() {
            let _ = writeln!(text, "| cairn : Envoy | {} |", COLUMNS.map(Metric::title).join(" | "));
            let _ = writeln!(text, "|---|{}", "---|".repeat(COLUMNS.len()));
        }
        for case in traffic {
            let _ = writeln!(text, "| {} | {} |", case.name, COLUMNS.map(|metric| self.cell(case.name, metric)).join(" | "));
        }
        if !others.is_empty() {
            text.push_str("\n| case | figure | cairn : Envoy |\n|---|---|---|\n");
        }
        for case in others {
            let metrics = self.rounds.iter().filter(|((name, _), _)| *name == case.name).flat_map(|(_, rounds)| rounds);
            let mut metrics: Vec<Metric> = metrics.flat_map(|figures| figures.0.keys().copied()).collect();
            metrics.sort_unstable();
            metrics.dedup();
            for metric in metrics {
                let _ = writeln!(text, "| {} | {} | {} |", case.name, metric.title(), self.cell(case.name, metric));
            }
        }
        text
    }

    pub fn json(&self, machine: &Value) -> Value {
        let rows = self.rounds.iter().map(|((case, proxy), rounds)| {
            let name = |metric: Metric| format!("{metric:?}");
            let each: Vec<BTreeMap<String, f64>> =
                rounds.iter().map(|figures| figures.0.iter().map(|(metric, value)| (name(*metric), *value)).collect()).collect();
            let metrics = rounds.iter().flat_map(|figures| figures.0.keys());
            let summary: BTreeMap<String, Value> = metrics
                .map(|metric| {
                    let values = self.values(case, *proxy, *metric);
                    let spread = json!({ "median": self.median(case, *proxy, *metric), "min": values.first(), "max": values.last() });
                    (name(*metric), spread)
                })
                .collect();
            json!({ "case": case, "proxy": proxy.as_str(), "summary": summary, "rounds": each })
        });
        json!({ "machine": machine, "cases": rows.collect::<Vec<_>>() })
    }
}
