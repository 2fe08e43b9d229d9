//! From a document to the object it holds: which kind, which fields are unknown, which have the wrong type.

use std::collections::BTreeMap;
use std::sync::Arc;

use heliograph_bgp::Key;
use k8s_openapi::api::core::v1 as core;
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::check::{Kind, Object};
use super::problem::Problems;
use super::schema;
use super::yaml::join;
use crate::api;

/// What becomes of fields that we don't know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unknown {
    /// They are slips, and refused.
    Refused,
    /// They are for a newer version of us: the API server let them through.
    Ignored,
}

/// Reads the object in a document. `None`: it could not be read; the problems say why.
pub fn object(value: &Value, unknown: Unknown, problems: &mut Problems) -> Option<Object> {
    let Some(fields) = value.as_object() else {
        problems.note("", "not an object", "a document holds apiVersion, kind, metadata and spec");
        return None;
    };
    let text = |field: &str| fields.get(field).and_then(Value::as_str).unwrap_or_default();
    let kind = match (text("apiVersion"), text("kind")) {
        ("v1", "Node") => {
            // Kubernetes' own type knows all fields, and so every slip; ours holds only what we use.
            typed::<core::Node>(value, unknown, problems)?;
            let node = api::Node::deserialize(value).ok()?;
            Kind::Node(Arc::new(node.trimmed(|_| true)))
        }
        ("v1", "Secret") => {
            Kind::Secret(Arc::new(secret_values(typed::<core::Secret>(value, unknown, problems)?)))
        }
        (api::API_VERSION, "BGPConfiguration") => {
            Kind::Configuration(Arc::new(typed::<api::BGPConfiguration>(value, unknown, problems)?.spec))
        }
        (api::API_VERSION, "BGPPeer") => {
            Kind::Peer(Arc::new(typed::<api::BGPPeer>(value, unknown, problems)?.spec))
        }
        (api::API_VERSION, "BGPFilter") => {
            Kind::Filter(Arc::new(typed::<api::BGPFilter>(value, unknown, problems)?.spec))
        }
        (version, kind) => {
            unknown_kind(version, kind, problems);
            return None;
        }
    };
    let name = value.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    if name.is_empty() {
        problems.note("metadata.name", "the object has no name", "add metadata: {name: NAME}");
        return None;
    }
    let generation = value.pointer("/metadata/generation").and_then(Value::as_i64);
    Some(Object { name: name.to_string(), generation, kind })
}

/// The values of a Secret by key; `stringData` counts before `data`, as when it is written to an API server.
pub fn secret_values(secret: core::Secret) -> BTreeMap<String, Key> {
    let data = secret.data.into_iter().flatten().map(|(key, value)| (key, Key::new(value.0)));
    let text = secret.string_data.into_iter().flatten().map(|(key, value)| (key, Key::new(value)));
    data.chain(text).collect()
}

fn unknown_kind(version: &str, kind: &str, problems: &mut Problems) {
    let right = match kind {
        "Node" | "Secret" => Some("v1"),
        "BGPConfiguration" | "BGPPeer" | "BGPFilter" => Some(api::API_VERSION),
        _ => None,
    };
    match right {
        Some(right) => problems.note(
            "apiVersion",
            format!("{kind} has no apiVersion {version:?}"),
            format!("write apiVersion: {right}"),
        ),
        None => problems.note(
            "kind",
            format!("unknown kind {kind:?} (apiVersion {version:?})"),
            format!(
                "use Node or Secret (v1), BGPConfiguration, BGPPeer or BGPFilter ({}); move anything else away",
                api::API_VERSION
            ),
        ),
    }
}

fn typed<T: DeserializeOwned + JsonSchema>(
    value: &Value,
    policy: Unknown,
    problems: &mut Problems,
) -> Option<T> {
    let mut unknown = Vec::new();
    let mut track = serde_path_to_error::Track::new();
    let result =
        serde_ignored::deserialize(serde_path_to_error::Deserializer::new(value, &mut track), |path| {
            unknown.push(path_of(&path));
        });
    unknown.retain(|_| policy == Unknown::Refused);
    for path in unknown {
        note_unknown::<T>(&path, value, problems);
    }
    match result {
        Ok(object) => Some(object),
        Err(error) => {
            let path = track.path().to_string();
            note_wrong(if path == "." { "" } else { &path }, &error.to_string(), problems);
            None
        }
    }
}

fn path_of(path: &serde_ignored::Path) -> String {
    use serde_ignored::Path;
    match path {
        Path::Root => String::new(),
        Path::Seq { parent, index } => format!("{}[{index}]", path_of(parent)),
        Path::Map { parent, key } => join(&path_of(parent), key),
        Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => {
            path_of(parent)
        }
    }
}

