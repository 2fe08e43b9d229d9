use std::net::{IpAddr, Ipv4Addr};

use super::*;
use crate::wire::FaultAction::{AttributeDiscard, TreatAsWithdraw};
use crate::wire::{
    Aggregator, AsPath, ExtendedCommunity, FaultAction, LargeCommunity, NextHop, Origin, Reach, Segment,
    Update,
};

const ORIGIN: &str = "40 01 01 00";
const AS_PATH: &str = "40 02 06 02 01 0000fc01";
const NEXT_HOP: &str = "40 03 04 ac14020b";
const LOCAL_PREF: &str = "40 05 04 00000064";
/// 10.244.3.0/24
const NLRI: &str = "18 0af403";
/// 2001:db8:1::/48 by way of 2001:db8::1
const MP_REACH: &str = "80 0e 1c 0002 01 10 20010db8000000000000000000000001 00 30 20010db80001";
/// 2001:db8:2::/48
const MP_UNREACH: &str = "80 0f 0a 0002 01 30 20010db80002";

/// The body of an UPDATE.
fn body(withdrawn: &str, attributes: &[&str], nlri: &str) -> Vec<u8> {
    let (withdrawn, attributes) = (hex(withdrawn), hex(&attributes.concat()));
    let length = |field: &[u8]| u16::try_from(field.len()).unwrap().to_be_bytes();
    [&length(&withdrawn)[..], &withdrawn, &length(&attributes), &attributes, &hex(nlri)].concat()
}

fn try_update(body: &[u8], codec: &Codec) -> Result<Update, Error> {
    match &read(&message(2, body), codec)?[..] {
        [Message::Update(update)] => Ok(update.clone()),
        other => panic!("{other:?}"),
    }
}

/// Returns an UPDATE from an internal peer that advertises [`NLRI`], with all mandatory attributes and `more`.
fn announce(more: &[&str]) -> Update {
    announce_with(&INTERNAL, more)
}

fn announce_with(codec: &Codec, more: &[&str]) -> Update {
    let attributes = [&[ORIGIN, AS_PATH, NEXT_HOP], more].concat();
    try_update(&body("", &attributes, NLRI), codec).expect("no reset")
}

fn faults(update: &Update) -> Vec<(u8, FaultAction)> {
    update.faults.iter().map(|fault| (fault.attribute, fault.action)).collect()
}

/// Asserts that the UPDATE was treated as a withdrawal of `gone`, because of `attribute`.
#[track_caller]
fn assert_withdrawn(update: &Update, attribute: u8, gone: &[&str]) {
    assert_eq!(update.withdrawn, prefixes(gone));
    assert_eq!((&update.reach[..], &update.attributes), (&[][..], &None));
    assert!(faults(update).contains(&(attribute, TreatAsWithdraw)), "{:?}", update.faults);
}

#[track_caller]
fn assert_reset(body: &[u8], subcode: u8, data: &str) {
    let error = try_update(body, &INTERNAL).expect_err("a reset");
    assert_eq!(answer(&error), (3, subcode, &hex(data)[..]), "{error}");
}

