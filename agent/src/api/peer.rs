//! `BGPPeer`: a neighbour that is no node of the cluster, such as a top-of-rack router.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::configuration::{Bfd, Timers, yes};

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
    /// BFD with it (RFC 5880); off where absent. It must be on at the peer too: until it is, BGP goes on without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bfd: Option<PeerBfd>,
    /// Wait for it to connect instead of connecting to it.
    #[serde(default)]
    pub passive: bool,
}

/// BFD with a peer; intervals and multiplier that are absent come from the BGPConfiguration's `bfd`, where that has them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PeerBfd {
    /// Whether to run it.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// How often we can take packets, in milliseconds, 10 to 60000; the peer sends no more often. 300 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receive_interval: Option<u32>,
    /// How often we want to send packets, in milliseconds, 10 to 60000; what is slower, this or what the peer can take,
    /// holds. 300 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transmit_interval: Option<u32>,
    /// How many packets of ours in a row the peer may miss before it gives us up, 2 to 255. 3 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detect_multiplier: Option<u8>,
    /// There is or may be a router on the way: multihop BFD, on UDP port 4784 (RFC 5883). Else the peer must be on the
    /// same link, on UDP port 3784 (RFC 5881). Both sides must agree.
    #[serde(default)]
    pub multihop: bool,
}

impl PeerBfd {
    /// What it has in common with BFD between nodes.
    pub fn common(&self) -> Bfd {
        Bfd {
            enabled: self.enabled,
            receive_interval: self.receive_interval,
            transmit_interval: self.transmit_interval,
            detect_multiplier: self.detect_multiplier,
        }
    }
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
