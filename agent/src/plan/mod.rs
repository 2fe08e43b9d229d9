//! Plans: pure functions from intent and routes to configurations, without clocks, clients or tasks.
//!
//! [`bgp_config`] makes the configuration of the BGP speaker, [`TopologyChange`] adds the sessions that are retained during
//! a topology change, and [`desired`] makes the desired state of the kernel.

use std::net::Ipv4Addr;

mod forwarding;
mod sessions;
#[cfg(test)]
pub(crate) mod testing;
mod topology_change;

pub use forwarding::{ForwardingPlan, Reachability, SegmentVerdict, Underlays, desired, next_hops, pod_mtu};
pub use sessions::{NeighborRole, SpeakerPlan, bgp_config};
pub use topology_change::{SpeakerState, TopologyChange};

/// Returns a BGP Identifier for a node without an IPv4 address: any unique number except 0 (RFC 6286 §2.1). The hash is
/// FNV-1a (32 bits), as it must not change with the build or the machine.
fn hashed_router_id(name: &str) -> Ipv4Addr {
    let hash =
        name.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    Ipv4Addr::from_bits(hash.max(1))
}
