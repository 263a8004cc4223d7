//! Where a process has its certificates from.

use super::{AppError, Process};
use crate::{
    cert::{self, CaConfig, FileCertSource, Issuer, IstioCa, Keeper, SpiffeSource},
    model::Identity,
    runtime::BlockReady,
    transport::{CertSource, grpc},
};
use std::{path::PathBuf, sync::Arc, time::Duration};
use tokio::runtime::Handle;

/// How often certificate files are looked at.
const CERT_POLL: Duration = Duration::from_secs(1);
/// How often it is looked whether the first certificate is there.
const FIRST_POLL: Duration = Duration::from_millis(100);

/// Where certificates come from.
#[derive(Debug, Clone)]
pub enum CertificatesFrom {
    /// A directory that `cairn certs` or something like it writes.
    Directory(PathBuf),
    /// Istio's certificate service.
    Ca(Box<grpc::Server>),
    /// A SPIFFE Workload API, at this socket.
    Spiffe(String),
}

/// For whom they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asker {
    /// This process's own pod.
    Itself,
    /// The pods of the node, for which the process speaks.
    Node,
}

impl CertificatesFrom {
    /// Certificates for whoever they are asked for; those that are signed on request are to live for
    /// `ttl`.
    pub(super) fn keeper(&self, ttl: Duration, asker: Asker) -> Result<Arc<Keeper>, AppError> {
        let issuer: Arc<dyn Issuer> = match self {
            Self::Directory(directory) => {
                let keeper = cert::open_directory(directory, CERT_POLL, ttl, Handle::current());
                return keeper.map(Arc::new).map_err(AppError::config);
            }
            Self::Ca(server) => Arc::new(IstioCa::new(CaConfig { server: (**server).clone(), ttl, impersonate: asker == Asker::Node })),
            Self::Spiffe(socket) => Arc::new(SpiffeSource::connect(socket, &Handle::current()).map_err(AppError::config)?),
        };
        Ok(Arc::new(Keeper::new(issuer, Handle::current())))
    }

    /// Whose certificate it is, where there is only one.
    pub(super) fn only_identity(&self) -> Result<Option<Identity>, AppError> {
        let Self::Directory(directory) = self else { return Ok(None) };
        if !cert::is_single(directory) {
            return Ok(None);
        }
        let certificate = FileCertSource::open(directory).map_err(AppError::config)?;
        Ok(Some(certificate.identity().clone()))
    }
}

/// The certificate of the process itself.
#[derive(Debug, Clone)]
pub struct OwnCertificate {
    /// Where it comes from.
    pub from: CertificatesFrom,
    /// Whose it is to be; of one that is read from files, the file says it.
    pub identity: Option<Identity>,
    /// How long one is to live that is signed on request.
    pub ttl: Duration,
}

impl OwnCertificate {
    /// From files.
    pub fn directory(directory: PathBuf) -> Self {
        Self { from: CertificatesFrom::Directory(directory), identity: None, ttl: Duration::ZERO }
    }

    /// Opens it, and has it followed from then on; and whose it is. Until there is one, `process` is not
    /// ready.
    ///
    /// # Errors
    /// When there is none that can be used, or nobody has said who asks.
    pub(super) fn open(self, process: &Process) -> Result<(Arc<dyn CertSource>, Identity), AppError> {
        if let CertificatesFrom::Directory(directory) = &self.from {
            let certs = Arc::new(FileCertSource::open(directory).map_err(AppError::config)?);
            let own = certs.identity().clone();
            tokio::spawn(certs.clone().watch(CERT_POLL, process.drain()));
            return Ok((certs, own));
        }
        let unknown = "for a certificate it must be known who asks: TRUST_DOMAIN, POD_NAMESPACE and SERVICE_ACCOUNT";
        let identity = self.identity.ok_or_else(|| AppError::config(anyhow::anyhow!(unknown)))?;
        let keeper = self.from.keeper(self.ttl, Asker::Itself)?;
        tokio::spawn(first(keeper.clone(), identity.clone(), process.readiness().register("certificate")));
        Ok((keeper, identity))
    }
}

/// Waits for the first certificate. The keeper goes on asking by itself.
async fn first(keeper: Arc<Keeper>, identity: Identity, waiting: BlockReady) {
    while keeper.fetch(&identity).await.is_err() {
        tokio::time::sleep(FIRST_POLL).await;
    }
    drop(waiting);
}
