//! The types of the tables' interface: peers, our identity, counts.

use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU8;

use super::reason::WithheldReason;
use crate::config::{Filter, NextHopMode};
use crate::wire::{Codec, Family, Prefix, Role};

/// The number of a neighbor, given by the speaker and stable for as long as the neighbor is configured.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct PeerId(pub u32);

/// The relation to a peer, which decides what it is advertised (RFC 4456 §6).
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum PeerKind {
    /// In our AS, and not our client.
    Internal,
    /// In our AS, and a client that we reflect for.
    Client,
    /// In another AS.
    External,
}

/// A peer with an established session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    /// Its address.
    pub address: IpAddr,
    /// Its BGP Identifier.
    pub router_id: Ipv4Addr,
    /// Its AS number.
    pub asn: u32,
    /// The relation to it.
    pub kind: PeerKind,
    /// Our address on the session.
    pub local_address: IpAddr,
    /// Our AS number on the session.
    pub local_asn: u32,
    /// Our role on the session, if one is configured (RFC 9234).
    pub role: Option<Role>,
    /// The negotiated encoding.
    pub codec: Codec,
    /// The negotiated families.
    pub families: Vec<Family>,
    /// The most paths that are advertised to it for a prefix, in families with Path Identifiers (RFC 7911); `None`: one.
    pub paths: Option<NonZeroU8>,
    /// The peer has the long-lived graceful restart capability (RFC 9494 §4.3).
    pub long_lived: bool,
    /// The rule for the next hop of what is advertised to it.
    pub next_hop_mode: NextHopMode,
    /// The import filter.
    pub import: Filter,
    /// The export filter.
    pub export: Filter,
}

impl Peer {
    /// Returns whether the import filter is made of rules. The Adj-RIB-In then has the paths as modified by the rules, and
    /// another filter can only be applied to paths that are received again.
    pub(super) fn imports_by_rules(&self) -> bool {
        matches!(self.import, Filter::Rules(_))
    }

    /// Returns whether paths from the peer are compared and advertised in the same way as paths from `other`.
    pub(super) fn ranks_alike(&self, other: &Self) -> bool {
        let identity = |peer: &Self| (peer.address, peer.router_id, peer.kind);
        identity(self) == identity(other)
    }
}

/// The identity of this speaker.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// Our AS number.
    pub asn: u32,
    /// Our BGP Identifier.
    pub router_id: Ipv4Addr,
    /// The cluster that we reflect for (RFC 4456 §7).
    pub cluster_id: Ipv4Addr,
    /// We are about to shut down (RFC 8326).
    pub graceful_shutdown: bool,
}

/// The numbers of paths in a peer's tables; with several paths to a prefix (RFC 7911) each counts.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// In the Adj-RIB-In, rejected ones included.
    pub received: usize,
    /// Of the received, the eligible ones: not rejected by the import filter or another check.
    pub accepted: usize,
    /// In the Adj-RIB-Out: advertised and not withdrawn since.
    pub advertised: usize,
    /// Of the received, kept from before the peer's restart (RFC 4724 §4.2).
    pub stale: usize,
}

/// A selected path that is not advertised to a peer although it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Withheld {
    /// The destination.
    pub prefix: Prefix,
    /// The reason.
    pub reason: WithheldReason,
}
