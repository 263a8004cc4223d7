//! The load generator, a process of its own inside of a pod. Latency counts from when a request was
//! due: with a rate from its place in the schedule, without one from the end of the request before.

use super::{pace::Pace, server, wire::Wire, world::Pod};
use hdrhistogram::Histogram;
use nix::{sys::time::TimeValLike as _, time::ClockId};
use serde::{Deserialize, Serialize};
use std::{
    io::{BufRead as _, BufReader, Lines, Write as _},
    net::{IpAddr, SocketAddr},
    process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
    time::Instant,
};

/// Code paths and tunnels are warm before anything counts.
const WARM_UP: Duration = Duration::from_millis(500);
/// A connection that does not get its answer within this time is an error.
const PATIENCE: Duration = Duration::from_secs(20);
/// Bytes that go there and back.
const ROUND_TRIP: usize = 1 << 10;

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    pub what: What,
    /// At a time.
    pub connections: usize,
    /// Operations a second over all connections; 0: as fast as it goes.
    pub rate: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum What {
    /// HTTP/1.1 on connections that stay.
    Requests,
    /// A connection, one request, and the end of both.
    Connects,
    /// 1 KiB there and back on connections that stay.
    RoundTrips,
    /// Bytes from client to server.
    Up,
    /// Bytes from server to client.
    Down,
    /// One request on each connection, which is then held.
    Hold,
}

/// What came of a run.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Done {
    pub operations: u64,
    pub errors: u64,
    pub seconds: f64,
    /// Of bulk.
    pub bytes: u64,
    /// Microseconds at p50, p99.
    pub latency: [f64; 2],
    /// CPU time that the generator itself took, microseconds.
    pub own_cpu: f64,
}

/// A generator that is warm.
#[derive(Debug)]
pub struct Running {
    child: Child,
    input: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Job {
    load: Load,
    to: IpAddr,
    duration: Duration,
}

/// Starts a generator in a pod and waits until it is warm.
pub fn start(load: Load, from: &Pod, to: IpAddr, duration: Duration) -> Running {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env("CAIRN_BENCH_ROLE", "load").env("CAIRN_BENCH_JOB", serde_json::to_string(&Job { load, to, duration }).unwrap());
    let mut child = from.spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    lines.next();
    Running { input: child.stdin.take().unwrap(), child, lines }
}

impl Running {
    /// Begins what counts.
    pub fn go(&mut self) {
        // A generator that has ended says so by having nothing to tell.
        let _ = self.input.write_all(b"go\n");
    }

