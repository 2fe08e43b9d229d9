//! `docs/reference/api.md`: the fields of all kinds, written from the definitions.

use std::fmt::Write;
use std::path::Path;

use serde_json::Value;

use super::crds;

/// Returns the page.
fn page() -> String {
    let mut page = String::from(
        "# Kinds and fields\n\n\
         <!-- Written from agent/src/api by `make manifests`; not to be edited. -->\n\n\
         All kinds are cluster-scoped, in the group `heliograph.io`, version `v1alpha1`. Users write BGPConfiguration, BGPPeer \
         and BGPFilter; agents write BGPSession, BGPNode and every `status`.\n\n",
    );
    let crds = crds();
    for crd in &crds {
        let names = &crd["spec"]["names"];
        let kind = text(&names["kind"]);
        let _ = writeln!(page, "- [{kind}](#{}): {}", kind.to_lowercase(), description(schema(crd)));
    }
    for crd in &crds {
        let names = &crd["spec"]["names"];
        let short: Vec<_> = names["shortNames"].as_array().into_iter().flatten().map(text).collect();
        let _ = write!(
            page,
            "\n## {}\n`kubectl get {}`, short `{}`.\n",
            text(&names["kind"]),
            text(&names["plural"]),
            short.join("`, `"),
        );
        for part in ["spec", "status"] {
            let _ = write!(page, "\n| Field of `{part}` | Type | Description |\n|---|---|---|\n");
            fields(&mut page, &schema(crd)["properties"][part], "");
        }
    }
    page
}

fn schema(crd: &Value) -> &Value {
    &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
}

/// Writes a row for each field of an object, then for the fields of each.
fn fields(page: &mut String, object: &Value, path: &str) {
    let required = |name: &str| {
        object["required"].as_array().is_some_and(|list| list.iter().any(|required| required == name))
    };
    for (name, field) in object["properties"].as_object().into_iter().flatten() {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        let required = if required(name) { ", required" } else { "" };
        let _ = writeln!(page, "| `{path}` | {}{required} | {} |", kind_of(field), description(field));
        // Conditions and selectors are Kubernetes' own, and documented there.
        if name == "conditions" || field["properties"]["matchExpressions"].is_object() {
            continue;
        }
        fields(page, field, &path);
        fields(page, &field["items"], &format!("{path}[]"));
        fields(page, &field["additionalProperties"], &format!("{path}.*"));
    }
}

/// Returns the type of a field with its limits.
fn kind_of(field: &Value) -> String {
    let mut kind = match text(&field["type"]) {
        "array" => format!("list of {}", kind_of(&field["items"])),
        other => other.to_string(),
    };
    let values: Vec<_> = field["enum"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if !values.is_empty() {
        kind = format!("`{}`", values.join("`, `"));
    }
    match (&field["minimum"], &field["maximum"]) {
        (Value::Number(least), Value::Number(most)) => {
            let _ = write!(kind, ", {least} to {most}");
        }
        (Value::Number(least), _) => {
            let _ = write!(kind, ", at least {least}");
        }
        _ => {}
    }
    if !matches!(field["default"], Value::Null | Value::Array(_) | Value::Object(_)) {
        let _ = write!(kind, ", default `{}`", field["default"].to_string().trim_matches('"'));
    }
    kind
}

fn description(field: &Value) -> String {
    text(&field["description"]).split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[test]
fn the_reference_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/api.md");
    if std::env::var_os("HELIOGRAPH_UPDATE").is_some() {
        std::fs::write(&path, page()).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == page(), "docs/reference/api.md is out of date: `make manifests` writes it");
}
