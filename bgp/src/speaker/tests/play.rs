//! Unknown peers, invalid streams, slow readers, synchronization.

use super::*;
use crate::report::SessionError;

#[test]
fn an_unknown_peer_is_rejected() {
    let mut play = Play::new(config(vec![neighbor(1)]));
    assert_eq!(play.connect(9), None);
    assert!(play.actions().is_empty());
}

/// A dual-stack listener shows IPv4 peers as mapped addresses.
#[test]
fn a_mapped_address_is_the_neighbors() {
    let mut play = Play::new(config(vec![neighbor(1)]));
    let mapped = |n: u8| SocketAddr::new(Ipv4Addr::new(10, 0, 0, n).to_ipv6_mapped().into(), 179);
    assert!(play.speaker.accept(play.now, mapped(100), mapped(1)).is_some());
}

/// An invalid stream of one neighbor has no effect on the others.
#[test]
fn an_invalid_stream_has_no_effect_on_others() {
    let mut rng = fastrand::Rng::with_seed(5);
    let mut play = Play::new(config(vec![client(1), client(2), client(3)]));
    let (one, three) = (play.up(1), play.up(3));
    play.advertise(one, 1, vec![prefix(1)]);
    play.sent(one);
    play.sent(three);
    for _ in 0..500 {
        play.now += Duration::from_secs(61);
        play.speaker.handle_timeout(play.now);
        play.receive(one, &Message::Keepalive);
        play.receive(three, &Message::Keepalive);
        play.sent(one);
        let Some(bad) = play.connect(2) else { continue };
        let mut bytes = BytesMut::new();
        if rng.bool() {
            wire::encode(&Message::Open(Play::open(2, ASN)), &CODEC, &mut bytes);
            wire::encode(&Message::Keepalive, &CODEC, &mut bytes);
        }
        let noise: Vec<u8> = (0..rng.usize(19..200)).map(|_| rng.u8(..)).collect();
        if rng.bool() {
            let length = u16::try_from(19 + noise.len()).expect("short").to_be_bytes();
            bytes.extend_from_slice(&[0xff; 16]);
            bytes.extend_from_slice(&length);
            bytes.extend_from_slice(&[rng.u8(..7)]);
        }
        bytes.extend_from_slice(&noise);
        play.speaker.received(play.now, bad, &bytes);
        play.sent(bad);
        play.speaker.closed(play.now, bad, "gone".into());
        assert_eq!((play.state(1), play.state(3)), (SessionState::Established, SessionState::Established));
        let sent = play.sent(three);
        assert!(sent.iter().all(|message| *message == Message::Keepalive), "{sent:?}");
    }
    assert_eq!(play.speaker.best_routes().len(), 1);
}

/// A peer that does not read costs memory for each pending prefix once, however often it changes.
#[test]
fn a_slow_reader_costs_no_memory_for_messages() {
    let mut play = Play::new(config(vec![client(1), client(2)]));
    let (one, two) = (play.up(1), play.up(2));
    play.sent(two);
    for round in 0..200 {
        let attributes = Attributes { med: Some(round), ..Attributes::local() };
        play.advertise_with(one, 1, (0..100).map(prefix).collect(), attributes);
    }
    let mut bytes = BytesMut::new();
    while play.speaker.transmit(play.now, two, 4096, &mut bytes) > 0 {}
    assert!(bytes.len() < 1000, "{} octets for 100 prefixes", bytes.len());
}

#[test]
fn messages_are_made_only_as_far_as_requested() {
    let mut play = Play::new(config(vec![client(1), client(2)]));
    let (one, two) = (play.up(1), play.up(2));
    play.sent(two);
    for batch in 0..20 {
        let attributes = Attributes { med: Some(batch.into()), ..Attributes::local() };
        play.advertise_with(one, 1, (batch * 100..batch * 100 + 100).map(prefix).collect(), attributes);
    }
    let mut bytes = BytesMut::new();
    let made = play.speaker.transmit(play.now, two, 1000, &mut bytes);
    assert!((1000..1000 + 4096).contains(&made), "{made}");
}

