//! What this node's kernel should hold of ours: the whole truth that `plan` makes and `reconcile` puts in place.

use super::ranges::Ranges;
use ipnetwork::IpNetwork;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Bytes which an IPv4 tunnel header takes from the underlay's MTU.
pub const IPIP_OVERHEAD: u32 = 20;
/// Bytes which an IPv6 tunnel header takes from the underlay's MTU.
pub const IP6TNL_OVERHEAD: u32 = 40;

/// All that this node's kernel should hold of ours. Everything empty means: purge.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Desired {
    /// The routes of the main table that bear our protocol number.
    pub routes: BTreeMap<IpNetwork, Route>,
    /// The tunnel devices, at most one a family.
    pub tunnels: Tunnels,
    /// Addresses of known nodes: the only ones from which tunnelled packets are taken.
    pub allowed_tunnel_sources: BTreeSet<IpAddr>,
    /// What leaves the cluster under this node's address; `None`: nothing does.
    pub nat_outgoing: Option<NatOutgoing>,
    /// Whether this node forwards packets (sets the sysctls; they are never reverted).
    pub forwarding: bool,
}

impl Desired {
    /// Whether nothing of ours is wanted.
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty() && self.tunnels == Tunnels::default() && self.rules() == Rules::default()
    }

    /// What our nftables table should do.
    pub fn rules(&self) -> Rules {
        let guarded = self.tunnels != Tunnels::default() || !self.allowed_tunnel_sources.is_empty();
        Rules {
            tunnel_sources: guarded.then(|| self.allowed_tunnel_sources.clone()),
            nat: self.nat_outgoing.clone(),
        }
    }
}

/// What our nftables table does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// The only addresses from which tunnelled packets are taken; `None`: tunnelled packets are let be.
    pub tunnel_sources: Option<BTreeSet<IpAddr>>,
    /// What leaves the cluster under this node's address.
    pub nat: Option<NatOutgoing>,
}

/// Traffic that leaves the cluster under the node's address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NatOutgoing {
    /// What this node's pods send,
    pub pods: Ranges,
    /// except to these: the cluster's networks and its nodes.
    pub inside: Ranges,
}

/// The tunnel devices wanted, at most one a family of the outer header.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tunnels {
    /// `heliograph4`, packets in IPv4.
    pub v4: Option<TunnelDevice<Ipv4Addr>>,
    /// `heliograph6`, packets in IPv6.
    pub v6: Option<TunnelDevice<Ipv6Addr>>,
}

/// One `external` tunnel device: the remote end is in each route, not in the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TunnelDevice<A> {
    /// This node's address on the underlay, the source of the outer header.
    pub local: A,
    /// MTU of the device in bytes: the underlay's less the outer header.
    pub mtu: u32,
}

/// Where packets for one prefix go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// To one next hop, or spread over several. Make it with [`Route::unicast`], which sorts.
    Unicast(Vec<Hop>),
    /// Nowhere, silently: for what is announced but has no pod (yet).
    Blackhole,
}

impl Route {
    /// A route over `hops`, sorted and without duplicates so that equal routes compare equal.
    pub fn unicast(hops: impl IntoIterator<Item = Hop>) -> Self {
        let sorted: BTreeSet<Hop> = hops.into_iter().collect();
        Route::Unicast(sorted.into_iter().collect())
    }

    /// Whether one of its hops leads through the tunnel of a family.
    pub fn needs_tunnel(&self, family: super::IpFamily) -> bool {
        match self {
            Route::Blackhole => false,
            Route::Unicast(hops) => hops.iter().any(
                |hop| matches!(hop, Hop::Tunnel { remote, .. } if super::IpFamily::of(*remote) == family),
            ),
        }
    }
}

/// One next hop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hop {
    /// On the same L2 segment.
    Direct {
        /// The neighbour's address.
        via: IpAddr,
        /// Index of the interface the neighbour is on.
        oif: u32,
    },
    /// Through the tunnel device of `remote`'s family.
    Tunnel {
        /// The far node's address, destination of the outer header.
        remote: IpAddr,
        /// This node's address, source of the outer header.
        local: IpAddr,
    },
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Route::Blackhole => write!(f, "blackhole"),
            Route::Unicast(hops) => {
                for (index, hop) in hops.iter().enumerate() {
                    let separator = if index == 0 { "" } else { " and " };
                    write!(f, "{separator}{hop}")?;
                }
                Ok(())
            }
        }
    }
}

impl fmt::Display for Hop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Hop::Direct { via, oif } => write!(f, "via {via} (interface {oif})"),
            Hop::Tunnel { remote, .. } => write!(f, "through the tunnel to {remote}"),
        }
    }
}

/// The kernel's answer on where a next hop is, our own routes left aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Segment {
    /// On a link of this node: no gateway between.
    Direct {
        /// Index of the interface it is on.
        oif: u32,
        /// Name of that interface.
        name: String,
        /// The address of ours the kernel would use towards it.
        source: IpAddr,
    },
    /// Behind a gateway, so on another segment.
    Routed {
        /// The gateway the kernel would use.
        gateway: IpAddr,
        /// Index of the interface towards the gateway.
        oif: u32,
        /// Name of that interface.
        name: String,
        /// The address of ours the kernel would use towards it.
        source: IpAddr,
    },
    /// The kernel has no way there.
    Unreachable {
        /// What the kernel answered.
        error: String,
    },
    /// It is an address of this node itself.
    Local,
}
