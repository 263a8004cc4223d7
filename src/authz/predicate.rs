//! One term of a policy, compiled.

use super::{
    Attributes, HttpAttributes,
    strings::{StringSet, glob, header, matches, matches_any_case},
    template::TemplateMatcher,
};
use crate::model::{Action, NamespacePattern, PathMatch, ResourceName, StringMatch, Term, Test};
use http::HeaderName;
use ipnet::{IpNet, Ipv4Net};
use std::net::IpAddr;

/// A test and which way round it counts.
#[derive(Debug)]
pub(super) struct Predicate {
    negated: bool,
    // What counts when the request is not there to be looked at: the answer that refuses.
    blind: bool,
    test: Compiled,
}

#[derive(Debug)]
enum Compiled {
    Principal(StringSet),
    Namespace(Box<[NamespacePattern]>),
    ServiceAccount(Box<[ResourceName]>),
    TrustDomain(StringSet),
    SourceIp(Box<[IpNet]>),
    DestinationIp(Box<[IpNet]>),
    DestinationPort(Box<[u16]>),
    Sni(Box<[StringMatch]>),
    Http(HttpTest),
}

#[derive(Debug)]
enum HttpTest {
    RemoteIp(Box<[IpNet]>),
    Host(Box<[StringMatch]>),
    Method(StringSet),
    Path { texts: StringSet, templates: Box<[TemplateMatcher]> },
    Header(HeaderName, Box<[StringMatch]>),
}

impl Predicate {
    /// The term, as part of a policy of this action.
    pub(super) fn compile(term: &Term, action: Action) -> Self {
        Self { negated: term.negated, blind: action == Action::Deny, test: Compiled::new(&term.test) }
    }

    /// Whether the term is satisfied.
    pub(super) fn holds(&self, attributes: &Attributes<'_>) -> bool {
        self.test.matches(attributes).map_or(self.blind, |matches| matches != self.negated)
    }
}

impl Compiled {
    fn new(test: &Test) -> Self {
        match test {
            Test::Principal(patterns) => Self::Principal(StringSet::new(patterns)),
            Test::Namespace(patterns) => Self::Namespace(patterns.as_slice().into()),
            Test::ServiceAccount(names) => Self::ServiceAccount(names.as_slice().into()),
            Test::TrustDomain(patterns) => Self::TrustDomain(StringSet::new(patterns)),
            Test::SourceIp(nets) => Self::SourceIp(canonical(nets)),
            Test::DestinationIp(nets) => Self::DestinationIp(canonical(nets)),
            Test::DestinationPort(ports) => Self::DestinationPort(ports.as_slice().into()),
            Test::Sni(patterns) => Self::Sni(patterns.as_slice().into()),
            Test::RemoteIp(nets) => Self::Http(HttpTest::RemoteIp(canonical(nets))),
            Test::Host(patterns) => Self::Http(HttpTest::Host(patterns.as_slice().into())),
            Test::Method(patterns) => Self::Http(HttpTest::Method(StringSet::new(patterns))),
            Test::Path(patterns) => Self::Http(HttpTest::path(patterns)),
            Test::Header(name, patterns) => Self::Http(HttpTest::Header(name.clone(), patterns.as_slice().into())),
        }
    }

    /// Whether any value fits; `None` without the request, or the server name, that it asks about. Without an identity
    /// no value fits.
    fn matches(&self, attributes: &Attributes<'_>) -> Option<bool> {
        let identity = attributes.identity;
        Some(match self {
            Self::Principal(set) => identity.is_some_and(|peer| set.contains(peer.principal())),
            Self::Namespace(globs) => identity.is_some_and(|peer| globs.iter().any(|pattern| glob(&pattern.0, peer.namespace()))),
            Self::ServiceAccount(names) => {
                identity.is_some_and(|peer| names.iter().any(|n| *n.namespace == *peer.namespace() && *n.name == *peer.service_account()))
            }
            Self::TrustDomain(set) => identity.is_some_and(|peer| set.contains(peer.trust_domain())),
            Self::SourceIp(nets) => covers(nets, attributes.source_ip),
            Self::DestinationIp(nets) => covers(nets, attributes.destination.ip()),
            Self::DestinationPort(ports) => ports.contains(&attributes.destination.port()),
            Self::Sni(patterns) => {
                let sni = attributes.sni?;
                patterns.iter().any(|pattern| matches_any_case(pattern, sni))
            }
            Self::Http(test) => test.matches(attributes.http.as_ref()?),
        })
    }
}

