//! A waypoint's `/config_dump`: what is served, and what is wrong with what is not.

use super::mesh::Findings;
use crate::{
    model::AppProtocol,
    state::{Backends, Destination, Hop, RulePlan, Upstream, WaypointSnapshot},
};
use serde_json::{Value, json};
use std::sync::PoisonError;

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
