//! Tunnels over loopback and over memory, with real TLS where it matters.

mod gateway;
mod pool;
mod rotation;
mod serving;
mod streams;
mod wire;

use super::*;
use crate::{
    model::Identity,
    runtime::{DrainTrigger, drain},
    transport::{CertError, CertFuture, CertSource, ReplacedFuture, Sockets, WorkloadCert, tls},
};
use h2::Reason;
use http::{HeaderMap, HeaderValue, StatusCode};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use std::{
    future::pending,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, duplex},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc, oneshot, watch},
    task::JoinSet,
};

const PATIENCE: Duration = Duration::from_secs(20);

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("took too long: {what}"))
}

async fn eventually(what: &str, check: impl Fn() -> bool) {
    soon(what, async {
        while !check() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

/// A certificate that can be replaced.
#[derive(Debug)]
struct Certs(watch::Sender<Arc<WorkloadCert>>);

impl CertSource for Certs {
    fn fetch<'a>(&'a self, _: &'a Identity) -> CertFuture<'a> {
        let cert = self.0.borrow().clone();
        Box::pin(std::future::ready(Ok(cert)))
    }

    fn replaced<'a>(&'a self, cert: &'a Arc<WorkloadCert>) -> ReplacedFuture<'a> {
        let mut current = self.0.subscribe();
        Box::pin(async move { drop(current.wait_for(|current| !Arc::ptr_eq(current, cert)).await) })
    }
}

fn identity(account: &str) -> Identity {
    Identity::new("td", "ns", account).unwrap()
}

/// A root that certifies workloads.
struct Ca {
    issuer: Issuer<'static, KeyPair>,
    root_pem: String,
}

impl Ca {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root_pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), root_pem }
    }
}

fn issue(ca: &Ca, account: &str) -> Arc<WorkloadCert> {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(identity(account).as_str().try_into().unwrap())];
    let chain = params.signed_by(&key, &ca.issuer).unwrap().pem();
    Arc::new(WorkloadCert::from_pem(chain.as_bytes(), key.serialize_pem().as_bytes(), ca.root_pem.as_bytes()).unwrap())
}

// What the peer does with a CONNECT is asked for by its authority.
const SILENT: &str = "silent.example:1";
const REFUSE: &str = "refuse.example:1";
const ECHO: &str = "echo.example:1";

/// What the peer says of itself.
const BAGGAGE: &str = "service.name=echo";

/// A CONNECT as a peer saw it.
#[derive(Debug, Clone)]
struct Seen {
    client: Identity,
    authority: String,
    headers: HeaderMap,
}

/// A peer that accepts tunnels and echoes.
struct Peer {
    address: SocketAddr,
    tunnels: Arc<AtomicUsize>,
    ended: Arc<AtomicUsize>,
    // Oldest first.
    seen: Arc<Mutex<Vec<Seen>>>,
    // One for each tunnel, oldest first.
    drains: Arc<Mutex<Vec<DrainTrigger>>>,
    handshakes: Arc<Semaphore>,
    _task: JoinSet<()>,
}

