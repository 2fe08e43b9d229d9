//! The members of an update group that keep up. They are sent the same messages, from one [`Log`].

use std::collections::BTreeMap;

use bytes::BytesMut;

use super::PeerId;
use super::adj_rib_out::{AdjRibOut, Advertisement, Encoded, sent_to};
use super::intern::Interned;
use super::log::{Change, Log, Progress, Receivers};
use super::pack::{BATCH, Batch, Encoder, Output};
use super::pending::Pending;
use super::table::{Slot, Slots, Source};

/// The most octets that wait for the slowest follower, or a little more: see [`Followers::too_slow`].
const LOG_LIMIT: usize = if cfg!(test) { 256 } else { 4 << 20 };

/// The most pending slots that are examined for one that concerns a follower.
const EXAMINED: usize = 64;

/// The receivers of messages with their content; withdrawals have none.
type Content = (Receivers, Option<Interned<Encoded>>);

/// The followers, which are one receiver as far as pending changes go: the end of the log.
#[derive(Debug, Default)]
pub(crate) struct Followers {
    pending: Pending<Advertisement>,
    /// The number of advertised slots by source.
    advertised_from: BTreeMap<Source, usize>,
    log: Log,
}

impl Followers {
    pub(crate) fn is_empty(&self) -> bool {
        self.log.is_unfollowed()
    }

    pub(crate) fn contains(&self, id: PeerId) -> bool {
        self.log.follows(id)
    }

    /// Returns the number of pending slots.
    pub(crate) fn pending_count(&self) -> usize {
        self.pending.len()
    }

    /// Records that an advertisement changed from `was` to `now`, which differ.
    pub(crate) fn change(
        &mut self,
        slot: Slot,
        was: Option<&Advertisement>,
        now: Option<&Advertisement>,
        references: &mut u32,
    ) {
        if self.is_empty() {
            self.settle(slot, was, now);
        } else {
            self.pending.change(slot, was, now, references);
        }
    }

    /// Records that the change of a slot from `was` to `now` is in the log.
    fn settle(&mut self, slot: Slot, was: Option<&Advertisement>, now: Option<&Advertisement>) {
        self.pending.settle(slot, now.is_some());
        self.count(was, now);
    }

    fn count(&mut self, was: Option<&Advertisement>, now: Option<&Advertisement>) {
        if let Some(count) = was.and_then(|was| self.advertised_from.get_mut(&was.source)) {
            *count -= 1;
        }
        if let Some(now) = now {
            *self.advertised_from.entry(now.source).or_default() += 1;
        }
    }

    /// Returns whether a follower has messages to be sent; `None` if the peer is no follower. If many slots are pending,
    /// only some are examined, and there may turn out to be no message.
    pub(crate) fn has_pending(&self, id: PeerId, adj_rib_out: &AdjRibOut) -> Option<bool> {
        let concerns = |slot: Slot| sent_to(self.pending.sent(slot), id) != adj_rib_out.sent_to(id, slot);
        let in_log = self.log.has_messages_for(id)?;
        Some(in_log || self.pending.iter().take(EXAMINED).any(concerns) || self.pending.len() > EXAMINED)
    }

    /// Returns how many slots a follower was advertised, counting those that it will be when it has read the log.
    pub(crate) fn advertised(&self, id: PeerId) -> usize {
        let own = self.advertised_from.get(&id.into()).copied().unwrap_or(0);
        if self.contains(id) { self.pending.advertised().count() - own } else { 0 }
    }

    /// Requests an End-of-RIB for a follower.
    pub(crate) fn request_end_of_rib(&mut self, id: PeerId) {
        self.log.set_end_of_rib(id, true);
    }

    /// Adds a peer that was sent the Adj-RIB-Out as it stands at the end of the log.
    pub(crate) fn add(&mut self, id: PeerId) {
        self.log.follow(id);
    }

    /// Removes a peer, if it is a follower.
    pub(crate) fn remove(&mut self, id: PeerId, adj_rib_out: &AdjRibOut, table: &mut impl Slots) {
        if !self.contains(id) {
            return;
        }
        self.log.unfollow(id, table);
        if !self.is_empty() {
            return;
        }
        // Without followers nothing is pending.
        std::mem::take(&mut self.pending).release(table);
        self.advertised_from.clear();
        for slot in adj_rib_out.slots() {
            if let Some(advertisement) = adj_rib_out.get(slot) {
                self.settle(slot, None, Some(&advertisement));
            }
        }
    }

