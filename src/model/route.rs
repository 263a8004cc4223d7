//! HTTP routes, as the Gateway API means them (`HTTPRoute`, GEP-1294 for meshes).
//!
//! Defaults of the API are already filled in: a rule without matches has one match of prefix `/`.

use super::{Hostname, ResourceName, ServiceKey};
use http::{HeaderName, HeaderValue, Method, StatusCode};
use std::{sync::Arc, time::Duration};

/// An HTTPRoute.
#[derive(Debug, Clone, PartialEq)]
pub struct HttpRoute {
    /// Namespace and name.
    pub name: ResourceName,
    /// `metadata.creationTimestamp` in seconds since 1970, when written: the older route wins ties.
    pub created: Option<i64>,
    /// What it is attached to.
    pub parents: Vec<Parent>,
    /// Its rules, in order.
    pub rules: Vec<RouteRule>,
}

/// What a route is attached to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parent {
    /// A Service (or a host of a ServiceEntry), perhaps one port of it.
    Service {
        /// The service.
        service: ServiceKey,
        /// Only this port.
        port: Option<u16>,
    },
    /// All hosts of a ServiceEntry whose hosts are not known where the route was read, perhaps one port
    /// of each.
    ServiceEntry {
        /// The ServiceEntry.
        entry: ResourceName,
        /// Only this port.
        port: Option<u16>,
    },
    /// A service account: requests for workloads that run as it.
    ServiceAccount(ResourceName),
    /// A waypoint's Gateway: everything it serves.
    Gateway(ResourceName),
}

/// One rule of a route.
#[derive(Debug, Clone, PartialEq)]
pub struct RouteRule {
    /// `name`, when given.
    pub name: Option<Arc<str>>,
    /// Any of these must match.
    pub matches: Vec<RouteMatch>,
    /// Filters, in order.
    pub filters: Vec<Filter>,
    /// Where requests go; `None` when the field is absent or empty.
    pub backends: Vec<BackendRef>,
    /// Time limits.
    pub timeouts: Timeouts,
    /// Retries; `None` means the mesh's default.
    pub retry: Option<Retry>,
}

/// All of it must match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteMatch {
    /// The path.
    pub path: PathPattern,
    /// The method, if it matters.
    pub method: Option<Method>,
    /// Headers that must match, no name twice.
    pub headers: Vec<HeaderMatch>,
    /// Query parameters that must match, no name twice.
    pub query: Vec<QueryMatch>,
}

impl Default for RouteMatch {
    /// Matches everything: prefix `/`.
    fn default() -> Self {
        Self { path: PathPattern::Prefix("/".into()), method: None, headers: Vec::new(), query: Vec::new() }
    }
}

/// How a path is compared.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PathPattern {
    /// The whole path, case-sensitive.
    Exact(Arc<str>),
    /// Whole elements from the start; a trailing `/` of the pattern has no meaning.
    Prefix(Arc<str>),
    /// A regular expression over the whole path (RE2 syntax, anchored at both ends).
    Regex(Arc<str>),
}

/// How a value is compared.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ValueMatch {
    /// Equal.
    Exact(Arc<str>),
    /// A regular expression over the whole value.
    Regex(Arc<str>),
}

/// A header that must match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderMatch {
    /// Its name.
    pub name: HeaderName,
    /// Its value.
    pub value: ValueMatch,
}

/// A query parameter that must match; the first of that name in the request counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryMatch {
    /// Its name, exact.
    pub name: Arc<str>,
    /// Its value.
    pub value: ValueMatch,
}

/// What a rule or a backend does to a request or its response.
#[derive(Debug, Clone, PartialEq)]
pub enum Filter {
    /// Changes request headers.
    RequestHeaders(HeaderModifier),
    /// Changes response headers.
    ResponseHeaders(HeaderModifier),
    /// Answers with a redirect.
    Redirect(Redirect),
    /// Rewrites host or path.
    Rewrite(UrlRewrite),
}

/// Changes to headers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeaderModifier {
    /// Replace or create.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Append.
    pub add: Vec<(HeaderName, HeaderValue)>,
    /// Drop.
    pub remove: Vec<HeaderName>,
}

/// `RequestRedirect`.
#[derive(Debug, Clone, PartialEq)]
pub struct Redirect {
    /// `http` or `https`; the request's when absent.
    pub scheme: Option<Arc<str>>,
    /// Host; the request's when absent.
    pub hostname: Option<Arc<str>>,
    /// Port; else the well-known one of `scheme`, else the service's.
    pub port: Option<u16>,
    /// Path; the request's when absent.
    pub path: Option<PathModifier>,
    /// 301, 302 (the default), 303, 307 or 308.
    pub status: StatusCode,
}

/// `URLRewrite`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UrlRewrite {
    /// New value of the Host header.
    pub hostname: Option<Arc<str>>,
    /// New path; the query is kept.
    pub path: Option<PathModifier>,
}

/// How a path is changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathModifier {
    /// Replaced whole.
    Full(Arc<str>),
    /// Only the matched prefix is replaced.
    Prefix(Arc<str>),
}

/// A weighted backend.
#[derive(Debug, Clone, PartialEq)]
pub struct BackendRef {
    /// Where to.
    pub target: BackendTarget,
    /// Its share, 0 to 1,000,000; 0 receives nothing.
    pub weight: u32,
    /// Filters for requests that go here.
    pub filters: Vec<Filter>,
}

/// Where a backend leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackendTarget {
    /// A port of a service.
    Service {
        /// The service.
        service: ServiceKey,
        /// The service's port.
        port: u16,
    },
    /// A host of a ServiceEntry, from any namespace (`kind: Hostname`).
    Hostname {
        /// The host.
        hostname: Hostname,
        /// The port.
        port: u16,
    },
    /// A reference that can never hold (an unknown kind): its share is answered with 500.
    Invalid,
}

/// Time limits of a rule (GEP-1742); `None` means no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// For the whole exchange with all its tries.
    pub request: Option<Duration>,
    /// For each try.
    pub backend_request: Option<Duration>,
}

/// Retries of a rule (GEP-1731).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    /// Statuses that are tried again; connection errors always are.
    pub codes: Vec<StatusCode>,
    /// Tries after the first.
    pub attempts: u32,
    /// Least wait before a retry.
    pub backoff: Option<Duration>,
}
