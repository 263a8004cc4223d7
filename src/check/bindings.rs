//! Bindings to waypoints that do not take what is bound.

use super::warning;
use crate::model::{Finding, Mesh, WaypointBinding};

pub(super) fn lint(mesh: &Mesh, findings: &mut Vec<Finding>) {
    // A waypoint inherited from the namespace is not meant for everything in it; a label of one's
    // own is.
    for service in mesh.services.values() {
        let WaypointBinding::To(name) = &service.waypoint else { continue };
        let Some(waypoint) = mesh.waypoints.get(name) else { continue };
        if !waypoint.traffic.services() {
            let message = format!("waypoint {name} does not take traffic addressed to services (istio.io/waypoint-for)");
            findings.push(warning(service.source.clone(), "metadata.labels[\"istio.io/use-waypoint\"]", message));
        }
    }
}
