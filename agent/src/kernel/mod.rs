//! The node's kernel: what is ours in it, read whole, changed one thing at a time.
//!
//! Ours is what bears our route protocol number in the main table, our device names and our nftables table.
//! Nothing else is ever changed, except three sysctls that are written only when they stand in the way
//! (forwarding for both families, the reverse path filter of our own tunnel devices).
//!
//! [`Kernel`] is the face that [`crate::reconcile`] works with; [`linux::Linux`] is the real one and
//! `fake::Fake` a faulty one for tests.

pub mod desired;
pub mod error;
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

pub use desired::{Desired, Hop, NatOutgoing, Route, Rules, Segment, TunnelDevice, Tunnels};
pub use error::{KernelError, KernelResult};
pub use preflight::preflight;

use crate::names::named;
use ipnetwork::IpNetwork;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::Future;
use std::net::IpAddr;

/// Route protocol number of the agent's routes (`ip route … proto 104`).
pub const PROTOCOL: u8 = 104;
/// Route protocol number of the shim's host routes to pods.
pub const SHIM_PROTOCOL: u8 = 105;
/// Metric of our routes. The kernel tells routes apart by prefix, TOS and metric, so a metric of our own keeps
/// a replace of ours from ever hitting somebody else's route (docs/decisions/own-metric.md).
pub const METRIC: u32 = 104;
/// Names of our interfaces begin with this: the host ends of pods' veth pairs.
pub const POD_LINK_PREFIX: &str = "hg";

/// An address family, of prefixes or of a tunnel's outer header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IpFamily {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

named!(IpFamily { V4 => "IPv4", V6 => "IPv6" });

impl IpFamily {
    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { IpFamily::V4 } else { IpFamily::V6 }
    }

    /// Our tunnel device whose outer header is of this family.
    pub fn device(self) -> &'static str {
        match self {
            IpFamily::V4 => "heliograph4",
            IpFamily::V6 => "heliograph6",
        }
    }

    /// The kernel's name for the kind of that device.
    pub fn device_kind(self) -> &'static str {
        match self {
            IpFamily::V4 => "ipip",
            IpFamily::V6 => "ip6tnl",
        }
    }
}

/// All of ours that is in the kernel, and what stands in its way.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Actual {
    /// Routes of ours in the form in which we write them.
    pub routes: BTreeMap<IpNetwork, Held>,
    /// Routes with our protocol number which we wouldn't write so: another metric or TOS.
    pub strays: BTreeSet<Stray>,
    /// Routes of others on a prefix, the one with the lowest metric.
    pub foreign: BTreeMap<IpNetwork, Foreign>,
    /// Our tunnel devices.
    pub tunnels: BTreeMap<IpFamily, Device>,
    /// Our nftables table.
    pub table: TableState,
    /// Families in which forwarding is on.
    pub forwarding: BTreeSet<IpFamily>,
}

impl Actual {
    /// Takes note of a route of somebody else: of several on a prefix the one that is most in our way.
    pub fn note_foreign(&mut self, prefix: IpNetwork, foreign: Foreign) {
        let rank = |foreign: &Foreign| (!foreign.forbids_ours(), foreign.metric);
        let noted = self.foreign.entry(prefix).or_insert(foreign);
        if rank(&foreign) < rank(noted) {
            *noted = foreign;
        }
    }

    /// Takes note of a change that the kernel confirmed.
    pub fn note(&mut self, change: &Change) {
        match change {
            Change::Forward(family) => {
                self.forwarding.insert(*family);
            }
            Change::PutTable(rules) => self.table = TableState::Intact(rules.clone()),
            Change::DeleteTable => self.table = TableState::Absent,
            Change::PutTunnel { family, mtu } => {
                let device =
                    Device { form: DeviceForm::External, mtu: *mtu, up: true, filters_sources: false };
                let before = self.tunnels.insert(*family, device);
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

    /// Routes go with the device they lead over.
    fn drop_routes_over(&mut self, family: IpFamily) {
        self.routes.retain(|_, held| !matches!(held, Held::Route(route) if route.needs_tunnel(family)));
    }
}

/// A route of ours as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Held {
    /// One that [`Desired`] can say.
    Route(Route),
    /// One that somebody changed (an MTU, a weight, another kind of encapsulation): never what is wanted.
    Altered(String),
}

/// A route with our protocol number at a metric or TOS we don't use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stray {
    /// Its prefix.
    pub prefix: IpNetwork,
    /// Its metric.
    pub metric: u32,
    /// Its TOS octet.
    pub tos: u8,
}

/// A route of somebody else in the main table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Foreign {
    /// Its metric.
    pub metric: u32,
    /// Its protocol number; 2 is the kernel's own, for a connected network.
    pub protocol: u8,
}

impl Foreign {
    /// Route protocol number of connected networks.
    const KERNEL: u8 = 2;

    /// Whether we must not write a route of ours on the same prefix: it would take the place of a connected
    /// network (IPv6 gives those a higher metric than ours), or the kernel couldn't tell the two apart.
    pub fn forbids_ours(&self) -> bool {
        self.protocol == Self::KERNEL || self.metric == METRIC
    }

