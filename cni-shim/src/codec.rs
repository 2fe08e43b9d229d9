//! Netlink messages as bytes (RFC 3549 §2): a writer that keeps the lengths right, and a reader that checks all of them.
//!
//! The plugin's dozen requests and the agent's nf_tables messages need no more than this. A full object model of
//! rtnetlink would be most of the plugin's binary.

use std::net::IpAddr;

/// The length of a message header (`struct nlmsghdr`) in octets.
pub const HEADER: usize = 16;
/// The length of an attribute header (`struct nlattr`) in octets.
const ATTRIBUTE_HEADER: usize = 4;
/// The bits of an attribute's type that are not flags (nested, network byte order).
const ATTRIBUTE_TYPE: u16 = 0x3fff;
/// The flag in an attribute's type for a value that consists of attributes (NLA_F_NESTED).
const NESTED: u16 = 0x8000;

const fn align(length: usize) -> usize {
    (length + 3) & !3
}

/// A request being written.
#[derive(Debug)]
pub struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// Begins a message with its fixed part, for example a `struct rtmsg`.
    pub fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend([0; 4]);
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        // Sequence number and port. The kernel fills in the port.
        bytes.extend([0; 8]);
        let mut message = Self { bytes };
        message.raw(fixed);
        message
    }

    /// Adds flags to those of the header.
    pub fn add_flags(&mut self, flags: u16) {
        let all = u16::from_ne_bytes([self.bytes[6], self.bytes[7]]) | flags;
        self.bytes[6..8].copy_from_slice(&all.to_ne_bytes());
    }

    /// Appends bytes as they are, padded.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
        self.bytes.resize(align(self.bytes.len()), 0);
    }

    /// Appends an attribute.
    pub fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.with_length(kind, |message| message.bytes.extend(value));
    }

    /// Appends an attribute that is a number in the host's byte order.
    pub fn attribute_u32(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_ne_bytes());
    }

    /// Appends a text with the terminating zero that the kernel expects.
    pub fn attribute_text(&mut self, kind: u16, value: &str) {
        self.with_length(kind, |message| {
            message.bytes.extend(value.as_bytes());
            message.bytes.push(0);
        });
    }

    /// Appends an attribute that consists of attributes.
    pub fn nested(&mut self, kind: u16, inside: impl FnOnce(&mut Self)) {
        self.with_length(kind | NESTED, inside);
    }

    /// # Panics
    /// The attribute is longer than 65,535 octets: callers must split longer lists.
    fn with_length(&mut self, kind: u16, inside: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.bytes.extend([0; 2]);
        self.bytes.extend(kind.to_ne_bytes());
        inside(self);
        let length = u16::try_from(self.bytes.len() - start).expect("callers split longer lists");
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.bytes.resize(align(self.bytes.len()), 0);
    }

    /// Returns the finished message.
    pub fn finish(mut self, sequence: u32) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len()).expect("a request is short");
        self.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.bytes
    }
}

/// A received message.
#[derive(Debug, Clone, Copy)]
pub struct Received<'a> {
    /// Its type (`nlmsg_type`).
    pub kind: u16,
    /// Its flags (`NLM_F_…`).
    pub flags: u16,
    /// The sequence number of the request that it answers.
    pub sequence: u32,
    /// The octets after the header.
    pub payload: &'a [u8],
}

/// Splits a datagram into its messages; stops at the first that doesn't fit.
pub fn messages(mut datagram: &[u8]) -> impl Iterator<Item = Received<'_>> {
    std::iter::from_fn(move || {
        let length = u32_at(datagram, 0)? as usize;
        let message = datagram.get(..length).filter(|m| m.len() >= HEADER)?;
        datagram = datagram.get(align(length)..).unwrap_or_default();
        Some(Received {
            kind: u16_at(message, 4)?,
            flags: u16_at(message, 6)?,
            sequence: u32_at(message, 8)?,
            payload: &message[HEADER..],
        })
    })
}

/// Splits attributes; stops at the first that doesn't fit.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)? & ATTRIBUTE_TYPE;
        let value = bytes.get(ATTRIBUTE_HEADER..length)?;
        bytes = bytes.get(align(length)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// Returns the value of the first attribute of a kind.
pub fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find_map(|(found, value)| (found == kind).then_some(value))
}

