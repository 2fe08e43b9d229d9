//! The tables: adj-RIB-in, loc-RIB and adj-RIB-out. Pure: no sessions, no time, no I/O.

mod types;

use bytes::BytesMut;

use crate::config::{Filter, Network};
use crate::report::{BestRoute, PathReport};
use crate::wire::{Family, Update};

pub use types::{Counts, Identity, Peer, PeerId, PeerKind, Withheld};

/// All tables of one speaker.
#[derive(Debug)]
pub struct Rib {
    identity: Identity,
}

#[allow(unused_variables)]
impl Rib {
    /// Empty tables of a speaker that is `identity`.
    pub fn new(identity: Identity) -> Self {
        Self { identity }
    }

    /// Changes who we are; loop checks and exports are worked out again.
    pub fn set_identity(&mut self, identity: Identity) {
        self.identity = identity;
    }

    /// Sets what we originate, as a whole; only what differs is touched.
    pub fn set_networks(&mut self, networks: &[Network]) {}

    /// A session is established. Paths kept stale from before stay until they are replaced or dropped; everything
    /// in the loc-RIB is marked for the peer.
    pub fn peer_up(&mut self, id: PeerId, peer: Peer) {}

    /// The session is gone. Paths of the families in `keep` become stale (RFC 4724 §4.2), all others go.
    pub fn peer_down(&mut self, id: PeerId, keep: &[Family]) {}

    /// Drops the peer's paths that are still stale, of one family or of all.
    pub fn drop_stale(&mut self, id: PeerId, family: Option<Family>) {}

    /// The neighbour is no longer configured: nothing of it stays.
    pub fn forget(&mut self, id: PeerId) {}

    /// Changes a peer's filters live; no session is reset and no route refresh needed.
    pub fn set_filters(&mut self, id: PeerId, import: Filter, export: Filter) {}

    /// Takes in an UPDATE. Its `end_of_rib` and `faults` are the caller's business.
    pub fn update(&mut self, id: PeerId, update: Update) {}

    /// Marks everything of `family` to be told again (ROUTE-REFRESH, RFC 2918 §4).
    pub fn refresh(&mut self, id: PeerId, family: Family) {}

    /// Asks for an End-of-RIB (RFC 4724 §2), to be packed after all that is pending for `family`.
    pub fn end_of_rib(&mut self, id: PeerId, family: Family) {}

    /// Whether [`Rib::pack`] may have something for the peer.
    pub fn pending(&self, id: PeerId) -> bool {
        false
    }

    /// Appends whole messages for the peer to `out` until at least `limit` octets were added or nothing is
    /// pending; returns how many octets were added.
    pub fn pack(&mut self, id: PeerId, limit: usize, out: &mut BytesMut) -> usize {
        0
    }

    /// Whether the loc-RIB changed since the last call.
    pub fn take_changed(&mut self) -> bool {
        false
    }

    /// The best paths that were learned, sorted by prefix; our own networks are not among them.
    pub fn best_routes(&self) -> Vec<BestRoute> {
        Vec::new()
    }

    /// Every path, sorted by prefix, each with the reason why it is best or why not.
    pub fn paths(&self) -> Vec<PathReport> {
        Vec::new()
    }

    /// How many prefixes a peer's tables hold; zeros for an unknown peer.
    pub fn counts(&self, id: PeerId) -> Counts {
        Counts::default()
    }

    /// What a peer should be told but cannot be, with the reason.
    pub fn withheld(&self, id: PeerId) -> Vec<Withheld> {
        Vec::new()
    }
}
