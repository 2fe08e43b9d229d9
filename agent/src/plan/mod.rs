//! From what is wanted and known to what is done: pure functions, without clocks, clients or tasks.
//!
//! [`bgp_config`] says with whom this node speaks, [`TopologyChange`] what of before stays beside that for a while;
//! [`desired`] says what its kernel should hold.

use std::net::Ipv4Addr;

mod forwarding;
mod sessions;
#[cfg(test)]
pub(crate) mod testing;
mod topology_change;

pub use forwarding::{Planned, Reachability, SegmentVerdict, Underlays, desired, next_hops, pod_mtu};
pub use sessions::{NeighborRole, SpeakerPlan, bgp_config};
pub use topology_change::{Present, TopologyChange};

/// A BGP Identifier for a node without an IPv4 address: any number but 0 that is its own (RFC 6286 §2.1). FNV-1a, as
/// it has to be the same on every build and machine.
fn hashed_router_id(name: &str) -> Ipv4Addr {
    let hash =
        name.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    Ipv4Addr::from_bits(hash.max(1))
}
