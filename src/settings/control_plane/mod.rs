//! What is told of a control plane: its servers, who we are to it, and what comes from it.

mod node;
mod values;

pub(super) use node::GATEWAY_NAME;
pub use node::NodeSettings;
pub use values::{CompliancePolicy, ServerAddress};

use super::{
    Environment, NameArgs, PodArgs, UsageError,
    given::Given,
    values::{boolean, lifetime},
};
use crate::{
    model::{Identity, Name, ResourceName},
    transport::grpc::{Credentials, Roots, Server, Token},
};
use clap::{ArgAction::Set, Args};
use http::Uri;
use rustls::pki_types::ServerName;
use std::{path::PathBuf, time::Duration};
use values::{
    Header, compliance_policy, header, header_of, header_value, json_metadata, metadata, roots, server_name, spiffe_socket, token,
};

/// The control plane, and certificates.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Control plane")]
pub struct ControlPlaneArgs {
    /// The server of the mesh (xDS): HOST:PORT, with https:// or without, or off. A ztunnel asks it when the mesh
    /// is described nowhere else (by default istiod), a waypoint when this is set, or when there are
    /// no manifests and it runs on Kubernetes
    #[arg(long, value_name = "ADDR", env = "XDS_ADDRESS")]
    pub xds_address: Option<ServerAddress>,
    /// By whom its certificate must be signed: a PEM file, the PEM itself, or SYSTEM; by default
    /// ./var/run/secrets/istio/root-cert.pem
    #[arg(long, value_name = "ROOTS", value_parser = roots, allow_hyphen_values = true, hide_default_value = true, env = "XDS_ROOT_CA")]
    pub xds_root_ca: Option<Roots>,
    /// Another name that its certificate may be for
    #[arg(long, value_name = "NAME", value_parser = server_name, env = "ALT_XDS_HOSTNAME")]
    pub alt_xds_hostname: Option<ServerName<'static>>,
    /// A header of every call to it; may be given several times (env: XDS_HEADER_NAME)
    #[arg(long = "xds-header", value_name = "NAME=VALUE", value_parser = header)]
    pub xds_headers: Vec<Header>,
    /// The server that signs certificates, as above; by default istiod. A waypoint asks the one of
    /// the mesh if nothing else is told, and reads CA_ADDR as well, which is weaker
    #[arg(long, value_name = "ADDR", env = "CA_ADDRESS")]
    pub ca_address: Option<ServerAddress>,
    /// By whom its certificate must be signed, as above
    #[arg(long, value_name = "ROOTS", value_parser = roots, allow_hyphen_values = true, hide_default_value = true, env = "CA_ROOT_CA")]
    pub ca_root_ca: Option<Roots>,
    /// Another name that its certificate may be for
    #[arg(long, value_name = "NAME", value_parser = server_name, env = "ALT_CA_HOSTNAME")]
    pub alt_ca_hostname: Option<ServerName<'static>>,
    /// A header of every call to it; may be given several times (env: CA_HEADER_NAME)
    #[arg(long = "ca-header", value_name = "NAME=VALUE", value_parser = header)]
    pub ca_headers: Vec<Header>,
    /// The token that both servers are shown: a file if it begins with / or ./ (read at each call),
    /// else the token itself; by default ./var/run/secrets/tokens/istio-token if it is there
    #[arg(long, value_name = "FILE or TOKEN", value_parser = token, hide_default_value = true, env = "AUTH_TOKEN")]
    pub auth_token: Option<Token>,
    /// Take certificates from the SPIFFE Workload API at this socket, as in unix:///run/agent.sock. Not
    /// for a ztunnel in shared mode: it would get its own only
    #[arg(long, value_name = "SOCKET", value_parser = spiffe_socket, env = "SPIFFE_ENDPOINT_SOCKET")]
    pub spiffe_endpoint_socket: Option<String>,
    /// Certificates that are asked for live this long, and are renewed at half of it; those that a
    /// development CA signs, too
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = lifetime, env = "SECRET_TTL")]
    pub secret_ttl: Duration,
    /// A PEM file with revocation lists: peers whose certificate is in one are refused
    #[arg(long, value_name = "FILE", env = "CRL_PATH")]
    pub crl_path: Option<PathBuf>,
    /// Speak TLS 1.2 to peers that cannot do 1.3
    #[arg(long, value_name = "BOOL", action = Set, value_parser = boolean, default_value = "false", env = "TLS12_ENABLED")]
    pub tls12: bool,
    /// Rules for cryptography that must be kept: pqc (key exchange that withstands quantum computers)
    #[arg(long, value_name = "POLICY", value_parser = compliance_policy, env = "COMPLIANCE_POLICY")]
    pub compliance_policy: Option<CompliancePolicy>,
    /// Tell the control plane this of the proxy; may be given several times (env: ISTIO_META_KEY)
    #[arg(long, value_name = "KEY=VALUE", value_parser = metadata)]
    pub meta: Vec<(String, String)>,
    /// The same with a value in JSON (env: ISTIO_METAJSON_KEY)
    #[arg(long, value_name = "KEY=JSON", value_parser = json_metadata)]
    pub meta_json: Vec<(String, serde_json::Value)>,
}

