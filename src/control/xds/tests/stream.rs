//! One stream and the next, against a server that is scripted.

use super::{
    server::{Server, Stream, framed},
    *,
};
use crate::{
    control::xds::{Connection, Key},
    proto::discovery::DeltaDiscoveryRequest,
};
use grpc::{Credentials, Roots, Token};
use tokio::time::Instant;

type Break = fn(Stream);

async fn started(types: Types) -> (Server, Running) {
    let server = Server::start("localhost").await;
    let running = Running::start(config(&server, types));
    (server, running)
}

/// Sends a response, has it applied, and reads what the client says to it.
async fn exchange(running: &mut Running, stream: &mut Stream, response: &DeltaDiscoveryResponse) -> DeltaDiscoveryRequest {
    stream.send(response);
    running.apply().await;
    stream.request().await
}

fn ack(url: &str, nonce: &str) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest { type_url: url.into(), response_nonce: nonce.into(), ..Default::default() }
}

async fn until(mut status: Status, wanted: impl Fn(&Connection) -> bool) -> Connection {
    within(async {
        loop {
            let now = status.current();
            if wanted(&now) {
                return now;
            }
            status.changed().await;
        }
    })
    .await
}

#[tokio::test]
async fn a_cold_start_asks_for_each_type_once_and_in_order() {
    let (mut server, mut running) = started(ALL).await;
    assert!(!running.demand.is_on());
    let mut stream = server.stream().await;
    for url in [ADDRESS, AUTHORIZATION] {
        let first = stream.request().await;
        let node = first.node.clone().expect("the first request of a type names the node");
        assert_eq!(node.id, "ztunnel~10.0.0.1~ztunnel-abc.istio-system~istio-system.svc.cluster.local");
        assert_eq!(node.metadata.unwrap().fields["NAME"], prost_types::Value::from("ztunnel-abc"));
        let rest = DeltaDiscoveryRequest { node: None, ..first };
        assert_eq!(rest, DeltaDiscoveryRequest { type_url: url.into(), ..Default::default() }, "everything: an empty list");
    }
    assert_eq!(exchange(&mut running, &mut stream, &response(ADDRESS, "n1", vec![pod("a", "1")], &[])).await, ack(ADDRESS, "n1"));
    let now = until(running.status.clone(), |now| now.connected).await;
    assert!(!now.synced && now.error.is_none(), "policies are still awaited: {now:?}");
    let policies = response(AUTHORIZATION, "n2", vec![policy("p", "1", 0)], &[]);
    assert_eq!(exchange(&mut running, &mut stream, &policies).await, ack(AUTHORIZATION, "n2"));
    within(running.status.synced()).await;
    assert_eq!(exchange(&mut running, &mut stream, &response(ADDRESS, "n3", vec![], &["a"])).await, ack(ADDRESS, "n3"));
    // Everything is told: nobody need ask.
    within(running.demand.fetch(Key::Workload("x".into()))).await;
    assert!(!stream.has_request());
}

#[tokio::test]
async fn policies_are_asked_for_only_where_they_matter() {
    let (mut server, mut running) = started(Types::default()).await;
    let mut stream = server.stream().await;
    assert_eq!(stream.request().await.type_url, ADDRESS);
    exchange(&mut running, &mut stream, &response(ADDRESS, "n1", vec![], &[])).await;
    within(running.status.synced()).await;
    assert!(!stream.has_request());
}

#[tokio::test]
async fn on_demand_nothing_is_subscribed_to_at_first() {
    let (mut server, mut running) = started(ON_DEMAND).await;
    let mut stream = server.stream().await;
    let addresses = stream.request().await;
    assert_eq!((addresses.type_url.as_str(), addresses.node.is_some()), (ADDRESS, true));
    assert_eq!(addresses.resource_names_subscribe, ["*"]);
    assert_eq!(addresses.resource_names_unsubscribe, ["*"]);
    let policies = stream.request().await;
    assert_eq!((policies.type_url.as_str(), policies.resource_names_subscribe.len()), (AUTHORIZATION, 0));
    exchange(&mut running, &mut stream, &response(AUTHORIZATION, "n1", vec![], &[])).await;
    within(running.status.synced()).await;
}

