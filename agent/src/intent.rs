//! The intent: everything that users configured, complete and validated. Stores give it, and [`crate::plan`] uses it. It has
//! no I/O and no types of the API.

use std::collections::BTreeMap;
use std::net::IpAddr;

use heliograph_bgp::Family;
use heliograph_bgp::bfd;
use heliograph_bgp::{Authentication, Filter, GracefulRestart, PrefixLimit, Role, Timers, Ttl};
use heliograph_cni::IpFamily;
use ipnetwork::IpNetwork;

pub use selector::{Operator, Requirement, Selector};

mod selector;

/// The label with the name of a Node's L2 segment. It overrides the kernel's routes.
pub const SEGMENT_LABEL: &str = "heliograph.io/segment";

/// The intent at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// The nodes by name.
    pub nodes: BTreeMap<String, Node>,
    /// The cluster's configuration.
    pub configuration: Configuration,
    /// The neighbors outside the cluster, by the name of their BGPPeer.
    pub peers: BTreeMap<String, Peer>,
    /// `nodes` are all nodes of the cluster. Otherwise they are this node and the reflectors, and BGP reports the others.
    pub all_nodes: bool,
}

/// One node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// The name.
    pub name: String,
    /// The labels.
    pub labels: BTreeMap<String, String>,
    /// The networks of its pods. There may be none yet, or none at all on a reflector.
    pub pod_cidrs: Vec<IpNetwork>,
    /// Its addresses towards the other nodes (InternalIP), in the order of the Node.
    pub addresses: Vec<IpAddr>,
}

impl Node {
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
    /// The address.
    pub address: IpAddr,
    /// The TCP port that it listens on.
    pub port: u16,
    /// The AS number, never 0.
    pub asn: u32,
    /// The local AS number on its sessions, where that isn't the cluster's.
    pub local_asn: Option<u32>,
    /// The local address of its sessions.
    pub source: SourceAddress,
    /// The address families, at least one.
    pub families: Vec<Family>,
    /// The authentication of its TCP segments. Only the nodes that peer with it have the password.
    pub authentication: Option<Authentication>,
    /// The TTL of packets, by which its distance is limited.
    pub ttl: Ttl,
    /// The role of the nodes towards it (RFC 9234).
    pub role: Option<Role>,
    /// A session without the peer's role is rejected.
    pub strict_role: bool,
    /// The limit of prefixes that it sends.
    pub prefix_limit: Option<PrefixLimit>,
    /// The import filter.
    pub import: Filter,
    /// The export filter.
    pub export: Filter,
    /// The timers of its sessions.
    pub timers: Timers,
    /// BFD with it, where it is enabled.
    pub bfd: Option<bfd::Settings>,
    /// The nodes wait for it to connect.
    pub passive: bool,
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
    pub fn node_at(&self, address: IpAddr) -> Option<&Node> {
        self.nodes.values().find(|node| node.addresses.contains(&address))
    }
}
