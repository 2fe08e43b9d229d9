//! The state machine (RFC 5880 §6.2, §6.8.6), detection (§6.8.4), AdminDown (§6.8.16), what clients hear (RFC 5882),
//! and the set of sessions.

use super::*;

#[test]
fn each_pair_of_states_leads_where_the_rfc_says() {
    use State::{AdminDown, Down, Init, Up};
    let table = [
        (Down, [(AdminDown, Down), (Down, Init), (Init, Up), (Up, Down)]),
        (Init, [(AdminDown, Down), (Down, Init), (Init, Up), (Up, Up)]),
        (Up, [(AdminDown, Down), (Down, Down), (Init, Up), (Up, Up)]),
    ];
    for (from, row) in table {
        for (heard, to) in row {
            let mut bench = Bench::new(fast());
            if from != Down {
                bench.hears(Down).unwrap();
            }
            if from == Up {
                bench.hears(Up).unwrap();
            }
            assert_eq!(bench.state(), from);
            bench.hears(heard).unwrap();
            assert_eq!(bench.state(), to, "{from:?} on hearing {heard:?}");
        }
    }
}

#[test]
fn a_change_of_state_is_told_at_once() {
    let mut bench = Bench::new(fast());
    assert_eq!(bench.sent()[0].state, State::Down);
    bench.now += 100 * MS;
    bench.hears(State::Down).unwrap();
    let sent = bench.sent();
    assert_eq!((sent.len(), sent[0].state, sent[0].your_discriminator), (1, State::Init, 99));
    bench.hears(State::Init).unwrap();
    assert_eq!(bench.sent()[0].state, State::Up);
}

#[test]
fn silence_for_the_detection_time_and_no_less_is_down() {
    let mut bench = Bench::up(fast());
    let heard = bench.now;
    bench.wait(150 * MS - Duration::from_nanos(1));
    assert_eq!(bench.state(), State::Up);
    bench.wait(Duration::from_nanos(1));
    assert_eq!(bench.now - heard, 150 * MS);
    let report = bench.report();
    assert_eq!((report.state, report.diagnostic), (State::Down, Diagnostic::EXPIRED));
    assert_eq!((report.remote_discriminator, report.failure_count), (None, 1));
    let events = bench.events();
    let [Event::Down { why, control_plane_independent: false, .. }] = &events[..] else {
        panic!("{events:?}")
    };
    assert_eq!(why, "nothing heard from 192.0.2.2 for 150ms, 3 times the interval agreed on");
}

#[test]
fn the_neighbours_multiplier_and_the_slower_interval_make_the_detection_time() {
    let mut bench = Bench::up(fast());
    bench.says.multiplier = 5;
    bench.says.desired_min_tx = 80 * MS;
    bench.hears(State::Up).unwrap();
    assert_eq!(bench.report().detection_time, Some(400 * MS));
    bench.says.desired_min_tx = 10 * MS;
    bench.hears(State::Up).unwrap();
    assert_eq!(bench.report().detection_time, Some(250 * MS));
}

#[test]
fn a_session_that_never_stood_fails_in_silence() {
    let mut bench = Bench::new(fast());
    bench.hears(State::Down).unwrap();
    assert_eq!(bench.state(), State::Init);
    bench.wait(SECOND);
    assert_eq!((bench.state(), bench.events()), (State::Down, vec![]));
    assert_eq!(bench.report().failure_count, 0);
}

#[test]
fn the_neighbours_word_that_it_is_down_is_a_failure_with_its_reason() {
    let mut bench = Bench::up(fast());
    bench.says.diagnostic = Diagnostic::EXPIRED;
    bench.says.control_plane_independent = true;
    bench.hears(State::Down).unwrap();
    let events = bench.events();
    let [Event::Down { why, control_plane_independent: true, .. }] = &events[..] else {
        panic!("{events:?}")
    };
    assert!(why.ends_with("its side is down: it heard nothing from us for its detection time"), "{why}");
    assert_eq!(bench.report().diagnostic, Diagnostic::NEIGHBOR_DOWN);
}

