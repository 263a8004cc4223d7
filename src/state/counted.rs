//! Compiled things that several scopes share.

use super::relation::address;
use std::{
    collections::HashMap,
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
};

/// Resources that something was compiled from, compared by their addresses: the store makes a new one
/// for every change, and the list itself keeps the address from being used again.
pub(super) struct List<T>(Arc<[Arc<T>]>);

impl<T> List<T> {
    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<T>> {
        self.0.iter()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<T> FromIterator<Arc<T>> for List<T> {
    fn from_iter<I: IntoIterator<Item = Arc<T>>>(items: I) -> Self {
        Self(items.into_iter().collect())
    }
}

impl<T> Clone for List<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> PartialEq for List<T> {
    fn eq(&self, other: &Self) -> bool {
        self.0.len() == other.0.len() && self.iter().zip(other.iter()).all(|(a, b)| Arc::ptr_eq(a, b))
    }
}

impl<T> Eq for List<T> {}

impl<T> Hash for List<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.iter().for_each(|item| state.write_usize(address(item)));
    }
}

impl<T> fmt::Debug for List<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} resources", self.0.len())
    }
}

/// Values by what they were compiled from, each kept while it is used.
#[derive(Debug)]
pub(super) struct Counted<K, V>(HashMap<K, (V, usize)>);

impl<K, V> Default for Counted<K, V> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Hash + Eq, V> Counted<K, V> {
    /// The value, with one more use.
    pub(super) fn acquire(&mut self, key: &K) -> Option<&mut V> {
        self.0.get_mut(key).map(|(value, uses)| {
            *uses += 1;
            value
        })
    }

    /// Adds a value that is used once.
    pub(super) fn add(&mut self, key: K, value: V) {
        self.0.insert(key, (value, 1));
    }

    /// Ends one use; gives the value back if that was the last.
    pub(super) fn release(&mut self, key: &K) -> Option<V> {
        let (_, uses) = self.0.get_mut(key)?;
        *uses -= 1;
        if *uses > 0 {
            return None;
        }
        self.0.remove(key).map(|(value, _)| value)
    }
}
