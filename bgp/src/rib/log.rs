//! What a group's members are told in common: messages encoded once, and how far each member has got.
//!
//! A member that keeps up costs a position here and nothing else. Each message knows whom it is for and what it changes,
//! so that for a member that leaves the common stream it can be said what it was told so far.

use std::collections::{BTreeMap, VecDeque};

use bytes::{Buf, BytesMut};

use super::PeerId;
use super::group::{Advertisement, advertised_to};
use super::table::{Slot, Slots, Source};
use crate::hash::Map;

/// Room for messages that an empty log keeps.
const RETAINED: usize = 64 * 1024;

/// Whom a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    /// All but the one that its routes come from (split horizon).
    AllBut(Source),
    /// One alone: it had the route from another, or was where it came from.
    Only(Source),
}

impl To {
    pub fn includes(self, id: PeerId) -> bool {
        match self {
            Self::AllBut(source) => source != Source::from(id),
            Self::Only(source) => source == Source::from(id),
        }
    }
}

#[derive(Debug)]
struct Record {
    to: To,
    octets: u32,
    changes: u32,
}

/// A message's number, counted from the log's beginning.
pub type Position = u64;

/// A member that keeps up.
#[derive(Clone, Copy, Debug)]
pub struct Follower {
    /// The next message that it gets.
    at: Position,
    /// Where that begins, counted in octets from the log's beginning.
    octet: u64,
    /// An End-of-RIB is due once it has got all.
    pub end_of_rib: bool,
}

/// How far a reader of the log has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It does not follow.
    NoFollower,
    /// There was no room for more.
    Behind,
    /// It has got all there is.
    CaughtUp {
        /// An End-of-RIB is due.
        end_of_rib: bool,
    },
}

/// The messages that not all followers have got yet.
#[derive(Debug, Default)]
pub struct Log {
    bytes: BytesMut,
    records: VecDeque<Record>,
    /// The prefixes that the records change.
    changes: VecDeque<Slot>,
    /// How many changes were dropped.
    dropped: u64,
    /// What was said of the prefix before, where anything was, by the change's number counted from the log's beginning.
    before: BTreeMap<u64, Advertisement>,
    /// The number and the beginning of the first record.
    first: Position,
    first_octet: u64,
    followers: Map<PeerId, Follower>,
    /// How many followers stand where.
    crowd: BTreeMap<Position, usize>,
}

impl Log {
    fn end(&self) -> Position {
        self.first + self.records.len() as u64
    }

    /// Octets that wait for the slowest follower.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn followed(&self) -> bool {
        !self.followers.is_empty()
    }

    pub fn follower(&self, id: PeerId) -> Option<&Follower> {
        self.followers.get(&id)
    }

    pub fn follower_mut(&mut self, id: PeerId) -> Option<&mut Follower> {
        self.followers.get_mut(&id)
    }

    pub fn follows(&self, source: Source) -> bool {
        source.peer().is_some_and(|id| self.followers.contains_key(&id))
    }

    /// Whether a message for the follower `id` is waiting.
    pub fn waits_for(&self, id: PeerId, follower: &Follower) -> bool {
        let skip = (follower.at - self.first) as usize;
        self.records.range(skip..).any(|record| record.to.includes(id))
    }

    /// Lets a member follow from the end on.
    pub fn follow(&mut self, id: PeerId, end_of_rib: bool) {
        let at = self.end();
        let octet = self.first_octet + self.bytes.len() as u64;
        self.followers.insert(id, Follower { at, octet, end_of_rib });
        *self.crowd.entry(at).or_default() += 1;
    }

    /// Lets a member go; what it alone had not got yet is dropped.
    pub fn unfollow(&mut self, id: PeerId, table: &mut impl Slots) {
        if let Some(follower) = self.followers.remove(&id) {
            self.depart(follower.at);
            self.trim(table);
        }
    }

    /// The followers that are furthest behind.
    pub fn slowest(&self) -> Vec<PeerId> {
        let Some((&at, _)) = self.crowd.first_key_value() else { return Vec::new() };
        let slowest = self.followers.iter().filter(|(_, follower)| follower.at == at);
        let mut slowest: Vec<PeerId> = slowest.map(|(id, _)| *id).collect();
        slowest.sort_unstable();
        slowest
    }

    /// What a follower was told of prefixes that messages it has not got yet change.
    pub fn missed(&self, id: PeerId) -> BTreeMap<Slot, Option<Advertisement>> {
        let mut missed = BTreeMap::new();
        let Some(follower) = self.followers.get(&id) else { return missed };
        let mut change = 0;
        for (at, record) in (self.first..).zip(&self.records) {
            let next = change + record.changes as usize;
            if at >= follower.at && record.to.includes(id) {
                for (number, slot) in (self.dropped + change as u64..).zip(self.changes.range(change..next)) {
                    let before =
                        self.before.get(&number).filter(|before| advertised_to(Some(before), id).is_some());
                    missed.entry(*slot).or_insert_with(|| before.cloned());
                }
            }
            change = next;
        }
        missed
    }

    /// Appends a message that `write` writes, and what it changes; its prefixes are held on to until all have got it.
    pub fn append(
        &mut self,
        to: To,
        table: &mut impl Slots,
        changes: &[(Slot, Option<Advertisement>)],
        message: &[u8],
    ) {
        self.bytes.extend_from_slice(message);
        for (slot, before) in changes {
            *table.pending(*slot) += 1;
            if let Some(before) = before {
                self.before.insert(self.dropped + self.changes.len() as u64, before.clone());
            }
            self.changes.push_back(*slot);
        }
        self.records.push_back(Record { to, octets: message.len() as u32, changes: changes.len() as u32 });
    }

    /// Copies messages for a follower to `out` until that has `until` octets or the follower has all.
    pub fn read(&mut self, id: PeerId, out: &mut BytesMut, until: usize, table: &mut impl Slots) -> Progress {
        let end = self.end();
        let Some(follower) = self.followers.get_mut(&id) else { return Progress::NoFollower };
        let end_of_rib = follower.end_of_rib;
        let (start, mut at, mut octet) = (follower.at, follower.at, follower.octet);
        // Messages that lie side by side are copied in one go.
        let mut run = octet;
        for record in self.records.range((at - self.first) as usize..) {
            let pending = (octet - run) as usize;
            if out.len() + pending >= until {
                break;
            }
            if !record.to.includes(id) {
                let from = (run - self.first_octet) as usize;
                out.extend_from_slice(&self.bytes[from..from + pending]);
                run = octet + u64::from(record.octets);
            }
            octet += u64::from(record.octets);
            at += 1;
        }
        if octet > run {
            let (from, to) = ((run - self.first_octet) as usize, (octet - self.first_octet) as usize);
            out.extend_from_slice(&self.bytes[from..to]);
        }
        if at != start {
            (follower.at, follower.octet) = (at, octet);
            *self.crowd.entry(at).or_default() += 1;
            self.depart(start);
            self.trim(table);
        }
        if at == end { Progress::CaughtUp { end_of_rib } } else { Progress::Behind }
    }

    fn depart(&mut self, at: Position) {
        if let Some(count) = self.crowd.get_mut(&at) {
            *count -= 1;
            if *count == 0 {
                self.crowd.remove(&at);
            }
        }
    }

    /// Drops what all followers have got.
    fn trim(&mut self, table: &mut impl Slots) {
        let until = self.crowd.first_key_value().map_or(self.end(), |(at, _)| *at);
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
