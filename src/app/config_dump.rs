//! `/config_dump`: what is served, and what is wrong with what is not.

use super::mesh::Findings;
use crate::{
    cert::{CertState, CertStatus},
    model::{AppProtocol, Name},
    state::{Backends, Destination, Hop, NodeSnapshot, RulePlan, Upstream, WaypointRoute, WaypointSnapshot},
    ztunnel::PodState,
};
use serde_json::{Value, json};
use std::{collections::BTreeMap, sync::PoisonError};

/// A waypoint's dump.
pub(super) fn waypoint(snapshot: &WaypointSnapshot, findings: &Findings) -> String {
    let mut destinations: Vec<_> = snapshot.destinations().collect();
    destinations.sort_by_key(|d| d.address);
    let compiled = &snapshot.compiled;
    let dump = json!({
        "version": snapshot.version,
        "bound": snapshot.bound,
        "compiled": {
            "destinations": compiled.destinations,
            "routeMatches": compiled.route_matches,
            "policyRules": compiled.policy_rules,
            "upstreams": compiled.upstreams,
        },
        "destinations": destinations.iter().map(|d| destination(d)).collect::<Vec<_>>(),
        "findings": &*findings.lock().unwrap_or_else(PoisonError::into_inner),
    });
    format!("{dump:#}\n")
}

/// A ztunnel's dump.
pub(super) fn ztunnel(
    snapshot: &NodeSnapshot,
    findings: &Findings,
    certificates: &[CertStatus],
    pods: Option<BTreeMap<Name, PodState>>,
) -> String {
    let certificates = certificates.iter().map(|c| json!({ "identity": c.identity.as_str(), "state": state(&c.state) }));
    let mut services: Vec<_> = snapshot.services().collect();
    services.sort_by_key(|s| s.service.key.clone());
    let services = services.iter().map(|s| {
        let ports: std::collections::BTreeMap<_, _> = s.ports.iter().map(|(port, u)| (port, upstream(u))).collect();
        let waypoint = s.waypoint.as_ref().map(|w| match w {
            WaypointRoute::Gateway { name, .. } => name.to_string(),
            WaypointRoute::At(place) => place.to_string(),
        });
        json!({ "host": s.service.key.hostname.as_str(), "namespace": &*s.service.key.namespace, "vips": s.service.vips, "waypoint": waypoint, "ports": ports })
    });
    let local = snapshot
        .local_workloads()
        .map(|w| json!({ "uid": &*w.workload.uid, "identity": w.workload.identity.as_str(), "policyRules": w.rules.len() }));
    let dump = json!({
        "version": snapshot.version,
        "local": local.collect::<Vec<_>>(),
        "services": services.collect::<Vec<_>>(),
        "certificates": certificates.collect::<Vec<_>>(),
        "workloadState": pods,
        "findings": &*findings.lock().unwrap_or_else(PoisonError::into_inner),
    });
    format!("{dump:#}\n")
}

fn state(state: &CertState) -> &'static str {
    match state {
        CertState::Initializing => "Initializing",
        CertState::Available(_) => "Available",
        CertState::Unavailable(_) => "Unavailable",
    }
}

fn destination(destination: &Destination) -> Value {
    let rules = |table: &crate::route::RouteTable<std::sync::Arc<RulePlan>>| {
        table.iter().map(|entry| json!({ "match": format!("{:?}", entry.matching), "rule": rule(&entry.payload) })).collect::<Vec<_>>()
    };
    json!({
        "address": destination.address.to_string(),
        "host": destination.hostname().map(|h| h.as_str()),
        "namespace": &**destination.namespace(),
        "protocol": protocol(destination.protocol),
        "routes": destination.routes.as_deref().map(rules),
        "policyRules": destination.http_rules.len(),
        "upstream": upstream(&destination.upstream),
    })
}

fn rule(plan: &RulePlan) -> Value {
    let backends = match &plan.backends {
        Backends::Destination => json!("destination"),
        Backends::Weighted(backends, _) => backends.iter().map(|b| b.upstream.as_deref().map(|u| json!(&*u.name))).collect(),
    };
    json!({ "name": &*plan.name, "backends": backends, "retries": plan.retry.attempts })
}

fn upstream(upstream: &Upstream) -> Value {
    let endpoints = upstream.endpoints();
    let endpoints = endpoints.ready.iter().map(|endpoint| {
        let identity = match &endpoint.hop {
            Hop::Hbone(identities) => identities.first().map(|i| i.as_str().to_owned()),
            Hop::Plain => None,
        };
        json!({ "address": endpoint.address.to_string(), "identity": identity, "inFlight": endpoint.in_flight() })
    });
    json!({ "name": &*upstream.name, "endpoints": endpoints.collect::<Vec<_>>() })
}

fn protocol(protocol: AppProtocol) -> &'static str {
    match protocol {
        AppProtocol::Http => "HTTP",
        AppProtocol::Http2 => "HTTP2",
        AppProtocol::Grpc => "GRPC",
        AppProtocol::Tcp => "TCP",
        AppProtocol::Tls => "TLS",
        AppProtocol::Unspecified => "unspecified",
    }
}
