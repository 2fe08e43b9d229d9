//! `BGPFilter`: rules that accept, reject and modify routes on import and export.
// Printer columns have the same type on purpose.
#![allow(clippy::duplicated_attributes)]

use kube::core::Rule as Cel;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::rules;
use super::status::ObjectStatus;

/// Rules that accept, reject and modify routes. BGPPeers refer to it by importFilter and exportFilter.
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
    doc = "Rules that accept, reject and modify routes. BGPPeers refer to it by importFilter and exportFilter.",
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
    /// The rules, evaluated in order. A rule that matches makes its changes, and ends the evaluation unless its action is
    /// Continue. Conditions are evaluated on the unmodified route, without the changes of earlier rules.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub rules: Vec<FilterRule>,
    /// The action for routes that no rule accepts or rejects; Reject by default.
    #[serde(default)]
    pub otherwise: Otherwise,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Cel::new("self.action != 'Reject' || !has(self.set)")
    .message("a rejected route is not changed: leave set out"))]
pub struct FilterRule {
    /// The name of the rule in the output of `heliograph routes`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 63))]
    pub name: String,
    /// Conditions, all of which must be met. Without them the rule matches every route.
    #[serde(rename = "match", default, skip_serializing_if = "Option::is_none")]
    pub matches: Option<RouteMatch>,
    /// Conditions, none of which may be met.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unless: Option<RouteMatch>,
    /// The action for a route that matches.
    pub action: Action,
    /// The changes of a route that matches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set: Option<Changes>,
}

/// Conditions on a route.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouteMatch {
    /// The prefix matches one of these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub prefixes: Option<Vec<PrefixMatch>>,
    /// The route has all of these communities: `64512:100` (RFC 1997), `64512:1:2` (RFC 8092), `rt:64512:100`, `soo:64512:100` or
    /// `0x` and 16 hexadecimal digits (RFC 4360), or one of no-export, no-advertise, no-export-subconfed, no-peer,
    /// blackhole, graceful-shutdown, accept-own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16), inner(length(min = 3, max = 40)))]
    #[x_kube(validation = Cel::new(rules::COMMUNITIES).message(rules::COMMUNITIES_MESSAGE))]
    pub communities: Option<Vec<String>>,
    /// The AS path matches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_path: Option<AsPathMatch>,
    /// The next hop is in one of these networks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), inner(length(max = 43)))]
    #[x_kube(validation = Cel::new(rules::CIDRS).message(rules::CIDR_MESSAGE))]
    pub next_hops: Option<Vec<String>>,
    /// The source of the route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
}

/// Prefixes within `cidr` with a length in a range.
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
    /// The shortest prefix length that matches; that of `cidr` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 128))]
    pub min_length: Option<u8>,
    /// The longest prefix length that matches; that of `cidr` by default, so that only `cidr` itself matches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 128))]
    pub max_length: Option<u8>,
}

/// Conditions on an AS path, all of which must be met.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct AsPathMatch {
    /// The path is empty (true) or not (false). Routes from our own AS have an empty path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub empty: Option<bool>,
    /// The path contains this AS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4_294_967_295u32))]
    pub contains: Option<u32>,
    /// The first AS of the path: that of the neighbor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4_294_967_295u32))]
    pub from: Option<u32>,
    /// The last AS of the path: the origin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4_294_967_295u32))]
    pub origin: Option<u32>,
    /// The largest length of the path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 65535))]
    pub at_most: Option<u16>,
}

/// The source of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[schemars(
    description = "Local: this node originates it. Internal: from a neighbor in our AS. External: from a \
                          neighbor in another AS."
)]
#[allow(missing_docs)]
pub enum Source {
    Local,
    Internal,
    External,
}

/// The action for a route that matches a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[schemars(
    description = "Accept: the route is accepted. Reject: the route is rejected. Continue: the next rules decide."
)]
#[allow(missing_docs)]
pub enum Action {
    Accept,
    Reject,
    Continue,
}

/// The action for routes that no rule accepts or rejects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[schemars(description = "Reject: the route is rejected. Accept: the route is accepted.")]
#[allow(missing_docs)]
pub enum Otherwise {
    #[default]
    Reject,
    Accept,
}

/// The changes of a route.
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
    /// Communities to remove, written as in `match`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 3, max = 40)))]
    #[x_kube(validation = Cel::new(rules::COMMUNITIES).message(rules::COMMUNITIES_MESSAGE))]
    pub remove_communities: Vec<String>,
    /// LOCAL_PREF. It is not sent to external peers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 4_294_967_295u32))]
    pub local_pref: Option<u32>,
    /// MULTI_EXIT_DISC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 4_294_967_295u32))]
    pub med: Option<u32>,
    /// Remove MULTI_EXIT_DISC.
    #[serde(rename = "removeMED", default)]
    pub remove_med: bool,
    /// The number of times that an AS number is prepended to the AS path, 1 to 32: on export ours, on import the peer's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 32))]
    pub prepend: Option<u8>,
    /// Set the next hop to our own address on the session; on export only.
    #[serde(default)]
    pub next_hop_self: bool,
}
