//! A BGP speaker outside the cluster, with any number of routes. All messages are encoded beforehand.
//!
//! This does not use the crate's `wire`: the measured code must not measure itself, and this has to be cheap.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

use crate::network::address;

/// The address of the speaker with the routes, and its AS number.
pub const TABLE: (Ipv4Addr, u32) = (Ipv4Addr::new(10, 100, 255, 1), 64600);
/// The address of the speaker that measures delays, and its AS number.
pub const PROBE: (Ipv4Addr, u32) = (Ipv4Addr::new(10, 100, 255, 2), 64601);
/// So long that no KEEPALIVE is needed while a case runs.
pub const HOLD_SECONDS: u16 = 3600;
/// The number of routes with the same attributes.
const PER_SET: u32 = 8;
/// The number of withdrawn routes in a message.
const PER_WITHDRAWAL: u32 = 500;
/// The timeout for a session to be established.
const ESTABLISH_TIMEOUT: Duration = Duration::from_secs(60);

const OPEN: u8 = 1;
const UPDATE: u8 = 2;
const NOTIFICATION: u8 = 3;
const KEEPALIVE: u8 = 4;
const ROUTE_REFRESH: u8 = 5;
const HEADER: usize = 19;

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    /// Returns its name in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    /// Returns AFI and SAFI.
    fn numbers(self) -> [u8; 3] {
        match self {
            Self::V4 => [0, 1, 1],
            Self::V6 => [0, 2, 1],
        }
    }
}

/// Returns the BGPPeer of a speaker.
pub fn bgp_peer(name: &str, (address, asn): (Ipv4Addr, u32), family: Family) -> Value {
    json!({"apiVersion": "heliograph.io/v1alpha1", "kind": "BGPPeer", "metadata": {"name": name}, "spec": {
        "peerAddress": address, "peerASN": asn, "passive": true, "families": [family.name()],
        "timers": {"holdSeconds": HOLD_SECONDS},
        "import": [{"cidr": "0.0.0.0/0", "maxLength": 32}, {"cidr": "::/0", "maxLength": 128}],
        "export": [{"cidr": "10.128.0.0/9", "maxLength": 24}, {"cidr": "fd00:80::/32", "maxLength": 64}],
    }})
}

/// Returns the octets of the prefix of route `n`: a /24 or a /48.
fn prefix(family: Family, n: u32) -> Vec<u8> {
    match family {
        Family::V4 => ((20 << 24) + (n << 8)).to_be_bytes()[..3].to_vec(),
        Family::V6 => [&(0x2a00_0000 + n).to_be_bytes()[..], &[0, 0]].concat(),
    }
}

/// Returns the number of the route to a destination.
pub fn route_number(family: Family, destination: &[u8]) -> Option<u32> {
    let head = u32::from_be_bytes(destination.get(..4)?.try_into().ok()?);
    match family {
        Family::V4 if destination.len() == 4 => head.checked_sub(20 << 24).map(|rest| rest >> 8),
        Family::V6 if destination.len() == 16 => head.checked_sub(0x2a00_0000),
        _ => None,
    }
}

/// Returns the octets of next hop `number`, which is on the agent's link.
fn next_hop(family: Family, number: u16) -> Vec<u8> {
    match family {
        Family::V4 => vec![10, 100, 254, number as u8],
        Family::V6 => Ipv6Addr::new(0xfd00, 100, 0, 0, 0, 0, 0xfe, number).octets().to_vec(),
    }
}

/// Returns the number of a next hop.
pub fn next_hop_number(family: Family, octets: &[u8]) -> Option<u16> {
    let number = u16::from(*octets.last()?);
    (octets == next_hop(family, number)).then_some(number)
}

/// The routes of the speaker.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    pub family: Family,
    pub routes: u32,
    /// The number of next hops.
    pub next_hops: u16,
    /// Another number means other next hops for all routes.
    pub version: u16,
}

impl Table {
    /// Returns the number of the next hop of route `n`.
    pub fn next_hop(&self, n: u32) -> u16 {
        let set = n / PER_SET + u32::from(self.version);
        1 + (set % u32::from(self.next_hops)) as u16
    }

    /// Returns the messages that advertise the routes, with attributes of their own for every few of them.
    pub fn advertise(&self) -> Vec<u8> {
        let mut rng = fastrand::Rng::with_seed(1);
        let mut out = Vec::new();
        for first in (0..self.routes).step_by(PER_SET as usize) {
            let routes = first..self.routes.min(first + PER_SET);
            let path: Vec<u32> = (0..rng.usize(1..5)).map(|_| rng.u32(1..400_000)).collect();
            let communities: Vec<u32> = (0..rng.usize(0..4)).map(|_| rng.u32(1 << 16..1 << 31)).collect();
            let mut block =
                vec![0x40, 1, 1, 0, 0x40, 2, 2 + 4 * (path.len() as u8 + 1), 2, path.len() as u8 + 1];
            for asn in [TABLE.1].iter().chain(path.iter().filter(|asn| **asn != 64512)) {
                block.extend(asn.to_be_bytes());
            }
            block.extend([0x80, 4, 4]);
            block.extend(first.to_be_bytes());
            if !communities.is_empty() {
                block.extend([0xc0, 8, 4 * communities.len() as u8]);
                communities.iter().for_each(|community| block.extend(community.to_be_bytes()));
            }
            let hop = next_hop(self.family, self.next_hop(first));
            let mut prefixes = Vec::new();
            routes.for_each(|n| self.append(n, &mut prefixes));
            if self.family == Family::V4 {
                block.extend([0x40, 3, 4]);
                block.extend(hop);
            } else {
                let mut value = self.family.numbers().to_vec();
                value.push(hop.len() as u8);
                value.extend(hop);
                value.push(0);
                value.append(&mut prefixes);
                block.extend([0x80, 14, value.len() as u8]);
                block.extend(value);
            }
            let mut body = vec![0, 0];
            body.extend((block.len() as u16).to_be_bytes());
            body.extend(block);
            body.extend(prefixes);
            out.extend(message(UPDATE, &body));
        }
        out
    }

