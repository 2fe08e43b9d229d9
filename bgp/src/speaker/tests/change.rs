//! Changes of the configuration: which sessions continue, and which start anew.

use super::*;
use crate::Timers;
use crate::config::{GracefulRestart, NextHopMode, PrefixRange};
use crate::wire::Notification;

/// Establishes three sessions and applies `change`. Returns which are still established, and the last message to neighbor 2.
fn after(change: impl Fn(&mut Config)) -> (Play, Vec<bool>, Option<(u8, u8)>) {
    let mut config = config(vec![neighbor(1), neighbor(2), neighbor(3)]);
    let mut play = Play::new(config.clone());
    let conns: Vec<ConnId> = (1..=3).map(|n| play.up(n)).collect();
    conns.iter().for_each(|conn| drop(play.sent(*conn)));
    let before = play.report(3).established_count;
    change(&mut config);
    play.set(config);
    let stands = (1..=3).map(|n| {
        let sessions = play.speaker.sessions(play.now);
        sessions.iter().any(|s| s.address == address(n) && s.state == SessionState::Established)
    });
    let stands = stands.collect();
    let word = play.sent(conns[1]).into_iter().find_map(|message| match message {
        Message::Notification(n) => Some((n.code, n.subcode)),
        _ => None,
    });
    assert_eq!(before, 1);
    (play, stands, word)
}

#[test]
fn live_changes_reset_no_session() {
    let changes: [fn(&mut Config); 10] = [
        |_| (),
        |config| config.neighbors[1].next_hop_mode = NextHopMode::Unchanged,
        |config| config.neighbors[1].timers.idle_hold = Duration::from_secs(9),
        |config| config.neighbors[1].reflector_client = true,
        |config| config.neighbors[1].name = "other".into(),
        |config| config.neighbors[1].import = Filter::nothing(),
        |config| config.neighbors[1].export = Filter::nothing(),
        |config| {
            config.neighbors[1].timers.connect_retry = Duration::from_secs(9);
            config.neighbors[1].timers.keepalive = Some(Duration::from_secs(1));
        },
        |config| (config.neighbors[1].port, config.neighbors[1].passive) = (1790, false),
        |config| (config.graceful_restart, config.neighbors[1].name) = (None, "other".into()),
    ];
    for change in changes {
        let (_, stands, word) = after(change);
        assert_eq!((stands, word), (vec![true; 3], None));
    }
}

/// A change of the next-hop mode applies to an established session: the routes are advertised again with another next hop.
#[test]
fn the_next_hop_mode_changes_live() {
    let theirs: IpAddr = Ipv4Addr::new(192, 0, 2, 1).into();
    let mut config = config(vec![client(1)]);
    config.networks = vec![Network::new(prefix(7)).next_hop(Some(theirs))];
    let mut play = Play::new(config.clone());
    let conn = play.up(1);
    let modes = [NextHopMode::Automatic, NextHopMode::OwnAddress, NextHopMode::Unchanged];
    let mut next_hops = Vec::new();
    for mode in modes {
        config.neighbors[0].next_hop_mode = mode;
        play.set(config.clone());
        next_hops.extend(
            play.updates(conn)
                .into_iter()
                .flat_map(|update| update.reach)
                .map(|reach| reach.next_hop.address),
        );
    }
    assert_eq!(next_hops, [theirs, address(100), theirs]);
    assert_eq!(play.report(1).established_count, 1);
}

#[test]
fn a_change_of_the_open_needs_a_new_session_of_that_neighbor_only() {
    let changes: [fn(&mut Neighbor); 4] = [
        |neighbor| neighbor.timers.hold = Duration::from_secs(30),
        |neighbor| neighbor.families = vec![Family::Ipv4Unicast],
        |neighbor| neighbor.asn = 64600,
        |neighbor| neighbor.local_address = Some(address(100)),
    ];
    for change in changes {
        let (mut play, stands, word) = after(|config| change(&mut config.neighbors[1]));
        assert_eq!(stands, [true, false, true]);
        assert_eq!(word, Some((code::CEASE, cease::CONFIG_CHANGE)));
        assert!(play.connect(2).is_some(), "and it may come back at once");
    }
}

/// A change between full mesh and reflectors must not end a session.
#[test]
fn a_neighbor_becomes_a_client_and_no_client_while_its_session_stands() {
    let mut config = config(vec![neighbor(1), neighbor(2)]);
    let mut play = Play::new(config.clone());
    let (one, two) = (play.up(1), play.up(2));
    play.advertise(one, 1, vec![prefix(1)]);
    play.advertise(two, 2, vec![prefix(2)]);
    assert_eq!(play.changes(one), (vec![], vec![]), "RFC 4456 §6: nothing between non-clients");
    assert_eq!(play.changes(two), (vec![], vec![]));
    config.neighbors[0].reflector_client = true;
    play.set(config.clone());
    assert_eq!(play.changes(one), (vec![prefix(2)], vec![]), "a client receives all routes");
    assert_eq!(play.changes(two), (vec![prefix(1)], vec![]), "and all receive a client's routes");
    config.neighbors[0].reflector_client = false;
    play.set(config);
    assert_eq!(play.changes(one), (vec![], vec![prefix(2)]));
    assert_eq!(play.changes(two), (vec![], vec![prefix(1)]));
}

#[test]
fn a_neighbor_that_is_removed_receives_a_cease() {
    let (mut play, stands, word) = after(|config| drop(config.neighbors.remove(1)));
    assert_eq!((stands, word), (vec![true, false, true], Some((code::CEASE, cease::DECONFIGURED))));
    assert!(play.connect(2).is_none(), "not a neighbor any more");
}

