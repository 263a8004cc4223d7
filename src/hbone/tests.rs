//! Tunnels over loopback and over memory, with real TLS where it matters.

mod gateway;
mod rotation;
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
                    let Ok((io, client)) = tls::accept(io, &cert).await else { return };
                    let mut streams = JoinSet::new();
                    let on_connect = |connect: Connect| {
                        let (authority, headers) = (connect.authority().to_owned(), connect.headers().clone());
                        heard.lock().unwrap().push(Seen { client: client.clone(), authority, headers });
                        streams.spawn(answer(connect));
                    };
                    let _ = serve(io, &config, watch, pending(), on_connect).await;
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

#[tokio::test]
async fn a_tunnel_is_used_again_by_the_same_key_and_by_no_other() {
    let world = World::new(plain(), Config::default()).await;
    let (mut first, mut second) = (world.open().await, world.open().await);
    ping(&mut first).await;
    ping(&mut second).await;
    drop((first, second));
    ping(&mut world.open().await).await;
    assert_eq!((world.peer.tunnels(), world.pool.tunnels()), (1, 1));
    let key = world.peer.key();
    let both: Arc<[Identity]> = [identity("server"), identity("other")].into();
    let other_source = PoolKey { source: identity("another"), ..key.clone() };
    let other_expectation = PoolKey { destinations: both, ..key };
    for (opened, key) in [other_source, other_expectation].iter().enumerate() {
        let _io = soon("CONNECT", world.pool.connect(key, ECHO, &ConnectHeaders::default())).await.unwrap();
        assert_eq!(world.peer.tunnels(), opened + 2, "{key:?}");
    }
}

/// A certificate for each identity.
#[derive(Debug)]
struct Each(Vec<Arc<WorkloadCert>>);

