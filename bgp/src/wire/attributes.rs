//! Path attributes, decoded (RFC 4271 §5). Next hops and NLRI are not among them: they are in the [`super::Reach`] of an
//! UPDATE.

use std::fmt;
use std::net::Ipv4Addr;

use bytes::Bytes;

/// The highest number of ASes in one segment: its length is one octet (RFC 4271 §4.3).
const MAX_SEGMENT: usize = 255;

/// ORIGIN (RFC 4271 §5.1.1), in order of preference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Origin {
    /// Learned from an interior protocol, or configured.
    Igp,
    /// Learned through EGP.
    Egp,
    /// Learned some other way.
    Incomplete,
}

/// One segment of an AS_PATH (RFC 4271 §4.3).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Segment {
    /// Ordered: the ASes in the order they were traversed.
    Sequence(Vec<u32>),
    /// Unordered: counts as one hop.
    Set(Vec<u32>),
}

/// AS_PATH (RFC 4271 §5.1.2), always with 4-octet numbers: AS4_PATH is merged when read (RFC 6793 §4.2.3).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct AsPath(pub Vec<Segment>);

impl AsPath {
    /// Returns the number of ASes that it crosses; a set counts as one (RFC 4271 §9.1.2.2 a).
    pub fn hops(&self) -> usize {
        let hops = |segment: &Segment| match segment {
            Segment::Sequence(numbers) => numbers.len(),
            Segment::Set(numbers) => usize::from(!numbers.is_empty()),
        };
        self.0.iter().map(hops).sum()
    }

    /// Prepends an AS number: to the first sequence if there is room, else in a new one (RFC 4271 §5.1.2 b).
    pub fn prepend(&mut self, asn: u32) {
        match self.0.first_mut() {
            Some(Segment::Sequence(numbers)) if numbers.len() < MAX_SEGMENT => numbers.insert(0, asn),
            _ => self.0.insert(0, Segment::Sequence(vec![asn])),
        }
    }
}

/// AGGREGATOR (RFC 4271 §5.1.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Aggregator {
    /// The AS that aggregated.
    pub asn: u32,
    /// The speaker that aggregated.
    pub address: Ipv4Addr,
}

/// An extended community (RFC 4360 §2), in its encoded form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExtendedCommunity(pub [u8; 8]);

impl ExtendedCommunity {
    /// Returns whether it may leave the AS (RFC 4360 §2: the T bit is clear).
    pub fn is_transitive(self) -> bool {
        self.0[0] & 0x40 == 0
    }
}

/// A large community (RFC 8092 §3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LargeCommunity {
    /// The Global Administrator: an AS number.
    pub global: u32,
    /// Local Data Part 1.
    pub local1: u32,
    /// Local Data Part 2.
    pub local2: u32,
}

impl LargeCommunity {
    pub(super) fn from_octets(octets: &[u8; 12]) -> Self {
        let part = |n: usize| u32::from_be_bytes([octets[n], octets[n + 1], octets[n + 2], octets[n + 3]]);
        Self { global: part(0), local1: part(4), local2: part(8) }
    }
}

impl fmt::Display for LargeCommunity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.global, self.local1, self.local2)
    }
}

/// An unrecognized attribute, kept to be passed on (RFC 4271 §5).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Unknown {
    /// The Optional, Transitive and Partial bits as received; on export Partial is set where RFC 4271 §5 requires it.
    pub flags: u8,
    /// The type code.
    pub code: u8,
    /// The value.
    pub value: Bytes,
}

/// A list that occupies one machine word while empty, as most do: a table holds attributes by the hundred thousand.
pub type List<T> = thin_vec::ThinVec<T>;

/// All attributes of a path except its next hop. Interned by the tables, so that paths share them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Attributes {
    /// ORIGIN.
    pub origin: Origin,
    /// AS_PATH.
    pub as_path: AsPath,
    /// MULTI_EXIT_DISC (RFC 4271 §5.1.4).
    pub med: Option<u32>,
    /// LOCAL_PREF (RFC 4271 §5.1.5).
    pub local_pref: Option<u32>,
    /// ATOMIC_AGGREGATE (RFC 4271 §5.1.6).
    pub atomic_aggregate: bool,
    /// AGGREGATOR.
    pub aggregator: Option<Aggregator>,
    /// COMMUNITIES (RFC 1997), sorted, without duplicates.
    pub communities: List<u32>,
    /// ORIGINATOR_ID (RFC 4456 §8).
    pub originator_id: Option<Ipv4Addr>,
    /// CLUSTER_LIST (RFC 4456 §8), nearest cluster first.
    pub cluster_list: List<Ipv4Addr>,
    /// EXTENDED_COMMUNITIES (RFC 4360), sorted, without duplicates.
    pub extended_communities: List<ExtendedCommunity>,
    /// LARGE_COMMUNITY (RFC 8092), sorted, without duplicates.
    pub large_communities: List<LargeCommunity>,
    /// Only to Customer (OTC): the AS that set it (RFC 9234 §5).
    pub only_to_customer: Option<u32>,
    /// All other attributes, ordered by type code: optional transitive ones only (RFC 4271 §5).
    pub unknown: List<Unknown>,
}

impl Attributes {
    /// Returns the attributes of an originated path: ORIGIN IGP, an empty AS_PATH, nothing else.
    pub fn local() -> Self {
        Self {
            origin: Origin::Igp,
            as_path: AsPath::default(),
            med: None,
            local_pref: None,
            atomic_aggregate: false,
            aggregator: None,
            communities: List::new(),
            originator_id: None,
            cluster_list: List::new(),
            extended_communities: List::new(),
            large_communities: List::new(),
            only_to_customer: None,
            unknown: List::new(),
        }
    }
}
