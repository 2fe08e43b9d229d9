//! The intent: everything that users configured, complete and validated. Stores give it, and [`crate::plan`] uses it. It has
//! no I/O and no types of the API.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use heliograph_bgp::bfd;
use heliograph_bgp::{GracefulRestart, Neighbor, Timers};
use heliograph_cni::IpFamily;
use ipnetwork::IpNetwork;

pub use selector::{Operator, Requirement, Selector};

mod selector;

/// The label with the name of a Node's L2 segment. It overrides the kernel's routes.
pub const SEGMENT_LABEL: &str = "heliograph.io/segment";

/// Nodes by name.
pub type Nodes = BTreeMap<Arc<str>, Arc<Node>>;
/// Neighbors outside the cluster, by the name of their BGPPeer.
pub type Peers = BTreeMap<String, Arc<Peer>>;

/// The intent at one moment.
///
/// Parts, nodes and peers that did not change are shared with the snapshot before: [`Arc::ptr_eq`] finds in one pass those
/// that may have changed. A clone is cheap.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// The nodes.
    pub nodes: Arc<Nodes>,
    /// The cluster's configuration.
    pub configuration: Arc<Configuration>,
    /// The neighbors outside the cluster.
    pub peers: Arc<Peers>,
    /// `nodes` are all nodes of the cluster. Otherwise they are this node and the reflectors, and BGP reports the others.
    pub all_nodes: bool,
}

/// One node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The name.
    pub name: Arc<str>,
    /// The labels.
    pub labels: BTreeMap<String, String>,
    /// The networks of its pods. There may be none yet, or none at all on a reflector.
    pub pod_cidrs: Vec<IpNetwork>,
    /// Its addresses towards the other nodes (InternalIP), in the order of the Node.
    pub addresses: Vec<IpAddr>,
}

impl Node {
    /// Returns a node that has nothing but a name.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self { name: name.into(), labels: BTreeMap::new(), pod_cidrs: Vec::new(), addresses: Vec::new() }
    }

    /// Returns its first address of a family.
    pub fn address(&self, family: IpFamily) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|address| IpFamily::of(*address) == family)
    }

    /// Returns the segment by the label.
    pub fn segment(&self) -> Option<&str> {
        self.labels.get(SEGMENT_LABEL).map(String::as_str).filter(|name| !name.is_empty())
    }
}

/// The cluster's configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Configuration {
    /// The cluster's AS number, never 0.
    pub asn: u32,
    /// The sessions between nodes.
    pub topology: Topology,
    /// Networks that contain all pod CIDRs; empty where they are not configured.
    pub cluster_cidrs: Vec<IpNetwork>,
    /// The encapsulation of packets between nodes.
    pub encapsulation: Encapsulation,
    /// Packets of pods to destinations outside the cluster get their node's address as source.
    pub nat_outgoing: bool,
    /// The timers of all sessions between nodes.
    pub timers: Timers,
    /// BFD between nodes, where it is enabled.
    pub bfd: Option<bfd::Settings>,
    /// Graceful restart, where it is enabled.
    pub graceful_restart: Option<GracefulRestart>,
    /// The TCP port of the agents.
    pub listen_port: u16,
}

/// The sessions between nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Topology {
    /// Each node has one with each other node.
    FullMesh,
    /// Each node has one with each reflector, and so have the reflectors. Reflectors are the nodes that match.
    Reflectors(Selector),
}

/// The encapsulation of packets between nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encapsulation {
    /// None.
    Never,
    /// Packets to nodes on another segment.
    CrossSubnet,
    /// All packets.
    Always,
}

/// A neighbor outside the cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct Peer {
    /// The name of its BGPPeer.
    pub name: String,
    /// The nodes that peer with it.
    pub nodes: Selector,
    /// The local address of its sessions.
    pub source: SourceAddress,
    /// The neighbor, the same for all of these nodes but for its local address. Only they have its password.
    pub neighbor: Neighbor,
}

/// The local address of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceAddress {
    /// The one that the kernel chooses.
    Kernel,
    /// The node's InternalIP of the neighbor's address family.
    Node,
    /// A fixed address.
    Address(IpAddr),
}

