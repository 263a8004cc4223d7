//! Delta ADS, one message at a time.

use super::*;

/// A service `s` with a workload `w`, and a workload `other`.
async fn small() -> ControlPlane {
    let plane = plane().await;
    plane.apply([upsert(service("s", "10.0.0.1")), upsert(workload("w", "10.1.0.1", &["s"])), upsert(workload("other", "10.1.0.2", &[]))]);
    plane
}

const S: &str = "app/s.app.svc.cluster.local";
const W: &str = "Kubernetes//Pod/app/w";
const OTHER: &str = "Kubernetes//Pod/app/other";

#[tokio::test]
async fn everything_comes_first_and_then_what_changes() {
    let plane = small().await;
    let mut client = Client::connect(&plane).await.unwrap();
    let first = client.ask(request(Kind::Address)).await;
    assert_eq!((names(&first), &first.removed_resources[..]), (vec![OTHER, W, S], &[][..]));
    assert_eq!(first.type_url, Kind::Address.url());
    assert!(!first.nonce.is_empty() && first.resources.iter().all(|r| !r.version.is_empty()));
    let w = first.resources.iter().find(|r| r.name == W).unwrap();
    assert_eq!((&w.aliases[..], w.resource.as_ref().unwrap().type_url.as_str()), (&["/10.1.0.1".to_owned()][..], Kind::Address.url()));
    // Nothing of the other type, but an answer.
    let policies = client.ask(request(Kind::Authorization)).await;
    assert_eq!((names(&policies), policies.type_url.as_str()), (vec![], Kind::Authorization.url()));
    plane.apply([upsert(workload("w", "10.1.0.9", &["s"])), Change::Remove(Resource::from(workload("other", "10.1.0.2", &[])).key())]);
    let second = client.next().await.unwrap();
    assert_eq!((names(&second), &second.removed_resources[..]), (vec![W], &[OTHER.to_owned()][..]), "one change-set, one response");
    assert!(second.nonce != first.nonce && second.resources[0].version != w.version);
}

#[tokio::test]
async fn a_client_that_comes_back_gets_what_is_new() {
    let plane = small().await;
    let mut client = Client::connect(&plane).await.unwrap();
    let first = client.ask(request(Kind::Address)).await;
    let mut versions: BTreeMap<String, String> = first.resources.iter().map(|r| (r.name.clone(), r.version.clone())).collect();
    drop(client);
    plane.apply([upsert(workload("w", "10.1.0.9", &["s"]))]);
    versions.insert("gone".into(), "1".into());
    let mut client = Client::connect(&plane).await.unwrap();
    let back = client.ask(DeltaDiscoveryRequest { initial_resource_versions: versions.clone(), ..request(Kind::Address) }).await;
    assert_eq!((names(&back), &back.removed_resources[..]), (vec![W], &["gone".to_owned()][..]));
    let seen = plane.wait_for(|o| o.open_streams == 1 && o.streams == 2).await;
    assert_eq!(seen.requests.last().unwrap().initial_versions, versions);
}

#[tokio::test]
async fn on_demand_gives_what_is_asked_for() {
    let plane = small().await;
    let mut client = Client::connect(&plane).await.unwrap();
    let mut begin = subscribe(&["*"]);
    begin.resource_names_unsubscribe = vec!["*".into()];
    assert_eq!(names(&client.ask(begin).await), Vec::<&str>::new());
    for (what, key, want, unknown) in [
        ("by address", "/10.1.0.2", vec![OTHER], vec![]),
        ("nothing is there", "/10.9.9.9", vec![], vec!["/10.9.9.9"]),
        ("a service, with its workloads", S, vec![W, S], vec![]),
        ("by virtual address", "/10.0.0.1", vec![W, S], vec![]),
        ("by uid, although it is known", W, vec![W], vec![]),
    ] {
        let answer = client.ask(subscribe(&[key])).await;
        assert_eq!(
            (names(&answer), &answer.removed_resources[..]),
            (want, &unknown.into_iter().map(String::from).collect::<Vec<_>>()[..]),
            "{what}"
        );
    }
    // What nobody asked for is not pushed; what did not exist when it was asked for, is.
    plane.apply([upsert(workload("new", "10.1.0.3", &[]))]);
    plane.apply([upsert(workload("late", "10.9.9.9", &[]))]);
    assert_eq!(names(&client.next().await.unwrap()), vec!["Kubernetes//Pod/app/late"]);
    plane.apply([upsert(workload("second", "10.1.0.4", &["s"]))]);
    assert_eq!(names(&client.next().await.unwrap()), vec!["Kubernetes//Pod/app/second"], "a further workload of a known service");
    client.say(DeltaDiscoveryRequest { resource_names_unsubscribe: vec![OTHER.into()], ..request(Kind::Address) });
    let seen = plane.wait_for(|o| o.requests.last().is_some_and(|r| !r.unsubscribe.is_empty())).await;
    assert_eq!(seen.requests.last().unwrap().unsubscribe, [OTHER]);
}

