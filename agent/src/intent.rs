//! What is wanted, whole and checked: what every store gives and `plan` works from. No I/O, no API types.

use std::collections::BTreeMap;
use std::net::IpAddr;

use heliograph_bgp::bfd;
use heliograph_bgp::wire::Family;
use heliograph_bgp::{Authentication, Filter, GracefulRestart, PrefixLimit, Role, Timers, Ttl};
use heliograph_cni::IpFamily;
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
    /// All of the cluster's nodes are among `nodes`; else only this node and the reflectors, and BGP tells of the
    /// others.
    pub all_nodes: bool,
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
    /// Returns its first address of a family.
    pub fn address(&self, family: IpFamily) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|address| IpFamily::of(*address) == family)
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
    /// Our AS number towards it, where that isn't the cluster's.
    pub local_asn: Option<u32>,
    /// Where its sessions come from.
    pub source: SourceAddress,
    /// The families to carry, at least one.
    pub families: Vec<Family>,
    /// How its segments are authenticated. Known only to the nodes that peer with it.
    pub authentication: Option<Authentication>,
    /// How far away it may be.
    pub ttl: Ttl,
    /// What we are to it.
    pub role: Option<Role>,
    /// Refuse it where it doesn't say its role.
    pub strict_role: bool,
    /// How many prefixes it may send.
    pub prefix_limit: Option<PrefixLimit>,
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

/// The address that a session comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceAddress {
    /// The kernel's choice.
    Kernel,
    /// The node's own address of the neighbour's family.
    Node,
    /// This one.
    Address(IpAddr),
}

impl Snapshot {
    /// Whether a node reflects.
    pub fn is_reflector(&self, node: &Node) -> bool {
        match &self.configuration.topology {
            Topology::FullMesh => false,
            Topology::Reflectors(selector) => selector.matches(&node.labels),
        }
    }

    /// Whether nodes would learn nothing of each other, as they have it from reflectors and no node is one.
    pub fn lacks_reflectors(&self) -> bool {
        matches!(self.configuration.topology, Topology::Reflectors(_))
            && !self.nodes.values().any(|node| self.is_reflector(node))
    }

    /// The node that has this address.
    pub fn node_at(&self, address: IpAddr) -> Option<&Node> {
        self.nodes.values().find(|node| node.addresses.contains(&address))
    }
}
