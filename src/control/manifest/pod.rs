//! Decodes pods to workloads.

use super::decode::{Cx, Outcome, annotation, label, labels};
use crate::model::{Health, Identity, Locality, Name, Resource, TunnelProtocol, Workload, WorkloadL4, WorkloadType};
use k8s_openapi::{
    api::core::v1::{Pod, PodSpec, PodStatus},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use std::{collections::BTreeMap, net::IpAddr};

/// The cluster that workloads read from files belong to.
pub(super) const CLUSTER: &str = "Kubernetes";

pub(super) fn pod(cx: &mut Cx<'_>) -> Option<Outcome> {
    let object: Pod = cx.typed()?;
    let waypoint = cx.binding(object.metadata.labels.as_ref());
    let (spec, status) = (object.spec.unwrap_or_default(), object.status.unwrap_or_default());
    let metadata = &object.metadata;
    let (namespace, name) = (cx.namespace(), cx.id.name.name.clone());
    let account = spec.service_account_name.as_deref().or(spec.service_account.as_deref()).unwrap_or("default");
    let (workload_name, workload_type) = controller(metadata, &name);
    let workload = Workload {
        uid: format!("{CLUSTER}//Pod/{namespace}/{name}").into(),
        identity: identity(cx, "spec.serviceAccountName", account)?,
        addresses: addresses(cx, &status),
        protocol: if is_hbone(metadata) { TunnelProtocol::Hbone } else { TunnelProtocol::None },
        node: spec.node_name.as_deref().unwrap_or_default().into(),
        locality: locality(metadata.labels.as_ref()),
        health: health(&status),
        labels: labels(metadata.labels.as_ref()),
        waypoint,
        canonical_name: canonical_name(metadata.labels.as_ref(), &workload_name),
        canonical_revision: canonical_revision(metadata.labels.as_ref()),
        workload_name,
        workload_type,
        cluster: CLUSTER.into(),
        host_network: spec.host_network.unwrap_or(false),
        ports: container_ports(cx, &spec),
        gateway: label(metadata, "gateway.networking.k8s.io/gateway-name").map(Into::into),
        l4: WorkloadL4::default(),
        name,
        namespace,
    };
    Some(Outcome::Resources(vec![Resource::from(workload)]))
}

/// The identity of a workload in this object's namespace.
pub(super) fn identity(cx: &mut Cx<'_>, field: &str, service_account: &str) -> Option<Identity> {
    let identity = Identity::new(&cx.config.trust_domain, &cx.id.name.namespace, service_account);
    if identity.is_err() {
        cx.error(field, format!("{service_account:?} cannot be part of an identity"));
    }
    identity.ok()
}

fn addresses(cx: &mut Cx<'_>, status: &PodStatus) -> Vec<IpAddr> {
    let listed = status.pod_ips.as_deref().unwrap_or_default();
    let mut texts: Vec<(String, &str)> =
        listed.iter().enumerate().map(|(i, ip)| (format!("status.podIPs[{i}].ip"), ip.ip.as_str())).collect();
    if texts.is_empty() {
        texts.extend(status.pod_ip.as_deref().map(|ip| ("status.podIP".to_owned(), ip)));
    }
    texts.into_iter().filter(|(_, ip)| !ip.is_empty()).filter_map(|(field, ip)| cx.ip(&field, ip)).collect()
}

/// Whether ztunnel, or the workload itself, takes HBONE on port 15008.
fn is_hbone(metadata: &ObjectMeta) -> bool {
    annotation(metadata, "ambient.istio.io/redirection") == Some("enabled")
        || label(metadata, "networking.istio.io/tunnel") == Some("http")
        || label(metadata, "gateway.istio.io/managed") == Some("istio.io-mesh-controller")
}

/// A manifest written by hand has no status: such a pod counts as ready.
fn health(status: &PodStatus) -> Health {
    let ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    let ready = status.conditions.iter().flatten().find(|c| c.type_ == "Ready").is_none_or(|c| c.status == "True");
    if ready && !ended { Health::Healthy } else { Health::Unhealthy }
}

/// The controller's name and kind, as Istio's telemetry reports them.
fn controller(metadata: &ObjectMeta, pod: &Name) -> (Name, WorkloadType) {
    let owner = metadata.owner_references.iter().flatten().find(|o| o.controller == Some(true));
    let Some(owner) = owner else { return (pod.clone(), WorkloadType::Pod) };
    let stem = |suffix_is: &dyn Fn(&str) -> bool| owner.name.rsplit_once('-').filter(|(_, s)| suffix_is(s)).map(|(stem, _)| stem);
    match owner.kind.as_str() {
        "ReplicaSet" => {
            let hash = label(metadata, "pod-template-hash");
            let deployment = stem(&|suffix| hash.is_none_or(|h| h == suffix));
            (deployment.unwrap_or(&owner.name).into(), WorkloadType::Deployment)
        }
        "Deployment" => (owner.name.as_str().into(), WorkloadType::Deployment),
        // The CronJob controller appends the scheduled minute.
        "Job" => match stem(&|suffix| suffix.len() >= 8 && suffix.bytes().all(|b| b.is_ascii_digit())) {
            Some(cron_job) => (cron_job.into(), WorkloadType::CronJob),
            None => (owner.name.as_str().into(), WorkloadType::Job),
        },
        "CronJob" => (owner.name.as_str().into(), WorkloadType::CronJob),
        _ => (owner.name.as_str().into(), WorkloadType::Pod),
    }
}

fn container_ports(cx: &mut Cx<'_>, spec: &PodSpec) -> Vec<(Name, u16)> {
    let mut ports = Vec::new();
    let containers = spec.containers.iter().enumerate().map(|(i, c)| (format!("spec.containers[{i}]"), c));
    // Only init containers that go on running ("sidecars") have ports.
    let init = spec.init_containers.iter().flatten().enumerate().filter(|(_, c)| c.restart_policy.as_deref() == Some("Always"));
    let init = init.map(|(i, c)| (format!("spec.initContainers[{i}]"), c));
    for (field, container) in containers.chain(init) {
        for (i, port) in container.ports.iter().flatten().enumerate() {
            let number = cx.port(&format!("{field}.ports[{i}].containerPort"), port.container_port.into());
            if let (Some(name), Some(number), None | Some("TCP")) = (port.name.as_deref(), number, port.protocol.as_deref()) {
                ports.push((name.into(), number));
            }
        }
    }
    ports
}

fn locality(labels: Option<&BTreeMap<String, String>>) -> Locality {
    let part = |key: &str| labels.and_then(|l| l.get(key)).map(String::as_str).unwrap_or_default().into();
    Locality {
        region: part("topology.kubernetes.io/region"),
        zone: part("topology.kubernetes.io/zone"),
        subzone: part("topology.istio.io/subzone"),
    }
}

/// Istio's canonical service of a workload.
pub(super) fn canonical_name(labels: Option<&BTreeMap<String, String>>, workload: &str) -> Name {
    first_label(labels, &["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"]).unwrap_or(workload).into()
}

/// Istio's canonical revision of a workload.
pub(super) fn canonical_revision(labels: Option<&BTreeMap<String, String>>) -> Name {
    first_label(labels, &["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"]).unwrap_or("latest").into()
}

fn first_label<'l>(labels: Option<&'l BTreeMap<String, String>>, keys: &[&str]) -> Option<&'l str> {
    keys.iter().find_map(|key| labels?.get(*key)).map(String::as_str)
}
