//! Sets of networks as nf_tables gets them: one element for each network that no other contains.

use ipnetwork::IpNetwork;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// A set of networks of both families. Networks that another one contains are left out. Networks that touch are not merged:
/// so one network more is one element more.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Networks(BTreeSet<IpNetwork>);

impl Networks {
    /// Returns the networks, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = &IpNetwork> {
        self.0.iter()
    }

    /// Returns whether a network is an element of the set.
    pub fn has(&self, network: &IpNetwork) -> bool {
        self.0.contains(network)
    }

    /// Returns whether the set contains an address.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(address))
    }

    /// Returns whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<IpNetwork> for Networks {
    fn from_iter<T: IntoIterator<Item = IpNetwork>>(networks: T) -> Self {
        // In order of the first address, and the widest of those first, a network comes after those that contain it.
        let mut all: Vec<(IpAddr, u8)> =
            networks.into_iter().map(|network| (network.network(), network.prefix())).collect();
        all.sort_unstable();
        let mut kept = BTreeSet::new();
        let mut outer: Option<IpNetwork> = None;
        for (address, prefix) in all {
            if outer.is_some_and(|outer| outer.contains(address)) {
                continue;
            }
            // The length is that of a network.
            let Ok(network) = IpNetwork::new(address, prefix) else { continue };
            kept.insert(network);
            outer = Some(network);
        }
        Self(kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn networks(list: &[&str]) -> Networks {
        list.iter().map(|network| network.parse::<IpNetwork>().unwrap()).collect()
    }

    #[test]
    fn networks_in_others_are_left_out_and_those_that_touch_are_not_merged() {
        assert_eq!(networks(&["10.1.0.0/24", "10.0.0.0/8", "10.0.0.0/24"]), networks(&["10.0.0.0/8"]));
        assert_eq!(networks(&["10.0.0.7/8"]), networks(&["10.0.0.0/8"]), "host bits");
        let apart = networks(&["10.0.0.0/25", "10.0.0.128/25", "fd00::/64", "fd00::1/128", "0.0.0.0/32"]);
        assert_eq!(apart.iter().count(), 4);
        assert!(apart.contains("10.0.0.200".parse().unwrap()) && !apart.contains("::".parse().unwrap()));
        assert_eq!(networks(&["0.0.0.0/0", "255.255.255.255/32", "::/0", "fd00::/8"]).iter().count(), 2);
    }

    proptest! {
        #[test]
        fn the_addresses_are_the_same(list in proptest::collection::vec((0..32u8, 27..=32u8), 0..8)) {
            let all: Vec<IpNetwork> =
                list.iter().map(|(last, prefix)| IpNetwork::new([10, 0, 0, *last].into(), *prefix).unwrap()).collect();
            let set: Networks = all.iter().copied().collect();
            for last in 0..32 {
                let address = IpAddr::from([10, 0, 0, last]);
                let inside = all.iter().any(|network| network.contains(address));
                prop_assert_eq!(set.contains(address), inside);
                prop_assert_eq!(set.iter().filter(|network| network.contains(address)).count(), usize::from(inside));
            }
        }
    }
}
