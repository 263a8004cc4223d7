//! What stands in several places of Istio's (mesh configuration, `PROXY_CONFIG`, variables of
//! several names) brought into one: the variables that our flags name.

use super::{
    Environment, UsageError,
    environment::read,
    values::{cpus, duration, thread_share},
};
use crate::{control::manifest, runtime::workers};
use serde::Deserialize;
use std::{collections::BTreeMap, time::Duration};

/// The part of Istio's ProxyConfig that we know; further keys are none of our business.
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

/// For a ztunnel that is told nothing.
const DRAIN_DEADLINE: Duration = Duration::from_secs(5);

impl Environment {
    /// What a ztunnel is told: the mesh configuration, then `PROXY_CONFIG`, then variables, the
    /// later the stronger; and one variable where Istio has several for one thing (contract, 7).
    pub(super) fn of_ztunnel(mut self) -> Result<Self, UsageError> {
        self.proxy_config("ZTUNNEL_WORKER_THREADS")?;
        self.alias("PROXY_WORKLOAD_INFO", "CAIRN_WORKLOAD");
        self.set_missing("CAIRN_ACCESS_LOG", "filter".into(), "CAIRN_ACCESS_LOG");
        self.of_both()?;
        if self.parsed("CONNECTION_TERMINATION_DEADLINE", duration)?.is_some() {
            self.alias("CONNECTION_TERMINATION_DEADLINE", "CAIRN_DRAIN_DEADLINE");
        }
        self.drain_deadline()?;
        self.set_missing("CAIRN_DRAIN_DEADLINE", format!("{}s", DRAIN_DEADLINE.as_secs()), "CAIRN_DRAIN_DEADLINE");
        self.worker_threads(workers::cores())?;
        Ok(self)
    }

    /// The same of a waypoint, of which Istio has two: its own, and the one of agentgateway, whose
    /// variables are the weaker.
    pub(super) fn of_waypoint(mut self) -> Result<Self, UsageError> {
        self.proxy_config("CAIRN_WORKER_THREADS")?;
        self.alias("ISTIO_META_NETWORK", "NETWORK");
        self.fall_back("CA_ADDRESS", "CA_ADDR");
        self.fall_back("NODE_NAME", "ISTIO_META_NODE_NAME");
        self.fall_back("SERVICE_ACCOUNT", "ISTIO_META_SERVICE_ACCOUNT");
        self.fall_back("POD_NAMESPACE", "NAMESPACE");
        if self.is_kubernetes() {
            self.fall_back("POD_NAME", "HOSTNAME");
        }
        self.of_both()?;
        self.drain_deadline()?;
        self.fall_back("ISTIO_CPU_LIMIT", "CPU_LIMIT");
        if let Some(cores) = self.parsed("ISTIO_CPU_LIMIT", cpus)? {
            let told = self.get("CAIRN_WORKER_THREADS").map(str::to_owned).unwrap_or_else(|| "0".to_owned());
            // A wrong value is told of when it is used.
            if let Ok(threads) = thread_share(&told, cores.max(1)) {
                self.set("CAIRN_WORKER_THREADS", threads.to_string(), "ISTIO_CPU_LIMIT");
            }
        }
        self.gateway()?;
        Ok(self)
    }

    fn of_both(&mut self) -> Result<(), UsageError> {
        self.alias("ISTIO_META_CLUSTER_ID", "CLUSTER_ID");
        // Exactly this word switches it on, and no other is an error.
        if let Some(value) = self.get("TLS12_ENABLED") {
            let value = (value == "true").to_string();
            self.set("TLS12_ENABLED", value, "TLS12_ENABLED");
        }
        self.log_format()
    }

