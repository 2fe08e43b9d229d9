//! Transactions: lists of changes to the table that the kernel makes all at once or not at all.

use super::attribute::Attribute;
use super::set::{Element, Set};
use super::{Chain, Name, TABLE, TABLE_NAME, kind, message};
use crate::netlink::socket::acknowledged;
use heliograph_cni::codec::Message;
use std::sync::Arc;

/// The message types that begin and end a transaction (NFNL_MSG_BATCH_…).
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
/// Flags of messages.
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;
/// The number of elements in one message. Their list is one attribute of at most 65,531 octets, and an element has at most
/// 300: two keys of 64 octets, and a verdict with the name of a chain.
const ELEMENTS_PER_MESSAGE: usize = 200;

/// One change of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Add the table, if it doesn't exist yet.
    AddTable,
    /// Delete the table with everything in it.
    DeleteTable,
    /// Add a set or map.
    AddSet(Arc<Set>),
    /// Delete a set or map, which no rule uses any more, with its elements.
    DeleteSet(Name),
    /// Add elements.
    AddElements(Arc<Set>, Vec<Element>),
    /// Delete elements.
    DeleteElements(Arc<Set>, Vec<Element>),
    /// Add a chain without its rules, so that rules of others can refer to it.
    AddChain(Arc<Chain>),
    /// Append all rules of a chain.
    AddRules(Arc<Chain>),
    /// Delete all rules of a chain.
    FlushChain(Name),
    /// Delete one rule of a chain by its handle.
    DeleteRule(Name, u64),
    /// Delete a chain with its rules. No other rule leads to it any more.
    DeleteChain(Name),
}

/// A transaction.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Transaction {
    /// The changes, in order.
    pub operations: Vec<Operation>,
}

impl Transaction {
    /// Returns the messages, and for each the place of its operation. The last operation's last message requests a
    /// confirmation; it is the one before the last.
    pub(super) fn messages(&self) -> (Vec<Message>, Vec<usize>) {
        let mut messages = vec![batch(BATCH_BEGIN)];
        let mut places = vec![0];
        for (place, operation) in self.operations.iter().enumerate() {
            // A set's number only has to be unique in the transaction.
            messages.extend(operation.messages(place as u32 + 1));
            places.resize(messages.len(), place);
        }
        if let Some(last) = messages.last_mut() {
            acknowledged(last);
        }
        messages.push(batch(BATCH_END));
        (messages, places)
    }
}

/// Makes the message that begins or ends a transaction. It names the subsystem, 10 in network byte order.
fn batch(kind: u16) -> Message {
    Message::new(kind, super::REQUEST, &[0, 0, 0, 10])
}

impl Operation {
    fn messages(&self, number: u32) -> Vec<Message> {
        let table = || vec![Attribute::text(TABLE_NAME, TABLE)];
        let (kind, flags, attributes) = match self {
            Operation::AddTable => (kind::NEW_TABLE, CREATE, table()),
            Operation::DeleteTable => (kind::DELETE_TABLE, 0, table()),
            Operation::AddSet(set) => (kind::NEW_SET, CREATE, set.attributes(number)),
            Operation::DeleteSet(name) => (kind::DELETE_SET, 0, Set::named(name).to_vec()),
            Operation::AddElements(set, elements) => return lists(kind::NEW_ELEMENTS, CREATE, set, elements),
            Operation::DeleteElements(set, elements) => {
                return lists(kind::DELETE_ELEMENTS, 0, set, elements);
            }
            Operation::AddChain(chain) => (kind::NEW_CHAIN, CREATE, chain.attributes()),
            Operation::AddRules(chain) => {
                let rule = |rule: &super::Rule| {
                    message(kind::NEW_RULE, CREATE | APPEND, &rule.attributes(&chain.name))
                };
                return chain.rules.iter().map(rule).collect();
            }
            Operation::FlushChain(name) => (kind::DELETE_RULE, 0, Chain::rules_of(name, None)),
            Operation::DeleteRule(name, handle) => {
                (kind::DELETE_RULE, 0, Chain::rules_of(name, Some(*handle)))
            }
            Operation::DeleteChain(name) => (kind::DELETE_CHAIN, 0, Chain::named(name).to_vec()),
        };
        vec![message(kind, flags, &attributes)]
    }
}

fn lists(kind: u16, flags: u16, set: &Set, elements: &[Element]) -> Vec<Message> {
    elements.chunks(ELEMENTS_PER_MESSAGE).map(|elements| message(kind, flags, &set.list(elements))).collect()
}
