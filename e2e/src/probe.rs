//! Probes between namespaces: ICMP echo and UDP, with sockets of our own.
//!
//! No result depends on time: a probe is repeated until its answer comes or the deadline is over.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use socket2::{Domain, Protocol, Socket, Type};

use crate::netns::NetNs;
use crate::wait::wait_while;

/// A probe is sent again after so long without an answer.
const AGAIN: Duration = Duration::from_millis(400);
/// The longest time that one socket is read before another.
const TICK: Duration = Duration::from_millis(20);
/// The port of [`Responder`].
const PORT: u16 = 7777;

/// Each pinger of this program has an identifier of its own, so that none takes another's answers for its own.
static IDENTIFIER: AtomicU16 = AtomicU16::new(1);

/// A raw ICMP socket that sends echo requests and reads the replies to them (RFC 792, RFC 4443 §4).
struct Pinger {
    socket: Socket,
    v6: bool,
    identifier: u16,
}

impl Pinger {
    fn new(netns: &NetNs, v6: bool) -> Result<Self> {
        let (domain, protocol) =
            if v6 { (Domain::IPV6, Protocol::ICMPV6) } else { (Domain::IPV4, Protocol::ICMPV4) };
        let socket = netns.enter(|| {
            Socket::new(domain, Type::RAW, Some(protocol)).context("cannot open a raw ICMP socket")
        })?;
        socket.set_read_timeout(Some(TICK))?;
        Ok(Self { socket, v6, identifier: IDENTIFIER.fetch_add(1, Ordering::Relaxed) })
    }

