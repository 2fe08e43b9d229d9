//! From one set of sessions between nodes to another without a moment in between.
//!
//! Where reflectors take over from a mesh, or a mesh from reflectors, or other nodes reflect, every node follows at a
//! moment of its own. A session that ended at once would take its routes along before the new ones have brought them,
//! here or at its other end, and so would a reflector that stopped to reflect. So what is new comes up first. What isn't
//! wanted any more leaves when that is so, and when everybody else has had the time to get there, too. Where the new
//! doesn't come up the old stays: a session that brings what no other brings isn't ended for one that brings nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use heliograph_bgp::Neighbor;
use heliograph_bgp::Prefix;

use super::{NeighborRole, SpeakerPlan};
use crate::intent::{Node, Snapshot};

/// Time for all other nodes to learn of a change, too, and to have their new sessions up.
const OTHERS_FOLLOW: Duration = Duration::from_secs(10);
/// After this time one new session that is up is enough, and what still has to stay is a problem.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is looked whether all is up.
const AGAIN: Duration = Duration::from_secs(1);
/// So many neighbours are named in a problem.
const NAMED: usize = 5;

/// What the sessions do that there are.
#[derive(Debug, Default)]
pub struct Present {
    /// The neighbours whose sessions are up.
    pub established: BTreeSet<IpAddr>,
    /// What comes from whom, the stale left out; `None`: it is our own.
    pub paths: Vec<(Prefix, Option<IpAddr>)>,
}

/// What is wanted, and what of before stays beside it for a while.
#[derive(Debug, Default)]
pub struct TopologyChange {
    /// Of the last look.
    wanted: Option<(Arc<Snapshot>, SpeakerPlan)>,
    /// Neighbours that aren't wanted any more.
    leaving: BTreeMap<IpAddr, (Neighbor, NeighborRole)>,
    /// Neighbours that we go on to reflect to.
    clients: BTreeSet<IpAddr>,
    /// The Nodes of those that leave, where no store tells of them any more.
    nodes: BTreeMap<String, Node>,
    /// When something was last wanted no more.
    since: Option<Instant>,
}

impl TopologyChange {
    /// Whether anything of before is still there.
    pub fn active(&self) -> bool {
        !(self.leaving.is_empty() && self.clients.is_empty())
    }

    /// Whether what of before is still there can leave as far as sessions tell: those that are wanted, too, are up.
    pub fn due(&self, wanted: &SpeakerPlan, established: &BTreeSet<IpAddr>, now: Instant) -> bool {
        let Some(since) = self.since.filter(|_| self.active()) else { return false };
        let (up, all) = (up(wanted, established), between_nodes(wanted).count());
        up > 0 && (now >= since + PATIENCE || now >= since + OTHERS_FOLLOW && up == all)
    }

    /// When to look again if nothing else happens. What has stayed for long waits for something to happen.
    pub fn next_look(&self, now: Instant) -> Option<Instant> {
        let since = self.since.filter(|since| self.active() && now < *since + PATIENCE)?;
        Some((since + OTHERS_FOLLOW).max(now + AGAIN))
    }

    /// What to go by and what to be now, given what `node` should go by and be. `present` may be empty where nothing is
    /// [`TopologyChange::active`], its paths where nothing is [`TopologyChange::due`].
    pub fn follow(
        &mut self,
        node: &str,
        snapshot: &Arc<Snapshot>,
        wanted: SpeakerPlan,
        present: &Present,
        now: Instant,
    ) -> (Arc<Snapshot>, SpeakerPlan) {
        let before = self.wanted.take();
        match &before {
            Some((former, spoken)) if goes_on(node, former, snapshot) => {
                if *spoken != wanted && self.keep(former, spoken, snapshot, &wanted) {
                    self.since = Some(now);
                }
            }
            _ => self.forget(),
        }
        self.leaving.retain(|address, _| {
            let gone = snapshot.all_nodes && snapshot.node_at(*address).is_none();
            !gone && !wanted.roles.contains_key(address)
        });
        self.clients.retain(|address| wanted.roles.contains_key(address));
        if self.due(&wanted, &present.established, now) {
            self.let_go(present);
        }
        if !self.active() {
            self.forget();
        }
        let mut speaking = self.beside_sessions(wanted.clone());
        speaking.problems.extend(self.waits_for(&wanted, up(&wanted, &present.established), now));
        let shown = (self.beside_nodes(snapshot), speaking);
        self.wanted = Some((snapshot.clone(), wanted));
        shown
    }

    fn forget(&mut self) {
        *self = Self::default();
    }

    /// Notes what `wanted` lacks of what was; whether it lacks anything.
    fn keep(
        &mut self,
        former: &Snapshot,
        spoken: &SpeakerPlan,
        snapshot: &Snapshot,
        wanted: &SpeakerPlan,
    ) -> bool {
        let mut any = false;
        for neighbor in &spoken.config.neighbors {
            let Some(role) = spoken.roles.get(&neighbor.address).filter(|role| of_nodes(**role)) else {
                continue;
            };
            match wanted.config.neighbors.iter().find(|other| other.address == neighbor.address) {
                Some(other) => {
                    if neighbor.reflector_client && !other.reflector_client {
                        any |= self.clients.insert(neighbor.address);
                    }
                }
                // A Node that is gone takes its session along at once.
                None if snapshot.all_nodes && snapshot.node_at(neighbor.address).is_none() => {}
                None => {
                    self.leaving.insert(neighbor.address, (neighbor.clone(), *role));
                    self.nodes.extend(
                        former.nodes.get_key_value(&neighbor.name).map(|(k, v)| (k.clone(), v.clone())),
                    );
                    any = true;
                }
            }
        }
        any
    }

