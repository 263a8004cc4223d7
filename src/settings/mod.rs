//! The command line: the only reader of arguments and environment. Each room has a small `Config`
//! of its own, which is filled in here.
//!
//! [`Cli::read`] is the way in. A flag wins over the variable that its help names.

mod control_plane;
mod environment;
mod given;
mod image;
mod limits;
mod listen;
mod pod;
mod proxy_config;
mod read;
#[cfg(test)]
mod tests;
mod values;
mod waypoint;
mod ztunnel;

pub use control_plane::{
    CaSettings, CompliancePolicy, ControlPlane, ControlPlaneArgs, NodeSettings, ServerAddress, TlsSettings, XdsSettings,
};
pub use environment::Environment;
pub use limits::{HboneArgs, WaypointArgs};
pub use listen::{AdminListeners, ListenAddress, WaypointListeners, ZtunnelListeners};
pub use pod::PodArgs;
pub use read::UsageError;
pub use values::{PodAddress, WorkloadName};
pub use waypoint::WaypointCommand;
pub use ztunnel::{DnsArgs, ProxyMode, SocketArgs, ZtunnelCommand};

use crate::{
    check,
    control::manifest,
    model::ResourceName,
    telemetry::{AccessLogFormat, AccessLogMode},
};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::{path::PathBuf, time::Duration};
use values::{duration, log_filter, resource_name, threads};

/// An ambient service-mesh data plane: waypoint and ztunnel in one binary.
#[derive(Debug, Parser)]
#[command(name = "cairn", version, max_term_width = 100, propagate_version = true)]
#[command(after_help = "Exit status: 0 done, 1 failed while running, 2 wrong usage or configuration.")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a waypoint: terminate HBONE, apply routes, retries and L7 policy, forward over HBONE.
    /// `proxy waypoint`, as Istio's Deployment calls it, is the same
    Waypoint(Box<WaypointCommand>),
    /// Run a ztunnel, for the pods of a node or for one workload: capture traffic into HBONE and
    /// apply L4 policy. `proxy ztunnel`, as Istio's DaemonSet calls it, is the same without flags
    Ztunnel(Box<ZtunnelCommand>),
    /// Run the bookinfo mesh in one process on loopback addresses, and show what happens
    Demo(DemoCommand),
    /// Judge manifests: everything that is wrong, and what is legal but surely not meant
    Check(CheckCommand),
    /// Make a development CA and workload certificates, to try mutual TLS without a control plane
    Certs(CertsCommand),
}

/// Where the mesh is described.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Mesh")]
pub struct MeshArgs {
    /// Kubernetes manifests, YAML or JSON: a file, or a directory that is searched; watched for
    /// changes. May be given several times. Beside a control plane, which then says what workloads and
    /// services there are, a waypoint reads Gateways, routes, policies and namespaces from them
    #[arg(long, value_name = "PATH", env = "CAIRN_MANIFESTS")]
    pub manifests: Vec<PathBuf>,
    /// Start although manifests are invalid; what cannot be served is left out and reported
    #[arg(long, env = "CAIRN_LENIENT")]
    pub lenient: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "documented at the type")]
    pub names: NameArgs,
}

/// Names that manifests do not hold.
#[derive(Debug, Clone, Args)]
pub struct NameArgs {
    /// DNS domain of the cluster
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local", env = "CLUSTER_DOMAIN")]
    pub cluster_domain: String,
    /// Trust domain of all workloads
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local", env = "TRUST_DOMAIN")]
    pub trust_domain: String,
    /// Namespace whose policies hold for the whole mesh
    #[arg(long, value_name = "NAMESPACE", default_value = "istio-system", env = "CAIRN_ROOT_NAMESPACE")]
    pub root_namespace: String,
}

