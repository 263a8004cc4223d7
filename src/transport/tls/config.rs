//! The parameters of our TLS.

use super::{
    ALPN_H2, CertError, CertPart,
    verify::{SpiffeClientVerifier, SpiffeServerVerifier},
};
use crate::model::Identity;
use rustls::{
    ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion,
    client::Resumption,
    crypto::{CryptoProvider, aws_lc_rs},
    server::NoServerSessionStorage,
    sign::{CertifiedKey, SingleCertAndKey},
    version::TLS13,
};
use std::sync::{Arc, LazyLock};

/// Istio's suites and groups, in its order; the post-quantum hybrid last, as only few peers know it.
pub(super) static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    use aws_lc_rs::{cipher_suite, kx_group};
    Arc::new(CryptoProvider {
        cipher_suites: vec![cipher_suite::TLS13_AES_256_GCM_SHA384, cipher_suite::TLS13_AES_128_GCM_SHA256],
        kx_groups: vec![kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1, kx_group::X25519MLKEM768],
        ..aws_lc_rs::default_provider()
    })
});

/// What we encrypt with, towards everyone.
pub(in crate::transport) fn provider() -> Arc<CryptoProvider> {
    Arc::clone(&PROVIDER)
}

/// The versions of TLS that we speak.
pub(in crate::transport) fn versions() -> &'static [&'static SupportedProtocolVersion] {
    static VERSIONS: [&SupportedProtocolVersion; 1] = [&TLS13];
    &VERSIONS
}

pub(super) fn server_config(key: &Arc<CertifiedKey>, roots: &Arc<RootCertStore>, own: &Identity) -> Result<ServerConfig, CertError> {
    let verifier = SpiffeClientVerifier::new(Arc::clone(roots), own).map_err(|_| CertError::Empty(CertPart::Roots))?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(versions())
        .map_err(CertError::Key)?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(key))));
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    // A resumed session would skip the client's certificate, hence its expiry and our roots.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

pub(super) fn client_config(key: &Arc<CertifiedKey>, roots: &Arc<RootCertStore>) -> Result<ClientConfig, CertError> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions())
        .map_err(CertError::Key)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(SpiffeServerVerifier::new(Arc::clone(roots), &[])))
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(key))));
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    config.enable_sni = false;
    config.resumption = Resumption::disabled();
    Ok(config)
}
