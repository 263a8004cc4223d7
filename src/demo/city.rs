//! Everything that runs in the demo: applications, their ztunnels, the waypoint.

use super::apps::{App, Apps};
use crate::{
    app::{AppError, MeshSource, OwnCertificate, Running, WaypointOptions, start_waypoint},
    cert::{DevCa, MultiCertSource},
    control::manifest::{self, load},
    model::{Mesh, Name, ResourceName, Workload},
    runtime::{DrainTrigger, Readiness, Workers, drain},
    settings::{AdminListeners, ListenAddress, ProcessArgs},
    state::{NodeCompiler, Own},
    telemetry::{AccessLog, AccessLogFormat, AccessLogMode, Record, log::LogHandle},
    transport::listener::{self, ListenOptions},
    waypoint,
    ztunnel::{self, Listeners, Local, Ztunnel},
};
use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::sync::mpsc;

const TRUST_DOMAIN: &str = "cluster.local";
const ROOT_NAMESPACE: &str = "istio-system";
const CLUSTER_DOMAIN: &str = "cluster.local";
const HBONE: u16 = 15008;
const SOCKS5: u16 = 15080;
const DAY: Duration = Duration::from_secs(24 * 3600);

/// The running mesh.
#[derive(Debug)]
pub(super) struct City {
    /// Where the manifests are.
    pub(super) manifests: PathBuf,
    /// The waypoint's process.
    pub(super) waypoint: Running,
    /// What the waypoint recorded.
    pub(super) records: mpsc::Receiver<Record>,
    /// SOCKS5 of the client workload.
    pub(super) socks5: SocketAddr,
    /// The client workload.
    pub(super) client: Arc<Workload>,
    /// All workloads by address.
    pub(super) workloads: BTreeMap<IpAddr, Arc<Workload>>,
    ztunnels: DrainTrigger,
    _apps: Apps,
}

impl City {
    /// Starts everything; nothing is left running when that fails.
    pub(super) fn start(manifests: &Path, scratch: &Path, log: LogHandle) -> Result<Self, AppError> {
        let loaded = load(source(manifests));
        let mesh = loaded.mesh;
        let gateway = mesh.waypoints.keys().next().cloned().ok_or_else(|| wrong("no waypoint among the manifests"))?;
        let certs = certificates(&mesh, scratch)?;
        let client = mesh.workloads.values().find(|w| &*w.canonical_name == "curl").cloned();
        let client = client.ok_or_else(|| wrong("no workload called curl among the manifests"))?;
        let socks5 = SocketAddr::new(address(&client)?, SOCKS5);
        let (access, records) = AccessLog::capture();
        let waypoint = start(&mesh, &gateway, manifests, scratch, access, log)?;
        let (ztunnels, apps) = nodes(&mesh, manifests, certs)?;
        let workloads = mesh.workloads.values().flat_map(|w| w.addresses.iter().map(|a| (*a, w.clone()))).collect();
        Ok(Self { manifests: manifests.to_owned(), waypoint, records, socks5, client, workloads, ztunnels, _apps: apps })
    }

    /// Drains the waypoint and the ztunnels.
    pub(super) async fn stop(self) {
        self.ztunnels.start();
        self.waypoint.shutdown().await;
        if tokio::time::timeout(Duration::from_secs(2), self.ztunnels.drained()).await.is_err() {
            self.ztunnels.force();
        }
    }
}

fn wrong(text: &str) -> AppError {
    AppError::Config(anyhow::anyhow!(text.to_owned()))
}

fn source(manifests: &Path) -> manifest::Config {
    manifest::Config {
        paths: vec![manifests.to_owned()],
        cluster_domain: CLUSTER_DOMAIN.into(),
        trust_domain: TRUST_DOMAIN.into(),
        root_namespace: ROOT_NAMESPACE.into(),
        lenient: false,
    }
}

fn address(workload: &Workload) -> Result<IpAddr, AppError> {
    workload.addresses.first().copied().ok_or_else(|| wrong(&format!("{} has no address", workload.name)))
}

