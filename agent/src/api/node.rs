//! The fields of Kubernetes' own `v1` Node that agents use. Decoding drops all others.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::{Deserialize, Serialize};

/// A Node.
#[derive(Clone, Debug, Default, PartialEq, Resource, Serialize, Deserialize)]
#[resource(inherit = k8s_openapi::api::core::v1::Node)]
pub struct Node {
    /// Name and labels.
    pub metadata: ObjectMeta,
    /// The desired state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec: Option<NodeSpec>,
    /// The actual state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<NodeStatus>,
}

/// The desired state of a Node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NodeSpec {
    /// The network of its pods, where it has only one.
    #[serde(rename = "podCIDR", default, skip_serializing_if = "Option::is_none")]
    pub pod_cidr: Option<String>,
    /// The networks of its pods.
    #[serde(rename = "podCIDRs", default, skip_serializing_if = "Option::is_none")]
    pub pod_cidrs: Option<Vec<String>>,
}

/// The actual state of a Node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// The addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addresses: Option<Vec<NodeAddress>>,
}

/// An address of a Node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NodeAddress {
    /// The type of the address. Agents use `InternalIP`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The address.
    pub address: String,
}

impl Node {
    /// Removes fields that agents don't use.
    pub fn trimmed(mut self) -> Self {
        let ObjectMeta { name, labels, creation_timestamp, .. } = self.metadata;
        self.metadata = ObjectMeta { name, labels, creation_timestamp, ..ObjectMeta::default() };
        if let Some(addresses) = self.status.as_mut().and_then(|status| status.addresses.as_mut()) {
            addresses.retain(|address| address.kind == "InternalIP");
            addresses.shrink_to_fit();
        }
        self
    }
}
