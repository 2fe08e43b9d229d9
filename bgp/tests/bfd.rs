//! BGP and BFD of two nodes on one link, in virtual time: how soon a session ends, and when it must not.
#![allow(clippy::disallowed_methods, reason = "a test needs some beginning of time")]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use heliograph_bgp::Prefix;
use heliograph_bgp::bfd::{self, Bfd, Key, Meta, Settings};
use heliograph_bgp::report::{SessionReport, SessionState};
use heliograph_bgp::speaker::{Action, ConnId};
use heliograph_bgp::{Config, Filter, ListenRange, Neighbor, Network, Speaker, Timers};

const ASN: u32 = 64512;
const LATENCY: Duration = Duration::from_millis(2);
const SECOND: Duration = Duration::from_secs(1);

fn address(node: usize) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, node as u8 + 1).into()
}

/// Returns settings with 100 ms and the multiplier 3: a failure is detected within 300 ms.
fn quick() -> Settings {
    Settings::multihop(8).interval(Duration::from_millis(100))
}

/// Returns the configuration of a node. Node 0 is passive, node 1 connects.
fn config(node: usize, bfd: Option<Settings>) -> Config {
    let other = address(1 - node);
    let neighbor = Neighbor::new(other, ASN)
        .passive(node == 0)
        .bfd(bfd)
        .timers(Timers::default().connect_retry(SECOND))
        .import(Filter::All)
        .export(Filter::All);
    let prefix = Prefix::new(Ipv4Addr::new(10, 1, node as u8, 0).into(), 24).unwrap();
    let router_id = Ipv4Addr::new(10, 0, 0, node as u8 + 1);
    Config::new(ASN, router_id).networks([Network::new(prefix)]).neighbors([neighbor])
}

struct Node {
    speaker: Speaker,
    bfd: Bfd,
    desired: BTreeMap<Key, Settings>,
    conn: Option<ConnId>,
}

enum Packet {
    Syn,
    SynAck,
    Data(Bytes),
    Fin,
    Bfd(bfd::Datagram),
}

struct Wire {
    now: Instant,
    nodes: [Option<Node>; 2],
    /// The packets on the link and their receivers, by time of arrival.
    packets: BTreeMap<(Instant, u64), (usize, Packet)>,
    sent: u64,
    cut: bool,
    /// The number of failures that BFD reported.
    failures: usize,
}

impl Wire {
    fn new(configs: [Config; 2]) -> Self {
        let mut wire = Self {
            now: Instant::now(),
            nodes: [None, None],
            packets: BTreeMap::new(),
            sent: 0,
            cut: false,
            failures: 0,
        };
        for (node, config) in configs.into_iter().enumerate() {
            wire.start(node, config, false);
        }
        wire
    }

    /// Returns two nodes whose BGP and BFD sessions are up.
    fn up() -> Self {
        let mut wire = Self::new([0, 1].map(|node| config(node, Some(quick()))));
        wire.run(10 * SECOND);
        for node in 0..2 {
            assert_eq!(wire.report(node).state, SessionState::Established);
            assert_eq!(wire.bfd_state(node), bfd::State::Up);
        }
        wire
    }

    fn start(&mut self, node: usize, config: Config, restarting: bool) {
        self.sent += 1;
        let speaker = Speaker::new(config, restarting, self.now, self.sent).unwrap();
        self.nodes[node] =
            Some(Node { speaker, bfd: Bfd::new(self.sent), desired: BTreeMap::new(), conn: None });
        self.settle(node);
    }

    /// Kills the process of a node; its kernel closes the connection.
    fn kill(&mut self, node: usize) {
        if self.nodes[node].take().is_some_and(|node| node.conn.is_some()) {
            self.send(1 - node, Packet::Fin);
        }
    }

    fn node(&mut self, node: usize) -> &mut Node {
        self.nodes[node].as_mut().expect("it runs")
    }

