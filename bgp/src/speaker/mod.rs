//! The speaker: sessions and routing tables.

#[cfg(feature = "bfd")]
mod bfd;
#[cfg(not(feature = "bfd"))]
#[path = "no_bfd.rs"]
mod bfd;
mod change;
#[cfg(feature = "tokio")]
mod driven;
mod limit;
mod range;
mod refresh;
mod sync;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use bytes::BytesMut;

use self::refresh::RefreshState;
use self::sync::Sync;
use crate::config::{Authentication, Config, ConfigError, Neighbor, Ttl};
use crate::hash::Map;
use crate::report::{
    BestChanges, BestCounts, BestRoute, PathReport, SessionReason, SessionReport, SessionState, Warning,
};
pub use crate::rib::SubscriberId;
use crate::rib::{self, PeerId, Rib};
pub use crate::session::ConnId;
use crate::session::{Context, History, Negotiated, Output, Session};
use crate::wire::{PathIds, Prefix};

/// A request to the driver, which owns the sockets. A driver may ignore actions that it does not handle: a new one is
/// returned only with configuration that enables it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// Open a connection, and report the result with [`Speaker::connected`] or [`Speaker::connect_failed`].
    #[non_exhaustive]
    Connect {
        /// The identifier of the connection.
        conn: ConnId,
        /// The address and port to connect to.
        remote: SocketAddr,
        /// The address to connect from; `None`: the kernel's choice.
        local: Option<IpAddr>,
        /// The options of the socket, to be set before it connects.
        socket: SocketOptions,
    },
    /// Set or remove the authentication of connections from these addresses on the listening sockets.
    #[non_exhaustive]
    Protect {
        /// The addresses.
        from: Prefix,
        /// The authentication; `None`: none.
        authentication: Option<Authentication>,
    },
    /// Run this BFD session with these settings, or end it; pass its events to [`Speaker::bfd_event`].
    #[cfg(feature = "bfd")]
    #[non_exhaustive]
    SetBfd {
        /// The addresses of the session.
        session: crate::bfd::Key,
        /// The settings; `None`: end the session.
        settings: Option<crate::bfd::Settings>,
    },
    /// Close a connection, or give up opening it. The speaker has forgotten it already.
    #[non_exhaustive]
    Close {
        /// The identifier of the connection.
        conn: ConnId,
    },
}

/// The options of a connection's socket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SocketOptions {
    /// The permitted distance of the peer.
    pub ttl: Ttl,
    /// The authentication of segments. An accepted connection inherits it from the listening socket.
    pub authentication: Option<Authentication>,
}

impl SocketOptions {
    fn of(neighbor: &Neighbor) -> Self {
        Self { ttl: neighbor.ttl, authentication: neighbor.authentication.clone() }
    }
}

/// An event for the application.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A session is established.
    #[non_exhaustive]
    SessionUp {
        /// The neighbor's address.
        address: IpAddr,
        /// Its configured name.
        name: String,
    },
    /// A session is no longer established.
    #[non_exhaustive]
    SessionDown {
        /// The neighbor's address.
        address: IpAddr,
        /// Its configured name.
        name: String,
        /// The reason.
        reason: SessionReason,
    },
    /// The best routes have changed, or are complete.
    RoutesChanged,
    /// A condition that needs attention before it becomes an error.
    #[non_exhaustive]
    Warning {
        /// The neighbor's address.
        address: IpAddr,
        /// Its configured name.
        name: String,
        /// The condition.
        warning: Warning,
    },
}

/// The sessions whose timers expire in one call at most.
const EXPIRING: usize = 64;

/// A BGP speaker: the whole protocol, without I/O. How to call it is described in the [crate's documentation](crate).
#[derive(Debug)]
pub struct Speaker {
    /// The configuration in force without networks and neighbors, which are with the tables and sessions.
    config: Config,
    changing: Option<change::Changing>,
    rib: Rib,
    peers: Map<PeerId, Box<Peer>>,
    by_address: BTreeMap<IpAddr, PeerId>,
    by_connection: Map<ConnId, PeerId>,
    deadlines: BTreeSet<(Instant, PeerId)>,
    /// The histories of sessions that end during a change of configuration, for those that replace them.
    histories: BTreeMap<IpAddr, History>,
    sync: Sync,
    /// Connections on which messages may be pending.
    ready: BTreeSet<ConnId>,
    /// Best routes have changed: messages may be pending on every established connection.
    all_ready: bool,
    /// The established connections still to be checked after such a change, the next one last.
    round: Vec<ConnId>,
    /// The last connection that was returned.
    last_ready: Option<ConnId>,
    actions: VecDeque<Action>,
    events: VecDeque<Event>,
    next_peer: u32,
    next_conn: u64,
    rng: fastrand::Rng,
    /// The time since which changes of many routes are not complete.
    work_since: Option<Instant>,
}

