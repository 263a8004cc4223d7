//! The parameters of our TLS.

use super::{
    ALPN_H2, CertError, CertPart, Policy,
    revocation::Checked,
    verify::{SpiffeClientVerifier, SpiffeServerVerifier},
};
use crate::model::Identity;
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    client::Resumption,
    crypto::CryptoProvider,
    server::{NoServerSessionStorage, danger::ClientCertVerifier},
    sign::{CertifiedKey, SingleCertAndKey},
};
use std::sync::Arc;

/// What all TLS of one certificate has in common.
#[derive(Debug)]
pub(super) struct Parameters {
    policy: Policy,
    provider: Arc<CryptoProvider>,
    key: Arc<CertifiedKey>,
    roots: Arc<RootCertStore>,
    // By chain alone. Building it takes apart every root.
    clients: Arc<dyn ClientCertVerifier>,
    trust_domain: Arc<str>,
}

impl Parameters {
    pub(super) fn new(policy: Policy, key: Arc<CertifiedKey>, roots: Arc<RootCertStore>, own: &Identity) -> Result<Self, CertError> {
        let provider = policy.provider();
        let clients = SpiffeClientVerifier::chain(Arc::clone(&roots), &provider).map_err(|_| CertError::Empty(CertPart::Roots))?;
        Ok(Self { policy, provider, key, roots, clients, trust_domain: own.trust_domain().into() })
    }

    pub(super) fn policy(&self) -> Policy {
        self.policy
    }

    pub(super) fn key(&self) -> &Arc<CertifiedKey> {
        &self.key
    }

    pub(super) fn roots(&self) -> &Arc<RootCertStore> {
        &self.roots
    }

    /// For clients that are looked up in the lists of revoked certificates, where there are any.
    pub(super) fn server(&self, checked: Option<Arc<Checked>>) -> Result<ServerConfig, rustls::Error> {
        let verifier =
            SpiffeClientVerifier::new(Arc::clone(&self.clients), Arc::clone(&self.roots), Arc::clone(&self.trust_domain), checked);
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(self.policy.versions())?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&self.key))));
        config.alpn_protocols = vec![ALPN_H2.to_vec()];
        // A resumed session would skip the client's certificate, hence its expiry and our roots.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    /// Expects nobody: every connection puts its own verifier in.
    pub(super) fn client(&self) -> Result<ClientConfig, rustls::Error> {
        let nobody = SpiffeServerVerifier::new(Arc::clone(&self.roots), &[], None);
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(self.policy.versions())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(nobody))
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&self.key))));
        config.alpn_protocols = vec![ALPN_H2.to_vec()];
        config.enable_sni = false;
        config.resumption = Resumption::disabled();
        Ok(config)
    }
}
