//! The values of MP_REACH_NLRI and MP_UNREACH_NLRI (RFC 4760 §3 and §4, RFC 2545 §3, RFC 8950 §3).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::super::reader::Reader;
use super::super::{Codec, Family, NextHop, Nlri};
use super::nlri;

/// MP_REACH_NLRI, read.
#[derive(Debug)]
pub enum Reach {
    /// Of a family that was not negotiated: not looked into.
    Ignored,
    /// Of a negotiated family.
    Carried { family: Family, next_hop: NextHop, prefixes: Vec<Nlri> },
}

/// Reads MP_REACH_NLRI.
///
/// # Errors
/// In words, why its prefixes cannot be told (RFC 7606 §5.3, §7.11).
pub fn reach(value: &[u8], families: &[Family], codec: &Codec) -> Result<Reach, String> {
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

/// Reads MP_UNREACH_NLRI: its family and prefixes; `None` for a family that was not negotiated.
///
/// # Errors
/// In words, why its prefixes cannot be told (RFC 7606 §5.3).
pub fn unreach(
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

/// Reads a next hop; `None` where its length is not one of the family's.
fn decode_next_hop(family: Family, octets: &[u8], extended: bool) -> Option<NextHop> {
    match family {
        // RFC 8950 §3: the length tells which it is.
        Family::Ipv4Unicast if !extended || octets.len() == 4 => {
            let address = Ipv4Addr::from(<[u8; 4]>::try_from(octets).ok()?);
            Some(NextHop { address: address.into(), link_local: None })
        }
        Family::Ipv4Unicast | Family::Ipv6Unicast => {
            let (global, rest) = octets.split_first_chunk::<16>()?;
            let link_local = match rest {
                [] => None,
                // Some senders fill the second half with what is no link-local address: it says nothing then.
                _ => Some(Ipv6Addr::from(<[u8; 16]>::try_from(rest).ok()?))
                    .filter(Ipv6Addr::is_unicast_link_local),
            };
            Some(NextHop { address: Ipv6Addr::from(*global).into(), link_local })
        }
    }
}

/// Whether an address may be a next hop at all: one of a host (RFC 4271 §6.3). Whether it can be reached is not for the
/// wire to say.
pub fn is_host(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let [first, ..] = address.octets();
            // 0/8 is "this network"; 224/4 is multicast, 240/4 reserved with the broadcast address in it.
            first != 0 && first < 224
        }
        IpAddr::V6(address) => !address.is_unspecified() && !address.is_multicast(),
    }
}
