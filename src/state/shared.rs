//! A map that is cheap to publish: its copies share what did not change.

use std::{
    borrow::Borrow,
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hash},
    sync::Arc,
};

/// Entries per shard, in the middle. A change copies one shard.
const SHARD: usize = 32;
/// Shards per group, unless there are fewer. A change copies the pointers of one group, a copy of the
/// map one pointer for each group. Each such pointer counts its holders at a place that is in no cache:
/// of fifty thousand entries a change and a copy meet a hundred of them.
const GROUP: usize = 32;

/// A hash map of immutable shards. A read costs one hash and a look at the place in the shard where
/// that hash should be.
#[derive(Debug, Clone)]
pub(super) struct SharedMap<K, V> {
    // The low bits of a hash choose the shard, the high bits the place in it.
    groups: Box<[Group<K, V>]>,
    // A power of two.
    shards: usize,
    len: usize,
    hasher: RandomState,
}

type Group<K, V> = Arc<[Shard<K, V>]>;

/// Entries in the order of their hashes.
type Shard<K, V> = Arc<[Entry<K, V>]>;

#[derive(Debug, Clone)]
struct Entry<K, V> {
    hash: u64,
    key: K,
    value: V,
}

impl<K, V> Default for SharedMap<K, V> {
    fn default() -> Self {
        Self { groups: [Arc::from([Arc::from([])])].into(), shards: 1, len: 0, hasher: RandomState::new() }
    }
}

impl<K: Hash + Eq + Clone, V: Clone> SharedMap<K, V> {
    /// The value of a key.
    pub(super) fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let hash = self.hasher.hash_one(key);
        let shard = self.shard(hash);
        let shard = self.groups.get(shard / GROUP)?.get(shard % GROUP)?;
        find(shard, hash, key).map(|entry| &entry.value)
    }

    /// Inserts, replaces and, where there is no value, removes. No key may be there twice. Each shard
    /// is copied once, however much of it changes.
    pub(super) fn apply(&mut self, edits: impl IntoIterator<Item = (K, Option<V>)>) {
        let mut edits: Vec<_> = edits.into_iter().map(|(key, value)| (self.hasher.hash_one(&key), key, value)).collect();
        let most = self.len + edits.iter().filter(|(_, _, value)| value.is_some()).count();
        self.grow(most.div_ceil(SHARD).next_power_of_two());
        edits.sort_unstable_by_key(|(hash, ..)| self.shard(*hash));
        let mut edits = edits.into_iter().peekable();
        while let Some(first) = edits.next() {
            let index = self.shard(first.0);
            let mut here = vec![first];
            while let Some(next) = edits.next_if(|(hash, ..)| self.shard(*hash) == index) {
                here.push(next);
            }
            // The first change of a group copies it, unless nobody else has it.
            let group = self.groups.get_mut(index / GROUP).map(Arc::make_mut);
            let Some(shard) = group.and_then(|group| group.get_mut(index % GROUP)) else { continue };
            let is_kept = |entry: &&Entry<K, V>| here.iter().all(|(hash, key, _)| *hash != entry.hash || *key != entry.key);
            let mut entries: Vec<_> = shard.iter().filter(is_kept).cloned().collect();
            entries.extend(here.into_iter().filter_map(|(hash, key, value)| Some(Entry { hash, key, value: value? })));
            entries.sort_unstable_by_key(|entry| entry.hash);
            self.len = self.len + entries.len() - shard.len();
            *shard = entries.into();
        }
    }

    /// All keys, in no order.
    pub(super) fn keys(&self) -> impl Iterator<Item = K> {
        self.entries().map(|entry| entry.key.clone())
    }

    /// All values, in no order.
    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        self.entries().map(|entry| &entry.value)
    }

    fn entries(&self) -> impl Iterator<Item = &Entry<K, V>> {
        self.groups.iter().flat_map(|group| group.iter()).flat_map(|shard| shard.iter())
    }

    fn shard(&self, hash: u64) -> usize {
        hash as usize & (self.shards - 1)
    }

    /// At least so many shards, a power of two.
    fn grow(&mut self, wanted: usize) {
        if wanted <= self.shards {
            return;
        }
        let mut shards: Vec<Vec<Entry<K, V>>> = vec![Vec::new(); wanted];
        // Each shard goes to several, in the order it is in.
        for entry in self.entries() {
            if let Some(shard) = shards.get_mut(entry.hash as usize & (wanted - 1)) {
                shard.push(entry.clone());
            }
        }
        let shards: Vec<Shard<K, V>> = shards.into_iter().map(Arc::from).collect();
        self.groups = shards.chunks(GROUP).map(Arc::from).collect();
        self.shards = wanted;
    }
}

/// The entry of a key.
fn find<'a, K: Borrow<Q>, V, Q: Eq + ?Sized>(shard: &'a [Entry<K, V>], hash: u64, key: &Q) -> Option<&'a Entry<K, V>> {
    // Hashes lie evenly, so the place is near where the share of smaller hashes puts it.
    let mut at = ((u128::from(hash) * shard.len() as u128) >> 64) as usize;
    while at > 0 && shard.get(at - 1).is_some_and(|before| before.hash >= hash) {
        at -= 1;
    }
    let from = shard.get(at..)?.iter().take_while(|entry| entry.hash <= hash);
    from.filter(|entry| entry.hash == hash).find(|entry| entry.key.borrow() == key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    proptest::proptest! {
        #[test]
        fn it_is_a_map_and_its_copies_stay_as_they_were(batches in proptest::collection::vec(proptest::collection::hash_map(0_u16..3000, proptest::option::of(0_u8..9), 0..600), 0..30)) {
            let (mut map, mut oracle) = (SharedMap::default(), BTreeMap::new());
            let mut copies = Vec::new();
            for edits in batches {
                map.apply(edits.clone());
                for (key, value) in edits {
                    match value {
                        Some(value) => oracle.insert(key, value),
                        None => oracle.remove(&key),
                    };
                }
                copies.push((map.clone(), oracle.clone()));
            }
            copies.push((map, oracle));
            for (map, oracle) in copies {
                proptest::prop_assert!((0..3000).all(|key| map.get(&key) == oracle.get(&key)));
                let mut values: Vec<u8> = map.values().copied().collect();
                let mut wanted: Vec<u8> = oracle.values().copied().collect();
                values.sort_unstable();
                wanted.sort_unstable();
                proptest::prop_assert_eq!((map.len, values), (oracle.len(), wanted));
            }
        }
    }
}
