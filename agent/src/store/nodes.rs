//! Nodes: facts, which nobody edits. They are trimmed on arrival and converted once; one that makes no sense is left aside
//! and named.
//!
//! The rule depends on the Nodes alone, so that every agent leaves aside the same ones, whatever it received first: of two
//! Nodes in conflict the one that was created earlier is used, or else the one with the smaller name.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::IpNetwork;
use kube::{Resource, ResourceExt};

use super::check::{Content, Object};
use super::convert;
use super::problem::{Finding, Problem, Problems};
use crate::api::{self, ObjectKind, ObjectRef};
use crate::intent::{Configuration, Node, Nodes};

/// A Node as received, trimmed and converted. A clone is cheap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// The node.
    pub node: Arc<Node>,
    /// The time of its creation, in seconds since 1970. `None`: it is from a folder.
    pub created: Option<i64>,
    /// The UID, of this node's own Node only.
    pub uid: Option<Arc<str>>,
    /// The problems of its fields.
    pub problems: Vec<Problem>,
}

/// Nodes by name.
pub type Facts = BTreeMap<Arc<str>, Fact>;

impl Fact {
    /// Converts a Node, of which labels with the keys that are `needed` are kept.
    pub fn new(object: &api::Node, needed: impl Fn(&str) -> bool) -> Self {
        let mut found = Vec::new();
        let mut problems = Problems::of(0, &mut found);
        let node = convert::node(&object.name_any(), object, needed, &mut problems);
        own_conflicts(&node, &mut problems);
        Self {
            node: Arc::new(node),
            created: object.meta().creation_timestamp.as_ref().map(|time| time.0.as_second()),
            uid: None,
            problems: found.into_iter().map(|finding| finding.problem).collect(),
        }
    }

    /// Sets the UID to that of the Node.
    pub fn with_uid(self, object: &api::Node) -> Self {
        Self { uid: object.uid().map(Into::into), ..self }
    }

    /// Returns the Node with these labels and those of `other`, which another watcher received: each keeps only those that
    /// it needs.
    pub fn with_labels_of(mut self, other: &Self) -> Self {
        let lacks = |key: &String| !self.node.labels.contains_key(key);
        if other.node.labels.keys().any(lacks) {
            let labels = &mut Arc::make_mut(&mut self.node).labels;
            for (key, value) in &other.node.labels {
                labels.entry(key.clone()).or_insert_with(|| value.clone());
            }
        }
        self
    }

    /// Returns the reference to the Node.
    pub fn reference(&self) -> ObjectRef {
        ObjectRef::new(ObjectKind::Node, &*self.node.name)
    }
}

/// Separates the wishes among objects from the Nodes.
pub fn split(objects: Vec<Object>) -> (Vec<Object>, Facts) {
    let mut facts = Facts::new();
    let wishes = objects.into_iter().filter(|object| match &object.content {
        Content::Node(node) => {
            let fact = Fact::new(node, |_| true);
            facts.insert(fact.node.name.clone(), fact);
            false
        }
        _ => true,
    });
    (wishes.collect(), facts)
}

/// Returns the nodes of facts.
pub fn nodes(facts: &Facts) -> Nodes {
    facts.iter().map(|(name, fact)| (name.clone(), fact.node.clone())).collect()
}

/// Leaves aside the Nodes that make no sense: those with problems of their own, and those in conflict with an earlier one.
/// Returns the others, and the problems by Node.
pub fn usable(mut facts: Facts) -> (Facts, Vec<(ObjectRef, Problem)>) {
    let mut aside = Vec::new();
    facts.retain(|_, fact| {
        let reference = || fact.reference();
        aside.extend(fact.problems.iter().map(|problem| (reference(), problem.clone())));
        fact.problems.is_empty()
    });
    let all: Vec<&Fact> = facts.values().collect();
    let nodes: Vec<&Node> = all.iter().map(|fact| &*fact.node).collect();
    let mut losers = BTreeSet::new();
    for finding in conflicts(&nodes, |index| (all[index].created, index)) {
        let Some(loser) = finding.object.map(|index| all[index]) else { continue };
        let other = finding.conflict.map(|(index, _)| all[index].reference());
        aside.push((loser.reference(), named(finding.problem, other)));
        losers.insert(loser.node.name.clone());
    }
    facts.retain(|name, _| !losers.contains(name));
    (facts, aside)
}

/// Adds the name of the object in conflict to a problem that lacks it.
pub fn named(problem: Problem, other: Option<ObjectRef>) -> Problem {
    match other {
        Some(other) if !problem.problem.contains(other.name.as_str()) => {
            Problem { problem: format!("{} ({other})", problem.problem), ..problem }
        }
        _ => problem,
    }
}

/// Returns the problems of a Node's pod CIDRs outside the cluster's networks.
pub fn outside<'a>(
    node: &'a Node,
    configuration: &'a Configuration,
) -> impl Iterator<Item = Problem> + use<'a> {
    let cluster = &configuration.cluster_cidrs;
    let positions = node.pod_cidrs.iter().enumerate().filter(move |(_, network)| {
        !cluster.is_empty() && !cluster.iter().any(|outer| contains(outer, network))
    });
    positions.map(move |(position, network)| {
        let problem = format!("{network} is outside the cluster's networks ({})", list(cluster));
        let remedy = "give a network within them, or add one to clusterCIDRs of the BGPConfiguration";
        Problem::new(problem, remedy).at(pod_cidr_field(position))
    })
}

