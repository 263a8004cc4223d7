//! Meshes written as a local file, and what becomes of connections in them.

use super::*;
use crate::{
    control::local::{self, Config},
    state::{NodeCompiler, Own, SnapshotHandle, Store},
};
use std::collections::{BTreeMap, BTreeSet};

/// A mesh, as the proxy of each of its workloads sees it.
pub(super) struct World {
    store: Store<NodeCompiler>,
    handle: SnapshotHandle<NodeSnapshot>,
}

fn field(more: &str, name: &str, value: &str) -> String {
    if more.contains(&format!("{name}: ")) { String::new() } else { format!(", {name}: {value}") }
}

fn tail(more: &str) -> String {
    if more.is_empty() { String::new() } else { format!(", {more}") }
}

/// A workload of the namespace `demo`, with its name as uid and service account. What `more` says
/// comes before these.
pub(super) fn w(name: &str, ips: &str, more: &str) -> String {
    let defaults = [("uid", name), ("serviceAccount", name), ("namespace", "demo"), ("services", "{}")];
    let defaults: String = defaults.iter().map(|(name, value)| field(more, name, value)).collect();
    format!("workloads|- {{name: {name}, workloadIps: [{ips}], trustDomain: cluster.local{defaults}{}}}", tail(more))
}

/// A service of the namespace `demo`, at `NAME.demo.svc.cluster.local`. What `more` says comes before
/// these.
pub(super) fn s(name: &str, vips: &str, ports: &str, more: &str) -> String {
    let defaults = field(more, "namespace", "demo") + &field(more, "hostname", &host(name));
    format!("services|- {{name: {name}, vips: [{vips}], ports: {{{ports}}}{defaults}{}}}", tail(more))
}

pub(super) fn host(name: &str) -> String {
    format!("{name}.demo.svc.cluster.local")
}

/// Serves a service of `demo`, with these target ports of its own.
pub(super) fn of(service: &str, ports: &str) -> String {
    format!("services: {{demo/{}: {{{ports}}}}}", host(service))
}

/// Where a waypoint or a gateway is.
pub(super) fn place(field: &str, destination: &str, port: u16) -> String {
    format!("{field}: {{destination: '{destination}', hboneMtlsPort: {port}}}")
}

impl World {
    pub(super) fn new(items: &[String]) -> Self {
        let list = |kind: &str| {
            let items = items.iter().filter_map(|item| item.strip_prefix(kind)?.strip_prefix('|')).collect::<Vec<_>>();
            if items.is_empty() { String::new() } else { format!("{kind}:\n{}\n", items.join("\n")) }
        };
        let text = list("workloads") + &list("services");
        let config = Config { network: String::new(), cluster_domain: "cluster.local".into(), root_namespace: "istio-system".into() };
        let changes = local::load(&text, "world.yaml", &config).unwrap_or_else(|findings| panic!("{findings:#?}\n{text}"));
        let mut store = Store::new(NodeCompiler::new(Own::Node(None), "istio-system"));
        store.apply(changes);
        let handle = store.handle();
        Self { store, handle }
    }

    pub(super) fn snapshot(&self) -> Arc<NodeSnapshot> {
        self.handle.load()
    }

    pub(super) fn next(&self, source: &str, dst: &str, tried: &[Arc<UpstreamEndpoint>]) -> Result<Resolved, Unresolved> {
        let snapshot = self.snapshot();
        let source = snapshot.workload_by_uid(source).unwrap_or_else(|| panic!("no {source} in {:?}", self.store));
        let own = OwnPorts::default();
        next_hop(&snapshot, Source { workload: &source.workload, own: &own }, dst.parse().unwrap(), tried)
    }

    /// What becomes of a connection.
    pub(super) fn decide(&self, source: &str, dst: &str) -> String {
        told(self.next(source, dst, &[]))
    }

    /// What becomes of a thousand connections.
    pub(super) fn shares(&self, source: &str, dst: &str) -> BTreeMap<String, usize> {
        let mut shares = BTreeMap::new();
        (0..1000).for_each(|_| *shares.entry(self.decide(source, dst)).or_default() += 1);
        shares
    }

    /// The addresses to which they go.
    pub(super) fn dialled(&self, source: &str, dst: &str) -> String {
        let address =
            |result: Result<Resolved, Unresolved>| result.map_or_else(|error| error.to_string(), |r| r.next.address().to_string());
        let all: BTreeSet<String> = (0..200).map(|_| address(self.next(source, dst, &[]))).collect();
        all.into_iter().collect::<Vec<_>>().join(" ")
    }
}
