//! Topology changes: from one set of sessions between nodes to another without losing routes.
//!
//! When reflectors replace a full mesh, a mesh replaces reflectors, or other nodes become reflectors, each node follows at
//! a time of its own. If a node closed its old sessions or stopped reflecting at once, routes would be withdrawn, here or at
//! the other end, before the new sessions have brought them. So the new sessions are opened first, and the old ones are
//! retained until the new ones are established and all other nodes have had the time to follow. If the new sessions are not
//! established, the old ones stay: a session that is the only source of a prefix is never closed in favor of one that
//! brings nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use heliograph_bgp::Neighbor;
use heliograph_bgp::Prefix;

use super::{NeighborRole, SpeakerPlan};
use crate::intent::{self, Snapshot};

/// The time in which all other nodes receive the new configuration and establish their new sessions.
const PROPAGATION_TIME: Duration = Duration::from_secs(10);
/// The time after which one established new session is enough, and after which retained sessions are a problem.
const TIMEOUT: Duration = Duration::from_secs(60);
/// The interval of checks whether the new sessions are established.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// The number of neighbors that a problem lists by name.
const MAX_NAMES: usize = 5;

/// The sessions and paths of the speaker at one moment.
#[derive(Debug, Default)]
pub struct SpeakerState {
    /// The neighbors whose sessions are established.
    pub established: BTreeSet<IpAddr>,
    /// The prefix and the neighbor of each path that is not stale; `None`: originated by this node.
    pub paths: Vec<(Prefix, Option<IpAddr>)>,
}

/// A topology change, and the sessions that are retained for it.
#[derive(Debug, Default)]
pub struct TopologyChange {
    /// The snapshot and the plan of the last update.
    last: Option<(Arc<Snapshot>, Arc<SpeakerPlan>)>,
    /// The neighbors that the plan no longer contains.
    sessions: BTreeMap<IpAddr, (Neighbor, NeighborRole)>,
    /// The neighbors that stay clients although the plan no longer makes them clients.
    clients: BTreeSet<IpAddr>,
    /// The Nodes of retained sessions, which the store may no longer contain.
    nodes: intent::Nodes,
    /// The time when a session or client was last removed from the plan.
    since: Option<Instant>,
}

impl TopologyChange {
    /// Returns the snapshot and the plan of the last update, without what is retained.
    pub fn last(&self) -> Option<&(Arc<Snapshot>, Arc<SpeakerPlan>)> {
        self.last.as_ref()
    }

    /// Returns whether a session or client is retained.
    pub fn active(&self) -> bool {
        !(self.sessions.is_empty() && self.clients.is_empty())
    }

    /// Returns whether the change can be completed as far as sessions decide: enough sessions of the new `plan` are
    /// established.
    pub fn due(&self, plan: &SpeakerPlan, established: &BTreeSet<IpAddr>, now: Instant) -> bool {
        let Some(since) = self.since.filter(|_| self.active()) else { return false };
        let (up, all) = (established_count(plan, established), node_neighbors(plan).count());
        up > 0 && (now >= since + TIMEOUT || now >= since + PROPAGATION_TIME && up == all)
    }

    /// Returns the time of the next check if nothing else happens. After `TIMEOUT` only events cause checks.
    pub fn next_check(&self, now: Instant) -> Option<Instant> {
        let since = self.since.filter(|since| self.active() && now < *since + TIMEOUT)?;
        Some((since + PROPAGATION_TIME).max(now + CHECK_INTERVAL))
    }

    /// Returns the snapshot and the plan to use for `node`: those that are passed, with what is retained. `state` may be
    /// empty if nothing is [`TopologyChange::active`], and its paths if nothing is [`TopologyChange::due`].
    pub fn update(
        &mut self,
        node: &str,
        snapshot: &Arc<Snapshot>,
        plan: Arc<SpeakerPlan>,
        state: &SpeakerState,
        now: Instant,
    ) -> (Arc<Snapshot>, Arc<SpeakerPlan>) {
        let last = self.last.take();
        match &last {
            Some((last_snapshot, last_plan)) if sessions_survive(node, last_snapshot, snapshot) => {
                let changed = !Arc::ptr_eq(last_plan, &plan) && *last_plan != plan;
                if changed && self.retain_removed(last_snapshot, last_plan, snapshot, &plan) {
                    self.since = Some(now);
                }
            }
            _ => self.reset(),
        }
        self.sessions.retain(|address, _| {
            let deleted = snapshot.all_nodes && snapshot.node_at(*address).is_none();
            !deleted && !plan.roles.contains_key(address)
        });
        self.clients.retain(|address| plan.roles.contains_key(address));
        if self.due(&plan, &state.established, now) {
            self.release(state);
        }
        if !self.active() {
            self.reset();
        }
        let mut merged = plan.clone();
        if self.active() {
            let merged = Arc::make_mut(&mut merged);
            self.add_sessions(merged);
            merged.problems.extend(self.problem(&plan, established_count(&plan, &state.established), now));
        }
        let result = (self.with_nodes(snapshot), merged);
        self.last = Some((snapshot.clone(), plan));
        result
    }

    fn reset(&mut self) {
        *self = Self::default();
    }

