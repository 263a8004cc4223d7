//! Truth tables. This file holds the notation that they share.

mod evaluation;
mod http_fields;
mod layers;
mod oracle;
mod peer_fields;

use super::*;
use crate::model::{
    Action, AuthorizationPolicy, Clause, Identity, Match, Name, NamespacePattern, PathMatch, PolicyTarget, ResourceName, Rule, StringMatch,
    Term, Test,
};
use http::{HeaderMap, HeaderName, HeaderValue};
use std::net::{IpAddr, SocketAddr};

fn policy(action: Action, name: &str, rules: Vec<Rule>) -> AuthorizationPolicy {
    let name = ResourceName::new("ns", name);
    AuthorizationPolicy { name, target: PolicyTarget::Namespace, action, dry_run: false, rules, invalid: None }
}

fn allow(name: &str, rules: Vec<Rule>) -> AuthorizationPolicy {
    policy(Action::Allow, name, rules)
}

fn deny(name: &str, rules: Vec<Rule>) -> AuthorizationPolicy {
    policy(Action::Deny, name, rules)
}

fn dry(mut policy: AuthorizationPolicy) -> AuthorizationPolicy {
    policy.dry_run = true;
    policy
}

fn invalid(mut policy: AuthorizationPolicy) -> AuthorizationPolicy {
    policy.invalid = Some("why".into());
    policy
}

fn rule<const N: usize>(clauses: [Clause; N]) -> Rule {
    Rule { clauses: clauses.into() }
}

fn any_of<const N: usize>(matches: [Vec<Term>; N]) -> Clause {
    Clause { matches: matches.into_iter().map(|terms| Match { terms }).collect() }
}

/// A rule of one clause of one match of one term.
fn when(term: Term) -> Rule {
    rule([any_of([vec![term]])])
}

fn is(test: Test) -> Term {
    Term { negated: false, test }
}

fn not(test: Test) -> Term {
    Term { negated: true, test }
}

fn texts(patterns: &[&str]) -> Vec<StringMatch> {
    patterns.iter().map(|text| StringMatch::parse(text)).collect()
}

fn principal(pattern: &str) -> Test {
    Test::Principal(texts(&[pattern]))
}

fn namespace(pattern: &str) -> Test {
    Test::Namespace(vec![NamespacePattern(pattern.into())])
}

fn method(pattern: &str) -> Test {
    Test::Method(texts(&[pattern]))
}

fn path(pattern: &str) -> Test {
    let template = pattern.contains('{').then(|| PathMatch::Template(parse_template(pattern).unwrap()));
    Test::Path(vec![template.unwrap_or_else(|| PathMatch::Text(StringMatch::parse(pattern)))])
}

fn header(name: &str, pattern: &str) -> Test {
    Test::Header(name.parse().unwrap(), texts(&[pattern]))
}

fn ports(ports: &[u16]) -> Test {
    Test::DestinationPort(ports.into())
}

/// What a check is asked about; owns its parts.
#[derive(Debug, Clone)]
struct Facts {
    identity: Option<Identity>,
    source: IpAddr,
    destination: SocketAddr,
    sni: Option<&'static str>,
    http: bool,
    host: &'static str,
    method: &'static str,
    path: String,
    headers: HeaderMap,
    remote: IpAddr,
}

/// A request of `td/ns/foo/sa/client` from 10.0.0.1 to 10.9.0.1:80, GET http://shop:80/a/b.
fn facts() -> Facts {
    Facts {
        identity: Some(Identity::new("td", "foo", "client").unwrap()),
        source: ip("10.0.0.1"),
        destination: "10.9.0.1:80".parse().unwrap(),
        sni: Some(""),
        http: true,
        host: "shop:80",
        method: "GET",
        path: "/a/b".into(),
        headers: HeaderMap::new(),
        remote: ip("203.0.113.7"),
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

impl Facts {
    fn header(mut self, name: &str, value: &[u8]) -> Self {
        self.headers.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_bytes(value).unwrap());
        self
    }

    fn peer(mut self, parts: Option<(&str, &str, &str)>) -> Self {
        self.identity = parts.map(|(trust_domain, namespace, account)| Identity::new(trust_domain, namespace, account).unwrap());
        self
    }

    fn path(mut self, path: &str) -> Self {
        self.path = path.into();
        self
    }

    fn view(&self) -> Attributes<'_> {
        let Self { host, method, path, headers, remote, .. } = self;
        let http = HttpAttributes { host, method, path, headers, remote_ip: *remote };
        Attributes {
            identity: self.identity.as_ref(),
            source_ip: self.source,
            destination: self.destination,
            sni: self.sni,
            http: self.http.then_some(http),
        }
    }
}

fn check(policies: &[AuthorizationPolicy], layer: Layer, facts: &Facts) -> Verdict {
    Ruleset::compile(policies, layer).check(&facts.view())
}

fn passes(policies: &[AuthorizationPolicy], facts: &Facts) -> bool {
    check(policies, Layer::Http, facts).allowed
}

/// Asserts that the term, in an ALLOW and in a DENY rule, holds as expected, and its `not…` form the
/// other way round.
#[track_caller]
fn assert_term(test: Test, facts: &Facts, holds: bool) {
    for (term, holds) in [(is(test.clone()), holds), (not(test.clone()), !holds)] {
        assert_eq!(passes(&[allow("a", vec![when(term.clone())])], facts), holds, "ALLOW {term:?} {facts:?}");
        assert_eq!(passes(&[deny("d", vec![when(term.clone())])], facts), !holds, "DENY {term:?} {facts:?}");
    }
}
