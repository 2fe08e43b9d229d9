//! The decision process, with one test for each step.

use PeerKind::{Client, External, Internal};

use super::*;
use crate::rib::{PathReason, Step};
use crate::wire::Origin;

const P: &str = "10.1.0.0/16";

/// Sends `P` from peers 1 and 2 with these attributes, in both orders. Checks that peer 1 wins by the step, and returns the
/// reason of the path that loses.
fn first_wins(step: Step, one: (PeerKind, Attributes), two: (PeerKind, Attributes)) -> String {
    let both = [(1, one), (2, two)];
    let run = |order: [usize; 2]| {
        let mut rib = rib();
        for at in order {
            let (n, (kind, attributes)) = both[at].clone();
            rib.peer_up(id(n), Peer { asn: attributes_asn(kind, &attributes), ..peer(n, kind) });
            rib.update(id(n), advertise(attributes, &format!("10.0.0.{n}"), &[P]));
        }
        let (first, second) = (report(&rib, P, 1), report(&rib, P, 2));
        assert!(first.best && !second.best, "{} / {}", first.reason, second.reason);
        assert_eq!((first.reason.step(), second.reason.step()), (Some(step), Some(step)));
        assert!(matches!(first.reason, PathReason::Best(_)), "{}", first.reason);
        second.reason.to_string()
    };
    let reason = run([0, 1]);
    assert_eq!(reason, run([1, 0]));
    reason
}

fn attributes_asn(kind: PeerKind, attributes: &Attributes) -> u32 {
    match (kind, attributes.as_path.0.first()) {
        (External, Some(Segment::Sequence(numbers))) => numbers[0],
        (External, _) => THEIRS,
        _ => OURS,
    }
}

fn internal(change: impl FnOnce(&mut Attributes)) -> (PeerKind, Attributes) {
    let mut attributes = attributes(Internal);
    change(&mut attributes);
    (Internal, attributes)
}

#[test]
fn our_own_networks_come_first() {
    let mut rib = rib_with(&[Internal]);
    rib.update(
        id(1),
        advertise(Attributes { local_pref: Some(500), ..attributes(Internal) }, "10.0.0.1", &[P]),
    );
    rib.set_networks(&[network(P, None)]);
    let paths = reports(&rib, P);
    assert_eq!(paths[0].peer, None);
    assert_eq!(paths[0].reason.to_string(), "best: we originate it, before the path via 10.0.0.1");
    assert_eq!(paths[1].reason.to_string(), "we originate the prefix ourselves");
    assert!(rib.best_routes().is_empty());
}

/// RFC 4271 §9.1.1; the default is 100.
#[test]
fn higher_local_pref_wins() {
    let high = internal(|a| {
        a.local_pref = Some(101);
        a.as_path = sequence(&[1, 2, 3]);
    });
    let reason = first_wins(Step::LocalPref, high, internal(|a| a.local_pref = None));
    assert_eq!(reason, "lower LOCAL_PREF 100 < 101 than via 10.0.0.1");
}

/// RFC 4271 §9.1.2.2 a.
#[test]
fn shorter_as_path_wins_and_a_set_counts_once() {
    let set = internal(|a| {
        a.as_path = AsPath(vec![Segment::Sequence(vec![1]), Segment::Set(vec![2, 3, 4])]);
        a.origin = Origin::Incomplete;
    });
    let reason = first_wins(Step::AsPathLength, set, internal(|a| a.as_path = sequence(&[1, 2, 3])));
    assert_eq!(reason, "higher AS path length 3 > 2 than via 10.0.0.1");
}

/// RFC 4271 §9.1.2.2 b.
#[test]
fn lower_origin_wins() {
    let reason =
        first_wins(Step::Origin, internal(|a| a.med = Some(9)), internal(|a| a.origin = Origin::Incomplete));
    assert_eq!(reason, "worse ORIGIN incomplete than IGP via 10.0.0.1");
}

/// RFC 4271 §9.1.2.2 c: a missing MED is the lowest.
#[test]
fn lower_med_wins_within_one_neighboring_as() {
    let med = |med| {
        internal(|a| {
            a.as_path = sequence(&[7]);
            a.med = med;
        })
    };
    let reason = first_wins(Step::Med, med(None), med(Some(1)));
    assert_eq!(reason, "higher MED 1 > 0 than via 10.0.0.1, both from AS 7");
}