fn certificates(mesh: &Mesh, scratch: &Path) -> Result<Arc<MultiCertSource>, AppError> {
    let mut identities: Vec<_> = mesh.workloads.values().map(|w| w.identity.clone()).collect();
    identities.sort();
    identities.dedup();
    let directory = scratch.join("certs");
    DevCa::write_directory(&directory, TRUST_DOMAIN, &identities, DAY).map_err(|e| AppError::Run(e.into()))?;
    Ok(Arc::new(MultiCertSource::from_dir_tree(&directory).map_err(|e| AppError::Run(e.into()))?))
}

fn start(
    mesh: &Mesh,
    gateway: &ResourceName,
    manifests: &Path,
    scratch: &Path,
    access: AccessLog,
    log: LogHandle,
) -> Result<Running, AppError> {
    let pod = mesh.workloads.values().find(|w| w.gateway.as_ref() == Some(&gateway.name) && w.namespace == gateway.namespace);
    let pod = pod.ok_or_else(|| wrong(&format!("no pod of Gateway {gateway} among the manifests")))?;
    let ip = address(pod)?;
    let at = |port| ListenAddress::At(SocketAddr::new(ip, port));
    let identity_dir = scratch.join("certs").join(pod.identity.namespace()).join(pod.identity.service_account());
    let process = ProcessArgs {
        identity_dir: None,
        drain_deadline: Duration::from_secs(5),
        access_log: AccessLogMode::All,
        access_log_format: AccessLogFormat::Text,
        log: None,
        log_json: false,
        worker_threads: None,
        bound_addresses: None,
    };
    let options = WaypointOptions {
        gateway: gateway.clone(),
        mesh: source(manifests).into(),
        certificate: OwnCertificate::directory(identity_dir),
        process,
        hbone_address: SocketAddr::new(ip, HBONE),
        admin: AdminListeners { metrics_address: at(15020), readiness_address: at(15021), admin_address: at(15000) },
        config: waypoint::Config::default(),
    };
    start_waypoint(options, access, log)
}

/// One ztunnel for each workload with an application or a client; those of a node share what they
/// know of the mesh, as the pods of a node will.
fn nodes(mesh: &Mesh, manifests: &Path, certs: Arc<MultiCertSource>) -> Result<(DrainTrigger, Apps), AppError> {
    let (trigger, watch) = drain::new();
    let mut apps = Apps::default();
    let mut nodes: BTreeMap<Name, Vec<Arc<Workload>>> = BTreeMap::new();
    for workload in mesh.workloads.values().filter(|w| w.gateway.is_none()) {
        nodes.entry(workload.node.clone()).or_default().push(workload.clone());
    }
    for workloads in nodes.into_values() {
        let own = Own::Workloads(workloads.iter().map(|w| w.uid.clone()).collect());
        let opened = MeshSource::open(source(manifests))?.follow(NodeCompiler::new(own, ROOT_NAMESPACE), &watch, Readiness::new());
        for workload in workloads {
            let ip = address(&workload)?;
            let bind = |port: u16| {
                let at = SocketAddr::new(ip, port);
                listener::bind(at, ListenOptions::default()).map_err(|e| AppError::Run(anyhow::anyhow!("cannot listen on {at}: {e}")))
            };
            let listeners = Listeners { inbound: Some(bind(HBONE)?), socks5: Some(bind(SOCKS5)?), ..Listeners::default() };
            if let Some(app) = App::of(&workload) {
                apps.start(app, SocketAddr::new(ip, 9080), SocketAddr::new(ip, SOCKS5))?;
            }
            let mut config = ztunnel::Config::default();
            // In a pod's own network namespace this is so by itself.
            config.hbone.source_address = Some(ip);
            let (workers, local) = (Workers::current(), Local::from(&*workload));
            let ztunnel = Ztunnel::new(Arc::new(config), local, certs.clone(), opened.handle.clone(), workers.clone(), AccessLog::off());
            tokio::spawn(ztunnel.serve(listeners, workers.for_connection(), watch.clone()));
        }
    }
    Ok((trigger, apps))
}
