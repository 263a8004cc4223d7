//! Which pods of the node are served: what the CNI says of them (`control::zds`) is made true here.
//!
//! ```text
//!           add                    start ok
//! unknown ───────▸ being started ────────────▸ running ── del, not in the snapshot ──▸ stopping ──▸ gone
//!                        │                        ▴                                        ▴
//!                        ▾ start failed           │ retry                                  │
//!                     pending ────────────────────┘             another namespace ─────────┘
//! ```
//!
//! How a pod is served is behind the trait [`StartProxy`].

mod states;
#[cfg(test)]
mod tests;

pub use states::{Connections, InboundConnection, OutboundConnection, PodState, PodStates, ProxyState};

use crate::{
    control::zds::{Client, Pod, Pods, ProtocolError},
    model::Name,
    runtime::{BlockReady, DrainTrigger, DrainWatch, Readiness, drain},
    telemetry::PodCounters,
};
use futures_util::future::join_all;
use states::Book;
use std::{collections::HashSet, fmt, future::Future, io, sync::Arc, time::Duration};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

/// What readiness waits for until all pods of the node are served.
const TASK: &str = "workload proxy manager";

/// Starts the proxy of one pod.
pub trait StartProxy: Send + Sync + 'static {
    /// A proxy that runs.
    type Proxy: RunningProxy;

    /// Serves `pod`: when the future ends, its listeners are bound. The CNI has the pod's containers
    /// wait for that, and itself waits for 5 s and no longer. Dropped before its end, the future
    /// leaves nothing behind.
    ///
    /// The proxy ends with `drain`, and holds a [guard](DrainWatch::guard) until it has: it neither
    /// accepts nor begins anything once the drain has started, says GOAWAY on its tunnels, and lets go
    /// of everything once the drain is forced. A drain that starts and is forced soon after is that of
    /// a pod that is gone.
    ///
    /// # Errors
    /// Why the pod cannot be served; it is then tried again.
    fn start(&self, pod: &Pod, drain: DrainWatch) -> impl Future<Output = io::Result<Self::Proxy>> + Send;
}

/// A proxy that runs.
pub trait RunningProxy: Send + Sync + 'static {
    /// The connections that are open.
    fn connections(&self) -> Connections;
}

/// How patient the enrolment is.
#[derive(Debug, Clone)]
pub struct PodsConfig {
    /// A start that takes longer has failed. Less than the CNI waits, so that it hears of it.
    pub start_limit: Duration,
    /// Between the GOAWAY of a pod that is gone and the end of its connections.
    pub farewell: Duration,
}

impl Default for PodsConfig {
    fn default() -> Self {
        Self { start_limit: Duration::from_secs(4), farewell: Duration::from_millis(100) }
    }
}

/// The pods of the node. Dropping it ends all their proxies at once.
pub struct Enrolment<S: StartProxy> {
    config: PodsConfig,
    starter: S,
    book: Arc<Book<S::Proxy>>,
    // Named since the CNI connected.
    named: HashSet<Name>,
    snapshot: bool,
    readiness: Readiness,
    blocked: Option<BlockReady>,
    stopping: TaskTracker,
}

/// A pod that is served.
struct Running<P> {
    pod: Pod,
    proxy: P,
    drain: DrainTrigger,
}

impl<S: StartProxy> Enrolment<S> {
    /// No pods yet; `readiness` is blocked from now on, until the CNI has named them all and all of
    /// them are served.
    pub fn new(config: PodsConfig, starter: S, readiness: Readiness, counters: PodCounters) -> Self {
        let blocked = Some(readiness.register(TASK));
        let book = Arc::new(Book::new(counters));
        Self { config, starter, book, named: HashSet::new(), snapshot: false, readiness, blocked, stopping: TaskTracker::new() }
    }

    /// Tells which pods there are, for as long as the enrolment lives.
    pub fn states(&self) -> PodStates<S::Proxy> {
        PodStates::new(&self.book)
    }

    /// Follows the CNI until `drain` starts, then drains all pods: their connections go on until they
    /// are done or the drain is forced.
    ///
    /// `drain` waits for it.
    ///
    /// # Errors
    /// When the CNI breaks the protocol. The pods have been stopped; the process must end.
    pub async fn serve(mut self, client: Client, drain: DrainWatch) -> Result<(), ProtocolError> {
        let _guard = drain.guard();
        let done = client.run(&mut self, &drain).await;
        // Nobody tells us of pods any longer; and what is dropped below must not look like a pod that
        // has come to be served.
        self.readiness.fail(TASK);
        if done.is_ok() {
            self.drain(&drain).await;
        }
        done
    }