/// What comes from where. After [`Cli::read`](super::Cli::read) this is all that there is to know:
/// what is not here is not to be used, although it may have been set.
#[derive(Debug, Clone, Default)]
pub struct ControlPlane {
    /// The mesh comes from here.
    pub xds: Option<XdsSettings>,
    /// Certificates come from here; never together with `spiffe` or `--identity-dir`.
    pub ca: Option<CaSettings>,
    /// Certificates come from the SPIFFE Workload API at this socket, `unix:///PATH`.
    pub spiffe: Option<String>,
    /// Whom a waypoint's certificate is to be for, if it comes from `ca` or `spiffe`; those of a ztunnel
    /// are for its workloads.
    pub identity: Option<Identity>,
    /// Revocation lists.
    pub crl: Option<PathBuf>,
    /// TLS between proxies.
    pub tls: TlsSettings,
    /// The class of a waypoint's Gateway, if its pod says it.
    pub gateway_class: Option<Name>,
    /// Time that certificates are asked for.
    pub secret_ttl: Duration,
}

/// How the mesh is asked for.
#[derive(Debug, Clone)]
pub struct XdsSettings {
    /// The server.
    pub server: Server,
    /// Ask for what is needed only. Never for a waypoint, which must know all that is bound to it.
    pub on_demand: bool,
    /// Who we are.
    pub node: NodeSettings,
}

/// How certificates are asked for.
#[derive(Debug, Clone)]
pub struct CaSettings {
    /// The server.
    pub server: Server,
}

/// TLS between proxies. Not both are set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TlsSettings {
    /// 1.2 as well as 1.3.
    pub tls12: bool,
    /// Only key exchange that withstands quantum computers.
    pub pqc: bool,
}

/// The mode that is started.
#[derive(Debug, Clone, Copy)]
pub(super) enum Mode<'a> {
    Ztunnel,
    Waypoint { gateway: &'a ResourceName },
}

/// What else of the command line matters here.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts<'a> {
    pub(super) mode: Mode<'a>,
    pub(super) pod: &'a PodArgs,
    pub(super) names: &'a NameArgs,
    pub(super) given: &'a Given,
    pub(super) on_demand: bool,
}

/// Where certificates come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CertificatesFrom {
    Directory,
    Spiffe,
    Ca,
}

/// What was chosen.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chosen {
    pub(super) xds: bool,
    pub(super) certificates: CertificatesFrom,
}

/// Variables of the xDS client, each with its flag.
pub(super) const XDS: [(&str, &str); 4] =
    [("XDS_ADDRESS", "xds_address"), ("XDS_ROOT_CA", "xds_root_ca"), ("ALT_XDS_HOSTNAME", "alt_xds_hostname"), ("", "xds_headers")];
/// Variables of the CA client.
const CA: [(&str, &str); 4] =
    [("CA_ADDRESS", "ca_address"), ("CA_ROOT_CA", "ca_root_ca"), ("ALT_CA_HOSTNAME", "alt_ca_hostname"), ("", "ca_headers")];
const SPIFFE: (&str, &str) = ("SPIFFE_ENDPOINT_SOCKET", "spiffe_endpoint_socket");
const DIRECTORY: (&str, &str) = ("CAIRN_IDENTITY_DIR", "identity_dir");
const AUTH_TOKEN: (&str, &str) = ("AUTH_TOKEN", "auth_token");

pub(super) const XDS_HEADERS: &str = "XDS_HEADER_";
const CA_HEADERS: &str = "CA_HEADER_";

impl ControlPlaneArgs {
    /// Whether a flag names the server of the mesh.
    pub(super) fn xds_by_flag(&self, given: &Given) -> bool {
        given.has("xds_address") && matches!(self.xds_address, Some(ServerAddress::At(_)))
    }

