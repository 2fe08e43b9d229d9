//! Bidirectional Forwarding Detection (BFD): detects within a fraction of a second that a neighbor is out of reach.
//!
//! [`Bfd`] is the whole protocol, without I/O, clock or threads. [`io`] drives it with tokio.
//!
//! # Driving [`Bfd`]
//! Whoever owns the sockets
//!
//! 1. sets the sessions with [`Bfd::set`], [`Bfd::remove`] or, all at once, [`Bfd::set_all`];
//! 2. passes each datagram to [`Bfd::received`], with its TTL and addresses as the kernel reports them;
//! 3. calls [`Bfd::handle_timeout`] at [`Bfd::next_deadline`], after passing on everything that waits in the sockets:
//!    otherwise a process that was not scheduled for a while takes its neighbors for down;
//! 4. after each of these calls [`Bfd::poll_transmit`] and [`Bfd::poll_event`] until they return `None`, and sends the
//!    datagrams from the address and port, and with the TTL, that they carry.
//!
//! The time passed to these calls must not run backwards. The same seed and the same calls produce the same packets.
//! Nothing that a neighbor sends makes a call panic.
//!
//! ```
//! use std::time::{Duration, Instant};
//! use heliograph_bfd::{Bfd, Event, Key, Meta, Settings};
//!
//! // Two ends, and a link with a latency of 1 ms.
//! let (a, b) = ("10.0.0.1".parse()?, "10.0.0.2".parse()?);
//! let mut now = Instant::now();
//! let mut ends = [Bfd::new(1), Bfd::new(2)];
//! ends[0].set(now, Key::new(a, b), Settings::single_hop())?;
//! ends[1].set(now, Key::new(b, a), Settings::single_hop())?;
//! for _ in 0..10 {
//!     now += Duration::from_millis(1);
//!     for (from, to) in [(0, 1), (1, 0)] {
//!         ends[from].handle_timeout(now);
//!         while let Some(sent) = ends[from].poll_transmit() {
//!             let meta = Meta::new(sent.remote, sent.local.ip()).ttl(sent.ttl);
//!             ends[to].received(now, &meta, &sent.bytes)?;
//!         }
//!     }
//! }
//! assert!(matches!(ends[0].poll_event(), Some(Event::Up { .. })));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Standards
//!
//! | RFC | Supported | Not supported |
//! |---|---|---|
//! | [5880](https://www.rfc-editor.org/rfc/rfc5880) | Asynchronous mode in the active role: packets and each check of §6.8.6, state machine, Poll Sequences, timers, jitter, AdminDown. A neighbor may use demand mode. | Demand mode and echo on our side. Authentication: such packets are discarded, with the reason. A packet with the right discriminator from another address is discarded, although §6.3 allows the address to change. |
//! | [5881](https://www.rfc-editor.org/rfc/rfc5881) | Single hop over IPv4 and IPv6: ports, a source port for each session, TTL 255 both ways, binding to an interface. | Echo packets (port 3785). |
//! | [5882](https://www.rfc-editor.org/rfc/rfc5882) | [`Event::Down`] only for a session that was up, never for AdminDown, and with the neighbor's C bit, so that a client can apply §4.3. | Holding a client down until the session is up. |
//! | [5883](https://www.rfc-editor.org/rfc/rfc5883) | Multihop, with a lowest TTL. | |
//!
//! # Features
//! - `tokio` (default): the driver [`io`].
//! - `serde` (default): `Serialize` for [`State`] and [`Diagnostic`], as their names.
//!
//! # Versions
//! Structs and enums that may grow are `non_exhaustive`: new fields, settings, events and errors are no breaking
//! changes.
#![warn(unreachable_pub)]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "tokio")]
pub mod io;
mod packet;
mod session;
mod settings;
mod state;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

pub use self::packet::{ControlPacket, Malformed};
use self::session::{Context, Session};
pub use self::settings::{
    InvalidSettings, Key, PORT_MULTIHOP, PORT_SINGLE_HOP, Path, Settings, SettingsError, TTL,
};
pub use self::state::{Diagnostic, Reason, State};

