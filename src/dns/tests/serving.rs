//! Names of the mesh, and what becomes of clients.

use super::stand::{
    Nameserver, Stand, client, config, listeners, question, receive, receive_framed, send_framed, told, with_payload, within,
};
use crate::{
    dns::{Limits, Listeners, Search, Source},
    model::Hostname,
    transport::Sockets,
};
use hickory_proto::{op::ResponseCode, rr::RecordType};
use std::time::Duration;
use tokio::{io::AsyncReadExt as _, net::TcpStream, sync::watch};

#[tokio::test]
async fn names_of_the_mesh_are_answered_by_udp_and_tcp() {
    let stand = Stand::new(config([]));
    let full = "web.demo.svc.cluster.local.";
    let rows = [
        ("web.", RecordType::A, vec!["10.1.0.1"]),
        ("WEB.demo.", RecordType::A, vec!["10.1.0.1"]),
        (full, RecordType::A, vec!["10.1.0.1"]),
        (full, RecordType::AAAA, vec![]),
        ("web.demo.demo.svc.cluster.local.", RecordType::A, vec!["web.demo.", "10.1.0.1"]),
        ("many-7.many.", RecordType::A, vec!["10.2.0.7"]),
    ];
    for (name, kind, want) in rows {
        let question = question(name, kind);
        for answer in [stand.udp(&question).await, stand.tcp(&question).await] {
            assert_eq!(told(&question, &answer), (ResponseCode::NoError, want.iter().map(ToString::to_string).collect()), "{name}");
            assert!(answer.metadata.authoritative && answer.answers.iter().all(|record| record.ttl == 30), "{name}");
        }
    }
    assert_eq!(stand.counted(), ["requests a tcp 5", "requests a udp 5", "requests aaaa tcp 1", "requests aaaa udp 1"]);
}

#[tokio::test]
async fn an_answer_too_long_for_udp_is_cut_and_whole_by_tcp() {
    let stand = Stand::new(config([]));
    let plain = question("many.demo.svc.cluster.local.", RecordType::A);
    let rows = [(plain.clone(), 29, true), (with_payload(plain.clone(), 1232), 73, true), (with_payload(plain.clone(), 8192), 300, false)];
    for (question, want, is_cut) in rows {
        let answer = stand.udp(&question).await;
        assert_eq!((answer.answers.len(), answer.metadata.truncation), (want, is_cut));
        let whole = stand.tcp(&question).await;
        assert_eq!((whole.answers.len(), whole.metadata.truncation), (300, false));
    }
}

#[tokio::test]
async fn a_connection_takes_several_questions() {
    let stand = Stand::new(config([]));
    let mut stream = TcpStream::connect(stand.tcp).await.unwrap();
    let (first, second) = (question("web.", RecordType::A), question("web.", RecordType::AAAA));
    // Both before any answer, as glibc does.
    send_framed(&mut stream, &first.to_vec().unwrap()).await;
    send_framed(&mut stream, &second.to_vec().unwrap()).await;
    assert_eq!(told(&first, &receive_framed(&mut stream).await).1, ["10.1.0.1"]);
    assert!(told(&second, &receive_framed(&mut stream).await).1.is_empty());
}

#[tokio::test]
async fn a_connection_that_is_idle_or_makes_no_sense_is_closed() {
    let mut config = config([]);
    config.limits.idle = Duration::from_millis(100);
    let stand = Stand::new(config);
    let too_short: &[u8] = &[0, 3, 1, 2, 3];
    let too_long: &[u8] = &[0xff, 0xff, 1, 2, 3];
    let half: &[u8] = &[0, 20, 1, 2, 3];
    for sent in [&[], too_short, too_long, half] {
        let mut stream = TcpStream::connect(stand.tcp).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, sent).await.unwrap();
        // A reset, where bytes were left unread.
        let read = within(stream.read_u8()).await;
        assert!(read.is_err(), "{sent:?}");
    }
}

#[tokio::test]
async fn a_connection_above_the_limit_waits_for_its_turn() {
    let mut config = config([]);
    config.limits.connections = 1;
    let stand = Stand::new(config);
    let question = question("web.", RecordType::A);
    let mut first = TcpStream::connect(stand.tcp).await.unwrap();
    send_framed(&mut first, &question.to_vec().unwrap()).await;
    receive_framed(&mut first).await;
    let mut second = TcpStream::connect(stand.tcp).await.unwrap();
    send_framed(&mut second, &question.to_vec().unwrap()).await;
    send_framed(&mut first, &question.to_vec().unwrap()).await;
    receive_framed(&mut first).await;
    assert_eq!(stand.counted(), ["requests a tcp 2"], "the second is not served beside the first");
    drop(first);
    receive_framed(&mut second).await;
}

#[tokio::test]
async fn garbage_gets_an_error_or_nothing_and_harms_nobody() {
    let stand = Stand::new(config([]));
    let socket = stand.datagrams().await;
    let ask = question("web.", RecordType::A);
    let bytes = ask.to_vec().unwrap();
    let update = [&bytes[..2], &[0x28], &bytes[3..]].concat();
    let response = [&bytes[..2], &[0x80], &bytes[3..]].concat();
    let rows = [
        (vec![], None),
        (vec![1, 2, 3], None),
        (vec![0; 5000], None),
        (bytes[..14].to_vec(), Some(ResponseCode::FormErr)),
        (update, Some(ResponseCode::NotImp)),
        (response, Some(ResponseCode::FormErr)),
    ];
    for (sent, want) in rows {
        socket.send(&sent).await.unwrap();
        match want {
            Some(code) => assert_eq!(receive(&socket).await.metadata.response_code, code, "{sent:?}"),
            None => {
                // The answer to the next question is the first that comes.
                socket.send(&bytes).await.unwrap();
                assert_eq!(told(&ask, &receive(&socket).await).1, ["10.1.0.1"], "{sent:?}");
            }
        }
    }
}

