//! Policies: every kind of match, and what holds in place of one that is not understood.

use super::*;
use crate::model::{Action, Clause, Match, NamespacePattern, PolicyTarget, Rule, StringMatch, Term, Test};
use ipnet::IpNet;
use security::string_match::MatchType::{self, Exact, Prefix, Presence, Suffix};

fn with(change: impl FnOnce(&mut security::Authorization)) -> security::Authorization {
    let mut message = policy();
    change(&mut message);
    message
}

/// A policy with one match.
fn matching(change: impl FnOnce(&mut security::Match)) -> security::Authorization {
    let mut matching = security::Match::default();
    change(&mut matching);
    let clauses = vec![security::Clause { matches: vec![matching] }];
    with(|p| p.rules = vec![security::Rule { clauses }])
}

/// The terms of the only match of a policy.
fn terms(change: impl FnOnce(&mut security::Match)) -> Vec<Term> {
    decoded_policy("", &matching(change)).unwrap().rules[0].clauses[0].matches[0].terms.clone()
}

fn strings(of: &[MatchType]) -> Vec<security::StringMatch> {
    of.iter().map(|of| security::StringMatch { match_type: Some(of.clone()) }).collect()
}

fn range(address: &str, length: u32) -> security::Address {
    security::Address { address: raw(address), length }
}

fn account(namespace: &str, service_account: &str) -> security::ServiceAccountMatch {
    security::ServiceAccountMatch { namespace: namespace.into(), service_account: service_account.into() }
}

fn extension() -> Vec<security::Extension> {
    vec![security::Extension { name: "x".into(), config: None }]
}

#[test]
fn as_a_whole() {
    let got = decoded_policy("demo/p", &with(|p| (p.action, p.dry_run, p.rules) = (1, true, vec![security::Rule::default()])));
    let want = AuthorizationPolicy {
        name: ResourceName::new("demo", "p"),
        target: PolicyTarget::Listed,
        action: Action::Deny,
        dry_run: true,
        rules: vec![Rule { clauses: Vec::new() }],
        invalid: None,
    };
    assert_eq!(got.unwrap(), want);
}

#[test]
fn each_scope_and_action() {
    for (scope, want) in [(0, PolicyTarget::Mesh), (1, PolicyTarget::Namespace), (2, PolicyTarget::Listed)] {
        assert_eq!(decoded_policy("", &with(|p| p.scope = scope)).unwrap().target, want);
        // Whichever namespace it is in.
        let rooted = with(|p| (p.scope, p.namespace) = (scope, "istio-system".into()));
        assert_eq!(decoded_policy("istio-system/p", &rooted).unwrap().target, want);
    }
    for (action, want) in [(0, Action::Allow), (1, Action::Deny)] {
        assert_eq!(decoded_policy("", &with(|p| p.action = action)).unwrap().action, want);
    }
}

#[test]
fn rules_hold_clauses_and_those_hold_matches() {
    let shape = |rules: &[&[usize]]| {
        let matches = |n: usize| vec![security::Match { destination_ports: vec![1], ..Default::default() }; n];
        let clauses = |of: &&[usize]| of.iter().map(|n| security::Clause { matches: matches(*n) }).collect();
        let rules = rules.iter().map(|of| security::Rule { clauses: clauses(of) }).collect();
        let rules = decoded_policy("", &with(|p| p.rules = rules)).unwrap().rules;
        rules.iter().map(|rule| rule.clauses.iter().map(|clause| clause.matches.len()).collect::<Vec<_>>()).collect::<Vec<_>>()
    };
    let shapes: [&[&[usize]]; 5] = [&[], &[&[]], &[&[0]], &[&[1]], &[&[2, 1], &[1]]];
    for rules in shapes {
        assert_eq!(shape(rules), rules);
    }
}

