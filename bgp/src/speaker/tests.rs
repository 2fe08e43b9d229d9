//! One speaker whose neighbors are simulated by the test.

mod change;
mod external;
mod limits;
mod networks;
mod play;
mod policy;
mod ranges;
mod refresh;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::BytesMut;

use super::*;
use crate::config::{Filter, Neighbor, Network};
use crate::wire::{
    self, Attributes, Capability, Codec, Family, Framer, Message, NextHop, Nlri, Open, Prefix, Reach, Update,
    cease, code,
};

const ASN: u32 = 64512;
const CODEC: Codec = Codec { four_octet_as: true, ..Codec::DEFAULT };

fn address(n: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, n).into()
}

fn prefix(n: u16) -> Prefix {
    let [high, low] = n.to_be_bytes();
    Prefix::new([10, high, low, 0].into(), 24).expect("fits")
}

/// Neighbor `n` at 10.0.0.`n`, which connects to us.
fn neighbor(n: u8) -> Neighbor {
    Neighbor { passive: true, import: Filter::All, export: Filter::All, ..Neighbor::new(address(n), ASN) }
}

fn client(n: u8) -> Neighbor {
    Neighbor { reflector_client: true, ..neighbor(n) }
}

fn config(neighbors: Vec<Neighbor>) -> Config {
    Config { neighbors, ..Config::new(ASN, Ipv4Addr::new(10, 0, 0, 100)) }
}

/// Decodes the messages of a stream.
fn decode(bytes: &[u8]) -> Vec<Message> {
    let mut framer = Framer::new();
    framer.push(bytes);
    let mut messages = Vec::new();
    while let Some(frame) = framer.next().expect("a valid stream") {
        let families = [Family::Ipv4Unicast, Family::Ipv6Unicast];
        messages.push(wire::decode(&frame, &CODEC, &families).expect("a valid message"));
    }
    messages
}

struct Play {
    speaker: Speaker,
    now: Instant,
}

impl Play {
    fn new(config: Config) -> Self {
        Self::start(config, false)
    }

    fn start(config: Config, restarting: bool) -> Self {
        let now = Instant::now();
        Self { speaker: Speaker::new(config, restarting, now, 1).expect("valid"), now }
    }

    fn connect(&mut self, n: u8) -> Option<ConnId> {
        let (local, remote) = (SocketAddr::new(address(100), 179), SocketAddr::new(address(n), 40000));
        self.speaker.accept(self.now, local, remote)
    }

    fn open(n: u8, asn: u32) -> Open {
        let mut capabilities = vec![Capability::Multiprotocol(Family::Ipv4Unicast)];
        capabilities.extend([Capability::RouteRefresh, Capability::FourOctetAs(asn)]);
        Open { asn, hold_time: 90, router_id: Ipv4Addr::new(10, 0, 0, n), capabilities }
    }

    /// Connects neighbor `n` and establishes its session; the messages sent to it first are dropped.
    fn up(&mut self, n: u8) -> ConnId {
        self.up_with(n, Self::open(n, ASN))
    }

    fn up_with(&mut self, n: u8, open: Open) -> ConnId {
        let conn = self.connect(n).expect("accepted");
        self.receive(conn, &Message::Open(open));
        self.receive(conn, &Message::Keepalive);
        assert_eq!(self.state(n), SessionState::Established);
        conn
    }

    fn receive(&mut self, conn: ConnId, message: &Message) {
        let mut bytes = BytesMut::new();
        wire::encode(message, &CODEC, &mut bytes);
        self.speaker.received(self.now, conn, &bytes);
    }

    fn advertise(&mut self, conn: ConnId, n: u8, prefixes: Vec<Prefix>) {
        self.advertise_with(conn, n, prefixes, Attributes::local());
    }

    fn advertise_with(&mut self, conn: ConnId, n: u8, prefixes: Vec<Prefix>, attributes: Attributes) {
        let next_hop = NextHop { address: address(n), link_local: None };
        let prefixes = prefixes.into_iter().map(Nlri::from).collect();
        let reach = vec![Reach { family: Family::Ipv4Unicast, next_hop, prefixes }];
        let update = Update { attributes: Some(attributes), reach, ..Update::default() };
        self.receive(conn, &Message::Update(update));
    }

    /// Returns all messages pending on a connection.
    fn sent(&mut self, conn: ConnId) -> Vec<Message> {
        let mut bytes = BytesMut::new();
        while self.speaker.transmit(self.now, conn, 1 << 16, &mut bytes) > 0 {}
        decode(&bytes)
    }

    /// Returns the UPDATEs pending on a connection.
    fn updates(&mut self, conn: ConnId) -> Vec<Update> {
        let sent = self.sent(conn).into_iter();
        let updates = sent.filter_map(|message| match message {
            Message::Update(update) => Some(update),
            _ => None,
        });
        updates.collect()
    }

    /// Returns the prefixes that the pending UPDATEs advertise and withdraw.
    fn changes(&mut self, conn: ConnId) -> (Vec<Prefix>, Vec<Prefix>) {
        let (mut advertised, mut withdrawn) = (Vec::new(), Vec::new());
        for update in self.updates(conn) {
            withdrawn.extend(update.withdrawn.into_iter().map(|nlri| nlri.prefix));
            let reached = update.reach.into_iter().flat_map(|reach| reach.prefixes);
            advertised.extend(reached.map(|nlri| nlri.prefix));
        }
        advertised.sort();
        withdrawn.sort();
        (advertised, withdrawn)
    }

    fn actions(&mut self) -> Vec<Action> {
        std::iter::from_fn(|| self.speaker.poll_action()).collect()
    }

    fn report(&self, n: u8) -> SessionReport {
        let sessions = self.speaker.sessions(self.now);
        sessions.into_iter().find(|session| session.address == address(n)).expect("a neighbor")
    }

    fn state(&self, n: u8) -> SessionState {
        self.report(n).state
    }

    fn set(&mut self, config: Config) {
        self.speaker.set_config(self.now, config).expect("valid");
    }
}
