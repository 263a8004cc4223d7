//! Names that are not of the mesh.

use super::stand::{Nameserver, Stand, client, config, id, listeners, nobody, question, told, with_payload};
use crate::{dns::Limits, telemetry::DnsProtocol};
use hickory_proto::{
    op::{Message, Query, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata::A},
};
use std::time::Duration;

fn address(name: &str, octets: [u8; 4]) -> Record {
    Record::from_rdata(Name::from_ascii(name).unwrap(), 300, RData::A(A(octets.into())))
}

/// Asks, has the nameserver answer with what `reply` makes of the question, and returns the answer.
async fn exchange(
    stand: &Stand,
    nameserver: &mut Nameserver,
    question: &Message,
    protocol: DnsProtocol,
    reply: impl Fn(&mut Message),
) -> Message {
    let asking = async {
        match protocol {
            DnsProtocol::Udp => stand.udp(question).await,
            DnsProtocol::Tcp => stand.tcp(question).await,
        }
    };
    let answering = async {
        let asked = nameserver.asked().await;
        assert_eq!(asked.protocol, protocol);
        let theirs = question.to_vec().unwrap();
        assert_eq!(asked.bytes[2..], theirs[2..], "as it came, but for the id");
        let mut message = asked.reply();
        reply(&mut message);
        asked.send(&message).await;
    };
    tokio::join!(asking, answering).0
}

#[tokio::test]
async fn questions_go_to_the_nameserver_as_they_are_and_so_do_answers() {
    let mut nameserver = Nameserver::new().await;
    let stand = Stand::new(config([nameserver.address]));
    let name = "www.Example.com.";
    let rows = [
        question(name, RecordType::A),
        question(name, RecordType::AAAA),
        with_payload(question(name, RecordType::A), 1400),
        // Only addresses are ours, also of our own names.
        question("web.demo.svc.cluster.local.", RecordType::SRV),
        question("web.", RecordType::Unknown(65280)),
        question("a\\.b.example.com.", RecordType::A),
        question(".", RecordType::NS),
    ];
    for question in rows {
        for protocol in [DnsProtocol::Udp, DnsProtocol::Tcp] {
            let answer = exchange(&stand, &mut nameserver, &question, protocol, |reply| {
                reply.add_answer(address("www.example.com.", [192, 0, 2, 1]));
            })
            .await;
            assert_eq!(told(&question, &answer), (ResponseCode::NoError, vec!["192.0.2.1".to_owned()]));
            assert_eq!((answer.answers[0].ttl, answer.metadata.authoritative), (300, false), "theirs, not ours");
        }
    }
    let counted = stand.counted();
    for want in
        ["requests a udp 3", "requests a tcp 3", "upstream_requests a udp 3", "upstream_requests aaaa tcp 1", "requests unknown udp 1"]
    {
        assert!(counted.iter().any(|line| line == want), "{want} in {counted:?}");
    }
}

#[tokio::test]
async fn what_the_nameserver_says_is_passed_on() {
    let mut nameserver = Nameserver::new().await;
    let stand = Stand::new(config([nameserver.address]));
    let question = question("www.example.com.", RecordType::A);
    for code in [ResponseCode::NXDomain, ResponseCode::ServFail, ResponseCode::Refused, ResponseCode::FormErr] {
        for protocol in [DnsProtocol::Udp, DnsProtocol::Tcp] {
            let answer = exchange(&stand, &mut nameserver, &question, protocol, |reply| reply.metadata.response_code = code).await;
            assert_eq!(told(&question, &answer).0, code);
        }
    }
    assert!(stand.counted().iter().all(|line| !line.starts_with("upstream_failures")), "an answer is no failure");
    let answer = exchange(&stand, &mut nameserver, &question, DnsProtocol::Udp, |reply| reply.metadata.truncation = true).await;
    assert!(answer.metadata.truncation);
}

#[tokio::test]
async fn an_answer_longer_than_the_client_takes_is_cut() {
    let mut nameserver = Nameserver::new().await;
    let stand = Stand::new(config([nameserver.address]));
    let plain = question("www.example.com.", RecordType::A);
    let fill = |count: u8| {
        move |reply: &mut Message| {
            for n in 0..count {
                reply.add_answer(address("www.example.com.", [192, 0, 2, n]));
            }
        }
    };
    // Header and question 33 bytes, each address 16.
    let rows = [
        (plain.clone(), DnsProtocol::Udp, 29, 29, false),
        (plain.clone(), DnsProtocol::Udp, 30, 0, true),
        (with_payload(plain.clone(), 1232), DnsProtocol::Udp, 60, 60, false),
        (with_payload(plain.clone(), 1232), DnsProtocol::Udp, 100, 0, true),
        (plain.clone(), DnsProtocol::Tcp, 110, 110, false),
    ];
    for (question, protocol, count, told, is_cut) in rows {
        let answer = exchange(&stand, &mut nameserver, &question, protocol, fill(count)).await;
        assert_eq!((answer.answers.len(), answer.metadata.truncation), (told, is_cut), "{count} by {protocol:?}");
        assert_eq!(answer.edns.is_some(), question.edns.is_some());
    }
}

