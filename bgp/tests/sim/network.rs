//! A network of speakers in one thread: TCP with random latency and re-chunking, faults, and time that jumps to the next
//! thing that happens. Everything follows from one seed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use fastrand::Rng;
use heliograph_bgp::speaker::{Action, ConnId, Event};
use heliograph_bgp::{Config, Speaker};

/// The seed of a test: from the environment to replay one, printed when the test fails.
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

/// One end of a TCP connection.
#[derive(Clone, Copy, Debug)]
struct End {
    node: NodeId,
    conn: ConnId,
    open: bool,
    /// Nothing sent to this end arrives before.
    arrival: Instant,
}

#[derive(Debug)]
struct Link {
    ends: [Option<End>; 2],
    /// Packets no longer get through, and nobody is told.
    severed: bool,
}

/// What arrives.
#[derive(Debug)]
enum Arrival {
    Syn { link: usize, to: NodeId, local: SocketAddr, remote: SocketAddr },
    SynAck { link: usize },
    Refused { link: usize },
    Data { link: usize, end: usize, bytes: Bytes },
    Fin { link: usize, end: usize, reason: &'static str },
}

struct Node {
    address: Ipv4Addr,
    config: Config,
    speaker: Option<Speaker>,
    deadline: Option<Instant>,
    events: Vec<Event>,
}

pub struct Network {
    pub now: Instant,
    pub rng: Rng,
    /// Octets on their way at most this long.
    pub latency: Duration,
    nodes: Vec<Node>,
    by_address: BTreeMap<Ipv4Addr, NodeId>,
    links: Vec<Link>,
    by_conn: HashMap<(NodeId, ConnId), (usize, usize)>,
    arrivals: BinaryHeap<Reverse<(Instant, u64)>>,
    payloads: HashMap<u64, Arrival>,
    deadlines: BTreeSet<(Instant, NodeId)>,
    sequence: u64,
    cut: BTreeSet<(NodeId, NodeId)>,
    pub delivered: u64,
}

impl Network {
    pub fn new(seed: u64) -> Self {
        Self {
            now: Instant::now(), // an origin to count from; its value does not matter
            rng: Rng::with_seed(seed),
            latency: Duration::from_millis(20),
            nodes: Vec::new(),
            by_address: BTreeMap::new(),
            links: Vec::new(),
            by_conn: HashMap::new(),
            arrivals: BinaryHeap::new(),
            payloads: HashMap::new(),
            deadlines: BTreeSet::new(),
            sequence: 0,
            cut: BTreeSet::new(),
            delivered: 0,
        }
    }

    /// Adds a node that is not yet running.
    pub fn add(&mut self, address: Ipv4Addr, config: Config) -> NodeId {
        let id = self.nodes.len();
        self.by_address.insert(address, id);
        self.nodes.push(Node { address, config, speaker: None, deadline: None, events: Vec::new() });
        id
    }

    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    pub fn address(&self, node: NodeId) -> Ipv4Addr {
        self.nodes[node].address
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

    /// What its speaker has reported since the last call.
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
        if let Some(speaker) = &mut self.nodes[node].speaker {
            speaker.set_config(self.now, config).expect("the test's config is valid");
            self.pump(node);
        }
    }

    /// The process is gone; its kernel closes the connections.
    pub fn kill(&mut self, node: NodeId) {
        self.nodes[node].speaker = None;
        self.index_deadline(node);
        let mut ends: Vec<_> =
            self.by_conn.iter().filter(|((n, _), _)| *n == node).map(|(k, v)| (*k, *v)).collect();
        ends.sort(); // the order of a HashMap is not that of the seed
        for (key, (link, end)) in ends {
            self.by_conn.remove(&key);
            self.hang_up(link, end, "connection reset by peer");
        }
    }

