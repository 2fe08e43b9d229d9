//! The status of a node as objects: pure, with time as a value.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::object::{Key, Kind, Object, session_name};
use crate::api::bgp_node::SessionCounts;
use crate::api::{BGPNodeSpec, BGPNodeStatus, BGPSessionSpec, BGPSessionStatus};
use crate::plan::Reachability;
use crate::status::{NodeStatus, Role, SessionStatus};

/// With more sessions with other nodes than these, those that are established are only counted.
pub const LISTED: usize = 50;
/// Of the others then so many have a BGPSession at most.
pub const LISTED_DOWN: usize = 20;
/// Words are cut off here: objects are small.
const LONGEST_WORDS: usize = 512;
/// So many problems are told; `heliograph status` has them all.
const MOST_PROBLEMS: usize = 8;

/// What is told of one moment has to be remembered for the next: since when things are as they are.
#[derive(Debug, Default)]
pub struct View {
    sessions: BTreeMap<IpAddr, Held>,
    conditions: BTreeMap<String, (bool, Timestamp)>,
}

#[derive(Debug)]
struct Held {
    established: bool,
    count: u64,
    since: Timestamp,
}

impl View {
    /// The objects: the node's first, then those of its sessions.
    pub fn objects(&mut self, status: &NodeStatus, now: Timestamp) -> Vec<Object> {
        self.hold(status, now);
        let listed = listed(status);
        let mut objects = vec![self.node(status, listed.len(), now)];
        objects.extend(listed.into_iter().map(|session| self.session(&status.node, session)));
        objects
    }

    /// Sees since when each session is established, or isn't. A session that isn't goes from state to state all the time;
    /// that is no news.
    fn hold(&mut self, status: &NodeStatus, now: Timestamp) {
        let peers: std::collections::BTreeSet<_> =
            status.sessions.iter().map(|session| session.peer).collect();
        self.sessions.retain(|peer, _| peers.contains(peer));
        for session in &status.sessions {
            let (established, count) = (session.established(), session.established_count);
            let same = self.sessions.get(&session.peer);
            if same.is_none_or(|held| (held.established, held.count) != (established, count)) {
                let ago = Duration::try_from_secs_f64(session.uptime_seconds).unwrap_or_default();
                let since = now.checked_sub(ago).unwrap_or(now);
                self.sessions.insert(session.peer, Held { established, count, since });
            }
        }
    }

