//! The tables: Adj-RIB-In, Loc-RIB and Adj-RIB-Out (RFC 4271 §3.2). Pure: no sessions, no time, no I/O.
//!
//! The way of a route: [`Rib::update`] interns its attributes, checks them, applies the import filter, and puts the path
//! into the entry of its prefix. If the best path of the prefix changes, each update group computes a new advertisement
//! and marks it as pending. [`Rib::pack`] encodes a group's pending changes when the socket of the first member can take
//! bytes. All members that keep up get these messages; one that does not has a pending set of its own.
//!
//! Two invariants: the best path depends on the set of paths only, never on the order in which they arrived; and a peer
//! with nothing pending has been sent exactly the Adj-RIB-Out of its group.

mod add_path;
mod adj_rib_out;
mod best;
mod bits;
mod export;
mod family;
mod followers;
mod group;
mod import;
mod intern;
mod log;
mod long_lived;
mod neighbors;
mod pack;
mod pending;
mod reason;
mod report;
#[cfg(feature = "tokio")]
mod scan;
mod sources;
mod subscribers;
mod sweep;
mod table;
#[cfg(test)]
mod tests;
mod types;
mod work;

use std::collections::BTreeMap;
use std::net::IpAddr;

use bytes::BytesMut;

use crate::config::{Filter, Network, NextHopMode};
use crate::report::BestChange;
use crate::report::BestCounts;
use crate::wire::{Family, NextHop, Nlri, Prefix, Update};
use add_path::{MovingMember, UpdateGroup};
use adj_rib_out::Encoded;
use best::Candidate;
use export::GroupKey;
use family::{FAMILIES, PerFamily};
use group::Exporter;
use intern::{Interned, Interner};
use neighbors::{GroupId, Neighbors};
use pack::Output;
#[cfg(feature = "tokio")]
pub(crate) use scan::{Scan, ScanPosition};
use subscribers::Subscribers;
use sweep::Task;
use table::{Path, PathAttributes, Slot, Source, Table};
use work::Work;

pub use best::Step;
pub use reason::{Comparison, PathReason, PolicyRejection, RejectReason, Rejection, WithheldReason};
pub use subscribers::SubscriberId;
pub(crate) use types::{Counts, Identity, Peer, PeerId, PeerKind, Withheld};

/// The steps that one piece of work has at most, each about half a microsecond for each group.
const PIECE: usize = 1024;

/// All tables of one speaker.
#[derive(Debug)]
pub(crate) struct Rib {
    identity: Identity,
    networks: BTreeMap<Prefix, Network>,
    /// The next hops that are set for networks, each with the number of networks.
    next_hops: BTreeMap<IpAddr, usize>,
    neighbors: Neighbors,
    tables: PerFamily<Table>,
    groups: PerFamily<BTreeMap<GroupId, UpdateGroup>>,
    attributes: Interner<PathAttributes>,
    encoded: Interner<Encoded>,
    subscribers: Subscribers,
    work: Work,
    /// The steps of one piece of work.
    piece: usize,
    /// The steps that may be taken at once, until the end of the current call of the speaker.
    quick: usize,
    /// Room for the paths that a step of a sweep concerns.
    swept: Vec<Path>,
    best_counts: PerFamily<usize>,
    changed: bool,
    others_changed: bool,
}

impl Rib {
    /// Returns empty tables that do their work in pieces of so many steps.
    #[cfg(test)]
    fn with_piece(identity: Identity, piece: usize) -> Self {
        Self { piece, quick: piece, ..Self::new(identity) }
    }

    /// Returns empty tables.
    pub(crate) fn new(identity: Identity) -> Self {
        Self {
            identity,
            networks: BTreeMap::new(),
            next_hops: BTreeMap::new(),
            neighbors: Neighbors::default(),
            tables: PerFamily::default(),
            groups: PerFamily::default(),
            attributes: Interner::new(),
            encoded: Interner::new(),
            subscribers: Subscribers::default(),
            work: Work::default(),
            piece: PIECE,
            quick: PIECE,
            swept: Vec::new(),
            best_counts: PerFamily::default(),
            changed: false,
            others_changed: false,
        }
    }

    /// Changes our identity, and repeats the checks of all paths and the export.
    pub(crate) fn set_identity(&mut self, identity: Identity) {
        let before = std::mem::replace(&mut self.identity, identity);
        if before == identity {
            return;
        }
        // Imports do not depend on whether we are about to shut down.
        if (Identity { graceful_shutdown: identity.graceful_shutdown, ..before }) != identity {
            for id in self.neighbors.ids() {
                self.recheck(id);
            }
        }
        self.export_again();
    }

