//! What a ztunnel is started with: the command line in the words of the rooms it goes to.

use super::{AppError, CertificatesFrom, control_plane};
use crate::{
    control::{manifest, xds},
    model::{Identity, Name},
    settings::{PodAddress, ProcessArgs, ProxyMode, WorkloadName, ZtunnelCommand, ZtunnelListeners},
    transport::socket::Keepalive,
    ztunnel::Config,
};
use std::{net::IpAddr, path::PathBuf, time::Duration};

/// Everything a ztunnel is started with.
#[derive(Debug)]
pub struct ZtunnelOptions {
    /// Which workloads it serves.
    pub mode: Mode,
    /// The mesh.
    pub mesh: MeshFrom,
    /// The certificates.
    pub certificates: CertificatesFrom,
    /// The process.
    pub process: ProcessArgs,
    /// Where it listens: in its own network in dedicated mode, in each pod's in shared mode (the
    /// admin listeners always in its own).
    pub listeners: ZtunnelListeners,
    /// Limits.
    pub config: Config,
    /// The node, and what holds for all of its workloads.
    pub node: NodeOptions,
}

/// Which workloads a ztunnel serves.
#[derive(Debug, Clone)]
pub enum Mode {
    /// Those that the CNI agent announces.
    Shared(Shared),
    /// One.
    Dedicated {
        /// Which; else the only one with the certificate's identity.
        workload: Option<WorkloadName>,
    },
}

/// What only shared mode knows.
#[derive(Debug, Clone)]
pub struct Shared {
    /// The CNI agent's socket.
    pub socket: PathBuf,
    /// Other processes may listen on the same ports of a pod.
    pub port_reuse: bool,
    /// The proxy's own pod, which is served too, so that its metrics can be had through HBONE.
    pub own: Option<OwnPod>,
}

/// The proxy's own pod (contract, 2.9).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnPod {
    /// Its name.
    pub name: Name,
    /// Its identity.
    pub identity: Identity,
}

/// Where the mesh is described.
#[derive(Debug, Clone)]
pub enum MeshFrom {
    /// Kubernetes manifests.
    Manifests(manifest::Config),
    /// The local file of Istio's ztunnel, read once.
    LocalFile(PathBuf),
    /// The same, as a text.
    LocalText(String),
    /// A control plane.
    ControlPlane(Box<xds::Config>),
}

/// The node, and what holds for all of its workloads.
#[derive(Debug, Clone)]
pub struct NodeOptions {
    /// Its name: workloads of another node are not ours. None: every node's are.
    pub name: Option<Name>,
    /// The network it is on.
    pub network: Name,
    /// The cluster it is in.
    pub cluster: Name,
    /// The address of the proxy's own pod.
    pub instance_ip: Option<IpAddr>,
    /// The DNS proxy, if there is one.
    pub dns: Option<DnsOptions>,
    /// Keepalive of connections to and from applications.
    pub keepalive: Keepalive,
    /// SO_MARK of every socket.
    pub mark: Option<u32>,
    /// Speak to workloads from the client's address: a must, never, or (none) where it is possible.
    pub preserve_source: Option<bool>,
    /// Whether IPv6 is used at all.
    pub ipv6: bool,
    /// Reach applications behind a PROXY-protocol tunnel over loopback.
    pub localhost_app_tunnel: bool,
    /// Answer a CONNECT with the baggage of the workload.
    pub response_baggage: bool,
    /// Refuse what has no usable waypoint.
    pub require_waypoint: bool,
    /// Log verdicts at level info.
    pub log_verdicts: bool,
    /// Time that certificates are asked for.
    pub secret_ttl: Duration,
}

/// The DNS proxy.
#[derive(Debug, Clone)]
pub struct DnsOptions {
    /// Where it listens, in a pod.
    pub address: PodAddress,
    /// Whose service a host name means that several namespaces have.
    pub preferred_namespace: Option<Name>,
}

impl Default for NodeOptions {
    /// A node about which nothing is told, without DNS proxy.
    fn default() -> Self {
        Self {
            name: None,
            network: "".into(),
            cluster: "Kubernetes".into(),
            instance_ip: None,
            dns: None,
            keepalive: Keepalive::default(),
            mark: None,
            preserve_source: Some(false),
            ipv6: true,
            localhost_app_tunnel: true,
            response_baggage: true,
            require_waypoint: false,
            log_verdicts: false,
            secret_ttl: Duration::from_secs(24 * 60 * 60),
        }
    }
}

