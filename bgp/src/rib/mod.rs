//! The tables: adj-RIB-in, loc-RIB and adj-RIB-out (RFC 4271 §3.2). Pure: no sessions, no time, no I/O.
//!
//! The way of a route: [`Rib::update`] interns its attributes, checks them for loops and against the import filter,
//! and puts the path into its prefix's entry. If that changes the prefix's best path, each update group works out its
//! new word on the prefix and marks it. [`Rib::pack`] turns a group's marks into messages when the socket of a first
//! member can take them, and gives the same messages to all who keep up; one that does not has marks of its own.
//!
//! Two invariants carry all else. The best path depends on the set of paths only, never on the order in which they
//! came. And what a peer was told, once it has no marks, is exactly what its group says.

mod add_path;
mod best;
mod bits;
mod export;
mod family;
mod group;
mod import;
mod intern;
mod log;
mod long_lived;
mod neighbors;
mod pack;
mod report;
mod sources;
mod table;
#[cfg(test)]
mod tests;
mod types;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::BytesMut;

use crate::config::{Filter, Network};
use crate::wire::{Family, NextHop, Nlri, Prefix, Update};
use add_path::{Leaver, UpdateGroup};
use best::Candidate;
use export::Audience;
use family::{FAMILIES, PerFamily};
use group::{Encoded, Exporter};
use import::Refusal;
use intern::Interner;
use neighbors::{GroupId, Neighbor, Neighbors};
use table::{Path, PathAttributes, Slot, Source, Table};

pub use types::{Counts, Identity, Peer, PeerId, PeerKind, Withheld};

/// All tables of one speaker.
#[derive(Debug)]
pub struct Rib {
    identity: Identity,
    networks: BTreeMap<Prefix, Network>,
    neighbors: Neighbors,
    tables: PerFamily<Table>,
    groups: PerFamily<BTreeMap<GroupId, UpdateGroup>>,
    attributes: Interner<PathAttributes>,
    encoded: Interner<Encoded>,
    changed: bool,
    news: bool,
}

impl Rib {
    /// Empty tables of a speaker that is `identity`.
    pub fn new(identity: Identity) -> Self {
        Self {
            identity,
            networks: BTreeMap::new(),
            neighbors: Neighbors::default(),
            tables: PerFamily::default(),
            groups: PerFamily::default(),
            attributes: Interner::new(),
            encoded: Interner::new(),
            changed: false,
            news: false,
        }
    }

    /// Changes who we are; loop checks and exports are worked out again.
    pub fn set_identity(&mut self, identity: Identity) {
        if self.identity == identity {
            return;
        }
        self.identity = identity;
        let mut ids: Vec<PeerId> = self.neighbors.0.keys().copied().collect();
        ids.sort_unstable();
        for id in ids {
            self.review(id);
        }
        for family in FAMILIES {
            let (table, groups, mut exporter) = self.outbound(family);
            for group in groups.values_mut() {
                group.revise(table, &mut exporter);
            }
        }
    }

    /// Sets what we originate, as a whole; only what differs is touched.
    pub fn set_networks(&mut self, networks: &[Network]) {
        let wanted: BTreeMap<_, _> =
            networks.iter().map(|network| (network.prefix, network.clone())).collect();
        let present = std::mem::replace(&mut self.networks, wanted.clone());
        for prefix in present.keys().filter(|prefix| !wanted.contains_key(prefix)) {
            self.withdraw(*prefix, Source::LOCAL);
        }
        for (prefix, network) in wanted {
            if present.get(&prefix) != Some(&network) {
                let next_hop = network.next_hop.map(|address| NextHop { address, link_local: None });
                let attributes = network.attributes();
                let shared = self.attributes.intern(PathAttributes { attributes, next_hop });
                self.put(prefix, Path { shared, source: Source::LOCAL, refusal: None, stale: false });
            }
        }
    }

