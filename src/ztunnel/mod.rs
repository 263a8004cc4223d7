//! The L4 proxy of a workload: what it sends is put into HBONE, what comes for it is taken out and
//! judged by policy. Read `resolve.rs` first.
//!
//! One [`Ztunnel`] is one workload identity. Several may live in a process, each with listeners of
//! its own.

mod admit;
mod connection;
mod inbound;
mod names;
mod outbound;
mod own;
mod plaintext;
mod relay;
mod resolve;
mod socks5;
#[cfg(test)]
mod tests;
mod tracker;

pub use own::OwnPorts;
pub use resolve::{NextHop, Resolved, Source, Tunnel, Unresolved, next_hop};

use crate::{
    hbone,
    model::{Identity, Name},
    runtime::DrainWatch,
    state::{NodeSnapshot, NodeWorkload, SnapshotHandle},
    telemetry::AccessLog,
    transport::{
        Accepted, CertSource, Sockets, listener,
        socket::{Keepalive, canonical},
    },
};
use std::{future::Future, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tracker::{Denied, Tracked, Tracker};

/// What can be set on a ztunnel.
#[derive(Debug, Clone)]
pub struct Config {
    /// Tunnels, both sides.
    pub hbone: hbone::Config,
    /// The domain of the cluster's services, by which short names are completed.
    pub cluster_domain: Name,
    /// Limit for a TCP connect to the workload, or to anything else without HBONE.
    pub connect_timeout: Duration,
    /// With one direction of a connection ended, the other may be idle for so long.
    pub half_open_idle: Duration,
    /// A workload that the mesh does not know yet is waited for so long.
    pub workload_wait: Duration,
    /// A SOCKS5 request must be complete after so long.
    pub socks5_handshake_timeout: Duration,
    /// Connections (tunnels, on 15008) open on a listener at a time; above it new ones wait to be
    /// accepted.
    pub max_connections: usize,
    /// Connect to the workload from the client's address (needs CAP_NET_ADMIN, and rules that lead
    /// the answers back).
    pub preserve_source: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            hbone: hbone::Config::default(),
            cluster_domain: "cluster.local".into(),
            connect_timeout: Duration::from_secs(10),
            half_open_idle: Duration::from_secs(300),
            workload_wait: Duration::from_secs(5),
            socks5_handshake_timeout: Duration::from_secs(10),
            max_connections: 16_384,
            preserve_source: false,
        }
    }
}

/// The workload that is served.
#[derive(Debug, Clone)]
pub struct Local {
    /// Its uid in the mesh, `CLUSTER//Pod/NAMESPACE/NAME`.
    pub uid: Name,
    /// Its identity: the certificate that is presented in both directions.
    pub identity: Identity,
}

/// Where connections come from. What is `None` is not served.
#[derive(Debug, Default)]
pub struct Listeners {
    /// 15008: tunnels from other proxies.
    pub inbound: Option<TcpListener>,
    /// 15006: redirected connections from outside of the mesh.
    pub plaintext: Option<TcpListener>,
    /// 15001: redirected connections from the workload.
    pub outbound: Option<TcpListener>,
    /// 15080: connections from the workload by SOCKS5.
    pub socks5: Option<TcpListener>,
}

impl Listeners {
    fn own_ports(&self) -> OwnPorts {
        let all = [&self.inbound, &self.plaintext, &self.outbound, &self.socks5];
        OwnPorts::new(all.into_iter().flatten().filter_map(|l| l.local_addr().ok()).map(canonical).collect())
    }
}

/// A ztunnel, apart from its listeners. Clones share their tunnels.
#[derive(Debug, Clone)]
pub struct Ztunnel {
    config: Config,
    local: Local,
    certs: Arc<dyn CertSource>,
    mesh: SnapshotHandle<NodeSnapshot>,
    log: AccessLog,
    pool: hbone::Pool,
}

/// What all connections of a ztunnel share.
#[derive(Debug)]
struct Shared {
    config: Config,
    local: Local,
    certs: Arc<dyn CertSource>,
    mesh: SnapshotHandle<NodeSnapshot>,
    log: AccessLog,
    pool: hbone::Pool,
    own: OwnPorts,
    tracker: Arc<Tracker>,
    drain: DrainWatch,
}

