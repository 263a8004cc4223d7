use super::{
    fixture::{Hop, gateway, gateway_pod, pod, policy, service},
    stand::{Place, Stand, count, echo, says_back, serve, socks, within},
};
use crate::{
    model::Action,
    telemetry::{Direction, ResponseFlag, TcpEvent},
    ztunnel::Listeners,
};
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

#[tokio::test]
async fn a_service_is_reached_by_address_by_every_form_of_its_name_and_by_pod() {
    within(async {
        let (mut stand, client, server) = (Stand::new(), Place::new(), Place::new());
        let (ip, port) = (server.text(), echo(server.ip).await);
        stand.apply([
            pod("client", &client.text(), Hop::Hbone),
            pod("server", &ip, Hop::Hbone),
            service("server", "198.51.100.1", &[(80, port)]),
        ]);
        let mut client = stand.start("client", client).await;
        let _server = stand.start("server", server).await;
        let names = ["server", "server.demo", "server.demo.svc", "server.demo.svc.cluster.local", "Server.Demo.Svc.Cluster.Local."];
        let targets = names.iter().chain(&["198.51.100.1"]).map(|host| (*host, 80)).chain([(ip.as_str(), port)]);
        for (host, asked) in targets {
            let mut stream = socks(client.socks5, host, asked).await.unwrap_or_else(|code| panic!("{host}: {code}"));
            says_back(&mut stream, "hello").await;
            drop(stream);
            let record = client.record().await;
            assert_eq!(record.destination.addr.to_string(), format!("{ip}:15008"), "{host}: through a tunnel");
            assert_eq!(record.hbone_addr.as_deref(), Some(format!("{ip}:{port}").as_str()));
            assert_eq!((record.bytes_sent, record.bytes_recv, record.flag), (5, 5, ResponseFlag::None));
            assert_eq!(record.destination.identity.as_ref().map(|i| i.service_account()), Some("server"));
            let by_service = asked == 80;
            assert_eq!(record.destination_service.is_some(), by_service);
        }
    })
    .await;
}

