//! The plane of routes.
//!
//! The costs are proportional to what changed: a hint re-reads what it is about, and foreign routes are kept up to date by
//! their notifications. The periodic reading of the whole table is cut into pieces, so that others can use the thread.

pub mod foreign;
pub mod linux;

pub use linux::Linux;

use super::problem::Problems;
use super::{Change, Held, METRIC, Phase, Plane, PlaneReport, Present, Route, Tracker};
use crate::netlink::hint::{ForeignRoute, Hint};
use crate::netlink::route::socket::DUMP_ATTEMPTS;
use crate::netlink::route::{Decoded, Devices, DumpedRoute, Foreign, MAIN_TABLE, Part, RouteChange, Stray};
use crate::netlink::{Cause, KernelError};
use foreign::ForeignRoutes;
use heliograph_cni::IpFamily;
use ipnetwork::IpNetwork;
use nix::errno::Errno;
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Instant;

/// The number of changes that are requested at once.
const BATCH: usize = 2048;
/// The number of routes after which a reading pauses: a piece takes some 20 ms.
const PIECE: usize = 16 * 1024;

/// The operations on the kernel's routes that the plane needs.
pub trait RoutePort {
    /// Makes changes in their order; calls `failed` with the place of each that failed, at most once. `devices` are the
    /// tunnel devices.
    fn change(
        &mut self,
        changes: &[RouteChange],
        devices: &Devices,
        failed: &mut dyn FnMut(usize, KernelError),
    );

    /// Begins a dump of a family's routes in the main table, `own`: only of those of Heliograph, if the kernel can filter.
    /// A dump in progress is abandoned.
    fn begin_dump(&mut self, family: IpFamily, own: bool) -> Result<(), Cause>;

    /// Receives the next part of the dump; calls `visit` with each route.
    fn next_part(&mut self, devices: &Devices, visit: &mut dyn FnMut(DumpedRoute)) -> Result<Part, Cause>;
}

/// The plane of routes.
#[derive(Debug)]
pub struct Routes<P> {
    port: P,
    tracker: Tracker<IpNetwork, Arc<Route>>,
    /// Routes with Heliograph's protocol number at another metric or TOS. None is ever desired.
    strays: Tracker<Stray, ()>,
    foreign: ForeignRoutes,
    /// The desired prefixes to which there is a conflicting foreign route.
    conflicts: BTreeSet<IpNetwork>,
    /// The tunnel devices at the last look.
    devices: Devices,
    stale: Stale,
    reading: Option<Reading>,
    /// The time of the last run.
    now: Option<Instant>,
}

/// The parts that have to be read although they were read before.
#[derive(Debug, Default)]
struct Stale {
    /// The routes of Heliograph.
    own: bool,
    /// The foreign routes of these families.
    foreign: BTreeSet<IpFamily>,
    /// Everything, when there is time.
    periodic: bool,
}

/// The extent of a reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    /// All routes.
    All,
    /// All routes of Heliograph.
    Own,
    /// Some routes of Heliograph.
    Some,
    /// The foreign routes of some families.
    Foreign,
}

/// A reading in progress.
#[derive(Debug)]
struct Reading {
    scope: Scope,
    /// All families of the reading.
    all_families: Vec<IpFamily>,
    /// The families that are still to be read, the present one first.
    families: Vec<IpFamily>,
    /// Set if the dump of the present family has begun.
    begun: bool,
    /// The number of interrupted dumps of the present family.
    interrupted: u32,
    /// Set if Heliograph itself changed routes of the present family meanwhile.
    disturbed: bool,
    /// Set if the rest must be read without a pause.
    at_once: bool,
    /// The foreign routes so far.
    foreign: ForeignRoutes,
    /// The routes of [`Scope::Some`] that were not read yet.
    wanted: BTreeSet<IpNetwork>,
    /// The strays so far.
    strays: BTreeSet<Stray>,
    /// Equal routes are one copy.
    interned: HashSet<Arc<Route>>,
}

impl<P: RoutePort> Routes<P> {
    /// Makes a plane without desired routes.
    pub fn new(port: P) -> Self {
        Self {
            port,
            tracker: Tracker::default(),
            strays: Tracker::default(),
            foreign: ForeignRoutes::default(),
            conflicts: BTreeSet::new(),
            devices: Devices::new(),
            stale: Stale::default(),
            reading: None,
            now: None,
        }
    }

