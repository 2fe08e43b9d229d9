//! Update groups: adj-RIB-out of all peers that are told the same.
//!
//! A group holds, for each prefix, what its members are to be told, worked out and encoded once. Members that keep up
//! are told it in common: the group as a whole has a mark (one bit) for each prefix whose last word was not said yet,
//! marks become messages in a [`Log`], once for all, and a follower costs no more than its position there.
//!
//! A member that is new, or so slow that the log would grow for it, gets marks of its own instead: a bit for each
//! prefix whose last word it has not got, and for marked ones what it was told last. A prefix without a mark is one
//! where the member was told just what the group says. So what a slow peer costs is bits, not messages, and a change
//! that is taken back before it was sent leaves nothing to send. Once it has no marks left it follows again.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::bits::Bits;
use super::export::{self, GroupKey};
use super::intern::Interner;
use super::log::Log;
use super::table::{Entry, Path, PathAttributes, Slot, Slots, Source};
use super::{Identity, Neighbors, PeerId, WithheldReason};
use crate::config::Filter;
use crate::wire::{NextHop, Prefix, encode_attributes, encode_reach};

/// More than the header, the lengths, the next hop and one prefix of any family take in an UPDATE.
const OVERHEAD: usize = 128;
/// How many of the group's marks are looked at for one that concerns a member.
const LOOKED_AT: usize = 64;

/// What is told about a prefix but the prefix itself, ready for the wire. Interned: the same pointer is the same
/// UPDATE.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Encoded {
    pub block: Bytes,
    pub next_hop: NextHop,
}

/// What a group is to be told about a prefix. The member that it comes from is told nothing (split horizon).
#[derive(Clone, Debug)]
pub struct Advertisement {
    pub(super) encoded: Arc<Encoded>,
    pub(super) source: Source,
}

impl Advertisement {
    /// Whether all members hear the same of both.
    pub(super) fn same(&self, other: &Self) -> bool {
        self.source == other.source && Arc::ptr_eq(&self.encoded, &other.encoded)
    }
}

/// All that turning a path into an UPDATE needs and a group does not have.
pub struct Exporter<'a> {
    pub identity: &'a Identity,
    pub neighbors: &'a Neighbors,
    pub encoded: &'a mut Interner<Encoded>,
}

/// One member's state.
#[derive(Debug, Default)]
pub struct Member {
    /// Prefixes whose last word it has not got.
    pub(super) marks: Bits,
    /// Prefixes it was told and that were not withdrawn since.
    pub(super) told: Bits,
    /// For prefixes both marked and told: what it was told. Missing where it is to be told again in any case.
    pub(super) before: HashMap<Slot, Arc<Encoded>>,
    /// An End-of-RIB is due once there are no marks.
    pub(super) end_of_rib: bool,
    /// Where packing goes on, so that no prefix has to wait for ever behind restless ones.
    pub(super) cursor: Slot,
}

impl Member {
    pub fn pending(&self) -> bool {
        self.end_of_rib || self.marks.count() > 0
    }

    pub fn advertised(&self) -> usize {
        self.told.count()
    }

    /// The group's word on a prefix, as this member hears it, goes from `was` to `now`, which differ.
    fn change(
        &mut self,
        slot: Slot,
        was: Option<&Arc<Encoded>>,
        now: Option<&Arc<Encoded>>,
        pending: &mut u32,
    ) {
        if self.marks.get(slot) {
            if self.in_step(slot, now) {
                self.marks.clear(slot);
                self.before.remove(&slot);
                *pending -= 1;
            }
            return;
        }
        self.marks.set(slot);
        *pending += 1;
        if let Some(was) = was {
            self.before.insert(slot, was.clone());
        }
    }

    /// Whether what a marked prefix's member was told is what it is to be told `now`.
    pub(super) fn in_step(&self, slot: Slot, now: Option<&Arc<Encoded>>) -> bool {
        match now {
            None => !self.told.get(slot),
            Some(now) => self.before.get(&slot).is_some_and(|before| Arc::ptr_eq(before, now)),
        }
    }

