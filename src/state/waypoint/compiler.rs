//! Compiling for one waypoint: what a batch has touched, and nothing else.

use super::{
    ControlPlaneView, Known, Ports, Table, WaypointSnapshot, WorkloadPlan,
    own_places::OwnPlaces,
    passthrough,
    policies::{Governed, Policies, PolicySets},
    ranges::Ranges,
    routes::{Routes, TableKey, Tables},
};
use crate::{
    model::{
        AppProtocol, AuthorizationPolicy, HttpRoute, Kind, Name, Parent, Resource, ResourceName, Service, ServiceKey, Waypoint, Workload,
    },
    state::{
        Changed, Compile, CompiledRules, Delta, Destination, DestinationKind, Directory, Upstream, Upstreams, counted::List,
        directory::precedence, shared::SharedMap,
    },
};
use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
};

/// Compiles for one waypoint. Keeps what it compiled, and what each scope was compiled from: a scope
/// that no change touches costs nothing.
#[derive(Debug)]
pub struct WaypointCompiler {
    gateway: ResourceName,
    view: Option<ControlPlaneView>,
    // Where it is in that view, as of the last compilation.
    own: Option<OwnPlaces>,
    routes: Routes,
    policies: Policies,
    upstreams: Upstreams,
    tables: Tables,
    sets: PolicySets,
    services: HashMap<ServiceKey, Served>,
    workloads: HashMap<IpAddr, Uses>,
    bound: bool,
    destinations: usize,
    vips: SharedMap<IpAddr, Ports>,
    // The ports of services that have ranges.
    ranged: HashMap<ServiceKey, Box<[Destination]>>,
    ranges: Arc<Ranges>,
    known: SharedMap<IpAddr, Known>,
}

/// What something that is served uses.
#[derive(Debug)]
struct Uses {
    policies: List<AuthorizationPolicy>,
    tables: Box<[TableKey]>,
    upstreams: Box<[Arc<Upstream>]>,
}

/// A service that is served.
#[derive(Debug)]
struct Served {
    vips: Box<[IpAddr]>,
    /// The service account that all its workloads run as.
    account: Option<ResourceName>,
    uses: Uses,
}

/// What has to be compiled anew.
#[derive(Default)]
struct Dirty {
    services: HashSet<ServiceKey>,
    /// All that are there, besides.
    all_services: bool,
    addresses: HashSet<IpAddr>,
}

impl WaypointCompiler {
    /// A compiler for the waypoint of this Gateway. Policies of `root_namespace` may target whole
    /// classes.
    pub fn new(gateway: ResourceName, root_namespace: &str) -> Self {
        Self {
            policies: Policies::new(gateway.clone(), root_namespace.into()),
            gateway,
            view: None,
            own: None,
            routes: Routes::default(),
            upstreams: Upstreams::default(),
            tables: Tables::default(),
            sets: PolicySets::default(),
            services: HashMap::new(),
            workloads: HashMap::new(),
            bound: false,
            destinations: 0,
            vips: SharedMap::default(),
            ranged: HashMap::new(),
            ranges: Arc::default(),
            known: SharedMap::default(),
        }
    }

    /// Serves what a control plane has bound to the place where this waypoint is, and nothing else:
    /// that has judged labels, allowed namespaces, kinds of traffic and service accounts already. There
    /// need not be a Gateway then.
    #[must_use]
    pub fn with_control_plane(self, view: ControlPlaneView) -> Self {
        Self { view: Some(view), ..self }
    }
}

impl Compile for WaypointCompiler {
    type Snapshot = WaypointSnapshot;