    /// Returns the port.
    pub fn port(&self) -> &P {
        &self.port
    }

    /// Sets the desired route to a prefix; `None`: there should be none.
    pub fn set(&mut self, prefix: IpNetwork, route: Option<Arc<Route>>) {
        let desired = route.is_some();
        self.tracker.set(prefix, route);
        self.update_conflict(prefix, desired);
    }

    /// Makes no routes desired but these.
    #[cfg(test)]
    pub(crate) fn set_all(&mut self, routes: &std::collections::BTreeMap<IpNetwork, Route>) {
        let before: Vec<IpNetwork> = self.tracker.all_desired().map(|(prefix, _)| *prefix).collect();
        before
            .iter()
            .filter(|prefix| !routes.contains_key(prefix))
            .for_each(|prefix| self.set(*prefix, None));
        routes.iter().for_each(|(prefix, route)| self.set(*prefix, Some(Arc::new(route.clone()))));
    }

    /// Returns the desired route to a prefix.
    pub fn desired(&self, prefix: &IpNetwork) -> Option<&Arc<Route>> {
        self.tracker.desired(prefix)
    }

    /// Returns Heliograph's route to a prefix in the kernel.
    pub fn held(&self, prefix: &IpNetwork) -> Option<&Arc<Route>> {
        self.tracker.held(prefix)
    }

    /// Returns whether the desired route to a prefix is installed.
    pub fn installed(&self, prefix: &IpNetwork) -> bool {
        self.tracker.is_installed(prefix)
    }

    /// Returns whether the kernel's routes have been read.
    pub fn is_known(&self) -> bool {
        self.tracker.is_known()
    }

    /// Returns the number of Heliograph's routes in the kernel.
    pub fn actual_count(&self) -> usize {
        self.tracker.actual_count() + self.strays.actual_count()
    }

    /// Returns the number of desired routes.
    pub fn desired_count(&self) -> usize {
        self.tracker.desired_count()
    }

    /// Notes whether a prefix has a conflict. One that may be over is read again.
    fn update_conflict(&mut self, prefix: IpNetwork, desired: bool) {
        match self.foreign.worst(prefix).filter(|_| desired) {
            None => {
                self.conflicts.remove(&prefix);
            }
            Some((_, doubtful)) => {
                self.conflicts.insert(prefix);
                if doubtful {
                    self.stale.foreign.insert(IpFamily::of_network(&prefix));
                }
            }
        }
    }

    fn update_all_conflicts(&mut self) {
        let prefixes: BTreeSet<IpNetwork> = self.foreign.prefixes().collect();
        self.conflicts.clear();
        for prefix in prefixes {
            let desired = self.tracker.desired(&prefix).is_some();
            self.update_conflict(prefix, desired);
        }
    }

    /// Returns whether a foreign route prohibits Heliograph's.
    fn is_forbidden(&self, prefix: IpNetwork) -> bool {
        self.conflicts.contains(&prefix)
            && self.foreign.worst(prefix).is_some_and(|(foreign, _)| foreign.forbids_ours())
    }

    /// Returns the prerequisite of a route that is not met, if there is one.
    fn waits(&self, change: Change<'_, Arc<Route>>) -> Option<String> {
        let mut tunnels = change.desired?.tunnels();
        let missing = tunnels.find(|tunnel| !self.devices.contains_key(tunnel))?;
        Some(format!("the tunnel device {} exists", missing.device_name()))
    }

    /// Looks at the tunnel devices. The kernel deletes the routes through a device with the device.
    fn look_at_devices(&mut self, present: &Present) {
        if present.tunnels_unknown || present.tunnels == self.devices {
            return;
        }
        let before = std::mem::replace(&mut self.devices, present.tunnels.clone());
        let gone = |tunnel| before.contains_key(&tunnel) && before.get(&tunnel) != self.devices.get(&tunnel);
        let over_gone =
            |(prefix, route): (&IpNetwork, &Arc<Route>)| route.tunnels().any(gone).then_some(*prefix);
        let lost: Vec<IpNetwork> = self.tracker.all_held().filter_map(over_gone).collect();
        lost.into_iter().for_each(|prefix| self.tracker.observe(prefix, Held::Absent));
        // It decoded next hops by the former devices.
        if self.reading.take().is_some() {
            self.stale.own = true;
        }
    }

