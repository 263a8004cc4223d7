//! Policies that govern nothing.

use super::{backends::has_labels, warning};
use crate::model::{AuthorizationPolicy, Finding, Kind, Mesh, PolicyTarget, ResourceId, TargetRef};

pub(super) fn lint(mesh: &Mesh, root_namespace: &str, findings: &mut Vec<Finding>) {
    for policy in mesh.policies.values() {
        let id = || ResourceId { kind: Kind::AuthorizationPolicy, name: policy.name.clone() };
        match &policy.target {
            PolicyTarget::Refs(refs) => {
                if refs.is_empty() {
                    findings.push(warning(id(), "spec.targetRefs", "targets nothing: none of its targets exists"));
                }
                for reference in refs.iter().filter(|r| !exists(mesh, r)) {
                    findings.push(warning(id(), "spec.targetRefs", format!("targets nothing: there is no {}", words(reference))));
                }
            }
            PolicyTarget::Selector(labels) => {
                let governed = |w: &&std::sync::Arc<crate::model::Workload>| governs(policy, root_namespace, &w.namespace);
                if !mesh.workloads.values().filter(governed).any(|w| has_labels(&w.labels, labels)) {
                    findings.push(warning(id(), "spec.selector", "targets nothing: the selector selects no workload"));
                }
            }
            PolicyTarget::Namespace => {
                if !mesh.workloads.values().any(|w| governs(policy, root_namespace, &w.namespace)) {
                    findings.push(warning(id(), "", "targets nothing: its namespace has no workload"));
                }
            }
            PolicyTarget::Listed | PolicyTarget::Mesh | PolicyTarget::Unknown => {}
        }
    }
}

fn governs(policy: &AuthorizationPolicy, root_namespace: &str, namespace: &str) -> bool {
    *policy.name.namespace == *root_namespace || *policy.name.namespace == *namespace
}

fn exists(mesh: &Mesh, reference: &TargetRef) -> bool {
    match reference {
        TargetRef::Gateway(name) => mesh.waypoints.get(name).is_some_and(|w| w.is_usable()),
        TargetRef::Service(key) => mesh.services.contains_key(key),
        TargetRef::ServiceEntry(name) => mesh.services.values().any(|s| s.entry() == name),
        TargetRef::GatewayClass(class) => mesh.waypoints.values().any(|w| w.class.is(class) && w.is_usable()),
    }
}

fn words(reference: &TargetRef) -> String {
    match reference {
        TargetRef::Gateway(name) => format!("waypoint {name}"),
        TargetRef::Service(key) => format!("service {key}"),
        TargetRef::ServiceEntry(name) => format!("ServiceEntry {name}"),
        TargetRef::GatewayClass(class) => format!("waypoint of class {class}"),
    }
}