/// The example in the README is compiled as a test.
#[cfg(all(doctest, feature = "tokio"))]
#[doc = include_str!("../README.md")]
pub struct Readme;

/// The range of source ports (RFC 5881 §4).
const SOURCE_PORTS: RangeInclusive<u16> = 49152..=65535;

/// The facts about a received datagram that the kernel reports beside its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Meta {
    /// The destination address and port.
    pub local: SocketAddr,
    /// The source address.
    pub remote: IpAddr,
    /// The TTL or hop limit on arrival; `None`, if the kernel did not report it, counts as 0.
    pub ttl: Option<u8>,
    /// The index of the interface on which it arrived, if known.
    pub interface: Option<u32>,
}

impl Meta {
    /// Returns the facts about a datagram from `remote` to `local`, without a TTL and an interface.
    pub fn new(local: SocketAddr, remote: IpAddr) -> Self {
        Self { local, remote, ttl: None, interface: None }
    }

    /// Sets the TTL or hop limit on arrival.
    #[must_use]
    pub fn ttl(self, ttl: u8) -> Self {
        Self { ttl: Some(ttl), ..self }
    }

    /// Sets the index of the interface on which it arrived.
    #[must_use]
    pub fn interface(self, index: u32) -> Self {
        Self { interface: Some(index), ..self }
    }
}

/// A datagram to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Datagram {
    /// The session of the datagram.
    pub key: Key,
    /// The source address and port: the same for all datagrams of a session, and of no other session.
    pub local: SocketAddr,
    /// The destination address and port.
    pub remote: SocketAddr,
    /// The TTL or hop limit.
    pub ttl: u8,
    /// The payload.
    pub bytes: [u8; ControlPacket::LENGTH],
}

/// A change of a session that concerns its clients (RFC 5882).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The session is up: packets arrive in both directions.
    #[non_exhaustive]
    Up {
        /// The session.
        key: Key,
    },
    /// The session was up and failed: the neighbor is out of reach.
    #[non_exhaustive]
    Down {
        /// The session.
        key: Key,
        /// The reason of the failure.
        reason: Reason,
        /// The neighbor's C bit. If it is clear, the neighbor's BFD fails when its control plane restarts, and a helper
        /// of its graceful restart may keep its routes (RFC 5882 §4.3).
        control_plane_independent: bool,
        /// The time of the last packet in which the neighbor reported that it receives ours. A client's session that was
        /// established later is not the one that failed.
        confirmed_at: Instant,
    },
    /// The session was up and was taken down by the operator of one side. This is not a failure, and nothing is known
    /// about the path any more (RFC 5882 §3.2).
    #[non_exhaustive]
    AdminDown {
        /// The session.
        key: Key,
        /// The side that was taken down.
        reason: Reason,
    },
}

impl Event {
    /// Returns a failure, for tests of clients.
    pub fn down(key: Key, reason: Reason, control_plane_independent: bool, confirmed_at: Instant) -> Self {
        Self::Down { key, reason, control_plane_independent, confirmed_at }
    }

    /// Returns the session of the event.
    pub fn key(&self) -> Key {
        match self {
            Self::Up { key } | Self::Down { key, .. } | Self::AdminDown { key, .. } => *key,
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Up { .. } => f.write_str("up"),
            Self::Down { reason, .. } => write!(f, "down: {reason}"),
            Self::AdminDown { reason, .. } => write!(f, "administratively down: {reason}"),
        }
    }
}

