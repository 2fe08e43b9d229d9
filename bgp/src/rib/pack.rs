//! From marks to messages: as few and as full as they can be.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::BytesMut;

use super::PeerId;
use super::bits::Bits;
use super::group::{Advertisement, Encoded, Group, Member};
use super::log::{Progress, To};
use super::table::{Slot, Slots, Source};
use crate::wire::{Codec, Family, encode_end_of_rib, encode_reach, encode_unreach};

/// How many marks are looked at in one go. Those with the same attributes share messages.
const BATCH: usize = 2048;

/// Octets that a prefix takes on average where many share their attributes.
const LEAST: usize = 8;

/// How many octets may wait for the slowest follower before it gets marks of its own.
const LOG_LIMIT: usize = if cfg!(test) { 256 } else { 4 << 20 };

/// How much room a member without marks keeps for what it was told before the next ones.
const RETAINED: usize = 64;

/// The last word on some marked prefixes, ordered for packing.
#[derive(Default)]
struct Batch {
    withdrawn: Vec<Slot>,
    announced: Vec<(Arc<Encoded>, Vec<Slot>)>,
    /// Where each `Encoded` is in `announced`, by its address.
    index: HashMap<*const Encoded, usize>,
}

impl Batch {
    fn announce(&mut self, encoded: &Arc<Encoded>, slot: Slot) {
        let at = *self.index.entry(Arc::as_ptr(encoded)).or_insert(self.announced.len());
        match self.announced.get_mut(at) {
            Some((_, slots)) => slots.push(slot),
            None => self.announced.push((encoded.clone(), vec![slot])),
        }
    }
}

/// Where messages go, and how far.
pub struct Packer<'a, S> {
    pub family: Family,
    pub table: &'a mut S,
    pub out: &'a mut BytesMut,
    /// No message is begun once `out` has this many octets.
    pub until: usize,
}

