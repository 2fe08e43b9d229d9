//! Bidirectional Forwarding Detection: whether a neighbour can be reached, known within a fraction of a second.
//!
//! Like the speaker, [`Bfd`] does no I/O and reads no clock. Whoever owns the sockets
//!
//! 1. says which sessions there are with [`Bfd::set`], [`Bfd::remove`] or, all at once, [`Bfd::set_all`];
//! 2. hands in each datagram with [`Bfd::received`], having asked the kernel for its TTL and addresses;
//! 3. calls [`Bfd::handle_timeout`] when [`Bfd::next_deadline`] has come, after reading what waits in the sockets;
//! 4. after each of these asks [`Bfd::poll_transmit`] and [`Bfd::poll_event`] until they have nothing more, and sends.
//!
//! The same seed and the same calls give the same packets.
//!
//! | RFC | what is done | what isn't |
//! |---|---|---|
//! | [5880](https://www.rfc-editor.org/rfc/rfc5880) | asynchronous mode in the active role: packets and each check of §6.8.6, state machine, Poll Sequences, timers, jitter, AdminDown; a neighbour's demand mode is honoured | demand mode and echoes are not offered; authenticated packets are refused, with the reason; a packet whose discriminator fits but whose addresses don't is refused, where §6.3 would let addresses change |
//! | [5881](https://www.rfc-editor.org/rfc/rfc5881) | single hop over IPv4 and IPv6: ports, a source port a session, TTL 255 both ways, an interface to come in on | echo packets (port 3785) |
//! | [5882](https://www.rfc-editor.org/rfc/rfc5882) | [`Event::Down`] only for a session that was up, and never for AdminDown; whether the neighbour's BFD is independent of its control plane is passed on; `heliograph-bgp` acts on it (§4.3) | holding a client back until a session is up |
//! | [5883](https://www.rfc-editor.org/rfc/rfc5883) | multihop, with the least TTL to be taken | |
//!
//! ```
//! use std::time::{Duration, Instant};
//! use heliograph_bfd::{Bfd, Event, Key, Meta, Settings};
//!
//! // Two ends, and a wire that takes a millisecond.
//! let (a, b) = ("10.0.0.1".parse()?, "10.0.0.2".parse()?);
//! let mut now = Instant::now();
//! let mut ends = [Bfd::new(1), Bfd::new(2)];
//! ends[0].set(now, Key { local: a, remote: b }, Settings::default())?;
//! ends[1].set(now, Key { local: b, remote: a }, Settings::default())?;
//! for _ in 0..10 {
//!     now += Duration::from_millis(1);
//!     for (from, to) in [(0, 1), (1, 0)] {
//!         ends[from].handle_timeout(now);
//!         while let Some(sent) = ends[from].poll_transmit() {
//!             let remote = sent.local.ip();
//!             let meta = Meta { local: sent.remote, remote, ttl: Some(sent.ttl), interface: None };
//!             ends[to].received(now, &meta, &sent.bytes)?;
//!         }
//!     }
//! }
//! assert!(matches!(ends[0].poll_event(), Some(Event::Up { .. })));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#[cfg(feature = "tokio")]
pub mod io;
mod packet;
mod session;
mod settings;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

pub use self::packet::{ControlPacket, Diagnostic, LENGTH, Malformed, State};
use self::session::{Context, Session};
pub use self::settings::{Key, PORT_MULTIHOP, PORT_SINGLE_HOP, Path, Settings, SettingsError, TTL};

/// Where source ports are from (RFC 5881 §4).
const SOURCE_PORTS: RangeInclusive<u16> = 49152..=65535;

/// What the kernel tells of a datagram beside its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// The address and port it was sent to.
    pub local: SocketAddr,
    /// The address it came from.
    pub remote: IpAddr,
    /// TTL or hop limit it arrived with; `None`, where the kernel did not say, counts as 0.
    pub ttl: Option<u8>,
    /// Index of the interface it came in on, where known.
    pub interface: Option<u32>,
}

