use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// RFC 4271 §10: up to a quarter less, and not always the same.
#[test]
fn retries_come_with_jitter() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..200 {
        let mut bench = Bench::idle(settings(), seed);
        bench.call(|session, ctx| session.start(ctx));
        let conn = bench.attempt();
        bench.call(|session, ctx| session.connect_failed(ctx, conn, "refused"));
        let pause = bench.wait_next();
        assert!(pause >= Duration::from_millis(3750) && pause <= 5 * SECOND, "{pause:?}");
        seen.insert(pause);
    }
    assert!(seen.len() > 150);
    assert!(seen.first() < Some(&(4 * SECOND)) && seen.last() > Some(&Duration::from_millis(4750)));
}

#[test]
fn keepalives_come_within_a_third_of_the_hold_time() {
    let (mut bench, conn) = Bench::up(settings(), Open { hold_time: 9, ..open() });
    for _ in 0..100 {
        let pause = bench.wait_next();
        assert!(pause >= Duration::from_millis(2250) && pause <= 3 * SECOND, "{pause:?}");
        assert_eq!(bench.sent(conn), [Message::Keepalive]);
        bench.receive(conn, &Message::Keepalive);
    }
}

#[test]
fn a_configured_keepalive_time_applies_if_it_is_shorter() {
    for (configured, longest) in [(1, 1), (60, 30)] {
        let mut settings = settings();
        settings.neighbor.timers.keepalive = Some(configured * SECOND);
        let (mut bench, _) = Bench::up(settings, open());
        let pause = bench.wait_next();
        assert!(pause <= longest * SECOND && pause >= (longest * SECOND).mul_f64(0.75), "{pause:?}");
    }
}

#[test]
fn the_hold_timer_ends_the_session() {
    let (mut bench, conn) = Bench::up(settings(), Open { hold_time: 30, ..open_restart(120, true) });
    bench.wait(29 * SECOND);
    assert_eq!(bench.state(), SessionState::Established);
    bench.sent(conn);
    bench.wait(SECOND);
    // RFC 4724 §4.2: paths are not kept after a NOTIFICATION.
    assert_eq!(down(&bench.outputs), Some(Vec::new()));
    assert_eq!(bench.last_notification(conn), (code::HOLD_TIMER, 0));
    assert_eq!(bench.state(), SessionState::Active);
    assert_eq!(bench.session.reason().to_string(), "hold timer expired: nothing received for 30 s");
}

/// If both timers are due at once, no KEEPALIVE follows the NOTIFICATION.
#[test]
fn nothing_follows_the_last_notification() {
    let (mut bench, conn) = Bench::up(settings(), Open { hold_time: 3, ..open() });
    bench.sent(conn);
    bench.now += 100 * SECOND;
    bench.call(|session, ctx| session.handle_timeout(ctx));
    assert_eq!(bench.sent(conn), [Message::Notification(Notification::new(code::HOLD_TIMER, 0))]);
}

#[test]
fn keepalive_update_and_refresh_start_the_hold_timer_again() {
    let (mut bench, conn) = Bench::up(settings(), Open { hold_time: 30, ..open() });
    let update = Message::Update(Update { end_of_rib: Some(Family::Ipv4Unicast), ..Update::default() });
    for message in
        [Message::Keepalive, update, Message::RouteRefresh(Some(Family::Ipv4Unicast), wire::Refresh::Request)]
    {
        bench.wait(29 * SECOND);
        bench.receive(conn, &message);
    }
    bench.wait(29 * SECOND);
    assert_eq!(bench.state(), SessionState::Established);
}

/// RFC 4271 §4.2: the smaller value applies, and 0 on either side means no timers at all.
#[test]
fn without_a_hold_time_nothing_expires() {
    let (mut bench, conn) = Bench::up(settings(), Open { hold_time: 0, ..open() });
    assert_eq!(bench.session.negotiated().map(|n| n.hold), Some(Duration::ZERO));
    assert_eq!(bench.session.next_deadline(), None);
    bench.wait(100_000 * SECOND);
    assert_eq!(bench.state(), SessionState::Established);
    assert!(bench.sent(conn).is_empty());
}

