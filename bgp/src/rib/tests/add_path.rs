//! Several paths to a prefix, from peers and to them (RFC 7911).

use std::num::NonZeroU8;

use PeerKind::{Client, External, Internal};

use super::*;
use crate::wire::FamilySet;

const P: &str = "10.1.0.0/16";
const Q: &str = "10.2.0.0/16";
const P6: &str = "2001:db8:1::/48";

fn of(families: &[Family]) -> FamilySet {
    families.iter().copied().collect()
}

/// Returns a peer with Path Identifiers in these families in each direction, which is sent that many paths.
fn several(n: u8, kind: PeerKind, receive: &[Family], send: &[Family], paths: u8) -> Peer {
    let usual = peer(n, kind);
    let path_ids = PathIds { receive: of(receive), send: of(send) };
    Peer { codec: Codec { path_ids, ..usual.codec }, paths: NonZeroU8::new(paths), ..usual }
}

/// Sets the identifier of all prefixes of an UPDATE.
fn with_id(path_id: u32, mut update: Update) -> Update {
    let reached = update.reach.iter_mut().flat_map(|reach| &mut reach.prefixes);
    reached.chain(&mut update.withdrawn).for_each(|nlri| nlri.path_id = Some(path_id));
    update
}

fn preferred(local_pref: u32) -> Attributes {
    Attributes { local_pref: Some(local_pref), ..attributes(Client) }
}

/// Returns the other end of a session on which several paths are sent in these families.
fn receiver(families: &[Family]) -> Receiver {
    let path_ids = PathIds { receive: of(families), ..PathIds::NONE };
    Receiver { path_ids, ..Receiver::default() }
}

impl Receiver {
    /// Returns the next hops of the paths to a prefix, in order.
    fn hops(&self, text: &str) -> Vec<IpAddr> {
        let to = self.paths.iter().filter(|((to, _), _)| *to == prefix(text));
        let mut hops: Vec<IpAddr> = to.map(|(_, (_, next_hop))| next_hop.address).collect();
        hops.sort();
        hops
    }

    fn id_of(&self, text: &str, hop: &str) -> u32 {
        let mut to = self.paths.iter().filter(|((to, _), _)| *to == prefix(text));
        let found = to.find(|(_, (_, next_hop))| next_hop.address == ip(hop));
        found.map(|((_, id), _)| *id).expect("a path with that next hop")
    }
}

/// Returns tables with peer 1, which sends identifiers, and peer 2, which is sent the best paths only.
fn sender() -> Rib {
    let mut rib = rib();
    rib.peer_up(id(1), several(1, Client, &[V4, V6], &[], 1));
    rib.peer_up(id(2), peer(2, Client));
    rib
}

#[test]
fn several_paths_of_one_peer_are_kept() {
    let mut rib = sender();
    rib.update(id(1), with_id(7, advertise(preferred(100), "10.0.0.11", &[P, Q])));
    rib.update(id(1), with_id(8, advertise(preferred(200), "10.0.0.12", &[P])));
    rib.update(id(1), with_id(8, advertise(preferred(100), "2001:db8::12", &[P6])));
    assert_eq!(rib.counts(id(1)).received, 4, "paths count, not prefixes");
    assert_eq!((rib.received(id(1), V4), rib.received(id(1), V6)), (3, 1));
    let paths = reports(&rib, P);
    let ids: Vec<_> = paths.iter().map(|path| (path.path_id, path.best)).collect();
    assert_eq!(ids, [(Some(8), true), (Some(7), false)]);
    let mut second = receive_all(&mut rib, 2);
    assert_eq!(second.routes[&prefix(P)].1, next_hop("10.0.0.12"));
    // A path with the same identifier is replaced, and the withdrawal of another identifier changes nothing.
    rib.update(id(1), with_id(8, advertise(preferred(50), "10.0.0.13", &[P])));
    rib.update(id(1), with_id(9, withdraw(&[P, Q])));
    rib.update(id(1), withdraw(&[P]));
    second.drain(&mut rib, 2);
    assert_eq!(second.routes[&prefix(P)].1, next_hop("10.0.0.11"));
    rib.update(id(1), with_id(7, withdraw(&[P])));
    second.drain(&mut rib, 2);
    assert_eq!(second.routes[&prefix(P)].1, next_hop("10.0.0.13"));
    assert_eq!(rib.counts(id(1)).received, 3);
    rib.peer_down(id(1), &[]);
    second.drain(&mut rib, 2);
    assert!(second.routes.is_empty());
    rib.peer_down(id(2), &[]);
    assert!(rib.is_empty(), "no source is left");
}

