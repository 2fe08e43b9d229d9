//! The fields of a type by its JSON schema, for suggestions where a field is unknown.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use schemars::JsonSchema;
use serde_json::Value;

/// Returns the names of the fields at a path of `T`; none where any field is valid.
pub fn fields<T: JsonSchema>(path: &str) -> Vec<String> {
    let root = root::<T>();
    let mut at = resolve(&root, &root);
    for step in path.split('.').filter(|step| !step.is_empty()) {
        let (key, indices) =
            step.split_once('[').map_or((step, 0), |(key, rest)| (key, rest.matches(']').count()));
        let Some(mut next) = at.pointer("/properties").and_then(|properties| properties.get(key)) else {
            return Vec::new();
        };
        next = resolve(&root, next);
        for _ in 0..indices {
            match next.get("items") {
                Some(items) => next = resolve(&root, items),
                None => return Vec::new(),
            }
        }
        at = next;
    }
    let properties = at.get("properties").and_then(Value::as_object);
    properties.map(|fields| fields.keys().cloned().collect()).unwrap_or_default()
}

/// Returns the schema of a type. Schemas are kept, as that of a Node is large.
fn root<T: JsonSchema>() -> Arc<Value> {
    static SCHEMAS: Mutex<Option<HashMap<String, Arc<Value>>>> = Mutex::new(None);
    let mut schemas = SCHEMAS.lock().unwrap_or_else(PoisonError::into_inner);
    let schemas = schemas.get_or_insert_with(HashMap::new);
    schemas
        .entry(T::schema_id().into_owned())
        .or_insert_with(|| {
            Arc::new(schemars::SchemaGenerator::default().into_root_schema_for::<T>().to_value())
        })
        .clone()
}

/// Follows references, and unwraps the schemas of optional fields.
fn resolve<'a>(root: &'a Value, mut schema: &'a Value) -> &'a Value {
    for _ in 0..8 {
        if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
            let Some(target) = root.pointer(reference.trim_start_matches('#')) else { return schema };
            schema = target;
            continue;
        }
        let inside = ["anyOf", "allOf", "oneOf"].iter().find_map(|word| {
            let options = schema.get(word)?.as_array()?;
            options.iter().find(|option| option.get("type").and_then(Value::as_str) != Some("null"))
        });
        match inside {
            Some(inner) if schema.get("properties").is_none() => schema = inner,
            _ => return schema,
        }
    }
    schema
}

/// Returns the known name that is most similar to `name`: equal but for case, or at most two typing errors away.
pub fn closest<'a>(name: &str, known: &'a [String]) -> Option<&'a str> {
    let lower = name.to_lowercase();
    let allowed = if name.len() < 5 { 1 } else { 2 };
    known
        .iter()
        .map(|candidate| {
            let errors = distance(&lower, &candidate.to_lowercase());
            (errors, candidate.len().abs_diff(name.len()), candidate.as_str())
        })
        .filter(|(errors, ..)| *errors <= allowed)
        .min()
        .map(|(.., candidate)| candidate)
}

/// Returns the Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api;
    use k8s_openapi::api::core::v1::Node;

    #[test]
    fn fields_are_found_through_references_lists_and_options() {
        assert!(fields::<Node>("").contains(&"status".to_string()));
        assert!(fields::<Node>("spec").contains(&"podCIDRs".to_string()));
        assert!(fields::<Node>("status.addresses[0]").contains(&"address".to_string()));
        assert!(fields::<Node>("metadata.labels").is_empty());
        assert!(fields::<api::BGPConfiguration>("spec.timers").contains(&"holdSeconds".to_string()));
        assert!(fields::<api::BGPPeer>("spec.import[3]").contains(&"maxLength".to_string()));
        assert!(fields::<api::BGPPeer>("nothing.here").is_empty());
    }

    #[test]
    fn typing_errors_are_recognized() {
        let known = ["podCIDRs", "podCIDR", "taints"].map(String::from);
        assert_eq!(closest("podCidrs", &known), Some("podCIDRs"));
        assert_eq!(closest("podCIRDs", &known), Some("podCIDRs"));
        assert_eq!(closest("declaredFeatures", &known), None);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
