//! How connections end, with real sockets on both sides of a tunnel.

use super::{
    fixture::{Hop, pod},
    stand::{Place, Running, Stand, says_back, serve, socks, within},
};
use crate::{
    runtime::{Workers, drain},
    telemetry::ResponseFlag,
    transport::{listener, socket::reset_on_close},
    ztunnel::{Config, OwnPorts, outbound, plaintext},
};
use h2::{Reason, RecvStream, SendStream, client::SendRequest};
use http::{Method, Request, StatusCode, Uri};
use std::{io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

/// A server whose connections are handed to the test, behind a proxy.
struct Server {
    stand: Stand,
    proxy: Running,
    address: SocketAddr,
    connections: mpsc::Receiver<TcpStream>,
}

impl Server {
    async fn start(config: Config) -> Self {
        let (mut stand, place) = (Stand::new(), Place::new());
        let (give, connections) = mpsc::channel(1);
        let port = serve(place.ip, move |stream| {
            let give = give.clone();
            async move { give.send(stream).await.unwrap() }
        })
        .await;
        let address = SocketAddr::new(place.ip, port);
        stand.apply([pod("server", &place.text(), Hop::Hbone)]);
        let proxy = stand.start_with("server", place, config).await;
        Self { stand, proxy, address, connections }
    }

    async fn tunnel(&self) -> SendRequest<bytes::Bytes> {
        self.stand.tunnel("client", self.address.ip(), "server").await
    }

    /// A stream of a tunnel, and the server's end of it.
    async fn open(&mut self, tunnel: &mut SendRequest<bytes::Bytes>) -> (SendStream<bytes::Bytes>, RecvStream, TcpStream) {
        let mut request = Request::new(());
        let authority = Uri::builder().authority(self.address.to_string()).build().unwrap();
        (*request.method_mut(), *request.uri_mut()) = (Method::CONNECT, authority);
        let (response, send) = tunnel.send_request(request, false).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        (send, response.into_body(), self.connections.recv().await.unwrap())
    }
}

/// What comes until the end; an end may come with an empty piece.
async fn rest(recv: &mut RecvStream) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(piece) = recv.data().await {
        all.extend(piece.unwrap());
    }
    all
}

#[tokio::test]
async fn a_servers_reset_resets_the_stream_after_what_came_before() {
    within(async {
        let mut server = Server::start(Stand::config()).await;
        let mut tunnel = server.tunnel().await;
        let (mut send, mut recv, mut app) = server.open(&mut tunnel).await;
        send.send_data("hello".into(), false).unwrap();
        app.read_exact(&mut [0; 5]).await.unwrap();
        app.write_all(b"bye").await.unwrap();
        assert_eq!(recv.data().await.unwrap().unwrap(), "bye");
        reset_on_close(&app);
        drop(app);
        let error = recv.data().await.unwrap().unwrap_err();
        assert_eq!((error.is_remote(), error.reason()), (true, Some(Reason::CONNECT_ERROR)));
        let record = server.proxy.record().await;
        assert_eq!((record.flag, record.bytes_recv, record.bytes_sent), (ResponseFlag::None, 5, 3));
        assert!(record.error.is_some_and(|error| error.contains("reset")));
    })
    .await;
}

#[tokio::test]
async fn a_stream_that_is_reset_resets_the_server_and_one_that_is_cancelled_ends() {
    within(async {
        let mut server = Server::start(Stand::config()).await;
        let mut tunnel = server.tunnel().await;
        for (reason, want) in [
            (Reason::CONNECT_ERROR, Err(io::ErrorKind::ConnectionReset)),
            (Reason::INTERNAL_ERROR, Err(io::ErrorKind::ConnectionReset)),
            (Reason::STREAM_CLOSED, Err(io::ErrorKind::ConnectionReset)),
            (Reason::CANCEL, Ok(0)),
            (Reason::NO_ERROR, Ok(0)),
        ] {
            let (mut send, _recv, mut app) = server.open(&mut tunnel).await;
            send.send_data("hello".into(), false).unwrap();
            app.read_exact(&mut [0; 5]).await.unwrap();
            send.send_reset(reason);
            assert_eq!(app.read(&mut [0; 8]).await.map_err(|error| error.kind()), want, "{reason:?}");
            drop(app);
            let record = server.proxy.record().await;
            assert_eq!((record.flag, record.bytes_recv, record.bytes_sent), (ResponseFlag::None, 5, 0), "{reason:?}");
            assert_eq!(record.error.is_some(), want.is_err(), "{reason:?}: {:?}", record.error);
        }
    })
    .await;
}

