//! Compiling for a ztunnel: what a batch has touched, and nothing else.

use super::{Local, NodeService, NodeSnapshot, NodeWorkload, Owners, Ranges, WaypointRoute, gateways::Gateways, places::Places};
use crate::{
    authz::{Layer, Ruleset},
    model::{
        AuthorizationPolicy, Hostname, Name, PolicyTarget, Resource, ResourceName, Service, ServiceKey, TunnelProtocol, WaypointBinding,
        Workload,
    },
    state::{
        Barred, Bound, Compile, Delta, Directory, Hop, Reach, Upstreams,
        counted::List,
        directory::{precedence, selects},
        shared::SharedMap,
    },
};
use std::{
    collections::{BTreeSet, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

/// Which workloads a ztunnel serves: policies are compiled for no other.
#[derive(Debug, Clone)]
pub enum Own {
    /// These, by uid.
    Workloads(HashSet<Name>),
    /// The one of this name, under whatever uid. Neither node nor cluster is asked for: in a mesh of
    /// several clusters, a pod of the same namespace and name in another one on the same network counts
    /// as well, and policies are compiled for both.
    Named(ResourceName),
    /// Those that run on this node; without a name, on any.
    Node(Option<Name>),
}

impl Own {
    fn contains(&self, workload: &Workload) -> bool {
        match self {
            Self::Workloads(uids) => uids.contains(&workload.uid),
            Self::Named(own) => workload.namespace == own.namespace && workload.name == own.name && workload.l4.network.is_none(),
            Self::Node(Some(node)) => workload.node == *node && workload.l4.network.is_none(),
            Self::Node(None) => workload.l4.network.is_none(),
        }
    }
}

/// Makes traffic to the services of a namespace depend on the waypoint that they name: without it
/// they are not reached.
const REQUIRE_WAYPOINT: &str = "cairn.dev/require-waypoint";
/// So many changed addresses are told one by one.
const FEW: usize = 256;

/// Compiles for a ztunnel. Keeps what it compiled: what no change touches costs nothing.
#[derive(Debug)]
pub struct NodeCompiler {
    root_namespace: Name,
    require_waypoint: bool,
    own: Own,
    // Uids of those that are there.
    local: BTreeSet<Name>,
    // What of them was published; `None`: they have changed since.
    published: Option<Arc<Local>>,
    upstreams: Upstreams,
    gateways: Gateways,
    places: Places,
    // All services, those that own no address as well.
    services: HashMap<ServiceKey, Arc<NodeService>>,
    workloads: SharedMap<Name, Arc<NodeWorkload>>,
    mesh_wide: BTreeSet<ResourceName>,
    rules: HashMap<Name, (List<AuthorizationPolicy>, Arc<Ruleset>)>,
    no_rules: Arc<Ruleset>,
    // The policies that a workload lists and that are not there, by uid: each was told of once.
    missing: HashMap<Name, BTreeSet<ResourceName>>,
    by_vip: SharedMap<IpAddr, Owners>,
    ranges: Arc<Ranges>,
    by_host: SharedMap<Hostname, Owners>,
    by_address: SharedMap<IpAddr, Arc<NodeWorkload>>,
}

impl NodeCompiler {
    /// A compiler for the proxy of these workloads.
    pub fn new(own: Own, root_namespace: &str) -> Self {
        Self {
            root_namespace: root_namespace.into(),
            require_waypoint: false,
            own,
            local: BTreeSet::new(),
            published: None,
            upstreams: Upstreams::new(Reach::Anywhere),
            gateways: Gateways::default(),
            places: Places::default(),
            services: HashMap::new(),
            workloads: SharedMap::default(),
            mesh_wide: BTreeSet::new(),
            rules: HashMap::new(),
            no_rules: Arc::default(),
            missing: HashMap::new(),
            by_vip: SharedMap::default(),
            ranges: Arc::default(),
            by_host: SharedMap::default(),
            by_address: SharedMap::default(),
        }
    }

    /// What names a waypoint that does not exist is not reached, in every namespace; without this,
    /// only in those with the label `cairn.dev/require-waypoint: "true"`.
    #[must_use]
    pub fn require_waypoint(mut self, require: bool) -> Self {
        self.require_waypoint = require;
        self
    }
}

impl Compile for NodeCompiler {
    type Snapshot = NodeSnapshot;

    fn compile(&mut self, directory: &Directory, delta: &Delta, version: u64) -> NodeSnapshot {
        delta.members.iter().for_each(|key| self.upstreams.refresh(directory, key));
        let gateways = self.gateways.update(directory, delta, &mut self.upstreams);
        self.places.update(directory, delta, &mut self.upstreams);
        let mut dirty = dirty(directory, delta, &gateways);
        if !delta.policies.is_empty() {
            self.note_policies(delta);
            dirty.workloads.extend(self.local.iter().cloned());
        }
        let mut is_ranged = false;
        for key in &dirty.services {
            for changed in self.service(directory, key).into_iter().flatten().flatten() {
                dirty.vips.extend(changed.service.vips.iter().map(IpAddr::to_canonical));
                dirty.hosts.insert(key.hostname.clone());
                is_ranged |= !changed.service.l4.ranges.is_empty();
            }
        }
        for uid in &dirty.workloads {
            for changed in self.workload(directory, uid).into_iter().flatten().flatten() {
                dirty.addresses.extend(changed.workload.addresses.iter().map(IpAddr::to_canonical));
            }
        }
        let services = &self.services;
        if is_ranged {
            self.ranges = Arc::new(Ranges::new(in_order(directory.ranged(), services)));
        }
        self.by_vip.apply(dirty.vips.into_iter().map(|vip| (vip, Owners::new(in_order(directory.claiming(vip), services)))));
        self.by_host.apply(dirty.hosts.into_iter().map(|host| {
            let owners = Owners::new(in_order(directory.called(&host), services));
            (host, owners)
        }));
        let workload = |owner: Option<&Arc<Workload>>| owner.and_then(|owner| self.workloads.get(&owner.uid)).cloned();
        let moved = (dirty.addresses.len() <= FEW).then(|| dirty.addresses.clone());
        self.by_address.apply(dirty.addresses.into_iter().map(|address| (address, workload(directory.workload(address)))));
        self.snapshot(version, moved)
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

/// Services as they are compiled, in the order in which they come when several claim the same.
fn in_order<'a>(
    claiming: impl Iterator<Item = &'a Arc<Service>>,
    compiled: &HashMap<ServiceKey, Arc<NodeService>>,
) -> Vec<Arc<NodeService>> {
    let mut claiming: Vec<_> = claiming.collect();
    claiming.sort_unstable_by_key(|service| precedence(service));
    claiming.into_iter().filter_map(|service| compiled.get(&service.key)).cloned().collect()
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
            let waypoint = self.route(directory, directory.service_waypoint(service), &service.key.namespace);
            Arc::new(NodeService { service: service.clone(), waypoint, ports })
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
            let waypoint = self.route(directory, directory.workload_waypoint(workload), &workload.namespace);
            Arc::new(NodeWorkload { workload: workload.clone(), waypoint, hop, rules: self.rules(directory, workload) })
        });
        let old = self.workloads.get(uid).cloned();
        if old.as_ref().zip(new.as_ref()).is_some_and(|(old, new)| old.is_same(new)) {
            return None;
        }
        match new.as_ref().filter(|new| self.own.contains(&new.workload)) {
            Some(_) => {
                self.local.insert(uid.clone());
                self.published = None;
            }
            None => {
                if self.local.remove(uid) {
                    self.published = None;
                }
                self.rules.remove(uid);
                self.missing.remove(uid);
            }
        }
        self.workloads.apply([(uid.clone(), new.clone())]);
        Some([old, new])
    }

    fn note_policies(&mut self, delta: &Delta) {
        for changed in &delta.policies {
            if let Some(old) = &changed.old {
                self.mesh_wide.remove(&old.name);
            }
            let new = changed.new.iter().filter(|new| new.target == PolicyTarget::Mesh);
            self.mesh_wide.extend(new.map(|new| new.name.clone()));
        }
    }

    fn snapshot(&mut self, version: u64, moved: Option<HashSet<IpAddr>>) -> NodeSnapshot {
        let (uids, workloads) = (&self.local, &self.workloads);
        let own = || Arc::new(Local::new(uids.iter().filter_map(|uid| workloads.get(uid)).cloned()));
        let local = self.published.get_or_insert_with(own).clone();
        NodeSnapshot {
            version,
            services: self.by_vip.clone(),
            ranges: self.ranges.clone(),
            hosts: self.by_host.clone(),
            addresses: self.by_address.clone(),
            workloads: self.workloads.clone(),
            places: self.places.found(),
            moved,
            local,
        }
    }

    fn route(&mut self, directory: &Directory, bound: Bound<'_>, namespace: &Name) -> Option<WaypointRoute> {
        let (name, upstream) = match bound {
            Bound::Nothing => return None,
            Bound::At(place) => return Some(WaypointRoute::At(place.clone())),
            Bound::To(waypoint) => (&waypoint.name, Ok(self.gateways.of(directory, waypoint, &mut self.upstreams))),
            Bound::Barred(waypoint, reason) => (&waypoint.name, Err(reason)),
            Bound::Missing(name) if self.requires_waypoint(directory, namespace) => (name, Err(Barred::Missing)),
            Bound::Missing(_) => return None,
        };
        Some(WaypointRoute::Gateway { name: name.clone(), upstream })
    }

    fn requires_waypoint(&self, directory: &Directory, namespace: &Name) -> bool {
        let labels = || directory.mesh().namespaces.get(namespace).map(|info| &info.labels);
        self.require_waypoint || labels().and_then(|labels| labels.get(REQUIRE_WAYPOINT)).is_some_and(|value| **value == *"true")
    }

    /// The policies in front of a workload. Those of other proxies' workloads are none of ours.
    fn rules(&mut self, directory: &Directory, workload: &Workload) -> Arc<Ruleset> {
        if !self.own.contains(workload) {
            return self.no_rules.clone();
        }
        let policies = &directory.mesh().policies;
        self.miss(workload, workload.l4.policies.iter().filter(|name| !policies.contains_key(*name)).cloned().collect());
        let near: BTreeSet<Name> = [workload.namespace.clone(), self.root_namespace.clone(), "".into()].into();
        let near = near.iter().flat_map(|namespace| {
            let first = ResourceName { namespace: namespace.clone(), name: "".into() };
            policies.range(first..).map(|(_, policy)| policy).take_while(move |policy| policy.name.namespace == *namespace)
        });
        let near = near.filter(|policy| self.applies(policy, workload));
        let everywhere = self.mesh_wide.iter().filter_map(|name| policies.get(name));
        let listed = workload.l4.policies.iter().filter_map(|name| policies.get(name));
        let mut known = BTreeSet::new();
        let applying = near.chain(everywhere).chain(listed).filter(|policy| known.insert(&policy.name));
        let applying: List<AuthorizationPolicy> = applying.cloned().collect();
        match self.rules.get(&workload.uid) {
            Some((of, rules)) if *of == applying => rules.clone(),
            Some(_) | None => {
                let rules = Arc::new(Ruleset::compile(applying.iter().map(|p| &**p), Layer::Ztunnel));
                self.rules.insert(workload.uid.clone(), (applying, rules.clone()));
                rules
            }
        }
    }

    /// Tells of the policies that a workload lists and that are not there, of each once until it is.
    fn miss(&mut self, workload: &Workload, missing: BTreeSet<ResourceName>) {
        let told = self.missing.get(&workload.uid);
        for name in missing.iter().filter(|name| !told.is_some_and(|told| told.contains(*name))) {
            tracing::warn!(workload = %workload.uid, policy = %name, "the workload lists a policy that does not exist");
        }
        if missing.is_empty() {
            self.missing.remove(&workload.uid);
        } else {
            self.missing.insert(workload.uid.clone(), missing);
        }
    }

    /// Which policies a ztunnel enforces in front of a workload besides those that it lists or that are
    /// for all: those of its namespace and of the root namespace that have no `targetRefs`, selectors
    /// permitting.
    fn applies(&self, policy: &AuthorizationPolicy, workload: &Workload) -> bool {
        let near = policy.name.namespace == workload.namespace || policy.name.namespace == self.root_namespace;
        match &policy.target {
            PolicyTarget::Refs(_) | PolicyTarget::Listed | PolicyTarget::Mesh => false,
            PolicyTarget::Selector(labels) => near && selects(labels, &workload.labels),
            PolicyTarget::Namespace => near,
            PolicyTarget::Unknown => near || policy.name.namespace.is_empty(),
        }
    }
}
