//! Validation of all objects together. It gives the whole [`Snapshot`], or all problems.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use heliograph_bgp::Key;
use ipnetwork::IpNetwork;

use super::convert::{self, References};
use super::names::is_dns_name;
use super::problem::{Finding, Problem, Problems};
use crate::api::{self, ObjectKind, ObjectRef};
use crate::intent::{Configuration, Node, Peer, Snapshot};

/// The name of the only BGPConfiguration.
pub const CONFIGURATION_NAME: &str = "default";

/// A decoded object. A clone is cheap.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.generation`, the number of changes of its spec. `None`: it is not from an API server.
    pub generation: Option<i64>,
    /// The content.
    pub content: Content,
}

/// The content of an object, by kind.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// `v1` Node.
    Node(Arc<api::Node>),
    /// The values of a `v1` Secret, by key.
    Secret(Arc<BTreeMap<String, Key>>),
    /// BGPConfiguration.
    Configuration(Arc<api::BGPConfigurationSpec>),
    /// BGPPeer.
    Peer(Arc<api::BGPPeerSpec>),
    /// BGPFilter.
    Filter(Arc<api::BGPFilterSpec>),
}

impl Object {
    /// Returns the kind.
    pub fn kind(&self) -> ObjectKind {
        match self.content {
            Content::Node(_) => ObjectKind::Node,
            Content::Secret(_) => ObjectKind::Secret,
            Content::Configuration(_) => ObjectKind::BGPConfiguration,
            Content::Peer(_) => ObjectKind::BGPPeer,
            Content::Filter(_) => ObjectKind::BGPFilter,
        }
    }

    /// Returns kind and name.
    pub fn reference(&self) -> ObjectRef {
        ObjectRef::new(self.kind(), &self.name)
    }

    /// Adds the labels of the same Node from another watcher, as each watcher keeps only those that it needs.
    pub fn add_labels(&mut self, other: &Self) {
        if let (Content::Node(node), Content::Node(other)) = (&mut self.content, &other.content) {
            let labels = Arc::make_mut(node).metadata.labels.get_or_insert_default();
            for (key, value) in other.metadata.labels.iter().flatten() {
                labels.entry(key.clone()).or_insert_with(|| value.clone());
            }
        }
    }
}

/// The part of the cluster that the objects are.
#[derive(Clone, Copy, Debug)]
pub enum Extent<'a> {
    /// The whole cluster.
    Whole {
        /// All objects could be decoded. Otherwise an object that seems to be missing may be one that could not.
        complete: bool,
    },
    /// The objects that one node needs: the Secrets of its own peers, and perhaps not all Nodes and not all of their
    /// labels.
    Around {
        /// The node.
        node: &'a str,
        /// Objects that may exist, but can't be read.
        unavailable: &'a [ObjectRef],
    },
}

/// Assembles the intent from objects. Of two objects in conflict the later one has the problem.
///
/// # Errors
/// Objects are invalid: all problems.
pub fn assemble(objects: &[Object], extent: Extent) -> Result<Snapshot, Vec<Finding>> {
    let mut found = Vec::new();
    names(objects, &mut found);
    let complete = !matches!(extent, Extent::Whole { complete: false });
    let configuration = configuration(objects, complete, &mut found);
    let nodes = nodes(objects, &mut found);
    let mut references = References {
        cluster: &configuration,
        filters: HashMap::new(),
        secrets: HashMap::new(),
        node: match extent {
            Extent::Whole { .. } => None,
            Extent::Around { node: name, .. } => {
                Some(nodes.iter().map(|(_, node)| node).find(|node| *node.name == *name))
            }
        },
        unavailable: match extent {
            Extent::Whole { .. } => &[],
            Extent::Around { unavailable, .. } => unavailable,
        },
        complete,
    };
    for (index, object) in objects.iter().enumerate() {
        match &object.content {
            Content::Filter(spec) => {
                let policy = convert::policy(spec, &mut Problems::of(index, &mut found));
                references.filters.insert(&object.name, policy);
            }
            Content::Secret(values) => {
                references.secrets.insert(&object.name, values);
            }
            _ => {}
        }
    }
    let mut peers = Vec::new();
    for (index, object) in objects.iter().enumerate() {
        if let Content::Peer(spec) = &object.content {
            let mut problems = Problems::of(index, &mut found);
            let peer = convert::peer(&object.name, spec, &references, &mut problems);
            peers.extend(peer.map(|peer| (index, peer)));
        }
    }
    addresses(&nodes, &mut found);
    pod_cidrs(&nodes, &configuration, &mut found);
    duplicate_peers(&peers, &nodes, extent, &mut found);
    if !found.is_empty() {
        return Err(found);
    }
    let snapshot = Snapshot {
        nodes: Arc::new(nodes.into_iter().map(|(_, node)| (node.name.clone(), Arc::new(node))).collect()),
        configuration: Arc::new(configuration),
        peers: Arc::new(peers.into_iter().map(|(_, peer)| (peer.name.clone(), Arc::new(peer))).collect()),
        all_nodes: true,
    };
    match extent {
        // Otherwise a reflector may be among the objects that could not be decoded.
        Extent::Whole { complete: true } if snapshot.lacks_reflectors() => {
            let object =
                objects.iter().position(|object| matches!(object.content, Content::Configuration(_)));
            let problem = no_reflector("the last good intent stays in force");
            Err(vec![Finding { object, ..problem.into() }])
        }
        // `accept` finds another topology.
        _ => Ok(snapshot),
    }
}

