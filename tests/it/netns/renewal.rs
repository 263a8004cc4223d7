//! Certificates that live for seconds.

use super::*;
use crate::support::{
    Gateway, Proxy,
    apps::{Load, exchange},
    eventually,
    world::{Spec, identity},
};
use std::{collections::BTreeSet, sync::Mutex, time::Duration};
use tokio::time::Instant;

/// The serial number of an identity's certificate, as the dump shows it.
async fn serial(proxy: &Proxy, account: &str) -> Option<String> {
    let dump = proxy.config_dump().await;
    let body: serde_json::Value = serde_json::from_str(dump.split_once("\r\n\r\n")?.1).ok()?;
    let identity = identity(account).to_string();
    let entry = body["certificates"].as_array()?.iter().find(|entry| entry["identity"] == identity.as_str())?;
    entry["certChain"][0]["serialNumber"].as_str().map(str::to_owned)
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_renewed_at_half_life_and_no_connection_is_lost() {
    let Some(mut world) = World::new() else { return };
    world.env("SECRET_TTL", "8s");
    world.env("CAIRN_ROTATION_SPREAD", "1s");
    let client = world.pod(Spec::captured("client", 1));
    let server = world.pod(Spec::captured("server", 2));
    let peer = world.pod(Spec::native("peer", 2));
    let _apps = [&server, &peer].map(Apps::start);
    let [near, far] = world.start("services: []\npolicies: []\n").await;
    // A server that tells which certificates its clients come with; its own stays.
    let at_peer = Gateway::start(&peer, world.cert("peer"), &[(&peer.at(ECHO).to_string(), peer.at(ECHO))]);
    let loads = [&server, &peer].map(|pod| Load::start(&client, pod.at(ECHO), 2));
    let mut kept = Vec::new();
    for pod in [&server, &peer] {
        let mut stream = client.connect(pod.at(ECHO)).await.unwrap();
        exchange(&mut stream, b"first").await.unwrap();
        kept.push(stream);
    }
    // Four certificates each: by then the first has ended.
    let begun = Instant::now();
    let known: Mutex<[BTreeSet<String>; 2]> = Mutex::default();
    eventually("certificates are renewed on both sides", async || {
        let serials = [serial(&near, "client").await, serial(&far, "server").await];
        let mut known = known.lock().unwrap();
        known.iter_mut().zip(serials).for_each(|(known, serial)| known.extend(serial));
        known.iter().all(|known| known.len() >= 4)
    })
    .await;
    // Three half-lives, of four seconds; at their ends it would have been eight each.
    assert!(begun.elapsed() < Duration::from_secs(18), "{:?}", begun.elapsed());
    for load in &loads {
        load.more(20).await;
    }
    for stream in &mut kept {
        exchange(stream, b"still there").await.expect("a stream outlives the certificates it was opened with");
    }
    for load in loads {
        assert_eq!(load.stop().await, [""; 0], "no connection is lost");
    }
    let used: BTreeSet<String> = at_peer.serials().into_iter().collect();
    assert!(used.len() >= 3, "new tunnels are opened with new certificates: {used:?}");
    let issued = known.into_inner().unwrap();
    assert!(used.iter().filter(|serial| issued[0].contains(*serial)).count() >= 3, "{used:?} of {issued:?}");
    drop(kept);
    eventually("tunnels of replaced certificates are closed", async || at_peer.open() <= 1).await;
}