    /// Takes what the mesh configuration and `PROXY_CONFIG` say; `threads` is the variable that
    /// `concurrency` is.
    fn proxy_config(&mut self, threads: &str) -> Result<(), UsageError> {
        // The stronger first: what is set stays.
        if let Some(text) = self.get("PROXY_CONFIG").map(str::to_owned) {
            let config = document(&text).map_err(|reason| UsageError::wrong(format!("PROXY_CONFIG: {reason}")))?;
            self.take(config.unwrap_or_default(), threads, "PROXY_CONFIG")?;
        }
        let path = self.mesh_config();
        let wrong = |reason: String| UsageError::wrong(format!("{}: {reason}", path.display()));
        let mesh = read(&path)?.map(|text| document::<MeshConfig>(&text).map_err(wrong)).transpose()?.flatten();
        if let Some(config) = mesh.and_then(|mesh| mesh.default_config) {
            self.take(config, threads, &path.display().to_string())?;
        }
        Ok(())
    }

    fn take(&mut self, config: ProxyConfig, threads: &str, origin: &str) -> Result<(), UsageError> {
        let mut known = |name: &str, key: &str, value: Option<String>| {
            if let Some(value) = value.filter(|value| !value.is_empty()) {
                self.set_missing(name, value, &format!("{origin}, {key}"));
            }
        };
        known("XDS_ADDRESS", "discoveryAddress", config.discovery_address);
        known("CAIRN_ADMIN_ADDRESS", "proxyAdminPort", config.proxy_admin_port.map(|port| format!("127.0.0.1:{port}")));
        known("CAIRN_METRICS_ADDRESS", "statsPort", config.stats_port.map(|port| format!("[::]:{port}")));
        known(threads, "concurrency", config.concurrency.map(|n| n.to_string()));
        for (key, value) in config.proxy_metadata {
            let text = match value {
                serde_json::Value::String(text) => text,
                serde_json::Value::Bool(_) | serde_json::Value::Number(_) => value.to_string(),
                serde_json::Value::Null | serde_json::Value::Array(_) | serde_json::Value::Object(_) => {
                    return Err(UsageError::wrong(format!("{origin}, proxyMetadata.{key}: not a text")));
                }
            };
            let has_prefix = key.starts_with("ISTIO_META_") || key.starts_with("ISTIO_METAJSON_");
            let name = if has_prefix { key.clone() } else { format!("ISTIO_META_{key}") };
            if !text.is_empty() {
                self.set_missing(&name, text, &format!("{origin}, proxyMetadata.{key}"));
            }
        }
        Ok(())
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
        let seconds = |text: &str| text.parse::<u64>().map_err(|_| "not a number of seconds".to_owned());
        if let Some(grace) = self.parsed("TERMINATION_GRACE_PERIOD_SECONDS", seconds)? {
            let deadline = if grace > 10 { grace - 5 } else { grace.saturating_sub(1).max(1) };
            self.set_missing("CAIRN_DRAIN_DEADLINE", format!("{deadline}s"), "TERMINATION_GRACE_PERIOD_SECONDS");
        }
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

    /// The Gateway of a waypoint's pod: the Deployment bears its name.
    fn gateway(&mut self) -> Result<(), UsageError> {
        if self.get("CAIRN_GATEWAY").is_some() {
            return Ok(());
        }
        let labels = self.pod_labels()?;
        let label = labels.get(super::control_plane::GATEWAY_NAME).map(String::as_str);
        let name = label.or_else(|| self.get("ISTIO_META_WORKLOAD_NAME")).or_else(|| self.get("GATEWAY"));
        if let (Some(namespace), Some(name)) = (self.get("POD_NAMESPACE"), name) {
            let gateway = format!("{namespace}/{name}");
            self.set("CAIRN_GATEWAY", gateway, "POD_NAMESPACE, ISTIO_META_WORKLOAD_NAME");
        }
        Ok(())
    }
}

fn document<T: for<'de> Deserialize<'de>>(text: &str) -> Result<Option<T>, String> {
    let value = manifest::parse_document(text)?;
    serde_path_to_error::deserialize(value).map_err(|error| error.to_string())
}
