//! What a peer is told about a path, and what it is not.
//!
//! | learned from | told to internal | to client | to external |
//! |---|---|---|---|
//! | ourselves | yes | yes | yes |
//! | external | yes | yes | yes |
//! | client | yes, reflected | yes, reflected | yes |
//! | internal | no | yes, reflected | yes |
//!
//! Never to the one it came from. External peers get what their filter lists and nothing else (RFC 8212).
//!
//! What is long-lived stale is told to those who know what that means, and within the AS to all: to those who don't know,
//! with the least LOCAL_PREF and NO_EXPORT (RFC 9494 §4.3 and §4.6).
//!
//! # Next hops
//! Reflected paths keep theirs (RFC 4456 §10). Towards external peers it is our own address. Paths learned from
//! external peers also get our own address when they are told inside the AS, where RFC 4271 §5.1.3 would leave them:
//! nodes share no IGP that carries the top-of-rack's link, so only the node on that link can be sure to reach it.

use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU8;

use super::best::local_pref;
use super::table::PathAttributes;
use super::{Identity, Peer, PeerKind, long_lived};
use crate::config::Filter;
use crate::wire::{Attributes, Codec, Family, FamilySet, NextHop, PathIds, Prefix, Role};

/// RFC 8326 §3: about to go away.
pub const GRACEFUL_SHUTDOWN: u32 = 0xFFFF_0000;
/// RFC 1997: not to external peers.
const NO_EXPORT: u32 = 0xFFFF_FF01;
/// RFC 1997: to nobody.
const NO_ADVERTISE: u32 = 0xFFFF_FF02;
/// RFC 1997: not to external peers, those within a confederation included.
const NO_EXPORT_SUBCONFED: u32 = 0xFFFF_FF03;

/// What all members of an update group have in common: all that the words of an UPDATE depend on, but for split
/// horizon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audience {
    pub kind: PeerKind,
    /// Our address on the session: what "next hop self" means.
    pub local_address: IpAddr,
    /// Our AS number to them (RFC 7705 §3.3).
    pub local_asn: u32,
    /// What we are to them (RFC 9234).
    pub role: Option<Role>,
    /// As far as it matters to what they are told of that family.
    pub codec: Codec,
    /// How many paths to a prefix they are told, where with Path Identifiers (RFC 7911).
    pub paths: Option<NonZeroU8>,
    /// They know what LLGR_STALE means.
    pub long_lived: bool,
    pub filter: Filter,
}

impl Audience {
    pub fn of(peer: &Peer, family: Family) -> Self {
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
            filter: peer.export.clone(),
        }
    }

    /// Our own address, where it can be a next hop of that family.
    fn next_hop_self(&self, family: Family) -> Option<NextHop> {
        let fits = match family {
            Family::Ipv4Unicast => self.local_address.is_ipv4() || self.codec.extended_next_hop,
            Family::Ipv6Unicast => self.local_address.is_ipv6(),
        };
        fits.then_some(NextHop { address: self.local_address, link_local: None })
    }
}

/// Whether those peers may be told of a path at all. `from` is `None` for what we originate.
pub fn allowed(audience: &Audience, from: Option<&Peer>, path: &PathAttributes, prefix: &Prefix) -> bool {
    use PeerKind::{Client, External, Internal};
    let communities = &path.attributes.communities;
    let confined = audience.kind == External
        && (communities.contains(&NO_EXPORT) || communities.contains(&NO_EXPORT_SUBCONFED));
    // RFC 9494 §4.3
    let too_old = audience.kind == External && !audience.long_lived && long_lived::is_stale(&path.attributes);
    let reflects = match (from.map(|peer| peer.kind), audience.kind) {
        // RFC 4456 §6: a non-client's path goes to clients only.
        (Some(Internal), Internal) => false,
        (None | Some(Internal | Client | External), Internal | Client | External) => true,
    };
    // RFC 9234 §5, egress rule 2
    let upward = matches!(audience.role, Some(Role::Customer | Role::Peer | Role::RouteServerClient));
    let leaks = upward && path.attributes.only_to_customer.is_some();
    reflects
        && !confined
        && !leaks
        && !too_old
        && !communities.contains(&NO_ADVERTISE)
        && passes(audience, from, path, prefix)
}

/// Whether the export filter lets a path pass.
fn passes(audience: &Audience, from: Option<&Peer>, path: &PathAttributes, prefix: &Prefix) -> bool {
    match &audience.filter {
        Filter::Rules(policy) => policy.evaluate(&path.route(from.map(|from| from.kind), prefix)).accepts(),
        filter => filter.accepts(prefix),
    }
}

