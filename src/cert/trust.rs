//! Which roots hold for all certificates that come from one CA
//! (docs/decisions/0013-roots-of-one-ca-hold-for-all.md).

use crate::transport::{CertError, WorkloadCert, tls::Fingerprint};
use rustls::pki_types::CertificateDer;
use std::{
    collections::{BTreeMap, BTreeSet},
    future::pending,
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

/// How many roots are kept beside those of the newest answer. A rotation has one or two; only a CA
/// that is out of its mind would come with a new one each time.
const MAX_EARLIER: usize = 32;

/// The roots of the CA's newest answer, and those of earlier answers until the last certificate has
/// expired that came with them, or would have, had it lived as long as was asked for.
#[derive(Debug)]
pub(super) struct Trust {
    /// How long a root holds at most that has not come again: a CA may give more time than was asked for.
    longest: Duration,
    known: watch::Sender<Known>,
}

/// Tells of changes.
pub(super) type Changes = watch::Receiver<Known>;

/// By fingerprint, so that the same roots are always the same list.
#[derive(Debug, Default)]
pub(super) struct Known {
    roots: BTreeMap<Fingerprint, Root>,
    newest: BTreeSet<Fingerprint>,
}

#[derive(Debug)]
struct Root {
    der: CertificateDer<'static>,
    /// When it holds no longer, if it is not among the newest.
    until: Instant,
}

impl Trust {
    /// For certificates that are asked to live for `longest`.
    pub(super) fn new(longest: Duration) -> Self {
        Self { longest, known: watch::Sender::new(Known::default()) }
    }

    /// Takes in the roots of an answer whose certificate is good until then, or until the time is over
    /// that was asked for.
    pub(super) fn learn(&self, roots: &[CertificateDer<'static>], until: Instant) {
        let until = Instant::now().checked_add(self.longest).map_or(until, |longest| until.min(longest));
        self.change(|known| {
            known.newest = roots.iter().map(Fingerprint::of).collect();
            for der in roots {
                let root = known.roots.entry(Fingerprint::of(der)).or_insert_with(|| Root { der: der.clone(), until });
                root.until = root.until.max(until);
            }
        });
    }

    /// The certificate of an answer with the roots that came with it and those that hold: what it is
    /// to be judged by before its own hold for others.
    ///
    /// # Errors
    /// As for [`WorkloadCert::with_anchors`].
    pub(super) fn join(&self, cert: &WorkloadCert) -> Result<WorkloadCert, CertError> {
        self.change(|_| {});
        let mut anchors = cert.anchors().to_vec();
        anchors.extend(self.known.borrow().list().into_iter().filter(|root| !cert.anchors().contains(root)));
        cert.with_anchors(anchors)
    }

    /// The certificate with the roots that hold; the very same, if it has them.
    ///
    /// # Errors
    /// As for [`WorkloadCert::with_anchors`].
    pub(super) fn apply(&self, cert: &Arc<WorkloadCert>) -> Result<Arc<WorkloadCert>, CertError> {
        self.change(|_| {});
        let list = self.known.borrow().list();
        if list == cert.anchors() { Ok(cert.clone()) } else { cert.with_anchors(list).map(Arc::new) }
    }

    /// For [`changed`](Self::changed).
    pub(super) fn subscribe(&self) -> Changes {
        self.known.subscribe()
    }

    /// Resolves after other roots hold than `changes` has seen. Cancel safe.
    pub(super) async fn changed(&self, changes: &mut Changes) {
        loop {
            let end = changes.borrow().next_end();
            let ended = async {
                match end {
                    Some(end) => sleep_until(end).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                // The sender is ours.
                _ = changes.changed() => return,
                () = ended => self.change(|_| {}),
            }
        }
    }

    /// Makes a change, and leaves out what does not hold any more.
    fn change(&self, change: impl FnOnce(&mut Known)) {
        self.known.send_if_modified(|known| {
            let before = (known.fingerprints(), known.newest.clone());
            change(known);
            known.prune(Instant::now());
            let after = known.fingerprints();
            if before.0 != after {
                let (new, gone): (Vec<_>, Vec<_>) = (after.difference(&before.0).collect(), before.0.difference(&after).collect());
                tracing::info!(roots = ?after, ?new, ?gone, "the trusted roots have changed");
            }
            before != (after, known.newest.clone())
        });
    }
}

impl Known {
    fn fingerprints(&self) -> BTreeSet<Fingerprint> {
        self.roots.keys().copied().collect()
    }

    fn list(&self) -> Vec<CertificateDer<'static>> {
        self.roots.values().map(|root| root.der.clone()).collect()
    }

    /// Those that hold only until a certain time, the first to end before the others.
    fn earlier(&self) -> Vec<(Instant, Fingerprint)> {
        let earlier = self.roots.iter().filter(|(fingerprint, _)| !self.newest.contains(fingerprint));
        let mut earlier: Vec<_> = earlier.map(|(fingerprint, root)| (root.until, *fingerprint)).collect();
        earlier.sort_unstable();
        earlier
    }

    fn next_end(&self) -> Option<Instant> {
        self.earlier().first().map(|(until, _)| *until)
    }

    fn prune(&mut self, now: Instant) {
        let earlier = self.earlier();
        let too_many = earlier.len().saturating_sub(MAX_EARLIER);
        for (index, (until, fingerprint)) in earlier.into_iter().enumerate() {
            if until <= now || index < too_many {
                self.roots.remove(&fingerprint);
            }
        }
    }
}

#[cfg(test)]
mod tests;
