//! The routes that Heliograph installs.

use super::tunnel::Tunnel;
use std::fmt;
use std::net::IpAddr;

/// The route to one prefix, without the prefix. The planner makes one value for all prefixes with the same next hops.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Route {
    /// Drops packets silently: for addresses of this node's pod CIDRs that no pod has.
    Blackhole,
    /// To one next hop, or to several equal ones (ECMP). [`Route::unicast`] makes it, sorted.
    Unicast(Box<[Hop]>),
}

impl Route {
    /// Makes a route over `hops`, sorted and without duplicates, so that equal routes compare equal.
    pub fn unicast(hops: impl IntoIterator<Item = Hop>) -> Self {
        let mut hops: Vec<Hop> = hops.into_iter().collect();
        hops.sort_unstable();
        hops.dedup();
        Route::Unicast(hops.into())
    }

    /// Returns the next hops.
    pub fn hops(&self) -> &[Hop] {
        match self {
            Route::Blackhole => &[],
            Route::Unicast(hops) => hops,
        }
    }

    /// Returns the tunnels through which it leads.
    pub fn tunnels(&self) -> impl Iterator<Item = Tunnel> {
        self.hops().iter().filter_map(|hop| match hop {
            Hop::Direct { .. } => None,
            Hop::Tunnel { tunnel, .. } => Some(*tunnel),
        })
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
    /// Behind a tunnel device.
    Tunnel {
        /// The tunnel, of `remote`'s family.
        tunnel: Tunnel,
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

#[cfg(test)]
mod tests {
    use super::*;
    use heliograph_cni::IpFamily;

    #[test]
    fn equal_routes_compare_equal() {
        let hop = |n: u8| Hop::Direct { via: [192, 0, 2, n].into(), oif: 2 };
        assert_eq!(Route::unicast([hop(2), hop(1), hop(2)]), Route::unicast([hop(1), hop(2)]));
        assert_eq!(
            Route::unicast([hop(2), hop(1)]).to_string(),
            "via 192.0.2.1 (interface 2) and via 192.0.2.2 (interface 2)"
        );
        let tunnel = Tunnel::ipip(IpFamily::V4);
        let through = Hop::Tunnel { tunnel, remote: [192, 0, 2, 3].into(), local: [192, 0, 2, 1].into() };
        assert_eq!(Route::unicast([hop(1), through]).tunnels().collect::<Vec<_>>(), [tunnel]);
        assert_eq!(Route::Blackhole.tunnels().count(), 0);
    }
}
