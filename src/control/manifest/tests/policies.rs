use super::*;
use crate::model::{Action, PathMatch, PolicyTarget, Segment, TargetRef, Term, Test};

/// A policy with this spec, whose first line is line 5.
fn policy_with(spec: &str) -> String {
    format!("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p}}\nspec:\n{spec}")
}

fn read(spec: &str) -> crate::model::AuthorizationPolicy {
    crate::model::AuthorizationPolicy::clone(mesh(&policy_with(spec)).policies.values().next().unwrap())
}

/// The terms of the only match of each clause of the first rule.
fn terms(spec: &str) -> Vec<Term> {
    read(spec).rules[0].clauses.iter().flat_map(|c| &c.matches).flat_map(|m| m.terms.clone()).collect()
}

#[test]
fn a_policy_is_read() {
    let text = include_str!("all_kinds.yaml").replace("name: bookinfo\n  labels: {", "name: bookinfo\n  labels: {team: a, ");
    let mesh = mesh(&text);
    let policy = mesh.policies.values().next().unwrap();
    assert_eq!((policy.action, policy.dry_run, &policy.invalid), (Action::Allow, true, &None));
    let PolicyTarget::Refs(refs) = &policy.target else { panic!("{:?}", policy.target) };
    // The Service, the Gateway, and both hosts of the ServiceEntry.
    assert_eq!(refs.iter().filter(|r| matches!(r, TargetRef::Service(_))).count(), 3);
    assert_eq!(refs.len(), 4);
    let clauses = &policy.rules[0].clauses;
    assert_eq!(clauses.len(), 4);
    assert_eq!((clauses[0].matches.len(), clauses[0].matches[0].terms.len()), (2, 3));
    assert!(clauses[0].matches[0].terms[1].negated);
    assert!(clauses[2].matches[0].terms[0].negated);
    let paths = clauses[1].matches[0].terms.iter().find_map(|t| if let Test::Path(paths) = &t.test { Some(paths) } else { None });
    let PathMatch::Template(template) = &paths.unwrap()[1] else { panic!("{paths:?}") };
    assert_eq!(template.segments, [Segment::Literal("v1".into()), Segment::Any, Segment::Literal("x".into()), Segment::Rest]);
}

#[test]
fn what_a_policy_governs() {
    let rows = [
        ("  {}\n", PolicyTarget::Namespace),
        ("  selector: {}\n", PolicyTarget::Namespace),
        ("  selector: {matchLabels: {a: b}}\n", PolicyTarget::Selector([("a".into(), "b".into())].into())),
    ];
    for (spec, expected) in rows {
        assert_eq!(read(spec).target, expected, "{spec}");
    }
    // An absent spec allows nothing to its whole namespace.
    let policy = read("");
    assert_eq!((policy.action, policy.rules.len(), policy.target), (Action::Allow, 0, PolicyTarget::Namespace));
}

#[test]
fn an_empty_rule_matches_everything_and_no_rules_nothing() {
    assert_eq!(read("  rules: [{}]\n").rules, [crate::model::Rule::default()]);
    assert!(read("  rules: []\n").rules.is_empty());
}

#[test]
fn every_condition_is_read() {
    let rows = [
        "source.ip, values: [10.0.0.1]",
        "remote.ip, values: [10.0.0.0/8]",
        "destination.ip, values: ['fd00::/8']",
        "source.namespace, values: [a]",
        "source.principal, values: ['*']",
        "source.serviceAccount, values: [a, b/c]",
        "source.trustDomain, values: [td]",
        "destination.port, values: ['80']",
        "connection.sni, values: ['*.example']",
        "'request.headers[X-A]', notValues: ['']",
    ];
    for row in rows {
        assert_eq!(terms(&format!("  rules: [{{when: [{{key: {row}}}]}}]\n")).len(), 1, "{row}");
    }
}

