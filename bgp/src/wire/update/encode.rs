//! Encoding of UPDATEs: attribute blocks that can be shared, and messages with as many prefixes as fit.

use std::iter::Peekable;
use std::net::{IpAddr, Ipv4Addr};

use bytes::{BufMut, Bytes, BytesMut};

use super::super::codec::{framed, set_u16};
use super::super::reader::Reader;
use super::super::{
    Aggregator, Attributes, Codec, Family, HEADER, LargeCommunity, MessageType, NextHop, Nlri, Prefix,
    Unknown, Update,
};
use super::rules::{self, EXTENDED_LENGTH, OPTIONAL, PARTIAL, TRANSITIVE};
use super::{as_path, nlri};

/// A route that does not fit into one message: its attributes leave no room for its prefix. It is withheld from the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the route to {prefix} needs a message of {needed} octets, {max} are allowed: it is withheld from this peer"
)]
pub struct TooLarge {
    /// The prefix, which is still the next one of the iterator.
    pub prefix: Prefix,
    /// The size of a message with this prefix alone, in octets.
    pub needed: usize,
    /// The permitted size, in octets.
    pub max: usize,
}

/// The size of the two length fields of an UPDATE.
const LENGTHS: usize = 4;

/// Encodes all attributes except NEXT_HOP and MP_REACH_NLRI, ordered by type code, as one block that all messages and
/// peers with this `codec` share.
pub fn encode_attributes(attributes: &Attributes, codec: &Codec) -> Bytes {
    let mut out = BytesMut::with_capacity(64);
    let wide = codec.four_octet_as;
    let path = &attributes.as_path;
    put_header(TRANSITIVE, rules::ORIGIN, 1, &mut out);
    out.put_u8(attributes.origin as u8);
    put_header(TRANSITIVE, rules::AS_PATH, as_path::size(path, wide), &mut out);
    as_path::encode(path, wide, &mut out);
    if let Some(med) = attributes.med {
        put_header(OPTIONAL, rules::MED, 4, &mut out);
        out.put_u32(med);
    }
    if let Some(local_pref) = attributes.local_pref {
        put_header(TRANSITIVE, rules::LOCAL_PREF, 4, &mut out);
        out.put_u32(local_pref);
    }
    if attributes.atomic_aggregate {
        put_header(TRANSITIVE, rules::ATOMIC_AGGREGATE, 0, &mut out);
    }
    if let Some(aggregator) = &attributes.aggregator {
        put_aggregator(rules::AGGREGATOR, aggregator, wide, &mut out);
    }
    if !attributes.communities.is_empty() {
        let size = 4 * attributes.communities.len();
        put_header(OPTIONAL | TRANSITIVE, rules::COMMUNITIES, size, &mut out);
        attributes.communities.iter().for_each(|community| out.put_u32(*community));
    }
    if let Some(id) = attributes.originator_id {
        put_header(OPTIONAL, rules::ORIGINATOR_ID, 4, &mut out);
        out.put_u32(id.to_bits());
    }
    if !attributes.cluster_list.is_empty() {
        put_header(OPTIONAL, rules::CLUSTER_LIST, 4 * attributes.cluster_list.len(), &mut out);
        attributes.cluster_list.iter().for_each(|id| out.put_u32(id.to_bits()));
    }
    let mut unknown = attributes.unknown.iter().peekable();
    let mut put_unknown_below = |code, out: &mut BytesMut| {
        while let Some(unknown) = unknown.next_if(|unknown| unknown.code < code) {
            put_unknown(unknown, out);
        }
    };
    put_unknown_below(rules::EXTENDED_COMMUNITIES, &mut out);
    if !attributes.extended_communities.is_empty() {
        let size = 8 * attributes.extended_communities.len();
        put_header(OPTIONAL | TRANSITIVE, rules::EXTENDED_COMMUNITIES, size, &mut out);
        attributes.extended_communities.iter().for_each(|community| out.put_slice(&community.0));
    }
    put_unknown_below(rules::AS4_PATH, &mut out);
    if !wide {
        put_as4(attributes, &mut out);
    }
    put_unknown_below(rules::LARGE_COMMUNITIES, &mut out);
    if !attributes.large_communities.is_empty() {
        let size = 12 * attributes.large_communities.len();
        put_header(OPTIONAL | TRANSITIVE, rules::LARGE_COMMUNITIES, size, &mut out);
        for LargeCommunity { global, local1, local2 } in &attributes.large_communities {
            [global, local1, local2].into_iter().for_each(|part| out.put_u32(*part));
        }
    }
    put_unknown_below(rules::ONLY_TO_CUSTOMER, &mut out);
    if let Some(asn) = attributes.only_to_customer {
        put_header(OPTIONAL | TRANSITIVE, rules::ONLY_TO_CUSTOMER, 4, &mut out);
        out.put_u32(asn);
    }
    unknown.for_each(|unknown| put_unknown(unknown, &mut out));
    out.freeze()
}

