//! The mesh in the messages of Istio's workload API: what a control plane makes of the resources that
//! users write (contract, 3.3 and 3.4). Bindings, selectors and slices of endpoints are resolved here,
//! by the same [`Directory`] that proxies use which read manifests themselves.

mod address;
mod members;
mod policy;

use super::table::{Entry, Kind};
use crate::{
    model::{Name, PolicyTarget, Resource, ServiceKey},
    proto::workload::{Address, address::Type},
    state::{Compile, Delta, Directory},
};
use members::Members;
use prost::Message as _;
use std::collections::BTreeSet;

/// What a control plane knows besides the resources.
#[derive(Debug, Clone)]
pub struct Config {
    /// The network of everything that names none.
    pub network: Name,
    /// The cluster's DNS domain, `cluster.local` mostly.
    pub cluster_domain: Name,
    /// The namespace whose policies hold for the whole mesh, `istio-system` mostly.
    pub root_namespace: Name,
}

impl Default for Config {
    /// A cluster as Istio is installed in by default.
    fn default() -> Self {
        Self { network: "".into(), cluster_domain: "cluster.local".into(), root_namespace: "istio-system".into() }
    }
}

/// Resources that a batch of changes has touched; without an entry, they are gone.
#[derive(Debug, Default)]
pub(super) struct Encoded(pub(super) Vec<(Kind, Name, Option<Entry>)>);

/// Encodes what a batch of changes has touched.
#[derive(Debug)]
pub(super) struct Encoder {
    config: Config,
    members: Members,
}

impl Encoder {
    pub(super) fn new(config: Config) -> Self {
        Self { config, members: Members::default() }
    }

    fn service(&self, directory: &Directory, key: &ServiceKey) -> Option<Entry> {
        let service = directory.mesh().services.get(key)?;
        let message = address::service(&self.config, directory, service);
        let aliases = message.addresses.iter().filter(|a| a.length.is_none()).filter_map(address::alias).collect();
        Some(Entry::new(Address { r#type: Some(Type::Service(message)) }.encode_to_vec(), aliases, Vec::new()))
    }

    fn workload(&self, directory: &Directory, uid: &Name) -> Option<Entry> {
        let message = match directory.mesh().workloads.get(uid) {
            Some(workload) => address::workload(&self.config, directory, workload, self.members.of(uid)),
            None => address::stranger(&self.config, uid, self.members.stranger(uid)?, self.members.of(uid)),
        };
        let aliases = message.addresses.iter().filter_map(|a| address::alias_of(&message.network, a)).collect();
        let services = message.services.keys().map(|key| Name::from(key.as_str())).collect();
        Some(Entry::new(Address { r#type: Some(Type::Workload(message)) }.encode_to_vec(), aliases, services))
    }
}

impl Compile for Encoder {
    type Snapshot = Encoded;

    /// A change of what others refer to is rare, and has everything encoded anew; whoever keeps the
    /// result sees what is as it was.
    fn compile(&mut self, directory: &Directory, delta: &Delta, _version: u64) -> Encoded {
        let mesh = directory.mesh();
        let everything = !(delta.namespaces.is_empty() && delta.waypoints.is_empty() && delta.services.is_empty());
        let mut services: BTreeSet<ServiceKey> = delta.members.iter().cloned().collect();
        let mut workloads: BTreeSet<Name> = delta.workloads.iter().flat_map(|w| w.each()).map(|w| w.uid.clone()).collect();
        if everything {
            services.extend(mesh.services.keys().cloned());
        }
        if everything || !delta.policies.is_empty() {
            workloads.extend(mesh.workloads.keys().cloned());
        }
        for key in &services {
            workloads.extend(self.members.update(directory, key));
        }
        let mut encoded = Encoded::default();
        encoded.0.extend(services.iter().map(|key| (Kind::Address, key.to_string().into(), self.service(directory, key))));
        encoded.0.extend(workloads.iter().map(|uid| (Kind::Address, uid.clone(), self.workload(directory, uid))));
        let policies: BTreeSet<_> = delta.policies.iter().flat_map(|p| p.each()).map(|p| p.name.clone()).collect();
        for name in policies {
            let policy = mesh.policies.get(&name).map(|policy| policy::policy(&self.config, policy));
            let entry = policy.map(|policy| Entry::new(policy.encode_to_vec(), Vec::new(), Vec::new()));
            encoded.0.push((Kind::Authorization, format!("{}/{}", name.namespace, name.name).into(), entry));
        }
        encoded
    }

    /// Routes, and policies of waypoints, are not part of this API.
    fn concerns(&self, resource: &Resource) -> bool {
        match resource {
            Resource::Route(_) => false,
            Resource::Policy(policy) => !matches!(policy.target, PolicyTarget::Refs(_)),
            Resource::Namespace(_) | Resource::Service(_) | Resource::Endpoints(_) | Resource::Workload(_) | Resource::Waypoint(_) => true,
        }
    }
}
