//! A fake kernel with injected faults. It follows the rules of the real one on which the planes depend.

use super::nftables::{self, Nftables};
use super::routes::{RoutePort, Routes};
use super::sysctls;
use super::tracker::Held;
use super::tunnels::{self, Device, DeviceForm};
use super::{Dataplane, Ports, Route, Tunnel, guard};
use crate::netlink::error::{Cause, KernelError, KernelResult};
use crate::netlink::nftables::socket::Failure;
use crate::netlink::nftables::table::testing;
use crate::netlink::nftables::{
    Chain, DumpedTable, Element, ElementKey, Name, Operation, Rule, Set, Transaction, Value,
};
use crate::netlink::route::{Decoded, Devices, DumpedRoute, Part, RouteChange};
use heliograph_cni::IpFamily;
use ipnetwork::IpNetwork;
use nix::errno::Errno;
use std::cell::{RefCell, RefMut};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

/// An operation that can be made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Op {
    /// Reading the generation of nf_tables.
    Generation,
    /// Reading the nftables table.
    ReadTable,
    /// Any nftables transaction.
    Commit,
    /// An nftables transaction with NAT outgoing, which the kernel rejects for it.
    CommitNat,
    /// Reading a sysctl.
    ReadForwarding,
    /// Turning forwarding on.
    Forward,
    /// Looking for a tunnel device.
    FindTunnel,
    /// Creating a tunnel device.
    CreateTunnel,
    /// Correcting a tunnel device.
    AdjustTunnel,
    /// Deleting a tunnel device.
    RemoveTunnel,
    /// Turning the filter of a tunnel device off.
    DisableFilter,
    /// Reading the routes.
    ReadRoutes,
    /// Adding or replacing a route.
    PutRoute,
    /// Deleting a route.
    DeleteRoute,
}

impl Op {
    /// All operations.
    pub const ALL: [Op; 14] = [
        Op::Generation,
        Op::ReadTable,
        Op::Commit,
        Op::CommitNat,
        Op::ReadForwarding,
        Op::Forward,
        Op::FindTunnel,
        Op::CreateTunnel,
        Op::AdjustTunnel,
        Op::RemoveTunnel,
        Op::DisableFilter,
        Op::ReadRoutes,
        Op::PutRoute,
        Op::DeleteRoute,
    ];
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
    /// The number of executions before the first failure.
    pub after: u32,
    /// The number of times it still happens; `u32::MAX` is always.
    pub times: u32,
}

/// The elements of a set with their data.
pub type Elements = BTreeMap<ElementKey, Option<Value>>;

/// The table of the fake.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Table {
    /// The flags.
    pub flags: u32,
    /// The sets with their elements.
    pub sets: BTreeMap<Name, (Arc<Set>, Elements)>,
    /// The chains with their rules.
    pub chains: BTreeMap<Name, (Arc<Chain>, Vec<Rule>)>,
}

/// The state of the fake.
#[derive(Debug)]
pub struct World {
    /// The nftables table.
    pub table: Option<Table>,
    /// The generation of nf_tables.
    pub generation: u32,
    /// The devices with names of tunnels.
    pub devices: BTreeMap<Tunnel, Device>,
    /// The families whose packets are forwarded.
    pub forwarding: BTreeSet<IpFamily>,
    /// Heliograph's routes.
    pub routes: BTreeMap<IpNetwork, Route>,
    /// The family of the dump in progress.
    pub dump: IpFamily,
    /// The injected faults.
    pub faults: Vec<Fault>,
    /// The requested changes, in order.
    pub requested: Vec<Op>,
    /// The committed transactions.
    pub transactions: Vec<Transaction>,
    /// The number of readings of the table.
    pub reads: u32,
    /// The number of created devices.
    pub last_index: u32,
}

impl Default for World {
    fn default() -> Self {
        Self {
            table: None,
            generation: 0,
            devices: BTreeMap::new(),
            forwarding: BTreeSet::new(),
            routes: BTreeMap::new(),
            dump: IpFamily::V4,
            faults: Vec::new(),
            requested: Vec::new(),
            transactions: Vec::new(),
            reads: 0,
            last_index: 0,
        }
    }
}

/// The fake kernel. Clones share their state.
#[derive(Debug, Clone, Default)]
pub struct Fake(Rc<RefCell<World>>);

/// The ports of the fake.
pub struct FakePorts;

impl Ports for FakePorts {
    type Sysctls = Fake;
    type Nftables = Fake;
    type Tunnels = Fake;
    type Routes = Routes<Fake>;
}

