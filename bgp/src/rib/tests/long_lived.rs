//! Long-lived graceful restart (RFC 9494), as far as the tables have a part in it.

use PeerKind::{Client, External, Internal};

use super::model::{LLGR_STALE, NO_LLGR};
use super::*;
use crate::policy::{Action, Community, Modification, Policy, Rule};

const P: &str = "10.1.0.0/16";
const Q: &str = "10.2.0.0/16";
const P6: &str = "2001:db8:1::/48";

const NO_EXPORT: u32 = 0xFFFF_FF01;

fn marked(kind: PeerKind, communities: &[u32]) -> Attributes {
    Attributes { communities: communities.to_vec().into(), ..attributes(kind) }
}

fn aware(n: u8, kind: PeerKind) -> Peer {
    Peer { long_lived: true, ..peer(n, kind) }
}

/// Peer 1, a client, has told P, Q and P6 and went; `hearers` hear of it, numbered from 2.
fn away(hearers: &[Peer]) -> (Rib, Vec<Receiver>) {
    let mut rib = rib_with(&[Client]);
    for (n, peer) in (2..).zip(hearers) {
        rib.peer_up(id(n), peer.clone());
    }
    rib.update(id(1), announce(marked(Client, &[7]), "10.0.0.1", &[P]));
    rib.update(id(1), announce(marked(Client, &[NO_LLGR]), "10.0.0.1", &[Q]));
    rib.update(id(1), announce(attributes(Client), "2001:db8::1", &[P6]));
    let receivers = (2..).zip(hearers).map(|(n, _)| told(&mut rib, n)).collect();
    rib.peer_down(id(1), &[V4, V6]);
    (rib, receivers)
}

#[test]
fn what_outlives_the_restart_time_is_told_as_such() {
    let (mut rib, mut receivers) = away(&[aware(2, Client)]);
    rib.long_lived(id(1), V4);
    receivers[0].drain(&mut rib, 2);
    let routes = &receivers[0].routes;
    assert_eq!(routes[&prefix(P)].0.communities, [7, LLGR_STALE]);
    assert_eq!(routes[&prefix(P)].0.local_pref, Some(100));
    assert!(!routes.contains_key(&prefix(Q)), "NO_LLGR");
    assert_eq!(routes[&prefix(P6)].0.communities, [], "another family");
    let said = report(&rib, P, 1);
    assert!(said.best && said.stale);
    assert_eq!(
        said.reason.to_string(),
        "best: the only eligible path; long-lived stale, kept as a last resort"
    );
    assert_eq!(rib.counts(id(1)).stale, 2);
    rib.long_lived(id(1), V4);
    assert!(!rib.pending(id(2)), "it is so already");
    rib.drop_stale(id(1), Some(V4));
    receivers[0].drain(&mut rib, 2);
    assert_eq!(receivers[0].routes.keys().copied().collect::<Vec<_>>(), [prefix(P6)]);
}

#[test]
fn what_the_peer_tells_when_it_is_back_is_as_good_as_ever() {
    let (mut rib, mut receivers) = away(&[aware(2, Client)]);
    rib.long_lived(id(1), V4);
    rib.peer_up(id(1), peer(1, Client));
    receivers[0].drain(&mut rib, 2);
    assert_eq!(receivers[0].routes[&prefix(P)].0.communities, [7, LLGR_STALE], "not before it is told");
    rib.update(id(1), announce(marked(Client, &[7]), "10.0.0.1", &[P]));
    rib.drop_stale(id(1), Some(V4));
    receivers[0].drain(&mut rib, 2);
    assert_eq!(receivers[0].routes[&prefix(P)].0.communities, [7]);
}

/// RFC 9494 §4.4: whatever else speaks for it.
#[test]
fn any_other_path_is_better() {
    for late in [false, true] {
        let mut rib = rib_with(&[Client, Client]);
        let better = Attributes { local_pref: Some(500), ..attributes(Client) };
        let worse = Attributes { as_path: sequence(&[1, 2, 3]), ..attributes(Client) };
        rib.update(id(1), announce(better, "10.0.0.1", &[P]));
        let other = announce(worse, "10.0.0.2", &[P]);
        if !late {
            rib.update(id(2), other.clone());
        }
        rib.peer_down(id(1), &[V4]);
        assert!(report(&rib, P, 1).best, "merely stale");
        rib.long_lived(id(1), V4);
        assert_eq!(report(&rib, P, 1).best, late);
        if late {
            rib.update(id(2), other);
        }
        assert_eq!(report(&rib, P, 1).reason.to_string(), "long-lived stale, unlike the path via 10.0.0.2");
        assert_eq!(
            report(&rib, P, 2).reason.to_string(),
            "best: not long-lived stale, unlike the path via 10.0.0.1"
        );
    }
}

