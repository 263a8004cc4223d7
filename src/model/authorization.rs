//! Authorization policies, in one shape for both sources: Istio's `AuthorizationPolicy` and the
//! workload API's `Authorization` message (rules OR, clauses AND, matches OR, terms AND).

use super::{Labels, Name, ResourceName, ServiceKey};
use http::HeaderName;
use ipnet::IpNet;

/// An AuthorizationPolicy.
#[derive(Debug, Clone, PartialEq)]
pub struct AuthorizationPolicy {
    /// Namespace and name.
    pub name: ResourceName,
    /// What it governs.
    pub target: PolicyTarget,
    /// What a match means.
    pub action: Action,
    /// Only reported, never enforced (annotation `istio.io/dry-run`).
    pub dry_run: bool,
    /// Any of these must match. None: never matches, so an ALLOW policy denies everything.
    pub rules: Vec<Rule>,
    /// Why the policy could not be understood. Such a policy denies everything in its scope,
    /// whatever its action.
    pub invalid: Option<Name>,
}

impl AuthorizationPolicy {
    /// Whether any of its rules asks about an HTTP request.
    pub fn is_http(&self) -> bool {
        let matches = self.rules.iter().flat_map(|rule| &rule.clauses).flat_map(|clause| &clause.matches);
        matches.flat_map(|m| &m.terms).any(|term| term.test.is_http())
    }
}

/// What a policy governs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PolicyTarget {
    /// `targetRefs`: enforced by waypoints.
    Refs(Vec<TargetRef>),
    /// `selector`: enforced in front of these workloads of its namespace (of every namespace, if
    /// it stands in the root namespace).
    Selector(Labels),
    /// Neither: enforced in front of every workload of its namespace (of every namespace, if it
    /// stands in the root namespace).
    Namespace,
    /// Enforced in front of the workloads that list it ([`WorkloadL4::policies`](super::WorkloadL4)).
    Listed,
    /// Enforced in front of every workload of the mesh, wherever it stands.
    Mesh,
    /// An invalid policy whose target cannot be read: everything that it may have meant.
    Unknown,
}

/// One of `targetRefs`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetRef {
    /// Everything a waypoint serves.
    Gateway(ResourceName),
    /// One service, whether from a Service or a ServiceEntry.
    Service(ServiceKey),
    /// All hosts of a ServiceEntry whose hosts are not known where the policy was read.
    ServiceEntry(ResourceName),
    /// Every waypoint of a class; only from the root namespace.
    GatewayClass(Name),
}

/// What a match means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Matching requests pass; once one ALLOW policy applies, others do not.
    Allow,
    /// Matching requests are refused, before any ALLOW is looked at.
    Deny,
}

/// Clauses AND; no clauses match everything.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rule {
    /// The clauses: `from`, `to`, and one for each of `when`.
    pub clauses: Vec<Clause>,
}

/// Matches OR; no matches are true.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Clause {
    /// The matches: each `source` of `from`, each `operation` of `to`.
    pub matches: Vec<Match>,
}

/// Terms AND; no terms are **false**, so that a match of which nothing was understood does not
/// become "everybody".
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Match {
    /// The terms: one for each field that is set.
    pub terms: Vec<Term>,
}

/// A field and the values that are looked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Term {
    /// True for the `not…` form: none of the values may match.
    pub negated: bool,
    /// What is compared.
    pub test: Test,
}

/// What is compared with what; any of the values suffices.
#[derive(Debug, Clone, PartialEq)]
pub enum Test {
    /// The peer's identity without `spiffe://`.
    Principal(Vec<StringMatch>),
    /// The namespace of the peer's identity.
    Namespace(Vec<NamespacePattern>),
    /// Namespace and service account of the peer's identity.
    ServiceAccount(Vec<ResourceName>),
    /// The trust domain of the peer's identity.
    TrustDomain(Vec<StringMatch>),
    /// The address the connection comes from.
    SourceIp(Vec<IpNet>),
    /// The client's address, by `x-forwarded-for` when present. HTTP only.
    RemoteIp(Vec<IpNet>),
    /// The address the connection goes to.
    DestinationIp(Vec<IpNet>),
    /// The port the connection goes to.
    DestinationPort(Vec<u16>),
    /// The Host header or `:authority`, without regard to case. HTTP only.
    Host(Vec<StringMatch>),
    /// The method. HTTP only.
    Method(Vec<StringMatch>),
    /// The normalised path without the query. HTTP only.
    Path(Vec<PathMatch>),
    /// A request header. HTTP only.
    Header(HeaderName, Vec<StringMatch>),
    /// The server name of the client's own TLS inside the tunnel; empty when there is none.
    Sni(Vec<StringMatch>),
}

impl Test {
    /// Whether the test needs an HTTP request.
    pub fn is_http(&self) -> bool {
        match self {
            Self::RemoteIp(_) | Self::Host(_) | Self::Method(_) | Self::Path(_) | Self::Header(..) => true,
            Self::Principal(_)
            | Self::Namespace(_)
            | Self::ServiceAccount(_)
            | Self::TrustDomain(_)
            | Self::SourceIp(_)
            | Self::DestinationIp(_)
            | Self::DestinationPort(_)
            | Self::Sni(_) => false,
        }
    }
}

/// Istio's string match: `a`, `a*`, `*a`, `*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StringMatch {
    /// Equal.
    Exact(Name),
    /// Starts with.
    Prefix(Name),
    /// Ends with.
    Suffix(Name),
    /// Any value that is not empty.
    Presence,
}

impl StringMatch {
    /// Reads Istio's notation: a leading or trailing `*` is a wildcard, a lone `*` means presence.
    pub fn parse(text: &str) -> Self {
        if text == "*" {
            Self::Presence
        } else if let Some(suffix) = text.strip_prefix('*') {
            // Looked at first, so `*a*` is a suffix `a*`, as in Istio.
            Self::Suffix(suffix.into())
        } else if let Some(prefix) = text.strip_suffix('*') {
            Self::Prefix(prefix.into())
        } else {
            Self::Exact(text.into())
        }
    }
}

/// A namespace with `*` anywhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamespacePattern(pub Name);

/// How a policy compares a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathMatch {
    /// Istio's plain notation.
    Text(StringMatch),
    /// A template with `{*}` and `{**}`.
    Template(PathTemplate),
}

/// A path template: `{*}` is one segment that is not empty, `{**}` any remainder; after it only text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathTemplate {
    /// The segments after the leading `/`.
    pub segments: Vec<Segment>,
}

/// A segment of a [`PathTemplate`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Segment {
    /// This text.
    Literal(Name),
    /// `{*}`
    Any,
    /// `{**}`
    Rest,
}
