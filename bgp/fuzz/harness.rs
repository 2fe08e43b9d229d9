//! The checks of each fuzz target, which `cargo test` also runs over the corpora.
//!
//! `RUSTC_BOOTSTRAP=1 cargo fuzz run TARGET` in `bgp/`; an input that it finds goes into `fuzz/corpus/TARGET` with its fix.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use heliograph_bgp::report::SessionState;
use heliograph_bgp::speaker::{Action, ConnId};
use heliograph_bgp::wire::{
    self, AddPathMode, AsPath, Attributes, Capability, Codec, Family, Frame, Framer, GracefulRestart,
    LongLived, Message, MessageType, NextHop, Nlri, Notification, Open, PathIds, Prefix, Reach, Refresh,
    Segment, Update,
};
use heliograph_bgp::{AddPath, Config, Filter, ListenRange, Neighbor, Network, PrefixLimit, Role, Speaker};

const FAMILIES: [Family; 2] = [Family::Ipv4Unicast, Family::Ipv6Unicast];

/// A stream gives the same frames in chunks of any size.
pub fn framer(data: &[u8]) {
    let Some((options, stream)) = data.split_first() else { return };
    let new = || {
        let mut framer = Framer::new();
        if options & 1 != 0 {
            framer.extend();
        }
        if options & 2 != 0 {
            framer.enhance_refresh();
        }
        framer
    };
    let drain = |framer: &mut Framer, frames: &mut Vec<_>| loop {
        match framer.next() {
            Ok(Some(frame)) => frames.push(Ok(frame)),
            Ok(None) => return true,
            Err(error) => {
                frames.push(Err(error));
                return false;
            }
        }
    };
    let mut whole = Vec::new();
    let mut framer = new();
    framer.push(stream);
    drain(&mut framer, &mut whole);
    let mut pieces = Vec::new();
    let mut framer = new();
    let size = 1 + usize::from(options >> 2);
    for piece in stream.chunks(size) {
        framer.push(piece);
        if !drain(&mut framer, &mut pieces) {
            break;
        }
        assert!(framer.buffered() <= 65535);
    }
    assert_eq!(whole, pieces);
}

fn frame(kind: MessageType, body: &[u8]) -> Frame {
    Frame { kind, body: bytes::Bytes::copy_from_slice(body) }
}

/// Encodes a decoded message and decodes it again.
fn again(message: &Message, codec: &Codec) -> Vec<Message> {
    let mut bytes = BytesMut::new();
    wire::encode(message, codec, &mut bytes);
    let mut framer = Framer::new();
    framer.extend();
    framer.push(&bytes);
    let mut messages = Vec::new();
    while let Some(frame) = framer.next().expect("a stream of ours") {
        messages.push(wire::decode(&frame, codec, &FAMILIES).expect("a message of ours"));
    }
    messages
}

/// Decodes the body of an OPEN.
pub fn open(data: &[u8]) {
    if let Ok(message) = wire::decode(&frame(MessageType::Open, data), &Codec::DEFAULT, &[]) {
        // An OPEN with AS_TRANS and the real number is encoded with both again.
        assert_eq!(again(&message, &Codec::DEFAULT), [message]);
    }
}

/// Returns Path Identifiers for both families and directions.
fn path_ids() -> PathIds {
    PathIds { receive: FAMILIES.into_iter().collect(), send: FAMILIES.into_iter().collect() }
}

/// Decodes an octet of options, and the body of an UPDATE.
pub fn update(data: &[u8]) {
    let Some((options, body)) = data.split_first() else { return };
    let path_ids = if options & 32 != 0 { path_ids() } else { PathIds::NONE };
    let codec = Codec {
        path_ids,
        four_octet_as: options & 1 != 0,
        external: options & 2 != 0,
        extended_next_hop: options & 4 != 0,
        max_message: if options & 8 != 0 { 65535 } else { 4096 },
    };
    let families = if options & 16 != 0 { &FAMILIES[..] } else { &FAMILIES[..1] };
    let Ok(Message::Update(update)) = wire::decode(&frame(MessageType::Update, body), &codec, families)
    else {
        return;
    };
    assert!(
        update.reach.iter().all(|reach| reach.prefixes.iter().all(|p| p.prefix.family() == reach.family))
    );
    let reached = update.reach.iter().flat_map(|reach| &reach.prefixes);
    let mut named = reached.chain(&update.withdrawn);
    assert!(named.all(|nlri| nlri.path_id.is_some() == path_ids.receive.contains(nlri.prefix.family())));
    for message in again(&Message::Update(update.clone()), &codec) {
        let Message::Update(written) = message else { panic!("not an UPDATE") };
        assert!(written.faults.is_empty(), "we write nothing that is malformed: {:?}", written.faults);
    }
}

const ASN: u32 = 64512;

fn address(n: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, n).into()
}