/// The reason why a datagram was discarded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Discard {
    /// The packet is malformed or of a kind that is not supported.
    #[error("malformed BFD packet: {0}")]
    Malformed(#[from] Malformed),
    /// The TTL is too low: the packet may come from further away than the session allows.
    #[error(
        "TTL {ttl} is below {min}: the neighbor is more hops away than configured, or does not send with TTL 255"
    )]
    #[non_exhaustive]
    Ttl {
        /// The TTL of the packet.
        ttl: u8,
        /// The lowest TTL accepted.
        min: u8,
    },
    /// The packet was sent to the port of the other kind of session.
    #[error("sent to port {port} instead of {expected}: only one side is configured as multihop")]
    #[non_exhaustive]
    Port {
        /// The destination port of the packet.
        port: u16,
        /// The port of the session.
        expected: u16,
    },
    /// The packet arrived on another interface.
    #[error("arrived on interface {interface}, but the session is bound to {expected}")]
    #[non_exhaustive]
    Interface {
        /// The index of the interface on which the packet arrived.
        interface: u32,
        /// The index of the session's interface.
        expected: u32,
    },
    /// There is no session between these addresses.
    #[error("no BFD session from {local} to {remote} is configured")]
    #[non_exhaustive]
    NoSession {
        /// The destination address of the packet.
        local: IpAddr,
        /// The source address of the packet.
        remote: IpAddr,
    },
    /// Your Discriminator is not that of the session with this neighbor.
    #[error(
        "Your Discriminator {0:#010x} is not that of the session: one side has restarted, or the packet is forged"
    )]
    Discriminator(u32),
    /// The session is held down by our settings (RFC 5880 §6.8.6).
    #[error("the session is administratively down here")]
    AdminDown,
}

/// The state of one session.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionReport {
    /// The addresses of the session.
    pub key: Key,
    /// The distance of the neighbor.
    pub path: Path,
    /// The state.
    pub state: State,
    /// The time since the last change of the state.
    pub since: Duration,
    /// The reason for the state.
    pub reason: Reason,
    /// The diagnostic that we send.
    pub diagnostic: Diagnostic,
    /// The neighbor's state; `None`: no packet arrives from it.
    pub remote_state: Option<State>,
    /// The diagnostic that the neighbor sends.
    pub remote_diagnostic: Option<Diagnostic>,
    /// Our identifier of the session.
    pub discriminator: u32,
    /// The neighbor's identifier of the session.
    pub remote_discriminator: Option<u32>,
    /// The port from which packets are sent.
    pub source_port: u16,
    /// The interval at which packets are sent, before jitter; `None`: the neighbor accepts no packets now.
    pub transmit_interval: Option<Duration>,
    /// The longest interval at which the neighbor sends, as negotiated; `None`: no packet arrives from it.
    pub receive_interval: Option<Duration>,
    /// The time without a packet after which the session fails (RFC 5880 §6.8.4).
    pub detection_time: Option<Duration>,
    /// Whether a Poll Sequence is running (RFC 5880 §6.5).
    pub polling: bool,
    /// The number of packets sent.
    pub sent: u64,
    /// The number of packets accepted.
    pub received: u64,
    /// The number of packets between the session's addresses that were discarded.
    pub discarded: u64,
    /// The reason of the last discard.
    pub last_discard: Option<Discard>,
    /// The error that keeps packets from being sent.
    pub send_error: Option<String>,
    /// The number of times that the session came up.
    pub up_count: u64,
    /// The number of failures after it had come up.
    pub failure_count: u64,
}

/// All BFD sessions of a node. The [crate's documentation](crate) has the contract of its calls.
#[derive(Debug)]
pub struct Bfd {
    sessions: BTreeMap<Key, Session>,
    by_discriminator: BTreeMap<u32, Key>,
    source_ports: BTreeSet<u16>,
    deadlines: BTreeSet<(Instant, Key)>,
    /// Sessions that may have a datagram to send.
    ready: BTreeSet<Key>,
    /// The AdminDown packets of sessions that were restarted.
    last_packets: VecDeque<Datagram>,
    events: VecDeque<Event>,
    unmatched: u64,
    rng: fastrand::Rng,
}

impl Bfd {
    /// Returns an instance without sessions. `seed` determines discriminators, source ports and jitter; a caller uses
    /// another one at each start, so that they cannot be guessed.
    pub fn new(seed: u64) -> Self {
        Self {
            sessions: BTreeMap::new(),
            by_discriminator: BTreeMap::new(),
            source_ports: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            ready: BTreeSet::new(),
            last_packets: VecDeque::new(),
            events: VecDeque::new(),
            unmatched: 0,
            rng: fastrand::Rng::with_seed(seed),
        }
    }

