//! The state machine (RFC 5880 §6.2, §6.8.6), detection (§6.8.4), AdminDown (§6.8.16), events for clients (RFC 5882), and
//! the set of sessions.

use super::*;

#[test]
fn each_pair_of_states_leads_to_the_state_of_the_rfc() {
    use State::{AdminDown, Down, Init, Up};
    let table = [
        (Down, [(AdminDown, Down), (Down, Init), (Init, Up), (Up, Down)]),
        (Init, [(AdminDown, Down), (Down, Init), (Init, Up), (Up, Up)]),
        (Up, [(AdminDown, Down), (Down, Down), (Init, Up), (Up, Up)]),
    ];
    for (from, row) in table {
        for (received, to) in row {
            let mut bench = Bench::new(fast());
            if from != Down {
                bench.receive(Down).unwrap();
            }
            if from == Up {
                bench.receive(Up).unwrap();
            }
            assert_eq!(bench.state(), from);
            bench.receive(received).unwrap();
            assert_eq!(bench.state(), to, "{from} on receiving {received}");
        }
    }
}

#[test]
fn a_change_of_state_is_sent_at_once() {
    let mut bench = Bench::new(fast());
    assert_eq!(bench.sent()[0].state, State::Down);
    bench.now += 100 * MS;
    bench.receive(State::Down).unwrap();
    let sent = bench.sent();
    assert_eq!((sent.len(), sent[0].state, sent[0].your_discriminator), (1, State::Init, 99));
    bench.receive(State::Init).unwrap();
    assert_eq!(bench.sent()[0].state, State::Up);
}

#[test]
fn no_packet_for_the_detection_time_and_no_less_is_down() {
    let mut bench = Bench::up(fast());
    let received = bench.now;
    bench.wait(150 * MS - Duration::from_nanos(1));
    assert_eq!(bench.state(), State::Up);
    bench.wait(Duration::from_nanos(1));
    assert_eq!(bench.now - received, 150 * MS);
    let report = bench.report();
    assert_eq!((report.state, report.diagnostic), (State::Down, Diagnostic::DetectionTimeExpired));
    assert_eq!((report.remote_discriminator, report.failure_count), (None, 1));
    let events = bench.events();
    let [Event::Down { reason, control_plane_independent: false, .. }] = &events[..] else {
        panic!("{events:?}")
    };
    assert_eq!(*reason, Reason::Expired { detection_time: 150 * MS, multiplier: 3 });
}

#[test]
fn the_neighbors_multiplier_and_the_slower_interval_make_the_detection_time() {
    let mut bench = Bench::up(fast());
    bench.packet.multiplier = 5;
    bench.packet.desired_min_tx = 80 * MS;
    bench.receive(State::Up).unwrap();
    assert_eq!(bench.report().detection_time, Some(400 * MS));
    bench.packet.desired_min_tx = 10 * MS;
    bench.receive(State::Up).unwrap();
    assert_eq!(bench.report().detection_time, Some(250 * MS));
}

#[test]
fn a_session_that_never_was_up_fails_without_an_event() {
    let mut bench = Bench::new(fast());
    bench.receive(State::Down).unwrap();
    assert_eq!(bench.state(), State::Init);
    bench.wait(SECOND);
    assert_eq!((bench.state(), bench.events()), (State::Down, vec![]));
    assert_eq!(bench.report().failure_count, 0);
}

#[test]
fn a_neighbor_that_sends_down_is_a_failure_with_its_diagnostic() {
    let mut bench = Bench::up(fast());
    bench.packet.diagnostic = Diagnostic::DetectionTimeExpired;
    bench.packet.control_plane_independent = true;
    bench.receive(State::Down).unwrap();
    let events = bench.events();
    let [Event::Down { reason, control_plane_independent: true, .. }] = &events[..] else {
        panic!("{events:?}")
    };
    assert_eq!(*reason, Reason::NeighborDown(Diagnostic::DetectionTimeExpired));
    assert_eq!(bench.report().diagnostic, Diagnostic::NeighborSignaledDown);
}

#[test]
fn a_neighbor_in_admin_down_is_no_failure() {
    let mut bench = Bench::up(fast());
    bench.packet.diagnostic = Diagnostic::AdministrativelyDown;
    bench.receive(State::AdminDown).unwrap();
    assert!(matches!(bench.events()[..], [Event::AdminDown { reason: Reason::NeighborAdminDown, .. }]));
    assert_eq!((bench.state(), bench.report().failure_count), (State::Down, 0));
    bench.receive(State::AdminDown).unwrap();
    bench.wait(10 * SECOND);
    assert_eq!(bench.events(), vec![]);
}

#[test]
fn a_session_held_down_sends_admin_down_and_ignores_packets() {
    let mut bench = Bench::up(fast());
    bench.bfd.set(bench.now, key(), Settings { admin_down: true, ..fast() }).unwrap();
    assert!(matches!(&bench.events()[..], [Event::AdminDown { .. }]));
    let sent = bench.sent();
    assert_eq!((sent[0].state, sent[0].diagnostic), (State::AdminDown, Diagnostic::AdministrativelyDown));
    for state in [State::Down, State::Init, State::Up, State::AdminDown] {
        assert_eq!(bench.receive(state), Err(Discard::AdminDown));
    }
    let sent = bench.wait(10 * SECOND);
    assert!((10..=14).contains(&sent.len()), "{}", sent.len());
    assert_eq!(bench.state(), State::AdminDown);
    bench.bfd.set(bench.now, key(), fast()).unwrap();
    assert_eq!(bench.sent()[0].state, State::Down);
    bench.receive(State::Down).unwrap();
    assert_eq!(bench.state(), State::Init);
}

