//! Heliograph's objects in the kernel of this node: reading all of them, and changing them one by one.
//!
//! Heliograph owns the routes of the main table with its protocol number, the devices with its names, and its nftables
//! table. Everything else is foreign and never changed, except three sysctls, which are written only if their value
//! prevents forwarding (forwarding for both families, the reverse path filter of Heliograph's own tunnel devices).
//!
//! [`crate::reconcile`] uses the trait [`Kernel`]; [`linux::Linux`] implements it, and so does `fake::Fake`, which injects
//! faults in tests.

pub mod desired;
#[cfg(test)]
pub mod fake;

pub mod linux;
pub mod message;
mod netlink;
mod nft;
pub mod preflight;
pub mod ranges;
pub mod segment;
mod sysctl;
pub mod table;
pub(crate) mod tunnel;
pub mod watch;

pub use crate::netlink::error;
pub use desired::{Desired, Hop, NatOutgoing, Route, Rules, Segment, TunnelDevice, Tunnels};
pub use error::{KernelError, KernelResult};
pub use heliograph_cni::IpFamily;
pub use preflight::preflight;

use ipnetwork::IpNetwork;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::Future;
use std::net::IpAddr;

/// The route protocol number of the agent's routes (`ip route … proto 104`).
pub const PROTOCOL: u8 = 104;
/// The metric of the agent's routes. The kernel identifies routes by prefix, TOS and metric. As no other program uses this
/// metric, replacing a route never replaces a foreign one (docs/decisions/own-metric.md).
pub const METRIC: u32 = 104;

/// The actual state: Heliograph's objects in the kernel, and the foreign routes that conflict with them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Actual {
    /// Heliograph's routes at its metric and TOS, by prefix.
    pub routes: BTreeMap<IpNetwork, Held>,
    /// Routes with Heliograph's protocol number at another metric or TOS.
    pub strays: BTreeSet<Stray>,
    /// Foreign routes by prefix; of several, the one that conflicts most.
    pub foreign: BTreeMap<IpNetwork, Foreign>,
    /// Heliograph's tunnel devices.
    pub tunnels: BTreeMap<IpFamily, Device>,
    /// Heliograph's nftables table.
    pub table: TableState,
    /// The families in which forwarding is on.
    pub forwarding: BTreeSet<IpFamily>,
}

impl Actual {
    /// Adds a foreign route. Of several routes to a prefix, only the one that conflicts most is kept.
    pub fn add_foreign(&mut self, prefix: IpNetwork, foreign: Foreign) {
        let rank = |foreign: &Foreign| (!foreign.forbids_ours(), foreign.metric);
        let present = self.foreign.entry(prefix).or_insert(foreign);
        if rank(&foreign) < rank(present) {
            *present = foreign;
        }
    }

    /// Applies a change that the kernel confirmed.
    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::Forward(family) => {
                self.forwarding.insert(*family);
            }
            Change::PutTable(rules) => self.table = TableState::Intact(rules.clone()),
            Change::DeleteTable => self.table = TableState::Absent,
            Change::PutTunnel { family, mtu } => {
                let before = self.tunnels.insert(*family, Device::ready(*mtu));
                if before.is_some_and(|before| before.form != DeviceForm::External) {
                    self.drop_routes_over(*family);
                }
            }
            Change::DeleteTunnel(family) => {
                self.tunnels.remove(family);
                self.drop_routes_over(*family);
            }
            Change::AddRoute(prefix, route) | Change::ReplaceRoute(prefix, route) => {
                self.routes.insert(*prefix, Held::Route(route.clone()));
            }
            Change::DeleteRoute(prefix) => {
                self.routes.remove(prefix);
            }
            Change::DeleteStray(stray) => {
                self.strays.remove(stray);
            }
        }
    }

    /// Removes the routes through a device, which the kernel deletes with the device.
    fn drop_routes_over(&mut self, family: IpFamily) {
        self.routes.retain(|_, held| !matches!(held, Held::Route(route) if route.needs_tunnel(family)));
    }
}

/// A route of Heliograph in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Held {
    /// A route that [`Desired`] can describe.
    Route(Route),
    /// A route that another program changed (an MTU, a weight, another kind of encapsulation): never the desired one.
    Altered(String),
}

/// A route with Heliograph's protocol number at another metric or TOS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stray {
    /// The prefix.
    pub prefix: IpNetwork,
    /// The metric.
    pub metric: u32,
    /// The TOS octet.
    pub tos: u8,
}

/// A foreign route in the main table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Foreign {
    /// The metric.
    pub metric: u32,
    /// The protocol number; 2 is that of the kernel, for a connected network.
    pub protocol: u8,
}

impl Foreign {
    /// The route protocol number of connected networks (RTPROT_KERNEL).
    const KERNEL: u8 = 2;

    /// Returns whether a route of Heliograph to the same prefix must not be installed. It would be preferred to a connected
    /// network, which in IPv6 has a higher metric, or it would have the same key in the kernel as the foreign route.
    pub fn forbids_ours(&self) -> bool {
        self.protocol == Self::KERNEL || self.metric == METRIC
    }

    /// Returns whether the kernel prefers this route to Heliograph's.
    pub fn hides_ours(&self) -> bool {
        self.metric < METRIC
    }
}

/// A device with one of Heliograph's names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// The form of the device.
    pub form: DeviceForm,
    /// The MTU in bytes.
    pub mtu: u32,
    /// Set if the device is administratively up.
    pub up: bool,
    /// Set if the device has a reverse path filter, which would drop packets from the nodes' own addresses.
    pub filters_sources: bool,
}

