//! A ztunnel's `/config_dump`, in the JSON that `istioctl ztunnel-config` reads (contract, 6.3).

mod certificates;
mod policies;
#[cfg(test)]
mod tests;

use super::mesh::{Findings, Policies};
use crate::{
    cert::CertStatus,
    model::{
        GatewayAddress, GatewayDestination, Health, IpFamilies, LoadBalancing, LoadBalancingMode, Name, ResourceName, ServicePort,
        TargetPort, TunnelProtocol,
    },
    state::{NodeService, NodeSnapshot, NodeWorkload, WaypointRoute},
    ztunnel::PodState,
};
use serde_json::{Map, Value, json};
use std::{collections::BTreeMap, net::IpAddr, sync::PoisonError};

/// What holds for a dump as long as the process runs.
#[derive(Debug, Clone)]
pub(super) struct NodeFacts {
    /// The proxy's own network.
    pub(super) network: Name,
    /// The namespace whose policies hold everywhere.
    pub(super) root_namespace: Name,
    /// The domain of services.
    pub(super) cluster_domain: Name,
    /// How the process was started, for reading only.
    pub(super) config: Value,
}

/// What a dump is made of.
#[derive(Debug)]
pub(super) struct NodeDump<'a> {
    pub(super) facts: &'a NodeFacts,
    pub(super) snapshot: &'a NodeSnapshot,
    pub(super) policies: &'a Policies,
    pub(super) findings: &'a Findings,
    pub(super) certificates: &'a [CertStatus],
    /// In shared mode.
    pub(super) pods: Option<&'a BTreeMap<Name, PodState>>,
}

impl NodeDump<'_> {
    /// The text.
    pub(super) fn text(&self) -> String {
        let mut workloads: Vec<_> = self.snapshot.workloads().collect();
        workloads.sort_by(|a, b| a.workload.uid.cmp(&b.workload.uid));
        let mut services: Vec<_> = self.snapshot.services().collect();
        services.sort_by(|a, b| a.service.key.cmp(&b.service.key));
        let policies = self.policies.lock().unwrap_or_else(PoisonError::into_inner);
        let policies: Vec<Value> = policies.values().filter_map(|p| policies::policy(p, &self.facts.root_namespace)).collect();
        let mut dump = json!({
            "workloads": workloads.into_iter().map(|w| self.workload(w)).collect::<Vec<_>>(),
            "services": services.into_iter().map(|s| self.service(s)).collect::<Vec<_>>(),
            "policies": policies,
            "certificates": self.certificates.iter().map(certificates::status).collect::<Vec<_>>(),
            "config": self.facts.config,
            "version": { "name": env!("CARGO_PKG_NAME"), "version": env!("CARGO_PKG_VERSION") },
            "meshVersion": self.snapshot.version,
            "findings": &*self.findings.lock().unwrap_or_else(PoisonError::into_inner),
        });
        if let Some(pods) = self.pods {
            dump["workloadState"] = json!(pods);
        }
        format!("{dump:#}\n")
    }

    fn workload(&self, node: &NodeWorkload) -> Value {
        let w = &node.workload;
        let mut out = json!({
            "uid": w.uid,
            "name": w.name,
            "namespace": w.namespace,
            "workloadIps": w.addresses,
            "protocol": match w.protocol { TunnelProtocol::Hbone => "HBONE", TunnelProtocol::None => "TCP" },
            "trustDomain": w.identity.trust_domain(),
            "serviceAccount": w.identity.service_account(),
            "workloadName": w.workload_name,
            "workloadType": w.workload_type.as_str(),
            "canonicalName": w.canonical_name,
            "canonicalRevision": w.canonical_revision,
            "clusterId": w.cluster,
            "locality": { "region": w.locality.region, "zone": w.locality.zone, "subzone": w.locality.subzone },
            "node": w.node,
            "network": self.network(w.l4.network.as_ref()),
            "networkMode": if w.host_network { "HostNetwork" } else { "Standard" },
            "status": match w.health { Health::Healthy => "Healthy", Health::Unhealthy => "Unhealthy" },
            "hostname": w.l4.hostname.as_ref().map_or("", |host| host.as_str()),
            "capacity": w.l4.capacity,
        });
        if let Some(waypoint) = &node.waypoint {
            out["waypoint"] = self.waypoint(waypoint);
        }
        if let Some(gateway) = &w.l4.gateway {
            out["networkGateway"] = self.gateway(gateway);
        }
        if let Some(tunnel) = w.l4.application_tunnel {
            out["applicationTunnel"] = json!({ "protocol": if tunnel.proxy_protocol { "PROXY" } else { "NONE" }, "port": tunnel.port });
        }
        if !w.l4.policies.is_empty() {
            out["authorizationPolicies"] = w.l4.policies.iter().map(ResourceName::to_string).collect();
        }
        out
    }

    fn service(&self, node: &NodeService) -> Value {
        let s = &node.service;
        let own = s.vips.iter().map(|vip| self.address(None, *vip));
        let elsewhere = s.l4.elsewhere.iter().map(|vip| self.address(vip.network.as_ref(), vip.address));
        let ranges = s.l4.ranges.iter().map(|range| format!("{}/{range}", self.facts.network));
        let mut out = json!({
            "name": s.source.name.name,
            "namespace": s.key.namespace,
            "hostname": s.key.hostname.as_str(),
            "vips": own.chain(elsewhere).chain(ranges).collect::<Vec<_>>(),
            "ports": s.ports.iter().map(|port| (port.port.to_string(), json!(target(port)))).collect::<Map<_, _>>(),
            "endpoints": endpoints(node),
            "subjectAltNames": s.subject_alt_names,
            "ipFamilies": families(s.l4.ip_families),
            "canonical": s.l4.canonical,
        });
        if s.l4.load_balancing != LoadBalancing::default() || s.publish_not_ready {
            out["loadBalancer"] = load_balancer(&s.l4.load_balancing, s.publish_not_ready);
        }
        if let Some(waypoint) = &node.waypoint {
            out["waypoint"] = self.waypoint(waypoint);
        }
        if !s.l4.weighted_waypoints.is_empty() {
            let weighted =
                s.l4.weighted_waypoints.iter().map(|(place, weight)| json!({ "waypoint": self.gateway(place), "weight": weight }));
            out["weightedWaypoints"] = weighted.collect();
        }
        out
    }

    /// `istioctl` looks for the service with this address. A Gateway is addressed by the service of
    /// its name.
    fn waypoint(&self, waypoint: &WaypointRoute) -> Value {
        match waypoint {
            WaypointRoute::At(place) => self.gateway(place),
            WaypointRoute::Gateway { name, upstream } => {
                let host = format!("{}.{}.svc.{}", name.name, name.namespace, self.facts.cluster_domain);
                let of_gateway =
                    |s: &&std::sync::Arc<NodeService>| s.service.key.namespace == name.namespace && s.service.key.hostname.as_str() == host;
                let vip = self.snapshot.services().find(of_gateway).and_then(|s| s.service.vips.first().copied());
                let destination = vip.map_or_else(|| format!("{}/{host}", name.namespace), |vip| self.address(None, vip));
                match upstream {
                    Ok(_) => json!({ "destination": destination, "hboneMtlsPort": crate::hbone::HBONE_PORT }),
                    Err(barred) => json!({ "destination": destination, "barred": barred.to_string() }),
                }
            }
        }
    }

    fn gateway(&self, place: &GatewayAddress) -> Value {
        let destination = match &place.destination {
            GatewayDestination::Address(address) => self.address(address.network.as_ref(), address.address),
            GatewayDestination::Hostname(key) => format!("{}/{}", key.namespace, key.hostname.as_str()),
        };
        json!({ "destination": destination, "hboneMtlsPort": place.port })
    }

    /// `NETWORK/ADDRESS`
    fn address(&self, network: Option<&Name>, address: IpAddr) -> String {
        format!("{}/{address}", self.network(network))
    }

    fn network<'a>(&'a self, network: Option<&'a Name>) -> &'a str {
        network.map_or(&*self.facts.network, |network| network)
    }
}

