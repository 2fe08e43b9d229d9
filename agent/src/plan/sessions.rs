//! The configuration of a node's BGP speaker: its neighbors, and the networks that it originates.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use heliograph_bgp::{Config, Filter, Neighbor, Network};
use heliograph_cni::IpFamily;

use super::hashed_router_id;
use crate::intent::{Node, Snapshot, SourceAddress, Topology};
use crate::names::named;

/// The role of a neighbor towards this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NeighborRole {
    /// A node in a full mesh; also one reflector to another.
    Mesh,
    /// A reflector, of which this node is a client.
    Reflector,
    /// A client of this node.
    Client,
    /// A BGPPeer in the same AS.
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

impl NeighborRole {
    /// Returns whether the neighbor is a node, and no BGPPeer.
    pub fn is_node(self) -> bool {
        match self {
            NeighborRole::Mesh | NeighborRole::Reflector | NeighborRole::Client => true,
            NeighborRole::Internal | NeighborRole::External => false,
        }
    }
}

/// The configuration of a node's speaker.
#[derive(Clone, Debug, PartialEq)]
pub struct SpeakerPlan {
    /// The configuration to pass to the speaker.
    pub config: Config,
    /// The role of each neighbor, by its address.
    pub roles: BTreeMap<IpAddr, NeighborRole>,
    /// The problems, each with a remedy.
    pub problems: Vec<String>,
}

/// Returns the configuration of the speaker of `node`. `originate`: the node forwards for pods and advertises its pod
/// CIDRs; a stand-alone reflector doesn't.
///
/// A node that is not in the snapshot has no neighbors.
pub fn bgp_config(snapshot: &Snapshot, node: &str, originate: bool) -> SpeakerPlan {
    let configuration = &snapshot.configuration;
    let this = snapshot.node(node);
    let mut plan = SpeakerPlan {
        config: Config::new(configuration.asn, router_id(node, this))
            .graceful_restart(configuration.graceful_restart),
        roles: BTreeMap::new(),
        problems: Vec::new(),
    };
    let Some(this) = this else {
        plan.problems.push(format!(
            "Node {node} is not in the intent: add a Node document of this name, or start with --node and the right one"
        ));
        return plan;
    };
    if this.addresses.is_empty() {
        plan.problems.push(format!(
            "Node {node} has no InternalIP, so no node can peer with it: add one to status.addresses"
        ));
    }
    if originate {
        plan.originate(this);
    }
    plan.add_nodes(snapshot, this);
    plan.add_peers(snapshot, this);
    plan
}

/// Returns whether two snapshots have the same sessions of `node`, as far as that is seen at a glance: no part that sessions
/// depend on was replaced. A change of another Node's pod CIDRs is none of them.
pub fn same_sessions(former: &Snapshot, snapshot: &Snapshot, node: &str) -> bool {
    let same_settings = Arc::ptr_eq(&former.configuration, &snapshot.configuration)
        && Arc::ptr_eq(&former.peers, &snapshot.peers)
        && former.all_nodes == snapshot.all_nodes
        && former.nodes.len() == snapshot.nodes.len();
    let same_node = |(a, b): (&Arc<Node>, &Arc<Node>)| {
        let alike =
            || a.name == b.name && a.addresses == b.addresses && a.labels == b.labels && *a.name != *node;
        Arc::ptr_eq(a, b) || alike()
    };
    same_settings
        && (Arc::ptr_eq(&former.nodes, &snapshot.nodes)
            || former.nodes.values().zip(snapshot.nodes.values()).all(same_node))
}

fn router_id(name: &str, node: Option<&Node>) -> Ipv4Addr {
    match node.and_then(|node| node.address(IpFamily::V4)) {
        Some(IpAddr::V4(address)) => address,
        _ => hashed_router_id(name),
    }
}

impl SpeakerPlan {
    fn originate(&mut self, this: &Node) {
        if this.pod_cidrs.is_empty() {
            self.problems.push(format!(
                "Node {} has no pod CIDR, so it can run no pods: set spec.podCIDRs (Kubernetes: \
                 --allocate-node-cidrs of the controller manager)",
                this.name
            ));
        }
        for cidr in &this.pod_cidrs {
            match this.address(IpFamily::of_network(cidr)) {
                // Given explicitly: the default of the session may be of the other family.
                Some(address) => {
                    self.config.networks.push(Network::new((*cidr).into()).next_hop(address));
                }
                None => self.problems.push(format!(
                    "pod CIDR {cidr} is not advertised: Node {} has no InternalIP of that family as its next hop; \
                     add one to status.addresses",
                    this.name
                )),
            }
        }
    }

    fn add_nodes(&mut self, snapshot: &Snapshot, this: &Node) {
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
            self.add_node(snapshot, this, other, role);
        }
        if matches!(snapshot.configuration.topology, Topology::Reflectors(_)) && reflectors == 0 {
            self.problems.push(
                "no node is a reflector, so nodes learn no routes of each other: label one as \
                 spec.reflectors.nodeSelector of the BGPConfiguration requires"
                    .into(),
            );
        }
    }

    fn add_node(&mut self, snapshot: &Snapshot, this: &Node, other: &Node, role: NeighborRole) {
        // Both ends choose the same family from the same two Nodes.
        let pair = IpFamily::ALL
            .into_iter()
            .find_map(|family| Some((this.address(family)?, other.address(family)?)));
        let Some((local, address)) = pair else {
            if !other.addresses.is_empty() && !this.addresses.is_empty() {
                self.problems.push(format!(
                    "no session with Node {}: it and Node {} have no InternalIP of the same family; add one to status.addresses",
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
            .name(&*other.name)
            .reflector_client(role == NeighborRole::Client)
            .local_address(local)
            .timers(snapshot.configuration.timers)
            .bfd(snapshot.configuration.bfd)
            .import(Filter::All)
            .export(Filter::All);
        self.add(neighbor, role);
    }

    fn add_peers(&mut self, snapshot: &Snapshot, this: &Node) {
        for peer in snapshot.peers.values().filter(|peer| peer.nodes.matches(&this.labels)) {
            let address = peer.neighbor.address;
            let role = match peer.neighbor.asn == snapshot.configuration.asn {
                true => NeighborRole::Internal,
                false => NeighborRole::External,
            };
            let local_address = match peer.source {
                SourceAddress::Kernel => None,
                SourceAddress::Address(address) => Some(address),
                SourceAddress::Node => match this.address(IpFamily::of(address)) {
                    Some(address) => Some(address),
                    None => {
                        self.problems.push(format!(
                            "no session with BGPPeer {}: its sourceAddress is InternalIP, but Node {} has none of \
                             {}'s family; add one to status.addresses, or change sourceAddress",
                            peer.name, this.name, address
                        ));
                        continue;
                    }
                },
            };
            let neighbor = peer.neighbor.clone().local_address(local_address);
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