    /// Replaces all sessions: adds, changes and removes those that differ.
    ///
    /// # Errors
    /// One of them is not possible; nothing was changed.
    pub fn set_all(&mut self, now: Instant, desired: &BTreeMap<Key, Settings>) -> Result<(), SettingsError> {
        let desired: BTreeMap<Key, Settings> = desired.iter().map(|(key, s)| (key.canonical(), *s)).collect();
        desired.iter().try_for_each(|(key, settings)| settings.validate_for(*key))?;
        if desired.len() > SOURCE_PORTS.len() {
            return Err(SettingsError::TooMany(desired.len()));
        }
        let surplus: Vec<Key> = self.keys().filter(|key| !desired.contains_key(key)).collect();
        for key in surplus {
            self.remove(now, key);
        }
        desired.iter().try_for_each(|(key, settings)| self.set(now, *key, *settings))
    }

    /// Adds a session, or changes the settings of an existing one.
    ///
    /// # Errors
    /// The settings are invalid, or there are too many sessions; nothing was changed.
    pub fn set(&mut self, now: Instant, key: Key, settings: Settings) -> Result<(), SettingsError> {
        let key = key.canonical();
        settings.validate_for(key)?;
        let old = self.sessions.get(&key).filter(|session| !session.is_leaving()).map(|s| *s.settings());
        match old {
            Some(old) if old == settings => {}
            Some(old) if (old.path, old.interface) == (settings.path, settings.interface) => {
                self.with_session(now, key, |session, ctx| session.set(ctx, settings));
            }
            _ => self.start(now, key, settings)?,
        }
        Ok(())
    }

    /// Starts a session, in place of one with another path or interface.
    fn start(&mut self, now: Instant, key: Key, settings: Settings) -> Result<(), SettingsError> {
        self.make_room();
        if self.source_ports.len() >= SOURCE_PORTS.len() && !self.sessions.contains_key(&key) {
            return Err(SettingsError::TooMany(self.sessions.len() + 1));
        }
        // A restart is AdminDown for the clients of the old session, and for the neighbor.
        self.remove(now, key);
        self.last_packets.extend(self.sessions.get_mut(&key).and_then(Session::transmit));
        self.forget(key);
        let port = self.draw_port().ok_or(SettingsError::TooMany(self.sessions.len() + 1))?;
        let discriminator = self.draw_discriminator();
        self.by_discriminator.insert(discriminator, key);
        self.sessions.insert(key, Session::new(now, key, settings, port, discriminator));
        self.with_session(now, key, |session, ctx| session.update_timers(ctx));
        Ok(())
    }

    /// Removes a session, and returns whether it existed. It sends AdminDown for a detection time, which the neighbor
    /// does not take for a failure (RFC 5880 §6.8.16).
    pub fn remove(&mut self, now: Instant, key: Key) -> bool {
        let key = key.canonical();
        let exists = self.sessions.get(&key).is_some_and(|session| !session.is_leaving());
        if exists {
            self.with_session(now, key, |session, ctx| session.leave(ctx));
        }
        exists
    }

    /// Draws another source port for a session whose port is in use on this machine. This is allowed only before its
    /// first datagram was sent: afterwards the port must not change (RFC 5881 §4).
    pub fn redraw_port(&mut self, key: Key) {
        let Some(new) = self.draw_port() else { return };
        let Some(session) = self.sessions.get_mut(&key) else { return };
        self.source_ports.remove(&session.source_port());
        session.set_source_port(new);
    }

    /// Sets or clears the error that keeps datagrams of a session from being sent, for its report.
    pub fn set_send_error(&mut self, key: Key, error: Option<String>) {
        if let Some(session) = self.sessions.get_mut(&key) {
            session.set_send_error(error);
        }
    }

    /// Handles a received datagram.
    ///
    /// # Errors
    /// The datagram was discarded. Log it at debug level at most, as anybody can send datagrams.
    pub fn received(&mut self, now: Instant, meta: &Meta, bytes: &[u8]) -> Result<(), Discard> {
        let key = Key { local: meta.local.ip(), remote: meta.remote }.canonical();
        let result = self.accept(now, key, meta, bytes);
        if let Err(discard) = &result {
            match self.sessions.get_mut(&key) {
                Some(session) => session.note_discard(discard.clone()),
                None => self.unmatched += 1,
            }
        }
        result
    }