/// Only the identifiers differ: the lower one wins, in any order of arrival.
#[test]
fn identifiers_break_the_last_tie() {
    for order in [[3, 5], [5, 3]] {
        let mut rib = sender();
        for path_id in order {
            rib.update(id(1), with_id(path_id, advertise(attributes(Client), "10.0.0.11", &[P])));
        }
        let paths = reports(&rib, P);
        assert_eq!((paths[0].path_id, paths[0].best), (Some(3), true));
        assert_eq!(paths[0].reason.to_string(), "best: lower path id 3 than 5 via 10.0.0.1");
        assert_eq!(paths[1].reason.to_string(), "higher path id 5 than 3 via 10.0.0.1");
    }
}

#[test]
fn each_path_is_checked_and_kept_by_itself() {
    let mut rib = sender();
    rib.update(id(1), with_id(1, advertise(attributes(Client), "10.0.0.11", &[P])));
    rib.update(id(1), with_id(2, advertise(attributes(Client), LOCAL, &[P])));
    assert_eq!((rib.counts(id(1)).received, rib.counts(id(1)).accepted), (2, 1));
    rib.set_filters(id(1), Filter::nothing(), Filter::All);
    assert_eq!(rib.counts(id(1)).accepted, 0);
    rib.set_filters(id(1), Filter::All, Filter::All);
    assert_eq!(rib.counts(id(1)).accepted, 1);
    // A restart (RFC 4724): all are stale, one is received again, the other is dropped with the End-of-RIB.
    rib.peer_down(id(1), &[V4]);
    assert_eq!(rib.counts(id(1)).stale, 2);
    rib.peer_up(id(1), several(1, Client, &[V4, V6], &[], 1));
    rib.update(id(1), with_id(1, advertise(attributes(Client), "10.0.0.11", &[P])));
    assert_eq!(rib.counts(id(1)).stale, 1);
    rib.drop_stale(id(1), Some(V4));
    assert_eq!(rib.counts(id(1)).received, 1);
    // An enhanced refresh (RFC 7313).
    rib.update(id(1), with_id(2, advertise(attributes(Client), "10.0.0.12", &[P])));
    rib.mark_stale(id(1), V4);
    rib.update(id(1), with_id(2, advertise(attributes(Client), "10.0.0.12", &[P])));
    rib.drop_stale(id(1), Some(V4));
    assert_eq!(reports(&rib, P).iter().map(|path| path.path_id).collect::<Vec<_>>(), [Some(2)]);
}

/// A peer comes back without identifiers: its stale paths with identifiers are dropped with its End-of-RIB.
#[test]
fn a_peer_may_come_back_without_identifiers() {
    let mut rib = sender();
    rib.update(id(1), with_id(1, advertise(attributes(Client), "10.0.0.11", &[P, Q])));
    rib.peer_down(id(1), &[V4]);
    rib.peer_up(id(1), peer(1, Client));
    rib.update(id(1), advertise(attributes(Client), "10.0.0.11", &[P]));
    assert_eq!(reports(&rib, P).iter().map(|path| path.path_id).collect::<Vec<_>>(), [None, Some(1)]);
    rib.update(id(1), withdraw(&[P]));
    assert_eq!((rib.counts(id(1)).received, rib.counts(id(1)).stale), (2, 2), "stale paths are counted");
    rib.drop_stale(id(1), None);
    assert!(rib.paths().is_empty());
}

