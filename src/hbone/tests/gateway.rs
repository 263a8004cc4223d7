//! Tunnels inside of tunnels, through the gateway of another network.

use super::*;

/// A world with a gateway, which passes streams on to the peer.
struct Far {
    world: World,
    gateway: Peer,
}

impl Far {
    async fn new(client: Config) -> Self {
        let world = World::new(client, Config::default()).await;
        let gateway = Peer::start(issue(&world.ca, "gateway"), Config::default()).await;
        Self { world, gateway }
    }

    fn gateway_key(&self) -> PoolKey {
        PoolKey::direct(identity("client"), [identity("gateway")].into(), self.gateway.address)
    }

    /// What the gateway is asked for.
    fn authority(&self) -> String {
        self.world.peer.address.to_string()
    }

    fn key(&self) -> PoolKey {
        PoolKey::through(self.gateway_key(), self.authority().into(), [identity("server")].into())
    }

    async fn connect(&self, key: &PoolKey) -> Result<Opened, TunnelError> {
        let headers = ConnectHeaders { network: Some("net1".into()), ..ConnectHeaders::default() };
        soon("CONNECT", self.world.pool.connect(key, ECHO, &headers)).await
    }

    async fn open(&self) -> Opened {
        self.connect(&self.key()).await.unwrap()
    }
}

#[tokio::test]
async fn many_streams_share_one_tunnel_inside_one_stream_of_the_gateway() {
    let far = Far::new(plain()).await;
    let mut open = Vec::new();
    for _ in 0..5 {
        open.push(far.open().await);
    }
    for opened in &mut open {
        ping(&mut opened.io).await;
        assert_eq!(opened.peer, identity("server"), "who is at the far end");
        assert_eq!(&*Baggage::read(&opened.headers).service_name, "echo");
    }
    let (outer, inner) = (far.gateway.seen.lock().unwrap(), far.world.peer.seen.lock().unwrap());
    assert_eq!((far.gateway.tunnels(), far.world.peer.tunnels()), (1, 1));
    let authorities = |seen: &[Seen]| seen.iter().map(|seen| seen.authority.clone()).collect::<Vec<_>>();
    assert_eq!(authorities(&outer), [far.authority()]);
    assert_eq!(authorities(&inner), [ECHO; 5]);
    assert!(inner.iter().all(|seen| seen.headers["x-forwarded-network"] == "net1"));
    assert!(!outer[0].headers.contains_key("x-forwarded-network"), "the gateway is in our network");
    assert!(outer[0].headers.contains_key("traceparent"));
    assert_eq!(far.key().address(), far.gateway.address);
}

#[tokio::test]
async fn both_the_gateway_and_the_peer_must_be_who_is_expected() {
    let far = Far::new(plain()).await;
    let wrong_gateway = PoolKey { destinations: [identity("server")].into(), ..far.gateway_key() };
    for (key, who, wanted) in [
        (PoolKey::through(wrong_gateway, far.authority().into(), [identity("server")].into()), "gateway", "server"),
        (PoolKey::through(far.gateway_key(), far.authority().into(), [identity("gateway")].into()), "server", "gateway"),
    ] {
        let opened = far.connect(&key).await;
        let Err(TunnelError::Tls(tls::TlsError::UnexpectedIdentity { got, expected })) = opened else { panic!("{opened:?}") };
        assert_eq!((got, expected), (vec![identity(who)], vec![identity(wanted)]));
    }
    let nobody = PoolKey::through(far.gateway_key(), far.authority().into(), [].into());
    assert!(far.connect(&nobody).await.is_err(), "no list, no tunnel");
}

#[tokio::test]
async fn what_the_gateway_refuses_is_refused() {
    let far = Far::new(plain()).await;
    let key = PoolKey::through(far.gateway_key(), REFUSE.into(), [identity("server")].into());
    let opened = far.connect(&key).await;
    assert!(matches!(opened, Err(TunnelError::Stream(ConnectError::Refused(StatusCode::SERVICE_UNAVAILABLE)))), "{opened:?}");
}

#[tokio::test]
async fn a_far_end_that_says_nothing_times_out() {
    let far = Far::new(Config { handshake_timeout: Duration::from_millis(200), ..plain() }).await;
    far.world.peer.handshakes.forget_permits(Semaphore::MAX_PERMITS);
    let opened = far.connect(&far.key()).await;
    let Err(TunnelError::Tls(tls::TlsError::Handshake(error))) = opened else { panic!("{opened:?}") };
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    far.world.peer.handshakes.add_permits(10);
    ping(&mut far.open().await.io).await;
}

#[tokio::test]
async fn a_gateway_that_goes_away_is_replaced_and_streams_go_on() {
    let far = Far::new(plain()).await;
    let mut old = far.open().await.io;
    far.gateway.go_away(0);
    far.world.peer.go_away(0);
    soon("another tunnel", async {
        while far.gateway.tunnels() < 2 {
            ping(&mut far.open().await.io).await;
        }
    })
    .await;
    ping(&mut old).await;
}

#[tokio::test]
async fn without_its_gateway_a_tunnel_is_forgotten_and_the_gateway_let_go() {
    let far = Far::new(plain()).await;
    let mut old = far.open().await.io;
    far.world.pool.retain(|key| *key != far.gateway_key());
    assert_eq!(far.world.pool.tunnels(), 0);
    ping(&mut old).await;
    drop(old);
    eventually("both tunnels close", || (far.gateway.open(), far.world.peer.open()) == (0, 0)).await;
}
