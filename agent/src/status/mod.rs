//! The status of this node: one value, made on request. The socket, the command line, HTTP, the metrics and the objects
//! in the cluster are views of it.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use heliograph_bgp::bfd;
use heliograph_bgp::report::{BfdReport, SessionState};
use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use crate::names::named;
use crate::plan::{NeighborRole, Reachability};
use crate::store::{ObjectGeneration, Rejection};
use heliograph_cni::IpFamily;

pub mod client;
pub mod http;
pub mod kubernetes;
mod listener;
pub mod metrics;
pub mod process;
pub mod server;
pub mod table;
#[cfg(test)]
pub mod testing;

/// The version of the JSON documents. `docs/decisions/json.md` has the rule by which it changes.
pub const SCHEMA_VERSION: u32 = 1;

/// A JSON document, as `-o json` prints it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Document<T> {
    /// The version of the document's fields.
    pub schema_version: u32,
    /// The fields.
    #[serde(flatten)]
    pub content: T,
}

impl<T> Document<T> {
    /// Returns a document of the present version.
    pub fn new(content: T) -> Self {
        Self { schema_version: SCHEMA_VERSION, content }
    }
}

/// The content of a document that is a list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct List<T> {
    /// The items.
    pub items: Vec<T>,
}

/// The role of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A node agent, which programs the kernel.
    Node,
    /// A stand-alone reflector, which has no kernel part.
    Reflector,
}

named!(Role { Node => "Node", Reflector => "Reflector" });

/// The status of this node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// The node's name.
    pub node: String,
    /// The version of the agent.
    pub version: String,
    /// The role of the process.
    pub role: Role,
    /// True if the BGPConfiguration makes this node a route reflector.
    #[serde(default)]
    pub reflects: bool,
    /// The time since the start of the process, in seconds.
    pub uptime_seconds: f64,
    /// The conditions that the first sync waits for, as text. Once it is empty it stays empty.
    #[serde(default)]
    pub waiting_for: Vec<String>,
    /// The intent.
    pub intent: IntentStatus,
    /// The connection to the API server; `None` with a folder as the store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<StoreStatus>,
    /// The status writer; `None` with a folder as the store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_writer: Option<StatusWriterStatus>,
    /// The BGP sessions, by address.
    pub sessions: Vec<SessionStatus>,
    /// The numbers of learned best routes, by family and disposition.
    #[serde(default)]
    pub route_counts: Vec<RouteCount>,
    /// The kernel; `None` for a reflector.
    pub kernel: Option<KernelStatus>,
    /// The next hops of the best routes.
    pub next_hops: Vec<NextHopStatus>,
    /// Things that do not work as configured, each with a remedy.
    pub problems: Vec<String>,
}

/// The state of the intent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IntentStatus {
    /// True if the present content of the store is in force.
    pub in_sync: bool,
    /// The number of changes of the intent in force.
    pub generation: u64,
    /// The Unix time of the last change of the intent in force; `None`: no intent was in force yet.
    #[serde(default)]
    pub last_change_timestamp_seconds: Option<f64>,
    /// The source of the intent in force.
    pub origin: String,
    /// The reasons why the present content of the store is not in force.
    pub rejections: Vec<Rejection>,
    /// The objects of Heliograph's kinds in the API server, with the generation of each that is in force.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub objects: Vec<ObjectGeneration>,
}

/// The number of best routes of one family and disposition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteCount {
    /// The address family.
    #[serde(with = "crate::names")]
    pub family: IpFamily,
    /// The use that the agent makes of the routes.
    pub disposition: Disposition,
    /// The number of routes.
    pub count: usize,
}

/// The use that an agent makes of a best route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Disposition {
    /// Installed: the next hop is on the same segment.
    Direct,
    /// Installed: the next hop is reached through the tunnel.
    Tunnel,
    /// Installed: the next hop is reached through a gateway.
    Routed,
    /// Not installed: the next hop is unreachable.
    Unreachable,
    /// Not installed, although the next hop is reachable; `heliograph routes` has the reason.
    Rejected,
    /// Only advertised: a stand-alone reflector has no kernel part.
    Reflected,
}

