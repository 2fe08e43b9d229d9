//! Adj-RIB-out: nothing twice, nothing needless, nothing too much.

use PeerKind::{Client, External};

use super::*;

const P: &str = "10.1.0.0/16";
const Q: &str = "10.2.0.0/16";

/// Peer 1 announces `P` and peer 2 has heard of it.
fn fed() -> (Rib, Receiver) {
    let mut rib = rib_with(&[Client, Client, Client]);
    rib.update(id(1), announce(attributes(Client), "10.0.0.1", &[P]));
    let receiver = told(&mut rib, 2);
    (rib, receiver)
}

#[test]
fn a_new_peer_is_told_everything_then_end_of_rib() {
    let mut rib = rib();
    rib.set_networks(&[network(P, None), network("2001:db8:1::/48", Some("2001:db8::9"))]);
    rib.peer_up(id(1), peer(1, Client));
    rib.end_of_rib(id(1), V4);
    rib.end_of_rib(id(1), V6);
    let mut receiver = Receiver::default();
    receiver.pull(&mut rib, 1, 1);
    assert!(receiver.routes.contains_key(&prefix(P)) && receiver.ended.is_empty(), "one message at a time");
    receiver.drain(&mut rib, 1);
    assert_eq!((receiver.routes.len(), receiver.messages), (2, 4));
    assert_eq!(receiver.ended, [V4, V6]);
}

#[test]
fn an_empty_table_has_an_end_too() {
    let mut rib = rib_with(&[Client]);
    assert!(!rib.pending(id(1)));
    rib.end_of_rib(id(1), V4);
    let receiver = told(&mut rib, 1);
    assert_eq!((receiver.ended, receiver.messages), (vec![V4], 1));
}

#[test]
fn equal_attributes_share_a_message() {
    let mut rib = rib_with(&[Client, Client]);
    let other = Attributes { med: Some(1), ..attributes(Client) };
    rib.update(id(1), announce(attributes(Client), "10.0.0.1", &[P, Q]));
    rib.update(id(1), announce(other, "10.0.0.1", &["10.3.0.0/16"]));
    rib.update(id(1), announce(attributes(Client), "10.0.0.1", &["10.4.0.0/16"]));
    let receiver = told(&mut rib, 2);
    assert_eq!((receiver.messages, receiver.announced), (2, 4));
}

#[test]
fn what_was_said_is_not_said_again() {
    let (mut rib, _) = fed();
    rib.update(id(1), announce(attributes(Client), "10.0.0.1", &[P]));
    assert!(!rib.pending(id(2)), "the same again");
    let worse = Attributes { local_pref: Some(1), ..attributes(Client) };
    rib.update(id(3), announce(worse, "10.0.0.3", &[P]));
    assert!(!rib.pending(id(2)), "not best");
    rib.update(id(3), withdraw(&[P, Q]));
    assert!(!rib.pending(id(2)));
}

/// External peers hear the same words about P from us, whoever we have it from.
#[test]
fn another_best_path_that_reads_the_same_is_no_news() {
    let mut rib = rib_with(&[Client, Client, External]);
    rib.update(id(2), announce(attributes(Client), "10.0.0.2", &[P]));
    let receiver = told(&mut rib, 3);
    rib.update(id(1), announce(attributes(Client), "10.0.0.1", &[P]));
    assert!(rib.take_changed() && receiver.announced == 1);
    assert!(!rib.pending(id(3)));
}

#[test]
fn a_withdraw_cancels_what_was_not_sent_yet() {
    let mut rib = rib_with(&[Client, Client]);
    rib.update(id(1), announce(attributes(Client), "10.0.0.1", &[P]));
    assert!(rib.pending(id(2)));
    rib.update(id(1), withdraw(&[P]));
    assert!(!rib.pending(id(2)));
}

