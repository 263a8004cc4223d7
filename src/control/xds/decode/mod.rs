//! Resources of a control plane (contract, 3.3 and 3.4), each by itself: its bytes in, a resource of
//! the model or the reason of its refusal out.

use crate::{
    model::{AuthorizationPolicy, Name, Resource},
    proto::{security, workload},
};
use bytes::Bytes;
use prost::Message;

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
    /// Of a policy: one that closes what this one governs, as far as that can be read.
    pub denying: Option<AuthorizationPolicy>,
}

/// Turns resources of the workload API into the model.
#[derive(Debug)]
pub struct Decoder {
    config: Config,
}

impl Decoder {
    /// A decoder that has seen nothing yet.
    pub fn new(config: Config) -> Self {
        Self { config }
    }

    /// Decodes an `istio.workload.Address`; `name` is that of the resource which carries it.
    ///
    /// # Errors
    /// When any of it is not understood.
    pub fn address(&mut self, name: &str, value: Bytes) -> Result<Resource, Rejected> {
        let address = workload::Address::decode(value).map_err(|error| Rejected { reason: error.to_string(), denying: None })?;
        Err(Rejected { reason: format!("{name}: {:?} in {address:?} is not understood", self.config), denying: None })
    }

    /// Decodes an `istio.security.Authorization`; `name` is that of the resource which carries it.
    ///
    /// # Errors
    /// When any of it is not understood: what is then to hold is [`Rejected::denying`].
    pub fn authorization(&mut self, name: &str, value: Bytes) -> Result<Resource, Rejected> {
        let policy = security::Authorization::decode(value).map_err(|error| Rejected { reason: error.to_string(), denying: None })?;
        Err(Rejected { reason: format!("{name}: {policy:?} is not understood"), denying: None })
    }
}