named!(Disposition {
    Direct => "Direct",
    Tunnel => "Tunnel",
    Routed => "Routed",
    Unreachable => "Unreachable",
    Rejected => "Rejected",
    Reflected => "Reflected",
});

impl From<Reachability> for Disposition {
    fn from(reachability: Reachability) -> Self {
        match reachability {
            Reachability::Direct => Self::Direct,
            Reachability::Tunnel => Self::Tunnel,
            Reachability::Routed => Self::Routed,
            Reachability::Unreachable => Self::Unreachable,
        }
    }
}

/// The connection to the API server that holds the intent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoreStatus {
    /// The server's address.
    pub server: String,
    /// True if all required objects are being received. While they are not, the last good intent is in force.
    pub connected: bool,
    /// The time since `connected` last changed, in seconds.
    pub since_seconds: f64,
    /// The last error.
    pub last_error: Option<String>,
    /// The UID of this node's Node object; `None`: there is none, or it was not received yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_uid: Option<String>,
    /// True if the server answers but rejects a required request, so that changes of intent are not received.
    #[serde(default)]
    pub rejected: bool,
}

/// The state of the status writer: objects, Events, the Node's condition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusWriterStatus {
    /// The reason why the cluster's objects are not up to date; `None`: they are.
    pub error: Option<String>,
    /// Write requests since the start, failed ones included.
    pub writes: u64,
    /// Requests since the start that the API server rejected or did not answer.
    pub failures: u64,
}

/// One BGP session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionStatus {
    /// The neighbor's address.
    pub peer: IpAddr,
    /// The name of its Node or BGPPeer.
    pub name: String,
    /// Its AS number.
    pub asn: u32,
    /// Its relation to this node.
    pub role: NeighborRole,
    /// The generation of its BGPPeer that is in force, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_generation: Option<i64>,
    /// The state of the session, as RFC 4271 §8.2.2 names it.
    #[serde(with = "crate::names")]
    pub state: SessionState,
    /// The time in this state, in seconds.
    pub uptime_seconds: f64,
    /// Prefixes received, those that the import filter rejects included.
    pub received: usize,
    /// Prefixes received that the import filter accepts.
    pub accepted: usize,
    /// Prefixes advertised.
    pub advertised: usize,
    /// Prefixes kept from before the neighbor's restart.
    pub stale: usize,
    /// Its BGP Identifier, once received.
    pub router_id: Option<Ipv4Addr>,
    /// The negotiated hold time, in seconds.
    pub hold_seconds: Option<u64>,
    /// The number of times that the session was established.
    pub established_count: u64,
    /// The last error.
    pub last_error: Option<String>,
    /// The last errors, the oldest first.
    #[serde(default)]
    pub errors: Vec<PastErrorStatus>,
    /// The last changes of state, the oldest first.
    #[serde(default)]
    pub history: Vec<TransitionStatus>,
    /// The reason for the state.
    pub reason: String,
    /// Its BFD session; `None`: none is configured.
    pub bfd: Option<BfdStatus>,
}

/// The BFD session of a BGP session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BfdStatus {
    /// The state, as RFC 5880 §4.1 names it.
    #[serde(with = "crate::names")]
    pub state: bfd::State,
    /// The time in this state, in seconds; `None`: the session has not started.
    pub uptime_seconds: Option<f64>,
    /// The diagnostic that the neighbor sends, as RFC 5880 §4.1 names it; `None`: no packet is received from it.
    pub remote_diagnostic: Option<String>,
    /// The interval at which we send, in milliseconds.
    pub transmit_interval: Option<f64>,
    /// The longest interval at which the neighbor sends, in milliseconds.
    pub receive_interval: Option<f64>,
    /// The detection time, in milliseconds.
    pub detection_time: Option<f64>,
    /// The number of failures after it had come up.
    pub failure_count: u64,
    /// The reason for the state, or the error that keeps the session down.
    pub reason: String,
}

