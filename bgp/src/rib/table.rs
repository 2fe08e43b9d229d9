//! The prefixes of one family and their paths: adj-RIB-in of every peer and loc-RIB in one.
//!
//! Each prefix has a slot, a small number that other tables use instead of the prefix: a mark or a flag for a
//! prefix then costs them one bit. Nothing a speaker says depends on the order of the hash map; it is keyed at
//! random so that no peer can choose prefixes that collide.

use std::hash::BuildHasher;
use std::sync::Arc;

use hashbrown::HashTable;

use super::import::Refusal;
use super::{PeerId, PeerKind};
use crate::hash::Keyed;
use crate::policy::{Route, RouteSource};
use crate::wire::{Attributes, NextHop, Nlri, Prefix};

/// A prefix's number within its table; used again once nothing refers to it.
pub type Slot = u32;

/// Where a path comes from: ourselves, a peer, or a peer with a Path Identifier, by its number in
/// [`Sources`](super::sources::Sources). As small as a [`PeerId`]. The path to a prefix from one source is one path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Source(u32);

impl Source {
    /// We originate it.
    pub const LOCAL: Self = Self(u32::MAX);
    /// Less than every other.
    pub const FIRST: Self = Self(0);
    /// From here on numbers are indices. Peers are numbered from 1 and never come that far.
    const INDEXED: u32 = 1 << 31;

    /// One that stands at an index.
    pub fn indexed(index: u32) -> Self {
        Self(Self::INDEXED | index)
    }

    /// Where it stands, if that is how it is known.
    pub fn index(self) -> Option<u32> {
        (self.0 >= Self::INDEXED && self != Self::LOCAL).then_some(self.0 & !Self::INDEXED)
    }

    /// The peer, if that is how it is known.
    pub fn peer(self) -> Option<PeerId> {
        (self.0 < Self::INDEXED).then_some(PeerId(self.0))
    }

    /// Its number, different from that of any other.
    pub fn number(self) -> u32 {
        self.0
    }
}

impl From<PeerId> for Source {
    fn from(id: PeerId) -> Self {
        debug_assert!(id.0 < Self::INDEXED, "these numbers stand for others");
        Self(id.0)
    }
}

/// All attributes of a path. RFC 4271 §5 counts NEXT_HOP among them; the wire hands it over separately.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct PathAttributes {
    pub attributes: Attributes,
    /// `None`: our own address on each session; only in what we originate.
    pub next_hop: Option<NextHop>,
}