#[tokio::test]
async fn an_answer_goes_out_once_the_whole_response_is_in_force() {
    let (mut server, mut running) = started(ALL).await;
    let mut stream = greeted(&mut server, 2).await;
    stream.send(&response(ADDRESS, "n1", vec![pod("a", "1"), service("cart.example", "1")], &["b"]));
    stream.send(&response(ADDRESS, "n2", vec![], &["a"]));
    let first = running.update().await;
    assert_eq!(shown(&first.changes), ["+ pod a", "+ service shop/cart.example"], "one response, one update");
    assert!(running.updates.try_recv().is_err(), "the next waits for this one");
    assert!(!stream.has_request(), "not applied yet");
    first.applied.send(()).unwrap();
    assert_eq!(stream.request().await, ack(ADDRESS, "n1"));
    assert_eq!(running.apply().await.0, ["- pod a"]);
    assert_eq!(stream.request().await, ack(ADDRESS, "n2"));
}

#[tokio::test]
async fn what_is_bad_is_told_and_what_is_good_is_applied() {
    let (mut server, mut running) = started(ALL).await;
    let mut stream = greeted(&mut server, 2).await;
    stream.send(&response(ADDRESS, "n1", vec![bad_pod("b", "1"), pod("a", "1"), bad_pod("c", "1")], &[]));
    let (changes, rejected) = running.apply().await;
    assert_eq!(changes, ["+ pod a"]);
    assert_eq!(rejected_names(&rejected), ["b", "c"]);
    let nack = stream.request().await;
    let error = nack.error_detail.clone().unwrap();
    assert_eq!(error.message, format!("b: {}; c: {}", rejected[0].reason, rejected[1].reason));
    assert_eq!((error.code, error.details.len()), (0, 0));
    assert_eq!(DeltaDiscoveryRequest { error_detail: None, ..nack }, ack(ADDRESS, "n1"));
    stream.send(&response(AUTHORIZATION, "n2", vec![policy("p", "1", UNKNOWN_ACTION)], &[]));
    assert_eq!(running.apply().await.0, ["closes shop/p"]);
    assert!(stream.request().await.error_detail.unwrap().message.starts_with("shop/p: "));
    assert!(!running.status.current().synced, "what was rejected was not acknowledged");
    for (url, nonce) in [(ADDRESS, "n3"), (AUTHORIZATION, "n4")] {
        exchange(&mut running, &mut stream, &response(url, nonce, vec![], &[])).await;
    }
    within(running.status.synced()).await;
}

#[tokio::test]
async fn a_type_that_nobody_asked_for_is_acknowledged() {
    let (mut server, mut running) = started(ALL).await;
    let mut stream = greeted(&mut server, 2).await;
    let url = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
    stream.send(&response(url, "n1", vec![pod("a", "1")], &[]));
    assert_eq!(stream.request().await, ack(url, "n1"));
    exchange(&mut running, &mut stream, &response(ADDRESS, "n2", vec![pod("b", "1")], &[])).await;
}

#[tokio::test]
async fn a_new_stream_tells_what_is_in_force() {
    let (mut server, mut running) = started(ALL).await;
    let mut stream = greeted(&mut server, 2).await;
    let listed = vec![pod("a", "1"), pod("b", "1"), bad_pod("c", "1"), service("cart.example", "7")];
    exchange(&mut running, &mut stream, &response(ADDRESS, "n1", listed, &[])).await;
    exchange(&mut running, &mut stream, &response(ADDRESS, "n2", vec![pod("a", "2")], &["b"])).await;
    exchange(&mut running, &mut stream, &response(AUTHORIZATION, "n3", vec![policy("p", "3", 0)], &[])).await;
    within(running.status.synced()).await;
    stream.end(0, "");
    let mut stream = server.stream().await;
    let first = stream.request().await;
    assert_eq!(first.initial_resource_versions, versions([("a", "2"), ("shop/cart.example", "7")]));
    assert!(first.node.is_some() && first.resource_names_subscribe.is_empty());
    assert_eq!(stream.request().await.initial_resource_versions, versions([("shop/p", "3")]));
    assert!(running.status.current().synced, "for good");
    stream.send(&response(ADDRESS, "m1", vec![], &["a"]));
    assert_eq!(running.apply().await.0, ["- pod a"], "what a name stands for is known on later streams");
}

