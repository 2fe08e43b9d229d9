//! Objects together: what no object shows alone. Gives the whole [`Snapshot`], or everything that is wrong.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use heliograph_bgp::Key;
use ipnetwork::IpNetwork;

use super::convert::{self, Surroundings};
use super::names::is_dns_name;
use super::problem::{ObjectRef, Problem, Problems};
use crate::api;
use crate::intent::{Configuration, Node, Peer, Snapshot};

/// The name of the only BGPConfiguration.
pub const CONFIGURATION_NAME: &str = "default";

/// An object as it was read. Cheap to clone.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// Its `metadata.name`.
    pub name: String,
    /// Its `metadata.generation`: how often its spec was written; `None`: it comes from no API server.
    pub generation: Option<i64>,
    /// The rest of it.
    pub kind: Kind,
}

/// The kinds of objects there are.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// `v1` Node.
    Node(Arc<api::Node>),
    /// `v1` Secret: its values by key.
    Secret(Arc<BTreeMap<String, Key>>),
    /// Our BGPConfiguration.
    Configuration(Arc<api::BGPConfigurationSpec>),
    /// Our BGPPeer.
    Peer(Arc<api::BGPPeerSpec>),
    /// Our BGPFilter.
    Filter(Arc<api::BGPFilterSpec>),
}

impl Object {
    /// The name of its kind.
    pub fn kind_name(&self) -> &'static str {
        match self.kind {
            Kind::Node(_) => "Node",
            Kind::Secret(_) => "Secret",
            Kind::Configuration(_) => "BGPConfiguration",
            Kind::Peer(_) => "BGPPeer",
            Kind::Filter(_) => "BGPFilter",
        }
    }
}

impl Object {
    /// Takes the labels of the same Node that it hasn't: each source keeps those that it was asked for.
    pub fn take_labels(&mut self, other: &Self) {
        if let (Kind::Node(node), Kind::Node(other)) = (&mut self.kind, &other.kind) {
            let known = Arc::make_mut(node).metadata.labels.get_or_insert_default();
            for (key, value) in other.metadata.labels.iter().flatten() {
                known.entry(key.clone()).or_insert_with(|| value.clone());
            }
        }
    }
}

/// How much of the cluster the objects are.
#[derive(Clone, Copy, Debug)]
pub enum Extent<'a> {
    /// All of it; `complete` is false where some objects could not even be read: what then seems missing may be among
    /// them.
    Whole {
        /// Every object could be read.
        complete: bool,
    },
    /// What a node needs: Secrets of its own peers only, and perhaps not all nodes, nor all of their labels.
    Around {
        /// The node.
        node: &'a str,
        /// What may be there, but couldn't be read.
        unread: &'a [ObjectRef],
    },
}

