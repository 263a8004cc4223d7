//! The load generator, a process of its own. Latency counts from when a request was due: with a rate
//! from its place in the schedule, without one from the end of the request before.

use super::{
    case::{self, Load},
    client::{Client, Connection},
    pace::Pace,
    site::Site,
    workload,
};
use cairn::hbone;
use hdrhistogram::Histogram;
use nix::{sys::time::TimeValLike as _, time::ClockId};
use serde::{Deserialize, Serialize};
use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Command, ExitCode, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{task::JoinSet, time::Instant};

/// Code paths and connections are warm before anything counts.
const WARM_UP: Duration = Duration::from_millis(500);

/// How much of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Amount {
    For(Duration),
    Requests(u64),
    /// Open so many streams and hold them.
    Streams {
        streams: usize,
        tunnels: usize,
    },
}

/// What came of a run.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Done {
    pub requests: u64,
    pub errors: u64,
    pub seconds: f64,
    /// Of bodies, both ways.
    pub bytes: u64,
    /// Microseconds at p50, p90, p99, p99.9.
    pub latency: [f64; 4],
    /// The slowest one, microseconds.
    pub slowest: f64,
    pub over_5_ms: u64,
    /// CPU time that the generator itself took, microseconds.
    pub own_cpu: f64,
    pub streams: u64,
}

/// Starts a generator and waits for it. Calls `go` when it is warm, before what counts; and `look`
/// after it, while its streams are still open.
pub fn run(site: &Site, traffic: &str, amount: Amount, go: impl FnOnce(), look: impl FnOnce()) -> Done {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .env("CAIRN_BENCH_ROLE", "load")
        .env("CAIRN_BENCH_CERTS", site.certs("bench", "client"))
        .env("CAIRN_BENCH_CASE", traffic)
        .env("CAIRN_BENCH_ADDRESS", site.waypoint.to_string())
        .env("CAIRN_BENCH_TARGET", site.service.to_string())
        .env("CAIRN_BENCH_AMOUNT", serde_json::to_string(&amount).unwrap())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut line = || lines.next().and_then(Result::ok);
    line();
    go();
    let mut input = child.stdin.take().unwrap();
    // A proxy under which the generator breaks down has no figures, and says so by its errors.
    let done = input.write_all(b"go\n").ok().and_then(|()| serde_json::from_str(&line()?).ok());
    let done = done.unwrap_or(Done { errors: 1, seconds: 1.0, ..Done::default() });
    look();
    drop(input);
    child.wait().unwrap();
    done
}

/// The same with nothing to do before and after.
pub fn traffic(site: &Site, traffic: &str, amount: Amount) -> Done {
    run(site, traffic, amount, || {}, || {})
}

pub fn main() -> ExitCode {
    let var = |name: &str| std::env::var(format!("CAIRN_BENCH_{name}")).unwrap();
    let amount: Amount = serde_json::from_str(&var("AMOUNT")).unwrap();
    let load = case::load_of(&var("CASE")).expect("a kind of traffic");
    let tunnels = if let Amount::Streams { tunnels, .. } = amount { tunnels } else { load.tunnels };
    let cert = Arc::new(workload::cert(std::path::Path::new(&var("CERTS"))));
    let client = Arc::new(Client::new(cert, var("ADDRESS").parse().unwrap(), var("TARGET"), tunnels, load));
    // One thread costs a fifth less; but at a rate, one request would wait for another's being encrypted.
    let threads = if load.rate > 0 { 2 } else { 1 };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build().unwrap();
    runtime.block_on(async {
        if let Amount::Streams { streams, .. } = amount {
            say("ready").await;
            let (done, held) = idle(&client, streams).await;
            say(&serde_json::to_string(&done).unwrap()).await;
            return drop(held);
        }
        let mut connections = Vec::with_capacity(load.connections);
        for number in 0..load.connections {
            connections.push(client.open(number).await);
        }
        if let Amount::For(_) = amount {
            (_, connections) = work(&client, connections, load, Amount::For(WARM_UP)).await;
        }
        say("ready").await;
        let (done, connections) = work(&client, connections, load, amount).await;
        say(&serde_json::to_string(&done).unwrap()).await;
        drop(connections);
    });
    ExitCode::SUCCESS
}

/// Writes a line, and waits for one or the end of them: what is open is held until the one who
/// measures has looked.
async fn say(line: &str) {
    println!("{line}");
    std::io::stdout().flush().unwrap();
    let _ = tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new())).await;
}

