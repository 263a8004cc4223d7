//! The resources of one type that are in force, by the control plane's names. There may be 50 000: what is
//! kept of each is little.

use crate::model::{Name, ResourceKey};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

/// What a name stands for.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: ResourceKey,
    /// Of what is in force; empty when that is not the server's.
    version: Box<str>,
    good: bool,
    /// The stream that listed it last.
    stream: u32,
}

impl Entry {
    /// As the server wants it.
    pub(super) fn good(key: ResourceKey, version: &str) -> Self {
        Self { key, version: version.into(), good: true, stream: 0 }
    }

    /// A policy in the place of one that is not understood.
    pub(super) fn denying(key: ResourceKey) -> Self {
        Self { key, version: Box::default(), good: false, stream: 0 }
    }

    pub(super) fn is_good(&self) -> bool {
        self.good
    }
}

/// Everything of a type.
#[derive(Debug, Default)]
pub(super) struct Table {
    entries: HashMap<Name, Entry>,
    stream: u32,
    /// The server was not told what we have: its next answer is everything that there is.
    is_everything_due: bool,
    /// Whether there ever was a name that is not the usual spelling of what it stands for: only then two may
    /// stand for the same.
    unusual: bool,
}

impl Table {
    pub(super) fn get(&self, name: &str) -> Option<&Entry> {
        self.entries.get(name)
    }

    /// A new stream begins, on which nothing was listed so far.
    pub(super) fn begin(&mut self) {
        self.stream = self.stream.wrapping_add(1);
        self.is_everything_due = false;
    }

    /// The server is not told what we have.
    pub(super) fn expect_everything(&mut self) {
        self.is_everything_due = true;
    }

    /// At the end of a response: if that was everything, what it has not listed is gone, and forgotten.
    pub(super) fn end_of_everything(&mut self) -> Vec<ResourceKey> {
        if !std::mem::take(&mut self.is_everything_due) {
            return Vec::new();
        }
        let stream = self.stream;
        self.entries.extract_if(|_, entry| entry.stream != stream).map(|(_, entry)| entry.key).collect()
    }

    pub(super) fn insert(&mut self, name: &str, entry: Entry) {
        // Of what it stood for before nothing is kept, not even the copy of the name.
        self.remove(name);
        let usual = other_spelling(name, &entry.key).is_none();
        self.unusual |= !usual;
        let name = if usual && let ResourceKey::Workload(uid) = &entry.key { uid.clone() } else { Arc::from(name) };
        self.entries.insert(name, Entry { stream: self.stream, ..entry });
    }

    /// Notes that the name was listed on this stream.
    pub(super) fn listed(&mut self, name: &str) {
        if let Some(entry) = self.entries.get_mut(name) {
            entry.stream = self.stream;
        }
    }

    /// Forgets a name; what it stood for, if anything.
    pub(super) fn remove(&mut self, name: &str) -> Option<ResourceKey> {
        self.entries.remove(name).map(|entry| entry.key)
    }

    /// Leaves those of `keys` that no name stands for.
    pub(super) fn retain_unheld(&self, keys: &mut Vec<ResourceKey>) {
        if !self.unusual || keys.is_empty() {
            return;
        }
        let held: HashSet<&ResourceKey> = self.entries.values().map(|entry| &entry.key).collect();
        keys.retain(|key| !held.contains(key));
    }

    /// The names with the versions that are in force, if all that takes less than `limit` bytes.
    ///
    /// Of a resource whose newest version was rejected that is the version before, which lets the server
    /// send what is newer as well as tell that it is gone; a policy that only stands in for a rejected one
    /// has the empty version, to the same end. What was rejected and left nothing in force is not named.
    pub(super) fn versions(&self, limit: usize) -> Option<BTreeMap<String, String>> {
        let mut size = 0;
        let mut versions = BTreeMap::new();
        for (name, entry) in &self.entries {
            size += name.len() + entry.version.len() + ENTRY;
            if size >= limit {
                return None;
            }
            versions.insert(name.to_string(), entry.version.to_string());
        }
        Some(versions)
    }

    /// All names.
    pub(super) fn names(&self) -> impl Iterator<Item = &Name> {
        self.entries.keys()
    }
}

/// What an entry of a map takes in a message besides its two texts of less than 16 KiB.
pub(super) const ENTRY: usize = 10;

/// The usual name of a resource, unless `name` is that. The model's is normalised, a server's need not be.
pub(super) fn other_spelling(name: &str, key: &ResourceKey) -> Option<String> {
    let is_pair = |first: &str, second: &str| name.split_once('/').is_some_and(|pair| pair == (first, second));
    let usual = match key {
        ResourceKey::Workload(uid) => (**uid != *name).then(|| uid.to_string()),
        ResourceKey::Service(service) => (!is_pair(&service.namespace, service.hostname.as_str())).then(|| service.to_string()),
        ResourceKey::Policy(policy) => (!is_pair(&policy.namespace, &policy.name)).then(|| policy.to_string()),
        ResourceKey::Namespace(_) | ResourceKey::Endpoints(_) | ResourceKey::Waypoint(_) | ResourceKey::Route(_) => None,
    };
    usual.filter(|usual| *usual != name)
}