    /// Lets go what brings nothing that no other brings. Where one end has its reflector and the other has not, each may
    /// have the other's routes by their old session only.
    fn let_go(&mut self, present: &Present) {
        let leaves = |from: &Option<IpAddr>| from.is_some_and(|address| self.leaving.contains_key(&address));
        let (old, others): (Vec<_>, Vec<_>) =
            present.paths.iter().copied().partition(|(_, from)| leaves(from));
        let others: BTreeSet<Prefix> = others.into_iter().map(|(prefix, _)| prefix).collect();
        let alone = old.into_iter().filter(|(prefix, _)| !others.contains(prefix));
        let alone: BTreeSet<IpAddr> = alone.filter_map(|(_, from)| from).collect();
        self.leaving.retain(|address, _| alone.contains(address));
        let names: BTreeSet<_> = self.leaving.values().map(|(neighbor, _)| neighbor.name.as_str()).collect();
        self.nodes.retain(|name, _| names.contains(name.as_str()));
        self.clients.clear();
    }

    /// What keeps the old from leaving when it is past its time.
    fn waits_for(&self, wanted: &SpeakerPlan, up: usize, now: Instant) -> Option<String> {
        self.since.filter(|since| self.active() && now >= *since + PATIENCE)?;
        let new = names(between_nodes(wanted));
        let old = names(self.leaving.values().map(|(neighbor, _)| neighbor));
        let kept = if old.is_empty() {
            "nodes are reflected to as before".into()
        } else {
            format!("the former sessions with {old} stay")
        };
        let why = match (up, new.is_empty()) {
            (0, true) => "no other session between nodes is wanted".into(),
            (0, false) => format!("no session with {new} is up; see in their sessions why"),
            _ => format!(
                "what they bring comes by no other session; see that those nodes, too, have their sessions with {new}"
            ),
        };
        Some(format!("{kept}: {why}"))
    }

    fn beside_sessions(&self, mut speaking: SpeakerPlan) -> SpeakerPlan {
        for neighbor in &mut speaking.config.neighbors {
            neighbor.reflector_client |= self.clients.contains(&neighbor.address);
        }
        for (address, (neighbor, role)) in &self.leaving {
            speaking.roles.insert(*address, *role);
            speaking.config.neighbors.push(neighbor.clone());
        }
        speaking
    }

    /// With the Nodes that only we remember: their routes are still in force, perhaps through tunnels.
    fn beside_nodes(&self, snapshot: &Arc<Snapshot>) -> Arc<Snapshot> {
        let forgotten = |name: &&String| !snapshot.nodes.contains_key(*name);
        if snapshot.all_nodes || !self.nodes.keys().any(|name| forgotten(&name)) {
            return snapshot.clone();
        }
        let mut whole = Snapshot::clone(snapshot);
        for (name, node) in &self.nodes {
            whole.nodes.entry(name.clone()).or_insert_with(|| node.clone());
        }
        Arc::new(whole)
    }
}

/// Whether sessions between nodes can stay: what they all depend on is as it was.
fn goes_on(node: &str, former: &Snapshot, snapshot: &Snapshot) -> bool {
    let essence = |snapshot: &Snapshot| {
        let configuration = &snapshot.configuration;
        let addresses = snapshot.nodes.get(node).map(|node| node.addresses.clone());
        (configuration.asn, configuration.listen_port, addresses)
    };
    snapshot.nodes.contains_key(node) && essence(former) == essence(snapshot)
}

/// The neighbours that are nodes.
fn between_nodes(speaking: &SpeakerPlan) -> impl Iterator<Item = &Neighbor> {
    let neighbors = speaking.config.neighbors.iter();
    neighbors.filter(|neighbor| speaking.roles.get(&neighbor.address).is_some_and(|role| of_nodes(*role)))
}

/// How many of these have their session up.
fn up(speaking: &SpeakerPlan, established: &BTreeSet<IpAddr>) -> usize {
    between_nodes(speaking).filter(|neighbor| established.contains(&neighbor.address)).count()
}

/// Their names, the first few of many.
fn names<'a>(neighbors: impl Iterator<Item = &'a Neighbor>) -> String {
    let all: Vec<_> = neighbors.map(|neighbor| neighbor.name.as_str()).collect();
    let first = all.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
    match all.len().saturating_sub(NAMED) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}

/// Whether it is a node, and no BGPPeer.
fn of_nodes(role: NeighborRole) -> bool {
    matches!(role, NeighborRole::Mesh | NeighborRole::Reflector | NeighborRole::Client)
}

#[cfg(test)]
mod tests;
