//! The messages of BGP, decoded (RFC 4271 §4, RFC 2918).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::Bytes;

use super::{Attributes, Family, Prefix};

/// A decoded message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// RFC 4271 §4.2.
    Open(Open),
    /// RFC 4271 §4.3.
    Update(Update),
    /// RFC 4271 §4.5.
    Notification(Notification),
    /// RFC 4271 §4.4.
    Keepalive,
    /// RFC 2918 §3; `None` for a family we do not know, which is ignored (RFC 2918 §4).
    RouteRefresh(Option<Family>),
}

/// OPEN (RFC 4271 §4.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// The peer's AS: the 4-octet one where the capability carries it (RFC 6793 §4.1), else My Autonomous System.
    pub asn: u32,
    /// Proposed hold time in seconds: 0 or at least 3.
    pub hold_time: u16,
    /// BGP Identifier, never 0 (RFC 6286 §2.1).
    pub router_id: Ipv4Addr,
    /// Capabilities in the order sent (RFC 5492).
    pub capabilities: Vec<Capability>,
}

/// A capability (RFC 5492).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Capability {
    /// Code 1 (RFC 4760 §8), a family we know.
    Multiprotocol(Family),
    /// Code 2 (RFC 2918).
    RouteRefresh,
    /// Code 64 (RFC 4724 §3).
    GracefulRestart(GracefulRestart),
    /// Code 65 (RFC 6793 §3).
    FourOctetAs(u32),
    /// Any other, and families we do not know: code and value as received.
    Other(u8, Bytes),
}

/// The graceful restart capability (RFC 4724 §3).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GracefulRestart {
    /// The R bit: the sender has just restarted.
    pub restarting: bool,
    /// Seconds within which the sender expects to be back, at most 4095.
    pub restart_time: u16,
    /// The families kept, each with its F bit: forwarding state was preserved.
    pub families: Vec<(Family, bool)>,
}

/// The next hop of a reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NextHop {
    /// The global next hop.
    pub address: IpAddr,
    /// The link-local one that may come with an IPv6 next hop (RFC 2545 §3).
    pub link_local: Option<Ipv6Addr>,
}

/// Prefixes announced with one next hop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    /// Their family.
    pub family: Family,
    /// Their next hop.
    pub next_hop: NextHop,
    /// The prefixes, each in `family`.
    pub prefixes: Vec<Prefix>,
}

/// UPDATE (RFC 4271 §4.3, RFC 4760), after the error handling of RFC 7606.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// Attributes of all that is announced; `None` where nothing is.
    pub attributes: Option<Attributes>,
    /// What is announced: at most one reach for the NLRI field and one for MP_REACH_NLRI.
    pub reach: Vec<Reach>,
    /// What is withdrawn, from both fields; also what RFC 7606 says to treat as withdrawn. To be applied before `reach`: a
    /// prefix in both is announced (RFC 4271 §4.3).
    pub withdrawn: Vec<Prefix>,
    /// The family this message ends the initial feed of (End-of-RIB, RFC 4724 §2).
    pub end_of_rib: Option<Family>,
    /// What was wrong with it and was dealt with short of a session reset (RFC 7606 §2), in words.
    pub faults: Vec<Fault>,
}

/// A malformed part of an UPDATE that did not cost the session (RFC 7606 §2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The attribute's type code; 0 where not even that could be read.
    pub attribute: u8,
    /// What was done about it.
    pub action: FaultAction,
    /// What was wrong, in words.
    pub reason: String,
}

/// How a malformed attribute was dealt with (RFC 7606 §2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultAction {
    /// The attribute alone was dropped.
    AttributeDiscard,
    /// The UPDATE's routes were taken as withdrawn.
    TreatAsWithdraw,
}

/// NOTIFICATION (RFC 4271 §4.5, §6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    /// Error code.
    pub code: u8,
    /// Error subcode.
    pub subcode: u8,
    /// Data; what we send is capped at 64 octets, so that no peer makes us echo at length.
    pub data: Bytes,
}
