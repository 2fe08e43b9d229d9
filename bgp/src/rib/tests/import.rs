//! The checks of received paths.

use PeerKind::{Client, External, Internal};

use super::*;
use crate::config::PrefixRange;
use crate::rib::RejectReason;

const P: &str = "10.1.0.0/16";

/// Returns why `P`, received from a peer of that kind, is rejected.
fn rejection(kind: PeerKind, attributes: Attributes, via: &str) -> (RejectReason, String) {
    let mut rib = rib_with(&[kind, Client]);
    rib.update(id(1), advertise(attributes, via, &[P]));
    assert!(rib.best_routes().is_empty());
    assert!(!rib.pending(id(2)));
    let counts = rib.counts(id(1));
    assert_eq!((counts.received, counts.accepted), (1, 0));
    let reason = report(&rib, P, 1).reason;
    let rejection = reason.rejection().expect("a rejected path");
    (rejection.reason(), rejection.to_string())
}

/// RFC 4271 §9.1.2, for external and internal peers alike.
#[test]
fn our_as_in_the_path_is_a_loop() {
    for kind in [External, Internal] {
        let looped = Attributes { as_path: sequence(&[THEIRS, OURS]), ..attributes(kind) };
        let as_loop = (RejectReason::AsLoop, "AS loop: our AS 64512 in AS_PATH".into());
        assert_eq!(rejection(kind, looped, "10.0.0.1"), as_loop);
    }
    let set = AsPath(vec![Segment::Sequence(vec![THEIRS]), Segment::Set(vec![1, OURS])]);
    let looped = Attributes { as_path: set, ..attributes(External) };
    assert_eq!(rejection(External, looped, "10.0.0.1").0, RejectReason::AsLoop);
}

/// RFC 4456 §8.
#[test]
fn our_router_id_or_cluster_id_is_a_loop() {
    let looped = Attributes { originator_id: Some(identity().router_id), ..attributes(Client) };
    let reason = rejection(Client, looped, "10.0.0.1");
    assert_eq!(reason.0, RejectReason::OriginatorLoop);
    assert_eq!(reason.1, "reflection loop: ORIGINATOR_ID 10.0.0.254 is our router id");
    let list = vec![ip4("1.1.1.1"), identity().cluster_id];
    let looped = Attributes { cluster_list: list.into(), ..attributes(Internal) };
    let reason = rejection(Internal, looped, "10.0.0.1");
    assert_eq!(reason.0, RejectReason::ClusterLoop);
    assert_eq!(reason.1, "reflection loop: our cluster id 10.0.0.253 in CLUSTER_LIST");
}

/// RFC 4271 §6.3.
#[test]
fn an_external_path_begins_with_the_peers_as() {
    let other = Attributes { as_path: sequence(&[1, THEIRS]), ..attributes(External) };
    let reason = rejection(External, other, "10.0.0.1");
    assert_eq!(reason.0, RejectReason::FirstAs);
    assert_eq!(reason.1, "AS_PATH begins with AS 1, not with the peer's AS 64600");
    let empty = Attributes { as_path: sequence(&[]), ..attributes(External) };
    let reason = rejection(External, empty, "10.0.0.1");
    assert_eq!(reason.1, "AS_PATH does not begin with the peer's AS 64600");
}

/// RFC 4271 §5.1.3, §6.3.
#[test]
fn the_next_hop_is_another_host() {
    let reason = rejection(Internal, attributes(Internal), LOCAL);
    assert_eq!(reason, (RejectReason::NextHopOurs, "next hop 10.0.0.254 is our own address".into()));
    for via in ["0.0.0.0", "224.0.0.1", "255.255.255.255", "2001:db8::1"] {
        let reason = rejection(Internal, attributes(Internal), via);
        assert_eq!(reason.0, RejectReason::NextHopInvalid);
        assert!(reason.1.starts_with(&format!("next hop {via} is not a host's address")), "{}", reason.1);
    }
}