    /// A session is established. Paths kept stale from before stay until they are replaced or dropped, but for
    /// families that the session does not carry; everything in the loc-RIB is marked for the peer.
    pub fn peer_up(&mut self, id: PeerId, peer: Peer) {
        if self.neighbors.0.get(&id).is_some_and(|neighbor| neighbor.up) {
            self.peer_down(id, &[]);
        }
        let families = peer.families.clone();
        let fresh = Neighbor {
            peer: peer.clone(),
            up: true,
            inbound: PerFamily::default(),
            group: PerFamily::default(),
        };
        let neighbor = self.neighbors.0.entry(id).or_insert(Box::new(fresh));
        let before = std::mem::replace(&mut neighbor.peer, peer);
        neighbor.up = true;
        let transformed = !before.ranks_alike(&neighbor.peer);
        for family in FAMILIES.into_iter().filter(|family| !families.contains(family)) {
            self.drop_stale(id, Some(family));
        }
        self.review(id);
        if transformed {
            self.reconsider(id);
        }
        for family in FAMILIES.into_iter().filter(|family| families.contains(family)) {
            self.join(id, family, Leaver::default());
        }
    }

    /// The session is gone. Paths of the families in `keep` become stale or stay so, all others go.
    pub fn peer_down(&mut self, id: PeerId, keep: &[Family]) {
        let Some(neighbor) = self.neighbors.0.get_mut(&id) else { return };
        if !std::mem::take(&mut neighbor.up) {
            return;
        }
        for family in FAMILIES {
            self.dismiss(id, family);
            for (prefix, path) in self.paths_of(id, family) {
                if keep.contains(&family) {
                    self.put(prefix, Path { stale: true, ..path });
                } else {
                    self.withdraw(prefix, path.source);
                }
            }
        }
    }

    /// Drops the peer's paths that are still stale, of one family or of all.
    pub fn drop_stale(&mut self, id: PeerId, family: Option<Family>) {
        for family in FAMILIES.into_iter().filter(|each| family.is_none_or(|family| family == *each)) {
            if self.neighbors.0.get(&id).is_none_or(|neighbor| neighbor.inbound[family].stale == 0) {
                continue;
            }
            for (prefix, path) in self.paths_of(id, family) {
                if path.stale {
                    self.withdraw(prefix, path.source);
                }
            }
        }
    }

    /// The peer begins to tell all of a family again: what it does not repeat is to be dropped (RFC 7313 §4).
    pub fn mark_stale(&mut self, id: PeerId, family: Family) {
        for (prefix, path) in self.paths_of(id, family) {
            self.put(prefix, Path { stale: true, ..path });
        }
    }

    /// The neighbour is no longer configured: nothing of it stays.
    pub fn forget(&mut self, id: PeerId) {
        self.peer_down(id, &[]);
        self.drop_stale(id, None);
        self.neighbors.0.remove(&id);
    }

    /// Changes a peer's filters live. Where rules come or go on import, paths stay as they were judged until the peer tells
    /// them again: see [`Peer::by_rules`].
    pub fn set_filters(&mut self, id: PeerId, import: Filter, export: Filter) {
        let Some(neighbor) = self.neighbors.0.get_mut(&id) else { return };
        let imports_alike = neighbor.peer.import == import;
        let exports_alike = neighbor.peer.export == export;
        let by_rules = neighbor.peer.by_rules() || matches!(import, Filter::Rules(_));
        neighbor.peer.import = import;
        neighbor.peer.export = export;
        if !imports_alike && !by_rules {
            self.review(id);
        }
        if exports_alike {
            return;
        }
        for family in FAMILIES {
            self.regroup(id, family);
        }
    }

    /// Changes live whether an internal peer is our client: what it is told, and who is told of its paths (RFC 4456 §6).
    pub fn set_kind(&mut self, id: PeerId, kind: PeerKind) {
        let Some(neighbor) = self.neighbors.0.get_mut(&id) else { return };
        if std::mem::replace(&mut neighbor.peer.kind, kind) == kind {
            return;
        }
        for family in FAMILIES {
            self.regroup(id, family);
        }
        self.reconsider(id);
    }

