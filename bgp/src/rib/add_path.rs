//! Update groups whose members are advertised several paths to a prefix (RFC 7911), and one interface for these and all
//! other groups.
//!
//! A [`Group`] has one advertisement for each slot. In most groups a slot is a prefix, and the advertisement is that of the
//! best path. In a group with several paths to a prefix, each advertised path has a slot of its own, with the prefix and a
//! Path Identifier. Everything else is the same, and costs the other groups nothing.
//!
//! The Path Identifier that we send is the number of the path's source. No two paths to a prefix have the same source, and
//! a path keeps its source for as long as it exists, so prefix and identifier identify the path (RFC 7911 §3). Paths from
//! one source share an identifier, so receivers have few of them to store.

use std::collections::BTreeMap;

use super::best::{self, Candidate};
use super::export::GroupKey;
use super::group::{Exporter, Group, MemberState};
use super::pack::Output;
use super::table::{Entry, Slot, Slots, Source, Table};
use super::{PeerId, Withheld, WithheldReason};
use crate::wire::{Family, Nlri, Prefix};

/// The key of a path: its prefix and source.
type Key = (Prefix, Source);

/// A path that is advertised, or whose withdrawal is pending.
#[derive(Debug)]
struct PathSlot {
    key: Key,
    /// The number of pending changes and logged messages that refer to it.
    references: u32,
    /// The group has an advertisement for it.
    advertised: bool,
}

/// The slots of a group with several paths to a prefix.
#[derive(Debug, Default)]
struct PathSlots {
    index: BTreeMap<Key, Slot>,
    entries: Vec<PathSlot>,
    free: Vec<Slot>,
}

impl PathSlots {
    /// Returns the path's slot, which is assigned if it has none.
    fn claim(&mut self, key: Key) -> Slot {
        if let Some(slot) = self.index.get(&key) {
            return *slot;
        }
        let entry = PathSlot { key, references: 0, advertised: false };
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

    /// Returns the slots of the paths to a prefix.
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

    fn references(&mut self, slot: Slot) -> &mut u32 {
        &mut self.entries[slot as usize].references
    }

    fn reap(&mut self, slot: Slot) {
        let entry = &self.entries[slot as usize];
        // A slot that was freed before is not in the index.
        if entry.references == 0 && !entry.advertised && self.index.get(&entry.key) == Some(&slot) {
            self.index.remove(&entry.key);
            self.free.push(slot);
        }
    }
}

/// Returns the range of all keys of a prefix.
fn all_of(prefix: Prefix) -> std::ops::RangeInclusive<Key> {
    (prefix, Source::FIRST)..=(prefix, Source::LOCAL)
}

/// The additional state of a group with several paths to a prefix.
#[derive(Debug)]
struct Several {
    /// The most paths to a prefix that are advertised.
    limit: usize,
    slots: PathSlots,
    /// The withheld paths, each with the peer that it was learned from.
    withheld: BTreeMap<Key, (Source, WithheldReason)>,
}

impl Several {
    /// Exports the paths to a prefix; returns whether an advertisement changed.
    fn update(&mut self, group: &mut Group, entry: &Entry, exporter: &mut Exporter<'_>) -> bool {
        let prefix = entry.prefix;
        let withheld: Vec<Key> = self.withheld.range(all_of(prefix)).map(|(key, _)| *key).collect();
        for key in withheld {
            self.withheld.remove(&key);
        }
        let eligible = entry.paths.as_slice().iter().filter(|path| path.is_eligible());
        let candidates = eligible.map(|path| Candidate::new(path, exporter.neighbors)).collect();
        let mut exported = Vec::new();
        for candidate in best::ranked(candidates) {
            if exported.len() == self.limit {
                break;
            }
            let Some(path) = entry.paths.get(candidate.source) else { continue };
            match group.export(path, &prefix, exporter) {
                Ok(Some(advertisement)) => exported.push((path.source, advertisement)),
                Ok(None) => {}
                Err(reason) => {
                    let from = exporter.neighbors.source_peer(path.source);
                    self.withheld.insert((prefix, path.source), (from, reason));
                }
            }
        }
        let mut changed = false;
        let before: Vec<(Source, Slot)> = self.slots.of(prefix).collect();
        for (source, slot) in before {
            if exported.iter().all(|(other, _)| *other != source) {
                self.slots.entries[slot as usize].advertised = false;
                changed |= group.replace(slot, None, self.slots.references(slot));
                self.slots.reap(slot);
            }
        }
        for (source, advertisement) in exported {
            let slot = self.slots.claim((prefix, source));
            self.slots.entries[slot as usize].advertised = true;
            changed |= group.replace(slot, Some(advertisement), self.slots.references(slot));
        }
        changed
    }
}

/// An update group, with the best path or with several paths to each prefix.
#[derive(Debug)]
pub(crate) struct UpdateGroup {
    group: Group,
    several: Option<Box<Several>>,
    filling: Option<Filling>,
}

/// The state of a new group whose Adj-RIB-Out is not complete. Without members nothing becomes pending.
#[derive(Debug, Default)]
struct Filling {
    /// The next prefix to export.
    next: Slot,
    /// The peers that become members when it is complete.
    waiting: BTreeMap<PeerId, MovingMember>,
}

/// The state of a member that moves to another group.
#[derive(Debug, Default)]
pub(crate) struct MovingMember {
    state: MemberState,
    /// The paths of its slots, if the old group has several to a prefix: another group has other slots for them.
    keys: BTreeMap<Slot, Key>,
}

impl UpdateGroup {
    /// Returns a group without members and advertisements. [`UpdateGroup::fill`] makes these.
    pub(crate) fn new(key: GroupKey) -> Self {
        let several = key.paths.map(|limit| {
            let (slots, withheld) = (PathSlots::default(), BTreeMap::new());
            Box::new(Several { limit: limit.get().into(), slots, withheld })
        });
        Self { group: Group::new(key), several, filling: Some(Filling::default()) }
    }

