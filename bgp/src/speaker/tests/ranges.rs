//! Neighbors from listen ranges, and local AS numbers.

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
fn a_neighbor_from_a_range_is_there_while_it_is_connected() {
    let mut play = Play::new(with_range(range(9, client(0))));
    assert_eq!(play.connect(200), None, "outside");
    let two = play.up(2);
    play.sent(two);
    let one = play.up(1);
    assert_eq!(play.report(1).name, "10.0.0.0 10.0.0.1");
    play.advertise(one, 1, vec![prefix(1)]);
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
    play.advertise(one, 1, vec![prefix(1)]);
    play.speaker.closed(play.now, one, "gone".into());
    assert_eq!(play.report(1).stale, 1);
    play.now += Duration::from_secs(30);
    play.speaker.handle_timeout(play.now);
    assert_eq!((play.speaker.sessions(play.now).len(), play.speaker.paths().len()), (1, 0));
}

/// The number of neighbors is bounded by the limit, and one that sends an invalid stream is paused.
#[test]
fn a_range_has_no_more_neighbors_than_its_limit() {
    let mut play = Play::new(with_range(range(3, client(0))));
    let conns: Vec<_> = (10..20).filter_map(|n| play.connect(n)).collect();
    assert_eq!(conns.len(), 3);
    play.speaker.received(play.now, conns[0], &[0; 19]);
    play.sent(conns[0]);
    assert_eq!((play.connect(10), play.connect(19)), (None, None), "paused, it keeps its place");
    play.now += Duration::from_secs(1);
    play.speaker.handle_timeout(play.now);
    assert!(play.connect(19).is_some());
}

#[test]
fn ranges_change_live() {
    let mut play = Play::new(with_range(range(9, client(0))));
    let one = play.up(1);
    play.sent(one);
    play.set(with_range(range(9, Neighbor { export: Filter::nothing(), ..client(0) })));
    assert_eq!(play.report(1).established_count, 1, "filters need no new session");
    play.set(with_range(range(9, neighbor(0))));
    assert_eq!(play.report(1).established_count, 1, "no client any more, and the session stands");
    play.set(with_range(range(9, Neighbor { local_address: Some(address(100)), ..neighbor(0) })));
    assert_eq!(play.sent(one).len(), 1, "bound to another address: a Cease");
    assert_eq!(play.speaker.sessions(play.now).len(), 1);
    let one = play.up(1);
    play.sent(one);
    let listed = Neighbor { local_address: Some(address(100)), ..neighbor(1) };
    play.set(config(vec![client(2), listed]));
    assert_eq!(play.state(1), SessionState::Established, "configured by itself now");
    play.set(with_range(range(9, neighbor(0))));
    assert_eq!(play.speaker.sessions(play.now).len(), 1, "removed with its own configuration");
    let one = play.up(1);
    play.sent(one);
    play.set(config(vec![client(2)]));
    assert!(matches!(play.sent(one)[..], [Message::Notification(_)]));
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

/// RFC 7705 §3.3: the neighbor sees the local AS only.
#[test]
fn a_local_as_number() {
    let moving = Neighbor { asn: 64601, local_asn: Some(65000), ..neighbor(1) };
    let mut play = Play::new(Config { networks: vec![Network::new(prefix(9))], ..config(vec![moving]) });
    let one = play.connect(1).expect("accepted");
    let sent = play.sent(one);
    assert!(matches!(&sent[..], [Message::Open(open)] if open.asn == 65000));
    play.receive(one, &Message::Open(Play::open(1, 64601)));
    play.receive(one, &Message::Keepalive);
    let path = |numbers: &[u32]| AsPath(vec![Segment::Sequence(numbers.into())]);
    let attributes = play.updates(one).swap_remove(0).attributes.expect("a reach");
    assert_eq!(attributes.as_path, path(&[65000]));
    for (numbers, usable) in [(&[64601, 7][..], true), (&[64601, 65000], false), (&[64601, ASN], false)] {
        play.advertise_with(
            one,
            1,
            vec![prefix(1)],
            Attributes { as_path: path(numbers), ..Attributes::local() },
        );
        assert_eq!(play.speaker.best_routes().len() == 1, usable, "{numbers:?}");
    }
}