/// 0 stands for what only each endpoint knows.
fn target(port: &ServicePort) -> u16 {
    match port.target {
        TargetPort::Number(number) => number,
        TargetPort::Name(_) | TargetPort::Endpoint => 0,
    }
}

/// Those that may receive traffic, by the workload's uid, else by address.
fn endpoints(node: &NodeService) -> Value {
    let mut all: BTreeMap<String, Value> = BTreeMap::new();
    let service = format!("{}/{}", node.service.key.namespace, node.service.key.hostname.as_str());
    for (port, upstream) in &node.ports {
        for endpoint in &upstream.endpoints().ready {
            let address = endpoint.address.ip().to_string();
            let uid = endpoint.workload.as_ref().map(|w| w.uid.to_string());
            let one = all.entry(uid.clone().unwrap_or_else(|| address.clone()));
            let one = one
                .or_insert_with(|| json!({ "workloadUid": uid.unwrap_or_default(), "service": service, "address": address, "port": {} }));
            one["port"][port.to_string()] = json!(endpoint.address.port());
        }
    }
    json!(all)
}

fn families(families: IpFamilies) -> &'static str {
    match families {
        IpFamilies::Automatic => "",
        IpFamilies::Ipv4 => "IPv4",
        IpFamilies::Ipv6 => "IPv6",
        IpFamilies::Dual => "Dual",
    }
}

fn load_balancer(balancing: &LoadBalancing, publish_not_ready: bool) -> Value {
    let mode = match balancing.mode {
        LoadBalancingMode::Any => "Standard",
        LoadBalancingMode::Strict => "Strict",
        LoadBalancingMode::Failover => "Failover",
        LoadBalancingMode::Passthrough => "Passthrough",
    };
    let preferences = balancing.preferences.iter().map(|scope| format!("{scope:?}"));
    let health = if publish_not_ready { "AllowAll" } else { "OnlyHealthy" };
    json!({ "mode": mode, "routingPreferences": preferences.collect::<Vec<_>>(), "healthPolicy": health })
}