    fn session(&self, node: &str, session: &SessionStatus) -> Object {
        let since = self.sessions.get(&session.peer).map(|held| Time(held.since));
        let error = (!session.established())
            .then(|| session.last_error.as_deref().unwrap_or(&session.reason))
            .filter(|words| !words.is_empty())
            .map(cut);
        let established = Condition {
            type_: "Established".into(),
            status: word(session.established()).into(),
            reason: if session.established() { "Established" } else { "NotEstablished" }.into(),
            message: error.clone().unwrap_or_default(),
            last_transition_time: since.clone().unwrap_or(Time(Timestamp::UNIX_EPOCH)),
            observed_generation: None,
        };
        let status = BGPSessionStatus {
            state: session.state.clone(),
            since,
            received: session.received as u64,
            accepted: session.accepted as u64,
            advertised: session.advertised as u64,
            stale: session.stale as u64,
            router_id: session.router_id.map(|id| id.to_string()),
            hold_seconds: session.hold_seconds,
            established_count: session.established_count,
            bfd: session.bfd.as_ref().map(|bfd| bfd.state.clone()),
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
            role: format!("{:?}", session.role),
        };
        Object {
            key: Key { kind: Kind::Session, name: session_name(node, session.peer) },
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
        // What kept this from being written would no longer be true when it is read.
        let untold = status.status_writer.as_ref().and_then(|status_writer| status_writer.error.as_ref());
        let away = status.store.as_ref().filter(|store| !store.refused);
        let away = away.and_then(|store| store.last_error.as_ref());
        let problems =
            status.problems.iter().filter(|problem| Some(*problem) != untold && Some(*problem) != away);
        let problems: Vec<_> = problems.take(MOST_PROBLEMS).map(|problem| cut(problem)).collect();
        let conditions = vec![
            self.condition("Ready", ("FirstSyncDone", "Waiting"), &status.waiting_for.join("; "), now),
            self.condition("InSync", ("InForce", "NotInForce"), &out_of_sync, now),
            self.condition("SessionsEstablished", ("All", "NotAll"), &sessions_down(status), now),
        ];
        let signal =
            conditions.iter().map(|condition| format!("{}: {}; ", condition.status, condition.message));
        let role = role(status);
        let signal = format!("{role} {up}/{total} {} {problems:?}", signal.collect::<String>());
        let told = BGPNodeStatus {
            role: role.into(),
            version: status.version.clone(),
            sessions: SessionCounts::new(up as u64, total as u64),
            unlisted_sessions: (total - listed) as u64,
            routes: status.routes.iter().map(|routes| routes.count as u64).sum(),
            tunnels: status.segments.iter().filter(|segment| segment.verdict == Reachability::Tunnel).count()
                as u64,
            in_sync: out_of_sync.is_empty(),
            problems,
            conditions,
        };
        Object {
            key: Key { kind: Kind::Node, name: status.node.clone() },
            spec: value(&BGPNodeSpec { node: status.node.clone() }),
            status: value(&told),
            signal,
        }
    }

    /// A condition that is true while there is nothing to say against it.
    fn condition(&mut self, kind: &str, reasons: (&str, &str), against: &str, now: Timestamp) -> Condition {
        let holds = against.is_empty();
        let held = self.conditions.entry(kind.into()).or_insert((holds, now));
        if held.0 != holds {
            *held = (holds, now);
        }
        Condition {
            type_: kind.into(),
            status: word(holds).into(),
            reason: if holds { reasons.0 } else { reasons.1 }.into(),
            message: cut(against),
            last_transition_time: Time(held.1),
            observed_generation: None,
        }
    }
}

/// Those sessions that have a BGPSession: all of few, but of many with other nodes only some that aren't established,
/// so that objects grow with nodes and not with their square.
pub fn listed(status: &NodeStatus) -> Vec<&SessionStatus> {
    let nodes = status.sessions.iter().filter(|session| session.role.is_node()).count();
    if nodes <= LISTED {
        return status.sessions.iter().collect();
    }
    // At a start all are down; that is told by their number.
    let mut room = if status.waiting_for.is_empty() { LISTED_DOWN } else { 0 };
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

/// Why what is wanted isn't what is; empty: it is.
fn out_of_sync(status: &NodeStatus) -> String {
    let mut why: Vec<String> = status.intent.rejections.iter().take(3).map(ToString::to_string).collect();
    if !status.intent.in_sync && why.is_empty() {
        let refusing = status.store.as_ref().filter(|store| store.refused);
        let words = refusing.and_then(|store| store.last_error.clone());
        why.push(words.unwrap_or_else(|| "what the store holds now is not in force".into()));
    }
    if let Some(kernel) = status.kernel.as_ref().filter(|kernel| !kernel.in_sync) {
        let faults = kernel.errors.iter().take(3);
        why.extend(faults.map(|fault| format!("{}: {}; {}", fault.what, fault.error, fault.remedy)));
        if kernel.errors.is_empty() {
            why.push("the kernel does not yet hold what it should".into());
        }
    }
    why.join("; ")
}

/// Which sessions aren't established, the first few by name.
fn sessions_down(status: &NodeStatus) -> String {
    let down = || status.sessions.iter().filter(|session| !session.established());
    let names: Vec<_> =
        down().take(5).map(|session| format!("{} ({})", session.name, session.peer)).collect();
    match down().count().saturating_sub(names.len()) {
        0 if names.is_empty() => String::new(),
        0 => format!("not established: {}", names.join(", ")),
        more => format!("not established: {} and {more} more", names.join(", ")),
    }
}

/// A stand-alone reflector is one, too, while nobody has told it to reflect.
fn role(status: &NodeStatus) -> &'static str {
    if status.reflects || status.role == Role::Reflector { "Reflector" } else { "Node" }
}

fn word(holds: bool) -> &'static str {
    if holds { "True" } else { "False" }
}

/// Words as they are told: not too many.
pub fn cut(words: &str) -> String {
    match words.char_indices().nth(LONGEST_WORDS) {
        Some((end, _)) => format!("{}…", &words[..end]),
        None => words.into(),
    }
}

/// A value of our own making can always be written.
fn value(part: &impl Serialize) -> Value {
    serde_json::to_value(part).unwrap_or_default()
}

#[cfg(test)]
mod tests;