#[tokio::test]
async fn each_side_may_end_first_and_still_gets_everything() {
    within(async {
        let mut server = Server::start(Stand::config()).await;
        let mut tunnel = server.tunnel().await;
        let (mut send, mut recv, mut app) = server.open(&mut tunnel).await;
        send.send_data("hello".into(), true).unwrap();
        let mut all = Vec::new();
        app.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, b"hello");
        app.write_all(b"still here").await.unwrap();
        assert_eq!(recv.data().await.unwrap().unwrap(), "still here");
        drop(app);
        assert_eq!(rest(&mut recv).await, b"");
        let record = server.proxy.record().await;
        assert_eq!((record.flag, record.bytes_recv, record.bytes_sent), (ResponseFlag::None, 5, 10));
        let (mut send, mut recv, mut app) = server.open(&mut tunnel).await;
        app.write_all(b"first").await.unwrap();
        app.shutdown().await.unwrap();
        assert_eq!(recv.data().await.unwrap().unwrap(), "first");
        assert_eq!(rest(&mut recv).await, b"");
        send.send_data("still here".into(), false).unwrap();
        app.read_exact(&mut [0; 10]).await.unwrap();
        send.send_data("".into(), true).unwrap();
        assert_eq!(app.read(&mut [0; 1]).await.unwrap(), 0);
        let record = server.proxy.record().await;
        assert_eq!((record.flag, record.bytes_recv, record.bytes_sent), (ResponseFlag::None, 10, 5));
    })
    .await;
}

#[tokio::test]
async fn a_half_open_connection_that_is_given_up_looks_whole_to_nobody() {
    within(async {
        let mut server = Server::start(Config { half_open_idle: Duration::from_millis(50), ..Stand::config() }).await;
        let mut tunnel = server.tunnel().await;
        let (mut send, mut recv, mut app) = server.open(&mut tunnel).await;
        send.send_data("hello".into(), true).unwrap();
        app.read_to_end(&mut Vec::new()).await.unwrap();
        app.write_all(b"part").await.unwrap();
        assert_eq!(recv.data().await.unwrap().unwrap(), "part");
        let error = recv.data().await.unwrap().unwrap_err();
        assert_eq!(error.reason(), Some(Reason::CONNECT_ERROR));
        while app.write_all(b"more").await.is_ok() {
            tokio::task::yield_now().await;
        }
        let record = server.proxy.record().await;
        assert_eq!(record.error.as_deref(), Some("half-open connection was idle for too long"));
        assert_eq!((record.bytes_recv, record.bytes_sent), (5, 4));
    })
    .await;
}

#[tokio::test]
async fn a_clients_reset_reaches_the_server_through_both_proxies() {
    within(async {
        let mut server = Server::start(Stand::config()).await;
        let place = Place::new();
        server.stand.apply([pod("client", &place.text(), Hop::Hbone)]);
        let mut client = server.stand.start("client", place).await;
        let stream = socks(client.socks5, &server.address.ip().to_string(), server.address.port()).await.unwrap();
        let mut app = server.connections.recv().await.unwrap();
        let mut back = tokio::spawn(async move {
            let mut stream = stream;
            says_back(&mut stream, "hello").await;
            reset_on_close(&stream);
        });
        let mut hello = [0; 5];
        app.read_exact(&mut hello).await.unwrap();
        app.write_all(&hello).await.unwrap();
        (&mut back).await.unwrap();
        assert_eq!(app.read(&mut [0; 1]).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        let (at_client, at_server) = (client.record().await, server.proxy.record().await);
        assert_eq!((at_client.flag, at_server.flag), (ResponseFlag::None, ResponseFlag::None));
        assert!(at_client.error.is_some() && at_server.error.is_some());
        assert_eq!((at_client.bytes_sent, at_client.bytes_recv, at_server.bytes_sent, at_server.bytes_recv), (5, 5, 5, 5));
    })
    .await;
}

/// Many connections are open and idle: what their tasks take is what a node needs. Opening takes more,
/// in a box of its own that is gone by then.
#[tokio::test]
async fn a_task_is_small_while_its_connection_lasts() {
    let (stand, listener) = (Stand::new(), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let (ztunnel, _records) = stand.ztunnel("client", "client");
    let (_trigger, watch) = drain::new();
    let shared = Arc::new(ztunnel.shared(OwnPorts::default(), watch));
    let accepted = async || {
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (listener::accept(&listener).await, Workers::current().for_connection())
    };
    let (captured, place) = accepted().await;
    let outbound = size_of_val(&outbound::captured(shared.clone(), captured, place));
    let (redirected, place) = accepted().await;
    let plaintext = size_of_val(&plaintext::serve(shared, redirected, place));
    assert!(outbound <= 2048 && plaintext <= 2048, "{outbound} and {plaintext} bytes");
}
