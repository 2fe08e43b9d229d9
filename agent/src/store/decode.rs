//! Decoding of documents to objects, with the problems of unknown fields and wrong types.

use std::collections::BTreeMap;
use std::sync::Arc;

use heliograph_bgp::Key;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::jiff::Timestamp;
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::check::{Content, Object};
use super::problem::Problems;
use super::schema;
use super::yaml::join;
use crate::api::kinds::{Decode, Role};
use crate::api::{self, ObjectKind, Spec};

/// The treatment of unknown fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownFields {
    /// They are typing errors, and rejected.
    Rejected,
    /// They are for a newer version of the agent, as the API server has accepted them.
    Ignored,
}

/// Decodes a document. Returns `None` and adds problems if it is invalid.
pub fn object(value: &Value, unknown: UnknownFields, problems: &mut Problems) -> Option<Object> {
    let Some(fields) = value.as_object() else {
        problems.add("", "not an object", "write a document with apiVersion, kind, metadata and spec");
        return None;
    };
    let text = |field: &str| fields.get(field).and_then(Value::as_str).unwrap_or_default();
    let (version, kind) = (text("apiVersion"), text("kind"));
    let Some(kind) = ObjectKind::from_name(kind).filter(|kind| kind.api_version() == version) else {
        add_unknown_kind(version, kind, problems);
        return None;
    };
    let content = match kind {
        ObjectKind::Node => {
            // Kubernetes' own type has all fields, so a check by it finds every typing error. Ours has those that are used.
            typed::<core::Node>(value, unknown, problems)?;
            let node = api::Node::deserialize(value).ok()?;
            Content::Node(Arc::new(node.trimmed()))
        }
        ObjectKind::Secret => {
            Content::Secret(Arc::new(secret_values(typed::<core::Secret>(value, unknown, problems)?)))
        }
        kind if kind.role() == Role::Wish => {
            Content::Wish(Spec::decode(kind, Typed { value, unknown, problems })?)
        }
        kind => {
            add_unknown_kind(version, kind.as_str(), problems);
            return None;
        }
    };
    let name = value.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    if name.is_empty() {
        problems.add("metadata.name", "the object has no name", "add metadata: {name: NAME}");
        return None;
    }
    let generation = value.pointer("/metadata/generation").and_then(Value::as_i64);
    let created = value.pointer("/metadata/creationTimestamp").and_then(Value::as_str);
    let created = created.and_then(|time| time.parse::<Timestamp>().ok()).map(Timestamp::as_second);
    Some(Object { name: name.to_string(), generation, created, content })
}

/// Returns the values of a Secret by key. `stringData` overrides `data`, as in an API server.
pub fn secret_values(secret: core::Secret) -> BTreeMap<String, Key> {
    let data = secret.data.into_iter().flatten().map(|(key, value)| (key, Key::new(value.0)));
    let text = secret.string_data.into_iter().flatten().map(|(key, value)| (key, Key::new(value)));
    data.chain(text).collect()
}

fn add_unknown_kind(version: &str, kind: &str, problems: &mut Problems) {
    let known = ObjectKind::from_name(kind).filter(|kind| kind.role() != Role::Report);
    let mut wishes: Vec<_> = ObjectKind::wishes().map(ObjectKind::as_str).collect();
    // "A, B or C".
    let last = wishes.pop().unwrap_or_default();
    let wishes = [wishes.join(", "), last.to_string()];
    match known.map(ObjectKind::api_version) {
        Some(right) => problems.add(
            "apiVersion",
            format!("{kind} has no apiVersion {version:?}"),
            format!("write apiVersion: {right}"),
        ),
        None => problems.add(
            "kind",
            format!("unknown kind {kind:?} (apiVersion {version:?})"),
            format!(
                "use Node or Secret (v1), {} ({}); move anything else away",
                wishes.join(" or "),
                api::API_VERSION
            ),
        ),
    }
}

/// A decoder of a document to a type.
struct Typed<'a, 'b> {
    value: &'a Value,
    unknown: UnknownFields,
    problems: &'a mut Problems<'b>,
}

impl Decode for Typed<'_, '_> {
    fn decode<T: DeserializeOwned + JsonSchema>(self) -> Option<T> {
        typed(self.value, self.unknown, self.problems)
    }
}

fn typed<T: DeserializeOwned + JsonSchema>(
    value: &Value,
    policy: UnknownFields,
    problems: &mut Problems,
) -> Option<T> {
    let mut unknown = Vec::new();
    let mut track = serde_path_to_error::Track::new();
    let result =
        serde_ignored::deserialize(serde_path_to_error::Deserializer::new(value, &mut track), |path| {
            unknown.push(path_of(&path));
        });
    unknown.retain(|_| policy == UnknownFields::Rejected);
    for path in unknown {
        add_unknown_field::<T>(&path, value, problems);
    }
    match result {
        Ok(object) => Some(object),
        Err(error) => {
            let path = track.path().to_string();
            add_decoding_error(if path == "." { "" } else { &path }, &error.to_string(), problems);
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

fn add_unknown_field<T: JsonSchema>(path: &str, value: &Value, problems: &mut Problems) {
    if matches!(path, "apiVersion" | "kind") {
        return;
    }
    let (parent, name) = path.rsplit_once('.').unwrap_or(("", path));
    let fields = schema::fields::<T>(parent);
    let similar = schema::closest(name, &fields);
    // A kubelet may be newer than our list of fields. So in a Node's status only typing errors are rejected.
    let by_kubelet = value["kind"] == "Node" && path.starts_with("status.");
    if by_kubelet && similar.is_none() {
        return;
    }
    let remedy = match similar {
        Some(similar) => format!("did you mean {similar}?"),
        None if fields.is_empty() => "remove it".to_string(),
        None => format!(
            "remove it; {} has: {}",
            if parent.is_empty() { "the object" } else { parent },
            fields.join(", ")
        ),
    };
    problems.add(path, format!("unknown field {name:?}"), remedy);
}

fn add_decoding_error(path: &str, message: &str, problems: &mut Problems) {
    if let Some(name) = message.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`')) {
        problems.add(join(path, name), "this field is required", format!("add {name}: VALUE"));
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
    problems.add(path, message, remedy);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(value: Value) -> (Option<Object>, Vec<(String, String, String)>) {
        let mut found = Vec::new();
        let object = object(&value, UnknownFields::Rejected, &mut Problems::of(0, &mut found));
        (
            object,
            found
                .into_iter()
                .map(|found| (found.problem.field, found.problem.problem, found.problem.remedy))
                .collect(),
        )
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
    fn wrong_types_and_missing_fields_have_a_remedy() {
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
