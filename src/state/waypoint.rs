//! The waypoint's view: only what is bound to this waypoint, with routes and policies compiled.

use super::plan::BackendPlan;
use super::{
    Backends, Compile, CompiledRules, Destination, DestinationKind, Directory, RetryPlan, RulePlan, Upstream, UpstreamEndpoint, Upstreams,
};
use crate::{
    authz::{Layer, Ruleset},
    model::{
        AppProtocol, AuthorizationPolicy, BackendTarget, HttpRoute, Mesh, Name, Parent, PolicyTarget, Resource, ResourceName, RouteRule,
        Service, ServiceKey, TargetRef, Waypoint, Workload,
    },
    route::{Entry, Rank, RouteTable, WeightedChoice},
};
use scoped::Scoped;
use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

mod scoped;

type Table = Arc<RouteTable<Arc<RulePlan>>>;
type Identified<T> = Vec<Arc<T>>;

/// What a waypoint reads.
#[derive(Debug, Default)]
pub struct WaypointSnapshot {
    /// The version of the mesh it was compiled from.
    pub version: u64,
    /// What was compiled.
    pub compiled: CompiledRules,
    /// The Gateway is known; without it nothing is served.
    pub bound: bool,
    services: HashMap<SocketAddr, Arc<Destination>>,
    vips: HashSet<IpAddr>,
    workloads: HashMap<IpAddr, WorkloadPlan>,
    known: HashMap<IpAddr, Arc<Workload>>,
}

/// Whether an address may be connected to through this waypoint.
#[derive(Debug)]
pub enum Admission {
    /// Yes, to this.
    Served(Arc<Destination>),
    /// The service is served but does not declare the port.
    UndeclaredPort,
    /// Not bound to this waypoint.
    NotServed,
}

/// Everything about a workload that does not depend on the port.
#[derive(Debug)]
struct WorkloadPlan {
    workload: Arc<Workload>,
    hop: super::Hop,
    routes: Option<Table>,
    rules: PolicySets,
    // Bounded: see `destination`.
    ports: Mutex<HashMap<u16, Arc<Destination>>>,
}

/// A client may try every port of a pod; what it did not use lately is made anew.
const PORTS_KEPT_PER_WORKLOAD: usize = 64;

impl WaypointSnapshot {
    /// Judges the target of a CONNECT.
    pub fn admit(&self, target: SocketAddr) -> Admission {
        let target = SocketAddr::new(target.ip().to_canonical(), target.port());
        if let Some(destination) = self.services.get(&target) {
            return Admission::Served(destination.clone());
        }
        if self.vips.contains(&target.ip()) {
            return Admission::UndeclaredPort;
        }
        match self.workloads.get(&target.ip()) {
            Some(plan) => Admission::Served(plan.destination(target)),
            None => Admission::NotServed,
        }
    }

    /// The workload at an address: the source of a request, for telemetry.
    pub fn workload(&self, address: IpAddr) -> Option<&Arc<Workload>> {
        self.known.get(&address.to_canonical())
    }

    /// The services that are served.
    pub fn destinations(&self) -> impl Iterator<Item = &Arc<Destination>> {
        self.services.values()
    }
}

impl WorkloadPlan {
    fn destination(&self, address: SocketAddr) -> Arc<Destination> {
        let mut ports = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = ports.get(&address.port()) {
            return known.clone();
        }
        let endpoint = Arc::new(UpstreamEndpoint::new(address, self.hop.clone(), Some(self.workload.clone())));
        let name: Name = format!("outbound|{}||{}", address.port(), address.ip()).into();
        let destination = Arc::new(Destination {
            kind: DestinationKind::Workload(self.workload.clone()),
            address,
            protocol: AppProtocol::Unspecified,
            routes: self.routes.clone(),
            passthrough: passthrough(),
            http_rules: self.rules.http.clone(),
            tcp_rules: self.rules.tcp.clone(),
            upstream: Arc::new(Upstream::fixed(None, address.port(), AppProtocol::Unspecified, name, vec![endpoint])),
        });
        if ports.len() >= PORTS_KEPT_PER_WORKLOAD {
            ports.clear();
        }
        ports.insert(address.port(), destination.clone());
        destination
    }
}

/// Compiles for one waypoint.
#[derive(Debug)]
pub struct WaypointCompiler {
    gateway: ResourceName,
    root_namespace: Name,
    upstreams: Upstreams,
    // What was compiled last time, by what it was compiled from: an unchanged scope costs comparisons only.
    tables: HashMap<TableKey, (Identified<HttpRoute>, BackendWorld, Table)>,
    policies: HashMap<Vec<usize>, (Identified<AuthorizationPolicy>, PolicySets)>,
}

/// The scope and port a table is for, and the routes that make it (by address).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct TableKey(Scoped, Option<u16>, Vec<usize>);

