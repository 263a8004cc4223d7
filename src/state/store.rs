//! The single writer, and the handle through which everyone reads.

use super::{Change, Delta, Directory};
use crate::model::Resource;
use arc_swap::ArcSwap;
use std::{fmt, sync::Arc};
use tokio::sync::watch;

/// Turns the desired mesh into what one mode reads.
pub trait Compile: Send + 'static {
    /// The compiled form.
    type Snapshot: Send + Sync + 'static;

    /// Compiles what `delta` names, which is everything that may have changed since the last call,
    /// and takes over the rest. The result is the same as if the whole mesh were new. Must not fail:
    /// what cannot be compiled is left out, and a policy that cannot be denies its scope.
    fn compile(&mut self, directory: &Directory, delta: &Delta, version: u64) -> Self::Snapshot;

    /// Whether the resource can ever have an effect, however the rest of the mesh changes. What
    /// cannot is not kept. Must depend on nothing but the resource.
    fn concerns(&self, resource: &Resource) -> bool;
}

/// The desired mesh and its compiler. One task owns it. Applying a batch costs what the batch
/// touches, not what is there.
pub struct Store<C: Compile> {
    directory: Directory,
    compiler: C,
    version: u64,
    handle: SnapshotHandle<C::Snapshot>,
    published: watch::Sender<u64>,
    // Replaced, but perhaps still being read.
    retired: Vec<Arc<C::Snapshot>>,
}

impl<C: Compile> fmt::Debug for Store<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("version", &self.version).finish_non_exhaustive()
    }
}

impl<C: Compile> Store<C> {
    /// A store over an empty mesh, with its snapshot published as version 0.
    pub fn new(mut compiler: C) -> Self {
        let directory = Directory::default();
        let snapshot = compiler.compile(&directory, &Delta::default(), 0);
        let (published, version) = watch::channel(0);
        let handle = SnapshotHandle { current: Arc::new(ArcSwap::from_pointee(snapshot)), version };
        Self { directory, compiler, version: 0, handle, published, retired: Vec::new() }
    }

    /// Applies a batch and publishes one new snapshot; an empty batch publishes nothing.
    pub fn apply(&mut self, changes: impl IntoIterator<Item = Change>) -> u64 {
        let mut any = false;
        let mut delta = Delta::default();
        for change in changes {
            any = true;
            match change {
                Change::Upsert(resource) if self.compiler.concerns(&resource) => self.directory.upsert(resource, &mut delta),
                // An earlier version of it may have been of concern.
                Change::Upsert(resource) => self.directory.remove(&resource.key(), &mut delta),
                Change::Remove(key) => self.directory.remove(&key, &mut delta),
            }
        }
        if any {
            self.version += 1;
            let snapshot = self.compiler.compile(&self.directory, &delta, self.version);
            self.retired.push(self.handle.current.swap(Arc::new(snapshot)));
            self.published.send_replace(self.version);
            self.sweep();
        }
        self.version
    }

    /// Frees replaced snapshots that nobody reads any more; whether there are others. Who frees one frees
    /// all that only it knew, fifty thousand workloads perhaps: no thread with traffic should.
    pub fn sweep(&mut self) -> bool {
        self.retired.retain(|snapshot| Arc::strong_count(snapshot) > 1);
        self.has_retired()
    }

    /// Whether there are replaced snapshots that were still being read.
    pub fn has_retired(&self) -> bool {
        !self.retired.is_empty()
    }

    /// What is kept.
    #[cfg(test)]
    pub(super) fn mesh(&self) -> &crate::model::Mesh {
        self.directory.mesh()
    }

    /// A handle to read by.
    pub fn handle(&self) -> SnapshotHandle<C::Snapshot> {
        self.handle.clone()
    }
}

/// Reads the current snapshot. Clones share it.
pub struct SnapshotHandle<S> {
    current: Arc<ArcSwap<S>>,
    version: watch::Receiver<u64>,
}

impl<S> Clone for SnapshotHandle<S> {
    fn clone(&self) -> Self {
        Self { current: self.current.clone(), version: self.version.clone() }
    }
}

impl<S> fmt::Debug for SnapshotHandle<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotHandle").field("version", &*self.version.borrow()).finish_non_exhaustive()
    }
}

impl<S> SnapshotHandle<S> {
    /// The snapshot now in force. Take it once per request: one request sees one world.
    pub fn load(&self) -> Arc<S> {
        self.current.load_full()
    }

    /// Tells when a newer snapshot is published.
    pub fn published(&self) -> Published {
        Published(self.version.clone())
    }
}

/// Waits for snapshots.
#[derive(Debug, Clone)]
pub struct Published(watch::Receiver<u64>);

impl Published {
    /// The version now in force.
    pub fn version(&self) -> u64 {
        *self.0.borrow()
    }

    /// Resolves at the next version that was not seen yet; `false` once the store is gone. Cancel
    /// safe.
    pub async fn changed(&mut self) -> bool {
        self.0.changed().await.is_ok()
    }
}