impl Peer {
    async fn start(cert: Arc<WorkloadCert>, config: Config) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (tunnels, ended): (Arc<AtomicUsize>, Arc<AtomicUsize>) = Default::default();
        let drains: Arc<Mutex<Vec<DrainTrigger>>> = Arc::default();
        let handshakes = Arc::new(Semaphore::new(Semaphore::MAX_PERMITS));
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let heard = seen.clone();
        let mut task = JoinSet::new();
        let (count, ends, triggers, gate) = (tunnels.clone(), ended.clone(), drains.clone(), handshakes.clone());
        task.spawn(async move {
            let mut serving = JoinSet::new();
            while let Ok((io, _)) = listener.accept().await {
                let (cert, config, gate, ends, heard) = (cert.clone(), config.clone(), gate.clone(), ends.clone(), heard.clone());
                count.fetch_add(1, Ordering::SeqCst);
                let (trigger, watch) = drain::new();
                triggers.lock().unwrap().push(trigger);
                serving.spawn(async move {
                    gate.acquire().await.unwrap().forget();
                    let Ok((io, client, standing)) = tls::accept(io, &cert, config.revocation.as_ref()).await else { return };
                    let mut streams = JoinSet::new();
                    let on_connect = |connect: Connect| {
                        let (authority, headers) = (connect.authority().to_owned(), connect.headers().clone());
                        heard.lock().unwrap().push(Seen { client: client.clone(), authority, headers });
                        streams.spawn(answer(connect));
                    };
                    let _ = serve(io, &config, watch, pending(), &standing, on_connect).await;
                    ends.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        Self { address, tunnels, ended, seen, drains, handshakes, _task: task }
    }

    fn tunnels(&self) -> usize {
        self.tunnels.load(Ordering::SeqCst)
    }

    fn open(&self) -> usize {
        self.tunnels() - self.ended.load(Ordering::SeqCst)
    }

    fn key(&self) -> PoolKey {
        PoolKey::direct(identity("client"), [identity("server")].into(), self.address)
    }

    /// GOAWAY on a tunnel.
    fn go_away(&self, tunnel: usize) {
        self.drains.lock().unwrap()[tunnel].start();
    }
}

async fn answer(connect: Connect) {
    match connect.authority() {
        SILENT => {
            let _connect = connect;
            pending().await
        }
        REFUSE => connect.refuse(StatusCode::SERVICE_UNAVAILABLE),
        // As a gateway does, whose services are for once called by their addresses.
        authority if authority.parse::<SocketAddr>().is_ok() => {
            let mut far = TcpStream::connect(authority).await.unwrap();
            let Ok(mut io) = connect.accept(None) else { return };
            let _ = tokio::io::copy_bidirectional(&mut io, &mut far).await;
        }
        _ => {
            let Ok(io) = connect.accept(Some(&HeaderValue::from_static(BAGGAGE))) else { return };
            echo(io).await;
        }
    }
}

async fn echo(io: TunnelIo) {
    let (mut read, mut write) = tokio::io::split(io);
    let _ = tokio::io::copy(&mut read, &mut write).await;
    let _ = write.shutdown().await;
}

struct World {
    ca: Ca,
    certs: Arc<Certs>,
    peer: Peer,
    pool: Pool,
}

impl World {
    async fn new(client: Config, server: Config) -> Self {
        let ca = Ca::new();
        let certs = Arc::new(Certs(watch::Sender::new(issue(&ca, "client"))));
        let peer = Peer::start(issue(&ca, "server"), server).await;
        let pool = Pool::new(client, certs.clone(), Sockets::default());
        Self { ca, certs, peer, pool }
    }

    async fn open(&self) -> TunnelIo {
        soon("CONNECT", self.pool.connect(&self.peer.key(), ECHO, &ConnectHeaders::default())).await.unwrap().io
    }

    /// Many at once.
    async fn burst(&self, n: usize) -> Vec<Result<TunnelIo, TunnelError>> {
        let key = self.peer.key();
        let headers = ConnectHeaders::default();
        let all = (0..n).map(|_| self.pool.connect(&key, ECHO, &headers));
        let all = soon("burst", futures_util::future::join_all(all)).await;
        all.into_iter().map(|opened| opened.map(|opened| opened.io)).collect()
    }
}

/// Never spreads.
fn plain() -> Config {
    Config { spread_threshold: usize::MAX, ..Config::default() }
}

async fn ping(io: &mut TunnelIo) {
    io.write_all(b"ping").await.unwrap();
    let mut read = [0; 4];
    soon("echo", io.read_exact(&mut read)).await.unwrap();
    assert_eq!(&read, b"ping");
}

/// A tunnel over memory whose CONNECTs the test holds, and whose client is plain `h2`.
struct Held {
    send: h2::client::SendRequest<bytes::Bytes>,
    connects: mpsc::Receiver<Connect>,
    end: tokio::task::JoinHandle<Result<(), ServerEnd>>,
    client: tokio::task::JoinHandle<Result<(), h2::Error>>,
    replaced: oneshot::Sender<()>,
    _trigger: DrainTrigger,
}

async fn held(config: Config) -> Held {
    let (near, far) = duplex(64 << 10);
    let (sender, connects) = mpsc::channel(10_000);
    let (trigger, watch) = drain::new();
    let (replaced, told) = oneshot::channel();
    let outdated = async {
        if told.await.is_err() {
            pending().await
        }
    };
    let end = tokio::spawn(async move {
        serve(far, &config, watch, outdated, &tls::Standing::default(), |connect| sender.try_send(connect).unwrap()).await
    });
    let (send, connection) = h2::client::handshake(near).await.unwrap();
    let client = tokio::spawn(connection);
    Held { send, connects, end, client, replaced, _trigger: trigger }
}

impl Held {
    async fn connect(&mut self) -> (h2::client::ResponseFuture, h2::SendStream<bytes::Bytes>) {
        let mut send = self.send.clone().ready().await.unwrap();
        send.send_request(http::Request::connect("10.0.0.1:80").body(()).unwrap(), false).unwrap()
    }
}
