//! The Adj-RIB-Out: nothing is sent twice, without need, or beyond a limit.

use PeerKind::{Client, External};

use super::*;

const P: &str = "10.1.0.0/16";
const Q: &str = "10.2.0.0/16";

/// Returns tables with `P` from peer 1, and peer 2, which has received it.
fn filled() -> (Rib, Receiver) {
    let mut rib = rib_with(&[Client, Client, Client]);
    rib.update(id(1), advertise(attributes(Client), "10.0.0.1", &[P]));
    let receiver = receive_all(&mut rib, 2);
    (rib, receiver)
}

#[test]
fn a_new_peer_is_sent_everything_then_end_of_rib() {
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
fn an_empty_table_is_sent_as_end_of_rib() {
    let mut rib = rib_with(&[Client]);
    assert!(!rib.pending(id(1)));
    rib.end_of_rib(id(1), V4);
    let receiver = receive_all(&mut rib, 1);
    assert_eq!((receiver.ended, receiver.messages), (vec![V4], 1));
}

#[test]
fn equal_attributes_share_a_message() {
    let mut rib = rib_with(&[Client, Client]);
    let other = Attributes { med: Some(1), ..attributes(Client) };
    rib.update(id(1), advertise(attributes(Client), "10.0.0.1", &[P, Q]));
    rib.update(id(1), advertise(other, "10.0.0.1", &["10.3.0.0/16"]));
    rib.update(id(1), advertise(attributes(Client), "10.0.0.1", &["10.4.0.0/16"]));
    let receiver = receive_all(&mut rib, 2);
    assert_eq!((receiver.messages, receiver.advertised), (2, 4));
}

#[test]
fn an_unchanged_route_is_not_sent_again() {
    let (mut rib, _) = filled();
    rib.update(id(1), advertise(attributes(Client), "10.0.0.1", &[P]));
    assert!(!rib.pending(id(2)), "the same again");
    let worse = Attributes { local_pref: Some(1), ..attributes(Client) };
    rib.update(id(3), advertise(worse, "10.0.0.3", &[P]));
    assert!(!rib.pending(id(2)), "not best");
    rib.update(id(3), withdraw(&[P, Q]));
    assert!(!rib.pending(id(2)));
}

/// External peers are sent the same for `P`, whichever peer it was learned from.
#[test]
fn another_best_path_with_the_same_content_is_not_sent() {
    let mut rib = rib_with(&[Client, Client, External]);
    rib.update(id(2), advertise(attributes(Client), "10.0.0.2", &[P]));
    let receiver = receive_all(&mut rib, 3);
    rib.update(id(1), advertise(attributes(Client), "10.0.0.1", &[P]));
    assert!(rib.take_changed() && receiver.advertised == 1);
    assert!(!rib.pending(id(3)));
}

#[test]
fn a_withdrawal_cancels_an_advertisement_that_is_pending() {
    let mut rib = rib_with(&[Client, Client]);
    rib.update(id(1), advertise(attributes(Client), "10.0.0.1", &[P]));
    assert!(rib.pending(id(2)));
    rib.update(id(1), withdraw(&[P]));
    assert!(!rib.pending(id(2)));
}

#[test]
fn a_change_that_is_undone_leaves_nothing_pending() {
    let (mut rib, mut receiver) = filled();
    let better = Attributes { med: Some(3), ..attributes(Client) };
    rib.update(id(1), advertise(better.clone(), "10.0.0.1", &[P]));
    rib.update(id(1), withdraw(&[P]));
    assert!(rib.pending(id(2)));
    rib.update(id(1), advertise(attributes(Client), "10.0.0.1", &[P]));
    assert!(!rib.pending(id(2)));
    rib.update(id(1), withdraw(&[P]));
    rib.update(id(1), advertise(better, "10.0.0.1", &[P]));
    receiver.drain(&mut rib, 2);
    assert_eq!((receiver.advertised, receiver.withdrawn), (2, 0), "one implicit withdraw");
    assert_eq!(receiver.routes[&prefix(P)].0.med, Some(3));
}

/// The best path moves to peer 2: it must lose the path from peer 1, which is now advertised the path from peer 2.
#[test]
fn split_horizon_follows_the_best_path() {
    let (mut rib, mut second) = filled();
    let better = Attributes { local_pref: Some(200), ..attributes(Client) };
    rib.update(id(2), advertise(better, "10.0.0.2", &[P]));
    second.drain(&mut rib, 2);
    assert!(second.routes.is_empty());
    let mut first = receive_all(&mut rib, 1);
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
fn refresh_sends_everything_again() {
    let (mut rib, mut receiver) = filled();
    rib.update(id(1), advertise(attributes(Client), "2001:db8::1", &["2001:db8:1::/48"]));
    receiver.drain(&mut rib, 2);
    rib.refresh(id(2), V4);
    receiver.drain(&mut rib, 2);
    assert_eq!((receiver.advertised, receiver.redundant), (3, 1), "only P twice");
    rib.refresh(id(2), V4);
    rib.update(id(1), withdraw(&[P]));
    receiver.drain(&mut rib, 2);
    assert_eq!((receiver.routes.len(), receiver.withdrawn), (1, 1));
}

#[test]
fn a_new_session_starts_from_nothing() {
    let (mut rib, _) = filled();
    rib.peer_down(id(2), &[]);
    assert!(!rib.pending(id(2)));
    assert_eq!(rib.counts(id(2)).advertised, 0);
    rib.peer_up(id(2), peer(2, Client));
    assert_eq!(receive_all(&mut rib, 2).routes.len(), 1);
}

#[test]
fn networks_are_applied_by_difference() {
    let mut rib = rib_with(&[Client]);
    rib.set_networks(&[network(P, None), network(Q, None)]);
    let mut receiver = receive_all(&mut rib, 1);
    rib.take_changed();
    rib.set_networks(&[network(Q, None), network(P, None)]);
    assert!(!rib.pending(id(1)) && !rib.take_changed());
    rib.set_networks(&[network(P, Some("10.0.0.77"))]);
    receiver.drain(&mut rib, 1);
    assert_eq!(receiver.routes[&prefix(P)].1, next_hop("10.0.0.77"));
    assert_eq!((receiver.advertised, receiver.withdrawn, receiver.redundant), (3, 1, 0));
}

/// RFC 4271 §9.2: a route that does not fit into a message is not advertised, and the one before is withdrawn.
#[test]
fn a_route_too_large_for_a_message_is_withheld() {
    let (mut rib, mut receiver) = filled();
    let long = |count| Attributes { communities: (0..count).collect(), ..attributes(Client) };
    // 4000 octets of communities: the largest message that fits has them and little else.
    rib.update(id(1), advertise(long(1000), "10.0.0.1", &[P]));
    receiver.drain(&mut rib, 2);
    assert_eq!(receiver.routes[&prefix(P)].0.communities.len(), 1000);
    rib.update(id(1), advertise(long(1015), "10.0.0.1", &[P, Q]));
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
    rib.update(id(1), advertise(attributes(Client), "10.0.0.1", &[P, Q]));
    receiver.drain(&mut rib, 2);
    assert_eq!(receiver.routes.len(), 2);
    assert!(rib.withheld(id(2)).is_empty());
}

/// Everything is sent in whole messages with any limit, and each call stops soon after its limit.
#[test]
fn packing_stops_at_the_limit_and_goes_on_from_there() {
    let mut rib = rib_with(&[Client, Client]);
    for n in 0..5000_u32 {
        let attributes = Attributes { med: Some(n / 3), ..attributes(Client) };
        let prefix = format!("10.{}.{}.0/24", n / 256, n % 256);
        rib.update(id(1), advertise(attributes, "10.0.0.1", &[&prefix]));
    }
    let mut receiver = Receiver::default();
    while rib.pending(id(2)) {
        let count = receiver.pull(&mut rib, 2, 1000);
        assert!(count > 0 && count < 1000 + 4096);
    }
    assert_eq!((receiver.routes.len(), receiver.redundant), (5000, 0));
}

/// The same attributes from two peers, one directly after the other: each has its own originator and split horizon.
#[test]
fn equal_attributes_from_two_peers_are_kept_apart() {
    let mut rib = rib_with(&[Client, Client, Client]);
    rib.update(id(1), advertise(attributes(Client), "10.0.0.99", &[P]));
    rib.update(id(2), advertise(attributes(Client), "10.0.0.99", &[Q]));
    let third = receive_all(&mut rib, 3);
    assert_eq!(third.routes[&prefix(P)].0.originator_id, Some(ip4("10.0.0.1")));
    assert_eq!(third.routes[&prefix(Q)].0.originator_id, Some(ip4("10.0.0.2")));
    assert_eq!(receive_all(&mut rib, 1).routes.into_keys().collect::<Vec<_>>(), [prefix(Q)]);
    assert_eq!(receive_all(&mut rib, 2).routes.into_keys().collect::<Vec<_>>(), [prefix(P)]);
}

#[test]
fn unknown_peers_have_nothing_pending() {
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

/// Peer 2 reads everything at once, and peer 3 nothing for a long time: it gets pending changes of its own, is sent only
/// what is current, and then follows the log again.
#[test]
fn a_peer_that_falls_behind_is_sent_only_what_is_current() {
    let mut rib = rib_with(&[Client, Client, Client]);
    rib.end_of_rib(id(2), V4);
    rib.end_of_rib(id(3), V4);
    let (mut second, mut third) = (receive_all(&mut rib, 2), receive_all(&mut rib, 3));
    let change = |rib: &mut Rib, n: u32| {
        let attributes = Attributes { med: Some(n), ..attributes(Client) };
        rib.update(id(1), advertise(attributes, "10.0.0.1", &[&format!("10.{}.0.0/16", n % 20)]));
    };
    for n in 0..200 {
        change(&mut rib, n);
        second.drain(&mut rib, 2);
    }
    rib.update(id(1), withdraw(&["10.7.0.0/16"]));
    second.drain(&mut rib, 2);
    third.drain(&mut rib, 3);
    assert_eq!(second.routes, third.routes);
    assert_eq!((second.advertised, third.advertised), (200, 19));
    for n in 200..240 {
        change(&mut rib, n);
        second.drain(&mut rib, 2);
        third.drain(&mut rib, 3);
    }
    assert_eq!(second.routes, third.routes);
    assert_eq!((third.advertised, second.redundant + third.redundant), (59, 0));
}
