//! A sniffer: counts the packets on all interfaces of a node by source and destination, apart for plain
//! ones and for those inside a tunnel (IPIP is protocol 4, its IPv6 relative 41; RFC 2003, RFC 2473).

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};
use socket2::{Domain, Protocol, Socket, Type};

use crate::netns::NetNs;
use crate::wait::wait_until;

/// Every protocol, in the byte order `socket` wants (linux/if_ether.h).
const ETH_P_ALL: u16 = 0x0003;
/// The socket's buffer in bytes.
const BUFFER: usize = 64 << 20;
/// Enough of a packet: link-layer header, two IP headers, one of TCP with options.
const SNAP: usize = 256;

/// The timeout for a sniffer to read what has passed, on a busy machine.
const CATCH_UP: Duration = Duration::from_secs(30);

/// The packets captured from one address to another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Packets that went as they are.
    pub plain: u64,
    /// Packets that went inside another IP packet.
    pub tunnelled: u64,
    /// Fragments, of the packet itself or of the one around it.
    pub fragments: u64,
    /// The largest packet in bytes, its IP header included, that of a tunnel not.
    pub largest: usize,
    /// The tunnels' ends that were seen, and how often.
    pub outer: BTreeMap<(IpAddr, IpAddr), u64>,
}

type Seen = BTreeMap<(IpAddr, IpAddr), Traffic>;

/// A running sniffer; it ends when dropped.
pub struct Sniffer {
    seen: Arc<Mutex<Seen>>,
    /// Sends the packets that [`Sniffer::catch_up`] looks out for, and receives them: nobody complains of them.
    marker: UdpSocket,
    marks: AtomicU16,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Sniffer {
    /// Starts to look at all interfaces of a network namespace, bridge ports included.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn start(netns: &NetNs) -> Result<Self> {
        let (mut socket, marker) = netns.enter(|| {
            let all = Protocol::from(i32::from(ETH_P_ALL.to_be()));
            let socket =
                Socket::new(Domain::PACKET, Type::RAW, Some(all)).context("cannot open a packet socket")?;
            socket.set_read_timeout(Some(Duration::from_millis(100)))?;
            // A bulk transfer comes faster than a busy machine lets us read. `Force`: beyond what others may ask for.
            setsockopt(&socket, RcvBufForce, &BUFFER).context("cannot enlarge the packet socket's buffer")?;
            let marker = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("cannot bind a UDP socket")?;
            Ok((socket, marker))
        })?;
        let (seen, stop) = (Arc::new(Mutex::new(Seen::new())), Arc::new(AtomicBool::new(false)));
        let (into, until) = (seen.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            let mut frame = [0; SNAP];
            while !until.load(Ordering::Relaxed) {
                match socket.read(&mut frame) {
                    Ok(length) => note(&frame[..length], &mut into.lock().unwrap_or_else(|e| e.into_inner())),
                    Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                    Err(_) => return,
                }
            }
        });
        Ok(Self { seen, marker, marks: AtomicU16::new(0), stop, thread: Some(thread) })
    }

    /// Waits until everything that has passed so far is read: only then the absence of packets has a meaning.
    /// A packet that is sent now, within the node, comes after all of that.
    ///
    /// # Errors
    /// When it cannot be sent, or is not seen.
    pub fn catch_up(&self) -> Result<()> {
        let [high, low] = self.marks.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        let mark = IpAddr::from([127, 72, high, low]);
        let port = self.marker.local_addr()?.port();
        self.marker.send_to(b"so far", (mark, port)).context("cannot send a packet within the node")?;
        wait_until(CATCH_UP, "a sniffer sees a packet sent last", || {
            let seen = self.seen.lock().unwrap_or_else(|e| e.into_inner());
            ensure!(seen.keys().any(|(_, to)| *to == mark), "{} pairs seen", seen.len());
            Ok(())
        })
    }

    /// Returns the packets captured so far from one address to another.
    #[must_use]
    pub fn traffic(&self, from: IpAddr, to: IpAddr) -> Traffic {
        self.seen.lock().unwrap_or_else(|e| e.into_inner()).get(&(from, to)).cloned().unwrap_or_default()
    }

    /// Everything seen so far, but for what stayed within the node.
    #[must_use]
    pub fn all(&self) -> BTreeMap<(IpAddr, IpAddr), Traffic> {
        let mut all = self.seen.lock().unwrap_or_else(|e| e.into_inner()).clone();
        all.retain(|(_, to), _| !to.is_loopback());
        all
    }

    /// Forgets what was seen so far.
    pub fn clear(&self) {
        self.seen.lock().unwrap_or_else(|e| e.into_inner()).clear();
    }
}

