//! Certificates of the node's pods: asked for before they are needed, forgotten when nobody is left.

use super::*;
use cairn::{
    demo::control_plane::{Certificates, Observed},
    model::Identity,
};
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

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_waits_for_the_first_certificate_and_is_refused_without_one() {
    let Some(mut world) = World::new() else { return };
    let server = world.pod(Spec::captured("server", 2));
    let app = Apps::start(&server);
    let plane = world.control_plane();
    plane.serve(&world.mesh(NOTHING));
    let [near, _far] = world.start_proxies().await;
    let begin = |plane: &crate::support::Plane, world: &mut World, name| {
        let pod = world.pod(Spec::captured(name, 1));
        plane.serve(&world.mesh(NOTHING));
        tokio::task::block_in_place(|| world.cni(1).add(&pod)).unwrap();
        pod
    };

    plane.faults().certificates(Certificates::Hold);
    let slow = begin(&plane, &mut world, "slow");
    soon("it is asked for", plane.wait_for(|seen| asked(seen, "slow") == 1)).await;
    let waiting = slow.connect(server.at(COUNT)).await.unwrap();
    let waiting = tokio::spawn(async move { talk(waiting, b"four").await });
    // Once more, by another connection: nobody asks twice.
    let second = slow.connect(server.at(COUNT)).await.unwrap();
    assert_eq!((asked(&plane.observed(), "slow"), app.connections(COUNT)), (1, 0));
    assert!(!waiting.is_finished());
    plane.faults().certificates(Certificates::Sign);
    assert_eq!(soon("an answer", waiting).await.unwrap().unwrap(), b"4 bytes");
    assert_eq!(talk(second, b"four").await.unwrap(), b"4 bytes");
    assert_eq!(asked(&plane.observed(), "slow"), 1);

    // Somebody else's certificate is none.
    plane.faults().certificates(Certificates::For(identity("slow")));
    let wronged = begin(&plane, &mut world, "wronged");
    eventually("the node knows it", async || knows(&near, "wronged").await.is_some()).await;
    let before = app.connections(COUNT);
    let refused = refusal(&wronged, server.at(COUNT)).await;
    assert!(is_cut(&refused), "{refused:?}");
    assert_eq!(app.connections(COUNT), before, "neither as somebody else nor in plaintext");
    let labels = [("response_flags", "IDENTITY_ERROR"), ("source_workload", "wronged-deploy")];
    let failed = async || near.metrics().await.sum("istio_tcp_connections_failed_total", &labels) >= 1.0;
    eventually("it is counted", failed).await;
    plane.faults().certificates(Certificates::Sign);
    eventually("it is tried again", async || {
        let Ok(stream) = wronged.connect(server.at(COUNT)).await else { return false };
        talk(stream, b"four").await.is_ok_and(|answer| answer == b"4 bytes")
    })
    .await;
    let line = near.access("as itself", |a| a.get("src.workload") == "wronged" && a.get("error").is_empty()).await;
    assert_eq!(line.get("src.identity"), identity("wronged").to_string(), "{line:?}");
}
