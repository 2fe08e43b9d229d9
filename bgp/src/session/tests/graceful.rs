use super::*;

const SECOND: Duration = Duration::from_secs(1);

pub(crate) fn close(bench: &mut Bench, conn: ConnId) {
    bench.call(|session, ctx| session.closed(ctx, conn, "connection reset"));
}

pub(crate) fn comes_back(bench: &mut Bench, open: Open) -> ConnId {
    let conn = bench.accept().expect("accepted");
    bench.establish(conn, open);
    assert_eq!(bench.state(), SessionState::Established);
    conn
}

pub(crate) fn dropped(outputs: &[Output]) -> Vec<Option<Family>> {
    let dropped = outputs.iter().filter_map(|output| match output {
        Output::DropStale(family) => Some(*family),
        _ => None,
    });
    dropped.collect()
}

pub(crate) fn end_of_rib(bench: &mut Bench, conn: ConnId, family: Family) {
    bench.receive(conn, &Message::Update(Update { end_of_rib: Some(family), ..Update::default() }));
}

/// RFC 4724 §4.1: R after a restart; F if this node kept forwarding.
#[test]
fn our_open_has_the_restart_flags() {
    for restarting in [false, true] {
        let mut bench = Bench::idle(settings(), 1);
        bench.restarting = restarting;
        bench.call(|session, ctx| session.start(ctx));
        let conn = bench.attempt();
        bench.connected(conn);
        let sent = bench.sent(conn);
        let [Message::Open(open)] = &sent[..] else { panic!("{sent:?}") };
        let restart = open.graceful_restart().expect("offered");
        assert_eq!((restart.restarting, restart.restart_time), (restarting, 120));
        assert_eq!(restart.families, FAMILIES.map(|family| (family, true)));
    }
}

#[test]
fn graceful_restart_is_not_offered_if_disabled() {
    let settings = Settings { graceful_restart: None, ..settings() };
    let (mut bench, conn) = Bench::up(settings, open_restart(120, true));
    close(&mut bench, conn);
    assert_eq!(down(&bench.outputs), Some(Vec::new()));
}

#[test]
fn routes_stay_until_each_familys_end_of_rib() {
    let (mut bench, conn) = Bench::up(settings(), open_restart(120, true));
    close(&mut bench, conn);
    assert_eq!(down(&bench.take()), Some(FAMILIES.into()));
    let conn = comes_back(&mut bench, open_restart(120, true));
    assert_eq!(dropped(&bench.take()), []);
    assert!(!bench.session.end_of_rib_received());
    end_of_rib(&mut bench, conn, Family::Ipv6Unicast);
    assert_eq!(dropped(&bench.take()), [Some(Family::Ipv6Unicast)]);
    end_of_rib(&mut bench, conn, Family::Ipv4Unicast);
    assert_eq!(dropped(&bench.take()), [Some(Family::Ipv4Unicast)]);
    assert!(bench.session.end_of_rib_received());
}

#[test]
fn stale_routes_are_removed_after_the_restart_time() {
    let (mut bench, conn) = Bench::up(settings(), open_restart(40, true));
    close(&mut bench, conn);
    bench.wait(39 * SECOND);
    assert_eq!(dropped(&bench.take()), []);
    bench.wait(SECOND);
    assert_eq!(dropped(&bench.take()), FAMILIES.map(Some));
}

/// RFC 4724 §4.2: the paths of families that the peer did not preserve, or no longer lists, are removed at once.
#[test]
fn without_the_f_bit_no_route_is_kept() {
    for open in [open_restart(120, false), open()] {
        let (mut bench, conn) = Bench::up(settings(), open_restart(120, true));
        close(&mut bench, conn);
        bench.take();
        comes_back(&mut bench, open);
        assert_eq!(dropped(&bench.take()), FAMILIES.map(Some));
    }
}

