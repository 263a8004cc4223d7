//! Fields about the request.

use super::*;

#[test]
fn hosts_are_compared_without_case_and_with_their_port() {
    for (pattern, holds) in [
        ("shop:80", true),
        ("SHOP:80", true),
        ("shop", false),
        ("shop*", true),
        ("Shop:*", true),
        ("*:80", true),
        ("*P:80", true),
        ("*:8080", false),
        ("*", true),
        ("shop:80/", false),
    ] {
        assert_term(Test::Host(texts(&[pattern])), &facts(), holds);
    }
    let mut nameless = facts();
    nameless.host = "";
    assert_term(Test::Host(texts(&["*"])), &nameless, false);
}

#[test]
fn methods_are_compared_with_case() {
    for (pattern, holds) in [("GET", true), ("get", false), ("G*", true), ("*T", true), ("*", true), ("POST", false)] {
        assert_term(method(pattern), &facts(), holds);
    }
}

#[test]
fn paths_are_compared_with_case_and_without_query() {
    for (pattern, given, holds) in [
        ("/a/b", "/a/b", true),
        ("/a/b", "/a/b?c=d", true),
        ("/a/b", "/a/b/", false),
        ("/a/b", "/A/b", false),
        ("/a*", "/a/b", true),
        ("/a*", "/abc", true),
        ("/a/*", "/a", false),
        ("*/b", "/a/b", true),
        ("*/b", "/a/c?x=/b", false),
        ("*", "/", true),
        ("*", "", false),
        ("/pkg.Svc/Method", "/pkg.Svc/Method", true),
    ] {
        assert_term(path(pattern), &facts().path(given), holds);
    }
}

#[test]
fn path_templates_match_by_segment() {
    for (pattern, given, holds) in [
        ("/foo/{*}", "/foo/bar", true),
        ("/foo/{*}", "/foo/bar?x=/y", true),
        ("/foo/{*}", "/foo/bar/baz", false),
        ("/foo/{*}", "/foo/", false),
        ("/foo/{*}", "/foo", false),
        ("/foo/{*}", "/Foo/bar", false),
        ("/{*}/bar", "/foo/bar", true),
        ("/{*}/bar", "//bar", false),
        ("/{*}/{*}", "/a/b", true),
        ("/{*}/{*}", "/a/b/", false),
        ("/foo/{*}/", "/foo/bar/", true),
        ("/foo/{*}/", "/foo/bar", false),
        ("/foo/{**}", "/foo/bar/baz.txt", true),
        ("/foo/{**}", "/foo/", true),
        ("/foo/{**}", "/foo", false),
        ("/foo/{**}", "/foobar", false),
        ("/{**}", "/", true),
        ("/{**}", "/a/b", true),
        ("/{**}", "a", false),
        ("/foo/{**}/", "/foo/bar/", true),
        ("/foo/{**}/", "/foo//", true),
        ("/foo/{**}/", "/foo/bar", false),
        ("/foo/{**}/", "/foo/", false),
        ("/foo/{*}/bar/{**}", "/foo/x/bar/", true),
        ("/foo/{*}/bar/{**}", "/foo/x/bar/y/z", true),
        ("/foo/{*}/bar/{**}", "/foo/x/y/bar/z", false),
        ("/a/{**}/end", "/a/b/c/end", true),
        ("/a/{**}/end", "/a/end", false),
        ("/a/{**}/end", "/a/bend", false),
    ] {
        assert_term(path(pattern), &facts().path(given), holds);
    }
}

#[test]
fn malformed_templates_are_refused() {
    for bad in [
        "",
        "foo/{*}",
        "/{**}/{*}",
        "/{**}/{**}",
        "/{**}/a/{*}",
        "/foo{*}",
        "/{*}.txt",
        "/{***}",
        "/{}",
        "/{a}",
        "/{*",
        "/a}",
        "/{*}/b*",
        "/{*}/*",
        "/{*}//b",
        "//{*}",
        "/{*}/a b",
        "/{*}/a?b",
    ] {
        assert!(parse_template(bad).is_err(), "{bad:?} must not parse");
    }
    for good in ["/{*}", "/{**}", "/a/{*}/b-._~%!$&'()+,;:@=/{**}/end/"] {
        assert!(parse_template(good).is_ok(), "{good:?} must parse");
    }
}

#[test]
fn headers_are_compared_by_value_and_found_by_name_without_case() {
    let with = |value: &[u8]| facts().header("X-Role", value);
    for (pattern, value, holds) in [
        ("admin", b"admin".as_slice(), true),
        ("admin", b"Admin", false),
        ("admin", b"admins", false),
        ("adm*", b"admin", true),
        ("*min", b"admin", true),
        ("*", b"admin", true),
        ("*", b"", false),
        ("", b"", true),
        ("adm*", b"adm\xff", true),
        ("admin", b"admin\xff", false),
    ] {
        assert_term(header("x-role", pattern), &with(value), holds);
    }
    assert_term(header("x-role", "a,b"), &with(b"a").header("x-role", b"b"), true);
    assert_term(header("x-role", "a"), &with(b"a").header("x-role", b"b"), false);
}

#[test]
fn an_absent_header_matches_no_value_and_every_negation() {
    for pattern in ["admin", "*", "", "a*", "*a"] {
        assert_term(header("x-role", pattern), &facts(), false);
    }
}

#[test]
fn the_remote_address_is_the_last_one_that_was_forwarded() {
    for (lines, expected) in [
        (&[][..], "10.0.0.1"),
        (&["203.0.113.7"], "203.0.113.7"),
        (&["198.51.100.1, 203.0.113.7"], "203.0.113.7"),
        (&["198.51.100.1", " 203.0.113.7 "], "203.0.113.7"),
        (&["198.51.100.1,203.0.113.7", "fd00::1"], "fd00::1"),
        (&["::ffff:203.0.113.7"], "203.0.113.7"),
        // An entry that is no address is not skipped: the one before it is the client's word.
        (&["198.51.100.1, unknown"], "10.0.0.1"),
        (&["198.51.100.1,"], "10.0.0.1"),
        (&["198.51.100.1, 203.0.113.7:1234"], "10.0.0.1"),
        (&[""], "10.0.0.1"),
    ] {
        let facts = lines.iter().fold(facts(), |facts, line| facts.header("X-Forwarded-For", line.as_bytes()));
        assert_eq!(remote_ip(&facts.headers, ip("10.0.0.1")), ip(expected), "{lines:?}");
    }
    assert_eq!(remote_ip(&HeaderMap::new(), ip("::ffff:10.0.0.1")), ip("10.0.0.1"));
    let raw = facts().header("x-forwarded-for", b"\xff");
    assert_eq!(remote_ip(&raw.headers, ip("10.0.0.1")), ip("10.0.0.1"));
}

#[test]
fn without_the_request_http_tests_refuse() {
    let mut opaque = facts();
    opaque.http = false;
    for test in
        [method("GET"), path("/a/b"), header("x", "*"), Test::Host(texts(&["*"])), Test::RemoteIp(vec!["0.0.0.0/0".parse().unwrap()])]
    {
        for term in [is(test.clone()), not(test)] {
            assert!(!passes(&[allow("a", vec![when(term.clone())])], &opaque), "ALLOW {term:?}");
            assert!(!passes(&[deny("d", vec![when(term.clone())])], &opaque), "DENY {term:?}");
        }
    }
}