    /// The member has heard the last word: told of the prefix or not.
    pub(super) fn settle(&mut self, slot: Slot, told: bool, table: &mut impl Slots) {
        self.marks.clear(slot);
        self.before.remove(&slot);
        if told {
            self.told.set(slot);
        } else {
            self.told.clear(slot);
        }
        table.release(slot);
    }
}

/// What the followers of a group were told in common, at the end of the log.
#[derive(Debug, Default)]
pub struct Common {
    /// Prefixes whose last word is not in the log yet.
    pub(super) marks: Bits,
    /// Prefixes that were told and not withdrawn since.
    pub(super) told: Bits,
    /// Of those, how many come from whom.
    told_from: BTreeMap<Source, usize>,
    /// For prefixes both marked and told: what was told.
    pub(super) before: HashMap<Slot, Advertisement>,
    /// Where packing goes on.
    pub(super) cursor: Slot,
}

impl Common {
    /// The group's word goes from `was` to `now`, which differ.
    fn change(
        &mut self,
        slot: Slot,
        was: Option<&Advertisement>,
        now: Option<&Advertisement>,
        pending: &mut u32,
    ) {
        if self.marks.get(slot) {
            let in_step = match now {
                None => !self.told.get(slot),
                Some(now) => self.before.get(&slot).is_some_and(|before| before.same(now)),
            };
            if in_step {
                self.marks.clear(slot);
                self.before.remove(&slot);
                *pending -= 1;
            }
            return;
        }
        self.marks.set(slot);
        *pending += 1;
        if let Some(was) = was {
            self.before.insert(slot, was.clone());
        }
    }

    /// The last word was said: `now`, where it was `was`.
    pub(super) fn settle(&mut self, slot: Slot, was: Option<&Advertisement>, now: Option<&Advertisement>) {
        if let Some(count) = was.and_then(|was| self.told_from.get_mut(&was.source)) {
            *count -= 1;
        }
        match now {
            Some(now) => {
                *self.told_from.entry(now.source).or_default() += 1;
                self.told.set(slot);
            }
            None => {
                self.told.clear(slot);
            }
        }
    }

    fn advertised(&self, id: PeerId) -> usize {
        self.told.count() - self.told_from.get(&id.into()).copied().unwrap_or(0)
    }
}

/// The word on each prefix: a [`Advertisement`] in two columns, 12 octets instead of 16.
#[derive(Debug, Default)]
struct AdjRibOut {
    encoded: Vec<Option<Arc<Encoded>>>,
    sources: Vec<Source>,
}

impl AdjRibOut {
    fn size(&self) -> Slot {
        self.encoded.len() as Slot
    }

    fn get(&self, slot: Slot) -> Option<(&Arc<Encoded>, Source)> {
        let at = slot as usize;
        Some((self.encoded.get(at)?.as_ref()?, *self.sources.get(at)?))
    }

    /// Takes a word out, to be followed by [`AdjRibOut::put`].
    fn take(&mut self, slot: Slot) -> Option<Advertisement> {
        let at = slot as usize;
        Some(Advertisement { encoded: self.encoded.get_mut(at)?.take()?, source: *self.sources.get(at)? })
    }

    fn put(&mut self, slot: Slot, word: Option<Advertisement>) {
        let at = slot as usize;
        let Some(Advertisement { encoded, source }) = word else { return };
        if at >= self.encoded.len() {
            self.encoded.resize(at + 1, None);
            self.sources.resize(at + 1, Source::LOCAL);
        }
        self.encoded[at] = Some(encoded);
        self.sources[at] = source;
    }
}

/// The peers that are told the same about one family.
#[derive(Debug)]
pub struct Group {
    pub(super) key: GroupKey,
    words: AdjRibOut,
    pub(super) common: Common,
    pub(super) log: Log,
    /// Those with marks of their own.
    pub(super) members: BTreeMap<PeerId, Member>,
    withheld: BTreeMap<Slot, (Source, WithheldReason)>,
    /// The last path encoded: paths with the same attributes come one after the other.
    last: Option<(Arc<PathAttributes>, Advertisement)>,
}

