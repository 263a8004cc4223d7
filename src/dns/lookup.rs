//! What a name means in the mesh, asked by one workload (contract, 2.8). Pure.

use crate::{
    model::{Hostname, Name},
    state::{NodeService, NodeSnapshot, UpstreamEndpoint},
};
use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

/// What is the same for all who ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// The domain of the cluster's services, `cluster.local`.
    pub domain: Name,
    /// Of services with the same host name, none of them in the client's own namespace and none
    /// canonical, the one in this namespace is meant (`PREFERED_SERVICE_NAMESPACE`).
    pub preferred_namespace: Option<Name>,
    /// Whether IPv6 addresses are told at all (`IPV6_ENABLED`).
    pub ipv6: bool,
}

impl Cluster {
    /// No preferred namespace; both families.
    pub fn new(domain: &str) -> Self {
        let domain = domain.trim_matches('.').to_ascii_lowercase();
        Self { domain: domain.into(), preferred_namespace: None, ipv6: true }
    }

    /// The search domains that Kubernetes gives to the pods of a namespace.
    pub fn search(&self, namespace: &str) -> [Hostname; 3] {
        let domain = &self.domain;
        [Hostname::new(&format!("{namespace}.svc.{domain}")), Hostname::new(&format!("svc.{domain}")), Hostname::new(domain)]
    }
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub struct Client<'a> {
    /// The namespace of the workload.
    pub namespace: &'a str,
    /// What its resolver appends to names.
    pub search: &'a [Hostname],
    /// Its cluster.
    pub cluster: &'a Cluster,
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// A records.
    V4,
    /// AAAA records.
    V6,
}

impl Family {
    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.to_canonical().is_ipv4() { Self::V4 } else { Self::V6 }
    }

    fn has(self, address: &IpAddr) -> bool {
        Self::of(*address) == self
    }
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// These addresses.
    Answer {
        /// At least one, in random order.
        addresses: Vec<IpAddr>,
        /// The name that has them, where it is not the one that was asked for.
        alias: Option<Hostname>,
    },
    /// The name exists, but has no such addresses. Nobody else may answer for it.
    Empty,
    /// Not a name of the mesh.
    Forward,
}

/// What has a name.
#[derive(Debug, Clone)]
pub enum Found<'a> {
    /// A service.
    Service(&'a Arc<NodeService>),
    /// One endpoint of a headless service, by the name of its workload: `POD.SERVICE…`.
    Endpoint(Arc<UpstreamEndpoint>),
}

/// A name that is known, and how it was found.
#[derive(Debug, Clone)]
pub struct Match<'a> {
    /// What has it.
    pub found: Found<'a>,
    /// The name without a search domain, where it was found by that name and not by a wildcard.
    pub alias: Option<Hostname>,
}

/// Answers a question for addresses. `name` is taken as complete: whether it ends in a dot says
/// nothing.
pub fn lookup(snapshot: &NodeSnapshot, client: Client<'_>, name: &str, family: Family) -> Outcome {
    let Some(Match { found, alias }) = find(snapshot, client, name) else { return Outcome::Forward };
    let addresses = found.addresses(client.cluster, family);
    if addresses.is_empty() { Outcome::Empty } else { Outcome::Answer { addresses, alias } }
}

/// Finds out who has a name: of each candidate the name itself, then the workloads of a headless
/// service, then wildcards, the most specific first.
pub fn find<'a>(snapshot: &'a NodeSnapshot, client: Client<'a>, name: &str) -> Option<Match<'a>> {
    let name = Hostname::new(name);
    if name.as_str().is_empty() {
        return None;
    }
    candidates(client, name.as_str()).into_iter().find_map(|Candidate { name, stripped }| {
        let exact = service(snapshot, client, &name).map(Found::Service).or_else(|| endpoint(snapshot, client, &name));
        if let Some(found) = exact {
            return Some(Match { found, alias: stripped });
        }
        let found = wildcards(name.as_str()).find_map(|wildcard| service(snapshot, client, &wildcard)).map(Found::Service);
        found.map(|found| Match { found, alias: None })
    })
}

/// A name under which something may be known.
#[derive(Debug, PartialEq, Eq)]
struct Candidate {
    name: Hostname,
    // What was asked for, without a search domain.
    stripped: Option<Hostname>,
}

/// The name as it is, then without each search domain that it ends in; each time also as what
/// Kubernetes would make of it.
fn candidates(client: Client<'_>, name: &str) -> Vec<Candidate> {
    let mut out: Vec<Candidate> = Vec::new();
    let stripped = client.search.iter().filter_map(|domain| {
        let rest = name.strip_suffix(domain.as_str())?.strip_suffix('.')?;
        (!rest.is_empty()).then_some((rest, true))
    });
    for (base, is_stripped) in std::iter::once((name, false)).chain(stripped) {
        let stripped = is_stripped.then(|| Hostname::new(base));
        for name in std::iter::once(base.to_owned()).chain(expansions(client, base)) {
            let name = Hostname::new(&name);
            if !out.iter().any(|known| known.name == name) {
                out.push(Candidate { name, stripped: stripped.clone() });
            }
        }
    }
    out
}

/// `SERVICE`, `SERVICE.NAMESPACE` and `SERVICE.NAMESPACE.svc`, or the same with `POD.` in front, in
/// full.
fn expansions(Client { namespace, cluster, .. }: Client<'_>, name: &str) -> Vec<String> {
    let domain = &cluster.domain;
    let is_svc = name.ends_with(".svc");
    match name.split('.').count() {
        1 => vec![format!("{name}.{namespace}.svc.{domain}")],
        2 => vec![format!("{name}.svc.{domain}"), format!("{name}.{namespace}.svc.{domain}")],
        3 if is_svc => vec![format!("{name}.{domain}"), format!("{name}.svc.{domain}")],
        3 => vec![format!("{name}.svc.{domain}")],
        4 if is_svc => vec![format!("{name}.{domain}")],
        _ => Vec::new(),
    }
}

