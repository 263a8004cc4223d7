//! The load generator. Latency counts from when a request was due: with a rate from its place in the
//! schedule, without one from the end of the request before.

use super::{
    case::{self, Case},
    proxy::{Proxy, Site},
    workload,
};
use bytes::Bytes;
use cairn::{
    cert::StaticCertSource,
    hbone::{self, ConnectHeaders, Pool, PoolKey},
    model::Identity,
};
use hdrhistogram::Histogram;
use http::{Request, Version};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde::{Deserialize, Serialize};
use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::SocketAddr,
    process::{Command, ExitCode, Stdio},
    sync::Arc,
    time::Duration,
};
use tokio::{task::JoinSet, time::Instant};

/// What came of a run.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Done {
    pub requests: u64,
    pub errors: u64,
    pub seconds: f64,
    pub bytes: u64,
    /// Microseconds at p50, p90, p99, p99.9.
    pub latency: [f64; 4],
    /// Of the proxy while idle streams are open, bytes for each; filled in by `run`.
    pub per_stream: Option<f64>,
    pub streams: u64,
}

/// Starts a load generator and waits for it.
pub fn run(site: &Site, proxy: &Proxy, case: &Case, duration: Duration) -> Done {
    let before = proxy.rss();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .env("CAIRN_BENCH_ROLE", "load")
        .env("CAIRN_BENCH_CERTS", site.certs("client"))
        .env("CAIRN_BENCH_CASE", case.name)
        .env("CAIRN_BENCH_ADDRESS", proxy.address.to_string())
        .env("CAIRN_BENCH_TARGET", site.service.to_string())
        .env("CAIRN_BENCH_MILLIS", duration.as_millis().to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    // A proxy under which the generator breaks down has no figures, and says so by its errors.
    let line = lines.next().and_then(Result::ok);
    let mut done = line.and_then(|l| serde_json::from_str(&l).ok()).unwrap_or(Done { errors: 1, seconds: 1.0, ..Done::default() });
    if done.streams > 0 {
        done.per_stream = Some((proxy.rss().saturating_sub(before)) as f64 / done.streams as f64);
    }
    drop(child.stdin.take());
    child.wait().unwrap();
    done
}

pub fn main() -> ExitCode {
    let var = |name: &str| std::env::var(format!("CAIRN_BENCH_{name}")).unwrap();
    let case = case::by_name(&var("CASE"));
    let duration = Duration::from_millis(var("MILLIS").parse().unwrap());
    let proxy: SocketAddr = var("ADDRESS").parse().unwrap();
    let cert = Arc::new(workload::cert(std::path::Path::new(&var("CERTS"))));
    let waypoint = Identity::new("cluster.local", "bench", "waypoint").unwrap();
    let key = PoolKey { source: cert.identity().clone(), destinations: [waypoint].into(), address: proxy };
    let config = hbone::Config { max_streams_per_tunnel: 1_000_000, spread_threshold: usize::MAX, ..hbone::Config::default() };
    // One pool for each tunnel: where connections go is decided here.
    let tunnels = (0..case.tunnels).map(|_| Pool::new(config.clone(), Arc::new(StaticCertSource::new(cert.clone()))));
    let client = Arc::new(Client { tunnels: tunnels.collect(), key, target: var("TARGET"), case });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let done = if case.idle_streams > 0 { idle(&client).await } else { load(client.clone(), duration).await };
        println!("{}", serde_json::to_string(&done.0).unwrap());
        std::io::stdout().flush().unwrap();
        // Held open until the one who measures has looked.
        let _ = tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new())).await;
        drop(done.1);
    });
    ExitCode::SUCCESS
}

#[derive(Debug)]
struct Client {
    tunnels: Vec<Pool>,
    key: PoolKey,
    target: String,
    case: &'static Case,
}

/// A connection inside a tunnel.
enum Connection {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Client {
    async fn stream(&self, number: usize) -> hbone::TunnelIo {
        self.try_stream(number).await.expect("CONNECT is accepted")
    }

    async fn try_stream(&self, number: usize) -> Result<hbone::TunnelIo, hbone::TunnelError> {
        let pool = &self.tunnels[number % self.tunnels.len()];
        pool.connect(&self.key, &self.target, &ConnectHeaders::default()).await.map(|(io, _)| io)
    }

