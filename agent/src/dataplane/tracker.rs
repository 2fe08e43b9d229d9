//! The difference of the desired and the actual state of many objects of one kind, kept up to date at each change: the
//! cost is proportional to the objects that changed, not to those that exist.
//!
//! An object that failed is unknown: it is read again before its retry, and the others are not.

use super::problem::Problems;
use super::retries::Retries;
use super::{Phase, PlaneReport};
use crate::netlink::KernelError;
use crate::netlink::error::Cause;
use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::ops::Bound;
use std::time::Instant;

/// An object as the kernel has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held<V> {
    /// It does not exist.
    Absent,
    /// It exists with this value.
    Value(V),
    /// It exists with something that no value describes: never the desired one.
    Altered,
}

/// An object with a difference.
#[derive(Debug)]
pub struct Change<'a, V> {
    /// The desired value; `None`: it is to be removed.
    pub desired: Option<&'a V>,
    /// The value in the kernel, if one is known that a value describes.
    pub held: Option<&'a V>,
    /// Set if the kernel has the object, with whichever value.
    pub exists: bool,
}

// Not derived: that would require the same of V.
impl<V> Clone for Change<'_, V> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<V> Copy for Change<'_, V> {}

/// The place of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// The actual value is the desired one.
    Settled,
    /// In `add`.
    Add,
    /// In `remove`.
    Remove,
    /// In `unread`.
    Unread,
    /// It failed, and its retry is not due yet.
    Failed,
}

#[derive(Debug)]
struct Slot<V> {
    desired: Option<V>,
    held: Option<V>,
    /// Set if the kernel has the object, but with something that no value describes.
    altered: bool,
    /// Set if the object has to be read before the next change.
    unknown: bool,
    place: Place,
    /// The parity of the last complete reading that returned the object.
    round: bool,
}

impl<V> Slot<V> {
    fn exists(&self) -> bool {
        self.held.is_some() || self.altered
    }

    fn change(&self) -> Change<'_, V> {
        Change { desired: self.desired.as_ref(), held: self.held.as_ref(), exists: self.exists() }
    }
}

/// The objects of one kind.
#[derive(Debug)]
pub struct Tracker<K, V> {
    slots: HashMap<K, Slot<V>>,
    /// The objects to add or to correct, in order.
    add: BTreeSet<K>,
    /// The objects to remove, in order.
    remove: BTreeSet<K>,
    /// The objects to read before the next change, in order.
    unread: BTreeSet<K>,
    retries: Retries<K>,
    /// The failed attempts to read everything.
    reading: Retries<()>,
    /// Set if the actual state has been read.
    known: bool,
    round: bool,
    desired: usize,
    actual: usize,
    confirmed: u64,
    failed: u64,
}

impl<K, V> Default for Tracker<K, V> {
    fn default() -> Self {
        Self {
            slots: HashMap::new(),
            add: BTreeSet::new(),
            remove: BTreeSet::new(),
            unread: BTreeSet::new(),
            retries: Retries::default(),
            reading: Retries::default(),
            known: false,
            round: false,
            desired: 0,
            actual: 0,
            confirmed: 0,
            failed: 0,
        }
    }
}

/// The desired state.
impl<K: Clone + Ord + Hash, V: Clone + PartialEq> Tracker<K, V> {
    /// Sets the desired value of an object; `None`: it is not desired.
    pub fn set(&mut self, key: K, desired: Option<V>) {
        let mut entry = match self.slots.entry(key) {
            Entry::Occupied(entry) => entry,
            Entry::Vacant(entry) => {
                if desired.is_none() {
                    return;
                }
                entry.insert_entry(Slot {
                    desired: None,
                    held: None,
                    altered: false,
                    unknown: false,
                    place: Place::Settled,
                    round: self.round,
                })
            }
        };
        let slot = entry.get_mut();
        if slot.desired == desired {
            return;
        }
        self.desired += usize::from(desired.is_some());
        self.desired -= usize::from(slot.desired.is_some());
        // An equal value that is held already stays the only copy.
        slot.desired = if desired.is_some() && desired == slot.held { slot.held.clone() } else { desired };
        let key = entry.key().clone();
        // Another value may succeed where the one before failed: it is tried at once.
        self.retries.succeed(&key);
        self.place(&key);
    }

