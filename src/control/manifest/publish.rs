//! What is handed over, key by key, and who claims each key.

use super::{
    ledger::{Ledger, Slot},
    report::Report,
    validate::Index,
};
use crate::{
    model::{Resource, ResourceKey},
    state::Change,
};
use std::collections::{BTreeMap, HashMap, HashSet};

/// What was handed over, and what claims to be.
#[derive(Debug, Default)]
pub(super) struct Published {
    entries: HashMap<ResourceKey, Entry>,
    /// Policies that deny in place of what cannot be read, and the like. They come before all claims.
    stand_ins: BTreeMap<ResourceKey, Resource>,
    /// Keys that are to be looked at anew.
    touched: HashSet<ResourceKey>,
    /// Keys with several claims.
    contested: HashSet<ResourceKey>,
}

/// One key.
#[derive(Debug, Default)]
struct Entry {
    /// Slot, and index among the version's resources.
    claims: Vec<(Slot, u32)>,
    resource: Option<Resource>,
}

impl Published {
    /// A version begins to serve.
    pub(super) fn claim(&mut self, slot: Slot, resources: &[Resource]) {
        for (i, resource) in (0..).zip(resources) {
            let key = resource.key();
            let entry = self.entries.entry(key.clone()).or_default();
            entry.claims.push((slot, i));
            if entry.claims.len() > 1 {
                self.contested.insert(key.clone());
            }
            self.touched.insert(key);
        }
    }

    /// A version no longer serves.
    pub(super) fn renounce(&mut self, slot: Slot, resources: &[Resource]) {
        for resource in resources {
            let key = resource.key();
            if let Some(entry) = self.entries.get_mut(&key) {
                entry.claims.retain(|(other, _)| *other != slot);
                if entry.claims.len() < 2 {
                    self.contested.remove(&key);
                }
            }
            self.touched.insert(key);
        }
    }

    /// Something that these depend on has changed.
    pub(super) fn touch(&mut self, resources: &[Resource]) {
        self.touched.extend(resources.iter().map(Resource::key));
    }

    /// Sets what stands in now.
    pub(super) fn stand_in(&mut self, stand_ins: impl IntoIterator<Item = Resource>) {
        let now = stand_ins.into_iter().map(|resource| (resource.key(), resource)).collect();
        let before = std::mem::replace(&mut self.stand_ins, now);
        self.touched.extend(before.into_keys());
        self.touched.extend(self.stand_ins.keys().cloned());
    }

    /// Keys of what is not claimed, but there.
    pub(super) fn touch_keys(&mut self, keys: impl IntoIterator<Item = ResourceKey>) {
        self.touched.extend(keys);
    }

    /// Those whose claim loses against another's: the claimant, and the key.
    pub(super) fn losers(&self, ledger: &Ledger) -> Vec<(Slot, &ResourceKey)> {
        let mut losers = Vec::new();
        for key in &self.contested {
            let Some(entry) = self.entries.get(key) else { continue };
            let winner = winner(entry, ledger);
            losers.extend(entry.claims.iter().filter(|claim| Some(**claim) != winner).map(|(slot, _)| (*slot, key)));
        }
        losers
    }

    /// What is to be handed over: removals first, each in the order of keys.
    pub(super) fn changes(&mut self, ledger: &Ledger, index: &Index) -> Vec<Change> {
        let (mut removals, mut upserts) = (Vec::new(), Vec::new());
        let mut touched: Vec<ResourceKey> = std::mem::take(&mut self.touched).into_iter().collect();
        touched.sort_unstable();
        for key in touched {
            let wanted = self.wanted(&key, ledger, index);
            let entry = self.entries.entry(key.clone()).or_default();
            match (&entry.resource, wanted) {
                (Some(old), Some(new)) if old.is_same(&new) || *old == new => {}
                (Some(_), None) => {
                    entry.resource = None;
                    removals.push(Change::Remove(key.clone()));
                }
                (None, None) => {}
                (_, Some(new)) => {
                    entry.resource = Some(new.clone());
                    upserts.push(Change::Upsert(new));
                }
            }
            if entry.resource.is_none() && entry.claims.is_empty() {
                self.entries.remove(&key);
            }
        }
        removals.append(&mut upserts);
        removals
    }

    fn wanted(&self, key: &ResourceKey, ledger: &Ledger, index: &Index) -> Option<Resource> {
        if let Some(stand_in) = self.stand_ins.get(key) {
            return Some(stand_in.clone());
        }
        let claimed = self.entries.get(key).and_then(|entry| winner(entry, ledger)).and_then(|(slot, i)| {
            let version = &ledger.get(slot)?.good.as_ref()?.version;
            Some(index.complete(version.resources.get(i as usize)?, &version.references))
        });
        let ResourceKey::Waypoint(name) = key else { return claimed };
        claimed.or_else(|| index.foreign_gateways().get(name).map(|gateway| Resource::from(gateway.clone())))
    }
}

/// The claim that counts: the first by id.
fn winner(entry: &Entry, ledger: &Ledger) -> Option<(Slot, u32)> {
    if let [only] = entry.claims[..] {
        return Some(only);
    }
    entry.claims.iter().copied().min_by_key(|(slot, i)| (ledger.get(*slot).map(|record| &record.id), *i))
}

/// Says which claims lose.
pub(super) fn report_losers(losers: &[(Slot, &ResourceKey)], mut say: impl FnMut(Slot, String, &mut Report), report: &mut Report) {
    for (slot, key) in losers {
        say(*slot, format!("{} is already declared by another resource", key_words(key)), report);
    }
}

fn key_words(key: &ResourceKey) -> String {
    match key {
        ResourceKey::Namespace(name) | ResourceKey::Workload(name) => name.to_string(),
        ResourceKey::Service(service) => format!("host {service}"),
        ResourceKey::Endpoints(id) => id.to_string(),
        ResourceKey::Waypoint(name) | ResourceKey::Route(name) | ResourceKey::Policy(name) => name.to_string(),
    }
}
