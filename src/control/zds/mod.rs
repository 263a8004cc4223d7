//! ZDS: the CNI plugin of the node says which pods are served, and passes their network namespaces
//! (contract, 4.1 to 4.4).
//!
//! ```text
//! CNI listens, we connect ── ZdsHello ──▸
//!                         ◂── Add | Keep | Del ── Ack ──▸ …    the pods it knows
//!                         ◂── SnapshotSent ────── Ack ──▸      whoever was not named is stopped
//!                         ◂── Add | Del ───────── Ack ──▸ …    for as long as the connection lasts
//! ```
//!
//! Knows the packets, the order they may come in, and when to connect anew. What it means to serve a
//! pod is behind the trait [`Pods`].

mod client;
mod connection;
mod message;
mod session;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use client::{Client, Config};
pub use session::ProtocolError;

use crate::{model::Name, transport::Netns};
use serde::Serialize;
use std::{future::Future, io, sync::Arc};

/// A pod that is to be served.
#[derive(Debug, Clone)]
pub struct Pod {
    /// Its uid in Kubernetes: by it the CNI names the pod.
    pub uid: Name,
    /// What its workload is found by.
    pub info: PodInfo,
    /// Where its sockets are made.
    pub netns: Arc<Netns>,
}

/// What a pod's workload is found by in the mesh. The trust domain is the mesh's to say.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodInfo {
    /// Its name.
    pub name: Name,
    /// Its namespace.
    pub namespace: Name,
    /// The service account that it runs as.
    pub service_account: Name,
}

/// The pods of the node, as the CNI speaks of them. Calls come one after the other, each after
/// [`connected`](Self::connected) until [`disconnected`](Self::disconnected).
pub trait Pods: Send {
    /// A new connection: what the CNI has said on an earlier one counts no longer, but proxies run
    /// on.
    fn connected(&mut self);

    /// The connection has ended. Proxies run on.
    fn disconnected(&mut self);

    /// A pod is to be served, from the end of the future on. A pod that is served already in the same
    /// namespace stays as it is.
    ///
    /// # Errors
    /// Why it cannot be served. It is then [pending](Self::has_pending).
    fn add(&mut self, pod: Pod) -> impl Future<Output = io::Result<()>> + Send;

    /// A pod belongs to the snapshot, and nothing about it has changed.
    fn keep(&mut self, uid: &Name);

    /// A pod does not belong to the snapshot that is being sent.
    fn forget(&mut self, uid: &Name);

    /// A pod is gone. It may be one that nobody knows.
    fn remove(&mut self, uid: &Name);

    /// The snapshot is complete: pods that were neither added nor kept since the connection was made
    /// are gone.
    fn snapshot_complete(&mut self);

    /// Whether there are pods that could not be served when they were added.
    fn has_pending(&self) -> bool;

    /// Tries again to serve them.
    fn retry(&mut self) -> impl Future<Output = ()> + Send;
}
