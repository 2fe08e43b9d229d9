//! Two ends in virtual time, on a link that loses, delays and reorders packets by a seed.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::*;

/// The properties of the link in one direction.
#[derive(Clone, Copy)]
struct Wire {
    /// The number of datagrams lost, of a thousand.
    loss: u32,
    latency: Duration,
    /// The largest additional latency, drawn for each datagram.
    jitter: Duration,
}

struct Pair {
    start: Instant,
    now: Instant,
    ends: [Bfd; 2],
    wires: [Wire; 2],
    in_flight: BinaryHeap<Reverse<(Instant, u64, usize, InFlight)>>,
    count: u64,
    rng: fastrand::Rng,
    /// The events, with time and end.
    events: Vec<(Duration, usize, Event)>,
    /// The time at which each end last accepted a packet.
    received: [Duration; 2],
}

/// A datagram on the link: its source address and payload.
type InFlight = (IpAddr, [u8; ControlPacket::LENGTH]);

const GOOD: Wire = Wire { loss: 0, latency: Duration::from_millis(2), jitter: Duration::from_millis(3) };
const CUT: Wire = Wire { loss: 1000, ..GOOD };

fn address(end: usize) -> IpAddr {
    [ip("192.0.2.1"), ip("192.0.2.2")][end]
}

fn key_of(end: usize) -> Key {
    Key { local: address(end), remote: address(1 - end) }
}

impl Pair {
    fn new(seed: u64, settings: [Settings; 2], wire: Wire) -> Self {
        let start = Instant::now();
        let mut pair = Self {
            start,
            now: start,
            ends: [Bfd::new(seed), Bfd::new(seed + 1000)],
            wires: [wire; 2],
            in_flight: BinaryHeap::new(),
            count: 0,
            rng: fastrand::Rng::with_seed(seed + 2000),
            events: Vec::new(),
            received: [Duration::ZERO; 2],
        };
        for (end, settings) in settings.into_iter().enumerate() {
            pair.ends[end].set(start, key_of(end), settings).unwrap();
        }
        pair.flush();
        pair
    }

    /// Returns a pair that is up, 10 s later.
    fn settled(seed: u64, settings: [Settings; 2], wire: Wire) -> Self {
        let mut pair = Self::new(seed, settings, wire);
        pair.run(10 * SECOND);
        assert!((0..2).all(|end| pair.report(end).state == State::Up && !pair.report(end).polling));
        pair.events.clear();
        pair
    }

    fn report(&self, end: usize) -> SessionReport {
        self.ends[end].report(self.now).remove(0)
    }

    fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    fn flush(&mut self) {
        for end in 0..2 {
            while let Some(datagram) = self.ends[end].poll_transmit() {
                let wire = self.wires[end];
                if self.rng.u32(0..1000) < wire.loss {
                    continue;
                }
                let arrival = self.now + wire.latency + wire.jitter.mul_f64(self.rng.f64());
                self.count += 1;
                let what = (datagram.local.ip(), datagram.bytes);
                self.in_flight.push(Reverse((arrival, self.count, 1 - end, what)));
            }
            while let Some(event) = self.ends[end].poll_event() {
                self.events.push((self.now - self.start, end, event));
            }
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let arrival = self.in_flight.peek().map(|Reverse((at, ..))| *at);
            let timers = self.ends.iter().filter_map(Bfd::next_deadline);
            let Some(next) = timers.chain(arrival).min().filter(|next| *next <= end) else { break };
            self.now = next.max(self.now);
            // Packets that have arrived are received before timers are handled.
            while self.in_flight.peek().is_some_and(|Reverse((at, ..))| *at <= self.now) {
                let Some(Reverse((_, _, to, (from, bytes)))) = self.in_flight.pop() else { break };
                let local = SocketAddr::new(address(to), PORT_SINGLE_HOP);
                let meta = Meta::new(local, from).ttl(255);
                if self.ends[to].received(self.now, &meta, &bytes).is_ok() {
                    self.received[to] = self.now - self.start;
                }
            }
            for end in &mut self.ends {
                end.handle_timeout(self.now);
            }
            self.flush();
        }
        self.now = end;
    }

    fn failures(&self) -> usize {
        self.events.iter().filter(|(_, _, event)| matches!(event, Event::Down { .. })).count()
    }
}

