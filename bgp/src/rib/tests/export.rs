//! The export: which paths are advertised to which peers, and with which changes.

use PeerKind::{Client, External, Internal};

use super::*;
use crate::config::PrefixRange;
use crate::wire::Unknown;

const P: &str = "10.1.0.0/16";

/// Returns what peer 2 of kind `to` receives of a route from peer 1 of kind `from`.
fn exported(from: PeerKind, to: PeerKind, sent: Attributes) -> Option<(Attributes, NextHop)> {
    let mut rib = rib_with(&[from, to]);
    rib.update(id(1), advertise(sent, "10.0.0.1", &[P]));
    assert!(!rib.pending(id(1)), "never back to the peer that it was learned from");
    receive_all(&mut rib, 2).routes.remove(&prefix(P))
}

/// RFC 4456 §6 and RFC 4271 §9.2.1 in one table.
#[test]
fn paths_are_advertised_by_kind_of_peer() {
    let table = [
        (External, Internal, true),
        (External, Client, true),
        (External, External, true),
        (Client, Internal, true),
        (Client, Client, true),
        (Client, External, true),
        (Internal, Internal, false),
        (Internal, Client, true),
        (Internal, External, true),
    ];
    for (from, to, expected) in table {
        let advertised = exported(from, to, attributes(from)).is_some();
        assert_eq!(advertised, expected, "from {from:?} to {to:?}");
    }
}

/// RFC 4456 §8, §10.
#[test]
fn reflection_adds_originator_and_cluster_and_nothing_else() {
    let sent = Attributes { med: Some(5), local_pref: Some(77), ..attributes(Client) };
    for (from, to) in [(Client, Client), (Client, Internal), (Internal, Client)] {
        let (advertised, hop) = exported(from, to, sent.clone()).expect("reflected");
        let expected = Attributes {
            originator_id: Some(ip4("10.0.0.1")),
            cluster_list: vec![identity().cluster_id].into(),
            ..sent.clone()
        };
        assert_eq!((advertised, hop), (expected, next_hop("10.0.0.1")));
    }
    let again = Attributes {
        originator_id: Some(ip4("3.3.3.3")),
        cluster_list: vec![ip4("2.2.2.2")].into(),
        ..attributes(Internal)
    };
    let (advertised, _) = exported(Internal, Client, again).expect("reflected");
    assert_eq!(advertised.originator_id, Some(ip4("3.3.3.3")), "set once, by the first reflector");
    assert_eq!(advertised.cluster_list, [identity().cluster_id, ip4("2.2.2.2")]);
}

/// RFC 4271 §5.1.5: LOCAL_PREF is mandatory inside the AS. The next hop is ours: see module `export`.
#[test]
fn external_paths_enter_with_local_pref_and_our_next_hop() {
    for to in [Internal, Client] {
        let sent = Attributes { med: Some(5), local_pref: Some(9), ..attributes(External) };
        let (advertised, hop) = exported(External, to, sent).expect("advertised");
        let expected = Attributes { med: Some(5), local_pref: Some(100), ..attributes(External) };
        assert_eq!((advertised, hop), (expected, next_hop(LOCAL)), "not reflected, so no CLUSTER_LIST");
    }
}

/// RFC 4271 §5.1.2, §5.1.3, §5.1.5, RFC 4456 §8.
#[test]
fn paths_leave_with_our_as_and_without_internal_attributes() {
    let sent = Attributes {
        local_pref: Some(300),
        originator_id: Some(ip4("3.3.3.3")),
        cluster_list: vec![ip4("2.2.2.2")].into(),
        ..attributes(Internal)
    };
    let (advertised, hop) = exported(Internal, External, sent).expect("advertised");
    let expected = Attributes { as_path: sequence(&[OURS]), ..Attributes::local() };
    assert_eq!((advertised, hop), (expected, next_hop(LOCAL)));
}

/// RFC 4271 §5.1.2 b.
#[test]
fn our_as_goes_before_a_set_and_before_a_full_segment() {
    let set = AsPath(vec![Segment::Set(vec![1, 2])]);
    let (advertised, _) = exported(Internal, External, Attributes { as_path: set, ..attributes(Internal) })
        .expect("advertised");
    let expected = vec![Segment::Sequence(vec![OURS]), Segment::Set(vec![1, 2])];
    assert_eq!(advertised.as_path.0, expected);
    let full = Attributes { as_path: sequence(&[7; 255]), ..attributes(Internal) };
    let (advertised, _) = exported(Internal, External, full).expect("advertised");
    assert_eq!(advertised.as_path.0, [Segment::Sequence(vec![OURS]), Segment::Sequence(vec![7; 255])]);
}

/// RFC 4271 §5.1.4: a MED from a neighboring AS is not advertised to another; one from our AS is.
#[test]
fn med_does_not_travel_from_one_neighboring_as_to_another() {
    let med = |as_path| Attributes { as_path, med: Some(5), ..attributes(Internal) };
    let exported_med = |attributes| exported(Internal, External, attributes).expect("advertised").0.med;
    assert_eq!(exported_med(med(sequence(&[THEIRS]))), None);
    assert_eq!(exported_med(med(sequence(&[]))), Some(5));
}

