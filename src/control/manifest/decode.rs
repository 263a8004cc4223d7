//! From one YAML object to resources of the model: which kind it is, and what all kinds share.

use super::{
    Config, Owns, core, gateway, pod, policy, route, service_entry, workload_entry,
    yaml::{self, Node, Position, Value},
};
use crate::control::typed::{Typed, typed};
use crate::model::{Hostname, Kind, Labels, Name, Resource, ResourceId, ResourceName, ServiceKey, Severity, Waypoint, WaypointBinding};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::de::DeserializeOwned;
use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

/// A finding about one object, with its place in the piece of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Issue {
    pub(super) severity: Severity,
    pub(super) at: Position,
    pub(super) field: String,
    pub(super) message: String,
}

/// Something another resource must provide.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reference {
    pub(super) at: Position,
    pub(super) field: String,
    pub(super) referent: Referent,
}

/// What a [`Reference`] needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Referent {
    /// A service, and perhaps a port of it.
    Service { service: ServiceKey, port: Option<u16> },
    /// A service port known by name only; its number is filled in when the reference is resolved.
    Section { service: ServiceKey, section: String },
    /// The hosts of a ServiceEntry; filled in when the reference is resolved.
    ServiceEntry { entry: ResourceName, port: Option<u16> },
    /// A port of a host, in any namespace.
    Hostname { hostname: Hostname, port: u16 },
    /// A Gateway that admits routes from this namespace.
    Parent { gateway: ResourceName, from: Name },
    /// A waypoint that admits this namespace.
    Waypoint { gateway: ResourceName, from: Name },
    /// A virtual address that no other resource claims.
    Vip { address: IpAddr, claimant: ResourceId },
    /// Nothing can provide it.
    Never(String),
}

/// What an object decodes to.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Version {
    /// The resources, complete but for what [`Referent::Section`] and [`Referent::ServiceEntry`]
    /// fill in.
    pub(super) resources: Box<[Resource]>,
    /// What must exist elsewhere.
    pub(super) references: Box<[Reference]>,
}

/// An object as found in a file.
#[derive(Debug, Clone)]
pub(super) enum Object {
    /// One of our kinds.
    Ours(Box<Decoded>),
    /// Of no concern to us; with the kind and the reason to tell once.
    Skipped { kind: String, at: Position, gateway: Option<Box<Waypoint>>, reason: String },
    /// No Kubernetes object at all.
    Nameless { at: Position, field: String, message: String, mentions_policy: bool },
}

/// One of our kinds, decoded as far as possible.
#[derive(Debug, Clone)]
pub(super) struct Decoded {
    pub(super) id: ResourceId,
    pub(super) at: Position,
    /// None when there are errors.
    pub(super) version: Option<Arc<Version>>,
    /// What serves when there is neither a version nor a last good one: a policy that denies, a
    /// waypoint that nobody may use.
    pub(super) fallback: Option<Resource>,
    pub(super) issues: Vec<Issue>,
    /// The Gateways that an HTTPRoute is attached to, when it is attached to nothing else.
    pub(super) gateways_only: Vec<ResourceName>,
}

/// Decodes everything in a document: one object, or the items of a list.
pub(super) fn objects(config: &Config, document: &Node, found: &mut Vec<Object>) {
    each(document, None, &mut |node, api_version, kind| found.push(object(config, node, api_version, kind)));
}

/// The object of that id in a document, for findings that come when it has long been decoded.
pub(super) fn find<'n>(document: &'n Node, id: &ResourceId) -> Option<&'n Node> {
    let mut found = None;
    each(document, None, &mut |node, api_version, kind| {
        let is_it = || recognise(api_version, kind).and_then(|(kind, _)| identify(kind, node)).is_some_and(|other| other == *id);
        if found.is_none() && is_it() {
            found = Some(node);
        }
    });
    found
}

/// Visits every object with its apiVersion and kind, which are empty when it has none.
fn each<'n>(node: &'n Node, inherited: Option<(&'n str, &'n str)>, visit: &mut impl FnMut(&'n Node, &'n str, &'n str)) {
    if matches!(node.value, Value::Null) {
        return;
    }
    let word = |key: &str| node.get(key).and_then(Node::text);
    let api_version = word("apiVersion").or(inherited.map(|(v, _)| v)).unwrap_or_default();
    let kind = word("kind").or(inherited.map(|(_, k)| k)).unwrap_or_default();
    if let (Some(item_kind), Some(Value::List(items))) = (kind.strip_suffix("List"), node.get("items").map(|n| &n.value)) {
        let inherited = (!item_kind.is_empty()).then_some((api_version, item_kind));
        return items.iter().for_each(|item| each(item, inherited, visit));
    }
    visit(node, api_version, kind);
}

