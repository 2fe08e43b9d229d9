//! Next hops: those that are rejected on import, and those that export advertises in each mode.

use NextHopMode::{Automatic, OwnAddress, Unchanged};
use PeerKind::{Client, External, Internal};

use super::*;
use crate::policy::{Action, Modification, Policy, Rule};
use crate::report::RejectReason;

const P4: &str = "10.1.0.0/16";
const P6: &str = "2001:db8:1::/48";
const LOCAL6: &str = "2001:db8::fe";
const HOP4: &str = "192.0.2.1";
const HOP6: &str = "2001:db8::1";

/// A peer on a session from `local`, whose codec permits RFC 8950.
fn peer_at(local: &str, n: u8, kind: PeerKind) -> Peer {
    let usual = peer(n, kind);
    let codec = Codec { extended_next_hop: true, ..usual.codec };
    Peer { local_address: ip(local), codec, ..usual }
}

/// Returns why the route of peer 1, on a session from `local`, is rejected. A rejected route is not advertised.
fn rejected(local: &str, via: &str, text: &str) -> Option<RejectReason> {
    let mut rib = rib();
    rib.peer_up(id(1), peer_at(local, 1, Internal));
    rib.peer_up(id(2), peer_at(local, 2, Client));
    rib.update(id(1), advertise(attributes(Internal), via, &[text]));
    let reason = report(&rib, text, 1).reason.rejection().map(|rejection| rejection.reason());
    assert_eq!(rib.pending(id(2)), reason.is_none(), "{text} via {via}");
    assert_eq!(rib.best_routes().is_empty(), reason.is_some(), "{text} via {via}");
    reason
}

/// RFC 4271 §5.1.3, §6.3; RFC 8950 for IPv4 prefixes with IPv6 next hops.
#[test]
fn next_hops_that_are_no_hosts_are_rejected() {
    let invalid = Some(RejectReason::NextHopInvalid);
    for via in ["0.0.0.0", "0.1.2.3", "127.0.0.1", "127.9.9.9", "224.0.0.5", "240.0.0.1", "255.255.255.255"] {
        assert_eq!(rejected(LOCAL, via, P4), invalid, "{via}");
    }
    for via in ["::", "::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:0.0.0.0"] {
        for text in [P4, P6] {
            assert_eq!(rejected(LOCAL6, via, text), invalid, "{text} via {via}");
        }
    }
    assert_eq!(rejected(LOCAL, "192.0.2.1", P6), invalid, "an IPv4 next hop of an IPv6 prefix");
    for via in ["192.0.2.1", "169.254.0.1", "2001:db8::1", "fe80::1", "::ffff:192.0.2.1"] {
        assert_eq!(rejected(LOCAL, via, P4), None, "{via}");
    }
    for via in ["2001:db8::1", "fe80::1", "::ffff:192.0.2.1"] {
        assert_eq!(rejected(LOCAL6, via, P6), None, "{via}");
    }
}

#[test]
fn our_address_on_the_session_is_rejected() {
    let ours = Some(RejectReason::NextHopOurs);
    for (local, via, text) in [
        (LOCAL, LOCAL, P4),
        (LOCAL, "::ffff:10.0.0.254", P4),
        (LOCAL, "::ffff:10.0.0.254", P6),
        (LOCAL6, LOCAL6, P4),
        (LOCAL6, LOCAL6, P6),
        ("127.0.0.1", "127.0.0.1", P4),
    ] {
        assert_eq!(rejected(local, via, text), ours, "{text} via {via}");
    }
}

/// Speakers on one host use loopback addresses as next hops.
#[test]
fn loopback_next_hops_are_accepted_on_sessions_over_the_loopback() {
    assert_eq!(rejected("127.0.0.1", "127.0.0.2", P4), None);
    assert_eq!(rejected("::1", "127.0.0.2", P4), None);
    assert_eq!(rejected("127.0.0.1", "0.0.0.0", P4), Some(RejectReason::NextHopInvalid));
}

