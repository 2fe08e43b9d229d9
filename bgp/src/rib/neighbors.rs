//! The neighbours, as far as the tables know them.

use std::collections::BTreeMap;

use super::bits::Bits;
use super::family::PerFamily;
use super::table::{Path, Slot, Source};
use super::{Peer, PeerId};

/// The number of an update group within its family.
pub type GroupId = u32;

/// Which prefixes a neighbour has a path to.
#[derive(Debug, Default)]
pub struct Inbound {
    pub received: Bits,
    pub accepted: usize,
    pub stale: usize,
}

impl Inbound {
    /// Counts the neighbour's path to a prefix going from `was` to `now`.
    pub fn count(&mut self, slot: Slot, was: Option<&Path>, now: Option<&Path>) {
        let usable = |path: Option<&Path>| usize::from(path.is_some_and(|path| path.refusal.is_none()));
        let stale = |path: Option<&Path>| usize::from(path.is_some_and(|path| path.stale));
        self.accepted = self.accepted + usable(now) - usable(was);
        self.stale = self.stale + stale(now) - stale(was);
        if now.is_some() {
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

/// All neighbours, in a fixed order.
#[derive(Debug, Default)]
pub struct Neighbors(pub BTreeMap<PeerId, Neighbor>);

impl Neighbors {
    /// The peer a path comes from; `None`: ourselves.
    pub fn origin(&self, source: Source) -> Option<&Peer> {
        self.0.get(&source.peer()?).map(|neighbor| &neighbor.peer)
    }
}