    /// A request that cannot be sent counts as not answered: routes may be on their way.
    fn send(&self, to: IpAddr, sequence: u16) {
        let mut message = [0; 64];
        message[0] = if self.v6 { 128 } else { 8 };
        message[4..6].copy_from_slice(&self.identifier.to_be_bytes());
        message[6..8].copy_from_slice(&sequence.to_be_bytes());
        if !self.v6 {
            // For IPv6 the kernel does it, as the pseudo header needs the source address.
            let sum = checksum(&message);
            message[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        let _ = self.socket.send_to(&message, &SocketAddr::new(to, 0).into());
    }

    /// One message, if it is a reply to us: its sender and sequence number. `None` too when none comes for a while.
    fn receive(&mut self) -> Result<Option<(IpAddr, u16)>> {
        let mut buffer = [std::mem::MaybeUninit::uninit(); 256];
        let (length, sender) = match self.socket.recv_from(&mut buffer) {
            Ok(received) => received,
            Err(e) if is_nothing_yet(&e) => return Ok(None),
            Err(e) => return Err(e).context("cannot read the ICMP socket"),
        };
        // SAFETY: the kernel has written the first `length` bytes.
        let bytes: Vec<u8> = buffer[..length].iter().map(|byte| unsafe { byte.assume_init() }).collect();
        // A raw IPv4 socket gives the IP header too, an IPv6 one does not.
        let header = if self.v6 { 0 } else { usize::from(bytes.first().unwrap_or(&0) & 0x0f) * 4 };
        let reply = if self.v6 { 129 } else { 0 };
        let sender = sender.as_socket().map(|s| s.ip());
        Ok(match (bytes.get(header..header + 8), sender) {
            (Some(&[kind, _, _, _, i1, i2, s1, s2]), Some(sender))
                if kind == reply && u16::from_be_bytes([i1, i2]) == self.identifier =>
            {
                Some((sender, u16::from_be_bytes([s1, s2])))
            }
            _ => None,
        })
    }
}

fn is_nothing_yet(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

/// The Internet checksum (RFC 1071).
#[must_use]
pub fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Pings all targets from a namespace until each has answered or the deadline is over. Gives those that answered,
/// from the very address that was asked. `answered` is called for each at once.
///
/// # Errors
/// When the socket fails.
pub fn ping_all(
    from: &NetNs,
    targets: &[IpAddr],
    within: Duration,
    mut answered: impl FnMut(IpAddr),
) -> Result<BTreeSet<IpAddr>> {
    let start = Instant::now();
    let mut reached = BTreeSet::new();
    for v6 in [false, true] {
        let targets: Vec<IpAddr> = targets.iter().copied().filter(|t| t.is_ipv6() == v6).collect();
        if targets.is_empty() {
            continue;
        }
        let mut pinger = Pinger::new(from, v6)?;
        let mut missing: BTreeSet<IpAddr> = targets.into_iter().collect();
        let mut last: Option<Instant> = None;
        while !missing.is_empty() && start.elapsed() < within {
            if last.is_none_or(|last| last.elapsed() >= AGAIN) {
                missing.iter().for_each(|target| pinger.send(*target, 0));
                last = Some(Instant::now());
            }
            if let Some((sender, _)) = pinger.receive()?
                && missing.remove(&sender)
            {
                reached.insert(sender);
                answered(sender);
            }
        }
    }
    Ok(reached)
}

/// Pings one target until it answers.
///
/// # Errors
/// When it has not within the deadline.
pub fn ping(from: &NetNs, to: IpAddr, within: Duration) -> Result<()> {
    let reached = ping_all(from, &[to], within, |_| {})?;
    if reached.contains(&to) { Ok(()) } else { Err(anyhow!("{to} has not answered within {within:?}")) }
}

/// A UDP service that answers with the source address of each packet.
pub struct Responder {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Responder {
    /// Starts it in a namespace.
    ///
    /// # Errors
    /// When its port cannot be bound.
    pub fn start(netns: &NetNs) -> Result<Self> {
        let socket = netns.enter(|| {
            // Both families at once; a namespace without IPv6 has only the one.
            UdpSocket::bind((Ipv6Addr::UNSPECIFIED, PORT))
                .or_else(|_| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT)))
                .context("cannot bind the responder")
        })?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let stop = Arc::new(AtomicBool::new(false));
        let until = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while !until.load(Ordering::Relaxed) {
                if let Ok((_, sender)) = socket.recv_from(&mut buffer) {
                    let _ = socket.send_to(sender.ip().to_canonical().to_string().as_bytes(), sender);
                }
            }
        });
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Both sides' view of a conversation: proof of address translation, or of its absence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Views {
    /// The asker's address as the responder saw it.
    pub asker: IpAddr,
    /// The responder's address as the asker saw it.
    pub responder: IpAddr,
}

/// Asks the [`Responder`]s of all targets what they see, until each has answered or the deadline is over.
///
/// # Errors
/// When a socket fails.
pub fn ask_all(from: &NetNs, targets: &[IpAddr], within: Duration) -> Result<BTreeMap<IpAddr, Views>> {
    let start = Instant::now();
    let mut views = BTreeMap::new();
    for target in targets {
        // One socket for each: its port identifies the answer, even if that comes from another address.
        let any: IpAddr =
            if target.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        let socket = from.enter(|| UdpSocket::bind((any, 0)).context("cannot bind a UDP socket"))?;
        socket.set_read_timeout(Some(AGAIN))?;
        let mut buffer = [0; 64];
        while start.elapsed() < within {
            let _ = socket.send_to(b"who am I?", (*target, PORT));
            let (length, sender) = match socket.recv_from(&mut buffer) {
                Ok(received) => received,
                Err(e) if is_nothing_yet(&e) => continue,
                // An ICMP error came back: routes may be on their way.
                Err(_) => {
                    std::thread::sleep(TICK);
                    continue;
                }
            };
            if let Ok(asker) = String::from_utf8_lossy(&buffer[..length]).parse() {
                views.insert(*target, Views { asker, responder: sender.ip() });
                break;
            }
        }
    }
    Ok(views)
}

/// A ping every 10 ms from a namespace to an address, until stopped or dropped.
pub struct PingStream {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicUsize>,
    /// Absent only while it is being stopped.
    thread: Option<JoinHandle<Result<Lost>>>,
}

/// The result of a [`PingStream`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Requests sent.
    pub sent: usize,
    /// Sequence numbers never answered.
    pub lost: Vec<u16>,
}

