//! What the terms of Istio's workload API mean in the model, for both sources that are written in
//! them: a local file, and what a control plane sends.

use crate::model::{Hostname, Kind, Name, NamespacePattern, NetworkAddress, ServiceL4, StringMatch};
use ipnet::{IpNet, Ipv4Net};
use std::net::IpAddr;

/// The cluster of a workload that names none.
pub(super) const CLUSTER: &str = "Kubernetes";

/// The parts of `NAMESPACE/NAME`: how services (by their host names) and policies are referred to.
pub(super) fn namespaced(text: &str) -> Option<(&str, &str)> {
    let (namespace, name) = text.split_once('/')?;
    let is_plain = !namespace.is_empty() && !name.is_empty() && !name.contains('/');
    is_plain.then_some((namespace, name))
}

/// What declares a service: its domain alone tells a Kubernetes Service from a ServiceEntry.
pub(super) fn kind(hostname: &Hostname, cluster_domain: &str) -> Kind {
    let is_kubernetes = hostname.as_str().strip_suffix(cluster_domain).is_some_and(|rest| rest.ends_with(".svc."));
    if is_kubernetes { Kind::Service } else { Kind::ServiceEntry }
}

/// Puts a virtual address of a service where it belongs. A range on another network is left out:
/// nobody here can dial it.
pub(super) fn add_vip(network: Option<Name>, range: IpNet, vips: &mut Vec<IpAddr>, l4: &mut ServiceL4) {
    let range = canonical(range);
    let is_address = range.prefix_len() == range.max_prefix_len();
    match network {
        None if is_address => vips.push(range.addr()),
        None => l4.ranges.push(range.trunc()),
        Some(network) if is_address => l4.elsewhere.push(NetworkAddress { network: Some(network), address: range.addr() }),
        Some(_) => {}
    }
}

/// IPv4 addresses that are written as IPv6 (`::ffff:10.0.0.0/104`) are IPv4.
fn canonical(range: IpNet) -> IpNet {
    let IpNet::V6(wide) = range else { return range };
    let narrow = wide.addr().to_ipv4_mapped().zip(wide.prefix_len().checked_sub(96));
    narrow.and_then(|(address, length)| Ipv4Net::new(address, length).ok()).map_or(range, IpNet::V4)
}

/// How a policy compares a peer's principal, or what is wrong with it.
pub(super) fn principal(matching: StringMatch) -> Result<StringMatch, &'static str> {
    let matching = compared(matching)?;
    match &matching {
        StringMatch::Exact(text) | StringMatch::Prefix(text) if text.starts_with("spiffe:") => {
            Err("principals are written without spiffe://")
        }
        StringMatch::Exact(_) | StringMatch::Prefix(_) | StringMatch::Suffix(_) | StringMatch::Presence => Ok(matching),
    }
}

/// How a policy compares a peer's namespace, or what is wrong with it. The model's pattern would take
/// a `*` that is meant as itself for any text.
pub(super) fn namespace(matching: StringMatch) -> Result<NamespacePattern, &'static str> {
    Ok(NamespacePattern(match compared(matching)? {
        StringMatch::Exact(text) | StringMatch::Prefix(text) | StringMatch::Suffix(text) if text.contains('*') => {
            return Err("a namespace has no '*' in its name");
        }
        StringMatch::Exact(text) => text,
        StringMatch::Prefix(text) => format!("{text}*").into(),
        StringMatch::Suffix(text) => format!("*{text}").into(),
        StringMatch::Presence => "*".into(),
    }))
}

fn compared(matching: StringMatch) -> Result<StringMatch, &'static str> {
    match &matching {
        StringMatch::Exact(text) | StringMatch::Prefix(text) | StringMatch::Suffix(text) if text.is_empty() => {
            Err("an empty text matches nothing or everything")
        }
        StringMatch::Exact(_) | StringMatch::Prefix(_) | StringMatch::Suffix(_) | StringMatch::Presence => Ok(matching),
    }
}
