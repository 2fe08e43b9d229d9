//! Search for the prefixes of a table in their order, in pieces.
//!
//! The table has no order, and an index by prefix would cost every route memory for the sake of rare readers. A reader
//! that wants the next few thousand prefixes in order collects them from pieces of the table, wherever it has time to sort.

use super::Rib;
use super::table::Slot;
use crate::wire::{Family, Prefix};

/// The number of slots that one piece examines.
const PIECE: usize = 8192;

/// The prefixes that are searched for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Scan {
    /// Those within this one, itself included.
    pub within: Option<Prefix>,
    /// Those after this one.
    pub after: Option<Prefix>,
    /// Those before this one.
    pub before: Option<Prefix>,
}

/// The place in the tables at which a piece begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ScanPosition {
    family: Family,
    slot: Slot,
}

impl ScanPosition {
    /// The beginning.
    pub(crate) const START: Self = Self { family: Family::Ipv4Unicast, slot: 0 };
}

impl Scan {
    fn includes(&self, prefix: &Prefix) -> bool {
        self.after.is_none_or(|after| *prefix > after)
            && self.before.is_none_or(|before| *prefix < before)
            && self.within.is_none_or(|within| within.contains(prefix))
    }

    /// Returns whether prefixes of a family can be among those searched for.
    fn concerns(&self, family: Family) -> bool {
        let other = |prefix: Option<Prefix>| prefix.is_some_and(|prefix| prefix.family() != family);
        // IPv4 is before IPv6.
        let over = family == Family::Ipv4Unicast && other(self.after);
        let beyond = family == Family::Ipv6Unicast && other(self.before);
        !other(self.within) && !over && !beyond
    }
}

impl Rib {
    /// Returns the prefixes with paths in a piece of the tables, in no particular order, and the next piece. A prefix that
    /// has paths all the time is found in any case, others may be.
    pub(crate) fn scan(&self, scan: &Scan, from: ScanPosition) -> (Vec<Prefix>, Option<ScanPosition>) {
        let ScanPosition { family, slot } = from;
        let end = if scan.concerns(family) { self.tables[family].len() } else { 0 };
        let until = (slot as usize + PIECE).min(end);
        let entries = self.tables[family].occupied_in(slot as usize..until);
        let found = entries.map(|entry| entry.prefix).filter(|prefix| scan.includes(prefix)).collect();
        let next = match family {
            _ if until < end => Some(ScanPosition { family, slot: until as Slot }),
            Family::Ipv4Unicast => Some(ScanPosition { family: Family::Ipv6Unicast, slot: 0 }),
            Family::Ipv6Unicast => None,
        };
        (found, next)
    }
}
