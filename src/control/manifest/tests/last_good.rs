//! What goes on being served when a change is broken.

use super::*;
use crate::model::{AppProtocol, PolicyTarget, TargetRef};
use std::time::Duration;

#[test]
fn a_truncated_file_keeps_what_it_held_and_recovers() {
    let text = format!("{REVIEWS}---\n{DENY}");
    let dir = Dir::with("a.yaml", &text);
    let mut source = dir.source();
    assert_eq!(source.poll().unwrap().changes.len(), 2);
    for (cut, rejected) in [("", 1), ("apiVersion: v1\nkind: Serv", 1), (&text[..text.len() - 8], 0), (&text[..130], 0)] {
        dir.write("a.yaml", cut);
        let batch = source.poll().unwrap();
        assert_eq!((keys(&batch), batch.rejected), (Vec::new(), rejected), "after {cut:?}: {:?}", batch.findings);
        assert!(source.poll().is_none(), "nothing new after {cut:?}");
    }
    dir.write("a.yaml", &text.replace("DELETE", "POST"));
    let batch = source.poll().unwrap();
    assert_eq!((keys(&batch), batch.findings.len()), (vec!["+default/p".to_owned()], 0));
}

#[test]
fn a_shortened_file_is_believed_when_its_writer_has_left() {
    let dir = Dir::with("a.yaml", &format!("{REVIEWS}---\n{DENY}"));
    let mut source = dir.source();
    source.poll().unwrap();
    dir.write("a.yaml", &format!("{REVIEWS}---\n{}", &DENY[..DENY.len() - 51]));
    assert_eq!(keys(&source.poll().unwrap()), Vec::<String>::new());
    let old = std::time::SystemTime::now() - Duration::from_secs(5);
    fs::File::options().write(true).open(dir.path("a.yaml")).unwrap().set_modified(old).unwrap();
    let batch = source.poll().unwrap();
    assert_eq!(keys(&batch), ["+default/p"]);
    assert!(policy(&batch).rules.is_empty());
    // Documents that end are an edit, at once.
    dir.write("a.yaml", REVIEWS);
    assert_eq!(keys(&source.poll().unwrap()), ["-default/p"]);
}

#[test]
fn a_broken_change_keeps_the_last_good_version() {
    let dir = Dir::with("a.yaml", &format!("{REVIEWS}---\n{ROUTE}"));
    let mut source = dir.source();
    source.poll().unwrap();
    let broken = ROUTE.replace("rules:", "rulez:");
    dir.write("a.yaml", &format!("{}---\n{broken}", REVIEWS.replace("http", "grpc")));
    let batch = source.poll().unwrap();
    assert_eq!(keys(&batch), [format!("+{REVIEWS_KEY}")], "the good change of the same file passes");
    assert_eq!(dir.texts(&batch.fresh), ["a.yaml:11:3: error: HTTPRoute default/r: spec.rulez: unknown field"]);
    assert_eq!(batch.rejected, 1);
    // Told once, and still listed.
    dir.write("b.yaml", "apiVersion: v1\nkind: Namespace\nmetadata: {name: n}\n");
    let batch = source.poll().unwrap();
    assert_eq!((batch.fresh.len(), batch.findings.len(), batch.rejected), (0, 1, 0));
    // Removed for good when the document goes.
    dir.write("a.yaml", REVIEWS);
    assert_eq!(keys(&source.poll().unwrap()), [format!("+{REVIEWS_KEY}"), "-default/r".into()].into_iter().rev().collect::<Vec<_>>());
}

#[test]
fn a_changed_reference_that_leads_nowhere_is_withheld() {
    let dir = Dir::with("a.yaml", REVIEWS);
    dir.write("r.yaml", ROUTE);
    let mut source = dir.source();
    source.poll().unwrap();
    dir.write("r.yaml", &ROUTE.replace("port: 80", "port: 81"));
    let batch = source.poll().unwrap();
    assert_eq!((keys(&batch), batch.rejected), (Vec::new(), 1));
    let expected =
        format!("r.yaml:6:48: error: HTTPRoute default/r: spec.rules[0].backendRefs[0].port: service {REVIEWS_KEY} has no port 81");
    assert_eq!(dir.texts(&batch.fresh), [expected]);
    // The port appears: the withheld version is taken without another look at its file.
    dir.write("a.yaml", &REVIEWS.replace("port: 80}", "port: 80}, {name: x, port: 81}"));
    let batch = source.poll().unwrap();
    assert_eq!((keys(&batch).len(), batch.findings.len()), (2, 0));
}

