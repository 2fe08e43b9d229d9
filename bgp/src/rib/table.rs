//! The prefixes of one family and their paths: the Adj-RIBs-In of all peers and the Loc-RIB in one table.
//!
//! Each prefix has a slot, a small number that other tables use in its place: a flag for a prefix then takes one bit. The
//! hash index is keyed at random, so that no peer can choose prefixes that collide, and its order influences no output.

use std::hash::BuildHasher;

use hashbrown::HashTable;

use super::intern::Interned;
use super::reason::RejectReason;
use super::{PeerId, PeerKind};
use crate::hash::Keyed;
use crate::policy::{Route, RouteSource};
use crate::wire::{Attributes, NextHop, Nlri, Prefix};

/// The number of a prefix within its table. It is reused when nothing refers to it.
pub(crate) type Slot = u32;

/// The source of a path: this speaker, a peer, or a peer with a Path Identifier by its number in
/// [`Sources`](super::sources::Sources). As small as a [`PeerId`]. There is at most one path to a prefix from each source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Source(u32);

impl Source {
    /// This speaker, which originates the path.
    pub(crate) const LOCAL: Self = Self(u32::MAX);
    /// The least source.
    pub(crate) const FIRST: Self = Self(0);
    /// The first number that is an index. Peers are numbered from 1 and stay below it.
    const INDEXED: u32 = 1 << 31;

    /// Returns the source at an index.
    pub(crate) fn indexed(index: u32) -> Self {
        Self(Self::INDEXED | index)
    }

    /// Returns the index of a source that has one.
    pub(crate) fn index(self) -> Option<u32> {
        (self.0 >= Self::INDEXED && self != Self::LOCAL).then_some(self.0 & !Self::INDEXED)
    }

    /// Returns the peer of a source without a Path Identifier.
    pub(crate) fn peer(self) -> Option<PeerId> {
        (self.0 < Self::INDEXED).then_some(PeerId(self.0))
    }

    /// Returns the number, which is unique among sources.
    pub(crate) fn number(self) -> u32 {
        self.0
    }
}

impl From<PeerId> for Source {
    fn from(id: PeerId) -> Self {
        debug_assert!(id.0 < Self::INDEXED, "these numbers are indices");
        Self(id.0)
    }
}

/// The attributes and next hop of a path. NEXT_HOP is an attribute in RFC 4271 §5; the decoder returns it separately.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct PathAttributes {
    pub attributes: Attributes,
    /// `None` in originated paths without one: our own address on each session.
    pub next_hop: Option<NextHop>,
}

impl PathAttributes {
    /// Returns the route that policies evaluate. `from` is `None` for an originated path.
    pub(crate) fn route<'a>(&'a self, from: Option<PeerKind>, prefix: &'a Prefix) -> Route<'a> {
        let source = match from {
            None => RouteSource::Local,
            Some(PeerKind::External) => RouteSource::External,
            Some(PeerKind::Internal | PeerKind::Client) => RouteSource::Internal,
        };
        let next_hop = self.next_hop.map(|next_hop| next_hop.address);
        Route { prefix, attributes: &self.attributes, next_hop, source }
    }
}

/// One path to a prefix: 16 octets.
#[derive(Clone, Debug)]
pub(crate) struct Path {
    pub shared: Interned<PathAttributes>,
    pub source: Source,
    /// The reason if it is not eligible. A rejected path is kept to be reported, and so that a changed filter needs no refresh.
    pub rejected: Option<RejectReason>,
    /// Kept from before its peer's restart (RFC 4724 §4.2).
    pub stale: bool,
}

impl Path {
    /// Returns whether the path takes part in the decision process.
    pub(crate) fn is_eligible(&self) -> bool {
        self.rejected.is_none()
    }

    /// Returns whether two paths have the same source and attributes.
    pub(crate) fn same(&self, other: &Self) -> bool {
        self.source == other.source && self.shared == other.shared
    }
}

/// The paths to one prefix, one for each source. Most prefixes have a single path, which needs no allocation.
#[derive(Debug, Default)]
pub(crate) enum Paths {
    #[default]
    None,
    One(Path),
    // Boxed, so that a prefix with one path takes 16 octets and not 24.
    #[allow(clippy::box_collection)]
    Many(Box<Vec<Path>>),
}

