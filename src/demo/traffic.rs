//! What the demo's client does, and what came of it.

use super::{city::City, socks};
use crate::{
    model::Identity,
    telemetry::{HttpRecord, Record},
};
use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::Full;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};
use tokio::time::Instant;

/// Requests that the split is counted over.
const SPLIT: usize = 200;
/// How long a record may take to arrive after its response.
const RECORD: Duration = Duration::from_secs(2);

/// The outcome of one round.
#[derive(Debug, Default)]
pub(super) struct Tour {
    /// The path of one request, hop by hop.
    pub(super) path: Option<PathTaken>,
    /// Pods that answered for reviews, as counted.
    pub(super) split: BTreeMap<String, usize>,
    /// Requests of that round that were not answered.
    pub(super) failed: usize,
    /// A request with the header `end-user: jason`: the pod that answered.
    pub(super) tester: String,
    /// Requests that policy refused.
    pub(super) denied: Vec<Refused>,
    /// Tries that a request took whose first try failed, and its final status.
    pub(super) retried: Option<(u32, u16)>,
    /// A whole page: productpage, details, reviews, ratings.
    pub(super) page: Option<(StatusCode, String)>,
    /// Latencies of the split's requests, sorted.
    pub(super) latencies: Vec<Duration>,
}

/// Who took part in a request.
#[derive(Debug)]
pub(super) struct PathTaken {
    /// The client.
    pub(super) client: (IpAddr, Identity, String),
    /// The service's address that the client asked for.
    pub(super) service: SocketAddr,
    /// The waypoint, as the workload was told (`By=`).
    pub(super) waypoint: String,
    /// The workload.
    pub(super) workload: (SocketAddr, String, String),
    /// The rule that was followed.
    pub(super) route: String,
}

/// A request that policy refused.
#[derive(Debug)]
pub(super) struct Refused {
    /// What was asked.
    pub(super) what: String,
    /// The answer.
    pub(super) status: u16,
    /// The answer's text.
    pub(super) body: String,
    /// The policy that decided.
    pub(super) policy: String,
}

impl Tour {
    /// Whether everything came out as the manifests say.
    pub(super) fn is_as_told(&self) -> bool {
        self.failed == 0
            && self.path.is_some()
            && self.split.values().sum::<usize>() == SPLIT
            && !self.denied.is_empty()
            && self.denied.iter().all(|d| d.status == 403)
            && self.retried.is_some_and(|(tries, status)| tries > 1 && status == 200)
            && self.page.as_ref().is_some_and(|(status, _)| *status == StatusCode::OK)
    }
}

/// Sends one round of traffic.
pub(super) async fn tour(city: &mut City) -> Tour {
    let mut tour = Tour::default();
    // What people sent meanwhile is not part of the round.
    while city.records.try_recv().is_ok() {}
    path(city, &mut tour).await;
    split(city, &mut tour).await;
    tester(city, &mut tour).await;
    for (host, path) in [("ratings", "/ratings/0"), ("details", "/admin/users"), ("details", "/%61dmin/../admin")] {
        denied(city, &mut tour, host, path).await;
    }
    retried(city, &mut tour).await;
    page(city, &mut tour).await;
    tour
}

/// A request with an id of its own, by which its record is found.
async fn send(city: &City, host: &str, path: &str, headers: &[(&str, &str)]) -> Option<(StatusCode, Bytes, String)> {
    let id = format!("demo-{:016x}", fastrand::u64(..));
    let mut request = Request::get(path).header(header::HOST, format!("{host}:9080")).header("x-request-id", &id);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::default()).ok()?;
    let response = tokio::time::timeout(Duration::from_secs(10), socks::send(city.socks5, host, 9080, request)).await.ok()?.ok()?;
    Some((response.status(), response.into_body(), id))
}

