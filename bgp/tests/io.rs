//! The driver with real sockets, on ephemeral ports of the loopback interface.
#![allow(clippy::disallowed_methods, reason = "a test of the driver has sockets and a clock")]

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use futures::FutureExt;
use heliograph_bgp::io::{Handle, Options, SetConfigError, StartError, Stop, start, start_thread};
use heliograph_bgp::report::{SessionReport, SessionState};
use heliograph_bgp::wire::{self, Capability, Codec, Family, Framer, Message, Open, Prefix, Update};
use heliograph_bgp::{
    AoAlgorithm, AoKey, Authentication, Config, Filter, Key, Neighbor, Network, Timers, Ttl,
};

const ASN: u32 = 64512;
/// The longest time for any condition.
const TIMEOUT: Duration = Duration::from_secs(20);
const CODEC: Codec = Codec { four_octet_as: true, ..Codec::DEFAULT };

/// Returns the loopback address of host `n`.
fn host(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 0, n)
}

fn prefix(n: u32) -> Prefix {
    Prefix::new(Ipv4Addr::from_bits(0x0a00_0000 | n << 8).into(), 24).expect("fits")
}

/// Starts a speaker without neighbors that listens on a port of the kernel's choice.
async fn speaker(n: u8) -> (Handle, SocketAddr) {
    let options = Options::default().listen([SocketAddr::new(host(n).into(), 0)]);
    let handle = start(config(n, Vec::new()), options).await.expect("it starts");
    let address = handle.listening()[0];
    (handle, address)
}

fn config(n: u8, neighbors: Vec<Neighbor>) -> Config {
    let networks = vec![Network::new(prefix(n.into()))];
    Config::new(ASN, host(n)).networks(networks).neighbors(neighbors)
}

/// Returns the neighbor that listens on `there`, for host `us`.
fn neighbor(us: u8, there: SocketAddr) -> Neighbor {
    Neighbor::new(there.ip(), ASN)
        .port(there.port())
        .local_address(IpAddr::from(host(us)))
        .timers(Timers::default().connect_retry(Duration::from_millis(200)))
        .import(Filter::All)
        .export(Filter::All)
}

/// Returns a neighbor for which the test connects and sends the messages.
fn manual(n: u8) -> Neighbor {
    Neighbor::new(host(n).into(), ASN)
        .passive(true)
        .reflector_client(true)
        .import(Filter::All)
        .export(Filter::All)
}

async fn until(handle: &Handle, what: &str, condition: impl AsyncFn(&Handle) -> bool) {
    let mut changes = handle.changes();
    let deadline = Instant::now() + TIMEOUT;
    while !condition(handle).await {
        assert!(Instant::now() < deadline, "{what}: {:?}", handle.sessions().await.expect("it runs"));
        // Some values change without a notification, so they are also checked periodically.
        let _ = tokio::time::timeout(Duration::from_millis(20), changes.changed()).await;
    }
}

/// Checks for half a second, the time of several attempts, that a condition does not become true.
async fn never(handle: &Handle, condition: impl AsyncFn(&Handle) -> bool) {
    let end = Instant::now() + Duration::from_millis(500);
    let mut changes = handle.changes();
    while Instant::now() < end {
        assert!(!condition(handle).await, "{:?}", handle.sessions().await.expect("it runs"));
        let _ = tokio::time::timeout(Duration::from_millis(20), changes.changed()).await;
    }
}

async fn session(handle: &Handle, n: u8) -> SessionReport {
    let sessions = handle.sessions().await.expect("it runs");
    sessions.into_iter().find(|s| s.address == IpAddr::from(host(n))).expect("a neighbor")
}

async fn established(handle: &Handle, n: u8) {
    until(handle, "established", async |h| session(h, n).await.state == SessionState::Established).await;
}