impl CertSource for Each {
    fn fetch<'a>(&'a self, identity: &'a Identity) -> CertFuture<'a> {
        let cert = self.0.iter().find(|cert| cert.identity() == identity).cloned();
        Box::pin(std::future::ready(cert.ok_or_else(|| CertError::Unknown(identity.clone()))))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_sources_and_peers_at_once_never_share_a_tunnel() {
    const SOURCES: usize = 6;
    const STREAMS: usize = 20;
    let ca = Ca::new();
    let names: Vec<_> = (0..SOURCES).map(|n| format!("client-{n}")).collect();
    let certs = Each(names.iter().map(|name| issue(&ca, name)).collect());
    let pool = Pool::new(plain(), Arc::new(certs), Sockets::default());
    let peers = [Peer::start(issue(&ca, "one"), Config::default()).await, Peer::start(issue(&ca, "two"), Config::default()).await];
    let mut streams = JoinSet::new();
    for (peer, account) in peers.iter().zip(["one", "two"]) {
        for name in names.iter().cycle().take(SOURCES * STREAMS) {
            let key = PoolKey::direct(identity(name), [identity(account)].into(), peer.address);
            let (pool, account, name) = (pool.clone(), account.to_owned(), name.clone());
            streams.spawn(async move {
                let opened = soon("CONNECT", pool.connect(&key, &format!("{name}:1"), &ConnectHeaders::default())).await;
                let mut opened = opened.unwrap();
                assert_eq!(opened.peer, identity(&account));
                ping(&mut opened.io).await;
            });
        }
    }
    soon("streams", streams.join_all()).await;
    for peer in &peers {
        let seen = peer.seen.lock().unwrap();
        assert_eq!((seen.len(), peer.tunnels()), (SOURCES * STREAMS, SOURCES));
        assert!(seen.iter().all(|seen| seen.authority == format!("{}:1", seen.client.service_account())));
    }
}

#[tokio::test]
async fn without_a_certificate_there_is_no_tunnel() {
    let world = World::new(plain(), Config::default()).await;
    let pool = Pool::new(plain(), Arc::new(Each(Vec::new())), Sockets::default());
    let opened = soon("refusal", pool.connect(&world.peer.key(), ECHO, &ConnectHeaders::default())).await;
    assert!(matches!(opened, Err(TunnelError::Certificate(CertError::Unknown(_)))), "{opened:?}");
    assert_eq!(world.peer.tunnels(), 0);
}

#[tokio::test]
async fn a_burst_opens_one_tunnel_and_shares_it() {
    let world = World::new(plain(), Config::default()).await;
    let streams = world.burst(50).await;
    assert!(streams.iter().all(Result::is_ok));
    assert_eq!(world.peer.tunnels(), 1);
}

#[tokio::test]
async fn load_is_spread_over_several_tunnels_from_the_threshold_on() {
    let world = World::new(Config { spread_threshold: 4, spread_tunnels: 3, ..Config::default() }, Config::default()).await;
    let mut open = Vec::new();
    for n in 1..=20 {
        open.push(world.open().await);
        let want = match n {
            1..=4 => 1,
            5..=8 => 2,
            _ => 3,
        };
        assert_eq!(world.peer.tunnels(), want, "after {n} streams");
    }
}

#[tokio::test]
async fn a_full_tunnel_opens_another_whether_full_by_our_limit_or_by_the_peers() {
    for (ours, theirs) in [(2, 1024), (100, 2)] {
        let client = Config { max_streams_per_tunnel: ours, ..plain() };
        let world = World::new(client, Config { max_concurrent_streams: theirs, ..Config::default() }).await;
        // The peer's limit is known once its SETTINGS are there, which come before its first answer.
        let mut open = vec![world.open().await];
        for _ in 1..5 {
            open.push(world.open().await);
        }
        for io in &mut open {
            ping(io).await;
        }
        assert_eq!(world.peer.tunnels(), 3, "limits {ours} and {theirs}");
    }
}

#[tokio::test]
async fn a_dropped_stream_frees_its_place() {
    let world = World::new(Config { max_streams_per_tunnel: 1, ..plain() }, Config::default()).await;
    for _ in 0..5 {
        ping(&mut world.open().await).await;
    }
    assert_eq!(world.peer.tunnels(), 1);
}

#[tokio::test]
async fn a_tunnel_that_got_goaway_is_replaced_once_and_its_streams_go_on() {
    let world = World::new(plain(), Config::default()).await;
    let mut old = world.open().await;
    ping(&mut old).await;
    world.peer.go_away(0);
    for io in world.burst(20).await {
        ping(&mut io.expect("nobody notices")).await;
    }
    ping(&mut old).await;
    // The GOAWAY may still be on its way when the burst begins; then the old tunnel serves some of it.
    ping(&mut world.open().await).await;
    assert!(world.peer.tunnels() <= 2, "{} tunnels", world.peer.tunnels());
    old.shutdown().await.unwrap();
    let mut rest = Vec::new();
    soon("end", old.read_to_end(&mut rest)).await.unwrap();
    eventually("the old tunnel closes", || world.pool.tunnels() == 1).await;
}

#[tokio::test]
async fn a_connect_that_is_not_answered_times_out_and_frees_its_place() {
    let world = World::new(Config { connect_timeout: Duration::from_millis(50), ..plain() }, Config::default()).await;
    let key = world.peer.key();
    let silent = soon("timeout", world.pool.connect(&key, SILENT, &ConnectHeaders::default())).await;
    assert!(matches!(silent, Err(TunnelError::Stream(ConnectError::Timeout))), "{silent:?}");
    let refused = soon("refusal", world.pool.connect(&key, REFUSE, &ConnectHeaders::default())).await;
    assert!(matches!(refused, Err(TunnelError::Stream(ConnectError::Refused(StatusCode::SERVICE_UNAVAILABLE)))), "{refused:?}");
    ping(&mut world.open().await).await;
    assert_eq!(world.peer.tunnels(), 1);
}

#[tokio::test]
async fn a_handshake_that_hangs_fails_all_who_wait_for_it_at_once() {
    let timeout = Duration::from_millis(200);
    let world = World::new(Config { handshake_timeout: timeout, ..plain() }, Config::default()).await;
    // The listener accepts, and TLS never begins.
    world.peer.handshakes.forget_permits(Semaphore::MAX_PERMITS);
    let started = tokio::time::Instant::now();
    for opened in world.burst(50).await {
        assert!(matches!(opened, Err(TunnelError::Timeout(_))), "{opened:?}");
    }
    assert!(started.elapsed() < timeout * 10, "one after the other: {:?}", started.elapsed());
    assert_eq!(world.peer.tunnels(), 1);
    world.peer.handshakes.add_permits(10);
    ping(&mut world.open().await).await;
}

#[tokio::test]
async fn the_wrong_peer_gets_nothing() {
    let world = World::new(plain(), Config::default()).await;
    let key = PoolKey { destinations: [identity("somebody")].into(), ..world.peer.key() };
    let opened = soon("refusal", world.pool.connect(&key, ECHO, &ConnectHeaders::default())).await;
    assert!(matches!(opened, Err(TunnelError::Tls(tls::TlsError::UnexpectedIdentity { .. }))), "{opened:?}");
}

#[tokio::test]
async fn a_tunnel_that_got_no_stream_for_long_is_forgotten_and_its_streams_go_on() {
    let world = World::new(Config { idle_timeout: Duration::from_millis(20), ..plain() }, Config::default()).await;
    let mut io = world.open().await;
    eventually("the tunnel is swept", || {
        world.pool.sweep();
        world.pool.tunnels() == 0
    })
    .await;
    ping(&mut io).await;
    ping(&mut world.open().await).await;
    assert_eq!(world.peer.tunnels(), 2);
    drop(io);
    eventually("the forgotten tunnel closes", || world.peer.open() <= 1).await;
}

#[tokio::test]
async fn a_tunnel_in_use_is_not_swept() {
    let world = World::new(plain(), Config::default()).await;
    drop(world.open().await);
    world.pool.sweep();
    assert_eq!((world.pool.tunnels(), world.peer.open()), (1, 1));
}

#[tokio::test]
async fn an_old_tunnel_takes_no_new_streams_and_closes_with_its_last() {
    let world = World::new(Config { max_tunnel_age: Duration::from_millis(20), ..plain() }, Config::default()).await;
    let mut old = world.open().await;
    soon("another tunnel", async {
        while world.peer.tunnels() < 2 {
            ping(&mut world.open().await).await;
        }
    })
    .await;
    ping(&mut old).await;
    drop(old);
    eventually("old tunnels close", || {
        world.pool.sweep();
        world.peer.open() == 0
    })
    .await;
}

#[tokio::test]
async fn what_is_not_retained_takes_no_new_streams() {
    let world = World::new(plain(), Config::default()).await;
    let key = world.peer.key();
    let mut old = world.open().await;
    world.pool.retain(|kept| *kept == key);
    ping(&mut world.open().await).await;
    assert_eq!(world.peer.tunnels(), 1, "kept");
    world.pool.retain(|kept| kept.source != key.source);
    assert_eq!(world.pool.tunnels(), 0);
    let mut new = world.open().await;
    ping(&mut old).await;
    ping(&mut new).await;
    assert_eq!(world.peer.tunnels(), 2, "forgotten");
    drop(old);
    eventually("the forgotten tunnel closes", || world.peer.open() == 1).await;
    ping(&mut new).await;
}

#[tokio::test]
async fn beyond_the_last_tunnel_streams_share_and_then_wait_for_a_place() {
    let client = Config { max_streams_per_tunnel: 2, max_tunnels: 2, connect_timeout: Duration::from_millis(100), ..plain() };
    let world = World::new(client, Config { max_concurrent_streams: 3, ..Config::default() }).await;
    let mut open = Vec::new();
    for _ in 0..6 {
        open.push(world.open().await);
    }
    assert_eq!(world.peer.tunnels(), 2);
    let late = soon("timeout", world.pool.connect(&world.peer.key(), ECHO, &ConnectHeaders::default())).await;
    assert!(matches!(late, Err(TunnelError::Stream(ConnectError::Timeout))), "{late:?}");
    // One on each tunnel.
    let (waiting, ()) = tokio::join!(world.open(), async { open.truncate(4) });
    open.push(waiting);
    for io in &mut open {
        ping(io).await;
    }
    assert_eq!(world.peer.tunnels(), 2);
}

/// A stream over memory, seen from both of its ends.
async fn pair(config: Config) -> (TunnelIo, TunnelIo, JoinSet<()>) {
    let (near, far) = duplex(64 << 10);
    let (sender, mut receiver) = mpsc::channel(1);
    let mut tasks = JoinSet::new();
    let server = config.clone();
    tasks.spawn(async move {
        let (_trigger, watch) = drain::new();
        let _ = serve(far, &server, watch, pending(), |connect| sender.try_send(connect.accept(None).unwrap()).unwrap()).await;
    });
    let client = Client::handshake(near, &config, pending()).await.unwrap();
    let connect = client.reserve();
    let headers = ConnectHeaders::default();
    let (theirs, ours) = soon("stream", async { tokio::join!(receiver.recv(), connect.connect(ECHO, &headers, &config)) }).await;
    (ours.unwrap().0, theirs.unwrap(), tasks)
}

#[tokio::test]
async fn each_direction_ends_on_its_own() {
    let (mut near, mut far, _tasks) = pair(Config::default()).await;
    near.write_all(b"first").await.unwrap();
    near.shutdown().await.unwrap();
    let mut read = String::new();
    soon("end", far.read_to_string(&mut read)).await.unwrap();
    assert_eq!(read, "first");
    far.write_all(b"still open").await.unwrap();
    far.shutdown().await.unwrap();
    read.clear();
    soon("end", near.read_to_string(&mut read)).await.unwrap();
    assert_eq!(read, "still open");
    let (mut client, mut server, _tasks) = pair(Config::default()).await;
    server.shutdown().await.unwrap();
    assert_eq!(soon("end", client.read(&mut [0; 8])).await.unwrap(), 0);
    client.write_all(b"after").await.unwrap();
    let mut read = [0; 5];
    soon("data", server.read_exact(&mut read)).await.unwrap();
    assert_eq!(&read, b"after");
}

#[tokio::test]
async fn a_reset_is_an_error_and_a_cancel_is_an_end() {
    for (reason, want) in [
        (Some(Reason::CONNECT_ERROR), Err(std::io::ErrorKind::ConnectionReset)),
        (Some(Reason::INTERNAL_ERROR), Err(std::io::ErrorKind::ConnectionReset)),
        (Some(Reason::STREAM_CLOSED), Err(std::io::ErrorKind::BrokenPipe)),
        (Some(Reason::CANCEL), Ok(0)),
        (Some(Reason::NO_ERROR), Ok(0)),
        (None, Ok(0)),
    ] {
        let (mut client, mut server, _tasks) = pair(Config::default()).await;
        match reason {
            Some(reason) => server.reset(reason),
            None => drop(server),
        }
        let read = soon("end", client.read(&mut [0; 8])).await.map_err(|e| e.kind());
        assert_eq!(read, want, "{reason:?}");
        let written = client.write_all(b"x").await;
        assert!(written.is_err(), "{reason:?}: nobody reads");
    }
}

#[tokio::test]
async fn the_peer_gone_is_an_error_for_the_reader() {
    let (mut client, server, mut tasks) = pair(Config::default()).await;
    tasks.shutdown().await;
    assert!(soon("end", client.read(&mut [0; 8])).await.is_err());
    drop(server);
}

async fn send(mut to: impl AsyncWrite + Unpin, total: usize) {
    let chunk: Vec<u8> = (0..65_521u32).map(|n| n as u8).collect();
    let mut left = total;
    while left > 0 {
        let n = left.min(chunk.len());
        to.write_all(&chunk[..n]).await.unwrap();
        left -= n;
    }
    to.shutdown().await.unwrap();
}

async fn receive(mut from: impl AsyncRead + Unpin) -> usize {
    let (mut total, mut buf) = (0, vec![0; 100_000]);
    loop {
        let n = from.read(&mut buf).await.unwrap();
        if n == 0 {
            return total;
        }
        // Position by position, against what `send` wrote.
        assert!((0..n).step_by(997).all(|i| buf[i] == ((total + i) % 65_521) as u8), "bytes are in order");
        total += n;
    }
}

#[tokio::test]
async fn sixty_four_mebibytes_pass_both_ways_at_once_through_small_windows() {
    const TOTAL: usize = 64 << 20;
    let config = Config { stream_window: 256 << 10, connection_window: 512 << 10, max_frame_size: 16 << 10, ..Config::default() };
    let (client, server, _tasks) = pair(config).await;
    let ((client_read, client_write), (server_read, server_write)) = (tokio::io::split(client), tokio::io::split(server));
    let all = async { tokio::join!(send(client_write, TOTAL), send(server_write, TOTAL), receive(client_read), receive(server_read)) };
    let ((), (), down, up) = tokio::time::timeout(Duration::from_secs(120), all).await.expect("no deadlock");
    assert_eq!((down, up), (TOTAL, TOTAL));
}

#[tokio::test]
async fn a_writer_waits_for_a_reader_that_does_not_read() {
    let config = Config { stream_window: 64 << 10, ..Config::default() };
    let (mut client, mut server, _tasks) = pair(config.clone()).await;
    let mut sent = 0;
    let chunk = vec![7; 32 << 10];
    // Pending for long means that it waits: what was taken must then be bounded by the windows and the send buffer.
    while let Ok(n) = tokio::time::timeout(Duration::from_millis(200), client.write(&chunk)).await {
        sent += n.unwrap();
        assert!(sent <= config.stream_window as usize + config.client_send_buffer, "{sent} bytes without a reader");
    }
    client.shutdown().await.unwrap();
    let mut read = Vec::new();
    soon("rest", server.read_to_end(&mut read)).await.unwrap();
    assert_eq!(read.len(), sent);
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
    let end = tokio::spawn(async move { serve(far, &config, watch, outdated, |connect| sender.try_send(connect).unwrap()).await });
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

#[tokio::test(start_paused = true)]
async fn a_tunnel_without_a_first_connect_is_told_to_go() {
    let config = Config { first_connect_timeout: Duration::from_secs(3), ..Config::default() };
    let held = held(config).await;
    let started = tokio::time::Instant::now();
    held.end.await.unwrap().unwrap();
    assert_eq!(started.elapsed().as_secs(), 3);
    held.client.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_is_idle_from_the_end_of_its_last_stream() {
    let config = Config { first_connect_timeout: Duration::from_secs(30), idle_timeout: Duration::from_secs(100), ..Config::default() };
    let mut held = held(config).await;
    let mut last = tokio::time::Instant::now();
    // A tunnel in use, but idle at every moment at which somebody might look.
    for seconds in [29, 50, 99] {
        let (response, _stream) = held.connect().await;
        held.connects.recv().await.unwrap().refuse(StatusCode::NOT_FOUND);
        assert_eq!(response.await.unwrap().status(), StatusCode::NOT_FOUND);
        last = tokio::time::Instant::now();
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        assert!(!held.end.is_finished(), "closed {seconds} s after its last stream");
    }
    held.end.await.unwrap().unwrap();
    assert_eq!(last.elapsed().as_secs(), 100);
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_with_a_stream_is_never_idle() {
    let config = Config { idle_timeout: Duration::from_secs(10), ..Config::default() };
    let mut held = held(config).await;
    let (response, _stream) = held.connect().await;
    let io = held.connects.recv().await.unwrap().accept(None).unwrap();
    response.await.unwrap();
    tokio::time::sleep(Duration::from_secs(1000)).await;
    assert!(!held.end.is_finished());
    drop(io);
    held.end.await.unwrap().unwrap();
}

#[tokio::test]
async fn streams_that_were_reset_but_are_still_being_served_are_bounded() {
    let config = Config { max_concurrent_streams: 10, ..Config::default() };
    let mut held = held(config).await;
    let mut refused = 0;
    let mut serving = Vec::new();
    for _ in 0..100 {
        let (response, mut stream) = held.connect().await;
        tokio::select! {
            connect = held.connects.recv() => {
                serving.push(connect.unwrap());
                stream.send_reset(Reason::CANCEL);
            }
            answer = response => {
                assert_eq!(answer.unwrap_err().reason(), Some(Reason::REFUSED_STREAM));
                refused += 1;
            }
        }
    }
    assert_eq!((serving.len(), refused), (20, 80));
    for connect in &mut serving {
        soon("the reset is seen", connect.broken_off()).await;
    }
    drop(serving);
    let (response, _stream) = held.connect().await;
    held.connects.recv().await.unwrap().refuse(StatusCode::NOT_FOUND);
    assert_eq!(soon("answer", response).await.unwrap().status(), StatusCode::NOT_FOUND, "places are free again");
}