#[test]
fn a_session_may_start_in_admin_down() {
    let mut bench = Bench::new(Settings { admin_down: true, ..fast() });
    assert_eq!(bench.sent()[0].state, State::AdminDown);
    assert_eq!(bench.events(), vec![]);
}

#[test]
fn a_removed_session_sends_admin_down_for_a_detection_time() {
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
fn a_session_removed_and_set_again_is_a_new_one() {
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
fn another_path_restarts_the_session() {
    let mut bench = Bench::up(fast());
    bench.bfd.set(bench.now, key(), Settings { path: Path::Multihop { min_ttl: 0 }, ..fast() }).unwrap();
    assert_eq!((bench.state(), bench.bfd.report(bench.now).len()), (State::Down, 1));
    assert!(matches!(&bench.events()[..], [Event::AdminDown { .. }]));
}

#[test]
fn a_neighbor_that_restarted_comes_up_with_its_new_discriminator() {
    let mut bench = Bench::up(fast());
    bench.packet.my_discriminator = 1234;
    bench.receive(State::Down).unwrap();
    assert!(matches!(&bench.events()[..], [Event::Down { .. }]));
    bench.receive(State::Down).unwrap();
    assert_eq!(bench.sent().last().unwrap().your_discriminator, 1234);
    bench.receive(State::Init).unwrap();
    assert_eq!((bench.state(), bench.report().up_count), (State::Up, 2));
}

#[test]
fn discriminators_and_ports_are_unique_and_follow_from_the_seed() {
    let now = Instant::now();
    let keys = (0..5000_u32)
        .map(|n| Key { local: ip("10.0.0.1"), remote: std::net::Ipv4Addr::from(0x0b00_0000 + n).into() });
    let desired: BTreeMap<Key, Settings> = keys.map(|key| (key, fast())).collect();
    let build = |seed| {
        let mut bfd = Bfd::new(seed);
        bfd.set_all(now, &desired).unwrap();
        bfd.report(now)
    };
    let reports = build(1);
    let discriminators: BTreeSet<u32> = reports.iter().map(|report| report.discriminator).collect();
    let ports: BTreeSet<u16> = reports.iter().map(|report| report.source_port).collect();
    assert_eq!((discriminators.len(), ports.len()), (5000, 5000));
    assert!(!discriminators.contains(&0) && *ports.first().unwrap() >= 49152);
    assert_eq!(build(1), reports);
    assert_ne!(build(2), reports);
}

#[test]
fn too_many_sessions_are_an_error_until_one_is_removed() {
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
fn a_port_in_use_is_drawn_again() {
    let mut bench = Bench::new(fast());
    let first = bench.report().source_port;
    bench.bfd.redraw_port(key());
    assert_ne!(bench.report().source_port, first);
    assert_eq!(bench.bfd.poll_transmit().unwrap().local.port(), bench.report().source_port);
}

#[test]
fn a_set_with_one_invalid_session_changes_nothing() {
    let mut bench = Bench::up(fast());
    let other = Key { remote: ip("192.0.2.9"), ..key() };
    let invalid = [
        (other, fast().multiplier(0), InvalidSettings::Multiplier),
        (other, fast().min_tx(Duration::ZERO), InvalidSettings::Interval),
        (other, fast().min_rx(5000 * SECOND), InvalidSettings::Interval),
        (Key { remote: ip("2001:db8::1"), ..key() }, fast(), InvalidSettings::Families),
        (Key { remote: ip("0.0.0.0"), ..key() }, fast(), InvalidSettings::RemoteAddress),
        (Key { local: ip("224.0.0.1"), ..key() }, fast(), InvalidSettings::LocalAddress),
    ];
    for (key, settings, problem) in invalid {
        let before = bench.bfd.report(bench.now);
        let error = bench.bfd.set_all(bench.now, &BTreeMap::from([(key, settings)])).unwrap_err();
        assert_eq!(error, SettingsError::Invalid { key, problem });
        assert!(error.to_string().contains(": use "), "{error}");
        assert_eq!(bench.bfd.report(bench.now), before);
    }
}

#[test]
fn a_whole_set_affects_only_sessions_that_differ() {
    let mut bench = Bench::up(fast());
    let other = Key { remote: ip("192.0.2.9"), ..key() };
    bench.bfd.set_all(bench.now, &BTreeMap::from([(key(), fast()), (other, fast())])).unwrap();
    assert_eq!(bench.bfd.report(bench.now).len(), 2);
    bench.bfd.set_all(bench.now, &BTreeMap::from([(key(), fast())])).unwrap();
    assert_eq!((bench.bfd.report(bench.now).len(), bench.state()), (1, State::Up));
    assert_eq!(bench.events(), vec![]);
}
