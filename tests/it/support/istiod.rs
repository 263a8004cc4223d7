//! A control plane that does what it is told, and real processes that live with it: each stands on an
//! address of the test's network as a pod would.

use super::{Net, client::Answer, eventually, manifests, mesh::NS, mesh::TRUST_DOMAIN, process::ask, process::cairn, soon};
use cairn::{
    control::manifest,
    demo::control_plane::{ControlPlane, Kind, Observed, Options, Token},
    model::{self, ResourceKey, Service, Workload},
    state::Change,
};
use http::StatusCode;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use std::{
    fs::{File, OpenOptions},
    io,
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, ExitStatus},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
};

/// What processes show the control plane at first.
pub const TOKEN: &str = "a token of the first minute";

/// The control plane, its mesh and the files by which processes find it.
#[derive(Debug)]
pub struct Istiod {
    pub net: Net,
    pub plane: ControlPlane,
    pub mesh: model::Mesh,
    dir: tempfile::TempDir,
}

impl Istiod {
    /// Namespace `app` with its waypoint at NET.3 and what else is in `text`.
    pub async fn start(text: &str) -> Self {
        Self::with(text, |options| options).await
    }

    /// The same, with other options.
    pub async fn with(text: &str, change: impl FnOnce(Options) -> Options) -> Self {
        let (net, dir) = (Net::new(), tempfile::tempdir().unwrap());
        let plane = ControlPlane::start(change(Options::new(net.addr(200, 15012), TOKEN))).await.unwrap();
        std::fs::write(dir.path().join("root.pem"), plane.server_roots()).unwrap();
        let mut istiod = Self { net, plane, mesh: model::Mesh::default(), dir };
        istiod.write_token(TOKEN);
        let base = manifests::namespace(NS) + &manifests::waypoint(NS, "service");
        istiod.mesh = istiod.read(&(base + text));
        istiod.plane.load(&istiod.mesh);
        istiod
    }

