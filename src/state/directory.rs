//! The desired mesh, and looking things up across its resources: bindings, endpoints, workloads by
//! address. Kept up to date change by change; nothing here is ever rebuilt as a whole.

use super::{Delta, delta::Changed, relation::Relation};
use crate::model::{
    Endpoints, Hostname, Kind, Labels, Mesh, Name, NetworkAddress, Resource, ResourceKey, Service, ServiceKey, TunnelProtocol, Workload,
};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, hash_map::RandomState},
    hash::BuildHasher,
    net::IpAddr,
    sync::Arc,
};

mod bound;
mod reach;

pub use bound::{Barred, Bound};
pub use reach::Reach;

/// A [`Mesh`] with its reverse indexes. One writer owns it.
#[derive(Debug, Default)]
pub struct Directory {
    mesh: Mesh,
    // Also workloads on the host's network, whose addresses name nobody.
    at: Relation<IpAddr, Workload>,
    labelled: Relation<LabelHash, Workload>,
    // Each service under one label of its selector.
    selecting: Relation<LabelHash, Service>,
    owning: Relation<IpAddr, Service>,
    called: Relation<Hostname, Service>,
    groups: Relation<ServiceKey, Endpoints>,
    listing_address: Relation<IpAddr, Endpoints>,
    listing_uid: Relation<Name, Endpoints>,
    // Workloads that name the services they serve.
    serving: Relation<ServiceKey, Workload>,
    // Workloads that have a host name.
    hosting: Relation<Hostname, Workload>,
    // On other networks, where an address may be one of ours as well.
    foreign: Relation<NetworkAddress, Workload>,
    foreign_vips: Relation<NetworkAddress, Service>,
    ranged: BTreeMap<ServiceKey, Arc<Service>>,
    hasher: RandomState,
}

/// Stands for a label in a namespace. Whoever looks something up by it compares the labels
/// themselves: two may share a hash.
type LabelHash = u64;

impl Directory {
    /// The mesh itself.
    pub fn mesh(&self) -> &Mesh {
        &self.mesh
    }

    /// Inserts or replaces a resource, and notes in `delta` what that touches. A resource that is as
    /// it was touches nothing.
    pub(super) fn upsert(&mut self, resource: Resource, delta: &mut Delta) {
        match resource {
            Resource::Namespace(n) => {
                let name = n.name.clone();
                let changed = replace(&mut self.mesh.namespaces, &name, Some(n));
                delta.namespaces.extend(changed.map(|_| name));
            }
            Resource::Service(s) => self.put_service(&s.key.clone(), Some(s), delta),
            Resource::Endpoints(e) => {
                let changed = replace(&mut self.mesh.endpoints, &e.source.clone(), Some(e));
                self.put_endpoints(changed, delta);
            }
            Resource::Workload(w) => self.put_workload(&w.uid.clone(), Some(w), delta),
            Resource::Waypoint(w) => delta.waypoints.extend(replace(&mut self.mesh.waypoints, &w.name.clone(), Some(w))),
            Resource::Route(r) => delta.routes.extend(replace(&mut self.mesh.routes, &r.name.clone(), Some(r))),
            Resource::Policy(p) => delta.policies.extend(replace(&mut self.mesh.policies, &p.name.clone(), Some(p))),
        }
    }

    /// Forgets a resource, and notes in `delta` what that touches.
    pub(super) fn remove(&mut self, key: &ResourceKey, delta: &mut Delta) {
        match key {
            ResourceKey::Namespace(k) => {
                let changed = replace(&mut self.mesh.namespaces, k, None);
                delta.namespaces.extend(changed.map(|_| k.clone()));
            }
            ResourceKey::Service(k) => self.put_service(k, None, delta),
            ResourceKey::Endpoints(k) => {
                let changed = replace(&mut self.mesh.endpoints, k, None);
                self.put_endpoints(changed, delta);
            }
            ResourceKey::Workload(k) => self.put_workload(k, None, delta),
            ResourceKey::Waypoint(k) => delta.waypoints.extend(replace(&mut self.mesh.waypoints, k, None)),
            ResourceKey::Route(k) => delta.routes.extend(replace(&mut self.mesh.routes, k, None)),
            ResourceKey::Policy(k) => delta.policies.extend(replace(&mut self.mesh.policies, k, None)),
        }
    }

