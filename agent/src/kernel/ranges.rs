//! Sets of addresses as nf_tables keeps them: ranges that neither overlap nor touch.

use super::IpFamily;
use ipnetwork::IpNetwork;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// A set of addresses of both families, as ranges from the first address to the last. Equal sets have equal values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ranges(BTreeMap<IpAddr, IpAddr>);

impl Ranges {
    /// Adds a range of one family, both ends included. Ignores a range that ends before it begins.
    pub fn insert(&mut self, first: IpAddr, last: IpAddr) {
        if IpFamily::of(first) != IpFamily::of(last) || first > last {
            return;
        }
        let (mut first, mut last) = (first, last);
        // Merge with the ranges that overlap or touch the new one.
        let begins_by = after(last).unwrap_or(last);
        let touching = |(begin, end): &(&IpAddr, &IpAddr)| {
            IpFamily::of(**begin) == IpFamily::of(first) && after(**end).is_none_or(|next| next >= first)
        };
        let near = self.0.range(..=begins_by).rev().take_while(touching);
        let near: Vec<(IpAddr, IpAddr)> = near.map(|(begin, end)| (*begin, *end)).collect();
        for (begin, end) in near {
            self.0.remove(&begin);
            first = first.min(begin);
            last = last.max(end);
        }
        self.0.insert(first, last);
    }

    /// Returns the ranges of a family in order.
    pub fn family(&self, family: IpFamily) -> impl Iterator<Item = (IpAddr, IpAddr)> {
        self.0
            .iter()
            .map(|(first, last)| (*first, *last))
            .filter(move |(first, _)| IpFamily::of(*first) == family)
    }

    /// Returns whether the set contains an address.
    pub fn contains(&self, address: IpAddr) -> bool {
        let before = self.0.range(..=address).next_back();
        before.is_some_and(|(first, last)| IpFamily::of(*first) == IpFamily::of(address) && *last >= address)
    }

    /// Returns whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds all ranges of another set.
    pub fn extend(&mut self, other: &Ranges) {
        other.0.iter().for_each(|(first, last)| self.insert(*first, *last));
    }
}

impl FromIterator<IpNetwork> for Ranges {
    fn from_iter<T: IntoIterator<Item = IpNetwork>>(networks: T) -> Self {
        let mut ranges = Self::default();
        networks.into_iter().for_each(|network| ranges.insert(network.network(), network.broadcast()));
        ranges
    }
}

/// Returns the next address; `None` after the last of the family.
pub fn after(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(address) => address.to_bits().checked_add(1).map(|bits| IpAddr::V4(bits.into())),
        IpAddr::V6(address) => address.to_bits().checked_add(1).map(|bits| IpAddr::V6(bits.into())),
    }
}

/// Returns the previous address; `None` before the first of the family.
pub fn before(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(address) => address.to_bits().checked_sub(1).map(|bits| IpAddr::V4(bits.into())),
        IpAddr::V6(address) => address.to_bits().checked_sub(1).map(|bits| IpAddr::V6(bits.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ranges(networks: &[&str]) -> Ranges {
        networks.iter().map(|network| network.parse::<IpNetwork>().unwrap()).collect()
    }

    #[test]
    fn ranges_that_touch_or_overlap_are_merged() {
        assert_eq!(ranges(&["10.0.0.0/25", "10.0.0.128/25"]), ranges(&["10.0.0.0/24"]));
        assert_eq!(ranges(&["10.0.0.0/8", "10.1.0.0/24"]), ranges(&["10.0.0.0/8"]));
        assert_eq!(ranges(&["10.1.0.0/24", "10.0.0.0/8"]), ranges(&["10.0.0.0/8"]));
        assert_eq!(ranges(&["0.0.0.0/1", "128.0.0.0/1"]), ranges(&["0.0.0.0/0"]));
        let apart = ranges(&["10.0.0.0/24", "10.0.2.0/24", "255.255.255.0/24", "::/64", "fd00::/64"]);
        assert_eq!(IpFamily::ALL.map(|family| apart.family(family).count()), [3, 2], "{apart:?}");
        assert!(apart.contains("255.255.255.255".parse().unwrap()));
        assert!(!apart.contains("10.0.1.0".parse().unwrap()));
        assert!(apart.contains("fd00::1".parse().unwrap()));
    }

    proptest! {
        #[test]
        fn the_order_of_insertion_does_not_matter(list in proptest::collection::vec((0_u8..60, 0_u8..60), 0..12)) {
            let at = |last: u8| IpAddr::from([10, 0, 0, last]);
            let build = |list: &[(u8, u8)]| {
                let mut ranges = Ranges::default();
                list.iter().for_each(|(first, last)| ranges.insert(at(*first), at(*last)));
                ranges
            };
            let forwards = build(&list);
            let mut reversed = list.clone();
            reversed.reverse();
            prop_assert_eq!(&forwards, &build(&reversed));
            for address in 0..=60 {
                let member = list.iter().any(|(first, last)| (*first..=*last).contains(&address));
                prop_assert_eq!(forwards.contains(at(address)), member, "{}", address);
            }
            let all: Vec<_> = forwards.family(IpFamily::V4).collect();
            prop_assert!(all.windows(2).all(|pair| after(pair[0].1).is_some_and(|next| next < pair[1].0)));
        }
    }
}
