//! `BGPConfiguration`: the configuration of the whole cluster.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::rules;
use super::status::ObjectStatus;

/// The configuration of the whole cluster. There is at most one, named `default`. Without it the AS number is 64512, and
/// all other fields have their defaults. (A folder must have one.)
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
    doc = "The configuration of the whole cluster. There is at most one, named `default`. Without it the AS number is \
           64512, and all other fields have their defaults.",
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
    .message("reflectors is required with topology Reflectors, and not allowed otherwise"))]
pub struct BGPConfigurationSpec {
    /// The cluster's AS number, 1 to 4294967295. All nodes are in this AS; 64512 to 65534 are for private use
    /// (RFC 6996).
    #[schemars(range(min = 1, max = 4_294_967_295u32))]
    pub as_number: u32,
    /// The BGP sessions between nodes.
    #[serde(default)]
    pub topology: Topology,
    /// The nodes that are reflectors. Required with topology Reflectors, and not allowed otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reflectors: Option<Reflectors>,
    /// The networks that contain all pod addresses. If set, a Node with a pod CIDR outside them is rejected.
    #[serde(rename = "clusterCIDRs", default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(max = 43)))]
    #[x_kube(validation = Rule::new(rules::CIDRS).message(rules::CIDR_MESSAGE))]
    pub cluster_cidrs: Vec<String>,
    /// The packets between pods of two nodes that are encapsulated in IPIP (IPv6: IPv6 in IPv6).
    #[serde(default)]
    pub encapsulation: Encapsulation,
    /// Translation of packets from pods to destinations outside the cluster to their node's address.
    #[serde(default)]
    pub nat_outgoing: NatOutgoing,
    /// BGP timers of all sessions. A BGPPeer may have its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timers: Option<Timers>,
    /// Graceful restart (RFC 4724): peers keep a node's routes while its agent restarts. Enabled by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub graceful_restart: Option<GracefulRestart>,
    /// BFD (RFC 5880) on all sessions between nodes. It detects an unreachable node within a second instead of the hold
    /// time. Disabled by default. BGPPeers have a field of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bfd: Option<Bfd>,
    /// The TCP port that the agents listen on and connect to; 179 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub listen_port: Option<u16>,
}

/// The default AS number: the first one for private use (RFC 6996).
pub const DEFAULT_AS_NUMBER: u32 = 64512;

/// The configuration of a cluster without a BGPConfiguration.
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

/// The BGP sessions between nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[schemars(
    description = "FullMesh: each node has a session with each other node. Reflectors: each node has sessions with \
                          the reflectors, and these with each other (RFC 4456)."
)]
pub enum Topology {
    // The variants have no doc comments: these would make a schema that isn't structural.
    #[default]
    #[allow(missing_docs)]
    FullMesh,
    #[allow(missing_docs)]
    Reflectors,
}

/// The nodes that are reflectors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Reflectors {
    /// The nodes with matching labels. It is not empty, as that would match every node.
    #[schemars(schema_with = "rules::label_selector")]
    #[x_kube(validation = Rule::new(
        "has(self.matchLabels) && size(self.matchLabels) > 0 \
         || has(self.matchExpressions) && size(self.matchExpressions) > 0")
        .message("an empty selector makes every node a reflector: name a label that only the reflectors have"))]
    pub node_selector: LabelSelector,
}

/// The packets between pods of two nodes that are encapsulated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[schemars(
    description = "Never: none; the network between the nodes must have routes to the pod CIDRs. CrossSubnet: those to a \
                          node on another L2 segment, that is, behind a gateway. Always: all."
)]
pub enum Encapsulation {
    #[allow(missing_docs)]
    Never,
    #[default]
    #[allow(missing_docs)]
    CrossSubnet,
    #[allow(missing_docs)]
    Always,
}

/// Translation of packets from pods to destinations outside the cluster. Packets to pods and nodes are never translated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[schemars(
    description = "Disabled: none; the networks outside must have routes to the pods. Enabled: where the destination is \
                          neither in clusterCIDRs (or, without any, in a node's pod CIDR) nor a node's address."
)]
pub enum NatOutgoing {
    #[allow(missing_docs)]
    Disabled,
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
    /// The proposed hold time: a session ends when nothing is received from the peer for this time. 0 (never) or 3 to
    /// 65535; 90 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 65535))]
    #[x_kube(validation = Rule::new("self == 0 || self >= 3").message("must be 0 or at least 3 (RFC 4271)"))]
    pub hold_seconds: Option<u16>,
    /// The time between KEEPALIVEs, less than the hold time; a third of the negotiated hold time by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub keepalive_seconds: Option<u16>,
    /// The time between attempts to connect, at least 1; 5 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub connect_retry_seconds: Option<u16>,
    /// The send hold time: a session ends when the peer accepts no data for this time (RFC 9687). More than the hold time.
    /// By default 8 minutes, or twice the hold time where that is longer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4_294_967_295u32))]
    pub send_hold_seconds: Option<u32>,
}

/// Graceful restart (RFC 4724).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct GracefulRestart {
    /// Offer it to peers.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// The time that peers keep a node's routes while its agent restarts, 1 to 4095; 120 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4095))]
    pub restart_seconds: Option<u16>,
    /// Keep routes also after a NOTIFICATION or an expired hold timer, with peers that offer the same (RFC 8538). The
    /// routes of an unreachable node then stay for its restart time, not just its hold time. Disabled by default.
    #[serde(default)]
    pub notifications: bool,
}

/// BFD between two nodes. Intervals are in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Bfd {
    /// Run it.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// The shortest interval between received packets, in milliseconds, 10 to 60000; the neighbor sends no faster.
    /// 300 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 10, max = 60000))]
    pub receive_interval: Option<u32>,
    /// The shortest interval between sent packets, in milliseconds, 10 to 60000. The longer one of this and the neighbor's
    /// receiveInterval is used. 300 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 10, max = 60000))]
    pub transmit_interval: Option<u32>,
    /// The number of lost packets in a row after which the neighbor ends the session, 2 to 255. 3 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 2, max = 255))]
    pub detect_multiplier: Option<u8>,
}

pub(super) fn yes() -> bool {
    true
}