    fn read(&self, text: &str) -> model::Mesh {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("mesh.yaml"), self.net.fill(text)).unwrap();
        manifest::load(super::mesh::source(vec![dir.path().to_owned()], false)).mesh
    }

    /// Replaces the token that processes show from their next call on.
    pub fn write_token(&self, token: &str) {
        self.write("token", token);
    }

    /// Replaces the roots by which processes judge the control plane from their next connection on.
    pub fn write_roots(&self, pem: &str) {
        self.write("root.pem", pem);
    }

    /// Replaces a file as a whole; where it is.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let (path, next) = (self.dir.path().join(name), self.dir.path().join("next"));
        std::fs::write(&next, text).unwrap();
        std::fs::rename(next, &path).unwrap();
        path
    }

    /// Replaces what the waypoint reads from files; the directory.
    pub fn write_manifests(&self, text: &str) -> PathBuf {
        let dir = self.dir.path().join("manifests");
        std::fs::create_dir_all(&dir).unwrap();
        self.write("manifests/mesh.yaml", &self.net.fill(text));
        dir
    }

    /// What the control plane takes from now on.
    pub fn accept_only(&self, token: &str) {
        self.plane.set_tokens(vec![Token { text: token.to_owned(), may_impersonate: true }]);
    }

    /// The file with the token.
    pub fn token(&self) -> PathBuf {
        self.dir.path().join("token")
    }

    /// A workload of the mesh, by name.
    pub fn workload(&self, name: &str) -> Arc<Workload> {
        self.mesh.workloads.values().find(|w| &*w.name == name).unwrap().clone()
    }

    /// A service of the mesh, by name.
    pub fn service(&self, name: &str) -> Arc<Service> {
        self.mesh.services.values().find(|s| &*s.source.name.name == name).unwrap().clone()
    }

    /// Further manifests, and what was there under the same names changed.
    pub fn apply(&mut self, text: &str) -> usize {
        let more = self.read(text);
        self.plane.load(&more)
    }

    /// Replaces a resource.
    pub fn upsert(&self, resource: impl Into<model::Resource>) -> usize {
        self.plane.apply([Change::Upsert(resource.into())])
    }

    /// Takes a workload away.
    pub fn remove(&self, workload: &Workload) -> usize {
        self.plane.apply([Change::Remove(ResourceKey::Workload(workload.uid.clone()))])
    }

    /// Makes a change of this type, in one response to each, and waits until so many have answered it.
    pub async fn in_force(&self, kind: Kind, answers: usize, change: impl FnOnce(&Self) -> usize) {
        let count = |o: &Observed| o.of(kind).filter(|r| r.is_ack() || r.is_nack()).count();
        let before = count(&self.plane.observed());
        assert!(change(self) > 0, "something changes");
        soon("answers to a change", self.plane.wait_for(|o| count(o) >= before + answers)).await;
    }

    /// A dedicated ztunnel for the pod at NET.`ip`.
    pub fn ztunnel(&self, name: &str, account: &str, ip: u8) -> Node {
        self.ztunnel_with(name, account, ip, &[])
    }

    /// The same, with further variables.
    pub fn ztunnel_with(&self, name: &str, account: &str, ip: u8, more: &[(&str, &str)]) -> Node {
        let mut command = self.command(ip);
        command.env("PROXY_MODE", "dedicated").env("PROXY_WORKLOAD_INFO", format!("{NS}/{name}/{account}"));
        command.env("ISTIO_META_DNS_CAPTURE", "false").env("UNSTABLE_ENABLE_SOCKS5", "true").envs(more.iter().copied());
        let at = |port| self.net.addr(ip, port).to_string();
        command.arg("ztunnel").args(["--hbone-address", &at(15008), "--plaintext-address", &at(15006)]);
        command.args(["--outbound-address", &at(15001), "--socks5-address", &at(15080), "--preserve-source=false"]);
        self.spawn(command, name, ip)
    }

    /// The waypoint of namespace `app`, at NET.3.
    pub fn waypoint(&self) -> Node {
        self.waypoint_with(&[], &[])
    }

    /// The same, with further variables and arguments.
    pub fn waypoint_with(&self, more: &[(&str, &str)], args: &[&str]) -> Node {
        let mut command = self.command(3);
        command.envs([("POD_NAME", "waypoint-0"), ("POD_NAMESPACE", NS), ("SERVICE_ACCOUNT", "waypoint"), ("TRUST_DOMAIN", TRUST_DOMAIN)]);
        command.env("INSTANCE_IP", self.net.ip(3).to_string()).envs(more.iter().copied());
        command.args(["waypoint", "--gateway", "app/waypoint", "--hbone-address", &self.net.addr(3, 15008).to_string()]);
        command.args(args);
        self.spawn(command, "waypoint", 3)
    }

    fn command(&self, ip: u8) -> Command {
        let mut command = cairn();
        let address = format!("https://{}", self.plane.address());
        command.env("XDS_ADDRESS", &address).env("CA_ADDRESS", &address).env("AUTH_TOKEN", self.token());
        for root in ["XDS_ROOT_CA", "CA_ROOT_CA"] {
            command.env(root, self.dir.path().join("root.pem"));
        }
        command.env("CAIRN_ADMIN_ADDRESS", self.net.addr(ip, 15000).to_string());
        command.env("CAIRN_METRICS_ADDRESS", self.net.addr(ip, 15020).to_string());
        command.env("RUST_LOG", "info");
        command
    }

    fn spawn(&self, mut command: Command, name: &str, ip: u8) -> Node {
        let at = |port| self.net.addr(ip, port).to_string();
        command.args(["--readiness-address", &at(15021), "--tunnel-source-address", &self.net.ip(ip).to_string()]);
        let log = self.dir.path().join(format!("{name}-{ip}.log"));
        let open = || -> File { OpenOptions::new().create(true).append(true).open(&log).unwrap() };
        command.stdout(open()).stderr(open());
        Node { name: name.to_owned(), net: self.net, ip, child: command.spawn().unwrap(), log }
    }
}

/// A ztunnel or waypoint in a process of its own. It is killed with this value.
#[derive(Debug)]
pub struct Node {
    name: String,
    net: Net,
    ip: u8,
    child: Child,
    log: PathBuf,
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.log();
            eprintln!("---- {} ----\n{}", self.name, log.get(log.len().saturating_sub(4000)..).unwrap_or(&log));
        }
    }
}

impl Node {
    /// Sends a signal by its name.
    pub fn signal(&self, name: &str) {
        assert!(Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status().unwrap().success());
    }

    /// Waits for the end.
    pub async fn exit(&mut self) -> ExitStatus {
        let child = Mutex::new(&mut self.child);
        eventually("it ends", async || child.lock().unwrap().try_wait().unwrap().is_some()).await;
        self.child.wait().unwrap()
    }

    /// What it shows operators: configuration and metrics.
    pub async fn dump(&self) -> String {
        ask(self.net.addr(self.ip, 15000), "/config_dump").await + &ask(self.net.addr(self.ip, 15020), "/metrics").await
    }

    /// Everything that it has written so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Waits until it has written this.
    pub async fn logs(&self, text: &str) {
        eventually(&format!("{} logs {text:?}", self.name), async || self.log().contains(text)).await;
    }

    /// The answer of its readiness probe; empty while it does not listen.
    pub async fn readiness(&self) -> String {
        ask(self.net.addr(self.ip, 15021), "/healthz/ready").await
    }

