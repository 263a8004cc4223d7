//! `CRL_PATH`: who is on a list is refused, and what is open is cut, on both sides.

use super::*;
use crate::support::{Plane, proxy::Access};
use std::path::{Path, PathBuf};

/// The serial number of an identity's certificate, as bytes: the dump has it in decimal.
async fn serial(proxy: &Proxy, account: &str) -> Vec<u8> {
    let dump = proxy.dump().await;
    let identity = identity(account).to_string();
    let entries = dump["certificates"].as_array().expect("a list of certificates");
    let entry = entries.iter().find(|entry| entry["identity"] == identity.as_str()).expect("it has this one");
    let digits = entry["certChain"][0]["serialNumber"].as_str().expect("a number");
    let mut bytes: Vec<u8> = Vec::new();
    for digit in digits.bytes() {
        let mut carry = u16::from(digit - b'0');
        for byte in bytes.iter_mut().rev() {
            let value = u16::from(*byte) * 10 + carry;
            (*byte, carry) = (value as u8, value >> 8);
        }
        if carry > 0 {
            bytes.insert(0, carry as u8);
        }
    }
    bytes
}

/// Replaces the list of a node, as a volume of Kubernetes is replaced.
fn revoke(plane: &Plane, path: &Path, serials: &[Vec<u8>]) {
    let next = path.with_extension("next");
    std::fs::write(&next, plane.revocation_list(serials).unwrap()).unwrap();
    std::fs::rename(next, path).unwrap();
}

async fn rejections(proxy: &Proxy, reporter: &str) -> f64 {
    proxy.metrics().await.sum("istio_tcp_connections_closed_total", &[("response_flags", "CERT_REVOKED"), ("reporter", reporter)])
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_on_a_list_is_refused_and_cut_and_nobody_else() {
    let Some(mut world) = World::new() else { return };
    let client = world.pod(Spec::captured("client", 1));
    let spare = world.pod(Spec::captured("spare", 1));
    let server = world.pod(Spec::captured("server", 2));
    let other = world.pod(Spec::captured("other", 2));
    let apps = [&server, &other].map(Apps::start);
    let plane = world.control_plane();
    plane.serve(&world.mesh(NOTHING));
    let lists: Vec<PathBuf> = world::NODES.map(|node| world.dir.path().join(format!("crl{node}"))).into();
    for (node, dir) in world::NODES.into_iter().zip(&lists) {
        std::fs::create_dir(dir).unwrap();
        // An empty file revokes nothing.
        std::fs::write(dir.join("crl.pem"), "").unwrap();
        world.env_on(node, "CRL_PATH", dir.join("crl.pem").display());
    }
    let [at_near, at_far] = [0, 1].map(|at| lists[at].join("crl.pem"));
    let [near, far] = world.start_proxies().await;
    let flagged = |to: SocketAddr, direction: &'static str| {
        let to = to.to_string();
        move |a: &Access| a.get("direction") == direction && a.get("dst.hbone_addr") == to && a.get("error").contains("revoked")
    };

    // Inbound: the server's side has a list with the client's certificate.
    let mut cut = [hold(&client, server.at(ECHO)).await, hold(&client, other.at(ECHO)).await];
    let mut spared = [hold(&spare, server.at(ECHO)).await, hold(&spare, other.at(ECHO)).await];
    revoke(&plane, &at_far, &[serial(&near, "client").await]);
    for stream in &mut cut {
        assert!(is_cut(&end(stream).await), "a tunnel of the revoked client");
    }
    for stream in &mut spared {
        exchange(stream, b"still there").await.expect("another client's tunnel to the same server");
    }
    far.access("why it was cut", flagged(server.at(ECHO), "inbound")).await;
    let before = apps[0].connections(COUNT);
    let refused = refusal(&client, server.at(COUNT)).await;
    assert!(is_cut(&refused), "refused at the handshake: {refused:?}");
    assert_eq!(apps[0].connections(COUNT), before);
    let peer = client.ip(Family::V4).to_string();
    let line = far
        .access("why it was refused", |a| {
            a.get("src.addr").starts_with(&peer) && a.message == "connection failed" && a.get("error").contains("revoked")
        })
        .await;
    assert_eq!(line.get("direction"), "inbound", "{line:?}");
    arrives(&spare, server.at(COUNT)).await;
    assert!(rejections(&far, "destination").await >= 2.0);

    // Outbound: the client's side has a list with a server's certificate.
    revoke(&plane, &at_near, &[serial(&far, "other").await]);
    let [to_server, to_other] = &mut spared;
    assert!(is_cut(&end(to_other).await), "a tunnel to the revoked server");
    exchange(to_server, b"still there").await.expect("a tunnel to another server");
    near.access("why it was cut", flagged(other.at(ECHO), "outbound")).await;
    let before = apps[1].connections(COUNT);
    let refused = refusal(&spare, other.at(COUNT)).await;
    assert!(is_cut(&refused), "refused at the handshake: {refused:?}");
    assert_eq!(apps[1].connections(COUNT), before);
    near.access("why it was refused", flagged(other.at(COUNT), "outbound")).await;
    arrives(&spare, server.at(COUNT)).await;
    assert!(rejections(&near, "source").await >= 1.0);

    // Lists that name nobody let everybody in again.
    for path in [&at_near, &at_far] {
        revoke(&plane, path, &[]);
    }
    for (from, to) in [(&client, &server), (&spare, &other)] {
        eventually("it is let in again", async || {
            let Ok(stream) = from.connect(to.at(COUNT)).await else { return false };
            talk(stream, b"four").await.is_ok_and(|answer| answer == b"4 bytes")
        })
        .await;
    }
    exchange(to_server, b"still there").await.expect("all the while");
}