/// RFC 4271 §6.3: such a prefix is ignored, whatever the filter is, and the others of the UPDATE are used.
#[test]
fn prefixes_that_are_not_unicast_are_rejected() {
    for policy in [false, true] {
        let accept = Filter::Rules(Policy::new(vec![], Action::Accept).expect("valid"));
        let import = if policy { accept } else { Filter::All };
        let mut rib = rib();
        rib.peer_up(id(1), Peer { import: import.clone(), ..peer_at(LOCAL6, 1, External) });
        rib.peer_up(id(2), peer_at(LOCAL6, 2, Client));
        let bad4 = ["224.0.0.0/4", "224.1.2.0/24", "240.0.0.0/8", "127.0.0.0/8", "0.0.0.0/8"];
        let bad6 = ["ff00::/8", "ff02::1/128", "fe80::/64", "::1/128", "::ffff:0:0/96"];
        rib.update(id(1), advertise(attributes(External), HOP6, &[&bad4[..], &[P4, "0.0.0.0/0"]].concat()));
        rib.update(id(1), advertise(attributes(External), HOP6, &[&bad6[..], &[P6, "::/0"]].concat()));
        let mut receiver = Receiver::default();
        receiver.drain(&mut rib, 2);
        let expected = ["0.0.0.0/0", P4, "::/0", P6].map(prefix);
        assert_eq!(receiver.routes.keys().copied().collect::<Vec<_>>(), expected);
        for text in bad4.into_iter().chain(bad6) {
            let reason = report(&rib, text, 1).reason;
            let rejection = reason.rejection().map(|rejection| rejection.reason());
            assert_eq!(rejection, Some(RejectReason::PrefixNotUnicast), "{text}");
            assert_eq!(reason.to_string(), format!("{} is not a unicast prefix", prefix(text)));
        }
        // Another check of all paths, as after a change of the filter, gives the same.
        rib.set_identity(Identity { cluster_id: ip4("7.7.7.7"), ..identity() });
        assert_eq!(rib.counts(id(1)).accepted, expected.len());
        assert_eq!(rib.counts(id(1)).received, expected.len() + bad4.len() + bad6.len());
    }
}

/// Peer 1 of kind `from`, or nobody for an originated path; the next hops that peer 2 gets in a mode, by family.
fn advertised(from: Option<PeerKind>, to: PeerKind, mode: NextHopMode, export: Filter) -> Vec<NextHop> {
    let mut rib = rib();
    if let Some(from) = from {
        rib.peer_up(id(1), peer_at(LOCAL6, 1, from));
        rib.update(id(1), advertise(attributes(from), HOP4, &[P4]));
        rib.update(id(1), advertise(attributes(from), HOP6, &[P6]));
    } else {
        rib.set_networks(&[network(P4, Some(HOP4)), network(P6, Some(HOP6))]);
    }
    rib.peer_up(id(2), Peer { next_hop_mode: mode, export, ..peer_at(LOCAL6, 2, to) });
    let mut receiver = Receiver::default();
    receiver.drain(&mut rib, 2);
    receiver.routes.values().map(|(_, next_hop)| *next_hop).collect()
}

/// The table in the documentation of [`NextHopMode`].
#[test]
fn each_mode_advertises_the_next_hop_of_the_documented_table() {
    let (path, ours) = ([HOP4, HOP6].map(next_hop), [LOCAL6, LOCAL6].map(next_hop));
    for to in [Internal, Client] {
        for (from, automatic, own_address) in
            [(None, path, ours), (Some(External), ours, ours), (Some(Client), path, path)]
        {
            assert_eq!(advertised(from, to, Automatic, Filter::All), automatic, "{from:?} to {to:?}");
            assert_eq!(advertised(from, to, OwnAddress, Filter::All), own_address, "{from:?} to {to:?}");
            assert_eq!(advertised(from, to, Unchanged, Filter::All), path, "{from:?} to {to:?}");
        }
    }
    for from in [Some(External), Some(Client), Some(Internal)] {
        assert_eq!(advertised(from, External, Automatic, Filter::All), ours, "{from:?}");
        assert_eq!(advertised(from, External, OwnAddress, Filter::All), ours, "{from:?}");
        assert_eq!(advertised(from, External, Unchanged, Filter::All), path, "{from:?}");
    }
    assert_eq!(advertised(None, External, Automatic, Filter::All), path);
    assert_eq!(advertised(None, External, OwnAddress, Filter::All), ours);
    assert_eq!(advertised(None, External, Unchanged, Filter::All), path);
}