/// A datagram to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// The session it is of.
    pub key: Key,
    /// Address and port to send from: the same for each of a session's datagrams, and of no other session.
    pub local: SocketAddr,
    /// Where to.
    pub remote: SocketAddr,
    /// TTL or hop limit to send with.
    pub ttl: u8,
    /// What to send.
    pub bytes: [u8; LENGTH],
}

/// News for clients (RFC 5882).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Both directions work.
    Up {
        /// Which session.
        key: Key,
    },
    /// They did, and no longer do: the neighbour is out of reach.
    Down {
        /// Which session.
        key: Key,
        /// Why, in words.
        why: String,
        /// The neighbour's BFD does not depend on its control plane (the C bit): if not, it may just be restarting,
        /// and a helper of its graceful restart need not give it up (RFC 5882 §4.3).
        control_plane_independent: bool,
        /// When the neighbour last said that it hears us: what was agreed with it only later is not what failed.
        heard: Instant,
    },
    /// One side was taken down by its operator: no failure, and nothing is known of the path any more (RFC 5882 §3.2).
    AdminDown {
        /// Which session.
        key: Key,
        /// By whom, in words.
        why: String,
    },
}

impl Event {
    /// The session it is of.
    pub fn key(&self) -> Key {
        match self {
            Self::Up { key } | Self::Down { key, .. } | Self::AdminDown { key, .. } => *key,
        }
    }
}

/// Why a datagram was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Discard {
    /// It is no Control packet, or none that we understand.
    #[error("malformed BFD packet: {0}")]
    Malformed(#[from] Malformed),
    /// It may come from further away than it should.
    #[error(
        "TTL {ttl} where at least {least} is due: the sender is not where the session expects it, or does not send with 255"
    )]
    Ttl {
        /// What it came with.
        ttl: u8,
        /// What the session asks for.
        least: u8,
    },
    /// It came to the port of the other kind of session.
    #[error(
        "sent to port {port}, where the session uses {expected}: one side has it as multihop, the other doesn't"
    )]
    Port {
        /// The port it came to.
        port: u16,
        /// The one of the session.
        expected: u16,
    },
    /// It came in on another interface.
    #[error("came in on interface {came}, where the session is bound to {expected}")]
    Interface {
        /// Index of the interface it came in on.
        came: u32,
        /// Index of the session's.
        expected: u32,
    },
    /// No session between these addresses.
    #[error("no BFD session from {local} to {remote} is configured here")]
    NoSession {
        /// The address it was sent to.
        local: IpAddr,
        /// The sender.
        remote: IpAddr,
    },
    /// The sender means a session that isn't, or isn't its own.
    #[error(
        "Your Discriminator {0:#010x} names no session with this sender: one of us has restarted, or it is forged"
    )]
    Discriminator(u32),
    /// The session is held down by us (RFC 5880 §6.8.6).
    #[error("the session is held down here")]
    AdminDown,
}

/// One session as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionReport {
    /// Our address.
    pub local: IpAddr,
    /// The neighbour's.
    pub remote: IpAddr,
    /// How far away it is.
    pub path: Path,
    /// Our state.
    pub state: State,
    /// How long it has been so.
    pub since: Duration,
    /// Why it is so, in words.
    pub reason: String,
    /// What we tell the neighbour of why.
    pub diagnostic: Diagnostic,
    /// The neighbour's state; `None` while it isn't heard.
    pub remote_state: Option<State>,
    /// What it tells of why.
    pub remote_diagnostic: Option<Diagnostic>,
    /// Our name for the session.
    pub discriminator: u32,
    /// The neighbour's name for it.
    pub remote_discriminator: Option<u32>,
    /// The port we send from.
    pub source_port: u16,
    /// How often we send, before jitter; `None`: the neighbour wants no packets now.
    pub transmit_interval: Option<Duration>,
    /// How often the neighbour sends at least, as agreed on; `None` while it isn't heard.
    pub receive_interval: Option<Duration>,
    /// How long the neighbour may be silent.
    pub detection_time: Option<Duration>,
    /// A Poll Sequence waits for its answer.
    pub polling: bool,
    /// Packets sent.
    pub sent: u64,
    /// Packets that were of this session.
    pub received: u64,
    /// Packets from the neighbour's address to ours that could not be taken.
    pub discarded: u64,
    /// Why, of the last of them.
    pub last_discard: Option<String>,
    /// Why packets can't leave, where they can't.
    pub send_error: Option<String>,
    /// How often it came up.
    pub up_count: u64,
    /// How often it failed after that.
    pub failure_count: u64,
}

