//! What we write is read by another implementation, and what that writes by us.

use super::*;
use hickory_proto::{
    op::{Edns as TheirEdns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, RData, RecordType},
};
use proptest::prelude::*;

fn question(name: &str, kind: RecordType) -> Message {
    question_of(name.split('.').filter(|label| !label.is_empty()), kind)
}

fn question_of(labels: impl IntoIterator<Item = impl AsRef<[u8]>>, kind: RecordType) -> Message {
    let labels: Vec<Vec<u8>> = labels.into_iter().map(|label| label.as_ref().to_vec()).collect();
    let mut message = Message::new(0x1234, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_labels(labels.iter().map(Vec::as_slice)).unwrap(), kind));
    message
}

fn with_edns(mut message: Message, payload: u16) -> Message {
    let mut edns = TheirEdns::new();
    edns.set_max_payload(payload).set_dnssec_ok(true);
    message.set_edns(edns);
    message
}

/// Also for a payload below 512, which the other implementation does not write.
fn with_payload(mut bytes: Vec<u8>, payload: u16) -> Vec<u8> {
    let at = bytes.len() - 11 + 3;
    bytes[at..at + 2].copy_from_slice(&payload.to_be_bytes());
    bytes
}

fn read(answer: &[u8]) -> Message {
    Message::from_vec(answer).unwrap()
}

/// Code and id of the refusal.
fn refused(bytes: &[u8]) -> Option<(u16, u16)> {
    match Request::parse(bytes).unwrap_err() {
        Refusal::Silent => None,
        Refusal::Answer(answer) => {
            let answer = read(&answer);
            assert_eq!(answer.metadata.message_type, MessageType::Response);
            Some((answer.metadata.response_code.into(), answer.metadata.id))
        }
    }
}

#[test]
fn questions_are_read() {
    let rows = [
        (question("Web.Demo", RecordType::A), Some("web.demo"), Some(Family::V4), "a", 512),
        (question("web.demo.", RecordType::AAAA), Some("web.demo"), Some(Family::V6), "aaaa", 512),
        (with_edns(question("*.x_y-1", RecordType::A), 1232), Some("*.x_y-1"), Some(Family::V4), "a", 1232),
        (question(".", RecordType::NS), Some(""), None, "ns", 512),
        (question("web", RecordType::SRV), Some("web"), None, "srv", 512),
        (question("web", RecordType::HTTPS), Some("web"), None, "https", 512),
        (question("web", RecordType::Unknown(65280)), Some("web"), None, "unknown", 512),
        (question_of(["a.b", "c"], RecordType::A), None, Some(Family::V4), "a", 512),
        (question_of(["a\0", "c"], RecordType::A), None, Some(Family::V4), "a", 512),
    ];
    for (message, name, family, kind, payload) in rows {
        let bytes = message.to_vec().unwrap();
        let request = Request::parse(&bytes).unwrap();
        assert_eq!(request.name().as_deref(), name, "{message}");
        assert_eq!((request.family(), kind_name(request.kind()), request.payload()), (family, kind, payload), "{message}");
    }
    let mut chaos = question("web", RecordType::A).to_vec().unwrap();
    *chaos.last_mut().unwrap() = 3;
    assert_eq!(Request::parse(&chaos).unwrap().family(), None, "only class IN has addresses");
    let bytes = with_payload(with_edns(question("web", RecordType::A), 512).to_vec().unwrap(), 100);
    assert_eq!(Request::parse(&bytes).unwrap().payload(), 512, "less counts as 512");
}

#[test]
fn types_have_the_names_that_others_give_them() {
    for kind in 0..=u16::MAX {
        let theirs = RecordType::from(kind).to_string().to_ascii_lowercase();
        let ours = kind_name(kind);
        assert!(ours == theirs || ours == "unknown", "{kind}: {ours}, {theirs}");
    }
}