/// The attributes and next hop those peers are told; `None` where there is no next hop to tell.
pub fn outbound(
    identity: &Identity,
    audience: &Audience,
    from: Option<&Peer>,
    path: &PathAttributes,
    prefix: &Prefix,
) -> Option<(Attributes, NextHop)> {
    let family = prefix.family();
    let mut next_hop = next_hop(audience, from, path, family)?;
    let mut attributes = path.attributes.clone();
    match audience.kind {
        PeerKind::External => {
            leave(&mut attributes, audience.local_asn);
            // RFC 9234 §5, egress rule 1
            if matches!(audience.role, Some(Role::Provider | Role::Peer | Role::RouteServer)) {
                attributes.only_to_customer.get_or_insert(audience.local_asn);
            }
        }
        PeerKind::Internal | PeerKind::Client => {
            // RFC 4271 §5.1.5: always there inside the AS.
            attributes.local_pref = Some(local_pref(&attributes));
            if let Some(from) = from.filter(|from| from.kind != PeerKind::External) {
                reflect(&mut attributes, from.router_id, identity.cluster_id);
            }
        }
    }
    if let Filter::Rules(policy) = &audience.filter {
        let ours = audience.next_hop_self(family);
        let evaluation = policy.evaluate(&path.route(from.map(|from| from.kind), prefix));
        evaluation.apply(&mut attributes, &mut next_hop, Some(audience.local_asn), ours);
        // RFC 9494 §4.3: not even a policy may take it away.
        if long_lived::is_stale(&path.attributes) {
            long_lived::attach(&mut attributes);
        }
        if audience.kind == PeerKind::External {
            attributes.local_pref = None;
        }
    }
    if audience.kind != PeerKind::External && !audience.long_lived && long_lived::is_stale(&attributes) {
        last_resort(&mut attributes);
    }
    // What we merely reflect does not go through us, and stays when we leave.
    let through_us =
        audience.kind == PeerKind::External || from.is_none_or(|from| from.kind == PeerKind::External);
    if identity.graceful_shutdown && through_us {
        leaving(&mut attributes, audience.kind);
    }
    Some((attributes, next_hop))
}

fn next_hop(
    audience: &Audience,
    from: Option<&Peer>,
    path: &PathAttributes,
    family: Family,
) -> Option<NextHop> {
    let ours = audience.next_hop_self(family);
    // A link-local next hop is for those on that link (RFC 2545 §3), and we cannot tell who is: it is left out.
    let theirs = path.next_hop.map(|next_hop| NextHop { link_local: None, ..next_hop });
    let next_hop = match (from.map(|from| from.kind), audience.kind) {
        // What we originate has the next hop that it was configured with.
        (None, _) => theirs.or(ours),
        (Some(_), PeerKind::External) => ours,
        (Some(PeerKind::External), _) => ours.or(theirs),
        (Some(PeerKind::Internal | PeerKind::Client), _) => theirs,
    };
    // RFC 8950 §4: an IPv6 next hop of an IPv4 prefix is for those who said that they understand it.
    let understood = |next_hop: &NextHop| {
        family == Family::Ipv6Unicast || next_hop.address.is_ipv4() || audience.codec.extended_next_hop
    };
    next_hop.filter(understood)
}

/// RFC 9494 §4.6: long-lived stale, for those inside the AS who don't know what that means.
fn last_resort(attributes: &mut Attributes) {
    long_lived::add(attributes, NO_EXPORT);
    attributes.local_pref = Some(0);
}

/// RFC 8326 §4.1 and §4.3: inside the AS LOCAL_PREF says it even to those who do not look at communities.
fn leaving(attributes: &mut Attributes, kind: PeerKind) {
    long_lived::add(attributes, GRACEFUL_SHUTDOWN);
    if kind != PeerKind::External {
        attributes.local_pref = Some(0);
    }
}

/// RFC 4456 §8.
fn reflect(attributes: &mut Attributes, from: Ipv4Addr, cluster_id: Ipv4Addr) {
    attributes.originator_id.get_or_insert(from);
    attributes.cluster_list.insert(0, cluster_id);
}

/// What a path loses and gains when it leaves the AS.
fn leave(attributes: &mut Attributes, asn: u32) {
    // RFC 4271 §5.1.4: a MED from one neighbouring AS is not told to another. One set in our own AS is.
    if !attributes.as_path.0.is_empty() {
        attributes.med = None;
    }
    // RFC 4271 §5.1.5, RFC 4456 §8: these do not leave the AS.
    attributes.local_pref = None;
    attributes.originator_id = None;
    attributes.cluster_list.clear();
    // RFC 4360 §6
    attributes.extended_communities.retain(|community| community.is_transitive());
    attributes.as_path.prepend(asn);
}
