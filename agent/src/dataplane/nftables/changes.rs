//! The changes of one transaction, in an order that the kernel accepts: removals from the outside in (rules, chains,
//! elements, sets), then additions from the inside out.

use super::{Feature, Item, Key, Removal, TableState};
use crate::dataplane::tracker::{Change, Tracker};
use crate::dataplane::{Phase, Present};
use crate::netlink::nftables::{Element, ElementKey, Name, Operation, Set};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The changes of one transaction.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// The operations, in order.
    operations: Vec<Operation>,
    /// The feature of each operation; `None`: it belongs to all.
    owners: Vec<Option<&'static Feature>>,
    /// Set if the transaction deletes the table, and writes it again or not.
    pub deletes_table: bool,
    pub rebuilds_table: bool,
    /// The objects that have their desired value after the transaction.
    pub keys: Vec<Key>,
    /// The number of objects that are kept until deleting is permitted.
    pub kept: usize,
    /// The prerequisite for which the removal of a feature waits.
    pub waits_for: Option<String>,
}

/// The time at which an object that is not desired is removed.
enum Permission {
    Now,
    Later,
    Kept,
    Waits(String),
}

/// The view of the plane while changes are collected.
struct Collector<'a, F> {
    tracker: &'a Tracker<Key, Item>,
    table: TableState,
    phase: Phase,
    present: &'a Present,
    is_waiting: F,
    /// Set if nothing is desired.
    empties: bool,
}

