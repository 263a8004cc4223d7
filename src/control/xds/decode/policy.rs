//! Authorization policies. One that is not understood closes what it governs.

use super::{
    Decoder, Rejected, address,
    refusal::{Refusal, each, known, named, port, required},
};
use crate::{
    control::workload_api::{self, namespaced},
    model::{Action, AuthorizationPolicy, Clause, Match, Name, PolicyTarget, ResourceName, Rule, StringMatch, Term, Test},
    proto::security as proto,
};
use bytes::Bytes;
use ipnet::IpNet;
use prost::Message;
use proto::string_match::MatchType;

/// What an Authorization says before its rules. It can be read although they cannot.
#[derive(Clone, PartialEq, Message)]
struct Head {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    namespace: String,
    #[prost(enumeration = "proto::Scope", tag = "3")]
    scope: i32,
    #[prost(enumeration = "proto::Action", tag = "4")]
    action: i32,
    #[prost(bool, tag = "6")]
    dry_run: bool,
}

pub(super) fn decoded(cx: &mut Decoder, name: &str, value: Bytes) -> Result<AuthorizationPolicy, Rejected> {
    let message = proto::Authorization::decode(value.clone());
    let message = message.map_err(|error| Refusal::new("", format!("not an istio.security.Authorization: {error}")));
    message.and_then(|message| understood(cx, name, &message)).map_err(|refusal| {
        let reason = refusal.to_string();
        Rejected { denying: Some(denying(name, Head::decode(value).ok(), &reason)), reason }
    })
}

fn understood(cx: &mut Decoder, name: &str, message: &proto::Authorization) -> Result<AuthorizationPolicy, Refusal> {
    required("name", &message.name)?;
    required("namespace", &message.namespace)?;
    let key = ResourceName { namespace: cx.texts.name(&message.namespace), name: cx.texts.name(&message.name) };
    named(name, namespaced(name) == Some((&*key.namespace, &*key.name)), &key)?;
    nothing_more("extensions", &message.extensions)?;
    Ok(AuthorizationPolicy {
        name: key,
        target: target(known("scope", message.scope)?),
        action: action(known("action", message.action)?),
        dry_run: message.dry_run,
        rules: each("rules", &message.rules, |rule| {
            let clauses = each("clauses", &rule.clauses, |clause| {
                let matches = each("matches", &clause.matches, |message| matched(cx, message))?;
                Ok(Clause { matches })
            })?;
            Ok(Rule { clauses })
        })?,
        invalid: None,
    })
}

/// The policy to hold in place of one that is not understood. The name that it came under is looked
/// at first: by that name it will be replaced or removed.
fn denying(name: &str, head: Option<Head>, reason: &str) -> AuthorizationPolicy {
    let own = || head.as_ref().filter(|head| !head.namespace.is_empty() && !head.name.is_empty());
    let key = namespaced(name).or_else(|| own().map(|head| (head.namespace.as_str(), head.name.as_str())));
    let (namespace, name) = key.unwrap_or(("", name));
    AuthorizationPolicy {
        name: ResourceName::new(namespace, name),
        target: head.as_ref().and_then(|head| head.scope.try_into().ok()).map_or(PolicyTarget::Unknown, target),
        action: head.as_ref().and_then(|head| head.action.try_into().ok()).map_or(Action::Deny, action),
        dry_run: head.is_some_and(|head| head.dry_run),
        rules: Vec::new(),
        invalid: Some(reason.into()),
    }
}

fn target(scope: proto::Scope) -> PolicyTarget {
    match scope {
        proto::Scope::Global => PolicyTarget::Mesh,
        proto::Scope::Namespace => PolicyTarget::Namespace,
        proto::Scope::WorkloadSelector => PolicyTarget::Listed,
    }
}

fn action(action: proto::Action) -> Action {
    match action {
        proto::Action::Allow => Action::Allow,
        proto::Action::Deny => Action::Deny,
    }
}