fn identify(kind: Kind, node: &Node) -> Option<ResourceId> {
    let metadata = |key: &str| node.get("metadata").and_then(|m| m.get(key)).and_then(Node::text);
    let namespace = if kind == Kind::Namespace { "" } else { metadata("namespace").unwrap_or("default") };
    metadata("name").map(|name| ResourceId::new(kind, namespace, name))
}

/// Our kind of that name, and whether the version is one we read. `None`: not ours.
fn recognise(api_version: &str, kind: &str) -> Option<(Kind, bool)> {
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    let (kind, versions): (Kind, &[&str]) = match (group, kind) {
        ("", "Namespace") => (Kind::Namespace, &["v1"]),
        ("", "Service") => (Kind::Service, &["v1"]),
        ("", "Pod") => (Kind::Pod, &["v1"]),
        ("discovery.k8s.io", "EndpointSlice") => (Kind::EndpointSlice, &["v1"]),
        ("networking.istio.io", "ServiceEntry") => (Kind::ServiceEntry, &["v1", "v1beta1", "v1alpha3"]),
        ("networking.istio.io", "WorkloadEntry") => (Kind::WorkloadEntry, &["v1", "v1beta1", "v1alpha3"]),
        ("gateway.networking.k8s.io", "Gateway") => (Kind::Gateway, &["v1", "v1beta1"]),
        ("gateway.networking.k8s.io", "HTTPRoute") => (Kind::HttpRoute, &["v1", "v1beta1"]),
        ("security.istio.io", "AuthorizationPolicy") => (Kind::AuthorizationPolicy, &["v1", "v1beta1"]),
        _ => return None,
    };
    Some((kind, versions.contains(&version)))
}

fn object(config: &Config, node: &Node, api_version: &str, kind_word: &str) -> Object {
    for (field, value) in [("apiVersion", api_version), ("kind", kind_word)] {
        if value.is_empty() {
            let mentions_policy = serde_json::to_string(&node.json()).is_ok_and(|text| text.contains("AuthorizationPolicy"));
            let message = format!("{field} is required");
            return Object::Nameless { at: node.at, field: field.into(), message, mentions_policy };
        }
    }
    let Some((kind, known_version)) = recognise(api_version, kind_word) else {
        let reason = format!("kind {kind_word} ({api_version}) is not used; skipped");
        return Object::Skipped { kind: format!("{api_version}/{kind_word}"), at: node.at, gateway: None, reason };
    };
    let Some(id) = identify(kind, node) else {
        let mentions_policy = kind == Kind::AuthorizationPolicy;
        let (at, field) = (yaml::locate(node, "metadata.name"), "metadata.name".into());
        return Object::Nameless { at, field, message: format!("{kind} without a name"), mentions_policy };
    };
    let ResourceName { namespace, name } = id.name.clone();
    let mut cx = Cx::new(config, id, node);
    if !known_version {
        cx.error("apiVersion", format!("version {api_version:?} of {kind} is not supported"));
    }
    yaml::faults(node, "", &mut |path, at, fault| cx.push(Severity::Error, at, path, fault));
    check_name(&mut cx, "metadata.name", &name, kind == Kind::Namespace || kind == Kind::Service);
    if kind != Kind::Namespace {
        check_name(&mut cx, "metadata.namespace", &namespace, true);
    }
    let mut outcome = if known_version { decode_kind(kind, &mut cx) } else { None };
    if !config.owns.includes(kind) {
        let at = cx.node.at;
        cx.push(Severity::Warning, at, "", "this kind comes from the control plane; the manifest has no effect");
        outcome = outcome.map(|_| Outcome::Resources(Vec::new()));
    }
    finish(kind, cx, outcome)
}