#[test]
fn what_is_no_question_is_refused_or_not_answered_at_all() {
    let ask = || question("web.demo", RecordType::A).to_vec().unwrap();
    let edit = |edits: &[(usize, u8)]| {
        let mut bytes = ask();
        edits.iter().for_each(|(at, byte)| bytes[*at] = *byte);
        bytes
    };
    let edns = || with_edns(question("web", RecordType::A), 1232).to_vec().unwrap();
    let opt = || edns()[edns().len() - 11..].to_vec();
    let twice = || {
        let mut bytes = [edns(), opt()].concat();
        bytes[11] = 2;
        bytes
    };
    let named = || {
        let mut bytes = [&edns()[..edns().len() - 11], &[1, b'x'], &opt()].concat();
        bytes[11] = 1;
        bytes
    };
    let mut version = edns();
    let at = version.len() - 5;
    version[at] = 1;
    let long = [&ask()[..12], &[&[63][..], &[b'a'; 63]].concat().repeat(4), &[0, 0, 1, 0, 1]].concat();
    let form = Some((1, 0x1234));
    let rows: Vec<(&str, Vec<u8>, _)> = vec![
        ("nothing", vec![], None),
        ("half a header", ask()[..11].to_vec(), None),
        ("a response", edit(&[(2, 0x81)]), form),
        ("a response that is an error", edit(&[(2, 0x81), (3, 1)]), None),
        ("a status request", edit(&[(2, 0x10)]), Some((4, 0x1234))),
        ("a notification", edit(&[(2, 0x20)]), Some((4, 0x1234))),
        ("an update", edit(&[(2, 0x28)]), Some((4, 0x1234))),
        ("no question", edit(&[(5, 0)]), form),
        ("two questions", edit(&[(5, 2)]), form),
        ("a header only", ask()[..12].to_vec(), form),
        ("half a name", ask()[..16].to_vec(), form),
        ("half a type", ask()[..ask().len() - 3].to_vec(), form),
        ("a pointer as name", [&ask()[..12], &[0xc0, 0x0c, 0, 1, 0, 1]].concat(), form),
        ("a label of a kind that is not known", [&ask()[..12], &[0x41, b'a', 0, 0, 1, 0, 1]].concat(), form),
        ("a name of 257 bytes", long, form),
        ("an answer that is not there", edit(&[(7, 1)]), form),
        ("an addition that is not there", edit(&[(11, 1)]), form),
        (
            "data that is not there",
            {
                let mut bytes = edns();
                *bytes.last_mut().unwrap() = 1;
                bytes
            },
            form,
        ),
        ("two options records", twice(), form),
        ("options of a name", named(), form),
        ("a later version of EDNS", version, Some((16, 0x1234))),
    ];
    for (what, bytes, want) in rows {
        assert_eq!(refused(&bytes), want, "{what}");
    }
}

