//! Connections and lists: from before the handshake until the connection is gone.

use super::{Lists, Revocation, Revoked, lists::is_readable, rejected};
use crate::telemetry::{self, Reporter};
use rustls::{CertificateError, Error, RootCertStore, pki_types::CertificateDer};
use std::{
    future::pending,
    sync::{Arc, OnceLock},
};
use tokio::sync::watch;

/// A connection whose peer is looked up.
#[derive(Debug)]
pub(in super::super) struct Checked {
    revocation: Arc<Revocation>,
    reporter: Reporter,
    // Made before anything is looked up, so that no change of the lists falls in between.
    since: watch::Receiver<Arc<Lists>>,
    refused: OnceLock<Revoked>,
}

impl Checked {
    /// Called before the handshake.
    pub(in super::super) fn new(revocation: &Arc<Revocation>, reporter: Reporter) -> Arc<Self> {
        let since = revocation.lists.subscribe();
        Arc::new(Self { revocation: Arc::clone(revocation), reporter, since, refused: OnceLock::new() })
    }

    /// Judges a chain in the handshake; the error has the peer sent the alert that is meant for it.
    pub(in super::super) fn check(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        anchors: &RootCertStore,
    ) -> Result<(), Error> {
        let chain = std::iter::once(leaf).chain(intermediates).map(|der| CertificateDer::from(der.as_ref()));
        let chain: Vec<_> = chain.collect();
        self.revocation.check(&chain, anchors).map_err(|revoked| {
            rejected(self.reporter);
            self.refused.get_or_init(|| revoked);
            Error::InvalidCertificate(CertificateError::Revoked)
        })
    }

    /// For what the handshake was refused.
    pub(in super::super) fn refused(&self) -> Option<Revoked> {
        self.refused.get().cloned()
    }

    /// Keeps the chain of a peer after its handshake.
    pub(in super::super) fn standing(&self, chain: &[CertificateDer<'_>], anchors: &Arc<RootCertStore>) -> Standing {
        if chain.is_empty() || !chain.iter().all(is_readable) {
            telemetry::crl_untracked(self.reporter);
        }
        Standing(Some(Arc::new(Peer {
            revocation: Arc::clone(&self.revocation),
            reporter: self.reporter,
            since: self.since.clone(),
            chain: chain.iter().map(|der| der.clone().into_owned()).collect(),
            anchors: Arc::clone(anchors),
            outer: Self::NOWHERE,
        })))
    }

    const NOWHERE: Standing = Standing(None);
}

/// Whether the peer of a connection is still to be trusted. Always, where no lists are kept. Clones are
/// cheap.
#[derive(Debug, Clone, Default)]
pub struct Standing(Option<Arc<Peer>>);

#[derive(Debug, Clone)]
struct Peer {
    revocation: Arc<Revocation>,
    reporter: Reporter,
    since: watch::Receiver<Arc<Lists>>,
    chain: Vec<CertificateDer<'static>>,
    anchors: Arc<RootCertStore>,
    outer: Standing,
}

impl Standing {
    /// Of a connection that is inside of another.
    #[must_use]
    pub fn within(self, outer: Self) -> Self {
        match self.0 {
            Some(peer) => Self(Some(Arc::new(Peer { outer, ..Arc::unwrap_or_clone(peer) }))),
            None => outer,
        }
    }

    /// By the lists in force now: the peer, and those of the connections that this one is inside of.
    ///
    /// # Errors
    /// [`Revoked`].
    pub fn check(&self) -> Result<(), Revoked> {
        let Some(peer) = &self.0 else { return Ok(()) };
        peer.check()?;
        peer.outer.check()
    }

    /// Resolves when lists that came after the handshake had begun revoke a certificate of the peer.
    /// That is counted: a tunnel asks once. Cancel safe.
    pub fn revoked(&self) -> impl Future<Output = Revoked> + Send + use<> {
        let peer = self.0.clone();
        async move {
            let Some(peer) = peer else { return pending().await };
            let mut lists = peer.since.clone();
            // The sender is the peer's own: it cannot be gone.
            while lists.changed().await.is_ok() {
                if let Err(revoked) = peer.check() {
                    rejected(peer.reporter);
                    return revoked;
                }
            }
            pending().await
        }
    }
}

impl Peer {
    fn check(&self) -> Result<(), Revoked> {
        self.revocation.check(&self.chain, &self.anchors)
    }
}
