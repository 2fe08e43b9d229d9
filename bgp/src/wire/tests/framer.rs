use super::*;
use crate::wire::{Frame, Refresh};

fn rejected(bytes: &[u8]) -> Error {
    let mut framer = Framer::new();
    framer.push(bytes);
    let error = framer.next().expect_err("an invalid header");
    assert_eq!(framer.next(), Err(error.clone()), "a lost stream stays lost");
    error
}

fn header(length: u16, kind: u8) -> Vec<u8> {
    let mut bytes = vec![0xff; 16];
    bytes.extend(length.to_be_bytes());
    bytes.push(kind);
    bytes
}

#[test]
fn marker_is_checked() {
    for at in 0..16 {
        let mut bytes = message(4, &[]);
        bytes[at] = 0xfe;
        assert_eq!(answer(&rejected(&bytes)), (1, 1, &[][..]));
    }
}

#[test]
fn length_must_be_19_to_4096() {
    for length in [0, 18, 4097, 65535] {
        assert_eq!(answer(&rejected(&header(length, 2))), (1, 2, &length.to_be_bytes()[..]));
    }
}

#[test]
fn length_has_a_minimum_for_each_type() {
    for (kind, length) in [(1, 28), (2, 22), (3, 20), (5, 22)] {
        let error = rejected(&header(length, kind));
        assert_eq!(answer(&error), (1, 2, &length.to_be_bytes()[..]), "type {kind}");
    }
}

/// FRR #23371: a length below 19 is the error of a message whose type is unknown too (RFC 4271 §6.1).
#[test]
fn the_length_is_checked_before_the_type() {
    assert_eq!(answer(&rejected(&header(18, 99))), (1, 2, &[0, 18][..]));
    assert_eq!(answer(&rejected(&header(4097, 99))), (1, 2, &4097_u16.to_be_bytes()[..]));
}

#[test]
fn keepalive_of_20_octets_is_rejected() {
    assert_eq!(answer(&rejected(&message(4, &[0]))), (1, 2, &[0, 20][..]));
}

#[test]
fn route_refresh_of_another_length_is_rejected() {
    assert_eq!(answer(&rejected(&message(5, &[0, 1, 0, 1, 0]))), (1, 2, &[0, 24][..]));
}

#[test]
fn unknown_message_type_is_rejected() {
    for kind in [0, 6, 255] {
        assert_eq!(answer(&rejected(&message(kind, &[]))), (1, 3, &[kind][..]));
    }
}

#[test]
fn an_invalid_header_is_rejected_before_its_body_arrives() {
    assert_eq!(answer(&rejected(&header(4096, 9))), (1, 3, &[9][..]));
}

#[test]
fn a_stream_may_come_in_chunks_of_any_size() {
    let stream = [message(4, &[]), message(5, &[0, 2, 0, 1]), message(3, &[6, 2, 0])].concat();
    for chunk in 1..stream.len() {
        let mut framer = Framer::new();
        let mut kinds = Vec::new();
        for part in stream.chunks(chunk) {
            framer.push(part);
            while let Some(Frame { kind, body }) = framer.next().unwrap() {
                kinds.push((kind, body.len()));
            }
        }
        assert_eq!(
            kinds,
            [(MessageType::Keepalive, 0), (MessageType::RouteRefresh, 4), (MessageType::Notification, 3)]
        );
        assert_eq!(framer.buffered(), 0);
    }
}

#[test]
fn an_incomplete_message_waits() {
    let bytes = message(3, &[6, 4]);
    let mut framer = Framer::new();
    framer.push(&bytes[..20]);
    assert_eq!(framer.next(), Ok(None));
    assert_eq!(framer.buffered(), 20);
    framer.push(&bytes[20..]);
    let frame = framer.next().unwrap().unwrap();
    assert_eq!(&frame.body[..], [6, 4]);
}

#[test]
fn a_frame_from_elsewhere_is_checked_again() {
    for (kind, body) in [
        (MessageType::Keepalive, &b"x"[..]),
        (MessageType::Notification, b"\x06"),
        (MessageType::RouteRefresh, b"\0\x01\0"),
    ] {
        let frame = Frame { kind, body: Bytes::copy_from_slice(body) };
        let error = decode(&frame, &INTERNAL, &BOTH).unwrap_err();
        assert_eq!((error.notification.code, error.notification.subcode), (1, 2));
    }
}

#[test]
fn route_refresh_names_a_negotiated_family_or_none() {
    let refresh = |body: &[u8]| read_one(&message(5, body), &INTERNAL);
    assert_eq!(refresh(&[0, 2, 0, 1]), Message::RouteRefresh(Some(Family::Ipv6Unicast), Refresh::Request));
    // RFC 2918 §3: the reserved octet is ignored.
    assert_eq!(refresh(&[0, 1, 7, 1]), Message::RouteRefresh(Some(Family::Ipv4Unicast), Refresh::Unknown(7)));
    assert_eq!(refresh(&[0, 1, 0, 128]), Message::RouteRefresh(None, Refresh::Request));
    let mut framer = Framer::new();
    framer.push(&message(5, &[0, 2, 0, 1]));
    let frame = framer.next().unwrap().unwrap();
    assert_eq!(
        decode(&frame, &INTERNAL, &[Family::Ipv4Unicast]),
        Ok(Message::RouteRefresh(None, Refresh::Request))
    );
}

/// RFC 8654 §4: OPEN and KEEPALIVE have at most 4096 octets.
#[test]
fn extended_messages_once_agreed() {
    let long = message(2, &vec![0; 60_000]);
    let mut framer = Framer::new();
    framer.push(&long);
    assert_eq!(framer.next().unwrap_err().notification.subcode, 2);
    framer.extend();
    assert_eq!(framer.next().unwrap().unwrap().body.len(), 60_000);
    for kind in [1, 4] {
        let mut framer = Framer::new();
        framer.extend();
        framer.push(&message(kind, &vec![0; 5_000]));
        assert_eq!(framer.next().unwrap_err().notification.subcode, 2);
        let mut framer = Framer::new();
        framer.extend();
        framer.push(&header(4097, kind));
        assert_eq!(answer(&framer.next().unwrap_err()), (1, 2, &4097_u16.to_be_bytes()[..]));
    }
    let mut framer = Framer::new();
    framer.push(&message(1, &vec![0; 4096 - 19]));
    assert_eq!(framer.next().unwrap().unwrap().body.len(), 4096 - 19);
}

/// RFC 7313 §5: an error of its own, with the message in its data.
#[test]
fn a_refresh_of_a_wrong_length_once_agreed() {
    let bad = message(5, &[0, 1, 1, 1, 9]);
    let mut framer = Framer::new();
    framer.enhance_refresh();
    framer.push(&bad);
    let error = framer.next().unwrap_err();
    assert_eq!(answer(&error), (7, 1, &bad[..19]));
}