/// Appends AS4_PATH and AS4_AGGREGATOR, if AS_TRANS had to replace AS numbers (RFC 6793 §4.2.2).
fn put_as4(attributes: &Attributes, out: &mut BytesMut) {
    let path = &attributes.as_path;
    if as_path::is_wide(path) {
        put_header(OPTIONAL | TRANSITIVE, rules::AS4_PATH, as_path::size(path, true), out);
        as_path::encode(path, true, out);
    }
    if let Some(aggregator) =
        attributes.aggregator.filter(|aggregator| u16::try_from(aggregator.asn).is_err())
    {
        put_aggregator(rules::AS4_AGGREGATOR, &aggregator, true, out);
    }
}

fn put_aggregator(code: u8, aggregator: &Aggregator, four_octet_as: bool, out: &mut BytesMut) {
    put_header(OPTIONAL | TRANSITIVE, code, if four_octet_as { 8 } else { 6 }, out);
    as_path::put_asn(aggregator.asn, four_octet_as, out);
    out.put_u32(aggregator.address.to_bits());
}

/// Appends an attribute that is passed on as received; an unrecognized one gets the Partial bit (RFC 4271 §5).
fn put_unknown(unknown: &Unknown, out: &mut BytesMut) {
    let partial = if rules::find(unknown.code).is_none() { PARTIAL } else { 0 };
    put_header(unknown.flags & !EXTENDED_LENGTH | partial, unknown.code, unknown.value.len(), out);
    out.put_slice(&unknown.value);
}

/// Appends the header of an attribute, with a length of two octets only if one is too short.
fn put_header(flags: u8, code: u8, length: usize, out: &mut BytesMut) {
    match u8::try_from(length) {
        Ok(length) => out.put_slice(&[flags, code, length]),
        Err(_) => {
            out.put_slice(&[flags | EXTENDED_LENGTH, code]);
            // A value of more than 65535 octets makes a block that fits no message: its length is never read.
            out.put_u16(u16::try_from(length).unwrap_or(u16::MAX));
        }
    }
}

/// Appends one UPDATE that advertises as many of the `prefixes` as fit, which it takes from the iterator; prefixes of
/// another family are skipped. Appends nothing if there is none. `block` comes from [`encode_attributes`].
///
/// Prefixes of families that `codec` sends with Path Identifiers have them. IPv4 prefixes with an IPv4 next hop go into the
/// NLRI field, beside NEXT_HOP, all others into MP_REACH_NLRI.
///
/// # Errors
/// [`TooLarge`], with nothing appended, if the next prefix does not fit a message of its own; it stays in the iterator.
pub fn encode_reach(
    block: &Bytes,
    next_hop: NextHop,
    family: Family,
    prefixes: &mut Peekable<impl Iterator<Item = impl Into<Nlri> + Copy>>,
    codec: &Codec,
    out: &mut BytesMut,
) -> Result<(), TooLarge> {
    let Some(Nlri { prefix: first, .. }) = next_of(family, prefixes) else { return Ok(()) };
    let max = limit(codec);
    let head = Head::new(family, next_hop);
    let path_ids = codec.path_ids.send.contains(family);
    let needed = HEADER + LENGTHS + block.len() + head.size(nlri::size(&first, path_ids));
    if needed > max {
        return Err(TooLarge { prefix: first, needed, max });
    }
    let room = max - HEADER - LENGTHS - block.len();
    framed(MessageType::Update, out, |out| match head {
        Head::Classic(next_hop) => {
            let (before, after) = around_next_hop(block);
            out.put_u16(0);
            out.put_u16((block.len() + NEXT_HOP_SIZE) as u16);
            out.put_slice(before);
            put_header(TRANSITIVE, rules::NEXT_HOP, 4, out);
            out.put_slice(&next_hop.octets());
            out.put_slice(after);
            put_prefixes(family, path_ids, prefixes, out, |size| head.size(size) <= room);
        }
        Head::Multiprotocol(next_hop) => {
            // RFC 7606 §5.1: MP_REACH_NLRI is first, so that the prefixes are found whatever follows.
            let lengths = out.len();
            out.put_u32(0);
            put_multiprotocol(rules::MP_REACH, family, out, |out| {
                put_next_hop(next_hop, out);
                put_prefixes(family, path_ids, prefixes, out, |size| head.size(size) <= room);
            });
            out.put_slice(block);
            set_u16(out, lengths + 2, out.len() - lengths - LENGTHS);
        }
    });
    Ok(())
}

