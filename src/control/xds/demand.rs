//! Resources that are asked for one by one (contract, 3.2: on demand).
//!
//! A key is subscribed to with the first caller that asks, and all who ask share the answer. A
//! subscription stays: the server goes on telling what becomes of what it has found. What it has not
//! found it need not tell about later (an address that a new pod takes over is news under the pod's name
//! only), so a key that is asked for again after a while is given up and subscribed to anew, which has the
//! server answer again: to a subscription that it has already it says nothing.

use crate::model::{Name, ServiceKey};
use std::{
    collections::HashMap,
    fmt, mem,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

/// For how long an answer is taken for what the server would say now.
const FRESH: Duration = Duration::from_secs(5);
/// So many keys are remembered before those are given up that nothing was found for, or that nobody waits
/// for: clients choose the addresses that they connect to.
const MANY: usize = 16_384;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Key {
    /// Whoever has the address: a workload, or a service by a virtual address.
    Address {
        /// Its network, the proxy's own by its name too; empty when networks have no names.
        network: Name,
        /// The address there.
        address: IpAddr,
    },
    /// A service.
    Hostname(ServiceKey),
    /// A workload by its uid.
    Workload(Name),
}

impl fmt::Display for Key {
    /// As resources are named.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address { network, address } => write!(f, "{network}/{}", address.to_canonical()),
            Self::Hostname(service) => service.fmt(f),
            Self::Workload(uid) => f.write_str(uid),
        }
    }
}

/// Asks the control plane for single resources. Clones ask the same one.
#[derive(Debug, Clone)]
pub struct Demand(Option<Arc<Shared>>);

/// The client's end: what was asked, and where answers go. When it is dropped, nobody answers any more.
#[derive(Debug)]
pub(super) struct Asked(Option<Arc<Shared>>);

/// Changes of subscriptions. Of a message only one of both is filled: a server may take a name that stands
/// in both for one that nothing is meant to happen to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Subscriptions {
    pub(super) subscribe: Vec<Name>,
    pub(super) unsubscribe: Vec<Name>,
}

#[derive(Debug, Default)]
struct Shared {
    keys: Mutex<Keys>,
    asked: Notify,
}

#[derive(Debug, Default)]
struct Keys {
    known: HashMap<Name, State>,
    /// How many were left when keys were given up last.
    left: usize,
    /// Not yet told the server.
    untold: Subscriptions,
    connected: bool,
}

#[derive(Debug)]
enum State {
    /// Callers hold receivers, and wake up when the sender is gone.
    Pending {
        /// Whether something was found when it was answered before, if it was.
        before: Option<bool>,
        done: watch::Sender<()>,
    },
    Answered {
        at: Instant,
        found: bool,
    },
}

/// A pair; without `on` nothing is ever asked.
pub(super) fn new(on: bool) -> (Demand, Asked) {
    let shared = on.then(Arc::<Shared>::default);
    (Demand(shared.clone()), Asked(shared))
}

impl Demand {
    /// Whether resources are told only when they are asked for.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Waits until the control plane has said what it knows of `key`, and that is in force: at once when it
    /// has said so a moment ago, when it has said so before and is away now, and when everything is told
    /// without asking. Has no bound of its own, and never ends when the client is gone: what was not said is
    /// not known. Cancel safe: the answer is then kept for who asks next.
    pub async fn fetch(&self, key: Key) {
        let Some(shared) = &self.0 else { return };
        if let Some(mut answered) = shared.ask(key) {
            // An error is the answer: the sender is gone.
            while answered.changed().await.is_ok() {}
        }
    }
}