/// Returns the AS of neighbor `n`.
fn asn(n: u8) -> u32 {
    if n == 2 { 64600 } else { ASN }
}

/// Neighbor 1 is never disturbed, 2 is external with a role and a limit, 3 is a client, all others come from a range.
fn config(variant: u8) -> Config {
    let neighbor = |n: u8| {
        Neighbor::new(address(n), asn(n))
            .passive(n != 3 || variant & 1 != 0)
            .reflector_client(asn(n) == ASN)
            // A change of it resets the session: not that of neighbor 1.
            .add_path(
                AddPath::default().receive(n != 1 && variant & 64 == 0).send(std::num::NonZeroU8::new(n - 1)),
            )
            .import(Filter::All)
            .export(Filter::All)
    };
    let limit = PrefixLimit::new(20).warn_percent(50).restart(Duration::from_secs(30));
    let external = neighbor(2)
        .role((variant & 2 != 0).then_some(Role::Peer))
        .prefix_limit((variant & 4 != 0).then_some(limit))
        .export(if variant & 8 != 0 { Filter::nothing() } else { Filter::All });
    let mut neighbors = vec![neighbor(1), external];
    if variant & 16 == 0 {
        neighbors.push(neighbor(3));
    }
    let range = Prefix::new(address(0), 24).expect("fits");
    let network = Prefix::new(Ipv4Addr::new(10, 9, variant, 0).into(), 24).expect("fits");
    Config::new(ASN, Ipv4Addr::new(10, 0, 0, 100))
        .networks([Network::new(network)])
        .neighbors(neighbors)
        .graceful_shutdown(variant & 32 != 0)
        .ranges([ListenRange::new(range, 2, neighbor(9))])
}

struct Play {
    speaker: Speaker,
    now: Instant,
    conns: Vec<ConnId>,
}

impl Play {
    fn connect(&mut self, n: u8) -> Option<ConnId> {
        let (local, remote) = (SocketAddr::new(address(100), 179), SocketAddr::new(address(n), 40000));
        let conn = self.speaker.accept(self.now, local, remote)?;
        self.conns.push(conn);
        Some(conn)
    }

    fn receive(&mut self, conn: ConnId, message: &Message) {
        self.receive_with(conn, message, PathIds::NONE);
    }

    fn receive_with(&mut self, conn: ConnId, message: &Message, path_ids: PathIds) {
        let mut bytes = BytesMut::new();
        wire::encode(message, &Codec { four_octet_as: true, path_ids, ..Codec::DEFAULT }, &mut bytes);
        self.speaker.received(self.now, conn, &bytes);
    }

    fn open(n: u8, options: u8) -> Message {
        let mut capabilities: Vec<_> = FAMILIES.into_iter().map(Capability::Multiprotocol).collect();
        capabilities.extend([Capability::FourOctetAs(asn(n)), Capability::RouteRefresh]);
        if options & 1 != 0 {
            capabilities.push(Capability::EnhancedRouteRefresh);
        }
        if options & 2 != 0 {
            let families = FAMILIES.map(|family| (family, options & 4 != 0)).to_vec();
            capabilities.push(Capability::GracefulRestart(GracefulRestart {
                restarting: options & 8 != 0,
                restart_time: 20,
                families,
                ..GracefulRestart::default()
            }));
        }
        if options & 16 != 0 {
            capabilities
                .push(Capability::AddPath(FAMILIES.map(|family| (family, AddPathMode::Both)).to_vec()));
        }
        if options & 32 != 0 {
            let family = |family| LongLived { family, forwarding: options & 64 != 0, stale_time: 30 };
            capabilities.push(Capability::LongLived(FAMILIES.map(family).to_vec()));
        }
        let router_id = Ipv4Addr::new(10, 0, 0, n);
        Message::Open(Open { asn: asn(n), hold_time: 90, router_id, capabilities })
    }

    fn update(n: u8, what: u8, path_id: Option<u32>) -> Message {
        let prefixes = (0..what % 32).filter_map(|i| Prefix::new(Ipv4Addr::new(10, 1, i, 0).into(), 24));
        let prefixes: Vec<Nlri> = prefixes.map(|prefix| Nlri { prefix, path_id }).collect();
        if what & 0x80 != 0 {
            return Message::Update(Update { withdrawn: prefixes, ..Update::default() });
        }
        let path = if asn(n) == ASN { Vec::new() } else { vec![Segment::Sequence(vec![asn(n)])] };
        let attributes =
            Attributes { as_path: AsPath(path), med: Some(u32::from(what >> 5)), ..Attributes::local() };
        let next_hop = NextHop { address: address(n), link_local: None };
        let reach = vec![Reach { family: Family::Ipv4Unicast, next_hop, prefixes }];
        Message::Update(Update { attributes: Some(attributes), reach, ..Update::default() })
    }

