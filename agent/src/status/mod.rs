//! How this node stands: one value, made when asked for, of which every view is one: socket, command line, HTTP and
//! metrics, objects in the cluster.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use heliograph_bgp::report::{BfdReport, SessionState};
use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use crate::plan::{NeighborRole, Reachability};
use crate::store::{ObjectGeneration, Rejection};

pub mod client;
pub mod http;
pub mod kubernetes;
pub mod metrics;
mod places;
pub mod process;
pub mod server;
pub mod table;
#[cfg(test)]
pub mod testing;

/// What this process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// A node agent: it programs the kernel.
    Node,
    /// A stand-alone reflector: it doesn't.
    Reflector,
}

/// How this node stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// The node's name.
    pub node: String,
    /// The version of the agent.
    pub version: String,
    /// What it is.
    pub role: Role,
    /// It is to reflect: what one node tells it the others are told.
    #[serde(default)]
    pub reflects: bool,
    /// How long it has run, in seconds.
    pub uptime_seconds: f64,
    /// What the first sync still waits for, in words; empty: it is done, and stays so.
    #[serde(default)]
    pub waiting_for: Vec<String>,
    /// What is wanted.
    pub intent: IntentStatus,
    /// The API server that it comes from; `None`: there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<StoreStatus>,
    /// What is told to the cluster; `None`: there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_writer: Option<StatusWriterStatus>,
    /// Its BGP sessions, by address.
    pub sessions: Vec<SessionStatus>,
    /// Best routes that were learned, by what becomes of them.
    #[serde(default)]
    pub routes: Vec<RouteCount>,
    /// Its kernel; `None` for a reflector.
    pub kernel: Option<KernelStatus>,
    /// The verdict on each next hop.
    pub segments: Vec<SegmentStatus>,
    /// What is not as it should be, with what to do.
    pub problems: Vec<String>,
}

/// How intent stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IntentStatus {
    /// What the store holds now is in force.
    pub in_sync: bool,
    /// How often the intent in force has changed.
    pub generation: u64,
    /// When the intent in force last changed, in seconds since 1970; `None`: there is none yet.
    #[serde(default)]
    pub last_change_seconds: Option<f64>,
    /// Where the intent in force comes from.
    pub origin: String,
    /// Why what the store holds now isn't in force.
    pub rejections: Vec<Rejection>,
    /// Our kinds' objects in the API server, and which generation of each is in force.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub objects: Vec<ObjectGeneration>,
}

/// How many best routes there are of a sort.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteCount {
    /// `ipv4` or `ipv6`.
    pub family: String,
    /// `direct`, `tunnel`, `routed` or `unreachable` as the next hop is; `refused`: not to be installed, whatever its
    /// next hop; `reflected`: there is no kernel to install it in.
    pub verdict: String,
    /// How many.
    pub count: usize,
}

/// How it stands with the API server that intent comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoreStatus {
    /// Its address.
    pub server: String,
    /// It tells everything that is needed. Where it doesn't, what was last good is in force.
    pub connected: bool,
    /// How long that has been so, in seconds.
    pub since_seconds: f64,
    /// What was last the matter.
    pub last_error: Option<String>,
    /// UID of this node's Node in the cluster; `None`: there is none, or it was not told yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_uid: Option<String>,
    /// It answers, and refuses something that is needed, so intent isn't followed.
    #[serde(default)]
    pub refused: bool,
}

/// How it stands with what the cluster is told: objects, Events, the Node's condition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusWriterStatus {
    /// What keeps it from being up to date, in words.
    pub error: Option<String>,
    /// Writes since the start, done or not.
    pub writes: u64,
    /// Requests since the start that were refused or not answered.
    pub failures: u64,
}

/// One BGP session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionStatus {
    /// The neighbour's address.
    pub peer: IpAddr,
    /// Its Node or BGPPeer.
    pub name: String,
    /// Its AS number.
    pub asn: u32,
    /// What it is to us.
    pub role: NeighborRole,
    /// The generation of its BGPPeer that the session goes by, where it has one and that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_generation: Option<i64>,
    /// The session's state, as RFC 4271 names it.
    pub state: String,
    /// How long it has been in this state, in seconds.
    pub uptime_seconds: f64,
    /// Prefixes received, those refused by the filter included.
    pub received: usize,
    /// Those that the filter let pass.
    pub accepted: usize,
    /// Prefixes advertised.
    pub advertised: usize,
    /// Prefixes kept from before its restart.
    pub stale: usize,
    /// Its BGP Identifier, once known.
    pub router_id: Option<Ipv4Addr>,
    /// The hold time agreed on, in seconds.
    pub hold_seconds: Option<u64>,
    /// How often it was established.
    pub established_count: u64,
    /// The last error.
    pub last_error: Option<String>,
    /// The last errors, the oldest first.
    #[serde(default)]
    pub errors: Vec<PastErrorStatus>,
    /// The last changes of state, the oldest first.
    #[serde(default)]
    pub history: Vec<TransitionStatus>,
    /// Why it is in this state.
    pub reason: String,
    /// Its BFD session; `None`: it has none.
    pub bfd: Option<BfdStatus>,
}

