//! Certificates that their authority has revoked: the lists in a file, what they say of a chain, and
//! connections that outlive a change of the file (contract, 1.1).
//!
//! A certificate is revoked when a list names its serial number and list and certificate are signed by
//! one key. The name of the issuer only finds the list: two authorities may go by one name. Where no
//! list speaks of an issuer, its certificates are good. A list whose time is over still counts: what was
//! revoked stays so.

mod lists;
mod standing;
mod watch;

pub(super) use standing::Checked;
pub use standing::Standing;

use crate::{
    runtime::DrainWatch,
    telemetry::{self, Reporter},
};
use lists::Lists;
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem},
};
use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

/// The lists of revoked certificates in a file.
pub struct Revocation {
    path: PathBuf,
    // Tells every connection that is open of new ones.
    lists: tokio::sync::watch::Sender<Arc<Lists>>,
    // What the lists were read from. Never locked across an await.
    content: Mutex<Vec<u8>>,
}

/// Not the content, which would fill a configuration dump.
impl fmt::Debug for Revocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Revocation").field("path", &self.path).field("lists", &self.lists().len()).finish_non_exhaustive()
    }
}

/// A certificate that is no more to be trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the certificate {serial} of {issuer:?} is revoked")]
pub struct Revoked {
    /// Its serial number, decimal as `istioctl` shows it.
    pub serial: String,
    /// By whom it was issued, and revoked.
    pub issuer: String,
}

/// Why a file of lists is of no use.
#[derive(Debug, thiserror::Error)]
pub enum RevocationError {
    /// It cannot be read.
    #[error("{} cannot be read", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It holds something else.
    #[error("{} holds no usable certificate revocation list", path.display())]
    Content {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: ContentError,
    },
}

/// What is wrong with the content of a file of lists.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// It is not PEM all through.
    #[error("not PEM")]
    Pem(#[source] pem::Error),
    /// It is PEM of other things.
    #[error("PEM without a block X509 CRL")]
    NoList,
    /// A list cannot be used: it is no such list, or of a kind that cannot be judged by.
    #[error("list {number}")]
    List {
        /// Which, from 1.
        number: usize,
        /// Why.
        #[source]
        source: webpki::Error,
    },
}

impl Revocation {
    /// Reads the lists in `path`: any number of PEM blocks, or one list in DER. An empty file revokes
    /// nothing. Blocking.
    ///
    /// # Errors
    /// When the file is missing or holds anything else; the error names it.
    pub fn open(path: impl Into<PathBuf>) -> Result<Arc<Self>, RevocationError> {
        let path = path.into();
        let content = fs::read(&path).map_err(|source| RevocationError::Read { path: path.clone(), source })?;
        let lists = Lists::read(&content).map_err(|source| RevocationError::Content { path: path.clone(), source })?;
        tracing::info!(path = %path.display(), lists = lists.len(), "certificate revocation lists loaded");
        lists.warn_expired(SystemTime::now());
        let lists = tokio::sync::watch::Sender::new(Arc::new(lists));
        Ok(Arc::new(Self { path, lists, content: Mutex::new(content) }))
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether all certificates of a chain are good by the lists in force. The issuers of a chain are
    /// looked for in it and among `anchors`. What cannot be read cannot be revoked.
    ///
    /// # Errors
    /// [`Revoked`], with the first that is not.
    pub fn check<'a>(&self, chain: impl IntoIterator<Item = &'a CertificateDer<'a>>, anchors: &RootCertStore) -> Result<(), Revoked> {
        self.lists().find(chain, anchors).map_or(Ok(()), Err)
    }

    /// Reads the file again. From then on its lists are in force, also for connections that are open.
    /// Whether anything has changed. Blocking.
    ///
    /// # Errors
    /// As for [`open`](Self::open); the lists stay what they were.
    pub fn reload(&self) -> Result<bool, RevocationError> {
        self.take(self.read()?)
    }

    /// Looks at the file whenever something happens in its directory, and from time to time, until the
    /// drain is forced. What it holds must have stayed so for two seconds to count. Cancel safe.
    pub async fn watch(self: Arc<Self>, drain: DrainWatch) {
        watch::run(self, watch::Pace::default(), drain).await;
    }

    fn lists(&self) -> Arc<Lists> {
        Arc::clone(&self.lists.borrow())
    }

    fn read(&self) -> Result<Vec<u8>, RevocationError> {
        fs::read(&self.path).map_err(|source| RevocationError::Read { path: self.path.clone(), source })
    }

    fn is_current(&self, content: &[u8]) -> bool {
        *self.content.lock().unwrap_or_else(PoisonError::into_inner) == content
    }

    fn take(&self, content: Vec<u8>) -> Result<bool, RevocationError> {
        let mut current = self.content.lock().unwrap_or_else(PoisonError::into_inner);
        if *current == content {
            return Ok(false);
        }
        let lists = Lists::read(&content).map_err(|source| RevocationError::Content { path: self.path.clone(), source })?;
        lists.warn_expired(SystemTime::now());
        *current = content;
        self.lists.send_replace(Arc::new(lists));
        Ok(true)
    }
}

/// Counts a peer that was turned away, or whose tunnel was closed.
fn rejected(reporter: Reporter) {
    telemetry::crl_rejection(reporter);
}

#[cfg(test)]
mod tests;
