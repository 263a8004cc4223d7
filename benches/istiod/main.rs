//! A large mesh from a control plane: what it costs to load, what a change of it costs, and what
//! requests notice of either.
//!
//! ```text
//! cargo bench --bench istiod
//! cargo bench --bench istiod -- --rounds 1 --only waypoint --workloads 10000
//! ```
//!
//! The control plane is the one of the demo. It runs in the process of the bench, at the lowest
//! priority: it shares the cores with all others, and is not what is measured. Prints tables, and
//! writes them to `target/bench-istiod.md` and every round to `target/bench-istiod.json`. Figures are
//! those of the best round.

#![allow(
    unreachable_pub,
    missing_docs,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a program of its own, whose output is its result"
)]

mod app;
mod case;
#[allow(dead_code, reason = "each bench uses what it needs")]
#[path = "../waypoint/client.rs"]
mod client;
#[path = "../common/machine.rs"]
mod facts;
#[allow(dead_code, reason = "each bench uses what it needs")]
#[path = "../waypoint/load.rs"]
mod load;
mod measure;
mod mesh;
#[path = "../common/pace.rs"]
mod pace;
#[allow(dead_code, reason = "each bench uses what it needs")]
#[path = "../common/plain.rs"]
mod plain;
mod plane;
#[allow(dead_code, reason = "each bench uses what it needs")]
#[path = "../common/process.rs"]
mod process;
mod proxy;
mod report;
mod site;
#[path = "../common/wire.rs"]
mod wire;
#[path = "../waypoint/workload.rs"]
mod workload;

use measure::Meanwhile;
use mesh::Large;
use plane::Plane;
use proxy::{Mode, Proxy};
use report::Tables;
use serde_json::{Value, json};
use site::Site;
use std::process::ExitCode;

/// What the command line says.
#[derive(Debug)]
pub struct Options {
    rounds: usize,
    /// Of requests, for each round of each row.
    seconds: u64,
    workloads: usize,
    /// Of single workloads.
    changes: usize,
    only: Option<String>,
}

/// `None`: there is nothing to measure.
fn options() -> Option<Options> {
    let mut options = Options { rounds: 2, seconds: 3, workloads: 50_000, changes: 300, only: None };
    let mut args = std::env::args().skip(1).peekable();
    if args.peek().is_none() {
        // `cargo test --all-targets` starts it like this; a test that takes minutes is none.
        println!("measures with `cargo bench --bench istiod`");
        return None;
    }
    while let Some(arg) = args.next() {
        let mut value = || args.next().unwrap_or_else(|| panic!("{arg} needs a value"));
        match arg.as_str() {
            "--rounds" => options.rounds = value().parse().expect("a number"),
            "--seconds" => options.seconds = value().parse().expect("a number"),
            "--workloads" => options.workloads = value().parse().expect("a number"),
            "--changes" => options.changes = value().parse().expect("a number"),
            "--only" => options.only = Some(value()),
            // cargo adds it.
            "--bench" => {}
            other => panic!("unknown argument {other}"),
        }
    }
    Some(options)
}

const LOADING: &str = "the whole mesh at start";
const CHANGING: &str = "one workload changes";
const WAYPOINT: &str = "1000 requests/s through a waypoint; meanwhile";
const ZTUNNEL: &str = "1000 requests/s through a dedicated ztunnel; meanwhile";

fn main() -> ExitCode {
    // The same binary plays all parts.
    match std::env::var("CAIRN_BENCH_ROLE").as_deref() {
        Ok("workload") => return workload::main(),
        Ok("app") => return app::main(),
        Ok("load") => return load::main(),
        _ => {}
    }
    let Some(options) = options() else { return ExitCode::SUCCESS };
    let site = Site::new();
    let (_workload, _app) = (workload::start(&site), app::start(&site));
    let mut tables = Tables::default();
    for mode in Mode::ALL {
        if options.only.as_ref().is_none_or(|only| mode.as_str().starts_with(only.as_str())) {
            measure(mode, &site, &options, &mut tables);
        }
    }
    let machine = describe(&options);
    let text = format!("{}\n{}\n", tables.markdown(), sentence(&machine));
    println!("{text}");
    write("target/bench-istiod.md", &text);
    write("target/bench-istiod.json", &serde_json::to_string_pretty(&tables.json(&machine)).unwrap());
    ExitCode::SUCCESS
}

fn measure(mode: Mode, site: &Site, options: &Options, tables: &mut Tables) {
    eprintln!("{}", mode.as_str());
    let large = Large { workloads: options.workloads, bound: options.workloads / 50 };
    let empty = measure::empty(mode, site);
    let plane = Plane::start(site, "large");
    plane.apply(mesh::small(site));
    plane.apply(large.changes());
    let mut versions = 1..;
    let mut next = || versions.next().expect("without end");
    for _ in 0..options.rounds {
        let (proxy, figures) = measure::start(mode, site, &plane, large, empty);
        tables.add(LOADING, mode.as_str(), figures);
        tables.add(CHANGING, mode.as_str(), measure::changes(&proxy, &plane, large, options.changes, next()));
        let table = match mode {
            Mode::Waypoint => WAYPOINT,
            Mode::Dedicated => ZTUNNEL,
            // Nothing leads there without pods.
            Mode::Shared => continue,
        };
        for meanwhile in Meanwhile::ALL {
            tables.add(table, &meanwhile.title(), measure::requests(site, mode, &plane, large, meanwhile, next(), options));
        }
        drop(proxy);
        if mode == Mode::Waypoint {
            // The same work, but not in the process that carries the requests: what all sharing two cores accounts for.
            let (carrying, _kept) = beside(site);
            let _burdened = Proxy::start(mode, &site.beside(), &plane);
            for meanwhile in [Meanwhile::ToldAgain, Meanwhile::AllServices, Meanwhile::AllWorkloads] {
                let row = format!("{}, in another process", meanwhile.title());
                tables.add(table, &row, measure::requests(site, mode, &plane, large, meanwhile, next(), options));
            }
            drop(carrying);
        }
    }
}

/// A waypoint with a small mesh of its own.
fn beside(site: &Site) -> (Proxy, Plane) {
    let plane = Plane::start(site, "own");
    plane.apply(mesh::small(site));
    (Proxy::start(Mode::Waypoint, site, &plane), plane)
}

fn write(path: &str, text: &str) {
    if let Err(error) = std::fs::write(path, text) {
        eprintln!("cannot write {path}: {error}");
    }
}

fn describe(options: &Options) -> Value {
    let mut machine = facts::describe();
    machine.insert("rounds".into(), json!(options.rounds));
    machine.insert("seconds".into(), json!(options.seconds));
    machine.insert("workloads".into(), json!(options.workloads));
    machine.insert("changes".into(), json!(options.changes));
    machine.into()
}

fn sentence(machine: &Value) -> String {
    let text = |key: &str| machine[key].as_str().unwrap_or("unknown").to_owned();
    format!(
        "{}, {} cores shared by control plane, proxy, load generator and workload; Linux {}. {} ({}, profile {}). \
         {} workloads, {} for each service; the best of {} rounds with {} changes and {} s of requests for each row.",
        text("cpu"),
        machine["cores"],
        text("kernel"),
        text("cairn"),
        text("commit"),
        text("profile"),
        machine["workloads"],
        mesh::ENDPOINTS,
        machine["rounds"],
        machine["changes"],
        machine["seconds"],
    )
}
