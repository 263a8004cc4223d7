//! Workloads of a local file.

use super::{
    Cx, address,
    schema::{self, File, NetworkMode, Protocol, Status, TunnelProtocol as Application},
};
use crate::{
    control::{workload_api::CLUSTER, yaml::join},
    model::{
        ApplicationTunnel, Health, Hostname, Identity, Labels, Locality, Name, ResourceName, TunnelProtocol, WaypointBinding, Workload,
        WorkloadL4, WorkloadType,
    },
};
use std::collections::HashSet;

pub(super) fn workloads(cx: &mut Cx<'_>, file: &File) -> Vec<Workload> {
    let policies: HashSet<(&str, &str)> = file.policies.iter().map(|policy| (&*policy.namespace, &*policy.name)).collect();
    let mut uids = HashSet::new();
    let mut workloads = Vec::with_capacity(file.workloads.len());
    for (i, workload) in file.workloads.iter().enumerate() {
        let field = format!("workloads[{i}]");
        cx.required(&format!("{field}.uid"), &workload.uid);
        if !uids.insert(&workload.uid) {
            cx.error(&format!("{field}.uid"), "another workload has this uid");
        }
        workloads.extend(decoded(cx, &field, workload, &policies));
    }
    workloads
}

fn decoded(cx: &mut Cx<'_>, field: &str, workload: &schema::Workload, policies: &HashSet<(&str, &str)>) -> Option<Workload> {
    let addresses =
        workload.workload_ips.iter().enumerate().filter_map(|(i, text)| address::ip(cx, &format!("{field}.workloadIps[{i}]"), text));
    let addresses = addresses.collect();
    let waypoint = workload.waypoint.as_ref().and_then(|gateway| address::gateway(cx, &format!("{field}.waypoint"), gateway));
    let gateway = workload.network_gateway.as_ref().and_then(|gateway| address::gateway(cx, &format!("{field}.networkGateway"), gateway));
    let services = services(cx, &format!("{field}.services"), workload);
    let policies = listed(cx, &format!("{field}.authorizationPolicies"), &workload.authorization_policies, policies);
    let name = |text: &String| Name::from(text.as_str());
    Some(Workload {
        uid: name(&workload.uid),
        name: name(&workload.name),
        namespace: name(&workload.namespace),
        identity: identity(cx, field, workload)?,
        addresses,
        protocol: match workload.protocol {
            Protocol::Tcp => TunnelProtocol::None,
            Protocol::Hbone => TunnelProtocol::Hbone,
        },
        node: name(&workload.node),
        locality: Locality {
            region: name(&workload.locality.region),
            zone: name(&workload.locality.zone),
            subzone: name(&workload.locality.subzone),
        },
        health: match workload.status {
            Status::Healthy => Health::Healthy,
            Status::Unhealthy => Health::Unhealthy,
        },
        labels: Labels::new(),
        waypoint: waypoint.map_or(WaypointBinding::None, WaypointBinding::At),
        canonical_name: name(&workload.canonical_name),
        canonical_revision: name(&workload.canonical_revision),
        workload_name: name(&workload.workload_name),
        workload_type: match workload.workload_type {
            schema::WorkloadType::Deployment => WorkloadType::Deployment,
            schema::WorkloadType::CronJob => WorkloadType::CronJob,
            schema::WorkloadType::Pod => WorkloadType::Pod,
            schema::WorkloadType::Job => WorkloadType::Job,
        },
        cluster: if workload.cluster_id.is_empty() { CLUSTER.into() } else { name(&workload.cluster_id) },
        host_network: workload.network_mode == NetworkMode::HostNetwork,
        ports: Vec::new(),
        gateway: None,
        l4: WorkloadL4 {
            network: cx.config.network(&workload.network),
            gateway,
            hostname: (!workload.hostname.is_empty()).then(|| Hostname::new(&workload.hostname)),
            capacity: workload.capacity.unwrap_or(1),
            application_tunnel: workload.application_tunnel.map(|tunnel| ApplicationTunnel {
                proxy_protocol: tunnel.protocol == Application::Proxy,
                port: tunnel.port.filter(|port| *port > 0),
            }),
            services,
            policies,
        },
    })
}

/// The three parts of its identity.
fn identity(cx: &mut Cx<'_>, field: &str, workload: &schema::Workload) -> Option<Identity> {
    let parts =
        [("trustDomain", &workload.trust_domain), ("namespace", &workload.namespace), ("serviceAccount", &workload.service_account)];
    for (name, part) in parts {
        if Identity::new(part, "namespace", "account").is_err() {
            cx.error(&format!("{field}.{name}"), format!("{part:?} cannot be part of an identity"));
        }
    }
    Identity::new(&workload.trust_domain, &workload.namespace, &workload.service_account).ok()
}

fn services(cx: &mut Cx<'_>, field: &str, workload: &schema::Workload) -> Vec<(crate::model::ServiceKey, Vec<(u16, u16)>)> {
    let mut services = Vec::with_capacity(workload.services.len());
    for (text, ports) in &workload.services {
        let field = join(field, text);
        let Some(key) = address::key(cx, &field, text) else { continue };
        let ports = cx.ports(&field, ports);
        if services.iter().any(|(other, _)| *other == key) {
            cx.error(&field, "another key means the same service");
        }
        services.push((key, ports));
    }
    services
}

/// Policies that a workload lists. One that is not there would leave open what it was to close.
fn listed(cx: &mut Cx<'_>, field: &str, names: &[String], policies: &HashSet<(&str, &str)>) -> Vec<ResourceName> {
    let mut listed = Vec::with_capacity(names.len());
    for (i, text) in names.iter().enumerate() {
        match text.split_once('/') {
            Some((namespace, name)) if policies.contains(&(namespace, name)) => listed.push(ResourceName::new(namespace, name)),
            Some(_) => cx.error(&format!("{field}[{i}]"), format!("no policy {text:?} is in this file")),
            None => cx.error(&format!("{field}[{i}]"), format!("{text:?} is not NAMESPACE/NAME")),
        }
    }
    listed
}
