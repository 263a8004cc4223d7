//! Figures of all rounds, as tables.

use serde_json::{Value, json};
use std::{collections::BTreeMap, fmt::Write as _};

/// What a figure is a figure of. The order is that of the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Metric {
    StartMillis,
    CpuMillis,
    CpuPerChange,
    AckMillis,
    AckP99Millis,
    Rss,
    PerWorkload,
    PeakRss,
    P50,
    P99,
    P999,
    Slowest,
    Over5,
    Errors,
    TookMillis,
}

impl Metric {
    fn title(self) -> &'static str {
        match self {
            Self::StartMillis => "exec to ready, ms",
            Self::CpuMillis => "CPU ms",
            Self::CpuPerChange => "CPU µs/change",
            Self::AckMillis => "push to ACK p50, ms",
            Self::AckP99Millis => "push to ACK p99, ms",
            Self::Rss => "RSS, MiB",
            Self::PerWorkload => "bytes/workload",
            Self::PeakRss => "peak MiB",
            Self::P50 => "p50 ms",
            Self::P99 => "p99 ms",
            Self::P999 => "p99.9 ms",
            Self::Slowest => "max ms",
            Self::Over5 => "over 5 ms",
            Self::Errors => "errors",
            Self::TookMillis => "push to ACK, ms",
        }
    }

    fn show(self, value: f64) -> String {
        match self {
            Self::StartMillis
            | Self::CpuMillis
            | Self::CpuPerChange
            | Self::PerWorkload
            | Self::Over5
            | Self::Errors
            | Self::TookMillis => format!("{value:.0}"),
            Self::Rss | Self::PeakRss => format!("{value:.1}"),
            Self::AckMillis | Self::AckP99Millis | Self::P50 | Self::P99 | Self::P999 | Self::Slowest => format!("{value:.2}"),
        }
    }
}

/// One round of one row.
#[derive(Debug, Clone, Default)]
pub struct Figures(BTreeMap<Metric, f64>);

impl<const N: usize> From<[(Metric, f64); N]> for Figures {
    fn from(figures: [(Metric, f64); N]) -> Self {
        Self(figures.into())
    }
}

impl Figures {
    /// One line, for whoever waits.
    fn line(&self) -> String {
        self.0.iter().map(|(metric, value)| format!("{} {}", metric.show(*value), metric.title())).collect::<Vec<_>>().join("  ")
    }

    fn json(&self) -> Value {
        self.0.iter().map(|(metric, value)| (metric.title().to_owned(), json!(value))).collect()
    }
}

#[derive(Debug)]
struct Table {
    title: &'static str,
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    title: String,
    rounds: Vec<Figures>,
}

/// All rounds of all rows, by table.
#[derive(Debug, Default)]
pub struct Tables(Vec<Table>);

impl Tables {
    pub fn add(&mut self, table: &'static str, row: &str, figures: Figures) {
        eprintln!("  {row}: {}", figures.line());
        if !self.0.iter().any(|other| other.title == table) {
            self.0.push(Table { title: table, rows: Vec::new() });
        }
        let rows = self.0.iter_mut().filter(|other| other.title == table).map(|table| &mut table.rows);
        for rows in rows {
            match rows.iter_mut().find(|other| other.title == row) {
                Some(known) => known.rounds.push(figures.clone()),
                None => rows.push(Row { title: row.to_owned(), rounds: vec![figures.clone()] }),
            }
        }
    }

    /// The best round of each figure: what others did on the machine is in the rest.
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        for Table { title, rows } in &self.0 {
            let metrics: Vec<Metric> = rows.first().map(|row| row.rounds[0].0.keys().copied().collect()).unwrap_or_default();
            let titles: Vec<_> = metrics.iter().map(|metric| metric.title()).collect();
            let _ = write!(text, "\n| {title} | {} |\n|---|{}\n", titles.join(" | "), "---|".repeat(titles.len()));
            for row in rows {
                let best = |metric| row.rounds.iter().filter_map(|f| f.0.get(metric)).copied().fold(f64::INFINITY, f64::min);
                let values: Vec<_> = metrics.iter().map(|metric| metric.show(best(metric))).collect();
                let _ = writeln!(text, "| {} | {} |", row.title, values.join(" | "));
            }
        }
        text
    }

    pub fn json(&self, machine: &Value) -> Value {
        let of_row = |row: &Row| json!({ "row": row.title, "rounds": row.rounds.iter().map(Figures::json).collect::<Vec<_>>() });
        let of_table = |table: &Table| json!({ "table": table.title, "rows": table.rows.iter().map(of_row).collect::<Vec<_>>() });
        json!({ "machine": machine, "tables": self.0.iter().map(of_table).collect::<Vec<_>>() })
    }
}
