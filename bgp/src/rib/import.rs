//! What makes a received path unusable. Such a path is kept, out of the decision process, with its reason.

use std::net::IpAddr;

use super::table::PathAttributes;
use super::{Identity, Peer, PeerKind, long_lived};
use crate::policy::Policy;
use crate::wire::{Attributes, Family, NextHop, Prefix, Role, Segment};

use super::best::neighbor_as;
use super::export::GRACEFUL_SHUTDOWN;

/// Why a path must not be used. One octet; the words come from the path when somebody asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The leftmost AS of an external path is not the peer's (RFC 4271 §6.3).
    FirstAs,
    /// Our AS is in AS_PATH (RFC 4271 §9.1.2).
    AsLoop,
    /// ORIGINATOR_ID is our BGP Identifier (RFC 4456 §8).
    Originator,
    /// Our cluster is in CLUSTER_LIST (RFC 4456 §8).
    Cluster,
    /// OTC says that it must not come from here (RFC 9234 §5).
    Leak,
    /// The next hop is our own address (RFC 4271 §5.1.3).
    NextHopOurs,
    /// The next hop is no host's address (RFC 4271 §6.3), or of another family than the prefixes.
    NextHopUnusable,
    /// The import filter does not let the prefix pass.
    Filter,
}

/// Drops from an external peer's attributes what only has a meaning inside an AS: LOCAL_PREF (RFC 4271 §5.1.5),
/// ORIGINATOR_ID and CLUSTER_LIST (RFC 7606 §7.9, §7.10).
pub fn strip(attributes: &mut Attributes, kind: PeerKind) {
    if kind == PeerKind::External {
        attributes.local_pref = None;
        attributes.originator_id = None;
        attributes.cluster_list.clear();
    }
}

/// Marks what comes from above or from beside us, unless it is marked already: it may only go down (RFC 9234 §5, ingress
/// rule 3; `role` is ours). What is about to go away ranks last.
pub fn mark(attributes: &mut Attributes, peer_asn: u32, role: Option<Role>) {
    // RFC 8326 §4.1: from whom it comes does not matter; the one who leaves has the last word.
    if attributes.communities.contains(&GRACEFUL_SHUTDOWN) {
        attributes.local_pref = Some(0);
    }
    if matches!(role, Some(Role::Customer | Role::Peer | Role::RouteServerClient)) {
        attributes.only_to_customer.get_or_insert(peer_asn);
    }
}

/// Whether a path's mark shows that it was leaked to the peer (RFC 9234 §5, ingress rules 1 and 2).
fn leaked(peer: &Peer, attributes: &Attributes) -> bool {
    match (peer.role, attributes.only_to_customer) {
        (Some(Role::Provider | Role::RouteServer), Some(_)) => true,
        (Some(Role::Peer), Some(asn)) => asn != peer.asn,
        _ => false,
    }
}

/// What is wrong with a path whatever its prefix.
pub fn refuse_path(
    identity: &Identity,
    peer: &Peer,
    path: &PathAttributes,
    family: Family,
) -> Option<Refusal> {
    let attributes = &path.attributes;
    if peer.kind == PeerKind::External && neighbor_as(&attributes.as_path) != Some(peer.asn) {
        return Some(Refusal::FirstAs);
    }
    if in_as_path(attributes, identity.asn) || in_as_path(attributes, peer.local_asn) {
        return Some(Refusal::AsLoop);
    }
    if leaked(peer, attributes) {
        return Some(Refusal::Leak);
    }
    if attributes.originator_id == Some(identity.router_id) {
        return Some(Refusal::Originator);
    }
    if attributes.cluster_list.contains(&identity.cluster_id) {
        return Some(Refusal::Cluster);
    }
    match path.next_hop {
        Some(next_hop) if next_hop.address == peer.local_address => Some(Refusal::NextHopOurs),
        Some(next_hop) if usable(next_hop, family, peer.codec.extended_next_hop) => None,
        _ => Some(Refusal::NextHopUnusable),
    }
}

/// What is wrong with a path for this prefix. Filters come last: they may change, and a loop says more.
pub fn refuse(identity: &Identity, peer: &Peer, path: &PathAttributes, prefix: &Prefix) -> Option<Refusal> {
    refuse_path(identity, peer, path, prefix.family()).or_else(|| refuse_prefix(peer, prefix))
}

/// What is wrong with a prefix whatever its path.
pub fn refuse_prefix(peer: &Peer, prefix: &Prefix) -> Option<Refusal> {
    (!peer.import.accepts(prefix)).then_some(Refusal::Filter)
}

/// What rules make of a route as it was received: what is to be kept, and why it must not be used. What is rejected is
/// kept as it came, to be reported.
pub fn judge(
    policy: &Policy,
    peer: &Peer,
    path: &PathAttributes,
    prefix: &Prefix,
) -> Result<PathAttributes, Refusal> {
    let evaluation = policy.evaluate(&path.route(Some(peer.kind), prefix));
    if !evaluation.accepts() {
        return Err(Refusal::Filter);
    }
    let mut attributes = path.attributes.clone();
    let neighbor = neighbor_as(&attributes.as_path);
    let next_hop = path.next_hop.map(|mut next_hop| {
        evaluation.apply(&mut attributes, &mut next_hop, neighbor, None);
        next_hop
    });
    // RFC 9494 §4.3: what is long-lived stale stays so.
    if long_lived::is_stale(&path.attributes) {
        long_lived::attach(&mut attributes);
    }
    Ok(PathAttributes { attributes, next_hop })
}

fn in_as_path(attributes: &Attributes, asn: u32) -> bool {
    attributes.as_path.0.iter().any(|segment| match segment {
        Segment::Sequence(numbers) | Segment::Set(numbers) => numbers.contains(&asn),
    })
}

/// Whether it can be a host's address at all. Whether it is reachable is not for us to know: that is asked of the
/// kernel by whoever installs the route.
fn usable(next_hop: NextHop, family: Family, extended: bool) -> bool {
    match next_hop.address {
        IpAddr::V4(address) => {
            // 240.0.0.0/4 holds the broadcast address too.
            family == Family::Ipv4Unicast
                && !address.is_unspecified()
                && !address.is_multicast()
                && address.octets()[0] < 240
        }
        IpAddr::V6(address) => {
            // RFC 8950 §4
            (family == Family::Ipv6Unicast || extended)
                && !address.is_unspecified()
                && !address.is_multicast()
        }
    }
}