/// The pause between two pings of a stream.
const STREAM_PAUSE: Duration = Duration::from_millis(10);
/// The time to wait for late answers at the end of a stream.
const STREAM_GRACE: Duration = Duration::from_secs(10);

impl PingStream {
    /// Starts once the target has answered a first ping.
    ///
    /// # Errors
    /// When it does not answer within 30 s.
    pub fn start(from: &NetNs, to: IpAddr) -> Result<Self> {
        ping(from, to, Duration::from_secs(30))?;
        let pinger = Pinger::new(from, to.is_ipv6())?;
        pinger.socket.set_read_timeout(Some(Duration::from_millis(1)))?;
        let stop = Arc::new(AtomicBool::new(false));
        let sent = Arc::new(AtomicUsize::new(0));
        let (until, counter) = (stop.clone(), sent.clone());
        let thread = std::thread::spawn(move || stream(pinger, to, &until, &counter));
        Ok(Self { stop, sent, thread: Some(thread) })
    }

    /// Returns the number of pings sent so far.
    #[must_use]
    pub fn sent(&self) -> usize {
        self.sent.load(Ordering::Relaxed)
    }

    /// Waits until so many more were sent: the stream's own measure of time.
    ///
    /// # Errors
    /// When the stream has ended meanwhile.
    pub fn wait_for(&self, more: usize) -> Result<()> {
        let goal = self.sent() + more;
        let within = STREAM_PAUSE * more as u32 * 10 + STREAM_GRACE;
        let lives = || {
            ensure!(self.thread.as_ref().is_some_and(|thread| !thread.is_finished()), "it has ended");
            Ok(())
        };
        wait_while(lives, within, "pings of a stream", || match self.sent() {
            sent if sent >= goal => Ok(()),
            sent => Err(anyhow!("{sent} of {goal} sent")),
        })
    }

    /// Ends the stream, waits for late answers, and returns what was lost.
    ///
    /// # Errors
    /// When its socket failed, or it went on so long after a lost ping that their numbers came round to that one.
    pub fn stop(mut self) -> Result<Lost> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("the ping stream was stopped before")?;
        thread.join().map_err(|_| anyhow!("the ping stream panicked"))?
    }
}

impl Drop for PingStream {
    /// Nobody asks any more what was lost: late answers are not waited for here.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn stream(mut pinger: Pinger, to: IpAddr, until: &AtomicBool, counter: &AtomicUsize) -> Result<Lost> {
    let mut waiting = BTreeSet::new();
    let mut sent = 0;
    let mut next = Instant::now();
    while !until.load(Ordering::Relaxed) {
        if Instant::now() >= next {
            // Of 16 bits: it comes round every eleven minutes.
            let sequence = sent as u16;
            ensure!(waiting.insert(sequence), "{to} never answered ping {}", sent - (1 << 16));
            pinger.send(to, sequence);
            sent += 1;
            counter.store(sent, Ordering::Relaxed);
            next = Instant::now() + STREAM_PAUSE;
        }
        if let Some((_, sequence)) = pinger.receive()?.filter(|(sender, _)| *sender == to) {
            waiting.remove(&sequence);
        }
    }
    let end = Instant::now();
    while !waiting.is_empty() && end.elapsed() < STREAM_GRACE {
        if let Some((_, sequence)) = pinger.receive()?.filter(|(sender, _)| *sender == to) {
            waiting.remove(&sequence);
        }
    }
    Ok(Lost { sent, lost: waiting.into_iter().collect() })
}

/// Reads a stream to its end and counts its bytes. For [`crate::transfer`], here because it is a probe's other half.
pub(crate) fn count(mut stream: impl Read, expected: impl Fn(usize) -> u8) -> Result<(usize, bool)> {
    let (mut total, mut right) = (0, true);
    let mut buffer = vec![0; 1 << 18];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok((total, right)),
            length => {
                right &= buffer[..length].iter().enumerate().all(|(i, byte)| *byte == expected(total + i));
                total += length;
            }
        }
    }
}