impl Group {
    /// A group without members and words.
    pub fn new(key: GroupKey) -> Self {
        Self {
            key,
            words: AdjRibOut::default(),
            common: Common::default(),
            log: Log::default(),
            members: BTreeMap::new(),
            withheld: BTreeMap::new(),
            last: None,
        }
    }

    /// To be called when what a path is told as may have changed though the path has not.
    pub fn clear_last(&mut self) {
        self.last = None;
    }

    /// Takes note of a prefix's best path.
    pub fn update(&mut self, slot: Slot, entry: &mut Entry, exporter: &mut Exporter<'_>) {
        self.withheld.remove(&slot);
        let now = match entry.best() {
            Some(best) => match self.export(best, &entry.prefix, exporter) {
                Ok(word) => word,
                Err(reason) => {
                    self.withheld.insert(slot, (exporter.neighbors.source_peer(best.source), reason));
                    None
                }
            },
            None => None,
        };
        self.replace(slot, now, &mut entry.pending);
    }

    /// Puts a word in the place of the one before and marks all for whom that makes a difference; whether it makes any.
    /// `pending` is the slot's.
    pub(super) fn replace(&mut self, slot: Slot, now: Option<Advertisement>, pending: &mut u32) -> bool {
        let was = self.words.take(slot);
        let same = match (&was, &now) {
            (Some(was), Some(now)) => was.same(now),
            (None, None) => true,
            _ => false,
        };
        if !same {
            self.mark(slot, was.as_ref(), now.as_ref(), pending);
        }
        self.words.put(slot, now);
        !same
    }

    /// Marks all for whom it makes a difference that the word goes from `was` to `now`.
    fn mark(
        &mut self,
        slot: Slot,
        was: Option<&Advertisement>,
        now: Option<&Advertisement>,
        pending: &mut u32,
    ) {
        if self.log.followed() {
            self.common.change(slot, was, now, pending);
        } else {
            self.common.settle(slot, was, now);
        }
        for (id, member) in &mut self.members {
            let (was, now) = (advertised_to(was, *id), advertised_to(now, *id));
            if was.map(Arc::as_ptr) != now.map(Arc::as_ptr) {
                member.change(slot, was, now, pending);
            }
        }
    }

    /// What the members are to be told of a path; `None`: nothing.
    pub(super) fn export(
        &mut self,
        path: &Path,
        prefix: &Prefix,
        exporter: &mut Exporter<'_>,
    ) -> Result<Option<Advertisement>, WithheldReason> {
        let from = exporter.neighbors.peer(path.source);
        if !export::is_allowed(&self.key, from, &path.shared, prefix) {
            return Ok(None);
        }
        let source = exporter.neighbors.source_peer(path.source);
        if let Some((shared, told)) = &self.last
            && told.source == source
            && Arc::ptr_eq(shared, &path.shared)
        {
            return Ok(Some(told.clone()));
        }
        let (attributes, next_hop) =
            export::outbound(exporter.identity, &self.key, from, &path.shared, prefix)
                .ok_or(WithheldReason::NoNextHop { local_address: self.key.local_address })?;
        let block = encode_attributes(&attributes, &self.key.codec);
        let roomy = block.len() + OVERHEAD <= self.key.codec.max_message;
        // Kept for long: without the room that encoding left.
        let block = Bytes::copy_from_slice(&block);
        let encoded = exporter.encoded.intern(Encoded { block, next_hop });
        if !roomy {
            self.check_size(&encoded, prefix)?;
        }
        let told = Advertisement { encoded, source };
        // Rules may tell one prefix from another.
        if roomy && !matches!(self.key.filter, Filter::Rules(_)) {
            self.last = Some((path.shared.clone(), told.clone()));
        }
        Ok(Some(told))
    }