async fn has_routes(handle: &Handle, prefixes: &[Prefix]) {
    until(handle, "routes", async |h| {
        h.best_routes()
            .await
            .expect("it runs")
            .routes
            .iter()
            .map(|route| route.prefix)
            .eq(prefixes.iter().copied())
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
    has_routes(&one, &[prefix(12)]).await;
    has_routes(&two, &[prefix(11)]).await;
    let routes = one.best_routes().await.expect("it runs").routes;
    assert_eq!((routes[0].next_hop, routes[0].peer), (host(12).into(), host(12).into()));
    until(&one, "in sync", async |h| h.best_routes().await.expect("it runs").synced).await;
}

/// A subscription returns what the best routes are and become, whether its calls are waited for or dropped.
#[tokio::test]
async fn a_subscription_follows_the_best_routes() {
    let (one, two) = pair(91, 92).await;
    let mut subscription = one.subscribe();
    let mut table = BTreeMap::new();
    let networks =
        |count: u32| -> Vec<Network> { (1000..1000 + count).map(|n| Network::new(prefix(n))).collect() };
    for count in [25_u32, 3, 40] {
        two.set_config(two_config(&one, networks(count))).await.expect("valid");
        let deadline = Instant::now() + TIMEOUT;
        loop {
            assert!(Instant::now() < deadline, "{} of {count} routes", table.len());
            let _ = tokio::time::timeout(Duration::from_millis(20), subscription.changed()).await;
            // A call that is dropped before its answer is there.
            let _ = subscription.best_changes(7).now_or_never();
            let news = subscription.best_changes(7).await.expect("it runs");
            assert!(news.changes.len() <= 7);
            for change in news.changes {
                match change.route {
                    Some(route) => drop(table.insert(change.prefix, route)),
                    None => drop(table.remove(&change.prefix)),
                }
            }
            if table.len() == count as usize && !news.more {
                break;
            }
        }
        let best = one.best_routes().await.expect("it runs");
        assert_eq!(table.values().copied().collect::<Vec<_>>(), best.routes);
    }
    one.stop(Stop::Silent).await;
    while subscription.changed().await.is_ok() {}
    assert!(subscription.best_changes(7).await.is_err());
}

/// Returns the configuration of host 92 with these networks.
fn two_config(one: &Handle, networks: Vec<Network>) -> Config {
    config(92, vec![neighbor(92, one.listening()[0])]).networks(networks)
}

/// The pages together are all paths, in the order of their prefixes.
#[tokio::test]
async fn paths_come_in_pages() {
    let (one, _) = speaker(93).await;
    let networks = (0..40_000).rev().map(|n| Network::new(prefix(n)));
    one.set_config(config(93, Vec::new()).networks(networks)).await.expect("valid");
    let mut pages = one.path_pages(None);
    let mut read = Vec::new();
    while let Some(page) = pages.next(1000).await.expect("it runs") {
        assert!((1..=1000).contains(&page.len()), "{}", page.len());
        read.extend(page.into_iter().map(|path| path.prefix));
    }
    assert!(read.iter().copied().eq((0..40_000).map(prefix)));
    // Those within a prefix, and those to it.
    let within: Prefix = "10.1.0.0/16".parse().expect("a prefix");
    let page = one.path_pages(within).next(1000).await.expect("it runs").expect("a page");
    assert!(page.iter().map(|path| path.prefix).eq((256..512).map(prefix)));
    assert_eq!(one.paths_to(within).await.expect("it runs"), []);
    assert_eq!(one.paths_to(prefix(300)).await.expect("it runs"), page[44..45]);
}

/// Changes follow one another, also when nobody waits for the first.
#[tokio::test]
async fn a_change_that_nobody_waits_for_is_made() {
    let options = Options::default().listen([SocketAddr::new(host(94).into(), 0)]);
    let one = start_thread(config(94, Vec::new()), options).await.expect("it starts");
    let networks = (0..10_000).map(|n| Network::new(prefix(n)));
    let first = config(94, vec![manual(1)]).networks(networks.clone());
    assert!(one.set_config(first.clone()).now_or_never().is_none());
    assert_eq!(*one.config(), first);
    one.set_config(config(94, vec![manual(2)]).networks(networks.skip(1))).await.expect("valid");
    let sessions = one.sessions().await.expect("it runs");
    assert!(sessions.iter().map(|session| session.address).eq([IpAddr::from(host(2))]));
    let paths = one.paths().await.expect("it runs");
    assert!(paths.iter().map(|path| path.prefix).eq((1..10_000).map(prefix)));
    let invalid = one.set_config(config(94, vec![manual(2), manual(2)])).await;
    assert!(matches!(invalid, Err(SetConfigError::Config(_))), "{invalid:?}");
    one.clone().stop(Stop::Silent).await;
    let stopped = one.set_config(config(94, Vec::new())).await;
    assert!(matches!(stopped, Err(SetConfigError::Stopped(_))), "{stopped:?}");
}

/// RFC 4724 §4.2: routes stay after a connection that ends without a NOTIFICATION.
#[tokio::test]
async fn a_silent_stop_keeps_the_routes() {
    let (one, two) = pair(13, 14).await;
    has_routes(&one, &[prefix(14)]).await;
    two.stop(Stop::Silent).await;
    until(&one, "down", async |h| session(h, 14).await.state != SessionState::Established).await;
    assert_eq!(session(&one, 14).await.stale, 1);
    has_routes(&one, &[prefix(14)]).await;
}

#[tokio::test]
async fn a_cease_removes_the_routes() {
    let (one, two) = pair(15, 16).await;
    has_routes(&one, &[prefix(16)]).await;
    two.stop(Stop::Cease).await;
    has_routes(&one, &[]).await;
    let error = session(&one, 16).await.last_error.expect("recorded").0.to_string();
    assert!(error.contains("Cease / Administrative Shutdown") || error.contains("refused"), "{error}");
}

/// A neighbor whose messages the test sends and receives, over a blocking socket.
struct ManualNeighbor {
    stream: TcpStream,
    framer: Framer,
}

impl ManualNeighbor {
    fn connect(n: u8, to: SocketAddr) -> Self {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        socket.set_recv_buffer_size(4096).expect("a small buffer");
        socket.bind(&SocketAddr::new(host(n).into(), 0).into()).expect("an address of loopback");
        socket.connect(&to.into()).expect("it listens");
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
        Self { stream, framer: Framer::new() }
    }

    fn send(&mut self, message: &Message) {
        let mut bytes = BytesMut::new();
        wire::encode(message, &CODEC, &mut bytes);
        self.stream.write_all(&bytes).expect("it is read");
    }

    /// Receives the next message; `None`: the connection is closed.
    fn receive(&mut self) -> Option<Message> {
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
        self.send(&Message::Open(Open { asn: ASN, hold_time: 90, router_id: host(n), capabilities }));
        self.send(&Message::Keepalive);
    }
}

async fn in_a_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("no panic")
}

#[tokio::test]
async fn an_unknown_peer_receives_nothing() {
    let (_one, at_one) = speaker(17).await;
    let received = in_a_thread(move || ManualNeighbor::connect(18, at_one).receive()).await;
    assert_eq!(received, None);
}

#[tokio::test]
async fn malformed_bytes_from_one_neighbor_do_not_affect_another() {
    let ((one, at_one), (two, at_two)) = (speaker(19).await, speaker(20).await);
    let neighbors = vec![neighbor(19, at_two), manual(21)];
    one.set_config(config(19, neighbors)).await.expect("valid");
    two.set_config(config(20, vec![neighbor(20, at_one)])).await.expect("valid");
    established(&one, 20).await;
    let last = in_a_thread(move || {
        let mut bad = ManualNeighbor::connect(21, at_one);
        bad.open(21);
        bad.stream.write_all(&[0xa5; 300]).expect("it is read");
        std::iter::from_fn(|| bad.receive()).last()
    })
    .await;
    let Some(Message::Notification(notification)) = last else { panic!("{last:?}") };
    assert_eq!((notification.code, notification.subcode), (wire::code::HEADER, 1));
    has_routes(&one, &[prefix(20)]).await;
    assert_eq!(session(&one, 20).await.established_count, 1);
    assert_eq!(session(&one, 21).await.state, SessionState::Idle);
}

/// The hold timer (RFC 4271 §6.5) does not expire while a KEEPALIVE waits in the socket.
#[tokio::test]
async fn unread_messages_count_when_the_hold_timer_is_due() {
    const HOLD: Duration = Duration::from_secs(3);
    let (one, at_one) = speaker(53).await;
    let timers = Timers::default().hold(HOLD);
    one.set_config(config(53, vec![manual(54).timers(timers)])).await.expect("valid");
    let mut manual = in_a_thread(move || {
        let mut manual = ManualNeighbor::connect(54, at_one);
        manual.open(54);
        manual
    })
    .await;
    established(&one, 54).await;
    let due = Instant::now() + HOLD + Duration::from_millis(200);
    manual.send(&Message::Keepalive);
    // This thread runs the runtime: while it is busy here nothing is read, and the timer becomes due.
    while let Some(left) = due.checked_duration_since(Instant::now()) {
        std::thread::park_timeout(left);
    }
    never(&one, async |h| session(h, 54).await.state != SessionState::Established).await;
    assert_eq!(session(&one, 54).await.established_count, 1);
}

/// A neighbor that stops reading receives the last advertisement of each prefix in the end, not all those before.
#[tokio::test]
async fn a_neighbor_that_does_not_read_costs_bounded_memory() {
    // About 12 MB in total: more than the kernel buffers for one socket.
    const PREFIXES: u32 = 10_000;
    const ROUNDS: u32 = 300;
    let (one, at_one) = speaker(22).await;
    let networks = |round: u32| {
        let next_hop = Some(Ipv4Addr::from_bits(0x0a01_0000 + round).into());
        (0..PREFIXES).map(|n| Network::new(prefix(n)).next_hop(next_hop)).collect::<Vec<_>>()
    };
    let config = |round| config(22, vec![manual(23)]).networks(networks(round));
    one.set_config(config(0)).await.expect("valid");
    let mut stuck = in_a_thread(move || {
        let mut stuck = ManualNeighbor::connect(23, at_one);
        stuck.open(23);
        stuck
    })
    .await;
    established(&one, 23).await;
    for round in 1..=ROUNDS {
        one.set_config(config(round)).await.expect("valid");
    }
    let last = IpAddr::from(Ipv4Addr::from_bits(0x0a01_0000 + ROUNDS));
    let received = in_a_thread(move || {
        let (mut fresh, mut all) = (0, 0);
        while fresh < PREFIXES {
            let Some(message) = stuck.receive() else { panic!("closed early") };
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
    assert!(received < PREFIXES * ROUNDS / 2, "{received} advertisements: superseded ones must not be sent");
}

#[tokio::test]
async fn an_address_that_cannot_be_listened_on_is_an_error_with_a_remedy() {
    let (_one, taken) = speaker(24).await;
    let options = |address| Options::default().listen([address]);
    let error = start(config(24, Vec::new()), options(taken)).await.expect_err("taken");
    assert!(error.to_string().contains("another BGP speaker has the port"), "{error}");
    let foreign = SocketAddr::new(Ipv4Addr::new(192, 0, 2, 1).into(), 0);
    let error = start(config(24, Vec::new()), options(foreign)).await.expect_err("not ours");
    assert!(error.to_string().contains("no interface has this address"), "{error}");
    let invalid = config(24, Vec::new()).asn(0);
    let error = start(invalid, Options::default()).await.expect_err("invalid");
    assert!(matches!(error, StartError::Config(_)));
}

async fn pair_with(
    a: u8,
    b: u8,
    of_a: impl Fn(&mut Neighbor),
    of_b: impl Fn(&mut Neighbor),
) -> (Handle, Handle) {
    let ((one, at_one), (two, at_two)) = (speaker(a).await, speaker(b).await);
    let (mut to_two, mut to_one) = (neighbor(a, at_two), neighbor(b, at_one));
    of_a(&mut to_two);
    of_b(&mut to_one);
    one.set_config(config(a, vec![to_two])).await.expect("valid");
    two.set_config(config(b, vec![to_one])).await.expect("valid");
    (one, two)
}

fn md5(key: &str) -> impl Fn(&mut Neighbor) {
    let authentication = Some(Authentication::Md5(Key::new(key)));
    move |neighbor| neighbor.authentication = authentication.clone()
}

/// RFC 2385, whichever side connects.
#[tokio::test]
async fn md5_with_one_key_on_both_sides() {
    let (one, two) = pair_with(31, 32, md5("secret"), md5("secret")).await;
    has_routes(&one, &[prefix(32)]).await;
    has_routes(&two, &[prefix(31)]).await;
    for (a, b) in [(33, 34), (36, 35)] {
        let key = md5("secret");
        let passive = |neighbor: &mut Neighbor| {
            key(neighbor);
            neighbor.passive = true;
        };
        let (one, _two) = pair_with(a, b, passive, md5("secret")).await;
        established(&one, b).await;
    }
}

#[tokio::test]
async fn md5_rejects_neighbors_without_the_key() {
    for (n, theirs) in [(37, Some("guess")), (39, None)] {
        let (one, two) = pair_with(n, n + 1, md5("secret"), |neighbor| {
            neighbor.authentication = theirs.map(|key| Authentication::Md5(Key::new(key)));
        })
        .await;
        // A SYN without a valid signature is dropped, so that it gets no answer.
        let idle = [SessionState::Connect, SessionState::Active];
        never(&one, async |h| !idle.contains(&session(h, n + 1).await.state)).await;
        assert!(idle.contains(&session(&two, n).await.state));
        // With the right key, set without a restart, the session comes up.
        let there = one.listening()[0];
        let mut right = neighbor(n + 1, there);
        md5("secret")(&mut right);
        two.set_config(config(n + 1, vec![right])).await.expect("valid");
        established(&one, n + 1).await;
    }
}

/// RFC 5925: used if the kernel supports it; otherwise an error, and no session without authentication.
#[tokio::test]
async fn tcp_ao_or_an_error() {
    let key = Key::new("secret");
    let key = AoKey::new(1, 1, AoAlgorithm::HmacSha1, key);
    let ao = |neighbor: &mut Neighbor| neighbor.authentication = Some(Authentication::Ao(key.clone()));
    let (one, _two) = pair_with(41, 42, ao, ao).await;
    until(&one, "established, or an error", async |h| {
        let session = session(h, 42).await;
        let unsupported = session
            .last_error
            .is_some_and(|(error, _)| error.to_string().contains("this kernel has no TCP-AO"));
        unsupported || session.state == SessionState::Established
    })
    .await;
    // A connection without authentication is not accepted.
    let at_one = one.listening()[0];
    if session(&one, 42).await.state != SessionState::Established {
        assert_eq!(in_a_thread(move || ManualNeighbor::connect(42, at_one).receive()).await, None);
    }
}

/// RFC 5082: the TTL on arrival is at least 255 minus the number of routers that may be in between.
#[tokio::test]
async fn ttl_security() {
    let near = |neighbor: &mut Neighbor| neighbor.ttl = Ttl::Security(1);
    let (one, _two) = pair_with(43, 44, near, near).await;
    established(&one, 44).await;
    // A neighbor that sends with a lower TTL gets no session.
    let far = |neighbor: &mut Neighbor| neighbor.ttl = Ttl::Hops(64);
    let (one, _two) = pair_with(45, 46, near, far).await;
    never(&one, async |h| session(h, 46).await.state == SessionState::Established).await;
}

#[tokio::test]
async fn ipv6_with_ttl_security_and_md5() {
    let options = Options::default().listen(["[::1]:0".parse().expect("an address")]);
    let listening = start(config(47, Vec::new()), options).await.expect("it starts");
    let there = listening.listening()[0];
    let both = |address: SocketAddr, passive| {
        let mut neighbor = neighbor(47, address).passive(passive).local_address(None);
        md5("secret")(&mut neighbor);
        neighbor.ttl = Ttl::Security(1);
        neighbor
    };
    listening.set_config(config(47, vec![both(there, true)])).await.expect("valid");
    let connecting =
        start(config(48, vec![both(there, false)]), Options::default()).await.expect("it starts");
    until(&connecting, "established", async |h| {
        h.sessions().await.expect("it runs").iter().all(|session| session.state == SessionState::Established)
    })
    .await;
}

/// BFD has sockets and a thread of its own. It starts with the session, and a speaker that stops sends AdminDown.
#[cfg(feature = "bfd")]
#[tokio::test]
async fn bfd_runs_beside_the_session() {
    use heliograph_bgp::bfd::{Settings, State};
    let interval = Duration::from_millis(200);
    let bfd = Some(Settings::default().interval(interval).multiplier(10));
    let ((one, at_one), (two, at_two)) = (speaker(61).await, speaker(62).await);
    let with_bfd = |us, there| neighbor(us, there).bfd(bfd);
    one.set_config(config(61, vec![with_bfd(61, at_two)])).await.unwrap();
    two.set_config(config(62, vec![with_bfd(62, at_one)])).await.unwrap();
    for (handle, n) in [(&one, 62), (&two, 61)] {
        until(handle, "BFD is up", async |handle| {
            session(handle, n).await.bfd.is_some_and(|bfd| bfd.state == State::Up)
        })
        .await;
    }
    two.stop(Stop::Silent).await;
    until(&one, "the end is detected", async |handle| {
        let session = session(handle, 62).await;
        session.state != SessionState::Established && session.bfd.is_some_and(|bfd| bfd.state == State::Down)
    })
    .await;
    let session = session(&one, 62).await;
    let bfd = session.bfd.expect("configured");
    assert_eq!(bfd.failure_count, 0, "{}", bfd.reason);
    assert_eq!(session.stale, 1, "its route stays, as for a restart");
}