    /// Sends all pending messages, which must be valid, and carries out all actions.
    fn settle(&mut self) {
        while let Some(conn) = self.speaker.poll_transmit() {
            let mut bytes = BytesMut::new();
            self.speaker.transmit(self.now, conn, 4096, &mut bytes);
            let mut framer = Framer::new();
            framer.push(&bytes);
            while framer.next().expect("a stream of ours").is_some() {}
            assert_eq!(framer.buffered(), 0, "whole messages only");
        }
        while let Some(action) = self.speaker.poll_action() {
            match action {
                Action::Connect { conn, .. } => self.conns.push(conn),
                Action::Close { conn, .. } => self.conns.retain(|other| *other != conn),
                _ => {}
            }
        }
        while self.speaker.poll_event().is_some() {}
    }

    fn at(&self, index: u8) -> Option<ConnId> {
        self.conns.get(usize::from(index) % self.conns.len().max(1)).copied()
    }
}

/// Runs a speaker, with three octets per step. Whatever the others send, the session of neighbor 1 stays.
#[allow(clippy::disallowed_methods, reason = "some beginning of time")]
pub fn speaker(data: &[u8]) {
    let now = Instant::now();
    let speaker = Speaker::new(config(0), data.len() % 2 == 1, now, 7).expect("valid");
    let mut play = Play { speaker, now, conns: Vec::new() };
    let one = play.connect(1).expect("welcome");
    play.receive(one, &Play::open(1, 0));
    play.receive(one, &Message::Keepalive);
    play.settle();
    play.conns.retain(|conn| *conn != one);
    for step in data.chunks_exact(3) {
        let [what, which, how] = *step else { continue };
        let n = 2 + which % 6;
        match what % 12 {
            0 => drop(play.connect(n)),
            1 => {
                // A whole session at once.
                if let Some(conn) = play.connect(n) {
                    play.receive(conn, &Play::open(n, how));
                    play.receive(conn, &Message::Keepalive);
                }
            }
            2 => play
                .at(which)
                .into_iter()
                .for_each(|conn| play.receive(conn, &Play::open(2 + how % 6, how >> 3))),
            3 => play.at(which).into_iter().for_each(|conn| play.receive(conn, &Message::Keepalive)),
            4 => {
                // Peers without Path Identifiers decode them as prefixes.
                let path_id = (which & 0x80 != 0).then_some(u32::from(which >> 5 & 3));
                let path_ids = path_id.map_or(PathIds::NONE, |_| path_ids());
                let update = Play::update(2 + which % 6, how, path_id);
                play.at(which).into_iter().for_each(|conn| play.receive_with(conn, &update, path_ids));
            }
            5 => {
                let refresh = [Refresh::Request, Refresh::Begin, Refresh::End, Refresh::Unknown(9)];
                let refresh = Message::RouteRefresh(
                    Some(FAMILIES[usize::from(how >> 7)]),
                    refresh[usize::from(how % 4)],
                );
                play.at(which).into_iter().for_each(|conn| play.receive(conn, &refresh));
            }
            6 => {
                let notification = Message::Notification(Notification::new(how % 10, how >> 4));
                play.at(which).into_iter().for_each(|conn| play.receive(conn, &notification));
            }
            7 => {
                if let Some(conn) = play.at(which) {
                    play.speaker.closed(play.now, conn, "closed".into());
                    play.conns.retain(|other| *other != conn);
                }
            }
            8 => {
                let local = SocketAddr::new(address(100), 40000);
                if let Some(conn) = play.at(which) {
                    match how % 2 {
                        0 => play.speaker.connected(play.now, conn, local),
                        _ => play.speaker.connect_failed(play.now, conn, "refused".into()),
                    }
                }
            }
            9 => {
                for _ in 0..=how % 8 {
                    play.now += Duration::from_secs(u64::from(which % 30));
                    play.receive(one, &Message::Keepalive);
                    play.speaker.handle_timeout(play.now);
                    play.settle();
                }
            }
            10 => play.speaker.set_config(play.now, config(which)).expect("valid"),
            _ => {
                let bytes = [which, how, what];
                play.at(how).into_iter().for_each(|conn| play.speaker.received(play.now, conn, &bytes));
            }
        }
        if what & 0x80 == 0 {
            play.settle();
        }
        // No deadline is in the past, except those that have not been processed yet.
        assert!(play.speaker.sessions(play.now).len() <= 3 + 2);
    }
    play.settle();
    let sessions = play.speaker.sessions(play.now);
    let bystander = sessions.iter().find(|session| session.address == address(1)).expect("configured");
    assert_eq!(bystander.state, SessionState::Established, "{}", bystander.reason);
    assert_eq!(bystander.established_count, 1);
    // When all others are removed, so are their routes.
    let alone = config(0).ranges([]).neighbors([config(0).neighbors.swap_remove(0)]);
    play.speaker.set_config(play.now, alone).expect("valid");
    play.settle();
    assert!(play.speaker.best_routes().is_empty());
}
