//! Small snapshots for tests.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use heliograph_bgp::Neighbor;

use crate::intent::{Configuration, Node, Peer, Selector, Snapshot, SourceAddress};
use crate::store::convert;

/// Makes a node; its addresses and pod CIDRs are separated by blanks.
pub fn node(name: &str, addresses: &str, pods: &str) -> Node {
    Node {
        name: name.into(),
        labels: BTreeMap::new(),
        pod_cidrs: pods.split_whitespace().map(|text| text.parse().unwrap()).collect(),
        addresses: addresses.split_whitespace().map(|text| text.parse().unwrap()).collect(),
    }
}

/// Adds a label to a node.
pub fn labelled(mut node: Node, key: &str, value: &str) -> Node {
    node.labels.insert(key.into(), value.into());
    node
}

/// Makes a snapshot of these nodes with the default configuration.
pub fn cluster(nodes: impl IntoIterator<Item = Node>) -> Snapshot {
    let nodes = nodes.into_iter().map(|node| (node.name.clone(), Arc::new(node)));
    Snapshot {
        nodes: Arc::new(nodes.collect()),
        configuration: Arc::new(convert::default_configuration()),
        peers: Arc::default(),
        all_nodes: true,
    }
}

/// Changes of a snapshot. Whoever has the parts as they were keeps them.
impl Snapshot {
    /// Inserts or replaces a node.
    pub fn insert(&mut self, node: Node) {
        Arc::make_mut(&mut self.nodes).insert(node.name.clone(), Arc::new(node));
    }

    /// Removes a node.
    pub fn remove(&mut self, name: &str) -> Option<Node> {
        Arc::make_mut(&mut self.nodes).remove(name).map(Arc::unwrap_or_clone)
    }

    /// Returns a node to be changed.
    pub fn node_mut(&mut self, name: &str) -> &mut Node {
        Arc::make_mut(Arc::make_mut(&mut self.nodes).get_mut(name).unwrap())
    }

    /// Returns the configuration to be changed.
    pub fn configuration_mut(&mut self) -> &mut Configuration {
        Arc::make_mut(&mut self.configuration)
    }

    /// Inserts or replaces a peer, under a name of its own.
    pub fn insert_peer(&mut self, name: &str, peer: Peer) {
        Arc::make_mut(&mut self.peers).insert(name.into(), Arc::new(peer));
    }
}

/// Makes a peer outside the cluster for all nodes, with the required fields only.
pub fn peer(name: &str, address: &str, asn: u32) -> Peer {
    Peer {
        name: name.into(),
        nodes: Selector::default(),
        source: SourceAddress::Kernel,
        neighbor: Neighbor::new(ip(address), asn).name(name),
    }
}

/// Parses an address.
pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}