    /// Retains the sessions and clients of the last plan that the new one lacks; returns whether there are any.
    fn retain_removed(
        &mut self,
        last_snapshot: &Snapshot,
        last_plan: &SpeakerPlan,
        snapshot: &Snapshot,
        plan: &SpeakerPlan,
    ) -> bool {
        let mut any = false;
        let new: HashMap<IpAddr, &Neighbor> =
            plan.config.neighbors.iter().map(|neighbor| (neighbor.address, neighbor)).collect();
        for neighbor in &last_plan.config.neighbors {
            let Some(role) = last_plan.roles.get(&neighbor.address).filter(|role| role.is_node()) else {
                continue;
            };
            match new.get(&neighbor.address) {
                Some(other) => {
                    if neighbor.reflector_client && !other.reflector_client {
                        any |= self.clients.insert(neighbor.address);
                    }
                }
                // The session with a deleted Node is closed at once.
                None if snapshot.all_nodes && snapshot.node_at(neighbor.address).is_none() => {}
                None => {
                    self.sessions.insert(neighbor.address, (neighbor.clone(), *role));
                    let node = last_snapshot.nodes.get(neighbor.name.as_str());
                    self.nodes.extend(node.map(|node| (node.name.clone(), node.clone())));
                    any = true;
                }
            }
        }
        any
    }

    /// Releases all clients, and all sessions but those that are the only source of a prefix. Where one end of a session
    /// has its reflector and the other has not, the old session is the only way by which they get each other's routes.
    fn release(&mut self, state: &SpeakerState) {
        let is_retained =
            |from: &Option<IpAddr>| from.is_some_and(|address| self.sessions.contains_key(&address));
        let (old, new): (Vec<_>, Vec<_>) =
            state.paths.iter().copied().partition(|(_, from)| is_retained(from));
        let new: BTreeSet<Prefix> = new.into_iter().map(|(prefix, _)| prefix).collect();
        let only_source = old.into_iter().filter(|(prefix, _)| !new.contains(prefix));
        let only_source: BTreeSet<IpAddr> = only_source.filter_map(|(_, from)| from).collect();
        self.sessions.retain(|address, _| only_source.contains(address));
        let names: BTreeSet<_> = self.sessions.values().map(|(neighbor, _)| neighbor.name.as_str()).collect();
        self.nodes.retain(|name, _| names.contains(&**name));
        self.clients.clear();
    }

    /// Returns the reason for which something is still retained after [`TIMEOUT`].
    fn problem(&self, plan: &SpeakerPlan, established: usize, now: Instant) -> Option<String> {
        self.since.filter(|since| self.active() && now >= *since + TIMEOUT)?;
        let new = names(node_neighbors(plan));
        let old = names(self.sessions.values().map(|(neighbor, _)| neighbor));
        let retained = if old.is_empty() {
            "nodes remain clients of this reflector".into()
        } else {
            format!("the former sessions with {old} are retained")
        };
        let reason = match (established, new.is_empty()) {
            (0, true) => "the configuration has no other session between nodes".into(),
            (0, false) => format!("no session with {new} is established; see these sessions for the reason"),
            _ => format!(
                "their routes come by no other session; check that those nodes, too, have established sessions with {new}"
            ),
        };
        Some(format!("{retained}: {reason}"))
    }

    /// Adds the retained sessions and clients to a plan.
    fn add_sessions(&self, plan: &mut SpeakerPlan) {
        for neighbor in &mut plan.config.neighbors {
            neighbor.reflector_client |= self.clients.contains(&neighbor.address);
        }
        for (address, (neighbor, role)) in &self.sessions {
            plan.roles.insert(*address, *role);
            plan.config.neighbors.push(neighbor.clone());
        }
    }

    /// Adds the Nodes of retained sessions to a snapshot that lacks them: their routes are in use, perhaps through tunnels.
    fn with_nodes(&self, snapshot: &Arc<Snapshot>) -> Arc<Snapshot> {
        if snapshot.all_nodes || self.nodes.keys().all(|name| snapshot.nodes.contains_key(name)) {
            return snapshot.clone();
        }
        let mut merged = Snapshot::clone(snapshot);
        let nodes = Arc::make_mut(&mut merged.nodes);
        for (name, node) in &self.nodes {
            nodes.entry(name.clone()).or_insert_with(|| node.clone());
        }
        Arc::new(merged)
    }
}

/// Returns whether sessions between nodes can stay: the settings that all of them depend on are the same.
fn sessions_survive(node: &str, last: &Snapshot, snapshot: &Snapshot) -> bool {
    let settings = |snapshot: &Snapshot| {
        let configuration = &snapshot.configuration;
        let addresses = snapshot.nodes.get(node).map(|node| node.addresses.clone());
        (configuration.asn, configuration.listen_port, addresses)
    };
    snapshot.nodes.contains_key(node) && settings(last) == settings(snapshot)
}

/// Returns the neighbors that are nodes.
fn node_neighbors(plan: &SpeakerPlan) -> impl Iterator<Item = &Neighbor> {
    let is_node = |neighbor: &&Neighbor| plan.roles.get(&neighbor.address).is_some_and(|role| role.is_node());
    plan.config.neighbors.iter().filter(is_node)
}

/// Returns the number of nodes with an established session.
fn established_count(plan: &SpeakerPlan, established: &BTreeSet<IpAddr>) -> usize {
    node_neighbors(plan).filter(|neighbor| established.contains(&neighbor.address)).count()
}

/// Returns the names of neighbors, at most [`MAX_NAMES`] of them.
fn names<'a>(neighbors: impl Iterator<Item = &'a Neighbor>) -> String {
    let all: Vec<_> = neighbors.map(|neighbor| neighbor.name.as_str()).collect();
    let first = all.iter().take(MAX_NAMES).copied().collect::<Vec<_>>().join(", ");
    match all.len().saturating_sub(MAX_NAMES) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}

#[cfg(test)]
mod tests;
