//! Heliograph's objects in the kernel of this node, by kind: each kind is a [`Plane`] with its own desired and actual state,
//! changes, retries and reading. [`run`] calls the planes in their declared order.
//!
//! Missing objects are added at once. Objects of Heliograph that are not desired are deleted only when that is permitted
//! ([`Present::may_delete`]), which is when the desired state is complete: so a restart is not an outage. Foreign objects
//! are never changed, except three sysctls, which are written only if their value prevents forwarding.
//!
//! Everything is synchronous: the dataplane has a thread of its own. The time is a parameter.

#[cfg(test)]
pub mod fake;
pub mod guard;
pub mod linux;
pub mod nat;
pub mod networks;
pub mod nftables;
pub mod problem;
pub mod retries;
pub mod route;
pub mod routes;
pub mod sysctls;
pub mod tracker;
pub mod tunnel;
pub mod tunnels;

pub use linux::Linux;
pub use nat::NatOutgoing;
pub use networks::Networks;
pub use problem::{Problem, Problems};
pub use retries::Retries;
pub use route::{Hop, Route};
pub use tracker::{Change, Held, Tracker};
pub use tunnel::{Tunnel, TunnelKind};

use crate::netlink::Hint;
use heliograph_cni::IpFamily;
use serde::Serialize;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Instant;

/// The route protocol number of the agent's routes (`ip route … proto 104`).
pub const PROTOCOL: u8 = 104;
/// The metric of the agent's routes. The kernel identifies routes by prefix, TOS and metric. As no other program uses this
/// metric, replacing a route never replaces a foreign one (docs/decisions/own-metric.md).
pub const METRIC: u32 = 104;
/// The number of passes over the planes in one run. A change can require another: when a tunnel device is created again,
/// its routes are gone. Two passes are enough; the third finds nothing to do.
const PASSES: u32 = 3;

/// One kind of Heliograph's objects in the kernel.
pub trait Plane {
    /// Returns the name of the plane.
    fn name(&self) -> &'static str;

    /// Marks the subject of a hint as unknown, so that it is read again before the next change.
    fn invalidate(&mut self, hint: &Hint);

    /// Reads what is unknown and due. Reports in `present` what other planes need, also if nothing was read.
    fn read(&mut self, present: &mut Present, now: Instant);

    /// Makes the changes of a phase that are due and whose prerequisites are present, and updates `present`. Returns whether
    /// it requested any change.
    fn apply(&mut self, phase: Phase, present: &mut Present, now: Instant) -> bool;

    /// Returns the time of the next retry, at which [`run`] has to be called.
    fn next_retry(&self) -> Option<Instant>;

    /// Returns the state of the plane.
    fn report(&self, present: &Present) -> PlaneReport;
}

/// The phases of a pass. Planes add in their declared order, and remove in the opposite one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Add missing objects, and correct those that differ.
    Add,
    /// Remove objects that are not desired.
    Remove,
}

/// The objects that planes need of each other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Present {
    /// Set if objects that are not desired may be deleted.
    pub may_delete: bool,
    /// Set if the kernel drops tunnelled packets that don't come from a node.
    pub guarded: bool,
    /// The interface indices of the tunnel devices that routes can use. An index changes when a device is created again,
    /// which deletes the routes through it.
    pub tunnels: BTreeMap<Tunnel, u32>,
    /// Set if the tunnel devices could not be read: others than those in `tunnels` may exist.
    pub tunnels_unknown: bool,
}

/// The state of one plane.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PlaneReport {
    /// Set if the actual state is the desired one, except for objects that are kept until deleting is permitted.
    pub in_sync: bool,
    /// The number of Heliograph's objects in the kernel.
    pub actual: usize,
    /// The number of desired objects.
    pub desired: usize,
    /// The number of objects that are not desired but kept until deleting is permitted.
    pub kept: usize,
    /// The number of changes that the kernel has confirmed so far.
    pub changes: u64,
    /// The number of requests that it has rejected or not answered so far.
    pub failures: u64,
    /// The problems; similar ones are one entry.
    pub problems: Vec<Problem>,
}

/// The state of the kernel compared with the desired one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// Set if the actual state is the desired one, except for objects that are kept until deleting is permitted.
    pub in_sync: bool,
    /// The number of Heliograph's routes in the kernel.
    pub routes: usize,
    /// The number of desired routes.
    pub desired: usize,
    /// The number of objects that are not desired but kept until deleting is permitted.
    pub kept: usize,
    /// The number of changes that the kernel has confirmed so far.
    pub changes: u64,
    /// The number of requests that it has rejected or not answered so far.
    pub failures: u64,
    /// The problems; similar ones are one entry.
    pub errors: Vec<Problem>,
}

