//! The directory that `cairn certs` writes, or any part of it, as a source for a whole node.

use super::{
    CaError, CaIssuer, DevCa, FileCertError, FileCertSource, IssueFuture, Issuer, Keeper,
    layout::{CA_KEY, CHAIN, is_directory_name},
    multi,
};
use crate::{
    model::Identity,
    transport::{CertError, ReplacedFuture, WorkloadCert},
};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{runtime::Handle, task::spawn_blocking};

/// Why a directory gives no certificates.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// The development CA in it is of no use.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// The certificates in it are of no use.
    #[error(transparent)]
    Files(#[from] FileCertError),
}

/// Certificates from `out`: signed on demand, for `ttl`, when it holds a development CA
/// (`ca-key.pem`), else read from `out/NS/SA/`, else, when there is no such directory, the one in `out` itself. Files are
/// looked at each `interval` (not zero); directories may come later. Blocking. The keeper's tasks
/// run on `runtime`.
///
/// # Errors
/// When the CA or the single certificate is of no use, or there is nothing at all. A directory of
/// the tree is looked at only when its identity is asked for.
pub fn open_directory(out: &Path, interval: Duration, ttl: Duration, runtime: Handle) -> Result<Keeper, DirectoryError> {
    let issuer: Arc<dyn Issuer> = if out.join(CA_KEY).exists() {
        Arc::new(CaIssuer::new(DevCa::open(out)?, ttl))
    } else {
        Arc::new(FileIssuer { place: Place::find(out)?, interval })
    };
    Ok(Keeper::new(issuer, runtime))
}

/// Whether a directory holds one certificate itself, and nothing by which others could be had.
pub fn is_single(out: &Path) -> bool {
    out.join(CHAIN).exists() && !out.join(CA_KEY).exists()
}

/// Hands out what is in files.
#[derive(Debug)]
struct FileIssuer {
    place: Place,
    interval: Duration,
}

/// Where the files of an identity are.
#[derive(Debug)]
enum Place {
    /// In `NS/SA/` below this directory.
    Tree(PathBuf),
    /// In this directory, for this identity only.
    Single(PathBuf, Identity),
}

impl Place {
    fn find(out: &Path) -> Result<Self, FileCertError> {
        if !multi::workload_directories(out)?.is_empty() {
            return Ok(Self::Tree(out.to_owned()));
        }
        if !out.join(CHAIN).exists() {
            return Err(FileCertError::None { path: out.to_owned() });
        }
        let source = FileCertSource::open(out)?;
        Ok(Self::Single(out.to_owned(), source.identity().clone()))
    }

    fn of(&self, identity: &Identity) -> Result<PathBuf, CertError> {
        let (namespace, service_account) = (identity.namespace(), identity.service_account());
        match self {
            Self::Tree(out) if [namespace, service_account].into_iter().all(is_directory_name) => {
                Ok(out.join(namespace).join(service_account))
            }
            Self::Single(dir, own) if own == identity => Ok(dir.clone()),
            Self::Tree(_) | Self::Single(..) => Err(CertError::Unknown(identity.clone())),
        }
    }
}

impl Issuer for FileIssuer {
    fn issue<'a>(&'a self, identity: &'a Identity) -> IssueFuture<'a> {
        Box::pin(async {
            let source = open(self.place.of(identity)?).await?;
            Ok(source.current())
        })
    }

    fn changed<'a>(&'a self, cert: &'a WorkloadCert) -> ReplacedFuture<'a> {
        Box::pin(async {
            // Should the files be unreadable this moment, the keeper asks for them and learns why.
            if let Ok(dir) = self.place.of(cert.identity())
                && let Ok(source) = open(dir).await
            {
                Arc::new(source).next(cert.fingerprint(), self.interval).await;
            }
        })
    }
}

async fn open(dir: PathBuf) -> Result<FileCertSource, CertError> {
    let opened = spawn_blocking(move || FileCertSource::open(&dir)).await;
    let unavailable = |error: FileCertError| CertError::Unavailable(Arc::new(error));
    opened.map_err(|error| CertError::Unavailable(Arc::new(error)))?.map_err(unavailable)
}

#[cfg(test)]
mod tests;
