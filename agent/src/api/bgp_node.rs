//! `BGPNode`: how one node stands; written by its agent.
// Printer columns are alike in type and priority, which is no slip.
#![allow(clippy::duplicated_attributes)]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which node it is about.
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
    doc = "How BGP stands on one node, as its agent sees it. Agents write it; nobody else needs to.",
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
    /// The Node.
    #[schemars(length(max = 253))]
    pub node: String,
}

/// How a node stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BGPNodeStatus {
    /// What it is: Reflector where it reflects to other nodes, else Node.
    #[serde(default)]
    pub role: String,
    /// The agent's version.
    #[serde(default)]
    pub version: String,
    /// Its BGP sessions.
    #[serde(default)]
    pub sessions: SessionCounts,
    /// Sessions without a BGPSession of their own: where a node has many sessions with other nodes, those that are
    /// established are only counted.
    #[serde(default)]
    pub unlisted_sessions: u64,
    /// Prefixes that it has a best route to, learned from others.
    #[serde(default)]
    pub routes: u64,
    /// Next hops that it reaches through a tunnel.
    #[serde(default)]
    pub tunnels: u64,
    /// What is wanted is in force, in BGP and in the kernel.
    #[serde(default)]
    pub in_sync: bool,
    /// What is not as it should be, with what to do; the first few.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub problems: Vec<String>,
    /// How it stands, one of each type: Ready (the first sync is done), InSync, SessionsEstablished.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// BGP sessions, counted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SessionCounts {
    /// Those that are established.
    #[serde(default)]
    pub up: u64,
    /// All of them.
    #[serde(default)]
    pub total: u64,
    /// Established of all, as `3/4`.
    #[serde(default)]
    pub established: String,
}

impl SessionCounts {
    /// So many up of so many.
    pub fn new(up: u64, total: u64) -> Self {
        Self { up, total, established: format!("{up}/{total}") }
    }
}
