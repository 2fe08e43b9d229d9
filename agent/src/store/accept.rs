//! Acceptance of objects that are edited one by one, as in an API server.
//!
//! A folder is edited as a whole and rejected as a whole. In an API server a mistake in one object must not block the
//! others. So each invalid wish (an object of ours, or a Secret) is replaced by its last accepted version, or left out, and
//! the rest is accepted. Accepted wishes have precedence: a new object that conflicts with one waits. Where no valid
//! combination remains, all wishes stay as they were.
//!
//! Nodes are facts: they are used as they are, or left aside by [`nodes::usable`]. A wish that conflicts with a Node is
//! rejected, unless the object is older than the Node.
//!
//! A topology with reflectors that no Node matches would end all sessions. Then the former reflectors stay reflectors; or
//! the former BGPConfiguration stays; or, at a first start, the topology is a full mesh.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Rejection;
use super::check::{
    self, CONFIGURATION_NAME, Content, Extent, Object, Wishes, configuration_ref, peer_is_node,
};
use super::nodes::{self, Facts};
use super::problem::{Finding, Problem};
use crate::api::{BGPConfigurationSpec, ObjectKind, ObjectRef, Spec, Topology};
use crate::intent::{self, Node, Snapshot};

/// The objects of an API server.
#[derive(Clone, Debug, Default)]
pub struct Current {
    /// The wishes.
    pub objects: Vec<Object>,
    /// Wishes whose current version can't be used.
    pub unusable: Vec<ObjectRef>,
    /// The Nodes.
    pub facts: Facts,
    /// These are all Nodes.
    pub all_nodes: bool,
}

/// Accepted intent, with the objects that it is made of.
#[derive(Clone, Debug, PartialEq)]
pub struct Accepted {
    /// The intent.
    pub snapshot: Snapshot,
    /// The wishes.
    pub objects: Vec<Object>,
    /// The Nodes.
    pub facts: Facts,
}

/// The result of [`accept`].
#[derive(Debug)]
pub struct Acceptance {
    /// The intent to put into force. `None`: there is none.
    pub accepted: Option<Accepted>,
    /// The reasons why some of the current objects are not in it.
    pub rejections: Vec<Rejection>,
}

/// Valid wishes with their input. They are used again while only other Nodes change.
#[derive(Debug)]
pub struct Converted {
    objects: Vec<Object>,
    unusable: Vec<ObjectRef>,
    own: Option<Arc<Node>>,
    wishes: Wishes,
}

/// Accepts what is valid of the current objects, as seen from `node`. `before` was accepted before; `converted` are its
/// wishes.
pub fn accept(
    current: Current,
    before: Option<&Accepted>,
    node: &str,
    converted: &mut Option<Converted>,
) -> Acceptance {
    let own = current.facts.get(node).map(|fact| fact.node.clone());
    let (facts, aside) = nodes::usable(current.facts);
    let of_before = before.iter().flat_map(|before| &before.objects);
    let mut candidates = Candidates {
        before,
        before_by_ref: of_before.map(|object| (object.reference(), object)).collect(),
        objects: BTreeMap::new(),
        node,
        own,
        facts,
        reflectors_kept: false,
        frozen: false,
        rejections: Vec::new(),
    };
    candidates.reject_nodes(aside);
    candidates.fill(current.objects, &current.unusable);
    loop {
        let objects = candidates.in_order();
        let wishes = match candidates.convert(&objects, &current.unusable, converted) {
            Ok(wishes) => wishes,
            Err(findings) => {
                if candidates.fall_back(&objects, findings) {
                    continue;
                }
                return Acceptance { accepted: None, rejections: candidates.rejections };
            }
        };
        if candidates.excludes_nodes(&wishes) || candidates.has_peers_that_are_nodes(&objects, &wishes) {
            continue;
        }
        let facts = candidates.facts_beside(&objects, &wishes);
        let Wishes { configuration, peers } = wishes;
        let nodes = Arc::new(nodes::nodes(&facts));
        let mut snapshot = Snapshot { nodes, configuration, peers, all_nodes: current.all_nodes };
        if snapshot.lacks_reflectors() {
            candidates.provide_reflectors(&snapshot);
            continue;
        }
        before.iter().for_each(|before| snapshot.share(&before.snapshot));
        let accepted = Some(Accepted { snapshot, objects, facts });
        return Acceptance { accepted, rejections: candidates.rejections };
    }
}

