//! Rules that can never be reached, and rules that lead nowhere.

use super::warning;
use crate::model::{Finding, HttpRoute, Kind, Mesh, Parent, PathPattern, ResourceId, RouteMatch, ServiceKey};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

pub(super) fn lint(mesh: &Mesh, findings: &mut Vec<Finding>) {
    for route in mesh.routes.values() {
        weights(route, findings);
    }
    let mut groups: BTreeMap<Group<'_>, Vec<Entry<'_>>> = BTreeMap::new();
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
    ServiceAccount(&'m crate::model::ResourceName),
    Gateway(&'m crate::model::ResourceName),
}

fn group(parent: &Parent) -> (Group<'_>, Option<u16>) {
    match parent {
        Parent::Service { service, port } => (Group::Service(service), *port),
        Parent::ServiceAccount(name) => (Group::ServiceAccount(name), None),
        Parent::Gateway(name) => (Group::Gateway(name), None),
    }
}

/// One match, as it competes with others.
struct Entry<'m> {
    route: &'m HttpRoute,
    rule: usize,
    wanted: &'m RouteMatch,
    port: Option<u16>,
}

fn entries(route: &HttpRoute, port: Option<u16>) -> impl Iterator<Item = Entry<'_>> {
    let rules = route.rules.iter().enumerate();
    rules.flat_map(move |(rule, r)| r.matches.iter().map(move |wanted| Entry { route, rule, wanted, port }))
}

/// Reports rules of which every match is taken by matches of other rules that come first.
fn shadows_in(mut entries: Vec<Entry<'_>>, reported: &mut BTreeSet<(ResourceId, usize)>, findings: &mut Vec<Finding>) {
    // Stable: within a route the order of the rules decides ties.
    entries.sort_by_cached_key(rank);
    let mut by_rule: BTreeMap<(ResourceId, usize), Option<(ResourceId, usize)>> = BTreeMap::new();
    for (i, entry) in entries.iter().enumerate() {
        let own = (id(entry.route), entry.rule);
        let earlier = entries[..i].iter().filter(|e| (id(e.route), e.rule) != own);
        let mut covering = earlier.filter(|e| (e.port.is_none() || e.port == entry.port) && covers(e.wanted, entry.wanted));
        let shadow = covering.next().map(|e| (id(e.route), e.rule));
        let whole = by_rule.entry(own).or_insert_with(|| shadow.clone());
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

/// Gateway API precedence; less comes first. To be replaced by `crate::route`'s.
fn rank(entry: &Entry<'_>) -> impl Ord + use<> {
    let wanted = entry.wanted;
    let path = match &wanted.path {
        PathPattern::Exact(path) => (0, Reverse(path.len())),
        PathPattern::Regex(path) => (1, Reverse(path.len())),
        PathPattern::Prefix(path) => (2, Reverse(path.len())),
    };
    let conditions = (wanted.method.is_none(), Reverse(wanted.headers.len()), Reverse(wanted.query.len()));
    // The oldest first; routes without a time stamp count as youngest.
    let age = (entry.route.created.is_none(), entry.route.created);
    (path, conditions, age, entry.route.name.clone())
}

/// Whether every request that matches `later` also matches `earlier`, as far as that can be told.
/// To be replaced by `crate::route::shadows`.
fn covers(earlier: &RouteMatch, later: &RouteMatch) -> bool {
    covers_path(&earlier.path, &later.path)
        && (earlier.method.is_none() || earlier.method == later.method)
        && earlier.headers.iter().all(|h| later.headers.contains(h))
        && earlier.query.iter().all(|q| later.query.contains(q))
}

fn covers_path(earlier: &PathPattern, later: &PathPattern) -> bool {
    match (earlier, later) {
        (PathPattern::Prefix(prefix), PathPattern::Prefix(path) | PathPattern::Exact(path)) => {
            let rest = path.trim_end_matches('/').strip_prefix(prefix.trim_end_matches('/'));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        }
        (PathPattern::Prefix(prefix), PathPattern::Regex(_)) => &**prefix == "/",
        (PathPattern::Exact(_), _) | (PathPattern::Regex(_), _) => earlier == later,
    }
}
