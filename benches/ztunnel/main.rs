//! Two nodes of network namespaces, as a cluster lays them out: load generator ▸ ztunnel ▸ HBONE ▸
//! ztunnel ▸ server, each a process of its own, with the redirection of Istio's CNI in the pods.
//!
//! ```text
//! cargo bench --bench ztunnel                       # all cases
//! cargo bench --bench ztunnel -- --rounds 3 --seconds 2 --case requests --only cairn
//! cargo bench --bench ztunnel -- --list
//! ZTUNNEL_BIN=/path/to/ztunnel cargo bench --bench ztunnel
//! ```
//!
//! Needs root, iproute2 and iptables. With `ZTUNNEL_BIN` another ztunnel runs the same cases in turns
//! with cairn; it must take `LOCAL_XDS_PATH`, and get its certificates by itself (Istio's: built with
//! the feature `testing`, which knows `FAKE_CA`). What the same pods do without any proxy is measured
//! besides. Prints a table, and writes it to `target/bench-ztunnel.md` and every round to
//! `target/bench-ztunnel.json`. Figures are medians over the rounds; ratios are between these medians.
//! ✗ marks what is aimed at and was not met.

#![allow(
    unreachable_pub,
    missing_docs,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a program of its own, whose output is its result"
)]

mod case;
mod cni;
#[path = "../common/machine.rs"]
mod facts;
mod lasting;
mod load;
mod machine;
#[allow(dead_code, reason = "tests need more of it")]
#[path = "../../tests/it/support/netns.rs"]
mod netns;
mod node;
#[path = "../common/pace.rs"]
mod pace;
#[path = "../common/plain.rs"]
mod plain;
#[path = "../common/process.rs"]
mod process;
mod replica;
mod report;
mod server;
#[allow(dead_code, reason = "each bench looks at what it needs")]
#[path = "../common/wire.rs"]
mod wire;
mod world;

use case::{CASES, Case, Kind, Path};
use load::Load;
use node::{Mesh, Name, Nodes};
use report::{Costs, Figures, Rows};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::{process::ExitCode, time::Duration};
use world::{VIP, World};

/// What the command line says.
#[derive(Debug)]
pub struct Options {
    rounds: usize,
    seconds: u64,
    cases: Vec<String>,
    only: Option<Name>,
}