    /// Removes and sets originated networks. Those that are neither stay.
    pub(crate) fn change_networks(&mut self, removed: &[Prefix], set: Vec<Network>) {
        let before = self.next_hops.clone();
        for prefix in removed {
            let old = self.networks.remove(prefix);
            self.count_next_hops(old.as_ref(), None);
        }
        for network in &set {
            let old = self.networks.insert(network.prefix, network.clone());
            self.count_next_hops(old.as_ref(), Some(network));
        }
        let affected =
            |address: &IpAddr| self.next_hops.contains_key(address) != before.contains_key(address);
        for id in self.neighbors.ids_at(affected) {
            FAMILIES.into_iter().for_each(|family| self.regroup(id, family));
        }
        for prefix in removed {
            self.withdraw(*prefix, Source::LOCAL);
        }
        for network in set {
            let next_hop = network.next_hop.map(|address| NextHop { address, link_local: None });
            let attributes = network.attributes();
            let shared = self.attributes.intern(PathAttributes { attributes, next_hop });
            self.put(network.prefix, Path { shared, source: Source::LOCAL, rejected: None, stale: false });
        }
    }

    fn count_next_hops(&mut self, old: Option<&Network>, new: Option<&Network>) {
        if let Some(next_hop) = new.and_then(|network| network.next_hop) {
            *self.next_hops.entry(next_hop).or_default() += 1;
        }
        let Some(next_hop) = old.and_then(|network| network.next_hop) else { return };
        if let Some(count) = self.next_hops.get_mut(&next_hop) {
            *count -= 1;
            if *count == 0 {
                self.next_hops.remove(&next_hop);
            }
        }
    }

    /// Returns the originated networks.
    pub(crate) fn networks(&self) -> &BTreeMap<Prefix, Network> {
        &self.networks
    }

    /// Adds the peer of an established session. The Loc-RIB becomes pending for it. Its stale paths stay until they are
    /// replaced or dropped, except those of families that the session does not carry.
    pub(crate) fn peer_up(&mut self, id: PeerId, peer: Peer) {
        if self.neighbors.get(id).is_some_and(|neighbor| neighbor.up) {
            self.peer_down(id, &[]);
        }
        self.finish_sweeps(id);
        let families = peer.families.clone();
        let before = self.neighbors.set_up(id, peer.clone());
        let ranks_differently = before.is_some_and(|before| !before.ranks_alike(&peer));
        for family in FAMILIES.into_iter().filter(|family| !families.contains(family)) {
            self.drop_stale(id, Some(family));
        }
        self.recheck(id);
        if ranks_differently {
            self.redecide(id);
        }
        for family in FAMILIES.into_iter().filter(|family| families.contains(family)) {
            self.join(id, family, MovingMember::default());
        }
    }

    /// Removes the peer of a session that ended. Paths of the families in `keep` become stale, all others are dropped.
    pub(crate) fn peer_down(&mut self, id: PeerId, keep: &[Family]) {
        let Some(neighbor) = self.neighbors.get_mut(id) else { return };
        if !std::mem::take(&mut neighbor.up) {
            return;
        }
        for family in FAMILIES {
            self.leave(id, family);
            self.sweep(id, family, if keep.contains(&family) { Task::MakeStale } else { Task::Drop });
        }
    }

    /// Drops the peer's stale paths, of one family or of all.
    pub(crate) fn drop_stale(&mut self, id: PeerId, family: Option<Family>) {
        for family in FAMILIES.into_iter().filter(|each| family.is_none_or(|family| family == *each)) {
            let stale = self.neighbors.get(id).is_some_and(|neighbor| neighbor.inbound[family].stale > 0);
            if stale || self.is_sweeping(id, family) {
                self.sweep(id, family, Task::DropStale);
            }
        }
    }

    /// Makes the peer's paths of a family stale at the beginning of a refresh: those that it does not repeat are to be
    /// dropped (RFC 7313 §4).
    pub(crate) fn mark_stale(&mut self, id: PeerId, family: Family) {
        self.sweep(id, family, Task::MakeStale);
    }