#[tokio::test]
async fn only_the_answer_to_the_question_is_taken() {
    let mut nameserver = Nameserver::new().await;
    let stand = Stand::new(config([nameserver.address]));
    let question = question("www.example.com.", RecordType::A);
    let answering = async {
        let asked = nameserver.asked().await;
        let forged = |edit: &dyn Fn(&mut Message)| {
            let mut reply = asked.reply();
            reply.add_answer(address("www.example.com.", [203, 0, 113, 1]));
            edit(&mut reply);
            reply
        };
        let other = |name: &str, kind| {
            forged(&|reply| {
                reply.queries.clear();
                reply.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
            })
        };
        let wrong_id = forged(&|reply| reply.metadata.id = reply.metadata.id.wrapping_add(1));
        for message in [wrong_id, other("evil.example.com.", RecordType::A), other("www.example.com.", RecordType::AAAA), asked.message()] {
            asked.send(&message).await;
        }
        asked.send_bytes(vec![]).await;
        asked.send_bytes(asked.bytes[..14].to_vec()).await;
        let mut reply = asked.reply();
        reply.add_answer(address("www.example.com.", [192, 0, 2, 1]));
        asked.send(&reply).await;
    };
    let (answer, ()) = tokio::join!(stand.udp(&question), answering);
    assert_eq!(told(&question, &answer).1, ["192.0.2.1"]);
}

#[tokio::test]
async fn a_wrong_answer_by_tcp_is_none() {
    let mut nameserver = Nameserver::new().await;
    let stand = Stand::new(config([nameserver.address]));
    let question = question("www.example.com.", RecordType::A);
    let answer =
        exchange(&stand, &mut nameserver, &question, DnsProtocol::Tcp, |reply| reply.metadata.id = reply.metadata.id.wrapping_add(1)).await;
    assert_eq!(told(&question, &answer).0, ResponseCode::ServFail);
    assert_eq!(stand.counted(), ["requests a tcp 1", "upstream_failures a tcp 1", "upstream_requests a tcp 1"]);
}

#[tokio::test]
async fn ids_upstream_are_our_own_and_random() {
    let mut nameserver = Nameserver::new().await;
    let stand = Stand::new(config([nameserver.address]));
    let mut question = question("www.example.com.", RecordType::A);
    question.metadata.id = 7;
    let mut ids = std::collections::HashSet::new();
    for _ in 0..8 {
        let answering = async {
            let asked = nameserver.asked().await;
            ids.insert(id(&asked.bytes));
            asked.send(&asked.reply()).await;
        };
        let (answer, ()) = tokio::join!(stand.udp(&question), answering);
        assert_eq!(answer.metadata.id, 7);
    }
    assert!(ids.len() > 6, "{ids:?}");
}

#[tokio::test]
async fn the_next_nameserver_is_asked_when_one_does_not_answer() {
    let question = question("www.example.com.", RecordType::A);
    for protocol in [DnsProtocol::Udp, DnsProtocol::Tcp] {
        // Nobody is there.
        let mut second = Nameserver::new().await;
        let stand = Stand::new(config([nobody().await, second.address]));
        let answer = exchange(&stand, &mut second, &question, protocol, |_| ()).await;
        assert_eq!(told(&question, &answer).0, ResponseCode::NoError);
        // Nothing comes in time.
        let (mut first, mut second) = (Nameserver::new().await, Nameserver::new().await);
        let mut config = config([first.address, second.address]);
        config.limits = Limits { upstream_udp: Duration::from_millis(100), upstream_tcp: Duration::from_millis(100), ..config.limits };
        let stand = Stand::new(config);
        let answer = exchange(&stand, &mut second, &question, protocol, |_| ()).await;
        assert_eq!(told(&question, &answer).0, ResponseCode::NoError);
        assert_eq!(first.asked().await.protocol, protocol);
    }
}

#[tokio::test]
async fn an_error_without_the_question_is_reason_to_ask_the_next() {
    let (mut first, mut second) = (Nameserver::new().await, Nameserver::new().await);
    let stand = Stand::new(config([first.address, second.address]));
    let question = question("www.example.com.", RecordType::A);
    let refusing = async {
        let asked = first.asked().await;
        let mut reply = asked.reply();
        reply.queries.clear();
        reply.metadata.response_code = ResponseCode::NotImp;
        asked.send(&reply).await;
    };
    let (answer, ()) = tokio::join!(exchange(&stand, &mut second, &question, DnsProtocol::Udp, |_| ()), refusing);
    assert_eq!(told(&question, &answer).0, ResponseCode::NoError);
}

#[tokio::test]
async fn when_no_nameserver_answers_the_question_fails() {
    let question = question("www.example.com.", RecordType::A);
    let mut silent = Nameserver::new().await;
    for nameservers in [vec![], vec![nobody().await], vec![silent.address, nobody().await]] {
        let mut config = config(nameservers);
        config.limits = Limits { upstream_udp: Duration::from_millis(50), upstream_tcp: Duration::from_millis(50), ..config.limits };
        let stand = Stand::new(config);
        assert_eq!(told(&question, &stand.udp(&question).await).0, ResponseCode::ServFail);
        assert_eq!(told(&question, &stand.tcp(&question).await).0, ResponseCode::ServFail);
        assert!(stand.counted().ends_with(&["upstream_requests a tcp 1".to_owned(), "upstream_requests a udp 1".to_owned()]));
        assert_eq!(stand.counted().iter().filter(|line| line.starts_with("upstream_failures")).count(), 2);
    }
    let asked = [silent.asked().await, silent.asked().await, silent.asked().await].map(|asked| asked.protocol);
    assert_eq!(asked, [DnsProtocol::Udp, DnsProtocol::Udp, DnsProtocol::Tcp], "by UDP twice: a datagram may get lost");
}

#[tokio::test]
async fn we_never_ask_ourselves() {
    let listeners = listeners();
    let own: Vec<_> = listeners.udp_addresses().chain(listeners.tcp_addresses()).collect();
    let client = client();
    let stand = Stand::of(config(own), listeners, move || Box::pin(std::future::ready(Some(client.clone()))));
    let question = question("www.example.com.", RecordType::A);
    assert_eq!(told(&question, &stand.udp(&question).await).0, ResponseCode::ServFail);
}
