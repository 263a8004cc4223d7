//! `cairn ztunnel`: everything that Istio's ztunnel can be told, as flags and by its variables
//! (contract, 7).

use super::{
    ControlPlane, ControlPlaneArgs, Environment, HboneArgs, MeshArgs, PodAddress, PodArgs, ProcessArgs, ServerAddress, UsageError,
    WorkloadName, ZtunnelListeners,
    control_plane::{CertificatesFrom, Chosen, Facts, Mode, set_of, without_effect},
    given::Given,
    values::{boolean, duration, packet_mark, says_true},
};
use crate::transport::socket::Keepalive;
use clap::{ArgAction::Set, Args, ValueEnum};
use std::{path::PathBuf, time::Duration};

/// `cairn ztunnel`
#[derive(Debug, Args)]
pub struct ZtunnelCommand {
    /// Which workloads are served. By default shared, or dedicated when a workload is named
    #[arg(long, value_name = "MODE", env = "PROXY_MODE")]
    pub mode: Option<ProxyMode>,
    /// In dedicated mode, the pod or WorkloadEntry that this process serves; by default the one
    /// whose service account is that of the certificate, if there is exactly one
    #[arg(long, value_name = "NAMESPACE/NAME[/SERVICE_ACCOUNT]", env = "CAIRN_WORKLOAD")]
    pub workload: Option<WorkloadName>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "documented at the type")]
    pub mesh: MeshArgs,
    /// Instead of manifests: workloads, services and policies in the YAML of Istio's ztunnel
    #[arg(long, value_name = "FILE", help_heading = "Mesh", conflicts_with = "manifests", env = "LOCAL_XDS_PATH")]
    pub local_xds: Option<PathBuf>,
    /// The same, as the text itself
    #[arg(long, value_name = "YAML", help_heading = "Mesh", conflicts_with_all = ["manifests", "local_xds"], env = "LOCAL_XDS")]
    pub local_xds_inline: Option<String>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "documented at the type")]
    pub process: ProcessArgs,
    #[command(flatten)]
    #[allow(missing_docs, reason = "documented at the type")]
    pub control_plane: ControlPlaneArgs,
    /// Ask the control plane only for what is needed, when it is; without DNS proxy only
    #[arg(long, value_name = "BOOL", action = Set, value_parser = boolean, default_value = "false", help_heading = "Control plane",
          env = "XDS_ON_DEMAND")]
    pub xds_on_demand: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "documented at the type")]
    pub pod: PodArgs,
    /// The socket of Istio's CNI agent, which announces pods
    #[arg(long, help_heading = "Node", value_name = "PATH", default_value = "/var/run/ztunnel/ztunnel.sock", env = "INPOD_UDS")]
    pub inpod_socket: PathBuf,
    #[command(flatten)]
    #[allow(missing_docs, reason = "documented at the type")]
    pub listeners: ZtunnelListeners,
    /// Serve SOCKS5; by default only in dedicated mode with manifests, as one tries things out. In a
    /// pod of a node: on 127.0.0.1:15080
    #[arg(long, value_name = "BOOL", value_parser = boolean, help_heading = LISTENERS, env = "UNSTABLE_ENABLE_SOCKS5")]
    pub socks5: Option<bool>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "documented at the type")]
    pub dns: DnsArgs,
    #[command(flatten)]
    #[allow(missing_docs, reason = "documented at the type")]
    pub sockets: SocketArgs,
    #[command(flatten)]
    #[allow(missing_docs, reason = "documented at the type")]
    pub hbone: HboneArgs,
    /// Tell the other side in the answer to a CONNECT which workload it has reached
    #[arg(long, value_name = "BOOL", action = Set, value_parser = boolean, default_value = "true", help_heading = "Tunnels",
          env = "ENABLE_RESPONSE_BAGGAGE")]
    pub response_baggage: bool,
    /// Connect to an application behind a PROXY-protocol tunnel over the pod's loopback
    #[arg(long, value_name = "BOOL", action = Set, value_parser = boolean, default_value = "true", help_heading = "Tunnels",
          env = "LOCALHOST_APP_TUNNEL")]
    pub localhost_app_tunnel: bool,
    /// Refuse traffic to a service or workload whose waypoint does not exist; without this, only in
    /// namespaces with the label cairn.dev/require-waypoint: "true"
    #[arg(long, help_heading = "Policy", env = "CAIRN_REQUIRE_WAYPOINT")]
    pub require_waypoint: bool,
    /// Log verdicts of authorization policies at level info, not debug
    #[arg(long, value_name = "BOOL", action = Set, value_parser = boolean, default_value = "false", help_heading = "Policy",
          env = "AUTHZ_POLICY_INFO_LOGGING")]
    pub authz_policy_info_logging: bool,
    /// Limit for a TCP connect to a workload
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration, help_heading = "Limits")]
    pub connect_timeout: Duration,
    /// With one direction of a connection ended, the other may be idle for this long
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = duration, help_heading = "Limits")]
    pub half_open_idle_timeout: Duration,
    /// A SOCKS5 request must be complete after this time
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration, help_heading = "Limits")]
    pub socks5_timeout: Duration,
    /// A workload that the mesh does not hold (yet) is waited for this long
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration, help_heading = "Limits")]
    pub workload_wait: Duration,
    /// Connections open on a listener at a time; above it new ones wait
    #[arg(long, value_name = "N", default_value_t = 16_384, help_heading = "Limits")]
    pub max_connections: usize,
    /// What comes from a control plane; filled in by [`Cli::read`](super::Cli::read).
    #[arg(skip)]
    pub control: ControlPlane,
    /// What has no effect although it is set; to be logged.
    #[arg(skip)]
    pub warnings: Vec<String>,
}