#[tokio::test]
async fn a_stream_that_breaks_is_followed_by_another() {
    let (mut server, mut running) = started(ALL).await;
    let whole = framed(&response(ADDRESS, "n", vec![pod("a", "1")], &[]).encode_to_vec());
    let breaks: [(&str, Break); 4] = [
        ("PermissionDenied", |stream| stream.end(7, "go away")),
        ("received prior goaway", |stream| stream.end(14, "received prior goaway")),
        ("", drop),
        ("", Stream::cut),
    ];
    for (told, end) in breaks {
        let stream = greeted(&mut server, 2).await;
        until(running.status.clone(), |now| now.connected).await;
        // In the middle of a message: nothing of it counts.
        stream.bytes(whole.slice(..whole.len() - 3));
        end(stream);
        let now = until(running.status.clone(), |now| !now.connected).await;
        assert!(now.error.as_ref().is_some_and(|error| error.contains(told)), "{now:?}");
        assert!(running.updates.try_recv().is_err());
    }
    let mut stream = greeted(&mut server, 2).await;
    exchange(&mut running, &mut stream, &response(ADDRESS, "n", vec![pod("a", "1")], &[])).await;
    stream.bytes(framed(&[0xff; 20]));
    let now = until(running.status.clone(), |now| !now.connected).await;
    assert!(now.error.unwrap().contains("no response"));
    assert_eq!(server.stream().await.request().await.initial_resource_versions, versions([("a", "1")]));
}

#[tokio::test]
async fn messages_may_come_in_small_pieces() {
    let (mut server, mut running) = started(ALL).await;
    let mut stream = greeted(&mut server, 2).await;
    for byte in framed(&response(ADDRESS, "n", vec![pod("a", "1")], &[]).encode_to_vec()) {
        stream.bytes(vec![byte].into());
        tokio::task::yield_now().await;
    }
    assert_eq!(running.apply().await.0, ["+ pod a"]);
    assert_eq!(stream.request().await, ack(ADDRESS, "n"));
}

#[tokio::test]
async fn large_messages_are_read_where_no_traffic_is_carried() {
    let (mut server, mut running) = started(ALL).await;
    let mut stream = greeted(&mut server, 2).await;
    let padding: String = "x".repeat(1 << 20);
    let listed: Vec<Resource> = (0..60).map(|i| pod(&format!("{padding}{i}"), "1")).collect();
    let large = response(ADDRESS, "n", listed, &[]);
    assert!(large.encoded_len() > 60 << 20);
    assert_eq!(exchange(&mut running, &mut stream, &large).await, ack(ADDRESS, "n"));
    // This test's runtime has one thread, this one.
    let read_on = running.resources.lock().unwrap().read_on.unwrap();
    assert_ne!(read_on, std::thread::current().id());
    // Naming all of them passes what a server takes: they are not named on the next stream, and what its
    // first answer does not list is gone.
    stream.end(0, "");
    let mut stream = server.stream().await;
    let first = stream.request().await;
    assert!(first.initial_resource_versions.is_empty() && first.resource_names_subscribe.is_empty());
    stream.request().await;
    let still_there = (0..57).map(|i| pod(&format!("{padding}{i}"), "1")).collect();
    stream.send(&response(ADDRESS, "m1", still_there, &[]));
    assert_eq!(running.apply().await.0.len(), 60, "57 as they were, and three that go");
    assert_eq!(stream.request().await, ack(ADDRESS, "m1"));
}

