//! What becomes of HTTP tests where there is no HTTP.

use super::*;

fn http_tests() -> Vec<Test> {
    let any = "0.0.0.0/0".parse().unwrap();
    vec![method("POST"), path("/x"), header("x", "y"), Test::Host(texts(&["x"])), Test::RemoteIp(vec![any])]
}

/// Whether a connection of `foo` to port 80 is refused by a DENY policy of one rule.
fn denies(layer: Layer, rule: Rule) -> bool {
    let verdict = check(&[deny("d", vec![rule])], layer, &opaque());
    assert!(matches!(verdict.reason, Reason::Denied(_) | Reason::NoPolicy), "{verdict:?}");
    !verdict.allowed
}

fn opaque() -> Facts {
    Facts { http: false, ..facts() }
}

#[test]
fn an_allow_rule_with_an_http_test_never_matches_without_http() {
    for layer in [Layer::WaypointTcp, Layer::Ztunnel] {
        for test in http_tests() {
            for term in [is(test.clone()), not(test)] {
                let beside_it = rule([any_of([vec![is(namespace("foo")), term.clone()]])]);
                let as_alternative = rule([any_of([vec![is(namespace("foo"))], vec![term.clone()]])]);
                let in_a_clause = rule([any_of([vec![is(namespace("foo"))]]), any_of([vec![term]])]);
                for rule in [beside_it, as_alternative, in_a_clause] {
                    let verdict = check(&[allow("a", vec![rule.clone()])], layer, &opaque());
                    assert!(matches!(verdict.reason, Reason::NotAllowed(_)), "{layer:?} {rule:?}");
                    let rescued = check(&[allow("a", vec![rule, Rule::default()])], layer, &opaque());
                    assert!(rescued.allowed, "the other rules of the policy still hold");
                }
            }
        }
    }
}

#[test]
fn a_deny_rule_keeps_what_can_be_judged() {
    for layer in [Layer::WaypointTcp, Layer::Ztunnel] {
        for test in http_tests() {
            for term in [is(test.clone()), not(test)] {
                let of = |pattern| rule([any_of([vec![is(namespace(pattern)), term.clone()]])]);
                assert!(denies(layer, of("foo")), "{layer:?} {term:?}");
                assert!(!denies(layer, of("bar")), "{layer:?} {term:?}");
                let clauses = |pattern| rule([any_of([vec![is(namespace(pattern))]]), any_of([vec![term.clone()]])]);
                assert!(denies(layer, clauses("foo")), "{layer:?} {term:?}");
                assert!(!denies(layer, clauses("bar")), "{layer:?} {term:?}");
            }
        }
    }
}

#[test]
fn a_deny_rule_of_http_tests_alone_denies_all_at_a_waypoint_and_nothing_at_a_ztunnel() {
    for test in http_tests() {
        for rule in [
            when(is(test.clone())),
            when(not(test.clone())),
            rule([any_of([vec![is(test.clone())]]), any_of([vec![is(method("GET"))]])]),
            rule([any_of([]), any_of([vec![is(test.clone())]])]),
            rule([any_of([vec![is(test.clone())], vec![]])]),
        ] {
            assert!(denies(Layer::WaypointTcp, rule.clone()), "{rule:?}");
            assert!(!denies(Layer::Ztunnel, rule.clone()), "{rule:?}");
        }
    }
}

#[test]
fn a_deny_rule_that_was_empty_from_the_start_denies_all_everywhere() {
    for layer in [Layer::Http, Layer::WaypointTcp, Layer::Ztunnel] {
        assert!(denies(layer, Rule::default()));
        assert!(denies(layer, rule([any_of([])])));
        assert!(!denies(layer, rule([any_of([vec![]])])), "a match without terms stays false");
    }
}

#[test]
fn an_alternative_that_loses_everything_makes_its_clause_true() {
    // from foo, to {method GET} or {port 443}: the first may hold for any connection.
    let of = |pattern, port| rule([any_of([vec![is(namespace(pattern))]]), any_of([vec![is(method("GET"))], vec![is(ports(&[port]))]])]);
    for layer in [Layer::WaypointTcp, Layer::Ztunnel] {
        assert!(denies(layer, of("foo", 443)));
        assert!(denies(layer, of("foo", 80)));
        assert!(!denies(layer, of("bar", 80)));
    }
}

#[test]
fn a_ztunnel_keeps_the_alternatives_it_can_judge_rather_than_nothing() {
    // to {method GET} or {port N}: widened, it would deny everything; dropped, it would let port N
    // pass.
    let of = |port| rule([any_of([vec![is(method("GET"))], vec![is(ports(&[port]))]])]);
    assert!(denies(Layer::Ztunnel, of(80)));
    assert!(!denies(Layer::Ztunnel, of(443)));
    assert!(denies(Layer::WaypointTcp, of(443)));
    let more = |port| rule([any_of([vec![is(method("GET"))], vec![is(ports(&[port]))]]), any_of([vec![is(path("/x"))]])]);
    assert!(denies(Layer::Ztunnel, more(80)));
    assert!(!denies(Layer::Ztunnel, more(443)));
}

#[test]
fn a_match_that_was_false_from_the_start_does_not_become_true() {
    let rule = rule([any_of([vec![]]), any_of([vec![is(method("GET"))]])]);
    for layer in [Layer::Http, Layer::WaypointTcp, Layer::Ztunnel] {
        assert!(!denies(layer, rule.clone()), "{layer:?}");
    }
}

#[test]
fn a_ztunnel_sees_no_server_names_and_a_waypoint_does() {
    let sni = is(Test::Sni(texts(&["x"])));
    let beside = rule([any_of([vec![is(namespace("foo")), sni.clone()]])]);
    assert!(denies(Layer::Ztunnel, beside.clone()));
    assert!(!denies(Layer::WaypointTcp, beside.clone()));
    assert!(!denies(Layer::Ztunnel, when(sni.clone())));
    let named = Facts { sni: Some("x"), ..opaque() };
    assert!(!check(&[deny("d", vec![beside])], Layer::WaypointTcp, &named).allowed);
    assert!(!check(&[allow("a", vec![when(sni.clone())])], Layer::Ztunnel, &named).allowed);
    assert!(check(&[allow("a", vec![when(sni)])], Layer::WaypointTcp, &named).allowed);
}