    /// Returns the desired value of an object.
    pub fn desired(&self, key: &K) -> Option<&V> {
        self.slots.get(key)?.desired.as_ref()
    }

    /// Returns the desired objects, in no order.
    pub fn all_desired(&self) -> impl Iterator<Item = (&K, &V)> {
        self.slots.iter().filter_map(|(key, slot)| Some((key, slot.desired.as_ref()?)))
    }

    /// Returns the number of desired objects.
    pub fn desired_count(&self) -> usize {
        self.desired
    }
}

/// The actual state.
impl<K: Clone + Ord + Hash, V: Clone + PartialEq> Tracker<K, V> {
    /// Returns whether the actual state has been read. Before, nothing is pending.
    pub fn is_known(&self) -> bool {
        self.known
    }

    /// Makes the whole actual state unknown.
    pub fn forget(&mut self) {
        self.known = false;
    }

    /// Returns whether everything has to be read now: it is unknown, and the retry of a failed reading is due.
    pub fn needs_read(&mut self, now: Instant) -> bool {
        self.reading.take_due(now);
        !self.known && !self.reading.is_waiting(&())
    }

    /// Begins a run of a plane that always reads all of its objects: returns whether they have to be read.
    pub fn wake_to_read(&mut self, now: Instant) -> bool {
        self.wake(now);
        if !self.unread.is_empty() {
            self.forget();
        }
        self.needs_read(now)
    }

    /// Begins reading everything: [`Tracker::observe`] each object, then [`Tracker::end_read`]. A reading that was abandoned
    /// before its end counts for nothing.
    pub fn begin_read(&mut self) {
        self.round = !self.round;
        let former = !self.round;
        self.slots.values_mut().for_each(|slot| slot.round = former);
    }

    /// Ends reading everything: what was not observed since [`Tracker::begin_read`] is absent.
    pub fn end_read(&mut self) {
        let absent = |(key, slot): (&K, &Slot<V>)| {
            (slot.round != self.round && (slot.exists() || slot.unknown)).then(|| key.clone())
        };
        let absent: Vec<K> = self.slots.iter().filter_map(absent).collect();
        absent.into_iter().for_each(|key| self.observe(key, Held::Absent));
        let round = self.round;
        self.slots.values_mut().for_each(|slot| slot.round = round);
        self.reading.succeed(&());
        self.known = true;
    }

    /// Records that everything could not be read. It remains unknown.
    pub fn fail_read(&mut self, error: KernelError, now: Instant) {
        self.failed += 1;
        self.known = false;
        self.reading.fail((), error, now);
    }

    /// Returns the error of the failed attempt to read everything, if the last one failed. `what` names the attempt.
    pub fn read_errors(&self, what: &str) -> impl Iterator<Item = KernelError> {
        self.reading.grouped(|()| true).into_iter().map(|(reason, (), _)| reason.error(what.to_owned()))
    }

    /// Makes one object unknown.
    pub fn forget_one(&mut self, key: K) {
        let slot = self.slots.entry(key.clone()).or_insert_with(|| Slot {
            desired: None,
            held: None,
            altered: false,
            unknown: true,
            place: Place::Settled,
            round: self.round,
        });
        slot.unknown = true;
        self.place(&key);
    }

    /// Returns whether an object has to be read before its next change.
    pub fn is_unknown(&self, key: &K) -> bool {
        self.slots.get(key).is_some_and(|slot| slot.unknown)
    }

    /// Returns the objects to read one by one before the next change, in order; all of them are unknown.
    pub fn unread(&self) -> impl Iterator<Item = &K> {
        self.unread.iter()
    }

    /// Returns whether objects are unknown: they failed, or are to be read.
    pub fn has_unknown(&self) -> bool {
        !self.unread.is_empty() || !self.retries.is_empty()
    }

