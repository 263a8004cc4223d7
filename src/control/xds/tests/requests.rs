//! What is said when much is to be said.

use super::{
    super::requests::{self, detail},
    *,
};
use crate::{
    model::{Name, ResourceKey},
    proto::discovery::DeltaDiscoveryRequest,
};

const NODE: Node = Node { id: String::new(), metadata: prost_types::Struct { fields: BTreeMap::new() } };

fn full(types: Types) -> Resources {
    let mut all = Resources::new(decode_config(), types);
    read(&mut all, &response(ADDRESS, "n", (0..10).map(|i| pod(&format!("pod-{i}"), "1")).collect(), &[]));
    all
}

fn opened(all: &mut Resources, types: Types, demanded: &[&str], limit: usize) -> Vec<DeltaDiscoveryRequest> {
    let demanded: Vec<Name> = demanded.iter().map(|&name| name.into()).collect();
    let requests = requests::opening_within(all, types, &NODE, &demanded, limit);
    requests.into_iter().map(|request| DeltaDiscoveryRequest::decode(request).unwrap()).collect()
}

fn sorted(mut names: Vec<String>) -> Vec<String> {
    names.sort();
    names
}

#[test]
fn what_is_in_force_is_told_as_long_as_it_fits() {
    let mut all = full(ALL);
    let size = 10 * ("pod-0".len() + "1".len() + 10);
    let requests = opened(&mut all, ALL, &[], size + 1);
    assert_eq!(requests[0].initial_resource_versions.len(), 10);
    let entries = DeltaDiscoveryRequest { initial_resource_versions: requests[0].initial_resource_versions.clone(), ..Default::default() };
    assert!(entries.encoded_len() < size, "the estimate is not below the truth");
    let requests = opened(&mut all, ALL, &[], size);
    assert_eq!(requests[0].initial_resource_versions.len(), 0);
    assert_eq!(requests.len(), 2, "policies, of which there are none, are another matter");
}

#[test]
fn an_answer_to_whoever_said_nothing_is_everything() {
    let mut all = full(ALL);
    opened(&mut all, ALL, &[], 1);
    // Listed, although not taken, and removed: both are told of.
    let listed = (0..6).map(|i| pod(&format!("pod-{i}"), "2")).chain([bad_pod("pod-6", "2")]).collect();
    let batch = read(&mut all, &response(ADDRESS, "n", listed, &["pod-7"]));
    let removed = batch.changes.iter().filter_map(|change| match change {
        Change::Remove(ResourceKey::Workload(uid)) => Some(uid.to_string()),
        Change::Remove(_) | Change::Upsert(_) => None,
    });
    assert_eq!(sorted(removed.collect()), ["pod-7", "pod-8", "pod-9"]);
    let batch = read(&mut all, &response(ADDRESS, "n", vec![pod("pod-0", "3")], &[]));
    assert_eq!(batch.changes.len(), 1, "the next one is a change again");
    opened(&mut all, ALL, &[], 4096);
    let batch = read(&mut all, &response(ADDRESS, "n", vec![], &[]));
    assert_eq!(batch.changes, [], "who was told what we have says what is other");
}

#[test]
fn what_was_not_subscribed_to_is_none_of_ours() {
    let mut all = Resources::new(decode_config(), Types { authorization: false, on_demand: false });
    let response = response(AUTHORIZATION, "n", vec![], &["shop/rules"]);
    assert_eq!(all.read(response.encode_to_vec().into()).unwrap().what, None);
}

#[test]
fn on_demand_names_go_out_in_parts_when_they_do_not_fit() {
    let mut all = full(ON_DEMAND);
    let requests = opened(&mut all, ON_DEMAND, &["x", "y"], 4096);
    assert_eq!(requests.len(), 2);
    assert_eq!(requests[0].resource_names_subscribe, ["*", "x", "y"]);
    assert_eq!(requests[0].initial_resource_versions.len(), 12);
    let requests = opened(&mut all, ON_DEMAND, &["x", "y"], 50);
    let (first, rest) = requests.split_first().unwrap();
    assert!(first.node.is_some() && first.initial_resource_versions.is_empty());
    assert_eq!(first.resource_names_subscribe[0], "*");
    assert_eq!(first.resource_names_unsubscribe, ["*"]);
    let mut names = first.resource_names_subscribe[1..].to_vec();
    let (policies, parts) = rest.split_last().unwrap();
    assert_eq!(policies.type_url, AUTHORIZATION);
    assert!(parts.len() > 1);
    for part in parts {
        assert!(part.node.is_none() && part.encoded_len() < 200);
        names.extend(part.resource_names_subscribe.clone());
    }
    let wanted: Vec<String> = (0..10).map(|i| format!("pod-{i}")).chain(["x".into(), "y".into()]).collect();
    assert_eq!(sorted(names), wanted);
}

#[test]
fn reasons_are_cut_between_characters() {
    let rejection = |name: &str, reason: &str| Rejection { name: name.into(), reason: reason.into() };
    let rejected = [rejection("a", "bad"), rejection("b", "schön"), rejection("c", "worse")];
    assert_eq!(detail(&rejected, 100), "a: bad; b: schön; c: worse");
    let within = [(0, ""), (6, "a: bad"), (7, "a: bad;"), (14, "a: bad; b: sch"), (15, "a: bad; b: sch"), (16, "a: bad; b: schö")];
    for (limit, text) in within {
        assert_eq!(detail(&rejected, limit), text, "{limit}");
    }
    assert_eq!(detail(&[], 100), "");
}
