//! TLS 1.2 and the post-quantum key exchange: only where the policy says so.

use super::*;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, SignatureAlgorithm};
use rustls::{
    CipherSuite as Suite, NamedGroup, ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs::kx_group},
    pki_types::{PrivateKeyDer, pem::PemObject},
    server::{ResolvesServerCert, WebPkiClientVerifier},
    sign::SingleCertAndKey,
    version::{TLS12, TLS13},
};

const DEFAULT: Policy = Policy { tls12: false, pqc: false };
const WITH_12: Policy = Policy { tls12: true, pqc: false };
const PQC: Policy = Policy { tls12: false, pqc: true };

/// A workload's certificate under a policy.
fn cert(pki: &Pki, policy: Policy, id: &str, algorithm: &'static SignatureAlgorithm) -> WorkloadCert {
    let key = KeyPair::generate_for(algorithm).unwrap();
    let chain = vec![pki.sign(&params(&[id]), &key)];
    let roots = vec![PemObject::from_pem_slice(pki.root_pem.as_bytes()).unwrap()];
    WorkloadCert::by_policy(policy, chain, PrivateKeyDer::try_from(key.serialize_der()).unwrap(), roots).unwrap()
}

fn ecdsa(pki: &Pki, policy: Policy, id: &str) -> WorkloadCert {
    cert(pki, policy, id, &PKCS_ECDSA_P256_SHA256)
}

/// The chain of one certificate with the key of another, as a thief of certificates has it.
fn stolen(pki: &Pki, cert: &WorkloadCert) -> Arc<SingleCertAndKey> {
    let other = pki.of(CLIENT);
    let key = other.private_key().key.clone();
    Arc::new(SingleCertAndKey::from(CertifiedKey::new(cert.chain().to_vec(), key)))
}

/// A client of TLS 1.2 alone, which presents what `resolver` has.
fn old_client(cert: &WorkloadCert, resolver: Arc<dyn ResolvesClientCert>, suites: &[Suite]) -> ClientConfig {
    let mut provider = CryptoProvider::clone(&WITH_12.provider());
    provider.cipher_suites.retain(|suite| suites.is_empty() || suites.contains(&suite.suite()));
    let verifier = SpiffeServerVerifier::new(Arc::clone(cert.roots()), &ids(&[SERVER]), None);
    let config = ClientConfig::builder_with_provider(provider.into()).with_protocol_versions(&[&TLS12]).unwrap();
    let mut config = config.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_client_cert_resolver(resolver);
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    config
}

/// The same for a server.
fn old_server(cert: &WorkloadCert, resolver: Arc<dyn ResolvesServerCert>) -> TlsAcceptor {
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::clone(cert.roots()), WITH_12.provider()).build().unwrap();
    let config = ServerConfig::builder_with_provider(WITH_12.provider()).with_protocol_versions(&[&TLS12]).unwrap();
    let mut config = config.with_client_cert_verifier(clients).with_cert_resolver(resolver);
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

fn own(cert: &WorkloadCert) -> Arc<SingleCertAndKey> {
    Arc::new(SingleCertAndKey::from(CertifiedKey::new(cert.chain().to_vec(), cert.private_key().key.clone())))
}

fn cause(error: &io::Error) -> &rustls::Error {
    error.get_ref().and_then(|inner| inner.downcast_ref()).unwrap_or_else(|| panic!("{error:?}"))
}