/// The objects to accept, of which invalid wishes are replaced until the rest is valid.
struct Candidates<'a> {
    before: Option<&'a Accepted>,
    /// The wishes in force.
    before_by_ref: BTreeMap<ObjectRef, &'a Object>,
    objects: BTreeMap<ObjectRef, Object>,
    /// The name of this node.
    node: &'a str,
    /// This node, also if it is left aside.
    own: Option<Arc<Node>>,
    /// The Nodes that make sense.
    facts: Facts,
    /// The former reflectors stay reflectors.
    reflectors_kept: bool,
    /// All wishes are those in force.
    frozen: bool,
    rejections: Vec<Rejection>,
}

impl Candidates<'_> {
    fn fill(&mut self, current: Vec<Object>, unusable: &[ObjectRef]) {
        self.objects = current.into_iter().map(|object| (object.reference(), object)).collect();
        for object in unusable {
            self.restore(object);
        }
        // Where defaults apply they are among the objects. So if there is no BGPConfiguration here, somebody deleted it, or
        // all definitions.
        if !self.objects.contains_key(&configuration_ref()) {
            let ours: Vec<_> =
                self.before_by_ref.keys().filter(|object| object.kind.is_heliograph()).cloned().collect();
            for object in ours {
                if !self.objects.contains_key(&object) {
                    self.restore(&object);
                }
            }
            if self.before.is_some() {
                self.rejections.push(Rejection::new(None, configuration_deleted()));
            }
        }
    }

    /// Returns the unchanged objects, then the changed ones: of two that conflict the later one is rejected.
    fn in_order(&self) -> Vec<Object> {
        let (old, new): (Vec<_>, Vec<_>) =
            self.objects.iter().partition(|(reference, _)| self.is_unchanged(reference));
        old.into_iter().chain(new).map(|(_, object)| object.clone()).collect()
    }

    /// Returns the wishes of objects, or their problems. Objects that were converted before are not converted again.
    fn convert(
        &self,
        objects: &[Object],
        unusable: &[ObjectRef],
        converted: &mut Option<Converted>,
    ) -> Result<Wishes, Vec<Finding>> {
        let same = |former: &&Converted| {
            former.own == self.own && former.objects == objects && former.unusable == unusable
        };
        if let Some(former) = converted.as_ref().filter(same) {
            return Ok(former.wishes.clone());
        }
        let mut found = Vec::new();
        let extent = Extent::Around { own: self.own.as_deref(), unavailable: unusable };
        let wishes = check::wishes(objects, extent, &mut found);
        if !found.is_empty() {
            return Err(found);
        }
        let (objects, unusable, own) = (objects.to_vec(), unusable.to_vec(), self.own.clone());
        *converted = Some(Converted { objects, unusable, own, wishes: wishes.clone() });
        Ok(wishes)
    }

    fn is_unchanged(&self, object: &ObjectRef) -> bool {
        // Regardless of the generation: an object that was made anew with the same content is unchanged.
        let now = self.objects.get(object);
        let before = self.before_by_ref.get(object);
        before.is_some_and(|before| now.is_some_and(|now| now.content == before.content))
    }

    /// Replaces the objects that cause the problems by their versions in force, or removes them. Returns whether there
    /// were any.
    fn fall_back(&mut self, objects: &[Object], findings: Vec<Finding>) -> bool {
        let (mut causes, mut unchanged) = (BTreeSet::new(), BTreeSet::new());
        for finding in findings {
            let own = finding.object.and_then(|index| objects.get(index)).map(Object::reference);
            match finding.cause.clone().filter(|object| self.can_be_restored(object)).or_else(|| own.clone())
            {
                Some(object) if self.is_unchanged(&object) => unchanged.extend([object]),
                cause => causes.extend(cause),
            }
            self.reject(own, with_conflict_named(finding, objects));
        }
        if causes.is_empty() && !unchanged.is_empty() {
            // A change makes objects invalid that did not change.
            if !std::mem::replace(&mut self.frozen, true) {
                let before = self.before_by_ref.iter();
                self.objects =
                    before.map(|(reference, object)| (reference.clone(), (*object).clone())).collect();
                return true;
            }
            // It is a change of this node's own Node, which is a fact.
            causes = unchanged;
        }
        for object in &causes {
            self.give_up(object);
        }
        !causes.is_empty()
    }

    /// Replaces an object by its version in force, if that is another one. Otherwise removes it.
    fn give_up(&mut self, object: &ObjectRef) {
        if !self.can_be_restored(object) || !self.restore(object) {
            self.objects.remove(object);
        }
    }

    fn reject(&mut self, object: Option<ObjectRef>, problem: Problem) {
        let rejection = Rejection::new(object, problem);
        if !self.rejections.contains(&rejection) {
            self.rejections.push(rejection);
        }
    }

    fn reject_nodes(&mut self, aside: impl IntoIterator<Item = (ObjectRef, Problem)>) {
        aside.into_iter().for_each(|(node, problem)| self.reject(Some(node), problem));
    }

    /// Returns whether a change of the BGPConfiguration excludes Nodes by its clusterCIDRs. Then the one in force stays.
    fn excludes_nodes(&mut self, wishes: &Wishes) -> bool {
        let configuration = configuration_ref();
        let Some(before) = self.before.filter(|_| self.can_be_restored(&configuration)) else { return false };
        let (now, before) = (&wishes.configuration, &before.snapshot.configuration);
        if now.cluster_cidrs == before.cluster_cidrs {
            return false;
        }
        let facts = self.facts.values().filter(|fact| nodes::outside(&fact.node, before).next().is_none());
        let excluded: Vec<_> = facts
            .flat_map(|fact| nodes::outside(&fact.node, now).map(|problem| (fact.reference(), problem)))
            .collect();
        let any = !excluded.is_empty();
        self.reject_nodes(excluded);
        any && self.restore(&configuration)
    }

    /// Returns whether there are BGPPeers with the address of an older Node. They are rejected.
    fn has_peers_that_are_nodes(&mut self, objects: &[Object], wishes: &Wishes) -> bool {
        let found = self.peers_with_address_of_nodes(objects, wishes, false);
        for (peer, name) in &found {
            let finding = peer_is_node(&wishes.peers[&peer.name], &self.facts[name].node);
            self.reject(Some(peer.clone()), finding.problem);
            self.give_up(peer);
        }
        !found.is_empty()
    }

    /// Returns the Nodes beside wishes: without those outside the cluster's networks, and those with the address of an
    /// older BGPPeer.
    fn facts_beside(&mut self, objects: &[Object], wishes: &Wishes) -> Facts {
        let mut aside = Vec::new();
        for (peer, node) in self.peers_with_address_of_nodes(objects, wishes, true) {
            let problem = format!(
                "{} is the address of {peer}, which is older",
                wishes.peers[&peer.name].neighbor.address
            );
            let remedy = "correct the one that is wrong, or delete the BGPPeer: nodes peer with each other without one";
            aside.push((self.facts[&node].reference(), Problem::new(problem, remedy).at("status.addresses")));
        }
        for fact in self.facts.values() {
            let outside = nodes::outside(&fact.node, &wishes.configuration);
            aside.extend(outside.map(|problem| (fact.reference(), problem)));
        }
        let mut facts = self.facts.clone();
        for (node, _) in &aside {
            facts.remove(&*node.name);
        }
        self.reject_nodes(aside);
        facts
    }

    /// Returns the BGPPeers that have an address of a Node and are `older` than it, or are not, each with the Node's name.
    fn peers_with_address_of_nodes(
        &self,
        objects: &[Object],
        wishes: &Wishes,
        older: bool,
    ) -> Vec<(ObjectRef, Arc<str>)> {
        if wishes.peers.is_empty() {
            return Vec::new();
        }
        let facts: Vec<_> = self.facts.values().collect();
        let all: Vec<&Node> = facts.iter().map(|fact| &*fact.node).collect();
        let found = check::peers_with_address_of(&wishes.peers, &all).into_iter().filter(|(name, node)| {
            let peer = objects.iter().find(|object| object.is(ObjectKind::BGPPeer, name));
            let created = peer.and_then(|peer| peer.created).zip(facts[*node].created);
            created.is_some_and(|(peer, node)| peer < node) == older
        });
        found
            .map(|(name, node)| (ObjectRef::new(ObjectKind::BGPPeer, name), all[node].name.clone()))
            .collect()
    }

    /// Changes a snapshot whose topology has reflectors that no Node matches: it gets reflectors, or another topology.
    fn provide_reflectors(&mut self, snapshot: &Snapshot) {
        let configuration = configuration_ref();
        let consequence = if let Some(names) = self.keep_reflectors(&snapshot.configuration.topology) {
            format!("until one does, the former reflectors stay: {names}")
        } else if self.can_be_restored(&configuration) && self.restore(&configuration) {
            "until one does, the BGPConfiguration stays as it was last good".into()
        } else {
            self.set_full_mesh(&configuration);
            "until one does, all nodes peer with each other (FullMesh)".into()
        };
        self.rejections.push(Rejection::new(Some(configuration), check::no_reflector(&consequence)));
    }

    /// Restores the labels of Nodes in force that were reflectors. Returns their names, if there are any.
    fn keep_reflectors(&mut self, topology: &intent::Topology) -> Option<String> {
        let (intent::Topology::Reflectors(selector), Some(before)) = (topology, self.before) else {
            return None;
        };
        if std::mem::replace(&mut self.reflectors_kept, true) {
            return None;
        }
        let mut names = Vec::new();
        for (name, former) in &before.facts {
            if !selector.matches(&former.node.labels) {
                continue;
            }
            names.push(&**name);
            let now = self.facts.entry(name.clone()).or_insert_with(|| former.clone());
            let labels = &mut Arc::make_mut(&mut now.node).labels;
            for requirement in &selector.requirements {
                labels.remove(&requirement.key);
                let former = former.node.labels.get_key_value(&requirement.key);
                labels.extend(former.map(|(key, value)| (key.clone(), value.clone())));
            }
        }
        let (facts, aside) = nodes::usable(std::mem::take(&mut self.facts));
        self.facts = facts;
        self.reject_nodes(aside);
        self.own = self.facts.get(self.node).map(|fact| fact.node.clone()).or(self.own.take());
        (!names.is_empty()).then(|| names.join(", "))
    }

    /// Sets the topology to one without reflectors.
    fn set_full_mesh(&mut self, configuration: &ObjectRef) {
        if let Some(Object { content: Content::Wish(Spec::BGPConfiguration(spec)), generation, .. }) =
            self.objects.get_mut(configuration)
        {
            let spec = Arc::make_mut(spec);
            (spec.topology, spec.reflectors) = (Topology::FullMesh, None);
            // It is none of the generations in the API server.
            *generation = None;
        }
    }

    fn can_be_restored(&self, object: &ObjectRef) -> bool {
        self.before_by_ref.contains_key(object) && !self.is_unchanged(object)
    }

    /// Replaces an object by its version in force. Returns whether there is one.
    fn restore(&mut self, object: &ObjectRef) -> bool {
        match self.before_by_ref.get(object) {
            Some(before) => {
                self.objects.insert(object.clone(), (*before).clone());
                true
            }
            None => false,
        }
    }
}

/// Returns the problem of a finding, with the name of the object in conflict.
fn with_conflict_named(finding: Finding, objects: &[Object]) -> Problem {
    let other = finding.conflict.and_then(|(index, _)| objects.get(index)).map(Object::reference);
    nodes::named(finding.problem, other)
}

fn configuration_deleted() -> Problem {
    Problem::new(
        "there is no BGPConfiguration any more",
        format!(
            "add one named {CONFIGURATION_NAME}; until then the last good one stays, and so do BGPPeers and BGPFilters"
        ),
    )
}

/// Returns the BGPConfiguration among objects.
pub fn configuration(objects: &[Object]) -> Option<&BGPConfigurationSpec> {
    objects.iter().find_map(|object| match &object.content {
        Content::Wish(Spec::BGPConfiguration(spec)) if object.name == CONFIGURATION_NAME => {
            Some(spec.as_ref())
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests;
