//! Acceptance of objects that are edited one by one, as in an API server.
//!
//! A folder is edited as a whole and rejected as a whole. In an API server a mistake in one object must not block the
//! others: Nodes come and go independently of BGPPeers. So each invalid object is replaced by its last accepted
//! version, or left out, and the rest is accepted. Accepted objects have precedence: a new object that conflicts with one
//! waits. Where no valid combination remains, everything stays as it was.
//!
//! A topology with reflectors that no Node matches would end all sessions. Then the former reflectors stay reflectors; or
//! the former BGPConfiguration stays; or, at a first start, the topology is a full mesh.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Rejection;
use super::check::{self, CONFIGURATION_NAME, Content, Extent, Object, configuration_ref};
use super::problem::{Finding, Problem};
use crate::api::{BGPConfigurationSpec, ObjectRef, Topology};
use crate::intent::{self, Snapshot};

/// The result of [`accept`].
#[derive(Debug)]
pub struct Acceptance {
    /// The intent to put into force, with its objects. `None`: there is none.
    pub accepted: Option<(Snapshot, Vec<Object>)>,
    /// The reasons why some of the current objects are not in it.
    pub rejections: Vec<Rejection>,
}

/// Accepts what is valid of the `current` objects, as seen from `node`. `in_force` are the objects accepted before;
/// `unusable` are objects whose current version can't be used.
pub fn accept(current: Vec<Object>, unusable: &[ObjectRef], in_force: &[Object], node: &str) -> Acceptance {
    let before: BTreeMap<ObjectRef, &Object> =
        in_force.iter().map(|object| (object.reference(), object)).collect();
    let mut candidates = Candidates { before, objects: BTreeMap::new(), rejections: Vec::new() };
    candidates.fill(current, unusable);
    let extent = Extent::Around { node, unavailable: unusable };
    loop {
        let objects = candidates.in_order();
        match check::assemble(&objects, extent) {
            Ok(snapshot) if snapshot.lacks_reflectors() => candidates.provide_reflectors(&snapshot),
            Ok(snapshot) => {
                return Acceptance { accepted: Some((snapshot, objects)), rejections: candidates.rejections };
            }
            Err(findings) => {
                if !candidates.fall_back(&objects, findings) {
                    // The objects in force are valid together.
                    let snapshot = check::assemble(in_force, extent).ok();
                    let accepted = snapshot.map(|snapshot| (snapshot, in_force.to_vec()));
                    return Acceptance { accepted, rejections: candidates.rejections };
                }
            }
        }
    }
}

/// The objects to accept, of which invalid ones are replaced until the rest is valid.
struct Candidates<'a> {
    /// The objects in force.
    before: BTreeMap<ObjectRef, &'a Object>,
    objects: BTreeMap<ObjectRef, Object>,
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
                self.before.keys().filter(|object| object.kind.is_heliograph()).cloned().collect();
            for object in ours {
                if !self.objects.contains_key(&object) {
                    self.restore(&object);
                }
            }
            if !self.before.is_empty() {
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

    fn is_unchanged(&self, object: &ObjectRef) -> bool {
        // Regardless of the generation: an object that was made anew with the same content is unchanged.
        let now = self.objects.get(object);
        self.before.get(object).is_some_and(|before| now.is_some_and(|now| now.content == before.content))
    }

    /// Replaces the objects that cause the problems by their versions in force, or removes them. Returns whether there
    /// were any.
    fn fall_back(&mut self, objects: &[Object], findings: Vec<Finding>) -> bool {
        let mut causes = BTreeSet::new();
        for finding in findings {
            let own = finding.object.and_then(|index| objects.get(index)).map(Object::reference);
            let cause = finding.cause.clone().filter(|object| self.can_be_restored(object));
            causes.extend(cause.or_else(|| own.clone().filter(|object| !self.is_unchanged(object))));
            let rejection = Rejection::new(own, with_conflict_named(finding, objects));
            if !self.rejections.contains(&rejection) {
                self.rejections.push(rejection);
            }
        }
        for object in &causes {
            if !self.restore(object) {
                self.objects.remove(object);
            }
        }
        !causes.is_empty()
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
        let intent::Topology::Reflectors(selector) = topology else { return None };
        let mut names = Vec::new();
        for (reference, object) in &self.before {
            let Content::Node(former) = &object.content else { continue };
            let former_labels = former.metadata.labels.clone().unwrap_or_default();
            if !selector.matches(&former_labels) {
                continue;
            }
            names.push(reference.name.clone());
            let now = self.objects.entry(reference.clone()).or_insert_with(|| (*object).clone());
            if let Content::Node(node) = &mut now.content {
                let labels = Arc::make_mut(node).metadata.labels.get_or_insert_default();
                for requirement in &selector.requirements {
                    labels.remove(&requirement.key);
                    let former = former_labels.get_key_value(&requirement.key);
                    labels.extend(former.map(|(key, value)| (key.clone(), value.clone())));
                }
            }
        }
        (!names.is_empty()).then(|| names.join(", "))
    }

    /// Sets the topology to one without reflectors.
    fn set_full_mesh(&mut self, configuration: &ObjectRef) {
        if let Some(Object { content: Content::Configuration(spec), generation, .. }) =
            self.objects.get_mut(configuration)
        {
            let spec = Arc::make_mut(spec);
            (spec.topology, spec.reflectors) = (Topology::FullMesh, None);
            // It is none of the generations in the API server.
            *generation = None;
        }
    }

    fn can_be_restored(&self, object: &ObjectRef) -> bool {
        self.before.contains_key(object) && !self.is_unchanged(object)
    }

    /// Replaces an object by its version in force. Returns whether there is one.
    fn restore(&mut self, object: &ObjectRef) -> bool {
        match self.before.get(object) {
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
    let Finding { mut problem, conflict, .. } = finding;
    if let Some((index, _)) = conflict
        && let Some(other) = objects.get(index)
        && !problem.problem.contains(other.name.as_str())
    {
        problem.problem = format!("{} ({})", problem.problem, other.reference());
    }
    problem
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
        Content::Configuration(spec) if object.name == CONFIGURATION_NAME => Some(spec.as_ref()),
        _ => None,
    })
}

#[cfg(test)]
mod tests;
