//! The table as the kernel returns it.

use super::Name;

/// The table in the kernel.
#[derive(Debug, Clone, Default)]
pub struct DumpedTable {
    /// The flags of the table; none is set in one that Heliograph wrote.
    pub flags: u32,
    /// The sets and maps.
    pub sets: Vec<DumpedSet>,
    /// The chains.
    pub chains: Vec<DumpedChain>,
}

/// A set in the kernel.
#[derive(Debug, Clone, Default)]
pub struct DumpedSet {
    /// The name.
    pub name: String,
    /// The attributes of its definition.
    pub attributes: Vec<u8>,
    /// The lists of its elements, each as its attributes.
    pub elements: Vec<Vec<u8>>,
}

/// A chain in the kernel.
#[derive(Debug, Clone, Default)]
pub struct DumpedChain {
    /// The name.
    pub name: Name,
    /// The attributes of its definition.
    pub attributes: Vec<u8>,
    /// The rules in order, each as its attributes.
    pub rules: Vec<Vec<u8>>,
}

/// The table as a fake kernel returns it.
#[cfg(test)]
pub mod testing {
    use super::super::attribute::{Attribute, write_all};
    use super::super::{Chain, Element, Rule, Set};
    use super::{DumpedChain, DumpedSet};
    use heliograph_cni::codec::{HEADER, Message};

    fn encoded(attributes: &[Attribute]) -> Vec<u8> {
        let mut message = Message::new(0, 0, &[]);
        write_all(attributes, &mut message);
        message.finish(1).split_off(HEADER)
    }

    /// Returns a set with its elements.
    pub fn set(set: &Set, elements: &[Element]) -> DumpedSet {
        let elements = elements.chunks(100).map(|elements| encoded(&set.list(elements))).collect();
        DumpedSet { name: set.name.to_string(), attributes: encoded(&set.attributes(1)), elements }
    }

    /// Returns a chain with rules.
    pub fn chain(chain: &Chain, rules: &[Rule]) -> DumpedChain {
        let rules = rules.iter().map(|rule| self::rule(chain, rule)).collect();
        DumpedChain { name: chain.name.clone(), attributes: encoded(&chain.attributes()), rules }
    }

    /// Returns a rule.
    pub fn rule(chain: &Chain, rule: &Rule) -> Vec<u8> {
        encoded(&rule.attributes(&chain.name))
    }
}
