use super::*;
use crate::{
    model::{
        Action, AuthorizationPolicy, Clause, Match, NamespacePattern, PolicyTarget, Resource, ResourceName, Rule, StringMatch, Term, Test,
    },
    state::Change,
    ztunnel::tests::fixture::{Hop, NAMESPACE, mesh, pod, uid},
};

fn is(test: Test) -> Term {
    Term { negated: false, test }
}

fn not(test: Test) -> Term {
    Term { negated: true, test }
}

fn clause(matches: impl IntoIterator<Item = Vec<Term>>) -> Clause {
    Clause { matches: matches.into_iter().map(|terms| Match { terms }).collect() }
}

fn all(clauses: impl IntoIterator<Item = Clause>) -> Rule {
    Rule { clauses: clauses.into_iter().collect() }
}

/// A rule of one match.
fn when(terms: impl Into<Vec<Term>>) -> Rule {
    all([clause([terms.into()])])
}

fn principals(patterns: &[&str]) -> Test {
    Test::Principal(patterns.iter().map(|pattern| StringMatch::parse(pattern)).collect())
}

fn namespaces(patterns: &[&str]) -> Test {
    Test::Namespace(patterns.iter().map(|pattern| NamespacePattern((*pattern).into())).collect())
}

fn account(namespace: &str, name: &str) -> Test {
    Test::ServiceAccount(vec![ResourceName::new(namespace, name)])
}

fn nets(nets: &[&str]) -> Vec<ipnet::IpNet> {
    nets.iter().map(|net| net.parse().unwrap()).collect()
}

fn policy(action: Action, rules: Vec<Rule>) -> AuthorizationPolicy {
    let name = ResourceName::new(
        NAMESPACE,
        match action {
            Action::Allow => "a",
            Action::Deny => "d",
        },
    );
    AuthorizationPolicy { name, target: PolicyTarget::Namespace, action, dry_run: false, rules, invalid: None }
}

/// `td/ns/foo/sa/client` at 10.0.0.9, to 10.0.0.1:8080.
fn client() -> Subject {
    let identity = Some(Identity::new("td", "foo", "client").unwrap());
    Subject { identity, source: "10.0.0.9".parse().unwrap(), destination: "10.0.0.1:8080".parse().unwrap() }
}

fn plain() -> Subject {
    Subject { identity: None, ..client() }
}

/// The rules of a pod that lists the policies `demo/a`, `demo/d` and one that does not exist.
fn rules(policies: impl IntoIterator<Item = AuthorizationPolicy>) -> Arc<Ruleset> {
    let pod = pod("server", "10.0.0.1", Hop::Hbone)
        .workload(|w| w.l4.policies = ["a", "d", "missing"].map(|name| ResourceName::new(NAMESPACE, name)).into());
    let policies = policies.into_iter().map(|policy| Change::Upsert(Resource::from(policy)));
    let (_store, handle) = mesh(std::iter::once(pod.change()).chain(policies).collect());
    handle.load().local(&uid("server")).unwrap().rules.clone()
}

fn judged(rules: &Ruleset, subject: &Subject) -> String {
    subject.judge(rules, &Config::default()).map_or_else(|denied| denied.to_string(), |()| "allowed".into())
}

const DENIED: &str = "policy rejection: explicitly denied by demo/d";
const NOT_ALLOWED: &str = "policy rejection: allow policies exist, but none allowed";

#[test]
fn policies_combine_as_the_contract_has_it() {
    let everything = Rule::default;
    let nothing = || when([is(principals(&["nobody"]))]);
    let allow = |rules| policy(Action::Allow, rules);
    let deny = |rules| policy(Action::Deny, rules);
    let dry = |policy: AuthorizationPolicy| AuthorizationPolicy { dry_run: true, ..policy };
    let rows = [
        ("nothing", vec![], "allowed"),
        ("ALLOW that matches", vec![allow(vec![everything()])], "allowed"),
        ("ALLOW that does not", vec![allow(vec![nothing()])], NOT_ALLOWED),
        ("ALLOW without rules", vec![allow(vec![])], NOT_ALLOWED),
        ("any rule of an ALLOW", vec![allow(vec![nothing(), everything()])], "allowed"),
        ("DENY that matches", vec![deny(vec![everything()])], DENIED),
        ("DENY that does not", vec![deny(vec![nothing()])], "allowed"),
        ("DENY without rules", vec![deny(vec![])], "allowed"),
        ("DENY before ALLOW", vec![allow(vec![everything()]), deny(vec![everything()])], DENIED),
        ("ALLOW after a DENY that does not match", vec![allow(vec![nothing()]), deny(vec![nothing()])], NOT_ALLOWED),
        ("DENY on trial", vec![dry(deny(vec![everything()]))], "allowed"),
        ("ALLOW on trial", vec![dry(allow(vec![nothing()]))], "allowed"),
        ("ALLOW on trial is none", vec![dry(allow(vec![everything()])), deny(vec![everything()])], DENIED),
    ];
    for (what, policies, want) in rows {
        for target in [PolicyTarget::Namespace, PolicyTarget::Mesh, PolicyTarget::Listed] {
            let policies = policies.iter().map(|policy| AuthorizationPolicy { target: target.clone(), ..policy.clone() });
            assert_eq!(judged(&rules(policies), &client()), want, "{what}, {target:?}");
        }
    }
}