#[tokio::test]
async fn the_token_is_read_for_each_stream() {
    let mut server = Server::start("localhost").await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("istio-token");
    let mut config = config(&server, ALL);
    config.server.credentials = Credentials {
        token: Some(Token::File(path.clone())),
        cluster: "Kubernetes".into(),
        headers: vec![(http::HeaderName::from_static("x-own"), http::HeaderValue::from_static("1"))],
    };
    let running = Running::start(config);
    let now = until(running.status.clone(), |now| now.error.is_some()).await;
    assert!(!now.connected && now.error.unwrap().contains("istio-token"), "the file is named");
    assert!(!server.has_stream());
    for token in ["first", "second"] {
        std::fs::write(&path, format!("{token}\n")).unwrap();
        let stream = server.stream().await;
        assert_eq!(stream.headers["authorization"], format!("Bearer {token}"));
        assert_eq!((&stream.headers["clusterid"], &stream.headers["x-own"]), (&"Kubernetes".parse().unwrap(), &"1".parse().unwrap()));
        std::fs::write(&path, "second").unwrap();
        stream.end(16, "expired");
    }
}

#[tokio::test]
async fn the_server_must_be_the_one_that_is_meant() {
    let mut server = Server::start("istiod.istio-system.svc").await;
    let other = Server::start("istiod.istio-system.svc").await;
    let wrong_name = config(&server, ALL);
    let mut right = wrong_name.clone();
    right.server.alternative_name = Some("istiod.istio-system.svc".try_into().unwrap());
    let mut wrong_root = right.clone();
    wrong_root.server.roots = Roots::Pem(other.root_pem.clone());
    for config in [wrong_name, wrong_root] {
        let running = Running::start(config);
        let now = until(running.status.clone(), |now| now.error.is_some()).await;
        assert!(now.error.unwrap().contains("certificate"));
    }
    assert!(!server.has_stream());
    let mut running = Running::start(right);
    let mut stream = greeted(&mut server, 2).await;
    exchange(&mut running, &mut stream, &response(ADDRESS, "n", vec![], &[])).await;
}

#[tokio::test]
async fn a_root_that_was_replaced_is_taken_up_with_the_next_stream() {
    let mut server = Server::start("localhost").await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("root-cert.pem");
    std::fs::write(&path, Server::start("localhost").await.root_pem.clone()).unwrap();
    let mut config = config(&server, ALL);
    config.server.roots = Roots::File(path.clone());
    let running = Running::start(config);
    until(running.status.clone(), |now| now.error.is_some()).await;
    std::fs::write(&path, &server.root_pem).unwrap();
    let _stream = greeted(&mut server, 2).await;
    until(running.status.clone(), |now| now.connected).await;
}

#[tokio::test]
async fn streams_without_a_word_do_not_become_a_hot_loop() {
    let (mut server, running) = started(ALL).await;
    let begun = Instant::now();
    for _ in 0..6 {
        server.stream().await.end(0, "");
    }
    // 10 + 20 + 40 + 80 + 160 ms, less a fifth.
    assert!(begun.elapsed() >= Duration::from_millis(248), "{:?}", begun.elapsed());
    assert!(!running.status.current().synced);
}

#[tokio::test]
async fn the_client_ends_when_the_drain_is_forced_and_not_before() {
    let (mut server, mut running) = started(ALL).await;
    let mut stream = greeted(&mut server, 2).await;
    running.drain.start();
    exchange(&mut running, &mut stream, &response(ADDRESS, "n", vec![pod("a", "1")], &[])).await;
    assert!(!running.task.is_finished());
    running.drain.force();
    within(running.task).await.unwrap();
}

#[tokio::test]
async fn the_client_ends_when_nobody_takes_updates() {
    for takes_one in [false, true] {
        let (mut server, mut running) = started(ALL).await;
        let stream = greeted(&mut server, 2).await;
        if !takes_one {
            running.updates.close();
        }
        stream.send(&response(ADDRESS, "n", vec![pod("a", "1")], &[]));
        if takes_one {
            drop(running.update().await.applied);
        }
        within(running.task).await.unwrap();
    }
}
