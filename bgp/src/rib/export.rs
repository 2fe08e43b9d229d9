//! Export: the paths that may be advertised to a group of peers, and the attributes and next hop that they get.
//!
//! | learned from | to internal peers | to clients | to external peers |
//! |---|---|---|---|
//! | (originated) | yes | yes | yes |
//! | external | yes | yes | yes |
//! | client | yes, reflected | yes, reflected | yes |
//! | internal | no | yes, reflected | yes |
//!
//! A path is never advertised to the peer that it was learned from. External peers get the routes that the export filter
//! lists and no others (RFC 8212).
//!
//! A long-lived stale path is advertised to peers with the long-lived graceful restart capability, and inside the AS to
//! all peers: to those without the capability with the lowest LOCAL_PREF and NO_EXPORT (RFC 9494 §4.3, §4.6).
//!
//! The next hop follows the neighbor's [`NextHopMode`], whose documentation has the rules.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU8;

use super::best::local_pref;
use super::table::PathAttributes;
use super::{Identity, Peer, PeerKind, long_lived};
use crate::config::{Filter, NextHopMode};
use crate::wire::{Attributes, Codec, Family, FamilySet, NextHop, PathIds, Prefix, Role};

/// The community of a route whose advertiser is about to shut down (RFC 8326 §3).
pub(crate) const GRACEFUL_SHUTDOWN: u32 = 0xFFFF_0000;
/// The community of routes that are not advertised to external peers (RFC 1997).
const NO_EXPORT: u32 = 0xFFFF_FF01;
/// The community of routes that are not advertised at all (RFC 1997).
const NO_ADVERTISE: u32 = 0xFFFF_FF02;
/// The community of routes that are not advertised to external peers, members of a confederation included (RFC 1997).
const NO_EXPORT_SUBCONFED: u32 = 0xFFFF_FF03;

/// The properties that all peers of an update group share: everything that the content of an UPDATE depends on, except
/// split horizon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GroupKey {
    pub kind: PeerKind,
    /// Our address on the session, which "next hop self" sets.
    pub local_address: IpAddr,
    /// Our AS number on the sessions (RFC 7705 §3.3).
    pub local_asn: u32,
    /// Our role on the sessions (RFC 9234).
    pub role: Option<Role>,
    /// The negotiated encoding, reduced to the parts that this family uses.
    pub codec: Codec,
    /// The number of paths advertised for a prefix, where Path Identifiers are sent (RFC 7911).
    pub paths: Option<NonZeroU8>,
    /// The peers have the long-lived graceful restart capability.
    pub long_lived: bool,
    pub next_hop_mode: NextHopMode,
    /// The address of the group's only peer, if it is the next hop of a network of ours (RFC 4271 §5.1.3).
    pub next_hop_of_ours: Option<IpAddr>,
    pub filter: Filter,
}

impl GroupKey {
    /// Returns the key of the group that the peer belongs to for a family. `next_hops` are those of our networks.
    pub(crate) fn of(peer: &Peer, family: Family, next_hops: &BTreeMap<IpAddr, usize>) -> Self {
        let several = peer.codec.path_ids.send.contains(family);
        let send = FamilySet::from_iter(several.then_some(family));
        Self {
            kind: peer.kind,
            local_address: peer.local_address,
            local_asn: peer.local_asn,
            role: peer.role,
            codec: Codec { path_ids: PathIds { send, ..PathIds::NONE }, ..peer.codec },
            paths: several.then(|| peer.paths.unwrap_or(NonZeroU8::MIN)),
            long_lived: peer.long_lived,
            next_hop_mode: peer.next_hop_mode,
            next_hop_of_ours: next_hops.contains_key(&peer.address).then_some(peer.address),
            filter: peer.export.clone(),
        }
    }

    /// Returns our own address, if it can be a next hop for the family.
    fn next_hop_self(&self, family: Family) -> Option<NextHop> {
        let fits = match family {
            Family::Ipv4Unicast => self.local_address.is_ipv4() || self.codec.extended_next_hop,
            Family::Ipv6Unicast => self.local_address.is_ipv6(),
        };
        fits.then_some(NextHop { address: self.local_address, link_local: None })
    }
}

/// Returns whether a path may be advertised to the peers of a group. `from` is `None` for an originated path.
pub(crate) fn is_allowed(to: &GroupKey, from: Option<&Peer>, path: &PathAttributes, prefix: &Prefix) -> bool {
    use PeerKind::{Client, External, Internal};
    let communities = &path.attributes.communities;
    let confined = to.kind == External
        && (communities.contains(&NO_EXPORT) || communities.contains(&NO_EXPORT_SUBCONFED));
    // RFC 9494 §4.3
    let stale = to.kind == External && !to.long_lived && long_lived::is_stale(&path.attributes);
    let reflects = match (from.map(|peer| peer.kind), to.kind) {
        // RFC 4456 §6: a non-client's path goes to clients only.
        (Some(Internal), Internal) => false,
        (None | Some(Internal | Client | External), Internal | Client | External) => true,
    };
    // RFC 9234 §5, egress rule 2
    let upward = matches!(to.role, Some(Role::Customer | Role::Peer | Role::RouteServerClient));
    let leaks = upward && path.attributes.only_to_customer.is_some();
    reflects
        && !confined
        && !leaks
        && !stale
        && !communities.contains(&NO_ADVERTISE)
        && passes_filter(to, from, path, prefix)
}

/// Returns whether the export filter accepts a path.
fn passes_filter(to: &GroupKey, from: Option<&Peer>, path: &PathAttributes, prefix: &Prefix) -> bool {
    match &to.filter {
        Filter::Rules(policy) => policy.evaluate(&path.route(from.map(|from| from.kind), prefix)).accepts(),
        filter => filter.accepts(prefix),
    }
}

