//! Reports of a speaker: sessions and routes, with reasons as values. `Display` renders them.

mod reason;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

#[cfg(feature = "bfd")]
use crate::bfd;
pub use crate::rib::{
    Comparison, PathReason, PolicyRejection, RejectReason, Rejection, Step as DecisionStep, WithheldReason,
};
use crate::wire::{PathIds, Prefix};
pub use reason::{Notification, PrefixCount, SessionError, SessionReason, StopReason, Warning};

/// The states of RFC 4271 §8.2.2, in the order in which a session goes through them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub enum SessionState {
    /// Not trying.
    Idle,
    /// Connecting.
    Connect,
    /// Waiting for the next attempt, or for the peer's.
    Active,
    /// OPEN sent.
    OpenSent,
    /// OPEN received, waiting for the first KEEPALIVE.
    OpenConfirm,
    /// Routes are exchanged.
    Established,
}

impl SessionState {
    /// All states, in their order.
    pub const ALL: [Self; 6] =
        [Self::Idle, Self::Connect, Self::Active, Self::OpenSent, Self::OpenConfirm, Self::Established];

    /// Returns the name that RFC 4271 gives it, such as `OpenSent`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "Idle",
            Self::Connect => "Connect",
            Self::Active => "Active",
            Self::OpenSent => "OpenSent",
            Self::OpenConfirm => "OpenConfirm",
            Self::Established => "Established",
        }
    }
}

impl fmt::Display for SessionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The numbers of best routes learned from peers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BestCounts {
    /// Those to IPv4 prefixes.
    pub ipv4: usize,
    /// Those to IPv6 prefixes.
    pub ipv6: usize,
}

/// The state of a session.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SessionReport {
    /// The neighbor's address.
    pub address: IpAddr,
    /// Its configured name.
    pub name: String,
    /// Its configured AS number.
    pub asn: u32,
    /// Its BGP Identifier; `None` unless established.
    pub router_id: Option<Ipv4Addr>,
    /// The state of the session (of the most advanced connection).
    pub state: SessionState,
    /// The time in that state.
    pub since: Duration,
    /// The number of paths in the Adj-RIB-In, rejected ones included.
    pub received: usize,
    /// The number of those that are eligible.
    pub accepted: usize,
    /// The number of paths in the Adj-RIB-Out.
    pub advertised: usize,
    /// The number of paths kept from before the peer's restart (RFC 4724 §4.2, RFC 9494 §4.2), or not yet repeated in a
    /// refresh (RFC 7313 §4).
    pub stale: usize,
    /// The End-of-RIB of each family was received in this session.
    pub end_of_rib: bool,
    /// The negotiated hold time; `None` unless established.
    pub hold_time: Option<Duration>,
    /// The families in which several paths to a prefix are received and sent (RFC 7911); none unless established.
    pub path_ids: PathIds,
    /// The number of times that the session was established.
    pub established_count: u64,
    /// The last error, and the time since.
    pub last_error: Option<(SessionError, Duration)>,
    /// The last errors, the oldest first, also from connections and configurations before.
    pub errors: Vec<PastError>,
    /// The last changes of state, likewise.
    pub history: Vec<Transition>,
    /// The reason for the state.
    pub reason: SessionReason,
    /// The BFD session; `None`: none is configured.
    #[cfg(feature = "bfd")]
    pub bfd: Option<BfdReport>,
}

/// The state of a neighbor's BFD session.
#[cfg(feature = "bfd")]
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BfdReport {
    /// Our state.
    pub state: bfd::State,
    /// The time in that state; `None`: the session has not started.
    pub since: Option<Duration>,
    /// The reason for the state, or the error that keeps the session down.
    pub reason: String,
    /// The diagnostic that the neighbor sends; `None`: no packet is received from it.
    pub remote_diagnostic: Option<bfd::Diagnostic>,
    /// The interval at which we send, before jitter.
    pub transmit_interval: Option<Duration>,
    /// The longest interval at which the neighbor sends.
    pub receive_interval: Option<Duration>,
    /// The detection time (RFC 5880 §6.8.4).
    pub detection_time: Option<Duration>,
    /// The number of failures after it had come up.
    pub failure_count: u64,
}