/// A path with a loop replaces the path before, which is thereby withdrawn.
#[test]
fn a_rejected_path_replaces_the_one_before() {
    let mut rib = rib_with(&[External, Client]);
    let mut receiver = Receiver::default();
    rib.update(id(1), advertise(attributes(External), "10.0.0.1", &[P]));
    receiver.drain(&mut rib, 2);
    assert_eq!(receiver.routes.len(), 1);
    let looped = Attributes { as_path: sequence(&[THEIRS, OURS]), ..attributes(External) };
    rib.update(id(1), advertise(looped, "10.0.0.1", &[P]));
    receiver.drain(&mut rib, 2);
    assert!(receiver.routes.is_empty() && rib.best_routes().is_empty());
}

/// RFC 4271 §5.1.5, RFC 7606 §7.9, §7.10.
#[test]
fn attributes_for_inside_an_as_are_removed_from_external_paths() {
    let mut rib = rib_with(&[External]);
    let attributes = Attributes {
        local_pref: Some(500),
        originator_id: Some(identity().router_id),
        cluster_list: vec![identity().cluster_id].into(),
        ..attributes(External)
    };
    rib.update(id(1), advertise(attributes, "10.0.0.1", &[P]));
    let report = report(&rib, P, 1);
    assert!(report.best);
    assert_eq!((report.local_pref, report.originator, report.cluster_list.len()), (100, None, 0));
}

/// RFC 8212: routes that are not listed are rejected; and a changed filter needs no refresh.
#[test]
fn filters_change_live() {
    let mut rib = rib();
    rib.peer_up(id(1), Peer { import: Filter::nothing(), ..peer(1, External) });
    rib.update(id(1), advertise(attributes(External), "10.0.0.1", &[P, "10.2.0.0/16"]));
    assert_eq!(report(&rib, P, 1).reason.to_string(), "import filter");
    assert!(!rib.take_changed());
    let range = PrefixRange { within: prefix(P), max_length: 24 };
    rib.set_filters(id(1), Filter::Only(vec![range]), Filter::All);
    assert!(rib.take_changed());
    assert_eq!(rib.best_routes().len(), 1);
    let counts = rib.counts(id(1));
    assert_eq!((counts.received, counts.accepted), (2, 1));
    rib.set_filters(id(1), Filter::nothing(), Filter::All);
    assert!(rib.best_routes().is_empty());
    assert_eq!(rib.counts(id(1)).accepted, 0);
}

/// RFC 4271 §4.3: a prefix that is both withdrawn and advertised is advertised.
#[test]
fn an_advertisement_wins_over_a_withdrawal_in_the_same_message() {
    let mut rib = rib_with(&[Internal]);
    let mut update = advertise(attributes(Internal), "10.0.0.1", &[P]);
    update.withdrawn = vec![prefix(P).into()];
    rib.update(id(1), update);
    assert_eq!(rib.best_routes().len(), 1);
}

#[test]
fn families_that_the_session_does_not_carry_are_ignored() {
    let mut rib = rib();
    rib.peer_up(id(1), Peer { families: vec![V4], ..peer(1, Internal) });
    rib.update(id(1), advertise(attributes(Internal), "2001:db8::1", &["2001:db8:1::/48"]));
    assert_eq!(rib.counts(id(1)).received, 0);
    rib.set_networks(&[network("2001:db8:2::/48", Some("2001:db8::9"))]);
    assert!(!rib.pending(id(1)));
}

/// The identity may change while there are paths.
#[test]
fn a_new_identity_repeats_checks_and_export() {
    let mut rib = rib_with(&[Client, Client]);
    rib.update(id(1), advertise(attributes(Client), "10.0.0.1", &[P]));
    let mut receiver = receive_all(&mut rib, 2);
    rib.set_identity(Identity { cluster_id: ip4("7.7.7.7"), ..identity() });
    receiver.drain(&mut rib, 2);
    assert_eq!(receiver.routes[&prefix(P)].0.cluster_list, [ip4("7.7.7.7")]);
    let looped = Attributes { cluster_list: vec![ip4("6.6.6.6")].into(), ..attributes(Client) };
    rib.update(id(1), advertise(looped, "10.0.0.1", &[P]));
    assert_eq!(rib.best_routes().len(), 1);
    rib.set_identity(Identity { cluster_id: ip4("6.6.6.6"), ..identity() });
    assert!(rib.best_routes().is_empty());
    receiver.drain(&mut rib, 2);
    assert!(receiver.routes.is_empty());
}
