//! SPIFFE identities of workloads: the only place that spells `spiffe://`.

use super::Name;
use std::{fmt, str::FromStr};

const SCHEME: &str = "spiffe://";

/// `spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE_ACCOUNT`, the identity Istio gives a workload.
///
/// Two identities are equal only when the whole text is equal; there is no prefix matching.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    uri: Name,
    // Ends of the trust domain and of the namespace inside `uri`, so that parts need no allocation.
    trust_domain_end: u32,
    namespace_end: u32,
}

/// Why a text is no workload identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Not of the form `spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE_ACCOUNT`.
    #[error("not of the form spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE_ACCOUNT: {0:?}")]
    Form(String),
}

impl Identity {
    /// Builds an identity from its parts.
    ///
    /// # Errors
    /// When a part is empty or holds a `/`.
    pub fn new(trust_domain: &str, namespace: &str, service_account: &str) -> Result<Self, IdentityError> {
        format!("{SCHEME}{trust_domain}/ns/{namespace}/sa/{service_account}").parse()
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> &str {
        &self.uri[SCHEME.len()..self.trust_domain_end as usize]
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        &self.uri[self.trust_domain_end as usize + "/ns/".len()..self.namespace_end as usize]
    }

    /// The service account.
    pub fn service_account(&self) -> &str {
        &self.uri[self.namespace_end as usize + "/sa/".len()..]
    }

    /// The text without `spiffe://`: what Istio's `principals` compare with.
    pub fn principal(&self) -> &str {
        &self.uri[SCHEME.len()..]
    }

    /// The whole URI.
    pub fn as_str(&self) -> &str {
        &self.uri
    }

    /// The whole URI, shared.
    pub fn name(&self) -> Name {
        self.uri.clone()
    }
}

impl FromStr for Identity {
    type Err = IdentityError;

    /// Stricter than the reference parser, which lets empty parts pass.
    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let bad = || IdentityError::Form(text.chars().take(256).collect());
        let rest = text.strip_prefix(SCHEME).ok_or_else(bad)?;
        let parts: Vec<&str> = rest.split('/').collect();
        let [trust_domain, "ns", namespace, "sa", service_account] = parts[..] else { return Err(bad()) };
        let plain = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'?' | b'#' | b'%'));
        if ![trust_domain, namespace, service_account].into_iter().all(plain) || text.len() > 2048 {
            return Err(bad());
        }
        let trust_domain_end = SCHEME.len() + trust_domain.len();
        let namespace_end = trust_domain_end + "/ns/".len() + namespace.len();
        Ok(Self { uri: text.into(), trust_domain_end: trust_domain_end as u32, namespace_end: namespace_end as u32 })
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_come_back_as_written() {
        let id: Identity = "spiffe://td.example/ns/bookinfo/sa/reviews".parse().unwrap();
        assert_eq!((id.trust_domain(), id.namespace(), id.service_account()), ("td.example", "bookinfo", "reviews"));
        assert_eq!(id.principal(), "td.example/ns/bookinfo/sa/reviews");
        assert_eq!(id, Identity::new("td.example", "bookinfo", "reviews").unwrap());
    }

    #[test]
    fn anything_else_is_refused() {
        for bad in [
            "",
            "spiffe://",
            "spiffe://td",
            "spiffe://td/ns/a/sa",
            "spiffe://td/ns/a/sa/b/c",
            "spiffe://td/ns//sa/b",
            "spiffe:///ns/a/sa/b",
            "spiffe://td/ns/a/sa/",
            "spiffe://td/sa/a/ns/b",
            "SPIFFE://td/ns/a/sa/b",
            "https://td/ns/a/sa/b",
            "spiffe://td/ns/a/sa/b?x",
            "spiffe://td/ns/a b/sa/c",
            "spiffe://td/ns/a%2fb/sa/c",
        ] {
            assert!(bad.parse::<Identity>().is_err(), "{bad:?} must not parse");
        }
    }
}