impl Ztunnel {
    /// A ztunnel for `local`. The compiler behind `mesh` must know the uid as one of its own:
    /// policies are compiled for no other.
    pub fn new(config: Config, local: Local, certs: Arc<dyn CertSource>, mesh: SnapshotHandle<NodeSnapshot>, log: AccessLog) -> Self {
        let pool = hbone::Pool::new(config.hbone.clone(), certs.clone(), Sockets::default());
        Self { config, local, certs, mesh, log, pool }
    }

    /// Serves the listeners until `drain` is signalled; connections then go on until they are done
    /// or the drain is forced, and are waited for through its guards.
    pub async fn serve(self, listeners: Listeners, drain: DrainWatch) {
        let shared = Arc::new(self.shared(listeners.own_ports(), drain.clone()));
        tokio::spawn(upkeep(shared.clone()));
        let limit = shared.config.max_connections;
        let inbound = |accepted| inbound::tunnel(shared.clone(), accepted);
        let plaintext = |accepted| plaintext::serve(shared.clone(), accepted);
        let outbound = |accepted| outbound::captured(shared.clone(), accepted);
        let socks5 = |accepted| socks5::serve(shared.clone(), accepted);
        tokio::join!(
            accept(listeners.inbound, limit, &drain, inbound),
            accept(listeners.plaintext, limit, &drain, plaintext),
            accept(listeners.outbound, limit, &drain, outbound),
            accept(listeners.socks5, limit, &drain, socks5),
        );
    }

    fn shared(self, own: OwnPorts, drain: DrainWatch) -> Shared {
        let Self { config, local, certs, mesh, log, pool } = self;
        Shared { config, local, certs, mesh, log, pool, own, tracker: Arc::default(), drain }
    }
}

impl Shared {
    /// The snapshot in force and our workload in it; waits a while for a workload that is not known
    /// yet.
    async fn world(&self) -> Option<(Arc<NodeSnapshot>, Arc<NodeWorkload>)> {
        let known = async {
            let mut published = self.mesh.published();
            loop {
                let snapshot = self.mesh.load();
                if let Some(local) = snapshot.local(&self.local.uid).cloned() {
                    return Some((snapshot, local));
                }
                if !published.changed().await {
                    return None;
                }
            }
        };
        tokio::time::timeout(self.config.workload_wait, known).await.ok().flatten()
    }

    /// What `work` yields, unless the deadline of the drain comes first: then it is dropped.
    async fn unless_forced<F: Future>(&self, work: F) -> Option<F::Output> {
        tokio::select! {
            biased;
            () = self.drain.forced() => None,
            done = work => Some(done),
        }
    }

    /// The first judgement of a connection that is already tracked. `last_known` decides if the
    /// mesh has meanwhile lost the workload.
    fn judge(&self, tracked: &Tracked, last_known: &NodeWorkload) -> Result<(), Denied> {
        let now = self.mesh.load();
        let rules = now.local(&self.local.uid).map_or(&last_known.rules, |local| &local.rules);
        tracked.subject().judge(rules)
    }
}

/// Judges open connections anew and closes idle tunnels, for as long as there may be connections.
async fn upkeep(shared: Arc<Shared>) {
    let sweep = async {
        let mut interval = tokio::time::interval((shared.config.hbone.idle_timeout / 4).max(Duration::from_secs(1)));
        loop {
            interval.tick().await;
            shared.pool.sweep();
        }
    };
    shared.unless_forced(async { tokio::join!(tracker::run(shared.clone()), sweep) }).await;
}

/// Has the kernel find out that an idle peer is gone. Without it the connection only lives longer.
fn keep_alive(stream: &TcpStream) {
    if let Err(error) = Keepalive::default().set(stream.into()) {
        tracing::debug!(%error, "no keepalive");
    }
}

/// Accepts until the drain starts; each connection is served in a task that the drain waits for.
async fn accept<F>(listener: Option<TcpListener>, limit: usize, drain: &DrainWatch, serve: impl Fn(Accepted) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let Some(listener) = listener else { return };
    let places = Arc::new(Semaphore::new(limit));
    loop {
        let accepted = async { (places.clone().acquire_owned().await, listener::accept(&listener).await) };
        tokio::select! {
            (place, accepted) = accepted => {
                let (serving, guard) = (serve(accepted), drain.guard());
                tokio::spawn(async move {
                    let _held = (place, guard);
                    serving.await;
                });
            }
            () = drain.signaled() => return,
        }
    }
}
