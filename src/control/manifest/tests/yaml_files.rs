use super::{
    super::{documents, yaml},
    *,
};

/// The documents of all pieces, each with its place in the file; what is in them counts from the piece.
fn documents(bytes: &[u8]) -> Vec<Result<yaml::Node, yaml::Broken>> {
    let (mut read, mut lines_before) = (Vec::new(), 0);
    for piece in documents::pieces(bytes) {
        if !documents::is_blank(piece) {
            for mut document in documents::documents(piece) {
                document.as_mut().map_or_else(|broken| broken.at.line += lines_before, |node| node.at.line += lines_before);
                read.push(document);
            }
        }
        lines_before += piece.iter().filter(|b| **b == b'\n').count() as u32;
    }
    read
}

fn first(text: &str) -> yaml::Node {
    documents(text.as_bytes()).into_iter().next().unwrap().unwrap()
}

fn broken(text: &str) -> (u32, u32, String) {
    let broken = documents(text.as_bytes()).into_iter().find_map(Result::err).unwrap();
    (broken.at.line, broken.at.column, broken.message)
}

#[test]
fn plain_scalars_follow_the_core_schema() {
    let rows = [
        ("a: 1", "1"),
        ("a: -7", "-7"),
        ("a: +7", "7"),
        ("a: 0x1f", "31"),
        ("a: 0o17", "15"),
        ("a: 1.5", "1.5"),
        ("a: 1e3", "1000.0"),
        ("a: 18446744073709551615", "18446744073709551615"),
        ("a: 1.2.3", "\"1.2.3\""),
        ("a: 10.0.0.1", "\"10.0.0.1\""),
        ("a: .", "\".\""),
        ("a: .inf", "\".inf\""),
        ("a: nan", "\"nan\""),
        ("a: yes", "\"yes\""),
        ("a: True", "true"),
        ("a: ~", "null"),
        ("a:", "null"),
        ("a: '1'", "\"1\""),
        ("a: \"true\"", "\"true\""),
        ("a: !!str 1", "\"1\""),
        ("a: |\n  x\n", "\"x\\n\""),
        ("a: 2024-01-01T00:00:00Z", "\"2024-01-01T00:00:00Z\""),
    ];
    for (text, expected) in rows {
        assert_eq!(first(text).json()["a"].to_string(), expected, "{text}");
    }
}

#[test]
fn places_count_from_one() {
    let node = first("# head\na: 1\nb:\n  - c: x\n    d: {e: y, f: [1, z]}\n");
    let rows = [
        ("", (2, 1)),
        ("a", (2, 4)),
        ("b", (3, 1)),
        ("b[0]", (4, 5)),
        ("b[0].c", (4, 8)),
        ("b[0].d", (5, 5)),
        ("b[0].d.e", (5, 12)),
        ("b[0].d.f[1]", (5, 22)),
        // As far as the path exists.
        ("b[0].d.nothing", (5, 5)),
        ("b[7]", (3, 1)),
    ];
    for (field, expected) in rows {
        let at = yaml::locate(&node, field);
        assert_eq!((at.line, at.column), expected, "{field}");
    }
}

#[test]
fn keys_with_dots_are_quoted_in_paths() {
    let node = first("labels:\n  istio.io/use-waypoint: w\n");
    let path = yaml::join("labels", "istio.io/use-waypoint");
    assert_eq!(path, "labels[\"istio.io/use-waypoint\"]");
    assert_eq!(yaml::locate(&node, &path), yaml::Position { line: 2, column: 26 });
}

