//! Decodes AuthorizationPolicy: what it governs, what it does, and (in `policy_rules`) when.

use super::{
    Owns,
    decode::{Cx, Outcome, Referent, annotation, labels},
    istio::{Object, PolicyAction, PolicySpec, PolicyTargetRef, PolicyTargets},
    policy_rules,
};
use crate::model::{Action, AuthorizationPolicy, Name, PolicyTarget, Resource, ResourceName, Severity, TargetRef};

/// Istio's limit for `targetRefs`.
const MAX_TARGETS: usize = 16;

pub(super) fn authorization_policy(cx: &mut Cx<'_>) -> Option<Outcome> {
    let object: Object<PolicySpec> = cx.typed()?;
    let spec = object.spec.unwrap_or_default();
    let action = match spec.action {
        None | Some(PolicyAction::Allow) => Action::Allow,
        Some(PolicyAction::Deny) => Action::Deny,
        Some(PolicyAction::Audit) => {
            cx.warn("spec.action", "AUDIT is not supported and never affects decisions; skipped");
            return Some(Outcome::Resources(Vec::new()));
        }
        Some(PolicyAction::Custom) => {
            cx.error("spec.action", "not implemented: CUSTOM");
            Action::Deny
        }
    };
    if spec.provider.is_some() && spec.action != Some(PolicyAction::Custom) {
        cx.error("spec.provider", "a provider belongs to action CUSTOM only");
    }
    let targets = PolicyTargets { selector: spec.selector, target_ref: spec.target_ref, target_refs: spec.target_refs };
    let target = target(cx, &targets);
    let mut rules = Vec::new();
    for (i, rule) in spec.rules.iter().enumerate() {
        rules.push(policy_rules::rule(cx, &format!("spec.rules[{i}]"), rule));
    }
    if action == Action::Deny && rules.is_empty() && !cx.failed() {
        cx.warn("spec.rules", "a DENY policy without rules denies nothing");
    }
    let dry_run = match annotation(&object.metadata, "istio.io/dry-run") {
        None | Some("false") => false,
        Some("true") => true,
        Some(other) => {
            let field = super::yaml::join("metadata.annotations", "istio.io/dry-run");
            cx.error(&field, format!("{other:?} is neither \"true\" nor \"false\""));
            false
        }
    };
    let policy = AuthorizationPolicy { name: cx.id.name.clone(), target, action, dry_run, rules, invalid: None };
    Some(Outcome::Resources(vec![Resource::from(policy)]))
}

/// The policy that stands in for one that cannot be understood and never could: it denies its
/// scope, as far as that can be read.
pub(super) fn denying(cx: &Cx<'_>) -> Resource {
    let spec = cx.node.get("spec").map(super::yaml::Node::json);
    let targets = match spec {
        None => Ok(PolicyTargets::default()),
        Some(spec) => serde_json::from_value::<PolicyTargets>(spec),
    };
    let mut probe = Cx { issues: Vec::new(), references: Vec::new(), gateways_only: Vec::new(), id: cx.id.clone(), ..*cx };
    let target = targets.ok().map(|t| target(&mut probe, &t));
    // A ServiceEntry is resolved only for valid policies; until then the target counts as unknown.
    let target = target.filter(|_| !probe.failed() && probe.references.is_empty());
    let reason = cx.issues.iter().find(|i| i.severity == Severity::Error).map_or("invalid", |i| &i.message);
    Resource::from(invalid(cx.id.name.clone(), target.unwrap_or(PolicyTarget::Unknown), reason))
}

/// A policy that denies everything in its scope.
pub(super) fn invalid(name: ResourceName, target: PolicyTarget, reason: &str) -> AuthorizationPolicy {
    AuthorizationPolicy { name, target, action: Action::Deny, dry_run: false, rules: Vec::new(), invalid: Some(Name::from(reason)) }
}

fn target(cx: &mut Cx<'_>, spec: &PolicyTargets) -> PolicyTarget {
    let listed = spec.target_refs.iter().enumerate().map(|(i, t)| (format!("spec.targetRefs[{i}]"), t));
    let refs: Vec<_> = spec.target_ref.iter().map(|t| ("spec.targetRef".to_owned(), t)).chain(listed).collect();
    if spec.target_ref.is_some() && !spec.target_refs.is_empty() {
        cx.error("spec.targetRef", "targetRef and targetRefs exclude each other");
    }
    if spec.selector.is_some() && !refs.is_empty() {
        cx.error("spec.selector", "selector and targetRefs exclude each other");
    }
    cx.at_most("spec.targetRefs", &spec.target_refs, MAX_TARGETS);
    if !refs.is_empty() {
        return PolicyTarget::Refs(refs.into_iter().filter_map(|(field, reference)| target_ref(cx, &field, reference)).collect());
    }
    match &spec.selector {
        Some(selector) if !selector.match_labels.is_empty() => PolicyTarget::Selector(labels(Some(&selector.match_labels))),
        Some(_) | None => PolicyTarget::Namespace,
    }
}

/// A ServiceEntry yields nothing here but a reference that is resolved to its hosts later.
fn target_ref(cx: &mut Cx<'_>, field: &str, reference: &PolicyTargetRef) -> Option<TargetRef> {
    let namespace = cx.namespace();
    if reference.namespace.as_deref().is_some_and(|n| *n != *namespace) {
        cx.error(&format!("{field}.namespace"), "a policy governs targets of its own namespace only");
        return None;
    }
    let name = ResourceName::new(&namespace, &reference.name);
    match (reference.group.as_str(), reference.kind.as_str()) {
        ("gateway.networking.k8s.io", "Gateway") => Some(TargetRef::Gateway(name)),
        ("" | "core", "Service") => Some(TargetRef::Service(cx.service_key(&namespace, &reference.name))),
        ("networking.istio.io", "ServiceEntry") if cx.config.owns == Owns::Policy => Some(TargetRef::ServiceEntry(name)),
        ("networking.istio.io", "ServiceEntry") => {
            cx.refer(&format!("{field}.name"), Referent::ServiceEntry { entry: name, port: None });
            None
        }
        ("gateway.networking.k8s.io", "GatewayClass") if *namespace == *cx.config.root_namespace => {
            Some(TargetRef::GatewayClass(reference.name.as_str().into()))
        }
        ("gateway.networking.k8s.io", "GatewayClass") => {
            cx.error(field, format!("a GatewayClass is a target only in the root namespace {:?}", cx.config.root_namespace));
            None
        }
        (group, kind) => {
            cx.error(&format!("{field}.kind"), format!("unknown target {kind:?} of group {group:?}"));
            None
        }
    }
}
