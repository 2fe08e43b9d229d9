//! `BGPSession`: how one BGP session of one node stands; written by that node's agent.
// Printer columns are alike in type and priority, which is no slip.
#![allow(clippy::duplicated_attributes)]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One BGP session of one node: whose it is.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "heliograph.io",
    version = "v1alpha1",
    kind = "BGPSession",
    plural = "bgpsessions",
    singular = "bgpsession",
    shortname = "bgps",
    category = "heliograph",
    derive = "PartialEq",
    doc = "One BGP session of one node, as its agent sees it. Agents write it; nobody else needs to.",
    status = "BGPSessionStatus",
    selectable = ".spec.node",
    selectable = ".spec.peerKind",
    selectable = ".spec.peerName",
    printcolumn(name = "Node", type_ = "string", json_path = ".spec.node"),
    printcolumn(name = "Peer", type_ = "string", json_path = ".spec.peer"),
    printcolumn(name = "Name", type_ = "string", json_path = ".spec.peerName", priority = "1"),
    printcolumn(name = "ASN", type_ = "integer", json_path = ".spec.peerASN"),
    printcolumn(name = "Role", type_ = "string", json_path = ".spec.role"),
    printcolumn(name = "State", type_ = "string", json_path = ".status.state"),
    printcolumn(name = "Uptime", type_ = "date", json_path = ".status.since"),
    printcolumn(name = "Received", type_ = "integer", json_path = ".status.received"),
    printcolumn(name = "Advertised", type_ = "integer", json_path = ".status.advertised"),
    printcolumn(name = "BFD", type_ = "string", json_path = ".status.bfd"),
    printcolumn(name = "Error", type_ = "string", json_path = ".status.error")
)]
#[serde(rename_all = "camelCase")]
pub struct BGPSessionSpec {
    /// The Node whose session it is.
    #[schemars(length(max = 253))]
    pub node: String,
    /// The neighbour's address.
    #[schemars(length(max = 45))]
    pub peer: String,
    /// The neighbour's kind: Node or BGPPeer.
    #[schemars(length(max = 63))]
    pub peer_kind: String,
    /// The neighbour's Node or BGPPeer.
    #[schemars(length(max = 253))]
    pub peer_name: String,
    /// The neighbour's AS number.
    #[serde(rename = "peerASN")]
    pub peer_asn: u32,
    /// What the neighbour is to the node: Mesh (a node like it), Reflector (it reflects to the node), Client (the node
    /// reflects to it), Internal or External (a BGPPeer in the cluster's AS, or in another).
    #[schemars(length(max = 63))]
    pub role: String,
}

/// How a BGP session stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BGPSessionStatus {
    /// Its state, as RFC 4271 names it. Changes between states without routes may be told late.
    #[serde(default)]
    pub state: String,
    /// Since when it is established, or isn't.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
    /// Prefixes received, those refused by the import filter included.
    #[serde(default)]
    pub received: u64,
    /// Those that the filter let pass.
    #[serde(default)]
    pub accepted: u64,
    /// Prefixes advertised.
    #[serde(default)]
    pub advertised: u64,
    /// Prefixes kept from before the neighbour's restart.
    #[serde(default)]
    pub stale: u64,
    /// The neighbour's BGP Identifier, once known.
    #[serde(rename = "routerID", default, skip_serializing_if = "Option::is_none")]
    pub router_id: Option<String>,
    /// The hold time agreed on, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold_seconds: Option<u64>,
    /// How often it was established since the agent started.
    #[serde(default)]
    pub established_count: u64,
    /// The state of its BFD session, as RFC 5880 names it; absent where it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bfd: Option<String>,
    /// The generation of the BGPPeer that the session goes by: an older one while the node refuses the newest. Absent
    /// with a Node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_generation: Option<i64>,
    /// Why it isn't established.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// How it stands, one of each type: Established.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
