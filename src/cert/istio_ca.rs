//! Istio's certificate service as an issuer (contract, 5): a new key and a request for each
//! certificate, and an answer that is looked at before anything is made of it.
//!
//! Of a private key there are, outside of the crypto library, two copies: the pair that signs the
//! request, and the DER that TLS reads it from. Both are overwritten before [`Issuer::issue`]
//! returns. What remains is the library's own form, for as long as the certificate is in use.

use super::{IssueFuture, Issuer};
use crate::{
    model::Identity,
    proto::ca::{IstioCertificateRequest, istio_certificate_service_client::IstioCertificateServiceClient},
    transport::{
        CertError, WorkloadCert,
        grpc::{GrpcError, Server},
    },
};
use futures_util::{
    FutureExt as _,
    future::{BoxFuture, Shared},
};
use prost_types::{Struct, Value, value::Kind};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, SanType};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivatePkcs8KeyDer, pem::PemObject},
};
use std::{
    error::Error,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tonic::{Code, Request, Status, transport::Channel};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
use zeroize::Zeroizing;

/// How long the service may take for one answer; told to it as well, so that it does not go on with
/// what nobody waits for.
const CALL: Duration = Duration::from_secs(20);
/// An answer that is longer is refused, in bytes: a thousand roots have room.
const MAX_ANSWER: usize = 4 << 20;
/// Under this name a node's proxy says for which of the node's workloads it asks.
const IMPERSONATED: &str = "ImpersonatedIdentity";

/// Which service is asked, and for what.
#[derive(Debug, Clone)]
pub struct CaConfig {
    /// Where it is, and who we are to it.
    pub server: Server,
    /// How long certificates should live, in whole seconds; the service may decide otherwise.
    pub ttl: Duration,
    /// Whether certificates are those of others, whose identity goes with the request. Otherwise the
    /// service gives the one that the token is of.
    pub impersonate: bool,
}

/// Asks Istio's certificate service.
///
/// One connection is kept and shared. It is made anew after it broke, and when the trust anchors
/// for the service have become others.
pub struct IstioCa {
    config: CaConfig,
    /// Never locked across an await.
    kept: Mutex<Option<Kept>>,
}

/// The connection, or the attempt to make one, that all who ask at a time share.
#[derive(Clone)]
struct Kept {
    roots: Arc<RootCertStore>,
    channel: Shared<BoxFuture<'static, Result<Channel, Arc<GrpcError>>>>,
}

/// Why the service gave no certificate.
#[derive(Debug, thiserror::Error)]
pub enum IstioCaError {
    /// It was not asked.
    #[error("the CA cannot be asked")]
    Connect(#[source] Arc<GrpcError>),
    /// It refused, or the connection broke.
    #[error("the CA answered {code:?}: {message}")]
    Call {
        /// What kind of error it is.
        code: Code,
        /// What there is to say of it.
        message: String,
    },
    /// No request could be made.
    #[error("cannot make a certificate request")]
    Request(#[from] rcgen::Error),
    /// It answered nothing.
    #[error("the answer of the CA is empty")]
    Empty,
    /// It answered a certificate alone.
    #[error("the answer of the CA holds no root")]
    NoRoot,
    /// A part is not PEM with at least one certificate.
    #[error("part {part} of {parts} of the CA's answer cannot be used: {reason}")]
    Part {
        /// Which, from 1.
        part: usize,
        /// How many there are.
        parts: usize,
        /// Why.
        reason: String,
    },
    /// It is the certificate of somebody else, or of several of whom the asked one is not the first.
    #[error("the CA gave a certificate of {got}, not of {wanted}")]
    Identity {
        /// The first URI in it.
        got: String,
        /// Who was asked for.
        wanted: Identity,
    },
}

impl IstioCa {
    /// Nothing is asked yet.
    pub fn new(config: CaConfig) -> Self {
        Self { config, kept: Mutex::new(None) }
    }

    async fn certify(&self, identity: &Identity) -> Result<WorkloadCert, CertError> {
        let key = Zeroizing::new(KeyPair::generate().map_err(IstioCaError::Request)?);
        let request = self.request(identity, &key)?;
        let answer = self.call(request).await?;
        read(identity, &key, &answer)
    }

    fn request(&self, identity: &Identity, key: &KeyPair) -> Result<IstioCertificateRequest, IstioCaError> {
        let mut params = CertificateParams::default();
        // An empty subject is what makes the name critical (RFC 5280 section 4.2.1.6).
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(identity.as_str().try_into()?)];
        let csr = params.serialize_request(key)?.pem()?;
        let named = Value { kind: Some(Kind::StringValue(identity.as_str().to_owned())) };
        let metadata = self.config.impersonate.then(|| Struct { fields: [(IMPERSONATED.to_owned(), named)].into() });
        let validity_duration = i64::try_from(self.config.ttl.as_secs()).unwrap_or(i64::MAX);
        Ok(IstioCertificateRequest { csr, validity_duration, metadata })
    }

    async fn call(&self, request: IstioCertificateRequest) -> Result<Vec<String>, IstioCaError> {
        let unasked = |error| IstioCaError::Connect(Arc::new(error));
        let metadata = self.config.server.credentials.metadata().await.map_err(unasked)?;
        let kept = self.connection(self.config.server.roots.read().await.map_err(unasked)?);
        let channel = kept.channel.clone().await.map_err(IstioCaError::Connect)?;
        let mut request = Request::new(request);
        *request.metadata_mut() = metadata;
        request.set_timeout(CALL);
        let mut client = IstioCertificateServiceClient::new(channel).max_decoding_message_size(MAX_ANSWER);
        match client.create_certificate(request).await {
            Ok(answer) => Ok(answer.into_inner().cert_chain),
            Err(status) => {
                if speaks_of_the_connection(status.code()) {
                    self.let_go(&kept);
                }
                Err(IstioCaError::Call { code: status.code(), message: message(&status) })
            }
        }
    }

    /// The connection that there is, unless it was made with other roots or could not be made.
    fn connection(&self, roots: RootCertStore) -> Kept {
        let mut slot = self.lock();
        if let Some(kept) = &*slot
            && kept.roots.roots == roots.roots
            && !matches!(kept.channel.peek(), Some(Err(_)))
        {
            return kept.clone();
        }
        let (server, roots) = (self.config.server.clone(), Arc::new(roots));
        let trusted = roots.clone();
        let channel = async move { server.connect_with(&trusted).await.map_err(Arc::new) };
        slot.insert(Kept { roots, channel: channel.boxed().shared() }).clone()
    }

    /// Has the next who asks connect, unless somebody did already.
    fn let_go(&self, kept: &Kept) {
        let mut slot = self.lock();
        if slot.as_ref().is_some_and(|now| now.channel.ptr_eq(&kept.channel)) {
            *slot = None;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Issuer for IstioCa {
    fn issue<'a>(&'a self, identity: &'a Identity) -> IssueFuture<'a> {
        Box::pin(async { self.certify(identity).await.map(Arc::new) })
    }

    fn one_authority(&self) -> Option<Duration> {
        Some(self.config.ttl)
    }
}

impl fmt::Debug for IstioCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IstioCa").field("config", &self.config).finish_non_exhaustive()
    }
}

impl From<IstioCaError> for CertError {
    fn from(error: IstioCaError) -> Self {
        Self::Unavailable(Arc::new(error))
    }
}

/// What an answer is worth: leaf and intermediates, and in its last part the roots. That the chain
/// leads to the roots and is in date, whoever asked finds out.
fn read(identity: &Identity, key: &KeyPair, answer: &[String]) -> Result<WorkloadCert, CertError> {
    let (chain, roots) = match answer {
        [] => return Err(IstioCaError::Empty.into()),
        [_] => return Err(IstioCaError::NoRoot.into()),
        [chain @ .., roots] => (chain, roots),
    };
    let part = |(index, pem)| certificates(pem).map_err(|reason| IstioCaError::Part { part: index + 1, parts: answer.len(), reason });
    let chain = chain.iter().enumerate().map(part).collect::<Result<Vec<_>, _>>()?.concat();
    let roots = part((answer.len() - 1, roots))?;
    if let Some(got) = chain.first().and_then(first_uri).filter(|got| got != identity.as_str()) {
        return Err(IstioCaError::Identity { got, wanted: identity.clone() }.into());
    }
    let key = PrivatePkcs8KeyDer::from(key.serialize_der());
    WorkloadCert::from_der(chain, key.into(), roots)
}

fn certificates(pem: &String) -> Result<Vec<CertificateDer<'static>>, String> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let certificates = read.map_err(|error| error.to_string())?;
    if certificates.is_empty() { Err("it holds no certificate".into()) } else { Ok(certificates) }
}

/// The first URI that a leaf is for. None in what is no leaf, which [`WorkloadCert`] refuses.
fn first_uri(leaf: &CertificateDer<'_>) -> Option<String> {
    let (_, leaf) = X509Certificate::from_der(leaf).ok()?;
    let names = &leaf.subject_alternative_name().ok()??.value.general_names;
    names.iter().find_map(|name| if let GeneralName::URI(uri) = name { Some((*uri).to_owned()) } else { None })
}

/// Whether it may be the connection that is at fault, not the request.
fn speaks_of_the_connection(code: Code) -> bool {
    matches!(code, Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled | Code::DeadlineExceeded)
}

/// A status in words, with its causes. What goes with it is left out.
fn message(status: &Status) -> String {
    let causes = std::iter::successors(status.source(), |error| (*error).source());
    causes.fold(status.message().to_owned(), |text, cause| format!("{text}: {cause}"))
}

#[cfg(test)]
mod tests;