    pub async fn is_ready(&self) -> bool {
        self.readiness().await.starts_with("HTTP/1.1 200")
    }

    /// Waits until it is ready.
    pub async fn ready(&self) {
        eventually(&format!("{} is ready", self.name), || self.is_ready()).await;
    }

    /// The sum of a metric over all series that contain `labels`.
    pub async fn metric(&self, name: &str, labels: &str) -> f64 {
        let text = ask(self.net.addr(self.ip, 15020), "/metrics").await;
        let lines =
            text.lines().filter_map(|line| line.strip_prefix(name)).filter(|rest| rest.starts_with(['{', ' ']) && rest.contains(labels));
        lines.filter_map(|rest| rest.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
    }

    /// One request through this ztunnel's SOCKS5, on a connection of its own.
    pub async fn get(&self, to: SocketAddr) -> io::Result<Answer> {
        get(self.net.addr(self.ip, 15080), to).await
    }

    /// The same, for a path.
    pub async fn get_path(&self, to: SocketAddr, path: &str) -> io::Result<Answer> {
        request(self.net.addr(self.ip, 15080), to, path).await
    }

    /// A connection through this ztunnel's SOCKS5.
    pub async fn open(&self, to: SocketAddr) -> io::Result<TcpStream> {
        soon("a connection through a ztunnel", through(self.net.addr(self.ip, 15080), to)).await
    }

    /// Requests without end, on `tasks` connections at a time.
    pub fn load(&self, to: SocketAddr, tasks: usize) -> Load {
        Load::start(self.net.addr(self.ip, 15080), to, tasks)
    }
}

async fn get(socks5: SocketAddr, to: SocketAddr) -> io::Result<Answer> {
    request(socks5, to, "/").await
}

async fn request(socks5: SocketAddr, to: SocketAddr, path: &str) -> io::Result<Answer> {
    let failed = |error: hyper::Error| io::Error::other(format!("HTTP: {error}"));
    let work = async {
        let io = TokioIo::new(through(socks5, to).await?);
        let (mut send, connection) = http1::handshake(io).await.map_err(failed)?;
        let task = tokio::spawn(connection);
        let response = send.send_request(super::client::get(path)).await.map_err(failed)?;
        let answer = Answer::of(response).await;
        task.abort();
        Ok(answer)
    };
    soon("a request through a ztunnel", work).await
}

async fn through(socks5: SocketAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(socks5).await?;
    let host = to.ip().to_string();
    let mut request = vec![5, 1, 0, 5, 1, 0, 3, u8::try_from(host.len()).unwrap()];
    request.extend_from_slice(host.as_bytes());
    request.extend_from_slice(&to.port().to_be_bytes());
    stream.write_all(&request).await?;
    let mut reply = [0; 12];
    stream.read_exact(&mut reply).await?;
    if reply[3] == 0 { Ok(stream) } else { Err(io::Error::other(format!("SOCKS5 code {}", reply[3]))) }
}

/// Requests one after the other, each on a connection of its own.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    good: Arc<AtomicUsize>,
    bad: Arc<Mutex<Vec<String>>>,
    tasks: JoinSet<()>,
}

impl Load {
    fn start(socks5: SocketAddr, to: SocketAddr, tasks: usize) -> Self {
        let (stop, good, bad): (Arc<AtomicBool>, Arc<AtomicUsize>, Arc<Mutex<Vec<_>>>) = Default::default();
        let mut set = JoinSet::new();
        for _ in 0..tasks {
            let (stop, good, bad) = (stop.clone(), good.clone(), bad.clone());
            set.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    match get(socks5, to).await {
                        Ok(answer) if answer.status == StatusCode::OK => drop(good.fetch_add(1, Ordering::Relaxed)),
                        Ok(answer) => bad.lock().unwrap().push(answer.status.to_string()),
                        Err(error) => bad.lock().unwrap().push(error.to_string()),
                    }
                }
            });
        }
        Self { stop, good, bad, tasks: set }
    }

    /// Waits until so many more have gone well.
    pub async fn more(&self, count: usize) {
        let goal = self.good.load(Ordering::Relaxed) + count;
        eventually("requests go on", async || self.good.load(Ordering::Relaxed) >= goal).await;
    }

    /// Ends it; what went wrong.
    pub async fn stop(mut self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        while self.tasks.join_next().await.is_some() {}
        std::mem::take(&mut self.bad.lock().unwrap())
    }
}

/// Waits until so many responses of both types were taken for good.
pub async fn acked(plane: &ControlPlane, count: usize) {
    let both = |o: &Observed| Kind::ALL.into_iter().all(|kind| o.acks(kind) >= count);
    soon("ACKs of both types", plane.wait_for(both)).await;
}