#[tokio::test]
async fn what_the_mesh_does_not_tunnel_goes_as_it_is() {
    within(async {
        let (mut stand, client, legacy) = (Stand::new(), Place::new(), Place::new());
        let (ip, port) = (legacy.text(), echo(legacy.ip).await);
        let unknown = Place::new();
        let (unknown_ip, unknown_port) = (unknown.text(), echo(unknown.ip).await);
        let localhost = echo("127.0.0.1".parse().unwrap()).await;
        stand.apply([
            pod("client", &client.text(), Hop::Hbone),
            pod("legacy", &ip, Hop::Plain),
            service("legacy", "198.51.100.1", &[(80, port)]),
        ]);
        let mut client = stand.start("client", client).await;
        for (host, asked) in [("legacy", 80), (&*ip, port), (&*unknown_ip, unknown_port), ("localhost", localhost)] {
            let mut stream = socks(client.socks5, host, asked).await.unwrap_or_else(|code| panic!("{host}: {code}"));
            says_back(&mut stream, "hello").await;
            drop(stream);
            // A name of two families may fail once before it works.
            let record = loop {
                let record = client.record().await;
                if record.flag == ResponseFlag::None {
                    break record;
                }
            };
            assert_eq!((record.hbone_addr, record.destination.identity), (None, None), "{host}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_captured_connection_goes_to_its_original_destination() {
    within(async {
        let (mut stand, client, server) = (Stand::new(), Place::new(), Place::new());
        let port = echo(server.ip).await;
        // Without redirection the original destination is where the connection arrived: listen at the service's address.
        let vip = Place::new();
        let outbound = TcpListener::bind((vip.ip, 0)).await.unwrap();
        let captured = outbound.local_addr().unwrap();
        stand.apply([
            pod("client", &client.text(), Hop::Hbone),
            pod("server", &server.text(), Hop::Hbone),
            service("server", &vip.text(), &[(captured.port(), port)]),
        ]);
        let mut client = stand.start_as("client", "client", client, Some(outbound)).await;
        let mut server = stand.start("server", server).await;
        let mut stream = TcpStream::connect(captured).await.unwrap();
        says_back(&mut stream, "hello").await;
        drop(stream);
        assert_eq!(client.record().await.direction, Direction::Outbound);
        assert_eq!(server.record().await.direction, Direction::Inbound);
    })
    .await;
}

#[tokio::test]
async fn a_captured_connection_to_the_proxy_itself_is_dropped() {
    within(async {
        let (mut stand, client) = (Stand::new(), Place::new());
        let outbound = TcpListener::bind((client.ip, 0)).await.unwrap();
        let captured = outbound.local_addr().unwrap();
        stand.apply([pod("client", &client.text(), Hop::Plain)]);
        let mut client = stand.start_as("client", "client", client, Some(outbound)).await;
        let mut stream = TcpStream::connect(captured).await.unwrap();
        stream.read_to_end(&mut Vec::new()).await.unwrap_err();
        let record = client.record().await;
        assert_eq!((record.event, record.error.as_deref()), (TcpEvent::Refused, Some("the destination is this proxy itself")));
    })
    .await;
}

#[tokio::test]
async fn a_service_with_a_waypoint_goes_through_it_with_its_own_address() {
    within(async {
        let (mut stand, client, waypoint) = (Stand::new(), Place::new(), Place::new());
        let wp = gateway_pod("wp-1", &waypoint.text(), "wp");
        stand.apply([
            pod("client", &client.text(), Hop::Hbone),
            wp.clone(),
            gateway("wp", &[&waypoint.text()]),
            service("server", "198.51.100.1", &[(80, 8080)]).through("wp"),
        ]);
        let mut told = stand.waypoint("wp-1", waypoint);
        let mut client = stand.start("client", client).await;
        let mut stream = socks(client.socks5, "server", 80).await.unwrap();
        says_back(&mut stream, "hello").await;
        assert_eq!(told.recv().await.as_deref(), Some("198.51.100.1:80"));
        drop(stream);
        let record = client.record().await;
        assert_eq!(record.destination.workload.as_deref(), Some("wp-1"));
        assert_eq!(record.destination_service.as_deref(), Some("server.demo.svc.cluster.local"));
        // Its instances gone, nothing goes around it.
        stand.remove(wp);
        assert_eq!(socks(client.socks5, "server", 80).await.unwrap_err(), 4);
        assert_eq!(client.record().await.error.as_deref(), Some("no healthy waypoint"));
    })
    .await;
}

#[tokio::test]
async fn another_endpoint_is_tried_when_one_fails() {
    within(async {
        let (mut stand, client, server) = (Stand::new(), Place::new(), Place::new());
        let port = echo(server.ip).await;
        // An address at which nobody answers.
        let gone = Place::new().text();
        stand.apply([
            pod("client", &client.text(), Hop::Hbone),
            pod("server", &server.text(), Hop::Hbone),
            pod("server-2", &gone, Hop::Hbone).labelled("server"),
            service("server", "198.51.100.1", &[(80, port)]),
        ]);
        let client = stand.start("client", client).await;
        let _server = stand.start("server", server).await;
        for _ in 0..16 {
            says_back(&mut socks(client.socks5, "server", 80).await.unwrap(), "hello").await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_server_with_the_wrong_identity_is_refused_and_never_spoken_to_in_plain() {
    within(async {
        let (mut stand, client, server) = (Stand::new(), Place::new(), Place::new());
        let seen = Arc::new(AtomicUsize::new(0));
        let counter = seen.clone();
        let port = serve(server.ip, move |_| {
            counter.fetch_add(1, Ordering::Relaxed);
            std::future::ready(())
        })
        .await;
        stand.apply([
            pod("client", &client.text(), Hop::Hbone),
            pod("server", &server.text(), Hop::Hbone),
            service("server", "198.51.100.1", &[(80, port)]),
        ]);
        let mut client = stand.start("client", client).await;
        let _server = stand.start_as("server", "impostor", server, None).await;
        assert_eq!(socks(client.socks5, "server", 80).await.unwrap_err(), 1);
        let record = client.record().await;
        assert_eq!(record.flag, ResponseFlag::TlsFailure);
        assert!(record.error.as_deref().is_some_and(|e| e.contains("sa/impostor") && e.contains("sa/server")), "{:?}", record.error);
        assert_eq!(seen.load(Ordering::Relaxed), 0);
    })
    .await;
}

#[tokio::test]
async fn refusals_have_their_own_codes() {
    within(async {
        let (mut stand, client, server, legacy) = (Stand::new(), Place::new(), Place::new(), Place::new());
        let closed = TcpListener::bind((legacy.ip, 0)).await.unwrap().local_addr().unwrap().port();
        let port = echo(server.ip).await;
        stand.apply([
            pod("client", &client.text(), Hop::Hbone),
            pod("server", &server.text(), Hop::Hbone),
            pod("legacy", &legacy.text(), Hop::Plain),
            service("empty", "198.51.100.1", &[(80, 80)]),
            service("headless", "", &[(80, 80)]),
            service("server", "198.51.100.2", &[(80, port), (81, closed)]),
        ]);
        let mut client = stand.start("client", client).await;
        let _server = stand.start("server", server).await;
        let own = client.socks5;
        let rows = [
            ("nobody listens", legacy.text(), closed, 5),
            ("nobody listens behind the tunnel", "server".into(), 81, 5),
            ("no endpoint", "empty".into(), 80, 4),
            ("no address", "headless".into(), 80, 4),
            ("undeclared port", "server".into(), 82, 4),
            ("the proxy itself", own.ip().to_string(), own.port(), 2),
            ("no such name", "no-such-name.invalid".into(), 80, 4),
        ];
        for (why, host, port, code) in rows {
            assert_eq!(socks(own, &host, port).await.unwrap_err(), code, "{why}");
        }
        stand.apply([policy("nobody", Action::Allow, vec![])]);
        assert_eq!(socks(own, "server", 80).await.unwrap_err(), 2, "denied by policy");
        while client.record().await.error.as_deref() != Some("http status: 401 Unauthorized") {}
    })
    .await;
}

#[tokio::test]
async fn a_half_close_passes_through() {
    within(async {
        let (mut stand, client, server) = (Stand::new(), Place::new(), Place::new());
        let (ip, port) = (server.text(), count(server.ip).await);
        stand.apply([pod("client", &client.text(), Hop::Hbone), pod("server", &ip, Hop::Hbone)]);
        let client = stand.start("client", client).await;
        let _server = stand.start("server", server).await;
        let mut stream = socks(client.socks5, &ip, port).await.unwrap();
        let body = vec![7; 3 << 20];
        stream.write_all(&body).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, body.len().to_string());
    })
    .await;
}

#[tokio::test]
async fn a_reset_of_the_server_is_a_reset_for_the_client() {
    within(async {
        let (mut stand, client, server) = (Stand::new(), Place::new(), Place::new());
        let ip = server.text();
        let port = serve(server.ip, |mut stream| async move {
            stream.read_u8().await.unwrap();
            crate::transport::socket::reset_on_close(&stream);
        })
        .await;
        stand.apply([pod("client", &client.text(), Hop::Hbone), pod("server", &ip, Hop::Hbone)]);
        let mut client = stand.start("client", client).await;
        let _server = stand.start("server", server).await;
        let mut stream = socks(client.socks5, &ip, port).await.unwrap();
        stream.write_all(b"x").await.unwrap();
        let error = stream.read_to_end(&mut Vec::new()).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        let record = client.record().await;
        assert_eq!((record.flag, record.error.is_some()), (ResponseFlag::None, true));
    })
    .await;
}

#[tokio::test]
async fn a_request_that_is_not_socks_is_dropped() {
    within(async {
        let (mut stand, client) = (Stand::new(), Place::new());
        stand.apply([pod("client", &client.text(), Hop::Hbone)]);
        let client = stand.start("client", client).await;
        let mut stream = TcpStream::connect(client.socks5).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        // Dropped with bytes unread, which may show as a reset.
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
        assert!(rest.is_empty());
    })
    .await;
}

#[tokio::test]
async fn a_client_that_dawdles_is_let_go() {
    within(async {
        let stand = Stand::new();
        let (mut ztunnel, _records) = stand.ztunnel("client", "client");
        Arc::make_mut(&mut ztunnel.config).socks5_handshake_timeout = std::time::Duration::from_millis(50);
        let socks5 = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socks5.local_addr().unwrap();
        let (_drain, watch) = crate::runtime::drain::new();
        let listeners = Listeners { socks5: Some(socks5), ..Listeners::default() };
        tokio::spawn(ztunnel.serve(listeners, crate::runtime::Workers::current().for_connection(), watch));
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(&[5, 1]).await.unwrap();
        assert_eq!(stream.read(&mut [0; 8]).await.unwrap(), 0);
    })
    .await;
}
