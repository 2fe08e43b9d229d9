//! Update groups: the Adj-RIB-Out of all peers of a family that receive the same UPDATE messages.
//!
//! A group computes and encodes the advertisement of each slot once. Members that keep up are the [`Followers`]: they share
//! one set of pending changes (one bit for each slot), whose messages are encoded once into a log, and each costs no more
//! than its position there.
//!
//! A member that is new, or so slow that the log would grow too long, has [`Pending`] changes of its own. So a slow peer
//! costs bits and not messages. When nothing is pending for it any more, it becomes a follower again.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};

use super::adj_rib_out::{AdjRibOut, Advertisement, Encoded, sent_to};
use super::bits::Bits;
use super::export::{self, GroupKey};
use super::followers::Followers;
use super::intern::{Interned, Interner};
use super::pack::{BATCH, Batch, Encoder, Output};
use super::pending::{self, Pending, Sent};
use super::table::{Entry, Path, PathAttributes, Slot, Slots, Source};
use super::{Identity, Neighbors, PeerId, WithheldReason};
use crate::config::Filter;
use crate::wire::{Family, Prefix, encode_attributes, encode_reach};

/// More octets than header, lengths, next hop and one prefix of any family take in an UPDATE.
const OVERHEAD: usize = 128;

/// The parts of the tables that export needs.
pub(crate) struct Exporter<'a> {
    pub identity: &'a Identity,
    pub neighbors: &'a Neighbors,
    pub encoded: &'a mut Interner<Encoded>,
}

/// A member with pending changes of its own.
#[derive(Debug, Default)]
struct Member {
    pending: Pending<Interned<Encoded>>,
    /// An End-of-RIB is due when nothing is pending.
    end_of_rib: bool,
}

/// An update group.
#[derive(Debug)]
pub(crate) struct Group {
    key: GroupKey,
    adj_rib_out: AdjRibOut,
    followers: Followers,
    /// The members that are not followers.
    members: BTreeMap<PeerId, Member>,
    /// The slots whose path is withheld, with the path's source.
    withheld: BTreeMap<Slot, (Source, WithheldReason)>,
    /// The last path exported. Paths with the same attributes mostly follow one another.
    last: Option<(Interned<PathAttributes>, Advertisement)>,
}

impl Group {
    /// Returns a group without members and advertisements.
    pub(crate) fn new(key: GroupKey) -> Self {
        Self {
            key,
            adj_rib_out: AdjRibOut::default(),
            followers: Followers::default(),
            members: BTreeMap::new(),
            withheld: BTreeMap::new(),
            last: None,
        }
    }

    pub(crate) fn key(&self) -> &GroupKey {
        &self.key
    }

    /// Must be called when the same path may be exported differently from now on.
    pub(crate) fn clear_last(&mut self) {
        self.last = None;
    }

    /// Exports a prefix's best path.
    pub(crate) fn update(&mut self, slot: Slot, entry: &mut Entry, exporter: &mut Exporter<'_>) {
        self.withheld.remove(&slot);
        let now = match entry.best() {
            Some(best) => match self.export(best, &entry.prefix, exporter) {
                Ok(advertisement) => advertisement,
                Err(reason) => {
                    self.withheld.insert(slot, (exporter.neighbors.source_peer(best.source), reason));
                    None
                }
            },
            None => None,
        };
        self.replace(slot, now, &mut entry.references);
    }

    /// Replaces the advertisement of a slot, and makes the change pending for all members that it concerns; returns
    /// whether there is a change. `references` are the slot's.
    pub(crate) fn replace(&mut self, slot: Slot, now: Option<Advertisement>, references: &mut u32) -> bool {
        let was = self.adj_rib_out.take(slot);
        let changed = was != now;
        if changed {
            self.followers.change(slot, was.as_ref(), now.as_ref(), references);
            for (id, member) in &mut self.members {
                let (was, now) = (sent_to(was.as_ref(), *id), sent_to(now.as_ref(), *id));
                if was != now {
                    member.pending.change(slot, was, now, references);
                }
            }
        }
        if let Some(now) = now {
            self.adj_rib_out.put(slot, now);
        }
        changed
    }