/// Appends one UPDATE that withdraws as many of the `prefixes` as fit, which it takes from the iterator; prefixes of
/// another family are skipped. Appends nothing if there is none.
pub fn encode_unreach(
    family: Family,
    prefixes: &mut Peekable<impl Iterator<Item = impl Into<Nlri> + Copy>>,
    codec: &Codec,
    out: &mut BytesMut,
) {
    if next_of(family, prefixes).is_none() {
        return;
    }
    let path_ids = codec.path_ids.send.contains(family);
    let room = limit(codec) - HEADER - LENGTHS;
    framed(MessageType::Update, out, |out| {
        let lengths = out.len();
        out.put_u32(0);
        match family {
            Family::Ipv4Unicast => {
                // The second length field follows the prefixes.
                out.truncate(lengths + 2);
                put_prefixes(family, path_ids, prefixes, out, |size| size <= room);
                set_u16(out, lengths, out.len() - lengths - 2);
                out.put_u16(0);
            }
            Family::Ipv6Unicast => {
                put_multiprotocol(rules::MP_UNREACH, family, out, |out| {
                    put_prefixes(family, path_ids, prefixes, out, |size| attribute_size(3 + size) <= room);
                });
                set_u16(out, lengths + 2, out.len() - lengths - LENGTHS);
            }
        }
    });
}

/// Appends the End-of-RIB of a family (RFC 4724 §2).
pub fn encode_end_of_rib(family: Family, out: &mut BytesMut) {
    framed(MessageType::Update, out, |out| {
        out.put_u16(0);
        match family {
            Family::Ipv4Unicast => out.put_u16(0),
            Family::Ipv6Unicast => {
                out.put_u16(attribute_size(3) as u16);
                put_multiprotocol(rules::MP_UNREACH, family, out, |_| ());
            }
        }
    });
}

/// Appends an UPDATE, in as many messages as necessary. Routes that do not fit are left out.
pub(crate) fn encode(update: &Update, codec: &Codec, out: &mut BytesMut) {
    for family in [Family::Ipv4Unicast, Family::Ipv6Unicast] {
        let mut prefixes = update.withdrawn.iter().copied().peekable();
        while prefixes.peek().is_some() {
            encode_unreach(family, &mut prefixes, codec, out);
        }
    }
    if let Some(attributes) = &update.attributes {
        let block = encode_attributes(attributes, codec);
        for reach in &update.reach {
            let mut prefixes = reach.prefixes.iter().copied().peekable();
            while prefixes.peek().is_some() {
                if encode_reach(&block, reach.next_hop, reach.family, &mut prefixes, codec, out).is_err() {
                    prefixes.next();
                }
            }
        }
    }
    if let Some(family) = update.end_of_rib {
        encode_end_of_rib(family, out);
    }
}

/// The size of a NEXT_HOP attribute, in octets.
const NEXT_HOP_SIZE: usize = 7;

/// The place of the prefixes of a reach.
#[derive(Clone, Copy)]
enum Head {
    /// The NLRI field, beside NEXT_HOP.
    Classic(Ipv4Addr),
    /// MP_REACH_NLRI.
    Multiprotocol(NextHop),
}

impl Head {
    fn new(family: Family, next_hop: NextHop) -> Self {
        match (family, next_hop.address) {
            (Family::Ipv4Unicast, IpAddr::V4(address)) => Self::Classic(address),
            _ => Self::Multiprotocol(next_hop),
        }
    }

