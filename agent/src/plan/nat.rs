//! NAT outgoing: the destinations to which packets of pods keep their source.

use std::collections::HashSet;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::dataplane::networks::Networks;
use crate::intent::Snapshot;

/// The networks and nodes of the cluster by its intent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inside {
    /// The networks, in order; none contains another.
    networks: Vec<IpNetwork>,
    /// Networks that nodes advertise also count: the intent does not list the cluster's.
    with_learned: bool,
}

impl Inside {
    /// Returns the networks and nodes of the cluster.
    pub fn of(snapshot: &Snapshot) -> Self {
        let cidrs = &snapshot.configuration.cluster_cidrs;
        let nodes = || snapshot.nodes.values();
        let pods = nodes().flat_map(|node| node.pod_cidrs.iter().copied());
        let networks = pods.filter(|_| cidrs.is_empty()).chain(cidrs.iter().copied());
        let addresses =
            nodes().flat_map(|node| node.addresses.iter().map(|address| IpNetwork::from(*address)));
        let all: Networks = networks.chain(addresses).collect();
        Self { networks: all.iter().copied().collect(), with_learned: cidrs.is_empty() }
    }

    fn covers(&self, network: &IpNetwork) -> bool {
        let begins = self.networks.partition_point(|other| other.network() <= network.network());
        begins.checked_sub(1).is_some_and(|index| super::within(&self.networks[index], network))
    }

    /// Returns whether the network that a node advertises is one that the intent does not contain.
    pub fn lacks(&self, network: &IpNetwork) -> bool {
        // A default route that a node advertises leads outside the cluster.
        self.with_learned && network.prefix() > 0 && !self.covers(network)
    }

    /// Returns all networks, with those and with nodes that are only learned by BGP: with reflectors an agent does not get
    /// all Nodes from the store.
    pub fn with(
        &self,
        networks: impl Iterator<Item = IpNetwork>,
        nodes: impl Iterator<Item = IpAddr>,
    ) -> Networks {
        self.networks.iter().copied().chain(networks).chain(nodes.map(IpNetwork::from)).collect()
    }
}

/// The rule by which a learned route counts as one of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OriginRule {
    /// The addresses of nodes.
    nodes: HashSet<IpAddr>,
    /// The addresses of neighbors outside the cluster.
    outside: HashSet<IpAddr>,
    cluster_cidrs: Vec<IpNetwork>,
    all_nodes: bool,
}

impl OriginRule {
    /// Returns the rule of an intent.
    pub fn of(snapshot: &Snapshot) -> Self {
        Self {
            nodes: snapshot.nodes.values().flat_map(|node| node.addresses.iter().copied()).collect(),
            outside: snapshot.peers.values().map(|peer| peer.neighbor.address).collect(),
            cluster_cidrs: snapshot.configuration.cluster_cidrs.clone(),
            all_nodes: snapshot.all_nodes,
        }
    }

    /// Returns whether a node advertised a route, and its next hop is no neighbor outside the cluster.
    pub fn is_from_node(&self, next_hop: IpAddr, peer: IpAddr) -> bool {
        self.nodes.contains(&peer) && !self.outside.contains(&next_hop)
    }

    /// Returns whether the next hop of a route from a node is inferred to be a node, too. If the intent does not contain all
    /// nodes, a route to the cluster's networks from a node or reflector comes from a node.
    pub fn is_to_inferred_node(&self, prefix: &IpNetwork, next_hop: IpAddr) -> bool {
        let cidrs = &self.cluster_cidrs;
        !self.all_nodes
            && !self.nodes.contains(&next_hop)
            && (cidrs.is_empty() || cidrs.iter().any(|outer| super::within(outer, prefix)))
    }
}

#[cfg(test)]
mod tests;
