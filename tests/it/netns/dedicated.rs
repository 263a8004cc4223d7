//! A ztunnel for one workload, inside of its pod.

use super::*;
use crate::support::{
    apps::{COUNT, talk},
    world::{Spec, identity},
};

#[tokio::test(flavor = "multi_thread")]
async fn two_dedicated_ztunnels_carry_traffic_between_their_pods() {
    let Some(mut world) = World::new() else { return };
    let client = world.pod(Spec::captured("client", 1));
    let server = world.pod(Spec::captured("server", 2));
    let plain = world.pod(Spec::plain("plain", 1));
    let app = Apps::start(&server);
    world.certs(&[]);
    world.describe("services: []\npolicies: []\n");
    let (near, far) = (world.dedicated(&client), world.dedicated(&server));
    near.ready().await;
    far.ready().await;
    for family in FAMILIES {
        for (from, path) in [(&client, "HBONE"), (&plain, "plain")] {
            let stream = from.connect(server.addr(family, COUNT)).await.unwrap();
            assert_eq!(talk(stream, b"four").await.unwrap(), b"4 bytes", "{path}, {family:?}");
            assert_eq!(app.last_peer(COUNT), Some(from.ip(family)), "{path}, {family:?}: the client's address");
        }
        let hbone = server.addr(family, COUNT).to_string();
        let (me, you) = (identity("client").to_string(), identity("server").to_string());
        for (proxy, direction) in [(&near, "outbound"), (&far, "inbound")] {
            let line = proxy.access(direction, |a| a.get("direction") == direction && a.get("dst.hbone_addr") == hbone).await;
            assert!(line.has(&[("src.identity", &me), ("dst.identity", &you), ("error", "")]), "{line:?}");
        }
    }
}
