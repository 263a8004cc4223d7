//! Workloads: the pods and machines that run services.

use super::{Identity, Labels, Name, WaypointBinding, WorkloadL4};
use std::net::IpAddr;

/// One running instance: a pod, a WorkloadEntry, or an inline endpoint of a ServiceEntry.
#[derive(Debug, Clone, PartialEq)]
pub struct Workload {
    /// Unique over the whole mesh, in the form of Istio's workload API
    /// (`CLUSTER//Pod/NAMESPACE/NAME`).
    pub uid: Name,
    /// The pod's name.
    pub name: Name,
    /// The namespace.
    pub namespace: Name,
    /// The identity that its certificate must carry.
    pub identity: Identity,
    /// Its addresses; may be empty before the pod has one.
    pub addresses: Vec<IpAddr>,
    /// Whether it is reached through HBONE.
    pub protocol: TunnelProtocol,
    /// The node it runs on.
    pub node: Name,
    /// Where it runs.
    pub locality: Locality,
    /// Whether it may receive traffic.
    pub health: Health,
    /// Its labels, for selectors.
    pub labels: Labels,
    /// The waypoint that its own `istio.io/use-waypoint` label names.
    pub waypoint: WaypointBinding,
    /// `service.istio.io/canonical-name`, for telemetry.
    pub canonical_name: Name,
    /// `service.istio.io/canonical-revision`, for telemetry.
    pub canonical_revision: Name,
    /// The controller's name (the Deployment, say), for telemetry.
    pub workload_name: Name,
    /// What kind of controller runs it, for telemetry.
    pub workload_type: WorkloadType,
    /// The cluster it runs in.
    pub cluster: Name,
    /// Shares the node's network: then its address does not name it.
    pub host_network: bool,
    /// Its named container ports, by which a Service may refer to them.
    pub ports: Vec<(Name, u16)>,
    /// The Gateway whose proxy this pod is (label `gateway.networking.k8s.io/gateway-name`).
    pub gateway: Option<Name>,
    /// What only an L4 proxy asks about.
    pub l4: WorkloadL4,
}

/// How a workload is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TunnelProtocol {
    /// Plain TCP.
    None,
    /// HTTP/2 CONNECT over mutual TLS on port 15008.
    Hbone,
}

/// Whether a workload may receive traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Health {
    /// Ready.
    Healthy,
    /// Not ready.
    Unhealthy,
}

/// Where a workload runs; empty parts are unknown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Locality {
    /// `topology.kubernetes.io/region`
    pub region: Name,
    /// `topology.kubernetes.io/zone`
    pub zone: Name,
    /// `topology.istio.io/subzone`
    pub subzone: Name,
}

/// The controller kinds that Istio's telemetry tells apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the variants are the kinds' own names")]
pub enum WorkloadType {
    Deployment,
    CronJob,
    Pod,
    Job,
}

impl WorkloadType {
    /// The word used in baggage and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deployment => "deployment",
            Self::CronJob => "cronjob",
            Self::Pod => "pod",
            Self::Job => "job",
        }
    }
}