    fn compile(&mut self, directory: &Directory, delta: &Delta, version: u64) -> WaypointSnapshot {
        self.index(delta);
        delta.members.iter().for_each(|key| self.upstreams.refresh(directory, key));
        let Some(waypoint) = self.waypoint(directory) else {
            // What was compiled is kept for when the Gateway comes back.
            self.bound = false;
            return WaypointSnapshot { version, ..WaypointSnapshot::default() };
        };
        let own = self.view.as_ref().map(|view| OwnPlaces::find(view, &waypoint, directory));
        let has_moved = std::mem::replace(&mut self.own, own) != self.own;
        let dirty = self.dirty(directory, delta, has_moved);
        self.bound = true;
        let (vips, known, old) = Default::default();
        let mut run = Run { compiler: self, waypoint: &waypoint, directory, vips, is_ranged: false, known, old };
        let services = &directory.mesh().services;
        dirty.services.iter().for_each(|key| run.service(key, services.get(key)));
        if dirty.all_services {
            services.iter().for_each(|(key, service)| run.service(key, Some(service)));
        }
        dirty.addresses.iter().for_each(|address| run.address(*address));
        run.finish();
        let ranged: usize = self.ranges.values().map(|ports| ports.as_slice().len()).sum();
        let compiled = CompiledRules {
            destinations: self.destinations + ranged + self.workloads.len(),
            route_matches: self.tables.matches(),
            policy_rules: self.sets.rules(),
            upstreams: self.upstreams.len(),
        };
        let (vips, ranges, workloads) = (self.vips.clone(), self.ranges.clone(), self.known.clone());
        WaypointSnapshot { version, compiled, bound: true, vips, ranges, workloads }
    }

    /// Not the routes and policies of other Gateways, nor policies for workloads. A route for a
    /// service stays: the service may be bound to this waypoint later.
    fn concerns(&self, resource: &Resource) -> bool {
        match resource {
            Resource::Route(route) => route.parents.iter().any(|parent| match parent {
                Parent::Gateway(name) => *name == self.gateway,
                Parent::Service { .. } | Parent::ServiceEntry { .. } | Parent::ServiceAccount(_) => true,
            }),
            Resource::Policy(policy) => !self.policies.governed(policy).is_empty(),
            Resource::Namespace(_) | Resource::Service(_) | Resource::Endpoints(_) | Resource::Workload(_) | Resource::Waypoint(_) => true,
        }
    }
}

impl WaypointCompiler {
    fn index(&mut self, delta: &Delta) {
        for changed in &delta.routes {
            changed.old.iter().for_each(|route| self.routes.remove(route));
            changed.new.iter().for_each(|route| self.routes.add(route, &self.gateway));
        }
        for changed in &delta.policies {
            changed.old.iter().for_each(|policy| self.policies.remove(policy));
            changed.new.iter().for_each(|policy| self.policies.add(policy));
        }
    }

    /// The Gateway, if it can be a waypoint. A control plane tells what is bound to this waypoint
    /// without telling of its Gateway; one that is there says more, and may bar everything.
    fn waypoint(&self, directory: &Directory) -> Option<Arc<Waypoint>> {
        let implied = || self.view.as_ref().map(|view| Arc::new(Waypoint::implied(self.gateway.clone(), view.class.as_ref())));
        directory.mesh().waypoints.get(&self.gateway).cloned().or_else(implied).filter(|waypoint| waypoint.is_usable())
    }

    /// Which scopes may look different now. What is served, of routes and policies apart, is decided by
    /// the service or workload itself, its namespace, the Gateway, and where this waypoint is.
    fn dirty(&mut self, directory: &Directory, delta: &Delta, has_moved: bool) -> Dirty {
        let mut dirty = Dirty { services: delta.members.clone(), all_services: false, addresses: delta.addresses.clone() };
        for vip in &delta.vips {
            dirty.services.extend(directory.claiming(*vip).map(|s| s.key.clone()));
        }
        let of_gateway = delta.waypoints.iter().flat_map(|changed| changed.each()).any(|w| w.name == self.gateway);
        if of_gateway || has_moved || !self.bound {
            self.policies.forget_gateway();
            dirty.addresses.extend(directory.addresses().chain(self.known.keys()));
            self.all(directory, delta, &mut dirty);
            return dirty;
        }
        let mut everything = false;
        for route in self.changed_routes(delta) {
            everything |= self.attached(route, directory, &mut dirty);
        }
        for policy in delta.policies.iter().flat_map(|changed| changed.each()) {
            for governed in self.policies.governed(policy) {
                match governed {
                    Governed::Everything => everything = true,
                    Governed::Service(key) => drop(dirty.services.insert(key.clone())),
                    Governed::Entry(entry) => dirty.services.extend(hosts(directory, entry)),
                    Governed::Namespace(name) => self.served_in(directory, name, &mut dirty),
                }
            }
        }
        delta.namespaces.iter().for_each(|name| bound_by(directory, name, &mut dirty));
        if everything {
            self.all(directory, delta, &mut dirty);
        }
        dirty
    }

