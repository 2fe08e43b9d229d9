//! The prefixes and addresses that are not unicast (RFC 4271 §6.3: "semantically incorrect").
//!
//! | block | reason | as a prefix | as a next hop |
//! |---|---|---|---|
//! | 0.0.0.0/8 | "this network" (RFC 1122 §3.2.1.3) | no | no |
//! | 127.0.0.0/8, ::1/128 | loopback (RFC 1122 §3.2.1.3, RFC 4291 §2.5.3) | no | no |
//! | 224.0.0.0/4, ff00::/8 | multicast (RFC 5771, RFC 4291 §2.7) | no | no |
//! | 240.0.0.0/4 | reserved, with the broadcast address (RFC 1112 §4) | no | no |
//! | ::/128 | unspecified (RFC 4291 §2.5.2) | no | no |
//! | ::ffff:0:0/96 | IPv4-mapped (RFC 4291 §2.5.5.2) | no | as the IPv4 address in it |
//! | fe80::/10 | link-local: not forwarded by routers (RFC 4291 §2.5.6) | no | yes, on its link |
//!
//! A prefix that contains such a block and more, such as 0.0.0.0/0, is unicast. BIRD ignores much the same prefixes, and
//! 169.254.0.0/16, which is accepted here: clusters use addresses of it for services. FRR ignores multicast and
//! link-local prefixes on receipt.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Prefix;

impl Prefix {
    /// Returns whether the prefix contains unicast addresses that routers forward to.
    pub fn is_unicast(&self) -> bool {
        match *self {
            Self::V4(address, length) => {
                let [first, ..] = address.octets();
                !(length >= 8 && matches!(first, 0 | 127) || length >= 3 && first >= 224)
            }
            Self::V6(address, length) => {
                let [first, ..] = address.segments();
                !(length >= 8 && first >= 0xff00
                    || length >= 10 && first & 0xffc0 == 0xfe80
                    || length >= 96 && address.to_ipv4_mapped().is_some()
                    || length == 128 && (address.is_unspecified() || address.is_loopback()))
            }
        }
    }
}

/// Returns whether an address can be a next hop: the unicast address of a host. Whether it can be reached is decided
/// elsewhere.
pub(crate) fn is_host(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => is_host_v4(address),
        IpAddr::V6(address) => is_host_v6(address),
    }
}

fn is_host_v4(address: Ipv4Addr) -> bool {
    let [first, ..] = address.octets();
    !matches!(first, 0 | 127 | 224..)
}

fn is_host_v6(address: Ipv6Addr) -> bool {
    !(address.is_unspecified() || address.is_loopback() || address.is_multicast())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_that_are_not_unicast() {
        for (text, expected) in [
            ("0.0.0.0/0", true),
            ("0.0.0.0/1", true),
            ("0.0.0.0/8", false),
            ("0.1.0.0/16", false),
            ("1.0.0.0/8", true),
            ("126.0.0.0/7", true),
            ("126.0.0.0/8", true),
            ("127.0.0.0/8", false),
            ("127.0.0.1/32", false),
            ("128.0.0.0/1", true),
            ("169.254.0.0/16", true),
            ("192.0.0.0/2", true),
            ("223.255.255.0/24", true),
            ("224.0.0.0/3", false),
            ("224.0.0.0/4", false),
            ("239.1.2.3/32", false),
            ("240.0.0.0/4", false),
            ("255.255.255.255/32", false),
            ("::/0", true),
            ("::/96", true),
            ("::/128", false),
            ("::1/128", false),
            ("::2/128", true),
            ("::ffff:0:0/95", true),
            ("::ffff:0:0/96", false),
            ("::ffff:10.0.0.0/104", false),
            ("2001:db8::/32", true),
            ("fd00::/8", true),
            ("fe80::/9", true),
            ("fe80::/10", false),
            ("fe80::1/128", false),
            ("fec0::/10", true),
            ("fe00::/7", true),
            ("ff00::/8", false),
            ("ff02::1/128", false),
        ] {
            let prefix: Prefix = text.parse::<ipnetwork::IpNetwork>().expect("a prefix").into();
            assert_eq!(prefix.is_unicast(), expected, "{text}");
        }
    }

    #[test]
    fn addresses_that_are_not_hosts() {
        for (text, expected) in [
            ("0.0.0.0", false),
            ("0.1.2.3", false),
            ("10.0.0.1", true),
            ("127.0.0.1", false),
            ("127.255.0.1", false),
            ("169.254.0.1", true),
            ("223.255.255.255", true),
            ("224.0.0.1", false),
            ("240.0.0.1", false),
            ("255.255.255.255", false),
            ("::", false),
            ("::1", false),
            ("2001:db8::1", true),
            ("fe80::1", true),
            ("ff02::1", false),
            ("::ffff:10.0.0.1", true),
            ("::ffff:127.0.0.1", false),
            ("::ffff:224.0.0.1", false),
        ] {
            assert_eq!(is_host(text.parse().expect("an address")), expected, "{text}");
        }
    }
}