#[tokio::test]
async fn without_a_known_workload_questions_fail() {
    let mut nameserver = Nameserver::new().await;
    let stand = Stand::of(config([nameserver.address]), listeners(), || Box::pin(async { None }));
    for name in ["web.", "www.example.com."] {
        let question = question(name, RecordType::A);
        assert_eq!(told(&question, &stand.udp(&question).await).0, ResponseCode::ServFail);
        assert_eq!(told(&question, &stand.tcp(&question).await).0, ResponseCode::ServFail);
    }
    assert_eq!(stand.counted(), ["requests a tcp 2", "requests a udp 2"], "of an unknown source");
    assert!(!nameserver.is_asked());
}

#[tokio::test]
async fn search_domains_are_those_of_the_workload() {
    let mut config = config([]);
    config.search = Search::fixed([Hostname::new("corp.example")]);
    let stand = Stand::new(config);
    let known = question("web.corp.example.", RecordType::A);
    assert_eq!(told(&known, &stand.udp(&known).await).1, ["web.", "10.1.0.1"]);
    let unknown = question("web.demo.svc.cluster.local.demo.svc.cluster.local.", RecordType::A);
    assert_eq!(told(&unknown, &stand.udp(&unknown).await).0, ResponseCode::ServFail, "nobody to ask");
}

#[tokio::test]
async fn questions_above_the_limit_fail_at_once() {
    let (known, is_known) = watch::channel(false);
    let source = move || -> Source {
        let mut is_known = is_known.clone();
        Box::pin(async move { is_known.wait_for(|known| *known).await.is_ok().then(client) })
    };
    let mut config = config([]);
    config.limits = Limits { requests: 3, ..Limits::default() };
    let stand = Stand::of(config, listeners(), source);
    let socket = stand.datagrams().await;
    let questions: Vec<_> = (0..5u16)
        .map(|id| {
            let mut question = question("web.", RecordType::A);
            question.metadata.id = id;
            question
        })
        .collect();
    for question in &questions {
        socket.send(&question.to_vec().unwrap()).await.unwrap();
    }
    let mut codes = Vec::new();
    for _ in 0..2 {
        codes.push(receive(&socket).await.metadata.response_code);
    }
    assert_eq!(codes, [ResponseCode::ServFail; 2]);
    known.send(true).unwrap();
    for _ in 0..3 {
        assert_eq!(receive(&socket).await.metadata.response_code, ResponseCode::NoError);
    }
    assert_eq!(stand.udp(&questions[0]).await.metadata.response_code, ResponseCode::NoError, "there is room again");
}

#[tokio::test]
async fn a_drain_lets_questions_at_hand_be_answered() {
    let mut nameserver = Nameserver::new().await;
    let stand = Stand::new(config([nameserver.address]));
    let question = question("www.example.com.", RecordType::A);
    let mut idle = TcpStream::connect(stand.tcp).await.unwrap();
    let mut stream = TcpStream::connect(stand.tcp).await.unwrap();
    send_framed(&mut stream, &question.to_vec().unwrap()).await;
    let by_tcp = nameserver.asked().await;
    let socket = stand.datagrams().await;
    socket.send(&question.to_vec().unwrap()).await.unwrap();
    let by_udp = nameserver.asked().await;
    stand.drain.start();
    within(stand.serving).await.unwrap();
    assert!(within(idle.read_u8()).await.is_err(), "closed");
    assert!(TcpStream::connect(stand.tcp).await.is_err(), "nobody listens any more");
    for asked in [by_tcp, by_udp] {
        asked.send(&asked.reply()).await;
    }
    assert_eq!(told(&question, &receive(&socket).await).0, ResponseCode::NoError);
    assert_eq!(told(&question, &receive_framed(&mut stream).await).0, ResponseCode::NoError);
    assert!(within(stream.read_u8()).await.is_err(), "the question at hand was the last");
    within(stand.drain.drained()).await;
}

#[tokio::test]
async fn a_forced_drain_ends_all() {
    let mut nameserver = Nameserver::new().await;
    let stand = Stand::new(config([nameserver.address]));
    let mut stream = TcpStream::connect(stand.tcp).await.unwrap();
    send_framed(&mut stream, &question("www.example.com.", RecordType::A).to_vec().unwrap()).await;
    let _never_answered = nameserver.asked().await;
    stand.drain.force();
    within(stand.drain.drained()).await;
    assert!(within(stream.read_u8()).await.is_err());
}

#[tokio::test]
async fn both_families_of_localhost_are_listened_on() {
    let sockets = Sockets::default();
    let port = listeners().udp_addresses().next().unwrap().port();
    let only_v4 = Listeners::bind_localhost(&sockets, port, false).unwrap();
    assert_eq!(only_v4.udp_addresses().collect::<Vec<_>>(), [std::net::SocketAddr::from(([127, 0, 0, 1], port))]);
    assert!(Listeners::bind_localhost(&sockets, port, false).is_err(), "the port is taken");
    drop(only_v4);
    let both = Listeners::bind_localhost(&sockets, port, true).unwrap();
    let has_v6 = tokio::net::UdpSocket::bind("[::1]:0").await.is_ok();
    assert_eq!(both.udp_addresses().count(), if has_v6 { 2 } else { 1 });
    assert_eq!(both.tcp_addresses().collect::<Vec<_>>(), both.udp_addresses().collect::<Vec<_>>());
}
