//! Tunnels whose peer's certificate is revoked while they are open.

use super::*;
use crate::transport::{
    Revocation, TlsError,
    tls::{Revoked, Standing, fixture::revoking},
};

/// Lists that a test writes.
struct Lists {
    file: tempfile::NamedTempFile,
    revocation: Arc<Revocation>,
}

impl Lists {
    fn new() -> Self {
        let file = tempfile::NamedTempFile::new().unwrap();
        let revocation = Revocation::open(file.path()).unwrap();
        Self { file, revocation }
    }

    /// In force once this returns.
    fn revoke(&self, ca: &Ca, cert: &WorkloadCert) {
        std::fs::write(self.file.path(), revoking(&ca.issuer, cert)).unwrap();
        assert!(self.revocation.reload().unwrap());
    }

    fn config(&self) -> Config {
        Config { revocation: Some(self.revocation.clone()), ..plain() }
    }
}

fn pool(ca: &Ca, account: &str, config: Config) -> (Pool, Arc<WorkloadCert>) {
    let cert = issue(ca, account);
    (Pool::new(config, Arc::new(Certs(watch::Sender::new(cert.clone()))), Sockets::default()), cert)
}

async fn connect(pool: &Pool, key: &PoolKey) -> Result<Opened, TunnelError> {
    soon("CONNECT", pool.connect(key, ECHO, &ConnectHeaders::default())).await
}

/// Nobody takes what there was for everything.
async fn is_cut(io: &mut TunnelIo) {
    let read = soon("the cut", io.read(&mut [0; 8])).await;
    assert!(read.is_err(), "{read:?}");
}

#[tokio::test]
async fn a_pool_cuts_the_tunnels_to_a_revoked_peer_and_no_others() {
    let (ca, lists) = (Ca::new(), Lists::new());
    let bad = issue(&ca, "server");
    let peers = [Peer::start(bad.clone(), Config::default()).await, Peer::start(issue(&ca, "server"), Config::default()).await];
    let (pool, _) = pool(&ca, "client", lists.config());
    let mut first = connect(&pool, &peers[0].key()).await.unwrap();
    let mut second = connect(&pool, &peers[0].key()).await.unwrap();
    let mut other = connect(&pool, &peers[1].key()).await.unwrap();
    for opened in [&mut first, &mut second, &mut other] {
        ping(&mut opened.io).await;
        assert_eq!(opened.tunnel.standing().check(), Ok(()));
    }
    lists.revoke(&ca, &bad);
    for opened in [&mut first, &mut second] {
        is_cut(&mut opened.io).await;
        assert_eq!(opened.tunnel.standing().check().unwrap_err().serial, bad.serial());
    }
    ping(&mut other.io).await;
    assert_eq!(other.tunnel.standing().check(), Ok(()));
    eventually("the peer sees the end", || peers[0].open() == 0).await;
    assert_eq!(pool.tunnels(), 1);
    let again = connect(&pool, &peers[0].key()).await;
    assert!(matches!(&again, Err(TunnelError::Tls(TlsError::Revoked(Revoked { serial, .. }))) if *serial == bad.serial()), "{again:?}");
    connect(&pool, &peers[1].key()).await.unwrap();
}

#[tokio::test]
async fn a_tunnel_that_has_been_retired_is_cut_as_well() {
    let (ca, lists) = (Ca::new(), Lists::new());
    let bad = issue(&ca, "server");
    let peer = Peer::start(bad.clone(), Config::default()).await;
    let (pool, _) = pool(&ca, "client", lists.config());
    let mut opened = connect(&pool, &peer.key()).await.unwrap();
    pool.retain(|_| false);
    ping(&mut opened.io).await;
    lists.revoke(&ca, &bad);
    is_cut(&mut opened.io).await;
}

#[tokio::test]
async fn those_who_wait_for_a_tunnel_to_a_revoked_peer_hear_why_there_is_none() {
    let (ca, lists) = (Ca::new(), Lists::new());
    let bad = issue(&ca, "server");
    lists.revoke(&ca, &bad);
    let peer = Peer::start(bad, Config::default()).await;
    let (pool, _) = pool(&ca, "client", lists.config());
    let (key, headers) = (peer.key(), ConnectHeaders::default());
    for opened in soon("burst", futures_util::future::join_all((0..5).map(|_| pool.connect(&key, ECHO, &headers)))).await {
        assert!(matches!(&opened, Err(TunnelError::Tls(TlsError::Revoked(_)))), "{opened:?}");
    }
}

