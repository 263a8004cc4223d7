//! Texts that many resources have in common: of those that are equal, one copy is kept.

use super::refusal::{Refusal, quoted};
use crate::{
    control::workload_api::namespaced,
    model::{Hostname, Identity, Name, ResourceName, ServiceKey},
};
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

/// Below so many texts nothing is forgotten.
const FEW: usize = 4096;

/// What has been seen. A text that nobody else holds any more is forgotten in time.
#[derive(Debug)]
pub(super) struct Texts {
    names: HashSet<Name>,
    /// By their own text.
    hostnames: HashMap<Name, Hostname>,
    /// By trust domain, namespace and service account.
    identities: HashMap<[Name; 3], Identity>,
    /// With more than so many texts those that are not used are looked for.
    limit: usize,
}

impl Default for Texts {
    fn default() -> Self {
        Self { names: HashSet::new(), hostnames: HashMap::new(), identities: HashMap::new(), limit: FEW }
    }
}

impl Texts {
    /// The shared copy of a text.
    pub(super) fn name(&mut self, text: &str) -> Name {
        if let Some(name) = self.names.get(text) {
            return name.clone();
        }
        let name = Name::from(text);
        self.names.insert(name.clone());
        name
    }

    /// The shared copy of a host name; `None` for a text that has no name in it.
    pub(super) fn hostname(&mut self, text: &str) -> Option<Hostname> {
        if let Some(hostname) = self.hostnames.get(text) {
            return Some(hostname.clone());
        }
        // It may only be written in another way.
        let hostname = Hostname::new(text);
        let is_name = !hostname.as_str().is_empty();
        is_name.then(|| self.hostnames.entry(hostname.name()).or_insert(hostname).clone())
    }

    /// The shared copy of an identity.
    ///
    /// # Errors
    /// When one of the parts cannot be part of an identity; the error names its field.
    pub(super) fn identity(&mut self, trust_domain: &str, namespace: &str, service_account: &str) -> Result<Identity, Refusal> {
        let parts = [trust_domain, namespace, service_account].map(|part| self.name(part));
        if let Some(identity) = self.identities.get(&parts) {
            return Ok(identity.clone());
        }
        for (field, part) in ["trust_domain", "namespace", "service_account"].into_iter().zip(&parts) {
            if Identity::new(part, "namespace", "account").is_err() {
                return Err(Refusal::new(field, format!("{} cannot be part of an identity", quoted(part))));
            }
        }
        let whole = Identity::new(trust_domain, namespace, service_account);
        let identity = whole.map_err(|_| Refusal::new("", "the parts of the identity are too long together"))?;
        self.identities.insert(parts, identity.clone());
        Ok(identity)
    }

    /// A service as `NAMESPACE/HOSTNAME`.
    pub(super) fn key(&mut self, text: &str) -> Option<ServiceKey> {
        let (namespace, hostname) = namespaced(text)?;
        Some(ServiceKey { hostname: self.hostname(hostname)?, namespace: self.name(namespace) })
    }

    /// A policy as `NAMESPACE/NAME`.
    pub(super) fn policy(&mut self, text: &str) -> Option<ResourceName> {
        let (namespace, name) = namespaced(text)?;
        Some(ResourceName { namespace: self.name(namespace), name: self.name(name) })
    }

    /// Forgets what is not used, once there is twice as much as was in use the last time.
    pub(super) fn prune(&mut self) {
        if self.len() <= self.limit {
            return;
        }
        // The one that is asked for here, and the two that are kept: a key and its value.
        self.identities.retain(|_, identity| Arc::strong_count(&identity.name()) > 2);
        self.hostnames.retain(|name, _| Arc::strong_count(name) > 2);
        self.names.retain(|name| Arc::strong_count(name) > 1);
        self.limit = FEW.max(2 * self.len());
    }

    fn len(&self) -> usize {
        self.names.len() + self.hostnames.len() + self.identities.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_are_one() {
        let mut texts = Texts::default();
        assert!(Arc::ptr_eq(&texts.name("a"), &texts.name("a")));
        assert!(Arc::ptr_eq(&texts.hostname("A.example.").unwrap().name(), &texts.hostname("a.example").unwrap().name()));
        let [one, other] = [(); 2].map(|()| texts.identity("td", "ns", "sa").unwrap().name());
        assert!(Arc::ptr_eq(&one, &other));
        let [one, other] = [(); 2].map(|()| texts.key("ns/Host").unwrap());
        assert!(Arc::ptr_eq(&one.namespace, &other.namespace) && Arc::ptr_eq(&one.hostname.name(), &other.hostname.name()));
        assert_eq!(texts.len(), "a td ns sa".split(' ').count() + 2 + 1);
    }

    #[test]
    fn what_nobody_holds_is_forgotten() {
        let mut texts = Texts::default();
        let mut held = Vec::new();
        for i in 0..10 * FEW {
            texts.prune();
            let key = texts.key(&format!("ns{i}/host{i}.example")).unwrap();
            let identity = texts.identity("td", &format!("ns{i}"), "sa").unwrap();
            if i < 10 {
                held.push((key, identity));
            }
        }
        assert!(texts.len() <= FEW + 3, "{}", texts.len());
        for (i, (key, identity)) in held.iter().enumerate() {
            assert!(Arc::ptr_eq(&key.hostname.name(), &texts.hostname(&format!("host{i}.example")).unwrap().name()));
            assert!(Arc::ptr_eq(&identity.name(), &texts.identity("td", &format!("ns{i}"), "sa").unwrap().name()));
        }
        drop(held);
        texts.limit = 0;
        texts.prune();
        assert_eq!(texts.len(), 0);
    }
}