/// What every long-running mode needs.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Process")]
pub struct ProcessArgs {
    /// Directory with cert-chain.pem, key.pem and roots.pem (as `cairn certs` makes them; Istio's
    /// root-cert.pem is read as well). Reread when the files change. For a ztunnel in shared mode,
    /// the top of what `cairn certs` makes. Without it certificates come from the SPIFFE Workload API,
    /// if its socket is told, or else from a CA
    #[arg(long, value_name = "DIR", env = "CAIRN_IDENTITY_DIR")]
    pub identity_dir: Option<PathBuf>,
    /// After SIGTERM or SIGINT, requests in flight may finish for this long
    #[arg(long, value_name = "TIME", default_value = "25s", value_parser = duration, env = "CAIRN_DRAIN_DEADLINE")]
    pub drain_deadline: Duration,
    /// Which requests and connections are logged to standard output: off, errors, all, debug (those
    /// that open as well), or filter: as --log says for `access`, which is the default of a ztunnel
    #[arg(long, value_name = "WHICH", default_value = "errors", env = "CAIRN_ACCESS_LOG")]
    pub access_log: AccessLogMode,
    /// How: text or json
    #[arg(long, value_name = "FORMAT", default_value = "text", env = "CAIRN_ACCESS_LOG_FORMAT")]
    pub access_log_format: AccessLogFormat,
    /// What is logged to standard error, as in `info,cairn::hbone=debug`
    #[arg(long, value_name = "FILTER", value_parser = log_filter, env = "RUST_LOG")]
    pub log: Option<String>,
    /// Log to standard error as JSON
    #[arg(long, env = "CAIRN_LOG_JSON")]
    pub log_json: bool,
    /// Threads that carry traffic: a number, 0 for one for each core, or a share of the cores such
    /// as 25%. By default one for each core; for a ztunnel, what Istio's takes
    #[arg(long, value_name = "N", value_parser = threads, env = "CAIRN_WORKER_THREADS")]
    pub worker_threads: Option<usize>,
    /// Write the addresses that are listened on to this file, as JSON, once all of them are
    #[arg(long, value_name = "FILE")]
    pub bound_addresses: Option<PathBuf>,
}

/// `cairn demo`
#[derive(Debug, Args)]
pub struct DemoCommand {
    /// Show one report and exit
    #[arg(long)]
    pub once: bool,
    /// The mesh to run
    #[arg(long, value_name = "DIR", default_value = "config/bookinfo")]
    pub manifests: PathBuf,
    /// Time between reports
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub interval: Duration,
    /// What is logged to standard error
    #[arg(long, value_name = "FILTER", value_parser = log_filter, default_value = "warn", env = "RUST_LOG")]
    pub log: String,
}

/// `cairn check`
#[derive(Debug, Args)]
pub struct CheckCommand {
    /// Files and directories with manifests
    #[arg(value_name = "PATH", required = true)]
    pub paths: Vec<PathBuf>,
    /// How findings are printed
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub output: OutputFormat,
    #[command(flatten)]
    #[allow(missing_docs, reason = "documented at the type")]
    pub names: NameArgs,
}

/// How `cairn check` prints.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum OutputFormat {
    /// One line for each finding
    Text,
    /// One JSON object
    Json,
}

impl From<OutputFormat> for check::Output {
    fn from(format: OutputFormat) -> Self {
        match format {
            OutputFormat::Text => Self::Text,
            OutputFormat::Json => Self::Json,
        }
    }
}

/// `cairn certs`
#[derive(Debug, Args)]
#[command(after_help = "Layout: OUT/roots.pem, OUT/ca-key.pem, and OUT/NS/SA/{cert-chain,key,roots}.pem for each workload. \
                        An existing CA in OUT is used again.")]
pub struct CertsCommand {
    /// Where to write
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Service accounts to make certificates for
    #[arg(value_name = "NAMESPACE/SERVICE_ACCOUNT", required = true, value_parser = resource_name)]
    pub accounts: Vec<ResourceName>,
    /// Trust domain of the identities
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local", env = "TRUST_DOMAIN")]
    pub trust_domain: String,
    /// Time for which the certificates are valid
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = duration)]
    pub ttl: Duration,
}

impl MeshArgs {
    /// What the manifest source reads.
    pub fn source(&self) -> manifest::Config {
        self.names.source(self.manifests.clone(), self.lenient)
    }
}

impl NameArgs {
    /// What the manifest source reads, for these paths.
    pub fn source(&self, paths: Vec<PathBuf>, lenient: bool) -> manifest::Config {
        manifest::Config {
            paths,
            cluster_domain: self.cluster_domain.clone(),
            trust_domain: self.trust_domain.clone(),
            root_namespace: self.root_namespace.clone(),
            lenient,
        }
    }
}
