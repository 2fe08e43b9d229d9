//! Update groups whose members are told several paths to a prefix (RFC 7911), and those of all others behind one face.
//!
//! A group has a word on each slot. Most groups' slots are prefixes, with the word on the best path. Here each path told
//! has a slot of its own, with the prefix and the Path Identifier that we give it: words, marks and the log work as they
//! do elsewhere, and who is not told several paths pays nothing for those who are.
//!
//! The identifier that we give a path is the number of its source. No two paths to a prefix have the same source, and a
//! path keeps it for as long as it exists, so prefix and identifier name it as RFC 7911 §3 asks for. Paths of one source
//! share it, which keeps small what receivers store of identifiers.

use std::collections::BTreeMap;

use bytes::BytesMut;

use super::best::{self, Candidate};
use super::export::GroupKey;
use super::group::{Exporter, Group, MemberState};
use super::pack::Packer;
use super::table::{Entry, Slot, Slots, Source, Table};
use super::{PeerId, Withheld, WithheldReason};
use crate::wire::{Family, Nlri, Prefix};

/// A path: to a prefix, from a source.
type Key = (Prefix, Source);

/// A path that is told, or whose withdrawal is still to be told.
#[derive(Debug)]
struct PathSlot {
    key: Key,
    /// How many marks and logged messages refer to it.
    pending: u32,
    /// There is a word on it.
    told: bool,
}

/// The slots of a group whose members are told several paths.
#[derive(Debug, Default)]
struct PathSlots {
    index: BTreeMap<Key, Slot>,
    entries: Vec<PathSlot>,
    free: Vec<Slot>,
}

impl PathSlots {
    /// The path's slot, taken now if it has none.
    fn claim(&mut self, key: Key) -> Slot {
        if let Some(slot) = self.index.get(&key) {
            return *slot;
        }
        let entry = PathSlot { key, pending: 0, told: false };
        let slot = match self.free.pop() {
            Some(slot) => {
                self.entries[slot as usize] = entry;
                slot
            }
            None => {
                self.entries.push(entry);
                (self.entries.len() - 1) as Slot
            }
        };
        self.index.insert(key, slot);
        slot
    }

    fn of(&self, prefix: Prefix) -> impl Iterator<Item = (Source, Slot)> + '_ {
        self.index.range(all_of(prefix)).map(|((_, source), slot)| (*source, *slot))
    }
}

impl Slots for PathSlots {
    type Nlri = Nlri;

    fn size(&self) -> usize {
        self.entries.len()
    }

    fn nlri(&self, slot: Slot) -> Nlri {
        let (prefix, source) = self.entries[slot as usize].key;
        Nlri { prefix, path_id: Some(source.number()) }
    }

    fn pending(&mut self, slot: Slot) -> &mut u32 {
        &mut self.entries[slot as usize].pending
    }

    fn reap(&mut self, slot: Slot) {
        let entry = &self.entries[slot as usize];
        // One that was given away before is not in the index any more.
        if entry.pending == 0 && !entry.told && self.index.get(&entry.key) == Some(&slot) {
            self.index.remove(&entry.key);
            self.free.push(slot);
        }
    }
}

/// All keys of a prefix.
fn all_of(prefix: Prefix) -> std::ops::RangeInclusive<Key> {
    (prefix, Source::FIRST)..=(prefix, Source::LOCAL)
}

/// What it takes to tell several paths.
#[derive(Debug)]
struct Several {
    limit: usize,
    slots: PathSlots,
    /// By path, whom it comes from and why it cannot be told.
    withheld: BTreeMap<Key, (Source, WithheldReason)>,
}

impl Several {
    /// Takes note of a prefix's paths; whether there is anything to tell then.
    fn update(&mut self, group: &mut Group, entry: &Entry, exporter: &mut Exporter<'_>) -> bool {
        let prefix = entry.prefix;
        let withheld: Vec<Key> = self.withheld.range(all_of(prefix)).map(|(key, _)| *key).collect();
        for key in withheld {
            self.withheld.remove(&key);
        }
        let usable = entry.paths.as_slice().iter().filter(|path| path.is_eligible());
        let candidates = usable.map(|path| Candidate::new(path, exporter.neighbors)).collect();
        let mut told = Vec::new();
        for candidate in best::ranked(candidates) {
            if told.len() == self.limit {
                break;
            }
            let Some(path) = entry.paths.get(candidate.source) else { continue };
            match group.export(path, &prefix, exporter) {
                Ok(Some(word)) => told.push((path.source, word)),
                Ok(None) => {}
                Err(reason) => {
                    let from = exporter.neighbors.source_peer(path.source);
                    self.withheld.insert((prefix, path.source), (from, reason));
                }
            }
        }
        let mut news = false;
        let before: Vec<(Source, Slot)> = self.slots.of(prefix).collect();
        for (source, slot) in before {
            if told.iter().all(|(other, _)| *other != source) {
                self.slots.entries[slot as usize].told = false;
                news |= group.replace(slot, None, self.slots.pending(slot));
                self.slots.reap(slot);
            }
        }
        for (source, word) in told {
            let slot = self.slots.claim((prefix, source));
            self.slots.entries[slot as usize].told = true;
            news |= group.replace(slot, Some(word), self.slots.pending(slot));
        }
        news
    }
}

