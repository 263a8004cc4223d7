//! Tokens and roots: what happens without them, with others, and who gets to see them.

use super::{authority::each_has_asked, *};
use crate::support::eventually;
use tokio::net::TcpListener;

#[tokio::test(flavor = "multi_thread")]
async fn without_a_token_everybody_waits_and_says_for_which_file() {
    let istiod = Istiod::start(&echo()).await;
    let token = istiod.token();
    std::fs::remove_file(&token).unwrap();
    let nodes = [istiod.ztunnel("client-v1", "client", 20), istiod.waypoint()];
    for node in &nodes {
        let file = format!("cannot read {}", token.display());
        node.logs(&file).await;
        eventually("the probe names it", async || node.readiness().await.contains(&file)).await;
        assert!(node.readiness().await.starts_with("HTTP/1.1 500"));
    }
    assert_eq!(istiod.plane.observed().refused, 0, "nobody has asked without one");
    istiod.write_token(TOKEN);
    for node in &nodes {
        node.ready().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_token_is_told_from_a_right_one() {
    let istiod = Istiod::start(&echo()).await;
    istiod.write_token("of somebody else");
    let nodes = [istiod.ztunnel("client-v1", "client", 20), istiod.waypoint()];
    for node in &nodes {
        eventually("the probe says why", async || node.readiness().await.contains("Unauthenticated: no valid token")).await;
        assert!(node.readiness().await.starts_with("HTTP/1.1 500"));
        node.logs("Unauthenticated").await;
        assert!(!node.log().contains("of somebody else"));
    }
    istiod.write_token(TOKEN);
    for node in &nodes {
        node.ready().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_with_another_certificate_is_known_by_the_new_roots() {
    let mut path = Path::with(|options| Options { max_ttl: Duration::from_secs(6), ..options }).await;
    path.works().await;
    path.istiod.plane.renew_server().unwrap();
    let before = path.istiod.plane.observed();
    path.istiod.plane.drop_connections();
    for node in path.nodes() {
        eventually("it is not trusted", async || node.readiness().await.contains("UnknownIssuer")).await;
    }
    assert_eq!(path.istiod.plane.observed().streams, before.streams);
    let asked = path.istiod.plane.observed().certificates.len();
    path.istiod.write_roots(path.istiod.plane.server_roots());
    let is_back = |o: &Observed| o.streams >= before.streams + 3 && each_has_asked(o, asked, 1);
    soon("all are back", path.istiod.plane.wait_for(is_back)).await;
    eventually("it works", async || path.get().await.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_that_does_not_answer_keeps_nobody_from_ending() {
    let istiod = Istiod::start("").await;
    // Nobody listens at the first, and the second never says a word.
    let (nobody, silent) = (istiod.net.addr(201, 15012), istiod.net.addr(202, 15012));
    let listener = TcpListener::bind(silent).await.unwrap();
    // The silent one is given up after a while, and asked again.
    for (address, why) in [(nobody, ["refused", "refused"]), (silent, ["not connected yet", "timed out"])] {
        let url = format!("https://{address}");
        let there = [("XDS_ADDRESS", url.as_str()), ("CA_ADDRESS", url.as_str())];
        for mut node in [istiod.ztunnel_with("client-v1", "client", 20, &there), istiod.waypoint_with(&there, &[])] {
            let _held = if address == silent { Some(soon("a connection", listener.accept()).await.unwrap()) } else { None };
            eventually("the probe says what is missing", async || {
                let probe = node.readiness().await;
                probe.contains("state manager") && why.iter().any(|why| probe.contains(why))
            })
            .await;
            let start = tokio::time::Instant::now();
            node.signal("TERM");
            assert!(node.exit().await.success());
            // Far below what a drain may take, or a connection, or the wait before the next attempt.
            assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
        }
    }
}

/// Beginnings of private keys: PEM, base64 of DER, and bytes as `Debug` shows them.
const KEYS: [&str; 5] = ["PRIVATE KEY", "MIGHAgEAMBMG", "308187020100", "[48, 129, 135, 2, 1, 0", "x30\\x81\\x87\\x02\\x01\\x00"];

#[tokio::test(flavor = "multi_thread")]
async fn tokens_and_keys_are_shown_to_nobody() {
    let istiod = Istiod::with(&echo(), |options| Options { max_ttl: Duration::from_secs(4), ..options }).await;
    let _app = Backend::http(istiod.net.addr(11, 8080), "echo-v1");
    let trace = [("RUST_LOG", "trace"), ("XDS_HEADER_X_SECRET", "a header's value"), ("CA_HEADER_X_SECRET", "a header's value")];
    let nodes = [
        istiod.ztunnel_with("client-v1", "client", 20, &trace),
        istiod.ztunnel_with("echo-v1", "echo", 11, &trace),
        istiod.waypoint_with(&trace, &[]),
    ];
    for node in &nodes {
        node.ready().await;
    }
    assert_eq!(nodes[0].get(istiod.net.addr(10, 80)).await.unwrap().text(), "echo-v1");
    soon("renewals", istiod.plane.wait_for(|o| o.certificates.len() >= 8)).await;
    istiod.write_token("another");
    istiod.plane.end_streams(&tonic::Status::unavailable("closing"));
    soon("a refusal", istiod.plane.wait_for(|o| o.refused > 0)).await;
    for node in &nodes {
        let log = node.log();
        assert!(log.contains(" h2::codec"), "it tells everything, down to frames");
        let shown = log + &node.dump().await;
        assert!(shown.contains("cairn_xds_connected"));
        for secret in [TOKEN, "Bearer another", "a header's value"].iter().chain(&KEYS) {
            let found = shown.lines().find(|line| line.contains(secret));
            assert_eq!(found, None, "{secret:?}");
        }
    }
}