impl Fake {
    /// Returns the state.
    pub fn world(&self) -> RefMut<'_, World> {
        self.0.borrow_mut()
    }

    /// Makes planes on this kernel.
    pub fn dataplane(&self) -> Dataplane<FakePorts> {
        Dataplane::new(self.clone(), self.clone(), self.clone(), Routes::new(self.clone()))
    }

    /// Makes the plane of nftables on this kernel.
    pub fn nftables(&self) -> Nftables<Fake> {
        Nftables::new(self.clone())
    }
}

fn rejected(what: &str, errno: Errno) -> KernelError {
    KernelError::from_cause(what, Cause::Rejected { errno, message: None })
}

fn lost(what: &str) -> KernelError {
    KernelError::from_cause(what, Cause::NoAnswer)
}

impl World {
    fn fault(&mut self, op: Op) -> Option<Effect> {
        let fault = self.faults.iter_mut().find(|fault| fault.op == op && fault.times > 0)?;
        if fault.after > 0 {
            fault.after -= 1;
            return None;
        }
        if fault.times != u32::MAX {
            fault.times -= 1;
        }
        Some(fault.effect)
    }

    /// Executes a change, unless a fault prevents it.
    fn change(
        &mut self,
        op: Op,
        what: &str,
        make: impl FnOnce(&mut Self) -> Result<(), Errno>,
    ) -> KernelResult<()> {
        self.requested.push(op);
        let effect = self.fault(op);
        if effect == Some(Effect::Reject) {
            return Err(rejected(what, Errno::EBUSY));
        }
        make(self).map_err(|errno| rejected(what, errno))?;
        if effect.is_some() { Err(lost(what)) } else { Ok(()) }
    }

    fn question(&mut self, op: Op, what: &str) -> KernelResult<()> {
        if self.fault(op).is_some() {
            Err(KernelError::from_cause(what, Cause::Interrupted(8)))
        } else {
            Ok(())
        }
    }

    /// Returns whether tunnelled packets of others than nodes are dropped.
    pub fn guarded(&self) -> bool {
        let Some(table) = &self.table else { return false };
        let intact = |(chain, rules): &(Arc<Chain>, Vec<Rule>)| {
            chain.base.is_some() && *rules == chain.rules && !rules.is_empty()
        };
        table.flags == 0 && table.chains.get(guard::CHAIN).is_some_and(intact)
    }

    /// Returns whether there is a tunnel of Heliograph.
    pub fn has_tunnel(&self) -> bool {
        self.devices.values().any(|device| device.form == DeviceForm::External)
    }

    fn transact(&mut self, transaction: &Transaction) -> Result<(), (usize, Errno)> {
        let mut table = self.table.clone();
        for (place, operation) in transaction.operations.iter().enumerate() {
            operate(&mut table, operation).map_err(|errno| (place, errno))?;
        }
        let was_guarded = self.guarded();
        self.table = table;
        self.generation += 1;
        self.transactions.push(transaction.clone());
        assert!(
            !was_guarded || self.guarded() || !self.has_tunnel(),
            "the guard was removed before the tunnel"
        );
        Ok(())
    }
}

/// Makes one change by the rules of the kernel.
fn operate(state: &mut Option<Table>, operation: &Operation) -> Result<(), Errno> {
    match operation {
        Operation::AddTable => drop(state.get_or_insert_default()),
        Operation::DeleteTable => drop(state.take().ok_or(Errno::ENOENT)?),
        other => operate_on(state.as_mut().ok_or(Errno::ENOENT)?, other)?,
    }
    Ok(())
}