/// All sessions of a node. How it is called stands in the [crate's documentation](crate).
#[derive(Debug)]
pub struct Bfd {
    sessions: BTreeMap<Key, Session>,
    by_discriminator: BTreeMap<u32, Key>,
    source_ports: BTreeSet<u16>,
    deadlines: BTreeSet<(Instant, Key)>,
    /// Sessions that may have something to send.
    ready: BTreeSet<Key>,
    /// AdminDown of sessions that were begun anew.
    last_words: VecDeque<Datagram>,
    events: VecDeque<Event>,
    strangers: u64,
    rng: fastrand::Rng,
}

impl Bfd {
    /// No sessions yet. `seed` decides discriminators, source ports and jitter; it is to differ at each start, so that
    /// nobody can guess them.
    pub fn new(seed: u64) -> Self {
        Self {
            sessions: BTreeMap::new(),
            by_discriminator: BTreeMap::new(),
            source_ports: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            ready: BTreeSet::new(),
            last_words: VecDeque::new(),
            events: VecDeque::new(),
            strangers: 0,
            rng: fastrand::Rng::with_seed(seed),
        }
    }

    /// Makes exactly these sessions: adds, changes live and removes what differs.
    ///
    /// # Errors
    /// One of them can't be; all stay as they were.
    pub fn set_all(&mut self, now: Instant, wanted: &BTreeMap<Key, Settings>) -> Result<(), SettingsError> {
        let wanted: BTreeMap<Key, Settings> = wanted.iter().map(|(key, s)| (key.canonical(), *s)).collect();
        wanted.iter().try_for_each(|(key, settings)| settings.validate(*key))?;
        if wanted.len() > SOURCE_PORTS.len() {
            return Err(SettingsError::TooMany(wanted.len()));
        }
        let unwanted: Vec<Key> = self.keys().filter(|key| !wanted.contains_key(key)).collect();
        for key in unwanted {
            self.remove(now, key);
        }
        wanted.iter().try_for_each(|(key, settings)| self.set(now, *key, *settings))
    }

    /// Adds a session, or gives one that is there other parameters.
    ///
    /// # Errors
    /// The parameters can't be, or there are too many sessions; everything stays as it was.
    pub fn set(&mut self, now: Instant, key: Key, settings: Settings) -> Result<(), SettingsError> {
        let key = key.canonical();
        settings.validate(key)?;
        let old = self.sessions.get(&key).filter(|session| !session.is_leaving()).map(|s| *s.settings());
        match old {
            Some(old) if old == settings => {}
            Some(old) if (old.path, old.interface) == (settings.path, settings.interface) => {
                self.with_session(now, key, |session, ctx| session.set(ctx, settings));
            }
            _ => self.begin(now, key, settings)?,
        }
        Ok(())
    }

