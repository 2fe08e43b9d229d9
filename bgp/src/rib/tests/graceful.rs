//! Graceful restart (RFC 4724 §4.2), as far as the tables have a part in it.

use PeerKind::{Client, Internal};

use super::*;

const P: &str = "10.1.0.0/16";
const Q: &str = "10.2.0.0/16";
const P6: &str = "2001:db8:1::/48";

fn fed() -> Rib {
    let mut rib = rib_with(&[Client, Client]);
    rib.update(id(1), announce(attributes(Client), "10.0.0.1", &[P, Q]));
    rib.update(id(1), announce(attributes(Client), "2001:db8::1", &[P6]));
    rib.take_changed();
    rib
}

#[test]
fn without_restart_everything_goes() {
    let mut rib = fed();
    rib.peer_down(id(1), &[]);
    assert!(rib.take_changed() && rib.paths().is_empty());
    assert_eq!(rib.counts(id(1)), super::super::Counts::default());
}

#[test]
fn kept_families_become_stale_and_compete_normally() {
    let mut rib = fed();
    let mut receiver = told(&mut rib, 2);
    let messages = receiver.messages;
    rib.peer_down(id(1), &[V4]);
    receiver.drain(&mut rib, 2);
    assert_eq!((receiver.withdrawn, receiver.messages), (1, messages + 1), "only the family not kept");
    assert!(report(&rib, P, 1).stale && report(&rib, P, 1).best);
    let counts = rib.counts(id(1));
    assert_eq!((counts.received, counts.accepted, counts.stale), (2, 2, 2));
    rib.update(id(2), announce(Attributes { local_pref: Some(200), ..attributes(Client) }, "10.0.0.2", &[P]));
    assert!(!report(&rib, P, 1).best);
}

#[test]
fn what_comes_back_is_fresh_and_the_rest_is_dropped() {
    let mut rib = fed();
    let mut receiver = told(&mut rib, 2);
    rib.peer_down(id(1), &[V4, V6]);
    rib.take_changed();
    rib.peer_up(id(1), peer(1, Client));
    rib.update(id(1), announce(attributes(Client), "10.0.0.1", &[P]));
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

/// What of them is to go at a second restart is for the session to say.
#[test]
fn what_is_stale_stays_so_through_another_restart() {
    let mut rib = fed();
    rib.peer_down(id(1), &[V4]);
    rib.peer_up(id(1), peer(1, Client));
    rib.update(id(1), announce(attributes(Client), "10.0.0.1", &[Q]));
    assert_eq!((report(&rib, P, 1).stale, report(&rib, Q, 1).stale), (true, false));
    rib.peer_down(id(1), &[V4]);
    assert_eq!((report(&rib, P, 1).stale, report(&rib, Q, 1).stale), (true, true));
}

/// RFC 4724 §4.2: a family that the new session does not carry has nothing to wait for.
#[test]
fn a_family_that_is_not_carried_any_more_is_dropped() {
    let mut rib = fed();
    rib.peer_down(id(1), &[V4, V6]);
    rib.peer_up(id(1), Peer { families: vec![V4], ..peer(1, Client) });
    assert_eq!(rib.counts(id(1)).stale, 2);
    assert!(rib.best_routes().iter().all(|route| route.prefix.family() == V4));
}

/// A peer that comes back as something else: what is stale is told as that.
#[test]
fn stale_paths_follow_what_their_peer_has_become() {
    let mut rib = rib_with(&[Client, Internal]);
    rib.update(id(1), announce(attributes(Client), "10.0.0.1", &[P]));
    let mut receiver = told(&mut rib, 2);
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
fn a_forgotten_neighbour_leaves_nothing() {
    let mut rib = fed();
    rib.peer_down(id(1), &[V4]);
    rib.forget(id(1));
    assert!(rib.paths().is_empty());
    rib.forget(id(1));
    rib.update(id(1), announce(attributes(Client), "10.0.0.1", &[P]));
    assert!(rib.paths().is_empty(), "no session, no routes");
}