    /// Returns the messages that withdraw the routes.
    pub fn withdraw(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for first in (0..self.routes).step_by(PER_WITHDRAWAL as usize) {
            let mut prefixes = Vec::new();
            (first..self.routes.min(first + PER_WITHDRAWAL)).for_each(|n| self.append(n, &mut prefixes));
            let mut body = Vec::new();
            if self.family == Family::V4 {
                body.extend((prefixes.len() as u16).to_be_bytes());
                body.extend(prefixes);
                body.extend([0, 0]);
            } else {
                let value = [&self.family.numbers()[..], &prefixes].concat();
                body.extend([0, 0]);
                body.extend((value.len() as u16 + 4).to_be_bytes());
                body.extend([0x90, 15]);
                body.extend((value.len() as u16).to_be_bytes());
                body.extend(value);
            }
            out.extend(message(UPDATE, &body));
        }
        out
    }

    fn append(&self, n: u32, out: &mut Vec<u8>) {
        let prefix = prefix(self.family, n);
        out.push(8 * prefix.len() as u8);
        out.extend(prefix);
    }
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![0xff; 16];
    out.extend(((HEADER + body.len()) as u16).to_be_bytes());
    out.push(kind);
    out.extend(body);
    out
}

/// Returns an OPEN with one family (RFC 4760), route refresh (RFC 2918, RFC 7313) and 4-octet AS numbers (RFC 6793).
fn open(family: Family, (address, asn): (Ipv4Addr, u32)) -> Vec<u8> {
    let [afi, low, safi] = family.numbers();
    let mut capabilities = vec![1, 4, afi, low, 0, safi, 2, 0, 70, 0, 65, 4];
    capabilities.extend(asn.to_be_bytes());
    let mut body = vec![4];
    body.extend((asn as u16).to_be_bytes());
    body.extend(HOLD_SECONDS.to_be_bytes());
    body.extend(address.octets());
    body.extend([capabilities.len() as u8 + 2, 2, capabilities.len() as u8]);
    body.extend(capabilities);
    message(OPEN, &body)
}

fn end_of_rib(family: Family) -> Vec<u8> {
    match family {
        Family::V4 => message(UPDATE, &[0, 0, 0, 0]),
        Family::V6 => message(UPDATE, &[0, 0, 0, 6, 0x80, 15, 3, 0, 2, 1]),
    }
}

/// The session of a speaker.
pub struct Outside {
    stream: TcpStream,
    family: Family,
    received: Vec<u8>,
}

impl Outside {
    /// Connects to the daemon, and returns when the session is established and End-of-RIB is sent.
    pub fn establish(speaker: (Ipv4Addr, u32), family: Family) -> Result<Self> {
        let deadline = Instant::now() + ESTABLISH_TIMEOUT;
        loop {
            match Self::attempt(speaker, family) {
                Ok(session) => return Ok(session),
                // The daemon does not listen yet, or does not accept this speaker yet.
                Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(50)),
                Err(error) => return Err(error.context(format!("no session of {} in time", speaker.0))),
            }
        }
    }

    fn attempt(speaker: (Ipv4Addr, u32), family: Family) -> Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddr::from((speaker.0, 0)).into())?;
        socket.connect_timeout(&SocketAddr::from((address(0), 179)).into(), Duration::from_secs(1))?;
        socket.set_tcp_nodelay(true)?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut session = Self { stream: socket.into(), family, received: Vec::new() };
        session.send(&open(family, speaker))?;
        session.next(OPEN)?;
        session.send(&message(KEEPALIVE, &[]))?;
        session.next(KEEPALIVE)?;
        session.send(&end_of_rib(family))?;
        Ok(session)
    }

    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).context("the daemon ended the session")
    }

    /// Requests the daemon's routes again, and returns the time until the answer begins (RFC 7313 §4). Waits for its end.
    pub fn refresh(&mut self) -> Result<Duration> {
        let [afi, low, safi] = self.family.numbers();
        let start = Instant::now();
        self.send(&message(ROUTE_REFRESH, &[afi, low, 0, safi]))?;
        self.next_refresh(1)?;
        let delay = start.elapsed();
        self.next_refresh(2)?;
        Ok(delay)
    }

    /// Reads until a BoRR (subtype 1) or EoRR (2).
    fn next_refresh(&mut self, subtype: u8) -> Result<()> {
        while self.next(ROUTE_REFRESH)?[2] != subtype {}
        Ok(())
    }

    /// Reads until a message of this type, and returns its body.
    fn next(&mut self, wanted: u8) -> Result<Vec<u8>> {
        loop {
            while let Some((kind, body)) = self.message() {
                ensure!(
                    kind != NOTIFICATION,
                    "the daemon sent a NOTIFICATION {:?}",
                    &body[..body.len().min(2)]
                );
                if kind == wanted {
                    return Ok(body);
                }
            }
            let mut buffer = [0; 4096];
            match self.stream.read(&mut buffer) {
                Ok(0) => bail!("the daemon closed the connection"),
                Ok(count) => self.received.extend(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("no answer of the daemon"),
            }
        }
    }

    fn message(&mut self) -> Option<(u8, Vec<u8>)> {
        let header = self.received.get(..HEADER)?;
        let (length, kind) = (usize::from(u16::from_be_bytes([header[16], header[17]])), header[18]);
        let body = self.received.get(HEADER..length)?.to_vec();
        self.received.drain(..length);
        Some((kind, body))
    }
}
