//! The threads that carry traffic.
//!
//! A worker is a thread with a runtime of its own. What a tunnel causes stays on the tunnel's worker:
//! no task wakes one on another core, and whatever becomes ready together is done before the sockets
//! are looked at again, so that it leaves in few writes. Where one tunnel brings far more streams
//! than its worker's neighbours have, its new streams go to them (`docs/decisions/0009-workers.md`).

use std::{
    future::Future,
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};
use tokio::{runtime::Handle, sync::oneshot};

/// Streams that a worker may have more than the idlest one before new ones go there: crossing
/// threads costs each request of a stream, so a small difference is not worth it.
const SPREAD: usize = 8;

/// Cores that this process may use, by its CPU affinity and cgroup.
pub fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// A set of workers. Clones share it; its threads end with the last clone and [`Place`], and with
/// them whatever still runs there.
#[derive(Debug, Clone)]
pub struct Workers {
    list: Arc<[Worker]>,
}

#[derive(Debug)]
struct Worker {
    runtime: Handle,
    connections: AtomicUsize,
    streams: AtomicUsize,
    // Its drop ends the thread.
    _thread: Option<oneshot::Sender<()>>,
}

/// A place on a worker, which counts as load until it is dropped, and keeps the workers running.
#[derive(Debug)]
pub struct Place {
    workers: Workers,
    worker: usize,
    kind: Kind,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Connection,
    Stream,
}

impl Workers {
    /// Starts `count` threads, at least one.
    ///
    /// # Errors
    /// When the system allows no more threads or descriptors.
    pub fn start(count: usize) -> io::Result<Self> {
        let list: io::Result<Vec<Worker>> = (0..count.max(1)).map(Worker::start).collect();
        Ok(Self { list: list?.into() })
    }

    /// The runtime of the caller as the only worker.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn current() -> Self {
        Self { list: [Worker::new(Handle::current(), None)].into() }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.list.len()
    }

    /// Their runtimes.
    pub fn runtimes(&self) -> impl Iterator<Item = &Handle> {
        self.list.iter().map(|worker| &worker.runtime)
    }

    /// A place for a connection: where there are fewest.
    pub fn for_connection(&self) -> Place {
        let load = |index: usize| (self.load(index, Kind::Connection), self.load(index, Kind::Stream));
        let best = (0..self.list.len()).min_by_key(|index| load(*index)).unwrap_or_default();
        self.place(best, Kind::Connection)
    }

    /// A place for a stream of a connection at `home`: there, unless it has far more streams than
    /// another worker.
    pub fn for_stream(&self, home: &Place) -> Place {
        let streams = |index: usize| self.load(index, Kind::Stream);
        let idlest = (0..self.list.len()).min_by_key(|index| streams(*index)).unwrap_or_default();
        let best = if streams(home.worker) >= streams(idlest) + SPREAD { idlest } else { home.worker };
        self.place(best, Kind::Stream)
    }

    fn load(&self, worker: usize, kind: Kind) -> usize {
        self.list[worker].counter(kind).load(Ordering::Relaxed)
    }

    fn place(&self, worker: usize, kind: Kind) -> Place {
        self.list[worker].counter(kind).fetch_add(1, Ordering::Relaxed);
        Place { workers: self.clone(), worker, kind }
    }
}

impl Worker {
    fn new(runtime: Handle, thread: Option<oneshot::Sender<()>>) -> Self {
        Self { runtime, connections: AtomicUsize::new(0), streams: AtomicUsize::new(0), _thread: thread }
    }

    fn counter(&self, kind: Kind) -> &AtomicUsize {
        match kind {
            Kind::Connection => &self.connections,
            Kind::Stream => &self.streams,
        }
    }

    fn start(index: usize) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (end, ended) = oneshot::channel::<()>();
        thread::Builder::new().name(format!("cairn-worker-{index}")).spawn(move || {
            // An error is the drop of the other end: the only signal there is.
            let _ = runtime.block_on(ended);
        })?;
        Ok(Self::new(handle, Some(end)))
    }
}

impl Place {
    /// The workers that it is one of.
    pub fn workers(&self) -> &Workers {
        &self.workers
    }

    /// The number of the worker, from 0.
    pub fn worker(&self) -> usize {
        self.worker
    }

    /// Runs a task there, which is given the place to keep.
    pub fn spawn<F>(self, task: impl FnOnce(Self) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let runtime = self.workers.list[self.worker].runtime.clone();
        runtime.spawn(task(self));
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.workers.list[self.worker].counter(self.kind).fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn streams(workers: &Workers, home: &Place, count: usize) -> Vec<Place> {
        (0..count).map(|_| workers.for_stream(home)).collect()
    }

    fn on(places: &[Place], worker: usize) -> usize {
        places.iter().filter(|p| p.worker() == worker).count()
    }

    #[test]
    fn connections_go_round_and_streams_stay_with_them() {
        let workers = Workers::start(3).unwrap();
        let tunnels: Vec<Place> = (0..6).map(|_| workers.for_connection()).collect();
        assert_eq!([0, 1, 2].map(|n| on(&tunnels, n)), [2, 2, 2]);
        let all: Vec<Vec<Place>> = tunnels.iter().map(|tunnel| streams(&workers, tunnel, 3)).collect();
        for (tunnel, streams) in tunnels.iter().zip(&all) {
            assert_eq!(on(streams, tunnel.worker()), 3);
        }
    }

    #[test]
    fn the_streams_of_one_heavy_tunnel_spread() {
        let workers = Workers::start(2).unwrap();
        let tunnel = workers.for_connection();
        for (count, at_home) in [(1, 1), (SPREAD, SPREAD), (SPREAD + 1, SPREAD), (32, 20)] {
            assert_eq!(on(&streams(&workers, &tunnel, count), tunnel.worker()), at_home, "{count} streams");
        }
    }

    #[test]
    fn a_place_counts_until_it_is_dropped() {
        let workers = Workers::start(2).unwrap();
        let first = workers.for_connection();
        let second = workers.for_connection();
        assert_ne!(first.worker(), second.worker());
        let freed = first.worker();
        drop(first);
        assert_eq!(workers.for_connection().worker(), freed);
    }

    #[tokio::test]
    async fn tasks_run_on_the_thread_of_their_place_and_end_with_the_workers() {
        let workers = Workers::start(2).unwrap();
        let place = workers.for_connection();
        let expected = format!("cairn-worker-{}", place.worker());
        let (send, name) = oneshot::channel();
        let (kept, gone) = oneshot::channel::<()>();
        place.spawn(|place| async move {
            drop((send.send(thread::current().name().map(str::to_owned)), place));
            std::future::pending::<()>().await;
            drop(kept);
        });
        assert_eq!(name.await.unwrap().unwrap(), expected);
        drop(workers);
        assert!(gone.await.is_err());
    }

    #[tokio::test]
    async fn the_runtime_of_the_caller_serves_as_one_worker() {
        let workers = Workers::current();
        let tunnel = workers.for_connection();
        assert_eq!((workers.count(), on(&streams(&workers, &tunnel, 100), 0)), (1, 100));
        let (send, done) = oneshot::channel();
        tunnel.spawn(|place| async move { drop((send.send(()), place)) });
        done.await.unwrap();
    }
}
