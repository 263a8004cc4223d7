//! The compiled ruleset against a plain reading of the model.

use super::*;
use proptest::prelude::*;

/// Whether the term holds, for the few values that the generators use.
fn term_holds(term: &Term, facts: &Facts) -> bool {
    let glob = |pattern: &str, text: &str| {
        let parts: Vec<String> = pattern.split('*').map(regex::escape).collect();
        regex::Regex::new(&format!("^{}$", parts.join(".*"))).unwrap().is_match(text)
    };
    let same = |pattern: &StringMatch, text: &str| match pattern {
        StringMatch::Exact(exact) => **exact == *text,
        StringMatch::Prefix(start) => text.starts_with(&**start),
        StringMatch::Suffix(end) => text.ends_with(&**end),
        StringMatch::Presence => !text.is_empty(),
    };
    let peer = facts.identity.as_ref();
    let matches = match &term.test {
        Test::Principal(all) => peer.is_some_and(|peer| all.iter().any(|one| same(one, peer.principal()))),
        Test::Namespace(all) => peer.is_some_and(|peer| all.iter().any(|one| glob(&one.0, peer.namespace()))),
        Test::ServiceAccount(all) => peer.is_some_and(|peer| all.contains(&ResourceName::new(peer.namespace(), peer.service_account()))),
        Test::DestinationPort(all) => all.contains(&facts.destination.port()),
        Test::Method(all) => all.iter().any(|one| same(one, facts.method)),
        Test::TrustDomain(_) | Test::SourceIp(_) | Test::RemoteIp(_) | Test::DestinationIp(_) => unreachable!("not generated"),
        Test::Host(_) | Test::Path(_) | Test::Header(..) | Test::Sni(_) => unreachable!("not generated"),
    };
    matches != term.negated
}

fn rule_holds(rule: &Rule, facts: &Facts) -> bool {
    rule.clauses.iter().all(|clause| {
        clause.matches.is_empty()
            || clause.matches.iter().any(|m| !m.terms.is_empty() && m.terms.iter().all(|term| term_holds(term, facts)))
    })
}

/// Whether it passes, and the name of the rule that decided.
fn judge(policies: &[AuthorizationPolicy], facts: &Facts) -> (bool, Option<String>) {
    let first = |action: Action| {
        policies.iter().filter(|policy| policy.action == action).find_map(|policy| {
            let index = policy.rules.iter().position(|rule| rule_holds(rule, facts))?;
            Some(format!("ns[ns]-policy[{}]-rule[{index}]", policy.name.name))
        })
    };
    if let Some(denied) = first(Action::Deny) {
        return (false, Some(denied));
    }
    if let Some(allowed) = first(Action::Allow) {
        return (true, Some(allowed));
    }
    let allowing = policies.iter().filter(|policy| policy.action == Action::Allow);
    let names: Vec<_> = allowing.map(|policy| format!("ns[ns]-policy[{}]", policy.name.name)).collect();
    (names.is_empty(), (!names.is_empty()).then(|| names.join(",")))
}

fn any_term() -> impl Strategy<Value = Term> {
    let principals = ["td/ns/a/sa/x", "td/ns/a/sa/y", "td/ns/b/sa/x", "td/ns/a/*", "*/sa/x", "*"];
    let some = |values: &'static [&'static str]| prop::collection::vec(prop::sample::select(values), 0..3);
    let names = || prop::collection::vec((prop::sample::select(&["a", "b"][..]), prop::sample::select(&["x", "y"][..])), 0..3);
    let test = prop_oneof![
        4 => prop::collection::vec(prop::sample::select(principals.to_vec()), 0..3).prop_map(|all| Test::Principal(texts(&all))),
        2 => some(&["a", "b", "a*", "*"]).prop_map(|all| Test::Namespace(all.into_iter().map(|one| NamespacePattern(Name::from(one))).collect())),
        2 => names().prop_map(|all| Test::ServiceAccount(all.into_iter().map(|(ns, name)| ResourceName::new(ns, name)).collect())),
        1 => prop::collection::vec(prop::sample::select(&[80_u16, 443][..]), 0..3).prop_map(Test::DestinationPort),
        1 => some(&["GET", "POST", "P*"]).prop_map(|all| Test::Method(texts(&all))),
    ];
    (prop::bool::weighted(0.25), test).prop_map(|(negated, test)| Term { negated, test })
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let any_match = prop::collection::vec(any_term(), 0..3).prop_map(|terms| Match { terms });
    let clause = prop::collection::vec(any_match, 0..3).prop_map(|matches| Clause { matches });
    prop::collection::vec(clause, 0..3).prop_map(|clauses| Rule { clauses })
}

fn any_policies() -> impl Strategy<Value = Vec<AuthorizationPolicy>> {
    let one = (prop::sample::select(&[Action::Allow, Action::Deny][..]), prop::collection::vec(any_rule(), 0..3));
    prop::collection::vec(one, 0..6).prop_map(|all| {
        let named = |(index, (action, rules)): (usize, (Action, Vec<Rule>))| policy(action, &format!("p{index}"), rules);
        all.into_iter().enumerate().map(named).collect()
    })
}

fn any_facts() -> impl Strategy<Value = Facts> {
    let letter = |values: &'static [&'static str]| prop::sample::select(values);
    let peer = prop::option::weighted(0.8, (letter(&["a", "b", "c"]), letter(&["x", "y"])));
    (peer, prop::sample::select(&[80_u16, 443, 22][..]), letter(&["GET", "POST", "PUT"])).prop_map(|(peer, port, method)| {
        let mut facts = Facts { method, ..facts() }.peer(peer.map(|(namespace, account)| ("td", namespace, account)));
        facts.destination.set_port(port);
        facts
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn the_index_finds_what_a_plain_reading_finds(policies in any_policies(), facts in any_facts()) {
        let verdict = check(&policies, Layer::Http, &facts);
        prop_assert_eq!((verdict.allowed, verdict.reason.rule().map(ToString::to_string)), judge(&policies, &facts));
    }

    #[test]
    fn an_opaque_connection_never_passes_where_some_request_on_it_would_not(policies in any_policies(), facts in any_facts()) {
        // Whatever the method turns out to be: the connection may carry it.
        let opaque = Facts { http: false, ..facts.clone() };
        if check(&policies, Layer::WaypointTcp, &opaque).allowed {
            prop_assert!(passes(&policies, &facts), "{:?}", facts);
        }
    }

    #[test]
    fn a_waypoint_denies_at_least_what_a_ztunnel_denies(rules in prop::collection::vec(any_rule(), 0..4), facts in any_facts()) {
        let policies = [deny("d", rules)];
        let opaque = Facts { http: false, ..facts };
        prop_assert!(check(&policies, Layer::Ztunnel, &opaque).allowed || !check(&policies, Layer::WaypointTcp, &opaque).allowed);
    }

    #[test]
    fn dry_run_leaves_every_verdict_as_it_is(policies in any_policies(), shadow in any_policies(), facts in any_facts()) {
        let plain = check(&policies, Layer::Http, &facts);
        let both: Vec<_> = shadow.into_iter().map(dry).chain(policies).collect();
        let shadowed = check(&both, Layer::Http, &facts);
        prop_assert_eq!((plain.allowed, plain.reason), (shadowed.allowed, shadowed.reason));
    }
}
