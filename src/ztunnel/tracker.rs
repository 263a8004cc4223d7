//! The inbound connections that are open, judged by policy: when they open, and again whenever the
//! mesh changes.

use super::{Config, shared::Shared};
use crate::{
    authz::{Attributes, Reason, Ruleset, Verdict},
    model::Identity,
    telemetry::counters,
};
use std::{
    collections::HashMap,
    fmt,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::sync::watch;

/// A connection as policies see it.
#[derive(Debug, Clone)]
pub(super) struct Subject {
    /// Who the peer is; `None` on plain text.
    pub(super) identity: Option<Identity>,
    /// The peer's address.
    pub(super) source: IpAddr,
    /// Where on the workload it goes.
    pub(super) destination: SocketAddr,
}

/// An event about policy: at INFO when that is asked for, else at DEBUG.
macro_rules! judged {
    ($config:expr, $($what:tt)*) => {
        if $config.log_verdicts {
            tracing::info!(target: "authorization", $($what)*);
        } else {
            tracing::debug!(target: "authorization", $($what)*);
        }
    };
}

/// The judgement that a connection must not be, in ztunnel's words.
#[derive(Debug, Clone)]
pub(super) struct Denied(Reason);

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("policy rejection: ")?;
        match &self.0 {
            Reason::Denied(rule) => write!(f, "explicitly denied by {}", rule.policy),
            Reason::NotAllowed(_) => f.write_str("allow policies exist, but none allowed"),
            Reason::Invalid(policy) => write!(f, "{} is not valid", policy.policy),
            Reason::NoPolicy | Reason::Allowed(_) => f.write_str("denied"),
        }
    }
}

impl Denied {
    /// Writes what has become of the connection, and by which rule or policies.
    pub(super) fn log(&self, config: &Config, subject: &Subject, outcome: &'static str) {
        let Subject { identity, source, destination } = subject;
        let policy = self.0.rule().map(tracing::field::display);
        judged!(config, identity = identity.as_ref().map(tracing::field::display), %source, %destination, policy, reason = %self, "{outcome}");
    }
}

impl Subject {
    /// Judges by the policies of the workload.
    pub(super) fn judge(&self, rules: &Ruleset, config: &Config) -> Result<(), Denied> {
        let Verdict { allowed, reason, dry_run } = rules.check(&self.attributes());
        for rule in dry_run {
            judged!(config, policy = %rule, source = %self.source, destination = %self.destination, "dry run: would be denied");
            counters().authorization_dry_run_denied.increment(1);
        }
        if allowed {
            counters().authorization_allowed.increment(1);
            return Ok(());
        }
        counters().authorization_denied.increment(1);
        Err(Denied(reason))
    }

    fn attributes(&self) -> Attributes<'_> {
        Attributes { identity: self.identity.as_ref(), source_ip: self.source, destination: self.destination, sni: None, http: None }
    }
}

/// All open inbound connections of a workload.
#[derive(Debug, Default)]
pub(super) struct Tracker {
    open: Mutex<HashMap<u64, Arc<Entry>>>,
    next: AtomicU64,
    // What all of them were judged by last.
    judged_by: Mutex<Option<Arc<Ruleset>>>,
}

#[derive(Debug)]
struct Entry {
    subject: Subject,
    denied: watch::Sender<Option<Denied>>,
}

/// A connection in the tracker, for as long as this lives.
#[derive(Debug)]
pub(super) struct Tracked {
    tracker: Arc<Tracker>,
    id: u64,
    entry: Arc<Entry>,
}

impl Tracker {
    /// Adds a connection. It is judged by every snapshot from now on, so the first judgement must
    /// use one that is loaded *after* this call: then no change of policy falls in between.
    pub(super) fn track(self: &Arc<Self>, subject: Subject) -> Tracked {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let entry = Arc::new(Entry { subject, denied: watch::Sender::new(None) });
        lock(&self.open).insert(id, entry.clone());
        Tracked { tracker: self.clone(), id, entry }
    }

    /// How many there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        lock(&self.open).len()
    }

    /// Judges all of them again, unless the rules are those of the last time; those now denied are told
    /// so. Returns how many were judged.
    ///
    /// Rules that have once been replaced never come back, so a connection that was judged by others
    /// when it opened was judged by newer ones.
    fn rejudge(&self, rules: &Arc<Ruleset>) -> usize {
        let before = lock(&self.judged_by).replace(rules.clone());
        if before.is_some_and(|before| Arc::ptr_eq(&before, rules)) {
            return 0;
        }
        // Judged outside of the lock: connections come and go meanwhile.
        let open: Vec<_> = lock(&self.open).values().cloned().collect();
        for entry in &open {
            let verdict = rules.check(&entry.subject.attributes());
            if !verdict.allowed {
                counters().authorization_denied.increment(1);
                entry.denied.send_replace(Some(Denied(verdict.reason)));
            }
        }
        open.len()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Tracked {
    /// What is judged.
    pub(super) fn subject(&self) -> &Subject {
        &self.entry.subject
    }

    /// Resolves when a later snapshot denies the connection. Cancel safe.
    pub(super) async fn denied(&self) -> Denied {
        let mut denied = self.entry.denied.subscribe();
        // `self` holds the sender, so the channel stays open.
        let denied = denied.wait_for(Option::is_some).await.ok().and_then(|d| d.clone());
        denied.expect("the channel is open and holds a judgement")
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        lock(&self.tracker.open).remove(&self.id);
    }
}

/// Judges the open connections by the rules of each new snapshot, until the store is gone. While the mesh does
/// not know the workload, the last judgement stands.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut published = shared.mesh.published();
    // Most snapshots are about somebody else: the rules are then the same copy.
    let mut last = None;
    while published.changed().await {
        if let Some(local) = shared.local.of(&shared.mesh.load())
            && !last.as_ref().is_some_and(|last| Arc::ptr_eq(last, &local.rules))
        {
            shared.tracker.rejudge(&local.rules);
            last = Some(local.rules.clone());
        }
    }
}

#[cfg(test)]
mod tests;
