//! Peers that are turned away, and connections that outlive their certificates.

use super::*;
use crate::model::Identity;
use crate::transport::tls::{ClientStream, Policy, ServerStream, TlsError, accept, connect};
use futures_util::FutureExt;
use rustls::AlertDescription;
use tokio::io::{AsyncReadExt, DuplexStream, duplex};

type End<S> = Result<(S, Identity, Standing), TlsError>;
type Lists<'a> = Option<&'a Arc<Revocation>>;

async fn handshake(
    (client, of_client): (&Leaf, Lists<'_>),
    (server, of_server): (&Leaf, Lists<'_>),
    policy: Policy,
) -> (End<ClientStream<DuplexStream>>, End<ServerStream<DuplexStream>>) {
    let (near, far) = duplex(64 << 10);
    let (client, server) = (client.cert_by(policy), server.cert_by(policy));
    let expected = [server.identity().clone()];
    let both = async { tokio::join!(connect(near, &client, &expected, of_client), accept(far, &server, of_server)) };
    soon("handshake", both).await
}

fn alert(error: &io::Error) -> AlertDescription {
    match error.get_ref().and_then(|inner| inner.downcast_ref()) {
        Some(rustls::Error::AlertReceived(alert)) => *alert,
        other => panic!("{other:?}"),
    }
}

const POLICIES: [Policy; 2] = [Policy { tls12: false, pqc: false }, Policy { tls12: true, pqc: false }];

#[tokio::test]
async fn a_revoked_peer_is_turned_away_with_the_alert_that_says_why() {
    let root = Authority::root("root");
    let middle = root.below("middle", 20);
    let (good, revoked, below) = (root.leaf("good", 5), root.leaf("revoked", 6), middle.leaf("below", 7));
    let place = Place::new(root.revokes(&[6, 20]));
    let lists = place.open();
    for policy in POLICIES {
        for (bad, serial) in [(&revoked, "6"), (&below, "20")] {
            // The server looks.
            let (connected, accepted) = handshake((bad, None), (&good, Some(&lists)), policy).await;
            let Err(TlsError::Revoked(why)) = accepted else { panic!("{accepted:?}") };
            assert_eq!((why.serial.as_str(), why.issuer.as_str()), (serial, "CN=root"));
            // Of TLS 1.3 the client is done before it is judged.
            let error = match connected {
                Ok((mut stream, ..)) => stream.read_u8().await.unwrap_err(),
                Err(TlsError::Handshake(error)) => error,
                Err(error) => panic!("{error:?}"),
            };
            assert_eq!(alert(&error), AlertDescription::CertificateRevoked);
            // The client looks.
            let (connected, accepted) = handshake((&good, Some(&lists)), (bad, None), policy).await;
            let Err(TlsError::Revoked(why)) = connected else { panic!("{connected:?}") };
            assert_eq!(why.serial, serial);
            let Err(TlsError::Handshake(error)) = accepted else { panic!("{accepted:?}") };
            assert_eq!(alert(&error), AlertDescription::CertificateRevoked);
        }
        // One's own certificate is for others to judge.
        let (connected, accepted) = handshake((&good, Some(&lists)), (&good, Some(&lists)), policy).await;
        assert!(connected.is_ok() && accepted.is_ok(), "{connected:?} {accepted:?}");
    }
}

#[test]
fn those_turned_away_and_those_that_no_list_can_find_are_counted_by_side() {
    let lines = counted(async {
        let root = Authority::root("root");
        let (good, revoked) = (root.leaf("good", 5), root.leaf("revoked", 6));
        let place = Place::new(root.revokes(&[6]));
        let lists = place.open();
        let with = Some(&lists);
        let policy = Policy::default();
        let _ = handshake((&revoked, None), (&good, with), policy).await;
        let _ = handshake((&revoked, None), (&good, with), policy).await;
        let _ = handshake((&good, with), (&revoked, None), policy).await;
        let (connected, accepted) = handshake((&good, with), (&good, with), policy).await;
        let (connected, accepted) = (connected.unwrap().2, accepted.unwrap().2);
        let rubbish = [good.chain[0].clone(), CertificateDer::from(b"no certificate".to_vec())];
        let trusted = Arc::new(authority::anchors([&root]));
        Checked::new(&lists, Reporter::Source).standing(&rubbish, &trusted);
        // Both sides are found to be revoked later.
        place.write(root.revokes(&[5, 6]));
        lists.reload().unwrap();
        soon("the server is revoked", connected.revoked()).await;
        soon("the client is revoked", accepted.revoked()).await;
    });
    assert_eq!(
        lines,
        [
            "istio_crl_policy_rejections_total{reporter=\"destination\"} 3",
            "istio_crl_policy_rejections_total{reporter=\"source\"} 2",
            "istio_crl_untracked_connections_total{reporter=\"source\"} 1",
        ]
    );
}

#[tokio::test]
async fn a_list_that_comes_between_handshake_and_tunnel_is_not_missed() {
    let root = Authority::root("root");
    let (client, server) = (root.leaf("client", 5), root.leaf("server", 6));
    let place = Place::new("");
    let lists = place.open();
    // As in a handshake: first looked up, and then kept.
    let checked = Checked::new(&lists, Reporter::Destination);
    let trusted = Arc::new(authority::anchors([&root]));
    checked.check(&client.chain[0], &client.chain[1..], &trusted).unwrap();
    place.write(root.revokes(&[5]));
    lists.reload().unwrap();
    let standing = checked.standing(&client.chain, &trusted);
    assert_eq!(soon("revoked", standing.revoked()).await.serial, "5");
    assert!(standing.check().is_err());
    // And those that came before are what the handshake goes by.
    let (_, accepted) = handshake((&client, None), (&server, Some(&lists)), Policy::default()).await;
    assert!(matches!(accepted, Err(TlsError::Revoked(_))), "{accepted:?}");
}

#[tokio::test]
async fn only_the_revoked_hear_of_new_lists() {
    let root = Authority::root("root");
    let place = Place::new("");
    let lists = place.open();
    let mut standings = Vec::new();
    for serial in [5, 6, 7] {
        let (_, accepted) =
            handshake((&root.leaf("client", serial), None), (&root.leaf("server", 1), Some(&lists)), Policy::default()).await;
        standings.push(accepted.unwrap().2);
    }
    let mut waiting: Vec<_> = standings.iter().map(|standing| Box::pin(standing.revoked())).collect();
    assert!(waiting.iter_mut().all(|waiting| waiting.now_or_never().is_none()));
    for (list, want) in [(vec![99], [false, false, false]), (vec![6, 99], [false, true, false])] {
        place.write(root.revokes(&list));
        lists.reload().unwrap();
        let heard: Vec<_> = waiting.iter_mut().map(|waiting| waiting.now_or_never().is_some()).collect();
        assert_eq!(heard, want, "{list:?}");
    }
    assert!(standings[1].check().is_err());
    // What is inside of it cannot be trusted either.
    assert!(standings[0].clone().within(standings[1].clone()).check().is_err());
    assert!(standings[0].clone().within(standings[2].clone()).check().is_ok());
    let nobody = Standing::default();
    assert!(nobody.check().is_ok() && nobody.revoked().now_or_never().is_none());
    assert!(nobody.within(standings[1].clone()).check().is_err());
}