    /// Removes a neighbor that is no longer configured, with its paths.
    pub(crate) fn forget(&mut self, id: PeerId) {
        self.peer_down(id, &[]);
        let Some(neighbor) = self.neighbors.get_mut(id) else { return };
        neighbor.forgotten = true;
        for family in FAMILIES {
            self.sweep(id, family, Task::Drop);
        }
        self.remove_forgotten(id);
    }

    /// Changes a peer's filters without a reset of the session. Where the old or the new import filter is made of rules,
    /// paths stay as they are until the peer sends them again: see [`Peer::imports_by_rules`].
    pub(crate) fn set_filters(&mut self, id: PeerId, import: Filter, export: Filter) {
        // Checks that are left apply the filter that they were begun for.
        self.finish_sweeps(id);
        let Some(neighbor) = self.neighbors.get_mut(id) else { return };
        let imports_alike = neighbor.peer.import == import;
        let exports_alike = neighbor.peer.export == export;
        let by_rules = neighbor.peer.imports_by_rules() || matches!(import, Filter::Rules(_));
        neighbor.peer.import = import;
        neighbor.peer.export = export;
        if !imports_alike && !by_rules {
            self.recheck(id);
        }
        if exports_alike {
            return;
        }
        for family in FAMILIES {
            self.regroup(id, family);
        }
    }

    /// Changes the next-hop mode of a peer, without a reset of the session: all routes are advertised to it again whose
    /// next hop changes.
    pub(crate) fn set_next_hop_mode(&mut self, id: PeerId, mode: NextHopMode) {
        let Some(neighbor) = self.neighbors.get_mut(id) else { return };
        if std::mem::replace(&mut neighbor.peer.next_hop_mode, mode) == mode {
            return;
        }
        for family in FAMILIES {
            self.regroup(id, family);
        }
    }

    /// Changes whether an internal peer is a client, without a reset of the session: this decides which paths it is
    /// advertised, and to which peers its paths are advertised (RFC 4456 §6).
    pub(crate) fn set_kind(&mut self, id: PeerId, kind: PeerKind) {
        let Some(neighbor) = self.neighbors.get_mut(id) else { return };
        if std::mem::replace(&mut neighbor.peer.kind, kind) == kind {
            return;
        }
        for family in FAMILIES {
            self.regroup(id, family);
        }
        self.redecide(id);
    }

    /// Applies an UPDATE, except its `end_of_rib` and `faults`, which are for the caller. Routes of a family that the
    /// session does not carry are ignored (RFC 4760 §6 leaves the choice).
    pub(crate) fn update(&mut self, id: PeerId, update: Update) {
        let Some(neighbor) = self.neighbors.get(id).filter(|neighbor| neighbor.up) else { return };
        let (kind, families) = (neighbor.peer.kind, neighbor.peer.families.clone());
        let (asn, role) = (neighbor.peer.asn, neighbor.peer.role);
        let carried = |nlri: &Nlri| families.contains(&nlri.prefix.family());
        // RFC 4271 §4.3: a prefix that is also advertised in the same message is not withdrawn, so withdrawals are first.
        let sweeping = FAMILIES.into_iter().any(|family| self.is_sweeping(id, family));
        for Nlri { prefix, path_id } in update.withdrawn.into_iter().filter(carried) {
            if sweeping {
                self.sweep_prefix(id, &prefix);
            }
            let source = match path_id {
                None => id.into(),
                Some(path_id) => match self.neighbors.sources().find(id, path_id) {
                    Some(source) => source,
                    None => continue,
                },
            };
            self.withdraw(prefix, source);
        }
        let Some(mut attributes) = update.attributes else { return };
        import::strip(&mut attributes, kind);
        import::mark(&mut attributes, asn, role);
        attributes.as_path.0.shrink_to_fit();
        let mut attributes = Some(attributes);
        let mut left = update.reach.len();
        for reach in update.reach {
            left -= 1;
            // There is almost always one reach, and nothing to copy.
            let attributes = if left == 0 { attributes.take() } else { attributes.clone() };
            let Some(attributes) = attributes else { return };
            let shared =
                self.attributes.intern(PathAttributes { attributes, next_hop: Some(reach.next_hop) });
            let rejected = self
                .neighbors
                .peer(id.into())
                .and_then(|peer| import::check_path(&self.identity, peer, &shared, reach.family));
            let of_family = |nlri: &Nlri| carried(nlri) && nlri.prefix.family() == reach.family;
            self.tables[reach.family].prefetch(&reach.prefixes);
            for Nlri { prefix, path_id } in reach.prefixes.into_iter().filter(of_family) {
                if sweeping {
                    self.sweep_prefix(id, &prefix);
                }
                let (shared, rejected) = match rejected {
                    None => self.apply_import_filter(id, &shared, &prefix),
                    rejected => (shared.clone(), rejected),
                };
                let source = match path_id {
                    None => id.into(),
                    Some(path_id) => self.neighbors.sources_mut().claim(id, path_id),
                };
                self.put(prefix, Path { shared, source, rejected, stale: false });
            }
        }
    }

