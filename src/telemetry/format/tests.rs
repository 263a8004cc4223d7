use super::*;
use crate::telemetry::{Direction, Record, ResponseFlag, TcpEvent, TcpParty, TcpRecord};
use http::{HeaderValue, Method, StatusCode};

fn at(millis: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(millis)
}

fn request() -> HttpRecord {
    HttpRecord {
        duration: Duration::from_micros(12_900),
        destination: Some("127.67.0.11:9080".parse().unwrap()),
        source: Some("spiffe://cluster.local/ns/bookinfo/sa/curl".parse().unwrap()),
        source_workload: Some("curl".into()),
        authority: Some("reviews:9080".into()),
        path: Some("/reviews/0?u=1".parse().unwrap()),
        status: Some(StatusCode::OK),
        bytes_sent: 295,
        attempts: 2,
        destination_service: Some("reviews.bookinfo.svc.cluster.local".into()),
        backend: Some("reviews-v1.bookinfo.svc.cluster.local:9080".into()),
        route: Some("bookinfo/reviews.1".into()),
        policy: Some("ns[bookinfo]-policy[viewer]-rule[0]".into()),
        upstream: Some("127.66.0.31:9080".parse().unwrap()),
        upstream_identity: Some("spiffe://cluster.local/ns/bookinfo/sa/bookinfo-reviews".parse().unwrap()),
        request_id: Some(HeaderValue::from_static("4f7c")),
        user_agent: Some(HeaderValue::from_static("curl/8.5.0")),
        ..HttpRecord::new(at(1_700_000_000_123), "127.66.0.2:41000".parse().unwrap())
    }
}

fn connection() -> TcpRecord {
    TcpRecord {
        event: TcpEvent::Complete,
        time: at(1_700_000_000_123),
        source: TcpParty {
            workload: Some("curl".into()),
            namespace: Some("bookinfo".into()),
            identity: Some("spiffe://cluster.local/ns/bookinfo/sa/curl".parse().unwrap()),
            ..TcpParty::new("127.66.0.2:41000".parse().unwrap())
        },
        destination: TcpParty {
            workload: Some("ratings-v1".into()),
            namespace: Some("bookinfo".into()),
            ..TcpParty::new("127.66.0.41:15008".parse().unwrap())
        },
        hbone_addr: Some("127.66.0.41:9080".into()),
        destination_service: Some("ratings.bookinfo.svc.cluster.local".into()),
        direction: Direction::Inbound,
        bytes_sent: 175,
        bytes_recv: 84,
        duration: Duration::from_millis(12),
        flag: ResponseFlag::None,
        error: None,
    }
}

fn text(record: Record) -> String {
    let mut out = Vec::new();
    write_text(&record, &mut out);
    String::from_utf8(out).unwrap()
}

