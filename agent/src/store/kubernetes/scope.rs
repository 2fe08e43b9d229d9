//! The Nodes that an agent needs, and the labels of them.

use std::collections::BTreeSet;

use crate::intent::{Configuration, Node, Operator, SEGMENT_LABEL, Selector, Snapshot, Topology};
use crate::store::accept;
use crate::store::check::Object;
use crate::store::convert;
use crate::store::problem::Problems;

/// The Nodes that an agent needs besides its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// The label selector of the Nodes. `None`: all Nodes.
    pub labels: Option<String>,
    /// The keys of the labels that are kept. The agent's own Node keeps all labels.
    pub keys: BTreeSet<String>,
}

impl Scope {
    /// Returns the scope of a node. In a full mesh, and on a reflector, it has all Nodes; else only the reflectors, as BGP
    /// reports the others.
    pub fn of(configuration: &Configuration, own: Option<&Node>) -> Self {
        let mut keys = BTreeSet::from([SEGMENT_LABEL.to_string()]);
        let labels = match &configuration.topology {
            Topology::FullMesh => None,
            Topology::Reflectors(selector) => {
                keys.extend(selector.requirements.iter().map(|requirement| requirement.key.clone()));
                let reflects = own.is_some_and(|node| selector.matches(&node.labels));
                (!reflects).then(|| selector_parameter(selector))
            }
        };
        Self { labels, keys }
    }

    /// Returns the scope of a node by objects. `None`: they have no valid BGPConfiguration.
    pub fn of_objects(objects: &[Object], own: Option<&Node>) -> Option<Self> {
        let mut found = Vec::new();
        let spec = accept::configuration(objects)?;
        let configuration = convert::configuration(spec, &mut Problems::of(0, &mut found));
        found.is_empty().then(|| Self::of(&configuration, own))
    }

    /// Returns the scope of a node by intent.
    pub fn of_snapshot(snapshot: &Snapshot, node: &str) -> Self {
        Self::of(&snapshot.configuration, snapshot.node(node))
    }
}

/// Returns a selector as the parameter of a request.
fn selector_parameter(selector: &Selector) -> String {
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
    use crate::intent::Requirement;

    fn requirement(key: &str, operator: Operator) -> Requirement {
        Requirement { key: key.into(), operator }
    }

    #[test]
    fn a_mesh_and_a_reflector_need_all_nodes_and_clients_the_reflectors() {
        let mut configuration = convert::default_configuration();
        let mut own = Node::new("a");
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
    fn selectors_have_the_syntax_of_kubernetes() {
        let values = |list: &[&str]| list.iter().map(|value| value.to_string()).collect::<BTreeSet<_>>();
        let selector = Selector {
            requirements: vec![
                requirement("a", Operator::In(values(&["1", "2"]))),
                requirement("b", Operator::NotIn(values(&["3"]))),
                requirement("c/d", Operator::Exists),
                requirement("e", Operator::DoesNotExist),
            ],
        };
        assert_eq!(selector_parameter(&selector), "a in (1,2),b notin (3),c/d,!e");
    }
}
