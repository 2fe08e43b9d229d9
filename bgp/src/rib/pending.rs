//! Pending changes: the difference between an Adj-RIB-Out and what one receiver was sent of it.
//!
//! A slot is pending if its current advertisement was not sent yet. A slot that is not pending was sent as it stands in the
//! Adj-RIB-Out, so nothing needs to be stored for it but one bit: advertised or not. For a pending slot that is advertised,
//! the advertisement that was sent is stored too. A change that is undone before it was sent then leaves nothing pending.

use std::collections::HashMap;

use super::bits::Bits;
use super::table::{Slot, Slots};

/// Room for sent advertisements that is kept when nothing is pending.
const RETAINED: usize = 64;

/// The advertisements that a receiver was sent, in the order of their slots. `None`: one that is to be sent again in any
/// case.
pub(crate) type Sent<A> = Vec<(Slot, Option<A>)>;

/// The pending changes of one receiver, to which advertisements of type `A` are sent.
#[derive(Debug)]
pub(crate) struct Pending<A> {
    slots: Bits,
    /// The slots that were advertised and not withdrawn since.
    advertised: Bits,
    /// The advertisements that were sent, for slots both pending and advertised. One that is to be sent again in any case is
    /// missing.
    sent: HashMap<Slot, A>,
    /// The slot at which packing goes on, so that slots that change often do not hold up others.
    cursor: Slot,
}

impl<A> Default for Pending<A> {
    fn default() -> Self {
        Self { slots: Bits::default(), advertised: Bits::default(), sent: HashMap::new(), cursor: 0 }
    }
}

impl<A: Clone + PartialEq> Pending<A> {
    /// Returns those of a receiver that was sent these slots as they stand, and no others.
    pub(crate) fn settled(advertised: Bits) -> Self {
        Self { advertised, ..Self::default() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the number of pending slots.
    pub(crate) fn len(&self) -> usize {
        self.slots.count()
    }

    /// Returns the pending slots in ascending order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Slot> + '_ {
        self.slots.iter()
    }

    /// Returns the slots that were advertised and not withdrawn since.
    pub(crate) fn advertised(&self) -> &Bits {
        &self.advertised
    }

    /// Returns what was sent for a pending slot, unless that is nothing or to be sent again in any case.
    pub(crate) fn sent(&self, slot: Slot) -> Option<&A> {
        self.sent.get(&slot)
    }

    /// Adds a slot for which the receiver was sent `sent` before, and should have `now`.
    pub(crate) fn start(
        &mut self,
        slot: Slot,
        sent: Option<Option<&A>>,
        now: Option<&A>,
        references: &mut u32,
    ) {
        if sent.is_some() {
            self.advertised.set(slot);
        }
        if sent == now.map(Some) {
            return;
        }
        self.set(slot, sent.flatten(), references);
    }

    /// Records that an advertisement changed from `was` to `now`, which differ.
    pub(crate) fn change(&mut self, slot: Slot, was: Option<&A>, now: Option<&A>, references: &mut u32) {
        if !self.slots.get(slot) {
            self.set(slot, was, references);
            return;
        }
        let undone = match now {
            None => !self.advertised.get(slot),
            Some(now) => self.sent.get(&slot) == Some(now),
        };
        if undone {
            self.slots.clear(slot);
            self.sent.remove(&slot);
            *references -= 1;
        }
    }

    fn set(&mut self, slot: Slot, sent: Option<&A>, references: &mut u32) {
        self.slots.set(slot);
        *references += 1;
        if let Some(sent) = sent {
            self.sent.insert(slot, sent.clone());
        }
    }

    /// Records that a slot was sent as it stands: advertised, or withdrawn. Returns what was sent before, if the slot was
    /// pending; its reference is then to be released.
    pub(crate) fn settle(&mut self, slot: Slot, advertised: bool) -> Option<A> {
        if advertised {
            self.advertised.set(slot);
        } else {
            self.advertised.clear(slot);
        }
        if !self.slots.clear(slot) {
            return None;
        }
        let before = self.sent.remove(&slot);
        if self.slots.count() == 0 {
            self.sent.shrink_to(RETAINED);
        }
        before
    }

    /// Makes everything that was advertised pending, to be sent again in any case.
    pub(crate) fn resend(&mut self, table: &mut impl Slots) {
        self.sent.clear();
        for slot in self.advertised.iter() {
            if self.slots.set(slot) {
                *table.references(slot) += 1;
            }
        }
    }

    /// Returns the next pending slots in turn, at most `count`, and moves the cursor behind them.
    pub(crate) fn next(&mut self, count: usize) -> Vec<Slot> {
        let start = self.cursor;
        let from_start = self.slots.next_from(start);
        let ahead = std::iter::successors(from_start, |slot| self.slots.next_from(slot.checked_add(1)?));
        let wrapped = self.slots.iter().take_while(|slot| *slot < start);
        let slots: Vec<Slot> = ahead.chain(wrapped).take(count).collect();
        if let Some(last) = slots.last() {
            self.cursor = last.checked_add(1).unwrap_or(0);
        }
        slots
    }

    /// Moves the cursor back to a slot for which there was no room.
    pub(crate) fn go_on_from(&mut self, slot: Slot) {
        self.cursor = slot;
    }

    /// Returns what the receiver was sent, and the pending slots, which are still referred to. `current` returns what a
    /// slot that is not pending was sent.
    pub(crate) fn into_sent(mut self, current: impl Fn(Slot) -> Option<A>) -> (Sent<A>, Bits) {
        let mut all = Vec::with_capacity(self.advertised.count());
        for slot in self.advertised.iter() {
            let sent = if self.slots.get(slot) { self.sent.remove(&slot) } else { current(slot) };
            all.push((slot, sent));
        }
        (all, self.slots)
    }

    /// Releases the references to the pending slots of a receiver that is gone.
    pub(crate) fn release(self, table: &mut impl Slots) {
        release(&self.slots, table);
    }
}

/// Releases a reference to each of the slots.
pub(crate) fn release(slots: &Bits, table: &mut impl Slots) {
    for slot in slots.iter() {
        table.release(slot);
    }
}