    fn put_service(&mut self, key: &ServiceKey, new: Option<Arc<Service>>, delta: &mut Delta) {
        let Some(changed) = replace(&mut self.mesh.services, key, new) else { return };
        if let Some(old) = &changed.old {
            self.called.remove(&old.key.hostname, old);
            old.vips.iter().for_each(|vip| self.owning.remove(&vip.to_canonical(), old));
            old.l4.elsewhere.iter().for_each(|vip| self.foreign_vips.remove(vip, old));
            self.ranged.remove(key);
            for label in self.hashes(&old.key.namespace, old.selector.iter().flatten()) {
                self.selecting.remove(&label, old);
            }
        }
        if let Some(new) = &changed.new {
            self.called.add(new.key.hostname.clone(), new);
            new.vips.iter().for_each(|vip| self.owning.add(vip.to_canonical(), new));
            new.l4.elsewhere.iter().for_each(|vip| self.foreign_vips.add(vip.clone(), new));
            if !new.l4.ranges.is_empty() {
                self.ranged.insert(key.clone(), new.clone());
            }
            // Under the label that fewest others ask for: a changed pod that bears it looks at all of them.
            let labels = self.hashes(&new.key.namespace, new.selector.iter().flatten());
            if let Some(label) = labels.into_iter().min_by_key(|label| self.selecting.count(label)) {
                self.selecting.add(label, new);
            }
        }
        delta.vips.extend(changed.each().flat_map(|s| &s.vips).map(IpAddr::to_canonical));
        delta.hosts.insert(key.hostname.clone());
        delta.members.insert(key.clone());
        delta.services.push(changed);
    }

    fn put_endpoints(&mut self, changed: Option<Changed<Endpoints>>, delta: &mut Delta) {
        let Some(changed) = changed else { return };
        if let Some(old) = &changed.old {
            self.groups.remove(&old.service, old);
            for endpoint in &old.endpoints {
                self.listing_address.remove(&endpoint.address.to_canonical(), old);
                endpoint.workload.iter().for_each(|uid| self.listing_uid.remove(uid, old));
            }
        }
        if let Some(new) = &changed.new {
            self.groups.add(new.service.clone(), new);
            for endpoint in &new.endpoints {
                self.listing_address.add(endpoint.address.to_canonical(), new);
                endpoint.workload.iter().for_each(|uid| self.listing_uid.add(uid.clone(), new));
            }
        }
        delta.members.extend(changed.each().map(|group| group.service.clone()));
    }

    fn put_workload(&mut self, uid: &Name, new: Option<Arc<Workload>>, delta: &mut Delta) {
        let Some(changed) = replace(&mut self.mesh.workloads, uid, new) else { return };
        if let Some(old) = &changed.old {
            self.touch(old, delta);
            self.place(old, false);
            for label in self.hashes(&old.namespace, &old.labels) {
                self.labelled.remove(&label, old);
            }
        }
        if let Some(new) = &changed.new {
            self.place(new, true);
            for label in self.hashes(&new.namespace, &new.labels) {
                self.labelled.add(label, new);
            }
            self.touch(new, delta);
        }
        delta.workloads.push(changed);
    }

    /// Notes where a workload is, and what it serves.
    fn place(&mut self, workload: &Arc<Workload>, is_there: bool) {
        fn relate<K: std::hash::Hash + Eq>(relation: &mut Relation<K, Workload>, key: K, workload: &Arc<Workload>, is_there: bool) {
            if is_there { relation.add(key, workload) } else { relation.remove(&key, workload) }
        }
        for address in workload.addresses.iter().map(IpAddr::to_canonical) {
            match &workload.l4.network {
                None => relate(&mut self.at, address, workload, is_there),
                Some(network) => {
                    let address = NetworkAddress { network: Some(network.clone()), address };
                    relate(&mut self.foreign, address, workload, is_there);
                }
            }
        }
        if let Some(host) = &workload.l4.hostname {
            relate(&mut self.hosting, host.clone(), workload, is_there);
        }
        for (service, _) in &workload.l4.services {
            relate(&mut self.serving, service.clone(), workload, is_there);
        }
    }

