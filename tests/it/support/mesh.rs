//! A mesh: manifests, certificates, and a waypoint that runs.

use super::{Backend, Client, Net, Peer, manifests};
use cairn::{
    app::{OwnCertificate, Running, WaypointOptions, start_waypoint},
    cert::DevCa,
    control::manifest,
    model::{Identity, ResourceName},
    settings::{AdminListeners, ListenAddress, ProcessArgs},
    telemetry::{AccessLog, AccessLogFormat, AccessLogMode, HttpRecord, MetricsFormat, Record, TcpRecord, log},
    transport::WorkloadCert,
    waypoint,
};
use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};
use tokio::sync::mpsc;

pub const TRUST_DOMAIN: &str = "cluster.local";
/// The namespace of most tests.
pub const NS: &str = "app";

/// What a mesh is made of.
#[derive(Debug)]
pub struct MeshBuilder {
    pub net: Net,
    manifests: String,
    lenient: bool,
    traffic: &'static str,
    drain_deadline: Duration,
    config: waypoint::Config,
}

/// A running mesh. Everything ends with it.
#[derive(Debug)]
pub struct Mesh {
    pub net: Net,
    pub ca: Arc<DevCa>,
    pub waypoint: SocketAddr,
    pub running: Option<Running>,
    pub dir: tempfile::TempDir,
    records: mpsc::Receiver<Record>,
}

impl MeshBuilder {
    /// Namespace `app` with its waypoint at NET.3.
    pub fn new() -> Self {
        let config = waypoint::Config::default();
        Self { net: Net::new(), manifests: String::new(), lenient: false, traffic: "all", drain_deadline: Duration::from_secs(5), config }
    }

    /// Adds manifests; `NET.` stands for the test's network.
    pub fn manifests(mut self, text: impl AsRef<str>) -> Self {
        self.manifests.push_str(text.as_ref());
        self
    }

    /// Starts although manifests are invalid.
    pub fn lenient(mut self) -> Self {
        self.lenient = true;
        self
    }

    /// `istio.io/waypoint-for`
    pub fn traffic(mut self, traffic: &'static str) -> Self {
        self.traffic = traffic;
        self
    }

    /// How long a drain may take.
    pub fn drain_deadline(mut self, deadline: Duration) -> Self {
        self.drain_deadline = deadline;
        self
    }

    /// Changes limits.
    pub fn config(mut self, change: impl FnOnce(&mut waypoint::Config)) -> Self {
        change(&mut self.config);
        self
    }

    /// Starts the waypoint.
    pub fn start(self) -> Mesh {
        let dir = tempfile::tempdir().unwrap();
        let waypoint_id = Identity::new(TRUST_DOMAIN, NS, "waypoint").unwrap();
        let hour = Duration::from_secs(3600);
        let certs = dir.path().join("certs");
        let ca = DevCa::write_directory(&certs, TRUST_DOMAIN, &[waypoint_id], hour).unwrap();
        let base = manifests::namespace(NS) + &manifests::waypoint(NS, self.traffic);
        std::fs::create_dir(dir.path().join("manifests")).unwrap();
        std::fs::write(dir.path().join("manifests/base.yaml"), self.net.fill(&base)).unwrap();
        std::fs::write(dir.path().join("manifests/mesh.yaml"), self.net.fill(&self.manifests)).unwrap();
        let options = WaypointOptions {
            gateway: ResourceName::new(NS, "waypoint"),
            mesh: source(vec![dir.path().join("manifests")], self.lenient).into(),
            certificate: OwnCertificate::directory(certs.join(NS).join("waypoint")),
            process: process(self.drain_deadline),
            hbone_address: self.net.addr(3, 15008),
            admin: admin(),
            config: self.config,
        };
        let (log, records) = AccessLog::capture();
        let running = start_waypoint(options, log, log::init(Some("off"), false)).expect("the waypoint starts");
        let waypoint = running.bound.get("hbone").unwrap();
        Mesh { net: self.net, ca: Arc::new(ca), waypoint, running: Some(running), dir, records }
    }
}

/// Where the manifests are.
pub fn source(paths: Vec<PathBuf>, lenient: bool) -> manifest::Config {
    manifest::Config {
        paths,
        cluster_domain: "cluster.local".into(),
        trust_domain: TRUST_DOMAIN.into(),
        root_namespace: "istio-system".into(),
        lenient,
    }
}

/// Settings of a process under test.
pub fn process(drain_deadline: Duration) -> ProcessArgs {
    ProcessArgs {
        identity_dir: None,
        drain_deadline,
        access_log: AccessLogMode::All,
        access_log_format: AccessLogFormat::Text,
        log: None,
        log_json: false,
        worker_threads: None,
        bound_addresses: None,
    }
}

/// Admin listeners on free ports.
pub fn admin() -> AdminListeners {
    let free = ListenAddress::At("127.0.0.1:0".parse().unwrap());
    AdminListeners { metrics_address: free, readiness_address: free, admin_address: free }
}

impl Mesh {
    /// A certificate of this mesh.
    pub fn cert(&self, ns: &str, account: &str) -> Arc<WorkloadCert> {
        let identity = Identity::new(TRUST_DOMAIN, ns, account).unwrap();
        let issued = self.ca.issue(&identity, Duration::from_secs(3600)).unwrap();
        Arc::new(WorkloadCert::from_pem(issued.chain_pem.as_bytes(), issued.key_pem.as_bytes(), issued.roots_pem.as_bytes()).unwrap())
    }

    /// A client that runs as `app/ACCOUNT`.
    pub fn client(&self, account: &str) -> Client {
        let waypoint = Identity::new(TRUST_DOMAIN, NS, "waypoint").unwrap();
        Client::new(self.cert(NS, account), waypoint, self.waypoint)
    }

    /// A workload's proxy at NET.`ip`, for service account `app/ACCOUNT`.
    pub fn peer(&self, account: &str, ip: u8) -> Peer {
        Peer::start(self.net.addr(ip, 15008), self.cert(NS, account))
    }

    /// An HTTP application with a proxy before it, at NET.`ip`:8080.
    pub fn workload(&self, name: &str, account: &str, ip: u8) -> (Backend, Peer) {
        (Backend::http(self.net.addr(ip, 8080), name), self.peer(account, ip))
    }

    /// Replaces the manifests while the mesh runs.
    pub fn rewrite(&self, text: &str) {
        let path = self.dir.path().join("manifests/mesh.yaml");
        let next = path.with_extension("next");
        std::fs::write(&next, self.net.fill(text)).unwrap();
        std::fs::rename(next, path).unwrap();
    }

    /// The next record of a request.
    pub async fn record(&mut self) -> Box<HttpRecord> {
        loop {
            match super::soon("access log record", self.records.recv()).await.expect("the log is open") {
                Record::Http(record) => return record,
                Record::Tcp(_) => {}
            }
        }
    }

    /// The next record of a connection.
    pub async fn tcp_record(&mut self) -> Box<TcpRecord> {
        loop {
            match super::soon("access log record", self.records.recv()).await.expect("the log is open") {
                Record::Tcp(record) => return record,
                Record::Http(_) => {}
            }
        }
    }

    /// The metrics of this process: all meshes of the test binary together.
    pub fn metrics(&self) -> String {
        cairn::telemetry::install().render(MetricsFormat::Prometheus)
    }
}
