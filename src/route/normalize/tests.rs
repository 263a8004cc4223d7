use super::*;
use PathNormalization::{Base, DecodeAndMergeSlashes, MergeSlashes, None as Raw};
use proptest::prelude::*;

const MODES: [PathNormalization; 4] = [Raw, Base, MergeSlashes, DecodeAndMergeSlashes];

#[test]
fn each_mode_spells_a_path_in_its_way() {
    // path, then what NONE, BASE, MERGE_SLASHES and DECODE_AND_MERGE_SLASHES make of it
    for (path, expected) in [
        ("/", ["/", "/", "/", "/"]),
        ("/a/b", ["/a/b"; 4]),
        ("/a/", ["/a/"; 4]),
        ("/a/./b", ["/a/./b", "/a/b", "/a/b", "/a/b"]),
        ("/a/../b", ["/a/../b", "/b", "/b", "/b"]),
        ("/a/b/..", ["/a/b/..", "/a/", "/a/", "/a/"]),
        ("/a/b/.", ["/a/b/.", "/a/b/", "/a/b/", "/a/b/"]),
        ("/../../a", ["/../../a", "/a", "/a", "/a"]),
        ("/..", ["/..", "/", "/", "/"]),
        ("/a/...", ["/a/..."; 4]),
        ("/.well-known/x", ["/.well-known/x"; 4]),
        ("/a/..b", ["/a/..b"; 4]),
        ("/a/%2e%2E/b", ["/a/%2e%2E/b", "/b", "/b", "/b"]),
        ("/a/.%2e/b", ["/a/.%2e/b", "/b", "/b", "/b"]),
        ("/%61%2Db", ["/%61%2Db", "/a-b", "/a-b", "/a-b"]),
        ("/a%3fb%c3%a9", ["/a%3fb%c3%a9", "/a%3Fb%C3%A9", "/a%3Fb%C3%A9", "/a%3Fb%C3%A9"]),
        ("/é", ["/é", "/%C3%A9", "/%C3%A9", "/%C3%A9"]),
        ("/a\\b", ["/a\\b", "/a/b", "/a/b", "/a/b"]),
        ("/a\\..\\b", ["/a\\..\\b", "/b", "/b", "/b"]),
        ("/a%2fb%5cc", ["/a%2fb%5cc", "/a%2Fb%5Cc", "/a%2Fb%5Cc", "/a/b/c"]),
        ("/a/..%2fb", ["/a/..%2fb", "/a/..%2Fb", "/a/..%2Fb", "/b"]),
        ("/a//b///c", ["/a//b///c", "/a//b///c", "/a/b/c", "/a/b/c"]),
        ("//a", ["//a", "//a", "/a", "/a"]),
        ("/a//../b", ["/a//../b", "/a/b", "/a/b", "/a/b"]),
        ("/%252e%252e/a", ["/%252e%252e/a"; 4]),
        ("/%252f", ["/%252f"; 4]),
        ("/a;v=1/b;x", ["/a;v=1/b;x"; 4]),
        ("/a/..;/b", ["/a/..;/b"; 4]),
        ("/a%20b+c", ["/a%20b+c"; 4]),
        ("/a%0a", ["/a%0a", "/a%0A", "/a%0A", "/a%0A"]),
    ] {
        for (mode, expected) in MODES.into_iter().zip(expected) {
            assert_eq!(normalize(path, mode).as_deref(), Ok(expected), "{path} {mode:?}");
        }
    }
}

#[test]
fn what_is_no_path_is_refused_in_every_mode() {
    for (path, error) in [
        ("", PathError::Relative),
        ("*", PathError::Relative),
        ("a/b", PathError::Relative),
        ("http://h/a", PathError::Relative),
        ("\\a", PathError::Relative),
        ("/a#b", PathError::Delimiter),
        ("/a?b", PathError::Delimiter),
        ("/a\0", PathError::Control),
        ("/a\nb", PathError::Control),
        ("/a\x7f", PathError::Control),
    ] {
        for mode in MODES {
            assert_eq!(normalize(path, mode), Err(error), "{path:?} {mode:?}");
        }
    }
}

#[test]
fn bad_escapes_are_refused_wherever_escapes_are_read() {
    for (path, error) in [
        ("/%", PathError::Escape),
        ("/%4", PathError::Escape),
        ("/%zz", PathError::Escape),
        ("/%4g", PathError::Escape),
        ("/%+1", PathError::Escape),
        ("/a%é", PathError::Escape),
        ("/a%00", PathError::Control),
    ] {
        assert_eq!(normalize(path, Raw).as_deref(), Ok(path), "NONE reads no escapes");
        for mode in [Base, MergeSlashes, DecodeAndMergeSlashes] {
            assert_eq!(normalize(path, mode), Err(error), "{path:?} {mode:?}");
        }
    }
}

#[test]
fn istios_spellings_are_read_and_no_others() {
    for (text, mode) in [
        ("NONE", Raw),
        ("BASE", Base),
        ("DEFAULT", Base),
        ("MERGE_SLASHES", MergeSlashes),
        ("DECODE_AND_MERGE_SLASHES", DecodeAndMergeSlashes),
    ] {
        assert_eq!(text.parse(), Ok(mode));
    }
    for text in ["", "base", "MERGE", "NONE "] {
        assert!(text.parse::<PathNormalization>().is_err(), "{text:?}");
    }
    assert_eq!(PathNormalization::default(), Base);
}

fn nasty_path() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("/"),
        Just("."),
        Just(".."),
        Just("a"),
        Just("\\"),
        Just(";"),
        Just("%2e"),
        Just("%2E"),
        Just("%2f"),
        Just("%5C"),
        Just("%25"),
        Just("2e"),
        Just("2f"),
        Just("%61"),
        Just("é"),
        Just("%c3"),
        Just("%7e"),
        Just("%"),
        Just("%3b"),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| format!("/{}", pieces.concat()))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn a_normal_path_is_its_own_normal_form(path in nasty_path(), mode in prop::sample::select(&MODES[..])) {
        if let Ok(once) = normalize(&path, mode) {
            let twice = normalize(&once, mode);
            prop_assert_eq!(twice.as_deref(), Ok(&*once));
            prop_assert!(matches!(twice, Ok(Cow::Borrowed(_))), "an unchanged path is borrowed");
        }
    }

    #[test]
    fn a_normal_path_has_no_dot_segments(path in nasty_path(), mode in prop::sample::select(&MODES[1..])) {
        if let Ok(normal) = normalize(&path, mode) {
            prop_assert!(normal.starts_with('/'));
            prop_assert!(normal.split('/').all(|segment| !matches!(segment, "." | "..")), "{}", normal);
            prop_assert!(!normal.contains('\\') && normal.is_ascii());
        }
    }

    #[test]
    fn merged_paths_have_no_double_slashes(path in nasty_path(), mode in prop::sample::select(&MODES[2..])) {
        if let Ok(normal) = normalize(&path, mode) {
            prop_assert!(!normal.contains("//"), "{}", normal);
        }
    }

    #[test]
    fn any_text_is_judged_without_a_panic(path in ".{0,40}", mode in prop::sample::select(&MODES[..])) {
        let _ = normalize(&path, mode);
        let _ = normalize(&format!("/{path}"), mode);
    }
}
