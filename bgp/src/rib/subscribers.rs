//! Subscribers: readers of the changes of best routes, each at its own pace.
//!
//! A subscriber costs two bits for each prefix, like a member of an update group, whatever it reads and when: one for
//! "changed since it was read", one for "a route was read". It is given the present best route and not each change, so a
//! slow subscriber skips what came and went. Prefixes that it has not reached the first time need no bits at all.

use super::bits::Bits;
use super::family::{FAMILIES, PerFamily};
use super::neighbors::Neighbors;
use super::report::best_route;
use super::table::{Entry, Slot, Slots, Table};
use crate::report::BestChange;
use crate::wire::Family;

/// The identifier of a subscriber to the best routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubscriberId(u64);

/// The most slots that are examined for each change that is returned, so that a table with many unused slots holds up a
/// call no longer than one without.
const EXAMINED: usize = 16;

/// The progress of a subscriber in one family.
#[derive(Debug, Default)]
struct Progress {
    /// The first slot that was not reached yet. The slots from here on are read in turn, whether they change or not.
    reached: Slot,
    /// The slots before it that have changed since. Each is referred to, so that it stays with its prefix.
    pending: Bits,
    /// The slots whose route was read, and no withdrawal after it.
    held: Bits,
    /// The slot at which reading goes on, so that slots that change often do not hold up others.
    cursor: Slot,
}

#[derive(Debug)]
struct Subscriber {
    id: SubscriberId,
    progress: PerFamily<Progress>,
}

/// All subscribers.
#[derive(Debug, Default)]
pub(crate) struct Subscribers {
    all: Vec<Subscriber>,
    last: u64,
}

impl Subscribers {
    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Adds a subscriber, which has read nothing.
    pub(crate) fn add(&mut self) -> SubscriberId {
        self.last += 1;
        let id = SubscriberId(self.last);
        self.all.push(Subscriber { id, progress: PerFamily::default() });
        id
    }

    /// Removes a subscriber.
    pub(crate) fn remove(&mut self, id: SubscriberId, tables: &mut PerFamily<Table>) {
        let Some(at) = self.all.iter().position(|subscriber| subscriber.id == id) else { return };
        let subscriber = self.all.swap_remove(at);
        for family in FAMILIES {
            for slot in subscriber.progress[family].pending.iter() {
                tables[family].release(slot);
            }
        }
    }

    /// Records that the best route of a prefix changed; `routed`: there is one.
    pub(crate) fn mark(&mut self, family: Family, slot: Slot, routed: bool, references: &mut u32) {
        for subscriber in &mut self.all {
            let progress = &mut subscriber.progress[family];
            if slot >= progress.reached {
                continue;
            }
            if routed || progress.held.get(slot) {
                *references += u32::from(progress.pending.set(slot));
            } else {
                // A route that it never read is gone.
                *references -= u32::from(progress.pending.clear(slot));
            }
        }
    }

    /// Returns at most `limit` changes that a subscriber has not read, and whether there are more.
    pub(crate) fn read(
        &mut self,
        id: SubscriberId,
        limit: usize,
        tables: &mut PerFamily<Table>,
        neighbors: &Neighbors,
    ) -> (Vec<BestChange>, bool) {
        let mut changes = Vec::new();
        let Some(subscriber) = self.all.iter_mut().find(|subscriber| subscriber.id == id) else {
            return (changes, false);
        };
        let mut more = false;
        for family in FAMILIES {
            let (progress, table) = (&mut subscriber.progress[family], &mut tables[family]);
            progress.read_pending(limit, table, neighbors, &mut changes);
            progress.read_on(limit, table, neighbors, &mut changes);
            more |= progress.pending.count() > 0 || (progress.reached as usize) < table.size();
        }
        (changes, more)
    }
}

impl Progress {
    /// Reads pending slots until there are `limit` changes.
    fn read_pending(
        &mut self,
        limit: usize,
        table: &mut Table,
        neighbors: &Neighbors,
        changes: &mut Vec<BestChange>,
    ) {
        while changes.len() < limit {
            let next = self.pending.next_from(self.cursor).or_else(|| self.pending.next_from(0));
            let Some(slot) = next else { return };
            self.cursor = slot.checked_add(1).unwrap_or(0);
            self.pending.clear(slot);
            changes.push(self.take(slot, table.entry(slot), neighbors));
            table.release(slot);
        }
    }

    /// Reads slots that were not reached before until there are `limit` changes.
    fn read_on(&mut self, limit: usize, table: &Table, neighbors: &Neighbors, changes: &mut Vec<BestChange>) {
        let until = (self.reached as usize + EXAMINED * limit).min(table.size()) as Slot;
        while self.reached < until && changes.len() < limit {
            let entry = table.entry(self.reached);
            if best_route(entry, neighbors).is_some() {
                changes.push(self.take(self.reached, entry, neighbors));
            }
            self.reached += 1;
        }
    }

    /// Returns the present best route of a slot, which counts as read.
    fn take(&mut self, slot: Slot, entry: &Entry, neighbors: &Neighbors) -> BestChange {
        let route = best_route(entry, neighbors);
        if route.is_some() {
            self.held.set(slot);
        } else {
            self.held.clear(slot);
        }
        BestChange { prefix: entry.prefix, route }
    }
}
