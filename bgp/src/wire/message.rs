//! The messages of BGP, decoded (RFC 4271 §4, RFC 2918).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::Bytes;

use super::{Attributes, Family, Nlri};

/// A decoded message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// OPEN (RFC 4271 §4.2).
    Open(Open),
    /// UPDATE (RFC 4271 §4.3).
    Update(Update),
    /// NOTIFICATION (RFC 4271 §4.5).
    Notification(Notification),
    /// KEEPALIVE (RFC 4271 §4.4).
    Keepalive,
    /// ROUTE-REFRESH (RFC 2918 §3); `None` for an unsupported family, which is ignored (RFC 2918 §4).
    RouteRefresh(Option<Family>, Refresh),
}

/// The subtype of a ROUTE-REFRESH (RFC 7313 §3.2). Without RFC 7313, every subtype is a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refresh {
    /// 0: a request to send all routes again.
    Request,
    /// 1: the beginning of a refresh (BoRR).
    Begin,
    /// 2: the end of a refresh (EoRR).
    End,
    /// Another subtype, ignored under RFC 7313 (§5).
    Unknown(u8),
}

impl Refresh {
    pub(super) fn from_octet(octet: u8) -> Self {
        match octet {
            0 => Self::Request,
            1 => Self::Begin,
            2 => Self::End,
            other => Self::Unknown(other),
        }
    }

    pub(super) fn octet(self) -> u8 {
        match self {
            Self::Request => 0,
            Self::Begin => 1,
            Self::End => 2,
            Self::Unknown(other) => other,
        }
    }
}

/// OPEN (RFC 4271 §4.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// The sender's AS number: the 4-octet one if the capability is present (RFC 6793 §4.1), else My Autonomous System.
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
    /// Code 1 (RFC 4760 §8), a supported family.
    Multiprotocol(Family),
    /// Code 2 (RFC 2918).
    RouteRefresh,
    /// Code 5 (RFC 8950 §4): IPv4 unicast prefixes may have IPv6 next hops.
    ExtendedNextHop,
    /// Code 6 (RFC 8654 §3).
    ExtendedMessage,
    /// Code 9 (RFC 9234 §4.1).
    Role(Role),
    /// Code 64 (RFC 4724 §3).
    GracefulRestart(GracefulRestart),
    /// Code 65 (RFC 6793 §3).
    FourOctetAs(u32),
    /// Code 69 (RFC 7911 §4): the modes of the supported families.
    AddPath(Vec<(Family, AddPathMode)>),
    /// Code 70 (RFC 7313 §3.1).
    EnhancedRouteRefresh,
    /// Code 71 (RFC 9494 §3.1), one entry per family.
    LongLived(Vec<LongLived>),
    /// Any other capability, and unsupported families: code and value as received.
    Other(u8, Bytes),
}

/// The directions in which a speaker supports several paths to a prefix (RFC 7911 §4, Send/Receive).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddPathMode {
    /// 1: it can receive them.
    Receive,
    /// 2: it can send them.
    Send,
    /// 3: both.
    Both,
}

impl AddPathMode {
    /// Returns the mode for these directions; `None` for neither.
    pub fn new(receive: bool, send: bool) -> Option<Self> {
        match (receive, send) {
            (true, true) => Some(Self::Both),
            (true, false) => Some(Self::Receive),
            (false, true) => Some(Self::Send),
            (false, false) => None,
        }
    }

    /// Returns whether it can receive them.
    pub fn receives(self) -> bool {
        matches!(self, Self::Receive | Self::Both)
    }

    /// Returns whether it can send them.
    pub fn sends(self) -> bool {
        matches!(self, Self::Send | Self::Both)
    }

    pub(super) fn from_octet(octet: u8) -> Option<Self> {
        [Self::Receive, Self::Send, Self::Both].into_iter().find(|mode| mode.octet() == octet)
    }

    pub(super) fn octet(self) -> u8 {
        match self {
            Self::Receive => 1,
            Self::Send => 2,
            Self::Both => 3,
        }
    }
}

