//! Packing: pending changes into UPDATE messages, as few and as full as possible.

use std::hash::Hash;

use bytes::BytesMut;

use super::adj_rib_out::Encoded;
use super::table::{Slot, Slots};
use crate::hash::Map;
use crate::wire::{Codec, Family, encode_end_of_rib, encode_reach, encode_unreach};

/// The most pending slots that are packed at once. Those with the same content share messages.
pub(crate) const BATCH: usize = 2048;

/// The average octets of a prefix in messages with many prefixes.
const PREFIX_OCTETS: usize = 8;

/// The buffer that messages for one peer are written to.
pub(crate) struct Output<'a> {
    pub bytes: &'a mut BytesMut,
    /// No message is begun when the buffer has this many octets.
    pub until: usize,
}

impl Output<'_> {
    pub(crate) fn has_room(&self) -> bool {
        self.bytes.len() < self.until
    }

    /// Returns how many pending slots to pack at once. Slots for which there is no room are packed again the next time, so
    /// for little room it is few.
    pub(crate) fn batch(&self) -> usize {
        (self.until.saturating_sub(self.bytes.len()) / PREFIX_OCTETS).clamp(1, BATCH)
    }
}

/// Changes grouped by the content `C` of the messages that carry them.
pub(crate) struct Batch<C, T> {
    groups: Vec<(C, Vec<T>)>,
    /// The place of each content in `groups`.
    index: Map<C, usize>,
}

impl<C: Clone + Eq + Hash, T> Batch<C, T> {
    pub(crate) fn new() -> Self {
        Self { groups: Vec::new(), index: Map::default() }
    }

    pub(crate) fn add(&mut self, content: C, change: T) {
        // Changes with the same content mostly follow one another.
        if let Some((last, changes)) = self.groups.last_mut()
            && *last == content
        {
            return changes.push(change);
        }
        let at = *self.index.entry(content.clone()).or_insert(self.groups.len());
        match self.groups.get_mut(at) {
            Some((_, changes)) => changes.push(change),
            None => self.groups.push((content, vec![change])),
        }
    }

    /// Returns the groups in the order of their first changes, withdrawals before advertisements.
    pub(crate) fn into_groups(mut self, is_withdrawal: impl Fn(&C) -> bool) -> Vec<(C, Vec<T>)> {
        self.groups.sort_by_key(|(content, _)| !is_withdrawal(content));
        self.groups
    }
}

/// The encoder of an update group's messages.
#[derive(Clone, Copy)]
pub(crate) struct Encoder {
    pub family: Family,
    pub codec: Codec,
}

impl Encoder {
    /// Appends one UPDATE for as many of the slots as fit: an advertisement of `encoded`, or a withdrawal without it.
    /// Returns the number of slots, at least 1, and whether they could be encoded.
    pub(crate) fn update<S: Slots>(
        &self,
        encoded: Option<&Encoded>,
        slots: impl ExactSizeIterator<Item = Slot>,
        table: &S,
        out: &mut BytesMut,
    ) -> (usize, bool) {
        let Self { family, codec } = self;
        let count = slots.len();
        let mut prefixes = slots.map(|slot| table.nlri(slot)).peekable();
        let result = match encoded {
            Some(Encoded { block, next_hop }) => {
                encode_reach(block, *next_hop, *family, &mut prefixes, codec, out)
            }
            None => {
                encode_unreach(*family, &mut prefixes, codec, out);
                Ok(())
            }
        };
        debug_assert!(result.is_ok(), "an advertisement in an Adj-RIB-Out fits into a message: {result:?}");
        // Should it not fit after all, the slot is skipped, as it would be tried again forever.
        ((count - prefixes.len()).max(1), result.is_ok())
    }

    pub(crate) fn end_of_rib(&self, out: &mut BytesMut) {
        encode_end_of_rib(self.family, out);
    }
}
