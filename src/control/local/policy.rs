//! Policies of a local file (contract, 3.4). The reference drops values that it cannot read, which can
//! turn a condition into none; here they refuse the file.

use super::{
    Cx,
    schema::{self, File, Mapping, PolicyScope, ServiceAccount},
};
use crate::{
    control::workload_api,
    model::{Action, AuthorizationPolicy, Clause, Match, PolicyTarget, ResourceName, Rule, StringMatch, Term, Test},
};
use ipnet::IpNet;
use serde_json::Value;
use std::{collections::HashSet, net::IpAddr};

pub(super) fn policies(cx: &mut Cx<'_>, file: &File) -> Vec<AuthorizationPolicy> {
    let mut names = HashSet::new();
    let mut policies = Vec::with_capacity(file.policies.len());
    for (i, policy) in file.policies.iter().enumerate() {
        let field = format!("policies[{i}]");
        cx.required(&format!("{field}.name"), &policy.name);
        cx.required(&format!("{field}.namespace"), &policy.namespace);
        if !names.insert((&policy.namespace, &policy.name)) {
            cx.error(&format!("{field}.name"), "another policy of this namespace has this name");
        }
        policies.push(decoded(cx, &field, policy));
    }
    policies
}

fn decoded(cx: &mut Cx<'_>, field: &str, policy: &schema::Policy) -> AuthorizationPolicy {
    // The model, like Istio's own resource, takes such a policy for one of the whole mesh.
    if policy.scope == PolicyScope::Namespace && policy.namespace == cx.config.root_namespace {
        cx.error(&format!("{field}.scope"), "a policy of the root namespace holds for the whole mesh: its scope is Global");
    }
    AuthorizationPolicy {
        name: ResourceName::new(&policy.namespace, &policy.name),
        target: match policy.scope {
            PolicyScope::Global => PolicyTarget::Mesh,
            PolicyScope::Namespace => PolicyTarget::Namespace,
            PolicyScope::WorkloadSelector => PolicyTarget::Listed,
        },
        action: match policy.action {
            schema::Action::Allow => Action::Allow,
            schema::Action::Deny => Action::Deny,
        },
        dry_run: policy.dry_run,
        rules: each(cx, &format!("{field}.rules"), &policy.rules, |cx, field, clauses| Rule {
            clauses: each(cx, field, clauses, |cx, field, matches| Clause {
                matches: each(cx, field, matches, |cx, field, m| decoded_match(cx, field, m)),
            }),
        }),
        invalid: None,
    }
}

fn each<T, U>(cx: &mut Cx<'_>, field: &str, items: &[T], mut decode: impl FnMut(&mut Cx<'_>, &str, &T) -> U) -> Vec<U> {
    items.iter().enumerate().map(|(i, item)| decode(cx, &format!("{field}[{i}]"), item)).collect()
}

fn decoded_match(cx: &mut Cx<'_>, field: &str, m: &schema::Match) -> Match {
    let terms = [
        term(cx, field, "namespaces", &m.namespaces, false, namespaces),
        term(cx, field, "notNamespaces", &m.not_namespaces, true, namespaces),
        term(cx, field, "principals", &m.principals, false, principals),
        term(cx, field, "notPrincipals", &m.not_principals, true, principals),
        term(cx, field, "serviceAccounts", &m.service_accounts, false, service_accounts),
        term(cx, field, "notServiceAccounts", &m.not_service_accounts, true, service_accounts),
        term(cx, field, "sourceIps", &m.source_ips, false, |cx, f, v| Test::SourceIp(nets(cx, f, v))),
        term(cx, field, "notSourceIps", &m.not_source_ips, true, |cx, f, v| Test::SourceIp(nets(cx, f, v))),
        term(cx, field, "destinationIps", &m.destination_ips, false, |cx, f, v| Test::DestinationIp(nets(cx, f, v))),
        term(cx, field, "notDestinationIps", &m.not_destination_ips, true, |cx, f, v| Test::DestinationIp(nets(cx, f, v))),
        term(cx, field, "destinationPorts", &m.destination_ports, false, ports),
        term(cx, field, "notDestinationPorts", &m.not_destination_ports, true, ports),
    ];
    let terms: Vec<Term> = terms.into_iter().flatten().collect();
    if terms.is_empty() {
        cx.error(field, "no field is set: this would match nothing");
    }
    Match { terms }
}

