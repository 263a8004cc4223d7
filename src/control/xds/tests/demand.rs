//! Asking for single resources.

use super::{
    super::demand::{self, Asked, Subscriptions},
    server::{Server, Stream},
    *,
};
use crate::{
    control::xds::Key,
    model::{Hostname, Name, ServiceKey},
};
use futures_util::FutureExt;
use std::pin::pin;

fn pod_key(uid: &str) -> Key {
    Key::Workload(uid.into())
}

fn address_key(address: &str) -> Key {
    Key::Address { network: "network1".into(), address: address.parse().unwrap() }
}

fn names(names: &[&str]) -> Vec<Name> {
    names.iter().map(|&name| name.into()).collect()
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

fn connected() -> (Demand, Asked) {
    let (demand, asked) = demand::new(true);
    asked.connected();
    (demand, asked)
}

fn untold(asked: &Asked) -> Subscriptions {
    asked.changed().now_or_never().unwrap_or_default()
}

fn subscribe(subscribed: &[&str]) -> Subscriptions {
    Subscriptions { subscribe: names(subscribed), ..Subscriptions::default() }
}

fn unsubscribe(given_up: &[&str]) -> Subscriptions {
    Subscriptions { unsubscribe: names(given_up), ..Subscriptions::default() }
}

#[test]
fn keys_are_named_as_resources_are() {
    let service = ServiceKey { namespace: "shop".into(), hostname: Hostname::new("Cart.Example.") };
    let rows = [
        (address_key("10.0.0.1"), "network1/10.0.0.1"),
        (address_key("fd00:0:0::1"), "network1/fd00::1"),
        (address_key("::ffff:10.0.0.1"), "network1/10.0.0.1"),
        (Key::Address { network: "".into(), address: "10.0.0.1".parse().unwrap() }, "/10.0.0.1"),
        (Key::Hostname(service), "shop/cart.example"),
        (pod_key("cluster//Pod/shop/a"), "cluster//Pod/shop/a"),
    ];
    for (key, name) in rows {
        assert_eq!(key.to_string(), name);
    }
}

#[tokio::test(start_paused = true)]
async fn all_who_ask_for_a_key_share_one_subscription() {
    let (demand, asked) = connected();
    let (mut first, mut second) = (pin!(demand.fetch(pod_key("a"))), pin!(demand.fetch(pod_key("a"))));
    assert!(first.as_mut().now_or_never().is_none() && second.as_mut().now_or_never().is_none());
    assert_eq!(untold(&asked), subscribe(&["a"]));
    asked.answered(&owned(&["b"]), true);
    assert!(first.as_mut().now_or_never().is_none(), "that was another one");
    asked.answered(&owned(&["a"]), true);
    first.await;
    second.await;
    demand.fetch(pod_key("a")).now_or_never().expect("answered a moment ago");
    assert_eq!(untold(&asked), Subscriptions::default());
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_has_gone_leaves_the_answer_to_the_next() {
    let (demand, asked) = connected();
    assert!(demand.fetch(pod_key("a")).now_or_never().is_none());
    assert_eq!(untold(&asked), subscribe(&["a"]));
    assert!(demand.fetch(pod_key("a")).now_or_never().is_none(), "not answered yet");
    assert_eq!(untold(&asked), Subscriptions::default(), "and not asked again");
    asked.answered(&owned(&["a"]), false);
    demand.fetch(pod_key("a")).now_or_never().unwrap();
    assert_eq!(asked.all(), names(&["a"]));
}

#[tokio::test(start_paused = true)]
async fn an_old_answer_is_asked_for_again_while_there_is_somebody_to_ask() {
    let (demand, asked) = connected();
    let old = || tokio::time::advance(Duration::from_secs(6));
    assert!(demand.fetch(pod_key("a")).now_or_never().is_none());
    untold(&asked);
    asked.answered(&owned(&["a"]), false);
    old().await;
    let mut again = pin!(demand.fetch(pod_key("a")));
    assert!(again.as_mut().now_or_never().is_none());
    assert_eq!(untold(&asked), unsubscribe(&["a"]), "of a name that it knows the server would say nothing");
    assert_eq!(untold(&asked), subscribe(&["a"]));
    asked.disconnected();
    again.now_or_never().expect("what was known must do");
    old().await;
    demand.fetch(pod_key("a")).now_or_never().expect("nobody to ask");
    let mut new = pin!(demand.fetch(pod_key("b")));
    assert!(new.as_mut().now_or_never().is_none(), "nothing is known of this one");
    asked.connected();
    asked.answered(&owned(&["b"]), true);
    new.now_or_never().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_gone_answers_nothing() {
    let (demand, asked) = connected();
    let mut waiting = pin!(demand.fetch(pod_key("a")));
    assert!(waiting.as_mut().now_or_never().is_none());
    assert!(demand.fetch(pod_key("known")).now_or_never().is_none());
    asked.answered(&owned(&["known"]), true);
    drop(asked);
    assert!(waiting.as_mut().now_or_never().is_none(), "who would go on now might go around a waypoint");
    assert!(demand.fetch(pod_key("b")).now_or_never().is_none());
    demand.fetch(pod_key("known")).now_or_never().expect("what was known must do");
    let (demand, _asked) = demand::new(false);
    assert!(!demand.is_on());
    demand.fetch(pod_key("a")).now_or_never().unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_was_not_found_is_given_up_when_there_is_too_much_of_it() {
    let (demand, asked) = connected();
    for i in 0..16_384 {
        assert!(demand.fetch(pod_key(&i.to_string())).now_or_never().is_none());
    }
    untold(&asked);
    asked.answered(&owned(&["0", "1", "2"]), false);
    asked.answered(&owned(&["3"]), true);
    tokio::time::advance(Duration::from_secs(6)).await;
    asked.answered(&owned(&["4"]), false);
    assert!(demand.fetch(pod_key("y")).now_or_never().is_none());
    assert!(demand.fetch(pod_key("1")).now_or_never().is_none(), "as if never asked for");
    let mut given_up = untold(&asked);
    given_up.unsubscribe.sort();
    assert_eq!(given_up, unsubscribe(&["0", "1", "2"]));
    assert_eq!(untold(&asked), subscribe(&["y", "1"]), "and that only after the name was given up");
    assert_eq!(asked.all().len(), 16_384 - 3 + 2, "neither those that were found nor answers that are new");
}

#[tokio::test(start_paused = true)]
async fn what_nobody_waits_for_is_given_up_while_there_is_nobody_to_ask() {
    let (demand, asked) = demand::new(true);
    let mut waiting = pin!(demand.fetch(pod_key("x")));
    assert!(waiting.as_mut().now_or_never().is_none());
    for i in 0..16_384 {
        assert!(demand.fetch(pod_key(&i.to_string())).now_or_never().is_none());
    }
    assert_eq!(asked.all().into_iter().filter(|name| &**name == "x").count(), 1);
    assert!(asked.all().len() < 100, "{}", asked.all().len());
}

/// A client on demand that has synced, and its stream.
async fn synced() -> (Server, Running, Stream) {
    let mut server = Server::start("localhost").await;
    let mut running = Running::start(config(&server, ON_DEMAND));
    let mut stream = greeted(&mut server, 2).await;
    stream.send(&response(AUTHORIZATION, "n", vec![], &[]));
    running.apply().await;
    stream.request().await;
    (server, running, stream)
}

fn fetch(running: &Running, key: Key) -> tokio::task::JoinHandle<()> {
    let demand = running.demand.clone();
    tokio::spawn(async move { demand.fetch(key).await })
}

#[tokio::test]
async fn a_demand_is_answered_once_the_resource_is_in_force() {
    let (_server, mut running, mut stream) = synced().await;
    let fetched = fetch(&running, address_key("10.0.0.1"));
    let request = stream.request().await;
    assert_eq!((request.type_url.as_str(), request.resource_names_subscribe.as_slice()), (ADDRESS, &["network1/10.0.0.1".to_owned()][..]));
    assert!(request.node.is_none() && request.resource_names_unsubscribe.is_empty() && request.response_nonce.is_empty());
    // Listed under its own name, with the key as another.
    let listed = Resource { aliases: vec!["network1/10.0.0.1".into()], ..pod("a", "1") };
    stream.send(&response(ADDRESS, "n1", vec![listed], &[]));
    let update = running.update().await;
    assert_eq!(shown(&update.changes), ["+ pod a"]);
    assert!(!fetched.is_finished());
    update.applied.send(()).unwrap();
    within(fetched).await.unwrap();
    assert_eq!(stream.request().await.response_nonce, "n1");
}

#[tokio::test]
async fn a_demand_is_answered_by_a_removal_and_not_by_a_rejection() {
    let (_server, mut running, mut stream) = synced().await;
    let absent = fetch(&running, address_key("192.0.2.1"));
    stream.request().await;
    stream.send(&response(ADDRESS, "n1", vec![], &["network1/192.0.2.1"]));
    assert_eq!(running.apply().await.0, [] as [&str; 0]);
    within(absent).await.unwrap();
    stream.request().await;
    let rejected = fetch(&running, pod_key("bad"));
    stream.request().await;
    stream.send(&response(ADDRESS, "n2", vec![bad_pod("bad", "1")], &[]));
    assert_eq!(rejected_names(&running.apply().await.1), ["bad"]);
    assert!(stream.request().await.error_detail.is_some());
    assert!(!rejected.is_finished(), "it is there, but what it is nobody knows: not the same as not there");
    stream.send(&response(ADDRESS, "n2b", vec![pod("bad", "2")], &[]));
    running.apply().await;
    within(rejected).await.unwrap();
    stream.request().await;
    let spelt_otherwise = fetch(&running, Key::Hostname(ServiceKey { namespace: "shop".into(), hostname: Hostname::new("cart.example") }));
    stream.request().await;
    stream.send(&response(ADDRESS, "n3", vec![service_as("shop/Cart.Example", "Cart.Example", "1")], &[]));
    running.apply().await;
    within(spelt_otherwise).await.unwrap();
}

#[tokio::test]
async fn demands_go_out_while_a_response_is_applied_and_while_the_server_is_silent() {
    let mut server = Server::start("localhost").await;
    let mut running = Running::start(config(&server, ON_DEMAND));
    let mut stream = greeted(&mut server, 2).await;
    stream.send(&response(AUTHORIZATION, "n", vec![], &[]));
    let update = running.update().await;
    let fetched = fetch(&running, pod_key("a"));
    assert_eq!(stream.request().await.resource_names_subscribe, ["a"]);
    update.applied.send(()).unwrap();
    assert_eq!(stream.request().await.response_nonce, "n");
    assert!(!fetched.is_finished());
}

#[tokio::test]
async fn demands_survive_the_stream() {
    let (mut server, mut running, mut stream) = synced().await;
    let found = fetch(&running, address_key("10.0.0.1"));
    stream.request().await;
    let listed = Resource { aliases: vec!["network1/10.0.0.1".into()], ..pod("a", "5") };
    stream.send(&response(ADDRESS, "n1", vec![listed], &[]));
    running.apply().await;
    within(found).await.unwrap();
    stream.request().await;
    let waiting = fetch(&running, pod_key("b"));
    stream.request().await;
    stream.end(0, "");
    let mut stream = server.stream().await;
    let mut first = stream.request().await;
    first.resource_names_subscribe.sort();
    assert_eq!(first.resource_names_subscribe, ["*", "b", "network1/10.0.0.1"]);
    assert_eq!(first.resource_names_unsubscribe, ["*"]);
    assert_eq!(first.initial_resource_versions, versions([("a", "5"), ("b", ""), ("network1/10.0.0.1", "")]));
    stream.request().await;
    assert!(!waiting.is_finished());
    stream.send(&response(ADDRESS, "m1", vec![pod("b", "1")], &[]));
    running.apply().await;
    within(waiting).await.unwrap();
    assert_eq!(stream.request().await.response_nonce, "m1", "nothing was asked for twice");
}

#[tokio::test]
async fn a_demand_before_there_is_a_server_waits_for_it() {
    let mut server = Server::start("localhost").await;
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root-cert.pem");
    let mut config = config(&server, ON_DEMAND);
    config.server.roots = grpc::Roots::File(root.clone());
    let mut running = Running::start(config);
    let fetched = fetch(&running, pod_key("a"));
    within(async {
        while running.status.current().error.is_none() {
            running.status.changed().await;
        }
    })
    .await;
    assert!(!fetched.is_finished());
    std::fs::write(root, &server.root_pem).unwrap();
    let mut stream = server.stream().await;
    assert_eq!(stream.request().await.resource_names_subscribe, ["*", "a"]);
    stream.request().await;
    stream.send(&response(ADDRESS, "n1", vec![], &["a"]));
    running.apply().await;
    within(fetched).await.unwrap();
}