#[test]
fn wrong_policies_are_refused() {
    let rows = [
        (
            "  selector: {matchLabels: {a: b}}\n  targetRefs: [{kind: Service, name: s}]",
            "5:3: error: @.selector: selector and targetRefs exclude each other",
        ),
        (
            "  targetRefs: [{kind: Service, name: s, namespace: x}]",
            "5:52: error: @.targetRefs[0].namespace: a policy governs targets of its own namespace only",
        ),
        ("  targetRefs: [{kind: Pod, name: s}]", "5:23: error: @.targetRefs[0].kind: unknown target \"Pod\" of group \"\""),
        (
            "  targetRefs: [{kind: GatewayClass, group: gateway.networking.k8s.io, name: istio-waypoint}]",
            "5:16: error: @.targetRefs[0]: a GatewayClass is a target only in the root namespace \"istio-system\"",
        ),
        ("  targetRefs: [{kind: Service}]", "5:16: error: @.targetRefs[0]: missing field `name`"),
        ("  action: CUSTOM\n  provider: {name: x}", "5:11: error: @.action: not implemented: CUSTOM"),
        ("  action: BLOCK", "5:11: error: @.action: unknown variant `BLOCK`, expected one of `ALLOW`, `DENY`, `AUDIT`, `CUSTOM`"),
        ("  rules: [{from: []}]", "5:12: error: @.rules[0].from: must not be empty"),
        ("  rules: [{from: [{}]}]", "5:19: error: @.rules[0].from[0]: source is required"),
        ("  rules: [{from: [{source: {}}]}]", "5:20: error: @.rules[0].from[0].source: no field is set: this would match nothing"),
        ("  rules: [{to: [{operation: {}}]}]", "5:18: error: @.rules[0].to[0].operation: no field is set: this would match nothing"),
        ("  rules: [{to: [{operation: {method: [GET]}}]}]", "5:30: error: @.rules[0].to[0].operation.method: unknown field"),
        (
            "  rules: [{to: [{operation: {methods: GET}}]}]",
            "5:39: error: @.rules[0].to[0].operation.methods: invalid type: string \"GET\", expected a sequence",
        ),
        ("  rules: [{to: [{operation: {methods: []}}]}]", "5:30: error: @.rules[0].to[0].operation.methods: must not be empty"),
        (
            "  rules: [{to: [{operation: {methods: ['']}}]}]",
            "5:40: error: @.rules[0].to[0].operation.methods[0]: an empty value matches nothing",
        ),
        (
            "  rules: [{to: [{operation: {ports: [80]}}]}]",
            "5:38: error: @.rules[0].to[0].operation.ports[0]: invalid type: integer `80`, expected a string",
        ),
        (
            "  rules: [{to: [{operation: {ports: ['0']}}]}]",
            "5:38: error: @.rules[0].to[0].operation.ports[0]: \"0\" is not a port between 1 and 65535",
        ),
        (
            "  rules: [{to: [{operation: {ports: ['65536']}}]}]",
            "5:38: error: @.rules[0].to[0].operation.ports[0]: \"65536\" is not a port between 1 and 65535",
        ),
        (
            "  rules: [{to: [{operation: {paths: ['/{**}/{*}']}}]}]",
            "5:38: error: @.rules[0].to[0].operation.paths[0]: nothing but text may follow {**} in path template \"/{**}/{*}\"",
        ),
        (
            "  rules: [{to: [{operation: {paths: ['/{x}']}}]}]",
            "5:38: error: @.rules[0].to[0].operation.paths[0]: a segment of path template \"/{x}\" is neither text nor {*} nor {**}: \"{x}\"",
        ),
        (
            "  rules: [{to: [{operation: {paths: ['/{*}/x*']}}]}]",
            "5:38: error: @.rules[0].to[0].operation.paths[0]: a segment of path template \"/{*}/x*\" holds a character that is not allowed: \"x*\"",
        ),
        (
            "  rules: [{from: [{source: {ipBlocks: [10.0.0.0/33]}}]}]",
            "5:40: error: @.rules[0].from[0].source.ipBlocks[0]: \"10.0.0.0/33\" is neither an IP address nor a CIDR",
        ),
        (
            "  rules: [{from: [{source: {requestPrincipals: ['*']}}]}]",
            "5:29: error: @.rules[0].from[0].source.requestPrincipals: not implemented: identities from tokens",
        ),
        (
            "  rules: [{from: [{source: {serviceAccounts: [a], namespaces: [b]}}]}]",
            "5:29: error: @.rules[0].from[0].source.serviceAccounts: serviceAccounts cannot be combined with principals or namespaces",
        ),
        (
            "  rules: [{from: [{source: {serviceAccounts: [a/b/c]}}]}]",
            "5:47: error: @.rules[0].from[0].source.serviceAccounts[0]: \"a/b/c\" is neither NAME nor NAMESPACE/NAME",
        ),
        (
            "  rules: [{from: [{source: {principals: ['spiffe://a']}}]}]",
            "5:42: error: @.rules[0].from[0].source.principals[0]: principals are written without spiffe://",
        ),
        ("  rules: [{when: [{key: source.colour, values: [a]}]}]", "5:25: error: @.rules[0].when[0].key: unknown key \"source.colour\""),
        ("  rules: [{when: [{key: source.ip}]}]", "5:19: error: @.rules[0].when[0]: values or notValues is required"),
        (
            "  rules: [{when: [{key: 'request.headers[a b]', values: [a]}]}]",
            "5:25: error: @.rules[0].when[0].key: \"a b\" is not a header name",
        ),
        (
            "  rules: [{when: [{key: 'request.auth.claims[a]', values: [a]}]}]",
            "5:25: error: @.rules[0].when[0].key: not implemented: request.auth.claims[a] (identities from tokens)",
        ),
        (
            "  rules: [{when: [{key: 'experimental.envoy.filters.a[b]', values: [a]}]}]",
            "5:25: error: @.rules[0].when[0].key: not implemented: experimental.envoy.filters.a[b] (Envoy's own metadata)",
        ),
    ];
    let mut wrong = Vec::new();
    for (spec, expected) in rows {
        let found = findings(&policy_with(&format!("{spec}\n")));
        let expected = [expected.replace('@', "AuthorizationPolicy default/p: spec")];
        if found != expected {
            wrong.push(format!("{spec}\n  found    {found:?}\n  expected {expected:?}"));
        }
        let dir = Dir::with("p.yaml", &policy_with(&format!("{spec}\n")));
        assert!(policy(&dir.source().poll().unwrap()).invalid.is_some(), "{spec}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let accounts = vec!["a"; 17].join(", ");
    let found = findings(&policy_with(&format!("  rules: [{{from: [{{source: {{serviceAccounts: [{accounts}]}}}}]}}]\n")));
    assert!(found[0].ends_with("17 items; at most 16 are allowed"), "{found:?}");
}

#[test]
fn an_audit_policy_is_skipped_with_a_warning() {
    let text = policy_with("  action: AUDIT\n");
    let dir = Dir::with("p.yaml", &text);
    let loaded = load(dir.config());
    assert!(loaded.mesh.policies.is_empty());
    assert_eq!(loaded.findings.len(), 1);
    assert!(!loaded.findings[0].is_error());
}

#[test]
fn legal_oddities_are_warned_of() {
    assert_findings(&[
        (
            &policy_with("  action: DENY\n"),
            &["4:1: warning: AuthorizationPolicy default/p: spec.rules: a DENY policy without rules denies nothing"],
        ),
        (
            &policy_with("  rules: [{to: [{operation: {paths: ['/a*b']}}]}]\n"),
            &[
                "5:38: warning: AuthorizationPolicy default/p: spec.rules[0].to[0].operation.paths[0]: only one leading or trailing '*' is a wildcard; the others are compared as they are",
            ],
        ),
    ]);
}
