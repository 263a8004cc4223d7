//! The environment as a value, so that it can be read without the process's own; and what stands in
//! several places of Istio's (mesh configuration, `PROXY_CONFIG`, variables) brought into one.

use super::{
    UsageError,
    values::{boolean, cpus, duration, thread_share},
};
use crate::{control::manifest, runtime::workers};
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

/// Where Istio's chart mounts the mesh configuration, from the directory that the image runs in.
const MESH_CONFIG: &str = "./etc/istio/config/mesh";

/// Variables by name. One that is empty counts as not set: charts write out what has no value.
#[derive(Debug, Clone)]
pub struct Environment {
    variables: BTreeMap<String, Variable>,
    mesh_config: PathBuf,
}

#[derive(Debug, Clone)]
struct Variable {
    value: String,
    // What the operator wrote it as.
    origin: String,
}

/// The part of Istio's ProxyConfig that ztunnel knows; further keys are none of its business.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ProxyConfig {
    discovery_address: Option<String>,
    proxy_admin_port: Option<u16>,
    stats_port: Option<u16>,
    concurrency: Option<u16>,
    proxy_metadata: BTreeMap<String, serde_json::Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct MeshConfig {
    default_config: Option<ProxyConfig>,
}

impl Environment {
    /// The process's own.
    pub fn process() -> Self {
        let text = |raw: std::ffi::OsString| raw.to_string_lossy().into_owned();
        std::env::vars_os().map(|(name, value)| (text(name), text(value))).collect()
    }

    /// The same, with the mesh configuration in another file.
    #[must_use]
    pub fn with_mesh_config(mut self, path: impl Into<PathBuf>) -> Self {
        self.mesh_config = path.into();
        self
    }

