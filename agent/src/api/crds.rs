//! The CustomResourceDefinitions, as in the output of `heliograph crds` and in manifests/crds.yaml.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::{Number, Value};

use super::ObjectKind;

/// Returns all definitions. BGPConfiguration is the first: if somebody deletes them in this order, it is gone before the
/// other objects, and agents accept no deletion of these without it.
pub fn crds() -> Vec<Value> {
    let definitions = ObjectKind::ALL.iter().filter_map(|kind| kind.entry().definition);
    definitions.map(|definition| finished(&definition())).collect()
}

/// Returns all definitions as one YAML file.
pub fn yaml() -> String {
    let mut text = String::from("# Made by `heliograph crds`; not to be edited.\n");
    for crd in crds() {
        text.push_str("---\n");
        // The serialization of this value never fails.
        text.push_str(&serde_yaml::to_string(&crd).unwrap_or_default());
    }
    text
}

fn finished(crd: &CustomResourceDefinition) -> Value {
    let mut value = serde_json::to_value(crd).unwrap_or_default();
    strip(&mut value, false);
    value
}

/// Replaces a bound such as 65535.0 by a whole number, as clients write it.
fn whole(number: &mut Number) {
    if let Some(float) = number.as_f64().filter(|float| number.is_f64() && float.fract() == 0.0) {
        // Bounds are of 32 bits at most, which an f64 holds exactly.
        *number = Number::from(float as i64);
    }
}

/// Removes formats that API servers warn about, such as `uint32`, and makes bounds whole numbers. `properties`: the keys of
/// this object are names of fields.
fn strip(value: &mut Value, properties: bool) {
    match value {
        Value::Object(fields) => {
            let unknown = |format: &Value| format.as_str().is_some_and(|format| format.starts_with("uint"));
            if !properties && fields.get("format").is_some_and(unknown) {
                fields.remove("format");
            }
            for (name, field) in fields {
                strip(field, !properties && name == "properties");
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| strip(item, false)),
        Value::Number(number) => whole(number),
        _ => {}
    }
}

#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;
