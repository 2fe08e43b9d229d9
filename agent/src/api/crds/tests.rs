use super::*;
use std::path::Path;

#[test]
fn the_manifest_matches_the_types() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/crds.yaml");
    if std::env::var_os("HELIOGRAPH_UPDATE").is_some() {
        std::fs::write(&path, yaml()).unwrap();
    }
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(there == yaml(), "manifests/crds.yaml is out of date: `make manifests` writes it");
}

#[test]
fn the_agents_role_has_all_kinds() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/base/rbac.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    let (first, others): (Vec<_>, Vec<_>) =
        ObjectKind::wishes().partition(|kind| *kind == ObjectKind::BGPConfiguration);
    let written = [ObjectKind::BGPSession, ObjectKind::BGPNode].iter().chain(&others).chain(&first);
    let wishes = first.iter().chain(&others);
    // The begin of each line with kinds, and the kinds.
    let lists: [(&str, Vec<String>); 3] = [
        ("  resources: [bgpconfigurations,", wishes.map(|kind| kind.plural().into()).collect()),
        ("  resourceNames: [bgppeers.", others.iter().map(|kind| kind.full_name()).collect()),
        (
            "  resources: [bgpsessions/status,",
            written.map(|kind| format!("{}/status", kind.plural())).collect(),
        ),
    ];
    let line = |line: &str| match lists.iter().find(|(begin, _)| line.starts_with(begin)) {
        Some((begin, items)) => {
            let (word, _) = begin.split_once('[').unwrap();
            format!("{word}[{}]\n", items.join(", "))
        }
        None => format!("{line}\n"),
    };
    let right: String = text.lines().map(line).collect();
    if std::env::var_os("HELIOGRAPH_UPDATE").is_some() {
        std::fs::write(&path, right).unwrap();
    } else {
        assert!(text == right, "manifests/base/rbac.yaml lacks a kind: `make manifests` writes it");
    }
    assert!(lists.iter().all(|(begin, _)| text.contains(begin)));
}

/// Calls a function for each field of a schema, with its path.
fn walk(schema: &Value, path: &str, look: &mut impl FnMut(&str, &Value)) {
    look(path, schema);
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        walk(field, &format!("{path}.{name}"), look);
    }
    for (word, step) in [("items", "[]"), ("additionalProperties", "{}")] {
        if let Some(inner) = schema.get(word) {
            walk(inner, &format!("{path}{step}"), look);
        }
    }
}

#[test]
fn schemas_are_structural_documented_and_without_unknown_formats() {
    for crd in crds() {
        let kind = crd["spec"]["names"]["kind"].as_str().unwrap();
        let version = &crd["spec"]["versions"][0];
        let mut fields = 0;
        walk(&version["schema"]["openAPIV3Schema"], kind, &mut |path, schema| {
            fields += 1;
            let known = ["int32", "int64", "date-time"];
            let format = schema["format"].as_str();
            assert!(format.is_none_or(|format| known.contains(&format)), "{path}: {format:?}");
            for word in ["oneOf", "anyOf", "allOf", "$ref"] {
                assert!(schema.get(word).is_none(), "{path} has {word}");
            }
            assert!(schema["type"].is_string(), "{path} has no type: {schema}");
            let described = schema["description"].as_str().is_some_and(|text| text.len() > 5);
            let whole = path.ends_with("[]") || path.ends_with("{}") || path.ends_with(".metadata");
            assert!(described || whole, "{path} is not documented");
        });
        assert!(fields > 10, "{kind}");
        assert_eq!(crd["spec"]["scope"], "Cluster");
        assert_eq!(crd["spec"]["names"]["categories"], serde_json::json!(["heliograph"]));
        assert!(crd["spec"]["names"]["shortNames"].is_array(), "{kind}");
        assert!(version["subresources"]["status"].is_object(), "{kind}");
        assert!(version["additionalPrinterColumns"].as_array().is_some_and(|list| list.len() > 1), "{kind}");
        let conditions =
            &version["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"]["conditions"];
        assert_eq!(conditions["x-kubernetes-list-type"], "map");
        assert_eq!(conditions["x-kubernetes-list-map-keys"], serde_json::json!(["type"]));
        assert!(conditions["items"]["properties"]["observedGeneration"].is_object());
    }
}