/// Returns the problem of a topology with reflectors that no Node matches.
pub fn no_reflector(consequence: &str) -> Problem {
    let problem = format!(
        "no node's labels match, so none would reflect and nodes would learn no routes of each other; {consequence}"
    );
    let remedy = "label the nodes that are to reflect accordingly (kubectl label node), correct the selector, or set \
                  spec.topology to FullMesh";
    Problem::new(problem, remedy).at("spec.reflectors.nodeSelector")
}

fn nodes(objects: &[Object], found: &mut Vec<Finding>) -> Vec<(usize, Node)> {
    let mut nodes = Vec::new();
    for (index, object) in objects.iter().enumerate() {
        if let Content::Node(node) = &object.content {
            nodes.push((index, convert::node(&object.name, node, &mut Problems::of(index, found))));
        }
    }
    nodes
}

fn names(objects: &[Object], found: &mut Vec<Finding>) {
    let mut seen: HashMap<(ObjectKind, &str), usize> = HashMap::new();
    for (index, object) in objects.iter().enumerate() {
        let mut problems = Problems::of(index, found);
        if !is_dns_name(&object.name) {
            problems.add(
                "metadata.name",
                format!("{:?} is no object name", object.name),
                "use lower-case letters, digits, '-' and '.', with a letter or digit at both ends",
            );
        }
        match seen.get(&(object.kind(), object.name.as_str())) {
            Some(first) => problems.push(
                Finding::new(format!("{} is there twice", object.reference()), "remove one of them")
                    .at("metadata.name")
                    .in_conflict_with(*first, "metadata.name"),
            ),
            None => {
                seen.insert((object.kind(), &object.name), index);
            }
        }
    }
}

fn configuration(objects: &[Object], complete: bool, found: &mut Vec<Finding>) -> Configuration {
    let mut chosen = None;
    for (index, object) in objects.iter().enumerate() {
        let Content::Configuration(spec) = &object.content else { continue };
        let mut problems = Problems::of(index, found);
        let configuration = convert::configuration(spec, &mut problems);
        if object.name == CONFIGURATION_NAME {
            chosen.get_or_insert(configuration);
        } else {
            problems.add(
                "metadata.name",
                format!("there is one BGPConfiguration, and it is named {CONFIGURATION_NAME}"),
                format!("name it {CONFIGURATION_NAME}, or remove this one"),
            );
        }
    }
    let any = objects.iter().any(|object| matches!(object.content, Content::Configuration(_)));
    if !any && complete {
        let remedy = format!(
            "add one: {{apiVersion: {}, kind: BGPConfiguration, metadata: {{name: {CONFIGURATION_NAME}}}, spec: \
             {{asNumber: 64512}}}}",
            api::API_VERSION
        );
        found.push(Finding::new("there is no BGPConfiguration", remedy).caused_by(configuration_ref()));
    }
    chosen.unwrap_or_else(convert::default_configuration)
}

fn addresses(nodes: &[(usize, Node)], found: &mut Vec<Finding>) {
    let mut seen: HashMap<IpAddr, (usize, &str)> = HashMap::new();
    for (index, node) in nodes {
        for address in &node.addresses {
            if let Some((first, name)) = seen.insert(*address, (*index, &node.name)) {
                if *name == *node.name && first == *index {
                    continue;
                }
                let finding = Finding::new(
                    format!("address {address} is also Node {name}'s"),
                    "correct the one that is wrong: each node has its own InternalIP",
                );
                let field = "status.addresses";
                found.push(finding.of(*index).at(field).in_conflict_with(first, field));
            }
        }
    }
}

/// A pod CIDR, with its object and field.
struct PodCidr<'a> {
    network: IpNetwork,
    object: usize,
    field: String,
    node: &'a str,
}

