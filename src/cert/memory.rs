//! A certificate from memory.

use crate::{
    model::Identity,
    transport::{CertError, CertFuture, CertSource, WorkloadCert},
};
use std::{future::ready, sync::Arc, time::SystemTime};

/// One certificate that never changes.
#[derive(Debug, Clone)]
pub struct StaticCertSource {
    cert: Arc<WorkloadCert>,
}

impl StaticCertSource {
    /// Serves `cert` until it expires.
    pub fn new(cert: Arc<WorkloadCert>) -> Self {
        Self { cert }
    }
}

impl CertSource for StaticCertSource {
    fn fetch<'a>(&'a self, identity: &'a Identity) -> CertFuture<'a> {
        Box::pin(ready(check(&self.cert, identity).map(|()| Arc::clone(&self.cert))))
    }
}

/// Whether `cert` may be handed out for `identity` now.
pub(super) fn check(cert: &WorkloadCert, identity: &Identity) -> Result<(), CertError> {
    if cert.identity() != identity {
        return Err(CertError::Unknown(identity.clone()));
    }
    cert.check_not_expired(SystemTime::now())
}
