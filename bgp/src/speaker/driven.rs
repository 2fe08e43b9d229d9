//! The interface for our own driver, which does a bounded amount of work between two looks at its sockets.

use std::net::IpAddr;
use std::ops::Bound;
use std::time::Instant;

use super::{ConnId, Speaker};
use crate::report::SessionReport;
use crate::rib::{Scan, ScanPosition};
use crate::wire::Prefix;

impl Speaker {
    /// Returns whether [`Speaker::work`] has something to do.
    pub(crate) fn has_work(&self) -> bool {
        self.changing.is_some() || self.rib.has_work()
    }

    /// Returns the time of the next timer: [`Speaker::next_deadline`] without the work that is left.
    pub(crate) fn next_timer(&self) -> Option<Instant> {
        self.timers()
    }

    /// Returns the connections of the sessions whose timers are due.
    pub(crate) fn due(&self, now: Instant) -> Vec<ConnId> {
        let due = self.deadlines.iter().take_while(|(deadline, _)| *deadline <= now);
        due.filter_map(|(_, id)| self.peers.get(id)).flat_map(|peer| peer.session.connections()).collect()
    }

    /// Returns whether the time to wait for the neighbors' routes is over.
    pub(crate) fn sync_due(&self, now: Instant) -> bool {
        self.sync.due(now)
    }

    /// Returns the connections of a neighbor.
    pub(crate) fn connections(&self, address: IpAddr) -> Vec<ConnId> {
        let peer = self.by_address.get(&address).and_then(|id| self.peers.get(id));
        peer.into_iter().flat_map(|peer| peer.session.connections()).collect()
    }

    /// Carries out a step of what is too much for one call; returns whether there was one.
    pub(crate) fn work(&mut self, now: Instant) -> bool {
        let worked = self.change_step(now) || self.rib.work();
        if worked {
            self.settle(now);
        }
        worked
    }

    /// Returns the prefixes with paths in a piece of the tables, and the next piece.
    pub(crate) fn scan(&self, scan: &Scan, from: ScanPosition) -> (Vec<Prefix>, Option<ScanPosition>) {
        self.rib.scan(scan, from)
    }

    /// Returns the session of the neighbor with the next address.
    pub(crate) fn session_after(&self, now: Instant, address: Option<IpAddr>) -> Option<SessionReport> {
        let after = address.map_or(Bound::Unbounded, Bound::Excluded);
        let mut later = self.by_address.range((after, Bound::Unbounded));
        later.find_map(|(_, id)| self.report(*id, now))
    }
}