    /// Returns the advertisement of a path; `None` if it is not to be advertised to the group.
    pub(crate) fn export(
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
        if let Some((shared, advertisement)) = &self.last
            && advertisement.source == source
            && *shared == path.shared
        {
            return Ok(Some(advertisement.clone()));
        }
        let (attributes, next_hop) =
            export::outbound(exporter.identity, &self.key, from, &path.shared, prefix)
                .ok_or(WithheldReason::NoNextHop { local_address: self.key.local_address })?;
        // RFC 4271 §5.1.3: a route that we originate is not advertised to a peer with its own address as next hop.
        if from.is_none() && self.key.next_hop_of_ours == Some(next_hop.address) {
            return Err(WithheldReason::NextHopTheirs);
        }
        let block = encode_attributes(&attributes, &self.key.codec);
        let fits = block.len() + OVERHEAD <= self.key.codec.max_message;
        // Copied, because the encoder's buffer has spare room and the block is kept for long.
        let block = Bytes::copy_from_slice(&block);
        let encoded = exporter.encoded.intern(Encoded { block, next_hop });
        if !fits {
            self.check_size(&encoded, prefix)?;
        }
        let advertisement = Advertisement { encoded, source };
        // Rules may export each prefix differently.
        if fits && !matches!(self.key.filter, Filter::Rules(_)) {
            self.last = Some((path.shared.clone(), advertisement.clone()));
        }
        Ok(Some(advertisement))
    }

    /// Checks that an advertisement fits into one message; it must not be sent otherwise (RFC 4271 §9.2).
    fn check_size(&self, encoded: &Encoded, prefix: &Prefix) -> Result<(), WithheldReason> {
        let mut prefixes = std::iter::once(*prefix).peekable();
        let (family, codec) = (prefix.family(), &self.key.codec);
        encode_reach(&encoded.block, encoded.next_hop, family, &mut prefixes, codec, &mut BytesMut::new())
            .map_err(|error| WithheldReason::TooLarge { needed: error.needed, max: error.max })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.members.is_empty() && self.followers.is_empty()
    }

    /// Returns whether something is pending for a member.
    pub(crate) fn has_pending(&self, id: PeerId) -> bool {
        match self.members.get(&id) {
            Some(member) => member.end_of_rib || !member.pending.is_empty(),
            None => self.followers.has_pending(id, &self.adj_rib_out).unwrap_or(false),
        }
    }

    /// Returns how many slots a member was advertised; see [`Followers::advertised`].
    pub(crate) fn advertised(&self, id: PeerId) -> usize {
        match self.members.get(&id) {
            Some(member) => member.pending.advertised().count(),
            None => self.followers.advertised(id),
        }
    }

    /// Requests an End-of-RIB for a member.
    pub(crate) fn request_end_of_rib(&mut self, id: PeerId) {
        match self.members.get_mut(&id) {
            Some(member) => member.end_of_rib = true,
            None => self.followers.request_end_of_rib(id),
        }
    }

    /// Appends messages for a member to the output while there is room.
    pub(crate) fn pack(
        &mut self,
        id: PeerId,
        family: Family,
        table: &mut impl Slots,
        output: &mut Output<'_>,
    ) {
        let encoder = Encoder { family, codec: self.key.codec };
        while output.has_room() && self.pack_pending(id, encoder, table, output) {}
        while output.has_room() && self.followers.read(id, encoder, table, output) {
            self.write_log(encoder, table);
        }
    }

    /// Packs a batch of a member's own pending changes. Without any, it becomes a follower. Returns whether to go on.
    fn pack_pending(
        &mut self,
        id: PeerId,
        encoder: Encoder,
        table: &mut impl Slots,
        output: &mut Output<'_>,
    ) -> bool {
        let Some(member) = self.members.get_mut(&id) else { return false };
        if member.pending.is_empty() {
            if std::mem::take(&mut member.end_of_rib) {
                encoder.end_of_rib(output.bytes);
            }
            self.become_follower(id, encoder, table);
            return false;
        }
        let mut batch = Batch::new();
        for slot in member.pending.next(output.batch()) {
            batch.add(self.adj_rib_out.sent_to(id, slot).cloned(), slot);
        }
        for (encoded, slots) in batch.into_groups(Option::is_none) {
            let mut left = slots.as_slice();
            while let Some(first) = left.first() {
                if !output.has_room() {
                    member.pending.go_on_from(*first);
                    return false;
                }
                let slots = left.iter().copied();
                let (count, fits) = encoder.update(encoded.as_deref(), slots, table, output.bytes);
                let (sent, rest) = left.split_at(count);
                for slot in sent {
                    member.pending.settle(*slot, fits && encoded.is_some());
                    table.release(*slot);
                }
                left = rest;
            }
        }
        true
    }

    /// Makes a member without pending changes a follower. It was sent what the followers have pending already, so that is
    /// encoded first; if it is much, the member stays as it is for now.
    fn become_follower(&mut self, id: PeerId, encoder: Encoder, table: &mut impl Slots) {
        if self.followers.pending_count() > BATCH {
            return;
        }
        if self.followers.pending_count() > 0 {
            self.write_log(encoder, table);
        }
        self.members.remove(&id);
        self.followers.add(id);
    }

