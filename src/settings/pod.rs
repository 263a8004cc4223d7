//! The proxy's own pod, in both modes.

use clap::Args;
use std::net::IpAddr;

/// Who and where the proxy itself is.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Node")]
pub struct PodArgs {
    /// The node, by which workloads are known to be local
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    pub node: Option<String>,
    /// The network that the node is on. For a waypoint, ISTIO_META_NETWORK is the stronger
    #[arg(long, value_name = "NAME", default_value = "", env = "NETWORK")]
    pub network: String,
    /// The cluster. ISTIO_META_CLUSTER_ID is the stronger
    #[arg(long, value_name = "NAME", default_value = "Kubernetes", env = "CLUSTER_ID")]
    pub cluster_id: String,
    /// The proxy's own pod
    #[arg(long, value_name = "NAME", env = "POD_NAME")]
    pub pod_name: Option<String>,
    /// Its namespace
    #[arg(long, value_name = "NAMESPACE", env = "POD_NAMESPACE")]
    pub pod_namespace: Option<String>,
    /// Its service account
    #[arg(long, value_name = "NAME", env = "SERVICE_ACCOUNT")]
    pub service_account: Option<String>,
    /// Its address, for a control plane
    #[arg(long, value_name = "ADDR", env = "INSTANCE_IP")]
    pub instance_ip: Option<IpAddr>,
}
