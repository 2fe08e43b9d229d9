//! The neighbours, as far as the tables know them.

use super::bits::Bits;
use super::family::PerFamily;
use super::sources::Sources;
use super::table::{Path, Slot, Source};
use super::{Peer, PeerId};
use crate::hash::Map;

/// The number of an update group within its family.
pub type GroupId = u32;

/// Which prefixes a neighbour has a path to.
#[derive(Debug, Default)]
pub struct Inbound {
    pub received: Bits,
    /// How many paths: more than prefixes where it sends several to one (RFC 7911).
    pub paths: usize,
    pub accepted: usize,
    pub stale: usize,
}

impl Inbound {
    /// Counts the neighbour's path to a prefix going from `was` to `now`; whether there are `others` of its to that prefix.
    pub fn count(&mut self, slot: Slot, was: Option<&Path>, now: Option<&Path>, others: bool) {
        let usable = |path: Option<&Path>| usize::from(path.is_some_and(|path| path.refusal.is_none()));
        let stale = |path: Option<&Path>| usize::from(path.is_some_and(|path| path.stale));
        self.accepted = self.accepted + usable(now) - usable(was);
        self.stale = self.stale + stale(now) - stale(was);
        self.paths = self.paths + usize::from(now.is_some()) - usize::from(was.is_some());
        if now.is_some() || others {
            self.received.set(slot);
        } else {
            self.received.clear(slot);
        }
    }
}

/// A neighbour that has, or had, a session.
#[derive(Debug)]
pub struct Neighbor {
    /// As of its last session: stale paths are still its.
    pub peer: Peer,
    /// Its session is established.
    pub up: bool,
    pub inbound: PerFamily<Inbound>,
    /// The group that it hears each family in.
    pub group: PerFamily<Option<GroupId>>,
}

/// All neighbours, and what they have told Path Identifiers for.
#[derive(Debug, Default)]
pub struct Neighbors(pub Map<PeerId, Box<Neighbor>>, pub Sources);

impl Neighbors {
    /// The peer a path comes from; `None`: ourselves.
    pub fn origin(&self, source: Source) -> Option<&Peer> {
        self.0.get(&self.1.peer(source)?).map(|neighbor| &neighbor.peer)
    }

    /// Whom a path comes from, whatever its Path Identifier.
    pub fn teller(&self, source: Source) -> Source {
        match source.index() {
            None => source,
            Some(_) => self.1.peer(source).map_or(Source::LOCAL, Source::from),
        }
    }

    /// The neighbour that a path comes from, to count it.
    pub fn of(&mut self, source: Source) -> Option<&mut Neighbor> {
        self.0.get_mut(&self.1.peer(source)?).map(Box::as_mut)
    }
}