#[test]
fn a_neighbour_taken_down_by_its_operator_is_no_failure() {
    let mut bench = Bench::up(fast());
    bench.says.diagnostic = Diagnostic::ADMIN_DOWN;
    bench.hears(State::AdminDown).unwrap();
    assert!(matches!(&bench.events()[..], [Event::AdminDown { why, .. }] if why.contains("taken down")));
    assert_eq!((bench.state(), bench.report().failure_count), (State::Down, 0));
    bench.hears(State::AdminDown).unwrap();
    bench.wait(10 * SECOND);
    assert_eq!(bench.events(), vec![]);
}

#[test]
fn held_down_we_say_so_and_listen_to_nobody() {
    let mut bench = Bench::up(fast());
    bench.bfd.set(bench.now, key(), Settings { admin_down: true, ..fast() }).unwrap();
    assert!(matches!(&bench.events()[..], [Event::AdminDown { .. }]));
    let sent = bench.sent();
    assert_eq!((sent[0].state, sent[0].diagnostic), (State::AdminDown, Diagnostic::ADMIN_DOWN));
    for state in [State::Down, State::Init, State::Up, State::AdminDown] {
        assert_eq!(bench.hears(state), Err(Discard::AdminDown));
    }
    let sent = bench.wait(10 * SECOND);
    assert!((10..=14).contains(&sent.len()), "{}", sent.len());
    assert_eq!(bench.state(), State::AdminDown);
    bench.bfd.set(bench.now, key(), fast()).unwrap();
    assert_eq!(bench.sent()[0].state, State::Down);
    bench.hears(State::Down).unwrap();
    assert_eq!(bench.state(), State::Init);
}

#[test]
fn a_session_may_begin_held_down() {
    let mut bench = Bench::new(Settings { admin_down: true, ..fast() });
    assert_eq!(bench.sent()[0].state, State::AdminDown);
    assert_eq!(bench.events(), vec![]);
}

#[test]
fn a_removed_session_tells_the_neighbour_for_a_detection_time() {
    let mut bench = Bench::up(fast());
    assert!(bench.bfd.remove(bench.now, key()));
    assert!(!bench.bfd.remove(bench.now, key()), "twice");
    assert!(bench.bfd.report(bench.now).is_empty());
    let sent = bench.wait(10 * SECOND);
    assert!((3..=5).contains(&sent.len()), "{}", sent.len());
    assert!(sent.iter().all(|(_, packet)| packet.state == State::AdminDown));
    assert!(!bench.bfd.contains(key()));
    assert_eq!(bench.bfd.next_deadline(), None);
}

#[test]
fn a_session_removed_and_wanted_again_is_a_new_one() {
    let mut bench = Bench::up(fast());
    let old = bench.report().discriminator;
    bench.bfd.remove(bench.now, key());
    bench.bfd.set(bench.now, key(), fast()).unwrap();
    assert_ne!(bench.report().discriminator, old);
    bench.wait(10 * SECOND);
    assert!(bench.bfd.contains(key()));
    assert_eq!(bench.state(), State::Down);
}

#[test]
fn another_path_begins_the_session_anew() {
    let mut bench = Bench::up(fast());
    bench.bfd.set(bench.now, key(), Settings { path: Path::Multihop { min_ttl: 0 }, ..fast() }).unwrap();
    assert_eq!((bench.state(), bench.bfd.report(bench.now).len()), (State::Down, 1));
    assert!(matches!(&bench.events()[..], [Event::AdminDown { .. }]));
}