#[test]
fn each_kind_of_match_and_its_negation() {
    type Set = fn(&mut security::Match);
    let nets = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpNet>>();
    let principals = Test::Principal(vec![StringMatch::Exact("td/ns/a/sa/b".into()), StringMatch::Presence]);
    let accounts = Test::ServiceAccount(vec![ResourceName::new("a", "b"), ResourceName::new("c", "d")]);
    let sources = Test::SourceIp(nets(&["10.0.0.0/8", "10.0.0.1/32", "fd00::/8"]));
    let rows: [(Set, Set, Test); 6] = [
        (
            |m| m.namespaces = strings(&[Exact("a".into())]),
            |m| m.not_namespaces = strings(&[Exact("a".into())]),
            Test::Namespace(vec![NamespacePattern("a".into())]),
        ),
        (
            |m| m.principals = strings(&[Exact("td/ns/a/sa/b".into()), Presence(())]),
            |m| m.not_principals = strings(&[Exact("td/ns/a/sa/b".into()), Presence(())]),
            principals,
        ),
        (
            |m| m.service_accounts = vec![account("a", "b"), account("c", "d")],
            |m| m.not_service_accounts = vec![account("a", "b"), account("c", "d")],
            accounts,
        ),
        (
            |m| m.source_ips = vec![range("10.0.0.0", 8), range("10.0.0.1", 32), range("fd00::", 8)],
            |m| m.not_source_ips = vec![range("10.0.0.0", 8), range("10.0.0.1", 32), range("fd00::", 8)],
            sources,
        ),
        (
            |m| m.destination_ips = vec![range("0.0.0.0", 0), range("::1", 128)],
            |m| m.not_destination_ips = vec![range("0.0.0.0", 0), range("::1", 128)],
            Test::DestinationIp(nets(&["0.0.0.0/0", "::1/128"])),
        ),
        (|m| m.destination_ports = vec![1, 65535], |m| m.not_destination_ports = vec![1, 65535], Test::DestinationPort(vec![1, 65535])),
    ];
    for (positive, negative, test) in rows {
        assert_eq!(terms(positive), [Term { negated: false, test: test.clone() }]);
        assert_eq!(terms(negative), [Term { negated: true, test: test.clone() }]);
        let both = terms(|m| {
            positive(m);
            negative(m);
        });
        assert_eq!(both, [Term { negated: false, test: test.clone() }, Term { negated: true, test }]);
    }
}

#[test]
fn each_form_of_a_string_match() {
    for (of, principal, namespace) in [
        (Exact("a".into()), StringMatch::Exact("a".into()), "a"),
        (Prefix("a".into()), StringMatch::Prefix("a".into()), "a*"),
        (Suffix("a".into()), StringMatch::Suffix("a".into()), "*a"),
        (Presence(()), StringMatch::Presence, "*"),
    ] {
        let got = terms(|m| (m.principals, m.namespaces) = (strings(std::slice::from_ref(&of)), strings(std::slice::from_ref(&of))));
        let namespace = Test::Namespace(vec![NamespacePattern(namespace.into())]);
        let principal = Test::Principal(vec![principal]);
        assert_eq!(got, [Term { negated: false, test: namespace }, Term { negated: false, test: principal }]);
    }
    // The principal's star is none of ours to read.
    let got = terms(|m| m.principals = strings(&[Exact("a*".into()), Suffix("*".into())]));
    let want = Test::Principal(vec![StringMatch::Exact("a*".into()), StringMatch::Suffix("*".into())]);
    assert_eq!(got, [Term { negated: false, test: want }]);
}

#[test]
fn a_match_that_says_nothing_known_says_nothing() {
    assert_eq!(terms(|_| {}), []);
    // Field 14 of a match, beside which nothing is set: rules { clauses { matches { 14: "x" } } }.
    let head = policy().encode_to_vec();
    let unknown = [&head[..], &[0x2a, 7, 0x0a, 5, 0x12, 3, 0x72, 1, b'x']].concat();
    let Ok(Resource::Policy(policy)) = decoder().authorization("demo/p", unknown.into()) else { panic!() };
    assert_eq!(policy.rules, [Rule { clauses: vec![Clause { matches: vec![Match { terms: Vec::new() }] }] }]);
}

/// The policy that holds in place of one that is refused, without what each test looks at itself.
fn denying(name: &str, message: &security::Authorization) -> (String, AuthorizationPolicy) {
    let rejected = decoded_policy(name, message).unwrap_err();
    let policy = rejected.denying.unwrap();
    assert_eq!(policy.invalid.as_deref(), Some(&*rejected.reason));
    assert_eq!(policy.rules, []);
    (rejected.reason, policy)
}

