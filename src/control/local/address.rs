//! Addresses and names as a local file writes them.

use super::{Cx, schema};
use crate::model::{GatewayAddress, GatewayDestination, Hostname, NetworkAddress, ServiceKey};
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

/// An address of a service.
pub(super) enum Vip {
    Address(NetworkAddress),
    Range(IpNet),
    /// A range on another network, which nobody here can dial.
    Elsewhere,
}

/// `NETWORK/IP`, or `NETWORK/IP/LENGTH` for a range.
pub(super) fn vip(cx: &mut Cx<'_>, field: &str, text: &str) -> Option<Vip> {
    let parsed = text.split_once('/').and_then(|(network, rest)| {
        let network = cx.config.network(network);
        if let Ok(address) = rest.parse::<IpAddr>() {
            return Some(Vip::Address(NetworkAddress { network, address: address.to_canonical() }));
        }
        let range = rest.parse::<IpNet>().ok()?;
        Some(match network {
            network if range.prefix_len() == range.max_prefix_len() => {
                Vip::Address(NetworkAddress { network, address: range.addr().to_canonical() })
            }
            None => Vip::Range(range.trunc()),
            Some(_) => Vip::Elsewhere,
        })
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
    let (namespace, hostname) = text.split_once('/')?;
    let is_plain = !namespace.is_empty() && !hostname.is_empty() && !hostname.contains('/');
    is_plain.then(|| ServiceKey { namespace: namespace.into(), hostname: Hostname::new(hostname) })
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