fn decode_kind(kind: Kind, cx: &mut Cx<'_>) -> Option<Outcome> {
    match kind {
        Kind::Namespace => core::namespace(cx),
        Kind::Service => core::service(cx),
        Kind::EndpointSlice => core::endpoint_slice(cx),
        Kind::Pod => pod::pod(cx),
        Kind::ServiceEntry => service_entry::service_entry(cx),
        Kind::WorkloadEntry => workload_entry::workload_entry(cx),
        Kind::Gateway => gateway::gateway(cx),
        Kind::HttpRoute => route::http_route(cx),
        Kind::AuthorizationPolicy => policy::authorization_policy(cx),
    }
}

fn finish(kind: Kind, cx: Cx<'_>, outcome: Option<Outcome>) -> Object {
    if let Some(Outcome::Foreign(class)) = &outcome {
        let reason = format!("Gateway class {class:?} is not a waypoint class; skipped");
        return Object::Skipped {
            kind: format!("Gateway/{class}"),
            at: cx.node.at,
            gateway: Some(Box::new(gateway::unusable(&cx))),
            reason,
        };
    }
    let failed = cx.failed();
    let fallback = if !failed {
        None
    } else if kind == Kind::AuthorizationPolicy {
        Some(policy::denying(&cx))
    } else {
        (kind == Kind::Gateway).then(|| Resource::from(gateway::unusable(&cx)))
    };
    let resources = match outcome {
        Some(Outcome::Resources(resources)) if !failed => Some(resources),
        Some(Outcome::Resources(_) | Outcome::Foreign(_)) | None => None,
    };
    let version = resources.map(|resources| Arc::new(Version { resources: resources.into(), references: cx.references.into() }));
    let decoded = Decoded { id: cx.id, at: cx.node.at, version, fallback, issues: cx.issues, gateways_only: cx.gateways_only };
    Object::Ours(Box::new(decoded))
}

/// What manifests can answer of what is asked of other resources; what the control plane owns is not
/// theirs to miss.
fn answerable(owns: Owns, referent: Referent) -> Option<Referent> {
    match (owns, referent) {
        (Owns::Everything, referent) => Some(referent),
        // The workload API numbers ports and does not name them.
        (Owns::Policy, Referent::Section { section, .. }) => Some(Referent::Never(format!(
            "port {section:?} is not known by name: services come from the control plane; refer to it by port"
        ))),
        (Owns::Policy, referent @ (Referent::Parent { .. } | Referent::Never(_))) => Some(referent),
        (Owns::Policy, Referent::Service { .. } | Referent::ServiceEntry { .. } | Referent::Hostname { .. }) => None,
        (Owns::Policy, Referent::Waypoint { .. } | Referent::Vip { .. }) => None,
    }
}

/// What a kind's decoder yields; `None` when the object does not even have the right shape.
pub(super) enum Outcome {
    /// The resources; perhaps none.
    Resources(Vec<Resource>),
    /// A Gateway of this class, which somebody else serves.
    Foreign(String),
}

/// The object that is being decoded, and what was found out about it.
pub(super) struct Cx<'a> {
    pub(super) config: &'a Config,
    pub(super) id: ResourceId,
    pub(super) node: &'a Node,
    pub(super) issues: Vec<Issue>,
    pub(super) references: Vec<Reference>,
    pub(super) gateways_only: Vec<ResourceName>,
}

impl<'a> Cx<'a> {
    fn new(config: &'a Config, id: ResourceId, node: &'a Node) -> Self {
        Self { config, id, node, issues: Vec::new(), references: Vec::new(), gateways_only: Vec::new() }
    }

    fn push(&mut self, severity: Severity, at: Position, field: &str, message: impl Into<String>) {
        self.issues.push(Issue { severity, at, field: field.to_owned(), message: message.into() });
    }

    /// The field is wrong; the object will be rejected.
    pub(super) fn error(&mut self, field: &str, message: impl Into<String>) {
        self.push(Severity::Error, yaml::locate(self.node, field), field, message);
    }

    /// The field is legal, but will not do what it says.
    pub(super) fn warn(&mut self, field: &str, message: impl Into<String>) {
        self.push(Severity::Warning, yaml::locate(self.node, field), field, message);
    }

    /// Another resource must provide something for this field.
    pub(super) fn refer(&mut self, field: &str, referent: Referent) {
        if let Some(referent) = answerable(self.config.owns, referent) {
            self.references.push(Reference { at: yaml::locate(self.node, field), field: field.to_owned(), referent });
        }
    }

    /// Whether there was an error.
    pub(super) fn failed(&self) -> bool {
        self.issues.iter().any(|i| i.severity == Severity::Error)
    }

