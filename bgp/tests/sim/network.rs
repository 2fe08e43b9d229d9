//! A network of speakers in one thread: TCP with random latency and chunks, faults, and a clock that advances to the next
//! event. Everything is determined by one seed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use fastrand::Rng;
use heliograph_bgp::speaker::{Action, ConnId, Event};
use heliograph_bgp::{Config, Speaker};

/// Returns the seed of a test: from the environment to replay one, printed when the test fails.
pub struct Seed(pub u64);

impl Seed {
    pub fn new(default: u64) -> Self {
        let given = std::env::var("HELIOGRAPH_SIM_SEED").ok();
        Self(given.map_or(default, |text| text.parse().expect("HELIOGRAPH_SIM_SEED must be a number")))
    }
}

impl Drop for Seed {
    fn drop(&mut self) {
        let replay = if std::thread::panicking() { "failed: replay with" } else { "ran with" };
        println!("simulation {replay} HELIOGRAPH_SIM_SEED={}", self.0);
    }
}

pub type NodeId = usize;

/// The capacity of one direction of a connection, in octets, as a kernel's buffers are limited too.
const WINDOW: usize = 64 * 1024;

/// One end of a TCP connection.
#[derive(Clone, Copy, Debug)]
struct End {
    node: NodeId,
    conn: ConnId,
    open: bool,
    /// The earliest arrival of data sent to this end.
    arrival: Instant,
    /// The octets in flight to this end.
    under_way: usize,
    /// The other end has more to send once there is room.
    awaited: bool,
}

impl End {
    fn new(node: NodeId, conn: ConnId, now: Instant) -> Self {
        Self { node, conn, open: true, arrival: now, under_way: 0, awaited: false }
    }
}

#[derive(Debug)]
struct Link {
    ends: [Option<End>; 2],
    /// Packets are lost without a notification.
    severed: bool,
}

/// An event in flight.
#[derive(Debug)]
enum Arrival {
    Syn {
        link: usize,
        to: NodeId,
        local: SocketAddr,
        remote: SocketAddr,
    },
    SynAck {
        link: usize,
    },
    Refused {
        link: usize,
    },
    Data {
        link: usize,
        end: usize,
        bytes: Bytes,
    },
    Fin {
        link: usize,
        end: usize,
        reason: &'static str,
    },
    /// A node processes what it has received.
    Turn {
        node: NodeId,
    },
}

/// The events in flight, each under a number that is reused.
#[derive(Default)]
struct Arrivals {
    /// The time, the order among events of the same time, and the number.
    queue: BinaryHeap<Reverse<(Instant, u64, usize)>>,
    payloads: Vec<Option<Arrival>>,
    free: Vec<usize>,
    sequence: u64,
}

impl Arrivals {
    fn push(&mut self, at: Instant, arrival: Arrival) {
        self.sequence += 1;
        let number = self.free.pop().unwrap_or(self.payloads.len());
        if number == self.payloads.len() {
            self.payloads.push(None);
        }
        self.payloads[number] = Some(arrival);
        self.queue.push(Reverse((at, self.sequence, number)));
    }

    fn next(&self) -> Option<Instant> {
        self.queue.peek().map(|Reverse((at, ..))| *at)
    }

    fn pop(&mut self) -> Option<(Instant, Arrival)> {
        let Reverse((at, _, number)) = self.queue.pop()?;
        self.free.push(number);
        Some((at, self.payloads[number].take().expect("each arrival has its payload")))
    }
}

struct Node {
    address: Ipv4Addr,
    config: Config,
    /// The addresses of its neighbors.
    peers: HashSet<IpAddr>,
    speaker: Option<Speaker>,
    deadline: Option<Instant>,
    events: Vec<Event>,
    /// Its connections: the link and end of each.
    conns: BTreeMap<ConnId, (usize, usize)>,
    /// Its turn is scheduled.
    woken: bool,
}