#[test]
fn a_peer_has_four_minutes_for_its_open_and_first_keepalive() {
    for opens in [false, true] {
        let mut bench = Bench::new(settings());
        let conn = bench.attempt();
        bench.connected(conn);
        if opens {
            bench.receive(conn, &Message::Open(Open { hold_time: 0, ..open() }));
        }
        bench.wait(239 * SECOND);
        assert!(matches!(bench.state(), SessionState::OpenSent | SessionState::OpenConfirm));
        bench.wait(SECOND);
        assert_eq!(bench.last_notification(conn), (code::HOLD_TIMER, 0));
    }
}

fn spoil(bench: &mut Bench) -> Duration {
    let conn = bench.attempt();
    bench.connected(conn);
    bench.receive_bytes(conn, &[0; 19]);
    bench.last_notification(conn);
    assert_eq!(bench.state(), SessionState::Idle);
    pause(bench)
}

/// Waits for the next attempt, and returns how long that was.
fn pause(bench: &mut Bench) -> Duration {
    let start = bench.now;
    while !bench.outputs.iter().any(|output| matches!(output, Output::Connect(_))) {
        bench.wait_next();
    }
    bench.now - start
}

#[test]
fn the_pause_after_errors_doubles_up_to_a_minute() {
    let mut bench = Bench::new(settings());
    for expected in [1, 2, 4, 8, 16, 32, 60, 60] {
        let pause = spoil(&mut bench);
        let expected = expected * SECOND;
        assert!(pause <= expected && pause >= expected.mul_f64(0.75), "{pause:?}, not {expected:?}");
    }
}

/// A connection of the peer that ends in an error: the NOTIFICATION is sent, and the connection closed.
fn spoil_incoming(bench: &mut Bench) {
    let conn = bench.accept().expect("accepted");
    bench.receive_bytes(conn, &[0; 19]);
    bench.last_notification(conn);
    bench.take();
}

/// RFC 4271 §8.1.1: the growing pause is for attempts of our own. A peer that connects itself is refused for the idle hold
/// time at most.
#[test]
fn connections_of_a_peer_are_refused_for_a_bounded_time() {
    for passive in [false, true] {
        for idle_hold in [Duration::ZERO, SECOND, 10 * SECOND] {
            let mut settings = settings();
            settings.neighbor.passive = passive;
            settings.neighbor.timers.idle_hold = idle_hold;
            let mut bench = Bench::new(settings);
            bench.take();
            for _ in 0..10 {
                spoil_incoming(&mut bench);
                bench.call(|session, ctx| session.handle_timeout(ctx));
                assert_eq!(bench.accept().is_some(), idle_hold.is_zero());
                bench.wait(idle_hold);
                assert_ne!(bench.state(), SessionState::Idle, "the idle hold time is over");
            }
            let conn = bench.accept().expect("accepted");
            bench.establish(conn, open());
            assert_eq!(bench.state(), SessionState::Established);
        }
    }
}

/// The pause may be as long as that of our own attempts, if so configured, but no longer.
#[test]
fn the_idle_hold_time_is_no_longer_than_the_pause() {
    let mut settings = settings();
    settings.neighbor.passive = true;
    settings.neighbor.timers.idle_hold = Duration::MAX;
    let mut bench = Bench::new(settings);
    for expected in [1, 2, 4, 8, 16, 32, 60, 60] {
        spoil_incoming(&mut bench);
        bench.wait((expected * SECOND).mul_f64(0.74));
        assert!(bench.accept().is_none(), "within {expected} s");
        bench.wait((expected * SECOND).mul_f64(0.26));
    }
}

