//! The language of nf_tables: tables, chains, rules, sets and maps with their elements, and transactions. No program is
//! needed, and no process is started. The numbers are those of the kernel's nf_tables.h and nfnetlink.h.
//! docs/decisions/nf-tables-codec.md gives the reason for a codec of our own.

pub mod attribute;
pub mod chain;
pub mod expression;
pub mod set;
pub mod socket;
pub mod table;
pub mod transaction;

pub use chain::{Base, Chain, Rule};
pub use expression::{Expression, Register, Verdict};
pub use set::{Data, Element, ElementKey, Field, Set, Value};
pub use socket::Socket;
pub use table::{DumpedChain, DumpedSet, DumpedTable};
pub use transaction::{Operation, Transaction};

use crate::netlink::KernelError;
use heliograph_cni::codec::Message;
use nix::errno::Errno;
use std::sync::Arc;

/// The name of Heliograph's table, which is of family `inet`: the only one that is ever written.
pub const TABLE: &str = "heliograph";

/// The name of a set or chain.
pub type Name = Arc<str>;

/// The family of tables that apply to IPv4 and IPv6 (NFPROTO_INET).
const INET: u8 = 1;
/// The number of nf_tables among the subsystems of netfilter (NFNL_SUBSYS_NFTABLES).
const SUBSYSTEM: u16 = 10;
/// The length of netfilter's header, which follows that of netlink (`struct nfgenmsg`), in octets.
const FAMILY_HEADER: usize = 4;
/// The flag of a request (NLM_F_REQUEST).
const REQUEST: u16 = 1;
/// The message types of nf_tables (NFT_MSG_…).
mod kind {
    pub const NEW_TABLE: u16 = 0;
    pub const GET_TABLE: u16 = 1;
    pub const DELETE_TABLE: u16 = 2;
    pub const NEW_CHAIN: u16 = 3;
    pub const GET_CHAIN: u16 = 4;
    pub const DELETE_CHAIN: u16 = 5;
    pub const NEW_RULE: u16 = 6;
    pub const GET_RULE: u16 = 7;
    pub const DELETE_RULE: u16 = 8;
    pub const NEW_SET: u16 = 9;
    pub const GET_SET: u16 = 10;
    pub const DELETE_SET: u16 = 11;
    pub const NEW_ELEMENTS: u16 = 12;
    pub const GET_ELEMENTS: u16 = 13;
    pub const DELETE_ELEMENTS: u16 = 14;
    pub const GET_GENERATION: u16 = 16;
}

/// The attribute of a table's name. It is also the first attribute of chains, rules, sets and lists of elements.
const TABLE_NAME: u16 = 1;
/// The attribute of a table's flags (NFTA_TABLE_FLAGS).
const TABLE_FLAGS: u16 = 2;
/// The attribute of the generation (NFTA_GEN_ID).
const GENERATION: u16 = 1;
/// The attribute for one element of a list (NFTA_LIST_ELEM).
const LIST_ELEMENT: u16 = 1;
/// The attribute for a plain value (NFTA_DATA_VALUE), and that for a verdict (NFTA_DATA_VERDICT).
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;

/// Returns whether an error means that nf_tables, or the requested object, does not exist.
pub fn is_absent(error: &KernelError) -> bool {
    // Without the module, the messages of the whole subsystem are unknown: EINVAL.
    matches!(
        error.errno(),
        Some(
            Errno::ENOENT | Errno::EINVAL | Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT | Errno::EPROTONOSUPPORT
        )
    )
}

/// Begins a message of nf_tables.
fn message(kind: u16, flags: u16, attributes: &[attribute::Attribute]) -> Message {
    let mut message = Message::new((SUBSYSTEM << 8) | kind, REQUEST | flags, &[INET, 0, 0, 0]);
    attribute::write_all(attributes, &mut message);
    message
}