#[test]
fn a_neighbour_that_restarted_comes_back_under_its_new_name() {
    let mut bench = Bench::up(fast());
    bench.says.my_discriminator = 1234;
    bench.hears(State::Down).unwrap();
    assert!(matches!(&bench.events()[..], [Event::Down { .. }]));
    bench.hears(State::Down).unwrap();
    assert_eq!(bench.sent().last().unwrap().your_discriminator, 1234);
    bench.hears(State::Init).unwrap();
    assert_eq!((bench.state(), bench.report().up_count), (State::Up, 2));
}

#[test]
fn names_and_ports_are_unique_and_follow_from_the_seed() {
    let now = Instant::now();
    let keys = (0..5000_u32)
        .map(|n| Key { local: ip("10.0.0.1"), remote: std::net::Ipv4Addr::from(0x0b00_0000 + n).into() });
    let wanted: BTreeMap<Key, Settings> = keys.map(|key| (key, fast())).collect();
    let build = |seed| {
        let mut bfd = Bfd::new(seed);
        bfd.set_all(now, &wanted).unwrap();
        bfd.report(now)
    };
    let reports = build(1);
    let names: BTreeSet<u32> = reports.iter().map(|report| report.discriminator).collect();
    let ports: BTreeSet<u16> = reports.iter().map(|report| report.source_port).collect();
    assert_eq!((names.len(), ports.len()), (5000, 5000));
    assert!(!names.contains(&0) && *ports.first().unwrap() >= 49152);
    assert_eq!(build(1), reports);
    assert_ne!(build(2), reports);
}

#[test]
fn ports_run_out_with_a_reason_and_come_back() {
    let now = Instant::now();
    let key =
        |n: u32| Key { local: ip("10.0.0.1"), remote: std::net::Ipv4Addr::from(0x0b00_0000 + n).into() };
    let mut bfd = Bfd::new(1);
    for n in 0..16384 {
        bfd.set(now, key(n), fast()).unwrap();
    }
    assert_eq!(bfd.set(now, key(16384), fast()), Err(SettingsError::TooMany(16385)));
    bfd.remove(now, key(7));
    bfd.set(now, key(16384), fast()).unwrap();
    assert_eq!(bfd.report(now).len(), 16384);
}

#[test]
fn a_taken_port_is_drawn_again() {
    let mut bench = Bench::new(fast());
    let first = bench.report().source_port;
    bench.bfd.redraw_port(key());
    assert_ne!(bench.report().source_port, first);
    assert_eq!(bench.bfd.poll_transmit().unwrap().local.port(), bench.report().source_port);
}

#[test]
fn a_set_with_one_fault_changes_nothing() {
    let mut bench = Bench::up(fast());
    let other = Key { remote: ip("192.0.2.9"), ..key() };
    let faults = [
        (other, Settings { multiplier: 0, ..fast() }),
        (other, Settings { min_tx: Duration::ZERO, ..fast() }),
        (other, Settings { min_rx: 5000 * SECOND, ..fast() }),
        (Key { remote: ip("2001:db8::1"), ..key() }, fast()),
        (Key { remote: ip("0.0.0.0"), ..key() }, fast()),
    ];
    for (key, settings) in faults {
        let before = bench.bfd.report(bench.now);
        let error = bench.bfd.set_all(bench.now, &BTreeMap::from([(key, settings)])).unwrap_err();
        assert!(error.to_string().contains("give"), "{error}");
        assert_eq!(bench.bfd.report(bench.now), before);
    }
}

#[test]
fn a_whole_set_touches_only_what_differs() {
    let mut bench = Bench::up(fast());
    let other = Key { remote: ip("192.0.2.9"), ..key() };
    bench.bfd.set_all(bench.now, &BTreeMap::from([(key(), fast()), (other, fast())])).unwrap();
    assert_eq!(bench.bfd.report(bench.now).len(), 2);
    bench.bfd.set_all(bench.now, &BTreeMap::from([(key(), fast())])).unwrap();
    assert_eq!((bench.bfd.report(bench.now).len(), bench.state()), (1, State::Up));
    assert_eq!(bench.events(), vec![]);
}