    /// The one source of certificates: what a flag says, else the directory before the SPIFFE
    /// Workload API before a CA, if one `is_known`.
    pub(super) fn certificates(&self, directory: bool, is_known: bool, given: &Given) -> Result<CertificatesFrom, UsageError> {
        use CertificatesFrom::{Ca, Directory, Spiffe};
        let has_spiffe = self.spiffe_endpoint_socket.is_some();
        let ca_by_flag = given.has("ca_address") && matches!(self.ca_address, Some(ServerAddress::At(_)));
        let flags = [(given.has("identity_dir"), Directory), (given.has(SPIFFE.1), Spiffe), (ca_by_flag, Ca)];
        let mut by_flag = flags.into_iter().filter(|(given, _)| *given).map(|(_, source)| source);
        match (by_flag.next(), by_flag.next()) {
            (Some(source), None) => Ok(source),
            (Some(_), Some(_)) => {
                Err(UsageError::wrong("only one of --identity-dir, --spiffe-endpoint-socket and --ca-address may be given"))
            }
            (None, _) if directory => Ok(Directory),
            (None, _) if has_spiffe => Ok(Spiffe),
            (None, _) if is_known => Ok(Ca),
            (None, _) => Err(UsageError::wrong(
                "no certificates: give the address of a CA by CA_ADDRESS (--ca-address), \
                 SPIFFE_ENDPOINT_SOCKET (--spiffe-endpoint-socket) or --identity-dir (CAIRN_IDENTITY_DIR)",
            )),
        }
    }

    /// What was chosen, with all that it needs.
    pub(super) fn resolve(&self, chosen: Chosen, facts: &Facts<'_>, environment: &Environment) -> Result<ControlPlane, UsageError> {
        let istiod = istiod(environment);
        let at = |address: &Option<ServerAddress>| match address {
            Some(ServerAddress::At(address)) => Some(address.clone()),
            Some(ServerAddress::Off) | None => None,
        };
        let xds = chosen.xds.then(|| -> Result<_, UsageError> {
            let parts = (at(&self.xds_address).unwrap_or_else(|| istiod.clone()), &self.xds_root_ca, &self.alt_xds_hostname);
            let server = self.server(parts, headers(environment, XDS_HEADERS, &self.xds_headers)?, facts, environment)?;
            Ok(XdsSettings { server, on_demand: facts.on_demand, node: node::node(self, facts, environment)? })
        });
        let ca = (chosen.certificates == CertificatesFrom::Ca).then(|| -> Result<_, UsageError> {
            let beside = match facts.mode {
                Mode::Ztunnel => None,
                Mode::Waypoint { .. } => at(&self.xds_address),
            };
            let parts = (at(&self.ca_address).or(beside).unwrap_or_else(|| istiod.clone()), &self.ca_root_ca, &self.alt_ca_hostname);
            let server = self.server(parts, headers(environment, CA_HEADERS, &self.ca_headers)?, facts, environment)?;
            Ok(CaSettings { server })
        });
        let pqc = self.compliance_policy == Some(CompliancePolicy::Pqc);
        Ok(ControlPlane {
            xds: xds.transpose()?,
            ca: ca.transpose()?,
            spiffe: self.spiffe_endpoint_socket.clone().filter(|_| chosen.certificates == CertificatesFrom::Spiffe),
            identity: own_identity(chosen, facts)?,
            crl: self.crl_path.clone(),
            // TLS 1.2 knows no such key exchange.
            tls: TlsSettings { tls12: self.tls12 && !pqc, pqc },
            gateway_class: node::gateway_class(facts, environment)?,
            secret_ttl: self.secret_ttl,
        })
    }

