//! Policies for ztunnels (contract, 3.4).

use super::{Config, address::bytes};
use crate::{
    model::{self, AuthorizationPolicy, NamespacePattern, PolicyTarget, ResourceName, Term, Test},
    proto::security::{
        Action, Address, Authorization, Clause, Match, Rule, Scope, ServiceAccountMatch, StringMatch, string_match::MatchType,
    },
};
use ipnet::IpNet;

/// A policy as ztunnels enforce it. One that could not be understood denies everything in its scope:
/// the API has no word for that but a DENY that always matches.
pub(super) fn policy(config: &Config, policy: &AuthorizationPolicy) -> Authorization {
    let is_invalid = policy.invalid.is_some();
    let deny = is_invalid || policy.action == model::Action::Deny;
    Authorization {
        name: policy.name.name.to_string(),
        namespace: policy.name.namespace.to_string(),
        scope: scope(config, policy).into(),
        action: if deny { Action::Deny } else { Action::Allow }.into(),
        rules: if is_invalid { vec![Rule::default()] } else { policy.rules.iter().filter_map(|r| rule(r, deny)).collect() },
        dry_run: policy.dry_run,
        extensions: Vec::new(),
    }
}

fn scope(config: &Config, policy: &AuthorizationPolicy) -> Scope {
    let is_root = policy.name.namespace == config.root_namespace || policy.name.namespace.is_empty();
    match policy.target {
        PolicyTarget::Selector(_) | PolicyTarget::Listed => Scope::WorkloadSelector,
        PolicyTarget::Mesh => Scope::Global,
        PolicyTarget::Namespace | PolicyTarget::Unknown | PolicyTarget::Refs(_) if is_root => Scope::Global,
        PolicyTarget::Namespace | PolicyTarget::Unknown | PolicyTarget::Refs(_) => Scope::Namespace,
    }
}

/// What is left of a clause when what the API has no field for is gone.
enum Told {
    /// A question.
    Asks(Clause),
    /// Everything matches.
    Always,
    /// Nothing can match.
    Never,
}

/// What asks about requests cannot be asked on a connection. As in Istio, a rule of an ALLOW policy is
/// then left out, and a rule of a DENY policy denies whatever the rest of it means: both err on the
/// side of refusing.
fn rule(rule: &model::Rule, deny: bool) -> Option<Rule> {
    let mut clauses = Vec::with_capacity(rule.clauses.len());
    for clause in &rule.clauses {
        match told(clause, deny) {
            Told::Asks(clause) => clauses.push(clause),
            Told::Always => {}
            Told::Never => return None,
        }
    }
    Some(Rule { clauses })
}

fn told(clause: &model::Clause, deny: bool) -> Told {
    let mut matches = Vec::with_capacity(clause.matches.len());
    for m in &clause.matches {
        let terms: Vec<_> = m.terms.iter().filter(|term| is_told(term)).collect();
        match (terms.len() == m.terms.len(), deny) {
            (false, false) => {}
            (false, true) if terms.is_empty() => return Told::Always,
            (false, true) | (true, _) => matches.push(matching(&terms)),
        }
    }
    if matches.is_empty() && !clause.matches.is_empty() { Told::Never } else { Told::Asks(Clause { matches }) }
}

/// Whether the API has a field for it.
fn is_told(term: &Term) -> bool {
    match &term.test {
        Test::Principal(_)
        | Test::Namespace(_)
        | Test::ServiceAccount(_)
        | Test::SourceIp(_)
        | Test::DestinationIp(_)
        | Test::DestinationPort(_) => true,
        Test::TrustDomain(_) | Test::RemoteIp(_) | Test::Host(_) | Test::Method(_) | Test::Path(_) | Test::Header(..) | Test::Sni(_) => {
            false
        }
    }
}

fn matching(terms: &[&Term]) -> Match {
    let mut m = Match::default();
    for term in terms {
        match (&term.test, term.negated) {
            (Test::Principal(values), false) => m.principals.extend(values.iter().map(string)),
            (Test::Principal(values), true) => m.not_principals.extend(values.iter().map(string)),
            (Test::Namespace(values), false) => m.namespaces.extend(values.iter().map(namespace)),
            (Test::Namespace(values), true) => m.not_namespaces.extend(values.iter().map(namespace)),
            (Test::ServiceAccount(values), false) => m.service_accounts.extend(values.iter().map(account)),
            (Test::ServiceAccount(values), true) => m.not_service_accounts.extend(values.iter().map(account)),
            (Test::SourceIp(values), false) => m.source_ips.extend(values.iter().map(address)),
            (Test::SourceIp(values), true) => m.not_source_ips.extend(values.iter().map(address)),
            (Test::DestinationIp(values), false) => m.destination_ips.extend(values.iter().map(address)),
            (Test::DestinationIp(values), true) => m.not_destination_ips.extend(values.iter().map(address)),
            (Test::DestinationPort(values), false) => m.destination_ports.extend(values.iter().map(|p| u32::from(*p))),
            (Test::DestinationPort(values), true) => m.not_destination_ports.extend(values.iter().map(|p| u32::from(*p))),
            (
                Test::TrustDomain(_)
                | Test::RemoteIp(_)
                | Test::Host(_)
                | Test::Method(_)
                | Test::Path(_)
                | Test::Header(..)
                | Test::Sni(_),
                _,
            ) => {}
        }
    }
    m
}

fn string(value: &model::StringMatch) -> StringMatch {
    let kind = match value {
        model::StringMatch::Exact(text) => MatchType::Exact(text.to_string()),
        model::StringMatch::Prefix(text) => MatchType::Prefix(text.to_string()),
        model::StringMatch::Suffix(text) => MatchType::Suffix(text.to_string()),
        model::StringMatch::Presence => MatchType::Presence(()),
    };
    StringMatch { match_type: Some(kind) }
}

fn namespace(pattern: &NamespacePattern) -> StringMatch {
    string(&model::StringMatch::parse(&pattern.0))
}

fn account(name: &ResourceName) -> ServiceAccountMatch {
    ServiceAccountMatch { namespace: name.namespace.to_string(), service_account: name.name.to_string() }
}

fn address(net: &IpNet) -> Address {
    Address { address: bytes(net.addr()), length: net.prefix_len().into() }
}
