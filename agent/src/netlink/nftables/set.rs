//! Sets and maps, and their elements.

use super::attribute::{Attribute, find_number, find_text};
use super::expression::Verdict;
use super::{DATA_VALUE, DATA_VERDICT, LIST_ELEMENT, Name, TABLE};
use heliograph_cni::codec::{attributes, find};

/// Attributes of a set (NFTA_SET_…), and of lists of elements (NFTA_SET_ELEM_LIST_…).
const SET_TABLE: u16 = 1;
pub(super) const SET_NAME: u16 = 2;
const SET_FLAGS: u16 = 3;
const SET_KEY_TYPE: u16 = 4;
const SET_KEY_LENGTH: u16 = 5;
const SET_DATA_TYPE: u16 = 6;
const SET_DATA_LENGTH: u16 = 7;
const SET_DESCRIPTION: u16 = 9;
const SET_ID: u16 = 10;
const DESCRIPTION_CONCATENATION: u16 = 2;
const FIELD_LENGTH: u16 = 1;
const ELEMENTS_SET: u16 = 2;
const ELEMENTS: u16 = 3;
/// Attributes of an element (NFTA_SET_ELEM_…).
const ELEMENT_KEY: u16 = 1;
const ELEMENT_DATA: u16 = 2;
const ELEMENT_FLAGS: u16 = 3;
const ELEMENT_KEY_END: u16 = 10;
/// Flags of a set (NFT_SET_…).
const INTERVALS: u32 = 4;
const MAP: u32 = 8;
const CONCATENATION: u32 = 0x80;
/// The flag of an element that is the first value after a range (NFT_SET_ELEM_INTERVAL_END).
const RANGE_END: u32 = 1;
/// The type of data that is a verdict (NFT_DATA_VERDICT).
const VERDICT: u32 = 0xffff_ff00;

/// The type of a value, by the number that `nft` uses, and its length in octets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    kind: u32,
    length: u32,
}

impl Field {
    /// An IPv4 address.
    pub const IPV4: Self = Self { kind: 7, length: 4 };
    /// An IPv6 address.
    pub const IPV6: Self = Self { kind: 8, length: 16 };
    /// An IP protocol number.
    pub const PROTOCOL: Self = Self { kind: 12, length: 1 };
    /// A port.
    pub const PORT: Self = Self { kind: 13, length: 2 };
    /// A mark.
    pub const MARK: Self = Self { kind: 19, length: 4 };
    /// The index of an interface.
    pub const INTERFACE: Self = Self { kind: 20, length: 4 };
}

/// The length of a field in a key or register: a multiple of four octets.
const fn padded(length: u32) -> u32 {
    length.next_multiple_of(4)
}

/// Returns the type of one field or of a concatenation, which has six bits for each.
fn type_of(fields: &[Field]) -> u32 {
    fields.iter().fold(0, |kind, field| (kind << 6) | field.kind)
}

/// Returns the length of one field, or the padded one of a concatenation.
fn length_of(fields: &[Field]) -> u32 {
    match fields {
        [single] => single.length,
        several => several.iter().map(|field| padded(field.length)).sum(),
    }
}

/// The data of a map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// Values of these fields.
    Fields(Vec<Field>),
    /// Verdicts.
    Verdict,
}

/// A set or map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// The name.
    pub name: Name,
    /// The fields of a key: several are a concatenation.
    pub key: Vec<Field>,
    /// Set if elements can be ranges.
    pub intervals: bool,
    /// The data, if it is a map.
    pub data: Option<Data>,
}

impl Set {
    /// Makes a set of single values of one field.
    pub fn of(name: &str, field: Field) -> Self {
        Self { name: name.into(), key: vec![field], intervals: false, data: None }
    }

    /// Makes a set of ranges of one field.
    pub fn of_ranges(name: &str, field: Field) -> Self {
        Self { intervals: true, ..Self::of(name, field) }
    }

    /// Returns whether ranges are two elements in the kernel, the first value and the first after the last. Otherwise both
    /// ends are in one element.
    fn has_two_ends(&self) -> bool {
        self.intervals && self.key.len() == 1
    }

    /// Returns the attributes of a set's name and table.
    pub(super) fn named(name: &str) -> [Attribute; 2] {
        [Attribute::text(SET_TABLE, TABLE), Attribute::text(SET_NAME, name)]
    }

