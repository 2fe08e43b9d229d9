//! Heliograph's nftables table. Several features share it, each with chains and sets of its own: one transaction makes the
//! changes of all of them. If the kernel rejects it, the feature to which the rejected change belongs is left out and tried
//! again later, and the others are made without it.
//!
//! Only what differs is written: one node more is one element more, and the counters of all rules stay as they are. The
//! table is read again only if another program changed it, which a notification or the generation shows.

mod changes;
mod port;

pub use port::Port;

use super::problem::Problems;
use super::retries::Retries;
use super::tracker::{Held, Tracker};
use super::{Phase, Plane, PlaneReport, Present, guard, nat};
use crate::netlink::Hint;
use crate::netlink::error::{Cause, KernelError, KernelResult};
use crate::netlink::nftables::expression::{Compare, Header, Meta};
use crate::netlink::nftables::{
    Chain, DumpedTable, ElementKey, Expression, Field, Name, Register, Set, TABLE, Transaction, Value,
    is_absent,
};
use changes::Changes;
use heliograph_cni::IpFamily;
use ipnetwork::IpNetwork;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

/// The features of the table.
const FEATURES: &[Feature] = &[guard::FEATURE, nat::FEATURE];

/// The objects in the table that belong to no feature: another program added them.
const FOREIGN: Feature = Feature {
    name: "objects of other programs",
    sets: &[],
    chains: &[],
    kept_sets: &[],
    removal: Removal::AtOnce,
};

/// A feature: a part of the table.
#[derive(Debug, Clone, Copy)]
pub struct Feature {
    /// The name, for messages.
    pub name: &'static str,
    /// The names of its sets and maps.
    pub sets: &'static [&'static str],
    /// The names of its chains.
    pub chains: &'static [&'static str],
    /// The sets whose elements are kept until deleting is permitted, as the desired ones may not be complete yet.
    pub kept_sets: &'static [&'static str],
    /// The time at which its chains and sets are removed.
    pub removal: Removal,
}

/// The time at which the chains and sets of a feature are removed, if it is not desired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// At once, unless nothing at all is desired: then when deleting is permitted.
    AtOnce,
    /// When deleting is permitted, and no tunnel exists any more.
    AfterTunnels,
}

/// The key of an object in the table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// A set or map, without its elements.
    Set(Name),
    /// An element of a set or map.
    Element(Name, ElementKey),
    /// A chain with its rules.
    Chain(Name),
}

impl Key {
    fn feature(&self) -> &'static Feature {
        let owns = |feature: &&Feature| match self {
            Key::Set(name) | Key::Element(name, _) => feature.sets.contains(&&**name),
            Key::Chain(name) => feature.chains.contains(&&**name),
        };
        FEATURES.iter().find(owns).unwrap_or(&FOREIGN)
    }
}

/// The value of an object in the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// The definition of a set or map.
    Set(Arc<Set>),
    /// The data of an element, in a map.
    Element(Option<Value>),
    /// A chain.
    Chain(Arc<Chain>),
}

/// The table in the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TableState {
    Absent,
    Present,
    /// It has flags, for example `dormant`: it is to be written again as a whole.
    Flagged,
}

/// The nftables table.
#[derive(Debug)]
pub struct Nftables<P> {
    port: P,
    tracker: Tracker<Key, Item>,
    /// The names of sets, each once.
    names: BTreeSet<Name>,
    table: TableState,
    /// The generation of nf_tables in which the table was as `tracker` has it.
    generation: Option<u32>,
    /// Set if the generation has to be read: it shows whether a change was missed.
    check: bool,
    /// The features whose changes failed.
    retries: Retries<&'static str>,
    confirmed: u64,
    failed: u64,
}

/// The desired objects of the table, to be set by a feature.
#[derive(Debug)]
pub struct Objects<'a> {
    tracker: &'a mut Tracker<Key, Item>,
    names: &'a mut BTreeSet<Name>,
}