/// The operations of a transaction by their place in the order.
#[derive(Default)]
struct Ordered {
    flushed: Vec<(&'static Feature, Operation)>,
    deleted_chains: Vec<(&'static Feature, Operation)>,
    deleted_elements: BTreeMap<Name, Vec<Element>>,
    deleted_sets: Vec<(&'static Feature, Operation)>,
    added_sets: Vec<(&'static Feature, Operation)>,
    added_elements: BTreeMap<Name, Vec<Element>>,
    added_chains: Vec<(&'static Feature, Operation)>,
    added_rules: Vec<(&'static Feature, Operation)>,
}

impl Changes {
    /// Collects the changes of a phase that are possible now. `is_waiting` returns whether a feature's retry is not due yet.
    pub fn of(
        tracker: &Tracker<Key, Item>,
        table: TableState,
        phase: Phase,
        present: &Present,
        is_waiting: impl Fn(&Feature) -> bool,
    ) -> Self {
        let empties = tracker.desired_count() == 0;
        Collector { tracker, table, phase, present, is_waiting, empties }.collect()
    }

    /// Returns whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// Returns whether nothing is left to do, also later.
    pub fn is_empty_plan(&self) -> bool {
        self.operations.is_empty() && self.keys.is_empty()
    }

    /// Returns the operations, which are not kept.
    pub fn take_operations(&mut self) -> Vec<Operation> {
        std::mem::take(&mut self.operations)
    }

    fn push(&mut self, owner: Option<&'static Feature>, operation: Operation) {
        self.owners.push(owner);
        self.operations.push(operation);
    }

    /// Returns the feature of an operation by its place.
    pub fn feature_at(&self, place: usize) -> Option<&'static Feature> {
        *self.owners.get(place)?
    }

    /// Returns the features that have operations, each once.
    pub fn features(&self) -> impl Iterator<Item = &'static Feature> {
        let mut found: Vec<&'static Feature> = Vec::new();
        for feature in self.owners.iter().copied().flatten() {
            if !found.iter().any(|known| known.name == feature.name) {
                found.push(feature);
            }
        }
        found.into_iter()
    }
}

impl<F: Fn(&Feature) -> bool> Collector<'_, F> {
    fn collect(self) -> Changes {
        let mut changes = Changes::default();
        let rebuilds = self.table == TableState::Flagged && !self.empties;
        let mut ordered = Ordered::default();
        let mut kept: BTreeMap<&Name, Vec<&ElementKey>> = BTreeMap::new();
        let mut removed: Vec<(&Key, Change<'_, Item>)> = Vec::new();
        for (key, change) in self.tracker.pending(Phase::Remove, None) {
            let feature = key.feature();
            match self.permission(key, feature) {
                Permission::Now => {
                    if !(self.is_waiting)(feature) {
                        removed.push((key, change));
                    }
                }
                Permission::Later => {}
                Permission::Waits(prerequisite) => changes.waits_for = Some(prerequisite),
                Permission::Kept => {
                    changes.kept += usize::from(feature.removal == Removal::AfterTunnels);
                    if let Key::Element(set, element) = key {
                        kept.entry(set).or_default().push(element);
                    }
                }
            }
        }
        if self.empties {
            return self.empty_table(changes, removed);
        }
        if self.phase == Phase::Add {
            let pending: Vec<(&Key, Change<'_, Item>)> = if rebuilds {
                let objects =
                    self.tracker.all_desired().filter_map(|(key, _)| Some((key, self.tracker.get(key)?)));
                objects.collect()
            } else {
                self.tracker.pending(Phase::Add, None).collect()
            };
            for (key, change) in pending {
                if (self.is_waiting)(key.feature()) {
                    continue;
                }
                if let Key::Element(set, element) = key
                    && let Some(kept) = kept.get_mut(set)
                {
                    if kept.iter().any(|kept| kept.contains(element)) && change.held.is_none() {
                        // A range that is kept contains it: it is added when that is deleted.
                        continue;
                    }
                    // A range that is kept would overlap: the new one contains it.
                    for inner in kept.extract_if(.., |kept| kept.overlaps(element)) {
                        let key = Key::Element(set.clone(), inner.clone());
                        self.remove(&key, &mut ordered);
                        changes.keys.push(key);
                    }
                }
                self.add(key, change, rebuilds, &mut ordered);
                changes.keys.push(key.clone());
            }
        }
        if rebuilds {
            for (set, elements) in kept {
                // The set of a feature that waits for its retry is not written either.
                if (self.is_waiting)(Key::Set(set.clone()).feature()) {
                    continue;
                }
                let retained = elements.into_iter().filter_map(|key| {
                    let key = Key::Element(set.clone(), key.clone());
                    self.element(&key, self.tracker.get(&key)?.held?)
                });
                ordered.added_elements.entry(set.clone()).or_default().extend(retained);
            }
            ordered.flushed.clear();
            ordered.deleted_chains.clear();
            ordered.deleted_elements.clear();
            ordered.deleted_sets.clear();
            changes.keys.extend(removed.into_iter().map(|(key, _)| key.clone()));
            changes.rebuilds_table = true;
            changes.push(None, Operation::DeleteTable);
            changes.push(None, Operation::AddTable);
        } else {
            for (key, _) in removed {
                self.remove(key, &mut ordered);
                changes.keys.push(key.clone());
            }
            if self.table == TableState::Absent {
                changes.push(None, Operation::AddTable);
            }
        }
        let before = changes.operations.len();
        self.in_order(ordered, &mut changes);
        if changes.operations.len() == before {
            // Nothing but the table itself.
            changes.operations.clear();
            changes.owners.clear();
        }
        changes
    }

    /// Returns the changes if nothing is desired: the table is deleted, unless the guard has to stay.
    fn empty_table(&self, mut changes: Changes, removed: Vec<(&Key, Change<'_, Item>)>) -> Changes {
        if self.table == TableState::Absent {
            return changes;
        }
        if !self.present.may_delete {
            changes.kept = 1;
            return changes;
        }
        if self.phase == Phase::Add || (self.is_waiting)(&super::FOREIGN) {
            return changes;
        }
        if changes.waits_for.is_none() {
            changes.keys = removed.into_iter().map(|(key, _)| key.clone()).collect();
            changes.deletes_table = true;
            changes.push(Some(&super::FOREIGN), Operation::DeleteTable);
            return changes;
        }
        let mut ordered = Ordered::default();
        for (key, _) in removed {
            self.remove(key, &mut ordered);
            changes.keys.push(key.clone());
        }
        self.in_order(ordered, &mut changes);
        changes
    }

    fn permission(&self, key: &Key, feature: &Feature) -> Permission {
        let may_delete = self.present.may_delete;
        if let Key::Element(set, _) = key
            && self.is_set_desired(set)
        {
            let kept = feature.kept_sets.contains(&&**set) && !may_delete;
            return if kept { Permission::Kept } else { Permission::Now };
        }
        match feature.removal {
            Removal::AtOnce if !self.empties => Permission::Now,
            _ if self.phase == Phase::Add || !may_delete => Permission::Later,
            Removal::AtOnce => Permission::Now,
            Removal::AfterTunnels => match self.present.tunnels.keys().next() {
                Some(tunnel) => Permission::Waits(format!("the tunnel device {tunnel} is deleted")),
                None if self.present.tunnels_unknown => {
                    Permission::Waits("the tunnel devices can be read".to_owned())
                }
                None => Permission::Now,
            },
        }
    }

    fn is_set_desired(&self, set: &Name) -> bool {
        self.tracker.desired(&Key::Set(set.clone())).is_some()
    }

    fn set(&self, name: &Name) -> Option<Arc<Set>> {
        match self.tracker.desired(&Key::Set(name.clone()))? {
            Item::Set(set) => Some(set.clone()),
            _ => None,
        }
    }

    fn element(&self, key: &Key, item: &Item) -> Option<Element> {
        match (key, item) {
            (Key::Element(_, key), Item::Element(value)) => {
                Some(Element { key: key.clone(), value: value.clone() })
            }
            _ => None,
        }
    }

    fn add(&self, key: &Key, change: Change<'_, Item>, rebuilds: bool, ordered: &mut Ordered) {
        let feature = key.feature();
        let exists = change.exists && !rebuilds;
        match (key, change.desired) {
            (Key::Set(name), Some(Item::Set(set))) => {
                if exists {
                    ordered.deleted_sets.push((feature, Operation::DeleteSet(name.clone())));
                }
                ordered.added_sets.push((feature, Operation::AddSet(set.clone())));
            }
            (Key::Element(name, _), Some(item)) => {
                // The data of an element can't be changed in place.
                if exists && let Some(held) = change.held.and_then(|held| self.element(key, held)) {
                    ordered.deleted_elements.entry(name.clone()).or_default().push(held);
                }
                ordered.added_elements.entry(name.clone()).or_default().extend(self.element(key, item));
            }
            (Key::Chain(name), Some(Item::Chain(chain))) => {
                if exists {
                    ordered.flushed.push((feature, Operation::FlushChain(name.clone())));
                }
                // The hook of a chain can't be changed. Others have no more than their rules, and rules lead to them.
                if exists && chain.base.is_some() {
                    ordered.deleted_chains.push((feature, Operation::DeleteChain(name.clone())));
                }
                ordered.added_chains.push((feature, Operation::AddChain(chain.clone())));
                ordered.added_rules.push((feature, Operation::AddRules(chain.clone())));
            }
            _ => {}
        }
    }

    fn remove(&self, key: &Key, ordered: &mut Ordered) {
        let feature = key.feature();
        match key {
            Key::Set(name) => ordered.deleted_sets.push((feature, Operation::DeleteSet(name.clone()))),
            // With the set, its elements are deleted.
            Key::Element(set, _) if !self.is_set_desired(set) => {}
            Key::Element(set, _) => {
                let held = self.tracker.get(key).and_then(|object| self.element(key, object.held?));
                ordered.deleted_elements.entry(set.clone()).or_default().extend(held);
            }
            Key::Chain(name) => {
                ordered.flushed.push((feature, Operation::FlushChain(name.clone())));
                ordered.deleted_chains.push((feature, Operation::DeleteChain(name.clone())));
            }
        }
    }

    fn in_order(&self, ordered: Ordered, changes: &mut Changes) {
        let lists = |lists: BTreeMap<Name, Vec<Element>>, make: fn(Arc<Set>, Vec<Element>) -> Operation| {
            let operation = |(name, elements): (Name, Vec<Element>)| {
                let feature = Key::Set(name.clone()).feature();
                Some((feature, make(self.set(&name)?, elements)))
            };
            lists
                .into_iter()
                .filter(|(_, elements)| !elements.is_empty())
                .filter_map(operation)
                .collect::<Vec<_>>()
        };
        let all = [
            ordered.flushed,
            ordered.deleted_chains,
            lists(ordered.deleted_elements, Operation::DeleteElements),
            ordered.deleted_sets,
            ordered.added_sets,
            lists(ordered.added_elements, Operation::AddElements),
            ordered.added_chains,
            ordered.added_rules,
        ];
        for (feature, operation) in all.into_iter().flatten() {
            changes.push(Some(feature), operation);
        }
    }
}