impl HttpTest {
    fn path(patterns: &[PathMatch]) -> Self {
        let (mut texts, mut templates) = (Vec::new(), Vec::new());
        for pattern in patterns {
            match pattern {
                PathMatch::Text(text) => texts.push(text.clone()),
                PathMatch::Template(template) => templates.push(TemplateMatcher::new(template)),
            }
        }
        Self::Path { texts: StringSet::new(&texts), templates: templates.into() }
    }

    fn matches(&self, http: &HttpAttributes<'_>) -> bool {
        match self {
            Self::RemoteIp(nets) => covers(nets, http.remote_ip),
            Self::Host(patterns) => patterns.iter().any(|pattern| matches_any_case(pattern, http.host)),
            Self::Method(set) => set.contains(http.method),
            Self::Path { texts, templates } => {
                let path = http.path_only();
                texts.contains(path) || templates.iter().any(|template| template.matches(path))
            }
            Self::Header(name, patterns) => {
                header(http.headers, name).is_some_and(|value| patterns.iter().any(|pattern| matches(pattern, &value)))
            }
        }
    }
}

/// IPv4 in IPv6 clothes (`::ffff:10.0.0.1`) is IPv4, whether in a policy or on a dual-stack socket.
fn canonical(nets: &[IpNet]) -> Box<[IpNet]> {
    let canonical = |net: &IpNet| match net {
        IpNet::V4(_) => *net,
        IpNet::V6(wide) => {
            let narrow = wide.addr().to_ipv4_mapped().zip(wide.prefix_len().checked_sub(96));
            narrow.and_then(|(address, length)| Ipv4Net::new(address, length).ok()).map_or(*net, IpNet::V4)
        }
    };
    nets.iter().map(canonical).collect()
}

fn covers(nets: &[IpNet], address: IpAddr) -> bool {
    let address = address.to_canonical();
    nets.iter().any(|net| net.contains(&address))
}

/// What a peer or a request must be to satisfy a test, as a key to look it up by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Demand<'a> {
    /// This principal.
    Principal(&'a str),
    /// This namespace.
    Namespace(&'a str),
    /// This path.
    Path(&'a str),
    /// A path that starts with this.
    PathPrefix(&'a [u8]),
}

impl Demand<'_> {
    /// How many kinds there are: principals, namespaces, paths.
    pub(super) const KINDS: usize = 3;
}

/// The demands of a kind of which one alone can satisfy the test, when it lists them.
pub(super) fn demands(test: &Test, kind: usize) -> Option<Vec<Demand<'_>>> {
    match (test, kind) {
        (Test::Principal(patterns), 0) => patterns.iter().map(exact_principal).collect(),
        (Test::ServiceAccount(names), 1) => Some(names.iter().map(|name| Demand::Namespace(&name.namespace)).collect()),
        (Test::Namespace(patterns), 1) => {
            patterns.iter().map(|pattern| (!pattern.0.contains('*')).then(|| Demand::Namespace(&pattern.0))).collect()
        }
        (Test::Path(patterns), 2) => patterns.iter().map(plain_path).collect(),
        _ => None,
    }
}

fn exact_principal(pattern: &StringMatch) -> Option<Demand<'_>> {
    match pattern {
        StringMatch::Exact(text) => Some(Demand::Principal(text)),
        StringMatch::Prefix(_) | StringMatch::Suffix(_) | StringMatch::Presence => None,
    }
}

fn plain_path(pattern: &PathMatch) -> Option<Demand<'_>> {
    match pattern {
        PathMatch::Text(StringMatch::Exact(text)) => Some(Demand::Path(text)),
        PathMatch::Text(StringMatch::Prefix(text)) => Some(Demand::PathPrefix(text.as_bytes())),
        PathMatch::Text(StringMatch::Suffix(_) | StringMatch::Presence) | PathMatch::Template(_) => None,
    }
}