impl Device {
    /// Makes a tunnel device in the desired state.
    pub fn ready(mtu: u32) -> Self {
        Self { form: DeviceForm::External, mtu, up: true, filters_sources: false }
    }
}

/// The form of a device with one of Heliograph's names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceForm {
    /// Heliograph's tunnel: each route has its own remote end (`external`).
    External,
    /// A tunnel of the right kind that is bound to one remote end: to be created again.
    Bound,
    /// A device of another kind, which is foreign.
    Foreign(String),
}

/// The state of Heliograph's nftables table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum TableState {
    /// There is no table, perhaps because the kernel has no nftables: then writing one returns the reason.
    #[default]
    Absent,
    /// The table is as Heliograph writes it for these rules.
    Intact(Rules),
    /// The table differs from what Heliograph writes; these rules could be read from it.
    Altered(Rules),
}

impl TableState {
    /// Returns the rules, as far as they could be read.
    pub fn rules(&self) -> Option<&Rules> {
        match self {
            TableState::Absent => None,
            TableState::Intact(rules) | TableState::Altered(rules) => Some(rules),
        }
    }

    /// Returns whether the table drops tunnelled packets that don't come from a node.
    pub fn guards(&self) -> bool {
        matches!(self, TableState::Intact(Rules { tunnel_sources: Some(_), .. }))
    }
}

/// One change to the kernel, which the kernel confirms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Turn forwarding on.
    Forward(IpFamily),
    /// Replace Heliograph's nftables table.
    PutTable(Rules),
    /// Delete Heliograph's nftables table.
    DeleteTable,
    /// Create the tunnel device, or correct its MTU, state and filter; create it again if it is not external.
    PutTunnel {
        /// The family of the outer header.
        family: IpFamily,
        /// The MTU in bytes.
        mtu: u32,
    },
    /// Delete the tunnel device.
    DeleteTunnel(IpFamily),
    /// Add a route that does not exist yet.
    AddRoute(IpNetwork, Route),
    /// Replace Heliograph's route.
    ReplaceRoute(IpNetwork, Route),
    /// Delete Heliograph's route.
    DeleteRoute(IpNetwork),
    /// Delete a route with Heliograph's protocol number at another metric or TOS.
    DeleteStray(Stray),
}

/// The object of a change. At most one change per key is in progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// The dump of everything.
    Dump,
    /// The forwarding sysctl.
    Forwarding(IpFamily),
    /// The nftables table.
    Table,
    /// A tunnel device.
    Tunnel(IpFamily),
    /// Heliograph's route to a prefix.
    Route(IpNetwork),
    /// A stray route.
    Stray(Stray),
}

impl Change {
    /// Returns the object of the change.
    pub fn key(&self) -> Key {
        match self {
            Change::Forward(family) => Key::Forwarding(*family),
            Change::PutTable(_) | Change::DeleteTable => Key::Table,
            Change::PutTunnel { family, .. } | Change::DeleteTunnel(family) => Key::Tunnel(*family),
            Change::AddRoute(prefix, _) | Change::ReplaceRoute(prefix, _) | Change::DeleteRoute(prefix) => {
                Key::Route(*prefix)
            }
            Change::DeleteStray(stray) => Key::Stray(*stray),
        }
    }

    /// Returns whether it is a change to a route.
    pub fn is_route(&self) -> bool {
        matches!(self.key(), Key::Route(_) | Key::Stray(_))
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Forward(family) => write!(f, "turn on {family} forwarding"),
            Change::PutTable(rules) => {
                write!(f, "write nftables table inet {}", table::TABLE)?;
                if let Some(sources) = &rules.tunnel_sources {
                    write!(f, " for {} node addresses", sources.len())?;
                }
                write!(f, "{}", if rules.nat.is_some() { " with NAT outgoing" } else { "" })
            }
            Change::DeleteTable => write!(f, "delete nftables table inet {}", table::TABLE),
            Change::PutTunnel { family, mtu } => {
                write!(f, "set up tunnel device {} with MTU {mtu}", tunnel::device_name(*family))
            }
            Change::DeleteTunnel(family) => {
                write!(f, "delete tunnel device {}", tunnel::device_name(*family))
            }
            Change::AddRoute(prefix, route) => write!(f, "add route {prefix} {route}"),
            Change::ReplaceRoute(prefix, route) => write!(f, "replace route {prefix} by {route}"),
            Change::DeleteRoute(prefix) => write!(f, "delete route {prefix}"),
            Change::DeleteStray(stray) => {
                write!(f, "delete stray route {} metric {}", stray.prefix, stray.metric)
            }
        }
    }
}

/// The interface that has one of this node's own addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Underlay {
    /// The index of the interface.
    pub oif: u32,
    /// The name of the interface.
    pub name: String,
    /// The MTU of the interface in bytes.
    pub mtu: u32,
}

/// The operations on a kernel that reconciling needs.
pub trait Kernel {
    /// Reads the actual state. A dump that changes interrupt is repeated; an error if it is interrupted each time.
    fn dump(&self) -> impl Future<Output = KernelResult<Actual>> + Send;

    /// Makes the changes; returns the result of each, in the same order.
    fn apply(&self, changes: &[Change]) -> impl Future<Output = Vec<KernelResult<()>>> + Send;

    /// Looks up the segment of a next hop in the kernel's routes, ignoring Heliograph's own.
    fn segment(&self, next_hop: IpAddr) -> impl Future<Output = KernelResult<Segment>> + Send;

    /// Returns the interface that has this address of the node.
    fn underlay(&self, local: IpAddr) -> impl Future<Output = KernelResult<Underlay>> + Send;
}