#[cfg(feature = "bfd")]
impl BfdReport {
    /// Returns the report of a session that does not exist yet.
    pub(crate) fn absent(reason: String) -> Self {
        Self {
            state: bfd::State::Down,
            since: None,
            reason,
            remote_diagnostic: None,
            transmit_interval: None,
            receive_interval: None,
            detection_time: None,
            failure_count: 0,
        }
    }
}

#[cfg(feature = "bfd")]
impl From<&bfd::SessionReport> for BfdReport {
    fn from(session: &bfd::SessionReport) -> Self {
        let reason = match (&session.send_error, &session.last_discard) {
            (Some(error), _) => error.clone(),
            (None, Some(discard)) if session.state != bfd::State::Up => {
                format!("{}; the last packet was discarded: {discard}", session.reason)
            }
            _ => session.reason.to_string(),
        };
        Self {
            state: session.state,
            since: Some(session.since),
            reason,
            remote_diagnostic: session.remote_diagnostic,
            transmit_interval: session.transmit_interval,
            receive_interval: session.receive_interval,
            detection_time: session.detection_time,
            failure_count: session.failure_count,
        }
    }
}

/// A change of a session's state. Repetitions of a few changes in turn, as of a peer that cannot be reached, are counted.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Transition {
    /// The time since the last repetition.
    pub ago: Duration,
    /// The state before.
    pub from: SessionState,
    /// The state after.
    pub to: SessionState,
    /// The reason.
    pub reason: SessionReason,
    /// The number of repetitions.
    pub times: u32,
}

/// An error of a session in the past.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PastError {
    /// The time since the last repetition.
    pub ago: Duration,
    /// The error.
    pub error: SessionError,
    /// The number of repetitions.
    pub times: u32,
}

/// A path to a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PathReport {
    /// The destination.
    pub prefix: Prefix,
    /// The next hop; `None` for an originated network without one.
    pub next_hop: Option<IpAddr>,
    /// The peer that sent it; `None`: this speaker originates it.
    pub peer: Option<IpAddr>,
    /// The Path Identifier, if the peer sent one (RFC 7911 §3).
    pub path_id: Option<u32>,
    /// It is the best path.
    pub best: bool,
    /// Kept from before the peer's restart.
    pub stale: bool,
    /// The reason why it is the best path, is not, or is rejected.
    pub reason: PathReason,
    /// LOCAL_PREF as compared.
    pub local_pref: u32,
    /// MULTI_EXIT_DISC as compared.
    pub med: u32,
    /// AS_PATH as text: `64500 64501 {64502,64503}`.
    pub as_path: String,
    /// ORIGINATOR_ID.
    pub originator: Option<Ipv4Addr>,
    /// CLUSTER_LIST.
    pub cluster_list: Vec<Ipv4Addr>,
}

/// The best path to a prefix, with what a route in a kernel needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub struct BestRoute {
    /// The destination.
    pub prefix: Prefix,
    /// The next hop.
    pub next_hop: IpAddr,
    /// The peer that sent it.
    pub peer: IpAddr,
}

/// The present best path to a prefix whose best path changed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BestChange {
    /// The destination.
    pub prefix: Prefix,
    /// The best path; `None`: there is none any more, or this speaker originates the prefix.
    pub route: Option<BestRoute>,
}

impl BestChange {
    /// Returns the change of a prefix to `route`.
    pub fn new(prefix: Prefix, route: Option<BestRoute>) -> Self {
        Self { prefix, route }
    }
}

/// Changes of best paths that a subscriber has not read before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BestChanges {
    /// The changes, at most one for a prefix, in no particular order.
    pub changes: Vec<BestChange>,
    /// There are more: read again.
    pub more: bool,
    /// Every peer has sent its End-of-RIB, or the time to wait for it is over. Once there are no more changes, routes that
    /// were not among them may be deleted.
    pub synced: bool,
}

impl BestChanges {
    /// Returns these changes.
    pub fn new(changes: Vec<BestChange>, more: bool, synced: bool) -> Self {
        Self { changes, more, synced }
    }
}

impl BestRoute {
    /// Returns the best path to `prefix`, learned from `peer`.
    pub fn new(prefix: Prefix, next_hop: IpAddr, peer: IpAddr) -> Self {
        Self { prefix, next_hop, peer }
    }
}
