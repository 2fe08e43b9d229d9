//! Prefixes as NLRI and Withdrawn Routes carry them (RFC 4271 §4.3, RFC 4760 §5).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::{BufMut, BytesMut};

use super::super::reader::Reader;
use super::super::{Family, Prefix};

/// Reads a whole field of prefixes and appends them to `out`.
///
/// # Errors
/// In words: a length that the family does not have, or a last prefix that goes beyond the field (RFC 7606 §5.3).
pub fn decode(family: Family, field: &[u8], out: &mut Vec<Prefix>) -> Result<(), String> {
    let mut reader = Reader::new(field);
    while let Some(length) = reader.u8() {
        if length > family.max_length() {
            return Err(format!("a prefix length of {length} in {family}"));
        }
        let octets = reader.take(usize::from(length.div_ceil(8)));
        let octets = octets.ok_or_else(|| format!("a prefix of length {length} is cut off"))?;
        let address = match family {
            Family::Ipv4Unicast => IpAddr::V4(Ipv4Addr::from(padded(octets))),
            Family::Ipv6Unicast => IpAddr::V6(Ipv6Addr::from(padded(octets))),
        };
        // Bits beyond the length may be anything (RFC 4271 §4.3): `Prefix` clears them.
        out.extend(Prefix::new(address, length));
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

/// Octets that a prefix takes.
pub fn size(prefix: &Prefix) -> usize {
    1 + usize::from(prefix.length().div_ceil(8))
}

/// Appends a prefix.
pub fn encode(prefix: &Prefix, out: &mut BytesMut) {
    let count = size(prefix) - 1;
    out.put_u8(prefix.length());
    match *prefix {
        Prefix::V4(address, _) => out.extend(address.octets().into_iter().take(count)),
        Prefix::V6(address, _) => out.extend(address.octets().into_iter().take(count)),
    }
}
