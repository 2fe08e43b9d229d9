//! Tests of encoding and decoding, by message. Bytes are written as hex; messages of other daemons were recorded.

mod encoding;
mod framer;
mod notification;
mod open;
mod properties;
mod update;

use bytes::{Bytes, BytesMut};

use super::{Codec, Error, Family, Framer, Message, MessageType, Nlri, Prefix, decode, encode};

const BOTH: [Family; 2] = [Family::Ipv4Unicast, Family::Ipv6Unicast];

/// An internal session with 4-octet AS numbers: the usual one.
const INTERNAL: Codec = Codec { four_octet_as: true, ..Codec::DEFAULT };
const EXTERNAL: Codec = Codec { external: true, ..INTERNAL };
const OLD: Codec = Codec { four_octet_as: false, ..INTERNAL };

/// Returns bytes from hex; blanks are ignored.
fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.chars().filter_map(|c| c.to_digit(16)).map(|digit| digit as u8).collect();
    assert!(digits.len().is_multiple_of(2), "odd hex: {text}");
    digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// Returns a message with a valid header and `body`.
fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![0xff; 16];
    out.extend(u16::try_from(19 + body.len()).unwrap().to_be_bytes());
    out.push(kind);
    out.extend(body);
    out
}

/// Decodes all of `bytes`, as a session does.
fn read(bytes: &[u8], codec: &Codec) -> Result<Vec<Message>, Error> {
    let mut framer = Framer::new();
    framer.push(bytes);
    let mut messages = Vec::new();
    while let Some(frame) = framer.next()? {
        messages.push(decode(&frame, codec, &BOTH)?);
    }
    Ok(messages)
}

/// Decodes exactly one valid message.
fn read_one(bytes: &[u8], codec: &Codec) -> Message {
    let mut messages = read(bytes, codec).expect("a good message");
    assert_eq!(messages.len(), 1);
    messages.remove(0)
}

fn write(message: &Message, codec: &Codec) -> Vec<u8> {
    let mut out = BytesMut::new();
    encode(message, codec, &mut out);
    out.to_vec()
}

/// Returns code, subcode and data of the NOTIFICATION for an error.
fn answer(error: &Error) -> (u8, u8, &[u8]) {
    (error.notification.code, error.notification.subcode, &error.notification.data)
}

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

fn prefixes(texts: &[&str]) -> Vec<Nlri> {
    texts.iter().map(|text| prefix(text).into()).collect()
}
