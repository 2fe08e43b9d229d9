//! Route refresh in both directions (RFC 2918, RFC 7313).

use super::*;
use crate::wire::Refresh;

const V4: Family = Family::Ipv4Unicast;

fn enhanced(n: u8) -> Open {
    let mut open = Play::open(n, ASN);
    open.capabilities.push(Capability::EnhancedRouteRefresh);
    open
}

fn request(play: &mut Play, conn: ConnId) {
    play.receive(conn, &Message::RouteRefresh(Some(V4), Refresh::Request));
}

/// Abbreviates messages: BoRR, EoRR, and the number of prefixes of an UPDATE.
fn short(messages: Vec<Message>) -> Vec<String> {
    let text = messages.into_iter().map(|message| match message {
        Message::RouteRefresh(Some(V4), refresh) => format!("{refresh:?}"),
        Message::Update(update) if update.end_of_rib.is_some() => "End-of-RIB".into(),
        Message::Update(update) => {
            update.reach.iter().map(|reach| reach.prefixes.len()).sum::<usize>().to_string()
        }
        other => format!("{other:?}"),
    });
    text.collect()
}

#[test]
fn a_refresh_is_enclosed_in_borr_and_eorr_if_both_agreed() {
    let mut play = Play::new(config(vec![client(1), client(2), client(3)]));
    let (one, two, three) = (play.up(1), play.up_with(2, enhanced(2)), play.up(3));
    play.advertise(one, 1, (0..5).map(prefix).collect());
    play.sent(two);
    play.sent(three);
    request(&mut play, two);
    request(&mut play, three);
    assert_eq!(short(play.sent(two)), ["Begin", "5", "End"]);
    assert_eq!(short(play.sent(three)), ["5"]);
    play.sent(one);
    assert_eq!(play.speaker.poll_transmit(), None);
}

/// RFC 7313 §4: EoRR follows the last route in the same call, as nothing else may happen on the session for long.
#[test]
fn the_end_of_a_refresh_follows_its_last_route_at_once() {
    for routes in [0, 5, 2000] {
        let mut play = Play::new(config(vec![client(1), client(2)]));
        let (one, two) = (play.up(1), play.up_with(2, enhanced(2)));
        play.advertise(one, 1, (0..routes).map(prefix).collect());
        play.sent(two);
        while play.speaker.poll_transmit().is_some() {}
        request(&mut play, two);
        assert_eq!(play.speaker.poll_transmit(), Some(two));
        let mut bytes = BytesMut::new();
        play.speaker.transmit(play.now, two, 1 << 16, &mut bytes);
        let messages = short(decode(&bytes));
        assert_eq!(messages.first().map(String::as_str), Some("Begin"));
        assert_eq!(messages.last().map(String::as_str), Some("End"));
        let prefixes: usize = messages.iter().filter_map(|message| message.parse::<usize>().ok()).sum();
        assert_eq!(prefixes, usize::from(routes));
        assert!(play.sent(two).is_empty());
    }
}

/// A socket that takes little at a time gets the same stream.
#[test]
fn a_refresh_in_small_pieces_ends_after_its_last_route() {
    let mut play = Play::new(config(vec![client(1), client(2)]));
    let (one, two) = (play.up(1), play.up_with(2, enhanced(2)));
    for batch in 0..20 {
        let attributes = Attributes { med: Some(batch.into()), ..Attributes::local() };
        play.advertise_with(one, 1, (batch * 10..batch * 10 + 10).map(prefix).collect(), attributes);
    }
    play.sent(two);
    request(&mut play, two);
    let mut bytes = BytesMut::new();
    // As a driver does: less than asked for means that nothing is pending.
    while play.speaker.transmit(play.now, two, 23, &mut bytes) >= 23 {}
    let messages = short(decode(&bytes));
    let prefixes: usize = messages.iter().filter_map(|message| message.parse::<usize>().ok()).sum();
    assert_eq!((messages.len() > 20, prefixes), (true, 200));
    assert_eq!(messages.iter().position(|message| message == "End"), Some(messages.len() - 1));
}