#[tokio::test]
async fn a_client_of_tls_1_2_is_accepted_only_where_that_is_allowed() {
    let pki = Pki::new();
    let client = ecdsa(&pki, WITH_12, CLIENT);
    for (policy, is_allowed) in [(DEFAULT, false), (PQC, false), (WITH_12, true)] {
        let (connected, accepted) = raw_client(old_client(&client, own(&client), &[]), &ecdsa(&pki, policy, SERVER)).await;
        match accepted {
            Ok((stream, id, _)) if is_allowed => {
                assert_eq!(id.as_str(), CLIENT);
                assert_eq!(stream.get_ref().1.protocol_version(), Some(ProtocolVersion::TLSv1_2));
                connected.unwrap();
            }
            Err(TlsError::Handshake(error)) if !is_allowed => {
                assert!(matches!(cause(&error), rustls::Error::PeerIncompatible(_)), "{policy:?}: {error:?}");
                let told = connected.unwrap_err();
                assert_eq!(cause(&told), &rustls::Error::AlertReceived(rustls::AlertDescription::ProtocolVersion), "{policy:?}");
            }
            other => panic!("{policy:?}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_server_of_tls_1_2_is_talked_to_only_where_that_is_allowed() {
    let pki = Pki::new();
    let server = ecdsa(&pki, WITH_12, SERVER);
    for (policy, is_allowed) in [(DEFAULT, false), (PQC, false), (WITH_12, true)] {
        let client = ecdsa(&pki, policy, CLIENT);
        let (near, far) = duplex(64 << 10);
        let expected = ids(&[SERVER]);
        let (connected, _) = tokio::join!(connect(near, &client, &expected, None), old_server(&server, own(&server)).accept(far));
        match connected {
            Ok((stream, ..)) if is_allowed => assert_eq!(stream.get_ref().1.protocol_version(), Some(ProtocolVersion::TLSv1_2)),
            Err(TlsError::Handshake(_)) if !is_allowed => {}
            other => panic!("{policy:?}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn tls_1_2_uses_the_suites_of_the_contract_and_peers_of_both_versions_the_newer() {
    let pki = Pki::new();
    let old = [
        (&PKCS_ECDSA_P256_SHA256, Suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
        (&PKCS_ECDSA_P256_SHA256, Suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
        (&PKCS_RSA_SHA256, Suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
        (&PKCS_RSA_SHA256, Suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
    ];
    for (at, (algorithm, suite)) in old.into_iter().enumerate() {
        let (client, server) = (ecdsa(&pki, WITH_12, CLIENT), cert(&pki, WITH_12, SERVER, algorithm));
        // Of all, the stronger one is taken; the weaker where there is nothing else.
        let offered: &[Suite] = if at % 2 == 0 { &[] } else { &[suite] };
        let (_, accepted) = raw_client(old_client(&client, own(&client), offered), &server).await;
        let accepted = accepted.unwrap().0;
        assert_eq!(accepted.get_ref().1.negotiated_cipher_suite().unwrap().suite(), suite);
    }
    let (client, server) = handshake(&ecdsa(&pki, WITH_12, CLIENT), &ecdsa(&pki, WITH_12, SERVER), &ids(&[SERVER])).await;
    assert_eq!(server.unwrap().0.get_ref().1.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    client.unwrap();
}

#[tokio::test]
async fn a_certificate_without_its_key_is_worth_nothing_in_either_version() {
    let pki = Pki::new();
    let (client, server) = (ecdsa(&pki, WITH_12, CLIENT), ecdsa(&pki, WITH_12, SERVER));
    for version in [&TLS12, &TLS13] {
        let mut config = old_client(&client, stolen(&pki, &client), &[]);
        if *version == TLS13 {
            config = client_config(&client);
            config.client_auth_cert_resolver = stolen(&pki, &client);
        }
        let (_, accepted) = raw_client(config, &server).await;
        assert_eq!(*certificate_error(&accepted.unwrap_err()), CertificateError::BadSignature, "client: {version:?}");
    }
    let (near, far) = duplex(64 << 10);
    let expected = ids(&[SERVER]);
    let (connected, _) = tokio::join!(connect(near, &client, &expected, None), old_server(&server, stolen(&pki, &server)).accept(far));
    assert_eq!(*certificate_error(&connected.unwrap_err()), CertificateError::BadSignature, "server");
}

#[tokio::test]
async fn sessions_of_tls_1_2_are_not_resumed_either() {
    let pki = Pki::new();
    let (client, server) = (ecdsa(&pki, WITH_12, CLIENT), ecdsa(&pki, WITH_12, SERVER));
    let mut config = old_client(&client, own(&client), &[]);
    config.resumption = Resumption::in_memory_sessions(8);
    for _ in 0..2 {
        let (client, accepted) = raw_client(config.clone(), &server).await;
        let (mut client, (mut server, ..)) = (client.unwrap(), accepted.unwrap());
        assert_eq!(server.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
        server.write_all(b"x").await.unwrap();
        server.flush().await.unwrap();
        client.read_u8().await.unwrap();
    }
}

#[tokio::test]
async fn a_client_of_tls_1_2_whose_certificate_is_revoked_is_turned_away_too() {
    let pki = Pki::new();
    let (client, server) = (ecdsa(&pki, WITH_12, CLIENT), ecdsa(&pki, WITH_12, SERVER));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), pki.revokes(&client)).unwrap();
    let lists = Revocation::open(file.path()).unwrap();
    let (near, far) = duplex(64 << 10);
    let nobody = ServerName::IpAddress(Ipv4Addr::UNSPECIFIED.into());
    let old = TlsConnector::from(Arc::new(old_client(&client, own(&client), &[])));
    let (connected, accepted) = tokio::join!(old.connect(nobody, near), accept(far, &server, Some(&lists)));
    let Err(TlsError::Revoked(revoked)) = accepted else { panic!("{accepted:?}") };
    assert_eq!(revoked.serial, client.serial());
    assert_eq!(cause(&connected.unwrap_err()), &rustls::Error::AlertReceived(rustls::AlertDescription::CertificateRevoked));
}

#[tokio::test]
async fn with_the_post_quantum_policy_there_is_no_other_key_exchange() {
    let pki = Pki::new();
    for (client, server) in [(PQC, PQC), (PQC, DEFAULT), (DEFAULT, PQC), (WITH_12, PQC)] {
        let (connected, accepted) = handshake(&ecdsa(&pki, client, CLIENT), &ecdsa(&pki, server, SERVER), &ids(&[SERVER])).await;
        let accepted = accepted.unwrap().0;
        let group = accepted.get_ref().1.negotiated_key_exchange_group().unwrap().name();
        assert_eq!(group, NamedGroup::X25519MLKEM768, "{client:?} to {server:?}");
        connected.unwrap();
    }
    // A peer that knows only the usual ones.
    let (client, server) = (ecdsa(&pki, DEFAULT, CLIENT), ecdsa(&pki, PQC, SERVER));
    let provider = CryptoProvider { kx_groups: vec![kx_group::X25519, kx_group::SECP256R1], ..CryptoProvider::clone(&DEFAULT.provider()) };
    let verifier = SpiffeServerVerifier::new(Arc::clone(client.roots()), &ids(&[SERVER]), None);
    let config = ClientConfig::builder_with_provider(provider.into()).with_protocol_versions(&[&TLS13]).unwrap();
    let mut config = config.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_client_cert_resolver(own(&client));
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    let (connected, accepted) = raw_client(config, &server).await;
    assert!(connected.is_err() && matches!(accepted, Err(TlsError::Handshake(_))), "{accepted:?}");
}
