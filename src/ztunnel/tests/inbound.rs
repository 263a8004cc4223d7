use super::{
    fixture::{Hop, identity, pod, policy, service},
    stand::{Place, Stand, echo, says_back, serve, socks, within},
};
use crate::{
    model::{Action, ApplicationTunnel, Clause, Match, Rule, StringMatch, Term, Test},
    telemetry::{ResponseFlag, TcpEvent},
    ztunnel::{Config, proxy_protocol},
};
use http::{Method, Request, StatusCode, Uri, Version};
use std::net::IpAddr;
use tokio::{io::AsyncReadExt, net::TcpStream};

/// Everything that `name` does.
fn from(name: &str) -> Rule {
    let test = Test::Principal(vec![StringMatch::Exact(identity(name).principal().into())]);
    Rule { clauses: vec![Clause { matches: vec![Match { terms: vec![Term { negated: false, test }] }] }] }
}

async fn status(send: &mut h2::client::SendRequest<bytes::Bytes>, method: Method, uri: Uri) -> StatusCode {
    let mut request = Request::new(());
    (*request.method_mut(), *request.uri_mut(), *request.version_mut()) = (method, uri, Version::HTTP_2);
    std::future::poll_fn(|cx| send.poll_ready(cx)).await.unwrap();
    let (response, _stream) = send.send_request(request, false).unwrap();
    response.await.unwrap().status()
}

fn authority(text: &str) -> Uri {
    Uri::builder().authority(text).build().unwrap()
}

#[tokio::test]
async fn a_connect_goes_to_this_workload_and_nowhere_else() {
    within(async {
        let (mut stand, server, other) = (Stand::new(), Place::new(), Place::new());
        let (ip, port, elsewhere) = (server.ip, echo(server.ip).await, echo(other.ip).await);
        stand.apply([
            pod("server", &server.text(), Hop::Hbone),
            pod("other", &other.text(), Hop::Plain),
            service("server", "198.51.100.1", &[(80, port), (81, 15001)]),
            service("other", "198.51.100.2", &[(80, elsewhere)]),
        ]);
        let mut running = stand.start("server", server).await;
        let mut send = stand.tunnel("client", ip, "server").await;
        let host = "server.demo.svc.cluster.local";
        let rows = [
            (StatusCode::OK, format!("{ip}:{port}")),
            (StatusCode::OK, format!("{host}:80")),
            (StatusCode::BAD_REQUEST, format!("{}:{elsewhere}", other.ip)),
            (StatusCode::BAD_REQUEST, format!("127.0.0.1:{port}")),
            (StatusCode::BAD_REQUEST, format!("198.51.100.1:{port}")),
            (StatusCode::BAD_REQUEST, format!("[::1]:{port}")),
            (StatusCode::BAD_REQUEST, format!("{ip}")),
            (StatusCode::BAD_REQUEST, format!("user@{ip}:{port}")),
            (StatusCode::SERVICE_UNAVAILABLE, format!("{ip}:15001")),
            (StatusCode::SERVICE_UNAVAILABLE, format!("{ip}:15006")),
            (StatusCode::SERVICE_UNAVAILABLE, format!("{ip}:15008")),
            (StatusCode::SERVICE_UNAVAILABLE, format!("{ip}:15080")),
            (StatusCode::SERVICE_UNAVAILABLE, running.socks5.to_string()),
            (StatusCode::SERVICE_UNAVAILABLE, format!("{host}:81")),
            (StatusCode::SERVICE_UNAVAILABLE, format!("{host}:{port}")),
            (StatusCode::SERVICE_UNAVAILABLE, "other.demo.svc.cluster.local:80".into()),
            (StatusCode::SERVICE_UNAVAILABLE, "localhost:80".into()),
            // Nobody listens there.
            (StatusCode::SERVICE_UNAVAILABLE, format!("{ip}:1")),
        ];
        for (want, target) in rows {
            assert_eq!(status(&mut send, Method::CONNECT, authority(&target)).await, want, "{target}");
            let record = running.record().await;
            assert_eq!(record.error.is_none(), want == StatusCode::OK, "{target}: {record:?}");
        }
        let get = format!("http://{ip}:{port}/").parse().unwrap();
        assert_eq!(status(&mut send, Method::GET, get).await, StatusCode::BAD_REQUEST);
    })
    .await;
}

