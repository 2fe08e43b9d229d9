//! Tests of the manifests: one file that contains all parts, the version of the image, and minimal permissions.
#![allow(missing_docs)]

use serde_yaml::{Deserializer, Value};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const VERSION: &str = env!("CARGO_PKG_VERSION");

fn manifests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests")
}

fn text(name: &str) -> String {
    fs::read_to_string(manifests().join(name)).unwrap_or_else(|error| panic!("manifests/{name}: {error}"))
}

fn documents(text: &str) -> Vec<Value> {
    use serde::Deserialize;
    let all = Deserializer::from_str(text).map(|document| Value::deserialize(document).unwrap());
    all.filter(|document| !document.is_null()).collect()
}

/// Returns the files of a kustomization in order, those of a folder in its place.
fn parts(folder: &str) -> Vec<String> {
    let kustomization = &documents(&text(&format!("{folder}kustomization.yaml")))[0];
    let resources =
        kustomization["resources"].as_sequence().unwrap().iter().map(|name| name.as_str().unwrap());
    resources
        .flat_map(|name| match name.ends_with(".yaml") {
            true => vec![format!("{folder}{name}")],
            false => parts(&format!("{folder}{name}/")),
        })
        .collect()
}

fn installed() -> Vec<Value> {
    documents(&text("install.yaml"))
}

fn named<'a>(all: &'a [Value], kind: &str) -> &'a Value {
    all.iter().find(|document| document["kind"] == kind).unwrap_or_else(|| panic!("no {kind}"))
}

#[test]
fn install_yaml_is_the_kustomization_in_one_file() {
    let parts = parts("");
    // Definitions first: an object can't be applied before its kind is defined.
    assert_eq!(parts[0], "crds.yaml");
    let whole: String = parts.iter().map(|part| format!("---\n{}", text(part))).collect();
    assert!(text("install.yaml") == whole, "manifests/install.yaml is not up to date: run `make manifests`");
}

#[test]
fn the_image_is_of_this_version_and_pulled_only_if_missing() {
    let all = installed();
    let container = &named(&all, "DaemonSet")["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["image"], format!("heliograph:{VERSION}").as_str());
    assert_eq!(container["imagePullPolicy"], "IfNotPresent");
    let file = fs::read_to_string(manifests().join("../Containerfile")).unwrap();
    assert!(file.contains(&format!("org.opencontainers.image.version=\"{VERSION}\"")), "{file}");
}

#[test]
fn the_pod_has_minimal_permissions() {
    let all = installed();
    let pod = &named(&all, "DaemonSet")["spec"]["template"]["spec"];
    assert_eq!(pod["containers"].as_sequence().unwrap().len(), 1);
    assert!(
        pod.get("initContainers").is_none() && pod.get("hostPID").is_none() && pod.get("hostIPC").is_none()
    );
    let security = &pod["containers"][0]["securityContext"];
    assert_eq!(security["privileged"], false);
    assert_eq!(security["readOnlyRootFilesystem"], true);
    let list = |value: &Value| serde_yaml::from_value::<Vec<String>>(value.clone()).unwrap();
    assert_eq!(list(&security["capabilities"]["drop"]), ["ALL"]);
    assert_eq!(list(&security["capabilities"]["add"]), ["NET_ADMIN", "NET_BIND_SERVICE"]);
    let rules: Vec<_> =
        all.iter().filter_map(|document| document.get("rules")?.as_sequence()).flatten().collect();
    assert!(!rules.is_empty());
    for rule in rules {
        for values in ["apiGroups", "resources", "verbs"].map(|field| list(&rule[field])) {
            assert!(!values.contains(&"*".to_string()), "{rule:?}");
        }
    }
    // Secrets are read in Heliograph's namespace only.
    let cluster_wide = named(&all, "ClusterRole")["rules"].as_sequence().unwrap();
    assert!(!cluster_wide.is_empty());
    assert!(cluster_wide.iter().all(|rule| !list(&rule["resources"]).contains(&"secrets".to_string())));
}

#[test]
fn the_agent_supports_its_environment_and_arguments() {
    let all = installed();
    let container = &named(&all, "DaemonSet")["spec"]["template"]["spec"]["containers"][0];
    let help = Command::new(env!("CARGO_BIN_EXE_heliograph")).args(["agent", "--help"]).output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let names = container["env"].as_sequence().unwrap().iter().map(|env| env["name"].as_str().unwrap());
    let names: Vec<_> =
        names.filter(|name| name.starts_with("HELIOGRAPH_") && *name != "HELIOGRAPH_STORE").collect();
    assert!(!names.is_empty());
    for name in names {
        assert!(help.contains(&format!("{name}=")), "{name} isn't in {help}");
    }
    let arguments = container["args"].as_sequence().unwrap();
    assert!(arguments.len() > 1, "{arguments:?}");
    for argument in arguments.iter().skip(1) {
        let name = argument.as_str().unwrap().split('=').next().unwrap();
        assert!(help.contains(name), "{name} isn't in {help}");
    }
}
