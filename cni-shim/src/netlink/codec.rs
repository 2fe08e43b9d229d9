//! Netlink messages as bytes (RFC 3549 §2): a writer that keeps the lengths right, and a reader that trusts none.
//!
//! The dozen requests this plugin makes need no more than this; a whole object model of rtnetlink would be most of
//! the binary.

/// Length of `struct nlmsghdr`.
pub(super) const HEADER: usize = 16;
const ATTRIBUTE_HEADER: usize = 4;
/// Both type bits that are flags (nested, network byte order).
const ATTRIBUTE_TYPE: u16 = 0x3fff;
const NESTED: u16 = 0x8000;

const fn align(length: usize) -> usize {
    (length + 3) & !3
}

/// A request being written.
#[derive(Debug)]
pub(super) struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// Begins a message with its fixed part, say a `struct rtmsg`.
    pub fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend([0; 4]);
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend([0; 8]);
        let mut message = Self { bytes };
        message.raw(fixed);
        message
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

    pub fn attribute_u32(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_ne_bytes());
    }

    /// Appends a text with the zero the kernel expects.
    pub fn attribute_text(&mut self, kind: u16, value: &str) {
        self.with_length(kind, |message| {
            message.bytes.extend(value.as_bytes());
            message.bytes.push(0);
        });
    }

    /// Appends an attribute made of attributes.
    pub fn nested(&mut self, kind: u16, inside: impl FnOnce(&mut Self)) {
        self.with_length(kind | NESTED, inside);
    }

    fn with_length(&mut self, kind: u16, inside: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.bytes.extend([0; 2]);
        self.bytes.extend(kind.to_ne_bytes());
        inside(self);
        let length = u16::try_from(self.bytes.len() - start).expect("names, addresses and MACs are short");
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.bytes.resize(align(self.bytes.len()), 0);
    }

    /// The finished message.
    pub fn finish(mut self, sequence: u32) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len()).expect("a request is short");
        self.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.bytes
    }
}

/// A received message.
#[derive(Debug, Clone, Copy)]
pub(super) struct Received<'a> {
    pub kind: u16,
    pub flags: u16,
    pub sequence: u32,
    pub payload: &'a [u8],
}

/// Splits a datagram into its messages; stops at the first that doesn't fit.
pub(super) fn messages(mut datagram: &[u8]) -> impl Iterator<Item = Received<'_>> {
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
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)? & ATTRIBUTE_TYPE;
        let value = bytes.get(ATTRIBUTE_HEADER..length)?;
        bytes = bytes.get(align(length)..).unwrap_or_default();
        Some((kind, value))
    })
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// A text attribute's value without its zero.
pub(super) fn text(value: &[u8]) -> String {
    let end = value.iter().position(|b| *b == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_written_is_read_again() {
        let mut message = Message::new(16, 5, &[1, 2, 3, 4]);
        message.attribute_text(3, "eth0");
        message.nested(18, |m| {
            m.attribute_text(1, "veth");
            m.attribute_u32(4, 1480);
        });
        message.attribute(1, &[1, 2, 3, 4, 5, 6]);
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

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic_or_loop(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            for message in messages(&bytes) {
                attributes(message.payload).count();
            }
            attributes(&bytes).count();
        }
    }
}