#[test]
fn another_identity_needs_new_sessions_with_all() {
    let changes: [fn(&mut Config); 3] = [
        |config| config.asn = 64513,
        |config| config.router_id = Ipv4Addr::new(10, 0, 0, 101),
        |config| config.cluster_id = Some(Ipv4Addr::new(1, 1, 1, 1)),
    ];
    for change in changes {
        let (_, stands, word) = after(change);
        assert_eq!((stands, word), (vec![false; 3], Some((code::CEASE, cease::CONFIG_CHANGE))));
    }
}

#[test]
fn an_invalid_configuration_changes_nothing() {
    let mut play = Play::new(config(vec![neighbor(1)]));
    let conn = play.up(1);
    play.sent(conn);
    let bad: [fn(&mut Config); 7] = [
        |config| config.asn = 0,
        |config| config.router_id = Ipv4Addr::UNSPECIFIED,
        |config| config.neighbors.push(neighbor(1)),
        |config| config.neighbors[0].families.clear(),
        |config| config.neighbors[0].timers.hold = Duration::from_secs(2),
        |config| config.neighbors[0].timers.keepalive = Some(Duration::ZERO),
        |config| config.neighbors[0].timers = Timers { connect_retry: Duration::ZERO, ..Timers::default() },
    ];
    for spoil in bad {
        let mut config = config(vec![neighbor(1)]);
        spoil(&mut config);
        let error = play.speaker.set_config(play.now, config).expect_err("invalid");
        assert!(error.to_string().contains(": "), "{error}");
        assert_eq!(play.state(1), SessionState::Established);
        assert!(play.sent(conn).is_empty());
    }
}

#[test]
fn filters_apply_to_routes_in_the_tables() {
    let mut config = config(vec![client(1), client(2)]);
    let mut play = Play::new(config.clone());
    let (one, two) = (play.up(1), play.up(2));
    play.sent(two);
    play.advertise(one, 1, vec![prefix(1), prefix(2)]);
    assert_eq!(play.changes(two), (vec![prefix(1), prefix(2)], vec![]));
    let only = |n| Filter::Only(vec![PrefixRange { within: prefix(n), max_length: 24 }]);
    config.neighbors[1].export = only(1);
    play.set(config.clone());
    assert_eq!(play.changes(two), (vec![], vec![prefix(2)]));
    config.neighbors[0].import = only(2);
    play.set(config.clone());
    assert_eq!(play.changes(two), (vec![], vec![prefix(1)]));
    config.neighbors[0].import = Filter::All;
    play.set(config);
    assert_eq!(play.changes(two), (vec![prefix(1)], vec![]), "no refresh was needed");
}

#[test]
fn networks_are_originated_and_withdrawn() {
    let mut config = config(vec![neighbor(1)]);
    let mut play = Play::new(config.clone());
    let conn = play.up(1);
    play.sent(conn);
    config.networks = vec![Network::new(prefix(7))];
    play.set(config.clone());
    assert_eq!(play.changes(conn), (vec![prefix(7)], vec![]));
    config.networks.clear();
    play.set(config);
    assert_eq!(play.changes(conn), (vec![], vec![prefix(7)]));
}

/// RFC 9494 §3.1: whole seconds, in 24 bits.
#[test]
fn a_long_lived_stale_time_must_fit() {
    let with = |time| {
        let restart = GracefulRestart { long_lived: Some(time), ..GracefulRestart::default() };
        Config { graceful_restart: Some(restart), ..config(Vec::new()) }.validate()
    };
    assert_eq!(with(Duration::ZERO), Ok(()));
    assert_eq!(with(Duration::from_secs((1 << 24) - 1)), Ok(()));
    for bad in [Duration::from_secs(1 << 24), Duration::from_millis(1500)] {
        let error = with(bad).expect_err("invalid").to_string();
        assert_eq!(
            error,
            "graceful restart: the long-lived stale time must be 0 to 16777215 whole seconds (RFC 9494 §3.1)"
        );
    }
}

/// The history of a session outlives a change of configuration that starts a new session.
#[test]
fn a_new_session_has_the_history_of_the_one_before() {
    let mut config = config(vec![neighbor(1), neighbor(2)]);
    let mut play = Play::new(config.clone());
    let conn = play.up(1);
    play.receive(conn, &Message::Notification(Notification::new(code::CEASE, cease::RESET)));
    config.neighbors[0].timers.hold = Duration::from_secs(30);
    play.set(config.clone());
    let whys = |play: &Play, n| -> Vec<String> {
        play.report(n).history.into_iter().map(|transition| transition.reason.to_string()).collect()
    };
    let seen = whys(&play, 1);
    assert!(seen.contains(&"established".into()), "{seen:?}");
    assert!(seen.contains(&"the peer sent: Cease / Administrative Reset".into()), "{seen:?}");
    assert_eq!(seen.last().map(String::as_str), Some("passive: waiting for the peer to connect"));
    assert_eq!(play.report(1).errors.len(), 1);
    config.router_id = Ipv4Addr::new(10, 0, 0, 101);
    play.set(config.clone());
    let seen = whys(&play, 1);
    assert!(seen.contains(&"our AS number or identifier changed".into()), "{seen:?}");
    assert!(seen.contains(&"established".into()), "{seen:?}");
    // The history of a removed neighbor is forgotten.
    play.set(Config { neighbors: vec![neighbor(2)], ..config.clone() });
    play.set(config);
    assert!(!whys(&play, 1).contains(&"established".into()));
}
