//! The speaker: sessions and tables behind one face.

#[cfg(feature = "bfd")]
mod bfd;
#[cfg(not(feature = "bfd"))]
#[path = "no_bfd.rs"]
mod bfd;
mod change;
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

use self::refresh::Refreshing;
use self::sync::Sync;
use crate::config::{Authentication, Config, ConfigError, Neighbor, Ttl};
use crate::hash::Map;
use crate::report::{BestRoute, PathReport, SessionReport, SessionState};
use crate::rib::{self, PeerId, Rib};
pub use crate::session::ConnId;
use crate::session::{Context, History, Negotiated, Output, Session};
use crate::wire::{PathIds, Prefix};

/// An action for the driver. A driver may ignore actions that it does not handle: a new one is returned only with
/// configuration that enables it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// Open a connection; answer with [`Speaker::connected`] or [`Speaker::connect_failed`].
    #[non_exhaustive]
    Connect {
        /// Its name from now on.
        conn: ConnId,
        /// Where to.
        remote: SocketAddr,
        /// The address to connect from; `None`: the kernel's choice.
        local: Option<IpAddr>,
        /// How the socket is to be set up before it connects.
        socket: SocketOptions,
    },
    /// Have the listening sockets authenticate what comes from these addresses, or no longer.
    #[non_exhaustive]
    Protect {
        /// The addresses.
        from: Prefix,
        /// How; `None`: not at all.
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
        /// Which.
        conn: ConnId,
    },
}

/// How the socket of a connection is to be set up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SocketOptions {
    /// How far away the other side may be.
    pub ttl: Ttl,
    /// How segments are authenticated. Connections that come in have that from the listening socket.
    pub authentication: Option<Authentication>,
}

impl SocketOptions {
    fn of(neighbor: &Neighbor) -> Self {
        Self { ttl: neighbor.ttl, authentication: neighbor.authentication.clone() }
    }
}

/// News.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A session is established.
    #[non_exhaustive]
    SessionUp {
        /// The neighbour's address.
        address: IpAddr,
        /// Its configured name.
        name: String,
    },
    /// It no longer is.
    #[non_exhaustive]
    SessionDown {
        /// The neighbour's address.
        address: IpAddr,
        /// Its configured name.
        name: String,
        /// Why, in words.
        reason: String,
    },
    /// Best routes changed, or became complete.
    RoutesChanged,
    /// Something that somebody should look at before it becomes worse.
    #[non_exhaustive]
    Warning {
        /// The neighbour's address.
        address: IpAddr,
        /// Its configured name.
        name: String,
        /// What, in words.
        text: String,
    },
}

/// A BGP speaker: whole protocol, no I/O. The contract of the calls is in the [crate's documentation](crate).
#[derive(Debug)]
pub struct Speaker {
    config: Config,
    rib: Rib,
    peers: Map<PeerId, Box<Peer>>,
    by_address: BTreeMap<IpAddr, PeerId>,
    by_connection: Map<ConnId, PeerId>,
    deadlines: BTreeSet<(Instant, PeerId)>,
    /// Of sessions that ended while the configuration changes, for those that take their place.
    histories: BTreeMap<IpAddr, History>,
    sync: Sync,
    /// Connections that may have something to send.
    ready: BTreeSet<ConnId>,
    /// Best routes changed: every established connection may have something to send.
    all_ready: bool,
    /// Those established when that was seen, the next one last.
    round: Vec<ConnId>,
    actions: VecDeque<Action>,
    events: VecDeque<Event>,
    next_peer: u32,
    next_conn: u64,
    rng: fastrand::Rng,
}

#[derive(Debug)]
struct Peer {
    session: Session,
    /// What `deadlines` holds for it.
    deadline: Option<Instant>,
    refresh: Refreshing,
    /// It came from that range, and goes when it has nothing left here.
    range: Option<Prefix>,
    #[cfg(feature = "bfd")]
    bfd: bfd::BfdClient,
    /// It was told about that the peer comes close to its prefix limit.
    warned: bool,
}