/// RFC 4724 §4.1: after a restart, End-of-RIB is deferred until all neighbors have sent theirs.
#[test]
fn a_restarted_speaker_defers_its_end_of_rib() {
    let mut play = Play::start(config(vec![client(1), client(2)]), true);
    let (one, two) = (play.up(1), play.up(2));
    play.advertise(one, 1, vec![prefix(1)]);
    let updates = play.updates(two);
    assert!(updates.iter().any(|update| !update.reach.is_empty()), "routes go out as they come");
    assert!(updates.iter().all(|update| update.end_of_rib.is_none()));
    play.receive(one, &Message::Keepalive);
    assert!(!play.speaker.synced());
    assert!(play.updates(two).is_empty());
    play.receive(two, &Message::Keepalive);
    assert!(play.speaker.synced());
    assert!(play.updates(two).iter().any(|update| update.end_of_rib == Some(Family::Ipv4Unicast)));
}

#[test]
fn the_selection_deferral_timer_ends_synchronization() {
    let mut play = Play::start(config(vec![client(1), client(2)]), true);
    let one = play.up(1);
    play.sent(one);
    play.now += Duration::from_secs(60);
    play.receive(one, &Message::Keepalive);
    play.speaker.handle_timeout(play.now);
    assert!(play.speaker.synced(), "neighbor 2 never connected");
    assert!(play.updates(one).iter().any(|update| update.end_of_rib.is_some()));
}

/// The F bit means that we forward by the routes that peers keep; it is not set in the first OPEN of a node that has just
/// booted.
#[test]
fn a_node_that_booted_does_not_set_the_f_bit() {
    for (restarting, waits, forwarding) in [(false, 0, false), (false, 60, true), (true, 0, true)] {
        let mut play = Play::start(config(vec![neighbor(1)]), restarting);
        play.now += Duration::from_secs(waits);
        play.speaker.handle_timeout(play.now);
        let conn = play.connect(1).expect("accepted");
        let sent = play.sent(conn);
        let [Message::Open(open)] = &sent[..] else { panic!("{sent:?}") };
        let restart = open.graceful_restart().expect("offered");
        assert!(restart.families.iter().all(|(_, f)| *f == forwarding), "{restart:?}");
    }
}

#[test]
fn shutting_down_sends_the_message_to_all() {
    let mut play = Play::new(config(vec![neighbor(1), neighbor(2)]));
    let conns = [play.up(1), play.up(2)];
    play.speaker.shutdown(play.now, "kernel update, back at 14:00");
    for conn in conns {
        let last = play.sent(conn).pop();
        let Some(Message::Notification(last)) = last else { panic!("{last:?}") };
        assert_eq!((last.code, last.subcode), (code::CEASE, cease::SHUTDOWN));
        assert_eq!(last.shutdown_message().as_deref(), Some("kernel update, back at 14:00"));
    }
    assert_eq!(play.speaker.next_deadline().filter(|at| *at < play.now + Duration::from_secs(50)), None);
    assert_eq!(play.actions(), conns.map(|conn| Action::Close { conn }));
}

#[test]
fn sessions_and_routes_cause_events() {
    let mut play = Play::new(config(vec![neighbor(1)]));
    let conn = play.up(1);
    play.advertise(conn, 1, vec![prefix(1)]);
    play.speaker.closed(play.now, conn, "reset by peer".into());
    let events: Vec<Event> = std::iter::from_fn(|| play.speaker.poll_event()).collect();
    let (address, name) = (address(1), address(1).to_string());
    let error = SessionError::connection_lost(SessionState::Established, "reset by peer");
    let down = Event::SessionDown { address, name: name.clone(), reason: error.into() };
    let up = Event::SessionUp { address, name };
    assert_eq!(events, [up, Event::RoutesChanged, down, Event::RoutesChanged]);
}

/// Calls for connections that are closed are ignored.
#[test]
fn a_closed_connection_is_forgotten() {
    let mut play = Play::new(config(vec![neighbor(1)]));
    let conn = play.up(1);
    play.speaker.closed(play.now, conn, "gone".into());
    play.receive(conn, &Message::Keepalive);
    play.speaker.closed(play.now, conn, "gone".into());
    assert!(play.sent(conn).is_empty());
    assert_ne!(play.speaker.poll_transmit(), Some(conn));
}
