use std::net::Ipv4Addr;

use super::*;
use crate::wire::{
    Aggregator, AsPath, Attributes, ExtendedCommunity, LargeCommunity, NextHop, Origin, Reach, Segment,
    TooLarge, Unknown, Update, encode_attributes, encode_end_of_rib, encode_reach, encode_unreach,
};

fn v4_hop() -> NextHop {
    NextHop { address: "172.20.2.11".parse().unwrap(), link_local: None }
}

fn v6_hop() -> NextHop {
    NextHop { address: "2001:db8::1".parse().unwrap(), link_local: None }
}

fn v4_prefixes(count: u32) -> Vec<Nlri> {
    (0..count).map(|i| Prefix::V4(Ipv4Addr::from_bits(0x0a00_0000 + (i << 8)), 24).into()).collect()
}

fn v6_prefixes(count: u32) -> Vec<Nlri> {
    let base = 0x2001_0db8_u128 << 96;
    (0..count).map(|i| Prefix::V6((base + (u128::from(i) << 64)).into(), 64).into()).collect()
}

/// Returns all messages that advertise `prefixes`.
fn announce(attributes: &Attributes, next_hop: NextHop, prefixes: &[Nlri]) -> BytesMut {
    let mut out = BytesMut::new();
    let block = encode_attributes(attributes, &INTERNAL);
    let mut prefixes = prefixes.iter().copied().peekable();
    while let Some(family) = prefixes.peek().map(|nlri| nlri.prefix.family()) {
        encode_reach(&block, next_hop, family, &mut prefixes, &INTERNAL, &mut out).unwrap();
    }
    out
}

fn lengths(mut bytes: &[u8]) -> Vec<usize> {
    let mut lengths = Vec::new();
    while let [_, .., _] = bytes {
        let length = usize::from(u16::from_be_bytes([bytes[16], bytes[17]]));
        lengths.push(length);
        bytes = &bytes[length..];
    }
    lengths
}

fn full_attributes() -> Attributes {
    Attributes {
        origin: Origin::Incomplete,
        as_path: AsPath(vec![Segment::Sequence(vec![64512, 70000]), Segment::Set(vec![64513])]),
        med: Some(1),
        local_pref: Some(100),
        atomic_aggregate: true,
        aggregator: Some(Aggregator { asn: 70001, address: Ipv4Addr::new(192, 0, 2, 1) }),
        communities: vec![0xfc00_0007, 0xffff_ff01].into(),
        originator_id: Some(Ipv4Addr::new(192, 0, 2, 2)),
        cluster_list: vec![Ipv4Addr::new(192, 0, 2, 3), Ipv4Addr::new(192, 0, 2, 4)].into(),
        extended_communities: vec![ExtendedCommunity([0, 2, 0xfc, 0, 0, 0, 0, 7])].into(),
        large_communities: vec![LargeCommunity { global: 64512, local1: 1, local2: 2 }].into(),
        only_to_customer: Some(64513),
        unknown: vec![
            Unknown { flags: 0xe0, code: 12, value: Bytes::from_static(&[1]) },
            Unknown { flags: 0xc0, code: 99, value: Bytes::from_static(&[7; 300]) },
        ]
        .into(),
    }
}

#[test]
fn attributes_come_in_order_of_type_code() {
    let block = encode_attributes(&full_attributes(), &INTERNAL);
    let expected = hex(
        "400101 02  400210 0202 0000fc00 00011170 0101 0000fc01  800404 00000001  400504 00000064  400600
         c00708 00011171 c0000201  c00808 fc000007 ffffff01  800904 c0000202  800a08 c0000203 c0000204
         e00c01 01  c01008 0002fc0000000007  c0200c 0000fc000000000100000002  c02304 0000fc01  f063012c",
    );
    assert_eq!(block[..expected.len()], expected);
    assert_eq!(block.len(), expected.len() + 300);
}

