use super::*;
use crate::wire::{Notification, cease, code, describe};

fn with(subcode: u8, data: &[u8]) -> Notification {
    Notification { code: code::CEASE, subcode, data: Bytes::copy_from_slice(data) }
}

#[test]
fn errors_have_their_registered_names() {
    assert_eq!(describe(6, 2), "Cease / Administrative Shutdown");
    assert_eq!(describe(4, 0), "Hold Timer Expired");
    assert_eq!(describe(3, 11), "UPDATE Message Error / Malformed AS_PATH");
    assert_eq!(describe(2, 77), "OPEN Message Error / subcode 77");
    assert_eq!(describe(99, 1), "error code 99 / subcode 1");
}

#[test]
fn shutdown_message_is_decoded() {
    let mut data = vec![12];
    data.extend(b"moving rooms");
    let notification = with(cease::SHUTDOWN, &data);
    assert_eq!(notification.shutdown_message().as_deref(), Some("moving rooms"));
    assert_eq!(notification.to_string(), "Cease / Administrative Shutdown (moving rooms)");
}

/// CVE-2019-16159: the length octet was trusted.
#[test]
fn shutdown_message_longer_than_its_data_is_ignored() {
    assert_eq!(with(cease::SHUTDOWN, &[255, b'a']).shutdown_message(), None);
    assert_eq!(with(cease::RESET, &[]).shutdown_message(), None);
    assert_eq!(with(cease::RESET, &[0]).shutdown_message(), None);
    assert_eq!(with(cease::DECONFIGURED, &[1, b'a']).shutdown_message(), None);
}

#[test]
fn shutdown_message_is_safe_to_print() {
    let mut data = vec![16];
    data.extend("a\u{1b}[31m\nb\u{202e}c\u{85}\u{ff}".as_bytes());
    assert_eq!(data.len(), 17);
    let text = with(cease::SHUTDOWN, &data).shutdown_message().unwrap();
    assert_eq!(text, "a\u{fffd}[31m\u{fffd}b\u{fffd}c\u{fffd}\u{ff}");
    let invalid = with(cease::SHUTDOWN, &[2, 0xff, b'x']);
    assert_eq!(invalid.shutdown_message().unwrap(), "\u{fffd}x");
}

/// CVE-2017-15865: a daemon echoed, and so leaked, a peer's data at length.
#[test]
fn data_is_limited() {
    assert_eq!(Notification::with_data(3, 1, &[7; 4000]).data.len(), 64);
    let long = Message::Notification(Notification { code: 3, subcode: 1, data: vec![7; 4000].into() });
    assert_eq!(write(&long, &INTERNAL).len(), 19 + 2 + 64);
}

#[test]
fn unknown_codes_are_accepted() {
    let read = read_one(&message(3, &[200, 201, 1, 2, 3]), &INTERNAL);
    let data = Bytes::from_static(&[1, 2, 3]);
    assert_eq!(read, Message::Notification(Notification { code: 200, subcode: 201, data }));
}

/// RFC 9003 §2: at most 255 octets of UTF-8, never half a character.
#[test]
fn our_shutdown_message_is_cut_at_a_character() {
    let message = |text: &str| Notification::with_message(cease::SHUTDOWN, text).shutdown_message();
    assert_eq!(message("maintenance").as_deref(), Some("maintenance"));
    assert_eq!(message(""), None);
    assert_eq!(message(&"ü".repeat(200)), Some("ü".repeat(127)));
    let long = Message::Notification(Notification::with_message(cease::RESET, &"x".repeat(300)));
    assert_eq!(write(&long, &INTERNAL).len(), 19 + 2 + 1 + 255);
}

/// RFC 8538 §3.1: the actual error is inside.
#[test]
fn a_hard_reset_contains_its_reason() {
    let inner = Notification::with_message(cease::SHUTDOWN, "moving");
    let hard = inner.clone().into_hard_reset();
    assert_eq!((hard.code, hard.subcode), (6, 9));
    assert_eq!(hard.hard_reset_reason(), Some(inner));
    assert_eq!(hard.to_string(), "Cease / Hard Reset: Cease / Administrative Shutdown (moving)");
    assert_eq!(with(cease::HARD_RESET, &[6]).to_string(), "Cease / Hard Reset");
    let nested = hard.clone().into_hard_reset();
    assert_eq!(nested.hard_reset_reason(), None);
    assert_eq!(nested.to_string(), "Cease / Hard Reset");
}
