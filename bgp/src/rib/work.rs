//! Changes that concern all paths of a peer or all prefixes of a table, made a few at a time.
//!
//! With 100,000 routes such a change takes 20 to 100 ms, in which nothing else could be received or sent. Instead it is
//! noted for which slots it is to be made, and [`Rib::work`] makes it for some of them at a time. A peer's message about a
//! prefix comes after the changes that are noted for the peer's paths to it: these are made first. So all paths end as if
//! each change had been made at once; until then, those that it has not reached are as they were.
//!
//! Small changes are made at once: see [`Rib::piece`](Rib).

use std::collections::VecDeque;

use super::add_path::UpdateGroup;
use super::family::FAMILIES;
use super::intern::Interned;
use super::neighbors::GroupId;
use super::sweep::{Sweep, Task};
use super::table::{Path, PathAttributes, Slot};
use super::{PeerId, RejectReason, Rib, import};
use crate::wire::{Family, Prefix};

/// The work that is left.
#[derive(Debug, Default)]
pub(crate) struct Work {
    /// The peers and families with sweeps.
    sweeping: VecDeque<(PeerId, Family)>,
    /// The next prefix to be exported to all groups again, where our identity changed.
    exports: [Option<Slot>; 2],
    /// The groups that were created for prefixes that are not all exported.
    filling: VecDeque<(Family, GroupId)>,
    /// The last path that became long-lived stale, before and after. Paths with the same attributes mostly follow one
    /// another.
    pub last_long_lived: Option<(Interned<PathAttributes>, Interned<PathAttributes>)>,
}

impl Rib {
    /// Returns whether [`Rib::work`] has something to do.
    pub(crate) fn has_work(&self) -> bool {
        let Work { sweeping, exports, filling, .. } = &self.work;
        !sweeping.is_empty() || exports.iter().any(Option::is_some) || !filling.is_empty()
    }

    /// Does a piece of the work that is left; returns whether there was any.
    pub(crate) fn work(&mut self) -> bool {
        let had_work = self.has_work();
        let mut left = self.piece;
        while left > 0 && self.has_work() {
            left = left.saturating_sub(self.work_on(left).max(1));
        }
        self.others_changed |= had_work;
        had_work
    }

    /// Does all work that is left.
    #[cfg(test)]
    pub(crate) fn finish(&mut self) {
        while self.work() {}
    }

    /// Takes at most `count` steps of the first kind of work that is left; returns how many.
    fn work_on(&mut self, count: usize) -> usize {
        if let Some((id, family)) = self.work.sweeping.front().copied() {
            return self.sweep_on(id, family, count);
        }
        for (at, family) in (0..).zip(FAMILIES) {
            if let Some(slot) = self.work.exports[at] {
                let (next, steps) = self.export_from(family, slot, count);
                self.work.exports[at] = next;
                return steps;
            }
        }
        let Some((family, number)) = self.work.filling.front().copied() else { return 0 };
        let (table, groups, mut exporter) = self.outbound(family);
        let filling = groups.get_mut(&number).and_then(|group| group.fill(table, &mut exporter, count));
        if filling.is_none_or(|(more, _)| !more) {
            self.work.filling.pop_front();
        }
        filling.map_or(0, |(_, steps)| steps)
    }

    /// Begins a task for all of a peer's paths of a family, and carries it out as far as is quick.
    pub(super) fn sweep(&mut self, id: PeerId, family: Family, task: Task) {
        let Some(neighbor) = self.neighbors.get_mut(id) else { return };
        let inbound = &mut neighbor.inbound[family];
        if inbound.received.count() == 0 {
            return;
        }
        if task == Task::Drop {
            // It makes no difference in which state they are removed.
            inbound.sweeps.clear();
        }
        inbound.sweeps.push_back(Sweep { task, left: inbound.received.clone() });
        if !self.work.sweeping.contains(&(id, family)) {
            self.work.sweeping.push_back((id, family));
        }
        let steps = self.sweep_on(id, family, self.quick);
        self.quick = self.quick.saturating_sub(steps);
    }

    /// Carries out all that is left for a peer.
    pub(super) fn finish_sweeps(&mut self, id: PeerId) {
        for family in FAMILIES {
            if self.is_sweeping(id, family) {
                self.sweep_on(id, family, usize::MAX);
            }
        }
    }

    /// Returns whether a task is left for the peer's paths of a family.
    pub(super) fn is_sweeping(&self, id: PeerId, family: Family) -> bool {
        self.neighbors.get(id).is_some_and(|neighbor| !neighbor.inbound[family].sweeps.is_empty())
    }

    /// Carries out what is left for the peer's paths to one prefix.
    pub(super) fn sweep_prefix(&mut self, id: PeerId, prefix: &Prefix) {
        let family = prefix.family();
        if self.is_sweeping(id, family)
            && let Some(slot) = self.tables[family].find(prefix)
        {
            self.sweep_slot(id, family, slot);
        }
    }

    /// Carries out what is left for a peer, for at most `count` slots; returns for how many.
    fn sweep_on(&mut self, id: PeerId, family: Family, count: usize) -> usize {
        let (mut steps, mut cursor) = (0, 0);
        while steps < count {
            let sweeps = self.neighbors.get_mut(id).map(|neighbor| &mut neighbor.inbound[family].sweeps);
            let Some(sweeps) = sweeps.filter(|sweeps| !sweeps.is_empty()) else { break };
            match sweeps.front().and_then(|sweep| sweep.left.next_from(cursor)) {
                Some(slot) => {
                    self.sweep_slot(id, family, slot);
                    cursor = slot;
                    steps += 1;
                }
                None => {
                    sweeps.pop_front();
                    cursor = 0;
                }
            }
        }
        if self.is_done(id, family) {
            self.work.sweeping.retain(|other| *other != (id, family));
            self.work.last_long_lived = None;
            self.remove_forgotten(id);
        }
        steps
    }

