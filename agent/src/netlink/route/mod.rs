//! rtnetlink: the routes, as bytes, and a blocking socket.
//!
//! Routes are many, so requests for them are written straight into the buffer that is sent, and dumps are decoded straight
//! from the buffer that was received ([`encode`], [`decode`]).

pub mod decode;
pub mod encode;
pub mod socket;

pub use decode::{Decoded, DumpedRoute, Foreign, Stray};
pub use encode::{Batch, EncodeError, RouteChange};
pub use socket::{Part, Socket};

use crate::dataplane::Tunnel;
use std::collections::BTreeMap;

/// The interface indices of the tunnel devices, which are needed to encode and decode next hops behind a tunnel.
pub type Devices = BTreeMap<Tunnel, u32>;

/// The TTL of the outer header. If it were copied from the inner header, the underlay's hops would count for pods.
const TUNNEL_TTL: u8 = 64;

/// The main routing table (RT_TABLE_MAIN).
pub const MAIN_TABLE: u32 = libc::RT_TABLE_MAIN as u32;

/// The attributes of routes (rtnetlink.h).
mod attribute {
    pub const DESTINATION: u16 = 1;
    pub const SOURCE: u16 = 2;
    pub const OIF: u16 = 4;
    pub const GATEWAY: u16 = 5;
    pub const PRIORITY: u16 = 6;
    pub const PREFERRED_SOURCE: u16 = 7;
    pub const METRICS: u16 = 8;
    pub const MULTIPATH: u16 = 9;
    pub const FLOW: u16 = 11;
    pub const TABLE: u16 = 15;
    pub const VIA: u16 = 18;
    pub const ENCAP_TYPE: u16 = 21;
    pub const ENCAP: u16 = 22;
    pub const EXPIRES: u16 = 23;
    pub const NEXT_HOP_ID: u16 = 30;
}

/// The attributes of an encapsulation, which have the same numbers for IPv4 and IPv6 (lwtunnel.h).
mod encapsulation {
    /// LWTUNNEL_ENCAP_IP.
    pub const IP: u16 = 2;
    /// LWTUNNEL_ENCAP_IP6.
    pub const IP6: u16 = 4;
    pub const ID: u16 = 1;
    pub const DESTINATION: u16 = 2;
    pub const SOURCE: u16 = 3;
    pub const TTL: u16 = 4;
}

/// The length of `struct rtmsg`.
const ROUTE_HEADER: usize = 12;
/// The length of `struct rtnexthop`.
const NEXT_HOP_HEADER: usize = 8;

#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;
