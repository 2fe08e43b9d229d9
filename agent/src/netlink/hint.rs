//! Hints that the kernel changed. A hint names its subject: who gets it reads that again, and nothing else.

use heliograph_cni::IpFamily;
use ipnetwork::IpNetwork;
use std::net::IpAddr;

/// A notice that something in the kernel changed, or may have changed, which Heliograph did not change itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hint {
    /// Notifications were lost: everything may have changed.
    Everything,
    /// The periodic check: what can change without a notification is read again.
    Periodic,
    /// A link changed, appeared or disappeared.
    Link {
        /// The index of the interface.
        index: u32,
        /// The name of the interface.
        name: Box<str>,
    },
    /// An address of this node appeared or disappeared.
    Address {
        /// The index of the interface.
        index: u32,
        /// The address.
        address: IpAddr,
    },
    /// A policy rule changed.
    Rule(IpFamily),
    /// A foreign route changed.
    ForeignRoute {
        /// The prefix.
        prefix: IpNetwork,
        /// The routing table.
        table: u32,
        /// The metric.
        metric: u32,
        /// The protocol number.
        protocol: u8,
        /// Set if the route was added or replaced; otherwise it was removed.
        added: bool,
    },
    /// Another program changed a route with Heliograph's protocol number.
    OwnRoute(IpNetwork),
    /// nf_tables changed.
    Nftables {
        /// The generation after the change; `None` if notifications were lost.
        generation: Option<u32>,
        /// Set if another program changed Heliograph's table.
        ours: bool,
    },
}
