//! `cairn waypoint`

use super::{AppError, MeshSource, OwnCertificate, Process, Running, config_dump, control_plane, mesh::synced};
use crate::{
    control::{
        manifest::{self, Owns},
        xds,
    },
    model::{Name, ResourceName},
    runtime::{Workers, workers},
    settings::{AdminListeners, ListenAddress, ProcessArgs, WaypointCommand},
    state::{ControlPlaneView, WaypointCompiler},
    telemetry::{self, AccessLog, log::LogHandle},
    waypoint::{Config, Waypoint},
};
use std::net::{IpAddr, SocketAddr};

/// What is wanting where only a control plane tells of the mesh.
const NO_MANIFESTS: &str = "no manifests, so no routes and no L7 policies are enforced here";

/// Everything a waypoint is started with.
#[derive(Debug)]
pub struct WaypointOptions {
    /// The Gateway it serves.
    pub gateway: ResourceName,
    /// The mesh.
    pub mesh: WaypointMesh,
    /// Its certificate.
    pub certificate: OwnCertificate,
    /// The process.
    pub process: ProcessArgs,
    /// Where it listens for tunnels.
    pub hbone_address: SocketAddr,
    /// Where it listens for operators.
    pub admin: AdminListeners,
    /// Limits.
    pub config: Config,
}

/// Where a waypoint learns of the mesh.
#[derive(Debug)]
pub struct WaypointMesh {
    /// Manifests: the whole mesh, or what of it the control plane does not tell.
    pub manifests: Option<manifest::Config>,
    /// The control plane, if there is one.
    pub control_plane: Option<xds::Config>,
    /// The address of this pod, by which services may name it as their waypoint.
    pub instance_ip: Option<IpAddr>,
    /// The class of the Gateway, if its pod says it; a manifest of the Gateway is the stronger.
    pub gateway_class: Option<Name>,
    /// The namespace whose policies may hold for whole classes of waypoints.
    pub root_namespace: String,
    /// The DNS domain of the cluster.
    pub cluster_domain: String,
}

impl From<manifest::Config> for WaypointMesh {
    /// From manifests alone.
    fn from(manifests: manifest::Config) -> Self {
        Self {
            control_plane: None,
            instance_ip: None,
            gateway_class: None,
            root_namespace: manifests.root_namespace.clone(),
            cluster_domain: manifests.cluster_domain.clone(),
            manifests: Some(manifests),
        }
    }
}

impl TryFrom<WaypointCommand> for WaypointOptions {
    type Error = AppError;

    fn try_from(command: WaypointCommand) -> Result<Self, AppError> {
        let (names, pod) = (&command.mesh.names, &command.pod);
        let mut config = command.limits.config(&command.hbone);
        config.hbone.revocation = control_plane::revocation(&command.control)?;
        let certificate = OwnCertificate {
            from: control_plane::certificates(&command.process, &command.control)?,
            identity: command.control.identity.clone(),
            ttl: command.control.secret_ttl,
        };
        let mesh = WaypointMesh {
            manifests: (!command.mesh.manifests.is_empty()).then(|| command.mesh.source()),
            // L4 policies are for ztunnels to enforce.
            control_plane: command.control.xds.map(|xds| control_plane::mesh(xds, names, pod, false)),
            instance_ip: pod.instance_ip,
            gateway_class: command.control.gateway_class,
            root_namespace: names.root_namespace.clone(),
            cluster_domain: names.cluster_domain.clone(),
        };
        Ok(Self {
            mesh,
            certificate,
            gateway: command.gateway,
            process: command.process,
            hbone_address: command.listeners.hbone_address,
            admin: command.listeners.admin,
            config,
        })
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
    control_plane::settle_tls(command.control.tls)?;
    let options = WaypointOptions::try_from(command)?;
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
    let threads = options.process.worker_threads.unwrap_or_else(workers::cores);
    let mut process = Process::new(options.process, access.clone());
    control_plane::follow_revocation(&options.config.hbone, &process);
    let (certs, identity) = options.certificate.open(&process)?;
    let lenient = options.mesh.manifests.as_ref().is_none_or(|manifests| manifests.lenient);
    if options.mesh.manifests.is_none() {
        process.readiness().note("policies", Some(NO_MANIFESTS.to_owned()));
    }
    let compiler = options.mesh.compiler(&options.gateway);
    let mesh = options.mesh.source()?.follow(compiler, &process.drain(), process.readiness());
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
    let drain = process.drain();
    tokio::spawn(async move {
        // Connections wait in the meantime: they would be told that nothing is served here.
        tokio::select! {
            () = synced(mesh.status) => waypoint.serve(listener, drain).await,
            () = drain.signaled() => {}
        }
    });
    process.started()
}

impl WaypointMesh {
    fn compiler(&self, gateway: &ResourceName) -> WaypointCompiler {
        let compiler = WaypointCompiler::new(gateway.clone(), &self.root_namespace);
        if self.control_plane.is_none() {
            return compiler;
        }
        let cluster_domain = self.cluster_domain.as_str().into();
        compiler.with_control_plane(ControlPlaneView { cluster_domain, instance_ip: self.instance_ip, class: self.gateway_class.clone() })
    }

    fn source(self) -> Result<MeshSource, AppError> {
        match (self.manifests, self.control_plane) {
            (Some(manifests), None) => MeshSource::open(manifests),
            (Some(manifests), Some(control_plane)) => {
                Ok(MeshSource::open(manifest::Config { owns: Owns::Policy, ..manifests })?.and_control_plane(control_plane))
            }
            (None, Some(control_plane)) => {
                tracing::warn!("{NO_MANIFESTS}; what ztunnels enforce is all");
                Ok(MeshSource::control_plane(control_plane))
            }
            (None, None) => Err(AppError::config(anyhow::anyhow!("nobody tells of the mesh: give --manifests or --xds-address"))),
        }
    }
}
