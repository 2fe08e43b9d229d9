//! Interned values: equal values that many paths share are one allocation, so that they are compared by address.

use std::hash::{BuildHasher, Hash};
use std::sync::Arc;

use hashbrown::HashTable;

use crate::hash::Keyed;

/// The fewest values that are swept for unused ones.
const SWEEP_FLOOR: usize = 1024;

/// A set of interned values. Unused ones are dropped when the set has doubled since the last sweep: so at most half of it
/// is garbage, and the cost of a sweep is spread over as many insertions.
#[derive(Debug)]
pub struct Interner<T> {
    /// Each value with its hash, so that a growing table need not visit the values.
    values: HashTable<(u64, Arc<T>)>,
    hasher: Keyed,
    sweep_at: usize,
}

impl<T: Eq + Hash> Interner<T> {
    pub fn new() -> Self {
        Self { values: HashTable::new(), hasher: Keyed::default(), sweep_at: SWEEP_FLOOR }
    }

    /// Returns the shared copy of `value`.
    pub fn intern(&mut self, value: T) -> Arc<T> {
        let hash = self.hasher.hash_one(&value);
        if let Some((_, known)) = self.values.find(hash, |(h, known)| *h == hash && **known == value) {
            return known.clone();
        }
        if self.values.len() >= self.sweep_at {
            self.sweep();
        }
        let shared = Arc::new(value);
        self.values.insert_unique(hash, (hash, shared.clone()), |(hash, _)| *hash);
        shared
    }

    fn sweep(&mut self) {
        self.values.retain(|(_, value)| Arc::strong_count(value) > 1);
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
        assert!(Arc::ptr_eq(&a, &b));
        assert!(!Arc::ptr_eq(&a, &c));
    }

    #[test]
    fn unused_values_are_dropped() {
        let mut interner = Interner::new();
        let held = interner.intern(usize::MAX);
        for value in 0..100 * SWEEP_FLOOR {
            interner.intern(value);
        }
        assert!(interner.values.len() <= 2 * SWEEP_FLOOR);
        assert!(Arc::ptr_eq(&held, &interner.intern(usize::MAX)));
    }
}
