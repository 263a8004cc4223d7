//! What the control plane has told so far, by the names that it uses, and what a response changes.

use super::{
    client::{Rejection, Types},
    decode::{self, Decoder, Rejected},
    table::{Entry, Table, other_spelling},
};
use crate::{
    model::{self, ResourceKey},
    proto::discovery::{Any, DeltaDiscoveryResponse, Resource},
    state::Change,
};
use bytes::Bytes;
use prost::{DecodeError, Message};
use std::collections::{HashMap, HashSet};

/// The types that are subscribed to, in the order in which they are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ResourceType {
    /// Services and workloads.
    Address,
    /// Policies.
    Authorization,
}

impl ResourceType {
    pub(super) fn url(self) -> &'static str {
        match self {
            Self::Address => "type.googleapis.com/istio.workload.Address",
            Self::Authorization => "type.googleapis.com/istio.security.Authorization",
        }
    }

    fn of(url: &str) -> Option<Self> {
        [Self::Address, Self::Authorization].into_iter().find(|t| t.url() == url)
    }
}

/// The resources that are in force, and how to read others.
#[derive(Debug)]
pub(super) struct Resources {
    decoder: Decoder,
    addresses: Table,
    policies: Table,
    // What was not subscribed to belongs to another source.
    types: Types,
    // Only answers that somebody may wait for are worth a list.
    on_demand: bool,
    /// Where the latest response was read.
    #[cfg(test)]
    pub(super) read_on: Option<std::thread::ThreadId>,
}

/// A response, and what comes of it.
#[derive(Debug)]
pub(super) struct Response {
    /// As it was told; `what` says whether it is known.
    pub(super) url: String,
    pub(super) what: Option<ResourceType>,
    pub(super) nonce: String,
    pub(super) batch: Batch,
}

/// What a response changes.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) changes: Vec<Change>,
    pub(super) rejected: Vec<Rejection>,
    /// On demand: the names and aliases that were listed.
    pub(super) found: Vec<String>,
    /// On demand: the names that were removed.
    pub(super) absent: Vec<String>,
}

impl Resources {
    pub(super) fn new(config: decode::Config, types: Types) -> Self {
        Self {
            decoder: Decoder::new(config),
            addresses: Table::default(),
            policies: Table::default(),
            types,
            on_demand: types.on_demand,
            #[cfg(test)]
            read_on: None,
        }
    }

    /// What is in force of a type.
    pub(super) fn table(&mut self, what: ResourceType) -> &mut Table {
        match what {
            ResourceType::Address => &mut self.addresses,
            ResourceType::Authorization => &mut self.policies,
        }
    }

    /// Takes a response over: what it leads to counts as in force from now on. Takes as long as the response
    /// is large.
    ///
    /// # Errors
    /// When it is no response at all. Nothing has changed then.
    pub(super) fn read(&mut self, message: Bytes) -> Result<Response, DecodeError> {
        #[cfg(test)]
        {
            self.read_on = Some(std::thread::current().id());
        }
        let DeltaDiscoveryResponse { system_version_info: _, resources, type_url: url, nonce, removed_resources } =
            DeltaDiscoveryResponse::decode(message)?;
        let what = ResourceType::of(&url).filter(|what| self.types.all().any(|asked| asked == *what));
        let batch = what.map(|what| self.take(what, resources, removed_resources)).unwrap_or_default();
        Ok(Response { url, what, nonce, batch })
    }

    fn take(&mut self, what: ResourceType, resources: Vec<Resource>, removed: Vec<String>) -> Batch {
        let mut reading = Reading::default();
        for resource in resources {
            reading.resource(self, what, resource);
        }
        let Reading { mut batch, staged, keys, mut orphans } = reading;
        let table = self.table(what);
        for rejection in &batch.rejected {
            table.listed(&rejection.name);
        }
        for name in &removed {
            // What is listed as well is there.
            if !staged.contains_key(name.as_str()) {
                orphans.extend(table.remove(name));
            }
        }
        for (name, entry) in staged {
            table.insert(&name, entry);
        }
        orphans.extend(table.end_of_everything());
        orphans.retain(|key| !keys.contains(key));
        table.retain_unheld(&mut orphans);
        batch.changes.extend(orphans.into_iter().map(Change::Remove));
        if self.on_demand {
            batch.absent = removed;
        }
        batch
    }
}

/// A response that is being read; nothing of it counts before its end.
#[derive(Debug, Default)]
struct Reading {
    batch: Batch,
    staged: HashMap<String, Entry>,
    /// What is inserted or replaced.
    keys: HashSet<ResourceKey>,
    /// What names meant before and mean no longer.
    orphans: Vec<ResourceKey>,
}

impl Reading {
    fn resource(&mut self, resources: &mut Resources, what: ResourceType, resource: Resource) {
        let Resource { version, resource: content, mut name, aliases } = resource;
        let on_demand = resources.on_demand;
        let decoded = match self.content(what, &name, content) {
            Ok(value) => match what {
                ResourceType::Address => resources.decoder.address(&name, value),
                ResourceType::Authorization => resources.decoder.authorization(&name, value),
            },
            Err(reason) => Err(Rejected { reason, denying: None }),
        };
        // What is rejected is there, but nobody knows what it is: who asks for it goes on waiting.
        if decoded.is_ok() && on_demand {
            self.batch.found.push(name.clone());
            self.batch.found.extend(aliases);
        }
        if let Ok(decoded) = &decoded
            && let Some(usual) = other_spelling(&name, &decoded.key())
        {
            if on_demand {
                // Those who ask spell it like this.
                self.batch.found.push(usual.clone());
            }
            if name.is_empty() {
                name = usual;
            }
        }
        let held = resources.table(what).get(&name);
        let rejected = match decoded {
            Ok(decoded) => self.upsert(&name, held, decoded, |key| Entry::good(key, &version)),
            // What is in force stays so. A policy of which nothing good ever was closes what it governs.
            Err(Rejected { reason, denying }) => {
                if let Some(policy) = denying.filter(|_| !held.is_some_and(Entry::is_good)) {
                    // Should another resource be in its place, that one stands.
                    let _ = self.upsert(&name, held, policy.into(), Entry::denying);
                }
                Err(reason)
            }
        };
        if let Err(reason) = rejected {
            self.batch.rejected.push(Rejection { name, reason });
        }
    }

    /// The resource itself, if it is one that can be here.
    fn content(&self, what: ResourceType, name: &str, content: Option<Any>) -> Result<Bytes, String> {
        let content = content.ok_or("there is nothing in it")?;
        if self.staged.contains_key(name) {
            return Err("the response lists it twice".into());
        }
        if content.type_url != what.url() {
            return Err(format!("it is of type {}", content.type_url));
        }
        Ok(content.value)
    }

    fn upsert(
        &mut self,
        name: &str,
        held: Option<&Entry>,
        resource: model::Resource,
        entry: impl FnOnce(ResourceKey) -> Entry,
    ) -> Result<(), String> {
        let key = resource.key();
        if !self.keys.insert(key.clone()) {
            return Err("the response lists it twice, under different names".into());
        }
        self.orphans.extend(held.map(|held| &held.key).filter(|held| **held != key).cloned());
        self.staged.insert(name.to_owned(), entry(key));
        self.batch.changes.push(Change::Upsert(resource));
        Ok(())
    }
}
