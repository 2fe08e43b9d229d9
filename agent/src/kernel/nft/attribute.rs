//! Netlink attributes: length, kind and value, padded to four octets. What a value is, only the kind tells.

/// One attribute to be written, or to be looked for in what the kernel shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attribute {
    kind: u16,
    value: Value,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Value {
    Octets(Vec<u8>),
    Nested(Vec<Attribute>),
}

/// Octets of an attribute's header.
const HEADER: usize = 4;
/// The value holds attributes (netlink.h, NLA_F_NESTED).
const NESTED: u16 = 1 << 15;
/// The bits that are the kind.
const KIND_MASK: u16 = 0x3fff;

impl Attribute {
    /// Octets as they are.
    pub fn octets(kind: u16, value: impl Into<Vec<u8>>) -> Self {
        Self { kind, value: Value::Octets(value.into()) }
    }

    /// A number, in network order as nf_tables has all of them.
    pub fn number(kind: u16, value: u32) -> Self {
        Self::octets(kind, value.to_be_bytes())
    }

    /// A text, ended by a zero.
    pub fn text(kind: u16, value: &str) -> Self {
        Self::octets(kind, [value.as_bytes(), &[0]].concat())
    }

    /// Attributes in an attribute.
    pub fn nested(kind: u16, value: Vec<Attribute>) -> Self {
        Self { kind, value: Value::Nested(value) }
    }

    /// Appends it to a message. A value of more than 65,531 octets can't be said: callers divide their lists.
    pub fn write(&self, message: &mut Vec<u8>) {
        let start = message.len();
        let flag = if matches!(self.value, Value::Nested(_)) { NESTED } else { 0 };
        message.extend([0; 2]);
        message.extend((self.kind | flag).to_ne_bytes());
        match &self.value {
            Value::Octets(value) => message.extend(value),
            Value::Nested(attributes) => write_all(attributes, message),
        }
        let length = message.len() - start;
        debug_assert!(length <= usize::from(u16::MAX), "attribute {} of {length} octets", self.kind);
        message[start..start + 2].copy_from_slice(&(length as u16).to_ne_bytes());
        message.resize(start + length.next_multiple_of(4), 0);
    }

    /// Whether it is among the attributes that the kernel shows.
    pub fn is_in(&self, shown: &[u8]) -> bool {
        find(shown, self.kind).is_some_and(|value| self.is(value))
    }

    /// Whether a value that the kernel shows is this one's.
    fn is(&self, shown: &[u8]) -> bool {
        match &self.value {
            Value::Octets(value) => value == shown,
            Value::Nested(attributes) => same(attributes, shown),
        }
    }
}

/// Appends attributes to a message.
pub fn write_all(attributes: &[Attribute], message: &mut Vec<u8>) {
    attributes.iter().for_each(|attribute| attribute.write(message));
}

/// Whether what the kernel shows is what these attributes say. It adds some where it has a default, and those are zero.
pub fn same(attributes: &[Attribute], shown: &[u8]) -> bool {
    let known = |kind: u16| attributes.iter().any(|attribute| attribute.kind == kind);
    attributes.iter().all(|attribute| attribute.is_in(shown))
        && read(shown).iter().all(|(kind, value)| known(*kind) || value.iter().all(|octet| *octet == 0))
}

/// The attributes in a message, as far as they are whole.
pub fn read(mut message: &[u8]) -> Vec<(u16, &[u8])> {
    let mut found = Vec::new();
    while let [a, b, c, d, ..] = *message {
        let length = usize::from(u16::from_ne_bytes([a, b]));
        let Some(value) = message.get(HEADER..length) else { break };
        found.push((u16::from_ne_bytes([c, d]) & KIND_MASK, value));
        message = message.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

/// The value of the first attribute of a kind.
pub fn find(message: &[u8], kind: u16) -> Option<&[u8]> {
    read(message).into_iter().find_map(|(found, value)| (found == kind).then_some(value))
}

/// The text in the first attribute of a kind.
pub fn find_text(message: &[u8], kind: u16) -> Option<&str> {
    let value = find(message, kind)?;
    std::str::from_utf8(value.strip_suffix(&[0]).unwrap_or(value)).ok()
}

/// The number in the first attribute of a kind.
pub fn find_number(message: &[u8], kind: u16) -> Option<u32> {
    find(message, kind)?.try_into().ok().map(u32::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_known_again() {
        let wanted = vec![
            Attribute::text(1, "pods4"),
            Attribute::nested(3, vec![Attribute::number(2, 7), Attribute::octets(1, [9])]),
        ];
        let mut message = Vec::new();
        write_all(&wanted, &mut message);
        assert_eq!(message.len() % 4, 0);
        assert_eq!(find_text(&message, 1), Some("pods4"));
        assert_eq!(find_number(find(&message, 3).unwrap(), 2), Some(7));
        assert!(same(&wanted, &message));
        Attribute::number(5, 0).write(&mut message);
        assert!(same(&wanted, &message), "a default that the kernel adds");
        Attribute::number(6, 1).write(&mut message);
        assert!(!same(&wanted, &message), "something more than we would say");
        assert!(!same(&[Attribute::text(1, "pods6")], &message));
        assert!(!same(&wanted, &[]));
    }

    #[test]
    fn cut_off_messages_end_the_reading() {
        assert!(read(&[]).is_empty());
        assert!(read(&[0; 4]).is_empty(), "an attribute of length 0 must not loop");
        assert!(read(&[200, 0, 1, 0, 5]).is_empty());
        assert_eq!(read(&[5, 0, 1, 0, 7]), [(1, [7].as_slice())]);
    }
}
