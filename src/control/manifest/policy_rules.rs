//! Decodes the rules of an AuthorizationPolicy. Whatever is not understood is an error: a rule that
//! silently lost a condition would open what it was written to close.

use super::{
    decode::Cx,
    istio::{Operation, PolicyRule, Source, When},
};
use crate::authz::parse_template;
use crate::model::{Clause, Match, NamespacePattern, PathMatch, ResourceName, Rule, StringMatch, Term, Test};
use http::HeaderName;
use ipnet::IpNet;

/// Istio's limit for `serviceAccounts`.
const MAX_SERVICE_ACCOUNTS: usize = 16;

type Values = Option<Vec<String>>;

pub(super) fn rule(cx: &mut Cx<'_>, field: &str, rule: &PolicyRule) -> Rule {
    let mut clauses = Vec::new();
    if let Some(from) = &rule.from {
        not_empty(cx, &format!("{field}.from"), from);
        let mut matches = Vec::new();
        for (i, from) in from.iter().enumerate() {
            let field = format!("{field}.from[{i}]");
            match &from.source {
                Some(source) => matches.push(source_match(cx, &format!("{field}.source"), source)),
                None => cx.error(&field, "source is required"),
            }
        }
        clauses.push(Clause { matches });
    }
    if let Some(to) = &rule.to {
        not_empty(cx, &format!("{field}.to"), to);
        let mut matches = Vec::new();
        for (i, to) in to.iter().enumerate() {
            let field = format!("{field}.to[{i}]");
            match &to.operation {
                Some(operation) => matches.push(operation_match(cx, &format!("{field}.operation"), operation)),
                None => cx.error(&field, "operation is required"),
            }
        }
        clauses.push(Clause { matches });
    }
    if let Some(when) = &rule.when {
        not_empty(cx, &format!("{field}.when"), when);
        for (i, when) in when.iter().enumerate() {
            clauses.push(condition(cx, &format!("{field}.when[{i}]"), when));
        }
    }
    Rule { clauses }
}

fn source_match(cx: &mut Cx<'_>, field: &str, source: &Source) -> Match {
    for (name, values) in [("requestPrincipals", &source.request_principals), ("notRequestPrincipals", &source.not_request_principals)] {
        if values.is_some() {
            cx.error(&format!("{field}.{name}"), "not implemented: identities from tokens");
        }
    }
    let accounts = source.service_accounts.is_some() || source.not_service_accounts.is_some();
    let others = [&source.principals, &source.not_principals, &source.namespaces, &source.not_namespaces];
    if accounts && others.iter().any(|v| v.is_some()) {
        cx.error(&format!("{field}.serviceAccounts"), "serviceAccounts cannot be combined with principals or namespaces");
    }
    let pairs: [Pair<'_>; 6] = [
        ("principals", &source.principals, "notPrincipals", &source.not_principals, principals),
        ("namespaces", &source.namespaces, "notNamespaces", &source.not_namespaces, namespaces),
        ("serviceAccounts", &source.service_accounts, "notServiceAccounts", &source.not_service_accounts, service_accounts),
        ("trustDomains", &source.trust_domains, "notTrustDomains", &source.not_trust_domains, trust_domains),
        ("ipBlocks", &source.ip_blocks, "notIpBlocks", &source.not_ip_blocks, |cx, f, v| ip_blocks(cx, f, v).map(Test::SourceIp)),
        ("remoteIpBlocks", &source.remote_ip_blocks, "notRemoteIpBlocks", &source.not_remote_ip_blocks, |cx, f, v| {
            ip_blocks(cx, f, v).map(Test::RemoteIp)
        }),
    ];
    terms(cx, field, &pairs)
}

fn operation_match(cx: &mut Cx<'_>, field: &str, operation: &Operation) -> Match {
    let pairs: [Pair<'_>; 4] = [
        ("hosts", &operation.hosts, "notHosts", &operation.not_hosts, |cx, f, v| Some(Test::Host(strings(cx, f, v)))),
        ("ports", &operation.ports, "notPorts", &operation.not_ports, ports),
        ("methods", &operation.methods, "notMethods", &operation.not_methods, |cx, f, v| Some(Test::Method(strings(cx, f, v)))),
        ("paths", &operation.paths, "notPaths", &operation.not_paths, paths),
    ];
    terms(cx, field, &pairs)
}

