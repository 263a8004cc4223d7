//! `cairn ztunnel`: one process for all pods of a node, or for one workload.

use super::{
    AppError, MeshSource, Process, Running, ZtunnelOptions,
    certificates::Asker,
    control_plane,
    mesh::{Findings, Policies, synced},
    node_dump::{NodeDump, NodeFacts},
    options::{DnsOptions, MeshFrom, Mode, NodeOptions, OwnPod, Shared},
};
use crate::{
    cert::Keeper,
    control::{local, zds},
    dns,
    model::{Identity, Name, Resource, ResourceName, Workload},
    runtime::{DrainWatch, Workers, workers},
    settings::{ListenAddress, PodAddress, WorkloadName, ZtunnelCommand},
    state::{Change, NodeCompiler, NodeSnapshot, Own, SnapshotHandle},
    telemetry::{self, AccessLog, PodCounters, log::LogHandle},
    transport::{Sockets, listener::ListenOptions, netns, sockets::SocketOptions},
    ztunnel::{
        Config, DnsAddress, Enrolment, Listeners, Local, Node, NodeConfig, NodeDns, PodState, PodsConfig, SourcePreservation, Ztunnel,
        follow_identities,
    },
};
use std::{collections::BTreeMap, io, sync::Arc};

/// Runs a ztunnel until it is told to stop.
///
/// # Errors
/// See [`AppError`].
pub async fn ztunnel(command: ZtunnelCommand, log: LogHandle) -> Result<(), AppError> {
    for warning in &command.warnings {
        tracing::warn!("{warning}");
    }
    control_plane::settle_tls(command.control.tls)?;
    let options = ZtunnelOptions::try_from(command)?;
    let access = AccessLog::stdout(options.process.access_log, options.process.access_log_format).map_err(AppError::run)?.governed_by(&log);
    start_ztunnel(options, access, log)?.until_signal().await
}

/// Starts a ztunnel: traffic on threads of its own, everything else in this runtime.
///
/// # Errors
/// When certificates or the mesh cannot be used, the workload is not there, or an address cannot be
/// bound.
pub fn start_ztunnel(options: ZtunnelOptions, access: AccessLog, log: LogHandle) -> Result<Running, AppError> {
    telemetry::install();
    telemetry::component("ztunnel");
    match options.mode.clone() {
        Mode::Shared(shared) => start_shared(options, shared, access, log),
        Mode::Dedicated { workload } => start_dedicated(options, workload, access, log),
    }
}

fn start_shared(options: ZtunnelOptions, shared: Shared, access: AccessLog, log: LogHandle) -> Result<Running, AppError> {
    let (own, shown) = (Own::Node(options.node.name.clone()), options.shown());
    let ZtunnelOptions { mesh, certificates, process, listeners, config, node, .. } = options;
    let cluster_domain = config.cluster_domain.clone();
    if let Some(mark) = node.mark {
        netns::self_test(mark).map_err(AppError::config)?;
    }
    let threads = process.worker_threads.unwrap_or_else(workers::cores);
    let mut process = Process::new(process, access.clone());
    control_plane::follow_revocation(&config.hbone, &process);
    let keeper = certificates.keeper(node.secret_ttl, Asker::Node)?;
    let Mesh { source, root_namespace } = open(mesh, &node, &config)?;
    let mesh = source.follow(compiler(own, &root_namespace, &node), &process.drain(), process.readiness());
    let workers = Workers::start(threads).map_err(AppError::run)?;
    telemetry::report_runtimes(workers.runtimes().cloned());
    tokio::spawn(follow_identities(mesh.handle.clone(), keeper.clone()));
    let sockets = Sockets::new(SocketOptions { reuse_port: shared.port_reuse, ..socket_options(&node) });
    let node_config = NodeConfig {
        sockets,
        source: preservation(&node, SourcePreservation::BestEffort),
        ipv6: node.ipv6,
        socks5: listeners.socks5_address != ListenAddress::Off,
        dns: node.dns.as_ref().map(|dns| node_dns(dns, &node, &cluster_domain)),
        ztunnel: Arc::new(node.apply(config)),
    };
    let pods = Node::new(node_config, keeper.clone(), mesh.handle.clone(), workers, access).with_demand(mesh.demand);
    let enrolment = Enrolment::new(PodsConfig::default(), pods.clone(), process.readiness(), PodCounters::resolve());
    let states = enrolment.states();
    let facts = facts(&node, &root_namespace, cluster_domain.clone(), shown);
    let dump = Dump { facts, mesh: mesh.handle.clone(), policies: mesh.policies, findings: mesh.findings, keeper };
    process.serve_admin(&listeners.admin, log, move || dump.text(Some(&states.all())))?;
    let client = zds::Client::new(zds::Config { socket: shared.socket, ..zds::Config::default() });
    let (drain, failed) = (process.drain(), process.failed());
    tokio::spawn(async move {
        // Nobody is served by what is not known yet (contract, 3.2).
        tokio::select! {
            () = synced(mesh.status) => {}
            () = drain.signaled() => return,
        }
        if let Some(own) = shared.own {
            tokio::spawn(serve_own(pods, own, drain.clone()));
        }
        if let Err(error) = enrolment.serve(client, drain).await {
            // Only one failure can be told; the process ends with it.
            let _ = failed.try_send(anyhow::Error::new(error).context("the CNI broke the protocol"));
        }
    });
    process.started()
}