    /// Returns the attributes that select the elements of a set.
    pub(super) fn elements_of(name: &str) -> [Attribute; 2] {
        [Attribute::text(SET_TABLE, TABLE), Attribute::text(ELEMENTS_SET, name)]
    }

    fn flags(&self) -> u32 {
        let intervals = if self.intervals { INTERVALS } else { 0 };
        let concatenation = if self.intervals && self.key.len() > 1 { CONCATENATION } else { 0 };
        intervals | concatenation | if self.data.is_some() { MAP } else { 0 }
    }

    fn definition(&self) -> Vec<Attribute> {
        let concatenated = self.key.len() > 1;
        let mut attributes = vec![
            Attribute::number(SET_FLAGS, self.flags()),
            Attribute::number(SET_KEY_TYPE, type_of(&self.key)),
            Attribute::number(SET_KEY_LENGTH, length_of(&self.key)),
        ];
        match &self.data {
            Some(Data::Fields(fields)) => attributes.extend([
                Attribute::number(SET_DATA_TYPE, type_of(fields)),
                Attribute::number(SET_DATA_LENGTH, length_of(fields)),
            ]),
            Some(Data::Verdict) => attributes.push(Attribute::number(SET_DATA_TYPE, VERDICT)),
            None => {}
        }
        if self.intervals && concatenated {
            let field = |field: &Field| {
                Attribute::nested(LIST_ELEMENT, vec![Attribute::number(FIELD_LENGTH, field.length)])
            };
            let fields = Attribute::nested(DESCRIPTION_CONCATENATION, self.key.iter().map(field).collect());
            attributes.push(Attribute::nested(SET_DESCRIPTION, vec![fields]));
        }
        attributes
    }

    /// Returns the attributes of the set. The number identifies it within a transaction.
    pub(super) fn attributes(&self, number: u32) -> Vec<Attribute> {
        let named = Self::named(&self.name).into_iter();
        named.chain(self.definition()).chain([Attribute::number(SET_ID, number)]).collect()
    }

    /// Returns whether this is the definition that the kernel returned.
    pub fn is(&self, actual: &[u8]) -> bool {
        // The kernel adds the size to the description, and doesn't return the fields of a set without ranges.
        let required = |attribute: &&Attribute| !matches!(attribute.kind(), SET_DESCRIPTION | SET_FLAGS);
        // Flags that are zero are left out.
        find_number(actual, SET_FLAGS).unwrap_or(0) == self.flags()
            && self.definition().iter().filter(required).all(|attribute| attribute.is_in(actual))
            && self.data.is_some() == find(actual, SET_DATA_TYPE).is_some()
    }

    /// Returns the attributes of a list of elements. They must fit into 65,531 octets.
    pub(super) fn list(&self, elements: &[Element]) -> Vec<Attribute> {
        let list = elements.iter().flat_map(|element| self.encode(element)).collect();
        Self::elements_of(&self.name).into_iter().chain([Attribute::nested(ELEMENTS, list)]).collect()
    }

    fn encode(&self, element: &Element) -> Vec<Attribute> {
        let key = |kind, octets: &[u8]| Attribute::nested(kind, vec![Attribute::octets(DATA_VALUE, octets)]);
        let ElementKey { first, last } = &element.key;
        let mut attributes = vec![key(ELEMENT_KEY, first)];
        let mut end = None;
        if self.has_two_ends() {
            attributes.push(Attribute::number(ELEMENT_FLAGS, 0));
            end = after(last.as_ref().unwrap_or(first));
        } else if self.intervals {
            attributes.push(key(ELEMENT_KEY_END, last.as_ref().unwrap_or(first)));
        }
        match &element.value {
            Some(Value::Octets(octets)) => attributes.push(key(ELEMENT_DATA, octets)),
            Some(Value::Verdict(verdict)) => {
                let verdict = Attribute::nested(DATA_VERDICT, verdict.attributes());
                attributes.push(Attribute::nested(ELEMENT_DATA, vec![verdict]));
            }
            None => {}
        }
        let end = end.map(|end| vec![key(ELEMENT_KEY, &end), Attribute::number(ELEMENT_FLAGS, RANGE_END)]);
        let all = [Some(attributes), end].into_iter().flatten();
        all.map(|attributes| Attribute::nested(LIST_ELEMENT, attributes)).collect()
    }

