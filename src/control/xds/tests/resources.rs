//! What responses change, without a server.

use super::*;

fn resources() -> Resources {
    Resources::new(decode_config(), ALL)
}

/// What a response does to `resources`: changes, and who is rejected.
fn after(resources: &mut Resources, url: &str, listed: Vec<Resource>, removed: &[&str]) -> (Vec<String>, Vec<String>) {
    let batch = read(resources, &response(url, "n", listed, removed));
    (shown(&batch.changes), batch.rejected.into_iter().map(|r| format!("{}: {}", r.name, r.reason)).collect())
}

fn changes(resources: &mut Resources, url: &str, listed: Vec<Resource>, removed: &[&str]) -> Vec<String> {
    let (changes, rejected) = after(resources, url, listed, removed);
    assert_eq!(rejected, [] as [&str; 0]);
    changes
}

#[test]
fn removals_go_by_the_name_that_a_resource_came_under() {
    let mut all = resources();
    let listed = vec![pod("cluster//Pod/shop/a", "1"), service("cart.shop.svc.cluster.local", "1")];
    assert_eq!(changes(&mut all, ADDRESS, listed, &[]), ["+ pod cluster//Pod/shop/a", "+ service shop/cart.shop.svc.cluster.local"]);
    assert_eq!(changes(&mut all, AUTHORIZATION, vec![policy("p", "1", 0)], &[]), ["+ policy shop/p"]);
    assert_eq!(changes(&mut all, ADDRESS, vec![], &["shop/p", "nobody", "network1/10.0.0.9", ""]), [] as [&str; 0]);
    assert_eq!(changes(&mut all, ADDRESS, vec![], &["cluster//Pod/shop/a"]), ["- pod cluster//Pod/shop/a"]);
    assert_eq!(changes(&mut all, ADDRESS, vec![], &["shop/cart.shop.svc.cluster.local"]), ["- service shop/cart.shop.svc.cluster.local"]);
    assert_eq!(changes(&mut all, AUTHORIZATION, vec![], &["shop/p", "shop/p"]), ["- policy shop/p"]);
    assert_eq!(told(&mut all, ResourceType::Address), versions([]));
    assert_eq!(told(&mut all, ResourceType::Authorization), versions([]));
}

#[test]
fn names_may_be_spelt_otherwise_than_the_model_spells_them() {
    let mut all = resources();
    assert_eq!(
        changes(&mut all, ADDRESS, vec![service_as("shop/Cart.Example.", "Cart.Example.", "1")], &[]),
        ["+ service shop/cart.example"]
    );
    assert_eq!(told(&mut all, ResourceType::Address), versions([("shop/Cart.Example.", "1")]), "the server's spelling");
    assert_eq!(changes(&mut all, ADDRESS, vec![service("cart.example", "2")], &[]), ["+ service shop/cart.example"]);
    assert_eq!(changes(&mut all, ADDRESS, vec![], &["shop/Cart.Example."]), [] as [&str; 0], "it lives on by its other name");
    assert_eq!(changes(&mut all, ADDRESS, vec![], &["shop/cart.example"]), ["- service shop/cart.example"]);
    // Without a name, the key is the name.
    assert_eq!(
        changes(&mut all, ADDRESS, vec![service_as("", "b.example", "1"), pod("x", "1")], &[]),
        ["+ pod x", "+ service shop/b.example"]
    );
    assert_eq!(changes(&mut all, ADDRESS, vec![], &["shop/b.example"]), ["- service shop/b.example"]);
}

#[test]
fn one_response_is_one_batch_without_contradictions() {
    let mut all = resources();
    changes(&mut all, ADDRESS, vec![pod("a", "1"), pod("b", "1")], &[]);
    let changed = changes(&mut all, ADDRESS, vec![pod("b", "2"), pod("c", "1")], &["a", "c"]);
    assert_eq!(changed, ["+ pod b", "+ pod c", "- pod a"], "what is listed is there");
    assert_eq!(told(&mut all, ResourceType::Address), versions([("b", "2"), ("c", "1")]));
}

