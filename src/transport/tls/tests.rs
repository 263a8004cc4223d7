mod pki;

use super::*;
use pki::{Pki, params};
use rcgen::{ExtendedKeyUsagePurpose as Purpose, SanType};
use rustls::{
    CertificateError, ClientConfig, HandshakeKind, ProtocolVersion, ServerConfig, SignatureScheme,
    client::{ResolvesClientCert, Resumption},
    sign::CertifiedKey,
};
use std::{
    pin::Pin,
    task::Poll,
    time::{Duration, SystemTime},
};
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

const CLIENT: &str = "spiffe://td/ns/app/sa/client";
const SERVER: &str = "spiffe://td/ns/app/sa/server";
const FOREIGN: &str = "spiffe://elsewhere/ns/app/sa/client";

fn ids(ids: &[&str]) -> Vec<Identity> {
    ids.iter().map(|id| id.parse().unwrap()).collect()
}

type End<S> = Result<(S, Identity, Standing), TlsError>;
type ClientStream = super::ClientStream<tokio::io::DuplexStream>;
type ServerStream = super::ServerStream<tokio::io::DuplexStream>;

async fn handshake(client: &WorkloadCert, server: &WorkloadCert, expected: &[Identity]) -> (End<ClientStream>, End<ServerStream>) {
    let (near, far) = duplex(64 << 10);
    tokio::join!(connect(near, client, expected, None), accept(far, server, None))
}

/// A client that takes parameters of its own, against `accept`.
async fn raw_client(
    config: ClientConfig,
    server: &WorkloadCert,
) -> (io::Result<client::TlsStream<tokio::io::DuplexStream>>, End<ServerStream>) {
    let (near, far) = duplex(64 << 10);
    let nobody = ServerName::IpAddress(Ipv4Addr::UNSPECIFIED.into());
    tokio::join!(TlsConnector::from(Arc::new(config)).connect(nobody, near), accept(far, server, None))
}

fn client_config(cert: &WorkloadCert) -> ClientConfig {
    let mut config = cert.client_config().clone();
    config.dangerous().set_certificate_verifier(Arc::new(SpiffeServerVerifier::new(Arc::clone(cert.roots()), &ids(&[SERVER]), None)));
    config
}