impl Objects<'_> {
    fn name(&mut self, name: &str) -> Name {
        if let Some(known) = self.names.get(name) {
            return known.clone();
        }
        let new = Name::from(name);
        self.names.insert(new.clone());
        new
    }

    /// Sets a set or map; `None`: there is none.
    pub fn set(&mut self, name: &str, set: Option<Set>) {
        let key = Key::Set(self.name(name));
        self.put(key, set.map(|set| Item::Set(Arc::new(set))));
    }

    /// Sets a chain; `None`: there is none.
    pub fn chain(&mut self, name: &str, chain: Option<Chain>) {
        let key = Key::Chain(self.name(name));
        self.put(key, chain.map(|chain| Item::Chain(Arc::new(chain))));
    }

    /// Sets an element of a set or map with its data; `None`: there is none.
    pub fn element(&mut self, set: &str, key: ElementKey, value: Option<Option<Value>>) {
        let key = Key::Element(self.name(set), key);
        self.tracker.set(key, value.map(Item::Element));
    }

    fn put(&mut self, key: Key, item: Option<Item>) {
        // An object that was read before it was desired could not be compared: it is read again.
        let uncompared = self.tracker.get(&key).is_some_and(|object| object.exists && object.held.is_none());
        if uncompared && item.is_some() {
            self.tracker.forget();
        }
        self.tracker.set(key, item);
    }
}

impl<P: Port> Nftables<P> {
    /// Makes the plane; nothing is desired yet.
    pub fn new(port: P) -> Self {
        Self {
            port,
            tracker: Tracker::default(),
            names: BTreeSet::new(),
            table: TableState::Absent,
            generation: None,
            check: false,
            retries: Retries::default(),
            confirmed: 0,
            failed: 0,
        }
    }

    /// Returns the port, for tests and the subscription to changes.
    pub fn port(&mut self) -> &mut P {
        &mut self.port
    }

    /// Returns the desired objects, to change them.
    pub fn objects(&mut self) -> Objects<'_> {
        Objects { tracker: &mut self.tracker, names: &mut self.names }
    }

    /// Returns whether the kernel drops tunnelled packets that don't come from a node.
    fn guards(&self) -> bool {
        self.table == TableState::Present && self.tracker.is_installed(&Key::Chain(guard::CHAIN.into()))
    }

    fn read_if_unknown(&mut self, now: Instant) {
        if self.tracker.needs_read(now)
            && let Err(error) = self.read_all()
        {
            self.failed += 1;
            self.tracker.fail_read(error, now);
        }
    }

    fn read_all(&mut self) -> KernelResult<()> {
        let before = self.port.generation().ok();
        let dumped = self.port.read()?;
        // Another program may have changed something meanwhile: then the next check reads again.
        self.generation = self.port.generation().ok().filter(|after| before == Some(*after));
        self.observe(dumped.as_ref());
        Ok(())
    }

    fn observe(&mut self, dumped: Option<&DumpedTable>) {
        self.table = match dumped {
            None => TableState::Absent,
            Some(table) if table.flags == 0 => TableState::Present,
            Some(_) => TableState::Flagged,
        };
        let mut objects = Objects { tracker: &mut self.tracker, names: &mut self.names };
        objects.tracker.begin_read();
        let mut altered = Vec::new();
        for dumped in dumped.iter().flat_map(|table| &table.sets) {
            let name = objects.name(&dumped.name);
            let key = Key::Set(name.clone());
            let desired = objects.tracker.desired(&key).cloned();
            let Some(Item::Set(set)) = &desired else {
                objects.tracker.observe(key, Held::Altered);
                continue;
            };
            let (elements, unknown) = set.decode(&dumped.elements);
            if unknown || !set.is(&dumped.attributes) {
                altered.push(key.feature().name);
                objects.tracker.observe(key, Held::Altered);
                continue;
            }
            objects.tracker.observe(key, Held::Value(Item::Set(set.clone())));
            for element in elements {
                let key = Key::Element(name.clone(), element.key);
                objects.tracker.observe(key, Held::Value(Item::Element(element.value)));
            }
        }
        for dumped in dumped.iter().flat_map(|table| &table.chains) {
            let key = Key::Chain(objects.name(&dumped.name));
            let held = match objects.tracker.desired(&key) {
                // The rules of a feature use its sets: if one is made again, so are the chains.
                Some(Item::Chain(chain)) if chain.is(dumped) && !altered.contains(&key.feature().name) => {
                    Held::Value(Item::Chain(chain.clone()))
                }
                _ => Held::Altered,
            };
            objects.tracker.observe(key, held);
        }
        objects.tracker.end_read();
    }

    /// Returns the changes of a phase that are possible and due.
    fn changes(&self, phase: Phase, present: &Present) -> Changes {
        if !self.tracker.is_known() {
            return Changes::default();
        }
        Changes::of(&self.tracker, self.table, phase, present, |feature| {
            self.retries.is_waiting(&feature.name)
        })
    }

    /// Records a failed transaction. Returns whether to try again without the feature that failed.
    fn fail(
        &mut self,
        failure: crate::netlink::nftables::socket::Failure,
        changes: &Changes,
        now: Instant,
    ) -> bool {
        self.failed += 1;
        let lost = failure.operation.is_none();
        let error = with_remedy(failure.error);
        match failure.operation.and_then(|place| changes.feature_at(place)) {
            Some(feature) => {
                self.retries.fail(feature.name, error, now);
                true
            }
            None => {
                for feature in changes.features() {
                    self.retries.fail(feature.name, error.clone(), now);
                }
                if lost {
                    self.tracker.forget();
                }
                false
            }
        }
    }

    /// Forgets the failures of features that need no change any more, or wait for something else: after a lost answer, the
    /// table may be as desired.
    fn drop_settled(&mut self, present: &Present) {
        if self.retries.is_empty() || !self.tracker.is_known() {
            return;
        }
        let all = [Phase::Add, Phase::Remove]
            .map(|phase| Changes::of(&self.tracker, self.table, phase, present, |_| false));
        let open: Vec<&str> = all.iter().flat_map(Changes::features).map(|feature| feature.name).collect();
        self.retries.retain(|feature| open.contains(feature));
    }

    fn confirm(&mut self, changes: Changes) {
        self.confirmed += 1;
        self.generation = self.generation.map(|generation| generation.wrapping_add(1));
        for feature in changes.features() {
            self.retries.succeed(&feature.name);
        }
        if changes.deletes_table {
            return self.observe(None);
        }
        self.table = TableState::Present;
        changes.keys.iter().for_each(|key| self.tracker.confirm(key));
    }
}

