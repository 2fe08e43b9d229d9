//! The hash of tables that are looked up for every message: foldhash, with a key drawn at random for each table, so that no
//! peer can choose prefixes or attributes that collide. No output depends on it: where order matters, the content of such
//! a table is sorted.
//!
//! The variant is `quality`. With `fast`, which omits the last multiplication, one process in ten draws a seed by which
//! neighboring prefixes share buckets: up to 99 in one, where 7 are usual.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::LazyLock;

use foldhash::SharedSeed;
use foldhash::quality::{FoldHasher, SeedableRandomState};

/// A map without an order, for lookups that every message needs.
pub(crate) type Map<K, V> = hashbrown::HashMap<K, V, Keyed>;

/// The hash with a key of its own.
#[derive(Clone, Debug)]
pub(crate) struct Keyed(SeedableRandomState);

impl Default for Keyed {
    fn default() -> Self {
        static SHARED: LazyLock<SharedSeed> = LazyLock::new(|| SharedSeed::from_u64(random()));
        Self(SeedableRandomState::with_seed(random(), &SHARED))
    }
}

impl BuildHasher for Keyed {
    type Hasher = FoldHasher<'static>;

    fn build_hasher(&self) -> Self::Hasher {
        self.0.build_hasher()
    }
}

/// Returns a random number from the kernel, by the standard library's keyed hash. foldhash itself would derive its keys
/// from addresses and the time.
fn random() -> u64 {
    RandomState::new().hash_one(0_u8)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn neighboring_values_are_spread() {
        // Whatever a process has drawn: a test with one seed would fail once in a while.
        for seed in 0..16 {
            let shared = Box::leak(Box::new(SharedSeed::from_u64(seed)));
            let keyed = Keyed(SeedableRandomState::with_seed(random(), shared));
            let hashes: HashSet<u64> = (0..100_000_u32).map(|n| keyed.hash_one(n << 8)).collect();
            assert_eq!(hashes.len(), 100_000);
            // Both the bits that select the bucket and those that are compared in it.
            let low: HashSet<u64> = hashes.iter().map(|hash| hash & 0xfff).collect();
            let high: HashSet<u64> = hashes.iter().map(|hash| hash >> 52).collect();
            assert_eq!((low.len(), high.len()), (4096, 4096));
        }
    }

    #[test]
    fn tables_differ() {
        assert_ne!(Keyed::default().hash_one("10.0.0.0/8"), Keyed::default().hash_one("10.0.0.0/8"));
    }
}
