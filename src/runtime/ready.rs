//! Readiness: whether the process may receive traffic, and what it waits for if not.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};
use tokio::sync::watch;

/// Ready when nothing is pending: no [`BlockReady`] is held and nothing has failed.
///
/// Clones share one state. A process that registered nothing is ready, so everything that must
/// block is registered before the probe is served.
#[derive(Debug, Clone)]
pub struct Readiness {
    state: Arc<watch::Sender<State>>,
}

/// Blocks readiness until it is dropped.
#[derive(Debug)]
#[must_use = "dropping it says that the thing is ready"]
pub struct BlockReady {
    name: Cow<'static, str>,
    state: Arc<watch::Sender<State>>,
}

#[derive(Debug, Default)]
struct State {
    // Counts, because two parts may bear one name.
    blocked: BTreeMap<Cow<'static, str>, usize>,
    failed: Vec<Cow<'static, str>>,
    notes: BTreeMap<Cow<'static, str>, String>,
}

impl State {
    fn is_ready(&self) -> bool {
        self.blocked.is_empty() && self.failed.is_empty()
    }
}

impl Readiness {
    /// Nothing pending.
    pub fn new() -> Self {
        Self { state: Arc::new(watch::Sender::new(State::default())) }
    }

    /// Blocks until the returned value is dropped.
    pub fn register(&self, name: impl Into<Cow<'static, str>>) -> BlockReady {
        let name = name.into();
        self.state.send_modify(|state| *state.blocked.entry(name.clone()).or_default() += 1);
        BlockReady { name, state: Arc::clone(&self.state) }
    }

    /// Never ready again; `reason` ("draining", say) is listed as pending.
    pub fn fail(&self, reason: impl Into<Cow<'static, str>>) {
        let reason = reason.into();
        self.state.send_if_modified(|state| {
            let new = !state.failed.contains(&reason);
            if new {
                state.failed.push(reason);
            }
            new
        });
    }

    /// What readiness waits for: names in order, each once, failures last. Empty: ready.
    pub fn pending(&self) -> Vec<String> {
        let state = self.state.borrow();
        state.blocked.keys().chain(&state.failed).map(ToString::to_string).collect()
    }

    /// Says something of a part that whoever asks should know, ready or not: that it works with what it
    /// has, and is cut off from where new things come from, say. `None` takes it back.
    pub fn note(&self, name: impl Into<Cow<'static, str>>, note: Option<String>) {
        let name = name.into();
        self.state.send_if_modified(|state| match note {
            Some(note) => state.notes.insert(name, note).is_none(),
            None => state.notes.remove(&name).is_some(),
        });
    }

    /// What parts have to say, by name.
    pub fn notes(&self) -> Vec<String> {
        self.state.borrow().notes.iter().map(|(name, note)| format!("{name}: {note}")).collect()
    }

    /// Whether nothing is pending.
    pub fn is_ready(&self) -> bool {
        self.state.borrow().is_ready()
    }

    /// Waits until nothing is pending; after [`fail`](Self::fail), for ever. Cancel safe.
    pub async fn ready(&self) {
        // `self` holds the sender, so the channel cannot close while we wait.
        let _ = self.state.subscribe().wait_for(State::is_ready).await;
    }
}

impl Default for Readiness {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for BlockReady {
    fn drop(&mut self) {
        self.state.send_modify(|state| {
            if let Some(count) = state.blocked.get_mut(&self.name) {
                *count -= 1;
                if *count == 0 {
                    state.blocked.remove(&self.name);
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[tokio::test]
    async fn ready_when_the_last_block_is_dropped() {
        let readiness = Readiness::new();
        assert!(readiness.is_ready());
        let (a, b, c) = (readiness.register("xds"), readiness.register("listeners"), readiness.register("xds"));
        assert_eq!(readiness.pending(), ["listeners", "xds"]);
        drop((a, b));
        assert_eq!(readiness.pending(), ["xds"]);
        assert!(readiness.ready().now_or_never().is_none());
        drop(c);
        readiness.clone().ready().await;
        assert!(readiness.pending().is_empty());
    }

    #[tokio::test]
    async fn a_failure_is_final() {
        let readiness = Readiness::new();
        let block = readiness.register("xds");
        readiness.fail("draining");
        readiness.fail("draining");
        drop(block);
        assert_eq!(readiness.pending(), ["draining"]);
        assert!(!readiness.is_ready() && readiness.ready().now_or_never().is_none());
    }

    #[tokio::test]
    async fn a_note_hinders_nothing() {
        let readiness = Readiness::new();
        readiness.note("xds", Some("disconnected".into()));
        readiness.note("xds", Some("still disconnected".into()));
        readiness.note("ca", Some("slow".into()));
        assert!(readiness.is_ready());
        assert_eq!(readiness.notes(), ["ca: slow", "xds: still disconnected"]);
        readiness.note("xds", None);
        readiness.note("xds", None);
        assert_eq!(readiness.notes(), ["ca: slow"]);
    }
}