fn certificate_error(error: &TlsError) -> &CertificateError {
    let TlsError::Handshake(error) = error else { panic!("{error:?}") };
    match error.get_ref().and_then(|inner| inner.downcast_ref()) {
        Some(rustls::Error::InvalidCertificate(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn both_sides_know_each_other() {
    let pki = Pki::new();
    let expected = ids(&["spiffe://td/ns/app/sa/other", SERVER]);
    let (client, server) = handshake(&pki.of(CLIENT), &pki.of(SERVER), &expected).await;
    let ((mut client, server_id, _), (mut server, client_id, _)) = (client.unwrap(), server.unwrap());
    assert_eq!((server_id.as_str(), client_id.as_str()), (SERVER, CLIENT));
    for connection in [&**client.get_ref().1 as &CommonState, server.get_ref().1] {
        assert_eq!(connection.protocol_version(), Some(ProtocolVersion::TLSv1_3));
        assert_eq!(connection.alpn_protocol(), Some(&b"h2"[..]));
        assert_eq!(connection.negotiated_cipher_suite().unwrap().suite(), rustls::CipherSuite::TLS13_AES_256_GCM_SHA384);
        assert_eq!(connection.negotiated_key_exchange_group().unwrap().name(), rustls::NamedGroup::X25519);
    }
    assert_eq!(server.get_ref().1.server_name(), None, "no sni");
    client.write_all(b"ping").await.unwrap();
    client.shutdown().await.unwrap();
    let mut text = String::new();
    server.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "ping");
}

#[tokio::test]
async fn a_client_talks_only_to_whom_it_expects() {
    let pki = Pki::new();
    let (client, server) = (pki.of(CLIENT), pki.of(SERVER));
    for expected in [&[][..], &["spiffe://td/ns/app/sa/serve"], &["spiffe://td/ns/app/sa/server2"], &["spiffe://t/ns/app/sa/server"]] {
        let (connected, accepted) = handshake(&client, &server, &ids(expected)).await;
        let Err(TlsError::UnexpectedIdentity { got, expected: wanted }) = connected else { panic!("{connected:?}") };
        assert_eq!((got, wanted), (ids(&[SERVER]), ids(expected)));
        assert!(matches!(accepted, Err(TlsError::Handshake(_))), "the server gets an alert");
    }
    let two = pki.cert(&params(&["spiffe://td/ns/app/sa/main", SERVER]));
    assert_eq!(handshake(&client, &two, &ids(&[SERVER])).await.0.unwrap().1.as_str(), SERVER, "any san will do for a server");
    let mut dns = params(&[]);
    dns.subject_alt_names = vec![SanType::DnsName("server.app.svc".try_into().unwrap())];
    assert!(matches!(handshake(&client, &pki.forged(&dns), &ids(&[SERVER])).await.0, Err(TlsError::NoIdentity)));
}

#[tokio::test]
async fn a_server_takes_the_first_spiffe_san_and_only_of_its_own_trust_domain() {
    let pki = Pki::new();
    let server = pki.of(SERVER);
    // (SANs of the client, the identity or the reason)
    let cases: &[(&[&str], Result<&str, &str>)] = &[
        (&[CLIENT], Ok(CLIENT)),
        (&["https://example.com", "spiffe://td/odd", CLIENT], Ok(CLIENT)),
        (&[CLIENT, FOREIGN], Ok(CLIENT)),
        (&[FOREIGN], Err("trust domain")),
        (&[FOREIGN, CLIENT], Err("trust domain")),
        (&["spiffe://td.evil/ns/app/sa/client"], Err("trust domain")),
        (&["https://example.com"], Err("none")),
        (&[], Err("none")),
    ];
    for (sans, expected) in cases {
        let (client, accepted) = handshake(&pki.forged(&params(sans)), &server, &ids(&[SERVER])).await;
        match (expected, &accepted) {
            (Ok(identity), Ok((_, got, _))) => assert_eq!(got.as_str(), *identity, "{sans:?}"),
            (Err("trust domain"), Err(TlsError::TrustDomain { got, own })) => {
                assert_eq!((got.as_str(), own.as_str()), (sans[0], "td"));
            }
            (Err("none"), Err(TlsError::NoIdentity)) => {}
            _ => panic!("{sans:?}: {accepted:?}"),
        }
        if accepted.is_err() {
            let error = client.unwrap().0.read_u8().await.unwrap_err();
            assert!(error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()), "an alert, not just a close: {error}");
        }
    }
}

#[tokio::test]
async fn the_chain_must_be_valid_on_both_sides() {
    let (pki, other) = (Pki::new(), Pki::new());
    let (client, server) = (pki.of(CLIENT), pki.of(SERVER));
    let hours = |from: i64, to: i64, sans: &[&str]| {
        let now = OffsetDateTime::now_utc();
        let mut params = params(sans);
        (params.not_before, params.not_after) = (now + time::Duration::hours(from), now + time::Duration::hours(to));
        pki.cert(&params)
    };
    let purpose = |purpose: Purpose, sans: &[&str]| {
        let mut params = params(sans);
        params.extended_key_usages = vec![purpose];
        pki.cert(&params)
    };
    let expired = |e: &CertificateError| matches!(e, CertificateError::Expired | CertificateError::ExpiredContext { .. });
    let early = |e: &CertificateError| matches!(e, CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. });
    let unknown = |e: &CertificateError| matches!(e, CertificateError::UnknownIssuer | CertificateError::BadSignature);
    let useless = |e: &CertificateError| matches!(e, CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. });
    type Check<'a> = &'a dyn Fn(&CertificateError) -> bool;
    let cases: [(&str, WorkloadCert, WorkloadCert, Check<'_>); 4] = [
        ("expired", hours(-2, -1, &[CLIENT]), hours(-2, -1, &[SERVER]), &expired),
        ("not yet valid", hours(1, 2, &[CLIENT]), hours(1, 2, &[SERVER]), &early),
        ("unknown authority", other.of(CLIENT), other.of(SERVER), &unknown),
        ("wrong purpose", purpose(Purpose::ServerAuth, &[CLIENT]), purpose(Purpose::ClientAuth, &[SERVER]), &useless),
    ];
    for (name, bad_client, bad_server, check) in &cases {
        let (connected, accepted) = handshake(&client, bad_server, &ids(&[SERVER])).await;
        assert!(check(certificate_error(&connected.unwrap_err())) && accepted.is_err(), "server: {name}");
        // Its own roots must be ours, or the client would find the server unknown first.
        let mut config = client_config(&client);
        config.client_auth_cert_resolver = Arc::clone(&bad_client.client_config().client_auth_cert_resolver);
        let (_, accepted) = raw_client(config, &server).await;
        assert!(check(certificate_error(&accepted.unwrap_err())), "client: {name}");
    }
    for (good_client, good_server) in [(purpose(Purpose::ClientAuth, &[CLIENT]), purpose(Purpose::ServerAuth, &[SERVER]))] {
        assert!(handshake(&good_client, &good_server, &ids(&[SERVER])).await.1.is_ok());
    }
}

#[tokio::test]
async fn a_client_says_hello_as_the_contract_has_it() {
    use rustls::{CipherSuite, NamedGroup};
    let pki = Pki::new();
    let client = pki.of(CLIENT);
    let (near, far) = duplex(64 << 10);
    let (server, expected) = (tokio_rustls::LazyConfigAcceptor::new(rustls::server::Acceptor::default(), far), ids(&[SERVER]));
    let hello = tokio::select! {
        hello = server => hello.unwrap(),
        connected = connect(near, &client, &expected, None) => panic!("without a server: {connected:?}"),
    };
    let hello = hello.client_hello();
    // The last one only says that the client knows of RFC 5746.
    let suites =
        [CipherSuite::TLS13_AES_256_GCM_SHA384, CipherSuite::TLS13_AES_128_GCM_SHA256, CipherSuite::TLS_EMPTY_RENEGOTIATION_INFO_SCSV];
    assert!(suites.starts_with(hello.cipher_suites()) && hello.cipher_suites().len() >= 2, "{:?}", hello.cipher_suites());
    assert_eq!(hello.alpn().unwrap().collect::<Vec<_>>(), [b"h2"]);
    assert_eq!(hello.server_name(), None);
    let groups = [NamedGroup::X25519, NamedGroup::secp256r1, NamedGroup::secp384r1, NamedGroup::X25519MLKEM768];
    assert_eq!(hello.named_groups().unwrap(), groups);
}

#[test]
fn a_server_takes_no_other_suites_and_protocols() {
    let server = Pki::new().of(SERVER);
    let config = server.server_config();
    let suites: Vec<_> = config.crypto_provider().cipher_suites.iter().map(|suite| suite.suite()).collect();
    assert_eq!(suites, [rustls::CipherSuite::TLS13_AES_256_GCM_SHA384, rustls::CipherSuite::TLS13_AES_128_GCM_SHA256]);
    assert_eq!(config.alpn_protocols, [b"h2"]);
}

#[derive(Debug)]
struct NoCertificate;

impl ResolvesClientCert for NoCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

#[tokio::test]
async fn a_client_must_show_a_certificate() {
    let pki = Pki::new();
    let mut config = client_config(&pki.of(CLIENT));
    config.client_auth_cert_resolver = Arc::new(NoCertificate);
    let (client, accepted) = raw_client(config, &pki.of(SERVER)).await;
    let Err(TlsError::Handshake(error)) = accepted else { panic!("{accepted:?}") };
    assert_eq!(error.get_ref().unwrap().downcast_ref(), Some(&rustls::Error::NoCertificatesPresented));
    assert!(client.unwrap().read_u8().await.is_err());
}

#[tokio::test]
async fn both_sides_insist_on_h2() {
    let pki = Pki::new();
    let (client, server) = (pki.of(CLIENT), pki.of(SERVER));
    for alpn in [vec![], vec![b"http/1.1".to_vec()]] {
        let mut config = client_config(&client);
        config.alpn_protocols = alpn.clone();
        assert!(matches!(raw_client(config, &server).await.1, Err(TlsError::Alpn)), "client with {alpn:?}");

        let mut config = ServerConfig::clone(server.server_config());
        config.alpn_protocols = alpn.clone();
        let (near, far) = duplex(64 << 10);
        let (connected, _) = tokio::join!(
            connect(near, &client, std::slice::from_ref(server.identity()), None),
            TlsAcceptor::from(Arc::new(config)).accept(far)
        );
        assert!(matches!(connected, Err(TlsError::Alpn)), "server with {alpn:?}: {connected:?}");
    }
}

#[tokio::test]
async fn sessions_are_never_resumed() {
    let pki = Pki::new();
    let server = pki.of(SERVER);
    let mut config = client_config(&pki.of(CLIENT));
    config.resumption = Resumption::in_memory_sessions(8);
    for _ in 0..2 {
        let (client, accepted) = raw_client(config.clone(), &server).await;
        let (mut client, (mut server, ..)) = (client.unwrap(), accepted.unwrap());
        assert_eq!(server.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
        // A ticket would come before the first byte.
        server.write_all(b"x").await.unwrap();
        server.flush().await.unwrap();
        client.read_u8().await.unwrap();
    }
}

#[tokio::test]
async fn tls_1_2_is_refused() {
    let extensions: &[u8] = &[
        0, 10, 0, 4, 0, 2, 0, 23, // supported_groups: P-256
        0, 11, 0, 2, 1, 0, // ec_point_formats: uncompressed
        0, 13, 0, 4, 0, 2, 4, 3, // signature_algorithms: ecdsa_secp256r1_sha256
        0, 16, 0, 5, 0, 3, 2, b'h', b'2', // alpn: h2
    ];
    let mut hello = vec![3, 3];
    hello.extend([7; 32]); // random
    hello.extend([0, 0, 4, 0xc0, 0x2c, 0xc0, 0x2b, 1, 0]); // no session; ECDHE-ECDSA with AES-GCM; no compression
    hello.extend((extensions.len() as u16).to_be_bytes());
    hello.extend(extensions);
    let mut record = vec![22, 3, 1];
    record.extend((hello.len() as u16 + 4).to_be_bytes());
    record.extend([1, 0]);
    record.extend((hello.len() as u16).to_be_bytes());
    record.extend(hello);

    let server = Pki::new().of(SERVER);
    let (mut near, far) = duplex(64 << 10);
    near.write_all(&record).await.unwrap();
    let accepted = accept(far, &server, None).await;
    let Err(TlsError::Handshake(error)) = accepted else { panic!("{accepted:?}") };
    assert!(matches!(error.get_ref().unwrap().downcast_ref(), Some(rustls::Error::PeerIncompatible(_))), "{error:?}");
    let mut alert = Vec::new();
    near.read_to_end(&mut alert).await.unwrap();
    assert_eq!(alert, [21, 3, 3, 0, 2, 2, 70], "fatal protocol_version (RFC 8446 section 6.2)");
}

#[test]
fn a_set_of_files_must_be_complete_and_belong_together() {
    let pki = Pki::new();
    let (chain, key) = pki.pem(&params(&[CLIENT]));
    let (_, other_key) = pki.pem(&params(&[CLIENT]));
    let (nameless, nameless_key) = pki.pem(&params(&["https://example.com"]));
    let read = |chain: &str, key: &str, roots: &str| WorkloadCert::from_pem(chain.as_bytes(), key.as_bytes(), roots.as_bytes());
    assert!(read(&chain, &key, &pki.root_pem).is_ok());
    assert!(matches!(read("", &key, &pki.root_pem), Err(CertError::Empty(CertPart::Chain))));
    assert!(matches!(read(&key, &key, &pki.root_pem), Err(CertError::Empty(CertPart::Chain))));
    assert!(matches!(read(&chain, "", &pki.root_pem), Err(CertError::Empty(CertPart::Key))));
    assert!(matches!(read(&chain, &key, ""), Err(CertError::Empty(CertPart::Roots))));
    assert!(matches!(read(&chain[..100], &key, &pki.root_pem), Err(CertError::Pem { part: CertPart::Chain, .. })));
    assert!(matches!(read(&chain, &other_key, &pki.root_pem), Err(CertError::KeyMismatch)));
    assert!(matches!(read(&nameless, &nameless_key, &pki.root_pem), Err(CertError::NoIdentity)));
}

#[test]
fn a_certificate_tells_its_facts_and_keeps_its_key() {
    let pki = Pki::new();
    let mut params = params(&[CLIENT]);
    params.serial_number = Some(rcgen::SerialNumber::from(0x1_0000u64));
    let (chain, key) = pki.pem(&params);
    let cert = WorkloadCert::from_pem(chain.as_bytes(), key.as_bytes(), pki.root_pem.as_bytes()).unwrap();
    assert_eq!((cert.identity().as_str(), cert.serial()), (CLIENT, "65536"));
    assert_eq!(cert.not_after().duration_since(cert.not_before()).unwrap(), Duration::from_secs(7200));
    assert_eq!(cert.half_life(), cert.not_before() + Duration::from_secs(3600));
    assert!(cert.verify(SystemTime::now()).is_ok());
    assert!(matches!(cert.verify(cert.not_after()), Err(CertError::Expired { .. })));
    assert!(matches!(cert.verify(cert.not_before() - Duration::from_secs(9)), Err(CertError::Chain { .. })));
    let same = WorkloadCert::from_pem(chain.as_bytes(), key.as_bytes(), pki.root_pem.as_bytes()).unwrap();
    assert_eq!(cert.fingerprint(), same.fingerprint());
    let more_roots = WorkloadCert::from_pem(chain.as_bytes(), key.as_bytes(), (pki.root_pem + &Pki::new().root_pem).as_bytes()).unwrap();
    assert_ne!(cert.fingerprint(), more_roots.fingerprint());
    assert!(!format!("{cert:#?}").to_lowercase().contains("key"));
}

#[tokio::test]
async fn a_peer_that_does_not_read_holds_the_writer_back() {
    let pki = Pki::new();
    let (client, server) = handshake(&pki.of(CLIENT), &pki.of(SERVER), &ids(&[SERVER])).await;
    let (_silent, (stream, ..)) = (client.unwrap(), server.unwrap());
    let (mut io, flusher) = crate::transport::gather(stream);
    let mut written = 0;
    while written < 4 << 20 {
        let write = std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut io).poll_write(cx, &[0; 8 << 10])));
        match flusher.drive(write).await {
            Poll::Ready(length) => written += length.unwrap(),
            Poll::Pending => break,
        }
    }
    assert!((64 << 10..1 << 20).contains(&written), "{written} bytes were taken");
}
