//! How policies, rules, clauses and matches combine.

use super::*;

fn everything() -> Rule {
    Rule::default()
}

fn nothing() -> Rule {
    when(is(principal("nobody")))
}

#[test]
fn without_policies_everything_passes() {
    for layer in [Layer::Http, Layer::WaypointTcp, Layer::Ztunnel] {
        let verdict = check(&[], layer, &facts());
        assert_eq!((verdict.allowed, verdict.reason), (true, Reason::NoPolicy));
    }
    let ruleset = Ruleset::compile(&[], Layer::Http);
    assert_eq!((ruleset.is_empty(), ruleset.len()), (true, 0));
}

#[test]
fn shapes_of_policies_decide_as_istio_documents() {
    for (what, policies, passes_as) in [
        ("ALLOW without rules denies everything", vec![allow("a", vec![])], false),
        ("ALLOW with an empty rule matches everything", vec![allow("a", vec![everything()])], true),
        ("DENY without rules has no effect", vec![deny("d", vec![])], true),
        ("DENY with an empty rule denies everything", vec![deny("d", vec![everything()])], false),
        ("ALLOW that does not match denies", vec![allow("a", vec![nothing()])], false),
        ("DENY that does not match does not deny", vec![deny("d", vec![nothing()])], true),
        ("any rule of an ALLOW suffices", vec![allow("a", vec![nothing(), everything()])], true),
        ("any rule of a DENY suffices", vec![deny("d", vec![nothing(), everything()])], false),
        ("any ALLOW policy suffices", vec![allow("a", vec![nothing()]), allow("b", vec![everything()])], true),
        ("deny wins over allow", vec![allow("a", vec![everything()]), deny("d", vec![everything()])], false),
        ("deny that does not match leaves it to allow", vec![allow("a", vec![everything()]), deny("d", vec![nothing()])], true),
        ("allow nothing does not take from another allow", vec![allow("a", vec![]), allow("b", vec![everything()])], true),
    ] {
        for layer in [Layer::Http, Layer::WaypointTcp, Layer::Ztunnel] {
            assert_eq!(check(&policies, layer, &facts()).allowed, passes_as, "{what} on {layer:?}");
        }
    }
}

#[test]
fn matches_are_alternatives_terms_and_clauses_are_not() {
    let (yes, no) = (is(namespace("foo")), is(namespace("bar")));
    for (what, clauses, holds) in [
        ("one match of a clause suffices", vec![any_of([vec![no.clone()], vec![yes.clone()]])], true),
        ("no match of a clause", vec![any_of([vec![no.clone()], vec![no.clone()]])], false),
        ("every term of a match must hold", vec![any_of([vec![yes.clone(), no.clone()]])], false),
        ("all terms hold", vec![any_of([vec![yes.clone(), is(ports(&[80]))]])], true),
        ("terms of different matches do not add up", vec![any_of([vec![yes.clone(), no.clone()], vec![no.clone()]])], false),
        ("every clause must hold", vec![any_of([vec![yes.clone()]]), any_of([vec![no.clone()]])], false),
        ("all clauses hold", vec![any_of([vec![yes.clone()]]), any_of([vec![is(method("GET"))]])], true),
        ("a clause without matches is true", vec![any_of([])], true),
        ("a match without terms is false", vec![any_of([vec![]])], false),
        ("a match without terms is no alternative", vec![any_of([vec![], vec![no]])], false),
        ("a match without terms does not spoil its neighbour", vec![any_of([vec![], vec![yes]])], true),
    ] {
        let rules = vec![Rule { clauses }];
        assert_eq!(passes(&[allow("a", rules.clone())], &facts()), holds, "ALLOW: {what}");
        assert_eq!(passes(&[deny("d", rules)], &facts()), !holds, "DENY: {what}");
    }
}

#[test]
fn a_field_and_its_not_field_must_both_hold() {
    let rules = vec![rule([any_of([vec![is(principal("td/*")), not(principal("*/sa/admin"))]])])];
    for (account, holds) in [("client", true), ("admin", false)] {
        let facts = facts().peer(Some(("td", "foo", account)));
        assert_eq!(passes(&[allow("a", rules.clone())], &facts), holds, "{account}");
    }
}

#[test]
fn values_are_alternatives_and_a_not_field_excludes_all_of_them() {
    let methods = Test::Method(texts(&["PUT", "GET"]));
    assert_term(methods, &facts(), true);
    assert_term(Test::Method(texts(&["PUT", "POST"])), &facts(), false);
    assert_term(Test::Method(vec![]), &facts(), false);
}

