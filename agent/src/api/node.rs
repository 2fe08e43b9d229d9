//! As much of Kubernetes' own `v1` Node as we use: everything else is dropped as it is read.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::{Deserialize, Serialize};

/// A node of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Resource, Serialize, Deserialize)]
#[resource(inherit = k8s_openapi::api::core::v1::Node)]
pub struct Node {
    /// Its name and labels.
    pub metadata: ObjectMeta,
    /// What it is to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec: Option<NodeSpec>,
    /// What it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<NodeStatus>,
}

/// What a node is to be.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NodeSpec {
    /// The network of its pods, where it has only one.
    #[serde(rename = "podCIDR", default, skip_serializing_if = "Option::is_none")]
    pub pod_cidr: Option<String>,
    /// The networks of its pods.
    #[serde(rename = "podCIDRs", default, skip_serializing_if = "Option::is_none")]
    pub pod_cidrs: Option<Vec<String>>,
}

/// What a node is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addresses: Option<Vec<NodeAddress>>,
}

/// An address of a node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NodeAddress {
    /// What it is for: `InternalIP` is what we use.
    #[serde(rename = "type")]
    pub kind: String,
    /// The address.
    pub address: String,
}

impl Node {
    /// Without what we don't use: of the metadata only the name and those labels that `wanted` holds for stay, of the
    /// addresses those towards other nodes.
    pub fn trimmed(mut self, wanted: impl Fn(&str) -> bool) -> Self {
        let labels = self.metadata.labels.take();
        let labels = labels.map(|all| all.into_iter().filter(|(key, _)| wanted(key)).collect());
        self.metadata = ObjectMeta { name: self.metadata.name, labels, ..ObjectMeta::default() };
        if let Some(addresses) = self.status.as_mut().and_then(|status| status.addresses.as_mut()) {
            addresses.retain(|address| address.kind == "InternalIP");
            addresses.shrink_to_fit();
        }
        self
    }
}