#[test]
fn a_pair_comes_up_within_a_few_round_trips() {
    for seed in 0..200 {
        let mut pair = Pair::new(seed, [fast(); 2], GOOD);
        pair.run(SECOND);
        let ups: Vec<_> =
            pair.events.iter().map(|(at, _, event)| (*at, matches!(event, Event::Up { .. }))).collect();
        assert!(matches!(ups[..], [(_, true), (last, true)] if last <= 20 * MS), "{seed}: {:?}", pair.events);
    }
}

#[test]
fn a_cut_is_detected_within_the_detection_time() {
    let mut slowest = Duration::ZERO;
    for seed in 0..200 {
        let mut pair = Pair::settled(seed, [fast(); 2], GOOD);
        pair.run(Duration::from_millis(seed));
        pair.wires = [CUT; 2];
        let cut = pair.elapsed();
        pair.run(SECOND);
        assert_eq!(pair.failures(), 2);
        for (at, end, _) in &pair.events {
            assert_eq!(*at - pair.received[*end], 150 * MS, "3 times 50 ms after the last packet");
            // The last packet was sent before the cut, and arrives up to 5 ms after it.
            let detected = *at - cut;
            assert!(detected <= 155 * MS && detected >= 95 * MS, "seed {seed}: {detected:?}");
            slowest = slowest.max(detected);
        }
        pair.wires = [GOOD; 2];
        pair.run(3 * SECOND);
        assert!((0..2).all(|end| pair.report(end).state == State::Up));
    }
    println!("200 cuts at 3 times 50 ms, up to 5 ms of latency: the slowest was detected after {slowest:?}");
}

#[test]
fn a_path_that_fails_one_way_is_down_at_both_ends() {
    let mut pair = Pair::settled(1, [fast(); 2], GOOD);
    pair.wires[0] = CUT;
    pair.run(300 * MS);
    let [(first, 1, Event::Down { reason: one, .. }), (second, 0, Event::Down { reason: other, .. })] =
        &pair.events[..]
    else {
        panic!("{:?}", pair.events)
    };
    assert!(matches!(one, Reason::Expired { .. }), "{one}");
    assert_eq!(*other, Reason::NeighborDown(Diagnostic::DetectionTimeExpired));
    assert!(*second - *first <= 5 * MS, "sent at once, not in the next periodic packet");
    pair.run(60 * SECOND);
    assert_eq!(pair.events.len(), 2, "no flapping while one direction fails");
}

#[test]
fn without_loss_nothing_flaps_in_two_hours() {
    let mut pair = Pair::settled(2, [fast(); 2], Wire { jitter: 15 * MS, ..GOOD });
    pair.run(3600 * SECOND * 2);
    assert_eq!(pair.events, vec![]);
}

/// A session fails when as many consecutive packets are lost as the multiplier: at 5 % and 3, one in 8,000 packets. This
/// is inherent in BFD; the test compares the rate with the theory, and prints it.
#[test]
fn failures_at_five_percent_of_loss_are_as_many_as_expected_by_chance() {
    let hours = 4;
    for multiplier in [3, 4, 5] {
        let settings = Settings { multiplier, ..fast() };
        let mut pair = Pair::settled(3, [settings; 2], Wire { loss: 50, ..GOOD });
        let sent_before: u64 = (0..2).map(|end| pair.report(end).sent).sum();
        pair.run(3600 * SECOND * hours);
        let sent: u64 = (0..2).map(|end| pair.report(end).sent).sum::<u64>() - sent_before;
        let expired = pair
            .events
            .iter()
            .filter(|(_, _, event)| matches!(event, Event::Down { reason: Reason::Expired { .. }, .. }));
        let measured = expired.count() as f64;
        let expected = sent as f64 * 0.05_f64.powi(multiplier.into()) * 0.95;
        println!(
            "5 % of loss, 50 ms, multiplier {multiplier}: {measured} failures in {hours} h and {sent} packets; by chance {expected:.2}"
        );
        assert!((measured - expected).abs() <= 5.0 * expected.sqrt().max(1.0));
        pair.wires = [GOOD; 2];
        pair.run(5 * SECOND);
        assert!((0..2).all(|end| pair.report(end).state == State::Up), "it always comes up again");
    }
}

