//! `cairn waypoint`

use super::{AppError, MeshSource, Process, Running, config_dump};
use crate::{
    control::manifest,
    model::ResourceName,
    runtime::{Workers, workers},
    settings::{AdminListeners, ListenAddress, ProcessArgs, WaypointCommand},
    state::WaypointCompiler,
    telemetry::{self, AccessLog, log::LogHandle},
    waypoint::{Config, Waypoint},
};
use std::net::SocketAddr;

/// Everything a waypoint is started with.
#[derive(Debug)]
pub struct WaypointOptions {
    /// The Gateway it serves.
    pub gateway: ResourceName,
    /// The mesh.
    pub manifests: manifest::Config,
    /// The process.
    pub process: ProcessArgs,
    /// Where it listens for tunnels.
    pub hbone_address: SocketAddr,
    /// Where it listens for operators.
    pub admin: AdminListeners,
    /// Limits.
    pub config: Config,
}

impl From<WaypointCommand> for WaypointOptions {
    fn from(command: WaypointCommand) -> Self {
        Self {
            gateway: command.gateway,
            manifests: command.mesh.source(),
            process: command.process,
            hbone_address: command.listeners.hbone_address,
            admin: command.listeners.admin,
            config: command.limits.config(&command.hbone),
        }
    }
}

/// Runs a waypoint until it is told to stop.
///
/// # Errors
/// See [`AppError`].
pub async fn waypoint(command: WaypointCommand, log: LogHandle) -> Result<(), AppError> {
    for warning in &command.warnings {
        tracing::warn!("{warning}");
    }
    if command.control.xds.is_some() {
        return Err(AppError::config(anyhow::anyhow!("there is no xDS client yet")));
    }
    let options = WaypointOptions::from(command);
    let access = AccessLog::stdout(options.process.access_log, options.process.access_log_format).map_err(AppError::run)?.governed_by(&log);
    start_waypoint(options, access, log)?.until_signal().await
}

/// Starts a waypoint: traffic on threads of its own, everything else in this runtime.
///
/// # Errors
/// When certificates or manifests cannot be used, the Gateway is not among them, or an address
/// cannot be bound.
pub fn start_waypoint(options: WaypointOptions, access: AccessLog, log: LogHandle) -> Result<Running, AppError> {
    telemetry::install();
    telemetry::component("waypoint");
    let lenient = options.manifests.lenient;
    let root_namespace = options.manifests.root_namespace.clone();
    let threads = options.process.worker_threads.unwrap_or_else(workers::cores);
    let mut process = Process::new(options.process, access.clone());
    let certs = process.certificate()?;
    let identity = certs.identity().clone();
    let source = MeshSource::open(options.manifests)?;
    let mesh = source.follow(WaypointCompiler::new(options.gateway.clone(), &root_namespace), &process.drain(), process.readiness());
    if !mesh.handle.load().bound {
        let missing = format!("Gateway {} is not among the manifests", options.gateway);
        if !lenient {
            return Err(AppError::config(anyhow::anyhow!(missing)));
        }
        tracing::error!("{missing}: nothing is served until it is");
    }
    if identity.namespace() != &*options.gateway.namespace {
        tracing::warn!(%identity, gateway = %options.gateway, "the certificate is of another namespace than the gateway");
    }
    let listener = process.listen("hbone", ListenAddress::At(options.hbone_address))?.expect("an address was given");
    let (handle, findings) = (mesh.handle.clone(), mesh.findings);
    process.serve_admin(&options.admin, log, move || config_dump::waypoint(&handle.load(), &findings))?;
    let workers = Workers::start(threads).map_err(AppError::run)?;
    telemetry::report_runtimes(workers.runtimes().cloned());
    let waypoint = Waypoint::new(options.config, identity, certs, mesh.handle, workers, access);
    tokio::spawn(waypoint.serve(listener, process.drain()));
    process.started()
}
