//! The neighbors: their peers' properties, the counts of their Adj-RIBs-In and their update groups.

use std::collections::VecDeque;
use std::net::IpAddr;

use super::bits::Bits;
use super::family::PerFamily;
use super::sources::Sources;
use super::sweep::Sweep;
use super::table::{Path, Slot, Source};
use super::{Peer, PeerId};
use crate::hash::Map;

/// The number of an update group within its family.
pub(crate) type GroupId = u32;

/// The Adj-RIB-In of one neighbor and family, in numbers. The paths themselves are in the family's table.
#[derive(Debug, Default)]
pub(crate) struct Inbound {
    /// The prefixes that the neighbor has a path to.
    pub received: Bits,
    /// The number of paths: more than prefixes where the neighbor sends several to one (RFC 7911).
    pub paths: usize,
    /// The number of eligible paths.
    pub accepted: usize,
    /// The number of stale paths.
    pub stale: usize,
    /// The changes of its paths that are not complete, in their order.
    pub sweeps: VecDeque<Sweep>,
}

impl Inbound {
    /// Counts the change of the neighbor's path to a prefix from `was` to `now`. `others`: the neighbor has other paths
    /// to that prefix.
    pub(crate) fn count(&mut self, slot: Slot, was: Option<&Path>, now: Option<&Path>, others: bool) {
        let eligible = |path: Option<&Path>| usize::from(path.is_some_and(Path::is_eligible));
        let stale = |path: Option<&Path>| usize::from(path.is_some_and(|path| path.stale));
        self.accepted = self.accepted + eligible(now) - eligible(was);
        self.stale = self.stale + stale(now) - stale(was);
        self.paths = self.paths + usize::from(now.is_some()) - usize::from(was.is_some());
        if now.is_some() || others {
            self.received.set(slot);
        } else {
            self.received.clear(slot);
        }
    }
}

/// A neighbor that has a session, or had one and may have stale paths.
#[derive(Debug)]
pub(crate) struct Neighbor {
    /// The peer of the last session.
    pub peer: Peer,
    /// The session is established.
    pub up: bool,
    pub inbound: PerFamily<Inbound>,
    /// The update group for each family.
    pub group: PerFamily<Option<GroupId>>,
    /// It is no longer configured, and is removed with its last path.
    pub forgotten: bool,
}

/// All neighbors, and the sources of their paths.
#[derive(Debug, Default)]
pub(crate) struct Neighbors {
    by_id: Map<PeerId, Box<Neighbor>>,
    sources: Sources,
}

impl Neighbors {
    pub(crate) fn get(&self, id: PeerId) -> Option<&Neighbor> {
        self.by_id.get(&id).map(Box::as_ref)
    }

    pub(crate) fn get_mut(&mut self, id: PeerId) -> Option<&mut Neighbor> {
        self.by_id.get_mut(&id).map(Box::as_mut)
    }

    /// Returns the ids of all neighbors in ascending order.
    pub(crate) fn ids(&self) -> Vec<PeerId> {
        let mut ids: Vec<PeerId> = self.by_id.keys().copied().collect();
        ids.sort_unstable();
        ids
    }

    /// Returns the ids of the neighbors with such addresses in ascending order.
    pub(crate) fn ids_at(&self, matches: impl Fn(&IpAddr) -> bool) -> Vec<PeerId> {
        let matching = self.by_id.iter().filter(|(_, neighbor)| matches(&neighbor.peer.address));
        let mut ids: Vec<PeerId> = matching.map(|(id, _)| *id).collect();
        ids.sort_unstable();
        ids
    }

    /// Sets a neighbor's session to established; returns the peer of the session before.
    pub(crate) fn set_up(&mut self, id: PeerId, peer: Peer) -> Option<Peer> {
        if let Some(neighbor) = self.get_mut(id) {
            neighbor.up = true;
            return Some(std::mem::replace(&mut neighbor.peer, peer));
        }
        let (inbound, group) = (PerFamily::default(), PerFamily::default());
        self.by_id.insert(id, Box::new(Neighbor { peer, up: true, inbound, group, forgotten: false }));
        None
    }

    /// Removes a neighbor, which must have no paths left.
    pub(crate) fn remove(&mut self, id: PeerId) {
        self.by_id.remove(&id);
    }

    /// Returns the peer that a path was learned from; `None` if it is originated.
    pub(crate) fn peer(&self, source: Source) -> Option<&Peer> {
        self.get(self.peer_id(source)?).map(|neighbor| &neighbor.peer)
    }

    /// Returns the id of the peer that a path was learned from; `None` if it is originated.
    pub(crate) fn peer_id(&self, source: Source) -> Option<PeerId> {
        self.sources.peer(source)
    }

    /// Returns the source of a path without its Path Identifier: the peer, or [`Source::LOCAL`].
    pub(crate) fn source_peer(&self, source: Source) -> Source {
        match source.index() {
            None => source,
            Some(_) => self.peer_id(source).map_or(Source::LOCAL, Source::from),
        }
    }

    /// Returns the counts of the neighbor that a path was learned from.
    pub(crate) fn inbound_mut(&mut self, source: Source) -> Option<&mut PerFamily<Inbound>> {
        let id = self.peer_id(source)?;
        self.get_mut(id).map(|neighbor| &mut neighbor.inbound)
    }

    /// Returns the sources that peers with Path Identifiers have.
    pub(crate) fn sources(&self) -> &Sources {
        &self.sources
    }

    pub(crate) fn sources_mut(&mut self) -> &mut Sources {
        &mut self.sources
    }
}
