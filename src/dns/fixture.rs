//! Meshes for the tests of this room.

use crate::{
    model::{
        AppProtocol, Health, Hostname, Identity, Kind, Locality, Name, Resource, ResourceId, Service, ServiceKey, ServiceL4, ServicePort,
        TargetPort, TunnelProtocol, Visibility, WaypointBinding, Workload, WorkloadL4, WorkloadType,
    },
    state::{Change, NodeCompiler, NodeSnapshot, Own, SnapshotHandle, Store},
};

/// A service `HOST` of a namespace with a port 80, served by the workloads that say so.
pub(super) fn service(namespace: &str, host: &str, vips: &[&str]) -> Service {
    Service {
        key: ServiceKey { namespace: namespace.into(), hostname: Hostname::new(host) },
        source: ResourceId::new(Kind::Service, namespace, host),
        vips: vips.iter().map(|vip| vip.parse().unwrap()).collect(),
        ports: vec![port(80)],
        selector: None,
        waypoint: WaypointBinding::Inherit,
        publish_not_ready: false,
        external: false,
        subject_alt_names: Vec::new(),
        l4: ServiceL4::default(),
    }
}

pub(super) fn port(port: u16) -> ServicePort {
    ServicePort { name: "".into(), port, target: TargetPort::Number(8080), protocol: AppProtocol::Tcp }
}

/// `NAME.NAMESPACE.svc.cluster.local`
pub(super) fn kube(name: &str, namespace: &str, vips: &[&str]) -> Service {
    service(namespace, &format!("{name}.{namespace}.svc.cluster.local"), vips)
}

/// Only clients of its own namespace may address it.
pub(super) fn private(mut service: Service) -> Service {
    service.l4.visibility = Visibility::Namespace;
    service
}

/// Comes before others of the same host name.
pub(super) fn canonical(mut service: Service) -> Service {
    service.l4.canonical = true;
    service
}

/// A pod that serves services, by host name.
pub(super) fn pod(namespace: &str, name: &str, ips: &[&str], serves: &[&Service]) -> Workload {
    let uid: Name = format!("Kubernetes//Pod/{namespace}/{name}").into();
    Workload {
        uid,
        name: name.into(),
        namespace: namespace.into(),
        identity: Identity::new("cluster.local", namespace, name).unwrap(),
        addresses: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
        protocol: TunnelProtocol::Hbone,
        node: "node".into(),
        locality: Locality::default(),
        health: Health::Healthy,
        labels: [].into(),
        waypoint: WaypointBinding::Inherit,
        canonical_name: name.into(),
        canonical_revision: "v1".into(),
        workload_name: name.into(),
        workload_type: WorkloadType::Deployment,
        cluster: "Kubernetes".into(),
        host_network: false,
        ports: Vec::new(),
        gateway: None,
        l4: WorkloadL4 { services: serves.iter().map(|service| (service.key.clone(), Vec::new())).collect(), ..WorkloadL4::default() },
    }
}

/// A store with these resources.
pub(super) fn mesh(resources: impl IntoIterator<Item = Resource>) -> (Store<NodeCompiler>, SnapshotHandle<NodeSnapshot>) {
    let mut store = Store::new(NodeCompiler::new(Own::Node(None), "istio-system"));
    store.apply(resources.into_iter().map(Change::Upsert));
    let handle = store.handle();
    (store, handle)
}
