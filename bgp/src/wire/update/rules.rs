//! RFC 7606 in one table: the valid form of each attribute, and the consequence of an invalid one.

/// The bits of the flags octet (RFC 4271 §4.3).
pub(crate) const OPTIONAL: u8 = 0x80;
pub(crate) const TRANSITIVE: u8 = 0x40;
pub(crate) const PARTIAL: u8 = 0x20;
pub(crate) const EXTENDED_LENGTH: u8 = 0x10;

const WELL_KNOWN: u8 = TRANSITIVE;
const OPTIONAL_TRANSITIVE: u8 = OPTIONAL | TRANSITIVE;

pub(crate) const ORIGIN: u8 = 1;
pub(crate) const AS_PATH: u8 = 2;
pub(crate) const NEXT_HOP: u8 = 3;
pub(crate) const MED: u8 = 4;
pub(crate) const LOCAL_PREF: u8 = 5;
pub(crate) const ATOMIC_AGGREGATE: u8 = 6;
pub(crate) const AGGREGATOR: u8 = 7;
pub(crate) const COMMUNITIES: u8 = 8;
pub(crate) const ORIGINATOR_ID: u8 = 9;
pub(crate) const CLUSTER_LIST: u8 = 10;
pub(crate) const MP_REACH: u8 = 14;
pub(crate) const MP_UNREACH: u8 = 15;
pub(crate) const EXTENDED_COMMUNITIES: u8 = 16;
pub(crate) const AS4_PATH: u8 = 17;
pub(crate) const AS4_AGGREGATOR: u8 = 18;
pub(crate) const IPV6_EXTENDED_COMMUNITIES: u8 = 25;
pub(crate) const LARGE_COMMUNITIES: u8 = 32;
pub(crate) const ONLY_TO_CUSTOMER: u8 = 35;

/// Subcodes of the UPDATE Message Error (RFC 4271 §6.3).
pub(crate) mod subcode {
    pub(crate) const MALFORMED_LIST: u8 = 1;
    pub(crate) const UNRECOGNIZED: u8 = 2;
    pub(crate) const MISSING: u8 = 3;
    pub(crate) const FLAGS: u8 = 4;
    pub(crate) const LENGTH: u8 = 5;
    pub(crate) const ORIGIN: u8 = 6;
    pub(crate) const NEXT_HOP: u8 = 8;
    pub(crate) const OPTIONAL: u8 = 9;
    pub(crate) const NETWORK: u8 = 10;
    pub(crate) const AS_PATH: u8 = 11;
}

/// The consequence of a malformed attribute, the mildest first (RFC 7606 §2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Cost {
    /// Attribute discard.
    Discard,
    /// Treat-as-withdraw, for the routes of the UPDATE.
    Withdraw,
    /// Session reset.
    Reset,
}

/// The valid lengths of an attribute's value, in octets.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Length {
    Exactly(usize),
    AtLeast(usize),
    /// Not 0.
    MultipleOf(usize),
    /// AGGREGATOR: an AS number as wide as the session's, and an address.
    Aggregator,
    /// Any; the content is checked by itself.
    Any,
}

impl Length {
    pub(crate) fn admits(self, length: usize, four_octet_as: bool) -> bool {
        match self {
            Self::Exactly(n) => length == n,
            Self::AtLeast(n) => length >= n,
            Self::MultipleOf(n) => length != 0 && length.is_multiple_of(n),
            Self::Aggregator => length == if four_octet_as { 8 } else { 6 },
            Self::Any => true,
        }
    }
}

/// The rule for an attribute.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rule {
    pub code: u8,
    pub name: &'static str,
    /// The required Optional and Transitive bits.
    pub flags: u8,
    pub length: Length,
    /// The consequence of invalid flags, length or content.
    pub cost: Cost,
    /// The subcode for invalid content.
    pub subcode: u8,
    /// Discarded if it comes from another AS (RFC 7606 §7.5, §7.9, §7.10).
    pub internal_only: bool,
}

const fn rule(code: u8, name: &'static str, flags: u8, length: Length, cost: Cost, subcode: u8) -> Rule {
    Rule { code, name, flags, length, cost, subcode, internal_only: false }
}

const fn internal(rule: Rule) -> Rule {
    Rule { internal_only: true, ..rule }
}

