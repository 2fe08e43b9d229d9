//! Bytes ⇄ messages. Knows nothing of sessions, tables or sockets.

mod attributes;
mod message;
mod prefix;

pub use attributes::{Aggregator, AsPath, Attributes, Origin, Segment, Unknown};
pub use message::{
    Capability, Fault, FaultAction, GracefulRestart, Message, NextHop, Notification, Open, Reach, Update,
};
pub use prefix::{Family, Prefix};

/// What two speakers agreed on in their OPENs, as far as it changes how bytes are read and written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Codec {
    /// Both sent the 4-octet AS capability: AS_PATH and AGGREGATOR carry 4 octets an AS (RFC 6793 §4).
    pub four_octet_as: bool,
    /// The largest message that may be sent, in octets: 4096 (RFC 4271 §4).
    pub max_message: usize,
}

impl Default for Codec {
    /// What holds until both OPENs are in.
    fn default() -> Self {
        Self { four_octet_as: false, max_message: 4096 }
    }
}