    /// Decodes the lists of elements that the kernel returned. An element that a value can't describe is left out, and the
    /// result's flag is set.
    pub fn decode(&self, lists: &[Vec<u8>]) -> (Vec<Element>, bool) {
        let mut parts: Vec<(Box<[u8]>, bool, Element)> = Vec::new();
        let mut unknown = false;
        let octets =
            |element: &[u8], kind| Some(find(find(element, kind)?, DATA_VALUE)?.to_vec().into_boxed_slice());
        for list in lists {
            for (_, element) in attributes(find(list, ELEMENTS).unwrap_or_default()) {
                let Some(first) = octets(element, ELEMENT_KEY) else {
                    unknown = true;
                    continue;
                };
                let flags = find_number(element, ELEMENT_FLAGS).unwrap_or(0);
                unknown |= flags & !RANGE_END != 0;
                let value = find(element, ELEMENT_DATA).map(Value::decode);
                unknown |= value == Some(None);
                // A single value in a set of ranges is a range of one.
                let last = octets(element, ELEMENT_KEY_END).or_else(|| self.intervals.then(|| first.clone()));
                let key = ElementKey { first: first.clone(), last };
                parts.push((first, flags & RANGE_END == 0, Element { key, value: value.flatten() }));
            }
        }
        if !self.has_two_ends() {
            return (parts.into_iter().map(|(.., element)| element).collect(), unknown);
        }
        // If one range ends and the next begins at a value, the end comes first.
        parts.sort_by(|a, b| (&a.0, a.1).cmp(&(&b.0, b.1)));
        let mut elements: Vec<Element> = Vec::new();
        let mut open: Option<Element> = None;
        for (first, begins, element) in parts {
            // A range ends at its end, or where the next one begins.
            if let Some(mut range) = open.take() {
                range.key.last = before(&first);
                elements.push(range);
            }
            if begins {
                open = Some(element);
            }
        }
        if let Some(mut range) = open {
            range.key.last = Some(vec![255; range.key.first.len()].into());
            elements.push(range);
        }
        (elements, unknown)
    }
}

/// The key of an element: one value, or in a set of ranges the first and the last one. The fields of a concatenation are
/// padded to multiples of four octets.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ElementKey {
    /// The value, or the first of a range.
    pub first: Box<[u8]>,
    /// The last value, in a set of ranges.
    pub last: Option<Box<[u8]>>,
}

impl ElementKey {
    /// Makes a key of the octets of each field.
    pub fn of(fields: &[&[u8]]) -> Self {
        Self { first: concatenated(fields), last: None }
    }

    /// Makes a key of a range: for each field, the first and the last value.
    pub fn range(first: &[&[u8]], last: &[&[u8]]) -> Self {
        Self { first: concatenated(first), last: Some(concatenated(last)) }
    }

    /// Returns whether the range contains another one.
    pub fn contains(&self, other: &Self) -> bool {
        self.first <= other.first && other.end() <= self.end()
    }

    /// Returns whether the range and another one have common values.
    pub fn overlaps(&self, other: &Self) -> bool {
        *self.first <= *other.end() && *other.first <= *self.end()
    }

    fn end(&self) -> &[u8] {
        self.last.as_deref().unwrap_or(&self.first)
    }
}

fn concatenated(fields: &[&[u8]]) -> Box<[u8]> {
    if let [single] = fields {
        return (*single).into();
    }
    let mut octets = Vec::new();
    for field in fields {
        octets.extend_from_slice(field);
        octets.resize(octets.len().next_multiple_of(4), 0);
    }
    octets.into()
}

/// The data of a map's element.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Octets, as in a key.
    Octets(Box<[u8]>),
    /// A verdict.
    Verdict(Verdict),
}

impl Value {
    /// Makes a value of the octets of each field.
    pub fn of(fields: &[&[u8]]) -> Self {
        Self::Octets(concatenated(fields))
    }

    fn decode(data: &[u8]) -> Option<Self> {
        match find(data, DATA_VERDICT) {
            Some(verdict) => Verdict::decode(verdict).map(Value::Verdict),
            None => Some(Value::Octets(find(data, DATA_VALUE)?.into())),
        }
    }
}

/// An element of a set or map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    /// The key.
    pub key: ElementKey,
    /// The data, in a map.
    pub value: Option<Value>,
}

