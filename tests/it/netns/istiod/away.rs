//! The control plane ends, and comes back.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn without_the_control_plane_everything_goes_on_and_with_it_again_goes_on_from_there() {
    let Some(mut world) = World::new() else { return };
    let client = world.pod(Spec::captured("client", 1));
    let server = world.pod(Spec::captured("server", 2).services(WEB));
    let goes = world.pod(Spec::captured("goes", 2).services(WEB));
    // The mesh knows it, the CNI starts it later.
    let later = world.pod(Spec::captured("later", 2).runs_as("server").later());
    let apps = [&server, &goes, &later].map(Apps::start);
    let plane = world.control_plane();
    plane.serve(&world.mesh(&web()));
    let proxies = world.start_proxies().await;
    let loads = [server.at(ECHO), goes.at(ECHO)].map(|to| Load::start(&client, to, 2));
    let mut kept = hold(&client, server.at(ECHO)).await;
    for load in &loads {
        load.more(10).await;
    }

    soon("it stops", plane.stop()).await;
    soon("no stream is left", plane.wait_for(|seen| seen.open_streams == 0)).await;
    for proxy in &proxies {
        eventually("readiness says so, and stays", async || {
            let said = proxy.readiness().await;
            assert!(said.starts_with("HTTP/1.1 200"), "{said}");
            said.contains("control plane: disconnected")
        })
        .await;
    }
    tokio::task::block_in_place(|| world.cni(2).add(&later)).expect("a pod of a known identity is served");
    arrives(&client, later.at(COUNT)).await;
    arrives(&later, server.at(COUNT)).await;
    arrives(&client, vip(10, Family::V4, 80)).await;
    exchange(&mut kept, b"still there").await.expect("an open connection goes on");
    for load in &loads {
        load.more(20).await;
    }

    // What happens meanwhile is told afterwards, and only that.
    let [on_server, on_goes] = loads;
    assert_eq!(on_goes.stop().await, [""; 0]);
    world.forget(&goes);
    let new = world.pod(Spec::captured("new", 2));
    let _app = Apps::start(&new);
    plane.serve(&world.mesh(&web()));
    let before = plane.observed();
    soon("it is back", plane.resume()).await;
    soon("both are back", plane.wait_for(|seen| seen.open_streams == 2)).await;
    for proxy in &proxies {
        eventually("the note is taken back", async || !proxy.readiness().await.contains("disconnected")).await;
        eventually("what is new is known", async || knows(proxy, "new").await.is_some()).await;
        assert!(knows(proxy, "goes").await.is_none(), "what is gone is forgotten");
    }
    let seen = plane.observed();
    let again: Vec<_> = seen.of(Kind::Address).filter(|r| r.stream > before.streams && r.nonce.is_empty()).collect();
    assert_eq!(again.len(), 2, "{again:?}");
    for request in again {
        let known = |name: &str| request.initial_versions.get(&format!("Kubernetes//Pod/app/{name}"));
        for name in ["client", "server", "goes", "later"] {
            assert!(known(name).is_some_and(|version| !version.is_empty()), "{name}: {:?}", request.initial_versions);
        }
        assert!(request.initial_versions.contains_key("app/web.app.svc.cluster.local"), "{:?}", request.initial_versions);
        assert!(request.subscribe.is_empty() && !request.node.is_empty(), "{request:?}");
    }
    tokio::task::block_in_place(|| world.cni(2).add(&new)).unwrap();
    arrives(&client, new.at(COUNT)).await;
    let gone = apps[1].connections(COUNT);
    for _ in 0..12 {
        arrives(&client, vip(10, Family::V4, 80)).await;
    }
    assert_eq!(apps[1].connections(COUNT), gone, "an endpoint that went meanwhile");
    exchange(&mut kept, b"still there").await.expect("an open connection over both changes");
    on_server.more(10).await;
    assert_eq!(on_server.stop().await, [""; 0], "no connection is lost");
    assert_eq!(seen.nacks(), [""; 0]);
}
