//! Where the control plane tells of a service or a workload only when it is asked (contract, 3.2:
//! on demand): asks for all that decides where a connection leads, before it is decided.

use super::shared::Shared;
use crate::{
    control::xds::Key,
    hbone::ConnectTarget,
    model::{GatewayAddress, GatewayDestination, Hostname, Name, NetworkAddress, ServiceKey, Workload},
    state::{NodeService, NodeSnapshot, NodeWorkload, WaypointRoute},
};
use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

/// How far one thing may lead to the next: a service, its waypoint, that one's gateway, and room for
/// what changes meanwhile.
const STEPS: usize = 8;
/// How long a CONNECT waits to learn what it asks for.
const TARGET_WAIT: Duration = Duration::from_secs(2);

impl Shared {
    /// The snapshot in which everything is known that decides where `dst` leads for `source`. Waits for
    /// the control plane, for as long as that takes: to let a connection pass that may have a waypoint
    /// would be to lead around it. Where nothing is told on demand, the given one.
    pub(super) async fn knowing(&self, snapshot: Arc<NodeSnapshot>, source: &Workload, dst: SocketAddr) -> Arc<NodeSnapshot> {
        self.asking(snapshot, |snapshot| of_destination(snapshot, &self.config.network, &source.namespace, dst)).await
    }

    /// The snapshot in which is known what a CONNECT to `here` asks for. Without it the CONNECT is refused,
    /// so an absent control plane holds nobody up for long.
    pub(super) async fn knowing_target(
        &self,
        snapshot: Arc<NodeSnapshot>,
        local: &Workload,
        here: IpAddr,
        target: &ConnectTarget,
    ) -> Arc<NodeSnapshot> {
        let asking = self.asking(snapshot, |snapshot| of_target(snapshot, &self.config.network, local, here, target));
        tokio::time::timeout(TARGET_WAIT, asking).await.unwrap_or_else(|_| self.mesh.load())
    }

    /// Has a peer told of, if nobody knows who it is. That is for reports only, so nobody waits for it.
    pub(super) fn ask_who(&self, snapshot: &NodeSnapshot, peer: IpAddr) {
        if let Some(demand) = self.demand.as_ref().filter(|_| snapshot.workload(peer).is_none()) {
            demand.ask(address(&self.config.network, peer));
        }
    }

    /// Has the workload that we serve told of, whoever its neighbours are.
    pub(super) async fn knowing_local(&self) {
        if let Some(demand) = &self.demand {
            let name = &self.local.name;
            // As istiod makes it of a pod, and of a machine that has joined.
            for kind in ["/Pod", "networking.istio.io/WorkloadEntry"] {
                let uid = format!("{}/{kind}/{}/{}", self.config.cluster, name.namespace, name.name);
                demand.fetch(Key::Workload(uid.into())).await;
                if self.local.of(&self.mesh.load()).is_some() {
                    return;
                }
            }
        }
    }

    async fn asking(&self, mut snapshot: Arc<NodeSnapshot>, missing: impl Fn(&NodeSnapshot) -> Vec<Key>) -> Arc<NodeSnapshot> {
        let Some(demand) = &self.demand else { return snapshot };
        let mut asked = HashSet::new();
        for _ in 0..STEPS {
            let keys: Vec<Key> = missing(&snapshot).into_iter().filter(|key| asked.insert(key.clone())).collect();
            if keys.is_empty() {
                break;
            }
            for key in keys {
                demand.fetch(key).await;
            }
            snapshot = self.mesh.load();
        }
        snapshot
    }
}