    /// Takes in an UPDATE. Its `end_of_rib` and `faults` are the caller's business; what is of a family that the
    /// session does not carry is ignored (RFC 4760 §6 leaves that to us).
    pub fn update(&mut self, id: PeerId, update: Update) {
        let Some(neighbor) = self.neighbors.0.get(&id).filter(|neighbor| neighbor.up) else { return };
        let (kind, families) = (neighbor.peer.kind, neighbor.peer.families.clone());
        let (asn, role) = (neighbor.peer.asn, neighbor.peer.role);
        let carried = |nlri: &Nlri| families.contains(&nlri.prefix.family());
        // Withdrawals first: RFC 4271 §4.3 lets an announcement in the same message win.
        for Nlri { prefix, path_id } in update.withdrawn.into_iter().filter(carried) {
            let source = match path_id {
                None => id.into(),
                Some(path_id) => match self.neighbors.1.find(id, path_id) {
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
            // Almost always there is one reach, and nothing to copy.
            let attributes = if left == 0 { attributes.take() } else { attributes.clone() };
            let Some(attributes) = attributes else { return };
            let shared =
                self.attributes.intern(PathAttributes { attributes, next_hop: Some(reach.next_hop) });
            let refusal = self
                .neighbors
                .origin(id.into())
                .and_then(|peer| import::refuse_path(&self.identity, peer, &shared, reach.family));
            let of_family = |nlri: &Nlri| carried(nlri) && nlri.prefix.family() == reach.family;
            self.tables[reach.family].look_ahead(&reach.prefixes);
            for Nlri { prefix, path_id } in reach.prefixes.into_iter().filter(of_family) {
                let (shared, refusal) = match refusal {
                    None => self.judge(id, &shared, &prefix),
                    refusal => (shared.clone(), refusal),
                };
                let source = match path_id {
                    None => id.into(),
                    Some(path_id) => self.neighbors.1.claim(id, path_id),
                };
                self.put(prefix, Path { shared, source, refusal, stale: false });
            }
        }
    }

    /// What the peer's import filter makes of a path.
    fn judge(
        &mut self,
        id: PeerId,
        shared: &Arc<PathAttributes>,
        prefix: &Prefix,
    ) -> (Arc<PathAttributes>, Option<Refusal>) {
        let Some(peer) = self.neighbors.origin(id.into()) else { return (shared.clone(), None) };
        let Filter::Rules(policy) = &peer.import else {
            return (shared.clone(), import::refuse_prefix(peer, prefix));
        };
        match import::judge(policy, peer, shared, prefix) {
            Ok(changed) if changed == **shared => (shared.clone(), None),
            Ok(changed) => (self.attributes.intern(changed), None),
            Err(refusal) => (shared.clone(), Some(refusal)),
        }
    }

    /// Marks everything of `family` to be told again (ROUTE-REFRESH, RFC 2918 §4).
    pub fn refresh(&mut self, id: PeerId, family: Family) {
        if let Some(group) = self.group_of(id, family) {
            let (table, groups, _) = self.outbound(family);
            if let Some(group) = groups.get_mut(&group) {
                group.refresh(id, table);
            }
        }
    }

    /// Asks for an End-of-RIB (RFC 4724 §2), to be packed after all that is pending for `family`.
    pub fn end_of_rib(&mut self, id: PeerId, family: Family) {
        let Some(group) = self.group_of(id, family) else { return };
        if let Some(group) = self.groups[family].get_mut(&group) {
            group.end_of_rib(id);
        }
    }

    /// Whether [`Rib::pack`] has something for the peer.
    pub fn pending(&self, id: PeerId) -> bool {
        let Some(neighbor) = self.neighbors.0.get(&id) else { return false };
        FAMILIES.into_iter().any(|family| {
            let group = neighbor.group[family].and_then(|group| self.groups[family].get(&group));
            group.is_some_and(|group| group.pending(id))
        })
    }

    /// Appends whole messages for the peer to `out` until at least `limit` octets were added or nothing is
    /// pending; returns how many octets were added.
    pub fn pack(&mut self, id: PeerId, limit: usize, out: &mut BytesMut) -> usize {
        let start = out.len();
        let until = start.saturating_add(limit);
        let Some(neighbor) = self.neighbors.0.get(&id) else { return 0 };
        for family in FAMILIES {
            let Some(group) = neighbor.group[family] else { continue };
            let Some(group) = self.groups[family].get_mut(&group) else { continue };
            group.pack(id, family, &mut self.tables[family], out, until);
        }
        out.len() - start
    }

    /// Whether the loc-RIB changed since the last call.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Whether there may be something to tell beyond changes of the loc-RIB since the last call: paths that are not the
    /// best, to those who are told several.
    pub fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.news)
    }

