//! Routes of a fake kernel with injected faults. It follows the rules of the real one on which the plane depends: keys of
//! routes, exclusive adding, replacing, tunnel devices.

use super::RoutePort;
use crate::dataplane::{METRIC, PROTOCOL, Route};
use crate::netlink::route::{Decoded, Devices, DumpedRoute, Foreign, Part, RouteChange, Stray};
use crate::netlink::{Cause, KernelError};
use heliograph_cni::IpFamily;
use ipnetwork::IpNetwork;
use nix::errno::Errno;
use std::cell::{RefCell, RefMut};
use std::collections::BTreeMap;
use std::rc::Rc;

/// The operations that can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Beginning a dump.
    Dump,
    /// Receiving a part of a dump.
    Part,
    /// Adding a route.
    Add,
    /// Replacing a route.
    Replace,
    /// Deleting a route or a stray.
    Delete,
}

impl Op {
    /// All operations.
    pub const ALL: [Op; 5] = [Op::Dump, Op::Part, Op::Add, Op::Replace, Op::Delete];
}

/// The effect of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// The operation is rejected and has no effect. A part of a dump is interrupted.
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

/// The content of a route in the fake kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A route of Heliograph's form, with the device index of its tunnels.
    Route(Route, Devices),
    /// A route of Heliograph that another program changed.
    Altered,
    /// A foreign route with this protocol number.
    Foreign(u8),
}

/// The key by which the kernel identifies a route: prefix, metric and TOS.
pub type Key = (IpNetwork, u32, u8);

/// The state of the fake, and the record of the requests.
#[derive(Debug, Default)]
pub struct State {
    /// The routes.
    pub routes: BTreeMap<Key, Content>,
    /// The tunnel devices.
    pub devices: Devices,
    /// The injected faults.
    pub faults: Vec<Fault>,
    /// All requested changes, in order.
    pub requested: Vec<RouteChange>,
    /// The dumps so far: the family, and whether only Heliograph's routes were requested.
    pub dumps: Vec<(IpFamily, bool)>,
    /// The number of routes in a part of a dump.
    pub part: usize,
    /// The dump in progress: the family, and the last key.
    dump: Option<(IpFamily, Option<Key>)>,
}

/// The fake. Clones share their state, so that a test can change it while a plane uses it.
#[derive(Debug, Clone, Default)]
pub struct Fake {
    state: Rc<RefCell<State>>,
}

impl Fake {
    /// Returns the state.
    pub fn state(&self) -> RefMut<'_, State> {
        self.state.borrow_mut()
    }
}

impl State {
    /// Returns the foreign routes, which must never change.
    pub fn foreign(&self) -> BTreeMap<Key, u8> {
        let foreign = |(key, content): (&Key, &Content)| match content {
            Content::Foreign(protocol) => Some((*key, *protocol)),
            _ => None,
        };
        self.routes.iter().filter_map(foreign).collect()
    }

    /// Returns Heliograph's routes at its metric, except for altered ones, and the number of its other ones.
    pub fn own(&self) -> (BTreeMap<IpNetwork, Route>, usize) {
        let mut own = BTreeMap::new();
        let mut others = 0;
        for ((prefix, metric, tos), content) in &self.routes {
            match content {
                Content::Route(route, devices)
                    if (*metric, *tos) == (METRIC, 0)
                        && route
                            .tunnels()
                            .all(|tunnel| devices.get(&tunnel) == self.devices.get(&tunnel)) =>
                {
                    own.insert(*prefix, route.clone());
                }
                Content::Foreign(_) => {}
                _ => others += 1,
            }
        }
        (own, others)
    }

    /// Deletes the tunnel devices, and the routes through them.
    pub fn delete_devices(&mut self) {
        self.devices.clear();
        self.routes.retain(
            |_, content| !matches!(content, Content::Route(route, _) if route.tunnels().next().is_some()),
        );
    }

    fn fault(&mut self, op: Op) -> Option<Effect> {
        let fault = self.faults.iter_mut().find(|fault| fault.op == op && fault.times > 0)?;
        if fault.times != u32::MAX {
            fault.times -= 1;
        }
        Some(fault.effect)
    }

