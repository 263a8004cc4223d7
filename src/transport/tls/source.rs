//! The seam to whoever provides certificates.

use super::WorkloadCert;
use crate::model::Identity;
use rustls::pki_types::pem;
use std::{error::Error, fmt, future::Future, pin::Pin, sync::Arc, time::SystemTime};

/// Gives certificates to the data plane. Object safe: one `Arc<dyn CertSource>` for each process.
pub trait CertSource: Send + Sync + fmt::Debug + 'static {
    /// The current certificate of `identity`, never an expired one. Asked at each handshake, so an
    /// implementation answers from memory whenever it can.
    ///
    /// The future may be dropped at any time.
    fn fetch<'a>(&'a self, identity: &'a Identity) -> CertFuture<'a>;

    /// Resolves when `cert`, which came from [`fetch`](Self::fetch), is no longer what it yields:
    /// connections made with it should give way to new ones. Never, for a source whose certificates
    /// do not change.
    ///
    /// The future may be dropped at any time.
    fn replaced<'a>(&'a self, cert: &'a Arc<WorkloadCert>) -> ReplacedFuture<'a> {
        let _ = cert;
        Box::pin(std::future::pending())
    }
}

/// What [`CertSource::replaced`] returns.
pub type ReplacedFuture<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// What [`CertSource::fetch`] returns.
pub type CertFuture<'a> = Pin<Box<dyn Future<Output = Result<Arc<WorkloadCert>, CertError>> + Send + 'a>>;

/// Why there is no certificate. Cheap to clone, since one failure may answer many callers.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CertError {
    /// A part is not PEM of the right kind.
    #[error("the {part} cannot be read")]
    Pem {
        /// Which part.
        part: CertPart,
        /// Why.
        #[source]
        source: Arc<pem::Error>,
    },
    /// A part holds nothing.
    #[error("the {0} is empty")]
    Empty(CertPart),
    /// A certificate is not X.509.
    #[error("a certificate of the {part} is not valid x509")]
    X509 {
        /// Which part.
        part: CertPart,
        /// Why.
        #[source]
        source: Arc<dyn Error + Send + Sync>,
    },
    /// The key is not of a kind we can use.
    #[error("the private key is not usable")]
    Key(#[source] rustls::Error),
    /// The key belongs to another certificate.
    #[error("the private key does not belong to the leaf certificate")]
    KeyMismatch,
    /// The leaf holds no workload identity.
    #[error("the leaf certificate holds no spiffe identity")]
    NoIdentity,
    /// The chain is not valid, or does not lead to one of the roots that came with it.
    #[error("the chain of {identity} is not valid by its own roots")]
    Chain {
        /// Whose.
        identity: Identity,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// The time of the certificate has passed.
    #[error("the certificate of {identity} has expired")]
    Expired {
        /// Whose.
        identity: Identity,
        /// When.
        not_after: SystemTime,
    },
    /// This source has no certificate for that identity.
    #[error("no certificate for {0}")]
    Unknown(Identity),
    /// The source could not be asked, or refused.
    #[error("the certificate source is not available")]
    Unavailable(#[source] Arc<dyn Error + Send + Sync>),
}

impl CertError {
    /// The part at fault; the chain, when it is none in particular.
    pub fn part(&self) -> CertPart {
        match self {
            Self::Pem { part, .. } | Self::X509 { part, .. } | Self::Empty(part) => *part,
            Self::Key(_) | Self::KeyMismatch => CertPart::Key,
            Self::NoIdentity | Self::Chain { .. } | Self::Expired { .. } | Self::Unknown(_) | Self::Unavailable(_) => CertPart::Chain,
        }
    }
}

/// The parts that make up a [`WorkloadCert`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CertPart {
    /// Leaf and intermediates.
    Chain,
    /// The private key of the leaf.
    Key,
    /// The trust anchors.
    Roots,
}

impl fmt::Display for CertPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Chain => "certificate chain",
            Self::Key => "private key",
            Self::Roots => "root bundle",
        })
    }
}
