//! What is wanted, whole and checked: what every store gives and `plan` works from. No I/O, no API types.

use std::collections::BTreeMap;
use std::net::IpAddr;

use heliograph_bgp::bfd;
use heliograph_bgp::{Filter, GracefulRestart, Timers};
use ipnetwork::IpNetwork;

pub use selector::{Operator, Requirement, Selector};

mod selector;

/// The label that says which L2 segment a node is on, where people know better than the kernel's routes.
pub const SEGMENT_LABEL: &str = "heliograph.io/segment";

/// All that is wanted, at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// The nodes by name.
    pub nodes: BTreeMap<String, Node>,
    /// What holds for the whole cluster.
    pub configuration: Configuration,
    /// Neighbours that are no nodes, by object name.
    pub peers: BTreeMap<String, Peer>,
}

/// One node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The networks its pods get addresses from; may be none yet, or for good on a reflector.
    pub pod_cidrs: Vec<IpNetwork>,
    /// Its addresses towards the other nodes (InternalIP), in the order given.
    pub addresses: Vec<IpAddr>,
}

impl Node {
    /// Its first address of a family.
    pub fn address(&self, v4: bool) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|address| address.is_ipv4() == v4)
    }

    /// The segment that its label names.
    pub fn segment(&self) -> Option<&str> {
        self.labels.get(SEGMENT_LABEL).map(String::as_str).filter(|name| !name.is_empty())
    }
}

/// What holds for the whole cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct Configuration {
    /// The cluster's AS number, never 0.
    pub asn: u32,
    /// Who peers with whom among the nodes.
    pub topology: Topology,
    /// Networks that all pod CIDRs lie in; empty: not said.
    pub cluster_cidrs: Vec<IpNetwork>,
    /// When packets between nodes are encapsulated.
    pub encapsulation: Encapsulation,
    /// Whether what pods send to the outside leaves under their node's address.
    pub nat_outgoing: bool,
    /// Timers of all sessions between nodes.
    pub timers: Timers,
    /// BFD between nodes, where it is on.
    pub bfd: Option<bfd::Settings>,
    /// Graceful restart, where it is on.
    pub graceful_restart: Option<GracefulRestart>,
    /// TCP port of the agents.
    pub listen_port: u16,
}

/// Who peers with whom among the nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Topology {
    /// Every node with every other.
    FullMesh,
    /// Every node with the nodes that match, and these with each other.
    Reflectors(Selector),
}

/// When packets between nodes are encapsulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encapsulation {
    /// Never.
    Never,
    /// Where the other node is on another segment.
    CrossSubnet,
    /// Between any two nodes.
    Always,
}

/// A neighbour that is no node.
#[derive(Clone, Debug, PartialEq)]
pub struct Peer {
    /// Name of its object.
    pub name: String,
    /// The nodes that peer with it.
    pub nodes: Selector,
    /// Its address.
    pub address: IpAddr,
    /// The TCP port it listens on.
    pub port: u16,
    /// Its AS number, never 0.
    pub asn: u32,
    /// What is taken from it.
    pub import: Filter,
    /// What it is told.
    pub export: Filter,
    /// Timers of its sessions.
    pub timers: Timers,
    /// BFD with it, where it is on.
    pub bfd: Option<bfd::Settings>,
    /// Wait for it to connect.
    pub passive: bool,
}

impl Snapshot {
    /// Whether a node reflects.
    pub fn is_reflector(&self, node: &Node) -> bool {
        match &self.configuration.topology {
            Topology::FullMesh => false,
            Topology::Reflectors(selector) => selector.matches(&node.labels),
        }
    }

    /// The node that has this address.
    pub fn node_at(&self, address: IpAddr) -> Option<&Node> {
        self.nodes.values().find(|node| node.addresses.contains(&address))
    }
}