    pub(crate) fn key(&self) -> &GroupKey {
        self.group.key()
    }

    /// Exports at most `count` more prefixes of a table that were there when the group was created; those that wait become
    /// members after the last one. Returns whether there are more, and how many these were; `None`: the group is complete.
    pub(crate) fn fill(
        &mut self,
        table: &mut Table,
        exporter: &mut Exporter<'_>,
        count: usize,
    ) -> Option<(bool, usize)> {
        let from = self.filling.as_ref()?.next;
        let until = (from as usize).saturating_add(count).min(table.len());
        for slot in from..until as Slot {
            if table.is_occupied(slot) {
                self.update(slot, table.entry_mut(slot), exporter);
            }
        }
        let more = until < table.len();
        if more {
            self.filling.as_mut()?.next = until as Slot;
        } else {
            for (id, moving) in self.filling.take()?.waiting {
                self.join(id, moving, table);
            }
        }
        Some((more, until - from as usize))
    }

    fn waiting(&self, id: PeerId) -> Option<&MovingMember> {
        self.filling.as_ref()?.waiting.get(&id)
    }

    fn waiting_mut(&mut self, id: PeerId) -> Option<&mut MovingMember> {
        self.filling.as_mut()?.waiting.get_mut(&id)
    }

    /// See [`Group::clear_last`].
    pub(crate) fn clear_last(&mut self) {
        self.group.clear_last();
    }

    /// Exports a prefix whose best path has changed.
    pub(crate) fn update(&mut self, slot: Slot, entry: &mut Entry, exporter: &mut Exporter<'_>) {
        match &mut self.several {
            None => self.group.update(slot, entry, exporter),
            Some(several) => {
                several.update(&mut self.group, entry, exporter);
            }
        }
    }