fn addresses(config: &Config) -> HashSet<IpAddr> {
    config.neighbors.iter().map(|neighbor| neighbor.address).collect()
}

pub struct Network {
    pub now: Instant,
    pub rng: Rng,
    /// The longest latency.
    pub latency: Duration,
    /// The time for which a node collects what it receives before it sends. Zero: it answers at once.
    turn: Duration,
    /// The size of a chunk requested from a speaker, in octets, as a range of powers of two.
    limits: std::ops::Range<u32>,
    nodes: Vec<Node>,
    by_address: BTreeMap<Ipv4Addr, NodeId>,
    links: Vec<Link>,
    arrivals: Arrivals,
    deadlines: BTreeSet<(Instant, NodeId)>,
    cut: BTreeSet<(NodeId, NodeId)>,
    /// The nodes whose best routes have changed since the last check.
    changed: BTreeSet<NodeId>,
    pub delivered: u64,
}

impl Network {
    pub fn new(seed: u64) -> Self {
        Self {
            now: Instant::now(), // the origin of the simulated clock; its value does not matter
            rng: Rng::with_seed(seed),
            latency: Duration::from_millis(20),
            turn: Duration::ZERO,
            limits: 0..16,
            nodes: Vec::new(),
            by_address: BTreeMap::new(),
            links: Vec::new(),
            arrivals: Arrivals::default(),
            deadlines: BTreeSet::new(),
            cut: BTreeSet::new(),
            changed: BTreeSet::new(),
            delivered: 0,
        }
    }

    /// Returns a network for thousands of nodes: with fewer and larger chunks, as busy nodes send them.
    pub fn scale(&mut self) {
        self.turn = Duration::from_millis(20);
        self.limits = 13..17;
    }

    /// Adds a node that is not running yet.
    pub fn add(&mut self, address: Ipv4Addr, config: Config) -> NodeId {
        let id = self.nodes.len();
        self.by_address.insert(address, id);
        self.nodes.push(Node {
            address,
            peers: addresses(&config),
            config,
            speaker: None,
            deadline: None,
            events: Vec::new(),
            conns: BTreeMap::new(),
            woken: false,
        });
        id
    }

    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    pub fn address(&self, node: NodeId) -> Ipv4Addr {
        self.nodes[node].address
    }

    /// Returns the node with an address.
    pub fn node_at(&self, address: IpAddr) -> Option<NodeId> {
        let IpAddr::V4(address) = address else { return None };
        self.by_address.get(&address).copied()
    }

    /// Returns whether a node is configured to peer with another.
    pub fn has_peer(&self, node: NodeId, other: NodeId) -> bool {
        self.nodes[node].peers.contains(&self.address(other).into())
    }

    pub fn are_cut(&self, a: NodeId, b: NodeId) -> bool {
        self.cut.contains(&(a.min(b), a.max(b)))
    }

    pub fn config(&self, node: NodeId) -> &Config {
        &self.nodes[node].config
    }

    pub fn is_up(&self, node: NodeId) -> bool {
        self.nodes[node].speaker.is_some()
    }

    pub fn speaker(&self, node: NodeId) -> &Speaker {
        self.nodes[node].speaker.as_ref().expect("the node runs")
    }

    /// Returns the events of a node's speaker since the last call.
    pub fn events(&mut self, node: NodeId) -> Vec<Event> {
        std::mem::take(&mut self.nodes[node].events)
    }

    pub fn start(&mut self, node: NodeId, restarting: bool) {
        let seed = self.rng.u64(..);
        let config = self.nodes[node].config.clone();
        self.nodes[node].speaker =
            Some(Speaker::new(config, restarting, self.now, seed).expect("the test's config is valid"));
        self.pump(node);
    }

    pub fn set_config(&mut self, node: NodeId, config: Config) {
        self.nodes[node].config = config.clone();
        self.nodes[node].peers = addresses(&config);
        if let Some(speaker) = &mut self.nodes[node].speaker {
            speaker.set_config(self.now, config).expect("the test's config is valid");
            self.pump(node);
        }
    }