#[test]
fn a_change_taken_back_leaves_nothing_to_say() {
    let (mut rib, mut receiver) = fed();
    let better = Attributes { med: Some(3), ..attributes(Client) };
    rib.update(id(1), announce(better.clone(), "10.0.0.1", &[P]));
    rib.update(id(1), withdraw(&[P]));
    assert!(rib.pending(id(2)));
    rib.update(id(1), announce(attributes(Client), "10.0.0.1", &[P]));
    assert!(!rib.pending(id(2)));
    rib.update(id(1), withdraw(&[P]));
    rib.update(id(1), announce(better, "10.0.0.1", &[P]));
    receiver.drain(&mut rib, 2);
    assert_eq!((receiver.announced, receiver.withdrawn), (2, 0), "one implicit withdraw");
    assert_eq!(receiver.routes[&prefix(P)].0.med, Some(3));
}

/// The best path moves to peer 2 itself: it must lose what it had from peer 1, and peer 1 now hears of 2's.
#[test]
fn split_horizon_follows_the_best_path() {
    let (mut rib, mut second) = fed();
    let better = Attributes { local_pref: Some(200), ..attributes(Client) };
    rib.update(id(2), announce(better, "10.0.0.2", &[P]));
    second.drain(&mut rib, 2);
    assert!(second.routes.is_empty());
    let mut first = told(&mut rib, 1);
    assert_eq!(first.routes[&prefix(P)].1, next_hop("10.0.0.2"));
    rib.update(id(2), withdraw(&[P]));
    first.drain(&mut rib, 1);
    second.drain(&mut rib, 2);
    assert!(first.routes.is_empty());
    assert_eq!(second.routes[&prefix(P)].1, next_hop("10.0.0.1"));
    assert_eq!(first.redundant + second.redundant, 0);
}

/// RFC 2918 §4.
#[test]
fn refresh_tells_everything_again() {
    let (mut rib, mut receiver) = fed();
    rib.update(id(1), announce(attributes(Client), "2001:db8::1", &["2001:db8:1::/48"]));
    receiver.drain(&mut rib, 2);
    rib.refresh(id(2), V4);
    receiver.drain(&mut rib, 2);
    assert_eq!((receiver.announced, receiver.redundant), (3, 1), "P alone twice");
    rib.refresh(id(2), V4);
    rib.update(id(1), withdraw(&[P]));
    receiver.drain(&mut rib, 2);
    assert_eq!((receiver.routes.len(), receiver.withdrawn), (1, 1));
}

#[test]
fn a_new_session_starts_from_nothing() {
    let (mut rib, _) = fed();
    rib.peer_down(id(2), &[]);
    assert!(!rib.pending(id(2)));
    assert_eq!(rib.counts(id(2)).advertised, 0);
    rib.peer_up(id(2), peer(2, Client));
    assert_eq!(told(&mut rib, 2).routes.len(), 1);
}

#[test]
fn networks_are_applied_by_difference() {
    let mut rib = rib_with(&[Client]);
    rib.set_networks(&[network(P, None), network(Q, None)]);
    let mut receiver = told(&mut rib, 1);
    rib.take_changed();
    rib.set_networks(&[network(Q, None), network(P, None)]);
    assert!(!rib.pending(id(1)) && !rib.take_changed());
    rib.set_networks(&[network(P, Some("10.0.0.77"))]);
    receiver.drain(&mut rib, 1);
    assert_eq!(receiver.routes[&prefix(P)].1, next_hop("10.0.0.77"));
    assert_eq!((receiver.announced, receiver.withdrawn, receiver.redundant), (3, 1, 0));
}

/// RFC 4271 §9.2: what does not fit is not said; what was said of the prefix before is taken back.
#[test]
fn what_is_too_large_is_withheld() {
    let (mut rib, mut receiver) = fed();
    let long = |count| Attributes { communities: (0..count).collect(), ..attributes(Client) };
    // 4000 octets of communities: the largest message that fits has them and little else.
    rib.update(id(1), announce(long(1000), "10.0.0.1", &[P]));
    receiver.drain(&mut rib, 2);
    assert_eq!(receiver.routes[&prefix(P)].0.communities.len(), 1000);
    rib.update(id(1), announce(long(1015), "10.0.0.1", &[P, Q]));
    receiver.drain(&mut rib, 2);
    assert!(receiver.routes.is_empty());
    assert_eq!((receiver.withdrawn, receiver.redundant), (1, 0));
    let withheld = rib.withheld(id(2));
    assert_eq!(withheld.len(), 2);
    assert!(
        withheld[0].reason.to_string().starts_with("too large: the message would take 4"),
        "{}",
        withheld[0].reason
    );
    assert!(rib.withheld(id(1)).is_empty(), "it sent them");
    rib.update(id(1), announce(attributes(Client), "10.0.0.1", &[P, Q]));
    receiver.drain(&mut rib, 2);
    assert_eq!(receiver.routes.len(), 2);
    assert!(rib.withheld(id(2)).is_empty());
}