impl Paths {
    pub(crate) fn as_slice(&self) -> &[Path] {
        match self {
            Self::None => &[],
            Self::One(path) => std::slice::from_ref(path),
            Self::Many(paths) => paths,
        }
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [Path] {
        match self {
            Self::None => &mut [],
            Self::One(path) => std::slice::from_mut(path),
            Self::Many(paths) => paths,
        }
    }

    pub(crate) fn get(&self, source: Source) -> Option<&Path> {
        self.as_slice().iter().find(|path| path.source == source)
    }

    /// Adds a path; returns the path from the same source that it replaces (an implicit withdraw, RFC 4271 §9).
    pub(crate) fn put(&mut self, path: Path) -> Option<Path> {
        if let Some(old) = self.as_mut_slice().iter_mut().find(|old| old.source == path.source) {
            return Some(std::mem::replace(old, path));
        }
        *self = match std::mem::take(self) {
            Self::None => Self::One(path),
            Self::One(first) => Self::Many(Box::new(vec![first, path])),
            Self::Many(mut paths) => {
                paths.push(path);
                Self::Many(paths)
            }
        };
        None
    }

    pub(crate) fn remove(&mut self, source: Source) -> Option<Path> {
        let at = self.as_slice().iter().position(|path| path.source == source)?;
        match std::mem::take(self) {
            Self::None => None,
            Self::One(path) => Some(path),
            Self::Many(mut paths) => {
                let removed = paths.swap_remove(at);
                *self = match paths.len() {
                    1 => paths.pop().map_or(Self::None, Self::One),
                    _ => Self::Many(paths),
                };
                Some(removed)
            }
        }
    }
}

/// A prefix and its paths.
#[derive(Debug)]
pub(crate) struct Entry {
    pub prefix: Prefix,
    /// The number of pending changes and logged messages that refer to the prefix. Its slot is not reused before it is 0.
    pub references: u32,
    /// The best path is first if any path is eligible.
    pub paths: Paths,
}

impl Entry {
    /// Returns whether the slot is in use.
    fn is_used(&self) -> bool {
        self.references > 0 || !matches!(self.paths, Paths::None)
    }

    /// Returns the path in the Loc-RIB.
    pub(crate) fn best(&self) -> Option<&Path> {
        self.paths.as_slice().first().filter(|path| path.is_eligible())
    }
}

/// The slots of an update group, each for a prefix or for one path to a prefix.
pub(crate) trait Slots {
    /// The form of a slot in an UPDATE.
    type Nlri: Into<Nlri> + Copy;

    /// Returns one more than the highest slot that was ever in use.
    fn size(&self) -> usize;

    fn nlri(&self, slot: Slot) -> Self::Nlri;

    /// Returns the count of pending changes and logged messages that refer to the slot.
    fn references(&mut self, slot: Slot) -> &mut u32;

    /// Frees the slot if nothing refers to it.
    fn reap(&mut self, slot: Slot);

    /// Counts one pending change or logged message less, and frees the slot if nothing refers to it.
    fn release(&mut self, slot: Slot) {
        *self.references(slot) -= 1;
        self.reap(slot);
    }
}

impl Slots for Table {
    type Nlri = Prefix;

    fn size(&self) -> usize {
        self.entries.len()
    }

    fn nlri(&self, slot: Slot) -> Prefix {
        self.entry(slot).prefix
    }

    fn references(&mut self, slot: Slot) -> &mut u32 {
        &mut self.entry_mut(slot).references
    }

    fn reap(&mut self, slot: Slot) {
        Self::reap(self, slot);
    }
}

/// The table of one family.
#[derive(Debug, Default)]
pub(crate) struct Table {
    /// The slots by prefix. The prefixes are in the entries only, so the index takes 5 octets for each.
    index: HashTable<Slot>,
    hasher: Keyed,
    entries: Vec<Entry>,
    free: Vec<Slot>,
}

impl Table {
    pub(crate) fn find(&self, prefix: &Prefix) -> Option<Slot> {
        let hash = hash_of(&self.hasher, prefix);
        self.index.find(hash, |slot| self.entries[*slot as usize].prefix == *prefix).copied()
    }

    /// Brings the index's memory for these prefixes into the processor's cache: the cache misses then overlap, where a
    /// lookup for each prefix in turn would wait for each.
    pub(crate) fn prefetch(&self, prefixes: &[Nlri]) {
        for Nlri { prefix, .. } in prefixes {
            std::hint::black_box(self.index.find(hash_of(&self.hasher, prefix), |_| false));
        }
    }

