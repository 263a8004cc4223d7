//! What a host name given to the SOCKS5 listener means in the mesh. Pure.

use crate::{
    balance,
    model::Hostname,
    state::{NodeService, NodeSnapshot},
};
use std::net::{IpAddr, SocketAddr};

/// Whose names they are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Searcher<'a> {
    /// The namespace in which a short name is looked for.
    pub(super) namespace: &'a str,
    /// The domain of the cluster's services, `cluster.local`.
    pub(super) domain: &'a str,
}

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

/// Looks a name up: an address literal, a host name, or an abbreviation that the resolver of a pod
/// would complete (`NAME`, `NAME.NS`, `NAME.NS.svc`).
pub(super) fn lookup(snapshot: &NodeSnapshot, searcher: Searcher<'_>, name: &str, port: u16) -> Meaning {
    if let Ok(ip) = name.parse::<IpAddr>() {
        return Meaning::Address(SocketAddr::new(ip.to_canonical(), port));
    }
    match candidates(searcher, name).iter().find_map(|host| snapshot.host(host, searcher.namespace)) {
        Some(service) => address(service, port),
        None => Meaning::Foreign,
    }
}

/// The names to try, in order. A trailing dot forbids completion.
fn candidates(Searcher { namespace, domain }: Searcher<'_>, name: &str) -> Vec<Hostname> {
    let mut names = vec![Hostname::new(name)];
    let absolute = name.ends_with('.');
    let complete = match name.split('.').collect::<Vec<_>>()[..] {
        _ if absolute => None,
        [_] => Some(format!("{name}.{namespace}.svc.{domain}")),
        [_, _] => Some(format!("{name}.svc.{domain}")),
        [_, _, svc] if svc.eq_ignore_ascii_case("svc") => Some(format!("{name}.{domain}")),
        _ => None,
    };
    names.extend(complete.map(|name| Hostname::new(&name)));
    names
}

fn address(service: &NodeService, port: u16) -> Meaning {
    if let Some(vip) = service.service.vips.first() {
        return Meaning::Address(SocketAddr::new(vip.to_canonical(), port));
    }
    // Headless, as DNS has it: the address of an endpoint, and the port as asked for. But a workload's address would lead
    // around the service's waypoint.
    let endpoint = service.ports.get(&port).filter(|_| service.waypoint.is_none()).and_then(|upstream| {
        let endpoints = upstream.endpoints();
        balance::pick(&endpoints.ready, |e| e.in_flight(), |_| false, |below| fastrand::usize(..below)).map(|e| e.address)
    });
    match endpoint {
        Some(endpoint) => Meaning::Address(SocketAddr::new(endpoint.ip(), port)),
        // A ServiceEntry that leaves resolution to the system.
        None if service.service.external && service.waypoint.is_none() => Meaning::Foreign,
        None => Meaning::Nowhere,
    }
}

#[cfg(test)]
mod tests;