fn start_dedicated(
    options: ZtunnelOptions,
    workload: Option<WorkloadName>,
    access: AccessLog,
    log: LogHandle,
) -> Result<Running, AppError> {
    let shown = options.shown();
    let ZtunnelOptions { mesh, certificates, process, listeners, config, node, .. } = options;
    let cluster_domain = config.cluster_domain.clone();
    if let Some(mark) = node.mark {
        netns::mark_test(mark).map_err(AppError::config)?;
    }
    let threads = process.worker_threads.unwrap_or_else(workers::cores);
    let mut process = Process::new(process, access.clone());
    control_plane::follow_revocation(&config.hbone, &process);
    let (keeper, only) = (certificates.keeper(node.secret_ttl, Asker::Itself)?, certificates.only_identity()?);
    // With manifests it is a proxy to try things out with, and seldom are there rules that lead the answers back.
    let usual = if matches!(mesh, MeshFrom::Manifests(_)) { SourcePreservation::Off } else { SourcePreservation::BestEffort };
    let is_told_later = matches!(mesh, MeshFrom::ControlPlane(_));
    let Mesh { source, root_namespace } = open(mesh, &node, &config)?;
    let (own, local) = match is_told_later {
        true => named(workload)?,
        false => served(&source, workload.as_ref(), only.as_ref())?,
    };
    let mesh = source.follow(compiler(own, &root_namespace, &node), &process.drain(), process.readiness());
    let sockets = Sockets::new(socket_options(&node));
    let preserve_source = preservation(&node, usual).try_out(&sockets).map_err(not_transparent)?;
    let options = ListenOptions { transparent: preserve_source, ..ListenOptions::default() };
    let bound = Listeners {
        inbound: process.listen_with("hbone", listeners.hbone_address, options)?,
        plaintext: process.listen_with("plaintext", listeners.plaintext_address, options)?,
        outbound: process.listen_with("outbound", listeners.outbound_address, options)?,
        socks5: process.listen("socks5", listeners.socks5_address)?,
        dns: None,
    };
    let bound = bound.detach().map_err(AppError::run)?;
    let facts = facts(&node, &root_namespace, cluster_domain.clone(), shown);
    let dump = Dump { facts, mesh: mesh.handle.clone(), policies: mesh.policies, findings: mesh.findings, keeper: keeper.clone() };
    process.serve_admin(&listeners.admin, log, move || dump.text(None))?;
    let workers = Workers::start(threads).map_err(AppError::run)?;
    telemetry::report_runtimes(workers.runtimes().cloned());
    let config = Arc::new(Config { preserve_source, ..node.apply(config) });
    // Where several share a machine, as with manifests to try out, only one could have the port.
    let dns = node.dns.as_ref().filter(|_| usual != SourcePreservation::Off).map(|dns| node_dns(dns, &node, &cluster_domain));
    let (names, has_ipv6) = (dns.as_ref().map(|dns| (dns.address, sockets.clone())), node.ipv6);
    let ztunnel = Ztunnel::new(config, local, keeper, mesh.handle, workers.clone(), access);
    let mut ztunnel = ztunnel.with_sockets(sockets).with_demand(mesh.demand);
    if let Some(dns) = dns {
        ztunnel = ztunnel.with_dns(own_dns(dns));
    }
    let (drain, guard, failed) = (process.drain(), process.drain().guard(), process.failed());
    let status = mesh.status;
    workers.for_connection().spawn(move |home| async move {
        tokio::select! {
            () = synced(status) => {}
            () = drain.signaled() => return drop(guard),
        }
        // Sockets belong to the runtime that they are made in.
        let names = names.map(|(address, sockets)| address.listen(&sockets, has_ipv6)).transpose();
        match bound.attach().and_then(|listeners| Ok(Listeners { dns: names?, ..listeners })) {
            Ok(listeners) => ztunnel.serve(listeners, home, drain).await,
            Err(error) => drop(failed.try_send(error.into())),
        }
        drop(guard);
    });
    process.started()
}