#[test]
fn aliases_are_expanded_within_a_budget() {
    assert_eq!(first("a: &x {b: 1}\nc: *x").json().to_string(), r#"{"a":{"b":1},"c":{"b":1}}"#);
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for i in 1..9 {
        let before = i - 1;
        bomb += &format!("a{i}: &a{i} [*a{before}, *a{before}, *a{before}, *a{before}, *a{before}, *a{before}, *a{before}, *a{before}]\n");
    }
    assert!(broken(&bomb).2.contains("aliases expand"), "{:?}", broken(&bomb));
}

#[test]
fn nesting_is_bounded() {
    let flow = "[".repeat(300);
    assert!(!documents(flow.as_bytes()).iter().any(Result::is_ok));
    let block: String = (0..300).map(|i| format!("{}a:\n", " ".repeat(i))).collect();
    assert!(broken(&block).2.contains("nested deeper"), "{:?}", broken(&block));
}

#[test]
fn what_cannot_be_read_is_said_with_its_place() {
    let rows = [
        ("a: 1\nb: [\n", 3),
        ("a: \"x\n", 1),
        ("a: b: c\n", 1),
        ("? {a: b}\n: c\n", 1),
        ("a: !custom x\n", 1),
        ("a: *nobody\n", 1),
        ("a: &x [*x]\n", 1),
    ];
    for (text, line) in rows {
        assert_eq!(broken(text).0, line, "{text:?}: {:?}", broken(text));
    }
    let documents = documents(b"a: 1\n---\nb: \xff\n");
    let at = documents[1].as_ref().unwrap_err().at;
    assert!(documents[0].is_ok());
    assert_eq!((at.line, at.column), (3, 4));
}

#[test]
fn a_broken_document_does_not_hide_the_others() {
    let text = "%YAML 1.2\n---\na: 1\n---\n  b: [\n--- # third\nc: 3\n...\n---\n# nothing\n---\nd: 4\n";
    let documents = documents(text.as_bytes());
    let read: Vec<_> = documents.iter().map(|d| d.as_ref().map(|n| (n.json().to_string(), n.at.line)).map_err(|b| b.at.line)).collect();
    assert_eq!(read, [Ok((r#"{"a":1}"#.into(), 3)), Err(6), Ok((r#"{"c":3}"#.into(), 7)), Ok((r#"{"d":4}"#.into(), 12))]);
}

#[test]
fn json_is_read_with_places() {
    let node = first("{\n\t\"a\": {\n\t\t\"b\": [1, \"x\\n\\u00e9\\/\", true, null]\n\t}\n}\n");
    assert_eq!(node.json().to_string(), r#"{"a":{"b":[1,"x\né/",true,null]}}"#);
    let at = yaml::locate(&node, "a.b[1]");
    assert_eq!((at.line, at.column), (3, 12));
}

#[test]
fn duplicate_and_merge_keys_are_errors_of_their_resource() {
    assert_findings(&[
        (
            "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: a\n  labels: {x: '1'}\n  labels: {y: '2'}\n",
            &["6:3: error: Namespace a: metadata.labels: duplicate key"],
        ),
        (
            "apiVersion: v1\nkind: Namespace\nmetadata: &m\n  name: a\nspec:\n  <<: *m\n",
            &["6:3: error: Namespace a: spec.<<: merge keys are not supported", "6:3: error: Namespace a: spec.<<: unknown field"],
        ),
    ]);
}

#[test]
fn lists_are_expanded() {
    let list = r#"{"apiVersion": "v1", "kind": "List", "items": [
      {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}},
      {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "b", "colour": "red"}}
    ]}"#;
    let dir = Dir::with("m.json", list);
    let loaded = load(dir.config());
    assert_eq!(loaded.mesh.namespaces.len(), 1);
    assert_eq!(dir.texts(&loaded.findings), ["m.json:3:75: error: Namespace b: metadata.colour: unknown field"]);
    let typed = "apiVersion: v1\nkind: NamespaceList\nitems:\n- metadata: {name: a}\n- metadata: {name: b}\n";
    assert_eq!(mesh(typed).namespaces.len(), 2);
}

#[test]
fn what_is_no_object_is_an_error() {
    assert_findings(&[
        ("just text\n", &["1:1: error: apiVersion: apiVersion is required"]),
        ("apiVersion: v1\nmetadata: {name: x}\n", &["1:1: error: kind: kind is required"]),
        ("apiVersion: v1\nkind: Pod\nmetadata: {generateName: x-}\n", &["3:1: error: metadata.name: Pod without a name"]),
        (
            "apiVersion: v2\nkind: Namespace\nmetadata: {name: x}\n",
            &["1:13: error: Namespace x: apiVersion: version \"v2\" of Namespace is not supported"],
        ),
        (
            "apiVersion: v1\nkind: Namespace\nmetadata: {name: No_Good}\n",
            &["3:18: error: Namespace No_Good: metadata.name: \"No_Good\" is not a valid name: lower case letters, digits and '-'"],
        ),
    ]);
}

#[test]
fn other_kinds_are_told_once_each() {
    assert_findings(&[(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\n---\napiVersion: v1\nkind: Secret\nmetadata: {name: s}\n---\n\
         apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: b}\n---\napiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: k}\n",
        &[
            "1:1: warning: kind Deployment (apps/v1) is not used; skipped",
            "5:1: warning: kind Secret (v1) is not used; skipped",
            "13:1: warning: kind Service (serving.knative.dev/v1) is not used; skipped",
        ],
    )]);
}

mod arbitrary {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        #[test]
        fn bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            read(&bytes);
        }

        #[test]
        fn yaml_like_text_never_panics(text in "[-a-c:{}\\[\\],&*!|>'\"#?%@ \t\n~<.0-9]{0,120}") {
            read(text.as_bytes());
        }

        #[test]
        fn cut_and_mangled_manifests_never_panic(cut in 0usize..2000, at in 0usize..2000, byte in any::<u8>()) {
            let mut bytes = include_str!("all_kinds.yaml").as_bytes().to_vec();
            let at = at % bytes.len();
            bytes[at] = byte;
            bytes.truncate(cut.min(bytes.len()));
            read(&bytes);
        }
    }

    fn read(bytes: &[u8]) {
        let dir = Dir::new();
        for node in documents(bytes).into_iter().flatten() {
            super::super::super::decode::objects(&dir.config(), &node, &mut Vec::new());
        }
    }
}
