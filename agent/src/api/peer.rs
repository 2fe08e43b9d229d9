//! `BGPPeer`: a neighbour that is no node of the cluster, such as a top-of-rack router.
// Printer columns are alike in type and priority, which is no slip.
#![allow(clippy::duplicated_attributes)]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::configuration::{Bfd, Timers, yes};
use super::rules;
use super::status::BGPPeerStatus;

/// A neighbour that is no node of the cluster, and the nodes that peer with it.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "heliograph.io",
    version = "v1alpha1",
    kind = "BGPPeer",
    plural = "bgppeers",
    singular = "bgppeer",
    shortname = "bgpp",
    category = "heliograph",
    derive = "PartialEq",
    doc = "A neighbour that is no node of the cluster, and the nodes that peer with it.",
    status = "BGPPeerStatus",
    printcolumn(name = "Peer", type_ = "string", json_path = ".spec.peerAddress"),
    printcolumn(name = "ASN", type_ = "integer", json_path = ".spec.peerASN"),
    printcolumn(name = "Sessions", type_ = "string", json_path = ".status.sessions.established"),
    printcolumn(name = "Import", type_ = "string", json_path = ".spec.importFilter", priority = "1"),
    printcolumn(name = "Export", type_ = "string", json_path = ".spec.exportFilter", priority = "1"),
    printcolumn(
        name = "Accepted",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Accepted')].status"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.multihop) || !has(self.ttlSecurity)")
    .message("multihop and ttlSecurity exclude each other: both say how far away the peer may be"))]
#[x_kube(validation = Rule::new("!has(self.import) || !has(self.importFilter)")
    .message("give import or importFilter, not both"))]
#[x_kube(validation = Rule::new("!has(self.export) || !has(self.exportFilter)")
    .message("give export or exportFilter, not both"))]
#[x_kube(validation = Rule::new("!has(self.strictRole) || !self.strictRole || has(self.role)")
    .message("strictRole needs role: say what we are to the peer"))]
#[x_kube(validation = Rule::new("!has(self.localASN) || self.localASN != self.peerASN")
    .message("localASN must not be the peer's own AS number (RFC 7705)"))]
#[x_kube(validation = Rule::new("!has(self.sourceAddress) || !isIP(self.sourceAddress) \
     || !isIP(self.peerAddress) || ip(self.sourceAddress).family() == ip(self.peerAddress).family()")
    .message("sourceAddress must be of peerAddress's family"))]
pub struct BGPPeerSpec {
    /// The nodes that peer with it; every node where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "rules::label_selector")]
    pub node_selector: Option<LabelSelector>,
    /// Its IPv4 or IPv6 address.
    #[schemars(length(max = 45))]
    #[x_kube(validation = Rule::new(rules::UNICAST).message(rules::UNICAST_MESSAGE))]
    pub peer_address: String,
    /// The TCP port it listens on; 179 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub peer_port: Option<u16>,
    /// Its AS number, 1 to 4294967295. Equal to the cluster's: an internal session; else an external one.
    #[serde(rename = "peerASN")]
    #[schemars(range(min = 1, max = 4_294_967_295u32))]
    pub peer_asn: u32,
    /// The AS number that we have for it instead of the cluster's, for moving from one AS to another (RFC 7705). For an
    /// external peer only.
    #[serde(rename = "localASN", default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4_294_967_295u32))]
    pub local_asn: Option<u32>,
    /// The address to connect from: one that the selected nodes have, or `InternalIP` for each node's own address of
    /// the peer's family. The kernel's choice where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 45))]
    #[x_kube(validation = Rule::new(rules::SOURCE).message(rules::SOURCE_MESSAGE))]
    pub source_address: Option<String>,
    /// The address families to carry; both where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2), extend("x-kubernetes-list-type" = "set"))]
    pub families: Option<Vec<Family>>,
    /// The Secret that holds the password for TCP MD5 (RFC 2385). Changing the Secret changes the password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_secret_ref: Option<SecretRef>,
    /// BGP timers of these sessions; what is absent comes from the BGPConfiguration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timers: Option<Timers>,
    /// BFD with it (RFC 5880); off where absent. It must be on at the peer too: until it is, BGP goes on without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bfd: Option<PeerBfd>,
    /// Wait for it to connect instead of connecting to it.
    #[serde(default)]
    pub passive: bool,
    /// How many hops away it may be, 1 to 255, by the TTL of what we send; 1 is the same link. Anyone can still send
    /// to us from anywhere: prefer ttlSecurity where the peer can do it. The kernel's TTL where both are absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 255))]
    pub multihop: Option<u8>,
    /// How many hops away it may be, 1 to 254, by the TTL of what comes: both sides send 255, and what has travelled
    /// further is dropped by the kernel (RFC 5082). 1 is the same link. The peer needs the same setting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 254))]
    pub ttl_security: Option<u8>,
    /// What we are to it; guards against route leaks (RFC 9234). For an external peer only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// Refuse a peer that doesn't say its role.
    #[serde(default)]
    pub strict_role: bool,
    /// How many prefixes of each family it may send; without a limit where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix_limit: Option<PrefixLimit>,
    /// What is taken from it, as prefixes. Absent: nothing from an external peer (RFC 8212), everything from an
    /// internal one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub import: Option<Vec<PrefixRule>>,
    /// What it is told, as prefixes. Absent: nothing to an external peer (RFC 8212), everything to an internal one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub export: Option<Vec<PrefixRule>>,
    /// The BGPFilter that says what is taken from it, instead of `import`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub import_filter: Option<String>,
    /// The BGPFilter that says what it is told, instead of `export`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub export_filter: Option<String>,
}