/// What is not known of a destination.
fn of_destination(snapshot: &NodeSnapshot, network: &Name, namespace: &str, dst: SocketAddr) -> Vec<Key> {
    let mut keys = Vec::new();
    let places: Vec<GatewayAddress> = match (snapshot.service(dst.ip(), namespace), snapshot.workload(dst.ip())) {
        (Some(service), _) if has_address(service, dst.ip()) => places_of(service, dst.port()),
        // Of a range, and so only if nobody has the address itself.
        (Some(service), None) => {
            keys.push(address(network, dst.ip()));
            places_of(service, dst.port())
        }
        (Some(service), Some(workload)) => places_of(service, dst.port()).into_iter().chain(place_of(workload)).collect(),
        (None, Some(workload)) => place_of(workload).into_iter().collect(),
        (None, None) => return vec![address(network, dst.ip())],
    };
    for place in places {
        match snapshot.place(&place) {
            None => keys.push(key(network, &place.destination)),
            // An instance of the waypoint may be behind a gateway in turn.
            Some(upstream) => {
                let remote = upstream
                    .endpoints()
                    .ready
                    .iter()
                    .filter_map(|endpoint| endpoint.workload.as_ref()?.l4.gateway.clone())
                    .collect::<Vec<_>>();
                keys.extend(remote.iter().filter(|place| snapshot.place(place).is_none()).map(|place| key(network, &place.destination)));
            }
        }
    }
    keys
}

fn has_address(service: &NodeService, address: IpAddr) -> bool {
    service.service.vips.iter().any(|vip| vip.to_canonical() == address.to_canonical())
}

/// What a workload is reached through.
fn place_of(workload: &NodeWorkload) -> Option<GatewayAddress> {
    match &workload.waypoint {
        Some(WaypointRoute::At(place)) => Some(place.clone()),
        Some(WaypointRoute::Gateway { .. }) | None => None,
    }
}

/// Everything that a port of a service may lead through.
fn places_of(service: &NodeService, port: u16) -> Vec<GatewayAddress> {
    let weighted = service.service.l4.weighted_waypoints.iter().map(|(place, _)| place.clone());
    let bound = service.waypoint.iter().filter_map(|waypoint| match waypoint {
        WaypointRoute::At(place) => Some(place.clone()),
        WaypointRoute::Gateway { .. } => None,
    });
    let endpoints = service.ports.get(&port).map(|upstream| upstream.endpoints().ready.clone()).unwrap_or_default();
    let gateways = endpoints.into_iter().filter_map(|endpoint| {
        let l4 = &endpoint.workload.as_ref()?.l4;
        l4.network.as_ref()?;
        l4.gateway.clone()
    });
    weighted.chain(bound).chain(gateways).collect()
}

/// What is not known of the target of a CONNECT. Another address than that of the tunnel may be of
/// somebody whose waypoint we are: who that is, its places tell.
fn of_target(snapshot: &NodeSnapshot, network: &Name, local: &Workload, here: IpAddr, target: &ConnectTarget) -> Vec<Key> {
    match target {
        ConnectTarget::Host(host, _) => of_host(snapshot, local, host),
        ConnectTarget::Address(at) if at.ip() == here => Vec::new(),
        ConnectTarget::Address(at) => of_destination(snapshot, network, &local.namespace, *at),
    }
}

/// The services that a peer may mean by a host name: those that lead to our workload, which says itself
/// what namespaces they are of.
fn of_host(snapshot: &NodeSnapshot, local: &Workload, host: &Hostname) -> Vec<Key> {
    let served: Vec<&ServiceKey> = local.l4.services.iter().map(|(key, _)| key).filter(|key| key.hostname == *host).collect();
    if served.is_empty() && snapshot.host(host, &local.namespace).is_none() {
        return vec![Key::Hostname(ServiceKey { namespace: local.namespace.clone(), hostname: host.clone() })];
    }
    served.into_iter().filter(|key| snapshot.service_by_key(key).is_none()).cloned().map(Key::Hostname).collect()
}

fn address(network: &Name, address: IpAddr) -> Key {
    Key::Address { network: network.clone(), address: address.to_canonical() }
}

/// What a place is asked for by.
fn key(own: &Name, destination: &GatewayDestination) -> Key {
    match destination {
        GatewayDestination::Address(NetworkAddress { network, address: at }) => address(network.as_ref().unwrap_or(own), *at),
        GatewayDestination::Hostname(service) => Key::Hostname(service.clone()),
    }
}
