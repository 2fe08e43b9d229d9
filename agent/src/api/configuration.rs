//! `BGPConfiguration`: what holds for the whole cluster.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::rules;
use super::status::ObjectStatus;

/// What holds for the whole cluster. There is one at most, named `default`; without it the AS number is 64512, and
/// everything else as if left out. (A folder must have one.)
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "heliograph.io",
    version = "v1alpha1",
    kind = "BGPConfiguration",
    plural = "bgpconfigurations",
    singular = "bgpconfiguration",
    shortname = "bgpconfig",
    category = "heliograph",
    derive = "PartialEq",
    doc = "What holds for the whole cluster. There is one at most, named `default`; without it the AS number is 64512, and \
           everything else as if left out.",
    status = "ObjectStatus",
    validation = Rule::new("self.metadata.name == 'default'")
        .message("there is one BGPConfiguration, and it is named default"),
    printcolumn(name = "ASN", type_ = "integer", json_path = ".spec.asNumber"),
    printcolumn(name = "Topology", type_ = "string", json_path = ".spec.topology"),
    printcolumn(name = "Encapsulation", type_ = "string", json_path = ".spec.encapsulation"),
    printcolumn(
        name = "Accepted",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Accepted')].status"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("(self.topology == 'Reflectors') == has(self.reflectors)")
    .message("topology Reflectors needs reflectors, and only it has them"))]
pub struct BGPConfigurationSpec {
    /// The cluster's AS number, 1 to 4294967295. All nodes are in this AS; 64512 to 65534 are for private use
    /// (RFC 6996).
    #[schemars(range(min = 1, max = 4_294_967_295u32))]
    pub as_number: u32,
    /// Who peers with whom among the nodes.
    #[serde(default)]
    pub topology: Topology,
    /// Which nodes reflect; required with topology Reflectors, and only there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reflectors: Option<Reflectors>,
    /// Networks which all pod addresses lie in. Where given, a node's pod CIDR outside them is refused.
    #[serde(rename = "clusterCIDRs", default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(max = 43)))]
    #[x_kube(validation = Rule::new(rules::CIDRS).message(rules::CIDR_MESSAGE))]
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
    #[schemars(range(min = 1, max = 65535))]
    pub listen_port: Option<u16>,
}

/// The AS number where nobody says one: the first that is for private use (RFC 6996).
pub const DEFAULT_AS_NUMBER: u32 = 64512;

/// What holds in a cluster without a BGPConfiguration: that AS number, and every field as if it were left out.
impl Default for BGPConfigurationSpec {
    fn default() -> Self {
        Self {
            as_number: DEFAULT_AS_NUMBER,
            topology: Topology::default(),
            reflectors: None,
            cluster_cidrs: Vec::new(),
            encapsulation: Encapsulation::default(),
            nat_outgoing: NatOutgoing::default(),
            timers: None,
            graceful_restart: None,
            bfd: None,
            listen_port: None,
        }
    }
}

/// Who peers with whom among the nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[schemars(
    description = "FullMesh: every node with every other. Reflectors: every node with the reflectors, and these \
                          with each other (RFC 4456)."
)]
pub enum Topology {
    // Not doc comments: a described variant makes a schema that isn't structural.
    // Every node with every other.
    #[default]
    #[allow(missing_docs)]
    FullMesh,
    // Every node with the reflectors, and these with each other (RFC 4456).
    #[allow(missing_docs)]
    Reflectors,
}

/// Which nodes reflect.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Reflectors {
    /// The nodes whose labels match; not empty, as that would be every node.
    #[schemars(schema_with = "rules::label_selector")]
    #[x_kube(validation = Rule::new(
        "has(self.matchLabels) && size(self.matchLabels) > 0 \
         || has(self.matchExpressions) && size(self.matchExpressions) > 0")
        .message("an empty selector makes every node a reflector: name a label that only the reflectors have"))]
    pub node_selector: LabelSelector,
}

/// When packets between pods of two nodes are encapsulated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[schemars(
    description = "Never: the network between the nodes knows the pod networks. CrossSubnet: where the other \
                          node is on another L2 segment, that is, behind a gateway. Always: between any two nodes."
)]
pub enum Encapsulation {
    // Never: the network between the nodes knows the pod networks.
    #[allow(missing_docs)]
    Never,
    // Where the other node is on another L2 segment, that is, behind a gateway.
    #[default]
    #[allow(missing_docs)]
    CrossSubnet,
    // Between any two nodes.
    #[allow(missing_docs)]
    Always,
}

/// Whether pods' traffic to the outside is translated. Pods reach pods and nodes under their own addresses either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[schemars(
    description = "Disabled: the networks outside know the way back to the pods. Enabled: where the destination is \
                          neither in clusterCIDRs (or, without any, in a node's pod CIDR) nor a node's address."
)]
pub enum NatOutgoing {
    // The networks outside know the way back to the pods.
    #[allow(missing_docs)]
    Disabled,
    // Where the destination is neither in clusterCIDRs (or, without any, in a node's pod CIDR) nor a node's address.
    #[default]
    #[allow(missing_docs)]
    Enabled,
}

/// BGP timers, in whole seconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(
    "!has(self.holdSeconds) || !has(self.keepaliveSeconds) || self.holdSeconds == 0 \
     || self.keepaliveSeconds < self.holdSeconds")
    .message("keepaliveSeconds must be less than holdSeconds"))]
#[x_kube(validation = Rule::new(
    "!has(self.holdSeconds) || !has(self.sendHoldSeconds) || self.sendHoldSeconds > self.holdSeconds")
    .message("sendHoldSeconds must be more than holdSeconds (RFC 9687)"))]
pub struct Timers {
    /// Hold time to propose: a peer that is silent for so long is given up. 0 (never) or 3 to 65535; 90 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 65535))]
    #[x_kube(validation = Rule::new("self == 0 || self >= 3").message("must be 0 or at least 3 (RFC 4271)"))]
    pub hold_seconds: Option<u16>,
    /// Time between KEEPALIVEs, less than the hold time; a third of the negotiated hold time by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub keepalive_seconds: Option<u16>,
    /// Time between attempts to connect, at least 1; 5 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub connect_retry_seconds: Option<u16>,
    /// How long the peer may take nothing of what we have to say before it is given up (RFC 9687); more than the hold
    /// time. By default 8 minutes, or twice the hold time where that is longer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4_294_967_295u32))]
    pub send_hold_seconds: Option<u32>,
}

/// Graceful restart (RFC 4724).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct GracefulRestart {
    /// Whether to offer it to peers.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// How long peers shall keep our routes while an agent is away, 1 to 4095; 120 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4095))]
    pub restart_seconds: Option<u16>,
    /// Keep routes through NOTIFICATIONs and an expired hold timer too, with peers that offer the same (RFC 8538).
    /// Routes of a node that is cut off then stay for its restart time, not just its hold time. Off by default.
    #[serde(default)]
    pub notifications: bool,
}

/// BFD between two nodes, or with a peer. Intervals are in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Bfd {
    /// Whether to run it.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// How often we can take packets, 10 to 60000; the neighbour sends no more often. 300 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 10, max = 60000))]
    pub receive_interval: Option<u32>,
    /// How often we want to send packets, 10 to 60000; what is slower, this or what the neighbour can take, holds. 300
    /// by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 10, max = 60000))]
    pub transmit_interval: Option<u32>,
    /// How many packets of ours in a row the neighbour may miss before it gives us up, 2 to 255. 3 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 2, max = 255))]
    pub detect_multiplier: Option<u8>,
}

pub(super) fn yes() -> bool {
    true
}
