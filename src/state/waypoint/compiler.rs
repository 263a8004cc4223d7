//! Compiling for one waypoint: what a batch has touched, and nothing else.

use super::{
    Known, Ports, Table, WaypointSnapshot, WorkloadPlan, passthrough,
    policies::{Governed, Policies, PolicySets},
    routes::{Routes, TableKey, Tables},
};
use crate::{
    model::{
        AppProtocol, AuthorizationPolicy, HttpRoute, Kind, Name, Parent, Resource, ResourceName, Service, ServiceKey, Waypoint, Workload,
    },
    state::{
        Changed, Compile, CompiledRules, Delta, Destination, DestinationKind, Directory, Upstream, Upstreams, counted::List,
        shared::SharedMap,
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
            routes: Routes::default(),
            upstreams: Upstreams::default(),
            tables: Tables::default(),
            sets: PolicySets::default(),
            services: HashMap::new(),
            workloads: HashMap::new(),
            bound: false,
            destinations: 0,
            vips: SharedMap::default(),
            known: SharedMap::default(),
        }
    }
}

impl Compile for WaypointCompiler {
    type Snapshot = WaypointSnapshot;

    fn compile(&mut self, directory: &Directory, delta: &Delta, version: u64) -> WaypointSnapshot {
        self.index(delta);
        delta.members.iter().for_each(|key| self.upstreams.refresh(directory, key));
        let Some(waypoint) = directory.mesh().waypoints.get(&self.gateway).filter(|w| w.is_usable()) else {
            // What was compiled is kept for when the Gateway comes back.
            self.bound = false;
            return WaypointSnapshot { version, ..WaypointSnapshot::default() };
        };
        let dirty = self.dirty(directory, delta, waypoint);
        self.bound = true;
        let mut run = Run { compiler: self, waypoint, directory, vips: HashMap::new(), known: Vec::new(), old: Vec::new() };
        let services = &directory.mesh().services;
        dirty.services.iter().for_each(|key| run.service(key, services.get(key)));
        if dirty.all_services {
            services.iter().for_each(|(key, service)| run.service(key, Some(service)));
        }
        dirty.addresses.iter().for_each(|address| run.address(*address));
        run.finish();
        let compiled = CompiledRules {
            destinations: self.destinations + self.workloads.len(),
            route_matches: self.tables.matches(),
            policy_rules: self.sets.rules(),
            upstreams: self.upstreams.len(),
        };
        WaypointSnapshot { version, compiled, bound: true, vips: self.vips.clone(), workloads: self.known.clone() }
    }

