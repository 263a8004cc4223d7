//! Compiling for a ztunnel: what a batch has touched, and nothing else.

use super::{NodeService, NodeSnapshot, NodeWorkload, WaypointRoute, gateways::Gateways};
use crate::{
    authz::{Layer, Ruleset},
    model::{
        AuthorizationPolicy, Hostname, Name, PolicyTarget, Resource, ResourceName, Service, ServiceKey, TunnelProtocol, WaypointBinding,
        Workload,
    },
    state::{Bound, Compile, Delta, Directory, Hop, Upstreams, counted::List, directory::selects, shared::SharedMap},
};
use std::{
    collections::{BTreeSet, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

/// Compiles for a ztunnel. Keeps what it compiled: what no change touches costs nothing.
#[derive(Debug)]
pub struct NodeCompiler {
    root_namespace: Name,
    // Uids of the workloads that this proxy serves; policies are compiled for no other.
    own: HashSet<Name>,
    upstreams: Upstreams,
    gateways: Gateways,
    // All services and workloads, those that own no address as well.
    services: HashMap<ServiceKey, Arc<NodeService>>,
    workloads: HashMap<Name, Arc<NodeWorkload>>,
    rules: HashMap<Name, (List<AuthorizationPolicy>, Arc<Ruleset>)>,
    no_rules: Arc<Ruleset>,
    by_vip: SharedMap<IpAddr, Arc<NodeService>>,
    by_host: SharedMap<Hostname, Arc<NodeService>>,
    by_address: SharedMap<IpAddr, Arc<NodeWorkload>>,
}

impl NodeCompiler {
    /// A compiler for the proxy of these workloads (by uid).
    pub fn new(local: Vec<Name>, root_namespace: &str) -> Self {
        Self {
            root_namespace: root_namespace.into(),
            own: local.into_iter().collect(),
            upstreams: Upstreams::default(),
            gateways: Gateways::default(),
            services: HashMap::new(),
            workloads: HashMap::new(),
            rules: HashMap::new(),
            no_rules: Arc::default(),
            by_vip: SharedMap::default(),
            by_host: SharedMap::default(),
            by_address: SharedMap::default(),
        }
    }
}

impl Compile for NodeCompiler {
    type Snapshot = NodeSnapshot;

    fn compile(&mut self, directory: &Directory, delta: &Delta, version: u64) -> NodeSnapshot {
        delta.members.iter().for_each(|key| self.upstreams.refresh(directory, key));
        let gateways = self.gateways.update(directory, delta, &mut self.upstreams);
        let mut dirty = dirty(directory, delta, &gateways);
        if !delta.policies.is_empty() {
            dirty.workloads.extend(self.own.iter().cloned());
        }
        for key in &dirty.services {
            for changed in self.service(directory, key).into_iter().flatten().flatten() {
                dirty.vips.extend(changed.service.vips.iter().map(IpAddr::to_canonical));
                dirty.hosts.insert(key.hostname.clone());
            }
        }
        for uid in &dirty.workloads {
            for changed in self.workload(directory, uid).into_iter().flatten().flatten() {
                dirty.addresses.extend(changed.workload.addresses.iter().map(IpAddr::to_canonical));
            }
        }
        let (services, workloads) = (&self.services, &self.workloads);
        let service = |owner: Option<&Arc<Service>>| owner.and_then(|owner| services.get(&owner.key)).cloned();
        let workload = |owner: Option<&Arc<Workload>>| owner.and_then(|owner| workloads.get(&owner.uid)).cloned();
        self.by_vip.apply(dirty.vips.into_iter().map(|vip| (vip, service(directory.service_at(vip)))));
        self.by_host.apply(dirty.hosts.into_iter().map(|host| {
            let owner = service(directory.service_of(&host));
            (host, owner)
        }));
        self.by_address.apply(dirty.addresses.into_iter().map(|address| (address, workload(directory.workload(address)))));
        let local = self.own.iter().filter_map(|uid| self.workloads.get_key_value(uid)).map(|(uid, own)| (uid.clone(), own.clone()));
        NodeSnapshot {
            version,
            services: self.by_vip.clone(),
            hosts: self.by_host.clone(),
            workloads: self.by_address.clone(),
            local: local.collect(),
        }
    }

    /// Neither routes nor policies with `targetRefs`: those are for waypoints.
    fn concerns(&self, resource: &Resource) -> bool {
        match resource {
            Resource::Route(_) => false,
            Resource::Policy(policy) => !matches!(policy.target, PolicyTarget::Refs(_)),
            Resource::Namespace(_) | Resource::Service(_) | Resource::Endpoints(_) | Resource::Workload(_) | Resource::Waypoint(_) => true,
        }
    }
}

/// What has to be compiled anew.
struct Dirty {
    services: HashSet<ServiceKey>,
    workloads: HashSet<Name>,
    vips: HashSet<IpAddr>,
    hosts: HashSet<Hostname>,
    addresses: HashSet<IpAddr>,
}

fn dirty(directory: &Directory, delta: &Delta, gateways: &HashSet<ResourceName>) -> Dirty {
    let mut dirty = Dirty {
        services: delta.members.clone(),
        workloads: delta.workloads.iter().flat_map(|changed| changed.each().take(1)).map(|w| w.uid.clone()).collect(),
        vips: delta.vips.clone(),
        hosts: delta.hosts.clone(),
        addresses: delta.addresses.clone(),
    };
    if delta.namespaces.is_empty() && gateways.is_empty() {
        return dirty;
    }
    let is_bound = |binding: &WaypointBinding, namespace: &Name| {
        delta.namespaces.contains(namespace) || directory.binding(binding, namespace).is_some_and(|name| gateways.contains(name))
    };
    let services = directory.mesh().services.iter().filter(|(key, service)| is_bound(&service.waypoint, &key.namespace));
    dirty.services.extend(services.map(|(key, _)| key.clone()));
    let workloads = directory.mesh().workloads.iter().filter(|(_, workload)| is_bound(&workload.waypoint, &workload.namespace));
    dirty.workloads.extend(workloads.map(|(uid, _)| uid.clone()));
    dirty
}

impl NodeCompiler {
    /// Compiles a service; the forms before and after, if they differ.
    fn service(&mut self, directory: &Directory, key: &ServiceKey) -> Option<[Option<Arc<NodeService>>; 2]> {
        let new = directory.mesh().services.get(key).map(|service| {
            let ports = service.ports.iter().map(|port| port.port).collect::<HashSet<u16>>();
            let ports = ports.into_iter().filter_map(|port| Some((port, self.upstreams.acquire(directory, key, port)?))).collect();
            Arc::new(NodeService { service: service.clone(), waypoint: self.route(directory, directory.service_waypoint(service)), ports })
        });
        let old = self.services.get(key).cloned();
        // The new form has acquired what stays.
        old.iter().flat_map(|old| old.ports.values()).for_each(|upstream| self.upstreams.release(upstream));
        if old.as_ref().zip(new.as_ref()).is_some_and(|(old, new)| old.is_same(new)) {
            return None;
        }
        match &new {
            Some(new) => self.services.insert(new.service.key.clone(), new.clone()),
            None => self.services.remove(key),
        };
        Some([old, new])
    }

    /// Compiles a workload; the forms before and after, if they differ.
    fn workload(&mut self, directory: &Directory, uid: &Name) -> Option<[Option<Arc<NodeWorkload>>; 2]> {
        let new = directory.mesh().workloads.get(uid).map(|workload| {
            let hop = match workload.protocol {
                TunnelProtocol::Hbone => Hop::Hbone([workload.identity.clone()].into()),
                TunnelProtocol::None => Hop::Plain,
            };
            let waypoint = self.route(directory, directory.workload_waypoint(workload));
            Arc::new(NodeWorkload { workload: workload.clone(), waypoint, hop, rules: self.rules(directory, workload) })
        });
        let old = self.workloads.get(uid).cloned();
        if old.as_ref().zip(new.as_ref()).is_some_and(|(old, new)| old.is_same(new)) {
            return None;
        }
        match &new {
            Some(new) => drop(self.workloads.insert(new.workload.uid.clone(), new.clone())),
            None => {
                self.workloads.remove(uid);
                self.rules.remove(uid);
            }
        }
        Some([old, new])
    }

    fn route(&mut self, directory: &Directory, bound: Bound<'_>) -> Option<WaypointRoute> {
        let (waypoint, upstream) = match bound {
            Bound::Nothing => return None,
            Bound::To(waypoint) => (waypoint, Ok(self.gateways.of(directory, waypoint, &mut self.upstreams))),
            Bound::Barred(waypoint, reason) => (waypoint, Err(reason)),
        };
        Some(WaypointRoute { name: waypoint.name.clone(), upstream })
    }

    /// The policies in front of a workload. Those of other proxies' workloads are none of ours.
    fn rules(&mut self, directory: &Directory, workload: &Workload) -> Arc<Ruleset> {
        if !self.own.contains(&workload.uid) {
            return self.no_rules.clone();
        }
        let policies = &directory.mesh().policies;
        let near: BTreeSet<Name> = [workload.namespace.clone(), self.root_namespace.clone(), "".into()].into();
        let near = near.iter().flat_map(|namespace| {
            let first = ResourceName { namespace: namespace.clone(), name: "".into() };
            policies.range(first..).map(|(_, policy)| policy).take_while(move |policy| policy.name.namespace == *namespace)
        });
        let applying: List<AuthorizationPolicy> = near.filter(|policy| self.applies(policy, workload)).cloned().collect();
        match self.rules.get(&workload.uid) {
            Some((of, rules)) if *of == applying => rules.clone(),
            Some(_) | None => {
                let rules = Arc::new(Ruleset::compile(applying.iter().map(|p| &**p), Layer::Ztunnel));
                self.rules.insert(workload.uid.clone(), (applying, rules.clone()));
                rules
            }
        }
    }

    /// Which policies a ztunnel enforces in front of a workload: those of its namespace and of the
    /// root namespace that have no `targetRefs`, selectors permitting.
    fn applies(&self, policy: &AuthorizationPolicy, workload: &Workload) -> bool {
        let near = policy.name.namespace == workload.namespace || policy.name.namespace == self.root_namespace;
        match &policy.target {
            PolicyTarget::Refs(_) => false,
            PolicyTarget::Selector(labels) => near && selects(labels, &workload.labels),
            PolicyTarget::Namespace => near,
            PolicyTarget::Unknown => near || policy.name.namespace.is_empty(),
        }
    }
}
