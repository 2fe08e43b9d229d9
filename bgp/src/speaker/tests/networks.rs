//! The attributes of originated networks.

use super::*;
use crate::policy::Community;
use crate::wire::{ExtendedCommunity, LargeCommunity};

const THEIRS: u32 = 64600;

fn external(n: u8) -> Neighbor {
    Neighbor { asn: THEIRS, ..neighbor(n) }
}

/// Returns the attributes that a neighbor has received for a prefix.
fn received(play: &mut Play, conn: ConnId, wanted: Prefix) -> Vec<Attributes> {
    let updates = play.updates(conn).into_iter();
    let reaches =
        |update: &Update| update.reach.iter().any(|r| r.prefixes.iter().any(|p| p.prefix == wanted));
    updates.filter(reaches).filter_map(|update| update.attributes).collect()
}

#[test]
fn attributes_are_advertised_and_change_live() {
    let extended = ExtendedCommunity([0, 2, 0xfc, 0, 0, 0, 0, 1]);
    let large = LargeCommunity { global: ASN, local1: 1, local2: 2 };
    let communities = [
        Community::Large(large),
        Community::Standard(9),
        Community::Extended(extended),
        Community::Standard(7),
        Community::Standard(9),
    ];
    let network = Network::new(prefix(1)).communities(communities).med(50).local_pref(200);
    let base = config(vec![neighbor(1), external(2)]).networks([network.clone(), Network::new(prefix(2))]);
    let mut play = Play::new(base.clone());
    let (internal, external) = (play.up(1), play.up_with(2, Play::open(2, THEIRS)));
    let expected = Attributes {
        med: Some(50),
        local_pref: Some(200),
        communities: vec![7, 9].into(),
        extended_communities: vec![extended].into(),
        large_communities: vec![large].into(),
        ..Attributes::local()
    };
    assert_eq!(received(&mut play, internal, prefix(1)), [expected]);
    let seen = received(&mut play, external, prefix(1));
    // RFC 4271 §5.1.5: LOCAL_PREF stays inside the AS. The MED of an originated network leaves it.
    let attributes =
        |a: &Attributes| (a.med, a.local_pref, a.communities.to_vec(), a.large_communities.to_vec());
    assert_eq!(seen.iter().map(attributes).collect::<Vec<_>>(), [(Some(50), None, vec![7, 9], vec![large])]);

    // A change is advertised without a new session, and nothing else is.
    let changed = network.communities([Community::Standard(8)]).med(None);
    play.set(base.networks([changed, Network::new(prefix(2))]));
    let updates = play.updates(internal);
    assert_eq!(updates.iter().flat_map(|u| &u.reach).flat_map(|r| &r.prefixes).count(), 1);
    let sent = updates[0].attributes.as_ref().expect("a reach");
    assert_eq!((sent.med, sent.local_pref, &sent.communities[..]), (None, Some(200), &[8][..]));
    assert_eq!(received(&mut play, external, prefix(1)).len(), 1);
    assert_eq!(play.state(1), SessionState::Established);
}

/// RFC 1997: a network with NO_EXPORT stays inside the AS, and one with NO_ADVERTISE is not advertised.
#[test]
fn well_known_communities_apply_to_originated_networks() {
    const NO_EXPORT: u32 = 0xffff_ff01;
    const NO_ADVERTISE: u32 = 0xffff_ff02;
    let with = |n, community| Network::new(prefix(n)).communities([Community::Standard(community)]);
    let networks = [with(1, NO_EXPORT), with(2, NO_ADVERTISE)];
    let mut play = Play::new(config(vec![neighbor(1), external(2)]).networks(networks));
    let (internal, external) = (play.up(1), play.up_with(2, Play::open(2, THEIRS)));
    let mut prefixes = |conn| -> Vec<Prefix> {
        let reaches = play.updates(conn).into_iter().flat_map(|update| update.reach);
        reaches.flat_map(|reach| reach.prefixes).map(|nlri| nlri.prefix).collect()
    };
    assert_eq!(prefixes(internal), [prefix(1)]);
    assert_eq!(prefixes(external), []);
}

#[test]
fn invalid_networks_are_rejected() {
    let v6: Prefix = "2001:db8::/32".parse().expect("a prefix");
    let many = |count| Network::new(prefix(1)).communities((0..count).map(Community::Standard));
    for (network, problem) in [
        (
            Network::new(prefix(1)).next_hop(IpAddr::from([0, 0, 0, 0])),
            "network 10.0.1.0/24: the next hop 0.0.0.0",
        ),
        (Network::new(prefix(1)).next_hop(IpAddr::from([224, 0, 0, 5])), "the next hop 224.0.0.5"),
        (Network::new(v6).next_hop(address(1)), "must be an IPv6 address"),
        (many(769), "its communities take 3076 octets"),
        (Network::new("224.0.0.0/4".parse().expect("a prefix")), "224.0.0.0/4: it is not a unicast prefix"),
        (Network::new("fe80::/64".parse().expect("a prefix")), "every peer ignores it"),
    ] {
        let error = config(Vec::new()).networks([network]).validate().expect_err("invalid").to_string();
        assert!(error.contains(problem), "{error}");
    }
    let next_hop = IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]);
    for network in [many(768), Network::new(prefix(1)).next_hop(next_hop)] {
        config(Vec::new()).networks([network]).validate().expect("valid");
    }
}