/// Returns tables with `P` from peers 1 to 3, in order of preference, and peer 4, which was sent two paths in IPv4.
fn two_paths() -> (Rib, Receiver) {
    let mut rib = rib_with(&[Client, Client, Client]);
    rib.peer_up(id(4), several(4, Client, &[], &[V4], 2));
    for n in 1..=3_u8 {
        rib.update(id(n), advertise(preferred(400 - u32::from(n)), &format!("10.0.0.{n}"), &[P]));
    }
    let mut fourth = receiver(&[V4]);
    fourth.drain(&mut rib, 4);
    (rib, fourth)
}

#[test]
fn the_best_paths_are_advertised() {
    let (mut rib, mut fourth) = two_paths();
    assert_eq!(fourth.hops(P), [ip("10.0.0.1"), ip("10.0.0.2")]);
    assert_eq!((rib.counts(id(4)).advertised, rib.counts(id(1)).advertised), (2, 0));
    let (first, second) = (fourth.id_of(P, "10.0.0.1"), fourth.id_of(P, "10.0.0.2"));
    rib.take_changed();
    rib.take_others_changed();
    // A path that is not the best is withdrawn: the third takes its place, the first is not sent again.
    let advertised = fourth.advertised;
    rib.update(id(2), withdraw(&[P]));
    assert!(!rib.take_changed() && rib.take_others_changed());
    fourth.drain(&mut rib, 4);
    assert_eq!(fourth.hops(P), [ip("10.0.0.1"), ip("10.0.0.3")]);
    assert_eq!((fourth.id_of(P, "10.0.0.1"), fourth.advertised - advertised), (first, 1));
    assert!(!fourth.paths.contains_key(&(prefix(P), second)), "withdrawn by its identifier");
    // The other peers are sent the best path.
    assert_eq!(receive_all(&mut rib, 2).routes[&prefix(P)].1, next_hop("10.0.0.1"));
    // A third path is not advertised.
    rib.update(id(2), advertise(preferred(1), "10.0.0.2", &[P]));
    assert!(!rib.take_others_changed() && !rib.pending(id(4)));
    // Another path becomes the best; the others keep their identifiers.
    let third = fourth.id_of(P, "10.0.0.3");
    rib.update(id(3), advertise(preferred(500), "10.0.0.3", &[P]));
    fourth.drain(&mut rib, 4);
    assert_eq!((fourth.id_of(P, "10.0.0.1"), fourth.id_of(P, "10.0.0.3")), (first, third));
    assert_eq!(fourth.redundant, 0);
}

/// RFC 4456 §6 and split horizon, for each path.
#[test]
fn rules_hold_for_each_path() {
    let mut rib = rib_with(&[Client, Internal, Internal]);
    let both = several(4, Internal, &[V4], &[V4], 9);
    let receiving = several(5, Client, &[], &[V4], 9);
    rib.peer_up(id(4), both);
    rib.peer_up(id(5), receiving);
    rib.peer_up(id(6), several(6, External, &[], &[V4], 9));
    rib.set_networks(&[network(P, Some("10.0.0.99"))]);
    for n in 1..=3_u8 {
        rib.update(id(n), advertise(preferred(u32::from(n)), &format!("10.0.0.{n}"), &[P]));
    }
    for path_id in [1, 2] {
        let hop = format!("10.0.0.4{path_id}");
        rib.update(id(4), with_id(path_id, advertise(preferred(path_id), &hop, &[P])));
    }
    let (mut fourth, mut fifth, mut sixth) = (receiver(&[V4]), receiver(&[V4]), receiver(&[V4]));
    fourth.drain(&mut rib, 4);
    fifth.drain(&mut rib, 5);
    sixth.drain(&mut rib, 6);
    assert_eq!(fourth.hops(P), [ip("10.0.0.1"), ip("10.0.0.99")], "ours and the client's, not its own");
    let all = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.41", "10.0.0.42", "10.0.0.99"];
    assert_eq!(fifth.hops(P), all.map(ip));
    assert_eq!(sixth.hops(P).len(), 6, "to external peers we are the next hop of all");
    let reflected = &fifth.paths[&(prefix(P), fifth.id_of(P, "10.0.0.42"))].0;
    assert_eq!(reflected.originator_id, Some(ip4("10.0.0.4")));
}

