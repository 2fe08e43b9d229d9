//! The driver over loopback: real sockets, ephemeral ports.
#![allow(clippy::disallowed_methods, reason = "a test of the driver has sockets and a clock")]

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use heliograph_bgp::io::{Handle, Options, StartError, Stop, start};
use heliograph_bgp::report::{SessionReport, SessionState};
use heliograph_bgp::wire::{self, Capability, Codec, Family, Framer, Message, Open, Prefix, Update};
use heliograph_bgp::{Config, Filter, Neighbor, Network, Timers};

const ASN: u32 = 64512;
/// How long anything may take before a test fails.
const DEADLINE: Duration = Duration::from_secs(20);
const CODEC: Codec = Codec { four_octet_as: true, ..Codec::DEFAULT };

/// Host `n` on loopback.
fn host(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 0, n)
}

fn prefix(n: u32) -> Prefix {
    Prefix::new(Ipv4Addr::from_bits(0x0a00_0000 | n << 8).into(), 24).expect("fits")
}

/// Nobody yet; listens on a port of the kernel's choice.
async fn speaker(n: u8) -> (Handle, SocketAddr) {
    let options = Options { listen: vec![SocketAddr::new(host(n).into(), 0)], ..Options::default() };
    let handle = start(config(n, Vec::new()), options).await.expect("it starts");
    let address = handle.listening()[0];
    (handle, address)
}

fn config(n: u8, neighbors: Vec<Neighbor>) -> Config {
    let networks = vec![Network { prefix: prefix(n.into()), next_hop: None }];
    Config { networks, neighbors, ..Config::new(ASN, host(n)) }
}

/// The neighbour that listens on `there`, for host `us`.
fn neighbor(us: u8, there: SocketAddr) -> Neighbor {
    Neighbor {
        port: there.port(),
        local_address: Some(host(us).into()),
        timers: Timers { connect_retry: Duration::from_millis(200), ..Timers::default() },
        import: Filter::All,
        export: Filter::All,
        ..Neighbor::new(there.ip(), ASN)
    }
}

/// A neighbour that the test plays itself, by connecting.
fn played(n: u8) -> Neighbor {
    Neighbor {
        passive: true,
        reflector_client: true,
        import: Filter::All,
        export: Filter::All,
        ..Neighbor::new(host(n).into(), ASN)
    }
}

async fn until(handle: &Handle, what: &str, condition: impl AsyncFn(&Handle) -> bool) {
    let mut changes = handle.changes();
    let deadline = Instant::now() + DEADLINE;
    while !condition(handle).await {
        assert!(Instant::now() < deadline, "{what}: {:?}", handle.sessions().await);
        // News wake us; what changes without any is looked at now and then.
        let _ = tokio::time::timeout(Duration::from_millis(20), changes.changed()).await;
    }
}

async fn session(handle: &Handle, n: u8) -> SessionReport {
    let sessions = handle.sessions().await;
    sessions.into_iter().find(|s| s.address == IpAddr::from(host(n))).expect("a neighbour")
}

async fn established(handle: &Handle, n: u8) {
    until(handle, "established", async |h| session(h, n).await.state == SessionState::Established).await;
}

async fn knows(handle: &Handle, prefixes: &[Prefix]) {
    until(handle, "routes", async |h| {
        h.best_routes().await.routes.iter().map(|route| route.prefix).eq(prefixes.iter().copied())
    })
    .await;
}

async fn pair(a: u8, b: u8) -> (Handle, Handle) {
    let ((one, at_one), (two, at_two)) = (speaker(a).await, speaker(b).await);
    one.set_config(config(a, vec![neighbor(a, at_two)])).await.expect("valid");
    two.set_config(config(b, vec![neighbor(b, at_one)])).await.expect("valid");
    (one, two)
}

#[tokio::test]
async fn two_speakers_exchange_routes() {
    let (one, two) = pair(11, 12).await;
    knows(&one, &[prefix(12)]).await;
    knows(&two, &[prefix(11)]).await;
    let routes = one.best_routes().await.routes;
    assert_eq!((routes[0].next_hop, routes[0].peer), (host(12).into(), host(12).into()));
    until(&one, "in sync", async |h| h.best_routes().await.synced).await;
}

/// RFC 4724 §4.2: a connection that ends without a word leaves the routes.
#[tokio::test]
async fn a_silent_stop_leaves_the_routes() {
    let (one, two) = pair(13, 14).await;
    knows(&one, &[prefix(14)]).await;
    two.stop(Stop::Silent).await;
    until(&one, "down", async |h| session(h, 14).await.state != SessionState::Established).await;
    assert_eq!(session(&one, 14).await.stale, 1);
    knows(&one, &[prefix(14)]).await;
}

#[tokio::test]
async fn a_cease_takes_the_routes_away() {
    let (one, two) = pair(15, 16).await;
    knows(&one, &[prefix(16)]).await;
    two.stop(Stop::Cease).await;
    knows(&one, &[]).await;
    let (error, _) = session(&one, 16).await.last_error.expect("noted");
    assert!(error.contains("Cease / Administrative Shutdown") || error.contains("refused"), "{error}");
}

/// A neighbour played by hand: blocking sockets, so that nothing happens behind the test's back.
struct Played {
    stream: TcpStream,
    framer: Framer,
}