    /// Applies the peer's import filter; returns the attributes to keep, and why the path is rejected, if it is.
    fn apply_import_filter(
        &mut self,
        id: PeerId,
        shared: &Interned<PathAttributes>,
        prefix: &Prefix,
    ) -> (Interned<PathAttributes>, Option<RejectReason>) {
        let Some(peer) = self.neighbors.peer(id.into()) else { return (shared.clone(), None) };
        let rejected = import::check_prefix(peer, prefix);
        let (None, Filter::Rules(policy)) = (rejected, &peer.import) else {
            return (shared.clone(), rejected);
        };
        match import::apply_policy(policy, peer, shared, prefix) {
            Ok(changed) if changed == **shared => (shared.clone(), None),
            Ok(changed) => (self.attributes.intern(changed), None),
            Err(reason) => (shared.clone(), Some(reason)),
        }
    }

    /// Makes the whole Adj-RIB-Out of `family` pending for the peer (ROUTE-REFRESH, RFC 2918 §4).
    pub(crate) fn refresh(&mut self, id: PeerId, family: Family) {
        if let Some(group) = self.group_of(id, family) {
            let (table, groups, _) = self.outbound(family);
            if let Some(group) = groups.get_mut(&group) {
                group.refresh(id, table);
            }
        }
    }

    /// Requests an End-of-RIB (RFC 4724 §2), which is packed after everything that is pending for `family`.
    pub(crate) fn end_of_rib(&mut self, id: PeerId, family: Family) {
        let Some(group) = self.group_of(id, family) else { return };
        if let Some(group) = self.groups[family].get_mut(&group) {
            group.request_end_of_rib(id);
        }
    }

    /// Returns whether [`Rib::pack`] has messages for the peer.
    pub(crate) fn pending(&self, id: PeerId) -> bool {
        let Some(neighbor) = self.neighbors.get(id) else { return false };
        FAMILIES.into_iter().any(|family| {
            let group = neighbor.group[family].and_then(|group| self.groups[family].get(&group));
            group.is_some_and(|group| group.has_pending(id))
        })
    }

    /// Appends whole messages for the peer to `out` until at least `limit` octets are added or nothing is pending; returns
    /// the number of octets added.
    pub(crate) fn pack(&mut self, id: PeerId, limit: usize, out: &mut BytesMut) -> usize {
        let start = out.len();
        let mut output = Output { until: start.saturating_add(limit), bytes: out };
        let Some(neighbor) = self.neighbors.get(id) else { return 0 };
        for family in FAMILIES {
            let Some(group) = neighbor.group[family] else { continue };
            let Some(group) = self.groups[family].get_mut(&group) else { continue };
            group.pack(id, family, &mut self.tables[family], &mut output);
        }
        out.len() - start
    }

    /// Returns whether the Loc-RIB changed since the last call. To be called at the end of each call of the speaker.
    pub(crate) fn take_changed(&mut self) -> bool {
        self.quick = self.piece;
        std::mem::take(&mut self.changed)
    }

    /// Returns whether, since the last call, paths that are not the best may have become pending: for peers that are
    /// advertised several.
    pub(crate) fn take_others_changed(&mut self) -> bool {
        std::mem::take(&mut self.others_changed)
    }

    /// Returns the numbers of paths in a peer's tables; zeros for an unknown peer.
    pub(crate) fn counts(&self, id: PeerId) -> Counts {
        let mut counts = Counts::default();
        let Some(neighbor) = self.neighbors.get(id) else { return counts };
        for family in FAMILIES {
            let inbound = &neighbor.inbound[family];
            counts.received += inbound.paths;
            counts.accepted += inbound.accepted;
            counts.stale += inbound.stale;
            counts.advertised += self.group(id, family).map_or(0, |group| group.advertised(id));
        }
        counts
    }

    /// Returns the number of paths of a family in a peer's Adj-RIB-In, rejected ones included.
    pub(crate) fn received(&self, id: PeerId, family: Family) -> usize {
        self.neighbors.get(id).map_or(0, |neighbor| neighbor.inbound[family].paths)
    }

