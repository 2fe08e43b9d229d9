//! Attributes to write to nf_tables, and to compare with those that it returns.

use heliograph_cni::codec::{Message, attributes, find};

/// One attribute.
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

impl Attribute {
    /// Makes an attribute of octets.
    pub fn octets(kind: u16, value: impl Into<Vec<u8>>) -> Self {
        Self { kind, value: Value::Octets(value.into()) }
    }

    /// Makes an attribute of a number, in network byte order, which nf_tables uses for all numbers.
    pub fn number(kind: u16, value: u32) -> Self {
        Self::octets(kind, value.to_be_bytes())
    }

    /// Makes an attribute of a text, with a terminating zero.
    pub fn text(kind: u16, value: &str) -> Self {
        Self::octets(kind, [value.as_bytes(), &[0]].concat())
    }

    /// Makes an attribute of attributes.
    pub fn nested(kind: u16, value: Vec<Attribute>) -> Self {
        Self { kind, value: Value::Nested(value) }
    }

    /// Returns the type.
    pub fn kind(&self) -> u16 {
        self.kind
    }

    /// Appends it to a message. A value has at most 65,531 octets: callers split longer lists.
    pub fn write(&self, message: &mut Message) {
        match &self.value {
            Value::Octets(value) => message.attribute(self.kind, value),
            Value::Nested(attributes) => message.nested(self.kind, |message| write_all(attributes, message)),
        }
    }

    /// Returns whether the attributes that the kernel returned contain this one.
    pub fn is_in(&self, actual: &[u8]) -> bool {
        find(actual, self.kind).is_some_and(|value| self.has_value(value))
    }

    fn has_value(&self, actual: &[u8]) -> bool {
        match &self.value {
            Value::Octets(value) => value == actual,
            Value::Nested(attributes) => same(attributes, actual),
        }
    }
}

/// Appends attributes to a message.
pub fn write_all(attributes: &[Attribute], message: &mut Message) {
    attributes.iter().for_each(|attribute| attribute.write(message));
}

/// Returns whether the attributes that the kernel returned are these. The kernel adds attributes with default values, which
/// are zero.
pub fn same(desired: &[Attribute], actual: &[u8]) -> bool {
    let is_desired = |kind: u16| desired.iter().any(|attribute| attribute.kind == kind);
    desired.iter().all(|attribute| attribute.is_in(actual))
        && attributes(actual).all(|(kind, value)| is_desired(kind) || value.iter().all(|octet| *octet == 0))
}

/// Returns the text in the first attribute of a kind.
pub fn find_text(attributes: &[u8], kind: u16) -> Option<&str> {
    let value = find(attributes, kind)?;
    std::str::from_utf8(value.strip_suffix(&[0]).unwrap_or(value)).ok()
}

/// Returns the number in the first attribute of a kind.
pub fn find_number(attributes: &[u8], kind: u16) -> Option<u32> {
    find(attributes, kind)?.try_into().ok().map(u32::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use heliograph_cni::codec::HEADER;

    #[test]
    fn written_attributes_are_found_and_compared() {
        let desired = vec![
            Attribute::text(1, "pods4"),
            Attribute::nested(3, vec![Attribute::number(2, 7), Attribute::octets(1, [9])]),
        ];
        let written = |more: &[Attribute]| {
            let mut message = Message::new(0, 0, &[]);
            write_all(&desired, &mut message);
            write_all(more, &mut message);
            message.finish(1).split_off(HEADER)
        };
        let actual = written(&[]);
        assert_eq!(actual.len() % 4, 0);
        assert_eq!(find_text(&actual, 1), Some("pods4"));
        assert_eq!(find_number(find(&actual, 3).unwrap(), 2), Some(7));
        assert!(same(&desired, &actual));
        let default = Attribute::number(5, 0);
        assert!(same(&desired, &written(std::slice::from_ref(&default))), "a default that the kernel adds");
        assert!(!same(&desired, &written(&[default, Attribute::number(6, 1)])), "one attribute more");
        assert!(!same(&[Attribute::text(1, "pods6")], &actual));
        assert!(!same(&desired, &[]));
    }
}
