//! `cairn ztunnel`, in dedicated mode: one process for one workload.

use super::{AppError, MeshSource, Process, Running, config_dump};
use crate::{
    control::manifest,
    model::{Identity, Name, Resource, ResourceName, Workload},
    runtime::Workers,
    settings::{ProcessArgs, ZtunnelCommand, ZtunnelListeners},
    state::{Change, NodeCompiler, Own},
    telemetry::{self, AccessLog, log::LogHandle},
    ztunnel::{Config, Listeners, Local, Ztunnel},
};
use std::sync::Arc;

/// Everything a ztunnel is started with.
#[derive(Debug)]
pub struct ZtunnelOptions {
    /// The workload it serves; else the only one with the certificate's identity.
    pub workload: Option<ResourceName>,
    /// The mesh.
    pub manifests: manifest::Config,
    /// The process.
    pub process: ProcessArgs,
    /// Where it listens.
    pub listeners: ZtunnelListeners,
    /// Limits.
    pub config: Config,
}

impl From<ZtunnelCommand> for ZtunnelOptions {
    fn from(command: ZtunnelCommand) -> Self {
        let config = Config {
            hbone: command.hbone.config(),
            cluster_domain: command.mesh.names.cluster_domain.as_str().into(),
            connect_timeout: command.connect_timeout,
            half_open_idle: command.half_open_idle_timeout,
            workload_wait: command.workload_wait,
            socks5_handshake_timeout: command.socks5_timeout,
            max_connections: command.max_connections,
            network: "".into(),
            preserve_source: command.preserve_source,
        };
        Self {
            workload: command.workload,
            manifests: command.mesh.source(),
            process: command.process,
            listeners: command.listeners,
            config,
        }
    }
}

/// Runs a ztunnel until it is told to stop.
///
/// # Errors
/// See [`AppError`].
pub async fn ztunnel(command: ZtunnelCommand, log: LogHandle) -> Result<(), AppError> {
    let options = ZtunnelOptions::from(command);
    let access = AccessLog::stdout(options.process.access_log, options.process.access_log_format).map_err(AppError::run)?;
    start_ztunnel(options, access, log)?.until_signal().await
}

/// Starts a ztunnel in this runtime.
///
/// # Errors
/// When certificates or manifests cannot be used, the workload is not among them, or an address
/// cannot be bound.
pub fn start_ztunnel(options: ZtunnelOptions, access: AccessLog, log: LogHandle) -> Result<Running, AppError> {
    telemetry::install();
    let root_namespace = options.manifests.root_namespace.clone();
    let mut process = Process::new(options.process, access.clone())?;
    let identity = process.certs.identity().clone();
    let source = MeshSource::open(options.manifests)?;
    let (uid, local) = served(&source, options.workload.as_ref(), &identity)?;
    let mesh =
        source.follow(NodeCompiler::new(Own::Workloads([uid.clone()].into()), &root_namespace), &process.drain(), process.readiness());
    let addresses = &options.listeners;
    let listeners = Listeners {
        inbound: process.listen("hbone", addresses.hbone_address)?,
        plaintext: process.listen("plaintext", addresses.plaintext_address)?,
        outbound: process.listen("outbound", addresses.outbound_address)?,
        socks5: process.listen("socks5", addresses.socks5_address)?,
    };
    let (handle, findings) = (mesh.handle.clone(), mesh.findings);
    process.serve_admin(&addresses.admin, log, move || config_dump::ztunnel(&handle.load(), &findings))?;
    let workers = Workers::current();
    let ztunnel = Ztunnel::new(Arc::new(options.config), local, process.certs.clone(), mesh.handle, workers.clone(), access);
    tokio::spawn(ztunnel.serve(listeners, workers.for_connection(), process.drain()));
    process.started()
}

/// The workload to serve, by uid and by name. Its identity must be the certificate's: a ztunnel that speaks
/// for somebody else would be refused by everyone.
fn served(source: &MeshSource, name: Option<&ResourceName>, identity: &Identity) -> Result<(Name, Local), AppError> {
    let workloads: Vec<&Workload> = source.first().changes.iter().filter_map(as_workload).collect();
    let wrong = |text: String| AppError::config(anyhow::anyhow!(text));
    match name {
        Some(name) => {
            let named = workloads.iter().find(|w| w.namespace == name.namespace && w.name == name.name);
            let workload = named.ok_or_else(|| wrong(format!("no workload {name} among the manifests")))?;
            if workload.identity != *identity {
                return Err(wrong(format!("workload {name} runs as {}, but the certificate is of {identity}", workload.identity)));
            }
            Ok((workload.uid.clone(), Local::from(*workload)))
        }
        None => {
            let own: Vec<_> = workloads.iter().filter(|w| w.identity == *identity).collect();
            match own[..] {
                [only] => Ok((only.uid.clone(), Local::from(*only))),
                [] => Err(wrong(format!("no workload among the manifests runs as {identity}"))),
                _ => Err(wrong(format!("{} workloads run as {identity}: name one with --workload", own.len()))),
            }
        }
    }
}

fn as_workload(change: &Change) -> Option<&Workload> {
    match change {
        Change::Upsert(Resource::Workload(workload)) => Some(workload),
        Change::Upsert(_) | Change::Remove(_) => None,
    }
}
