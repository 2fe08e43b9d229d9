//! Validation of all objects together. It gives the whole [`Snapshot`], or all problems.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use heliograph_bgp::Key;

use super::convert::{self, References};
use super::names::is_dns_name;
use super::nodes::{self, Fact};
use super::problem::{Finding, Problem, Problems};
use crate::api::{self, ObjectKind, ObjectRef, Spec};
use crate::intent::{Configuration, Node, Peer, Peers, Snapshot};

/// The name of the only BGPConfiguration.
pub const CONFIGURATION_NAME: &str = "default";

/// A decoded object. A clone is cheap.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.generation`, the number of changes of its spec. `None`: it is not from an API server.
    pub generation: Option<i64>,
    /// The time of its creation, in seconds since 1970. `None`: it is not from an API server.
    pub created: Option<i64>,
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
    /// One of Heliograph's kinds.
    Wish(Spec),
}

impl Object {
    /// Returns the kind.
    pub fn kind(&self) -> ObjectKind {
        match &self.content {
            Content::Node(_) => ObjectKind::Node,
            Content::Secret(_) => ObjectKind::Secret,
            Content::Wish(spec) => spec.kind(),
        }
    }

    /// Returns kind and name.
    pub fn reference(&self) -> ObjectRef {
        ObjectRef::new(self.kind(), &self.name)
    }

    /// Returns whether it is the object of a kind with a name.
    pub fn is(&self, kind: ObjectKind, name: &str) -> bool {
        self.kind() == kind && self.name == name
    }
}

/// The surroundings of the objects to validate.
#[derive(Clone, Copy, Debug)]
pub enum Extent<'a> {
    /// The whole cluster.
    Whole {
        /// All nodes, with all labels.
        nodes: &'a [&'a Node],
        /// All objects could be decoded. Otherwise an object that seems to be missing may be one that could not.
        complete: bool,
    },
    /// The objects that one node needs: the Secrets of its own peers, and perhaps not all labels of other nodes.
    Around {
        /// The node. `None`: it is unknown.
        own: Option<&'a Node>,
        /// Objects that may exist, but can't be read.
        unavailable: &'a [ObjectRef],
    },
}

/// The wishes of users, valid and converted.
#[derive(Clone, Debug)]
pub struct Wishes {
    /// The cluster's configuration.
    pub configuration: Arc<Configuration>,
    /// The peers.
    pub peers: Arc<Peers>,
}

/// Assembles the intent from the objects of a whole cluster. Of two objects in conflict the later one has the problem.
///
/// # Errors
/// Objects are invalid: all problems.
pub fn assemble(objects: &[Object], complete: bool) -> Result<Snapshot, Vec<Finding>> {
    let mut found = Vec::new();
    let mut indices = Vec::new();
    let mut nodes = Vec::new();
    for (index, object) in objects.iter().enumerate() {
        if let Content::Node(node) = &object.content {
            let fact = Fact::new(node, |_| true);
            found.extend(fact.problems.iter().map(|problem| Finding::from(problem.clone()).of(index)));
            indices.push(index);
            nodes.push(fact.node);
        }
    }
    let all: Vec<&Node> = nodes.iter().map(AsRef::as_ref).collect();
    let of_object = |finding: Finding| Finding {
        object: finding.object.map(|node| indices[node]),
        conflict: finding.conflict.map(|(node, field)| (indices[node], field)),
        ..finding
    };
    found.extend(nodes::conflicts(&all, |index| index).into_iter().map(of_object));
    let wishes = wishes(objects, Extent::Whole { nodes: &all, complete }, &mut found);
    for (index, node) in indices.iter().zip(&all) {
        let problems = nodes::outside(node, &wishes.configuration).map(Finding::from);
        found.extend(problems.map(|finding| finding.of(*index).caused_by(configuration_ref())));
    }
    let owners = peers_with_address_of(&wishes.peers, &all);
    let of_owner = owners.into_iter().filter_map(|(name, node)| {
        let index = objects.iter().position(|object| object.is(ObjectKind::BGPPeer, name))?;
        let finding = peer_is_node(&wishes.peers[name], all[node]).of(index);
        Some(finding.in_conflict_with(indices[node], "status.addresses"))
    });
    found.extend(of_owner);
    let snapshot = Snapshot {
        nodes: Arc::new(nodes.into_iter().map(|node| (node.name.clone(), node)).collect()),
        configuration: wishes.configuration,
        peers: wishes.peers,
        all_nodes: true,
    };
    // Otherwise a reflector may be among the objects that could not be decoded.
    if found.is_empty() && complete && snapshot.lacks_reflectors() {
        let object = objects.iter().position(|object| object.kind() == ObjectKind::BGPConfiguration);
        let problem = no_reflector("the last good intent stays in force");
        found.push(Finding { object, ..problem.into() });
    }
    if found.is_empty() { Ok(snapshot) } else { Err(found) }
}

