//! Selection of the next address of a pod CIDR. Pure: the caller checks whether an address is taken.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

use crate::IpFamily;

/// Returns the next free address of `cidr` after `last`, continuing at the start of the CIDR, so that a released address is
/// the last to be allocated again (others may still have it in their caches). `None`: all addresses are taken.
///
/// These are never allocated: the network's own address (for IPv6 the subnet-router anycast address, RFC 4291 §2.6.1),
/// the first host, which is kept for the node, and IPv4's broadcast address.
pub(crate) fn next_free<E>(
    cidr: IpNetwork,
    last: Option<IpAddr>,
    mut taken: impl FnMut(IpAddr) -> Result<bool, E>,
) -> Result<Option<IpAddr>, E> {
    let Some((first, end)) = usable(cidr) else {
        return Ok(None);
    };
    let start = match last.filter(|last| cidr.contains(*last)).map(number) {
        Some(last) if (first..end).contains(&last) => last + 1,
        _ => first,
    };
    for candidate in (start..=end).chain(first..start) {
        let address = address(candidate, IpFamily::of_network(&cidr));
        if !taken(address)? {
            return Ok(Some(address));
        }
    }
    Ok(None)
}

/// Returns the first and last address that may be allocated, as numbers; `None` if the CIDR is too small.
fn usable(cidr: IpNetwork) -> Option<(u128, u128)> {
    let network = number(cidr.network());
    let family = IpFamily::of_network(&cidr);
    let kept_at_end = match family {
        IpFamily::V4 => 1,
        IpFamily::V6 => 0,
    };
    let hosts = u128::MAX.checked_shr(128 - u32::from(family.bits() - cidr.prefix())).unwrap_or(0);
    let first = network.checked_add(2)?;
    let last = (network | hosts).checked_sub(kept_at_end)?;
    (first <= last).then_some((first, last))
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u32::from(v4).into(),
        IpAddr::V6(v6) => v6.into(),
    }
}

fn address(number: u128, family: IpFamily) -> IpAddr {
    match family {
        // The range was made from a 32-bit network, so no bits are lost.
        IpFamily::V4 => IpAddr::V4(Ipv4Addr::from(number as u32)),
        IpFamily::V6 => IpAddr::V6(Ipv6Addr::from(number)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use std::convert::Infallible;

    fn next(cidr: &str, last: Option<IpAddr>, taken: &BTreeSet<IpAddr>) -> Option<IpAddr> {
        let Ok(found) = next_free(cidr.parse().unwrap(), last, |a| Ok::<_, Infallible>(taken.contains(&a)));
        found
    }

    fn all(cidr: &str) -> Vec<String> {
        let mut taken = BTreeSet::new();
        while let Some(address) = next(cidr, None, &taken) {
            taken.insert(address);
        }
        taken.iter().map(IpAddr::to_string).collect()
    }

    #[test]
    fn reserved_addresses_are_never_allocated() {
        assert_eq!(all("10.0.0.0/29"), ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]);
        assert_eq!(all("10.0.0.0/30"), ["10.0.0.2"]);
        assert_eq!(all("255.255.255.248/30"), ["255.255.255.250"]);
        assert_eq!(all("fd00::/126"), ["fd00::2", "fd00::3"]);
        for too_small in ["10.0.0.0/31", "10.0.0.1/32", "255.255.255.255/32", "fd00::/127", "fd00::1/128"] {
            assert!(all(too_small).is_empty(), "{too_small}");
        }
        assert_eq!(all("0.0.0.0/0".replace("/0", "/28").as_str()).len(), 13);
    }

    #[test]
    fn huge_networks_are_not_walked() {
        let none = BTreeSet::new();
        assert_eq!(next("::/0", None, &none), Some("::2".parse().unwrap()));
        let last = "fd00::ffff:ffff:ffff:ffff".parse().ok();
        assert_eq!(next("fd00::/64", last, &none), Some("fd00::2".parse().unwrap()));
    }

    #[test]
    fn a_released_address_is_the_last_to_be_allocated_again() {
        let mut taken = BTreeSet::new();
        let mut last = None;
        let mut seen = Vec::new();
        for _ in 0..6 {
            last = next("10.0.0.0/29", last, &taken);
            seen.push(last.unwrap());
            taken.clear();
        }
        assert_eq!(seen[..5].iter().collect::<BTreeSet<_>>().len(), 5);
        assert_eq!(seen[5], seen[0]);
    }

    proptest! {
        /// For any order of allocations and releases: no address is allocated twice or from outside the CIDR, and
        /// allocation fails only when every usable address is taken.
        #[test]
        fn no_duplicates_and_no_failure_before_exhaustion(
            base in any::<u32>(),
            prefix in 24u8..=32,
            v6 in any::<bool>(),
            operations in prop::collection::vec(any::<Option<prop::sample::Index>>(), 0..600),
        ) {
            let cidr = if v6 {
                IpNetwork::new(IpAddr::V6(Ipv6Addr::from((0xfd << 120) | u128::from(base))), prefix + 96).unwrap()
            } else {
                IpNetwork::new(IpAddr::V4(base.into()), prefix).unwrap()
            };
            let size = usable(cidr).map_or(0, |(first, last)| last - first + 1) as usize;
            let mut taken = BTreeSet::new();
            let mut last = None;
            for operation in operations {
                match operation {
                    Some(index) if !taken.is_empty() => {
                        let address = *index.get(&taken.iter().copied().collect::<Vec<IpAddr>>());
                        taken.remove(&address);
                    }
                    _ => match next_free(cidr, last, |a| Ok::<_, Infallible>(taken.contains(&a))).unwrap() {
                        Some(address) => {
                            prop_assert!(cidr.contains(address));
                            prop_assert!(taken.insert(address), "{address} allocated twice");
                            last = Some(address);
                        }
                        None => prop_assert_eq!(taken.len(), size),
                    },
                }
            }
        }
    }
}