/// The waypoint's record of a request to a service.
async fn record(city: &mut City, id: &str, service: &str) -> Option<Box<HttpRecord>> {
    let wanted = |record: &HttpRecord| {
        let is_id = record.request_id.as_ref().is_some_and(|v| v.as_bytes() == id.as_bytes());
        is_id && record.destination_service.as_ref().is_some_and(|s| s.split('.').next() == Some(service))
    };
    let find = async {
        loop {
            match city.records.recv().await? {
                Record::Http(record) if wanted(&record) => return Some(record),
                Record::Http(_) | Record::Tcp(_) => {}
            }
        }
    };
    tokio::time::timeout(RECORD, find).await.ok().flatten()
}

async fn path(city: &mut City, tour: &mut Tour) {
    let Some((_, body, id)) = send(city, "reviews", "/reviews/0", &[]).await else { return };
    let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
    let Some(record) = record(city, &id, "reviews").await else { return };
    let (Some(service), Some(upstream)) = (record.destination, record.upstream) else { return };
    let said = answer["client"].as_str().unwrap_or_default();
    let waypoint = said.split(';').find_map(|part| part.strip_prefix("By=")).unwrap_or("unknown").to_owned();
    let workload = city.workloads.get(&upstream.ip());
    let node = workload.map(|w| w.node.to_string()).unwrap_or_default();
    let identity = record.upstream_identity.as_ref().map(ToString::to_string).unwrap_or_default();
    tour.path = Some(PathTaken {
        client: (record.downstream.ip(), city.client.identity.clone(), city.client.node.to_string()),
        service,
        waypoint,
        workload: (upstream, identity, node),
        route: record.route.as_ref().map(ToString::to_string).unwrap_or_default(),
    });
}

async fn split(city: &City, tour: &mut Tour) {
    for _ in 0..SPLIT {
        let start = Instant::now();
        let answer = send(city, "reviews", "/reviews/0", &[]).await;
        tour.latencies.push(start.elapsed());
        match answer.filter(|(status, ..)| *status == StatusCode::OK) {
            Some((_, body, _)) => *tour.split.entry(pod(&body)).or_default() += 1,
            None => tour.failed += 1,
        }
    }
    tour.latencies.sort();
}

async fn tester(city: &City, tour: &mut Tour) {
    if let Some((_, body, _)) = send(city, "reviews", "/reviews/0", &[("end-user", "jason")]).await {
        tour.tester = pod(&body);
    }
}

async fn denied(city: &mut City, tour: &mut Tour, host: &str, path: &str) {
    let Some((status, body, id)) = send(city, host, path, &[]).await else { return };
    let policy = record(city, &id, host).await.and_then(|r| r.policy.clone());
    tour.denied.push(Refused {
        what: format!("GET http://{host}:9080{path}"),
        status: status.as_u16(),
        body: String::from_utf8_lossy(&body).trim().to_owned(),
        policy: policy.map_or_else(|| "no ALLOW policy matches".to_owned(), |p| p.to_string()),
    });
}

/// Through reviews v2, because only reviews may ask for ratings.
async fn retried(city: &mut City, tour: &mut Tour) {
    let headers = [("end-user", "jason"), ("x-demo-fail-first", "1")];
    let Some((_, _, id)) = send(city, "reviews", "/reviews/0", &headers).await else { return };
    if let Some(record) = record(city, &id, "ratings").await {
        tour.retried = Some((record.attempts, record.status.map_or(0, |s| s.as_u16())));
    }
}

async fn page(city: &City, tour: &mut Tour) {
    if let Some((status, body, _)) = send(city, "productpage", "/productpage", &[("end-user", "jason")]).await {
        let page: Value = serde_json::from_slice(&body).unwrap_or_default();
        let part = |value: &Value| value["pod"].as_str().unwrap_or("?").to_owned();
        let reviews = &page["reviews"];
        let pods = [part(&page), part(&page["details"]), part(reviews), part(&reviews["ratings"])];
        tour.page = Some((status, pods.join(", ")));
    }
}

fn pod(body: &[u8]) -> String {
    let answer: Value = serde_json::from_slice(body).unwrap_or_default();
    answer["pod"].as_str().unwrap_or("?").to_owned()
}