    fn server(
        &self,
        (address, roots, alternative): (Uri, &Option<Roots>, &Option<ServerName<'static>>),
        headers: Vec<Header>,
        facts: &Facts<'_>,
        environment: &Environment,
    ) -> Result<Server, UsageError> {
        let token = match &self.auth_token {
            Some(token) => Some(token.clone()),
            None => Some(environment.token_file()).filter(|file| file.exists()).map(Token::File),
        };
        if matches!(&token, Some(Token::Literal(token)) if header_value(token.trim()).is_err()) {
            let name = if facts.given.has(AUTH_TOKEN.1) { "--auth-token" } else { AUTH_TOKEN.0 };
            return Err(UsageError::wrong(format!("{name}: not a text that a header can hold")));
        }
        let cluster = facts.pod.cluster_id.clone();
        if header_value(&cluster).is_err() {
            return Err(UsageError::wrong(format!("CLUSTER_ID={cluster:?} (--cluster-id): not a text that a header can hold")));
        }
        Ok(Server {
            address,
            roots: roots.clone().unwrap_or_else(|| Roots::File(environment.root_certificates())),
            alternative_name: alternative.clone(),
            credentials: Credentials { token, cluster, headers },
        })
    }

    /// What is set and not used, as texts to be logged.
    pub(super) fn unused(&self, chosen: Chosen, given: &Given, environment: &Environment) -> Vec<String> {
        let mut warnings = Vec::new();
        if !chosen.xds {
            let set = set_of(&XDS, Some(XDS_HEADERS), given, environment);
            warnings.extend(without_effect(set, "the mesh is described elsewhere, no control plane is asked for it"));
        }
        let (mut set, why) = match chosen.certificates {
            CertificatesFrom::Directory => (set_of(&[&CA[..], &[SPIFFE]].concat(), Some(CA_HEADERS), given, environment), "--identity-dir"),
            CertificatesFrom::Spiffe => (set_of(&[&CA[..], &[DIRECTORY]].concat(), Some(CA_HEADERS), given, environment), SPIFFE.0),
            CertificatesFrom::Ca => (set_of(&[SPIFFE, DIRECTORY], None, given, environment), "the CA"),
        };
        if !chosen.xds && chosen.certificates != CertificatesFrom::Ca {
            set.extend(set_of(&[AUTH_TOKEN], None, given, environment));
        }
        warnings.extend(without_effect(set, &format!("certificates come from {why}")));
        if self.tls12 && self.compliance_policy == Some(CompliancePolicy::Pqc) {
            warnings.push("without effect: TLS12_ENABLED (the compliance policy pqc needs TLS 1.3)".to_owned());
        }
        warnings
    }
}

/// Istio's own, which in its charts goes without saying.
fn istiod(environment: &Environment) -> Uri {
    if environment.is_kubernetes() {
        Uri::from_static("https://istiod.istio-system.svc:15012/")
    } else {
        Uri::from_static("https://localhost:15012/")
    }
}

/// Those of variables, then those of flags; of two with one name the flag's.
fn headers(environment: &Environment, prefix: &str, given: &[Header]) -> Result<Vec<Header>, UsageError> {
    let mut all = Vec::new();
    for variable in environment.beginning_with(prefix) {
        let (name, value) = (variable.strip_prefix(prefix).unwrap_or_default(), environment.get(variable).unwrap_or_default());
        // The value may be a secret, and is not repeated.
        let (name, value) = header_of(name, value).map_err(|reason| UsageError::wrong(format!("{variable}: {reason}")))?;
        if given.iter().all(|(known, _)| *known != name) {
            all.push((name, value));
        }
    }
    all.extend(given.iter().cloned());
    Ok(all)
}

/// For whom a waypoint asks for a certificate.
fn own_identity(chosen: Chosen, facts: &Facts<'_>) -> Result<Option<Identity>, UsageError> {
    // A directory says it by itself.
    if matches!(facts.mode, Mode::Ztunnel) || chosen.certificates == CertificatesFrom::Directory {
        return Ok(None);
    }
    let parts = [
        ("POD_NAMESPACE (--pod-namespace)", facts.pod.pod_namespace.as_deref()),
        ("SERVICE_ACCOUNT (--service-account)", facts.pod.service_account.as_deref()),
    ];
    let missing: Vec<&str> = parts.iter().filter(|(_, value)| value.is_none()).map(|(name, _)| *name).collect();
    let (Some(namespace), Some(account)) = (parts[0].1, parts[1].1) else {
        let missing = missing.join(" and ");
        return Err(UsageError::wrong(format!("it must be told for whom the certificate is: {missing} not set")));
    };
    let wrong = |error| UsageError::wrong(format!("TRUST_DOMAIN, POD_NAMESPACE, SERVICE_ACCOUNT: {error}"));
    Identity::new(&facts.names.trust_domain, namespace, account).map(Some).map_err(wrong)
}

/// Which of these are set, as the operator wrote them.
pub(super) fn set_of(names: &[(&str, &str)], prefix: Option<&str>, given: &Given, environment: &Environment) -> Vec<String> {
    let asks = |value: &str| value != "off" && value != "false";
    let one = |(variable, flag): &(&str, &str)| {
        let by_flag = given.has(flag).then(|| Given::flag(flag));
        by_flag.or_else(|| environment.get(variable).filter(|value| asks(value)).map(|_| environment.origin(variable).to_owned()))
    };
    let named = names.iter().filter_map(one);
    let headers = prefix.into_iter().flat_map(|prefix| environment.beginning_with(prefix)).map(str::to_owned);
    named.chain(headers).collect()
}

/// The text to be logged, if there is something to tell.
pub(super) fn without_effect(set: Vec<String>, why: &str) -> Option<String> {
    (!set.is_empty()).then(|| format!("without effect: {} ({why})", set.join(", ")))
}
