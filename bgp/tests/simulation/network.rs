//! Speakers joined by a simulated network: virtual time, random latency, streams cut into random chunks, resets.
//! Everything follows from one seed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use heliograph_bgp::speaker::{Action, ConnId};
use heliograph_bgp::{Config, Speaker};

/// One end of a TCP connection: whose, and what that speaker calls it.
type End = (usize, ConnId);

enum What {
    /// A connection attempt reaches the host that has this address.
    Syn {
        from: End,
        to: SocketAddr,
    },
    /// Its answer: established with that end, or refused.
    Answer {
        to: End,
        result: Result<End, String>,
    },
    Bytes {
        to: End,
        bytes: Vec<u8>,
    },
    Closed {
        to: End,
        reason: String,
    },
    Wake {
        node: usize,
    },
}

struct Node {
    address: IpAddr,
    speaker: Option<Speaker>,
    /// The earliest wake-up already on the agenda.
    wake: Option<Instant>,
}

/// The other side of an open end, and when the last thing sent to it arrives: TCP keeps order.
struct Link {
    other: End,
    last_arrival: Instant,
}

pub struct Network {
    pub now: Instant,
    start: Instant,
    rng: fastrand::Rng,
    latency: Duration,
    nodes: Vec<Node>,
    by_address: BTreeMap<IpAddr, usize>,
    links: BTreeMap<End, Link>,
    agenda: BinaryHeap<Reverse<(Instant, u64)>>,
    events: BTreeMap<u64, What>,
    sequence: u64,
}

impl Network {
    /// An empty network in which a packet takes up to `latency`.
    pub fn new(seed: u64, latency: Duration) -> Self {
        let start = Instant::now();
        Self {
            now: start,
            start,
            rng: fastrand::Rng::with_seed(seed),
            latency,
            nodes: Vec::new(),
            by_address: BTreeMap::new(),
            links: BTreeMap::new(),
            agenda: BinaryHeap::new(),
            events: BTreeMap::new(),
            sequence: 0,
        }
    }

    /// Virtual time since the beginning.
    pub fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    /// Adds a host; its speaker starts now.
    pub fn add(&mut self, address: IpAddr, config: Config) -> usize {
        let node = self.nodes.len();
        self.nodes.push(Node { address, speaker: None, wake: None });
        self.by_address.insert(address, node);
        self.start_speaker(node, config, false);
        node
    }

    pub fn start_speaker(&mut self, node: usize, config: Config, restarting: bool) {
        let speaker =
            Speaker::new(config, restarting, self.now, self.rng.u64(..)).expect("a valid configuration");
        self.nodes[node].speaker = Some(speaker);
        self.nodes[node].wake = None;
        self.pump(node);
    }

    /// The process dies: the kernel closes its connections without a word.
    pub fn kill(&mut self, node: usize) {
        self.nodes[node].speaker = None;
        let ends: Vec<End> =
            self.links.range((node, FIRST)..).take_while(|(e, _)| e.0 == node).map(|(e, _)| *e).collect();
        for end in ends {
            self.close(end, "the peer closed the connection");
        }
    }

    pub fn speaker(&self, node: usize) -> &Speaker {
        self.nodes[node].speaker.as_ref().expect("a running speaker")
    }

    /// Changes what a speaker is told.
    pub fn set_config(&mut self, node: usize, config: Config) {
        let now = self.now;
        if let Some(speaker) = &mut self.nodes[node].speaker {
            speaker.set_config(now, config).expect("a valid configuration");
        }
        self.pump(node);
    }

    /// Breaks one random connection at both ends; what was under way is lost.
    pub fn reset_one(&mut self) {
        if self.links.is_empty() {
            return;
        }
        let index = self.rng.usize(..self.links.len());
        let end = *self.links.keys().nth(index).expect("an index within");
        let Some(link) = self.links.remove(&end) else { return };
        self.links.remove(&link.other);
        for to in [end, link.other] {
            self.schedule(self.now, What::Closed { to, reason: "connection reset".into() });
        }
    }

    /// Runs for `duration` of virtual time.
    pub fn run_for(&mut self, duration: Duration) {
        let until = self.now + duration;
        while let Some(Reverse((at, _))) = self.agenda.peek() {
            if *at > until {
                break;
            }
            let Some(Reverse((at, id))) = self.agenda.pop() else { break };
            self.now = at;
            if let Some(event) = self.events.remove(&id) {
                self.happen(event);
            }
        }
        self.now = until;
    }

    /// Runs until `condition` holds; panics with `what` where it doesn't within `limit` of virtual time.
    pub fn run_until(
        &mut self,
        limit: Duration,
        what: &str,
        mut condition: impl FnMut(&Self) -> Result<(), String>,
    ) {
        let until = self.now + limit;
        loop {
            match condition(self) {
                Ok(()) => return,
                Err(state) => assert!(self.now < until, "{what}: not within {limit:?}; at the end: {state}"),
            }
            self.run_for(Duration::from_secs(1));
        }
    }