impl ZtunnelOptions {
    /// How it was started, as the configuration dump shows it. Texts that were given inline are left
    /// out.
    pub(super) fn shown(&self) -> serde_json::Value {
        let node = &self.node;
        let mesh = match &self.mesh {
            MeshFrom::Manifests(config) => serde_json::json!({ "manifests": config.paths }),
            MeshFrom::LocalFile(path) => serde_json::json!({ "localXds": path }),
            MeshFrom::LocalText(_) => serde_json::json!({ "localXds": "inline" }),
            MeshFrom::ControlPlane(config) => serde_json::json!({
                "xdsAddress": config.server.address.to_string(),
                "xdsOnDemand": config.types.on_demand,
            }),
        };
        let (mode, socket) = match &self.mode {
            Mode::Shared(shared) => ("Shared", Some(&shared.socket)),
            Mode::Dedicated { .. } => ("Dedicated", None),
        };
        serde_json::json!({
            "proxyMode": mode,
            "inpodUds": socket,
            "mesh": mesh,
            "localNode": node.name,
            "network": node.network,
            "clusterId": node.cluster,
            "clusterDomain": self.config.cluster_domain,
            "packetMark": node.mark,
            "requireOriginalSource": node.preserve_source,
            "ipv6Enabled": node.ipv6,
            "dnsProxy": node.dns.is_some(),
            "requireWaypoint": node.require_waypoint,
            "numWorkerThreads": self.process.worker_threads,
            "selfTerminationDeadline": format!("{:?}", self.process.drain_deadline),
            "ztunnel": format!("{:?}", self.node.apply(self.config.clone())),
        })
    }
}

impl TryFrom<ZtunnelCommand> for ZtunnelOptions {
    type Error = AppError;

    fn try_from(command: ZtunnelCommand) -> Result<Self, AppError> {
        let node = NodeOptions::from(&command);
        let mut config = config(&command);
        config.hbone.revocation = control_plane::revocation(&command.control)?;
        let mode = mode(&command)?;
        let certificates = control_plane::certificates(&command.process, &command.control)?;
        let mesh = match (command.control.xds, command.local_xds, command.local_xds_inline) {
            (Some(xds), ..) => MeshFrom::ControlPlane(Box::new(control_plane::mesh(xds, &command.mesh.names, &command.pod, true))),
            (None, Some(path), _) => MeshFrom::LocalFile(path),
            (None, None, Some(text)) => MeshFrom::LocalText(text),
            (None, None, None) => MeshFrom::Manifests(command.mesh.source()),
        };
        Ok(Self { mode, mesh, certificates, process: command.process, listeners: command.listeners, config, node })
    }
}

impl From<&ZtunnelCommand> for NodeOptions {
    fn from(command: &ZtunnelCommand) -> Self {
        let name = |text: &Option<String>| text.as_deref().map(Name::from);
        let dns = || DnsOptions { address: command.dns.address, preferred_namespace: name(&command.dns.preferred_service_namespace) };
        Self {
            name: name(&command.pod.node),
            network: command.pod.network.as_str().into(),
            cluster: command.pod.cluster_id.as_str().into(),
            instance_ip: command.pod.instance_ip,
            dns: command.dns.enabled.then(dns),
            keepalive: command.sockets.keepalive(),
            mark: command.packet_mark(),
            preserve_source: command.sockets.preserve_source,
            ipv6: command.sockets.ipv6,
            localhost_app_tunnel: command.localhost_app_tunnel,
            response_baggage: command.response_baggage,
            require_waypoint: command.require_waypoint,
            log_verdicts: command.authz_policy_info_logging,
            secret_ttl: command.control.secret_ttl,
        }
    }
}

fn config(command: &ZtunnelCommand) -> Config {
    Config {
        hbone: command.hbone.config(),
        cluster_domain: command.mesh.names.cluster_domain.as_str().into(),
        connect_timeout: command.connect_timeout,
        half_open_idle: command.half_open_idle_timeout,
        workload_wait: command.workload_wait,
        socks5_handshake_timeout: command.socks5_timeout,
        max_connections: command.max_connections,
        network: command.pod.network.as_str().into(),
        preserve_source: command.sockets.preserve_source == Some(true),
        ..Config::default()
    }
}

fn mode(command: &ZtunnelCommand) -> Result<Mode, AppError> {
    match command.proxy_mode() {
        ProxyMode::Dedicated => Ok(Mode::Dedicated { workload: command.workload.clone() }),
        ProxyMode::Shared => {
            let own = own_pod(command)?;
            Ok(Mode::Shared(Shared { socket: command.inpod_socket.clone(), port_reuse: command.sockets.inpod_port_reuse, own }))
        }
    }
}

/// Known only by all three of its names.
fn own_pod(command: &ZtunnelCommand) -> Result<Option<OwnPod>, AppError> {
    let pod = &command.pod;
    let (Some(name), Some(namespace), Some(account)) = (&pod.pod_name, &pod.pod_namespace, &pod.service_account) else {
        return Ok(None);
    };
    let identity = Identity::new(&command.mesh.names.trust_domain, namespace, account).map_err(AppError::config)?;
    Ok(Some(OwnPod { name: name.as_str().into(), identity }))
}
