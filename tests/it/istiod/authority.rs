//! Certificates: how they come, change, run out, and go wrong.

use super::*;
use crate::support::eventually;
use tonic::Code;

/// Short enough to see the end of.
fn short(ttl: u64) -> impl FnOnce(Options) -> Options {
    move |options| Options { max_ttl: Duration::from_secs(ttl), intermediate: true, ..options }
}

#[tokio::test(flavor = "multi_thread")]
async fn roots_change_under_load_without_a_failed_request() {
    let path = Path::with(short(4)).await;
    let plane = &path.istiod.plane;
    let load = path.client.load(path.vip(), 2);
    for step in 0..3 {
        // Each step is taken only when all three have had certificates of the one before.
        let asked = plane.observed().certificates.len();
        plane.rotate().unwrap();
        let everybody = |o: &cairn::demo::control_plane::Observed| {
            ["client", "echo", "waypoint"].iter().all(|account| {
                let renewed =
                    o.certificates[asked..].iter().filter(|c| c.identity.as_ref().is_some_and(|i| i.service_account() == *account));
                renewed.count() >= 2
            })
        };
        soon(&format!("everybody has renewed in step {step}"), plane.wait_for(everybody)).await;
        load.more(5).await;
    }
    assert_eq!(load.stop().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_ca_certificates_run_out_and_connections_fail_until_it_is_back() {
    let path = Path::with(short(4)).await;
    path.works().await;
    let down = || Certificates::Refuse(Code::Unavailable, "the CA is down".into());
    path.istiod.plane.faults().certificates(down());
    let asked = path.istiod.plane.observed().certificates.len();
    soon("a renewal fails", path.istiod.plane.wait_for(|o| o.certificates.len() > asked)).await;
    eventually("what has run out is not used", async || path.get().await.is_err()).await;
    path.client.logs("the CA is down").await;
    path.istiod.plane.faults().certificates(Certificates::Sign);
    eventually("it works again", async || path.get().await.as_deref() == Ok("echo-v1")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_wrong_opens_no_tunnel() {
    let mallory = "spiffe://cluster.local/ns/app/sa/mallory".parse().unwrap();
    for (fault, word) in [
        (Certificates::For(mallory), "mallory"),
        (Certificates::Empty, "the answer of the ca is empty"),
        (Certificates::LeafOnly, "the answer of the ca holds no root"),
    ] {
        let path = Path::start().await;
        path.istiod.plane.faults().certificates(fault.clone());
        let late = path.istiod.ztunnel("client-v1", "client", 21);
        eventually("the client knows the mesh", async || path.istiod.plane.observed().open_streams == 4).await;
        eventually("the error is named", async || {
            let _ = late.get(path.vip()).await;
            late.log().to_lowercase().contains(word)
        })
        .await;
        assert!(late.get(path.vip()).await.is_err(), "{fault:?}");
        assert!(path.app.seen().is_empty(), "{fault:?}");
    }
}