/// Assembles the wishes from objects, and adds all problems to `found`. Of two objects in conflict the later one has the
/// problem.
pub fn wishes(objects: &[Object], extent: Extent, found: &mut Vec<Finding>) -> Wishes {
    names(objects, found);
    let complete = !matches!(extent, Extent::Whole { complete: false, .. });
    let configuration = configuration(objects, complete, found);
    let mut references = References {
        cluster: &configuration,
        filters: HashMap::new(),
        secrets: HashMap::new(),
        node: match extent {
            Extent::Whole { .. } => None,
            Extent::Around { own, .. } => Some(own),
        },
        unavailable: match extent {
            Extent::Whole { .. } => &[],
            Extent::Around { unavailable, .. } => unavailable,
        },
        complete,
    };
    for (index, object) in objects.iter().enumerate() {
        match &object.content {
            Content::Wish(Spec::BGPFilter(spec)) => {
                let policy = convert::policy(spec, &mut Problems::of(index, found));
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
        if let Content::Wish(Spec::BGPPeer(spec)) = &object.content {
            let mut problems = Problems::of(index, found);
            let peer = convert::peer(&object.name, spec, &references, &mut problems);
            peers.extend(peer.map(|peer| (index, peer)));
        }
    }
    // The labels of other nodes may be incomplete; their own agents report conflicts there.
    let own = match extent {
        Extent::Whole { .. } => None,
        Extent::Around { own, .. } => own,
    };
    let with_all_labels = match &extent {
        Extent::Whole { nodes, .. } => nodes,
        Extent::Around { .. } => own.as_slice(),
    };
    duplicate_peers(&peers, with_all_labels, found);
    Wishes {
        configuration: Arc::new(configuration),
        peers: Arc::new(peers.into_iter().map(|(_, peer)| (peer.name.clone(), Arc::new(peer))).collect()),
    }
}

/// Returns the peers that have an address of a node, by name, with the index of the node.
pub fn peers_with_address_of<'a>(peers: &'a Peers, nodes: &[&Node]) -> Vec<(&'a str, usize)> {
    let mut by_address: HashMap<IpAddr, Vec<&str>> = HashMap::new();
    for (name, peer) in peers {
        by_address.entry(peer.neighbor.address).or_default().push(name);
    }
    let mut found = Vec::new();
    if !by_address.is_empty() {
        for (index, node) in nodes.iter().enumerate() {
            let names = node.addresses.iter().filter_map(|address| by_address.get(address)).flatten();
            found.extend(names.map(|name| (*name, index)));
        }
    }
    found
}

/// Returns the finding of a BGPPeer that is a node.
pub fn peer_is_node(peer: &Peer, node: &Node) -> Finding {
    let problem = format!(
        "{} is Node {}'s address: nodes peer with each other without a BGPPeer",
        peer.neighbor.address, node.name
    );
    Finding::new(problem, "remove this BGPPeer; a BGPPeer is for neighbors outside the cluster")
        .at(PEER_ADDRESS)
}

const PEER_ADDRESS: &str = "spec.peerAddress";

/// Returns the problem of a topology with reflectors that no Node matches.
pub fn no_reflector(consequence: &str) -> Problem {
    let problem = format!(
        "no node's labels match, so none would reflect and nodes would learn no routes of each other; {consequence}"
    );
    let remedy = "label the nodes that are to reflect accordingly (kubectl label node), correct the selector, or set \
                  spec.topology to FullMesh";
    Problem::new(problem, remedy).at("spec.reflectors.nodeSelector")
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
        let Content::Wish(Spec::BGPConfiguration(spec)) = &object.content else { continue };
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
    let any = objects.iter().any(|object| object.kind() == ObjectKind::BGPConfiguration);
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

fn duplicate_peers(peers: &[(usize, Peer)], nodes: &[&Node], found: &mut Vec<Finding>) {
    for (position, (index, peer)) in peers.iter().enumerate() {
        for (earlier, other) in &peers[..position] {
            if other.neighbor.address != peer.neighbor.address {
                continue;
            }
            let both = |node: &&&Node| peer.nodes.matches(&node.labels) && other.nodes.matches(&node.labels);
            let Some(node) = nodes.iter().find(both) else { continue };
            let finding = Finding::new(
                format!(
                    "BGPPeers {} and {} both give Node {} the neighbor {}",
                    other.name, peer.name, node.name, peer.neighbor.address
                ),
                "remove one, or make their node selectors exclude each other",
            );
            found.push(finding.of(*index).at(PEER_ADDRESS).in_conflict_with(*earlier, PEER_ADDRESS));
        }
    }
}

/// Returns the reference to the only BGPConfiguration.
pub fn configuration_ref() -> ObjectRef {
    ObjectRef::new(ObjectKind::BGPConfiguration, CONFIGURATION_NAME)
}
