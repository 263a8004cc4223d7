//! Many identities in one process: tests, the demo, and a node proxy that is fed with files.

use super::{
    file::{FileCertError, FileCertSource},
    layout::CHAIN,
    memory::StaticCertSource,
};
use crate::{
    model::Identity,
    runtime::DrainWatch,
    transport::{CertError, CertFuture, CertSource, ReplacedFuture, WorkloadCert},
};
use std::{
    collections::BTreeMap,
    fs,
    future::{pending, ready},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// Asks the source that an identity belongs to.
#[derive(Debug, Default)]
pub struct MultiCertSource {
    sources: BTreeMap<Identity, Arc<dyn CertSource>>,
    files: Vec<Arc<FileCertSource>>,
}

impl MultiCertSource {
    /// Reads every `out/NS/SA/` that holds a `cert-chain.pem`: what
    /// [`DevCa::write_directory`](super::DevCa::write_directory) writes. The identity is the
    /// certificate's; the names of the directories have no meaning. Blocking. Directories that
    /// come later are not seen.
    ///
    /// # Errors
    /// When a directory cannot be read, two hold the same identity, or there is none.
    pub fn from_dir_tree(out: &Path) -> Result<Self, FileCertError> {
        let mut this = Self::default();
        for dir in workload_directories(out)? {
            let source = Arc::new(FileCertSource::open(&dir)?);
            if this.sources.contains_key(source.identity()) {
                return Err(FileCertError::Twice { path: dir, identity: source.identity().clone() });
            }
            this.sources.insert(source.identity().clone(), Arc::clone(&source) as Arc<dyn CertSource>);
            this.files.push(source);
        }
        if this.files.is_empty() { Err(FileCertError::None { path: out.to_owned() }) } else { Ok(this) }
    }

    /// Adds a source, in place of the one that `identity` had.
    pub fn insert(&mut self, identity: Identity, source: Arc<dyn CertSource>) {
        self.files.retain(|file| *file.identity() != identity);
        self.sources.insert(identity, source);
    }

    /// The identities, in order.
    pub fn identities(&self) -> impl Iterator<Item = &Identity> {
        self.sources.keys()
    }

    /// [`FileCertSource::watch`] for all directories, until the drain is forced.
    pub async fn watch(self: Arc<Self>, interval: Duration, drain: DrainWatch) {
        let watches = self.files.iter().map(|file| Arc::clone(file).watch(interval, drain.clone()));
        futures_util::future::join_all(watches).await;
    }
}

impl FromIterator<Arc<WorkloadCert>> for MultiCertSource {
    fn from_iter<I: IntoIterator<Item = Arc<WorkloadCert>>>(certs: I) -> Self {
        let mut this = Self::default();
        for cert in certs {
            this.insert(cert.identity().clone(), Arc::new(StaticCertSource::new(cert)));
        }
        this
    }
}

impl CertSource for MultiCertSource {
    fn fetch<'a>(&'a self, identity: &'a Identity) -> CertFuture<'a> {
        match self.sources.get(identity) {
            Some(source) => source.fetch(identity),
            None => Box::pin(ready(Err(CertError::Unknown(identity.clone())))),
        }
    }

    fn replaced<'a>(&'a self, cert: &'a Arc<WorkloadCert>) -> ReplacedFuture<'a> {
        match self.sources.get(cert.identity()) {
            Some(source) => source.replaced(cert),
            None => Box::pin(pending()),
        }
    }
}

/// Every `out/NS/SA/` that holds a `cert-chain.pem`, by name. Blocking.
pub(super) fn workload_directories(out: &Path) -> Result<Vec<PathBuf>, FileCertError> {
    let all = directories(out)?.iter().map(|namespace| directories(namespace)).collect::<Result<Vec<_>, _>>()?.concat();
    Ok(all.into_iter().filter(|dir| dir.join(CHAIN).exists()).collect())
}

/// The directories in `path`, by name.
fn directories(path: &Path) -> Result<Vec<PathBuf>, FileCertError> {
    let read = || -> std::io::Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?.path();
            if entry.is_dir() {
                found.push(entry);
            }
        }
        found.sort();
        Ok(found)
    };
    read().map_err(|source| FileCertError::Read { path: path.to_owned(), source })
}