#[test]
fn without_end_of_rib_stale_routes_are_removed_in_time() {
    let (mut bench, conn) = Bench::up(settings(), Open { hold_time: 0, ..open_restart(120, true) });
    close(&mut bench, conn);
    comes_back(&mut bench, Open { hold_time: 0, ..open_restart(120, true) });
    bench.take();
    bench.wait(360 * SECOND);
    assert_eq!(dropped(&bench.take()), FAMILIES.map(Some));
}

/// RFC 4724 §4.2: a NOTIFICATION ends graceful restart.
#[test]
fn no_route_is_kept_after_a_notification() {
    let (mut bench, conn) = Bench::up(settings(), open_restart(120, true));
    bench.receive(conn, &Message::Notification(Notification::new(code::CEASE, cease::RESET)));
    assert_eq!(down(&bench.outputs), Some(Vec::new()));
}

/// Without the capability, the first KEEPALIVE after the routes counts as End-of-RIB.
#[test]
fn a_keepalive_counts_as_end_of_rib_without_graceful_restart() {
    let (mut bench, conn) = Bench::up(settings(), open());
    assert!(!bench.session.end_of_rib_received());
    bench.receive(conn, &Message::Keepalive);
    assert!(bench.session.end_of_rib_received());
}

/// Our settings with RFC 8538.
fn surviving() -> Settings {
    let restart = GracefulRestart { notifications: true, ..GracefulRestart::default() };
    Settings { graceful_restart: Some(restart), ..settings() }
}

/// The peer's OPEN with the N bit.
fn open_surviving() -> Open {
    let mut open = open_restart(120, true);
    for capability in &mut open.capabilities {
        if let Capability::GracefulRestart(restart) = capability {
            restart.notification = true;
        }
    }
    open
}

/// RFC 8538 §2: only if both sides have sent the N bit.
#[test]
fn notifications_end_graceful_restart_unless_both_agreed() {
    let kept = |settings: Settings, open: Open, notification: Notification| {
        let (mut bench, conn) = Bench::up(settings, open);
        bench.receive(conn, &Message::Notification(notification));
        down(&bench.outputs).expect("down")
    };
    let reset = || Notification::new(code::CEASE, cease::RESET);
    let all = FAMILIES.to_vec();
    assert_eq!(kept(settings(), open_surviving(), reset()), []);
    assert_eq!(kept(surviving(), open_restart(120, true), reset()), []);
    assert_eq!(kept(surviving(), open_surviving(), reset()), all);
    assert_eq!(kept(surviving(), open_surviving(), Notification::new(code::HOLD_TIMER, 0)), all);
    assert_eq!(kept(surviving(), open_surviving(), reset().into_hard_reset()), []);
}

#[test]
fn a_permanent_end_is_a_hard_reset() {
    for (subcode, hard) in [
        (cease::SHUTDOWN, true),
        (cease::DECONFIGURED, true),
        (cease::MAX_PREFIXES, true),
        (cease::RESET, false),
        (cease::RESOURCES, false),
    ] {
        let (mut bench, conn) = Bench::up(surviving(), open_surviving());
        let cease = Notification::with_message(subcode, "words");
        bench.call(|session, ctx| session.stop(ctx, &cease, StopReason::Shutdown));
        assert_eq!(down(&bench.take()).expect("down").is_empty(), hard);
        let expected = if hard { cease.into_hard_reset() } else { cease };
        assert_eq!(bench.sent(conn), [Message::Notification(expected)]);
    }
}

/// RFC 8538 §4: paths are kept after errors and an expired hold timer, too.
#[test]
fn routes_are_kept_after_errors_if_both_agreed() {
    let (mut bench, conn) = Bench::up(surviving(), open_surviving());
    bench.receive_bytes(conn, &[0; 19]);
    assert_eq!(down(&bench.take()), Some(FAMILIES.into()));
    let (mut bench, _) = Bench::up(surviving(), open_surviving());
    bench.wait(90 * SECOND);
    assert_eq!(down(&bench.take()), Some(FAMILIES.into()));
    bench.wait(121 * SECOND);
    assert_eq!(dropped(&bench.take()), FAMILIES.map(Some));
}
