//! Services of a local file.

use super::{
    Cx, address,
    schema::{self, File, HealthPolicy, Mapping, Mode, Scope},
};
use crate::{
    control::workload_api,
    model::{
        AppProtocol, GatewayAddress, Hostname, IpFamilies, LoadBalancing, LoadBalancingMode, LocalityScope, Name, ResourceId, Service,
        ServiceKey, ServiceL4, ServicePort, TargetPort, Visibility, WaypointBinding,
    },
};
use std::{collections::HashSet, net::IpAddr};

pub(super) fn services(cx: &mut Cx<'_>, file: &File) -> Vec<Service> {
    let mut keys = HashSet::new();
    let mut services = Vec::with_capacity(file.services.len());
    for (i, service) in file.services.iter().enumerate() {
        let field = format!("services[{i}]");
        for (name, text) in [("name", &service.name), ("namespace", &service.namespace), ("hostname", &service.hostname)] {
            cx.required(&format!("{field}.{name}"), text);
        }
        let service = decoded(cx, &field, service);
        if !keys.insert(service.key.clone()) {
            cx.error(&format!("{field}.hostname"), "another service of this namespace has this host name");
        }
        services.push(service);
    }
    services
}

fn decoded(cx: &mut Cx<'_>, field: &str, service: &schema::Service) -> Service {
    let key = ServiceKey { namespace: service.namespace.as_str().into(), hostname: Hostname::new(&service.hostname) };
    let kind = workload_api::kind(&key.hostname, &cx.config.cluster_domain);
    let waypoint = service.waypoint.as_ref().and_then(|gateway| address::gateway(cx, &format!("{field}.waypoint"), gateway));
    let mut l4 = ServiceL4 {
        load_balancing: load_balancing(&service.load_balancer),
        ip_families: match service.ip_families {
            None => IpFamilies::Automatic,
            Some(schema::IpFamilies::IPv4) => IpFamilies::Ipv4,
            Some(schema::IpFamilies::IPv6) => IpFamilies::Ipv6,
            Some(schema::IpFamilies::Dual) => IpFamilies::Dual,
        },
        visibility: match service.visibility {
            schema::Visibility::Public => Visibility::Public,
            schema::Visibility::Namespace => Visibility::Namespace,
        },
        canonical: service.canonical,
        weighted_waypoints: weighted_waypoints(cx, &format!("{field}.weightedWaypoints"), &service.weighted_waypoints),
        ..ServiceL4::default()
    };
    Service {
        source: ResourceId::new(kind, &service.namespace, &service.name),
        vips: vips(cx, &format!("{field}.vips"), &service.vips, &mut l4),
        ports: ports(cx, &format!("{field}.ports"), &service.ports),
        selector: None,
        waypoint: waypoint.map_or(WaypointBinding::None, WaypointBinding::At),
        publish_not_ready: service.load_balancer.health_policy == HealthPolicy::AllowAll,
        external: false,
        subject_alt_names: service.subject_alt_names.iter().map(|name| Name::from(name.as_str())).collect(),
        l4,
        key,
    }
}

/// The addresses on our own network; what else there is goes to where it belongs.
fn vips(cx: &mut Cx<'_>, field: &str, texts: &[String], l4: &mut ServiceL4) -> Vec<IpAddr> {
    let mut vips = Vec::with_capacity(texts.len());
    for (i, text) in texts.iter().enumerate() {
        if let Some((network, range)) = address::vip(cx, &format!("{field}[{i}]"), text) {
            workload_api::add_vip(network, range, &mut vips, l4);
        }
    }
    vips
}

fn ports(cx: &mut Cx<'_>, field: &str, ports: &schema::Ports) -> Vec<ServicePort> {
    let target = |target| if target == 0 { TargetPort::Endpoint } else { TargetPort::Number(target) };
    let pairs = cx.ports(field, ports).into_iter();
    pairs.map(|(port, to)| ServicePort { name: "".into(), port, target: target(to), protocol: AppProtocol::Unspecified }).collect()
}

fn weighted_waypoints(cx: &mut Cx<'_>, field: &str, weighted: &[Mapping<schema::WeightedWaypoint>]) -> Vec<(GatewayAddress, u32)> {
    let of = |(i, weighted): (usize, &Mapping<schema::WeightedWaypoint>)| {
        let place = address::gateway(cx, &format!("{field}[{i}].destination"), &weighted.destination)?;
        Some((place, weighted.weight))
    };
    weighted.iter().enumerate().filter_map(of).collect()
}

fn load_balancing(balancer: &schema::LoadBalancer) -> LoadBalancing {
    let scope = |scope: &Scope| match scope {
        Scope::Region => LocalityScope::Region,
        Scope::Zone => LocalityScope::Zone,
        Scope::Subzone => LocalityScope::Subzone,
        Scope::Node => LocalityScope::Node,
        Scope::Cluster => LocalityScope::Cluster,
        Scope::Network => LocalityScope::Network,
    };
    LoadBalancing {
        mode: match balancer.mode {
            Mode::Standard => LoadBalancingMode::Any,
            Mode::Strict => LoadBalancingMode::Strict,
            Mode::Failover => LoadBalancingMode::Failover,
            Mode::Passthrough => LoadBalancingMode::Passthrough,
        },
        preferences: balancer.routing_preferences.iter().map(scope).collect(),
    }
}
