//! The real binary.

use super::{Client, Net, eventually, manifests, mesh::NS, mesh::TRUST_DOMAIN};
use cairn::{cert::DevCa, model::Identity, transport::WorkloadCert};
use std::{
    collections::BTreeMap,
    io::Read as _,
    net::SocketAddr,
    path::Path,
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::Arc,
    time::Duration,
};

/// The binary under test.
pub fn cairn() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cairn"));
    command.env_remove("RUST_LOG").stdin(Stdio::null());
    command
}

/// A waypoint in a process of its own. It is killed with this value.
#[derive(Debug)]
pub struct Process {
    pub net: Net,
    pub bound: BTreeMap<String, SocketAddr>,
    ca: DevCa,
    child: Child,
    _dir: tempfile::TempDir,
}

impl Process {
    /// Starts `cairn waypoint` with further manifests and arguments, and waits until it listens.
    pub async fn start(manifests: &str, args: &[&str]) -> Self {
        let (net, dir) = (Net::new(), tempfile::tempdir().unwrap());
        let ca = prepare(dir.path(), &net.fill(manifests), net);
        let bound = dir.path().join("bound.json");
        let mut command = waypoint(dir.path());
        command.args(["--hbone-address", &net.addr(3, 0).to_string()]).arg("--bound-addresses").arg(&bound).args(args);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let child = command.spawn().unwrap();
        eventually("the waypoint listens", || std::future::ready(bound.exists())).await;
        let bound = serde_json::from_slice(&std::fs::read(bound).unwrap()).unwrap();
        Self { net, bound, ca, child, _dir: dir }
    }

    /// Where a listener is.
    pub fn address(&self, listener: &str) -> SocketAddr {
        self.bound[listener]
    }

    /// A certificate of this mesh.
    pub fn cert(&self, account: &str) -> Arc<WorkloadCert> {
        let identity = Identity::new(TRUST_DOMAIN, NS, account).unwrap();
        let issued = self.ca.issue(&identity, Duration::from_secs(3600)).unwrap();
        Arc::new(WorkloadCert::from_pem(issued.chain_pem.as_bytes(), issued.key_pem.as_bytes(), issued.roots_pem.as_bytes()).unwrap())
    }

    /// A client that runs as `app/ACCOUNT`.
    pub fn client(&self, account: &str) -> Client {
        let waypoint = Identity::new(TRUST_DOMAIN, NS, "waypoint").unwrap();
        Client::new(self.cert(account), waypoint, self.address("hbone"))
    }

    /// Sends a signal by its name.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// Resident memory, bytes.
    pub fn rss(&self) -> usize {
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", self.child.id())).unwrap();
        let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
        pages * 4096
    }

    /// The answer of a plain HTTP listener: head and body.
    pub async fn ask(&self, listener: &str, path: &str) -> String {
        ask(self.address(listener), path).await
    }

    /// The same, as bytes.
    pub async fn fetch(&self, listener: &str, path: &str) -> Vec<u8> {
        fetch(self.address(listener), path).await
    }

    /// Waits for the end.
    pub async fn exit(&mut self) -> ExitStatus {
        let child = std::sync::Mutex::new(&mut self.child);
        eventually("the process ends", || std::future::ready(child.lock().unwrap().try_wait().unwrap().is_some())).await;
        self.child.wait().unwrap()
    }

    /// What it wrote to standard error, once it has ended.
    pub fn errors(&mut self) -> String {
        let mut text = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        text
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks a plain HTTP/1 server; empty when it does not answer.
pub async fn ask(address: SocketAddr, path: &str) -> String {
    String::from_utf8(fetch(address, path).await).unwrap_or_default()
}

async fn fetch(address: SocketAddr, path: &str) -> Vec<u8> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let Ok(mut io) = tokio::net::TcpStream::connect(address).await else { return Vec::new() };
    let mut answer = Vec::new();
    let _ = io.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes()).await;
    let _ = super::soon("answer", io.read_to_end(&mut answer)).await;
    answer
}

/// `DIR/manifests` and `DIR/certs` of a mesh with the namespace `app` and its waypoint.
pub fn prepare(dir: &Path, manifests: &str, net: Net) -> DevCa {
    let waypoint = Identity::new(TRUST_DOMAIN, NS, "waypoint").unwrap();
    let ca = DevCa::write_directory(&dir.join("certs"), TRUST_DOMAIN, &[waypoint], Duration::from_secs(3600)).unwrap();
    std::fs::create_dir(dir.join("manifests")).unwrap();
    let base = manifests::namespace(NS) + &manifests::waypoint(NS, "all");
    std::fs::write(dir.join("manifests/base.yaml"), net.fill(&base)).unwrap();
    std::fs::write(dir.join("manifests/mesh.yaml"), manifests).unwrap();
    ca
}

/// `cairn waypoint` over what [`prepare`] wrote, on free ports.
pub fn waypoint(dir: &Path) -> Command {
    let mut command = cairn();
    command.args(["waypoint", "--gateway", "app/waypoint", "--manifests"]).arg(dir.join("manifests"));
    command.arg("--identity-dir").arg(dir.join("certs/app/waypoint"));
    for listener in ["--metrics-address", "--readiness-address", "--admin-address"] {
        command.args([listener, "127.0.0.1:0"]);
    }
    command
}

/// Runs a command that is expected to end by itself.
pub async fn run(mut command: Command) -> Output {
    super::soon("the command ends", tokio::task::spawn_blocking(move || command.output())).await.unwrap().unwrap()
}