    /// RFC 4271 §9.2: what does not fit into one message is not advertised.
    fn check_size(&self, encoded: &Encoded, prefix: &Prefix) -> Result<(), WithheldReason> {
        let mut prefixes = std::iter::once(*prefix).peekable();
        let (family, codec) = (prefix.family(), &self.key.codec);
        encode_reach(&encoded.block, encoded.next_hop, family, &mut prefixes, codec, &mut BytesMut::new())
            .map_err(|error| WithheldReason::TooLarge { needed: error.needed, max: error.max })
    }

    /// What the group is to be told about a prefix.
    pub(super) fn word(&self, slot: Slot) -> Option<Advertisement> {
        let (encoded, source) = self.words.get(slot)?;
        Some(Advertisement { encoded: encoded.clone(), source })
    }

    pub fn is_empty(&self) -> bool {
        self.members.is_empty() && !self.log.followed()
    }

    /// Whether there is something to tell a member.
    pub fn pending(&self, id: PeerId) -> bool {
        if let Some(member) = self.members.get(&id) {
            return member.pending();
        }
        let Some(follower) = self.log.follower(id) else { return false };
        follower.end_of_rib || self.log.waits_for(id, follower) || self.common_concerns(id)
    }

    /// Whether a mark of the group's is for a member. Of many marks only some are looked at: then there may turn out to
    /// be nothing to tell.
    fn common_concerns(&self, id: PeerId) -> bool {
        let marks = &self.common.marks;
        let concerns = |slot: Slot| {
            let was = advertised_to(self.common.before.get(&slot), id);
            was.map(Arc::as_ptr) != self.advertisement_to(id, slot).map(Arc::as_ptr)
        };
        marks.iter().take(LOOKED_AT).any(concerns) || marks.count() > LOOKED_AT
    }

    /// How many prefixes a member was told, or will have been once it has got what is in the log.
    pub fn advertised(&self, id: PeerId) -> usize {
        match self.members.get(&id) {
            Some(member) => member.advertised(),
            None if self.log.follower(id).is_some() => self.common.advertised(id),
            None => 0,
        }
    }

    /// Asks for an End-of-RIB for a member.
    pub fn end_of_rib(&mut self, id: PeerId) {
        if let Some(member) = self.members.get_mut(&id) {
            member.end_of_rib = true;
        } else if let Some(follower) = self.log.follower_mut(id) {
            follower.end_of_rib = true;
        }
    }

    /// Gives a follower marks of its own.
    pub(super) fn step_out(&mut self, id: PeerId, table: &mut impl Slots) {
        let Some(follower) = self.log.follower(id) else { return };
        let mut member = Member { end_of_rib: follower.end_of_rib, ..Member::default() };
        // What it was told where that is not what the group says now.
        let mut differs: BTreeMap<Slot, Option<Advertisement>> =
            self.common.marks.iter().map(|slot| (slot, self.common.before.get(&slot).cloned())).collect();
        differs.extend(self.log.missed(id));
        for slot in self.common.told.iter() {
            if !differs.contains_key(&slot) && self.advertisement_to(id, slot).is_some() {
                member.told.set(slot);
            }
        }
        for (slot, was) in differs {
            let (was, now) = (advertised_to(was.as_ref(), id), self.advertisement_to(id, slot));
            if was.is_some() {
                member.told.set(slot);
            }
            if was.map(Arc::as_ptr) != now.map(Arc::as_ptr) {
                member.change(slot, was, now, table.pending(slot));
            }
        }
        self.unfollow(id, table);
        self.members.insert(id, member);
    }

    fn unfollow(&mut self, id: PeerId, table: &mut impl Slots) {
        self.log.unfollow(id, table);
        if self.log.followed() {
            return;
        }
        // Nobody is left to be told in common: it counts as said.
        let Common { marks, .. } = std::mem::take(&mut self.common);
        for slot in 0..self.words.size() {
            if let Some(word) = self.word(slot) {
                self.common.settle(slot, None, Some(&word));
            }
        }
        release(&marks, table);
    }

    /// What a member is to be told about a prefix.
    pub fn advertisement_to(&self, id: PeerId, slot: Slot) -> Option<&Arc<Encoded>> {
        let (encoded, source) = self.words.get(slot)?;
        (source != Source::from(id)).then_some(encoded)
    }

