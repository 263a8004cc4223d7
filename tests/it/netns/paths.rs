//! Between pods by their addresses: who is seen, logged and counted.

use super::*;
use crate::support::{
    Proxy,
    apps::{COUNT, talk},
    proxy::{Access, Metrics},
    world::{Family, Pod, Spec, identity},
};

/// How traffic between two pods goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Path {
    /// Both ztunnels, mutual TLS.
    Hbone,
    /// Only the client's, passed through.
    FromCaptured,
    /// Only the server's.
    ToCaptured,
}

const SENT: usize = 1000;
const ANSWER: &str = "1000 bytes";

#[tokio::test(flavor = "multi_thread")]
async fn traffic_between_pods_is_carried_seen_logged_and_counted() {
    let Some(mut world) = World::new() else { return };
    let client = world.pod(Spec::captured("client", 1));
    let near = world.pod(Spec::captured("near", 1));
    let far = world.pod(Spec::captured("far", 2));
    let outside = world.pod(Spec::plain("outside", 2));
    let beside = world.pod(Spec::plain("beside", 1));
    let stranger = world.pod(Spec::plain("stranger", 2).unknown());
    let apps = [&client, &near, &far, &outside, &stranger].map(|pod| (pod.name.clone(), Apps::start(pod)));
    let proxies = world.start("services: []\npolicies: []\n").await;
    let rows = [
        (&client, &near, Path::Hbone),
        (&client, &far, Path::Hbone),
        (&far, &near, Path::Hbone),
        (&client, &outside, Path::FromCaptured),
        (&client, &stranger, Path::FromCaptured),
        (&beside, &near, Path::ToCaptured),
        (&beside, &far, Path::ToCaptured),
        (&stranger, &far, Path::ToCaptured),
    ];
    for (from, to, path) in rows {
        for family in FAMILIES {
            let what = format!("{} to {} by {family:?}", from.name, to.name);
            let stream = from.connect(to.addr(family, COUNT)).await.unwrap_or_else(|e| panic!("{what}: {e}"));
            let source = stream.local_addr().unwrap();
            let answer = talk(stream, &pattern(SENT)).await.unwrap_or_else(|e| panic!("{what}: {e}"));
            assert_eq!(String::from_utf8(answer).unwrap(), ANSWER, "{what}");
            let app = &apps.iter().find(|(name, _)| *name == to.name).unwrap().1;
            assert_eq!(app.last_peer(COUNT), Some(from.ip(family)), "{what}: the application sees the client's address");
            if path != Path::ToCaptured {
                let is_ours = |access: &Access| access.get("direction") == "outbound" && access.get("src.addr") == source.to_string();
                let line = proxies[from.node - 1].access(&what, is_ours).await;
                judge_outbound(&line, from, to, path, family, &what);
            }
            if path != Path::FromCaptured {
                let is_ours = |access: &Access| {
                    let source: Option<SocketAddr> = access.get("src.addr").parse().ok();
                    let known = source.is_some_and(|source| source.ip() == from.ip(family));
                    known && access.get("direction") == "inbound" && access.get("dst.addr").starts_with(&address(to, family))
                };
                let line = proxies[to.node - 1].access(&what, is_ours).await;
                judge_inbound(&line, from, to, path, family, &what);
            }
        }
    }
    // A pod talks to itself without anyone between.
    for family in FAMILIES {
        let own = client.connect(client.addr(family, ECHO)).await.unwrap();
        echo(own, b"to myself").await.unwrap();
    }
    for (from, to, path) in rows {
        count(&proxies, from, to, path).await;
    }
}

/// The address as it stands before a port.
fn address(pod: &Pod, family: Family) -> String {
    pod.addr(family, 0).to_string().trim_end_matches('0').to_owned()
}

fn spiffe(pod: &Pod) -> String {
    identity(&pod.account).to_string()
}

fn judge_outbound(line: &Access, from: &Pod, to: &Pod, path: Path, family: Family, what: &str) {
    assert_eq!(line.message, "connection complete", "{what}: {line:?}");
    let (me, sent, got) = (spiffe(from), SENT.to_string(), ANSWER.len().to_string());
    let common = [("src.workload", &from.name[..]), ("src.namespace", "app"), ("bytes_sent", &sent), ("bytes_recv", &got), ("error", "")];
    assert!(line.has(&common), "{what}: {line:?}");
    assert!(line.get("duration").ends_with("ms"), "{what}: {line:?}");
    let (direct, tunnel, you) = (to.addr(family, COUNT).to_string(), to.addr(family, 15008).to_string(), spiffe(to));
    let expected = match path {
        Path::Hbone => [
            ("src.identity", &me[..]),
            ("dst.identity", &you),
            ("dst.addr", &tunnel),
            ("dst.hbone_addr", &direct),
            ("dst.workload", &to.name),
        ],
        Path::FromCaptured | Path::ToCaptured => {
            let known = if to.name == "stranger" { "" } else { &to.name };
            [("src.identity", ""), ("dst.identity", ""), ("dst.addr", &direct), ("dst.hbone_addr", ""), ("dst.workload", known)]
        }
    };
    assert!(line.has(&expected), "{what}: {line:?} instead of {expected:?}");
}

