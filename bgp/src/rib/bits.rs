//! A set of slots with one bit for each.

use super::table::Slot;

/// A set of slots; its size is counted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bits {
    words: Vec<u64>,
    count: usize,
}

impl Bits {
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    pub(crate) fn get(&self, slot: Slot) -> bool {
        self.words.get(slot as usize / 64).is_some_and(|word| word >> (slot % 64) & 1 == 1)
    }

    /// Adds a slot; returns whether it is new.
    pub(crate) fn set(&mut self, slot: Slot) -> bool {
        let at = slot as usize / 64;
        if at >= self.words.len() {
            self.words.resize(at + 1, 0);
        }
        let new = !self.get(slot);
        self.words[at] |= 1 << (slot % 64);
        self.count += usize::from(new);
        new
    }

    /// Removes a slot; returns whether it was in the set.
    pub(crate) fn clear(&mut self, slot: Slot) -> bool {
        let was = self.get(slot);
        if was {
            self.words[slot as usize / 64] &= !(1 << (slot % 64));
            self.count -= 1;
        }
        was
    }

    /// Returns the first slot at or after `from`.
    pub(crate) fn next_from(&self, from: Slot) -> Option<Slot> {
        let mut at = from as usize / 64;
        let mut word = self.words.get(at)? & (u64::MAX << (from % 64));
        while word == 0 {
            at += 1;
            word = *self.words.get(at)?;
        }
        Some(at as Slot * 64 + word.trailing_zeros())
    }

    /// Returns all slots in ascending order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Slot> + '_ {
        std::iter::successors(self.next_from(0), |slot| self.next_from(slot.checked_add(1)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_a_set() {
        let mut bits = Bits::default();
        for slot in [0, 63, 64, 200, 63] {
            bits.set(slot);
        }
        assert_eq!(bits.count(), 4);
        assert_eq!(bits.iter().collect::<Vec<_>>(), [0, 63, 64, 200]);
        assert!(bits.clear(63) && !bits.clear(63) && !bits.clear(7000));
        assert_eq!(bits.next_from(1), Some(64));
        assert_eq!(bits.next_from(201), None);
        assert_eq!(bits.count(), 3);
    }
}