impl<P: Port> Plane for Nftables<P> {
    fn name(&self) -> &'static str {
        "nftables"
    }

    fn invalidate(&mut self, hint: &Hint) {
        match hint {
            Hint::Everything
            | Hint::Nftables { ours: true, .. }
            | Hint::Nftables { generation: None, .. } => {
                self.tracker.forget();
            }
            Hint::Periodic => self.check = true,
            // Another table changed: Heliograph's is the same in the next generation.
            Hint::Nftables { generation: Some(generation), .. }
                if self.generation.map(|known| known.wrapping_add(1)) == Some(*generation) =>
            {
                self.generation = Some(*generation);
            }
            _ => {}
        }
    }

    fn read(&mut self, present: &mut Present, now: Instant) {
        // A change that the kernel rejected may have been based on a wrong actual state.
        if !self.retries.take_due(now).is_empty() {
            self.tracker.forget();
        }
        if std::mem::take(&mut self.check) && self.tracker.is_known() {
            let generation = self.port.generation().ok();
            if generation.is_none() || generation != self.generation {
                self.tracker.forget();
            }
        }
        self.read_if_unknown(now);
        self.drop_settled(present);
        present.guarded = self.guards();
    }

    fn apply(&mut self, phase: Phase, present: &mut Present, now: Instant) -> bool {
        let mut any = false;
        // Each failed attempt leaves out one feature more.
        for _ in 0..=FEATURES.len() + 1 {
            let mut changes = self.changes(phase, present);
            if changes.is_empty() {
                break;
            }
            any = true;
            let transaction = Transaction { operations: changes.take_operations() };
            match self.port.commit(&describe(&changes), &transaction) {
                Ok(()) => {
                    tracing::debug!(
                        operations = transaction.operations.len(),
                        "nftables transaction confirmed"
                    );
                    if changes.rebuilds_table {
                        // A feature that waits for its retry was not written again.
                        self.tracker.forget();
                    }
                    self.confirm(changes);
                    self.read_if_unknown(now);
                    break;
                }
                Err(failure) => {
                    if !self.fail(failure, &changes, now) {
                        break;
                    }
                }
            }
        }
        self.drop_settled(present);
        present.guarded = self.guards();
        any
    }

    fn next_retry(&self) -> Option<Instant> {
        [self.retries.next(), self.tracker.next_retry()].into_iter().flatten().min()
    }

    fn report(&self, present: &Present) -> PlaneReport {
        let mut problems = Problems::default();
        for error in self.tracker.read_errors(&format!("read nftables table inet {TABLE}")) {
            problems.add(error);
        }
        for (reason, feature, count) in self.retries.grouped(|_| true) {
            problems.add_many(reason.error(format!("write {feature} in nftables table inet {TABLE}")), count);
        }
        let [adds, removals] = [Phase::Add, Phase::Remove].map(|phase| self.changes(phase, present));
        if let Some(prerequisite) = removals.waits_for.or(adds.waits_for.clone()) {
            let what = format!("delete {} in nftables table inet {TABLE}", guard::FEATURE.name);
            problems.add(KernelError::from_cause(what, Cause::Waiting(prerequisite)));
        }
        let settled = self.tracker.is_known() && adds.is_empty_plan() && removals.keys.is_empty();
        PlaneReport {
            in_sync: settled && problems.is_empty(),
            actual: self.tracker.actual_count(),
            desired: self.tracker.desired_count(),
            kept: adds.kept,
            changes: self.confirmed,
            failures: self.failed,
            problems: problems.into_entries(),
        }
    }
}

