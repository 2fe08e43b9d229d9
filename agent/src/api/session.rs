//! `BGPSession`: the status of one BGP session of one node, written by that node's agent.
// Printer columns may have the same type and priority.
#![allow(clippy::duplicated_attributes)]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The two ends of a BGP session.
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
    doc = "One BGP session of one node. The node's agent writes the object.",
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
    /// The name of the Node that has the session.
    #[schemars(length(max = 253))]
    pub node: String,
    /// The neighbor's address.
    #[schemars(length(max = 45))]
    pub peer: String,
    /// The kind of the neighbor's object: Node or BGPPeer.
    #[schemars(length(max = 63))]
    pub peer_kind: String,
    /// The name of the neighbor's Node or BGPPeer.
    #[schemars(length(max = 253))]
    pub peer_name: String,
    /// The neighbor's AS number.
    #[serde(rename = "peerASN")]
    pub peer_asn: u32,
    /// The neighbor's relation to the node: Mesh (another node of a full mesh), Reflector (the node is its client), Client (the
    /// node reflects routes to it), Internal or External (a BGPPeer in the cluster's AS, or in another AS).
    #[schemars(length(max = 63))]
    pub role: String,
}

/// The status of a BGP session.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BGPSessionStatus {
    /// The state, with the name of RFC 4271. Changes between states other than Established may be up to 30 s late.
    #[serde(default)]
    pub state: String,
    /// The time at which the session was established or went down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
    /// The number of prefixes received, those that the import filter rejects included.
    #[serde(default)]
    pub received: u64,
    /// The number of prefixes received that the import filter accepts.
    #[serde(default)]
    pub accepted: u64,
    /// The number of prefixes advertised.
    #[serde(default)]
    pub advertised: u64,
    /// The number of prefixes kept from before the neighbor's restart.
    #[serde(default)]
    pub stale: u64,
    /// The neighbor's BGP Identifier, once received.
    #[serde(rename = "routerID", default, skip_serializing_if = "Option::is_none")]
    pub router_id: Option<String>,
    /// The negotiated hold time, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold_seconds: Option<u64>,
    /// The number of times that it was established since the agent started.
    #[serde(default)]
    pub established_count: u64,
    /// The state of its BFD session, with the name of RFC 5880; absent if none is configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bfd: Option<String>,
    /// The generation of the BGPPeer that the session uses: an older one while the node rejects the newest. Absent for
    /// neighbors that are Nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_generation: Option<i64>,
    /// The reason why it is not established.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// One condition of each type: Established.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
