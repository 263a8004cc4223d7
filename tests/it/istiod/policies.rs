//! Policies of the control plane: who is refused when, and what becomes of those that are bad.

use super::*;
use crate::support::{client::get, eventually};
use bytes::Bytes;
use cairn::{model, proto::security, state::Change};
use http_body_util::BodyExt as _;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use prost::Message as _;

/// For the pods of `echo`.
fn rule(action: &str, rules: &str) -> String {
    format!("selector: {{matchLabels: {{app: echo}}}}\naction: {action}\nrules: [{rules}]")
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_denied_is_told_and_the_log_names_the_policy() {
    let mut path = Path::start().await;
    let pod = path.istiod.net.addr(11, 8080);
    path.works().await;
    // The client may not come by itself, only by way of the waypoint.
    let deny = rule("DENY", "{from: [{source: {principals: [cluster.local/ns/app/sa/client]}}]}");
    path.istiod.apply(&(echo() + &policy(NS, "by-the-waypoint", &deny)));
    // The first to fail may be one that was open when the policy came, of which nobody is told.
    eventually("the client is denied", async || path.client.get(pod).await.is_err() && path.client.log().contains("401 Unauthorized"))
        .await;
    path.works().await;
    path.server.logs("explicitly denied by app/by-the-waypoint").await;
    // The waypoint may not either: whoever asks it gets an answer.
    path.istiod.apply(&(echo() + &policy(NS, "by-nobody", &rule("DENY", "{}"))));
    eventually("the waypoint is denied", async || path.get().await == Err("503 Service Unavailable".into())).await;
    path.server.logs("explicitly denied by app/by-nobody").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_open_end_when_a_policy_denies_them() {
    let mut path = Path::start().await;
    let pod = path.istiod.net.addr(11, 8080);
    let io = TokioIo::new(path.client.open(pod).await.unwrap());
    let (mut send, connection) = http1::handshake(io).await.unwrap();
    let connection = tokio::spawn(connection);
    let answer = soon("an answer", send.send_request(get("/"))).await.unwrap();
    assert_eq!(answer.collect().await.unwrap().to_bytes(), "echo-v1");
    // One that lets it be changes nothing.
    let other = rule("DENY", "{to: [{operation: {ports: ['9090']}}]}");
    path.istiod.apply(&(echo() + &policy(NS, "other", &other)));
    eventually("the ztunnel has it", async || path.server.dump().await.contains("\"other\"")).await;
    soon("an answer", send.send_request(get("/"))).await.unwrap().collect().await.unwrap();
    path.istiod.apply(&(echo() + &policy(NS, "closed", &rule("DENY", "{to: [{operation: {ports: ['8080']}}]}"))));
    let _ = soon("the connection ends", connection).await.unwrap();
    assert!(path.client.get(pod).await.is_err());
}

/// A policy for the whole namespace as its bytes.
fn raw(action: i32) -> (model::Name, Option<Bytes>) {
    let scope = security::Scope::Namespace.into();
    let policy = security::Authorization {
        name: "raw".into(),
        namespace: NS.into(),
        scope,
        action,
        rules: vec![security::Rule::default()],
        ..Default::default()
    };
    ("app/raw".into(), Some(policy.encode_to_vec().into()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_policy_closes_its_scope_unless_there_was_a_good_one() {
    const UNHEARD_OF: i32 = 77;
    let path = Path::start().await;
    let (plane, pod) = (&path.istiod.plane, path.istiod.net.addr(11, 8080));
    let put = async |entry| path.istiod.in_force(Kind::Authorization, 2, |istiod| istiod.plane.put(Kind::Authorization, [entry])).await;
    path.works().await;
    put(raw(UNHEARD_OF)).await;
    assert!(path.get().await.is_err() && path.client.get(pod).await.is_err(), "nobody has said what it means");
    let seen = plane.observed();
    assert!(!seen.nacks().is_empty());
    assert!(seen.nacks().iter().all(|reason| reason.starts_with("app/raw: ") && reason.contains("77")), "{:?}", seen.nacks());
    // Taken back, then good, then bad: the good one stays.
    put(("app/raw".into(), None)).await;
    path.works().await;
    put(raw(security::Action::Allow.into())).await;
    path.works().await;
    put(raw(UNHEARD_OF)).await;
    path.works().await;
    put(raw(security::Action::Deny.into())).await;
    assert!(path.get().await.is_err());
    put(raw(UNHEARD_OF)).await;
    assert!(path.get().await.is_err());
    assert_eq!(plane.observed().nacks().len(), 6, "two ztunnels, three times");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_acknowledged_is_in_force() {
    let path = Path::start().await;
    let pod = &*path.istiod.workload("echo-v1");
    // So many others change as well that it takes its time.
    let change = |round: usize, health| {
        let crowd = (0..2000).map(move |n| Workload {
            uid: format!("Kubernetes//Pod/app/crowd-{n}").as_str().into(),
            addresses: Vec::new(),
            health: model::Health::Unhealthy,
            canonical_revision: round.to_string().into(),
            ..pod.clone()
        });
        let changes = crowd.chain([Workload { health, ..pod.clone() }]);
        changes.map(|workload| Change::Upsert(workload.into())).collect::<Vec<_>>()
    };
    path.works().await;
    for round in 0..4 {
        path.istiod.in_force(Kind::Address, 3, |i| i.plane.apply(change(round, model::Health::Unhealthy))).await;
        assert_eq!(path.get().await, Err("503 Service Unavailable".into()));
        path.istiod.in_force(Kind::Address, 3, |i| i.plane.apply(change(round, model::Health::Healthy))).await;
        path.works().await;
    }
}
