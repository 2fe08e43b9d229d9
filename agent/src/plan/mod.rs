//! Plans: pure functions from intent and routes to configurations, without clocks, clients or tasks.
//!
//! [`bgp_config`] makes the configuration of the BGP speaker, [`TopologyChange`] adds the sessions that are retained during
//! a topology change, [`Resolver`] decides on the way to each next hop, and the others make the content of sets and the
//! tunnels of this node.

use std::net::Ipv4Addr;

use heliograph_cni::IpFamily;
use ipnetwork::IpNetwork;

mod nat;
mod next_hops;
mod sessions;
#[cfg(test)]
pub(crate) mod testing;
mod topology_change;
mod tunnels;

pub use nat::{Inside, OriginRule};
pub use next_hops::{Reachability, Resolver, SegmentVerdict};
pub use sessions::{NeighborRole, SpeakerPlan, bgp_config, same_sessions};
pub use topology_change::{SpeakerState, TopologyChange};
pub use tunnels::{Tunnels, Underlays, allowed_sources, pod_mtu, tunnels};

/// Returns whether a network contains another.
fn within(outer: &IpNetwork, inner: &IpNetwork) -> bool {
    IpFamily::of_network(outer) == IpFamily::of_network(inner)
        && outer.prefix() <= inner.prefix()
        && outer.contains(inner.network())
}

/// Returns a BGP Identifier for a node without an IPv4 address: any unique number except 0 (RFC 6286 §2.1). The hash is
/// FNV-1a (32 bits), as it must not change with the build or the machine.
fn hashed_router_id(name: &str) -> Ipv4Addr {
    let hash =
        name.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    Ipv4Addr::from_bits(hash.max(1))
}
