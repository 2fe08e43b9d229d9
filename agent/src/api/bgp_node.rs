//! `BGPNode`: the status of one node, written by its agent.
// Printer columns may have the same type and priority.
#![allow(clippy::duplicated_attributes)]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The node that the object is about.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "heliograph.io",
    version = "v1alpha1",
    kind = "BGPNode",
    plural = "bgpnodes",
    singular = "bgpnode",
    shortname = "bgpn",
    category = "heliograph",
    derive = "PartialEq",
    doc = "The state of BGP on one node. Its agent writes the object.",
    status = "BGPNodeStatus",
    printcolumn(name = "Role", type_ = "string", json_path = ".status.role"),
    printcolumn(name = "Sessions", type_ = "string", json_path = ".status.sessions.established"),
    printcolumn(name = "Routes", type_ = "integer", json_path = ".status.routes"),
    printcolumn(name = "Tunnels", type_ = "integer", json_path = ".status.tunnels"),
    printcolumn(name = "In Sync", type_ = "boolean", json_path = ".status.inSync"),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.version", priority = "1"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct BGPNodeSpec {
    /// The name of the Node.
    #[schemars(length(max = 253))]
    pub node: String,
}

/// The status of a node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BGPNodeStatus {
    /// The role: Reflector if the node reflects routes to other nodes, else Node.
    #[serde(default)]
    pub role: String,
    /// The version of the agent.
    #[serde(default)]
    pub version: String,
    /// The numbers of its BGP sessions.
    #[serde(default)]
    pub sessions: SessionCounts,
    /// The number of sessions without a BGPSession: on a node with many neighbors that are nodes, established sessions are only
    /// counted.
    #[serde(default)]
    pub unlisted_sessions: u64,
    /// The number of prefixes with a best route that was learned from a neighbor.
    #[serde(default)]
    pub routes: u64,
    /// The number of next hops that are reached through a tunnel.
    #[serde(default)]
    pub tunnels: u64,
    /// True if the intent is in force, in BGP and in the kernel.
    #[serde(default)]
    pub in_sync: bool,
    /// Things that do not work as configured, each with a remedy; the first few.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub problems: Vec<String>,
    /// One condition of each type: Ready (the first sync is done), InSync (as the field inSync), SessionsEstablished (all of
    /// them).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// Numbers of BGP sessions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SessionCounts {
    /// The number of established sessions.
    #[serde(default)]
    pub up: u64,
    /// The number of all sessions.
    #[serde(default)]
    pub total: u64,
    /// Both numbers, as `3/4`.
    #[serde(default)]
    pub established: String,
}

impl SessionCounts {
    /// Returns the numbers of established sessions and of all.
    pub fn new(up: u64, total: u64) -> Self {
        Self { up, total, established: format!("{up}/{total}") }
    }
}
