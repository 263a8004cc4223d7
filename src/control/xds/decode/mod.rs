//! Resources of a control plane (contract, 3.3 and 3.4), each by itself: its bytes in, a resource of
//! the model or the reason of its refusal out.
//!
//! The reference lets pass, or drops, some values that it cannot read; here they refuse the resource:
//! a policy that lost a condition would open what it was written to close.

#![allow(clippy::result_large_err, reason = "refusals are few, and what they carry is kept")]

mod address;
mod policy;
mod refusal;
mod service;
mod texts;
mod workload;

#[cfg(test)]
mod tests;

use crate::{
    model::{AuthorizationPolicy, Name, Resource},
    proto::workload::{Address, address::Type},
};
use bytes::Bytes;
use prost::Message;
use refusal::Refusal;
use texts::Texts;

/// What the words of the workload API mean here.
#[derive(Debug, Clone)]
pub struct Config {
    /// The proxy's own network; empty when networks have no names.
    pub network: Name,
    /// The cluster's DNS domain, `cluster.local` mostly.
    pub cluster_domain: Name,
}

/// A resource that is refused.
#[derive(Debug, Clone, PartialEq)]
pub struct Rejected {
    /// What is wrong, with the field.
    pub reason: String,
    /// Of a policy: one of the same name that closes what this one governs, as far as that can be
    /// read. It is to be held in its place.
    pub denying: Option<AuthorizationPolicy>,
}

/// Turns resources of the workload API into the model.
///
/// Texts that many resources have in common (namespaces, nodes, identities, host names) are shared
/// between all that one decoder has made.
#[derive(Debug)]
pub struct Decoder {
    config: Config,
    texts: Texts,
}

impl Decoder {
    /// A decoder that has seen nothing yet.
    pub fn new(config: Config) -> Self {
        Self { config, texts: Texts::default() }
    }

    /// Decodes an `istio.workload.Address`; `name` is that of the resource which carries it. It must
    /// be the key of what is inside, because removals go by it, or empty.
    ///
    /// # Errors
    /// When any of it is not understood.
    pub fn address(&mut self, name: &str, value: Bytes) -> Result<Resource, Rejected> {
        self.understood(name, value).map_err(|refusal| Rejected { reason: refusal.to_string(), denying: None })
    }

    fn understood(&mut self, name: &str, value: Bytes) -> Result<Resource, Refusal> {
        self.texts.prune();
        let address = Address::decode(value).map_err(|error| Refusal::new("", format!("not an istio.workload.Address: {error}")))?;
        match address.r#type {
            Some(Type::Workload(message)) => workload::decoded(self, name, &message).map(Resource::from),
            Some(Type::Service(message)) => service::decoded(self, name, &message).map(Resource::from),
            None => Err(Refusal::new("", "neither a workload nor a service")),
        }
    }

    /// Decodes an `istio.security.Authorization`; `name` is that of the resource which carries it. It
    /// must be the key of what is inside, because removals go by it, or empty.
    ///
    /// # Errors
    /// When any of it is not understood: what is then to hold is [`Rejected::denying`].
    pub fn authorization(&mut self, name: &str, value: Bytes) -> Result<Resource, Rejected> {
        self.texts.prune();
        policy::decoded(self, name, value).map(Resource::from)
    }

    /// A network as the model names it: the proxy's own has no name there.
    fn network(&mut self, name: &str) -> Option<Name> {
        (*name != *self.config.network).then(|| self.texts.name(name))
    }
}