    /// Returns the prefix's slot, which is assigned if it has none. If no path is added, a call of [`Table::reap`] must
    /// follow.
    pub(crate) fn claim(&mut self, prefix: Prefix) -> Slot {
        let Self { index, hasher, entries, free } = self;
        let hash = hash_of(hasher, &prefix);
        if let Some(slot) = index.find(hash, |slot| entries[*slot as usize].prefix == prefix) {
            return *slot;
        }
        if index.len() == index.capacity() {
            *index = grown(entries, hasher, index.len());
        }
        let entry = Entry { prefix, references: 0, paths: Paths::None };
        let slot = match free.pop() {
            Some(slot) => {
                entries[slot as usize] = entry;
                slot
            }
            None => {
                entries.push(entry);
                (entries.len() - 1) as Slot
            }
        };
        index.insert_unique(hash, slot, |slot| hash_of(hasher, &entries[*slot as usize].prefix));
        slot
    }

    /// Frees the slot if no path, pending change or logged message refers to it.
    pub(crate) fn reap(&mut self, slot: Slot) {
        let entry = &self.entries[slot as usize];
        if entry.is_used() {
            return;
        }
        let hash = hash_of(&self.hasher, &entry.prefix);
        // A slot that was freed before is not in the index.
        if let Ok(occupied) = self.index.find_entry(hash, |other| *other == slot) {
            occupied.remove();
            self.free.push(slot);
        }
    }

    pub(crate) fn entry(&self, slot: Slot) -> &Entry {
        &self.entries[slot as usize]
    }

    pub(crate) fn entry_mut(&mut self, slot: Slot) -> &mut Entry {
        &mut self.entries[slot as usize]
    }

    /// Returns all slots with paths, in ascending order.
    pub(crate) fn occupied(&self) -> impl Iterator<Item = (Slot, &Entry)> {
        (0..).zip(&self.entries).filter(|(_, entry)| !matches!(entry.paths, Paths::None))
    }

    /// Returns whether a slot has paths.
    pub(crate) fn is_occupied(&self, slot: Slot) -> bool {
        !matches!(self.entry(slot).paths, Paths::None)
    }

    /// Returns the number of slots, used or not.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns the entries with paths among those of a range of slots.
    #[cfg(feature = "tokio")]
    pub(crate) fn occupied_in(&self, slots: std::ops::Range<usize>) -> impl Iterator<Item = &Entry> {
        let entries = self.entries.get(slots).unwrap_or_default();
        entries.iter().filter(|entry| !matches!(entry.paths, Paths::None))
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.index.is_empty() && self.free.len() == self.entries.len()
    }
}

/// Returns an index with room for twice as many slots. It is built in the order of the entries, which is their order in
/// memory: an index that grew by itself would visit them in its own order, with a cache miss each time.
fn grown(entries: &[Entry], hasher: &Keyed, count: usize) -> HashTable<Slot> {
    let mut index = HashTable::with_capacity((2 * count).max(16));
    for (slot, entry) in (0..).zip(entries).filter(|(_, entry)| entry.is_used()) {
        let hash = |slot: &Slot| hash_of(hasher, &entries[*slot as usize].prefix);
        index.insert_unique(hash_of(hasher, &entry.prefix), slot, hash);
    }
    index
}

/// Hashes a prefix as the fewest words that hold it.
fn hash_of(hasher: &Keyed, prefix: &Prefix) -> u64 {
    match *prefix {
        Prefix::V4(address, length) => hasher.hash_one(u64::from(address.to_bits()) << 8 | u64::from(length)),
        Prefix::V6(address, length) => {
            hasher.hash_one((address.to_bits() as u64, (address.to_bits() >> 64) as u64, length))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_takes_16_octets_and_a_prefix_with_one_path_40() {
        assert_eq!(size_of::<Path>(), 16);
        assert_eq!(size_of::<Paths>(), 16);
        assert_eq!(size_of::<Entry>(), 40);
    }

    #[test]
    fn a_slot_is_reused_only_when_nothing_refers_to_it() {
        let mut table = Table::default();
        let prefix = |n: u8| Prefix::new([10, n, 0, 0].into(), 16).expect("a valid length");
        let first = table.claim(prefix(1));
        table.entry_mut(first).references = 1;
        table.reap(first);
        assert_eq!(table.find(&prefix(1)), Some(first));
        table.entry_mut(first).references = 0;
        table.reap(first);
        table.reap(first);
        assert_eq!(table.find(&prefix(1)), None);
        assert_eq!(table.claim(prefix(2)), first);
        assert_ne!(table.claim(prefix(3)), first);
    }
}
