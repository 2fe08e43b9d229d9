//! A fake kernel with injected faults. It follows the rules of the real one on which reconciling depends: keys of routes,
//! the route that a replace replaces, routes that are deleted with their device.

use super::error::{Cause, KernelError, KernelResult};
use super::{
    Actual, Change, Device, DeviceForm, Foreign, Hop, IpFamily, Kernel, Key, METRIC, Route, Rules, Segment,
    Underlay,
};
use nix::errno::Errno;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};

/// An operation that can be made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Op {
    /// Reading everything.
    Dump,
    /// Turning forwarding on.
    Forward,
    /// Writing the nftables table.
    PutTable,
    /// Removing the nftables table.
    DeleteTable,
    /// Making a tunnel device.
    PutTunnel,
    /// Removing a tunnel device.
    DeleteTunnel,
    /// Adding a route.
    AddRoute,
    /// Replacing a route.
    ReplaceRoute,
    /// Deleting a route or a stray.
    DeleteRoute,
}

impl Op {
    /// All operations.
    pub const ALL: [Op; 9] = [
        Op::Dump,
        Op::Forward,
        Op::PutTable,
        Op::DeleteTable,
        Op::PutTunnel,
        Op::DeleteTunnel,
        Op::AddRoute,
        Op::ReplaceRoute,
        Op::DeleteRoute,
    ];

    fn of(change: &Change) -> Self {
        match change {
            Change::Forward(_) => Op::Forward,
            Change::PutTable(_) => Op::PutTable,
            Change::DeleteTable => Op::DeleteTable,
            Change::PutTunnel { .. } => Op::PutTunnel,
            Change::DeleteTunnel(_) => Op::DeleteTunnel,
            Change::AddRoute(..) => Op::AddRoute,
            Change::ReplaceRoute(..) => Op::ReplaceRoute,
            Change::DeleteRoute(_) | Change::DeleteStray(_) => Op::DeleteRoute,
        }
    }
}

/// The effect of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// The operation is rejected and has no effect.
    Reject,
    /// The operation has its effect, but the answer is lost.
    LoseAnswer,
}

/// An injected fault.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    /// The operation that fails.
    pub op: Op,
    /// The effect.
    pub effect: Effect,
    /// The number of times it still happens; `u32::MAX` is always.
    pub times: u32,
}

/// The state of the fake, and the record of the requests.
#[derive(Debug, Default)]
pub struct State {
    /// The kernel's state.
    pub actual: Actual,
    /// The injected faults.
    pub faults: Vec<Fault>,
    /// All requested changes, in order.
    pub requested: Vec<Change>,
    /// The number of dumps.
    pub dumps: u32,
}

/// The fake kernel. Clones share their state, so that a test can change it while a reconciler uses it.
#[derive(Debug, Clone, Default)]
pub struct Fake {
    state: Arc<Mutex<State>>,
}

impl Fake {
    /// Locks and returns the state.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Returns the foreign routes, which must never change.
    pub fn foreign(&self) -> BTreeMap<ipnetwork::IpNetwork, Foreign> {
        self.state().actual.foreign.clone()
    }
}

impl State {
    fn fault(&mut self, op: Op) -> Option<Effect> {
        let fault = self.faults.iter_mut().find(|fault| fault.op == op && fault.times > 0)?;
        if fault.times != u32::MAX {
            fault.times -= 1;
        }
        Some(fault.effect)
    }

    fn change(&mut self, change: &Change) -> KernelResult<()> {
        self.requested.push(change.clone());
        let what = change.to_string();
        let rejected =
            |errno| KernelError::from_cause(what.clone(), Cause::Rejected { errno, message: None });
        let effect = self.fault(Op::of(change));
        if effect == Some(Effect::Reject) {
            return Err(rejected(Errno::EBUSY));
        }
        if let Some(errno) = self.rejection(change) {
            return Err(rejected(errno));
        }
        if let Change::ReplaceRoute(prefix, _) = change {
            // The real kernel would replace a foreign route with the same key.
            if self.actual.foreign.get(prefix).is_some_and(|foreign| foreign.metric == METRIC) {
                self.actual.foreign.remove(prefix);
            }
        }
        self.check_guarded(change);
        self.actual.apply(change);
        match effect {
            Some(_) => Err(KernelError::from_cause(what, Cause::NoAnswer)),
            None => Ok(()),
        }
    }

    /// Checks that there is never a tunnel without the rules that drop packets from other hosts than nodes.
    fn check_guarded(&self, change: &Change) {
        let tunnel = |device: &Device| device.form == DeviceForm::External;
        let guarded = self.actual.table.guards();
        match change {
            Change::PutTable(Rules { tunnel_sources: Some(_), .. }) => {}
            Change::PutTable(_) if !guarded => {}
            Change::DeleteTable | Change::PutTable(_) => {
                assert!(!self.actual.tunnels.values().any(tunnel), "the guard was removed before the tunnel");
            }
            Change::PutTunnel { family, .. } => {
                let kept = self.actual.tunnels.get(family).is_some_and(tunnel);
                assert!(guarded || kept, "a tunnel was created without a guard");
            }
            _ => {}
        }
    }

    /// Returns the error with which the real kernel would reject the change.
    fn rejection(&self, change: &Change) -> Option<Errno> {
        let external = |family: &IpFamily| {
            self.actual.tunnels.get(family).is_some_and(|device| device.form == DeviceForm::External)
        };
        let without_device = |route: &Route| match route {
            Route::Blackhole => false,
            Route::Unicast(hops) => hops
                .iter()
                .any(|hop| matches!(hop, Hop::Tunnel { remote, .. } if !external(&IpFamily::of(*remote)))),
        };
        match change {
            Change::AddRoute(prefix, route) => {
                let taken = self.actual.routes.contains_key(prefix)
                    || self.actual.foreign.get(prefix).is_some_and(|foreign| foreign.metric == METRIC);
                taken.then_some(Errno::EEXIST).or(without_device(route).then_some(Errno::ENODEV))
            }
            Change::ReplaceRoute(_, route) => without_device(route).then_some(Errno::ENODEV),
            _ => None,
        }
    }
}

impl Kernel for Fake {
    async fn dump(&self) -> KernelResult<Actual> {
        let mut state = self.state();
        state.dumps += 1;
        match state.fault(Op::Dump) {
            Some(_) => Err(KernelError::from_cause("read the routes", Cause::Interrupted(8))),
            None => Ok(state.actual.clone()),
        }
    }

    async fn apply(&self, changes: &[Change]) -> Vec<KernelResult<()>> {
        let keys: std::collections::BTreeSet<Key> = changes.iter().map(Change::key).collect();
        assert_eq!(keys.len(), changes.len(), "one change per key at a time");
        changes.iter().map(|change| self.state().change(change)).collect()
    }

    async fn segment(&self, _next_hop: IpAddr) -> KernelResult<Segment> {
        Ok(Segment::Unreachable { error: "the fake has no segments".to_owned() })
    }

    async fn underlay(&self, local: IpAddr) -> KernelResult<Underlay> {
        let cause = Cause::Unexpected("the fake has no interfaces".to_owned());
        Err(KernelError::from_cause(format!("find the interface of {local}"), cause))
    }
}
