//! With whom a node speaks BGP, and what it announces.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use heliograph_bgp::{Config, Filter, Neighbor, Network};

use super::hashed_router_id;
use crate::intent::{Node, Snapshot, SourceAddress, Topology};
use crate::names::named;

/// What a neighbour is to this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NeighborRole {
    /// A node like this one, in a full mesh; also a reflector to another.
    Mesh,
    /// It reflects to us.
    Reflector,
    /// We reflect to it.
    Client,
    /// A BGPPeer in our own AS.
    Internal,
    /// A BGPPeer in another AS.
    External,
}

named!(NeighborRole {
    Mesh => "Mesh",
    Reflector => "Reflector",
    Client => "Client",
    Internal => "Internal",
    External => "External",
});

/// What a node's speaker is to be.
#[derive(Clone, Debug, PartialEq)]
pub struct SpeakerPlan {
    /// For the speaker.
    pub config: Config,
    /// What each neighbour is, by its address.
    pub roles: BTreeMap<IpAddr, NeighborRole>,
    /// What is not as it should be, with what to do.
    pub problems: Vec<String>,
}

/// With whom `node` speaks. `announce`: it forwards for pods and says so; a stand-alone reflector doesn't.
///
/// A node that is not in the snapshot speaks with nobody.
pub fn bgp_config(snapshot: &Snapshot, node: &str, announce: bool) -> SpeakerPlan {
    let configuration = &snapshot.configuration;
    let this = snapshot.nodes.get(node);
    let mut speaking = SpeakerPlan {
        config: Config::new(configuration.asn, router_id(node, this))
            .graceful_restart(configuration.graceful_restart),
        roles: BTreeMap::new(),
        problems: Vec::new(),
    };
    let Some(this) = this else {
        speaking.problems.push(format!(
            "Node {node} is not in the intent: add a Node document of this name, or start with --node and the right one"
        ));
        return speaking;
    };
    if this.addresses.is_empty() {
        speaking.problems.push(format!(
            "Node {node} has no InternalIP, so nobody can peer with it: add one to status.addresses"
        ));
    }
    if announce {
        speaking.announce(this);
    }
    speaking.peer_with_nodes(snapshot, this);
    speaking.peer_with_others(snapshot, this);
    speaking
}

fn router_id(name: &str, node: Option<&Node>) -> Ipv4Addr {
    match node.and_then(|node| node.address(true)) {
        Some(IpAddr::V4(address)) => address,
        _ => hashed_router_id(name),
    }
}

impl SpeakerPlan {
    fn announce(&mut self, this: &Node) {
        if this.pod_cidrs.is_empty() {
            self.problems.push(format!(
                "Node {} has no pod CIDR, so it can run no pods: set spec.podCIDRs (Kubernetes: \
                 --allocate-node-cidrs of the controller manager)",
                this.name
            ));
        }
        for cidr in &this.pod_cidrs {
            match this.address(cidr.is_ipv4()) {
                // Said in full rather than left to the session: its transport may be of the other family.
                Some(address) => {
                    self.config.networks.push(Network::new((*cidr).into()).next_hop(address));
                }
                None => self.problems.push(format!(
                    "pod CIDR {cidr} is not announced: Node {} has no InternalIP of that family as its next hop; \
                     add one to status.addresses",
                    this.name
                )),
            }
        }
    }

    fn peer_with_nodes(&mut self, snapshot: &Snapshot, this: &Node) {
        let we_reflect = snapshot.is_reflector(this);
        let mut reflectors = usize::from(we_reflect);
        for other in snapshot.nodes.values().filter(|other| other.name != this.name) {
            let it_reflects = snapshot.is_reflector(other);
            reflectors += usize::from(it_reflects);
            let role = match (&snapshot.configuration.topology, we_reflect, it_reflects) {
                (Topology::FullMesh, ..) | (_, true, true) => NeighborRole::Mesh,
                (_, true, false) => NeighborRole::Client,
                (_, false, true) => NeighborRole::Reflector,
                (_, false, false) => continue,
            };
            self.peer_with_node(snapshot, this, other, role);
        }
        if matches!(snapshot.configuration.topology, Topology::Reflectors(_)) && reflectors == 0 {
            self.problems.push(
                "no node reflects, so nodes learn nothing of each other: label one as \
                 spec.reflectors.nodeSelector of the BGPConfiguration asks"
                    .into(),
            );
        }
    }

    fn peer_with_node(&mut self, snapshot: &Snapshot, this: &Node, other: &Node, role: NeighborRole) {
        // Both ends choose the same family from the same two Nodes.
        let pair = [true, false].into_iter().find_map(|v4| Some((this.address(v4)?, other.address(v4)?)));
        let Some((local, address)) = pair else {
            if !other.addresses.is_empty() && !this.addresses.is_empty() {
                self.problems.push(format!(
                    "no session with Node {}: it has no InternalIP of a family that Node {} has one of",
                    other.name, this.name
                ));
            } else if !this.addresses.is_empty() {
                self.problems.push(format!(
                    "no session with Node {}: it has no InternalIP; add one to its status.addresses",
                    other.name
                ));
            }
            return;
        };
        let neighbor = Neighbor::new(address, snapshot.configuration.asn)
            .port(snapshot.configuration.listen_port)
            .name(other.name.clone())
            .reflector_client(role == NeighborRole::Client)
            .local_address(local)
            .timers(snapshot.configuration.timers)
            .bfd(snapshot.configuration.bfd)
            .import(Filter::All)
            .export(Filter::All);
        self.add(neighbor, role);
    }

    fn peer_with_others(&mut self, snapshot: &Snapshot, this: &Node) {
        for peer in snapshot.peers.values().filter(|peer| peer.nodes.matches(&this.labels)) {
            let role = match peer.asn == snapshot.configuration.asn {
                true => NeighborRole::Internal,
                false => NeighborRole::External,
            };
            let local_address = match peer.source {
                SourceAddress::Kernel => None,
                SourceAddress::Address(address) => Some(address),
                SourceAddress::Node => match this.address(peer.address.is_ipv4()) {
                    Some(address) => Some(address),
                    None => {
                        self.problems.push(format!(
                            "no session with BGPPeer {}: its sourceAddress is InternalIP, but Node {} has none of \
                             {}'s family; add one to status.addresses, or change sourceAddress",
                            peer.name, this.name, peer.address
                        ));
                        continue;
                    }
                },
            };
            let neighbor = Neighbor::new(peer.address, peer.asn)
                .port(peer.port)
                .name(peer.name.clone())
                .local_asn(peer.local_asn)
                .local_address(local_address)
                .passive(peer.passive)
                .families(peer.families.clone())
                .timers(peer.timers)
                .role(peer.role)
                .strict_role(peer.strict_role)
                .prefix_limit(peer.prefix_limit)
                .ttl(peer.ttl)
                .authentication(peer.authentication.clone())
                .bfd(peer.bfd)
                .import(peer.import.clone())
                .export(peer.export.clone());
            self.add(neighbor, role);
        }
    }

    fn add(&mut self, neighbor: Neighbor, role: NeighborRole) {
        self.roles.insert(neighbor.address, role);
        self.config.neighbors.push(neighbor);
    }
}

#[cfg(test)]
mod tests;