    /// The namespace of the object.
    pub(super) fn namespace(&self) -> Name {
        self.id.name.namespace.clone()
    }

    /// The key of a Kubernetes Service.
    pub(super) fn service_key(&self, namespace: &str, name: &str) -> ServiceKey {
        ServiceKey { namespace: namespace.into(), hostname: Hostname::of_service(name, namespace, &self.config.cluster_domain) }
    }

    /// Decodes the whole object into a published type. Unknown fields and wrong types are errors.
    pub(super) fn typed<T: DeserializeOwned>(&mut self) -> Option<T> {
        let Typed { value, unknown } = typed(self.node);
        for path in unknown {
            // The generated roots of custom resources do not name these two themselves.
            if path != "apiVersion" && path != "kind" {
                let at = yaml::locate_key(self.node, &path);
                self.push(Severity::Error, at, &path, "unknown field");
            }
        }
        value.map_err(|(path, message)| self.error(&path, message)).ok()
    }

    /// Reads `istio.io/use-waypoint` and `istio.io/use-waypoint-namespace`.
    pub(super) fn binding(&mut self, labels: Option<&BTreeMap<String, String>>) -> WaypointBinding {
        const LABEL: &str = "istio.io/use-waypoint";
        let Some(name) = labels.and_then(|l| l.get(LABEL)).filter(|n| !n.is_empty()) else { return WaypointBinding::Inherit };
        if name == "none" {
            return WaypointBinding::None;
        }
        // A Namespace's own name is the namespace of everything in it.
        let from = if self.id.kind == Kind::Namespace { self.id.name.name.clone() } else { self.namespace() };
        let namespace = labels.and_then(|l| l.get("istio.io/use-waypoint-namespace")).map_or(&*from, String::as_str);
        let gateway = ResourceName::new(namespace, name);
        self.refer(&yaml::join("metadata.labels", LABEL), Referent::Waypoint { gateway: gateway.clone(), from });
        WaypointBinding::To(gateway)
    }

    /// A port number from 1 to 65535.
    pub(super) fn port(&mut self, field: &str, port: i64) -> Option<u16> {
        let number = u16::try_from(port).ok().filter(|p| *p > 0);
        if number.is_none() {
            self.error(field, format!("port {port} is not between 1 and 65535"));
        }
        number
    }

    /// An IP address.
    pub(super) fn ip(&mut self, field: &str, text: &str) -> Option<IpAddr> {
        let parsed = text.parse().ok();
        if parsed.is_none() {
            self.error(field, format!("{text:?} is not an IP address"));
        }
        parsed
    }

    /// A virtual address, which must be nobody else's.
    pub(super) fn claim(&mut self, field: &str, address: IpAddr) -> IpAddr {
        let claimant = self.id.clone();
        self.refer(field, Referent::Vip { address: address.to_canonical(), claimant });
        address
    }

    /// At most so many items.
    pub(super) fn at_most<T>(&mut self, field: &str, items: &[T], limit: usize) {
        if items.len() > limit {
            self.error(field, format!("{} items; at most {limit} are allowed", items.len()));
        }
    }
}

/// Labels in the model's form.
pub(super) fn labels(labels: Option<&BTreeMap<String, String>>) -> Labels {
    labels.into_iter().flatten().map(|(k, v)| (k.as_str().into(), v.as_str().into())).collect()
}

/// An annotation's value.
pub(super) fn annotation<'m>(metadata: &'m ObjectMeta, key: &str) -> Option<&'m str> {
    metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

/// A label's value.
pub(super) fn label<'m>(metadata: &'m ObjectMeta, key: &str) -> Option<&'m str> {
    metadata.labels.as_ref()?.get(key).map(String::as_str)
}

/// Kubernetes' rule for names of objects (RFC 1123).
fn check_name(cx: &mut Cx<'_>, field: &str, name: &str, is_label: bool) {
    if !is_dns_name(name) || (is_label && (name.contains('.') || name.len() > 63)) {
        cx.error(field, format!("{name:?} is not a valid name: lower case letters, digits and '-'"));
    }
}

/// RFC 1123 subdomain.
pub(super) fn is_dns_name(name: &str) -> bool {
    let part = |p: &str| {
        let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        edge(p.bytes().next()) && edge(p.bytes().last()) && p.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    name.len() <= 253 && name.split('.').all(part)
}
