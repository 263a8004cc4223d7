//! What all connections of a proxied workload share, and what is done for them in the background.

use super::{Config, Local, open::OpenConnections, own::OwnPorts, told::Told, tracker};
use crate::{
    control::xds::Demand,
    dns, hbone,
    runtime::{DrainWatch, Place},
    state::{NodeSnapshot, NodeWorkload, SnapshotHandle},
    telemetry::{AccessLog, SocketCounters, TcpSeries},
    transport::{CertSource, Sockets},
};
use std::{future::Future, net::IpAddr, sync::Arc, time::Duration};
use tokio::net::TcpStream;
use tracker::{Denied, Tracked, Tracker};

/// What all connections of a ztunnel share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: Arc<Config>,
    pub(super) local: Local,
    pub(super) certs: Arc<dyn CertSource>,
    pub(super) mesh: SnapshotHandle<NodeSnapshot>,
    // Where the mesh is told of only on demand.
    pub(super) demand: Option<Demand>,
    pub(super) log: AccessLog,
    pub(super) sockets: Sockets,
    // One for each worker: a tunnel's streams stay on its thread.
    pub(super) pools: Box<[hbone::Pool]>,
    pub(super) own: OwnPorts,
    pub(super) tracker: Arc<Tracker>,
    pub(super) open: Arc<OpenConnections>,
    pub(super) counted: SocketCounters,
    pub(super) series: TcpSeries,
    pub(super) names: dns::Resolver,
    pub(super) told: Told,
    pub(super) drain: DrainWatch,
}

impl Shared {
    /// The snapshot in force and our workload in it; waits a while for a workload that is not known
    /// yet.
    pub(super) async fn world(&self) -> Option<(Arc<NodeSnapshot>, Arc<NodeWorkload>)> {
        let snapshot = self.mesh.load();
        if let Some(local) = self.local.of(&snapshot).cloned() {
            return Some((snapshot, local));
        }
        let known = async {
            let mut published = self.mesh.published();
            loop {
                let snapshot = self.mesh.load();
                if let Some(local) = self.local.of(&snapshot).cloned() {
                    return Some((snapshot, local));
                }
                if !published.changed().await {
                    return None;
                }
            }
        };
        tokio::time::timeout(self.config.workload_wait, known).await.ok().flatten()
    }

    /// The tunnels that connections at a place open.
    pub(super) fn pool(&self, place: &Place) -> &hbone::Pool {
        &self.pools[place.worker()]
    }

    /// What `work` yields, unless the deadline of the drain comes first: then it is dropped.
    pub(super) async fn unless_forced<F: Future>(&self, work: F) -> Option<F::Output> {
        tokio::select! {
            biased;
            () = self.drain.forced() => None,
            done = work => Some(done),
        }
    }

    /// The first judgement of a connection that is already tracked. `last_known` decides if the
    /// mesh has meanwhile lost the workload.
    pub(super) fn judge(&self, tracked: &Tracked, last_known: &NodeWorkload) -> Result<(), Denied> {
        let now = self.mesh.load();
        let rules = self.local.of(&now).map_or(&last_known.rules, |local| &local.rules);
        tracked.subject().judge(rules, &self.config)
    }

    /// Has the kernel find out that an idle peer is gone. Without it the connection only lives longer.
    pub(super) fn keep_alive(&self, stream: &TcpStream) {
        if let Err(error) = self.sockets.keep_alive(stream) {
            tracing::debug!(%error, "no keepalive");
        }
    }
}

/// Judges open connections anew, forgets tunnels that lead to nobody and closes idle ones, for as
/// long as there may be connections.
pub(super) async fn upkeep(shared: Arc<Shared>) {
    let sweep = async {
        let mut interval = tokio::time::interval((shared.config.hbone.idle_timeout / 4).max(Duration::from_secs(1)));
        loop {
            interval.tick().await;
            shared.pools.iter().for_each(hbone::Pool::sweep);
        }
    };
    shared.unless_forced(async { tokio::join!(tracker::run(shared.clone()), forget(&shared), sweep) }).await;
}

/// Forgets tunnels whose peer is no longer who it was: the next workload at its address is reached
/// through a tunnel of its own, even if it is of the same identity.
async fn forget(shared: &Shared) {
    let mut published = shared.mesh.published();
    let mut last = shared.mesh.load();
    while published.changed().await {
        let now = shared.mesh.load();
        let is_same = |ip: IpAddr| {
            let who = |snapshot: &NodeSnapshot| snapshot.workload(ip).map(|w| (w.workload.uid.clone(), w.workload.identity.clone()));
            let before = who(&last);
            before.is_none() || before == who(&now)
        };
        let is_kept = |ip: IpAddr| !now.may_have_moved(ip, last.version) || is_same(ip);
        shared.pools.iter().for_each(|pool| pool.retain(|key| is_kept(key.address().ip())));
        last = now;
    }
}
