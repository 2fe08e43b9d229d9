//! The desired state of this node's kernel: `plan` makes it, `reconcile` applies it.

use super::IpFamily;
use super::ranges::Ranges;
use ipnetwork::IpNetwork;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The length of the outer header of an IPv4 tunnel in bytes.
pub const IPIP_OVERHEAD: u32 = 20;
/// The length of the outer header of an IPv6 tunnel in bytes.
pub const IP6TNL_OVERHEAD: u32 = 40;

/// The desired state of Heliograph's objects in the kernel. The default is empty: everything is removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Desired {
    /// The routes of the main table with Heliograph's protocol number.
    pub routes: BTreeMap<IpNetwork, Route>,
    /// The tunnel devices, at most one per family.
    pub tunnels: Tunnels,
    /// The addresses of nodes: tunnelled packets from other addresses are dropped.
    pub allowed_tunnel_sources: BTreeSet<IpAddr>,
    /// NAT outgoing; `None`: off.
    pub nat_outgoing: Option<NatOutgoing>,
    /// Set if this node forwards packets (sets the sysctls, which are never reset).
    pub forwarding: bool,
}

impl Desired {
    /// Returns whether the kernel should contain nothing of Heliograph.
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty() && self.tunnels == Tunnels::default() && self.rules() == Rules::default()
    }

    /// Returns the desired content of Heliograph's nftables table.
    pub fn rules(&self) -> Rules {
        let guarded = self.tunnels != Tunnels::default() || !self.allowed_tunnel_sources.is_empty();
        Rules {
            tunnel_sources: guarded.then(|| self.allowed_tunnel_sources.clone()),
            nat: self.nat_outgoing.clone(),
        }
    }
}

/// The content of Heliograph's nftables table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// The only addresses from which tunnelled packets are accepted; `None`: tunnelled packets are not filtered.
    pub tunnel_sources: Option<BTreeSet<IpAddr>>,
    /// NAT outgoing.
    pub nat: Option<NatOutgoing>,
}

/// NAT outgoing: packets that leave the cluster get the node's address as source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NatOutgoing {
    /// The pod CIDRs of this node: the sources that are translated.
    pub pods: Ranges,
    /// The cluster's networks and nodes: the destinations to which nothing is translated.
    pub inside: Ranges,
}

/// The desired tunnel devices, at most one per family of the outer header.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tunnels {
    /// `heliograph4`, whose outer header is IPv4.
    pub v4: Option<TunnelDevice<Ipv4Addr>>,
    /// `heliograph6`, whose outer header is IPv6.
    pub v6: Option<TunnelDevice<Ipv6Addr>>,
}

/// One `external` tunnel device: each route, not the device, contains the remote end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TunnelDevice<A> {
    /// This node's address on the underlay, the source of the outer header.
    pub local: A,
    /// The MTU of the device in bytes: the underlay's minus the outer header.
    pub mtu: u32,
}

/// The route to one prefix, without the prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// To one next hop, or to several equal ones (ECMP). [`Route::unicast`] makes it, sorted.
    Unicast(Vec<Hop>),
    /// Drops packets silently: for addresses of this node's pod CIDRs that no pod has.
    Blackhole,
}

impl Route {
    /// Makes a route over `hops`, sorted and without duplicates, so that equal routes compare equal.
    pub fn unicast(hops: impl IntoIterator<Item = Hop>) -> Self {
        let sorted: BTreeSet<Hop> = hops.into_iter().collect();
        Route::Unicast(sorted.into_iter().collect())
    }

    /// Returns whether one of its next hops is behind the tunnel of a family.
    pub fn needs_tunnel(&self, family: IpFamily) -> bool {
        match self {
            Route::Blackhole => false,
            Route::Unicast(hops) => hops
                .iter()
                .any(|hop| matches!(hop, Hop::Tunnel { remote, .. } if IpFamily::of(*remote) == family)),
        }
    }
}

/// One next hop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hop {
    /// On the same L2 segment.
    Direct {
        /// The next hop's address.
        via: IpAddr,
        /// The index of the interface towards it.
        oif: u32,
    },
    /// Behind the tunnel device of `remote`'s family.
    Tunnel {
        /// The remote node's address, the destination of the outer header.
        remote: IpAddr,
        /// This node's address, the source of the outer header.
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

/// The segment of a next hop, as the kernel's foreign routes determine it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Segment {
    /// On a link of this node, without a gateway.
    Direct {
        /// The index of the interface.
        oif: u32,
        /// The name of the interface.
        name: String,
        /// The source address that the kernel selects.
        source: IpAddr,
    },
    /// Behind a gateway, hence on another segment.
    Routed {
        /// The gateway.
        gateway: IpAddr,
        /// The index of the interface towards the gateway.
        oif: u32,
        /// The name of the interface.
        name: String,
        /// The source address that the kernel selects.
        source: IpAddr,
    },
    /// The kernel has no route to it.
    Unreachable {
        /// The error that the kernel returned.
        error: String,
    },
    /// An address of this node itself.
    Local,
}