    /// Returns whether Heliograph has routes over an interface.
    fn uses(&self, index: u32) -> bool {
        let over = |route: &Arc<Route>| {
            route.hops().iter().any(|hop| match *hop {
                super::Hop::Direct { oif, .. } => oif == index,
                super::Hop::Tunnel { .. } => false,
            })
        };
        self.devices.values().any(|device| *device == index)
            || self.tracker.all_held().any(|(_, route)| over(route))
    }

    /// Applies the change of a foreign route.
    fn change_foreign(&mut self, change: &ForeignRoute) {
        let ForeignRoute { prefix, metric, tos, protocol, .. } = *change;
        let foreign = Foreign { prefix, metric, tos, protocol };
        // After a removal, another route with the same key may still exist, for example that of a second interface.
        let apply = |routes: &mut ForeignRoutes| match change.added {
            true => routes.add(foreign),
            false => routes.doubt(foreign),
        };
        if let Some(reading) = &mut self.reading {
            // It may have been read before it changed.
            apply(&mut reading.foreign);
        }
        let concerned = apply(&mut self.foreign);
        if concerned {
            self.update_conflict(prefix, self.tracker.desired(&prefix).is_some());
        }
        if change.added {
            // It may be the way to a gateway.
            self.tracker.retry_all();
        }
    }

    /// Handles the change of an interface. The kernel deletes IPv4 routes over one that goes down without a notification.
    fn change_link(&mut self, index: u32) {
        self.stale.own |= self.uses(index);
        self.foreign.doubt_all();
        if let Some(reading) = &mut self.reading {
            reading.foreign.doubt_all();
        }
        if !self.conflicts.is_empty() {
            self.stale.foreign.extend(IpFamily::ALL);
        }
        self.tracker.retry_all();
    }

    /// Makes a route of Heliograph unknown.
    fn forget(&mut self, prefix: IpNetwork) {
        self.tracker.forget_one(prefix);
        let of_prefix = |(stray, ()): (&Stray, &())| (stray.prefix == prefix).then_some(*stray);
        let strays: Vec<Stray> = self.strays.all_held().filter_map(of_prefix).collect();
        strays.into_iter().for_each(|stray| self.strays.forget_one(stray));
        if let Some(reading) = &mut self.reading {
            // It may have been read before it changed.
            reading.wanted.remove(&prefix);
        }
    }
}

/// Reading.
impl<P: RoutePort> Routes<P> {
    /// Returns the reading that is needed next.
    fn needed(&mut self, now: Instant) -> Option<Reading> {
        let all = || IpFamily::ALL.to_vec();
        if !self.tracker.is_known() {
            return self.tracker.needs_read(now).then(|| Reading::new(Scope::All, all()));
        }
        if self.stale.periodic || (self.stale.own && !self.stale.foreign.is_empty()) {
            return Some(Reading::new(Scope::All, all()));
        }
        if self.stale.own {
            return Some(Reading::new(Scope::Own, all()));
        }
        if !self.stale.foreign.is_empty() {
            return Some(Reading::new(Scope::Foreign, self.stale.foreign.iter().copied().collect()));
        }
        let wanted: BTreeSet<IpNetwork> =
            self.tracker.unread().copied().chain(self.strays.unread().map(|stray| stray.prefix)).collect();
        if wanted.is_empty() {
            return None;
        }
        let families: BTreeSet<IpFamily> = wanted.iter().map(IpFamily::of_network).collect();
        let mut reading = Reading::new(Scope::Some, families.into_iter().collect());
        reading.wanted = wanted;
        Some(reading)
    }

    /// Marks what a reading reads as read, so that it becomes stale only by later hints.
    fn begin(&mut self, reading: &Reading) {
        match reading.scope {
            Scope::All => self.stale = Stale::default(),
            Scope::Own => self.stale.own = false,
            Scope::Foreign => self.stale.foreign.clear(),
            Scope::Some => {}
        }
        if matches!(reading.scope, Scope::All | Scope::Own) {
            self.tracker.begin_read();
            self.strays.begin_read();
        }
    }