    /// Waits for the end of it. Connections stay open until this is dropped.
    pub fn done(&mut self) -> Done {
        let line = self.lines.next().and_then(Result::ok);
        let done = line.and_then(|line| serde_json::from_str(&line).ok());
        done.unwrap_or(Done { errors: 1, seconds: 1.0, ..Done::default() })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn main() -> ExitCode {
    let Job { load, to, duration } = serde_json::from_str(&std::env::var("CAIRN_BENCH_JOB").unwrap()).unwrap();
    // At a rate, one request would wait for another; and one thread alone cannot move bytes fast enough.
    let threads = if load.rate > 0 || matches!(load.what, What::Up | What::Down) { 2 } else { 1 };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build().unwrap();
    runtime.block_on(async {
        match load.what {
            What::Hold => {
                say("ready").await;
                let (done, held) = hold(load.connections, to).await;
                say(&serde_json::to_string(&done).unwrap()).await;
                drop(held);
            }
            What::Up | What::Down => {
                bulk(load, to, WARM_UP).await;
                say("ready").await;
                say(&serde_json::to_string(&bulk(load, to, duration).await).unwrap()).await;
            }
            What::Requests | What::Connects | What::RoundTrips => {
                let links = (0..load.connections).map(|_| None).collect();
                let (_, links) = work(load, to, links, WARM_UP).await;
                say("ready").await;
                let (done, links) = work(load, to, links, duration).await;
                say(&serde_json::to_string(&done).unwrap()).await;
                drop(links);
            }
        }
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
    errors: u64,
}

impl Tally {
    fn new() -> Self {
        Self { histogram: Histogram::new_with_bounds(1, 60_000_000, 3).unwrap(), errors: 0 }
    }
}

type Link = Option<Wire<TcpStream>>;

/// When a connection does its next.
#[derive(Clone)]
enum Turns {
    Paced(Arc<Pace>),
    Until(Instant),
}

impl Turns {
    /// When it is due; `None` at the end.
    async fn next(&self, connection: usize, turn: usize) -> Option<Instant> {
        match self {
            Self::Paced(pace) => pace.due(connection, turn).await,
            Self::Until(end) => Some(Instant::now()).filter(|now| now < end),
        }
    }
}

async fn work(load: Load, to: IpAddr, links: Vec<Link>, duration: Duration) -> (Done, Vec<Link>) {
    let start = Instant::now() + Duration::from_millis(5);
    let cpu = own_cpu();
    let turns = match load.rate {
        0 => Turns::Until(start + duration),
        rate => Turns::Paced(Pace::start(rate, load.connections, start, duration)),
    };
    let mut workers = JoinSet::new();
    for (number, link) in links.into_iter().enumerate() {
        let turns = turns.clone();
        workers.spawn(async move {
            tokio::time::sleep_until(start).await;
            worker(load.what, to, link, number, turns).await
        });
    }
    let (mut all, mut links) = (Tally::new(), Vec::new());
    while let Some(worker) = workers.join_next().await {
        let (tally, link) = worker.unwrap();
        all.histogram.add(&tally.histogram).unwrap();
        all.errors += tally.errors;
        links.push(link);
    }
    let at = |q: f64| all.histogram.value_at_quantile(q) as f64;
    let done = Done {
        operations: all.histogram.len(),
        errors: all.errors,
        seconds: start.elapsed().as_secs_f64(),
        bytes: 0,
        latency: [at(0.5), at(0.99)],
        own_cpu: own_cpu() - cpu,
    };
    (done, links)
}

async fn worker(what: What, to: IpAddr, mut link: Link, number: usize, turns: Turns) -> (Tally, Link) {
    let (mut tally, mut turn) = (Tally::new(), 0);
    while let Some(due) = turns.next(number, turn).await {
        turn += 1;
        match tokio::time::timeout(PATIENCE, exchange(what, to, &mut link)).await {
            Ok(Some(())) => drop(tally.histogram.record(due.elapsed().as_micros() as u64)),
            Ok(None) | Err(_) => {
                tally.errors += 1;
                link = None;
            }
        }
    }
    (tally, link)
}

/// One operation. `None` when it did not come to its end.
async fn exchange(what: What, to: IpAddr, link: &mut Link) -> Option<()> {
    if what == What::Connects {
        return ask(&mut open(to, server::HTTP).await?).await;
    }
    let is_http = what == What::Requests;
    if link.is_none() {
        *link = Some(open(to, if is_http { server::HTTP } else { server::ECHO }).await?);
    }
    let wire = link.as_mut()?;
    if is_http { ask(wire).await } else { round_trip(wire).await }
}

async fn open(to: IpAddr, port: u16) -> Option<Wire<TcpStream>> {
    connect(to, port).await.map(Wire::new)
}

async fn connect(to: IpAddr, port: u16) -> Option<TcpStream> {
    let stream = TcpStream::connect(SocketAddr::new(to, port)).await.ok()?;
    stream.set_nodelay(true).ok()?;
    Some(stream)
}

async fn ask(wire: &mut Wire<TcpStream>) -> Option<()> {
    wire.write(b"GET /1k HTTP/1.1\r\nhost: server\r\nuser-agent: bench\r\n\r\n").await?;
    let head = wire.response().await?;
    wire.skip(head.length).await?;
    (head.status == 200).then_some(())
}

async fn round_trip(wire: &mut Wire<TcpStream>) -> Option<()> {
    wire.write(&[b'r'; ROUND_TRIP]).await?;
    wire.skip(ROUND_TRIP as u64).await
}

async fn bulk(load: Load, to: IpAddr, duration: Duration) -> Done {
    let (start, cpu) = (Instant::now(), own_cpu());
    let mut streams = JoinSet::new();
    for _ in 0..load.connections {
        streams.spawn(async move {
            let end = start + duration;
            if load.what == What::Up { upload(to, end).await } else { download(to, end).await }
        });
    }
    let moved = streams.join_all().await;
    Done {
        operations: 0,
        errors: moved.iter().filter(|bytes| bytes.is_none()).count() as u64,
        seconds: start.elapsed().as_secs_f64(),
        bytes: moved.into_iter().flatten().sum(),
        latency: [0.0; 2],
        own_cpu: own_cpu() - cpu,
    }
}

/// Until all has arrived: what lies in buffers does not count as moved.
async fn upload(to: IpAddr, end: Instant) -> Option<u64> {
    let mut stream = connect(to, server::SINK).await?;
    let (buffer, mut sent) = (vec![b'u'; server::CHUNK], 0);
    while Instant::now() < end {
        stream.write_all(&buffer).await.ok()?;
        sent += buffer.len() as u64;
    }
    stream.shutdown().await.ok()?;
    let received = tokio::time::timeout(PATIENCE, stream.read_u64()).await.ok()?.ok()?;
    (received == sent).then_some(received)
}

async fn download(to: IpAddr, end: Instant) -> Option<u64> {
    let mut stream = connect(to, server::SOURCE).await?;
    let (mut buffer, mut received) = (vec![0; server::CHUNK], 0);
    while Instant::now() < end {
        received += tokio::time::timeout(PATIENCE, stream.read(&mut buffer)).await.ok()?.ok().filter(|read| *read > 0)? as u64;
    }
    Some(received)
}

/// Connections opened at a time; a listener's queue holds no more.
const OPENING: usize = 64;

/// Opens connections, each with one request, and keeps them.
async fn hold(wanted: usize, to: IpAddr) -> (Done, Vec<TcpStream>) {
    let mut workers = JoinSet::new();
    for worker in 0..OPENING {
        workers.spawn(async move {
            let mut held = Vec::new();
            for _ in (worker..wanted).step_by(OPENING) {
                let one = async {
                    let mut wire = open(to, server::HTTP).await?;
                    ask(&mut wire).await?;
                    // Without its buffer: they are many.
                    Some(wire.into_parts().1)
                };
                held.extend(tokio::time::timeout(PATIENCE, one).await.ok().flatten());
            }
            held
        });
    }
    let held: Vec<TcpStream> = workers.join_all().await.into_iter().flatten().collect();
    let operations = held.len() as u64;
    (Done { operations, errors: wanted as u64 - operations, seconds: 1.0, ..Done::default() }, held)
}

/// Microseconds.
fn own_cpu() -> f64 {
    ClockId::CLOCK_PROCESS_CPUTIME_ID.now().expect("there is a clock").num_nanoseconds() as f64 / 1000.0
}