impl<S: Slots> Packer<'_, S> {
    /// Tells a member of `group` what is pending, as far as there is room.
    pub fn pack(&mut self, group: &mut Group, id: PeerId) {
        self.pack_marks(group, id);
        self.keep_up(group, id);
    }

    /// Tells a follower what is in the log, and puts there what is not yet.
    fn keep_up(&mut self, group: &mut Group, id: PeerId) {
        while self.room() {
            match group.log.read(id, self.out, self.until, self.table) {
                Progress::NoFollower => return,
                Progress::Behind => {}
                Progress::CaughtUp { .. } if group.common.marks.count() > 0 => self.say(group),
                Progress::CaughtUp { end_of_rib: false } => return,
                Progress::CaughtUp { end_of_rib: true } => {
                    if let Some(follower) = group.log.follower_mut(id) {
                        follower.end_of_rib = false;
                    }
                    return encode_end_of_rib(self.family, self.out);
                }
            }
        }
    }

    /// Puts the last word on some of the group's marks into the log. Those for whom it would grow too long go on alone.
    fn say(&mut self, group: &mut Group) {
        while group.log.len() > LOG_LIMIT {
            for slow in group.log.slowest() {
                group.step_out(slow, self.table);
            }
        }
        let slots = next_marks(&group.common.marks, group.common.cursor, BATCH);
        let mut messages = Common::default();
        for &slot in &slots {
            let was = group.common.before.remove(&slot);
            let now = group.word(slot);
            group.common.marks.clear(slot);
            group.common.settle(slot, was.as_ref(), now.as_ref());
            messages.sort_in(group, slot, was, now);
        }
        if let Some(last) = slots.last() {
            group.common.cursor = last.checked_add(1).unwrap_or(0);
        }
        if group.common.marks.count() == 0 {
            group.common.before.shrink_to(RETAINED);
        }
        messages.write(group, self.family, self.table);
        // The log holds on to the prefixes now, where it has messages about them.
        for slot in slots {
            self.table.release(slot);
        }
    }

    fn pack_marks(&mut self, group: &mut Group, id: PeerId) {
        while self.room() && group.members.contains_key(&id) {
            let batch = self.gather(group, id);
            let codec = group.key.codec;
            let Some(member) = group.members.get_mut(&id) else { return };
            if member.marks.count() == 0 {
                member.before.shrink_to(RETAINED);
                if std::mem::take(&mut member.end_of_rib) {
                    encode_end_of_rib(self.family, self.out);
                }
                return self.follow(group, id);
            }
            let pending = self
                .withdraw(&batch.withdrawn, &codec, member)
                .or_else(|| self.announce(&batch.announced, &codec, member));
            if let Some(first) = pending {
                member.cursor = first;
            }
        }
    }

    /// Lets a member that has no marks left be told in common with the others. What the group has yet to say it knows
    /// already, so that is said first; if it is much, the member goes on alone for a while.
    fn follow(&mut self, group: &mut Group, id: PeerId) {
        if group.common.marks.count() > BATCH {
            return;
        }
        if group.common.marks.count() > 0 {
            self.say(group);
        }
        group.members.remove(&id);
        group.log.follow(id, false);
    }

    fn room(&self) -> bool {
        self.out.len() < self.until
    }

    /// Takes the next marks in turn, and moves the cursor behind them.
    fn gather(&mut self, group: &mut Group, id: PeerId) -> Batch {
        let mut batch = Batch::default();
        let Some(member) = group.members.get(&id) else { return batch };
        // What there is no room for is gathered again next time: for little room, few are looked at.
        let few = (self.until.saturating_sub(self.out.len()) / LEAST).clamp(1, BATCH);
        let slots = next_marks(&member.marks, member.cursor, few);
        for &slot in &slots {
            match group.advertisement_to(id, slot) {
                Some(encoded) => batch.announce(encoded, slot),
                None => batch.withdrawn.push(slot),
            }
        }
        if let (Some(member), Some(last)) = (group.members.get_mut(&id), slots.last()) {
            member.cursor = last.checked_add(1).unwrap_or(0);
        }
        batch
    }

    /// Returns the first prefix there was no room for.
    fn withdraw(&mut self, slots: &[Slot], codec: &Codec, member: &mut Member) -> Option<Slot> {
        let mut left = slots;
        while !left.is_empty() && self.room() {
            let mut prefixes = prefixes(self.table, left).peekable();
            encode_unreach(self.family, &mut prefixes, codec, self.out);
            let sent = left.len() - prefixes.len();
            drop(prefixes);
            left = self.settle(left, sent, false, member);
        }
        left.first().copied()
    }

    /// Returns the first prefix there was no room for.
    fn announce(
        &mut self,
        announced: &[(Arc<Encoded>, Vec<Slot>)],
        codec: &Codec,
        member: &mut Member,
    ) -> Option<Slot> {
        for (encoded, slots) in announced {
            let mut left = slots.as_slice();
            while !left.is_empty() && self.room() {
                let mut prefixes = prefixes(self.table, left).peekable();
                let (block, next_hop) = (&encoded.block, encoded.next_hop);
                let result = encode_reach(block, next_hop, self.family, &mut prefixes, codec, self.out);
                debug_assert!(result.is_ok(), "what is too large never became the group's word: {result:?}");
                // Should it be so after all, the prefix is passed over: better unsaid than said for ever.
                let sent = (left.len() - prefixes.len()).max(1);
                drop(prefixes);
                left = self.settle(left, sent, result.is_ok(), member);
            }
            if let Some(first) = left.first() {
                return Some(*first);
            }
        }
        None
    }

    /// Settles the first `sent` of the slots; returns the others.
    fn settle<'s>(&mut self, slots: &'s [Slot], sent: usize, told: bool, member: &mut Member) -> &'s [Slot] {
        let (sent, left) = slots.split_at(sent);
        for &slot in sent {
            member.settle(slot, told, self.table);
        }
        left
    }
}

fn prefixes<'a, S: Slots>(table: &'a S, slots: &'a [Slot]) -> impl ExactSizeIterator<Item = S::Nlri> + 'a {
    slots.iter().map(|&slot| table.nlri(slot))
}

/// Some marks in turn, from `start` on and round.
fn next_marks(marks: &Bits, start: Slot, count: usize) -> Vec<Slot> {
    let ahead = std::iter::successors(marks.next_from(start), |slot| marks.next_from(slot.checked_add(1)?));
    let wrapped = marks.iter().take_while(|slot| *slot < start);
    ahead.chain(wrapped).take(count).collect()
}

/// A prefix with what was said of it before.
type Change = (Slot, Option<Advertisement>);