impl Speaker {
    /// Starts a speaker. `restarting`: the node forwards by routes of an earlier run, and peers shall keep what they
    /// know of us. The same `seed` and the same calls give the same speaker.
    ///
    /// # Errors
    /// The configuration is invalid.
    pub fn new(config: Config, restarting: bool, now: Instant, seed: u64) -> Result<Self, ConfigError> {
        config.validate()?;
        let deferral = config.graceful_restart.unwrap_or_default().selection_deferral;
        let mut speaker = Self {
            rib: Rib::new(change::identity(&config)),
            config: Config {
                networks: Vec::new(),
                neighbors: Vec::new(),
                ranges: Vec::new(),
                ..config.clone()
            },
            peers: Map::default(),
            by_address: BTreeMap::new(),
            by_connection: Map::default(),
            deadlines: BTreeSet::new(),
            histories: BTreeMap::new(),
            sync: Sync::new(restarting, now + deferral),
            ready: BTreeSet::new(),
            all_ready: false,
            round: Vec::new(),
            actions: VecDeque::new(),
            events: VecDeque::new(),
            next_peer: 0,
            next_conn: 0,
            rng: fastrand::Rng::with_seed(seed),
        };
        speaker.set_config(now, config)?;
        Ok(speaker)
    }

    /// Replaces the whole configuration. Sessions whose parameters stay as they are go on undisturbed; filters, names
    /// and networks change live; other changes end the session with a Cease and begin a new one.
    ///
    /// # Errors
    /// The configuration is invalid: the old one stays in force.
    pub fn set_config(&mut self, now: Instant, config: Config) -> Result<(), ConfigError> {
        config.validate()?;
        self.apply(now, config);
        self.settle(now);
        Ok(())
    }

    /// Ends all sessions with Cease, Administrative Shutdown (RFC 4486 §4), and starts none again. `message` tells those
    /// who run the peers why, in at most 255 octets (RFC 9003 §2); it may be empty.
    pub fn shutdown(&mut self, now: Instant, message: &str) {
        self.apply_shutdown(now, message);
        self.settle(now);
    }

    /// A connection came in. `None`: it is from a stranger, or not wanted now, and is to be closed.
    pub fn accept(&mut self, now: Instant, local: SocketAddr, remote: SocketAddr) -> Option<ConnId> {
        let (local, remote) = (local.ip().to_canonical(), remote.ip().to_canonical());
        let (id, range) = match self.by_address.get(&remote) {
            Some(id) => (*id, None),
            None => self.admit(now, remote)?,
        };
        let conn = self.with_session(now, id, |session, ctx| session.accept(ctx, local))??;
        self.by_connection.insert(conn, id);
        if let (Some(range), Some(peer)) = (range, self.peers.get_mut(&id)) {
            peer.range = Some(range);
        }
        Some(conn)
    }

    /// How the socket of a connection that was accepted is to be set up.
    pub fn socket_options(&self, conn: ConnId) -> Option<SocketOptions> {
        let peer = self.peers.get(self.by_connection.get(&conn)?)?;
        Some(SocketOptions::of(&peer.session.settings().neighbor))
    }

    /// A connection asked for stands.
    pub fn connected(&mut self, now: Instant, conn: ConnId, local: SocketAddr) {
        self.on_connection(now, conn, |session, ctx| session.connected(ctx, conn, local.ip().to_canonical()));
    }

    /// A connection asked for can't be had.
    pub fn connect_failed(&mut self, now: Instant, conn: ConnId, reason: String) {
        self.on_connection(now, conn, |session, ctx| session.connect_failed(ctx, conn, &reason));
        self.by_connection.remove(&conn);
    }

    /// Bytes came in on a connection.
    pub fn received(&mut self, now: Instant, conn: ConnId, bytes: &[u8]) {
        self.on_connection(now, conn, |session, ctx| session.received(ctx, conn, bytes));
    }

    /// A connection broke, or the peer closed it.
    pub fn closed(&mut self, now: Instant, conn: ConnId, reason: String) {
        self.on_connection(now, conn, |session, ctx| session.closed(ctx, conn, &reason));
        self.by_connection.remove(&conn);
    }

