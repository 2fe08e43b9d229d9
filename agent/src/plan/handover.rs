//! From one set of sessions between nodes to another without a moment in between.
//!
//! Where reflectors take over from a mesh, or a mesh from reflectors, or other nodes reflect, every node follows at a
//! moment of its own. A session that ended at once would take its routes along before the new ones have brought them,
//! here or at its other end, and so would a reflector that stopped to reflect. So what is new comes up first. What isn't
//! wanted any more leaves when that is so, and when everybody else has had the time to get there, too.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use heliograph_bgp::Neighbor;

use super::{NeighborRole, Speaking};
use crate::intent::{Node, Snapshot};

/// Time for all other nodes to learn of a change, too, and to have their new sessions up.
const OTHERS_FOLLOW: Duration = Duration::from_secs(10);
/// What isn't wanted leaves after this time even if some new session isn't up.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is looked whether all is up.
const AGAIN: Duration = Duration::from_secs(1);

/// What is wanted, and what of before stays beside it for a while.
#[derive(Debug, Default)]
pub struct Handover {
    /// Of the last look.
    wanted: Option<(Arc<Snapshot>, Speaking)>,
    /// Neighbours that aren't wanted any more.
    leaving: BTreeMap<IpAddr, (Neighbor, NeighborRole)>,
    /// Neighbours that we go on to reflect to.
    clients: BTreeSet<IpAddr>,
    /// The Nodes of those that leave, where no store tells of them any more.
    nodes: BTreeMap<String, Node>,
    /// When something was last wanted no more.
    since: Option<Instant>,
}

impl Handover {
    /// Whether anything of before is still there.
    pub fn active(&self) -> bool {
        !(self.leaving.is_empty() && self.clients.is_empty())
    }

    /// When to look again if nothing else happens.
    pub fn next_look(&self, now: Instant) -> Option<Instant> {
        let since = self.since.filter(|_| self.active())?;
        Some((since + OTHERS_FOLLOW).max(now + AGAIN))
    }

    /// What to go by and what to be now, given what `node` should go by and be. `established` are the neighbours whose
    /// sessions are up; it may be empty where nothing is [`Handover::active`].
    pub fn follow(
        &mut self,
        node: &str,
        snapshot: &Arc<Snapshot>,
        wanted: Speaking,
        established: &BTreeSet<IpAddr>,
        now: Instant,
    ) -> (Arc<Snapshot>, Speaking) {
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
        if self.is_over(&wanted, established, now) {
            self.forget();
        }
        let shown = (self.beside_nodes(snapshot), self.beside_sessions(wanted.clone()));
        self.wanted = Some((snapshot.clone(), wanted));
        shown
    }

    fn forget(&mut self) {
        *self = Self::default();
    }

    /// Notes what `wanted` lacks of what was; whether it lacks anything.
    fn keep(&mut self, former: &Snapshot, spoken: &Speaking, snapshot: &Snapshot, wanted: &Speaking) -> bool {
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

    fn is_over(&self, wanted: &Speaking, established: &BTreeSet<IpAddr>, now: Instant) -> bool {
        let Some(since) = self.since.filter(|_| self.active()) else { return true };
        let mut between_nodes =
            wanted.roles.iter().filter(|(_, role)| of_nodes(**role)).map(|(address, _)| address);
        now >= since + PATIENCE
            || (now >= since + OTHERS_FOLLOW && between_nodes.all(|address| established.contains(address)))
    }

    fn beside_sessions(&self, mut speaking: Speaking) -> Speaking {
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

/// Whether it is a node, and no BGPPeer.
fn of_nodes(role: NeighborRole) -> bool {
    matches!(role, NeighborRole::Mesh | NeighborRole::Reflector | NeighborRole::Client)
}

#[cfg(test)]
mod tests;