/// RFC 4271 §9.1.2.2 c: MEDs from different neighboring ASes are not compared.
#[test]
fn med_is_not_compared_across_neighboring_ases() {
    let from = |asn, med| {
        internal(|a| {
            a.as_path = sequence(&[asn]);
            a.med = Some(med);
        })
    };
    let reason = first_wins(Step::RouterId, from(7, 9), from(8, 1));
    assert_eq!(reason, "higher router id 10.0.0.2 > 10.0.0.1 than via 10.0.0.1");
}

/// RFC 4271 §9.1.2.2 d.
#[test]
fn external_wins_over_internal() {
    let internal = internal(|a| {
        a.as_path = sequence(&[THEIRS]);
        a.originator_id = Some(ip4("1.1.1.1"));
    });
    let external = (External, Attributes { as_path: sequence(&[THEIRS]), ..Attributes::local() });
    let reason = first_wins(Step::External, external, internal);
    assert_eq!(reason, "learned by iBGP, by eBGP via 10.0.0.1");
}

/// RFC 4456 §9: ORIGINATOR_ID takes the place of the BGP Identifier.
#[test]
fn lower_originator_id_or_router_id_wins() {
    let originator = |text| internal(|a| a.originator_id = Some(ip4(text)));
    first_wins(Step::RouterId, internal(|_| ()), internal(|_| ()));
    first_wins(Step::RouterId, originator("10.0.0.1"), originator("10.0.0.9"));
    let reason = first_wins(Step::RouterId, originator("9.0.0.0"), internal(|_| ()));
    assert_eq!(reason, "higher router id 10.0.0.2 > 9.0.0.0 than via 10.0.0.1");
}

/// RFC 4456 §9.
#[test]
fn shorter_cluster_list_wins_then_the_lower_peer_address() {
    let reflected = |count| {
        internal(|a| {
            a.originator_id = Some(ip4("9.9.9.9"));
            a.cluster_list = vec![ip4("8.8.8.8"); count].into();
        })
    };
    let reason = first_wins(Step::ClusterListLength, reflected(1), reflected(2));
    assert_eq!(reason, "higher CLUSTER_LIST length 2 > 1 than via 10.0.0.1");
    let reason = first_wins(Step::PeerAddress, reflected(2), reflected(2));
    assert_eq!(reason, "higher peer address 10.0.0.2 than via 10.0.0.1");
}

/// Pairwise comparison with MED is cyclic here: 1 beats 2 by MED, 2 beats 3 and 3 beats 1 by router id.
#[test]
fn cycles_by_med_do_not_make_the_result_depend_on_the_order() {
    let paths = [(9, 7, 0), (1, 7, 50), (5, 8, 0)];
    let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    for order in orders {
        let mut rib = rib();
        for at in order {
            let (n, asn, med) = paths[at];
            rib.peer_up(id(n), peer(n, Client));
            let (_, attributes) = internal(|a| {
                a.as_path = sequence(&[asn]);
                a.med = Some(med);
            });
            rib.update(id(n), advertise(attributes, "10.9.9.9", &[P]));
        }
        assert!(report(&rib, P, 5).best, "{order:?}");
        assert_eq!(
            report(&rib, P, 1).reason.to_string(),
            "higher MED 50 > 0 than via 10.0.0.9, both from AS 7"
        );
        assert_eq!(
            report(&rib, P, 9).reason.to_string(),
            "higher router id 10.0.0.9 > 10.0.0.5 than via 10.0.0.5"
        );
    }
}

#[test]
fn the_best_path_follows_the_set_of_paths() {
    let mut rib = rib_with(&[Internal, Internal]);
    assert!(!rib.take_changed());
    rib.update(id(2), advertise(attributes(Internal), "10.0.0.2", &[P]));
    assert!(rib.take_changed() && !rib.take_changed());
    rib.update(id(1), advertise(attributes(Internal), "10.0.0.1", &[P]));
    assert!(rib.take_changed());
    assert_eq!(rib.best_routes()[0].peer, ip("10.0.0.1"));
    rib.update(id(2), withdraw(&[P]));
    assert!(!rib.take_changed(), "it was not the best");
    rib.update(id(1), advertise(attributes(Internal), "10.0.0.1", &[P]));
    assert!(!rib.take_changed(), "the same path");
    rib.update(id(1), withdraw(&[P]));
    assert!(rib.take_changed());
    assert!(rib.best_routes().is_empty() && rib.paths().is_empty());
}
