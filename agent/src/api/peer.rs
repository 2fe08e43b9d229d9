//! `BGPPeer`: a neighbour that is no node of the cluster, such as a top-of-rack router.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::configuration::Timers;

/// A neighbour that is no node of the cluster, and the nodes that peer with it.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "heliograph.io",
    version = "v1alpha1",
    kind = "BGPPeer",
    plural = "bgppeers",
    singular = "bgppeer",
    category = "heliograph",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub struct BGPPeerSpec {
    /// The nodes that peer with it; every node where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<LabelSelector>,
    /// Its IPv4 or IPv6 address.
    pub peer_address: String,
    /// The TCP port it listens on; 179 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_port: Option<u16>,
    /// Its AS number, 1 to 4294967295. Equal to the cluster's: an internal session; else an external one.
    #[serde(rename = "peerASN")]
    pub peer_asn: u32,
    /// What is taken from it. Absent: nothing from an external peer (RFC 8212), everything from an internal one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub import: Option<Vec<PrefixRule>>,
    /// What it is told. Absent: nothing to an external peer (RFC 8212), everything to an internal one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub export: Option<Vec<PrefixRule>>,
    /// BGP timers of these sessions; what is absent comes from the BGPConfiguration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timers: Option<Timers>,
    /// Wait for it to connect instead of connecting to it.
    #[serde(default)]
    pub passive: bool,
}

/// Prefixes that pass: those within `cidr` that are not longer than `maxLength`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PrefixRule {
    /// The covering network; itself passes too.
    pub cidr: String,
    /// The longest prefix length that passes; that of `cidr` where absent, so that only `cidr` itself does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_length: Option<u8>,
}