    /// Resets a random connection: one that lives, unless they are few.
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
            self.push(self.now, Arrival::Fin { link, end, reason: "connection reset by peer" });
        }
    }

    /// Loses all packets between two nodes, silently, or no more.
    pub fn cut(&mut self, a: NodeId, b: NodeId, cut: bool) {
        let pair = (a.min(b), a.max(b));
        match cut {
            true => self.cut.insert(pair),
            false => self.cut.remove(&pair),
        };
    }

    /// Lets time pass.
    pub fn run_for(&mut self, time: Duration) {
        let until = self.now + time;
        while self.step(until) {}
        self.now = until;
    }

    /// The next thing that happens up to `until`; false where nothing does.
    pub fn step(&mut self, until: Instant) -> bool {
        let arrival = self.arrivals.peek().map(|Reverse((at, _))| *at);
        let deadline = self.deadlines.first().map(|(at, _)| *at);
        // What arrives comes before the timer of the same moment, as drivers are told to do.
        match (arrival, deadline) {
            (Some(at), deadline) if at <= until && deadline.is_none_or(|deadline| at <= deadline) => {
                let Some(Reverse((at, key))) = self.arrivals.pop() else { return false };
                self.now = self.now.max(at);
                let arrival = self.payloads.remove(&key).expect("each arrival has its payload");
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
                self.pump(node);
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
                self.pump(end.node);
            }
            Arrival::Refused { link } => {
                let Some(end) = self.take_end(link, 0) else { return };
                let speaker = self.nodes[end.node].speaker.as_mut().expect("open ends have speakers");
                speaker.connect_failed(self.now, end.conn, "connection refused".into());
                self.pump(end.node);
            }
            Arrival::Data { link, end, bytes } => {
                if self.lost(link) {
                    return;
                }
                let Some(end) = self.links[link].ends[end].filter(|end| end.open) else { return };
                let speaker = self.nodes[end.node].speaker.as_mut().expect("open ends have speakers");
                speaker.received(self.now, end.conn, &bytes);
                self.pump(end.node);
            }
            Arrival::Fin { link, end, reason } => {
                if self.links[link].ends.iter().all(Option::is_some) && self.is_cut(link) {
                    return;
                }
                let Some(end) = self.take_end(link, end) else { return };
                let speaker = self.nodes[end.node].speaker.as_mut().expect("open ends have speakers");
                speaker.closed(self.now, end.conn, reason.into());
                self.pump(end.node);
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
                self.links[link].ends[1] = Some(End { node: to, conn, open: true, arrival: now });
                self.by_conn.insert((to, conn), (link, 1));
                if let Some(end) = &mut self.links[link].ends[0] {
                    end.arrival = back;
                }
                self.push(back, Arrival::SynAck { link });
                self.pump(to);
            }
            None => self.push(back, Arrival::Refused { link }),
        }
    }

    /// Does what a node's speaker wants done.
    fn pump(&mut self, node: NodeId) {
        let mut out = BytesMut::new();
        while let Some(speaker) = &mut self.nodes[node].speaker {
            if let Some(conn) = speaker.poll_transmit() {
                let limit = 1 << self.rng.u32(0..16);
                while speaker.transmit(self.now, conn, limit, &mut out) > 0 {}
                let bytes = std::mem::take(&mut out).freeze();
                self.send(node, conn, bytes);
            } else if let Some(action) = speaker.poll_action() {
                self.act(node, action);
            } else {
                break;
            }
        }
        if let Some(speaker) = &mut self.nodes[node].speaker {
            let events: Vec<_> = std::iter::from_fn(|| speaker.poll_event()).collect();
            self.nodes[node].events.extend(events);
        }
        self.index_deadline(node);
    }

    fn act(&mut self, node: NodeId, action: Action) {
        match action {
            Action::Connect { conn, remote, .. } => {
                let link = self.links.len();
                let end = End { node, conn, open: true, arrival: self.now };
                self.links.push(Link { ends: [Some(end), None], severed: false });
                self.by_conn.insert((node, conn), (link, 0));
                let IpAddr::V4(to) = remote.ip() else { panic!("the simulated network is IPv4") };
                let from = SocketAddr::new(self.address(node).into(), 50_000);
                let at = self.now + self.delay();
                match self.by_address.get(&to) {
                    Some(&to) => self.push(at, Arrival::Syn { link, to, local: remote, remote: from }),
                    None => self.push(at, Arrival::Refused { link }),
                }
            }
            // The simulated wire has no keys, and nothing else runs over it.
            Action::Protect { .. } | Action::Watch { .. } => {}
            Action::Close { conn } => {
                if let Some((link, end)) = self.by_conn.remove(&(node, conn)) {
                    self.hang_up(link, end, "closed by peer");
                }
            }
        }
    }

    /// Sends in pieces, in order, each when it pleases.
    fn send(&mut self, node: NodeId, conn: ConnId, mut bytes: Bytes) {
        let Some(&(link, end)) = self.by_conn.get(&(node, conn)) else { return };
        let to = 1 - end;
        while !bytes.is_empty() {
            let whole = self.rng.bool();
            let length = if whole { bytes.len() } else { self.rng.usize(1..=bytes.len()) };
            let piece = bytes.split_to(length);
            let at = self.arrival(link, to);
            self.push(at, Arrival::Data { link, end: to, bytes: piece });
        }
    }

    /// One end is closed; the other hears of it after all that was sent.
    fn hang_up(&mut self, link: usize, end: usize, reason: &'static str) {
        if let Some(end) = &mut self.links[link].ends[end] {
            end.open = false;
        }
        let at = self.arrival(link, 1 - end);
        self.push(at, Arrival::Fin { link, end: 1 - end, reason });
    }

    /// When what is sent now to an end arrives: after all that was sent before.
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

    /// Whether packets on a link are lost; a link that lost one is dead for good, as TCP cannot go on.
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
        self.by_conn.remove(&(end.node, end.conn));
        Some(end)
    }

    fn delay(&mut self) -> Duration {
        self.latency.mul_f64(self.rng.f64())
    }

    fn push(&mut self, at: Instant, arrival: Arrival) {
        self.sequence += 1;
        self.payloads.insert(self.sequence, arrival);
        self.arrivals.push(Reverse((at, self.sequence)));
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