    /// How many paths a peer's tables hold; zeros for an unknown peer.
    pub fn counts(&self, id: PeerId) -> Counts {
        let mut counts = Counts::default();
        let Some(neighbor) = self.neighbors.0.get(&id) else { return counts };
        for family in FAMILIES {
            let inbound = &neighbor.inbound[family];
            counts.received += inbound.paths;
            counts.accepted += inbound.accepted;
            counts.stale += inbound.stale;
            counts.advertised += self.hearing(id, family).map_or(0, |group| group.advertised(id));
        }
        counts
    }

    /// How many paths of a family are in a peer's adj-RIB-in, refused ones included.
    pub fn received(&self, id: PeerId, family: Family) -> usize {
        self.neighbors.0.get(&id).map_or(0, |neighbor| neighbor.inbound[family].paths)
    }

    /// Whether nothing is held for any prefix: no path, no mark, no slot.
    #[cfg(test)]
    fn is_empty(&self) -> bool {
        FAMILIES.into_iter().all(|family| self.tables[family].is_empty()) && self.neighbors.1.is_empty()
    }

    /// Puts a path in, in place of the one from the same source.
    fn put(&mut self, prefix: Prefix, path: Path) {
        let (family, source) = (prefix.family(), path.source);
        let slot = self.tables[family].claim(prefix);
        let entry = self.tables[family].entry_mut(slot);
        let best = entry.best().cloned();
        let was = entry.paths.put(path);
        let now = entry.paths.get(source);
        if was.is_none() {
            self.neighbors.1.hold(source);
        }
        if let Some(neighbor) = self.neighbors.of(source) {
            neighbor.inbound[family].count(slot, was.as_ref(), now, false);
        }
        self.decide(family, slot, best);
    }

    fn withdraw(&mut self, prefix: Prefix, source: Source) {
        let family = prefix.family();
        let Some(slot) = self.tables[family].find(&prefix) else { return };
        let entry = self.tables[family].entry_mut(slot);
        let best = entry.best().cloned();
        let Some(was) = entry.paths.remove(source) else { return };
        let teller = self.neighbors.teller(source);
        let others = entry.paths.as_slice().iter().any(|path| self.neighbors.teller(path.source) == teller);
        if let Some(neighbor) = self.neighbors.of(source) {
            neighbor.inbound[family].count(slot, Some(&was), None, others);
        }
        self.decide(family, slot, best);
        self.neighbors.1.release(source);
    }

    /// Finds the best path to a prefix whose paths changed, and passes it on if it is another than `before`.
    fn decide(&mut self, family: Family, slot: Slot, before: Option<Path>) {
        let neighbors = &self.neighbors;
        let paths = self.tables[family].entry_mut(slot).paths.as_mut_slice();
        if paths.len() > 1 {
            let usable = paths.iter().filter(|path| path.refusal.is_none());
            let best = best::select(usable.map(|path| Candidate::new(path, neighbors)));
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
            self.tell(family, slot);
        } else {
            self.tell_others(family, slot);
        }
        self.tables[family].reap(slot);
    }

    /// Has each group work out its word on a prefix.
    fn tell(&mut self, family: Family, slot: Slot) {
        let (table, groups, mut exporter) = self.outbound(family);
        let entry = table.entry_mut(slot);
        for group in groups.values_mut() {
            group.update(slot, entry, &mut exporter);
        }
    }

    /// Has those groups that are told of several paths work out their words on a prefix whose best path stays as it is.
    fn tell_others(&mut self, family: Family, slot: Slot) {
        let (table, groups, mut exporter) = self.outbound(family);
        let entry = table.entry(slot);
        let mut news = false;
        for group in groups.values_mut() {
            news |= group.update_others(entry, &mut exporter);
        }
        self.news |= news;
    }

    /// Judges all paths of a peer again, after its filter, the peer or ourselves changed.
    fn review(&mut self, id: PeerId) {
        for family in FAMILIES {
            for (prefix, path) in self.paths_of(id, family) {
                let Some(peer) = self.neighbors.origin(path.source) else { continue };
                // What rules have rejected was judged as it came, and is not judged again.
                let refusal = import::refuse(&self.identity, peer, &path.shared, &prefix)
                    .or(path.refusal.filter(|refusal| peer.by_rules() && *refusal == Refusal::Filter));
                if refusal != path.refusal {
                    self.put(prefix, Path { refusal, ..path });
                }
            }
        }
    }