impl Drop for Sniffer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// An IP header, read.
struct Header {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    length: usize,
    fragment: bool,
    first: bool,
    payload: usize,
}

/// The link-layer address pair and type in front of the packet.
const ETHERNET: usize = 14;

fn note(frame: &[u8], seen: &mut Seen) {
    let Some(packet) = frame.get(ETHERNET..) else {
        return;
    };
    if !matches!(frame[12..ETHERNET], [0x08, 0x00] | [0x86, 0xdd]) {
        return;
    }
    let Some(outer) = header(packet) else { return };
    let inner = match outer.protocol {
        4 | 41 if outer.first => packet.get(outer.payload..).and_then(header),
        _ => None,
    };
    let (packet, tunnelled) = inner.as_ref().map_or((&outer, false), |inner| (inner, true));
    let traffic = seen.entry((packet.source, packet.destination)).or_default();
    if tunnelled {
        traffic.tunnelled += 1;
        *traffic.outer.entry((outer.source, outer.destination)).or_default() += 1;
    } else {
        traffic.plain += 1;
    }
    traffic.fragments += u64::from(outer.fragment || packet.fragment);
    traffic.largest = traffic.largest.max(packet.length);
}

fn header(bytes: &[u8]) -> Option<Header> {
    let word = |at: usize| Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
    match bytes.first()? >> 4 {
        4 => {
            let address = |at: usize| {
                Some(IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(bytes.get(at..at + 4)?).ok()?)))
            };
            // RFC 791 §3.1: the flag "more fragments" and the offset, in one word.
            let fragment = word(6)?;
            Some(Header {
                source: address(12)?,
                destination: address(16)?,
                protocol: *bytes.get(9)?,
                length: word(2)?.into(),
                fragment: fragment & 0x3fff != 0,
                first: fragment & 0x1fff == 0,
                payload: usize::from(bytes[0] & 0x0f) * 4,
            })
        }
        6 => {
            let address = |at: usize| {
                Some(IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes.get(at..at + 16)?).ok()?)))
            };
            let next = *bytes.get(6)?;
            // RFC 2473 §4.1.1: a tunnel puts a destination options header (60) with its encapsulation limit in
            // front of the packet inside.
            let (protocol, payload) = match next {
                60 => (*bytes.get(40)?, 40 + 8 * (1 + usize::from(*bytes.get(41)?))),
                next => (next, 40),
            };
            Some(Header {
                source: address(8)?,
                destination: address(24)?,
                protocol,
                length: usize::from(word(4)?) + 40,
                fragment: next == 44,
                first: true,
                payload,
            })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ipv4(source: [u8; 4], destination: [u8; 4], protocol: u8, flags: u16, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x45, 0];
        packet.extend((20 + payload.len() as u16).to_be_bytes());
        packet.extend([0, 0]);
        packet.extend(flags.to_be_bytes());
        packet.extend([64, protocol, 0, 0]);
        packet.extend(source);
        packet.extend(destination);
        packet.extend(payload);
        packet
    }

    fn sniff(packet: &[u8]) -> Seen {
        let mut frame = vec![0; 12];
        frame.extend([0x08, 0x00]);
        frame.extend(packet);
        let mut seen = Seen::new();
        note(&frame, &mut seen);
        seen
    }

    const POD: [u8; 4] = [10, 244, 1, 1];
    const PEER: [u8; 4] = [10, 244, 3, 1];

    #[test]
    fn a_packet_in_a_tunnel_counts_for_the_inner_pair() {
        let inner = ipv4(POD, PEER, 1, 0, &[0; 8]);
        let seen = sniff(&ipv4([172, 20, 1, 11], [172, 20, 2, 11], 4, 0, &inner));
        assert_eq!(seen.len(), 1);
        let traffic = &seen[&(POD.into(), PEER.into())];
        assert_eq!((traffic.plain, traffic.tunnelled, traffic.largest, traffic.fragments), (0, 1, 28, 0));
    }

    #[test]
    fn a_fragmented_tunnel_packet_is_seen_as_such() {
        let inner = ipv4(POD, PEER, 6, 0x4000, &[0; 40]);
        let seen = sniff(&ipv4([172, 20, 1, 11], [172, 20, 2, 11], 4, 0x2000, &inner));
        assert_eq!(seen[&(POD.into(), PEER.into())].fragments, 1);
        // "Don't fragment" alone makes no fragment.
        assert_eq!(sniff(&inner)[&(POD.into(), PEER.into())].fragments, 0);
    }

    #[test]
    fn rubbish_is_ignored() {
        for length in 0..40 {
            assert!(sniff(&ipv4(POD, PEER, 4, 0, &[0x45; 9])[..length.min(29)]).len() <= 1);
        }
    }
}