    /// Drains all pods, until they are done or have been forced.
    async fn drain(&self, drain: &DrainWatch) {
        self.book.start_drains();
        let ended = async {
            while let Some(running) = self.book.any() {
                running.drain.drained().await;
                self.book.ended(&running.pod.uid);
            }
        };
        tokio::pin!(ended);
        tokio::select! {
            () = &mut ended => {}
            () = drain.forced() => {
                self.book.force_drains();
                ended.await;
            }
        }
        self.stopping.close();
        self.stopping.wait().await;
    }

    /// Starts the proxy of a pod and remembers it, as running or as pending.
    async fn start(&self, pod: Pod) -> io::Result<()> {
        let (trigger, watch) = drain::new();
        let started = timeout(self.config.start_limit, self.starter.start(&pod, watch)).await;
        let started = started.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "the start took too long")));
        match started {
            Ok(proxy) => {
                tracing::info!(pod = &*pod.uid, name = &*pod.info.name, namespace = &*pod.info.namespace, "pod enrolled");
                self.book.started(Running { pod, proxy, drain: trigger });
                Ok(())
            }
            Err(error) => {
                tracing::warn!(pod = &*pod.uid, name = &*pod.info.name, namespace = &*pod.info.namespace, %error, "a pod cannot be served yet");
                self.book.failed(pod);
                Err(error)
            }
        }
    }

    /// Ends the proxy of a pod that is gone: its tunnels are told, then everything is let go of.
    fn stop(&self, running: Arc<Running<S::Proxy>>) {
        tracing::info!(pod = &*running.pod.uid, "pod stopped");
        let (farewell, counters) = (self.config.farewell, self.book.counters().clone());
        running.drain.start();
        self.stopping.spawn(async move {
            // An error means that there still are connections.
            let _ = timeout(farewell, running.drain.drained()).await;
            running.drain.force();
            running.drain.drained().await;
            counters.stopped.increment(1);
        });
    }

    /// Blocks readiness or lets it go.
    fn judge_readiness(&mut self) {
        if self.snapshot && !self.has_pending() {
            if self.blocked.take().is_some() {
                tracing::info!(pods = self.book.running(), "all pods of the node are served");
            }
        } else if self.blocked.is_none() {
            self.blocked = Some(self.readiness.register(TASK));
        }
    }
}

impl<S: StartProxy> Pods for Enrolment<S> {
    fn connected(&mut self) {
        self.named.clear();
        self.book.forget_pending();
        self.snapshot = false;
        self.judge_readiness();
    }

    fn disconnected(&mut self) {
        self.snapshot = false;
        self.judge_readiness();
    }

    async fn add(&mut self, pod: Pod) -> io::Result<()> {
        if !self.snapshot {
            self.named.insert(pod.uid.clone());
        }
        let done = match self.book.get(&pod.uid) {
            Some(running) if running.pod.netns.id() == pod.netns.id() => Ok(()),
            Some(_) => {
                self.book.remove(&pod.uid).into_iter().for_each(|old| self.stop(old));
                self.start(pod).await
            }
            None => self.start(pod).await,
        };
        self.judge_readiness();
        done
    }

    fn keep(&mut self, uid: &Name) {
        if self.book.get(uid).is_none() {
            tracing::warn!(pod = &**uid, "the CNI has lost the namespace of a pod that is not served: it stays so until it restarts");
        }
        self.named.insert(uid.clone());
    }

    fn forget(&mut self, uid: &Name) {
        self.named.remove(uid);
        self.book.forget(uid);
        self.judge_readiness();
    }

    fn remove(&mut self, uid: &Name) {
        self.book.forget(uid);
        self.book.remove(uid).into_iter().for_each(|running| self.stop(running));
        self.judge_readiness();
    }

    fn snapshot_complete(&mut self) {
        let named = std::mem::take(&mut self.named);
        for running in self.book.remove_unless(|uid| named.contains(uid)) {
            self.stop(running);
        }
        self.snapshot = true;
        self.judge_readiness();
    }

    fn has_pending(&self) -> bool {
        self.book.pending() > 0
    }

    async fn retry(&mut self) {
        // All at once: the CNI waits for its answers meanwhile. What fails again stays pending, with
        // the reason in the log.
        join_all(self.book.pending_pods().into_iter().map(|pod| self.start(pod))).await;
        self.judge_readiness();
    }
}

impl<S: StartProxy> fmt::Debug for Enrolment<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Enrolment").field("running", &self.book.running()).field("pending", &self.book.pending()).finish_non_exhaustive()
    }
}