    /// Reads on until the end or a pause; returns whether it is the end.
    fn read_on(&mut self, reading: &mut Reading, budget: &mut usize) -> Result<bool, Cause> {
        while let Some(family) = reading.families.first().copied() {
            if !reading.begun {
                self.port.begin_dump(family, matches!(reading.scope, Scope::Own | Scope::Some))?;
                (reading.begun, reading.disturbed) = (true, false);
            }
            let Self { port, tracker, strays, devices, .. } = self;
            let mut count = 0;
            let part = port.next_part(devices, &mut |route| {
                count += 1;
                reading.visit(route, tracker, strays);
            })?;
            *budget = budget.saturating_sub(count);
            match part {
                Part::More if *budget == 0 && !reading.at_once => return Ok(false),
                Part::More => {}
                Part::Interrupted => {
                    reading.begun = false;
                    reading.interrupted += 1;
                    if reading.interrupted == DUMP_ATTEMPTS {
                        return Err(Cause::Interrupted(DUMP_ATTEMPTS));
                    }
                }
                // When the tree of IPv6 changes, the kernel continues a dump at the same number of routes from the begin, so
                // that it may omit some (fib6_dump_table, net/ipv6/ip6_fib.c).
                Part::Last if reading.disturbed && family == IpFamily::V6 => {
                    (reading.begun, reading.at_once) = (false, true);
                }
                Part::Last => {
                    reading.families.remove(0);
                    (reading.begun, reading.interrupted) = (false, 0);
                }
            }
        }
        Ok(true)
    }

    /// Ends a complete reading.
    fn end(&mut self, reading: Reading) {
        let families = &reading.all_families;
        match reading.scope {
            Scope::All | Scope::Own => {
                self.tracker.end_read();
                self.strays.end_read();
            }
            Scope::Some => {
                let absent = self.tracker.unread().filter(|prefix| reading.wanted.contains(prefix));
                let absent: Vec<IpNetwork> = absent.copied().collect();
                absent.into_iter().for_each(|prefix| self.tracker.observe(prefix, Held::Absent));
                let absent = |stray: &Stray| {
                    families.contains(&IpFamily::of_network(&stray.prefix)) && !reading.strays.contains(stray)
                };
                let absent: Vec<Stray> = self.strays.unread().copied().filter(absent).collect();
                absent.into_iter().for_each(|stray| self.strays.observe(stray, Held::Absent));
            }
            Scope::Foreign => {}
        }
        if matches!(reading.scope, Scope::All | Scope::Foreign) {
            self.foreign.replace(families, reading.foreign);
            self.update_all_conflicts();
        }
    }
}

impl Reading {
    fn new(scope: Scope, families: Vec<IpFamily>) -> Self {
        Self {
            scope,
            all_families: families.clone(),
            families,
            begun: false,
            interrupted: 0,
            disturbed: false,
            at_once: false,
            foreign: ForeignRoutes::default(),
            wanted: BTreeSet::new(),
            strays: BTreeSet::new(),
            interned: HashSet::new(),
        }
    }

    /// Handles a route that was read.
    fn visit(
        &mut self,
        route: DumpedRoute,
        tracker: &mut Tracker<IpNetwork, Arc<Route>>,
        strays: &mut Tracker<Stray, ()>,
    ) {
        match route {
            DumpedRoute::Foreign(foreign) => {
                self.foreign.add(foreign);
            }
            DumpedRoute::Ours(..) | DumpedRoute::Stray(_) if self.scope == Scope::Foreign => {}
            DumpedRoute::Stray(stray) => {
                self.strays.insert(stray);
                strays.observe(stray, Held::Value(()));
            }
            DumpedRoute::Ours(prefix, held) => {
                if self.scope == Scope::Some && !self.wanted.remove(&prefix) {
                    return;
                }
                let held = match held {
                    Held::Absent => Held::Absent,
                    Held::Altered => Held::Altered,
                    Held::Value(decoded) => Held::Value(self.shared(prefix, decoded, tracker)),
                };
                tracker.observe(prefix, held);
            }
        }
    }