fn pod_cidr_field(position: usize) -> String {
    format!("spec.podCIDRs[{position}]")
}

fn contains(outer: &IpNetwork, inner: &IpNetwork) -> bool {
    outer.is_ipv4() == inner.is_ipv4() && outer.prefix() <= inner.prefix() && outer.contains(inner.network())
}

fn list(networks: &[IpNetwork]) -> String {
    networks.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// The addresses that a node has for itself: one of its own, or a pod CIDR.
#[derive(Clone, Copy)]
struct Claim {
    first: Place,
    last: Place,
    /// The index of the node.
    node: usize,
    /// The position of the pod CIDR. `None`: it is the node's address.
    pod_cidr: Option<usize>,
}

/// An address as a number, IPv4 first.
type Place = (bool, u128);

fn place(address: IpAddr) -> Place {
    match address {
        IpAddr::V4(v4) => (false, v4.to_bits().into()),
        IpAddr::V6(v6) => (true, v6.to_bits()),
    }
}

fn claims(index: usize, node: &Node) -> impl Iterator<Item = Claim> + use<'_> {
    let addresses = node.addresses.iter().map(move |address| {
        let place = place(*address);
        Claim { first: place, last: place, node: index, pod_cidr: None }
    });
    let pod_cidrs = node.pod_cidrs.iter().enumerate().map(move |(position, network)| Claim {
        first: place(network.network()),
        last: place(network.broadcast()),
        node: index,
        pod_cidr: Some(position),
    });
    addresses.chain(pod_cidrs)
}

impl Claim {
    fn overlaps(&self, other: &Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    fn field(&self) -> String {
        self.pod_cidr.map_or_else(|| "status.addresses".into(), pod_cidr_field)
    }

    fn address(&self) -> IpAddr {
        match self.first {
            (true, bits) => IpAddr::V6(bits.into()),
            // It was made of 32 bits.
            (false, bits) => IpAddr::V4((bits as u32).into()),
        }
    }
}

/// Returns the finding of a claim in conflict with one that was made earlier.
fn conflict(earlier: &Claim, later: &Claim, nodes: &[&Node]) -> Finding {
    let name = |claim: &Claim| &nodes[claim.node].name;
    let finding = match (earlier.pod_cidr, later.pod_cidr) {
        (None, None) => Finding::new(
            format!("address {} is also Node {}'s", later.address(), name(earlier)),
            "correct the one that is wrong: each node has its own InternalIP",
        ),
        (Some(first), Some(second)) => Finding::new(
            format!(
                "pod CIDR {} of Node {} overlaps {} of Node {}",
                nodes[later.node].pod_cidrs[second],
                name(later),
                nodes[earlier.node].pod_cidrs[first],
                name(earlier)
            ),
            "give each node a pod CIDR of its own",
        ),
        (Some(position), None) | (None, Some(position)) => {
            let (cidr, address) = if later.pod_cidr.is_some() { (later, earlier) } else { (earlier, later) };
            Finding::new(
                format!(
                    "pod CIDR {} contains {}, the address of Node {}",
                    nodes[cidr.node].pod_cidrs[position],
                    address.address(),
                    name(address)
                ),
                "pods and nodes need networks of their own",
            )
        }
    };
    finding.of(later.node).at(later.field()).in_conflict_with(earlier.node, earlier.field())
}

/// Adds the conflicts of a node with itself. The same address twice is none.
fn own_conflicts(node: &Node, problems: &mut Problems) {
    let claims: Vec<_> = claims(0, node).collect();
    for (index, later) in claims.iter().enumerate() {
        for earlier in &claims[..index] {
            let both = earlier.pod_cidr.is_some() || later.pod_cidr.is_some();
            if both && earlier.overlaps(later) {
                let finding = conflict(earlier, later, &[node]);
                problems.push(Finding { conflict: None, ..finding });
            }
        }
    }
}

/// Returns the conflicts of nodes with others, by index. Of two nodes that overlap, the one with the greater `rank` has the
/// problem, unless the other has one itself.
pub fn conflicts<R: Ord>(nodes: &[&Node], rank: impl Fn(usize) -> R) -> Vec<Finding> {
    let all = nodes.iter().enumerate();
    let mut sorted: Vec<_> = all.flat_map(|(index, node)| claims(index, node)).collect();
    sorted.sort_unstable_by_key(|claim| (claim.first, std::cmp::Reverse(claim.last)));
    // Two claims are disjoint, or one contains the other. So those within one follow it directly.
    let mut involved = BTreeSet::new();
    let mut outer: Option<&Claim> = None;
    for claim in &sorted {
        match outer {
            Some(outer) if outer.overlaps(claim) => involved.extend([outer.node, claim.node]),
            _ => outer = Some(claim),
        }
    }
    let mut involved: Vec<_> = involved.into_iter().collect();
    involved.sort_by_key(|index| rank(*index));
    // The claims of nodes without a problem, by their first address. They are disjoint, but for those of one node.
    let mut used: BTreeMap<Place, Claim> = BTreeMap::new();
    let mut found = Vec::new();
    for index in involved {
        let before = found.len();
        for claim in claims(index, nodes[index]) {
            let last = used.range(..=claim.last).next_back().map(|(_, earlier)| earlier);
            if let Some(earlier) = last.filter(|earlier| earlier.overlaps(&claim)) {
                found.push(conflict(earlier, &claim, nodes));
            }
        }
        if found.len() == before {
            used.extend(claims(index, nodes[index]).map(|claim| (claim.first, claim)));
        }
    }
    found
}