    /// Kills a node's process; its kernel closes the connections.
    pub fn kill(&mut self, node: NodeId) {
        self.nodes[node].speaker = None;
        self.index_deadline(node);
        for (link, end) in std::mem::take(&mut self.nodes[node].conns).into_values() {
            self.hang_up(link, end, "connection reset by peer");
        }
    }

    /// Resets a random connection: an established one, unless there are few.
    pub fn reset_random(&mut self) {
        let lives = |link: &Link| link.ends.iter().flatten().filter(|end| end.open).count() == 2;
        for _ in 0..100.min(self.links.len()) {
            let link = self.rng.usize(..self.links.len());
            if lives(&self.links[link]) {
                return self.reset(link);
            }
        }
    }

    fn reset(&mut self, link: usize) {
        self.links[link].severed = true;
        for end in 0..2 {
            self.arrivals.push(self.now, Arrival::Fin { link, end, reason: "connection reset by peer" });
        }
    }

    /// Starts or ends the silent loss of all packets between two nodes.
    pub fn cut(&mut self, a: NodeId, b: NodeId, cut: bool) {
        let pair = (a.min(b), a.max(b));
        match cut {
            true => self.cut.insert(pair),
            false => self.cut.remove(&pair),
        };
    }

    /// Runs the network for some time.
    pub fn run_for(&mut self, time: Duration) {
        let until = self.now + time;
        while self.step(until) {}
        self.now = until;
    }

    /// Runs the network, and calls `look` for each node whenever its best routes have changed.
    pub fn watch(&mut self, time: Duration, mut look: impl FnMut(&Self, NodeId)) {
        let until = self.now + time;
        self.changed.clear();
        while self.step(until) {
            while let Some(node) = self.changed.pop_first() {
                look(self, node);
            }
        }
        self.now = until;
    }

    /// Processes the next event up to `until`. Returns false if there is none.
    pub fn step(&mut self, until: Instant) -> bool {
        let arrival = self.arrivals.next();
        let deadline = self.deadlines.first().map(|(at, _)| *at);
        // Data that arrives is processed before a timer of the same time, as the contract with drivers requires.
        match (arrival, deadline) {
            (Some(at), deadline) if at <= until && deadline.is_none_or(|deadline| at <= deadline) => {
                let Some((at, arrival)) = self.arrivals.pop() else { return false };
                self.now = self.now.max(at);
                self.delivered += 1;
                self.arrive(arrival);
                true
            }
            (_, Some(at)) if at <= until => {
                let Some((_, node)) = self.deadlines.pop_first() else { return false };
                self.now = self.now.max(at);
                self.nodes[node].deadline = None;
                if let Some(speaker) = &mut self.nodes[node].speaker {
                    speaker.handle_timeout(self.now);
                }
                self.wake(node);
                true
            }
            _ => false,
        }
    }