    /// Returns whether nothing is left for a peer, and removes tasks without slots.
    fn is_done(&mut self, id: PeerId, family: Family) -> bool {
        let Some(neighbor) = self.neighbors.get_mut(id) else { return true };
        let sweeps = &mut neighbor.inbound[family].sweeps;
        while sweeps.front().is_some_and(|sweep| sweep.left.count() == 0) {
            sweeps.pop_front();
        }
        sweeps.is_empty()
    }

    /// Removes a neighbor that is no longer configured if it has no paths left.
    pub(super) fn remove_forgotten(&mut self, id: PeerId) {
        let Some(neighbor) = self.neighbors.get(id) else { return };
        let left = FAMILIES.into_iter().any(|family| neighbor.inbound[family].received.count() > 0);
        if neighbor.forgotten && !left {
            self.neighbors.remove(id);
        }
    }

    /// Carries out all tasks for a slot, in their order.
    fn sweep_slot(&mut self, id: PeerId, family: Family, slot: Slot) {
        for at in 0.. {
            let neighbor = self.neighbors.get_mut(id);
            let sweep = neighbor.and_then(|neighbor| neighbor.inbound[family].sweeps.get_mut(at));
            let Some(sweep) = sweep else { return };
            if sweep.left.clear(slot) {
                let task = sweep.task;
                self.carry_out(id, family, slot, task);
            }
        }
    }

    /// Carries out a task for the peer's paths to one prefix.
    fn carry_out(&mut self, id: PeerId, family: Family, slot: Slot, task: Task) {
        if task == Task::Redecide {
            let best = self.tables[family].entry(slot).best().cloned();
            self.decide(family, slot, best);
            self.update_groups(family, slot);
            return;
        }
        let mut paths = std::mem::take(&mut self.swept);
        let entry = self.tables[family].entry(slot);
        let prefix = entry.prefix;
        let of_peer = entry.paths.as_slice().iter();
        paths.extend(of_peer.filter(|path| self.neighbors.peer_id(path.source) == Some(id)).cloned());
        for path in paths.drain(..) {
            match task {
                Task::Drop => self.withdraw(prefix, path.source),
                Task::DropStale if path.stale => self.withdraw(prefix, path.source),
                Task::MakeStale if !path.stale => self.make_stale(family, slot, path),
                Task::LongLived if path.stale => self.make_long_lived_stale(prefix, path),
                Task::Recheck => self.recheck_path(prefix, path),
                Task::DropStale | Task::MakeStale | Task::LongLived | Task::Redecide => {}
            }
        }
        self.swept = paths;
    }

    /// Makes a path stale, on which no decision depends.
    fn make_stale(&mut self, family: Family, slot: Slot, was: Path) {
        let now = Path { stale: true, ..was.clone() };
        if let Some(inbound) = self.neighbors.inbound_mut(was.source) {
            inbound[family].count(slot, Some(&was), Some(&now), false);
        }
        self.tables[family].entry_mut(slot).paths.put(now);
    }

    /// Checks a path again.
    fn recheck_path(&mut self, prefix: Prefix, path: Path) {
        let Some(peer) = self.neighbors.peer(path.source) else { return };
        // Paths that rules rejected are not evaluated again: see `set_filters`.
        let by_rules =
            path.rejected.filter(|reason| peer.imports_by_rules() && *reason == RejectReason::Filter);
        let rejected = import::check(&self.identity, peer, &path.shared, &prefix).or(by_rules);
        if rejected != path.rejected {
            self.put(prefix, Path { rejected, ..path });
        }
    }

    /// Begins to export every prefix again, after our identity changed.
    pub(super) fn export_again(&mut self) {
        for (at, family) in (0..).zip(FAMILIES) {
            self.groups[family].values_mut().for_each(UpdateGroup::clear_last);
            let (next, steps) = self.export_from(family, 0, self.quick);
            self.work.exports[at] = next;
            self.quick = self.quick.saturating_sub(steps);
        }
        self.others_changed = true;
    }

    /// Exports at most `count` prefixes to all groups again; returns the next one, if there is one, and how many these were.
    fn export_from(&mut self, family: Family, from: Slot, count: usize) -> (Option<Slot>, usize) {
        let end = self.tables[family].len();
        let until = (from as usize).saturating_add(count).min(end);
        for slot in from..until as Slot {
            if self.tables[family].is_occupied(slot) {
                self.update_groups(family, slot);
            }
        }
        ((until < end).then_some(until as Slot), until - from as usize)
    }

    /// Begins to export all prefixes to a new group.
    pub(super) fn fill(&mut self, family: Family, number: GroupId) {
        let quick = self.quick;
        let (table, groups, mut exporter) = self.outbound(family);
        let Some(group) = groups.get_mut(&number) else { return };
        let Some((more, steps)) = group.fill(table, &mut exporter, quick) else { return };
        if more {
            self.work.filling.push_back((family, number));
        }
        self.quick = self.quick.saturating_sub(steps);
    }
}