/// The role of a speaker towards its peer (RFC 9234 §4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Role {
    /// The peer's transit provider.
    Provider,
    /// The peer's route server.
    RouteServer,
    /// A client of the peer, which is a route server.
    RouteServerClient,
    /// The peer's customer.
    Customer,
    /// A lateral peer: each sends the other its own and its customers' routes only.
    Peer,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Role {
    /// Returns the name that RFC 9234 §4.1 gives it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Provider => "Provider",
            Self::RouteServer => "RS",
            Self::RouteServerClient => "RS-Client",
            Self::Customer => "Customer",
            Self::Peer => "Peer",
        }
    }

    pub(super) fn from_octet(octet: u8) -> Option<Self> {
        [Self::Provider, Self::RouteServer, Self::RouteServerClient, Self::Customer, Self::Peer]
            .into_iter()
            .find(|role| role.octet() == octet)
    }

    pub(super) fn octet(self) -> u8 {
        match self {
            Self::Provider => 0,
            Self::RouteServer => 1,
            Self::RouteServerClient => 2,
            Self::Customer => 3,
            Self::Peer => 4,
        }
    }

    /// Returns the role that the other side must have (RFC 9234 §4.2, table 2).
    pub fn counterpart(self) -> Self {
        match self {
            Self::Provider => Self::Customer,
            Self::Customer => Self::Provider,
            Self::RouteServer => Self::RouteServerClient,
            Self::RouteServerClient => Self::RouteServer,
            Self::Peer => Self::Peer,
        }
    }
}

/// The graceful restart capability (RFC 4724 §3).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GracefulRestart {
    /// The R bit: the sender has just restarted.
    pub restarting: bool,
    /// The N bit: the sender keeps routes through NOTIFICATIONs (RFC 8538 §2).
    pub notification: bool,
    /// The restart time in seconds, at most 4095.
    pub restart_time: u16,
    /// The families, each with its F bit: forwarding state was preserved.
    pub families: Vec<(Family, bool)>,
}

/// A family in the long-lived graceful restart capability (RFC 9494 §3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LongLived {
    /// The family.
    pub family: Family,
    /// The F bit: forwarding state was preserved.
    pub forwarding: bool,
    /// The long-lived stale time in seconds, less than 2^24.
    pub stale_time: u32,
}

/// The next hop of a reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NextHop {
    /// The global address.
    pub address: IpAddr,
    /// The link-local address that may accompany an IPv6 next hop (RFC 2545 §3).
    pub link_local: Option<Ipv6Addr>,
}

/// Prefixes advertised with one next hop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    /// Their family.
    pub family: Family,
    /// Their next hop.
    pub next_hop: NextHop,
    /// The prefixes, each in `family`.
    pub prefixes: Vec<Nlri>,
}

/// UPDATE (RFC 4271 §4.3, RFC 4760), after the error handling of RFC 7606.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// The attributes of the advertised prefixes; `None` if there are none.
    pub attributes: Option<Attributes>,
    /// The advertised prefixes: at most one reach for the NLRI field and one for MP_REACH_NLRI.
    pub reach: Vec<Reach>,
    /// The withdrawn prefixes, from both fields, and those that RFC 7606 treats as withdrawn. To be applied before `reach`:
    /// a prefix, or path to one, in both is advertised (RFC 4271 §4.3).
    pub withdrawn: Vec<Nlri>,
    /// The family whose routes are complete with this message (End-of-RIB, RFC 4724 §2).
    pub end_of_rib: Option<Family>,
    /// The faults that did not end the session (RFC 7606 §2).
    pub faults: Vec<Fault>,
}

/// A malformed part of an UPDATE that did not end the session (RFC 7606 §2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The attribute's type code; 0 if even that could not be read.
    pub attribute: u8,
    /// The consequence.
    pub action: FaultAction,
    /// The fault, as text.
    pub reason: String,
}

/// The consequence of a malformed attribute (RFC 7606 §2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultAction {
    /// The attribute alone was discarded.
    AttributeDiscard,
    /// The UPDATE's routes were treated as withdrawn.
    TreatAsWithdraw,
}

/// NOTIFICATION (RFC 4271 §4.5, §6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    /// The error code.
    pub code: u8,
    /// The error subcode.
    pub subcode: u8,
    /// The data, of which at most 64 octets come from the peer's message, so that it cannot make us echo more.
    pub data: Bytes,
}
