//! `cairn waypoint`: where it stands, and what Istio's waypoints are told by variables.

use super::{
    ControlPlane, ControlPlaneArgs, Environment, HboneArgs, MeshArgs, PodArgs, ProcessArgs, ServerAddress, UsageError, WaypointArgs,
    WaypointListeners,
    control_plane::{CertificatesFrom, Chosen, Facts, Mode},
    given::Given,
    values::resource_name,
};
use crate::model::ResourceName;
use clap::Args;

/// `cairn waypoint`
#[derive(Debug, Args)]
pub struct WaypointCommand {
    /// The Gateway that this process serves; by default the one in POD_NAMESPACE that the pod's label
    /// gateway.networking.k8s.io/gateway-name says, or else ISTIO_META_WORKLOAD_NAME
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = resource_name, env = "CAIRN_GATEWAY")]
    pub gateway: ResourceName,
    #[command(flatten)]
    #[allow(missing_docs, reason = "documented at the type")]
    pub mesh: MeshArgs,
    #[command(flatten)]
    #[allow(missing_docs, reason = "documented at the type")]
    pub process: ProcessArgs,
    #[command(flatten)]
    #[allow(missing_docs, reason = "documented at the type")]
    pub control_plane: ControlPlaneArgs,
    #[command(flatten)]
    #[allow(missing_docs, reason = "documented at the type")]
    pub pod: PodArgs,
    #[command(flatten)]
    #[allow(missing_docs, reason = "documented at the type")]
    pub listeners: WaypointListeners,
    #[command(flatten)]
    #[allow(missing_docs, reason = "documented at the type")]
    pub limits: WaypointArgs,
    #[command(flatten)]
    #[allow(missing_docs, reason = "documented at the type")]
    pub hbone: HboneArgs,
    /// What comes from a control plane; filled in by [`Cli::read`](super::Cli::read).
    #[arg(skip)]
    pub control: ControlPlane,
    /// What has no effect although it is set; to be logged.
    #[arg(skip)]
    pub warnings: Vec<String>,
}

impl WaypointCommand {
    /// Chooses sources, refuses what cannot be done and notes what has no effect.
    pub(super) fn complete(&mut self, environment: &Environment, given: &Given) -> Result<(), UsageError> {
        let (has_server, is_off) = match &self.control_plane.xds_address {
            Some(ServerAddress::At(_)) => (true, false),
            Some(ServerAddress::Off) => (false, true),
            None => (false, false),
        };
        let xds = has_server || (self.mesh.manifests.is_empty() && environment.is_kubernetes() && !is_off);
        if !xds && self.mesh.manifests.is_empty() {
            return Err(UsageError::wrong(
                "no mesh: give --manifests (CAIRN_MANIFESTS), or the address of a control plane by --xds-address (XDS_ADDRESS)",
            ));
        }
        let has_ca = match &self.control_plane.ca_address {
            Some(ServerAddress::At(_)) => true,
            Some(ServerAddress::Off) => false,
            None => has_server || environment.is_kubernetes(),
        };
        let certificates = self.control_plane.certificates(self.process.identity_dir.is_some(), has_ca, given)?;
        if xds {
            self.must_be_known()?;
        }
        let chosen = Chosen { xds, certificates };
        let mode = Mode::Waypoint { gateway: &self.gateway };
        let facts = Facts { mode, pod: &self.pod, names: &self.mesh.names, given, on_demand: false };
        self.control = self.control_plane.resolve(chosen, &facts, environment)?;
        self.warnings = self.control_plane.unused(chosen, given, environment);
        if certificates != CertificatesFrom::Directory {
            self.process.identity_dir = None;
        }
        Ok(())
    }

    /// A control plane compares the names of the pod with its token, and refuses who has none.
    fn must_be_known(&self) -> Result<(), UsageError> {
        let names = [("POD_NAME (--pod-name)", &self.pod.pod_name), ("POD_NAMESPACE (--pod-namespace)", &self.pod.pod_namespace)];
        let missing: Vec<&str> = names.iter().filter(|(_, value)| value.is_none()).map(|(name, _)| *name).collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(UsageError::wrong(format!("a control plane must be told who asks: {} not set", missing.join(" and "))))
    }
}