/// RFC 1997.
#[test]
fn well_known_communities_are_obeyed() {
    let with = |community| Attributes { communities: vec![community].into(), ..attributes(Client) };
    for (community, inside, outside) in [
        (0xFFFF_FF01, true, false),
        (0xFFFF_FF02, false, false),
        (0xFFFF_FF03, true, false),
        (0xFFFF_0001, true, true),
    ] {
        assert_eq!(exported(Client, Client, with(community)).is_some(), inside, "{community:x}");
        assert_eq!(exported(Client, External, with(community)).is_some(), outside, "{community:x}");
    }
}

/// RFC 4271 §5: unknown attributes are passed on, marked as partial.
#[test]
fn unknown_transitive_attributes_are_passed_on() {
    let unknown = |flags| Unknown { flags, code: 99, value: vec![1, 2, 3].into() };
    let sent = Attributes { unknown: vec![unknown(0xC0)].into(), ..attributes(Client) };
    for to in [Client, Internal, External] {
        let (advertised, _) = exported(Client, to, sent.clone()).expect("advertised");
        assert_eq!(advertised.unknown, [unknown(0xE0)]);
    }
}

/// RFC 8212 for export; and a changed filter withdraws and advertises no more than needed.
#[test]
fn export_filters_change_live() {
    let only = |text, max_length| Filter::Only(vec![PrefixRange { within: prefix(text), max_length }]);
    let mut rib = rib();
    rib.peer_up(id(1), Peer { export: Filter::nothing(), ..peer(1, External) });
    rib.set_networks(&[network(P, None), network("10.2.0.0/24", None), network("10.2.0.0/16", None)]);
    assert!(!rib.pending(id(1)));
    let mut receiver = Receiver::default();
    rib.set_filters(id(1), Filter::All, only("10.2.0.0/16", 16));
    receiver.drain(&mut rib, 1);
    assert_eq!(receiver.routes.keys().copied().collect::<Vec<_>>(), [prefix("10.2.0.0/16")]);
    rib.set_filters(id(1), Filter::All, only("10.2.0.0/16", 24));
    receiver.drain(&mut rib, 1);
    assert_eq!((receiver.advertised, receiver.withdrawn), (2, 0));
    rib.set_filters(id(1), Filter::All, only(P, 16));
    receiver.drain(&mut rib, 1);
    assert_eq!(receiver.routes.keys().copied().collect::<Vec<_>>(), [prefix(P)]);
    assert_eq!((receiver.withdrawn, receiver.redundant), (2, 0));
}

/// A withdrawal that is pending when the filter changes is sent, though nothing else refers to the prefix.
#[test]
fn a_filter_change_keeps_pending_withdrawals() {
    let mut rib = rib_with(&[Client, Client]);
    rib.update(id(1), advertise(attributes(Client), "10.0.0.1", &[P]));
    let mut receiver = receive_all(&mut rib, 2);
    rib.update(id(1), withdraw(&[P]));
    rib.end_of_rib(id(2), V4);
    rib.set_filters(id(2), Filter::All, Filter::nothing());
    receiver.drain(&mut rib, 2);
    assert!(receiver.routes.is_empty());
    assert_eq!((receiver.withdrawn, receiver.ended.len()), (1, 1));
}

#[test]
fn our_networks_have_their_configured_next_hop_or_our_address() {
    let mut rib = rib_with(&[Internal, External]);
    rib.set_networks(&[network(P, None), network("2001:db8:1::/48", Some("2001:db8::9"))]);
    for (n, local_pref, as_path) in [(1, Some(100), sequence(&[])), (2, None, sequence(&[OURS]))] {
        let receiver = receive_all(&mut rib, n);
        let expected = Attributes { local_pref, as_path, ..Attributes::local() };
        assert_eq!(receiver.routes[&prefix(P)], (expected.clone(), next_hop(LOCAL)));
        assert_eq!(receiver.routes[&prefix("2001:db8:1::/48")], (expected, next_hop("2001:db8::9")));
    }
}

/// On a session of the other family our address is no next hop.
#[test]
fn a_route_without_next_hop_is_withheld_with_the_reason() {
    const P6: &str = "2001:db8:1::/48";
    let mut rib = rib_with(&[Client, External, Client]);
    rib.set_networks(&[network("2001:db8:2::/48", None)]);
    rib.update(id(1), advertise(attributes(Client), "2001:db8::1", &[P6]));
    assert_eq!(receive_all(&mut rib, 3).routes[&prefix(P6)].1, next_hop("2001:db8::1"), "reflected as it is");
    assert!(!rib.pending(id(2)));
    let withheld = rib.withheld(id(2));
    assert_eq!(
        withheld.iter().map(|w| w.prefix).collect::<Vec<_>>(),
        [prefix(P6), prefix("2001:db8:2::/48")]
    );
    assert!(
        withheld[0].reason.to_string().contains("our address on the session is 10.0.0.254"),
        "{}",
        withheld[0].reason
    );
    rib.set_networks(&[network("2001:db8:2::/48", Some("2001:db8::9"))]);
    assert_eq!(rib.withheld(id(2)).len(), 1);
    assert_eq!(receive_all(&mut rib, 2).routes.len(), 1);
}

/// RFC 2545 §3: the receiver may not be on the link.
#[test]
fn link_local_next_hops_stay_on_their_link() {
    let mut rib = rib_with(&[Client, Client]);
    let mut update = advertise(attributes(Client), "2001:db8::1", &["2001:db8:1::/48"]);
    update.reach[0].next_hop.link_local = Some("fe80::1".parse().expect("an address"));
    rib.update(id(1), update);
    assert_eq!(receive_all(&mut rib, 2).routes[&prefix("2001:db8:1::/48")].1, next_hop("2001:db8::1"));
}