fn judge_inbound(line: &Access, from: &Pod, to: &Pod, path: Path, family: Family, what: &str) {
    assert_eq!(line.message, "connection complete", "{what}: {line:?}");
    // The inbound side sends what the server sends.
    let (sent, got) = (ANSWER.len().to_string(), SENT.to_string());
    let known = if from.name == "stranger" { "" } else { &from.name };
    let common =
        [("dst.workload", &to.name[..]), ("dst.namespace", "app"), ("bytes_sent", &sent), ("bytes_recv", &got), ("src.workload", known)];
    assert!(line.has(&common), "{what}: {line:?}");
    let (me, you, direct, tunnel) = (spiffe(from), spiffe(to), to.addr(family, COUNT).to_string(), to.addr(family, 15008).to_string());
    let expected = match path {
        Path::Hbone => [("src.identity", &me[..]), ("dst.identity", &you), ("dst.addr", &tunnel), ("dst.hbone_addr", &direct)],
        Path::FromCaptured | Path::ToCaptured => {
            [("src.identity", ""), ("dst.identity", ""), ("dst.addr", &direct), ("dst.hbone_addr", "")]
        }
    };
    assert!(line.has(&expected), "{what}: {line:?} instead of {expected:?}");
}

/// One connection by each family: every label, and the counts to the byte.
async fn count(proxies: &[Proxy; 2], from: &Pod, to: &Pod, path: Path) {
    let reporters = match path {
        Path::Hbone => &[("source", from.node), ("destination", to.node)][..],
        Path::FromCaptured => &[("source", from.node)],
        Path::ToCaptured => &[("destination", to.node)],
    };
    for (reporter, node) in reporters {
        let what = format!("{} to {}, reported by the {reporter}", from.name, to.name);
        let metrics = proxies[node - 1].metrics().await;
        let labels = labels(reporter, from, to, path);
        let labels: Vec<(&str, &str)> = labels.iter().map(|(key, value)| (*key, &value[..])).collect();
        let expected = [
            ("istio_tcp_connections_opened_total", 2.0),
            ("istio_tcp_connections_closed_total", 2.0),
            ("istio_tcp_received_bytes_total", 2.0 * SENT as f64),
            ("istio_tcp_sent_bytes_total", 2.0 * ANSWER.len() as f64),
        ];
        for (name, value) in expected {
            assert_eq!(metrics.sum(name, &labels), value, "{what}: {name} of {labels:?} among {:#?}", near_misses(&metrics, name, &labels));
            let all: Vec<_> = metrics.all(name).into_iter().filter(|(have, _)| labels.iter().all(|(k, v)| have[*k] == **v)).collect();
            assert_eq!(all.len(), 1, "{what}: one series");
            assert_eq!(all[0].0.len(), labels.len(), "{what}: no further labels: {:?}", all[0].0);
        }
    }
}

fn near_misses(metrics: &Metrics, name: &str, labels: &[(&str, &str)]) -> Vec<(String, Vec<String>)> {
    let workloads: Vec<_> = labels.iter().filter(|(key, _)| key.ends_with("_workload") || *key == "reporter").collect();
    let close = metrics.all(name).into_iter().filter(|(have, _)| workloads.iter().all(|(k, v)| have.get(*k).is_some_and(|h| h == v)));
    let wrong = |have: &std::collections::BTreeMap<String, String>| {
        labels.iter().filter(|(k, v)| have.get(*k).is_none_or(|h| h != v)).map(|(k, _)| format!("{k}={:?}", have.get(*k))).collect()
    };
    close.map(|(have, value)| (format!("{value}, wrong:"), wrong(have))).collect()
}

/// Contract, 6.1. What is not known is `unknown`.
fn labels(reporter: &str, from: &Pod, to: &Pod, path: Path) -> Vec<(&'static str, String)> {
    let unknown = || "unknown".to_owned();
    let of = |pod: &Pod, suffix: &str| if pod.name == "stranger" { unknown() } else { format!("{}{suffix}", pod.name) };
    let fixed = |pod: &Pod, value: &str| if pod.name == "stranger" { unknown() } else { value.to_owned() };
    let principal = |pod: &Pod| if path == Path::Hbone { spiffe(pod) } else { unknown() };
    vec![
        ("reporter", reporter.to_owned()),
        ("source_workload", of(from, "-deploy")),
        ("source_canonical_service", of(from, "-app")),
        ("source_canonical_revision", fixed(from, "v1")),
        ("source_workload_namespace", fixed(from, "app")),
        ("source_principal", principal(from)),
        ("source_app", of(from, "-app")),
        ("source_version", fixed(from, "v1")),
        ("source_cluster", fixed(from, "Kubernetes")),
        ("destination_service", unknown()),
        ("destination_service_namespace", unknown()),
        ("destination_service_name", unknown()),
        ("destination_workload", of(to, "-deploy")),
        ("destination_canonical_service", of(to, "-app")),
        ("destination_canonical_revision", fixed(to, "v1")),
        ("destination_workload_namespace", fixed(to, "app")),
        ("destination_principal", principal(to)),
        ("destination_app", of(to, "-app")),
        ("destination_version", fixed(to, "v1")),
        ("destination_cluster", fixed(to, "Kubernetes")),
        ("request_protocol", "tcp".to_owned()),
        ("response_flags", "-".to_owned()),
        ("connection_security_policy", if path == Path::Hbone { "mutual_tls" } else { "unknown" }.to_owned()),
        ("source_region", unknown()),
        ("source_zone", unknown()),
        ("destination_region", unknown()),
        ("destination_zone", unknown()),
    ]
}