    /// Exports a prefix whose paths have changed, except the best one; returns whether an advertisement changed.
    pub(crate) fn update_others(&mut self, entry: &Entry, exporter: &mut Exporter<'_>) -> bool {
        match &mut self.several {
            None => false,
            Some(several) => several.update(&mut self.group, entry, exporter),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.group.is_empty() && self.filling.as_ref().is_none_or(|filling| filling.waiting.is_empty())
    }

    /// See [`Group::has_pending`]. Something is pending for a peer that waits, but it cannot be packed yet.
    pub(crate) fn has_pending(&self, id: PeerId) -> bool {
        self.waiting(id).is_some() || self.group.has_pending(id)
    }

    /// See [`Group::advertised`].
    pub(crate) fn advertised(&self, id: PeerId) -> usize {
        match self.waiting(id) {
            Some(moving) => moving.state.advertised().count(),
            None => self.group.advertised(id),
        }
    }

    /// See [`Group::request_end_of_rib`].
    pub(crate) fn request_end_of_rib(&mut self, id: PeerId) {
        match self.waiting_mut(id) {
            Some(moving) => moving.state.request_end_of_rib(),
            None => self.group.request_end_of_rib(id),
        }
    }

    /// Adds a member with the state that it had in another group.
    pub(crate) fn join(&mut self, id: PeerId, mut moving: MovingMember, table: &mut Table) {
        if let Some(filling) = &mut self.filling {
            if self.several.is_none() {
                moving.state.hold(table);
            }
            filling.waiting.insert(id, moving);
            return;
        }
        let MovingMember { mut state, keys } = moving;
        match &mut self.several {
            None => {
                self.group.join(id, &state, table);
                state.release(table);
            }
            Some(several) => {
                let slots = keys.into_iter().map(|(slot, key)| (slot, several.slots.claim(key)));
                let slots: BTreeMap<Slot, Slot> = slots.collect();
                state.translate(&slots);
                self.group.join(id, &state, &mut several.slots);
            }
        }
    }

    /// Removes a member that moves to another group; returns its state.
    pub(crate) fn move_out(&mut self, id: PeerId, table: &mut Table) -> MovingMember {
        if let Some(moving) = self.filling.as_mut().and_then(|filling| filling.waiting.remove(&id)) {
            return moving;
        }
        let Some(several) = &mut self.several else {
            return MovingMember { state: self.group.move_out(id, table), keys: BTreeMap::new() };
        };
        let mut state = self.group.move_out(id, &mut several.slots);
        let keys = state.advertised().map(|slot| (slot, several.slots.entries[slot as usize].key)).collect();
        state.release(&mut several.slots);
        MovingMember { state, keys }
    }

    /// Removes a member.
    pub(crate) fn remove(&mut self, id: PeerId, table: &mut Table) {
        if let Some(mut moving) = self.filling.as_mut().and_then(|filling| filling.waiting.remove(&id)) {
            moving.state.release(table);
        }
        match &mut self.several {
            None => self.group.remove(id, table),
            Some(several) => self.group.remove(id, &mut several.slots),
        }
    }

    /// Makes everything that a member was advertised pending again.
    pub(crate) fn refresh(&mut self, id: PeerId, table: &mut Table) {
        if let Some(moving) = self.waiting_mut(id) {
            return moving.state.resend();
        }
        match &mut self.several {
            None => self.group.refresh(id, table),
            Some(several) => self.group.refresh(id, &mut several.slots),
        }
    }

    /// Appends messages for a member to the output while there is room.
    pub(crate) fn pack(&mut self, id: PeerId, family: Family, table: &mut Table, output: &mut Output<'_>) {
        match &mut self.several {
            None => self.group.pack(id, family, table, output),
            Some(several) => self.group.pack(id, family, &mut several.slots, output),
        }
    }

    /// Returns the paths that are withheld from a member.
    pub(crate) fn withheld_from(&self, id: PeerId, table: &Table) -> Vec<Withheld> {
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