/// `*.b.c` and `*.c` for `a.b.c`.
fn wildcards(name: &str) -> impl Iterator<Item = Hostname> {
    let rests = std::iter::successors(name.split_once('.'), |(_, rest)| rest.split_once('.'));
    rests.map(|(_, rest)| Hostname::new(&format!("*.{rest}")))
}

/// The service that the client means by a host name (contract, 2.4), among those that we answer for.
fn service<'a>(snapshot: &'a NodeSnapshot, client: Client<'a>, host: &Hostname) -> Option<&'a Arc<NodeService>> {
    let services = || snapshot.hosts(host, client.namespace).filter(|service| is_ours(service, client.cluster));
    let namespace = |wanted: &str| services().find(|service| *service.service.key.namespace == *wanted);
    namespace(client.namespace)
        .or_else(|| services().find(|service| service.service.l4.canonical))
        .or_else(|| client.cluster.preferred_namespace.as_deref().and_then(namespace))
        .or_else(|| services().next())
}

/// Whether we answer for a service: it has virtual addresses, or is a headless one of the cluster. A
/// ServiceEntry without addresses is resolved by whoever else knows its host. So is a headless
/// service without ports: its endpoints are of no concern to a proxy, and not known here.
fn is_ours(service: &NodeService, cluster: &Cluster) -> bool {
    has_vips(service) || (is_of_cluster(&service.service.key.hostname, cluster) && !service.ports.is_empty())
}

fn has_vips(service: &NodeService) -> bool {
    !service.service.vips.is_empty() || !service.service.l4.elsewhere.is_empty()
}

/// Whether a host name is that of a Kubernetes Service.
fn is_of_cluster(host: &Hostname, cluster: &Cluster) -> bool {
    let name = host.as_str().strip_suffix(&*cluster.domain).and_then(|rest| rest.strip_suffix(".svc."));
    name.is_some_and(|name| !name.is_empty())
}

/// The endpoint that a name in the form `POD.SERVICE` means: the service is headless.
fn endpoint<'a>(snapshot: &'a NodeSnapshot, client: Client<'a>, name: &Hostname) -> Option<Found<'a>> {
    let (pod, host) = name.as_str().split_once('.')?;
    let host = Hostname::new(host);
    if !is_of_cluster(&host, client.cluster) {
        return None;
    }
    let service = service(snapshot, client, &host).filter(|service| !has_vips(service))?;
    let is_called = |endpoint: &&Arc<UpstreamEndpoint>| {
        endpoint.workload.as_ref().is_some_and(|workload| {
            let of_its_own = workload.l4.hostname.as_ref().map(Hostname::as_str);
            workload.name.eq_ignore_ascii_case(pod) || of_its_own == Some(pod) || of_its_own == Some(name.as_str())
        })
    };
    let ports = service.ports.values().map(|port| port.endpoints());
    ports.into_iter().find_map(|endpoints| endpoints.ready.iter().find(is_called).cloned()).map(Found::Endpoint)
}

impl Found<'_> {
    /// Its addresses of a family, in random order. Of a headless service one for each workload
    /// behind it; addresses on other networks are not told, they mean something else here.
    pub fn addresses(&self, cluster: &Cluster, family: Family) -> Vec<IpAddr> {
        if family == Family::V6 && !cluster.ipv6 {
            return Vec::new();
        }
        let mut addresses: Vec<IpAddr> = match self {
            Self::Service(service) if has_vips(service) => service.service.vips.iter().map(IpAddr::to_canonical).collect(),
            Self::Service(service) => members(service, family),
            Self::Endpoint(endpoint) => address(endpoint, family).into_iter().collect(),
        };
        addresses.retain(|address| family.has(address));
        fastrand::shuffle(&mut addresses);
        addresses
    }

    /// The service, where the name is one's own.
    pub fn service(&self) -> Option<&NodeService> {
        match self {
            Self::Service(service) => Some(service),
            Self::Endpoint(_) => None,
        }
    }
}

/// An address for each workload behind a headless service; the endpoints of a port may not be those
/// of another.
fn members(service: &NodeService, family: Family) -> Vec<IpAddr> {
    let families = service.service.l4.ip_families;
    let mut of_workloads: HashMap<Name, IpAddr> = HashMap::new();
    let mut others: HashSet<IpAddr> = HashSet::new();
    for port in service.ports.values() {
        for endpoint in &port.endpoints().ready {
            let Some(address) = address(endpoint, family).filter(|address| families.allow(*address)) else { continue };
            match &endpoint.workload {
                Some(workload) => {
                    of_workloads.entry(workload.uid.clone()).or_insert(address);
                }
                None => {
                    others.insert(address);
                }
            }
        }
    }
    others.extend(of_workloads.into_values());
    others.into_iter().collect()
}

/// The address of an endpoint, else another of its workload's that is of the family.
fn address(endpoint: &UpstreamEndpoint, family: Family) -> Option<IpAddr> {
    let workload = endpoint.workload.as_deref();
    if workload.is_some_and(|workload| workload.l4.network.is_some()) {
        return None;
    }
    let listed = Some(endpoint.address.ip().to_canonical()).filter(|address| !address.is_unspecified());
    let others = workload.into_iter().flat_map(|workload| &workload.addresses).map(IpAddr::to_canonical);
    listed.into_iter().chain(others).find(|address| family.has(address))
}

#[cfg(test)]
mod tests;