/// RFC 9494 §4.3: also where somebody else marked it; §4.4: among such paths all is as ever.
#[test]
fn what_comes_marked_is_the_last_resort_too() {
    let mut rib = rib_with(&[Client, Client, Client]);
    let high = Attributes { local_pref: Some(200), ..marked(Client, &[LLGR_STALE]) };
    rib.update(id(1), announce(high, "10.0.0.1", &[P]));
    rib.update(id(2), announce(marked(Client, &[LLGR_STALE]), "10.0.0.2", &[P]));
    assert_eq!(report(&rib, P, 1).reason.to_string(), "best: higher LOCAL_PREF 200 > 100 than via 10.0.0.2");
    rib.update(id(3), announce(attributes(Client), "10.0.0.3", &[P]));
    assert!(report(&rib, P, 3).best);
    assert_eq!(report(&rib, P, 1).reason.to_string(), "long-lived stale, unlike the path via 10.0.0.3");
}

/// RFC 9494 §4.3 and §4.6.
#[test]
fn those_who_do_not_know_what_it_means() {
    let hearers = [peer(2, Internal), peer(3, External), aware(4, External)];
    let (mut rib, mut receivers) = away(&hearers);
    rib.long_lived(id(1), V4);
    for (n, receiver) in (2..).zip(&mut receivers) {
        receiver.drain(&mut rib, n);
    }
    let inside = &receivers[0].routes[&prefix(P)].0;
    assert_eq!((&inside.communities[..], inside.local_pref), (&[7, LLGR_STALE, NO_EXPORT][..], Some(0)));
    assert!(!receivers[1].routes.contains_key(&prefix(P)), "not outside the AS");
    assert_eq!(receivers[2].routes[&prefix(P)].0.communities, [7, LLGR_STALE]);
}

/// RFC 9494 §4.3: it must not be removed.
#[test]
fn no_policy_takes_the_mark_away() {
    let clean = Rule {
        name: String::new(),
        conditions: Vec::new(),
        modifications: vec![
            Modification::Remove(Community::Standard(LLGR_STALE)),
            Modification::Add(Community::Standard(9)),
        ],
        action: None,
    };
    let clean = Filter::Rules(Policy::new(vec![clean], Action::Accept).expect("valid"));
    let mut rib = rib();
    rib.peer_up(id(1), Peer { import: clean.clone(), ..peer(1, Client) });
    rib.peer_up(id(2), Peer { export: clean, ..aware(2, Client) });
    rib.update(id(1), announce(marked(Client, &[LLGR_STALE]), "10.0.0.1", &[P]));
    assert_eq!(told(&mut rib, 2).routes[&prefix(P)].0.communities, [9, LLGR_STALE]);
}

/// A rule says NO_LLGR as well as the peer could (RFC 9494 §4.2).
#[test]
fn a_policy_may_keep_routes_from_becoming_long_lived() {
    let short = Rule {
        name: String::new(),
        conditions: Vec::new(),
        modifications: vec![Modification::Add(Community::Standard(NO_LLGR))],
        action: None,
    };
    let import = Filter::Rules(Policy::new(vec![short], Action::Accept).expect("valid"));
    let mut rib = rib();
    rib.peer_up(id(1), Peer { import, ..peer(1, Client) });
    rib.update(id(1), announce(attributes(Client), "10.0.0.1", &[P]));
    rib.peer_down(id(1), &[V4]);
    assert!(report(&rib, P, 1).best);
    rib.long_lived(id(1), V4);
    assert!(rib.paths().is_empty() && rib.is_empty());
}

/// What it told after it was back is not stale when the rest ages.
#[test]
fn only_what_is_stale_ages() {
    let (mut rib, _) = away(&[]);
    rib.peer_up(id(1), peer(1, Client));
    rib.update(id(1), announce(attributes(Client), "10.0.0.1", &[Q]));
    rib.long_lived(id(1), V4);
    rib.peer_down(id(1), &[V4]);
    let reason = |text| report(&rib, text, 1).reason.to_string();
    assert!(reason(P).contains("long-lived"));
    assert_eq!(reason(Q), "best: the only eligible path");
}