#[test]
fn what_refuses_a_policy() {
    let no_kind = || vec![security::StringMatch { match_type: None }];
    let short = || security::Address { address: Bytes::from_static(&[10]), length: 8 };
    let rows = [
        (with(|p| p.scope = 3), "scope: 3 is no value that is known"),
        (with(|p| p.action = 2), "action: 2 is no value that is known"),
        (with(|p| p.extensions = extension()), "extensions: what an extension asks for is not known here"),
        (
            matching(|m| m.extensions = extension()),
            "rules[0].clauses[0].matches[0].extensions: what an extension asks for is not known here",
        ),
        (
            matching(|m| m.principals = no_kind()),
            "rules[0].clauses[0].matches[0].principals[0]: neither exact, prefix, suffix nor presence",
        ),
        (
            matching(|m| m.not_namespaces = no_kind()),
            "rules[0].clauses[0].matches[0].not_namespaces[0]: neither exact, prefix, suffix nor presence",
        ),
        (
            matching(|m| m.principals = strings(&[Presence(()), Exact(String::new())])),
            "rules[0].clauses[0].matches[0].principals[1]: an empty text matches nothing or everything",
        ),
        (
            matching(|m| m.namespaces = strings(&[Prefix(String::new())])),
            "rules[0].clauses[0].matches[0].namespaces[0]: an empty text matches nothing or everything",
        ),
        (
            matching(|m| m.not_principals = strings(&[Exact("spiffe://td/ns/a/sa/b".into())])),
            "rules[0].clauses[0].matches[0].not_principals[0]: principals are written without spiffe://",
        ),
        (
            matching(|m| m.namespaces = strings(&[Exact("*".into())])),
            "rules[0].clauses[0].matches[0].namespaces[0]: a namespace has no '*' in its name",
        ),
        (
            matching(|m| m.namespaces = strings(&[Suffix("*".into())])),
            "rules[0].clauses[0].matches[0].namespaces[0]: a namespace has no '*' in its name",
        ),
        (
            matching(|m| m.source_ips = vec![range("10.0.0.0", 8), short()]),
            "rules[0].clauses[0].matches[0].source_ips[1].address: an IP address has 4 or 16 bytes, not 1",
        ),
        (
            matching(|m| m.not_source_ips = vec![range("10.0.0.0", 33)]),
            "rules[0].clauses[0].matches[0].not_source_ips[0].length: 10.0.0.0 has no prefix of 33 bits",
        ),
        (
            matching(|m| m.destination_ips = vec![range("fd00::", 129)]),
            "rules[0].clauses[0].matches[0].destination_ips[0].length: fd00:: has no prefix of 129 bits",
        ),
        (
            matching(|m| m.not_destination_ips = vec![range("10.0.0.0", 264)]),
            "rules[0].clauses[0].matches[0].not_destination_ips[0].length: 10.0.0.0 has no prefix of 264 bits",
        ),
        (
            matching(|m| m.destination_ports = vec![80, 65536]),
            "rules[0].clauses[0].matches[0].destination_ports[1]: 65536 is not a port between 1 and 65535",
        ),
        (matching(|m| m.not_destination_ports = vec![0]), "rules[0].clauses[0].matches[0].not_destination_ports[0]: port 0 is none"),
        (
            matching(|m| m.service_accounts = vec![account("", "b")]),
            "rules[0].clauses[0].matches[0].service_accounts[0].namespace: must not be empty",
        ),
        (
            matching(|m| m.not_service_accounts = vec![account("a", "")]),
            "rules[0].clauses[0].matches[0].not_service_accounts[0].serviceAccount: must not be empty",
        ),
    ];
    for (message, want) in rows {
        let (reason, policy) = denying("demo/p", &message);
        assert_eq!(reason, want);
        assert_eq!(policy.name, ResourceName::new("demo", "p"));
    }
    // Not only the first of anything is looked at.
    let good = security::Clause { matches: vec![security::Match { destination_ports: vec![1], ..Default::default() }] };
    let bad = security::Clause { matches: vec![security::Match { destination_ports: vec![0], ..Default::default() }] };
    let rules = vec![security::Rule::default(), security::Rule { clauses: vec![good, bad] }];
    let (reason, _) = denying("demo/p", &with(|p| p.rules = rules));
    assert_eq!(reason, "rules[1].clauses[1].matches[0].destination_ports[0]: port 0 is none");
}

