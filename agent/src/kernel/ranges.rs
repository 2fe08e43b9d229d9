//! Sets of addresses as nf_tables keeps them: ranges that neither overlap nor touch.

use ipnetwork::IpNetwork;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Addresses of both families, as ranges: first address to last. The same addresses are always the same value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ranges(BTreeMap<IpAddr, IpAddr>);

impl Ranges {
    /// Adds a range, both ends included, of one family; one that ends before it begins is no range.
    pub fn insert(&mut self, first: IpAddr, last: IpAddr) {
        if first.is_ipv4() != last.is_ipv4() || first > last {
            return;
        }
        let (mut first, mut last) = (first, last);
        // Those that begin before ours ends (or right after) and end after ours begins (or right before).
        let begins_by = after(last).unwrap_or(last);
        let touching = |(begin, end): &(&IpAddr, &IpAddr)| {
            begin.is_ipv4() == first.is_ipv4() && after(**end).is_none_or(|next| next >= first)
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

    /// The ranges of a family in order.
    pub fn family(&self, v4: bool) -> impl Iterator<Item = (IpAddr, IpAddr)> {
        self.0.iter().map(|(first, last)| (*first, *last)).filter(move |(first, _)| first.is_ipv4() == v4)
    }

    /// Whether an address is among them.
    pub fn contains(&self, address: IpAddr) -> bool {
        let before = self.0.range(..=address).next_back();
        before.is_some_and(|(first, last)| first.is_ipv4() == address.is_ipv4() && *last >= address)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds all ranges of another.
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

/// The next address; `None` after the last of the family.
pub fn after(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(address) => address.to_bits().checked_add(1).map(|bits| IpAddr::V4(bits.into())),
        IpAddr::V6(address) => address.to_bits().checked_add(1).map(|bits| IpAddr::V6(bits.into())),
    }
}

/// The address before; `None` before the first of the family.
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
    fn what_touches_or_overlaps_is_one() {
        assert_eq!(ranges(&["10.0.0.0/25", "10.0.0.128/25"]), ranges(&["10.0.0.0/24"]));
        assert_eq!(ranges(&["10.0.0.0/8", "10.1.0.0/24"]), ranges(&["10.0.0.0/8"]));
        assert_eq!(ranges(&["10.1.0.0/24", "10.0.0.0/8"]), ranges(&["10.0.0.0/8"]));
        assert_eq!(ranges(&["0.0.0.0/1", "128.0.0.0/1"]), ranges(&["0.0.0.0/0"]));
        let apart = ranges(&["10.0.0.0/24", "10.0.2.0/24", "255.255.255.0/24", "::/64", "fd00::/64"]);
        assert_eq!((apart.family(true).count(), apart.family(false).count()), (3, 2), "{apart:?}");
        assert!(apart.contains("255.255.255.255".parse().unwrap()));
        assert!(!apart.contains("10.0.1.0".parse().unwrap()));
        assert!(apart.contains("fd00::1".parse().unwrap()));
    }

    proptest! {
        #[test]
        fn order_does_not_matter_and_members_are_members(list in proptest::collection::vec((0_u8..60, 0_u8..60), 0..12)) {
            let at = |last: u8| IpAddr::from([10, 0, 0, last]);
            let build = |list: &[(u8, u8)]| {
                let mut ranges = Ranges::default();
                list.iter().for_each(|(first, last)| ranges.insert(at(*first), at(*last)));
                ranges
            };
            let forth = build(&list);
            let mut turned = list.clone();
            turned.reverse();
            prop_assert_eq!(&forth, &build(&turned));
            for address in 0..=60 {
                let member = list.iter().any(|(first, last)| (*first..=*last).contains(&address));
                prop_assert_eq!(forth.contains(at(address)), member, "{}", address);
            }
            let all: Vec<_> = forth.family(true).collect();
            prop_assert!(all.windows(2).all(|pair| after(pair[0].1).is_some_and(|next| next < pair[1].0)));
        }
    }
}
