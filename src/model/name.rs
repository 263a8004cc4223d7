//! Names of things: namespaces, resources, host names.

use std::{collections::BTreeMap, fmt, sync::Arc};

/// A shared, immutable name.
pub type Name = Arc<str>;

/// Kubernetes labels.
pub type Labels = BTreeMap<Name, Name>;

/// `namespace/name` of a resource.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceName {
    /// The namespace; empty for cluster-scoped resources.
    pub namespace: Name,
    /// The name.
    pub name: Name,
}

impl ResourceName {
    /// Builds a name from its two parts.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() { f.write_str(&self.name) } else { write!(f, "{}/{}", self.namespace, self.name) }
    }
}

/// A DNS host name, in lower case and without a trailing dot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hostname(Name);

impl Hostname {
    /// Normalises case and the trailing dot.
    pub fn new(host: &str) -> Self {
        Self(host.trim_end_matches('.').to_ascii_lowercase().into())
    }

    /// The host name of a Kubernetes Service, `NAME.NAMESPACE.svc.DOMAIN`.
    pub fn of_service(name: &str, namespace: &str, domain: &str) -> Self {
        Self::new(&format!("{name}.{namespace}.svc.{domain}"))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name, shared.
    pub fn name(&self) -> Name {
        self.0.clone()
    }
}

impl fmt::Display for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The key of a service: namespace and host name, as in Istio's workload API
/// (`NamespacedHostname`), so that both sources name the same service alike.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKey {
    /// The namespace of the Service or ServiceEntry.
    pub namespace: Name,
    /// The host name.
    pub hostname: Hostname,
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.hostname)
    }
}

/// The kinds of resources that configure cairn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "the variants are the kinds' own names")]
pub enum Kind {
    Namespace,
    Service,
    EndpointSlice,
    Pod,
    ServiceEntry,
    WorkloadEntry,
    Gateway,
    HttpRoute,
    AuthorizationPolicy,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 9] = [
        Self::Namespace,
        Self::Service,
        Self::EndpointSlice,
        Self::Pod,
        Self::ServiceEntry,
        Self::WorkloadEntry,
        Self::Gateway,
        Self::HttpRoute,
        Self::AuthorizationPolicy,
    ];

    /// The kind as manifests spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Pod => "Pod",
            Self::ServiceEntry => "ServiceEntry",
            Self::WorkloadEntry => "WorkloadEntry",
            Self::Gateway => "Gateway",
            Self::HttpRoute => "HTTPRoute",
            Self::AuthorizationPolicy => "AuthorizationPolicy",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A resource as a user wrote it: kind, namespace and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceId {
    /// The kind.
    pub kind: Kind,
    /// Namespace and name.
    pub name: ResourceName,
}

impl ResourceId {
    /// Builds an id.
    pub fn new(kind: Kind, namespace: &str, name: &str) -> Self {
        Self { kind, name: ResourceName::new(namespace, name) }
    }
}

impl fmt::Display for ResourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}