    /// Sets the actual value of an object, as it was read.
    pub fn observe(&mut self, key: K, held: Held<V>) {
        let slot = match self.slots.entry(key.clone()) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(_) if matches!(held, Held::Absent) => return,
            Entry::Vacant(entry) => entry.insert(Slot {
                desired: None,
                held: None,
                altered: false,
                unknown: false,
                place: Place::Settled,
                round: self.round,
            }),
        };
        let before = slot.exists();
        (slot.held, slot.altered) = match held {
            Held::Absent => (None, false),
            Held::Altered => (None, true),
            // Equal values are one copy.
            Held::Value(value) if slot.desired.as_ref() == Some(&value) => (slot.desired.clone(), false),
            Held::Value(value) => (Some(value), false),
        };
        slot.unknown = false;
        slot.round = self.round;
        self.actual += usize::from(slot.exists());
        self.actual -= usize::from(before);
        self.place(&key);
    }

    /// Returns the value of an object in the kernel, if one is known that a value describes.
    pub fn held(&self, key: &K) -> Option<&V> {
        self.slots.get(key).filter(|slot| !slot.unknown)?.held.as_ref()
    }

    /// Returns the objects in the kernel that a value describes, in no order.
    pub fn all_held(&self) -> impl Iterator<Item = (&K, &V)> {
        self.slots.iter().filter_map(|(key, slot)| Some((key, slot.held.as_ref()?)))
    }

    /// Returns the number of objects in the kernel.
    pub fn actual_count(&self) -> usize {
        self.actual
    }

    /// Returns whether an object is desired and the kernel has it so.
    pub fn is_installed(&self, key: &K) -> bool {
        let settled = |slot: &Slot<V>| slot.desired.is_some() && slot.place == Place::Settled;
        self.known && self.slots.get(key).is_some_and(settled)
    }
}

/// The changes.
impl<K: Clone + Ord + Hash, V: Clone + PartialEq> Tracker<K, V> {
    /// Makes the retries that are due pending again, after reading their objects ([`Tracker::unread`]). Call it first in a
    /// run.
    pub fn wake(&mut self, now: Instant) {
        for key in self.retries.take_due(now) {
            self.place(&key);
        }
    }

    /// Makes the retries of all failed objects due at once, as the cause may be gone.
    pub fn retry_all(&mut self) {
        for key in self.retries.clear() {
            self.place(&key);
        }
    }

    /// Returns the pending changes of a phase in order, beginning after a key. Changes that the caller can't make yet stay
    /// pending. There are none as long as the actual state is unknown.
    pub fn pending(&self, phase: Phase, after: Option<&K>) -> impl Iterator<Item = (&K, Change<'_, V>)> {
        let set = match phase {
            Phase::Add => &self.add,
            Phase::Remove => &self.remove,
        };
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let keys = set.range((from, Bound::Unbounded)).take_while(|_| self.known);
        keys.filter_map(|key| Some((key, self.slots.get(key)?.change())))
    }

    /// Returns the number of pending changes of a phase.
    pub fn pending_count(&self, phase: Phase) -> usize {
        match phase {
            Phase::Add => self.add.len(),
            Phase::Remove => self.remove.len(),
        }
    }

