//! References between resources, held against the whole candidate mesh.

use super::{
    Owns,
    decode::{Reference, Referent, Version},
};
use crate::model::{
    Hostname, Kind, Name, NamespaceInfo, Parent, PolicyTarget, Resource, ResourceName, Service, ServiceKey, TargetRef, Waypoint,
};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
    net::IpAddr,
    sync::Arc,
};

/// Gateways of other classes, by name: they exist, but not for us.
pub(super) type ForeignGateways = BTreeMap<ResourceName, Waypoint>;

/// A digest of what a reference can lead to. Two that are the same cost time, nothing else.
pub(super) type Target = u64;

/// What references can lead to, kept up to date version by version.
#[derive(Debug, Default)]
pub(super) struct Index {
    owns: Owns,
    /// In the order of their sources: the last counts.
    services: HashMap<ServiceKey, Vec<Arc<Service>>>,
    hostnames: HashMap<Hostname, Vec<Arc<Service>>>,
    vips: HashMap<IpAddr, Vec<Arc<Service>>>,
    entries: HashMap<ResourceName, Arc<Version>>,
    waypoints: HashMap<ResourceName, Arc<Waypoint>>,
    namespaces: HashMap<Name, Arc<NamespaceInfo>>,
    foreign_gateways: ForeignGateways,
    /// What has come, gone or changed since it was last asked.
    touched: HashSet<Target>,
}

