//! Decodes a Gateway of a waypoint class.

use super::decode::{Cx, Outcome, annotation, label, labels};
use crate::model::{AllowedNamespaces, Hostname, Resource, TrafficType, Waypoint, WaypointAddress};
use gateway_api::experimental::gateways::{Gateway, GatewayListeners, GatewayListenersAllowedRoutesNamespacesFrom as From, GatewaySpec};

/// The classes whose Gateways are waypoints that we serve.
pub(super) const CLASSES: [&str; 2] = ["istio-waypoint", "cairn-waypoint"];
/// Where waypoints take HBONE; ztunnel knows no other port.
const HBONE_PORT: i32 = 15008;

pub(super) fn gateway(cx: &mut Cx<'_>) -> Option<Outcome> {
    // Somebody else's Gateway may well use what we do not know: look at the class first.
    let class = cx.node.get("spec").and_then(|s| s.get("gatewayClassName")).and_then(super::yaml::Node::text);
    if let Some(class) = class.filter(|c| !CLASSES.contains(c)) {
        return Some(Outcome::Foreign(class.to_owned()));
    }
    let object: Gateway = cx.typed()?;
    let spec = &object.spec;
    let waypoint = Waypoint {
        name: cx.id.name.clone(),
        class: spec.gateway_class_name.as_str().into(),
        addresses: addresses(cx, &object),
        port: HBONE_PORT as u16,
        traffic: traffic(cx, label(&object.metadata, "istio.io/waypoint-for")),
        service_account: annotation(&object.metadata, "istio.io/for-service-account").map(Into::into),
        allowed: listener(cx, spec)?,
    };
    Some(Outcome::Resources(vec![Resource::Waypoint(waypoint)]))
}

fn traffic(cx: &mut Cx<'_>, word: Option<&str>) -> TrafficType {
    match word {
        None | Some("service") => TrafficType::Service,
        Some("workload") => TrafficType::Workload,
        Some("all") => TrafficType::All,
        Some("none") => TrafficType::None,
        Some(other) => {
            let field = super::yaml::join("metadata.labels", "istio.io/waypoint-for");
            cx.error(&field, format!("{other:?} is none of service, workload, all, none"));
            TrafficType::None
        }
    }
}

fn listener(cx: &mut Cx<'_>, spec: &GatewaySpec) -> Option<AllowedNamespaces> {
    let is_hbone = |l: &GatewayListeners| l.port == HBONE_PORT && l.protocol == "HBONE";
    let Some(index) = spec.listeners.iter().position(is_hbone) else {
        cx.error("spec.listeners", "UnsupportedProtocol: a waypoint needs a listener with port 15008 and protocol HBONE");
        return None;
    };
    for (i, other) in spec.listeners.iter().enumerate().filter(|(i, _)| *i != index) {
        cx.warn(&format!("spec.listeners[{i}]"), format!("listener {:?} is not served by a waypoint; ignored", other.name));
    }
    allowed(cx, index, &spec.listeners[index])
}

fn allowed(cx: &mut Cx<'_>, index: usize, listener: &GatewayListeners) -> Option<AllowedNamespaces> {
    let field = format!("spec.listeners[{index}].allowedRoutes.namespaces");
    let namespaces = listener.allowed_routes.as_ref().and_then(|r| r.namespaces.as_ref());
    match namespaces.and_then(|n| n.from.as_ref()) {
        None | Some(From::Same) => Some(AllowedNamespaces::Same),
        Some(From::All) => Some(AllowedNamespaces::All),
        Some(From::Selector) => {
            let Some(selector) = namespaces.and_then(|n| n.selector.as_ref()) else {
                cx.error(&field, "from: Selector needs a selector");
                return None;
            };
            if selector.match_expressions.as_ref().is_some_and(|e| !e.is_empty()) {
                cx.error(&format!("{field}.selector.matchExpressions"), "not implemented: only matchLabels are read");
                return None;
            }
            Some(AllowedNamespaces::Selector(labels(selector.match_labels.as_ref())))
        }
    }
}

fn addresses(cx: &mut Cx<'_>, object: &Gateway) -> Vec<WaypointAddress> {
    let assigned = object.status.as_ref().and_then(|s| s.addresses.as_deref()).unwrap_or_default();
    let assigned = assigned.iter().enumerate().map(|(i, a)| (format!("status.addresses[{i}]"), a.r#type.as_deref(), a.value.as_str()));
    let wished = object.spec.addresses.as_deref().unwrap_or_default();
    let wished = wished.iter().enumerate();
    let wished = wished.map(|(i, a)| (format!("spec.addresses[{i}]"), a.r#type.as_deref(), a.value.as_deref().unwrap_or_default()));
    let assigned: Vec<_> = assigned.collect();
    let addresses = if assigned.is_empty() { wished.collect() } else { assigned };
    addresses.into_iter().filter_map(|(field, kind, value)| address(cx, &field, kind, value)).collect()
}

fn address(cx: &mut Cx<'_>, field: &str, kind: Option<&str>, value: &str) -> Option<WaypointAddress> {
    match kind {
        // An address without a value asks for any address.
        _ if value.is_empty() => None,
        None | Some("IPAddress") => cx.ip(&format!("{field}.value"), value).map(WaypointAddress::Ip),
        Some("Hostname") => Some(WaypointAddress::Hostname(Hostname::new(value))),
        Some(other) => {
            cx.error(&format!("{field}.type"), format!("unknown address type {other:?}"));
            None
        }
    }
}
