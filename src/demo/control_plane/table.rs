//! What the control plane serves now: encoded resources by type and name.

use crate::model::Name;
use bytes::Bytes;
use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
};

/// The two types of resources (contract, 3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `istio.workload.Address`
    Address,
    /// `istio.security.Authorization`
    Authorization,
}

impl Kind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Address, Self::Authorization];

    /// The type as it stands in messages.
    pub fn url(self) -> &'static str {
        match self {
            Self::Address => "type.googleapis.com/istio.workload.Address",
            Self::Authorization => "type.googleapis.com/istio.security.Authorization",
        }
    }

    /// The type that a message names.
    pub fn of(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.url() == url)
    }
}

/// One encoded resource.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    /// Of its content, so that a proxy keeps what it has when another control plane takes over.
    pub(super) version: Name,
    pub(super) value: Bytes,
    /// Further names by which it is asked for.
    pub(super) aliases: Vec<Name>,
    /// The services that a workload serves: who asks for one of them gets the workload as well.
    pub(super) services: Vec<Name>,
}

impl Entry {
    pub(super) fn new(value: Vec<u8>, aliases: Vec<Name>, services: Vec<Name>) -> Self {
        let mut hasher = DefaultHasher::new();
        value.hash(&mut hasher);
        Self { version: format!("{:016x}", hasher.finish()).into(), value: value.into(), aliases, services }
    }
}

/// Resources of one type.
#[derive(Debug, Default)]
pub(super) struct Table {
    entries: BTreeMap<Name, Arc<Entry>>,
    by_alias: BTreeMap<Name, BTreeSet<Name>>,
    by_service: BTreeMap<Name, BTreeSet<Name>>,
}

impl Table {
    /// Replaces or removes an entry; whether that changes anything.
    pub(super) fn put(&mut self, name: &Name, entry: Option<Entry>) -> bool {
        let old = self.entries.get(name).cloned();
        if old.as_deref() == entry.as_ref() {
            return false;
        }
        if let Some(old) = &old {
            old.aliases.iter().for_each(|alias| forget(&mut self.by_alias, alias, name));
            old.services.iter().for_each(|service| forget(&mut self.by_service, service, name));
        }
        match entry {
            Some(entry) => {
                let note = |index: &mut BTreeMap<Name, BTreeSet<Name>>, keys: &[Name]| {
                    keys.iter().for_each(|key| index.entry(key.clone()).or_default().extend([name.clone()]));
                };
                note(&mut self.by_alias, &entry.aliases);
                note(&mut self.by_service, &entry.services);
                self.entries.insert(name.clone(), Arc::new(entry));
            }
            None => drop(self.entries.remove(name)),
        }
        true
    }

    pub(super) fn get(&self, name: &str) -> Option<&Arc<Entry>> {
        self.entries.get(name)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &Name> {
        self.entries.keys()
    }

    /// The names of what a key means: a resource, or those that have it as an alias; of services the
    /// workloads as well. Empty when there is nothing.
    pub(super) fn meant_by(&self, key: &str) -> BTreeSet<Name> {
        let mut meant: BTreeSet<Name> = self.by_alias.get(key).cloned().unwrap_or_default();
        meant.extend(self.entries.get_key_value(key).map(|(name, _)| name.clone()));
        let serving: Vec<_> = meant.iter().filter_map(|name| self.by_service.get(name)).flatten().cloned().collect();
        meant.extend(serving);
        meant
    }
}

fn forget(index: &mut BTreeMap<Name, BTreeSet<Name>>, key: &Name, name: &Name) {
    let Some(names) = index.get_mut(key) else { return };
    names.remove(name);
    if names.is_empty() {
        index.remove(key);
    }
}
