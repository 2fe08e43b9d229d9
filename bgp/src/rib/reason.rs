//! Reasons: why a path is the best, is not the best, is rejected, or is not advertised. As values; a sentence is made of
//! them only by `Display`.

use std::fmt::{self, Display, Formatter};
use std::net::{IpAddr, Ipv4Addr};

use super::best::{Candidate, Step};
use super::table::Source;
use crate::wire::{Origin, Prefix};

/// The reason for the place of a path among the paths to its prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PathReason {
    /// The best path, because no other path is eligible.
    OnlyEligible {
        /// The path is originated by this speaker.
        originated: bool,
        /// The path is long-lived stale: kept as a last resort (RFC 9494).
        long_lived_stale: bool,
    },
    /// The best path, compared with the second best.
    Best(Comparison),
    /// Eligible, and compared with a better path.
    NotBest(Comparison),
    /// Not eligible.
    Rejected(Rejection),
}

impl PathReason {
    /// Returns the decision step that separated the path from the other one, if there was another.
    pub fn step(&self) -> Option<Step> {
        match self {
            Self::Best(comparison) | Self::NotBest(comparison) => Some(comparison.step()),
            Self::OnlyEligible { .. } | Self::Rejected(_) => None,
        }
    }

    /// Returns the rejection of a path that is not eligible.
    pub fn rejection(&self) -> Option<&Rejection> {
        match self {
            Self::Rejected(rejection) => Some(rejection),
            Self::OnlyEligible { .. } | Self::Best(_) | Self::NotBest(_) => None,
        }
    }
}

impl Display for PathReason {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::OnlyEligible { originated: true, .. } => f.write_str("best: we originate it"),
            Self::OnlyEligible { long_lived_stale: true, .. } => {
                f.write_str("best: the only eligible path; long-lived stale, kept as a last resort")
            }
            Self::OnlyEligible { .. } => f.write_str("best: the only eligible path"),
            Self::Best(comparison) => write!(f, "best: {comparison}"),
            Self::NotBest(comparison) => comparison.fmt(f),
            Self::Rejected(rejection) => rejection.fmt(f),
        }
    }
}

/// The comparison of a path with another path to the same prefix (RFC 4271 §9.1.2.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comparison {
    step: Step,
    /// The path and the other one. Boxed, as most paths have nothing to be compared with.
    candidates: Box<[Candidate; 2]>,
}

impl Comparison {
    pub(super) fn new(this: &Candidate, other: &Candidate) -> Self {
        let (_, step) = this.compare(other);
        // The numbers of sources mean nothing outside of the tables.
        let candidates = [this, other].map(|candidate| Candidate { source: Source::LOCAL, ..*candidate });
        Self { step, candidates: Box::new(candidates) }
    }

    /// Returns the decision step that separated the two paths.
    pub fn step(&self) -> Step {
        self.step
    }

    /// Returns the address of the peer that the other path was learned from; `None` if it is originated.
    pub fn other_peer(&self) -> Option<IpAddr> {
        self.candidates[1].peer_address
    }
}

impl Display for Comparison {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let [this, other] = &*self.candidates;
        let via = other.peer_address.map_or("our own".into(), |address| format!("via {address}"));
        match self.step {
            Step::Originated if this.peer_address.is_none() => {
                write!(f, "we originate it, before the path {via}")
            }
            Step::Originated => write!(f, "we originate the prefix ourselves"),
            Step::LongLivedStale if this.long_lived_stale => {
                write!(f, "long-lived stale, unlike the path {via}")
            }
            Step::LongLivedStale => write!(f, "not long-lived stale, unlike the path {via}"),
            Step::LocalPref => ranked(f, "LOCAL_PREF", this.local_pref, other.local_pref, &via),
            Step::AsPathLength => {
                ranked(f, "AS path length", this.as_path_length, other.as_path_length, &via)
            }
            Step::Origin => {
                let rank = if this.origin < other.origin { "better" } else { "worse" };
                write!(f, "{rank} ORIGIN {} than {} {via}", origin(this.origin), origin(other.origin))
            }
            Step::Med => {
                ranked(f, "MED", this.med, other.med, &via)?;
                match this.neighbor_as {
                    Some(asn) => write!(f, ", both from AS {asn}"),
                    None => write!(f, ", both from our own AS"),
                }
            }
            Step::External if this.external => write!(f, "learned by eBGP, by iBGP {via}"),
            Step::External => write!(f, "learned by iBGP, by eBGP {via}"),
            Step::RouterId => ranked(f, "router id", this.identifier, other.identifier, &via),
            Step::ClusterListLength => {
                let (this, other) = (this.cluster_list_length, other.cluster_list_length);
                ranked(f, "CLUSTER_LIST length", this, other, &via)
            }
            Step::PeerAddress => match this.peer_address {
                Some(address) if this.peer_address < other.peer_address => {
                    write!(f, "lower peer address {address}, before {via}")
                }
                Some(address) => write!(f, "higher peer address {address} than {via}"),
                None => Ok(()),
            },
            Step::PathId => {
                let rank = if this.path_id < other.path_id { "lower" } else { "higher" };
                write!(f, "{rank} path id {} than {} {via}", path_id(this.path_id), path_id(other.path_id))
            }
        }
    }
}

fn ranked<T: Ord + Display>(f: &mut Formatter<'_>, what: &str, this: T, other: T, via: &str) -> fmt::Result {
    if this < other {
        write!(f, "lower {what} {this} < {other} than {via}")
    } else {
        write!(f, "higher {what} {this} > {other} than {via}")
    }
}

