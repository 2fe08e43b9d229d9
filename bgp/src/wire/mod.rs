//! Encoding and decoding of messages. Independent of sessions, tables and sockets.

mod attributes;
mod codec;
mod framer;
mod message;
mod notification;
mod open;
mod prefix;
mod reader;
mod unicast;
mod update;

#[cfg(test)]
mod tests;

pub use attributes::{
    Aggregator, AsPath, Attributes, ExtendedCommunity, LargeCommunity, List, Origin, Segment, Unknown,
};
pub use codec::{Codec, PathIds, decode, encode};
pub use framer::{Frame, Framer, MessageType};
pub use message::{
    AddPathMode, Capability, Fault, FaultAction, GracefulRestart, LongLived, Message, NextHop, Notification,
    Open, Reach, Refresh, Role, Update,
};
pub use notification::{Error, cease, code, describe, open_error};
pub(crate) use open::MAX_STALE_TIME;
pub use prefix::{Family, FamilySet, Nlri, ParsePrefixError, Prefix};
pub(crate) use unicast::is_host;
pub use update::{TooLarge, encode_attributes, encode_end_of_rib, encode_reach, encode_unreach};

/// Octets of the header that every message starts with (RFC 4271 §4.1).
const HEADER: usize = 19;
/// The longest message without RFC 8654 (RFC 4271 §4).
pub(crate) const MAX_MESSAGE: usize = 4096;
/// The longest message with it (RFC 8654 §2).
pub(crate) const MAX_EXTENDED_MESSAGE: usize = 65535;
/// The AS number that replaces one of 4 octets in fields of 2 octets (RFC 6793 §9).
const AS_TRANS: u16 = 23456;