    fn report(&mut self, node: usize) -> SessionReport {
        let now = self.now;
        self.node(node).speaker.sessions(now).remove(0)
    }

    fn bfd_state(&mut self, node: usize) -> bfd::State {
        let now = self.now;
        self.node(node).bfd.report(now)[0].state
    }

    fn routes(&mut self, node: usize) -> usize {
        self.node(node).speaker.best_routes().len()
    }

    fn send(&mut self, to: usize, packet: Packet) {
        if !self.cut {
            self.sent += 1;
            self.packets.insert((self.now + LATENCY, self.sent), (to, packet));
        }
    }

    fn set_config(&mut self, node: usize, config: Config) {
        let now = self.now;
        self.node(node).speaker.set_config(now, config).unwrap();
        self.settle(node);
    }

    /// Carries out the actions of a node, and sends its packets.
    fn settle(&mut self, node: usize) {
        let (now, other) = (self.now, 1 - node);
        loop {
            let Some(this) = &mut self.nodes[node] else { return };
            let mut packets = Vec::new();
            while let Some(conn) = this.speaker.poll_transmit() {
                let mut bytes = BytesMut::new();
                this.speaker.transmit(now, conn, 65536, &mut bytes);
                if this.conn == Some(conn) {
                    packets.push(Packet::Data(bytes.freeze()));
                }
            }
            while let Some(action) = this.speaker.poll_action() {
                match action {
                    Action::Connect { conn, .. } => {
                        this.conn = Some(conn);
                        packets.push(Packet::Syn);
                    }
                    Action::Close { conn, .. } if this.conn == Some(conn) => {
                        this.conn = None;
                        packets.push(Packet::Fin);
                    }
                    Action::SetBfd { session, settings, .. } => {
                        match settings {
                            Some(settings) => drop(this.desired.insert(session, settings)),
                            None => drop(this.desired.remove(&session)),
                        }
                        this.bfd.set_all(now, &this.desired).unwrap();
                    }
                    _ => {}
                }
            }
            while let Some(datagram) = this.bfd.poll_transmit() {
                packets.push(Packet::Bfd(datagram));
            }
            let event = this.bfd.poll_event();
            if let Some(event) = &event {
                this.speaker.bfd_event(now, event);
                self.failures += usize::from(matches!(event, bfd::Event::Down { .. }));
            }
            if packets.is_empty() && event.is_none() {
                return;
            }
            packets.into_iter().for_each(|packet| self.send(other, packet));
        }
    }

    fn arrive(&mut self, to: usize, packet: Packet) {
        let (now, from) = (self.now, 1 - to);
        let ends = [to, from].map(|node| SocketAddr::new(address(node), 179));
        let Some(node) = &mut self.nodes[to] else {
            if matches!(packet, Packet::Syn | Packet::Data(_)) {
                self.send(from, Packet::Fin);
            }
            return;
        };
        match (packet, node.conn) {
            (Packet::Syn, _) => {
                node.conn = node.speaker.accept(now, ends[0], ends[1]);
                let answer = if node.conn.is_some() { Packet::SynAck } else { Packet::Fin };
                self.send(from, answer);
            }
            (Packet::SynAck, Some(conn)) => node.speaker.connected(now, conn, ends[0]),
            (Packet::Data(bytes), Some(conn)) => node.speaker.received(now, conn, &bytes),
            (Packet::Fin, Some(conn)) => {
                node.conn = None;
                node.speaker.closed(now, conn, "closed by the peer".into());
                node.speaker.connect_failed(now, conn, "connection refused".into());
            }
            (Packet::Bfd(sent), _) => {
                let meta = Meta::new(sent.remote, sent.local.ip()).ttl(sent.ttl - 1);
                // A node without this session discards the packet.
                let _ = node.bfd.received(now, &meta, &sent.bytes);
            }
            _ => {}
        }
        self.settle(to);
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let deadline = |node: &Option<Node>| {
                let node = node.as_ref()?;
                node.speaker.next_deadline().into_iter().chain(node.bfd.next_deadline()).min()
            };
            let timer = self.nodes.iter().filter_map(deadline).min();
            let packet = self.packets.keys().next().map(|(at, _)| *at);
            let Some(next) = timer.into_iter().chain(packet).min().filter(|next| *next <= end) else { break };
            self.now = self.now.max(next);
            if packet == Some(next) {
                let (_, (to, packet)) = self.packets.pop_first().expect("it is there");
                self.arrive(to, packet);
                continue;
            }
            for node in 0..2 {
                if let Some(this) = &mut self.nodes[node] {
                    this.bfd.handle_timeout(self.now);
                    this.speaker.handle_timeout(self.now);
                }
                self.settle(node);
            }
        }
        self.now = end;
    }
}