#[tokio::test]
async fn the_answer_tells_who_is_there_and_the_log_who_came() {
    within(async {
        let (mut stand, server) = (Stand::new(), Place::new());
        let (ip, port) = (server.ip, echo(server.ip).await);
        stand.apply([pod("server", &server.text(), Hop::Hbone), service("server", "198.51.100.1", &[(80, port)])]);
        let mut running = stand.start("server", server).await;
        let mut send = stand.tunnel("client", ip, "server").await;
        let mut request = Request::new(());
        (*request.method_mut(), *request.uri_mut()) = (Method::CONNECT, authority(&format!("{ip}:{port}")));
        let headers = request.headers_mut();
        headers.insert("baggage", "service.name=shop,k8s.cluster.name=east".parse().unwrap());
        headers.insert("forwarded", "for=\"10.0.0.1:1\";host=server.demo.svc.cluster.local".parse().unwrap());
        let (response, mut stream) = send.send_request(request, false).unwrap();
        let (parts, mut body) = response.await.unwrap().into_parts();
        assert_eq!(parts.status, StatusCode::OK);
        let baggage =
            "k8s.cluster.name=Kubernetes,k8s.namespace.name=demo,k8s.deployment.name=server,service.name=server,service.version=v1";
        assert_eq!(parts.headers["baggage"], baggage);
        stream.send_data("hello".into(), true).unwrap();
        while body.data().await.is_some() {}
        let record = running.record().await;
        assert_eq!(record.source.identity, Some(identity("client")));
        assert_eq!((record.source.workload.as_deref(), record.source.cluster.as_deref()), (Some("shop"), Some("east")));
        assert_eq!(record.destination.workload.as_deref(), Some("server"));
        assert_eq!(record.destination_service.as_deref(), Some("server.demo.svc.cluster.local"));
        assert_eq!(record.hbone_addr.as_deref(), Some(format!("{ip}:{port}").as_str()));
        assert_eq!((record.event, record.flag, record.bytes_sent, record.bytes_recv), (TcpEvent::Complete, ResponseFlag::None, 5, 5));
    })
    .await;
}

#[tokio::test]
async fn a_stream_from_another_network_is_not_looked_up_by_its_address() {
    within(async {
        let (mut stand, server) = (Stand::new(), Place::new());
        let (ip, port) = (server.ip, echo(server.ip).await);
        // Tunnels of the test come from 127.0.0.1, as if that were the client's pod.
        stand.apply([pod("server", &server.text(), Hop::Hbone), pod("client", "127.0.0.1", Hop::Hbone)]);
        let config = Config { network: "Net1".into(), ..Stand::config() };
        let mut running = stand.start_with("server", server, config).await;
        let mut send = stand.tunnel("client", ip, "server").await;
        for (network, workload, cluster) in [
            (None, "client", "Kubernetes"),
            (Some("net1"), "client", "Kubernetes"),
            (Some("net2"), "shop", "east"),
            (Some(""), "shop", "east"),
        ] {
            let mut request = Request::new(());
            (*request.method_mut(), *request.uri_mut()) = (Method::CONNECT, authority(&format!("{ip}:{port}")));
            request.headers_mut().insert("baggage", "service.name=shop,k8s.cluster.name=east".parse().unwrap());
            if let Some(network) = network {
                request.headers_mut().insert("x-forwarded-network", network.parse().unwrap());
            }
            let (response, _stream) = send.send_request(request, true).unwrap();
            let mut body = response.await.unwrap().into_body();
            while body.data().await.is_some() {}
            let source = running.record().await.source;
            assert_eq!((source.workload.as_deref(), source.cluster.as_deref()), (Some(workload), Some(cluster)), "{network:?}");
            assert_eq!(source.identity, Some(identity("client")), "proved, whatever it says");
        }
    })
    .await;
}

#[tokio::test]
async fn who_is_there_is_told_only_if_that_is_wanted() {
    within(async {
        let (mut stand, server) = (Stand::new(), Place::new());
        let (ip, port) = (server.ip, echo(server.ip).await);
        stand.apply([pod("server", &server.text(), Hop::Hbone)]);
        let config = Config { response_baggage: false, ..Stand::config() };
        let mut running = stand.start_with("server", server, config).await;
        let mut send = stand.tunnel("client", ip, "server").await;
        let mut request = Request::new(());
        (*request.method_mut(), *request.uri_mut()) = (Method::CONNECT, authority(&format!("{ip}:{port}")));
        request.headers_mut().insert("baggage", "service.name=shop".parse().unwrap());
        let (response, _stream) = send.send_request(request, true).unwrap();
        let mut response = response.await.unwrap();
        assert_eq!((response.status(), response.headers().get("baggage")), (StatusCode::OK, None));
        while response.body_mut().data().await.is_some() {}
        assert_eq!(running.record().await.source.workload, None, "nor read");
    })
    .await;
}