#[test]
fn policies_apply_by_namespace_mesh_and_list() {
    let named = |namespace: &str, name: &str, target: PolicyTarget| AuthorizationPolicy {
        name: ResourceName::new(namespace, name),
        target,
        ..policy(Action::Deny, vec![Rule::default()])
    };
    let rows = [
        (named(NAMESPACE, "d", PolicyTarget::Namespace), true),
        (named("other", "d", PolicyTarget::Namespace), false),
        (named("other", "d", PolicyTarget::Mesh), true),
        (named(NAMESPACE, "d", PolicyTarget::Listed), true),
        (named(NAMESPACE, "x", PolicyTarget::Listed), false),
        (named("other", "d", PolicyTarget::Listed), false),
        (named(NAMESPACE, "d", PolicyTarget::Refs(vec![])), false),
    ];
    for (policy, applies) in rows {
        assert_eq!(judged(&rules([policy.clone()]), &client()) != "allowed", applies, "{policy:?}");
    }
}

#[test]
fn rules_clauses_and_matches_combine_as_the_contract_has_it() {
    let (yes, no) = (|| is(namespaces(&["foo"])), || is(namespaces(&["bar"])));
    let rows = [
        ("no clauses", all([]), true),
        ("a clause without matches", all([clause([])]), true),
        ("an empty match", all([clause([vec![]])]), false),
        ("an empty match beside one that holds", all([clause([vec![], vec![yes()]])]), true),
        ("one match of two", all([clause([vec![no()], vec![yes()]])]), true),
        ("one clause of two", all([clause([vec![no()]]), clause([vec![yes()]])]), false),
        ("an empty match in one clause of two", all([clause([vec![]]), clause([vec![yes()]])]), false),
        ("both kinds", when([yes(), is(Test::DestinationPort(vec![8080]))]), true),
        ("one kind of two", when([yes(), is(Test::DestinationPort(vec![80]))]), false),
    ];
    for (what, rule, holds) in rows {
        assert_rule(what, rule, &client(), holds);
    }
}

#[test]
fn kinds_are_compared_as_the_contract_has_it() {
    // Test, whether it holds with an identity, and without.
    let rows = [
        (principals(&["td/ns/foo/sa/client"]), true, false),
        (principals(&["spiffe://td/ns/foo/sa/client"]), false, false),
        (principals(&["TD/ns/foo/sa/client"]), false, false),
        (principals(&["td/ns/*"]), true, false),
        (principals(&["*/sa/client"]), true, false),
        (principals(&["*"]), true, false),
        (principals(&["nobody", "td/ns/foo/sa/client"]), true, false),
        (namespaces(&["foo"]), true, false),
        (namespaces(&["bar"]), false, false),
        (account("foo", "client"), true, false),
        (account("bar", "client"), false, false),
        (account("foo", "other"), false, false),
        (Test::SourceIp(nets(&["10.0.0.9/32"])), true, true),
        (Test::SourceIp(nets(&["10.0.1.0/24", "10.0.0.0/24"])), true, true),
        (Test::SourceIp(nets(&["10.0.0.1/32"])), false, false),
        (Test::DestinationIp(nets(&["10.0.0.1/32"])), true, true),
        (Test::DestinationIp(nets(&["::/0"])), false, false),
        (Test::DestinationPort(vec![80, 8080]), true, true),
        (Test::DestinationPort(vec![80]), false, false),
    ];
    for (test, with, without) in rows {
        for (subject, holds) in [(client(), with), (plain(), without)] {
            assert_rule("is", when([is(test.clone())]), &subject, holds);
            assert_rule("is not", when([not(test.clone())]), &subject, !holds);
        }
    }
    let but = when([is(principals(&["td/*"])), not(principals(&["*/sa/client"]))]);
    assert_rule("both lists must hold", but, &client(), false);
    // The trust domain does not count.
    let other = Subject { identity: Some(Identity::new("other", "foo", "client").unwrap()), ..client() };
    assert_rule("service account", when([is(account("foo", "client"))]), &other, true);
}

#[track_caller]
fn assert_rule(what: &str, rule: Rule, subject: &Subject, holds: bool) {
    let allowed = judged(&rules([policy(Action::Allow, vec![rule.clone()])]), subject);
    assert_eq!(allowed, if holds { "allowed" } else { NOT_ALLOWED }, "{what}: ALLOW {rule:?} for {subject:?}");
    let denied = judged(&rules([policy(Action::Deny, vec![rule.clone()])]), subject);
    assert_eq!(denied, if holds { DENIED } else { "allowed" }, "{what}: DENY {rule:?} for {subject:?}");
}

#[tokio::test]
async fn open_connections_are_judged_again_only_by_other_rules() {
    let tracker = Arc::new(Tracker::default());
    let [first, second] = [client(), plain()].map(|subject| tracker.track(subject));
    let open = rules([]);
    let strict = rules([policy(Action::Allow, vec![when([is(principals(&["*"]))])])]);
    assert_eq!(tracker.rejudge(&open), 2);
    assert_eq!(tracker.rejudge(&open), 0, "the same rules");
    let third = tracker.track(plain());
    assert_eq!(tracker.rejudge(&open), 0, "whoever comes later is judged by itself");
    assert_eq!(tracker.rejudge(&strict), 3);
    for denied in [&second, &third] {
        assert_eq!(denied.denied().await.to_string(), NOT_ALLOWED);
    }
    drop((second, third));
    assert_eq!(tracker.rejudge(&open), 1);
    drop(first);
    assert_eq!((tracker.rejudge(&strict), tracker.len()), (0, 0));
}