    /// Everything that is served is dirty. Going through the services in order is many times faster
    /// than by key.
    fn all(&self, directory: &Directory, delta: &Delta, dirty: &mut Dirty) {
        dirty.all_services = true;
        let removed = delta.services.iter().filter(|changed| changed.new.is_none()).flat_map(Changed::each);
        dirty.services = removed.map(|service| service.key.clone()).collect();
        if !self.bound {
            let services = &directory.mesh().services;
            dirty.services.extend(self.services.keys().filter(|key| !services.contains_key(key)).cloned());
        }
        dirty.addresses.extend(self.workloads.keys());
    }

    /// Notes all that is served in a namespace.
    fn served_in(&self, directory: &Directory, name: &Name, dirty: &mut Dirty) {
        dirty.services.extend(directory.services_in(name).map(|s| s.key.clone()));
        dirty.addresses.extend(self.served_workloads().filter(|(_, w)| w.namespace == *name).map(|(address, _)| address));
    }

    /// The workloads that are served, as of the last compilation.
    fn served_workloads(&self) -> impl Iterator<Item = (IpAddr, &Workload)> {
        self.workloads.keys().filter_map(|address| Some((*address, &*self.known.get(address)?.workload)))
    }

    /// The routes that have changed, or whose backends may be others.
    fn changed_routes<'a>(&'a self, delta: &'a Delta) -> impl Iterator<Item = &'a Arc<HttpRoute>> {
        let reshaped = delta.services.iter().filter(|changed| shape(changed.old.as_deref()) != shape(changed.new.as_deref()));
        let keys = reshaped.flat_map(|changed| changed.each().take(1)).map(|service| &service.key);
        let leading = keys.flat_map(|key| self.routes.to_service(key).chain(self.routes.to_host(&key.hostname)));
        delta.routes.iter().flat_map(|changed| changed.each()).chain(leading)
    }

    /// Notes what a route is attached to; whether that is everything.
    fn attached(&self, route: &HttpRoute, directory: &Directory, dirty: &mut Dirty) -> bool {
        let mut everything = false;
        for parent in &route.parents {
            match parent {
                Parent::Service { service, .. } => drop(dirty.services.insert(service.clone())),
                Parent::ServiceEntry { entry, .. } => dirty.services.extend(hosts(directory, entry)),
                Parent::ServiceAccount(account) => {
                    let running = self.services.iter().filter(|(_, served)| served.account.as_ref() == Some(account));
                    dirty.services.extend(running.map(|(key, _)| key.clone()));
                    let running = self.served_workloads().filter(|(_, w)| account_of(w) == *account);
                    dirty.addresses.extend(running.map(|(address, _)| address));
                }
                Parent::Gateway(name) => everything |= *name == self.gateway,
            }
        }
        everything
    }
}

/// Notes all that stands in a namespace, whose labels may bind it.
fn bound_by(directory: &Directory, namespace: &Name, dirty: &mut Dirty) {
    dirty.services.extend(directory.services_in(namespace).map(|s| s.key.clone()));
    let workloads = directory.mesh().workloads.values().filter(|w| w.namespace == *namespace);
    dirty.addresses.extend(workloads.flat_map(|w| &w.addresses).map(IpAddr::to_canonical));
}

/// The services that a reference to a ServiceEntry means.
fn hosts(directory: &Directory, entry: &ResourceName) -> impl Iterator<Item = ServiceKey> {
    directory.services_in(&entry.namespace).filter(move |service| service.entry() == entry).map(|service| service.key.clone())
}

/// What of a service decides which upstreams there are.
fn shape(service: Option<&Service>) -> Option<(Kind, Vec<(u16, AppProtocol)>)> {
    service.map(|s| (s.source.kind, s.ports.iter().map(|p| (p.port, p.protocol)).collect()))
}

fn account_of(workload: &Workload) -> ResourceName {
    ResourceName { namespace: workload.namespace.clone(), name: workload.identity.service_account().into() }
}