fn json(record: Record) -> String {
    let mut out = Vec::new();
    write_json(&record, &mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn a_request_as_text_has_the_fields_of_istio_in_order() {
    assert_eq!(
        text(Record::Http(request().into())),
        "[2023-11-14T22:13:20.123Z] \"GET /reviews/0?u=1 HTTP/1.1\" 200 - via_upstream - \"-\" 0 295 12 - \"-\" \"curl/8.5.0\" \"4f7c\" \
         \"reviews:9080\" \"127.66.0.31:9080\" reviews-v1.bookinfo.svc.cluster.local:9080 - 127.67.0.11:9080 127.66.0.2:41000 - \
         bookinfo/reviews.1 source_principal=\"spiffe://cluster.local/ns/bookinfo/sa/curl\" source_workload=\"curl\" \
         destination_principal=\"spiffe://cluster.local/ns/bookinfo/sa/bookinfo-reviews\" \
         destination_service=\"reviews.bookinfo.svc.cluster.local\" policy=\"ns[bookinfo]-policy[viewer]-rule[0]\" grpc_status=- attempts=2\n"
    );
}

#[test]
fn a_request_as_json_has_the_keys_of_istio() {
    assert_eq!(
        json(Record::Http(request().into())),
        concat!(
            r#"{"start_time":"2023-11-14T22:13:20.123Z","method":"GET","path":"/reviews/0?u=1","protocol":"HTTP/1.1","#,
            r#""response_code":200,"response_flags":"-","response_code_details":"via_upstream","#,
            r#""upstream_transport_failure_reason":null,"bytes_received":0,"bytes_sent":295,"duration":12,"#,
            r#""x_forwarded_for":null,"user_agent":"curl/8.5.0","request_id":"4f7c","authority":"reviews:9080","#,
            r#""upstream_host":"127.66.0.31:9080","upstream_cluster":"reviews-v1.bookinfo.svc.cluster.local:9080","#,
            r#""downstream_local_address":"127.67.0.11:9080","downstream_remote_address":"127.66.0.2:41000","#,
            r#""route_name":"bookinfo/reviews.1","source_principal":"spiffe://cluster.local/ns/bookinfo/sa/curl","#,
            r#""source_workload":"curl","destination_principal":"spiffe://cluster.local/ns/bookinfo/sa/bookinfo-reviews","#,
            r#""destination_service":"reviews.bookinfo.svc.cluster.local","policy":"ns[bookinfo]-policy[viewer]-rule[0]","#,
            r#""grpc_status":null,"attempts":2}"#,
            "\n"
        )
    );
}

#[test]
fn a_connection_reads_like_one_of_ztunnel() {
    assert_eq!(
        text(Record::Tcp(connection().into())),
        "2023-11-14T22:13:20.123000Z\tinfo\taccess\tconnection complete\tsrc.addr=127.66.0.2:41000 src.workload=\"curl\" \
         src.namespace=\"bookinfo\" src.identity=\"spiffe://cluster.local/ns/bookinfo/sa/curl\" dst.addr=127.66.0.41:15008 \
         dst.hbone_addr=127.66.0.41:9080 dst.service=\"ratings.bookinfo.svc.cluster.local\" dst.workload=\"ratings-v1\" \
         dst.namespace=\"bookinfo\" direction=\"inbound\" bytes_sent=175 bytes_recv=84 duration=\"12ms\"\n"
    );
    assert_eq!(
        json(Record::Tcp(connection().into())),
        concat!(
            r#"{"level":"info","time":"2023-11-14T22:13:20.123000Z","scope":"access","message":"connection complete","#,
            r#""src.addr":"127.66.0.2:41000","src.workload":"curl","src.namespace":"bookinfo","#,
            r#""src.identity":"spiffe://cluster.local/ns/bookinfo/sa/curl","dst.addr":"127.66.0.41:15008","#,
            r#""dst.hbone_addr":"127.66.0.41:9080","dst.service":"ratings.bookinfo.svc.cluster.local","#,
            r#""dst.workload":"ratings-v1","dst.namespace":"bookinfo","direction":"inbound","#,
            r#""bytes_sent":175,"bytes_recv":84,"duration":"12ms"}"#,
            "\n"
        )
    );
}

/// With everything that can be known.
fn full() -> TcpRecord {
    let c = connection();
    let identity = Some("spiffe://cluster.local/ns/bookinfo/sa/ratings".parse().unwrap());
    TcpRecord {
        source: TcpParty { cluster: Some("east".into()), ..c.source },
        destination: TcpParty { identity, cluster: Some("west".into()), ..c.destination },
        direction: Direction::Outbound,
        flag: ResponseFlag::Connect,
        error: Some("http status: 503 Service Unavailable".into()),
        ..c
    }
}

#[test]
fn all_fields_of_a_connection_stand_in_the_order_of_ztunnel() {
    let parties = "src.addr=127.66.0.2:41000 src.workload=\"curl\" src.namespace=\"bookinfo\" \
         src.identity=\"spiffe://cluster.local/ns/bookinfo/sa/curl\" src.cluster=\"east\" dst.addr=127.66.0.41:15008 \
         dst.hbone_addr=127.66.0.41:9080 dst.service=\"ratings.bookinfo.svc.cluster.local\" dst.workload=\"ratings-v1\" \
         dst.namespace=\"bookinfo\" dst.identity=\"spiffe://cluster.local/ns/bookinfo/sa/ratings\" dst.cluster=\"west\" \
         direction=\"outbound\"";
    assert_eq!(
        text(Record::Tcp(full().into())),
        format!(
            "2023-11-14T22:13:20.123000Z\terror\taccess\tconnection complete\t{parties} bytes_sent=175 bytes_recv=84 duration=\"12ms\" \
             error=\"http status: 503 Service Unavailable\"\n"
        )
    );
    let opened = TcpRecord { event: TcpEvent::Opened, flag: ResponseFlag::None, error: None, ..full() };
    assert_eq!(
        text(Record::Tcp(opened.clone().into())),
        format!("2023-11-14T22:13:20.123000Z\tdebug\taccess\tconnection opened\t{parties}\n")
    );
    let keys = |record: TcpRecord| {
        let line = json(Record::Tcp(record.into()));
        let keys =
            line.split("\",\"").flat_map(|part| part.split(",\"")).map(|part| part.split("\":").next().unwrap_or_default().to_owned());
        keys.map(|key| key.trim_start_matches("{\"").to_owned()).collect::<Vec<_>>().join(" ")
    };
    let head = "level time scope message src.addr src.workload src.namespace src.identity src.cluster dst.addr dst.hbone_addr dst.service \
         dst.workload dst.namespace dst.identity dst.cluster direction";
    assert_eq!(keys(full()), format!("{head} bytes_sent bytes_recv duration error"));
    assert_eq!(keys(opened), head);
}

#[test]
fn a_failed_connection_is_an_error_and_a_refused_one_a_short_warning() {
    let failed = TcpRecord { flag: ResponseFlag::Denied, error: Some("policy \"x\"".into()), ..connection() };
    let line = text(Record::Tcp(failed.into()));
    assert!(line.contains("\terror\taccess\tconnection complete\t"), "{line}");
    assert!(line.ends_with(" error=\"policy \\\"x\\\"\"\n"), "{line}");

    let refused = TcpRecord { event: TcpEvent::Refused, error: Some("unknown workload".into()), ..connection() };
    assert_eq!(
        text(Record::Tcp(refused.clone().into())),
        "2023-11-14T22:13:20.123000Z\twarn\taccess\tconnection failed\tsrc.addr=127.66.0.2:41000 dst.addr=127.66.0.41:15008 \
         direction=\"inbound\" error=\"unknown workload\"\n"
    );
    assert!(!json(Record::Tcp(refused.into())).contains("bytes_sent"));
}

#[test]
fn nothing_a_client_sends_can_forge_a_line_or_a_field() {
    let record = HttpRecord {
        method: Method::from_bytes(b"GET").unwrap(),
        path: Some("/a\"b".parse().unwrap()),
        authority: Some("x\" 200\r\n[2024] \"GET /\u{2028}".into()),
        user_agent: Some(HeaderValue::from_bytes(b"a\"\t\xff\\").unwrap()),
        route: Some("ns/name with \"quotes\"".into()),
        error: Some("bad\nline".into()),
        ..request()
    };
    let line = text(Record::Http(record.clone().into()));
    assert_eq!(line.matches('\n').count(), 1, "{line}");
    assert!(line.contains(r#""x\" 200\x0d\x0a[2024] \"GET /\xe2\x80\xa8""#), "{line}");
    assert!(line.contains(r#""a\"\x09\xff\\""#), "{line}");
    assert!(line.contains(r#" "ns/name with \"quotes\"" "#), "{line}");

    let line = json(Record::Http(record.into()));
    assert_eq!(line.matches('\n').count(), 1);
    let parsed: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(parsed["authority"], "x\" 200\r\n[2024] \"GET /\u{2028}");
    assert_eq!(parsed["user_agent"], "a\"\t\u{fffd}\\");
}
