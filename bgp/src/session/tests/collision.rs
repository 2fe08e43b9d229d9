use super::*;

/// Both connections are open; no OPEN has been received.
fn two(settings: Settings) -> (Bench, ConnId, ConnId) {
    let mut bench = Bench::new(settings);
    let outgoing = bench.attempt();
    bench.connected(outgoing);
    let incoming = bench.accept().expect("accepted");
    bench.sent(outgoing);
    bench.sent(incoming);
    (bench, outgoing, incoming)
}

/// RFC 4271 §6.8: the connection opened by the speaker with the higher identifier is kept, whichever OPEN came first.
#[test]
fn the_higher_identifier_keeps_its_connection() {
    for (theirs, outgoing_stays) in [(Ipv4Addr::new(10, 0, 0, 9), false), (Ipv4Addr::new(10, 0, 0, 1), true)]
    {
        for outgoing_first in [false, true] {
            let (mut bench, outgoing, incoming) = two(settings());
            let open = || Message::Open(Open { router_id: theirs, ..open() });
            let (first, second) = if outgoing_first { (outgoing, incoming) } else { (incoming, outgoing) };
            bench.receive(first, &open());
            bench.receive(second, &open());
            let (stays, goes) = if outgoing_stays { (outgoing, incoming) } else { (incoming, outgoing) };
            assert_eq!(bench.last_notification(goes), (code::CEASE, cease::COLLISION));
            bench.receive(stays, &Message::Keepalive);
            assert_eq!(bench.session.established(), Some(stays));
            assert_eq!(bench.session.connections().collect::<Vec<_>>(), [stays]);
        }
    }
}

/// RFC 6286 §2.3: if the identifiers are equal, which only external peers may have, the higher AS decides.
#[test]
fn among_equal_identifiers_the_higher_as_keeps_its_connection() {
    for (asn, outgoing_stays) in [(ASN - 1, true), (ASN + 1, false)] {
        let mut settings = settings();
        settings.neighbor.asn = asn;
        let (mut bench, outgoing, incoming) = two(settings);
        let open = Open { asn, router_id: US, capabilities: vec![Capability::FourOctetAs(asn)], ..open() };
        bench.receive(outgoing, &Message::Open(open.clone()));
        bench.receive(incoming, &Message::Open(open));
        let goes = if outgoing_stays { incoming } else { outgoing };
        assert_eq!(bench.last_notification(goes), (code::CEASE, cease::COLLISION));
    }
}

#[test]
fn a_cease_for_the_loser_does_not_end_the_session() {
    let (mut bench, outgoing, incoming) = two(settings());
    bench.receive(incoming, &Message::Open(open()));
    bench.receive(outgoing, &Message::Notification(Notification::new(code::CEASE, cease::COLLISION)));
    bench.receive(incoming, &Message::Keepalive);
    assert_eq!(bench.state(), SessionState::Established);
    assert_eq!(bench.session.last_error(), None, "a collision is no error");
    assert_eq!(bench.session.next_deadline().map(|at| at > bench.now), Some(true));
}

/// RFC 4271 §6.8: a new connection loses to an established one, and has no other effect.
#[test]
fn an_established_session_stays_without_graceful_restart() {
    let (mut bench, conn) = Bench::up(settings(), open());
    let late = bench.accept().expect("accepted");
    bench.receive(late, &Message::Open(open()));
    assert_eq!(bench.last_notification(late), (code::CEASE, cease::COLLISION));
    assert_eq!(bench.session.established(), Some(conn));
    assert_eq!(down(&bench.outputs), None);
}

/// RFC 4724 §5: with graceful restart, a new connection is a restart of the peer.
#[test]
fn an_established_session_is_replaced_with_graceful_restart() {
    let (mut bench, old) = Bench::up(settings(), open_restart(120, true));
    bench.now += Duration::from_secs(1);
    let new = bench.accept().expect("accepted");
    assert_eq!(bench.session.established(), Some(old), "a connection alone shows nothing");
    bench.receive(new, &Message::Open(open_restart(120, true)));
    let outputs = bench.take();
    assert_eq!(outputs.first(), Some(&Output::Close(old)));
    assert_eq!(down(&outputs), Some(FAMILIES.into()));
    bench.receive(new, &Message::Keepalive);
    assert_eq!(bench.session.established(), Some(new));
}

/// RFC 4271 §6.8: an OPEN that was in flight when the session was established is no restart, and the session stays.
#[test]
fn an_open_received_just_after_establishment_is_a_collision() {
    let (mut bench, first) = Bench::up(settings(), open_restart(120, true));
    bench.now += Duration::from_millis(999);
    let late = bench.accept().expect("accepted");
    bench.receive(late, &Message::Open(open_restart(120, true)));
    assert_eq!(bench.last_notification(late), (code::CEASE, cease::COLLISION));
    assert_eq!(bench.session.established(), Some(first));
}

/// An attempt of ours that succeeds after the session is established has lost already.
#[test]
fn an_attempt_in_progress_is_given_up_on_establishment() {
    let mut bench = Bench::new(settings());
    let outgoing = bench.attempt();
    let incoming = bench.accept().expect("accepted");
    bench.receive(incoming, &Message::Open(open()));
    assert_eq!(bench.take(), [Output::Close(outgoing)]);
    bench.connected(outgoing);
    assert!(bench.sent(outgoing).is_empty());
}

#[test]
fn a_connection_without_an_open_is_closed_on_establishment() {
    let (mut bench, outgoing, incoming) = two(settings());
    bench.establish(incoming, open_restart(120, true));
    assert_eq!(bench.last_notification(outgoing), (code::CEASE, cease::COLLISION));
    bench.receive(outgoing, &Message::Open(open_restart(120, true)));
    assert_eq!(bench.session.established(), Some(incoming), "its OPEN is not a restart of the peer's");
}

/// Of two connections that the peer opened, the later one is kept.
#[test]
fn a_newer_connection_of_the_peer_replaces_its_older_one() {
    for theirs in [Ipv4Addr::new(10, 0, 0, 9), Ipv4Addr::new(10, 0, 0, 1)] {
        let mut settings = settings();
        settings.neighbor.passive = true;
        let mut bench = Bench::new(settings);
        let open = || Message::Open(Open { router_id: theirs, ..open() });
        let silent = bench.accept().expect("accepted");
        let first = bench.accept().expect("accepted");
        assert_eq!(bench.take(), [Output::Close(silent)]);
        bench.receive(first, &open());
        let second = bench.accept().expect("accepted");
        bench.sent(first);
        bench.receive(second, &open());
        assert_eq!(bench.last_notification(first), (code::CEASE, cease::COLLISION));
        bench.receive(second, &Message::Keepalive);
        assert_eq!(bench.session.established(), Some(second));
    }
}

/// A peer that keeps connecting without sending anything has one connection at most.
#[test]
fn connections_without_an_open_do_not_accumulate() {
    let mut bench = Bench::new(settings());
    for _ in 0..1000 {
        bench.accept().expect("accepted");
    }
    assert_eq!(bench.session.connections().count(), 2, "one of ours, one of its");
}

/// A peer that connects and sends nothing does not keep us from connecting.
#[test]
fn a_silent_peer_does_not_stop_our_attempts() {
    let mut bench = Bench::new(settings());
    let outgoing = bench.attempt();
    bench.accept().expect("accepted");
    bench.call(|session, ctx| session.connect_failed(ctx, outgoing, "refused"));
    for _ in 0..3 {
        bench.wait_next();
        let again = bench.attempt();
        bench.call(|session, ctx| session.connect_failed(ctx, again, "refused"));
    }
}