    /// Returns a follower's own pending changes, and whether an End-of-RIB is due.
    pub(crate) fn pending_of(
        &self,
        id: PeerId,
        adj_rib_out: &AdjRibOut,
        table: &mut impl Slots,
    ) -> Option<(Pending<Interned<Encoded>>, bool)> {
        let end_of_rib = self.log.end_of_rib(id)?;
        // What was sent before, for slots whose current advertisement may not have been sent yet.
        let mut sent = self.log.missed(id);
        sent.extend(self.pending.iter().map(|slot| (slot, self.pending.sent(slot).cloned())));
        // The log is before what is pending: the first of a slot counts.
        sent.sort_by_key(|(slot, _)| *slot);
        sent.dedup_by_key(|(slot, _)| *slot);
        // All others were sent as they stand, except those that were learned from the follower.
        let mut advertised = self.pending.advertised().clone();
        for (slot, _) in &sent {
            advertised.clear(*slot);
        }
        if self.advertised_from.get(&id.into()).is_some_and(|own| *own > 0) {
            for slot in self.pending.advertised().iter() {
                if adj_rib_out.sent_to(id, slot).is_none() {
                    advertised.clear(slot);
                }
            }
        }
        let mut pending = Pending::settled(advertised);
        for (slot, sent) in sent {
            let sent = sent_to(sent.as_ref(), id);
            pending.start(slot, sent.map(Some), adj_rib_out.sent_to(id, slot), table.references(slot));
        }
        Some((pending, end_of_rib))
    }

    /// Returns slowest followers while the log is too long: one, as each takes its time, until it is twice as long.
    pub(crate) fn too_slow(&self) -> Vec<PeerId> {
        match self.log.len() {
            len if len > 2 * LOG_LIMIT => self.log.slowest(),
            len if len > LOG_LIMIT => self.log.slowest().into_iter().take(1).collect(),
            _ => Vec::new(),
        }
    }

    /// Returns whether there is no more room in the log.
    pub(crate) fn is_full(&self) -> bool {
        self.log.len() > 2 * LOG_LIMIT
    }

    /// Copies messages from the log for a follower; returns whether it has read all of the log and there is room for
    /// more.
    pub(crate) fn read(
        &mut self,
        id: PeerId,
        encoder: Encoder,
        table: &mut impl Slots,
        output: &mut Output<'_>,
    ) -> bool {
        match self.log.read(id, output, table) {
            Progress::NoFollower | Progress::Behind => false,
            Progress::CaughtUp { .. } if !self.pending.is_empty() => output.has_room(),
            Progress::CaughtUp { end_of_rib } => {
                if end_of_rib && output.has_room() {
                    self.log.set_end_of_rib(id, false);
                    encoder.end_of_rib(output.bytes);
                }
                false
            }
        }
    }

    /// Encodes a batch of pending changes into the log.
    pub(crate) fn write(&mut self, adj_rib_out: &AdjRibOut, encoder: Encoder, table: &mut impl Slots) {
        let slots = self.pending.next(BATCH);
        let mut batch = Batch::new();
        for &slot in &slots {
            let now = adj_rib_out.get(slot);
            let was = self.pending.settle(slot, now.is_some());
            self.count(was.as_ref(), now.as_ref());
            self.add_change(&mut batch, slot, was, now);
        }
        let mut buffer = BytesMut::new();
        for ((receivers, encoded), changes) in batch.into_groups(|(_, encoded)| encoded.is_none()) {
            let mut left = changes.as_slice();
            while !left.is_empty() {
                let slots = left.iter().map(|change| change.slot);
                let (count, _) = encoder.update(encoded.as_deref(), slots, table, &mut buffer);
                let (written, rest) = left.split_at(count);
                self.log.append(receivers, table, written, &buffer);
                buffer.clear();
                left = rest;
            }
        }
        // The messages in the log have references of their own.
        for slot in slots {
            table.release(slot);
        }
    }

    /// Adds the messages that a change from `was` to `now` requires. By split horizon the source of either has something
    /// else to be sent than the other followers.
    fn add_change(
        &self,
        batch: &mut Batch<Content, Change>,
        slot: Slot,
        was: Option<Advertisement>,
        now: Option<Advertisement>,
    ) {
        let (was, now) = match (was, now) {
            (None, None) => return,
            (Some(was), None) => {
                let receivers = Receivers::AllBut(was.source);
                return batch.add((receivers, None), Change { slot, before: Some(was) });
            }
            (None, Some(now)) => {
                let receivers = Receivers::AllBut(now.source);
                return batch.add((receivers, Some(now.encoded)), Change { slot, before: None });
            }
            (Some(was), Some(now)) => (was, now),
        };
        let follows = |source: Source| source.peer().is_some_and(|id| self.log.follows(id));
        if was.source != now.source && follows(now.source) {
            let change = Change { slot, before: Some(was.clone()) };
            batch.add((Receivers::Only(now.source), None), change);
        }
        let receivers = if was.encoded != now.encoded {
            Receivers::AllBut(now.source)
        } else if follows(was.source) {
            Receivers::Only(was.source)
        } else {
            return;
        };
        batch.add((receivers, Some(now.encoded)), Change { slot, before: Some(was) });
    }
}
