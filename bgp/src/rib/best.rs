//! The best path (RFC 4271 §9.1.2, RFC 4456 §9).
//!
//! MED is compared only between paths from the same neighbouring AS, so "is better than" over all paths is not
//! transitive, and a scan that keeps the better of two would depend on the order of arrival. As RFC 4271 §9.1.2.2 c
//! removes by MED before it goes on, we first find the best path of each neighbouring AS, MED included, and then the
//! best of those, MED left out. Both are total orders, so the result depends on nothing but the set of paths.
//!
//! Long-lived stale paths are out of it as long as there is another (RFC 9494 §4.4): as that is told before all that has to
//! do with MED, it is the same whether they are left out of the whole or lose within their neighbouring AS and then again.

use std::cmp::Ordering;
use std::net::{IpAddr, Ipv4Addr};

use super::long_lived;
use super::table::{Path, Source};
use super::{Neighbors, PeerKind};
use crate::wire::{AsPath, Attributes, Origin, Segment};

/// LOCAL_PREF of a path that came without one (RFC 4271 §9.1.1 leaves it to us; all others use 100).
pub const DEFAULT_LOCAL_PREF: u32 = 100;

/// The step of the comparison that decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// What we originate ourselves comes first.
    Local,
    /// What is long-lived stale comes last (RFC 9494 §4.4).
    LongLived,
    /// Higher LOCAL_PREF (RFC 4271 §9.1.1).
    LocalPref,
    /// Shorter AS_PATH (§9.1.2.2 a).
    AsPathLength,
    /// Lower ORIGIN (§9.1.2.2 b).
    Origin,
    /// Lower MED among paths from one neighbouring AS (§9.1.2.2 c).
    Med,
    /// eBGP before iBGP (§9.1.2.2 d). Step e, the cost to the next hop, does not exist here: we know no IGP.
    External,
    /// Lower ORIGINATOR_ID, else BGP Identifier (§9.1.2.2 f, RFC 4456 §9).
    Identifier,
    /// Shorter CLUSTER_LIST (RFC 4456 §9).
    ClusterList,
    /// Lower peer address (§9.1.2.2 g).
    PeerAddress,
    /// Lower Path Identifier as received, between two paths of one peer; one without comes first. RFC 7911 leaves such ties
    /// open, and the identifier says nothing of a path's worth: this step only keeps the order total, and free of what
    /// came when.
    PathId,
}

/// What of a path is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub source: Source,
    pub long_lived_stale: bool,
    pub local_pref: u32,
    pub as_path_length: usize,
    pub origin: Origin,
    pub med: u32,
    /// The neighbouring AS; `None`: our own.
    pub neighbor_as: Option<u32>,
    pub external: bool,
    pub identifier: Ipv4Addr,
    pub cluster_list_length: usize,
    /// `None` for what we originate.
    pub peer_address: Option<IpAddr>,
    pub path_id: Option<u32>,
}

impl Candidate {
    /// What is compared of `path`.
    pub fn new(path: &Path, neighbors: &Neighbors) -> Self {
        let peer = neighbors.origin(path.source);
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
            path_id: neighbors.1.path_id(path.source),
        }
    }

    /// Which of two comes first (`Less` is better), and by which step.
    pub fn compare(&self, other: &Self) -> (Ordering, Step) {
        let same_neighbor = self.neighbor_as == other.neighbor_as;
        let med = if same_neighbor { self.med.cmp(&other.med) } else { Ordering::Equal };
        let steps = [
            (self.peer_address.is_some().cmp(&other.peer_address.is_some()), Step::Local),
            (self.long_lived_stale.cmp(&other.long_lived_stale), Step::LongLived),
            (other.local_pref.cmp(&self.local_pref), Step::LocalPref),
            (self.as_path_length.cmp(&other.as_path_length), Step::AsPathLength),
            (self.origin.cmp(&other.origin), Step::Origin),
            (med, Step::Med),
            (other.external.cmp(&self.external), Step::External),
            (self.identifier.cmp(&other.identifier), Step::Identifier),
            (self.cluster_list_length.cmp(&other.cluster_list_length), Step::ClusterList),
            (self.peer_address.cmp(&other.peer_address), Step::PeerAddress),
        ];
        let decided = steps.into_iter().find(|(ordering, _)| ordering.is_ne());
        // Peers have distinct addresses; their numbers keep the order total should that ever not hold.
        decided.unwrap_or_else(|| {
            (self.path_id.cmp(&other.path_id).then(self.source.cmp(&other.source)), Step::PathId)
        })
    }

    pub fn beats(&self, other: &Self) -> bool {
        self.compare(other).0.is_lt()
    }
}

/// The best of each neighbouring AS, in no particular order.
pub fn group_winners(candidates: impl Iterator<Item = Candidate>) -> Vec<Candidate> {
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

/// The best of all.
pub fn select(candidates: impl Iterator<Item = Candidate>) -> Option<Candidate> {
    // Winners are of different neighbouring ASes: no MED is compared here.
    group_winners(candidates).into_iter().reduce(|best, other| if other.beats(&best) { other } else { best })
}

/// All of them in order: each is the best of those that are left. Made as far as it is asked for.
pub fn ranked(mut candidates: Vec<Candidate>) -> impl Iterator<Item = Candidate> {
    std::iter::from_fn(move || {
        let best = select(candidates.iter().copied())?;
        candidates.retain(|candidate| candidate.source != best.source);
        Some(best)
    })
}

/// LOCAL_PREF as compared.
pub fn local_pref(attributes: &Attributes) -> u32 {
    attributes.local_pref.unwrap_or(DEFAULT_LOCAL_PREF)
}

/// MED as compared: a missing one is the lowest (RFC 4271 §9.1.2.2 c).
pub fn med(attributes: &Attributes) -> u32 {
    attributes.med.unwrap_or(0)
}

/// The AS that the path entered ours from; `None` for our own: an empty path or one that starts with a set
/// (RFC 4271 §9.1.2.2 c).
pub fn neighbor_as(path: &AsPath) -> Option<u32> {
    match path.0.first() {
        Some(Segment::Sequence(numbers)) => numbers.first().copied(),
        _ => None,
    }
}
