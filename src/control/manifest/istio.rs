//! The few Istio types that no crate publishes, with the upstream field names.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use std::collections::BTreeMap;

/// The frame of every object.
#[derive(Debug, Deserialize)]
pub(super) struct Object<S> {
    #[serde(default)]
    pub(super) metadata: ObjectMeta,
    pub(super) spec: Option<S>,
    #[serde(rename = "status")]
    _status: Option<serde_json::Value>,
}

/// `ServiceEntry.spec`
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ServiceEntrySpec {
    #[serde(default)]
    pub(super) hosts: Vec<String>,
    #[serde(default)]
    pub(super) addresses: Vec<String>,
    #[serde(default)]
    pub(super) ports: Vec<Port>,
    pub(super) location: Option<Location>,
    pub(super) resolution: Option<Resolution>,
    #[serde(default)]
    pub(super) endpoints: Vec<WorkloadEntrySpec>,
    pub(super) workload_selector: Option<EntrySelector>,
    #[serde(default)]
    pub(super) export_to: Vec<String>,
    #[serde(default)]
    pub(super) subject_alt_names: Vec<String>,
}

/// `ServiceEntry.spec.ports[]`
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Port {
    pub(super) number: i64,
    #[serde(default)]
    pub(super) protocol: String,
    pub(super) name: String,
    pub(super) target_port: Option<i64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) enum Location {
    #[serde(rename = "MESH_EXTERNAL")]
    External,
    #[serde(rename = "MESH_INTERNAL")]
    Internal,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(super) enum Resolution {
    None,
    Static,
    Dns,
    DnsRoundRobin,
    DynamicDns,
}

#[derive(Debug, Deserialize)]
pub(super) struct EntrySelector {
    #[serde(default)]
    pub(super) labels: BTreeMap<String, String>,
}

/// `WorkloadEntry.spec` and `ServiceEntry.spec.endpoints[]`
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct WorkloadEntrySpec {
    #[serde(default)]
    pub(super) address: String,
    #[serde(default)]
    pub(super) ports: BTreeMap<String, i64>,
    #[serde(default)]
    pub(super) labels: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) network: String,
    #[serde(default)]
    pub(super) locality: String,
    pub(super) weight: Option<u32>,
    #[serde(default)]
    pub(super) service_account: String,
}

/// `AuthorizationPolicy.spec`
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PolicySpec {
    // Not flattened from `PolicyTargets`: that would hide unknown fields.
    pub(super) selector: Option<PolicySelector>,
    pub(super) target_ref: Option<PolicyTargetRef>,
    #[serde(default)]
    pub(super) target_refs: Vec<PolicyTargetRef>,
    pub(super) action: Option<PolicyAction>,
    #[serde(default)]
    pub(super) rules: Vec<PolicyRule>,
    pub(super) provider: Option<Provider>,
}

/// The part of a policy that says what it governs; also read alone, when the rest is broken.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PolicyTargets {
    pub(super) selector: Option<PolicySelector>,
    pub(super) target_ref: Option<PolicyTargetRef>,
    #[serde(default)]
    pub(super) target_refs: Vec<PolicyTargetRef>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PolicySelector {
    #[serde(default)]
    pub(super) match_labels: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct PolicyTargetRef {
    #[serde(default)]
    pub(super) group: String,
    pub(super) kind: String,
    pub(super) name: String,
    pub(super) namespace: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(super) enum PolicyAction {
    Allow,
    Deny,
    Audit,
    Custom,
}

#[derive(Debug, Deserialize)]
pub(super) struct Provider {
    #[serde(rename = "name")]
    _name: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct PolicyRule {
    pub(super) from: Option<Vec<From>>,
    pub(super) to: Option<Vec<To>>,
    pub(super) when: Option<Vec<When>>,
}

#[derive(Debug, Deserialize)]
pub(super) struct From {
    pub(super) source: Option<Source>,
}

#[derive(Debug, Deserialize)]
pub(super) struct To {
    pub(super) operation: Option<Operation>,
}

type Values = Option<Vec<String>>;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Source {
    pub(super) principals: Values,
    pub(super) not_principals: Values,
    pub(super) request_principals: Values,
    pub(super) not_request_principals: Values,
    pub(super) namespaces: Values,
    pub(super) not_namespaces: Values,
    pub(super) service_accounts: Values,
    pub(super) not_service_accounts: Values,
    pub(super) trust_domains: Values,
    pub(super) not_trust_domains: Values,
    pub(super) ip_blocks: Values,
    pub(super) not_ip_blocks: Values,
    pub(super) remote_ip_blocks: Values,
    pub(super) not_remote_ip_blocks: Values,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Operation {
    pub(super) hosts: Values,
    pub(super) not_hosts: Values,
    pub(super) ports: Values,
    pub(super) not_ports: Values,
    pub(super) methods: Values,
    pub(super) not_methods: Values,
    pub(super) paths: Values,
    pub(super) not_paths: Values,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct When {
    pub(super) key: String,
    pub(super) values: Values,
    pub(super) not_values: Values,
}