/// What is known of the mesh at start.
struct Mesh {
    source: MeshSource,
    // Empty where policies say themselves that they are for the whole mesh.
    root_namespace: String,
}

fn open(mesh: MeshFrom, node: &NodeOptions, config: &Config) -> Result<Mesh, AppError> {
    let local_config = || local::Config {
        network: node.network.to_string(),
        cluster_domain: config.cluster_domain.to_string(),
        root_namespace: String::new(),
    };
    let fixed = |text: &str, name: &str| {
        let source = MeshSource::fixed(local::batch(text, name, &local_config()))?;
        Ok(Mesh { source, root_namespace: String::new() })
    };
    match mesh {
        MeshFrom::Manifests(manifests) => {
            let root_namespace = manifests.root_namespace.clone();
            Ok(Mesh { source: MeshSource::open(manifests)?, root_namespace })
        }
        MeshFrom::ControlPlane(config) => Ok(Mesh { source: MeshSource::control_plane(*config), root_namespace: String::new() }),
        MeshFrom::LocalText(text) => fixed(&text, "LOCAL_XDS"),
        MeshFrom::LocalFile(path) => {
            let unreadable = |error| AppError::config(anyhow::anyhow!("cannot read {}: {error}", path.display()));
            let text = std::fs::read_to_string(&path).map_err(unreadable)?;
            fixed(&text, &path.display().to_string())
        }
    }
}

fn facts(node: &NodeOptions, root_namespace: &str, cluster_domain: Name, config: serde_json::Value) -> NodeFacts {
    NodeFacts { network: node.network.clone(), root_namespace: root_namespace.into(), cluster_domain, config }
}

/// What the configuration dump is made from, whenever somebody asks.
struct Dump {
    facts: NodeFacts,
    mesh: SnapshotHandle<NodeSnapshot>,
    policies: Policies,
    findings: Findings,
    keeper: Arc<Keeper>,
}

impl Dump {
    fn text(&self, pods: Option<&BTreeMap<Name, PodState>>) -> String {
        let Self { facts, mesh, policies, findings, keeper } = self;
        NodeDump { facts, snapshot: &mesh.load(), policies, findings, certificates: &keeper.list(), pods }.text()
    }
}

fn compiler(own: Own, root_namespace: &str, node: &NodeOptions) -> NodeCompiler {
    NodeCompiler::new(own, root_namespace).require_waypoint(node.require_waypoint)
}

fn node_dns(dns: &DnsOptions, node: &NodeOptions, cluster_domain: &str) -> NodeDns {
    let nameservers = dns::ResolvConf::system().map(|conf| conf.nameservers).unwrap_or_else(|error| {
        tracing::warn!(%error, "nobody to ask for names that are not of the mesh");
        Vec::new()
    });
    let address = match dns.address {
        PodAddress::Localhost(port) => DnsAddress::Localhost(port),
        PodAddress::At(address) => DnsAddress::At(address),
    };
    let mut cluster = dns::Cluster::new(cluster_domain);
    (cluster.preferred_namespace, cluster.ipv6) = (dns.preferred_namespace.clone(), node.ipv6);
    NodeDns { address, cluster, nameservers }
}

/// The DNS proxy of a workload that this process stands beside.
fn own_dns(dns: NodeDns) -> dns::Config {
    let search = dns::ResolvConf::system().map(|conf| conf.search).unwrap_or_default();
    dns::Config { cluster: dns.cluster, search: dns::Search::fixed(search), nameservers: dns.nameservers, limits: dns::Limits::default() }
}

