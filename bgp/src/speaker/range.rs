//! Neighbours that are not listed one by one, but come from a range of addresses.

use std::net::IpAddr;
use std::time::Instant;

use super::{Action, Speaker};
use crate::config::ListenRange;
use crate::rib::PeerId;
use crate::wire::{Prefix, cease};

impl Speaker {
    /// Makes room for a neighbour that connects from a range, if there is any. The caller notes the range once the
    /// connection is accepted.
    pub(super) fn admit(&mut self, now: Instant, address: IpAddr) -> Option<(PeerId, Option<Prefix>)> {
        let range = covering(&self.config.ranges, address)?;
        let present = self.peers.values().filter(|peer| peer.range == Some(range.range)).count();
        let (neighbor, prefix) = (range.at(address)?, range.range);
        if present >= range.limit {
            return None;
        }
        let id = self.add(now, self.settings(neighbor));
        Some((id, Some(prefix)))
    }

    /// Brings those that came from ranges in step with what ranges there are now.
    pub(super) fn set_ranges(&mut self, now: Instant, before: &[ListenRange]) {
        for range in keyed_otherwise(before, &self.config.ranges) {
            self.actions.push_back(Action::Protect { from: range.range, authentication: None });
        }
        for range in keyed_otherwise(&self.config.ranges, before) {
            let authentication = range.neighbor.authentication.clone();
            self.actions.push_back(Action::Protect { from: range.range, authentication });
        }
        let came = self.by_address.iter().filter(|(_, id)| self.came_from_range(**id));
        let came: Vec<IpAddr> = came.map(|(address, _)| *address).collect();
        for address in came {
            let range = covering(&self.config.ranges, address);
            match range.and_then(|range| Some((range.range, range.at(address)?))) {
                Some((range, neighbor)) => {
                    self.set_neighbor(now, neighbor);
                    self.note_range(address, range);
                }
                None => self.remove(now, address, cease::DECONFIGURED, "its range was removed"),
            }
        }
    }

    /// Whether a neighbour is not listed.
    pub(super) fn came_from_range(&self, id: PeerId) -> bool {
        self.peers.get(&id).is_some_and(|peer| peer.range.is_some())
    }

    /// Notes where a neighbour is from; one that had to begin anew has nothing yet, and goes until it comes again.
    fn note_range(&mut self, address: IpAddr, range: Prefix) {
        let Some(id) = self.by_address.get(&address).copied() else { return };
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.range = Some(range);
        }
        self.let_go(id);
    }
}

/// The longest range that holds an address.
fn covering(ranges: &[ListenRange], address: IpAddr) -> Option<&ListenRange> {
    ranges.iter().filter(|range| range.at(address).is_some()).max_by_key(|range| range.range.length())
}

/// Those of `ranges` with a key that is not theirs among the `others`.
fn keyed_otherwise<'a>(ranges: &'a [ListenRange], others: &[ListenRange]) -> Vec<&'a ListenRange> {
    let key = |range: &ListenRange| (range.range, range.neighbor.authentication.clone());
    let keyed = ranges.iter().filter(|range| range.neighbor.authentication.is_some());
    keyed.filter(|range| others.iter().all(|other| key(other) != key(range))).collect()
}
