use super::*;
use crate::wire::{NextHop, open_error};

#[test]
fn from_idle_to_established() {
    let mut bench = Bench::idle(settings(), 1);
    assert_eq!(bench.state(), SessionState::Idle);
    bench.call(|session, ctx| session.start(ctx));
    assert_eq!(bench.state(), SessionState::Connect);
    let conn = bench.attempt();
    bench.connected(conn);
    assert_eq!(bench.state(), SessionState::OpenSent);
    let sent = bench.sent(conn);
    let [Message::Open(ours)] = &sent[..] else { panic!("{sent:?}") };
    assert_eq!((ours.asn, ours.router_id, ours.hold_time), (ASN, US, 90));
    assert_eq!(ours.families(), neighbor().families);
    bench.receive(conn, &Message::Open(open()));
    assert_eq!(bench.state(), SessionState::OpenConfirm);
    assert_eq!(bench.sent(conn), [Message::Keepalive]);
    assert!(bench.take().is_empty());
    bench.receive(conn, &Message::Keepalive);
    assert_eq!(bench.state(), SessionState::Established);
    assert!(matches!(bench.take()[..], [Output::Up { .. }]));
    assert_eq!(bench.session.established_count(), 1);
}

#[test]
fn a_failed_attempt_makes_it_active_until_the_next() {
    let mut bench = Bench::new(settings());
    let first = bench.attempt();
    bench.call(|session, ctx| session.connect_failed(ctx, first, "connection refused"));
    assert_eq!(bench.state(), SessionState::Active);
    let error = bench.session.last_error().expect("an error").0.to_string();
    assert_eq!(error, "connecting to 10.0.0.9 port 179: connection refused");
    bench.wait_next();
    assert_eq!(bench.state(), SessionState::Connect);
    assert_ne!(bench.attempt(), first);
}

/// As with a peer that connects and never listens: an attempt of ours that failed does not keep it out.
#[test]
fn a_peer_can_connect_after_our_failed_attempt() {
    let mut bench = Bench::new(settings());
    let first = bench.attempt();
    bench.call(|session, ctx| session.connect_failed(ctx, first, "connection refused"));
    assert!(bench.accept().is_some());
    assert_eq!(bench.state(), SessionState::OpenSent);
}

#[test]
fn an_attempt_without_an_answer_is_repeated() {
    let mut bench = Bench::new(settings());
    let first = bench.attempt();
    bench.wait_next();
    let outputs = bench.take();
    assert!(matches!(outputs[..], [Output::Close(closed), Output::Connect(_)] if closed == first));
}

#[test]
fn a_passive_session_waits() {
    let mut settings = settings();
    settings.neighbor.passive = true;
    let mut bench = Bench::new(settings);
    assert_eq!(bench.state(), SessionState::Active);
    assert_eq!(bench.session.next_deadline(), None);
    let conn = bench.accept().expect("accepted");
    bench.establish(conn, open());
    assert_eq!(bench.state(), SessionState::Established);
    bench.call(|session, ctx| session.closed(ctx, conn, "gone"));
    assert_eq!(bench.state(), SessionState::Active);
    assert!(!bench.take().iter().any(|output| matches!(output, Output::Connect(_))));
}

/// Every message that a state does not admit (RFC 4271 §6.6, RFC 6608 §3), whatever it contains.
#[test]
fn messages_in_the_wrong_state_end_the_connection() {
    let header = |kind: u8, body: &[u8]| {
        let mut bytes = vec![0xff; 16];
        bytes.extend((19 + body.len() as u16).to_be_bytes());
        bytes.push(kind);
        bytes.extend(body);
        bytes
    };
    let (update, refresh) = (header(2, &[0xff; 4]), header(5, &[0, 1, 0, 1]));
    let mut bytes = BytesMut::new();
    wire::encode(&Message::Open(open()), &Codec::default(), &mut bytes);
    let (open_bytes, keepalive) = (bytes.to_vec(), header(4, &[]));
    let cases = [
        (1, vec![&update, &refresh, &keepalive]),
        (2, vec![&update, &refresh, &open_bytes]),
        (3, vec![&open_bytes]),
    ];
    for (subcode, messages) in cases {
        for message in messages {
            let mut bench = Bench::new(settings());
            let conn = bench.attempt();
            bench.connected(conn);
            if subcode > 1 {
                bench.receive(conn, &Message::Open(open()));
            }
            if subcode > 2 {
                bench.receive(conn, &Message::Keepalive);
            }
            bench.sent(conn);
            bench.take();
            bench.receive_bytes(conn, message);
            assert_eq!(down(&bench.outputs).is_some(), subcode == 3);
            assert_eq!(bench.last_notification(conn), (code::FSM, subcode), "{message:?}");
            assert_eq!(bench.state(), SessionState::Idle);
        }
    }
}

