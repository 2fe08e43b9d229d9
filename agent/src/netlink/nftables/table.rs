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
