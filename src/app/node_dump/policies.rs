//! Authorization policies, as an L4 proxy reads them.

use crate::model::{Action, AuthorizationPolicy, Match, PathMatch, PolicyTarget, ResourceName, StringMatch, Test};
use serde_json::{Map, Value, json};

/// A policy; none for what only waypoints enforce.
pub(super) fn policy(policy: &AuthorizationPolicy, root_namespace: &str) -> Option<Value> {
    let scope = match &policy.target {
        PolicyTarget::Refs(_) => return None,
        PolicyTarget::Selector(_) | PolicyTarget::Listed => "WorkloadSelector",
        PolicyTarget::Mesh => "Global",
        PolicyTarget::Namespace if *policy.name.namespace == *root_namespace => "Global",
        PolicyTarget::Namespace => "Namespace",
        PolicyTarget::Unknown => "Unknown",
    };
    let rules = policy.rules.iter().map(|rule| {
        let clauses = rule.clauses.iter().map(|clause| clause.matches.iter().map(one).collect::<Vec<_>>());
        clauses.collect::<Vec<_>>()
    });
    let mut out = json!({
        "name": policy.name.name,
        "namespace": policy.name.namespace,
        "scope": scope,
        "action": match policy.action { Action::Allow => "Allow", Action::Deny => "Deny" },
        "dryRun": policy.dry_run,
        "rules": rules.collect::<Vec<_>>(),
    });
    if let Some(reason) = &policy.invalid {
        out["invalid"] = json!(reason);
    }
    Some(out)
}

/// Each list of a kind, by Istio's name for it.
fn one(entry: &Match) -> Value {
    let mut out = Map::new();
    for term in &entry.terms {
        let (name, values) = test(&term.test);
        let name = if term.negated { format!("not{}{}", name[..1].to_uppercase(), &name[1..]) } else { name.to_owned() };
        out.insert(name, values);
    }
    Value::Object(out)
}

fn test(test: &Test) -> (&'static str, Value) {
    let texts = |list: &[StringMatch]| list.iter().map(text).collect::<Value>();
    let shown = |list: &[ipnet::IpNet]| list.iter().map(ToString::to_string).collect::<Value>();
    match test {
        Test::Principal(list) => ("principals", texts(list)),
        Test::Namespace(list) => ("namespaces", list.iter().map(|pattern| text(&StringMatch::parse(&pattern.0))).collect()),
        Test::ServiceAccount(list) => ("serviceAccounts", list.iter().map(account).collect()),
        Test::TrustDomain(list) => ("trustDomains", texts(list)),
        Test::SourceIp(list) => ("sourceIps", shown(list)),
        Test::DestinationIp(list) => ("destinationIps", shown(list)),
        Test::DestinationPort(list) => ("destinationPorts", json!(list)),
        Test::Sni(list) => ("snis", texts(list)),
        // What asks about a request is never true of a connection.
        Test::RemoteIp(list) => ("remoteIps", shown(list)),
        Test::Host(list) => ("hosts", texts(list)),
        Test::Method(list) => ("methods", texts(list)),
        Test::Path(list) => ("paths", list.iter().map(path).collect()),
        Test::Header(_, list) => ("headers", texts(list)),
    }
}

fn account(account: &ResourceName) -> Value {
    json!({ "namespace": account.namespace, "serviceAccount": account.name })
}

fn path(path: &PathMatch) -> Value {
    match path {
        PathMatch::Text(pattern) => text(pattern),
        PathMatch::Template(template) => json!({ "Template": format!("{:?}", template.segments) }),
    }
}

fn text(text: &StringMatch) -> Value {
    match text {
        StringMatch::Exact(value) => json!({ "Exact": value }),
        StringMatch::Prefix(value) => json!({ "Prefix": value }),
        StringMatch::Suffix(value) => json!({ "Suffix": value }),
        StringMatch::Presence => json!({ "Presence": [] }),
    }
}
