//! Import: the checks of a received path. A path that fails one stays in the Adj-RIB-In with its reason, and takes no
//! part in the decision process.

use super::best::neighbor_as;
use super::export::GRACEFUL_SHUTDOWN;
use super::reason::RejectReason;
use super::table::PathAttributes;
use super::{Identity, Peer, PeerKind, long_lived};
use crate::policy::Policy;
use crate::wire::{Attributes, Family, NextHop, Prefix, Role, Segment, is_host};

/// Removes from an external peer's attributes those that are for use inside an AS only: LOCAL_PREF
/// (RFC 4271 §5.1.5), ORIGINATOR_ID and CLUSTER_LIST (RFC 7606 §7.9, §7.10).
pub(crate) fn strip(attributes: &mut Attributes, kind: PeerKind) {
    if kind == PeerKind::External {
        attributes.local_pref = None;
        attributes.originator_id = None;
        attributes.cluster_list.clear();
    }
}

/// Sets ONLY_TO_CUSTOMER on a path from a provider, a route server or a lateral peer, unless it has one (RFC 9234 §5,
/// ingress rule 3; `role` is ours), and the lowest LOCAL_PREF on a path with GRACEFUL_SHUTDOWN.
pub(crate) fn mark(attributes: &mut Attributes, peer_asn: u32, role: Option<Role>) {
    // RFC 8326 §4.1: on paths from any peer, and over any other preference.
    if attributes.communities.contains(&GRACEFUL_SHUTDOWN) {
        attributes.local_pref = Some(0);
    }
    if matches!(role, Some(Role::Customer | Role::Peer | Role::RouteServerClient)) {
        attributes.only_to_customer.get_or_insert(peer_asn);
    }
}

/// Returns whether ONLY_TO_CUSTOMER shows a path to be a route leak (RFC 9234 §5, ingress rules 1 and 2).
fn leaked(peer: &Peer, attributes: &Attributes) -> bool {
    match (peer.role, attributes.only_to_customer) {
        (Some(Role::Provider | Role::RouteServer), Some(_)) => true,
        (Some(Role::Peer), Some(asn)) => asn != peer.asn,
        _ => false,
    }
}

/// Checks what does not depend on the prefix; returns why the path is rejected, if it is.
pub(crate) fn check_path(
    identity: &Identity,
    peer: &Peer,
    path: &PathAttributes,
    family: Family,
) -> Option<RejectReason> {
    let attributes = &path.attributes;
    if peer.kind == PeerKind::External && neighbor_as(&attributes.as_path) != Some(peer.asn) {
        return Some(RejectReason::FirstAs);
    }
    if in_as_path(attributes, identity.asn) || in_as_path(attributes, peer.local_asn) {
        return Some(RejectReason::AsLoop);
    }
    if leaked(peer, attributes) {
        return Some(RejectReason::RouteLeak);
    }
    if attributes.originator_id == Some(identity.router_id) {
        return Some(RejectReason::OriginatorLoop);
    }
    if attributes.cluster_list.contains(&identity.cluster_id) {
        return Some(RejectReason::ClusterLoop);
    }
    match path.next_hop {
        Some(next_hop) if next_hop.address.to_canonical() == peer.local_address => {
            Some(RejectReason::NextHopOurs)
        }
        Some(next_hop) if is_usable(peer, next_hop, family) => None,
        _ => Some(RejectReason::NextHopInvalid),
    }
}

/// Checks a path for this prefix; returns why it is rejected, if it is. The filter is checked last, because it may
/// change and a loop is the stronger reason.
pub(crate) fn check(
    identity: &Identity,
    peer: &Peer,
    path: &PathAttributes,
    prefix: &Prefix,
) -> Option<RejectReason> {
    check_path(identity, peer, path, prefix.family()).or_else(|| check_prefix(peer, prefix))
}

/// Checks that the prefix is unicast, and accepted by the import filter if that is a list of prefixes.
pub(crate) fn check_prefix(peer: &Peer, prefix: &Prefix) -> Option<RejectReason> {
    // RFC 4271 §6.3: the prefix is ignored, and the session stays.
    if !prefix.is_unicast() {
        return Some(RejectReason::PrefixNotUnicast);
    }
    (!peer.import.accepts(prefix)).then_some(RejectReason::Filter)
}

/// Applies the import policy to a route as it was received; returns the attributes to keep. A rejected route is kept
/// as it was received.
pub(crate) fn apply_policy(
    policy: &Policy,
    peer: &Peer,
    path: &PathAttributes,
    prefix: &Prefix,
) -> Result<PathAttributes, RejectReason> {
    let evaluation = policy.evaluate(&path.route(Some(peer.kind), prefix));
    if !evaluation.accepts() {
        return Err(RejectReason::Filter);
    }
    let mut attributes = path.attributes.clone();
    let neighbor = neighbor_as(&attributes.as_path);
    let next_hop = path.next_hop.map(|mut next_hop| {
        evaluation.apply(&mut attributes, &mut next_hop, neighbor, None);
        next_hop
    });
    // RFC 9494 §4.3: a policy must not remove LLGR_STALE.
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

/// Returns whether the next hop can be the address of a host, and is of a family that the session allows for the
/// prefixes. Reachability is not checked here: the program that installs the route finds it out from the kernel.
fn is_usable(peer: &Peer, next_hop: NextHop, family: Family) -> bool {
    let address = next_hop.address;
    // RFC 8950 §4
    let fits = address.is_ipv6() || family == Family::Ipv4Unicast;
    let allowed = address.is_ipv4() || family == Family::Ipv6Unicast || peer.codec.extended_next_hop;
    // Speakers that peer over the loopback run on one host, where these addresses are as good as any.
    let on_one_host = peer.local_address.is_loopback() && address.to_canonical().is_loopback();
    fits && allowed && (is_host(address) || on_one_host)
}