    /// Adds a subscriber to the best routes.
    pub(crate) fn subscribe(&mut self) -> SubscriberId {
        self.subscribers.add()
    }

    /// Removes a subscriber.
    pub(crate) fn unsubscribe(&mut self, id: SubscriberId) {
        self.subscribers.remove(id, &mut self.tables);
    }

    /// Returns at most `limit` changes of best routes that a subscriber has not read, and whether there are more.
    pub(crate) fn best_changes(&mut self, id: SubscriberId, limit: usize) -> (Vec<BestChange>, bool) {
        self.subscribers.read(id, limit, &mut self.tables, &self.neighbors)
    }

    /// Returns whether the tables hold nothing: no path, nothing pending, no slot.
    #[cfg(test)]
    fn is_empty(&self) -> bool {
        FAMILIES.into_iter().all(|family| self.tables[family].is_empty())
            && self.neighbors.sources().is_empty()
    }

    /// Adds a path, or replaces the one from the same source.
    fn put(&mut self, prefix: Prefix, path: Path) {
        let (family, source) = (prefix.family(), path.source);
        let slot = self.tables[family].claim(prefix);
        let entry = self.tables[family].entry_mut(slot);
        let best = entry.best().cloned();
        let was = entry.paths.put(path);
        let now = entry.paths.get(source);
        if was.is_none() {
            self.neighbors.sources_mut().hold(source);
        }
        if let Some(inbound) = self.neighbors.inbound_mut(source) {
            inbound[family].count(slot, was.as_ref(), now, false);
        }
        self.decide(family, slot, best);
    }

    fn withdraw(&mut self, prefix: Prefix, source: Source) {
        let family = prefix.family();
        let Some(slot) = self.tables[family].find(&prefix) else { return };
        let entry = self.tables[family].entry_mut(slot);
        let best = entry.best().cloned();
        let Some(was) = entry.paths.remove(source) else { return };
        let peer = self.neighbors.source_peer(source);
        let others =
            entry.paths.as_slice().iter().any(|path| self.neighbors.source_peer(path.source) == peer);
        if let Some(inbound) = self.neighbors.inbound_mut(source) {
            inbound[family].count(slot, Some(&was), None, others);
        }
        self.decide(family, slot, best);
        self.neighbors.sources_mut().release(source);
    }

    /// Selects the best path to a prefix whose paths changed, and updates the groups if it differs from `before`.
    fn decide(&mut self, family: Family, slot: Slot, before: Option<Path>) {
        let neighbors = &self.neighbors;
        let paths = self.tables[family].entry_mut(slot).paths.as_mut_slice();
        if paths.len() > 1 {
            let eligible = paths.iter().filter(|path| path.is_eligible());
            let best = best::select(eligible.map(|path| Candidate::new(path, neighbors)));
            if let Some(at) = best.and_then(|best| paths.iter().position(|path| path.source == best.source)) {
                paths.swap(0, at);
            }
        }
        let same = match (&before, self.tables[family].entry(slot).best()) {
            (Some(before), Some(now)) => before.same(now),
            (None, None) => true,
            _ => false,
        };
        if !same {
            self.changed = true;
            self.count_best(family, slot, before.as_ref());
            self.mark_subscribers(family, slot, before.as_ref());
            self.update_groups(family, slot);
        } else {
            self.update_groups_with_others(family, slot);
        }
        self.tables[family].reap(slot);
    }

    /// Counts the best path of a prefix, which was `before`, if it is learned.
    fn count_best(&mut self, family: Family, slot: Slot, before: Option<&Path>) {
        let learned = |path: &Path| path.source != Source::LOCAL && path.shared.next_hop.is_some();
        let now = self.tables[family].entry(slot).best().is_some_and(learned);
        let count = &mut self.best_counts[family];
        *count = *count + usize::from(now) - usize::from(before.is_some_and(learned));
    }

    /// Returns the numbers of best routes learned from peers.
    pub(crate) fn best_counts(&self) -> BestCounts {
        BestCounts {
            ipv4: self.best_counts[Family::Ipv4Unicast],
            ipv6: self.best_counts[Family::Ipv6Unicast],
        }
    }

