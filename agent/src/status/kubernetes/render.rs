//! The status of a node, rendered as objects. Pure; time is an argument.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::object::{Object, session_name};
use crate::api::bgp_node::SessionCounts;
use crate::api::{BGPNodeSpec, BGPNodeStatus, BGPSessionSpec, BGPSessionStatus, ObjectKind, ObjectRef};
use crate::names::Named;
use crate::plan::Reachability;
use crate::status::{NodeStatus, Role, SessionStatus};

/// The largest number of sessions with other nodes of which each has a BGPSession. Of more, established sessions are only
/// counted.
pub const MAX_LISTED: usize = 50;
/// The largest number of BGPSessions for sessions with other nodes that are down, on a node with more than [`MAX_LISTED`].
pub const MAX_LISTED_DOWN: usize = 20;
/// The largest number of characters in a text, since objects must be small.
const MAX_TEXT: usize = 512;
/// The largest number of problems in an object. `heliograph status` lists all.
const MAX_PROBLEMS: usize = 8;
/// The largest number of rejections or kernel errors in a condition's message.
const MAX_REASONS: usize = 3;
/// The largest number of sessions that a condition's message names.
const MAX_NAMED: usize = 5;

/// The renderer of objects. It keeps the times of the last changes.
#[derive(Debug, Default)]
pub struct Renderer {
    sessions: BTreeMap<IpAddr, SessionHistory>,
    conditions: BTreeMap<String, (bool, Timestamp)>,
}

/// The last change of a session.
#[derive(Debug)]
struct SessionHistory {
    established: bool,
    count: u64,
    since: Timestamp,
}

impl Renderer {
    /// Returns the objects: the node's first, then those of its sessions.
    pub fn objects(&mut self, status: &NodeStatus, now: Timestamp) -> Vec<Object> {
        self.update_sessions(status, now);
        let listed = listed(status);
        let mut objects = vec![self.node(status, listed.len(), now)];
        objects.extend(listed.into_iter().map(|session| self.session(&status.node, session)));
        objects
    }

    /// Records the time at which each session was established or went down. Changes between the other states are not counted: a
    /// session that is down goes through them all the time.
    fn update_sessions(&mut self, status: &NodeStatus, now: Timestamp) {
        let peers: std::collections::BTreeSet<_> =
            status.sessions.iter().map(|session| session.peer).collect();
        self.sessions.retain(|peer, _| peers.contains(peer));
        for session in &status.sessions {
            let (established, count) = (session.established(), session.established_count);
            let previous = self.sessions.get(&session.peer);
            if previous.is_none_or(|previous| (previous.established, previous.count) != (established, count))
            {
                let ago = Duration::try_from_secs_f64(session.uptime_seconds).unwrap_or_default();
                let since = now.checked_sub(ago).unwrap_or(now);
                self.sessions.insert(session.peer, SessionHistory { established, count, since });
            }
        }
    }

    fn session(&self, node: &str, session: &SessionStatus) -> Object {
        let since = self.sessions.get(&session.peer).map(|history| Time(history.since));
        let error = (!session.established())
            .then(|| session.last_error.as_deref().unwrap_or(&session.reason))
            .filter(|error| !error.is_empty())
            .map(truncate);
        let established = Condition {
            type_: "Established".into(),
            status: condition_status(session.established()).into(),
            reason: if session.established() { "Established" } else { "NotEstablished" }.into(),
            message: error.clone().unwrap_or_default(),
            last_transition_time: since.clone().unwrap_or(Time(Timestamp::UNIX_EPOCH)),
            observed_generation: None,
        };
        let status = BGPSessionStatus {
            state: session.state.as_str().into(),
            since,
            received: session.received as u64,
            accepted: session.accepted as u64,
            advertised: session.advertised as u64,
            stale: session.stale as u64,
            router_id: session.router_id.map(|id| id.to_string()),
            hold_seconds: session.hold_seconds,
            established_count: session.established_count,
            bfd: session.bfd.as_ref().map(|bfd| bfd.state.as_str().into()),
            peer_generation: session.peer_generation,
            error,
            conditions: vec![established],
        };
        let spec = BGPSessionSpec {
            node: node.into(),
            peer: session.peer.to_string(),
            peer_kind: if session.role.is_node() { "Node" } else { "BGPPeer" }.into(),
            peer_name: session.name.clone(),
            peer_asn: session.asn,
            role: session.role.to_string(),
        };
        Object {
            key: ObjectRef { kind: ObjectKind::BGPSession, name: session_name(node, session.peer) },
            signal: format!(
                "{} {} {} {:?} {:?} {:?}",
                session.established(),
                session.established_count,
                session.stale > 0,
                status.bfd,
                status.error,
                status.peer_generation
            ),
            spec: value(&spec),
            status: value(&status),
        }
    }

