//! Addresses and names as a local file writes them.

use super::{Cx, schema};
use crate::{
    control::workload_api,
    model::{GatewayAddress, GatewayDestination, Hostname, Name, NetworkAddress, ServiceKey},
};
use ipnet::IpNet;
use std::net::IpAddr;

/// An IP address; mapped ones are those that they stand for.
pub(super) fn ip(cx: &mut Cx<'_>, field: &str, text: &str) -> Option<IpAddr> {
    let parsed = text.parse::<IpAddr>().ok().map(|ip| ip.to_canonical());
    if parsed.is_none() {
        cx.error(field, format!("{text:?} is not an IP address"));
    }
    parsed
}

/// `NETWORK/IP`, or `NETWORK/IP/LENGTH` for a range: the network as the model names it, and the range,
/// which is that of one address mostly.
pub(super) fn vip(cx: &mut Cx<'_>, field: &str, text: &str) -> Option<(Option<Name>, IpNet)> {
    let parsed = text.split_once('/').and_then(|(network, rest)| {
        let range = rest.parse::<IpAddr>().map(IpNet::from).or_else(|_| rest.parse::<IpNet>()).ok()?;
        Some((cx.config.network(network), range))
    });
    if parsed.is_none() {
        cx.error(field, format!("{text:?} is neither NETWORK/IP nor NETWORK/IP/LENGTH; the network may be empty, as in \"/10.0.0.1\""));
    }
    parsed
}

/// `NAMESPACE/HOSTNAME`.
pub(super) fn key(cx: &mut Cx<'_>, field: &str, text: &str) -> Option<ServiceKey> {
    let parsed = hostname(text);
    if parsed.is_none() {
        cx.error(field, format!("{text:?} is not NAMESPACE/HOSTNAME"));
    }
    parsed
}

fn hostname(text: &str) -> Option<ServiceKey> {
    let (namespace, hostname) = workload_api::namespaced(text)?;
    Some(ServiceKey { namespace: namespace.into(), hostname: Hostname::new(hostname) })
}

/// Where a waypoint or a gateway is: what follows the `/` tells which of the two forms it has.
pub(super) fn gateway(cx: &mut Cx<'_>, field: &str, gateway: &schema::Gateway) -> Option<GatewayAddress> {
    cx.port(&format!("{field}.hboneMtlsPort"), gateway.hbone_mtls_port);
    let text = &gateway.destination;
    let address = text.split_once('/').and_then(|(network, ip)| Some((cx.config.network(network), ip.parse::<IpAddr>().ok()?)));
    let destination = match address {
        Some((network, address)) => Some(GatewayDestination::Address(NetworkAddress { network, address: address.to_canonical() })),
        None => hostname(text).map(GatewayDestination::Hostname),
    };
    if destination.is_none() {
        cx.error(&format!("{field}.destination"), format!("{text:?} is neither NETWORK/IP nor NAMESPACE/HOSTNAME"));
    }
    Some(GatewayAddress { destination: destination?, port: gateway.hbone_mtls_port })
}