/// Makes the whole of the objects, or says everything that is wrong. Of two that clash the later one gets the blame.
pub fn assemble(objects: &[Object], extent: Extent) -> Result<Snapshot, Vec<Problem>> {
    let mut found = Vec::new();
    names(objects, &mut found);
    let complete = !matches!(extent, Extent::Whole { complete: false });
    let configuration = configuration(objects, complete, &mut found);
    let nodes = nodes(objects, &mut found);
    let mut surroundings = Surroundings {
        cluster: &configuration,
        filters: HashMap::new(),
        secrets: HashMap::new(),
        reader: match extent {
            Extent::Whole { .. } => None,
            Extent::Around { node: name, .. } => {
                Some(nodes.iter().map(|(_, node)| node).find(|node| node.name == name))
            }
        },
        unread: match extent {
            Extent::Whole { .. } => &[],
            Extent::Around { unread, .. } => unread,
        },
        complete,
    };
    for (index, object) in objects.iter().enumerate() {
        match &object.kind {
            Kind::Filter(spec) => {
                let policy = convert::policy(spec, &mut Problems::of(index, &mut found));
                surroundings.filters.insert(&object.name, policy);
            }
            Kind::Secret(values) => {
                surroundings.secrets.insert(&object.name, values);
            }
            _ => {}
        }
    }
    let mut peers = Vec::new();
    for (index, object) in objects.iter().enumerate() {
        if let Kind::Peer(spec) = &object.kind {
            let mut problems = Problems::of(index, &mut found);
            let peer = convert::peer(&object.name, spec, &surroundings, &mut problems);
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
        nodes: nodes.into_iter().map(|(_, node)| (node.name.clone(), node)).collect(),
        configuration,
        peers: peers.into_iter().map(|(_, peer)| (peer.name.clone(), peer)).collect(),
        all_nodes: true,
    };
    match extent {
        // What isn't there may be among what couldn't be read.
        Extent::Whole { complete: true } if snapshot.lacks_reflectors() => {
            let object = objects.iter().position(|object| matches!(object.kind, Kind::Configuration(_)));
            Err(vec![Problem { object, ..no_reflector("what was last good stays in force") }])
        }
        // What to go by then is for `settle` to find.
        _ => Ok(snapshot),
    }
}

/// Nodes are to have their routes from reflectors, and no node is one.
pub fn no_reflector(consequence: &str) -> Problem {
    Problem {
        object: None,
        field: "spec.reflectors.nodeSelector".into(),
        problem: format!("no node's labels match, so none would reflect and nodes would learn nothing of each other; {consequence}"),
        remedy: "label the nodes that are to reflect as it asks (kubectl label node), correct it, or set spec.topology to \
                 FullMesh"
            .into(),
        clash: None,
        object_ref: None,
    }
}

fn nodes(objects: &[Object], found: &mut Vec<Problem>) -> Vec<(usize, Node)> {
    let mut nodes = Vec::new();
    for (index, object) in objects.iter().enumerate() {
        if let Kind::Node(node) = &object.kind {
            nodes.push((index, convert::node(&object.name, node, &mut Problems::of(index, found))));
        }
    }
    nodes
}

fn names(objects: &[Object], found: &mut Vec<Problem>) {
    let mut seen: HashMap<(&str, &str), usize> = HashMap::new();
    for (index, object) in objects.iter().enumerate() {
        let mut problems = Problems::of(index, found);
        if !is_dns_name(&object.name) {
            problems.note(
                "metadata.name",
                format!("{:?} is no object name", object.name),
                "use lower-case letters, digits, '-' and '.', with a letter or digit at both ends",
            );
        }
        match seen.get(&(object.kind_name(), object.name.as_str())) {
            Some(first) => problems.note_clash(
                "metadata.name",
                format!("{} {} is there twice", object.kind_name(), object.name),
                "remove one of them",
                (*first, "metadata.name".into()),
            ),
            None => {
                seen.insert((object.kind_name(), &object.name), index);
            }
        }
    }
}

fn configuration(objects: &[Object], complete: bool, found: &mut Vec<Problem>) -> Configuration {
    let mut chosen = None;
    for (index, object) in objects.iter().enumerate() {
        let Kind::Configuration(spec) = &object.kind else { continue };
        let mut problems = Problems::of(index, found);
        let configuration = convert::configuration(spec, &mut problems);
        if object.name == CONFIGURATION_NAME {
            chosen.get_or_insert(configuration);
        } else {
            problems.note(
                "metadata.name",
                format!("there is one BGPConfiguration, and it is named {CONFIGURATION_NAME}"),
                format!("name it {CONFIGURATION_NAME}, or remove this one"),
            );
        }
    }
    let any = objects.iter().any(|object| matches!(object.kind, Kind::Configuration(_)));
    if !any && complete {
        found.push(Problem {
            object: None,
            field: String::new(),
            problem: "there is no BGPConfiguration".into(),
            remedy: format!(
                "add one: {{apiVersion: {}, kind: BGPConfiguration, metadata: {{name: {CONFIGURATION_NAME}}}, spec: \
                 {{asNumber: 64512}}}}",
                api::API_VERSION
            ),
            clash: None,
            object_ref: Some(ObjectRef::new("BGPConfiguration", CONFIGURATION_NAME)),
        });
    }
    chosen.unwrap_or_else(convert::stand_in)
}

fn addresses(nodes: &[(usize, Node)], found: &mut Vec<Problem>) {
    let mut seen: HashMap<IpAddr, (usize, &str)> = HashMap::new();
    for (index, node) in nodes {
        for address in &node.addresses {
            if let Some((first, name)) = seen.insert(*address, (*index, &node.name)) {
                if *name == *node.name && first == *index {
                    continue;
                }
                Problems::of(*index, found).note_clash(
                    "status.addresses",
                    format!("address {address} is also Node {name}'s"),
                    "correct the one that is wrong: each node has its own InternalIP",
                    (first, "status.addresses".into()),
                );
            }
        }
    }
}

/// A pod CIDR and where it stands.
struct Claim<'a> {
    network: IpNetwork,
    object: usize,
    field: String,
    node: &'a str,
}

