//! Desired against actual: the difference, applied, and what failed tried again, each key by itself.
//!
//! [`diff`] is pure. [`Reconciler`] keeps what is wanted and what the kernel is known to hold, and is driven by calls to
//! [`Reconciler::run`]: it reads the kernel whole when it has to (at first, after [`Reconciler::look_again`], after any
//! failure), makes the changes, and says how things stand. Time comes in as a value.
//!
//! What is missing is added at once. What is ours and not wanted is removed only when the caller says that the picture
//! is complete (`may_delete`), so that a restart is not an outage.

use crate::kernel::error::Cause;
use crate::kernel::{
    Actual, Change, Desired, Device, DeviceForm, Foreign, Held, IpFamily, Kernel, KernelError, Key, METRIC,
    Rules, TableState,
};
use ipnetwork::IpNetwork;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

/// Wait before the first repetition of what failed; doubled with each failure up to [`LONGEST_WAIT`].
const SHORTEST_WAIT: Duration = Duration::from_millis(100);
/// Longest wait between repetitions.
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// A change can call for another: with a tunnel device made anew its routes went. Two passes do; the third sees that.
const PASSES: u32 = 3;

/// What separates a kernel from what is wanted of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Difference {
    /// The changes to make, in an order in which they can be made: guard before tunnel before routes, and back.
    pub changes: Vec<Change>,
    /// What can't or must not be changed, and why.
    pub conflicts: BTreeMap<Key, KernelError>,
    /// How many things of ours are not wanted but kept because the picture isn't complete yet.
    pub kept: usize,
}

/// Compares. Pure.
pub fn diff(desired: &Desired, actual: &Actual, may_delete: bool) -> Difference {
    let mut difference = Difference::default();
    let mut removals = Vec::new();
    diff_forwarding(desired, actual, &mut difference);
    diff_table(desired, actual, may_delete, &mut difference, &mut removals);
    // Removed last in reverse order: routes, then the devices, then their guard.
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
    // IPv6 forwarding makes a node ignore router advertisements, so it is asked for only where there are IPv6 pods.
    let v6 = desired.routes.keys().any(IpNetwork::is_ipv6);
    let wanted = [Some(IpFamily::V4), v6.then_some(IpFamily::V6)].into_iter().flatten();
    difference
        .changes
        .extend(wanted.filter(|family| !actual.forwarding.contains(family)).map(Change::Forward));
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
        // As long as there is a tunnel it is guarded.
        rules.tunnel_sources = held.tunnel_sources.clone();
    }
    if desired.rules() == Rules::default() {
        if held.is_some() {
            removals.push(Change::DeleteTable);
        }
        return;
    }
    if let (Some(held), false) = (held, may_delete) {
        difference.kept += keep_known(&mut rules, held);
    }
    if !matches!(&actual.table, TableState::Intact(held) if *held == rules) {
        difference.changes.push(Change::PutTable(rules));
    }
}

/// A node that isn't known yet may still be one, and so may a network of pods; how many addresses of nodes are kept.
fn keep_known(rules: &mut Rules, held: &Rules) -> usize {
    if let (Some(nat), Some(held)) = (&mut rules.nat, &held.nat) {
        nat.inside.extend(&held.inside);
    }
    let (Some(sources), Some(held)) = (&mut rules.tunnel_sources, &held.tunnel_sources) else { return 0 };
    let wanted = sources.len();
    sources.extend(held);
    sources.len() - wanted
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
                difference
                    .conflicts
                    .insert(Key::Tunnel(family), crate::kernel::tunnel::occupied(what, family, kind));
            }
            (Some(mtu), Some(device)) => {
                let right = Device { form: DeviceForm::External, mtu, up: true, filters_sources: false };
                if *device != right {
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
            difference.conflicts.insert(Key::Route(*prefix), in_the_way(*prefix, *foreign));
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

fn in_the_way(prefix: IpNetwork, foreign: Foreign) -> KernelError {
    let Foreign { metric, protocol } = foreign;
    let cause = if foreign.forbids_ours() {
        format!(
            "there is a route of somebody else (protocol {protocol}, metric {metric}), so ours is not installed"
        )
    } else {
        format!(
            "a route of somebody else (protocol {protocol}, metric {metric}) comes before ours, metric {METRIC}"
        )
    };
    KernelError::new(
        format!("route {prefix}"),
        Cause::Occupied(cause),
        format!("remove it if it is left over (ip route show {prefix}), or don't announce that prefix"),
    )
}

/// What is wrong, for the status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// What was tried, on what.
    pub what: String,
    /// What came back.
    pub error: String,
    /// What to do next.
    pub remedy: String,
}

/// How the kernel stands to what is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// Whether the kernel holds exactly what is wanted, but for what is kept until it may be removed.
    pub in_sync: bool,
    /// Routes of ours in the kernel.
    pub routes: usize,
    /// Routes wanted.
    pub desired: usize,
    /// Things of ours that aren't wanted but kept until the picture is complete.
    pub kept: usize,
    /// Changes that the kernel has confirmed so far.
    pub changes: u64,
    /// Requests that it has refused or not answered so far.
    pub failures: u64,
    /// What is wrong; failures of the same sort are one entry.
    pub errors: Vec<Problem>,
}

