//! Reconciling: applies the difference of the desired and the actual state, and retries what failed, each key by itself.
//!
//! [`diff`] is pure. [`Reconciler`] keeps both states. Each call of [`Reconciler::run`] reads the kernel if necessary (the
//! first time, after [`Reconciler::invalidate`], after any failure), makes the changes and returns a summary. The caller
//! passes the time.
//!
//! Missing objects are added at once. Objects of Heliograph that are not desired are deleted only when the caller permits
//! it (`may_delete`), which is when the desired state is complete: so a restart is not an outage.

use crate::backoff::Backoff;
use crate::kernel::error::Cause;
use crate::kernel::{
    Actual, Change, Desired, Device, DeviceForm, Foreign, Held, IpFamily, Kernel, KernelError, Key, METRIC,
    Rules, TableState, tunnel,
};
use ipnetwork::IpNetwork;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

/// The first and the longest pause before a retry.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
/// The number of passes over the difference in one run. A change can require another: when a tunnel device is created
/// again, its routes are gone. Two passes are enough; the third finds nothing to do.
const PASSES: u32 = 3;

/// The difference of the desired and the actual state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Difference {
    /// The changes, in a possible order: the guard before the tunnel before the routes, and removals the other way round.
    pub changes: Vec<Change>,
    /// The changes that are not possible or not allowed, with the reason.
    pub conflicts: BTreeMap<Key, KernelError>,
    /// The number of objects that are not desired but kept until deleting is permitted.
    pub kept: usize,
}

/// Compares the desired and the actual state.
pub fn diff(desired: &Desired, actual: &Actual, may_delete: bool) -> Difference {
    let mut difference = Difference::default();
    let mut removals = Vec::new();
    diff_forwarding(desired, actual, &mut difference);
    diff_table(desired, actual, may_delete, &mut difference, &mut removals);
    // Removals come last, in reverse order: routes, then devices, then their guard.
    let table_removals = std::mem::take(&mut removals);
    diff_tunnels(desired, actual, &mut difference, &mut removals);
    let tunnel_removals = std::mem::take(&mut removals);
    diff_routes(desired, actual, &mut difference, &mut removals);
    removals.extend(tunnel_removals);
    removals.extend(table_removals);
    if may_delete {
        difference.changes.extend(removals);
    } else {
        difference.kept += removals.len();
    }
    difference
}

fn diff_forwarding(desired: &Desired, actual: &Actual, difference: &mut Difference) {
    if !desired.forwarding {
        return;
    }
    // With IPv6 forwarding, a node ignores router advertisements, so it is turned on only if there are IPv6 pods.
    let v6 = desired.routes.keys().any(IpNetwork::is_ipv6);
    let families = [Some(IpFamily::V4), v6.then_some(IpFamily::V6)].into_iter().flatten();
    difference
        .changes
        .extend(families.filter(|family| !actual.forwarding.contains(family)).map(Change::Forward));
}

fn diff_table(
    desired: &Desired,
    actual: &Actual,
    may_delete: bool,
    difference: &mut Difference,
    removals: &mut Vec<Change>,
) {
    let mut rules = desired.rules();
    let held = actual.table.rules();
    if let (None, Some(held), true) = (&rules.tunnel_sources, held, any_tunnel(actual)) {
        // As long as there is a tunnel, its guard stays.
        rules.tunnel_sources = held.tunnel_sources.clone();
    }
    if desired.rules() == Rules::default() {
        if held.is_some() {
            removals.push(Change::DeleteTable);
        }
        return;
    }
    if let (Some(held), false) = (held, may_delete) {
        difference.kept += add_existing(&mut rules, held);
    }
    if !matches!(&actual.table, TableState::Intact(held) if *held == rules) {
        difference.changes.push(Change::PutTable(rules));
    }
}