    /// Not the routes and policies of other Gateways, nor policies for workloads. A route for a
    /// service stays: the service may be bound to this waypoint later.
    fn concerns(&self, resource: &Resource) -> bool {
        match resource {
            Resource::Route(route) => route.parents.iter().any(|parent| match parent {
                Parent::Gateway(name) => *name == self.gateway,
                Parent::Service { .. } | Parent::ServiceAccount(_) => true,
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

    /// Which scopes may look different now.
    fn dirty(&mut self, directory: &Directory, delta: &Delta, waypoint: &Waypoint) -> Dirty {
        let mut dirty = Dirty { services: delta.members.clone(), all_services: false, addresses: delta.addresses.clone() };
        for vip in &delta.vips {
            dirty.services.extend(directory.claiming(*vip).map(|s| s.key.clone()));
        }
        let of_gateway = delta.waypoints.iter().flat_map(|changed| changed.each()).any(|w| w.name == self.gateway);
        if of_gateway || !self.bound {
            self.policies.forget_gateway();
            dirty.addresses.extend(directory.addresses().chain(self.known.keys()));
            self.all(directory, delta, waypoint, &mut dirty);
            return dirty;
        }
        let mut everything = false;
        for route in self.changed_routes(delta) {
            everything |= self.attached(route, directory, waypoint, &mut dirty);
        }
        for policy in delta.policies.iter().flat_map(|changed| changed.each()) {
            for governed in self.policies.governed(policy) {
                match governed {
                    Governed::Everything => everything = true,
                    Governed::Service(key) => drop(dirty.services.insert(key.clone())),
                    Governed::Namespace(name) => namespace(directory, name, waypoint, &mut dirty),
                }
            }
        }
        delta.namespaces.iter().for_each(|name| namespace(directory, name, waypoint, &mut dirty));
        if everything {
            self.all(directory, delta, waypoint, &mut dirty);
        }
        dirty
    }

    /// Everything is dirty. Going through the services in order is many times faster than by key.
    fn all(&self, directory: &Directory, delta: &Delta, waypoint: &Waypoint, dirty: &mut Dirty) {
        dirty.all_services = true;
        let removed = delta.services.iter().filter(|changed| changed.new.is_none()).flat_map(Changed::each);
        dirty.services = removed.map(|service| service.key.clone()).collect();
        if !self.bound {
            let services = &directory.mesh().services;
            dirty.services.extend(self.services.keys().filter(|key| !services.contains_key(key)).cloned());
        }
        if waypoint.traffic.workloads() {
            dirty.addresses.extend(directory.addresses());
        }
    }

    /// The routes that have changed, or whose backends may be others.
    fn changed_routes<'a>(&'a self, delta: &'a Delta) -> impl Iterator<Item = &'a Arc<HttpRoute>> {
        let reshaped = delta.services.iter().filter(|changed| shape(changed.old.as_deref()) != shape(changed.new.as_deref()));
        let keys = reshaped.flat_map(|changed| changed.each().take(1)).map(|service| &service.key);
        let leading = keys.flat_map(|key| self.routes.to_service(key).chain(self.routes.to_host(&key.hostname)));
        delta.routes.iter().flat_map(|changed| changed.each()).chain(leading)
    }

    /// Notes what a route is attached to; whether that is everything.
    fn attached(&self, route: &HttpRoute, directory: &Directory, waypoint: &Waypoint, dirty: &mut Dirty) -> bool {
        let mut everything = false;
        for parent in &route.parents {
            match parent {
                Parent::Service { service, .. } => drop(dirty.services.insert(service.clone())),
                Parent::ServiceAccount(account) => {
                    let running = self.services.iter().filter(|(_, served)| served.account.as_ref() == Some(account));
                    dirty.services.extend(running.map(|(key, _)| key.clone()));
                    if waypoint.traffic.workloads() {
                        let running = directory.mesh().workloads.values().filter(|w| account_of(w) == *account);
                        dirty.addresses.extend(running.flat_map(|w| &w.addresses).map(IpAddr::to_canonical));
                    }
                }
                Parent::Gateway(name) => everything |= *name == self.gateway,
            }
        }
        everything
    }
}

/// Notes all that stands in a namespace.
fn namespace(directory: &Directory, name: &Name, waypoint: &Waypoint, dirty: &mut Dirty) {
    dirty.services.extend(directory.services_in(name).map(|s| s.key.clone()));
    if waypoint.traffic.workloads() {
        let workloads = directory.mesh().workloads.values().filter(|w| w.namespace == *name);
        dirty.addresses.extend(workloads.flat_map(|w| &w.addresses).map(IpAddr::to_canonical));
    }
}

/// What of a service decides which upstreams there are.
fn shape(service: Option<&Service>) -> Option<(Kind, Vec<(u16, AppProtocol)>)> {
    service.map(|s| (s.source.kind, s.ports.iter().map(|p| (p.port, p.protocol)).collect()))
}

fn account_of(workload: &Workload) -> ResourceName {
    ResourceName { namespace: workload.namespace.clone(), name: workload.identity.service_account().into() }
}

/// One compilation.
struct Run<'a> {
    compiler: &'a mut WaypointCompiler,
    waypoint: &'a Waypoint,
    directory: &'a Directory,
    // What changes in the snapshot.
    vips: HashMap<IpAddr, Option<Ports>>,
    known: Vec<(IpAddr, Option<Known>)>,
    // What the scopes used before. Released last: what one scope gives up another may have acquired.
    old: Vec<Uses>,
}

impl Run<'_> {
    fn service(&mut self, key: &ServiceKey, service: Option<&Arc<Service>>) {
        let serves = |s: &&Arc<Service>| self.directory.service_waypoint(s).is_to(self.waypoint);
        let new = service.filter(serves);
        // What stays in use is acquired before it is released, and so stays what it is.
        let new = new.map(|service| (service.key.clone(), self.serve(service)));
        let old = match new {
            Some((key, served)) => self.compiler.services.insert(key, served),
            None => self.compiler.services.remove(key),
        };
        let Some(old) = old else { return };
        for vip in &old.vips {
            // If somebody has it, this service again or another one that came before in this turn.
            let owner = self.directory.service_at(*vip).and_then(|owner| self.compiler.services.get(&owner.key));
            if !owner.is_some_and(|owner| owner.vips.contains(vip)) {
                self.vips.insert(*vip, None);
            }
        }
        self.old.push(old.uses);
    }

    /// Publishes what has changed and releases what is not used any more.
    fn finish(self) {
        let Self { compiler, vips, known, old, .. } = self;
        let count = |ports: Option<&Ports>| ports.map_or(0, |ports| ports.as_slice().len());
        for (vip, new) in &vips {
            compiler.destinations = compiler.destinations + count(new.as_ref()) - count(compiler.vips.get(vip));
        }
        compiler.vips.apply(vips);
        compiler.known.apply(known);
        for uses in old {
            uses.tables.iter().for_each(|table| compiler.tables.release(table, &mut compiler.upstreams));
            uses.upstreams.iter().for_each(|upstream| compiler.upstreams.release(upstream));
            compiler.sets.release(&uses.policies);
        }
    }

    fn serve(&mut self, service: &Arc<Service>) -> Served {
        let key = &service.key;
        let policies = self.compiler.policies.applying(self.waypoint, Some(key), &key.namespace);
        let rules = self.compiler.sets.acquire(&policies);
        let account = self.service_account(service);
        let vips: Box<[IpAddr]> = self.directory.vips(service).collect();
        let (mut upstreams, mut tables) = (Vec::with_capacity(service.ports.len()), Vec::new());
        let mut ports: Vec<Destination> = Vec::with_capacity(service.ports.len());
        for port in &service.ports {
            let upstream = self.compiler.upstreams.acquire(self.directory, key, port.port).expect("the port is declared");
            upstreams.push(upstream.clone());
            let routes = self.routes(Some((key, port.port)), account.as_ref());
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
        for vip in &vips {
            let mut at = ports.iter().map(|port| Arc::new(port.at(SocketAddr::new(*vip, port.address.port()))));
            let ports = if ports.len() == 1 { at.next().map(Ports::One) } else { Some(Ports::Some(at.collect())) };
            self.vips.insert(*vip, ports);
        }
        Served { vips, account, uses: Uses { policies, tables: tables.into(), upstreams: upstreams.into() } }
    }

    fn address(&mut self, address: IpAddr) {
        let Some(workload) = self.directory.workload(address) else {
            self.known.push((address, None));
            self.uses(address, None);
            return;
        };
        if !self.directory.workload_waypoint(workload).is_to(self.waypoint) {
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
    fn routes(&mut self, service: Option<(&ServiceKey, u16)>, account: Option<&ResourceName>) -> Option<(TableKey, Table)> {
        let routes = &self.compiler.routes;
        let of_service = service.map(|(key, port)| routes.of_service(key, port)).filter(|routes| !routes.is_empty());
        let key = of_service.map(|routes| TableKey { routes, of_service: true }).or_else(|| {
            let of_account = account.map(|account| routes.of_account(account)).filter(|routes| !routes.is_empty());
            let routes = of_account.unwrap_or_else(|| routes.of_gateway());
            (!routes.is_empty()).then_some(TableKey { routes, of_service: false })
        })?;
        let table = self.compiler.tables.acquire(&key, self.directory, &mut self.compiler.upstreams);
        Some((key, table))
    }
}