/// What failed, and when it is tried again.
#[derive(Debug, Clone)]
struct Failure {
    error: KernelError,
    attempts: u32,
    due: Instant,
}

impl Failure {
    /// The failure after one more attempt at `now`.
    fn again(before: Option<&Failure>, error: KernelError, now: Instant) -> Self {
        let attempts = before.map_or(1, |before| before.attempts.saturating_add(1));
        // 2^10 times the shortest wait is beyond the longest.
        let wait = SHORTEST_WAIT.saturating_mul(1 << (attempts - 1).min(10)).min(LONGEST_WAIT);
        Self { error, attempts, due: now + wait }
    }
}

/// Keeps one kernel as wanted.
#[derive(Debug)]
pub struct Reconciler<K> {
    kernel: K,
    desired: Desired,
    may_delete: bool,
    /// What the kernel held when last read, with what it has confirmed since.
    actual: Actual,
    /// Whether the kernel has to be read before the next change.
    stale: bool,
    failures: BTreeMap<Key, Failure>,
    /// Of changes, confirmed and failed, since the start.
    confirmed: u64,
    failed: u64,
}

impl<K: Kernel> Reconciler<K> {
    /// A reconciler that wants nothing yet, and so does nothing but add until it is told otherwise.
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

    /// The kernel, for look-ups.
    pub fn kernel(&self) -> &K {
        &self.kernel
    }

    /// Sets what is wanted. `may_delete`: what is ours and not in it may go (the store is in sync, and the peers have
    /// said all they know or have had their time).
    pub fn want(&mut self, desired: Desired, may_delete: bool) {
        self.desired = desired;
        self.may_delete = may_delete;
    }

    /// Has the next run read the kernel anew. After a change of the `underlay` what failed for routes is tried again at
    /// once, because the reason may be gone.
    pub fn look_again(&mut self, underlay: bool) {
        self.stale = true;
        if underlay {
            self.failures.retain(|key, _| !matches!(key, Key::Route(_)));
        }
    }

    /// Whether the kernel is known to hold the route that is wanted for a prefix.
    pub fn installed(&self, prefix: &IpNetwork) -> bool {
        match (self.actual.routes.get(prefix), self.desired.routes.get(prefix)) {
            (Some(Held::Route(held)), Some(wanted)) => held == wanted,
            _ => false,
        }
    }

    /// When something that failed is to be tried again: call [`Reconciler::run`] then.
    pub fn next_retry(&self) -> Option<Instant> {
        self.failures.values().map(|failure| failure.due).min()
    }

    /// Brings the kernel as near to what is wanted as it lets itself be brought now.
    pub async fn run(&mut self, now: Instant) -> Summary {
        if !self.look(now).await {
            return self.summary();
        }
        // Until the changes are through, what the kernel holds isn't known; also if this future is dropped midway.
        self.stale = true;
        for _ in 0..PASSES {
            if !self.pass(now).await {
                break;
            }
        }
        self.forget_settled();
        // Nor is it known what a failed change has done: the next attempt starts from the truth.
        self.stale = !self.failures.is_empty();
        self.summary()
    }