fn pod_cidrs(nodes: &[(usize, Node)], configuration: &Configuration, found: &mut Vec<Finding>) {
    let mut cidrs = Vec::new();
    for (index, node) in nodes {
        for (position, network) in node.pod_cidrs.iter().enumerate() {
            let field = format!("spec.podCIDRs[{position}]");
            let within = |outer: &IpNetwork| contains(outer, network);
            if !configuration.cluster_cidrs.is_empty() && !configuration.cluster_cidrs.iter().any(within) {
                let finding = Finding::new(
                    format!(
                        "{network} is outside the cluster's networks ({})",
                        list(&configuration.cluster_cidrs)
                    ),
                    "give a network within them, or add one to clusterCIDRs of the BGPConfiguration",
                );
                found.push(finding.of(*index).at(&field).caused_by(configuration_ref()));
            }
            cidrs.push(PodCidr { network: *network, object: *index, field, node: &node.name });
        }
    }
    // Two networks are disjoint, or one contains the other. So after sorting by address, then length, the networks within
    // another one follow it directly.
    cidrs.sort_by_key(|cidr| (cidr.network.is_ipv6(), cidr.network.network(), cidr.network.prefix()));
    let mut outer: Option<&PodCidr> = None;
    for cidr in &cidrs {
        match outer {
            Some(first) if contains(&first.network, &cidr.network) => {
                // The later object has the problem.
                let (first, second) = if first.object <= cidr.object { (first, cidr) } else { (cidr, first) };
                let finding = Finding::new(
                    format!(
                        "pod CIDR {} of Node {} overlaps {} of Node {}",
                        second.network, second.node, first.network, first.node
                    ),
                    "give each node a pod CIDR of its own",
                );
                let finding = finding.of(second.object).at(&second.field);
                found.push(finding.in_conflict_with(first.object, &first.field));
            }
            _ => outer = Some(cidr),
        }
    }
    overlaps_with_addresses(&cidrs, nodes, found);
}

fn overlaps_with_addresses(cidrs: &[PodCidr], nodes: &[(usize, Node)], found: &mut Vec<Finding>) {
    let mut addresses: BTreeMap<IpAddr, (usize, &str)> = BTreeMap::new();
    for (index, node) in nodes {
        addresses.extend(node.addresses.iter().map(|address| (*address, (*index, &*node.name))));
    }
    for cidr in cidrs {
        let inside = addresses.range(cidr.network.network()..=cidr.network.broadcast());
        for (address, (owner, name)) in inside {
            let of_cidr = (cidr.object, cidr.field.as_str());
            let of_address = (*owner, "status.addresses");
            let (first, second) =
                if *owner <= cidr.object { (of_address, of_cidr) } else { (of_cidr, of_address) };
            let finding = Finding::new(
                format!("pod CIDR {} contains {address}, the address of Node {name}", cidr.network),
                "pods and nodes need networks of their own",
            );
            found.push(finding.of(second.0).at(second.1).in_conflict_with(first.0, first.1));
        }
    }
}

fn duplicate_peers(
    peers: &[(usize, Peer)],
    nodes: &[(usize, Node)],
    extent: Extent,
    found: &mut Vec<Finding>,
) {
    let mut of_nodes: HashMap<IpAddr, (usize, &Node)> = HashMap::new();
    for (index, node) in nodes {
        of_nodes.extend(node.addresses.iter().map(|address| (*address, (*index, node))));
    }
    let field = "spec.peerAddress";
    for (position, (index, peer)) in peers.iter().enumerate() {
        if let Some((owner, node)) = of_nodes.get(&peer.address) {
            let finding = Finding::new(
                format!(
                    "{} is Node {}'s address: nodes peer with each other without a BGPPeer",
                    peer.address, node.name
                ),
                "remove this BGPPeer; a BGPPeer is for neighbors outside the cluster",
            );
            found.push(finding.of(*index).at(field).in_conflict_with(*owner, "status.addresses"));
        }
        for (earlier, other) in &peers[..position] {
            if other.address != peer.address {
                continue;
            }
            // The labels of other Nodes may be incomplete; their own agents report conflicts there.
            let has_all_labels = |node: &Node| match extent {
                Extent::Whole { .. } => true,
                Extent::Around { node: name, .. } => *node.name == *name,
            };
            let both = |node: &Node| {
                has_all_labels(node) && peer.nodes.matches(&node.labels) && other.nodes.matches(&node.labels)
            };
            let Some((_, node)) = nodes.iter().find(|(_, node)| both(node)) else { continue };
            let finding = Finding::new(
                format!(
                    "BGPPeers {} and {} both give Node {} the neighbor {}",
                    other.name, peer.name, node.name, peer.address
                ),
                "remove one, or make their node selectors exclude each other",
            );
            found.push(finding.of(*index).at(field).in_conflict_with(*earlier, field));
        }
    }
}

/// Returns the reference to the only BGPConfiguration.
pub fn configuration_ref() -> ObjectRef {
    ObjectRef::new(ObjectKind::BGPConfiguration, CONFIGURATION_NAME)
}

fn contains(outer: &IpNetwork, inner: &IpNetwork) -> bool {
    outer.is_ipv4() == inner.is_ipv4() && outer.prefix() <= inner.prefix() && outer.contains(inner.network())
}

fn list(networks: &[IpNetwork]) -> String {
    networks.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