/// Adds the nodes and networks in the actual rules to the desired ones, as the desired state may not be complete yet;
/// returns the number of added node addresses.
fn add_existing(rules: &mut Rules, held: &Rules) -> usize {
    if let (Some(nat), Some(held)) = (&mut rules.nat, &held.nat) {
        nat.inside.extend(&held.inside);
    }
    let (Some(sources), Some(held)) = (&mut rules.tunnel_sources, &held.tunnel_sources) else { return 0 };
    let desired = sources.len();
    sources.extend(held);
    sources.len() - desired
}

fn any_tunnel(actual: &Actual) -> bool {
    actual.tunnels.values().any(|device| device.form == DeviceForm::External)
}

fn diff_tunnels(desired: &Desired, actual: &Actual, difference: &mut Difference, removals: &mut Vec<Change>) {
    let wanted = [
        (IpFamily::V4, desired.tunnels.v4.map(|device| device.mtu)),
        (IpFamily::V6, desired.tunnels.v6.map(|device| device.mtu)),
    ];
    for (family, mtu) in wanted {
        match (mtu, actual.tunnels.get(&family)) {
            (Some(mtu), Some(Device { form: DeviceForm::Foreign(kind), .. })) => {
                let what = Change::PutTunnel { family, mtu }.to_string();
                difference.conflicts.insert(Key::Tunnel(family), tunnel::conflict(what, family, kind));
            }
            (Some(mtu), Some(device)) => {
                if *device != Device::ready(mtu) {
                    difference.changes.push(Change::PutTunnel { family, mtu });
                }
            }
            (Some(mtu), None) => difference.changes.push(Change::PutTunnel { family, mtu }),
            (None, Some(Device { form: DeviceForm::Foreign(_), .. }) | None) => {}
            (None, Some(_)) => removals.push(Change::DeleteTunnel(family)),
        }
    }
}

fn diff_routes(desired: &Desired, actual: &Actual, difference: &mut Difference, removals: &mut Vec<Change>) {
    for (prefix, route) in &desired.routes {
        let foreign = actual.foreign.get(prefix);
        if let Some(foreign) = foreign.filter(|foreign| foreign.forbids_ours() || foreign.hides_ours()) {
            difference.conflicts.insert(Key::Route(*prefix), conflict(*prefix, *foreign));
            if foreign.forbids_ours() {
                continue;
            }
        }
        match actual.routes.get(prefix) {
            None => difference.changes.push(Change::AddRoute(*prefix, route.clone())),
            Some(Held::Route(held)) if held == route => {}
            Some(_) => difference.changes.push(Change::ReplaceRoute(*prefix, route.clone())),
        }
    }
    let unwanted = actual.routes.keys().filter(|prefix| !desired.routes.contains_key(prefix));
    removals.extend(unwanted.map(|prefix| Change::DeleteRoute(*prefix)));
    removals.extend(actual.strays.iter().map(|stray| Change::DeleteStray(*stray)));
}

fn conflict(prefix: IpNetwork, foreign: Foreign) -> KernelError {
    let Foreign { metric, protocol } = foreign;
    let cause = if foreign.forbids_ours() {
        format!(
            "a foreign route (protocol {protocol}, metric {metric}) exists, so that of Heliograph is not installed"
        )
    } else {
        format!(
            "a foreign route (protocol {protocol}, metric {metric}) is preferred to that of Heliograph, metric {METRIC}"
        )
    };
    KernelError::new(
        format!("route {prefix}"),
        Cause::Conflict(cause),
        format!("remove it if nothing needs it (ip route show {prefix}), or don't advertise that prefix"),
    )
}

/// A problem with the kernel, for the status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// The operation, and the object it was for.
    pub what: String,
    /// The cause.
    pub error: String,
    /// The action that helps.
    pub remedy: String,
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

/// A failed change, and the time of its retry.
#[derive(Debug, Clone)]
struct Failure {
    error: KernelError,
    backoff: Backoff,
    due: Instant,
}

/// Keeps one kernel in the desired state.
#[derive(Debug)]
pub struct Reconciler<K> {
    kernel: K,
    desired: Desired,
    may_delete: bool,
    /// The state that was read last, with the changes that the kernel has confirmed since.
    actual: Actual,
    /// Set if the kernel has to be read before the next change.
    stale: bool,
    failures: BTreeMap<Key, Failure>,
    /// The numbers of confirmed and failed changes since the start.
    confirmed: u64,
    failed: u64,
}