    /// Decides on all paths of a peer and tells them again, after what the peer is to us changed.
    fn reconsider(&mut self, id: PeerId) {
        for family in FAMILIES {
            self.groups[family].values_mut().for_each(UpdateGroup::forget_last);
            for (prefix, _) in self.paths_of(id, family) {
                if let Some(slot) = self.tables[family].find(&prefix) {
                    let best = self.tables[family].entry(slot).best().cloned();
                    self.decide(family, slot, best);
                    self.tell(family, slot);
                    self.news = true;
                }
            }
        }
    }

    fn paths_of(&self, id: PeerId, family: Family) -> Vec<(Prefix, Path)> {
        let Some(neighbor) = self.neighbors.0.get(&id) else { return Vec::new() };
        let entries = neighbor.inbound[family].received.iter().map(|slot| self.tables[family].entry(slot));
        let paths = entries.flat_map(|entry| entry.paths.as_slice().iter().map(|path| (entry.prefix, path)));
        let of_peer = paths.filter(|(_, path)| self.neighbors.1.peer(path.source) == Some(id));
        of_peer.map(|(prefix, path)| (prefix, path.clone())).collect()
    }

    fn group_of(&self, id: PeerId, family: Family) -> Option<GroupId> {
        self.neighbors.0.get(&id)?.group[family]
    }

    fn hearing(&self, id: PeerId, family: Family) -> Option<&UpdateGroup> {
        self.groups[family].get(&self.group_of(id, family)?)
    }

    /// Puts a peer into the group of those who are told the same, made now if there is none.
    fn join(&mut self, id: PeerId, family: Family, leaver: Leaver) {
        let Some(neighbor) = self.neighbors.0.get(&id) else { return };
        let audience = Audience::of(&neighbor.peer, family);
        let (table, groups, mut exporter) = self.outbound(family);
        let known = groups.iter().find(|(_, group)| *group.audience() == audience).map(|(number, _)| *number);
        let number = known.unwrap_or_else(|| groups.last_key_value().map_or(0, |(last, _)| last + 1));
        let group = groups.entry(number).or_insert_with(|| UpdateGroup::new(audience, table, &mut exporter));
        group.join(id, leaver, table);
        if let Some(neighbor) = self.neighbors.0.get_mut(&id) {
            neighbor.group[family] = Some(number);
        }
    }

    /// Moves a peer to the group that its filter now puts it in, with what it was told.
    fn regroup(&mut self, id: PeerId, family: Family) {
        let Some(group) = self.group_of(id, family) else { return };
        let (table, groups, _) = self.outbound(family);
        let leaver = groups.get_mut(&group).map(|group| group.leave(id, table)).unwrap_or_default();
        self.join(id, family, leaver);
        self.disband(group, family);
    }

    /// Takes a peer out of its group.
    fn dismiss(&mut self, id: PeerId, family: Family) {
        let Some(group) = self.group_of(id, family) else { return };
        if let Some(group) = self.groups[family].get_mut(&group) {
            group.dismiss(id, &mut self.tables[family]);
        }
        if let Some(neighbor) = self.neighbors.0.get_mut(&id) {
            neighbor.group[family] = None;
        }
        self.disband(group, family);
    }

    /// Drops a group that nobody hears any more.
    fn disband(&mut self, group: GroupId, family: Family) {
        if self.groups[family].get(&group).is_some_and(UpdateGroup::is_empty) {
            self.groups[family].remove(&group);
        }
    }

    /// A family's table and groups, with all that exporting needs.
    fn outbound(
        &mut self,
        family: Family,
    ) -> (&mut Table, &mut BTreeMap<GroupId, UpdateGroup>, Exporter<'_>) {
        let exporter =
            Exporter { identity: &self.identity, neighbors: &self.neighbors, encoded: &mut self.encoded };
        (&mut self.tables[family], &mut self.groups[family], exporter)
    }
}
