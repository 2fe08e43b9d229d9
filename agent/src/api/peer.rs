//! `BGPPeer`: a neighbor outside the cluster, such as a top-of-rack router.
// Printer columns have the same type and priority on purpose.
#![allow(clippy::duplicated_attributes)]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::configuration::{Bfd, Timers, yes};
use super::rules;
use super::status::BGPPeerStatus;

/// A neighbor outside the cluster, and the nodes that peer with it.
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
    doc = "A neighbor outside the cluster, and the nodes that peer with it.",
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
    .message("multihop and ttlSecurity exclude each other: both limit the distance of the peer"))]
#[x_kube(validation = Rule::new("!has(self.import) || !has(self.importFilter)")
    .message("give import or importFilter, not both"))]
#[x_kube(validation = Rule::new("!has(self.export) || !has(self.exportFilter)")
    .message("give export or exportFilter, not both"))]
#[x_kube(validation = Rule::new("!has(self.strictRole) || !self.strictRole || has(self.role)")
    .message("strictRole requires role"))]
#[x_kube(validation = Rule::new("!has(self.localASN) || self.localASN != self.peerASN")
    .message("localASN must not be the peer's own AS number (RFC 7705)"))]
#[x_kube(validation = Rule::new("!has(self.sourceAddress) || !isIP(self.sourceAddress) \
     || !isIP(self.peerAddress) || ip(self.sourceAddress).family() == ip(self.peerAddress).family()")
    .message("sourceAddress must be of peerAddress's family"))]
pub struct BGPPeerSpec {
    /// The nodes that peer with it; all nodes by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "rules::label_selector")]
    pub node_selector: Option<LabelSelector>,
    /// The IPv4 or IPv6 address of the peer.
    #[schemars(length(max = 45))]
    #[x_kube(validation = Rule::new(rules::UNICAST).message(rules::UNICAST_MESSAGE))]
    pub peer_address: String,
    /// The TCP port that the peer listens on; 179 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub peer_port: Option<u16>,
    /// The AS number of the peer, 1 to 4294967295. The session is internal if it is the cluster's AS number, else external.
    #[serde(rename = "peerASN")]
    #[schemars(range(min = 1, max = 4_294_967_295u32))]
    pub peer_asn: u32,
    /// The local AS number on sessions with the peer, instead of the cluster's, for a migration between ASes (RFC 7705).
    /// For an external peer only.
    #[serde(rename = "localASN", default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4_294_967_295u32))]
    pub local_asn: Option<u32>,
    /// The local address of the sessions: an address that the selected nodes have, or `InternalIP` for each node's own of
    /// the peer's address family. By default the kernel chooses one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 45))]
    #[x_kube(validation = Rule::new(rules::SOURCE).message(rules::SOURCE_MESSAGE))]
    pub source_address: Option<String>,
    /// The address families of the routes; both by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2), extend("x-kubernetes-list-type" = "set"))]
    pub families: Option<Vec<Family>>,
    /// The Secret with the password for TCP MD5 (RFC 2385). A change of the Secret changes the password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_secret_ref: Option<SecretRef>,
    /// BGP timers of the sessions. Absent fields have the values of the BGPConfiguration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timers: Option<Timers>,
    /// BFD with the peer (RFC 5880); disabled by default. The peer must have it, too: until then BGP runs without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bfd: Option<PeerBfd>,
    /// Wait for the peer to connect instead of connecting to it.
    #[serde(default)]
    pub passive: bool,
    /// The largest number of hops to the peer, 1 to 255, which is the TTL of sent packets; 1 is the same link. It does
    /// not protect from packets of others: prefer ttlSecurity where the peer supports it. By default the kernel's TTL is
    /// used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 255))]
    pub multihop: Option<u8>,
    /// The largest number of hops to the peer, 1 to 254, checked by the TTL of received packets: both sides send with 255,
    /// and the kernel drops packets from further away (RFC 5082). 1 is the same link. The peer needs the same setting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 254))]
    pub ttl_security: Option<u8>,
    /// The role of the nodes towards the peer, which prevents route leaks (RFC 9234). For an external peer only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// Reject a session on which the peer does not send its role.
    #[serde(default)]
    pub strict_role: bool,
    /// The limit of prefixes of each address family that the peer may send; none by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix_limit: Option<PrefixLimit>,
    /// The prefixes that are accepted from the peer. By default none from an external peer (RFC 8212), and all from an
    /// internal one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub import: Option<Vec<PrefixRule>>,
    /// The prefixes that are advertised to the peer. By default none to an external peer (RFC 8212), and all to an internal
    /// one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub export: Option<Vec<PrefixRule>>,
    /// The name of the BGPFilter for import, instead of `import`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub import_filter: Option<String>,
    /// The name of the BGPFilter for export, instead of `export`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub export_filter: Option<String>,
}