#[test]
fn the_verdict_names_the_rule_that_decided() {
    let name = |reason: &Reason| reason.rule().map(ToString::to_string);
    let allowing = allow("a", vec![nothing(), everything()]);
    let denying = deny("d", vec![nothing(), when(is(namespace("foo"))), everything()]);
    let verdict = check(std::slice::from_ref(&allowing), Layer::Http, &facts());
    assert!(matches!(verdict.reason, Reason::Allowed(_)));
    assert_eq!(name(&verdict.reason).as_deref(), Some("ns[ns]-policy[a]-rule[1]"));
    let verdict = check(&[allowing, denying], Layer::Http, &facts());
    assert!(matches!(verdict.reason, Reason::Denied(_)));
    assert_eq!(name(&verdict.reason).as_deref(), Some("ns[ns]-policy[d]-rule[1]"), "the first in order, though found by another index");
    let verdict = check(&[allow("a", vec![]), allow("b", vec![nothing()])], Layer::Http, &facts());
    assert!(matches!(verdict.reason, Reason::NotAllowed(_)));
    assert_eq!(name(&verdict.reason).as_deref(), Some("ns[ns]-policy[a],ns[ns]-policy[b]"), "all that could have allowed it");
}

#[test]
fn an_invalid_policy_refuses_everything_whatever_its_action() {
    for broken in [invalid(allow("bad", vec![everything()])), invalid(deny("bad", vec![]))] {
        let policies = [allow("a", vec![everything()]), deny("d", vec![everything()]), broken];
        let verdict = check(&policies, Layer::Ztunnel, &facts());
        assert!(!verdict.allowed);
        assert!(matches!(&verdict.reason, Reason::Invalid(rule) if rule.to_string() == "ns[ns]-policy[bad]"), "{verdict:?}");
    }
}

#[test]
fn dry_run_never_changes_the_verdict() {
    let dry_runs = [dry(deny("d", vec![everything()])), dry(allow("a", vec![])), dry(invalid(deny("i", vec![])))];
    let reports = |policies: &[AuthorizationPolicy]| {
        let verdict = check(policies, Layer::Http, &facts());
        (verdict.allowed, verdict.dry_run.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    let (allowed, reported) = reports(&dry_runs);
    assert!(allowed);
    assert_eq!(reported, ["ns[ns]-policy[i]", "ns[ns]-policy[d]-rule[0]", "ns[ns]-policy[a]"]);
    assert!(!Ruleset::compile(&dry_runs, Layer::Http).is_empty());
}

#[test]
fn dry_run_reports_only_what_would_have_refused() {
    let reports = |policies: &[AuthorizationPolicy]| {
        let verdict = check(policies, Layer::Http, &facts());
        verdict.dry_run.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let none: [&str; 0] = [];
    assert_eq!(reports(&[dry(deny("d", vec![nothing()]))]), none);
    assert_eq!(reports(&[dry(allow("a", vec![everything()]))]), none);
    assert_eq!(reports(&[dry(allow("a", vec![nothing()]))]), ["ns[ns]-policy[a]"]);
    // ALLOW policies are alternatives, so another that matches saves the request.
    assert_eq!(reports(&[dry(allow("a", vec![nothing()])), dry(allow("b", vec![everything()]))]), none);
    assert_eq!(reports(&[dry(allow("a", vec![nothing()])), allow("b", vec![everything()])]), none);
    assert_eq!(reports(&[dry(allow("a", vec![])), allow("b", vec![everything()]), deny("d", vec![everything()])]), none);
    assert_eq!(reports(&[dry(deny("d", vec![everything()])), allow("b", vec![])]), ["ns[ns]-policy[d]-rule[0]"]);
}

#[test]
fn len_counts_rules_and_is_empty_means_nobody_is_asked() {
    let len = |policies: &[AuthorizationPolicy]| {
        let ruleset = Ruleset::compile(policies, Layer::Http);
        (ruleset.len(), ruleset.is_empty())
    };
    assert_eq!(len(&[allow("a", vec![])]), (0, false));
    assert_eq!(len(&[deny("d", vec![])]), (0, true));
    assert_eq!(len(&[allow("a", vec![everything(), nothing()]), deny("d", vec![nothing()])]), (3, false));
    assert_eq!(len(&[invalid(deny("d", vec![]))]), (1, false));
}
