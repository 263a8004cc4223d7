//! Certificates that are replaced while tunnels are in use.

use super::*;
use futures_util::FutureExt as _;

#[tokio::test]
async fn a_new_certificate_means_new_tunnels_while_old_streams_go_on() {
    let world = World::new(plain(), Config::default()).await;
    let mut old = world.open().await;
    world.certs.0.send_replace(issue(&world.ca, "client"));
    let mut new = world.open().await;
    assert_eq!(world.peer.tunnels(), 2);
    ping(&mut old).await;
    ping(&mut new).await;
    ping(&mut world.open().await).await;
    assert_eq!((world.peer.tunnels(), world.pool.tunnels()), (2, 1), "the old tunnel takes no new streams");
}

#[tokio::test]
async fn whoever_keeps_something_inside_a_tunnel_learns_when_to_leave_it() {
    let forever = Config { max_tunnel_age: Duration::ZERO, ..plain() };
    let short = Config { max_tunnel_age: Duration::from_millis(20), ..plain() };
    type Event = fn(&World);
    let events: [(&str, &Config, Event); 4] = [
        ("its certificate is replaced", &forever, |world| drop(world.certs.0.send_replace(issue(&world.ca, "client")))),
        ("the peer sends GOAWAY", &forever, |world| world.peer.go_away(0)),
        ("its key is not retained", &forever, |world| world.pool.retain(|_| false)),
        ("it is old", &short, |_| ()),
    ];
    for (what, config, event) in events {
        let world = World::new(config.clone(), Config::default()).await;
        let Opened { mut io, mut tunnel, .. } =
            soon("CONNECT", world.pool.connect(&world.peer.key(), ECHO, &ConnectHeaders::default())).await.unwrap();
        ping(&mut io).await;
        assert!(config.max_tunnel_age > Duration::ZERO || !tunnel.is_retiring(), "before {what}");
        event(&world);
        soon(what, async {
            while !tunnel.is_retiring() {
                world.pool.sweep();
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
        ping(&mut io).await;
        ping(&mut world.open().await).await;
        assert_eq!(world.peer.tunnels(), 2, "{what}: new streams go elsewhere");
    }
}

#[tokio::test]
async fn a_stream_ended_and_dropped_lets_its_retired_tunnel_close() {
    for ends_itself in [false, true] {
        let world = World::new(plain(), Config::default()).await;
        let mut io = world.open().await;
        ping(&mut io).await;
        world.pool.retain(|_| false);
        if ends_itself {
            io.shutdown().await.unwrap();
        }
        drop(io);
        eventually(&format!("the tunnel closes, ended {ends_itself}"), || world.peer.open() == 0).await;
    }
}

#[tokio::test]
async fn a_tunnel_that_is_merely_unused_may_be_used_on() {
    let world = World::new(Config { idle_timeout: Duration::ZERO, ..plain() }, Config::default()).await;
    let mut opened = soon("CONNECT", world.pool.connect(&world.peer.key(), ECHO, &ConnectHeaders::default())).await.unwrap();
    world.pool.sweep();
    assert_eq!(world.pool.tunnels(), 0);
    assert!(!opened.tunnel.is_retiring());
    ping(&mut opened.io).await;
}

/// How many streams are opened while certificates change and tunnels are told to go.
const STREAMS: usize = 300;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_stream_is_lost_while_certificates_change_and_tunnels_close() {
    let world = Arc::new(World::new(Config { spread_threshold: 8, ..Config::default() }, Config::default()).await);
    let done = Arc::new(AtomicUsize::new(0));
    let mut clients = JoinSet::new();
    for _ in 0..6 {
        let (world, done) = (world.clone(), done.clone());
        clients.spawn(async move {
            for _ in 0..STREAMS / 6 {
                let mut io = world.open().await;
                ping(&mut io).await;
                io.shutdown().await.unwrap();
                let mut rest = Vec::new();
                soon("end", io.read_to_end(&mut rest)).await.unwrap();
                assert!(rest.is_empty());
                done.fetch_add(1, Ordering::SeqCst);
            }
        });
    }
    let mut told = 0;
    while done.load(Ordering::SeqCst) < STREAMS && !clients.is_empty() {
        world.certs.0.send_replace(issue(&world.ca, "client"));
        let tunnels = world.peer.drains.lock().unwrap().len();
        for tunnel in told..tunnels {
            world.peer.go_away(tunnel);
        }
        told = tunnels;
        tokio::task::yield_now().await;
        if let Some(ended) = clients.try_join_next() {
            ended.unwrap();
        }
    }
    soon("clients", clients.join_all()).await;
    assert_eq!(done.load(Ordering::SeqCst), STREAMS);
    assert!(told > 3, "only {told} tunnels: nothing was replaced");
}

#[tokio::test(start_paused = true)]
async fn a_server_whose_certificate_is_replaced_lets_streams_finish() {
    let spread = Duration::from_secs(60);
    let mut held = held(Config { rotation_spread: spread, idle_timeout: Duration::from_secs(10_000), ..Config::default() }).await;
    let (response, _stream) = held.connect().await;
    let mut far = held.connects.recv().await.unwrap().accept(None).unwrap();
    let mut near = response.await.unwrap().into_body();
    tokio::time::sleep(spread * 10).await;
    held.connect().await.0.now_or_never();
    held.connects.recv().await.expect("nothing was replaced yet").refuse(StatusCode::NOT_FOUND);

    held.replaced.send(()).unwrap();
    tokio::time::sleep(spread).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let Err(error) = held.send.clone().ready().await else { panic!("the tunnel takes new streams") };
    assert!(error.is_go_away() && error.reason() == Some(Reason::NO_ERROR), "{error:?}");
    far.write_all(b"still here").await.unwrap();
    far.shutdown().await.unwrap();
    assert_eq!(near.data().await.unwrap().unwrap(), "still here");
    assert!(!held.end.is_finished());
    drop((far, near, _stream));
    held.end.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn tunnels_of_a_replaced_certificate_do_not_all_close_at_once() {
    let config = Config { rotation_spread: Duration::from_secs(1000), ..Config::default() };
    let config = Config { first_connect_timeout: Duration::from_secs(10_000), ..config };
    let started = tokio::time::Instant::now();
    let mut ends = Vec::new();
    for _ in 0..20 {
        let held = held(config.clone()).await;
        let Held { send, end, replaced, _trigger: trigger, .. } = held;
        replaced.send(()).unwrap();
        ends.push(async move {
            end.await.unwrap().unwrap();
            drop((send, trigger));
            started.elapsed()
        });
    }
    let ends = futures_util::future::join_all(ends).await;
    let (first, last) = (ends.iter().min().unwrap(), ends.iter().max().unwrap());
    assert!(last.as_secs() <= 1000 && last.saturating_sub(*first).as_secs() > 100, "{first:?} to {last:?}");
}