/// Returns the next value; `None` after the last.
fn after(value: &[u8]) -> Option<Box<[u8]>> {
    let mut next: Box<[u8]> = value.into();
    for octet in next.iter_mut().rev() {
        *octet = octet.wrapping_add(1);
        if *octet != 0 {
            return Some(next);
        }
    }
    None
}

/// Returns the previous value; `None` before the first.
fn before(value: &[u8]) -> Option<Box<[u8]>> {
    let mut previous: Box<[u8]> = value.into();
    for octet in previous.iter_mut().rev() {
        *octet = octet.wrapping_sub(1);
        if *octet != 255 {
            return Some(previous);
        }
    }
    None
}

/// Returns the name of a set that the kernel returned.
pub(super) fn name_of(set: &[u8]) -> Option<&str> {
    find_text(set, SET_NAME)
}

#[cfg(test)]
mod tests {
    use super::*;
    use heliograph_cni::codec::{HEADER, Message};
    use proptest::prelude::*;

    /// Returns a list of elements as the kernel returns it.
    fn listed(set: &Set, elements: &[Element]) -> Vec<u8> {
        let mut message = Message::new(0, 0, &[]);
        super::super::attribute::write_all(&set.list(elements), &mut message);
        message.finish(1).split_off(HEADER)
    }

    fn range(first: u8, last: u8) -> Element {
        let at = |last: u8| [10, 0, 0, last];
        Element { key: ElementKey::range(&[&at(first)], &[&at(last)]), value: None }
    }

    #[test]
    fn elements_are_read_as_they_were_written() {
        let ports = Set {
            name: "ports".into(),
            key: vec![Field::IPV4, Field::PROTOCOL, Field::PORT],
            intervals: true,
            data: Some(Data::Verdict),
        };
        let key = ElementKey::range(&[&[10, 0, 0, 0], &[6], &[0, 80]], &[&[10, 0, 0, 255], &[6], &[0, 90]]);
        assert_eq!(key.first.len(), 12);
        for verdict in [Verdict::Accept, Verdict::Drop, Verdict::Return, Verdict::Jump("next".into())] {
            let element = Element { key: key.clone(), value: Some(Value::Verdict(verdict)) };
            let (read, unknown) = ports.decode(&[listed(&ports, std::slice::from_ref(&element))]);
            assert_eq!((read, unknown), (vec![element], false));
        }
        let backends = Set {
            name: "backends".into(),
            key: vec![Field::MARK],
            intervals: false,
            data: Some(Data::Fields(vec![Field::IPV4, Field::PORT])),
        };
        let value = Some(Value::of(&[&[10, 1, 0, 2], &[31, 144]]));
        let element = Element { key: ElementKey::of(&[&[0, 0, 0, 7]]), value };
        assert_eq!(
            backends.decode(&[listed(&backends, std::slice::from_ref(&element))]),
            (vec![element], false)
        );
    }

    #[test]
    fn the_last_range_needs_no_end() {
        let set = Set::of_ranges("all", Field::IPV4);
        let all = Element { key: ElementKey::range(&[&[0; 4]], &[&[255; 4]]), value: None };
        assert_eq!(set.decode(&[listed(&set, std::slice::from_ref(&all))]), (vec![all], false));
        assert!(after(&[255, 255]).is_none() && before(&[0, 0]).is_none());
        assert_eq!(after(&[1, 255]).as_deref(), Some([2, 0].as_slice()));
        assert_eq!(before(&[2, 0]).as_deref(), Some([1, 255].as_slice()));
    }

    #[test]
    fn keys_overlap_and_contain() {
        let [outer, inner, other] = [range(0, 9), range(3, 4), range(10, 12)].map(|element| element.key);
        assert!(outer.contains(&inner) && outer.overlaps(&inner) && inner.overlaps(&outer));
        assert!(!inner.contains(&outer) && !outer.overlaps(&other));
    }

    proptest! {
        #[test]
        fn ranges_that_touch_stay_apart(cuts in proptest::collection::btree_set(0..200u8, 0..12)) {
            let set = Set::of_ranges("ranges", Field::IPV4);
            let cuts: Vec<u8> = cuts.into_iter().collect();
            let ranges: Vec<Element> = cuts.windows(2).map(|pair| range(pair[0], pair[1] - 1)).collect();
            prop_assert_eq!(set.decode(&[listed(&set, &ranges)]), (ranges, false));
        }
    }
}