impl PathAttributes {
    /// As policy sees it; `from` is `None` for what we originate.
    pub fn route<'a>(&'a self, from: Option<PeerKind>, prefix: &'a Prefix) -> Route<'a> {
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
pub struct Path {
    pub shared: Arc<PathAttributes>,
    pub source: Source,
    /// Why it must not be used. The path is kept so that a changed filter needs no refresh, and to be reported.
    pub refusal: Option<Refusal>,
    /// Kept from before its peer's restart (RFC 4724 §4.2).
    pub stale: bool,
}

impl Path {
    /// Whether two paths are the same to the outside: from the same source with the same attributes.
    pub fn same(&self, other: &Self) -> bool {
        self.source == other.source && Arc::ptr_eq(&self.shared, &other.shared)
    }
}

/// The paths to one prefix, one a source. Most prefixes have a single one, which then needs no allocation.
#[derive(Debug, Default)]
pub enum Paths {
    #[default]
    None,
    One(Path),
    // Boxed, so that a prefix with one path pays 16 octets and not 24.
    #[allow(clippy::box_collection)]
    Many(Box<Vec<Path>>),
}

impl Paths {
    pub fn as_slice(&self) -> &[Path] {
        match self {
            Self::None => &[],
            Self::One(path) => std::slice::from_ref(path),
            Self::Many(paths) => paths,
        }
    }

    pub fn as_mut_slice(&mut self) -> &mut [Path] {
        match self {
            Self::None => &mut [],
            Self::One(path) => std::slice::from_mut(path),
            Self::Many(paths) => paths,
        }
    }

    pub fn get(&self, source: Source) -> Option<&Path> {
        self.as_slice().iter().find(|path| path.source == source)
    }

    /// Puts a path in the place of the one from the same source (an implicit withdraw, RFC 4271 §9), which is
    /// returned.
    pub fn put(&mut self, path: Path) -> Option<Path> {
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

    pub fn remove(&mut self, source: Source) -> Option<Path> {
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

/// A prefix with its paths.
#[derive(Debug)]
pub struct Entry {
    pub prefix: Prefix,
    /// How many marks and logged messages refer to this prefix; while there is one its slot is not given away.
    pub unsent: u32,
    /// The best path comes first where one can be used at all.
    pub paths: Paths,
}

impl Entry {
    /// Whether a path or a mark refers to it, so that its slot is not free.
    fn used(&self) -> bool {
        self.unsent > 0 || !matches!(self.paths, Paths::None)
    }

    /// The loc-RIB's path.
    pub fn best(&self) -> Option<&Path> {
        self.paths.as_slice().first().filter(|path| path.refusal.is_none())
    }
}

/// What the slots of an update group stand for: prefixes, or paths to them.
pub trait Slots {
    /// What is written of one in an UPDATE.
    type Nlri: Into<Nlri> + Copy;

    /// One more than the highest slot in use so far.
    fn size(&self) -> usize;

    fn nlri(&self, slot: Slot) -> Self::Nlri;

    /// How many marks and logged messages refer to it; while there is one it is not given away.
    fn unsent(&mut self, slot: Slot) -> &mut u32;

    /// Gives the slot away if nothing needs it.
    fn reap(&mut self, slot: Slot);
}

impl Slots for Table {
    type Nlri = Prefix;

    fn size(&self) -> usize {
        self.entries.len()
    }

    fn nlri(&self, slot: Slot) -> Prefix {
        self.entry(slot).prefix
    }

    fn unsent(&mut self, slot: Slot) -> &mut u32 {
        &mut self.entry_mut(slot).unsent
    }

    fn reap(&mut self, slot: Slot) {
        Self::reap(self, slot);
    }
}

/// The table of one family.
#[derive(Debug, Default)]
pub struct Table {
    /// Slots by prefix. The prefixes themselves are in the entries: the index has 5 octets for each.
    index: HashTable<Slot>,
    hasher: Keyed,
    entries: Vec<Entry>,
    free: Vec<Slot>,
}

impl Table {
    pub fn find(&self, prefix: &Prefix) -> Option<Slot> {
        let hash = hash_of(&self.hasher, prefix);
        self.index.find(hash, |slot| self.entries[*slot as usize].prefix == *prefix).copied()
    }

    /// Looks where prefixes are or will be in the index, so that the processor waits for its memory once for all of them and
    /// not once for each.
    pub fn look_ahead(&self, prefixes: &[Nlri]) {
        for Nlri { prefix, .. } in prefixes {
            std::hint::black_box(self.index.find(hash_of(&self.hasher, prefix), |_| false));
        }
    }

    /// The prefix's slot, taken now if it has none. To be followed by [`Table::reap`] if no path is put there.
    pub fn claim(&mut self, prefix: Prefix) -> Slot {
        let Self { index, hasher, entries, free } = self;
        let hash = hash_of(hasher, &prefix);
        if let Some(slot) = index.find(hash, |slot| entries[*slot as usize].prefix == prefix) {
            return *slot;
        }
        if index.len() == index.capacity() {
            *index = grown(entries, hasher, index.len());
        }
        let entry = Entry { prefix, unsent: 0, paths: Paths::None };
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

    /// Gives the slot away if no path and no mark needs it.
    pub fn reap(&mut self, slot: Slot) {
        let entry = &self.entries[slot as usize];
        if entry.used() {
            return;
        }
        let hash = hash_of(&self.hasher, &entry.prefix);
        // A slot that was given away before is not in the index any more.
        if let Ok(known) = self.index.find_entry(hash, |other| *other == slot) {
            known.remove();
            self.free.push(slot);
        }
    }

    pub fn entry(&self, slot: Slot) -> &Entry {
        &self.entries[slot as usize]
    }

    pub fn entry_mut(&mut self, slot: Slot) -> &mut Entry {
        &mut self.entries[slot as usize]
    }

    /// All slots with paths, in ascending order.
    pub fn occupied(&self) -> impl Iterator<Item = (Slot, &Entry)> {
        (0..).zip(&self.entries).filter(|(_, entry)| !matches!(entry.paths, Paths::None))
    }

    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.index.is_empty() && self.free.len() == self.entries.len()
    }
}

/// An index with room for twice as many. Built in the order of the entries, which lie side by side: an index that grew by
/// itself would visit them in its own order, and wait for memory each time.
fn grown(entries: &[Entry], hasher: &Keyed, count: usize) -> HashTable<Slot> {
    let mut index = HashTable::with_capacity((2 * count).max(16));
    for (slot, entry) in (0..).zip(entries).filter(|(_, entry)| entry.used()) {
        let hash = |slot: &Slot| hash_of(hasher, &entries[*slot as usize].prefix);
        index.insert_unique(hash_of(hasher, &entry.prefix), slot, hash);
    }
    index
}

/// As few words as a prefix has.
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
    fn a_slot_is_used_again_only_when_nothing_refers_to_it() {
        let mut table = Table::default();
        let prefix = |n: u8| Prefix::new([10, n, 0, 0].into(), 16).expect("a valid length");
        let first = table.claim(prefix(1));
        table.entry_mut(first).unsent = 1;
        table.reap(first);
        assert_eq!(table.find(&prefix(1)), Some(first));
        table.entry_mut(first).unsent = 0;
        table.reap(first);
        table.reap(first);
        assert_eq!(table.find(&prefix(1)), None);
        assert_eq!(table.claim(prefix(2)), first);
        assert_ne!(table.claim(prefix(3)), first);
    }
}