impl From<&BfdReport> for BfdStatus {
    fn from(report: &BfdReport) -> Self {
        let milliseconds = |time: Option<Duration>| time.map(|time| time.as_secs_f64() * 1000.0);
        Self {
            state: report.state,
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

/// A change of a session's state. Changes that repeat in a short cycle are counted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TransitionStatus {
    /// The time since it last happened, in seconds.
    pub seconds_ago: f64,
    /// The state before.
    #[serde(with = "crate::names")]
    pub from: SessionState,
    /// The state after.
    #[serde(with = "crate::names")]
    pub to: SessionState,
    /// The reason.
    pub reason: String,
    /// The number of times that it happened.
    pub count: u32,
}

/// An error of a session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PastErrorStatus {
    /// The time since it last happened, in seconds.
    pub seconds_ago: f64,
    /// The error.
    pub error: String,
    /// The number of times that it happened.
    pub count: u32,
}

impl SessionStatus {
    /// Returns whether the session is established.
    pub fn established(&self) -> bool {
        self.state == SessionState::Established
    }
}

/// The state of the kernel.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KernelStatus {
    /// True if it holds what is desired, and nothing else of ours.
    pub in_sync: bool,
    /// The number of our routes in the kernel.
    pub routes: usize,
    /// The number of desired routes.
    pub desired: usize,
    /// The number of our objects that are not desired but are kept until the first sync is done.
    pub kept: usize,
    /// Changes that the kernel acknowledged since the start.
    #[serde(default)]
    pub changes: u64,
    /// Requests since the start that the kernel rejected or did not answer.
    #[serde(default)]
    pub failures: u64,
    /// Reconciliations since the start that had something to change.
    #[serde(default)]
    pub reconciliations: u64,
    /// The time that these took together, in seconds.
    #[serde(default)]
    pub reconcile_seconds: f64,
    /// The changes that fail at present.
    pub errors: Vec<KernelFault>,
}

/// A change that the kernel did not make.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KernelFault {
    /// The change that was tried, and its object.
    pub operation: String,
    /// The kernel's answer.
    pub error: String,
    /// The remedy.
    pub remedy: String,
}

impl std::fmt::Display for KernelFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}; {}", self.operation, self.error, self.remedy)
    }
}

/// One next hop of best routes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NextHopStatus {
    /// The node that has the address; `None`: it is outside the cluster.
    pub node: Option<String>,
    /// The address.
    pub address: IpAddr,
    /// The way in which packets reach it.
    pub reachability: Reachability,
    /// The reason for that.
    pub reason: String,
}

/// One path to a prefix.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteStatus {
    /// The destination.
    pub prefix: IpNetwork,
    /// The next hop.
    pub next_hop: Option<IpAddr>,
    /// The peer that advertises it; `None`: this node originates it.
    pub peer: Option<IpAddr>,
    /// The path identifier, if the peer sends several paths to a prefix (RFC 7911).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_id: Option<u32>,
    /// True if it is the best path.
    pub best: bool,
    /// True if it is kept from before the peer's restart.
    pub stale: bool,
    /// The reason why it is the best path or not, and why a best path is not installed.
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
    /// The reachability of the next hop; `None` if no packet takes this path.
    pub reachability: Option<Reachability>,
    /// True if the kernel holds the route.
    pub installed: bool,
}

impl NodeStatus {
    /// Returns the reasons why this node is degraded, in short; empty: it is not.
    pub fn degradations(&self) -> Vec<String> {
        let mut degradations = Vec::new();
        if !self.intent.in_sync {
            degradations.push("the intent is rejected or missing".to_string());
        }
        if self.store.as_ref().is_some_and(|store| !store.connected) {
            degradations.push("not all required objects are received from the API server".to_string());
        }
        let down = self.sessions.iter().filter(|session| !session.established()).count();
        if down > 0 {
            degradations.push(format!("sessions not established: {down} of {}", self.sessions.len()));
        }
        if self.kernel.as_ref().is_some_and(|kernel| !kernel.in_sync) {
            degradations.push("the kernel is not in sync".to_string());
        }
        let unreachable =
            self.next_hops.iter().filter(|hop| hop.reachability == Reachability::Unreachable).count();
        if unreachable > 0 {
            degradations.push(format!("next hops unreachable: {unreachable}"));
        }
        if !self.problems.is_empty() {
            degradations.push(format!("problems: {}", self.problems.len()));
        }
        degradations
    }
}