const LISTENERS: &str = "Listeners (ADDRESS:PORT, or off; port 0 takes a free one)";

/// Which workloads a ztunnel serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ProxyMode {
    /// All pods of a node, as Istio's CNI agent announces them
    Shared,
    /// One, in whose network namespace the process runs
    Dedicated,
}

/// The DNS proxy.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "DNS")]
pub struct DnsArgs {
    /// Answer DNS queries of workloads; in dedicated mode only with a mesh in the local form
    #[arg(long = "dns", value_name = "BOOL", action = Set, value_parser = says_true, default_value = "true", env = "ISTIO_META_DNS_CAPTURE")]
    pub enabled: bool,
    /// Where in the pod (ADDRESS:PORT or localhost:PORT), by UDP and TCP
    #[arg(long = "dns-address", value_name = "ADDR", default_value = "localhost:15053", env = "ISTIO_META_DNS_PROXY_ADDR")]
    pub address: PodAddress,
    /// The namespace whose service a host name means that several namespaces have, none of them the
    /// client's
    #[arg(long, value_name = "NAMESPACE", env = "PREFERED_SERVICE_NAMESPACE")]
    pub preferred_service_namespace: Option<String>,
}

/// Sockets.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Sockets")]
pub struct SocketArgs {
    /// Let the next process listen on a pod's ports beside this one, for upgrades without a gap
    #[arg(long, value_name = "BOOL", action = Set, value_parser = boolean, default_value = "true", env = "INPOD_PORT_REUSE")]
    pub inpod_port_reuse: bool,
    /// Mark of the proxy's own packets, by which the redirection leaves them alone (needs
    /// CAP_NET_ADMIN); by default 1337 in shared mode, none in dedicated
    #[arg(long, value_name = "N", value_parser = packet_mark, env = "PACKET_MARK")]
    pub packet_mark: Option<u32>,
    /// Connect to the workload from the client's address (needs CAP_NET_ADMIN and routing rules);
    /// by default where it can be done
    #[arg(long, value_name = "BOOL", value_parser = boolean, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          env = "ENABLE_ORIG_SRC")]
    pub preserve_source: Option<bool>,
    /// Use IPv6
    #[arg(long, value_name = "BOOL", action = Set, value_parser = boolean, default_value = "true", env = "IPV6_ENABLED")]
    pub ipv6: bool,
    /// Find out that an idle peer is gone (TCP keepalive)
    #[arg(long, value_name = "BOOL", action = Set, value_parser = boolean, default_value = "true", env = "KEEPALIVE_ENABLED")]
    pub keepalive: bool,
    /// Idle time before the first probe
    #[arg(long, value_name = "TIME", default_value = "3m", value_parser = duration, env = "KEEPALIVE_TIME")]
    pub keepalive_time: Duration,
    /// Time between probes
    #[arg(long, value_name = "TIME", default_value = "3m", value_parser = duration, env = "KEEPALIVE_INTERVAL")]
    pub keepalive_interval: Duration,
    /// Probes without an answer until the peer is given up
    #[arg(long, value_name = "N", default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..=127), env = "KEEPALIVE_RETRIES")]
    pub keepalive_retries: u32,
    /// Give up a peer as well that leaves what we sent unacknowledged for as long as all probes take
    #[arg(long, value_name = "BOOL", action = Set, value_parser = boolean, default_value = "false", env = "USER_TIMEOUT_ENABLED")]
    pub user_timeout: bool,
}

