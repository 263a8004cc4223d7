//! Figures, medians and ratios.

use super::{
    case::{Case, Kind},
    load::{Done, Load, What},
    node::Name,
};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    time::Duration,
};

/// What a figure is a figure of. The order is that of the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Metric {
    PerSecond,
    Gbit,
    /// Of both proxies: for each operation, and for each gigabyte.
    Cpu,
    CpuClient,
    CpuServer,
    CpuGb,
    CpuGbClient,
    CpuGbServer,
    P50,
    P99,
    RssWithoutPods,
    RssWithPods,
    /// For each idle connection, of both proxies.
    Kib,
    KibClient,
    KibServer,
    PeakClient,
    PeakServer,
    OpenFiles,
    /// Requests a second that an instance of the waypoint got.
    Before(u8),
    After(u8),
    /// Of an equal part, the instance with the least and the one with the most.
    LeastShare,
    MostShare,
    /// From the change to when every new instance had got a request.
    AllReached,
    /// CPU of the generator itself.
    LoadCpu,
    Errors,
}

impl Metric {
    fn title(self) -> &'static str {
        match self {
            Self::PerSecond => "per second",
            Self::Gbit => "Gbit/s",
            Self::Cpu => "CPU µs each, both proxies",
            Self::CpuClient => "… client's node",
            Self::CpuServer => "… server's node",
            Self::CpuGb => "CPU ms/GB, both proxies",
            Self::CpuGbClient => "… client's node",
            Self::CpuGbServer => "… server's node",
            Self::P50 => "p50 µs",
            Self::P99 => "p99 µs",
            Self::RssWithoutPods => "RSS without pods, MiB",
            Self::RssWithPods => "RSS with 10 pods, MiB",
            Self::Kib => "KiB/idle connection, both proxies",
            Self::KibClient => "… on the client's side",
            Self::KibServer => "… on the server's side",
            Self::PeakClient => "peak MiB, client's node",
            Self::PeakServer => "peak MiB, server's node",
            Self::OpenFiles => "open files with 10 pods",
            Self::Before(_) => "requests/s at each instance, before",
            Self::After(_) => "requests/s at each instance, after",
            Self::LeastShare => "least loaded instance, of an equal part",
            Self::MostShare => "most loaded instance, of an equal part",
            Self::AllReached => "change to a request at every instance, s",
            Self::LoadCpu => "CPU µs each, generator",
            Self::Errors => "errors",
        }
    }

    fn show(self, value: f64) -> String {
        match self {
            Self::PerSecond | Self::P50 | Self::P99 | Self::OpenFiles | Self::Errors => format!("{value:.0}"),
            Self::Gbit | Self::LeastShare | Self::MostShare | Self::AllReached => format!("{value:.2}"),
            Self::Cpu
            | Self::CpuClient
            | Self::CpuServer
            | Self::CpuGb
            | Self::CpuGbClient
            | Self::CpuGbServer
            | Self::RssWithoutPods
            | Self::RssWithPods
            | Self::Kib
            | Self::KibClient
            | Self::KibServer
            | Self::PeakClient
            | Self::PeakServer
            | Self::Before(_)
            | Self::After(_)
            | Self::LoadCpu => format!("{value:.1}"),
        }
    }
}

