//! A hash for tables that are asked millions of times: one multiplication for each word, with a key drawn at random for
//! each table, so that no peer can choose prefixes or attributes that collide. Nothing a speaker says depends on it: where
//! order matters, what such a table holds is sorted first.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};

/// A map without an order, for what is looked up for every message.
pub(crate) type Map<K, V> = hashbrown::HashMap<K, V, Keyed>;

/// Makes hashers with one key.
#[derive(Clone, Debug)]
pub(crate) struct Keyed {
    seed: u64,
    key: u64,
}

impl Default for Keyed {
    fn default() -> Self {
        let random = RandomState::new();
        // The standard library's keyed hash stretches its key.
        Self { seed: random.hash_one(1_u64), key: random.hash_one(2_u64) | 1 }
    }
}

impl BuildHasher for Keyed {
    type Hasher = Folded;

    fn build_hasher(&self) -> Folded {
        Folded { state: self.seed, key: self.key }
    }
}

/// The high half of a product folded onto the low one.
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

#[derive(Debug)]
pub(crate) struct Folded {
    state: u64,
    key: u64,
}

impl Hasher for Folded {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.write_u64(u64::from_le_bytes(*word));
        }
        if !rest.is_empty() {
            let mut word = [0; 8];
            word[..rest.len()].copy_from_slice(rest);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.state = fold(self.state ^ word, self.key).rotate_left(23);
    }

    fn write_u32(&mut self, word: u32) {
        self.write_u64(word.into());
    }

    fn write_u16(&mut self, word: u16) {
        self.write_u64(word.into());
    }

    fn write_u8(&mut self, word: u8) {
        self.write_u64(word.into());
    }

    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }

    fn finish(&self) -> u64 {
        fold(self.state, self.key ^ 0x9e37_79b9_7f4a_7c15)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn neighbouring_values_fall_apart() {
        let keyed = Keyed::default();
        let hashes: HashSet<u64> = (0..100_000_u32).map(|n| keyed.hash_one(n << 8)).collect();
        assert_eq!(hashes.len(), 100_000);
        // Both what picks the bucket and what is compared in it.
        let low: HashSet<u64> = hashes.iter().map(|hash| hash & 0xfff).collect();
        let high: HashSet<u64> = hashes.iter().map(|hash| hash >> 52).collect();
        assert_eq!((low.len(), high.len()), (4096, 4096));
    }

    #[test]
    fn tables_differ() {
        assert_ne!(Keyed::default().hash_one("10.0.0.0/8"), Keyed::default().hash_one("10.0.0.0/8"));
    }
}