    /// Makes a prefix pending for the subscribers if its best path differs from `before` in what they are given.
    fn mark_subscribers(&mut self, family: Family, slot: Slot, before: Option<&Path>) {
        if self.subscribers.is_empty() {
            return;
        }
        let route = |path: &Path| Some((self.neighbors.peer_id(path.source)?, path.shared.next_hop?.address));
        let entry = self.tables[family].entry_mut(slot);
        let now = entry.best().and_then(route);
        if now != before.and_then(route) {
            self.subscribers.mark(family, slot, now.is_some(), &mut entry.references);
        }
    }

    /// Updates the advertisement of a prefix in each group.
    fn update_groups(&mut self, family: Family, slot: Slot) {
        let (table, groups, mut exporter) = self.outbound(family);
        let entry = table.entry_mut(slot);
        for group in groups.values_mut() {
            group.update(slot, entry, &mut exporter);
        }
    }

    /// Updates the advertisements of a prefix whose best path is unchanged, in groups with several paths to a prefix.
    fn update_groups_with_others(&mut self, family: Family, slot: Slot) {
        let (table, groups, mut exporter) = self.outbound(family);
        let entry = table.entry(slot);
        let mut changed = false;
        for group in groups.values_mut() {
            changed |= group.update_others(entry, &mut exporter);
        }
        self.others_changed |= changed;
    }

    /// Checks all paths of a peer again, after its filter, its properties or our identity changed.
    fn recheck(&mut self, id: PeerId) {
        FAMILIES.into_iter().for_each(|family| self.sweep(id, family, Task::Recheck));
    }

    /// Repeats decision and export for all prefixes of a peer, after the relation to the peer changed.
    fn redecide(&mut self, id: PeerId) {
        self.others_changed = true;
        for family in FAMILIES {
            self.groups[family].values_mut().for_each(UpdateGroup::clear_last);
            self.sweep(id, family, Task::Redecide);
        }
    }

    fn group_of(&self, id: PeerId, family: Family) -> Option<GroupId> {
        self.neighbors.get(id)?.group[family]
    }

    fn group(&self, id: PeerId, family: Family) -> Option<&UpdateGroup> {
        self.groups[family].get(&self.group_of(id, family)?)
    }

    /// Adds a peer to its update group, which is created if there is none.
    fn join(&mut self, id: PeerId, family: Family, moving: MovingMember) {
        let Some(neighbor) = self.neighbors.get(id) else { return };
        let key = GroupKey::of(&neighbor.peer, family, &self.next_hops);
        let (table, groups, _) = self.outbound(family);
        let present = groups.iter().find(|(_, group)| *group.key() == key).map(|(number, _)| *number);
        let number = present.unwrap_or_else(|| groups.last_key_value().map_or(0, |(last, _)| last + 1));
        let group = groups.entry(number).or_insert_with(|| UpdateGroup::new(key));
        group.join(id, moving, table);
        if present.is_none() {
            self.fill(family, number);
        }
        if let Some(neighbor) = self.neighbors.get_mut(id) {
            neighbor.group[family] = Some(number);
        }
    }

    /// Moves a peer to the group that its changed properties require, with its Adj-RIB-Out.
    fn regroup(&mut self, id: PeerId, family: Family) {
        let Some(group) = self.group_of(id, family) else { return };
        let (table, groups, _) = self.outbound(family);
        let moving = groups.get_mut(&group).map(|group| group.move_out(id, table)).unwrap_or_default();
        self.join(id, family, moving);
        self.drop_if_empty(group, family);
    }

    /// Removes a peer from its group.
    fn leave(&mut self, id: PeerId, family: Family) {
        let Some(group) = self.group_of(id, family) else { return };
        if let Some(group) = self.groups[family].get_mut(&group) {
            group.remove(id, &mut self.tables[family]);
        }
        if let Some(neighbor) = self.neighbors.get_mut(id) {
            neighbor.group[family] = None;
        }
        self.drop_if_empty(group, family);
    }

    /// Drops a group without members.
    fn drop_if_empty(&mut self, group: GroupId, family: Family) {
        if self.groups[family].get(&group).is_some_and(UpdateGroup::is_empty) {
            self.groups[family].remove(&group);
        }
    }

    /// Returns a family's table and groups, and what export needs besides.
    fn outbound(
        &mut self,
        family: Family,
    ) -> (&mut Table, &mut BTreeMap<GroupId, UpdateGroup>, Exporter<'_>) {
        let exporter =
            Exporter { identity: &self.identity, neighbors: &self.neighbors, encoded: &mut self.encoded };
        (&mut self.tables[family], &mut self.groups[family], exporter)
    }
}
