//! UPDATE (RFC 4271 §4.3, RFC 4760, RFC 7606).

use std::iter::Peekable;

use bytes::{Bytes, BytesMut};

use super::{Attributes, Codec, Family, NextHop, Prefix};

/// A route that does not fit a message: its attributes leave no room for its prefix. It is to be withheld from that
/// peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the route to {prefix} needs a message of {needed} octets, {max} are allowed: it is withheld from this peer"
)]
pub struct TooLarge {
    /// The prefix it was about; it is still the iterator's next.
    pub prefix: Prefix,
    /// Octets that a message with this prefix alone would take.
    pub needed: usize,
    /// Octets allowed.
    pub max: usize,
}

/// Encodes all attributes but NEXT_HOP and MP_REACH_NLRI, in order of type code, as one block to be shared by all the
/// messages and peers of this `codec`.
pub fn encode_attributes(_attributes: &Attributes, _codec: &Codec) -> Bytes {
    unimplemented!()
}

/// Appends one UPDATE that announces as many of the `prefixes` as fit, which it takes from the iterator; those of
/// another family are passed over. Appends nothing where there is none. `block` comes from [`encode_attributes`].
///
/// # Errors
/// [`TooLarge`], with nothing appended, where the next prefix does not fit a message of its own; it stays in the
/// iterator.
pub fn encode_reach(
    _block: &Bytes,
    _next_hop: NextHop,
    _family: Family,
    _prefixes: &mut Peekable<impl Iterator<Item = Prefix>>,
    _codec: &Codec,
    _out: &mut BytesMut,
) -> Result<(), TooLarge> {
    unimplemented!()
}

/// Appends one UPDATE that withdraws as many of the `prefixes` as fit, which it takes from the iterator; those of
/// another family are passed over. Appends nothing where there is none.
pub fn encode_unreach(
    _family: Family,
    _prefixes: &mut Peekable<impl Iterator<Item = Prefix>>,
    _codec: &Codec,
    _out: &mut BytesMut,
) {
    unimplemented!()
}

/// Appends the End-of-RIB of a family (RFC 4724 §2).
pub fn encode_end_of_rib(_family: Family, _out: &mut BytesMut) {
    unimplemented!()
}
