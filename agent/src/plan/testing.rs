//! Small snapshots for tests.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::intent::{Node, Snapshot};
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
    }
}

/// An address.
pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}