    /// Whether the kernel would prefer it to ours.
    pub fn hides_ours(&self) -> bool {
        self.metric < METRIC
    }
}

/// A device under one of our names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// What it is.
    pub form: DeviceForm,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Whether it is administratively up.
    pub up: bool,
    /// Whether it has a reverse path filter, so that packets from nodes' own addresses would be lost.
    pub filters_sources: bool,
}

/// What a device under one of our names is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceForm {
    /// Our tunnel, collecting metadata.
    External,
    /// The right kind of tunnel but bound to one peer: an unfinished one of ours, to be made anew.
    Bound,
    /// Something else, hence somebody else's.
    Foreign(String),
}

/// The state of our nftables table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum TableState {
    /// There is none (or nftables isn't to be had, in which case putting one says why).
    #[default]
    Absent,
    /// As we would write it, for these rules.
    Intact(Rules),
    /// There, but not as we would write it; so much could be read from it.
    Altered(Rules),
}

impl TableState {
    /// What it does, as far as it could be read.
    pub fn rules(&self) -> Option<&Rules> {
        match self {
            TableState::Absent => None,
            TableState::Intact(rules) | TableState::Altered(rules) => Some(rules),
        }
    }

    /// Whether strangers' tunnelled packets are kept out.
    pub fn guards(&self) -> bool {
        matches!(self, TableState::Intact(Rules { tunnel_sources: Some(_), .. }))
    }
}

/// One change to the kernel. All are confirmed by the kernel, one by one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Turn forwarding on.
    Forward(IpFamily),
    /// Write our nftables table anew.
    PutTable(Rules),
    /// Remove our nftables table.
    DeleteTable,
    /// Make our tunnel device, or correct its MTU, state and filter; make it anew if it is not external.
    PutTunnel {
        /// IpFamily of the outer header.
        family: IpFamily,
        /// MTU in bytes.
        mtu: u32,
    },
    /// Remove our tunnel device.
    DeleteTunnel(IpFamily),
    /// Add a route that is not there yet.
    AddRoute(IpNetwork, Route),
    /// Put a route in the place of ours.
    ReplaceRoute(IpNetwork, Route),
    /// Remove our route.
    DeleteRoute(IpNetwork),
    /// Remove a route with our protocol number at a foreign metric.
    DeleteStray(Stray),
}

/// What a change is about. At most one change a key is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// Reading everything.
    Dump,
    /// The forwarding sysctl.
    Forwarding(IpFamily),
    /// The nftables table.
    Table,
    /// A tunnel device.
    Tunnel(IpFamily),
    /// The route of ours on a prefix.
    Route(IpNetwork),
    /// A stray route.
    Stray(Stray),
}

impl Change {
    /// What the change is about.
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
}

impl Change {
    /// Whether it is a change to a route.
    pub fn is_route(&self) -> bool {
        matches!(self.key(), Key::Route(_) | Key::Stray(_))
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Forward(IpFamily::V4) => write!(f, "turn on IPv4 forwarding"),
            Change::Forward(IpFamily::V6) => write!(f, "turn on IPv6 forwarding"),
            Change::PutTable(rules) => {
                write!(f, "write nftables table inet {}", table::TABLE)?;
                if let Some(sources) = &rules.tunnel_sources {
                    write!(f, " for {} node addresses", sources.len())?;
                }
                write!(f, "{}", if rules.nat.is_some() { " with NAT outgoing" } else { "" })
            }
            Change::DeleteTable => write!(f, "remove nftables table inet {}", table::TABLE),
            Change::PutTunnel { family, mtu } => {
                write!(f, "set up tunnel device {} with MTU {mtu}", family.device())
            }
            Change::DeleteTunnel(family) => write!(f, "remove tunnel device {}", family.device()),
            Change::AddRoute(prefix, route) => write!(f, "add route {prefix} {route}"),
            Change::ReplaceRoute(prefix, route) => write!(f, "replace route {prefix} by {route}"),
            Change::DeleteRoute(prefix) => write!(f, "delete route {prefix}"),
            Change::DeleteStray(stray) => {
                write!(f, "delete stray route {} metric {}", stray.prefix, stray.metric)
            }
        }
    }
}

/// Where one of this node's own addresses is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Underlay {
    /// Index of the interface that has the address.
    pub oif: u32,
    /// Name of that interface.
    pub name: String,
    /// MTU of that interface in bytes.
    pub mtu: u32,
}

/// A kernel to be kept as wanted.
pub trait Kernel {
    /// Reads all that is ours, whole. An interrupted dump is repeated, and an error if it stays interrupted.
    fn dump(&self) -> impl Future<Output = KernelResult<Actual>> + Send;

    /// Makes the changes and says of each, in the same order, whether the kernel confirmed it.
    fn apply(&self, changes: &[Change]) -> impl Future<Output = Vec<KernelResult<()>>> + Send;

    /// Where a next hop is: one look-up in the kernel's tables, routes of ours left aside.
    fn segment(&self, next_hop: IpAddr) -> impl Future<Output = KernelResult<Segment>> + Send;

    /// The interface that has this address of ours, and its MTU.
    fn underlay(&self, local: IpAddr) -> impl Future<Output = KernelResult<Underlay>> + Send;
}