/// RFC 7313 §4: no refresh before End-of-RIB, even if that is deferred.
#[test]
fn a_refresh_does_not_begin_before_end_of_rib() {
    let mut play = Play::start(config(vec![client(1), client(2)]), true);
    let (one, two) = (play.up(1), play.up_with(2, enhanced(2)));
    play.advertise(one, 1, vec![prefix(1)]);
    request(&mut play, two);
    assert!(!short(play.sent(two)).contains(&"Begin".to_owned()));
    assert!(std::iter::from_fn(|| play.speaker.poll_transmit()).take(10).count() < 10, "it does not spin");
    play.receive(one, &Message::Keepalive);
    play.receive(two, &Message::Keepalive);
    assert!(play.speaker.synced());
    assert_eq!(short(play.sent(two)), ["End-of-RIB", "Begin", "1", "End"]);
}

#[test]
fn routes_that_a_refresh_does_not_repeat_are_removed() {
    let mut play = Play::new(config(vec![client(1), client(2)]));
    let (one, two) = (play.up_with(1, enhanced(1)), play.up(2));
    play.advertise(one, 1, (0..3).map(prefix).collect());
    play.sent(two);
    let mark = |refresh| Message::RouteRefresh(Some(V4), refresh);
    play.receive(one, &mark(Refresh::Begin));
    assert_eq!(play.report(1).stale, 3);
    play.advertise(one, 1, vec![prefix(0), prefix(2)]);
    assert_eq!(play.changes(two), (vec![], vec![]), "nothing has changed for anybody else");
    play.receive(one, &mark(Refresh::End));
    assert_eq!(play.changes(two), (vec![], vec![prefix(1)]));
    assert_eq!((play.report(1).stale, play.report(1).received), (0, 2));
}

fn restarting(n: u8) -> Open {
    let restart = wire::GracefulRestart {
        restart_time: 120,
        families: vec![(V4, true)],
        ..wire::GracefulRestart::default()
    };
    let mut open = enhanced(n);
    open.capabilities.push(Capability::GracefulRestart(restart));
    open
}

/// Routes that a refresh had not repeated yet are stale like the others: they wait for the restarted peer's End-of-RIB.
#[test]
fn a_restart_during_a_refresh_loses_no_route() {
    let mut play = Play::new(config(vec![client(1), client(2)]));
    let (one, two) = (play.up_with(1, restarting(1)), play.up(2));
    let end_of_rib = Message::Update(Update { end_of_rib: Some(V4), ..Update::default() });
    let mark = |refresh| Message::RouteRefresh(Some(V4), refresh);
    play.advertise(one, 1, (0..3).map(prefix).collect());
    play.receive(one, &end_of_rib);
    play.sent(two);
    play.receive(one, &mark(Refresh::Begin));
    play.advertise(one, 1, vec![prefix(0)]);
    play.speaker.closed(play.now, one, "connection reset".into());
    assert_eq!(play.changes(two), (vec![], vec![]));
    assert_eq!(play.report(1).stale, 3);
    let one = play.up_with(1, restarting(1));
    play.advertise(one, 1, vec![prefix(1)]);
    play.receive(one, &mark(Refresh::Begin));
    play.receive(one, &mark(Refresh::End));
    assert_eq!(play.changes(two), (vec![], vec![]), "without effect before End-of-RIB");
    play.receive(one, &end_of_rib);
    assert_eq!(play.changes(two), (vec![], vec![prefix(0), prefix(2)]));
    assert_eq!((play.report(1).stale, play.report(1).received), (0, 1));
}