#[tokio::test]
async fn a_server_cuts_the_tunnels_of_a_revoked_client_and_no_others() {
    let (ca, lists) = (Ca::new(), Lists::new());
    let peer = Peer::start(issue(&ca, "server"), lists.config()).await;
    let ((bad_pool, bad), (good_pool, _)) = (pool(&ca, "client", plain()), pool(&ca, "client", plain()));
    let (mut bad_stream, mut good_stream) =
        (connect(&bad_pool, &peer.key()).await.unwrap(), connect(&good_pool, &peer.key()).await.unwrap());
    ping(&mut bad_stream.io).await;
    ping(&mut good_stream.io).await;
    lists.revoke(&ca, &bad);
    is_cut(&mut bad_stream.io).await;
    eventually("the tunnel is over", || peer.open() == 1).await;
    ping(&mut good_stream.io).await;
    connect(&bad_pool, &peer.key()).await.unwrap_err();
    connect(&good_pool, &peer.key()).await.unwrap();
}

#[tokio::test]
async fn whoever_serves_a_stream_of_a_revoked_client_sees_a_break_and_not_an_end() {
    let (ca, lists) = (Ca::new(), Lists::new());
    let (server, client) = (issue(&ca, "server"), issue(&ca, "client"));
    let (near, far) = duplex(64 << 10);
    let expected = [identity("server")];
    let both = async { tokio::join!(tls::connect(near, &client, &expected, None), tls::accept(far, &server, Some(&lists.revocation))) };
    let (connected, accepted) = soon("handshake", both).await;
    let (io, _, standing) = accepted.unwrap();
    let (sender, mut receiver) = mpsc::channel(1);
    let (_trigger, watch) = drain::new();
    let serving = tokio::spawn(async move {
        let on_connect = |connect: Connect| sender.try_send(connect.accept(None).unwrap()).unwrap();
        serve(io, &Config::default(), watch, pending(), &standing, on_connect).await
    });
    let tunnel = Client::handshake(connected.unwrap().0, &Config::default(), pending(), Standing::default()).await.unwrap();
    let (headers, config) = (ConnectHeaders::default(), Config::default());
    let stream = async { tokio::join!(receiver.recv(), tunnel.reserve().connect(ECHO, &headers, &config)) };
    let (served, opened) = soon("stream", stream).await;
    let (mut served, (mut opened, _)) = (served.unwrap(), opened.unwrap());
    lists.revoke(&ca, &client);
    is_cut(&mut served).await;
    is_cut(&mut opened).await;
    let end = soon("the end", serving).await.unwrap();
    assert!(matches!(&end, Err(ServerEnd::Revoked(revoked)) if revoked.serial == client.serial()), "{end:?}");
}

#[tokio::test]
async fn a_client_that_is_revoked_before_it_speaks_http_2_is_not_waited_for() {
    let (ca, lists) = (Ca::new(), Lists::new());
    let (server, client) = (issue(&ca, "server"), issue(&ca, "client"));
    let (near, far) = duplex(64 << 10);
    let expected = [identity("server")];
    let both = async { tokio::join!(tls::connect(near, &client, &expected, None), tls::accept(far, &server, Some(&lists.revocation))) };
    let (_silent, accepted) = soon("handshake", both).await;
    let (io, _, standing) = accepted.unwrap();
    lists.revoke(&ca, &client);
    let (_trigger, watch) = drain::new();
    let end = soon("the end", serve(io, &Config::default(), watch, pending(), &standing, drop)).await;
    assert!(matches!(end, Err(ServerEnd::Revoked(_))), "{end:?}");
}

/// A gateway and a peer behind it, each with a certificate that may be revoked.
async fn two_layers() -> (Ca, Lists, [(Peer, Arc<WorkloadCert>); 2], Pool, PoolKey) {
    let (ca, lists) = (Ca::new(), Lists::new());
    let (outer, inner) = (issue(&ca, "gateway"), issue(&ca, "server"));
    let gateway = (Peer::start(outer.clone(), Config::default()).await, outer);
    let peer = (Peer::start(inner.clone(), Config::default()).await, inner);
    let (pool, _) = pool(&ca, "client", lists.config());
    let key = PoolKey::direct(identity("client"), [identity("gateway")].into(), gateway.0.address);
    let key = PoolKey::through(key, peer.0.address.to_string().into(), [identity("server")].into());
    (ca, lists, [gateway, peer], pool, key)
}

#[tokio::test]
async fn of_a_tunnel_inside_of_a_tunnel_each_can_be_revoked() {
    for layer in [0, 1] {
        let (ca, lists, peers, pool, key) = two_layers().await;
        let mut opened = connect(&pool, &key).await.unwrap();
        ping(&mut opened.io).await;
        lists.revoke(&ca, &peers[layer].1);
        is_cut(&mut opened.io).await;
        assert_eq!(opened.tunnel.standing().check().unwrap_err().serial, peers[layer].1.serial(), "layer {layer}");
        let again = connect(&pool, &key).await;
        assert!(matches!(&again, Err(TunnelError::Tls(TlsError::Revoked(_)))), "{again:?}");
        // The tunnel to the gateway is as good as before when it is not its own peer.
        assert_eq!(peers[0].0.tunnels(), if layer == 0 { 2 } else { 1 });
    }
}
