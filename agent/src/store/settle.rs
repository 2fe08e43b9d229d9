//! Objects that come one by one, each by its own hand: what of them is taken, and what stays as it was last good.
//!
//! Where a folder is edited as a whole and refused as a whole, in an API server a mistake in one object must not keep
//! another from being followed: nodes come and go whatever somebody did to a BGPPeer. So what is wrong gives way, object
//! by object, to what it was when it was last good, or is left out. What was good before has precedence: a newcomer that
//! clashes with it waits. Where that is not enough, everything stays as it was.
//!
//! Reflectors that no node is would take every session away. Then those reflect that did, the topology stays as it was,
//! or, at a first start, it is a full mesh.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::check::{self, CONFIGURATION_NAME, Extent, Kind, Object};
use super::problem::{ObjectRef, Problem};
use crate::api::Topology;
use crate::intent::{self, Snapshot};

/// What came of it.
#[derive(Debug)]
pub struct Settled {
    /// What is in force now, with the objects it is made of; `None`: there is nothing that could be.
    pub good: Option<(Snapshot, Vec<Object>)>,
    /// Why not all is in force that there is.
    pub refused: Vec<Refused>,
}

/// One thing that is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Of which object; `None`: of the whole.
    pub object: Option<ObjectRef>,
    /// What.
    pub problem: Problem,
}

impl Object {
    /// Its kind and name.
    pub fn key(&self) -> ObjectRef {
        ObjectRef::new(self.kind_name(), &self.name)
    }
}

/// Settles what `current` objects mean to `node`, given those of which the intent in force is made. `unreadable` are
/// there, too, but couldn't be read.
pub fn settle(current: Vec<Object>, unreadable: &[ObjectRef], good: &[Object], node: &str) -> Settled {
    let before: BTreeMap<ObjectRef, &Object> = good.iter().map(|object| (object.key(), object)).collect();
    let mut settling = Settling { before, taken: BTreeMap::new(), refused: Vec::new() };
    settling.begin(current, unreadable);
    let extent = Extent::Around { node, unread: unreadable };
    loop {
        let objects = settling.in_order();
        match check::assemble(&objects, extent) {
            Ok(snapshot) if snapshot.lacks_reflectors() => settling.find_reflectors(&snapshot),
            Ok(snapshot) => {
                return Settled { good: Some((snapshot, objects)), refused: settling.refused };
            }
            Err(problems) => {
                if !settling.give_way(&objects, problems) {
                    // What was good before fits together.
                    let snapshot = check::assemble(good, extent).ok();
                    let good = snapshot.map(|snapshot| (snapshot, good.to_vec()));
                    return Settled { good, refused: settling.refused };
                }
            }
        }
    }
}

struct Settling<'a> {
    before: BTreeMap<ObjectRef, &'a Object>,
    taken: BTreeMap<ObjectRef, Object>,
    refused: Vec<Refused>,
}

