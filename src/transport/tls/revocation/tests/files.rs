//! What may be in the file, and how it may change.

use super::{authority::anchors, watch::Pace, *};
use crate::runtime::{DrainTrigger, drain};
use std::os::unix::fs::symlink;

#[test]
fn the_content_of_the_file_is_not_shown() {
    let der = Authority::root("root").revokes_der(&[1, 2, 3]);
    let (place, bytes) = (Place::new(&der), format!("{:?}", &der[..8]));
    let shown = format!("{:?}", place.open());
    assert!(shown.contains(place.file().to_str().unwrap()) && shown.contains("lists: 1"), "{shown}");
    assert!(!shown.contains(bytes.trim_matches(['[', ']'])) && !shown.contains("root"), "{shown}");
}

#[test]
fn a_file_holds_pem_or_one_list_in_der_or_nothing() {
    let root = Authority::root("root");
    let (one, der) = (root.revokes(&[1]), root.revokes_der(&[1]));
    let certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let rows: [(&str, Vec<u8>, Result<usize, &str>); 12] = [
        ("one block", one.clone().into(), Ok(1)),
        ("many blocks", (one.clone() + &one + &Authority::root("other").revokes(&[])).into(), Ok(3)),
        ("blocks between words and other blocks", format!("our lists\n{one}{certificate}{one}").into(), Ok(2)),
        ("der", der.clone(), Ok(1)),
        ("empty", Vec::new(), Ok(0)),
        ("blank", b" \n\t\n".to_vec(), Ok(0)),
        ("words", b"no lists here".to_vec(), Err("list 1")),
        ("der cut short", der[..der.len() - 1].to_vec(), Err("list 1")),
        ("two lists in der", [der.clone(), der].concat(), Err("list 1")),
        ("pem cut short", one.as_bytes()[..one.len() / 2].to_vec(), Err("not PEM")),
        ("pem of something else", certificate.into(), Err("PEM without a block X509 CRL")),
        ("a second block of rubbish", (one + "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n").into(), Err("list 2")),
    ];
    for (what, content, want) in rows {
        let place = Place::new(content);
        match (Revocation::open(place.file()), want) {
            (Ok(revocation), Ok(lists)) => assert_eq!(revocation.lists().len(), lists, "{what}"),
            (Err(error @ RevocationError::Content { .. }), Err(reason)) => {
                assert!(error.to_string().contains(place.file().to_str().unwrap()), "{what}: {error}");
                assert_eq!(std::error::Error::source(&error).unwrap().to_string(), reason, "{what}");
            }
            (got, _) => panic!("{what}: {got:?}"),
        }
    }
    let missing = Place::new("").dir.path().join("missing.pem");
    let error = Revocation::open(&missing).unwrap_err();
    assert!(matches!(&error, RevocationError::Read { .. }) && error.to_string().contains("missing.pem"), "{error:?}");
    assert!(matches!(Revocation::open("/"), Err(RevocationError::Read { .. })), "a directory");
}

#[test]
fn a_useless_file_leaves_the_last_lists_in_force() {
    let root = Authority::root("root");
    let (leaf, trusted) = (root.leaf("web", 7), anchors([&root]));
    let place = Place::new(root.revokes(&[7]));
    let revocation = place.open();
    assert!(!revocation.reload().unwrap(), "nothing has changed");
    place.write("rubbish");
    assert!(matches!(revocation.reload(), Err(RevocationError::Content { .. })));
    assert!(revocation.check(&leaf.chain, &trusted).is_err());
    fs::remove_file(place.file()).unwrap();
    assert!(matches!(revocation.reload(), Err(RevocationError::Read { .. })));
    assert!(revocation.check(&leaf.chain, &trusted).is_err());
    place.write("");
    assert!(revocation.reload().unwrap());
    assert_eq!(revocation.check(&leaf.chain, &trusted), Ok(()), "an empty file revokes nothing");
}

/// A watch by events alone, unless asked otherwise.
fn watched(revocation: &Arc<Revocation>, events: bool) -> DrainTrigger {
    let poll = if events { Duration::from_secs(3600) } else { Duration::from_millis(5) };
    let pace = Pace { quiet: Duration::from_millis(20), poll, events };
    let (trigger, drain) = drain::new();
    tokio::spawn(watch::run(Arc::clone(revocation), pace, drain));
    trigger
}

