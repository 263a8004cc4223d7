//! A map that is cheap to publish: its copies share what did not change.

use std::{
    borrow::Borrow,
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hash},
    sync::Arc,
};

/// Entries per shard, in the middle. A change copies one shard, a copy of the map one pointer for
/// each shard: at fifty thousand entries both cost microseconds.
const SHARD: usize = 32;

/// Entries in the order of their keys.
type Shard<K, V> = Arc<[(K, V)]>;

/// A hash map of sorted, immutable shards. A read costs one hash and a search among some [`SHARD`]
/// entries that lie side by side.
#[derive(Debug, Clone)]
pub(super) struct SharedMap<K, V> {
    // A power of two.
    shards: Box<[Shard<K, V>]>,
    len: usize,
    hasher: RandomState,
}

impl<K, V> Default for SharedMap<K, V> {
    fn default() -> Self {
        Self { shards: [Arc::from([])].into(), len: 0, hasher: RandomState::new() }
    }
}

impl<K: Hash + Ord + Clone, V: Clone> SharedMap<K, V> {
    /// The value of a key.
    pub(super) fn get<Q: Hash + Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let shard = self.shards.get(self.shard(key))?;
        let at = shard.binary_search_by(|(k, _)| k.borrow().cmp(key)).ok()?;
        shard.get(at).map(|(_, value)| value)
    }

    /// Inserts or replaces.
    pub(super) fn insert(&mut self, key: K, value: V) {
        if self.len >= self.shards.len() * SHARD {
            self.grow();
        }
        let index = self.shard(&key);
        let Some(shard) = self.shards.get_mut(index) else { return };
        let (at, rest) = match shard.binary_search_by(|(k, _)| k.cmp(&key)) {
            Ok(at) => (at, at + 1),
            Err(at) => {
                self.len += 1;
                (at, at)
            }
        };
        let (before, after) = (shard.iter().take(at).cloned(), shard.iter().skip(rest).cloned());
        *shard = before.chain([(key, value)]).chain(after).collect();
    }

    /// Removes; what is not there stays away.
    pub(super) fn remove(&mut self, key: &K) {
        let index = self.shard(key);
        let Some(shard) = self.shards.get_mut(index) else { return };
        if let Ok(at) = shard.binary_search_by(|(k, _)| k.cmp(key)) {
            *shard = shard.iter().take(at).chain(shard.iter().skip(at + 1)).cloned().collect();
            self.len -= 1;
        }
    }

    /// Inserts or replaces a value, or removes it.
    pub(super) fn set(&mut self, key: K, value: Option<V>) {
        match value {
            Some(value) => self.insert(key, value),
            None => self.remove(&key),
        }
    }

    /// All keys, in no order.
    pub(super) fn keys(&self) -> impl Iterator<Item = K> {
        self.shards.iter().flat_map(|shard| shard.iter()).map(|(key, _)| key.clone())
    }

    /// All values, in no order.
    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        self.shards.iter().flat_map(|shard| shard.iter()).map(|(_, value)| value)
    }

    fn shard<Q: Hash + ?Sized>(&self, key: &Q) -> usize {
        self.hasher.hash_one(key) as usize & (self.shards.len() - 1)
    }

    /// Four times the shards, so that growing to `n` entries moves each of them a few times only.
    fn grow(&mut self) {
        let mask = self.shards.len() * 4 - 1;
        let mut shards: Vec<Vec<(K, V)>> = vec![Vec::new(); mask + 1];
        // Each shard goes to four, in the order it is in.
        for entry in self.shards.iter().flat_map(|shard| shard.iter()) {
            let index = self.hasher.hash_one(&entry.0) as usize & mask;
            if let Some(shard) = shards.get_mut(index) {
                shard.push(entry.clone());
            }
        }
        self.shards = shards.into_iter().map(Arc::from).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    proptest::proptest! {
        #[test]
        fn it_is_a_map_and_its_copies_stay_as_they_were(changes in proptest::collection::vec((0_u16..300, proptest::option::of(0_u8..9)), 0..800)) {
            let (mut map, mut oracle) = (SharedMap::default(), BTreeMap::new());
            let mut copies = Vec::new();
            for (n, (key, value)) in changes.into_iter().enumerate() {
                match value {
                    Some(value) => {
                        map.insert(key, value);
                        oracle.insert(key, value);
                    }
                    None => {
                        map.remove(&key);
                        oracle.remove(&key);
                    }
                }
                if n % 100 == 0 {
                    copies.push((map.clone(), oracle.clone()));
                }
            }
            copies.push((map, oracle));
            for (map, oracle) in copies {
                proptest::prop_assert!((0..300).all(|key| map.get(&key) == oracle.get(&key)));
                let mut values: Vec<u8> = map.values().copied().collect();
                let mut wanted: Vec<u8> = oracle.values().copied().collect();
                values.sort_unstable();
                wanted.sort_unstable();
                proptest::prop_assert_eq!((map.len, values), (oracle.len(), wanted));
            }
        }
    }
}