#[test]
fn what_cannot_be_understood_closes_what_it_governs() {
    let broken = |change: fn(&mut security::Authorization)| {
        let mut message = matching(|m| m.destination_ports = vec![0]);
        change(&mut message);
        denying("demo/p", &message).1
    };
    for (scope, want) in [(0, PolicyTarget::Mesh), (1, PolicyTarget::Namespace), (2, PolicyTarget::Listed), (3, PolicyTarget::Unknown)] {
        let mut message = matching(|m| m.destination_ports = vec![0]);
        message.scope = scope;
        assert_eq!(denying("demo/p", &message).1.target, want);
    }
    assert_eq!(broken(|p| p.action = 0).action, Action::Allow);
    assert_eq!(broken(|p| p.action = 1).action, Action::Deny);
    assert_eq!(broken(|p| p.action = 2).action, Action::Deny);
    assert_eq!([broken(|p| p.dry_run = true).dry_run, broken(|p| p.dry_run = false).dry_run], [true, false]);
}

#[test]
fn the_name_is_the_key() {
    assert_eq!(decoded_policy("demo/p", &policy()).unwrap().name, ResourceName::new("demo", "p"));
    assert_eq!(decoded_policy("", &policy()).unwrap().name, ResourceName::new("demo", "p"));
    let rows = [
        ("other/p", with(|_| {}), "the resource is named \"other/p\", but what is in it is \"demo/p\"", ("other", "p")),
        ("demo/p/q", with(|_| {}), "the resource is named \"demo/p/q\", but what is in it is \"demo/p\"", ("demo", "p")),
        ("p", with(|_| {}), "the resource is named \"p\", but what is in it is \"demo/p\"", ("demo", "p")),
        ("demo/p", with(|p| p.name.clear()), "name: must not be empty", ("demo", "p")),
        ("demo/p", with(|p| p.namespace.clear()), "namespace: must not be empty", ("demo", "p")),
        // Nobody knows where it was to hold.
        ("p", with(|p| p.namespace.clear()), "namespace: must not be empty", ("", "p")),
        ("", with(|p| p.name.clear()), "name: must not be empty", ("", "")),
    ];
    for (name, message, reason, (namespace, called)) in rows {
        let (got, policy) = denying(name, &message);
        assert_eq!((&*got, policy.name, policy.target), (reason, ResourceName::new(namespace, called), PolicyTarget::Listed));
    }
}

#[test]
fn of_what_is_no_policy_the_head_may_still_be_readable() {
    let rejected = |value: &[u8]| {
        let rejected = decoder().authorization("demo/p", Bytes::copy_from_slice(value)).unwrap_err();
        assert!(rejected.reason.starts_with("not an istio.security.Authorization: "), "{}", rejected.reason);
        rejected.denying.unwrap()
    };
    // rules { clauses { matches { namespaces { exact: 0xff } } } }, which is not text.
    let rules = [0x2a, 9, 0x0a, 7, 0x12, 5, 0x0a, 3, 0x0a, 1, 0xff];
    let head = with(|p| (p.scope, p.dry_run) = (1, true)).encode_to_vec();
    let policy = rejected(&[&head[..], &rules].concat());
    assert_eq!((policy.target, policy.action, policy.dry_run), (PolicyTarget::Namespace, Action::Allow, true));
    for broken in [&[0xff; 12][..], &head[..head.len() - 1], &[0x0a, 1, 0xff], &[0x18]] {
        let policy = rejected(broken);
        assert_eq!(policy.name, ResourceName::new("demo", "p"));
        assert_eq!((policy.target, policy.action, policy.dry_run), (PolicyTarget::Unknown, Action::Deny, false));
        assert!(policy.invalid.is_some());
    }
}
