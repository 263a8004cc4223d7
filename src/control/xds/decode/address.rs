//! Addresses, ports and places, as services and workloads have them.

use super::{
    Decoder,
    refusal::{Refusal, each, known, port, port_or_none, quoted, required},
};
use crate::{
    model::{AppProtocol, GatewayAddress, GatewayDestination, Hostname, NetworkAddress, ServiceKey, WaypointBinding},
    proto::workload as proto,
};
use ipnet::IpNet;
use proto::gateway_address::Destination;
use std::net::IpAddr;

/// A port, where it leads (0: nowhere that is said), and what is spoken.
pub(super) type Port = (u16, u16, AppProtocol);

/// An IP address; mapped ones are those that they stand for.
pub(super) fn ip(field: &str, bytes: &[u8]) -> Result<IpAddr, Refusal> {
    raw_ip(field, bytes).map(|ip| ip.to_canonical())
}

fn raw_ip(field: &str, bytes: &[u8]) -> Result<IpAddr, Refusal> {
    let of_4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    let parsed = of_4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from));
    parsed.map_err(|_| Refusal::new(field, format!("an IP address has 4 or 16 bytes, not {}", bytes.len())))
}

/// An address and the length of its prefix.
pub(super) fn range(bytes: &[u8], length: u32) -> Result<IpNet, Refusal> {
    let address = raw_ip("address", bytes)?;
    let range = u8::try_from(length).ok().and_then(|length| IpNet::new(address, length).ok());
    range.ok_or_else(|| Refusal::new("length", format!("{address} has no prefix of {length} bits")))
}

/// An address, or a range of them, on whichever network it says.
pub(super) fn network_range(message: &proto::NetworkAddress) -> Result<IpNet, Refusal> {
    match message.length {
        Some(length) => range(&message.address, length),
        None => Ok(IpNet::from(raw_ip("address", &message.address)?)),
    }
}

/// An address that must be a single one.
fn network_address(cx: &mut Decoder, message: &proto::NetworkAddress) -> Result<NetworkAddress, Refusal> {
    let range = network_range(message)?;
    if range.prefix_len() != range.max_prefix_len() {
        return Err(Refusal::new("length", format!("{range} is a range, and a single address is needed")));
    }
    Ok(NetworkAddress { network: cx.network(&message.network), address: range.addr().to_canonical() })
}

/// A host name.
pub(super) fn host(cx: &mut Decoder, text: &str) -> Result<Hostname, Refusal> {
    cx.texts.hostname(text).ok_or_else(|| Refusal::new("hostname", format!("{} is not a host name", quoted(text))))
}

/// A namespace and a host name.
pub(super) fn key(cx: &mut Decoder, namespace: &str, hostname: &str) -> Result<ServiceKey, Refusal> {
    for (field, text) in [("namespace", namespace), ("hostname", hostname)] {
        required(field, text)?;
        if text.contains('/') {
            return Err(Refusal::new(field, format!("{} has a '/'", quoted(text))));
        }
    }
    Ok(ServiceKey { namespace: cx.texts.name(namespace), hostname: host(cx, hostname)? })
}

/// Where a waypoint or a gateway is.
pub(super) fn gateway(cx: &mut Decoder, message: &proto::GatewayAddress) -> Result<GatewayAddress, Refusal> {
    let destination = match &message.destination {
        Some(Destination::Hostname(message)) => {
            let key = key(cx, &message.namespace, &message.hostname).map_err(|refusal| refusal.within("hostname"))?;
            GatewayDestination::Hostname(key)
        }
        Some(Destination::Address(message)) => {
            GatewayDestination::Address(network_address(cx, message).map_err(|refusal| refusal.within("address"))?)
        }
        None => return Err(Refusal::new("destination", "neither a host name nor an address")),
    };
    Ok(GatewayAddress { destination, port: port("hbone_mtls_port", message.hbone_mtls_port)? })
}

/// The waypoint of a service or of a workload. The control plane has judged already: where there is
/// none, none is inherited either.
pub(super) fn waypoint(cx: &mut Decoder, message: Option<&proto::GatewayAddress>) -> Result<WaypointBinding, Refusal> {
    let Some(message) = message else { return Ok(WaypointBinding::None) };
    gateway(cx, message).map(WaypointBinding::At).map_err(|refusal| refusal.within("waypoint"))
}

/// Ports in their order. One that comes twice, as TCP and as UDP do under one number, counts as it
/// came last.
pub(super) fn ports(messages: &[proto::Port]) -> Result<Vec<Port>, Refusal> {
    let mut ports = each("ports", messages, |message| {
        let number = port("service_port", message.service_port)?;
        let target = port_or_none("target_port", message.target_port)?;
        Ok((number, target, protocol(known("app_protocol", message.app_protocol)?)))
    })?;
    ports.sort_by_key(|(number, ..)| *number);
    ports.dedup_by(|later, kept| {
        let is_same = later.0 == kept.0;
        if is_same {
            *kept = *later;
        }
        is_same
    });
    Ok(ports)
}

fn protocol(protocol: proto::AppProtocol) -> AppProtocol {
    match protocol {
        proto::AppProtocol::Unknown => AppProtocol::Unspecified,
        proto::AppProtocol::Http11 => AppProtocol::Http,
        proto::AppProtocol::Http2 => AppProtocol::Http2,
        proto::AppProtocol::Grpc => AppProtocol::Grpc,
        proto::AppProtocol::Tcp => AppProtocol::Tcp,
        proto::AppProtocol::Tls => AppProtocol::Tls,
    }
}