/// Returns the attributes and next hop to advertise; `None` if there is no next hop for the prefix's family.
pub(crate) fn outbound(
    identity: &Identity,
    to: &GroupKey,
    from: Option<&Peer>,
    path: &PathAttributes,
    prefix: &Prefix,
) -> Option<(Attributes, NextHop)> {
    let family = prefix.family();
    let mut next_hop = next_hop(to, from, path, family)?;
    let mut attributes = path.attributes.clone();
    match to.kind {
        PeerKind::External => {
            leave_as(&mut attributes, to.local_asn);
            // RFC 9234 §5, egress rule 1
            if matches!(to.role, Some(Role::Provider | Role::Peer | Role::RouteServer)) {
                attributes.only_to_customer.get_or_insert(to.local_asn);
            }
        }
        PeerKind::Internal | PeerKind::Client => {
            // RFC 4271 §5.1.5: LOCAL_PREF is mandatory inside the AS.
            attributes.local_pref = Some(local_pref(&attributes));
            if let Some(from) = from.filter(|from| from.kind != PeerKind::External) {
                reflect(&mut attributes, from.router_id, identity.cluster_id);
            }
        }
    }
    if let Filter::Rules(policy) = &to.filter {
        let ours = to.next_hop_self(family);
        let evaluation = policy.evaluate(&path.route(from.map(|from| from.kind), prefix));
        evaluation.apply(&mut attributes, &mut next_hop, Some(to.local_asn), ours);
        // RFC 9494 §4.3: a policy must not remove LLGR_STALE.
        if long_lived::is_stale(&path.attributes) {
            long_lived::attach(&mut attributes);
        }
        if to.kind == PeerKind::External {
            attributes.local_pref = None;
        }
    }
    if to.kind != PeerKind::External && !to.long_lived && long_lived::is_stale(&attributes) {
        depreference(&mut attributes);
    }
    // The traffic of a reflected route does not pass through this node, so our shutdown does not concern it.
    let through_us = to.kind == PeerKind::External || from.is_none_or(|from| from.kind == PeerKind::External);
    if identity.graceful_shutdown && through_us {
        mark_shutdown(&mut attributes, to.kind);
    }
    Some((attributes, next_hop))
}

/// Returns the next hop to advertise, by the rules of [`NextHopMode`].
fn next_hop(to: &GroupKey, from: Option<&Peer>, path: &PathAttributes, family: Family) -> Option<NextHop> {
    let ours = to.next_hop_self(family);
    let from = from.map(|from| from.kind);
    // A link-local next hop is for peers on the same link (RFC 2545 §3), which cannot be determined here: it is left out,
    // and a learned path that has no other is advertised with our own address, if at all.
    let beyond_link = |next_hop: &NextHop| from.is_none() || !is_link_local(next_hop.address);
    let theirs = path.next_hop.filter(beyond_link).map(|next_hop| NextHop { link_local: None, ..next_hop });
    let reflected = to.kind != PeerKind::External && from.is_some_and(|from| from != PeerKind::External);
    let next_hop = match to.next_hop_mode {
        // RFC 4456 §10
        _ if reflected => theirs.or(ours),
        NextHopMode::OwnAddress => ours,
        NextHopMode::Unchanged => theirs.or(ours),
        NextHopMode::Automatic => match (from, to.kind) {
            (None, _) => theirs.or(ours),
            (Some(_), PeerKind::External) => ours,
            (Some(_), PeerKind::Internal | PeerKind::Client) => ours.or(theirs),
        },
    };
    // RFC 8950 §4: an IPv6 next hop for an IPv4 prefix requires the peer's capability.
    let is_encodable = |next_hop: &NextHop| {
        family == Family::Ipv6Unicast || next_hop.address.is_ipv4() || to.codec.extended_next_hop
    };
    next_hop.filter(is_encodable)
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

/// Gives a long-lived stale route the lowest preference, for peers inside the AS without the capability
/// (RFC 9494 §4.6).
fn depreference(attributes: &mut Attributes) {
    long_lived::add(attributes, NO_EXPORT);
    attributes.local_pref = Some(0);
}

/// Adds GRACEFUL_SHUTDOWN, and the lowest LOCAL_PREF inside the AS for peers that ignore the community
/// (RFC 8326 §4.1, §4.3).
fn mark_shutdown(attributes: &mut Attributes, kind: PeerKind) {
    long_lived::add(attributes, GRACEFUL_SHUTDOWN);
    if kind != PeerKind::External {
        attributes.local_pref = Some(0);
    }
}

/// Adds the attributes of a reflected path (RFC 4456 §8).
fn reflect(attributes: &mut Attributes, from: Ipv4Addr, cluster_id: Ipv4Addr) {
    attributes.originator_id.get_or_insert(from);
    attributes.cluster_list.insert(0, cluster_id);
}

/// Removes the attributes that stay inside the AS, and prepends our AS number.
fn leave_as(attributes: &mut Attributes, asn: u32) {
    // RFC 4271 §5.1.4: a MED received from one neighboring AS is not advertised to another. One set in our own AS is.
    if !attributes.as_path.0.is_empty() {
        attributes.med = None;
    }
    // RFC 4271 §5.1.5, RFC 4456 §8
    attributes.local_pref = None;
    attributes.originator_id = None;
    attributes.cluster_list.clear();
    // RFC 4360 §6
    attributes.extended_communities.retain(|community| community.is_transitive());
    attributes.as_path.prepend(asn);
}
