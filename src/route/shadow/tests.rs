use super::super::testing::{With, any_match, any_request, naive_match, on};
use super::*;
use proptest::prelude::*;

#[test]
fn wider_matches_shadow_narrower_ones() {
    for (earlier, later) in [
        (on("/"), on("/")),
        (on("/"), on("=/a")),
        (on("/"), on("~/a.*")),
        (on("/a"), on("/a/")),
        (on("/a/"), on("/a/b")),
        (on("/a"), on("=/a")),
        (on("~/a.*"), on("=/ab")),
        (on("~/a.*"), on("~/a.*")),
        (on("~/.*"), on("/a")),
        (on("/"), on("/").method("GET").header("x", "a").query("y", "b")),
        (on("/").header("x", "~a.*"), on("/").header("x", "ab").header("y", "z")),
        (on("/").query("x", "a"), on("=/a").query("x", "a").query("y", "b")),
    ] {
        assert!(shadows(&earlier, &later), "{earlier:?} {later:?}");
    }
}

#[test]
fn what_is_not_certain_is_not_said() {
    for (earlier, later) in [
        (on("/a"), on("/")),
        (on("/a"), on("/ab")),
        (on("/a"), on("=/ab")),
        (on("=/a"), on("/a")),
        (on("=/a"), on("=/a/")),
        (on("=/a"), on("~/a")),
        (on("~/a.*"), on("~/ab.*")),
        (on("~/a"), on("=/ab")),
        (on("~("), on("=/(")),
        (on("/").method("GET"), on("/")),
        (on("/").method("GET"), on("/").method("POST")),
        (on("/").header("x", "a"), on("/")),
        (on("/").header("x", "a"), on("/").header("x", "~a")),
        (on("/").header("x", "a"), on("/").header("y", "a")),
        (on("/").query("x", "a"), on("/").query("X", "a")),
        (on("/").query("x", "a"), on("/").header("x", "a")),
    ] {
        assert!(!shadows(&earlier, &later), "{earlier:?} {later:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn nothing_escapes_a_shadow(earlier in any_match(), later in any_match(), requests in prop::collection::vec(any_request(), 1..16)) {
        if shadows(&earlier, &later) {
            for request in requests {
                prop_assert!(!naive_match(&later, &request) || naive_match(&earlier, &request), "{:?}", request);
            }
        }
    }
}
