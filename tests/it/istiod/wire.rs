//! Streams that are slow, end too early, or are not let in.

use super::*;
use crate::support::eventually;
use tonic::Status;

#[tokio::test(flavor = "multi_thread")]
async fn slow_streams_arrive_and_truncated_ones_are_asked_for_again() {
    // Far more than handshakes and certificates take, so that it is the mesh that breaks off.
    let crowd: String = (30..230).map(|ip| pod(NS, &format!("crowd-{ip}"), "crowd", "crowd", ip)).collect();
    let istiod = Istiod::start(&(echo() + &crowd)).await;
    istiod.plane.faults().slow(Some((1024, Duration::from_millis(1))));
    istiod.plane.faults().truncate_after(25_000);
    let client = istiod.ztunnel("client-v1", "client", 20);
    client.ready().await;
    acked(&istiod.plane, 1).await;
    assert!(!istiod.plane.faults().is_to_truncate());
    let seen = istiod.plane.observed();
    assert_eq!((seen.streams, seen.nacks()), (2, vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_end_in_any_way_are_opened_again() {
    let path = Path::start().await;
    let plane = &path.istiod.plane;
    let load = path.client.load(path.vip(), 1);
    load.more(5).await;
    for end in [None, Some(Status::unavailable("closing")), Some(Status::resource_exhausted("enough")), Some(Status::ok(""))] {
        let streams = plane.observed().streams;
        match &end {
            None => plane.drop_connections(),
            Some(status) => plane.end_streams(status),
        }
        soon("all three are back", plane.wait_for(|o| o.streams >= streams + 3 && o.open_streams == 3)).await;
        load.more(5).await;
    }
    assert_eq!(load.stop().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_token_is_shown_as_soon_as_it_is_there() {
    let path = Path::with(|options| Options { max_ttl: Duration::from_secs(6), ..options }).await;
    let plane = &path.istiod.plane;
    path.works().await;
    path.istiod.accept_only("another");
    plane.end_streams(&Status::unavailable("closing"));
    soon("the old token is refused", plane.wait_for(|o| o.refused > 0)).await;
    let probe = path.client.readiness().await;
    assert!(probe.starts_with("HTTP/1.1 200"), "it goes on with what it has: {probe}");
    path.istiod.write_token("another");
    soon("the new one is not", plane.wait_for(|o| o.open_streams == 3 && o.streams >= 6)).await;
    soon("nor by the CA", plane.wait_for(|o| o.certificates.iter().any(|c| c.token == "another"))).await;
    eventually("it works", async || path.get().await.is_ok()).await;
}