/// A rule's NextHopSelf takes precedence over every mode, for reflected paths too.
#[test]
fn next_hop_self_of_a_rule_takes_precedence() {
    let rule = Rule { modifications: vec![Modification::NextHopSelf], ..Rule::default() };
    let export = Filter::Rules(Policy::new(vec![rule], Action::Accept).expect("valid"));
    for from in [None, Some(External), Some(Client)] {
        for to in [Client, External] {
            for mode in [Automatic, OwnAddress, Unchanged] {
                let next_hops = advertised(from, to, mode, export.clone());
                assert_eq!(next_hops, [LOCAL6, LOCAL6].map(next_hop), "{from:?} to {to:?}, {mode:?}");
            }
        }
    }
}

/// A change of the mode advertises again the routes whose next hop changes, and no others.
#[test]
fn the_mode_changes_live() {
    let mut rib = rib();
    rib.peer_up(id(1), peer_at(LOCAL6, 1, External));
    rib.peer_up(id(3), peer_at(LOCAL6, 3, Client));
    for n in [2, 4] {
        rib.peer_up(id(n), peer_at(LOCAL6, n, Client));
    }
    rib.update(id(1), advertise(attributes(External), HOP6, &[P6]));
    rib.update(id(3), advertise(attributes(Client), HOP4, &[P4]));
    let mut receivers = [2, 4].map(|n| (n, Receiver::default()));
    for (n, receiver) in &mut receivers {
        receiver.drain(&mut rib, *n);
        assert_eq!(receiver.routes[&prefix(P6)].1, next_hop(LOCAL6));
    }
    rib.set_next_hop_mode(id(2), Unchanged);
    for (n, receiver) in &mut receivers {
        let before = receiver.advertised;
        receiver.drain(&mut rib, *n);
        let expected = if *n == 2 { (HOP6, 1) } else { (LOCAL6, 0) };
        assert_eq!(
            (receiver.routes[&prefix(P6)].1, receiver.advertised - before),
            (next_hop(expected.0), expected.1)
        );
        assert_eq!((receiver.withdrawn, receiver.redundant), (0, 0));
    }
}

/// A next hop that the session cannot carry withholds the route, and a link-local one is not passed on.
#[test]
fn unchanged_next_hops_need_a_session_that_can_carry_them() {
    let mut rib = rib();
    rib.peer_up(id(1), peer_at(LOCAL, 1, External));
    rib.peer_up(id(2), Peer { next_hop_mode: Unchanged, ..peer(2, External) });
    rib.update(id(1), advertise(attributes(External), HOP6, &[P4]));
    rib.update(id(1), advertise(attributes(External), HOP6, &[P6]));
    let mut receiver = Receiver::default();
    receiver.drain(&mut rib, 2);
    assert_eq!(receiver.routes.keys().copied().collect::<Vec<_>>(), [prefix(P6)], "without RFC 8950");
    assert_eq!(rib.withheld(id(2)).len(), 1);
    rib.update(id(1), advertise(attributes(External), "fe80::1", &[P4]));
    receiver.drain(&mut rib, 2);
    assert_eq!(receiver.routes[&prefix(P4)].1, next_hop(LOCAL));
}

/// FRR #5281: a link-local next hop is advertised to no peer, as its link may be another one (RFC 2545 §3). Our own address
/// takes its place if it is of a fitting family.
#[test]
fn link_local_next_hops_of_learned_paths_stay_on_their_link() {
    for (from, to) in [(Client, Client), (External, Client), (Client, External), (External, External)] {
        for mode in [Automatic, OwnAddress, Unchanged] {
            for (local, expected) in [(LOCAL6, Some(next_hop(LOCAL6))), (LOCAL, None)] {
                let mut rib = rib();
                rib.peer_up(id(1), peer_at(LOCAL6, 1, from));
                rib.peer_up(id(2), Peer { next_hop_mode: mode, ..peer_at(local, 2, to) });
                let via =
                    NextHop { address: ip("fe80::1"), link_local: Some("fe80::1".parse().expect("one")) };
                let mut update = advertise(attributes(from), "fe80::1", &[P6]);
                update.reach[0].next_hop = via;
                rib.update(id(1), update);
                assert!(!rib.best_routes().is_empty());
                let mut receiver = Receiver::default();
                receiver.drain(&mut rib, 2);
                let advertised = receiver.routes.get(&prefix(P6)).map(|(_, next_hop)| *next_hop);
                assert_eq!(advertised, expected, "{from:?} to {to:?}, {mode:?}, {local}");
                assert_eq!(rib.withheld(id(2)).len(), usize::from(expected.is_none()));
            }
        }
    }
}