impl Settling<'_> {
    fn begin(&mut self, current: Vec<Object>, unreadable: &[ObjectRef]) {
        self.taken = current.into_iter().map(|object| (object.key(), object)).collect();
        for key in unreadable {
            self.restore(key);
        }
        // Where the defaults hold they are among the objects. Else, without a BGPConfiguration, somebody took ours away, or
        // the definitions of all.
        if !self.taken.contains_key(&ObjectRef::new("BGPConfiguration", CONFIGURATION_NAME)) {
            let ours: Vec<_> =
                self.before.keys().filter(|key| key.kind.starts_with("BGP")).cloned().collect();
            for key in ours {
                if !self.taken.contains_key(&key) {
                    self.restore(&key);
                }
            }
            if !self.before.is_empty() {
                self.refused.push(Refused { object: None, problem: no_configuration() });
            }
        }
    }

    /// What is as it was comes first: the blame goes to what comes later.
    fn in_order(&self) -> Vec<Object> {
        let (old, new): (Vec<_>, Vec<_>) = self.taken.iter().partition(|(key, _)| self.is_as_before(key));
        old.into_iter().chain(new).map(|(_, object)| object.clone()).collect()
    }

    fn is_as_before(&self, key: &ObjectRef) -> bool {
        // Whatever its generation: who makes the same object anew has changed nothing.
        let taken = self.taken.get(key);
        self.before.get(key).is_some_and(|object| taken.is_some_and(|taken| taken.kind == object.kind))
    }

    /// Makes what is to blame give way; whether anything did.
    fn give_way(&mut self, objects: &[Object], problems: Vec<Problem>) -> bool {
        let mut guilty = BTreeSet::new();
        for problem in problems {
            let own = problem.object.and_then(|index| objects.get(index)).map(Object::key);
            let object_ref = problem.object_ref.clone().filter(|key| self.can_be_restored(key));
            guilty.extend(object_ref.or_else(|| own.clone().filter(|key| !self.is_as_before(key))));
            let refused = Refused { object: own, problem: with_clash_in_words(problem, objects) };
            if !self.refused.contains(&refused) {
                self.refused.push(refused);
            }
        }
        for key in &guilty {
            if !self.restore(key) {
                self.taken.remove(key);
            }
        }
        !guilty.is_empty()
    }

    /// Sees that a snapshot whose topology wants reflectors has some, or wants none.
    fn find_reflectors(&mut self, snapshot: &Snapshot) {
        let key = ObjectRef::new("BGPConfiguration", CONFIGURATION_NAME);
        let consequence = if let Some(names) = self.go_on_reflecting(&snapshot.configuration.topology) {
            format!("until one does, those that did go on to reflect: {names}")
        } else if self.can_be_restored(&key) && self.restore(&key) {
            "until one does, the BGPConfiguration stays as it was last good".into()
        } else {
            self.mesh(&key);
            "until one does, all nodes peer with each other (FullMesh)".into()
        };
        self.refused.push(Refused { object: Some(key), problem: check::no_reflector(&consequence) });
    }

    /// Gives those nodes that reflected their labels back; which these are, if there are any.
    fn go_on_reflecting(&mut self, topology: &intent::Topology) -> Option<String> {
        let intent::Topology::Reflectors(selector) = topology else { return None };
        let mut names = Vec::new();
        for (key, object) in &self.before {
            let Kind::Node(former) = &object.kind else { continue };
            let labels = former.metadata.labels.clone().unwrap_or_default();
            if !selector.matches(&labels) {
                continue;
            }
            names.push(key.name.clone());
            let now = self.taken.entry(key.clone()).or_insert_with(|| (*object).clone());
            if let Kind::Node(node) = &mut now.kind {
                let known = Arc::make_mut(node).metadata.labels.get_or_insert_default();
                for requirement in &selector.requirements {
                    known.remove(&requirement.key);
                    known.extend(labels.get_key_value(&requirement.key).map(|(k, v)| (k.clone(), v.clone())));
                }
            }
        }
        (!names.is_empty()).then(|| names.join(", "))
    }

    /// Makes the topology one that needs no reflectors.
    fn mesh(&mut self, key: &ObjectRef) {
        if let Some(Object { kind: Kind::Configuration(spec), generation, .. }) = self.taken.get_mut(key) {
            let spec = Arc::make_mut(spec);
            (spec.topology, spec.reflectors) = (Topology::FullMesh, None);
            // It is no longer what anybody wrote.
            *generation = None;
        }
    }

    fn can_be_restored(&self, key: &ObjectRef) -> bool {
        self.before.contains_key(key) && !self.is_as_before(key)
    }

    fn restore(&mut self, key: &ObjectRef) -> bool {
        match self.before.get(key) {
            Some(object) => {
                self.taken.insert(key.clone(), (*object).clone());
                true
            }
            None => false,
        }
    }
}

/// The other object by name: numbers mean nothing outside.
fn with_clash_in_words(mut problem: Problem, objects: &[Object]) -> Problem {
    if let Some((index, _)) = problem.clash.take()
        && let Some(other) = objects.get(index)
        && !problem.problem.contains(other.name.as_str())
    {
        problem.problem = format!("{} ({} {})", problem.problem, other.kind_name(), other.name);
    }
    problem.object = None;
    problem
}

fn no_configuration() -> Problem {
    Problem {
        object: None,
        field: String::new(),
        problem: "there is no BGPConfiguration any more".into(),
        remedy: format!(
            "add one named {CONFIGURATION_NAME}; until then what was last good stays, BGPPeers and BGPFilters too"
        ),
        clash: None,
        object_ref: None,
    }
}

/// The configuration among objects.
pub fn configuration(objects: &[Object]) -> Option<&crate::api::BGPConfigurationSpec> {
    objects.iter().find_map(|object| match &object.kind {
        Kind::Configuration(spec) if object.name == CONFIGURATION_NAME => Some(spec.as_ref()),
        _ => None,
    })
}

#[cfg(test)]
mod tests;