/// Whatever an extension asks for, nobody here would ask it.
fn nothing_more(field: &str, extensions: &[proto::Extension]) -> Result<(), Refusal> {
    match extensions.first() {
        None => Ok(()),
        Some(_) => Err(Refusal::new(field, "what an extension asks for is not known here")),
    }
}

/// A match without fields stays one without terms, which is false: it may have some that are not known
/// here.
fn matched(cx: &mut Decoder, m: &proto::Match) -> Result<Match, Refusal> {
    nothing_more("extensions", &m.extensions)?;
    let terms = [
        term("namespaces", &m.namespaces, false, namespaces)?,
        term("not_namespaces", &m.not_namespaces, true, namespaces)?,
        term("principals", &m.principals, false, principals)?,
        term("not_principals", &m.not_principals, true, principals)?,
        term("service_accounts", &m.service_accounts, false, |field, values| service_accounts(cx, field, values))?,
        term("not_service_accounts", &m.not_service_accounts, true, |field, values| service_accounts(cx, field, values))?,
        term("source_ips", &m.source_ips, false, |field, values| ranges(field, values).map(Test::SourceIp))?,
        term("not_source_ips", &m.not_source_ips, true, |field, values| ranges(field, values).map(Test::SourceIp))?,
        term("destination_ips", &m.destination_ips, false, |field, values| ranges(field, values).map(Test::DestinationIp))?,
        term("not_destination_ips", &m.not_destination_ips, true, |field, values| ranges(field, values).map(Test::DestinationIp))?,
        term("destination_ports", &m.destination_ports, false, ports)?,
        term("not_destination_ports", &m.not_destination_ports, true, ports)?,
    ];
    Ok(Match { terms: terms.into_iter().flatten().collect() })
}

/// An empty list is no condition.
fn term<T>(
    field: &str,
    values: &[T],
    negated: bool,
    test: impl FnOnce(&str, &[T]) -> Result<Test, Refusal>,
) -> Result<Option<Term>, Refusal> {
    if values.is_empty() {
        return Ok(None);
    }
    Ok(Some(Term { negated, test: test(field, values)? }))
}

fn namespaces(field: &str, values: &[proto::StringMatch]) -> Result<Test, Refusal> {
    each(field, values, |message| workload_api::namespace(string(message)?).map_err(|wrong| Refusal::new("", wrong))).map(Test::Namespace)
}

fn principals(field: &str, values: &[proto::StringMatch]) -> Result<Test, Refusal> {
    each(field, values, |message| workload_api::principal(string(message)?).map_err(|wrong| Refusal::new("", wrong))).map(Test::Principal)
}

fn string(message: &proto::StringMatch) -> Result<StringMatch, Refusal> {
    Ok(match &message.match_type {
        Some(MatchType::Exact(text)) => StringMatch::Exact(Name::from(text.as_str())),
        Some(MatchType::Prefix(text)) => StringMatch::Prefix(Name::from(text.as_str())),
        Some(MatchType::Suffix(text)) => StringMatch::Suffix(Name::from(text.as_str())),
        Some(MatchType::Presence(())) => StringMatch::Presence,
        None => return Err(Refusal::new("", "neither exact, prefix, suffix nor presence")),
    })
}

fn service_accounts(cx: &mut Decoder, field: &str, values: &[proto::ServiceAccountMatch]) -> Result<Test, Refusal> {
    let accounts = each(field, values, |message| {
        required("namespace", &message.namespace)?;
        required("serviceAccount", &message.service_account)?;
        Ok(ResourceName { namespace: cx.texts.name(&message.namespace), name: cx.texts.name(&message.service_account) })
    });
    accounts.map(Test::ServiceAccount)
}

fn ranges(field: &str, values: &[proto::Address]) -> Result<Vec<IpNet>, Refusal> {
    each(field, values, |message| address::range(&message.address, message.length))
}

fn ports(field: &str, values: &[u32]) -> Result<Test, Refusal> {
    each(field, values, |number| port("", *number)).map(Test::DestinationPort)
}
