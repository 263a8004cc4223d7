//! Certificates of many identities, asked for once and kept fresh (contract, 5).

mod care;
mod turns;

use super::{Issuer, trust::Trust};
use crate::{
    model::Identity,
    transport::{CertError, CertFuture, CertSource, ReplacedFuture, WorkloadCert},
};
use care::{Care, State};
use std::{
    collections::HashMap,
    future::ready,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::{runtime::Handle, sync::watch};
use tokio_util::task::AbortOnDropHandle;
use turns::{Priority, Turns};

/// How many certificates are asked for at a time.
const TURNS: usize = 8;

/// Keeps the certificates of identities.
///
/// The first who needs one causes it to be issued; others wait for the same. It is renewed in the
/// background at its half-life. When the issuer fails, it is asked again after a wait that grows to
/// two and a half minutes; a certificate that is still good stays in use meanwhile, and without one
/// callers get the error at once. When all certificates come from one CA, each is used with the roots
/// that hold for all of them, and is given out anew when these change. What is dropped with the keeper are its tasks, not the
/// certificates that were given out.
#[derive(Debug)]
pub struct Keeper {
    issuer: Arc<dyn Issuer>,
    turns: Arc<Turns>,
    trust: Option<Arc<Trust>>,
    runtime: Handle,
    entries: Mutex<HashMap<Identity, Entry>>,
}

#[derive(Debug)]
struct Entry {
    state: watch::Receiver<State>,
    _task: AbortOnDropHandle<()>,
}

/// What a [`Keeper`] has for an identity.
#[derive(Debug, Clone)]
pub struct CertStatus {
    /// Whose.
    pub identity: Identity,
    /// What.
    pub state: CertState,
}

/// The state of an identity's certificate, in the words of `istioctl ztunnel-config certificates`.
#[derive(Debug, Clone)]
pub enum CertState {
    /// It has been asked for.
    Initializing,
    /// It is in use.
    Available(Arc<WorkloadCert>),
    /// There is none, for this reason.
    Unavailable(String),
}

impl Keeper {
    /// Keeps what `issuer` gives. Its tasks run on `runtime`, whichever thread asks.
    pub fn new(issuer: Arc<dyn Issuer>, runtime: Handle) -> Self {
        let trust = issuer.one_authority().map(|longest| Arc::new(Trust::new(longest)));
        Self { issuer, turns: Turns::new(TURNS), trust, runtime, entries: Mutex::default() }
    }

    /// Has a certificate issued that will be needed, after those for which connections wait.
    pub fn prefetch(&self, identity: &Identity) {
        self.entry(&mut self.lock(), identity, Priority::Warmup);
    }

    /// Lets go of an identity that has no workload any more, also while its certificate is being
    /// asked for: who waits for it gets [`CertError::Unknown`], and the tunnels made with it count as
    /// those of a [replaced](CertSource::replaced) certificate.
    pub fn forget(&self, identity: &Identity) {
        let entry = self.lock().remove(identity);
        // Not under the lock: this ends a task.
        drop(entry);
    }

    /// What there is, by identity.
    pub fn list(&self) -> Vec<CertStatus> {
        let status = |(identity, entry): (&Identity, &Entry)| {
            let state = match &*entry.state.borrow() {
                State::Initializing => CertState::Initializing,
                state @ State::Available(cert, _) => match state.answer() {
                    Some(Err(error)) => CertState::Unavailable(error.to_string()),
                    Some(Ok(_)) | None => CertState::Available(cert.clone()),
                },
                State::Unavailable(error) => CertState::Unavailable(care::reason(error)),
            };
            CertStatus { identity: identity.clone(), state }
        };
        let mut list: Vec<_> = self.lock().iter().map(status).collect();
        list.sort_by(|one, other| one.identity.cmp(&other.identity));
        list
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Identity, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn entry<'a>(&self, entries: &'a mut HashMap<Identity, Entry>, identity: &Identity, priority: Priority) -> &'a Entry {
        entries.entry(identity.clone()).or_insert_with(|| {
            let (sender, state) = watch::channel(State::Initializing);
            let care = Care {
                identity: identity.clone(),
                issuer: self.issuer.clone(),
                turns: self.turns.clone(),
                trust: self.trust.clone(),
                state: sender,
            };
            let ticket = self.turns.enqueue(identity, priority);
            Entry { state, _task: AbortOnDropHandle::new(self.runtime.spawn(care.run(ticket))) }
        })
    }
}

impl CertSource for Keeper {
    fn fetch<'a>(&'a self, identity: &'a Identity) -> CertFuture<'a> {
        let mut state = {
            let mut entries = self.lock();
            let entry = self.entry(&mut entries, identity, Priority::RealTime);
            if let Some(answer) = entry.state.borrow().answer() {
                return Box::pin(ready(answer));
            }
            entry.state.clone()
        };
        self.turns.raise(identity, Priority::RealTime);
        Box::pin(async move {
            let answered = state.wait_for(|state| state.answer().is_some()).await;
            let state = answered.map_err(|_| CertError::Unknown(identity.clone()))?;
            state.answer().unwrap_or_else(|| Err(CertError::Unknown(identity.clone())))
        })
    }

    fn replaced<'a>(&'a self, cert: &'a Arc<WorkloadCert>) -> ReplacedFuture<'a> {
        let state = self.lock().get(cert.identity()).map(|entry| entry.state.clone());
        Box::pin(async move {
            // An expired certificate without a successor is no reason to close what is open.
            let is_other = |state: &State| matches!(state, State::Available(other, _) if !Arc::ptr_eq(other, cert));
            if let Some(mut state) = state {
                // Ends as well when the identity is forgotten.
                let _ = state.wait_for(is_other).await;
            }
        })
    }
}

#[cfg(test)]
mod tests;