impl<K: Kernel> Reconciler<K> {
    /// Makes a reconciler whose desired state is empty and that may not delete anything yet.
    pub fn new(kernel: K) -> Self {
        Self {
            kernel,
            desired: Desired::default(),
            may_delete: false,
            actual: Actual::default(),
            stale: true,
            failures: BTreeMap::new(),
            confirmed: 0,
            failed: 0,
        }
    }

    /// Returns the kernel, for look-ups.
    pub fn kernel(&self) -> &K {
        &self.kernel
    }

    /// Sets the desired state. `may_delete` permits deleting other objects of Heliograph: the store is in sync, and the peers
    /// have sent all their routes or the time for it is over.
    pub fn set_desired(&mut self, desired: Desired, may_delete: bool) {
        self.desired = desired;
        self.may_delete = may_delete;
    }

    /// Makes the next run read the kernel again. After a change of the `underlay`, failed routes are retried at once, as the
    /// cause may be gone.
    pub fn invalidate(&mut self, underlay: bool) {
        self.stale = true;
        if underlay {
            self.failures.retain(|key, _| !matches!(key, Key::Route(_)));
        }
    }

    /// Returns whether the desired route to a prefix is installed.
    pub fn installed(&self, prefix: &IpNetwork) -> bool {
        match (self.actual.routes.get(prefix), self.desired.routes.get(prefix)) {
            (Some(Held::Route(held)), Some(desired)) => held == desired,
            _ => false,
        }
    }

    /// Returns the time of the next retry, at which [`Reconciler::run`] has to be called.
    pub fn next_retry(&self) -> Option<Instant> {
        self.failures.values().map(|failure| failure.due).min()
    }

    /// Makes all changes that are possible now.
    pub async fn run(&mut self, now: Instant) -> Summary {
        if !self.read(now).await {
            return self.summary();
        }
        // The actual state is unknown until all changes are made, also if this future is dropped before that.
        self.stale = true;
        for _ in 0..PASSES {
            if !self.pass(now).await {
                break;
            }
        }
        self.drop_settled();
        // A failed change may have had an effect, so the kernel is read again before the next attempt.
        self.stale = !self.failures.is_empty();
        self.summary()
    }

    /// Drops failures of keys that need no change any more or wait for another change. Their retry time would be in the past,
    /// and the caller would run again and again.
    fn drop_settled(&mut self) {
        let changes = self.difference().changes;
        let open = changes.iter().filter(|change| self.prerequisite(change).is_none());
        let open: BTreeSet<Key> = open.map(Change::key).collect();
        self.failures.retain(|key, _| open.contains(key));
    }

    /// Makes the changes that are possible now; returns whether there were any.
    async fn pass(&mut self, now: Instant) -> bool {
        let changes = self.difference().changes;
        let due: Vec<Change> = changes.into_iter().filter(|change| self.is_due(change.key(), now)).collect();
        let mut any = false;
        for batch in due.chunk_by(|a, b| a.is_route() && b.is_route()) {
            let ready: Vec<Change> =
                batch.iter().filter(|change| self.prerequisite(change).is_none()).cloned().collect();
            any |= !ready.is_empty();
            self.apply(&ready, now).await;
        }
        any
    }

    /// Reads the kernel if necessary; returns whether the actual state is known.
    async fn read(&mut self, now: Instant) -> bool {
        if !self.stale {
            return true;
        }
        if !self.is_due(Key::Dump, now) {
            return false;
        }
        match self.kernel.dump().await {
            Ok(actual) => {
                self.actual = actual;
                self.stale = false;
                self.failures.remove(&Key::Dump);
                true
            }
            Err(error) => {
                self.fail(Key::Dump, error, now);
                false
            }
        }
    }

