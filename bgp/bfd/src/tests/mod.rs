//! The tests take one instant from the clock and count from it.
#![allow(clippy::disallowed_methods, reason = "one instant to count from")]

mod negotiation;
mod packet;
mod pair;
mod properties;
mod reception;
mod states;

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

/// Returns the facts about a datagram from `key`'s neighbor.
pub(super) fn meta(key: Key) -> Meta {
    Meta::new(SocketAddr::new(key.local, PORT_SINGLE_HOP), key.remote).ttl(255).interface(2)
}

/// Returns settings with 50 ms both ways, and the multiplier 3.
pub(super) fn fast() -> Settings {
    Settings::single_hop().interval(50 * MS)
}

/// One of our sessions, with a neighbor whose packets the test sends.
pub(super) struct Bench {
    pub(super) bfd: Bfd,
    pub(super) now: Instant,
    /// The neighbor's next packet.
    pub(super) packet: ControlPacket,
}

impl Bench {
    pub(super) fn new(settings: Settings) -> Self {
        let now = Instant::now();
        let mut bfd = Bfd::new(7);
        bfd.set(now, key(), settings).unwrap();
        let packet = ControlPacket::new(State::Down, 99);
        let packet = ControlPacket { desired_min_tx: 50 * MS, required_min_rx: 50 * MS, ..packet };
        Self { bfd, now, packet }
    }

    /// Returns a session that is up, with nothing left to send or to poll.
    pub(super) fn up(settings: Settings) -> Self {
        let mut bench = Self::new(settings);
        bench.receive(State::Down).unwrap();
        bench.receive(State::Up).unwrap();
        bench.wait(SECOND.min(40 * MS));
        bench.packet.final_ = true;
        bench.receive(State::Up).unwrap();
        bench.packet.final_ = false;
        bench.sent();
        assert_eq!(bench.state(), State::Up);
        assert!(!bench.report().polling);
        assert!(matches!(bench.events()[..], [Event::Up { .. }]));
        bench
    }

    pub(super) fn report(&self) -> SessionReport {
        self.bfd.report(self.now).remove(0)
    }

    pub(super) fn state(&self) -> State {
        self.report().state
    }

    /// Receives `packet` from the neighbor, in `state`.
    pub(super) fn receive(&mut self, state: State) -> Result<(), Discard> {
        self.packet.state = state;
        self.packet.your_discriminator = if state == State::Down { 0 } else { self.report().discriminator };
        let bytes = self.packet.encode();
        self.bfd.received(self.now, &meta(key()), &bytes)
    }

    /// Returns the packets that are due now.
    pub(super) fn sent(&mut self) -> Vec<ControlPacket> {
        std::iter::from_fn(|| self.bfd.poll_transmit())
            .map(|d| ControlPacket::decode(&d.bytes).unwrap())
            .collect()
    }

    pub(super) fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.bfd.poll_event()).collect()
    }

    /// Lets time pass without a packet from the neighbor, and returns the packets sent with their times.
    pub(super) fn wait(&mut self, time: Duration) -> Vec<(Instant, ControlPacket)> {
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

    /// Lets time pass while the neighbor sends Up every 40 ms, and returns the packets sent with their times.
    pub(super) fn wait_up(&mut self, time: Duration) -> Vec<(Instant, ControlPacket)> {
        let end = self.now + time;
        let mut sent = Vec::new();
        while self.now < end {
            sent.extend(self.wait((40 * MS).min(end - self.now)));
            self.receive(State::Up).unwrap();
        }
        sent
    }
}

/// Returns the times between packets.
pub(super) fn gaps(sent: &[(Instant, ControlPacket)]) -> Vec<Duration> {
    sent.windows(2).map(|two| two[1].0 - two[0].0).collect()
}
