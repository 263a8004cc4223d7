//! Decodes WorkloadEntry, and the same shape where a ServiceEntry lists its endpoints inline.

use super::{
    decode::{Cx, Outcome, annotation},
    istio::{Object, WorkloadEntrySpec},
    pod::{CLUSTER, canonical_name, canonical_revision, identity},
};
use crate::model::{Health, Labels, Locality, Name, Resource, TunnelProtocol, WaypointBinding, Workload, WorkloadL4, WorkloadType};
use std::net::IpAddr;

pub(super) fn workload_entry(cx: &mut Cx<'_>) -> Option<Outcome> {
    let object: Object<WorkloadEntrySpec> = cx.typed()?;
    let waypoint = cx.binding(object.metadata.labels.as_ref());
    let Some(mut spec) = object.spec else {
        cx.error("spec", "spec is required");
        return None;
    };
    let captured = annotation(&object.metadata, "ambient.istio.io/redirection") == Some("enabled");
    // Istio selects WorkloadEntries by the labels of both places.
    for (key, value) in object.metadata.labels.into_iter().flatten() {
        spec.labels.entry(key).or_insert(value);
    }
    let address = address(cx, "spec", &spec)?;
    let name = cx.id.name.name.clone();
    let uid = format!("{CLUSTER}/networking.istio.io/WorkloadEntry/{}/{name}", cx.id.name.namespace);
    let mut workload = workload(cx, "spec", uid.into(), &spec, address)?;
    workload.waypoint = waypoint;
    if captured {
        workload.protocol = TunnelProtocol::Hbone;
    }
    Some(Outcome::Resources(vec![Resource::from(workload)]))
}

/// The address of an entry, which must be an IP.
pub(super) fn address(cx: &mut Cx<'_>, field: &str, spec: &WorkloadEntrySpec) -> Option<IpAddr> {
    let at = format!("{field}.address");
    if spec.address.is_empty() {
        cx.error(&at, "address is required");
        return None;
    }
    let address = spec.address.parse().ok();
    if address.is_none() {
        cx.error(&at, format!("not implemented: {:?} is not an IP address, and only static endpoints are served", spec.address));
    }
    address
}

/// The workload that an entry describes; named after the object it stands in.
pub(super) fn workload(cx: &mut Cx<'_>, field: &str, uid: Name, spec: &WorkloadEntrySpec, address: IpAddr) -> Option<Workload> {
    if !spec.network.is_empty() {
        cx.warn(&format!("{field}.network"), "several networks are not supported; ignored");
    }
    if spec.weight.is_some() {
        cx.warn(&format!("{field}.weight"), "weights of endpoints are not supported; ignored");
    }
    let account = if spec.service_account.is_empty() { "default" } else { &spec.service_account };
    let is_hbone = spec.labels.get("networking.istio.io/tunnel").is_some_and(|t| t == "http");
    let name = cx.id.name.name.clone();
    let ports = ports(cx, field, spec);
    Some(Workload {
        uid,
        namespace: cx.namespace(),
        identity: identity(cx, &format!("{field}.serviceAccount"), account)?,
        addresses: vec![address],
        protocol: if is_hbone { TunnelProtocol::Hbone } else { TunnelProtocol::None },
        node: Name::default(),
        locality: locality(&spec.locality),
        health: Health::Healthy,
        labels: spec.labels.iter().map(|(k, v)| (k.as_str().into(), v.as_str().into())).collect::<Labels>(),
        waypoint: WaypointBinding::Inherit,
        canonical_name: canonical_name(Some(&spec.labels), &name),
        canonical_revision: canonical_revision(Some(&spec.labels)),
        workload_name: name.clone(),
        workload_type: WorkloadType::Pod,
        cluster: CLUSTER.into(),
        host_network: false,
        ports,
        gateway: None,
        l4: WorkloadL4::default(),
        name,
    })
}

/// The ports an entry gives by name.
pub(super) fn ports(cx: &mut Cx<'_>, field: &str, spec: &WorkloadEntrySpec) -> Vec<(Name, u16)> {
    let mut ports = Vec::new();
    for (name, number) in &spec.ports {
        if let Some(number) = cx.port(&super::yaml::join(&format!("{field}.ports"), name), *number) {
            ports.push((name.as_str().into(), number));
        }
    }
    ports
}

/// Istio's `region/zone/subzone`.
fn locality(text: &str) -> Locality {
    let mut parts = text.splitn(3, '/').map(Name::from);
    let mut next = || parts.next().unwrap_or_default();
    Locality { region: next(), zone: next(), subzone: next() }
}
