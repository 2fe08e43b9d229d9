//! `BGPConfiguration`: what holds for the whole cluster.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What holds for the whole cluster. There is exactly one, named `default`.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "heliograph.io",
    version = "v1alpha1",
    kind = "BGPConfiguration",
    plural = "bgpconfigurations",
    singular = "bgpconfiguration",
    shortname = "bgpconfig",
    category = "heliograph",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub struct BGPConfigurationSpec {
    /// The cluster's AS number, 1 to 4294967295. All nodes are in this AS; 64512 to 65534 are for private use
    /// (RFC 6996).
    pub as_number: u32,
    /// Who peers with whom among the nodes.
    #[serde(default)]
    pub topology: Topology,
    /// Which nodes reflect; required with topology Reflectors, and only there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reflectors: Option<Reflectors>,
    /// Networks which all pod addresses lie in. Where given, a node's pod CIDR outside them is refused.
    #[serde(rename = "clusterCIDRs", default, skip_serializing_if = "Vec::is_empty")]
    pub cluster_cidrs: Vec<String>,
    /// When packets between pods of two nodes are carried in IPIP (IPv6: IPv6 in IPv6).
    #[serde(default)]
    pub encapsulation: Encapsulation,
    /// Whether what pods send to the outside of the cluster leaves a node under the node's own address.
    #[serde(default)]
    pub nat_outgoing: NatOutgoing,
    /// BGP timers for all sessions; a BGPPeer may have its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timers: Option<Timers>,
    /// Graceful restart (RFC 4724): peers keep a node's routes while its agent restarts. On by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub graceful_restart: Option<GracefulRestart>,
    /// BFD (RFC 5880) on all sessions between nodes, so that a node that is cut off is given up within a second instead
    /// of the hold time. Off by default. Not for BGPPeers, which have a field of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bfd: Option<Bfd>,
    /// TCP port on which the agents listen and which they connect to; 179 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen_port: Option<u16>,
}

/// Who peers with whom among the nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Topology {
    /// Every node with every other.
    #[default]
    FullMesh,
    /// Every node with the reflectors, and these with each other (RFC 4456).
    Reflectors,
}

/// Which nodes reflect.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Reflectors {
    /// The nodes whose labels match.
    pub node_selector: LabelSelector,
}

/// When packets between pods of two nodes are encapsulated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Encapsulation {
    /// Never: the network between the nodes knows the pod networks.
    Never,
    /// Where the other node is on another L2 segment, that is, behind a gateway.
    #[default]
    CrossSubnet,
    /// Between any two nodes.
    Always,
}

/// Whether pods' traffic to the outside is translated. Pods reach pods and nodes under their own addresses either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum NatOutgoing {
    /// Never: the networks outside know the way back to the pods.
    Disabled,
    /// Where the destination is neither in clusterCIDRs (or, without any, in a node's pod CIDR) nor a node's address.
    #[default]
    Enabled,
}

/// BGP timers, in whole seconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Timers {
    /// Hold time to propose: a peer that is silent for so long is given up. 0 (never) or 3 to 65535; 90 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold_seconds: Option<u16>,
    /// Time between KEEPALIVEs, less than the hold time; a third of the negotiated hold time by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keepalive_seconds: Option<u16>,
    /// Time between attempts to connect, at least 1; 5 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect_retry_seconds: Option<u16>,
}

/// Graceful restart (RFC 4724).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GracefulRestart {
    /// Whether to offer it to peers.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// How long peers shall keep our routes while an agent is away, 1 to 4095; 120 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart_seconds: Option<u16>,
}

/// BFD between two nodes, or with a peer. Intervals are in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Bfd {
    /// Whether to run it.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// How often we can take packets, 10 to 60000; the neighbour sends no more often. 300 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receive_interval: Option<u32>,
    /// How often we want to send packets, 10 to 60000; what is slower, this or what the neighbour can take, holds. 300
    /// by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transmit_interval: Option<u32>,
    /// How many packets of ours in a row the neighbour may miss before it gives us up, 2 to 255. 3 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detect_multiplier: Option<u8>,
}

pub(super) fn yes() -> bool {
    true
}