/// Turns the values of a field into a test; `None` after an error.
type Build = fn(&mut Cx<'_>, &str, &[String]) -> Option<Test>;
/// A field, its negation, and how both are read.
type Pair<'v> = (&'static str, &'v Values, &'static str, &'v Values, Build);

fn terms(cx: &mut Cx<'_>, field: &str, pairs: &[Pair<'_>]) -> Match {
    let (mut terms, mut set) = (Vec::new(), false);
    for (name, values, not_name, not_values, build) in pairs {
        for (name, values, negated) in [(name, values, false), (not_name, not_values, true)] {
            let Some(values) = values else { continue };
            set = true;
            terms.extend(term(cx, &format!("{field}.{name}"), values, negated, *build));
        }
    }
    if !set && !cx.failed() {
        cx.error(field, "no field is set: this would match nothing");
    }
    Match { terms }
}

fn term(cx: &mut Cx<'_>, field: &str, values: &[String], negated: bool, build: Build) -> Option<Term> {
    not_empty(cx, field, values);
    for (i, value) in values.iter().enumerate() {
        if value.is_empty() {
            cx.error(&format!("{field}[{i}]"), "an empty value matches nothing");
        }
    }
    build(cx, field, values).map(|test| Term { negated, test })
}

fn not_empty<T>(cx: &mut Cx<'_>, field: &str, items: &[T]) {
    if items.is_empty() {
        cx.error(field, "must not be empty");
    }
}

fn strings(cx: &mut Cx<'_>, field: &str, values: &[String]) -> Vec<StringMatch> {
    values.iter().enumerate().map(|(i, value)| string(cx, &format!("{field}[{i}]"), value)).collect()
}

fn string(cx: &mut Cx<'_>, field: &str, value: &str) -> StringMatch {
    let inner = value.strip_prefix('*').or_else(|| value.strip_suffix('*')).unwrap_or(value);
    if inner.contains('*') {
        cx.warn(field, "only one leading or trailing '*' is a wildcard; the others are compared as they are");
    }
    StringMatch::parse(value)
}

fn principals(cx: &mut Cx<'_>, field: &str, values: &[String]) -> Option<Test> {
    for (i, value) in values.iter().enumerate() {
        if value.starts_with("spiffe://") {
            cx.error(&format!("{field}[{i}]"), "principals are written without spiffe://");
        }
    }
    Some(Test::Principal(strings(cx, field, values)))
}

fn trust_domains(cx: &mut Cx<'_>, field: &str, values: &[String]) -> Option<Test> {
    Some(Test::TrustDomain(strings(cx, field, values)))
}

fn namespaces(_: &mut Cx<'_>, _: &str, values: &[String]) -> Option<Test> {
    Some(Test::Namespace(values.iter().map(|v| NamespacePattern(v.as_str().into())).collect()))
}

/// `NAME` of the policy's namespace, or `NAMESPACE/NAME`.
fn service_accounts(cx: &mut Cx<'_>, field: &str, values: &[String]) -> Option<Test> {
    cx.at_most(field, values, MAX_SERVICE_ACCOUNTS);
    let own = cx.namespace();
    let mut accounts = Vec::new();
    for (i, value) in values.iter().enumerate() {
        let (namespace, name) = value.split_once('/').unwrap_or((&own, value));
        if namespace.is_empty() || name.is_empty() || name.contains('/') || value.contains('*') {
            cx.error(&format!("{field}[{i}]"), format!("{value:?} is neither NAME nor NAMESPACE/NAME"));
            continue;
        }
        accounts.push(ResourceName::new(namespace, name));
    }
    Some(Test::ServiceAccount(accounts))
}

