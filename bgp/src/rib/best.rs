//! The best path (RFC 4271 §9.1.2, RFC 4456 §9).
//!
//! MED is compared only between paths from the same neighboring AS. So "is better than" is not transitive over all paths,
//! and the result of a scan that keeps the better of two would depend on the order of arrival. RFC 4271 §9.1.2.2 c
//! removes paths by MED before the later steps. Accordingly the best path of each neighboring AS is selected first, with
//! MED, and then the best of these, without MED. Both are total orders, so the result depends only on the set of paths.
//!
//! A long-lived stale path is selected only if there is no other (RFC 9494 §4.4). That is compared before MED, so it makes
//! no difference whether such paths are removed first, or lose within their neighboring AS and then again.

use std::cmp::Ordering;
use std::net::{IpAddr, Ipv4Addr};

use super::long_lived;
use super::table::{Path, Source};
use super::{Neighbors, PeerKind};
use crate::wire::{AsPath, Attributes, Origin, Segment};

/// The LOCAL_PREF of a path received without one. RFC 4271 §9.1.1 leaves the value open; other implementations use 100.
pub(crate) const DEFAULT_LOCAL_PREF: u32 = 100;

/// A step of the decision process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Step {
    /// Originated before learned.
    Originated,
    /// Long-lived stale paths last (RFC 9494 §4.4).
    LongLivedStale,
    /// Higher LOCAL_PREF (RFC 4271 §9.1.1).
    LocalPref,
    /// Shorter AS_PATH (§9.1.2.2 a).
    AsPathLength,
    /// Lower ORIGIN (§9.1.2.2 b).
    Origin,
    /// Lower MED among paths from one neighboring AS (§9.1.2.2 c).
    Med,
    /// eBGP before iBGP (§9.1.2.2 d). Step e, the cost to the next hop, does not exist, as there is no IGP.
    External,
    /// Lower ORIGINATOR_ID, else BGP Identifier (§9.1.2.2 f, RFC 4456 §9).
    RouterId,
    /// Shorter CLUSTER_LIST (RFC 4456 §9).
    ClusterListLength,
    /// Lower peer address (§9.1.2.2 g).
    PeerAddress,
    /// Lower received Path Identifier between two paths of one peer; a path without one first. RFC 7911 leaves such ties
    /// open, and the identifier expresses no preference: the step makes the order total and independent of arrival.
    PathId,
}

/// The properties of a path that the decision process compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub source: Source,
    pub long_lived_stale: bool,
    pub local_pref: u32,
    pub as_path_length: usize,
    pub origin: Origin,
    pub med: u32,
    /// The neighboring AS; `None` for our own.
    pub neighbor_as: Option<u32>,
    pub external: bool,
    pub identifier: Ipv4Addr,
    pub cluster_list_length: usize,
    /// `None` for an originated path.
    pub peer_address: Option<IpAddr>,
    pub path_id: Option<u32>,
}

impl Candidate {
    /// Returns the properties of `path`.
    pub(crate) fn new(path: &Path, neighbors: &Neighbors) -> Self {
        let peer = neighbors.peer(path.source);
        let attributes = &path.shared.attributes;
        let router_id = peer.map_or(Ipv4Addr::UNSPECIFIED, |peer| peer.router_id);
        Self {
            source: path.source,
            long_lived_stale: long_lived::is_stale(attributes),
            local_pref: local_pref(attributes),
            as_path_length: attributes.as_path.hops(),
            origin: attributes.origin,
            med: med(attributes),
            neighbor_as: neighbor_as(&attributes.as_path),
            external: peer.is_some_and(|peer| peer.kind == PeerKind::External),
            identifier: attributes.originator_id.unwrap_or(router_id),
            cluster_list_length: attributes.cluster_list.len(),
            peer_address: peer.map(|peer| peer.address),
            path_id: neighbors.sources().path_id(path.source),
        }
    }

    /// Compares two paths (`Less` is better); returns the deciding step, too.
    pub(crate) fn compare(&self, other: &Self) -> (Ordering, Step) {
        let same_neighbor = self.neighbor_as == other.neighbor_as;
        let med = if same_neighbor { self.med.cmp(&other.med) } else { Ordering::Equal };
        let steps = [
            (self.peer_address.is_some().cmp(&other.peer_address.is_some()), Step::Originated),
            (self.long_lived_stale.cmp(&other.long_lived_stale), Step::LongLivedStale),
            (other.local_pref.cmp(&self.local_pref), Step::LocalPref),
            (self.as_path_length.cmp(&other.as_path_length), Step::AsPathLength),
            (self.origin.cmp(&other.origin), Step::Origin),
            (med, Step::Med),
            (other.external.cmp(&self.external), Step::External),
            (self.identifier.cmp(&other.identifier), Step::RouterId),
            (self.cluster_list_length.cmp(&other.cluster_list_length), Step::ClusterListLength),
            (self.peer_address.cmp(&other.peer_address), Step::PeerAddress),
        ];
        let decided = steps.into_iter().find(|(ordering, _)| ordering.is_ne());
        // Peers have distinct addresses. The source's number keeps the order total should that ever not hold.
        decided.unwrap_or_else(|| {
            (self.path_id.cmp(&other.path_id).then(self.source.cmp(&other.source)), Step::PathId)
        })
    }

    /// Returns whether this path is better.
    pub(crate) fn beats(&self, other: &Self) -> bool {
        self.compare(other).0.is_lt()
    }
}

/// Returns the best path of each neighboring AS, in no particular order.
pub(crate) fn group_winners(candidates: impl Iterator<Item = Candidate>) -> Vec<Candidate> {
    let mut winners: Vec<Candidate> = Vec::new();
    for candidate in candidates {
        match winners.iter_mut().find(|winner| winner.neighbor_as == candidate.neighbor_as) {
            Some(winner) if candidate.beats(winner) => *winner = candidate,
            Some(_) => {}
            None => winners.push(candidate),
        }
    }
    winners
}

/// Returns the best path.
pub(crate) fn select(candidates: impl Iterator<Item = Candidate>) -> Option<Candidate> {
    // The winners are from different neighboring ASes, so MED is not compared here.
    group_winners(candidates).into_iter().reduce(|best, other| if other.beats(&best) { other } else { best })
}

/// Returns the paths in order, each the best of those that are left. The order is computed lazily.
pub(crate) fn ranked(mut candidates: Vec<Candidate>) -> impl Iterator<Item = Candidate> {
    std::iter::from_fn(move || {
        let best = select(candidates.iter().copied())?;
        candidates.retain(|candidate| candidate.source != best.source);
        Some(best)
    })
}

/// Returns the LOCAL_PREF that is compared.
pub(crate) fn local_pref(attributes: &Attributes) -> u32 {
    attributes.local_pref.unwrap_or(DEFAULT_LOCAL_PREF)
}

/// Returns the MED that is compared: a missing one is the lowest (RFC 4271 §9.1.2.2 c).
pub(crate) fn med(attributes: &Attributes) -> u32 {
    attributes.med.unwrap_or(0)
}

/// Returns the neighboring AS of a path; `None` (our own AS) for an empty path or one that begins with a set
/// (RFC 4271 §9.1.2.2 c).
pub(crate) fn neighbor_as(path: &AsPath) -> Option<u32> {
    match path.0.first() {
        Some(Segment::Sequence(numbers)) => numbers.first().copied(),
        _ => None,
    }
}