fn note_unknown<T: JsonSchema>(path: &str, value: &Value, problems: &mut Problems) {
    if matches!(path, "apiVersion" | "kind") {
        return;
    }
    let (parent, name) = path.rsplit_once('.').unwrap_or(("", path));
    let known = schema::fields::<T>(parent);
    let meant = schema::closest(name, &known);
    // What machines write about a node may be newer than our list of it; only what looks like a slip is refused.
    let by_machines = value["kind"] == "Node" && path.starts_with("status.");
    if by_machines && meant.is_none() {
        return;
    }
    let remedy = match meant {
        Some(meant) => format!("did you mean {meant}?"),
        None if known.is_empty() => "remove it".to_string(),
        None => format!(
            "remove it; {} has: {}",
            if parent.is_empty() { "the object" } else { parent },
            known.join(", ")
        ),
    };
    problems.note(path, format!("unknown field {name:?}"), remedy);
}

fn note_wrong(path: &str, message: &str, problems: &mut Problems) {
    if let Some(name) = message.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`')) {
        problems.note(join(path, name), "this field is required", format!("add {name}: VALUE"));
        return;
    }
    let whole = |most: u32| format!("give a whole number from 0 to {most}");
    let remedy = match message.rsplit("expected ").next() {
        Some("a string" | "String") => "put the value in quotes, or give text".to_string(),
        Some("u8") => whole(u8::MAX.into()),
        Some("u16") => whole(u16::MAX.into()),
        Some("u32") => whole(u32::MAX),
        Some("a boolean") => "write true or false".to_string(),
        Some("a sequence") => "write a list: [A, B]".to_string(),
        Some("a map") => "write fields: {NAME: VALUE}".to_string(),
        Some(expected) if message.starts_with("unknown variant") => format!("give {expected}"),
        _ => "give a value of the kind that the field takes".to_string(),
    };
    problems.note(path, message, remedy);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(value: Value) -> (Option<Object>, Vec<(String, String, String)>) {
        let mut found = Vec::new();
        let object = object(&value, Unknown::Refused, &mut Problems::of(0, &mut found));
        (object, found.into_iter().map(|p| (p.field, p.problem, p.remedy)).collect())
    }

    #[test]
    fn unknown_fields_are_found_at_every_depth_of_nodes_too() {
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "a", "nmespace": "x"},
            "spec": {"podCIDR": "10.0.0.0/24", "podCidrs": ["10.0.0.0/24"], "taints": [{"key": "a", "efect": "b"}]},
            "status": {"addresses": [{"type": "InternalIP", "adress": "1.2.3.4", "address": ""}], "newThing": {"x": 1}}});
        let (object, found) = read(node);
        assert!(object.is_none() || !found.is_empty());
        let fields: Vec<_> = found.iter().map(|(field, ..)| field.as_str()).collect();
        let expected =
            ["metadata.nmespace", "spec.podCidrs", "spec.taints[0].efect", "status.addresses[0].adress"];
        for field in expected {
            assert!(fields.contains(&field), "{field} in {found:?}");
        }
        assert!(!fields.iter().any(|f| f.contains("newThing")), "{fields:?}");
        let remedies: Vec<_> = found.iter().map(|(.., remedy)| remedy.as_str()).collect();
        assert!(remedies.contains(&"did you mean podCIDRs?"), "{remedies:?}");
        assert!(remedies.contains(&"did you mean address?"), "{remedies:?}");
    }

    #[test]
    fn wrong_types_and_missing_fields_say_what_to_give() {
        let configuration = |spec: Value| {
            json!({"apiVersion": api::API_VERSION, "kind": "BGPConfiguration", "metadata": {"name": "default"},
                "spec": spec})
        };
        let cases = [
            (configuration(json!({})), "spec.asNumber", "required", "asNumber"),
            (configuration(json!({"asNumber": "x"})), "spec.asNumber", "invalid type", "0 to 4294967295"),
            (
                configuration(json!({"asNumber": 70_000_000_000u64})),
                "spec.asNumber",
                "invalid value",
                "0 to 4294967295",
            ),
            (configuration(json!({"asNumber": 1, "topology": "Mesh"})), "spec.topology", "Mesh", "FullMesh"),
            (
                configuration(json!({"asNumber": 1, "asnumber": 1})),
                "spec.asnumber",
                "unknown field",
                "did you mean asNumber",
            ),
            (configuration(json!({"asNumber": 1, "ospf": true})), "spec.ospf", "unknown field", "listenPort"),
            (json!({"apiVersion": "v2", "kind": "Node"}), "apiVersion", "v2", "v1"),
            (json!({"apiVersion": "v1", "kind": "Pod"}), "kind", "Pod", "BGPPeer"),
            (json!({"apiVersion": "v1", "kind": "Node", "metadata": {}}), "metadata.name", "no name", "add"),
            (
                json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "a", "labels": {"x": true}}}),
                "metadata.labels.x",
                "boolean",
                "quotes",
            ),
            (json!([1]), "", "not an object", "apiVersion"),
        ];
        for (value, field, problem, remedy) in cases {
            let (_, found) = read(value.clone());
            let hit = found.iter().any(|(f, p, r)| f == field && p.contains(problem) && r.contains(remedy));
            assert!(hit, "{value}: {found:?}");
        }
    }
}