/// The upstreams a table's rules refer to: when one of them appears or goes, the table is new.
type BackendWorld = Vec<Option<usize>>;

/// The two forms of the same policies.
#[derive(Debug, Clone)]
struct PolicySets {
    http: Arc<Ruleset>,
    tcp: Arc<Ruleset>,
}

impl WaypointCompiler {
    /// A compiler for the waypoint of this Gateway. Policies of `root_namespace` may target whole
    /// classes.
    pub fn new(gateway: ResourceName, root_namespace: &str) -> Self {
        Self {
            gateway,
            root_namespace: root_namespace.into(),
            upstreams: Upstreams::default(),
            tables: HashMap::new(),
            policies: HashMap::new(),
        }
    }
}

impl WaypointCompiler {
    /// Whether a reference in a policy of this namespace can lead to what this waypoint serves.
    fn may_mean(&self, target: &TargetRef, namespace: &Name) -> bool {
        match target {
            TargetRef::Gateway(name) => *name == self.gateway && *namespace == name.namespace,
            TargetRef::Service(key) => *namespace == key.namespace,
            TargetRef::GatewayClass(_) => *namespace == self.root_namespace,
        }
    }
}

impl Compile for WaypointCompiler {
    type Snapshot = WaypointSnapshot;

    fn compile(&mut self, mesh: &Mesh, version: u64) -> WaypointSnapshot {
        let Some(waypoint) = mesh.waypoints.get(&self.gateway).filter(|w| w.is_usable()) else {
            return WaypointSnapshot { version, ..WaypointSnapshot::default() };
        };
        let directory = Directory::new(mesh);
        let mut run =
            Run { compiler: self, waypoint, directory: &directory, scoped: scoped::Index::new(mesh, waypoint), used: Used::default() };
        let mut snapshot = run.snapshot(version);
        let used = run.used;
        snapshot.compiled.route_matches = used.tables.values().map(|(_, _, t)| t.len()).sum();
        snapshot.compiled.policy_rules = used.policies.values().map(|(_, sets)| sets.http.len()).sum();
        self.tables = used.tables;
        self.policies = used.policies;
        self.upstreams.retain(&used.upstreams);
        snapshot.compiled.upstreams = self.upstreams.len();
        snapshot
    }

    /// Not the routes and policies of other Gateways, nor policies for workloads. A route for a
    /// service stays: the service may be bound to this waypoint later.
    fn concerns(&self, resource: &Resource) -> bool {
        match resource {
            Resource::Route(route) => route.parents.iter().any(|parent| match parent {
                Parent::Gateway(name) => *name == self.gateway,
                Parent::Service { .. } | Parent::ServiceAccount(_) => true,
            }),
            Resource::Policy(policy) => match &policy.target {
                PolicyTarget::Refs(refs) => refs.iter().any(|target| self.may_mean(target, &policy.name.namespace)),
                PolicyTarget::Unknown => true,
                PolicyTarget::Selector(_) | PolicyTarget::Namespace => false,
            },
            Resource::Namespace(_) | Resource::Service(_) | Resource::Endpoints(_) | Resource::Workload(_) | Resource::Waypoint(_) => true,
        }
    }
}

/// What this compilation has used; the rest is forgotten.
#[derive(Default)]
struct Used {
    tables: HashMap<TableKey, (Identified<HttpRoute>, BackendWorld, Table)>,
    policies: HashMap<Vec<usize>, (Identified<AuthorizationPolicy>, PolicySets)>,
    upstreams: HashMap<(ServiceKey, u16), Arc<Upstream>>,
}

/// One compilation.
struct Run<'a> {
    compiler: &'a mut WaypointCompiler,
    waypoint: &'a Waypoint,
    directory: &'a Directory<'a>,
    scoped: scoped::Index<'a>,
    used: Used,
}

