//! Documents that are not read again, and places that are found without them.

use super::*;
use crate::model::{Finding, Kind, ResourceId, Severity};

const NAMESPACE: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {name: n}\n";

fn finding(field: &str) -> Finding {
    let resource = ResourceId::new(Kind::Service, "default", "reviews");
    Finding { severity: Severity::Warning, resource, field: field.into(), message: "m".into() }
}

#[test]
fn later_findings_are_placed_by_another_look_at_the_file() {
    let list = format!("{{apiVersion: v1, kind: List, items: [\n  {{apiVersion: v1, kind: Pod}},\n  {}\n]}}", REVIEWS_JSON);
    let rows: &[(&str, &str, (usize, usize))] = &[
        (REVIEWS, "spec.ports[0].port", (4, 35)),
        (&format!("\u{feff}{NAMESPACE}---\n# it\n{REVIEWS}"), "spec.ports[0].port", (9, 35)),
        (&format!("{NAMESPACE}---\n{REVIEWS}---\n{REVIEWS}"), "metadata.name", (7, 18)),
        (&format!("---\n{REVIEWS}...\n{NAMESPACE}"), "nothing", (2, 1)),
        (&list, "spec.ports[0].port", (3, 84)),
        ("apiVersion: v1\nkind: Service\nmetadata: {name: other}\n", "metadata.name", (0, 0)),
    ];
    for (text, field, expected) in rows {
        let dir = Dir::with("a.yaml", text);
        let mut source = dir.source();
        source.poll().unwrap();
        let located = source.locate(vec![finding(field)]);
        assert_eq!((located[0].line, located[0].column), *expected, "{field} in\n{text}");
    }
}

const REVIEWS_JSON: &str = "{apiVersion: v1, kind: Service, metadata: {name: reviews}, spec: {ports: [{port: 80}]}}";

#[test]
fn findings_in_a_file_that_has_changed_since_are_placed_at_their_object() {
    let dir = Dir::with("a.yaml", &format!("{NAMESPACE}---\n{REVIEWS}"));
    let mut source = dir.source();
    source.poll().unwrap();
    for text in [&format!("{NAMESPACE}---\nx: y\n{REVIEWS}"), NAMESPACE, ""] {
        dir.write("a.yaml", text);
        let located = source.locate(vec![finding("spec.ports[0].port")]);
        assert_eq!((located[0].line, located[0].column), (5, 1), "now\n{text}");
    }
    fs::remove_file(dir.path("a.yaml")).unwrap();
    assert_eq!(dir.texts(&source.locate(vec![finding("spec")])), ["a.yaml:5:1: warning: Service default/reviews: spec: m"]);
}

#[test]
fn a_document_that_only_moves_keeps_its_finding_at_its_new_place() {
    let broken = REVIEWS.replace("ports:", "portz:");
    let dir = Dir::with("a.yaml", &format!("{NAMESPACE}---\n{broken}"));
    let mut source = dir.source();
    let place = |batch: &Batch| (batch.findings[0].line, batch.findings[0].column, batch.findings.len());
    assert_eq!(place(&source.poll().unwrap()), (8, 8, 1));
    for (text, expected) in [
        (format!("# first\n{NAMESPACE}---\n{broken}"), (9, 8, 1)),
        (format!("{broken}---\n{NAMESPACE}"), (4, 8, 1)),
        (format!("{NAMESPACE}---\n{}---\n{broken}", NAMESPACE.replace("name: n", "name: m")), (12, 8, 1)),
    ] {
        dir.write("a.yaml", &text);
        assert_eq!(place(&source.poll().unwrap()), expected, "in\n{text}");
    }
}

#[test]
fn what_did_not_change_is_neither_handed_over_again_nor_copied() {
    let pod = |n: usize| format!("---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: n{n}}}\n");
    let pods = |range: std::ops::Range<usize>| range.map(pod).collect::<String>();
    let dir = Dir::with("a.yaml", &pods(0..20));
    let mut source = dir.source();
    assert_eq!(source.poll().unwrap().changes.len(), 20);
    for (text, expected) in [
        (pods(0..10) + &pod(77) + &pods(10..20), vec!["+n77"]),
        (pods(10..20) + &pods(0..10), vec!["-n77"]),
        (pods(1..10) + &pods(10..20), vec!["-n0"]),
        (pods(1..10) + &pods(10..20).replace("n15}", "n15, labels: {a: b}}"), vec!["+n15"]),
        (pods(0..20), vec!["+n0", "+n15"]),
    ] {
        dir.write("a.yaml", &text);
        assert_eq!(keys(&source.poll().unwrap()), expected);
    }
}
