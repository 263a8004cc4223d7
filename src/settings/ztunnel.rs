//! `cairn ztunnel`: everything that Istio's ztunnel can be told, as flags and by its variables
//! (contract, 7).

use super::{
    Environment, HboneArgs, MeshArgs, PodAddress, ProcessArgs, UsageError, WorkloadName, ZtunnelListeners,
    values::{boolean, duration, lifetime, packet_mark, says_true},
};
use crate::transport::socket::Keepalive;
use clap::{ArgAction::Set, Args, ValueEnum};
use std::{net::IpAddr, path::PathBuf, time::Duration};

/// `cairn ztunnel`
#[derive(Debug, Args)]
// One of two suffices; `complete` sees to it, with better words.
#[command(mut_args(|arg| match arg.get_id().as_str() { "manifests" | "identity_dir" => arg.required(false), _ => arg }))]
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
    pub pod: PodArgs,
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
    /// Life of the certificates that a development CA signs; they are renewed at half of it
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = lifetime, help_heading = "Limits", env = "SECRET_TTL")]
    pub secret_ttl: Duration,
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

/// Who and where the proxy itself is.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Node")]
pub struct PodArgs {
    /// The node, by which workloads are known to be local
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    pub node: Option<String>,
    /// The network that the node is on
    #[arg(long, value_name = "NAME", default_value = "", env = "NETWORK")]
    pub network: String,
    /// The cluster
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
    /// The socket of Istio's CNI agent, which announces pods
    #[arg(long, value_name = "PATH", default_value = "/var/run/ztunnel/ztunnel.sock", env = "INPOD_UDS")]
    pub inpod_socket: PathBuf,
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

/// Variables that switch something on which there is not, and what they say when they do. To go on
/// without it would be to promise what is not kept.
const REFUSED: [(&str, Asks, &str); 6] = [
    ("XDS_ON_DEMAND", is_true, "there is no on-demand xDS"),
    ("FAKE_CA", is_true, "there is no built-in CA: `cairn certs` makes one for --identity-dir"),
    ("TLS12_ENABLED", |value| value == "true", "there is no TLS 1.2, only 1.3"),
    ("COMPLIANCE_POLICY", |_| true, "compliance policies are not supported"),
    ("CRL_PATH", |_| true, "certificate revocation lists are not supported"),
    ("ENABLE_PROXY", |value| value == "false", "a ztunnel that proxies nothing is not supported"),
];

/// Whether a value asks for it.
type Asks = fn(&str) -> bool;

fn is_true(value: &str) -> bool {
    value == "true"
}

/// Variables of the xDS client.
const XDS: [&str; 3] = ["XDS_ADDRESS", "XDS_ROOT_CA", "ALT_XDS_HOSTNAME"];
/// Variables of the CA client.
const CA: [&str; 3] = ["CA_ADDRESS", "CA_ROOT_CA", "ALT_CA_HOSTNAME"];

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

    /// What is beyond single values: refuses what cannot be done and notes what has no effect.
    pub(super) fn complete(&mut self, environment: &Environment) -> Result<(), UsageError> {
        refuse(environment)?;
        self.choose_mesh(environment)?;
        self.choose_certificates(environment)?;
        if self.proxy_mode() == ProxyMode::Shared && self.workload.is_some() {
            let text = "a workload is named (--workload, PROXY_WORKLOAD_INFO), but the mode is shared";
            return Err(UsageError::Environment(text.to_owned()));
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

    /// Manifests or one of the two local forms; a flag leaves aside what only the environment says.
    fn choose_mesh(&mut self, environment: &Environment) -> Result<(), UsageError> {
        let given = [!self.mesh.manifests.is_empty(), self.local_xds.is_some(), self.local_xds_inline.is_some()];
        match given.into_iter().filter(|given| *given).count() {
            0 => {
                let asked = environment.get("XDS_ADDRESS").map(|value| format!(" ({}={value})", environment.origin("XDS_ADDRESS")));
                let asked = asked.unwrap_or_default();
                Err(UsageError::Environment(format!(
                    "no mesh: there is no xDS client yet{asked}; give LOCAL_XDS_PATH, LOCAL_XDS or --manifests (CAIRN_MANIFESTS)"
                )))
            }
            1 => {
                let names = XDS.into_iter().chain(environment.beginning_with("XDS_HEADER_"));
                self.ignore(environment, names, "there is no xDS client: the mesh is the local one");
                Ok(())
            }
            _ => Err(UsageError::Environment(
                "only one of LOCAL_XDS_PATH, LOCAL_XDS and CAIRN_MANIFESTS (--local-xds, --local-xds-inline, --manifests) may be set"
                    .to_owned(),
            )),
        }
    }

    fn choose_certificates(&mut self, environment: &Environment) -> Result<(), UsageError> {
        if self.process.identity_dir.is_none() {
            let asked = environment.get("CA_ADDRESS").map(|value| format!(" (CA_ADDRESS={value})")).unwrap_or_default();
            return Err(UsageError::Environment(format!(
                "no certificates: there is no CA client yet{asked}; give --identity-dir (CAIRN_IDENTITY_DIR)"
            )));
        }
        let names = CA.into_iter().chain(["AUTH_TOKEN"]).chain(environment.beginning_with("CA_HEADER_"));
        self.ignore(environment, names, "there is no CA client: certificates come from --identity-dir");
        Ok(())
    }

    fn ignore<'a>(&mut self, environment: &Environment, names: impl Iterator<Item = &'a str>, why: &str) {
        let set: Vec<&str> = names.filter(|name| environment.get(name).is_some()).map(|name| environment.origin(name)).collect();
        if !set.is_empty() {
            self.warnings.push(format!("without effect: {} ({why})", set.join(", ")));
        }
    }
}

fn refuse(environment: &Environment) -> Result<(), UsageError> {
    for (name, asks, reason) in REFUSED {
        if let Some(value) = environment.get(name).filter(|value| asks(value)) {
            return Err(UsageError::variable(environment.origin(name), value, reason));
        }
    }
    for name in ["XDS_ON_DEMAND", "FAKE_CA", "ENABLE_PROXY"] {
        environment.flag(name)?;
    }
    Ok(())
}
