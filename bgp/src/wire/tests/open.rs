use std::net::Ipv4Addr;

use super::*;
use crate::wire::{AddPathMode, Capability, GracefulRestart, LongLived, Open};

/// The OPEN of AS 64512, hold time 9, 192.0.2.1, up to the optional parameters.
const HEAD: &str = "04 fc00 0009 c0000201";

fn open_body(parameters: &str) -> Vec<u8> {
    [hex(HEAD), hex(parameters)].concat()
}

fn read_open(body: &[u8]) -> Result<Open, Error> {
    let messages = read(&message(1, body), &Codec::default())?;
    match &messages[..] {
        [Message::Open(open)] => Ok(open.clone()),
        other => panic!("{other:?}"),
    }
}

fn rejected(body: &[u8]) -> (u8, u8) {
    let error = read_open(body).expect_err("an invalid OPEN");
    (error.notification.code, error.notification.subcode)
}

#[test]
fn open_of_bird_2() {
    let bytes = hex("ffffffffffffffffffffffffffffffff 0043 01 04 fc00 00f0 c0000201 26 02 24
         01 04 0001 00 01  01 04 0002 00 01  02 00  40 0a 0078 0001 01 00 0002 01 00  41 04 0000fc00  46 00  47 00");
    let Message::Open(open) = read_one(&bytes, &Codec::default()) else { panic!() };
    assert_eq!((open.asn, open.hold_time, open.router_id), (64512, 240, Ipv4Addr::new(192, 0, 2, 1)));
    assert_eq!(open.families(), BOTH);
    assert!(open.four_octet_as() && open.offers(&Capability::RouteRefresh));
    let families = BOTH.map(|family| (family, false)).to_vec();
    let restart = GracefulRestart { restart_time: 120, families, ..Default::default() };
    assert_eq!(open.graceful_restart(), Some(&restart));
    assert!(open.offers(&Capability::EnhancedRouteRefresh));
    assert!(open.offers(&Capability::LongLived(Vec::new())), "LLGR_STALE is supported");
    assert_eq!(write(&Message::Open(open), &INTERNAL), bytes);
}

/// Each capability in a parameter of its own, and an extended one of 3 octets.
#[test]
fn open_of_frr_10() {
    let bytes = hex("ffffffffffffffffffffffffffffffff 0072 01 04 fc00 00b4 c0000201 55
         02 06 01 04 0001 00 01  02 06 01 04 0002 00 01  02 02 80 00  02 02 02 00  02 02 46 00
         02 06 41 04 0000fc00  02 02 06 00  02 0a 45 08 0001 01 01 0002 01 01
         02 07 49 05 03 636170 00  02 04 40 02 c078
         02 10 47 0e 0001 01 80 000000 0002 01 80 000000");
    let Message::Open(open) = read_one(&bytes, &Codec::default()) else { panic!() };
    assert_eq!((open.asn, open.hold_time), (64512, 180));
    assert_eq!(open.capabilities.len(), 11);
    assert_eq!(BOTH.map(|family| open.add_path(family)), [Some(AddPathMode::Receive); 2]);
    let family = |family| LongLived { family, forwarding: true, stale_time: 0 };
    assert_eq!(open.long_lived(), Some(&BOTH.map(family)[..]));
    // The R bit is set, and one that RFC 8538 defines.
    let restart =
        GracefulRestart { restarting: true, notification: true, restart_time: 120, ..Default::default() };
    assert_eq!(open.graceful_restart(), Some(&restart));
}

/// RFC 9494 §3.1: 24 bits of seconds; §4.5: ignored without the capability of RFC 4724.
#[test]
fn long_lived_stale_time() {
    let open = read_open(&open_body("11 02 0f 40 02 0078 47 09 0001 01 00 012345 4004")).unwrap_err();
    assert_eq!((open.notification.code, open.notification.subcode), (2, 0), "half a family");
    let open =
        read_open(&open_body("16 02 14 40 02 0078 47 0e 4004 47 80 000001 0001 01 00 ffffff")).unwrap();
    let family = LongLived { family: Family::Ipv4Unicast, forwarding: false, stale_time: 16_777_215 };
    assert_eq!(open.long_lived(), Some(&[family][..]), "other families are left out");
    let alone = read_open(&open_body("0b 02 09 47 07 0001 01 80 000e10")).unwrap();
    assert_eq!(alone.long_lived(), None);
}

#[test]
fn open_without_parameters_means_ipv4() {
    let open = read_open(&open_body("00")).unwrap();
    assert_eq!(open.capabilities, []);
    assert_eq!(open.families(), [Family::Ipv4Unicast]);
    assert!(!open.four_octet_as());
    // A parameter without capabilities adds nothing.
    assert_eq!(read_open(&open_body("02 02 00")).unwrap(), open);
}

#[test]
fn other_families_are_kept_and_do_not_mean_ipv4() {
    let open = read_open(&open_body("08 02 06 01 04 4004 00 47")).unwrap();
    assert_eq!(open.capabilities, [Capability::Other(1, Bytes::from(hex("40040047")))]);
    assert_eq!(open.families(), []);
}

/// RFC 7911 §4.
#[test]
fn add_path_has_a_mode_for_each_family() {
    let [v4, v6] = BOTH;
    let read = |value: &str| {
        let length = hex(value).len();
        let body = open_body(&format!("{:02x} 02 {:02x} 45 {length:02x} {value}", length + 4, length + 2));
        read_open(&body).unwrap()
    };
    let open = read("0001 01 03  0002 01 02  4004 47 01");
    assert_eq!((open.add_path(v4), open.add_path(v6)), (Some(AddPathMode::Both), Some(AddPathMode::Send)));
    assert_eq!(read("0002 01 01").add_path(v4), None);
    assert_eq!(read("0001 01 01 0001 01 02").add_path(v4), Some(AddPathMode::Send), "the last one counts");
    // Another value anywhere: the capability is ignored.
    for value in ["0001 01 00", "0001 01 03 0002 01 04", "4004 47 ff 0001 01 03"] {
        let open = read(value);
        assert_eq!(open.add_path(v4), None);
        assert_eq!(open.capabilities, [Capability::Other(69, Bytes::from(hex(value)))]);
    }
    assert_eq!(rejected(&open_body("07 02 05 45 03 0001 01")), (2, 0), "cut off");
}

#[test]
fn version_must_be_4() {
    let error = read_open(&hex("03 fc00 0009 c0000201 00")).unwrap_err();
    assert_eq!(answer(&error), (2, 1, &[0, 4][..]));
}

#[test]
fn hold_time_of_1_or_2_is_rejected() {
    assert_eq!(rejected(&hex("04 fc00 0001 c0000201 00")), (2, 6));
    assert_eq!(rejected(&hex("04 fc00 0002 c0000201 00")), (2, 6));
    for good in ["04 fc00 0000 c0000201 00", "04 fc00 0003 c0000201 00"] {
        assert!(read_open(&hex(good)).is_ok());
    }
}

#[test]
fn identifier_0_is_rejected() {
    assert_eq!(rejected(&hex("04 fc00 0009 00000000 00")), (2, 3));
}

#[test]
fn as_0_is_rejected() {
    assert_eq!(rejected(&hex("04 0000 0009 c0000201 00")), (2, 2));
    assert_eq!(rejected(&hex("04 0000 0009 c0000201 08 02 06 41 04 0000fc00")), (2, 2));
    assert_eq!(rejected(&hex("04 5ba0 0009 c0000201 08 02 06 41 04 00000000")), (2, 2));
}

#[test]
fn as_trans_stands_for_the_capability_only() {
    let wide = read_open(&hex("04 5ba0 0009 c0000201 08 02 06 41 04 fa56ea01")).unwrap();
    assert_eq!(wide.asn, 4_200_000_001);
    // Unusual, but unambiguous.
    let narrow = read_open(&hex("04 5ba0 0009 c0000201 08 02 06 41 04 0000fc00")).unwrap();
    assert_eq!(narrow.asn, 64512);
    assert_eq!(rejected(&hex("04 5ba0 0009 c0000201 00")), (2, 2));
    assert_eq!(rejected(&hex("04 5ba0 0009 c0000201 08 02 06 41 04 00005ba0")), (2, 2));
}

#[test]
fn two_as_numbers_are_rejected() {
    assert_eq!(rejected(&hex("04 fc00 0009 c0000201 08 02 06 41 04 0000fc01")), (2, 2));
    let twice = "04 5ba0 0009 c0000201 0e 02 0c 41 04 0000fc00 41 04 0000fc01";
    assert_eq!(rejected(&hex(twice)), (2, 2));
}

#[test]
fn unknown_parameter_is_rejected() {
    assert_eq!(rejected(&open_body("02 01 00")), (2, 4));
    // 255 means extended lengths only where it comes first.
    assert_eq!(rejected(&open_body("04 02 00 ff 00")), (2, 4));
}

#[test]
fn malformed_parameters_are_rejected() {
    for bad in [
        "01",                             // a length without parameters
        "00 02",                          // parameters without a length
        "02 02 01",                       // the parameter goes beyond the end
        "01 02",                          // no room for its length
        "04 02 02 02 01",                 // the capability goes beyond the parameter
        "03 02 01 02",                    // no room for its length
        "05 02 03 41 01 00",              // 4-octet AS of 1 octet
        "09 02 07 41 05 0000fc00 00",     // and of 5
        "05 02 03 02 01 00",              // route refresh of 1 octet
        "07 02 05 01 03 000100",          // multiprotocol of 3
        "09 02 07 40 05 0078 000101",     // graceful restart cut off
        "0a 02 08 47 06 0001 01 80 0000", // long-lived graceful restart cut off
    ] {
        assert_eq!(rejected(&open_body(bad)), (2, 0), "{bad}");
    }
}

#[test]
fn extended_parameters() {
    let open = read_open(&open_body("ff ff 0009 02 0006 41 04 0000fc00")).unwrap();
    assert_eq!(open.capabilities, [Capability::FourOctetAs(64512)]);
    // RFC 9072 §2: the short length is ignored, if it is not 0.
    assert_eq!(read_open(&open_body("01 ff 0009 02 0006 41 04 0000fc00")).unwrap(), open);
    assert_eq!(rejected(&open_body("00 ff 0009 02 0006 41 04 0000fc00")), (2, 0));
}

/// CVE-2022-40302, CVE-2022-40318, CVE-2022-43681: reading beyond an OPEN that ends in RFC 9072's fields.
#[test]
fn open_ending_in_the_extended_length_is_rejected() {
    for bad in ["ff ff", "ff ff 00", "ff ff 0001", "ff ff 0001 02", "ff ff 0002 02 00", "ff ff 0003 02 0001"]
    {
        assert_eq!(rejected(&open_body(bad)), (2, 0), "{bad}");
    }
    assert_eq!(read_open(&open_body("ff ff 0000")).unwrap().capabilities, []);
    assert_eq!(read_open(&open_body("ff ff 0003 02 0000")).unwrap().capabilities, []);
}

#[test]
fn many_capabilities_use_extended_lengths() {
    let template = read_open(&open_body("00")).unwrap();
    // Around 253 octets of capabilities, where the short length ends.
    for length in [0, 1, 249, 250, 251, 252, 253, 254, 255] {
        let capabilities = vec![Capability::Other(200, Bytes::from(vec![7; length]))];
        let open = Open { capabilities, ..template.clone() };
        let bytes = write(&Message::Open(open.clone()), &INTERNAL);
        assert_eq!(bytes[28] == 255, length > 250, "{length}");
        assert_eq!(read_one(&bytes, &Codec::default()), Message::Open(open));
    }
    let capabilities = vec![Capability::Other(200, Bytes::from(vec![7; 255])); 14];
    let open = Message::Open(Open { capabilities, ..template });
    assert_eq!(read_one(&write(&open, &INTERNAL), &Codec::default()), open);
}

#[test]
fn open_that_ends_early_is_rejected() {
    let body = open_body("00");
    for length in 0..body.len() {
        let frame =
            crate::wire::Frame { kind: MessageType::Open, body: Bytes::copy_from_slice(&body[..length]) };
        let error = decode(&frame, &Codec::default(), &[]).unwrap_err();
        assert_eq!(error.notification.code, 2);
    }
}
