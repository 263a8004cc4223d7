//! Certificates: how they come, change, run out, and go wrong.

use super::*;
use crate::support::eventually;
use cairn::demo::control_plane::Token;
use tonic::Code;

/// Short enough to see the end of.
fn short(ttl: u64) -> impl FnOnce(Options) -> Options {
    move |options| Options { max_ttl: Duration::from_secs(ttl), intermediate: true, ..options }
}

/// Whether all three of a [`Path`] have asked so often since.
pub fn each_has_asked(observed: &Observed, since: usize, times: usize) -> bool {
    let of = |account: &str| {
        let asked = observed.certificates[since..].iter().filter_map(|c| c.identity.as_ref());
        asked.filter(|identity| identity.service_account() == account).count()
    };
    ["client", "echo", "waypoint"].into_iter().all(|account| of(account) >= times)
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
        soon(&format!("everybody has renewed in step {step}"), plane.wait_for(|o| each_has_asked(o, asked, 2))).await;
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
async fn a_renewal_that_fails_takes_nothing_away_that_is_good() {
    let path = Path::with(short(12)).await;
    let plane = &path.istiod.plane;
    let load = path.client.load(path.vip(), 1);
    load.more(5).await;
    for fault in [Certificates::Empty, Certificates::Sign] {
        let asked = plane.observed().certificates.len();
        plane.faults().certificates(fault);
        soon("renewals", plane.wait_for(|o| each_has_asked(o, asked, 1))).await;
        load.more(5).await;
    }
    assert_eq!(load.stop().await, Vec::<String>::new());
    path.client.logs("the answer of the CA is empty").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waypoint_without_a_certificate_is_not_ready() {
    let istiod = Istiod::start(&echo()).await;
    istiod.plane.faults().certificates(Certificates::Refuse(Code::Internal, "out of order".into()));
    let waypoint = istiod.waypoint();
    waypoint.logs("out of order").await;
    eventually("only that is missing", async || {
        let probe = waypoint.readiness().await;
        probe.starts_with("HTTP/1.1 500") && probe.contains("certificate") && !probe.contains("state manager")
    })
    .await;
    istiod.plane.faults().certificates(Certificates::Sign);
    waypoint.ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_wrong_opens_no_tunnel() {
    let mallory = "spiffe://cluster.local/ns/app/sa/mallory".parse().unwrap();
    for (fault, word) in [
        (Certificates::For(mallory), "mallory"),
        (Certificates::Empty, "the answer of the ca is empty"),
        (Certificates::LeafOnly, "the answer of the ca holds no root"),
        (Certificates::Refuse(Code::PermissionDenied, "not for you".into()), "permissiondenied: not for you"),
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

#[tokio::test(flavor = "multi_thread")]
async fn connections_wait_for_a_ca_that_takes_its_time() {
    let path = Path::start().await;
    let plane = &path.istiod.plane;
    plane.faults().certificates(Certificates::Hold);
    let asked = plane.observed().certificates.len();
    let late = path.istiod.ztunnel("client-v1", "client", 21);
    late.ready().await;
    let mut waiting = Box::pin(late.get(path.vip()));
    let asks = async {
        soon("it asks", plane.wait_for(|o| o.certificates.len() > asked)).await;
        late.dump().await
    };
    tokio::select! {
        answer = &mut waiting => panic!("there is no certificate yet: {answer:?}"),
        _ = asks => plane.faults().certificates(Certificates::Sign),
    }
    let answer = waiting.await;
    assert_eq!(answer.unwrap().text(), "echo-v1");
}

/// Each has a token of its own, so that the CA can refuse one of them.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_no_certificate_any_more_neither_opens_nor_takes_tunnels() {
    let (istiod, accounts) = (Istiod::with(&echo(), short(4)).await, ["client", "waypoint", "echo"]);
    let accept = |refused: &str| {
        let texts = accounts.iter().filter(|account| **account != refused);
        istiod.plane.set_tokens(texts.map(|text| Token { text: (*text).to_owned(), may_impersonate: true }).collect());
    };
    accept("");
    let files = accounts.map(|account| istiod.write(account, account).to_str().unwrap().to_owned());
    let token = |index: usize| [("AUTH_TOKEN", files[index].as_str())];
    let _app = Backend::http(istiod.net.addr(11, 8080), "echo-v1");
    let client = istiod.ztunnel_with("client-v1", "client", 20, &token(0));
    let waypoint = istiod.waypoint_with(&token(1), &[]);
    let server = istiod.ztunnel_with("echo-v1", "echo", 11, &token(2));
    for node in [&client, &waypoint, &server] {
        node.ready().await;
    }
    let (vip, pod) = (istiod.net.addr(10, 80), istiod.net.addr(11, 8080));
    let good = async |to| client.get(to).await.is_ok_and(|answer| answer.status == StatusCode::OK);
    assert!(good(vip).await && good(pod).await);
    // Who has none, and whether the way past the waypoint is open.
    for (account, is_past_open) in [("client", false), ("waypoint", true), ("echo", false)] {
        accept(account);
        eventually(&format!("without {account} the way is closed"), async || !good(vip).await).await;
        eventually(&format!("without {account} the way past the waypoint"), async || good(pod).await == is_past_open).await;
        accept("");
        eventually(&format!("with {account} again"), async || good(vip).await && good(pod).await).await;
    }
}