    /// Returns a route that was read, as the copy that exists already if there is one.
    fn shared(
        &mut self,
        prefix: IpNetwork,
        decoded: Decoded,
        tracker: &Tracker<IpNetwork, Arc<Route>>,
    ) -> Arc<Route> {
        if let Some(Change { desired, held, .. }) = tracker.get(&prefix) {
            let same = [desired, held].into_iter().flatten().find(|route| decoded.is(route));
            if let Some(same) = same {
                return same.clone();
            }
        }
        let route = decoded.into_route();
        if let Some(route) = self.interned.get(&route) {
            return route.clone();
        }
        let route = Arc::new(route);
        self.interned.insert(route.clone());
        route
    }
}

/// Changing.
impl<P: RoutePort> Routes<P> {
    /// Adds and replaces routes; returns whether it requested any change.
    fn add(&mut self, now: Instant) -> bool {
        let mut any = false;
        let mut after = None;
        loop {
            let mut changes = Vec::new();
            let mut last = None;
            for (prefix, change) in self.tracker.pending(Phase::Add, after.as_ref()) {
                last = Some(*prefix);
                let Some(route) = change.desired.filter(|_| self.waits(change).is_none()) else { continue };
                if self.is_forbidden(*prefix) {
                    continue;
                }
                changes.push(match change.exists {
                    true => RouteChange::Replace(*prefix, route.clone()),
                    false => RouteChange::Add(*prefix, route.clone()),
                });
                if changes.len() == BATCH {
                    break;
                }
            }
            any |= !changes.is_empty();
            self.request(&changes, now);
            if last.is_none() {
                return any;
            }
            after = last;
        }
    }

    /// Removes routes and strays; returns whether it requested any change.
    fn remove(&mut self, now: Instant) -> bool {
        let routes = self.tracker.pending(Phase::Remove, None);
        let routes = routes.map(|(prefix, _)| Stray { prefix: *prefix, metric: METRIC, tos: 0 });
        let strays = self.strays.pending(Phase::Remove, None).map(|(stray, _)| *stray);
        let mut all: Vec<Stray> = routes.chain(strays).collect();
        // In ascending order, Linux 6.18 takes twice as long to delete IPv4 routes.
        all.reverse();
        for part in all.chunks(BATCH) {
            let deletion = |Stray { prefix, metric, tos }: &Stray| RouteChange::Delete {
                prefix: *prefix,
                metric: *metric,
                tos: *tos,
            };
            let changes: Vec<RouteChange> = part.iter().map(deletion).collect();
            self.request(&changes, now);
        }
        !all.is_empty()
    }

    /// Makes changes and records their results.
    fn request(&mut self, changes: &[RouteChange], now: Instant) {
        if changes.is_empty() {
            return;
        }
        if let Some(reading) = &mut self.reading {
            let families = changes.iter().map(|change| IpFamily::of_network(&change.prefix()));
            let present = reading.families.first().copied();
            reading.disturbed |= reading.begun && families.into_iter().any(|family| Some(family) == present);
        }
        let mut failures = Vec::new();
        self.port.change(changes, &self.devices, &mut |place, error| failures.push((place, error)));
        failures.sort_unstable_by_key(|(place, _)| *place);
        let mut failures = failures.into_iter().peekable();
        for (place, change) in changes.iter().enumerate() {
            let failure = failures.next_if(|(failed, _)| *failed == place);
            let result = interpret(change, failure.map(|(_, error)| error));
            if let Some(Errno::EEXIST) = result.as_ref().and_then(KernelError::errno) {
                self.stale.foreign.insert(IpFamily::of_network(&change.prefix()));
            }
            match change {
                RouteChange::Delete { prefix, metric, tos } if (*metric, *tos) != (METRIC, 0) => {
                    let stray = Stray { prefix: *prefix, metric: *metric, tos: *tos };
                    match result {
                        None => self.strays.confirm(&stray),
                        Some(error) => self.strays.fail(&stray, error, now),
                    }
                }
                RouteChange::Add(prefix, _)
                | RouteChange::Replace(prefix, _)
                | RouteChange::Delete { prefix, .. } => match result {
                    None => self.tracker.confirm(prefix),
                    Some(error) => self.tracker.fail(prefix, error, now),
                },
            }
        }
    }
}