/// What is aimed at.
#[derive(Debug, Clone, Copy)]
pub enum Bound {
    /// cairn's figure over the other ztunnel's.
    RatioAtMost(f64),
    RatioAtLeast(f64),
    /// cairn's figure.
    AtMost(f64),
    AtLeast(f64),
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

/// What the proxies did meanwhile, that of the client's node first.
#[derive(Debug, Clone, Copy)]
pub struct Costs {
    pub cpu: [Duration; 2],
    /// MiB.
    pub peak: [f64; 2],
}

impl Figures {
    pub fn of_traffic(what: What, done: &Done, costs: Option<Costs>) -> Self {
        let is_bulk = matches!(what, What::Up | What::Down);
        let mut figures = Self::from([(Metric::Errors, done.errors as f64)]);
        let each = if is_bulk { done.bytes as f64 / 1e9 } else { done.operations as f64 };
        let mut add = |metric, value: f64| figures.0.extend([(metric, value)]);
        if is_bulk {
            add(Metric::Gbit, done.bytes as f64 * 8.0 / 1e9 / done.seconds);
        } else {
            add(Metric::PerSecond, done.operations as f64 / done.seconds);
            add(Metric::P50, done.latency[0]);
            add(Metric::P99, done.latency[1]);
            add(Metric::LoadCpu, done.own_cpu / each);
        }
        if let Some(Costs { cpu, peak }) = costs {
            let unit = if is_bulk { 1e3 } else { 1e6 };
            let [client, server] = cpu.map(|cpu| cpu.as_secs_f64() * unit / each);
            let metrics = if is_bulk {
                [Metric::CpuGb, Metric::CpuGbClient, Metric::CpuGbServer]
            } else {
                [Metric::Cpu, Metric::CpuClient, Metric::CpuServer]
            };
            for (metric, value) in metrics.into_iter().zip([client + server, client, server]) {
                add(metric, value);
            }
            add(Metric::PeakClient, peak[0]);
            add(Metric::PeakServer, peak[1]);
        }
        figures
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

const HEAD: &str = "cairn : other (no proxy)";

/// The columns of the tables of traffic, each with what tells its cases first.
const OPERATIONS: [Metric; 7] =
    [Metric::PerSecond, Metric::Cpu, Metric::CpuClient, Metric::CpuServer, Metric::P50, Metric::P99, Metric::Errors];
const BULK: [Metric; 7] =
    [Metric::Gbit, Metric::CpuGb, Metric::CpuGbClient, Metric::CpuGbServer, Metric::PeakClient, Metric::PeakServer, Metric::Errors];

impl Case {
    /// The first column of its table; cases with figures of their own only have errors in common.
    fn shown_by(&self) -> Metric {
        match self.kind {
            Kind::Traffic(Load { what: What::Up | What::Down, .. }, _) => BULK[0],
            Kind::Traffic(..) => OPERATIONS[0],
            Kind::Idle(_) | Kind::Started | Kind::Replicas => Metric::Errors,
        }
    }
}

fn join(metrics: &[Metric], text: impl Fn(Metric) -> String) -> String {
    metrics.iter().copied().map(text).collect::<Vec<_>>().join(" | ")
}

/// All rounds.
#[derive(Debug)]
pub struct Rows {
    targets: &'static [Target],
    cases: Vec<&'static Case>,
    rounds: BTreeMap<(&'static str, Name), Vec<Figures>>,
}

impl Rows {
    pub fn new(targets: &'static [Target]) -> Self {
        Self { targets, cases: Vec::new(), rounds: BTreeMap::new() }
    }

    pub fn add(&mut self, case: &'static Case, name: Name, figures: Figures) {
        if !self.cases.iter().any(|known| known.name == case.name) {
            self.cases.push(case);
        }
        self.rounds.entry((case.name, name)).or_default().push(figures);
    }

    fn values(&self, case: &'static str, name: Name, metric: Metric) -> Vec<f64> {
        let rounds = self.rounds.get(&(case, name)).map(Vec::as_slice).unwrap_or_default();
        let mut values: Vec<f64> = rounds.iter().filter_map(|figures| figures.0.get(&metric).copied()).collect();
        values.sort_by(f64::total_cmp);
        values
    }

    /// The median over the rounds; errors are added up.
    fn median(&self, case: &'static str, name: Name, metric: Metric) -> Option<f64> {
        let values = self.values(case, name, metric);
        let (low, high) = (values.get(values.len().checked_sub(1)? / 2)?, values.get(values.len() / 2)?);
        Some(if metric == Metric::Errors { values.iter().sum() } else { (low + high) / 2.0 })
    }

    /// cairn's figure over that of another, where that says something.
    fn ratio(&self, case: &'static str, to: Name, metric: Metric) -> Option<f64> {
        let [cairn, other] = [Name::Cairn, to].map(|name| self.median(case, name, metric));
        Some(cairn? / other.filter(|other| *other > 0.0 && metric != Metric::Errors)?)
    }

    /// What was aimed at, and whether it was met.
    fn judge(&self, target: &Target) -> String {
        let Target { case, metric, bound } = *target;
        let mark = |is_met: bool| if is_met { "✓" } else { "✗" };
        let cairn = self.median(case, Name::Cairn, metric);
        let ratio = self.ratio(case, Name::Other, metric);
        let (text, met) = match bound {
            Bound::RatioAtMost(most) => (format!("ratio ≤ {most:.2}"), ratio.map(|ratio| ratio <= most)),
            Bound::RatioAtLeast(least) => (format!("ratio ≥ {least:.2}"), ratio.map(|ratio| ratio >= least)),
            Bound::AtMost(most) => (format!("≤ {most}"), cairn.map(|cairn| cairn <= most)),
            Bound::AtLeast(least) => (format!("≥ {least}"), cairn.map(|cairn| cairn >= least)),
        };
        let unmeasured = if super::node::other().is_none() { "not measured: ZTUNNEL_BIN not set" } else { "not measured" };
        format!("{text} {}", met.map_or(unmeasured, mark))
    }

    /// `cairn : other = ratio (no proxy: figure) (aim)`, of what there is.
    fn cell(&self, case: &'static str, metric: Metric) -> String {
        let shown = |name| self.median(case, name, metric).map(|value| metric.show(value));
        let mut text = shown(Name::Cairn).unwrap_or_default();
        if let Some(other) = shown(Name::Other) {
            let _ = write!(text, " : {other}");
        }
        if let Some(ratio) = self.ratio(case, Name::Other, metric) {
            let _ = write!(text, " = **{ratio:.2}**");
        }
        if let Some(none) = shown(Name::NoProxy).filter(|_| metric != Metric::Errors) {
            let ratio = self.ratio(case, Name::NoProxy, metric).map(|ratio| format!(", {ratio:.2}")).unwrap_or_default();
            let _ = write!(text, " (no proxy {none}{ratio})");
        }
        for target in self.targets.iter().filter(|target| target.case == case && target.metric == metric) {
            let _ = write!(text, " ({})", self.judge(target));
        }
        text
    }

    /// The tables, to be pasted elsewhere.
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        for columns in [&OPERATIONS[..], &BULK] {
            let cases = self.cases.iter().filter(|case| case.shown_by() == columns[0]);
            let rows = cases.map(|case| format!("| {} | {} |\n", case.name, join(columns, |metric| self.cell(case.name, metric))));
            let rows: String = rows.collect();
            if !rows.is_empty() {
                let head =
                    format!("| {HEAD} | {} |\n|---|{}", join(columns, |metric| metric.title().to_owned()), "---|".repeat(columns.len()));
                let _ = writeln!(text, "{head}\n{rows}");
            }
        }
        let rows: String = self.cases.iter().filter(|case| case.shown_by() == Metric::Errors).map(|case| self.figures(case)).collect();
        if !rows.is_empty() {
            let _ = write!(text, "| case | figure | {HEAD} |\n|---|---|---|\n{rows}");
        }
        text
    }

    /// A row for each figure. What has one title is one figure with many parts.
    fn figures(&self, case: &Case) -> String {
        let rounds = self.rounds.iter().filter(|((name, _), _)| *name == case.name).flat_map(|(_, rounds)| rounds);
        let metrics: BTreeSet<Metric> = rounds.flat_map(|figures| figures.0.keys().copied()).collect();
        let metrics: Vec<Metric> = metrics.into_iter().collect();
        let rows = metrics.chunk_by(|one, next| one.title() == next.title()).map(|parts| {
            let cells: Vec<String> = parts.iter().map(|metric| self.cell(case.name, *metric)).collect();
            format!("| {} | {} | {} |\n", case.name, parts[0].title(), cells.join(", "))
        });
        rows.collect()
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
