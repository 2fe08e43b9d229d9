//! The file with the last good intent, for a start while the store is not available.

use std::fs;
use std::io;
use std::path::Path;

use k8s_openapi::ByteString;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::check::{Content, Object};
use super::decode::{self, UnknownFields};
use super::nodes::{self, Fact, Facts};
use super::problem::{Finding, Problems};
use super::yaml;
use crate::api::ObjectKind;
use crate::disk;

/// The start of the line with the identity of the cluster.
const CLUSTER: &str = "# Cluster: ";

/// Replaces the file by one with these documents and the identity of their cluster, if it has one. Only the owner may read
/// it (0600), as it contains passwords.
///
/// # Errors
/// The folder can't be made or written to.
pub fn write(path: &Path, origin: &str, cluster: &[String], documents: &[Value]) -> io::Result<()> {
    let mut text =
        format!("# The last good intent from {origin}, for a start while that is wrong. Not to be edited.\n");
    if !cluster.is_empty() {
        text.push_str(&format!("{CLUSTER}{}\n", cluster.join(" ")));
    }
    for document in documents {
        text.push_str(&format!("---\n{}\n", serde_json::to_string_pretty(document)?));
    }
    disk::replace(path, text.as_bytes(), 0o600, None)
}

/// Returns the message of a failed write.
pub fn write_error(path: &Path, error: &io::Error) -> String {
    format!(
        "can't write {}: {error}; a start without the store would use older intent, or have none: check that the folder \
         exists, has room and may be written to; it is tried again",
        path.display()
    )
}

/// Removes the file, and unfinished ones of a process that was killed while it wrote. Returns whether the file existed.
///
/// # Errors
/// It can't be removed.
pub fn remove(path: &Path) -> io::Result<bool> {
    disk::remove_unfinished(path)?;
    disk::remove(path)
}

/// Returns whether a text is from another cluster than ours. It isn't if one of them has no identity.
fn is_foreign(text: &str, ours: &[String]) -> bool {
    let head = text.lines().take_while(|line| line.starts_with('#'));
    let mut theirs =
        head.filter_map(|line| line.strip_prefix(CLUSTER)).flat_map(str::split_whitespace).peekable();
    theirs.peek().is_some() && !ours.is_empty() && !theirs.any(|one| ours.iter().any(|our| our == one))
}

/// Reads the wishes and the Nodes of the file. `cluster` is our cluster's identity. Returns `None` if there is no such file.
///
/// # Errors
/// The file can't be used: the reason.
pub fn read(path: &Path, cluster: &[String]) -> Result<Option<(Vec<Object>, Facts)>, String> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("can't be read: {error}")),
    };
    if is_foreign(&text, cluster) {
        return Err("it is of another cluster, by its certificate authority".into());
    }
    let documents =
        yaml::parse(&text).map_err(|error| format!("line {}: {}", error.line, error.problem.problem))?;
    let mut found = Vec::new();
    let values = documents.iter().map(|document| &document.value).filter(|value| !value.is_null());
    // A newer version may have written the file, with more fields.
    let objects: Vec<_> = values
        .filter_map(|value| decode::object(value, UnknownFields::Ignored, &mut Problems::of(0, &mut found)))
        .collect();
    match found.first() {
        None => Ok(Some(nodes::split(objects))),
        Some(Finding { problem, .. }) => Err(format!("{}: {}", problem.field, problem.problem)),
    }
}

/// Returns an object as a document.
pub fn document(object: &Object) -> Value {
    let mut metadata = metadata(&object.name, object.created);
    if let Some(generation) = object.generation {
        metadata["generation"] = generation.into();
    }
    let mut document = match &object.content {
        Content::Node(node) => serde_json::to_value(node.as_ref()).unwrap_or_default(),
        Content::Secret(values) => {
            let data: serde_json::Map<_, _> = values
                .iter()
                .map(|(key, value)| (key.clone(), json!(ByteString(value.octets().to_vec()))))
                .collect();
            json!({"metadata": metadata, "data": data})
        }
        Content::Wish(spec) => json!({"metadata": metadata, "spec": spec.to_value()}),
    };
    document["apiVersion"] = object.kind().api_version().into();
    document["kind"] = object.kind().as_str().into();
    document
}