/// `None`: there is nothing to measure.
fn options() -> Option<Options> {
    let mut options = Options { rounds: 5, seconds: 3, cases: Vec::new(), only: None };
    let mut args = std::env::args().skip(1).peekable();
    if args.peek().is_none() {
        // `cargo test --all-targets` starts it like this; a test that takes half an hour is none.
        println!("measures with `cargo bench --bench ztunnel`");
        return None;
    }
    while let Some(arg) = args.next() {
        let mut value = || args.next().unwrap_or_else(|| panic!("{arg} needs a value"));
        match arg.as_str() {
            "--rounds" => options.rounds = value().parse().expect("a number"),
            "--seconds" => options.seconds = value().parse().expect("a number"),
            "--case" => options.cases.push(value()),
            "--only" => {
                options.only = Some(match value().as_str() {
                    "cairn" => Name::Cairn,
                    "other" => Name::Other,
                    "none" => Name::NoProxy,
                    unknown => panic!("--only {unknown}: neither cairn nor other nor none"),
                });
            }
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
        Ok("server") => return server::main(),
        Ok("load") => return load::main(),
        Ok("replica") => return replica::main(),
        _ => {}
    }
    let Some(options) = options() else { return ExitCode::SUCCESS };
    if let Err(reason) = netns::probe() {
        eprintln!("\n*** NOTHING IS MEASURED: {reason} ***\n");
        return ExitCode::FAILURE;
    }
    // For all processes that are started: a proxy needs a file for each idle connection.
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("everyone may have what is allowed");
    if maximum.is_some_and(|maximum| maximum < FILES) {
        eprintln!("the limit of open files is {maximum:?}: idle-10k needs {FILES}");
    }
    let names = names(&options);
    let world = World::new();
    let _servers = [&world.server, &world.plain_server].map(server::start);
    let mut rows = Rows::new(case::TARGETS);
    let wanted = |case: &&Case| options.cases.is_empty() || options.cases.iter().any(|c| c == case.name);
    for case in CASES.iter().filter(wanted) {
        eprintln!("{}", case.name);
        for round in 0..options.rounds.min(case.rounds) {
            let mut turns: Vec<Name> = names.iter().copied().filter(|name| case.kind.is_for(*name)).collect();
            // Who goes first has another machine: caches, clock rates.
            if round % 2 == 1 {
                turns.reverse();
            }
            for name in turns {
                let figures = measure(name, &world, case, &options);
                eprintln!("  {:<8} {:>2}: {}", name.as_str(), round + 1, figures.line());
                rows.add(case, name, figures);
            }
        }
    }
    let machine = machine::describe(&options);
    let text = format!("{}\n{}\n", rows.markdown(), machine::sentence(&machine));
    println!("{text}");
    write("target/bench-ztunnel.md", &text);
    write("target/bench-ztunnel.json", &serde_json::to_string_pretty(&rows.json(&machine)).unwrap());
    ExitCode::SUCCESS
}

const FILES: u64 = 12_000;

fn names(options: &Options) -> Vec<Name> {
    match (options.only, node::other()) {
        (Some(Name::Other), None) => panic!("--only other: ZTUNNEL_BIN not set"),
        (Some(only), _) => vec![only],
        (None, Some(_)) => vec![Name::Cairn, Name::Other, Name::NoProxy],
        (None, None) => {
            eprintln!("ZTUNNEL_BIN not set: cairn is compared with no proxy at all, not with another ztunnel");
            vec![Name::Cairn, Name::NoProxy]
        }
    }
}

impl Kind {
    fn is_for(self, name: Name) -> bool {
        match self {
            Self::Traffic(..) => true,
            Self::Idle(_) | Self::Started => name != Name::NoProxy,
            // The other one cannot be told of a change.
            Self::Replicas => name == Name::Cairn,
        }
    }
}

fn write(path: &str, text: &str) {
    if let Err(error) = std::fs::write(path, text) {
        eprintln!("cannot write {path}: {error}");
    }
}

/// One round. It has processes of its own: what one case leaves behind does not weigh on the next.
fn measure(name: Name, world: &World, case: &Case, options: &Options) -> Figures {
    match case.kind {
        Kind::Traffic(load, path) => traffic(name, world, load, path, Duration::from_secs(options.seconds)),
        Kind::Idle(connections) => lasting::idle(name, world, connections),
        Kind::Started => lasting::started(name, world),
        Kind::Replicas => replica::measure(world),
    }
}

fn traffic(name: Name, world: &World, load: Load, path: Path, duration: Duration) -> Figures {
    let nodes = (name != Name::NoProxy).then(|| Nodes::start(name, world, Mesh::Fixed));
    let path = nodes.as_ref().map(|_| path);
    let (from, to) = match path {
        Some(Path::Hbone) => (&world.client, VIP),
        Some(Path::PlainIn) => (&world.plain_client, world.server.ip),
        Some(Path::PlainOut) => (&world.client, world.plain_server.ip),
        None => (&world.plain_client, world.plain_server.ip),
    };
    let mut running = load::start(load, from, to.into(), duration);
    let before = nodes.as_ref().map(Nodes::cpu);
    running.go();
    let done = running.done();
    let costs = nodes.as_ref().zip(before).map(|(nodes, before)| {
        let after = nodes.cpu();
        Costs { cpu: [0, 1].map(|side| after[side] - before[side]), peak: nodes.peak_rss() }
    });
    Figures::of_traffic(load.what, &done, costs)
}