fn operate_on(table: &mut Table, operation: &Operation) -> Result<(), Errno> {
    match operation {
        Operation::AddTable | Operation::DeleteTable => {}
        Operation::AddSet(set) => {
            if table.sets.contains_key(&set.name) {
                return Err(Errno::EEXIST);
            }
            table.sets.insert(set.name.clone(), (set.clone(), BTreeMap::new()));
        }
        Operation::DeleteSet(name) => {
            let used =
                |(chain, rules): &(Arc<Chain>, Vec<Rule>)| rules.iter().any(|rule| uses(chain, rule, name));
            if table.chains.values().any(used) {
                return Err(Errno::EBUSY);
            }
            table.sets.remove(name).ok_or(Errno::ENOENT)?;
        }
        Operation::AddElements(set, elements) => {
            let (definition, held) = table.sets.get_mut(&set.name).ok_or(Errno::ENOENT)?;
            assert_eq!(definition, set);
            for Element { key, value } in elements {
                let differs = |(other, held): (&ElementKey, &Option<Value>)| {
                    if other == key { held != value } else { set.intervals && other.overlaps(key) }
                };
                if held.iter().any(differs) {
                    return Err(Errno::EEXIST);
                }
                held.insert(key.clone(), value.clone());
            }
        }
        Operation::DeleteElements(set, elements) => {
            let (_, held) = table.sets.get_mut(&set.name).ok_or(Errno::ENOENT)?;
            for element in elements {
                held.remove(&element.key).ok_or(Errno::ENOENT)?;
            }
        }
        Operation::AddChain(chain) => {
            let (held, _) =
                table.chains.entry(chain.name.clone()).or_insert_with(|| (chain.clone(), Vec::new()));
            if held.base != chain.base {
                return Err(Errno::EEXIST);
            }
            *held = chain.clone();
        }
        Operation::AddRules(chain) => {
            let sets: Vec<Name> = table.sets.keys().cloned().collect();
            let (_, rules) = table.chains.get_mut(&chain.name).ok_or(Errno::ENOENT)?;
            for rule in &chain.rules {
                let missing = ["nodes4", "nodes6", "pods4", "inside4"]
                    .iter()
                    .any(|name| uses(chain, rule, name) && !sets.iter().any(|set| **set == **name));
                if missing {
                    return Err(Errno::ENOENT);
                }
                rules.push(rule.clone());
            }
        }
        Operation::FlushChain(name) => table.chains.get_mut(name).ok_or(Errno::ENOENT)?.1.clear(),
        Operation::DeleteRule(name, _) => drop(table.chains.get(name).ok_or(Errno::ENOENT)?),
        Operation::DeleteChain(name) => drop(table.chains.remove(name).ok_or(Errno::ENOENT)?),
    }
    Ok(())
}

/// Returns whether a rule uses a set.
fn uses(chain: &Chain, rule: &Rule, set: &str) -> bool {
    let name = [set.as_bytes(), &[0]].concat();
    testing::rule(chain, rule).windows(name.len()).any(|part| part == name)
}

impl nftables::Port for Fake {
    fn generation(&mut self) -> KernelResult<u32> {
        let mut world = self.world();
        world.question(Op::Generation, "read the generation")?;
        Ok(world.generation)
    }

    fn read(&mut self) -> KernelResult<Option<DumpedTable>> {
        let mut world = self.world();
        world.reads += 1;
        world.question(Op::ReadTable, "read the table")?;
        let Some(table) = &world.table else { return Ok(None) };
        let elements = |held: &Elements| -> Vec<Element> {
            held.iter().map(|(key, value)| Element { key: key.clone(), value: value.clone() }).collect()
        };
        let sets = table.sets.values().map(|(set, held)| testing::set(set, &elements(held))).collect();
        let chains = table.chains.values().map(|(chain, rules)| testing::chain(chain, rules)).collect();
        Ok(Some(DumpedTable { flags: table.flags, sets, chains }))
    }

    fn commit(&mut self, what: &str, transaction: &Transaction) -> Result<(), Failure> {
        let mut world = self.world();
        world.requested.push(Op::Commit);
        let nat = transaction.operations.iter().position(
            |operation| matches!(operation, Operation::AddRules(chain) if &*chain.name == super::nat::CHAIN),
        );
        let effect = world.fault(Op::Commit).map(|effect| (effect, 0));
        let effect = effect.or_else(|| world.fault(Op::CommitNat).filter(|_| nat.is_some()).zip(nat));
        if let Some((Effect::Reject, place)) = effect {
            return Err(Failure { error: rejected(what, Errno::EOPNOTSUPP), operation: Some(place) });
        }
        world
            .transact(transaction)
            .map_err(|(place, errno)| Failure { error: rejected(what, errno), operation: Some(place) })?;
        if effect.is_some() { Err(Failure { error: lost(what), operation: None }) } else { Ok(()) }
    }
}

impl sysctls::Port for Fake {
    fn forwards(&mut self, family: IpFamily) -> KernelResult<bool> {
        let mut world = self.world();
        world.question(Op::ReadForwarding, "read the sysctl")?;
        Ok(world.forwarding.contains(&family))
    }

    fn forward(&mut self, family: IpFamily) -> KernelResult<()> {
        let forward = |world: &mut World| {
            world.forwarding.insert(family);
            Ok(())
        };
        self.world().change(Op::Forward, "turn on forwarding", forward)
    }
}

