//! Kubernetes' label selectors: `matchLabels` and `matchExpressions` as one list of requirements.

use std::collections::{BTreeMap, BTreeSet};

/// A label selector. Without requirements it matches every object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    /// The requirements, all of which must be met.
    pub requirements: Vec<Requirement>,
}

/// A condition on a label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// The key of the label.
    pub key: String,
    /// The operator, with its values.
    pub operator: Operator,
}

/// An operator of a requirement, with its values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operator {
    /// The label exists and has one of these values.
    In(BTreeSet<String>),
    /// The label has none of these values, or does not exist.
    NotIn(BTreeSet<String>),
    /// The label exists.
    Exists,
    /// The label does not exist.
    DoesNotExist,
}

impl Selector {
    /// Returns whether an object with these labels matches.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.requirements.iter().all(|requirement| {
            let value = labels.get(&requirement.key);
            match &requirement.operator {
                Operator::In(values) => value.is_some_and(|value| values.contains(value)),
                Operator::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
                Operator::Exists => value.is_some(),
                Operator::DoesNotExist => value.is_none(),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_match_as_in_kubernetes() {
        let values = |list: &[&str]| list.iter().map(|v| v.to_string()).collect::<BTreeSet<_>>();
        let labels = BTreeMap::from([("rack".to_string(), "1".to_string())]);
        let cases = [
            ("rack", Operator::In(values(&["1", "2"])), true),
            ("rack", Operator::In(values(&["2"])), false),
            ("row", Operator::In(values(&["1"])), false),
            ("rack", Operator::NotIn(values(&["1"])), false),
            ("rack", Operator::NotIn(values(&["2"])), true),
            ("row", Operator::NotIn(values(&["1"])), true),
            ("rack", Operator::Exists, true),
            ("row", Operator::Exists, false),
            ("rack", Operator::DoesNotExist, false),
            ("row", Operator::DoesNotExist, true),
        ];
        for (key, operator, expected) in cases {
            let requirement = Requirement { key: key.into(), operator };
            let selector = Selector { requirements: vec![requirement.clone()] };
            assert_eq!(selector.matches(&labels), expected, "{requirement:?}");
        }
        assert!(Selector::default().matches(&labels));
    }
}
