//! While traffic flows: pods come and go, the CNI and the ztunnel are restarted, policy changes.

use super::*;
use crate::support::{
    apps::{End, Load, end, exchange},
    eventually, soon,
    world::{Pod, Spec},
};
use std::time::Duration;
use tokio::net::TcpStream;

async fn hold(from: &Pod, to: SocketAddr) -> TcpStream {
    let mut stream = from.connect(to).await.unwrap();
    exchange(&mut stream, b"first").await.unwrap();
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_come_and_go_without_a_trace_on_others() {
    let Some(mut world) = World::new() else { return };
    let client = world.pod(Spec::captured("client", 1));
    let server = world.pod(Spec::captured("server", 2));
    let gone = world.pod(Spec::captured("gone", 2));
    let new = world.pod(Spec::captured("new", 2).later());
    let (_server_app, gone_app, _new_app) = (Apps::start(&server), Apps::start(&gone), Apps::start(&new));
    let [_near, far] = world.start("services: []\npolicies: []\n").await;
    let load = Load::start(&client, server.at(ECHO), 4);
    let mut kept = hold(&client, server.at(ECHO)).await;
    load.more(20).await;

    // Nothing listens in the new pod before its node's ztunnel has heard of it.
    tokio::task::block_in_place(|| world.cni(2).add(&new)).unwrap();
    echo(client.connect(new.at(ECHO)).await.unwrap(), &pattern(1000)).await.expect("it is served as soon as it is acknowledged");
    echo(new.connect(server.at(ECHO)).await.unwrap(), &pattern(1000)).await.expect("and its own traffic is carried");
    tokio::task::block_in_place(|| world.cni(2).add(&new)).expect("the same pod in the same namespace is no news");
    load.more(20).await;

    // What is open at a pod that is removed ends at once, both ways.
    let (mut to_it, mut from_it) = (hold(&client, gone.at(ECHO)).await, hold(&gone, server.at(ECHO)).await);
    let begun = tokio::time::Instant::now();
    tokio::task::block_in_place(|| world.cni(2).del(&gone.uid())).unwrap();
    assert!(matches!(end(&mut to_it).await, End::Closed(0) | End::Failed(_)));
    assert!(matches!(end(&mut from_it).await, End::Closed(0) | End::Failed(_)));
    eventually("the application hears of it", async || !gone_app.ends(ECHO).is_empty()).await;
    assert!(begun.elapsed() < Duration::from_secs(5), "at once, not after a grace: {:?}", begun.elapsed());
    eventually("it is not served any more", async || client_is_refused(&client, gone.at(ECHO)).await).await;
    tokio::task::block_in_place(|| world.cni(2).del("uid-never-seen")).expect("a pod that is not known is gone already");
    load.more(20).await;

    // And again, under the same name in the same namespace.
    tokio::task::block_in_place(|| world.cni(2).add(&gone)).unwrap();
    echo(client.connect(gone.at(ECHO)).await.unwrap(), &pattern(1000)).await.unwrap();

    let metrics = far.metrics().await;
    let values = ["active_proxy_count", "pending_proxy_count", "proxies_started_total", "proxies_stopped_total"];
    let values = values.map(|name| metrics.sum(&format!("workload_manager_{name}"), &[]));
    assert_eq!(values, [3.0, 0.0, 4.0, 1.0]);
    let dump = far.config_dump().await;
    let body: serde_json::Value = serde_json::from_str(dump.split_once("\r\n\r\n").expect("an answer").1).unwrap();
    let state = |pod: &Pod| body["workloadState"][pod.uid()]["state"].as_str().map(ToOwned::to_owned);
    assert_eq!([&server, &gone, &new].map(state), [(); 3].map(|()| Some("Up".to_owned())), "{}", body["workloadState"]);
    exchange(&mut kept, b"still there").await.expect("a connection of another pod");
    assert_eq!(load.stop().await, [""; 0], "connections of other pods");
}

async fn client_is_refused(client: &Pod, to: SocketAddr) -> bool {
    let Ok(mut stream) = client.connect(to).await else { return true };
    exchange(&mut stream, b"?").await.is_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_the_cni_is_not_noticed() {
    let Some(mut world) = World::new() else { return };
    let client = world.pod(Spec::captured("client", 1));
    let server = world.pod(Spec::captured("server", 2));
    let gone = world.pod(Spec::captured("gone", 2));
    let (_app, _other) = (Apps::start(&server), Apps::start(&gone));
    let [_near, far] = world.start("services: []\npolicies: []\n").await;
    let load = Load::start(&client, server.at(ECHO), 2);
    let (mut kept, mut lost) = (hold(&client, server.at(ECHO)).await, hold(&client, gone.at(ECHO)).await);
    // It comes back and has lost the namespaces; one pod was removed meanwhile.
    let snapshots = world.cni(2).snapshots();
    world.cni(2).forget(&gone.uid());
    world.cni(2).restart(true);
    eventually("a new snapshot", async || world.cni(2).snapshots() > snapshots).await;
    assert!(matches!(end(&mut lost).await, End::Closed(0) | End::Failed(_)), "a pod that the snapshot does not name is stopped");
    // And once more, with the namespace: it is the same pod.
    world.cni(2).list(&server);
    world.cni(2).restart(false);
    eventually("a new snapshot", async || world.cni(2).snapshots() > snapshots + 1).await;
    far.ready().await;
    load.more(20).await;
    exchange(&mut kept, b"still there").await.expect("a connection over both restarts");
    assert_eq!(load.stop().await, [""; 0]);
    assert_eq!(world.cni(2).complaints(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_cannot_be_served_is_tried_again() {
    let Some(mut world) = World::new() else { return };
    let client = world.pod(Spec::captured("client", 1));
    let server = world.pod(Spec::captured("server", 2).later());
    let _app = Apps::start(&server);
    let [_near, far] = world.start("services: []\npolicies: []\n").await;
    let taken = server.netns.enter(|| std::net::TcpListener::bind("[::]:15008")).unwrap();
    let refusal = tokio::task::block_in_place(|| world.cni(2).add(&server)).expect_err("the port is taken");
    assert!(refusal.starts_with("refused: ") && refusal.len() > 10, "{refusal}");
    assert!(!far.is_ready().await, "not ready while a pod of the node is not served");
    assert_eq!(far.metrics().await.sum("workload_manager_pending_proxy_count", &[]), 1.0);
    drop(taken);
    far.ready().await;
    assert_eq!(far.metrics().await.sum("workload_manager_pending_proxy_count", &[]), 0.0);
    echo(client.connect(server.at(ECHO)).await.unwrap(), &pattern(1000)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ztunnel_is_replaced_under_load() {
    let Some(mut world) = World::new() else { return };
    let client = world.pod(Spec::captured("client", 1));
    let server = world.pod(Spec::captured("server", 2));
    let outside = world.pod(Spec::plain("outside", 2));
    let (_app, _other) = (Apps::start(&server), Apps::start(&outside));
    let [near, far] = world.start("services: []\npolicies: []\n").await;
    let loads = [Load::start(&client, server.at(ECHO), 3), Load::start(&outside, server.at(ECHO), 1)];
    let mut running = Vec::new();
    for (what, node, mut old) in [("the server's", 2, far), ("the client's", 1, near)] {
        let mut held = [hold(&client, server.at(ECHO)).await, hold(&client, outside.at(ECHO)).await, hold(&outside, server.at(ECHO)).await];
        let new = world.proxy(node);
        new.ready().await;
        old.signal("TERM");
        for load in &loads {
            load.more(30).await;
        }
        let opened = new.metrics().await.sum("istio_tcp_connections_opened_total", &[]);
        assert!(opened > 0.0, "{what}: the new one takes over");
        for stream in &mut held {
            exchange(stream, b"over the old one").await.unwrap_or_else(|e| panic!("{what}: an open connection goes on: {e}"));
        }
        // Connections that end let the old process end, long before its grace is over.
        let ended = held.map(|mut stream| async move {
            tokio::io::AsyncWriteExt::shutdown(&mut stream).await.unwrap();
            assert_eq!(end(&mut stream).await, End::Closed(0), "{what}: and ends as it should");
        });
        futures_util::future::join_all(ended).await;
        assert!(soon("the old process ends", old.exit()).await.success(), "{what}: {}", old.output());
        for load in &loads {
            load.more(30).await;
            assert_eq!(load.bad(), [""; 0], "{what}: no new connection fails");
        }
        running.push(new);
    }
    for load in loads {
        assert_eq!(load.stop().await, [""; 0]);
    }
}

fn policies(deny: &str) -> String {
    format!(
        "---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: flip, namespace: app}}
spec:
  selector: {{matchLabels: {{app: server}}}}
  action: DENY
  rules: [{{from: [{{source: {{principals: [\"cluster.local/ns/app/sa/{deny}\"]}}}}]}}]
"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_is_flipped_closes_what_it_forbids_and_nothing_else() {
    let Some(mut world) = World::new() else { return };
    let good = world.pod(Spec::captured("good", 1));
    let bad = world.pod(Spec::captured("bad", 1));
    let server = world.pod(Spec::captured("server", 2));
    let _app = Apps::start(&server);
    let dir = world.dir.path().join("manifests");
    std::fs::create_dir(&dir).unwrap();
    let pods: String = [&good, &bad, &server].iter().map(|pod| manifest(pod)).collect();
    std::fs::write(dir.join("mesh.yaml"), pods).unwrap();
    let next = dir.join("policy.next");
    let write = |deny: &str| {
        std::fs::write(&next, policies(deny)).unwrap();
        std::fs::rename(&next, dir.join("policy.yaml")).unwrap();
    };
    write("nobody");
    world.env("CAIRN_MANIFESTS", dir.display());
    let [_near, far] = world.start_proxies().await;
    let load = Load::start(&good, server.at(ECHO), 2);
    let mut kept = hold(&good, server.at(ECHO)).await;
    for round in 0..3 {
        let mut cut = hold(&bad, server.at(ECHO)).await;
        write("bad");
        assert!(matches!(end(&mut cut).await, End::Closed(0) | End::Failed(_)), "round {round}: an open connection is cut");
        assert!(client_is_refused(&bad, server.at(ECHO)).await, "round {round}: and a new one refused");
        write("nobody");
        eventually("it may connect again", async || !client_is_refused(&bad, server.at(ECHO)).await).await;
        exchange(&mut kept, b"others").await.expect("an allowed connection stays");
    }
    load.more(10).await;
    assert_eq!(load.stop().await, [""; 0]);
    let denied = far.metrics().await.sum("istio_tcp_connections_closed_total", &[("response_flags", "DENY"), ("source_workload", "bad")]);
    assert!(denied >= 3.0, "{denied}");
}

/// A pod as Kubernetes has it.
pub fn manifest(pod: &Pod) -> String {
    use crate::support::world::Family::{V4, V6};
    format!(
        "---
apiVersion: v1
kind: Pod
metadata:
  name: {0}
  namespace: app
  labels: {{app: {0}}}
  annotations: {{ambient.istio.io/redirection: enabled}}
spec: {{nodeName: node{1}, serviceAccountName: {2}, containers: [{{name: c}}]}}
status: {{phase: Running, podIP: \"{3}\", podIPs: [{{ip: \"{3}\"}}, {{ip: \"{4}\"}}]}}
",
        pod.name,
        pod.node,
        pod.account,
        pod.ip(V4),
        pod.ip(V6)
    )
}