#[derive(Debug)]
struct Peer {
    session: Session,
    /// The session's entry in `deadlines`.
    deadline: Option<Instant>,
    refresh: RefreshState,
    /// The listen range that it came from; it is removed when its session is over.
    range: Option<Prefix>,
    #[cfg(feature = "bfd")]
    bfd: bfd::BfdClient,
    /// The warning about its prefix limit was issued.
    warned: bool,
}

impl Speaker {
    /// Creates a speaker and starts its sessions. `restarting`: the node forwards by routes of an earlier run, and peers
    /// are to keep its routes (RFC 4724). With the same `seed` and the same calls, two speakers behave the same.
    ///
    /// # Errors
    /// The configuration is invalid.
    pub fn new(config: Config, restarting: bool, now: Instant, seed: u64) -> Result<Self, ConfigError> {
        config.validate()?;
        let deferral = config.graceful_restart.unwrap_or_default().selection_deferral;
        let mut speaker = Self {
            rib: Rib::new(change::identity(&config)),
            config: Config { ranges: Vec::new(), ..config.without_lists() },
            changing: None,
            peers: Map::default(),
            by_address: BTreeMap::new(),
            by_connection: Map::default(),
            deadlines: BTreeSet::new(),
            histories: BTreeMap::new(),
            sync: Sync::new(restarting, now + deferral),
            ready: BTreeSet::new(),
            all_ready: false,
            round: Vec::new(),
            last_ready: None,
            actions: VecDeque::new(),
            events: VecDeque::new(),
            next_peer: 0,
            next_conn: 0,
            rng: fastrand::Rng::with_seed(seed),
            work_since: None,
        };
        speaker.set_config(now, config)?;
        Ok(speaker)
    }

    /// Replaces the whole configuration. Sessions whose parameters are the same continue; filters, names and networks
    /// change live; other changes end the session with a Cease and start a new one.
    ///
    /// # Errors
    /// The configuration is invalid: the old one stays in force.
    pub fn set_config(&mut self, now: Instant, config: Config) -> Result<(), ConfigError> {
        config.validate()?;
        self.finish_change(now);
        self.begin_change(now, self.change_to(&config));
        self.finish_change(now);
        self.settle(now);
        Ok(())
    }

    /// Ends all sessions with Cease, Administrative Shutdown (RFC 4486 §4), and starts none again. `message` is sent with it
    /// for the operators of the peers, in at most 255 octets (RFC 9003 §2); it may be empty.
    pub fn shutdown(&mut self, now: Instant, message: &str) {
        self.apply_shutdown(now, message);
        self.settle(now);
    }

    /// Accepts an incoming connection. Returns `None` where it is to be closed: its address belongs to no neighbor, or the
    /// neighbor's session accepts none now.
    pub fn accept(&mut self, now: Instant, local: SocketAddr, remote: SocketAddr) -> Option<ConnId> {
        let (local, remote) = (local.ip().to_canonical(), remote.ip().to_canonical());
        let (id, range) = match self.by_address.get(&remote) {
            Some(id) => (*id, None),
            None => self.add_from_range(now, remote)?,
        };
        let conn = self.with_session(now, id, |session, ctx| session.accept(ctx, local))??;
        self.by_connection.insert(conn, id);
        if let (Some(range), Some(peer)) = (range, self.peers.get_mut(&id)) {
            peer.range = Some(range);
        }
        Some(conn)
    }

    /// Returns the options for the socket of an accepted connection.
    pub fn socket_options(&self, conn: ConnId) -> Option<SocketOptions> {
        let peer = self.peers.get(self.by_connection.get(&conn)?)?;
        Some(SocketOptions::of(&peer.session.settings().neighbor))
    }

    /// Reports that a requested connection is open.
    pub fn connected(&mut self, now: Instant, conn: ConnId, local: SocketAddr) {
        self.on_connection(now, conn, |session, ctx| session.connected(ctx, conn, local.ip().to_canonical()));
    }

    /// Reports that a requested connection could not be opened.
    pub fn connect_failed(&mut self, now: Instant, conn: ConnId, reason: String) {
        self.on_connection(now, conn, |session, ctx| session.connect_failed(ctx, conn, &reason));
        self.by_connection.remove(&conn);
    }

