//! Changes of the configuration: only what differs is applied.

use std::collections::{BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::Instant;
use std::vec::IntoIter;

use super::refresh::RefreshState;
use super::{Action, Peer, Speaker};
use crate::config::{
    Authentication, Config, ConfigChange, Filter, InForce, Neighbor, Network, NextHopMode, Timers,
};
use crate::report::StopReason;
use crate::rib::{Identity, PeerId, PeerKind};
use crate::session::{Session, Settings};
use crate::wire::{Notification, Prefix, cease, code};

/// Returns the identity that a configuration gives us.
pub(super) fn identity(config: &Config) -> Identity {
    let cluster_id = config.cluster_id.unwrap_or(config.router_id);
    Identity {
        asn: config.asn,
        router_id: config.router_id,
        cluster_id,
        graceful_shutdown: config.graceful_shutdown,
    }
}

/// Returns whether a session continues when its neighbor's configuration changes from `old` to `new`: our OPEN, the
/// connection's addresses and options, and the kind of peer are the same.
fn same_session(old: &Neighbor, new: &Neighbor) -> bool {
    let essence = |n: &Neighbor| Neighbor {
        name: String::new(),
        port: 0,
        passive: false,
        #[cfg(feature = "bfd")]
        bfd: None,
        // RFC 4456 §6: local to the reflector, and not part of the OPEN.
        reflector_client: false,
        prefix_limit: None,
        next_hop_mode: NextHopMode::Automatic,
        timers: Timers { hold: n.timers.hold, ..Timers::default() },
        import: Filter::All,
        export: Filter::All,
        ..n.clone()
    };
    essence(old) == essence(new)
}

/// Returns whether a change of the import filter needs the routes as the peer sent them: of routes that rules accepted only
/// the modified attributes are kept.
fn needs_refresh(old: &Filter, new: &Filter) -> bool {
    old != new && (matches!(old, Filter::Rules(_)) || matches!(new, Filter::Rules(_)))
}

/// The number of networks that one step changes.
const NETWORKS: usize = 256;

/// A change of the configuration that is being applied, in steps.
#[derive(Debug)]
pub(super) struct Changing {
    rest: Option<Box<Config>>,
    new_identity: bool,
    /// The sessions that end, each with the subcode of its Cease and the reason.
    ending: VecDeque<(IpAddr, u8, StopReason)>,
    removed_networks: IntoIter<Prefix>,
    networks: IntoIter<Network>,
    neighbors: IntoIter<Neighbor>,
    /// The neighbors from listen ranges that are still to be changed.
    from_ranges: VecDeque<IpAddr>,
}

impl Speaker {
    /// Returns the change from the configuration in force to `config`, which is valid.
    pub(super) fn change_to(&self, config: &Config) -> ConfigChange {
        let peers = self.by_address.iter().filter(|(_, id)| !self.came_from_range(**id));
        let neighbors = peers
            .filter_map(|(address, id)| Some((*address, &self.peers.get(id)?.session.settings().neighbor)));
        let networks = self.rib.networks().iter().map(|(prefix, network)| (*prefix, network));
        let (networks, neighbors) = (networks.collect(), neighbors.collect());
        ConfigChange::between(&InForce { rest: &self.config, networks, neighbors }, config)
    }

    /// Begins a change. [`Speaker::work`] carries it out; until then the speaker does not count as synchronized because of
    /// neighbors that are still missing.
    pub(crate) fn begin_change(&mut self, now: Instant, change: ConfigChange) {
        self.finish_change(now);
        let ConfigChange { rest, new_identity, removed_networks, networks, removed_neighbors, neighbors } =
            change;
        let removed = removed_neighbors;
        let mut ending: VecDeque<_> =
            removed.iter().map(|address| (*address, cease::DECONFIGURED, StopReason::Removed)).collect();
        if new_identity {
            let removed: BTreeSet<IpAddr> = removed.into_iter().collect();
            let others = self.by_address.keys().filter(|address| !removed.contains(address));
            ending
                .extend(others.map(|address| (*address, cease::CONFIG_CHANGE, StopReason::IdentityChanged)));
        }
        self.changing = Some(Changing {
            rest,
            new_identity,
            ending,
            removed_networks: removed_networks.into_iter(),
            networks: networks.into_iter(),
            neighbors: neighbors.into_iter(),
            from_ranges: VecDeque::new(),
        });
    }

    /// Carries out all that is left of a change.
    pub(super) fn finish_change(&mut self, now: Instant) {
        while self.change_step(now) {}
    }

    /// Carries out one step of a change: returns whether there was one.
    pub(super) fn change_step(&mut self, now: Instant) -> bool {
        let Some(mut changing) = self.changing.take() else { return false };
        if self.step(now, &mut changing) {
            self.changing = Some(changing);
        } else {
            self.histories.clear();
        }
        true
    }

    /// Returns whether the step was not the last one.
    fn step(&mut self, now: Instant, changing: &mut Changing) -> bool {
        if let Some((address, subcode, reason)) = changing.ending.pop_front() {
            self.remove(now, address, subcode, reason);
            return true;
        }
        if let Some(rest) = changing.rest.take() {
            self.change_rest(now, *rest, changing);
            return true;
        }
        let removed: Vec<Prefix> = changing.removed_networks.by_ref().take(NETWORKS).collect();
        let set: Vec<Network> = changing.networks.by_ref().take(NETWORKS).collect();
        if !removed.is_empty() || !set.is_empty() {
            self.rib.change_networks(&removed, set);
            return true;
        }
        if let Some(neighbor) = changing.neighbors.next() {
            let id = self.by_address.get(&neighbor.address);
            if let Some(peer) = id.and_then(|id| self.peers.get_mut(id)) {
                // Configured by itself from now on, even if it came from a listen range.
                peer.range = None;
            }
            self.set_neighbor(now, neighbor);
            return true;
        }
        if let Some(address) = changing.from_ranges.pop_front() {
            self.apply_range(now, address);
        }
        !changing.from_ranges.is_empty()
    }

    /// Replaces everything but networks and neighbors.
    fn change_rest(&mut self, now: Instant, rest: Config, changing: &mut Changing) {
        if changing.new_identity {
            // Those that came from a listen range since the change began.
            let left: Vec<IpAddr> = self.by_address.keys().copied().collect();
            for address in left {
                self.remove(now, address, cease::CONFIG_CHANGE, StopReason::IdentityChanged);
            }
        }
        self.rib.set_identity(identity(&rest));
        let before = std::mem::replace(&mut self.config, rest);
        self.protect_ranges(&before.ranges);
        changing.from_ranges = self.all_from_ranges();
    }

    /// Ends all sessions; see [`Speaker::shutdown`].
    pub(super) fn apply_shutdown(&mut self, now: Instant, message: &str) {
        self.finish_change(now);
        let all: Vec<IpAddr> = self.by_address.keys().copied().collect();
        for address in all {
            let notification = Notification::with_message(cease::SHUTDOWN, message);
            self.remove_with(now, address, &notification, StopReason::Shutdown);
        }
        self.histories.clear();
    }

    /// Returns the kind of peer that a neighbor is.
    pub(super) fn kind(&self, neighbor: &Neighbor) -> PeerKind {
        match neighbor {
            n if n.asn != self.config.asn => PeerKind::External,
            n if n.reflector_client => PeerKind::Client,
            _ => PeerKind::Internal,
        }
    }

    pub(super) fn settings(&self, neighbor: Neighbor) -> Settings {
        Settings {
            local_asn: neighbor.local_asn.unwrap_or(self.config.asn),
            router_id: self.config.router_id,
            graceful_restart: self.config.graceful_restart,
            neighbor,
        }
    }

    pub(super) fn set_neighbor(&mut self, now: Instant, neighbor: Neighbor) {
        let address = neighbor.address;
        let settings = self.settings(neighbor);
        if let Some(id) = self.by_address.get(&address).copied() {
            let Some(peer) = self.peers.get(&id) else { return };
            let old = &peer.session.settings().neighbor;
            if same_session(old, &settings.neighbor) {
                let new = &settings.neighbor;
                let refreshes = needs_refresh(&old.import, &new.import);
                if (&old.import, &old.export) != (&new.import, &new.export) {
                    self.rib.set_filters(id, new.import.clone(), new.export.clone());
                }
                self.rib.set_next_hop_mode(id, new.next_hop_mode);
                self.rib.set_kind(id, self.kind(new));
                let families = new.families.clone();
                let can = self.with_session(now, id, |session, ctx| {
                    session.set_settings(ctx, settings.clone());
                    !refreshes || session.established().is_none() || session.request_refresh(&families)
                });
                self.update_bfd(id);
                if can != Some(false) {
                    return;
                }
            }
            self.remove(now, address, cease::CONFIG_CHANGE, StopReason::NeighborChanged);
        }
        self.add(now, settings);
    }

    pub(super) fn add(&mut self, now: Instant, settings: Settings) -> PeerId {
        self.next_peer += 1;
        let id = PeerId(self.next_peer);
        self.by_address.insert(settings.neighbor.address, id);
        if settings.neighbor.authentication.is_some() {
            let (address, authentication) =
                (settings.neighbor.address, settings.neighbor.authentication.clone());
            self.protect(address, authentication);
        }
        let history = self.histories.remove(&settings.neighbor.address).unwrap_or_default();
        let peer = Peer {
            session: Session::new(settings, now, history),
            deadline: None,
            refresh: RefreshState::default(),
            range: None,
            #[cfg(feature = "bfd")]
            bfd: super::bfd::BfdClient::default(),
            warned: false,
        };
        self.peers.insert(id, Box::new(peer));
        self.with_session(now, id, |session, ctx| session.start(ctx));
        id
    }

    /// Ends a neighbor's session and removes its paths. Its last NOTIFICATION may still be pending afterwards.
    pub(super) fn remove(&mut self, now: Instant, address: IpAddr, subcode: u8, reason: StopReason) {
        self.remove_with(now, address, &Notification::new(code::CEASE, subcode), reason);
    }

    fn remove_with(
        &mut self,
        now: Instant,
        address: IpAddr,
        notification: &Notification,
        reason: StopReason,
    ) {
        let Some(id) = self.by_address.remove(&address) else { return };
        let neighbor = self.peers.get(&id).map(|peer| &peer.session.settings().neighbor);
        if neighbor.is_some_and(|neighbor| neighbor.authentication.is_some()) {
            self.protect(address, None);
        }
        self.stop_bfd(id);
        let history = self.with_session(now, id, |session, ctx| {
            session.stop(ctx, notification, reason);
            session.take_history()
        });
        self.histories.extend(history.map(|history| (address, history)));
        self.rib.forget(id);
    }

    fn protect(&mut self, address: IpAddr, authentication: Option<Authentication>) {
        let length = if address.is_ipv4() { 32 } else { 128 };
        if let Some(from) = Prefix::new(address, length) {
            self.actions.push_back(Action::Protect { from, authentication });
        }
    }

    /// Removes a neighbor that is no longer configured once its connections are closed, and one from a listen range once it
    /// has no connection, stale paths or pause.
    pub(super) fn clean_up(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get(&id) else { return };
        let left = peer.range.is_some() && peer.session.is_dormant();
        let gone = left || peer.session.is_gone();
        let address = peer.session.settings().neighbor.address;
        if left && self.by_address.get(&address) == Some(&id) {
            self.by_address.remove(&address);
            self.stop_bfd(id);
            self.rib.forget(id);
        }
        if !gone {
            return;
        }
        if let Some(deadline) = self.peers.remove(&id).and_then(|peer| peer.deadline) {
            self.deadlines.remove(&(deadline, id));
        }
    }
}