fn term<T>(
    cx: &mut Cx<'_>,
    field: &str,
    name: &str,
    values: &Option<Vec<T>>,
    negated: bool,
    test: impl Fn(&mut Cx<'_>, &str, &[T]) -> Test,
) -> Option<Term> {
    let values = values.as_ref()?;
    let field = format!("{field}.{name}");
    if values.is_empty() {
        cx.error(&field, "an empty list is no condition: leave the field out");
    }
    Some(Term { negated, test: test(cx, &field, values) })
}

fn principals(cx: &mut Cx<'_>, field: &str, values: &[Value]) -> Test {
    let matches = each(cx, field, values, |cx, field, value| {
        let matching = workload_api::principal(string(cx, field, value)?);
        matching.map_err(|message| cx.error(field, message)).ok()
    });
    Test::Principal(matches.into_iter().flatten().collect())
}

fn namespaces(cx: &mut Cx<'_>, field: &str, values: &[Value]) -> Test {
    let patterns = each(cx, field, values, |cx, field, value| {
        let pattern = workload_api::namespace(string(cx, field, value)?);
        pattern.map_err(|message| cx.error(field, message)).ok()
    });
    Test::Namespace(patterns.into_iter().flatten().collect())
}

/// A string match, which says by a tag how it compares.
fn string(cx: &mut Cx<'_>, field: &str, value: &Value) -> Option<StringMatch> {
    let tagged = value.as_object().and_then(|map| map.iter().next());
    match tagged.map(|(tag, value)| (tag.as_str(), value)) {
        Some(("!Exact", Value::String(text))) => return Some(StringMatch::Exact(text.as_str().into())),
        Some(("!Prefix", Value::String(text))) => return Some(StringMatch::Prefix(text.as_str().into())),
        Some(("!Suffix", Value::String(text))) => return Some(StringMatch::Suffix(text.as_str().into())),
        Some(("!Presence", Value::Null)) => return Some(StringMatch::Presence),
        // As the reference writes it: a variant without fields.
        Some(("!Presence", Value::Array(nothing))) if nothing.is_empty() => return Some(StringMatch::Presence),
        Some(("!Presence", _)) => cx.error(field, "!Presence stands alone"),
        Some(("!Exact" | "!Prefix" | "!Suffix", _)) => cx.error(field, "what a tag is put on must be text"),
        Some((word @ ("Exact" | "Prefix" | "Suffix" | "Presence"), _)) => {
            let text = if word == "Presence" { "" } else { " \"text\"" };
            cx.error(field, format!("a string match is written with a tag, not as a mapping: !{word}{text}"));
        }
        Some(_) | None => {
            cx.error(field, "a string match is written with a tag: !Exact \"text\", !Prefix \"text\", !Suffix \"text\" or !Presence");
        }
    }
    None
}

fn service_accounts(cx: &mut Cx<'_>, field: &str, values: &[Mapping<ServiceAccount>]) -> Test {
    Test::ServiceAccount(each(cx, field, values, |cx, field, account| {
        cx.required(&format!("{field}.namespace"), &account.namespace);
        cx.required(&format!("{field}.serviceAccount"), &account.service_account);
        ResourceName::new(&account.namespace, &account.service_account)
    }))
}

fn nets(cx: &mut Cx<'_>, field: &str, values: &[String]) -> Vec<IpNet> {
    let parsed = each(cx, field, values, |cx, field, text| {
        let net = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).ok();
        if net.is_none() {
            cx.error(field, format!("{text:?} is neither an IP address nor a CIDR"));
        }
        net
    });
    parsed.into_iter().flatten().collect()
}

fn ports(cx: &mut Cx<'_>, field: &str, values: &[u16]) -> Test {
    each(cx, field, values, |cx, field, port| cx.port(field, *port));
    Test::DestinationPort(values.to_vec())
}