impl SocketArgs {
    /// The transport's form.
    pub fn keepalive(&self) -> Keepalive {
        Keepalive {
            enabled: self.keepalive,
            time: self.keepalive_time,
            interval: self.keepalive_interval,
            retries: self.keepalive_retries,
            user_timeout: self.user_timeout,
        }
    }
}

/// Variables that ask for what there is not, and what they say when they do. To go on without it
/// would be to promise what is not kept.
const REFUSED: [(&str, &str, &str); 2] = [
    ("FAKE_CA", "true", "there is no built-in CA: `cairn certs` makes one for --identity-dir"),
    ("ENABLE_PROXY", "false", "a ztunnel that proxies nothing is not supported"),
];

/// Where the mesh is described, each with its variable and flag.
const LOCAL: [(&str, &str); 3] = [("CAIRN_MANIFESTS", "manifests"), ("LOCAL_XDS_PATH", "local_xds"), ("LOCAL_XDS", "local_xds_inline")];

impl ZtunnelCommand {
    /// The mode that is meant.
    pub fn proxy_mode(&self) -> ProxyMode {
        let named = if self.workload.is_some() { ProxyMode::Dedicated } else { ProxyMode::Shared };
        self.mode.unwrap_or(named)
    }

    /// The mark of our packets. Without one, the redirection in a pod would catch them.
    pub fn packet_mark(&self) -> Option<u32> {
        let usual = (self.proxy_mode() == ProxyMode::Shared).then_some(1337);
        self.sockets.packet_mark.or(usual)
    }

    /// What is beyond single values: chooses sources, refuses what cannot be done and notes what has
    /// no effect.
    pub(super) fn complete(&mut self, environment: &Environment, given: &Given) -> Result<(), UsageError> {
        refuse(environment)?;
        self.choose_sources(environment, given)?;
        if self.proxy_mode() == ProxyMode::Shared && self.workload.is_some() {
            return Err(UsageError::wrong("a workload is named (--workload, PROXY_WORKLOAD_INFO), but the mode is shared"));
        }
        let is_tried_out = self.proxy_mode() == ProxyMode::Dedicated && !self.mesh.manifests.is_empty();
        if !self.socks5.unwrap_or(is_tried_out) {
            self.listeners.socks5_address = super::ListenAddress::Off;
        }
        if !self.sockets.ipv6 {
            self.listeners.without_ipv6();
        }
        Ok(())
    }