/// BFD with a peer. Absent intervals and an absent multiplier have the values of `bfd` in the BGPConfiguration, if set there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PeerBfd {
    /// Run it.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// The shortest interval between received packets, in milliseconds, 10 to 60000; the peer sends no faster. 300 by
    /// default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 10, max = 60000))]
    pub receive_interval: Option<u32>,
    /// The shortest interval between sent packets, in milliseconds, 10 to 60000. The longer one of this and the peer's
    /// receive interval is used. 300 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 10, max = 60000))]
    pub transmit_interval: Option<u32>,
    /// The number of lost packets in a row after which the peer ends the session, 2 to 255. 3 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 2, max = 255))]
    pub detect_multiplier: Option<u8>,
    /// Use multihop BFD on UDP port 4784 (RFC 5883), as there may be routers on the path. Otherwise the peer must be on the
    /// same link, and UDP port 3784 is used (RFC 5881). Both sides must have the same setting.
    #[serde(default)]
    pub multihop: bool,
}

impl PeerBfd {
    /// Returns the fields that BFD between nodes has, too.
    pub fn common(&self) -> Bfd {
        Bfd {
            enabled: self.enabled,
            receive_interval: self.receive_interval,
            transmit_interval: self.transmit_interval,
            detect_multiplier: self.detect_multiplier,
        }
    }
}

/// A rule that accepts the prefixes within `cidr` that are not longer than `maxLength`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.maxLength) || !isCIDR(self.cidr) \
     || (self.maxLength >= cidr(self.cidr).prefixLength() \
         && self.maxLength <= (cidr(self.cidr).ip().family() == 4 ? 32 : 128))")
    .message("maxLength must lie between the length of cidr and 32 (IPv4) or 128 (IPv6)"))]
pub struct PrefixRule {
    /// The covering network, which is accepted, too.
    #[schemars(length(max = 43))]
    #[x_kube(validation = Rule::new(rules::CIDR).message(rules::CIDR_MESSAGE))]
    pub cidr: String,
    /// The longest prefix length that is accepted; that of `cidr` by default, so that only `cidr` itself is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 128))]
    pub max_length: Option<u8>,
}

/// A value in a Secret of Heliograph's own namespace. Agents may read Secrets of no other namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretRef {
    /// The name of the Secret.
    #[schemars(length(min = 1, max = 253), regex(pattern = rules::OBJECT_NAME))]
    pub name: String,
    /// The key in its data; `password` by default.
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

/// The role of the nodes towards a peer (RFC 9234 §4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[schemars(
    description = "Provider: transit provider of the peer. Customer: customer of the peer. Peer: both advertise only \
                          their own and their customers' routes. RouteServer: route server of the peer. \
                          RouteServerClient: client of the peer's route server."
)]
#[allow(missing_docs)]
pub enum Role {
    Provider,
    Customer,
    Peer,
    RouteServer,
    RouteServerClient,
}

/// A limit of the prefixes that a peer may send, including those that the import filter rejects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PrefixLimit {
    /// The largest number of prefixes of an address family. With more the session ends.
    #[schemars(range(min = 1, max = 4_294_967_295u32))]
    pub max: u32,
    /// The percentage of `max` from which on a warning is logged, 1 to 100; 80 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub warn_percent: Option<u8>,
    /// The time in seconds until the session is started again after it ended for this reason. By default it is not before
    /// this object changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4_294_967_295u32))]
    pub restart_seconds: Option<u32>,
}