    fn change(&mut self, change: &RouteChange, devices: &Devices) -> Result<(), Cause> {
        self.requested.push(change.clone());
        let rejected = |errno| Err(Cause::Rejected { errno, message: None });
        let op = match change {
            RouteChange::Add(..) => Op::Add,
            RouteChange::Replace(..) => Op::Replace,
            RouteChange::Delete { .. } => Op::Delete,
        };
        let effect = self.fault(op);
        if effect == Some(Effect::Reject) {
            return rejected(Errno::EBUSY);
        }
        match change {
            RouteChange::Add(prefix, route) | RouteChange::Replace(prefix, route) => {
                let key = (*prefix, METRIC, 0);
                if op == Op::Add && self.routes.contains_key(&key) {
                    return rejected(Errno::EEXIST);
                }
                if route.tunnels().any(|tunnel| !self.devices.contains_key(&tunnel)) {
                    return rejected(Errno::ENODEV);
                }
                assert_eq!(devices, &self.devices, "the plane has the present devices");
                self.routes.insert(key, Content::Route((**route).clone(), devices.clone()));
            }
            RouteChange::Delete { prefix, metric, tos } => {
                let key = (*prefix, *metric, *tos);
                if !matches!(self.routes.get(&key), Some(Content::Route(..) | Content::Altered)) {
                    return rejected(Errno::ESRCH);
                }
                self.routes.remove(&key);
            }
        }
        effect.map_or(Ok(()), |_| Err(Cause::NoAnswer))
    }

    fn dumped(&self, (prefix, metric, tos): Key, content: &Content, devices: &Devices) -> DumpedRoute {
        use crate::dataplane::Held;
        let held = match content {
            Content::Foreign(protocol) => {
                assert_ne!(*protocol, PROTOCOL);
                return DumpedRoute::Foreign(Foreign { prefix, metric, tos, protocol: *protocol });
            }
            _ if (metric, tos) != (METRIC, 0) => return DumpedRoute::Stray(Stray { prefix, metric, tos }),
            Content::Route(route, over)
                if route.tunnels().all(|tunnel| over.get(&tunnel) == devices.get(&tunnel)) =>
            {
                Held::Value(Decoded::Other(route.clone()))
            }
            _ => Held::Altered,
        };
        DumpedRoute::Ours(prefix, held)
    }
}

impl RoutePort for Fake {
    fn change(
        &mut self,
        changes: &[RouteChange],
        devices: &Devices,
        failed: &mut dyn FnMut(usize, KernelError),
    ) {
        let mut keys = std::collections::BTreeSet::new();
        for (place, change) in changes.iter().enumerate() {
            let key = match change {
                RouteChange::Delete { prefix, metric, tos } => (*prefix, *metric, *tos),
                RouteChange::Add(prefix, _) | RouteChange::Replace(prefix, _) => (*prefix, METRIC, 0),
            };
            assert!(keys.insert(key), "one change per route at a time");
            if let Err(cause) = self.state().change(change, devices) {
                failed(place, KernelError::from_cause(change.to_string(), cause));
            }
        }
    }

    fn begin_dump(&mut self, family: IpFamily, own: bool) -> Result<(), Cause> {
        let mut state = self.state();
        state.dumps.push((family, own));
        state.dump = Some((family, None));
        state.fault(Op::Dump).map_or(Ok(()), |_| Err(Cause::NoAnswer))
    }

    fn next_part(&mut self, devices: &Devices, visit: &mut dyn FnMut(DumpedRoute)) -> Result<Part, Cause> {
        let mut state = self.state();
        match state.fault(Op::Part) {
            Some(Effect::Reject) => return Ok(Part::Interrupted),
            Some(Effect::LoseAnswer) => return Err(Cause::NoAnswer),
            None => {}
        }
        let (family, last) = state.dump.expect("a dump has begun");
        let rest = state.routes.iter().filter(|(key, _)| {
            IpFamily::of_network(&key.0) == family && last.is_none_or(|last| **key > last)
        });
        let length = if state.part == 0 { usize::MAX } else { state.part };
        let part: Vec<(Key, DumpedRoute)> =
            rest.take(length).map(|(key, content)| (*key, state.dumped(*key, content, devices))).collect();
        let end = part.len() < length;
        let last = part.last().map(|(key, _)| *key).or(last);
        state.dump = (!end).then_some((family, last));
        drop(state);
        // Kernels before 4.20 don't filter: the plane must not depend on it.
        part.into_iter().for_each(|(_, route)| visit(route));
        Ok(if end { Part::Last } else { Part::More })
    }
}