#[derive(Hash)]
enum Aim<'a> {
    Service(&'a ServiceKey),
    Hostname(&'a Hostname),
    Vip(IpAddr),
    Entry(&'a ResourceName),
    Gateway(&'a ResourceName),
    Namespace(&'a Name),
}

impl Aim<'_> {
    fn target(&self) -> Target {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }
}

/// Everything on which the judgement of these references depends.
pub(super) fn targets(references: &[Reference]) -> HashSet<Target> {
    let mut targets = HashSet::new();
    for reference in references {
        match &reference.referent {
            Referent::Service { service, .. } | Referent::Section { service, .. } => drop(targets.insert(Aim::Service(service).target())),
            Referent::ServiceEntry { entry, .. } => drop(targets.insert(Aim::Entry(entry).target())),
            Referent::Hostname { hostname, .. } => drop(targets.insert(Aim::Hostname(hostname).target())),
            Referent::Parent { gateway, from } | Referent::Waypoint { gateway, from } => {
                targets.extend([Aim::Gateway(gateway).target(), Aim::Namespace(from).target()]);
            }
            Referent::Vip { address, .. } => drop(targets.insert(Aim::Vip(*address).target())),
            Referent::Never(_) => {}
        }
    }
    targets
}

/// Whether references leave something open in their resource, for [`Index::complete`].
pub(super) fn are_open(references: &[Reference]) -> bool {
    references.iter().any(|r| matches!(r.referent, Referent::Section { .. } | Referent::ServiceEntry { .. }))
}

impl Index {
    /// An empty one of manifests that decide on these kinds.
    pub(super) fn new(owns: Owns) -> Self {
        Self { owns, ..Self::default() }
    }

    /// Takes in what a version provides.
    pub(super) fn insert(&mut self, version: &Arc<Version>) {
        for resource in &version.resources {
            match resource {
                Resource::Namespace(n) => drop(self.namespaces.insert(n.name.clone(), n.clone())),
                Resource::Waypoint(w) => drop(self.waypoints.insert(w.name.clone(), w.clone())),
                Resource::Service(s) => self.insert_service(s, version),
                Resource::Endpoints(_) | Resource::Workload(_) | Resource::Route(_) | Resource::Policy(_) => continue,
            }
            self.touch(resource);
        }
    }

    fn insert_service(&mut self, service: &Arc<Service>, version: &Arc<Version>) {
        let same_key = self.services.entry(service.key.clone()).or_default();
        same_key.insert(same_key.partition_point(|other| other.source <= service.source), service.clone());
        self.hostnames.entry(service.key.hostname.clone()).or_default().push(service.clone());
        for vip in &service.vips {
            self.vips.entry(vip.to_canonical()).or_default().push(service.clone());
        }
        if service.source.kind == Kind::ServiceEntry {
            self.entries.insert(service.source.name.clone(), version.clone());
        }
    }

    /// Takes out what a version provided that was inserted.
    pub(super) fn remove(&mut self, version: &Version) {
        for resource in &version.resources {
            self.touch(resource);
            match resource {
                Resource::Namespace(n) => drop(self.namespaces.remove(&n.name)),
                Resource::Waypoint(w) => drop(self.waypoints.remove(&w.name)),
                Resource::Service(s) => self.remove_service(s),
                Resource::Endpoints(_) | Resource::Workload(_) | Resource::Route(_) | Resource::Policy(_) => {}
            }
        }
    }

    fn remove_service(&mut self, service: &Arc<Service>) {
        take_out(&mut self.services, &service.key, service);
        take_out(&mut self.hostnames, &service.key.hostname, service);
        for vip in &service.vips {
            take_out(&mut self.vips, &vip.to_canonical(), service);
        }
        if service.source.kind == Kind::ServiceEntry {
            self.entries.remove(&service.source.name);
        }
    }

    /// Notes all targets that this resource has a part in.
    fn touch(&mut self, resource: &Resource) {
        match resource {
            Resource::Namespace(n) => drop(self.touched.insert(Aim::Namespace(&n.name).target())),
            Resource::Waypoint(w) => drop(self.touched.insert(Aim::Gateway(&w.name).target())),
            Resource::Service(service) => {
                self.touched.extend([Aim::Service(&service.key).target(), Aim::Hostname(&service.key.hostname).target()]);
                self.touched.extend(service.vips.iter().map(|vip| Aim::Vip(vip.to_canonical()).target()));
                // Who refers to a ServiceEntry refers to its hosts, whoever else declares them.
                let declarers = self.services.get(&service.key).into_iter().flatten().chain([service]);
                let entries = declarers.filter(|s| s.source.kind == Kind::ServiceEntry);
                self.touched.extend(entries.map(|s| Aim::Entry(&s.source.name).target()));
            }
            Resource::Endpoints(_) | Resource::Workload(_) | Resource::Route(_) | Resource::Policy(_) => {}
        }
    }

    /// Takes over the Gateways of other classes. Whether others exist than before.
    pub(super) fn set_foreign_gateways(&mut self, gateways: ForeignGateways) -> bool {
        let lost = self.foreign_gateways.keys().filter(|name| !gateways.contains_key(name));
        let come = gateways.keys().filter(|name| !self.foreign_gateways.contains_key(name));
        let changed: Vec<Target> = lost.chain(come).map(|name| Aim::Gateway(name).target()).collect();
        let is_changed = !changed.is_empty();
        self.touched.extend(changed);
        self.foreign_gateways = gateways;
        is_changed
    }

    pub(super) fn foreign_gateways(&self) -> &ForeignGateways {
        &self.foreign_gateways
    }

    /// What has come, gone or changed since this was last asked.
    pub(super) fn take_touched(&mut self) -> HashSet<Target> {
        std::mem::take(&mut self.touched)
    }

    fn service(&self, key: &ServiceKey) -> Option<&Service> {
        self.services.get(key)?.last().map(|service| &**service)
    }

    /// The hosts of a ServiceEntry.
    fn hosts(&self, entry: &ResourceName) -> Option<impl Iterator<Item = &ServiceKey>> {
        let hosts = self.entries.get(entry)?.resources.iter();
        Some(hosts.filter_map(|resource| match resource {
            Resource::Service(service) => Some(&service.key),
            Resource::Namespace(_)
            | Resource::Endpoints(_)
            | Resource::Workload(_)
            | Resource::Waypoint(_)
            | Resource::Route(_)
            | Resource::Policy(_) => None,
        }))
    }

    /// What is wrong with a reference.
    pub(super) fn problem(&self, referent: &Referent) -> Option<String> {
        match referent {
            Referent::Service { service, port } => self.service_problem(service, *port),
            Referent::Section { service, section } => match self.service(service) {
                None => Some(format!("service {service} does not exist")),
                Some(s) if s.ports.iter().any(|p| *p.name == **section) => None,
                Some(_) => Some(format!("service {service} has no port named {section:?}")),
            },
            Referent::ServiceEntry { entry, port } => match self.hosts(entry) {
                None => Some(format!("ServiceEntry {entry} does not exist")),
                Some(mut keys) => keys.find_map(|key| self.service_problem(key, *port)),
            },
            Referent::Hostname { hostname, port } => match self.hostnames.get(hostname) {
                None => Some(format!("no service has the host name {hostname}")),
                Some(services) if services.iter().any(|s| s.port(*port).is_some()) => None,
                Some(_) => Some(format!("{hostname} has no port {port}")),
            },
            Referent::Parent { gateway, from } => self.gateway_problem(gateway, from, "Gateway"),
            Referent::Waypoint { gateway, from } => self.gateway_problem(gateway, from, "waypoint"),
            Referent::Vip { address, claimant } => {
                let sources = self.vips.get(address).into_iter().flatten().map(|service| &service.source);
                let other = sources.filter(|source| *source != claimant).min()?;
                Some(format!("{address} is also an address of {other}"))
            }
            Referent::Never(message) => Some(message.clone()),
        }
    }

    fn service_problem(&self, key: &ServiceKey, port: Option<u16>) -> Option<String> {
        match (self.service(key), port) {
            // Said once, by the reference without a port that stands beside each one with a port.
            (None, _) => Some(format!("service {key} does not exist")),
            (Some(service), Some(port)) if service.port(port).is_none() => Some(format!("service {key} has no port {port}")),
            (Some(_), _) => None,
        }
    }

    fn gateway_problem(&self, gateway: &ResourceName, from: &Name, word: &str) -> Option<String> {
        let Some(waypoint) = self.waypoints.get(gateway) else {
            // Another controller's Gateway: whether it fits is not ours to judge. Nor whether one that is not here is
            // somewhere else, when a control plane says what is bound to which waypoint.
            let is_missing = self.owns == Owns::Everything && !self.foreign_gateways.contains_key(gateway);
            return is_missing.then(|| format!("{word} {gateway} does not exist"));
        };
        let admits = waypoint.admits(from, self.namespaces.get(from).map(|namespace| &**namespace));
        (!admits).then(|| format!("{word} {gateway} does not allow namespace {from}"))
    }

    /// Fills in what references leave open in a resource: the hosts of ServiceEntries, the numbers
    /// of named ports. What does not exist is left out.
    pub(super) fn complete(&self, resource: &Resource, references: &[Reference]) -> Resource {
        let mut resource = resource.clone();
        for reference in references {
            match &reference.referent {
                Referent::Section { service, section } => {
                    let port = self.service(service).and_then(|s| s.ports.iter().find(|p| *p.name == **section));
                    if let Some(port) = port {
                        attach(&mut resource, service, Some(port.port));
                    }
                }
                Referent::ServiceEntry { entry, port } => {
                    self.hosts(entry).into_iter().flatten().for_each(|key| attach(&mut resource, key, *port));
                }
                Referent::Service { .. }
                | Referent::Hostname { .. }
                | Referent::Parent { .. }
                | Referent::Waypoint { .. }
                | Referent::Vip { .. }
                | Referent::Never(_) => {}
            }
        }
        resource
    }
}

fn take_out<K: Eq + Hash>(map: &mut HashMap<K, Vec<Arc<Service>>>, key: &K, service: &Arc<Service>) {
    let Some(services) = map.get_mut(key) else { return };
    if let Some(at) = services.iter().position(|other| Arc::ptr_eq(other, service)) {
        services.remove(at);
    }
    if services.is_empty() {
        map.remove(key);
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