fn describe(changes: &Changes) -> String {
    let names: Vec<&str> = changes.features().map(|feature| feature.name).collect();
    format!("write {} in nftables table inet {TABLE}", names.join(" and "))
}

fn with_remedy(error: KernelError) -> KernelError {
    match is_absent(&error) {
        true => error.with_remedy(
            "check that the kernel has nftables with NAT (modprobe nf_tables nft_masq), or set natOutgoing: Disabled and \
             encapsulation: Never",
        ),
        false => error,
    }
}

/// Returns the number of a family in packets' metadata (NFPROTO_IPV4, NFPROTO_IPV6).
pub fn family_number(family: IpFamily) -> u8 {
    match family {
        IpFamily::V4 => 2,
        IpFamily::V6 => 10,
    }
}

/// Continues with packets of a family.
pub fn of_family(family: IpFamily) -> [Expression; 2] {
    [
        Expression::meta(Meta::Family, Register::FIRST),
        Expression::compare(Register::FIRST, Compare::Equal, &[family_number(family)]),
    ]
}

/// Loads the source address.
pub fn source_of(family: IpFamily) -> Expression {
    match family {
        IpFamily::V4 => Expression::payload(Header::Network, 12, 4, Register::FIRST),
        IpFamily::V6 => Expression::payload(Header::Network, 8, 16, Register::FIRST),
    }
}

/// Loads the destination address.
pub fn destination_of(family: IpFamily) -> Expression {
    match family {
        IpFamily::V4 => Expression::payload(Header::Network, 16, 4, Register::FIRST),
        IpFamily::V6 => Expression::payload(Header::Network, 24, 16, Register::FIRST),
    }
}

/// Returns the field of an address.
pub fn address_field(family: IpFamily) -> Field {
    match family {
        IpFamily::V4 => Field::IPV4,
        IpFamily::V6 => Field::IPV6,
    }
}

/// Returns the key of an address.
pub fn address_key(address: IpAddr) -> ElementKey {
    match address {
        IpAddr::V4(address) => ElementKey::of(&[&address.octets()]),
        IpAddr::V6(address) => ElementKey::of(&[&address.octets()]),
    }
}

/// Returns the key of a network, in a set of ranges.
pub fn range_of(network: &IpNetwork) -> ElementKey {
    match network {
        IpNetwork::V4(network) => {
            ElementKey::range(&[&network.network().octets()], &[&network.broadcast().octets()])
        }
        IpNetwork::V6(network) => {
            ElementKey::range(&[&network.network().octets()], &[&network.broadcast().octets()])
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
