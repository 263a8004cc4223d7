//! The proxies under test: one ztunnel on each node, started as the stock DaemonSet does.

use super::{
    cni::Session,
    plain,
    process::Owned,
    world::{Pod, World},
};
use std::{
    net::SocketAddr,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};
use tokio::time::Instant;

/// What a figure is a figure of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Name {
    Cairn,
    /// What `ZTUNNEL_BIN` names.
    Other,
    /// Pods that are not in the mesh.
    NoProxy,
}

impl Name {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cairn => "cairn",
            Self::Other => "other",
            Self::NoProxy => "no proxy",
        }
    }
}

/// The other ztunnel.
pub fn other() -> Option<PathBuf> {
    std::env::var_os("ZTUNNEL_BIN").filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// Where a proxy's knowledge of the mesh is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mesh {
    /// A file that is read once.
    Fixed,
    /// Manifests that may change, which only cairn reads.
    Manifests,
}

const POLL: Duration = Duration::from_millis(1);
const PATIENCE: Duration = Duration::from_secs(60);

/// Both running ztunnels.
#[derive(Debug)]
pub struct Nodes {
    /// On the node of the client.
    pub client: Ztunnel,
    /// On the node of the server.
    pub server: Ztunnel,
}

#[derive(Debug)]
pub struct Ztunnel {
    pub process: Owned,
    _session: Session,
}

impl Nodes {
    /// Starts both with one pod each; they serve when this returns.
    pub fn start(name: Name, world: &World, mesh: Mesh) -> Self {
        Self {
            client: Ztunnel::start(name, world, mesh, 0, [&world.client]),
            server: Ztunnel::start(name, world, mesh, 1, [&world.server]),
        }
    }

    /// CPU time of both so far.
    pub fn cpu(&self) -> [Duration; 2] {
        [self.client.process.cpu(), self.server.process.cpu()]
    }

    /// Resident memory of both, MiB.
    pub fn rss(&self) -> [f64; 2] {
        [self.client.process.rss(), self.server.process.rss()]
    }

    /// The most that it has been.
    pub fn peak_rss(&self) -> [f64; 2] {
        [self.client.process.peak_rss(), self.server.process.peak_rss()]
    }
}

impl Ztunnel {
    /// Starts the one of node `number` (from 0) with these pods; it serves them when this returns.
    pub fn start<'a>(name: Name, world: &World, mesh: Mesh, number: usize, pods: impl IntoIterator<Item = &'a Pod>) -> Self {
        let (own, cni) = (&world.ztunnels[number], &world.cnis[number]);
        let mut command = match name {
            Name::Cairn => Command::new(env!("CARGO_BIN_EXE_cairn")),
            Name::Other => Command::new(other().expect("looked for before")),
            Name::NoProxy => unreachable!("nothing is started without a proxy"),
        };
        let output = || std::env::var_os("CAIRN_BENCH_VERBOSE").map_or_else(Stdio::null, |_| Stdio::inherit());
        command.args(["proxy", "ztunnel"]).stdin(Stdio::null()).stdout(output()).stderr(output());
        environment(&mut command, own, name);
        command.env("INPOD_UDS", cni.path()).env("CAIRN_IDENTITY_DIR", world.certs_dir());
        match mesh {
            Mesh::Fixed => command.env("LOCAL_XDS_PATH", world.mesh_file()),
            Mesh::Manifests => command.env("CAIRN_MANIFESTS", world.manifests()),
        };
        let mut process = Owned(own.spawn(&mut command));
        let session = cni
            .enrol(pods)
            .unwrap_or_else(|reason| panic!("{} on {}: {reason}; CAIRN_BENCH_VERBOSE=1 shows what it says", name.as_str(), own.node()));
        let readiness = SocketAddr::from(([127, 0, 0, 1], 15021));
        let deadline = Instant::now() + PATIENCE;
        while !own.netns.enter(|| plain::get(readiness, "/healthz/ready")).is_ok_and(|(status, _)| status == 200) {
            assert!(Instant::now() < deadline, "{} does not become ready", name.as_str());
            if let Ok(Some(status)) = process.0.try_wait() {
                panic!("{} has ended: {status}; CAIRN_BENCH_VERBOSE=1 shows why", name.as_str());
            }
            std::thread::sleep(POLL);
        }
        Self { process, _session: session }
    }
}

/// That of the stock DaemonSet (contract, 7), and nothing else for cairn. The other one is kept from
/// looking for a control plane, and signs for itself if it was built with its `testing` feature.
fn environment(command: &mut Command, own: &Pod, name: Name) {
    command.env_clear().envs(std::env::vars_os().filter(|(key, _)| key == "PATH" || key == "MALLOC_CONF" || key == "CAIRN_BENCH_VERBOSE"));
    let istiod = if name == Name::Cairn { "istiod.istio-system.svc:15012" } else { "" };
    let cores = std::thread::available_parallelism().map_or(1, usize::from).to_string();
    command.envs([
        ("CA_ADDRESS", istiod),
        ("XDS_ADDRESS", istiod),
        ("ISTIO_META_CLUSTER_ID", "Kubernetes"),
        ("INPOD_ENABLED", "true"),
        ("TERMINATION_GRACE_PERIOD_SECONDS", "30"),
        ("ISTIO_META_ENABLE_HBONE", "true"),
        ("ZTUNNEL_CPU_LIMIT", &cores),
        ("RUST_LOG", "info"),
        ("POD_NAME", &own.name),
        ("POD_NAMESPACE", "istio-system"),
        ("SERVICE_ACCOUNT", "ztunnel"),
        ("INSTANCE_IP", &own.ip.to_string()),
        ("NODE_NAME", &own.node()),
    ]);
    if name == Name::Other {
        command.env("FAKE_CA", "true");
    }
}