/// BFD with a peer; intervals and multiplier that are absent come from the BGPConfiguration's `bfd`, where that has them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PeerBfd {
    /// Whether to run it.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// How often we can take packets, in milliseconds, 10 to 60000; the peer sends no more often. 300 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 10, max = 60000))]
    pub receive_interval: Option<u32>,
    /// How often we want to send packets, in milliseconds, 10 to 60000; what is slower, this or what the peer can take,
    /// holds. 300 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 10, max = 60000))]
    pub transmit_interval: Option<u32>,
    /// How many packets of ours in a row the peer may miss before it gives us up, 2 to 255. 3 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 2, max = 255))]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.maxLength) || !isCIDR(self.cidr) \
     || (self.maxLength >= cidr(self.cidr).prefixLength() \
         && self.maxLength <= (cidr(self.cidr).ip().family() == 4 ? 32 : 128))")
    .message("maxLength must lie between the length of cidr and 32 (IPv4) or 128 (IPv6)"))]
pub struct PrefixRule {
    /// The covering network; itself passes too.
    #[schemars(length(max = 43))]
    #[x_kube(validation = Rule::new(rules::CIDR).message(rules::CIDR_MESSAGE))]
    pub cidr: String,
    /// The longest prefix length that passes; that of `cidr` where absent, so that only `cidr` itself does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 128))]
    pub max_length: Option<u8>,
}

/// A value in a Secret of Heliograph's own namespace; there is no other namespace that an agent may read Secrets in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretRef {
    /// The Secret's name.
    #[schemars(length(min = 1, max = 253), regex(pattern = rules::OBJECT_NAME))]
    pub name: String,
    /// The key in its data; `password` where absent.
    #[serde(default = "password")]
    #[schemars(length(min = 1, max = 253), regex(pattern = rules::DATA_KEY))]
    pub key: String,
}

fn password() -> String {
    "password".into()
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[schemars(description = "An address family: IPv4 or IPv6.")]
#[allow(missing_docs)]
pub enum Family {
    IPv4,
    IPv6,
}

/// What we are to a peer (RFC 9234 §4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[schemars(
    description = "Provider: its transit provider. Customer: its customer. Peer: its equal, each tells the \
                          other only its own and its customers' routes. RouteServer: the route server it uses. \
                          RouteServerClient: a client of its route server."
)]
#[allow(missing_docs)]
pub enum Role {
    Provider,
    Customer,
    Peer,
    RouteServer,
    RouteServerClient,
}

/// A limit on the prefixes that a peer may send, those refused by the import filter included.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PrefixLimit {
    /// With more of one family the session ends.
    #[schemars(range(min = 1, max = 4_294_967_295u32))]
    pub max: u32,
    /// Percentage of `max` that is worth a warning, 1 to 100; 80 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub warn_percent: Option<u8>,
    /// When to try again after the session ended for it, in seconds; where absent, not before this object changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4_294_967_295u32))]
    pub restart_seconds: Option<u32>,
}
