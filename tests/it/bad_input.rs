//! Bytes that no honest peer sends: each gets its refusal, and a healthy tunnel beside it notices
//! nothing.

use crate::support::{
    Mesh, MeshBuilder, Process, Wire, backend, client, eventually,
    manifests::*,
    mesh::{NS, TRUST_DOMAIN},
    soon,
    wire::{self, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, PREFACE, RST_STREAM, SETTINGS, WINDOW_UPDATE, frame},
};
use bytes::Bytes;
use cairn::{cert::DevCa, model::Identity, transport::WorkloadCert, waypoint};
use http::{Method, Request, StatusCode};
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinHandle,
};

const MOMENT: Duration = Duration::from_millis(250);
const HOUR: Duration = Duration::from_secs(3600);

/// A service `echo` with an HTTP port 80 and an opaque port 90.
fn manifests() -> String {
    service(NS, "echo", 10, &[("http", 80, 8080), ("tcp", 90, 9090)]) + &pod(NS, "echo-v1", "echo", "echo", 11)
}

/// A mesh, its application, and a healthy client.
struct World {
    mesh: Mesh,
    healthy: Healthy,
    _workload: (backend::Backend, crate::support::Peer),
}

/// Requests on one connection in one tunnel, one after the other, until told to stop.
struct Healthy {
    stop: Arc<AtomicBool>,
    task: JoinHandle<usize>,
}

impl Healthy {
    fn start(client: client::Client, authority: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let mut send = client.http1(authority).await;
            let mut count = 0;
            while !stopped.load(Ordering::Relaxed) || count == 0 {
                send.ready().await.expect("the connection stays");
                let response = soon("a healthy response", send.send_request(client::get("/"))).await.expect("every request is answered");
                assert_eq!(response.status(), StatusCode::OK);
                client::Answer::of(response).await;
                count += 1;
            }
            count
        });
        Self { stop, task }
    }

    /// Stops and checks that all went well.
    async fn finish(self) {
        self.stop.store(true, Ordering::Relaxed);
        assert!(self.task.await.expect("the healthy client was not disturbed") > 0);
    }
}

fn world(change: impl FnOnce(&mut waypoint::Config)) -> World {
    let mesh = MeshBuilder::new().manifests(manifests()).config(change).start();
    let workload = mesh.workload("echo-v1", "echo", 11);
    let healthy = Healthy::start(mesh.client("healthy"), mesh.net.addr(10, 80));
    World { mesh, healthy, _workload: workload }
}

/// Everything that comes until the waypoint closes.
async fn until_closed(stream: &mut TcpStream) -> Vec<u8> {
    soon("the waypoint closes", backend::read_all(stream)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_not_tls_get_an_alert_or_are_closed() {
    let world = world(|_| {});
    let hello_1_2 = {
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        // No session, one TLS 1.2 suite, no compression, no extensions.
        body.extend([0, 0, 2, 0xc0, 0x2f, 1, 0]);
        let mut record = vec![0x16, 3, 1, 0, body.len() as u8 + 4, 1, 0, 0, body.len() as u8];
        record.extend(body);
        record
    };
    let rows: [(&str, &[u8], bool); 8] = [
        ("nothing", b"", true),
        ("noise", &[0xa5; 4096], false),
        ("zeros", &[0; 4096], false),
        ("HTTP/1", b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", false),
        ("HTTP/2 without TLS", PREFACE, false),
        ("TLS 1.2", &hello_1_2, false),
        ("a truncated ClientHello", &hello_1_2[..20], true),
        ("a record that is too long", &[0x16, 3, 1, 0xff, 0xff, 1, 0, 0, 0], false),
    ];
    for (what, bytes, ends) in rows {
        let mut stream = TcpStream::connect(world.mesh.waypoint).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        if ends {
            stream.shutdown().await.unwrap();
        }
        let answer = until_closed(&mut stream).await;
        assert!(answer.is_empty() || answer[0] == 0x15, "{what}: neither closed nor an alert: {answer:?}");
        if what == "TLS 1.2" {
            assert_eq!(answer.get(5), Some(&2), "a fatal alert");
        }
    }
    world.healthy.finish().await;
}

/// A client that is not what it should be: what the first read after its handshake says.
async fn refusal(mesh: &Mesh, config: rustls::ClientConfig) -> String {
    let stream = TcpStream::connect(mesh.waypoint).await.unwrap();
    let nobody = rustls::pki_types::ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into());
    let connected = soon("handshake", tokio_rustls::TlsConnector::from(Arc::new(config)).connect(nobody, stream)).await;
    let read = match connected {
        Ok(mut io) => {
            let _ = io.write_all(PREFACE).await;
            soon("refusal", io.read(&mut [0; 64])).await
        }
        Err(error) => Err(error),
    };
    match read {
        Ok(0) => "closed".to_owned(),
        Ok(_) => "served".to_owned(),
        Err(error) => match error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::AlertReceived(alert)) => format!("{alert:?}"),
            Some(other) => panic!("{other:?}"),
            // The kernel says it when bytes of ours were still on their way.
            None => "closed".to_owned(),
        },
    }
}