/// The other direction: a peer that restarts during its refresh gets all routes once, and no EoRR.
#[test]
fn an_interrupted_refresh_has_no_effect_on_the_next_session() {
    let mut play = Play::new(config(vec![client(1), client(2)]));
    let (one, two) = (play.up(1), play.up_with(2, enhanced(2)));
    play.advertise(one, 1, (0..2000).map(prefix).collect());
    play.sent(two);
    request(&mut play, two);
    let mut bytes = BytesMut::new();
    play.speaker.transmit(play.now, two, 64, &mut bytes);
    play.speaker.transmit(play.now, two, 64, &mut bytes);
    assert!(bytes.len() < 10_000, "in the middle");
    play.speaker.closed(play.now, two, "connection reset".into());
    let two = play.connect(2).expect("accepted");
    play.receive(two, &Message::Open(enhanced(2)));
    play.receive(two, &Message::Keepalive);
    let sent = short(play.sent(two));
    let prefixes: usize = sent.iter().filter_map(|word| word.parse::<usize>().ok()).sum();
    assert_eq!(prefixes, 2000);
    assert_eq!(sent.last().map(String::as_str), Some("End-of-RIB"));
    assert!(!sent.iter().any(|word| word == "Begin" || word == "End"), "{sent:?}");
}

/// A second BoRR before EoRR begins the refresh anew: what it does not repeat is removed (RFC 7313 §4).
#[test]
fn a_second_borr_begins_the_refresh_anew() {
    let mut play = Play::new(config(vec![client(1), client(2)]));
    let (one, two) = (play.up_with(1, enhanced(1)), play.up(2));
    let mark = |refresh| Message::RouteRefresh(Some(V4), refresh);
    play.advertise(one, 1, (0..3).map(prefix).collect());
    play.sent(two);
    play.receive(one, &mark(Refresh::Begin));
    play.advertise(one, 1, vec![prefix(0)]);
    play.receive(one, &mark(Refresh::Begin));
    assert_eq!(play.report(1).stale, 3);
    play.advertise(one, 1, vec![prefix(1)]);
    play.receive(one, &mark(Refresh::End));
    assert_eq!(play.changes(two), (vec![], vec![prefix(0), prefix(2)]));
    play.receive(one, &mark(Refresh::End));
    assert_eq!((play.changes(two), play.state(1)), ((vec![], vec![]), SessionState::Established), "unpaired");
}

/// FRR #11945 and #16126: a request before our End-of-RIB is answered after it, also without graceful restart.
#[test]
fn a_request_before_end_of_rib_is_answered_after_it() {
    for open in [enhanced(2), restarting(2)] {
        let mut play = Play::new(config(vec![client(1), client(2)]));
        let one = play.up(1);
        play.advertise(one, 1, (0..5).map(prefix).collect());
        let two = play.up_with(2, open);
        request(&mut play, two);
        let sent = short(play.sent(two));
        let routes: Vec<&str> = sent.iter().map(String::as_str).skip_while(|word| *word != "5").collect();
        assert_eq!(routes, ["5", "End-of-RIB", "Begin", "5", "End"]);
    }
}

/// A request during a refresh is answered with another one after its end.
#[test]
fn a_request_during_a_refresh_is_answered_after_it() {
    let mut play = Play::new(config(vec![client(1), client(2)]));
    let (one, two) = (play.up(1), play.up_with(2, enhanced(2)));
    play.advertise(one, 1, (0..2000).map(prefix).collect());
    play.sent(two);
    request(&mut play, two);
    let mut bytes = BytesMut::new();
    play.speaker.transmit(play.now, two, 64, &mut bytes);
    play.speaker.transmit(play.now, two, 64, &mut bytes);
    request(&mut play, two);
    request(&mut play, two);
    while play.speaker.transmit(play.now, two, 1 << 16, &mut bytes) > 0 {}
    let sent = short(decode(&bytes));
    let marks: Vec<&str> =
        sent.iter().map(String::as_str).filter(|word| word.parse::<usize>().is_err()).collect();
    assert_eq!(marks, ["Begin", "End", "Begin", "End"]);
    let prefixes: usize = sent.iter().filter_map(|word| word.parse::<usize>().ok()).sum();
    assert_eq!(prefixes, 4000);
}