impl tunnels::Port for Fake {
    fn find(&mut self, tunnel: Tunnel) -> KernelResult<Option<Device>> {
        let mut world = self.world();
        world.question(Op::FindTunnel, "look for the device")?;
        Ok(world.devices.get(&tunnel).cloned())
    }

    fn create(&mut self, what: &str, tunnel: Tunnel, mtu: u32) -> KernelResult<()> {
        self.world().change(Op::CreateTunnel, what, |world| {
            if world.devices.contains_key(&tunnel) {
                return Err(Errno::EEXIST);
            }
            assert!(world.guarded(), "a tunnel was created without a guard");
            world.last_index += 1;
            let index = 100 + world.last_index;
            let device = Device { index, form: DeviceForm::External, mtu, up: true, filters_sources: true };
            world.devices.insert(tunnel, device);
            Ok(())
        })
    }

    fn adjust(&mut self, what: &str, index: u32, mtu: u32) -> KernelResult<()> {
        self.world().change(Op::AdjustTunnel, what, |world| {
            let device =
                world.devices.values_mut().find(|device| device.index == index).ok_or(Errno::ENODEV)?;
            (device.mtu, device.up) = (mtu, true);
            Ok(())
        })
    }

    fn remove(&mut self, what: &str, index: u32) -> KernelResult<()> {
        self.world().change(Op::RemoveTunnel, what, |world| {
            let found = world.devices.iter().find(|(_, device)| device.index == index);
            let Some((tunnel, device)) = found else { return Ok(()) };
            assert!(!matches!(device.form, DeviceForm::Foreign(_)), "a foreign device was deleted");
            let tunnel = *tunnel;
            world.devices.remove(&tunnel);
            world.routes.retain(|_, route| !route.tunnels().any(|through| through == tunnel));
            Ok(())
        })
    }

    fn disable_filter(&mut self, tunnel: Tunnel) -> KernelResult<()> {
        self.world().change(Op::DisableFilter, "disable the filter", |world| {
            world.devices.get_mut(&tunnel).ok_or(Errno::ENODEV)?.filters_sources = false;
            Ok(())
        })
    }
}

impl RoutePort for Fake {
    fn change(
        &mut self,
        changes: &[RouteChange],
        devices: &Devices,
        failed: &mut dyn FnMut(usize, KernelError),
    ) {
        for (place, change) in changes.iter().enumerate() {
            let (op, prefix, route) = match change {
                RouteChange::Add(prefix, route) | RouteChange::Replace(prefix, route) => {
                    (Op::PutRoute, *prefix, Some(route))
                }
                RouteChange::Delete { prefix, .. } => (Op::DeleteRoute, *prefix, None),
            };
            let result = self.world().change(op, &change.to_string(), |world| {
                let external = |tunnel: Tunnel| {
                    let device = world.devices.get(&tunnel);
                    device.is_some_and(|device| {
                        device.form == DeviceForm::External && devices.get(&tunnel) == Some(&device.index)
                    })
                };
                match route {
                    Some(route) if !route.tunnels().all(external) => return Err(Errno::ENODEV),
                    Some(_)
                        if matches!(change, RouteChange::Add(..)) && world.routes.contains_key(&prefix) =>
                    {
                        return Err(Errno::EEXIST);
                    }
                    Some(route) => drop(world.routes.insert(prefix, Route::clone(route))),
                    None => drop(world.routes.remove(&prefix).ok_or(Errno::ESRCH)?),
                }
                Ok(())
            });
            if let Err(error) = result {
                failed(place, error);
            }
        }
    }

    fn begin_dump(&mut self, family: IpFamily, _own: bool) -> Result<(), Cause> {
        let mut world = self.world();
        world.dump = family;
        world.question(Op::ReadRoutes, "read the routes").map_err(|error| error.cause)
    }

    fn next_part(&mut self, devices: &Devices, visit: &mut dyn FnMut(DumpedRoute)) -> Result<Part, Cause> {
        let world = self.world();
        let routes = world.routes.iter().filter(|(prefix, _)| IpFamily::of_network(prefix) == world.dump);
        for (prefix, route) in routes {
            // A route through a device that is no tunnel, or no longer one, is not of Heliograph's form.
            let held = match route.tunnels().all(|tunnel| devices.contains_key(&tunnel)) {
                true => Held::Value(Decoded::Other(route.clone())),
                false => Held::Altered,
            };
            visit(DumpedRoute::Ours(*prefix, held));
        }
        Ok(Part::Last)
    }
}
