//! Which resources have to do with a key: reverse indexes that are kept, not rebuilt.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
    sync::Arc,
};

/// A relation between keys and resources. Most keys have one resource; those with thousands (a
/// label that every pod bears) must not cost more to change. A resource is told from others by its
/// address, so what is removed must be the very one that was added.
#[derive(Debug)]
pub(super) struct Relation<K, T>(HashMap<K, Related<T>>);

#[derive(Debug)]
enum Related<T> {
    One(Arc<T>),
    // Never empty, by address.
    Many(BTreeMap<usize, Arc<T>>),
}

impl<K, T> Default for Relation<K, T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Hash + Eq, T> Relation<K, T> {
    /// Relates; a second time has no effect.
    pub(super) fn add(&mut self, key: K, item: &Arc<T>) {
        use std::collections::hash_map::Entry;
        match self.0.entry(key) {
            Entry::Vacant(slot) => drop(slot.insert(Related::One(item.clone()))),
            Entry::Occupied(mut slot) => match slot.get_mut() {
                Related::One(one) if Arc::ptr_eq(one, item) => {}
                Related::One(one) => {
                    let both = [one.clone(), item.clone()];
                    slot.insert(Related::Many(both.into_iter().map(|i| (address(&i), i)).collect()));
                }
                Related::Many(many) => drop(many.insert(address(item), item.clone())),
            },
        }
    }

    /// Undoes [`add`](Self::add).
    pub(super) fn remove(&mut self, key: &K, item: &Arc<T>) {
        let emptied = match self.0.get_mut(key) {
            None => false,
            Some(Related::One(one)) => Arc::ptr_eq(one, item),
            Some(Related::Many(many)) => {
                many.remove(&address(item));
                many.is_empty()
            }
        };
        if emptied {
            self.0.remove(key);
        }
    }

    /// All that is related to the key, in no order.
    pub(super) fn of<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> impl Iterator<Item = &Arc<T>> + use<'_, K, T, Q>
    where
        K: std::borrow::Borrow<Q>,
    {
        let (one, many) = match self.0.get(key) {
            None => (None, None),
            Some(Related::One(one)) => (Some(one), None),
            Some(Related::Many(many)) => (None, Some(many.values())),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }

    /// How many are related to the key.
    pub(super) fn count(&self, key: &K) -> usize {
        match self.0.get(key) {
            None => 0,
            Some(Related::One(_)) => 1,
            Some(Related::Many(many)) => many.len(),
        }
    }

    /// All keys, in no order.
    pub(super) fn keys(&self) -> impl Iterator<Item = &K> {
        self.0.keys()
    }
}

/// What tells one shared value from another, as long as one of the two is kept.
pub(super) fn address<T>(item: &Arc<T>) -> usize {
    Arc::as_ptr(item) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_added_is_found_until_it_is_removed() {
        let items: Vec<Arc<u32>> = (0..5).map(Arc::new).collect();
        let mut relation = Relation::<&str, u32>::default();
        let of = |relation: &Relation<&str, u32>, key: &str| {
            let mut found: Vec<u32> = relation.of(key).map(|i| **i).collect();
            found.sort_unstable();
            found
        };
        for item in &items {
            relation.add("a", item);
            relation.add("a", item);
        }
        relation.add("b", &items[3]);
        assert_eq!((of(&relation, "a"), of(&relation, "b"), of(&relation, "c")), (vec![0, 1, 2, 3, 4], vec![3], vec![]));
        relation.remove(&"a", &Arc::new(0));
        relation.remove(&"b", &items[0]);
        relation.remove(&"c", &items[0]);
        assert_eq!((relation.count(&"a"), relation.count(&"b"), relation.count(&"c")), (5, 1, 0));
        for item in &items[..4] {
            relation.remove(&"a", item);
        }
        assert_eq!(of(&relation, "a"), [4]);
        relation.remove(&"a", &items[4]);
        relation.remove(&"b", &items[3]);
        assert_eq!(relation.keys().count(), 0);
    }
}