#[test]
fn invalid_opens_are_rejected() {
    type Change = fn(&mut Open);
    let cases: [(Change, u8); 4] = [
        (|open| (open.asn, open.capabilities) = (64999, Vec::new()), open_error::PEER_AS),
        (|open| open.router_id = US, open_error::IDENTIFIER),
        (|open| open.hold_time = 2, open_error::HOLD_TIME),
        (
            |open| open.capabilities = vec![Capability::Other(1, vec![0, 25, 0, 70].into())],
            open_error::CAPABILITY,
        ),
    ];
    for (change, subcode) in cases {
        let mut bench = Bench::new(settings());
        let conn = bench.attempt();
        bench.connected(conn);
        let mut open = open();
        change(&mut open);
        bench.receive(conn, &Message::Open(open));
        assert_eq!(bench.last_notification(conn), (code::OPEN, subcode));
        assert_eq!(bench.state(), SessionState::Idle);
        assert!(bench.accept().is_none(), "connections are refused during the idle hold time");
    }
}

/// An external neighbor may have our identifier: identifiers are unique within an AS only (RFC 6286 §2.2).
#[test]
fn an_external_peer_may_have_our_identifier() {
    let mut settings = settings();
    settings.neighbor.asn = 64600;
    let open =
        Open { asn: 64600, router_id: US, capabilities: vec![Capability::FourOctetAs(64600)], ..open() };
    let (bench, _) = Bench::up(settings, open);
    assert_eq!(bench.session.negotiated().map(|n| n.families.clone()), Some(vec![Family::Ipv4Unicast]));
}

#[test]
fn an_invalid_stream_is_answered_and_not_read_any_further() {
    let (mut bench, conn) = Bench::up(settings(), open());
    bench.receive_bytes(conn, &[0; 19]);
    let ignored = vec![0xab; 1 << 20];
    bench.receive_bytes(conn, &ignored);
    let connection = bench.session.connections.iter().find(|c| c.id == conn).expect("still closing");
    assert!(connection.framer.buffered() <= 19, "what follows costs no memory");
    assert_eq!(bench.last_notification(conn), (code::HEADER, 1));
    assert_eq!(down(&bench.outputs), Some(Vec::new()));
}

#[test]
fn a_notification_is_not_answered() {
    for (code, subcode, state) in [
        (code::CEASE, cease::SHUTDOWN, SessionState::Active),
        (code::HOLD_TIMER, 0, SessionState::Active),
        (code::UPDATE, 1, SessionState::Idle),
        (99, 99, SessionState::Idle),
    ] {
        let (mut bench, conn) = Bench::up(settings(), open());
        bench.receive(conn, &Message::Notification(Notification::new(code, subcode)));
        assert!(bench.sent(conn).is_empty());
        let outputs = bench.take();
        assert_eq!(outputs.first(), Some(&Output::Close(conn)));
        assert_eq!(down(&outputs), Some(Vec::new()));
        assert_eq!(bench.state(), state);
        assert!(bench.session.last_error().expect("recorded").0.to_string().starts_with("the peer sent: "));
    }
}