    /// Takes in a member with what it was told in the group it was in before.
    pub fn join(&mut self, id: PeerId, state: &MemberState, table: &mut impl Slots) {
        let mut member = Member { end_of_rib: state.end_of_rib, ..Member::default() };
        for slot in 0..table.size() as Slot {
            let now = self.advertisement_to(id, slot);
            match state.told.get(&slot) {
                None if now.is_none() => continue,
                Some(Some(before)) if now.is_some_and(|now| Arc::ptr_eq(before, now)) => {
                    member.told.set(slot);
                    continue;
                }
                None => {}
                Some(before) => {
                    member.told.set(slot);
                    if let Some(before) = before {
                        member.before.insert(slot, before.clone());
                    }
                }
            }
            member.marks.set(slot);
            *table.pending(slot) += 1;
        }
        self.members.insert(id, member);
    }

    /// Lets a member go for good.
    pub fn remove(&mut self, id: PeerId, table: &mut impl Slots) {
        if let Some(member) = self.members.remove(&id) {
            release(&member.marks, table);
        }
        self.unfollow(id, table);
    }

    /// Lets a member go to another group; returns what it was told. To be followed by [`MemberState::release`].
    pub fn move_out(&mut self, id: PeerId, table: &mut impl Slots) -> MemberState {
        self.step_out(id, table);
        let Some(mut member) = self.members.remove(&id) else { return MemberState::default() };
        let mut told = HashMap::with_capacity(member.told.count());
        for slot in member.told.iter() {
            let before = match member.marks.get(slot) {
                true => member.before.remove(&slot),
                false => self.advertisement_to(id, slot).cloned(),
            };
            told.insert(slot, before);
        }
        MemberState { told, marks: member.marks, end_of_rib: member.end_of_rib }
    }

    /// Marks everything that a member was told to be told again.
    pub fn refresh(&mut self, id: PeerId, table: &mut impl Slots) {
        self.step_out(id, table);
        let Some(member) = self.members.get_mut(&id) else { return };
        member.before.clear();
        for slot in member.told.iter() {
            if member.marks.set(slot) {
                *table.pending(slot) += 1;
            }
        }
    }

    /// What a member should be told but cannot be.
    pub fn withheld_from(&self, id: PeerId) -> impl Iterator<Item = (Slot, WithheldReason)> + '_ {
        let others = self.withheld.iter().filter(move |(_, (source, _))| *source != Source::from(id));
        others.map(|(slot, (_, reason))| (*slot, *reason))
    }
}

/// What a member that left its group was told, and which prefixes it still holds on to.
#[derive(Debug, Default)]
pub struct MemberState {
    /// `None` where it is to be told again in any case.
    told: HashMap<Slot, Option<Arc<Encoded>>>,
    marks: Bits,
    end_of_rib: bool,
}

impl MemberState {
    /// Gives up the marks, once those that matter have been set anew or the slots do not matter any more.
    pub fn release(&mut self, table: &mut impl Slots) {
        release(&std::mem::take(&mut self.marks), table);
    }

    /// The slots of what it was told.
    pub fn slots(&self) -> impl Iterator<Item = Slot> + '_ {
        self.told.keys().copied()
    }

    /// Has other slots in the place of those it was told of; what has none is forgotten.
    pub fn rename(&mut self, slots: &BTreeMap<Slot, Slot>) {
        let told = std::mem::take(&mut self.told).into_iter();
        self.told = told.filter_map(|(slot, before)| Some((*slots.get(&slot)?, before))).collect();
    }
}

fn release(marks: &Bits, table: &mut impl Slots) {
    for slot in marks.iter() {
        table.release(slot);
    }
}

/// Split horizon: nobody is told what came from it.
pub fn advertised_to(word: Option<&Advertisement>, id: PeerId) -> Option<&Arc<Encoded>> {
    word.filter(|word| word.source != Source::from(id)).map(|word| &word.encoded)
}
