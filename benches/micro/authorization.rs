//! Judging a request by many policies: those that name a principal each, and those that look at the
//! path alone, for which every policy may have to be asked.

use cairn::{
    authz::{Attributes, HttpAttributes, Layer, Ruleset},
    model::{
        Action, AuthorizationPolicy, Clause, Identity, Match, PathMatch, PolicyTarget, ResourceName, Rule, ServiceKey, StringMatch,
        TargetRef, Term, Test,
    },
};
use divan::{Bencher, black_box};
use http::{HeaderMap, HeaderValue};

const POLICIES: &[usize] = &[10, 1_000, 10_000];

/// What tells one policy from the next.
#[derive(Clone, Copy)]
enum By {
    Principal,
    Path,
}

fn clause(test: Test) -> Clause {
    Clause { matches: vec![Match { terms: vec![Term { negated: false, test }] }] }
}

fn policy(by: By, action: Action, number: usize) -> AuthorizationPolicy {
    let text = |text: &str| StringMatch::parse(text);
    let own = match by {
        By::Principal => clause(Test::Principal(vec![text(&format!("cluster.local/ns/bench/sa/client-{number}"))])),
        By::Path => clause(Test::Path(vec![PathMatch::Text(text(&format!("/path-{number}/*")))])),
    };
    let method = clause(Test::Method(vec![text("GET"), text("POST")]));
    AuthorizationPolicy {
        name: ResourceName::new("bench", &format!("policy-{number}")),
        target: PolicyTarget::Refs(vec![TargetRef::Service(ServiceKey {
            namespace: "bench".into(),
            hostname: cairn::model::Hostname::of_service("reviews", "bench", "cluster.local"),
        })]),
        action,
        dry_run: false,
        rules: vec![Rule { clauses: vec![own, method] }],
        invalid: None,
    }
}

fn ruleset(by: By, action: Action, policies: usize) -> Ruleset {
    let policies: Vec<_> = (0..policies).map(|number| policy(by, action, number)).collect();
    Ruleset::compile(&policies, Layer::Http)
}

/// A request that the policy of this number matches.
fn check(bencher: Bencher<'_, '_>, ruleset: &Ruleset, number: usize, allowed: bool) {
    let identity = Identity::new("cluster.local", "bench", &format!("client-{number}")).unwrap();
    let path = format!("/path-{number}/a");
    let mut headers = HeaderMap::new();
    headers.insert("user-agent", HeaderValue::from_static("bench"));
    let source_ip = "10.0.0.1".parse().unwrap();
    let http = HttpAttributes { host: "reviews", method: "GET", path: &path, headers: &headers, remote_ip: source_ip };
    let destination = "10.0.0.2:80".parse().unwrap();
    let attributes = Attributes { identity: Some(&identity), source_ip, destination, sni: None, http: Some(http) };
    assert_eq!(ruleset.check(&attributes).allowed, allowed);
    bencher.bench_local(|| ruleset.check(black_box(&attributes)));
}

#[divan::bench(args = POLICIES)]
fn principal_hit(bencher: Bencher<'_, '_>, policies: usize) {
    check(bencher, &ruleset(By::Principal, Action::Allow, policies), policies - 1, true);
}

#[divan::bench(args = POLICIES)]
fn principal_miss(bencher: Bencher<'_, '_>, policies: usize) {
    check(bencher, &ruleset(By::Principal, Action::Allow, policies), policies, false);
}

#[divan::bench(args = POLICIES)]
fn principal_deny(bencher: Bencher<'_, '_>, policies: usize) {
    check(bencher, &ruleset(By::Principal, Action::Deny, policies), policies - 1, false);
}

#[divan::bench(args = POLICIES)]
fn path_hit(bencher: Bencher<'_, '_>, policies: usize) {
    check(bencher, &ruleset(By::Path, Action::Allow, policies), policies - 1, true);
}

#[divan::bench(args = POLICIES)]
fn path_miss(bencher: Bencher<'_, '_>, policies: usize) {
    check(bencher, &ruleset(By::Path, Action::Allow, policies), policies, false);
}

#[divan::bench(args = POLICIES)]
fn path_deny(bencher: Bencher<'_, '_>, policies: usize) {
    check(bencher, &ruleset(By::Path, Action::Deny, policies), policies - 1, false);
}

#[divan::bench(args = POLICIES, sample_count = 20)]
fn compile(bencher: Bencher<'_, '_>, policies: usize) {
    let policies: Vec<_> = (0..policies).map(|number| policy(By::Principal, Action::Allow, number)).collect();
    bencher.bench_local(|| Ruleset::compile(&policies, Layer::Http));
}
