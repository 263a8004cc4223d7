//! Decodes a Gateway: a waypoint, when it listens for HBONE or is of our class.

use super::{
    decode::{Cx, Outcome, annotation, label, labels},
    yaml::{Node, Value},
};
use crate::model::{AllowedNamespaces, Hostname, Resource, TrafficType, Waypoint, WaypointAddress};
use gateway_api::experimental::gateways::{Gateway, GatewayListeners, GatewayListenersAllowedRoutesNamespacesFrom as From, GatewaySpec};

/// The classes whose Gateways must be waypoints.
pub(super) const CLASSES: [&str; 2] = ["istio-waypoint", "cairn-waypoint"];
/// Where waypoints take HBONE; ztunnel knows no other port.
const HBONE_PORT: i32 = 15008;
const WAYPOINT_FOR: &str = "istio.io/waypoint-for";

pub(super) fn gateway(cx: &mut Cx<'_>) -> Option<Outcome> {
    // Somebody else's Gateway may well use what we do not know: look at the class and the listeners first.
    let class = cx.node.get("spec").and_then(|s| s.get("gatewayClassName")).and_then(Node::text).map(str::to_owned);
    let foreign = class.filter(|c| !CLASSES.contains(&c.as_str()));
    if let Some(class) = &foreign {
        if !listens_for_hbone(cx.node) {
            return Some(Outcome::Foreign(class.clone()));
        }
        // Which class it is makes no difference to those who send: ztunnel goes where the label says.
        cx.warn("spec.gatewayClassName", format!("class {class:?} is not ours: taken for a waypoint because of its HBONE listener"));
    }
    let object: Gateway = cx.typed()?;
    let spec = &object.spec;
    let waypoint = Waypoint {
        name: cx.id.name.clone(),
        class: spec.gateway_class_name.as_str().into(),
        addresses: addresses(cx, &object),
        port: HBONE_PORT as u16,
        traffic: traffic(cx, label(&object.metadata, WAYPOINT_FOR)),
        service_account: annotation(&object.metadata, "istio.io/for-service-account").map(Into::into),
        allowed: listener(cx, spec)?,
    };
    Some(Outcome::Resources(vec![Resource::from(waypoint)]))
}

/// Stands in for a Gateway that is no waypoint, or that cannot be read: what is bound to it must not
/// be taken for unbound.
pub(super) fn unusable(cx: &Cx<'_>) -> Waypoint {
    let text = |path: [&str; 3]| path[..].iter().filter(|p| !p.is_empty()).try_fold(cx.node, |n, p| n.get(p)).and_then(Node::text);
    Waypoint {
        name: cx.id.name.clone(),
        class: text(["spec", "gatewayClassName", ""]).unwrap_or_default().into(),
        addresses: Vec::new(),
        port: HBONE_PORT as u16,
        traffic: text(["metadata", "labels", WAYPOINT_FOR]).map_or(Some(TrafficType::Service), traffic_type).unwrap_or(TrafficType::All),
        service_account: None,
        allowed: AllowedNamespaces::None,
    }
}

fn listens_for_hbone(gateway: &Node) -> bool {
    let Some(Value::List(listeners)) = gateway.get("spec").and_then(|s| s.get("listeners")).map(|l| &l.value) else { return false };
    let is = |listener: &Node, key: &str, wanted: serde_json::Value| listener.get(key).is_some_and(|found| found.json() == wanted);
    listeners.iter().any(|l| is(l, "port", HBONE_PORT.into()) && is(l, "protocol", "HBONE".into()))
}

fn traffic(cx: &mut Cx<'_>, word: Option<&str>) -> TrafficType {
    let Some(word) = word else { return TrafficType::Service };
    traffic_type(word).unwrap_or_else(|| {
        let field = super::yaml::join("metadata.labels", WAYPOINT_FOR);
        cx.error(&field, format!("{word:?} is none of service, workload, all, none"));
        TrafficType::None
    })
}

fn traffic_type(word: &str) -> Option<TrafficType> {
    match word {
        "service" => Some(TrafficType::Service),
        "workload" => Some(TrafficType::Workload),
        "all" => Some(TrafficType::All),
        "none" => Some(TrafficType::None),
        _ => None,
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
