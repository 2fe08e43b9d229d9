use super::*;

/// Both sides have connected; neither connection's OPEN is in.
fn two(settings: Settings) -> (Bench, ConnId, ConnId) {
    let mut bench = Bench::new(settings);
    let outgoing = bench.asked();
    bench.connected(outgoing);
    let incoming = bench.accept().expect("welcome");
    bench.said(outgoing);
    bench.said(incoming);
    (bench, outgoing, incoming)
}

/// RFC 4271 §6.8: kept is the connection that the speaker with the higher identifier opened, whichever OPEN came first.
#[test]
fn the_higher_identifier_keeps_its_connection() {
    for (theirs, outgoing_stays) in [(Ipv4Addr::new(10, 0, 0, 9), false), (Ipv4Addr::new(10, 0, 0, 1), true)]
    {
        for outgoing_first in [false, true] {
            let (mut bench, outgoing, incoming) = two(settings());
            let open = || Message::Open(Open { router_id: theirs, ..open() });
            let (first, second) = if outgoing_first { (outgoing, incoming) } else { (incoming, outgoing) };
            bench.hear(first, &open());
            bench.hear(second, &open());
            let (stays, goes) = if outgoing_stays { (outgoing, incoming) } else { (incoming, outgoing) };
            assert_eq!(bench.last_word(goes), (code::CEASE, cease::COLLISION));
            bench.hear(stays, &Message::Keepalive);
            assert_eq!(bench.session.established(), Some(stays));
            assert_eq!(bench.session.connections().collect::<Vec<_>>(), [stays]);
        }
    }
}

/// RFC 6286 §2.3: where identifiers are equal, which only external peers may have, the higher AS decides.
#[test]
fn among_equal_identifiers_the_higher_as_keeps_its_connection() {
    for (asn, outgoing_stays) in [(ASN - 1, true), (ASN + 1, false)] {
        let mut settings = settings();
        settings.neighbor.asn = asn;
        let (mut bench, outgoing, incoming) = two(settings);
        let open = Open { asn, router_id: US, capabilities: vec![Capability::FourOctetAs(asn)], ..open() };
        bench.hear(outgoing, &Message::Open(open.clone()));
        bench.hear(incoming, &Message::Open(open));
        let goes = if outgoing_stays { incoming } else { outgoing };
        assert_eq!(bench.last_word(goes), (code::CEASE, cease::COLLISION));
    }
}

#[test]
fn a_cease_for_the_loser_does_not_touch_the_winner() {
    let (mut bench, outgoing, incoming) = two(settings());
    bench.hear(incoming, &Message::Open(open()));
    bench.hear(outgoing, &Message::Notification(Notification::new(code::CEASE, cease::COLLISION)));
    bench.hear(incoming, &Message::Keepalive);
    assert_eq!(bench.state(), SessionState::Established);
    assert_eq!(bench.session.last_error(), None, "a collision is no error");
    assert_eq!(bench.session.next_deadline().map(|at| at > bench.now), Some(true));
}

/// RFC 4271 §6.8: a new connection while the session stands loses; nothing else happens.
#[test]
fn an_established_session_stays_without_graceful_restart() {
    let (mut bench, conn) = Bench::up(settings(), open());
    let late = bench.accept().expect("heard out");
    bench.hear(late, &Message::Open(open()));
    assert_eq!(bench.last_word(late), (code::CEASE, cease::COLLISION));
    assert_eq!(bench.session.established(), Some(conn));
    assert_eq!(down(&bench.outputs), None);
}

/// RFC 4724 §5: with graceful restart the new one shows that the peer restarted.
#[test]
fn an_established_session_is_replaced_with_graceful_restart() {
    let (mut bench, old) = Bench::up(settings(), open_restart(120, true));
    bench.now += Duration::from_secs(1);
    let new = bench.accept().expect("heard out");
    assert_eq!(bench.session.established(), Some(old), "a connection alone shows nothing");
    bench.hear(new, &Message::Open(open_restart(120, true)));
    let outputs = bench.take();
    assert_eq!(outputs.first(), Some(&Output::Close(old)));
    assert_eq!(down(&outputs), Some(FAMILIES.into()));
    bench.hear(new, &Message::Keepalive);
    assert_eq!(bench.session.established(), Some(new));
}

/// RFC 4271 §6.8: an OPEN that was under way when the session came up shows no restart, and the session stays.
#[test]
fn a_peers_open_that_comes_just_after_is_a_collision() {
    let (mut bench, first) = Bench::up(settings(), open_restart(120, true));
    bench.now += Duration::from_millis(999);
    let late = bench.accept().expect("heard out");
    bench.hear(late, &Message::Open(open_restart(120, true)));
    assert_eq!(bench.last_word(late), (code::CEASE, cease::COLLISION));
    assert_eq!(bench.session.established(), Some(first));
}

/// An attempt of ours that comes through after the session stands has lost already.
#[test]
fn an_attempt_still_under_way_is_given_up() {
    let mut bench = Bench::new(settings());
    let outgoing = bench.asked();
    let incoming = bench.accept().expect("welcome");
    bench.hear(incoming, &Message::Open(open()));
    assert_eq!(bench.take(), [Output::Close(outgoing)]);
    bench.connected(outgoing);
    assert!(bench.said(outgoing).is_empty());
}

#[test]
fn a_silent_rival_is_closed_when_the_session_stands() {
    let (mut bench, outgoing, incoming) = two(settings());
    bench.establish(incoming, open_restart(120, true));
    assert_eq!(bench.last_word(outgoing), (code::CEASE, cease::COLLISION));
    bench.hear(outgoing, &Message::Open(open_restart(120, true)));
    assert_eq!(bench.session.established(), Some(incoming), "its OPEN is not a restart of the peer's");
}

/// Of two connections of the peer's own the earlier one is history.
#[test]
fn the_peers_newer_connection_replaces_its_older() {
    for theirs in [Ipv4Addr::new(10, 0, 0, 9), Ipv4Addr::new(10, 0, 0, 1)] {
        let mut settings = settings();
        settings.neighbor.passive = true;
        let mut bench = Bench::new(settings);
        let open = || Message::Open(Open { router_id: theirs, ..open() });
        let silent = bench.accept().expect("welcome");
        let first = bench.accept().expect("welcome");
        assert_eq!(bench.take(), [Output::Close(silent)]);
        bench.hear(first, &open());
        let second = bench.accept().expect("welcome");
        bench.said(first);
        bench.hear(second, &open());
        assert_eq!(bench.last_word(first), (code::CEASE, cease::COLLISION));
        bench.hear(second, &Message::Keepalive);
        assert_eq!(bench.session.established(), Some(second));
    }
}

/// However often the peer connects without a word, it has one connection at most.
#[test]
fn half_open_connections_do_not_pile_up() {
    let mut bench = Bench::new(settings());
    for _ in 0..1000 {
        bench.accept().expect("welcome");
    }
    assert_eq!(bench.session.connections().count(), 2, "one of ours, one of its");
}

/// A peer that connects and says nothing does not keep us from connecting.
#[test]
fn a_silent_peer_does_not_stop_our_attempts() {
    let mut bench = Bench::new(settings());
    let outgoing = bench.asked();
    bench.accept().expect("welcome");
    bench.call(|session, ctx| session.connect_failed(ctx, outgoing, "refused"));
    for _ in 0..3 {
        bench.wait_next();
        let again = bench.asked();
        bench.call(|session, ctx| session.connect_failed(ctx, again, "refused"));
    }
}
