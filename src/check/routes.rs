//! Rules that can never be reached, and rules that lead nowhere.

use super::warning;
use crate::{
    model::{Finding, HttpRoute, Kind, Mesh, Parent, ResourceId, ServiceKey},
    route::{Entry, Rank, RouteTable, shadows},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

pub(super) fn lint(mesh: &Mesh, findings: &mut Vec<Finding>) {
    for route in mesh.routes.values() {
        weights(route, findings);
    }
    let mut groups: BTreeMap<Group<'_>, Vec<Entry<Competing<'_>>>> = BTreeMap::new();
    for route in mesh.routes.values() {
        for parent in &route.parents {
            let (group, port) = group(parent);
            groups.entry(group).or_default().extend(entries(route, port));
        }
    }
    let mut shadowed = BTreeSet::new();
    for entries in groups.into_values() {
        shadows_in(entries, &mut shadowed, findings);
    }
}

/// The id of a route.
pub(super) fn id(route: &HttpRoute) -> ResourceId {
    ResourceId { kind: Kind::HttpRoute, name: route.name.clone() }
}

fn weights(route: &Arc<HttpRoute>, findings: &mut Vec<Finding>) {
    for (i, rule) in route.rules.iter().enumerate() {
        if !rule.backends.is_empty() && rule.backends.iter().all(|b| b.weight == 0) {
            let message = "all weights are zero: every request is answered with 500";
            findings.push(warning(id(route), format!("spec.rules[{i}].backendRefs"), message));
        }
    }
}

/// What routes compete for.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Group<'m> {
    Service(&'m ServiceKey),
    ServiceEntry(&'m crate::model::ResourceName),
    ServiceAccount(&'m crate::model::ResourceName),
    Gateway(&'m crate::model::ResourceName),
}

fn group(parent: &Parent) -> (Group<'_>, Option<u16>) {
    match parent {
        Parent::Service { service, port } => (Group::Service(service), *port),
        Parent::ServiceEntry { entry, port } => (Group::ServiceEntry(entry), *port),
        Parent::ServiceAccount(name) => (Group::ServiceAccount(name), None),
        Parent::Gateway(name) => (Group::Gateway(name), None),
    }
}

/// One match, as it competes with others.
struct Competing<'m> {
    route: &'m HttpRoute,
    rule: usize,
    port: Option<u16>,
}

impl Competing<'_> {
    fn is_same_rule(&self, other: &Self) -> bool {
        std::ptr::eq(self.route, other.route) && self.rule == other.rule
    }
}

fn entries(route: &HttpRoute, port: Option<u16>) -> impl Iterator<Item = Entry<Competing<'_>>> {
    let rules = route.rules.iter().enumerate();
    rules.flat_map(move |(rule, r)| {
        r.matches.iter().enumerate().map(move |(index, matching)| Entry {
            matching: matching.clone(),
            rank: Rank { created: route.created, route: route.name.clone(), rule, index },
            payload: Competing { route, rule, port },
        })
    })
}

/// Reports rules of which every match is taken by matches of other rules that come first.
fn shadows_in(entries: Vec<Entry<Competing<'_>>>, reported: &mut BTreeSet<(ResourceId, usize)>, findings: &mut Vec<Finding>) {
    // The table itself says which comes first. Its only error is an expression that does not compile, which decoding reports.
    let Ok(table) = RouteTable::build(entries) else { return };
    let entries: Vec<_> = table.iter().collect();
    let mut by_rule: BTreeMap<(ResourceId, usize), Option<(ResourceId, usize)>> = BTreeMap::new();
    for (i, entry) in entries.iter().enumerate() {
        let own = &entry.payload;
        let reaches = |e: &&&Entry<Competing<'_>>| e.payload.port.is_none() || e.payload.port == own.port;
        let mut covering =
            entries[..i].iter().filter(reaches).filter(|e| !e.payload.is_same_rule(own) && shadows(&e.matching, &entry.matching));
        let shadow = covering.next().map(|e| (id(e.payload.route), e.payload.rule));
        let whole = by_rule.entry((id(own.route), own.rule)).or_insert_with(|| shadow.clone());
        if shadow.is_none() {
            *whole = None;
        }
    }
    for ((route, rule), shadow) in by_rule {
        let Some((by, by_rule)) = shadow else { continue };
        if reported.insert((route.clone(), rule)) {
            let by = if by == route { String::new() } else { format!(" of {by}") };
            let message = format!("never reached: everything it matches is taken by spec.rules[{by_rule}]{by}");
            findings.push(warning(route, format!("spec.rules[{rule}]"), message));
        }
    }
}
