//! The messages of an update group that not all followers have read, each encoded once.
//!
//! A follower is a position in the log and nothing else. Each message has its receivers and the changes that it makes, so
//! that for a follower that falls behind it can be determined what it was sent so far.

use std::collections::{BTreeMap, VecDeque};

use bytes::{Buf, BytesMut};

use super::PeerId;
use super::adj_rib_out::{Advertisement, sent_to};
use super::pack::Output;
use super::table::{Slot, Slots, Source};
use crate::hash::Map;

/// Room for messages that an empty log keeps.
const RETAINED: usize = 64 * 1024;

/// The followers that a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Receivers {
    /// All but the one that the routes were learned from (split horizon).
    AllBut(Source),
    /// One alone, which the message before or after the change is not for because of split horizon.
    Only(Source),
}

impl Receivers {
    fn include(self, id: PeerId) -> bool {
        match self {
            Self::AllBut(source) => source != Source::from(id),
            Self::Only(source) => source == Source::from(id),
        }
    }
}

/// A change that a message makes.
#[derive(Debug)]
pub(crate) struct Change {
    pub slot: Slot,
    /// The advertisement before.
    pub before: Option<Advertisement>,
}

#[derive(Debug)]
struct Record {
    receivers: Receivers,
    octets: u32,
    changes: u32,
}

/// The number of a message, counted from the log's beginning.
type Position = u64;

#[derive(Clone, Copy, Debug)]
struct Follower {
    /// The next message to read.
    at: Position,
    /// Its first octet, counted from the log's beginning.
    octet: u64,
    /// An End-of-RIB is due when the follower has read everything.
    end_of_rib: bool,
}

/// The result of reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// The peer is no follower.
    NoFollower,
    /// There was no room for all messages.
    Behind,
    /// The follower has read everything.
    CaughtUp {
        /// An End-of-RIB is due.
        end_of_rib: bool,
    },
}

/// The log.
#[derive(Debug, Default)]
pub(crate) struct Log {
    bytes: BytesMut,
    records: VecDeque<Record>,
    /// The slots that the records change.
    changes: VecDeque<Slot>,
    /// The number of changes that were dropped.
    dropped: u64,
    /// The advertisement before a change, if there was one, by the change's number counted from the log's beginning.
    before: BTreeMap<u64, Advertisement>,
    /// The number and the first octet of the first record.
    first: Position,
    first_octet: u64,
    followers: Map<PeerId, Follower>,
    /// The number of followers at each position.
    positions: BTreeMap<Position, usize>,
}

impl Log {
    fn end(&self) -> Position {
        self.first + self.records.len() as u64
    }