impl<P: RoutePort> Plane for Routes<P> {
    fn name(&self) -> &'static str {
        "routes"
    }

    fn invalidate(&mut self, hint: &Hint) {
        match hint {
            Hint::Everything => {
                self.tracker.forget();
                self.strays.forget();
                self.reading = None;
                self.tracker.retry_all();
            }
            Hint::Periodic => {
                self.stale.periodic = true;
                self.tracker.retry_all();
                self.strays.retry_all();
            }
            Hint::OwnRoute { prefix } => self.forget(*prefix),
            Hint::ForeignRoute(change) if change.table == MAIN_TABLE => self.change_foreign(change),
            Hint::Link { index, .. } | Hint::Address { index, .. } => self.change_link(*index),
            Hint::Rule => self.tracker.retry_all(),
            Hint::ForeignRoute(_) | Hint::Nftables { .. } => {}
        }
    }

    fn read(&mut self, present: &mut Present, now: Instant) {
        self.now = Some(now);
        self.look_at_devices(present);
        self.tracker.wake(now);
        self.strays.wake(now);
        let mut budget = PIECE;
        loop {
            let mut reading = match self.reading.take() {
                Some(reading) => reading,
                None => {
                    let Some(reading) = self.needed(now) else { return };
                    self.begin(&reading);
                    reading
                }
            };
            match self.read_on(&mut reading, &mut budget) {
                Ok(true) => self.end(reading),
                Ok(false) => {
                    self.reading = Some(reading);
                    return;
                }
                Err(cause) => {
                    let family = reading.families.first().map_or("", |family| family.as_str());
                    let error = KernelError::from_cause(format!("read the {family} routes"), cause);
                    self.tracker.fail_read(error, now);
                    return;
                }
            }
        }
    }

    fn apply(&mut self, phase: Phase, present: &mut Present, now: Instant) -> bool {
        self.look_at_devices(present);
        match phase {
            Phase::Add => self.add(now),
            Phase::Remove => present.may_delete && self.remove(now),
        }
    }

    fn next_retry(&self) -> Option<Instant> {
        // A reading that paused goes on at once.
        let reading = self.now.filter(|_| self.reading.is_some());
        [self.tracker.next_retry(), self.strays.next_retry(), reading].into_iter().flatten().min()
    }

    fn report(&self, present: &Present) -> PlaneReport {
        let mut problems = Problems::default();
        for prefix in &self.conflicts {
            if let Some((foreign, _)) = self.foreign.worst(*prefix) {
                problems.add(foreign::conflict(&foreign));
            }
        }
        let describe = |prefix: &IpNetwork, change: Change<'_, Arc<Route>>| match change.desired {
            None => format!("delete route {prefix}"),
            Some(route) if change.exists => format!("replace route {prefix} by {route}"),
            Some(route) => format!("add route {prefix} {route}"),
        };
        let waits = |prefix: &IpNetwork, change: Change<'_, Arc<Route>>| {
            // The conflict is a problem of its own.
            self.waits(change).filter(|_| !self.is_forbidden(*prefix))
        };
        let mut report = self.tracker.report(present.may_delete, problems, describe, waits);
        let describe = |stray: &Stray, _: Change<'_, ()>| {
            format!("delete stray route {} metric {}", stray.prefix, stray.metric)
        };
        let strays = self.strays.report(present.may_delete, Problems::default(), describe, |_, _| None);
        report.in_sync &= strays.in_sync && !self.stale.own && self.stale.foreign.is_empty();
        report.actual += strays.actual;
        report.kept += strays.kept;
        report.changes += strays.changes;
        report.failures += strays.failures;
        report.problems.extend(strays.problems);
        report
    }
}

/// Interprets the answer to a change: deleting a route that no longer exists succeeds, and some errors get a more specific
/// remedy.
fn interpret(change: &RouteChange, answer: Option<KernelError>) -> Option<KernelError> {
    let error = answer?;
    match (change, error.errno()) {
        (RouteChange::Delete { .. }, Some(Errno::ESRCH | Errno::ENOENT)) => None,
        (RouteChange::Add(prefix, _), Some(Errno::EEXIST)) => Some(error.with_remedy(format!(
            "a foreign route {prefix} has Heliograph's metric {METRIC}; remove it or change its metric \
             (ip route show {prefix})"
        ))),
        _ => Some(error),
    }
}

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;