    /// Forgets failures of what needs no change any more, and of what waits for something else: that one's time counts,
    /// and a time that has passed would have the caller run again and again.
    fn forget_settled(&mut self) {
        let changes = self.difference().changes;
        let open = changes.iter().filter(|change| self.obstacle(change).is_none());
        let open: BTreeSet<Key> = open.map(Change::key).collect();
        self.failures.retain(|key, _| open.contains(key));
    }

    /// Makes the changes that can be made now; whether there were any.
    async fn pass(&mut self, now: Instant) -> bool {
        let changes = self.difference().changes;
        let due: Vec<Change> = changes.into_iter().filter(|change| self.is_due(change.key(), now)).collect();
        let mut any = false;
        for batch in due.chunk_by(|a, b| a.is_route() && b.is_route()) {
            let ready: Vec<Change> =
                batch.iter().filter(|change| self.obstacle(change).is_none()).cloned().collect();
            any |= !ready.is_empty();
            self.apply(&ready, now).await;
        }
        any
    }

    /// Reads the kernel if need be; whether what it holds is known now.
    async fn look(&mut self, now: Instant) -> bool {
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
                    tracing::debug!(%change, "done");
                    self.confirmed += 1;
                    self.failures.remove(&change.key());
                    self.actual.note(change);
                }
                Err(error) => self.fail(change.key(), error, now),
            }
        }
    }

    fn fail(&mut self, key: Key, error: KernelError, now: Instant) {
        self.failed += 1;
        let before = self.failures.get(&key);
        if before.is_none_or(|before| before.error != error) {
            tracing::warn!(%error, "the kernel is not as wanted");
        }
        let failure = Failure::again(before, error, now);
        self.failures.insert(key, failure);
    }

    fn is_due(&self, key: Key, now: Instant) -> bool {
        self.failures.get(&key).is_none_or(|failure| failure.due <= now)
    }

    fn difference(&self) -> Difference {
        diff(&self.desired, &self.actual, self.may_delete)
    }

    /// What has to come before a change. There is no tunnel without its guard, and no route without its tunnel.
    fn obstacle(&self, change: &Change) -> Option<KernelError> {
        let exists = |family| {
            self.actual.tunnels.get(&family).is_some_and(|device| device.form == DeviceForm::External)
        };
        let guarded = self.actual.table.guards();
        let families = [IpFamily::V4, IpFamily::V6];
        let waits_for = match change {
            Change::PutTunnel { family, .. } if !guarded && !exists(*family) => {
                "packets from strangers are kept out (the nftables table)".to_owned()
            }
            Change::AddRoute(_, route) | Change::ReplaceRoute(_, route) => {
                let missing = |family: &IpFamily| route.needs_tunnel(*family) && !exists(*family);
                format!("there is the tunnel device {}", families.into_iter().find(missing)?.device())
            }
            Change::DeleteTable => {
                format!(
                    "the tunnel device {} is gone",
                    families.into_iter().find(|family| exists(*family))?.device()
                )
            }
            _ => return None,
        };
        Some(KernelError::from_cause(change.to_string(), Cause::Waiting(waits_for)))
    }

    /// How things stand. Errors of the same sort become one entry, so that a thousand routes don't make a thousand.
    fn summary(&self) -> Summary {
        let difference = self.difference();
        let failed = self.failures.values().map(|failure| failure.error.clone());
        let waiting = difference
            .changes
            .iter()
            .filter(|change| !self.failures.contains_key(&change.key()))
            .filter_map(|change| self.obstacle(change));
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

fn grouped(errors: impl Iterator<Item = KernelError>) -> Vec<Problem> {
    let mut groups: Vec<(Problem, usize)> = Vec::new();
    let mut places: HashMap<(String, String), usize> = HashMap::new();
    for error in errors {
        let sort = (error.cause.to_string(), error.remedy);
        match places.get(&sort) {
            Some(place) => groups[*place].1 += 1,
            None => {
                let problem = Problem { what: error.what, error: sort.0.clone(), remedy: sort.1.clone() };
                places.insert(sort, groups.len());
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