/// What one connection has done.
struct Tally {
    histogram: Histogram<u64>,
    requests: u64,
    errors: u64,
    bytes: u64,
}

impl Tally {
    fn new() -> Self {
        Self { histogram: Histogram::new_with_bounds(1, 60_000_000, 3).unwrap(), requests: 0, errors: 0, bytes: 0 }
    }

    fn add(&mut self, other: &Self) {
        self.histogram.add(&other.histogram).unwrap();
        self.requests += other.requests;
        self.errors += other.errors;
        self.bytes += other.bytes;
    }
}

/// When a connection sends its next request.
#[derive(Clone)]
enum Turns {
    Paced(Arc<Pace>),
    Until(Instant),
    Left(Arc<AtomicU64>),
}

impl Turns {
    /// When the next request is due; `None` at the end.
    async fn next(&self, connection: usize, turn: usize) -> Option<Instant> {
        match self {
            Self::Paced(pace) => pace.due(connection, turn).await,
            Self::Until(end) => Some(Instant::now()).filter(|now| now < end),
            Self::Left(left) => left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).ok().map(|_| Instant::now()),
        }
    }
}

type Connections = Vec<Option<Connection>>;

async fn work(client: &Arc<Client>, connections: Connections, load: Load, amount: Amount) -> (Done, Connections) {
    let start = Instant::now() + Duration::from_millis(5);
    let cpu = own_cpu();
    let turns = match amount {
        Amount::For(duration) if load.rate > 0 => Turns::Paced(Pace::start(load.rate, load.connections, start, duration)),
        Amount::For(duration) => Turns::Until(start + duration),
        Amount::Requests(requests) => Turns::Left(Arc::new(AtomicU64::new(requests))),
        Amount::Streams { .. } => unreachable!("they are held, not worked on"),
    };
    let mut workers = JoinSet::new();
    for (number, connection) in connections.into_iter().enumerate() {
        let (client, turns) = (client.clone(), turns.clone());
        workers.spawn(async move {
            tokio::time::sleep_until(start).await;
            worker(&client, connection, number, turns, load).await
        });
    }
    let (mut all, mut connections) = (Tally::new(), Vec::new());
    while let Some(worker) = workers.join_next().await {
        let (tally, connection) = worker.unwrap();
        all.add(&tally);
        connections.push(connection);
    }
    let at = |q: f64| all.histogram.value_at_quantile(q) as f64;
    let done = Done {
        requests: all.requests,
        errors: all.errors,
        seconds: start.elapsed().as_secs_f64(),
        bytes: all.bytes,
        latency: [at(0.5), at(0.9), at(0.99), at(0.999)],
        slowest: all.histogram.max() as f64,
        over_5_ms: all.histogram.count_between(5000, u64::MAX),
        own_cpu: own_cpu() - cpu,
        streams: 0,
    };
    (done, connections)
}

async fn worker(
    client: &Client,
    mut connection: Option<Connection>,
    number: usize,
    turns: Turns,
    load: Load,
) -> (Tally, Option<Connection>) {
    let (mut tally, mut turn) = (Tally::new(), 0);
    while let Some(due) = turns.next(number, turn).await {
        turn += 1;
        if load.stream_per_request || connection.is_none() {
            // Nobody waits for its end.
            if let Some(Connection::Http1(old)) = connection.take() {
                tokio::spawn(old.close());
            }
            connection = client.open(number).await;
        }
        let answer = match &mut connection {
            Some(open) => client.exchange(open).await,
            None => None,
        };
        match answer {
            Some(answer) => {
                tally.requests += 1;
                tally.bytes += answer.bytes + load.upload as u64;
                let _ = tally.histogram.record(due.elapsed().as_micros() as u64);
            }
            None => {
                tally.errors += 1;
                connection = None;
            }
        }
    }
    (tally, connection)
}

/// Microseconds.
fn own_cpu() -> f64 {
    ClockId::CLOCK_PROCESS_CPUTIME_ID.now().expect("there is a clock").num_nanoseconds() as f64 / 1000.0
}

async fn idle(client: &Client, wanted: usize) -> (Done, Vec<hbone::TunnelIo>) {
    let mut streams = Vec::with_capacity(wanted);
    for number in 0..wanted {
        match client.stream(number).await {
            Ok(stream) => streams.push(stream),
            Err(_) => break,
        }
    }
    let done = Done { streams: streams.len() as u64, errors: (wanted - streams.len()) as u64, seconds: 1.0, ..Done::default() };
    (done, streams)
}
