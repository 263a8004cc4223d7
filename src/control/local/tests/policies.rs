//! Policies: every kind of match, and what the forms of a string match are.

use super::*;

/// The terms of the only match of a policy.
fn terms(matching: &str) -> Vec<Term> {
    let text =
        format!("policies:\n- name: p\n  namespace: demo\n  scope: WorkloadSelector\n  action: Deny\n  rules: [[[{{{matching}}}]]]\n");
    decoded(&text).policies[0].rules[0].clauses[0].matches[0].terms.clone()
}

#[test]
fn each_scope_and_action() {
    let policy = |scope: &str, action: &str, more: &str| {
        let text = format!("policies:\n- {{name: p, namespace: demo, scope: {scope}, action: {action}, rules: []{}}}\n", tail(more));
        decoded(&text).policies[0].clone()
    };
    for (scope, want) in
        [("Global", PolicyTarget::Mesh), ("Namespace", PolicyTarget::Namespace), ("WorkloadSelector", PolicyTarget::Listed)]
    {
        assert_eq!(policy(scope, "Allow", "").target, want, "{scope}");
    }
    assert_eq!((policy("Global", "Allow", "").action, policy("Global", "Deny", "").action), (Action::Allow, Action::Deny));
    assert_eq!((policy("Global", "Deny", "").dry_run, policy("Global", "Deny", "dryRun: true").dry_run), (false, true));
}

#[test]
fn rules_hold_clauses_and_those_hold_matches() {
    let a = "{destinationPorts: [1]}";
    let shape = |rules: &str| {
        let text = format!("policies:\n- {{name: p, namespace: demo, scope: Global, action: Deny, rules: {rules}}}\n");
        let rules = decoded(&text).policies[0].rules.clone();
        rules.iter().map(|rule| rule.clauses.iter().map(|clause| clause.matches.len()).collect::<Vec<_>>()).collect::<Vec<_>>()
    };
    assert_eq!(shape("[]"), Vec::<Vec<usize>>::new());
    assert_eq!(shape("[[]]"), [Vec::<usize>::new()]);
    assert_eq!(shape("[[[]]]"), [[0]]);
    assert_eq!(shape(&format!("[[[{a}]]]")), [[1]]);
    assert_eq!(shape(&format!("[[[{a}, {a}], [{a}]], [[{a}]]]")), [vec![2, 1], vec![1]]);
}

#[test]
fn each_kind_of_match_and_its_negation() {
    let nets = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<ipnet::IpNet>>();
    let rows = [
        ("principals", "[!Exact td/ns/a/sa/b]", Test::Principal(vec![StringMatch::Exact("td/ns/a/sa/b".into())])),
        ("namespaces", "[!Exact a]", Test::Namespace(vec![NamespacePattern("a".into())])),
        (
            "serviceAccounts",
            "[{namespace: a, serviceAccount: b}, {namespace: c, serviceAccount: d}]",
            Test::ServiceAccount(vec![ResourceName::new("a", "b"), ResourceName::new("c", "d")]),
        ),
        ("sourceIps", "[10.0.0.0/8, 10.0.0.1, 'fd00::/8']", Test::SourceIp(nets(&["10.0.0.0/8", "10.0.0.1/32", "fd00::/8"]))),
        ("destinationIps", "[0.0.0.0/0]", Test::DestinationIp(nets(&["0.0.0.0/0"]))),
        ("destinationPorts", "[80, 443]", Test::DestinationPort(vec![80, 443])),
    ];
    for (name, values, test) in rows {
        assert_eq!(terms(&format!("{name}: {values}")), [Term { negated: false, test: test.clone() }], "{name}");
        let mut not = name.to_owned();
        not.replace_range(..1, &name[..1].to_uppercase());
        assert_eq!(terms(&format!("not{not}: {values}")), [Term { negated: true, test }], "not{not}");
    }
}

#[test]
fn each_form_of_a_string_match() {
    for (text, want) in [
        ("!Exact 'a*'", StringMatch::Exact("a*".into())),
        ("!Exact 1", StringMatch::Exact("1".into())),
        ("!Prefix a", StringMatch::Prefix("a".into())),
        ("!Suffix a", StringMatch::Suffix("a".into())),
        ("!Presence", StringMatch::Presence),
        ("!Presence []", StringMatch::Presence),
    ] {
        assert_eq!(terms(&format!("principals: [{text}]")), [Term { negated: false, test: Test::Principal(vec![want]) }], "{text}");
    }
    for (text, want) in [("!Exact a", "a"), ("!Prefix a", "a*"), ("!Suffix a", "*a"), ("!Presence", "*")] {
        let want = Test::Namespace(vec![NamespacePattern(want.into())]);
        assert_eq!(terms(&format!("namespaces: [{text}]")), [Term { negated: false, test: want }], "{text}");
    }
    let block = "policies:\n- name: p\n  namespace: demo\n  scope: Global\n  action: Deny\n  rules:\n  - - - principals:\n        - !Prefix a\n        - !Presence\n";
    let Test::Principal(matches) = &decoded(block).policies[0].rules[0].clauses[0].matches[0].terms[0].test else { panic!() };
    assert_eq!(*matches, [StringMatch::Prefix("a".into()), StringMatch::Presence]);
}
