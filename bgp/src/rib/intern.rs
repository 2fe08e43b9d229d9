//! Interned values: equal values that many paths share are one allocation, so that they are compared by address.

use std::hash::{BuildHasher, Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

use hashbrown::HashTable;

use crate::hash::Keyed;

/// The fewest values that are swept for unused ones.
const SWEEP_FLOOR: usize = 1024;

/// A value from an [`Interner`]. Two of them are equal if they are the same allocation.
#[derive(Debug)]
pub(crate) struct Interned<T>(Arc<T>);

impl<T> Clone for Interned<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> PartialEq for Interned<T> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl<T> Eq for Interned<T> {}

impl<T> Hash for Interned<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.0).hash(state);
    }
}

impl<T> Deref for Interned<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// A set of interned values. Unused ones are dropped when the set has doubled since the last sweep: so at most half of it
/// is garbage, and the cost of a sweep is spread over as many insertions.
#[derive(Debug)]
pub(crate) struct Interner<T> {
    /// Each value with its hash, so that a growing table need not visit the values.
    values: HashTable<(u64, Interned<T>)>,
    hasher: Keyed,
    sweep_at: usize,
}

impl<T: Eq + Hash> Interner<T> {
    pub(crate) fn new() -> Self {
        Self { values: HashTable::new(), hasher: Keyed::default(), sweep_at: SWEEP_FLOOR }
    }

    /// Returns the shared copy of `value`.
    pub(crate) fn intern(&mut self, value: T) -> Interned<T> {
        let hash = self.hasher.hash_one(&value);
        if let Some((_, shared)) = self.values.find(hash, |(h, shared)| *h == hash && **shared == value) {
            return shared.clone();
        }
        if self.values.len() >= self.sweep_at {
            self.sweep();
        }
        let shared = Interned(Arc::new(value));
        self.values.insert_unique(hash, (hash, shared.clone()), |(hash, _)| *hash);
        shared
    }

    fn sweep(&mut self) {
        self.values.retain(|(_, value)| Arc::strong_count(&value.0) > 1);
        self.values.shrink_to(2 * self.values.len(), |(hash, _)| *hash);
        self.sweep_at = (2 * self.values.len()).max(SWEEP_FLOOR);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_are_one_allocation() {
        let mut interner = Interner::new();
        let (a, b, c) = (interner.intern(7), interner.intern(7), interner.intern(8));
        assert_eq!(a, b);
        assert_ne!(a, c);
    }

    #[test]
    fn unused_values_are_dropped() {
        let mut interner = Interner::new();
        let held = interner.intern(usize::MAX);
        for value in 0..100 * SWEEP_FLOOR {
            interner.intern(value);
        }
        assert!(interner.values.len() <= 2 * SWEEP_FLOOR);
        assert_eq!(held, interner.intern(usize::MAX));
    }
}