    /// Notes whom a workload is an endpoint of, and whose endpoints stand at its addresses.
    fn touch(&self, workload: &Workload, delta: &mut Delta) {
        delta.members.extend(self.listing_uid.of(&workload.uid).map(|group| group.service.clone()));
        delta.members.extend(self.selectors_of(workload));
        delta.members.extend(workload.l4.services.iter().map(|(service, _)| service.clone()));
        if workload.l4.network.is_some() {
            return;
        }
        for address in workload.addresses.iter().map(IpAddr::to_canonical) {
            delta.addresses.insert(address);
            delta.members.extend(self.listing_address.of(&address).map(|group| group.service.clone()));
            // Whose address it is decides how all who claim it are reached.
            let others = self.at.of(&address).filter(|other| other.uid != workload.uid);
            for other in others {
                delta.members.extend(self.selectors_of(other));
                delta.members.extend(other.l4.services.iter().map(|(service, _)| service.clone()));
            }
        }
    }

    fn selectors_of(&self, workload: &Workload) -> impl Iterator<Item = ServiceKey> {
        let services = self.hashes(&workload.namespace, &workload.labels).into_iter().flat_map(|label| self.selecting.of(&label));
        let selecting =
            services.filter(|s| s.key.namespace == workload.namespace && s.selector.as_ref().is_some_and(|l| selects(l, &workload.labels)));
        selecting.map(|s| s.key.clone()).collect::<Vec<_>>().into_iter()
    }

