//! Which workload serves which service, and at which ports: resolved from selectors and from slices
//! of endpoints.

use crate::{
    model::{Health, Name, Service, ServiceKey},
    state::{Directory, Reach},
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::{IpAddr, SocketAddr},
};

/// Pairs of a service's port and the workload's.
pub(super) type Ports = Vec<(u16, u16)>;

/// An endpoint that is no workload that anybody has described.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Stranger {
    pub(super) namespace: Name,
    pub(super) address: IpAddr,
    pub(super) health: Health,
}

/// All services' workloads, apart from those workloads name as theirs on their own.
#[derive(Debug, Default)]
pub(super) struct Members {
    by_service: HashMap<ServiceKey, BTreeSet<Name>>,
    by_workload: HashMap<Name, BTreeMap<ServiceKey, Ports>>,
    strangers: HashMap<Name, Stranger>,
}

impl Members {
    /// The services that a workload serves.
    pub(super) fn of(&self, uid: &Name) -> impl Iterator<Item = (&ServiceKey, &Ports)> {
        self.by_workload.get(uid).into_iter().flatten()
    }

    /// An endpoint under the uid that [`update`](Self::update) has made up for it.
    pub(super) fn stranger(&self, uid: &Name) -> Option<&Stranger> {
        self.strangers.get(uid)
    }

    /// Looks at the endpoints of a service again; the uids of those that have changed.
    pub(super) fn update(&mut self, directory: &Directory, key: &ServiceKey) -> Vec<Name> {
        let (found, strangers) = directory.mesh().services.get(key).map(|service| found(directory, service)).unwrap_or_default();
        let mut changed: Vec<Name> = Vec::new();
        for uid in self.by_service.remove(key).into_iter().flatten().filter(|uid| !found.contains_key(uid)) {
            let services = self.by_workload.get_mut(&uid);
            if services.is_some_and(|services| services.remove(key).is_some() && services.is_empty()) {
                self.by_workload.remove(&uid);
                self.strangers.remove(&uid);
            }
            changed.push(uid);
        }
        for (uid, stranger) in strangers {
            if self.strangers.get(&uid) != Some(&stranger) {
                changed.push(uid.clone());
                self.strangers.insert(uid, stranger);
            }
        }
        self.by_service.insert(key.clone(), found.keys().cloned().collect());
        for (uid, ports) in found {
            let services = self.by_workload.entry(uid.clone()).or_default();
            if services.get(key) != Some(&ports) {
                services.insert(key.clone(), ports);
                changed.push(uid);
            }
        }
        changed
    }
}

/// The workloads of a service with their ports. One that is not ready itself stays: its own health is
/// part of the API. One that only its slice calls not ready is left out.
fn found(directory: &Directory, service: &Service) -> (BTreeMap<Name, Ports>, Vec<(Name, Stranger)>) {
    let (mut found, mut strangers): (BTreeMap<Name, Ports>, Vec<_>) = Default::default();
    let all = Service { publish_not_ready: true, ..service.clone() };
    for port in &service.ports {
        let ready: HashSet<SocketAddr> = directory.endpoints(service, port, Reach::Anywhere).iter().map(|e| e.address).collect();
        for endpoint in directory.endpoints(&all, port, Reach::Anywhere) {
            let is_ready = ready.contains(&endpoint.address);
            let uid = match &endpoint.workload {
                Some(workload) if workload.l4.services.iter().any(|(key, _)| *key == service.key) => continue,
                Some(workload) if is_ready || workload.health == Health::Unhealthy => workload.uid.clone(),
                Some(_) => continue,
                None => {
                    let (uid, stranger) = stranger(service, endpoint.address.ip(), is_ready);
                    strangers.push((uid.clone(), stranger));
                    uid
                }
            };
            let ports = found.entry(uid).or_default();
            if !ports.iter().any(|(known, _)| *known == port.port) {
                ports.push((port.port, endpoint.address.port()));
            }
        }
    }
    (found, strangers)
}

fn stranger(service: &Service, address: IpAddr, is_ready: bool) -> (Name, Stranger) {
    let namespace = service.key.namespace.clone();
    let uid = format!("Kubernetes/discovery.k8s.io/EndpointSlice/{namespace}/{}/{address}", service.key.hostname);
    let health = if is_ready { Health::Healthy } else { Health::Unhealthy };
    (uid.into(), Stranger { namespace, address, health })
}
