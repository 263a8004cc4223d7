//! One workload's certificate from a directory, and its rotation.

use super::{
    layout::{CHAIN, ISTIO_ROOTS, KEY, ROOTS},
    memory::check,
};
use crate::{
    model::Identity,
    runtime::DrainWatch,
    telemetry,
    transport::{
        CertError, CertFuture, CertSource, ReplacedFuture, WorkloadCert,
        tls::{CertPart, Fingerprint},
    },
};
use std::{
    error::Error,
    fs,
    future::ready,
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};
use tokio::{sync::watch, time::MissedTickBehavior};
use zeroize::Zeroizing;

/// The certificate in a directory (see [`super`] for the names of the files). Until a new set of
/// files is complete, consistent, valid and of the same identity, the old certificate stays.
#[derive(Debug)]
pub struct FileCertSource {
    dir: PathBuf,
    identity: Identity,
    current: watch::Sender<Arc<WorkloadCert>>,
    /// Of the files that `current` was read from. Never locked across an await.
    stamps: Mutex<Stamps>,
}

/// What a look at the files brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reload {
    /// The same certificate as before.
    Unchanged,
    /// Another one, which is used from now on.
    Replaced,
}

/// Why the files of a directory are of no use.
#[derive(Debug, thiserror::Error)]
pub enum FileCertError {
    /// A file or directory cannot be read.
    #[error("{} cannot be read", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file holds nothing usable.
    #[error("{} cannot be used", path.display())]
    Content {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: CertError,
    },
    /// The files changed while they were read; the next look will tell.
    #[error("{} is being written", path.display())]
    Changing {
        /// The directory.
        path: PathBuf,
    },
    /// The new certificate is somebody else's.
    #[error("{} is the certificate of {got}, not of {own}", path.display())]
    Identity {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        got: Identity,
        /// Whose it should be.
        own: Identity,
    },
    /// Two directories hold a certificate for one identity.
    #[error("{} is a second certificate of {identity}", path.display())]
    Twice {
        /// The second directory.
        path: PathBuf,
        /// Whose.
        identity: Identity,
    },
    /// A tree without any certificate.
    #[error("{} holds no certificates", path.display())]
    None {
        /// The top of the tree.
        path: PathBuf,
    },
}

impl FileCertSource {
    /// Reads the certificate in `dir`, whose identity is this source's for good. Blocking.
    ///
    /// # Errors
    /// When a file is missing or of no use, or the certificate is not valid now; the error names
    /// the file.
    pub fn open(dir: &Path) -> Result<Self, FileCertError> {
        let (cert, stamps) = load(dir)?;
        let identity = cert.identity().clone();
        Ok(Self { dir: dir.to_owned(), identity, current: watch::Sender::new(Arc::new(cert)), stamps: Mutex::new(stamps) })
    }

    /// Whose certificates these are.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The certificate in use, and a way to wait for the next.
    pub fn subscribe(&self) -> watch::Receiver<Arc<WorkloadCert>> {
        self.current.subscribe()
    }

    /// The certificate in use.
    pub(super) fn current(&self) -> Arc<WorkloadCert> {
        Arc::clone(&self.current.borrow())
    }

    /// Looks at the files once. Blocking.
    ///
    /// # Errors
    /// When they are of no use. The old certificate stays, and the next call reads again.
    pub fn reload(&self) -> Result<Reload, FileCertError> {
        let mut stamps = self.stamps.lock().unwrap_or_else(PoisonError::into_inner);
        if Stamps::take(&self.dir).is_ok_and(|now| now == *stamps) {
            return Ok(Reload::Unchanged);
        }
        let (cert, now) = load(&self.dir)?;
        if *cert.identity() != self.identity {
            let path = self.dir.join(CHAIN);
            return Err(FileCertError::Identity { path, got: cert.identity().clone(), own: self.identity.clone() });
        }
        *stamps = now;
        let replaced = self.current.send_if_modified(|current| {
            let changed = current.fingerprint() != cert.fingerprint();
            if changed {
                *current = Arc::new(cert);
            }
            changed
        });
        Ok(if replaced { Reload::Replaced } else { Reload::Unchanged })
    }

    /// Looks at the files each `interval` (not zero), until the drain is forced: connections that
    /// are draining may still need certificates. Unusable files are reported once, as a warning.
    ///
    /// Polling, because events do not cross all the ways in which files come into a container;
    /// links are followed, so the `..data` swap of Kubernetes is seen. Cancel safe.
    pub async fn watch(self: Arc<Self>, interval: Duration, drain: DrainWatch) {
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut reported = String::new();
        loop {
            tokio::select! {
                () = drain.forced() => return,
                _ = ticks.tick() => {}
            }
            let this = Arc::clone(&self);
            match tokio::task::spawn_blocking(move || this.reload()).await {
                Ok(result) => self.report(result, &mut reported),
                // The runtime is going down.
                Err(_) => return,
            }
        }
    }