#[test]
fn bad_resources_are_rejected_one_by_one() {
    let mut all = resources();
    let empty = Resource { name: "empty".into(), ..Default::default() };
    let mut foreign = pod("foreign", "1");
    foreign.resource.as_mut().unwrap().type_url = AUTHORIZATION.into();
    let listed = vec![bad_pod("bad", "1"), empty, foreign, pod("good", "1"), pod("good", "2"), service_as("shop/x", "y.example", "1")];
    let (changed, rejected) = after(&mut all, ADDRESS, listed, &[]);
    assert_eq!(changed, ["+ pod good"]);
    assert!(rejected[0].starts_with("bad: ") && rejected[0].contains("addresses"), "{rejected:?}");
    assert_eq!(rejected[1], "empty: there is nothing in it");
    assert_eq!(rejected[2], format!("foreign: it is of type {AUTHORIZATION}"));
    assert_eq!(rejected[3], "good: the response lists it twice");
    assert!(rejected[4].starts_with("shop/x: "), "{rejected:?}");
    assert_eq!(rejected.len(), 5);
    assert_eq!(told(&mut all, ResourceType::Address), versions([("good", "1")]), "the rejected are not named");
    let twice = vec![service_as("shop/A.example", "A.example", "1"), service("a.example", "1")];
    let (changed, rejected) = after(&mut all, ADDRESS, twice, &[]);
    assert_eq!(changed, ["+ service shop/a.example"]);
    assert_eq!(rejected, ["shop/a.example: the response lists it twice, under different names"]);
}

#[test]
fn the_last_good_version_stays_in_force() {
    let mut all = resources();
    changes(&mut all, ADDRESS, vec![pod("a", "1")], &[]);
    let (changed, rejected) = after(&mut all, ADDRESS, vec![bad_pod("a", "2")], &[]);
    assert_eq!((changed.len(), rejected.len()), (0, 1));
    // Told so that a removal in the meantime is heard of; a server that has version 2 sends that again.
    assert_eq!(told(&mut all, ResourceType::Address), versions([("a", "1")]));
    changes(&mut all, AUTHORIZATION, vec![policy("p", "1", 0)], &[]);
    let (changed, rejected) = after(&mut all, AUTHORIZATION, vec![policy("p", "2", UNKNOWN_ACTION)], &[]);
    assert_eq!((changed.len(), rejected.len()), (0, 1));
    assert_eq!(changes(&mut all, AUTHORIZATION, vec![], &["shop/p"]), ["- policy shop/p"]);
}

#[test]
fn a_policy_that_was_never_good_closes_what_it_governs() {
    let mut all = resources();
    let bad = || vec![policy("p", "1", UNKNOWN_ACTION)];
    assert_eq!(after(&mut all, AUTHORIZATION, bad(), &[]).0, ["closes shop/p"]);
    assert_eq!(after(&mut all, AUTHORIZATION, bad(), &[]).0, ["closes shop/p"], "still");
    assert_eq!(told(&mut all, ResourceType::Authorization), versions([("shop/p", "")]), "a removal must be heard of");
    assert_eq!(changes(&mut all, AUTHORIZATION, vec![policy("p", "3", 1)], &[]), ["+ policy shop/p"]);
    assert_eq!(after(&mut all, AUTHORIZATION, bad(), &[]).0, [] as [&str; 0], "a good one is in force");
    assert_eq!(changes(&mut all, AUTHORIZATION, vec![], &["shop/p"]), ["- policy shop/p"]);
    assert_eq!(after(&mut all, AUTHORIZATION, bad(), &[]).0, ["closes shop/p"], "what was removed is no good");
    assert_eq!(changes(&mut all, AUTHORIZATION, vec![], &["shop/p"]), ["- policy shop/p"]);
}

#[test]
fn what_is_no_response_changes_nothing() {
    let mut all = resources();
    changes(&mut all, ADDRESS, vec![pod("a", "1")], &[]);
    assert!(all.read(vec![0xff; 20].into()).is_err());
    assert_eq!(told(&mut all, ResourceType::Address), versions([("a", "1")]));
}