    /// Returns an object with its desired and actual value.
    pub fn get(&self, key: &K) -> Option<Change<'_, V>> {
        self.slots.get(key).map(Slot::change)
    }

    /// Records that the kernel confirmed the pending change of an object: the actual value is the desired one.
    pub fn confirm(&mut self, key: &K) {
        self.confirmed += 1;
        let Some(slot) = self.slots.get_mut(key) else { return };
        self.actual += usize::from(slot.desired.is_some());
        self.actual -= usize::from(slot.exists());
        slot.held = slot.desired.clone();
        slot.altered = false;
        slot.unknown = false;
        self.retries.succeed(key);
        self.place(key);
    }

    /// Records that the change of an object failed, perhaps with an effect: it is read again before its retry.
    pub fn fail(&mut self, key: &K, error: KernelError, now: Instant) {
        self.failed += 1;
        let Some(slot) = self.slots.get_mut(key) else { return };
        slot.unknown = true;
        self.retries.fail(key.clone(), error, now);
        self.place(key);
    }

    /// Returns the time of the next retry.
    pub fn next_retry(&self) -> Option<Instant> {
        [self.retries.next(), self.reading.next()].into_iter().flatten().min()
    }

    /// Puts an object into the set that its state requires.
    fn place(&mut self, key: &K) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        let settled = slot.desired == slot.held && !slot.altered;
        let place = if self.retries.is_waiting(key) && (slot.unknown || !settled) {
            Place::Failed
        } else if slot.unknown {
            Place::Unread
        } else if settled {
            Place::Settled
        } else if slot.desired.is_some() {
            Place::Add
        } else {
            Place::Remove
        };
        let before = std::mem::replace(&mut slot.place, place);
        let gone = place == Place::Settled && slot.desired.is_none();
        if before != place {
            if let Some(set) = self.set_of(before) {
                set.remove(key);
            }
            if let Some(set) = self.set_of(place) {
                set.insert(key.clone());
            }
        }
        if place == Place::Settled {
            self.retries.succeed(key);
        }
        if gone {
            self.slots.remove(key);
            // After most of many objects are gone, their memory is returned.
            if self.slots.capacity() > 1024 && self.slots.len() < self.slots.capacity() / 8 {
                self.slots.shrink_to(self.slots.len() * 2);
            }
        }
    }

    fn set_of(&mut self, place: Place) -> Option<&mut BTreeSet<K>> {
        match place {
            Place::Add => Some(&mut self.add),
            Place::Remove => Some(&mut self.remove),
            Place::Unread => Some(&mut self.unread),
            Place::Settled | Place::Failed => None,
        }
    }
}

/// The report.
impl<K: Clone + Ord + Hash, V: Clone + PartialEq> Tracker<K, V> {
    /// Returns the report of a plane with these objects. `describe` names a change and the object it is for. `waits` returns
    /// the prerequisite of a pending change that is not met, if there is one. `problems` are further ones.
    pub fn report(
        &self,
        may_delete: bool,
        mut problems: Problems,
        describe: impl Fn(&K, Change<'_, V>) -> String,
        waits: impl Fn(&K, Change<'_, V>) -> Option<String>,
    ) -> PlaneReport {
        self.read_errors("read the kernel").for_each(|error| problems.add(error));
        let failed = |key: &K| {
            self.slots.get(key).is_some_and(|slot| match slot.place {
                Place::Settled => false,
                Place::Failed | Place::Unread => true,
                // Its retry is due: it waits for another change, or was not tried yet.
                Place::Add | Place::Remove => waits(key, slot.change()).is_none(),
            })
        };
        for (reason, key, count) in self.retries.grouped(failed) {
            let what = self.slots.get(key).map(|slot| describe(key, slot.change())).unwrap_or_default();
            problems.add_many(reason.error(what), count);
        }
        let phases = [Some(Phase::Add), may_delete.then_some(Phase::Remove)];
        let mut waiting: Vec<(String, &K, Change<'_, V>, usize)> = Vec::new();
        for (key, change) in phases.into_iter().flatten().flat_map(|phase| self.pending(phase, None)) {
            let Some(prerequisite) = waits(key, change) else { continue };
            match waiting.iter_mut().find(|group| group.0 == prerequisite) {
                Some(group) => group.3 += 1,
                None => waiting.push((prerequisite, key, change, 1)),
            }
        }
        for (prerequisite, key, change, count) in waiting {
            let error = KernelError::from_cause(describe(key, change), Cause::Waiting(prerequisite));
            problems.add_many(error, count);
        }
        let settled = self.known
            && self.add.is_empty()
            && self.unread.is_empty()
            && (self.remove.is_empty() || !may_delete);
        PlaneReport {
            in_sync: settled && self.retries.is_empty() && problems.is_empty(),
            actual: self.actual,
            desired: self.desired,
            kept: if may_delete { 0 } else { self.remove.len() },
            changes: self.confirmed,
            failures: self.failed,
            problems: problems.into_entries(),
        }
    }
}

#[cfg(test)]
mod tests;