    /// Encodes a batch of the followers' pending changes. Followers for which the log would grow too long get pending
    /// changes of their own first.
    fn write_log(&mut self, encoder: Encoder, table: &mut impl Slots) {
        loop {
            for id in self.followers.too_slow() {
                self.separate(id, table);
            }
            if !self.followers.is_full() {
                break;
            }
        }
        self.followers.write(&self.adj_rib_out, encoder, table);
    }

    /// Gives a follower pending changes of its own.
    fn separate(&mut self, id: PeerId, table: &mut impl Slots) {
        if let Some((pending, end_of_rib)) = self.followers.pending_of(id, &self.adj_rib_out, table) {
            self.followers.remove(id, &self.adj_rib_out, table);
            self.members.insert(id, Member { pending, end_of_rib });
        }
    }

    /// Adds a member with the state that it had in another group.
    pub(crate) fn join(&mut self, id: PeerId, state: &MemberState, table: &mut impl Slots) {
        let mut member = Member { end_of_rib: state.end_of_rib, ..Member::default() };
        let mut sent = state.sent.iter().peekable();
        for slot in 0..table.size() as Slot {
            let sent = sent.next_if(|(sent, _)| *sent == slot).map(|(_, sent)| sent.as_ref());
            let now = self.adj_rib_out.sent_to(id, slot);
            member.pending.start(slot, sent, now, table.references(slot));
        }
        self.members.insert(id, member);
    }

    /// Removes a member.
    pub(crate) fn remove(&mut self, id: PeerId, table: &mut impl Slots) {
        if let Some(member) = self.members.remove(&id) {
            member.pending.release(table);
        }
        self.followers.remove(id, &self.adj_rib_out, table);
    }

    /// Removes a member that moves to another group; returns its state. A call of [`MemberState::release`] must follow.
    pub(crate) fn move_out(&mut self, id: PeerId, table: &mut impl Slots) -> MemberState {
        self.separate(id, table);
        let Some(member) = self.members.remove(&id) else { return MemberState::default() };
        let (sent, pending) = member.pending.into_sent(|slot| self.adj_rib_out.sent_to(id, slot).cloned());
        MemberState { sent, pending, end_of_rib: member.end_of_rib }
    }

    /// Makes everything that a member was advertised pending again.
    pub(crate) fn refresh(&mut self, id: PeerId, table: &mut impl Slots) {
        self.separate(id, table);
        if let Some(member) = self.members.get_mut(&id) {
            member.pending.resend(table);
        }
    }

    /// Returns the slots whose path is withheld from a member.
    pub(crate) fn withheld_from(&self, id: PeerId) -> impl Iterator<Item = (Slot, WithheldReason)> + '_ {
        let others = self.withheld.iter().filter(move |(_, (source, _))| *source != Source::from(id));
        others.map(|(slot, (_, reason))| (*slot, *reason))
    }
}

/// The state of a member that moves to another group.
#[derive(Debug, Default)]
pub(crate) struct MemberState {
    sent: Sent<Interned<Encoded>>,
    /// The pending slots in the old group, which are still referred to.
    pending: Bits,
    end_of_rib: bool,
}

impl MemberState {
    /// Refers to all slots of the old group that the member was advertised, so that none of them is used for another
    /// prefix. [`MemberState::release`] releases these references too.
    pub(crate) fn hold(&mut self, table: &mut impl Slots) {
        for (slot, _) in &self.sent {
            if self.pending.set(*slot) {
                *table.references(*slot) += 1;
            }
        }
    }

    /// Releases the references to slots of the old group, when the new group has its own, or has other slots.
    pub(crate) fn release(&mut self, table: &mut impl Slots) {
        pending::release(&std::mem::take(&mut self.pending), table);
    }

    /// Returns the slots that the member was advertised.
    pub(crate) fn advertised(&self) -> impl Iterator<Item = Slot> + '_ {
        self.sent.iter().map(|(slot, _)| *slot)
    }

    /// Requests an End-of-RIB.
    pub(crate) fn request_end_of_rib(&mut self) {
        self.end_of_rib = true;
    }

    /// Makes everything that was advertised to be sent again.
    pub(crate) fn resend(&mut self) {
        self.sent.iter_mut().for_each(|(_, sent)| *sent = None);
    }

    /// Replaces the slots by those of another group; slots without one are dropped.
    pub(crate) fn translate(&mut self, slots: &BTreeMap<Slot, Slot>) {
        let sent = std::mem::take(&mut self.sent).into_iter();
        self.sent = sent.filter_map(|(slot, sent)| Some((*slots.get(&slot)?, sent))).collect();
        self.sent.sort_unstable_by_key(|(slot, _)| *slot);
    }
}
