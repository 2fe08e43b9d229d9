//! Address families, and prefixes as NLRI encodes them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// An address family with its subsequent address family (RFC 4760 §3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Family {
    /// AFI 1, SAFI 1.
    Ipv4Unicast,
    /// AFI 2, SAFI 1.
    Ipv6Unicast,
}

impl Family {
    /// Returns the family of an AFI and a SAFI (RFC 4760 §3); `None` for an unsupported one.
    pub fn from_codes(afi: u16, safi: u8) -> Option<Self> {
        match (afi, safi) {
            (1, 1) => Some(Self::Ipv4Unicast),
            (2, 1) => Some(Self::Ipv6Unicast),
            _ => None,
        }
    }

    /// Returns its AFI and SAFI.
    pub fn codes(self) -> (u16, u8) {
        match self {
            Self::Ipv4Unicast => (1, 1),
            Self::Ipv6Unicast => (2, 1),
        }
    }

    /// Returns the longest prefix length, in bits.
    pub fn max_length(self) -> u8 {
        match self {
            Self::Ipv4Unicast => 32,
            Self::Ipv6Unicast => 128,
        }
    }
}

/// A set of families.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FamilySet(u8);

impl FamilySet {
    /// The empty set.
    pub const NONE: Self = Self(0);

    fn bit(family: Family) -> u8 {
        match family {
            Family::Ipv4Unicast => 1,
            Family::Ipv6Unicast => 2,
        }
    }

    /// Returns whether the set contains the family.
    pub fn contains(self, family: Family) -> bool {
        self.0 & Self::bit(family) != 0
    }
}

impl FromIterator<Family> for FamilySet {
    fn from_iter<T: IntoIterator<Item = Family>>(families: T) -> Self {
        Self(families.into_iter().map(Self::bit).fold(0, std::ops::BitOr::bitor))
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ipv4Unicast => "IPv4 unicast",
            Self::Ipv6Unicast => "IPv6 unicast",
        })
    }
}

/// A destination: an address with the bits beyond the length cleared, so that equal prefixes compare equal.
///
/// Ordered by family, address, length.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Prefix {
    /// An IPv4 prefix.
    V4(Ipv4Addr, u8),
    /// An IPv6 prefix.
    V6(Ipv6Addr, u8),
}

impl Prefix {
    /// Returns the prefix of `length` bits that contains `address`; `None` if the family has no such length.
    pub fn new(address: IpAddr, length: u8) -> Option<Self> {
        match address {
            IpAddr::V4(a) if length <= 32 => {
                let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
                Some(Self::V4(Ipv4Addr::from_bits(a.to_bits() & mask), length))
            }
            IpAddr::V6(a) if length <= 128 => {
                let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
                Some(Self::V6(Ipv6Addr::from_bits(a.to_bits() & mask), length))
            }
            _ => None,
        }
    }

    /// Returns the family whose NLRI this is.
    pub fn family(&self) -> Family {
        match self {
            Self::V4(..) => Family::Ipv4Unicast,
            Self::V6(..) => Family::Ipv6Unicast,
        }
    }

    /// Returns the network address.
    pub fn address(&self) -> IpAddr {
        match *self {
            Self::V4(a, _) => a.into(),
            Self::V6(a, _) => a.into(),
        }
    }

    /// Returns the prefix length in bits.
    pub fn length(&self) -> u8 {
        match *self {
            Self::V4(_, l) | Self::V6(_, l) => l,
        }
    }

    /// Returns whether `other` is within this prefix, or equals it.
    pub fn contains(&self, other: &Prefix) -> bool {
        self.length() <= other.length() && Self::new(other.address(), self.length()) == Some(*self)
    }
}

/// A path to a prefix, as an UPDATE identifies it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Nlri {
    /// The destination.
    pub prefix: Prefix,
    /// The Path Identifier, which distinguishes the sender's paths to the prefix (RFC 7911 §3); `None` if the session does
    /// not carry Path Identifiers for the family. Its value, 0 included, has no other meaning.
    pub path_id: Option<u32>,
}

impl From<Prefix> for Nlri {
    fn from(prefix: Prefix) -> Self {
        Self { prefix, path_id: None }
    }
}

/// The error of text that is no prefix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no prefix: write an address, a slash and a length, such as 10.0.0.0/8")]
#[non_exhaustive]
pub struct ParsePrefixError {
    /// The text.
    pub text: String,
}

impl FromStr for Prefix {
    type Err = ParsePrefixError;

    /// Reads `address/length`. Bits beyond the length are cleared.
    fn from_str(text: &str) -> Result<Self, ParsePrefixError> {
        let parse = || {
            let (address, length) = text.split_once('/')?;
            Self::new(address.parse().ok()?, length.parse().ok()?)
        };
        parse().ok_or_else(|| ParsePrefixError { text: text.into() })
    }
}

#[cfg(feature = "ipnetwork")]
impl From<ipnetwork::IpNetwork> for Prefix {
    fn from(net: ipnetwork::IpNetwork) -> Self {
        match net {
            ipnetwork::IpNetwork::V4(n) => Self::V4(n.network(), n.prefix()),
            ipnetwork::IpNetwork::V6(n) => Self::V6(n.network(), n.prefix()),
        }
    }
}

#[cfg(feature = "ipnetwork")]
impl From<Prefix> for ipnetwork::IpNetwork {
    fn from(prefix: Prefix) -> Self {
        match prefix {
            Prefix::V4(a, l) => {
                Self::V4(ipnetwork::Ipv4Network::new_checked(a, l).expect("a prefix's length fits"))
            }
            Prefix::V6(a, l) => {
                Self::V6(ipnetwork::Ipv6Network::new_checked(a, l).expect("a prefix's length fits"))
            }
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address(), self.length())
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
