//! Intervals, Poll Sequences and jitter (RFC 5880 §6.5, §6.8.2, §6.8.3, §6.8.7).

use super::*;

fn between(low: Duration, high: Duration, gaps: &[Duration]) {
    assert!(!gaps.is_empty());
    for gap in gaps {
        assert!((low..=high).contains(gap), "{gap:?} is not within {low:?} and {high:?}");
    }
}

#[test]
fn a_session_that_is_not_up_sends_one_packet_per_second() {
    let mut bench = Bench::new(fast());
    let sent = bench.wait(60 * SECOND);
    between(750 * MS, SECOND, &gaps(&sent));
    assert!(sent.iter().all(|(_, packet)| packet.desired_min_tx == SECOND));
    assert!(sent.iter().all(|(_, packet)| packet.required_min_rx == 50 * MS));
}

#[test]
fn echo_and_demand_are_not_offered() {
    let mut bench = Bench::up(fast());
    for (_, packet) in bench.wait_up(SECOND) {
        assert!(!packet.demand && !packet.control_plane_independent);
        assert_eq!(packet.required_min_echo_rx, Duration::ZERO);
    }
}

#[test]
fn the_slower_interval_of_both_ends_applies() {
    for (theirs, pace) in [(20 * MS, 50 * MS), (50 * MS, 50 * MS), (120 * MS, 120 * MS)] {
        let mut bench = Bench::up(fast());
        bench.packet.required_min_rx = theirs;
        bench.receive(State::Up).unwrap();
        bench.wait_up(SECOND);
        between(pace * 3 / 4, pace, &gaps(&bench.wait_up(10 * SECOND)));
    }
}

#[test]
fn jitter_spreads_over_its_whole_range() {
    let mut bench = Bench::up(fast());
    let gaps = gaps(&bench.wait_up(30 * SECOND));
    assert!(gaps.iter().any(|gap| *gap < 39 * MS) && gaps.iter().any(|gap| *gap > 48 * MS));
}

#[test]
fn with_the_multiplier_1_packets_are_sent_early() {
    let mut bench = Bench::up(Settings { multiplier: 1, ..fast() });
    between(75 * 50 * MS / 100, 90 * 50 * MS / 100, &gaps(&bench.wait_up(10 * SECOND)));
}

#[test]
fn a_poll_is_answered_at_once_and_never_with_a_poll() {
    let mut bench = Bench::up(fast());
    bench.packet.poll = true;
    bench.receive(State::Up).unwrap();
    let sent = bench.sent();
    assert_eq!(sent.len(), 1);
    assert!(sent[0].final_ && !sent[0].poll);
    bench.packet.poll = false;
    bench.receive(State::Up).unwrap();
    assert!(bench.wait_up(SECOND).iter().all(|(_, packet)| !packet.final_));
}

#[test]
fn polls_received_together_get_one_answer() {
    let mut bench = Bench::up(fast());
    bench.packet.poll = true;
    for _ in 0..1000 {
        bench.receive(State::Up).unwrap();
    }
    assert_eq!(bench.sent().len(), 1);
}

#[test]
fn a_session_that_comes_up_polls_until_the_neighbor_answers() {
    let mut bench = Bench::new(fast());
    bench.receive(State::Down).unwrap();
    bench.receive(State::Up).unwrap();
    let sent = bench.wait_up(SECOND);
    assert!(sent.len() > 10);
    assert!(sent.iter().all(|(_, packet)| packet.poll && packet.desired_min_tx == 50 * MS));
    bench.packet.final_ = true;
    bench.receive(State::Up).unwrap();
    bench.packet.final_ = false;
    assert!(bench.wait_up(SECOND).iter().all(|(_, packet)| !packet.poll));
}

#[test]
fn a_session_whose_interval_stays_slow_does_not_poll() {
    let slow = Settings { min_tx: 2 * SECOND, ..fast() };
    let mut bench = Bench::new(slow);
    bench.receive(State::Down).unwrap();
    bench.receive(State::Up).unwrap();
    assert!(!bench.report().polling);
    assert!(bench.wait_up(10 * SECOND).iter().all(|(_, packet)| !packet.poll));
}

