//! What the tables are told about us and our peers, and what they count.

use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU8;

use crate::config::Filter;
use crate::wire::{Codec, Family, Prefix, Role};

/// A neighbour's number, given by the speaker and stable for as long as the neighbour is configured.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId(pub u32);

/// What a peer is to us; export depends on it (RFC 4456 §6).
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub enum PeerKind {
    /// In our AS, not our client.
    Internal,
    /// In our AS, and we reflect for it.
    Client,
    /// In another AS.
    External,
}

/// A peer with an established session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its address.
    pub address: IpAddr,
    /// Its BGP Identifier.
    pub router_id: Ipv4Addr,
    /// Its AS number.
    pub asn: u32,
    /// What it is to us.
    pub kind: PeerKind,
    /// Our address on the session.
    pub local_address: IpAddr,
    /// Our AS number on the session.
    pub local_asn: u32,
    /// What we are to it, where that guards against leaks (RFC 9234).
    pub role: Option<Role>,
    /// What was negotiated about encoding.
    pub codec: Codec,
    /// The families negotiated.
    pub families: Vec<Family>,
    /// How many paths to a prefix it is told in families that are sent with Path Identifiers (RFC 7911), at most; where
    /// `None`, one.
    pub paths: Option<NonZeroU8>,
    /// It knows what LLGR_STALE means (RFC 9494 §4.3).
    pub long_lived: bool,
    /// What is taken from it.
    pub import: Filter,
    /// What it is told.
    pub export: Filter,
}

impl Peer {
    /// Whether what is kept of its paths is what rules made of them, not what it told: another import filter can then only
    /// act on paths told again.
    pub(super) fn by_rules(&self) -> bool {
        matches!(self.import, Filter::Rules(_))
    }

    /// Whether paths from the peer rank and are told to others as they are from `other`.
    pub(super) fn ranks_alike(&self, other: &Self) -> bool {
        let identity = |peer: &Self| (peer.address, peer.router_id, peer.kind);
        identity(self) == identity(other)
    }
}

/// Who we are.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Our AS number.
    pub asn: u32,
    /// Our BGP Identifier.
    pub router_id: Ipv4Addr,
    /// The cluster we reflect for (RFC 4456 §7).
    pub cluster_id: Ipv4Addr,
    /// We are about to leave (RFC 8326).
    pub graceful_shutdown: bool,
}

/// How many paths a peer's tables hold: prefixes, unless there are several to one (RFC 7911).
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// In the adj-RIB-in, refused ones included.
    pub received: usize,
    /// Of those, usable: not refused by the import filter, a loop check or the like.
    pub accepted: usize,
    /// In the adj-RIB-out: told and not withdrawn since.
    pub advertised: usize,
    /// Of the received, kept from before the peer's restart (RFC 4724 §4.2).
    pub stale: usize,
}

/// A prefix that a peer should be told but cannot be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Withheld {
    /// The destination.
    pub prefix: Prefix,
    /// Why not, and what to do.
    pub reason: String,
}