fn pod_cidrs(nodes: &[(usize, Node)], configuration: &Configuration, found: &mut Vec<Problem>) {
    let mut claims = Vec::new();
    for (index, node) in nodes {
        for (position, network) in node.pod_cidrs.iter().enumerate() {
            let field = format!("spec.podCIDRs[{position}]");
            let within = |outer: &IpNetwork| contains(outer, network);
            if !configuration.cluster_cidrs.is_empty() && !configuration.cluster_cidrs.iter().any(within) {
                let mut problems = Problems::of(*index, found);
                problems.note(
                    &field,
                    format!(
                        "{network} is outside the cluster's networks ({})",
                        list(&configuration.cluster_cidrs)
                    ),
                    "give a network within them, or add one to clusterCIDRs of the BGPConfiguration",
                );
                problems.blame(ObjectRef::new("BGPConfiguration", CONFIGURATION_NAME));
            }
            claims.push(Claim { network: *network, object: *index, field, node: &node.name });
        }
    }
    // Two networks are apart or one holds the other, so after sorting by address, then length, whatever overlaps a
    // network follows it before anything else does.
    claims.sort_by_key(|claim| (claim.network.is_ipv6(), claim.network.network(), claim.network.prefix()));
    let mut outer: Option<&Claim> = None;
    for claim in &claims {
        match outer {
            Some(first) if contains(&first.network, &claim.network) => {
                // The blame goes to the one that came later.
                let (first, second) =
                    if first.object <= claim.object { (first, claim) } else { (claim, first) };
                Problems::of(second.object, found).note_clash(
                    &second.field,
                    format!(
                        "pod CIDR {} of Node {} overlaps {} of Node {}",
                        second.network, second.node, first.network, first.node
                    ),
                    "give each node a pod CIDR of its own",
                    (first.object, first.field.clone()),
                );
            }
            _ => outer = Some(claim),
        }
    }
    overlaps_with_addresses(&claims, nodes, found);
}

fn overlaps_with_addresses(claims: &[Claim], nodes: &[(usize, Node)], found: &mut Vec<Problem>) {
    let mut addresses: BTreeMap<IpAddr, (usize, &str)> = BTreeMap::new();
    for (index, node) in nodes {
        addresses.extend(node.addresses.iter().map(|address| (*address, (*index, node.name.as_str()))));
    }
    for claim in claims {
        let inside = addresses.range(claim.network.network()..=claim.network.broadcast());
        for (address, (owner, name)) in inside {
            let claimed = (claim.object, claim.field.clone());
            let owned = (*owner, "status.addresses".to_string());
            let (first, second) = if *owner <= claim.object { (owned, claimed) } else { (claimed, owned) };
            Problems::of(second.0, found).note_clash(
                second.1,
                format!("pod CIDR {} holds {address}, the address of Node {name}", claim.network),
                "pods and nodes need networks of their own",
                first,
            );
        }
    }
}

fn duplicate_peers(
    peers: &[(usize, Peer)],
    nodes: &[(usize, Node)],
    extent: Extent,
    found: &mut Vec<Problem>,
) {
    let mut of_nodes: HashMap<IpAddr, (usize, &Node)> = HashMap::new();
    for (index, node) in nodes {
        of_nodes.extend(node.addresses.iter().map(|address| (*address, (*index, node))));
    }
    let field = "spec.peerAddress";
    for (position, (index, peer)) in peers.iter().enumerate() {
        if let Some((owner, node)) = of_nodes.get(&peer.address) {
            Problems::of(*index, found).note_clash(
                field,
                format!(
                    "{} is Node {}'s address: nodes peer with each other without a BGPPeer",
                    peer.address, node.name
                ),
                "remove this BGPPeer; a BGPPeer is for neighbours outside the cluster",
                (*owner, "status.addresses".into()),
            );
        }
        for (earlier, other) in &peers[..position] {
            if other.address != peer.address {
                continue;
            }
            // Labels of other nodes may not all be known; what clashes there is said there.
            let seen = |node: &Node| matches!(extent, Extent::Whole { .. }) || is_reader(extent, node);
            let both = |node: &Node| {
                seen(node) && peer.nodes.matches(&node.labels) && other.nodes.matches(&node.labels)
            };
            let Some((_, node)) = nodes.iter().find(|(_, node)| both(node)) else { continue };
            Problems::of(*index, found).note_clash(
                field,
                format!(
                    "BGPPeers {} and {} both give Node {} the neighbour {}",
                    other.name, peer.name, node.name, peer.address
                ),
                "remove one, or make their node selectors exclude each other",
                (*earlier, field.into()),
            );
        }
    }
}

fn is_reader(extent: Extent, node: &Node) -> bool {
    matches!(extent, Extent::Around { node: name, .. } if node.name == name)
}

fn contains(outer: &IpNetwork, inner: &IpNetwork) -> bool {
    outer.is_ipv4() == inner.is_ipv4() && outer.prefix() <= inner.prefix() && outer.contains(inner.network())
}

fn list(networks: &[IpNetwork]) -> String {
    networks.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