    fn arrive(&mut self, arrival: Arrival) {
        match arrival {
            Arrival::Syn { link, to, local, remote } => self.syn(link, to, local, remote),
            Arrival::SynAck { link } => {
                let Some(end) = self.links[link].ends[0].filter(|end| end.open) else { return };
                let local = SocketAddr::new(self.address(end.node).into(), 50_000);
                let speaker = self.nodes[end.node].speaker.as_mut().expect("open ends have speakers");
                speaker.connected(self.now, end.conn, local);
                self.wake(end.node);
            }
            Arrival::Refused { link } => {
                let Some(end) = self.take_end(link, 0) else { return };
                let speaker = self.nodes[end.node].speaker.as_mut().expect("open ends have speakers");
                speaker.connect_failed(self.now, end.conn, "connection refused".into());
                self.wake(end.node);
            }
            Arrival::Data { link, end, bytes } => {
                if self.lost(link) {
                    return;
                }
                self.make_room(link, end, bytes.len());
                let Some(end) = self.links[link].ends[end].filter(|end| end.open) else { return };
                let speaker = self.nodes[end.node].speaker.as_mut().expect("open ends have speakers");
                speaker.received(self.now, end.conn, &bytes);
                self.wake(end.node);
            }
            Arrival::Fin { link, end, reason } => {
                if self.links[link].ends.iter().all(Option::is_some) && self.is_cut(link) {
                    return;
                }
                let Some(end) = self.take_end(link, end) else { return };
                let speaker = self.nodes[end.node].speaker.as_mut().expect("open ends have speakers");
                speaker.closed(self.now, end.conn, reason.into());
                self.wake(end.node);
            }
            Arrival::Turn { node } => {
                self.nodes[node].woken = false;
                self.pump(node);
            }
        }
    }

    fn syn(&mut self, link: usize, to: NodeId, local: SocketAddr, remote: SocketAddr) {
        let Some(from) = self.links[link].ends[0].filter(|end| end.open) else { return };
        if self.cut.contains(&(from.node.min(to), from.node.max(to))) {
            return;
        }
        let now = self.now;
        let conn = self.nodes[to].speaker.as_mut().and_then(|speaker| speaker.accept(now, local, remote));
        let back = now + self.delay();
        match conn {
            Some(conn) => {
                self.links[link].ends[1] = Some(End::new(to, conn, now));
                self.nodes[to].conns.insert(conn, (link, 1));
                if let Some(end) = &mut self.links[link].ends[0] {
                    end.arrival = back;
                }
                self.arrivals.push(back, Arrival::SynAck { link });
                self.wake(to);
            }
            None => self.arrivals.push(back, Arrival::Refused { link }),
        }
    }

    /// Carries out the actions of a node's speaker, now or at its next turn.
    fn wake(&mut self, node: NodeId) {
        if self.turn.is_zero() {
            self.pump(node);
        } else if !std::mem::replace(&mut self.nodes[node].woken, true) {
            self.index_deadline(node);
            self.arrivals.push(self.now + self.turn, Arrival::Turn { node });
        }
    }

    /// Carries out the actions of a node's speaker.
    fn pump(&mut self, node: NodeId) {
        while let Some(speaker) = &mut self.nodes[node].speaker {
            if let Some(conn) = speaker.poll_transmit() {
                self.transmit(node, conn);
            } else if let Some(action) = speaker.poll_action() {
                self.act(node, action);
            } else {
                break;
            }
        }
        if let Some(speaker) = &mut self.nodes[node].speaker {
            let events: Vec<_> = std::iter::from_fn(|| speaker.poll_event()).collect();
            if events.contains(&Event::RoutesChanged) {
                self.changed.insert(node);
            }
            self.nodes[node].events.extend(events);
        }
        self.index_deadline(node);
    }

    /// Sends the pending messages of a connection, as far as there is room.
    fn transmit(&mut self, node: NodeId, conn: ConnId) {
        let Some(&(link, end)) = self.nodes[node].conns.get(&conn) else { return };
        let Some(speaker) = &mut self.nodes[node].speaker else { return };
        let under_way = self.links[link].ends[1 - end].map_or(0, |other| other.under_way);
        let limit = 1 << self.rng.u32(self.limits.clone());
        let mut out = BytesMut::new();
        let mut room = true;
        while room && speaker.transmit(self.now, conn, limit, &mut out) > 0 {
            room = under_way + out.len() < WINDOW;
        }
        if let Some(other) = &mut self.links[link].ends[1 - end] {
            other.under_way += out.len();
            other.awaited = !room;
        }
        self.send(link, 1 - end, out.freeze());
    }