impl Played {
    fn connect(n: u8, to: SocketAddr) -> Self {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        socket.set_recv_buffer_size(4096).expect("a small buffer");
        socket.bind(&SocketAddr::new(host(n).into(), 0).into()).expect("an address of loopback");
        socket.connect(&to.into()).expect("it listens");
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        Self { stream, framer: Framer::new() }
    }

    fn say(&mut self, message: &Message) {
        let mut bytes = BytesMut::new();
        wire::encode(message, &CODEC, &mut bytes);
        self.stream.write_all(&bytes).expect("it is read");
    }

    /// The next message; `None` once the connection is closed.
    fn hear(&mut self) -> Option<Message> {
        let mut chunk = [0; 16 * 1024];
        loop {
            if let Some(frame) = self.framer.next().expect("a valid stream") {
                return Some(wire::decode(&frame, &CODEC, &[Family::Ipv4Unicast]).expect("a valid message"));
            }
            match self.stream.read(&mut chunk) {
                Ok(0) => return None,
                Ok(n) => self.framer.push(&chunk[..n]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("reading failed: {error}"),
            }
        }
    }

    fn open(&mut self, n: u8) {
        let capabilities = vec![Capability::Multiprotocol(Family::Ipv4Unicast), Capability::FourOctetAs(ASN)];
        self.say(&Message::Open(Open { asn: ASN, hold_time: 90, router_id: host(n), capabilities }));
        self.say(&Message::Keepalive);
    }
}

async fn in_a_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("no panic")
}

#[tokio::test]
async fn a_stranger_hears_nothing() {
    let (_one, at_one) = speaker(17).await;
    let heard = in_a_thread(move || Played::connect(18, at_one).hear()).await;
    assert_eq!(heard, None);
}

#[tokio::test]
async fn bad_bytes_from_one_neighbour_do_not_touch_another() {
    let ((one, at_one), (two, at_two)) = (speaker(19).await, speaker(20).await);
    let neighbors = vec![neighbor(19, at_two), played(21)];
    one.set_config(config(19, neighbors)).await.expect("valid");
    two.set_config(config(20, vec![neighbor(20, at_one)])).await.expect("valid");
    established(&one, 20).await;
    let last = in_a_thread(move || {
        let mut bad = Played::connect(21, at_one);
        bad.open(21);
        bad.stream.write_all(&[0xa5; 300]).expect("it is read");
        std::iter::from_fn(|| bad.hear()).last()
    })
    .await;
    let Some(Message::Notification(notification)) = last else { panic!("{last:?}") };
    assert_eq!((notification.code, notification.subcode), (wire::code::HEADER, 1));
    knows(&one, &[prefix(20)]).await;
    assert_eq!(session(&one, 20).await.established_count, 1);
    assert_eq!(session(&one, 21).await.state, SessionState::Idle);
}

/// A neighbour that stops reading hears, in the end, the last word on each prefix, not all that was said meanwhile.
#[tokio::test]
async fn a_neighbour_that_does_not_read_costs_bounded_memory() {
    // Some 12 MB in all: more than the kernel buffers for one socket.
    const PREFIXES: u32 = 10_000;
    const ROUNDS: u32 = 300;
    let (one, at_one) = speaker(22).await;
    let networks = |round: u32| {
        let next_hop = Some(Ipv4Addr::from_bits(0x0a01_0000 + round).into());
        (0..PREFIXES).map(|n| Network { prefix: prefix(n), next_hop }).collect::<Vec<_>>()
    };
    let config = |round| Config { networks: networks(round), ..config(22, vec![played(23)]) };
    one.set_config(config(0)).await.expect("valid");
    let mut stuck = in_a_thread(move || {
        let mut stuck = Played::connect(23, at_one);
        stuck.open(23);
        stuck
    })
    .await;
    established(&one, 23).await;
    for round in 1..=ROUNDS {
        one.set_config(config(round)).await.expect("valid");
    }
    let last = IpAddr::from(Ipv4Addr::from_bits(0x0a01_0000 + ROUNDS));
    let heard = in_a_thread(move || {
        let (mut fresh, mut all) = (0, 0);
        while fresh < PREFIXES {
            let Some(message) = stuck.hear() else { panic!("closed early") };
            let Message::Update(Update { reach, .. }) = message else { continue };
            for reach in reach {
                let count = u32::try_from(reach.prefixes.len()).expect("few");
                all += count;
                fresh += if reach.next_hop.address == last { count } else { 0 };
            }
        }
        all
    })
    .await;
    assert!(heard < PREFIXES * ROUNDS / 2, "{heard} announcements: what was overtaken was not sent");
}

#[tokio::test]
async fn why_it_cannot_listen_is_said_in_words() {
    let (_one, taken) = speaker(24).await;
    let options = |address| Options { listen: vec![address], ..Options::default() };
    let error = start(config(24, Vec::new()), options(taken)).await.expect_err("taken");
    assert!(error.to_string().contains("another BGP speaker has the port"), "{error}");
    let foreign = SocketAddr::new(Ipv4Addr::new(192, 0, 2, 1).into(), 0);
    let error = start(config(24, Vec::new()), options(foreign)).await.expect_err("not ours");
    assert!(error.to_string().contains("no interface has this address"), "{error}");
    let invalid = Config { asn: 0, ..config(24, Vec::new()) };
    let error = start(invalid, Options::default()).await.expect_err("invalid");
    assert!(matches!(error, StartError::Config(_)));
}
