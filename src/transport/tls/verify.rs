//! Who may be the peer: chain, validity, purpose (webpki), then SPIFFE.

use super::{policy::algorithms, revocation::Checked};
use crate::model::Identity;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{self, CryptoProvider},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{
        ParsedCertificate, VerifierBuilderError, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use std::sync::Arc;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// Our verdict about a peer whose chain is fine. Travels through rustls as an [`OtherError`].
#[derive(Debug, thiserror::Error)]
pub(super) enum PeerError {
    #[error("the server is {got:?}, expected one of {expected:?}")]
    Unexpected { got: Vec<Identity>, expected: Arc<[Identity]> },
    #[error("no spiffe identity")]
    NoIdentity,
    #[error("{got} is not of trust domain {own}")]
    TrustDomain { got: Identity, own: Arc<str> },
}

impl PeerError {
    pub(super) fn find(error: &Error) -> Option<&Self> {
        let Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) = error else { return None };
        inner.downcast_ref()
    }
}

impl From<PeerError> for Error {
    fn from(error: PeerError) -> Self {
        Self::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
    }
}

/// The URI SANs of a leaf that are workload identities, in order; others are skipped.
///
/// # Errors
/// When the certificate cannot be read or holds two SAN extensions (RFC 5280 section 4.2).
pub(super) fn identities(leaf: &CertificateDer<'_>) -> Result<Vec<Identity>, Error> {
    let bad = |_| Error::InvalidCertificate(CertificateError::BadEncoding);
    let (rest, leaf) = X509Certificate::from_der(leaf).map_err(|error| bad(error.to_string()))?;
    if !rest.is_empty() {
        return Err(bad(String::new()));
    }
    let san = leaf.subject_alternative_name().map_err(|error| bad(error.to_string()))?;
    let names = san.map(|san| san.value.general_names.as_slice()).unwrap_or_default();
    let uris = names.iter().filter_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None });
    Ok(uris.filter_map(|uri| uri.parse().ok()).collect())
}

/// Judges servers: the leaf must hold one of the expected identities.
#[derive(Debug)]
pub(super) struct SpiffeServerVerifier {
    roots: Arc<RootCertStore>,
    expected: Arc<[Identity]>,
    checked: Option<Arc<Checked>>,
}

impl SpiffeServerVerifier {
    pub(super) fn new(roots: Arc<RootCertStore>, expected: &[Identity], checked: Option<Arc<Checked>>) -> Self {
        Self { roots, expected: expected.into(), checked }
    }
}

/// Path, validity at `now`, and serverAuth if the leaf restricts its purposes at all.
pub(super) fn verify_server_chain(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    roots: &RootCertStore,
    now: UnixTime,
) -> Result<(), Error> {
    verify_server_cert_signed_by_trust_anchor(&ParsedCertificate::try_from(leaf)?, roots, intermediates, now, algorithms().all)
}

impl ServerCertVerifier for SpiffeServerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        verify_server_chain(leaf, intermediates, &self.roots, now)?;
        if let Some(checked) = &self.checked {
            checked.check(leaf, intermediates, &self.roots)?;
        }
        let got = identities(leaf)?;
        if got.iter().any(|id| self.expected.contains(id)) {
            Ok(ServerCertVerified::assertion())
        } else if got.is_empty() {
            Err(PeerError::NoIdentity.into())
        } else {
            Err(PeerError::Unexpected { got, expected: Arc::clone(&self.expected) }.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        crypto::verify_tls12_signature(message, cert, signature, algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        crypto::verify_tls13_signature(message, cert, signature, algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}

/// Judges clients: the identity that counts is the *first* SPIFFE SAN, and that same one must be of
/// our trust domain. (A test against any SAN would let a leaf of two trust domains in under the
/// foreign name.)
#[derive(Debug)]
pub(super) struct SpiffeClientVerifier {
    chain: Arc<dyn ClientCertVerifier>,
    roots: Arc<RootCertStore>,
    trust_domain: Arc<str>,
    checked: Option<Arc<Checked>>,
}

impl SpiffeClientVerifier {
    /// `chain` is made by [`chain`](Self::chain) of the same `roots`.
    pub(super) fn new(
        chain: Arc<dyn ClientCertVerifier>,
        roots: Arc<RootCertStore>,
        trust_domain: Arc<str>,
        checked: Option<Arc<Checked>>,
    ) -> Self {
        Self { chain, roots, trust_domain, checked }
    }

    /// Judges chains only.
    pub(super) fn chain(
        roots: Arc<RootCertStore>,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Arc<dyn ClientCertVerifier>, VerifierBuilderError> {
        WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(provider)).build()
    }
}

impl ClientCertVerifier for SpiffeClientVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.chain.verify_client_cert(leaf, intermediates, now)?;
        if let Some(checked) = &self.checked {
            checked.check(leaf, intermediates, &self.roots)?;
        }
        let got = identities(leaf)?.into_iter().next().ok_or(PeerError::NoIdentity)?;
        if got.trust_domain() != &*self.trust_domain {
            return Err(PeerError::TrustDomain { got, own: Arc::clone(&self.trust_domain) }.into());
        }
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, cert, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, cert, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}