/// Waits until `serial` is revoked, and nothing else.
async fn revoked(revocation: &Arc<Revocation>, root: &Authority, serial: u64) {
    let trusted = anchors([root]);
    let mut lists = revocation.lists.subscribe();
    soon("new lists", async {
        loop {
            let leaf = root.leaf("web", serial);
            if revocation.check(&leaf.chain, &trusted).is_err() {
                return;
            }
            lists.changed().await.unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn a_new_file_is_seen_however_it_gets_there() {
    let root = Authority::root("root");
    for events in [true, false] {
        let place = Place::new(root.revokes(&[1]));
        let revocation = place.open();
        // Before the watch begins.
        place.write(root.revokes(&[2]));
        let _trigger = watched(&revocation, events);
        revoked(&revocation, &root, 2).await;
        place.write(root.revokes(&[3]));
        revoked(&revocation, &root, 3).await;
        let next = place.dir.path().join("next");
        fs::write(&next, root.revokes(&[4])).unwrap();
        fs::rename(next, place.file()).unwrap();
        revoked(&revocation, &root, 4).await;
        fs::remove_file(place.file()).unwrap();
        place.write(root.revokes(&[5]));
        revoked(&revocation, &root, 5).await;
    }
}

#[tokio::test]
async fn a_mounted_volume_switches_its_link() {
    let root = Authority::root("root");
    for events in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let version = |name: &str, serial: u64| {
            fs::create_dir(dir.path().join(name)).unwrap();
            fs::write(dir.path().join(name).join("crl.pem"), root.revokes(&[serial])).unwrap();
        };
        version("..1", 1);
        symlink("..1", dir.path().join("..data")).unwrap();
        symlink("..data/crl.pem", dir.path().join("crl.pem")).unwrap();
        let revocation = Revocation::open(dir.path().join("crl.pem")).unwrap();
        let _trigger = watched(&revocation, events);
        for serial in 2..5 {
            let name = format!("..{serial}");
            version(&name, serial);
            symlink(&name, dir.path().join("..data_tmp")).unwrap();
            fs::rename(dir.path().join("..data_tmp"), dir.path().join("..data")).unwrap();
            fs::remove_dir_all(dir.path().join(format!("..{}", serial - 1))).unwrap();
            revoked(&revocation, &root, serial).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_being_written_does_not_count_until_it_has_been_still() {
    let root = Authority::root("root");
    let (leaf, trusted) = (root.leaf("web", 7), anchors([&root]));
    let place = Place::new(root.revokes(&[7]));
    let revocation = place.open();
    let pace = Pace { quiet: Duration::from_secs(2), poll: Duration::from_secs(1), events: false };
    let (_trigger, drain) = drain::new();
    let _watch = tokio::spawn(watch::run(Arc::clone(&revocation), pace, drain));
    // Not written yet, all of it: an empty file would revoke nothing.
    for n in 0..10 {
        place.write("\n".repeat(n));
        tokio::time::sleep(Duration::from_millis(1500)).await;
        assert!(revocation.check(&leaf.chain, &trusted).is_err(), "after write {n}");
    }
    place.write("");
    let mut lists = revocation.lists.subscribe();
    let since = tokio::time::Instant::now();
    soon("empty", lists.changed()).await.unwrap();
    assert!((2..6).contains(&since.elapsed().as_secs()), "{:?}", since.elapsed());
    assert_eq!(revocation.check(&leaf.chain, &trusted), Ok(()));
}

#[test]
fn reloads_are_counted_and_failures_once_each() {
    let root = Authority::root("root");
    let place = Place::new("");
    let lines = counted(async {
        let revocation = place.open();
        let mut reported = String::new();
        for content in [root.revokes(&[1]), "rubbish".to_owned(), root.revokes(&[2]), String::new(), "rubbish".to_owned()] {
            place.write(content);
            for _ in 0..3 {
                watch::look(&revocation, Duration::ZERO, &mut reported).await;
            }
        }
    });
    assert_eq!(lines, ["cairn_crl_reloads_total{result=\"failed\"} 2", "cairn_crl_reloads_total{result=\"ok\"} 3"]);
}
