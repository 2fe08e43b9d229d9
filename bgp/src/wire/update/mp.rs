//! The values of MP_REACH_NLRI and MP_UNREACH_NLRI (RFC 4760 §3 and §4, RFC 2545 §3, RFC 8950 §3).

use std::net::{Ipv4Addr, Ipv6Addr};

use super::super::reader::Reader;
use super::super::{Codec, Family, NextHop, Nlri};
use super::nlri;

/// MP_REACH_NLRI, decoded.
#[derive(Debug)]
pub(crate) enum Reach {
    /// Of a family that was not negotiated: not decoded.
    Ignored,
    /// Of a negotiated family.
    Carried { family: Family, next_hop: NextHop, prefixes: Vec<Nlri> },
}

/// Decodes MP_REACH_NLRI.
///
/// # Errors
/// The reason why its prefixes are unknown (RFC 7606 §5.3, §7.11).
pub(crate) fn reach(value: &[u8], families: &[Family], codec: &Codec) -> Result<Reach, String> {
    let mut reader = Reader::new(value);
    let (Some(afi), Some(safi), Some(length)) = (reader.u16(), reader.u8(), reader.u8()) else {
        return Err("it ends before its next hop".into());
    };
    let Some(family) = negotiated(afi, safi, families) else { return Ok(Reach::Ignored) };
    let (Some(next_hop), Some(_reserved)) = (reader.take(usize::from(length)), reader.u8()) else {
        return Err(format!("its next hop of {length} octets is cut off"));
    };
    let next_hop = decode_next_hop(family, next_hop, codec.extended_next_hop)
        .ok_or_else(|| format!("a next hop of {length} octets does not belong to {family}"))?;
    let mut prefixes = Vec::new();
    nlri::decode(family, codec.path_ids.receive.contains(family), reader.rest(), &mut prefixes)?;
    Ok(Reach::Carried { family, next_hop, prefixes })
}

/// Decodes MP_UNREACH_NLRI: its family and prefixes; `None` for a family that was not negotiated.
///
/// # Errors
/// The reason why its prefixes are unknown (RFC 7606 §5.3).
pub(crate) fn unreach(
    value: &[u8],
    families: &[Family],
    codec: &Codec,
) -> Result<Option<(Family, Vec<Nlri>)>, String> {
    let mut reader = Reader::new(value);
    let (Some(afi), Some(safi)) = (reader.u16(), reader.u8()) else {
        return Err("it ends before its family".into());
    };
    let Some(family) = negotiated(afi, safi, families) else { return Ok(None) };
    let mut prefixes = Vec::new();
    nlri::decode(family, codec.path_ids.receive.contains(family), reader.rest(), &mut prefixes)?;
    Ok(Some((family, prefixes)))
}

fn negotiated(afi: u16, safi: u8, families: &[Family]) -> Option<Family> {
    Family::from_codes(afi, safi).filter(|family| families.contains(family))
}

/// Decodes a next hop; `None` if the family has none of that length.
fn decode_next_hop(family: Family, octets: &[u8], extended: bool) -> Option<NextHop> {
    match family {
        // RFC 8950 §3: the length distinguishes the families.
        Family::Ipv4Unicast if !extended || octets.len() == 4 => {
            let address = Ipv4Addr::from(<[u8; 4]>::try_from(octets).ok()?);
            Some(NextHop { address: address.into(), link_local: None })
        }
        Family::Ipv4Unicast | Family::Ipv6Unicast => {
            let (global, rest) = octets.split_first_chunk::<16>()?;
            let link_local = match rest {
                [] => None,
                // Some senders fill the second half with something else than a link-local address, which is ignored.
                _ => Some(Ipv6Addr::from(<[u8; 16]>::try_from(rest).ok()?))
                    .filter(Ipv6Addr::is_unicast_link_local),
            };
            let global = Ipv6Addr::from(*global);
            // RFC 2545 §3 has no form for a sender without a global address: BIRD sends `::` in its place, others repeat
            // the link-local address.
            let address = link_local.filter(|_| global.is_unspecified()).unwrap_or(global);
            Some(NextHop { address: address.into(), link_local })
        }
    }
}
