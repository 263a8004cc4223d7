//! Routes by what they are attached to and where they lead, and the tables made of them.

use super::Table;
use crate::{
    model::{BackendTarget, Hostname, HttpRoute, Parent, ResourceName, RouteRule, Service, ServiceKey},
    route::{Entry, Rank, RouteTable, WeightedChoice},
    state::{
        BackendPlan, Backends, Directory, RetryPlan, RulePlan, Upstream, Upstreams,
        counted::{Counted, List},
        relation::Relation,
    },
};
use std::{mem, sync::Arc};

/// The routes of a mesh, by parent and by backend; those for other waypoints are left out.
#[derive(Debug, Default)]
pub(super) struct Routes {
    services: Relation<ServiceKey, HttpRoute>,
    entries: Relation<ResourceName, HttpRoute>,
    accounts: Relation<ResourceName, HttpRoute>,
    gateway: Relation<(), HttpRoute>,
    to_services: Relation<ServiceKey, HttpRoute>,
    to_hosts: Relation<Hostname, HttpRoute>,
}

impl Routes {
    pub(super) fn add(&mut self, route: &Arc<HttpRoute>, gateway: &ResourceName) {
        for parent in &route.parents {
            match parent {
                Parent::Service { service, .. } => self.services.add(service.clone(), route),
                Parent::ServiceEntry { entry, .. } => self.entries.add(entry.clone(), route),
                Parent::ServiceAccount(name) => self.accounts.add(name.clone(), route),
                Parent::Gateway(name) if name == gateway => self.gateway.add((), route),
                Parent::Gateway(_) => {}
            }
        }
        for target in targets(route) {
            match target {
                BackendTarget::Service { service, .. } => self.to_services.add(service.clone(), route),
                BackendTarget::Hostname { hostname, .. } => self.to_hosts.add(hostname.clone(), route),
                BackendTarget::Invalid => {}
            }
        }
    }

    pub(super) fn remove(&mut self, route: &Arc<HttpRoute>) {
        for parent in &route.parents {
            match parent {
                Parent::Service { service, .. } => self.services.remove(service, route),
                Parent::ServiceEntry { entry, .. } => self.entries.remove(entry, route),
                Parent::ServiceAccount(name) => self.accounts.remove(name, route),
                Parent::Gateway(_) => self.gateway.remove(&(), route),
            }
        }
        for target in targets(route) {
            match target {
                BackendTarget::Service { service, .. } => self.to_services.remove(service, route),
                BackendTarget::Hostname { hostname, .. } => self.to_hosts.remove(hostname, route),
                BackendTarget::Invalid => {}
            }
        }
    }

    /// The routes for one port of a service.
    pub(super) fn of_service(&self, service: &Service, port: u16) -> List<HttpRoute> {
        let is_for = |parent: &Parent| match parent {
            Parent::Service { service: key, port: only } => *key == service.key && only.is_none_or(|only| only == port),
            Parent::ServiceEntry { entry, port: only } => service.entry() == entry && only.is_none_or(|only| only == port),
            Parent::ServiceAccount(_) | Parent::Gateway(_) => false,
        };
        let of_entry = self.entries.of(service.entry());
        let attached = self.services.of(&service.key).chain(of_entry);
        in_order(attached.filter(|route| route.parents.iter().any(is_for)))
    }

    pub(super) fn of_account(&self, account: &ResourceName) -> List<HttpRoute> {
        in_order(self.accounts.of(account))
    }

    pub(super) fn of_gateway(&self) -> List<HttpRoute> {
        in_order(self.gateway.of(&()))
    }

    /// The routes with a backend in this service.
    pub(super) fn to_service(&self, service: &ServiceKey) -> impl Iterator<Item = &Arc<HttpRoute>> {
        self.to_services.of(service)
    }

    /// The routes with this host as a backend.
    pub(super) fn to_host(&self, host: &Hostname) -> impl Iterator<Item = &Arc<HttpRoute>> {
        self.to_hosts.of(host)
    }
}

fn targets(route: &HttpRoute) -> impl Iterator<Item = &BackendTarget> {
    route.rules.iter().flat_map(|rule| &rule.backends).map(|backend| &backend.target)
}

fn in_order<'a>(routes: impl Iterator<Item = &'a Arc<HttpRoute>>) -> List<HttpRoute> {
    let mut routes: Vec<_> = routes.cloned().collect();
    routes.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    // A host may be a parent by its name and by that of its ServiceEntry.
    routes.dedup_by(|a, b| Arc::ptr_eq(a, b));
    routes.into_iter().collect()
}

