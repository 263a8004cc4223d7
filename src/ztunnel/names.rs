//! What a host name given to the SOCKS5 listener means in the mesh. Pure.

use crate::{
    dns::{self, Client, Family, Found},
    model::Hostname,
    state::NodeSnapshot,
};
use std::net::{IpAddr, SocketAddr};

/// What a name means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// This address, of a service or of a workload.
    Address(SocketAddr),
    /// A service of the mesh that has no address now. Nobody else may answer for it.
    Nowhere,
    /// Not a name of the mesh.
    Foreign,
}

/// Looks a name up: an address literal, or what DNS knows under it (contract, 2.7), IPv4 first.
pub(super) fn lookup(snapshot: &NodeSnapshot, client: Client<'_>, name: &str, port: u16) -> Meaning {
    if let Ok(ip) = name.parse::<IpAddr>() {
        return Meaning::Address(SocketAddr::new(ip.to_canonical(), port));
    }
    match dns::find(snapshot, client, name) {
        // A workload's address would lead around the service's waypoint.
        Some(known) if is_guarded(&known.found) => Meaning::Nowhere,
        Some(known) => {
            let mut addresses = [Family::V4, Family::V6].into_iter().flat_map(|family| known.found.addresses(client.cluster, family));
            addresses.next().map_or(Meaning::Nowhere, |ip| Meaning::Address(SocketAddr::new(ip, port)))
        }
        // So would what others say of a ServiceEntry without addresses.
        None if snapshot.host(&Hostname::new(name), client.namespace).is_some_and(|service| service.waypoint.is_some()) => Meaning::Nowhere,
        None => Meaning::Foreign,
    }
}

fn is_guarded(found: &Found<'_>) -> bool {
    found.service().is_some_and(|service| service.waypoint.is_some() && service.service.vips.is_empty())
}

#[cfg(test)]
mod tests;