    /// A new session, in place of one whose path or interface was another.
    fn begin(&mut self, now: Instant, key: Key, settings: Settings) -> Result<(), SettingsError> {
        self.make_room();
        if self.source_ports.len() >= SOURCE_PORTS.len() && !self.sessions.contains_key(&key) {
            return Err(SettingsError::TooMany(self.sessions.len() + 1));
        }
        // Whoever counted on a session that begins anew is told that it doesn't watch meanwhile, the neighbour too.
        self.remove(now, key);
        self.last_words.extend(self.sessions.get_mut(&key).and_then(Session::transmit));
        self.forget(key);
        let port = self.draw_port().ok_or(SettingsError::TooMany(self.sessions.len() + 1))?;
        let discriminator = self.draw_discriminator();
        self.by_discriminator.insert(discriminator, key);
        self.sessions.insert(key, Session::new(now, key, settings, port, discriminator));
        self.with_session(now, key, |session, ctx| session.reckon(ctx));
        Ok(())
    }

    /// Ends a session. The neighbour is told, for a detection time, that this is no failure (RFC 5880 §6.8.16).
    /// Whether it was there.
    pub fn remove(&mut self, now: Instant, key: Key) -> bool {
        let key = key.canonical();
        let there = self.sessions.get(&key).is_some_and(|session| !session.is_leaving());
        if there {
            self.with_session(now, key, |session, ctx| session.leave(ctx));
        }
        there
    }

    /// Gives a session another source port, where the one drawn is taken on this machine. Only before any of its
    /// datagrams was sent: later its port must stay (RFC 5881 §4).
    pub fn redraw_port(&mut self, key: Key) {
        let Some(new) = self.draw_port() else { return };
        let Some(session) = self.sessions.get_mut(&key) else { return };
        self.source_ports.remove(&session.source_port());
        session.set_source_port(new);
    }

    /// Notes why a session's datagrams can't be sent, or that they can again, for its report.
    pub fn set_send_error(&mut self, key: Key, error: Option<String>) {
        if let Some(session) = self.sessions.get_mut(&key) {
            session.set_send_error(error);
        }
    }

    /// A datagram came in.
    ///
    /// # Errors
    /// It was discarded, and why; worth a debug line at most, as anybody can send anything.
    pub fn received(&mut self, now: Instant, meta: &Meta, bytes: &[u8]) -> Result<(), Discard> {
        let key = Key { local: meta.local.ip(), remote: meta.remote }.canonical();
        let result = self.take(now, key, meta, bytes);
        if let Err(discard) = &result {
            match self.sessions.get_mut(&key) {
                Some(session) => session.note_discard(discard),
                None => self.strangers += 1,
            }
        }
        result
    }

    fn take(&mut self, now: Instant, key: Key, meta: &Meta, bytes: &[u8]) -> Result<(), Discard> {
        let ttl = meta.ttl.unwrap_or(0);
        // What may come from anywhere is not even read (RFC 5881 §5).
        if meta.local.port() == PORT_SINGLE_HOP && ttl != TTL {
            return Err(Discard::Ttl { ttl, least: TTL });
        }
        let packet = ControlPacket::decode(bytes)?;
        if let your @ 1.. = packet.your_discriminator
            && self.by_discriminator.get(&your) != Some(&key)
        {
            return Err(Discard::Discriminator(your));
        }
        let session = self.sessions.get(&key);
        let session = session.ok_or(Discard::NoSession { local: key.local, remote: key.remote })?;
        let settings = session.settings();
        let (port, expected) = (meta.local.port(), settings.path.port());
        if port != expected {
            return Err(Discard::Port { port, expected });
        }
        if ttl < settings.path.min_ttl() {
            return Err(Discard::Ttl { ttl, least: settings.path.min_ttl() });
        }
        if let (Some(came), Some(expected)) = (meta.interface, settings.interface)
            && came != expected
        {
            return Err(Discard::Interface { came, expected });
        }
        self.with_session(now, key, |session, ctx| session.received(ctx, &packet)).unwrap_or(Ok(()))
    }

