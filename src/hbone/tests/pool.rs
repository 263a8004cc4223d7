//! Which tunnel a stream gets, and when there is another one.

use super::*;

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