#[test]
fn old_peers_get_as_trans_and_the_as4_attributes() {
    let block = encode_attributes(&full_attributes(), &OLD);
    let expected = hex("400101 02  40020a 0202 fc00 5ba0 0101 fc01  800404 00000001  400504 00000064  400600
         c00706 5ba0 c0000201  c00808 fc000007 ffffff01  800904 c0000202  800a08 c0000203 c0000204
         e00c01 01  c01008 0002fc0000000007  c01110 0202 0000fc00 00011170 0101 0000fc01  c01208 00011171 c0000201
         c0200c 0000fc000000000100000002  c02304 0000fc01  f063012c");
    assert_eq!(block[..expected.len()], expected);
    // Not if 2 octets are enough (RFC 6793 §4.2.2).
    let block = encode_attributes(&Attributes::local(), &OLD);
    assert_eq!(block[..], hex("400101 00 400200"));
}

#[test]
fn ipv4_goes_into_the_nlri_field_with_next_hop() {
    let attributes = Attributes { local_pref: Some(100), ..Attributes::local() };
    let out = announce(&attributes, v4_hop(), &prefixes(&["10.244.3.0/24", "10.1.0.0/16", "0.0.0.0/0"]));
    let attributes = "400101 00 400200 400304 ac14020b 400504 00000064";
    let body = hex(&format!("0000 0015 {attributes} 18 0af403 10 0a01 00"));
    assert_eq!(out[..], message(2, &body));
}

#[test]
fn ipv6_goes_into_mp_reach_which_comes_first() {
    let out = announce(&Attributes::local(), v6_hop(), &prefixes(&["2001:db8:1::/48"]));
    let mp = "800e1c 0002 01 10 20010db8000000000000000000000001 00 30 20010db80001";
    assert_eq!(out[..], message(2, &hex(&format!("0000 0026 {mp} 400101 00 400200"))));
    let link_local = Some("fe80::1".parse().unwrap());
    let hop = NextHop { link_local, ..v6_hop() };
    let out = announce(&Attributes::local(), hop, &prefixes(&["2001:db8:1::/48"]));
    let Message::Update(update) = read_one(&out, &INTERNAL) else { panic!() };
    assert_eq!(update.reach[0].next_hop, hop);
}

#[test]
fn withdrawals_and_end_of_rib() {
    let mut out = BytesMut::new();
    let mut mixed = prefixes(&["10.1.0.0/16", "2001:db8::/32", "10.2.0.0/16"]).into_iter().peekable();
    encode_unreach(Family::Ipv4Unicast, &mut mixed, &INTERNAL, &mut out);
    assert_eq!(out[..], message(2, &hex("0006 10 0a01 10 0a02 0000")));
    out.clear();
    let mut v6 = prefixes(&["2001:db8::/32"]).into_iter().peekable();
    encode_unreach(Family::Ipv6Unicast, &mut v6, &INTERNAL, &mut out);
    assert_eq!(out[..], message(2, &hex("0000 000b 800f08 0002 01 20 20010db8")));
    out.clear();
    encode_end_of_rib(Family::Ipv4Unicast, &mut out);
    encode_end_of_rib(Family::Ipv6Unicast, &mut out);
    let expected = [message(2, &hex("0000 0000")), message(2, &hex("0000 0006 800f03 0002 01"))].concat();
    assert_eq!(out[..], expected);
}

#[test]
fn no_message_without_prefixes() {
    let mut out = BytesMut::new();
    let block = encode_attributes(&Attributes::local(), &INTERNAL);
    for family in BOTH {
        let mut none = std::iter::empty::<Prefix>().peekable();
        encode_reach(&block, v4_hop(), family, &mut none, &INTERNAL, &mut out).unwrap();
        encode_unreach(family, &mut none, &INTERNAL, &mut out);
    }
    assert!(out.is_empty());
}

#[test]
fn messages_are_filled() {
    // The rest of 4096 octets is too short for a prefix.
    let lengths_v4 = lengths(&announce(&Attributes::local(), v4_hop(), &v4_prefixes(3000)));
    assert_eq!(lengths_v4.len(), 3);
    assert!(lengths_v4[..2].iter().all(|length| (4093..=4096).contains(length)), "{lengths_v4:?}");
    let out = announce(&Attributes::local(), v6_hop(), &v6_prefixes(1000));
    let lengths_v6 = lengths(&out);
    assert!(lengths_v6[..2].iter().all(|length| (4088..=4096).contains(length)), "{lengths_v6:?}");
    let mut reached = Vec::new();
    for message in read(&out, &INTERNAL).unwrap() {
        let Message::Update(update) = message else { panic!() };
        reached.extend(update.reach.into_iter().flat_map(|reach| reach.prefixes));
    }
    assert_eq!(reached, v6_prefixes(1000));
}

#[test]
fn withdrawals_are_filled() {
    for all in [v4_prefixes(3000), v6_prefixes(1000)] {
        let update = Update { withdrawn: all.clone(), ..Update::default() };
        let out = write(&Message::Update(update), &INTERNAL);
        let lengths = lengths(&out);
        assert!(lengths[..lengths.len() - 1].iter().all(|l| (4088..=4096).contains(l)), "{lengths:?}");
        let mut withdrawn = Vec::new();
        for message in read(&out, &INTERNAL).unwrap() {
            let Message::Update(update) = message else { panic!() };
            withdrawn.extend(update.withdrawn);
        }
        assert_eq!(withdrawn, all);
    }
}

/// The value of MP_REACH_NLRI around 255 octets, where its length field grows.
#[test]
fn mp_lengths_are_short_if_possible() {
    for count in 24..30 {
        let out = announce(&Attributes::local(), v6_hop(), &v6_prefixes(count));
        let value = 21 + 9 * count as usize;
        assert_eq!(out[23] & 0x10 != 0, value > 255, "{count}");
        let Message::Update(update) = read_one(&out, &INTERNAL) else { panic!() };
        assert_eq!(update.reach[0].prefixes, v6_prefixes(count));
    }
}

/// FRRouting/frr#18728: a route that fits into no message to the peer crashed the daemon.
#[test]
fn a_route_too_large_is_returned_as_an_error() {
    for (hop, prefixes) in [(v4_hop(), v4_prefixes(2)), (v6_hop(), v6_prefixes(2))] {
        let family = prefixes[0].prefix.family();
        let mut fitted = 0;
        for size in 3950..4096 {
            let value = Bytes::from(vec![0; size]);
            let unknown = vec![Unknown { flags: 0xe0, code: 99, value }];
            let block =
                encode_attributes(&Attributes { unknown: unknown.into(), ..Attributes::local() }, &INTERNAL);
            let mut out = BytesMut::from(&b"before"[..]);
            let mut iterator = prefixes.iter().copied().peekable();
            match encode_reach(&block, hop, family, &mut iterator, &INTERNAL, &mut out) {
                Ok(()) => {
                    fitted = out.len() - 6;
                    assert!(fitted <= 4096);
                    read(&out[6..], &INTERNAL).unwrap();
                }
                Err(TooLarge { prefix, needed, max }) => {
                    assert_eq!((prefix, max), (prefixes[0].prefix, 4096));
                    assert!(needed > 4096);
                    assert_eq!(&out[..], b"before");
                    assert_eq!(iterator.next(), Some(prefix.into()));
                }
            }
        }
        assert_eq!(fitted, 4096, "the largest that fits, fills");
    }
}

#[test]
fn an_attribute_beyond_its_length_field_is_too_large() {
    let as_path = AsPath(vec![Segment::Sequence(vec![64512; 20_000])]);
    let attributes = Attributes { as_path, ..Attributes::local() };
    let update = |attributes| {
        let reach = Reach { family: Family::Ipv4Unicast, next_hop: v4_hop(), prefixes: v4_prefixes(2) };
        Message::Update(Update { attributes, reach: vec![reach], ..Update::default() })
    };
    let huge = Codec { max_message: usize::MAX, ..INTERNAL };
    for codec in [INTERNAL, huge] {
        assert_eq!(write(&update(Some(attributes.clone())), &codec), []);
    }
    assert_eq!(write(&update(None), &INTERNAL), []);
}

#[test]
fn long_sequences_are_split() {
    let as_path = AsPath(vec![Segment::Sequence((1..=600).collect())]);
    let attributes = Attributes { as_path, ..Attributes::local() };
    for codec in [INTERNAL, OLD] {
        let mut out = BytesMut::new();
        let block = encode_attributes(&attributes, &codec);
        let mut iterator = v4_prefixes(1).into_iter().peekable();
        encode_reach(&block, v4_hop(), Family::Ipv4Unicast, &mut iterator, &codec, &mut out).unwrap();
        let Message::Update(update) = read_one(&out, &codec) else { panic!() };
        let segments = update.attributes.unwrap().as_path.0;
        let [Segment::Sequence(a), Segment::Sequence(b), Segment::Sequence(c)] = &segments[..] else {
            panic!("{segments:?}")
        };
        assert_eq!((a.len(), b.len(), c.len()), (255, 255, 90));
        assert_eq!([&a[..], b, c].concat(), (1..=600).collect::<Vec<_>>());
    }
}