    /// Returns the size of `size` octets of prefixes together with the fields that must accompany them.
    fn size(&self, size: usize) -> usize {
        match self {
            Self::Classic(_) => NEXT_HOP_SIZE + size,
            // Family, length of the next hop, the next hop, a reserved octet, the prefixes.
            Self::Multiprotocol(hop) => {
                attribute_size(5 + if hop.link_local.is_some() { 32 } else { 16 } + size)
            }
        }
    }
}

/// Returns the size of an attribute with its header.
fn attribute_size(value: usize) -> usize {
    value + if value > usize::from(u8::MAX) { 4 } else { 3 }
}

/// Returns the permitted size of a message: at most the maximum of its length field, at least the size that every peer
/// takes (RFC 4271 §4).
fn limit(codec: &Codec) -> usize {
    codec.max_message.clamp(super::super::MAX_MESSAGE, usize::from(u16::MAX))
}

/// Skips prefixes of other families and returns the next one of the family, without taking it.
fn next_of(
    family: Family,
    prefixes: &mut Peekable<impl Iterator<Item = impl Into<Nlri> + Copy>>,
) -> Option<Nlri> {
    loop {
        let next: Nlri = (*prefixes.peek()?).into();
        if next.prefix.family() == family {
            return Some(next);
        }
        prefixes.next();
    }
}

/// Takes and appends prefixes of the family as long as they fit into `size` octets together.
fn put_prefixes(
    family: Family,
    path_ids: bool,
    prefixes: &mut Peekable<impl Iterator<Item = impl Into<Nlri> + Copy>>,
    out: &mut BytesMut,
    fits: impl Fn(usize) -> bool,
) {
    let start = out.len();
    while let Some(nlri) = next_of(family, prefixes) {
        if !fits(out.len() - start + nlri::size(&nlri.prefix, path_ids)) {
            break;
        }
        nlri::encode(nlri, path_ids, out);
        prefixes.next();
    }
}

/// Appends MP_REACH_NLRI or MP_UNREACH_NLRI with the family and the output of `content`.
fn put_multiprotocol(code: u8, family: Family, out: &mut BytesMut, content: impl FnOnce(&mut BytesMut)) {
    let start = out.len();
    let (afi, safi) = family.codes();
    out.put_slice(&[OPTIONAL | EXTENDED_LENGTH, code, 0, 0]);
    out.put_u16(afi);
    out.put_u8(safi);
    content(out);
    // The length is known only now. A short value moves back by the octet that its length does not need.
    let length = out.len() - start - 4;
    match (u8::try_from(length), out.get_mut(start..)) {
        (Ok(length), Some([flags, _, short, rest @ ..])) => {
            *flags = OPTIONAL;
            *short = length;
            rest.copy_within(1.., 0);
            out.truncate(out.len() - 1);
        }
        _ => set_u16(out, start + 2, length),
    }
}

/// Appends the next hop of MP_REACH_NLRI with its length and the reserved octet (RFC 4760 §3, RFC 2545 §3).
fn put_next_hop(next_hop: NextHop, out: &mut BytesMut) {
    let global = match next_hop.address {
        IpAddr::V6(address) => address,
        IpAddr::V4(address) => address.to_ipv6_mapped(),
    };
    out.put_u8(if next_hop.link_local.is_some() { 32 } else { 16 });
    out.put_slice(&global.octets());
    if let Some(link_local) = next_hop.link_local {
        out.put_slice(&link_local.octets());
    }
    out.put_u8(0);
}

/// Splits a block at the place of NEXT_HOP in order of type code: after ORIGIN and AS_PATH.
fn around_next_hop(block: &[u8]) -> (&[u8], &[u8]) {
    let mut reader = Reader::new(block);
    loop {
        let mut ahead = reader;
        let (Some(flags), Some(code)) = (ahead.u8(), ahead.u8()) else { break };
        let length = if flags & EXTENDED_LENGTH != 0 { ahead.u16() } else { ahead.u8().map(u16::from) };
        if code > rules::NEXT_HOP || length.and_then(|length| ahead.take(usize::from(length))).is_none() {
            break;
        }
        reader = ahead;
    }
    block.split_at_checked(block.len() - reader.len()).unwrap_or_default()
}
