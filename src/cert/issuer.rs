//! Who signs certificates.

use super::{CaError, DevCa};
use crate::{
    model::Identity,
    transport::{CertError, ReplacedFuture, WorkloadCert},
};
use rustls::pki_types::PrivatePkcs8KeyDer;
use std::{
    fmt,
    future::{Future, pending, ready},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

/// Gives certificates out when it is asked for one; [`Keeper`](super::Keeper) decides when, and
/// keeps them. Object safe.
pub trait Issuer: Send + Sync + fmt::Debug + 'static {
    /// A certificate of `identity`, with its key and roots. No time limit: the caller sets one.
    ///
    /// The future may be dropped at any time.
    fn issue<'a>(&'a self, identity: &'a Identity) -> IssueFuture<'a>;

    /// Whether all that it issues comes from one CA, so that the roots that came with the newest
    /// certificate hold for all of them. Otherwise each is used with its own.
    fn is_one_authority(&self) -> bool {
        false
    }

    /// Resolves when there is another certificate than `cert` to be had before its time. Never, for
    /// an issuer that cannot know.
    ///
    /// The future may be dropped at any time.
    fn changed<'a>(&'a self, cert: &'a WorkloadCert) -> ReplacedFuture<'a> {
        let _ = cert;
        Box::pin(pending())
    }

    /// Resolves when it may be able to do what it was not able to do a moment ago, so that it is
    /// worth asking again before the time. Never, for an issuer that cannot know.
    ///
    /// The future may be dropped at any time.
    fn recovered(&self) -> ReplacedFuture<'_> {
        Box::pin(pending())
    }
}

/// What [`Issuer::issue`] returns.
pub type IssueFuture<'a> = Pin<Box<dyn Future<Output = Result<Arc<WorkloadCert>, CertError>> + Send + 'a>>;

/// The development CA as an issuer, for any identity of its trust domain.
#[derive(Debug)]
pub struct CaIssuer {
    ca: DevCa,
    ttl: Duration,
}

impl CaIssuer {
    /// Signs for `ttl`.
    pub fn new(ca: DevCa, ttl: Duration) -> Self {
        Self { ca, ttl }
    }

    fn sign(&self, identity: &Identity) -> Result<Arc<WorkloadCert>, CertError> {
        let refused = |error: CaError| CertError::Unavailable(Arc::new(error));
        let (leaf, key) = self.ca.sign(identity, self.ttl).map_err(refused)?;
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        WorkloadCert::from_der(vec![leaf.into()], key.into(), vec![self.ca.root().clone()]).map(Arc::new)
    }
}

impl Issuer for CaIssuer {
    fn issue<'a>(&'a self, identity: &'a Identity) -> IssueFuture<'a> {
        Box::pin(ready(self.sign(identity)))
    }
}