    fn choose_sources(&mut self, environment: &Environment, given: &Given) -> Result<(), UsageError> {
        let asks = self.asks_control_plane(given)?;
        let has_ca = self.control_plane.ca_address != Some(ServerAddress::Off);
        let certificates = self.control_plane.certificates(self.process.identity_dir.is_some(), has_ca, given)?;
        if certificates == CertificatesFrom::Spiffe && self.proxy_mode() == ProxyMode::Shared {
            return Err(UsageError::wrong(
                "SPIFFE_ENDPOINT_SOCKET (--spiffe-endpoint-socket) cannot be used in shared mode: the SPIFFE Workload API gives a \
                 process its own certificates only, and none of the pods that it would stand in for; use a CA or --identity-dir",
            ));
        }
        let chosen = Chosen { xds: asks, certificates };
        if asks && self.xds_on_demand && self.dns.enabled {
            return Err(UsageError::wrong(
                "XDS_ON_DEMAND and the DNS proxy cannot be combined: names can be answered only by who knows them all; \
                 set ISTIO_META_DNS_CAPTURE=false (--dns=false)",
            ));
        }
        let facts = Facts { mode: Mode::Ztunnel, pod: &self.pod, names: &self.mesh.names, given, on_demand: self.xds_on_demand };
        self.control = self.control_plane.resolve(chosen, &facts, environment)?;
        self.warnings = self.control_plane.unused(chosen, given, environment);
        if asks {
            let local = set_of(&LOCAL, None, given, environment);
            self.warnings.extend(without_effect(local, "the mesh comes from the control plane"));
            self.mesh.manifests.clear();
            (self.local_xds, self.local_xds_inline) = (None, None);
        } else if self.xds_on_demand {
            let set = set_of(&[("XDS_ON_DEMAND", "xds_on_demand")], None, given, environment);
            self.warnings.extend(without_effect(set, "no control plane is asked for the mesh"));
        }
        if certificates != CertificatesFrom::Directory {
            self.process.identity_dir = None;
        }
        Ok(())
    }

    /// Whether the mesh comes from a control plane: it does unless it is described here. A flag
    /// leaves aside what only variables say.
    fn asks_control_plane(&mut self, given: &Given) -> Result<bool, UsageError> {
        let local_flags = LOCAL.iter().any(|(_, flag)| given.has(flag));
        match (self.control_plane.xds_by_flag(given), local_flags) {
            (true, true) => {
                return Err(UsageError::wrong("only one of --xds-address, --manifests, --local-xds and --local-xds-inline may be given"));
            }
            (true, false) => return Ok(true),
            (false, true) => self.keep_flags(given),
            (false, false) => {}
        }
        let described = [!self.mesh.manifests.is_empty(), self.local_xds.is_some(), self.local_xds_inline.is_some()];
        match described.into_iter().filter(|is_set| *is_set).count() {
            0 if self.control_plane.xds_address == Some(ServerAddress::Off) => Err(UsageError::wrong(
                "no mesh: XDS_ADDRESS is off; give the address of a control plane by XDS_ADDRESS (--xds-address), \
                 LOCAL_XDS_PATH, LOCAL_XDS or --manifests (CAIRN_MANIFESTS)",
            )),
            0 => Ok(true),
            1 => Ok(false),
            _ => Err(UsageError::wrong(
                "only one of LOCAL_XDS_PATH, LOCAL_XDS and CAIRN_MANIFESTS (--local-xds, --local-xds-inline, --manifests) may be set",
            )),
        }
    }

    fn keep_flags(&mut self, given: &Given) {
        if !given.has("manifests") {
            self.mesh.manifests.clear();
        }
        self.local_xds.take_if(|_| !given.has("local_xds"));
        self.local_xds_inline.take_if(|_| !given.has("local_xds_inline"));
    }
}

fn refuse(environment: &Environment) -> Result<(), UsageError> {
    for (name, refused, reason) in REFUSED {
        if let Some(value) = environment.get(name).filter(|value| *value == refused) {
            return Err(UsageError::variable(environment.origin(name), value, reason));
        }
        environment.flag(name)?;
    }
    Ok(())
}
