//! From one connection to the next (contract, 4.4).

use super::{
    Pods, ProtocolError,
    connection::Connection,
    session::{End, Failure, Session},
};
use crate::runtime::DrainWatch;
use std::{
    future::Future,
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::time::{Instant, sleep};

/// Where the CNI listens, and how patient we are.
#[derive(Debug, Clone)]
pub struct Config {
    /// The path of its socket.
    pub socket: PathBuf,
    /// A pod that could not be served is tried again after so long.
    pub retry_pods: Duration,
    /// How often to look whether another CNI listens at the path, while the one that we are connected
    /// to lives on.
    pub watch_socket: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { socket: "/var/run/ztunnel/ztunnel.sock".into(), retry_pods: Duration::from_secs(5), watch_socket: Duration::from_secs(1) }
    }
}

/// Connects to the CNI, again and again.
#[derive(Debug, Clone)]
pub struct Client {
    config: Config,
}

/// Until a connection can be made.
const CONNECT: Backoff = Backoff(Duration::from_millis(20));
/// Until a connection is of use.
const HELLO: Backoff = Backoff(Duration::from_millis(5));
const LONGEST: Duration = Duration::from_secs(15);

impl Client {
    /// Does nothing before [`run`](Self::run).
    pub fn new(config: Config) -> Self {
        Self { config }
    }

    /// Has `pods` follow the CNI until the drain starts. Then the connection is closed, so that the
    /// CNI turns to whoever takes over; the pods are left as they are.
    ///
    /// # Errors
    /// When the CNI breaks the protocol: the process must end.
    pub async fn run<P: Pods>(&self, pods: &mut P, drain: &DrainWatch) -> Result<(), ProtocolError> {
        let mut backoff = HELLO;
        while let Some((connection, socket)) = unless_draining(drain, self.connect()).await {
            let since = Instant::now();
            let Some(begun) = unless_draining(drain, Session::begin(connection)).await else { return Ok(()) };
            let ended = match begun {
                Ok(session) => self.session(session, pods, socket, drain).await?,
                Err(error) => {
                    tracing::warn!(%error, "the CNI does not take our hello");
                    Ended::Early
                }
            };
            if since.elapsed() > LONGEST || ended == Ended::Used {
                backoff = HELLO;
            }
            if ended == Ended::Early && unless_draining(drain, sleep(jittered(backoff.wait()))).await.is_none() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Runs a session to its end.
    async fn session<P: Pods>(
        &self,
        mut session: Session,
        pods: &mut P,
        socket: Option<SocketId>,
        drain: &DrainWatch,
    ) -> Result<Ended, ProtocolError> {
        let interrupt = async {
            tokio::select! {
                () = drain.signaled() => {}
                () = self.replaced(socket) => tracing::info!("another CNI listens: turning to it"),
            }
        };
        pods.connected();
        let end = session.run(pods, self.config.retry_pods, interrupt).await;
        pods.disconnected();
        let used = if session.was_used() { Ended::Used } else { Ended::Early };
        match end {
            Ok(End::Interrupted) => Ok(Ended::Used),
            Ok(End::Closed) => {
                tracing::info!("the CNI has closed the connection");
                Ok(used)
            }
            Err(Failure::Io(error)) => {
                tracing::warn!(%error, "the connection to the CNI has failed");
                Ok(used)
            }
            Err(Failure::Unreadable(error)) => {
                tracing::error!(%error, "the CNI has sent what cannot be understood: connecting anew");
                Ok(Ended::Early)
            }
            Err(Failure::Protocol(error)) => Err(error),
        }
    }

    /// Connects as soon as somebody listens.
    async fn connect(&self) -> (Connection, Option<SocketId>) {
        let path = &self.config.socket;
        let mut backoff = CONNECT;
        loop {
            // Looked at before: a socket that is replaced right now is then seen as replaced.
            let socket = SocketId::of(path).await.ok();
            match Connection::open(path) {
                Ok(connection) => {
                    tracing::info!(socket = %path.display(), "connected to the CNI");
                    return (connection, socket);
                }
                Err(error) => {
                    let wait = backoff.wait();
                    tracing::warn!(socket = %path.display(), %error, ?wait, "cannot connect to the CNI");
                    sleep(wait).await;
                }
            }
        }
    }

    /// Ends when the path names another socket than `connected`. A path that names none is no reason
    /// to leave: a CNI that ends takes its socket away and closes the connection by itself.
    async fn replaced(&self, connected: Option<SocketId>) {
        loop {
            sleep(self.config.watch_socket).await;
            if SocketId::of(&self.config.socket).await.is_ok_and(|now| connected != Some(now)) {
                return;
            }
        }
    }
}

/// Whether to connect anew at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// The connection was of use: at once.
    Used,
    /// A CNI that cannot do better would have us connect all the time: after a while.
    Early,
}

/// What tells a socket from a later one at the same path. The time is part of it because a file
/// system gives inodes out again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct SocketId {
    device: u64,
    inode: u64,
    changed: (i64, i64),
}

impl SocketId {
    async fn of(path: &Path) -> io::Result<Self> {
        let file = tokio::fs::metadata(path).await?;
        Ok(Self { device: file.dev(), inode: file.ino(), changed: (file.mtime(), file.mtime_nsec()) })
    }
}

/// Waits that double, up to [`LONGEST`].
#[derive(Debug, Clone, Copy)]
struct Backoff(Duration);

impl Backoff {
    fn wait(&mut self) -> Duration {
        let wait = self.0;
        self.0 = (wait * 2).min(LONGEST);
        wait
    }
}

/// Up to a fifth more or less, so that the proxies of a cluster do not all come at once.
fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(0.8 + 0.4 * fastrand::f64())
}

/// What `work` yields, or `None` once the drain has started.
async fn unless_draining<F: Future>(drain: &DrainWatch, work: F) -> Option<F::Output> {
    tokio::select! {
        biased;
        () = drain.signaled() => None,
        done = work => Some(done),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest() {
        let waits = |mut backoff: Backoff| -> Vec<u128> { (0..14).map(|_| backoff.wait().as_millis()).collect() };
        assert_eq!(waits(CONNECT), [20, 40, 80, 160, 320, 640, 1280, 2560, 5120, 10_240, 15_000, 15_000, 15_000, 15_000]);
        assert_eq!(waits(HELLO), [5, 10, 20, 40, 80, 160, 320, 640, 1280, 2560, 5120, 10_240, 15_000, 15_000]);
    }

    #[test]
    fn the_jitter_is_a_fifth() {
        for _ in 0..1000 {
            let wait = jittered(Duration::from_millis(100)).as_micros();
            assert!((80_000..=120_000).contains(&wait), "{wait}");
        }
    }
}