    /// Delivers octets, and lets an end that waits for room send more.
    fn make_room(&mut self, link: usize, end: usize, octets: usize) {
        let Some(to) = &mut self.links[link].ends[end] else { return };
        to.under_way -= octets;
        if to.under_way < WINDOW / 2 && std::mem::take(&mut to.awaited) {
            let Some(from) = self.links[link].ends[1 - end].filter(|from| from.open) else { return };
            self.transmit(from.node, from.conn);
        }
    }

    fn act(&mut self, node: NodeId, action: Action) {
        match action {
            Action::Connect { conn, remote, .. } => {
                let link = self.links.len();
                let end = End::new(node, conn, self.now);
                self.links.push(Link { ends: [Some(end), None], severed: false });
                self.nodes[node].conns.insert(conn, (link, 0));
                let IpAddr::V4(to) = remote.ip() else { panic!("the simulated network is IPv4") };
                let from = SocketAddr::new(self.address(node).into(), 50_000);
                let at = self.now + self.delay();
                match self.by_address.get(&to) {
                    Some(&to) => {
                        self.arrivals.push(at, Arrival::Syn { link, to, local: remote, remote: from })
                    }
                    None => self.arrivals.push(at, Arrival::Refused { link }),
                }
            }
            Action::Close { conn, .. } => {
                if let Some((link, end)) = self.nodes[node].conns.remove(&conn) {
                    self.hang_up(link, end, "closed by peer");
                }
            }
            // The simulated network has no keys, and no BFD.
            _ => {}
        }
    }

    /// Sends data in chunks, in order, each with a random latency.
    fn send(&mut self, link: usize, to: usize, mut bytes: Bytes) {
        while !bytes.is_empty() {
            let whole = self.rng.bool();
            let length = if whole { bytes.len() } else { self.rng.usize(1..=bytes.len()) };
            let piece = bytes.split_to(length);
            let at = self.arrival(link, to);
            self.arrivals.push(at, Arrival::Data { link, end: to, bytes: piece });
        }
    }

    /// Closes one end; the other end is informed after all data that was sent.
    fn hang_up(&mut self, link: usize, end: usize, reason: &'static str) {
        if let Some(end) = &mut self.links[link].ends[end] {
            end.open = false;
        }
        let at = self.arrival(link, 1 - end);
        self.arrivals.push(at, Arrival::Fin { link, end: 1 - end, reason });
    }

    /// Returns the time at which data sent now to an end arrives: after all data sent before.
    fn arrival(&mut self, link: usize, end: usize) -> Instant {
        let at = self.now + self.delay();
        match &mut self.links[link].ends[end] {
            Some(end) => {
                end.arrival = end.arrival.max(at);
                end.arrival
            }
            None => at,
        }
    }

    /// Returns whether packets on a link are lost. A link that lost one stays broken, as TCP cannot go on.
    fn lost(&mut self, link: usize) -> bool {
        if self.is_cut(link) {
            self.links[link].severed = true;
        }
        self.links[link].severed
    }

    fn is_cut(&self, link: usize) -> bool {
        let [Some(a), Some(b)] = self.links[link].ends else { return false };
        self.cut.contains(&(a.node.min(b.node), a.node.max(b.node)))
    }

    fn take_end(&mut self, link: usize, end: usize) -> Option<End> {
        let end = self.links[link].ends[end].as_mut().filter(|end| end.open)?;
        end.open = false;
        let end = *end;
        self.nodes[end.node].conns.remove(&end.conn);
        Some(end)
    }

    fn delay(&mut self) -> Duration {
        self.latency.mul_f64(self.rng.f64())
    }

    fn index_deadline(&mut self, node: NodeId) {
        let deadline = self.nodes[node].speaker.as_ref().and_then(Speaker::next_deadline);
        let before = std::mem::replace(&mut self.nodes[node].deadline, deadline);
        if before != deadline {
            before.map(|at| self.deadlines.remove(&(at, node)));
            self.deadlines.extend(deadline.map(|at| (at, node)));
        }
    }
}