/// Members of such a group share messages, and one that falls behind or joins late ends up with the same paths.
#[test]
fn members_share_and_catch_up() {
    let mut rib = sender();
    for n in [3, 4] {
        rib.peer_up(id(n), several(n, Client, &[], &[V4], 2));
    }
    let mut receivers = [receiver(&[V4]), receiver(&[V4]), receiver(&[V4])];
    let change = |rib: &mut Rib, n: u32| {
        let update =
            advertise(preferred(n), &format!("10.0.0.{}", 20 + n % 3), &[&format!("10.{}.0.0/16", n % 20)]);
        rib.update(id(1), with_id(n % 3, update));
    };
    for n in 0..300 {
        change(&mut rib, n);
        receivers[0].drain(&mut rib, 3);
    }
    rib.update(id(1), with_id(1, withdraw(&["10.7.0.0/16"])));
    rib.peer_up(id(5), several(5, Client, &[], &[V4], 2));
    for (receiver, n) in receivers.iter_mut().zip([3, 4, 5]) {
        receiver.drain(&mut rib, n);
    }
    let [third, fourth, fifth] = &receivers;
    assert_eq!(third.paths.len(), 40);
    assert!(third.paths == fourth.paths && fourth.paths == fifth.paths);
    assert!(fourth.advertised == 40 && third.redundant + fourth.redundant + fifth.redundant == 0);
}

#[test]
fn filters_and_refreshes_apply_to_several_paths() {
    let (mut rib, mut fourth) = two_paths();
    rib.update(id(1), advertise(preferred(1), "10.0.0.1", &[Q]));
    fourth.drain(&mut rib, 4);
    assert_eq!(fourth.advertised, 3);
    // RFC 2918 §4
    rib.refresh(id(4), V4);
    fourth.drain(&mut rib, 4);
    assert_eq!((fourth.advertised, fourth.redundant), (6, 3));
    // To another group and back, with the state of the member.
    let only = |text| {
        let range = crate::config::PrefixRange { within: prefix(text), max_length: 32 };
        Filter::Only(vec![range])
    };
    rib.set_filters(id(4), Filter::All, only(Q));
    fourth.drain(&mut rib, 4);
    assert_eq!((fourth.paths.len(), fourth.withdrawn), (1, 2));
    rib.set_filters(id(4), Filter::All, only(P));
    rib.set_filters(id(4), Filter::All, Filter::All);
    fourth.drain(&mut rib, 4);
    assert_eq!((fourth.paths.len(), fourth.advertised), (3, 8));
    assert_eq!((fourth.withdrawn, fourth.redundant), (2, 3));
}

/// RFC 4271 §9.2: a path that does not fit is withheld, and the next one is advertised instead.
#[test]
fn the_next_path_replaces_one_that_is_too_large() {
    let (mut rib, mut fourth) = two_paths();
    let long = Attributes { communities: (0..1015).collect(), ..preferred(999) };
    rib.update(id(3), advertise(long, "10.0.0.3", &[P]));
    fourth.drain(&mut rib, 4);
    assert_eq!(fourth.hops(P), [ip("10.0.0.1"), ip("10.0.0.2")]);
    let withheld = rib.withheld(id(4));
    assert!(withheld.len() == 1 && withheld[0].reason.to_string().starts_with("too large"), "{withheld:?}");
    rib.update(id(3), withdraw(&[P]));
    assert!(rib.withheld(id(4)).is_empty());
}
