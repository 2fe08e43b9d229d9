//! `BGPFilter`: rules that say which routes pass between us and peers, and with what changes.
// Printer columns are alike in type, which is no slip.
#![allow(clippy::duplicated_attributes)]

use kube::core::Rule as Cel;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::rules;
use super::status::ObjectStatus;

/// Rules that say which routes pass, and with what changes; BGPPeers name them as importFilter and exportFilter.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "heliograph.io",
    version = "v1alpha1",
    kind = "BGPFilter",
    plural = "bgpfilters",
    singular = "bgpfilter",
    shortname = "bgpf",
    category = "heliograph",
    derive = "PartialEq",
    doc = "Rules that say which routes pass, and with what changes; BGPPeers name them as importFilter and exportFilter.",
    status = "ObjectStatus",
    printcolumn(name = "Otherwise", type_ = "string", json_path = ".spec.otherwise"),
    printcolumn(
        name = "Accepted",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Accepted')].status"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct BGPFilterSpec {
    /// Tried in turn. One that fits makes its changes, and ends the search unless its action is Continue. Conditions
    /// see the route as it came, not as earlier rules changed it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub rules: Vec<FilterRule>,
    /// What becomes of a route that no rule accepts or rejects; rejected where absent.
    #[serde(default)]
    pub otherwise: Otherwise,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Cel::new("self.action != 'Reject' || !has(self.set)")
    .message("a rejected route is not changed: leave set out"))]
pub struct FilterRule {
    /// What people call it: it stands in the reasons that `heliograph routes` gives.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 63))]
    pub name: String,
    /// What must hold of a route; all of it. Absent: every route fits.
    #[serde(rename = "match", default, skip_serializing_if = "Option::is_none")]
    pub matches: Option<RouteMatch>,
    /// What must not hold of a route; none of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unless: Option<RouteMatch>,
    /// What becomes of a route that fits.
    pub action: Action,
    /// What is changed on a route that fits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set: Option<Changes>,
}

/// Conditions on a route.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouteMatch {
    /// Its prefix is one of these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub prefixes: Option<Vec<PrefixMatch>>,
    /// It carries all of these: `64512:100` (RFC 1997), `64512:1:2` (RFC 8092), `rt:64512:100`, `soo:64512:100` or
    /// `0x` and 16 hexadecimal digits (RFC 4360), or one of no-export, no-advertise, no-export-subconfed, no-peer,
    /// blackhole, graceful-shutdown, accept-own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16), inner(length(min = 3, max = 40)))]
    #[x_kube(validation = Cel::new(rules::COMMUNITIES).message(rules::COMMUNITIES_MESSAGE))]
    pub communities: Option<Vec<String>>,
    /// Its AS path is like this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_path: Option<AsPathMatch>,
    /// Its next hop lies in one of these networks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), inner(length(max = 43)))]
    #[x_kube(validation = Cel::new(rules::CIDRS).message(rules::CIDR_MESSAGE))]
    pub next_hops: Option<Vec<String>>,
    /// It was learned like this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
}

/// Prefixes within `cidr`, of some lengths.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Cel::new("!has(self.maxLength) || !isCIDR(self.cidr) \
     || (self.maxLength >= cidr(self.cidr).prefixLength() \
         && self.maxLength <= (cidr(self.cidr).ip().family() == 4 ? 32 : 128))")
    .message("maxLength must lie between the length of cidr and 32 (IPv4) or 128 (IPv6)"))]
#[x_kube(validation = Cel::new("!has(self.minLength) || !isCIDR(self.cidr) \
     || (self.minLength >= cidr(self.cidr).prefixLength() && has(self.maxLength) && self.minLength <= self.maxLength)")
    .message("minLength must lie between the length of cidr and maxLength"))]
pub struct PrefixMatch {
    /// The covering network.
    #[schemars(length(max = 43))]
    #[x_kube(validation = Cel::new(rules::CIDR).message(rules::CIDR_MESSAGE))]
    pub cidr: String,
    /// The shortest prefix length that matches; that of `cidr` where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 128))]
    pub min_length: Option<u8>,
    /// The longest prefix length that matches; that of `cidr` where absent, so that only `cidr` itself does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 128))]
    pub max_length: Option<u8>,
}

/// What an AS path is like; all that is given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct AsPathMatch {
    /// Whether it is empty, that is, the route is from our own AS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub empty: Option<bool>,
    /// This AS is in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4_294_967_295u32))]
    pub contains: Option<u32>,
    /// This AS is the first: the neighbouring one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4_294_967_295u32))]
    pub from: Option<u32>,
    /// This AS is the last: the origin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4_294_967_295u32))]
    pub origin: Option<u32>,
    /// It is no longer than this many ASes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 65535))]
    pub at_most: Option<u16>,
}

/// How a route was learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[schemars(
    description = "Local: this node originates it. Internal: from a neighbour in our AS. External: from a \
                          neighbour in another AS."
)]
#[allow(missing_docs)]
pub enum Source {
    Local,
    Internal,
    External,
}

/// What becomes of a route that fits a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[schemars(description = "Accept: it passes. Reject: it doesn't. Continue: the next rules have a say, too.")]
#[allow(missing_docs)]
pub enum Action {
    Accept,
    Reject,
    Continue,
}

/// What becomes of a route that no rule accepts or rejects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[schemars(description = "Reject: it doesn't pass. Accept: it passes.")]
#[allow(missing_docs)]
pub enum Otherwise {
    #[default]
    Reject,
    Accept,
}

/// What is changed on a route.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Cel::new("!has(self.med) || !has(self.removeMED) || !self.removeMED")
    .message("give med or removeMED, not both"))]
pub struct Changes {
    /// Communities to add, written as in `match`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 3, max = 40)))]
    #[x_kube(validation = Cel::new(rules::COMMUNITIES).message(rules::COMMUNITIES_MESSAGE))]
    pub add_communities: Vec<String>,
    /// Communities to take away, written as in `match`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 3, max = 40)))]
    #[x_kube(validation = Cel::new(rules::COMMUNITIES).message(rules::COMMUNITIES_MESSAGE))]
    pub remove_communities: Vec<String>,
    /// LOCAL_PREF; means nothing towards external peers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 4_294_967_295u32))]
    pub local_pref: Option<u32>,
    /// MULTI_EXIT_DISC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 4_294_967_295u32))]
    pub med: Option<u32>,
    /// Take MULTI_EXIT_DISC away.
    #[serde(rename = "removeMED", default)]
    pub remove_med: bool,
    /// Make the AS path longer by this many, 1 to 32: on export by our AS number, on import by the peer's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 32))]
    pub prepend: Option<u8>,
    /// Make our own address on the session the next hop; on export only.
    #[serde(default)]
    pub next_hop_self: bool,
}