#[test]
fn update_of_bird_2() {
    let bytes = hex("ffffffffffffffffffffffffffffffff 005f 02 0000 0040 400101 00 40020a 02020000fc00fa56ea01
        400304 c0000201 800404 00000005 c00804 fc000007 c01008 0002fc0000000009 c0200c 0000fc000000000100000002
        00 10 0a01 11 0a0280");
    let Message::Update(update) = read_one(&bytes, &EXTERNAL) else { panic!() };
    let attributes = update.attributes.as_ref().unwrap();
    assert_eq!(attributes.as_path, AsPath(vec![Segment::Sequence(vec![64512, 4_200_000_001])]));
    assert_eq!(attributes.med, Some(5));
    assert_eq!(attributes.communities, [0xfc00_0007]);
    assert_eq!(attributes.extended_communities, [ExtendedCommunity([0, 2, 0xfc, 0, 0, 0, 0, 9])]);
    assert_eq!(attributes.large_communities, [LargeCommunity { global: 64512, local1: 1, local2: 2 }]);
    assert_eq!(attributes.unknown, []);
    assert_eq!(update.reach[0].prefixes, prefixes(&["0.0.0.0/0", "10.1.0.0/16", "10.2.128.0/17"]));
    assert_eq!(update.faults, []);
    assert_eq!(write(&Message::Update(update), &EXTERNAL), bytes);
}

/// On a session of 2 octets: AS_TRANS, AS4_PATH, and MP_REACH_NLRI with an extended length.
#[test]
fn update_of_bird_2_with_as4_path() {
    let bytes = hex("ffffffffffffffffffffffffffffffff 0082 02 0000 006b
        900e0025 0002 01 10 20010db8000000000000000000000001 00 30 20010db80001 40 20010db800020000
        400101 00 400206 0202fc005ba0 80040400000005c00804fc000007c010080002fc0000000009
        c0110a 02020000fc00fa56ea01 c0200c 0000fc000000000100000002");
    assert_eq!(bytes.len(), 0x82);
    let Message::Update(update) = read_one(&bytes, &OLD) else { panic!() };
    let attributes = update.attributes.as_ref().unwrap();
    assert_eq!(attributes.as_path, AsPath(vec![Segment::Sequence(vec![64512, 4_200_000_001])]));
    let next_hop = NextHop { address: "2001:db8::1".parse().unwrap(), link_local: None };
    let prefixes = prefixes(&["2001:db8:1::/48", "2001:db8:2::/64"]);
    assert_eq!(update.reach, [Reach { family: Family::Ipv6Unicast, next_hop, prefixes }]);
    // We use the short length if possible: one octet less.
    let written = write(&Message::Update(update.clone()), &OLD);
    assert_eq!(written.len(), bytes.len() - 1);
    assert_eq!(read_one(&written, &OLD), Message::Update(update));
}

/// FRR writes extended lengths for short values and, here, an IPv4-mapped next hop.
#[test]
fn updates_of_frr_10() {
    let bytes = hex("ffffffffffffffffffffffffffffffff 0040 02 0000 0027 400101 00 50020006 02010000fc00
        400304 7f000001 800404 00000000 c00708 0000fc00c0000201 08 0a
        ffffffffffffffffffffffffffffffff 004c 02 0000 0035
        900e001c 0002 01 10 00000000000000000000ffff7f000001 00 30 20010db80001
        400101 00 50020006 02010000fc00 800404 00000000");
    let messages = read(&bytes, &EXTERNAL).unwrap();
    let [Message::Update(v4), Message::Update(v6)] = &messages[..] else { panic!("{messages:?}") };
    let aggregator = Aggregator { asn: 64512, address: Ipv4Addr::new(192, 0, 2, 1) };
    assert_eq!(v4.attributes.as_ref().unwrap().aggregator, Some(aggregator));
    assert_eq!(v4.reach[0].prefixes, prefixes(&["10.0.0.0/8"]));
    assert_eq!(v6.reach[0].next_hop.address, "::ffff:127.0.0.1".parse::<IpAddr>().unwrap());
    assert!(v4.faults.is_empty() && v6.faults.is_empty());
}

#[test]
fn end_of_rib() {
    let eor = |bytes: &[u8]| try_update(bytes, &INTERNAL).unwrap().end_of_rib;
    assert_eq!(eor(&body("", &[], "")), Some(Family::Ipv4Unicast));
    assert_eq!(eor(&body("", &["80 0f 03 0002 01"], "")), Some(Family::Ipv6Unicast));
    assert_eq!(eor(&body("", &["90 0f 0003 0002 01"], "")), Some(Family::Ipv6Unicast));
    assert_eq!(eor(&body("", &["80 0f 03 0001 01"], "")), Some(Family::Ipv4Unicast));
    // A family that was not negotiated, or anything else in it, makes it no End-of-RIB.
    assert_eq!(eor(&body("", &["80 0f 03 0001 80"], "")), None);
    assert_eq!(eor(&body("18 0af403", &["80 0f 03 0002 01"], "")), None);
    assert_eq!(eor(&body("", &["80 0f 03 0002 01", ORIGIN], "")), None);
    assert_eq!(eor(&body("", &[ORIGIN], "")), None);
}

#[test]
fn both_families_travel_in_one_update() {
    let attributes = [MP_UNREACH, ORIGIN, AS_PATH, NEXT_HOP, LOCAL_PREF, MP_REACH];
    let update = try_update(&body("10 0a01", &attributes, NLRI), &INTERNAL).unwrap();
    assert_eq!(update.withdrawn, prefixes(&["10.1.0.0/16", "2001:db8:2::/48"]));
    assert_eq!(update.reach.iter().map(|r| r.family).collect::<Vec<_>>(), BOTH);
    assert_eq!((update.end_of_rib, update.faults), (None, vec![]));
}

#[test]
fn families_not_negotiated_are_ignored() {
    let attributes = [ORIGIN, AS_PATH, NEXT_HOP, MP_REACH, MP_UNREACH];
    let body = body("10 0a01", &attributes, NLRI);
    let only = |families: &[Family]| {
        let frame = crate::wire::Frame { kind: MessageType::Update, body: body.clone().into() };
        let Ok(Message::Update(update)) = decode(&frame, &INTERNAL, families) else { panic!() };
        assert_eq!(update.faults, []);
        let reached: Vec<_> = update.reach.iter().flat_map(|r| r.prefixes.clone()).collect();
        (update.withdrawn, reached, update.attributes.is_some())
    };
    let [v4, v6] = BOTH;
    assert_eq!(only(&[v4]), (prefixes(&["10.1.0.0/16"]), prefixes(&["10.244.3.0/24"]), true));
    assert_eq!(only(&[v6]), (prefixes(&["2001:db8:2::/48"]), prefixes(&["2001:db8:1::/48"]), true));
    assert_eq!(only(&[]), (vec![], vec![], false));
}

#[test]
fn host_bits_are_cleared() {
    let update = try_update(&body("11 0affff", &[], ""), &INTERNAL).unwrap();
    assert_eq!(update.withdrawn, prefixes(&["10.255.128.0/17"]));
}

#[test]
fn ipv4_in_mp_reach_is_accepted() {
    let mp = "80 0e 0d 0001 01 04 ac14020b 00 18 0af403";
    let update = try_update(&body("", &[ORIGIN, AS_PATH, mp], ""), &INTERNAL).unwrap();
    let next_hop = NextHop { address: "172.20.2.11".parse().unwrap(), link_local: None };
    let prefixes = prefixes(&["10.244.3.0/24"]);
    assert_eq!(update.reach, [Reach { family: Family::Ipv4Unicast, next_hop, prefixes }]);
}

#[test]
fn link_local_next_hop_comes_second() {
    let reach = |second: &str| {
        let mp = format!("80 0e 2c 0002 01 20 20010db8000000000000000000000001 {second} 00 30 20010db80001");
        let update = try_update(&body("", &[ORIGIN, AS_PATH, &mp], ""), &INTERNAL).unwrap();
        update.reach[0].next_hop.link_local
    };
    assert_eq!(reach("fe800000000000000000000000000001"), Some("fe80::1".parse().unwrap()));
    assert_eq!(reach("00000000000000000000000000000000"), None);
}

/// FRR #6259 and GoBGP #3214: on a link without global addresses, BIRD sends `::` before its link-local address, and others
/// the link-local address alone or twice.
#[test]
fn a_sender_without_a_global_address_is_reached_by_its_link_local_one() {
    let (zero, local) = ("00000000000000000000000000000000", "fe800000000000000000000000000001");
    let address: std::net::Ipv6Addr = "fe80::1".parse().unwrap();
    for (hop, link_local) in [
        (format!("20 {zero}{local}"), Some(address)),
        (format!("20 {local}{local}"), Some(address)),
        (format!("10 {local}"), None),
    ] {
        let length = if link_local.is_some() { "2c" } else { "1c" };
        let mp = format!("80 0e {length} 0002 01 {hop} 00 30 20010db80001");
        let update = try_update(&body("", &[ORIGIN, AS_PATH, &mp], ""), &INTERNAL).unwrap();
        assert_eq!(update.reach[0].next_hop, NextHop { address: address.into(), link_local });
    }
}

// RFC 4271 §6.3 and RFC 7606 §3 (j), §5.3: errors that still reset the session.

#[test]
fn field_lengths_beyond_the_message_reset() {
    assert_reset(&hex("0001 0000"), 1, "");
    assert_reset(&hex("0003 18 0af4"), 1, "");
    assert_reset(&hex("ffff 0000"), 1, "");
    assert_reset(&hex("0000 0001"), 1, "");
    assert_reset(&hex("0000 ffff 00"), 1, "");
}

#[test]
fn bad_prefixes_reset() {
    let attributes = [ORIGIN, AS_PATH, NEXT_HOP];
    for bad in ["21 0af4030000", "18 0af4", "18 0af403 01", "ff"] {
        assert_reset(&body("", &attributes, bad), 10, "");
        assert_reset(&body(bad, &[], ""), 10, "");
    }
}

#[test]
fn bad_mp_attributes_reset() {
    for bad in [
        "80 0e 04 0002 01 10",                                        // shorter than 5
        "80 0e 05 0002 01 10 00",                                     // next hop cut off
        "80 0e 14 0002 01 10 20010db8000000000000000000000001",       // no reserved octet
        "80 0e 05 0002 01 00 00",                                     // no next hop
        "80 0e 0a 0002 01 04 ac14020b 00 00",                         // of IPv4
        "80 0e 16 0001 01 10 20010db8000000000000000000000001 00 00", // of IPv6, for IPv4
        "80 0e 1d 0002 01 18 20010db8000000000000000000000001 0000000000000000 00", // of 24 octets
        "80 0e 16 0002 01 10 20010db8000000000000000000000001 00 81", // length 129
        "80 0e 1b 0002 01 10 20010db8000000000000000000000001 00 30 20010db800", // prefix cut off
        "80 0f 02 0002",                                              // shorter than 3
        "80 0f 04 0002 01 81",                                        // length 129
        "80 0f 05 0001 01 18 0a",                                     // prefix cut off
    ] {
        assert_reset(&body("", &[ORIGIN, AS_PATH, bad], ""), 9, bad);
    }
    assert_reset(&body("", &["40 0f 03 0002 01"], ""), 4, "40 0f 03 0002 01");
    assert_reset(&body("", &["c0 0f 03 0002 01"], ""), 4, "c0 0f 03 0002 01");
}

#[test]
fn mp_attributes_twice_reset() {
    assert_reset(&body("", &[MP_UNREACH, MP_UNREACH], ""), 1, "");
    assert_reset(&body("", &[ORIGIN, AS_PATH, MP_REACH, MP_REACH], ""), 1, "");
}

/// CVE-2023-46752 and CVE-2023-47235: MP_REACH_NLRI that goes beyond the attributes.
#[test]
fn mp_attributes_cut_off_reset() {
    for code in ["0e", "0f"] {
        for rest in ["", "00", "05 0002", "ff 0002 01 10"] {
            let bad = format!("80 {code} {rest}");
            if rest == "00" {
                continue;
            }
            assert_reset(&body("", &[ORIGIN, AS_PATH, NEXT_HOP, &bad], NLRI), 9, &bad);
        }
        let bad = format!("90 {code} 00");
        assert_reset(&body("", &[ORIGIN, AS_PATH, NEXT_HOP, &bad], NLRI), 9, &bad);
    }
}

#[test]
fn unrecognized_well_known_resets() {
    assert_reset(&body("", &[ORIGIN, AS_PATH, NEXT_HOP, "40 63 02 0102"], NLRI), 2, "40 63 02 0102");
    assert_reset(&body("", &["00 00 00"], ""), 2, "00 00 00");
    let long = format!("50 63 00c8 {}", "ab".repeat(200));
    let error = try_update(&body("", &[&long], ""), &INTERNAL).unwrap_err();
    assert_eq!(error.notification.data, hex(&long)[..64]);
}

/// RFC 7606 §5.2: no advertised prefixes, so they may have been missed.
#[test]
fn errors_without_advertised_prefixes_reset() {
    assert_reset(&body("", &["40 01 01 07", MP_UNREACH], ""), 6, "40 01 01 07");
    assert_reset(&body(NLRI, &["40 01 02 0000"], ""), 5, "40 01 02 0000");
    assert_reset(&body(NLRI, &["40 01 05 00"], ""), 1, "");
    // An error that discards only the attribute does not.
    let update = try_update(&body("", &["40 06 01 00", MP_UNREACH], ""), &INTERNAL).unwrap();
    assert_eq!(update.withdrawn, prefixes(&["2001:db8:2::/48"]));
    assert_eq!(faults(&update), [(6, AttributeDiscard)]);
}

// RFC 7606 §7: treat-as-withdraw.

#[test]
fn malformed_attributes_withdraw() {
    let gone = ["10.244.3.0/24"];
    for (attribute, bad) in [
        (4, "80 04 03 000000"),
        (4, "80 04 00"),
        (5, "40 05 05 0000000000"),
        (8, "c0 08 00"),
        (8, "c0 08 03 fc0000"),
        (9, "80 09 03 000000"),
        (10, "80 0a 00"),
        (10, "80 0a 05 0000000000"),
        (16, "c0 10 07 00000000000000"),
        (16, "c0 10 00"),
        (25, "c0 19 13 00000000000000000000000000000000000000"),
        (32, "c0 20 0b 0000000000000000000000"),
        (32, "c0 20 00"),
    ] {
        assert_withdrawn(&announce(&[bad]), attribute, &gone);
    }
    let with = |origin, path, hop| try_update(&body("", &[origin, path, hop], NLRI), &INTERNAL).unwrap();
    for bad in ["40 01 01 03", "40 01 01 ff", "40 01 00", "40 01 02 0000"] {
        assert_withdrawn(&with(bad, AS_PATH, NEXT_HOP), 1, &gone);
    }
    for bad in [
        "40 02 06 05 01 0000fc01",    // segment type
        "40 02 06 00 01 0000fc01",    // segment type
        "40 02 02 02 00",             // empty segment
        "40 02 01 02",                // a single octet
        "40 02 07 02 01 0000fc01 02", // a single octet left
        "40 02 06 02 02 0000fc01",    // overrun
        "40 02 05 02 01 0000fc",      // overrun
        "40 02 06 02 01 00000000",    // AS 0
        "40 02 06 03 01 0000fc01",    // AS_CONFED_SEQUENCE
        "40 02 06 04 01 0000fc01",    // AS_CONFED_SET
    ] {
        assert_withdrawn(&with(ORIGIN, bad, NEXT_HOP), 2, &gone);
    }
    for bad in ["40 03 03 ac1402", "40 03 00", "40 03 05 ac14020b00"] {
        assert_withdrawn(&with(ORIGIN, AS_PATH, bad), 3, &gone);
    }
}

/// RFC 4271 §6.3: an address that is no host's is well-formed. The tables reject the path with a reason, and the session
/// stays.
#[test]
fn a_next_hop_that_is_no_host_is_well_formed() {
    for bad in ["00000000", "7f000001", "e0000001", "f0000001", "ffffffff"] {
        let hop = format!("40 03 04 {bad}");
        let update = try_update(&body("", &[ORIGIN, AS_PATH, &hop], NLRI), &INTERNAL).unwrap();
        assert_eq!((update.faults, update.reach.len()), (vec![], 1));
    }
    for bad in ["00000000000000000000000000000000", "ff020000000000000000000000000001"] {
        let mp = format!("80 0e 1c 0002 01 10 {bad} 00 30 20010db80001");
        let update = try_update(&body("", &[ORIGIN, AS_PATH, &mp], ""), &INTERNAL).unwrap();
        assert_eq!((update.faults, update.reach.len()), (vec![], 1));
    }
}

#[test]
fn wrong_flags_withdraw() {
    for (attribute, bad) in [
        (4, "40 04 04 00000000"),
        (4, "c0 04 04 00000000"),
        (5, "c0 05 04 00000064"),
        (8, "80 08 04 fc000007"),
        (9, "40 09 04 c0000201"),
        (32, "80 20 0c 0000fc000000000100000002"),
    ] {
        assert_withdrawn(&announce(&[bad]), attribute, &["10.244.3.0/24"]);
    }
    let update = try_update(&body("", &["c0 01 01 00", AS_PATH, NEXT_HOP], NLRI), &INTERNAL).unwrap();
    assert_withdrawn(&update, 1, &["10.244.3.0/24"]);
    // Partial and the unused bits are no conflict (RFC 4271 §4.3).
    assert_eq!(announce(&["af 04 04 00000007"]).attributes.unwrap().med, Some(7));
}

#[test]
fn missing_well_knowns_withdraw() {
    let gone = ["10.244.3.0/24"];
    let with = |attributes: &[&str]| try_update(&body("", attributes, NLRI), &INTERNAL).unwrap();
    assert_withdrawn(&with(&[AS_PATH, NEXT_HOP]), 1, &gone);
    assert_withdrawn(&with(&[ORIGIN, NEXT_HOP]), 2, &gone);
    assert_withdrawn(&with(&[ORIGIN, AS_PATH]), 3, &gone);
    assert_withdrawn(&with(&[ORIGIN, AS_PATH, MP_REACH]), 3, &["10.244.3.0/24", "2001:db8:1::/48"]);
    let update = try_update(&body("", &[MP_REACH], ""), &INTERNAL).unwrap();
    assert_withdrawn(&update, 1, &["2001:db8:1::/48"]);
    let update = try_update(&body("", &[ORIGIN, AS_PATH, MP_REACH], ""), &INTERNAL).unwrap();
    assert_eq!(update.faults, []);
}

/// CVE-2023-41358: NLRI with no attributes at all.
#[test]
fn nlri_without_attributes_is_withdrawn() {
    let update = try_update(&body("", &[], NLRI), &INTERNAL).unwrap();
    assert_withdrawn(&update, 1, &["10.244.3.0/24"]);
    assert_eq!(update.end_of_rib, None);
}

#[test]
fn advertised_prefixes_of_a_malformed_update_are_withdrawn_too() {
    let attributes = ["40 01 01 09", AS_PATH, NEXT_HOP, MP_REACH, MP_UNREACH];
    let update = try_update(&body("10 0a01", &attributes, NLRI), &INTERNAL).unwrap();
    let gone = ["10.1.0.0/16", "2001:db8:2::/48", "10.244.3.0/24", "2001:db8:1::/48"];
    assert_withdrawn(&update, 1, &gone);
}

/// RFC 7606 §4; FRRouting/frr#14129: leftover octets of the attributes were read as prefixes.
#[test]
fn attributes_beyond_their_field_withdraw_the_nlri_and_no_more() {
    for (attribute, bad) in [
        (8, "c0 08 08 fc000007"), // length beyond the field
        (8, "c0 08"),             // no length
        (8, "d0 08 00"),          // half a length
        (0, "c0"),                // a single octet
        (99, "c0 63 ff 18 0a0909 18 0a0808"),
        (7, "c0 07 08 0000"), // even where the attribute alone would be discarded
    ] {
        let update = announce(&[bad]);
        assert_withdrawn(&update, attribute, &["10.244.3.0/24"]);
    }
}

// Attribute discard.

#[test]
fn aggregation_attributes_are_discarded() {
    for (attribute, bad) in [
        (6, "40 06 01 00"),
        (6, "c0 06 00"),
        (7, "c0 07 06 fc00 c0000201"),
        (7, "c0 07 08 00000000 c0000201"),
        (7, "80 07 08 0000fc00 c0000201"),
        (7, "c0 07 00"),
    ] {
        let update = announce(&[bad]);
        assert_eq!(faults(&update), [(attribute, AttributeDiscard)], "{bad}");
        let attributes = update.attributes.unwrap();
        assert_eq!((attributes.atomic_aggregate, attributes.aggregator), (false, None));
        assert_eq!(update.reach.len(), 1);
    }
}

#[test]
fn internal_attributes_from_outside_are_discarded() {
    let internal = [LOCAL_PREF, "80 09 04 c0000209", "80 0a 04 c0000208"];
    let attributes = announce(&internal).attributes.unwrap();
    assert_eq!(attributes.local_pref, Some(100));
    assert_eq!(attributes.originator_id, Some(Ipv4Addr::new(192, 0, 2, 9)));
    assert_eq!(attributes.cluster_list, [Ipv4Addr::new(192, 0, 2, 8)]);

    // Whatever they contain.
    for bad in [internal, ["40 05 01 00", "40 09 04 c0000209", "80 0a 00"]] {
        let update = announce_with(&EXTERNAL, &bad);
        assert_eq!(faults(&update), [5, 9, 10].map(|code| (code, AttributeDiscard)));
        let attributes = update.attributes.unwrap();
        assert_eq!((attributes.local_pref, attributes.originator_id), (None, None));
        assert_eq!(attributes.cluster_list, Vec::<Ipv4Addr>::new());
    }
}

#[test]
fn the_first_of_duplicates_applies() {
    let update =
        announce(&["80 04 04 00000001", "80 04 04 00000002", "40 01 01 02", "e0 63 01 01", "e0 63 01 02"]);
    assert_eq!(faults(&update), [4, 1, 99].map(|code| (code, AttributeDiscard)));
    let attributes = update.attributes.unwrap();
    assert_eq!((attributes.med, attributes.origin), (Some(1), Origin::Igp));
    assert_eq!(attributes.unknown.len(), 1);
    assert_eq!(&attributes.unknown[0].value[..], [1]);
    // A valid second one does not replace a malformed first one.
    assert_withdrawn(&announce(&["80 04 01 00", "80 04 04 00000002"]), 4, &["10.244.3.0/24"]);
}

// Unrecognized attributes.

#[test]
fn unknown_transitive_attributes_are_kept_and_marked_partial() {
    let update = announce(&["c0 ff 00", "c0 63 02 0102", "80 62 01 09", "d0 24 0004 0000fc00"]);
    assert_eq!(update.faults, []);
    let unknown = &update.attributes.as_ref().unwrap().unknown;
    let kept: Vec<_> = unknown.iter().map(|u| (u.flags, u.code, &u.value[..])).collect();
    assert_eq!(kept, [(0xc0, 36, &hex("0000fc00")[..]), (0xc0, 99, &[1, 2][..]), (0xc0, 255, &[][..])]);
    let written = write(&Message::Update(update), &INTERNAL);
    let passed_on = hex("e0 24 04 0000fc00 e0 63 02 0102 e0 ff 00 18 0af403");
    assert!(written.ends_with(&passed_on), "{written:02x?}");
}

/// CVE-2023-38802: TUNNEL_ENCAPSULATION and the deprecated attribute 28, malformed, reset sessions far from their origin. They
/// are not decoded here, so they have no effect.
#[test]
fn malformed_attributes_23_and_28_have_no_effect() {
    for bad in ["c0 17 02 000d", "c0 17 00", "c0 1c 00", "c0 1c 03 000000"] {
        let update = announce(&[bad]);
        assert_eq!((&update.faults[..], update.reach.len()), (&[][..], 1), "{bad}");
    }
}

#[test]
fn known_communities_are_passed_on_without_partial() {
    let large = "c0 20 0c 0000fc000000000100000002";
    let written = write(&Message::Update(announce(&[large])), &INTERNAL);
    assert!(written.ends_with(&hex(&format!("{large} {NLRI}"))));
}

#[test]
fn communities_are_sorted_once_each() {
    let update = announce(&["c0 08 10 fc000007 00000001 fc000007 ffffff01"]);
    assert_eq!(update.attributes.unwrap().communities, [1, 0xfc00_0007, 0xffff_ff01]);
}

/// FRRouting/frr#22351: communities that took quadratic time. 1000 of them, repeated, must take hardly any.
#[test]
fn a_message_full_of_communities_is_cheap() {
    let values: String =
        (0..1000u32).rev().map(|value| format!("{:08x}", value.wrapping_mul(0x9e37_79b1))).collect();
    let more = format!("d0 08 0fa0 {values}");
    let bytes = message(2, &body("", &[ORIGIN, AS_PATH, NEXT_HOP, &more], NLRI));
    let start = std::time::Instant::now();
    for _ in 0..100 {
        read_one(&bytes, &INTERNAL);
    }
    assert!(start.elapsed() < std::time::Duration::from_secs(2), "{:?}", start.elapsed());
}

// RFC 6793.

/// AS_PATH and aggregator of an UPDATE on a session with 2-octet AS numbers.
fn from_old(path: &str, more: &[&str]) -> (Vec<Segment>, Option<Aggregator>, Vec<(u8, FaultAction)>) {
    let attributes = [&[ORIGIN, path, NEXT_HOP], more].concat();
    let update = try_update(&body("", &attributes, NLRI), &OLD).unwrap();
    let faults = faults(&update);
    let attributes = update.attributes.unwrap();
    assert_eq!(attributes.unknown, []);
    (attributes.as_path.0, attributes.aggregator, faults)
}

fn sequence(numbers: &[u32]) -> Segment {
    Segment::Sequence(numbers.to_vec())
}

#[test]
fn as4_path_is_merged() {
    let as4 = "c0 11 0a 02 02 00011170 00011171";
    // An old speaker has prepended 64513.
    let (path, ..) = from_old("40 02 08 02 03 fc01 5ba0 5ba0", &[as4]);
    assert_eq!(path, [sequence(&[64513, 70000, 70001])]);
    // A set counts as one.
    let (path, ..) = from_old("40 02 0e 01 02 fc02 fc03 02 03 fc01 5ba0 5ba0", &[as4]);
    assert_eq!(path, [Segment::Set(vec![64514, 64515]), sequence(&[64513, 70000, 70001])]);
    // An AS_PATH shorter than AS4_PATH: the latter is ignored.
    let (path, ..) = from_old("40 02 04 02 01 5ba0", &[as4]);
    assert_eq!(path, [sequence(&[23456])]);
    // Without AS4_PATH, AS_TRANS stays.
    let (path, ..) = from_old("40 02 06 02 02 fc01 5ba0", &[]);
    assert_eq!(path, [sequence(&[64513, 23456])]);
}

#[test]
fn as4_aggregator_replaces_as_trans() {
    let as4 = "c0 12 08 00011170 c0000201";
    let address = Ipv4Addr::new(192, 0, 2, 1);
    let path = "40 02 04 02 01 5ba0";
    let (.., aggregator, faults) = from_old(path, &["c0 07 06 5ba0 c0000201", as4]);
    assert_eq!((aggregator, faults), (Some(Aggregator { asn: 70000, address }), vec![]));
    // A speaker without 4-octet AS numbers aggregated later: both AS4 attributes are outdated.
    let as4_path = "c0 11 06 02 01 00011170";
    let (path, aggregator, _) = from_old(path, &["c0 07 06 fc05 c0000201", as4, as4_path]);
    assert_eq!(aggregator, Some(Aggregator { asn: 64517, address }));
    assert_eq!(path, [sequence(&[23456])]);
}

#[test]
fn malformed_as4_attributes_are_discarded() {
    let path = "40 02 04 02 01 5ba0";
    for (attribute, bad) in [
        (17, "c0 11 00"),
        (17, "c0 11 05 02 01 000111"),
        (17, "c0 11 06 02 01 00000000"),
        (17, "c0 11 02 02 00"),
        (17, "c0 11 06 07 01 00011170"),
        (17, "40 11 06 02 01 00011170"),
        (18, "c0 12 06 fc00 c0000201"),
        (18, "c0 12 08 00000000 c0000201"),
    ] {
        let (kept, aggregator, faults) = from_old(path, &[bad]);
        assert_eq!((kept, aggregator), (vec![sequence(&[23456])], None));
        assert_eq!(faults, [(attribute, AttributeDiscard)], "{bad}");
    }
    // RFC 6793 §6: confederation segments alone are left out.
    let (kept, _, faults) = from_old(path, &["c0 11 0c 03 01 00011175 02 01 00011170"]);
    assert_eq!((kept, faults), (vec![sequence(&[70000])], vec![]));
}

#[test]
fn as4_attributes_between_new_speakers_are_discarded() {
    let update = announce(&["c0 11 06 02 01 00011170", "c0 12 08 00011170 c0000201"]);
    assert_eq!(faults(&update), [(17, AttributeDiscard), (18, AttributeDiscard)]);
    let attributes = update.attributes.unwrap();
    assert_eq!(attributes.as_path.0, [sequence(&[64513])]);
    assert_eq!((attributes.aggregator, attributes.unknown), (None, [].into()));
}

/// Recognized communities and OTC: sorted sets, and the consequences of malformed ones (RFC 8092 §6, RFC 9234 §5).
#[test]
fn typed_attributes_are_read_and_written() {
    let update = announce(&[
        "c0 10 18 0002fc0000000009 0002fc0000000001 0002fc0000000009",
        "c0 20 18 0000fc000000000100000002 0000fc000000000100000001",
        "c0 23 04 0000fc01",
    ]);
    assert_eq!(update.faults, []);
    let attributes = update.attributes.clone().unwrap();
    assert_eq!(attributes.extended_communities.len(), 2);
    let large: Vec<String> = attributes.large_communities.iter().map(ToString::to_string).collect();
    assert_eq!(large, ["64512:1:1", "64512:1:2"]);
    assert_eq!(attributes.only_to_customer, Some(64513));
    let written = write(&Message::Update(update), &INTERNAL);
    let ordered =
        "c01010 0002fc0000000001 0002fc0000000009  c02018 0000fc000000000100000001 0000fc000000000100000002
        c02304 0000fc01";
    assert!(written.ends_with(&hex(&format!("{ordered} {NLRI}"))), "{written:02x?}");
    for (bad, code) in
        [("c0 23 03 00fc01", 35), ("80 23 04 0000fc01", 35), ("c0 20 0b 0000fc0000000001000000", 32)]
    {
        assert_withdrawn(&announce(&[bad]), code, &["10.244.3.0/24"]);
    }
}

/// RFC 8950 §3: next hops of 4, 16 and 32 octets if both sides agreed; else only of 4.
#[test]
fn ipv4_by_ipv6_next_hops() {
    let extended = Codec { extended_next_hop: true, ..INTERNAL };
    let global = "20010db8000000000000000000000001";
    let body = |hop: &str| {
        let mp = hex(&format!("0001 01 {:02x} {hop} 00 10 0a01", hop.len() / 2));
        let attributes = [hex("400101 00 400200 800e"), vec![mp.len() as u8], mp].concat();
        message(2, &[vec![0, 0], (attributes.len() as u16).to_be_bytes().to_vec(), attributes].concat())
    };
    for (hop, codec, taken) in [
        ("0a000001".to_owned(), extended, true),
        (global.into(), extended, true),
        (format!("{global}fe800000000000000000000000000001"), extended, true),
        ("0a000001".into(), INTERNAL, true),
        (global.into(), INTERNAL, false),
        ("0a00000100".into(), extended, false),
    ] {
        let read = read(&body(&hop), &codec);
        assert_eq!(read.is_ok(), taken, "{hop}: {read:?}");
        if let Ok([Message::Update(update)]) = read.as_deref() {
            let again = write(&Message::Update(update.clone()), &codec);
            assert_eq!(read_one(&again, &codec), Message::Update(update.clone()));
        }
    }
}

/// A session with Path Identifiers in these families, in both directions.
fn with_path_ids(families: &[Family]) -> Codec {
    let path_ids: crate::wire::FamilySet = families.iter().copied().collect();
    Codec { path_ids: crate::wire::PathIds { receive: path_ids, send: path_ids }, ..INTERNAL }
}

/// RFC 7911 §3: an identifier before each prefix, in all four fields with prefixes, for each family by itself.
#[test]
fn path_identifiers_precede_prefixes() {
    let reach = "80 0e 20 0002 01 10 20010db8000000000000000000000001 00 00000007 30 20010db80001";
    let unreach = "80 0f 0e 0002 01 00000008 30 20010db80002";
    let bytes = body(
        "00000001 10 0a01",
        &[ORIGIN, AS_PATH, NEXT_HOP, reach, unreach],
        "ffffffff 10 0a02 00000000 10 0a02",
    );
    let codec = with_path_ids(&BOTH);
    let update = try_update(&bytes, &codec).unwrap();
    let path = |text: &str, path_id| Nlri { prefix: prefix(text), path_id: Some(path_id) };
    assert_eq!(update.withdrawn, [path("10.1.0.0/16", 1), path("2001:db8:2::/48", 8)]);
    assert_eq!(update.reach[0].prefixes, [path("10.2.0.0/16", u32::MAX), path("10.2.0.0/16", 0)]);
    assert_eq!(update.reach[1].prefixes, [path("2001:db8:1::/48", 7)]);
    assert_eq!(update.faults, []);
    let bytes = body("10 0a01", &[ORIGIN, AS_PATH, reach], "");
    let update = try_update(&bytes, &with_path_ids(&BOTH[1..])).unwrap();
    assert_eq!(update.withdrawn, prefixes(&["10.1.0.0/16"]), "not of that family");
    assert_eq!(update.reach[0].prefixes, [path("2001:db8:1::/48", 7)]);
}

/// RFC 7606 §5.3: unknown prefixes reset the session; treat-as-withdraw applies to exactly those paths.
#[test]
fn malformed_updates_with_path_identifiers() {
    let codec = with_path_ids(&BOTH);
    for nlri in ["000000", "00000001", "00000001 18 0a01", "00000001 21 0a01020304"] {
        let error = try_update(&body("", &[ORIGIN, AS_PATH, NEXT_HOP], nlri), &codec).unwrap_err();
        assert_eq!(answer(&error), (3, 10, &[][..]), "{nlri}");
        let error = try_update(&body(nlri, &[], ""), &codec).unwrap_err();
        assert_eq!(answer(&error), (3, 10, &[][..]), "{nlri}");
    }
    let update = try_update(&body("", &[ORIGIN, NEXT_HOP], "00000005 10 0a01"), &codec).unwrap();
    assert_eq!(update.withdrawn, [Nlri { prefix: prefix("10.1.0.0/16"), path_id: Some(5) }]);
    assert_eq!((update.reach.len(), update.faults.len()), (0, 1));
    // End-of-RIB has none.
    assert_eq!(try_update(&body("", &[], ""), &codec).unwrap().end_of_rib, Some(Family::Ipv4Unicast));
}