#[tokio::test]
async fn an_application_tunnel_is_told_who_comes_for_what() {
    within(async {
        for localhost in [true, false] {
            let (mut stand, server) = (Stand::new(), Place::new());
            let ip = server.ip;
            let (tell, mut told) = tokio::sync::mpsc::channel(1);
            let app = if localhost { IpAddr::from([127, 0, 0, 1]) } else { ip };
            let port = serve(app, move |mut stream| {
                let tell = tell.clone();
                async move {
                    let mut all = Vec::new();
                    stream.read_to_end(&mut all).await.unwrap();
                    tell.send((all, stream.peer_addr().unwrap().ip())).await.unwrap();
                }
            })
            .await;
            let tunnel = ApplicationTunnel { proxy_protocol: true, port: Some(port) };
            // The policy judges the address of the pod and the port of the tunnel.
            let to = |test| Term { negated: false, test };
            let terms = vec![to(Test::DestinationIp(vec![ip.into()])), to(Test::DestinationPort(vec![port]))];
            let rule = Rule { clauses: vec![Clause { matches: vec![Match { terms }] }] };
            stand.apply([
                pod("server", &server.text(), Hop::Hbone).workload(|w| w.l4.application_tunnel = Some(tunnel)),
                policy("only-tunnel", Action::Allow, vec![rule]),
            ]);
            let config = Config { localhost_app_tunnel: localhost, ..Stand::config() };
            let mut running = stand.start_with("server", server, config).await;
            let mut send = stand.tunnel("client", ip, "server").await;
            let mut request = Request::new(());
            (*request.method_mut(), *request.uri_mut()) = (Method::CONNECT, authority("198.51.100.2:80"));
            let (response, mut stream) = send.send_request(request, false).unwrap();
            let mut response = response.await.unwrap();
            assert_eq!(response.status(), StatusCode::OK);
            stream.send_data("hello".into(), true).unwrap();
            while response.body_mut().data().await.is_some() {}
            let (all, from) = told.recv().await.unwrap();
            let record = running.record().await;
            assert_eq!(
                all,
                [&proxy_protocol::header(record.source.addr, "198.51.100.2:80".parse().unwrap(), Some(&identity("client"))), &b"hello"[..]]
                    .concat()
            );
            assert_eq!(from, IpAddr::from([127, 0, 0, 1]));
            assert_eq!(record.bytes_recv, 5, "the header is none of the peer's bytes");
        }
    })
    .await;
}

#[tokio::test]
async fn policy_is_judged_by_who_the_peer_has_proved_to_be() {
    within(async {
        let (mut stand, server) = (Stand::new(), Place::new());
        let (ip, port) = (server.ip, echo(server.ip).await);
        stand.apply([pod("server", &server.text(), Hop::Hbone), policy("only-client", Action::Allow, vec![from("client")])]);
        let mut running = stand.start("server", server).await;
        let target = authority(&format!("{ip}:{port}"));
        let mut client = stand.tunnel("client", ip, "server").await;
        assert_eq!(status(&mut client, Method::CONNECT, target.clone()).await, StatusCode::OK);
        assert_eq!(running.record().await.flag, ResponseFlag::None);
        let mut stranger = stand.tunnel("stranger", ip, "server").await;
        assert_eq!(status(&mut stranger, Method::CONNECT, target.clone()).await, StatusCode::UNAUTHORIZED);
        let record = running.record().await;
        assert_eq!(record.flag, ResponseFlag::Denied);
        assert_eq!(record.error.as_deref(), Some("policy rejection: allow policies exist, but none allowed"));
        stand.apply([policy("not-client", Action::Deny, vec![from("client")])]);
        assert_eq!(status(&mut client, Method::CONNECT, target).await, StatusCode::UNAUTHORIZED, "on a tunnel that was open before");
        let record = running.record().await;
        assert_eq!(record.error.as_deref(), Some("policy rejection: explicitly denied by demo/not-client"));
    })
    .await;
}

