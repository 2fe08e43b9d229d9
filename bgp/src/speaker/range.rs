//! Neighbors from listen ranges, which are not configured one by one.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Instant;

use super::{Action, Speaker};
use crate::config::ListenRange;
use crate::report::StopReason;
use crate::rib::PeerId;
use crate::wire::{Prefix, cease};

impl Speaker {
    /// Adds a neighbor that connects from a listen range, if the range's limit permits. The caller records the range once
    /// the connection is accepted.
    pub(super) fn add_from_range(
        &mut self,
        now: Instant,
        address: IpAddr,
    ) -> Option<(PeerId, Option<Prefix>)> {
        let range = covering(&self.config.ranges, address)?;
        let present = self.peers.values().filter(|peer| peer.range == Some(range.range)).count();
        let (neighbor, prefix) = (range.at(address)?, range.range);
        if present >= range.limit {
            return None;
        }
        let id = self.add(now, self.settings(neighbor));
        Some((id, Some(prefix)))
    }

    /// Applies a change of the listen ranges from `before` to the authentication of connections.
    pub(super) fn protect_ranges(&mut self, before: &[ListenRange]) {
        for range in authenticated_differently(before, &self.config.ranges) {
            self.actions.push_back(Action::Protect { from: range.range, authentication: None });
        }
        for range in authenticated_differently(&self.config.ranges, before) {
            let authentication = range.neighbor.authentication.clone();
            self.actions.push_back(Action::Protect { from: range.range, authentication });
        }
    }

    /// Returns the addresses of all neighbors that came from listen ranges.
    pub(super) fn all_from_ranges(&self) -> VecDeque<IpAddr> {
        let came = self.by_address.iter().filter(|(_, id)| self.came_from_range(**id));
        came.map(|(address, _)| *address).collect()
    }

    /// Applies a change of the listen ranges to a neighbor, if it came from one of them.
    pub(super) fn apply_range(&mut self, now: Instant, address: IpAddr) {
        if !self.by_address.get(&address).is_some_and(|id| self.came_from_range(*id)) {
            return;
        }
        let range = covering(&self.config.ranges, address);
        match range.and_then(|range| Some((range.range, range.at(address)?))) {
            Some((range, neighbor)) => {
                self.set_neighbor(now, neighbor);
                self.set_range(address, range);
            }
            None => self.remove(now, address, cease::DECONFIGURED, StopReason::RangeRemoved),
        }
    }

    /// Returns whether a neighbor came from a listen range.
    pub(super) fn came_from_range(&self, id: PeerId) -> bool {
        self.peers.get(&id).is_some_and(|peer| peer.range.is_some())
    }

    /// Records the range of a neighbor. One whose session had to start anew has no connection yet: it is removed until it
    /// connects again.
    fn set_range(&mut self, address: IpAddr, range: Prefix) {
        let Some(id) = self.by_address.get(&address).copied() else { return };
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.range = Some(range);
        }
        self.clean_up(id);
    }
}

/// Returns the longest range that contains an address.
fn covering(ranges: &[ListenRange], address: IpAddr) -> Option<&ListenRange> {
    ranges.iter().filter(|range| range.at(address).is_some()).max_by_key(|range| range.range.length())
}

/// Returns the ranges with an authentication that the `others` do not have for the same range.
fn authenticated_differently<'a>(ranges: &'a [ListenRange], others: &[ListenRange]) -> Vec<&'a ListenRange> {
    let key = |range: &ListenRange| (range.range, range.neighbor.authentication.clone());
    let keyed = ranges.iter().filter(|range| range.neighbor.authentication.is_some());
    keyed.filter(|range| others.iter().all(|other| key(other) != key(range))).collect()
}
