//! Certificates of the node's pods: asked for before they are needed, forgotten when nobody is left.

use super::*;
use cairn::{demo::control_plane::Observed, model::Identity};
use std::time::Duration;

/// How often an account of `app` was asked for.
fn asked(seen: &Observed, account: &str) -> usize {
    let is_it = |identity: &Identity| *identity == super::identity(account);
    seen.certificates.iter().filter(|request| request.identity.as_ref().is_some_and(is_it)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_come_before_traffic_and_go_with_the_last_pod() {
    let Some(mut world) = World::new() else { return };
    let client = world.pod(Spec::captured("client", 1));
    let server = world.pod(Spec::captured("server", 2));
    let twin = world.pod(Spec::captured("twin", 2).runs_as("server"));
    let _plain = world.pod(Spec::plain("plain", 2));
    let _native = world.pod(Spec::native("native", 1));
    let _apps = [&server, &twin].map(Apps::start);
    let plane = world.control_plane();
    plane.serve(&world.mesh(NOTHING));
    let [near, far] = world.start_proxies().await;
    let set = |accounts: &[&str]| accounts.iter().map(|account| (*account).to_owned()).collect::<BTreeSet<String>>();
    eventually("each has those of its node", async || {
        holds(&near).await == set(&["client", "native"]) && holds(&far).await == set(&["server"])
    })
    .await;
    let seen = plane.observed();
    for (account, count) in [("client", 1), ("server", 1), ("native", 1), ("plain", 0), ("twin", 0)] {
        assert_eq!(asked(&seen, account), count, "{account}: once, without a single connection");
    }
    for request in &seen.certificates {
        let identity = request.identity.as_ref().expect("a workload");
        assert_eq!(request.impersonated.as_deref(), Some(identity.as_str()), "the node asks for others");
        assert_eq!(request.headers.get("clusterid").map(String::as_str), Some("Kubernetes"));
        assert_eq!(request.validity, Duration::from_secs(24 * 3600));
    }
    arrives(&client, server.at(COUNT)).await;
    assert_eq!(plane.observed().certificates.len(), seen.certificates.len(), "traffic needs no others");

    // The first of two goes, then the second.
    for (pod, left) in [(&twin, set(&["server"])), (&server, set(&[]))] {
        tokio::task::block_in_place(|| world.cni(2).del(&pod.uid())).unwrap();
        world.forget(pod);
        plane.serve(&world.mesh(NOTHING));
        eventually("the pod is gone", async || knows(&far, &pod.name).await.is_none()).await;
        eventually("its identity as well, if it was the last", async || holds(&far).await == left).await;
    }
    assert_eq!(asked(&plane.observed(), "server"), 1);

    // Who comes back is asked for anew.
    let back = world.pod(Spec::captured("back", 2).runs_as("server"));
    let _app = Apps::start(&back);
    plane.serve(&world.mesh(NOTHING));
    soon("it is asked for again", plane.wait_for(|seen| asked(seen, "server") == 2)).await;
    tokio::task::block_in_place(|| world.cni(2).add(&back)).unwrap();
    eventually("the other node knows it", async || knows(&near, "back").await.is_some()).await;
    arrives(&client, back.at(COUNT)).await;
    assert_eq!(asked(&plane.observed(), "client"), 1);
}
