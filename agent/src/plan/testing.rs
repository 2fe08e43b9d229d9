//! Small snapshots for tests.

use std::collections::BTreeMap;
use std::net::IpAddr;

use heliograph_bgp::Family;
use heliograph_bgp::{Filter, Timers, Ttl};

use crate::intent::{Node, Peer, Selector, Snapshot, SourceAddress};
use crate::store::convert;

/// A node, its addresses and pod CIDRs separated by blanks.
pub fn node(name: &str, addresses: &str, pods: &str) -> Node {
    Node {
        name: name.into(),
        labels: BTreeMap::new(),
        pod_cidrs: pods.split_whitespace().map(|text| text.parse().unwrap()).collect(),
        addresses: addresses.split_whitespace().map(|text| text.parse().unwrap()).collect(),
    }
}

/// The same with a label.
pub fn labelled(mut node: Node, key: &str, value: &str) -> Node {
    node.labels.insert(key.into(), value.into());
    node
}

/// A cluster of these nodes with an otherwise empty configuration.
pub fn cluster(nodes: impl IntoIterator<Item = Node>) -> Snapshot {
    Snapshot {
        nodes: nodes.into_iter().map(|node| (node.name.clone(), node)).collect(),
        configuration: convert::stand_in(),
        peers: BTreeMap::new(),
        all_nodes: true,
    }
}

/// A neighbour outside the cluster for all nodes, with nothing but what it must have.
pub fn peer(name: &str, address: &str, asn: u32) -> Peer {
    Peer {
        name: name.into(),
        nodes: Selector::default(),
        address: ip(address),
        port: convert::BGP_PORT,
        asn,
        local_asn: None,
        source: SourceAddress::Kernel,
        families: vec![Family::Ipv4Unicast, Family::Ipv6Unicast],
        authentication: None,
        ttl: Ttl::System,
        role: None,
        strict_role: false,
        prefix_limit: None,
        import: Filter::nothing(),
        export: Filter::nothing(),
        timers: Timers::default(),
        bfd: None,
        passive: false,
    }
}

/// An address.
pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}