/// Returns a Node as a document.
pub fn node_document(fact: &Fact) -> Value {
    let node = &fact.node;
    let addresses = node.addresses.iter().map(|address| json!({"type": "InternalIP", "address": address}));
    let mut metadata = metadata(&node.name, fact.created);
    metadata["labels"] = json!(node.labels);
    json!({
        "apiVersion": ObjectKind::Node.api_version(),
        "kind": ObjectKind::Node.as_str(),
        "metadata": metadata,
        "spec": {"podCIDRs": node.pod_cidrs.iter().map(ToString::to_string).collect::<Vec<_>>()},
        "status": {"addresses": addresses.collect::<Vec<_>>()},
    })
}

fn metadata(name: &str, created: Option<i64>) -> Value {
    let mut metadata = json!({"name": name});
    if let Some(created) = created.and_then(|seconds| Timestamp::from_second(seconds).ok()) {
        metadata["creationTimestamp"] = created.to_string().into();
    }
    metadata
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
metadata: {name: tor, generation: 3, creationTimestamp: "2026-01-02T00:00:00Z"}
spec: {peerAddress: 192.0.2.1, peerASN: 64600, ttlSecurity: 1, importFilter: f, passwordSecretRef: {name: s, key: k}}
---
apiVersion: heliograph.io/v1alpha1
kind: BGPFilter
metadata: {name: f}
spec: {rules: [{action: Accept, match: {prefixes: [{cidr: 10.0.0.0/8}]}, set: {localPref: 7}}]}
---
apiVersion: v1
kind: Node
metadata: {name: a, labels: {rack: "1"}, creationTimestamp: "2026-01-01T00:00:00Z"}
spec: {podCIDRs: [10.244.1.0/24]}
status: {addresses: [{type: InternalIP, address: 192.0.2.7}]}
---
apiVersion: v1
kind: Secret
metadata: {name: s}
stringData: {k: "pass\nword"}
"#;

    #[test]
    fn a_written_file_is_private_and_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("a.yaml"), folder.path().join("deep/b.yaml"));
        fs::write(&from, DOCUMENTS).unwrap();
        let objects = read(&from, &[]).unwrap().unwrap();
        assert_eq!((objects.0.len(), objects.1.len()), (4, 1));
        let documents = objects.0.iter().map(document).chain(objects.1.values().map(node_document));
        write(&to, "a test", &[], &documents.collect::<Vec<_>>()).unwrap();
        assert_eq!(read(&to, &[]).unwrap().unwrap(), objects);
        assert_eq!(fs::metadata(&to).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn errors_name_the_line_or_field() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.yaml");
        assert_eq!(read(&path, &[]), Ok(None));
        fs::write(&path, "a: [").unwrap();
        assert!(read(&path, &[]).unwrap_err().contains("line"));
        fs::write(&path, DOCUMENTS.replace("64512", "many")).unwrap();
        assert!(read(&path, &[]).unwrap_err().contains("spec.asNumber"));
    }

    #[test]
    fn a_file_of_another_cluster_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.yaml");
        let names = |words: &str| words.split_whitespace().map(str::to_string).collect::<Vec<_>>();
        // The identities at the write and at the read. A rotation replaces one of two authorities.
        for (then, now, used) in [
            ("a", "a", true),
            ("a", "b", false),
            ("a b", "b c", true),
            ("a b", "c", false),
            ("", "a", true),
            ("a", "", true),
        ] {
            write(&path, "a test", &names(then), &[]).unwrap();
            assert_eq!(read(&path, &names(now)).is_ok(), used, "{then:?} {now:?}");
        }
    }

    #[test]
    fn no_file_with_passwords_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.yaml");
        assert!(!remove(&folder.path().join("none/a.yaml")).unwrap());
        write(&path, "a test", &[], &[]).unwrap();
        for other in [".heliograph-x.tmp", "theirs"] {
            fs::write(folder.path().join(other), "").unwrap();
        }
        assert!(remove(&path).unwrap());
        let left: Vec<_> =
            fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["theirs"]);
    }
}