/// Whatever the limit, everything arrives, in whole messages, and each call stops soon after its limit.
#[test]
fn packing_stops_at_the_limit_and_goes_on_from_there() {
    let mut rib = rib_with(&[Client, Client]);
    for n in 0..5000_u32 {
        let attributes = Attributes { med: Some(n / 3), ..attributes(Client) };
        let prefix = format!("10.{}.{}.0/24", n / 256, n % 256);
        rib.update(id(1), announce(attributes, "10.0.0.1", &[&prefix]));
    }
    let mut receiver = Receiver::default();
    while rib.pending(id(2)) {
        let count = receiver.pull(&mut rib, 2, 1000);
        assert!(count > 0 && count < 1000 + 4096);
    }
    assert_eq!((receiver.routes.len(), receiver.redundant), (5000, 0));
}

/// One set of attributes from two peers, one right after the other: each keeps its own originator and split horizon.
#[test]
fn equal_attributes_from_two_peers_are_two_stories() {
    let mut rib = rib_with(&[Client, Client, Client]);
    rib.update(id(1), announce(attributes(Client), "10.0.0.99", &[P]));
    rib.update(id(2), announce(attributes(Client), "10.0.0.99", &[Q]));
    let third = told(&mut rib, 3);
    assert_eq!(third.routes[&prefix(P)].0.originator_id, Some(ip4("10.0.0.1")));
    assert_eq!(third.routes[&prefix(Q)].0.originator_id, Some(ip4("10.0.0.2")));
    assert_eq!(told(&mut rib, 1).routes.into_keys().collect::<Vec<_>>(), [prefix(Q)]);
    assert_eq!(told(&mut rib, 2).routes.into_keys().collect::<Vec<_>>(), [prefix(P)]);
}

#[test]
fn strangers_have_nothing_pending() {
    let mut rib = rib_with(&[Client]);
    rib.set_networks(&[network(P, None)]);
    rib.refresh(id(9), V4);
    rib.end_of_rib(id(9), V4);
    rib.drop_stale(id(9), None);
    rib.set_filters(id(9), Filter::All, Filter::All);
    assert!(!rib.pending(id(9)));
    assert_eq!(rib.pack(id(9), 100, &mut BytesMut::new()), 0);
    assert_eq!(rib.counts(id(9)), super::super::Counts::default());
}

/// Peer 2 hears everything at once, peer 3 nothing for a long time: it goes on alone, is told only what still holds, and
/// then hears with the other again.
#[test]
fn who_falls_behind_catches_up_alone() {
    let mut rib = rib_with(&[Client, Client, Client]);
    rib.end_of_rib(id(2), V4);
    rib.end_of_rib(id(3), V4);
    let (mut second, mut third) = (told(&mut rib, 2), told(&mut rib, 3));
    let change = |rib: &mut Rib, n: u32| {
        let attributes = Attributes { med: Some(n), ..attributes(Client) };
        rib.update(id(1), announce(attributes, "10.0.0.1", &[&format!("10.{}.0.0/16", n % 20)]));
    };
    for n in 0..200 {
        change(&mut rib, n);
        second.drain(&mut rib, 2);
    }
    rib.update(id(1), withdraw(&["10.7.0.0/16"]));
    second.drain(&mut rib, 2);
    third.drain(&mut rib, 3);
    assert_eq!(second.routes, third.routes);
    assert_eq!((second.announced, third.announced), (200, 19));
    for n in 200..240 {
        change(&mut rib, n);
        second.drain(&mut rib, 2);
        third.drain(&mut rib, 3);
    }
    assert_eq!(second.routes, third.routes);
    assert_eq!((third.announced, second.redundant + third.redundant), (59, 0));
}