/// Believes any server: the test looks at the other direction.
#[derive(Debug)]
struct Gullible(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("not offered".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &rustls::pki_types::CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

fn tls_client(own: Option<(&str, &str)>, alpn: &[&str]) -> rustls::ClientConfig {
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Gullible(provider)));
    let mut config = match own {
        Some((chain, key)) => {
            let chain = CertificateDer::pem_slice_iter(chain.as_bytes()).map(Result::unwrap).collect();
            config.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap()).unwrap()
        }
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
    config
}

/// A certificate of the mesh's CA with these URI SANs, of any form.
fn with_sans(mesh: &Mesh, sans: &[&str], change: impl FnOnce(&mut rcgen::CertificateParams)) -> (String, String) {
    let dir = mesh.dir.path().join("certs");
    let read = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap();
    let issuer = rcgen::Issuer::from_ca_cert_pem(&read("roots.pem"), rcgen::KeyPair::from_pem(&read("ca-key.pem")).unwrap()).unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.subject_alt_names = sans.iter().map(|san| rcgen::SanType::URI((*san).try_into().unwrap())).collect();
    change(&mut params);
    let key = rcgen::KeyPair::generate().unwrap();
    (params.signed_by(&key, &issuer).unwrap().pem(), key.serialize_pem())
}

const OWN: &str = "spiffe://cluster.local/ns/app/sa/client";
const FOREIGN: &str = "spiffe://elsewhere/ns/app/sa/client";

