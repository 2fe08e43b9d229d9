//! Long-lived graceful restart (RFC 9494) in the tables.

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

fn capable(n: u8, kind: PeerKind) -> Peer {
    Peer { long_lived: true, ..peer(n, kind) }
}

/// Returns tables in which peer 1, a client, has sent P, Q and P6 and is down, and the other `peers`, numbered from 2.
fn away(peers: &[Peer]) -> (Rib, Vec<Receiver>) {
    let mut rib = rib_with(&[Client]);
    for (n, peer) in (2..).zip(peers) {
        rib.peer_up(id(n), peer.clone());
    }
    rib.update(id(1), advertise(marked(Client, &[7]), "10.0.0.1", &[P]));
    rib.update(id(1), advertise(marked(Client, &[NO_LLGR]), "10.0.0.1", &[Q]));
    rib.update(id(1), advertise(attributes(Client), "2001:db8::1", &[P6]));
    let receivers = (2..).zip(peers).map(|(n, _)| receive_all(&mut rib, n)).collect();
    rib.peer_down(id(1), &[V4, V6]);
    (rib, receivers)
}

#[test]
fn stale_paths_become_long_lived_stale() {
    let (mut rib, mut receivers) = away(&[capable(2, Client)]);
    rib.long_lived(id(1), V4);
    receivers[0].drain(&mut rib, 2);
    let routes = &receivers[0].routes;
    assert_eq!(routes[&prefix(P)].0.communities, [7, LLGR_STALE]);
    assert_eq!(routes[&prefix(P)].0.local_pref, Some(100));
    assert!(!routes.contains_key(&prefix(Q)), "NO_LLGR");
    assert_eq!(routes[&prefix(P6)].0.communities, [], "another family");
    let path = report(&rib, P, 1);
    assert!(path.best && path.stale);
    assert_eq!(
        path.reason.to_string(),
        "best: the only eligible path; long-lived stale, kept as a last resort"
    );
    assert_eq!(rib.counts(id(1)).stale, 2);
    rib.long_lived(id(1), V4);
    assert!(!rib.pending(id(2)), "it is long-lived stale already");
    rib.drop_stale(id(1), Some(V4));
    receivers[0].drain(&mut rib, 2);
    assert_eq!(receivers[0].routes.keys().copied().collect::<Vec<_>>(), [prefix(P6)]);
}

#[test]
fn a_path_received_again_is_not_stale() {
    let (mut rib, mut receivers) = away(&[capable(2, Client)]);
    rib.long_lived(id(1), V4);
    rib.peer_up(id(1), peer(1, Client));
    receivers[0].drain(&mut rib, 2);
    assert_eq!(receivers[0].routes[&prefix(P)].0.communities, [7, LLGR_STALE], "not received again yet");
    rib.update(id(1), advertise(marked(Client, &[7]), "10.0.0.1", &[P]));
    rib.drop_stale(id(1), Some(V4));
    receivers[0].drain(&mut rib, 2);
    assert_eq!(receivers[0].routes[&prefix(P)].0.communities, [7]);
}

/// RFC 9494 §4.4: before all other steps.
#[test]
fn any_other_path_is_better() {
    for late in [false, true] {
        let mut rib = rib_with(&[Client, Client]);
        let better = Attributes { local_pref: Some(500), ..attributes(Client) };
        let worse = Attributes { as_path: sequence(&[1, 2, 3]), ..attributes(Client) };
        rib.update(id(1), advertise(better, "10.0.0.1", &[P]));
        let other = advertise(worse, "10.0.0.2", &[P]);
        if !late {
            rib.update(id(2), other.clone());
        }
        rib.peer_down(id(1), &[V4]);
        assert!(report(&rib, P, 1).best, "stale only");
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

/// RFC 9494 §4.3: a path that another speaker marked is long-lived stale, too; §4.4: such paths are compared as usual.
#[test]
fn a_path_received_with_the_community_is_long_lived_stale() {
    let mut rib = rib_with(&[Client, Client, Client]);
    let high = Attributes { local_pref: Some(200), ..marked(Client, &[LLGR_STALE]) };
    rib.update(id(1), advertise(high, "10.0.0.1", &[P]));
    rib.update(id(2), advertise(marked(Client, &[LLGR_STALE]), "10.0.0.2", &[P]));
    assert_eq!(report(&rib, P, 1).reason.to_string(), "best: higher LOCAL_PREF 200 > 100 than via 10.0.0.2");
    rib.update(id(3), advertise(attributes(Client), "10.0.0.3", &[P]));
    assert!(report(&rib, P, 3).best);
    assert_eq!(report(&rib, P, 1).reason.to_string(), "long-lived stale, unlike the path via 10.0.0.3");
}

/// RFC 9494 §4.3 and §4.6.
#[test]
fn peers_without_the_capability_get_a_last_resort_or_nothing() {
    let peers = [peer(2, Internal), peer(3, External), capable(4, External)];
    let (mut rib, mut receivers) = away(&peers);
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
fn no_policy_removes_the_community() {
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
    rib.peer_up(id(2), Peer { export: clean, ..capable(2, Client) });
    rib.update(id(1), advertise(marked(Client, &[LLGR_STALE]), "10.0.0.1", &[P]));
    assert_eq!(receive_all(&mut rib, 2).routes[&prefix(P)].0.communities, [9, LLGR_STALE]);
}

/// NO_LLGR set by a rule is the same as NO_LLGR from the peer (RFC 9494 §4.2).
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
    rib.update(id(1), advertise(attributes(Client), "10.0.0.1", &[P]));
    rib.peer_down(id(1), &[V4]);
    assert!(report(&rib, P, 1).best);
    rib.long_lived(id(1), V4);
    assert!(rib.paths().is_empty() && rib.is_empty());
}

/// A path received after the restart is not stale, and does not become long-lived stale.
#[test]
fn only_stale_paths_become_long_lived_stale() {
    let (mut rib, _) = away(&[]);
    rib.peer_up(id(1), peer(1, Client));
    rib.update(id(1), advertise(attributes(Client), "10.0.0.1", &[Q]));
    rib.long_lived(id(1), V4);
    rib.peer_down(id(1), &[V4]);
    let reason = |text| report(&rib, text, 1).reason.to_string();
    assert!(reason(P).contains("long-lived"));
    assert_eq!(reason(Q), "best: the only eligible path");
}