    async fn apply(&mut self, changes: &[Change], now: Instant) {
        if changes.is_empty() {
            return;
        }
        let results = self.kernel.apply(changes).await;
        for (change, result) in changes.iter().zip(results) {
            match result {
                Ok(()) => {
                    tracing::debug!(%change, "change confirmed");
                    self.confirmed += 1;
                    self.failures.remove(&change.key());
                    self.actual.apply(change);
                }
                Err(error) => self.fail(change.key(), error, now),
            }
        }
    }

    fn fail(&mut self, key: Key, error: KernelError, now: Instant) {
        self.failed += 1;
        let before = self.failures.get(&key);
        if before.is_none_or(|before| before.error != error) {
            tracing::warn!(%error, "the kernel is not in the desired state");
        }
        let mut backoff = before.map_or(BACKOFF, |before| before.backoff.clone());
        let due = now + backoff.next_pause();
        self.failures.insert(key, Failure { error, backoff, due });
    }

    fn is_due(&self, key: Key, now: Instant) -> bool {
        self.failures.get(&key).is_none_or(|failure| failure.due <= now)
    }

    fn difference(&self) -> Difference {
        diff(&self.desired, &self.actual, self.may_delete)
    }

    /// Returns the error of a change that has to wait for another: a tunnel for its guard, a route for its tunnel.
    fn prerequisite(&self, change: &Change) -> Option<KernelError> {
        let exists = |family| {
            self.actual.tunnels.get(&family).is_some_and(|device| device.form == DeviceForm::External)
        };
        let guarded = self.actual.table.guards();
        let waits_for = match change {
            Change::PutTunnel { family, .. } if !guarded && !exists(*family) => {
                "the nftables table drops tunnelled packets from other hosts than nodes".to_owned()
            }
            Change::AddRoute(_, route) | Change::ReplaceRoute(_, route) => {
                let missing = |family: &IpFamily| route.needs_tunnel(*family) && !exists(*family);
                format!(
                    "the tunnel device {} exists",
                    tunnel::device_name(IpFamily::ALL.into_iter().find(missing)?)
                )
            }
            Change::DeleteTable => {
                let family = IpFamily::ALL.into_iter().find(|family| exists(*family))?;
                format!("the tunnel device {} is deleted", tunnel::device_name(family))
            }
            _ => return None,
        };
        Some(KernelError::from_cause(change.to_string(), Cause::Waiting(waits_for)))
    }

    /// Returns the summary. Similar errors are one entry, so that a thousand routes don't make a thousand entries.
    fn summary(&self) -> Summary {
        let difference = self.difference();
        let failed = self.failures.values().map(|failure| failure.error.clone());
        let waiting = difference
            .changes
            .iter()
            .filter(|change| !self.failures.contains_key(&change.key()))
            .filter_map(|change| self.prerequisite(change));
        let errors = grouped(failed.chain(waiting).chain(difference.conflicts.into_values()));
        Summary {
            in_sync: !self.stale && errors.is_empty() && difference.changes.is_empty(),
            routes: self.actual.routes.len() + self.actual.strays.len(),
            desired: self.desired.routes.len(),
            kept: difference.kept,
            changes: self.confirmed,
            failures: self.failed,
            errors,
        }
    }
}

/// Groups errors with the same cause and remedy.
fn grouped(errors: impl Iterator<Item = KernelError>) -> Vec<Problem> {
    let mut groups: Vec<(Problem, usize)> = Vec::new();
    let mut places: HashMap<(String, String), usize> = HashMap::new();
    for error in errors {
        let group = (error.cause.to_string(), error.remedy);
        match places.get(&group) {
            Some(place) => groups[*place].1 += 1,
            None => {
                let problem = Problem { what: error.what, error: group.0.clone(), remedy: group.1.clone() };
                places.insert(group, groups.len());
                groups.push((problem, 0));
            }
        }
    }
    let name = |(mut problem, more): (Problem, usize)| {
        if more > 0 {
            problem.what = format!("{} (and {more} more)", problem.what);
        }
        problem
    };
    groups.into_iter().map(name).collect()
}

#[cfg(test)]
mod tests;
