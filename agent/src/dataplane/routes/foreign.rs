//! The foreign routes that conflict with routes of Heliograph to the same prefix, if there are such.

use crate::dataplane::METRIC;
use crate::netlink::route::Foreign;
use crate::netlink::{Cause, KernelError};
use heliograph_cni::IpFamily;
use ipnetwork::IpNetwork;
use std::collections::{BTreeMap, BTreeSet};

/// The route protocol number of connected networks (RTPROT_KERNEL).
const KERNEL: u8 = 2;

impl Foreign {
    /// Returns whether a route of Heliograph to the same prefix must not be installed. It would be preferred to a connected
    /// network, which in IPv6 has a higher metric, or it would have the same key in the kernel as the foreign route.
    pub fn forbids_ours(&self) -> bool {
        self.protocol == KERNEL || (self.metric, self.tos) == (METRIC, 0)
    }

    /// Returns whether the kernel prefers this route to Heliograph's.
    pub fn hides_ours(&self) -> bool {
        self.metric < METRIC
    }
}

/// The foreign routes that can conflict: others are not kept.
#[derive(Debug, Default)]
pub(super) struct ForeignRoutes {
    /// The protocol number by prefix, metric and TOS; set if the route may not exist any more.
    routes: BTreeMap<(IpNetwork, u32, u8), (u8, bool)>,
    /// The families of which any route may not exist any more.
    doubtful: BTreeSet<IpFamily>,
}

impl ForeignRoutes {
    /// Adds a route, if it can conflict; returns whether it can.
    pub fn add(&mut self, foreign: Foreign) -> bool {
        let Foreign { prefix, metric, tos, protocol } = foreign;
        let key = (prefix, metric, tos);
        if foreign.forbids_ours() || foreign.hides_ours() {
            self.routes.insert(key, (protocol, false));
            return true;
        }
        // It may have replaced one that did conflict.
        self.doubt(foreign)
    }

    /// Notes that a route may not exist any more; returns whether it was there.
    pub fn doubt(&mut self, foreign: Foreign) -> bool {
        let entry = self.routes.get_mut(&(foreign.prefix, foreign.metric, foreign.tos));
        entry.map(|(_, doubtful)| *doubtful = true).is_some()
    }

    /// Notes that any route may not exist any more.
    pub fn doubt_all(&mut self) {
        self.doubtful.extend(IpFamily::ALL);
    }

    /// Returns the route to a prefix that conflicts most, and whether it may not exist any more.
    pub fn worst(&self, prefix: IpNetwork) -> Option<(Foreign, bool)> {
        let all_doubtful = self.doubtful.contains(&IpFamily::of_network(&prefix));
        let of_prefix = self.routes.range((prefix, 0, 0)..=(prefix, u32::MAX, u8::MAX));
        let foreign =
            |(&(prefix, metric, tos), &(protocol, doubtful)): (&(IpNetwork, u32, u8), &(u8, bool))| {
                (Foreign { prefix, metric, tos, protocol }, doubtful || all_doubtful)
            };
        of_prefix.map(foreign).min_by_key(|(foreign, _)| (!foreign.forbids_ours(), foreign.metric))
    }

    /// Returns the prefixes, each as often as it has routes.
    pub fn prefixes(&self) -> impl Iterator<Item = IpNetwork> {
        self.routes.keys().map(|(prefix, ..)| *prefix)
    }

    /// Replaces the routes of some families by those that were read.
    pub fn replace(&mut self, families: &[IpFamily], read: Self) {
        self.routes.retain(|(prefix, ..), _| !families.contains(&IpFamily::of_network(prefix)));
        self.routes.extend(read.routes);
        self.doubtful.retain(|family| !families.contains(family));
        // They may have disappeared since they were read.
        self.doubtful.extend(read.doubtful.iter().filter(|family| families.contains(family)));
    }
}

/// Returns the problem with a foreign route.
pub(super) fn conflict(foreign: &Foreign) -> KernelError {
    let Foreign { prefix, metric, protocol, .. } = *foreign;
    let cause = if foreign.forbids_ours() {
        format!(
            "a foreign route (protocol {protocol}, metric {metric}) exists, so that of Heliograph is not installed"
        )
    } else {
        format!(
            "a foreign route (protocol {protocol}, metric {metric}) is preferred to that of Heliograph, metric {METRIC}"
        )
    };
    KernelError::new(
        format!("route {prefix}"),
        Cause::Conflict(cause),
        format!("remove it if nothing needs it (ip route show {prefix}), or don't advertise that prefix"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn foreign(prefix: &str, metric: u32, protocol: u8) -> Foreign {
        Foreign { prefix: prefix.parse().unwrap(), metric, tos: 0, protocol }
    }

    fn worst(routes: &ForeignRoutes, prefix: &str) -> Option<(u32, bool)> {
        routes.worst(prefix.parse().unwrap()).map(|(foreign, doubtful)| (foreign.metric, doubtful))
    }

    #[test]
    fn the_one_that_conflicts_most_counts() {
        let mut routes = ForeignRoutes::default();
        assert!(!routes.add(foreign("10.0.0.0/8", 300, 4)), "less preferred");
        assert_eq!(worst(&routes, "10.0.0.0/8"), None);
        assert!(routes.add(foreign("10.0.0.0/8", 50, 4)));
        assert!(routes.add(foreign("10.0.0.0/8", 20, 4)));
        assert_eq!(worst(&routes, "10.0.0.0/8"), Some((20, false)));
        assert!(routes.add(foreign("10.0.0.0/8", 256, 2)));
        assert_eq!(worst(&routes, "10.0.0.0/8"), Some((256, false)), "a connected network");
        assert!(routes.add(foreign("10.0.0.0/8", METRIC, 4)));
        assert_eq!(worst(&routes, "10.0.0.0/8"), Some((METRIC, false)));
        assert_eq!(worst(&routes, "10.0.0.0/9"), None);
    }

    #[test]
    fn a_removed_one_is_doubtful_until_it_is_read_again() {
        let mut routes = ForeignRoutes::default();
        routes.add(foreign("10.0.0.0/8", 0, 4));
        routes.add(foreign("fd00::/8", 0, 4));
        assert!(!routes.doubt(foreign("10.0.0.0/8", 7, 4)));
        assert!(routes.doubt(foreign("10.0.0.0/8", 0, 4)));
        assert_eq!(worst(&routes, "10.0.0.0/8"), Some((0, true)));
        routes.add(foreign("10.0.0.0/8", 0, 4));
        assert_eq!(worst(&routes, "10.0.0.0/8"), Some((0, false)));
        routes.doubt_all();
        assert_eq!(worst(&routes, "fd00::/8"), Some((0, true)));
        routes.replace(&[IpFamily::V4], ForeignRoutes::default());
        assert_eq!((worst(&routes, "10.0.0.0/8"), worst(&routes, "fd00::/8")), (None, Some((0, true))));
        let mut read = ForeignRoutes::default();
        read.add(foreign("fd00::/8", 0, 4));
        routes.replace(&IpFamily::ALL, read);
        assert_eq!(worst(&routes, "fd00::/8"), Some((0, false)));
    }

    #[test]
    fn a_harmless_route_may_have_replaced_a_connected_network() {
        let mut routes = ForeignRoutes::default();
        routes.add(foreign("fd00::/64", 256, 2));
        assert!(routes.add(foreign("fd00::/64", 256, 4)));
        assert_eq!(worst(&routes, "fd00::/64"), Some((256, true)));
    }
}
