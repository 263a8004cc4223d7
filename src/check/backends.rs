//! Backends that nobody serves, and services served by several identities.

use super::{routes::id, warning};
use crate::model::{BackendTarget, Finding, Health, Kind, Labels, Mesh, Parent, Service, Workload};
use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

pub(super) fn lint(mesh: &Mesh, findings: &mut Vec<Finding>) {
    for route in mesh.routes.values() {
        for (i, rule) in route.rules.iter().enumerate() {
            for (j, backend) in rule.backends.iter().enumerate().filter(|(_, b)| b.weight > 0) {
                let service = match &backend.target {
                    BackendTarget::Service { service, .. } => mesh.services.get(service),
                    BackendTarget::Hostname { hostname, .. } => mesh.services.values().find(|s| s.key.hostname == *hostname),
                    BackendTarget::Invalid => None,
                };
                if let Some(service) = service.filter(|s| !has_endpoints(mesh, s)) {
                    let message = format!("service {} has no ready endpoints: its share is answered with 503", service.key);
                    findings.push(warning(id(route), format!("spec.rules[{i}].backendRefs[{j}]"), message));
                }
            }
        }
        for (i, parent) in route.parents.iter().enumerate() {
            let Parent::ServiceAccount(account) = parent else { continue };
            for service in mesh.services.values().filter(|s| is_mixed(mesh, s, account)) {
                let message = format!(
                    "service {} is also served by other service accounts than {}: only a part of its requests takes this route",
                    service.key, account.name
                );
                findings.push(warning(id(route), format!("spec.parentRefs[{i}]"), message));
            }
        }
    }
}

/// Whether a listed endpoint is ready; without a list, whether a workload that the selector
/// selects is, as Kubernetes' endpoint controller would find.
fn has_endpoints(mesh: &Mesh, service: &Service) -> bool {
    let mut lists = mesh.endpoints.values().filter(|e| e.service == service.key).peekable();
    if lists.peek().is_some() {
        return lists.flat_map(|e| &e.endpoints).any(|e| e.ready || service.publish_not_ready);
    }
    let Some(selector) = &service.selector else { return false };
    selected(mesh, service, selector).any(|w| w.health == Health::Healthy || service.publish_not_ready)
}

fn selected<'m>(mesh: &'m Mesh, service: &'m Service, selector: &'m Labels) -> impl Iterator<Item = &'m Arc<Workload>> {
    // A ServiceEntry selects pods and WorkloadEntries, a Service only pods.
    let may_serve = move |w: &&Arc<Workload>| service.source.kind == Kind::ServiceEntry || w.uid.contains("//Pod/");
    mesh.workloads.values().filter(|w| w.namespace == service.key.namespace && has_labels(&w.labels, selector)).filter(may_serve)
}

/// Whether these labels are among those.
pub(super) fn has_labels(labels: &Labels, wanted: &Labels) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// The service accounts of those who serve a service include this one and others.
fn is_mixed(mesh: &Mesh, service: &Service, account: &crate::model::ResourceName) -> bool {
    let mut accounts: BTreeSet<(&str, &str)> = BTreeSet::new();
    let lists: Vec<_> = mesh.endpoints.values().filter(|e| e.service == service.key).collect();
    if lists.is_empty() {
        let workloads = service.selector.iter().flat_map(|selector| selected(mesh, service, selector));
        accounts.extend(workloads.map(|w| (w.identity.namespace(), w.identity.service_account())));
    }
    for endpoint in lists.iter().flat_map(|e| &e.endpoints) {
        let named = endpoint.workload.as_ref().and_then(|uid| mesh.workloads.get(uid));
        let workload = named.or_else(|| by_address(mesh, endpoint.address));
        accounts.extend(workload.map(|w| (w.identity.namespace(), w.identity.service_account())));
    }
    accounts.len() > 1 && accounts.contains(&(&account.namespace, &account.name))
}

fn by_address(mesh: &Mesh, address: IpAddr) -> Option<&Arc<Workload>> {
    mesh.workloads.values().find(|w| !w.host_network && w.addresses.iter().any(|a| a.to_canonical() == address.to_canonical()))
}
