mod certificates;
mod encoding;
mod streams;
mod wire;

use super::*;
use crate::{
    model::{
        AppProtocol, Health, Hostname, Kind as ResourceKind, Labels, Locality, ResourceId, Service, ServiceKey, ServiceL4, ServicePort,
        TargetPort, TunnelProtocol, WaypointBinding, Workload, WorkloadL4, WorkloadType,
    },
    proto::{
        ca::{IstioCertificateRequest, istio_certificate_service_client::IstioCertificateServiceClient},
        discovery::{
            DeltaDiscoveryRequest, Node, Status as RpcStatus, aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
        },
    },
    transport::grpc,
};
use std::{collections::BTreeMap, future::Future};
use tokio::sync::mpsc;
use tonic::{Code, Request as Call, Streaming, transport::Channel};

const TOKEN: &str = "open sesame";

async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("took too long")
}

async fn plane() -> ControlPlane {
    ControlPlane::start(Options::new("127.0.0.1:0".parse().unwrap(), TOKEN)).await.unwrap()
}

/// A connection with a token.
async fn channel(plane: &ControlPlane) -> Channel {
    let server = grpc::Server {
        address: format!("https://{}", plane.address()).parse().unwrap(),
        roots: grpc::Roots::Pem(plane.server_roots().to_owned()),
        alternative_name: None,
        credentials: grpc::Credentials::default(),
    };
    soon(server.connect()).await.unwrap()
}

fn with_token<T>(message: T, token: &str) -> Call<T> {
    let mut call = Call::new(message);
    call.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    call.metadata_mut().insert("clusterid", "Kubernetes".parse().unwrap());
    call
}

/// A client of delta ADS that says what it is told to.
struct Client {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

impl Client {
    async fn connect(plane: &ControlPlane) -> Result<Self, Status> {
        Self::over(channel(plane).await, TOKEN).await
    }

    async fn over(channel: Channel, token: &str) -> Result<Self, Status> {
        let (requests, mut rest) = mpsc::channel(16);
        let stream = futures_util::stream::poll_fn(move |cx| rest.poll_recv(cx));
        let mut client = AggregatedDiscoveryServiceClient::new(channel);
        let responses = soon(client.delta_aggregated_resources(with_token(stream, token))).await?.into_inner();
        Ok(Self { requests, responses })
    }

    fn say(&self, request: DeltaDiscoveryRequest) {
        self.requests.try_send(request).unwrap();
    }

    async fn next(&mut self) -> Result<DeltaDiscoveryResponse, Status> {
        soon(self.responses.message()).await.map(|response| response.expect("the stream goes on"))
    }

    /// Says something, and hears the answer.
    async fn ask(&mut self, request: DeltaDiscoveryRequest) -> DeltaDiscoveryResponse {
        self.say(request);
        self.next().await.unwrap()
    }
}

fn request(kind: Kind) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest { type_url: kind.url().into(), ..DeltaDiscoveryRequest::default() }
}

fn subscribe(names: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest { resource_names_subscribe: names.iter().map(|n| (*n).to_owned()).collect(), ..request(Kind::Address) }
}

fn names(response: &DeltaDiscoveryResponse) -> Vec<&str> {
    response.resources.iter().map(|resource| resource.name.as_str()).collect()
}

fn key(name: &str) -> ServiceKey {
    ServiceKey { namespace: "app".into(), hostname: Hostname::of_service(name, "app", "cluster.local") }
}

/// As the API tells it: nothing that it does not carry.
fn service(name: &str, vip: &str) -> Service {
    Service {
        key: key(name),
        source: ResourceId::new(ResourceKind::Service, "app", name),
        vips: vec![vip.parse().unwrap()],
        ports: vec![ServicePort { name: "".into(), port: 80, target: TargetPort::Number(8080), protocol: AppProtocol::Http }],
        selector: None,
        waypoint: WaypointBinding::None,
        publish_not_ready: false,
        external: false,
        subject_alt_names: Vec::new(),
        l4: ServiceL4 { canonical: true, ..ServiceL4::default() },
    }
}

/// The same.
fn workload(name: &str, address: &str, services: &[&str]) -> Workload {
    Workload {
        uid: format!("Kubernetes//Pod/app/{name}").into(),
        name: name.into(),
        namespace: "app".into(),
        identity: Identity::new("cluster.local", "app", name).unwrap(),
        addresses: vec![address.parse().unwrap()],
        protocol: TunnelProtocol::Hbone,
        node: "n1".into(),
        locality: Locality::default(),
        health: Health::Healthy,
        labels: Labels::new(),
        waypoint: WaypointBinding::None,
        canonical_name: name.into(),
        canonical_revision: "v1".into(),
        workload_name: name.into(),
        workload_type: WorkloadType::Deployment,
        cluster: "Kubernetes".into(),
        host_network: false,
        ports: Vec::new(),
        gateway: None,
        l4: WorkloadL4 { services: services.iter().map(|s| (key(s), vec![(80, 8080)])).collect(), ..WorkloadL4::default() },
    }
}

fn upsert(resource: impl Into<Resource>) -> Change {
    Change::Upsert(resource.into())
}