/// The parts of the kernel that the planes use: those of Linux, or fakes in tests.
pub trait Ports {
    /// The sysctls.
    type Sysctls: sysctls::Port;
    /// nf_tables.
    type Nftables: nftables::Port;
    /// The tunnel devices.
    type Tunnels: tunnels::Port;
    /// The plane of the routes.
    type Routes: Plane;
}

/// All planes. They add in the order of the fields, and remove in the opposite one.
pub struct Dataplane<P: Ports> {
    /// Forwarding.
    pub sysctls: sysctls::Sysctls<P::Sysctls>,
    /// The nftables table.
    pub nftables: nftables::Nftables<P::Nftables>,
    /// The tunnel devices.
    pub tunnels: tunnels::Tunnels<P::Tunnels>,
    /// The routes.
    pub routes: P::Routes,
    guard: guard::Guard,
    nat: nat::Nat,
    present: Present,
}

impl<P: Ports> Dataplane<P> {
    /// Makes the planes; nothing is desired yet, and nothing may be deleted.
    pub fn new(sysctls: P::Sysctls, nftables: P::Nftables, tunnels: P::Tunnels, routes: P::Routes) -> Self {
        Self {
            sysctls: sysctls::Sysctls::new(sysctls),
            nftables: nftables::Nftables::new(nftables),
            tunnels: tunnels::Tunnels::new(tunnels),
            routes,
            guard: guard::Guard::default(),
            nat: nat::Nat::default(),
            present: Present::default(),
        }
    }

    fn planes(&mut self) -> [&mut dyn Plane; 4] {
        [&mut self.sysctls, &mut self.nftables, &mut self.tunnels, &mut self.routes]
    }

    /// Sets the only addresses from which tunnelled packets are accepted; `None`: there is no guard. There must be one
    /// wherever a tunnel is desired.
    pub fn set_guard(&mut self, sources: Option<BTreeSet<IpAddr>>) {
        self.guard.set(sources, &mut self.nftables.objects());
    }

    /// Sets NAT outgoing; `None`: off.
    pub fn set_nat(&mut self, nat: Option<NatOutgoing>) {
        self.nat.set(nat, &mut self.nftables.objects());
    }

    /// Makes nothing desired but the routes, which their plane clears by itself.
    pub fn clear(&mut self) {
        self.set_nat(None);
        self.set_guard(None);
        Tunnel::ALL.into_iter().for_each(|tunnel| self.tunnels.set(tunnel, None));
        IpFamily::ALL.into_iter().for_each(|family| self.sysctls.set(family, false));
    }

    /// Permits deleting objects that are not desired, or not: the store is in sync, and the peers have sent all their routes
    /// or the time for it is over.
    pub fn permit_deleting(&mut self, may_delete: bool) {
        self.present.may_delete = may_delete;
    }

    /// Marks the subject of a hint as unknown, so that it is read again in the next run.
    pub fn invalidate(&mut self, hint: &Hint) {
        self.planes().into_iter().for_each(|plane| plane.invalidate(hint));
    }

    /// Reads what is unknown, and makes all changes that are possible now.
    pub fn run(&mut self, now: Instant) {
        let mut present = std::mem::take(&mut self.present);
        run(&mut self.planes(), &mut present, now);
        self.present = present;
    }

    /// Returns the time of the next retry, at which [`Dataplane::run`] has to be called.
    pub fn next_retry(&mut self) -> Option<Instant> {
        self.planes().iter().filter_map(|plane| plane.next_retry()).min()
    }

    /// Returns the state of all planes.
    pub fn report(&self) -> Summary {
        let routes = self.routes.report(&self.present);
        let mut summary =
            Summary { in_sync: true, routes: routes.actual, desired: routes.desired, ..Summary::default() };
        let others = [
            self.nftables.report(&self.present),
            self.tunnels.report(&self.present),
            self.sysctls.report(&self.present),
        ];
        for report in others.into_iter().chain([routes]) {
            summary.in_sync &= report.in_sync;
            summary.kept += report.kept;
            summary.changes += report.changes;
            summary.failures += report.failures;
            summary.errors.extend(report.problems);
        }
        summary
    }
}

/// Reads what is unknown, and makes all changes that are possible now. `planes` are in the order in which they add.
pub fn run(planes: &mut [&mut dyn Plane], present: &mut Present, now: Instant) {
    for plane in &mut *planes {
        plane.read(present, now);
    }
    for _ in 0..PASSES {
        let mut any = false;
        for plane in &mut *planes {
            any |= plane.apply(Phase::Add, present, now);
        }
        for plane in planes.iter_mut().rev() {
            any |= plane.apply(Phase::Remove, present, now);
        }
        if !any {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