    fn accept(&mut self, now: Instant, key: Key, meta: &Meta, bytes: &[u8]) -> Result<(), Discard> {
        let ttl = meta.ttl.unwrap_or(0);
        // A packet that may come from anywhere is not decoded (RFC 5881 §5).
        if meta.local.port() == PORT_SINGLE_HOP && ttl != TTL {
            return Err(Discard::Ttl { ttl, min: TTL });
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
        let min = settings.path.min_ttl();
        if ttl < min {
            return Err(Discard::Ttl { ttl, min });
        }
        if let (Some(interface), Some(expected)) = (meta.interface, settings.interface)
            && interface != expected
        {
            return Err(Discard::Interface { interface, expected });
        }
        self.with_session(now, key, |session, ctx| session.received(ctx, &packet)).unwrap_or(Ok(()))
    }

    /// Handles the timers that are due. The caller first passes on everything that waits in its sockets.
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

    /// Returns the time at which [`Bfd::handle_timeout`] must be called.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Returns the next datagram to send. Datagrams are not queued, except the last one of a session that was restarted:
    /// one that is fetched late carries the state of that moment.
    pub fn poll_transmit(&mut self) -> Option<Datagram> {
        if let Some(datagram) = self.last_packets.pop_front() {
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

    /// Returns the next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Returns whether there is such a session, including one that was removed and still sends AdminDown.
    pub fn contains(&self, key: Key) -> bool {
        self.sessions.contains_key(&key)
    }

    /// Returns the number of sessions, including those that were removed and still send AdminDown.
    pub fn session_count(&self) -> usize {
        self.sessions.len()
    }

    /// Returns the state of all sessions, sorted by their addresses.
    pub fn report(&self, now: Instant) -> Vec<SessionReport> {
        self.sessions.values().filter(|session| !session.is_leaving()).map(|s| s.report(now)).collect()
    }

    /// Returns the number of discarded datagrams between addresses without a session.
    pub fn unmatched_count(&self) -> u64 {
        self.unmatched
    }

    fn keys(&self) -> impl Iterator<Item = Key> {
        self.sessions.iter().filter(|(_, session)| !session.is_leaving()).map(|(key, _)| *key)
    }

    /// Calls a session, and updates `deadlines` and `ready` accordingly.
    fn with_session<T>(
        &mut self,
        now: Instant,
        key: Key,
        call: impl FnOnce(&mut Session, &mut Context<'_>) -> T,
    ) -> Option<T> {
        let session = self.sessions.get_mut(&key)?;
        let before = session.next_deadline();
        let mut events = Vec::new();
        let result = call(session, &mut Context { now, rng: &mut self.rng, events: &mut events });
        let after = session.next_deadline();
        self.events.extend(events);
        self.ready.insert(key);
        if before != after {
            before.map(|deadline| self.deadlines.remove(&(deadline, key)));
            after.map(|deadline| self.deadlines.insert((deadline, key)));
        }
        Some(result)
    }

    fn forget(&mut self, key: Key) {
        let Some(session) = self.sessions.remove(&key) else { return };
        self.by_discriminator.remove(&session.discriminator());
        self.source_ports.remove(&session.source_port());
        if let Some(deadline) = session.next_deadline() {
            self.deadlines.remove(&(deadline, key));
        }
    }

    /// Drops removed sessions early if a new one needs their source ports.
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

    /// Draws an unused source port: the first one that is free from a random one upwards.
    fn draw_port(&mut self) -> Option<u16> {
        let first = self.rng.u16(SOURCE_PORTS);
        let port = (first..=*SOURCE_PORTS.end())
            .chain(*SOURCE_PORTS.start()..first)
            .find(|port| !self.source_ports.contains(port))?;
        self.source_ports.insert(port);
        Some(port)
    }

    /// Draws an unused discriminator, which is not 0 (RFC 5880 §6.8.1).
    fn draw_discriminator(&mut self) -> u32 {
        loop {
            let drawn = self.rng.u32(1..);
            if !self.by_discriminator.contains_key(&drawn) {
                return drawn;
            }
        }
    }
}