    /// Returns the octets that wait for the slowest follower.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn is_unfollowed(&self) -> bool {
        self.followers.is_empty()
    }

    pub(crate) fn follows(&self, id: PeerId) -> bool {
        self.followers.contains_key(&id)
    }

    /// Returns whether a follower has messages to read, or an End-of-RIB is due; `None` if the peer is no follower.
    pub(crate) fn has_messages_for(&self, id: PeerId) -> Option<bool> {
        let follower = self.followers.get(&id)?;
        let skip = (follower.at - self.first) as usize;
        let mut left = self.records.range(skip..);
        Some(follower.end_of_rib || left.any(|record| record.receivers.include(id)))
    }

    /// Returns whether an End-of-RIB is due for a follower.
    pub(crate) fn end_of_rib(&self, id: PeerId) -> Option<bool> {
        self.followers.get(&id).map(|follower| follower.end_of_rib)
    }

    /// Sets whether an End-of-RIB is due for a follower.
    pub(crate) fn set_end_of_rib(&mut self, id: PeerId, due: bool) {
        if let Some(follower) = self.followers.get_mut(&id) {
            follower.end_of_rib = due;
        }
    }

    /// Adds a follower at the end.
    pub(crate) fn follow(&mut self, id: PeerId) {
        let at = self.end();
        let octet = self.first_octet + self.bytes.len() as u64;
        self.followers.insert(id, Follower { at, octet, end_of_rib: false });
        *self.positions.entry(at).or_default() += 1;
    }

    /// Removes a follower, and the messages that it alone had not read.
    pub(crate) fn unfollow(&mut self, id: PeerId, table: &mut impl Slots) {
        if let Some(follower) = self.followers.remove(&id) {
            self.leave_position(follower.at);
            self.trim(table);
        }
    }

    /// Returns the followers that are furthest behind.
    pub(crate) fn slowest(&self) -> Vec<PeerId> {
        let Some((&at, _)) = self.positions.first_key_value() else { return Vec::new() };
        let slowest = self.followers.iter().filter(|(_, follower)| follower.at == at);
        let mut slowest: Vec<PeerId> = slowest.map(|(id, _)| *id).collect();
        slowest.sort_unstable();
        slowest
    }

    /// Returns what a follower was sent before each change that it has not read, in the order of the changes.
    pub(crate) fn missed(&self, id: PeerId) -> Vec<(Slot, Option<Advertisement>)> {
        let mut missed = Vec::new();
        let Some(follower) = self.followers.get(&id) else { return missed };
        let mut change = 0;
        for (at, record) in (self.first..).zip(&self.records) {
            let next = change + record.changes as usize;
            if at >= follower.at && record.receivers.include(id) {
                for (number, slot) in (self.dropped + change as u64..).zip(self.changes.range(change..next)) {
                    let before =
                        self.before.get(&number).filter(|before| sent_to(Some(before), id).is_some());
                    missed.push((*slot, before.cloned()));
                }
            }
            change = next;
        }
        missed
    }

    /// Appends a message. Its slots are referred to until all followers have read it.
    pub(crate) fn append(
        &mut self,
        receivers: Receivers,
        table: &mut impl Slots,
        changes: &[Change],
        message: &[u8],
    ) {
        self.bytes.extend_from_slice(message);
        for Change { slot, before } in changes {
            *table.references(*slot) += 1;
            if let Some(before) = before {
                self.before.insert(self.dropped + self.changes.len() as u64, before.clone());
            }
            self.changes.push_back(*slot);
        }
        let (octets, changes) = (message.len() as u32, changes.len() as u32);
        self.records.push_back(Record { receivers, octets, changes });
    }

    /// Copies messages for a follower while there is room.
    pub(crate) fn read(&mut self, id: PeerId, output: &mut Output<'_>, table: &mut impl Slots) -> Progress {
        let end = self.end();
        let Some(follower) = self.followers.get_mut(&id) else { return Progress::NoFollower };
        let end_of_rib = follower.end_of_rib;
        let (start, mut at, mut octet) = (follower.at, follower.at, follower.octet);
        // Adjacent messages are copied together, from octet `run` on.
        let mut run = octet;
        for record in self.records.range((at - self.first) as usize..) {
            let uncopied = (octet - run) as usize;
            if output.bytes.len() + uncopied >= output.until {
                break;
            }
            if !record.receivers.include(id) {
                let from = (run - self.first_octet) as usize;
                output.bytes.extend_from_slice(&self.bytes[from..from + uncopied]);
                run = octet + u64::from(record.octets);
            }
            octet += u64::from(record.octets);
            at += 1;
        }
        if octet > run {
            let (from, to) = ((run - self.first_octet) as usize, (octet - self.first_octet) as usize);
            output.bytes.extend_from_slice(&self.bytes[from..to]);
        }
        if at != start {
            (follower.at, follower.octet) = (at, octet);
            *self.positions.entry(at).or_default() += 1;
            self.leave_position(start);
            self.trim(table);
        }
        if at == end { Progress::CaughtUp { end_of_rib } } else { Progress::Behind }
    }

    fn leave_position(&mut self, at: Position) {
        if let Some(count) = self.positions.get_mut(&at) {
            *count -= 1;
            if *count == 0 {
                self.positions.remove(&at);
            }
        }
    }

    /// Drops the messages that all followers have read.
    fn trim(&mut self, table: &mut impl Slots) {
        let until = self.positions.first_key_value().map_or(self.end(), |(at, _)| *at);
        while self.first < until {
            let Some(record) = self.records.pop_front() else { break };
            self.first += 1;
            self.first_octet += u64::from(record.octets);
            self.bytes.advance(record.octets as usize);
            for slot in self.changes.drain(..record.changes as usize) {
                table.release(slot);
            }
            self.dropped += u64::from(record.changes);
            while let Some(first) = self.before.first_entry().filter(|first| *first.key() < self.dropped) {
                first.remove();
            }
        }
        if self.records.is_empty() && self.bytes.capacity() > RETAINED {
            self.bytes = BytesMut::new();
            self.records = VecDeque::new();
            self.changes = VecDeque::new();
        }
    }
}
