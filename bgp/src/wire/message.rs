//! The messages of BGP, decoded (RFC 4271 §4, RFC 2918).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::Bytes;

use super::{Attributes, Family, Nlri};

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
    RouteRefresh(Option<Family>, Refresh),
}

/// What a ROUTE-REFRESH is for (RFC 7313 §3.2). Between peers that did not agree on RFC 7313 all are requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refresh {
    /// 0: tell me all again.
    Request,
    /// 1: here it begins (BoRR).
    Begin,
    /// 2: that was all (EoRR).
    End,
    /// Another subtype: ignored where RFC 7313 is spoken (§5).
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
    /// Code 5 (RFC 8950 §4): IPv4 unicast may come with IPv6 next hops.
    ExtendedNextHop,
    /// Code 6 (RFC 8654 §3).
    ExtendedMessage,
    /// Code 9 (RFC 9234 §4.1).
    Role(Role),
    /// Code 64 (RFC 4724 §3).
    GracefulRestart(GracefulRestart),
    /// Code 65 (RFC 6793 §3).
    FourOctetAs(u32),
    /// Code 69 (RFC 7911 §4): what the sender is able to do, for each family that we know.
    AddPath(Vec<(Family, AddPathMode)>),
    /// Code 70 (RFC 7313 §3.1).
    EnhancedRouteRefresh,
    /// Code 71 (RFC 9494 §3.1), a family each.
    LongLived(Vec<LongLived>),
    /// Any other, and families we do not know: code and value as received.
    Other(u8, Bytes),
}

/// What a speaker is able to do with several paths to a prefix (RFC 7911 §4, Send/Receive).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddPathMode {
    /// 1: it can be told of them.
    Receive,
    /// 2: it can tell of them.
    Send,
    /// 3: both.
    Both,
}

impl AddPathMode {
    /// For what was asked for; `None` for neither.
    pub fn new(receive: bool, send: bool) -> Option<Self> {
        match (receive, send) {
            (true, true) => Some(Self::Both),
            (true, false) => Some(Self::Receive),
            (false, true) => Some(Self::Send),
            (false, false) => None,
        }
    }

    /// Whether it can be told of them.
    pub fn receives(self) -> bool {
        matches!(self, Self::Receive | Self::Both)
    }

    /// Whether it can tell of them.
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

/// What a speaker is to its peer (RFC 9234 §4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Role {
    /// Its transit provider.
    Provider,
    /// The route server it uses.
    RouteServer,
    /// A client of its route server.
    RouteServerClient,
    /// Its customer.
    Customer,
    /// Its equal: each tells the other only its own and its customers' routes.
    Peer,
}

impl Role {
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

    /// What the other side must be (RFC 9234 §4.2, table 2).
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
    /// Seconds within which the sender expects to be back, at most 4095.
    pub restart_time: u16,
    /// The families kept, each with its F bit: forwarding state was preserved.
    pub families: Vec<(Family, bool)>,
}

/// How long the routes of a family may be kept once the restart time is over (RFC 9494 §3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LongLived {
    /// The family.
    pub family: Family,
    /// The F bit: forwarding state was preserved.
    pub forwarding: bool,
    /// Long-lived Stale Time in seconds, less than 2^24.
    pub stale_time: u32,
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
    pub prefixes: Vec<Nlri>,
}

/// UPDATE (RFC 4271 §4.3, RFC 4760), after the error handling of RFC 7606.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// Attributes of all that is announced; `None` where nothing is.
    pub attributes: Option<Attributes>,
    /// What is announced: at most one reach for the NLRI field and one for MP_REACH_NLRI.
    pub reach: Vec<Reach>,
    /// What is withdrawn, from both fields; also what RFC 7606 says to treat as withdrawn. To be applied before `reach`: a
    /// prefix, or path to one, in both is announced (RFC 4271 §4.3).
    pub withdrawn: Vec<Nlri>,
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
    /// Data; what we echo of a peer's is capped at 64 octets, so that no peer makes us echo at length.
    pub data: Bytes,
}
