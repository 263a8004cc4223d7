//! Who we say we are to a control plane: the node of its protocol (contract, 3.1).

use super::{ControlPlaneArgs, Facts, Mode, values::json};
use crate::{
    model::Name,
    settings::{Environment, UsageError},
};
use prost_types::{ListValue, Struct, value::Kind};
use serde_json::Value;
use std::collections::BTreeMap;

/// A node as the control plane's protocol has it.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeSettings {
    /// `TYPE~ADDRESS~POD.NAMESPACE~NAMESPACE.svc.DOMAIN`
    pub id: String,
    /// What further is told.
    pub metadata: Struct,
}

/// In place of an address that is not told, as Istio's proxies have it.
const NO_ADDRESS: &str = "1.1.1.1";
/// The label by which a control plane knows of which Gateway a pod is.
pub(in crate::settings) const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";
/// The label that says of which class that is.
const GATEWAY_CLASS: &str = "gateway.networking.k8s.io/gateway-class-name";

const TEXT: &str = "ISTIO_META_";
const JSON: &str = "ISTIO_METAJSON_";

pub(super) fn node(args: &ControlPlaneArgs, facts: &Facts<'_>, environment: &Environment) -> Result<NodeSettings, UsageError> {
    let pod = facts.pod;
    let (name, namespace) = (pod.pod_name.as_deref().unwrap_or_default(), pod.pod_namespace.as_deref().unwrap_or_default());
    let address = pod.instance_ip.map_or_else(|| NO_ADDRESS.to_owned(), |address| address.to_string());
    let (kind, domain) = match facts.mode {
        Mode::Ztunnel => ("ztunnel", "cluster.local"),
        Mode::Waypoint { .. } => ("waypoint", facts.names.cluster_domain.as_str()),
    };
    let id = format!("{kind}~{address}~{name}.{namespace}~{namespace}.svc.{domain}");
    let mut metadata = own(facts, &address);
    labels(&mut metadata, facts, environment)?;
    told(&mut metadata, facts, environment)?;
    metadata.extend(args.meta.iter().map(|(key, value)| (key.clone(), Value::from(value.as_str()))));
    metadata.extend(args.meta_json.iter().cloned());
    Ok(NodeSettings { id, metadata: structure(metadata) })
}

/// The class of the Gateway that is served, if the labels of the pod are those of that Gateway.
pub(super) fn gateway_class(facts: &Facts<'_>, environment: &Environment) -> Result<Option<Name>, UsageError> {
    let Mode::Waypoint { gateway } = facts.mode else { return Ok(None) };
    let labels = environment.pod_labels()?;
    let is_ours = labels.get(GATEWAY_NAME).is_some_and(|name| **name == *gateway.name)
        && facts.pod.pod_namespace.as_deref() == Some(&*gateway.namespace);
    let class = labels.get(GATEWAY_CLASS).filter(|class| is_ours && !class.is_empty());
    Ok(class.map(|class| class.as_str().into()))
}

/// What our own settings say.
fn own(facts: &Facts<'_>, address: &str) -> BTreeMap<String, Value> {
    let pod = facts.pod;
    let account = match facts.mode {
        // A ztunnel asks in the name of others; who it is itself, its token says.
        Mode::Ztunnel => None,
        Mode::Waypoint { .. } => pod.service_account.as_deref(),
    };
    let all = [
        ("NAME", pod.pod_name.as_deref()),
        ("NAMESPACE", pod.pod_namespace.as_deref()),
        ("INSTANCE_IPS", Some(address)),
        ("NODE_NAME", pod.node.as_deref()),
        ("SERVICE_ACCOUNT", account),
        ("CLUSTER_ID", Some(pod.cluster_id.as_str())),
        ("NETWORK", Some(pod.network.as_str())),
    ];
    let known = all.into_iter().filter_map(|(key, value)| Some((key, value.filter(|value| !value.is_empty())?)));
    known.map(|(key, value)| (key.to_owned(), Value::from(value))).collect()
}

/// The pod's labels, if its file is there; those of a waypoint say at least of which Gateway it is.
fn labels(metadata: &mut BTreeMap<String, Value>, facts: &Facts<'_>, environment: &Environment) -> Result<(), UsageError> {
    let Mode::Waypoint { gateway } = facts.mode else { return Ok(()) };
    let mut labels = environment.pod_labels()?;
    labels.entry(GATEWAY_NAME.to_owned()).or_insert_with(|| gateway.name.to_string());
    metadata.insert("LABELS".to_owned(), labels.into_iter().collect());
    Ok(())
}

/// What stands in variables, as texts and then as JSON.
fn told(metadata: &mut BTreeMap<String, Value>, facts: &Facts<'_>, environment: &Environment) -> Result<(), UsageError> {
    // The flag of one of our own wins.
    let by_flag = |key: &str| match key {
        "CLUSTER_ID" => facts.given.has("cluster_id"),
        "NETWORK" => facts.given.has("network"),
        "NODE_NAME" => facts.given.has("node"),
        "SERVICE_ACCOUNT" => facts.given.has("service_account"),
        _ => false,
    };
    for name in environment.beginning_with(TEXT) {
        let key = name.strip_prefix(TEXT).unwrap_or_default();
        if let Some(value) = environment.get(name).filter(|_| !key.is_empty() && !by_flag(key)) {
            metadata.insert(key.to_owned(), Value::from(value));
        }
    }
    for name in environment.beginning_with(JSON) {
        let key = name.strip_prefix(JSON).unwrap_or_default();
        if let Some(value) = environment.parsed(name, json)?.filter(|_| !key.is_empty() && !by_flag(key)) {
            merge(metadata, key, value);
        }
    }
    Ok(())
}

/// Labels are added to, anything else is replaced.
fn merge(metadata: &mut BTreeMap<String, Value>, key: &str, value: Value) {
    match (metadata.get_mut(key), value) {
        (Some(Value::Object(known)), Value::Object(more)) => known.extend(more),
        (_, value) => drop(metadata.insert(key.to_owned(), value)),
    }
}

fn structure(fields: impl IntoIterator<Item = (String, Value)>) -> Struct {
    Struct { fields: fields.into_iter().map(|(key, value)| (key, field(value))).collect() }
}

fn field(value: Value) -> prost_types::Value {
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(value) => Kind::BoolValue(value),
        Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        Value::String(text) => Kind::StringValue(text),
        Value::Array(values) => Kind::ListValue(ListValue { values: values.into_iter().map(field).collect() }),
        Value::Object(fields) => Kind::StructValue(structure(fields)),
    };
    prost_types::Value { kind: Some(kind) }
}
