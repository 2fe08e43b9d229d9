//! From marks to messages: as few and as full as they can be.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::BytesMut;

use super::PeerId;
use super::group::{Encoded, Group, Member};
use super::table::{Slot, Table};
use crate::wire::{Codec, Family, Prefix, encode_end_of_rib, encode_reach, encode_unreach};

/// How many marks are looked at in one go. Those with the same attributes share messages.
const BATCH: usize = 2048;

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
pub struct Packer<'a> {
    pub family: Family,
    pub table: &'a mut Table,
    pub out: &'a mut BytesMut,
    /// No message is begun once `out` has this many octets.
    pub until: usize,
}

impl Packer<'_> {
    /// Tells a member of `group` what is pending, as far as there is room.
    pub fn pack(&mut self, group: &mut Group, id: PeerId) {
        while self.room() {
            let batch = self.gather(group, id);
            let codec = group.audience.codec;
            let Some(member) = group.members.get_mut(&id) else { return };
            if member.marks.count() == 0 {
                member.before.shrink_to(RETAINED);
                if std::mem::take(&mut member.end_of_rib) {
                    encode_end_of_rib(self.family, self.out);
                }
                return;
            }
            let unsent = self
                .withdraw(&batch.withdrawn, &codec, member)
                .or_else(|| self.announce(&batch.announced, &codec, member));
            if let Some(first) = unsent {
                member.cursor = first;
            }
        }
    }

    fn room(&self) -> bool {
        self.out.len() < self.until
    }

    /// Takes the next marks in turn, and moves the cursor behind them.
    fn gather(&mut self, group: &mut Group, id: PeerId) -> Batch {
        let mut batch = Batch::default();
        let Some(member) = group.members.get(&id) else { return batch };
        let start = member.cursor;
        let ahead = std::iter::successors(member.marks.next_from(start), |slot| {
            member.marks.next_from(slot.checked_add(1)?)
        });
        let wrapped = member.marks.iter().take_while(|slot| *slot < start);
        let slots: Vec<Slot> = ahead.chain(wrapped).take(BATCH).collect();
        for &slot in &slots {
            match group.hears(id, slot) {
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

fn prefixes<'a>(table: &'a Table, slots: &'a [Slot]) -> impl ExactSizeIterator<Item = Prefix> + 'a {
    slots.iter().map(|&slot| table.entry(slot).prefix)
}