    fn hashes<'a>(&self, namespace: &str, labels: impl IntoIterator<Item = (&'a Name, &'a Name)>) -> Vec<LabelHash> {
        labels.into_iter().map(|(key, value)| self.hasher.hash_one((namespace, key, value))).collect()
    }

    /// The workloads a selector means, by uid.
    fn selected(&self, service: &Service) -> Vec<&Arc<Workload>> {
        let Some(selector) = &service.selector else { return Vec::new() };
        let labels = self.hashes(&service.key.namespace, selector);
        let Some(rarest) = labels.into_iter().min_by_key(|label| self.labelled.count(label)) else { return Vec::new() };
        let bearing = self.labelled.of(&rarest);
        let mut found: Vec<_> = bearing.filter(|w| w.namespace == service.key.namespace && selects(selector, &w.labels)).collect();
        found.sort_unstable_by_key(|w| &w.uid);
        found
    }

    /// The groups of endpoints that list a service's, by name; none at all is not the same as empty
    /// ones.
    fn groups(&self, service: &ServiceKey) -> Option<Vec<&Arc<Endpoints>>> {
        let mut groups: Vec<_> = self.groups.of(service).collect();
        groups.sort_unstable_by_key(|group| &group.source);
        (!groups.is_empty()).then_some(groups)
    }

    /// The workloads that name a service as theirs, by uid.
    fn serving(&self, service: &ServiceKey) -> Vec<&Arc<Workload>> {
        let mut serving: Vec<_> = self.serving.of(service).collect();
        serving.sort_unstable_by_key(|workload| &workload.uid);
        serving
    }

    /// The service that owns a virtual address. Should several claim it, a canonical one (a Kubernetes
    /// Service, that is) comes before others, then the order of the keys decides: the same in every
    /// mode, or a ztunnel would send to a waypoint what that does not serve.
    pub fn service_at(&self, vip: IpAddr) -> Option<&Arc<Service>> {
        self.claiming(vip).min_by_key(|s| precedence(s))
    }

    /// All services that claim a virtual address.
    pub(super) fn claiming(&self, vip: IpAddr) -> impl Iterator<Item = &Arc<Service>> {
        self.owning.of(&vip.to_canonical())
    }

    /// The service of a host name; of several, the first as in [`service_at`](Self::service_at).
    pub fn service_of(&self, host: &Hostname) -> Option<&Arc<Service>> {
        self.called(host).min_by_key(|s| precedence(s))
    }

    /// All services of a host name.
    pub(super) fn called(&self, host: &Hostname) -> impl Iterator<Item = &Arc<Service>> {
        self.called.of(host)
    }

    /// All services with virtual addresses that are whole ranges.
    pub(super) fn ranged(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.ranged.values()
    }

    /// The service that owns an address on some network.
    pub(super) fn service_on(&self, address: &NetworkAddress) -> Option<&Arc<Service>> {
        match address.network {
            None => self.service_at(address.address),
            Some(_) => self.foreign_vips.of(address).min_by_key(|s| precedence(s)),
        }
    }

    /// The workload that an address on some network names.
    pub(super) fn workload_on(&self, address: &NetworkAddress) -> Option<&Arc<Workload>> {
        match address.network {
            None => self.workload(address.address),
            Some(_) => first_named(self.foreign.of(address)),
        }
    }

    /// The workload of a namespace that has this host name.
    pub(super) fn workload_called(&self, key: &ServiceKey) -> Option<&Arc<Workload>> {
        self.hosting.of(&key.hostname).filter(|w| w.namespace == key.namespace).min_by_key(|w| &w.uid)
    }

    /// The virtual addresses that a service owns.
    pub(super) fn vips(&self, service: &Service) -> impl Iterator<Item = IpAddr> {
        let is_owner = |vip: &IpAddr| self.service_at(*vip).is_some_and(|owner| owner.key == service.key);
        service.vips.iter().map(IpAddr::to_canonical).filter(is_owner)
    }

    /// The workload that an address names. Of several a pod comes before an entry, HBONE before plain
    /// (contract, 2.4), a healthy one before one that is not.
    pub fn workload(&self, address: IpAddr) -> Option<&Arc<Workload>> {
        first_named(self.at.of(&address.to_canonical()))
    }

    /// All addresses of workloads, whether they name one or not.
    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.at.keys().copied()
    }

    /// The services of a namespace.
    pub(super) fn services_in(&self, namespace: &Name) -> impl Iterator<Item = &Arc<Service>> {
        let first = ServiceKey { namespace: namespace.clone(), hostname: Hostname::new("") };
        let from = self.mesh.services.range(first..);
        from.take_while(move |(key, _)| key.namespace == *namespace).map(|(_, service)| service)
    }
}

/// Replaces in a map; `None` when that changes nothing.
fn replace<K: Ord + Clone, T: PartialEq>(map: &mut BTreeMap<K, Arc<T>>, key: &K, new: Option<Arc<T>>) -> Option<Changed<T>> {
    if map.get(key) == new.as_ref() {
        return None;
    }
    let old = match &new {
        Some(new) => map.insert(key.clone(), new.clone()),
        None => map.remove(key),
    };
    Some(Changed { old, new })
}

/// The one among those at an address that the address names.
fn first_named<'a>(at: impl Iterator<Item = &'a Arc<Workload>>) -> Option<&'a Arc<Workload>> {
    let rank = |w: &Workload| (w.uid.contains("//Pod/"), w.protocol == TunnelProtocol::Hbone, w.health == crate::model::Health::Healthy);
    at.filter(|w| !w.host_network).max_by_key(|w| (rank(w), Reverse(&w.uid)))
}

/// Which of the services that claim the same comes first.
pub(super) fn precedence(service: &Service) -> (bool, bool, &ServiceKey) {
    (!service.l4.canonical, service.source.kind != Kind::Service, &service.key)
}

/// Whether every label of a workload selector is there; an empty one selects nothing.
pub fn selects(selector: &Labels, labels: &Labels) -> bool {
    !selector.is_empty() && selector.iter().all(|(k, v)| labels.get(k) == Some(v))
}
