//! What a speaker tells about itself: sessions and routes, with reasons in words.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use serde::Serialize;

#[cfg(feature = "bfd")]
use crate::bfd;
pub use crate::rib::{
    Comparison, PathReason, PolicyRejection, RejectReason, Rejection, Step as DecisionStep, WithheldReason,
};
use crate::wire::{PathIds, Prefix};

/// The states of RFC 4271 §8.2.2, in the order in which a session goes through them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
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

/// One session as it stands.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SessionReport {
    /// The neighbour's address.
    pub address: IpAddr,
    /// Its configured name.
    pub name: String,
    /// Its configured AS number.
    pub asn: u32,
    /// Its BGP Identifier, once known.
    pub router_id: Option<Ipv4Addr>,
    /// State of the session (of the most advanced connection).
    pub state: SessionState,
    /// How long it has been in that state.
    pub since: Duration,
    /// Prefixes in the adj-RIB-in, each path counted where there are several (RFC 7911), those refused by the import filter included.
    pub received: usize,
    /// Those that the import filter let pass.
    pub accepted: usize,
    /// Prefixes in the adj-RIB-out.
    pub advertised: usize,
    /// Prefixes kept from before the peer's restart (RFC 4724 §4.2, RFC 9494 §4.2), or not repeated yet in a refresh
    /// (RFC 7313 §4).
    pub stale: usize,
    /// Whether its End-of-RIB has come on this session, for each family carried.
    pub end_of_rib: bool,
    /// Negotiated hold time; `None` unless established.
    pub hold_time: Option<Duration>,
    /// Families in which several paths to a prefix are taken and told (RFC 7911); none unless established.
    pub path_ids: PathIds,
    /// How often it was established.
    pub established_count: u64,
    /// The last error, and how long ago.
    pub last_error: Option<(String, Duration)>,
    /// The last errors, the oldest first, as far back as they are kept: across connections, and changes of configuration.
    pub errors: Vec<PastError>,
    /// The last changes of state, likewise.
    pub history: Vec<Transition>,
    /// Why it is in that state, in words.
    pub reason: String,
    /// Its BFD session; `None`: none is configured.
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

/// A change of a session's state. One that comes again in a short circle, as when a peer cannot be reached, is counted.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Transition {
    /// How long ago, the last time.
    pub ago: Duration,
    /// The state before.
    pub from: SessionState,
    /// The state after.
    pub to: SessionState,
    /// Why, in words.
    pub why: String,
    /// How often.
    pub times: u32,
}

/// Something that went wrong with a session.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PastError {
    /// How long ago, the last time.
    pub ago: Duration,
    /// What, in words.
    pub error: String,
    /// How often.
    pub times: u32,
}

/// One path to a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PathReport {
    /// The destination.
    pub prefix: Prefix,
    /// Where it leads; `None` for our own without a next hop.
    pub next_hop: Option<IpAddr>,
    /// Whom we have it from; `None`: we originate it.
    pub peer: Option<IpAddr>,
    /// What tells it from other paths of that peer, if it came with that (RFC 7911 §3).
    pub path_id: Option<u32>,
    /// It is the best path.
    pub best: bool,
    /// Kept from before the peer's restart.
    pub stale: bool,
    /// Why it is the best path, why it is not, or why it is rejected. `Display` renders it as a sentence.
    pub reason: PathReason,
    /// LOCAL_PREF as compared.
    pub local_pref: u32,
    /// MULTI_EXIT_DISC as compared.
    pub med: u32,
    /// AS_PATH, as people write it: `64500 64501 {64502,64503}`.
    pub as_path: String,
    /// ORIGINATOR_ID.
    pub originator: Option<Ipv4Addr>,
    /// CLUSTER_LIST.
    pub cluster_list: Vec<Ipv4Addr>,
}

/// The best path to a prefix, as whoever programs a kernel needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub struct BestRoute {
    /// The destination.
    pub prefix: Prefix,
    /// Where it leads.
    pub next_hop: IpAddr,
    /// Whom we have it from.
    pub peer: IpAddr,
}

impl BestRoute {
    /// Returns the best path to `prefix`, learned from `peer`.
    pub fn new(prefix: Prefix, next_hop: IpAddr, peer: IpAddr) -> Self {
        Self { prefix, next_hop, peer }
    }
}