#[test]
fn a_notification_before_establishment_ends_the_attempt() {
    let mut bench = Bench::new(settings());
    let conn = bench.attempt();
    bench.connected(conn);
    bench.sent(conn);
    bench.receive(conn, &Message::Notification(Notification::new(code::OPEN, open_error::PEER_AS)));
    assert_eq!(bench.take(), [Output::Close(conn)]);
    assert_eq!(bench.state(), SessionState::Idle);
}

#[test]
fn stopping_sends_cease_and_starts_nothing_again() {
    let (mut bench, conn) = Bench::up(settings(), open_restart(120, true));
    bench.call(|session, ctx| {
        session.stop(ctx, &Notification::new(code::CEASE, cease::SHUTDOWN), StopReason::Shutdown)
    });
    assert_eq!(down(&bench.outputs), Some(Vec::new()), "no restart: its routes go");
    assert_eq!(bench.state(), SessionState::Idle);
    assert!(!bench.session.is_gone());
    assert_eq!(bench.last_notification(conn), (code::CEASE, cease::SHUTDOWN));
    assert!(bench.session.is_gone());
    assert!(bench.accept().is_none());
    assert_eq!(bench.session.next_deadline(), None);
}

#[test]
fn stopping_gives_up_an_attempt() {
    let mut bench = Bench::new(settings());
    let conn = bench.attempt();
    bench.call(|session, ctx| {
        session.stop(ctx, &Notification::new(code::CEASE, cease::SHUTDOWN), StopReason::Shutdown)
    });
    assert_eq!(bench.take(), [Output::Close(conn)]);
    assert!(bench.session.is_gone());
}

/// A last NOTIFICATION that the socket does not take does not keep the connection open for ever.
#[test]
fn a_notification_that_is_not_read_closes_the_connection_in_time() {
    let (mut bench, conn) = Bench::up(settings(), open());
    bench.call(|session, ctx| {
        session.stop(ctx, &Notification::new(code::CEASE, cease::SHUTDOWN), StopReason::Shutdown)
    });
    bench.take();
    assert_eq!(bench.wait_next(), Duration::from_secs(5));
    assert_eq!(bench.take(), [Output::Close(conn)]);
    assert!(bench.session.is_gone());
}

#[test]
fn updates_and_refreshes_are_passed_on() {
    let (mut bench, conn) = Bench::up(settings(), open());
    let prefix = wire::Prefix::new([10, 1, 0, 0].into(), 16).expect("fits");
    let next_hop = NextHop { address: PEER.into(), link_local: None };
    let update = Update {
        attributes: Some(wire::Attributes::local()),
        reach: vec![wire::Reach { family: Family::Ipv4Unicast, next_hop, prefixes: vec![prefix.into()] }],
        ..Update::default()
    };
    bench.receive(conn, &Message::Update(update.clone()));
    bench.receive(conn, &Message::RouteRefresh(Some(Family::Ipv6Unicast), wire::Refresh::Request));
    assert_eq!(
        bench.take(),
        [Output::Update(update), Output::Refresh { family: Family::Ipv6Unicast, enhanced: false }]
    );
}

/// A stream may be received in chunks of any size.
#[test]
fn a_stream_may_come_one_octet_at_a_time() {
    let mut bench = Bench::new(settings());
    let conn = bench.attempt();
    bench.connected(conn);
    let mut bytes = BytesMut::new();
    wire::encode(&Message::Open(open()), &Codec::default(), &mut bytes);
    wire::encode(&Message::Keepalive, &Codec::default(), &mut bytes);
    for octet in bytes {
        bench.receive_bytes(conn, &[octet]);
    }
    assert_eq!(bench.state(), SessionState::Established);
}

#[test]
fn becoming_active_or_passive_needs_no_new_session() {
    let mut passive = settings();
    passive.neighbor.passive = true;
    let mut bench = Bench::new(passive.clone());
    bench.call(|session, ctx| session.set_settings(ctx, settings()));
    let conn = bench.attempt();
    bench.call(|session, ctx| session.set_settings(ctx, passive.clone()));
    assert_eq!(bench.take(), [Output::Close(conn)]);
    assert_eq!((bench.state(), bench.session.next_deadline()), (SessionState::Active, None));
}