/// The peers that are told the same about one family: the best paths, or several to each prefix.
#[derive(Debug)]
pub struct UpdateGroup {
    group: Group,
    several: Option<Box<Several>>,
}

/// What a member that left its group was told.
#[derive(Debug, Default)]
pub struct MovingMember {
    state: MemberState,
    /// The paths that its slots stood for, if it was told several: another group has other slots for them.
    keys: BTreeMap<Slot, Key>,
}

impl UpdateGroup {
    /// A group without members, knowing what to say about all of `table`.
    pub fn new(key: GroupKey, table: &mut Table, exporter: &mut Exporter<'_>) -> Self {
        let several = key.paths.map(|limit| {
            let (slots, withheld) = (PathSlots::default(), BTreeMap::new());
            Box::new(Several { limit: limit.get().into(), slots, withheld })
        });
        let mut group = Self { group: Group::new(key), several };
        group.recompute(table, exporter);
        group
    }

    pub fn key(&self) -> &GroupKey {
        &self.group.key
    }

    /// Works out the word on every prefix again, after something that paths do not show has changed.
    pub fn recompute(&mut self, table: &mut Table, exporter: &mut Exporter<'_>) {
        self.group.clear_last();
        let slots: Vec<Slot> = table.occupied().map(|(slot, _)| slot).collect();
        for slot in slots {
            self.update(slot, table.entry_mut(slot), exporter);
        }
    }

    /// See [`Group::clear_last`].
    pub fn clear_last(&mut self) {
        self.group.clear_last();
    }

    /// Takes note of a prefix whose best path has changed.
    pub fn update(&mut self, slot: Slot, entry: &mut Entry, exporter: &mut Exporter<'_>) {
        match &mut self.several {
            None => self.group.update(slot, entry, exporter),
            Some(several) => {
                several.update(&mut self.group, entry, exporter);
            }
        }
    }

    /// Takes note of a prefix whose paths have changed, but not the best one; whether there is anything to tell then.
    pub fn update_others(&mut self, entry: &Entry, exporter: &mut Exporter<'_>) -> bool {
        match &mut self.several {
            None => false,
            Some(several) => several.update(&mut self.group, entry, exporter),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.group.is_empty()
    }

    /// Whether there is something to tell a member.
    pub fn pending(&self, id: PeerId) -> bool {
        self.group.pending(id)
    }

    /// See [`Group::advertised`].
    pub fn advertised(&self, id: PeerId) -> usize {
        self.group.advertised(id)
    }

    /// Asks for an End-of-RIB for a member.
    pub fn end_of_rib(&mut self, id: PeerId) {
        self.group.end_of_rib(id);
    }

    /// Takes in a member with what it was told in the group it was in before.
    pub fn join(&mut self, id: PeerId, moving: MovingMember, table: &mut Table) {
        let MovingMember { mut state, keys } = moving;
        match &mut self.several {
            None => {
                self.group.join(id, &state, table);
                state.release(table);
            }
            Some(several) => {
                let slots: BTreeMap<Slot, Slot> =
                    keys.into_iter().map(|(slot, key)| (slot, several.slots.claim(key))).collect();
                state.rename(&slots);
                self.group.join(id, &state, &mut several.slots);
            }
        }
    }

    /// Lets a member go to another group; returns what it was told.
    pub fn move_out(&mut self, id: PeerId, table: &mut Table) -> MovingMember {
        let Some(several) = &mut self.several else {
            return MovingMember { state: self.group.move_out(id, table), keys: BTreeMap::new() };
        };
        let mut state = self.group.move_out(id, &mut several.slots);
        let keys = state.slots().map(|slot| (slot, several.slots.entries[slot as usize].key)).collect();
        state.release(&mut several.slots);
        MovingMember { state, keys }
    }

    /// Lets a member go for good.
    pub fn remove(&mut self, id: PeerId, table: &mut Table) {
        match &mut self.several {
            None => self.group.remove(id, table),
            Some(several) => self.group.remove(id, &mut several.slots),
        }
    }

    /// Marks everything that a member was told to be told again.
    pub fn refresh(&mut self, id: PeerId, table: &mut Table) {
        match &mut self.several {
            None => self.group.refresh(id, table),
            Some(several) => self.group.refresh(id, &mut several.slots),
        }
    }

    /// Tells a member what is pending, until `out` has `until` octets.
    pub fn pack(&mut self, id: PeerId, family: Family, table: &mut Table, out: &mut BytesMut, until: usize) {
        match &mut self.several {
            None => Packer { family, table, out, until }.pack(&mut self.group, id),
            Some(several) => {
                Packer { family, table: &mut several.slots, out, until }.pack(&mut self.group, id);
            }
        }
    }

    /// What a member should be told but cannot be.
    pub fn withheld_from(&self, id: PeerId, table: &Table) -> Vec<Withheld> {
        match &self.several {
            None => {
                let withheld = self.group.withheld_from(id);
                withheld.map(|(slot, reason)| Withheld { prefix: table.entry(slot).prefix, reason }).collect()
            }
            Some(several) => {
                let others = several.withheld.iter().filter(|(_, (from, _))| *from != Source::from(id));
                others
                    .map(|((prefix, _), (_, reason))| Withheld { prefix: *prefix, reason: *reason })
                    .collect()
            }
        }
    }
}