fn path_id(path_id: Option<u32>) -> String {
    path_id.map_or("none".into(), |path_id| path_id.to_string())
}

fn origin(origin: Origin) -> &'static str {
    match origin {
        Origin::Igp => "IGP",
        Origin::Egp => "EGP",
        Origin::Incomplete => "incomplete",
    }
}

/// The check that a rejected path failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RejectReason {
    /// The leftmost AS of an external path is not the peer's (RFC 4271 §6.3).
    FirstAs,
    /// AS_PATH contains our AS (RFC 4271 §9.1.2).
    AsLoop,
    /// ORIGINATOR_ID is our BGP Identifier (RFC 4456 §8).
    OriginatorLoop,
    /// CLUSTER_LIST contains our cluster (RFC 4456 §8).
    ClusterLoop,
    /// ONLY_TO_CUSTOMER does not allow the path on this session (RFC 9234 §5).
    RouteLeak,
    /// The next hop is our own address on the session (RFC 4271 §5.1.3, §6.3).
    NextHopOurs,
    /// The next hop is not the unicast address of a host (RFC 4271 §6.3), or not of the prefix's family.
    NextHopInvalid,
    /// The prefix is not a unicast prefix (RFC 4271 §6.3).
    PrefixNotUnicast,
    /// The import filter does not accept the route.
    Filter,
}

/// The rejection of a path: the check that it failed, with the values that were compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    pub(super) reason: RejectReason,
    pub(super) facts: Box<Facts>,
}

/// The values that the checks of a path compare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    pub prefix: Prefix,
    pub asn: u32,
    pub router_id: Ipv4Addr,
    pub cluster_id: Ipv4Addr,
    pub peer_asn: u32,
    pub first_as: Option<u32>,
    pub only_to_customer: Option<u32>,
    pub next_hop: Option<IpAddr>,
    /// `None` where the import filter is not made of rules.
    pub policy: Option<PolicyRejection>,
}

/// The part of an import policy that rejects a route.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PolicyRejection {
    /// The rule with this name, which may be empty.
    Rule(String),
    /// The end of the policy, since no rule accepted the route.
    NoRule,
}

impl Rejection {
    /// Returns the check that the path failed.
    pub fn reason(&self) -> RejectReason {
        self.reason
    }

    /// Returns the part of the import policy that rejected the route; `None` if another check did, or a filter that is
    /// not made of rules.
    pub fn policy(&self) -> Option<&PolicyRejection> {
        self.facts.policy.as_ref().filter(|_| self.reason == RejectReason::Filter)
    }
}

impl Display for Rejection {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Facts { prefix, asn, router_id, cluster_id, peer_asn, .. } = &*self.facts;
        let next_hop = self.facts.next_hop.map_or("none".into(), |next_hop| next_hop.to_string());
        match self.reason {
            RejectReason::FirstAs => match self.facts.first_as {
                Some(first) => {
                    write!(f, "AS_PATH begins with AS {first}, not with the peer's AS {peer_asn}")
                }
                None => write!(f, "AS_PATH does not begin with the peer's AS {peer_asn}"),
            },
            RejectReason::AsLoop => write!(f, "AS loop: our AS {asn} in AS_PATH"),
            RejectReason::RouteLeak => {
                let by = self.facts.only_to_customer.unwrap_or_default();
                write!(
                    f,
                    "route leak: marked by AS {by} as only for customers, AS {peer_asn} must not send it here"
                )
            }
            RejectReason::OriginatorLoop => {
                write!(f, "reflection loop: ORIGINATOR_ID {router_id} is our router id")
            }
            RejectReason::ClusterLoop => {
                write!(f, "reflection loop: our cluster id {cluster_id} in CLUSTER_LIST")
            }
            RejectReason::NextHopOurs => write!(f, "next hop {next_hop} is our own address"),
            RejectReason::NextHopInvalid => {
                write!(f, "next hop {next_hop} is not a host's address, or not of the family of {prefix}")
            }
            RejectReason::PrefixNotUnicast => write!(f, "{prefix} is not a unicast prefix"),
            RejectReason::Filter => match &self.facts.policy {
                None => f.write_str("import filter"),
                Some(PolicyRejection::Rule(name)) if name.is_empty() => {
                    f.write_str("import policy: a rule rejects it")
                }
                Some(PolicyRejection::Rule(name)) => write!(f, "import policy: rule {name} rejects it"),
                Some(PolicyRejection::NoRule) => f.write_str("import policy: no rule accepts it"),
            },
        }
    }
}

/// The reason why a selected path is not advertised to a peer that should get it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WithheldReason {
    /// It does not fit into one message (RFC 4271 §9.2).
    TooLarge {
        /// The size of the message in octets.
        needed: usize,
        /// The largest message that the peer takes.
        max: usize,
    },
    /// Neither the path nor the session has a next hop of the prefix's family.
    NoNextHop {
        /// Our address on the session.
        local_address: IpAddr,
    },
    /// We originate it with a next hop that is the address of the peer (RFC 4271 §5.1.3).
    NextHopTheirs,
}

impl Display for WithheldReason {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge { needed, max } => write!(
                f,
                "too large: the message would take {needed} octets and the peer takes {max}; shorten its AS_PATH or \
                 drop communities where they are added"
            ),
            Self::NoNextHop { local_address } => write!(
                f,
                "no next hop of the prefix's family: our address on the session is {local_address}; configure a next \
                 hop for the network, or peer over an address of that family"
            ),
            Self::NextHopTheirs => f.write_str(
                "its next hop is the peer's own address (RFC 4271 §5.1.3); configure another next hop for the network if \
                 the peer is to have the route",
            ),
        }
    }
}