#[test]
fn a_longer_transmit_interval_applies_after_the_final() {
    let mut bench = Bench::up(fast());
    bench.bfd.set(bench.now, key(), Settings { min_tx: 200 * MS, ..fast() }).unwrap();
    let sent = bench.wait_up(SECOND);
    between(37 * MS, 50 * MS, &gaps(&sent));
    assert!(sent.iter().all(|(_, packet)| packet.poll && packet.desired_min_tx == 200 * MS));
    bench.packet.final_ = true;
    bench.receive(State::Up).unwrap();
    bench.packet.final_ = false;
    bench.wait_up(200 * MS);
    between(150 * MS, 200 * MS, &gaps(&bench.wait_up(5 * SECOND)));
}

#[test]
fn a_shorter_transmit_interval_applies_at_once() {
    let mut bench = Bench::up(Settings { min_tx: 500 * MS, ..fast() });
    bench.wait_up(2 * SECOND);
    bench.bfd.set(bench.now, key(), fast()).unwrap();
    let start = bench.now;
    let sent = bench.wait_up(SECOND);
    assert!(sent[0].0 - start <= 50 * MS);
    between(37 * MS, 50 * MS, &gaps(&sent));
}

#[test]
fn a_shorter_detection_time_applies_after_the_final() {
    let mut bench = Bench::up(Settings { min_rx: 300 * MS, ..fast() });
    assert_eq!(bench.report().detection_time, Some(900 * MS));
    bench.bfd.set(bench.now, key(), fast()).unwrap();
    assert_eq!(bench.report().detection_time, Some(900 * MS));
    bench.wait_up(100 * MS);
    bench.packet.final_ = true;
    bench.receive(State::Up).unwrap();
    assert_eq!(bench.report().detection_time, Some(150 * MS));
}

#[test]
fn a_longer_detection_time_applies_at_once() {
    let mut bench = Bench::up(fast());
    bench.bfd.set(bench.now, key(), Settings { min_rx: 300 * MS, ..fast() }).unwrap();
    assert_eq!(bench.report().detection_time, Some(900 * MS));
    assert!(bench.report().polling);
}

#[test]
fn a_final_before_the_poll_was_sent_does_not_end_the_sequence() {
    let mut bench = Bench::up(fast());
    bench.bfd.set(bench.now, key(), Settings { min_tx: 200 * MS, ..fast() }).unwrap();
    bench.packet.final_ = true;
    bench.receive(State::Up).unwrap();
    assert!(bench.report().polling, "no packet has carried the new interval yet");
    assert_eq!(bench.report().transmit_interval, Some(50 * MS));
}

#[test]
fn another_multiplier_needs_no_poll() {
    let mut bench = Bench::up(fast());
    bench.bfd.set(bench.now, key(), Settings { multiplier: 9, ..fast() }).unwrap();
    let sent = bench.wait_up(100 * MS);
    assert!(sent.iter().all(|(_, packet)| packet.multiplier == 9 && !packet.poll));
}

#[test]
fn a_neighbor_in_demand_mode_receives_only_polls() {
    let mut bench = Bench::up(fast());
    bench.packet.demand = true;
    bench.receive(State::Up).unwrap();
    assert_eq!(bench.wait_up(5 * SECOND), vec![]);
    bench.bfd.set(bench.now, key(), Settings { min_rx: 100 * MS, ..fast() }).unwrap();
    let sent = bench.wait_up(SECOND);
    assert!(sent.len() > 10 && sent.iter().all(|(_, packet)| packet.poll));
    bench.packet.final_ = true;
    bench.receive(State::Up).unwrap();
    bench.packet.final_ = false;
    assert_eq!(bench.wait_up(5 * SECOND), vec![]);
    bench.wait(SECOND);
    assert_eq!(bench.state(), State::Down, "its detection time still applies");
}

#[test]
fn a_neighbor_that_accepts_no_packets_receives_only_finals() {
    let mut bench = Bench::up(fast());
    bench.packet.required_min_rx = Duration::ZERO;
    bench.receive(State::Up).unwrap();
    assert_eq!(bench.wait_up(5 * SECOND), vec![]);
    bench.packet.poll = true;
    bench.receive(State::Up).unwrap();
    assert!(bench.sent()[0].final_);
    bench.wait(SECOND);
    assert_eq!(bench.state(), State::Down);
    assert!(!bench.wait(3 * SECOND).is_empty(), "its interval is reset with it");
}

#[test]
fn a_late_timeout_sends_one_packet_not_all_that_were_missed() {
    let mut bench = Bench::up(fast());
    bench.now += 140 * MS;
    bench.bfd.handle_timeout(bench.now);
    assert_eq!(bench.sent().len(), 1);
}