#[test]
fn a_cut_link_ends_the_sessions_within_the_detection_time() {
    let mut wire = Wire::up();
    assert_eq!([wire.routes(0), wire.routes(1)], [1, 1]);
    wire.cut = true;
    wire.run(Duration::from_millis(302));
    for node in 0..2 {
        let report = wire.report(node);
        assert_ne!(report.state, SessionState::Established);
        let (error, _) = report.last_error.expect("one");
        assert!(error.to_string().contains("BFD failed: no packet from the neighbor for 300ms"), "{error}");
        // Despite graceful restart on both sides: BFD has detected that packets are lost.
        assert_eq!((wire.routes(node), report.stale), (0, 0));
    }
    wire.cut = false;
    wire.run(60 * SECOND);
    assert_eq!([wire.report(0).state, wire.report(1).state], [SessionState::Established; 2]);
    assert_eq!([wire.bfd_state(0), wire.bfd_state(1)], [bfd::State::Up; 2]);
}

#[test]
fn without_bfd_it_takes_the_hold_time() {
    let mut wire = Wire::new([config(0, None), config(1, None)]);
    wire.run(10 * SECOND);
    assert!(wire.node(0).desired.is_empty() && wire.report(0).bfd.is_none());
    wire.cut = true;
    wire.run(50 * SECOND);
    assert_eq!(wire.report(0).state, SessionState::Established);
}

/// RFC 5882 §3.2 leaves the meaning of a session that is not up to the client; here it has none.
#[test]
fn bfd_that_never_comes_up_does_not_hold_bgp_down() {
    let mut wire = Wire::new([config(0, Some(quick())), config(1, None)]);
    wire.run(600 * SECOND);
    assert_eq!(wire.bfd_state(0), bfd::State::Down);
    let report = wire.report(0);
    assert_eq!((report.state, report.established_count), (SessionState::Established, 1));
}

#[test]
fn bfd_is_changed_switched_off_and_on_without_a_reset() {
    let mut wire = Wire::up();
    let slow = quick().min_rx(SECOND).multiplier(5);
    // Another path means another port, and so another session.
    let single_hop = quick().path(bfd::Path::SingleHop);
    for bfd in [Some(slow), None, Some(quick()), Some(single_hop), Some(quick())] {
        wire.set_config(0, config(0, bfd));
        wire.run(10 * SECOND);
        assert_eq!(wire.node(0).desired.values().copied().next(), bfd);
        assert_eq!(wire.report(0).bfd.is_some(), bfd.is_some());
        for node in 0..2 {
            let report = wire.report(node);
            let state = (report.state, report.established_count);
            assert_eq!(state, (SessionState::Established, 1), "{bfd:?}: {}", report.reason);
        }
    }
    assert_eq!(wire.failures, 0);
    assert_eq!([wire.bfd_state(0), wire.bfd_state(1)], [bfd::State::Up; 2]);
}

