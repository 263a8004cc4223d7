//! `cairn ztunnel`, in dedicated mode: one process for one workload.

use super::{
    AppError, MeshSource, Process, Running, ZtunnelOptions,
    node_dump::{NodeDump, NodeFacts},
    options::{MeshFrom, Mode},
};
use crate::{
    cert::{CertState, CertStatus},
    model::{Identity, Name, Resource, Workload},
    runtime::Workers,
    settings::{WorkloadName, ZtunnelCommand},
    state::{Change, NodeCompiler, Own},
    telemetry::{self, AccessLog, log::LogHandle},
    ztunnel::{Listeners, Local, Ztunnel},
};
use std::sync::Arc;

/// Runs a ztunnel until it is told to stop.
///
/// # Errors
/// See [`AppError`].
pub async fn ztunnel(command: ZtunnelCommand, log: LogHandle) -> Result<(), AppError> {
    for warning in &command.warnings {
        tracing::warn!("{warning}");
    }
    let options = ZtunnelOptions::try_from(command)?;
    let access = AccessLog::stdout(options.process.access_log, options.process.access_log_format).map_err(AppError::run)?.governed_by(&log);
    start_ztunnel(options, access, log)?.until_signal().await
}

/// Starts a ztunnel in this runtime.
///
/// # Errors
/// When certificates or manifests cannot be used, the workload is not among them, or an address
/// cannot be bound.
pub fn start_ztunnel(options: ZtunnelOptions, access: AccessLog, log: LogHandle) -> Result<Running, AppError> {
    telemetry::install();
    telemetry::component("ztunnel");
    telemetry::report_runtimes([tokio::runtime::Handle::current()]);
    let missing = |what: &str| AppError::config(anyhow::anyhow!("{what} is not supported yet"));
    let config = options.shown();
    let Mode::Dedicated { workload } = options.mode else { return Err(missing("shared mode")) };
    let MeshFrom::Manifests(manifests) = options.mesh else { return Err(missing("a local xDS file")) };
    let root_namespace = manifests.root_namespace.clone();
    let mut process = Process::new(options.process, access.clone())?;
    let identity = process.certs.identity().clone();
    let source = MeshSource::open(manifests)?;
    let (uid, local) = served(&source, workload.as_ref(), &identity)?;
    let mesh =
        source.follow(NodeCompiler::new(Own::Workloads([uid.clone()].into()), &root_namespace), &process.drain(), process.readiness());
    let addresses = &options.listeners;
    let listeners = Listeners {
        inbound: process.listen("hbone", addresses.hbone_address)?,
        plaintext: process.listen("plaintext", addresses.plaintext_address)?,
        outbound: process.listen("outbound", addresses.outbound_address)?,
        socks5: process.listen("socks5", addresses.socks5_address)?,
    };
    let facts = NodeFacts {
        network: options.node.network,
        root_namespace: root_namespace.as_str().into(),
        cluster_domain: options.config.cluster_domain.clone(),
        config,
    };
    let (handle, certs) = (mesh.handle.clone(), process.certs.subscribe());
    process.serve_admin(&addresses.admin, log, move || {
        let cert = certs.borrow().clone();
        let certificates = [CertStatus { identity: cert.identity().clone(), state: CertState::Available(cert) }];
        let (snapshot, policies, findings) = (&*handle.load(), &mesh.policies, &mesh.findings);
        NodeDump { facts: &facts, snapshot, policies, findings, certificates: &certificates, pods: None }.text()
    })?;
    let workers = Workers::current();
    let ztunnel = Ztunnel::new(Arc::new(options.config), local, process.certs.clone(), mesh.handle, workers.clone(), access);
    tokio::spawn(ztunnel.serve(listeners, workers.for_connection(), process.drain()));
    process.started()
}

/// The workload to serve, by uid and by name. Its identity must be the certificate's: a ztunnel that speaks
/// for somebody else would be refused by everyone.
fn served(source: &MeshSource, name: Option<&WorkloadName>, identity: &Identity) -> Result<(Name, Local), AppError> {
    let workloads: Vec<&Workload> = source.first().changes.iter().filter_map(as_workload).collect();
    let wrong = |text: String| AppError::config(anyhow::anyhow!(text));
    match name {
        Some(WorkloadName { name, service_account }) => {
            let named = workloads.iter().find(|w| w.namespace == name.namespace && w.name == name.name);
            let workload = named.ok_or_else(|| wrong(format!("no workload {name} among the manifests")))?;
            if let Some(account) = service_account.as_deref().filter(|account| *account != workload.identity.service_account()) {
                return Err(wrong(format!("workload {name} runs as {}, not under the service account {account}", workload.identity)));
            }
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