impl Run<'_> {
    fn snapshot(&mut self, version: u64) -> WaypointSnapshot {
        let mesh = self.directory.mesh();
        let mut snapshot = WaypointSnapshot { version, bound: true, ..WaypointSnapshot::default() };
        for service in mesh.services.values() {
            if self.serves(service) {
                self.service(service, &mut snapshot);
            }
        }
        for (address, workload) in self.directory.addresses() {
            snapshot.known.insert(address, workload.clone());
            if self.serves_workload(workload) {
                let plan = self.workload(address, workload);
                snapshot.workloads.insert(address, plan);
            }
        }
        snapshot.compiled.destinations = snapshot.services.len() + snapshot.workloads.len();
        snapshot
    }

    fn serves(&self, service: &Service) -> bool {
        self.directory.service_waypoint(service).is_to(self.waypoint)
    }

    fn serves_workload(&self, workload: &Workload) -> bool {
        self.directory.workload_waypoint(workload).is_to(self.waypoint)
    }

    fn service(&mut self, service: &Service, snapshot: &mut WaypointSnapshot) {
        let vips: Vec<IpAddr> = self.directory.vips(service).collect();
        snapshot.vips.extend(&vips);
        let rules = self.policies(Some(service), &service.key.namespace);
        let account = self.service_account(service);
        for port in &service.ports {
            let upstream = self.upstream(&service.key, port.port).expect("the port is declared");
            let routes = self.routes(Some((&service.key, port.port)), account.as_ref());
            for vip in &vips {
                let address = SocketAddr::new(*vip, port.port);
                let destination = Arc::new(Destination {
                    kind: DestinationKind::Service(service.key.clone()),
                    address,
                    protocol: port.protocol,
                    routes: routes.clone(),
                    passthrough: passthrough(),
                    http_rules: rules.http.clone(),
                    tcp_rules: rules.tcp.clone(),
                    upstream: upstream.clone(),
                });
                snapshot.services.insert(address, destination);
            }
        }
    }

    fn workload(&mut self, address: IpAddr, workload: &Arc<Workload>) -> WorkloadPlan {
        let account = ResourceName::new(&workload.namespace, workload.identity.service_account());
        WorkloadPlan {
            workload: workload.clone(),
            hop: self.directory.direct(SocketAddr::new(address, 0)).hop,
            routes: self.routes(None, Some(&account)),
            rules: self.policies(None, &workload.namespace),
            ports: Mutex::default(),
        }
    }

    /// The service account that all workloads of a service run as; routes for a service account
    /// hold for a service only when there is no doubt whom a request reaches.
    fn service_account(&self, service: &Service) -> Option<ResourceName> {
        let mut accounts = self.directory.workloads_of(service).into_iter().map(|w| (&w.namespace, w.identity.service_account()));
        let first = accounts.next()?;
        accounts.all(|other| other == first).then(|| ResourceName::new(first.0, first.1))
    }

    /// The routes of the narrowest scope that has any.
    fn routes(&mut self, service: Option<(&ServiceKey, u16)>, account: Option<&ResourceName>) -> Option<Table> {
        if let Some((key, port)) = service {
            let routes = self.scoped.service(key, port);
            if !routes.is_empty() {
                return Some(self.table(Scoped::Service(key.clone()), Some(port), routes));
            }
        }
        if let Some(account) = account {
            let routes = self.scoped.account(account);
            if !routes.is_empty() {
                return Some(self.table(Scoped::ServiceAccount(account.clone()), None, routes));
            }
        }
        let routes = self.scoped.gateway();
        (!routes.is_empty()).then(|| self.table(Scoped::Gateway, None, routes))
    }

    fn table(&mut self, scope: Scoped, port: Option<u16>, routes: Identified<HttpRoute>) -> Table {
        let key = TableKey(scope.clone(), port, addresses(&routes));
        if let Some((_, _, table)) = self.used.tables.get(&key) {
            return table.clone();
        }
        let world = self.world(&routes);
        let table = match self.compiler.tables.get(&key) {
            Some((_, old, table)) if *old == world => table.clone(),
            Some(_) | None => Arc::new(self.build(&scope, &routes)),
        };
        self.used.tables.insert(key, (routes, world, table.clone()));
        table
    }

    /// The upstreams that these routes refer to, by address, making them where they are missing.
    fn world(&mut self, routes: &[Arc<HttpRoute>]) -> BackendWorld {
        let targets: Vec<_> = routes.iter().flat_map(|r| &r.rules).flat_map(|rule| &rule.backends).map(|b| b.target.clone()).collect();
        targets.iter().map(|target| self.backend(target).map(|u| Arc::as_ptr(&u) as usize)).collect()
    }

    fn build(&mut self, scope: &Scoped, routes: &[Arc<HttpRoute>]) -> RouteTable<Arc<RulePlan>> {
        let mut entries = Vec::new();
        for route in routes {
            for (number, rule) in route.rules.iter().enumerate() {
                let plan = Arc::new(self.rule(scope, route, number, rule));
                entries.extend(rule.matches.iter().enumerate().map(|(index, matching)| Entry {
                    matching: matching.clone(),
                    rank: Rank { created: route.created, route: route.name.clone(), rule: number, index },
                    payload: plan.clone(),
                }));
            }
        }
        RouteTable::build(entries).unwrap_or_else(|error| {
            // Sources refuse routes whose expressions do not compile; should one slip through, its scope answers 404 rather
            // than letting requests pass where a rule should have held.
            tracing::error!(%error, "route table rejected");
            RouteTable::build(Vec::new()).expect("an empty table holds no expression")
        })
    }

    fn rule(&mut self, scope: &Scoped, route: &HttpRoute, number: usize, rule: &RouteRule) -> RulePlan {
        let name = match &rule.name {
            Some(name) => format!("{}.{name}", route.name),
            None => format!("{}.{number}", route.name),
        };
        // A route for a whole service account or namespace cannot name one backend for all; without backends it keeps the
        // destination. For a Service the Gateway API asks for 500.
        let backends = if rule.backends.is_empty() && !matches!(scope, Scoped::Service(_)) {
            Backends::Destination
        } else {
            let weights: Vec<u32> = rule.backends.iter().map(|b| b.weight).collect();
            let plans =
                rule.backends.iter().map(|b| BackendPlan { filters: b.filters.clone(), upstream: self.backend(&b.target) }).collect();
            Backends::Weighted(plans, WeightedChoice::new(&weights))
        };
        let retry = rule.retry.as_ref().map_or_else(RetryPlan::mesh_default, |r| RetryPlan {
            attempts: r.attempts,
            codes: r.codes.clone(),
            on_reset: true,
            backoff: r.backoff.unwrap_or(RetryPlan::mesh_default().backoff),
        });
        RulePlan { name: name.into(), filters: rule.filters.clone(), backends, timeouts: rule.timeouts, retry }
    }

    fn backend(&mut self, target: &BackendTarget) -> Option<Arc<Upstream>> {
        match target {
            BackendTarget::Service { service, port } => self.upstream(service, *port),
            BackendTarget::Hostname { hostname, port } => {
                let key = self.directory.service_of(hostname)?.key.clone();
                self.upstream(&key, *port)
            }
            BackendTarget::Invalid => None,
        }
    }

    fn upstream(&mut self, key: &ServiceKey, port: u16) -> Option<Arc<Upstream>> {
        if let Some(upstream) = self.used.upstreams.get(&(key.clone(), port)) {
            return Some(upstream.clone());
        }
        let service = self.directory.mesh().services.get(key)?;
        let port = service.port(port)?;
        let endpoints = self.directory.endpoints(service, port);
        let upstream = self.compiler.upstreams.update(key, port.port, port.protocol, endpoints);
        self.used.upstreams.insert((key.clone(), port.port), upstream.clone());
        Some(upstream)
    }

    fn policies(&mut self, service: Option<&Service>, namespace: &Name) -> PolicySets {
        let all = self.directory.mesh().policies.values();
        let applying: Identified<_> = all.filter(|p| self.applies(p, service, namespace)).cloned().collect();
        let key = addresses(&applying);
        let sets = match self.used.policies.get(&key).or_else(|| self.compiler.policies.get(&key)) {
            Some((_, sets)) => sets.clone(),
            None => {
                let compile = |layer| Arc::new(Ruleset::compile(applying.iter().map(|p| &**p), layer));
                PolicySets { http: compile(Layer::Http), tcp: compile(Layer::WaypointTcp) }
            }
        };
        self.used.policies.insert(key, (applying, sets.clone()));
        sets
    }

    /// Which policies a waypoint enforces: those with `targetRefs`. Selector policies are enforced
    /// in front of the workload (Istio, "Use Layer 7 features").
    fn applies(&self, policy: &AuthorizationPolicy, service: Option<&Service>, namespace: &Name) -> bool {
        let own = &policy.name.namespace;
        match &policy.target {
            PolicyTarget::Refs(refs) => refs.iter().any(|target| match target {
                TargetRef::Gateway(name) => *name == self.waypoint.name && *own == name.namespace,
                TargetRef::Service(key) => service.is_some_and(|s| s.key == *key) && *own == key.namespace,
                TargetRef::GatewayClass(class) => *class == self.waypoint.class && *own == self.compiler.root_namespace,
            }),
            PolicyTarget::Unknown => {
                own.is_empty() || own == namespace || *own == self.waypoint.name.namespace || *own == self.compiler.root_namespace
            }
            PolicyTarget::Selector(_) | PolicyTarget::Namespace => false,
        }
    }
}

fn passthrough() -> Arc<RulePlan> {
    static PLAN: std::sync::OnceLock<Arc<RulePlan>> = std::sync::OnceLock::new();
    let plan = || {
        Arc::new(RulePlan {
            name: "-".into(),
            filters: Vec::new(),
            backends: Backends::Destination,
            timeouts: crate::model::Timeouts::default(),
            retry: RetryPlan::mesh_default(),
        })
    };
    PLAN.get_or_init(plan).clone()
}

/// Resources are compared by address: the store makes a new one for every change, and what is kept
/// beside the key keeps the address from being used again.
fn addresses<T>(items: &[Arc<T>]) -> Vec<usize> {
    items.iter().map(|item| Arc::as_ptr(item) as usize).collect()
}

/// Whether a route names this parent.
fn is_attached(parent: &Parent, waypoint: &Waypoint) -> bool {
    matches!(parent, Parent::Gateway(name) if *name == waypoint.name)
}
