//! Which certificates are revoked, and by whose word.

use super::{authority::anchors, *};

/// The serial number that a chain is refused for.
fn verdict(lists: &str, leaf: &Leaf, trusted: &[&Authority]) -> Option<String> {
    let place = Place::new(lists);
    let verdict = place.open().check(&leaf.chain, &anchors(trusted.iter().copied()));
    verdict.err().map(|revoked| revoked.serial)
}

#[test]
fn every_certificate_of_a_chain_is_looked_up_with_its_own_issuer() {
    let root = Authority::root("root");
    let middle = root.below("middle", 20);
    let lower = middle.below("lower", 30);
    let leaf = lower.leaf("web", 40);
    let rows = [
        ("nothing", String::new(), None),
        ("lists that name others", root.revokes(&[21]) + &middle.revokes(&[31]) + &lower.revokes(&[41]), None),
        ("lists that name nobody", root.revokes(&[]) + &middle.revokes(&[]) + &lower.revokes(&[]), None),
        ("the leaf", lower.revokes(&[39, 40, 41]), Some("40")),
        ("the nearest intermediate", middle.revokes(&[30]), Some("30")),
        ("the farthest intermediate", root.revokes(&[20]), Some("20")),
        ("the number of one, by the issuer of another", root.revokes(&[30, 40]) + &middle.revokes(&[20, 40]), None),
        ("the later of two lists", lower.revokes(&[1]) + &lower.revokes(&[40]), Some("40")),
        ("the earlier of two lists", lower.revokes(&[40]) + &lower.revokes(&[1]), Some("40")),
        ("a list that has expired", lower.revoked_long_ago(&[40]), Some("40")),
        ("an unknown issuer's", Authority::root("stranger").revokes(&[20, 30, 40]), None),
    ];
    for (what, lists, want) in rows {
        assert_eq!(verdict(&lists, &leaf, &[&root]).as_deref(), want, "{what}");
    }
}

#[test]
fn the_name_of_an_issuer_proves_nothing() {
    let (root, namesake) = (Authority::root("root"), Authority::root("root"));
    let (leaf, other) = (root.leaf("web", 7), namesake.leaf("web", 7));
    let both = [&root, &namesake];
    let reversed = [&namesake, &root];
    for trusted in [both, reversed] {
        assert_eq!(verdict(&namesake.revokes(&[7]), &leaf, &trusted), None, "signed by the namesake");
        assert_eq!(verdict(&namesake.revokes(&[7]), &other, &trusted).as_deref(), Some("7"));
        assert_eq!(verdict(&(namesake.revokes(&[]) + &root.revokes(&[7])), &leaf, &trusted).as_deref(), Some("7"));
        assert_eq!(verdict(&(namesake.revokes(&[]) + &root.revokes(&[7])), &other, &trusted), None);
    }
    assert_eq!(verdict(&namesake.revokes(&[7]), &leaf, &[&root]), None, "a list by nobody who is known");
    // An intermediate that is sent along may have a namesake as well.
    let (middle, forged) = (root.below("middle", 8), namesake.below("middle", 8));
    let leaf = middle.leaf("web", 9);
    assert_eq!(verdict(&forged.revokes(&[9]), &leaf, &both), None);
    assert_eq!(verdict(&(forged.revokes(&[9]) + &middle.revokes(&[9])), &leaf, &both).as_deref(), Some("9"));
}

#[test]
fn what_has_been_altered_after_signing_revokes_nothing() {
    let root = Authority::root("root");
    let leaf = root.leaf("web", 0x5a5a);
    let mut list = root.revokes_der(&[0x5a5b]);
    let at = memchr::memmem::find(&list, &[0x5a, 0x5b]).unwrap();
    list[at + 1] = 0x5a;
    let place = Place::new(&list);
    assert_eq!(place.open().check(&leaf.chain, &anchors([&root])), Ok(()));
    place.write(root.revokes_der(&[0x5a5a]));
    assert!(place.open().check(&leaf.chain, &anchors([&root])).is_err(), "as it was signed");
}

#[test]
fn a_signature_is_believed_again_only_for_the_key_that_made_it() {
    let (root, namesake) = (Authority::root("root"), Authority::root("root"));
    let (leaf, other) = (root.leaf("web", 7), namesake.leaf("web", 7));
    let place = Place::new(root.revokes(&[7]));
    let (revocation, trusted) = (place.open(), anchors([&root, &namesake]));
    for _ in 0..2 {
        assert_eq!(revocation.check(&other.chain, &trusted), Ok(()));
        assert!(revocation.check(&leaf.chain, &trusted).is_err());
    }
    // However many keys strangers make up, the signer's is found.
    for _ in 0..20 {
        let stranger = Authority::root("root");
        assert_eq!(revocation.check(&stranger.leaf("web", 7).chain, &anchors([&stranger])), Ok(()));
    }
    assert!(revocation.check(&leaf.chain, &trusted).is_err());
}

#[test]
fn lists_are_found_whatever_their_algorithm() {
    for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519, &rcgen::PKCS_RSA_SHA256] {
        let root = Authority::root_with("root", algorithm);
        assert_eq!(verdict(&root.revokes(&[7]), &root.leaf("web", 7), &[&root]).as_deref(), Some("7"), "{algorithm:?}");
        assert_eq!(verdict(&root.revokes(&[7]), &root.leaf("web", 8), &[&root]), None, "{algorithm:?}");
    }
}

#[test]
fn what_cannot_be_read_is_passed_over_and_the_rest_is_judged() {
    let root = Authority::root("root");
    let mut leaf = root.leaf("web", 7);
    leaf.chain.insert(0, CertificateDer::from(b"no certificate".to_vec()));
    assert_eq!(verdict(&root.revokes(&[7]), &leaf, &[&root]).as_deref(), Some("7"));
    assert_eq!(verdict(&root.revokes(&[8]), &leaf, &[&root]), None);
}