#[tokio::test]
async fn a_connection_that_policy_now_forbids_is_closed_and_others_stay() {
    within(async {
        let (mut stand, client, second, server) = (Stand::new(), Place::new(), Place::new(), Place::new());
        let (ip, port) = (server.text(), echo(server.ip).await);
        stand.apply([
            pod("client", &client.text(), Hop::Hbone),
            pod("server-2", &second.text(), Hop::Hbone),
            pod("server", &ip, Hop::Hbone),
        ]);
        let mut client = stand.start("client", client).await;
        let second = stand.start("server-2", second).await;
        let mut server = stand.start("server", server).await;
        let mut forbidden = socks(client.socks5, &ip, port).await.unwrap();
        let mut allowed = socks(second.socks5, &ip, port).await.unwrap();
        says_back(&mut forbidden, "hello").await;
        says_back(&mut allowed, "hello").await;
        stand.apply([policy("not-client", Action::Deny, vec![from("client")])]);
        let error = forbidden.read_to_end(&mut Vec::new()).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        let record = server.record().await;
        assert_eq!((record.flag, record.bytes_recv), (ResponseFlag::Denied, 5));
        let at_client = client.record().await;
        assert_eq!((at_client.flag, at_client.error.is_some()), (ResponseFlag::None, true), "it only sees the end");
        says_back(&mut allowed, "still here").await;
    })
    .await;
}

#[tokio::test]
async fn a_workload_that_the_mesh_does_not_know_is_waited_for_and_then_refused() {
    within(async {
        let (mut stand, server) = (Stand::new(), Place::new());
        let (ip, port) = (server.ip, echo(server.ip).await);
        let _running = stand.start("server", Place { ip, inbound: server.inbound }).await;
        // Who it is, the mesh says: until then there is no certificate to present.
        assert!(stand.try_tunnel("client", ip, "server").await.is_err());
        stand.apply([pod("server", &ip.to_string(), Hop::Hbone)]);
        let mut send = stand.tunnel("client", ip, "server").await;
        let target = authority(&format!("{ip}:{port}"));
        stand.remove(pod("server", &ip.to_string(), Hop::Hbone));
        assert_eq!(status(&mut send, Method::CONNECT, target.clone()).await, StatusCode::SERVICE_UNAVAILABLE);
        stand.apply([pod("server", &ip.to_string(), Hop::Hbone)]);
        assert_eq!(status(&mut send, Method::CONNECT, target).await, StatusCode::OK);
    })
    .await;
}

#[tokio::test]
async fn open_streams_outlive_the_start_of_a_drain_but_not_its_deadline() {
    within(async {
        let (mut stand, client, server) = (Stand::new(), Place::new(), Place::new());
        let (ip, port) = (server.ip, echo(server.ip).await);
        stand.apply([pod("client", &client.text(), Hop::Hbone), pod("server", &server.text(), Hop::Hbone)]);
        let client = stand.start("client", client).await;
        let mut server = stand.start("server", server).await;
        let mut stream = socks(client.socks5, &ip.to_string(), port).await.unwrap();
        says_back(&mut stream, "before").await;
        let mut raw = stand.tunnel("client", ip, "server").await;
        assert_eq!(status(&mut raw, Method::CONNECT, authority(&format!("{ip}:{port}"))).await, StatusCode::OK);
        server.record().await;
        server.drain.start();
        // GOAWAY: the tunnel without streams closes, and nothing new is accepted on it.
        while std::future::poll_fn(|cx| raw.poll_ready(cx)).await.is_ok() {
            tokio::task::yield_now().await;
        }
        while TcpStream::connect((ip, 15008)).await.is_ok() {
            tokio::task::yield_now().await;
        }
        says_back(&mut stream, "during").await;
        assert!(server.drain.remaining() > 0);
        server.drain.force();
        server.drain.drained().await;
        let mut rest = Vec::new();
        let error = stream.read_to_end(&mut rest).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "cut is not ended");
        let record = server.record().await;
        assert_eq!(record.error.as_deref(), Some("closed by drain deadline"));
        assert_eq!(record.bytes_recv, 12);
    })
    .await;
}

#[tokio::test]
async fn a_peer_without_a_certificate_has_no_tunnel() {
    within(async {
        let (mut stand, server) = (Stand::new(), Place::new());
        let ip = server.ip;
        stand.apply([pod("server", &server.text(), Hop::Hbone)]);
        let mut running = stand.start("server", server).await;
        let mut plain = TcpStream::connect((ip, 15008)).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut plain, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        let _ = plain.read_to_end(&mut Vec::new()).await;
        assert_eq!(running.record().await.event, TcpEvent::Refused);
        let strangers = Stand::new();
        let io = TcpStream::connect((ip, 15008)).await.unwrap();
        // Of another CA: the client does not trust the server, nor the server the client.
        crate::transport::tls::connect(io, &strangers.cert("client"), &[identity("server")], None).await.unwrap_err();
        assert_eq!(running.record().await.event, TcpEvent::Refused);
    })
    .await;
}
