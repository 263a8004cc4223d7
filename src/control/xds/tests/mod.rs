mod demand;
mod requests;
mod resources;
mod server;
mod stream;

use super::{
    Client, Config, Demand, Node, Rejection, Status, Types, Update, client, decode,
    resources::{ResourceType, Resources},
};
use crate::{
    model,
    proto::{
        discovery::{Any, DeltaDiscoveryResponse, Resource},
        security, workload,
    },
    runtime::{DrainTrigger, drain},
    state::Change,
    transport::grpc,
};
use prost::Message;
use server::{Server, Stream};
use std::{
    collections::BTreeMap,
    future::Future,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{sync::mpsc, task::JoinHandle};

const ADDRESS: &str = "type.googleapis.com/istio.workload.Address";
const AUTHORIZATION: &str = "type.googleapis.com/istio.security.Authorization";

const ALL: Types = Types { authorization: true, on_demand: false };
const ON_DEMAND: Types = Types { authorization: true, on_demand: true };

/// Waits, but not for ever.
async fn within<F: Future>(work: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), work).await.expect("nothing happens")
}

/// A client that runs, and the owner of the state that it feeds.
struct Running {
    updates: mpsc::Receiver<Update>,
    demand: Demand,
    status: Status,
    drain: DrainTrigger,
    task: JoinHandle<()>,
    resources: Arc<Mutex<Resources>>,
}

impl Running {
    fn start(config: Config) -> Self {
        let (client, demand, status): (Client, _, _) = client(config);
        let (send, updates) = mpsc::channel(1);
        let (trigger, watch) = drain::new();
        let resources = Arc::clone(&client.resources);
        Self { updates, demand, status, drain: trigger, task: tokio::spawn(client.run(send, watch)), resources }
    }

    async fn update(&mut self) -> Update {
        within(self.updates.recv()).await.unwrap()
    }

    /// Takes the next update over; what it was.
    async fn apply(&mut self) -> (Vec<String>, Vec<Rejection>) {
        let Update { changes, rejected, applied } = self.update().await;
        applied.send(()).unwrap();
        (shown(&changes), rejected)
    }
}

/// For a client of a server on this machine.
fn config(server: &Server, types: Types) -> Config {
    let strings = [("NAME", "ztunnel-abc")].map(|(k, v)| (k.to_owned(), prost_types::Value::from(v)));
    Config {
        server: grpc::Server {
            address: format!("https://localhost:{}", server.address.port()).parse().unwrap(),
            roots: grpc::Roots::Pem(server.root_pem.clone()),
            alternative_name: None,
            credentials: grpc::Credentials::default(),
        },
        node: Node {
            id: "ztunnel~10.0.0.1~ztunnel-abc.istio-system~istio-system.svc.cluster.local".into(),
            metadata: prost_types::Struct { fields: strings.into_iter().collect() },
        },
        types,
        decode: decode_config(),
    }
}

fn decode_config() -> decode::Config {
    decode::Config { network: "network1".into(), cluster_domain: "cluster.local".into() }
}

/// A response of the type that its resources are of.
fn response(url: &str, nonce: &str, resources: Vec<Resource>, removed: &[&str]) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        type_url: url.into(),
        nonce: nonce.into(),
        resources,
        removed_resources: removed.iter().map(ToString::to_string).collect(),
        ..Default::default()
    }
}

fn resource(url: &str, name: &str, version: &str, message: &impl Message) -> Resource {
    let content = Any { type_url: url.into(), value: message.encode_to_vec().into() };
    Resource { name: name.into(), version: version.into(), resource: Some(content), aliases: Vec::new() }
}

fn address(kind: workload::address::Type) -> workload::Address {
    workload::Address { r#type: Some(kind) }
}

fn pod(uid: &str, version: &str) -> Resource {
    let message = workload::Workload { uid: uid.into(), name: uid.into(), namespace: "shop".into(), ..Default::default() };
    resource(ADDRESS, uid, version, &address(workload::address::Type::Workload(message)))
}

/// One with an address of three bytes.
fn bad_pod(uid: &str, version: &str) -> Resource {
    let addresses = vec![vec![1, 2, 3].into()];
    let message = workload::Workload { uid: uid.into(), name: uid.into(), namespace: "shop".into(), addresses, ..Default::default() };
    resource(ADDRESS, uid, version, &address(workload::address::Type::Workload(message)))
}

/// In the namespace `shop`, under the name that the server gives it.
fn service_as(name: &str, hostname: &str, version: &str) -> Resource {
    let message = workload::Service { name: "cart".into(), namespace: "shop".into(), hostname: hostname.into(), ..Default::default() };
    resource(ADDRESS, name, version, &address(workload::address::Type::Service(message)))
}

fn service(hostname: &str, version: &str) -> Resource {
    service_as(&format!("shop/{hostname}"), hostname, version)
}

/// In the namespace `shop`. An action of 9 nobody knows.
fn policy(name: &str, version: &str, action: i32) -> Resource {
    let message = security::Authorization { name: name.into(), namespace: "shop".into(), scope: 1, action, ..Default::default() };
    resource(AUTHORIZATION, &format!("shop/{name}"), version, &message)
}

const UNKNOWN_ACTION: i32 = 9;

/// Changes in short, in the order of their names.
fn shown(changes: &[Change]) -> Vec<String> {
    let mut shown: Vec<String> = changes
        .iter()
        .map(|change| match change {
            Change::Upsert(model::Resource::Policy(policy)) if policy.invalid.is_some() => format!("closes {}", policy.name),
            Change::Upsert(resource) => format!("+ {}", key(&resource.key())),
            Change::Remove(removed) => format!("- {}", key(removed)),
        })
        .collect();
    shown.sort();
    shown
}

fn key(key: &model::ResourceKey) -> String {
    use model::ResourceKey::{Endpoints, Namespace, Policy, Route, Service, Waypoint, Workload};
    match key {
        Workload(uid) => format!("pod {uid}"),
        Service(key) => format!("service {key}"),
        Policy(name) => format!("policy {name}"),
        Namespace(_) | Endpoints(_) | Waypoint(_) | Route(_) => unreachable!("not told by a control plane"),
    }
}

fn versions<const N: usize>(versions: [(&str, &str); N]) -> BTreeMap<String, String> {
    versions.into_iter().map(|(name, version)| (name.to_owned(), version.to_owned())).collect()
}

fn rejected_names(rejected: &[Rejection]) -> Vec<&str> {
    rejected.iter().map(|r| r.name.as_str()).collect()
}

/// Reads the requests that begin a stream.
async fn greeted(server: &mut Server, types: usize) -> Stream {
    let mut stream = server.stream().await;
    for _ in 0..types {
        stream.request().await;
    }
    stream
}

fn read(resources: &mut Resources, response: &DeltaDiscoveryResponse) -> super::resources::Batch {
    resources.read(response.encode_to_vec().into()).unwrap().batch
}

/// What a new stream would tell the server.
fn told(resources: &mut Resources, what: ResourceType) -> BTreeMap<String, String> {
    resources.table(what).versions(usize::MAX).unwrap()
}
