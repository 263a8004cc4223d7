//! The proxy under test.

use super::{
    mesh::{MANIFESTS, NODE},
    plain,
    plane::{Plane, TOKEN},
    process::Owned,
    site::Site,
};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use std::{
    os::fd::OwnedFd,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};
use tokio::time::Instant;

/// What the binary is started as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Waypoint,
    /// A ztunnel of one workload.
    Dedicated,
    /// A ztunnel of a node, whose CNI has no pod to tell of.
    Shared,
}

impl Mode {
    pub const ALL: [Self; 3] = [Self::Waypoint, Self::Dedicated, Self::Shared];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waypoint => "waypoint",
            Self::Dedicated => "dedicated ztunnel",
            Self::Shared => "shared ztunnel",
        }
    }
}

/// A proxy that is ready.
#[derive(Debug)]
pub struct Proxy {
    pub process: Owned,
    /// From before the exec.
    pub started: Duration,
    _cni: Option<OwnedFd>,
}

const POLL: Duration = Duration::from_millis(1);
const PATIENCE: Duration = Duration::from_secs(120);

impl Proxy {
    pub fn start(mode: Mode, site: &Site, plane: &Plane) -> Self {
        let socket = site.path("zds");
        let cni = (mode == Mode::Shared).then(|| listen(&socket));
        let mut command = Command::new(env!("CARGO_BIN_EXE_cairn"));
        let output = || std::env::var_os("CAIRN_BENCH_VERBOSE").map_or_else(Stdio::null, |_| Stdio::inherit());
        let word = if mode == Mode::Waypoint { "waypoint" } else { "ztunnel" };
        command.arg(word).stdin(Stdio::null()).stdout(Stdio::null()).stderr(output());
        command.env_clear().envs(std::env::vars_os().filter(|(key, _)| key == "PATH"));
        // As the stock manifests have it; certificates are from files, which are not what is measured.
        command.envs([
            ("XDS_ADDRESS", plane.address().as_str()),
            ("AUTH_TOKEN", TOKEN),
            ("CA_ADDRESS", ""),
            ("ISTIO_META_CLUSTER_ID", "Kubernetes"),
            ("TERMINATION_GRACE_PERIOD_SECONDS", "30"),
            ("RUST_LOG", "info"),
            ("POD_NAME", "waypoint"),
            ("POD_NAMESPACE", "bench"),
            ("SERVICE_ACCOUNT", "waypoint"),
            ("INSTANCE_IP", &site.waypoint.ip().to_string()),
            ("NODE_NAME", NODE),
            ("CAIRN_METRICS_ADDRESS", &site.metrics.to_string()),
            ("CAIRN_ADMIN_ADDRESS", "127.0.72.2:0"),
        ]);
        command.env("XDS_ROOT_CA", plane.roots());
        command.args(["--hbone-address", &site.waypoint.to_string(), "--readiness-address", &site.readiness.to_string()]);
        match mode {
            Mode::Waypoint => {
                command.args(["--gateway", "bench/waypoint"]).arg("--identity-dir").arg(site.certs("bench", "waypoint"));
                command.arg("--manifests").arg(site.write("manifests/mesh.yaml", MANIFESTS));
            }
            Mode::Dedicated => {
                command.envs([
                    ("PROXY_MODE", "dedicated"),
                    ("PROXY_WORKLOAD_INFO", "bench/waypoint/waypoint"),
                    ("ENABLE_ORIG_SRC", "false"),
                ]);
                command.args(["--outbound-address", "127.0.72.2:15001", "--plaintext-address", "127.0.72.2:15006"]);
                command.args(["--dns-address", "127.0.72.2:15053"]).arg("--identity-dir").arg(site.path("certs"));
            }
            Mode::Shared => {
                command.env("INPOD_UDS", &socket).arg("--identity-dir").arg(site.path("certs"));
            }
        }
        let start = Instant::now();
        let mut process = Owned(command.spawn().unwrap());
        let cni = cni.map(|listener| enrol(&listener));
        while !plain::get(site.readiness, "/healthz/ready").is_ok_and(|(status, _)| status == 200) {
            assert!(start.elapsed() < PATIENCE, "{} does not become ready", mode.as_str());
            if let Ok(Some(status)) = process.0.try_wait() {
                panic!("{} has ended: {status}; CAIRN_BENCH_VERBOSE=1 shows why", mode.as_str());
            }
            std::thread::sleep(POLL);
        }
        Self { process, started: start.elapsed(), _cni: cni }
    }
}

/// The CNI's side of ZDS (contract, 4).
fn listen(path: &Path) -> OwnedFd {
    let _ = std::fs::remove_file(path);
    let listener = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    rustix::net::bind(&listener, &SocketAddrUnix::new(path).unwrap()).unwrap();
    rustix::net::listen(&listener, 8).unwrap();
    listener
}

/// Tells a ztunnel that there are no pods.
fn enrol(listener: &OwnedFd) -> OwnedFd {
    // WorkloadRequest with SnapshotSent.
    const SNAPSHOT_SENT: [u8; 2] = [3 << 3 | 2, 0];
    let session = rustix::net::accept_with(listener, SocketFlags::CLOEXEC).unwrap();
    let mut packet = [0; 64];
    rustix::net::recv(&session, &mut packet[..], RecvFlags::empty()).unwrap();
    rustix::net::send(&session, &SNAPSHOT_SENT, SendFlags::NOSIGNAL).unwrap();
    rustix::net::recv(&session, &mut packet[..], RecvFlags::empty()).unwrap();
    session
}