#[test]
fn timers_change_live_without_a_flap() {
    for seed in 0..50 {
        let mut pair = Pair::settled(seed, [fast(); 2], Wire { jitter: 10 * MS, ..GOOD });
        for interval in [200, 20, 1000, 300, 10, 50] {
            let settings = Settings { min_tx: interval * MS, min_rx: interval * MS, ..fast() };
            let end = (seed % 2) as usize;
            pair.ends[end].set(pair.now, key_of(end), settings).unwrap();
            pair.flush();
            pair.run(5 * SECOND);
            let pace = (interval * MS).max(50 * MS);
            for end in 0..2 {
                let report = pair.report(end);
                assert!(!report.polling);
                assert_eq!(report.transmit_interval, Some(pace));
                assert_eq!(report.detection_time, Some(3 * pace));
            }
        }
        assert_eq!(pair.events, vec![], "seed {seed}");
    }
}

#[test]
fn timers_change_live_even_when_packets_are_lost() {
    let settings = Settings { multiplier: 8, ..fast() };
    for seed in 0..20 {
        let mut pair = Pair::settled(seed, [settings; 2], Wire { loss: 100, ..GOOD });
        for interval in [200, 50, 400, 100] {
            let settings = Settings { min_tx: interval * MS, min_rx: interval * MS, ..settings };
            for end in 0..2 {
                pair.ends[end].set(pair.now, key_of(end), settings).unwrap();
            }
            pair.flush();
            pair.run(20 * SECOND);
            assert!((0..2).all(|end| pair.report(end).transmit_interval == Some(interval * MS)));
        }
        assert_eq!(pair.events, vec![], "seed {seed}");
    }
}

#[test]
fn a_latency_longer_than_the_interval_is_no_failure() {
    let far = Wire { loss: 0, latency: 120 * MS, jitter: 10 * MS };
    let mut pair = Pair::settled(5, [fast(); 2], far);
    pair.run(600 * SECOND);
    assert_eq!(pair.events, vec![]);
}

#[test]
fn ends_with_different_settings_agree() {
    let other = Settings { min_tx: 400 * MS, min_rx: 100 * MS, multiplier: 5, ..fast() };
    let pair = Pair::settled(6, [fast(), other], GOOD);
    let (one, two) = (pair.report(0), pair.report(1));
    assert_eq!((one.transmit_interval, one.detection_time), (Some(100 * MS), Some(2 * SECOND)));
    assert_eq!((two.transmit_interval, two.detection_time), (Some(400 * MS), Some(300 * MS)));
}

#[test]
fn an_end_that_restarts_is_detected_and_comes_up_again() {
    let mut pair = Pair::settled(7, [fast(); 2], GOOD);
    pair.ends[1] = Bfd::new(77);
    pair.ends[1].set(pair.now, key_of(1), fast()).unwrap();
    pair.flush();
    pair.run(3 * SECOND);
    assert!((0..2).all(|end| pair.report(end).state == State::Up));
    let kinds: Vec<_> =
        pair.events.iter().filter(|(_, end, _)| *end == 0).map(|(_, _, event)| *event).collect();
    assert!(matches!(kinds[..], [Event::Down { .. }, Event::Up { .. }]), "{kinds:?}");
}

#[test]
fn a_removed_end_is_no_failure_to_the_other() {
    for seed in 0..50 {
        let mut pair = Pair::settled(seed, [fast(); 2], GOOD);
        pair.ends[0].remove(pair.now, key_of(0));
        pair.flush();
        pair.run(10 * SECOND);
        assert_eq!(pair.failures(), 0);
        assert_eq!(pair.events.iter().filter(|(_, end, _)| *end == 1).count(), 1);
    }
}

#[test]
fn the_same_seed_produces_the_same_events() {
    let run = || {
        let mut pair = Pair::new(9, [fast(); 2], Wire { loss: 200, ..GOOD });
        pair.run(600 * SECOND);
        // As text, which has no absolute time: the first instant differs between the runs.
        let events: Vec<_> =
            pair.events.into_iter().map(|(at, end, event)| (at, end, event.to_string())).collect();
        (pair.count, events)
    };
    assert_eq!(run(), run());
}