fn ip_blocks(cx: &mut Cx<'_>, field: &str, values: &[String]) -> Option<Vec<IpNet>> {
    let mut nets = Vec::new();
    for (i, value) in values.iter().enumerate() {
        match value.parse::<IpNet>().or_else(|_| value.parse::<std::net::IpAddr>().map(IpNet::from)) {
            Ok(net) => nets.push(net),
            Err(_) => cx.error(&format!("{field}[{i}]"), format!("{value:?} is neither an IP address nor a CIDR")),
        }
    }
    Some(nets)
}

fn ports(cx: &mut Cx<'_>, field: &str, values: &[String]) -> Option<Test> {
    let mut ports = Vec::new();
    for (i, value) in values.iter().enumerate() {
        match value.parse::<u16>().ok().filter(|p| *p > 0) {
            Some(port) => ports.push(port),
            None => cx.error(&format!("{field}[{i}]"), format!("{value:?} is not a port between 1 and 65535")),
        }
    }
    Some(Test::DestinationPort(ports))
}

fn paths(cx: &mut Cx<'_>, field: &str, values: &[String]) -> Option<Test> {
    let mut paths = Vec::new();
    for (i, value) in values.iter().enumerate() {
        let field = format!("{field}[{i}]");
        if !value.contains(['{', '}']) {
            paths.push(PathMatch::Text(string(cx, &field, value)));
            continue;
        }
        match parse_template(value) {
            Ok(template) => paths.push(PathMatch::Template(template)),
            Err(message) => cx.error(&field, message),
        }
    }
    Some(Test::Path(paths))
}

fn condition(cx: &mut Cx<'_>, field: &str, when: &When) -> Clause {
    let Some(build) = condition_test(cx, &format!("{field}.key"), &when.key) else { return Clause::default() };
    let mut terms = Vec::new();
    if when.values.is_none() && when.not_values.is_none() {
        cx.error(field, "values or notValues is required");
    }
    for (name, values, negated) in [("values", &when.values, false), ("notValues", &when.not_values, true)] {
        let Some(values) = values else { continue };
        match &build {
            Condition::Field(build) => terms.extend(term(cx, &format!("{field}.{name}"), values, negated, *build)),
            Condition::Header(header) => {
                not_empty(cx, &format!("{field}.{name}"), values);
                let test = Test::Header(header.clone(), strings(cx, &format!("{field}.{name}"), values));
                terms.push(Term { negated, test });
            }
        }
    }
    Clause { matches: vec![Match { terms }] }
}

/// How the values of a condition are read.
enum Condition {
    Field(Build),
    Header(HeaderName),
}

fn condition_test(cx: &mut Cx<'_>, field: &str, key: &str) -> Option<Condition> {
    if let Some(name) = key.strip_prefix("request.headers[").and_then(|k| k.strip_suffix(']')) {
        let header = name.parse().ok();
        if header.is_none() {
            cx.error(field, format!("{name:?} is not a header name"));
        }
        return header.map(Condition::Header);
    }
    let build: Build = match key {
        "source.ip" => |cx, f, v| ip_blocks(cx, f, v).map(Test::SourceIp),
        "remote.ip" => |cx, f, v| ip_blocks(cx, f, v).map(Test::RemoteIp),
        "destination.ip" => |cx, f, v| ip_blocks(cx, f, v).map(Test::DestinationIp),
        "source.namespace" => namespaces,
        "source.principal" => principals,
        "source.serviceAccount" => service_accounts,
        "source.trustDomain" => trust_domains,
        "destination.port" => ports,
        "connection.sni" => |cx, f, v| Some(Test::Sni(strings(cx, f, v))),
        _ if key.starts_with("request.auth.") => {
            cx.error(field, format!("not implemented: {key} (identities from tokens)"));
            return None;
        }
        _ if key.starts_with("experimental.envoy.") => {
            cx.error(field, format!("not implemented: {key} (Envoy's own metadata)"));
            return None;
        }
        _ => {
            cx.error(field, format!("unknown key {key:?}"));
            return None;
        }
    };
    Some(Condition::Field(build))
}
