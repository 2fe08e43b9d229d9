//! Objects of the API server.

use heliograph_agent::api::crds;
use serde_json::{Value, json};

use super::user::{OURS, User};

pub const NODES: &str = "/api/v1/nodes";
pub const SECRETS: &str = "/api/v1/namespaces/heliograph-system/secrets";
pub const EVENTS: &str = "/apis/events.k8s.io/v1/namespaces/default/events";

/// Returns the names of our definitions.
pub fn definitions() -> impl Iterator<Item = String> {
    crds::crds().into_iter().map(|crd| crd["metadata"]["name"].as_str().unwrap().to_string())
}

pub fn ours(kind: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": "heliograph.io/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec})
}

pub fn configuration(spec: Value) -> Value {
    ours("BGPConfiguration", "default", spec)
}

pub fn secret(password: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "tor", "namespace": "heliograph-system"},
        "stringData": {"password": password}})
}

impl User {
    /// Writes one of our objects.
    pub async fn put_ours(&self, plural: &str, object: &Value) {
        self.put(&format!("{OURS}/{plural}"), object).await;
    }

    /// Changes an object.
    pub async fn merge_accepted(&self, path: &str, patch: Value) {
        let answer = self.merge(path, patch).await;
        assert!(answer.code < 300, "{answer:?}");
    }

    /// Changes the labels of a Node.
    pub async fn label_node(&self, name: &str, labels: Value) {
        self.merge_accepted(&format!("{NODES}/{name}"), json!({"metadata": {"labels": labels}})).await;
    }

    /// Writes a Node with an address and perhaps a pod CIDR.
    pub async fn put_node(&self, name: &str, address: &str, pods: Option<&str>, labels: Value) {
        let spec = pods.map_or(json!({}), |pods| json!({"podCIDR": pods, "podCIDRs": [pods]}));
        let metadata = json!({"name": name, "labels": labels});
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": spec});
        self.put(NODES, &node).await;
        let status = json!({"status": {"addresses": [{"type": "InternalIP", "address": address}]}});
        self.merge_accepted(&format!("{NODES}/{name}/status"), status).await;
    }
}