/// The BFD session of a BGP session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BfdStatus {
    /// Its state, as RFC 5880 names it.
    pub state: String,
    /// How long it has been in this state, in seconds; `None`: it has not begun.
    pub uptime_seconds: Option<f64>,
    /// The diagnostic that the neighbor sends, as RFC 5880 §4.1 names it; `None`: no packet is received from it.
    pub remote_diagnostic: Option<String>,
    /// How often we send, in milliseconds.
    pub transmit_interval: Option<f64>,
    /// How often the neighbour sends at least, in milliseconds.
    pub receive_interval: Option<f64>,
    /// How long the neighbour may be silent, in milliseconds.
    pub detection_time: Option<f64>,
    /// How often it failed after it had come up.
    pub failure_count: u64,
    /// Why it is in this state, or what keeps it from working.
    pub reason: String,
}

impl From<&BfdReport> for BfdStatus {
    fn from(report: &BfdReport) -> Self {
        let milliseconds = |time: Option<Duration>| time.map(|time| time.as_secs_f64() * 1000.0);
        Self {
            state: report.state.to_string(),
            uptime_seconds: report.since.map(|since| since.as_secs_f64()),
            remote_diagnostic: report.remote_diagnostic.map(|diagnostic| diagnostic.to_string()),
            transmit_interval: milliseconds(report.transmit_interval),
            receive_interval: milliseconds(report.receive_interval),
            detection_time: milliseconds(report.detection_time),
            failure_count: report.failure_count,
            reason: report.reason.clone(),
        }
    }
}

/// A change of a session's state; one that comes again in a short circle is counted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TransitionStatus {
    /// How long ago, the last time, in seconds.
    pub seconds_ago: f64,
    /// The state before, as RFC 4271 names it.
    pub from: String,
    /// The state after.
    pub to: String,
    /// Why.
    pub why: String,
    /// How often.
    pub times: u32,
}

/// Something that went wrong with a session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PastErrorStatus {
    /// How long ago, the last time, in seconds.
    pub seconds_ago: f64,
    /// What.
    pub error: String,
    /// How often.
    pub times: u32,
}

impl SessionStatus {
    /// Whether routes flow.
    pub fn established(&self) -> bool {
        self.state == state_name(SessionState::Established)
    }
}

/// The name of a state, as RFC 4271 §8.2.2 writes it.
pub fn state_name(state: SessionState) -> String {
    format!("{state:?}")
}

/// How the kernel stands to what it should hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KernelStatus {
    /// It holds what it should and nothing else of ours.
    pub in_sync: bool,
    /// Routes of ours that it holds.
    pub routes: usize,
    /// Routes that it should hold.
    pub desired: usize,
    /// Things of ours that aren't wanted but kept until all peers have said what they know.
    pub kept: usize,
    /// Changes that the kernel has confirmed since the start.
    #[serde(default)]
    pub changes: u64,
    /// Requests that it has refused or not answered since the start.
    #[serde(default)]
    pub failures: u64,
    /// How often it was brought to what it should hold, where anything had to change.
    #[serde(default)]
    pub programmings: u64,
    /// Time that took in all, in seconds.
    #[serde(default)]
    pub programming_seconds: f64,
    /// What could not be done.
    pub errors: Vec<KernelFault>,
}

/// Something the kernel did not do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KernelFault {
    /// What was tried, on what.
    pub what: String,
    /// What came back.
    pub error: String,
    /// What to do.
    pub remedy: String,
}

/// The verdict on one next hop.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SegmentStatus {
    /// The node it belongs to; `None`: it is outside the cluster.
    pub node: Option<String>,
    /// The next hop.
    pub next_hop: IpAddr,
    /// How packets get there.
    pub verdict: Reachability,
    /// Why.
    pub reason: String,
}

/// One path to a prefix.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteStatus {
    /// The destination.
    pub prefix: IpNetwork,
    /// Its next hop.
    pub next_hop: Option<IpAddr>,
    /// Whom we have it from; `None`: it is ours.
    pub peer: Option<IpAddr>,
    /// What tells it from other paths of that peer, where that sends several (RFC 7911).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_id: Option<u32>,
    /// It is the best path.
    pub best: bool,
    /// It is kept from before the peer's restart.
    pub stale: bool,
    /// Why it is best or not, and why it is not installed if it is best.
    pub reason: String,
    /// LOCAL_PREF.
    pub local_pref: u32,
    /// MULTI_EXIT_DISC.
    pub med: u32,
    /// AS_PATH.
    pub as_path: String,
    /// ORIGINATOR_ID.
    pub originator: Option<Ipv4Addr>,
    /// CLUSTER_LIST.
    pub cluster_list: Vec<Ipv4Addr>,
    /// How packets get to the next hop; `None` where no packet takes this path.
    pub via: Option<Reachability>,
    /// The kernel holds it.
    pub installed: bool,
}

impl NodeStatus {
    /// What keeps this node from being as it should be, in few words; empty: nothing does.
    pub fn complaints(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        if !self.intent.in_sync {
            complaints.push("the intent is refused or not there".to_string());
        }
        if self.store.as_ref().is_some_and(|store| !store.connected) {
            complaints.push("the API server does not tell everything".to_string());
        }
        let down = self.sessions.iter().filter(|session| !session.established()).count();
        if down > 0 {
            complaints.push(format!("sessions not established: {down} of {}", self.sessions.len()));
        }
        if self.kernel.as_ref().is_some_and(|kernel| !kernel.in_sync) {
            complaints.push("the kernel does not hold what it should".to_string());
        }
        let lost =
            self.segments.iter().filter(|segment| segment.verdict == Reachability::Unreachable).count();
        if lost > 0 {
            complaints.push(format!("next hops out of reach: {lost}"));
        }
        if !self.problems.is_empty() {
            complaints.push(format!("problems: {}", self.problems.len()));
        }
        complaints
    }
}
