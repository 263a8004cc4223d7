//! The book of pods: written by the enrolment, read by whoever wants to know.

use super::{Running, RunningProxy};
use crate::{
    control::zds::{Pod, PodInfo},
    model::Name,
    telemetry::PodCounters,
};
use serde::Serialize;
use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

/// A pod, as `/config_dump` shows it under `workloadState`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PodState {
    /// Whether it is served.
    pub state: ProxyState,
    /// What is open; nothing for a pod that is not served.
    pub connections: Connections,
    /// Who it is.
    pub info: PodInfo,
}

/// Whether a pod is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum ProxyState {
    /// It could not be served when it was added, and is tried again.
    Pending,
    /// It is served.
    Up,
}

/// The open connections of a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Connections {
    /// To the pod.
    pub inbound: Vec<InboundConnection>,
    /// From the pod.
    pub outbound: Vec<OutboundConnection>,
}

/// A connection to a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct InboundConnection {
    /// The client.
    pub src: SocketAddr,
    /// The host name of the service that the client has asked for, where it is known.
    pub original_dst: Option<Name>,
    /// Where the connection leads.
    pub actual_dst: SocketAddr,
    /// How it came: `HBONE` or `TCP`.
    pub protocol: Name,
}

/// A connection from a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OutboundConnection {
    /// The pod's socket.
    pub src: SocketAddr,
    /// What the pod has connected to.
    pub original_dst: SocketAddr,
    /// Where the connection leads.
    pub actual_dst: SocketAddr,
    /// How it goes on: `TCP`, `HBONE` or `DOUBLEHBONE`.
    pub protocol: Name,
}

/// Tells which pods there are. Clones tell the same; once the enrolment is gone there are none.
pub struct PodStates<P>(Weak<Book<P>>);

/// Pods by uid. A pod is in one of the lists, never in both.
pub(super) struct Book<P> {
    lists: Mutex<Lists<P>>,
    counters: PodCounters,
}

struct Lists<P> {
    running: BTreeMap<Name, Arc<Running<P>>>,
    pending: BTreeMap<Name, Pod>,
}

impl<P> Book<P> {
    pub(super) fn new(counters: PodCounters) -> Self {
        Self { lists: Mutex::new(Lists { running: BTreeMap::new(), pending: BTreeMap::new() }), counters }
    }

    pub(super) fn counters(&self) -> &PodCounters {
        &self.counters
    }

    pub(super) fn get(&self, uid: &str) -> Option<Arc<Running<P>>> {
        self.read().running.get(uid).cloned()
    }

    pub(super) fn any(&self) -> Option<Arc<Running<P>>> {
        self.read().running.values().next().cloned()
    }

    pub(super) fn running(&self) -> usize {
        self.read().running.len()
    }

    pub(super) fn pending(&self) -> usize {
        self.read().pending.len()
    }

    pub(super) fn pending_pods(&self) -> Vec<Pod> {
        self.read().pending.values().cloned().collect()
    }

    pub(super) fn started(&self, running: Running<P>) {
        self.counters.started.increment(1);
        self.write(|lists| {
            lists.pending.remove(&running.pod.uid);
            lists.running.insert(running.pod.uid.clone(), Arc::new(running));
        });
    }

    pub(super) fn failed(&self, pod: Pod) {
        self.write(|lists| lists.pending.insert(pod.uid.clone(), pod));
    }

    pub(super) fn forget(&self, uid: &str) {
        self.write(|lists| lists.pending.remove(uid));
    }

    pub(super) fn forget_pending(&self) {
        self.write(|lists| lists.pending.clear());
    }

    pub(super) fn remove(&self, uid: &str) -> Option<Arc<Running<P>>> {
        self.write(|lists| lists.running.remove(uid))
    }

    pub(super) fn remove_unless(&self, stays: impl Fn(&Name) -> bool) -> Vec<Arc<Running<P>>> {
        self.write(|lists| lists.running.extract_if(.., |uid, _| !stays(uid)).map(|(_, running)| running).collect())
    }

    /// Starts the drain of every pod.
    pub(super) fn start_drains(&self) {
        self.read().running.values().for_each(|running| running.drain.start());
    }

    /// Forces them.
    pub(super) fn force_drains(&self) {
        self.read().running.values().for_each(|running| running.drain.force());
    }

    /// The drain of a pod has ended.
    pub(super) fn ended(&self, uid: &str) {
        if self.remove(uid).is_some() {
            self.counters.stopped.increment(1);
        }
    }

    fn read(&self) -> MutexGuard<'_, Lists<P>> {
        self.lists.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the lists; the gauges follow.
    fn write<T>(&self, change: impl FnOnce(&mut Lists<P>) -> T) -> T {
        let mut lists = self.read();
        let done = change(&mut lists);
        self.counters.active.set(lists.running.len() as f64);
        self.counters.pending.set(lists.pending.len() as f64);
        done
    }
}

impl<P: RunningProxy> PodStates<P> {
    pub(super) fn new(book: &Arc<Book<P>>) -> Self {
        Self(Arc::downgrade(book))
    }

    /// The pods by uid.
    pub fn all(&self) -> BTreeMap<Name, PodState> {
        let Some(book) = self.0.upgrade() else { return BTreeMap::new() };
        let (running, pending) = {
            let lists = book.read();
            (lists.running.clone(), lists.pending.clone())
        };
        // A proxy is asked while nobody waits for the book.
        let up = running.into_iter().map(|(uid, r)| {
            let state = PodState { state: ProxyState::Up, connections: r.proxy.connections(), info: r.pod.info.clone() };
            (uid, state)
        });
        let waiting = pending.into_iter().map(|(uid, pod)| {
            let state = PodState { state: ProxyState::Pending, connections: Connections::default(), info: pod.info };
            (uid, state)
        });
        up.chain(waiting).collect()
    }
}

impl<P> Clone for PodStates<P> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<P> fmt::Debug for PodStates<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PodStates")
    }
}
