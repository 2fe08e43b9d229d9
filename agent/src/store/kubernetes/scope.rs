//! Which nodes an agent has to know, and which of their labels.

use std::collections::BTreeSet;

use crate::intent::{Configuration, Operator, SEGMENT_LABEL, Selector, Topology};
use crate::store::check::{Kind, Object};
use crate::store::convert;
use crate::store::problem::Problems;
use crate::store::settle;

/// The nodes besides our own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// Those whose labels match; `None`: all.
    pub labels: Option<String>,
    /// Of their labels, those that anything depends on. Our own node keeps all.
    pub keys: BTreeSet<String>,
}

impl Scope {
    /// What a node needs. In a mesh, and to reflect, it is all nodes; else the reflectors: BGP tells of the others.
    pub fn of(configuration: &Configuration, own: Option<&crate::intent::Node>) -> Self {
        let mut keys = BTreeSet::from([SEGMENT_LABEL.to_string()]);
        let labels = match &configuration.topology {
            Topology::FullMesh => None,
            Topology::Reflectors(selector) => {
                keys.extend(selector.requirements.iter().map(|requirement| requirement.key.clone()));
                let reflects = own.is_some_and(|node| selector.matches(&node.labels));
                (!reflects).then(|| words(selector))
            }
        };
        Self { labels, keys }
    }

    /// The same from objects; `None`: the configuration among them can't be meant, or there is none.
    pub fn of_objects(objects: &[Object], node: &str) -> Option<Self> {
        let mut found = Vec::new();
        let mut problems = Problems::of(0, &mut found);
        let own = objects.iter().find_map(|object| match &object.kind {
            Kind::Node(own) if object.name == node => Some(convert::node(node, own, &mut problems)),
            _ => None,
        });
        let mut found = Vec::new();
        let spec = settle::configuration(objects)?;
        let configuration = convert::configuration(spec, &mut Problems::of(0, &mut found));
        found.is_empty().then(|| Self::of(&configuration, own.as_ref()))
    }
}

/// A selector as the API server takes it.
fn words(selector: &Selector) -> String {
    let list = |values: &BTreeSet<String>| values.iter().cloned().collect::<Vec<_>>().join(",");
    let each = selector.requirements.iter().map(|requirement| {
        let key = &requirement.key;
        match &requirement.operator {
            Operator::In(values) => format!("{key} in ({})", list(values)),
            Operator::NotIn(values) => format!("{key} notin ({})", list(values)),
            Operator::Exists => key.clone(),
            Operator::DoesNotExist => format!("!{key}"),
        }
    });
    each.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::intent::{Node, Requirement};

    fn requirement(key: &str, operator: Operator) -> Requirement {
        Requirement { key: key.into(), operator }
    }

    #[test]
    fn a_mesh_and_a_reflector_need_all_nodes_and_others_the_reflectors() {
        let mut configuration = convert::stand_in();
        let mut own = Node::default();
        assert_eq!(Scope::of(&configuration, Some(&own)).labels, None);
        let selector = Selector { requirements: vec![requirement("reflects", Operator::Exists)] };
        configuration.topology = Topology::Reflectors(selector);
        let scope = Scope::of(&configuration, Some(&own));
        assert_eq!(scope.labels.as_deref(), Some("reflects"));
        assert_eq!(scope.keys.into_iter().collect::<Vec<_>>(), [SEGMENT_LABEL, "reflects"]);
        assert_eq!(Scope::of(&configuration, None).labels.as_deref(), Some("reflects"));
        own.labels.insert("reflects".into(), String::new());
        assert_eq!(Scope::of(&configuration, Some(&own)).labels, None);
    }

    #[test]
    fn selectors_are_written_as_kubernetes_reads_them() {
        let values = |list: &[&str]| list.iter().map(|value| value.to_string()).collect::<BTreeSet<_>>();
        let selector = Selector {
            requirements: vec![
                requirement("a", Operator::In(values(&["1", "2"]))),
                requirement("b", Operator::NotIn(values(&["3"]))),
                requirement("c/d", Operator::Exists),
                requirement("e", Operator::DoesNotExist),
            ],
        };
        assert_eq!(words(&selector), "a in (1,2),b notin (3),c/d,!e");
    }
}