/// The ranges of services that are served; of several services with the same one the first has it.
fn ranges(directory: &Directory, ported: &HashMap<ServiceKey, Box<[Destination]>>) -> Ranges {
    let mut services: Vec<_> = directory.ranged().filter_map(|service| Some((service, ported.get(&service.key)?))).collect();
    services.sort_unstable_by_key(|(service, _)| precedence(service));
    let mut ranges = Ranges::default();
    for (service, ports) in services {
        service.l4.ranges.iter().for_each(|range| ranges.add(*range, |network| Ports::at(ports, network)));
    }
    ranges
}

/// One compilation.
struct Run<'a> {
    compiler: &'a mut WaypointCompiler,
    waypoint: &'a Waypoint,
    directory: &'a Directory,
    // What changes in the snapshot.
    vips: HashMap<IpAddr, Option<Ports>>,
    is_ranged: bool,
    known: Vec<(IpAddr, Option<Known>)>,
    // What the scopes used before. Released last: what one scope gives up another may have acquired.
    old: Vec<Uses>,
}

impl Run<'_> {
    fn service(&mut self, key: &ServiceKey, service: Option<&Arc<Service>>) {
        let new = service.filter(|service| self.serves(service));
        self.is_ranged |= self.compiler.ranged.remove(key).is_some();
        // What stays in use is acquired before it is released, and so stays what it is.
        let new = new.map(|service| (service.key.clone(), self.serve(service)));
        let old = match new {
            Some((key, served)) => self.compiler.services.insert(key, served),
            None => self.compiler.services.remove(key),
        };
        let Some(old) = old else { return };
        for vip in &old.vips {
            // If somebody has it, this service again or another one that came before in this turn.
            let owner = self.owner(*vip).and_then(|owner| self.compiler.services.get(&owner.key));
            if !owner.is_some_and(|owner| owner.vips.contains(vip)) {
                self.vips.insert(*vip, None);
            }
        }
        self.old.push(old.uses);
    }

    fn serves(&self, service: &Service) -> bool {
        match &self.compiler.own {
            Some(own) => own.serve_service(service),
            None => self.directory.service_waypoint(service).is_to(self.waypoint),
        }
    }

    fn serves_workload(&self, workload: &Workload) -> bool {
        match &self.compiler.own {
            Some(own) => own.serve_workload(workload),
            None => self.directory.workload_waypoint(workload).is_to(self.waypoint),
        }
    }

    /// The service that a virtual address means. Where a control plane binds, clients of different
    /// namespaces may mean different ones by it (contract, 2.4): here it is one that is served.
    fn owner(&self, vip: IpAddr) -> Option<&Arc<Service>> {
        match &self.compiler.own {
            Some(own) => self.directory.claiming(vip).filter(|s| own.serve_service(s)).min_by_key(|s| precedence(s)),
            None => self.directory.service_at(vip),
        }
    }

    /// Publishes what has changed and releases what is not used any more.
    fn finish(self) {
        let Self { compiler, directory, vips, is_ranged, known, old, .. } = self;
        let count = |ports: Option<&Ports>| ports.map_or(0, |ports| ports.as_slice().len());
        for (vip, new) in &vips {
            compiler.destinations = compiler.destinations + count(new.as_ref()) - count(compiler.vips.get(vip));
        }
        compiler.vips.apply(vips);
        compiler.known.apply(known);
        if is_ranged {
            compiler.ranges = Arc::new(ranges(directory, &compiler.ranged));
        }
        for uses in old {
            uses.tables.iter().for_each(|table| compiler.tables.release(table, &mut compiler.upstreams));
            uses.upstreams.iter().for_each(|upstream| compiler.upstreams.release(upstream));
            compiler.sets.release(&uses.policies);
        }
    }

    fn serve(&mut self, service: &Arc<Service>) -> Served {
        let key = &service.key;
        let policies = self.compiler.policies.applying(self.waypoint, Some(service), &key.namespace);
        let rules = self.compiler.sets.acquire(&policies);
        let account = self.service_account(service);
        let claimed = service.vips.iter().map(IpAddr::to_canonical);
        let vips: Box<[IpAddr]> = claimed.filter(|vip| self.owner(*vip).is_some_and(|owner| owner.key == *key)).collect();
        let (mut upstreams, mut tables) = (Vec::with_capacity(service.ports.len()), Vec::new());
        let mut ports: Vec<Destination> = Vec::with_capacity(service.ports.len());
        for port in &service.ports {
            let upstream = self.compiler.upstreams.acquire(self.directory, key, port.port).expect("the port is declared");
            upstreams.push(upstream.clone());
            let routes = self.routes(Some((service, port.port)), account.as_ref());
            // Of several declarations of one port the last one counts.
            ports.retain(|other| other.address.port() != port.port);
            ports.push(Destination {
                kind: DestinationKind::Service(key.clone()),
                address: SocketAddr::new(IpAddr::from([0; 4]), port.port),
                protocol: port.protocol,
                routes: routes.as_ref().map(|(_, table)| table.clone()),
                passthrough: passthrough(),
                http_rules: rules.http.clone(),
                tcp_rules: rules.tcp.clone(),
                upstream,
            });
            tables.extend(routes.map(|(key, _)| key));
        }
        self.vips.extend(vips.iter().map(|vip| (*vip, Some(Ports::at(&ports, *vip)))));
        if !service.l4.ranges.is_empty() {
            self.compiler.ranged.insert(key.clone(), ports.into());
            self.is_ranged = true;
        }
        Served { vips, account, uses: Uses { policies, tables: tables.into(), upstreams: upstreams.into() } }
    }

    fn address(&mut self, address: IpAddr) {
        let Some(workload) = self.directory.workload(address) else {
            self.known.push((address, None));
            self.uses(address, None);
            return;
        };
        if !self.serves_workload(workload) {
            self.known.push((address, Some(Known { workload: workload.clone(), plan: None })));
            self.uses(address, None);
            return;
        }
        let policies = self.compiler.policies.applying(self.waypoint, None, &workload.namespace);
        let routes = self.routes(None, Some(&account_of(workload)));
        let plan = WorkloadPlan {
            workload: workload.clone(),
            hop: self.directory.direct(SocketAddr::new(address, 0)).hop,
            routes: routes.as_ref().map(|(_, table)| table.clone()),
            rules: self.compiler.sets.acquire(&policies),
            ports: Mutex::default(),
        };
        let same = self.compiler.known.get(&address).and_then(|known| known.plan.as_ref()).filter(|old| old.is_same(&plan));
        let plan = same.cloned().unwrap_or_else(|| Arc::new(plan));
        self.known.push((address, Some(Known { workload: workload.clone(), plan: Some(plan) })));
        let tables = routes.into_iter().map(|(key, _)| key).collect();
        self.uses(address, Some(Uses { policies, tables, upstreams: [].into() }));
    }

    /// Notes what the workload at an address uses from now on.
    fn uses(&mut self, address: IpAddr, new: Option<Uses>) {
        self.old.extend(match new {
            Some(uses) => self.compiler.workloads.insert(address, uses),
            None => self.compiler.workloads.remove(&address),
        });
    }

    /// The service account that all workloads of a service run as; routes for a service account
    /// hold for a service only when there is no doubt whom a request reaches.
    fn service_account(&self, service: &Service) -> Option<ResourceName> {
        let workloads = self.directory.workloads_of(service);
        let mut accounts = workloads.iter().map(|w| (&w.namespace, w.identity.service_account()));
        let first = accounts.next()?;
        accounts.all(|other| other == first).then(|| ResourceName { namespace: first.0.clone(), name: first.1.into() })
    }

    /// The routes of the narrowest scope that has any.
    fn routes(&mut self, service: Option<(&Service, u16)>, account: Option<&ResourceName>) -> Option<(TableKey, Table)> {
        let routes = &self.compiler.routes;
        let of_service = service.map(|(service, port)| routes.of_service(service, port)).filter(|routes| !routes.is_empty());
        let key = of_service.map(|routes| TableKey { routes, of_service: true }).or_else(|| {
            let of_account = account.map(|account| routes.of_account(account)).filter(|routes| !routes.is_empty());
            let routes = of_account.unwrap_or_else(|| routes.of_gateway());
            (!routes.is_empty()).then_some(TableKey { routes, of_service: false })
        })?;
        let table = self.compiler.tables.acquire(&key, self.directory, &mut self.compiler.upstreams);
        Some((key, table))
    }
}