    /// Processes bytes received on a connection.
    pub fn received(&mut self, now: Instant, conn: ConnId, bytes: &[u8]) {
        self.on_connection(now, conn, |session, ctx| session.received(ctx, conn, bytes));
    }

    /// Reports that a connection was lost or closed by the peer.
    pub fn closed(&mut self, now: Instant, conn: ConnId, reason: String) {
        self.on_connection(now, conn, |session, ctx| session.closed(ctx, conn, &reason));
        self.by_connection.remove(&conn);
    }

    /// Lets the timers that are due expire. The driver first passes on what its sockets have received: a hold timer must
    /// not expire while a KEEPALIVE is waiting there.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.rib.work();
        for _ in 0..EXPIRING {
            let due = self.deadlines.first().copied().filter(|(deadline, _)| *deadline <= now);
            let Some((_, id)) = due else { break };
            self.with_session(now, id, |session, ctx| session.handle_timeout(ctx));
        }
        self.settle(now);
    }

    /// Returns the time at which [`Speaker::handle_timeout`] is to be called. A time in the past means at once, or as soon as
    /// the sockets were looked at: changes that concern many routes are made in pieces, one with each call, so that none
    /// takes long.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.work_since.into_iter().chain(self.timers()).min()
    }

    /// Returns the time of the next timer.
    fn timers(&self) -> Option<Instant> {
        let sessions = self.deadlines.first().map(|(deadline, _)| *deadline);
        sessions.into_iter().chain(self.sync.deadline()).min()
    }

    /// Returns a connection on which messages are pending, for [`Speaker::transmit`]; to be called until it returns `None`,
    /// like [`Speaker::poll_action`]. The driver remembers a connection whose socket is full: it is returned again only
    /// when more messages become pending.
    pub fn poll_transmit(&mut self) -> Option<ConnId> {
        if std::mem::take(&mut self.all_ready) {
            self.round.clear();
            self.round.extend(self.peers.values().filter_map(|peer| peer.session.established()));
            // After the last one, so that the first ones do not hold up others when this is interrupted.
            let last = self.last_ready;
            self.round.sort_unstable_by_key(|conn| std::cmp::Reverse((Some(*conn) <= last, *conn)));
        }
        while let Some(conn) = self.ready.pop_first().or_else(|| self.round.pop()) {
            if self.wants_transmit(conn) {
                self.last_ready = Some(conn);
                return Some(conn);
            }
        }
        None
    }

    fn wants_transmit(&self, conn: ConnId) -> bool {
        let Some(id) = self.by_connection.get(&conn) else { return false };
        let Some(peer) = self.peers.get(id) else { return false };
        peer.session.wants_transmit(conn)
            || (peer.session.established() == Some(conn)
                && (self.rib.pending(*id) || peer.refresh.due(self.sync.restarting())))
    }

    /// Appends the messages that are pending on a connection to `out`, and returns their length in octets. Appends whole
    /// messages until at least `limit` octets are there; with fewer, nothing is pending any more. Messages are made only
    /// here, so a peer that reads slowly costs no memory.
    pub fn transmit(&mut self, now: Instant, conn: ConnId, limit: usize, out: &mut BytesMut) -> usize {
        let before = out.len();
        let Some(id) = self.by_connection.get(&conn).copied() else { return 0 };
        let Some(mut peer) = self.peers.get(&id) else { return 0 };
        if peer.session.wants_transmit(conn) {
            self.with_session(now, id, |session, ctx| session.transmit(ctx, conn, out));
            let Some(after) = self.peers.get(&id) else { return out.len() - before };
            peer = after;
        }
        if peer.session.established() == Some(conn) {
            let refresh = peer.refresh.due(self.sync.restarting());
            while out.len() - before < limit {
                self.rib.pack(id, limit - (out.len() - before), out);
                // BoRR is followed by routes, and the last of them by EoRR (RFC 7313 §4): all in one go, as nothing else
                // may happen on the session for long.
                let room = out.len() - before < limit;
                if !(refresh && room && self.refresh(id, out)) {
                    break;
                }
            }
        }
        out.len() - before
    }

    /// Returns the next action; to be called until it returns `None`, after every call that takes the time.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Returns the next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Returns whether End-of-RIB of every neighbor was received, or waited for long enough. From then on, routes of an
    /// earlier run that are not among [`Speaker::best_routes`] may be deleted.
    pub fn synced(&self) -> bool {
        self.sync.done()
    }

    /// Returns the numbers of best routes learned from peers.
    pub fn best_counts(&self) -> BestCounts {
        self.rib.best_counts()
    }

    /// Returns the best learned routes, sorted by prefix.
    pub fn best_routes(&self) -> Vec<BestRoute> {
        self.rib.best_routes()
    }

    /// Adds a subscriber to the best routes, for [`Speaker::best_changes`]. It costs two bits for each prefix, and nothing
    /// for each change.
    pub fn subscribe(&mut self) -> SubscriberId {
        self.rib.subscribe()
    }

    /// Returns at most `limit` best routes that have changed since the subscriber's last call, each as it is now. A new
    /// subscriber begins with all of them: one that applies what is returned has [`Speaker::best_routes`] whenever there is
    /// nothing more. Withdrawals are returned for prefixes only whose route it was given. [`Event::RoutesChanged`] is the
    /// hint to call again.
    pub fn best_changes(&mut self, subscriber: SubscriberId, limit: usize) -> BestChanges {
        let (changes, more) = self.rib.best_changes(subscriber, limit.max(1));
        BestChanges { changes, more, synced: self.synced() }
    }

    /// Removes a subscriber.
    pub fn unsubscribe(&mut self, subscriber: SubscriberId) {
        self.rib.unsubscribe(subscriber);
    }

    /// Returns all paths, sorted by prefix, each with its reason.
    pub fn paths(&self) -> Vec<PathReport> {
        self.rib.paths()
    }

    /// Returns all sessions, sorted by address.
    pub fn sessions(&self, now: Instant) -> Vec<SessionReport> {
        self.by_address.values().filter_map(|id| self.report(*id, now)).collect()
    }

    /// Returns the paths to one prefix, each with its reason, the best path first.
    pub fn paths_to(&self, prefix: &Prefix) -> impl Iterator<Item = PathReport> + '_ {
        self.rib.paths_to_prefix(prefix)
    }

    fn report(&self, id: PeerId, now: Instant) -> Option<SessionReport> {
        let session = &self.peers.get(&id)?.session;
        let neighbor = &session.settings().neighbor;
        let (state, since) = session.state();
        let counts = self.rib.counts(id);
        Some(SessionReport {
            address: neighbor.address,
            name: neighbor.name.clone(),
            asn: neighbor.asn,
            router_id: session.negotiated().map(|negotiated| negotiated.router_id),
            state,
            since: now.saturating_duration_since(since),
            received: counts.received,
            accepted: counts.accepted,
            advertised: counts.advertised,
            stale: counts.stale,
            end_of_rib: session.end_of_rib_received(),
            hold_time: session.negotiated().map(|negotiated| negotiated.hold),
            path_ids: session.negotiated().map_or(PathIds::NONE, |negotiated| negotiated.codec.path_ids),
            established_count: session.established_count(),
            last_error: session
                .last_error()
                .map(|(error, at)| (error.clone(), now.saturating_duration_since(*at))),
            errors: session.history().errors(now),
            history: session.history().transitions(now),
            reason: self.reason(id, session, state),
            #[cfg(feature = "bfd")]
            bfd: self.bfd_report(id),
        })
    }

    /// Returns the reason for the session's state; if it is established, the reason why routes are withheld.
    fn reason(&self, id: PeerId, session: &Session, state: SessionState) -> SessionReason {
        let withheld = self.rib.withheld(id);
        let count = withheld.len();
        match withheld.into_iter().next() {
            Some(first) if state == SessionState::Established => {
                SessionReason::Withheld { count, prefix: first.prefix, reason: first.reason }
            }
            _ => session.reason().clone(),
        }
    }

    fn on_connection(
        &mut self,
        now: Instant,
        conn: ConnId,
        call: impl FnOnce(&mut Session, &mut Context<'_>),
    ) {
        let Some(id) = self.by_connection.get(&conn).copied() else { return };
        self.with_session(now, id, call);
        self.settle(now);
    }

    /// Calls a session and carries out its outputs.
    fn with_session<T>(
        &mut self,
        now: Instant,
        id: PeerId,
        call: impl FnOnce(&mut Session, &mut Context<'_>) -> T,
    ) -> Option<T> {
        let peer = self.peers.get_mut(&id)?;
        let mut outputs = Vec::new();
        let mut ctx = Context {
            now,
            restarting: self.sync.restarting(),
            forwarding: self.sync.forwarding(),
            next_conn: &mut self.next_conn,
            rng: &mut self.rng,
            outputs: &mut outputs,
        };
        let answer = call(&mut peer.session, &mut ctx);
        for output in outputs {
            self.apply_output(now, id, output);
        }
        if let Some(peer) = self.peers.get(&id) {
            self.ready.extend(peer.session.connections());
        }
        self.arm(id);
        self.clean_up(id);
        Some(answer)
    }

    fn apply_output(&mut self, now: Instant, id: PeerId, output: Output) {
        match output {
            Output::Connect(conn) => self.connect(id, conn),
            Output::Close(conn) => {
                self.by_connection.remove(&conn);
                self.actions.push_back(Action::Close { conn });
            }
            Output::Up { negotiated, local } => self.up(id, negotiated, local),
            Output::Down { keep, reason } => {
                self.rib.peer_down(id, &keep);
                if let Some(peer) = self.peers.get_mut(&id) {
                    peer.refresh = RefreshState::default();
                    peer.warned = false;
                }
                if let Some((address, name)) = self.label(id) {
                    self.events.push_back(Event::SessionDown { address, name, reason });
                }
            }
            Output::DropStale(family) => self.rib.drop_stale(id, family),
            Output::LongLived(family) => self.rib.long_lived(id, family),
            Output::Update(update) => {
                self.rib.update(id, update);
                self.check_limit(now, id);
            }
            Output::Refresh { family, enhanced: false } => self.rib.refresh(id, family),
            Output::Refresh { family, enhanced: true } => {
                if let Some(peer) = self.peers.get_mut(&id) {
                    peer.refresh.request(family);
                }
            }
            Output::MarkStale(family) => self.rib.mark_stale(id, family),
        }
    }

    fn connect(&mut self, id: PeerId, conn: ConnId) {
        let Some(peer) = self.peers.get(&id) else { return };
        let neighbor = &peer.session.settings().neighbor;
        let remote = SocketAddr::new(neighbor.address, neighbor.port);
        self.by_connection.insert(conn, id);
        let (local, socket) = (neighbor.local_address, SocketOptions::of(neighbor));
        self.actions.push_back(Action::Connect { conn, remote, local, socket });
    }

    fn up(&mut self, id: PeerId, negotiated: Negotiated, local: IpAddr) {
        let Some(peer) = self.peers.get(&id) else { return };
        let neighbor = &peer.session.settings().neighbor;
        let kind = self.kind(neighbor);
        let families = negotiated.families.clone();
        let up = rib::Peer {
            address: neighbor.address,
            router_id: negotiated.router_id,
            asn: neighbor.asn,
            kind,
            local_address: local,
            local_asn: neighbor.local_asn.unwrap_or(self.config.asn),
            role: neighbor.role,
            codec: negotiated.codec,
            families: negotiated.families,
            paths: neighbor.add_path.send,
            long_lived: negotiated.supports_long_lived,
            next_hop_mode: neighbor.next_hop_mode,
            import: neighbor.import.clone(),
            export: neighbor.export.clone(),
        };
        self.rib.peer_up(id, up);
        self.start_bfd(id, local);
        // After a restart our End-of-RIB is deferred until our tables are complete: on receipt, peers remove the stale
        // paths that they keep of us.
        if !self.sync.restarting() {
            for family in families {
                self.rib.end_of_rib(id, family);
            }
        }
        if let Some((address, name)) = self.label(id) {
            self.events.push_back(Event::SessionUp { address, name });
        }
    }

    fn label(&self, id: PeerId) -> Option<(IpAddr, String)> {
        let neighbor = &self.peers.get(&id)?.session.settings().neighbor;
        Some((neighbor.address, neighbor.name.clone()))
    }

    /// Updates the session's entry in `deadlines`.
    fn arm(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let deadline = peer.session.next_deadline();
        if deadline != peer.deadline {
            if let Some(old) = peer.deadline {
                self.deadlines.remove(&(old, id));
            }
            if let Some(new) = deadline {
                self.deadlines.insert((new, id));
            }
            peer.deadline = deadline;
        }
    }

    /// Completes a call: ends the synchronization, and issues events about routes.
    fn settle(&mut self, now: Instant) {
        self.work_since = self.rib.has_work().then(|| self.work_since.unwrap_or(now));
        // While a change is applied, neighbors may be missing.
        let complete = self.changing.is_none() && self.all_end_of_rib();
        if !self.sync.done() && (self.sync.due(now) || complete) {
            self.end_sync();
        }
        // Paths that are not the best concern peers that receive several paths.
        self.all_ready |= self.rib.take_others_changed();
        if self.rib.take_changed() {
            self.all_ready = true;
            // An event that is still queued is not repeated.
            if self.events.back() != Some(&Event::RoutesChanged) {
                self.events.push_back(Event::RoutesChanged);
            }
        }
    }
}