    /// The value of a variable, if it is set and not empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(|v| v.value.as_str())
    }

    /// The names that begin so.
    pub(super) fn beginning_with<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a str> {
        self.variables.keys().filter(move |name| name.starts_with(prefix)).map(String::as_str)
    }

    /// What the operator wrote the variable as.
    pub(super) fn origin(&self, name: &str) -> &str {
        self.variables.get(name).map_or("", |v| v.origin.as_str())
    }

    /// The value, read by `parse`.
    pub(super) fn parsed<T>(&self, name: &str, parse: impl Fn(&str) -> Result<T, String>) -> Result<Option<T>, UsageError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        parse(value).map(Some).map_err(|reason| UsageError::variable(self.origin(name), value, reason))
    }

    fn set_missing(&mut self, name: &str, value: String, origin: &str) {
        self.variables.entry(name.to_owned()).or_insert_with(|| Variable { value, origin: origin.to_owned() });
    }

    /// What a ztunnel is told: the mesh configuration, then `PROXY_CONFIG`, then variables, the
    /// later the stronger; and one variable where Istio has several for one thing (contract, 7).
    pub(super) fn of_ztunnel(mut self) -> Result<Self, UsageError> {
        // The stronger first: what is set stays.
        if let Some(text) = self.get("PROXY_CONFIG").map(str::to_owned) {
            let config = document(&text).map_err(|reason| UsageError::Environment(format!("PROXY_CONFIG: {reason}")))?;
            self.take(config.unwrap_or_default(), "PROXY_CONFIG")?;
        }
        let path = self.mesh_config.clone();
        if let Some(config) = mesh_config(&path)? {
            self.take(config, &path.display().to_string())?;
        }
        self.alias("ISTIO_META_CLUSTER_ID", "CLUSTER_ID");
        self.alias("PROXY_WORKLOAD_INFO", "CAIRN_WORKLOAD");
        self.set_missing("CAIRN_ACCESS_LOG", "filter".into(), "CAIRN_ACCESS_LOG");
        self.log_format()?;
        self.drain_deadline()?;
        self.worker_threads(workers::cores())?;
        Ok(self)
    }

    fn take(&mut self, config: ProxyConfig, origin: &str) -> Result<(), UsageError> {
        let mut known = |name: &str, key: &str, value: Option<String>| {
            if let Some(value) = value {
                self.set_missing(name, value, &format!("{origin}, {key}"));
            }
        };
        known("XDS_ADDRESS", "discoveryAddress", config.discovery_address);
        known("CAIRN_ADMIN_ADDRESS", "proxyAdminPort", config.proxy_admin_port.map(|port| format!("127.0.0.1:{port}")));
        known("CAIRN_METRICS_ADDRESS", "statsPort", config.stats_port.map(|port| format!("[::]:{port}")));
        known("ZTUNNEL_WORKER_THREADS", "concurrency", config.concurrency.map(|n| n.to_string()));
        for (key, value) in config.proxy_metadata {
            let text = match value {
                serde_json::Value::String(text) => text,
                serde_json::Value::Bool(_) | serde_json::Value::Number(_) => value.to_string(),
                serde_json::Value::Null | serde_json::Value::Array(_) | serde_json::Value::Object(_) => {
                    return Err(UsageError::Environment(format!("{origin}, proxyMetadata.{key}: not a text")));
                }
            };
            let name = format!("ISTIO_META_{}", key.strip_prefix("ISTIO_META_").unwrap_or(&key));
            if !text.is_empty() {
                self.set_missing(&name, text, &format!("{origin}, proxyMetadata.{key}"));
            }
        }
        Ok(())
    }

    /// Makes `name` what `stronger` is, if that is set.
    fn alias(&mut self, stronger: &str, name: &str) {
        if let Some(variable) = self.variables.get(stronger).cloned() {
            self.variables.insert(name.to_owned(), variable);
        }
    }

    /// One word for both logs.
    fn log_format(&mut self) -> Result<(), UsageError> {
        let known = |text: &str| match text {
            "json" => Ok(true),
            "plain" | "text" => Ok(false),
            _ => Err("neither plain nor json".to_owned()),
        };
        if self.parsed("LOG_FORMAT", known)? == Some(true) {
            self.set_missing("CAIRN_LOG_JSON", "true".into(), "LOG_FORMAT");
            self.set_missing("CAIRN_ACCESS_LOG_FORMAT", "json".into(), "LOG_FORMAT");
        }
        Ok(())
    }

    /// Less than the kubelet gives us, so that what is left at the end is closed by us and not cut
    /// off with us (contract, 1.10).
    fn drain_deadline(&mut self) -> Result<(), UsageError> {
        if self.parsed("CONNECTION_TERMINATION_DEADLINE", duration)?.is_some() {
            self.alias("CONNECTION_TERMINATION_DEADLINE", "CAIRN_DRAIN_DEADLINE");
            return Ok(());
        }
        let seconds = |text: &str| text.parse::<u64>().map_err(|_| "not a number of seconds".to_owned());
        let deadline = match self.parsed("TERMINATION_GRACE_PERIOD_SECONDS", seconds)? {
            Some(grace) if grace > 10 => grace - 5,
            Some(grace) => grace.saturating_sub(1).max(1),
            None => DRAIN_DEADLINE.as_secs(),
        };
        self.set_missing("CAIRN_DRAIN_DEADLINE", format!("{deadline}s"), "TERMINATION_GRACE_PERIOD_SECONDS");
        Ok(())
    }

    fn worker_threads(&mut self, cores: usize) -> Result<(), UsageError> {
        // What the downward API says without a limit is the number of the node's cores.
        let cores = self.parsed("ZTUNNEL_CPU_LIMIT", cpus)?.map_or(cores, |cpus| cpus.max(1));
        let limit = self.parsed("ZTUNNEL_RESOURCE_CPU_LIMIT", cpus)?;
        let request = self.parsed("ZTUNNEL_RESOURCE_CPU_REQUEST", cpus)?;
        let told = self.parsed("ZTUNNEL_WORKER_THREADS", |text| thread_share(text, cores))?;
        let threads = match (told, limit) {
            (Some(told), _) => told,
            (None, Some(limit)) => limit.max(request.unwrap_or_default()).max(1),
            (None, None) => cores.div_ceil(4).max(request.unwrap_or_default()).max(2),
        };
        self.set_missing("CAIRN_WORKER_THREADS", threads.to_string(), "ZTUNNEL_WORKER_THREADS");
        Ok(())
    }

    /// A variable that is `true` or `false`.
    pub(super) fn flag(&self, name: &str) -> Result<Option<bool>, UsageError> {
        self.parsed(name, boolean)
    }
}

/// For a ztunnel that is told nothing.
const DRAIN_DEADLINE: Duration = Duration::from_secs(5);

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        let pairs = pairs.into_iter().map(|(name, value)| (name.into(), value.into()));
        let set = pairs.filter(|(_, value)| !value.is_empty());
        let variables = set.map(|(name, value)| (name.clone(), Variable { value, origin: name })).collect();
        Self { variables, mesh_config: MESH_CONFIG.into() }
    }
}

fn mesh_config(path: &Path) -> Result<Option<ProxyConfig>, UsageError> {
    let wrong = |reason: String| UsageError::Environment(format!("{}: {reason}", path.display()));
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(document::<MeshConfig>(&text).map_err(wrong)?.and_then(|mesh| mesh.default_config)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(wrong(error.to_string())),
    }
}

fn document<T: for<'de> Deserialize<'de>>(text: &str) -> Result<Option<T>, String> {
    let value = manifest::parse_document(text)?;
    serde_path_to_error::deserialize(value).map_err(|error| error.to_string())
}