    /// Lets the timers that are due expire. Whoever owns the sockets reads what waits in them first: a neighbour is
    /// silent only if nothing of it lies unread.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((deadline, key)) = self.deadlines.first().copied() {
            if deadline > now {
                break;
            }
            if self.sessions.get(&key).is_some_and(|session| session.is_gone(now)) {
                self.forget(key);
            } else {
                self.with_session(now, key, |session, ctx| session.handle_timeout(ctx));
            }
        }
    }

    /// When [`Bfd::handle_timeout`] is to be called next.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// The next datagram to send; to be asked until `None` after every call that takes the time. Nothing is queued
    /// but the last word of a session that was begun anew: what a caller fetches late tells what holds then.
    pub fn poll_transmit(&mut self) -> Option<Datagram> {
        if let Some(datagram) = self.last_words.pop_front() {
            return Some(datagram);
        }
        while let Some(key) = self.ready.first().copied() {
            let datagram = self.sessions.get_mut(&key).and_then(Session::transmit);
            if datagram.is_some() {
                return datagram;
            }
            self.ready.remove(&key);
        }
        None
    }

    /// The next piece of news.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Whether there is such a session, or one that still says that it was removed.
    pub fn contains(&self, key: Key) -> bool {
        self.sessions.contains_key(&key)
    }

    /// How many sessions there are, those included that still say that they were removed.
    pub fn session_count(&self) -> usize {
        self.sessions.len()
    }

    /// All sessions, sorted by their addresses.
    pub fn report(&self, now: Instant) -> Vec<SessionReport> {
        self.sessions.values().filter(|session| !session.is_leaving()).map(|s| s.report(now)).collect()
    }

    /// How many datagrams came from senders that have no session.
    pub fn strangers(&self) -> u64 {
        self.strangers
    }

    fn keys(&self) -> impl Iterator<Item = Key> {
        self.sessions.iter().filter(|(_, session)| !session.is_leaving()).map(|(key, _)| *key)
    }

    /// Calls into a session, and keeps `deadlines` and `ready` in step with it.
    fn with_session<T>(
        &mut self,
        now: Instant,
        key: Key,
        call: impl FnOnce(&mut Session, &mut Context<'_>) -> T,
    ) -> Option<T> {
        let session = self.sessions.get_mut(&key)?;
        let before = session.next_deadline();
        let mut events = Vec::new();
        let answer = call(session, &mut Context { now, rng: &mut self.rng, events: &mut events });
        let after = session.next_deadline();
        self.events.extend(events);
        self.ready.insert(key);
        if before != after {
            before.map(|deadline| self.deadlines.remove(&(deadline, key)));
            after.map(|deadline| self.deadlines.insert((deadline, key)));
        }
        Some(answer)
    }

    fn forget(&mut self, key: Key) {
        let Some(session) = self.sessions.remove(&key) else { return };
        self.by_discriminator.remove(&session.discriminator());
        self.source_ports.remove(&session.source_port());
        if let Some(deadline) = session.next_deadline() {
            self.deadlines.remove(&(deadline, key));
        }
    }

    /// Lets go of removed sessions before their time where new ones need their ports.
    fn make_room(&mut self) {
        if self.source_ports.len() < SOURCE_PORTS.len() {
            return;
        }
        let leaving: Vec<Key> =
            self.sessions.iter().filter(|(_, session)| session.is_leaving()).map(|(key, _)| *key).collect();
        for key in leaving {
            self.forget(key);
        }
    }

    /// A port of no other session; from a random one on the next that is free.
    fn draw_port(&mut self) -> Option<u16> {
        let first = self.rng.u16(SOURCE_PORTS);
        let port = (first..=*SOURCE_PORTS.end())
            .chain(*SOURCE_PORTS.start()..first)
            .find(|port| !self.source_ports.contains(port))?;
        self.source_ports.insert(port);
        Some(port)
    }

    /// A name of no other session, and not 0 (RFC 5880 §6.8.1).
    fn draw_discriminator(&mut self) -> u32 {
        loop {
            let drawn = self.rng.u32(1..);
            if !self.by_discriminator.contains_key(&drawn) {
                return drawn;
            }
        }
    }
}
