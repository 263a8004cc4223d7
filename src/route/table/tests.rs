mod oracle;

use super::super::testing::{Request, With, on, rank};
use super::*;
use crate::model::ResourceName;
use std::cmp::Ordering;

fn table(matches: impl IntoIterator<Item = (RouteMatch, &'static str)>) -> RouteTable<&'static str> {
    let entries = matches.into_iter().enumerate().map(|(index, (matching, payload))| Entry { matching, rank: rank(index), payload });
    RouteTable::build(entries.collect()).unwrap()
}

#[track_caller]
fn check(table: &RouteTable<&'static str>, cases: impl IntoIterator<Item = (Request, Option<&'static str>)>) {
    for (request, expected) in cases {
        assert_eq!(table.find(&request.view()).map(|found| *found.payload), expected, "{request:?}");
    }
}

fn get(target: &str) -> Request {
    Request::get(target)
}

#[test]
fn mesh_http_route_matching() {
    let table =
        table([(on("/"), "v1"), (on("/").header("version", "one"), "v1"), (on("/v2"), "v2"), (on("/").header("version", "two"), "v2")]);
    check(
        &table,
        [
            (get("/"), Some("v1")),
            (get("/example"), Some("v1")),
            (get("/").header("version", b"one"), Some("v1")),
            (get("/v2"), Some("v2")),
            (get("/v2/example"), Some("v2")),
            (get("/v2/"), Some("v2")),
            (get("/").header("version", b"two"), Some("v2")),
            (get("/v2example"), Some("v1")),
            (get("/foo/v2/example"), Some("v1")),
        ],
    );
}

#[test]
fn http_route_exact_path_matching() {
    let table = table([(on("=/one"), "v1"), (on("=/two"), "v2")]);
    check(
        &table,
        [
            (get("/one"), Some("v1")),
            (get("/two"), Some("v2")),
            (get("/one?query"), Some("v1")),
            (get("/two/"), None),
            (get("/Two"), None),
            (get("/one/example"), None),
            (get("/"), None),
        ],
    );
}

#[test]
fn http_route_path_match_order() {
    let table = table([
        (on("/match"), "prefix"),
        (on("/match/prefix/one/"), "long"),
        (on("=/match/exact/one"), "exact"),
        (on("=/match/exact"), "short exact"),
        (on("/match/prefix/"), "middle"),
        (on("/match/exact/one"), "never for the exact path"),
    ]);
    check(
        &table,
        [
            (get("/match/exact/one"), Some("exact")),
            (get("/match/exact"), Some("short exact")),
            (get("/match/exact/one/two"), Some("never for the exact path")),
            (get("/match"), Some("prefix")),
            (get("/match/prefix/one"), Some("long")),
            (get("/match/prefix/one/any"), Some("long")),
            (get("/match/prefix"), Some("middle")),
            (get("/match/prefix/oneany"), Some("middle")),
            (get("/matching"), None),
        ],
    );
}

#[test]
fn a_trailing_slash_of_a_prefix_has_no_meaning() {
    for prefix in ["/abc", "/abc/"] {
        let table = table([(on(prefix), "hit")]);
        check(&table, [(get("/abc"), Some("hit")), (get("/abc/"), Some("hit")), (get("/abc/d"), Some("hit")), (get("/abcd"), None)]);
    }
    // Nor does it make the prefix longer: the first in the list wins.
    let both = table([(on("/abc"), "first"), (on("/abc/"), "second")]);
    check(&both, [(get("/abc/d"), Some("first"))]);
}

#[test]
fn http_route_method_matching() {
    let table = table([
        (on("/").method("POST"), "post"),
        (on("/").method("GET"), "get"),
        (on("/path1").method("GET"), "path1"),
        (on("/").method("PUT").header("version", "one"), "put one"),
        (on("/path5"), "path5"),
        (on("/").method("PATCH"), "patch"),
        (on("/").header("version", "four").header("other", "x"), "two headers"),
    ]);
    check(
        &table,
        [
            (get("/").method("POST"), Some("post")),
            (get("/"), Some("get")),
            (get("/path1"), Some("path1")),
            (get("/").method("HEAD"), None),
            (get("/").method("get"), None),
            (get("/").method("PUT"), None),
            (get("/").method("PUT").header("version", b"one"), Some("put one")),
            (get("/path5").method("PATCH"), Some("path5")),
            // A method counts for more than any number of headers.
            (get("/").method("PATCH").header("version", b"four").header("other", b"x"), Some("patch")),
            (get("/").method("DELETE").header("version", b"four").header("other", b"x"), Some("two headers")),
        ],
    );
}

#[test]
fn http_route_header_matching() {
    let table = table([
        (on("/").header("version", "one"), "v1"),
        (on("/").header("version", "two"), "v2"),
        (on("/").header("version", "two").header("color", "orange"), "orange"),
        (on("/").header("color", "blue"), "blue"),
        (on("/").header("color", "~gr[ae]y"), "grey"),
        (on("/").header("list", "a,b"), "list"),
        (on("/").header("empty", ""), "empty"),
    ]);
    check(
        &table,
        [
            (get("/").header("Version", b"one"), Some("v1")),
            (get("/").header("version", b"two"), Some("v2")),
            (get("/").header("version", b"two").header("color", b"orange"), Some("orange")),
            (get("/").header("color", b"orange"), None),
            (get("/").header("version", b"two").header("color", b"blue"), Some("v2")),
            (get("/").header("color", b"Blue"), None),
            (get("/").header("color", b"gray"), Some("grey")),
            (get("/").header("color", b"grayish"), None),
            (get("/").header("list", b"a").header("list", b"b"), Some("list")),
            (get("/").header("list", b"a,b"), Some("list")),
            (get("/").header("version", b"one").header("version", b"one"), None),
            (get("/").header("version", b"one\xff"), None),
            (get("/").header("list", b"a").header("list", b"\xff"), None),
            (get("/").header("empty", b""), Some("empty")),
            (get("/"), None),
        ],
    );
}

#[test]
fn an_absent_header_or_parameter_matches_no_expression() {
    let table = table([(on("/").header("a", "~.*"), "header"), (on("/").query("a", "~.*"), "query")]);
    check(&table, [(get("/"), None), (get("/").header("a", b""), Some("header")), (get("/?a"), Some("query")), (get("/?b=a"), None)]);
}

#[test]
fn mesh_http_route_query_param_matching() {
    let table = table([
        (on("/").query("animal", "whale"), "whale"),
        (on("/").query("animal", "dolphin"), "dolphin"),
        (on("/").query("animal", "dolphin").query("color", "blue"), "blue dolphin"),
        (on("/path1").query("animal", "whale"), "path1"),
        (on("/").header("version", "one").query("animal", "whale"), "header"),
        (on("/path5"), "path5"),
        (on("/").query("animal", "hydra"), "hydra"),
        (on("/").query("animal", "~sea .*"), "sea"),
    ]);
    check(
        &table,
        [
            (get("/?animal=whale"), Some("whale")),
            (get("/?animal=dolphin"), Some("dolphin")),
            (get("/?animal=dolphin&color=blue"), Some("blue dolphin")),
            (get("/?color=blue&other=1&animal=dolphin"), Some("blue dolphin")),
            (get("/?animal=dolphin&color=green"), Some("dolphin")),
            (get("/?animal=whaledolphin"), None),
            (get("/?animal=Whale"), None),
            (get("/?Animal=whale"), None),
            (get("/?color=blue"), None),
            (get("/?"), None),
            (get("/"), None),
            (get("/path1?animal=whale"), Some("path1")),
            (get("/?animal=whale").header("version", b"one"), Some("header")),
            (get("/path5?animal=hydra"), Some("path5")),
            (get("/?animal=hydra"), Some("hydra")),
            (get("/?animal=sea+lion"), Some("sea")),
        ],
    );
}

#[test]
fn the_first_parameter_of_a_name_counts_and_both_sides_are_decoded() {
    let table = table([(on("/").query("a b", "c/d"), "decoded"), (on("/").query("x", "1"), "x"), (on("/").query("p", "100%"), "percent")]);
    check(
        &table,
        [
            (get("/?a%20b=c%2Fd"), Some("decoded")),
            (get("/?a+b=c/d"), Some("decoded")),
            (get("/?a%2bb=c/d"), None),
            (get("/?%78=%31"), Some("x")),
            (get("/?x=1&x=2"), Some("x")),
            (get("/?x=2&x=1"), None),
            (get("/?x=2&%78=1"), None),
            (get("/?x&x=1"), None),
            (get("/?&&x=1"), Some("x")),
            (get("/?x=%ff&x=1"), None),
            (get("/?p=100%"), Some("percent")),
            (get("/?p=100%25"), Some("percent")),
        ],
    );
}

#[test]
fn regular_expressions_match_whole_paths_after_exact_ones_and_before_prefixes() {
    let table = table([
        (on("/"), "prefix"),
        (on("/api/v1/long/prefix"), "long prefix"),
        (on("~/api/v[0-9]+"), "short"),
        (on("~/api/v[0-9]+/.*"), "longer"),
        (on("~/api/.*|/x"), "alternative"),
        (on("=/api/v7"), "exact"),
    ]);
    check(
        &table,
        [
            (get("/api/v7"), Some("exact")),
            (get("/api/v8"), Some("short")),
            (get("/api/v8/users"), Some("longer")),
            (get("/api/v1/long/prefix"), Some("longer")),
            (get("/api/other"), Some("alternative")),
            (get("/x"), Some("alternative")),
            (get("/x/y"), Some("prefix")),
            (get("/api"), Some("prefix")),
        ],
    );
}

#[test]
fn ties_go_to_the_oldest_route_then_by_name_then_by_place() {
    let place =
        |created, namespace: &str, name: &str, rule, index| Rank { created, route: ResourceName::new(namespace, name), rule, index };
    let sorted = [
        place(Some(-5), "z", "z", 9, 9),
        place(Some(1), "z", "z", 0, 0),
        place(Some(2), "a", "a", 0, 0),
        // `-` sorts before the `/` of `namespace/name`.
        place(None, "a-b", "x", 0, 0),
        place(None, "a", "a", 0, 1),
        place(None, "a", "a", 1, 0),
        place(None, "a", "b", 0, 0),
        place(None, "b", "a", 0, 0),
    ];
    for (less, greater) in sorted.iter().zip(&sorted[1..]) {
        assert_eq!(less.cmp(greater), Ordering::Less, "{less:?} {greater:?}");
    }
    let entries = sorted.iter().rev().map(|rank| Entry { matching: on("/"), rank: rank.clone(), payload: () });
    let table = RouteTable::build(entries.collect()).unwrap();
    assert_eq!(table.find(&get("/a").view()).unwrap().rank, &sorted[0]);
    assert_eq!(table.iter().map(|entry| &entry.rank).collect::<Vec<_>>(), sorted.iter().collect::<Vec<_>>());
}

#[test]
fn what_was_found_tells_the_pattern_for_rewrites() {
    let table = table([(on("/a/"), "hit")]);
    let request = get("/a/b");
    let found = table.find(&request.view()).unwrap();
    assert_eq!((found.path, found.rank), (&PathPattern::Prefix("/a/".into()), &rank(0)));
}

#[test]
fn an_empty_table_finds_nothing() {
    let table = table([]);
    assert!(table.is_empty());
    check(&table, [(get("/"), None), (get("*"), None)]);
}

#[test]
fn bad_expressions_are_refused_with_their_place() {
    let build = |bad: RouteMatch| {
        let entries = [on("/"), bad].into_iter().enumerate().map(|(index, matching)| Entry { matching, rank: rank(index), payload: () });
        RouteTable::build(entries.collect()).unwrap_err()
    };
    for pattern in ["~(", "~a)|(?:b", "~(?=a)", "~[z-a]"] {
        for bad in [on(pattern), on("/").header("a", pattern), on("/").query("a", pattern)] {
            let error = build(bad);
            assert!(matches!(error, RouteError::Syntax { .. }), "{error:?}");
            assert_eq!(error.rank(), Some(&rank(1)));
        }
    }
    for pattern in [r"~(\w{100}){100}".to_owned(), format!("~{}", "a".repeat(5000))] {
        let error = build(on(&pattern));
        assert!(matches!(error, RouteError::TooLarge { .. }), "{error:?}");
        assert_eq!(error.rank(), Some(&rank(1)));
    }
    assert_eq!(super::super::compile_regex("(").unwrap_err().rank(), None);
}

#[test]
fn anchors_hold_for_inline_flags_and_alternatives() {
    let full = |pattern: &str, text: &str| super::super::compile_regex(pattern).unwrap().is_match(text);
    assert!(!full("a|b", "ab"));
    assert!(!full("(?m)a$", "a\nb"));
    assert!(!full("a", "a\n"));
    assert!(full("(?i)ABC", "abc"));
    assert!(full("^a$", "a"));
}
