//! References between resources, held against the whole candidate mesh, which is indexed from scratch.

use super::super::super::decode::{Reference, Referent};
use crate::model::{
    Hostname, Kind, Name, NamespaceInfo, Parent, PolicyTarget, Resource, ResourceId, ResourceName, Service, ServiceKey, TargetRef, Waypoint,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

/// What references can lead to.
#[derive(Debug, Default)]
pub(super) struct Index<'a> {
    services: BTreeMap<&'a ServiceKey, &'a Service>,
    hostnames: BTreeMap<&'a Hostname, Vec<&'a Service>>,
    vips: BTreeMap<IpAddr, BTreeSet<&'a ResourceId>>,
    entries: BTreeMap<&'a ResourceName, Vec<&'a ServiceKey>>,
    waypoints: BTreeMap<&'a ResourceName, &'a Waypoint>,
    namespaces: BTreeMap<&'a Name, &'a NamespaceInfo>,
    foreign_gateways: Option<&'a BTreeMap<ResourceName, &'a Waypoint>>,
}

impl<'a> Index<'a> {
    /// Indexes the candidate mesh; Gateways of other classes exist, but not for us.
    pub(super) fn new(resources: impl Iterator<Item = &'a Resource>, foreign_gateways: &'a BTreeMap<ResourceName, &'a Waypoint>) -> Self {
        let mut index = Self { foreign_gateways: Some(foreign_gateways), ..Self::default() };
        for resource in resources {
            match resource {
                Resource::Namespace(n) => drop(index.namespaces.insert(&n.name, n)),
                Resource::Service(s) => index.service(s),
                Resource::Waypoint(w) => drop(index.waypoints.insert(&w.name, w)),
                Resource::Endpoints(_) | Resource::Workload(_) | Resource::Route(_) | Resource::Policy(_) => {}
            }
        }
        index
    }

    fn service(&mut self, service: &'a Service) {
        self.services.insert(&service.key, service);
        self.hostnames.entry(&service.key.hostname).or_default().push(service);
        for vip in &service.vips {
            self.vips.entry(vip.to_canonical()).or_default().insert(&service.source);
        }
        if service.source.kind == Kind::ServiceEntry {
            self.entries.entry(&service.source.name).or_default().push(&service.key);
        }
    }

    /// What is wrong with a reference.
    pub(super) fn problem(&self, referent: &Referent) -> Option<String> {
        match referent {
            Referent::Service { service, port } => self.service_problem(service, *port),
            Referent::Section { service, section } => match self.services.get(service) {
                None => Some(format!("service {service} does not exist")),
                Some(s) if s.ports.iter().any(|p| *p.name == **section) => None,
                Some(_) => Some(format!("service {service} has no port named {section:?}")),
            },
            Referent::ServiceEntry { entry, port } => match self.entries.get(entry) {
                None => Some(format!("ServiceEntry {entry} does not exist")),
                Some(keys) => keys.iter().find_map(|key| self.service_problem(key, *port)),
            },
            Referent::Hostname { hostname, port } => match self.hostnames.get(hostname) {
                None => Some(format!("no service has the host name {hostname}")),
                Some(services) if services.iter().any(|s| s.port(*port).is_some()) => None,
                Some(_) => Some(format!("{hostname} has no port {port}")),
            },
            Referent::Parent { gateway, from } => self.gateway_problem(gateway, from, "Gateway"),
            Referent::Waypoint { gateway, from } => self.gateway_problem(gateway, from, "waypoint"),
            Referent::Vip { address, claimant } => {
                let other = self.vips.get(address).into_iter().flatten().find(|source| **source != claimant)?;
                Some(format!("{address} is also an address of {other}"))
            }
            Referent::Never(message) => Some(message.clone()),
        }
    }

    fn service_problem(&self, key: &ServiceKey, port: Option<u16>) -> Option<String> {
        match (self.services.get(key), port) {
            // Said once, by the reference without a port that stands beside each one with a port.
            (None, _) => Some(format!("service {key} does not exist")),
            (Some(service), Some(port)) if service.port(port).is_none() => Some(format!("service {key} has no port {port}")),
            (Some(_), _) => None,
        }
    }

    fn gateway_problem(&self, gateway: &ResourceName, from: &Name, word: &str) -> Option<String> {
        let Some(waypoint) = self.waypoints.get(gateway) else {
            // Another controller's Gateway: whether it fits is not ours to judge.
            let is_foreign = self.foreign_gateways.is_some_and(|f| f.contains_key(gateway));
            return (!is_foreign).then(|| format!("{word} {gateway} does not exist"));
        };
        let admits = waypoint.admits(from, self.namespaces.get(from).copied());
        (!admits).then(|| format!("{word} {gateway} does not allow namespace {from}"))
    }

    /// Fills in what references leave open in a resource: the hosts of ServiceEntries, the numbers
    /// of named ports. What does not exist is left out.
    pub(super) fn complete(&self, resource: &Resource, references: &[Reference]) -> Resource {
        let mut resource = resource.clone();
        for reference in references {
            let found: Vec<(&ServiceKey, Option<u16>)> = match &reference.referent {
                Referent::Section { service, section } => {
                    let port = self.services.get(service).and_then(|s| s.ports.iter().find(|p| *p.name == **section));
                    port.map(|p| (service, Some(p.port))).into_iter().collect()
                }
                Referent::ServiceEntry { entry, port } => self.entries.get(entry).into_iter().flatten().map(|key| (*key, *port)).collect(),
                Referent::Service { .. }
                | Referent::Hostname { .. }
                | Referent::Parent { .. }
                | Referent::Waypoint { .. }
                | Referent::Vip { .. }
                | Referent::Never(_) => continue,
            };
            for (service, port) in found {
                attach(&mut resource, service, port);
            }
        }
        resource
    }
}

fn attach(resource: &mut Resource, service: &ServiceKey, port: Option<u16>) {
    match resource {
        Resource::Route(route) => Arc::make_mut(route).parents.push(Parent::Service { service: service.clone(), port }),
        Resource::Policy(policy) => match &mut Arc::make_mut(policy).target {
            PolicyTarget::Refs(refs) => refs.push(TargetRef::Service(service.clone())),
            PolicyTarget::Selector(_) | PolicyTarget::Namespace | PolicyTarget::Listed | PolicyTarget::Mesh | PolicyTarget::Unknown => {}
        },
        Resource::Namespace(_) | Resource::Service(_) | Resource::Endpoints(_) | Resource::Workload(_) | Resource::Waypoint(_) => {}
    }
}
