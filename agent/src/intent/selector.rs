//! Label selectors as Kubernetes has them: all of `matchLabels` and all of `matchExpressions` must hold.

use std::collections::{BTreeMap, BTreeSet};

/// Which objects are meant, by their labels. Without requirements it matches every object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    /// All must hold.
    pub requirements: Vec<Requirement>,
}

/// One condition on one label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// The label.
    pub key: String,
    /// What must hold of it.
    pub operator: Operator,
}

/// What must hold of a label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operator {
    /// It is there and has one of these values.
    In(BTreeSet<String>),
    /// It has none of these values, or is not there.
    NotIn(BTreeSet<String>),
    /// It is there.
    Exists,
    /// It is not there.
    DoesNotExist,
}

impl Selector {
    /// Whether an object with these labels is meant.
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
    fn operators_mean_what_they_mean_in_kubernetes() {
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
