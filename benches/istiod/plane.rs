//! The control plane, in this process but on a thread that everything else comes before: in a cluster
//! it has a machine of its own.

use super::site::Site;
use cairn::{
    demo::control_plane::{ControlPlane, Kind, Options},
    state::Change,
};
use std::{path::PathBuf, sync::Arc, time::Duration};
use tokio::{runtime::Runtime, time::Instant};

pub const TOKEN: &str = "a-token";
const PATIENCE: Duration = Duration::from_secs(120);

pub struct Plane {
    runtime: Runtime,
    control: Arc<ControlPlane>,
    roots: PathBuf,
}

impl Plane {
    pub fn start(site: &Site, name: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .on_thread_start(|| rustix::process::setpriority_process(None, 19).expect("everyone may come last"))
            .build()
            .unwrap();
        let control = runtime.block_on(ControlPlane::start(Options::new("127.0.0.1:0".parse().unwrap(), TOKEN))).unwrap();
        let roots = site.write(&format!("{name}-roots.pem"), control.server_roots());
        Self { runtime, control: Arc::new(control), roots }
    }

    pub fn address(&self) -> String {
        self.control.address().to_string()
    }

    /// Who has signed its certificate, PEM.
    pub fn roots(&self) -> &PathBuf {
        &self.roots
    }

    /// Changes the mesh; returns when everybody has been told.
    pub fn apply(&self, changes: Vec<Change>) {
        let control = self.control.clone();
        self.runtime.block_on(self.runtime.spawn(async move { control.apply(changes) })).unwrap();
    }

    /// Changes the mesh and waits for the next ACK; the time between. What it takes to encode the
    /// change is not in it.
    pub fn push(&self, changes: Vec<Change>) -> Duration {
        let before = self.acks();
        self.apply(changes);
        let start = Instant::now();
        self.acknowledged(before + 1);
        start.elapsed()
    }

    /// Has the proxy connect again. Its names and versions are more than a request carries, so all of
    /// the mesh is told again; returns when it has been taken.
    pub fn tell_again(&self) -> Duration {
        let before = self.acks();
        let start = Instant::now();
        self.control.drop_connections();
        self.acknowledged(before + 1);
        start.elapsed()
    }

    /// Responses with addresses that were taken so far.
    pub fn acks(&self) -> usize {
        self.control.observed().acks(Kind::Address)
    }

    fn acknowledged(&self, count: usize) {
        let acknowledged = self.control.until(|observed| observed.acks(Kind::Address) >= count);
        let in_time = self.runtime.block_on(async { tokio::time::timeout(PATIENCE, acknowledged).await });
        assert!(in_time.is_ok(), "no ACK: {:?}", self.control.observed().nacks());
    }
}