/// Some words to be said in common, ordered for packing.
#[derive(Default)]
struct Common {
    withdrawn: BTreeMap<Source, Vec<Change>>,
    announced: Vec<(Advertisement, Vec<Change>)>,
    /// Where each word is in `announced`, by the address of what is encoded, and by its source.
    index: HashMap<(*const Encoded, Source), usize>,
    /// What only one follower is to hear, because of where a route came from.
    apart: Vec<(Source, Option<Arc<Encoded>>, Change)>,
}

impl Common {
    /// The group's word on a prefix goes from `was` to `now`.
    fn sort_in(&mut self, group: &Group, slot: Slot, was: Option<Advertisement>, now: Option<Advertisement>) {
        let (was, now) = match (was, now) {
            (None, None) => return,
            (Some(was), None) => {
                return self.withdrawn.entry(was.source).or_default().push((slot, Some(was)));
            }
            (None, Some(now)) => return self.announce(now, (slot, None)),
            (Some(was), Some(now)) => (was, now),
        };
        let change = (slot, Some(was.clone()));
        if was.source != now.source && group.log.follows(now.source) {
            self.apart.push((now.source, None, change.clone()));
        }
        if !Arc::ptr_eq(&was.encoded, &now.encoded) {
            self.announce(now, change);
        } else if group.log.follows(was.source) {
            self.apart.push((was.source, Some(now.encoded), change));
        }
    }

    fn announce(&mut self, now: Advertisement, change: Change) {
        // Prefixes with the same words mostly follow one another.
        if let Some((last, changes)) = self.announced.last_mut()
            && last.same(&now)
        {
            return changes.push(change);
        }
        let key = (Arc::as_ptr(&now.encoded), now.source);
        let at = *self.index.entry(key).or_insert(self.announced.len());
        match self.announced.get_mut(at) {
            Some((_, changes)) => changes.push(change),
            None => self.announced.push((now, vec![change])),
        }
    }

    /// Writes all of it to the log.
    fn write(self, group: &mut Group, family: Family, table: &mut impl Slots) {
        let mut writer = Writer { codec: group.key.codec, family, table, buffer: BytesMut::new() };
        for (source, changes) in &self.withdrawn {
            writer.withdraw(group, To::AllBut(*source), changes);
        }
        for (told, changes) in &self.announced {
            writer.announce(group, To::AllBut(told.source), &told.encoded, changes);
        }
        for (source, encoded, change) in &self.apart {
            let (to, change) = (To::Only(*source), std::slice::from_ref(change));
            match encoded {
                Some(encoded) => writer.announce(group, to, encoded, change),
                None => writer.withdraw(group, to, change),
            }
        }
    }
}

/// Puts messages into a log.
struct Writer<'a, S> {
    codec: Codec,
    family: Family,
    table: &'a mut S,
    buffer: BytesMut,
}

impl<S: Slots> Writer<'_, S> {
    fn withdraw(&mut self, group: &mut Group, to: To, changes: &[Change]) {
        let mut left = changes;
        while !left.is_empty() {
            let mut prefixes = left.iter().map(|(slot, _)| self.table.nlri(*slot)).peekable();
            encode_unreach(self.family, &mut prefixes, &self.codec, &mut self.buffer);
            let sent = left.len() - prefixes.len();
            left = self.append(group, to, left, sent);
        }
    }

    fn announce(&mut self, group: &mut Group, to: To, encoded: &Encoded, changes: &[Change]) {
        let mut left = changes;
        while !left.is_empty() {
            let mut prefixes = left.iter().map(|(slot, _)| self.table.nlri(*slot)).peekable();
            let (block, next_hop) = (&encoded.block, encoded.next_hop);
            let result =
                encode_reach(block, next_hop, self.family, &mut prefixes, &self.codec, &mut self.buffer);
            debug_assert!(result.is_ok(), "what is too large never became the group's word: {result:?}");
            // Should it be so after all, the prefix is passed over: better unsaid than said for ever.
            let sent = (left.len() - prefixes.len()).max(1);
            left = self.append(group, to, left, sent);
        }
    }

    /// Logs the message about the first `sent` of the changes; returns the others.
    fn append<'c>(&mut self, group: &mut Group, to: To, changes: &'c [Change], sent: usize) -> &'c [Change] {
        let (sent, left) = changes.split_at(sent);
        group.log.append(to, self.table, sent, &self.buffer);
        self.buffer.clear();
        left
    }
}