/// The BFD sessions of a process that is killed end with it. Its kernel closes the connection first, so peers start a
/// graceful restart, which the failure of BFD does not end (RFC 5882 §4.3.2), whether it is detected before the process
/// is back or after.
#[test]
fn a_restart_with_graceful_restart_costs_no_route() {
    for away in [50, 150, 290, 310, 2000, 20_000] {
        let mut wire = Wire::up();
        wire.kill(1);
        for _ in 0..away {
            wire.run(Duration::from_millis(1));
            assert_eq!(wire.routes(0), 1, "after {away} ms");
        }
        wire.start(1, config(1, Some(quick())), true);
        for _ in 0..200 {
            wire.run(Duration::from_millis(50));
            assert_eq!(wire.routes(0), 1, "back after {away} ms");
        }
        assert_eq!(wire.failures, 1);
        let report = wire.report(0);
        assert_eq!((report.state, report.established_count, report.stale), (SessionState::Established, 2, 0));
        assert_eq!([wire.bfd_state(0), wire.bfd_state(1)], [bfd::State::Up; 2]);
        // A failure of the new BFD session ends the new BGP session.
        wire.cut = true;
        wire.run(Duration::from_millis(302));
        assert_eq!(wire.routes(0), 0);
    }
}

/// If the neighbor's BFD survives a restart of its control plane, the failure is one of the path (RFC 5882 §4.3.1).
#[test]
fn an_independent_bfd_that_fails_ends_a_restart() {
    for (independent, kept) in [(false, 1), (true, 0)] {
        let mut wire = Wire::up();
        wire.kill(1);
        wire.run(Duration::from_millis(10));
        let key = Key::new(address(0), address(1));
        let down =
            bfd::Event::down(key, bfd::Reason::NeighborDown(bfd::Diagnostic::None), independent, wire.now);
        let now = wire.now;
        wire.node(0).speaker.bfd_event(now, &down);
        wire.settle(0);
        assert_eq!(wire.routes(0), kept);
    }
}

#[test]
fn a_removed_neighbor_and_a_speaker_that_shuts_down_end_their_bfd_sessions() {
    let mut wire = Wire::up();
    let now = wire.now;
    wire.node(0).speaker.shutdown(now, "");
    wire.settle(0);
    assert!(wire.node(0).desired.is_empty());
    let none = config(1, None).neighbors([]);
    wire.set_config(1, none);
    assert!(wire.node(1).desired.is_empty());
    wire.run(10 * SECOND);
    assert_eq!(wire.failures, 0, "both sent AdminDown");
}

#[test]
fn a_neighbor_from_a_range_has_bfd_until_it_leaves() {
    let mut listening = config(0, Some(quick()));
    let neighbor = listening.neighbors.remove(0);
    listening.graceful_restart = None;
    let range = Prefix::new(Ipv4Addr::new(10, 0, 0, 0).into(), 24).unwrap();
    listening.ranges = vec![ListenRange::new(range, 1, neighbor)];
    let mut wire = Wire::new([listening, config(1, Some(quick()))]);
    wire.run(10 * SECOND);
    assert_eq!(wire.bfd_state(0), bfd::State::Up);
    wire.cut = true;
    wire.run(10 * SECOND);
    assert!(wire.node(0).desired.is_empty(), "{:?}", wire.node(0).speaker.sessions(Instant::now()));
}

#[test]
fn invalid_settings_are_rejected() {
    let check = |change: fn(&mut Neighbor)| {
        let mut config = config(0, Some(quick()));
        change(&mut config.neighbors[0]);
        config.validate().unwrap_err().to_string()
    };
    assert!(check(|n| n.bfd = Some(quick().multiplier(0))).contains("multiplier is 0"));
    assert!(check(|n| n.bfd = Some(quick().min_rx(Duration::ZERO))).contains("below 1 ms"));
    let further = check(|n| {
        n.bfd = Some(Settings::default());
        n.ttl = heliograph_bgp::Ttl::Hops(2);
    });
    assert!(further.contains("make BFD multihop"), "{further}");
}