#[test]
fn what_another_removal_breaks_stays_with_an_error() {
    let dir = Dir::with("a.yaml", REVIEWS);
    dir.write("r.yaml", ROUTE);
    let mut source = dir.source();
    source.poll().unwrap();
    fs::remove_file(dir.path("a.yaml")).unwrap();
    let batch = source.poll().unwrap();
    assert_eq!((keys(&batch), batch.rejected), (vec![format!("-{REVIEWS_KEY}")], 0));
    assert_eq!(batch.findings.len(), 2, "{:?}", dir.texts(&batch.findings));
}

#[test]
fn broken_references_serve_from_the_start_only_when_lenient() {
    let dir = Dir::with("r.yaml", ROUTE);
    assert_eq!(keys(&dir.source().poll().unwrap()), Vec::<String>::new());
    let mut lenient = ManifestSource::new(Config { lenient: true, ..dir.config() });
    let batch = lenient.poll().unwrap();
    assert_eq!((keys(&batch), batch.rejected > 0), (vec!["+default/r".to_owned()], true));
}

#[test]
fn a_policy_that_never_was_valid_denies_its_scope() {
    let broken = DENY.replace("methods", "method");
    let dir = Dir::with("p.yaml", &broken);
    let mut source = dir.source();
    let batch = source.poll().unwrap();
    assert_eq!(policy(&batch).invalid.as_deref(), Some("unknown field"));
    assert!(matches!(&policy(&batch).target, PolicyTarget::Refs(refs) if matches!(refs[..], [TargetRef::Service(_)])));
    // Its repair replaces the stand-in.
    dir.write("p.yaml", DENY);
    assert_eq!(policy(&source.poll().unwrap()).invalid, None);
    // Once valid, a broken change keeps it.
    dir.write("p.yaml", &broken);
    assert!(source.poll().unwrap().changes.is_empty());
}

#[test]
fn a_policy_whose_target_is_unreadable_denies_all_it_may_have_meant() {
    for (from, to) in [("kind: Service,", "kind: Pod,"), ("targetRefs: [{kind: Service, name: reviews}]", "targetRefs: 1")] {
        let dir = Dir::with("p.yaml", &DENY.replace(from, to));
        assert_eq!(policy(&dir.source().poll().unwrap()).target, PolicyTarget::Unknown);
    }
}

#[test]
fn an_unreadable_document_that_may_be_a_policy_denies() {
    let dir = Dir::with("p.yaml", &format!("{REVIEWS}---\n{}", DENY.replace("DENY", "[")));
    let mut source = dir.source();
    let batch = source.poll().unwrap();
    assert_eq!((keys(&batch).len(), &policy(&batch).target), (2, &PolicyTarget::Unknown));
    // Readable: the stand-in goes, the policy comes.
    dir.write("p.yaml", &format!("{REVIEWS}---\n{DENY}"));
    let batch = source.poll().unwrap();
    assert_eq!(batch.changes.len(), 2);
    assert_eq!(policy(&batch).invalid, None);
    // Unreadable again: it was valid once, so it stays and nothing stands in.
    dir.write("p.yaml", &format!("{REVIEWS}---\n{}", DENY.replace("DENY", "[")));
    assert_eq!(keys(&source.poll().unwrap()), Vec::<String>::new());
    // A second one beside it never was.
    dir.write("p.yaml", &format!("{}---\n{}", DENY.replace("DENY", "["), DENY.replace("DENY", "[").replace("name: p", "name: q")));
    let batch = source.poll().unwrap();
    assert_eq!(policy(&batch).target, PolicyTarget::Unknown);
}

#[test]
fn two_definitions_are_an_error_at_the_second() {
    let dir = Dir::with("a.yaml", REVIEWS);
    dir.write("b.yaml", &REVIEWS.replace("http", "grpc"));
    let mut source = dir.source();
    let batch = source.poll().unwrap();
    let expected = format!("b.yaml:1:1: error: Service default/reviews: already defined at {}:1:1", dir.path("a.yaml").display());
    let expected = expected.replace(&format!("{}/", dir.dir.path().display()), "");
    assert_eq!(dir.texts(&batch.findings), [expected]);
    match &batch.changes[..] {
        [Change::Upsert(Resource::Service(service))] => assert_eq!(service.ports[0].protocol, AppProtocol::Http),
        other => panic!("{other:?}"),
    }
    // What was good before stays, whichever comes first.
    let dir = Dir::with("b.yaml", REVIEWS);
    let mut source = dir.source();
    source.poll().unwrap();
    dir.write("a.yaml", &REVIEWS.replace("http", "grpc"));
    assert!(source.poll().unwrap().changes.is_empty());
}

#[test]
fn a_policy_defined_twice_denies() {
    let dir = Dir::with("a.yaml", &format!("{DENY}---\n{DENY}"));
    assert_eq!(policy(&dir.source().poll().unwrap()).invalid.as_deref(), Some("defined twice"));
}
