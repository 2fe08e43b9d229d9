//! Hints that the kernel changed. A hint names the object, so that only that is read again.

use ipnetwork::IpNetwork;
use std::net::IpAddr;

/// A notice that another program, or the kernel itself, changed something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hint {
    /// Anything may have changed: notifications were lost.
    Everything,
    /// It is time for the periodic check of what can change without a notification.
    Periodic,
    /// Another program changed a route of the main table with Heliograph's protocol number.
    OwnRoute {
        /// The prefix of the route.
        prefix: IpNetwork,
    },
    /// A foreign route was added, replaced or removed.
    ForeignRoute(ForeignRoute),
    /// An interface was added, changed or removed.
    Link {
        /// The index of the interface.
        index: u32,
        /// Set if it has the name of one of Heliograph's tunnel devices.
        ours: bool,
    },
    /// An address was added to an interface or removed from it.
    Address {
        /// The index of the interface.
        index: u32,
        /// The address.
        address: IpAddr,
    },
    /// A policy rule was added or removed.
    Rule,
    /// nf_tables changed.
    Nftables {
        /// The generation after the change; `None` if notifications were lost.
        generation: Option<u32>,
        /// Set if another program changed Heliograph's table.
        ours: bool,
    },
}

/// A change of a foreign route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ForeignRoute {
    /// The prefix.
    pub prefix: IpNetwork,
    /// The routing table.
    pub table: u32,
    /// The metric.
    pub metric: u32,
    /// The TOS octet.
    pub tos: u8,
    /// The protocol number.
    pub protocol: u8,
    /// Set if the route exists now. After a removal, another one with the same key may still exist.
    pub added: bool,
}