#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_prove_to_belong_to_the_mesh_gets_an_alert() {
    let world = world(|_| {});
    let mesh = &world.mesh;
    let sans = |sans: &[&str]| with_sans(mesh, sans, |_| {});
    let other_ca = DevCa::create(TRUST_DOMAIN, HOUR).unwrap().issue(&OWN.parse().unwrap(), HOUR).unwrap();
    let expired =
        with_sans(mesh, &[OWN], |p| (p.not_before, p.not_after) = (rcgen::date_time_ymd(2020, 1, 1), rcgen::date_time_ymd(2021, 1, 1)));
    let not_yet = with_sans(mesh, &[OWN], |p| p.not_before = rcgen::date_time_ymd(2999, 1, 1));
    let server_only = with_sans(mesh, &[OWN], |p| p.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth]);
    let rows = [
        ("no certificate", None, "CertificateRequired"),
        ("another CA", Some((other_ca.chain_pem.clone(), other_ca.key_pem.clone())), "UnknownCA"),
        ("expired", Some(expired), "CertificateExpired"),
        ("not yet valid", Some(not_yet), "CertificateExpired"),
        ("not for clients", Some(server_only), "UnsupportedCertificate"),
        ("another trust domain", Some(sans(&[FOREIGN])), "CertificateUnknown"),
        ("no identity", Some(sans(&[])), "CertificateUnknown"),
        (
            "no workload identity",
            Some(sans(&["spiffe://cluster.local/user/x", "https://cluster.local/ns/app/sa/client"])),
            "CertificateUnknown",
        ),
        ("a foreign identity first", Some(sans(&[FOREIGN, OWN])), "CertificateUnknown"),
        ("its own identity first", Some(sans(&[OWN, FOREIGN])), "served"),
        ("a workload", Some(sans(&[OWN])), "served"),
    ];
    for (what, own, want) in rows {
        let own = own.as_ref().map(|(chain, key)| (chain.as_str(), key.as_str()));
        let got = refusal(mesh, tls_client(own, &["h2"])).await;
        // How rustls names a certificate that is not valid yet, or has the wrong purpose, is its own affair: an alert it is.
        let is_refused = got != "served" && got != "closed";
        match what {
            "not yet valid" | "not for clients" | "another CA" => assert!(is_refused, "{what}: {got}"),
            _ => assert_eq!(got, want, "{what}"),
        }
    }
    let (chain, key) = sans(&[OWN]);
    for (alpn, want) in [(&["http/1.1"][..], "NoApplicationProtocol"), (&[], "closed"), (&["http/1.1", "h2"], "served")] {
        assert_eq!(refusal(mesh, tls_client(Some((&chain, &key)), alpn)).await, want, "{alpn:?}");
    }
    world.healthy.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_trust_domain_and_the_policy_are_judged_by_the_same_name() {
    let rule = |principal: &str| {
        format!("targetRefs: [{{group: \"\", kind: Service, name: echo}}]\nrules: [{{from: [{{source: {{principals: [{principal}]}}}}]}}]")
    };
    let mesh = MeshBuilder::new().manifests(manifests()).manifests(policy(NS, "p", &rule("cluster.local/ns/app/sa/client"))).start();
    let (backend, _peer) = mesh.workload("echo-v1", "echo", 11);
    let other = "spiffe://cluster.local/ns/app/sa/other";
    for (sans, status) in [
        (&[OWN][..], StatusCode::OK),
        (&[OWN, other], StatusCode::OK),
        (&[OWN, FOREIGN], StatusCode::OK),
        (&["https://example.org", OWN], StatusCode::OK),
        (&[other, OWN], StatusCode::FORBIDDEN),
    ] {
        let (chain, key) = with_sans(&mesh, sans, |_| {});
        let cert = WorkloadCert::from_pem(chain.as_bytes(), key.as_bytes(), mesh.ca.roots_pem().as_bytes()).unwrap();
        let waypoint = Identity::new(TRUST_DOMAIN, NS, "waypoint").unwrap();
        let client = client::Client::new(Arc::new(cert), waypoint, mesh.waypoint);
        let answer = client.get(mesh.net.addr(10, 80), "/").await;
        assert_eq!(answer.status, status, "{sans:?}");
        if status == StatusCode::OK {
            assert!(backend.last().headers["x-forwarded-client-cert"].to_str().unwrap().ends_with(&format!("URI={OWN}")), "{sans:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_on_the_wire_are_those_of_the_contract() {
    let world = world(|_| {});
    let mut wire = Wire::open(&world.mesh).await;
    let settings = wire.frame().await.unwrap();
    assert_eq!((settings.kind, settings.flags, settings.stream), (SETTINGS, 0, 0));
    let mut pairs: Vec<(u16, u32)> =
        settings.payload.chunks(6).map(|p| (u16::from_be_bytes([p[0], p[1]]), u32::from_be_bytes([p[2], p[3], p[4], p[5]]))).collect();
    pairs.sort_unstable();
    // MAX_CONCURRENT_STREAMS is ours to choose; ENABLE_PUSH is not sent.
    assert_eq!(pairs, [(3, 1024), (4, 4_194_304), (5, 1_048_576), (6, 65_536)]);
    let update = wire.next(WINDOW_UPDATE).await;
    assert_eq!((update.stream, update.payload), (0, 16_711_681u32.to_be_bytes().to_vec()));
    world.healthy.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_breaks_http2_gets_goaway_with_its_code() {
    const PROTOCOL_ERROR: u32 = 1;
    const FLOW_CONTROL_ERROR: u32 = 3;
    const FRAME_SIZE_ERROR: u32 = 6;
    const ENHANCE_YOUR_CALM: u32 = 11;
    let world = world(|_| {});
    let authority = world.mesh.net.addr(10, 80).to_string();
    let part = wire::header("x-part", &"a".repeat(8 << 10));
    let continuations: Vec<u8> = [frame(HEADERS, 0, 1, &wire::connect_block(&authority))]
        .into_iter()
        .chain((0..2000).map(|_| frame(CONTINUATION, 0, 1, &part)))
        .flatten()
        .collect();
    let empty_continuations: Vec<u8> = [frame(HEADERS, 0, 1, &wire::connect_block(&authority))]
        .into_iter()
        .chain((0..200_000).map(|_| frame(CONTINUATION, 0, 1, &[])))
        .flatten()
        .collect();
    let resets: Vec<u8> = (0..10_000u32).flat_map(|n| [wire::connect(2 * n + 1, &authority), wire::reset(2 * n + 1)].concat()).collect();
    let too_long = [&[0xff, 0xff, 0xff, DATA, 0][..], &1u32.to_be_bytes()].concat();
    let rows = [
        ("DATA on an unknown stream", frame(DATA, 0, 1, b"x"), PROTOCOL_ERROR),
        ("DATA on no stream", frame(DATA, 0, 0, b"x"), PROTOCOL_ERROR),
        ("RST_STREAM on an unknown stream", wire::reset(1), PROTOCOL_ERROR),
        ("a stream with an even number", wire::connect(2, &authority), PROTOCOL_ERROR),
        ("streams backwards", [wire::connect(3, &authority), wire::connect(1, &authority)].concat(), PROTOCOL_ERROR),
        ("a frame that is too long", too_long, FRAME_SIZE_ERROR),
        // For these the RFC has codes of their own; the library calls all of them PROTOCOL_ERROR.
        ("a short RST_STREAM", frame(RST_STREAM, 0, 1, b"x"), PROTOCOL_ERROR),
        ("PING of the wrong size", frame(PING, 0, 0, b"x"), PROTOCOL_ERROR),
        ("headers that are no HPACK", frame(HEADERS, END_HEADERS, 1, &[0xff; 32]), PROTOCOL_ERROR),
        ("a window that overflows", frame(WINDOW_UPDATE, 0, 0, &0x7fff_ffffu32.to_be_bytes()), FLOW_CONTROL_ERROR),
        ("CONTINUATION without end", continuations, ENHANCE_YOUR_CALM),
        ("empty CONTINUATIONs without end", empty_continuations, ENHANCE_YOUR_CALM),
        ("rapid resets", resets, ENHANCE_YOUR_CALM),
    ];
    let mut wrong = Vec::new();
    for (what, bytes, code) in rows {
        let mut wire = Wire::open(&world.mesh).await;
        wire.next(SETTINGS).await;
        // All at once, so that nothing is looked at between two frames; it may be refused half-way.
        let _ = wire.send(&bytes).await;
        let got = wire.goaway().await;
        wrong.extend((got != Some(code)).then(|| format!("{what}: {got:?}")));
    }
    assert_eq!(wrong, [""; 0]);
    let mut wire = Wire::tls(world.mesh.waypoint, &world.mesh.cert(NS, "attacker")).await;
    let _ = wire.send(&[0xa5; 1024]).await;
    while wire.frame().await.is_some() {}
    world.healthy.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_connect_is_served_in_a_tunnel() {
    let world = world(|_| {});
    let stream = TcpStream::connect(world.mesh.waypoint).await.unwrap();
    let waypoint = Identity::new(TRUST_DOMAIN, NS, "waypoint").unwrap();
    let (io, ..) = cairn::transport::tls::connect(stream, &world.mesh.cert(NS, "client"), &[waypoint], None).await.unwrap();
    let (mut send, connection) = h2::client::handshake(io).await.unwrap();
    tokio::spawn(connection);
    let address = world.mesh.net.addr(10, 80);
    let big = |size: usize| Request::connect(address.to_string()).header("x-big", "a".repeat(size)).body(()).unwrap();
    for (what, request, status) in [
        ("GET", Request::get(format!("http://{address}/")).body(()).unwrap(), StatusCode::BAD_REQUEST),
        ("POST", Request::post(format!("http://{address}/")).body(()).unwrap(), StatusCode::BAD_REQUEST),
        (
            "OPTIONS *",
            Request::builder().method(Method::OPTIONS).uri(format!("http://{address}/*")).body(()).unwrap(),
            StatusCode::BAD_REQUEST,
        ),
        ("headers that are too large", big(66_000), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE),
        ("headers that are not", big(60_000), StatusCode::OK),
        ("CONNECT", Request::connect(address.to_string()).body(()).unwrap(), StatusCode::OK),
    ] {
        send = send.ready().await.unwrap();
        let (response, _stream) = send.send_request(request, false).unwrap();
        assert_eq!(soon("answer", response).await.unwrap().status(), status, "{what}");
    }
    world.healthy.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_begin_is_closed_in_time() {
    let world = world(|c| {
        c.hbone.handshake_timeout = MOMENT;
        c.hbone.first_connect_timeout = MOMENT;
    });
    let mesh = &world.mesh;
    let cert = mesh.cert(NS, "attacker");
    // No TLS; half of TLS; one byte now and then.
    for bytes in [&b""[..], &[0x16, 3, 1, 0, 200, 1]] {
        let mut stream = TcpStream::connect(mesh.waypoint).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        assert!(until_closed(&mut stream).await.is_empty());
    }
    let mut trickle = TcpStream::connect(mesh.waypoint).await.unwrap();
    let begin = tokio::time::Instant::now();
    trickle.write_all(&[0x16, 3, 1, 0x40, 0, 1, 0, 0x3f, 0xfc]).await.unwrap();
    let mut pace = tokio::time::interval(MOMENT / 10);
    soon("the trickle is closed", async {
        while trickle.write_all(&[0]).await.is_ok() {
            pace.tick().await;
        }
    })
    .await;
    assert!(begin.elapsed() < 20 * MOMENT, "{:?}", begin.elapsed());
    // TLS, but no HTTP/2.
    let mut wire = Wire::tls(mesh.waypoint, &cert).await;
    wire.send(&PREFACE[..10]).await.unwrap();
    while wire.frame().await.is_some() {}
    // HTTP/2, but no CONNECT: told to go, and closed although it answers nothing.
    let mut wire = Wire::open(mesh).await;
    assert_eq!(wire.goaway().await, Some(0));
    world.healthy.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_tunnel_is_told_to_go() {
    let world = world(|c| {
        c.hbone.idle_timeout = MOMENT;
        c.hbone.handshake_timeout = MOMENT;
    });
    let mut wire = Wire::open(&world.mesh).await;
    wire.send(&wire::connect(1, "nonsense")).await.unwrap();
    let answer = wire.next(HEADERS).await;
    assert_eq!((answer.stream, answer.flags & END_STREAM), (1, END_STREAM));
    assert_eq!(wire.goaway().await, Some(0));
    // A stream that is open, but silent, is not idle: its tunnel lives longer than the time-out.
    let mut wire = Wire::open(&world.mesh).await;
    wire.send(&wire::connect(1, &world.mesh.net.addr(10, 80).to_string())).await.unwrap();
    wire.next(HEADERS).await;
    assert!(tokio::time::timeout(4 * MOMENT, wire.next(GOAWAY)).await.is_err());
    world.healthy.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_stream_too_many_is_refused_and_the_others_go_on() {
    let world = world(|c| c.hbone.max_concurrent_streams = 4);
    let authority = world.mesh.net.addr(10, 80).to_string();
    let mut wire = Wire::open(&world.mesh).await;
    for n in 0..5 {
        wire.send(&wire::connect(2 * n + 1, &authority)).await.unwrap();
    }
    let refused = wire.next(RST_STREAM).await;
    assert_eq!((refused.stream, refused.payload), (9, 7u32.to_be_bytes().to_vec()), "REFUSED_STREAM: may be tried elsewhere");
    wire.send(&frame(DATA, 0, 1, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")).await.unwrap();
    let answer = loop {
        let data = wire.next(DATA).await;
        if data.stream == 1 {
            break data;
        }
    };
    assert!(answer.payload.starts_with(b"HTTP/1.1 200 OK\r\n"));
    world.healthy.finish().await;
}

/// What comes back for bytes on an HTTP port inside a tunnel, until it ends.
async fn inside(mesh: &Mesh, bytes: &[u8]) -> String {
    let mut io = mesh.client("attacker").connect(mesh.net.addr(10, 80)).await.unwrap();
    let _ = io.write_all(bytes).await;
    let mut all = Vec::new();
    let end = tokio::time::timeout(Duration::from_secs(10), io.read_to_end(&mut all)).await;
    assert!(end.is_ok(), "not ended after {:?}", String::from_utf8_lossy(&all));
    String::from_utf8_lossy(&all).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_are_none_get_their_status() {
    let world = world(|c| {
        c.max_request_head = 16 << 10;
        c.request_head_timeout = MOMENT;
        c.request_body_idle = MOMENT;
    });
    let long = |name: &str| format!("GET / HTTP/1.1\r\nhost: x\r\n{name}: {}\r\n\r\n", "a".repeat(20 << 10)).into_bytes();
    let many = (0..200).map(|n| format!("x-{n}: y\r\n")).collect::<String>();
    let rows: Vec<(&str, Vec<u8>, &str)> = vec![
        ("noise", vec![0xa5; 64], "400"),
        ("no method", b" / HTTP/1.1\r\nhost: x\r\n\r\n".to_vec(), "400"),
        ("a version that is none", b"GET / HTTP/9.9\r\nhost: x\r\n\r\n".to_vec(), "400"),
        ("a head that is too large", long("x-big"), "431"),
        ("too many headers", format!("GET / HTTP/1.1\r\nhost: x\r\n{many}\r\n").into_bytes(), "431"),
        ("a target that is too long", format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "a".repeat(70_000)).into_bytes(), "4"),
        ("two framings", b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n".to_vec(), "400"),
        (
            "two framings in a long head",
            format!(
                "POST / HTTP/1.1\r\nhost: x\r\nx-long: {}\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
                "a".repeat(10_000)
            )
            .into_bytes(),
            "400",
        ),
        ("two lengths", b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\ncontent-length: 5\r\n\r\nabcd".to_vec(), "400"),
        ("a length that is no number", b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: +4\r\n\r\nabcd".to_vec(), "400"),
        ("a slow body", b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nabc".to_vec(), "408"),
        ("a slow chunk", b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab".to_vec(), "408"),
        ("a truncated head", b"GET / HTTP/1.1\r\nhos".to_vec(), ""),
    ];
    for (what, bytes, status) in rows {
        let answer = inside(&world.mesh, &bytes).await;
        match status {
            "" => assert_eq!(answer, "", "{what}"),
            _ => assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{what}: {answer:?}"),
        }
    }
    world.healthy.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_inside_a_tunnel_is_held_to_the_same_limits() {
    let world = world(|c| c.max_request_head = 16 << 10);
    // As `connect`, but GET.
    let get = |stream: u32| frame(HEADERS, END_HEADERS | END_STREAM, stream, &[&[0x82, 0x86, 0x84, 0x01, 1][..], b"x"].concat());
    let resets: Vec<u8> = (0..5_000u32).flat_map(|n| [get(2 * n + 1), wire::reset(2 * n + 1)].concat()).collect();
    for (what, bytes, code) in [
        ("rapid resets", resets, 11),
        ("DATA on an unknown stream", frame(DATA, 0, 1, b"x"), 1),
        ("headers that are no HPACK", frame(HEADERS, END_HEADERS, 1, &[0xff; 32]), 1),
    ] {
        let answer = inside_bytes(&world.mesh, &[PREFACE, &frame(SETTINGS, 0, 0, &[]), &bytes].concat()).await;
        assert_eq!(last_goaway(&answer), Some(code), "{what}");
    }
    world.healthy.finish().await;
}

async fn inside_bytes(mesh: &Mesh, bytes: &[u8]) -> Vec<u8> {
    let io = mesh.client("attacker").connect(mesh.net.addr(10, 80)).await.unwrap();
    let (mut read, mut write) = tokio::io::split(io);
    let bytes = bytes.to_vec();
    let writing = tokio::spawn(async move {
        let _ = write.write_all(&bytes).await;
        write
    });
    let mut all = Vec::new();
    let _ = soon("the waypoint ends the stream", read.read_to_end(&mut all)).await;
    drop(writing.await);
    all
}

fn last_goaway(mut bytes: &[u8]) -> Option<u32> {
    let mut code = None;
    while bytes.len() >= 9 {
        let length = u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]) as usize;
        let Some(payload) = bytes.get(9..9 + length) else { break };
        if bytes[3] == GOAWAY {
            code = Some(u32::from_be_bytes(payload[4..8].try_into().unwrap()));
        }
        bytes = &bytes[9 + length..];
    }
    code
}

const MIB: usize = 1 << 20;

/// A flood by many attackers at once, against a process of its own.
struct Flood {
    what: &'static str,
    attackers: usize,
    times: usize,
    bytes: fn(usize, SocketAddr, SocketAddr) -> Vec<u8>,
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_leave_memory_bounded_and_the_healthy_undisturbed() {
    let process = Process::start(&manifests(), &["--handshake-timeout", "2s", "--first-connect-timeout", "2s"]).await;
    let net = process.net;
    let _backend = backend::Backend::http(net.addr(11, 8080), "echo-v1");
    // Accepts and never reads.
    let _stuck = backend::Backend::tcp(net.addr(11, 9090), |stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    });
    let _peer = crate::support::Peer::start(net.addr(11, 15008), process.cert("echo"));
    let healthy = Healthy::start(process.client("healthy"), net.addr(10, 80));
    let floods = [
        Flood {
            what: "streams opened and reset",
            attackers: 4,
            times: 20_000,
            bytes: |n, http, _| [wire::connect(2 * n as u32 + 1, &http.to_string()), wire::reset(2 * n as u32 + 1)].concat(),
        },
        Flood {
            what: "opaque connections opened and reset",
            attackers: 4,
            times: 5_000,
            bytes: |n, _, tcp| [wire::connect(2 * n as u32 + 1, &tcp.to_string()), wire::reset(2 * n as u32 + 1)].concat(),
        },
        Flood { what: "PINGs", attackers: 4, times: 20_000, bytes: |_, _, _| frame(PING, 0, 0, b"12345678") },
        Flood { what: "SETTINGS", attackers: 4, times: 20_000, bytes: |_, _, _| frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0xff, 0xff]) },
        Flood {
            what: "CONTINUATIONs",
            attackers: 4,
            times: 2_000,
            bytes: |n, http, _| match n {
                0 => frame(HEADERS, 0, 1, &wire::connect_block(&http.to_string())),
                _ => frame(CONTINUATION, 0, 1, &wire::header("x", &"a".repeat(8000))),
            },
        },
        Flood {
            what: "DATA byte by byte to one who does not read",
            attackers: 4,
            times: 200,
            bytes: |n, _, tcp| match n {
                0 => wire::connect(1, &tcp.to_string()),
                _ => frame(DATA, 0, 1, b"x").repeat(2000),
            },
        },
        Flood {
            what: "empty DATA to one who does not read",
            attackers: 4,
            times: 200,
            bytes: |n, _, tcp| match n {
                0 => wire::connect(1, &tcp.to_string()),
                _ => frame(DATA, 0, 1, b"").repeat(2000),
            },
        },
        Flood {
            what: "a body without end to one who does not read",
            attackers: 4,
            times: 1_000,
            bytes: |n, _, tcp| match n {
                0 => wire::connect(1, &tcp.to_string()),
                _ => frame(DATA, 0, 1, &[7; 16 << 10]),
            },
        },
    ];
    for Flood { what, attackers, times, bytes } in floods {
        let before = process.rss();
        let attack = async |number: usize| {
            let mut wire = Wire::tls(process.address("hbone"), &process.cert(&format!("attacker-{number}"))).await;
            wire.begin().await;
            let (http, tcp) = (net.addr(10, 80), net.addr(10, 90));
            wire.flood(times, |n| bytes(n, http, tcp)).await;
            wire
        };
        // Nothing is read meanwhile, so that answers pile up on the other side if they are let.
        let wires = futures_util::future::join_all((0..attackers).map(attack)).await;
        let grown = process.rss().saturating_sub(before);
        assert!(grown < attackers * 24 * MIB, "{what}: {} MiB more for {attackers} attackers", grown / MIB);
        drop(wires);
    }
    // Connections that never begin.
    let before = process.rss();
    let mut idle = Vec::new();
    for _ in 0..500 {
        let mut stream = TcpStream::connect(process.address("hbone")).await.unwrap();
        stream.write_all(&[0x16, 3, 1]).await.unwrap();
        idle.push(stream);
    }
    let grown = process.rss().saturating_sub(before);
    assert!(grown < 500 * 64 * 1024, "{} KiB more for 500 connections that do not begin", grown >> 10);
    for stream in &mut idle {
        assert!(until_closed(stream).await.is_empty());
    }
    healthy.finish().await;
    eventually("the attackers' tunnels are gone", async || {
        let metrics = process.ask("metrics", "/stats/prometheus").await;
        metrics.lines().find_map(|l| l.strip_prefix("cairn_tunnels_open ")).is_some_and(|n| n.parse::<f64>().unwrap() <= 1.)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_refused_may_try_again_at_once() {
    let world = world(|_| {});
    for _ in 0..50 {
        let mut wire = Wire::open(&world.mesh).await;
        let _ = wire.send(&frame(DATA, 0, 1, b"x")).await;
        assert_eq!(wire.goaway().await, Some(1));
    }
    let answer = world.mesh.client("attacker").get(world.mesh.net.addr(10, 80), "/").await;
    assert_eq!((answer.status, answer.body), (StatusCode::OK, Bytes::from_static(b"echo-v1")));
    world.healthy.finish().await;
}