#[test]
fn answers_say_what_the_mesh_says() {
    let bytes = question("Web.demo", RecordType::A).to_vec().unwrap();
    let request = Request::parse(&bytes).unwrap();
    let answer = read(&request.answer(&["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()], None, 512));
    let head = answer.metadata;
    assert!(head.authoritative && head.recursion_available && head.recursion_desired && !head.truncation);
    assert_eq!((head.id, head.response_code, head.message_type), (0x1234, ResponseCode::NoError, MessageType::Response));
    let records: Vec<String> = answer.answers.iter().map(ToString::to_string).collect();
    assert_eq!(records, ["Web.demo. 30 IN A 10.0.0.1", "Web.demo. 30 IN AAAA fd00::1"], "in the case of the question");
    assert_eq!(answer.queries, question("Web.demo", RecordType::A).queries);
    assert!(answer.edns.is_none());

    let answer = read(&request.answer(&["10.0.0.1".parse().unwrap()], Some("web"), 512));
    let records: Vec<String> = answer.answers.iter().map(ToString::to_string).collect();
    assert_eq!(records, ["Web.demo. 30 IN CNAME web.", "web. 30 IN A 10.0.0.1"]);

    let empty = read(&request.answer(&[], Some("web"), 512));
    assert!(empty.answers.is_empty() && empty.metadata.authoritative);
    assert_eq!(empty.metadata.response_code, ResponseCode::NoError);

    let error = read(&request.error(Rcode::ServFail));
    assert_eq!((error.metadata.response_code, error.metadata.authoritative, error.queries.len()), (ResponseCode::ServFail, false, 1));
}

#[test]
fn options_are_echoed_with_at_least_512_bytes() {
    let with = |payload| with_payload(with_edns(question("web", RecordType::A), 512).to_vec().unwrap(), payload);
    for (payload, want) in [(0, 512), (100, 512), (512, 512), (1232, 1232), (65535, 65535)] {
        let bytes = with(payload);
        let request = Request::parse(&bytes).unwrap();
        for answer in [request.answer(&["10.0.0.1".parse().unwrap()], None, 512), request.error(Rcode::ServFail), request.truncated(&[])] {
            let edns = read(&answer).edns.unwrap();
            assert_eq!((edns.max_payload(), edns.flags().dnssec_ok, edns.version()), (want, true, 0));
        }
    }
}

#[test]
fn what_is_too_long_is_cut_and_says_so() {
    let addresses = |count: u16| -> Vec<IpAddr> {
        (0..count).map(|n| [&[10, 0][..], &n.to_be_bytes()].concat()).map(|o| IpAddr::from([o[0], o[1], o[2], o[3]])).collect()
    };
    let plain = question("web", RecordType::A).to_vec().unwrap();
    let edns = with_edns(question("web", RecordType::A), 1232).to_vec().unwrap();
    // Header 12, question 9, options 11; each address 16, the alias 12 + 5.
    let rows = [
        (&plain, 30, None, 512, 30, false),
        (&plain, 31, None, 512, 30, true),
        (&plain, 29, Some("web"), 512, 30, false),
        (&plain, 30, Some("web"), 512, 30, true),
        (&edns, 75, None, 1232, 75, false),
        (&edns, 76, None, 1232, 75, true),
        (&plain, 4094, None, MAX_MESSAGE, 4094, false),
        (&plain, 5000, None, MAX_MESSAGE, 4094, true),
    ];
    for (bytes, count, alias, limit, told, is_cut) in rows {
        let request = Request::parse(bytes).unwrap();
        let bytes = request.answer(&addresses(count), alias, limit);
        assert!(bytes.len() <= limit && (!is_cut || bytes.len() > limit - 28), "{count}: {}", bytes.len());
        let answer = read(&bytes);
        assert_eq!((answer.answers.len(), answer.metadata.truncation), (told, is_cut), "{count} within {limit}");
        assert!(answer.answers.iter().skip(usize::from(alias.is_some())).all(|record| matches!(record.data, RData::A(_))));
    }
    // Not even the alias has room.
    let label = "a".repeat(63);
    let name = format!("{label}.{label}.{label}.{}", "a".repeat(59));
    let bytes = with_edns(question(&name, RecordType::A), 512).to_vec().unwrap();
    let answer = read(&Request::parse(&bytes).unwrap().answer(&addresses(1), Some(&name), 512));
    assert_eq!((answer.answers.len(), answer.metadata.truncation), (0, true));
}

#[test]
fn only_an_answer_to_the_question_is_one() {
    let asked = question("web.demo", RecordType::A);
    let bytes = asked.to_vec().unwrap();
    let request = Request::parse(&bytes).unwrap();
    let answer = |edit: &dyn Fn(&mut Message)| {
        let mut answer = asked.clone().into_response();
        edit(&mut answer);
        answer.to_vec().unwrap()
    };
    let other = |name, kind| {
        answer(&|m| {
            m.queries.clear();
            m.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        })
    };
    let rows = [
        ("as asked", answer(&|_| ()), true),
        ("in other case", other("WEB.demo", RecordType::A), true),
        ("an error", answer(&|m| m.metadata.response_code = ResponseCode::NXDomain), true),
        ("another id", answer(&|m| m.metadata.id = 1), false),
        ("another name", other("web.other", RecordType::A), false),
        ("a longer name", other("web.demo.svc", RecordType::A), false),
        ("another type", other("web.demo", RecordType::AAAA), false),
        ("no question", answer(&|m| m.queries.clear()), false),
        ("a question", bytes.clone(), false),
        ("nothing", vec![], false),
        ("cut off", answer(&|_| ())[..20].to_vec(), false),
    ];
    for (what, bytes, want) in rows {
        assert_eq!(answers(&bytes, 0x1234, request.question()), want, "{what}");
    }
    let bare = |code| {
        answer(&|m| {
            m.queries.clear();
            m.metadata.response_code = code;
        })
    };
    assert!(is_bare_error(&bare(ResponseCode::FormErr), 0x1234));
    assert!(!is_bare_error(&bare(ResponseCode::FormErr), 1));
    assert!(!is_bare_error(&bare(ResponseCode::NoError), 0x1234));
    assert!(!is_bare_error(&answer(&|m| m.metadata.response_code = ResponseCode::FormErr), 0x1234));
}

#[test]
fn a_cut_answer_keeps_the_code_of_the_whole() {
    let asked = with_edns(question("web.demo", RecordType::TXT), 1232);
    let bytes = asked.to_vec().unwrap();
    let mut whole = asked.clone().into_response();
    whole.metadata.response_code = ResponseCode::NXDomain;
    let cut = read(&Request::parse(&bytes).unwrap().truncated(&whole.to_vec().unwrap()));
    assert_eq!((cut.metadata.response_code, cut.metadata.truncation), (ResponseCode::NXDomain, true));
    assert_eq!((cut.queries, cut.answers.len()), (asked.queries, 0));
}

proptest! {
    /// Whatever comes is read or refused, and what both implementations can read means the same.
    #[test]
    fn garbage_is_read_as_others_read_it(
        labels in prop::collection::vec("[a-zA-Z0-9_-]{1,20}", 0..8),
        kind in any::<u16>(),
        payload in prop::option::of(any::<u16>()),
        edits in prop::collection::vec((0usize..80, any::<u8>()), 0..4),
        cut in 0usize..8,
    ) {
        let mut message = question_of(&labels, RecordType::from(kind));
        if let Some(payload) = payload {
            message = with_edns(message, payload);
        }
        let mut bytes = message.to_vec().unwrap();
        for (at, byte) in &edits {
            let at = at % bytes.len();
            bytes[at] = *byte;
        }
        bytes.truncate(bytes.len() - cut.saturating_sub(4));
        match (Request::parse(&bytes), Message::from_vec(&bytes)) {
            (Ok(ours), Ok(theirs)) => {
                let query = &theirs.queries[0];
                prop_assert_eq!(ours.kind(), u16::from(query.query_type));
                prop_assert_eq!(ours.payload(), usize::from(theirs.max_payload()));
                if let Some(name) = ours.name() {
                    let theirs = query.name.iter().collect::<Vec<_>>().join(&b'.').to_ascii_lowercase();
                    prop_assert_eq!(name.as_bytes(), theirs);
                }
                let answer = ours.answer(&[IpAddr::from([10, 0, 0, 1])], None, 600);
                let answer = Message::from_vec(&answer).unwrap();
                prop_assert_eq!(answer.metadata.id, theirs.metadata.id);
                prop_assert_eq!(answer.answers.len(), 1);
            }
            (Err(Refusal::Answer(answer)), _) => prop_assert!(Message::from_vec(&answer).is_ok()),
            (Err(Refusal::Silent), _) | (Ok(_), Err(_)) => {}
        }
    }
}