impl Snapshot {
    /// Shares all parts, nodes and peers that are equal with a former snapshot.
    pub fn share(&mut self, former: &Self) {
        share_values(&mut self.nodes, &former.nodes);
        share_values(&mut self.peers, &former.peers);
        share(&mut self.configuration, &former.configuration);
    }

    /// Returns whether the snapshots have the same parts. It is cheap: parts that are only equal are not the same.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.nodes, &other.nodes)
            && Arc::ptr_eq(&self.configuration, &other.configuration)
            && Arc::ptr_eq(&self.peers, &other.peers)
            && self.all_nodes == other.all_nodes
    }

    /// Returns the node with a name.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.get(name).map(Arc::as_ref)
    }

    /// Returns whether a node is a reflector.
    pub fn is_reflector(&self, node: &Node) -> bool {
        match &self.configuration.topology {
            Topology::FullMesh => false,
            Topology::Reflectors(selector) => selector.matches(&node.labels),
        }
    }

    /// Returns whether the topology has reflectors and no node is one, so that nodes would learn no routes.
    pub fn lacks_reflectors(&self) -> bool {
        matches!(self.configuration.topology, Topology::Reflectors(_))
            && !self.nodes.values().any(|node| self.is_reflector(node))
    }

    /// Returns the node with an address.
    pub fn node_at(&self, address: IpAddr) -> Option<&Arc<Node>> {
        self.nodes.values().find(|node| node.addresses.contains(&address))
    }
}

/// Replaces a value by an equal former one.
fn share<T: PartialEq>(value: &mut Arc<T>, former: &Arc<T>) {
    if !Arc::ptr_eq(value, former) && value == former {
        *value = former.clone();
    }
}

/// Replaces the values of a map by equal ones of a former map, and the map if all are.
fn share_values<K: Ord + Clone, V: PartialEq + Clone>(
    map: &mut Arc<BTreeMap<K, Arc<V>>>,
    former: &Arc<BTreeMap<K, Arc<V>>>,
) {
    if Arc::ptr_eq(map, former) {
        return;
    }
    let mut same = map.len() == former.len();
    for (key, value) in Arc::make_mut(map) {
        let old = former.get(key);
        old.into_iter().for_each(|old| share(value, old));
        same &= old.is_some_and(|old| Arc::ptr_eq(old, value));
    }
    if same {
        *map = former.clone();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::testing::{cluster, node, peer};

    #[test]
    fn equal_parts_nodes_and_peers_are_shared_with_the_former_snapshot() {
        let make = || {
            let nodes = ["a", "b"].map(|name| node(name, "192.0.2.1", ""));
            let mut snapshot = cluster(nodes);
            snapshot.insert_peer("tor", peer("tor", "192.0.2.9", 64600));
            snapshot
        };
        let former = make();
        let mut equal = make();
        equal.share(&former);
        assert!(Arc::ptr_eq(&equal.nodes, &former.nodes) && Arc::ptr_eq(&equal.peers, &former.peers));
        assert!(Arc::ptr_eq(&equal.configuration, &former.configuration));
        let mut changed = make();
        changed.node_mut("a").labels.insert("rack".into(), "1".into());
        changed.configuration_mut().asn = 64999;
        changed.insert_peer("other", peer("other", "192.0.2.8", 64600));
        let expected = changed.clone();
        changed.share(&former);
        assert_eq!(changed, expected);
        let shared = |name: &str| Arc::ptr_eq(&changed.nodes[name], &former.nodes[name]);
        assert_eq!([shared("a"), shared("b")], [false, true]);
        assert!(Arc::ptr_eq(&changed.peers["tor"], &former.peers["tor"]));
        // One that is gone leaves another map.
        let mut fewer = make();
        fewer.remove("b");
        fewer.share(&former);
        assert_eq!(fewer.nodes.len(), 1);
        assert!(Arc::ptr_eq(&fewer.nodes["a"], &former.nodes["a"]));
    }
}
