//! Time is a value here: each test makes one instant and counts from it.
#![allow(clippy::disallowed_methods, reason = "one instant to count from")]

mod life;
mod negotiation;
mod packet;
mod pair;
mod properties;
mod reception;

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::*;

pub(super) const MS: Duration = Duration::from_millis(1);
pub(super) const SECOND: Duration = Duration::from_secs(1);

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(super) fn key() -> Key {
    Key { local: ip("192.0.2.1"), remote: ip("192.0.2.2") }
}

/// How a datagram of `key`'s neighbour arrives.
pub(super) fn meta(key: Key) -> Meta {
    let local = SocketAddr::new(key.local, PORT_SINGLE_HOP);
    Meta { local, remote: key.remote, ttl: Some(255), interface: Some(2) }
}

/// 50 ms both ways, and 3.
pub(super) fn fast() -> Settings {
    Settings { min_tx: 50 * MS, min_rx: 50 * MS, ..Settings::default() }
}

/// One of our sessions, played against by hand.
pub(super) struct Bench {
    pub bfd: Bfd,
    pub now: Instant,
    /// What the neighbour says next.
    pub says: ControlPacket,
}

impl Bench {
    pub fn new(settings: Settings) -> Self {
        let now = Instant::now();
        let mut bfd = Bfd::new(7);
        bfd.set(now, key(), settings).unwrap();
        let says = ControlPacket {
            diagnostic: Diagnostic::NONE,
            state: State::Down,
            poll: false,
            final_: false,
            control_plane_independent: false,
            demand: false,
            multiplier: 3,
            my_discriminator: 99,
            your_discriminator: 0,
            desired_min_tx: 50 * MS,
            required_min_rx: 50 * MS,
            required_min_echo_rx: Duration::ZERO,
        };
        Self { bfd, now, says }
    }

    /// Up, with nothing left to send or to poll.
    pub fn up(settings: Settings) -> Self {
        let mut bench = Self::new(settings);
        bench.hears(State::Down).unwrap();
        bench.hears(State::Up).unwrap();
        bench.wait(SECOND.min(40 * MS));
        bench.says.final_ = true;
        bench.hears(State::Up).unwrap();
        bench.says.final_ = false;
        bench.sent();
        assert_eq!(bench.state(), State::Up);
        assert!(!bench.report().polling);
        assert!(matches!(bench.events()[..], [Event::Up { .. }]));
        bench
    }

    pub fn report(&self) -> SessionReport {
        self.bfd.report(self.now).remove(0)
    }

    pub fn state(&self) -> State {
        self.report().state
    }

    /// The neighbour sends what `says` holds, in `state`.
    pub fn hears(&mut self, state: State) -> Result<(), Discard> {
        self.says.state = state;
        self.says.your_discriminator = if state == State::Down { 0 } else { self.report().discriminator };
        let bytes = self.says.encode();
        self.bfd.received(self.now, &meta(key()), &bytes)
    }

    /// What we send now.
    pub fn sent(&mut self) -> Vec<ControlPacket> {
        std::iter::from_fn(|| self.bfd.poll_transmit())
            .map(|d| ControlPacket::decode(&d.bytes).unwrap())
            .collect()
    }

    pub fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.bfd.poll_event()).collect()
    }

    /// Time passes without a word from the neighbour; when we send what.
    pub fn wait(&mut self, time: Duration) -> Vec<(Instant, ControlPacket)> {
        let end = self.now + time;
        let mut sent: Vec<_> = self.sent().into_iter().map(|packet| (self.now, packet)).collect();
        while let Some(deadline) = self.bfd.next_deadline().filter(|deadline| *deadline <= end) {
            self.now = self.now.max(deadline);
            self.bfd.handle_timeout(self.now);
            sent.extend(self.sent().into_iter().map(|packet| (self.now, packet)));
        }
        self.now = end;
        sent
    }

    /// The same, while the neighbour says that it is up each 40 ms.
    pub fn wait_up(&mut self, time: Duration) -> Vec<(Instant, ControlPacket)> {
        let end = self.now + time;
        let mut sent = Vec::new();
        while self.now < end {
            sent.extend(self.wait((40 * MS).min(end - self.now)));
            self.hears(State::Up).unwrap();
        }
        sent
    }
}

/// The times between packets.
pub(super) fn gaps(sent: &[(Instant, ControlPacket)]) -> Vec<Duration> {
    sent.windows(2).map(|two| two[1].0 - two[0].0).collect()
}
