//! Policies by what they govern, and the sets made of them.

use crate::{
    authz::{Layer, Ruleset},
    model::{AuthorizationPolicy, Name, PolicyTarget, ResourceName, Service, ServiceKey, TargetRef, Waypoint},
    state::{
        counted::{Counted, List},
        relation::Relation,
    },
};
use std::{collections::BTreeMap, sync::Arc};

/// What a policy may govern of all that one waypoint serves.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Governed<'a> {
    Everything,
    Service(&'a ServiceKey),
    /// The hosts of a ServiceEntry.
    Entry(&'a ResourceName),
    Namespace(&'a Name),
}

/// The policies that a waypoint may have to enforce: those with `targetRefs`. Selector policies are
/// enforced in front of the workload (Istio, "Use Layer 7 features").
#[derive(Debug)]
pub(super) struct Policies {
    gateway: ResourceName,
    root_namespace: Name,
    everywhere: BTreeMap<ResourceName, Arc<AuthorizationPolicy>>,
    services: Relation<ServiceKey, AuthorizationPolicy>,
    entries: Relation<ResourceName, AuthorizationPolicy>,
    namespaces: Relation<Name, AuthorizationPolicy>,
    // Of those in `everywhere`, what holds for the Gateway as it is; `None` when not known yet.
    holding: Option<List<AuthorizationPolicy>>,
}

impl Policies {
    pub(super) fn new(gateway: ResourceName, root_namespace: Name) -> Self {
        let (services, entries, namespaces) = (Relation::default(), Relation::default(), Relation::default());
        Self { gateway, root_namespace, everywhere: BTreeMap::new(), services, entries, namespaces, holding: None }
    }

    /// What a policy may govern, whatever becomes of the rest of the mesh; nothing, if it can never be
    /// enforced here.
    pub(super) fn governed<'a>(&self, policy: &'a AuthorizationPolicy) -> Vec<Governed<'a>> {
        let own = &policy.name.namespace;
        match &policy.target {
            PolicyTarget::Refs(refs) => refs.iter().filter_map(|target| self.referred(target, own)).collect(),
            PolicyTarget::Unknown if own.is_empty() || *own == self.gateway.namespace || *own == self.root_namespace => {
                vec![Governed::Everything]
            }
            PolicyTarget::Unknown => vec![Governed::Namespace(own)],
            // Those are for ztunnels.
            PolicyTarget::Selector(_) | PolicyTarget::Namespace | PolicyTarget::Listed | PolicyTarget::Mesh => Vec::new(),
        }
    }

    fn referred<'a>(&self, target: &'a TargetRef, namespace: &Name) -> Option<Governed<'a>> {
        match target {
            TargetRef::Gateway(name) => (*name == self.gateway && *namespace == name.namespace).then_some(Governed::Everything),
            TargetRef::Service(key) => (*namespace == key.namespace).then_some(Governed::Service(key)),
            TargetRef::ServiceEntry(entry) => (*namespace == entry.namespace).then_some(Governed::Entry(entry)),
            // If this Gateway is of the class, which may change.
            TargetRef::GatewayClass(_) => (*namespace == self.root_namespace).then_some(Governed::Everything),
        }
    }

    pub(super) fn add(&mut self, policy: &Arc<AuthorizationPolicy>) {
        for governed in self.governed(policy) {
            match governed {
                Governed::Everything => {
                    self.everywhere.insert(policy.name.clone(), policy.clone());
                    self.holding = None;
                }
                Governed::Service(key) => self.services.add(key.clone(), policy),
                Governed::Entry(entry) => self.entries.add(entry.clone(), policy),
                Governed::Namespace(name) => self.namespaces.add(name.clone(), policy),
            }
        }
    }

    pub(super) fn remove(&mut self, policy: &Arc<AuthorizationPolicy>) {
        for governed in self.governed(policy) {
            match governed {
                Governed::Everything => {
                    self.everywhere.remove(&policy.name);
                    self.holding = None;
                }
                Governed::Service(key) => self.services.remove(key, policy),
                Governed::Entry(entry) => self.entries.remove(entry, policy),
                Governed::Namespace(name) => self.namespaces.remove(name, policy),
            }
        }
    }

    /// The Gateway is not what it was.
    pub(super) fn forget_gateway(&mut self) {
        self.holding = None;
    }

    /// The policies for a service, or for the workloads of a namespace, by name.
    pub(super) fn applying(&mut self, waypoint: &Waypoint, service: Option<&Service>, namespace: &Name) -> List<AuthorizationPolicy> {
        let everywhere = &self.everywhere;
        let holding = self.holding.get_or_insert_with(|| everywhere.values().filter(|p| is_everywhere(p, waypoint)).cloned().collect());
        let own = service.into_iter().flat_map(|service| self.services.of(&service.key));
        let of_entry = service.into_iter().flat_map(|service| self.entries.of(service.entry()));
        let mut all: Vec<_> = own.chain(of_entry).chain(self.namespaces.of(namespace)).collect();
        if all.is_empty() {
            // Nearly all services share one list.
            return holding.clone();
        }
        all.extend(holding.iter());
        all.sort_unstable_by_key(|policy| &policy.name);
        all.dedup_by_key(|policy| Arc::as_ptr(policy));
        all.into_iter().cloned().collect()
    }
}

/// Of a policy that may govern everything, whether it does.
fn is_everywhere(policy: &AuthorizationPolicy, waypoint: &Waypoint) -> bool {
    match &policy.target {
        PolicyTarget::Refs(refs) => refs.iter().any(|target| match target {
            TargetRef::Gateway(name) => *name == waypoint.name && policy.name.namespace == name.namespace,
            TargetRef::GatewayClass(class) => waypoint.class.is(class),
            TargetRef::Service(_) | TargetRef::ServiceEntry(_) => false,
        }),
        PolicyTarget::Unknown => true,
        PolicyTarget::Selector(_) | PolicyTarget::Namespace | PolicyTarget::Listed | PolicyTarget::Mesh => false,
    }
}

/// The two forms of the same policies.
#[derive(Debug, Clone)]
pub(super) struct PolicySet {
    pub(super) http: Arc<Ruleset>,
    pub(super) tcp: Arc<Ruleset>,
}

/// All sets in use. Scopes with the same policies share one.
#[derive(Debug, Default)]
pub(super) struct PolicySets {
    known: Counted<List<AuthorizationPolicy>, PolicySet>,
    rules: usize,
}

impl PolicySets {
    /// The set of these policies, in use until it is [released](Self::release).
    pub(super) fn acquire(&mut self, key: &List<AuthorizationPolicy>) -> PolicySet {
        if let Some(known) = self.known.acquire(key) {
            return known.clone();
        }
        let compile = |layer| Arc::new(Ruleset::compile(key.iter().map(|p| &**p), layer));
        let http = compile(Layer::Http);
        // Both forms are the same where nothing is asked that only one of them sees.
        let tcp = if key.iter().any(|p| p.is_http()) { compile(Layer::WaypointTcp) } else { http.clone() };
        let set = PolicySet { http, tcp };
        self.rules += set.http.len();
        self.known.add(key.clone(), set.clone());
        set
    }

    pub(super) fn release(&mut self, key: &List<AuthorizationPolicy>) {
        if let Some(last) = self.known.release(key) {
            self.rules -= last.http.len();
        }
    }

    /// How many rules all sets hold.
    pub(super) fn rules(&self) -> usize {
        self.rules
    }
}