fn not_transparent(error: io::Error) -> AppError {
    let hint = if error.kind() == io::ErrorKind::PermissionDenied { " (the capability NET_ADMIN is missing)" } else { "" };
    AppError::config(anyhow::anyhow!("cannot keep clients' addresses (ENABLE_ORIG_SRC, --preserve-source): {error}{hint}"))
}

/// Whether workloads see their clients' addresses; `usual` if nobody has said.
fn preservation(node: &NodeOptions, usual: SourcePreservation) -> SourcePreservation {
    match node.preserve_source {
        None => usual,
        Some(true) => SourcePreservation::Required,
        Some(false) => SourcePreservation::Off,
    }
}

fn socket_options(node: &NodeOptions) -> SocketOptions {
    SocketOptions { mark: node.mark, keepalive: node.keepalive, reuse_port: false }
}

impl NodeOptions {
    /// Limits, with what holds for the whole node.
    pub(super) fn apply(&self, config: Config) -> Config {
        Config {
            network: self.network.clone(),
            cluster: self.cluster.clone(),
            localhost_app_tunnel: self.localhost_app_tunnel,
            response_baggage: self.response_baggage,
            log_verdicts: self.log_verdicts,
            ..config
        }
    }
}

/// Serves the process's own pod, by which its metrics are reached through the mesh (contract, 2.9).
async fn serve_own(node: Node, own: OwnPod, drain: DrainWatch) {
    let name = ResourceName { namespace: own.identity.namespace().into(), name: own.name };
    let local = Local { name, service_account: own.identity.service_account().into() };
    match node.start_own(local, drain.clone()).await {
        Ok(_proxy) => drain.forced().await,
        Err(error) => tracing::warn!(%error, "metrics cannot be had through the mesh: port 15008 cannot be bound"),
    }
}

/// The workload to serve, of which the control plane will tell.
fn named(workload: Option<WorkloadName>) -> Result<(Own, Local), AppError> {
    let Some(WorkloadName { name, service_account: Some(account) }) = workload else {
        let text = "with a control plane, name the workload as NAMESPACE/NAME/SERVICE_ACCOUNT (--workload, PROXY_WORKLOAD_INFO)";
        return Err(AppError::config(anyhow::anyhow!(text)));
    };
    Ok((Own::Named(name.clone()), Local { name, service_account: account.into() }))
}

/// The workload to serve, by uid and by name. Its identity must be the certificate's, where there is
/// only one: a ztunnel that speaks for somebody else would be refused by everyone.
fn served(source: &MeshSource, name: Option<&WorkloadName>, only: Option<&Identity>) -> Result<(Own, Local), AppError> {
    let workloads: Vec<&Workload> = source.first().changes.iter().filter_map(as_workload).collect();
    let wrong = |text: String| AppError::config(anyhow::anyhow!(text));
    match (name, only) {
        (Some(WorkloadName { name, service_account }), only) => {
            let named = workloads.iter().find(|w| w.namespace == name.namespace && w.name == name.name);
            let workload = named.ok_or_else(|| wrong(format!("no workload {name} in the mesh")))?;
            if let Some(account) = service_account.as_deref().filter(|account| *account != workload.identity.service_account()) {
                return Err(wrong(format!("workload {name} runs as {}, not under the service account {account}", workload.identity)));
            }
            if let Some(only) = only.filter(|only| **only != workload.identity) {
                return Err(wrong(format!("workload {name} runs as {}, but the certificate is of {only}", workload.identity)));
            }
            Ok((Own::Workloads([workload.uid.clone()].into()), Local::from(*workload)))
        }
        (None, Some(only)) => {
            let own: Vec<_> = workloads.iter().filter(|w| w.identity == *only).collect();
            match own[..] {
                [workload] => Ok((Own::Workloads([workload.uid.clone()].into()), Local::from(*workload))),
                [] => Err(wrong(format!("no workload in the mesh runs as {only}"))),
                _ => Err(wrong(format!("{} workloads run as {only}: name one with --workload", own.len()))),
            }
        }
        (None, None) => Err(wrong("certificates of many identities: name the workload with --workload".to_owned())),
    }
}

fn as_workload(change: &Change) -> Option<&Workload> {
    match change {
        Change::Upsert(Resource::Workload(workload)) => Some(workload),
        Change::Upsert(_) | Change::Remove(_) => None,
    }
}
