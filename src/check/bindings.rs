//! Bindings to waypoints that do not take what is bound.

use super::warning;
use crate::model::{Finding, Kind, Mesh, ResourceId, ResourceName, Waypoint, WaypointBinding};

const FIELD: &str = "metadata.labels[\"istio.io/use-waypoint\"]";

pub(super) fn lint(mesh: &Mesh, findings: &mut Vec<Finding>) {
    // A waypoint inherited from the namespace is not meant for everything in it; a label of one's
    // own is.
    for service in mesh.services.values() {
        let Some(waypoint) = named(mesh, &service.waypoint) else { continue };
        let name = &waypoint.name;
        if !waypoint.is_usable() {
            findings.push(warning(service.source.clone(), FIELD, unusable(name)));
        } else if !waypoint.traffic.services() {
            let message = format!("waypoint {name} does not take traffic addressed to services (istio.io/waypoint-for)");
            findings.push(warning(service.source.clone(), FIELD, message));
        }
    }
    for namespace in mesh.namespaces.values() {
        if let Some(waypoint) = named(mesh, &namespace.waypoint).filter(|w| !w.is_usable()) {
            let resource = ResourceId::new(Kind::Namespace, "", &namespace.name);
            findings.push(warning(resource, FIELD, unusable(&waypoint.name)));
        }
    }
}

fn named<'m>(mesh: &'m Mesh, binding: &WaypointBinding) -> Option<&'m Waypoint> {
    match binding {
        WaypointBinding::To(name) => mesh.waypoints.get(name).map(|w| &**w),
        WaypointBinding::None | WaypointBinding::Inherit | WaypointBinding::At(_) => None,
    }
}

fn unusable(gateway: &ResourceName) -> String {
    format!("Gateway {gateway} is no waypoint (it needs a listener with port 15008 and protocol HBONE): ztunnels refuse this traffic")
}
