//! Prefixes in the NLRI and Withdrawn Routes fields (RFC 4271 §4.3, RFC 4760 §5, RFC 7911 §3).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::{BufMut, BytesMut};

use super::super::reader::Reader;
use super::super::{Family, Nlri, Prefix};

/// Octets of a Path Identifier.
const PATH_ID: usize = 4;

/// Decodes a whole field of prefixes, with a Path Identifier before each if there are `path_ids`, and appends them to `out`.
///
/// # Errors
/// A length that the family does not have, or a last prefix that exceeds the field (RFC 7606 §5.3).
pub(crate) fn decode(
    family: Family,
    path_ids: bool,
    field: &[u8],
    out: &mut Vec<Nlri>,
) -> Result<(), String> {
    let mut reader = Reader::new(field);
    while !reader.is_empty() {
        let path_id = match path_ids {
            true => Some(reader.u32().ok_or("a path identifier that is cut off")?),
            false => None,
        };
        let length = reader.u8().ok_or("a path identifier without a prefix")?;
        if length > family.max_length() {
            return Err(format!("a prefix length of {length} in {family}"));
        }
        let octets = reader.take(usize::from(length.div_ceil(8)));
        let octets = octets.ok_or_else(|| format!("a prefix of length {length} is cut off"))?;
        let address = match family {
            Family::Ipv4Unicast => IpAddr::V4(Ipv4Addr::from(padded(octets))),
            Family::Ipv6Unicast => IpAddr::V6(Ipv6Addr::from(padded(octets))),
        };
        // Bits beyond the length have no meaning (RFC 4271 §4.3): `Prefix` clears them.
        out.extend(Prefix::new(address, length).map(|prefix| Nlri { prefix, path_id }));
    }
    Ok(())
}

fn padded<const N: usize>(octets: &[u8]) -> [u8; N] {
    let mut address = [0; N];
    for (to, from) in address.iter_mut().zip(octets) {
        *to = *from;
    }
    address
}

/// Returns the number of octets that a prefix occupies.
pub(crate) fn size(prefix: &Prefix, path_ids: bool) -> usize {
    1 + usize::from(prefix.length().div_ceil(8)) + if path_ids { PATH_ID } else { 0 }
}

/// Appends a prefix, after its Path Identifier if there are `path_ids`: 0 for a prefix without one.
pub(crate) fn encode(nlri: Nlri, path_ids: bool, out: &mut BytesMut) {
    let Nlri { prefix, path_id } = nlri;
    if path_ids {
        out.put_u32(path_id.unwrap_or(0));
    }
    let count = size(&prefix, false) - 1;
    out.put_u8(prefix.length());
    match prefix {
        Prefix::V4(address, _) => out.extend(address.octets().into_iter().take(count)),
        Prefix::V6(address, _) => out.extend(address.octets().into_iter().take(count)),
    }
}