/// What a table is made of.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct TableKey {
    pub(super) routes: List<HttpRoute>,
    /// For a service, rather than for an account or all of the waypoint.
    pub(super) of_service: bool,
}

/// All tables in use. Scopes with the same routes share one.
#[derive(Debug, Default)]
pub(super) struct Tables {
    known: Counted<TableKey, Compiled>,
    matches: usize,
}

#[derive(Debug)]
struct Compiled {
    table: Table,
    leads_to: World,
}

/// The upstreams that a table's rules refer to, in order: when one of them appears or goes, the table
/// is new.
type World = Box<[Option<Arc<Upstream>>]>;

impl Tables {
    /// The table of these routes, in use until it is [released](Self::release).
    pub(super) fn acquire(&mut self, key: &TableKey, directory: &Directory, upstreams: &mut Upstreams) -> Table {
        let mut world = world(&key.routes, directory, upstreams);
        if let Some(known) = self.known.acquire(key) {
            if !is_same(&known.leads_to, &world) {
                self.matches -= known.table.len();
                known.table = Arc::new(build(key, &world));
                self.matches += known.table.len();
                mem::swap(&mut known.leads_to, &mut world);
            }
            world.iter().flatten().for_each(|upstream| upstreams.release(upstream));
            return known.table.clone();
        }
        let table = Arc::new(build(key, &world));
        self.matches += table.len();
        self.known.add(key.clone(), Compiled { table: table.clone(), leads_to: world });
        table
    }

    pub(super) fn release(&mut self, key: &TableKey, upstreams: &mut Upstreams) {
        if let Some(last) = self.known.release(key) {
            self.matches -= last.table.len();
            last.leads_to.iter().flatten().for_each(|upstream| upstreams.release(upstream));
        }
    }

    /// How many matches all tables hold.
    pub(super) fn matches(&self) -> usize {
        self.matches
    }
}

fn is_same(a: &World, b: &World) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.as_ref().map(Arc::as_ptr) == b.as_ref().map(Arc::as_ptr))
}

fn world(routes: &List<HttpRoute>, directory: &Directory, upstreams: &mut Upstreams) -> World {
    let mut resolve = |target: &BackendTarget| match target {
        BackendTarget::Service { service, port } => upstreams.acquire(directory, service, *port),
        BackendTarget::Hostname { hostname, port } => upstreams.acquire(directory, &directory.service_of(hostname)?.key, *port),
        BackendTarget::Invalid => None,
    };
    routes.iter().flat_map(|route| targets(route)).map(&mut resolve).collect()
}

fn build(key: &TableKey, world: &World) -> RouteTable<Arc<RulePlan>> {
    let mut entries = Vec::new();
    let mut upstreams = world.iter().cloned();
    for route in key.routes.iter() {
        for (number, rule) in route.rules.iter().enumerate() {
            let leads_to = upstreams.by_ref().take(rule.backends.len()).collect();
            let plan = Arc::new(plan(key.of_service, route, number, rule, leads_to));
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

fn plan(of_service: bool, route: &HttpRoute, number: usize, rule: &RouteRule, leads_to: Vec<Option<Arc<Upstream>>>) -> RulePlan {
    let name = match &rule.name {
        Some(name) => format!("{}.{name}", route.name),
        None => format!("{}.{number}", route.name),
    };
    // A route for a whole service account or namespace cannot name one backend for all; without backends it keeps the
    // destination. For a Service the Gateway API asks for 500.
    let backends = if rule.backends.is_empty() && !of_service {
        Backends::Destination
    } else {
        let weights: Vec<u32> = rule.backends.iter().map(|b| b.weight).collect();
        let plan = |(b, upstream): (&crate::model::BackendRef, _)| BackendPlan { filters: b.filters.clone(), upstream };
        Backends::Weighted(rule.backends.iter().zip(leads_to).map(plan).collect(), WeightedChoice::new(&weights))
    };
    let retry = rule.retry.as_ref().map_or_else(RetryPlan::mesh_default, |r| RetryPlan {
        attempts: r.attempts,
        codes: r.codes.clone(),
        on_reset: true,
        backoff: r.backoff.unwrap_or(RetryPlan::mesh_default().backoff),
    });
    RulePlan { name: name.into(), filters: rule.filters.clone(), backends, timeouts: rule.timeouts, retry }
}
