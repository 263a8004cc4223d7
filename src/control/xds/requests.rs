//! What is said to the control plane (contract, 3.2).

use super::{
    client::{Node, Rejection, Types},
    demand::Subscriptions,
    resources::{ResourceType, Resources},
    table::ENTRY,
};
use crate::{
    model::Name,
    proto::discovery::{self, DeltaDiscoveryRequest, Status},
};
use bytes::Bytes;
use prost::Message;
use std::collections::BTreeMap;

/// A request stays below, the node aside: gRPC servers take 4 MiB unless they are told otherwise.
const LONGEST: usize = 4_000_000;
/// What an answer says about resources that were rejected stays below.
const LONGEST_DETAIL: usize = 64 << 10;
const EVERYTHING: &str = "*";

/// Opens a stream: each type with what is known of it, and `demanded` subscribed to again.
///
/// Naming all of a very large mesh with its versions may pass what servers take as one message, and only
/// the first message may do so. The server is then told nothing, and answers with everything, in one
/// response as istiod gives each answer: what that does not list is gone. (To ask for the rest by name
/// would be answered too, but for whoever is subscribed to everything some versions of istiod take what is
/// asked for by name for all that there is.)
pub(super) fn opening(resources: &mut Resources, types: Types, node: &Node, demanded: &[Name]) -> Vec<Bytes> {
    opening_within(resources, types, node, demanded, LONGEST)
}

pub(super) fn opening_within(resources: &mut Resources, types: Types, node: &Node, demanded: &[Name], limit: usize) -> Vec<Bytes> {
    let mut opening = Vec::new();
    for what in types.all() {
        let table = resources.table(what);
        table.begin();
        let first = DeltaDiscoveryRequest { node: Some(node.message()), type_url: what.url().into(), ..Default::default() };
        if what == ResourceType::Address && types.on_demand {
            let (versions, names) = match on_demand_versions(table.versions(limit), demanded, limit) {
                Some(versions) => (versions, demanded.to_vec()),
                // Each name that is subscribed to is answered, with the resource or with its removal.
                None => (BTreeMap::new(), table.names().chain(demanded).cloned().collect()),
            };
            opening.extend(on_demand(first, versions, names, limit));
            continue;
        }
        let versions = table.versions(limit);
        if versions.is_none() {
            table.expect_everything();
        }
        opening.push(encode(&DeltaDiscoveryRequest { initial_resource_versions: versions.unwrap_or_default(), ..first }));
    }
    opening
}

/// What was asked for and is not there has the empty version.
fn on_demand_versions(versions: Option<BTreeMap<String, String>>, demanded: &[Name], limit: usize) -> Option<BTreeMap<String, String>> {
    let mut versions = versions?;
    for name in demanded {
        versions.entry(name.to_string()).or_default();
    }
    let size = |texts: usize| texts + ENTRY;
    let told: usize = versions.iter().map(|(name, version)| size(name.len() + version.len())).sum();
    let subscribed: usize = demanded.iter().map(|name| size(name.len())).sum();
    (told + subscribed < limit).then_some(versions)
}

/// There is no way to subscribe to nothing: everything is subscribed to and unsubscribed from at once.
fn on_demand(
    first: DeltaDiscoveryRequest,
    versions: BTreeMap<String, String>,
    names: Vec<Name>,
    limit: usize,
) -> impl Iterator<Item = Bytes> {
    let mut parts = parts(names, limit);
    let mut subscribe = vec![EVERYTHING.to_owned()];
    subscribe.extend(if parts.is_empty() { Vec::new() } else { parts.remove(0) });
    let first = DeltaDiscoveryRequest {
        resource_names_subscribe: subscribe,
        resource_names_unsubscribe: vec![EVERYTHING.into()],
        initial_resource_versions: versions,
        ..first
    };
    [encode(&first)].into_iter().chain(parts.into_iter().map(|names| encode(&subscribe_to(ResourceType::Address, names))))
}

/// Names, so many together as a request may carry.
fn parts(names: Vec<Name>, limit: usize) -> Vec<Vec<String>> {
    let mut parts = Vec::new();
    let (mut part, mut size) = (Vec::new(), 0);
    for name in names {
        size += name.len() + ENTRY;
        if size >= limit && !part.is_empty() {
            parts.push(std::mem::take(&mut part));
            size = name.len() + ENTRY;
        }
        part.push(name.to_string());
    }
    parts.extend((!part.is_empty()).then_some(part));
    parts
}

fn subscribe_to(what: ResourceType, names: Vec<String>) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest { type_url: what.url().into(), resource_names_subscribe: names, ..Default::default() }
}

/// Changes what is subscribed to.
pub(super) fn subscribe(changes: &Subscriptions) -> Bytes {
    let names = |names: &[Name]| names.iter().map(ToString::to_string).collect();
    encode(&DeltaDiscoveryRequest {
        resource_names_unsubscribe: names(&changes.unsubscribe),
        ..subscribe_to(ResourceType::Address, names(&changes.subscribe))
    })
}

/// Takes a response, but for what was rejected of it.
pub(super) fn answer(type_url: String, nonce: String, rejected: &[Rejection]) -> Bytes {
    let error = (!rejected.is_empty()).then(|| Status { message: detail(rejected, LONGEST_DETAIL), ..Default::default() });
    encode(&DeltaDiscoveryRequest { type_url, response_nonce: nonce, error_detail: error, ..Default::default() })
}

/// What was rejected and why, in no more than `limit` bytes.
pub(super) fn detail(rejected: &[Rejection], limit: usize) -> String {
    let mut detail = String::new();
    for rejection in rejected {
        if detail.len() >= limit {
            break;
        }
        if !detail.is_empty() {
            detail.push_str("; ");
        }
        detail.push_str(&rejection.name);
        detail.push_str(": ");
        detail.push_str(&rejection.reason);
    }
    detail.truncate(detail.floor_char_boundary(limit));
    detail
}

fn encode(request: &DeltaDiscoveryRequest) -> Bytes {
    request.encode_to_vec().into()
}

impl Node {
    fn message(&self) -> discovery::Node {
        discovery::Node { id: self.id.clone(), metadata: Some(self.metadata.clone()), ..Default::default() }
    }
}
