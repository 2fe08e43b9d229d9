//! The last good intent on disk: what a start goes by while the store can't be had.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use k8s_openapi::ByteString;
use serde_json::{Value, json};

use super::check::{Kind, Object};
use super::decode::{self, Unknown};
use super::problem::Problems;
use super::yaml;
use crate::api;

/// Writes documents beside, then renames, so that they are never half there. Only the owner may read them (0600): there
/// may be passwords among them.
///
/// # Errors
/// The folder can't be made or written to.
pub fn write(path: &Path, origin: &str, documents: &[Value]) -> io::Result<()> {
    let parent = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent)?;
    // tempfile makes files that only their owner may read.
    let mut file = tempfile::Builder::new().prefix(".intent.").tempfile_in(parent)?;
    let mut text =
        format!("# The last good intent from {origin}, for a start while that is wrong. Not to be edited.\n");
    for document in documents {
        text.push_str(&format!("---\n{}\n", serde_json::to_string_pretty(document)?));
    }
    file.write_all(text.as_bytes())?;
    file.as_file().sync_data()?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

/// Reads the objects back. `None`: there is no such file.
///
/// # Errors
/// What is wrong with it, in words.
pub fn read(path: &Path) -> Result<Option<Vec<Object>>, String> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("can't be read: {error}")),
    };
    let documents = yaml::parse(&text).map_err(|error| format!("line {}: {}", error.line, error.problem))?;
    let mut found = Vec::new();
    let values = documents.iter().map(|document| &document.value).filter(|value| !value.is_null());
    // A newer version may have written it.
    let objects: Vec<_> = values
        .filter_map(|value| decode::object(value, Unknown::Ignored, &mut Problems::of(0, &mut found)))
        .collect();
    match found.first() {
        None => Ok(Some(objects)),
        Some(problem) => Err(format!("{}: {}", problem.field, problem.problem)),
    }
}

/// An object as a document.
pub fn document(object: &Object) -> Value {
    let mut metadata = json!({"name": object.name});
    if let Some(generation) = object.generation {
        metadata["generation"] = generation.into();
    }
    let ours = |spec: Result<Value, serde_json::Error>| {
        json!({"apiVersion": api::API_VERSION, "kind": object.kind_name(), "metadata": metadata,
            "spec": spec.unwrap_or_default()})
    };
    match &object.kind {
        Kind::Node(node) => {
            let mut value = serde_json::to_value(node.as_ref()).unwrap_or_default();
            value["apiVersion"] = "v1".into();
            value["kind"] = "Node".into();
            value
        }
        Kind::Secret(values) => {
            let data: serde_json::Map<_, _> = values
                .iter()
                .map(|(key, value)| (key.clone(), json!(ByteString(value.octets().to_vec()))))
                .collect();
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data})
        }
        Kind::Configuration(spec) => ours(serde_json::to_value(spec.as_ref())),
        Kind::Peer(spec) => ours(serde_json::to_value(spec.as_ref())),
        Kind::Filter(spec) => ours(serde_json::to_value(spec.as_ref())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const DOCUMENTS: &str = r#"
apiVersion: heliograph.io/v1alpha1
kind: BGPConfiguration
metadata: {name: default}
spec: {asNumber: 64512, clusterCIDRs: [10.244.0.0/16]}
---
apiVersion: heliograph.io/v1alpha1
kind: BGPPeer
metadata: {name: tor, generation: 3}
spec: {peerAddress: 192.0.2.1, peerASN: 64600, ttlSecurity: 1, importFilter: f, passwordSecretRef: {name: s, key: k}}
---
apiVersion: heliograph.io/v1alpha1
kind: BGPFilter
metadata: {name: f}
spec: {rules: [{action: Accept, match: {prefixes: [{cidr: 10.0.0.0/8}]}, set: {localPref: 7}}]}
---
apiVersion: v1
kind: Node
metadata: {name: a, labels: {rack: "1"}}
spec: {podCIDRs: [10.244.1.0/24]}
status: {addresses: [{type: InternalIP, address: 192.0.2.7}]}
---
apiVersion: v1
kind: Secret
metadata: {name: s}
stringData: {k: "pass\nword"}
"#;

    #[test]
    fn what_is_written_is_read_back_and_private() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("a.yaml"), folder.path().join("deep/b.yaml"));
        fs::write(&from, DOCUMENTS).unwrap();
        let objects = read(&from).unwrap().unwrap();
        assert_eq!(objects.len(), 5);
        write(&to, "a test", &objects.iter().map(document).collect::<Vec<_>>()).unwrap();
        assert_eq!(read(&to).unwrap().unwrap(), objects);
        assert_eq!(fs::metadata(&to).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.yaml");
        assert_eq!(read(&path), Ok(None));
        fs::write(&path, "a: [").unwrap();
        assert!(read(&path).unwrap_err().contains("line"));
        fs::write(&path, DOCUMENTS.replace("64512", "many")).unwrap();
        assert!(read(&path).unwrap_err().contains("spec.asNumber"));
    }
}