/// A planned attempt of our own is not put off by errors of connections that the peer opens.
#[test]
fn errors_of_the_peers_connections_do_not_put_off_our_attempt() {
    let mut settings = settings();
    settings.neighbor.timers.idle_hold = Duration::ZERO;
    let mut bench = Bench::new(settings);
    for _ in 0..8 {
        spoil(&mut bench);
    }
    let conn = bench.attempt();
    bench.connected(conn);
    bench.receive_bytes(conn, &[0; 19]);
    bench.last_notification(conn);
    bench.take();
    let start = bench.now;
    for _ in 0..40 {
        bench.call(|session, ctx| session.handle_timeout(ctx));
        spoil_incoming(&mut bench);
        bench.wait(SECOND);
    }
    pause(&mut bench);
    assert!(bench.now - start <= 60 * SECOND);
}

#[test]
fn a_stable_session_resets_the_pause() {
    for (stood, most) in [(59, 60), (61, 1)] {
        let mut bench = Bench::new(settings());
        for _ in 0..8 {
            spoil(&mut bench);
        }
        let conn = bench.attempt();
        bench.connected(conn);
        bench.establish(conn, open());
        bench.wait(stood * SECOND);
        bench.receive_bytes(conn, &[0; 19]);
        bench.last_notification(conn);
        let pause = pause(&mut bench);
        let most = u32::try_from(most).expect("small") * SECOND;
        assert!(pause <= most && pause >= most.mul_f64(0.75), "{pause:?}, not {most:?}");
    }
}

/// A peer that keeps connecting and closing does not put off our own attempt.
#[test]
fn the_retry_timer_is_never_put_off() {
    let mut bench = Bench::new(settings());
    let conn = bench.attempt();
    bench.call(|session, ctx| session.connect_failed(ctx, conn, "refused"));
    let due = bench.session.next_deadline().expect("a retry");
    for _ in 0..3 {
        bench.now += SECOND;
        let incoming = bench.accept().expect("accepted");
        bench.call(|session, ctx| session.closed(ctx, incoming, "closed"));
    }
    assert!(bench.session.next_deadline().expect("a retry") <= due);
}

/// An error on another connection starts a pause; establishment ends it.
#[test]
fn establishment_ends_the_pause() {
    let mut bench = Bench::new(settings());
    let outgoing = bench.attempt();
    bench.connected(outgoing);
    let incoming = bench.accept().expect("accepted");
    bench.receive_bytes(incoming, &[0; 19]);
    bench.establish(outgoing, open_restart(120, true));
    assert!(bench.accept().is_some(), "a restarted peer is accepted");
}

/// RFC 9687: the session with a peer that sends KEEPALIVEs but reads nothing ends in time.
#[test]
fn the_send_hold_timer_ends_the_session() {
    for (hold, configured, expected) in [(90, None, 480), (65535, None, 131_070), (90, Some(100), 100)] {
        let mut settings = settings();
        settings.neighbor.timers.hold = hold * SECOND;
        settings.neighbor.timers.send_hold = configured.map(|seconds: u32| seconds * SECOND);
        let open = Open { hold_time: u16::MAX, ..open_restart(120, true) };
        let (mut bench, conn) = Bench::up(settings, open);
        let start = bench.now;
        while bench.state() == SessionState::Established {
            bench.receive(conn, &Message::Keepalive);
            bench.wait(SECOND);
        }
        assert_eq!(bench.now - start, expected * SECOND);
        assert_eq!(down(&bench.take()), Some(Vec::new()), "as with any NOTIFICATION");
        assert_eq!(bench.sent(conn).pop(), Some(Message::Notification(Notification::new(8, 0))));
        assert_eq!(bench.session.reason().to_string(), "send hold timer expired: the peer reads nothing");
    }
}

#[test]
fn a_peer_that_reads_keeps_its_session() {
    let (mut bench, conn) = Bench::up(settings(), open());
    for _ in 0..1000 {
        bench.receive(conn, &Message::Keepalive);
        bench.wait(SECOND);
        bench.sent(conn);
    }
    assert_eq!(bench.state(), SessionState::Established);
}
