//! Bytes and headers as the contract has them (contract, 1.2 to 1.4).

use super::*;
use std::collections::BTreeSet;

const SETTINGS: u8 = 4;
const WINDOW_UPDATE: u8 = 8;

/// The next frame of the connection that is no acknowledgement: its type and payload.
async fn frame(io: &mut (impl AsyncRead + Unpin)) -> (u8, Vec<u8>) {
    loop {
        let mut head = [0; 9];
        soon("frame", io.read_exact(&mut head)).await.unwrap();
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        io.read_exact(&mut payload).await.unwrap();
        assert_eq!(head[5..], [0; 4], "stream 0");
        if head[4] == 0 {
            return (head[3], payload);
        }
    }
}

/// SETTINGS as pairs, and the increment of the WINDOW_UPDATE that follows.
async fn opening(io: &mut (impl AsyncRead + Unpin)) -> (Vec<(u16, u32)>, u32) {
    let (kind, settings) = frame(io).await;
    assert_eq!(kind, SETTINGS);
    let pair = |entry: &[u8]| (u16::from_be_bytes([entry[0], entry[1]]), u32::from_be_bytes([entry[2], entry[3], entry[4], entry[5]]));
    let settings = settings.chunks(6).map(pair).collect();
    let (kind, increment) = frame(io).await;
    assert_eq!(kind, WINDOW_UPDATE);
    (settings, u32::from_be_bytes(increment.try_into().unwrap()))
}

#[tokio::test]
async fn a_client_opens_with_the_settings_of_the_contract() {
    let (near, mut far) = duplex(64 << 10);
    let _client = Client::handshake(near, &Config::default(), pending(), tls::Standing::default()).await.unwrap();
    let mut preface = [0; 24];
    soon("preface", far.read_exact(&mut preface)).await.unwrap();
    assert_eq!(&preface, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    // No push, stream window, frame size, header list.
    let settings = vec![(2, 0), (4, 4_194_304), (5, 1_048_576), (6, 16_384)];
    assert_eq!(opening(&mut far).await, (settings, 16_711_681));
}

#[tokio::test]
async fn a_server_opens_with_the_settings_of_the_contract_but_for_more_streams() {
    let (near, mut far) = duplex(64 << 10);
    let (_trigger, watch) = drain::new();
    let serving = tokio::spawn(async move { serve(near, &Config::default(), watch, pending(), &tls::Standing::default(), drop).await });
    far.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    // Streams, stream window, frame size, header list. The reference allows 200 streams.
    let settings = vec![(3, 1024), (4, 4_194_304), (5, 1_048_576), (6, 65_536)];
    assert_eq!(opening(&mut far).await, (settings, 16_711_681));
    serving.abort();
}

/// The head of a CONNECT as a server sees it.
async fn connect_head(headers: ConnectHeaders) -> http::request::Parts {
    let (near, far) = duplex(64 << 10);
    let config = Config::default();
    let client = Client::handshake(near, &config, pending(), tls::Standing::default()).await.unwrap();
    let opening = tokio::spawn(async move { client.reserve().connect("[fd00::1]:80", &headers, &config).await });
    let mut server = h2::server::handshake(far).await.unwrap();
    let (request, _respond) = soon("CONNECT", server.accept()).await.unwrap().unwrap();
    opening.abort();
    request.into_parts().0
}

#[tokio::test]
async fn a_connect_is_plain_and_says_only_what_is_known() {
    let full = ConnectHeaders {
        baggage: Some("service.name=a".parse().unwrap()),
        source: Some("[fd00::2]:51082".parse().unwrap()),
        service: Some("a.ns.svc".into()),
        network: Some("net1".into()),
    };
    let head = connect_head(full).await;
    assert_eq!(head.method, http::Method::CONNECT);
    assert_eq!((head.uri.authority().unwrap().as_str(), head.uri.scheme(), head.uri.path_and_query()), ("[fd00::1]:80", None, None));
    assert!(head.extensions.get::<h2::ext::Protocol>().is_none(), "no extended CONNECT");
    let values = |name: &str| head.headers.get_all(name).iter().map(|v| v.to_str().unwrap()).collect::<Vec<_>>();
    assert_eq!(values("baggage"), ["service.name=a"]);
    assert_eq!(values("forwarded"), ["for=\"[fd00::2]:51082\";host=a.ns.svc"]);
    assert_eq!(values("x-forwarded-network"), ["net1"]);
    let [trace] = values("traceparent")[..] else { panic!("{:?}", head.headers) };
    let lengths: Vec<_> = trace.split('-').map(str::len).collect();
    assert!(trace.starts_with("00-") && trace.ends_with("-00") && lengths == [2, 32, 16, 2], "{trace}");
    assert!(trace.bytes().all(|b| b == b'-' || b.is_ascii_digit() || (b'a'..=b'f').contains(&b)), "{trace}");
    assert_eq!(head.headers.len(), 4);

    let (one, other) = (connect_head(ConnectHeaders::default()).await, connect_head(ConnectHeaders::default()).await);
    let names: BTreeSet<_> = one.headers.keys().map(|name| name.as_str()).collect();
    assert_eq!(names, BTreeSet::from(["traceparent"]));
    assert_ne!(one.headers["traceparent"], other.headers["traceparent"], "fresh for each connection");
}