impl Demand {
    /// Asks as [`fetch`](Self::fetch) does, and waits for nothing.
    pub fn ask(&self, key: Key) {
        if let Some(shared) = &self.0 {
            drop(shared.ask(key));
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Keys> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What to wait for, if anything.
    fn ask(&self, key: Key) -> Option<watch::Receiver<()>> {
        let name: Name = key.to_string().into();
        let mut keys = self.lock();
        let before = match keys.known.get(&name) {
            Some(State::Pending { done, .. }) => return Some(done.subscribe()),
            Some(State::Answered { at, .. }) if at.elapsed() < FRESH || !keys.connected => return None,
            Some(State::Answered { found, .. }) => Some(*found),
            None => None,
        };
        if keys.known.len() >= MANY.max(2 * keys.left) {
            keys.give_up();
        }
        let (done, answered) = watch::channel(());
        keys.known.insert(name.clone(), State::Pending { before, done });
        if before.is_some() {
            keys.untold.unsubscribe.push(name.clone());
        }
        keys.untold.subscribe.push(name);
        drop(keys);
        self.asked.notify_one();
        Some(answered)
    }
}

impl Subscriptions {
    /// The next message: what is given up before what is asked for.
    fn next(&mut self) -> Option<Self> {
        let next = match (self.unsubscribe.is_empty(), self.subscribe.is_empty()) {
            (false, _) => Self { unsubscribe: mem::take(&mut self.unsubscribe), ..Self::default() },
            (true, false) => mem::take(self),
            (true, true) => return None,
        };
        Some(next)
    }
}

impl Keys {
    /// Forgets what was not found, as long as there is a server to ask again, and without one what nobody
    /// waits for any longer.
    fn give_up(&mut self) {
        let (connected, untold) = (self.connected, &mut self.untold.unsubscribe);
        self.known.retain(|name, state| match state {
            State::Answered { at, found: false } if connected && at.elapsed() >= FRESH => {
                untold.push(name.clone());
                false
            }
            State::Pending { before: None, done } => connected || done.receiver_count() > 0,
            State::Answered { .. } | State::Pending { .. } => true,
        });
        self.left = self.known.len();
    }
}

impl Asked {
    /// Waits for what the server has not been told yet: one message of it. Cancel safe.
    pub(super) async fn changed(&self) -> Subscriptions {
        let Some(shared) = &self.0 else { return std::future::pending().await };
        loop {
            let next = shared.lock().untold.next();
            if let Some(next) = next {
                return next;
            }
            shared.asked.notified().await;
        }
    }

    /// All names to subscribe to on a new stream; none of them is untold any more.
    pub(super) fn all(&self) -> Vec<Name> {
        let Some(shared) = &self.0 else { return Vec::new() };
        let mut keys = shared.lock();
        keys.untold = Subscriptions::default();
        keys.known.keys().cloned().collect()
    }

    /// The server answers.
    pub(super) fn connected(&self) {
        if let Some(shared) = &self.0 {
            shared.lock().connected = true;
        }
    }

    /// The server is away. Whoever asks for what it has answered before gets along with that.
    pub(super) fn disconnected(&self) {
        let Some(shared) = &self.0 else { return };
        let mut keys = shared.lock();
        keys.connected = false;
        for state in keys.known.values_mut() {
            if let State::Pending { before: Some(found), .. } = *state {
                *state = State::Answered { at: Instant::now(), found };
            }
        }
    }

    /// These names are now known, or known not to be.
    pub(super) fn answered(&self, names: &[String], found: bool) {
        let Some(shared) = &self.0 else { return };
        let mut keys = shared.lock();
        for name in names {
            if let Some(state) = keys.known.get_mut(name.as_str()) {
                *state = State::Answered { at: Instant::now(), found };
            }
        }
    }
}

/// A control plane in the hands of a test: it is there, and answers when it is told to.
#[cfg(test)]
#[derive(Debug)]
pub(crate) struct Answers(Asked);

#[cfg(test)]
impl Answers {
    pub(crate) fn new() -> (Demand, Self) {
        let (demand, asked) = new(true);
        asked.connected();
        (demand, Self(asked))
    }

    /// The next names that are asked for.
    pub(crate) async fn asked(&self) -> Vec<Name> {
        self.0.changed().await.subscribe
    }

    /// Answers. What was found must be in force.
    pub(crate) fn answer(&self, name: &str, found: bool) {
        self.0.answered(&[name.to_owned()], found);
    }

    /// The control plane goes away.
    pub(crate) fn cut(&self) {
        self.0.disconnected();
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.disconnected();
    }
}