/// Returns the number at an offset, in the host's byte order.
pub fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// Returns the number at an offset, in the host's byte order.
pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Returns the text in an attribute's value, without its terminating zero.
pub fn text(value: &[u8]) -> String {
    let end = value.iter().position(|b| *b == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

/// Returns the IP address in an attribute's value; the length decides the family.
pub fn ip_address(value: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(value).ok().map(IpAddr::from);
    v4.or_else(|| <[u8; 16]>::try_from(value).ok().map(IpAddr::from))
}

/// Returns the message of an extended acknowledgement (NLMSGERR_ATTR_MSG), if there is one.
///
/// `payload` and `flags` are those of the error message. Its attributes come after the error number and the rejected
/// request, which is complete or, when the flags contain NLM_F_CAPPED, its header only.
pub fn extended_ack(payload: &[u8], flags: u16) -> Option<String> {
    const MESSAGE: u16 = 1;
    if flags & libc::NLM_F_ACK_TLVS as u16 == 0 {
        return None;
    }
    let request = if flags & libc::NLM_F_CAPPED as u16 != 0 { HEADER } else { u32_at(payload, 4)? as usize };
    find(payload.get(4 + align(request)..)?, MESSAGE).map(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn written_messages_are_read_again() {
        let mut message = Message::new(16, 4, &[1, 2, 3, 4]);
        message.attribute_text(3, "eth0");
        message.nested(18, |m| {
            m.attribute_text(1, "veth");
            m.attribute_u32(4, 1480);
        });
        message.attribute(1, &[1, 2, 3, 4, 5, 6]);
        message.add_flags(1);
        let bytes = message.finish(7);
        assert_eq!(bytes.len() % 4, 0);

        let all: Vec<_> = messages(&bytes).collect();
        assert_eq!(all.len(), 1);
        assert_eq!((all[0].kind, all[0].flags, all[0].sequence), (16, 5, 7));
        let read: Vec<_> = attributes(&all[0].payload[4..]).collect();
        assert_eq!(read.len(), 3);
        assert_eq!(text(read[0].1), "eth0");
        let inner: Vec<_> = attributes(read[1].1).collect();
        assert_eq!((read[1].0, text(inner[0].1), u32_at(inner[1].1, 0)), (18, "veth".to_owned(), Some(1480)));
        assert_eq!(read[2], (1, &[1, 2, 3, 4, 5, 6][..]));
    }

    #[test]
    fn truncated_attributes_end_the_iteration() {
        assert_eq!(attributes(&[]).count(), 0);
        assert_eq!(attributes(&[0; 4]).count(), 0, "an attribute of length 0 must not loop");
        assert_eq!(attributes(&[200, 0, 1, 0, 5]).count(), 0);
        assert_eq!(attributes(&[5, 0, 1, 0, 7]).collect::<Vec<_>>(), [(1, [7].as_slice())]);
    }

    #[test]
    fn the_extended_acknowledgement_is_found_after_the_request() {
        let mut reply = Message::new(2, 0, &[]);
        reply.attribute_u32(2, 36);
        reply.attribute_text(1, "Invalid prefix");
        let attributes = reply.finish(1).split_off(HEADER);
        let request = Message::new(24, 0, &[0; 12]).finish(1);
        for (flags, request) in [(libc::NLM_F_CAPPED, &request[..HEADER]), (0, &request[..])] {
            let mut payload = (-22i32).to_ne_bytes().to_vec();
            payload.extend(request);
            payload.extend(&attributes);
            let flags = (flags | libc::NLM_F_ACK_TLVS) as u16;
            assert_eq!(extended_ack(&payload, flags).as_deref(), Some("Invalid prefix"));
            assert_eq!(extended_ack(&payload, 0), None, "the flags announce no attributes");
            assert_eq!(extended_ack(&payload[..22], flags), None, "truncated");
        }
        assert_eq!(extended_ack(&[], (libc::NLM_F_CAPPED | libc::NLM_F_ACK_TLVS) as u16), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic_or_loop(bytes in prop::collection::vec(any::<u8>(), 0..200), flags: u16) {
            for message in messages(&bytes) {
                attributes(message.payload).count();
            }
            attributes(&bytes).count();
            extended_ack(&bytes, flags);
        }
    }
}
