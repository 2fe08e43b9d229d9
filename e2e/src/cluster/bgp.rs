//! Heliograph's objects for kubectl, and the sessions that kubectl lists.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::Kubectl;

/// The label of nodes that [`reflectors`] makes reflectors.
pub const REFLECTOR: &str = "heliograph.io/reflector=true";

/// An object of one of our kinds, as `kubectl apply` takes it.
#[must_use]
pub fn ours(kind: &str, name: &str, spec: &Value) -> String {
    json!({
        "apiVersion": "heliograph.io/v1alpha1", "kind": kind, "metadata": { "name": name }, "spec": spec,
    })
    .to_string()
}

/// The BGPConfiguration: the usual AS number, and these fields.
#[must_use]
pub fn configuration(fields: &Value) -> String {
    let mut spec = json!({ "asNumber": 64512 });
    for (field, value) in fields.as_object().into_iter().flatten() {
        spec[field] = value.clone();
    }
    ours("BGPConfiguration", "default", &spec)
}

/// Fields of a BGPConfiguration: the nodes with the label [`REFLECTOR`] reflect.
#[must_use]
pub fn reflectors() -> Value {
    let (label, value) = REFLECTOR.split_once('=').unwrap_or_default();
    let selector = json!({ "matchLabels": { label: value } });
    json!({ "topology": "Reflectors", "reflectors": { "nodeSelector": selector } })
}

/// Fields of a BGPConfiguration: every node with every other.
#[must_use]
pub fn full_mesh() -> Value {
    json!({ "topology": "FullMesh" })
}

/// Checks that kubectl lists this number of sessions of these roles and of no others, all of them established.
///
/// # Errors
/// With kubectl's list if it differs.
pub fn sessions_are(cluster: &impl Kubectl, wanted: &[(&str, usize)]) -> Result<()> {
    let mut found = BTreeMap::<String, usize>::new();
    for session in cluster.list(&["bgpsessions"])? {
        ensure!(session["status"]["state"] == "Established", "{session}");
        *found.entry(session["spec"]["role"].as_str().unwrap_or_default().to_owned()).or_default() += 1;
    }
    let wanted: BTreeMap<_, _> = wanted.iter().map(|(role, count)| ((*role).to_owned(), *count)).collect();
    ensure!(found == wanted, "{found:?}, not {wanted:?}");
    Ok(())
}