#[tokio::test]
async fn what_clients_say_is_noted() {
    let plane = small().await;
    let mut client = Client::connect(&plane).await.unwrap();
    let text = |text: &str| prost_types::Value { kind: Some(prost_types::value::Kind::StringValue(text.into())) };
    let metadata = prost_types::Struct { fields: [("NODE_NAME".to_owned(), text("n1"))].into() };
    let node = Node { id: "ztunnel~1".into(), metadata: Some(metadata), ..Node::default() };
    let first = client.ask(DeltaDiscoveryRequest { node: Some(node), ..request(Kind::Address) }).await;
    client.say(DeltaDiscoveryRequest { response_nonce: first.nonce.clone(), ..request(Kind::Address) });
    let error = RpcStatus { message: "bad".into(), ..RpcStatus::default() };
    client.say(DeltaDiscoveryRequest { response_nonce: first.nonce.clone(), error_detail: Some(error), ..request(Kind::Address) });
    let seen = soon(plane.wait_for(|o| o.requests.len() == 3)).await;
    assert_eq!((seen.requests[0].node.as_str(), seen.requests[0].metadata["NODE_NAME"].as_str()), ("ztunnel~1", "n1"));
    assert_eq!(seen.requests[0].headers["clusterid"], "Kubernetes");
    assert_eq!((seen.acks(Kind::Address), seen.nacks(), seen.requests[1].nonce.as_str()), (1, vec!["bad"], first.nonce.as_str()));
    assert!(!format!("{seen:?}").contains(TOKEN));
}

#[tokio::test]
async fn only_good_tokens_get_in() {
    let plane = plane().await;
    let channel = channel(&plane).await;
    for token in ["", "wrong", "open sesame "] {
        let refused = Client::over(channel.clone(), token).await.err().map(|status| status.code());
        assert_eq!(refused, Some(Code::Unauthenticated), "{token:?}");
    }
    plane.set_tokens(vec![Token { text: "new".into(), may_impersonate: false }]);
    assert!(Client::over(channel.clone(), TOKEN).await.is_err());
    Client::over(channel, "new").await.unwrap();
    assert_eq!(plane.observed().refused, 4);
}

#[tokio::test]
async fn any_bytes_can_be_served() {
    let plane = small().await;
    let mut client = Client::connect(&plane).await.unwrap();
    client.ask(request(Kind::Address)).await;
    assert_eq!(plane.put(Kind::Address, [("bad".into(), Some(Bytes::from_static(b"\xff")))]), 1);
    let pushed = client.next().await.unwrap();
    assert_eq!((names(&pushed), &pushed.resources[0].resource.as_ref().unwrap().value[..]), (vec!["bad"], &b"\xff"[..]));
    assert_eq!(plane.put(Kind::Address, [("bad".into(), None)]), 1);
    assert_eq!(client.next().await.unwrap().removed_resources, ["bad"]);
    let raw = DeltaDiscoveryResponse { type_url: "unknown".into(), ..DeltaDiscoveryResponse::default() };
    plane.say(&raw);
    assert_eq!(client.next().await.unwrap().type_url, "unknown");
}
