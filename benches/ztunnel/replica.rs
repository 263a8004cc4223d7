//! A waypoint that is scaled up under load: which of its instances get new connections. An instance
//! answers requests itself, and counts them.

use super::{
    load::{self, Load, What},
    node::{Mesh, Name, Nodes},
    plain,
    process::Owned,
    report::{Figures, Metric},
    wire::Wire,
    world::{Pod, REPLICAS, VIP, World},
};
use cairn::{
    hbone,
    runtime::drain,
    transport::{WorkloadCert, tls},
};
use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{Ipv4Addr, TcpListener as Blocking},
    process::{Command, ExitCode},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{net::TcpListener, time::Instant};

/// Where an instance says how many requests it has answered.
const COUNT: u16 = 9000;
/// New connections a second, each with one request.
const RATE: usize = 300;
/// Instances before.
const BEFORE: usize = 2;
/// How long requests are counted, before and after.
const WINDOW: Duration = Duration::from_secs(5);
/// From the change to when they are counted again.
const SETTLE: Duration = Duration::from_secs(10);

static ANSWERED: AtomicU64 = AtomicU64::new(0);

/// One round of it.
pub fn measure(world: &World) -> Figures {
    let instances: Vec<Owned> = world.replicas.iter().map(|pod| start(pod, world)).collect();
    world.write_manifests(BEFORE);
    let nodes = Nodes::start(Name::Cairn, world, Mesh::Manifests);
    let load = Load { what: What::Connects, connections: 16, rate: RATE };
    let mut running = load::start(load, &world.client, VIP.into(), WINDOW + SETTLE + WINDOW + Duration::from_secs(1));
    running.go();
    let before = window(world);
    world.write_manifests(REPLICAS);
    let changed = Instant::now();
    let at_change = counts(world);
    let mut reached = None;
    while changed.elapsed() < SETTLE {
        if reached.is_none() && counts(world).iter().zip(at_change).skip(BEFORE).all(|(now, then)| *now > then) {
            reached = Some(changed.elapsed());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let after = window(world);
    let done = running.done();
    drop((nodes, instances));
    let share = |count: u64| count as f64 * REPLICAS as f64 / after.iter().sum::<u64>().max(1) as f64;
    let per_second = |count: u64| count as f64 / WINDOW.as_secs_f64();
    let mut figures = Figures::from([
        (Metric::LeastShare, after.iter().copied().map(share).fold(f64::INFINITY, f64::min)),
        (Metric::MostShare, after.iter().copied().map(share).fold(0.0, f64::max)),
        // Never is longer than anyone waits.
        (Metric::AllReached, reached.map_or(f64::INFINITY, |reached| reached.as_secs_f64())),
        (Metric::P99, done.latency[1]),
        (Metric::Errors, done.errors as f64),
    ]);
    for (number, (before, after)) in before.iter().zip(after).enumerate() {
        figures.0.insert(Metric::Before(number as u8 + 1), per_second(*before));
        figures.0.insert(Metric::After(number as u8 + 1), per_second(after));
    }
    figures
}

/// What each instance answers in that time.
fn window(world: &World) -> [u64; REPLICAS] {
    let before = counts(world);
    std::thread::sleep(WINDOW);
    let after = counts(world);
    std::array::from_fn(|n| after[n] - before[n])
}

/// What each instance has answered so far.
fn counts(world: &World) -> [u64; REPLICAS] {
    std::array::from_fn(|n| count(&world.replicas[n]).expect("the instance runs"))
}

fn count(pod: &Pod) -> Option<u64> {
    let (_, text) = pod.netns.enter(|| plain::get((Ipv4Addr::LOCALHOST, COUNT).into(), "/")).ok()?;
    plain::metric(&text, "answered").map(|count| count as u64)
}

fn start(pod: &Pod, world: &World) -> Owned {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let certs = world.certs_dir().join("bench/waypoint");
    let process = Owned(pod.spawn(command.env("CAIRN_BENCH_ROLE", "replica").env("CAIRN_BENCH_CERTS", certs)));
    let deadline = Instant::now() + Duration::from_secs(10);
    while count(pod).is_none() {
        assert!(Instant::now() < deadline, "an instance does not answer");
        std::thread::sleep(Duration::from_millis(2));
    }
    process
}

pub fn main() -> ExitCode {
    let dir = std::path::PathBuf::from(std::env::var_os("CAIRN_BENCH_CERTS").unwrap());
    let read = |name: &str| std::fs::read(dir.join(name)).unwrap();
    let cert = Arc::new(WorkloadCert::from_pem(&read("cert-chain.pem"), &read("key.pem"), &read("roots.pem")).unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, hbone::HBONE_PORT)).await.unwrap();
        // Only now: who can be asked for the count also serves.
        std::thread::spawn(tell);
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            let _ = stream.set_nodelay(true);
            let cert = cert.clone();
            tokio::spawn(async move {
                let Ok((io, ..)) = tls::accept(stream, &cert, None).await else { return };
                let (_trigger, watch) = drain::new();
                let serve = |connect: hbone::Connect| drop(tokio::spawn(answer(connect)));
                let _ = hbone::serve(io, &hbone::Config::default(), watch, std::future::pending(), &tls::Standing::default(), serve).await;
            });
        }
    })
}

async fn answer(connect: hbone::Connect) -> Option<()> {
    let mut wire = Wire::new(connect.accept(None).ok()?);
    while let Some(head) = wire.request().await {
        wire.skip(head.length).await?;
        ANSWERED.fetch_add(1, Ordering::Relaxed);
        wire.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await?;
    }
    wire.close().await;
    Some(())
}

fn tell() {
    let listener = Blocking::bind((Ipv4Addr::LOCALHOST, COUNT)).unwrap();
    for mut stream in listener.incoming().flatten() {
        // To the end of it: closed with something unread, the connection would be reset.
        let _ = BufReader::new(&stream).lines().map_while(Result::ok).find(String::is_empty);
        let _ = write!(stream, "HTTP/1.1 200 OK\r\n\r\nanswered {}\n", ANSWERED.load(Ordering::Relaxed));
    }
}