    fn node(&mut self, status: &NodeStatus, listed: usize, now: Timestamp) -> Object {
        let total = status.sessions.len();
        let up = status.sessions.iter().filter(|session| session.established()).count();
        let out_of_sync = out_of_sync(status);
        // Errors that prevent writing are over when the object is read.
        let write_error =
            status.status_writer.as_ref().and_then(|status_writer| status_writer.error.as_ref());
        let unreachable = status.store.as_ref().filter(|store| !store.rejected);
        let store_error = unreachable.and_then(|store| store.last_error.as_ref());
        let transient = [write_error, store_error];
        let problems = status.problems.iter().filter(|problem| !transient.contains(&Some(*problem)));
        let problems: Vec<_> = problems.take(MAX_PROBLEMS).map(|problem| truncate(problem)).collect();
        let conditions = vec![
            self.condition("Ready", ("FirstSyncDone", "Waiting"), &status.waiting_for.join("; "), now),
            self.condition("InSync", ("InForce", "NotInForce"), &out_of_sync, now),
            self.condition("SessionsEstablished", ("All", "NotAll"), &sessions_down(status), now),
        ];
        let signal =
            conditions.iter().map(|condition| format!("{}: {}; ", condition.status, condition.message));
        let role = role(status);
        let signal = format!("{role} {up}/{total} {} {problems:?}", signal.collect::<String>());
        let node_status = BGPNodeStatus {
            role: role.into(),
            version: status.version.clone(),
            sessions: SessionCounts::new(up as u64, total as u64),
            unlisted_sessions: (total - listed) as u64,
            routes: status.route_counts.iter().map(|routes| routes.count as u64).sum(),
            tunnels: status.next_hops.iter().filter(|hop| hop.reachability == Reachability::Tunnel).count()
                as u64,
            in_sync: out_of_sync.is_empty(),
            problems,
            conditions,
        };
        Object {
            key: ObjectRef { kind: ObjectKind::BGPNode, name: status.node.clone() },
            spec: value(&BGPNodeSpec { node: status.node.clone() }),
            status: value(&node_status),
            signal,
        }
    }

    /// Returns a condition that is true if `message`, the reason against it, is empty. `reasons` are those for true and false.
    fn condition(&mut self, kind: &str, reasons: (&str, &str), message: &str, now: Timestamp) -> Condition {
        let holds = message.is_empty();
        let last = self.conditions.entry(kind.into()).or_insert((holds, now));
        if last.0 != holds {
            *last = (holds, now);
        }
        Condition {
            type_: kind.into(),
            status: condition_status(holds).into(),
            reason: if holds { reasons.0 } else { reasons.1 }.into(),
            message: truncate(message),
            last_transition_time: Time(last.1),
            observed_generation: None,
        }
    }
}

/// Returns the sessions that have a BGPSession: all of them, or on a node with many neighbors that are nodes only some that
/// are down. So the number of objects does not grow with the square of the number of nodes.
pub fn listed(status: &NodeStatus) -> Vec<&SessionStatus> {
    let nodes = status.sessions.iter().filter(|session| session.role.is_node()).count();
    if nodes <= MAX_LISTED {
        return status.sessions.iter().collect();
    }
    // After a start all are down; their number is enough.
    let mut room = if status.waiting_for.is_empty() { MAX_LISTED_DOWN } else { 0 };
    let mut listed = |session: &&SessionStatus| {
        if !session.role.is_node() {
            return true;
        }
        let take = !session.established() && room > 0;
        room -= usize::from(take);
        take
    };
    status.sessions.iter().filter(|session| listed(session)).collect()
}

/// Returns the reasons why the intent is not in force in BGP and in the kernel; empty: it is.
fn out_of_sync(status: &NodeStatus) -> String {
    let rejections = status.intent.rejections.iter().take(MAX_REASONS);
    let mut reasons: Vec<String> = rejections.map(ToString::to_string).collect();
    if !status.intent.in_sync && reasons.is_empty() {
        let rejecting = status.store.as_ref().filter(|store| store.rejected);
        let error = rejecting.and_then(|store| store.last_error.clone());
        reasons.push(error.unwrap_or_else(|| "the present content of the store is not in force".into()));
    }
    if let Some(kernel) = status.kernel.as_ref().filter(|kernel| !kernel.in_sync) {
        reasons.extend(kernel.errors.iter().take(MAX_REASONS).map(ToString::to_string));
        if kernel.errors.is_empty() {
            reasons.push("the kernel is not in sync yet".into());
        }
    }
    reasons.join("; ")
}

/// Returns the sessions that are not established, the first few by name; empty: all are.
fn sessions_down(status: &NodeStatus) -> String {
    let down = || status.sessions.iter().filter(|session| !session.established());
    let names: Vec<_> =
        down().take(MAX_NAMED).map(|session| format!("{} ({})", session.name, session.peer)).collect();
    match down().count().saturating_sub(names.len()) {
        0 if names.is_empty() => String::new(),
        0 => format!("not established: {}", names.join(", ")),
        more => format!("not established: {} and {more} more", names.join(", ")),
    }
}

/// Returns the role in the object. A stand-alone reflector has that role even before the intent makes it one.
fn role(status: &NodeStatus) -> &'static str {
    let reflects = status.reflects || status.role == Role::Reflector;
    if reflects { Role::Reflector } else { Role::Node }.as_str()
}

fn condition_status(holds: bool) -> &'static str {
    if holds { "True" } else { "False" }
}

/// Returns a text with at most `MAX_TEXT` characters.
pub fn truncate(text: &str) -> String {
    match text.char_indices().nth(MAX_TEXT) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.into(),
    }
}

/// Returns the JSON of a part. Types of ours always have one.
fn value(part: &impl Serialize) -> Value {
    serde_json::to_value(part).unwrap_or_default()
}

#[cfg(test)]
mod tests;