/// The recognized attributes. Sections are RFC 7606's unless another RFC is named.
///
/// Invalid flags have the consequence of invalid content. §3 (c) requires "treat as withdraw" in general, but by §3 (f) no
/// error of ATOMIC_AGGREGATE and AGGREGATOR affects more than the attribute, and by RFC 6793 §6 none of AS4_PATH and
/// AS4_AGGREGATOR does.
#[rustfmt::skip]
const RULES: [Rule; 18] = {
    use Cost::{Discard, Reset, Withdraw};
    use Length::{Aggregator, Any, AtLeast, Exactly, MultipleOf};
    [
        rule(ORIGIN, "ORIGIN", WELL_KNOWN, Exactly(1), Withdraw, subcode::ORIGIN),                                 // §7.1
        rule(AS_PATH, "AS_PATH", WELL_KNOWN, Any, Withdraw, subcode::AS_PATH),                                     // §7.2
        rule(NEXT_HOP, "NEXT_HOP", WELL_KNOWN, Exactly(4), Withdraw, subcode::NEXT_HOP),                           // §7.3
        rule(MED, "MULTI_EXIT_DISC", OPTIONAL, Exactly(4), Withdraw, subcode::OPTIONAL),                           // §7.4
        internal(rule(LOCAL_PREF, "LOCAL_PREF", WELL_KNOWN, Exactly(4), Withdraw, subcode::LENGTH)),               // §7.5
        rule(ATOMIC_AGGREGATE, "ATOMIC_AGGREGATE", WELL_KNOWN, Exactly(0), Discard, subcode::LENGTH),              // §7.6
        rule(AGGREGATOR, "AGGREGATOR", OPTIONAL_TRANSITIVE, Aggregator, Discard, subcode::OPTIONAL),               // §7.7
        rule(COMMUNITIES, "COMMUNITIES", OPTIONAL_TRANSITIVE, MultipleOf(4), Withdraw, subcode::OPTIONAL),         // §7.8
        internal(rule(ORIGINATOR_ID, "ORIGINATOR_ID", OPTIONAL, Exactly(4), Withdraw, subcode::OPTIONAL)),         // §7.9
        internal(rule(CLUSTER_LIST, "CLUSTER_LIST", OPTIONAL, MultipleOf(4), Withdraw, subcode::OPTIONAL)),        // §7.10
        rule(MP_REACH, "MP_REACH_NLRI", OPTIONAL, AtLeast(5), Reset, subcode::OPTIONAL),                           // §5.3, §7.11
        rule(MP_UNREACH, "MP_UNREACH_NLRI", OPTIONAL, AtLeast(3), Reset, subcode::OPTIONAL),                       // §5.3, §7.12
        rule(EXTENDED_COMMUNITIES, "EXTENDED_COMMUNITIES", OPTIONAL_TRANSITIVE, MultipleOf(8), Withdraw, subcode::OPTIONAL), // §7.14
        rule(AS4_PATH, "AS4_PATH", OPTIONAL_TRANSITIVE, Any, Discard, subcode::OPTIONAL),                          // RFC 6793 §6
        rule(AS4_AGGREGATOR, "AS4_AGGREGATOR", OPTIONAL_TRANSITIVE, Exactly(8), Discard, subcode::OPTIONAL),       // RFC 6793 §6
        rule(IPV6_EXTENDED_COMMUNITIES, "IPV6_EXTENDED_COMMUNITIES", OPTIONAL_TRANSITIVE, MultipleOf(20), Withdraw, subcode::OPTIONAL), // §7.15
        rule(LARGE_COMMUNITIES, "LARGE_COMMUNITIES", OPTIONAL_TRANSITIVE, MultipleOf(12), Withdraw, subcode::OPTIONAL), // RFC 8092 §6
        rule(ONLY_TO_CUSTOMER, "OTC", OPTIONAL_TRANSITIVE, Exactly(4), Withdraw, subcode::OPTIONAL),               // RFC 9234 §5
    ]
};

/// The position of each code below 36 in the table, so that a lookup is one step.
const INDEX: [Option<u8>; 36] = {
    let mut index = [None; 36];
    let mut i = 0;
    while i < RULES.len() {
        index[RULES[i].code as usize] = Some(i as u8);
        i += 1;
    }
    index
};

/// Returns the rule of an attribute; `None` if it is not recognized.
pub(crate) fn find(code: u8) -> Option<&'static Rule> {
    let at = (*INDEX.get(usize::from(code))?)?;
    RULES.get(usize::from(at))
}