    fn schedule(&mut self, at: Instant, event: What) {
        self.sequence += 1;
        self.agenda.push(Reverse((at, self.sequence)));
        self.events.insert(self.sequence, event);
    }

    fn delay(&mut self) -> Duration {
        self.latency.mul_f64(self.rng.f64())
    }

    fn happen(&mut self, event: What) {
        let now = self.now;
        let node = match event {
            What::Syn { from, to } => return self.syn(from, to),
            What::Answer { to, result } => {
                let local = SocketAddr::new(self.nodes[to.0].address, 40000);
                let Some(speaker) = &mut self.nodes[to.0].speaker else { return };
                match result {
                    Ok(_) => speaker.connected(now, to.1, local),
                    Err(reason) => speaker.connect_failed(now, to.1, reason),
                }
                to.0
            }
            What::Bytes { to, bytes } => {
                if !self.links.contains_key(&to) {
                    return;
                }
                let Some(speaker) = &mut self.nodes[to.0].speaker else { return };
                speaker.received(now, to.1, &bytes);
                to.0
            }
            What::Closed { to, reason } => {
                self.links.remove(&to);
                let Some(speaker) = &mut self.nodes[to.0].speaker else { return };
                speaker.closed(now, to.1, reason);
                to.0
            }
            What::Wake { node } => {
                self.nodes[node].wake = None;
                let Some(speaker) = &mut self.nodes[node].speaker else { return };
                if speaker.next_deadline().is_some_and(|deadline| deadline <= now) {
                    speaker.handle_timeout(now);
                }
                node
            }
        };
        self.pump(node);
    }

    fn syn(&mut self, from: End, to: SocketAddr) {
        let answer_at = self.now + self.delay();
        let remote = SocketAddr::new(self.nodes[from.0].address, 40000);
        let target = self.by_address.get(&to.ip()).copied();
        let speaker =
            target.and_then(|node| self.nodes[node].speaker.as_mut().map(|speaker| (node, speaker)));
        let accepted =
            speaker.and_then(|(node, speaker)| Some((node, speaker.accept(self.now, to, remote)?)));
        let result = accepted.ok_or_else(|| "connection refused".to_owned());
        if let Ok(end) = result {
            let last_arrival = answer_at;
            self.links.insert(end, Link { other: from, last_arrival });
            self.links.insert(from, Link { other: end, last_arrival });
        }
        self.schedule(answer_at, What::Answer { to: from, result });
        if let Some(node) = target {
            self.pump(node);
        }
    }

    /// Carries out what a speaker wants done.
    fn pump(&mut self, node: usize) {
        loop {
            let Some(speaker) = &mut self.nodes[node].speaker else { return };
            while speaker.poll_event().is_some() {}
            if let Some(conn) = speaker.poll_transmit() {
                let mut bytes = BytesMut::new();
                speaker.transmit(self.now, conn, 1 + self.rng.usize(..8192), &mut bytes);
                self.send((node, conn), &bytes);
            } else if let Some(action) = speaker.poll_action() {
                match action {
                    Action::Connect { conn, remote, .. } => {
                        let at = self.now + self.delay();
                        self.schedule(at, What::Syn { from: (node, conn), to: remote });
                    }
                    Action::Protect { .. } => {}
                    Action::Close { conn } => self.close((node, conn), "the peer closed the connection"),
                }
            } else {
                break;
            }
        }
        let deadline = self.nodes[node].speaker.as_ref().and_then(Speaker::next_deadline);
        if let Some(deadline) = deadline
            && self.nodes[node].wake.is_none_or(|wake| deadline < wake)
        {
            self.nodes[node].wake = Some(deadline);
            self.schedule(deadline, What::Wake { node });
        }
    }

    /// Puts bytes on their way in random chunks that arrive in order.
    fn send(&mut self, from: End, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (chunk, rest) = bytes.split_at(1 + self.rng.usize(..bytes.len()));
            bytes = rest;
            let arrival = self.now + self.delay();
            let Some(link) = self.links.get_mut(&from) else { return };
            link.last_arrival = link.last_arrival.max(arrival);
            let (at, to) = (link.last_arrival, link.other);
            self.schedule(at, What::Bytes { to, bytes: chunk.to_vec() });
        }
    }

    /// One side closes; the other learns it after all that was sent.
    fn close(&mut self, end: End, reason: &str) {
        let Some(link) = self.links.remove(&end) else { return };
        self.schedule(
            link.last_arrival.max(self.now),
            What::Closed { to: link.other, reason: reason.into() },
        );
    }
}

const FIRST: ConnId = ConnId::FIRST;
