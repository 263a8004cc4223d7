//! Meshes in one namespace, `demo`, built from the model's own types.

use crate::model::{
    Action, AllowedNamespaces, AppProtocol, AuthorizationPolicy, Health, Hostname, Identity, Kind, Locality, Name, PolicyTarget, Resource,
    ResourceId, ResourceName, Rule, Service, ServiceKey, ServiceL4, ServicePort, TargetPort, TrafficType, TunnelProtocol, Waypoint,
    WaypointAddress, WaypointBinding, Workload, WorkloadL4, WorkloadType,
};
use crate::state::{Change, NodeCompiler, NodeSnapshot, Own, SnapshotHandle, Store};
use std::{net::IpAddr, sync::Arc};

pub(crate) const NAMESPACE: &str = "demo";

/// How a pod is reached.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Hop {
    Hbone,
    Plain,
}

/// A resource that can still be changed.
#[derive(Debug, Clone)]
pub(crate) struct Built(pub(crate) Resource);

pub(crate) fn uid(name: &str) -> Name {
    format!("Kubernetes//Pod/{NAMESPACE}/{name}").into()
}

/// Each pod has a service account of its own name.
pub(crate) fn identity(name: &str) -> Identity {
    Identity::new("cluster.local", NAMESPACE, name).unwrap()
}

pub(crate) fn pod(name: &str, ip: &str, hop: Hop) -> Built {
    Built(Resource::from(Workload {
        uid: uid(name),
        name: name.into(),
        namespace: NAMESPACE.into(),
        identity: identity(name),
        addresses: vec![ip.parse().unwrap()],
        protocol: match hop {
            Hop::Hbone => TunnelProtocol::Hbone,
            Hop::Plain => TunnelProtocol::None,
        },
        node: "node".into(),
        locality: Locality::default(),
        health: Health::Healthy,
        labels: [("app".into(), name.into())].into(),
        waypoint: WaypointBinding::Inherit,
        canonical_name: name.into(),
        canonical_revision: "v1".into(),
        workload_name: name.into(),
        workload_type: WorkloadType::Deployment,
        cluster: "Kubernetes".into(),
        host_network: false,
        ports: Vec::new(),
        gateway: None,
        l4: WorkloadL4::default(),
    }))
}

/// A pod of a waypoint. It is not captured, and so speaks no HBONE by its labels.
pub(crate) fn gateway_pod(name: &str, ip: &str, gateway: &str) -> Built {
    let Built(Resource::Workload(mut workload)) = pod(name, ip, Hop::Plain) else { unreachable!() };
    let edited = Arc::make_mut(&mut workload);
    edited.gateway = Some(gateway.into());
    edited.labels = [("app".into(), gateway.into())].into();
    Built(Resource::Workload(workload))
}

/// A service of the pods labelled with its name.
pub(crate) fn service(name: &str, vip: &str, ports: &[(u16, u16)]) -> Built {
    Built(Resource::from(Service {
        key: ServiceKey { namespace: NAMESPACE.into(), hostname: Hostname::of_service(name, NAMESPACE, "cluster.local") },
        source: ResourceId::new(Kind::Service, NAMESPACE, &format!("{name}-svc")),
        vips: vip.parse::<IpAddr>().into_iter().collect(),
        ports: ports
            .iter()
            .map(|(port, target)| ServicePort {
                name: "".into(),
                port: *port,
                target: TargetPort::Number(*target),
                protocol: AppProtocol::Tcp,
            })
            .collect(),
        selector: Some([("app".into(), name.into())].into()),
        waypoint: WaypointBinding::Inherit,
        publish_not_ready: false,
        external: false,
        subject_alt_names: Vec::new(),
        l4: ServiceL4::default(),
    }))
}

pub(crate) fn gateway(name: &str, addresses: &[&str]) -> Built {
    Built(Resource::from(Waypoint {
        name: ResourceName::new(NAMESPACE, name),
        class: "istio-waypoint".into(),
        addresses: addresses.iter().map(|a| WaypointAddress::Ip(a.parse().unwrap())).collect(),
        port: 15008,
        traffic: TrafficType::All,
        service_account: None,
        allowed: AllowedNamespaces::Same,
    }))
}

/// A policy for every workload of the namespace.
pub(crate) fn policy(name: &str, action: Action, rules: Vec<Rule>) -> Built {
    Built(Resource::from(AuthorizationPolicy {
        name: ResourceName::new(NAMESPACE, name),
        target: PolicyTarget::Namespace,
        action,
        dry_run: false,
        rules,
        invalid: None,
    }))
}

impl Built {
    pub(crate) fn through(mut self, waypoint: &str) -> Self {
        let binding = WaypointBinding::To(ResourceName::new(NAMESPACE, waypoint));
        if let Resource::Service(service) = &mut self.0 {
            Arc::make_mut(service).waypoint = binding;
        } else if let Resource::Workload(workload) = &mut self.0 {
            Arc::make_mut(workload).waypoint = binding;
        } else {
            panic!("{:?} has no waypoint", self.0);
        }
        self
    }

    /// A Gateway that may not be used.
    pub(crate) fn closed(mut self) -> Self {
        let Resource::Waypoint(waypoint) = &mut self.0 else { panic!("not a gateway") };
        Arc::make_mut(waypoint).allowed = AllowedNamespaces::None;
        self
    }

    /// Behind the pods with this label, in place of its own name.
    pub(crate) fn of(mut self, app: &str) -> Self {
        let Resource::Service(service) = &mut self.0 else { panic!("not a service") };
        Arc::make_mut(service).selector = Some([("app".into(), app.into())].into());
        self
    }

    /// The Service of a waypoint's own pods.
    pub(crate) fn of_gateway(mut self, gateway: &str) -> Self {
        let Resource::Service(service) = &mut self.0 else { panic!("not a service") };
        Arc::make_mut(service).source = ResourceId::new(Kind::Service, NAMESPACE, gateway);
        self
    }

    pub(crate) fn labelled(mut self, app: &str) -> Self {
        let Resource::Workload(workload) = &mut self.0 else { panic!("not a workload") };
        Arc::make_mut(workload).labels = [("app".into(), app.into())].into();
        self
    }

    /// A workload, changed.
    pub(crate) fn workload(mut self, change: impl FnOnce(&mut Workload)) -> Self {
        let Resource::Workload(workload) = &mut self.0 else { panic!("not a workload") };
        change(Arc::make_mut(workload));
        self
    }

    /// A service, changed.
    pub(crate) fn service(mut self, change: impl FnOnce(&mut Service)) -> Self {
        let Resource::Service(service) = &mut self.0 else { panic!("not a service") };
        change(Arc::make_mut(service));
        self
    }

    pub(crate) fn change(self) -> Change {
        Change::Upsert(self.0)
    }
}

/// A store with these changes. Every pod in them is one of the proxy's own.
pub(crate) fn mesh(changes: Vec<Change>) -> (Store<NodeCompiler>, SnapshotHandle<NodeSnapshot>) {
    let local = changes.iter().filter_map(|change| match change {
        Change::Upsert(Resource::Workload(workload)) => Some(workload.uid.clone()),
        Change::Upsert(_) | Change::Remove(_) => None,
    });
    let mut store = Store::new(NodeCompiler::new(Own::Workloads(local.collect()), "istio-system"));
    store.apply(changes);
    let handle = store.handle();
    (store, handle)
}
