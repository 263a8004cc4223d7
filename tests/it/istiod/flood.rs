//! Changes without end, while requests go on.

use super::*;
use crate::support::{backend::full, eventually};
use cairn::model::Health;
use http::Response;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::{sync::watch, time::Instant};

/// Hundreds of changes a second that are no concern of anybody, until told to stop; how many, and in
/// which time. Endpoints come and go, not ready: none is ever asked.
async fn flood(istiod: &Istiod, stop: &AtomicBool) -> (u32, Duration) {
    let template = istiod.workload("echo-v1");
    let (start, mut changes) = (Instant::now(), 0u32);
    let mut every = tokio::time::interval(Duration::from_millis(3));
    while !stop.load(Ordering::Relaxed) {
        every.tick().await;
        let n = changes % 100;
        istiod.upsert(Workload {
            uid: format!("Kubernetes//Pod/app/flood-{n}").as_str().into(),
            name: format!("flood-{n}").into(),
            addresses: vec![istiod.net.ip(100 + (n % 90) as u8)],
            health: Health::Unhealthy,
            canonical_revision: changes.to_string().into(),
            ..(*template).clone()
        });
        changes += 1;
    }
    (changes, start.elapsed())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_changes_fails_no_request() {
    let path = Path::start().await;
    let (load, stop) = (path.client.load(path.vip(), 2), AtomicBool::new(false));
    load.more(10).await;
    let work = async {
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(3) {
            load.more(5).await;
        }
        stop.store(true, Ordering::Relaxed);
    };
    let ((changes, time), ()) = tokio::join!(flood(&path.istiod, &stop), work);
    assert!(f64::from(changes) > 100.0 * time.as_secs_f64(), "{changes} changes in {time:?}");
    load.more(10).await;
    assert_eq!(load.stop().await, Vec::<String>::new());
    assert_eq!(path.istiod.plane.observed().nacks(), Vec::<&str>::new());
}

/// An application that keeps requests for `/hold` until it is told to let go.
fn holding(path: &Path, ip: u8, letting_go: &watch::Sender<bool>, held: &watch::Sender<usize>) -> Backend {
    let (letting_go, held) = (letting_go.subscribe(), held.clone());
    Backend::custom(path.istiod.net.addr(ip, 8080), move |request| {
        let (mut letting_go, held) = (letting_go.clone(), held.clone());
        async move {
            if request.uri().path() == "/hold" {
                held.send_modify(|held| *held += 1);
                letting_go.wait_for(|let_go| *let_go).await.unwrap();
            }
            Response::new(full("echo-v2"))
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_that_come_and_go_in_a_flood_fail_no_request() {
    let path = Path::start().await;
    let second = Workload {
        uid: "Kubernetes//Pod/app/echo-v2".into(),
        name: "echo-v2".into(),
        addresses: vec![path.istiod.net.ip(12)],
        ..(*path.istiod.workload("echo-v1")).clone()
    };
    let (letting_go, held) = (watch::Sender::new(false), watch::Sender::new(0));
    let _app = holding(&path, 12, &letting_go, &held);
    path.istiod.upsert(second.clone());
    let server = path.istiod.ztunnel("echo-v2", "echo", 12);
    server.ready().await;
    let (load, stop) = (path.client.load(path.vip(), 2), AtomicBool::new(false));
    let answers = async |name: &str| eventually(name, async || path.get().await.as_deref() == Ok(name)).await;
    let work = async {
        for _ in 0..4 {
            letting_go.send_replace(false);
            held.send_replace(0);
            // One request is under way when the endpoint goes.
            let mut under_way = Box::pin(async {
                loop {
                    let answer = path.client.get_path(path.vip(), "/hold").await.unwrap();
                    assert_eq!(answer.status, StatusCode::OK);
                    if answer.text() == "echo-v2" {
                        return;
                    }
                }
            });
            let mut is_held = held.subscribe();
            tokio::select! {
                () = &mut under_way => panic!("the application lets nobody go"),
                is_held = is_held.wait_for(|held| *held > 0) => drop(is_held.unwrap()),
            }
            path.istiod.upsert(Workload { health: Health::Unhealthy, ..second.clone() });
            eventually("the first alone answers", async || {
                for _ in 0..20 {
                    if path.get().await.unwrap() != "echo-v1" {
                        return false;
                    }
                }
                true
            })
            .await;
            path.istiod.remove(&second);
            load.more(20).await;
            letting_go.send_replace(true);
            soon("what was under way", under_way).await;
            path.istiod.upsert(second.clone());
            answers("echo-v2").await;
        }
        stop.store(true, Ordering::Relaxed);
    };
    let ((changes, time), ()) = tokio::join!(flood(&path.istiod, &stop), work);
    assert!(f64::from(changes) > 100.0 * time.as_secs_f64(), "{changes} changes in {time:?}");
    assert_eq!(load.stop().await, Vec::<String>::new());
}