    /// Looks at the files each `interval` until they hold another certificate than `known`. Unusable
    /// files are reported once. Cancel safe.
    pub(super) async fn next(self: Arc<Self>, known: Fingerprint, interval: Duration) {
        let mut reported = String::new();
        while self.fingerprint() == known {
            tokio::time::sleep(interval).await;
            let this = Arc::clone(&self);
            match tokio::task::spawn_blocking(move || this.reload()).await {
                Ok(Ok(Reload::Replaced)) => {}
                Ok(result) => self.report(result, &mut reported),
                // The runtime is going down.
                Err(_) => return,
            }
        }
    }

    fn report(&self, result: Result<Reload, FileCertError>, reported: &mut String) {
        match result {
            Ok(Reload::Unchanged) => reported.clear(),
            Ok(Reload::Replaced) => {
                telemetry::cert_reload(true);
                let cert = Arc::clone(&self.current.borrow());
                tracing::info!(identity = %self.identity, serial = cert.serial(), "certificate replaced");
                reported.clear();
            }
            Err(error) => {
                let text = format!("{error:?}");
                if *reported != text {
                    telemetry::cert_reload(false);
                    let in_use = self.fingerprint();
                    tracing::warn!(identity = %self.identity, error = &error as &dyn Error, %in_use, "the old certificate stays");
                    *reported = text;
                }
            }
        }
    }

    fn fingerprint(&self) -> Fingerprint {
        self.current.borrow().fingerprint()
    }
}

impl CertSource for FileCertSource {
    fn fetch<'a>(&'a self, identity: &'a Identity) -> CertFuture<'a> {
        let cert = Arc::clone(&self.current.borrow());
        Box::pin(ready(check(&cert, identity).map(|()| cert)))
    }

    fn replaced<'a>(&'a self, cert: &'a Arc<WorkloadCert>) -> ReplacedFuture<'a> {
        let mut current = self.subscribe();
        Box::pin(async move {
            // The sender is ours: it cannot be gone.
            let _ = current.wait_for(|current| !Arc::ptr_eq(current, cert)).await;
        })
    }
}

/// What tells that a file was replaced, whether by writing, renaming or switching a link.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamps {
    roots_path: PathBuf,
    files: [Stamp; 3],
}

impl Stamps {
    fn take(dir: &Path) -> Result<Self, FileCertError> {
        let roots_path = roots_path(dir);
        let files = [stamp(&dir.join(CHAIN))?, stamp(&dir.join(KEY))?, stamp(&roots_path)?];
        Ok(Self { roots_path, files })
    }
}

fn stamp(path: &Path) -> Result<Stamp, FileCertError> {
    let meta = fs::metadata(path).map_err(|source| FileCertError::Read { path: path.to_owned(), source })?;
    Ok(Stamp {
        device: meta.dev(),
        inode: meta.ino(),
        size: meta.size(),
        modified: (meta.mtime(), meta.mtime_nsec()),
        changed: (meta.ctime(), meta.ctime_nsec()),
    })
}

fn roots_path(dir: &Path) -> PathBuf {
    let ours = dir.join(ROOTS);
    let istio = dir.join(ISTIO_ROOTS);
    if !ours.exists() && istio.exists() { istio } else { ours }
}

/// Reads a set and makes sure that it is one: unchanged while it was read, valid now, the chain
/// leading to one of its own roots.
fn load(dir: &Path) -> Result<(WorkloadCert, Stamps), FileCertError> {
    let before = Stamps::take(dir)?;
    let (chain_path, key_path) = (dir.join(CHAIN), dir.join(KEY));
    let (chain, key, roots) = (read(&chain_path)?, Zeroizing::new(read(&key_path)?), read(&before.roots_path)?);
    if Stamps::take(dir)? != before {
        return Err(FileCertError::Changing { path: dir.to_owned() });
    }
    let cert = WorkloadCert::from_pem(&chain, &key, &roots).and_then(|cert| cert.verify(SystemTime::now()).map(|()| cert));
    match cert {
        Ok(cert) => Ok((cert, before)),
        Err(source) => {
            let path = match source.part() {
                CertPart::Chain => chain_path,
                CertPart::Key => key_path,
                CertPart::Roots => before.roots_path,
            };
            Err(FileCertError::Content { path, source })
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, FileCertError> {
    fs::read(path).map_err(|source| FileCertError::Read { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests;
