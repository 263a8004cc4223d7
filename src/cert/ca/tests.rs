use super::*;
use crate::transport::{CertError, WorkloadCert};
use std::{os::unix::fs::PermissionsExt, time::SystemTime};
use x509_parser::extensions::GeneralName;

const HOUR: Duration = Duration::from_secs(3600);

fn id(text: &str) -> Identity {
    text.parse().unwrap()
}

fn load(issued: &IssuedCert) -> WorkloadCert {
    WorkloadCert::from_pem(issued.chain_pem.as_bytes(), issued.key_pem.as_bytes(), issued.roots_pem.as_bytes()).unwrap()
}

#[test]
fn a_leaf_says_who_it_is_and_nothing_else() {
    let ca = DevCa::create("td", HOUR * 24).unwrap();
    let issued = ca.issue(&id("spiffe://td/ns/app/sa/web"), HOUR).unwrap();
    let (_, pem) = parse_x509_pem(issued.chain_pem.as_bytes()).unwrap();
    let leaf = pem.parse_x509().unwrap();
    assert_eq!(leaf.subject().iter().count(), 0);
    let san = leaf.subject_alternative_name().unwrap().unwrap();
    assert!(san.critical);
    assert_eq!(san.value.general_names, [GeneralName::URI("spiffe://td/ns/app/sa/web")]);
    let purposes = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(purposes.server_auth && purposes.client_auth && !purposes.any);
    let usage = leaf.key_usage().unwrap().unwrap().value;
    assert!(usage.digital_signature() && !usage.key_cert_sign());
    assert!(!leaf.is_ca());

    let (_, pem) = parse_x509_pem(issued.roots_pem.as_bytes()).unwrap();
    let root = pem.parse_x509().unwrap();
    assert!(root.is_ca() && root.key_usage().unwrap().unwrap().value.key_cert_sign());

    let (cert, now) = (load(&issued), SystemTime::now());
    cert.verify(now).unwrap();
    assert!(now.duration_since(cert.not_before()).unwrap() >= Duration::from_secs(299));
    assert!(cert.not_after().duration_since(now).unwrap() <= HOUR);
}

#[test]
fn the_middle_of_a_fresh_leaf_lies_ahead() {
    let ca = DevCa::create("td", HOUR * 48).unwrap();
    let rows = [(10, 1), (60, 6), (600, 60), (3000, 300), (24 * 3600, 300)];
    for (ttl, backdated) in rows.map(|(ttl, backdated)| (Duration::from_secs(ttl), Duration::from_secs(backdated))) {
        let cert = load(&ca.issue(&id("spiffe://td/ns/app/sa/web"), ttl).unwrap());
        assert_eq!(cert.not_after().duration_since(cert.not_before()).unwrap(), ttl + backdated, "{ttl:?}");
        assert!(cert.half_life() > SystemTime::now() + ttl / 3, "{ttl:?}: it is renewed long before its end");
    }
}

#[test]
fn a_leaf_does_not_outlive_the_root() {
    let ca = DevCa::create("td", HOUR).unwrap();
    let cert = load(&ca.issue(&id("spiffe://td/ns/app/sa/web"), HOUR * 100).unwrap());
    assert!(cert.not_after().duration_since(SystemTime::now()).unwrap() <= HOUR);
    let ended = load(&DevCa::create("td", Duration::ZERO).unwrap().issue(&id("spiffe://td/ns/app/sa/web"), HOUR).unwrap());
    assert!(matches!(ended.verify(SystemTime::now()), Err(CertError::Expired { .. })));
}

#[test]
fn a_directory_holds_keys_for_the_owner_only_and_keeps_its_ca() {
    let out = tempfile::tempdir().unwrap();
    let ids = [id("spiffe://td/ns/app/sa/web"), id("spiffe://td/ns/db/sa/sql")];
    let first = DevCa::write_directory(out.path(), "td", &ids[..1], HOUR).unwrap();
    let second = DevCa::write_directory(out.path(), "td", &ids, HOUR).unwrap();
    assert_eq!(first.roots_pem(), second.roots_pem());
    let mode = |path: &str| fs::metadata(out.path().join(path)).unwrap().permissions().mode() & 0o777;
    for secret in ["ca-key.pem", "app/web/key.pem", "db/sql/key.pem"] {
        assert_eq!(mode(secret), 0o600, "{secret}");
    }
    for dir in ["app/web", "db/sql"] {
        let read = |name: &str| fs::read(out.path().join(dir).join(name)).unwrap();
        WorkloadCert::from_pem(&read(CHAIN), &read(KEY), &read(ROOTS)).unwrap().verify(SystemTime::now()).unwrap();
        let names: Vec<_> = fs::read_dir(out.path().join(dir)).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names.len(), 3, "nothing temporary is left: {names:?}");
    }
    // The CA that is opened again signs for the root that is known.
    load(&DevCa::open(out.path()).unwrap().issue(&ids[0], HOUR).unwrap()).verify(SystemTime::now()).unwrap();
}

#[test]
fn what_does_not_fit_is_refused_before_anything_is_written() {
    let out = tempfile::tempdir().unwrap();
    let write = |trust_domain: &str, identity: &str| DevCa::write_directory(out.path(), trust_domain, &[id(identity)], HOUR);
    assert!(matches!(write("td", "spiffe://other/ns/a/sa/b"), Err(CaError::TrustDomain { .. })));
    assert!(matches!(write("td", "spiffe://td/ns/../sa/b"), Err(CaError::DirectoryName(_))));
    assert!(matches!(write("a/b", "spiffe://td/ns/a/sa/b"), Err(CaError::Identity(_))));
    assert!(fs::read_dir(out.path()).unwrap().next().is_none());

    write("td", "spiffe://td/ns/a/sa/b").unwrap();
    let error = write("other", "spiffe://other/ns/a/sa/b").unwrap_err();
    assert_eq!(error.to_string(), "the CA is of trust domain td, not of other");
    assert!(matches!(DevCa::create("td", Duration::MAX), Err(CaError::Lifetime(_))));
}

#[test]
fn a_ca_whose_parts_do_not_belong_together_is_not_opened() {
    let (out, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    assert!(matches!(DevCa::open(out.path()), Err(CaError::Io { path, .. }) if path.ends_with(ROOTS)));
    for dir in [&out, &other] {
        DevCa::write_directory(dir.path(), "td", &[], HOUR).unwrap();
    }
    fs::copy(other.path().join(CA_KEY), out.path().join(CA_KEY)).unwrap();
    assert!(matches!(DevCa::open(out.path()), Err(CaError::Mismatch { .. })));
    fs::write(out.path().join(CA_KEY), "nonsense").unwrap();
    assert!(matches!(DevCa::open(out.path()), Err(CaError::Content { path, .. }) if path.ends_with(CA_KEY)));
}