    async fn open(&self, number: usize) -> Connection {
        let io = TokioIo::new(self.stream(number).await);
        if self.case.http2 {
            let (send, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
            tokio::spawn(connection);
            return Connection::Http2(send);
        }
        let (send, connection) = http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        Connection::Http1(send)
    }

    fn request(&self) -> Request<Full<Bytes>> {
        static BODY: [u8; 64 << 10] = [b'u'; 64 << 10];
        let body = Full::new(Bytes::from_static(&BODY[..self.case.upload]));
        let method = if self.case.upload > 0 { "POST" } else { "GET" };
        let path = if self.case.http2 { format!("http://reviews{}", self.case.path) } else { self.case.path.to_owned() };
        let version = if self.case.http2 { Version::HTTP_2 } else { Version::HTTP_11 };
        Request::builder()
            .method(method)
            .uri(path)
            .version(version)
            .header("host", "reviews")
            .header("user-agent", "bench")
            .body(body)
            .unwrap()
    }
}

impl Connection {
    /// Bytes of the answer's body; `None` for anything but a whole 200.
    async fn exchange(&mut self, request: Request<Full<Bytes>>) -> Option<u64> {
        let response = match self {
            Self::Http1(send) => {
                send.ready().await.ok()?;
                send.send_request(request).await.ok()?
            }
            Self::Http2(send) => {
                send.ready().await.ok()?;
                send.send_request(request).await.ok()?
            }
        };
        let ok = response.status() == 200;
        let mut body = response.into_body();
        let mut bytes = 0;
        while let Some(frame) = body.frame().await {
            bytes += frame.ok()?.data_ref().map_or(0, |d| d.len() as u64);
        }
        ok.then_some(bytes)
    }
}

struct Worker {
    histogram: Histogram<u64>,
    requests: u64,
    errors: u64,
    bytes: u64,
}

async fn load(client: Arc<Client>, duration: Duration) -> (Done, Vec<hbone::TunnelIo>) {
    let case = client.case;
    let mut workers = JoinSet::new();
    let barrier = Arc::new(tokio::sync::Barrier::new(case.connections));
    for number in 0..case.connections {
        let (client, barrier) = (client.clone(), barrier.clone());
        workers.spawn(async move {
            let mut connection = client.open(number).await;
            barrier.wait().await;
            work(&client, &mut connection, number, duration).await
        });
    }
    let mut all = Worker { histogram: histogram(), requests: 0, errors: 0, bytes: 0 };
    while let Some(worker) = workers.join_next().await {
        let worker = worker.unwrap();
        all.histogram.add(&worker.histogram).unwrap();
        all.requests += worker.requests;
        all.errors += worker.errors;
        all.bytes += worker.bytes;
    }
    let at = |q: f64| all.histogram.value_at_quantile(q) as f64;
    let latency = [at(0.5), at(0.9), at(0.99), at(0.999)];
    let done =
        Done { requests: all.requests, errors: all.errors, seconds: duration.as_secs_f64(), bytes: all.bytes, latency, ..Done::default() };
    (done, Vec::new())
}

async fn work(client: &Client, connection: &mut Connection, number: usize, duration: Duration) -> Worker {
    let case = client.case;
    let mut worker = Worker { histogram: histogram(), requests: 0, errors: 0, bytes: 0 };
    let start = Instant::now();
    let interval = (case.rate > 0).then(|| Duration::from_secs_f64(case.connections as f64 / case.rate as f64));
    // Spread evenly: connections do not all fire at the same moment.
    let mut due = start + interval.map_or(Duration::ZERO, |i| i.mul_f64(number as f64 / case.connections as f64));
    while due < start + duration {
        match interval {
            Some(_) => tokio::time::sleep_until(due).await,
            None => due = Instant::now(),
        }
        if case.stream_per_request {
            *connection = client.open(number).await;
        }
        match connection.exchange(client.request()).await {
            Some(bytes) => {
                worker.requests += 1;
                worker.bytes += bytes + case.upload as u64;
                let _ = worker.histogram.record(due.elapsed().as_micros() as u64);
            }
            None => {
                worker.errors += 1;
                *connection = client.open(number).await;
            }
        }
        due = interval.map_or_else(Instant::now, |i| due + i);
    }
    worker
}

async fn idle(client: &Client) -> (Done, Vec<hbone::TunnelIo>) {
    let mut streams = Vec::with_capacity(client.case.idle_streams);
    let mut errors = 0;
    for number in 0..client.case.idle_streams {
        match client.try_stream(number).await {
            Ok(stream) => streams.push(stream),
            Err(_) => {
                errors = (client.case.idle_streams - number) as u64;
                break;
            }
        }
    }
    (Done { streams: streams.len() as u64, errors, seconds: 1.0, ..Done::default() }, streams)
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000, 3).unwrap()
}
