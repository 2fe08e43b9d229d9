//! Neighbours from ranges, and other AS numbers of ours.

use super::*;
use crate::config::{Authentication, Key, ListenRange};
use crate::wire::{AsPath, Segment};

fn range(limit: usize, neighbor: Neighbor) -> ListenRange {
    ListenRange { range: Prefix::new(address(0), 25).expect("fits"), limit, neighbor }
}

fn with_range(range: ListenRange) -> Config {
    Config { ranges: vec![range], ..config(vec![client(2)]) }
}

#[test]
fn who_comes_from_a_range_is_a_neighbour_for_as_long_as_it_stays() {
    let mut play = Play::new(with_range(range(9, client(0))));
    assert_eq!(play.connect(200), None, "outside");
    let two = play.up(2);
    play.told(two);
    let one = play.up(1);
    assert_eq!(play.report(1).name, "10.0.0.0 10.0.0.1");
    play.announce(one, 1, vec![prefix(1)]);
    assert_eq!(play.changes(two), (vec![prefix(1)], vec![]));
    play.speaker.closed(play.now, one, "gone".into());
    assert_eq!(play.changes(two), (vec![], vec![prefix(1)]));
    assert_eq!(play.speaker.sessions(play.now).len(), 1, "nothing is left of it");
    assert!(!play.actions().iter().any(|action| matches!(action, Action::Connect { .. })));
}

#[test]
fn its_routes_outlive_its_restart() {
    let mut play = Play::new(with_range(range(9, client(0))));
    let mut open = Play::open(1, ASN);
    let families = vec![(Family::Ipv4Unicast, true)];
    let restart = wire::GracefulRestart { restart_time: 30, families, ..Default::default() };
    open.capabilities.push(Capability::GracefulRestart(restart));
    let one = play.up_with(1, open);
    play.announce(one, 1, vec![prefix(1)]);
    play.speaker.closed(play.now, one, "gone".into());
    assert_eq!(play.report(1).stale, 1);
    play.now += Duration::from_secs(30);
    play.speaker.handle_timeout(play.now);
    assert_eq!((play.speaker.sessions(play.now).len(), play.speaker.paths().len()), (1, 0));
}

/// Bounded, whatever comes: the limit, and a rest for those who send rubbish.
#[test]
fn a_range_holds_no_more_than_its_limit() {
    let mut play = Play::new(with_range(range(3, client(0))));
    let conns: Vec<_> = (10..20).filter_map(|n| play.connect(n)).collect();
    assert_eq!(conns.len(), 3);
    play.speaker.received(play.now, conns[0], &[0; 19]);
    play.told(conns[0]);
    assert_eq!((play.connect(10), play.connect(19)), (None, None), "it rests in its place");
    play.now += Duration::from_secs(1);
    play.speaker.handle_timeout(play.now);
    assert!(play.connect(19).is_some());
}

#[test]
fn ranges_change_live() {
    let mut play = Play::new(with_range(range(9, client(0))));
    let one = play.up(1);
    play.told(one);
    play.set(with_range(range(9, Neighbor { export: Filter::nothing(), ..client(0) })));
    assert_eq!(play.report(1).established_count, 1, "filters need no new session");
    play.set(with_range(range(9, neighbor(0))));
    assert_eq!(play.report(1).established_count, 1, "no client any more, and the session stands");
    play.set(with_range(range(9, Neighbor { local_address: Some(address(100)), ..neighbor(0) })));
    assert_eq!(play.told(one).len(), 1, "bound to another address: a Cease");
    assert_eq!(play.speaker.sessions(play.now).len(), 1);
    let one = play.up(1);
    play.told(one);
    let listed = Neighbor { local_address: Some(address(100)), ..neighbor(1) };
    play.set(config(vec![client(2), listed]));
    assert_eq!(play.state(1), SessionState::Established, "listed by now");
    play.set(with_range(range(9, neighbor(0))));
    assert_eq!(play.speaker.sessions(play.now).len(), 1, "what was listed goes with the list");
    let one = play.up(1);
    play.told(one);
    play.set(config(vec![client(2)]));
    assert!(matches!(play.told(one)[..], [Message::Notification(_)]));
}

#[test]
fn a_range_is_protected_as_a_whole() {
    let key = |key: &str| Some(Authentication::Md5(Key::new(key)));
    let keyed = |key| with_range(range(9, Neighbor { authentication: key, ..client(0) }));
    let mut play = Play::new(keyed(key("a")));
    let from = Prefix::new(address(0), 25).expect("fits");
    let protect = |authentication| Action::Protect { from, authentication };
    assert_eq!(play.actions(), [protect(key("a"))]);
    play.set(keyed(key("a")));
    assert_eq!(play.actions(), []);
    play.set(keyed(key("b")));
    assert_eq!(play.actions(), [protect(None), protect(key("b"))]);
    play.set(keyed(None));
    assert_eq!(play.actions(), [protect(None)]);
}

/// RFC 7705 §3.3: to that neighbour we are the other AS, and nothing else.
#[test]
fn another_as_number_of_ours() {
    let moving = Neighbor { asn: 64601, local_asn: Some(65000), ..neighbor(1) };
    let mut play = Play::new(Config { networks: vec![Network::new(prefix(9))], ..config(vec![moving]) });
    let one = play.connect(1).expect("welcome");
    let told = play.told(one);
    assert!(matches!(&told[..], [Message::Open(open)] if open.asn == 65000));
    play.hear(one, &Message::Open(Play::open(1, 64601)));
    play.hear(one, &Message::Keepalive);
    let path = |numbers: &[u32]| AsPath(vec![Segment::Sequence(numbers.into())]);
    let attributes = play.updates(one).swap_remove(0).attributes.expect("a reach");
    assert_eq!(attributes.as_path, path(&[65000]));
    for (numbers, usable) in [(&[64601, 7][..], true), (&[64601, 65000], false), (&[64601, ASN], false)] {
        play.announce_with(
            one,
            1,
            vec![prefix(1)],
            Attributes { as_path: path(numbers), ..Attributes::local() },
        );
        assert_eq!(play.speaker.best_routes().len() == 1, usable, "{numbers:?}");
    }
}
