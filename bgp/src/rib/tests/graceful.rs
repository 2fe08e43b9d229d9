//! Graceful restart (RFC 4724 §4.2) in the tables.

use PeerKind::{Client, Internal};

use super::*;

const P: &str = "10.1.0.0/16";
const Q: &str = "10.2.0.0/16";
const P6: &str = "2001:db8:1::/48";

fn filled() -> Rib {
    let mut rib = rib_with(&[Client, Client]);
    rib.update(id(1), advertise(attributes(Client), "10.0.0.1", &[P, Q]));
    rib.update(id(1), advertise(attributes(Client), "2001:db8::1", &[P6]));
    rib.take_changed();
    rib
}

#[test]
fn without_restart_everything_is_dropped() {
    let mut rib = filled();
    rib.peer_down(id(1), &[]);
    assert!(rib.take_changed() && rib.paths().is_empty());
    assert_eq!(rib.counts(id(1)), super::super::Counts::default());
}

#[test]
fn kept_families_become_stale_and_compete_normally() {
    let mut rib = filled();
    let mut receiver = receive_all(&mut rib, 2);
    let messages = receiver.messages;
    rib.peer_down(id(1), &[V4]);
    receiver.drain(&mut rib, 2);
    assert_eq!((receiver.withdrawn, receiver.messages), (1, messages + 1), "only the family not kept");
    assert!(report(&rib, P, 1).stale && report(&rib, P, 1).best);
    let counts = rib.counts(id(1));
    assert_eq!((counts.received, counts.accepted, counts.stale), (2, 2, 2));
    rib.update(
        id(2),
        advertise(Attributes { local_pref: Some(200), ..attributes(Client) }, "10.0.0.2", &[P]),
    );
    assert!(!report(&rib, P, 1).best);
}

#[test]
fn repeated_paths_are_fresh_and_the_others_are_dropped() {
    let mut rib = filled();
    let mut receiver = receive_all(&mut rib, 2);
    rib.peer_down(id(1), &[V4, V6]);
    rib.take_changed();
    rib.peer_up(id(1), peer(1, Client));
    rib.update(id(1), advertise(attributes(Client), "10.0.0.1", &[P]));
    assert!(!rib.take_changed(), "the same as before the restart");
    assert!(!rib.pending(id(2)));
    assert_eq!(rib.counts(id(1)).stale, 2);
    rib.drop_stale(id(1), Some(V4));
    assert_eq!(rib.counts(id(1)).stale, 1);
    rib.drop_stale(id(1), None);
    assert_eq!(rib.counts(id(1)).stale, 0);
    receiver.drain(&mut rib, 2);
    assert_eq!(receiver.routes.keys().copied().collect::<Vec<_>>(), [prefix(P)]);
    assert_eq!(receiver.redundant, 0);
}

/// The session decides which stale paths are dropped at a second restart.
#[test]
fn stale_paths_stay_stale_through_another_restart() {
    let mut rib = filled();
    rib.peer_down(id(1), &[V4]);
    rib.peer_up(id(1), peer(1, Client));
    rib.update(id(1), advertise(attributes(Client), "10.0.0.1", &[Q]));
    assert_eq!((report(&rib, P, 1).stale, report(&rib, Q, 1).stale), (true, false));
    rib.peer_down(id(1), &[V4]);
    assert_eq!((report(&rib, P, 1).stale, report(&rib, Q, 1).stale), (true, true));
}

/// RFC 4724 §4.2: stale paths of a family that the new session does not carry are dropped.
#[test]
fn a_family_that_is_not_carried_any_more_is_dropped() {
    let mut rib = filled();
    rib.peer_down(id(1), &[V4, V6]);
    rib.peer_up(id(1), Peer { families: vec![V4], ..peer(1, Client) });
    assert_eq!(rib.counts(id(1)).stale, 2);
    assert!(rib.best_routes().iter().all(|route| route.prefix.family() == V4));
}

/// Stale paths of a peer that comes back with other properties are advertised by these.
#[test]
fn stale_paths_follow_their_peers_new_properties() {
    let mut rib = rib_with(&[Client, Internal]);
    rib.update(id(1), advertise(attributes(Client), "10.0.0.1", &[P]));
    let mut receiver = receive_all(&mut rib, 2);
    assert_eq!(receiver.routes[&prefix(P)].0.originator_id, Some(ip4("10.0.0.1")));
    rib.peer_down(id(1), &[V4]);
    rib.peer_up(id(1), Peer { router_id: ip4("4.4.4.4"), ..peer(1, Client) });
    receiver.drain(&mut rib, 2);
    assert_eq!(receiver.routes[&prefix(P)].0.originator_id, Some(ip4("4.4.4.4")));
    rib.peer_down(id(1), &[V4]);
    rib.peer_up(id(1), peer(1, Internal));
    receiver.drain(&mut rib, 2);
    assert!(receiver.routes.is_empty(), "not reflected between non-clients");
}

#[test]
fn a_forgotten_neighbor_leaves_nothing() {
    let mut rib = filled();
    rib.peer_down(id(1), &[V4]);
    rib.forget(id(1));
    assert!(rib.paths().is_empty());
    rib.forget(id(1));
    rib.update(id(1), advertise(attributes(Client), "10.0.0.1", &[P]));
    assert!(rib.paths().is_empty(), "no session, no routes");
}
