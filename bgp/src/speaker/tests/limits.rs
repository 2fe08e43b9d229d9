//! Prefix limits (RFC 4486 §4).

use super::*;
use crate::config::PrefixLimit;
use crate::wire::Notification;

fn limited(restart: Option<Duration>) -> Neighbor {
    Neighbor { prefix_limit: Some(PrefixLimit { max: 10, warn_percent: 80, restart }), ..client(1) }
}

fn warnings(play: &mut Play) -> Vec<String> {
    let events = std::iter::from_fn(|| play.speaker.poll_event());
    let texts = events.filter_map(|event| match event {
        Event::Warning { warning, .. } => Some(warning.to_string()),
        _ => None,
    });
    texts.collect()
}

#[test]
fn a_warning_comes_once_and_before_the_end() {
    let mut play = Play::new(config(vec![limited(None)]));
    let one = play.up(1);
    play.advertise(one, 1, (0..7).map(prefix).collect());
    assert_eq!(warnings(&mut play), [""; 0]);
    play.advertise(one, 1, (7..8).map(prefix).collect());
    play.advertise(one, 1, (8..10).map(prefix).collect());
    assert_eq!(warnings(&mut play), ["8 IPv4 unicast prefixes received, 10 are allowed"]);
    assert_eq!(play.state(1), SessionState::Established, "the limit itself is allowed");
}

#[test]
fn beyond_the_limit_the_session_ends_with_the_limit_in_the_data() {
    let mut play = Play::new(config(vec![limited(None), client(2)]));
    let one = play.up(1);
    play.up(2);
    play.sent(one);
    play.advertise(one, 1, (0..11).map(prefix).collect());
    let last = play.sent(one).pop();
    let Some(Message::Notification(Notification { code, subcode, data })) = last else { panic!("{last:?}") };
    assert_eq!((code, subcode, &data[..]), (code::CEASE, cease::MAX_PREFIXES, &[0, 1, 1, 0, 0, 0, 10][..]));
    assert_eq!(play.speaker.best_routes(), [], "all of it is gone");
    assert_eq!((play.state(1), play.state(2)), (SessionState::Idle, SessionState::Established));
    assert_eq!(play.report(1).reason.to_string(), "11 IPv4 unicast prefixes received, 10 are allowed");
}

#[test]
fn it_stays_idle_until_its_configuration_changes() {
    let mut play = Play::new(config(vec![limited(None)]));
    let one = play.up(1);
    play.advertise(one, 1, (0..11).map(prefix).collect());
    play.now += Duration::from_secs(100_000);
    play.speaker.handle_timeout(play.now);
    assert!(play.connect(1).is_none());
    let more = Neighbor { prefix_limit: None, ..client(1) };
    play.set(config(vec![more]));
    let one = play.up(1);
    play.advertise(one, 1, (0..11).map(prefix).collect());
    assert_eq!(play.speaker.best_routes().len(), 11);
}

#[test]
fn it_stays_idle_for_its_restart_time() {
    let mut play = Play::new(config(vec![limited(Some(Duration::from_secs(600)))]));
    let one = play.up(1);
    play.advertise(one, 1, (0..11).map(prefix).collect());
    play.now += Duration::from_secs(599);
    play.speaker.handle_timeout(play.now);
    assert!(play.connect(1).is_none());
    play.now += Duration::from_secs(1);
    play.speaker.handle_timeout(play.now);
    assert!(play.connect(1).is_some());
}

/// UPDATEs after the one that exceeded the limit are ignored, even in the same read.
#[test]
fn updates_after_the_limit_are_ignored() {
    let mut play = Play::new(config(vec![limited(None)]));
    let one = play.up(1);
    let mut bytes = BytesMut::new();
    for n in 0..20 {
        let next_hop = NextHop { address: address(1), link_local: None };
        let reach = vec![Reach { family: Family::Ipv4Unicast, next_hop, prefixes: vec![prefix(n).into()] }];
        let update = Update { attributes: Some(Attributes::local()), reach, ..Update::default() };
        wire::encode(&Message::Update(update), &CODEC, &mut bytes);
    }
    play.speaker.received(play.now, one, &bytes);
    assert_eq!((play.report(1).received, play.speaker.paths().len()), (0, 0));
}