    /// Lets the timers that are due expire. Whoever owns the sockets reads what waits in them first: a peer is silent
    /// only if nothing of it lies unread.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((deadline, id)) = self.deadlines.first().copied() {
            if deadline > now {
                break;
            }
            self.with_session(now, id, |session, ctx| session.handle_timeout(ctx));
        }
        self.settle(now);
    }

    /// When [`Speaker::handle_timeout`] is to be called next.
    pub fn next_deadline(&self) -> Option<Instant> {
        let sessions = self.deadlines.first().map(|(deadline, _)| *deadline);
        sessions.into_iter().chain(self.sync.deadline()).min()
    }

    /// A connection for which [`Speaker::transmit`] has something; to be asked until `None`, like
    /// [`Speaker::poll_action`]. One whose socket takes nothing now is to be remembered by the caller: it is named
    /// again only when there is more news for it.
    pub fn poll_transmit(&mut self) -> Option<ConnId> {
        if std::mem::take(&mut self.all_ready) {
            self.round.clear();
            self.round.extend(self.peers.values().filter_map(|peer| peer.session.established()));
            self.round.sort_unstable_by_key(|conn| std::cmp::Reverse(*conn));
        }
        while let Some(conn) = self.ready.pop_first().or_else(|| self.round.pop()) {
            if self.wants_transmit(conn) {
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

    /// Appends bytes for a connection whose socket can take some: whole messages, until about `limit` octets. What is
    /// not asked for is not made, so a peer that reads slowly costs no memory here.
    pub fn transmit(&mut self, now: Instant, conn: ConnId, limit: usize, out: &mut BytesMut) -> usize {
        let before = out.len();
        let Some(id) = self.by_connection.get(&conn).copied() else { return 0 };
        let Some(mut peer) = self.peers.get(&id) else { return 0 };
        if peer.session.wants_transmit(conn) {
            self.with_session(now, id, |session, ctx| session.transmit(ctx, conn, out));
            let Some(after) = self.peers.get(&id) else { return out.len() - before };
            peer = after;
        }
        let taken = out.len() - before;
        if peer.session.established() == Some(conn) && taken < limit {
            let refresh = peer.refresh.due(self.sync.restarting());
            self.rib.pack(id, limit - taken, out);
            if refresh {
                self.refresh(id, out);
            }
        }
        out.len() - before
    }

    /// The next thing to do; to be asked until `None` after every call that takes the time.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// The next piece of news.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Whether every neighbour's first feed is in, or was waited for long enough. Routes from an earlier run that are
    /// not among [`Speaker::best_routes`] may be deleted from then on.
    pub fn synced(&self) -> bool {
        self.sync.done()
    }

    /// The best routes learned, sorted by prefix.
    pub fn best_routes(&self) -> Vec<BestRoute> {
        self.rib.best_routes()
    }

    /// All paths, sorted by prefix, each with its reason.
    pub fn paths(&self) -> Vec<PathReport> {
        self.rib.paths()
    }

    /// All sessions, sorted by address.
    pub fn sessions(&self, now: Instant) -> Vec<SessionReport> {
        self.by_address.values().filter_map(|id| self.report(*id, now)).collect()
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
            end_of_rib: session.feed_ended(),
            hold_time: session.negotiated().map(|negotiated| negotiated.hold),
            path_ids: session.negotiated().map_or(PathIds::NONE, |negotiated| negotiated.codec.path_ids),
            established_count: session.established_count(),
            last_error: session
                .last_error()
                .map(|(words, at)| (words.clone(), now.saturating_duration_since(*at))),
            errors: session.history().errors(now),
            history: session.history().transitions(now),
            reason: self.reason(id, session, state),
            #[cfg(feature = "bfd")]
            bfd: self.bfd_report(id),
        })
    }

    /// The session's own reason; of an established one, what keeps routes from being told.
    fn reason(&self, id: PeerId, session: &Session, state: SessionState) -> String {
        let withheld = self.rib.withheld(id);
        match withheld.first() {
            Some(first) if state == SessionState::Established => {
                format!("{} routes withheld, such as {}: {}", withheld.len(), first.prefix, first.reason)
            }
            _ => session.reason().to_owned(),
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

    /// Calls into a session and carries out what comes of it.
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
            self.carry_out(now, id, output);
        }
        if let Some(peer) = self.peers.get(&id) {
            self.ready.extend(peer.session.connections());
        }
        self.arm(id);
        self.let_go(id);
        Some(answer)
    }

    fn carry_out(&mut self, now: Instant, id: PeerId, output: Output) {
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
                    peer.refresh = Refreshing::default();
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
                    peer.refresh.want(family);
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
            long_lived: negotiated.knows_long_lived,
            import: neighbor.import.clone(),
            export: neighbor.export.clone(),
        };
        self.rib.peer_up(id, up);
        self.start_bfd(id, local);
        // While we gather routes after a restart our End-of-RIB waits: it would make peers drop what they keep of us.
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

    /// Keeps `deadlines` in step with the session, and lets go of one that is gone.
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

    /// What follows from any call: the end of the first feeds, news of routes.
    fn settle(&mut self, now: Instant) {
        if !self.sync.done() && (self.sync.due(now) || self.feeds_ended()) {
            self.end_of_sync();
        }
        self.all_ready |= self.rib.take_others_changed();
        if self.rib.take_changed() {
            self.all_ready = true;
            // News that nobody has asked for yet is not told twice.
            if self.events.back() != Some(&Event::RoutesChanged) {
                self.events.push_back(Event::RoutesChanged);
            }
        }
    }
}
